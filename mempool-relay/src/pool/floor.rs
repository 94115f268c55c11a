//! The least gas price a full pool takes.

use std::time::{Duration, Instant};

/// Rises above whatever was evicted and decays by half every half-life, so that room that nobody
/// pays for is not refused for long (the rolling minimum fee of Bitcoin Core's mempool).
#[derive(Debug, Clone)]
pub(super) struct Floor {
    price: f64,
    since: Option<Instant>,
    half_life: Duration,
}

impl Floor {
    pub(super) fn new(half_life: Duration) -> Self {
        Self { price: 0.0, since: None, half_life }
    }

    /// Base units per gas. `half_empty` pools decay four times as fast. Below 1 it is 0.
    pub(super) fn price(&self, half_empty: bool, now: Instant) -> u64 {
        let Some(since) = self.since else { return 0 };
        let half_life = if half_empty { self.half_life / 4 } else { self.half_life };
        let halvings = now.saturating_duration_since(since).as_secs_f64() / half_life.as_secs_f64();
        (self.price * (-halvings).exp2()) as u64
    }

    /// After an eviction at `evicted`: whoever comes next must pay `needed` or more, or the same
    /// bytes could be relayed again and again for nothing.
    pub(super) fn raise(&mut self, needed: u64, half_empty: bool, now: Instant) {
        let needed = needed.max(self.price(half_empty, now));
        (self.price, self.since) = (needed as f64, Some(now));
    }

    /// Fixes the decay so far, before the pool's filling changes how fast it goes on.
    pub(super) fn settle(&mut self, half_empty: bool, now: Instant) {
        if let Some(since) = self.since {
            let price = self.price(half_empty, now);
            // Rounding down at every call must not outrun the decay.
            if price == 0 {
                self.since = None;
            } else if price as f64 <= self.price / 2.0 {
                (self.price, self.since) = (price as f64, Some(now.max(since)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_vanishes() {
        let start = Instant::now();
        let mut floor = Floor::new(Duration::from_secs(60));
        assert_eq!(floor.price(false, start), 0);
        floor.raise(1000, false, start);
        assert_eq!(floor.price(false, start), 1000);
        assert_eq!(floor.price(false, start + Duration::from_secs(60)), 500);
        assert_eq!(floor.price(true, start + Duration::from_secs(15)), 500);
        assert_eq!(floor.price(false, start + Duration::from_secs(600)), 0);
        floor.settle(false, start + Duration::from_secs(120));
        assert_eq!(floor.price(false, start + Duration::from_secs(180)), 125);
        // A lower eviction does not lower it.
        floor.raise(10, false, start + Duration::from_secs(180));
        assert_eq!(floor.price(false, start + Duration::from_secs(180)), 125);
    }
}

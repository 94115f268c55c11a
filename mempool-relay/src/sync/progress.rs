use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Where the node stands against its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// Nobody to compare with.
    NoPeers,
    /// A peer claims a block we do not have and has not failed to show it three times.
    Syncing,
    /// No such claim is left.
    Synced,
}

/// Figures for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyncProgress {
    /// See there.
    pub state: SyncState,
    /// Height of our head.
    pub height: u64,
    /// Height we are on the way to: of checked headers, and while more are being asked for, of what the leading
    /// peer claims. Our own height when synced.
    pub target: u64,
    /// Headers checked and not imported yet.
    pub headers_ahead: usize,
    /// Bytes of bodies asked for, received or being imported.
    pub window_bytes: usize,
    /// Blocks imported per second, over the last ten seconds.
    pub blocks_per_second: f64,
    /// Bytes of those.
    pub bytes_per_second: f64,
    /// Peers with a block request in flight.
    pub peers_serving: usize,
}

const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(1);

/// Counts imports in ten buckets of a second each.
#[derive(Debug)]
pub(crate) struct Speed {
    buckets: VecDeque<(u64, u64)>,
    newest: Instant,
}

impl Speed {
    pub(crate) fn new(now: Instant) -> Self {
        Self { buckets: VecDeque::from([(0, 0)]), newest: now }
    }

    pub(crate) fn count(&mut self, bytes: usize, now: Instant) {
        let idle = now.saturating_duration_since(self.newest).as_secs();
        for _ in 0..idle.min(BUCKETS as u64) {
            self.buckets.push_back((0, 0));
        }
        self.newest += BUCKET * u32::try_from(idle).unwrap_or(u32::MAX);
        while self.buckets.len() > BUCKETS {
            self.buckets.pop_front();
        }
        if let Some((blocks, sum)) = self.buckets.back_mut() {
            *blocks += 1;
            *sum += bytes as u64;
        }
    }

    /// Blocks and bytes per second.
    pub(crate) fn rates(&self, now: Instant) -> (f64, f64) {
        let into = now.saturating_duration_since(self.newest).as_secs_f64();
        let outdated = into as usize;
        let counted = self.buckets.iter().skip((self.buckets.len() + outdated).saturating_sub(BUCKETS));
        let (blocks, bytes) = counted.fold((0, 0), |sum, bucket| (sum.0 + bucket.0, sum.1 + bucket.1));
        let span = ((self.buckets.len() - 1) as f64 + into).clamp(1.0, BUCKETS as f64);
        (blocks as f64 / span, bytes as f64 / span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_read_and_fades() {
        let start = Instant::now();
        let mut speed = Speed::new(start);
        for n in 0..3_000u32 {
            speed.count(500, start + Duration::from_millis(10) * n);
        }
        let end = start + Duration::from_secs(30);
        let (blocks, bytes) = speed.rates(end);
        assert!((90.0..=110.0).contains(&blocks), "{blocks}");
        assert!((45_000.0..=55_000.0).contains(&bytes), "{bytes}");
        assert!(speed.buckets.len() <= BUCKETS);
        assert_eq!(speed.rates(end + Duration::from_secs(11)).0, 0.0);
    }
}

//! When to announce on a link, and what waits until then.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Longest wait between two announcements on a busy link. 50 ms is where bytes stop falling and
/// delay goes on rising (1,000 simulated nodes, 100 tx/s: 3.5 × the bytes of the transaction on the
/// wire at 50 ms, 3.1 × at 100 ms for 22 ms more at the 99th percentile).
pub const ANNOUNCE_GAP_MAX: Duration = Duration::from_millis(50);

/// Wait for each announced transaction per second, in seconds: at 100/s it makes 10 ms, at 500/s the
/// longest. A datagram costs each end about 10 µs, a short id in it a tenth of that: with a gap of the
/// round trip alone, 16 nodes on one machine spent two cores on datagrams of one short id each.
const GAP_PER_RATE: f64 = 1e-4;

/// The rate is a mean over about this long.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// Paces the announcements of one link: at once while it is idle; while it is busy, a gap of a
/// round trip (what a fetch takes anyway) and more under load, at most [`ANNOUNCE_GAP_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
    /// Transactions per second.
    rate: f64,
}

impl Pace {
    /// When the next announcement may go.
    pub(crate) fn next(&self, rtt: Duration, now: Instant) -> Instant {
        let gap = (rtt + Duration::from_secs_f64(self.rate * GAP_PER_RATE)).min(ANNOUNCE_GAP_MAX);
        self.last.map_or(now, |last| now.max(last + gap))
    }

    /// `count` transactions were announced.
    pub(crate) fn sent(&mut self, count: usize, now: Instant) {
        let window = RATE_WINDOW.as_secs_f64();
        let since = self.last.map_or(window, |last| now.saturating_duration_since(last).as_secs_f64());
        self.rate = self.rate * (-since / window).exp() + count as f64 / window;
        self.last = Some(now);
    }
}

/// Most transactions that wait to be announced on one link: 4 s at 2,000 tx/s; 8,192 × 8 B = 64 KiB.
pub const QUEUE_MAX: usize = 8192;

/// What waits to be announced on one link.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: VecDeque<T>,
    /// Something did not fit since this was last cleared: the walk over all held transactions finds
    /// it, because it is not marked as known.
    pub(crate) overflowed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), overflowed: false }
    }
}

impl<T> Queue<T> {
    /// False if it did not fit.
    pub(crate) fn push(&mut self, what: T) -> bool {
        if self.waiting.len() >= QUEUE_MAX {
            self.overflowed = true;
            return false;
        }
        self.waiting.push_back(what);
        true
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.waiting.pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.overflowed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);

    #[test]
    fn an_idle_link_announces_at_once_and_a_busy_one_waits() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.next(RTT, now), now);
        pace.sent(1, now);
        assert_eq!(pace.next(RTT, now), now + ANNOUNCE_GAP_MAX);
        let later = now + ANNOUNCE_GAP_MAX;
        assert_eq!(pace.next(RTT, later), later);
    }

    #[test]
    fn the_gap_follows_round_trip_and_load_and_has_a_limit() {
        let mut now = Instant::now();
        let short = Duration::from_micros(200);
        let mut pace = Pace::default();
        pace.sent(1, now);
        assert!(pace.next(short, now) - now < Duration::from_micros(350));
        for _ in 0..300 {
            now += Duration::from_millis(20);
            pace.sent(2, now);
        }
        let gap = pace.next(short, now) - now;
        assert!((9.5..11.5).contains(&(gap.as_secs_f64() * 1e3)), "{gap:?} at 100 per second");
        for _ in 0..300 {
            now += Duration::from_millis(20);
            pace.sent(11, now);
        }
        assert_eq!(pace.next(short, now) - now, ANNOUNCE_GAP_MAX, "at 550 per second");
    }

    #[test]
    fn the_queue_is_bounded_and_says_so() {
        let mut queue = Queue::default();
        for n in 0..QUEUE_MAX {
            assert!(queue.push(n));
        }
        assert!(!queue.overflowed);
        assert!(!queue.push(0));
        assert!(queue.overflowed);
        assert_eq!(queue.len(), QUEUE_MAX);
    }
}

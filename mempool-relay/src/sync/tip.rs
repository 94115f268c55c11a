use std::time::{Duration, Instant};

/// Shortest time without a new head after which peers are asked for news: 30 s. Ten slots if that is longer.
pub const STALE_TIP_MIN: Duration = Duration::from_secs(30);
const STALE_TIP_SLOTS: u32 = 10;

/// Watches for a head that does not move. Every slot has a block, so silence means that the authorities are
/// down or that our peers keep us behind; only asking others can tell.
#[derive(Debug)]
pub(crate) struct TipWatch {
    moved: Instant,
    alarm: Instant,
    patience: Duration,
}

impl TipWatch {
    pub(crate) fn new(slot: Duration, now: Instant) -> Self {
        let patience = (slot * STALE_TIP_SLOTS).max(STALE_TIP_MIN);
        Self { moved: now, alarm: now + patience, patience }
    }

    pub(crate) fn moved(&mut self, now: Instant) {
        self.moved = now;
        self.alarm = now + self.patience;
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.alarm
    }

    /// The head's age, once for each time it has been still for another while.
    pub(crate) fn stale(&mut self, now: Instant) -> Option<Duration> {
        (now >= self.alarm).then(|| {
            self.alarm = now + self.patience;
            now - self.moved
        })
    }
}

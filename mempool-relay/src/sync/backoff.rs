use std::time::{Duration, Instant};

/// A pause that doubles with each failure in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    until: Option<Instant>,
    failures: u32,
}

impl Backoff {
    pub(crate) fn fail(&mut self, now: Instant, first: Duration, most: Duration) {
        self.until = Some(now + (first * (1 << self.failures.min(16))).min(most));
        self.failures = self.failures.saturating_add(1);
    }

    /// Waits without counting a failure.
    pub(crate) fn pause(&mut self, now: Instant, time: Duration) {
        self.until = Some(self.until.map_or(now + time, |until| until.max(now + time)));
    }

    pub(crate) fn succeed(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// When it ends, if it has not.
    pub(crate) fn pending(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_most_and_starts_over() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut backoff = Backoff::default();
        assert!(backoff.is_over(start));
        for pause in [1, 2, 4, 5, 5] {
            backoff.fail(start, second, 5 * second);
            assert_eq!(backoff.pending(start), Some(start + pause * second));
            assert!(!backoff.is_over(start + pause * second - Duration::from_millis(1)));
            assert!(backoff.is_over(start + pause * second));
        }
        backoff.succeed();
        assert!(backoff.is_over(start) && backoff.failures() == 0);
    }
}

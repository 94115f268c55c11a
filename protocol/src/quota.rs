//! Token buckets for what a peer may send.

use std::time::{Duration, Instant};

use crate::class::{BURST_SECONDS, ClassSpec};

#[derive(Debug, Clone)]
struct Bucket {
    per_second: f64,
    level: f64,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), level: f64::from(per_second) * f64::from(BURST_SECONDS) }
    }

    fn refill(&mut self, elapsed: Duration) {
        let full = self.per_second * f64::from(BURST_SECONDS);
        self.level = (self.level + self.per_second * elapsed.as_secs_f64()).min(full);
    }

    /// Takes `amount`, into debt if need be, and says how long until the debt is paid.
    fn take(&mut self, amount: f64) -> Duration {
        self.level -= amount;
        if self.level >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-self.level / self.per_second)
    }
}

/// What one peer may still send in one class.
///
/// Whatever was read is paid for, even if it is more than is left: the reader then waits until the
/// debt is paid. So a frame larger than the burst still passes, and nothing read is thrown away.
#[derive(Debug, Clone)]
pub struct Quota {
    messages: Bucket,
    bytes: Bucket,
    refilled: Instant,
}

impl Quota {
    /// A full bucket for a class.
    pub fn new(spec: &ClassSpec, now: Instant) -> Self {
        Self::with_rates(spec.messages_per_second, spec.bytes_per_second, now)
    }

    /// A full bucket with these rates.
    pub(crate) fn with_rates(messages_per_second: u32, bytes_per_second: u32, now: Instant) -> Self {
        Self {
            messages: Bucket::new(messages_per_second),
            bytes: Bucket::new(bytes_per_second),
            refilled: now,
        }
    }

    /// Pays for what was read, and says how long to pause before reading on.
    pub fn charge(&mut self, messages: usize, bytes: usize, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
        self.messages.refill(elapsed);
        self.bytes.refill(elapsed);
        self.messages.take(messages as f64).max(self.bytes.take(bytes as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::{Class, ClassTable};

    #[test]
    fn the_burst_passes_and_one_more_waits() {
        let table = ClassTable::default();
        let now = Instant::now();
        let mut quota = Quota::new(table.spec(Class::Discovery), now);
        assert_eq!(quota.charge(8, 0, now), Duration::ZERO);
        assert_eq!(quota.charge(1, 0, now), Duration::from_millis(250));
        // The debt is paid at the stated time, not before.
        let mut earlier = quota.clone();
        assert!(earlier.charge(0, 0, now + Duration::from_millis(249)) > Duration::ZERO);
        assert_eq!(quota.charge(0, 0, now + Duration::from_millis(250)), Duration::ZERO);
    }

    #[test]
    fn a_frame_larger_than_the_burst_passes_and_is_paid_for() {
        let table = ClassTable::default();
        let now = Instant::now();
        let mut quota = Quota::new(table.spec(Class::Discovery), now);
        assert_eq!(quota.charge(1, 3 * 64 * 1024, now), Duration::from_secs(1));
    }
}

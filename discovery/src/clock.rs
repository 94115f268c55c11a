//! The two times a core is told.

use std::time::{Duration, Instant};

/// Monotonic time for pauses and deadlines, wall-clock time for what outlives the process. Only the
/// shell reads clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub at: Instant,
    /// Milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

impl std::ops::Add<Duration> for Now {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self {
            at: self.at + rhs,
            unix_ms: self.unix_ms.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

//! Wall-clock time: the system's, or one that follows tokio's clock.
//!
//! Everything that waits uses tokio's clock; slots and records need the time of day. In a simulated
//! world both must move together, and some clocks must be wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// The operating system.
    #[default]
    System,
    /// Tokio's clock, from a fixed origin, off by a skew.
    Virtual {
        /// Unix milliseconds at `origin`.
        origin_unix_ms: u64,
        /// A moment of tokio's clock.
        origin: Instant,
        /// How far this clock is ahead (behind, if negative), in milliseconds.
        skew_ms: i64,
    },
}

impl Clock {
    /// Milliseconds since 1970-01-01 UTC.
    pub fn unix_ms(&self) -> u64 {
        match self {
            // A clock before 1970 is a broken clock: slot 0 has then not begun, and nothing is done.
            Self::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
            }
            Self::Virtual { origin_unix_ms, origin, skew_ms } => {
                (origin_unix_ms + origin.elapsed().as_millis() as u64).saturating_add_signed(*skew_ms)
            }
        }
    }

    /// The moment of tokio's clock at which this one will show `unix_ms`; now, if that is past.
    pub fn instant_of(&self, unix_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(unix_ms.saturating_sub(self.unix_ms()))
    }
}

//! Whether there is room for newcomers: descriptors and disk.
//!
//! A node that runs out of either does not fall over: it takes nobody new in until there is room again.
//! Sessions that are there go on.

use std::path::{Path, PathBuf};

use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use crate::metrics::descriptors_in_use;

/// Free bytes on the store's disk below which nobody new is let in. What is connected may still make the
/// chain grow by some blocks.
const DISK_FREE_PAUSE: u64 = 64 << 20;
/// Free bytes from which on newcomers are welcome again.
const DISK_FREE_RESUME: u64 = 128 << 20;
/// Descriptors left below which nobody new is let in: the store and callers of metrics need some.
const DESCRIPTORS_LEFT_PAUSE: u64 = 16;
/// Descriptors left from which on newcomers are welcome again.
const DESCRIPTORS_LEFT_RESUME: u64 = 32;

/// What is left of something; `None` if nobody knows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Left {
    disk_bytes: Option<u64>,
    descriptors: Option<u64>,
}

impl Left {
    /// What the system says.
    pub(super) fn now(data: Option<&Path>) -> Self {
        let disk = data.and_then(|path| statvfs(path).ok());
        let limit = getrlimit(Resource::Nofile).current;
        Self {
            disk_bytes: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            descriptors: limit.zip(descriptors_in_use()).map(|(limit, used)| limit.saturating_sub(used)),
        }
    }
}

/// Pauses and resumes accepting. A core.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) data: Option<PathBuf>,
    paused: Option<&'static str>,
}

impl Room {
    pub(super) fn new(data: Option<PathBuf>) -> Self {
        Self { data, paused: None }
    }

    /// Why nobody is let in, if so.
    pub(super) fn paused(&self) -> Option<&'static str> {
        self.paused
    }

    /// So much is left. Answers whether to accept, if that changed.
    pub(super) fn look(&mut self, left: Left) -> Option<bool> {
        // What is unknown is no reason.
        let below = |left: Option<u64>, bound: u64| left.is_some_and(|left| left < bound);
        let (disk, descriptors) = match self.paused {
            None => (DISK_FREE_PAUSE, DESCRIPTORS_LEFT_PAUSE),
            Some(_) => (DISK_FREE_RESUME, DESCRIPTORS_LEFT_RESUME),
        };
        let reason = if below(left.disk_bytes, disk) {
            Some("the disk is nearly full: make room")
        } else if below(left.descriptors, descriptors) {
            Some("nearly all file descriptors are in use: raise the limit (ulimit -n, LimitNOFILE=)")
        } else {
            None
        };
        let changed = reason.is_some() != self.paused.is_some();
        self.paused = reason;
        changed.then_some(reason.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(disk_bytes: u64, descriptors: u64) -> Left {
        Left { disk_bytes: Some(disk_bytes), descriptors: Some(descriptors) }
    }

    #[test]
    fn scenario_41_accepting_pauses_and_resumes_each_at_its_own_bound() {
        let plenty = left(1 << 40, 1_000);
        for (short, still_short, enough) in [
            (
                left(DISK_FREE_PAUSE - 1, 1_000),
                left(DISK_FREE_RESUME - 1, 1_000),
                left(DISK_FREE_RESUME, 1_000),
            ),
            (
                left(1 << 40, DESCRIPTORS_LEFT_PAUSE - 1),
                left(1 << 40, DESCRIPTORS_LEFT_RESUME - 1),
                left(1 << 40, DESCRIPTORS_LEFT_RESUME),
            ),
        ] {
            let mut room = Room::default();
            assert_eq!(room.look(plenty), None);
            assert_eq!(room.look(left(DISK_FREE_PAUSE, DESCRIPTORS_LEFT_PAUSE)), None);
            assert_eq!(room.look(short), Some(false));
            assert!(room.paused().is_some());
            assert_eq!(room.look(still_short), None, "no flapping at the bound");
            assert_eq!(room.look(enough), Some(true));
            assert_eq!(room.paused(), None);
        }
        assert_eq!(Room::default().look(Left::default()), None, "what nobody knows stops nobody");
    }
}

//! Frame kinds: numbers, ranges and limits.
//!
//! | range           | meaning                                                     | unknown kind there |
//! | --------------- | ----------------------------------------------------------- | ------------------ |
//! | 0x0000 – 0x1fff | required: who does not know it cannot go on                 | stream is reset    |
//! | 0x2000 – 0x3dff | optional: extensions that may be ignored                    | frame is skipped   |
//! | 0x3e00 – 0x3eff | private use between consenting peers                        | frame is skipped   |
//! | 0x3f00 – 0x3fff | grease: never assigned, sent now and then                   | frame is skipped   |
//! | above           | not a kind                                                  | stream is reset    |

use crate::stream::StreamType;

/// The number of a frame kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u64);

/// First kind that may be skipped when unknown.
pub const SKIPPABLE_FIRST: Kind = Kind(0x2000);
/// First kind that is never assigned.
pub const GREASE_FIRST: Kind = Kind(0x3f00);
/// Last kind there can be.
pub const KIND_LAST: Kind = Kind(0x3fff);

/// Longest payload of a skipped frame, in bytes. It is read past and never stored.
pub const SKIPPED_PAYLOAD_MAX: u64 = 64 * 1024;

impl Kind {
    /// True if a frame of this kind may be skipped by who does not know it.
    pub const fn is_skippable(self) -> bool {
        self.0 >= SKIPPABLE_FIRST.0 && self.0 <= KIND_LAST.0
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// What the registry says of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindInfo {
    /// Its number.
    pub kind: Kind,
    /// Its name in documents, logs and metrics.
    pub name: &'static str,
    /// Longest payload in bytes.
    pub payload_max: usize,
    /// Streams it may stand on.
    pub streams: &'static [StreamType],
    /// Streams on which it must be shorter than elsewhere, with the longest payload there.
    pub tighter: &'static [(StreamType, usize)],
}

impl KindInfo {
    /// True if the frame may stand on streams of this type.
    pub fn is_allowed_on(&self, stream: StreamType) -> bool {
        self.streams.contains(&stream)
    }

    /// Longest payload in bytes on streams of this type.
    pub fn payload_max_on(&self, stream: StreamType) -> usize {
        let tighter = self.tighter.iter().find(|(on, _)| *on == stream);
        tighter.map_or(self.payload_max, |(_, max)| *max)
    }
}

//! Feeds: numbered, hash-chained sequences that a subscriber can leave and join at any honest peer.
//!
//! ```text
//! FeedNotice    0xa0  reason (1), entries skipped (8)
//! FeedSnapshot  0xa1  epoch (8), position (40), last part 0 or 1 (1), mark, bytes to the end
//! FeedEntries   0xa2  epoch (8), position before (40), mark, then entries: each a payload behind its length
//! FeedStep      0xa3  epoch (8), position before (40), position after (40), mark, bytes to the end
//! FeedIdle      0xa4  epoch (8), position (40), age in milliseconds (8), mark
//! ```
//!
//! A **position** is a number and a hash ([`FeedPosition`]). A **mark** is what the feed's application says
//! about the moment, behind its length as a varint, at most [`FEED_MARK_BYTES_MAX`]; it is not chained.

use bytes::Bytes;
use ghost_proto::{
    FeedPosition,
    layout::{Cursor, LayoutError, put_var_bytes, varint_len},
    limits::{FEED_ENTRIES_PER_FRAME_MAX, FEED_FRAME_BYTES_MAX, FEED_MARK_BYTES_MAX, FEED_PAYLOAD_BYTES_MAX},
};

use crate::writer::{Payload, PayloadError};

/// Longest of what stands before a feed frame's bytes: epoch, two positions, one byte, a mark.
pub const HEAD_BYTES_MAX: usize =
    8 + 2 * FeedPosition::LEN + 1 + varint_len(FEED_MARK_BYTES_MAX as u64) + FEED_MARK_BYTES_MAX;

/// Why a snapshot comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotReason {
    /// It was asked for: the subscriber named no position.
    Begin,
    /// The position that the subscriber named is further back than the feed remembers.
    TooOld,
    /// The position is of another epoch, or of a history that is not this feed's: what the subscriber has
    /// since is undone.
    Diverged,
    /// The subscriber was slower than the feed by more than it is owed.
    Conflated,
}

impl SnapshotReason {
    const ALL: [Self; 4] = [Self::Begin, Self::TooOld, Self::Diverged, Self::Conflated];

    /// The name shown to people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::TooOld => "too_old",
            Self::Diverged => "diverged",
            Self::Conflated => "conflated",
        }
    }
}

/// A snapshot comes next, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedNotice {
    /// Why.
    pub reason: SnapshotReason,
    /// Entries that the snapshot stands for, beyond the subscriber's position; 0 if that is not known.
    pub skipped: u64,
}

/// A part of all that stands at a position. Parts follow one another, and together are at most
/// [`ghost_proto::limits::FEED_SNAPSHOT_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSnapshot {
    /// Which sequence.
    pub epoch: u64,
    /// Where it stands.
    pub at: FeedPosition,
    /// No part follows.
    pub last: bool,
    /// The application's, of the moment.
    pub mark: Bytes,
    /// This part.
    pub bytes: Bytes,
}

/// The entries that follow a position, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntries {
    /// Which sequence.
    pub epoch: u64,
    /// Before the first of them.
    pub prev: FeedPosition,
    /// The application's, of the moment after the last of them.
    pub mark: Bytes,
    /// Payloads; at least one, at most [`FEED_ENTRIES_PER_FRAME_MAX`].
    pub entries: Vec<Bytes>,
}

/// What changed in a view of a feed between two of its positions. The view's subscriber cannot compute the hash, so it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedStep {
    /// Which sequence.
    pub epoch: u64,
    /// Where the view stood.
    pub prev: FeedPosition,
    /// Where it stands now.
    pub at: FeedPosition,
    /// The application's, of the moment.
    pub mark: Bytes,
    /// The change; empty if nothing in the view did.
    pub bytes: Bytes,
}

/// Nothing new. Sent so that silence always means trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedIdle {
    /// Which sequence.
    pub epoch: u64,
    /// Where the feed stands.
    pub at: FeedPosition,
    /// For how long, in milliseconds, as the sender's clock counts.
    pub age_ms: u64,
    /// The application's, of the moment.
    pub mark: Bytes,
}

fn out_of_range(field: &'static str, value: u64, max: u64) -> PayloadError {
    LayoutError::OutOfRange { field, value, min: 0, max }.into()
}

fn bounded(bytes: Bytes) -> Result<Bytes, PayloadError> {
    match bytes.len() {
        len if len > FEED_FRAME_BYTES_MAX => {
            Err(out_of_range("feed bytes", len as u64, FEED_FRAME_BYTES_MAX as u64))
        }
        _ => Ok(bytes),
    }
}

impl Payload for FeedNotice {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.reason as u8);
        out.extend_from_slice(&self.skipped.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let code = cursor.u8("snapshot reason")?;
        let reason = SnapshotReason::ALL.get(usize::from(code)).copied();
        let reason = reason.ok_or_else(|| {
            out_of_range("snapshot reason", code.into(), SnapshotReason::ALL.len() as u64 - 1)
        })?;
        let skipped = cursor.u64("entries skipped")?;
        cursor.finish()?;
        Ok(Self { reason, skipped })
    }
}

impl Payload for FeedSnapshot {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_be_bytes());
        self.at.encode(out);
        out.push(u8::from(self.last));
        put_var_bytes(out, &self.mark);
        out.extend_from_slice(&self.bytes);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let epoch = cursor.u64("epoch")?;
        let at = FeedPosition::read(&mut cursor)?;
        let last = match cursor.u8("last part")? {
            0 => false,
            1 => true,
            other => return Err(out_of_range("last part", other.into(), 1)),
        };
        let mark = cursor.var_bytes("mark", FEED_MARK_BYTES_MAX)?;
        Ok(Self { epoch, at, last, mark, bytes: bounded(cursor.rest())? })
    }
}

impl Payload for FeedEntries {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_be_bytes());
        self.prev.encode(out);
        put_var_bytes(out, &self.mark);
        self.entries.iter().for_each(|entry| put_var_bytes(out, entry));
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let epoch = cursor.u64("epoch")?;
        let prev = FeedPosition::read(&mut cursor)?;
        let mark = cursor.var_bytes("mark", FEED_MARK_BYTES_MAX)?;
        let max = FEED_ENTRIES_PER_FRAME_MAX;
        let mut entries = Vec::new();
        while cursor.remaining() > 0 {
            if entries.len() == max {
                return Err(out_of_range("feed entries", max as u64 + 1, max as u64));
            }
            entries.push(cursor.var_bytes("feed entry", FEED_PAYLOAD_BYTES_MAX)?);
        }
        let room = u64::MAX - prev.seq;
        if entries.is_empty() || entries.len() as u64 > room {
            let error = LayoutError::OutOfRange {
                field: "feed entries",
                value: entries.len() as u64,
                min: 1,
                max: room.min(max as u64),
            };
            return Err(error.into());
        }
        Ok(Self { epoch, prev, mark, entries })
    }
}

impl Payload for FeedStep {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_be_bytes());
        self.prev.encode(out);
        self.at.encode(out);
        put_var_bytes(out, &self.mark);
        out.extend_from_slice(&self.bytes);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let epoch = cursor.u64("epoch")?;
        let prev = FeedPosition::read(&mut cursor)?;
        let at = FeedPosition::read(&mut cursor)?;
        let mark = cursor.var_bytes("mark", FEED_MARK_BYTES_MAX)?;
        Ok(Self { epoch, prev, at, mark, bytes: bounded(cursor.rest())? })
    }
}

impl Payload for FeedIdle {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_be_bytes());
        self.at.encode(out);
        out.extend_from_slice(&self.age_ms.to_be_bytes());
        put_var_bytes(out, &self.mark);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let epoch = cursor.u64("epoch")?;
        let at = FeedPosition::read(&mut cursor)?;
        let age_ms = cursor.u64("age")?;
        let mark = cursor.var_bytes("mark", FEED_MARK_BYTES_MAX)?;
        cursor.finish()?;
        Ok(Self { epoch, at, age_ms, mark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, length: usize) -> FeedEntries {
        FeedEntries {
            epoch: 1,
            prev: FeedPosition::origin(1, b"f"),
            mark: Bytes::new(),
            entries: vec![vec![7; length].into(); count],
        }
    }

    fn decoded(frame: &FeedEntries) -> Result<FeedEntries, PayloadError> {
        let mut out = Vec::new();
        frame.encode(&mut out);
        FeedEntries::decode(out.into())
    }

    #[test]
    fn counts_and_lengths_from_both_sides() {
        for good in
            [entries(1, 0), entries(FEED_ENTRIES_PER_FRAME_MAX, 1), entries(1, FEED_PAYLOAD_BYTES_MAX)]
        {
            assert_eq!(decoded(&good), Ok(good));
        }
        for bad in [
            entries(0, 0),
            entries(FEED_ENTRIES_PER_FRAME_MAX + 1, 1),
            entries(1, FEED_PAYLOAD_BYTES_MAX + 1),
        ] {
            assert!(decoded(&bad).is_err());
        }
    }

    #[test]
    fn numbers_that_would_run_over_are_refused() {
        let at = |seq| FeedEntries { prev: FeedPosition { seq, hash: [0; 32] }, ..entries(2, 1) };
        assert!(decoded(&at(u64::MAX - 2)).is_ok());
        assert!(decoded(&at(u64::MAX - 1)).is_err());
    }
}

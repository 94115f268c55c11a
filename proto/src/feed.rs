//! Positions in a feed: a numbered, hash-chained sequence of entries.
//!
//! Each entry has a number one above that of the entry before, and a hash over everything up to it:
//!
//! ```text
//! origin  = BLAKE3 derive-key "ghost feed origin v1" over epoch (8), name
//! hash    = BLAKE3 derive-key "ghost feed entry v1" over epoch (8), seq (8), hash before (32), payload
//! ```
//!
//! Position 0 is the origin. Who knows a position knows one history only: two feeds that agree on it
//! agree on all that led there, so that a subscriber can go on at whoever has it.

use crate::layout::{Cursor, LayoutError};

/// A place in a feed: behind the entry with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedPosition {
    /// Number of the newest entry, 0 before the first.
    pub seq: u64,
    /// Hash over all entries up to it.
    pub hash: [u8; 32],
}

impl FeedPosition {
    /// Bytes that [`Self::encode`] appends.
    pub const LEN: usize = 8 + 32;

    /// Before the first entry of the feed with this name.
    pub fn origin(epoch: u64, name: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ghost feed origin v1");
        hasher.update(&epoch.to_be_bytes()).update(name);
        Self { seq: 0, hash: *hasher.finalize().as_bytes() }
    }

    /// Behind the entry that follows here with this payload.
    ///
    /// # Panics
    /// Never in practice: 2^64 entries at a million a second take 584,000 years.
    pub fn after(&self, epoch: u64, payload: &[u8]) -> Self {
        let seq = self.seq.checked_add(1).expect("no feed has 2^64 entries");
        let mut hasher = blake3::Hasher::new_derive_key("ghost feed entry v1");
        hasher.update(&epoch.to_be_bytes()).update(&seq.to_be_bytes()).update(&self.hash).update(payload);
        Self { seq, hash: *hasher.finalize().as_bytes() }
    }

    /// Appends number and hash.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.hash);
    }

    /// Reads number and hash.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`].
    pub fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        Ok(Self { seq: cursor.u64("feed seq")?, hash: cursor.array("feed hash")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_gives_another_hash() {
        let origin = FeedPosition::origin(7, b"GHOST/USD");
        assert_ne!(origin, FeedPosition::origin(7, b"GHOST/EUR"));
        assert_ne!(origin, FeedPosition::origin(8, b"GHOST/USD"));
        let first = origin.after(7, b"a");
        assert_eq!((first.seq, first), (1, origin.after(7, b"a")));
        let others = [origin.after(8, b"a"), origin.after(7, b"b"), first.after(7, b"a")];
        assert!(others.iter().all(|other| other.hash != first.hash));
    }

    #[test]
    fn a_position_round_trips() {
        let position = FeedPosition::origin(1, b"x").after(1, b"y");
        let mut bytes = Vec::new();
        position.encode(&mut bytes);
        assert_eq!(bytes.len(), FeedPosition::LEN);
        let mut cursor = Cursor::new(bytes.into());
        assert_eq!(FeedPosition::read(&mut cursor), Ok(position));
        assert!(FeedPosition::read(&mut cursor).is_err());
    }
}

//! Shards: a large block, or the part of it that nobody has, cut into pieces any two thirds of which give it back.
//!
//! ```text
//! ShardPlan     0x28  header (227), length of the payload (4), shard root (32), signature (64), indexes
//! Shard         0x29  shard root (32), index (2), number of hashes (1), hashes of 32 bytes, shard
//! ShardHave     0x2a  shard root (32), 1: wants more, 0: wants none (1), shard set
//! ShardRequest  0x2b  shard root (32), shard set, not empty
//! ```
//!
//! The **payload** is the block's body if the plan names no indexes; otherwise the transactions at these indexes, each
//! behind its length as a varint, as they stand in the body. Indexes are those of [`crate::compact`].
//!
//! A payload of *p* bytes, padded with zero bytes, is cut into *k* = ⌈p / 16,384⌉ **shards** of equal and even length,
//! 16 at least and 512 at most; ⌊k / 2⌋ more repair it, made by the Reed–Solomon code over GF(2¹⁶) of Lin, Al-Naffouri, Han and Chung
//! ("Novel Polynomial Basis With Fast Fourier Transform", 2016) in the layout of Leopard-RS. The **shard root** is the Merkle root
//! (RFC 9162 with BLAKE3, as under a header) over all of them in order, and each travels with its path, lowest hash first.
//!
//! The proposer signs tag "ghost/shards/1" ‖ genesis id ‖ block id ‖ length of the payload ‖ shard root ‖ BLAKE3 of the
//! indexes as sent. So a shard can be checked alone, before the others are here; and a root over something else than this code of
//! this payload, which shows when the payload has been put together, is its proposer's doing.
//!
//! A **shard set** is a string of bits, shard 0 in the highest bit of the first byte; zero bytes at its end are left out.

use bytes::Bytes;
use ghost_proto::{
    GenesisId, Header, KeyPair, PublicKey, Signature,
    block::HEADER_LEN,
    keys::{BadSignature, Domain, SIGNATURE_LEN},
    layout::{Cursor, LayoutError},
    limits::{
        BLOCK_BODY_BYTES_MAX, BLOCK_TXS_MAX, SHARD_BYTES_MAX, SHARD_PATH_MAX, SHARDED_BYTES_MIN,
        SHARDS_DATA_MAX, SHARDS_DATA_MIN, SHARDS_MAX,
    },
    merkle,
};

use crate::{
    compact::{IndexReader, IndexWriter},
    writer::{Payload, PayloadError},
};

/// Most bytes of a shard set.
pub const SHARD_SET_LEN: usize = SHARDS_MAX / 8;

/// Longest plan: each index takes a byte for itself and one for each 64 it passes over.
pub const PLAN_BYTES_MAX: usize = HEADER_LEN + 4 + 32 + SIGNATURE_LEN + BLOCK_TXS_MAX;

/// Longest frame of one shard.
pub const SHARD_FRAME_BYTES_MAX: usize = 32 + 2 + 1 + SHARD_PATH_MAX * 32 + SHARD_BYTES_MAX;

/// Payload for each shard, where that is not too few or too many of them.
const PAYLOAD_PER_SHARD: usize = 16 * 1024;

/// Names the shards of one payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardRoot(pub merkle::Root);

/// How a payload is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Shards that together are the payload; any as many of all give it back.
    pub data: usize,
    /// Shards that repair it.
    pub repair: usize,
    /// Length of each, in bytes.
    pub shard_bytes: usize,
}

impl Geometry {
    /// For a payload of so many bytes.
    pub fn of(payload_bytes: usize) -> Self {
        let data = payload_bytes.div_ceil(PAYLOAD_PER_SHARD).clamp(SHARDS_DATA_MIN, SHARDS_DATA_MAX);
        let shard_bytes = payload_bytes.div_ceil(data).next_multiple_of(2);
        Self { data, repair: data / 2, shard_bytes }
    }

    /// All shards.
    pub fn count(&self) -> usize {
        self.data + self.repair
    }
}

/// Into which shards a block, or a part of it, was cut. The signature is not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    /// The sealed header.
    pub header: Header,
    /// Length of what was cut.
    pub payload_bytes: u32,
    /// Over all shards.
    pub root: ShardRoot,
    /// Of the proposer.
    pub signature: Signature,
    /// Whose transactions were cut, ascending; none if it is the whole body.
    pub indexes: Vec<u32>,
    /// The same as they were sent.
    index_bytes: Bytes,
}

impl ShardPlan {
    /// Signs one. `indexes` ascend; none stand for the whole body.
    pub fn seal(
        header: Header,
        payload_bytes: u32,
        root: ShardRoot,
        indexes: Vec<u32>,
        genesis: &GenesisId,
        key: &KeyPair,
    ) -> Self {
        let mut writer = IndexWriter::default();
        let mut index_bytes = Vec::new();
        indexes.iter().for_each(|index| writer.put(&mut index_bytes, *index));
        let signed = signed_part(&header, payload_bytes, &root, &index_bytes);
        let signature = key.sign(Domain::ShardPlan, &[&genesis.0, &signed]);
        Self { header, payload_bytes, root, signature, indexes, index_bytes: index_bytes.into() }
    }

    /// Checks the signature under the key of the header's proposer. The header's own is checked apart.
    pub fn verify(&self, genesis: &GenesisId, proposer: &PublicKey) -> Result<(), BadSignature> {
        let signed = signed_part(&self.header, self.payload_bytes, &self.root, &self.index_bytes);
        proposer.verify(Domain::ShardPlan, &[&genesis.0, &signed], &self.signature)
    }

    /// True if the payload is the body.
    pub fn is_whole(&self) -> bool {
        self.indexes.is_empty()
    }

    /// How it was cut.
    pub fn geometry(&self) -> Geometry {
        Geometry::of(self.payload_bytes as usize)
    }

    /// True if the shard is one of this plan's.
    pub fn covers(&self, shard: &Shard) -> bool {
        let geometry = self.geometry();
        shard.root == self.root
            && shard.bytes.len() == geometry.shard_bytes
            && merkle::verify(
                &shard.bytes,
                usize::from(shard.index),
                geometry.count(),
                &shard.path,
                &self.root.0,
            )
    }
}

fn signed_part(header: &Header, payload_bytes: u32, root: &ShardRoot, index_bytes: &[u8]) -> Vec<u8> {
    let indexes = blake3::hash(index_bytes);
    [&header.id().0[..], &payload_bytes.to_be_bytes(), &root.0, indexes.as_bytes()].concat()
}

/// One shard. Its proof is not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Of which plan.
    pub root: ShardRoot,
    /// Its place, from 0.
    pub index: u16,
    /// From it to the root, lowest first.
    pub path: Vec<merkle::Root>,
    /// Itself.
    pub bytes: Bytes,
}

/// Some of the shards of a plan.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShardSet([u8; SHARD_SET_LEN]);

impl Default for ShardSet {
    fn default() -> Self {
        Self([0; SHARD_SET_LEN])
    }
}

impl std::fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl ShardSet {
    /// The first `count`.
    pub fn first(count: usize) -> Self {
        let mut set = Self::default();
        (0..count.min(SHARDS_MAX)).for_each(|index| set.insert(index as u16));
        set
    }

    /// Adds one; what is beyond [`SHARDS_MAX`] is not added.
    pub fn insert(&mut self, index: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(index / 8)) {
            *byte |= 0x80 >> (index % 8);
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, index: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(index / 8)) {
            *byte &= !(0x80 >> (index % 8));
        }
    }

    /// True if it is among them.
    pub fn contains(&self, index: u16) -> bool {
        self.0.get(usize::from(index / 8)).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// All that are here or in `other`.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    /// All that are here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & !other.0[at]))
    }

    /// All that are here and in `other`.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & other.0[at]))
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let bytes = self.0.iter().enumerate().filter(|(_, byte)| **byte != 0);
        bytes.flat_map(|(at, byte)| {
            (0..8).filter(move |bit| byte & (0x80 >> bit) != 0).map(move |bit| (at * 8 + bit) as u16)
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let len = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        out.extend_from_slice(&self.0[..len]);
    }

    fn take(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let bytes = cursor.rest();
        if bytes.len() > SHARD_SET_LEN || bytes.last() == Some(&0) {
            return Err(LayoutError::Invalid {
                field: "shard set",
                reason: "it is too long, or ends with a zero byte",
            });
        }
        let mut set = Self::default();
        set.0[..bytes.len()].copy_from_slice(&bytes);
        Ok(set)
    }
}

/// Which shards the sender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardHave {
    /// Of which plan.
    pub root: ShardRoot,
    /// Whether it wants to be sent others, unasked.
    pub wants: bool,
    /// Those it has; more than in the last such frame, not fewer.
    pub have: ShardSet,
}

/// Shards the sender wants. The answer has a [`Shard`] for each that is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRequest {
    /// Of which plan.
    pub root: ShardRoot,
    /// At least one.
    pub wanted: ShardSet,
}

impl Payload for ShardPlan {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.bytes());
        out.extend_from_slice(&self.payload_bytes.to_be_bytes());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.signature.0);
        out.extend_from_slice(&self.index_bytes);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let header = Header::read(&mut cursor)?;
        let payload_bytes = cursor.u32("payload length")?;
        let root = ShardRoot(cursor.array("shard root")?);
        let signature = Signature(cursor.array("signature")?);
        let index_bytes = cursor.rest();
        let mut rest = Cursor::new(index_bytes.clone());
        let mut reader = IndexReader::default();
        let mut indexes = Vec::new();
        while rest.remaining() > 0 {
            indexes.push(reader.take(&mut rest)?);
        }
        let (min, max) =
            (SHARDED_BYTES_MIN as u64, BLOCK_BODY_BYTES_MAX.min(header.body_bytes as usize) as u64);
        let value = u64::from(payload_bytes);
        if !(min..=max).contains(&value) {
            return Err(LayoutError::OutOfRange { field: "payload length", value, min, max }.into());
        }
        if indexes.is_empty() && payload_bytes != header.body_bytes
            || indexes.last().is_some_and(|last| *last >= header.tx_count)
        {
            let reason = "it is neither the body nor a part of it";
            return Err(LayoutError::Invalid { field: "payload", reason }.into());
        }
        Ok(Self { header, payload_bytes, root, signature, indexes, index_bytes })
    }
}

impl Payload for Shard {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(35 + self.path.len() * 32 + self.bytes.len());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.index.to_be_bytes());
        out.push(self.path.len() as u8);
        out.extend(self.path.iter().flatten());
        out.extend_from_slice(&self.bytes);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let root = ShardRoot(cursor.array("shard root")?);
        let index = cursor.u16("index")?;
        let hashes = cursor.u8("number of hashes")?;
        for (field, value, max) in [
            ("index", u64::from(index), SHARDS_MAX as u64 - 1),
            ("number of hashes", u64::from(hashes), SHARD_PATH_MAX as u64),
        ] {
            if value > max {
                return Err(LayoutError::OutOfRange { field, value, min: 0, max }.into());
            }
        }
        let path = (0..hashes).map(|_| cursor.array("hash")).collect::<Result<_, _>>()?;
        let bytes = cursor.rest();
        if bytes.is_empty() || bytes.len() > SHARD_BYTES_MAX {
            let (value, max) = (bytes.len() as u64, SHARD_BYTES_MAX as u64);
            return Err(LayoutError::OutOfRange { field: "shard", value, min: 1, max }.into());
        }
        Ok(Self { root, index, path, bytes })
    }
}

impl Payload for ShardHave {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.root.0);
        out.push(u8::from(self.wants));
        self.have.put(out);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let root = ShardRoot(cursor.array("shard root")?);
        let wants = cursor.u8("wants")?;
        if wants > 1 {
            return Err(
                LayoutError::OutOfRange { field: "wants", value: wants.into(), min: 0, max: 1 }.into()
            );
        }
        Ok(Self { root, wants: wants == 1, have: ShardSet::take(&mut cursor)? })
    }
}

impl Payload for ShardRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.root.0);
        self.wanted.put(out);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let root = ShardRoot(cursor.array("shard root")?);
        let wanted = ShardSet::take(&mut cursor)?;
        if wanted.is_empty() {
            return Err(LayoutError::Invalid { field: "shard set", reason: "it is empty" }.into());
        }
        Ok(Self { root, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_body_fits_and_every_payload_is_covered() {
        let largest = Geometry::of(BLOCK_BODY_BYTES_MAX);
        assert_eq!((largest.data, largest.count(), largest.shard_bytes), (512, SHARDS_MAX, SHARD_BYTES_MAX));
        for bytes in (SHARDED_BYTES_MIN..BLOCK_BODY_BYTES_MAX).step_by(77_777) {
            let geometry = Geometry::of(bytes);
            assert!(geometry.data * geometry.shard_bytes >= bytes, "{bytes}: {geometry:?}");
            assert!(geometry.shard_bytes.is_multiple_of(2) && geometry.shard_bytes <= SHARD_BYTES_MAX);
            assert!(geometry.count() <= SHARDS_MAX);
        }
    }

    #[test]
    fn a_set_is_a_set() {
        let mut set = ShardSet::default();
        for index in [0, 7, 8, 767, 768, 9_999] {
            set.insert(index);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 7, 8, 767]);
        assert_eq!(set.without(&ShardSet::first(8)).iter().collect::<Vec<_>>(), [8, 767]);
        assert_eq!(set.and(&ShardSet::first(8)).len(), 2);
        assert_eq!(ShardSet::first(3).with(&set).len(), 6);
        set.remove(767);
        assert!(!set.contains(767) && set.len() == 3);
    }
}

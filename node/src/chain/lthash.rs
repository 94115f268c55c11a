//! LtHash: a commitment to a set that is updated by adding and removing members, in any order.
//!
//! Lewi, Kim, Maykov and Weis, "Securing Update Propagation with Homomorphic Hashing" (IACR ePrint
//! 2019/227), with 1,024 lanes of 16 bits. Each entry is expanded by BLAKE3's extendable output to a
//! vector; the commitment is the lane-wise sum. Finding two sets with one sum is a short-vector
//! problem of at least 200 bits in that paper's estimate.
//!
//! The set here is the state: at most one value for each key, no empty values.

use std::{fmt, sync::LazyLock};

const LANES: usize = 1024;
/// Size of the sum in bytes.
pub const LTHASH_LEN: usize = LANES * 2;

/// The sum over a set of entries.
#[derive(Clone, PartialEq, Eq)]
pub struct LtHash {
    lanes: Box<[u16; LANES]>,
}

impl Default for LtHash {
    fn default() -> Self {
        Self { lanes: Box::new([0; LANES]) }
    }
}

/// The expansion of one entry. The key's length stands in front, so that no two entries are one
/// string of bytes.
fn expand(key: &[u8], value: &[u8]) -> [u8; LTHASH_LEN] {
    static BASE: LazyLock<blake3::Hasher> =
        LazyLock::new(|| blake3::Hasher::new_derive_key("ghost chain state entry v1"));
    let mut out = [0; LTHASH_LEN];
    let mut hasher = BASE.clone();
    hasher.update(&(key.len() as u32).to_be_bytes()).update(key).update(value);
    hasher.finalize_xof().fill(&mut out);
    out
}

impl LtHash {
    fn combine(&mut self, bytes: &[u8; LTHASH_LEN], operation: impl Fn(u16, u16) -> u16) {
        let (pairs, _) = bytes.as_chunks::<2>();
        for (lane, pair) in self.lanes.iter_mut().zip(pairs) {
            *lane = operation(*lane, u16::from_le_bytes(*pair));
        }
    }

    /// Adds an entry that is not in the set (about 2 µs).
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.combine(&expand(key, value), u16::wrapping_add);
    }

    /// Removes an entry that is in the set.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.combine(&expand(key, value), u16::wrapping_sub);
    }

    /// BLAKE3 over [`Self::to_bytes`]: what a block header commits to.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.to_bytes()).as_bytes()
    }

    /// The lanes as little-endian numbers.
    pub fn to_bytes(&self) -> [u8; LTHASH_LEN] {
        let mut out = [0; LTHASH_LEN];
        let (pairs, _) = out.as_chunks_mut::<2>();
        for (pair, lane) in pairs.iter_mut().zip(self.lanes.iter()) {
            *pair = lane.to_le_bytes();
        }
        out
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; LTHASH_LEN]) -> Self {
        let mut sum = Self::default();
        sum.combine(bytes, |_, lane| lane);
        sum
    }
}

impl fmt::Debug for LtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LtHash({})", hex::encode(&self.digest()[..4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors() {
        // The empty sum is 2,048 zero bytes; its digest is plain BLAKE3 of those.
        assert_eq!(LtHash::default().digest(), *blake3::hash(&[0; 2048]).as_bytes());
        let mut sum = LtHash::default();
        sum.add(b"key", b"value");
        let plain = blake3::derive_key("ghost chain state entry v1", b"\0\0\0\x03keyvalue");
        assert_eq!(sum.to_bytes()[..32], plain, "the first 32 bytes are those of the fixed-length hash");
        sum.add(b"key2", b"");
        assert_eq!(
            hex::encode(sum.digest()),
            "dcdba586cbbc7ea679042357650e2dcd8cd50511c89e0d1d295ea436f5d9d005"
        );
    }

    #[test]
    fn the_border_between_key_and_value_counts() {
        let of = |key: &[u8], value: &[u8]| {
            let mut sum = LtHash::default();
            sum.add(key, value);
            sum
        };
        assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_removal_undoes(
            entries in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..40),
                proptest::collection::vec(any::<u8>(), 0..40), 0..12),
            keep in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let mut forward = LtHash::default();
            for (key, value) in &entries {
                forward.add(key, value);
            }
            let mut backward = LtHash::default();
            for (key, value) in entries.iter().rev() {
                backward.add(key, value);
            }
            prop_assert_eq!(&forward, &backward);
            prop_assert_eq!(&LtHash::from_bytes(&forward.to_bytes()), &forward);
            let mut kept = LtHash::default();
            for ((key, value), keep) in entries.iter().zip(&keep) {
                if *keep { kept.add(key, value) } else { forward.remove(key, value) }
            }
            prop_assert_eq!(forward, kept);
        }
    }
}

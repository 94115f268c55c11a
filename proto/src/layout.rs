//! Fixed layouts: a bounds-checked cursor over received bytes and the matching writers.
//!
//! Integers are big-endian. Lengths are QUIC variable-length integers (RFC 9000 §16): the two high
//! bits of the first byte give the size (1, 2, 4 or 8 bytes), the rest is the value, at most
//! 2^62 − 1. Encoders write the shortest form; decoders of *signed* nouns refuse any other, so that
//! one meaning has one encoding.

use bytes::{BufMut, Bytes};

/// Largest value a QUIC varint can hold: 2^62 − 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Why bytes could not be read as the layout they were said to be.
///
/// Bytes that fail here were never valid: the sender is at fault, and asking it again is useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The bytes end inside a field.
    #[error("ends after {have} bytes inside `{field}`, which needs {need} more")]
    Truncated {
        /// Name of the field that was being read.
        field: &'static str,
        /// Bytes that were left for it.
        have: usize,
        /// Bytes that were missing.
        need: usize,
    },
    /// Bytes follow the last field.
    #[error("{extra} bytes follow the last field")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A number or a length lies outside what the field allows.
    #[error("`{field}` is {value}, allowed is {min} to {max}")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// What was read.
        value: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// A varint was longer than its value needs.
    #[error("`{field}` is not in its shortest form")]
    NotShortest {
        /// Name of the field.
        field: &'static str,
    },
    /// The bytes have the right shape and a meaning that is not allowed.
    #[error("`{field}`: {reason}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Bytes that the varint of `value` takes: 1, 2, 4 or 8.
///
/// # Panics
/// If `value` exceeds [`VARINT_MAX`]; callers encode lengths and small numbers only.
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        0x4000_0000..=VARINT_MAX => 8,
        _ => panic!("a QUIC varint holds at most 2^62 - 1"),
    }
}

/// Appends `value` as a QUIC varint in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    match varint_len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

/// Appends `bytes` behind their length as a varint.
pub fn put_var_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a varint from the front of `bytes`: its value and how many bytes it took, or `None` while
/// bytes are missing. Accepts forms longer than needed, as RFC 9000 allows on the wire.
pub fn peek_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let bytes = bytes.get(..len)?;
    let value = bytes[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, len))
}

/// Reads fields one after another from shared bytes. Sub-slices share the buffer, nothing is copied.
#[derive(Debug, Clone)]
pub struct Cursor {
    bytes: Bytes,
    at: usize,
}

impl Cursor {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The bytes between two positions, sharing the buffer.
    pub fn span(&self, from: usize, to: usize) -> Bytes {
        self.bytes.slice(from..to)
    }

    fn need(&self, field: &'static str, len: usize) -> Result<(), LayoutError> {
        let have = self.remaining();
        if have < len {
            return Err(LayoutError::Truncated { field, have, need: len - have });
        }
        Ok(())
    }

    /// Takes exactly `len` bytes.
    pub fn bytes(&mut self, field: &'static str, len: usize) -> Result<Bytes, LayoutError> {
        self.need(field, len)?;
        let taken = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(taken)
    }

    /// Takes an array of fixed size.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], LayoutError> {
        self.need(field, N)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        Ok(array)
    }

    /// Takes one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, LayoutError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Takes a big-endian `u16`.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, LayoutError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// Takes a big-endian `u32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, LayoutError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// Takes a big-endian `u64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, LayoutError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// Takes a big-endian `u128`.
    pub fn u128(&mut self, field: &'static str) -> Result<u128, LayoutError> {
        Ok(u128::from_be_bytes(self.array(field)?))
    }

    /// Takes a varint in its shortest form, between `min` and `max`.
    pub fn varint(&mut self, field: &'static str, min: u64, max: u64) -> Result<u64, LayoutError> {
        let rest = &self.bytes[self.at..];
        let Some((value, len)) = peek_varint(rest) else {
            let need = rest.first().map_or(1, |first| (1usize << (first >> 6)) - rest.len());
            return Err(LayoutError::Truncated { field, have: rest.len(), need });
        };
        if varint_len(value) != len {
            return Err(LayoutError::NotShortest { field });
        }
        if value < min || value > max {
            return Err(LayoutError::OutOfRange { field, value, min, max });
        }
        self.at += len;
        Ok(value)
    }

    /// Takes bytes behind their varint length, which must not exceed `max`.
    pub fn var_bytes(&mut self, field: &'static str, max: usize) -> Result<Bytes, LayoutError> {
        let len = self.varint(field, 0, max as u64)?;
        self.bytes(field, len as usize)
    }

    /// All bytes not read yet.
    pub fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    /// Succeeds if every byte was read.
    pub fn finish(self) -> Result<(), LayoutError> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(LayoutError::Trailing { extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varint_samples_of_rfc_9000_appendix_a() {
        for (hex, value) in [
            ("c2197c5eff14e88c", 151_288_809_941_952_652),
            ("9d7f3e7d", 494_878_333),
            ("7bbd", 15_293),
            ("25", 37),
        ] {
            let bytes = hex::decode(hex).unwrap();
            assert_eq!(peek_varint(&bytes), Some((value, bytes.len())));
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
        // 37 in two bytes: legal on the wire, not inside a signed noun.
        assert_eq!(peek_varint(&[0x40, 0x25]), Some((37, 2)));
        assert_eq!(
            Cursor::new(Bytes::from_static(&[0x40, 0x25])).varint("n", 0, 100),
            Err(LayoutError::NotShortest { field: "n" })
        );
    }

    proptest! {
        #[test]
        fn varint_round_trip(value in 0..=VARINT_MAX) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(peek_varint(&out), Some((value, out.len())));
            prop_assert_eq!(peek_varint(&out[..out.len() - 1]), None);
        }
    }
}

//! Envelopes: what mailbox nodes see.
//!
//! ```text
//! opening  0x01  ML-KEM ciphertext (1088), Noise message 1                          8,192 bytes
//! answer   0x02  ML-KEM ciphertext (1088), Noise message 2                          2,048 bytes
//! message  0x03  nonce (24), sealed header (40 + 16), sealed content (… + 16)       any class
//! ```
//!
//! Each is of one of four sizes, so that its length tells at most which of them. Content is padded before it
//! is sealed: a varint length, the bytes, zeros.

use ghost_proto::{
    layout::{peek_varint, put_varint, varint_len},
    limits::ENVELOPE_BYTES_MAX,
};

/// The sizes an envelope may have, in bytes. Four times the one before: a message is carried with at most four
/// times its bytes, and one that is well filled with a few percent more.
pub const SIZE_CLASSES: [usize; 4] = [512, 2048, 8192, 32_768];

/// Size of every opening.
pub const OPENING_BYTES: usize = SIZE_CLASSES[2];
/// Size of every answer.
pub const ANSWER_BYTES: usize = SIZE_CLASSES[1];
/// What a message's envelope has besides its content: kind, nonce, sealed header, tag.
pub const OVERHEAD_BYTES: usize = 1 + 24 + 40 + 16 + 16;
/// The longest content of a message, its length included.
pub const CONTENT_BYTES_MAX: usize = ENVELOPE_BYTES_MAX - OVERHEAD_BYTES;

const _: () = assert!(SIZE_CLASSES[3] == ENVELOPE_BYTES_MAX, "the largest class is what a frame may carry");

/// What kind of envelope it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeKind {
    /// The first of a channel.
    Opening = 1,
    /// The second.
    Answer = 2,
    /// All others.
    Message = 3,
}

impl EnvelopeKind {
    /// That of an envelope, if its first byte names one.
    pub fn of(envelope: &[u8]) -> Option<Self> {
        match envelope.first()? {
            1 => Some(Self::Opening),
            2 => Some(Self::Answer),
            3 => Some(Self::Message),
            _ => None,
        }
    }
}

/// True if envelopes may be this long.
pub fn is_size_class(bytes: usize) -> bool {
    SIZE_CLASSES.contains(&bytes)
}

/// Content padded to what the smallest class holds besides the overhead. `None` if it fits none.
pub fn pad(content: &[u8]) -> Option<Vec<u8>> {
    let needed = varint_len(content.len() as u64) + content.len();
    let class = SIZE_CLASSES.into_iter().find(|class| needed + OVERHEAD_BYTES <= *class)?;
    Some(pad_to(content, class - OVERHEAD_BYTES))
}

/// Content behind its length, and zeros up to `bytes`, which must hold it.
pub(crate) fn pad_to(content: &[u8], bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    put_varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    debug_assert!(out.len() <= bytes);
    out.resize(bytes, 0);
    out
}

/// The content of what [`pad`] made; `None` if it did not.
pub fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let (length, at) = peek_varint(padded)?;
    let end = at.checked_add(usize::try_from(length).ok()?)?;
    let (content, zeros) = (padded.get(at..end)?, padded.get(end..)?);
    zeros.iter().all(|byte| *byte == 0).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_the_smallest_class_that_holds_it() {
        for (index, class) in SIZE_CLASSES.into_iter().enumerate() {
            let room = class - OVERHEAD_BYTES;
            let most = room - varint_len(room as u64);
            for len in [most, most + 1] {
                let content = vec![7; len];
                let Some(padded) = pad(&content) else {
                    assert!(index == SIZE_CLASSES.len() - 1 && len > most);
                    continue;
                };
                assert_eq!(unpad(&padded), Some(&content[..]));
                assert!(is_size_class(padded.len() + OVERHEAD_BYTES));
                assert_eq!(padded.len() + OVERHEAD_BYTES == class, len == most);
            }
        }
        assert_eq!(pad(b"").map(|padded| padded.len()), Some(SIZE_CLASSES[0] - OVERHEAD_BYTES));
    }

    #[test]
    fn what_is_not_padding_is_refused() {
        assert_eq!(unpad(&[]), None);
        assert_eq!(unpad(&[3, 1, 2]), None, "shorter than it says");
        assert_eq!(unpad(&[1, 9, 0, 1]), None, "not only zeros behind it");
        assert_eq!(unpad(&[1, 9, 0, 0]), Some(&[9][..]));
    }
}

//! Traffic shape: what whoever only sees sizes and times of packets can tell, made less at a price.
//!
//! Off by default. With padding, everything that is written of the classes in [`Shape::pads`] is brought to one of a
//! few sizes by a frame of a reserved kind behind it, which every reader skips. With jitter, what is pushed of
//! transactions waits a little, so that what comes together leaves together, and when it came does not show.
//!
//! What it hides and what not is in `SECURITY.md`; what it costs, `testnet bench shape` measures.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use ghost_frames::kind::GREASE_FIRST;
use ghost_proto::layout::put_varint;

use crate::class::Class;

/// Smallest size that something is padded to. A transfer of 250 bytes, an announcement of one or of twelve, and most
/// questions and short answers all come out alike.
pub const SIZE_MIN: usize = 512;

/// Above it, sizes are multiples of it: as much as is written at once.
pub const SIZE_STEP: usize = 16 * 1024;

/// Bytes of a frame that holds nothing: its kind, and a length in its longest form of the two used here.
const HEAD: usize = 4;

/// How traffic is shaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Pad to size classes.
    pub pad: bool,
    /// Longest time that pushed transactions wait; each time a random part of it. Zero: they do not.
    pub jitter: Duration,
}

/// The size that so many bytes are brought to: a power of two from [`SIZE_MIN`] on, then multiples of
/// [`SIZE_STEP`]. There is always room for the frame that fills it.
pub fn size_class(length: usize) -> usize {
    let needed = length + HEAD;
    match needed {
        0..=SIZE_STEP => needed.next_power_of_two().max(SIZE_MIN),
        _ => needed.next_multiple_of(SIZE_STEP),
    }
}

impl Shape {
    /// Whose sizes tell something: which transaction, which question, which answer. Blocks, votes and what is caught
    /// up on are the same for everyone; hello and pings say nothing by their size.
    pub const fn pads(class: Class) -> bool {
        match class {
            Class::Tx | Class::Rpc | Class::Events | Class::Discovery => true,
            Class::Control | Class::Consensus | Class::Block | Class::Sync => false,
        }
    }

    /// What to write in place of these frames.
    pub(crate) fn padded(&self, class: Class, bytes: Bytes) -> Bytes {
        if !self.pad || !Self::pads(class) || bytes.is_empty() {
            return bytes;
        }
        let size = size_class(bytes.len());
        let filling = size - bytes.len() - HEAD;
        let mut out = BytesMut::with_capacity(size);
        out.extend_from_slice(&bytes);
        let mut head = Vec::with_capacity(2);
        put_varint(&mut head, GREASE_FIRST.0);
        out.extend_from_slice(&head);
        // Two bytes, whatever the length: readers take that form.
        out.put_u16(0x4000 | filling as u16);
        out.put_bytes(0, filling);
        out.freeze()
    }

    /// How long what is pushed of a class waits before it is written.
    pub(crate) fn pause(&self, class: Class) -> Option<Duration> {
        (class == Class::Tx && !self.jitter.is_zero()).then(|| self.jitter.mul_f64(rand::random()))
    }
}

// The filling of any size fits a length of two bytes, and what may be skipped.
const _: () = assert!(SIZE_STEP <= 1 << 14);
const _: () = assert!(SIZE_STEP as u64 <= ghost_frames::kind::SKIPPED_PAYLOAD_MAX);

#[cfg(test)]
mod tests {
    use ghost_frames::{
        Frame, FrameReader, Payload, StreamType,
        tx::{ShortId, TxAnnounce, TxAnnounceEntry},
    };

    use super::*;

    #[test]
    fn sizes_are_few_and_always_leave_room() {
        let mut sizes = std::collections::BTreeSet::new();
        for length in 1..40_000 {
            let size = size_class(length);
            assert!(size >= length + HEAD && size - length - HEAD < 1 << 14, "{length}");
            sizes.insert(size);
        }
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [512, 1024, 2048, 4096, 8192, 16384, 32768, 49152]);
    }

    #[test]
    fn what_was_padded_reads_as_before() {
        let shape = Shape { pad: true, ..Shape::default() };
        for entries in [1, 20, 300] {
            let entries = (0..entries).map(|n| TxAnnounceEntry { id: ShortId(n), bytes: 250, fee_class: 0 });
            let announce = TxAnnounce { entries: entries.collect() };
            let plain = announce.to_frame().bytes().clone();
            let padded = shape.padded(Class::Tx, plain.clone());
            assert_eq!(padded.len(), size_class(plain.len()));
            assert!(padded.starts_with(&plain));
            let mut reader = FrameReader::new(StreamType::TxPush);
            reader.push(&padded);
            assert_eq!(reader.next().unwrap(), Some(Frame::TxAnnounce(announce)));
            assert_eq!(reader.next().unwrap(), None);
            assert!(reader.finish().is_ok(), "nothing is left over");
            assert_eq!(shape.padded(Class::Block, plain.clone()), plain, "others are as they were");
            assert_eq!(Shape::default().padded(Class::Tx, plain.clone()), plain);
        }
        assert_eq!(Shape::default().pause(Class::Tx), None);
        let jitter = Shape { jitter: Duration::from_millis(300), ..Shape::default() };
        assert!(jitter.pause(Class::Tx).is_some_and(|pause| pause <= jitter.jitter));
        assert_eq!(jitter.pause(Class::Block), None);
    }
}

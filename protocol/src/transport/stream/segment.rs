//! What a multiplexed stream is cut into, so that it can say what QUIC says beside the bytes: that it ends
//! here, that it is broken off and why, that nobody wants it any more.
//!
//! A segment begins with a varint: the kind in its lowest three bits, above them a number.
//!
//! | kind | number | then | says |
//! | --- | --- | --- | --- |
//! | 0 data | length, 1 to 65,536 | so many bytes | these are of the stream |
//! | 1 finish | 0 | | my side ends here |
//! | 2 reset | code | | my side is broken off |
//! | 3 stop | code | | send no more |
//! | 4 done | 0 | | I have all of your side |

use bytes::{Bytes, BytesMut};
use ghost_proto::layout::{peek_varint, put_varint};

/// Most bytes of one data segment that are taken.
pub(super) const DATA_BYTES_MAX: usize = 64 * 1024;

/// Most that are sent in one: the multiplexer cuts there too, so that streams take turns.
pub(super) const DATA_BYTES_SENT: usize = 16 * 1024 - 4;

/// One segment, or part of the data of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Data(Bytes),
    Finish,
    Reset(u64),
    Stop(u64),
    Done,
}

/// Bytes that are no segment. The sender broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream is cut into something that is no segment")]
pub(super) struct NoSegment;

/// Cuts what comes in. Holds nothing but how much of a data segment is still to come.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    left: usize,
}

impl Cutter {
    /// The next segment in `bytes`, which is shortened; `None` if more is needed. Data come as soon as some
    /// of them are there.
    pub(super) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Segment>, NoSegment> {
        if self.left == 0 {
            let Some((head, length)) = peek_varint(bytes) else { return Ok(None) };
            let (kind, number) = (head & 7, head >> 3);
            let segment = match kind {
                0 if (1..=DATA_BYTES_MAX as u64).contains(&number) => None,
                1 if number == 0 => Some(Segment::Finish),
                2 => Some(Segment::Reset(number)),
                3 => Some(Segment::Stop(number)),
                4 if number == 0 => Some(Segment::Done),
                _ => return Err(NoSegment),
            };
            let _ = bytes.split_to(length);
            match segment {
                Some(segment) => return Ok(Some(segment)),
                None => self.left = number as usize,
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let data = bytes.split_to(bytes.len().min(self.left)).freeze();
        self.left -= data.len();
        Ok(Some(Segment::Data(data)))
    }
}

fn put(out: &mut BytesMut, kind: u64, number: u64) {
    let mut head = Vec::with_capacity(8);
    put_varint(&mut head, number << 3 | kind);
    out.extend_from_slice(&head);
}

/// Appends the head of a data segment, behind which its bytes follow.
pub(super) fn put_data_head(out: &mut BytesMut, length: usize) {
    debug_assert!((1..=DATA_BYTES_MAX).contains(&length));
    put(out, 0, length as u64);
}

/// Appends a segment.
pub(super) fn put_segment(out: &mut BytesMut, segment: &Segment) {
    match segment {
        Segment::Data(data) => {
            put_data_head(out, data.len());
            out.extend_from_slice(data);
        }
        Segment::Finish => put(out, 1, 0),
        Segment::Reset(code) => put(out, 2, *code),
        Segment::Stop(code) => put(out, 3, *code),
        Segment::Done => put(out, 4, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], step: usize) -> Result<Vec<Segment>, NoSegment> {
        let (mut cutter, mut buffer, mut all) = (Cutter::default(), BytesMut::new(), Vec::new());
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(segment) = cutter.next(&mut buffer)? {
                match (all.last_mut(), segment) {
                    (Some(Segment::Data(before)), Segment::Data(data)) => {
                        *before = [&before[..], &data[..]].concat().into();
                    }
                    (_, segment) => all.push(segment),
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn segments_come_back_however_they_arrive() {
        let segments = [
            Segment::Data(vec![7; DATA_BYTES_MAX].into()),
            Segment::Stop(0x17),
            Segment::Data(Bytes::from_static(b"x")),
            Segment::Done,
            Segment::Reset(1 << 40),
            Segment::Finish,
        ];
        let mut bytes = BytesMut::new();
        segments.iter().for_each(|segment| put_segment(&mut bytes, segment));
        for step in [1, 2, 3, 1000, bytes.len()] {
            assert_eq!(cut(&bytes, step), Ok(segments.to_vec()), "{step} bytes at a time");
        }
        // The vectors of WIRE.md.
        let mut bytes = BytesMut::new();
        for segment in [
            Segment::Data(Bytes::from_static(&[0xaa, 0xbb])),
            Segment::Finish,
            Segment::Reset(0x17),
            Segment::Stop(0x16),
            Segment::Done,
        ] {
            put_segment(&mut bytes, &segment);
        }
        assert_eq!(hex::encode(&bytes), "10aabb0140ba40b304");
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let head = |value: u64| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            bytes
        };
        let longest = DATA_BYTES_MAX as u64;
        assert!(cut(&head(longest << 3), 1).is_ok());
        for value in [0, (longest + 1) << 3, 1 << 3 | 1, 1 << 3 | 4, 5, 6, 7] {
            assert_eq!(cut(&head(value), 8), Err(NoSegment), "{value}");
        }
    }
}

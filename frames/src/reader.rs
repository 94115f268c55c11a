//! Cutting received bytes into frames.

use bytes::{Buf, Bytes, BytesMut};
use ghost_proto::layout::peek_varint;

use crate::{
    code::Code,
    frame::{self, Frame},
    kind::{Kind, SKIPPED_PAYLOAD_MAX},
    stream::StreamType,
    writer::PayloadError,
};

/// Why a stream's bytes are not frames. [`DecodeError::code`] says what to send back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The declared length exceeds the kind's limit. Nothing was allocated for it.
    #[error("a frame of kind {kind} declares {length} bytes, allowed are {max}")]
    TooLarge {
        /// Kind it claims.
        kind: Kind,
        /// Length it declares.
        length: u64,
        /// Length it may have.
        max: u64,
    },
    /// A required kind that this node does not know.
    #[error("frame kind {0} is not known and may not be skipped")]
    UnknownKind(Kind),
    /// A known kind on a stream where it does not belong.
    #[error("a {kind} frame does not belong on a {stream} stream")]
    WrongStream {
        /// Name of the kind.
        kind: &'static str,
        /// Name of the stream type.
        stream: &'static str,
    },
    /// The payload does not decode.
    #[error("{kind}: {error}")]
    Malformed {
        /// Name of the kind.
        kind: &'static str,
        /// What is wrong with it.
        error: PayloadError,
    },
    /// The stream ended inside a frame.
    #[error("the stream ends inside a frame")]
    Truncated,
}

impl DecodeError {
    /// The code to close the stream or the connection with.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::FrameTooLarge,
            Self::UnknownKind(_) => Code::UnknownKind,
            Self::WrongStream { .. } => Code::ProtocolViolation,
            Self::Malformed { .. } | Self::Truncated => Code::Malformed,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Waiting for kind and length.
    Head,
    /// Waiting for a payload of a known kind.
    Payload { kind: Kind, length: usize },
    /// Reading past a frame that is skipped.
    Skip { length: usize, left: usize },
}

/// Cuts the bytes of one stream into frames.
///
/// Feed it what arrives ([`FrameReader::push`]), take what is complete ([`FrameReader::next`]).
/// What it holds is less than one frame of the largest kind its stream allows, plus what was pushed
/// last; its buffer grows by doubling, and only with bytes that really came.
#[derive(Debug)]
pub struct FrameReader {
    stream: StreamType,
    buffer: BytesMut,
    state: State,
    passed: u64,
}

impl FrameReader {
    /// For a stream of this type, after the type itself was read.
    pub fn new(stream: StreamType) -> Self {
        Self { stream, buffer: BytesMut::new(), state: State::Head, passed: 0 }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// True while a frame is begun and not complete: the time for a deadline to run.
    pub fn is_mid_frame(&self) -> bool {
        !matches!(self.state, State::Head) || !self.buffer.is_empty()
    }

    /// Length that the frame under way has declared; 0 while its head is incomplete.
    pub fn declared(&self) -> usize {
        match self.state {
            State::Head => 0,
            State::Payload { length, .. } | State::Skip { length, .. } => length,
        }
    }

    /// Frames that are complete, skipped ones too: while this grows, the stream is not stalled.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next complete frame, or `None` until more bytes are pushed. After an error the stream
    /// cannot be read on.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame>, DecodeError> {
        loop {
            match self.state {
                State::Head => {
                    let Some((kind, kind_len)) = peek_varint(&self.buffer) else {
                        return Ok(self.pause());
                    };
                    let kind = Kind(kind);
                    // An unknown or misplaced kind is refused as soon as it shows.
                    let max = self.payload_max(kind)?;
                    let Some((length, length_len)) = peek_varint(&self.buffer[kind_len..]) else {
                        return Ok(self.pause());
                    };
                    if length > max {
                        return Err(DecodeError::TooLarge { kind, length, max });
                    }
                    self.buffer.advance(kind_len + length_len);
                    // `length` fits: it is at most a kind's limit.
                    let length = length as usize;
                    self.state = match frame::info(kind) {
                        Some(_) => State::Payload { kind, length },
                        None => State::Skip { length, left: length },
                    };
                }
                State::Payload { kind, length } => {
                    if self.buffer.len() < length {
                        return Ok(None);
                    }
                    let payload: Bytes = self.buffer.split_to(length).freeze();
                    self.state = State::Head;
                    self.passed += 1;
                    return Frame::decode(kind, payload).map(Some);
                }
                State::Skip { length, left } => {
                    let skipped = left.min(self.buffer.len());
                    self.buffer.advance(skipped);
                    if skipped < left {
                        self.state = State::Skip { length, left: left - skipped };
                        return Ok(self.pause());
                    }
                    self.state = State::Head;
                    self.passed += 1;
                }
            }
        }
    }

    /// The stream has ended.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.is_mid_frame() { Err(DecodeError::Truncated) } else { Ok(()) }
    }

    /// Gives back an empty buffer's memory while nothing is expected.
    fn pause(&mut self) -> Option<Frame> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        None
    }

    fn payload_max(&self, kind: Kind) -> Result<u64, DecodeError> {
        match frame::info(kind) {
            Some(info) if info.is_allowed_on(self.stream) => Ok(info.payload_max_on(self.stream) as u64),
            Some(info) => Err(DecodeError::WrongStream { kind: info.name, stream: self.stream.name() }),
            None if kind.is_skippable() => Ok(SKIPPED_PAYLOAD_MAX),
            None => Err(DecodeError::UnknownKind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, block::WholeBlock, control::Ping};
    use ghost_proto::{GenesisId, KeyPair, block::HeaderFields, merkle};

    fn whole_block(body: usize) -> WholeBlock {
        let header = HeaderFields {
            parent: GenesisId::ZERO.0.into(),
            height: 1,
            slot: 1,
            proposer: 0,
            tx_count: 0,
            body_bytes: body as u32,
            tx_root: merkle::empty_root(),
            receipt_root: merkle::empty_root(),
            state: [0; 32],
            gas_used: 0,
        };
        let header = header.seal(&GenesisId::ZERO, &KeyPair::from_seed(&[1; 32]));
        WholeBlock { header, body: Bytes::from(vec![7; body]) }
    }

    #[test]
    fn memory_grows_with_what_came_and_not_with_what_was_declared() {
        let frame = whole_block(4 << 20).to_frame();
        let mut reader = FrameReader::new(StreamType::BlockFetch);
        let mut pushed = 0;
        for chunk in frame.bytes().chunks(1200) {
            assert!(
                reader.buffer.capacity() <= 2 * (pushed + 1200),
                "{} for {pushed}",
                reader.buffer.capacity()
            );
            reader.push(chunk);
            pushed += chunk.len();
            if pushed < frame.len() {
                assert_eq!(reader.next(), Ok(None));
                assert!(reader.buffered() <= pushed);
            }
        }
        assert!(matches!(reader.next(), Ok(Some(Frame::WholeBlock(_)))));
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(reader.buffer.capacity(), 0, "an idle reader holds nothing");
    }

    #[test]
    fn a_reader_of_endless_small_frames_holds_one_push() {
        let ping = Ping(7).to_frame();
        let chunk = ping.bytes().repeat(100);
        let mut reader = FrameReader::new(StreamType::Control);
        for _ in 0..1000 {
            // Split inside a frame, so that the buffer is never empty when the next chunk comes.
            reader.push(&chunk[..chunk.len() - 3]);
            while reader.next().unwrap().is_some() {}
            assert!(reader.is_mid_frame());
            reader.push(&chunk[chunk.len() - 3..]);
            while reader.next().unwrap().is_some() {}
            assert!(reader.buffer.capacity() <= 4 * chunk.len(), "{}", reader.buffer.capacity());
            assert!(!reader.is_mid_frame());
        }
    }

    #[test]
    fn a_skipped_frame_is_never_held() {
        let head = [0x7f, 0x00, 0x80, 0x01, 0x00, 0x00];
        let mut reader = FrameReader::new(StreamType::Control);
        reader.push(&head);
        for _ in 0..64 {
            reader.push(&[0; 1024]);
            assert_eq!(reader.next(), Ok(None));
            assert_eq!(reader.buffered(), 0);
        }
        assert_eq!(reader.finish(), Ok(()));
    }
}

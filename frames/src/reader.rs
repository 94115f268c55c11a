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
    Skip { left: usize },
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
}

impl FrameReader {
    /// For a stream of this type, after the type itself was read.
    pub fn new(stream: StreamType) -> Self {
        Self { stream, buffer: BytesMut::new(), state: State::Head }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// True while a frame is begun and not complete: the time for a deadline to run.
    pub fn is_mid_frame(&self) -> bool {
        !matches!(self.state, State::Head) || !self.buffer.is_empty()
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
                        None => State::Skip { left: length },
                    };
                }
                State::Payload { kind, length } => {
                    if self.buffer.len() < length {
                        return Ok(None);
                    }
                    let payload: Bytes = self.buffer.split_to(length).freeze();
                    self.state = State::Head;
                    return Frame::decode(kind, payload).map(Some);
                }
                State::Skip { left } => {
                    let skipped = left.min(self.buffer.len());
                    self.buffer.advance(skipped);
                    if skipped < left {
                        self.state = State::Skip { left: left - skipped };
                        return Ok(self.pause());
                    }
                    self.state = State::Head;
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
            Some(info) if info.is_allowed_on(self.stream) => Ok(info.payload_max as u64),
            Some(info) => Err(DecodeError::WrongStream { kind: info.name, stream: self.stream.name() }),
            None if kind.is_skippable() => Ok(SKIPPED_PAYLOAD_MAX),
            None => Err(DecodeError::UnknownKind(kind)),
        }
    }
}

//! Reading one stream: its type, then its frames, each within its deadline.

use std::future::poll_fn;

use bytes::Bytes;
use ghost_frames::{Code, DecodeError, Frame, FrameReader};
use ghost_proto::layout::peek_varint;
use tokio::time::{Instant, timeout_at};

use crate::{
    class::{FRAME_DEADLINE, frame_deadline},
    transport::{ReadError, RecvStream},
};

/// Chunks taken from a stream at once. The transport hands over one for each packet, so this is
/// about 45 KiB; at most it is the stream's flow control window.
const CHUNKS_PER_READ: usize = 32;

/// Why nothing more comes from a stream.
#[derive(Debug)]
pub(crate) enum StreamEnd {
    /// Its sender ended it between two frames.
    Finished,
    /// Its sender reset it.
    Reset(Code),
    /// A frame was left half-sent for too long, or nothing came by the reader's deadline.
    Stalled,
    /// It was part of early data that the server discarded.
    EarlyDiscarded,
    /// The connection is over.
    Disconnected(String),
    /// What came is not frames.
    Undecodable(DecodeError),
}

impl From<ReadError> for StreamEnd {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code),
            ReadError::Lost(closed) => Self::Disconnected(closed.to_string()),
            ReadError::EarlyDiscarded => Self::EarlyDiscarded,
            other @ ReadError::TooLong => Self::Disconnected(other.to_string()),
        }
    }
}

/// Reads the varint a stream starts with. What came with it is left in `rest`.
pub(crate) async fn read_stream_type(recv: &mut RecvStream, rest: &mut Vec<u8>) -> Result<u64, StreamEnd> {
    let deadline = Instant::now() + FRAME_DEADLINE;
    loop {
        if let Some((number, len)) = peek_varint(rest) {
            rest.drain(..len);
            return Ok(number);
        }
        match timeout_at(deadline, recv.read_chunk()).await {
            Err(_) => return Err(StreamEnd::Stalled),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(None)) => return Err(StreamEnd::Finished),
            Ok(Ok(Some(chunk))) => rest.extend_from_slice(&chunk),
        }
    }
}

/// When the frame under way must be complete.
#[derive(Debug, Default)]
pub(crate) struct FrameClock {
    begun: Option<Instant>,
    passed: u64,
}

impl FrameClock {
    /// Looks at the reader after each read: a frame that is under way started when it was first seen.
    pub(crate) fn observe(&mut self, reader: &FrameReader) {
        if reader.passed() != self.passed || !reader.is_mid_frame() {
            self.passed = reader.passed();
            self.begun = None;
        }
        if reader.is_mid_frame() && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
    }

    pub(crate) fn deadline(&self, reader: &FrameReader) -> Option<Instant> {
        self.begun.map(|begun| begun + frame_deadline(reader.declared()))
    }
}

/// Reads what has come into the reader and says how many bytes that was; waits if it is nothing.
pub(crate) async fn read_some(
    recv: &mut RecvStream,
    reader: &mut FrameReader,
    deadline: Option<Instant>,
) -> Result<usize, StreamEnd> {
    let read = poll_fn(|context| {
        // Made anew for each poll: in the future it would cost every idle stream a kilobyte.
        let mut chunks = [const { Bytes::new() }; CHUNKS_PER_READ];
        let read = recv.poll_read_chunks(context, &mut chunks);
        read.map_ok(|count| {
            let chunks = &chunks[..count?];
            chunks.iter().for_each(|chunk| reader.push(chunk));
            Some(chunks.iter().map(Bytes::len).sum())
        })
    });
    let read = match deadline {
        Some(deadline) => timeout_at(deadline, read).await.map_err(|_| StreamEnd::Stalled)?,
        None => read.await,
    };
    match read? {
        Some(bytes) => Ok(bytes),
        None => match reader.finish() {
            Ok(()) => Err(StreamEnd::Finished),
            Err(error) => Err(StreamEnd::Undecodable(error)),
        },
    }
}

/// Reads the next frame, and says how many bytes were read for it. `first_byte` bounds the wait for
/// it to begin; once begun it has its own deadline, whichever is later. While it is not complete, `came` is
/// told of what was read.
pub(crate) async fn read_frame(
    recv: &mut RecvStream,
    reader: &mut FrameReader,
    first_byte: Option<Instant>,
    mut came: impl FnMut(usize),
) -> Result<(Frame, usize), StreamEnd> {
    let mut bytes = 0;
    let mut clock = FrameClock::default();
    clock.observe(reader);
    loop {
        if let Some(frame) = reader.next().map_err(StreamEnd::Undecodable)? {
            return Ok((frame, bytes));
        }
        clock.observe(reader);
        let deadline = match (first_byte, clock.deadline(reader)) {
            (Some(first), Some(frame)) => Some(first.max(frame)),
            (first, frame) => frame.or(first),
        };
        let read = read_some(recv, reader, deadline).await?;
        bytes += read;
        came(read);
    }
}

//! A bounded queue of frames for one push stream to one peer.

use std::{collections::VecDeque, sync::Mutex};

use bytes::Bytes;
use ghost_frames::{EncodedFrame, StreamType};
use ghost_proto::layout::put_varint;
use tokio::time::Instant;

use crate::{
    class::{ClassSpec, SlowPolicy},
    transport::SendStream,
};

/// What became of a pushed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Queued. It will be sent unless the connection fails, or a newer frame displaces it in a class
    /// that drops the oldest.
    Queued,
    /// The queue is full: keep the frame and try again later.
    BackOff,
    /// The session is over or draining: use the peer's other session, if there is one.
    Closed,
    /// The peer does not serve this stream type.
    NotServed,
}

/// What pushing did to the queue, for the session to act upon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Enqueued {
    /// In the queue; `start` if a writer must be started.
    Yes { start: bool, dropped: usize },
    /// No room, and the policy is to refuse.
    Full,
    /// No room, and the policy is to close the connection.
    Fatal,
    /// The outbox is closed.
    Closed,
}

/// A push stream and when it was opened.
#[derive(Debug)]
pub(crate) struct PushStream {
    pub(crate) send: SendStream,
    pub(crate) opened: Instant,
}

/// What is left of a writer that found nothing to write.
#[derive(Debug)]
pub(crate) enum Parked {
    /// It is done; the next one takes the stream over.
    Done,
    /// Something was queued meanwhile: go on.
    Again(PushStream),
    /// The outbox is closed: end the stream, then call [`Outbox::ended`].
    End(PushStream),
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<EncodedFrame>,
    /// Bytes queued or being written.
    bytes: usize,
    /// Of these, the bytes being written.
    batch_bytes: usize,
    /// A writer runs, or the stream's end is under way.
    writing: bool,
    closed: bool,
    /// The stream between two writers.
    stream: Option<PushStream>,
}

/// The queue. At most `queue_bytes` of its class wait in it, what is being written included; a single
/// frame always fits into an empty queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream_type: StreamType,
    state: Mutex<State>,
}

impl Outbox {
    pub(crate) fn new(stream_type: StreamType) -> Self {
        Self { stream_type, state: Mutex::default() }
    }

    /// Takes over a stream that was opened and begun already.
    pub(crate) fn adopt(&self, stream: SendStream) {
        self.lock().stream = Some(PushStream { send: stream, opened: Instant::now() });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds an outbox")
    }

    pub(crate) fn push(&self, frame: EncodedFrame, spec: &ClassSpec) -> Enqueued {
        let mut state = self.lock();
        if state.closed {
            return Enqueued::Closed;
        }
        let mut dropped = 0;
        while !state.queue.is_empty() && state.bytes + frame.len() > spec.queue_bytes {
            match spec.slow {
                SlowPolicy::Refuse => return Enqueued::Full,
                SlowPolicy::Close => return Enqueued::Fatal,
                SlowPolicy::DropOldest => {
                    if let Some(oldest) = state.queue.pop_front() {
                        state.bytes -= oldest.len();
                        dropped += 1;
                    }
                }
            }
        }
        state.bytes += frame.len();
        state.queue.push_back(frame);
        let start = !std::mem::replace(&mut state.writing, true);
        Enqueued::Yes { start, dropped }
    }

    /// Bytes waiting.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Accepts nothing more; what is queued is still written. If no writer runs, gives the stream to
    /// be ended by the caller, who then calls [`Self::ended`].
    pub(crate) fn close(&self) -> Option<PushStream> {
        let mut state = self.lock();
        state.closed = true;
        if state.writing {
            return None;
        }
        let stream = state.stream.take();
        state.writing = stream.is_some();
        stream
    }

    /// The end of the stream is acknowledged, or never will be.
    pub(crate) fn ended(&self) {
        self.lock().writing = false;
    }

    /// True once nothing is queued, no writer runs and, if the outbox was closed, the peer has
    /// acknowledged all of the stream.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.lock();
        state.queue.is_empty() && !state.writing
    }

    /// The stream left by the last writer, for the next.
    pub(crate) fn take_stream(&self) -> Option<PushStream> {
        self.lock().stream.take()
    }

    /// The bytes a new stream starts with.
    pub(crate) fn stream_head(&self) -> Bytes {
        let mut head = Vec::with_capacity(2);
        put_varint(&mut head, self.stream_type.number());
        head.into()
    }

    /// Takes up to [`BATCH_FRAMES_MAX`] frames of [`BATCH_BYTES_MAX`] together, or one longer one.
    /// They count as queued until the next call. If there are none the writer must park.
    pub(crate) fn take_batch(&self, out: &mut Vec<Bytes>) {
        let mut state = self.lock();
        state.bytes -= std::mem::take(&mut state.batch_bytes);
        while out.len() < BATCH_FRAMES_MAX
            && let Some(next) = state.queue.front()
            && (out.is_empty() || state.batch_bytes + next.len() <= BATCH_BYTES_MAX)
            && let Some(frame) = state.queue.pop_front()
        {
            state.batch_bytes += frame.len();
            out.push(frame.bytes().clone());
        }
    }

    /// Leaves the stream to the next writer, unless there is something left to do.
    pub(crate) fn park(&self, stream: PushStream) -> Parked {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            return Parked::Again(stream);
        }
        if state.closed {
            return Parked::End(stream);
        }
        state.writing = false;
        state.stream = Some(stream);
        Parked::Done
    }

    /// The stream failed: nothing can be sent any more.
    pub(crate) fn fail(&self) {
        let mut state = self.lock();
        *state = State { closed: true, ..State::default() };
    }
}

/// Frames handed to the transport at once.
const BATCH_FRAMES_MAX: usize = 64;

/// Their bytes, unless one frame alone has more.
const BATCH_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::{Class, ClassTable};
    use ghost_frames::Kind;

    fn frame(len: usize) -> EncodedFrame {
        EncodedFrame::new(Kind(0x3f00), &vec![0; len - 4])
    }

    #[test]
    fn scenario_11_a_full_queue_follows_its_policy_and_never_grows() {
        let table = ClassTable::default();
        for (class, stream) in [
            (Class::Tx, StreamType::TxPush),
            (Class::Block, StreamType::BlockPush),
            (Class::Control, StreamType::Control),
        ] {
            let spec = table.spec(class);
            let outbox = Outbox::new(stream);
            let size = 1024;
            let fits = spec.queue_bytes / size;
            for n in 0..fits {
                assert_eq!(outbox.push(frame(size), spec), Enqueued::Yes { start: n == 0, dropped: 0 });
            }
            assert_eq!(outbox.queued_bytes(), fits * size);
            for _ in 0..10 * fits {
                let expected = match spec.slow {
                    SlowPolicy::Refuse => Enqueued::Full,
                    SlowPolicy::Close => Enqueued::Fatal,
                    SlowPolicy::DropOldest => Enqueued::Yes { start: false, dropped: 1 },
                };
                assert_eq!(outbox.push(frame(size), spec), expected);
                assert!(outbox.queued_bytes() <= spec.queue_bytes);
            }
        }
    }

    #[test]
    fn scenario_11_what_is_being_written_counts_as_queued() {
        let table = ClassTable::default();
        let spec = table.spec(Class::Tx);
        let outbox = Outbox::new(StreamType::TxPush);
        let size = 256 * 1024;
        while outbox.push(frame(size), spec) != Enqueued::Full {}
        let queued = outbox.queued_bytes();
        let mut batch = Vec::new();
        outbox.take_batch(&mut batch);
        assert_eq!(batch.len(), 1, "a frame longer than a batch goes alone");
        assert_eq!(outbox.queued_bytes(), queued);
        assert_eq!(outbox.push(frame(size), spec), Enqueued::Full);
        batch.clear();
        outbox.take_batch(&mut batch);
        assert_eq!(outbox.queued_bytes(), queued - frame(size).len(), "the first was written");

        let small = Outbox::new(StreamType::TxPush);
        for _ in 0..100 {
            small.push(frame(1024), spec);
        }
        for expected in [64, 36, 0] {
            batch.clear();
            small.take_batch(&mut batch);
            assert_eq!(batch.len(), expected);
        }
        assert_eq!(small.queued_bytes(), 0);
    }

    #[test]
    fn a_frame_larger_than_the_queue_still_fits_into_an_empty_one() {
        let table = ClassTable::default();
        let outbox = Outbox::new(StreamType::BlockPush);
        let spec = table.spec(Class::Block);
        assert_eq!(outbox.push(frame(spec.queue_bytes + 1), spec), Enqueued::Yes { start: true, dropped: 0 });
    }
}

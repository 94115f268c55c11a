//! A bounded queue of frames for one push stream to one peer.

use std::{collections::VecDeque, sync::Mutex};

use bytes::{Bytes, BytesMut};
use ghost_frames::{EncodedFrame, StreamType};
use ghost_proto::layout::put_varint;
use tokio::{sync::Notify, time::Instant};

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

/// Frames to be written at once.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    pub(crate) frames: usize,
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
    /// Somebody waits for room.
    wanted: bool,
    /// The stream between two writers.
    stream: Option<PushStream>,
}

/// The queue. At most `queue_bytes` of its class wait in it, what is being written included; a single
/// frame always fits into an empty queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream_type: StreamType,
    state: Mutex<State>,
    /// A queue that was too full has room again, or never will.
    room: Notify,
}

impl Outbox {
    pub(crate) fn new(stream_type: StreamType) -> Self {
        Self { stream_type, state: Mutex::default(), room: Notify::new() }
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

    /// Waits until at most half of the queue is taken, so that its maker is woken for many frames and
    /// not for each, or until nothing is accepted any more.
    pub(crate) async fn room(&self, spec: &ClassSpec) {
        loop {
            let mut notified = std::pin::pin!(self.room.notified());
            {
                let mut state = self.lock();
                if state.closed || state.bytes <= spec.queue_bytes / 2 {
                    return;
                }
                state.wanted = true;
                // Registered before the lock is released: no writer can slip in between.
                notified.as_mut().enable();
            }
            notified.await;
        }
    }

    /// Accepts nothing more; what is queued is still written. If no writer runs, gives the stream to
    /// be ended by the caller, who then calls [`Self::ended`].
    pub(crate) fn close(&self) -> Option<PushStream> {
        let mut state = self.lock();
        state.closed = true;
        self.room.notify_waiters();
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

    /// Takes queued frames for one write: at least one, and more up to [`WRITE_BYTES`]. `None` if
    /// nothing is queued: the writer must park. They count as queued until the next call.
    ///
    /// Small frames are copied together, because the transport searches the chunks that are not
    /// acknowledged one by one for each packet it makes: a window of 250-byte chunks would cost it
    /// more than encryption does.
    pub(crate) fn take_batch(&self, spec: &ClassSpec) -> Option<Batch> {
        let mut state = self.lock();
        state.bytes -= std::mem::take(&mut state.batch_bytes);
        if state.wanted && state.bytes <= spec.queue_bytes / 2 {
            state.wanted = false;
            self.room.notify_waiters();
        }
        let first = state.queue.pop_front()?.into_bytes();
        let mut len = first.len();
        let follow = state.queue.iter().take_while(|frame| {
            let fits = len + frame.len() <= WRITE_BYTES;
            len += if fits { frame.len() } else { 0 };
            fits
        });
        let count = follow.count();
        let bytes = if count == 0 {
            first
        } else {
            let mut batch = BytesMut::with_capacity(len);
            batch.extend_from_slice(&first);
            state.queue.drain(..count).for_each(|frame| batch.extend_from_slice(frame.bytes()));
            batch.freeze()
        };
        state.batch_bytes = bytes.len();
        Some(Batch { bytes, frames: 1 + count })
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
        self.room.notify_waiters();
    }
}

/// Frames that together are no longer than this go to the transport as one chunk.
const WRITE_BYTES: usize = 16 * 1024;

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
        assert_eq!(
            outbox.take_batch(spec).unwrap().bytes.len(),
            frame(size).len(),
            "a frame longer than a write goes alone"
        );
        assert_eq!(outbox.queued_bytes(), queued);
        assert_eq!(outbox.push(frame(size), spec), Enqueued::Full);
        outbox.take_batch(spec);
        assert_eq!(outbox.queued_bytes(), queued - frame(size).len(), "the first was written");

        let small = Outbox::new(StreamType::TxPush);
        for _ in 0..20 {
            small.push(frame(1024), spec);
        }
        for expected in [Some((16, 16 * 1024)), Some((4, 4 * 1024)), None] {
            let batch = small.take_batch(spec).map(|batch| (batch.frames, batch.bytes.len()));
            assert_eq!(batch, expected);
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

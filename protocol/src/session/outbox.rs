//! A bounded queue of frames for one push stream to one peer.

use std::{collections::VecDeque, sync::Mutex};

use bytes::{Bytes, BytesMut};
use ghost_frames::{EncodedFrame, StreamType};
use ghost_proto::layout::put_varint;
use tokio::sync::Notify;

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
    /// The queue is full: keep the frame and try again once
    /// [`Session::push_ready`](super::Session::push_ready) returns.
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

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<EncodedFrame>,
    bytes: usize,
    writing: bool,
    closed: bool,
    /// Somebody waits for room.
    wanted: bool,
    /// The stream between two writers.
    stream: Option<SendStream>,
}

/// The queue. At most `queue_bytes` of its class wait in it; a single frame always fits into an
/// empty queue.
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
        self.lock().stream = Some(stream);
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

    /// Accepts nothing more; what is queued is still written. Ends the stream if no writer runs.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.room.notify_waiters();
        if !state.writing
            && let Some(mut stream) = state.stream.take()
        {
            // Fails only if the peer stopped the stream.
            let _ = stream.finish();
        }
    }

    /// True once nothing is queued and no writer runs.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.lock();
        state.queue.is_empty() && !state.writing
    }

    /// The stream left by the last writer, for the next.
    pub(crate) fn take_stream(&self) -> Option<SendStream> {
        self.lock().stream.take()
    }

    /// The bytes a new stream starts with.
    pub(crate) fn stream_head(&self) -> Bytes {
        let mut head = Vec::with_capacity(2);
        put_varint(&mut head, self.stream_type.number());
        head.into()
    }

    /// Takes queued frames for one write: at least one, and more up to [`WRITE_BYTES`]. None if
    /// nothing is queued.
    ///
    /// Small frames are copied together, because the transport searches the chunks that are not
    /// acknowledged one by one for each packet it makes: a window of 250-byte chunks would cost it
    /// more than encryption does.
    pub(crate) fn take_batch(&self, spec: &ClassSpec) -> Option<Bytes> {
        let mut state = self.lock();
        let first = state.queue.pop_front()?.into_bytes();
        let mut len = first.len();
        let follow = state.queue.iter().take_while(|frame| {
            let fits = len + frame.len() <= WRITE_BYTES;
            len += if fits { frame.len() } else { 0 };
            fits
        });
        let count = follow.count();
        let batch = if count == 0 {
            first
        } else {
            let mut batch = BytesMut::with_capacity(len);
            batch.extend_from_slice(&first);
            state.queue.drain(..count).for_each(|frame| batch.extend_from_slice(frame.bytes()));
            batch.freeze()
        };
        state.bytes -= batch.len();
        if state.wanted && state.bytes <= spec.queue_bytes / 2 {
            state.wanted = false;
            self.room.notify_waiters();
        }
        Some(batch)
    }

    /// Ends the writer if nothing was queued meanwhile; gives the stream back otherwise.
    pub(crate) fn park(&self, mut stream: SendStream) -> Option<SendStream> {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            return Some(stream);
        }
        state.writing = false;
        if state.closed {
            let _ = stream.finish();
        } else {
            state.stream = Some(stream);
        }
        None
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
    fn a_frame_larger_than_the_queue_still_fits_into_an_empty_one() {
        let table = ClassTable::default();
        let outbox = Outbox::new(StreamType::BlockPush);
        let spec = table.spec(Class::Block);
        assert_eq!(outbox.push(frame(spec.queue_bytes + 1), spec), Enqueued::Yes { start: true, dropped: 0 });
    }

    /// Whether a future is done when polled once.
    fn is_ready(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn a_maker_that_backs_off_is_woken_when_half_of_the_queue_is_free_and_not_before() {
        let table = ClassTable::default();
        let spec = table.spec(Class::Tx);
        let outbox = Outbox::new(StreamType::TxPush);
        assert_eq!(spec.queue_bytes, 64 * WRITE_BYTES);
        let size = WRITE_BYTES / 4;
        while matches!(outbox.push(frame(size), spec), Enqueued::Yes { .. }) {}
        let mut room = std::pin::pin!(outbox.room(spec));
        for _ in 0..31 {
            assert_eq!(outbox.take_batch(spec).unwrap().len(), WRITE_BYTES);
            assert!(!is_ready(room.as_mut()), "{} bytes are queued", outbox.queued_bytes());
        }
        outbox.take_batch(spec);
        assert_eq!(outbox.queued_bytes(), spec.queue_bytes / 2);
        assert!(is_ready(room.as_mut()));
        assert!(is_ready(std::pin::pin!(outbox.room(spec))), "who asks late does not wait");
    }

    #[test]
    fn a_maker_that_backs_off_is_woken_when_the_stream_ends() {
        let table = ClassTable::default();
        let spec = table.spec(Class::Tx);
        for end in [Outbox::close, Outbox::fail] {
            let outbox = Outbox::new(StreamType::TxPush);
            while matches!(outbox.push(frame(1024), spec), Enqueued::Yes { .. }) {}
            let mut room = std::pin::pin!(outbox.room(spec));
            assert!(!is_ready(room.as_mut()));
            end(&outbox);
            assert!(is_ready(room));
        }
    }

    #[test]
    fn small_frames_travel_together_in_order_and_a_large_one_alone() {
        let table = ClassTable::default();
        let spec = table.spec(Class::Tx);
        let outbox = Outbox::new(StreamType::TxPush);
        let numbered = |n: u8, len: usize| EncodedFrame::new(Kind(0x3f00), &vec![n; len - 4]);
        let frames = [
            numbered(1, 1000),
            numbered(2, WRITE_BYTES - 1000),
            numbered(3, 100),
            numbered(4, WRITE_BYTES + 1),
            numbered(5, 100),
        ];
        for frame in &frames {
            assert!(matches!(outbox.push(frame.clone(), spec), Enqueued::Yes { .. }));
        }
        let joined = |frames: &[EncodedFrame]| {
            Bytes::from(frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect::<Vec<_>>())
        };
        assert_eq!(outbox.take_batch(spec), Some(joined(&frames[..2])), "just fits");
        assert_eq!(outbox.take_batch(spec), Some(joined(&frames[2..3])));
        assert_eq!(outbox.queued_bytes(), WRITE_BYTES + 101);
        assert_eq!(outbox.take_batch(spec), Some(joined(&frames[3..4])));
        assert_eq!(outbox.take_batch(spec), Some(joined(&frames[4..])));
        assert_eq!((outbox.take_batch(spec), outbox.queued_bytes()), (None, 0));
    }
}

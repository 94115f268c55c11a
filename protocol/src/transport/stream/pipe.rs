//! One multiplexed stream with two sides, each of which ends for itself.
//!
//! Nothing runs for a stream that nobody waits for: whoever polls either side also takes in what has come
//! for the other. Only a stream that both halves have left before the peer agreed that it is over is seen to
//! its end by a task, for at most [`LINGER`]; until then it counts against the streams that may be open.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};
use ghost_frames::Code;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    Shared,
    segment::{Cutter, DATA_BYTES_SENT, NoSegment, Segment, put_data_head, put_segment},
};
use crate::transport::{Closed, Ended, ReadError, WriteError, read_code};

/// Data taken from the multiplexer and not read: beyond it the peer's credit is held back.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes asked of the multiplexer at once.
const READ_BYTES: usize = 8 * 1024;

/// Time a stream that both sides have left has to come to its end.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// Everybody who waits for something of one stream. Woken together: there are rarely two.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Vec<Waker>>);

impl Wakers {
    fn register(&self, waker: &Waker) {
        let mut wakers = self.0.lock().expect("no code panics while it holds wakers");
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wakers = mem::take(&mut *self.0.lock().expect("no code panics while it holds wakers"));
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// What became of the side that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Never ours.
    None,
    Open,
    /// Finished, and not acknowledged.
    Finished,
    /// The peer has all of it.
    Done,
    /// We broke it off.
    Reset,
    /// The peer wants no more.
    Stopped(Code),
}

/// What became of the side that receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    /// Never ours.
    None,
    Open,
    /// All of it has come.
    Finished,
    /// The peer broke it off.
    Reset(Code),
}

struct State {
    /// Gone once the stream is over for this side.
    io: Option<yamux::Stream>,
    cutter: Cutter,
    /// Not yet cut.
    raw: BytesMut,
    /// Read and not taken.
    unread: Vec<Bytes>,
    unread_bytes: usize,
    /// Segments on their way to the multiplexer.
    outgoing: BytesMut,
    /// What a stream of ours begins with: goes out with the first segment.
    head: Option<u8>,
    /// Data of a write that has not returned yet are in `outgoing`.
    taken: bool,
    sending: Sending,
    receiving: Receiving,
    /// Nobody reads any more: what comes is dropped.
    unwanted: bool,
    /// The end of the peer's side is acknowledged.
    acknowledged: bool,
    halves: u8,
    settling: bool,
}

/// Counts a stream that the peer opened for as long as it lives.
#[derive(Debug)]
pub(super) struct Opened(pub(super) Arc<AtomicUsize>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a stream may be open: it is ours and has a permit, or it is the peer's and is counted.
#[derive(Debug)]
pub(super) enum Place {
    Ours { _permit: OwnedSemaphorePermit },
    Theirs { _opened: Opened },
}

pub(super) struct Pipe {
    state: Mutex<State>,
    wakers: Arc<Wakers>,
    shared: Arc<Shared>,
    _place: Place,
}

impl Pipe {
    /// `head` is sent before anything else. `both` if it is a two-way stream.
    pub(super) fn ours(
        io: yamux::Stream,
        shared: Arc<Shared>,
        permit: OwnedSemaphorePermit,
        head: u8,
        both: bool,
    ) -> Arc<Self> {
        let receiving = if both { Receiving::Open } else { Receiving::None };
        let pipe = Self::new(io, shared, Place::Ours { _permit: permit }, Sending::Open, receiving);
        pipe.lock().head = Some(head);
        pipe
    }

    pub(super) fn theirs(io: yamux::Stream, shared: Arc<Shared>, opened: Opened, both: bool) -> Arc<Self> {
        let sending = if both { Sending::Open } else { Sending::None };
        Self::new(io, shared, Place::Theirs { _opened: opened }, sending, Receiving::Open)
    }

    fn new(
        io: yamux::Stream,
        shared: Arc<Shared>,
        place: Place,
        sending: Sending,
        receiving: Receiving,
    ) -> Arc<Self> {
        let wakers = Arc::new(Wakers::default());
        shared.watch(&wakers);
        let halves = u8::from(sending != Sending::None) + u8::from(receiving != Receiving::None);
        let state = State {
            io: Some(io),
            cutter: Cutter::default(),
            raw: BytesMut::new(),
            unread: Vec::new(),
            unread_bytes: 0,
            outgoing: BytesMut::new(),
            head: None,
            taken: false,
            sending,
            receiving,
            unwanted: false,
            acknowledged: false,
            halves,
            settling: false,
        };
        Arc::new(Self { state: Mutex::new(state), wakers, shared, _place: place })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a stream")
    }

    /// Takes in what has come and passes on what waits, for whoever `context` is. Wakes the others if that
    /// changed something for them.
    fn turn(&self, state: &mut State, context: &Context<'_>) {
        self.wakers.register(context.waker());
        self.turn_once(state);
    }

    fn turn_once(&self, state: &mut State) {
        let waker = Waker::from(self.wakers.clone());
        let mut context = Context::from_waker(&waker);
        let before = (state.sending, state.receiving, state.unread_bytes);
        if state.take_in(&mut context).is_err() {
            state.io = None;
            self.shared.close(Code::ProtocolViolation, "a stream is cut into something that is no segment");
        }
        state.pass_on(&mut context);
        if (state.sending, state.receiving, state.unread_bytes) != before {
            self.wakers.wake_by_ref();
        }
    }

    /// Why there will be nothing more, if so.
    fn broken(&self, state: &State) -> Option<Closed> {
        let closed = self.shared.close_reason();
        match closed {
            Some(closed) => Some(closed),
            None if state.io.is_none() => Some(Closed::lost()),
            None => None,
        }
    }

    /// Sees to it that what waits is passed on, and that a stream nobody holds comes to its end.
    fn settle(self: &Arc<Self>, state: &mut State) {
        self.turn_once(state);
        if state.settling || state.is_settled() || self.broken(state).is_some() {
            return;
        }
        // Only the end of the process drops streams outside of its runtime.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        state.settling = true;
        let pipe = self.clone();
        runtime.spawn(async move {
            let settled = poll_fn(|context| {
                let mut state = pipe.lock();
                pipe.turn(&mut state, context);
                match state.is_settled() || pipe.broken(&state).is_some() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            let in_time = timeout(LINGER, settled).await.is_ok();
            let mut state = pipe.lock();
            state.settling = false;
            if state.halves == 0 || !in_time {
                // The multiplexer resets what the peer did not agree to end.
                state.io = None;
                pipe.wakers.wake_by_ref();
            }
        });
    }

    fn leave(self: &Arc<Self>, state: &mut State) {
        state.halves -= 1;
        self.settle(state);
    }
}

impl State {
    /// Nothing is left to do without somebody who reads or writes.
    fn is_settled(&self) -> bool {
        let over =
            !matches!(self.sending, Sending::Open | Sending::Finished) && self.receiving != Receiving::Open;
        self.outgoing.is_empty() && (self.halves > 0 || over)
    }

    fn take_in(&mut self, context: &mut Context<'_>) -> Result<(), NoSegment> {
        loop {
            while self.unread_bytes < UNREAD_BYTES_MAX {
                let Some(segment) = self.cutter.next(&mut self.raw)? else { break };
                self.apply(segment)?;
            }
            if self.unread_bytes >= UNREAD_BYTES_MAX {
                return Ok(());
            }
            let Some(io) = &mut self.io else { return Ok(()) };
            let mut bytes = [0; READ_BYTES];
            match Pin::new(io).poll_read(context, &mut bytes) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0) | Err(_)) => {
                    // Ended without a word: by the end of the connection, or by a peer that gave it up.
                    if self.receiving == Receiving::Open {
                        self.receiving = Receiving::Reset(Code::Cancelled);
                    }
                    if matches!(self.sending, Sending::Open | Sending::Finished) {
                        self.sending = Sending::Stopped(Code::Cancelled);
                    }
                    self.outgoing.clear();
                    self.taken = false;
                    self.io = None;
                    return Ok(());
                }
                Poll::Ready(Ok(count)) => self.raw.extend_from_slice(&bytes[..count]),
            }
        }
    }

    fn apply(&mut self, segment: Segment) -> Result<(), NoSegment> {
        match segment {
            Segment::Data(_) | Segment::Finish | Segment::Reset(_) if self.receiving != Receiving::Open => {
                // A one-way stream has nothing to say, and one that ended nothing more.
                return Err(NoSegment);
            }
            Segment::Data(data) => {
                if !self.unwanted {
                    self.unread_bytes += data.len();
                    self.unread.push(data);
                }
            }
            Segment::Finish => {
                self.receiving = Receiving::Finished;
                self.acknowledge();
            }
            Segment::Reset(code) => {
                self.receiving = Receiving::Reset(read_code(code));
                self.forget_unread();
            }
            Segment::Stop(code) => match self.sending {
                Sending::None => return Err(NoSegment),
                Sending::Open => {
                    self.sending = Sending::Stopped(read_code(code));
                    put_segment(self.out(), &Segment::Reset(code));
                }
                Sending::Finished => self.sending = Sending::Stopped(read_code(code)),
                Sending::Done | Sending::Reset | Sending::Stopped(_) => {}
            },
            Segment::Done => match self.sending {
                Sending::Finished => self.sending = Sending::Done,
                Sending::Stopped(_) => {}
                _ => return Err(NoSegment),
            },
        }
        Ok(())
    }

    fn out(&mut self) -> &mut BytesMut {
        if let Some(head) = self.head.take() {
            self.outgoing.extend_from_slice(&[head]);
        }
        &mut self.outgoing
    }

    /// Says that all of the peer's side is here, once its reader has it or there is none.
    fn acknowledge(&mut self) {
        if self.receiving == Receiving::Finished && self.unread.is_empty() && !self.acknowledged {
            self.acknowledged = true;
            put_segment(self.out(), &Segment::Done);
        }
    }

    fn forget_unread(&mut self) {
        self.unread.clear();
        self.unread_bytes = 0;
    }

    fn pass_on(&mut self, context: &mut Context<'_>) {
        while !self.outgoing.is_empty() {
            let Some(io) = &mut self.io else { return };
            match Pin::new(io).poll_write(context, &self.outgoing) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) => self.outgoing.advance(count),
                // The stream is closed below. Reading says how.
                Poll::Ready(Err(_)) => {
                    self.outgoing.clear();
                    return;
                }
            }
        }
        if self.outgoing.capacity() > 0 {
            self.outgoing = BytesMut::new();
        }
    }
}

/// The sending side.
pub struct SendHalf(Arc<Pipe>);

/// The receiving side.
pub struct RecvHalf(Arc<Pipe>);

/// Both sides of a two-way stream.
pub(super) fn both(pipe: Arc<Pipe>) -> (SendHalf, RecvHalf) {
    (SendHalf(pipe.clone()), RecvHalf(pipe))
}

/// The side that sends, of a one-way stream of ours.
pub(super) fn sender(pipe: Arc<Pipe>) -> SendHalf {
    SendHalf(pipe)
}

/// The side that receives, of a one-way stream of the peer's.
pub(super) fn receiver(pipe: Arc<Pipe>) -> RecvHalf {
    RecvHalf(pipe)
}

impl std::fmt::Debug for SendHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SendHalf").field(&self.0.lock().sending).finish()
    }
}

impl std::fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RecvHalf").field(&self.0.lock().receiving).finish()
    }
}

impl SendHalf {
    pub(crate) fn poll_write_chunks(
        &mut self,
        context: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<(), WriteError>> {
        let pipe = &self.0;
        let mut state = pipe.lock();
        pipe.turn(&mut state, context);
        if let Some(closed) = pipe.shared.close_reason() {
            return Poll::Ready(Err(WriteError::Lost(closed)));
        }
        match state.sending {
            Sending::Open => {}
            Sending::Stopped(code) => return Poll::Ready(Err(WriteError::Stopped(code))),
            _ => return Poll::Ready(Err(WriteError::Ended)),
        }
        if !state.outgoing.is_empty() {
            return Poll::Pending;
        }
        // What an earlier call took is with the multiplexer now.
        if mem::take(&mut state.taken) {
            return Poll::Ready(Ok(()));
        }
        let whole: usize = chunks.iter().map(Bytes::len).sum();
        let mut length = whole.min(DATA_BYTES_SENT);
        if length == 0 {
            return Poll::Ready(Ok(()));
        }
        put_data_head(state.out(), length);
        for chunk in chunks {
            let part = chunk.split_to(chunk.len().min(length));
            state.outgoing.extend_from_slice(&part);
            length -= part.len();
        }
        state.taken = true;
        pipe.turn_once(&mut state);
        match state.outgoing.is_empty() {
            true => {
                state.taken = false;
                Poll::Ready(Ok(()))
            }
            false => Poll::Pending,
        }
    }

    pub(crate) fn finish(&mut self) -> Result<(), Ended> {
        let mut state = self.0.lock();
        if state.sending != Sending::Open {
            return Err(Ended);
        }
        state.sending = Sending::Finished;
        put_segment(state.out(), &Segment::Finish);
        self.0.settle(&mut state);
        Ok(())
    }

    pub(crate) fn reset(&mut self, code: Code) -> Result<(), Ended> {
        let mut state = self.0.lock();
        if !matches!(state.sending, Sending::Open | Sending::Finished) {
            return Err(Ended);
        }
        state.sending = Sending::Reset;
        put_segment(state.out(), &Segment::Reset(code.number()));
        self.0.settle(&mut state);
        Ok(())
    }

    pub(crate) fn stopped(&self) -> impl Future<Output = Result<Option<Code>, Closed>> + Send + 'static {
        let pipe = self.0.clone();
        poll_fn(move |context| {
            let mut state = pipe.lock();
            pipe.turn(&mut state, context);
            match state.sending {
                Sending::Done => return Poll::Ready(Ok(None)),
                Sending::Stopped(code) if pipe.shared.close_reason().is_none() => {
                    return Poll::Ready(Ok(Some(code)));
                }
                _ => {}
            }
            match pipe.shared.close_reason() {
                Some(closed) => Poll::Ready(Err(closed)),
                None => Poll::Pending,
            }
        })
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.sending == Sending::Open {
            state.sending = Sending::Finished;
            put_segment(state.out(), &Segment::Finish);
        }
        self.0.leave(&mut state);
    }
}

impl RecvHalf {
    pub(crate) fn poll_read_chunks(
        &mut self,
        context: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        let pipe = &self.0;
        let mut state = pipe.lock();
        pipe.turn(&mut state, context);
        if !state.unread.is_empty() {
            let count = state.unread.len().min(chunks.len());
            let mut bytes = 0;
            for (slot, chunk) in chunks.iter_mut().zip(state.unread.drain(..count)) {
                bytes += chunk.len();
                *slot = chunk;
            }
            state.unread_bytes -= bytes;
            state.acknowledge();
            if !state.outgoing.is_empty() {
                pipe.settle(&mut state);
            }
            return Poll::Ready(Ok(Some(count)));
        }
        match state.receiving {
            Receiving::Finished => return Poll::Ready(Ok(None)),
            // The end of the connection says more than the end of the stream that came with it.
            Receiving::Reset(code) => {
                return Poll::Ready(Err(match pipe.shared.close_reason() {
                    Some(closed) if state.io.is_none() => ReadError::Lost(closed),
                    _ => ReadError::Reset(code),
                }));
            }
            Receiving::Open | Receiving::None => {}
        }
        match pipe.broken(&state) {
            Some(closed) => Poll::Ready(Err(ReadError::Lost(closed))),
            None => Poll::Pending,
        }
    }

    pub(crate) fn stop(&mut self, code: Code) -> Result<(), Ended> {
        let mut state = self.0.lock();
        if state.receiving != Receiving::Open || state.unwanted {
            return Err(Ended);
        }
        self.stop_with(&mut state, code);
        Ok(())
    }

    fn stop_with(&self, state: &mut State, code: Code) {
        state.unwanted = true;
        state.forget_unread();
        put_segment(state.out(), &Segment::Stop(code.number()));
        self.0.settle(state);
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.forget_unread();
        if state.receiving == Receiving::Open && !state.unwanted {
            self.stop_with(&mut state, Code::Done);
        }
        state.unwanted = true;
        state.acknowledge();
        self.0.leave(&mut state);
    }
}

//! What runs while a session lives: accepting streams, reading pushes, serving requests, writing
//! outboxes.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
    time::Duration,
};

use ghost_frames::{
    Code, DecodeError, Frame, FrameReader, StreamType,
    control::Pong,
    rpc::is_safe_to_repeat,
    stream::{Direction, GREASE_STREAM_FIRST, GREASE_STREAM_LAST},
    writer::Payload,
};
use tokio::time::{Instant, sleep};

use super::{
    Inner, PUSHES, Session, SessionContext,
    establish::Greeted,
    outbox::{Parked, PushStream},
    stream::{FrameClock, StreamEnd, read_frame, read_some, read_stream_type},
};
use crate::{
    class::{BURST_SECONDS, Class, FRAME_DEADLINE},
    inbox::{Asked, Pushed},
    quota::Quota,
    request::{Responder, Served},
    tally::Event,
    transport::{Closed, RecvStream, SendStream, WriteError},
};

/// Streams per second that a peer may open in vain (reset, unknown, without a whole frame) before
/// accepting pauses, which withholds the credit for more.
const WASTED_STREAMS_PER_SECOND: u32 = 128;

/// A peer that makes accepting pause again and again for so long is flooding.
const FLOODING_AFTER: Duration = Duration::from_secs(10);

/// It has stopped when accepting goes on for so long without a pause: by then the quota is full.
const CALM_AFTER: Duration = Duration::from_secs(BURST_SECONDS as u64);

/// Runs a task as far as it gets now, and makes a task of it only if it has to wait. Most requests
/// come whole with their stream: whoever answers them is woken before the transport sends its next
/// packets, and not after a task was queued behind them.
pub(crate) fn run_or_spawn(task: impl Future<Output = ()> + Send + 'static) {
    let mut task = Box::pin(task);
    // Once it is spawned it is polled again, and leaves its own waker wherever it waits.
    if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        tokio::spawn(task);
    }
}

/// Runs a session until its connection is over.
///
/// Not an `async fn`, and nothing large is held where it waits: this future is most of what an idle
/// session costs above its connection.
pub(crate) fn drive(session: Session, greeted: Greeted) -> impl Future<Output = Closed> {
    let Greeted { mut control, mut reader, pushes, requests } = greeted;
    for recv in pushes {
        session.0.reading.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(read_push(session.clone(), recv));
    }
    for (send, recv) in requests {
        run_or_spawn(serve_request(session.clone(), send, recv));
    }
    async move {
        // Both end with the connection, after what arrived before its end.
        tokio::join!(accept_streams(&session), read_control(&session, &mut control, &mut reader));
        let closed = session.closed().await;
        session.0.context.tally.count_closed(&closed);
        session.0.ended.notify_waiters();
        // Nobody will answer these.
        session.0.pings.lock().expect("no code panics while it holds the pings").clear();
        closed
    }
}

async fn accept_streams(session: &Session) {
    let link = session.link();
    // Since when pauses have followed each other closely, and when the last one ended.
    let mut flooding: Option<(Instant, Instant)> = None;
    loop {
        let pause = session.0.wasted_pause();
        if !pause.is_zero() {
            let now = Instant::now();
            let since = match flooding {
                Some((since, last)) if now - last < CALM_AFTER => since,
                _ => now,
            };
            if now - since > FLOODING_AFTER {
                session.close(Code::Flooding, "streams opened in vain, again and again");
                return;
            }
            sleep(pause).await;
            flooding = Some((since, now + pause));
        }
        tokio::select! {
            // What was pushed on a connection that has ended since is still taken.
            biased;
            stream = link.accept_uni() => match stream {
                Ok(recv) => {
                    session.0.reading.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(read_push(session.clone(), recv));
                }
                Err(_) => return,
            },
            stream = link.accept_bi() => match stream {
                Ok((send, recv)) => run_or_spawn(serve_request(session.clone(), send, recv)),
                Err(_) => return,
            },
        }
    }
}

impl Inner {
    fn wasted_pause(&self) -> Duration {
        self.charge_wasted(0)
    }

    /// A stream was opened in vain.
    fn waste(&self) {
        self.charge_wasted(1);
    }

    fn charge_wasted(&self, streams: usize) -> Duration {
        let now = Instant::now().into_std();
        let mut wasted = self.wasted.lock().expect("no code panics while it holds the count");
        wasted
            .get_or_insert_with(|| Box::new(Quota::with_rates(WASTED_STREAMS_PER_SECOND, 1, now)))
            .charge(streams, 0, now)
    }
}

async fn read_control(session: &Session, recv: &mut RecvStream, reader: &mut FrameReader) {
    loop {
        let (frame, bytes) = match read_frame(recv, reader, None).await {
            Ok(read) => read,
            // The peer drains: all it had to push has arrived, and it will close.
            Err(StreamEnd::Finished) => {
                session.0.peer_drained.store(true, Ordering::Relaxed);
                return session.0.ended.notify_waiters();
            }
            Err(StreamEnd::Disconnected(_)) => return,
            Err(StreamEnd::Undecodable(error)) => return session.close(error.code(), &error.to_string()),
            Err(StreamEnd::Stalled) => return session.close(Code::Timeout, "half a control frame"),
            Err(_) => return session.close(Code::ProtocolViolation, "the control stream was reset"),
        };
        let pause = match take_control(session, frame, bytes) {
            Some(pause) => pause,
            None => return session.close(Code::ProtocolViolation, "a second hello"),
        };
        if !pause.is_zero() {
            tokio::select! {
                () = sleep(pause) => {}
                _ = session.closed() => {}
            }
        }
    }
}

/// Does what a control frame asks for and says how long to pause then; `None` for one that may not
/// come now.
fn take_control(session: &Session, frame: Frame, bytes: usize) -> Option<Duration> {
    match frame {
        Frame::Ping(ping) => {
            session.push(StreamType::Control, &Pong(ping.0).to_frame());
        }
        Frame::Pong(pong) => {
            let mut pings = session.0.pings.lock().expect("no code panics while it holds the pings");
            if let Some(waiter) = pings.remove(&pong.0) {
                let _ = waiter.send(());
            }
        }
        _ => return None,
    }
    Some(session.charge(Class::Control, 1, bytes))
}

async fn read_push(session: Session, mut recv: RecvStream) {
    let mut rest = Vec::new();
    match read_stream_type(&mut recv, &mut rest).await {
        Ok(number) => read_push_of_type(session, recv, number, rest).await,
        Err(end) => {
            session.0.waste();
            if matches!(end, StreamEnd::Stalled) {
                stop(&session, &mut recv, Code::Stalled);
            }
            session.0.end_reading();
        }
    }
}

async fn read_push_of_type(session: Session, mut recv: RecvStream, number: u64, rest: Vec<u8>) {
    let grease = (GREASE_STREAM_FIRST..=GREASE_STREAM_LAST).contains(&number);
    match StreamType::from_number(number) {
        Some(StreamType::Control) => session.close(Code::ProtocolViolation, "a second control stream"),
        Some(stream)
            if stream.direction() == Direction::Push
                && session.0.context.inbox.push_route(stream).is_some() =>
        {
            read_frames(&session, &mut recv, stream, rest).await;
        }
        _ => {
            if !grease {
                session.0.waste();
            }
            stop(&session, &mut recv, Code::UnknownStream);
        }
    }
    session.0.end_reading();
}

async fn read_frames(session: &Session, recv: &mut RecvStream, stream: StreamType, rest: Vec<u8>) {
    let class = Class::of(stream);
    let inbox = session.0.context.inbox.clone();
    let Some(route) = inbox.push_route(stream) else { return };
    let mut reader = FrameReader::new(stream);
    let mut clock = FrameClock::default();
    let mut bytes = rest.len();
    reader.push(&rest);
    loop {
        let mut frames = Vec::new();
        let decoded = loop {
            match reader.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        clock.observe(&reader);
        let pause = session.charge(class, frames.len(), std::mem::take(&mut bytes));
        // What came before a broken frame is good.
        if !frames.is_empty() && route.send(Pushed { session: session.clone(), frames }).await.is_err() {
            return stop(session, recv, Code::ShuttingDown);
        }
        if let Err(error) = decoded {
            return refuse_frames(session, recv, &error);
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let deadline = clock.deadline(&reader);
        match read_some(recv, &mut reader, deadline).await {
            Ok(count) => bytes = count,
            Err(StreamEnd::Stalled) => return stop(session, recv, Code::Stalled),
            Err(StreamEnd::Undecodable(error)) => return refuse_frames(session, recv, &error),
            Err(StreamEnd::Reset(code)) => return session.0.context.tally.count(Event::ResetByPeer(code)),
            Err(_) => return,
        }
    }
}

/// A broken frame closes the connection; an unknown kind only its stream, for the peer may be newer.
fn refuse_frames(session: &Session, recv: &mut RecvStream, error: &DecodeError) {
    match error {
        DecodeError::UnknownKind(_) => stop(session, recv, Code::UnknownKind),
        _ => session.close(error.code(), &error.to_string()),
    }
}

fn stop(session: &Session, recv: &mut RecvStream, code: Code) {
    session.0.context.tally.count(Event::ResetByUs(code));
    // Fails only if the stream is over already.
    let _ = recv.stop(code);
}

impl Inner {
    fn end_reading(&self) {
        self.reading.fetch_sub(1, Ordering::Relaxed);
        self.ended.notify_waiters();
    }
}

async fn serve_request(session: Session, send: SendStream, mut recv: RecvStream) {
    let context = &session.0.context;
    let mut rest = Vec::new();
    let stream = match read_stream_type(&mut recv, &mut rest).await {
        Ok(number) => StreamType::from_number(number),
        Err(end) => {
            session.0.waste();
            let code = if matches!(end, StreamEnd::Stalled) { Code::Stalled } else { Code::Cancelled };
            stop(&session, &mut recv, code);
            return refuse(&session, send, code);
        }
    };
    let route = stream.and_then(|stream| Some((stream, context.inbox.request_route(stream)?.clone())));
    let Some((stream, route)) = route else {
        session.0.waste();
        stop(&session, &mut recv, Code::UnknownStream);
        return refuse(&session, send, Code::UnknownStream);
    };
    let class = Class::of(stream);
    let (served, serving) = Served::begin(session.clone(), class);
    if serving > context.table.spec(class).concurrent_requests {
        drop(served);
        stop(&session, &mut recv, Code::Busy);
        return refuse(&session, send, Code::Busy);
    }
    send.set_priority(context.table.spec(class).priority);
    let mut reader = FrameReader::new(stream);
    reader.push(&rest);
    let (frame, bytes) = match read_frame(&mut recv, &mut reader, Some(Instant::now() + FRAME_DEADLINE)).await
    {
        Ok((frame, bytes)) => (frame, bytes + rest.len()),
        Err(StreamEnd::Undecodable(error)) => {
            refuse_frames(&session, &mut recv, &error);
            return refuse(&session, send, error.code());
        }
        Err(end) => {
            session.0.waste();
            let code = if matches!(end, StreamEnd::Stalled) { Code::Stalled } else { Code::Cancelled };
            stop(&session, &mut recv, code);
            return refuse(&session, send, code);
        }
    };
    let pause = session.charge(class, 1, bytes);
    if !pause.is_zero() {
        sleep(pause).await;
    }
    let acknowledged = send.stopped();
    let (served, finished) = served.announce_finish();
    // A drain waits for the answer to arrive, not only to be made.
    session.0.answering.fetch_add(1, Ordering::Relaxed);
    let responder = Responder::new(send, context.tally.clone(), Some(served));
    if let Err(error) = route.try_send(Asked { session: Some(session.clone()), frame, responder }) {
        error.into_inner().responder.refuse(Code::Busy);
    }
    // Of a stream that was reset the library never says that it is over.
    if finished.await.is_ok() {
        let _ = acknowledged.await;
    }
    session.0.answering.fetch_sub(1, Ordering::Relaxed);
    session.0.ended.notify_waiters();
}

fn refuse(session: &Session, mut send: SendStream, code: Code) {
    session.0.context.tally.count(Event::ResetByUs(code));
    let _ = send.reset(code);
}

/// Serves one request of 0-RTT data. Its sender is not authenticated and the data may be a replay,
/// so only what is safe to repeat and needs no identity is answered.
pub(crate) async fn serve_early(context: SessionContext, send: SendStream, mut recv: RecvStream) {
    let mut rest = Vec::new();
    let responder = Responder::new(send, context.tally.clone(), None);
    let Ok(number) = read_stream_type(&mut recv, &mut rest).await else {
        return responder.refuse(Code::TooEarly);
    };
    let route = match StreamType::from_number(number) {
        Some(StreamType::Rpc) => context.inbox.request_route(StreamType::Rpc),
        _ => None,
    };
    let Some(route) = route else { return responder.refuse(Code::TooEarly) };
    let mut reader = FrameReader::new(StreamType::Rpc);
    reader.push(&rest);
    match read_frame(&mut recv, &mut reader, Some(Instant::now() + FRAME_DEADLINE)).await {
        Ok((frame, _)) if is_safe_to_repeat(&frame) => {
            if let Err(error) = route.try_send(Asked { session: None, frame, responder }) {
                error.into_inner().responder.refuse(Code::Busy);
            }
        }
        _ => responder.refuse(Code::TooEarly),
    }
}

/// Writes an outbox until it is empty, then leaves the stream for the next writer.
///
/// A peer whose link was down in the middle of a frame refuses that stream as stalled. The session
/// is as good as before: the frames of the write that failed are sent again, with all that follow, on
/// a new stream, so some may come twice. What the transport had taken before and not delivered is lost.
pub(super) async fn write_out(inner: Arc<Inner>, index: usize) {
    let outbox = &inner.outboxes[index];
    let class = Class::of(PUSHES[index]);
    let spec = inner.context.table.spec(class);
    let mut stream = outbox.take_stream();
    let mut batch = None;
    if let Some(pause) = inner.context.shape.pause(class) {
        sleep(pause).await;
    }
    loop {
        let Some(mut push) = (match stream.take() {
            Some(push) => Some(push),
            None => open_push(&inner, index).await,
        }) else {
            return fail(&inner, index);
        };
        let Some(written) = batch.take().or_else(|| outbox.take_batch(spec)) else {
            match outbox.park(push) {
                Parked::Again(push) => stream = Some(push),
                Parked::Done => return inner.ended.notify_waiters(),
                Parked::End(push) => return end_push(&inner, index, push).await,
            }
            continue;
        };
        match inner.write(class, &mut push.send, written.bytes.clone()).await {
            Ok(()) => {
                inner.context.tally.sent(class, written.frames, written.bytes.len());
                stream = Some(push);
            }
            Err(WriteError::Stopped(Code::Stalled)) if push.opened.elapsed() >= FRAME_DEADLINE => {
                batch = Some(written);
            }
            Err(_) => return fail(&inner, index),
        }
    }
}

fn fail(inner: &Inner, index: usize) {
    inner.outboxes[index].fail();
    inner.ended.notify_waiters();
}

/// Ends a push stream and waits until the peer has all of it.
pub(super) async fn end_push(inner: &Inner, index: usize, mut push: PushStream) {
    // Both fail only if the peer stopped the stream or the connection is over.
    let _ = push.send.finish();
    let _ = push.send.stopped().await;
    inner.outboxes[index].ended();
    inner.ended.notify_waiters();
}

async fn open_push(inner: &Inner, index: usize) -> Option<PushStream> {
    let mut send = inner.link.open_uni().await.ok()?;
    let class = Class::of(PUSHES[index]);
    send.set_priority(inner.context.table.spec(class).priority);
    send.write_chunk(inner.outboxes[index].stream_head()).await.ok()?;
    Some(PushStream { send, opened: Instant::now() })
}

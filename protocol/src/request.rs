//! Requests: a two-way stream each, with a deadline and a way to cancel.

use std::time::Duration;

use bytes::Bytes;
use ghost_frames::{Code, DecodeError, EncodedFrame, Frame, FrameReader, StreamType};
use ghost_proto::layout::put_varint;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    class::{Class, frame_deadline},
    session::{
        Asking, Session,
        stream::{StreamEnd, read_frame},
    },
    tally::{Event, Tally},
    transport::{Closed, RecvStream, SendStream, WriteError},
};

/// Why a request has no answer, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The peer does not serve this stream type. Ask another.
    #[error("the peer does not serve {0} requests")]
    NotServed(&'static str),
    /// No answer in time. Ask another; this one may be slow or lossy.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The peer refused or broke off. [`Code::consequence`] says what to do; busy means later.
    #[error("the peer refused: {}", .0.name())]
    Refused(Code),
    /// The connection is over. Ask another, or dial again.
    #[error("the connection is gone: {0}")]
    Disconnected(String),
    /// The server discarded the early data of a resumed connection. Ask again on the link.
    #[error("the early request was discarded")]
    EarlyDiscarded,
    /// The answer is not made of frames. The peer is at fault.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// The answer ended before it was complete, or is of another kind. The peer is at fault.
    #[error("the answer is not what was asked for: {0}")]
    Unexpected(String),
}

impl From<StreamEnd> for RequestError {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Finished => Self::Unexpected("it ends too soon".into()),
            StreamEnd::Reset(code) => Self::Refused(code),
            StreamEnd::Stalled => Self::TimedOut(frame_deadline(0)),
            StreamEnd::EarlyDiscarded => Self::EarlyDiscarded,
            StreamEnd::Disconnected(reason) => Self::Disconnected(reason),
            StreamEnd::Undecodable(error) => Self::Undecodable(error),
        }
    }
}

impl From<Closed> for RequestError {
    fn from(closed: Closed) -> Self {
        Self::Disconnected(closed.to_string())
    }
}

/// Resets the stream if dropped. The library would end it, in mid-frame, for which the other side
/// would have to blame us.
struct Unfinished(Option<SendStream>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(send) = &mut self.0 {
            // Fails only if the stream is over already.
            let _ = send.reset(Code::Cancelled);
        }
    }
}

/// The stream type and the frame with what pads it, as the asker sends them. Dropped before it is done, it cancels the
/// request.
pub(crate) async fn send_request(
    send: SendStream,
    stream: StreamType,
    priority: i32,
    frame: Bytes,
) -> Result<(), RequestError> {
    let mut head = Vec::with_capacity(2);
    put_varint(&mut head, stream.number());
    send.set_priority(priority);
    let mut chunks = [Bytes::from(head), frame];
    let mut unfinished = Unfinished(Some(send));
    if let Some(send) = &mut unfinished.0 {
        send.write_all_chunks(&mut chunks)
            .await
            .map_err(|error| StreamEnd::from(error).into_request_error())?;
    }
    if let Some(mut send) = unfinished.0.take() {
        // The other side may have stopped the stream already: its answer says why.
        let _ = send.finish();
    }
    Ok(())
}

impl StreamEnd {
    fn into_request_error(self) -> RequestError {
        self.into()
    }
}

/// An answer as it comes in. Dropping it before the end cancels the request.
#[derive(Debug)]
pub struct Answer {
    recv: RecvStream,
    reader: FrameReader,
    class: Class,
    patience: Duration,
    ended: bool,
    tally: Tally,
    _asking: Option<Asking>,
}

impl Answer {
    pub(crate) fn new(
        recv: RecvStream,
        stream: StreamType,
        patience: Duration,
        tally: Tally,
        asking: Option<Asking>,
    ) -> Self {
        let reader = FrameReader::new(stream);
        Self { recv, reader, class: Class::of(stream), patience, ended: false, tally, _asking: asking }
    }

    /// The next frame, or `None` at the end. Each may take as long as the request allowed, and a
    /// long frame as long as its length deserves.
    pub async fn next(&mut self) -> Result<Option<Frame>, RequestError> {
        if self.ended {
            return Ok(None);
        }
        let deadline = Instant::now() + self.patience;
        match read_frame(&mut self.recv, &mut self.reader, Some(deadline)).await {
            Ok((frame, bytes)) => {
                self.tally.received(self.class, 1, bytes);
                Ok(Some(frame))
            }
            Err(StreamEnd::Finished) => {
                self.ended = true;
                Ok(None)
            }
            Err(StreamEnd::Stalled) => Err(RequestError::TimedOut(self.patience)),
            Err(end) => {
                self.ended = true;
                Err(end.into())
            }
        }
    }

    /// As [`Self::next`], for as long as it takes: subscriptions are silent while nothing happens.
    pub async fn next_whenever(&mut self) -> Result<Option<Frame>, RequestError> {
        if self.ended {
            return Ok(None);
        }
        match read_frame(&mut self.recv, &mut self.reader, None).await {
            Ok((frame, bytes)) => {
                self.tally.received(self.class, 1, bytes);
                Ok(Some(frame))
            }
            Err(end) => {
                self.ended = true;
                if matches!(end, StreamEnd::Finished) { Ok(None) } else { Err(end.into()) }
            }
        }
    }

    /// The one frame of an answer that has one.
    pub async fn single(mut self) -> Result<Frame, RequestError> {
        let frame = self.next().await?;
        self.ended = true;
        frame.ok_or_else(|| RequestError::Unexpected("it is empty".into()))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only if the stream is over already.
            let _ = self.recv.stop(Code::Cancelled);
        }
    }
}

/// Counts a request as being served for as long as it lives.
#[derive(Debug)]
pub(crate) struct Served {
    session: Session,
    class: Class,
    finished: Option<oneshot::Sender<()>>,
}

impl Served {
    /// Begins to count, and says how many requests of the class there are with this one.
    pub(crate) fn begin(session: Session, class: Class) -> (Self, u16) {
        let serving = session.request_began(class);
        (Self { session, class, finished: None }, serving)
    }

    /// The receiver learns when the answer is finished; it fails if the request is refused.
    pub(crate) fn announce_finish(mut self) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        self.finished = Some(sender);
        (self, receiver)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.session.request_ended(self.class);
    }
}

/// The asker is gone: it cancelled, was too slow, or lost its connection. Stop working for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the asker is gone")]
pub struct AskerGone;

/// Answers one request. Dropping it without [`Responder::finish`] resets the stream as an internal
/// fault, so that no asker waits for an answer that will not come.
#[derive(Debug)]
pub struct Responder {
    send: SendStream,
    done: bool,
    tally: Tally,
    /// None for an answer to 0-RTT data.
    served: Option<Served>,
}

impl Responder {
    pub(crate) fn new(send: SendStream, tally: Tally, served: Option<Served>) -> Self {
        Self { send, done: false, tally, served }
    }

    /// Sends one frame of the answer. Waits while the asker takes none, at most as long as
    /// [`frame_deadline`] allows; then the stream is reset as too slow.
    pub async fn send(&mut self, frame: &EncodedFrame) -> Result<(), AskerGone> {
        let deadline = Instant::now() + frame_deadline(frame.len());
        let Self { send, served, .. } = self;
        let write = async {
            match served {
                Some(Served { session, class, .. }) => {
                    session.write(*class, send, frame.bytes().clone()).await
                }
                None => send.write_chunk(frame.bytes().clone()).await,
            }
        };
        match timeout_at(deadline, write).await {
            Ok(Ok(())) => {
                // Only remote calls are answered before there is a session.
                let class = self.served.as_ref().map_or(Class::Rpc, |served| served.class);
                self.tally.sent(class, 1, frame.len());
                Ok(())
            }
            Ok(Err(_)) => {
                self.done = true;
                Err(AskerGone)
            }
            Err(_) => {
                self.reset(Code::TooSlow);
                Err(AskerGone)
            }
        }
    }

    /// Ends the answer.
    pub fn finish(mut self) {
        self.done = true;
        // Fails only if the asker stopped the stream, who then wants no end.
        let _ = self.send.finish();
        if let Some(finished) = self.served.as_mut().and_then(|served| served.finished.take()) {
            let _ = finished.send(());
        }
    }

    /// Sends the only frame of an answer and ends it.
    pub async fn answer(mut self, frame: &EncodedFrame) -> Result<(), AskerGone> {
        self.send(frame).await?;
        self.finish();
        Ok(())
    }

    /// Refuses.
    pub fn refuse(mut self, code: Code) {
        self.reset(code);
    }

    /// Waits until the asker no longer wants the answer.
    pub async fn cancelled(&mut self) {
        let _ = self.send.stopped().await;
    }

    fn reset(&mut self, code: Code) {
        self.done = true;
        self.tally.count(Event::ResetByUs(code));
        // Fails only if the stream is over already.
        let _ = self.send.reset(code);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.done {
            self.reset(Code::Internal);
        }
    }
}

impl From<WriteError> for StreamEnd {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Reset(code),
            WriteError::Lost(closed) => Self::Disconnected(closed.to_string()),
            WriteError::EarlyDiscarded => Self::EarlyDiscarded,
            WriteError::Ended => Self::Disconnected("the stream is closed".into()),
        }
    }
}

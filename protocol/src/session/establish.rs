//! From an authenticated connection to a session: both hellos.

use std::time::Duration;

use ghost_frames::{Code, DecodeError, Frame, FrameReader, StreamType, writer::Payload};
use ghost_proto::message;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    Session, SessionContext,
    stream::{StreamEnd, read_frame, read_stream_type},
};
use crate::{
    address,
    class::Class,
    handshake::{self, HelloError, LocalHello},
    tally::Event,
    transport::{Closed, Link, RecvStream, SendStream, WriteError, quic::tuning},
};

/// Time for the first hello to come.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Once another stream has shown itself, hello may lag behind it by this much, or by three round
/// trips: streams overtake each other only when packets are lost.
pub(super) const HELLO_GRACE: Duration = Duration::from_millis(100);

/// Streams that may show themselves before hello; more than QUIC grants at once cannot.
const HELD_STREAMS_MAX: usize = (tuning::UNI_STREAMS_MAX + tuning::BIDI_STREAMS_FIRST) as usize;

/// Why a connection did not become a session.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EstablishError {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the peer broke the protocol before its hello: {0}")]
    Violation(&'static str),
    #[error("the peer's hello does not decode: {0}")]
    Undecodable(#[from] DecodeError),
    #[error("the peer did not say hello in time")]
    Timeout,
    #[error("the connection ended before hello: {0}")]
    Disconnected(Closed),
}

impl EstablishError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Hello(error) => error.code(),
            Self::Violation(_) => Code::ProtocolViolation,
            Self::Undecodable(error) => error.code(),
            Self::Timeout => Code::Timeout,
            // What the peer says of us is as good a reason as what we say of it.
            Self::Disconnected(closed) => closed.code.unwrap_or(Code::Timeout),
        }
    }
}

impl From<Closed> for EstablishError {
    fn from(closed: Closed) -> Self {
        Self::Disconnected(closed)
    }
}

/// What arrived with or before the hello, for the driver to go on with.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(super) control: RecvStream,
    pub(super) reader: FrameReader,
    pub(super) pushes: Vec<RecvStream>,
    pub(super) requests: Vec<(SendStream, RecvStream)>,
}

/// Says hello, waits for the peer's and checks it. On failure the connection is closed with the code
/// of the error.
pub(crate) async fn establish(
    link: Link,
    local: &LocalHello,
    context: &SessionContext,
) -> Result<(Session, Greeted), EstablishError> {
    let result = async {
        let control = say_hello(&link, local).await?;
        let (hello, greeted) = await_hello(&link).await?;
        let hello = handshake::check(local, &link.peer(), hello)?;
        Ok::<_, EstablishError>((control, hello, greeted))
    }
    .await;
    match result {
        Ok((control, hello, greeted)) => {
            Ok((Session::new(link, hello, local, context.clone(), control), greeted))
        }
        Err(error) => {
            match &error {
                EstablishError::Disconnected(closed) => context.tally.count_closed(closed),
                _ => {
                    context.tally.count(Event::ClosedByUs(error.code()));
                    link.close(error.code(), &error.to_string());
                }
            }
            Err(error)
        }
    }
}

/// A peer that grants no stream to say hello on is given up like one that says none.
async fn say_hello(link: &Link, local: &LocalHello) -> Result<SendStream, EstablishError> {
    timeout(HELLO_TIMEOUT, write_hello(link, local)).await.map_err(|_| EstablishError::Timeout)?
}

async fn write_hello(link: &Link, local: &LocalHello) -> Result<SendStream, EstablishError> {
    // Behind Tor nobody is seen at an address of their own.
    let observed = link.remote().ip().map(address::of_socket);
    let mut bytes = Vec::new();
    ghost_proto::layout::put_varint(&mut bytes, StreamType::Control.number());
    bytes.extend_from_slice(local.message(observed.as_ref()).to_frame().bytes());
    bytes.extend_from_slice(grease(local.nonce).bytes());
    let mut stream = link.open_uni().await?;
    stream.set_priority(context_free_priority());
    match stream.write_all(&bytes).await {
        Ok(()) => Ok(stream),
        Err(WriteError::Lost(closed)) => Err(closed.into()),
        Err(_) => Err(EstablishError::Violation("the control stream was stopped")),
    }
}

fn context_free_priority() -> i32 {
    crate::class::ClassTable::default().spec(Class::Control).priority
}

/// A frame of a kind that is never assigned, so that nobody comes to rely on knowing them all.
fn grease(nonce: u64) -> ghost_frames::EncodedFrame {
    let kind = ghost_frames::Kind(ghost_frames::kind::GREASE_FIRST.0 + nonce % 256);
    let len = (nonce >> 8) as usize % 16;
    ghost_frames::EncodedFrame::new(kind, &nonce.to_be_bytes().repeat(2)[..len])
}

async fn await_hello(link: &Link) -> Result<(message::Hello, Greeted), EstablishError> {
    let deadline = Instant::now() + HELLO_TIMEOUT;
    let mut grace: Option<Instant> = None;
    let mut pushes = Vec::new();
    let mut requests = Vec::new();
    let hello = read_hello(link);
    tokio::pin!(hello);
    loop {
        if pushes.len() + requests.len() > HELD_STREAMS_MAX {
            return Err(EstablishError::Violation("too many streams before hello"));
        }
        tokio::select! {
            // Streams are accepted in the order in which they were opened, so the first goes to the
            // reader of hello, whatever else has arrived.
            biased;
            hello = &mut hello => {
                let (hello, control, reader) = hello?;
                return Ok((hello, Greeted { control, reader, pushes, requests }));
            }
            stream = link.accept_uni() => pushes.push(stream?),
            stream = link.accept_bi() => requests.push(stream?),
            () = sleep_until(grace.map_or(deadline, |grace| grace.min(deadline))) => {
                return Err(match grace {
                    Some(_) => EstablishError::Violation("streams without a hello"),
                    None => EstablishError::Timeout,
                });
            }
        }
        grace.get_or_insert_with(|| Instant::now() + HELLO_GRACE.max(3 * link.rtt()));
    }
}

/// Reads the first frame of the first one-way stream.
async fn read_hello(link: &Link) -> Result<(message::Hello, RecvStream, FrameReader), EstablishError> {
    let ended = |end: StreamEnd, violation: &'static str| match end {
        StreamEnd::Disconnected(_) => {
            EstablishError::Disconnected(link.close_reason().unwrap_or_else(Closed::lost))
        }
        StreamEnd::Undecodable(error) => error.into(),
        StreamEnd::Stalled => EstablishError::Timeout,
        _ => EstablishError::Violation(violation),
    };
    let mut control = link.accept_uni().await?;
    let mut rest = Vec::new();
    let number = read_stream_type(&mut control, &mut rest)
        .await
        .map_err(|end| ended(end, "a stream without a type before hello"))?;
    if number != StreamType::Control.number() {
        return Err(EstablishError::Violation("another stream in place of the control stream"));
    }
    let mut reader = FrameReader::new(StreamType::Control);
    reader.push(&rest);
    match read_frame(&mut control, &mut reader, None, |_| ()).await {
        Ok((Frame::Hello(hello), _)) => Ok((hello, control, reader)),
        Ok(_) => Err(EstablishError::Violation("another frame in place of hello")),
        Err(end) => Err(ended(end, "the control stream ended before hello")),
    }
}

//! From an authenticated connection to a session: both hellos.

use std::time::Duration;

use ghost_frames::{Code, DecodeError, Frame, FrameReader, StreamType, writer::Payload};
use ghost_proto::message;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    Session, SessionContext,
    stream::{StreamEnd, read_frame, read_stream_type},
};
use crate::{
    address,
    class::Class,
    handshake::{self, HelloError, LocalHello},
    tally::Event,
    transport::{Link, RecvStream, SendStream, quic::tuning},
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
    Disconnected(String),
}

impl EstablishError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Hello(error) => error.code(),
            Self::Violation(_) => Code::ProtocolViolation,
            Self::Undecodable(error) => error.code(),
            Self::Timeout => Code::Timeout,
            Self::Disconnected(_) => Code::Internal,
        }
    }
}

impl From<quinn::ConnectionError> for EstablishError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::Disconnected(error.to_string())
    }
}

/// What arrived with or before the hello, for the driver to go on with.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(super) control: RecvStream,
    pub(super) reader: FrameReader,
    pub(super) pushes: Vec<(RecvStream, u64, Vec<u8>)>,
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
            Ok((Session::new(link, hello, local.role, context.clone(), control), greeted))
        }
        Err(error) => {
            if !matches!(error, EstablishError::Disconnected(_)) {
                context.tally.count(Event::ClosedByUs(error.code()));
                link.close(error.code(), &error.to_string());
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
    let observed = address::of_socket(link.remote_address());
    let mut bytes = Vec::new();
    ghost_proto::layout::put_varint(&mut bytes, StreamType::Control.number());
    bytes.extend_from_slice(local.message(Some(&observed)).to_frame().bytes());
    bytes.extend_from_slice(grease(local.nonce).bytes());
    let mut stream = link.open_uni().await?;
    let _ = stream.set_priority(context_free_priority());
    stream.write_all(&bytes).await.map_err(|error| EstablishError::Disconnected(error.to_string()))?;
    Ok(stream)
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
    loop {
        let limit = grace.map_or(deadline, |grace| grace.min(deadline));
        let overdue = || match grace {
            Some(_) => EstablishError::Violation("streams without a hello"),
            None => EstablishError::Timeout,
        };
        if pushes.len() + requests.len() > HELD_STREAMS_MAX {
            return Err(EstablishError::Violation("too many streams before hello"));
        }
        tokio::select! {
            () = sleep_until(limit) => return Err(overdue()),
            stream = link.accept_uni() => {
                let mut recv = stream?;
                let mut rest = Vec::new();
                let number = timeout_at(limit, read_stream_type(&mut recv, &mut rest)).await.map_err(|_| overdue())?;
                let number = match number {
                    Ok(number) => number,
                    Err(StreamEnd::Disconnected(reason)) => return Err(EstablishError::Disconnected(reason)),
                    Err(_) => return Err(EstablishError::Violation("a stream without a type before hello")),
                };
                if number != StreamType::Control.number() {
                    pushes.push((recv, number, rest));
                    grace.get_or_insert_with(|| Instant::now() + HELLO_GRACE.max(3 * link.rtt()));
                    continue;
                }
                let mut reader = FrameReader::new(StreamType::Control);
                reader.push(&rest);
                let frame = timeout_at(limit, read_frame(&mut recv, &mut reader, Some(limit)))
                    .await
                    .map_err(|_| overdue())?;
                return match frame {
                    Ok(Frame::Hello(hello)) => Ok((hello, Greeted { control: recv, reader, pushes, requests })),
                    Ok(_) => Err(EstablishError::Violation("another frame in place of hello")),
                    Err(StreamEnd::Undecodable(error)) => Err(error.into()),
                    Err(StreamEnd::Disconnected(reason)) => Err(EstablishError::Disconnected(reason)),
                    Err(StreamEnd::Stalled) => Err(overdue()),
                    Err(_) => Err(EstablishError::Violation("the control stream ended before hello")),
                };
            }
            stream = link.accept_bi() => {
                requests.push(stream?);
                grace.get_or_insert_with(|| Instant::now() + HELLO_GRACE.max(3 * link.rtt()));
            }
        }
    }
}

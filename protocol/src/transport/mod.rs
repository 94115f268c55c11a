//! What carries a session: an authenticated connection with many streams.
//!
//! There are two: QUIC ([`quic`]), and TLS over any stream of bytes, as Tor gives ([`stream`]). Everything
//! above this module speaks of [`Link`], [`SendStream`] and [`RecvStream`] and never of either.
//!
//! | | QUIC | stream of bytes |
//! | --- | --- | --- |
//! | keys, TLS 1.3, ALPN | the same | the same |
//! | resumption and 0-RTT | yes | none: a ticket would tie connections together |
//! | priorities of classes | by the library, and by who may write next | only by who may write next |
//! | a lost packet holds up | its stream | everything |
//! | credit for what is not read | for each stream and for all | 256 KiB for each stream |
//! | reset and stop codes, acknowledged ends | by the library | in the stream, see `frames/WIRE.md` |
//! | datagrams | yes | none |
//! | a new address in mid-stream | survived | ends the connection |

mod carrier;
pub mod circuit;
pub mod quic;
mod remote;
pub mod stream;
pub mod tor;

use std::{
    fmt,
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::Code;
use ghost_proto::PeerId;

pub use carrier::{Carrier, Connecting, Isolation};
pub use remote::{Onion, Remote};

/// Under which both sides of a link export a key for the ids of transactions in compact blocks.
const SHORT_ID_LABEL: &[u8] = b"EXPORTER-ghost-short-id";

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Closed {
    /// Who ended it.
    pub by: ClosedBy,
    /// The code given, if one was.
    pub code: Option<Code>,
    /// For people.
    pub reason: String,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// This side.
    Us,
    /// The other side.
    Peer,
    /// Nobody meant to: silence, or an error below the application.
    Network,
}

impl Closed {
    /// An end about which nothing is known.
    pub(crate) fn lost() -> Self {
        Self::network(String::new())
    }

    pub(crate) fn network(reason: String) -> Self {
        Self { by: ClosedBy::Network, code: None, reason }
    }

    pub(crate) fn by_peer(code: u64, reason: &[u8]) -> Self {
        Self {
            by: ClosedBy::Peer,
            code: Some(read_code(code)),
            reason: String::from_utf8_lossy(reason).chars().take(120).collect(),
        }
    }

    pub(crate) fn by_us() -> Self {
        Self { by: ClosedBy::Us, code: None, reason: String::new() }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            ClosedBy::Us => "closed by us",
            ClosedBy::Peer => "closed by the peer",
            ClosedBy::Network => "lost",
        };
        write!(f, "{by}")?;
        if let Some(code) = self.code {
            write!(f, " ({})", code.name())?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

impl From<Closed> for io::Error {
    fn from(closed: Closed) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, closed)
    }
}

/// Why nothing more can be read from a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its sender reset it.
    #[error("reset by the peer ({})", .0.name())]
    Reset(Code),
    /// The connection is over.
    #[error("the connection is {0}")]
    Lost(Closed),
    /// It was part of early data that the server discarded.
    #[error("the early data was discarded")]
    EarlyDiscarded,
    /// There is more than the reader takes.
    #[error("the stream is longer than is taken")]
    TooLong,
}

/// Why nothing more can be written to a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The other side stopped it.
    #[error("stopped by the peer ({})", .0.name())]
    Stopped(Code),
    /// The connection is over.
    #[error("the connection is {0}")]
    Lost(Closed),
    /// It was part of early data that the server discarded.
    #[error("the early data was discarded")]
    EarlyDiscarded,
    /// It was finished or reset already.
    #[error("the stream is over")]
    Ended,
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        Self::other(error)
    }
}

/// The stream is over already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is over already")]
pub struct Ended;

/// Why a datagram is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Streams of bytes carry none.
    #[error("this transport carries no datagrams")]
    Unsupported,
    /// Larger than the path allows, or the peer takes none, or the connection is over.
    #[error(transparent)]
    Quic(#[from] quinn::SendDatagramError),
}

/// Why a dial failed, and what it says about whom.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// Somebody else answered. The peer named is not to blame; the address is no longer known good.
    #[error("{address} answers with another key than {peer}'s")]
    IdentityMismatch {
        /// Who was expected.
        peer: PeerId,
        /// Where.
        address: Remote,
    },
    /// Nobody answered in time. Try another address, or later.
    #[error("{0} does not answer")]
    TimedOut(Remote),
    /// The other side refused or broke off.
    #[error("{address} broke off the handshake: {reason}")]
    Refused {
        /// Where.
        address: Remote,
        /// What it said.
        reason: String,
        /// Its code, if it gave one.
        code: Option<Code>,
    },
    /// This node cannot dial there.
    #[error("cannot dial {address}: {reason}")]
    Local {
        /// Where.
        address: Remote,
        /// Why not.
        reason: String,
    },
}

/// The code a peer sent; an unknown number means an internal fault of the peer.
pub(crate) fn read_code(code: u64) -> Code {
    Code::from_number(code).unwrap_or(Code::Internal)
}

/// An authenticated connection. Cloning shares it.
#[derive(Debug, Clone)]
pub enum Link {
    /// Over QUIC.
    Quic(quic::QuicLink),
    /// Over a stream of bytes.
    Stream(stream::StreamLink),
}

/// One call for either kind of link or stream.
macro_rules! either {
    ($self:expr, $($kind:ident)|+, $inner:ident => $call:expr) => {
        match $self { $(Self::$kind($inner) => $call,)+ }
    };
}

impl Link {
    /// Who is at the other end, proven.
    pub fn peer(&self) -> PeerId {
        either!(self, Quic | Stream, link => link.peer())
    }

    /// True if the other side dialled.
    pub fn is_inbound(&self) -> bool {
        either!(self, Quic | Stream, link => link.is_inbound())
    }

    /// Where the other end is now; it may move.
    pub fn remote(&self) -> Remote {
        match self {
            Self::Quic(link) => Remote::Ip(link.remote_address()),
            Self::Stream(link) => link.remote(),
        }
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        either!(self, Quic | Stream, link => link.rtt())
    }

    /// A key that both sides of this connection know and nobody else: exported from TLS (RFC 8446 §7.5) under
    /// the label `EXPORTER-ghost-short-id`. `None` only if the handshake is not complete.
    pub fn short_id_key(&self) -> Option<[u8; 16]> {
        either!(self, Quic | Stream, link => link.short_id_key())
    }

    /// Bytes received and sent: of UDP payloads, or of the stream below TLS.
    pub fn wire_bytes(&self) -> (u64, u64) {
        either!(self, Quic | Stream, link => link.wire_bytes())
    }

    /// Opens a one-way stream; waits while the peer grants none.
    pub async fn open_uni(&self) -> Result<SendStream, Closed> {
        match self {
            Self::Quic(link) => link.open_uni().await.map(SendStream::Quic),
            Self::Stream(link) => link.open_uni().await.map(SendStream::Stream),
        }
    }

    /// Opens a two-way stream; waits while the peer grants none.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), Closed> {
        Ok(match self {
            Self::Quic(link) => {
                let (send, recv) = link.open_bi().await?;
                (SendStream::Quic(send), RecvStream::Quic(recv))
            }
            Self::Stream(link) => {
                let (send, recv) = link.open_bi().await?;
                (SendStream::Stream(send), RecvStream::Stream(recv))
            }
        })
    }

    /// The next one-way stream of the peer.
    pub async fn accept_uni(&self) -> Result<RecvStream, Closed> {
        match self {
            Self::Quic(link) => link.accept_uni().await.map(RecvStream::Quic),
            Self::Stream(link) => link.accept_uni().await.map(RecvStream::Stream),
        }
    }

    /// The next two-way stream of the peer.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), Closed> {
        Ok(match self {
            Self::Quic(link) => {
                let (send, recv) = link.accept_bi().await?;
                (SendStream::Quic(send), RecvStream::Quic(recv))
            }
            Self::Stream(link) => {
                let (send, recv) = link.accept_bi().await?;
                (SendStream::Stream(send), RecvStream::Stream(recv))
            }
        })
    }

    /// Sends a datagram that may be lost.
    pub fn send_datagram(&self, bytes: Bytes) -> Result<(), DatagramError> {
        match self {
            Self::Quic(link) => Ok(link.send_datagram(bytes)?),
            Self::Stream(_) => Err(DatagramError::Unsupported),
        }
    }

    /// The next datagram of the peer. Never one where the transport carries none.
    pub async fn read_datagram(&self) -> Result<Bytes, Closed> {
        match self {
            Self::Quic(link) => link.read_datagram().await,
            Self::Stream(link) => Err(link.closed().await),
        }
    }

    /// Lets the peer open this many two-way streams at once. On a stream of bytes the number is fixed.
    pub fn allow_bidi_streams(&self, count: u32) {
        if let Self::Quic(link) = self {
            link.allow_bidi_streams(count);
        }
    }

    /// Lets the peer send this many bytes that we have not read. On a stream of bytes each stream has
    /// credit of its own, which is fixed.
    pub fn allow_unread_bytes(&self, count: u32) {
        if let Self::Quic(link) = self {
            link.allow_unread_bytes(count);
        }
    }

    /// Changes the traffic keys of a QUIC link now. The libraries also do so by themselves before they wear
    /// out.
    pub fn update_keys(&self) {
        if let Self::Quic(link) = self {
            link.update_keys();
        }
    }

    /// Closes, telling the peer why.
    pub fn close(&self, code: Code, reason: &str) {
        either!(self, Quic | Stream, link => link.close(code, reason));
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) -> Closed {
        either!(self, Quic | Stream, link => link.closed().await)
    }

    /// How it ended, if it has.
    pub fn close_reason(&self) -> Option<Closed> {
        either!(self, Quic | Stream, link => link.close_reason())
    }
}

/// The sending side of a stream. Dropped, it is finished.
#[derive(Debug)]
pub enum SendStream {
    /// Of a QUIC link.
    Quic(quinn::SendStream),
    /// Of a stream link.
    Stream(stream::SendHalf),
}

impl SendStream {
    /// Higher goes first when the link is full. Without effect on a stream of bytes.
    pub fn set_priority(&self, priority: i32) {
        if let Self::Quic(stream) = self {
            // Fails only for a stream that is over, which the next write reports better.
            let _ = stream.set_priority(priority);
        }
    }

    /// Writes from the front of `chunks`, which it shortens by as much; waits if nothing can be taken now.
    pub fn poll_write_chunks(
        &mut self,
        context: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<(), WriteError>> {
        match self {
            Self::Quic(stream) => {
                let written = std::pin::pin!(stream.write_chunks(chunks)).poll(context);
                written.map_ok(drop).map_err(quic::write_error)
            }
            Self::Stream(half) => half.poll_write_chunks(context, chunks),
        }
    }

    /// Writes all of `chunks`, in order.
    pub async fn write_all_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        while chunks.iter().any(|chunk| !chunk.is_empty()) {
            poll_fn(|context| self.poll_write_chunks(context, chunks)).await?;
        }
        Ok(())
    }

    /// Writes all of `bytes` without copying them on QUIC.
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.write_all_chunks(&mut [bytes]).await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_chunk(Bytes::copy_from_slice(bytes)).await
    }

    /// Ends the stream after what was written.
    pub fn finish(&mut self) -> Result<(), Ended> {
        match self {
            Self::Quic(stream) => stream.finish().map_err(|_| Ended),
            Self::Stream(half) => half.finish(),
        }
    }

    /// Breaks the stream off; what was written and has not arrived may be lost.
    pub fn reset(&mut self, code: Code) -> Result<(), Ended> {
        match self {
            Self::Quic(stream) => stream.reset(quic::wire_code(code)).map_err(|_| Ended),
            Self::Stream(half) => half.reset(code),
        }
    }

    /// Waits until the other side has all of a stream that was finished (`None`), or wants no more of it.
    /// Of a stream that was reset it says nothing until the connection ends.
    pub fn stopped(&self) -> impl Future<Output = Result<Option<Code>, Closed>> + Send + 'static {
        enum Stopped<Q, S> {
            Quic(Q),
            Stream(S),
        }
        let stopped = match self {
            Self::Quic(stream) => Stopped::Quic(stream.stopped()),
            Self::Stream(half) => Stopped::Stream(half.stopped()),
        };
        async move {
            match stopped {
                Stopped::Quic(stopped) => match stopped.await {
                    Ok(code) => Ok(code.map(|code| read_code(code.into_inner()))),
                    Err(error) => Err(quic::stopped_error(error)),
                },
                Stopped::Stream(stopped) => stopped.await,
            }
        }
    }
}

/// The receiving side of a stream. Dropped before its end, it is stopped.
#[derive(Debug)]
pub enum RecvStream {
    /// Of a QUIC link.
    Quic(quinn::RecvStream),
    /// Of a stream link.
    Stream(stream::RecvHalf),
}

impl RecvStream {
    /// Takes what has come, chunk by chunk, and says how many it was; `None` at the end. Waits if it is
    /// nothing.
    pub fn poll_read_chunks(
        &mut self,
        context: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        match self {
            Self::Quic(stream) => {
                let read = std::pin::pin!(stream.read_chunks(chunks)).poll(context);
                read.map_err(quic::read_error)
            }
            Self::Stream(half) => half.poll_read_chunks(context, chunks),
        }
    }

    /// The next bytes; `None` at the end.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|context| {
            let mut chunk = [Bytes::new()];
            let count = ready!(self.poll_read_chunks(context, &mut chunk))?;
            let [chunk] = chunk;
            Poll::Ready(Ok(count.map(|_| chunk)))
        })
        .await
    }

    /// Everything up to the end, if it is at most this much.
    pub async fn read_to_end(&mut self, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.read_chunk().await? {
            if all.len() + chunk.len() > bytes_max {
                return Err(ReadError::TooLong);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Asks the other side to send no more.
    pub fn stop(&mut self, code: Code) -> Result<(), Ended> {
        match self {
            Self::Quic(stream) => stream.stop(quic::wire_code(code)).map_err(|_| Ended),
            Self::Stream(half) => half.stop(code),
        }
    }
}

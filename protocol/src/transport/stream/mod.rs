//! TLS 1.3 over any stream of bytes, with the same raw public keys as on QUIC; its streams are multiplexed by
//! the `yamux` library, each cut into segments (`segment.rs`) that say what QUIC says beside the bytes.
//!
//! # Bounds
//! A peer may have [`UNI_STREAMS_MAX`](tuning::UNI_STREAMS_MAX) + [`BIDI_STREAMS_MAX`](tuning::BIDI_STREAMS_MAX)
//! = 44 streams open, and so may we; [`OPENED_MAX`] leaves it room for those whose end is on its way. The
//! multiplexer gives each 256 KiB of credit, which is fixed by its format, so a peer whose streams we all
//! read too slowly holds 64 × (256 + 64) KiB = 20 MiB here. On our way out a stream holds at most 11 frames of
//! 16 KiB in the multiplexer and one segment above it: 44 × 192 KiB = 8.3 MiB for a peer that takes nothing.
//! That is more than QUIC's 3.25 and 1.5 MiB; a node that is reached over Tor counts its slots accordingly.

mod driver;
mod pipe;
mod segment;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ghost_frames::Code;
use ghost_proto::{PeerId, record};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Mutex as AsyncMutex, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::{
    Closed, ClosedBy, DialError, Link, Remote, SHORT_ID_LABEL,
    quic::{
        tls,
        tuning::{self, KEEP_ALIVE},
    },
};
use crate::Identity;
use pipe::{Opened, Pipe, Wakers};
pub use pipe::{RecvHalf, SendHalf};

/// Time a handshake may take. Twice that of QUIC: a circuit of Tor has six relays.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time a farewell may take to reach the peer.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// Streams of a peer that may be open, with those whose end it does not know of yet.
pub const OPENED_MAX: usize = 64;

/// Streams in all: the peer's, ours, and some that the multiplexer has not forgotten.
const STREAMS_MAX: usize = 128;

const _: () = assert!(OPENED_MAX >= (tuning::UNI_STREAMS_MAX + tuning::BIDI_STREAMS_MAX) as usize);
const _: () =
    assert!(STREAMS_MAX > OPENED_MAX + (tuning::UNI_STREAMS_MAX + tuning::BIDI_STREAMS_MAX) as usize);

/// What a stream begins with: the link's own, a one-way stream, a two-way stream.
const HEAD_LINK: u8 = 0;
const HEAD_UNI: u8 = 1;
const HEAD_BI: u8 = 2;

/// Anything that bytes go into and come out of.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A stream of bytes of any kind.
pub type BoxedStream = Box<dyn ByteStream>;

/// Somebody wants a stream.
type Opening = oneshot::Sender<yamux::Stream>;

/// Where the peer's streams go.
struct Accepted {
    uni: mpsc::Sender<Arc<Pipe>>,
    bi: mpsc::Sender<Arc<Pipe>>,
}

/// What moved below TLS, and when something last came.
struct Meter {
    begun: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds after `begun`.
    heard: AtomicU64,
}

struct Metered<T> {
    io: T,
    meter: Arc<Meter>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.meter.received.fetch_add(count as u64, Ordering::Relaxed);
            self.meter.heard.store(self.meter.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.meter.sent.fetch_add(count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

struct Shared {
    peer: PeerId,
    inbound: bool,
    remote: Remote,
    short_id_key: Option<[u8; 16]>,
    meter: Arc<Meter>,
    rtt_us: AtomicU64,
    closed: watch::Sender<Option<Closed>>,
    openings: mpsc::Sender<Opening>,
    uni_places: Arc<Semaphore>,
    bi_places: Arc<Semaphore>,
    /// Streams of the peer that are open.
    opened: Arc<AtomicUsize>,
    /// Whoever waits for a stream, to be woken when the link ends.
    waiting: Mutex<Vec<Weak<Wakers>>>,
    accepted_uni: AsyncMutex<mpsc::Receiver<Arc<Pipe>>>,
    accepted_bi: AsyncMutex<mpsc::Receiver<Arc<Pipe>>>,
}

impl Shared {
    fn watch(&self, wakers: &Arc<Wakers>) {
        let mut waiting = self.waiting.lock().expect("no code panics while it holds the list");
        if waiting.len() >= STREAMS_MAX {
            waiting.retain(|one| one.strong_count() > 0);
        }
        waiting.push(Arc::downgrade(wakers));
    }

    fn wake_all(&self) {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().expect("no code panics while it holds the list"));
        for wakers in waiting.iter().filter_map(Weak::upgrade) {
            std::task::Wake::wake(wakers);
        }
    }

    fn close_reason(&self) -> Option<Closed> {
        self.closed.borrow().clone()
    }

    /// The first reason stays.
    fn set_closed(&self, closed: Closed) {
        let first = self.closed.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(closed);
            first
        });
        if first {
            self.wake_all();
        }
    }

    fn close(&self, code: Code, reason: &str) {
        self.set_closed(Closed { by: ClosedBy::Us, code: Some(code), reason: reason.into() });
    }

    async fn over(&self) -> Closed {
        let mut seen = self.closed.subscribe();
        let closed = seen.wait_for(Option::is_some).await;
        // The sender lives as long as this does.
        closed.ok().and_then(|closed| closed.clone()).unwrap_or_else(Closed::lost)
    }

    /// A place for a stream that the peer opened; `None` if it has too many.
    fn opened_by_peer(&self) -> Option<Opened> {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Opened(self.opened.clone());
        (opened <= OPENED_MAX).then_some(place)
    }

    fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.meter.heard.load(Ordering::Relaxed));
        self.meter.begun.elapsed().saturating_sub(heard)
    }

    /// Smoothed as by TCP (RFC 6298).
    fn measured(&self, rtt: Duration) {
        let old = self.rtt_us.load(Ordering::Relaxed);
        let new = (7 * old + rtt.as_micros() as u64) / 8;
        self.rtt_us.store(new, Ordering::Relaxed);
    }
}

/// A link over a stream of bytes. Cloning shares it; dropping the last clone closes it.
#[derive(Clone)]
pub struct StreamLink(Arc<Held>);

struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.close(Code::Done, "");
    }
}

impl std::fmt::Debug for StreamLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamLink")
            .field("peer", &self.peer())
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}

/// Makes links of streams of bytes, under one identity.
#[derive(Clone)]
pub struct StreamEndpoint {
    client: TlsConnector,
    server: TlsAcceptor,
    farewells: watch::Sender<usize>,
}

impl std::fmt::Debug for StreamEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamEndpoint").finish_non_exhaustive()
    }
}

impl StreamEndpoint {
    /// An endpoint under this identity.
    pub fn new(identity: &Identity) -> io::Result<Self> {
        let (mut server, mut client) = tls::configs(identity).map_err(io::Error::other)?;
        // A ticket would show that two connections are of one peer to whoever sees both.
        tls::disable_resumption(&mut client);
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self {
            client: TlsConnector::from(Arc::new(client)),
            server: TlsAcceptor::from(Arc::new(server)),
            farewells: watch::Sender::new(0),
        })
    }

    /// Makes a link of a stream that was dialled. `remote` says where it leads.
    pub async fn dial(
        &self,
        io: impl ByteStream + 'static,
        peer: PeerId,
        remote: Remote,
    ) -> Result<Link, DialError> {
        let local = |reason: String| DialError::Local { address: remote, reason };
        let name = tls::server_name(&peer).ok_or_else(|| local(format!("{peer} is no ed25519 peer")))?;
        let name = ServerName::try_from(name).map_err(|error| local(error.to_string()))?;
        let (io, meter) = metered(io);
        let stream = timeout(HANDSHAKE_TIMEOUT, self.client.connect(name, io))
            .await
            .map_err(|_| DialError::TimedOut(remote))?
            .map_err(|error| dial_error(&error, peer, remote))?;
        // TLS 1.3: our side is complete before the peer has checked our key. Hello tells.
        let key = stream.get_ref().1.export_keying_material([0; 16], SHORT_ID_LABEL, Some(&[])).ok();
        Ok(Link::Stream(self.run(stream, meter, (peer, remote, false), key)))
    }

    /// Makes a link of a stream that came in from `remote`.
    pub async fn accept(&self, io: impl ByteStream + 'static, remote: Remote) -> Result<Link, Closed> {
        let (io, meter) = metered(io);
        let stream = timeout(HANDSHAKE_TIMEOUT, self.server.accept(io))
            .await
            .map_err(|_| Closed::network("the handshake took too long".into()))?
            .map_err(|error| Closed::network(error.to_string()))?;
        let tls = stream.get_ref().1;
        let peer = tls
            .peer_certificates()
            .and_then(|chain| tls::key_in_spki(chain.first()?))
            .and_then(|key| record::peer_of(&key))
            // The verifier admits nothing else.
            .ok_or_else(|| Closed::network("the peer showed no key".into()))?;
        let key = tls.export_keying_material([0; 16], SHORT_ID_LABEL, Some(&[])).ok();
        Ok(Link::Stream(self.run(stream, meter, (peer, remote, true), key)))
    }

    /// Links that are open or saying farewell.
    pub fn open_links(&self) -> usize {
        *self.farewells.borrow()
    }

    /// Waits until the last link has said its farewell.
    pub async fn wait_idle(&self) {
        // The sender lives as long as this does.
        let _ = self.farewells.subscribe().wait_for(|links| *links == 0).await;
    }

    fn run(
        &self,
        stream: impl ByteStream + 'static,
        meter: Arc<Meter>,
        (peer, remote, inbound): (PeerId, Remote, bool),
        short_id_key: Option<[u8; 16]>,
    ) -> StreamLink {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        // As much as each stream has to begin with: none of them grows.
        config.set_max_connection_receive_window(Some(STREAMS_MAX * yamux::DEFAULT_CREDIT as usize));
        let mode = if inbound { yamux::Mode::Server } else { yamux::Mode::Client };
        let connection = yamux::Connection::new(stream.compat(), config, mode);

        let (openings, wanted) = mpsc::channel(1);
        let (uni, accepted_uni) = mpsc::channel(OPENED_MAX);
        let (bi, accepted_bi) = mpsc::channel(OPENED_MAX);
        let shared = Arc::new(Shared {
            peer,
            inbound,
            remote,
            short_id_key,
            // The handshake took one round trip or two.
            rtt_us: AtomicU64::new(meter.begun.elapsed().as_micros() as u64),
            meter,
            closed: watch::Sender::new(None),
            openings,
            uni_places: Arc::new(Semaphore::new(tuning::UNI_STREAMS_MAX as usize)),
            bi_places: Arc::new(Semaphore::new(tuning::BIDI_STREAMS_MAX as usize)),
            opened: Arc::default(),
            waiting: Mutex::default(),
            accepted_uni: AsyncMutex::new(accepted_uni),
            accepted_bi: AsyncMutex::new(accepted_bi),
        });
        let (link_stream, io) = oneshot::channel();
        let (over, is_over) = oneshot::channel();
        let (link_stream, own) =
            if inbound { (link_stream, None) } else { (oneshot::channel().0, Some(link_stream)) };
        let farewells = self.farewells.clone();
        farewells.send_modify(|links| *links += 1);
        let driven = shared.clone();
        tokio::spawn(async move {
            let drive =
                driver::drive(connection, driven.clone(), wanted, Accepted { uni, bi }, link_stream, is_over);
            let begin = async {
                let Some(own) = own else { return };
                if let Some(mut stream) = driven.open().await
                    && driver::begin_link_stream(&mut stream).await.is_ok()
                {
                    let _ = own.send(stream);
                }
            };
            tokio::join!(drive, begin, driver::talk(driven.clone(), io, over));
            farewells.send_modify(|links| *links -= 1);
        });
        StreamLink(Arc::new(Held(shared)))
    }
}

impl Shared {
    async fn open(&self) -> Option<yamux::Stream> {
        let (opening, opened) = oneshot::channel();
        self.openings.send(opening).await.ok()?;
        opened.await.ok()
    }

    async fn closed_or<T>(&self, what: impl Future<Output = Option<T>>) -> Result<T, Closed> {
        tokio::select! {
            biased;
            what = what => match what {
                Some(what) => Ok(what),
                None => Err(self.over().await),
            },
            closed = self.over() => Err(closed),
        }
    }
}

fn metered<T>(io: T) -> (Metered<T>, Arc<Meter>) {
    let meter = Arc::new(Meter {
        begun: Instant::now(),
        received: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        heard: AtomicU64::new(0),
    });
    (Metered { io, meter: meter.clone() }, meter)
}

fn dial_error(error: &io::Error, peer: PeerId, address: Remote) -> DialError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)) => {
            DialError::IdentityMismatch { peer, address }
        }
        _ => DialError::Refused { address, reason: error.to_string(), code: None },
    }
}

impl StreamLink {
    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Who is at the other end, proven.
    pub fn peer(&self) -> PeerId {
        self.shared().peer
    }

    /// True if the other side dialled.
    pub fn is_inbound(&self) -> bool {
        self.shared().inbound
    }

    /// Where the other end is.
    pub fn remote(&self) -> Remote {
        self.shared().remote
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.shared().rtt_us.load(Ordering::Relaxed))
    }

    /// See [`Link::short_id_key`].
    pub fn short_id_key(&self) -> Option<[u8; 16]> {
        self.shared().short_id_key
    }

    /// Bytes received and sent below TLS.
    pub fn wire_bytes(&self) -> (u64, u64) {
        let meter = &self.shared().meter;
        (meter.received.load(Ordering::Relaxed), meter.sent.load(Ordering::Relaxed))
    }

    async fn open(&self, places: &Arc<Semaphore>, head: u8) -> Result<Arc<Pipe>, Closed> {
        if let Some(closed) = self.shared().close_reason() {
            return Err(closed);
        }
        let open = async {
            // Never closed.
            let permit = places.clone().acquire_owned().await.ok()?;
            Some((self.shared().open().await?, permit))
        };
        let (io, permit) = self.shared().closed_or(open).await?;
        Ok(Pipe::ours(io, self.shared().clone(), permit, head, head == HEAD_BI))
    }

    pub(super) async fn open_uni(&self) -> Result<SendHalf, Closed> {
        self.open(&self.shared().uni_places, HEAD_UNI).await.map(pipe::sender)
    }

    pub(super) async fn open_bi(&self) -> Result<(SendHalf, RecvHalf), Closed> {
        self.open(&self.shared().bi_places, HEAD_BI).await.map(pipe::both)
    }

    pub(super) async fn accept_uni(&self) -> Result<RecvHalf, Closed> {
        let next = async { self.shared().accepted_uni.lock().await.recv().await };
        self.shared().closed_or(next).await.map(pipe::receiver)
    }

    pub(super) async fn accept_bi(&self) -> Result<(SendHalf, RecvHalf), Closed> {
        let next = async { self.shared().accepted_bi.lock().await.recv().await };
        self.shared().closed_or(next).await.map(pipe::both)
    }

    /// Closes, telling the peer why.
    pub fn close(&self, code: Code, reason: &str) {
        self.shared().close(code, reason);
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) -> Closed {
        self.shared().over().await
    }

    /// How it ended, if it has.
    pub fn close_reason(&self) -> Option<Closed> {
        self.shared().close_reason()
    }
}

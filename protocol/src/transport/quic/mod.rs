//! QUIC v1 (RFC 9000) by the `quinn` library.

pub mod tls;
pub mod tuning;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::Code;
use ghost_proto::{PeerId, record};
use quinn::{AsyncUdpSocket, ConnectionError, EndpointConfig, TokioRuntime};

use super::{
    Closed, DialError, Link, ReadError, RecvStream, Remote, SHORT_ID_LABEL, SendStream, WriteError, read_code,
};
use crate::{
    Identity,
    tally::{Event, Tally},
};

/// TLS alert "access denied" as a QUIC error code: how a verifier refuses the key it was shown.
const ALERT_ACCESS_DENIED: u64 = 0x100 + 49;

/// Handshakes under way above which a new address must first prove that it can be reached at where
/// it claims to be (Retry, RFC 9000 §8.1.2).
pub const HALF_OPEN_UNVALIDATED_MAX: usize = 256;

/// Handshakes under way above which attempts are refused outright. At up to 40 KiB each, 1,024 take
/// 40 MiB.
pub const HALF_OPEN_MAX: usize = 1024;

/// Time a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What opens a NAT. The first bit and the fixed bit of QUIC (RFC 9000 §17) are zero, so that nobody takes it for a
/// packet, and eight bytes are too few to be answered.
const PUNCH: [u8; 8] = [0; 8];

/// Where datagrams come from and go to.
#[derive(Debug)]
pub enum Socket {
    /// A UDP socket bound here; port 0 lets the system choose.
    Bind(SocketAddr),
    /// Any other, e.g. one end of a simulated network.
    Custom(Arc<dyn AsyncUdpSocket>),
}

/// What becomes of a connection attempt.
#[derive(Debug)]
pub enum Verdict<E> {
    /// It may go on; what is in here goes with it.
    Accept(E),
    /// It is sent back for a token that proves its address.
    Validate,
    /// It is refused.
    Refuse,
}

/// A code as the library takes it.
pub(super) fn wire_code(code: Code) -> quinn::VarInt {
    quinn::VarInt::from_u32(code.number() as u32)
}

fn closed_of(error: &ConnectionError) -> Closed {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            Closed::by_peer(close.error_code.into_inner(), &close.reason)
        }
        ConnectionError::LocallyClosed => Closed::by_us(),
        other => Closed::network(other.to_string()),
    }
}

pub(super) fn write_error(error: quinn::WriteError) -> WriteError {
    match error {
        quinn::WriteError::Stopped(code) => WriteError::Stopped(read_code(code.into_inner())),
        quinn::WriteError::ConnectionLost(error) => WriteError::Lost(closed_of(&error)),
        quinn::WriteError::ZeroRttRejected => WriteError::EarlyDiscarded,
        quinn::WriteError::ClosedStream => WriteError::Ended,
    }
}

pub(super) fn read_error(error: quinn::ReadError) -> ReadError {
    match error {
        quinn::ReadError::Reset(code) => ReadError::Reset(read_code(code.into_inner())),
        quinn::ReadError::ConnectionLost(error) => ReadError::Lost(closed_of(&error)),
        quinn::ReadError::ZeroRttRejected => ReadError::EarlyDiscarded,
        other => ReadError::Lost(Closed::network(other.to_string())),
    }
}

pub(super) fn stopped_error(error: quinn::StoppedError) -> Closed {
    match error {
        quinn::StoppedError::ConnectionLost(error) => closed_of(&error),
        quinn::StoppedError::ZeroRttRejected => Closed::network("the early data was discarded".into()),
    }
}

/// A UDP socket with an identity: dials and accepts.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: quinn::Endpoint,
    client: quinn::ClientConfig,
    half_open: Arc<AtomicUsize>,
    tally: Tally,
    raw: Arc<Mutex<Raw>>,
}

/// The socket itself, for what is no QUIC packet.
#[derive(Debug)]
enum Raw {
    System(std::net::UdpSocket),
    Custom(Arc<dyn AsyncUdpSocket>),
}

/// A dial whose handshake may still be under way.
#[derive(Debug)]
pub enum Dialled {
    /// Keys of an earlier connection allow sending at once (0-RTT): requests that are safe to
    /// repeat, nothing else. [`Early::confirmed`] gives the link.
    Early(Early),
    /// The handshake is complete.
    Link(Link),
}

/// A connection on which 0-RTT data can be sent before the handshake is complete.
pub struct Early {
    connection: quinn::Connection,
    accepted: quinn::ZeroRttAccepted,
    peer: PeerId,
    address: SocketAddr,
}

impl std::fmt::Debug for Early {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Early")
            .field("peer", &self.peer)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Early {
    /// Opens a stream for one early request.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), Closed> {
        let (send, recv) = self.connection.open_bi().await.map_err(|error| closed_of(&error))?;
        Ok((SendStream::Quic(send), RecvStream::Quic(recv)))
    }

    /// Waits for the handshake. False beside the link if the server discarded the early data: what
    /// was asked early must be asked again.
    pub async fn confirmed(self) -> Result<(Link, bool), DialError> {
        let accepted = self.accepted.await;
        if let Some(error) = self.connection.close_reason() {
            return Err(dial_error(error, self.peer, self.address));
        }
        Ok((QuicLink::dialled(self.connection, self.peer), accepted))
    }
}

fn dial_error(error: ConnectionError, peer: PeerId, address: SocketAddr) -> DialError {
    let address = Remote::Ip(address);
    match &error {
        ConnectionError::TransportError(cause) if u64::from(cause.code) == ALERT_ACCESS_DENIED => {
            DialError::IdentityMismatch { peer, address }
        }
        ConnectionError::TimedOut => DialError::TimedOut(address),
        ConnectionError::ApplicationClosed(close) => DialError::Refused {
            address,
            reason: error.to_string(),
            code: Some(read_code(close.error_code.into_inner())),
        },
        _ => DialError::Refused { address, reason: error.to_string(), code: None },
    }
}

fn client_config(
    tls: rustls::ClientConfig,
    transport: Arc<quinn::TransportConfig>,
) -> io::Result<quinn::ClientConfig> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    Ok(config)
}

impl Endpoint {
    /// Opens an endpoint. It accepts connections only if `accepts`.
    ///
    /// `rng_seed` makes connection ids and timers' jitter repeatable in simulations; keys stay
    /// random. Must be called inside a tokio runtime.
    pub fn open(
        identity: &Identity,
        socket: Socket,
        accepts: bool,
        rng_seed: Option<[u8; 32]>,
        tally: Tally,
    ) -> io::Result<Self> {
        let (server, client) = tls::configs(identity).map_err(io::Error::other)?;
        let transport = tuning::transport();

        let client = client_config(client, transport.clone())?;
        let server = accepts
            .then(|| {
                let crypto =
                    quinn::crypto::rustls::QuicServerConfig::try_from(server).map_err(io::Error::other)?;
                let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
                config.transport_config(transport).migration(true).max_incoming(2 * HALF_OPEN_MAX);
                // Before a handshake is admitted, an attempt may buffer two datagrams' worth.
                config.incoming_buffer_size(8 * 1024).incoming_buffer_size_total(16 << 20);
                Ok::<_, io::Error>(config)
            })
            .transpose()?;

        // Keys derived from the identity survive a restart, so that a peer whose connection is gone
        // learns it from a stateless reset within a round trip instead of by silence.
        let reset_key = aws_lc_rs::hmac::Key::new(
            aws_lc_rs::hmac::HMAC_SHA256,
            &identity.derive("ghost 2026 quic stateless reset"),
        );
        let cid_key = identity.derive("ghost 2026 quic connection ids");
        let cid_key = u64::from_be_bytes(cid_key[..8].try_into().expect("eight bytes"));
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)));
        config.rng_seed(rng_seed);

        let runtime = Arc::new(TokioRuntime);
        let (inner, raw) = match socket {
            Socket::Bind(address) => {
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address(address),
                    socket2::Type::DGRAM,
                    Some(socket2::Protocol::UDP),
                )?;
                // Larger buffers only help; the system may grant less.
                let _ = socket.set_recv_buffer_size(tuning::SOCKET_BUFFER);
                let _ = socket.set_send_buffer_size(tuning::SOCKET_BUFFER);
                socket.bind(&address.into())?;
                let socket = std::net::UdpSocket::from(socket);
                let raw = Raw::System(socket.try_clone()?);
                (quinn::Endpoint::new(config, server, socket, runtime)?, raw)
            }
            Socket::Custom(socket) => {
                let raw = Raw::Custom(socket.clone());
                (quinn::Endpoint::new_with_abstract_socket(config, server, socket, runtime)?, raw)
            }
        };
        Ok(Self { inner, client, half_open: Arc::default(), tally, raw: Arc::new(Mutex::new(raw)) })
    }

    /// The same endpoint, whose dials are all full handshakes: no ticket is used or kept.
    pub fn without_resumption(self, identity: &Identity) -> io::Result<Self> {
        let (_, mut client) = tls::configs(identity).map_err(io::Error::other)?;
        tls::disable_resumption(&mut client);
        let client = client_config(client, tuning::transport())?;
        Ok(Self { client, ..self })
    }

    /// The address bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Connections that are open or opening.
    pub fn open_connections(&self) -> usize {
        self.inner.open_connections()
    }

    /// Starts a connection. With a ticket from an earlier one it can be written to at once.
    pub async fn dial_early(&self, peer: PeerId, address: SocketAddr) -> Result<Dialled, DialError> {
        match self.connecting(peer, address)?.into_0rtt() {
            Ok((connection, accepted)) => Ok(Dialled::Early(Early { connection, accepted, peer, address })),
            Err(connecting) => self.complete(connecting, peer, address).await.map(Dialled::Link),
        }
    }

    /// Connects and authenticates.
    pub async fn dial(&self, peer: PeerId, address: SocketAddr) -> Result<Link, DialError> {
        let connecting = self.connecting(peer, address)?;
        self.complete(connecting, peer, address).await
    }

    fn connecting(&self, peer: PeerId, address: SocketAddr) -> Result<quinn::Connecting, DialError> {
        let local = |reason: String| DialError::Local { address: address.into(), reason };
        let name = tls::server_name(&peer).ok_or_else(|| local(format!("{peer} is no ed25519 peer")))?;
        self.inner.connect_with(self.client.clone(), address, &name).map_err(|error| local(error.to_string()))
    }

    async fn complete(
        &self,
        connecting: quinn::Connecting,
        peer: PeerId,
        address: SocketAddr,
    ) -> Result<Link, DialError> {
        let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_| DialError::TimedOut(address.into()))?
            .map_err(|error| dial_error(error, peer, address))?;
        Ok(QuicLink::dialled(connection, peer))
    }

    /// The next connection attempt that may go on with its handshake, or `None` once the endpoint is
    /// closed. Attempts beyond the half-open bounds are challenged or refused here, before they cost
    /// anything; `admit` decides about the rest by address, and whether the address was proven.
    pub async fn accept<E>(&self, admit: impl Fn(SocketAddr, bool) -> Verdict<E>) -> Option<(Incoming, E)> {
        loop {
            let incoming = self.inner.accept().await?;
            let (address, validated) = (incoming.remote_address(), incoming.remote_address_validated());
            let half_open = self.half_open.load(Ordering::Relaxed);
            let verdict = if half_open >= HALF_OPEN_MAX {
                Verdict::Refuse
            } else if half_open >= HALF_OPEN_UNVALIDATED_MAX && !validated {
                Verdict::Validate
            } else {
                admit(address, validated)
            };
            let entry = match verdict {
                Verdict::Accept(entry) => entry,
                Verdict::Validate if !validated => {
                    self.tally.count(Event::AddressChallenged);
                    // Fails only for an address that is validated, which was just ruled out.
                    let _ = incoming.retry();
                    continue;
                }
                Verdict::Validate | Verdict::Refuse => {
                    self.tally.count(Event::RefusedBeforeHandshake);
                    incoming.refuse();
                    continue;
                }
            };
            match incoming.accept() {
                Ok(connecting) => {
                    self.half_open.fetch_add(1, Ordering::Relaxed);
                    let guard = HalfOpen(self.half_open.clone());
                    return Some((Incoming { connecting, guard }, entry));
                }
                Err(error) => tracing::debug!(%error, "connection attempt failed at once"),
            }
        }
    }

    /// Closes every connection and stops accepting.
    pub fn close(&self, code: Code) {
        self.inner.close(wire_code(code), code.name().as_bytes());
    }

    /// Waits until the last connection has said its farewell.
    pub async fn wait_idle(&self) {
        self.inner.wait_idle().await;
    }

    /// Goes on at another socket, as when the machine changes its network. Connections migrate.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        let raw = socket.try_clone()?;
        self.inner.rebind(socket)?;
        *self.raw.lock().expect("no code panics while it holds the socket") = Raw::System(raw);
        Ok(())
    }

    /// Sends a datagram that is no QUIC packet, from the socket that dials and accepts: so that a NAT in front of
    /// this machine lets in what comes from there.
    pub fn punch(&self, address: SocketAddr) -> io::Result<()> {
        match &*self.raw.lock().expect("no code panics while it holds the socket") {
            Raw::System(socket) => socket.send_to(&PUNCH, address).map(drop),
            Raw::Custom(socket) => socket.try_send(&quinn::udp::Transmit {
                destination: address,
                ecn: None,
                contents: &PUNCH,
                segment_size: None,
                src_ip: None,
            }),
        }
    }
}

#[derive(Debug)]
struct HalfOpen(Arc<AtomicUsize>);

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An accepted connection whose handshake is under way.
#[derive(Debug)]
pub struct Incoming {
    connecting: quinn::Connecting,
    guard: HalfOpen,
}

impl Incoming {
    /// Where it comes from.
    pub fn remote_address(&self) -> SocketAddr {
        self.connecting.remote_address()
    }

    /// Completes the handshake. Streams that arrive in 0-RTT data meanwhile go to `on_early`: their
    /// sender is not authenticated yet, and the data may be a replay.
    pub async fn complete(self, on_early: impl Fn(SendStream, RecvStream)) -> Result<Link, Closed> {
        self.complete_quic(on_early).await.map_err(|error| closed_of(&error))
    }

    async fn complete_quic(self, on_early: impl Fn(SendStream, RecvStream)) -> Result<Link, ConnectionError> {
        let Self { connecting, guard } = self;
        let (connection, accepted) = match connecting.into_0rtt() {
            Ok(early) => early,
            Err(connecting) => {
                let connection = connecting.await?;
                return QuicLink::accepted(connection, Vec::new());
            }
        };
        let mut held = Vec::new();
        let handshake = async {
            tokio::pin!(accepted);
            loop {
                tokio::select! {
                    biased;
                    _ = &mut accepted => return,
                    stream = connection.accept_bi() => match stream {
                        Ok((send, recv)) if recv.is_0rtt() => {
                            on_early(SendStream::Quic(send), RecvStream::Quic(recv));
                        }
                        // The handshake completed between the two polls.
                        Ok(stream) => held.push(stream),
                        Err(_) => return,
                    },
                }
            }
        };
        let in_time = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.is_ok();
        drop(guard);
        if !in_time {
            connection.close(wire_code(Code::Timeout), b"handshake");
            return Err(ConnectionError::TimedOut);
        }
        QuicLink::accepted(connection, held)
    }
}

/// Two streams of the library that belong together.
type Pair = (quinn::SendStream, quinn::RecvStream);

/// A link over QUIC. Cloning shares it.
#[derive(Debug, Clone)]
pub struct QuicLink {
    connection: quinn::Connection,
    peer: PeerId,
    inbound: bool,
    /// Streams that were accepted before the link existed.
    held: Arc<Mutex<Vec<Pair>>>,
}

impl QuicLink {
    fn dialled(connection: quinn::Connection, peer: PeerId) -> Link {
        Link::Quic(Self { connection, peer, inbound: false, held: Arc::default() })
    }

    fn accepted(connection: quinn::Connection, held: Vec<Pair>) -> Result<Link, ConnectionError> {
        if let Some(error) = connection.close_reason() {
            return Err(error);
        }
        let peer = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok())
            .and_then(|chain| tls::key_in_spki(chain.first()?))
            .and_then(|key| record::peer_of(&key));
        let Some(peer) = peer else {
            // The verifier admits nothing else; a connection without a key is of no use to anyone.
            connection.close(wire_code(Code::Internal), b"no identity");
            return Err(ConnectionError::LocallyClosed);
        };
        Ok(Link::Quic(Self { connection, peer, inbound: true, held: Arc::new(Mutex::new(held)) }))
    }

    /// Who is at the other end, proven.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// True if the other side dialled.
    pub fn is_inbound(&self) -> bool {
        self.inbound
    }

    /// Where the other end is now; it may move.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// A key that both sides of this connection know and nobody else: exported from TLS (RFC 8446 §7.5) under
    /// the label `EXPORTER-ghost-short-id`. `None` only if the handshake is not complete.
    pub fn short_id_key(&self) -> Option<[u8; 16]> {
        let mut key = [0; 16];
        self.connection.export_keying_material(&mut key, SHORT_ID_LABEL, &[]).ok()?;
        Some(key)
    }

    /// UDP bytes received and sent.
    pub fn wire_bytes(&self) -> (u64, u64) {
        let stats = self.connection.stats();
        (stats.udp_rx.bytes, stats.udp_tx.bytes)
    }

    /// Opens a one-way stream; waits while the peer grants none.
    pub async fn open_uni(&self) -> Result<quinn::SendStream, Closed> {
        self.connection.open_uni().await.map_err(|error| closed_of(&error))
    }

    /// Opens a two-way stream; waits while the peer grants none.
    pub async fn open_bi(&self) -> Result<Pair, Closed> {
        self.connection.open_bi().await.map_err(|error| closed_of(&error))
    }

    /// The next one-way stream of the peer.
    pub async fn accept_uni(&self) -> Result<quinn::RecvStream, Closed> {
        self.connection.accept_uni().await.map_err(|error| closed_of(&error))
    }

    /// The next two-way stream of the peer.
    pub async fn accept_bi(&self) -> Result<Pair, Closed> {
        if let Some(stream) = self.held.lock().expect("no code panics while it holds streams").pop() {
            return Ok(stream);
        }
        self.connection.accept_bi().await.map_err(|error| closed_of(&error))
    }

    /// Sends a datagram that may be lost. Fails if it is larger than the path allows or the peer
    /// takes none.
    pub fn send_datagram(&self, bytes: Bytes) -> Result<(), quinn::SendDatagramError> {
        self.connection.send_datagram(bytes)
    }

    /// The next datagram of the peer.
    pub async fn read_datagram(&self) -> Result<Bytes, Closed> {
        self.connection.read_datagram().await.map_err(|error| closed_of(&error))
    }

    /// Lets the peer open this many two-way streams at once.
    pub fn allow_bidi_streams(&self, count: u32) {
        self.connection.set_max_concurrent_bi_streams(count.into());
    }

    /// Lets the peer send this many bytes that we have not read.
    pub fn allow_unread_bytes(&self, count: u32) {
        self.connection.set_receive_window(count.into());
    }

    /// Changes the traffic keys now. The library also does so by itself before they wear out.
    pub fn update_keys(&self) {
        self.connection.force_key_update();
    }

    /// Closes, telling the peer why.
    pub fn close(&self, code: Code, reason: &str) {
        self.connection.close(wire_code(code), reason.as_bytes());
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) -> Closed {
        closed_of(&self.connection.closed().await)
    }

    /// How it ended, if it has.
    pub fn close_reason(&self) -> Option<Closed> {
        self.connection.close_reason().as_ref().map(closed_of)
    }
}

//! All sessions of a node: accepting, dialling, and one session for each pair of peers.
//!
//! Two nodes that dial each other at once end up with two connections. The one that was started by
//! the peer with the smaller PeerId stays, on both sides, whatever the order in which they see them.
//! The other drains: it takes no new frames, what is queued is delivered, and it closes as a
//! duplicate. When the same peer connects twice in the same direction, or comes back with the nonce
//! of another process, it has lost the first connection, so the newer one stays.
//!
//! Clients are not nodes: the same key may call over several connections at once.
//!
//! Behind Tor a node shows another face: another key, nonce and salt. What the two say in hello shows nothing
//! that would link them but what they cannot help having in common, their chain's head and their version.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ghost_frames::Code;
use ghost_proto::PeerId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

pub use crate::gate::{Gate, Knock, Porter, Refused, Ticket};
use crate::{
    Identity,
    gate::Entry,
    handshake::{HelloError, LocalHello, Role},
    session::{
        Direction, EstablishError, Session, SessionContext, SessionId, drive, establish, run_or_spawn,
        serve_early,
    },
    tally::{Event, Tally},
    transport::{
        Carrier, Closed, DialError, Isolation, Link, Onion, Remote,
        circuit::{CircuitSocket, is_circuit},
        quic::{Endpoint, Incoming, Socket, Verdict, tuning},
        stream::{BoxedStream, StreamEndpoint},
    },
};

/// Time a losing connection has to deliver what was queued on it.
pub const DUPLICATE_DRAIN: Duration = Duration::from_secs(2);

/// Time a stream to an onion service may take to open. A first one fetches a descriptor and builds a
/// circuit of six relays, and may try again: half a minute on the public network is not rare.
pub const CARRY_TIMEOUT: Duration = Duration::from_secs(60);
/// A node of which nothing was heard for so long has moved or gone: it says something every
/// [`tuning::KEEP_ALIVE`], and so do we, which it acknowledges; what is lost is sent again several times within the
/// 6 s more. QUIC gives up only after [`tuning::IDLE_TIMEOUT`], counted from our last word; and of the two ends of a
/// connection only the one that dialled may move, so that when the other does nothing else tells.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How often it is looked for silence. With 10,000 sessions each look takes a few milliseconds.
const SILENCE_EVERY: Duration = Duration::from_secs(3);

const _: () = assert!(
    tuning::KEEP_ALIVE.as_secs() + 2 * SILENCE_EVERY.as_secs() <= SILENCE_MAX.as_secs()
        && SILENCE_MAX.as_secs() < tuning::IDLE_TIMEOUT.as_secs()
);

/// Time the farewell of a probe may take.
const PROBE_FAREWELL: Duration = Duration::from_secs(1);

/// Comings and goings that may wait to be taken; sessions hold back beyond that.
const EVENTS_MAX: usize = 256;

/// Who came and who went.
#[derive(Debug)]
pub enum OverlayEvent {
    /// A session is ready. For a node's peer it is the only one, from now on: if the peer had
    /// another, that one is over for all purposes, and its end is not reported.
    Up(Session),
    /// A session is over. Not reported for the loser of two.
    Down {
        /// Which.
        session: Session,
        /// Why.
        closed: Closed,
    },
    /// A connection failed before it became a session. Not reported of those that the gate refused: it
    /// knows.
    Failed {
        /// Who, as far as it was authenticated.
        peer: PeerId,
        /// Where.
        address: Remote,
        /// Who dialled.
        direction: Direction,
        /// The code it was closed with.
        code: Code,
        /// For people.
        reason: String,
    },
}

/// Why a dial made no session.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The connection failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The peer's hello was refused.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// Anything else before the session was ready.
    #[error("{reason}")]
    Refused {
        /// The code.
        code: Code,
        /// For people.
        reason: String,
    },
}

impl From<EstablishError> for ConnectError {
    fn from(error: EstablishError) -> Self {
        match error {
            EstablishError::Hello(error) => Self::Hello(error),
            other => Self::Refused { code: other.code(), reason: other.to_string() },
        }
    }
}

/// What an overlay is made of.
#[derive(Debug)]
pub struct OverlayConfig {
    /// Our key.
    pub identity: Identity,
    /// What we say of ourselves; [`Overlay::update_hello`] changes it.
    pub hello: LocalHello,
    /// Quotas, counters and where frames go.
    pub context: SessionContext,
    /// Who gets in.
    pub gate: Gate,
    /// Repeatable connection ids for simulations.
    pub rng_seed: Option<[u8; 32]>,
    /// Who we are behind Tor and how it is reached, if it is.
    pub onion: Option<OnionFace>,
    /// Dial over IP also from families of addresses that no socket was given for. Off, no socket is opened
    /// but those given.
    pub dials_ip: bool,
}

/// Who a node is behind Tor. With another identity, nonce and salt than elsewhere the two cannot be linked
/// by what is said.
pub struct OnionFace {
    /// The key there.
    pub identity: Identity,
    /// What is said there.
    pub hello: LocalHello,
    /// How Tor is reached.
    pub carrier: Arc<dyn Carrier>,
}

impl std::fmt::Debug for OnionFace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnionFace").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Who we are on one network, and how streams of bytes there become links.
struct Face {
    identity: Identity,
    /// What we say of ourselves; [`Overlay::update_hello`] changes it.
    hello: RwLock<LocalHello>,
    streams: StreamEndpoint,
}

impl Face {
    fn new(identity: Identity, hello: LocalHello) -> io::Result<Self> {
        let streams = StreamEndpoint::new(&identity)?;
        Ok(Self { identity, hello: RwLock::new(hello), streams })
    }

    fn hello(&self) -> LocalHello {
        self.hello.read().expect("no code panics while it reads the hello").clone()
    }

    fn update(&self, change: impl FnOnce(&mut LocalHello)) {
        change(&mut self.hello.write().expect("no code panics while it writes the hello"));
    }
}

struct Shared {
    /// Who we are everywhere but behind Tor.
    face: Face,
    /// Who we are behind Tor, and the way there.
    onion: Option<(Face, Arc<dyn Carrier>)>,
    /// One for each socket; those that accept come first.
    endpoints: Vec<Endpoint>,
    /// For connections through others; opened when they are wanted.
    circuits: OnceLock<(Endpoint, Arc<CircuitSocket>)>,
    context: SessionContext,
    gate: Gate,
    /// The session of each peer that is a node.
    nodes: Mutex<HashMap<PeerId, Session>>,
    /// Sessions of clients.
    clients: Mutex<HashMap<SessionId, Session>>,
    events: mpsc::Sender<OverlayEvent>,
    /// Held while a session is settled or forgotten *and* reported, so that comings and goings are
    /// reported in the order in which they were decided.
    reporting: tokio::sync::Mutex<()>,
    accepting: AtomicBool,
    /// The sockets are not the system's.
    simulated: bool,
}

/// A handle to all sessions of a node. Cloning shares it.
#[derive(Clone)]
pub struct Overlay(Arc<Shared>);

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("peer_id", &self.peer_id()).finish_non_exhaustive()
    }
}

enum Settled {
    Stays { replaced: Option<Session> },
    Loses,
}

impl Overlay {
    /// Binds and starts accepting on every socket. An address family that has none gets a socket that
    /// only dials, where the machine allows. Must be called inside a tokio runtime.
    pub fn start(
        config: OverlayConfig,
        sockets: Vec<Socket>,
    ) -> io::Result<(Self, mpsc::Receiver<OverlayEvent>)> {
        let open = |socket, accepts| {
            let tally = config.context.tally.clone();
            Endpoint::open(&config.identity, socket, accepts, config.rng_seed, tally)
        };
        let simulated = sockets.iter().any(|socket| matches!(socket, Socket::Custom(_)));
        let mut endpoints =
            sockets.into_iter().map(|socket| open(socket, true)).collect::<io::Result<Vec<_>>>()?;
        let accepting = endpoints.len();
        if !simulated && config.dials_ip {
            for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
                let mut bound = endpoints.iter().filter_map(|endpoint| endpoint.local_addr().ok());
                if bound.any(|local| local.is_ipv4() == any.is_ipv4()) {
                    continue;
                }
                match open(Socket::Bind(SocketAddr::new(any, 0)), false) {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(error) => tracing::debug!(%error, address = %any, "no socket to dial from"),
                }
            }
        }
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let onion = match config.onion {
            Some(OnionFace { identity, hello, carrier }) => Some((Face::new(identity, hello)?, carrier)),
            None => None,
        };
        let overlay = Self(Arc::new(Shared {
            face: Face::new(config.identity, config.hello)?,
            onion,
            endpoints,
            circuits: OnceLock::new(),
            context: config.context,
            gate: config.gate,
            nodes: Mutex::default(),
            clients: Mutex::default(),
            events,
            reporting: tokio::sync::Mutex::default(),
            accepting: AtomicBool::new(true),
            simulated,
        }));
        for endpoint in &overlay.0.endpoints[..accepting] {
            tokio::spawn(overlay.clone().accept(endpoint.clone()));
        }
        tokio::spawn(watch_for_silence(Arc::downgrade(&overlay.0)));
        Ok((overlay, receiver))
    }

    /// Who we are, except behind Tor.
    pub fn peer_id(&self) -> PeerId {
        self.0.face.identity.peer_id()
    }

    /// Who we are behind Tor, if we are there.
    pub fn onion_peer_id(&self) -> Option<PeerId> {
        self.0.onion.as_ref().map(|(face, _)| face.identity.peer_id())
    }

    fn is_us(&self, peer: &PeerId) -> bool {
        *peer == self.peer_id() || Some(*peer) == self.onion_peer_id()
    }

    /// Who we are to somebody there.
    fn face(&self, remote: &Remote) -> &Face {
        match &self.0.onion {
            Some((face, _)) if remote.is_tor() => face,
            _ => &self.0.face,
        }
    }

    fn faces(&self) -> impl Iterator<Item = &Face> {
        std::iter::once(&self.0.face).chain(self.0.onion.iter().map(|(face, _)| face))
    }

    /// The addresses bound, in the order of the sockets given; those that only dial come last.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.0.endpoints.iter().filter_map(|endpoint| endpoint.local_addr().ok()).collect()
    }

    /// The socket for connections that travel through others, which this accepts from then on. Must be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// Only if the cryptography library refuses the key: a fault of the build.
    pub fn open_circuits(&self) -> io::Result<Arc<CircuitSocket>> {
        if let Some((_, socket)) = self.0.circuits.get() {
            return Ok(socket.clone());
        }
        let socket = Arc::new(CircuitSocket::default());
        let tally = self.0.context.tally.clone();
        let endpoint =
            Endpoint::open(&self.0.face.identity, Socket::Custom(socket.clone()), true, None, tally)?;
        let opened = self.0.circuits.get_or_init(|| {
            tokio::spawn(self.clone().accept(endpoint.clone()));
            (endpoint, socket)
        });
        Ok(opened.1.clone())
    }

    /// Sends a datagram that opens a NAT in front of this machine to an address; see [`Endpoint::punch`].
    pub fn punch(&self, address: SocketAddr) -> io::Result<()> {
        match self.endpoint_for(&address) {
            Some(endpoint) => endpoint.punch(address),
            None => Err(io::Error::other("this node has no socket of that address family")),
        }
    }

    fn endpoint_for(&self, address: &SocketAddr) -> Option<&Endpoint> {
        if is_circuit(address) {
            return self.0.circuits.get().map(|(endpoint, _)| endpoint);
        }
        self.0
            .endpoints
            .iter()
            .find(|endpoint| endpoint.local_addr().is_ok_and(|local| local.is_ipv4() == address.is_ipv4()))
    }

    /// Connections that are open, opening or saying farewell, sessions or not.
    pub fn open_connections(&self) -> usize {
        let streams: usize = self.faces().map(|face| face.streams.open_links()).sum();
        self.0.endpoints.iter().map(Endpoint::open_connections).sum::<usize>() + streams
    }

    /// What happened, counted.
    pub fn tally(&self) -> &Tally {
        &self.0.context.tally
    }

    /// Changes what later peers are told in hello, on every network.
    pub fn update_hello(&self, change: impl Fn(&mut LocalHello)) {
        self.faces().for_each(|face| face.update(&change));
    }

    /// Changes what later peers are told everywhere but behind Tor: where we are.
    pub fn update_clear_hello(&self, change: impl FnOnce(&mut LocalHello)) {
        self.0.face.update(change);
    }

    /// Changes what later peers are told behind Tor.
    pub fn update_onion_hello(&self, change: impl FnOnce(&mut LocalHello)) {
        if let Some((face, _)) = &self.0.onion {
            face.update(change);
        }
    }

    /// The session with a peer that is a node.
    pub fn session(&self, peer: &PeerId) -> Option<Session> {
        self.nodes().get(peer).cloned()
    }

    /// The sessions with all peers that are nodes, ordered by peer.
    pub fn sessions(&self) -> Vec<Session> {
        let mut sessions: Vec<_> = self.nodes().values().cloned().collect();
        sessions.sort_by_key(Session::peer);
        sessions
    }

    /// The sessions of clients, oldest first.
    pub fn clients(&self) -> Vec<Session> {
        let clients = self.0.clients.lock().expect("no code panics while it holds the clients");
        let mut sessions: Vec<_> = clients.values().cloned().collect();
        sessions.sort_by_key(Session::id);
        sessions
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Session>> {
        self.0.nodes.lock().expect("no code panics while it holds the sessions")
    }

    /// Pauses or resumes accepting, as when descriptors or slots run out. Sessions live on.
    pub fn set_accepting(&self, accepting: bool) {
        self.0.accepting.store(accepting, Ordering::Relaxed);
    }

    /// Connects to a peer at an address. If the peer already has a session it is returned as it is.
    pub async fn dial(&self, peer: PeerId, at: impl Into<Remote>) -> Result<Session, ConnectError> {
        self.dial_saying(peer, at, |_| ()).await
    }

    /// As [`Self::dial`], saying something else in hello to this peer alone, e.g. that transactions are
    /// not served to it.
    pub async fn dial_saying(
        &self,
        peer: PeerId,
        at: impl Into<Remote>,
        change: impl FnOnce(&mut LocalHello),
    ) -> Result<Session, ConnectError> {
        let at = at.into();
        if self.is_us(&peer) {
            return Err(HelloError::SelfDial.into());
        }
        if let Some(session) = self.session(&peer).filter(|session| !session.is_closing()) {
            return Ok(session);
        }
        let dialled = match at {
            Remote::Ip(address) => self.dial_ip(peer, address).await,
            Remote::Onion(onion) => self.dial_onion(peer, onion).await,
            Remote::Tor | Remote::Local => {
                Err(DialError::Local { address: at, reason: "nobody can be dialled there".into() })
            }
        };
        let link = match dialled {
            Ok(link) => link,
            Err(error) => {
                if matches!(error, DialError::IdentityMismatch { .. }) {
                    self.tally().count(Event::IdentityMismatch);
                }
                return Err(error.into());
            }
        };
        // Another dial of ours, at another address of the peer, was quicker. To the peer this one only looked.
        if let Some(session) = self
            .session(&peer)
            .filter(|session| session.direction() == Direction::Outbound && !session.is_closing())
        {
            link.close(Code::Done, "another address answered first");
            return Ok(session);
        }
        let mut hello = self.face(&at).hello();
        change(&mut hello);
        self.adopt(link, hello, None).await
    }

    async fn dial_ip(&self, peer: PeerId, address: SocketAddr) -> Result<Link, DialError> {
        match self.endpoint_for(&address) {
            Some(endpoint) => endpoint.dial(peer, address).await,
            None => {
                let reason = "this node has no socket of that address family".into();
                Err(DialError::Local { address: address.into(), reason })
            }
        }
    }

    async fn dial_onion(&self, peer: PeerId, onion: Onion) -> Result<Link, DialError> {
        let address = Remote::Onion(onion);
        let Some((face, carrier)) = &self.0.onion else {
            return Err(DialError::Local { address, reason: "this node does not use Tor".into() });
        };
        let stream = timeout(CARRY_TIMEOUT, carrier.connect(onion, Isolation::Peer(peer)))
            .await
            .map_err(|_| DialError::TimedOut(address))?
            .map_err(|error| DialError::Refused { address, reason: error.to_string(), code: None })?;
        face.streams.dial(stream, peer, address).await
    }

    /// Connects to a node to ask it something and to leave again: as a client, so that it is no peer of ours
    /// before and after, and neither side relays anything to the other. Close the session when it has answered.
    /// Never through Tor.
    pub async fn visit(&self, peer: PeerId, address: SocketAddr) -> Result<Session, ConnectError> {
        if self.is_us(&peer) {
            return Err(HelloError::SelfDial.into());
        }
        let link = self.dial_ip(peer, address).await?;
        let hello = LocalHello { role: Role::Client, record: None, tx_salt: None, ..self.0.face.hello() };
        let (session, greeted) = establish(link, &hello, &self.0.context).await?;
        tokio::spawn(drive(session.clone(), greeted));
        Ok(session)
    }

    /// Looks whether a peer can be reached at an address by somebody it has not heard of: with a full
    /// handshake from a fresh socket (where sockets are simulated: from the usual one), which is closed as
    /// soon as its key is proven. Nothing is said and no session made.
    pub async fn probe(
        &self,
        peer: PeerId,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<(), DialError> {
        let local = |reason: String| DialError::Local { address: address.into(), reason };
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let fresh = match self.0.simulated {
            true => self.endpoint_for(&address).cloned().ok_or_else(|| local("no such socket".into()))?,
            false => {
                let tally = self.0.context.tally.clone();
                let socket = Socket::Bind(SocketAddr::new(any, 0));
                Endpoint::open(&self.0.face.identity, socket, false, None, tally)
                    .and_then(|endpoint| endpoint.without_resumption(&self.0.face.identity))
                    .map_err(|error| local(error.to_string()))?
            }
        };
        let link = timeout(patience, fresh.dial(peer, address))
            .await
            .unwrap_or(Err(DialError::TimedOut(address.into())))?;
        link.close(Code::Done, "only looked whether you are there");
        if !self.0.simulated {
            // Until the farewell is sent.
            let _ = timeout(PROBE_FAREWELL, fresh.wait_idle()).await;
        }
        Ok(())
    }

    async fn accept(self, endpoint: Endpoint) {
        let admit = |address, validated| match self.0.accepting.load(Ordering::Relaxed) {
            true => self.0.gate.knock(Remote::Ip(address), validated),
            false => Verdict::Refuse,
        };
        while let Some((incoming, entry)) = endpoint.accept(admit).await {
            // Always a task: spawned after it woke whoever answers early data, it would run before them.
            tokio::spawn(self.clone().receive(incoming, entry));
        }
    }

    async fn receive(self, incoming: Incoming, entry: Entry) {
        let address = incoming.remote_address();
        let context = self.0.context.clone();
        let early = |send, recv| run_or_spawn(serve_early(context.clone(), send, recv));
        match incoming.complete(early).await {
            Ok(link) => {
                let peer = link.peer();
                if let Err(error) = self.adopt(link, self.0.face.hello(), Some(entry)).await {
                    tracing::debug!(%peer, %address, %error, "inbound connection made no session");
                }
            }
            Err(error) => tracing::debug!(%address, %error, "inbound handshake failed"),
        }
    }

    /// Makes a session of a stream that came in from `remote`: from behind our onion service, or through a
    /// socket that only the operator can open, whom no gate stops.
    pub async fn accept_stream(&self, stream: BoxedStream, remote: Remote) {
        let admitted = match (self.0.accepting.load(Ordering::Relaxed), remote) {
            (_, Remote::Local) => Some(None),
            // A stream has come through a handshake of its own: it proves as much as it ever will.
            (true, _) => match self.0.gate.knock(remote, true) {
                Verdict::Accept(entry) => Some(Some(entry)),
                Verdict::Validate | Verdict::Refuse => None,
            },
            (false, _) => None,
        };
        let Some(entry) = admitted else {
            return self.tally().count(Event::RefusedBeforeHandshake);
        };
        let face = self.face(&remote);
        match face.streams.accept(stream, remote).await {
            Ok(link) => {
                let peer = link.peer();
                if let Err(error) = self.adopt(link, face.hello(), entry).await {
                    tracing::debug!(%peer, %remote, %error, "inbound stream made no session");
                }
            }
            Err(error) => tracing::debug!(%remote, %error, "inbound handshake failed"),
        }
    }

    /// Makes a session of an authenticated connection. `entry` is what the gate gave those that dialled us.
    async fn adopt(
        &self,
        link: Link,
        local: LocalHello,
        entry: Option<Entry>,
    ) -> Result<Session, ConnectError> {
        let (peer, address) = (link.peer(), link.remote());
        let direction = if link.is_inbound() { Direction::Inbound } else { Direction::Outbound };
        let failed =
            |code: Code, reason: String| OverlayEvent::Failed { peer, address, direction, code, reason };
        let (session, greeted) = match establish(link, &local, &self.0.context).await {
            Ok(established) => established,
            Err(error) => {
                self.report(failed(error.code(), error.to_string())).await;
                return Err(error.into());
            }
        };
        let in_order = self.0.reporting.lock().await;
        // A connection that is not the one to stay never takes a slot.
        if !self.loses(&session) {
            match self.0.gate.arrives(&session, entry) {
                Ok(None) => {}
                Ok(Some(evicted)) => {
                    if let Some(evicted) = self.session(&evicted) {
                        evicted.close(Code::Full, "somebody better took the last slot");
                    }
                }
                Err(Refused { code, reason }) => {
                    session.close(code, "not admitted");
                    return Err(ConnectError::Refused { code, reason });
                }
            }
        }
        match self.settle(&session) {
            Settled::Stays { replaced } => {
                if let Some(old) = replaced {
                    tokio::spawn(async move {
                        old.drain(Code::Duplicate, "another connection is kept", true, DUPLICATE_DRAIN).await;
                    });
                }
                self.report(OverlayEvent::Up(session.clone())).await;
                drop(in_order);
                tokio::spawn(self.clone().run(session.clone(), greeted));
                Ok(session)
            }
            Settled::Loses => {
                // Whatever the peer has sent on it before it came to the same conclusion is delivered.
                tokio::spawn(drive(session.clone(), greeted));
                let loser = session.clone();
                tokio::spawn(async move {
                    loser.drain(Code::Duplicate, "another connection is kept", true, DUPLICATE_DRAIN).await;
                });
                self.session(&peer).ok_or_else(|| ConnectError::Refused {
                    code: Code::Duplicate,
                    reason: "the connection that was kept is gone already".into(),
                })
            }
        }
    }

    /// Decides between a new session and the one the peer has.
    fn settle(&self, session: &Session) -> Settled {
        if session.role() == Role::Client {
            let mut clients = self.0.clients.lock().expect("no code panics while it holds the clients");
            clients.insert(session.id(), session.clone());
            return Settled::Stays { replaced: None };
        }
        if self.loses(session) {
            return Settled::Loses;
        }
        Settled::Stays { replaced: self.nodes().insert(session.peer(), session.clone()) }
    }

    /// True if the peer has another session that is the one to stay. Call it, and act on it, while
    /// nothing else is settled.
    fn loses(&self, session: &Session) -> bool {
        let peer = session.peer();
        if session.role() == Role::Client {
            return false;
        }
        self.nodes().get(&peer).filter(|existing| !existing.is_closing()).is_some_and(|existing| {
            let us = self.face(&session.remote()).identity.peer_id();
            let ours_stays = us.to_bytes() < peer.to_bytes();
            let preferred = if ours_stays { Direction::Outbound } else { Direction::Inbound };
            // A peer that was restarted does not know the existing session, however good it looks
            // from here.
            let same_process = existing.hello().nonce == session.hello().nonce;
            same_process && existing.direction() != session.direction() && session.direction() != preferred
        })
    }

    async fn run(self, session: Session, greeted: crate::session::Greeted) {
        let closed = drive(session.clone(), greeted).await;
        let _in_order = self.0.reporting.lock().await;
        let was_current = match session.role() {
            Role::Client => {
                let mut clients = self.0.clients.lock().expect("no code panics while it holds the clients");
                clients.remove(&session.id()).is_some()
            }
            Role::Node => {
                let mut nodes = self.nodes();
                let current = nodes.get(&session.peer()).is_some_and(|current| current.id() == session.id());
                if current {
                    nodes.remove(&session.peer());
                }
                current
            }
        };
        if was_current {
            self.0.gate.left(&session);
            self.report(OverlayEvent::Down { session, closed }).await;
        }
    }

    async fn report(&self, event: OverlayEvent) {
        // The node that listened is shutting down: nobody is left to care.
        let _ = self.0.events.send(event).await;
    }

    /// Drains every session, closes the endpoint and waits for the last farewell to be sent, at most
    /// for `patience`.
    pub async fn shut_down(&self, patience: Duration) {
        self.set_accepting(false);
        let drains: Vec<_> = self
            .sessions()
            .into_iter()
            .chain(self.clients())
            .map(|session| {
                tokio::spawn(async move {
                    session.drain(Code::ShuttingDown, "the node is shutting down", false, patience).await;
                })
            })
            .collect();
        for drain in drains {
            // A drain that panicked has nothing left to send.
            let _ = drain.await;
        }
        let circuits = self.0.circuits.get().map(|(endpoint, _)| endpoint);
        for endpoint in self.0.endpoints.iter().chain(circuits) {
            endpoint.close(Code::ShuttingDown);
            let _ = timeout(patience, endpoint.wait_idle()).await;
        }
        for face in self.faces() {
            let _ = timeout(patience, face.streams.wait_idle()).await;
        }
    }
}

/// Closes sessions of nodes of which nothing is heard any more, so that whoever keeps them can dial again.
async fn watch_for_silence(shared: Weak<Shared>) {
    let mut heard: HashMap<SessionId, (u64, Instant)> = HashMap::new();
    loop {
        sleep(SILENCE_EVERY).await;
        let Some(overlay) = shared.upgrade().map(Overlay) else { return };
        let now = Instant::now();
        let mut still = HashMap::with_capacity(heard.len());
        for session in overlay.nodes().values() {
            let (received, _) = session.wire_bytes();
            let since = match heard.get(&session.id()) {
                Some((before, since)) if *before == received => *since,
                _ => now,
            };
            if now - since >= SILENCE_MAX && !session.is_closing() {
                session.close(Code::Timeout, "nothing was heard from it");
            }
            still.insert(session.id(), (received, since));
        }
        heard = still;
    }
}

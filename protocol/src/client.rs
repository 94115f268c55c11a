//! What a program that is not a node uses: connect to a ghostd and call it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ghost_protocol::{Identity, client::{Client, ClientConfig}};
//!
//! let address = "/ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X".parse()?;
//! let client = Client::connect(ClientConfig::new(Identity::generate()), &address).await?;
//! let status = client.status().await?;
//! println!("{} is at height {}", status.chain_name, status.head.unwrap_or_default().height);
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Every method may be dropped before it is done: the request is then cancelled at the node.

macro_rules! expect_answer {
    ($frame:expr, $kind:ident) => {
        match $frame {
            Frame::$kind(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    };
}

mod calls;
mod compare;
mod contract;
mod follow;
mod pool;

use std::{io, sync::Arc, time::Duration};

use ghost_frames::{Code, EncodedFrame, Frame, StreamType, writer::Payload};
use ghost_proto::{BlockId, GenesisId, Multiaddr, PeerId, message};

pub use self::{
    compare::{CompareError, Compared, SignedAnswer},
    contract::{ContractCode, Estimate, Log, LogFilter, LogPage, LogPlace, LogQuery, ReceiptAt, Simulated},
    follow::{Batch, Cursor, FollowFrom, FollowStream, FollowedReceipt, Position, Subscription},
    pool::{NodeHealth, Pool, PoolConfig},
};
use crate::{
    Identity,
    address::{AddressError, QuicAddress, unix_socket, unspecified_for},
    class::{Class, ClassTable},
    handshake::{LocalHello, Role, StreamSet},
    overlay::ConnectError,
    request::{Answer, RequestError, send_request},
    session::{Session, SessionContext, drive, establish},
    tally::Tally,
    transport::{
        Closed, DialError, RecvStream, Remote, SendStream,
        quic::{Dialled, Endpoint, Socket},
        stream::{BoxedStream, StreamEndpoint},
    },
};

/// Longest wait for a farewell to be over.
pub const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// How a client connects.
#[derive(Debug)]
pub struct ClientConfig {
    /// Who calls. Operator commands need the operator's key.
    pub identity: Identity,
    /// Bounds connecting and each answer. 10 s by default.
    pub timeout: Duration,
    /// Bind this address instead of any.
    pub bind: Option<std::net::SocketAddr>,
    /// Keep tickets, so that a later connection of the same [`Connector`] can begin with its first
    /// request. True by default.
    pub resume: bool,
}

impl ClientConfig {
    /// The defaults, for this identity.
    pub fn new(identity: Identity) -> Self {
        Self { identity, timeout: Duration::from_secs(10), bind: None, resume: true }
    }
}

/// Why a client has no connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No socket could be opened, or the node's own not be connected to.
    #[error("cannot open a socket: {0}")]
    Socket(#[from] io::Error),
    /// The node could not be reached, or refused.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing answered in time.
    #[error("{0} does not answer")]
    TimedOut(Multiaddr),
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The node says why.
    #[error("{}{message}", name_of(*code))]
    Failed {
        /// What kind of failure.
        code: message::RpcCode,
        /// For people.
        message: String,
        /// With busy: when to ask again.
        retry_after: Duration,
    },
    /// The node is at its limits: ask again later, or ask another.
    #[error("the node is busy; ask again in a moment")]
    Busy,
    /// The request failed below the call.
    #[error(transparent)]
    Request(RequestError),
    /// What this side asked makes no sense.
    #[error("{0}")]
    Invalid(String),
}

fn name_of(code: message::RpcCode) -> &'static str {
    match code {
        message::RpcCode::RpcInvalid => "the node calls the request invalid: ",
        message::RpcCode::RpcNotFound => "",
        message::RpcCode::RpcBusy => "the node is busy: ",
        message::RpcCode::RpcDenied => "the node denies it: ",
        message::RpcCode::RpcInternal | message::RpcCode::RpcUnspecified => "the node failed: ",
    }
}

impl From<RequestError> for CallError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(Code::Busy) => Self::Busy,
            other => Self::Request(other),
        }
    }
}

impl From<message::RpcFailure> for CallError {
    fn from(failure: message::RpcFailure) -> Self {
        Self::Failed {
            code: failure.code(),
            retry_after: Duration::from_millis(failure.retry_after_ms.into()),
            message: failure.message,
        }
    }
}

/// Which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSelector {
    /// On the canonical chain.
    Height(u64),
    /// By id.
    Id(BlockId),
    /// The newest.
    Head,
}

/// Keeps what lets a later connection to the same node begin with its first request (0-RTT): use one
/// connector for all connections of a program.
#[derive(Debug, Clone)]
pub struct Connector {
    ways: Ways,
    timeout: Duration,
}

/// How it gets to nodes.
#[derive(Debug, Clone)]
enum Ways {
    Quic(Endpoint),
    /// To sockets in the file system, or over a stream of the caller's.
    Streams(StreamEndpoint),
}

/// A client that is about to be: its first question is answered, its handshake may not be complete.
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct Connecting(tokio::task::JoinHandle<Result<Client, ClientError>>);

impl Connecting {
    /// The client, once the node has said hello.
    pub async fn client(self) -> Result<Client, ClientError> {
        // A handshake that panicked has no node at its other end.
        self.0.await.unwrap_or_else(|error| Err(ClientError::Socket(io::Error::other(error))))
    }
}

impl Connector {
    /// Opens a socket that can reach `target`. Must be called inside a tokio runtime.
    pub async fn open(config: ClientConfig, target: &Multiaddr) -> Result<Self, ClientError> {
        if unix_socket(target).is_some() {
            let ways = Ways::Streams(StreamEndpoint::new(&config.identity)?);
            return Ok(Self { ways, timeout: config.timeout });
        }
        let resolved = QuicAddress::parse(target)?.resolve().await?;
        let bind = config.bind.unwrap_or_else(|| unspecified_for(&resolved[0]));
        Self::with_socket(config, Socket::Bind(bind))
    }

    /// On a socket of the caller's.
    pub fn with_socket(config: ClientConfig, socket: Socket) -> Result<Self, ClientError> {
        let endpoint =
            Endpoint::open(&config.identity, socket, false, None, SessionContext::default().tally)?;
        let endpoint =
            if config.resume { endpoint } else { endpoint.without_resumption(&config.identity)? };
        Ok(Self { ways: Ways::Quic(endpoint), timeout: config.timeout })
    }

    async fn target(&self, address: &Multiaddr) -> Result<(PeerId, Vec<std::net::SocketAddr>), ClientError> {
        let parsed = QuicAddress::parse(address)?;
        let peer = parsed.expected_peer(address)?;
        Ok((peer, parsed.resolve().await?))
    }

    /// Connects to a node.
    pub async fn connect(&self, address: &Multiaddr) -> Result<Client, ClientError> {
        let endpoint = match &self.ways {
            Ways::Quic(endpoint) => endpoint,
            Ways::Streams(streams) => {
                return tokio::time::timeout(self.timeout, self.connect_local(streams, address))
                    .await
                    .map_err(|_| ClientError::TimedOut(address.clone()))?;
            }
        };
        let (peer, sockets) = self.target(address).await?;
        let mut last = None;
        for socket in sockets {
            let attempt = async {
                let link = endpoint.dial(peer, socket).await.map_err(ConnectError::from)?;
                self.greet(link).await
            };
            match tokio::time::timeout(self.timeout, attempt).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(ClientError::TimedOut(address.clone())),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::TimedOut(address.clone())))
    }

    async fn connect_local(
        &self,
        streams: &StreamEndpoint,
        address: &Multiaddr,
    ) -> Result<Client, ClientError> {
        let unsupported = || AddressError::Unsupported(address.clone());
        let (path, peer) = unix_socket(address).ok_or_else(unsupported)?;
        let peer = peer.ok_or_else(|| AddressError::NoPeer(address.clone()))?;
        let io = tokio::net::UnixStream::connect(path).await?;
        let link = streams.dial(io, peer, Remote::Local).await.map_err(ConnectError::from)?;
        self.greet(link).await
    }

    /// Connects and asks one question that is safe to repeat, in the same flight if an earlier
    /// connection to this node left a ticket. The answer may come before the handshake is complete;
    /// the node has then proven that it holds the keys of the earlier connection. It is returned when it is
    /// here; the client follows as soon as the handshake is complete.
    pub async fn connect_asking(
        &self,
        address: &Multiaddr,
        question: &Frame,
    ) -> Result<(Frame, Connecting), ConnectAskError> {
        if !ghost_frames::rpc::is_safe_to_repeat(question) {
            return Err(
                CallError::Invalid("only a request that is safe to repeat may be sent early".into()).into()
            );
        }
        let Ways::Quic(endpoint) = &self.ways else {
            let client = self.connect(address).await?;
            let answer = client.request(&question.encode()).await?;
            return Ok((answer, Connecting(tokio::spawn(async { Ok(client) }))));
        };
        let (peer, sockets) = self.target(address).await?;
        let socket = sockets.first().copied().ok_or_else(|| ClientError::TimedOut(address.clone()))?;
        let question = question.encode();
        // The question waits neither for the node's hello nor, with a ticket, for the handshake.
        let attempt = async {
            let dialled = endpoint.dial_early(peer, socket).await.map_err(ConnectError::from);
            match dialled.map_err(ClientError::from)? {
                Dialled::Early(early) => {
                    let stream = early.open_bi().await;
                    let connecting = self.connecting(async {
                        let (link, _) = early.confirmed().await.map_err(ConnectError::from)?;
                        Ok(link)
                    });
                    match ask(stream, &question, self.timeout).await {
                        // Discarded: the ordinary fate of a ticket that went stale. Refused: perhaps only
                        // because it came early.
                        Err(CallError::Request(
                            RequestError::EarlyDiscarded | RequestError::Refused(Code::TooEarly),
                        )) => {
                            let client = connecting.client().await?;
                            let answer = client.request(&question).await?;
                            Ok((answer, Connecting(tokio::spawn(async { Ok(client) }))))
                        }
                        Ok(answer) => Ok((answer, connecting)),
                        // Why there is no connection says more than why there is no answer.
                        Err(error) => connecting.client().await.map_err(Into::into).and(Err(error.into())),
                    }
                }
                Dialled::Link(link) => {
                    let stream = link.open_bi().await;
                    let connecting = self.connecting(async { Ok(link) });
                    match ask(stream, &question, self.timeout).await {
                        Ok(answer) => Ok((answer, connecting)),
                        Err(error) => connecting.client().await.map_err(Into::into).and(Err(error.into())),
                    }
                }
            }
        };
        tokio::time::timeout(self.timeout, attempt)
            .await
            .map_err(|_| ClientError::TimedOut(address.clone()))?
    }

    fn connecting(
        &self,
        link: impl Future<Output = Result<crate::transport::Link, ClientError>> + Send + 'static,
    ) -> Connecting {
        let connector = self.clone();
        Connecting(tokio::spawn(async move { connector.greet(link.await?).await }))
    }

    async fn greet(&self, link: crate::transport::Link) -> Result<Client, ClientError> {
        let hello = LocalHello {
            genesis: None,
            serves: StreamSet::default(),
            user_agent: concat!("ghost-client/", env!("CARGO_PKG_VERSION")).into(),
            record: None,
            best: (0, BlockId::ZERO),
            finalized_height: 0,
            nonce: rand::random(),
            role: Role::Client,
            tx_salt: None,
        };
        let context = SessionContext::default();
        let (session, greeted) = establish(link, &hello, &context).await.map_err(ConnectError::from)?;
        tokio::spawn(drive(session.clone(), greeted));
        Ok(Client { session: Arc::new(Held(session)), ways: self.ways.clone(), timeout: self.timeout })
    }
}

/// Why [`Connector::connect_asking`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectAskError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ClientError),
    /// A connection, but no answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Asks on a stream just opened.
async fn ask(
    stream: Result<(SendStream, RecvStream), Closed>,
    question: &EncodedFrame,
    patience: Duration,
) -> Result<Frame, CallError> {
    let (send, recv) = stream.map_err(|error| RequestError::Disconnected(error.to_string()))?;
    let priority = ClassTable::default().spec(Class::Rpc).priority;
    send_request(send, StreamType::Rpc, priority, question.bytes().clone()).await?;
    checked(Answer::new(recv, StreamType::Rpc, patience, Tally::default(), None).single().await?)
}

/// An answer, unless it says why there is none.
fn checked(answer: Frame) -> Result<Frame, CallError> {
    match answer {
        Frame::RpcFailure(failure) => Err(failure.into()),
        frame => Ok(frame),
    }
}

/// Closes the session when nobody holds it any more.
#[derive(Debug)]
struct Held(Session);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.close(Code::Done, "");
    }
}

/// A connection to one node. It is closed when the last clone, and the last of its streams, is dropped;
/// [`Client::close`] also waits until the farewell is sent.
#[derive(Debug, Clone)]
pub struct Client {
    session: Arc<Held>,
    ways: Ways,
    timeout: Duration,
}

/// An answer and who gave it.
struct Answered {
    frame: Frame,
    peer: PeerId,
    genesis: Option<GenesisId>,
}

fn unexpected(frame: &Frame) -> CallError {
    CallError::Request(RequestError::Unexpected(format!("a {} frame", frame.info().name)))
}

fn found<T>(result: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(CallError::Failed { code: message::RpcCode::RpcNotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Client {
    /// Connects to a node on a socket of its own.
    pub async fn connect(config: ClientConfig, address: &Multiaddr) -> Result<Self, ClientError> {
        Connector::open(config, address).await?.connect(address).await
    }

    /// Connects over a stream that leads to a node, wherever it comes from.
    pub async fn over(
        config: ClientConfig,
        stream: BoxedStream,
        peer: PeerId,
        remote: Remote,
    ) -> Result<Self, ClientError> {
        let streams = StreamEndpoint::new(&config.identity)?;
        let connector = Connector { ways: Ways::Streams(streams.clone()), timeout: config.timeout };
        let attempt = async {
            let link = streams.dial(stream, peer, remote).await.map_err(ConnectError::from)?;
            connector.greet(link).await
        };
        let gave_up = DialError::TimedOut(remote);
        tokio::time::timeout(config.timeout, attempt)
            .await
            .unwrap_or_else(|_| Err(ConnectError::from(gave_up).into()))
    }

    /// The session below.
    pub fn session(&self) -> &Session {
        &self.session.0
    }

    /// Sends one request and returns the one frame of its answer, unless that says why there is none.
    pub async fn request(&self, request: &EncodedFrame) -> Result<Frame, CallError> {
        let answer = self.session().request(StreamType::Rpc, request, self.timeout).await?;
        checked(answer.single().await?)
    }

    /// Who answers.
    pub fn peer(&self) -> PeerId {
        self.session().peer()
    }

    /// For a single node there is nothing to hedge.
    async fn tell(&self, request: &EncodedFrame) -> Result<Answered, CallError> {
        self.ask(request).await
    }

    async fn ask(&self, request: &EncodedFrame) -> Result<Answered, CallError> {
        let frame = self.request(request).await?;
        Ok(Answered { frame, peer: self.session().peer(), genesis: self.session().hello().genesis })
    }

    /// Whom the node is connected to. Operator only.
    pub async fn peers(&self) -> Result<message::PeersAnswer, CallError> {
        expect_answer!(self.request(&message::PeersRequest {}.to_frame()).await?, PeersList)
    }

    /// Adds, drops, bans, unbans or explains a peer. Operator only.
    pub async fn peer_command(
        &self,
        command: message::PeerCommand,
    ) -> Result<message::PeerCommandAnswer, CallError> {
        expect_answer!(self.request(&command.to_frame()).await?, PeerCommandAnswer)
    }

    /// Follows the head.
    pub async fn heads(&self) -> Result<HeadStream, CallError> {
        let request = message::HeadsRequest {}.to_frame();
        let answer = self.session().request(StreamType::Events, &request, self.timeout).await?;
        Ok(HeadStream { answer, _session: self.session.clone() })
    }

    /// Says goodbye and waits until it is sent and would be repeated no more: three probe timeouts, or
    /// [`FAREWELL_MAX`] while other connections of the same connector are open.
    pub async fn close(self) {
        self.session().close(Code::Done, "");
        let idle = async {
            match &self.ways {
                Ways::Quic(endpoint) => endpoint.wait_idle().await,
                Ways::Streams(streams) => streams.wait_idle().await,
            }
        };
        let _ = tokio::time::timeout(FAREWELL_MAX, idle).await;
    }
}

/// Heads as they change. A slow reader gets the newest, not all.
#[derive(Debug)]
pub struct HeadStream {
    answer: Answer,
    _session: Arc<Held>,
}

impl HeadStream {
    /// The next head; the first comes at once. `None` when the node ends the stream.
    pub async fn next(&mut self) -> Result<Option<message::HeadEvent>, CallError> {
        match self.answer.next_whenever().await? {
            Some(Frame::HeadEvent(event)) => Ok(Some(event)),
            Some(Frame::RpcFailure(failure)) => Err(failure.into()),
            Some(other) => Err(unexpected(&other)),
            None => Ok(None),
        }
    }
}

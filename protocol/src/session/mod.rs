//! A session: one authenticated, greeted connection.
//!
//! Methods by who calls them:
//! - whoever has something to say: [`Session::push`], [`Session::request`], [`Session::send_datagram`]
//! - whoever wants to know about the peer: [`Session::peer`], [`Session::hello`], [`Session::rtt`], …
//! - whoever decides about it: [`Session::close`], [`Session::drain`], [`Session::closed`]
//!
//! A handle is cheap to clone. The session lives until its connection is closed, whatever handles
//! are kept.

mod driver;
mod establish;
mod outbox;
mod precedence;
pub(crate) mod stream;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{Code, EncodedFrame, Payload, StreamType, control::Ping};
use ghost_proto::PeerId;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

pub(crate) use driver::{drive, run_or_spawn, serve_early};
pub(crate) use establish::{EstablishError, Greeted, establish};
pub use outbox::Delivery;
use outbox::{Enqueued, Outbox};
use precedence::Precedence;

use crate::{
    class::{Class, ClassTable},
    handshake::{LocalHello, PeerHello, Role, TX_SALT_LEN},
    inbox::Inbox,
    quota::Quota,
    request::{Answer, RequestError, send_request},
    shape::Shape,
    tally::{Event, Tally},
    transport::{Closed, DatagramError, Link, Remote, SendStream, WriteError, quic::tuning},
};

/// Names a session among all that a process ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// We.
    Outbound,
}

impl Direction {
    /// The name in logs, metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What all sessions of a node share.
#[derive(Debug, Clone, Default)]
pub struct SessionContext {
    /// Quotas, bounds and priorities.
    pub table: Arc<ClassTable>,
    /// What happened, counted.
    pub tally: Tally,
    /// Where received frames go.
    pub inbox: Inbox,
    /// How what is sent looks from outside.
    pub shape: Shape,
}

/// The push stream types, each with an outbox of its own.
const PUSHES: [StreamType; 4] =
    [StreamType::Control, StreamType::BlockPush, StreamType::TxPush, StreamType::Consensus];

/// Most pings that may be unanswered at once.
const PINGS_MAX: usize = 16;

#[derive(Debug)]
struct Inner {
    id: SessionId,
    link: Link,
    hello: PeerHello,
    /// Under which we asked the peer to hash its announcements.
    own_salt: Option<[u8; TX_SALT_LEN]>,
    established: Instant,
    context: SessionContext,
    outboxes: [Outbox; PUSHES.len()],
    /// Made when something is first written.
    precedence: OnceLock<Box<Precedence>>,
    /// What the peer may still send in each class; made when it first sends something.
    quotas: [Mutex<Option<Box<Quota>>>; Class::ALL.len()],
    serving: [AtomicU16; Class::ALL.len()],
    /// Two-way streams that the peer may have open.
    granted: AtomicU32,
    /// Requests of the peer whose answers it has not wholly acknowledged.
    answering: AtomicUsize,
    /// Incoming push streams being read, the control stream not counted.
    reading: AtomicUsize,
    /// The peer ended its control stream, which it does when all else that it pushed has arrived.
    peer_drained: AtomicBool,
    /// Streams opened in vain; made when the first is.
    wasted: Mutex<Option<Box<Quota>>>,
    draining: AtomicBool,
    /// Something ended that a drain may be waiting for.
    ended: Notify,
    /// Bytes that the peer may have sent and we not read.
    credit: Mutex<u32>,
    pings: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    next_ping: AtomicU64,
}

impl Inner {
    fn change_credit(&self, change: impl FnOnce(u32) -> u32) {
        let mut credit = self.credit.lock().expect("no code panics while it holds the credit");
        *credit = change(*credit);
        self.link.allow_unread_bytes(*credit);
    }

    /// Writes to a stream of the peer's, in its class's turn.
    async fn write(&self, class: Class, stream: &mut SendStream, bytes: Bytes) -> Result<(), WriteError> {
        let precedence = self.precedence.get_or_init(|| Box::new(Precedence::new(Instant::now())));
        let priority = |class| self.context.table.spec(class).priority;
        let bytes = self.context.shape.padded(class, bytes);
        precedence.write(class, priority, stream, bytes).await
    }
}

/// A handle to a session.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inner>);

/// Credit for a large answer, for as long as it is awaited: without it, answers that we are slow to
/// read would take the credit of everything else the peer has to say.
#[derive(Debug)]
pub(crate) struct Asking(Session);

impl Asking {
    fn begin(session: Session) -> Self {
        session.0.change_credit(|credit| credit.saturating_add(tuning::STREAM_WINDOW));
        Self(session)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.0.change_credit(|credit| credit.saturating_sub(tuning::STREAM_WINDOW));
    }
}

impl Session {
    fn new(
        link: Link,
        hello: PeerHello,
        local: &LocalHello,
        context: SessionContext,
        control: SendStream,
    ) -> Self {
        let credit = match local.role {
            Role::Node => tuning::CONNECTION_WINDOW,
            Role::Client => {
                link.allow_unread_bytes(tuning::CLIENT_CONNECTION_WINDOW);
                tuning::CLIENT_CONNECTION_WINDOW
            }
        };
        let now = Instant::now();
        let outboxes = PUSHES.map(Outbox::new);
        outboxes[0].adopt(control);
        Self(Arc::new(Inner {
            id: SessionId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            link,
            hello,
            own_salt: local.tx_salt,
            established: now,
            context,
            outboxes,
            precedence: OnceLock::new(),
            quotas: Default::default(),
            serving: Default::default(),
            granted: AtomicU32::new(tuning::BIDI_STREAMS_FIRST),
            answering: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            peer_drained: AtomicBool::new(false),
            wasted: Mutex::default(),
            draining: AtomicBool::new(false),
            ended: Notify::new(),
            credit: Mutex::new(credit),
            pings: Mutex::default(),
            next_ping: AtomicU64::new(0),
        }))
    }

    /// Names this session.
    pub fn id(&self) -> SessionId {
        self.0.id
    }

    /// Who is at the other end, proven.
    pub fn peer(&self) -> PeerId {
        self.0.link.peer()
    }

    /// What it said of itself.
    pub fn hello(&self) -> &PeerHello {
        &self.0.hello
    }

    /// Under which salt we asked the peer to hash its announcements.
    pub fn own_salt(&self) -> Option<[u8; TX_SALT_LEN]> {
        self.0.own_salt
    }

    /// Who dialled.
    pub fn direction(&self) -> Direction {
        if self.0.link.is_inbound() { Direction::Inbound } else { Direction::Outbound }
    }

    /// Whether it relays or only asks.
    pub fn role(&self) -> Role {
        self.0.hello.role
    }

    /// Where the peer is now.
    pub fn remote(&self) -> Remote {
        self.0.link.remote()
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.0.link.rtt()
    }

    /// Bytes received and sent, see [`Link::wire_bytes`].
    pub fn wire_bytes(&self) -> (u64, u64) {
        self.0.link.wire_bytes()
    }

    /// A key that both sides know and nobody else, see [`Link::short_id_key`].
    pub fn short_id_key(&self) -> Option<[u8; 16]> {
        self.0.link.short_id_key()
    }

    /// When the hellos were exchanged.
    pub fn established(&self) -> Instant {
        self.0.established
    }

    /// The connection below.
    pub fn link(&self) -> &Link {
        &self.0.link
    }

    /// Queues a frame on one of the long-lived push streams and says what became of it. Never waits.
    ///
    /// # Panics
    /// If frames of this type are not pushed.
    pub fn push(&self, stream: StreamType, frame: &EncodedFrame) -> Delivery {
        let index = PUSHES.iter().position(|push| *push == stream).expect("requests are not pushed");
        if stream != StreamType::Control && !self.0.hello.serves.contains(stream) {
            return Delivery::NotServed;
        }
        let class = Class::of(stream);
        let tally = &self.0.context.tally;
        match self.0.outboxes[index].push(frame.clone(), self.0.context.table.spec(class)) {
            Enqueued::Yes { start, dropped } => {
                for _ in 0..dropped {
                    tally.count(Event::QueueDropped(class));
                }
                if start {
                    tokio::spawn(driver::write_out(self.0.clone(), index));
                }
                Delivery::Queued
            }
            Enqueued::Full => {
                tally.count(Event::QueueRefused(class));
                Delivery::BackOff
            }
            Enqueued::Fatal => {
                self.close(Code::TooSlow, "the control queue is full");
                Delivery::Closed
            }
            Enqueued::Closed => Delivery::Closed,
        }
    }

    /// Waits until a push stream that answered [`Delivery::BackOff`] has room for more than one frame
    /// again, or the session takes no more pushes: then push again, which says which of the two it is.
    ///
    /// # Panics
    /// If frames of this type are not pushed.
    pub async fn push_ready(&self, stream: StreamType) {
        let index = PUSHES.iter().position(|push| *push == stream).expect("requests are not pushed");
        self.0.outboxes[index].room(self.0.context.table.spec(Class::of(stream))).await;
    }

    /// Bytes queued for the peer on a push stream.
    ///
    /// # Panics
    /// If frames of this type are not pushed.
    pub fn queued_bytes(&self, stream: StreamType) -> usize {
        let index = PUSHES.iter().position(|push| *push == stream).expect("requests are not pushed");
        self.0.outboxes[index].queued_bytes()
    }

    /// Asks. `patience` bounds the wait for a stream and for each frame of the answer.
    pub async fn request(
        &self,
        stream: StreamType,
        frame: &EncodedFrame,
        patience: Duration,
    ) -> Result<Answer, RequestError> {
        if !self.0.hello.serves.contains(stream) {
            return Err(RequestError::NotServed(stream.name()));
        }
        if self.0.draining.load(Ordering::Relaxed) {
            return Err(RequestError::Disconnected("the session is draining".into()));
        }
        let class = Class::of(stream);
        let priority = self.0.context.table.spec(class).priority;
        let large =
            matches!(class, Class::Block | Class::Tx | Class::Sync).then(|| Asking::begin(self.clone()));
        let ask = async {
            let (send, recv) =
                self.0.link.open_bi().await.map_err(|error| RequestError::Disconnected(error.to_string()))?;
            // Both halves cancel the request if this future is dropped.
            let tally = &self.0.context.tally;
            let answer = Answer::new(recv, stream, patience, tally.clone(), large);
            send_request(send, stream, priority, self.0.context.shape.padded(class, frame.bytes().clone())).await?;
            tally.sent(class, 1, frame.len());
            Ok(answer)
        };
        timeout(patience, ask).await.map_err(|_| RequestError::TimedOut(patience))?
    }

    /// Measures a round trip through the peer's session, not only through its transport.
    pub async fn ping(&self, patience: Duration) -> Result<Duration, RequestError> {
        let number = self.0.next_ping.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut pings = self.0.pings.lock().expect("no code panics while it holds the pings");
            if pings.len() >= PINGS_MAX {
                pings.pop_first();
            }
            pings.insert(number, sender);
        }
        let sent = Instant::now();
        if self.push(StreamType::Control, &Ping(number).to_frame()) != Delivery::Queued {
            return Err(RequestError::Disconnected("the session is closing".into()));
        }
        match timeout(patience, receiver).await {
            Ok(Ok(())) => Ok(sent.elapsed()),
            Ok(Err(_)) => {
                Err(RequestError::Disconnected("the ping was displaced or the session closed".into()))
            }
            Err(_) => Err(RequestError::TimedOut(patience)),
        }
    }

    /// Sends a datagram that may be lost.
    pub fn send_datagram(&self, bytes: Bytes) -> Result<(), DatagramError> {
        self.0.link.send_datagram(bytes)
    }

    /// Closes at once, telling the peer why. What is queued is lost.
    pub fn close(&self, code: Code, reason: &str) {
        if self.0.link.close_reason().is_none() {
            self.0.context.tally.count(Event::ClosedByUs(code));
        }
        self.0.link.close(code, reason);
    }

    /// Closes once the peer has acknowledged everything queued and every answer to its requests and,
    /// if `both_ways`, has done the same for us; at the latest after `patience`. Until then the
    /// session takes no new frames or requests of ours.
    ///
    /// The control stream ends last: its end tells the peer that nothing else is under way.
    pub async fn drain(&self, code: Code, reason: &str, both_ways: bool, patience: Duration) {
        self.0.draining.store(true, Ordering::Relaxed);
        let quiet = async {
            for index in 1..PUSHES.len() {
                self.end_pushes(index);
            }
            self.when(|inner| {
                inner.outboxes[1..].iter().all(Outbox::is_drained)
                    && inner.serving.iter().all(|serving| serving.load(Ordering::Relaxed) == 0)
                    && inner.answering.load(Ordering::Relaxed) == 0
            })
            .await;
            self.end_pushes(0);
            if both_ways {
                self.when(|inner| {
                    inner.outboxes[0].is_drained()
                        && inner.peer_drained.load(Ordering::Relaxed)
                        && inner.reading.load(Ordering::Relaxed) == 0
                })
                .await;
            }
        };
        tokio::select! {
            _ = timeout(patience, quiet) => {}
            _ = self.0.link.closed() => {}
        }
        self.close(code, reason);
    }

    fn end_pushes(&self, index: usize) {
        if let Some(stream) = self.0.outboxes[index].close() {
            let inner = self.0.clone();
            tokio::spawn(async move { driver::end_push(&inner, index, stream).await });
        }
    }

    /// Waits until something is true that can become so when a stream ends.
    async fn when(&self, condition: impl Fn(&Inner) -> bool) {
        loop {
            let ended = self.0.ended.notified();
            if condition(&self.0) {
                return;
            }
            ended.await;
        }
    }

    /// True once the session no longer takes pushes.
    pub fn is_closing(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed) || self.0.link.close_reason().is_some()
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) -> Closed {
        self.0.link.closed().await
    }

    /// Writes part of an answer, in the turn of its class.
    pub(crate) async fn write(
        &self,
        class: Class,
        stream: &mut SendStream,
        bytes: Bytes,
    ) -> Result<(), WriteError> {
        self.0.write(class, stream, bytes).await
    }

    /// A request of the peer is being served: how many of its class are now.
    pub(crate) fn request_began(&self, class: Class) -> u16 {
        let serving = self.0.serving[class as usize].fetch_add(1, Ordering::Relaxed) + 1;
        self.grant_streams();
        serving
    }

    /// A request of the peer is no longer being served.
    pub(crate) fn request_ended(&self, class: Class) {
        self.0.serving[class as usize].fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_waiters();
    }

    /// Doubles the peer's grant of two-way streams once half of it is in use.
    fn grant_streams(&self) {
        let most = match self.role() {
            Role::Node => tuning::BIDI_STREAMS_MAX,
            Role::Client => tuning::CLIENT_BIDI_STREAMS_MAX,
        };
        let serving: u32 =
            self.0.serving.iter().map(|serving| u32::from(serving.load(Ordering::Relaxed))).sum();
        let granted = self.0.granted.load(Ordering::Relaxed);
        if granted < most && 2 * serving >= granted {
            let more = most.min(2 * granted);
            // Whoever comes second at the same moment finds it done.
            if self.0.granted.compare_exchange(granted, more, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.0.link.allow_bidi_streams(more);
            }
        }
    }

    /// Pays for what was read, and says how long to pause.
    fn charge(&self, class: Class, messages: usize, bytes: usize) -> Duration {
        let now = Instant::now().into_std();
        let mut quota = self.0.quotas[class as usize].lock().expect("no code panics while it holds a quota");
        let pause = quota
            .get_or_insert_with(|| Box::new(Quota::new(self.0.context.table.spec(class), now)))
            .charge(messages, bytes, now);
        let tally = &self.0.context.tally;
        tally.received(class, messages, bytes);
        if !pause.is_zero() {
            tally.count(Event::Throttled(class));
        }
        pause
    }
}

//! The task that decides whom to be connected to: the shell around the discovery cores.
//!
//! The cores say whom to dial, drop, ask and remember; this task dials, drops, asks and writes down.
//! The gate of the overlay asks them, through a lock, who may come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ghost_discovery::{
    address::{self, Endpoint, Host},
    clock::Now,
    conduct::{self, Note, What as StoryWhat},
    dial::{Attempt, DialFailure, DialId, Link, StaticPeer},
    exchange::Answer,
    netgroup::Source,
    overlay::{Effect, Input, Overlay as Discovery, OverlayConfig as DiscoveryConfig},
    store::{Batch, PeerStore},
};
use ghost_frames::{
    Code, Frame, Payload, StreamType,
    discovery::{Peers, PeersRequest},
};
use ghost_proto::{Multiaddr, PeerId, message};
use ghost_protocol::{
    Overlay, Session,
    address::of_socket,
    handshake::{HelloError, PeerHello, Role},
    inbox::Asked,
    overlay::{ConnectError, Gate, OverlayEvent},
    session::Direction,
    transport::quic::{Closed, DialError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{chain::ToChain, conduct::Offence, transactions::ToTransactions};
use crate::{clock::Clock, config, metrics::Metrics};

/// Reports of dials, answers and the store that may wait.
const REPORTS_MAX: usize = 256;

/// Time a peer has to say whom it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What the peer task is told.
#[derive(Debug)]
pub(crate) enum ToPeers {
    /// A peer did wrong.
    Offence { peer: PeerId, what: Offence },
    /// The head has not moved for long.
    TipStale,
    /// The head moved.
    TipFresh,
    /// The operator commands.
    Command {
        what: message::peer_command::What,
        reply: oneshot::Sender<Result<message::PeerCommandAnswer, String>>,
    },
}

/// What other tasks may ask about peers, and the gate.
#[derive(Clone)]
pub(crate) struct PeerBook {
    discovery: Arc<Mutex<Discovery>>,
    clock: Clock,
    inbound_nodes: Arc<AtomicUsize>,
    clients: Arc<AtomicUsize>,
}

impl PeerBook {
    pub(crate) fn new(discovery: Discovery, clock: Clock) -> Self {
        Self {
            discovery: Arc::new(Mutex::new(discovery)),
            clock,
            inbound_nodes: Arc::default(),
            clients: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Discovery> {
        self.discovery.lock().expect("no code panics while it holds the peer book")
    }

    fn now(&self) -> Now {
        Now { at: Instant::now().into_std(), unix_ms: self.clock.unix_ms() }
    }

    /// A peer's score: 0 is clean, at 100 it is banned.
    pub(crate) fn conduct(&self, peer: &PeerId) -> i32 {
        self.lock().ledger().score(peer, self.clock.unix_ms()).round() as i32
    }

    /// Whom the node bans now, and why.
    pub(crate) fn bans(&self) -> Vec<(PeerId, String)> {
        let bans = self.lock().ledger().bans(self.clock.unix_ms());
        bans.into_iter().map(|(peer, ban)| (peer, ban.reason)).collect()
    }

    /// Admits by ban and by number: `inbound_max` nodes, `clients_max` programs; an operator always.
    pub(crate) fn gate(&self, inbound_max: usize, clients_max: usize, operators: Arc<Vec<PeerId>>) -> Gate {
        let book = self.clone();
        let peer = move |peer: &PeerId, hello: &PeerHello, direction: Direction| {
            if operators.contains(peer) {
                return Ok(());
            }
            if book.lock().ledger().banned(peer, book.clock.unix_ms()).is_some() {
                return Err(Code::Refused);
            }
            let (count, max) = match hello.role {
                Role::Client => (&book.clients, clients_max),
                Role::Node => (&book.inbound_nodes, inbound_max),
            };
            let full = direction == Direction::Inbound && count.load(Ordering::Relaxed) >= max;
            if full { Err(Code::Full) } else { Ok(()) }
        };
        Gate { peer: Arc::new(peer), ..Gate::default() }
    }

    /// The counter that a session of this kind is counted by, if any.
    fn counter(&self, session: &Session) -> Option<&AtomicUsize> {
        match (session.role(), session.direction()) {
            (Role::Client, _) => Some(&self.clients),
            (Role::Node, Direction::Inbound) => Some(&self.inbound_nodes),
            (Role::Node, Direction::Outbound) => None,
        }
    }
}

/// The discovery cores' settings for a node's.
pub(crate) fn discovery_config(
    own: PeerId,
    network: &config::Network,
    listen: &[SocketAddr],
) -> DiscoveryConfig {
    let local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    };
    let outbound = network.outbound_max as usize;
    let mut config = if listen.iter().any(|address| local(address.ip())) {
        DiscoveryConfig::private(own, outbound)
    } else {
        DiscoveryConfig::new(own)
    };
    config.dial.full_relay = outbound.min(128);
    // Every session relays transactions.
    config.dial.block_only = 0;
    if !network.discovery {
        config.dial.full_relay = 0;
        config.dial.feeler_every = Duration::ZERO;
    }
    for address in &network.peers {
        match static_peer(address) {
            Ok(peer) => config.static_peers.push(peer),
            Err(error) => tracing::warn!(%address, error, "configured peer cannot be dialled"),
        }
    }
    config
}

fn static_peer(address: &Multiaddr) -> Result<StaticPeer, String> {
    match address::parse(address) {
        Ok((endpoint, peer @ Some(_))) => Ok(StaticPeer { endpoint, peer }),
        Ok((_, None)) => Err(format!("{address} does not say whom to expect: append /p2p/PEERID")),
        Err(error) => Err(error.to_string()),
    }
}

/// The endpoint of a socket address; `None` for a wildcard, which is nobody's address.
fn endpoint_of(address: SocketAddr) -> Option<Endpoint> {
    address::parse(&of_socket(address)).ok().map(|(endpoint, _)| endpoint)
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    match endpoint.host() {
        Host::Ip4(ip) => Ok(vec![(*ip, endpoint.port()).into()]),
        Host::Ip6(ip) => Ok(vec![(*ip, endpoint.port()).into()]),
        Host::Name(name) => tokio::net::lookup_host((&**name, endpoint.port()))
            .await
            .map(Iterator::collect)
            .map_err(|error| error.to_string()),
        Host::Onion(_) => Err("this node does not speak Tor".into()),
    }
}

/// What the peer task needs.
pub(crate) struct PeerService {
    pub(crate) overlay: Overlay,
    pub(crate) book: PeerBook,
    pub(crate) store: Option<Box<dyn PeerStore>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: mpsc::Receiver<OverlayEvent>,
    pub(crate) commands: mpsc::Receiver<ToPeers>,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) chain: mpsc::Sender<ToChain>,
    pub(crate) transactions: mpsc::Sender<ToTransactions>,
}

/// What the tasks of this task bring back.
enum Report {
    /// One address of a dial came to nothing.
    AddressFailed { dial: DialId, peer: PeerId, endpoint: Endpoint, why: DialFailure },
    /// A peer said whom it knows, or did not.
    Peers { peer: PeerId, records: Option<Vec<bytes::Bytes>> },
    /// The store took a batch, or gives it back.
    Persisted(Box<dyn PeerStore>, Result<(), Batch>),
}

struct Running {
    service: PeerService,
    reports: mpsc::Receiver<Report>,
    report: mpsc::Sender<Report>,
    dials: BTreeMap<PeerId, (DialId, Vec<Attempt>)>,
    up: BTreeSet<PeerId>,
}

impl PeerService {
    /// Runs until the node stops.
    pub(crate) async fn run(self) {
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let running = Running { reports, report, dials: BTreeMap::new(), up: BTreeSet::new(), service: self };
        running.run().await;
    }
}

impl Running {
    async fn run(mut self) {
        let own: Vec<Endpoint> =
            self.service.overlay.local_addresses().into_iter().filter_map(endpoint_of).collect();
        let effects = {
            let (mut discovery, now) = (self.service.book.lock(), self.service.book.now());
            let mut effects = discovery.start(now);
            effects.extend(discovery.handle(Input::OwnPlaces(own), now));
            effects
        };
        self.perform(effects);
        loop {
            let deadline = self.service.book.lock().next_deadline();
            let wake = deadline.map_or_else(|| Instant::now() + Duration::from_secs(3600), Instant::from_std);
            tokio::select! {
                event = self.service.events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None => return,
                },
                command = self.service.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(asked) = self.service.asked.recv() => self.asked(asked),
                Some(report) = self.reports.recv() => self.report(report),
                () = sleep_until(wake) => {
                    let effects = {
                        let (mut discovery, now) = (self.service.book.lock(), self.service.book.now());
                        discovery.on_deadline(now)
                    };
                    self.perform(effects);
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        let effects = {
            let (mut discovery, now) = (self.service.book.lock(), self.service.book.now());
            discovery.handle(input, now)
        };
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { dial, peer, addresses, .. } => self.dial(dial, peer, addresses),
                Effect::Drop { peer, code, why } => {
                    tracing::info!(%peer, why, "peer dropped");
                    if let Some(session) = self.service.overlay.session(&peer) {
                        session.close(code, &why);
                    }
                }
                Effect::AskForPeers { peer, limit } => self.ask(peer, limit),
                // The sync core has asked every peer for its headers when it found the tip stale.
                Effect::ChallengeTip { .. } => {}
                Effect::Alarm(alarm) => tracing::warn!("{alarm}"),
                Effect::Persist(batch) => self.persist(batch),
            }
        }
    }

    fn dial(&mut self, dial: DialId, peer: Option<PeerId>, addresses: Vec<Attempt>) {
        // Static peers are only taken with a PeerId, and the book knows nobody without one.
        let Some(peer) = peer else { return };
        self.service.metrics.dials.inc();
        self.dials.insert(peer, (dial, addresses.clone()));
        let (overlay, report) = (self.service.overlay.clone(), self.report.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            for attempt in addresses {
                sleep_until(begun + attempt.after).await;
                let Err(why) = dial_one(&overlay, peer, &attempt.endpoint).await else { return };
                tracing::debug!(%peer, endpoint = ?attempt.endpoint, %why, "dial failed");
                let failed = Report::AddressFailed { dial, peer, endpoint: attempt.endpoint, why };
                if report.send(failed).await.is_err() {
                    return;
                }
            }
        });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::AddressFailed { dial, peer, endpoint, why } => {
                self.service.metrics.dials_failed.inc();
                self.input(Input::AddressFailed { dial, peer: Some(peer), endpoint, why });
            }
            Report::Peers { peer, records } => self.input(Input::Peers { peer, records }),
            Report::Persisted(store, result) => {
                self.service.store = Some(store);
                self.input(Input::Persisted(result));
            }
        }
    }

    async fn event(&mut self, event: OverlayEvent) {
        match event {
            OverlayEvent::Up(session) => self.session_up(session).await,
            OverlayEvent::Down { session, closed } => self.session_down(&session, &closed).await,
            OverlayEvent::Failed { peer, address, direction, code, reason } => {
                tracing::debug!(%peer, %address, reason, "no session");
                if direction == Direction::Inbound {
                    let detail = format!("{address}: {} ({reason})", code.name());
                    self.input(Input::Note { peer, note: Note::Refused, detail });
                }
            }
        }
    }

    async fn session_up(&mut self, session: Session) {
        let peer = session.peer();
        if let Some(counter) = self.service.book.counter(&session) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if session.role() == Role::Client {
            return tracing::debug!(%peer, "client connected");
        }
        if !self.up.insert(peer) {
            // A new session in place of an old one: what was under way on that is lost.
            self.tell_down(peer).await;
            let detail = "another connection is kept".to_owned();
            self.input(Input::Disconnected { peer, code: Some(Code::Duplicate), detail });
        }
        tracing::info!(%peer, direction = session.direction().name(), "peer connected");
        // A connected peer has an address of its own.
        let Some(endpoint) = endpoint_of(session.remote_address()) else { return };
        let link = match (session.direction(), self.dials.remove(&peer)) {
            (Direction::Outbound, Some((dial, attempts))) => {
                let answered =
                    attempts.iter().find(|attempt| attempt.endpoint == endpoint).or(attempts.first());
                Link::Outbound {
                    dial,
                    endpoint: answered.map_or(endpoint, |attempt| attempt.endpoint.clone()),
                }
            }
            _ => Link::Inbound { source: Source::Peer(endpoint) },
        };
        let record = session.hello().record.as_ref().map(|record| record.bytes().clone()).unwrap_or_default();
        self.input(Input::Connected { peer, link, record, is_node: true });
        self.input(Input::Ping { peer, round_trip: session.rtt() });
        // Both tasks end only with the node.
        let _ = self.service.chain.send(ToChain::PeerUp(session.clone())).await;
        let _ = self.service.transactions.send(ToTransactions::PeerUp(session)).await;
    }

    async fn session_down(&mut self, session: &Session, closed: &Closed) {
        if let Some(counter) = self.service.book.counter(session) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
        let peer = session.peer();
        if session.role() == Role::Client {
            return;
        }
        tracing::info!(%peer, %closed, "peer disconnected");
        self.up.remove(&peer);
        self.tell_down(peer).await;
        // What this side closed for is an offence if the code says so.
        if closed.by == ghost_protocol::transport::quic::ClosedBy::Us
            && let Some(offence) = closed.code.and_then(conduct::Offence::of_code)
        {
            let evidence = closed.to_string();
            self.input(Input::Offence { peer, offence, evidence, congested: false });
        }
        self.input(Input::Disconnected { peer, code: closed.code, detail: closed.to_string() });
    }

    async fn tell_down(&mut self, peer: PeerId) {
        let _ = self.service.chain.send(ToChain::PeerDown(peer)).await;
        let _ = self.service.transactions.send(ToTransactions::PeerDown(peer)).await;
    }

    fn ask(&self, peer: PeerId, limit: u16) {
        let (report, session) = (self.report.clone(), self.service.overlay.session(&peer));
        tokio::spawn(async move {
            let records = match session {
                Some(session) => whom_it_knows(&session, limit).await,
                None => None,
            };
            // The task that asked ends only with the node.
            let _ = report.send(Report::Peers { peer, records }).await;
        });
    }

    fn asked(&mut self, asked: Asked) {
        let (Some(session), Frame::PeersRequest(request)) = (asked.session, asked.frame) else {
            return asked.responder.refuse(Code::ProtocolViolation);
        };
        let answer = {
            let (mut discovery, now) = (self.service.book.lock(), self.service.book.now());
            discovery.answer(&session.peer(), request.limit, now)
        };
        match answer {
            Answer::Records(records) => {
                tokio::spawn(async move {
                    // An asker that is gone wants no answer.
                    let _ = asked.responder.answer(&Peers { records }.to_frame()).await;
                });
            }
            Answer::Busy | Answer::Flooding => asked.responder.refuse(Code::Busy),
        }
    }

    /// Writes a batch on a thread that may block; the core gives the next one only after this.
    fn persist(&mut self, batch: Batch) {
        let Some(mut store) = self.service.store.take() else {
            return self.input(Input::Persisted(Ok(())));
        };
        let report = self.report.clone();
        tokio::task::spawn_blocking(move || {
            let result = store.apply(&batch).map_err(|error| {
                tracing::warn!(%error, "what is known about peers could not be written down");
                batch
            });
            let _ = report.blocking_send(Report::Persisted(store, result));
        });
    }

    fn command(&mut self, command: ToPeers) {
        match command {
            ToPeers::Offence { peer, what } => {
                tracing::debug!(%peer, ?what, "offence");
                let offence = what.kind();
                self.input(Input::Offence { peer, offence, evidence: format!("{what:?}"), congested: false });
            }
            ToPeers::TipStale => self.input(Input::TipStale),
            ToPeers::TipFresh => self.input(Input::TipFresh),
            ToPeers::Command { what, reply } => {
                // An operator that is gone wants no answer.
                let _ = reply.send(self.operator(what));
            }
        }
    }

    fn operator(&mut self, what: message::peer_command::What) -> Result<message::PeerCommandAnswer, String> {
        use message::peer_command::What;
        let peer = |bytes: &[u8]| PeerId::from_bytes(bytes).map_err(|_| "that is no PeerId".to_owned());
        let mut story = Vec::new();
        let message = match what {
            What::Add(address) => {
                let address: Multiaddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
                let added = static_peer(&address)?;
                self.input(Input::AddStatic(added));
                format!("{address} is dialled from now on, until the node stops")
            }
            What::Drop(id) => {
                let id = peer(&id)?;
                self.input(Input::OperatorDrop(id));
                match self.service.overlay.session(&id) {
                    Some(session) => {
                        session.close(Code::Dropped, "dropped by the operator");
                        format!("{id} is dropped; it may come back")
                    }
                    None => format!("{id} was not connected"),
                }
            }
            What::Ban(ban) => {
                let id = peer(&ban.peer)?;
                let until = (ban.seconds > 0)
                    .then(|| self.service.book.now().unix_ms + ban.seconds.saturating_mul(1000));
                let reason = "banned by the operator".to_owned();
                self.input(Input::OperatorBan { peer: id, until_unix_ms: until, reason });
                if let Some(session) = self.service.overlay.session(&id) {
                    session.close(Code::Refused, "banned by the operator");
                }
                match ban.seconds {
                    0 => format!("{id} is banned until it is unbanned"),
                    seconds => format!("{id} is banned for {seconds} s"),
                }
            }
            What::Unban(id) => {
                let id = peer(&id)?;
                let banned = self
                    .service
                    .book
                    .lock()
                    .ledger()
                    .banned(&id, self.service.book.clock.unix_ms())
                    .is_some();
                self.input(Input::OperatorUnban(id));
                if banned { format!("{id} is no longer banned") } else { format!("{id} was not banned") }
            }
            What::Explain(id) => {
                let id = peer(&id)?;
                let explained = self.service.book.lock().explain(&id, self.service.book.now());
                let mut text = match explained.connection {
                    Some(kind) => format!("{id} is connected ({kind})"),
                    None => format!("{id} is not connected"),
                };
                text += &format!("; conduct {:.0} of {}", explained.score, conduct::BAN_LINE);
                if let Some(ban) = &explained.ban {
                    text += &format!("; banned: {}", ban.reason);
                }
                for address in &explained.addresses {
                    text +=
                        &format!("\n  {} ({}, told by {})", address.address, address.table, address.source);
                }
                story = explained
                    .story
                    .map(|story| story.events)
                    .unwrap_or_default()
                    .into_iter()
                    .map(story_row)
                    .collect();
                text
            }
        };
        Ok(message::PeerCommandAnswer { message, story })
    }
}

fn story_row(event: conduct::Event) -> message::PeerStory {
    let name = match &event.what {
        StoryWhat::Note(note) => format!("{note:?}"),
        StoryWhat::Offence { offence, weight } => format!("offence {} (+{weight:.0})", offence.name()),
        other => format!("{other:?}"),
    };
    let times = if event.times > 1 { format!(" (×{})", event.times) } else { String::new() };
    message::PeerStory { time_unix_ms: event.at_unix_ms, event: name, detail: event.detail + &times }
}

async fn dial_one(overlay: &Overlay, peer: PeerId, endpoint: &Endpoint) -> Result<(), DialFailure> {
    if overlay.session(&peer).is_some() {
        return Err(DialFailure::Duplicate);
    }
    let sockets = resolve(endpoint).await.map_err(DialFailure::Unreachable)?;
    let mut last = DialFailure::Unreachable("the name has no address".into());
    for socket in sockets {
        match overlay.dial(peer, socket).await {
            Ok(session) if session.direction() == Direction::Outbound => return Ok(()),
            Ok(_) => return Err(DialFailure::Duplicate),
            Err(error) => last = failure_of(error),
        }
    }
    Err(last)
}

fn failure_of(error: ConnectError) -> DialFailure {
    match error {
        ConnectError::Dial(DialError::IdentityMismatch { .. }) => DialFailure::IdentityMismatch,
        ConnectError::Dial(DialError::Refused { code: Some(code), .. })
        | ConnectError::Refused { code, .. } => DialFailure::of_code(code),
        ConnectError::Dial(error) => DialFailure::Unreachable(error.to_string()),
        ConnectError::Hello(HelloError::WrongGenesis(_)) => DialFailure::WrongGenesis,
        ConnectError::Hello(HelloError::SelfDial) => DialFailure::SelfDial,
        ConnectError::Hello(error) => DialFailure::of_code(error.code()),
    }
}

async fn whom_it_knows(session: &Session, limit: u16) -> Option<Vec<bytes::Bytes>> {
    let request = PeersRequest { limit }.to_frame();
    let answer = session.request(StreamType::Discovery, &request, ASK_TIMEOUT).await.ok()?;
    match answer.single().await.ok()? {
        Frame::Peers(peers) => Some(peers.records),
        _ => None,
    }
}

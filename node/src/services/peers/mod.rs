//! The task that decides whom to be connected to: the shell around the discovery cores.
//!
//! The cores say whom to dial, drop, ask and remember; this task dials, drops, asks and writes down.
//! The gate of the overlay asks them, through a lock, who may come in.

mod book;
mod challenge;
mod dial;
mod find;
mod lan;
mod meet;
mod operator;
mod port_map;
mod reach;
mod room;
mod seeds;
mod setup;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ghost_discovery::{
    address::{Endpoint, Host, Network},
    conduct::{self, Note},
    dial::{Alarm, Attempt, DialFailure, DialId, Kind, Link, StaticPeer},
    exchange::Answer,
    lookup::{Found, Goal, QueryId},
    netgroup::Source,
    overlay::{Effect, Input},
    reach::DialBack,
    record::OwnRecord,
    store::{Batch, PeerStore, StoreError},
};
use ghost_frames::{
    Code, Frame, Payload, StreamType,
    discovery::{Peers, PeersRequest},
};
use ghost_proto::{GenesisId, Multiaddr, PeerId, SignedValue, message};
use ghost_protocol::{
    Identity, Overlay, Session,
    handshake::{Role, StreamSet},
    inbox::Asked,
    overlay::OverlayEvent,
    session::Direction,
    transport::{Closed, ClosedBy, Remote},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{chain::ToChain, conduct::Offence, tor::Tor, transactions::ToTransactions};
use crate::{
    chain::HeadView,
    metrics::{self, Metrics},
};

pub(crate) use book::PeerBook;
pub(crate) use meet::Meeting;
pub(crate) use setup::discovery_config;

use dial::Race;
use find::Seeker;
use room::{Left, Room};
use seeds::NameSeeds;
use setup::{endpoint_at, endpoint_of, static_peer};

/// Reports of dials, answers and the store that may wait.
const REPORTS_MAX: usize = 256;

/// How often round trips are told to the cores, and figures to the metrics.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Time to write down what is not on disk, when the node stops.
const WRITE_DOWN: Duration = Duration::from_secs(5);

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
    /// A peer was first to bring a transaction that was taken.
    BroughtTx { peer: PeerId },
    /// A peer was first to bring a block that was valid.
    BroughtBlock { peer: PeerId },
    /// Somebody in this node looks for a peer or a value; no answer if too many do.
    Find { goal: Goal, reply: oneshot::Sender<Found> },
    /// Keep a value with the nodes nearest to its key; the answer says with how many it is. It is to be said
    /// again before half of its time is over.
    Publish { value: SignedValue, reply: oneshot::Sender<usize> },
    /// The node stops: write down what is not on disk yet, and say when it is.
    Stop { done: oneshot::Sender<()> },
    /// The operator commands.
    Command {
        what: message::peer_command::What,
        reply: oneshot::Sender<Result<message::PeerCommandAnswer, String>>,
    },
}

/// What the peer task needs.
pub(crate) struct PeerService {
    pub(crate) overlay: Overlay,
    pub(crate) book: PeerBook,
    pub(crate) store: Option<Box<dyn PeerStore>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) views: Arc<ArcSwap<HeadView>>,
    /// Where the stores are, if they are on a disk.
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) seeds: Vec<Multiaddr>,
    pub(crate) dns_seeds: Vec<String>,
    pub(crate) dns_server: Option<SocketAddr>,
    pub(crate) identity: Identity,
    /// Tor, if it is used.
    pub(crate) tor: Option<Arc<Tor>>,
    /// Nothing is dialled but through it.
    pub(crate) tor_only: bool,
    /// Meeting peers behind NATs; none if nothing is dialled but through Tor.
    pub(crate) meeting: Option<Meeting>,
    pub(crate) serves: StreamSet,
    /// What to say of where we are at first.
    pub(crate) addresses: Vec<Multiaddr>,
    /// The operator said where we are: what peers see changes nothing.
    pub(crate) fixed_address: bool,
    /// Announce and look for nodes of this chain on the local network.
    pub(crate) lan: Option<GenesisId>,
    /// Ask the router to forward the port.
    pub(crate) port_mapping: bool,
    /// How many of the overlay's sockets listen.
    pub(crate) listening: usize,
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
    /// Names led to these.
    Seeds(Vec<(PeerId, Endpoint)>),
    /// A peer dialled us back, or did not.
    DialBack { peer: PeerId, result: DialBack },
    /// A peer reached over this network showed a head of this height.
    TipSeen { network: Network, height: u64 },
    /// Somebody answered a lookup, or did not.
    FindAnswered { query: QueryId, peer: PeerId, source: Source, answer: Option<find::Answer> },
    /// A peer was asked for its head: did it show one as good as ours in time?
    Challenged { peer: PeerId, passed: bool },
    /// The store took a batch, or gives it back.
    Persisted(Box<dyn PeerStore>, Result<(), Batch>),
}

/// What a session is counted as in the figures.
type Labels = (metrics::Direction, metrics::Network, metrics::PeerRole);

fn labels_of(session: &Session) -> Labels {
    let direction = match session.direction() {
        Direction::Inbound => metrics::Direction::Inbound,
        Direction::Outbound => metrics::Direction::Outbound,
    };
    let network = match session.remote() {
        Remote::Ip(address) if address.ip().to_canonical().is_ipv4() => metrics::Network::Ip4,
        Remote::Ip(_) => metrics::Network::Ip6,
        Remote::Onion(_) | Remote::Tor => metrics::Network::Onion,
        Remote::Local => metrics::Network::Local,
    };
    let role = match session.role() {
        Role::Node => metrics::PeerRole::Node,
        Role::Client => metrics::PeerRole::Client,
    };
    (direction, network, role)
}

struct Running {
    service: PeerService,
    reports: mpsc::Receiver<Report>,
    report: mpsc::Sender<Report>,
    dials: BTreeMap<PeerId, (DialId, Vec<Attempt>)>,
    /// Connected nodes, and what their sessions are counted as.
    up: BTreeMap<PeerId, Labels>,
    /// A store was given at the start: it may be away with a batch.
    has_store: bool,
    name_seeds: NameSeeds,
    room: Room,
    /// What we say of our onion service.
    onion_record: OwnRecord,
    /// Who waits for the end of a lookup; as many as lookups may be under way.
    seekers: BTreeMap<QueryId, Seeker>,
}

impl PeerService {
    /// Runs until the node stops.
    pub(crate) async fn run(self) {
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let running = Running {
            reports,
            report,
            dials: BTreeMap::new(),
            up: BTreeMap::new(),
            has_store: self.store.is_some(),
            name_seeds: NameSeeds::default(),
            room: Room::new(self.data_dir.clone()),
            onion_record: OwnRecord::new(0),
            seekers: BTreeMap::new(),
            service: self,
        };
        running.run().await;
    }
}

impl Running {
    async fn run(mut self) {
        let own: Vec<Endpoint> =
            self.service.overlay.local_addresses().into_iter().filter_map(endpoint_of).collect();
        let effects = {
            let (mut discovery, now) = (self.service.book.lock(), self.service.book.now());
            for address in &self.service.seeds {
                match static_peer(address) {
                    Ok(StaticPeer { endpoint, peer }) => {
                        peer.iter().for_each(|peer| discovery.add_seed(peer, endpoint.clone(), now));
                    }
                    Err(error) => tracing::warn!(%address, error, "configured seed cannot be dialled"),
                }
            }
            let mut effects = discovery.start(now);
            effects.extend(discovery.handle(Input::OwnPlaces(own), now));
            effects
        };
        self.perform(effects);
        let _lan = self.open_lan();
        let _mapping = self.keep_port_mapped();
        let addresses = self.service.addresses.clone();
        self.advertise(&addresses);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.service.book.lock().next_deadline();
            let wake = deadline.map_or_else(|| Instant::now() + Duration::from_secs(3600), Instant::from_std);
            tokio::select! {
                event = self.service.events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None => return,
                },
                command = self.service.commands.recv() => match command {
                    Some(ToPeers::Stop { done }) => {
                        self.write_down().await;
                        // Whoever asked may have lost patience.
                        let _ = done.send(());
                    }
                    Some(command) => self.command(command),
                    None => return,
                },
                _ = look.tick() => self.look(),
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

    /// Keeps the first IPv4 port mapped at the router, if that is wanted, while the result is kept.
    ///
    /// # Security
    /// Never behind Tor alone: the router would learn of this node, and open it to everybody.
    fn keep_port_mapped(&self) -> Option<JoinSet<()>> {
        if self.service.tor_only {
            if self.service.port_mapping {
                tracing::warn!("network.port_mapping: tor.mode is \"only\", so the router is not asked");
            }
            return None;
        }
        let local = self.service.overlay.local_addresses();
        let mut listening = local.into_iter().take(self.service.listening);
        let first = listening.find(|address| address.is_ipv4() && !address.ip().is_loopback());
        let port = first.filter(|_| self.service.port_mapping)?.port();
        let mut mapping = JoinSet::new();
        mapping.spawn(port_map::keep(port));
        Some(mapping)
    }

    /// Announces this node on the local network, if that is wanted, while the result is kept.
    ///
    /// # Security
    /// Never behind Tor alone: everybody on the network would learn who this is.
    fn open_lan(&self) -> Option<lan::Lan> {
        let genesis = self.service.lan.as_ref()?;
        if self.service.tor_only {
            tracing::warn!("network.lan_discovery: tor.mode is \"only\", so the local network is not asked");
            return None;
        }
        let (own, local) = (self.service.overlay.peer_id(), self.service.overlay.local_addresses());
        let listening = local.into_iter().take(self.service.listening);
        let Some(first) = listening.min_by_key(|address| address.ip().is_loopback()) else {
            tracing::warn!(
                "network.lan_discovery: this node listens nowhere, so there is nothing to announce"
            );
            return None;
        };
        match lan::open(own, genesis, first.port(), first.ip().is_loopback(), self.report.clone()) {
            Ok(lan) => Some(lan),
            Err(error) => {
                tracing::warn!(%error, "network.lan_discovery: the local network is not asked");
                None
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
                Effect::Dial { dial, kind, peer, addresses } => self.dial(dial, kind, peer, addresses),
                Effect::Drop { peer, code, why } => {
                    tracing::info!(%peer, why, "peer dropped");
                    if let Some(session) = self.service.overlay.session(&peer) {
                        session.close(code, &why);
                    }
                }
                Effect::AskForPeers { peer, limit } => self.ask(peer, limit),
                Effect::ChallengeTip { peer } => self.challenge(peer),
                Effect::AskDialBack { peer } => self.ask_dial_back(peer),
                Effect::ReachChanged => self.reach_changed(),
                Effect::Find { query, ask } => self.ask_to_find(query, ask),
                Effect::FindDone { query, found } => self.found(query, *found),
                // Who is dialled by others is not alone.
                Effect::Alarm(Alarm::Isolated { .. }) if !self.service.overlay.sessions().is_empty() => {}
                Effect::Alarm(alarm) => tracing::warn!("{alarm}"),
                Effect::Persist(batch) => self.persist(batch),
            }
        }
    }

    fn dial(&mut self, dial: DialId, kind: Kind, peer: Option<PeerId>, addresses: Vec<Attempt>) {
        // Static peers are only taken with a PeerId, and the book knows nobody without one.
        let Some(peer) = peer else { return };
        self.service.metrics.dials.inc();
        self.dials.insert(peer, (dial, addresses.clone()));
        let (overlay, report) = (self.service.overlay.clone(), self.report.clone());
        let tor_only = self.service.tor_only;
        // Whom we know behind Tor alone, nobody elsewhere is asked for.
        let elsewhere = addresses.iter().any(|at| !matches!(at.endpoint.host(), Host::Onion(_)));
        let meeting = self.service.meeting.clone().filter(|_| elsewhere);
        tokio::spawn(async move {
            let mut race = Race::begin(overlay, kind, peer, addresses, tor_only);
            let mut held = None;
            while let Some((endpoint, why)) = race.next_failure().await {
                tracing::debug!(%peer, ?endpoint, %why, "dial failed");
                if kind == Kind::Static && why == DialFailure::WrongGenesis {
                    tracing::warn!(
                        %peer,
                        "a configured peer is on another chain: its genesis is not this node's. Start from its genesis.toml (`ghostd init --genesis FILE`), or remove the peer"
                    );
                }
                let failed = Report::AddressFailed { dial, peer, endpoint, why };
                // The last one ends the dial: it waits for what may still help.
                if let Some(earlier) = held.replace(failed)
                    && report.send(earlier).await.is_err()
                {
                    return;
                }
            }
            let Some(failed) = held.filter(|_| !race.is_won()) else { return };
            // Somebody whom the operator wants, and who may be behind a NAT: others may know a way.
            let silent = matches!(&failed, Report::AddressFailed { why: DialFailure::Unreachable(_), .. });
            if kind == Kind::Static
                && silent
                && let Some(meeting) = meeting
                && meeting.meet(peer).await
            {
                return;
            }
            // The task that asked ends only with the node.
            let _ = report.send(failed).await;
        });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::AddressFailed { dial, peer, endpoint, why } => {
                self.service.metrics.dials_failed.inc();
                self.input(Input::AddressFailed { dial, peer: Some(peer), endpoint, why });
            }
            Report::Peers { peer, records } => self.input(Input::Peers { peer, records }),
            Report::Seeds(seeds) => self.seeds_found(seeds),
            Report::DialBack { peer, result } => self.input(Input::DialBack { peer, result }),
            Report::FindAnswered { query, peer, source, answer } => {
                self.input(Input::FindAnswered { query, peer, source, answer });
            }
            Report::TipSeen { network, height } => self.input(Input::TipSeen { network, height }),
            Report::Challenged { peer, passed } => {
                tracing::debug!(%peer, passed, "asked for its head");
                if !passed {
                    self.input(Input::ChallengeFailed { peer });
                }
            }
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
                // Who says at once that it is done only looked whether we are there.
                if direction == Direction::Inbound && code != Code::Done {
                    let detail = format!("{address}: {} ({reason})", code.name());
                    self.input(Input::Note { peer, note: Note::Refused, detail });
                }
            }
        }
    }

    async fn session_up(&mut self, session: Session) {
        let peer = session.peer();
        let labels = labels_of(&session);
        self.service.metrics.session_began(labels.0, labels.1, labels.2);
        if session.role() == Role::Client {
            return tracing::debug!(%peer, "client connected");
        }
        if let Some(old) = self.up.insert(peer, labels) {
            self.service.metrics.session_ended(old.0, old.1, old.2);
            // A new session in place of an old one: what was under way on that is lost.
            self.tell_down(peer).await;
            let detail = "another connection is kept".to_owned();
            self.input(Input::Disconnected { peer, code: Some(Code::Duplicate), detail });
        }
        tracing::info!(%peer, direction = session.direction().name(), "peer connected");
        let remote = session.remote();
        let link = match (session.direction(), endpoint_at(remote), self.dials.remove(&peer)) {
            (Direction::Outbound, Some(endpoint), Some((dial, attempts))) => {
                // A name stands for other places; else who was met elsewhere was met there.
                let named = |attempt: &&Attempt| matches!(attempt.endpoint.host(), Host::Name(_));
                let answered = attempts
                    .iter()
                    .find(|attempt| attempt.endpoint == endpoint)
                    .or(attempts.first().filter(named));
                Link::Outbound {
                    dial,
                    endpoint: answered.map_or(endpoint, |attempt| attempt.endpoint.clone()),
                }
            }
            _ => Link::Inbound { source: book::source_of(remote) },
        };
        let record = session.hello().record.as_ref().map(|record| record.bytes().clone()).unwrap_or_default();
        self.input(Input::Connected { peer, link, record, is_node: true });
        self.input(Input::Ping { peer, round_trip: session.rtt() });
        self.observed(&session);
        // Both tasks end only with the node.
        let _ = self.service.chain.send(ToChain::PeerUp(session.clone())).await;
        let blocks_only = self.service.book.lock().dialler().kind(&peer) == Some(Kind::BlockOnly)
            || !session.hello().serves.contains(StreamType::TxPush);
        if !blocks_only {
            let _ = self.service.transactions.send(ToTransactions::PeerUp(session)).await;
        }
    }

    async fn session_down(&mut self, session: &Session, closed: &Closed) {
        let peer = session.peer();
        let labels = match session.role() {
            Role::Client => None,
            // It may have moved since: it ends as what it began as.
            Role::Node => self.up.remove(&peer),
        };
        let labels = labels.unwrap_or_else(|| labels_of(session));
        self.service.metrics.session_ended(labels.0, labels.1, labels.2);
        if session.role() == Role::Client {
            return;
        }
        tracing::info!(%peer, %closed, "peer disconnected");
        self.service.meeting.iter().for_each(|meeting| meeting.disconnected(&peer));
        self.tell_down(peer).await;
        // What this side closed for is an offence if the code says so.
        if closed.by == ClosedBy::Us
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
        let Some(session) = asked.session.clone() else {
            return asked.responder.refuse(Code::ProtocolViolation);
        };
        let request = match asked.frame {
            Frame::PeersRequest(request) => request,
            Frame::DialBackRequest(_) => return self.dial_back(session, asked),
            Frame::FindRequest(_) | Frame::StoreRequest(_) => return self.asked_to_find(&session, asked),
            _ => return asked.responder.refuse(Code::ProtocolViolation),
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

    /// Writes all that is not on disk yet. Until then a batch may be under way, which is waited for.
    async fn write_down(&mut self) {
        let deadline = Instant::now() + WRITE_DOWN;
        while self.has_store && self.service.store.is_none() {
            let Ok(Some(report)) = timeout(deadline - Instant::now(), self.reports.recv()).await else {
                return tracing::warn!("the peer store is still busy; its last changes are lost");
            };
            self.report(report);
        }
        let Some(mut store) = self.service.store.take() else { return };
        self.has_store = false;
        let book = self.service.book.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut writes = 0;
            loop {
                let Some(batch) = book.lock().flush() else { return Ok(writes) };
                store.apply(&batch)?;
                writes += batch.writes.len();
            }
        });
        match timeout(WRITE_DOWN, written).await {
            Ok(Ok(Ok::<_, StoreError>(writes))) => tracing::info!(writes, "peers written down"),
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last changes of the peer store are lost"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the last changes of the peer store are lost"),
        }
    }

    /// Round trips for the cores, figures for the metrics.
    fn look(&mut self) {
        for session in self.service.overlay.sessions() {
            self.input(Input::Ping { peer: session.peer(), round_trip: session.rtt() });
        }
        let left = Left::now(self.room.data.as_deref());
        if let Some(accept) = self.room.look(left) {
            self.service.overlay.set_accepting(accept);
            match self.room.paused() {
                Some(why) => tracing::error!("nobody new is let in: {why}"),
                None => tracing::info!("newcomers are let in again"),
            }
            self.service.book.paused(self.room.paused());
        }
        self.advertise_onion();
        self.compare_tips();
        self.ask_names();
        let (now, discovery) = (self.service.book.now(), self.service.book.lock());
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.service.metrics.known_peers.set(count(discovery.book().len()));
        self.service.metrics.banned_peers.set(count(discovery.ledger().bans(now.unix_ms).len()));
    }

    fn command(&mut self, command: ToPeers) {
        match command {
            ToPeers::Offence { peer, what } => {
                tracing::debug!(%peer, ?what, "offence");
                let offence = what.kind();
                self.input(Input::Offence { peer, offence, evidence: format!("{what:?}"), congested: false });
            }
            ToPeers::BroughtTx { peer } => self.input(Input::BroughtTx { peer }),
            ToPeers::BroughtBlock { peer } => self.input(Input::BroughtBlock { peer }),
            // Taken before it comes here.
            ToPeers::Stop { .. } => {}
            ToPeers::TipStale => self.input(Input::TipStale),
            ToPeers::TipFresh => self.input(Input::TipFresh),
            ToPeers::Command { what: message::peer_command::What::Find(id), reply } => {
                self.operator_finds(&id, reply);
            }
            ToPeers::Find { goal, reply } => self.find(goal, Seeker::Service(reply)),
            ToPeers::Publish { value, reply } => self.publish(value, reply),
            ToPeers::Command { what, reply } => {
                // An operator that is gone wants no answer.
                let _ = reply.send(self.operator(what));
            }
        }
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

//! What the peer task shares with others: the discovery cores behind a lock, and the gate that asks them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use ghost_discovery::{
    address::{Endpoint, Host, Network},
    book::Table,
    clock::Now,
    inbound::{Arrival, Incoming, Refusal, Ticket as Admission},
    netgroup::Source,
    overlay::Overlay as Discovery,
};
use ghost_frames::StreamType;
use ghost_proto::PeerId;
use ghost_protocol::{
    Session,
    handshake::Role,
    overlay::{Gate, Knock, Porter, Ticket},
    session::Direction,
    transport::{Onion, Remote},
};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tokio::time::Instant;

use crate::clock::Clock;

/// What other tasks may ask about peers, and the gate.
#[derive(Clone)]
pub(crate) struct PeerBook {
    discovery: Arc<Mutex<Discovery>>,
    refusals: Arc<Mutex<BTreeMap<Refusal, u64>>>,
    paused: Arc<Mutex<Option<&'static str>>>,
    pub(super) clock: Clock,
}

impl PeerBook {
    pub(crate) fn new(discovery: Discovery, clock: Clock) -> Self {
        Self {
            discovery: Arc::new(Mutex::new(discovery)),
            refusals: Arc::default(),
            paused: Arc::default(),
            clock,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Discovery> {
        self.discovery.lock().expect("no code panics while it holds the peer book")
    }

    pub(super) fn now(&self) -> Now {
        Now { at: Instant::now().into_std(), unix_ms: self.clock.unix_ms() }
    }

    /// A peer's score: 0 is clean, at 100 it is banned.
    pub(crate) fn conduct(&self, peer: &PeerId) -> i32 {
        self.lock().ledger().score(peer, self.clock.unix_ms()).round() as i32
    }

    /// Up to so many other peers with an onion service, chosen as for dialling, and where.
    pub(crate) fn onion_places(&self, count: usize, without: &BTreeSet<PeerId>) -> Vec<(PeerId, Onion)> {
        let now = self.clock.unix_ms();
        let mut rng = ChaCha12Rng::from_seed(rand::random());
        let mut taken = without.clone();
        let discovery = self.lock();
        let mut next = || {
            let other = |peer: &PeerId, _: &Endpoint| !taken.contains(peer);
            let chosen =
                discovery.book().select(Table::Either, Some(Network::Onion), other, &mut rng, now)?;
            taken.insert(chosen.peer);
            match chosen.endpoint.host() {
                Host::Onion(name) => {
                    Some((chosen.peer, Onion { name: **name, port: chosen.endpoint.port() }))
                }
                _ => None,
            }
        };
        std::iter::from_fn(&mut next).take(count).collect()
    }

    /// Whom the node bans now, and why.
    pub(crate) fn bans(&self) -> Vec<(PeerId, String)> {
        let bans = self.lock().ledger().bans(self.clock.unix_ms());
        bans.into_iter().map(|(peer, ban)| (peer, ban.reason)).collect()
    }

    /// How often somebody was not let in, by reason.
    pub(crate) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let refusals = self.refusals.lock().expect("no code panics while it counts");
        refusals.iter().map(|(refusal, count)| (refusal.name(), *count)).collect()
    }

    /// The gate of the overlay: lists, bans, limits and eviction; an operator always gets in.
    pub(crate) fn gate(&self, operators: Arc<Vec<PeerId>>) -> Gate {
        Gate::new(Door { book: self.clone(), operators, places: Mutex::default() })
    }

    /// Nobody new is let in, and why; or somebody is again.
    pub(super) fn paused(&self, why: Option<&'static str>) {
        *self.paused.lock().expect("no code panics while it writes a reason") = why;
    }

    /// Whether a peer would be let in, wherever it comes from.
    pub(super) fn welcome(&self, peer: &PeerId) -> bool {
        self.lock().explain(peer, self.now()).refused_as.is_none()
    }

    /// Whether we send to a place on the word of somebody at `source`.
    pub(super) fn may_dial(&self, endpoint: &Endpoint, source: &Source) -> bool {
        self.lock().book().policy().check(endpoint, source).is_ok()
    }

    /// What the operator should look at now.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let paused = *self.paused.lock().expect("no code panics while it reads a reason");
        let mut alarms: Vec<String> =
            paused.map(|why| format!("nobody new is let in: {why}")).into_iter().collect();
        alarms.extend(self.lock().alarms());
        alarms
    }

    fn refused(&self, refusal: Refusal) {
        *self.refusals.lock().expect("no code panics while it counts").entry(refusal).or_default() += 1;
    }
}

/// Who came from there, as the cores group them.
pub(super) fn source_of(remote: Remote) -> Source {
    match remote {
        Remote::Ip(address) => Source::Peer(address.into()),
        Remote::Onion(_) | Remote::Tor => Source::TorInbound,
        Remote::Local => Source::Operator,
    }
}

struct Door {
    book: PeerBook,
    operators: Arc<Vec<PeerId>>,
    /// Where those came from whose handshake is under way: a connection may move before it is a session.
    /// As many as the core has half-open.
    places: Mutex<BTreeMap<Ticket, Remote>>,
}

impl Door {
    fn places(&self) -> MutexGuard<'_, BTreeMap<Ticket, Remote>> {
        self.places.lock().expect("no code panics while it holds the places")
    }

    fn refuse(&self, refusal: Refusal) -> ghost_protocol::overlay::Refused {
        self.book.refused(refusal);
        ghost_protocol::overlay::Refused { code: refusal.code(), reason: refusal.to_string() }
    }
}

impl Porter for Door {
    fn knocks(&self, from: Remote, validated: bool) -> Knock {
        let source = source_of(from);
        let now = self.book.now();
        let incoming = self.book.lock().incoming(&source, validated, now);
        match incoming {
            Incoming::Accept(Admission(number)) => {
                self.places().insert(Ticket(number), from);
                Knock::Enter(Ticket(number))
            }
            Incoming::ValidateAddress => Knock::ProveAddress,
            Incoming::Refuse(refusal) => {
                self.book.refused(refusal);
                Knock::Refuse
            }
        }
    }

    fn failed(&self, ticket: Ticket) {
        self.places().remove(&ticket);
        self.book.lock().handshake_failed(Admission(ticket.0));
    }

    fn arrives(
        &self,
        session: &Session,
        ticket: Option<Ticket>,
    ) -> Result<Option<PeerId>, ghost_protocol::overlay::Refused> {
        let (peer, now) = (session.peer(), self.book.now());
        let operator = self.operators.contains(&peer);
        let Some(ticket) = ticket else {
            // We dialled it. A ban may have come meanwhile.
            let mut discovery = self.book.lock();
            let wanted = operator || discovery.dialler().is_static(&peer);
            if !wanted && discovery.ledger().banned(&peer, now.unix_ms).is_some() {
                drop(discovery);
                return Err(self.refuse(Refusal::Banned));
            }
            // If it had dialled us as well, that connection gives way to this one.
            discovery.inbound_left(&peer);
            return Ok(None);
        };
        let from = self.places().remove(&ticket).unwrap_or_else(|| session.remote());
        let source = source_of(from);
        let ticket = Admission(ticket.0);
        let mut discovery = self.book.lock();
        let arrival = match session.role() {
            Role::Client => {
                let result = discovery.client_arrived(ticket, &source, session.id().0, peer, operator, now);
                result.map_or_else(Arrival::Refuse, |()| Arrival::Welcome { evict: None })
            }
            Role::Node => discovery.arrived(ticket, &source, peer, operator, now),
        };
        let takes_transactions = session.hello().serves.contains(StreamType::TxPush);
        if session.role() == Role::Node && !takes_transactions {
            discovery.inbound_is_block_only(&peer);
        }
        drop(discovery);
        match arrival {
            Arrival::Welcome { evict } => Ok(evict),
            Arrival::Refuse(refusal) => Err(self.refuse(refusal)),
        }
    }

    fn left(&self, session: &Session) {
        match (session.role(), session.direction()) {
            (Role::Client, _) => self.book.lock().client_left(session.id().0),
            (Role::Node, Direction::Inbound) => self.book.lock().inbound_left(&session.peer()),
            (Role::Node, Direction::Outbound) => {}
        }
    }
}

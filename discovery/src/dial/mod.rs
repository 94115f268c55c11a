//! Whom to dial, when, and whom to let go: the dialling policy.
//!
//! A core over the [address book](crate::book). It is told what connected, failed and ended, and
//! answers with dials and drops.
//!
//! | kind | how many | from | netgroups |
//! | --- | --- | --- | --- |
//! | static | all that are configured | the operator | any |
//! | full relay | 8, at least one for each network that has anybody | the book | all different |
//! | block-only | 2 | the book | all different |
//! | extra | 1 while our tip is stale | the book | all different |
//! | feeler | 1 every 2 min on average | "new", or a tried entry that is contested | any |
//!
//! After a restart the anchors come first: the block-only peers and the oldest full-relay ones from
//! before. Whoever poisoned the book while we ran did not choose those.
//!
//! Order of calls: [`Dialler::start`] once; then [`Dialler::handle`] for what happens and
//! [`Dialler::on_deadline`] at [`Dialler::next_deadline`].

mod backoff;
mod fill;
mod order;
mod statics;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ghost_frames::{Code, code::Consequence};
use ghost_proto::{PeerId, PeerRecord, record::key_of};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::{
    address::{Endpoint, Network},
    book::{AddressBook, Claim},
    clock::Now,
    conduct::Ledger,
    netgroup::NetGroup,
};

pub use backoff::BACKOFFS_MAX;
pub use order::{ADDRESSES_PER_DIAL, Attempt, STAGGER};
pub use statics::{STATIC_PEERS_MAX, StaticPeer};
pub use types::{Alarm, Anchor, DialConfig, DialFailure, DialId, DropReason, Effect, Input, Kind, Link};

use backoff::{Backoff, Subject};
use statics::Statics;

/// A dial that was not heard of for so long is given up: longer than any dial takes, over Tor too.
pub const DIAL_GIVEN_UP: Duration = Duration::from_secs(120);
/// A peer of another chain is not dialled again for a day.
pub const WRONG_GENESIS_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// A peer that refused us is not dialled again for an hour.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(3600);
/// An extra connection shows what it is worth in this time; younger ones are not replaced either.
pub const EXTRA_SETTLES: Duration = Duration::from_secs(30);
/// Places known to be our own. The 65th pushes out none: it is only not remembered.
pub const OWN_PLACES_MAX: usize = 64;
/// Anchors kept.
pub const ANCHORS_MAX: usize = 4;

#[derive(Debug, Clone)]
struct Dial {
    kind: Kind,
    peer: Option<PeerId>,
    left: Vec<Endpoint>,
    group: NetGroup,
    network: Network,
    started: Instant,
}

#[derive(Debug, Clone)]
struct Conn {
    /// `None` for inbound.
    kind: Option<Kind>,
    endpoint: Option<Endpoint>,
    group: NetGroup,
    network: Option<Network>,
    since: Instant,
    last_block: Option<Instant>,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Dialler {
    config: DialConfig,
    rng: ChaCha12Rng,
    statics: Statics,
    anchors: Vec<Anchor>,
    dials: BTreeMap<DialId, Dial>,
    conns: BTreeMap<PeerId, Conn>,
    backoff: Backoff,
    own: BTreeSet<Endpoint>,
    next_dial: u64,
    next_auto: Instant,
    next_feeler: Option<Instant>,
    stale_since: Option<Instant>,
    nobody_pause: Duration,
    next_extra_check: Option<Instant>,
    network_failures: BTreeMap<Network, (u32, Instant)>,
    alone_since: Option<Instant>,
    alarmed: bool,
    failures_alone: u32,
}

impl Dialler {
    /// Static peers and anchors are dialled as soon as [`Dialler::start`] is called. `seed` makes the
    /// choices: draw it at each start.
    pub fn new(
        config: DialConfig,
        static_peers: Vec<StaticPeer>,
        anchors: Vec<Anchor>,
        seed: [u8; 32],
        now: Now,
    ) -> Self {
        let mut dialler = Self {
            rng: ChaCha12Rng::from_seed(seed),
            statics: Statics::new(config.static_pause),
            anchors,
            dials: BTreeMap::new(),
            conns: BTreeMap::new(),
            backoff: Backoff::default(),
            own: BTreeSet::new(),
            next_dial: 0,
            next_auto: now.at,
            next_feeler: None,
            stale_since: None,
            nobody_pause: fill::NOBODY_PAUSE_MIN,
            next_extra_check: None,
            network_failures: BTreeMap::new(),
            alone_since: Some(now.at),
            alarmed: false,
            failures_alone: 0,
            config,
        };
        dialler.anchors.truncate(ANCHORS_MAX);
        for one in static_peers {
            dialler.statics.add(one, now.at);
        }
        dialler.next_feeler = dialler.feeler_after(now.at);
        dialler
    }

    /// The first dials.
    pub fn start(&mut self, book: &mut AddressBook, ledger: &Ledger, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.fill(book, ledger, now, &mut effects);
        effects
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, book: &mut AddressBook, ledger: &Ledger, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Connected { peer, link, record } => {
                self.connected(peer, link, record.as_ref(), book, now, &mut effects);
            }
            Input::Disconnected { peer, code } => self.disconnected(&peer, code, book, now),
            Input::AddressFailed { dial, endpoint, why } => self.failed(dial, &endpoint, &why, book, now),
            Input::BroughtBlock { peer } => {
                if let Some(conn) = self.conns.get_mut(&peer) {
                    conn.last_block = Some(now.at);
                }
            }
            Input::TipStale => self.tip_stale(now, &mut effects),
            Input::TipFresh => self.tip_fresh(&mut effects),
            Input::ChallengeFailed { peer } => {
                // A static peer is the operator's choice, behind or not.
                if self.kind(&peer).is_some_and(|kind| kind != Kind::Static) {
                    effects.push(Effect::Drop { peer, why: DropReason::StaleTip });
                }
            }
            Input::Learned => self.look_again(now.at),
            Input::AddStatic(one) => self.statics.add(one, now.at),
            Input::RemoveStatic(endpoint) => self.statics.remove(&endpoint),
            Input::OwnPlaces(places) => {
                for place in places {
                    self.is_own(&place, book);
                }
            }
        }
        self.fill(book, ledger, now, &mut effects);
        effects
    }

    /// When [`Dialler::on_deadline`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let given_up = self.dials.values().map(|dial| dial.started + DIAL_GIVEN_UP).min();
        let auto = self.wants_auto().then_some(self.next_auto);
        // A feeler that is due waits for its turn like every dial from the book.
        let feeler = self.next_feeler.filter(|_| self.wants_feeler()).map(|at| at.max(self.next_auto));
        let alarm =
            self.alone_since.filter(|_| !self.alarmed).map(|since| since + self.config.isolated_after);
        [given_up, auto, feeler, alarm, self.next_extra_check, self.statics.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// A deadline passed.
    pub fn on_deadline(&mut self, book: &mut AddressBook, ledger: &Ledger, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let late: Vec<(DialId, Vec<Endpoint>)> = self
            .dials
            .iter()
            .filter(|(_, dial)| now.at >= dial.started + DIAL_GIVEN_UP)
            .map(|(id, dial)| (*id, dial.left.clone()))
            .collect();
        for (id, places) in late {
            for place in places {
                self.failed(id, &place, &DialFailure::Unreachable("no report".into()), book, now);
            }
        }
        if self.next_extra_check.is_some_and(|at| now.at >= at) {
            self.check_extra(now, &mut effects);
        }
        self.check_alone(book, now, &mut effects);
        book.resolve_collisions(now.unix_ms);
        self.fill(book, ledger, now, &mut effects);
        effects
    }

    /// Whom to come back to after a restart: block-only peers, then the oldest full-relay and static
    /// ones. Keep it whenever it changes.
    pub fn anchors(&self) -> Vec<Anchor> {
        let mut outbound: Vec<_> = self
            .conns
            .iter()
            .filter_map(|(peer, conn)| Some((*peer, conn.kind?, conn.endpoint.clone()?, conn.since)))
            .filter(|(_, kind, ..)| *kind != Kind::Feeler)
            .collect();
        outbound.sort_by_key(|(peer, kind, _, since)| (*kind != Kind::BlockOnly, *since, *peer));
        let anchor =
            |(peer, kind, endpoint, _)| Anchor { peer, endpoint, block_only: kind == Kind::BlockOnly };
        let mut anchors: Vec<Anchor> = outbound.into_iter().map(anchor).take(ANCHORS_MAX).collect();
        // Until there are enough new ones the old ones stay: a node that starts without a network, or
        // is killed twice in a minute, must not lose them.
        for old in &self.anchors {
            if anchors.len() < ANCHORS_MAX && !anchors.iter().any(|one| one.peer == old.peer) {
                anchors.push(old.clone());
            }
        }
        anchors
    }

    /// What the connection to a peer is for; `None` if it is inbound or not connected.
    pub fn kind(&self, peer: &PeerId) -> Option<Kind> {
        self.conns.get(peer).and_then(|conn| conn.kind)
    }

    /// Outbound connections of a kind.
    pub fn outbound(&self, kind: Kind) -> usize {
        self.conns.values().filter(|conn| conn.kind == Some(kind)).count()
    }

    /// Netgroups of outbound connections, feelers not counted.
    pub fn outbound_groups(&self) -> usize {
        let outbound = self.conns.values().filter(|conn| conn.kind.is_some_and(|kind| kind != Kind::Feeler));
        outbound.map(|conn| conn.group).collect::<BTreeSet<_>>().len()
    }

    /// True while no new tip came for longer than slots explain.
    pub fn tip_is_stale(&self) -> bool {
        self.stale_since.is_some()
    }

    /// Dials going on.
    pub fn in_flight(&self) -> usize {
        self.dials.len()
    }

    /// True if the peer is configured as static, by PeerId.
    pub fn is_static(&self, peer: &PeerId) -> bool {
        self.statics.has(peer)
    }

    /// Static peers: where, and whether the place turned out to be our own.
    pub fn static_peers(&self) -> Vec<(StaticPeer, bool)> {
        self.statics.list()
    }

    /// Until when a peer or a place of it is not dialled, for `peers explain`.
    pub fn paused_until(&self, peer: &PeerId, endpoint: &Endpoint) -> Option<Instant> {
        let place = self.backoff.until(&Subject::Place(endpoint.clone()));
        self.backoff.until(&Subject::Peer(*peer)).max(place)
    }

    /// Entries of every map together, for tests and metrics.
    pub fn footprint(&self) -> usize {
        self.dials.len() + self.conns.len() + self.backoff.len() + self.own.len()
    }

    fn connected(
        &mut self,
        peer: PeerId,
        link: Link,
        record: Option<&PeerRecord>,
        book: &mut AddressBook,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let (kind, endpoint, group, network) = match link {
            Link::Inbound { source } => (None, None, book.policy().source_group(&source), None),
            Link::Outbound { dial, endpoint } => {
                // A report for a dial that was given up: it is a connection all the same.
                let kind = self.dials.remove(&dial).map_or(Kind::FullRelay, |dial| dial.kind);
                let (group, network) = (book.policy().group(&endpoint), endpoint.network());
                self.network_failures.remove(&network);
                self.note_good(&peer, &endpoint, record, kind, book, now);
                self.statics.connected(dial, &peer, now.at);
                (Some(kind), Some(endpoint), group, Some(network))
            }
        };
        self.anchors.retain(|anchor| anchor.peer != peer);
        self.statics.up(&peer, now.at);
        self.backoff.clear(&Subject::Peer(peer));
        if kind.is_some_and(|kind| kind != Kind::Feeler) {
            self.alone_since = None;
            self.alarmed = false;
            self.failures_alone = 0;
        }
        if kind == Some(Kind::Feeler) {
            effects.push(Effect::Drop { peer, why: DropReason::FeelerDone });
        }
        let full = self.config.full_relay + usize::from(self.stale_since.is_some());
        if kind == Some(Kind::FullRelay) && self.outbound(Kind::FullRelay) >= full {
            effects.push(Effect::Drop { peer, why: DropReason::NoSlot });
        }
        self.conns.insert(peer, Conn { kind, endpoint, group, network, since: now.at, last_block: None });
        if self.outbound(Kind::FullRelay) > self.config.full_relay && self.next_extra_check.is_none() {
            self.next_extra_check = Some(now.at + EXTRA_SETTLES);
        }
    }

    fn note_good(
        &mut self,
        peer: &PeerId,
        endpoint: &Endpoint,
        record: Option<&PeerRecord>,
        kind: Kind,
        book: &mut AddressBook,
        now: Now,
    ) {
        self.backoff.clear(&Subject::Place(endpoint.clone()));
        if kind == Kind::Static
            && !book.contains(peer, endpoint)
            && let Some(key) = key_of(peer)
        {
            let claim = Claim {
                peer: key,
                endpoint: endpoint.clone(),
                seen_unix_s: now.unix_ms / 1000,
                source: NetGroup::OPERATOR,
                first_hand: true,
            };
            book.add(&claim, &mut self.rng, now.unix_ms);
        }
        book.good(peer, endpoint, record, now.unix_ms);
    }

    fn disconnected(&mut self, peer: &PeerId, code: Option<Code>, book: &mut AddressBook, now: Now) {
        let Some(conn) = self.conns.remove(peer) else { return };
        self.nobody_pause = fill::NOBODY_PAUSE_MIN;
        let lived = now.at.saturating_duration_since(conn.since);
        if let Some(endpoint) = &conn.endpoint {
            book.still_there(peer, endpoint, now.unix_ms);
        }
        self.statics.down(peer, lived, code, &mut self.rng, now.at);
        if conn.kind.is_some() && !self.has_outbound() && self.alone_since.is_none() {
            self.alone_since = Some(now.at);
        }
        // Whoever only dialled us and is not in the book will not be dialled: no pause is needed, and
        // those who come and go leave nothing behind.
        let ours = conn.kind.is_some_and(|kind| kind != Kind::Feeler);
        if !ours && (conn.kind.is_some() || book.places(peer).is_empty()) {
            return;
        }
        match code.map_or(Consequence::BackOff, Code::consequence) {
            Consequence::Nothing => {}
            Consequence::BackOff => {
                if lived >= Duration::from_secs(60) {
                    self.backoff.clear(&Subject::Peer(*peer));
                }
                self.pause_peer(peer, now.at);
            }
            Consequence::Forget => {
                book.forget_peer(peer);
                self.backoff.block(Subject::Peer(*peer), WRONG_GENESIS_PAUSE, now.at);
            }
            Consequence::Ban => self.backoff.block(Subject::Peer(*peer), REFUSED_PAUSE, now.at),
        }
    }

    fn failed(
        &mut self,
        id: DialId,
        endpoint: &Endpoint,
        why: &DialFailure,
        book: &mut AddressBook,
        now: Now,
    ) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let Some(at) = dial.left.iter().position(|left| left == endpoint) else { return };
        dial.left.swap_remove(at);
        let over = dial.left.is_empty();
        let (peer, network, kind) = (dial.peer, dial.network, dial.kind);
        if over {
            self.dials.remove(&id);
        }
        let (min, max) = self.config.pause;
        let place = Subject::Place(endpoint.clone());
        match why {
            DialFailure::Duplicate => {}
            DialFailure::Unreachable(_) => {
                if let Some(peer) = &peer {
                    book.attempt(peer, endpoint, now.unix_ms);
                }
                self.backoff.fail(place, min, max, &mut self.rng, now.at);
                let failures = self.network_failures.entry(network).or_insert((0, now.at));
                *failures = (failures.0.saturating_add(1), now.at);
            }
            DialFailure::IdentityMismatch => {
                // Held against the place: the peer may well be elsewhere.
                if let Some(peer) = &peer {
                    book.identity_mismatch(peer, endpoint, now.unix_ms);
                }
                self.backoff.fail(place, min, max, &mut self.rng, now.at);
            }
            DialFailure::SelfDial => self.is_own(endpoint, book),
            DialFailure::WrongGenesis => {
                if let Some(peer) = &peer {
                    book.forget_peer(peer);
                    self.backoff.block(Subject::Peer(*peer), WRONG_GENESIS_PAUSE, now.at);
                }
            }
            DialFailure::Closed(code) => {
                if let Some(peer) = &peer {
                    book.attempt(peer, endpoint, now.unix_ms);
                    if code.consequence() == Consequence::Ban {
                        self.backoff.block(Subject::Peer(*peer), REFUSED_PAUSE, now.at);
                    } else {
                        self.pause_peer(peer, now.at);
                    }
                }
            }
        }
        if over {
            if *why != DialFailure::Duplicate {
                self.failures_alone = self.failures_alone.saturating_add(1);
            }
            if matches!(why, DialFailure::IdentityMismatch | DialFailure::WrongGenesis) {
                self.anchors.retain(|anchor| Some(anchor.peer) != peer);
            }
            if kind == Kind::Static {
                self.statics.failed(id, why, &mut self.rng, now.at);
            }
        }
    }

    fn pause_peer(&mut self, peer: &PeerId, now: Instant) {
        let (min, max) = self.config.pause;
        self.backoff.fail(Subject::Peer(*peer), min, max, &mut self.rng, now);
    }

    fn is_own(&mut self, endpoint: &Endpoint, book: &mut AddressBook) {
        if self.own.len() < OWN_PLACES_MAX {
            self.own.insert(endpoint.clone());
        }
        self.statics.is_self(endpoint);
        book.forget_place(endpoint);
    }

    fn has_outbound(&self) -> bool {
        self.conns.values().any(|conn| conn.kind.is_some_and(|kind| kind != Kind::Feeler))
    }

    fn tip_stale(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.stale_since.is_some() {
            return;
        }
        self.stale_since = Some(now.at);
        self.next_extra_check = Some(now.at + EXTRA_SETTLES);
        self.look_again(now.at);
        self.challenge(|_| true, effects);
    }

    fn tip_fresh(&mut self, effects: &mut Vec<Effect>) {
        if let Some(since) = self.stale_since.take() {
            self.challenge(|conn| conn.last_block.is_none_or(|at| at < since), effects);
        }
    }

    fn challenge(&self, which: impl Fn(&Conn) -> bool, effects: &mut Vec<Effect>) {
        let outbound = |conn: &Conn| conn.kind.is_some_and(|kind| kind != Kind::Feeler);
        let challenged = self.conns.iter().filter(|(_, conn)| outbound(conn) && which(conn));
        effects.extend(challenged.map(|(peer, _)| Effect::ChallengeTip { peer: *peer }));
    }

    /// Something changed: a search may find somebody now.
    fn look_again(&mut self, now: Instant) {
        self.nobody_pause = fill::NOBODY_PAUSE_MIN;
        self.next_auto = self.next_auto.min(now + self.config.pace);
    }

    /// With one connection more than slots, the one that brought no block for longest goes: first of all
    /// those that brought none, and of these the youngest. So the extra slot rotates through the book
    /// until somebody brings a block, and old peers stay if it is the whole chain that stands still.
    fn check_extra(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let over = self.outbound(Kind::FullRelay) > self.config.full_relay;
        self.next_extra_check = (over || self.stale_since.is_some()).then_some(now.at + EXTRA_SETTLES);
        if !over {
            return;
        }
        let settled = |conn: &Conn| now.at.saturating_duration_since(conn.since) >= EXTRA_SETTLES;
        let worst = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.kind == Some(Kind::FullRelay))
            .min_by_key(|(peer, conn)| (conn.last_block, std::cmp::Reverse(conn.since), **peer));
        if let Some((peer, conn)) = worst
            && settled(conn)
        {
            let peer = *peer;
            effects.push(Effect::Drop { peer, why: DropReason::ExtraDone });
        }
    }

    fn check_alone(&mut self, book: &AddressBook, now: Now, effects: &mut Vec<Effect>) {
        if let Some(since) = self.alone_since
            && !self.alarmed
            && now.at >= since + self.config.isolated_after
        {
            self.alarmed = true;
            effects.push(Effect::Alarm(Alarm::Isolated {
                for_s: now.at.saturating_duration_since(since).as_secs(),
                failures: self.failures_alone,
                known: book.len(),
            }));
        }
    }

    fn feeler_after(&mut self, now: Instant) -> Option<Instant> {
        if self.config.feeler_every.is_zero() {
            return None;
        }
        // Exponential, so that nobody can tell when the next comes.
        let uniform: f64 = self.rng.random_range(f64::EPSILON..1.0);
        Some(now + self.config.feeler_every.mul_f64(-uniform.ln()))
    }
}

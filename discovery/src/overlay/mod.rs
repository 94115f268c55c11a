//! All cores of this crate behind one door, so that the shell has one input and one output.
//!
//! A core itself. The shell calls, in this order:
//!
//! 1. [`Overlay::new`] with what the store held, then [`Overlay::start`].
//! 2. For each incoming connection [`Overlay::incoming`]; if accepted, after hello (and after it was
//!    decided which of two crossing connections stays) [`Overlay::arrived`] or
//!    [`Overlay::client_arrived`], or [`Overlay::handshake_failed`]; for those let in, at the end
//!    [`Overlay::inbound_left`] or [`Overlay::client_left`].
//! 3. For any connection that stays [`Input::Connected`]; for dials that fail
//!    [`Input::AddressFailed`], one for each address.
//! 4. While connected: [`Overlay::answer`] for each `PeersRequest`, [`Input::Peers`] for each answer we
//!    asked for, and [`Input::Ping`], [`Input::BroughtTx`], [`Input::BroughtBlock`], [`Input::Offence`].
//! 5. [`Input::Disconnected`] when the last connection to a peer is gone.
//! 6. [`Overlay::on_deadline`] at [`Overlay::next_deadline`].
//! 7. Effects as they come; [`Effect::Persist`] is answered with [`Input::Persisted`].
//! 8. At the end [`Overlay::flush`], until it gives nothing.

mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_frames::Code;
use ghost_proto::{
    KeyPair, Multiaddr, PeerId, PeerRecord,
    limits::PEERS_PER_ANSWER_MAX,
    record::{RecordError, key_of},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::{
    address::{Endpoint, Host},
    book::{AddressBook, Claim, Row},
    clock::Now,
    conduct::{Ledger, Note, Offence, Verdict},
    dial::{self, Anchor, DialFailure, Dialler, Kind, Link},
    exchange::{Answer, Answers, Asking},
    inbound::{Arrival, Inbound, Incoming, Refusal, Standing, Ticket},
    netgroup::{NetGroup, Source},
    record::{self, Admission, Admitted, OwnRecord, Refused},
    store::{BATCH_MAX, Batch, Saved, Write},
};

pub use types::{Effect, ExplainedAddress, Explanation, Input, OverlayConfig};

/// Changes wait so long before they are persisted: the greater part of the store's loss window.
pub const PERSIST_EVERY: Duration = Duration::from_secs(1);

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Overlay {
    own: PeerId,
    book: AddressBook,
    dialler: Dialler,
    inbound: Inbound,
    answers: Answers,
    asking: Asking,
    admission: Admission,
    ledger: Ledger,
    own_record: OwnRecord,
    rng: ChaCha12Rng,
    sources: BTreeMap<PeerId, Source>,
    urgent: Vec<Write>,
    anchors: Vec<Anchor>,
    persist_at: Option<Instant>,
    persisting: bool,
}

impl Overlay {
    /// From what the store held. `seed` is 32 bytes of fresh entropy: it makes every choice, and the
    /// book's secret if the store has none yet.
    pub fn new(config: OverlayConfig, saved: Saved, seed: [u8; 32], now: Now) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut urgent = Vec::new();
        let secret = saved.secret.unwrap_or_else(|| {
            let secret = rng.random();
            urgent.push(Write::Secret(secret));
            secret
        });
        let mut dial = config.dial;
        if config.inbound.only_allowed {
            dial.only.get_or_insert_with(BTreeSet::new).extend(config.inbound.allow_peers.iter().copied());
        }
        let book = AddressBook::restore(secret, config.policy.clone(), saved.rows);
        let dialler = Dialler::new(dial, config.static_peers, saved.anchors.clone(), rng.random(), now);
        let mut overlay = Self {
            own: config.own,
            book,
            dialler,
            inbound: Inbound::new(config.inbound, config.policy, rng.random()),
            answers: Answers::new(config.answers, rng.random()),
            asking: Asking::new(config.asking),
            admission: Admission::new(config.own),
            ledger: Ledger::restore(saved.stories),
            own_record: OwnRecord::new(saved.own_sequence),
            rng,
            sources: BTreeMap::new(),
            urgent,
            anchors: saved.anchors,
            persist_at: None,
            persisting: false,
        };
        overlay.schedule_persist(now);
        overlay
    }

    /// The first dials.
    pub fn start(&mut self, now: Now) -> Vec<Effect> {
        let effects = self.dialler.start(&mut self.book, &self.ledger, now);
        self.finish(effects, now)
    }

    /// A first packet. `validated` says that it came with a Retry or NEW_TOKEN token.
    pub fn incoming(&mut self, source: &Source, validated: bool, now: Now) -> Incoming {
        let discouraged = self.discouraged(source, now);
        self.inbound.incoming(source, validated, discouraged, now.at)
    }

    /// An accepted handshake failed, or its connection lost to another one of the same peer.
    pub fn handshake_failed(&mut self, ticket: Ticket) {
        self.inbound.failed(ticket);
    }

    /// The peer at the other end of an accepted connection is known, and is a node. A refusal is on
    /// record, and not counted any more.
    pub fn arrived(
        &mut self,
        ticket: Ticket,
        source: &Source,
        peer: PeerId,
        operator: bool,
        now: Now,
    ) -> Arrival {
        let protect = operator || self.dialler.is_static(&peer);
        let standing = self.standing(source, &peer, now);
        let arrival = self.inbound.arrived(ticket, peer, standing, protect, now.at);
        match arrival {
            Arrival::Refuse(refusal) => self.note_refusal(&peer, refusal, source, now),
            Arrival::Welcome { evict } => {
                if let Some(evicted) = evict {
                    let detail = "evicted: all inbound slots are taken and others are better";
                    self.ledger.note(&evicted, Note::Dropped, detail, now.unix_ms);
                }
            }
        }
        self.schedule_persist(now);
        arrival
    }

    /// As [`Overlay::arrived`], for a program that only asks; `id` names its connection.
    ///
    /// # Errors
    /// [`Refusal`]: on record already; close with its code.
    pub fn client_arrived(
        &mut self,
        ticket: Ticket,
        source: &Source,
        id: u64,
        peer: PeerId,
        operator: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let standing = self.standing(source, &peer, now);
        let result = self.inbound.client_arrived(ticket, id, &peer, standing, operator, now.at);
        if let Err(refusal) = result {
            self.note_refusal(&peer, refusal, source, now);
            self.schedule_persist(now);
        }
        result
    }

    /// The inbound connection of a node is over, or gave way to an outbound one that stays. Call it as soon
    /// as that is so: a slot is free from then on.
    pub fn inbound_left(&mut self, peer: &PeerId) {
        self.inbound.left(peer);
    }

    /// An inbound peer takes no transactions.
    pub fn inbound_is_block_only(&mut self, peer: &PeerId) {
        self.inbound.is_block_only(peer);
    }

    /// The connection of a client is over.
    pub fn client_left(&mut self, id: u64) {
        self.inbound.client_left(id);
    }

    /// The answer to a `PeersRequest`. Flooding is on record already.
    pub fn answer(&mut self, peer: &PeerId, limit: u16, now: Now) -> Answer {
        let source = self.sources.get(peer).cloned().unwrap_or(Source::TorInbound);
        let answer = self.answers.answer(peer, &source, usize::from(limit), &self.book, now.at);
        if answer == Answer::Flooding {
            let evidence = "asked for peers 256 times more often than allowed";
            self.offend(peer, Offence::Flooding, evidence, false, now);
            self.schedule_persist(now);
        }
        answer
    }

    /// The record to put in our hello; `None` if there is no address worth saying. Cheap unless something
    /// changed.
    ///
    /// # Errors
    /// [`RecordError`] if an address exceeds a bound: the operator's mistake.
    pub fn own_record(
        &mut self,
        key: &KeyPair,
        addresses: &[Multiaddr],
        stream_types: u64,
        now: Now,
    ) -> Result<Option<PeerRecord>, RecordError> {
        let before = self.own_record.sequence();
        let record = self.own_record.current(key, addresses, stream_types, now.unix_ms)?.cloned();
        if self.own_record.sequence() != before {
            self.urgent.push(Write::OwnSequence(self.own_record.sequence()));
            self.schedule_persist(now);
        }
        Ok(record)
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let ask = matches!(input, Input::Connected { is_node: true, .. });
        let dial_input = match input {
            Input::Connected { peer, link, record, is_node } => {
                Some(self.connected(peer, link, record, is_node, &mut effects, now))
            }
            Input::Disconnected { peer, code, detail } => {
                self.ledger.note(&peer, Note::Disconnected, &detail, now.unix_ms);
                self.asking.disconnected(&peer);
                self.answers.disconnected(&peer);
                self.admission.disconnected(&peer);
                self.sources.remove(&peer);
                Some(dial::Input::Disconnected { peer, code })
            }
            Input::AddressFailed { dial, peer, endpoint, why } => {
                if let Some(peer) = &peer {
                    self.note_failure(peer, &endpoint, &why, now);
                }
                Some(dial::Input::AddressFailed { dial, endpoint, why })
            }
            Input::Peers { peer, records } => self.peers(peer, records, &mut effects, now),
            Input::Ping { peer, round_trip } => {
                self.inbound.ping(&peer, round_trip);
                None
            }
            Input::BroughtTx { peer } => {
                self.inbound.brought_tx(&peer, now.at);
                None
            }
            Input::BroughtBlock { peer } => {
                self.inbound.brought_block(&peer, now.at);
                Some(dial::Input::BroughtBlock { peer })
            }
            Input::Offence { peer, offence, evidence, congested } => {
                effects.extend(self.offend(&peer, offence, &evidence, congested, now));
                None
            }
            Input::Note { peer, note, detail } => {
                self.ledger.note(&peer, note, &detail, now.unix_ms);
                None
            }
            Input::TipStale => Some(dial::Input::TipStale),
            Input::TipFresh => Some(dial::Input::TipFresh),
            Input::ChallengeFailed { peer } => Some(dial::Input::ChallengeFailed { peer }),
            Input::OwnPlaces(places) => Some(dial::Input::OwnPlaces(places)),
            Input::AddStatic(one) => {
                if let Some(peer) = &one.peer {
                    self.ledger.note(peer, Note::Operator, "added as static peer", now.unix_ms);
                }
                Some(dial::Input::AddStatic(one))
            }
            Input::RemoveStatic(endpoint) => Some(dial::Input::RemoveStatic(endpoint)),
            Input::OperatorDrop(peer) => {
                self.ledger.note(&peer, Note::Operator, "dropped", now.unix_ms);
                effects.push(drop_effect(peer, Code::Dropped, "by the operator"));
                None
            }
            Input::OperatorBan { peer, until_unix_ms, reason } => {
                self.ledger.ban(&peer, until_unix_ms, &format!("operator: {reason}"), now.unix_ms);
                self.answers.forget(&peer);
                effects.push(drop_effect(peer, Code::Refused, "banned by the operator"));
                None
            }
            Input::OperatorUnban(peer) => {
                self.ledger.unban(&peer, now.unix_ms);
                None
            }
            Input::Persisted(result) => {
                self.persisting = false;
                if let Err(batch) = result {
                    self.give_back(batch);
                }
                None
            }
        };
        let joined = match &dial_input {
            Some(dial::Input::Connected { peer, .. }) => Some(*peer),
            _ => None,
        };
        let dials = dial_input
            .map(|input| self.dialler.handle(input, &mut self.book, &self.ledger, now))
            .unwrap_or_default();
        if let Some(peer) = joined.filter(|_| ask) {
            self.may_ask(peer, now);
        }
        effects.extend(self.finish(dials, now));
        effects
    }

    /// When [`Overlay::on_deadline`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let persist = self.persist_at.filter(|_| !self.persisting);
        let deadlines = [
            self.dialler.next_deadline(),
            self.asking.next_deadline(),
            self.inbound.next_deadline(),
            persist,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// A deadline passed.
    pub fn on_deadline(&mut self, now: Now) -> Vec<Effect> {
        let dials = self.dialler.on_deadline(&mut self.book, &self.ledger, now);
        let mut effects = self.finish(dials, now);
        self.inbound.on_deadline(now.at);
        if !self.persisting && self.persist_at.is_some_and(|at| now.at >= at) {
            self.persist_at = None;
            let batch = self.take_batch();
            if !batch.writes.is_empty() {
                self.persisting = true;
                effects.push(Effect::Persist(batch));
            }
        }
        effects
    }

    /// What is not on disk yet, at the end. Apply it; call again until it is `None`.
    pub fn flush(&mut self) -> Option<Batch> {
        let batch = self.take_batch();
        (!batch.writes.is_empty()).then_some(batch)
    }

    /// Everything about one peer.
    pub fn explain(&self, peer: &PeerId, now: Now) -> Explanation {
        let address = |row: Row| {
            let endpoint = &row.key.endpoint;
            let paused = self.dialler.paused_until(peer, endpoint);
            ExplainedAddress {
                address: endpoint.to_string(),
                table: if row.tried { "tried" } else { "new" },
                source: row.source.to_string(),
                netgroup: self.book.policy().group(endpoint).to_string(),
                last_seen_s: row.last_seen_s,
                last_try_s: row.last_try_s,
                last_success_s: row.last_success_s,
                attempts: row.attempts,
                paused_s: paused.map_or(0, |until| until.saturating_duration_since(now.at).as_secs()),
                refused: {
                    let source = Source::Peer(endpoint.clone());
                    let discouraged = self.discouraged(&source, now);
                    self.inbound.refuses(&source, discouraged, now.at).map(Refusal::name)
                },
            }
        };
        let connected = self.sources.contains_key(peer);
        Explanation {
            peer: peer.to_string(),
            connection: connected.then(|| self.dialler.kind(peer).map_or("inbound", Kind::name)),
            is_static: self.dialler.is_static(peer),
            score: self.ledger.score(peer, now.unix_ms),
            ban: self.ledger.banned(peer, now.unix_ms).cloned(),
            refused_as: {
                let banned = self.ledger.banned(peer, now.unix_ms).is_some();
                self.inbound.refuses_peer(peer, banned, self.dialler.is_static(peer)).map(Refusal::name)
            },
            addresses: self.book.rows_of(peer).into_iter().map(address).collect(),
            story: self.ledger.story(peer).cloned(),
        }
    }

    /// What is saved, for an export while the node runs.
    pub fn saved(&self) -> Saved {
        let stories = self.ledger.stories().map(|(peer, story)| (*peer, story.clone())).collect();
        Saved {
            secret: None,
            own_sequence: self.own_record.sequence(),
            rows: self.book.rows(),
            anchors: self.anchors.clone(),
            stories,
        }
    }

    /// Takes over the addresses of an export, those that are not known yet. Answers how many. Conduct and
    /// anchors are taken over by importing into the store of a node that does not run.
    pub fn import(&mut self, saved: Saved, now: Now) -> usize {
        let added = self.book.import(saved.rows);
        self.schedule_persist(now);
        added
    }

    /// A configured seed: it goes into the book, is dialled and asked like anybody else there, and is let
    /// go like anybody else. Unlike a static peer it is not worn out by everyone who knows it.
    pub fn add_seed(&mut self, peer: &PeerId, endpoint: Endpoint, now: Now) {
        let Some(key) = key_of(peer) else { return };
        let claim = Claim {
            peer: key,
            endpoint,
            seen_unix_s: now.unix_ms / 1000,
            source: NetGroup::OPERATOR,
            first_hand: true,
        };
        self.book.add(&claim, &mut self.rng, now.unix_ms);
        self.schedule_persist(now);
    }

    /// The address book.
    pub fn book(&self) -> &AddressBook {
        &self.book
    }

    /// The conduct ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The dialling policy.
    pub fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// Inbound admission.
    pub fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    /// Entries of all maps that connections fill, for tests and metrics.
    pub fn footprint(&self) -> usize {
        let (askers, answers, recent) = self.answers.footprint();
        self.dialler.footprint()
            + self.inbound.footprint()
            + self.asking.len()
            + self.admission.len()
            + self.sources.len()
            + askers
            + answers
            + recent
    }

    fn connected(
        &mut self,
        peer: PeerId,
        link: Link,
        record: Bytes,
        is_node: bool,
        effects: &mut Vec<Effect>,
        now: Now,
    ) -> dial::Input {
        let source = match &link {
            Link::Outbound { endpoint, .. } => Source::Peer(endpoint.clone()),
            Link::Inbound { source } => source.clone(),
        };
        let outbound = matches!(link, Link::Outbound { .. });
        let detail = match &source {
            Source::Peer(place) if outbound => format!("outbound to {place}"),
            Source::Peer(place) => format!("inbound from {place}"),
            Source::TorInbound | Source::Operator => "inbound over Tor".to_owned(),
        };
        self.ledger.note(&peer, Note::Connected, &detail, now.unix_ms);
        let admitted = if is_node { self.own_word(&peer, record, &source, effects, now) } else { None };
        if let Some(Admitted { record, endpoints }) = &admitted {
            let group = self.book.policy().source_group(&source);
            self.book.add_record(record, endpoints, group, true, &mut self.rng, now.unix_ms);
            let seen_there = match &source {
                Source::Peer(place) => endpoints.iter().any(|one| one.host() == place.host()),
                Source::TorInbound | Source::Operator => false,
            };
            if !outbound && seen_there {
                self.answers.met(peer, record.bytes().clone(), group, false, now.at);
            }
        }
        self.sources.insert(peer, source);
        dial::Input::Connected { peer, link, record: admitted.map(|admitted| admitted.record) }
    }

    /// Full-relay and static peers may be asked for others; see [`Asking::connected`] for who else.
    fn may_ask(&mut self, peer: PeerId, now: Now) {
        match self.dialler.kind(&peer) {
            Some(Kind::FullRelay | Kind::Static) => self.asking.connected(peer, true, now.at),
            Some(Kind::BlockOnly | Kind::Feeler) => {}
            None => self.asking.connected(peer, false, now.at),
        }
    }

    /// The record in a peer's own hello.
    fn own_word(
        &mut self,
        peer: &PeerId,
        record: Bytes,
        source: &Source,
        effects: &mut Vec<Effect>,
        now: Now,
    ) -> Option<Admitted> {
        if record.is_empty() {
            return None;
        }
        match record::check(record, &self.own, source, self.book.policy(), now.unix_ms) {
            Ok(admitted) if admitted.record.peer() == *peer => Some(admitted),
            Ok(_) => {
                effects.extend(self.offend(
                    peer,
                    Offence::ForgedRecord,
                    "the record in its hello is about another peer",
                    false,
                    now,
                ));
                None
            }
            Err(refused) if refused.is_offence() => {
                effects.extend(self.offend(peer, Offence::ForgedRecord, &refused.to_string(), false, now));
                None
            }
            Err(_) => None,
        }
    }

    fn peers(
        &mut self,
        peer: PeerId,
        records: Option<Vec<Bytes>>,
        effects: &mut Vec<Effect>,
        now: Now,
    ) -> Option<dial::Input> {
        // An answer that comes after its connection is gone has no source to be judged by.
        let source = self.sources.get(&peer)?.clone();
        let group = self.book.policy().source_group(&source);
        let mut new = records.as_ref().map(|_| 0);
        for bytes in records.into_iter().flatten().take(PEERS_PER_ANSWER_MAX) {
            match self.admission.admit(bytes, &peer, &source, self.book.policy(), now.at, now.unix_ms) {
                Ok(Admitted { record, endpoints }) => {
                    let rng = &mut self.rng;
                    let added = self.book.add_record(&record, &endpoints, group, false, rng, now.unix_ms);
                    new = new.map(|new| new + added);
                }
                Err(Refused::Invalid(error)) => {
                    let evidence = format!("passed on a record that is invalid: {error}");
                    effects.extend(self.offend(&peer, Offence::ForgedRecord, &evidence, false, now));
                    break;
                }
                Err(_) => {}
            }
        }
        self.asking.answered(&peer, new, now.at);
        new.is_some_and(|new| new > 0).then_some(dial::Input::Learned)
    }

    fn offend(
        &mut self,
        peer: &PeerId,
        offence: Offence,
        evidence: &str,
        congested: bool,
        now: Now,
    ) -> Option<Effect> {
        if self.dialler.is_static(peer) {
            // The operator wants this peer: it is told, and decides.
            let detail = format!("{}, not banned as it is a static peer: {evidence}", offence.name());
            self.ledger.note(peer, Note::Operator, &detail, now.unix_ms);
            return None;
        }
        let host = self.sources.get(peer).and_then(shared_by_none).cloned();
        match self.ledger.offend(peer, host.as_ref(), offence, evidence, congested, now.unix_ms) {
            Verdict::Noted { .. } => None,
            Verdict::Ban { .. } => {
                self.answers.forget(peer);
                Some(drop_effect(*peer, offence.code(), &format!("banned: {evidence}")))
            }
        }
    }

    fn standing(&self, source: &Source, peer: &PeerId, now: Now) -> Standing {
        Standing {
            banned: self.ledger.banned(peer, now.unix_ms).is_some(),
            discouraged: self.discouraged(source, now),
        }
    }

    fn discouraged(&self, source: &Source, now: Now) -> bool {
        shared_by_none(source).is_some_and(|host| self.ledger.discouraged(host, now.unix_ms))
    }

    fn note_refusal(&mut self, peer: &PeerId, refusal: Refusal, source: &Source, now: Now) {
        let from = match source {
            Source::Peer(place) => place.to_string(),
            Source::TorInbound | Source::Operator => "Tor".to_owned(),
        };
        let detail = format!("{} ({refusal}), from {from}", refusal.name());
        self.ledger.note(peer, Note::Refused, &detail, now.unix_ms);
    }

    fn note_failure(&mut self, peer: &PeerId, endpoint: &Endpoint, why: &DialFailure, now: Now) {
        let note = match why {
            DialFailure::Duplicate => return,
            DialFailure::IdentityMismatch => Note::IdentityMismatch,
            DialFailure::WrongGenesis => Note::WrongGenesis,
            DialFailure::Unreachable(_) | DialFailure::SelfDial | DialFailure::Closed(_) => Note::DialFailed,
        };
        // Strangers that never answered get no story: the book counts their failures.
        let known = self.ledger.story(peer).is_some() || self.dialler.is_static(peer);
        if known || !matches!(why, DialFailure::Unreachable(_)) {
            self.ledger.note(peer, note, &format!("{endpoint}: {why}"), now.unix_ms);
        }
    }

    /// Turns what the dialler wants into effects, and sees to questions and persistence.
    fn finish(&mut self, dials: Vec<dial::Effect>, now: Now) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(dials.len());
        for effect in dials {
            effects.push(match effect {
                dial::Effect::Dial { dial, kind, peer, addresses } => {
                    Effect::Dial { dial, kind, peer, addresses }
                }
                dial::Effect::Drop { peer, why } => {
                    self.ledger.note(&peer, Note::Dropped, &why.to_string(), now.unix_ms);
                    drop_effect(peer, why.code(), &why.to_string())
                }
                dial::Effect::ChallengeTip { peer } => Effect::ChallengeTip { peer },
                dial::Effect::Alarm(alarm) => Effect::Alarm(alarm),
            });
        }
        for peer in self.asking.on_deadline(self.book.len(), now.at) {
            self.admission.asked(&peer, PEERS_PER_ANSWER_MAX as u32, now.at);
            effects.push(Effect::AskForPeers { peer, limit: PEERS_PER_ANSWER_MAX as u16 });
        }
        let anchors = self.dialler.anchors();
        if anchors != self.anchors {
            self.anchors = anchors;
            self.urgent.retain(|write| !matches!(write, Write::Anchors(_)));
            self.urgent.push(Write::Anchors(self.anchors.clone()));
        }
        self.schedule_persist(now);
        effects
    }

    fn schedule_persist(&mut self, now: Now) {
        let changed = !self.urgent.is_empty() || self.book.changes_len() > 0 || self.ledger.changes_len() > 0;
        if changed && self.persist_at.is_none() {
            self.persist_at = Some(now.at + PERSIST_EVERY);
        }
    }

    fn take_batch(&mut self) -> Batch {
        let mut writes = std::mem::take(&mut self.urgent);
        let stories = self.ledger.take_changes(BATCH_MAX / 2);
        writes.extend(stories.into_iter().map(|(peer, story)| Write::Story(peer, story)));
        let room = BATCH_MAX.saturating_sub(writes.len());
        writes.extend(self.book.take_changes(room).into_iter().map(Write::Entry));
        Batch { writes }
    }

    fn give_back(&mut self, batch: Batch) {
        for write in batch.writes {
            match write {
                Write::Entry(change) => self.book.give_back(vec![change]),
                Write::Story(peer, _) => self.ledger.give_back([peer]),
                // Newer ones may wait already; they win.
                Write::Anchors(_) if self.urgent.iter().any(|one| matches!(one, Write::Anchors(_))) => {}
                write => self.urgent.insert(0, write),
            }
        }
    }
}

fn drop_effect(peer: PeerId, code: Code, why: &str) -> Effect {
    Effect::Drop { peer, code, why: why.to_owned() }
}

/// The host, if it is not shared by design (loopback, private networks, Tor).
fn shared_by_none(source: &Source) -> Option<&Host> {
    match source {
        Source::Peer(place) if place.host().is_global() => Some(place.host()),
        _ => None,
    }
}

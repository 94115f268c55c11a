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
//!    [`Overlay::answer_find`] and [`Overlay::store_value`] for each `FindRequest` and `StoreRequest`, and
//!    [`Input::FindAnswered`] for what [`Overlay::find`] wants asked, of whoever it is.
//! 6. [`Overlay::on_deadline`] at [`Overlay::next_deadline`].
//! 7. Effects as they come; [`Effect::Persist`] is answered with [`Input::Persisted`].
//! 8. At the end [`Overlay::flush`], until it gives nothing.

mod door;
mod explain;
mod find;
mod persist;
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
    address::Endpoint,
    book::{AddressBook, Claim},
    clock::Now,
    conduct::{Ledger, Note, Offence, Verdict},
    dial::{self, Alarm, Anchor, DialFailure, Dialler, Kind, Link},
    eclipse::Watch,
    exchange::{Answer, Answers, Asking},
    inbound::Inbound,
    lookup::Lookups,
    netgroup::{NetGroup, Source},
    reach::{DialBacks, Reach},
    record::{Admission, Admitted, OwnRecord, Refused},
    store::{Saved, Write},
};

use door::shared_by_none;

pub use types::{Effect, ExplainedAddress, Explanation, Input, OverlayConfig};

/// Changes wait so long before they are persisted: the greater part of the store's loss window.
pub const PERSIST_EVERY: Duration = Duration::from_secs(1);

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Overlay {
    book: AddressBook,
    dialler: Dialler,
    inbound: Inbound,
    answers: Answers,
    asking: Asking,
    admission: Admission,
    ledger: Ledger,
    own_record: OwnRecord,
    reach: Reach,
    dial_backs: DialBacks,
    watch: Watch,
    lookups: Lookups,
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
            book,
            dialler,
            inbound: Inbound::new(config.inbound, config.policy, rng.random()),
            answers: Answers::new(config.answers, rng.random()),
            asking: Asking::new(config.asking),
            admission: Admission::new(config.own),
            ledger: Ledger::restore(saved.stories),
            own_record: OwnRecord::new(saved.own_sequence),
            reach: Reach::new(config.reach),
            dial_backs: DialBacks::default(),
            watch: Watch::new(config.watch),
            lookups: Lookups::new(&config.own),
            rng,
            sources: BTreeMap::new(),
            urgent,
            anchors: saved.anchors,
            persist_at: None,
            persisting: false,
        };
        overlay.remember_contacts();
        overlay.schedule_persist(now);
        overlay
    }

    /// The first dials.
    pub fn start(&mut self, now: Now) -> Vec<Effect> {
        let effects = self.dialler.start(&mut self.book, &self.ledger, now);
        self.finish(effects, now)
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
                self.reach.disconnected(&peer, now.at);
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
            Input::Seeds(seeds) => {
                for (peer, endpoint) in seeds {
                    self.add_seed(&peer, endpoint, now);
                }
                Some(dial::Input::Learned)
            }
            Input::Observed { peer, at } => {
                if let Some(source) = self.sources.get(&peer) {
                    let group = self.book.policy().source_group(source);
                    self.reach.observed(peer, group, at, now.at);
                }
                Some(dial::Input::OwnPlaces(self.reach.believed()))
            }
            Input::DialBack { peer, result } => {
                if self.reach.answered(&peer, result, now.at) {
                    effects.push(Effect::ReachChanged);
                }
                None
            }
            Input::FindAnswered { query, peer, source, answer } => {
                effects.extend(self.find_answered(query, &peer, &source, answer, now));
                None
            }
            Input::TipSeen { network, height } => {
                self.watch.tip_seen(network, height, now.at);
                None
            }
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
                self.lookups.table_mut().forget(&peer);
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
            self.reach.next_deadline(),
            self.watch.next_deadline(),
            self.lookups.next_deadline(),
            persist,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// A deadline passed.
    pub fn on_deadline(&mut self, now: Now) -> Vec<Effect> {
        let dials = self.dialler.on_deadline(&mut self.book, &self.ledger, now);
        let mut effects = self.finish(dials, now);
        let ask = self.reach.on_deadline(now.at);
        effects.extend(ask.into_iter().map(|peer| Effect::AskDialBack { peer }));
        self.inbound.on_deadline(now.at);
        let lookups = self.lookups.on_deadline(now);
        effects.extend(lookups.into_iter().flat_map(|(query, steps)| find::effects_of(query, steps)));
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

    /// A peer asks to be dialled back. If true, dial it at the address it is seen at and nowhere else, and
    /// call [`Overlay::dialled_back`] after it; if not, refuse with `Busy`.
    pub fn may_dial_back(&mut self, peer: &PeerId, now: Now) -> bool {
        self.dial_backs.begin(peer, now.at)
    }

    /// A dial back ended, however.
    pub fn dialled_back(&mut self) {
        self.dial_backs.done();
    }

    /// Where others see us, and whether they reach us there.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// What the operator should look at now.
    pub fn alarms(&self) -> Vec<String> {
        self.watch.reasons().iter().map(ToString::to_string).collect()
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
            + self.reach.footprint()
            + self.lookups.len()
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
            if outbound || seen_there {
                self.learn_contact(&source, record.clone(), endpoints.clone(), outbound);
            }
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
        match self.admission.admit_own(record, source, self.book.policy(), now.unix_ms) {
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
                self.lookups.table_mut().forget(peer);
                Some(drop_effect(*peer, offence.code(), &format!("banned: {evidence}")))
            }
        }
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
        if self.watch.look(self.dialler.outbound_groups(), self.dialler.tip_is_stale(), now.at) {
            let reasons = self.alarms();
            if !reasons.is_empty() {
                effects.push(Effect::Alarm(Alarm::Eclipse { reasons: reasons.join("; ") }));
            }
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
}

fn drop_effect(peer: PeerId, code: Code, why: &str) -> Effect {
    Effect::Drop { peer, code, why: why.to_owned() }
}

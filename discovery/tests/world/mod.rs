//! Many overlays in one virtual network: dials, hellos and peer exchange as a shell would carry them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ghost_discovery::{
    address::Endpoint,
    clock::Now,
    dial::{DialFailure, DialId, Link},
    exchange::Answer,
    inbound::{Arrival, Incoming},
    lookup::{Ask, Found, Goal, QueryId},
    netgroup::Source,
    overlay::{Effect, Input, Overlay, OverlayConfig},
    store::{Batch, MemoryStore, PeerStore, Saved},
};
use ghost_frames::Code;
use ghost_proto::{KeyPair, PeerId, record::peer_of};

/// One way.
pub(crate) const LATENCY: Duration = Duration::from_millis(25);
/// A dial to nobody.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Node {
    pub(crate) key: KeyPair,
    pub(crate) peer: PeerId,
    pub(crate) place: Endpoint,
    pub(crate) config: OverlayConfig,
    pub(crate) overlay: Overlay,
    pub(crate) store: MemoryStore,
    pub(crate) seed: Option<(PeerId, Endpoint)>,
    pub(crate) up: bool,
    /// How far its clock is ahead of the world's, in milliseconds.
    pub(crate) skew_ms: i64,
    /// One of an attacker's: it sits next to whoever it dials, and names nobody but its like.
    pub(crate) hostile: bool,
    pub(crate) links: BTreeSet<usize>,
    pub(crate) alarms: Vec<(Duration, String)>,
    /// Lookups that are over, and when.
    pub(crate) found: Vec<(Duration, Found)>,
}

enum Event {
    Dialled { from: usize, dial: DialId, peer: Option<PeerId>, place: Endpoint },
    Failed { at: usize, dial: DialId, peer: Option<PeerId>, place: Endpoint, why: DialFailure },
    Asked { from: usize, to: usize, limit: u16 },
    Answered { from: usize, to: usize, records: Option<Vec<bytes::Bytes>> },
    Closed { at: usize, other: usize, code: Option<Code> },
    Sought { from: usize, query: QueryId, ask: Ask },
    Found { at: usize, query: QueryId, peer: PeerId, source: Source, answer: FindAnswer },
}

type FindAnswer = Option<(Option<bytes::Bytes>, Vec<bytes::Bytes>)>;

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) start: Instant,
    pub(crate) at: Duration,
    pub(crate) unix_ms: u64,
    by_place: BTreeMap<Endpoint, usize>,
    by_peer: BTreeMap<PeerId, usize>,
    events: BTreeMap<(Duration, u64), Event>,
    next: u64,
    /// Each node's next deadline, as it was when something last happened to the node.
    deadlines: Vec<Option<Duration>>,
    /// Hellos, questions, answers and failed dials.
    pub(crate) messages: u64,
    /// Every first dial of every node: (when, node, place).
    pub(crate) dials: Vec<(Duration, usize, Endpoint)>,
}

pub(crate) fn key(n: usize) -> KeyPair {
    let mut seed = [0x22; 32];
    seed[..8].copy_from_slice(&(n as u64).to_be_bytes());
    KeyPair::from_seed(&seed)
}

pub(crate) fn peer(n: usize) -> PeerId {
    peer_of(&key(n).public()).unwrap()
}

/// A global place in a netgroup of its own (for n below 21,504).
pub(crate) fn place(n: usize) -> Endpoint {
    let ip = [16 + (n / 256) as u8, n as u8, 7, 7];
    std::net::SocketAddr::new(ip.into(), 4001).into()
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            start: Instant::now(),
            at: Duration::ZERO,
            unix_ms: 1_780_000_000_000 / 3_600_000 * 3_600_000,
            by_place: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            events: BTreeMap::new(),
            next: 0,
            deadlines: Vec::new(),
            messages: 0,
            dials: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { at: self.start + self.at, unix_ms: self.unix_ms + self.at.as_millis() as u64 }
    }

    /// The same moment by a node's own clock.
    pub(crate) fn now_at(&self, n: usize) -> Now {
        let now = self.now();
        Now { unix_ms: now.unix_ms.saturating_add_signed(self.nodes[n].skew_ms), ..now }
    }

    /// Adds a node that is not running yet.
    pub(crate) fn add(&mut self, place: Endpoint, config: OverlayConfig) -> usize {
        let n = self.nodes.len();
        let overlay = Overlay::new(config.clone(), Saved::default(), [n as u8; 32], self.now());
        self.by_place.insert(place.clone(), n);
        self.by_peer.insert(peer(n), n);
        self.nodes.push(Node {
            key: key(n),
            peer: peer(n),
            place,
            config,
            overlay,
            store: MemoryStore::new(),
            seed: None,
            up: false,
            skew_ms: 0,
            hostile: false,
            links: BTreeSet::new(),
            alarms: Vec::new(),
            found: Vec::new(),
        });
        self.deadlines.push(None);
        n
    }

    /// Starts a node from what its store holds.
    pub(crate) fn boot(&mut self, n: usize, seed: [u8; 32]) {
        let now = self.now_at(n);
        let node = &mut self.nodes[n];
        let saved = node.store.load().unwrap();
        node.overlay = Overlay::new(node.config.clone(), saved, seed, now);
        node.up = true;
        let places = vec![node.place.clone()];
        if let Some((peer, place)) = node.seed.clone() {
            node.overlay.add_seed(&peer, place, now);
        }
        let mut effects = node.overlay.handle(Input::OwnPlaces(places), now);
        effects.extend(node.overlay.start(now));
        self.carry_out(n, effects);
    }

    /// `kill -9`: nothing is flushed, and the others find out by silence.
    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n].up = false;
        self.deadlines[n] = None;
        for other in std::mem::take(&mut self.nodes[n].links) {
            self.nodes[other].links.remove(&n);
            self.later(Duration::from_secs(30), Event::Closed { at: other, other: n, code: None });
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.events.insert((self.at + after, self.next), event);
        self.next += 1;
    }

    /// Until `end`, or until `done` says so, which is asked every 50 ms. Answers whether it did.
    pub(crate) fn run(&mut self, end: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut ask = self.at;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.deadlines.iter().enumerate().filter_map(|(n, at)| Some(((*at)?, n))).min();
            let next = [event, deadline.map(|(at, _)| at)].into_iter().flatten().min();
            if next.is_none_or(|next| next >= ask) {
                if done(self) {
                    return true;
                }
                ask = next.unwrap_or(end).max(ask) + Duration::from_millis(50);
            }
            let Some(next) = next.filter(|next| *next <= end) else {
                self.at = end;
                return done(self);
            };
            self.at = self.at.max(next);
            if event.is_some_and(|event| event <= next) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happen(event);
            } else if let Some((_, n)) = deadline {
                let now = self.now_at(n);
                let effects = self.nodes[n].overlay.on_deadline(now);
                self.carry_out(n, effects);
                assert!(self.deadlines[n].is_none_or(|at| at > next), "a deadline is dealt with at once");
            }
        }
    }

    /// Begins a lookup; what it finds is added to the node's `found`.
    pub(crate) fn find(&mut self, n: usize, goal: Goal) {
        let now = self.now_at(n);
        let (_, effects) = self.nodes[n].overlay.find(goal, now).expect("few are under way");
        self.carry_out(n, effects);
    }

    pub(crate) fn input(&mut self, n: usize, input: Input) {
        let now = self.now_at(n);
        let effects = self.nodes[n].overlay.handle(input, now);
        self.carry_out(n, effects);
    }

    fn carry_out(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { dial, peer, addresses, .. } => {
                    self.dials.push((self.at, n, addresses[0].endpoint.clone()));
                    // One address answers or none does: all are dialled, as nobody here has two that do.
                    for attempt in addresses {
                        let place = attempt.endpoint;
                        self.later(LATENCY + attempt.after, Event::Dialled { from: n, dial, peer, place });
                    }
                }
                Effect::Drop { peer, code, .. } => {
                    if let Some(&other) = self.by_peer.get(&peer)
                        && self.nodes[n].links.remove(&other)
                    {
                        self.nodes[other].links.remove(&n);
                        self.nodes[n].overlay.inbound_left(&peer);
                        self.later(LATENCY, Event::Closed { at: other, other: n, code: Some(code) });
                        self.input(
                            n,
                            Input::Disconnected { peer, code: Some(code), detail: "we closed".into() },
                        );
                    }
                }
                Effect::AskForPeers { peer, limit } => {
                    let to = self.by_peer[&peer];
                    self.messages += 1;
                    self.later(LATENCY, Event::Asked { from: n, to, limit });
                }
                // Nothing here says where it sees others, and there are no chains.
                Effect::ChallengeTip { .. } | Effect::AskDialBack { .. } | Effect::ReachChanged => {}
                Effect::Find { query, ask } => {
                    self.messages += 1;
                    // A dial and a question, unless it is connected.
                    let there =
                        self.by_peer.get(&ask.peer).is_some_and(|to| self.nodes[n].links.contains(to));
                    let after = if there { LATENCY } else { 3 * LATENCY };
                    self.later(after, Event::Sought { from: n, query, ask });
                }
                Effect::FindDone { found, .. } => {
                    let at = self.at;
                    self.nodes[n].found.push((at, *found));
                }
                Effect::Alarm(alarm) => {
                    let at = self.at;
                    self.nodes[n].alarms.push((at, alarm.to_string()));
                }
                Effect::Persist(batch) => {
                    self.persist(n, &batch);
                    self.input(n, Input::Persisted(Ok(())));
                }
            }
        }
        let node = &self.nodes[n];
        let next = node.overlay.next_deadline().filter(|_| node.up);
        self.deadlines[n] = next.map(|at| at.saturating_duration_since(self.start));
    }

    fn persist(&mut self, n: usize, batch: &Batch) {
        self.nodes[n].store.apply(batch).unwrap();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dialled { from, dial, peer, place } => self.dialled(from, dial, peer, place),
            Event::Failed { at, dial, peer, place, why } => {
                if self.nodes[at].up {
                    self.input(at, Input::AddressFailed { dial, peer, endpoint: place, why });
                }
            }
            Event::Asked { from, to, limit } => {
                let now = self.now_at(to);
                let records = if self.nodes[to].hostile {
                    Some(self.hostile_records(to))
                } else if self.nodes[to].up && self.nodes[to].links.contains(&from) {
                    let asker = self.nodes[from].peer;
                    match self.nodes[to].overlay.answer(&asker, limit, now) {
                        Answer::Records(records) => Some(records),
                        Answer::Busy | Answer::Flooding => None,
                    }
                } else {
                    None
                };
                self.messages += 1;
                self.later(LATENCY, Event::Answered { from: to, to: from, records });
            }
            Event::Answered { from, to, records } => {
                if self.nodes[to].up {
                    let peer = self.nodes[from].peer;
                    self.input(to, Input::Peers { peer, records });
                }
            }
            Event::Sought { from, query, ask } => {
                let to = self.by_peer[&ask.peer];
                let (now, source) = (self.now_at(to), Source::Peer(self.nodes[from].place.clone()));
                let up = self.nodes[to].up;
                let records = self.nodes[to].hostile.then(|| self.hostile_records(to));
                let answer = match records {
                    Some(records) => Some((None, records.into_iter().take(8).collect())),
                    None => {
                        up.then(|| self.nodes[to].overlay.answer_find(ask.value, &ask.target, &source, now))
                    }
                };
                self.messages += 1;
                let source = Source::Peer(self.nodes[to].place.clone());
                let after = if up { LATENCY } else { TIMEOUT };
                self.later(after, Event::Found { at: from, query, peer: ask.peer, source, answer });
            }
            Event::Found { at, query, peer, source, answer } => {
                if self.nodes[at].up {
                    self.input(at, Input::FindAnswered { query, peer, source, answer });
                }
            }
            Event::Closed { at, other, code } => {
                if self.nodes[at].up && !self.nodes[at].links.contains(&other) {
                    let peer = self.nodes[other].peer;
                    self.nodes[at].overlay.inbound_left(&peer);
                    self.input(at, Input::Disconnected { peer, code, detail: "it closed".into() });
                }
            }
        }
    }

    fn dialled(&mut self, from: usize, dial: DialId, peer: Option<PeerId>, place: Endpoint) {
        if !self.nodes[from].up {
            return;
        }
        self.messages += 1;
        let fail = |why| Event::Failed { at: from, dial, peer, place: place.clone(), why };
        let Some(&to) = self.by_place.get(&place).filter(|to| self.nodes[**to].up) else {
            let event = fail(DialFailure::Unreachable("timed out".into()));
            return self.later(TIMEOUT, event);
        };
        if to == from {
            return self.later(LATENCY, fail(DialFailure::SelfDial));
        }
        if peer.is_some_and(|peer| peer != self.nodes[to].peer) {
            return self.later(LATENCY, fail(DialFailure::IdentityMismatch));
        }
        if self.nodes[from].links.contains(&to) {
            return self.later(LATENCY, fail(DialFailure::Duplicate));
        }
        let now = self.now_at(to);
        let source = Source::Peer(self.nodes[from].place.clone());
        let dialler = self.nodes[from].peer;
        let target = &mut self.nodes[to].overlay;
        let refused = match target.incoming(&source, true, now) {
            Incoming::Accept(ticket) => match target.arrived(ticket, &source, dialler, false, now) {
                Arrival::Welcome { evict } => {
                    if let Some(evicted) = evict {
                        let effects =
                            vec![Effect::Drop { peer: evicted, code: Code::Full, why: "evicted".into() }];
                        self.carry_out(to, effects);
                    }
                    None
                }
                Arrival::Refuse(refusal) => Some(refusal.code()),
            },
            Incoming::Refuse(refusal) => Some(refusal.code()),
            Incoming::ValidateAddress => unreachable!("it was validated"),
        };
        if let Some(code) = refused {
            return self.later(LATENCY, fail(DialFailure::of_code(code)));
        }
        self.messages += 2;
        self.nodes[from].links.insert(to);
        self.nodes[to].links.insert(from);
        let (acceptor, record_from, record_to) = (self.nodes[to].peer, self.record(from), self.record(to));
        let link = Link::Inbound { source };
        self.input(to, Input::Connected { peer: dialler, link, record: record_from, is_node: true });
        let near = self.nodes[from].hostile || self.nodes[to].hostile;
        let round_trip = if near { Duration::from_millis(1) } else { 2 * LATENCY };
        self.input(to, Input::Ping { peer: dialler, round_trip });
        if self.nodes[from].links.contains(&to) {
            let link = Link::Outbound { dial, endpoint: place };
            self.input(from, Input::Connected { peer: acceptor, link, record: record_to, is_node: true });
        }
    }

    /// An answer of an attacker's node: 32 of its like, from its own on.
    fn hostile_records(&mut self, n: usize) -> Vec<bytes::Bytes> {
        let hostile: Vec<usize> = (0..self.nodes.len()).filter(|&n| self.nodes[n].hostile).collect();
        let first = hostile.iter().position(|&one| one == n).unwrap_or(0);
        let chosen: Vec<usize> = hostile.iter().cycle().skip(first * 7).take(32).copied().collect();
        chosen.into_iter().map(|n| self.record(n)).collect()
    }

    fn record(&mut self, n: usize) -> bytes::Bytes {
        let now = self.now_at(n);
        let node = &mut self.nodes[n];
        let record = node.overlay.own_record(&node.key, &[node.place.to_multiaddr()], 0xff, now).unwrap();
        record.unwrap().bytes().clone()
    }

    /// Sizes of the connected parts of those that are up.
    pub(crate) fn parts(&self) -> Vec<usize> {
        let mut left: BTreeSet<usize> = (0..self.nodes.len()).filter(|&n| self.nodes[n].up).collect();
        let mut parts = Vec::new();
        while let Some(first) = left.pop_first() {
            let mut todo = vec![first];
            let mut size = 0;
            while let Some(n) = todo.pop() {
                size += 1;
                todo.extend(self.nodes[n].links.iter().filter(|other| left.remove(other)));
            }
            parts.push(size);
        }
        parts
    }

    /// Connections of each node that is up.
    pub(crate) fn degrees(&self) -> Vec<usize> {
        self.nodes.iter().filter(|node| node.up).map(|node| node.links.len()).collect()
    }
}

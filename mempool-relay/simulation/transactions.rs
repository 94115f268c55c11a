//! Nodes with a real relay and a real pool each, on a simulated network, in virtual time.
//!
//! Frames travel as values, counted with the size they have on the wire. Pushes between two nodes keep
//! their order, as on a QUIC stream; requests and answers are streams of their own. A lost datagram
//! arrives when a retransmission gets through.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    time::{Duration, Instant},
};

use ghost_frames::tx::{ANNOUNCE_ENTRY_LEN, SHORT_ID_LEN, ShortId, TxAnnounceEntry};
use ghost_mempool_relay::{
    pool::{AccountState, ChainRules, Place, Pool, PoolConfig},
    tx_relay::{Checked, Effect, Input, Offence, RequestId, Salt, TxRelay, TxSummary, Via},
};
use ghost_proto::{Action, Address, KeyPair, PeerId, Transaction, TxId, VerifiedTransaction, record};
use rand::{Rng, RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;

/// IP, UDP and QUIC headers, packet number, tag, and half an acknowledgement.
const DATAGRAM_OVERHEAD: usize = 92;
const FRAME_OVERHEAD: usize = 4;
/// Signature check and insertion.
const VALIDATION: Duration = Duration::from_millis(1);
/// What a session queues for a peer before it says "back off", in time of its uplink.
const UPLINK_QUEUE: Duration = Duration::from_secs(1);

/// How nodes pass transactions on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The core.
    Core,
    /// Each node pushes to all its peers what is new to it.
    Flood,
    /// Each node announces to all its peers, one by one and at once, what is new to it, and asks the first announcer.
    AnnounceRequest,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) outbound: usize,
    pub(crate) txs_per_second: u32,
    pub(crate) seconds: u32,
    /// How many transactions of each sender follow each other; all are submitted at one node.
    pub(crate) chain: usize,
    /// Median one-way latency and the sigma of its logarithm.
    pub(crate) latency: Duration,
    pub(crate) sigma: f64,
    /// Share of nodes that announce and never answer.
    pub(crate) liars: f64,
    /// Share of time in which a link loses every datagram, in bursts of 100 ms.
    pub(crate) loss: f64,
    /// Share of nodes with an uplink of this many bytes per second.
    pub(crate) slow: f64,
    pub(crate) slow_bytes_per_second: f64,
    /// Whether to hash every effect.
    pub(crate) digest: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            protocol: Protocol::Core,
            seed: 1,
            nodes: 100,
            outbound: 8,
            txs_per_second: 100,
            seconds: 8,
            chain: 1,
            latency: Duration::from_millis(50),
            sigma: 0.5,
            liars: 0.0,
            loss: 0.0,
            slow: 0.0,
            slow_bytes_per_second: 1024.0 * 1024.0,
            digest: false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) txs: usize,
    /// Of transactions times the nodes that did not submit them.
    pub(crate) undelivered: usize,
    pub(crate) copies: f64,
    /// Bytes received for each transaction and node, over its size: bodies, names, requests.
    pub(crate) payload: f64,
    /// The same with frames and datagrams.
    pub(crate) wire: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) fanout: f64,
    pub(crate) timeouts: u64,
    pub(crate) offences: Vec<Offence>,
    pub(crate) not_delivered: u64,
    /// Of every effect, in order.
    pub(crate) digest: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} txs, {} undelivered, copies {:.3}, payload {:.2}, wire {:.2}, ms p50/p90/p95/p99/max {:.0}/{:.0}/{:.0}/{:.0}/{:.0}, fanout {:.2}, {} timeouts, {} not queued, offences {:?}",
            self.txs,
            self.undelivered,
            self.copies,
            self.payload,
            self.wire,
            self.p50_ms,
            self.p90_ms,
            self.p95_ms,
            self.p99_ms,
            self.max_ms,
            self.fanout,
            self.timeouts,
            self.not_delivered,
            self.offences,
        )
    }
}

#[derive(Debug)]
enum Message {
    Announce(Vec<TxAnnounceEntry>),
    Push(Vec<TxId>),
    Request {
        request: RequestId,
        ids: Vec<ShortId>,
    },
    Answer {
        request: RequestId,
        ids: Vec<TxId>,
    },
    /// In the protocols that are not the core.
    Tell(TxId),
    Ask(TxId),
    Give(TxId),
}

#[derive(Debug)]
enum Event {
    Submit { node: usize, tx: TxId },
    Deliver { to: usize, from: usize, message: Message },
    Check { node: usize, from: usize, ids: Vec<TxId> },
    Spread { node: usize, from: usize, tx: TxId },
    Wake { node: usize },
}

/// An event, in the order of its time; events of one time in the order they were planned in.
struct Queued {
    order: Reverse<(Duration, u64)>,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

struct Line {
    latency: Duration,
    /// When the last push arrives: later ones arrive later.
    pushed_until: Duration,
    bad_from: Duration,
    bad_until: Duration,
}

struct Node {
    relay: TxRelay,
    pool: Pool,
    liar: bool,
    bytes_per_second: Option<f64>,
    uplink_until: Duration,
    lines: BTreeMap<usize, Line>,
    /// Requests of others, by our number for them.
    asked: HashMap<u64, (usize, RequestId)>,
    next_asked: u64,
    wake_at: Option<Duration>,
    had: HashMap<TxId, Duration>,
    told: HashSet<TxId>,
}

pub(crate) struct World {
    plan: Plan,
    rng: ChaCha12Rng,
    start: Instant,
    now: Duration,
    queue: BinaryHeap<Queued>,
    next_event: u64,
    nodes: Vec<Node>,
    peers: Vec<PeerId>,
    index: HashMap<PeerId, usize>,
    txs: HashMap<TxId, VerifiedTransaction>,
    submitted: Vec<(TxId, usize, Duration)>,
    payload_bytes: u64,
    wire_bytes: u64,
    /// Bodies sent in the protocols that are not the core.
    bodies: u64,
    offences: Vec<Offence>,
    digest: u64,
}

fn rich(_: &Address) -> AccountState {
    AccountState { nonce: 0, balance: u128::MAX / 2 }
}

/// A 250-byte transfer.
fn transfer(sender: &KeyPair, nonce: u64) -> VerifiedTransaction {
    Transaction {
        chain_id: 1,
        sender_key: sender.public(),
        nonce,
        gas_limit: 30_000,
        gas_price: 100,
        action: Action::Transfer { to: Address([9; 20]), value: 1, payload: vec![7; 82].into() },
    }
    .sign(sender)
    .unwrap()
}

fn salt_of(node: usize) -> Salt {
    let mut salt = [0x5a; 16];
    salt[..8].copy_from_slice(&(node as u64).to_be_bytes());
    Salt(salt)
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(plan.seed);
        let rules = ChainRules {
            chain_id: 1,
            gas_price_min: 1,
            block_gas_max: 30_000_000,
            intrinsic_gas: |_| 21_000,
        };
        let keys: Vec<KeyPair> = (0..plan.nodes)
            .map(|_| {
                let mut seed = [0; 32];
                rng.fill_bytes(&mut seed);
                KeyPair::from_seed(&seed)
            })
            .collect();
        let peers: Vec<PeerId> =
            keys.iter().map(|key| record::peer_of(&key.public()).expect("a real key")).collect();
        let mut nodes: Vec<Node> = (0..plan.nodes)
            .map(|index| {
                let mut seed = [0; 32];
                rng.fill_bytes(&mut seed);
                let share = index as f64 / plan.nodes as f64;
                Node {
                    relay: TxRelay::new(seed),
                    pool: Pool::new(PoolConfig::default(), rules),
                    liar: share < plan.liars,
                    bytes_per_second: (share >= 1.0 - plan.slow).then_some(plan.slow_bytes_per_second),
                    uplink_until: Duration::ZERO,
                    lines: BTreeMap::new(),
                    asked: HashMap::new(),
                    next_asked: 0,
                    wake_at: None,
                    had: HashMap::new(),
                    told: HashSet::new(),
                }
            })
            .collect();
        let start = Instant::now();
        let mut dialled = Vec::new();
        for node in 0..plan.nodes {
            let mut others: Vec<usize> = (0..plan.nodes).filter(|other| *other != node).collect();
            others.shuffle(&mut rng);
            others.retain(|other| !nodes[node].lines.contains_key(other));
            for other in others.into_iter().take(plan.outbound) {
                let latency = lognormal(&mut rng, plan.latency, plan.sigma);
                for (a, b) in [(node, other), (other, node)] {
                    let line = Line {
                        latency,
                        pushed_until: Duration::ZERO,
                        bad_from: Duration::ZERO,
                        bad_until: Duration::ZERO,
                    };
                    nodes[a].lines.insert(b, line);
                }
                dialled.push((node, other, latency));
            }
        }
        for (node, other, latency) in dialled {
            for (a, b, outbound) in [(node, other, true), (other, node, false)] {
                let input = Input::PeerUp {
                    peer: peers[b],
                    outbound,
                    rtt: latency * 2,
                    our_salt: salt_of(a),
                    their_salt: salt_of(b),
                    active: true,
                    sync_key: None,
                };
                assert_eq!(nodes[a].relay.handle(input, start), []);
            }
        }
        let index = peers.iter().copied().zip(0..).collect();
        let mut world = Self {
            rng,
            start,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            next_event: 0,
            nodes,
            peers,
            index,
            txs: HashMap::new(),
            submitted: Vec::new(),
            payload_bytes: 0,
            wire_bytes: 0,
            bodies: 0,
            offences: Vec::new(),
            digest: 0,
            plan,
        };
        world.plan_submissions();
        world
    }

    fn plan_submissions(&mut self) {
        let count = (self.plan.txs_per_second * self.plan.seconds) as usize;
        let mut sender: Option<(KeyPair, usize)> = None;
        for n in 0..count {
            let nonce = n % self.plan.chain;
            if nonce == 0 {
                let mut seed = [0; 32];
                self.rng.fill_bytes(&mut seed);
                sender = Some((KeyPair::from_seed(&seed), self.rng.random_range(0..self.plan.nodes)));
            }
            let (key, node) = sender.as_ref().expect("set above");
            let tx = transfer(key, nonce as u64);
            let jitter = self.rng.random::<f64>();
            // A chain keeps its order; others come at random.
            let place = if self.plan.chain > 1 { n as f64 } else { n as f64 + jitter };
            let at = Duration::from_secs_f64(place / f64::from(self.plan.txs_per_second));
            let node = *node;
            self.submitted.push((tx.id(), node, at));
            self.schedule(at, Event::Submit { node, tx: tx.id() });
            self.txs.insert(tx.id(), tx);
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.next_event += 1;
        self.queue.push(Queued { order: Reverse((at, self.next_event)), event });
    }

    /// Runs until nothing is left to do or a minute has passed since the last submission.
    pub(crate) fn run(mut self) -> Report {
        let end = Duration::from_secs(u64::from(self.plan.seconds) + 60);
        while let Some(Queued { order: Reverse((at, _)), event }) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.step(event);
        }
        self.report()
    }

    fn step(&mut self, event: Event) {
        let now = self.start + self.now;
        match event {
            Event::Submit { node, tx } if self.plan.protocol != Protocol::Core => {
                self.new_to(node, node, tx);
            }
            Event::Spread { node, from, tx } => self.spread(node, from, tx),
            Event::Submit { node, tx } => {
                let verified = self.txs[&tx].clone();
                let inserted = self.nodes[node].pool.insert(verified, &rich, now).expect("valid");
                assert_eq!(inserted.place, Place::Ready);
                self.nodes[node].had.insert(tx, self.now);
                let summary = TxSummary::from(&**self.txs.get(&tx).expect("exists"));
                self.input(node, Input::Submitted { txs: &[summary] });
            }
            Event::Deliver { to, from, message } => self.deliver(to, from, message),
            Event::Check { node, from, ids } => {
                let mut verdicts = Vec::new();
                let mut freed = Vec::new();
                for id in ids {
                    let verified = self.txs[&id].clone();
                    let verdict = match self.nodes[node].pool.insert(verified, &rich, now) {
                        Ok(inserted) => {
                            assert_eq!(inserted.removed, []);
                            for ready in &inserted.ready {
                                self.nodes[node].had.insert(*ready, self.now);
                                if *ready != id {
                                    freed.push(TxSummary::from(&**self.txs.get(ready).expect("exists")));
                                }
                            }
                            match inserted.place {
                                Place::Ready => Checked::Ready,
                                Place::Parked => Checked::Parked,
                                Place::Known => panic!("checked twice"),
                            }
                        }
                        Err(refusal) => panic!("{refusal}"),
                    };
                    verdicts.push((id, verdict));
                }
                let peer = self.peers[from];
                self.input(node, Input::Checked { peer, verdicts: &verdicts });
                if !freed.is_empty() {
                    self.input(node, Input::PoolChanged { ready: &freed, removed: &[] });
                }
            }
            Event::Wake { node } => {
                if self.nodes[node].wake_at != Some(self.now) {
                    return;
                }
                self.nodes[node].wake_at = None;
                let effects = self.nodes[node].relay.on_deadline(now);
                self.execute(node, effects);
            }
        }
    }

    fn deliver(&mut self, to: usize, from: usize, message: Message) {
        let peer = self.peers[from];
        match message {
            Message::Announce(entries) => self.input(to, Input::Announced { peer, entries: &entries }),
            Message::Push(ids) => {
                let txs = self.summaries(&ids);
                self.input(to, Input::Received { peer, via: Via::Push, txs: &txs });
            }
            Message::Request { request, ids } => {
                let node = &mut self.nodes[to];
                if node.liar {
                    return;
                }
                node.next_asked += 1;
                let number = node.next_asked;
                node.asked.insert(number, (from, request));
                self.input(to, Input::Requested { peer, request: number, ids: &ids });
            }
            Message::Tell(tx) => {
                if self.nodes[to].told.insert(tx) {
                    self.send(to, from, Message::Ask(tx), SHORT_ID_LEN, false);
                }
            }
            Message::Ask(tx) => {
                let bytes = self.body_bytes(&[tx]);
                self.bodies += 1;
                self.send(to, from, Message::Give(tx), bytes, false);
            }
            Message::Give(tx) => self.new_to(to, from, tx),
            Message::Answer { request, ids } => {
                let txs = self.summaries(&ids);
                self.input(to, Input::Received { peer, via: Via::Pull(request), txs: &txs });
                self.input(to, Input::AnswerEnded { peer, request });
            }
        }
    }

    /// In the protocols that are not the core.
    fn new_to(&mut self, node: usize, from: usize, tx: TxId) {
        let now = self.now;
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.nodes[node].had.entry(tx) {
            vacant.insert(now + if node == from { Duration::ZERO } else { VALIDATION });
            self.nodes[node].told.insert(tx);
            self.schedule(now + VALIDATION, Event::Spread { node, from, tx });
        }
    }

    fn spread(&mut self, node: usize, from: usize, tx: TxId) {
        let peers: Vec<usize> = self.nodes[node].lines.keys().copied().filter(|peer| *peer != from).collect();
        for to in peers {
            if self.plan.protocol == Protocol::Flood {
                let bytes = self.body_bytes(&[tx]);
                self.bodies += 1;
                self.send(node, to, Message::Give(tx), bytes, true);
            } else {
                self.send(node, to, Message::Tell(tx), ANNOUNCE_ENTRY_LEN, true);
            }
        }
    }

    fn summaries(&self, ids: &[TxId]) -> Vec<TxSummary> {
        ids.iter().map(|id| TxSummary::from(&**self.txs.get(id).expect("exists"))).collect()
    }

    fn input(&mut self, node: usize, input: Input<'_>) {
        let effects = self.nodes[node].relay.handle(input, self.start + self.now);
        self.execute(node, effects);
    }

    fn execute(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            if self.plan.digest {
                let line = format!("{:?} {node} {effect:?}", self.now);
                self.digest = line
                    .bytes()
                    .fold(self.digest, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            }
            match effect {
                Effect::Announce { peer, announce, token } => {
                    let bytes = announce.entries.len() * ANNOUNCE_ENTRY_LEN;
                    if self.send(node, self.index[&peer], Message::Announce(announce.entries), bytes, true) {
                        self.nodes[node].relay.delivered(token);
                    } else {
                        self.nodes[node].relay.not_delivered(token, self.start + self.now);
                    }
                }
                Effect::Push { peer, ids, token } => {
                    let bytes = self.body_bytes(&ids);
                    if self.send(node, self.index[&peer], Message::Push(ids), bytes, true) {
                        self.nodes[node].relay.delivered(token);
                    } else {
                        self.nodes[node].relay.not_delivered(token, self.start + self.now);
                    }
                }
                Effect::Request { peer, request, ids } => {
                    let bytes = ids.len() * SHORT_ID_LEN;
                    self.send(node, self.index[&peer], Message::Request { request, ids }, bytes, false);
                }
                // The answer is on its way or never comes; a reset changes nothing here.
                Effect::Cancel { .. } => {}
                Effect::Answer { request, ids, .. } => {
                    let (to, request) = self.nodes[node].asked.remove(&request).expect("asked once");
                    let bytes = self.body_bytes(&ids);
                    self.send(node, to, Message::Answer { request, ids }, bytes, false);
                }
                Effect::Check { peer, ids } => {
                    let from = self.index[&peer];
                    self.schedule(self.now + VALIDATION, Event::Check { node, from, ids });
                }
                Effect::TellFeeFloor { .. } => {}
                Effect::Offence { what, .. } => self.offences.push(what),
                Effect::SyncRequest { .. } | Effect::SyncAnswer { .. } | Effect::SyncRefuse { .. } => {
                    unreachable!("no link of this world has a key for reconciliation")
                }
            }
        }
        if let Some(at) = self.nodes[node].relay.next_deadline() {
            let at = at.saturating_duration_since(self.start).max(self.now);
            if self.nodes[node].wake_at.is_none_or(|wake| at < wake) {
                self.nodes[node].wake_at = Some(at);
                self.schedule(at, Event::Wake { node });
            }
        }
    }

    fn body_bytes(&self, ids: &[TxId]) -> usize {
        ids.iter().map(|id| self.txs[id].bytes().len() + 2).sum()
    }

    /// False if the sender's queue is full.
    fn send(&mut self, from: usize, to: usize, message: Message, bytes: usize, ordered: bool) -> bool {
        let now = self.now;
        let datagrams = bytes.div_ceil(1200).max(1);
        let wire = bytes + FRAME_OVERHEAD + datagrams * DATAGRAM_OVERHEAD;
        let node = &mut self.nodes[from];
        if let Some(rate) = node.bytes_per_second {
            let begins = node.uplink_until.max(now);
            if ordered && begins - now > UPLINK_QUEUE {
                return false;
            }
            node.uplink_until = begins + Duration::from_secs_f64(wire as f64 / rate);
        }
        self.payload_bytes += bytes as u64;
        self.wire_bytes += wire as u64;
        let mut leaves = node.uplink_until.max(now);
        let line = node.lines.get_mut(&to).expect("only neighbours are sent to");
        if self.plan.loss > 0.0 {
            // Probe timeouts double until a datagram is sent outside a burst.
            let mut timeout = line.latency * 3;
            while line.is_bad(leaves, self.plan.loss, &mut self.rng) {
                leaves += timeout;
                timeout *= 2;
            }
        }
        let mut arrives = leaves + line.latency;
        if ordered {
            arrives = arrives.max(line.pushed_until);
            line.pushed_until = arrives;
        }
        self.schedule(arrives, Event::Deliver { to, from, message });
        true
    }

    fn report(self) -> Report {
        let mut latencies = Vec::new();
        let mut undelivered = 0;
        for (tx, origin, at) in &self.submitted {
            for (index, node) in self.nodes.iter().enumerate() {
                match node.had.get(tx) {
                    Some(had) if index != *origin => latencies.push((*had - *at).as_secs_f64() * 1e3),
                    Some(_) => {}
                    None => undelivered += 1,
                }
            }
        }
        latencies.sort_by(f64::total_cmp);
        let percentile = |p: f64| {
            latencies.get(((latencies.len() as f64 * p) as usize).min(latencies.len() - 1)).copied().unwrap()
        };
        let stats: Vec<_> = self.nodes.iter().map(|node| node.relay.stats()).collect();
        let first: u64 = stats.iter().map(|stats| stats.bodies_first).sum();
        let duplicate: u64 = stats.iter().map(|stats| stats.bodies_duplicate).sum();
        let useful: u64 = stats.iter().map(|stats| stats.bytes_useful).sum();
        let tx_bytes = self.txs.values().next().map_or(0, |tx| tx.bytes().len() as u64);
        let (first, duplicate, useful) = match self.plan.protocol {
            Protocol::Core => (first, duplicate, useful),
            _ => {
                let first = latencies.len() as u64;
                (first, self.bodies - first, first * tx_bytes)
            }
        };
        Report {
            txs: self.submitted.len(),
            undelivered,
            copies: (first + duplicate) as f64 / first as f64,
            payload: self.payload_bytes as f64 / useful as f64,
            wire: self.wire_bytes as f64 / useful as f64,
            p50_ms: percentile(0.5),
            p90_ms: percentile(0.9),
            p95_ms: percentile(0.95),
            p99_ms: percentile(0.99),
            max_ms: percentile(1.0),
            fanout: stats.iter().map(|stats| stats.fanout).sum::<f64>() / stats.len() as f64,
            timeouts: stats.iter().map(|stats| stats.fetch.timeouts).sum(),
            not_delivered: stats.iter().map(|stats| stats.not_delivered).sum(),
            offences: self.offences,
            digest: self.digest,
        }
    }
}

impl Line {
    /// Bursts of 100 ms, with pauses that make them `loss` of the time.
    fn is_bad(&mut self, at: Duration, loss: f64, rng: &mut ChaCha12Rng) -> bool {
        while self.bad_until <= at {
            let pause = -rng.random::<f64>().max(1e-9).ln() * 0.1 * (1.0 - loss) / loss;
            let burst = -rng.random::<f64>().max(1e-9).ln() * 0.1;
            self.bad_from = self.bad_until + Duration::from_secs_f64(pause);
            self.bad_until = self.bad_from + Duration::from_secs_f64(burst);
        }
        self.bad_from <= at
    }
}

/// Box and Muller.
fn lognormal(rng: &mut ChaCha12Rng, median: Duration, sigma: f64) -> Duration {
    let (u, v) = (rng.random::<f64>().max(1e-12), rng.random::<f64>());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    median.mul_f64((sigma * normal).exp())
}

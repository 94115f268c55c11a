//! How fast and in how many bytes blocks spread, beside pushing them whole and announcing them, over the same links.
//!
//! The links: each node dials some others at random; one way takes a lognormal time with a median of 50 ms and
//! sigma 0.5; uplinks are log-uniform between 50 and 1,000 Mbit/s, downlinks at least 200; what is longer than
//! a datagram waits for what is before it on the uplink; a link that was idle for a second starts with a
//! window of 64 KiB that doubles each round trip. No loss. Execution takes 50 ms for each megabyte; cutting a payload into shards or putting
//! it together 4 ms.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::{
    compact::{CompactBlock, PlacedTransaction},
    shards::{Shard, ShardHave, ShardPlan, ShardRequest, ShardRoot},
};
use ghost_mempool_relay::{
    block::{
        BlockStats, PartialBlock, Received, ShortIds, serve,
        shards::{ShardOutcome, code, payload},
    },
    sync::{BlockSync, Config, Effect, HeaderVerdict, Input, RequestEnd, RequestId},
};
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, SignedTransaction, TxId, block::HEADER_LEN};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::chain::{Chain, GENESIS, ROOT, checkpoint, many, peer, proposer_of, seal_of};

/// How nodes pass blocks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The core.
    Core,
    /// Each node pushes the whole block to all its peers once it has executed it.
    FullPush,
    /// Each node announces the header to all its peers once it has executed the block, and asks the first
    /// announcer for the body.
    AnnounceRequest,
}

/// Which of a block's transactions nodes lack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lacks {
    /// Each node another part of this size, out of 1.
    Each(f64),
    /// All nodes but the proposer the same part.
    All(f64),
    /// All nodes but the proposer everything, always: they have just started.
    Everything,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) outbound: usize,
    pub(crate) protocol: Protocol,
    /// Transactions of 250 B in the block that is measured.
    pub(crate) transactions: usize,
    pub(crate) lacks: Lacks,
    /// Part of the nodes that takes part and gives no body, no transaction and no shard.
    pub(crate) silent: f64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 7,
            nodes: 100,
            outbound: 8,
            protocol: Protocol::Core,
            transactions: 8_000,
            lacks: Lacks::Each(0.0),
            silent: 0.0,
        }
    }
}

/// What one block took.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) block_bytes: usize,
    /// Milliseconds until half, 90 % and 99 % of the nodes had it, and the last.
    pub(crate) times_ms: [f64; 4],
    /// Nodes that did not get it in 25 seconds.
    pub(crate) undelivered: usize,
    /// Bytes received by a node on average.
    pub(crate) node_bytes: f64,
    /// Bodies, and parts of them by place or shard, over the block that each node has: 1 if nothing comes twice and
    /// nothing was here.
    pub(crate) bodies: f64,
    pub(crate) offences: usize,
    /// Of all nodes and blocks.
    pub(crate) stats: BlockStats,
}

impl Row {
    /// Bytes received by a node over the bytes of the block.
    pub(crate) fn ratio(&self) -> f64 {
        self.node_bytes / self.block_bytes as f64
    }
}

#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
enum Message {
    Announce(Header),
    Whole(Arc<Block>),
    Compact(Arc<CompactBlock>),
    Mode(bool),
    Plan(Arc<ShardPlan>),
    Have(ShardHave),
    Shard(Arc<Shard>),
    AskBlock(RequestId, BlockId),
    AskCompact(RequestId, BlockId),
    AskPlaces(RequestId, BlockId, Vec<u32>),
    AskShards(RequestId, ShardRequest),
    Block(RequestId, Arc<Block>),
    CompactAnswer(RequestId, Arc<CompactBlock>),
    Places(RequestId, Vec<PlacedTransaction>),
    ShardAnswer(RequestId, Arc<Shard>),
    End(RequestId),
}

fn placed_bytes(transactions: &[PlacedTransaction]) -> usize {
    transactions.iter().map(|placed| placed.transaction.bytes().len() + 3).sum()
}

fn shard_bytes(shard: &Shard) -> usize {
    35 + shard.path.len() * 32 + shard.bytes.len()
}

impl Message {
    /// Without the frame's head.
    fn payload_bytes(&self) -> usize {
        let compact = |compact: &CompactBlock| {
            HEADER_LEN + 10 + compact.short_ids.len() + placed_bytes(&compact.prefilled)
        };
        match self {
            Self::Announce(_) => HEADER_LEN,
            Self::Whole(block) | Self::Block(_, block) => HEADER_LEN + block.header().body_bytes as usize,
            Self::Compact(it) | Self::CompactAnswer(_, it) => compact(it),
            Self::Mode(_) | Self::End(_) => 1,
            Self::Plan(plan) => HEADER_LEN + 100 + plan.indexes.len(),
            Self::Have(have) => 33 + have.have.iter().last().map_or(0, |last| usize::from(last) / 8 + 1),
            Self::Shard(shard) | Self::ShardAnswer(_, shard) => shard_bytes(shard),
            Self::AskBlock(..) | Self::AskCompact(..) => 32,
            Self::AskPlaces(_, _, indexes) => 32 + indexes.len(),
            Self::AskShards(_, asked) => {
                32 + asked.wanted.iter().last().map_or(0, |last| usize::from(last) / 8 + 1)
            }
            Self::Places(_, transactions) => placed_bytes(transactions),
        }
    }

    /// Bytes that belong to the body.
    fn body_bytes(&self) -> usize {
        match self {
            Self::Whole(block) | Self::Block(_, block) => block.header().body_bytes as usize,
            Self::Compact(compact) | Self::CompactAnswer(_, compact) => placed_bytes(&compact.prefilled),
            Self::Places(_, transactions) => placed_bytes(transactions),
            Self::Shard(shard) | Self::ShardAnswer(_, shard) => shard.bytes.len(),
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        3 + self.payload_bytes()
    }

    /// Which stream between two nodes it travels on: what is on one stream keeps its order.
    fn stream(&self) -> u64 {
        match self {
            Self::Announce(_) | Self::Whole(_) | Self::Compact(_) | Self::Mode(_) => 0,
            Self::Plan(_) | Self::Have(_) | Self::Shard(_) => 1,
            Self::AskBlock(id, _)
            | Self::AskCompact(id, _)
            | Self::AskPlaces(id, ..)
            | Self::AskShards(id, _) => 2 + 2 * id.0,
            Self::Block(id, _)
            | Self::CompactAnswer(id, _)
            | Self::Places(id, _)
            | Self::ShardAnswer(id, _)
            | Self::End(id) => 3 + 2 * id.0,
        }
    }
}

struct Node {
    core: BlockSync,
    chain: Chain,
    bodies: BTreeMap<BlockId, Arc<Block>>,
    partial: BTreeMap<BlockId, Arc<PartialBlock>>,
    shards: BTreeMap<ShardRoot, BTreeMap<u16, Arc<Shard>>>,
    /// Who waits for the rest of a block.
    waiting: Vec<(usize, RequestId, BlockId, Vec<u32>)>,
    cancelled: BTreeSet<RequestId>,
    asked: BTreeSet<BlockId>,
    /// Seen in the protocols that are not the core.
    got: BTreeMap<BlockId, Instant>,
    silent: bool,
    received: usize,
    received_of_bodies: usize,
    uplink: f64,
    uplink_free: Instant,
    downlink_free: Instant,
    wake_at: Option<Instant>,
}

#[allow(clippy::large_enum_variant)]
enum Event {
    Arrives { from: usize, to: usize, message: Message },
    Executed { node: usize, block: Arc<Block> },
    Cut { node: usize, block: Arc<Block>, indexes: Vec<u32> },
    Worked { node: usize, root: ShardRoot, outcome: ShardOutcome },
    Wake { node: usize },
}

struct Network {
    plan: Plan,
    now: Instant,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Duration>,
    neighbours: Vec<Vec<usize>>,
    last_use: BTreeMap<(usize, usize), Instant>,
    /// When the last of each stream arrives.
    streams: HashMap<(usize, usize, u64), Instant>,
    pool: Arc<Vec<SignedTransaction>>,
    ids: Vec<TxId>,
    proposer: usize,
    events: BTreeMap<u64, Event>,
    order: BinaryHeap<Reverse<(Instant, u64)>>,
    next: u64,
    offences: usize,
    /// Whole blocks by id and outcomes by root: a thousand nodes share what they all would compute.
    blocks: BTreeMap<BlockId, Arc<Block>>,
    outcomes: BTreeMap<ShardRoot, ShardOutcome>,
    checked: BTreeSet<ShardRoot>,
}

const WINDOW: f64 = 65_536.0;
const DATAGRAM: usize = 1_472;
const EXECUTION_PER_BYTE: f64 = 50e-9;
const CODING_PER_BYTE: f64 = 4e-9;

fn normal(rng: &mut StdRng) -> f64 {
    // The sum of twelve uniform variables has variance one.
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

/// A number between 0 and 1 that belongs to a transaction and a node.
fn lot(id: &TxId, node: u64) -> f64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.0[..8]);
    let mixed = (u64::from_be_bytes(bytes) ^ node.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ (mixed >> 33)) as f64 / u64::MAX as f64
}

fn number(peer: &PeerId) -> usize {
    let bytes = peer.to_bytes();
    usize::from(u16::from_be_bytes([bytes[36], bytes[37]]))
}

impl Network {
    fn new(plan: Plan, pool: Arc<Vec<SignedTransaction>>) -> Self {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let mut node = |n: usize| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(n as u64).to_be_bytes());
            seed[16..24].copy_from_slice(&(n as u64).to_be_bytes());
            Node {
                core: BlockSync::new(Config { head: ROOT, slot: Duration::from_secs(1), seed }, now),
                chain: Chain::default(),
                bodies: BTreeMap::new(),
                partial: BTreeMap::new(),
                shards: BTreeMap::new(),
                waiting: Vec::new(),
                cancelled: BTreeSet::new(),
                asked: BTreeSet::new(),
                got: BTreeMap::new(),
                silent: (n as f64) < plan.silent * plan.nodes as f64,
                received: 0,
                received_of_bodies: 0,
                uplink: 6.25e6 * 20f64.powf(rng.random::<f64>()),
                uplink_free: now,
                downlink_free: now,
                wake_at: None,
            }
        };
        let nodes: Vec<Node> = (0..plan.nodes).map(&mut node).collect();
        let ids = pool.iter().map(SignedTransaction::id).collect();
        let mut network = Self {
            now,
            links: BTreeMap::new(),
            neighbours: vec![Vec::new(); plan.nodes],
            last_use: BTreeMap::new(),
            streams: HashMap::new(),
            pool,
            ids,
            proposer: 0,
            events: BTreeMap::new(),
            order: BinaryHeap::new(),
            next: 0,
            offences: 0,
            blocks: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            checked: BTreeSet::new(),
            nodes,
            plan,
        };
        let (count, outbound) = (network.plan.nodes, network.plan.outbound.min(network.plan.nodes - 1));
        for a in 0..count {
            for _ in 0..outbound {
                let b = rng.random_range(0..count);
                if a != b && !network.links.contains_key(&(a, b)) {
                    let way = Duration::from_secs_f64(0.05 * (0.5 * normal(&mut rng)).exp());
                    network.connect(a, b, way);
                }
            }
        }
        network
    }

    fn connect(&mut self, a: usize, b: usize, way: Duration) {
        self.links.insert((a, b), way);
        self.links.insert((b, a), way);
        for (one, other, outbound) in [(a, b, true), (b, a, false)] {
            self.neighbours[one].push(other);
            let peer = peer(other as u16);
            self.give(one, Input::PeerUp { peer, outbound, best: ROOT, best_known: true, rtt: 2 * way });
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.next += 1;
        self.order.push(Reverse((at, self.next)));
        self.events.insert(self.next, event);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let Some(way) = self.links.get(&(from, to)).copied() else { return };
        let bytes = message.bytes();
        let mut sent = self.now;
        if bytes > DATAGRAM {
            let idle = self.last_use.insert((from, to), self.now);
            if idle.is_none_or(|last| self.now - last > Duration::from_secs(1)) {
                sent += 2 * way * (bytes as f64 / WINDOW + 1.0).log2().floor() as u32;
            }
            sent = sent.max(self.nodes[from].uplink_free)
                + Duration::from_secs_f64(bytes as f64 / self.nodes[from].uplink);
            self.nodes[from].uplink_free = sent;
        }
        let receiver = &mut self.nodes[to];
        let takes = Duration::from_secs_f64(bytes as f64 / receiver.uplink.max(25e6));
        let mut arrives = sent + way;
        if bytes > DATAGRAM {
            let begins = arrives.checked_sub(takes).unwrap_or(sent).max(receiver.downlink_free);
            receiver.downlink_free = begins + takes;
            arrives = begins + takes;
        }
        let before = self.streams.entry((from, to, message.stream())).or_insert(arrives);
        arrives = arrives.max(*before);
        *before = arrives;
        self.at(arrives, Event::Arrives { from, to, message });
    }

    fn send_all(&mut self, from: usize, peers: Vec<PeerId>, message: &Message) {
        for peer in peers {
            self.send(from, number(&peer), message.clone());
        }
    }

    fn give(&mut self, node: usize, input: Input) {
        if self.plan.protocol == Protocol::Core {
            let effects = self.nodes[node].core.handle(input, self.now);
            self.perform(node, effects);
            self.plan_wake(node);
        }
    }

    fn plan_wake(&mut self, node: usize) {
        let Some(at) = self.nodes[node].core.next_deadline().map(|at| at.max(self.now)) else { return };
        if self.nodes[node].wake_at.is_none_or(|wake| at < wake) {
            self.nodes[node].wake_at = Some(at);
            self.at(at, Event::Wake { node });
        }
    }

    fn lacks(&self, node: usize, id: &TxId) -> bool {
        match self.plan.lacks {
            _ if node == self.proposer => false,
            Lacks::Each(part) => lot(id, node as u64 + 1) < part,
            Lacks::All(part) => lot(id, 0) < part,
            Lacks::Everything => true,
        }
    }

    fn produce(&mut self, node: usize, block: &Arc<Block>) {
        self.proposer = node;
        self.blocks.insert(block.header().id(), Arc::clone(block));
        let one = &mut self.nodes[node];
        one.chain.import(block);
        one.bodies.insert(block.header().id(), Arc::clone(block));
        one.got.insert(block.header().id(), self.now);
        if self.plan.protocol != Protocol::Core {
            return self.pass_on(node, block);
        }
        let head = block.header().clone();
        let fresh = match self.plan.lacks {
            Lacks::All(part) => {
                let all = block.transactions().iter().enumerate();
                all.filter(|(_, tx)| lot(&tx.id(), 0) < part).map(|(place, _)| place as u32).collect()
            }
            _ => Vec::new(),
        };
        self.give(node, Input::Produced { block: Arc::clone(block), fresh });
        self.give(node, Input::HeadChanged { head });
    }

    /// In the protocols that are not the core.
    fn pass_on(&mut self, node: usize, block: &Arc<Block>) {
        if self.nodes[node].silent {
            return;
        }
        for to in self.neighbours[node].clone() {
            let message = match self.plan.protocol {
                Protocol::FullPush => Message::Whole(Arc::clone(block)),
                _ => Message::Announce(block.header().clone()),
            };
            if !self.nodes[to].bodies.contains_key(&block.header().id()) {
                self.send(node, to, message);
            }
        }
    }

    fn execute(&mut self, node: usize, block: Arc<Block>) {
        self.nodes[node].got.entry(block.header().id()).or_insert(self.now);
        let takes = Duration::from_secs_f64(EXECUTION_PER_BYTE * f64::from(block.header().body_bytes));
        if self.plan.protocol == Protocol::Core {
            // The core does not wait for it, and what it holds until then would be held a thousand times here.
            return self.executed(node, &block);
        }
        self.at(self.now + takes, Event::Executed { node, block });
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::RequestBlocks { peer, request, ids, .. } => {
                    self.send(node, number(&peer), Message::AskBlock(request, ids[0]));
                }
                Effect::RequestCompact { peer, request, id } => {
                    self.send(node, number(&peer), Message::AskCompact(request, id));
                }
                Effect::RequestTransactions { peer, request, id, places } => {
                    self.send(node, number(&peer), Message::AskPlaces(request, id, places));
                }
                Effect::RequestShards { peer, request, wanted } => {
                    self.send(node, number(&peer), Message::AskShards(request, wanted));
                }
                Effect::LookUp { wanted } => {
                    let has = self.pool.iter().zip(&self.ids).filter(|(_, id)| !self.lacks(node, id));
                    let found = wanted.select(has.map(|(tx, _)| tx));
                    self.give(node, Input::LookedUp { id: wanted.block(), found });
                }
                Effect::PushCompact { peers, compact, partial } => {
                    if let Some(partial) = partial {
                        self.nodes[node].partial.insert(compact.header.id(), partial);
                    }
                    self.send_all(node, peers, &Message::Compact(compact));
                }
                Effect::RelayMode { peer, push } => self.send(node, number(&peer), Message::Mode(push)),
                Effect::Cancel { request } => {
                    self.nodes[node].cancelled.insert(request);
                }
                Effect::Import { block, .. } => self.import(node, &block),
                Effect::Announce { peers, header } => {
                    self.send_all(node, peers, &Message::Announce(header));
                }
                Effect::PushWhole { peers, block } => self.send_all(node, peers, &Message::Whole(block)),
                Effect::PushShardPlan { peers, plan } => self.send_all(node, peers, &Message::Plan(plan)),
                Effect::PushShardHave { peers, have } => self.send_all(node, peers, &Message::Have(have)),
                Effect::PushShard { peer, shard } => {
                    if !self.nodes[node].silent {
                        self.send(node, number(&peer), Message::Shard(shard));
                    }
                }
                Effect::KeepShards { shards } => {
                    let shelf = &mut self.nodes[node].shards;
                    for shard in shards {
                        shelf.entry(shard.root).or_default().insert(shard.index, shard);
                    }
                }
                Effect::DropShards { root } => {
                    self.nodes[node].shards.remove(&root);
                }
                Effect::CutShards { block, indexes } => {
                    let bytes = f64::from(block.header().body_bytes);
                    let takes = Duration::from_secs_f64(bytes * CODING_PER_BYTE);
                    self.at(self.now + takes, Event::Cut { node, block, indexes });
                }
                Effect::WorkOnShards { job } => {
                    let (root, bytes) = (job.plan().root, f64::from(job.plan().payload_bytes));
                    let outcome = self.outcomes.entry(root).or_insert_with(|| job.run()).clone();
                    let takes = Duration::from_secs_f64(bytes * CODING_PER_BYTE);
                    self.at(self.now + takes, Event::Worked { node, root, outcome });
                }
                Effect::ShardFault(fault) => panic!("all proposers are honest: {fault:?}"),
                Effect::Offence { .. } => self.offences += 1,
                Effect::RequestCertificate { request, .. } => {
                    self.give(node, Input::Ended { request, end: RequestEnd::Done });
                }
                // Asked for news after a while of silence: there are none.
                Effect::RequestHeaders { request, .. } => {
                    self.give(node, Input::Ended { request, end: RequestEnd::Done });
                }
                Effect::CheckHeaders { .. } => panic!("nobody sends headers"),
                Effect::State(_) | Effect::TipStale { .. } => {}
            }
        }
    }

    fn import(&mut self, node: usize, block: &Arc<Block>) {
        let id = block.header().id();
        let shared = Arc::clone(&self.blocks[&id]);
        assert_eq!(shared, *block, "every node ends with the block that was made");
        self.nodes[node].partial.remove(&id);
        self.nodes[node].bodies.insert(id, Arc::clone(&shared));
        for (to, request, of, places) in std::mem::take(&mut self.nodes[node].waiting) {
            if of == id {
                self.serve(node, to, request, &shared, places);
            } else {
                self.nodes[node].waiting.push((to, request, of, places));
            }
        }
        self.execute(node, shared);
    }

    /// What a serving node does with places of a block it has.
    fn serve(&mut self, node: usize, to: usize, request: RequestId, block: &Block, places: Vec<u32>) {
        for frame in serve::transactions(places, |place| block.transactions().get(place as usize)) {
            self.send(node, to, Message::Places(request, frame.transactions));
        }
        self.send(node, to, Message::End(request));
    }

    fn arrives(&mut self, from: usize, to: usize, message: Message) {
        let (sender, one) = (peer(from as u16), &mut self.nodes[to]);
        one.received += message.bytes();
        one.received_of_bodies += message.body_bytes();
        let wanted = |request: &RequestId| !one.cancelled.contains(request);
        let core = self.plan.protocol == Protocol::Core;
        match message {
            Message::Announce(header) if core => {
                let verdict = one.chain.check(&header, &one.core);
                self.give(to, Input::Announced { peer: sender, header, verdict });
            }
            Message::Announce(header) => {
                if one.asked.insert(header.id()) {
                    self.send(to, from, Message::AskBlock(RequestId(0), header.id()));
                }
            }
            Message::Whole(block) if core => {
                let verdict = one.chain.check(block.header(), &one.core);
                self.give(to, Input::Pushed { peer: sender, block: Received::Matching(block), verdict });
            }
            Message::Whole(block) | Message::Block(RequestId(0), block) => {
                if one.bodies.insert(block.header().id(), Arc::clone(&block)).is_none() {
                    self.execute(to, block);
                }
            }
            Message::Compact(compact) => {
                let verdict = one.chain.check(&compact.header, &one.core);
                let compact = compact.as_ref().clone();
                self.give(to, Input::Compact { peer: sender, compact, verdict });
            }
            Message::Mode(push) => self.give(to, Input::RelayMode { peer: sender, push }),
            Message::Plan(plan) => {
                let mut verdict = one.chain.check(&plan.header, &one.core);
                let key = proposer_of(&plan.header);
                if self.checked.insert(plan.root) && plan.verify(&GENESIS, &key.public()).is_err() {
                    verdict = HeaderVerdict::Invalid;
                }
                self.give(to, Input::ShardPlan { peer: sender, plan, verdict });
            }
            Message::Have(have) => self.give(to, Input::ShardHave { peer: sender, have }),
            Message::Shard(shard) => {
                self.give(to, Input::Shard { peer: sender, shard: shard.as_ref().clone() });
            }
            Message::AskShards(request, asked) if !one.silent => {
                let here = one.shards.get(&asked.root);
                let here =
                    here.map(|all| asked.wanted.iter().filter_map(|at| all.get(&at).cloned()).collect());
                for shard in here.unwrap_or_else(Vec::new) {
                    self.send(to, from, Message::ShardAnswer(request, shard));
                }
                self.send(to, from, Message::End(request));
            }
            Message::AskBlock(request, id) if !one.silent => {
                if let Some(block) = one.bodies.get(&id).cloned() {
                    self.send(to, from, Message::Block(request, block));
                }
                self.send(to, from, Message::End(request));
            }
            Message::AskCompact(request, id) if !one.silent => {
                if let Some(block) = one.bodies.get(&id).cloned() {
                    let compact = ShortIds::of(&block, to as u64).compact(block.header().clone(), []);
                    self.send(to, from, Message::CompactAnswer(request, Arc::new(compact)));
                }
                self.send(to, from, Message::End(request));
            }
            Message::AskPlaces(request, id, places) if !one.silent => {
                if let Some(block) = one.bodies.get(&id).cloned() {
                    return self.serve(to, from, request, &block, places);
                }
                let Some(partial) = one.partial.get(&id).cloned() else {
                    return self.send(to, from, Message::End(request));
                };
                let here = |place: u32| partial.transactions[place as usize].as_ref();
                let rest = places.iter().copied().filter(|place| here(*place).is_none()).collect::<Vec<_>>();
                let end = rest.is_empty();
                if !end {
                    one.waiting.push((from, request, id, rest));
                }
                for frame in serve::transactions(places, here) {
                    self.send(to, from, Message::Places(request, frame.transactions));
                }
                if end {
                    self.send(to, from, Message::End(request));
                }
            }
            Message::AskShards(..)
            | Message::AskBlock(..)
            | Message::AskCompact(..)
            | Message::AskPlaces(..) => {}
            Message::Block(request, block) => {
                if wanted(&request) {
                    self.give(to, Input::Fetched { request, block: Received::Matching(block) });
                }
            }
            Message::CompactAnswer(request, compact) => {
                if wanted(&request) {
                    let compact = compact.as_ref().clone();
                    self.give(to, Input::FetchedCompact { request, compact });
                }
            }
            Message::Places(request, transactions) => {
                if wanted(&request) {
                    self.give(to, Input::FetchedTransactions { request, transactions });
                }
            }
            Message::ShardAnswer(request, shard) => {
                if wanted(&request) {
                    self.give(to, Input::FetchedShard { request, shard: shard.as_ref().clone() });
                }
            }
            Message::End(request) => {
                if wanted(&request) {
                    self.give(to, Input::Ended { request, end: RequestEnd::Done });
                }
            }
        }
    }

    fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        while let Some(Reverse((at, number))) = self.order.peek().copied().filter(|next| next.0.0 <= end) {
            self.order.pop();
            let Some(event) = self.events.remove(&number) else { continue };
            self.now = self.now.max(at);
            match event {
                Event::Arrives { from, to, message } => self.arrives(from, to, message),
                Event::Executed { node, block } => self.executed(node, &block),
                Event::Cut { node, block, indexes } => {
                    let payload = payload(&block, &indexes);
                    let coded = code::encode(&payload);
                    let (header, bytes) = (block.header().clone(), payload.len() as u32);
                    let key = proposer_of(&header);
                    let plan = ShardPlan::seal(header, bytes, coded.root, indexes, &GENESIS, key);
                    self.give(node, Input::ShardsCut { plan: Arc::new(plan), coded });
                }
                Event::Worked { node, root, outcome } => {
                    self.give(node, Input::ShardsWorked { root, outcome });
                }
                Event::Wake { node } => {
                    if self.nodes[node].wake_at == Some(at) {
                        self.nodes[node].wake_at = None;
                        let effects = self.nodes[node].core.on_deadline(self.now);
                        self.perform(node, effects);
                        self.plan_wake(node);
                    }
                }
            }
        }
        self.now = end;
    }

    fn executed(&mut self, node: usize, block: &Arc<Block>) {
        let outcome = self.nodes[node].chain.import(block);
        if self.plan.protocol != Protocol::Core {
            return self.pass_on(node, block);
        }
        self.give(node, Input::Imported { id: block.header().id(), outcome });
        self.give(node, Input::HeadChanged { head: block.header().clone() });
    }

    fn sum(&self, of: impl Fn(&Node) -> usize) -> usize {
        self.nodes.iter().map(of).sum()
    }
}

/// Seconds that a block may take.
const PATIENCE_S: usize = 25;

/// Transactions of the small blocks that are sent first.
const WARM_UP: usize = 100;

/// Sends some small blocks, by which nodes find out what their pools are worth, one as large as the one measured, and that one.
pub(crate) fn measure(plan: Plan) -> Row {
    let (small, count) = (6, plan.transactions);
    let all = Arc::new(many(small * WARM_UP + 2 * count, 83));
    let mut network = Network::new(plan, Arc::clone(&all));
    network.run(Duration::from_secs(1));
    let mut tip: Checkpoint = ROOT;
    let (mut start, mut before) = (network.now, (0, 0));
    let mut taken = 0;
    for n in 0..small + 2 {
        let size = if n < small { WARM_UP } else { count };
        let block = seal_of(tip, 0, all[taken..taken + size].to_vec());
        taken += size;
        tip = checkpoint(block.header());
        start = network.now;
        before = (network.sum(|node| node.received), network.sum(|node| node.received_of_bodies));
        let nodes = network.plan.nodes;
        // Of those who are not silent.
        let first = (network.plan.silent * nodes as f64).ceil() as usize;
        network.produce(first + (n * 37 + 5) % (nodes - first), &block);
        // A second more: what is on its way counts too.
        let all_have = |network: &Network| network.nodes.iter().all(|node| node.got.contains_key(&tip.id));
        for _ in 0..PATIENCE_S {
            let done = all_have(&network);
            network.run(Duration::from_secs(1));
            if done {
                break;
            }
        }
    }
    let nodes = network.plan.nodes;
    let mut times: Vec<f64> = network
        .nodes
        .iter()
        .filter_map(|node| Some((*node.got.get(&tip.id)? - start).as_secs_f64() * 1e3))
        .collect();
    times.sort_by(f64::total_cmp);
    let undelivered = nodes - times.len();
    let at =
        |percent: usize| times.get((nodes * percent / 100).min(nodes - 1)).copied().unwrap_or(f64::INFINITY);
    let block_bytes = network.blocks[&tip.id].header().body_bytes as usize;
    let stats = network.nodes.iter().map(|node| node.core.block_stats());
    let stats = stats.fold(BlockStats::default(), |sum, one| BlockStats {
        compact: sum.compact + one.compact,
        rebuilt: sum.rebuilt + one.rebuilt,
        rebuilt_at_once: sum.rebuilt_at_once + one.rebuilt_at_once,
        whole: sum.whole + one.whole,
        whole_instead: sum.whole_instead + one.whole_instead,
        transactions_found: sum.transactions_found + one.transactions_found,
        transactions_lacked: sum.transactions_lacked + one.transactions_lacked,
        hit_rate: 0.0,
        whole_known: sum.whole_known + one.whole_known,
        requests: sum.requests + one.requests,
        bytes: sum.bytes + one.bytes,
        sharded: sum.sharded + one.sharded,
        shards: sum.shards + one.shards,
        shards_useless: sum.shards_useless + one.shards_useless,
    });
    let received = network.sum(|node| node.received) - before.0;
    let of_bodies = network.sum(|node| node.received_of_bodies) - before.1;
    Row {
        block_bytes,
        times_ms: [at(50), at(90), at(99), at(100)],
        undelivered,
        node_bytes: received as f64 / nodes as f64,
        bodies: of_bodies as f64 / nodes as f64 / block_bytes as f64,
        offences: network.offences,
        stats,
    }
}

//! Many nodes with pools, each the real core: how fast and in how many bytes large blocks spread, beside pushing them
//! whole, over the same links.
//!
//! The links: 8 dialled at random from each node; one way takes a lognormal time with a median of 50 ms and
//! sigma 0.5; uplinks are log-uniform between 50 and 1,000 Mbit/s, downlinks at least 200; what is longer than
//! a datagram waits for what is before it on the uplink; a link that was idle for a second starts with a
//! window of 64 KiB that doubles each round trip. No loss. Execution takes 50 ms for each megabyte.

#![allow(clippy::print_stdout)]

mod sync_world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::{
    Payload,
    compact::{BlockTransactions, BlockTransactionsRequest, CompactBlock, CompactRequest, PlacedTransaction},
};
use ghost_mempool_relay::{
    block::{BlockStats, PartialBlock, Received, ShortIds, serve},
    sync::{BlockSync, Config, Effect, Input, RequestEnd, RequestId},
};
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, SignedTransaction, TxId, block::HEADER_LEN};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use sync_world::{
    chain::{Chain, ROOT, checkpoint, many, peer, seal_of},
    ms,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// The core.
    Core,
    /// Each node pushes the whole block to all its peers once it has executed it.
    FullPush,
}

#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
enum Message {
    Announce(Header),
    Whole(Arc<Block>),
    Compact(Arc<CompactBlock>),
    Mode(bool),
    AskBlock(RequestId, BlockId),
    AskCompact(RequestId, BlockId),
    AskPlaces(RequestId, BlockId, Vec<u32>),
    Block(RequestId, Arc<Block>),
    CompactAnswer(RequestId, Arc<CompactBlock>),
    Places(RequestId, Vec<PlacedTransaction>),
    End(RequestId),
}

impl Message {
    fn bytes(&self) -> usize {
        let whole = |block: &Block| HEADER_LEN + block.header().body_bytes as usize;
        3 + match self {
            Self::Announce(_) => HEADER_LEN,
            Self::Whole(block) | Self::Block(_, block) => whole(block),
            Self::Compact(compact) | Self::CompactAnswer(_, compact) => compact.to_frame().len(),
            Self::Mode(_) | Self::End(_) => 1,
            Self::AskBlock(..) => 32,
            Self::AskCompact(_, id) => CompactRequest(*id).to_frame().len(),
            Self::AskPlaces(_, block, indexes) => {
                BlockTransactionsRequest { block: *block, indexes: indexes.clone() }.to_frame().len()
            }
            Self::Places(_, transactions) => {
                BlockTransactions { transactions: transactions.clone() }.to_frame().len()
            }
        }
    }
}

struct Node {
    core: BlockSync,
    chain: Chain,
    bodies: BTreeMap<BlockId, Arc<Block>>,
    partial: BTreeMap<BlockId, Arc<PartialBlock>>,
    /// Who waits for the rest of a block.
    waiting: Vec<(usize, RequestId, BlockId, Vec<u32>)>,
    cancelled: BTreeSet<RequestId>,
    lacks: BTreeSet<TxId>,
    got: BTreeMap<BlockId, Instant>,
    received: usize,
    uplink: f64,
    uplink_free: Instant,
    downlink_free: Instant,
}

#[allow(clippy::large_enum_variant)]
enum Event {
    Arrives { from: usize, to: usize, message: Message },
    Executed { node: usize, block: Arc<Block> },
}

struct Network {
    protocol: Protocol,
    now: Instant,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Duration>,
    last_use: BTreeMap<(usize, usize), Instant>,
    pool: Arc<Vec<SignedTransaction>>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    offences: usize,
}

const WINDOW: f64 = 65_536.0;
const DATAGRAM: usize = 1_472;

fn normal(rng: &mut StdRng) -> f64 {
    // The sum of twelve uniform variables has variance one.
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

impl Network {
    fn new(count: usize, seed: u64, protocol: Protocol, pool: Arc<Vec<SignedTransaction>>) -> Self {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut node = |n: usize| Node {
            core: BlockSync::new(Config { head: ROOT, slot: ms(1_000), seed: [n as u8; 32] }, now),
            chain: Chain::default(),
            bodies: BTreeMap::new(),
            partial: BTreeMap::new(),
            waiting: Vec::new(),
            cancelled: BTreeSet::new(),
            lacks: BTreeSet::new(),
            got: BTreeMap::new(),
            received: 0,
            uplink: 6.25e6 * 20f64.powf(rng.random::<f64>()),
            uplink_free: now,
            downlink_free: now,
        };
        let nodes = (0..count).map(&mut node).collect();
        let (links, events, last_use) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut network = Self { protocol, now, nodes, links, last_use, pool, events, next: 0, offences: 0 };
        for a in 0..count {
            for _ in 0..8 {
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
            let peer = peer(other as u16);
            self.give(one, Input::PeerUp { peer, outbound, best: ROOT, best_known: true, rtt: 2 * way });
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.next += 1;
        self.events.insert((at, self.next), event);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let Some(way) = self.links.get(&(from, to)).copied() else { return };
        let bytes = message.bytes();
        let mut sent = self.now;
        if bytes > DATAGRAM {
            let idle = self.last_use.insert((from, to), self.now);
            if idle.is_none_or(|last| self.now - last > ms(1_000)) {
                sent += 2 * way * (bytes as f64 / WINDOW + 1.0).log2().floor() as u32;
            }
            sent = sent.max(self.nodes[from].uplink_free)
                + Duration::from_secs_f64(bytes as f64 / self.nodes[from].uplink);
            self.nodes[from].uplink_free = sent;
        }
        let receiver = &mut self.nodes[to];
        let takes = Duration::from_secs_f64(bytes as f64 / receiver.uplink.max(25e6));
        let begins = (sent + way).checked_sub(takes).unwrap_or(sent).max(receiver.downlink_free);
        receiver.downlink_free = receiver.downlink_free.max(begins + takes);
        self.at(begins + takes, Event::Arrives { from, to, message });
    }

    fn send_all(&mut self, from: usize, peers: Vec<PeerId>, message: &Message) {
        for peer in peers {
            let to = number(&peer);
            self.send(from, to, message.clone());
        }
    }

    fn give(&mut self, node: usize, input: Input) {
        if self.protocol == Protocol::Core {
            let effects = self.nodes[node].core.handle(input, self.now);
            self.perform(node, effects);
        }
    }

    fn produce(&mut self, node: usize, block: &Arc<Block>) {
        let one = &mut self.nodes[node];
        one.chain.import(block);
        one.bodies.insert(block.header().id(), Arc::clone(block));
        one.got.insert(block.header().id(), self.now);
        if self.protocol == Protocol::FullPush {
            return self.flood(node, block);
        }
        let head = block.header().clone();
        self.give(node, Input::Produced { block: Arc::clone(block) });
        self.give(node, Input::HeadChanged { head });
    }

    fn flood(&mut self, node: usize, block: &Arc<Block>) {
        let peers: Vec<usize> =
            self.links.keys().filter(|(from, _)| *from == node).map(|(_, to)| *to).collect();
        for to in peers {
            if !self.nodes[to].bodies.contains_key(&block.header().id()) {
                self.send(node, to, Message::Whole(Arc::clone(block)));
            }
        }
    }

    fn execute(&mut self, node: usize, block: Arc<Block>) {
        self.nodes[node].got.insert(block.header().id(), self.now);
        let takes = Duration::from_secs_f64(0.05 * f64::from(block.header().body_bytes) / 1e6);
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
                Effect::LookUp { wanted } => {
                    let one = &self.nodes[node];
                    let found = wanted.select(self.pool.iter().filter(|tx| !one.lacks.contains(&tx.id())));
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
                Effect::Import { block, .. } => {
                    let id = block.header().id();
                    self.nodes[node].bodies.insert(id, Arc::clone(&block));
                    for (to, request, of, places) in std::mem::take(&mut self.nodes[node].waiting) {
                        if of == id {
                            self.serve(node, to, request, &block, places);
                        } else {
                            self.nodes[node].waiting.push((to, request, of, places));
                        }
                    }
                    self.execute(node, block);
                }
                Effect::Announce { peers, header } => {
                    self.send_all(node, peers, &Message::Announce(header));
                }
                Effect::PushWhole { peers, block } => self.send_all(node, peers, &Message::Whole(block)),
                Effect::Offence { .. } => self.offences += 1,
                Effect::RequestCertificate { request, .. } => {
                    self.give(node, Input::Ended { request, end: RequestEnd::Done });
                }
                Effect::RequestHeaders { .. } | Effect::CheckHeaders { .. } => panic!("nobody is behind"),
                Effect::State(_) | Effect::TipStale { .. } => {}
            }
        }
    }

    /// What a serving node does with places of a block it has.
    fn serve(&mut self, node: usize, to: usize, request: RequestId, block: &Block, places: Vec<u32>) {
        for frame in serve::transactions(places, |place| block.transactions().get(place as usize)) {
            self.send(node, to, Message::Places(request, frame.transactions));
        }
        self.send(node, to, Message::End(request));
    }

    fn arrives(&mut self, from: usize, to: usize, message: Message) {
        let bytes = message.bytes();
        let (sender, one) = (peer(from as u16), &mut self.nodes[to]);
        one.received += bytes;
        let wanted = |request: &RequestId| !one.cancelled.contains(request);
        match message {
            Message::Announce(header) => {
                let verdict = one.chain.check(&header, &one.core);
                self.give(to, Input::Announced { peer: sender, header, verdict });
            }
            Message::Whole(block) if self.protocol == Protocol::FullPush => {
                if one.bodies.insert(block.header().id(), Arc::clone(&block)).is_none() {
                    self.execute(to, block);
                }
            }
            Message::Whole(block) => {
                let verdict = one.chain.check(block.header(), &one.core);
                self.give(to, Input::Pushed { peer: sender, block: Received::Matching(block), verdict });
            }
            Message::Compact(compact) => {
                let verdict = one.chain.check(&compact.header, &one.core);
                let compact = compact.as_ref().clone();
                self.give(to, Input::Compact { peer: sender, compact, verdict });
            }
            Message::Mode(push) => self.give(to, Input::RelayMode { peer: sender, push }),
            Message::AskBlock(request, id) => {
                if let Some(block) = one.bodies.get(&id).cloned() {
                    self.send(to, from, Message::Block(request, block));
                }
                self.send(to, from, Message::End(request));
            }
            Message::AskCompact(request, id) => {
                if let Some(block) = one.bodies.get(&id).cloned() {
                    let compact = ShortIds::of(&block, to as u64).compact(block.header().clone(), []);
                    self.send(to, from, Message::CompactAnswer(request, Arc::new(compact)));
                }
                self.send(to, from, Message::End(request));
            }
            Message::AskPlaces(request, id, places) => {
                if let Some(block) = one.bodies.get(&id).cloned() {
                    return self.serve(to, from, request, &block, places);
                }
                let Some(partial) = one.partial.get(&id).cloned() else {
                    return self.send(to, from, Message::End(request));
                };
                let here = |place: u32| partial.transactions[place as usize].as_ref();
                let rest = places.iter().copied().filter(|place| here(*place).is_none()).collect::<Vec<_>>();
                let end = rest.is_empty();
                one.waiting.push((from, request, id, rest));
                for frame in serve::transactions(places, here) {
                    self.send(to, from, Message::Places(request, frame.transactions));
                }
                if end {
                    self.nodes[to].waiting.pop();
                    self.send(to, from, Message::End(request));
                }
            }
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
            Message::End(request) => {
                if wanted(&request) {
                    self.give(to, Input::Ended { request, end: RequestEnd::Done });
                }
            }
        }
    }

    fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let deadlines = self.nodes.iter().enumerate().filter(|_| self.protocol == Protocol::Core);
            let deadline = deadlines.filter_map(|(n, node)| Some((node.core.next_deadline()?, n))).min();
            let Some(next) = event.into_iter().chain(deadline.map(|(at, _)| at)).min() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if let Some((at, node)) = deadline
                && at <= self.now
            {
                let effects = self.nodes[node].core.on_deadline(self.now);
                self.perform(node, effects);
                continue;
            }
            match self.events.pop_first() {
                Some((_, Event::Arrives { from, to, message })) => self.arrives(from, to, message),
                Some((_, Event::Executed { node, block })) => self.executed(node, &block),
                None => break,
            }
        }
        self.now = end;
    }

    fn executed(&mut self, node: usize, block: &Arc<Block>) {
        let outcome = self.nodes[node].chain.import(block);
        if self.protocol == Protocol::FullPush {
            return self.flood(node, block);
        }
        self.give(node, Input::Imported { id: block.header().id(), outcome });
        self.give(node, Input::HeadChanged { head: block.header().clone() });
    }
}

fn number(peer: &PeerId) -> usize {
    let bytes = peer.to_bytes();
    usize::from(u16::from_be_bytes([bytes[36], bytes[37]]))
}

/// What one block took.
#[derive(Debug)]
struct Row {
    /// Milliseconds until half, 90 % and 99 % of the nodes had it.
    times_ms: [u64; 3],
    /// Bytes received by a node over the bytes of the block.
    bytes: f64,
    stats: BlockStats,
}

/// Sends three blocks of `count` transactions, of which each node lacks `missing_percent`, and measures the last.
fn measure(nodes: usize, protocol: Protocol, count: usize, missing_percent: usize) -> Row {
    let all = Arc::new(many(3 * count, 160));
    let mut network = Network::new(nodes, 7, protocol, Arc::clone(&all));
    let mut rng = StdRng::seed_from_u64(11);
    for node in &mut network.nodes {
        let mut ids: Vec<TxId> = all.iter().map(SignedTransaction::id).collect();
        ids.shuffle(&mut rng);
        node.lacks = ids.into_iter().take(3 * count * missing_percent / 100).collect();
    }
    network.run(ms(1_000));
    let mut tip: Checkpoint = ROOT;
    let (mut start, mut before) = (network.now, 0);
    for n in 0..3 {
        let block = seal_of(tip, 0, all[n * count..(n + 1) * count].to_vec());
        tip = checkpoint(block.header());
        start = network.now;
        before = network.nodes.iter().map(|node| node.received).sum::<usize>();
        network.produce((n * 37 + 5) % nodes, &block);
        network.run(Duration::from_secs(10));
    }
    assert_eq!(network.offences, 0, "all are honest");
    let mut times: Vec<u64> = network
        .nodes
        .iter()
        .map(|node| (*node.got.get(&tip.id).expect("every node has it") - start).as_millis() as u64)
        .collect();
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100];
    let received = network.nodes.iter().map(|node| node.received).sum::<usize>() - before;
    let block_bytes = network.nodes[0].bodies[&tip.id].header().body_bytes as usize;
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
    });
    let row = Row {
        times_ms: [at(50), at(90), at(99)],
        bytes: received as f64 / nodes as f64 / block_bytes as f64,
        stats,
    };
    println!("{nodes} nodes, {block_bytes} B, {missing_percent:>2} % missing: {row:?}");
    row
}

#[test]
fn compact_blocks_beat_whole_ones_in_time_and_bytes_at_0_1_and_10_percent_missing() {
    // About 600 kB.
    let count = 1_800;
    let full = measure(60, Protocol::FullPush, count, 0);
    for (missing, t99_most, bytes_most) in [(0, 400, 0.12), (1, 700, 0.14), (10, 900, 0.35)] {
        let row = measure(60, Protocol::Core, count, missing);
        assert!(row.times_ms[2] <= t99_most, "{row:?}");
        assert!(row.times_ms[2] * 2 < full.times_ms[2], "{row:?} against {full:?}");
        assert!(row.bytes <= bytes_most && row.bytes * 20.0 < full.bytes, "{row:?} against {full:?}");
        // Every node but the producer of each block puts it together, and none asks for it whole.
        assert_eq!((row.stats.rebuilt, row.stats.whole, row.stats.whole_instead), (3 * 59, 0, 0));
        let share = row.stats.transactions_lacked as f64
            / (row.stats.transactions_lacked + row.stats.transactions_found) as f64;
        assert!((share * 100.0 - missing as f64).abs() < 1.0, "{share}");
        if missing == 0 {
            assert_eq!(row.stats.rebuilt_at_once, 3 * 59, "no round trip");
        }
    }
}

#[test]
fn nodes_without_a_pool_get_blocks_whole_and_once() {
    let row = measure(30, Protocol::Core, 300, 100);
    assert_eq!(row.stats.rebuilt, 0);
    assert!(row.bytes < 1.4, "{row:?}");
}

#[test]
#[ignore = "large: cargo test --release -p ghost-mempool-relay --test compact_network -- --ignored --nocapture"]
fn a_table_of_sizes_and_missing_shares() {
    for nodes in [100, 1_000] {
        for count in [150, 6_000] {
            measure(nodes, Protocol::FullPush, count, 0);
            for missing in [0, 1, 10] {
                measure(nodes, Protocol::Core, count, missing);
            }
        }
    }
}

//! Many nodes, each the real core: how a block spreads, and what a partition leaves behind.

#![allow(clippy::print_stdout)]

mod sync_world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_mempool_relay::{
    block::Received,
    sync::{BlockSync, Config, Effect, Input, RequestEnd, RequestId, headers_request, serve},
};
use ghost_proto::{Block, BlockId, Header, PeerId, block::HEADER_LEN};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sync_world::{
    chain::{Chain, ROOT, peer, seal},
    ms,
};

#[allow(clippy::large_enum_variant)]
enum Message {
    Announce(Header),
    Whole(Arc<Block>),
    AskHeaders(RequestId, Vec<BlockId>),
    AskBlocks(RequestId, Vec<BlockId>),
    AskCertificate(RequestId),
    Headers(RequestId, Vec<Header>),
    Block(RequestId, Arc<Block>),
    End(RequestId),
}

struct Node {
    core: BlockSync,
    chain: Chain,
    bodies: BTreeMap<BlockId, Arc<Block>>,
    cancelled: BTreeSet<RequestId>,
    got: Vec<(BlockId, Instant)>,
    copies: usize,
}

#[allow(clippy::large_enum_variant)]
enum Event {
    Arrives { from: usize, to: usize, message: Message },
    Imported { node: usize, block: Arc<Block> },
}

/// Nodes joined at random, 8 links out each; one way takes 10 to 150 ms; 10 Mbit/s for bodies; execution
/// takes 50 ms.
struct Network {
    now: Instant,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Duration>,
    busy: BTreeMap<(usize, usize), Instant>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    bytes: usize,
}

const EXECUTION: Duration = Duration::from_millis(50);
const BYTES_PER_MS: usize = 1_250;

impl Network {
    fn new(count: usize, seed: u64) -> Self {
        let now = Instant::now();
        let node = || Node {
            core: BlockSync::new(Config { head: ROOT, slot: ms(1_000), seed: [0; 32] }, now),
            chain: Chain::default(),
            bodies: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            got: Vec::new(),
            copies: 0,
        };
        let nodes = (0..count).map(|_| node()).collect();
        let mut network = Self {
            now,
            nodes,
            links: BTreeMap::new(),
            busy: BTreeMap::new(),
            events: BTreeMap::new(),
            next: 0,
            bytes: 0,
        };
        let mut rng = StdRng::seed_from_u64(seed);
        for a in 0..count {
            for _ in 0..8.min(count / 2) {
                let b = rng.random_range(0..count);
                if a != b && !network.links.contains_key(&(a, b)) {
                    network.connect(a, b, ms(rng.random_range(10..150)));
                }
            }
        }
        network
    }

    fn connect(&mut self, a: usize, b: usize, way: Duration) {
        self.links.insert((a, b), way);
        self.links.insert((b, a), way);
        for (one, other, outbound) in [(a, b, true), (b, a, false)] {
            let best = self.nodes[other].chain.head_checkpoint();
            let best_known = self.nodes[one].chain.has(&best.id);
            let up = Input::PeerUp { peer: peer(other as u16), outbound, best, best_known, rtt: 2 * way };
            self.give(one, up);
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        self.links.remove(&(a, b));
        self.links.remove(&(b, a));
        self.give(a, Input::PeerDown { peer: peer(b as u16) });
        self.give(b, Input::PeerDown { peer: peer(a as u16) });
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.next += 1;
        self.events.insert((self.now + after, self.next), event);
    }

    fn send(&mut self, from: usize, to: PeerId, message: Message) {
        let to = (0..self.nodes.len()).find(|n| peer(*n as u16) == to).expect("a node");
        let Some(way) = self.links.get(&(from, to)).copied() else { return };
        let bytes = match &message {
            Message::Whole(block) | Message::Block(_, block) => {
                HEADER_LEN + block.header().body_bytes as usize
            }
            Message::Headers(_, headers) => HEADER_LEN * headers.len(),
            Message::Announce(_) => HEADER_LEN,
            _ => 32,
        };
        self.bytes += bytes;
        // A link carries one after another.
        let free = self.busy.get(&(from, to)).copied().unwrap_or(self.now).max(self.now);
        let sent = free + ms((bytes / BYTES_PER_MS) as u64);
        self.busy.insert((from, to), sent);
        self.at(sent - self.now + way, Event::Arrives { from, to, message });
    }

    fn give(&mut self, node: usize, input: Input) {
        let effects = self.nodes[node].core.handle(input, self.now);
        self.perform(node, effects);
    }

    fn produce(&mut self, node: usize, block: &Arc<Block>) {
        let one = &mut self.nodes[node];
        one.chain.import(block);
        one.bodies.insert(block.header().id(), Arc::clone(block));
        one.got.push((block.header().id(), self.now));
        let head = block.header().clone();
        self.give(node, Input::Produced { block: Arc::clone(block), fresh: Vec::new() });
        self.give(node, Input::HeadChanged { head });
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::RequestHeaders { peer, request, after } => {
                    self.send(node, peer, Message::AskHeaders(request, after));
                }
                Effect::RequestBlocks { peer, request, ids, .. } => {
                    self.send(node, peer, Message::AskBlocks(request, ids));
                }
                Effect::RequestCertificate { peer, request } => {
                    self.send(node, peer, Message::AskCertificate(request));
                }
                Effect::Cancel { request } => {
                    self.nodes[node].cancelled.insert(request);
                }
                Effect::CheckHeaders { request, headers, .. } => {
                    let one = &self.nodes[node];
                    let verdict = one.chain.check_all(&headers, &one.core);
                    self.give(node, Input::HeadersChecked { request, verdict });
                }
                Effect::Import { block, .. } => {
                    self.nodes[node].got.push((block.header().id(), self.now));
                    self.at(EXECUTION, Event::Imported { node, block });
                }
                Effect::Announce { peers, header } => {
                    for peer in peers {
                        self.send(node, peer, Message::Announce(header.clone()));
                    }
                }
                Effect::PushWhole { peers, block } => {
                    for peer in peers {
                        self.send(node, peer, Message::Whole(Arc::clone(&block)));
                    }
                }
                Effect::Offence { peer, what } => panic!("{peer} did {what:?}"),
                // A peer may answer with the block whole: these nodes have no pools.
                Effect::RequestCompact { peer, request, id } => {
                    self.send(node, peer, Message::AskBlocks(request, vec![id]));
                }
                Effect::RequestTransactions { .. } | Effect::LookUp { .. } | Effect::PushCompact { .. } => {
                    panic!("nobody pushes compact blocks here")
                }
                // No block of these worlds is cut: none is so large, or made here.
                Effect::PushShardPlan { .. }
                | Effect::PushShardHave { .. }
                | Effect::PushShard { .. }
                | Effect::RequestShards { .. }
                | Effect::KeepShards { .. }
                | Effect::DropShards { .. }
                | Effect::CutShards { .. }
                | Effect::WorkOnShards { .. }
                | Effect::ShardFault(_) => {}
                Effect::State(_) | Effect::TipStale { .. } | Effect::RelayMode { .. } => {}
            }
        }
    }

    fn arrives(&mut self, from: usize, to: usize, message: Message) {
        if !self.links.contains_key(&(from, to)) {
            return;
        }
        let (sender, one) = (peer(from as u16), &mut self.nodes[to]);
        match message {
            Message::Announce(header) => {
                let verdict = one.chain.check(&header, &one.core);
                self.give(to, Input::Announced { peer: sender, header, verdict });
            }
            Message::Whole(block) => {
                one.copies += 1;
                let verdict = one.chain.check(block.header(), &one.core);
                self.give(to, Input::Pushed { peer: sender, block: Received::Matching(block), verdict });
            }
            Message::AskHeaders(request, after) => {
                // The asker's chain is read when the question arrives: nothing else differs.
                let asker = &self.nodes[from].chain;
                let asked = headers_request(&after, asker.height(), |height| asker.canonical(height));
                let one = &self.nodes[to];
                let height_of =
                    |id: &BlockId| (0..=one.chain.height()).find(|h| one.chain.canonical(*h) == Some(*id));
                let header_at = |height| {
                    let id = one.chain.canonical(height)?;
                    Some(one.bodies.get(&id)?.header().clone())
                };
                let headers = serve::headers(&asked, height_of, header_at).headers;
                self.send(to, sender, Message::Headers(request, headers));
            }
            Message::AskBlocks(request, ids) => {
                for id in ids {
                    let one = &self.nodes[to];
                    let block = one.core.block(&id).or(one.bodies.get(&id)).cloned();
                    if let Some(block) = block {
                        self.send(to, sender, Message::Block(request, block));
                    }
                }
                self.send(to, sender, Message::End(request));
            }
            Message::AskCertificate(request) => self.send(to, sender, Message::End(request)),
            Message::Headers(request, headers) => {
                if !one.cancelled.contains(&request) {
                    self.give(to, Input::Headers { request, headers });
                }
            }
            Message::Block(request, block) => {
                one.copies += 1;
                if !one.cancelled.contains(&request) {
                    self.give(to, Input::Fetched { request, block: Received::Matching(block) });
                }
            }
            Message::End(request) => {
                if !one.cancelled.contains(&request) {
                    self.give(to, Input::Ended { request, end: RequestEnd::Done });
                }
            }
        }
    }

    fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let deadlines = self.nodes.iter().enumerate();
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
                Some((_, Event::Imported { node, block })) => self.import(node, &block),
                None => break,
            }
        }
        self.now = end;
    }

    fn import(&mut self, node: usize, block: &Arc<Block>) {
        let one = &mut self.nodes[node];
        let before = one.chain.head_checkpoint();
        let outcome = one.chain.import(block);
        one.bodies.insert(block.header().id(), Arc::clone(block));
        let moved = one.chain.head.clone().filter(|_| one.chain.head_checkpoint() != before);
        self.give(node, Input::Imported { id: block.header().id(), outcome });
        if let Some(head) = moved {
            self.give(node, Input::HeadChanged { head });
        }
    }

    /// Milliseconds from `start` until half of the nodes, 99 % and all had the block.
    fn times(&self, id: BlockId, start: Instant) -> [u64; 3] {
        let times = self.nodes.iter().map(|node| {
            let at = node.got.iter().find(|(got, _)| *got == id).expect("every node has it").1;
            (at - start).as_millis() as u64
        });
        let mut times: Vec<u64> = times.collect();
        times.sort_unstable();
        [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
    }
}

#[test]
fn a_block_reaches_everyone_with_few_copies() {
    // Announced blocks come once. Small ones are pushed to three, at the price of some copies.
    for (payload, copies_max, all_ms_max) in
        [(300, 3.5, 1_500), (13_000, 3.6, 1_500), (20_000, 1.01, 3_000), (1_000_000, 1.6, 20_000)]
    {
        let mut network = Network::new(100, 7);
        network.run(ms(1_000));
        let mut tip = ROOT;
        let (mut worst, mut all) = ([0; 3], Vec::new());
        for n in 0..3 {
            let block = seal(tip, 0, payload);
            tip = sync_world::chain::checkpoint(block.header());
            let start = network.now;
            network.produce(n * 17, &block);
            network.run(Duration::from_secs(20));
            let times = network.times(tip.id, start);
            worst = std::array::from_fn(|at| worst[at].max(times[at]));
            all.push(times);
        }
        let copies = network.nodes.iter().map(|node| node.copies).sum::<usize>() as f64 / 300.0;
        println!(
            "{payload:>9} B: half, 99 %, all after {worst:?} ms at worst; {copies:.2} copies for each node"
        );
        assert!(copies <= copies_max, "{copies} copies of {payload} bytes");
        assert!(worst[2] <= all_ms_max, "{all:?}");
    }
}

#[test]
fn two_halves_that_were_apart_agree_after_they_meet() {
    let mut network = Network::new(30, 3);
    network.run(ms(1_000));
    let across: Vec<_> = network.links.keys().copied().filter(|(a, b)| *a < 15 && *b >= 15).collect();
    let ways: Vec<_> = across.iter().map(|link| network.links[link]).collect();
    for (a, b) in &across {
        network.disconnect(*a, *b);
    }
    for (node, fork, blocks) in [(0, 0, 40), (20, 1, 60)] {
        let mut tip = ROOT;
        for _ in 0..blocks {
            let block = seal(tip, fork, 500);
            tip = sync_world::chain::checkpoint(block.header());
            network.produce(node, &block);
            network.run(ms(500));
        }
    }
    network.run(ms(5_000));
    assert_eq!(network.nodes[5].chain.height(), 40);
    assert_eq!(network.nodes[25].chain.height(), 60);
    let before = network.bytes;
    for ((a, b), way) in across.iter().zip(ways) {
        network.connect(*a, *b, way);
    }
    network.run(Duration::from_secs(30));
    let head = network.nodes[25].chain.head_checkpoint();
    assert_eq!(head.height, 60);
    for node in &network.nodes {
        assert_eq!(node.chain.head_checkpoint(), head);
    }
    let spent = network.bytes - before;
    let needed = 30 * 60 * (HEADER_LEN + 700);
    println!("healed with {spent} bytes, {:.2} times the difference", spent as f64 / needed as f64);
    assert!(spent < 4 * needed, "{spent} bytes for a difference of {needed}");
}

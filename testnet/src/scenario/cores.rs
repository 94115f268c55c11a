//! A scenario on cores alone: one thread, one queue of events, no runtime, no packets. One seed gives one
//! course, bit for bit.
//!
//! Nodes are linked as the plan says; a link that is cut is noticed after [`SILENCE`] and made again
//! [`REDIAL`] after it can be. Transactions are flooded over the links; relay has simulations of its own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use ghost_node::{
    chain::HeadView,
    cli::{output::Failure, tx::send::Sender},
};
use ghost_proto::{Address, BlockId, Genesis, PeerId, TxId, VerifiedTransaction, record::peer_of};
use rand::{Rng, RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha12Rng;
use std::sync::Arc;

use super::{
    core_node::{CoreNode, Message, Parts},
    file::{Fault, Scenario, What},
    run::{Action, Driven, Reading, Transfers},
};
use crate::{
    genesis::{CHAIN_ID, Purpose, key},
    sim::{
        NetworkPlan, Pace,
        disk::Disk,
        load::PATIENCE,
        network::{GENESIS_AFTER, ORIGIN_UNIX_MS, genesis_of},
    },
};

/// After so long without a sign of life a link is down: the idle timeout of a session.
const SILENCE: Duration = Duration::from_secs(30);

/// A link that can be made is made after so long.
const REDIAL: Duration = Duration::from_secs(1);

/// How often what is overdue is submitted again.
const INSIST_EVERY: Duration = Duration::from_millis(500);

enum Event {
    Message {
        from: u32,
        to: u32,
        life: u32,
        message: Box<Message>,
    },
    Wake(u32),
    /// A link may have come up or gone down.
    Link(u32, u32),
    Transfer,
    Insist,
}

struct Due {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct Place {
    peer_id: PeerId,
    disk: Disk,
    node: Option<CoreNode>,
    /// Counts its lives; a message to an earlier one is lost.
    life: u32,
    skew_ms: i64,
    side: bool,
    cut: bool,
    /// The earliest wake that is in the queue.
    wake: Option<Duration>,
    /// What of its canonical chain was read.
    read: BTreeMap<u64, BlockId>,
}

struct Sent {
    node: u32,
    order: u64,
    at: Duration,
    again_at: Duration,
    tx: VerifiedTransaction,
}

/// A network of cores under a scenario.
pub(super) struct Cores {
    plan: NetworkPlan,
    genesis: Arc<Genesis>,
    base: Instant,
    now: Duration,
    places: Vec<Place>,
    numbers: HashMap<PeerId, u32>,
    /// Pairs, the lower number first: who dials whom, and whether they are connected.
    links: BTreeMap<(u32, u32), bool>,
    delays: BTreeMap<(u32, u32), Duration>,
    queue: BinaryHeap<Reverse<Due>>,
    next_number: u64,
    pace: Option<Pace>,
    wallets: Vec<Sender>,
    made: u64,
    included: u64,
    waiting: BTreeMap<TxId, Sent>,
    latencies: Vec<Duration>,
}

fn pair(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

impl Cores {
    /// Starts the nodes and the traffic.
    pub(super) fn start(scenario: &Scenario, seed: u64) -> Result<Self, Failure> {
        let plan = scenario.plan(seed);
        let genesis = Arc::new(genesis_of(&plan, ORIGIN_UNIX_MS + GENESIS_AFTER.as_millis() as u64)?);
        let mut cores = Self {
            genesis,
            base: Instant::now(),
            now: Duration::ZERO,
            places: Vec::new(),
            numbers: HashMap::new(),
            links: BTreeMap::new(),
            delays: BTreeMap::new(),
            queue: BinaryHeap::new(),
            next_number: 0,
            pace: scenario.pace(),
            wallets: (0..plan.accounts)
                .map(|n| Sender {
                    key: key(seed, Purpose::Account, n),
                    chain_id: CHAIN_ID,
                    gas_price: 1,
                    nonce: 0,
                })
                .collect(),
            made: 0,
            included: 0,
            waiting: BTreeMap::new(),
            latencies: Vec::new(),
            plan,
        };
        for number in 0..cores.plan.nodes {
            let peer_id = peer_of(&key(seed, Purpose::Node, number).public())
                .ok_or_else(|| Failure::new("a derived key is no curve point"))?;
            cores.numbers.insert(peer_id, number);
            cores.places.push(Place {
                peer_id,
                disk: Disk::new(cores.plan.disk)?,
                node: None,
                life: 0,
                skew_ms: cores.plan.skew_ms.get(&number).copied().unwrap_or(0),
                side: false,
                cut: false,
                wake: None,
                read: BTreeMap::new(),
            });
        }
        cores.lay_links(scenario);
        for number in 0..cores.plan.nodes {
            cores.open(number)?;
        }
        cores.schedule(Duration::ZERO, Event::Transfer);
        cores.schedule(INSIST_EVERY, Event::Insist);
        Ok(cores)
    }

    fn rng(&self, purpose: u64, stream: u64) -> ChaCha12Rng {
        let mut rng = ChaCha12Rng::seed_from_u64(self.plan.seed ^ purpose);
        rng.set_stream(stream);
        rng
    }

    /// Each node dials as many others as the plan says, one earlier one among them.
    fn lay_links(&mut self, scenario: &Scenario) {
        let nodes = self.plan.nodes;
        for number in 0..nodes {
            let mut rng = self.rng(0x6c69_6e6b, number.into());
            let mut chosen = BTreeSet::new();
            if number > 0 {
                chosen.insert(rng.random_range(0..number));
            }
            let wanted = (self.plan.outbound as usize).min(nodes as usize - 1);
            for other in index::sample(&mut rng, nodes as usize, nodes as usize) {
                if chosen.len() < wanted && other as u32 != number {
                    chosen.insert(other as u32);
                }
            }
            for other in chosen {
                self.links.insert(pair(number, other), false);
            }
        }
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let mut rng = self.rng(0x6661_7200, u64::from(link.0) << 32 | u64::from(link.1));
            let model = scenario
                .links
                .iter()
                .rev()
                .find(|links| {
                    let of = links.nodes.of(nodes);
                    of.contains(&link.0) || of.contains(&link.1)
                })
                .map_or(&scenario.link, |links| &links.link);
            self.delays.insert(link, model.path().delay.draw(&mut rng));
            self.schedule(Duration::from_millis(10), Event::Link(link.0, link.1));
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push(Reverse(Due { at, number, event }));
    }

    fn unix_ms(&self, number: u32) -> u64 {
        let unix_ms = ORIGIN_UNIX_MS + self.now.as_millis() as u64;
        unix_ms.saturating_add_signed(self.places[number as usize].skew_ms)
    }

    fn open(&mut self, number: u32) -> Result<(), Failure> {
        let authority = number < u32::from(self.plan.authorities);
        let mut seed = [0; 32];
        let life = self.places[number as usize].life + 1;
        self.rng(0x6c69_6665, u64::from(number) << 32 | u64::from(life)).fill_bytes(&mut seed);
        let parts = Parts {
            genesis: self.genesis.clone(),
            store: self.places[number as usize].disk.open()?,
            authority: authority.then(|| key(self.plan.seed, Purpose::Authority, number)),
            seed,
        };
        let node = CoreNode::open(parts, self.base + self.now, self.unix_ms(number))?;
        let place = &mut self.places[number as usize];
        (place.node, place.life, place.wake) = (Some(node), life, None);
        self.schedule(self.now, Event::Wake(number));
        Ok(())
    }

    fn reaches(&self, one: u32, other: u32) -> bool {
        let (one, other) = (&self.places[one as usize], &self.places[other as usize]);
        one.side == other.side && !one.cut && !other.cut
    }

    /// Lets a node do something, and takes what it has to say.
    fn with(
        &mut self,
        number: u32,
        act: impl FnOnce(&mut CoreNode) -> Result<(), ghost_node::store::StoreError>,
    ) -> Result<(), Failure> {
        let (now, unix_ms) = (self.base + self.now, self.unix_ms(number));
        let place = &mut self.places[number as usize];
        let Some(node) = &mut place.node else { return Ok(()) };
        node.set_time(now, unix_ms);
        act(node)?;
        node.on_time()?;
        let messages = node.take_messages();
        let (by_clock, by_time) = node.next_wake();
        let view = node.view();
        // Its clock shows `at` after so long.
        let by_clock = by_clock.map(|at| {
            let origin = ORIGIN_UNIX_MS.saturating_add_signed(place.skew_ms);
            Duration::from_millis(at.saturating_sub(origin)).max(self.now + Duration::from_millis(1))
        });
        let by_time = by_time.map(|at| at.saturating_duration_since(self.base).max(self.now));
        if let Some(wake) = by_clock.into_iter().chain(by_time).min()
            && place.wake.is_none_or(|planned| wake < planned)
        {
            place.wake = Some(wake);
            self.schedule(wake, Event::Wake(number));
        }
        self.take_in(number, &view)?;
        for (peer, message) in messages {
            let Some(to) = self.numbers.get(&peer).copied() else { continue };
            if let Some(delay) = self.delays.get(&pair(number, to)).copied()
                && self.reaches(number, to)
            {
                let life = self.places[to as usize].life;
                self.schedule(
                    self.now + delay,
                    Event::Message { from: number, to, life, message: Box::new(message) },
                );
            }
        }
        Ok(())
    }

    /// Reads the new canonical blocks of a node, for the transfers that it was given.
    fn take_in(&mut self, number: u32, view: &HeadView) -> Result<(), Failure> {
        let read = &mut self.places[number as usize].read;
        let head = view.head();
        read.split_off(&(head.height + 1));
        let mut fresh = Vec::new();
        for height in (1..=head.height).rev() {
            let Some(id) = view.canonical_id(height)? else { break };
            if read.insert(height, id) == Some(id) {
                break;
            }
            fresh.push(id);
        }
        for id in fresh {
            for tx in view.block(&id)?.iter().flat_map(|block| block.transactions()) {
                let is_its = self.waiting.get(&tx.id()).is_some_and(|sent| sent.node == number);
                if is_its && let Some(sent) = self.waiting.remove(&tx.id()) {
                    self.included += 1;
                    self.latencies.push(self.now - sent.at);
                }
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Message { from, to, life, message } => {
                if self.places[to as usize].life != life {
                    return Ok(());
                }
                let peer = self.places[from as usize].peer_id;
                self.with(to, |node| node.message(peer, *message))
            }
            Event::Wake(number) => {
                if self.places[number as usize].wake == Some(self.now) {
                    self.places[number as usize].wake = None;
                }
                self.with(number, |_| Ok(()))
            }
            Event::Link(one, other) => self.link(one, other),
            Event::Transfer => self.transfer(),
            Event::Insist => {
                let now = self.now;
                let mut overdue = Vec::new();
                for sent in self.waiting.values_mut().filter(|sent| sent.again_at <= now) {
                    sent.again_at = now + PATIENCE;
                    overdue.push((sent.order, sent.node, sent.tx.clone()));
                }
                overdue.sort_by_key(|(order, ..)| *order);
                for (_, node, tx) in overdue {
                    self.submit(node, tx)?;
                }
                self.schedule(self.now + INSIST_EVERY, Event::Insist);
                Ok(())
            }
        }
    }

    fn submit(&mut self, number: u32, tx: VerifiedTransaction) -> Result<(), Failure> {
        self.with(number, |node| {
            node.transaction(None, tx);
            Ok(())
        })
    }

    fn transfer(&mut self) -> Result<(), Failure> {
        let Some(pace) = self.pace else { return Ok(()) };
        let (order, accounts) = (self.made, self.wallets.len() as u64);
        self.made += 1;
        let turn = (order % accounts) as usize;
        let node = (turn as u32) % pace.entrances.clamp(1, self.plan.nodes);
        let to: Address = self.wallets[(turn + 1) % self.wallets.len()].key.address();
        let tx = self.wallets[turn].transfer(to, 1, vec![1; pace.payload_bytes].into())?;
        let sent = Sent { node, order, at: self.now, again_at: self.now + PATIENCE, tx: tx.clone() };
        self.waiting.insert(tx.id(), sent);
        self.schedule(Duration::from_secs_f64(self.made as f64 / pace.tps), Event::Transfer);
        self.submit(node, tx)
    }

    /// Brings a link to the state it should be in.
    fn link(&mut self, one: u32, other: u32) -> Result<(), Failure> {
        let lives = |number: u32| self.places[number as usize].node.is_some();
        let should = lives(one) && lives(other) && self.reaches(one, other);
        let Some(is) = self.links.get_mut(&(one, other)) else { return Ok(()) };
        if std::mem::replace(is, should) == should {
            return Ok(());
        }
        let peers = [one, other].map(|number| self.places[number as usize].peer_id);
        if !should {
            self.with(one, |node| node.peer_down(peers[1]))?;
            return self.with(other, |node| node.peer_down(peers[0]));
        }
        let views = [one, other].map(|number| self.places[number as usize].node.as_ref().map(CoreNode::view));
        let [Some(near), Some(far)] = views else { return Ok(()) };
        self.with(one, |node| node.peer_up(peers[1], true, &far))?;
        self.with(other, |node| node.peer_up(peers[0], false, &near))
    }

    /// Looks at the links of some nodes again after a while.
    fn links_change(&mut self, nodes: &[u32], after: Duration) {
        let links: Vec<_> =
            self.links.keys().copied().filter(|(a, b)| nodes.contains(a) || nodes.contains(b)).collect();
        for (one, other) in links {
            self.schedule(self.now + after, Event::Link(one, other));
        }
    }

    fn crash(&mut self, number: u32) -> Result<(), Failure> {
        let mut rng =
            self.rng(0x746f_726e, u64::from(number) << 32 | u64::from(self.places[number as usize].life));
        let place = &mut self.places[number as usize];
        place.node = None;
        place.disk.crash(&mut rng)?;
        Ok(())
    }

    fn restart(&mut self, number: u32) -> Result<(), Failure> {
        if self.places[number as usize].node.is_some() {
            self.crash(number)?;
        }
        // Its peers learn from the first packet of the new life that the old one is over.
        let links: Vec<_> =
            self.links.keys().copied().filter(|(a, b)| *a == number || *b == number).collect();
        for (one, other) in links {
            self.link(one, other)?;
        }
        self.open(number)?;
        self.links_change(&[number], REDIAL);
        Ok(())
    }

    fn fault(&mut self, fault: &Fault) -> Result<(), Failure> {
        let nodes = fault.nodes.as_ref().map(|set| set.of(self.plan.nodes)).unwrap_or_default();
        let all: Vec<u32> = (0..self.plan.nodes).collect();
        match fault.what {
            What::Partition => {
                for number in &all {
                    self.places[*number as usize].side = nodes.contains(number);
                }
                self.links_change(&all, SILENCE);
            }
            What::Heal => {
                self.places.iter_mut().for_each(|place| place.side = false);
                self.links_change(&all, REDIAL);
            }
            What::Down | What::Up => {
                let down = fault.what == What::Down;
                nodes.iter().for_each(|number| self.places[*number as usize].cut = down);
                self.links_change(&nodes, if down { SILENCE } else { REDIAL });
            }
            What::Crash => {
                for number in &nodes {
                    self.crash(*number)?;
                }
                self.links_change(&nodes, SILENCE);
            }
            What::Restart => {
                for number in nodes {
                    self.restart(number)?;
                }
            }
            What::Skew => {
                for number in nodes {
                    self.places[number as usize].skew_ms = fault.by.map_or(0, |by| by.ms);
                    self.restart(number)?;
                }
            }
            What::Rebind | What::Link => {
                return Err(Failure::usage("cores have no packets and no addresses"));
            }
        }
        Ok(())
    }
}

impl Driven for Cores {
    fn elapsed(&self) -> Duration {
        self.now
    }

    async fn run_until(&mut self, at: Duration) -> Result<(), Failure> {
        // What is due at that moment comes after what the scenario does then.
        while let Some(Reverse(due)) = self.queue.peek()
            && due.at < at
        {
            let Some(Reverse(due)) = self.queue.pop() else { break };
            self.now = self.now.max(due.at);
            self.happen(due.event)?;
        }
        self.now = at;
        Ok(())
    }

    async fn act(&mut self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::Fault(fault) => self.fault(fault),
            Action::TrafficEnds => {
                self.pace = None;
                Ok(())
            }
            Action::Adversaries(_) => Err(Failure::usage("adversaries speak to whole nodes")),
        }
    }

    async fn read(&mut self) -> Result<Vec<Reading>, Failure> {
        let alive =
            (0_u32..).zip(&self.places).filter_map(|(number, place)| Some((number, place.node.as_ref()?)));
        Ok(alive
            .map(|(node, core)| {
                let view = core.view();
                let (head, finalized) = (view.head(), view.finalized());
                Reading {
                    node,
                    head: (head.height, head.id),
                    finalized: (finalized.height, finalized.id),
                    included: view.included_total(),
                    pending: core.pending() as u64,
                    peers: core.peers() as u64,
                    bans: None,
                    received_bytes: None,
                }
            })
            .collect())
    }

    async fn canonical(&mut self, node: u32, height: u64) -> Result<Option<BlockId>, Failure> {
        match &self.places[node as usize].node {
            Some(_) if height == 0 => Ok(Some(self.genesis.block_id())),
            Some(node) => Ok(node.view().canonical_id(height)?),
            None => Ok(None),
        }
    }

    fn transfers(&self) -> Transfers {
        let mut latencies = self.latencies.clone();
        latencies.sort();
        let at = |share: f64| {
            let rank = (share * latencies.len() as f64).ceil() as usize;
            latencies.get(rank.saturating_sub(1)).map(|latency| latency.as_secs_f64() * 1e3)
        };
        Transfers { submitted: self.made, included: self.included, p50_ms: at(0.5), p95_ms: at(0.95) }
    }
}

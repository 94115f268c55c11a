//! The network: sockets, packets on their way, and what becomes of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::Duration,
};

use quinn::udp::{EcnCodepoint, Transmit};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tokio::time::Instant;

pub use super::socket::SimSocket;
use super::{
    fault::{Fault, NAT_REMEMBERS, Nat},
    path::{Access, Bottleneck, Path, Spell},
};

/// Bytes that may be on their way to one node; more is dropped. 64 peers, each with a full send
/// window of 2 MiB, cannot fill it half.
pub const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;

/// A place on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// The path lost it.
    Loss,
    /// A bottleneck's queue was full.
    QueueFull,
    /// It is longer than the path carries.
    TooLong,
    /// Sender and receiver are on different sides of a partition.
    Partitioned,
    /// The sender or the receiver is down, or its socket is closed.
    Down,
    /// Nobody has this address.
    NoRoute,
    /// Too much is on its way to this node: [`IN_FLIGHT_BYTES_MAX`].
    Overflow,
    /// The receiver's NAT knows of nothing that it answers.
    Nat,
}

/// Packets, and their bytes without IP and UDP headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// How many.
    pub packets: u64,
    /// How long together.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What a node sent and received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Given to the network, whether or not it arrived.
    pub sent: Count,
    /// Taken from the network.
    pub received: Count,
    /// Of what was sent, what did not arrive.
    pub dropped: BTreeMap<Dropped, Count>,
}

impl Counters {
    /// What was dropped for this reason.
    pub fn dropped_for(&self, reason: Dropped) -> Count {
        self.dropped.get(&reason).copied().unwrap_or_default()
    }
}

pub(super) struct Packet {
    due: Instant,
    /// Distinguishes packets that are due together: first sent, first delivered.
    number: u64,
    from: NodeId,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: Box<[u8]>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// A NAT at work.
struct Gateway {
    kind: Nat,
    /// When the node last sent to an address, and from which it left.
    sent: HashMap<SocketAddr, (SocketAddr, Instant)>,
}

impl Gateway {
    /// The address from which a packet leaves, if another node has not got it.
    fn leaves(&mut self, public: SocketAddr, to: SocketAddr, now: Instant) -> SocketAddr {
        let ports = self.sent.len() as u16;
        let fresh = match self.kind {
            Nat::PortRestricted => public,
            Nat::Symmetric => SocketAddr::new(public.ip(), 20_000 + ports),
        };
        let entry = self.sent.entry(to).or_insert((fresh, now));
        entry.1 = now;
        entry.0
    }

    /// Whether a packet from an address to one of ours gets in.
    fn admits(&self, from: SocketAddr, at: SocketAddr, now: Instant) -> bool {
        self.sent.get(&from).is_some_and(|(left, last)| *left == at && now - *last < NAT_REMEMBERS)
    }
}

struct Node {
    /// What its socket is bound to.
    local: SocketAddr,
    /// What others see; differs from `local` behind a NAT.
    public: SocketAddr,
    /// Which of the sockets opened here is the open one; 0 before the first.
    socket: u64,
    closed: bool,
    down: bool,
    side: usize,
    nat: Option<Gateway>,
    access: Access,
    up: Bottleneck,
    down_link: Bottleneck,
    /// On their way to the node's attachment, by arrival there.
    travelling: BinaryHeap<Reverse<Packet>>,
    /// Past it, or waiting in front of it, in order.
    arriving: VecDeque<Packet>,
    in_flight_bytes: usize,
    /// Who waits for packets, and until when it sleeps.
    waiting: Option<(Waker, Option<Instant>)>,
    counters: Counters,
}

impl Node {
    fn is_deaf(&self) -> bool {
        self.down || self.closed
    }

    fn next_due(&self) -> Option<Instant> {
        let travelling = self.travelling.peek().map(|Reverse(packet)| packet.due);
        let arriving = self.arriving.front().map(|packet| packet.due);
        travelling.into_iter().chain(arriving).min()
    }
}

struct Way {
    rng: ChaCha12Rng,
    model: Path,
    /// The distance, drawn once.
    distance: Duration,
    spell: Spell,
    bottleneck: Bottleneck,
    last_arrival: Instant,
}

pub(super) struct State {
    seed: u64,
    started: Instant,
    nodes: Vec<Node>,
    routes: HashMap<SocketAddr, NodeId>,
    default_path: Path,
    paths: HashMap<(NodeId, NodeId), Path>,
    ways: HashMap<(NodeId, NodeId), Way>,
    next_number: u64,
    fingerprint: DefaultHasher,
}

/// A simulated network. Cloning shares it.
///
/// It keeps the packets that are on their way, one state of about 400 bytes for each direction in
/// which packets have ever gone, and counters for each node.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// A generator of its own for each purpose: what one path draws does not depend on how busy the
/// others are.
fn rng_for(seed: u64, from: u32, to: u32) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(from) << 32 | u64::from(to));
    rng
}

/// The stream from which distances are drawn: no node has this number.
const DISTANCES: u32 = u32::MAX;

impl Wire {
    /// An empty network on which paths without a model of their own are like `default_path`. Must be
    /// called inside a tokio runtime, whose clock it goes by.
    pub fn new(seed: u64, default_path: Path) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            started: Instant::now(),
            nodes: Vec::new(),
            routes: HashMap::new(),
            default_path,
            paths: HashMap::new(),
            ways: HashMap::new(),
            next_number: 0,
            fingerprint: DefaultHasher::new(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds the wire")
    }

    /// Adds a node that has this address. Nodes are numbered as they are added.
    ///
    /// # Panics
    /// If another node has the address.
    pub fn add(&self, address: SocketAddr) -> NodeId {
        let mut state = self.lock();
        let id = NodeId(u32::try_from(state.nodes.len()).expect("fewer than 2^32 nodes"));
        let taken = state.routes.insert(address, id);
        assert!(taken.is_none(), "{address} is taken");
        let now = Instant::now();
        state.nodes.push(Node {
            local: address,
            public: address,
            socket: 0,
            closed: true,
            down: false,
            side: 0,
            nat: None,
            access: Access::default(),
            up: Bottleneck::new(now),
            down_link: Bottleneck::new(now),
            travelling: BinaryHeap::new(),
            arriving: VecDeque::new(),
            in_flight_bytes: 0,
            waiting: None,
            counters: Counters::default(),
        });
        id
    }

    /// Opens the node's socket. One that was open before goes dead, as when its process was killed:
    /// it receives nothing more, and what it sends vanishes.
    pub fn open(&self, node: NodeId) -> Arc<SimSocket> {
        let mut state = self.lock();
        let place = &mut state.nodes[node.index()];
        place.socket += 1;
        place.closed = false;
        place.waiting = None;
        let (local, number) = (place.local, place.socket);
        state.clear(node);
        drop(state);
        Arc::new(SimSocket::new(self.clone(), node, number, local))
    }

    /// Kills the node's socket without opening another.
    pub fn kill(&self, node: NodeId) {
        let mut state = self.lock();
        let place = &mut state.nodes[node.index()];
        place.socket += 1;
        place.closed = true;
        place.waiting = None;
        state.clear(node);
    }

    /// Changes one direction between two nodes.
    pub fn set_path(&self, from: NodeId, to: NodeId, path: Path) {
        self.lock().paths.insert((from, to), path);
    }

    /// Changes both directions between two nodes.
    pub fn set_path_both_ways(&self, one: NodeId, other: NodeId, path: Path) {
        self.set_path(one, other, path);
        self.set_path(other, one, path);
    }

    /// Changes a node's attachment.
    pub fn set_access(&self, node: NodeId, access: Access) {
        self.lock().nodes[node.index()].access = access;
    }

    /// Makes something go wrong, or right again. What is on its way already still arrives, except at
    /// a node that goes down.
    pub fn apply(&self, fault: Fault) {
        let mut state = self.lock();
        match fault {
            Fault::Partition(sides) => {
                for node in &mut state.nodes {
                    node.side = 0;
                }
                for (side, nodes) in sides.iter().enumerate() {
                    for node in nodes {
                        state.nodes[node.index()].side = side + 1;
                    }
                }
            }
            Fault::Heal => {
                for node in &mut state.nodes {
                    node.side = 0;
                }
            }
            Fault::Down(node) => {
                state.nodes[node.index()].down = true;
                state.clear(node);
            }
            Fault::Up(node) => state.nodes[node.index()].down = false,
            Fault::Rebind(node, address) => {
                let old = std::mem::replace(&mut state.nodes[node.index()].public, address);
                state.routes.remove(&old);
                let taken = state.routes.insert(address, node);
                assert!(taken.is_none(), "{address} is taken");
            }
            Fault::Nat(node, kind) => {
                state.nodes[node.index()].nat = Some(Gateway { kind, sent: HashMap::new() });
            }
            Fault::Path { from, to, path } => {
                state.paths.insert((from, to), path);
            }
            Fault::DefaultPath(path) => state.default_path = path,
            Fault::Access(node, access) => state.nodes[node.index()].access = access,
        }
    }

    /// The address others see a node at.
    pub fn address(&self, node: NodeId) -> SocketAddr {
        self.lock().nodes[node.index()].public
    }

    /// What a node sent and received so far.
    pub fn counters(&self, node: NodeId) -> Counters {
        self.lock().nodes[node.index()].counters.clone()
    }

    /// What all nodes sent and received so far.
    pub fn totals(&self) -> Counters {
        let mut totals = Counters::default();
        let add = |to: &mut Count, count: Count| {
            to.packets += count.packets;
            to.bytes += count.bytes;
        };
        for node in &self.lock().nodes {
            add(&mut totals.sent, node.counters.sent);
            add(&mut totals.received, node.counters.received);
            for (reason, count) in &node.counters.dropped {
                add(totals.dropped.entry(*reason).or_default(), *count);
            }
        }
        totals
    }

    /// What is on its way.
    pub fn in_flight(&self) -> Count {
        let state = self.lock();
        let mut count = Count::default();
        for node in &state.nodes {
            count.packets += (node.travelling.len() + node.arriving.len()) as u64;
            count.bytes += node.in_flight_bytes as u64;
        }
        count
    }

    /// A hash of every packet so far: when it was sent, from where, to where, how long it is and what
    /// became of it. Equal for two runs that were the same.
    pub fn fingerprint(&self) -> u64 {
        self.lock().fingerprint.finish()
    }
}

impl State {
    /// What was on its way to a node vanishes.
    fn clear(&mut self, node: NodeId) {
        let place = &mut self.nodes[node.index()];
        let lost: Vec<_> =
            place.travelling.drain().map(|Reverse(packet)| packet).chain(place.arriving.drain(..)).collect();
        place.in_flight_bytes = 0;
        for packet in lost {
            self.drop_packet(packet.from, packet.bytes.len(), Dropped::Down);
        }
    }

    /// Whether a socket is the one that is open at its node.
    pub(super) fn is_open(&self, node: NodeId, socket: u64) -> bool {
        let node = &self.nodes[node.index()];
        node.socket == socket && !node.closed
    }

    pub(super) fn close(&mut self, node: NodeId, socket: u64) {
        if self.is_open(node, socket) {
            self.nodes[node.index()].closed = true;
            self.clear(node);
        }
    }

    /// When the next packet is due at a node. The waker is called if one gets due before that.
    pub(super) fn wait(&mut self, node: NodeId, waker: &Waker) -> Option<Instant> {
        let node = &mut self.nodes[node.index()];
        let due = node.next_due();
        node.waiting = Some((waker.clone(), due));
        due
    }

    fn drop_packet(&mut self, from: NodeId, len: usize, reason: Dropped) {
        self.nodes[from.index()].counters.dropped.entry(reason).or_default().add(len);
    }

    pub(super) fn send(&mut self, from: NodeId, transmit: &Transmit<'_>, bytes: &[u8]) {
        let now = Instant::now();
        let source = self.leaves(from, transmit.destination, now);
        self.nodes[from.index()].counters.sent.add(bytes.len());
        let outcome = self.route(from, source, transmit.destination, bytes.len(), now);
        let seen = match outcome {
            Ok((_, due)) => Ok(due - self.started),
            Err(reason) => Err(reason),
        };
        (now - self.started, source, transmit.destination, bytes.len(), seen).hash(&mut self.fingerprint);
        match outcome {
            Ok((to, due)) => {
                let number = self.next_number;
                self.next_number += 1;
                let node = &mut self.nodes[to.index()];
                node.in_flight_bytes += bytes.len();
                node.travelling.push(Reverse(Packet {
                    due,
                    number,
                    from,
                    source,
                    destination: transmit.destination,
                    ecn: transmit.ecn,
                    bytes: bytes.into(),
                }));
                let too_late =
                    |(_, until): &mut (Waker, Option<Instant>)| until.is_none_or(|until| due < until);
                if let Some((waker, _)) = node.waiting.take_if(too_late) {
                    waker.wake();
                }
            }
            Err(reason) => self.drop_packet(from, bytes.len(), reason),
        }
    }

    /// The address at which others see what a node sends to one of them.
    fn leaves(&mut self, from: NodeId, to: SocketAddr, now: Instant) -> SocketAddr {
        let node = &mut self.nodes[from.index()];
        let public = node.public;
        let Some(nat) = &mut node.nat else { return public };
        let source = nat.leaves(public, to, now);
        self.routes.insert(source, from);
        source
    }

    /// To whom, and when it gets to that node's attachment.
    fn route(
        &mut self,
        from: NodeId,
        source: SocketAddr,
        destination: SocketAddr,
        len: usize,
        now: Instant,
    ) -> Result<(NodeId, Instant), Dropped> {
        let sender = &mut self.nodes[from.index()];
        if sender.is_deaf() {
            return Err(Dropped::Down);
        }
        let side = sender.side;
        let left = sender.up.pass(sender.access.up, len, now).ok_or(Dropped::QueueFull)?;
        let to = *self.routes.get(&destination).ok_or(Dropped::NoRoute)?;
        let receiver = &self.nodes[to.index()];
        if receiver.is_deaf() {
            return Err(Dropped::Down);
        }
        if receiver.nat.as_ref().is_some_and(|nat| !nat.admits(source, destination, now)) {
            return Err(Dropped::Nat);
        }
        if receiver.side != side {
            return Err(Dropped::Partitioned);
        }
        if receiver.in_flight_bytes + len > IN_FLIGHT_BYTES_MAX {
            return Err(Dropped::Overflow);
        }
        let model = *self.paths.get(&(from, to)).unwrap_or(&self.default_path);
        let way = self.way(from, to, model, now);
        if len > model.mtu {
            return Err(Dropped::TooLong);
        }
        if way.spell.loses(&model.loss, &mut way.rng) {
            return Err(Dropped::Loss);
        }
        let through = way.bottleneck.pass(model.rate, len, left).ok_or(Dropped::QueueFull)?;
        let arrival = through + way.distance + model.jitter.draw(&mut way.rng);
        // No draw where there is nothing to draw, so that a perfect path needs no generator.
        if model.reordered > 0.0 && rand::RngExt::random_bool(&mut way.rng, model.reordered) {
            return Ok((to, arrival + model.reordered_by.draw(&mut way.rng)));
        }
        way.last_arrival = way.last_arrival.max(arrival);
        Ok((to, way.last_arrival))
    }

    fn way(&mut self, from: NodeId, to: NodeId, model: Path, now: Instant) -> &mut Way {
        let seed = self.seed;
        let distance = || {
            let (near, far) = (from.min(to), from.max(to));
            let mut rng = rng_for(seed ^ u64::from(far.0).rotate_left(32), DISTANCES, near.0);
            model.delay.draw(&mut rng)
        };
        let way = self.ways.entry((from, to)).or_insert_with(|| Way {
            rng: rng_for(seed, from.0, to.0),
            model,
            distance: distance(),
            spell: Spell::default(),
            bottleneck: Bottleneck::new(now),
            last_arrival: now,
        });
        if way.model != model {
            (way.model, way.distance) = (model, distance());
        }
        way
    }

    /// Moves what has reached the node's attachment past it, or drops it there.
    fn admit(&mut self, id: NodeId, now: Instant) {
        loop {
            let node = &mut self.nodes[id.index()];
            let Some(Reverse(packet)) = node.travelling.peek() else { return };
            if packet.due > now {
                return;
            }
            let Some(Reverse(mut packet)) = node.travelling.pop() else { return };
            match node.down_link.pass(node.access.down, packet.bytes.len(), packet.due) {
                Some(due) => {
                    packet.due = due;
                    node.arriving.push_back(packet);
                }
                None => {
                    node.in_flight_bytes -= packet.bytes.len();
                    self.drop_packet(packet.from, packet.bytes.len(), Dropped::QueueFull);
                }
            }
        }
    }

    pub(super) fn take_due(&mut self, id: NodeId, now: Instant) -> Option<Packet> {
        self.admit(id, now);
        let node = &mut self.nodes[id.index()];
        let packet = node.arriving.pop_front_if(|packet| packet.due <= now)?;
        node.in_flight_bytes -= packet.bytes.len();
        node.counters.received.add(packet.bytes.len());
        Some(packet)
    }
}

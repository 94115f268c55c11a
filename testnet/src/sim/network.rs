//! Whole nodes on a wire: the daemon of `ghost_node::run::start_parts`, with a simulated socket, clock
//! and disk, and everything else as it is on a real machine.
//!
//! # What a node is spared
//! No operator, no metrics exporter, no peer store (its book begins empty in each life), no mempool
//! file. Its chain is on a [`Disk`].
//!
//! # What repeats
//! Keys, addresses, distances, losses and everything that nodes draw follow from the seed. The order
//! in which a task looks at several full channels does not (tokio decides it), so two runs of whole
//! nodes agree on outcomes and differ in packets. Overlays without nodes repeat packet for packet.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use ghost_node::{
    clock::Clock,
    config::Config,
    run::{NodeParts, RunningNode, StartError, start_parts},
    store::StoreError,
};
use ghost_proto::{AuthoritySet, BlockId, Genesis, Multiaddr, PeerId, genesis::GenesisError};
use ghost_protocol::{
    Identity,
    address::{of_socket, with_peer},
};
use rand::{RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha12Rng;
use tokio::time::{Instant, sleep};

use super::{
    disk::{Disk, DiskKind},
    fault::{Fault, Nat},
    path::Path,
    wire::{Counters, NodeId, Wire},
    world::{Seat, World},
};
use crate::adversary::{Adversary, Arena, Role};
use crate::genesis::{BALANCE, BLOCK_BYTES_MAX, BLOCK_GAS_MAX, CHAIN_ID, Purpose, key};

/// The time of day when every world begins: 2026-01-01 00:00 UTC.
pub const ORIGIN_UNIX_MS: u64 = 1_767_225_600_000;

/// The chain begins so long after the world, so that nodes can connect before the first slot.
pub const GENESIS_AFTER: Duration = Duration::from_secs(1);

/// What a simulated network is made of.
#[derive(Debug, Clone)]
pub struct NetworkPlan {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u32,
    /// The first so many propose and vote.
    pub authorities: u16,
    /// Accounts with money.
    pub accounts: u32,
    /// Slot length in milliseconds.
    pub slot_ms: u64,
    /// Links that each node dials by itself.
    pub outbound: u32,
    /// Other nodes that each node is told of when it starts, drawn from the seed. The first few of
    /// them are told of each other, so that the network hangs together.
    pub told: usize,
    /// Whom some nodes are told of, instead of what is drawn.
    pub told_of: BTreeMap<u32, Vec<u32>>,
    /// How every path is that no fault changes.
    pub path: Path,
    /// What chains are kept on.
    pub disk: DiskKind,
    /// Clocks that are wrong: how far ahead of the world's, in milliseconds.
    pub skew_ms: BTreeMap<u32, i64>,
    /// Publishers of prices; the last of them is nobody's, for an adversary to be.
    pub publishers: u16,
    /// Nodes behind NATs.
    pub nats: BTreeMap<u32, Nat>,
    /// Pairs for which each node passes packets on.
    pub circuits_max: u32,
}

impl Default for NetworkPlan {
    /// Four nodes, all of them authorities, 25 ms apart, with a slot of a second.
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 4,
            authorities: 4,
            accounts: 64,
            slot_ms: 1_000,
            outbound: 8,
            told: 3,
            told_of: BTreeMap::new(),
            path: Path::ms(25),
            disk: DiskKind::Memory,
            skew_ms: BTreeMap::new(),
            publishers: 0,
            nats: BTreeMap::new(),
            circuits_max: 8,
        }
    }
}

/// Why a node of the world does not start.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The node itself.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its disk.
    #[error("the simulated disk: {0}")]
    Disk(#[from] std::io::Error),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node of the network: its life, and what outlives it.
#[derive(Debug)]
pub struct Place {
    /// Who it is.
    pub peer_id: PeerId,
    disk: Disk,
    crashes: u64,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReading {
    /// Which one.
    pub node: NodeId,
    /// Its canonical tip.
    pub head: (u64, BlockId),
    /// Its highest final block.
    pub finalized: (u64, BlockId),
    /// Transactions in its canonical blocks.
    pub included: u64,
    /// Transactions in its mempool.
    pub pending: usize,
    /// Node peers it is connected to.
    pub peers: usize,
    /// Peers it bans, and why.
    pub bans: Vec<(PeerId, String)>,
    /// What it sent and received.
    pub traffic: Counters,
}

/// The nodes that are alive, for tasks that must keep none of them alive.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Mutex<BTreeMap<NodeId, Weak<RunningNode>>>>);

impl Directory {
    fn insert(&self, id: NodeId, node: &Arc<RunningNode>) {
        let mut nodes = self.0.lock().expect("no code panics while it holds the directory");
        nodes.insert(id, Arc::downgrade(node));
    }

    fn remove(&self, id: NodeId) {
        self.0.lock().expect("no code panics while it holds the directory").remove(&id);
    }

    /// A node, if it is alive. Keep it only for one call.
    pub fn get(&self, id: NodeId) -> Option<Arc<RunningNode>> {
        self.0.lock().expect("no code panics while it holds the directory").get(&id)?.upgrade()
    }
}

/// A network of whole nodes.
#[derive(Debug)]
pub struct SimNetwork {
    world: World<Arc<RunningNode>>,
    plan: NetworkPlan,
    genesis: Arc<Genesis>,
    origin: Instant,
    places: BTreeMap<NodeId, Place>,
    directory: Directory,
    equivocators: u32,
}

/// The genesis of a plan.
///
/// # Errors
/// If there are no authorities, or more than a chain may have.
pub fn genesis_of(plan: &NetworkPlan, time_unix_ms: u64) -> Result<Genesis, GenesisError> {
    let keys = (0..u32::from(plan.authorities)).map(|n| key(plan.seed, Purpose::Authority, n).public());
    Ok(Genesis {
        name: format!("sim-{}", plan.seed),
        chain_id: CHAIN_ID,
        time_unix_ms,
        slot_ms: plan.slot_ms,
        gas_price_min: 1,
        block_gas_max: BLOCK_GAS_MAX,
        block_bytes_max: BLOCK_BYTES_MAX,
        authorities: AuthoritySet::new(keys.collect())?,
        markets: Default::default(),
        allocation: (0..plan.accounts)
            .map(|n| (key(plan.seed, Purpose::Account, n).address(), BALANCE))
            .collect(),
        feeds: crate::prices::feeds(plan.seed, plan.publishers),
    })
}

impl SimNetwork {
    /// Starts all nodes at once. Must be called inside a current-thread runtime with paused time.
    pub async fn start(plan: NetworkPlan) -> Result<Self, SimError> {
        let time = ORIGIN_UNIX_MS + GENESIS_AFTER.as_millis() as u64;
        let genesis =
            genesis_of(&plan, time).expect("the plan names as many authorities as a chain may have");
        let mut network = Self {
            world: World::new(plan.seed, plan.path),
            genesis: Arc::new(genesis),
            origin: Instant::now(),
            places: BTreeMap::new(),
            directory: Directory::default(),
            equivocators: 0,
            plan,
        };
        let seats: Vec<Seat> = (0..network.plan.nodes).map(|_| network.world.seat()).collect();
        for seat in &seats {
            let peer_id = network.identity(seat.id).peer_id();
            let disk = Disk::new(network.plan.disk)?;
            network.places.insert(seat.id, Place { peer_id, disk, crashes: 0 });
            if let Some(nat) = network.plan.nats.get(&seat.id.0) {
                network.wire().apply(Fault::Nat(seat.id, *nat));
            }
        }
        for seat in seats {
            let id = seat.id;
            let node = start_parts(network.parts(&seat)?).await?;
            network.put(id, node);
        }
        Ok(network)
    }

    /// Node keys are those of `testnet up` with the same seed.
    fn identity(&self, id: NodeId) -> Identity {
        Identity::from_seed(&key(self.plan.seed, Purpose::Node, id.0).seed())
    }

    /// Where a node is reached, with its PeerId.
    pub fn multiaddr(&self, id: NodeId) -> Multiaddr {
        with_peer(of_socket(self.world.wire().address(id)), self.places[&id].peer_id)
    }

    /// Who a node is told of: drawn once, the same in each of its lives.
    fn told(&self, id: NodeId) -> Vec<NodeId> {
        if let Some(told) = self.plan.told_of.get(&id.0) {
            return told.iter().copied().map(NodeId).collect();
        }
        let (nodes, told) = (self.plan.nodes as usize, self.plan.told);
        let mut rng = ChaCha12Rng::seed_from_u64(self.plan.seed ^ 0x7465_6c6c);
        rng.set_stream(id.0.into());
        // One earlier node for each but the first makes the graph connected.
        let mut chosen: Vec<u32> = Vec::new();
        if id.0 > 0 && told > 0 {
            chosen.push(rng.random_range(0..id.0));
        }
        for other in index::sample(&mut rng, nodes, nodes.min(told + 2)) {
            let other = other as u32;
            if other != id.0 && !chosen.contains(&other) && chosen.len() < told {
                chosen.push(other);
            }
        }
        chosen.into_iter().map(NodeId).collect()
    }

    fn parts(&self, seat: &Seat) -> Result<NodeParts, SimError> {
        let authority = seat.id.0 < u32::from(self.plan.authorities);
        let mut config = Config::default();
        config.network.listen = vec![of_socket(seat.address)];
        config.network.outbound_max = self.plan.outbound;
        config.network.circuits_max = self.plan.circuits_max;
        config.network.peers = self.told(seat.id).into_iter().map(|other| self.multiaddr(other)).collect();
        Ok(NodeParts {
            tor: None,
            control: None,
            config,
            genesis: self.genesis.clone(),
            identity: self.identity(seat.id),
            authority: authority.then(|| key(self.plan.seed, Purpose::Authority, seat.id.0)),
            operators: Vec::new(),
            store: self.places[&seat.id].disk.open()?,
            peer_store: None,
            mempool_file: None,
            sockets: vec![seat.socket()],
            clock: Clock::Virtual {
                origin_unix_ms: ORIGIN_UNIX_MS,
                origin: self.origin,
                skew_ms: self.plan.skew_ms.get(&seat.id.0).copied().unwrap_or(0),
            },
            seed: Some(seat.seed),
        })
    }

    /// What it was made from.
    pub fn plan(&self) -> &NetworkPlan {
        &self.plan
    }

    /// The chain.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    /// The network below.
    pub fn wire(&self) -> &Wire {
        self.world.wire()
    }

    /// When the world began, on tokio's clock.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// All nodes, alive or not.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.plan.nodes).map(NodeId)
    }

    /// A node that is alive.
    pub fn node(&self, id: NodeId) -> Option<&RunningNode> {
        self.world.get(id).map(|node| &**node)
    }

    /// Who a node is.
    pub fn peer_id(&self, id: NodeId) -> PeerId {
        self.places[&id].peer_id
    }

    /// Takes a free place on the wire for somebody who is no node of ours.
    pub fn seat(&mut self) -> Seat {
        self.world.seat()
    }

    /// Seats an adversary that knows every node. One that is an authority takes the first key that no
    /// node has: plan for more authorities than nodes.
    ///
    /// # Errors
    /// If there is no key left for it.
    pub fn add_adversary(&mut self, role: Role) -> std::io::Result<Adversary> {
        let seat = self.world.seat();
        let taken = u32::from(self.plan.authorities).min(self.plan.nodes) + self.equivocators;
        let authority = if role.is_authority() {
            let index = u16::try_from(taken).ok().filter(|index| *index < self.plan.authorities);
            let index = index.ok_or_else(|| std::io::Error::other("every authority is a node"))?;
            self.equivocators += 1;
            Some((index, key(self.plan.seed, Purpose::Authority, taken)))
        } else {
            None
        };
        let arena = Arena {
            genesis: self.genesis.clone(),
            targets: self.ids().map(|id| (self.peer_id(id), self.wire().address(id))).collect(),
            authority,
            publisher: role.is_publisher().then(|| {
                let last = self.plan.publishers.saturating_sub(1);
                (last, crate::prices::publisher_key(self.plan.seed, last))
            }),
            clock: Clock::Virtual { origin_unix_ms: ORIGIN_UNIX_MS, origin: self.origin, skew_ms: 0 },
        };
        Adversary::start(role, seat.identity.clone(), seat.socket(), seat.seed_for(2), arena)
    }

    /// Ends a node as a power cut does: see [`Disk::crash`].
    pub fn crash(&mut self, id: NodeId) -> Result<(), SimError> {
        self.directory.remove(id);
        drop(self.world.kill(id));
        let place = self.places.get_mut(&id).expect("the network has this node");
        place.crashes += 1;
        let mut rng = ChaCha12Rng::seed_from_u64(self.plan.seed ^ 0x746f_726e);
        rng.set_stream(u64::from(id.0) << 32 | place.crashes);
        Ok(place.disk.crash(&mut rng)?)
    }

    /// Starts a node that crashed, or crashes it and starts it: same key, same address, what its disk
    /// kept.
    pub async fn restart(&mut self, id: NodeId) -> Result<(), SimError> {
        if self.world.get(id).is_some() {
            self.crash(id)?;
        }
        let seat = self.world.next_life(id);
        let node = start_parts(self.parts(&seat)?).await?;
        self.put(id, node);
        Ok(())
    }

    fn put(&mut self, id: NodeId, node: RunningNode) {
        let node = Arc::new(node);
        self.directory.insert(id, &node);
        self.world.put(id, node);
    }

    /// Where tasks find the nodes that are alive.
    pub fn directory(&self) -> Directory {
        self.directory.clone()
    }

    /// Sets a node's clock. It takes effect at its next start.
    pub fn set_skew(&mut self, id: NodeId, skew_ms: i64) {
        self.plan.skew_ms.insert(id.0, skew_ms);
    }

    /// What a node says of itself; `None` while it is dead.
    pub fn read(&self, id: NodeId) -> Option<NodeReading> {
        let node = self.world.get(id)?;
        let view = node.view();
        let (head, finalized) = (view.head(), view.finalized());
        Some(NodeReading {
            node: id,
            head: (head.height, head.id),
            finalized: (finalized.height, finalized.id),
            included: view.included_total(),
            pending: node.pending(),
            peers: node.overlay().sessions().len(),
            bans: node.bans(),
            traffic: self.wire().counters(id),
        })
    }

    /// What all living nodes say.
    pub fn read_all(&self) -> Vec<NodeReading> {
        self.ids().filter_map(|id| self.read(id)).collect()
    }

    /// Waits in steps of 10 ms until the readings are as wanted; how long that took, or `None`.
    pub async fn wait_until(
        &self,
        patience: Duration,
        mut fits: impl FnMut(&[NodeReading]) -> bool,
    ) -> Option<Duration> {
        let begun = Instant::now();
        loop {
            if fits(&self.read_all()) {
                return Some(begun.elapsed());
            }
            if begun.elapsed() >= patience {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// True if nobody has a block that contradicts what another holds final, and all are within so many
/// blocks of the highest.
pub fn heads_agree(network: &SimNetwork, readings: &[NodeReading], within: u64) -> bool {
    let Some(highest) = readings.iter().map(|reading| reading.head.0).max() else { return true };
    let lowest = readings.iter().map(|reading| reading.head.0).min().unwrap_or(highest);
    if highest - lowest > within {
        return false;
    }
    // All have the lowest head's height: they must have the same block there, unless it is the tip
    // that is being decided right now.
    let depth = lowest.saturating_sub(within);
    let mut ids = readings
        .iter()
        .filter_map(|reading| network.node(reading.node)?.view().canonical_id(depth).ok().flatten());
    let first = ids.next();
    ids.all(|id| Some(id) == first)
}

//! Nodes on a wire: where each sits, who it is, what it draws its randomness from; and the overlay
//! alone as the simplest thing that can sit there.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use ghost_frames::{Code, StreamType, stream};
use ghost_proto::{BlockId, GenesisId, Multiaddr, PeerId};
use ghost_protocol::{
    Identity, Overlay, Session,
    address::{of_socket, with_peer},
    class::ClassTable,
    handshake::{LocalHello, Role},
    inbox::{Asked, InboxBuilder, Pushed},
    overlay::{ConnectError, Gate, OverlayConfig, OverlayEvent},
    session::{Direction, SessionContext, SessionId},
    tally::Tally,
    transport::{Closed, quic::Socket},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};

use super::{
    path::Path,
    wire::{NodeId, SimSocket, Wire},
};

/// The port every node listens on.
pub const PORT: u16 = 4001;

/// Where nodes are: how many share a netgroup (an IPv4 /16). Node *k* sits in group *k* / this many,
/// which is 10.0/16 for group 0, 10.1/16 for group 1, … 11.0/16 for group 256, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Nodes in a netgroup, at most 65,534.
    pub nodes_per_group: u32,
}

impl Default for Plan {
    /// Each node in a group of its own.
    fn default() -> Self {
        Self { nodes_per_group: 1 }
    }
}

impl Plan {
    /// The address of the node with this number.
    pub fn address(&self, number: u32) -> SocketAddr {
        let (group, host) = (number / self.nodes_per_group, number % self.nodes_per_group + 1);
        (Ipv4Addr::from_bits((10 << 24) + (group << 16) + host), PORT).into()
    }
}

/// A seat at the wire, for one life of one node.
#[derive(Debug)]
pub struct Seat {
    /// Which node.
    pub id: NodeId,
    /// Its key: the same in every life.
    pub identity: Identity,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its end of the wire.
    pub socket: Arc<SimSocket>,
    /// What to draw all randomness from: another in each life.
    pub seed: [u8; 32],
}

impl Seat {
    /// The socket as the transport takes it.
    pub fn socket(&self) -> Socket {
        Socket::Custom(self.socket.clone())
    }

    /// A generator for a purpose.
    pub fn rng(&self, purpose: u64) -> ChaCha12Rng {
        let mut rng = ChaCha12Rng::from_seed(self.seed);
        rng.set_stream(purpose);
        rng
    }

    /// 32 bytes for a purpose.
    pub fn seed_for(&self, purpose: u64) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng(purpose).fill_bytes(&mut seed);
        seed
    }
}

/// Nodes of type `N` on one wire. What a node is made of is up to whoever adds it.
#[derive(Debug)]
pub struct World<N> {
    wire: Wire,
    seed: u64,
    plan: Plan,
    nodes: BTreeMap<NodeId, N>,
    lives: BTreeMap<NodeId, u32>,
}

impl<N> World<N> {
    /// An empty world. Must be made inside a tokio runtime.
    pub fn new(seed: u64, default_path: Path) -> Self {
        Self {
            wire: Wire::new(seed, default_path),
            seed,
            plan: Plan::default(),
            nodes: BTreeMap::new(),
            lives: BTreeMap::new(),
        }
    }

    /// With this address plan for the nodes to come.
    pub fn with_plan(mut self, plan: Plan) -> Self {
        self.plan = plan;
        self
    }

    /// The network.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// A new place, with a socket open. [`Self::put`] says what sits there.
    pub fn seat(&mut self) -> Seat {
        let number = self.lives.len() as u32;
        let id = self.wire.add(self.plan.address(number));
        self.lives.insert(id, 0);
        self.seat_at(id)
    }

    /// The seat of a dead node's next life. [`Self::put`] says what sits there.
    ///
    /// # Panics
    /// If no seat was ever given under this id.
    pub fn next_life(&mut self, id: NodeId) -> Seat {
        self.seat_at(id)
    }

    fn seat_at(&mut self, id: NodeId) -> Seat {
        let life = self.lives.get_mut(&id).expect("the node was given a seat before");
        *life += 1;
        let draw = |life: u32| {
            let mut rng = ChaCha12Rng::seed_from_u64(self.seed);
            // The wire draws from streams of the same seed whose upper half is a sender or MAX.
            rng.set_stream(u64::from(u32::MAX - 1) << 32 | u64::from(id.0));
            rng.set_word_pos(u128::from(life) * 16);
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            seed
        };
        Seat {
            id,
            identity: Identity::from_seed(&draw(0)),
            address: self.wire.address(id),
            socket: self.wire.open(id),
            seed: draw(*life),
        }
    }

    /// Seats a node.
    pub fn put(&mut self, id: NodeId, node: N) {
        self.nodes.insert(id, node);
    }

    /// Adds a node.
    pub async fn add<E>(&mut self, start: impl AsyncFnOnce(Seat) -> Result<N, E>) -> Result<NodeId, E> {
        let seat = self.seat();
        let id = seat.id;
        let node = start(seat).await?;
        self.put(id, node);
        Ok(id)
    }

    /// Kills a node, as `kill -9` does: nothing it had under way reaches the wire any more.
    pub fn kill(&mut self, id: NodeId) -> Option<N> {
        self.wire.kill(id);
        self.nodes.remove(&id)
    }

    /// Kills a node if it lives, and starts its next life: same key, same address, another seed.
    pub async fn restart<E>(
        &mut self,
        id: NodeId,
        start: impl AsyncFnOnce(Seat) -> Result<N, E>,
    ) -> Result<(), E> {
        drop(self.kill(id));
        let seat = self.next_life(id);
        let node = start(seat).await?;
        self.put(id, node);
        Ok(())
    }

    /// A node, if it is alive.
    pub fn get(&self, id: NodeId) -> Option<&N> {
        self.nodes.get(&id)
    }

    /// A node.
    ///
    /// # Panics
    /// If it is dead.
    pub fn node(&self, id: NodeId) -> &N {
        self.nodes.get(&id).expect("the node is alive")
    }

    /// A node.
    ///
    /// # Panics
    /// If it is dead.
    pub fn node_mut(&mut self, id: NodeId) -> &mut N {
        self.nodes.get_mut(&id).expect("the node is alive")
    }

    /// The nodes that are alive, in the order they were added.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &N)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }
}

/// How an overlay is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its chain.
    pub genesis: GenesisId,
    /// Quotas and bounds.
    pub table: ClassTable,
    /// Who gets in.
    pub gate: Gate,
    /// What it serves besides control. What arrives waits in [`Peer::pushes`] and [`Peer::requests`].
    pub serves: Vec<StreamType>,
    /// How many batches or requests of each type may wait there.
    pub capacity: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            genesis: GenesisId([1; 32]),
            table: ClassTable::default(),
            gate: Gate::default(),
            serves: StreamType::ALL.iter().copied().filter(|stream| *stream != StreamType::Control).collect(),
            capacity: 1024,
        }
    }
}

/// What an overlay reported, without the sessions, so that a log keeps none alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// A session is ready.
    Up(PeerId, Direction, SessionId),
    /// A session is over.
    Down(PeerId, SessionId, Closed),
    /// A connection made no session.
    Failed(PeerId, Direction, Code),
}

#[derive(Debug, Default)]
struct Log {
    entries: Mutex<Vec<(Instant, Happened)>>,
    grown: Notify,
}

/// An overlay on the wire, with nothing above it.
#[derive(Debug)]
pub struct Peer {
    /// The overlay.
    pub overlay: Overlay,
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Log>,
    pushes: BTreeMap<StreamType, mpsc::Receiver<Pushed>>,
    requests: BTreeMap<StreamType, mpsc::Receiver<Asked>>,
}

impl Peer {
    /// Starts an overlay.
    pub async fn start(seat: Seat, setup: Setup) -> io::Result<Self> {
        let mut inbox = InboxBuilder::new();
        let (mut pushes, mut requests) = (BTreeMap::new(), BTreeMap::new());
        for stream in setup.serves {
            match stream.direction() {
                stream::Direction::Push => {
                    pushes.insert(stream, inbox.pushes(stream, setup.capacity));
                }
                stream::Direction::Request => {
                    requests.insert(stream, inbox.requests(stream, setup.capacity));
                }
            }
        }
        let inbox = inbox.build();
        let mut rng = seat.rng(0);
        let mut tx_salt = [0; 16];
        rng.fill_bytes(&mut tx_salt);
        let hello = LocalHello {
            genesis: Some(setup.genesis),
            serves: inbox.serves(),
            user_agent: "ghostd/sim".into(),
            record: None,
            best: (0, BlockId::ZERO),
            finalized_height: 0,
            nonce: rng.next_u64(),
            role: Role::Node,
            tx_salt: Some(tx_salt),
        };
        let config = OverlayConfig {
            onion: None,
            dials_ip: true,
            identity: seat.identity.clone(),
            hello,
            context: SessionContext { table: Arc::new(setup.table), inbox, ..SessionContext::default() },
            gate: setup.gate,
            rng_seed: Some(seat.seed_for(1)),
        };
        let (overlay, mut events) = Overlay::start(config, vec![seat.socket()])?;
        let log = Arc::new(Log::default());
        let keeper = log.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let entry = match event {
                    OverlayEvent::Up(session) => {
                        Happened::Up(session.peer(), session.direction(), session.id())
                    }
                    OverlayEvent::Down { session, closed } => {
                        Happened::Down(session.peer(), session.id(), closed)
                    }
                    OverlayEvent::Failed { peer, direction, code, .. } => {
                        Happened::Failed(peer, direction, code)
                    }
                };
                keeper.entries.lock().expect("no code panics while it logs").push((Instant::now(), entry));
                keeper.grown.notify_waiters();
            }
        });
        Ok(Self { overlay, address: seat.address, log, pushes, requests })
    }

    /// Who it is.
    pub fn peer_id(&self) -> PeerId {
        self.overlay.peer_id()
    }

    /// Where it is reached, with its PeerId.
    pub fn multiaddr(&self) -> Multiaddr {
        with_peer(of_socket(self.address), self.peer_id())
    }

    /// Everything that happened, and when.
    pub fn log(&self) -> Vec<(Instant, Happened)> {
        self.log.entries.lock().expect("no code panics while it logs").clone()
    }

    /// The first entry of the log that fits; waits for it up to `patience`.
    pub async fn wait_for(
        &self,
        patience: Duration,
        fits: impl Fn(&Happened) -> bool,
    ) -> Option<(Instant, Happened)> {
        let found = async {
            loop {
                let grown = self.log.grown.notified();
                if let Some(entry) = self.log().into_iter().find(|(_, entry)| fits(entry)) {
                    return entry;
                }
                grown.await;
            }
        };
        timeout(patience, found).await.ok()
    }

    /// Takes the receiving end of a push stream type.
    ///
    /// # Panics
    /// If it is not served, or was taken already.
    pub fn pushes(&mut self, stream: StreamType) -> mpsc::Receiver<Pushed> {
        self.pushes.remove(&stream).expect("the type is served and was not taken")
    }

    /// Takes the receiving end of a request stream type.
    ///
    /// # Panics
    /// If it is not served, or was taken already.
    pub fn requests(&mut self, stream: StreamType) -> mpsc::Receiver<Asked> {
        self.requests.remove(&stream).expect("the type is served and was not taken")
    }
}

impl World<Peer> {
    /// A world of this many overlays, all set up alike.
    pub async fn of_peers(seed: u64, default_path: Path, count: usize, setup: &Setup) -> io::Result<Self> {
        let mut world = Self::new(seed, default_path);
        for _ in 0..count {
            world.add_peer(setup).await?;
        }
        Ok(world)
    }

    /// Adds an overlay.
    pub async fn add_peer(&mut self, setup: &Setup) -> io::Result<NodeId> {
        self.add(async |seat| Peer::start(seat, setup.clone()).await).await
    }

    /// One overlay dials another.
    pub async fn dial(&self, from: NodeId, to: NodeId) -> Result<Session, ConnectError> {
        let target = self.node(to);
        self.node(from).overlay.dial(target.peer_id(), self.wire().address(to)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_fills_one_netgroup_after_the_other() {
        let each = Plan::default();
        assert_eq!(each.address(0), "10.0.0.1:4001".parse().unwrap());
        assert_eq!(each.address(257), "11.1.0.1:4001".parse().unwrap());
        let crowded = Plan { nodes_per_group: 300 };
        assert_eq!(crowded.address(299), "10.0.1.44:4001".parse().unwrap());
        assert_eq!(crowded.address(300), "10.1.0.1:4001".parse().unwrap());
    }
}

//! Peers that speak the real protocol and mean harm.
//!
//! An adversary is an overlay of its own, with an honest handshake and honest sessions, and a [`Role`]
//! that decides what it does with them. It dials everybody it is told of, and dials again whenever it is
//! thrown out, unless it is banned. The same code runs on a simulated network and against real processes.
//!
//! What each role costs the honest is measured by `tests/adversaries.rs`, against a quiet run.

mod consensus;
mod poison;
mod prices;
mod relay;
mod streams;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ghost_frames::{EncodedFrame, StreamType, stream};
use ghost_node::clock::Clock;
use ghost_proto::{BlockId, Genesis, KeyPair, PeerId};
use ghost_protocol::{
    Identity, Overlay, Session,
    handshake::{LocalHello, Role as HelloRole},
    inbox::{Asked, InboxBuilder, Pushed},
    overlay::{Gate, OverlayConfig},
    session::{Delivery, SessionContext},
    tally::Tally,
    transport::quic::Socket,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

/// How often an adversary dials those that it has no session with.
const REDIAL_EVERY: Duration = Duration::from_secs(1);

/// What an adversary does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Announces ten thousand transactions a second that do not exist, on every link.
    Flooder,
    /// Fetches what it hears of, announces it to everybody before the honest can, and delivers nothing.
    Liar,
    /// Announces every block at once to everybody, and never hands out a body.
    Withholder,
    /// Takes its place and never reads; asks for headers whose answers it does not read either.
    SlowReader,
    /// Opens requests and writes one byte of each every second.
    SlowWriter,
    /// Takes an inbound place at every node and gives nothing. Comes in numbers.
    Eclipser,
    /// An authority that makes two blocks for each of its slots and signs two votes for each height,
    /// and tells one half of the network the one and the other half the other.
    Equivocator,
    /// Sends what cannot be read: unknown streams, endless lengths, garbage in honest frames.
    Junk,
    /// Connects and leaves, a hundred times a second.
    Churner,
    /// A publisher that signs two prices for each sequence, and tells one half of the network the one and
    /// the other half the other.
    PriceEquivocator,
    /// Answers reconciliation with symbols of nothing, and every plan of a block's shards with false ones.
    SymbolPoisoner,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Flooder,
        Self::Liar,
        Self::Withholder,
        Self::SlowReader,
        Self::SlowWriter,
        Self::Eclipser,
        Self::Equivocator,
        Self::Junk,
        Self::Churner,
        Self::PriceEquivocator,
        Self::SymbolPoisoner,
    ];

    /// Its name, as scenario files and flags have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flooder => "flooder",
            Self::Liar => "liar",
            Self::Withholder => "withholder",
            Self::SlowReader => "slow-reader",
            Self::SlowWriter => "slow-writer",
            Self::Eclipser => "eclipser",
            Self::Equivocator => "equivocator",
            Self::Junk => "junk",
            Self::Churner => "churner",
            Self::PriceEquivocator => "price-equivocator",
            Self::SymbolPoisoner => "symbol-poisoner",
        }
    }

    /// Whether it needs the key of an authority.
    pub fn is_authority(self) -> bool {
        self == Self::Equivocator
    }

    /// Whether it needs the key of a publisher.
    pub fn is_publisher(self) -> bool {
        self == Self::PriceEquivocator
    }
}

/// What an adversary knows when it begins.
#[derive(Debug, Clone)]
pub struct Arena {
    /// The chain it attacks.
    pub genesis: Arc<Genesis>,
    /// Whom it dials.
    pub targets: Vec<(PeerId, SocketAddr)>,
    /// The authority it is, for roles that are one.
    pub authority: Option<(u16, KeyPair)>,
    /// The publisher it is on every feed, for roles that are one.
    pub publisher: Option<(u16, KeyPair)>,
    /// The time of day.
    pub clock: Clock,
}

/// What it has done so far: a test that shows what it costs first shows that it was there.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Sessions it got.
    pub sessions: AtomicU64,
    /// Harmful things it did: announcements, withheld answers, half-written requests, false votes….
    pub done: AtomicU64,
}

impl Deeds {
    fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }
}

/// An adversary at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Adversary {
    /// Its role.
    pub role: Role,
    /// Who it is.
    pub peer_id: PeerId,
    /// What it has done.
    pub deeds: Arc<Deeds>,
    overlay: Overlay,
    _tasks: JoinSet<()>,
}

/// Everything its tasks share.
#[derive(Clone)]
struct Stage {
    overlay: Overlay,
    arena: Arena,
    deeds: Arc<Deeds>,
    seed: [u8; 32],
}

impl Stage {
    fn sessions(&self) -> Vec<Session> {
        self.overlay.sessions()
    }

    fn push(&self, session: &Session, stream: StreamType, frame: &EncodedFrame) {
        if session.push(stream, frame) == Delivery::Queued {
            self.deeds.add(1);
        }
    }

    fn rng(&self, purpose: u64) -> ChaCha12Rng {
        let mut rng = ChaCha12Rng::from_seed(self.seed);
        rng.set_stream(purpose);
        rng
    }
}

/// The receiving ends of everything that peers send it.
struct Ears {
    tx: mpsc::Receiver<Pushed>,
    blocks: mpsc::Receiver<Pushed>,
    votes: mpsc::Receiver<Pushed>,
    shards: mpsc::Receiver<Pushed>,
    asked: mpsc::Receiver<(StreamType, Asked)>,
}

impl Adversary {
    /// Starts it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(
        role: Role,
        identity: Identity,
        socket: Socket,
        seed: [u8; 32],
        arena: Arena,
    ) -> io::Result<Self> {
        // One batch may wait: who does not listen holds everybody back at once.
        let mut inbox = InboxBuilder::new();
        let tx = inbox.pushes(StreamType::TxPush, 1);
        let blocks = inbox.pushes(StreamType::BlockPush, 1);
        let votes = inbox.pushes(StreamType::Consensus, 1);
        let shards = inbox.pushes(StreamType::ShardPush, 1);
        let mut tasks = JoinSet::new();
        let (all_asked, asked) = mpsc::channel(64);
        for stream in StreamType::ALL.iter().copied().filter(|s| s.direction() == stream::Direction::Request)
        {
            let (mut requests, all_asked) = (inbox.requests(stream, 64), all_asked.clone());
            tasks.spawn(async move {
                while let Some(request) = requests.recv().await {
                    if all_asked.send((stream, request)).await.is_err() {
                        return;
                    }
                }
            });
        }
        let inbox = inbox.build();
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut tx_salt = [0; 16];
        rng.fill_bytes(&mut tx_salt);
        let hello = LocalHello {
            genesis: Some(arena.genesis.id()),
            serves: inbox.serves(),
            user_agent: "ghostd/0.1.0".into(),
            record: None,
            best: (0, BlockId::ZERO),
            finalized_height: 0,
            nonce: rng.next_u64(),
            role: HelloRole::Node,
            tx_salt: Some(tx_salt),
        };
        let mut quic_seed = [0; 32];
        rng.fill_bytes(&mut quic_seed);
        let config = OverlayConfig {
            onion: None,
            dials_ip: true,
            identity,
            hello,
            context: SessionContext { inbox, tally: Tally::default(), ..SessionContext::default() },
            gate: Gate::default(),
            rng_seed: Some(quic_seed),
        };
        let (overlay, mut events) = Overlay::start(config, vec![socket])?;
        let deeds = Arc::new(Deeds::default());
        let met = deeds.clone();
        tasks.spawn(async move {
            while let Some(event) = events.recv().await {
                if let ghost_protocol::overlay::OverlayEvent::Up(_) = event {
                    met.sessions.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let peer_id = overlay.peer_id();
        let stage = Stage { overlay: overlay.clone(), arena, deeds: deeds.clone(), seed };
        if role != Role::Churner {
            for (peer, address) in stage.arena.targets.clone() {
                tasks.spawn(stay(stage.overlay.clone(), peer, address));
            }
        }
        let ears = Ears { tx, blocks, votes, shards, asked };
        tasks.spawn(act(role, stage, ears));
        Ok(Self { role, peer_id, deeds, overlay, _tasks: tasks })
    }

    /// Its session with a target, if it has one: to say what its role does not.
    pub fn session(&self, peer: &PeerId) -> Option<Session> {
        self.overlay.session(peer)
    }
}

/// Keeps a session with a target for as long as it is let in.
async fn stay(overlay: Overlay, peer: PeerId, address: SocketAddr) {
    loop {
        if overlay.session(&peer).is_none() {
            // Refused or unreachable: tried again like everything else.
            let _ = overlay.dial(peer, address).await;
        }
        sleep(REDIAL_EVERY).await;
    }
}

async fn act(role: Role, stage: Stage, mut ears: Ears) {
    match role {
        Role::Flooder => {
            tokio::join!(relay::flood(&stage), deafen(&mut ears));
        }
        Role::Liar => relay::lie(&stage, &mut ears).await,
        Role::Withholder => relay::withhold(&stage, &mut ears).await,
        Role::SlowReader => streams::read_slowly(&stage, ears).await,
        Role::SlowWriter => {
            tokio::join!(streams::write_slowly(&stage), deafen(&mut ears));
        }
        Role::Eclipser => streams::sit(&stage, &mut ears).await,
        Role::Equivocator => consensus::equivocate(&stage, &mut ears).await,
        Role::Junk => {
            tokio::join!(streams::send_junk(&stage), deafen(&mut ears));
        }
        Role::Churner => streams::churn(&stage).await,
        Role::PriceEquivocator => {
            tokio::join!(prices::equivocate(&stage), deafen(&mut ears));
        }
        Role::SymbolPoisoner => poison::poison(&stage, &mut ears).await,
    }
}

/// Takes whatever comes and forgets it.
async fn deafen(ears: &mut Ears) {
    loop {
        tokio::select! {
            Some(_) = ears.tx.recv() => {}
            Some(_) = ears.blocks.recv() => {}
            Some(_) = ears.votes.recv() => {}
            Some(_) = ears.shards.recv() => {}
            Some(_) = ears.asked.recv() => {}
            else => return,
        }
    }
}

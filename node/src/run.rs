//! Starting and stopping a node: what is opened in which order, and what runs while it lives.
//!
//! Start: genesis and keys are read, the store is opened and unfinalized blocks are executed again,
//! the mempool of the last clean stop is loaded, the sockets are bound, the tasks of
//! `services` start, and then peers are dialled.
//!
//! Stop: no new connections, sessions drain for up to [`DRAIN`], the chain is flushed, peers and the
//! mempool are written down.
//!
//! [`start`] does this for a home directory; [`start_parts`] for parts of the caller's choice: another
//! socket, clock or store, as in simulated worlds.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use ghost_frames::StreamType;
use ghost_mempool_relay::{
    pool::{ChainRules, Pool, PoolConfig},
    sync::{SyncProgress, SyncState},
    tx_relay::RelayStats,
};
use ghost_proto::{
    Genesis, KeyPair, Multiaddr, PeerId,
    layout::{Cursor, put_var_bytes},
    limits::TX_BYTES_MAX,
    message,
};
use ghost_protocol::{
    Identity, Overlay,
    address::{AddressError, of_socket, of_unix_socket, with_peer},
    handshake::{LocalHello, Role},
    inbox::InboxBuilder,
    overlay::{OnionFace, OverlayConfig},
    session::SessionContext,
    shape::Shape,
    transport::{Onion, Remote, quic::Socket},
};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

pub use crate::services::tor::{TorParts, TorWay};
use crate::{
    chain::{Chain, HeadView, OpenError},
    clock::Clock,
    config::{self, Config, TorMode},
    engine::intrinsic_gas,
    exporter::{Exporter, ExporterError},
    home::{Home, HomeError, read_key_file},
    metrics::Metrics,
    services::{
        chain::{ChainService, HeadNote, ToChain},
        conduct::Conduct,
        contracts::Contracts,
        events,
        execution::Execution,
        hidden::Hidden,
        peers::{PeerBook, PeerService, ToPeers, discovery_config},
        rpc::{self, Access, Rpc},
        serve,
        submission::Submission,
        tor::{self, Tor},
        transactions::{TransactionService, accounts_of},
        underway::Underway,
    },
    store::{ChainStore, SledStore, StoreError},
};
#[cfg(feature = "tor")]
use ghost_protocol::transport::tor::ArtiConfig;

use ghost_discovery::{
    clock::Now,
    overlay::Overlay as Discovery,
    store::{PeerStore, Saved, SledStore as SledPeerStore},
};

/// Time sessions have to send what is queued when the node stops.
pub const DRAIN: Duration = Duration::from_secs(2);

/// A restarted node with peers to ask proposes nothing for so long, or until it knows what they have.
const LISTEN_FIRST: Duration = Duration::from_secs(3);

/// Commands that may wait for a task.
const COMMANDS_MAX: usize = 256;

/// Why a node does not start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The home directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The chain or its store.
    #[error(transparent)]
    Chain(#[from] OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address in the configuration.
    #[error("network.listen: {0}")]
    Address(#[from] AddressError),
    /// Tor. The node does not start without it, so that nobody takes it for hidden.
    #[error("tor: {0}\n  nothing was sent; mend it, or set tor.mode to \"off\"")]
    Tor(io::Error),
    /// A socket.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The figures for Prometheus.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
}

/// What a node is made of.
pub struct NodeParts {
    /// Settings; those about files and sockets are not looked at.
    pub config: Config,
    /// The chain.
    pub genesis: Arc<Genesis>,
    /// The node's key.
    pub identity: Identity,
    /// The key to propose and vote with, if it is to.
    pub authority: Option<KeyPair>,
    /// Who may give orders.
    pub operators: Vec<PeerId>,
    /// Where the chain is kept.
    pub store: Arc<dyn ChainStore>,
    /// Where what is known about peers is kept; nowhere, if there is none.
    pub peer_store: Option<Box<dyn PeerStore>>,
    /// Where the mempool is kept over a clean restart.
    pub mempool_file: Option<PathBuf>,
    /// What to listen on.
    pub sockets: Vec<Socket>,
    /// What the node is behind Tor, if it uses it. If it uses nothing else, no socket is opened but this one's.
    pub tor: Option<TorParts>,
    /// A socket in the file system at which its operator reaches it.
    pub control: Option<PathBuf>,
    /// The time of day.
    pub clock: Clock,
    /// Decides everything that is drawn; `None` draws from the system.
    pub seed: Option<[u8; 32]>,
}

impl std::fmt::Debug for NodeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeParts").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A node that runs.
pub struct RunningNode {
    /// Where it listens, with its PeerId.
    pub listen: Vec<Multiaddr>,
    /// Who it is.
    pub peer_id: PeerId,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
    views: Arc<arc_swap::ArcSwap<HeadView>>,
    overlay: Overlay,
    submissions: Submission,
    heads: watch::Receiver<HeadNote>,
    book: PeerBook,
    metrics: Arc<Metrics>,
    _exporter: Option<Exporter>,
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode").field("peer_id", &self.peer_id).finish_non_exhaustive()
    }
}

impl RunningNode {
    /// Asks it to stop; [`Self::stopped`] tells when it has.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until it has stopped, for whatever reason.
    pub async fn stopped(&self) {
        // The sender is gone only when the node is.
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }

    /// The chain now.
    pub fn view(&self) -> Arc<HeadView> {
        self.views.load_full()
    }

    /// Its sessions.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Does what the remote call of that name does, without hiding where the transactions come from.
    pub async fn submit(&self, transactions: Vec<bytes::Bytes>) -> message::SubmitAnswer {
        self.submissions.submit(transactions, message::Privacy::Fast).await
    }

    /// How many transactions wait for a block.
    pub fn pending(&self) -> usize {
        let pool = self.submissions.pool.lock().expect("no code panics while it holds the pool");
        pool.status(Instant::now().into_std()).count
    }

    /// Whom it bans now, and why.
    pub fn bans(&self) -> Vec<(PeerId, String)> {
        self.book.bans()
    }

    /// Follows the head.
    pub fn heads(&self) -> Heads {
        Heads(self.heads.clone())
    }
}

/// The heads of a node, from the one it has now on.
#[derive(Debug)]
pub struct Heads(watch::Receiver<HeadNote>);

impl Heads {
    /// Waits until the head or finality is another; `None` when the node has ended. Who is slow
    /// skips to the newest.
    pub async fn next(&mut self) -> Option<Arc<HeadView>> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().view.clone())
    }
}

/// Starts the node of a home directory. The caller holds the home's lock.
pub async fn start(config: Config, home: &Home) -> Result<RunningNode, StartError> {
    let genesis = Arc::new(home.genesis()?);
    let authority = match config.chain.role {
        config::Role::Authority => Some(read_key_file(&home.resolve(&config.chain.authority_key))?),
        config::Role::Follower => None,
    };
    let mut operators = config.rpc.operators.clone();
    operators.push(Identity::from_seed(&home.operator_key()?.seed()).peer_id());
    let store = SledStore::open(&home.data_dir().join("chain"), config.store.cache_mib << 20)?;
    let only_tor = config.tor.mode == TorMode::Only;
    let mut sockets = Vec::new();
    for address in config.network.listen.iter().filter(|_| !only_tor) {
        sockets.push(Socket::Bind(config::listen_socket(address)?));
    }
    let tor = tor_parts(&config.tor, home)?;
    let identity = match &tor {
        Some(tor) if only_tor => tor.identity.clone(),
        _ => Identity::from_seed(&home.node_key()?.seed()),
    };
    start_parts(NodeParts {
        genesis,
        identity,
        tor,
        control: sockets.is_empty().then(|| home.control_path()),
        authority,
        operators,
        store: Arc::new(store),
        peer_store: open_peer_store(&home.data_dir().join("peers")),
        mempool_file: Some(home.data_dir().join("mempool")),
        sockets,
        clock: Clock::System,
        seed: None,
        config,
    })
    .await
}

/// What the settings say of Tor.
fn tor_parts(settings: &config::Tor, home: &Home) -> Result<Option<TorParts>, StartError> {
    if settings.mode == TorMode::Off {
        return Ok(None);
    }
    let key = if settings.same_identity { home.node_key()? } else { home.tor_key()? };
    let way = match settings.socks {
        Some(socks) => TorWay::Daemon {
            socks,
            onion: settings.external_address.as_ref().and_then(Onion::of),
            forward: settings.forward,
        },
        None => own_tor(settings, home)?,
    };
    Ok(Some(TorParts {
        mode: settings.mode,
        identity: Identity::from_seed(&key.seed()),
        way,
        host: settings.host.then_some(settings.port as u16),
    }))
}

#[cfg(feature = "tor")]
fn own_tor(settings: &config::Tor, home: &Home) -> Result<TorWay, StartError> {
    let dir = home.tor_dir()?;
    let text = match &settings.settings {
        Some(path) => {
            let path = home.resolve(path);
            std::fs::read_to_string(&path).map_err(|error| {
                StartError::Tor(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            })?
        }
        None => String::new(),
    };
    let own = ArtiConfig { state_dir: dir.join("state"), cache_dir: dir.join("cache"), settings: text };
    Ok(TorWay::Own(own))
}

#[cfg(not(feature = "tor"))]
fn own_tor(_: &config::Tor, _: &Home) -> Result<TorWay, StartError> {
    // The settings were refused before they came here; nothing else may come of them.
    Err(StartError::Tor(io::Error::new(io::ErrorKind::Unsupported, "this ghostd has no Tor of its own")))
}

/// Takes in the operator's programs through a socket that only the owner of the home can open.
async fn local_callers(listener: UnixListener, overlay: Overlay) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let overlay = overlay.clone();
                tokio::spawn(async move { overlay.accept_stream(Box::new(stream), Remote::Local).await });
            }
            // Descriptors have run out, as a rule: some come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Binds it anew: what an earlier process left there is in the way. The file is the owner's alone.
fn bind_control(path: &Path) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Starts a node of these parts. Must be called inside a tokio runtime.
pub async fn start_parts(parts: NodeParts) -> Result<RunningNode, StartError> {
    let NodeParts {
        config,
        genesis,
        identity,
        authority,
        operators,
        store,
        peer_store,
        mempool_file,
        sockets,
        tor,
        control,
        clock,
        seed,
    } = parts;
    let draw = |purpose: &str| match seed {
        Some(seed) => blake3::derive_key(purpose, &seed),
        None => rand::random::<[u8; 32]>(),
    };
    let metrics = Arc::new(Metrics::new());
    let peer_id = identity.peer_id();

    let chain = Chain::open(genesis.clone(), store, authority, draw("ghost 2026 chain"))?;
    let view = chain.view();
    let views = chain.views();
    let head = view.head();
    tracing::info!(
        chain = genesis.name,
        height = head.height,
        finalized = view.finalized().height,
        "chain opened"
    );

    let pool_config =
        PoolConfig { bytes_max: (config.mempool.size_mib as usize) << 20, ..PoolConfig::default() };
    let rules = ChainRules {
        chain_id: genesis.chain_id,
        gas_price_min: genesis.gas_price_min,
        block_gas_max: genesis.block_gas_max,
        intrinsic_gas: |tx| intrinsic_gas(tx.body()),
    };
    let mut pool = Pool::new(pool_config, rules);
    if let Some(file) = &mempool_file {
        load_mempool(file, &mut pool, &view);
    }
    let pool = Arc::new(Mutex::new(pool));

    let mut inbox = InboxBuilder::new();
    let blocks = inbox.pushes(StreamType::BlockPush, 64);
    let consensus = inbox.pushes(StreamType::Consensus, 256);
    let tx_pushes = inbox.pushes(StreamType::TxPush, 64);
    let tx_asked = inbox.requests(StreamType::TxFetch, 256);
    let tx_compared = inbox.requests(StreamType::TxSync, 64);
    let block_asked = inbox.requests(StreamType::BlockFetch, 64);
    let sync_asked = inbox.requests(StreamType::Sync, 64);
    let discovery_asked = inbox.requests(StreamType::Discovery, 64);
    let rpc_asked = inbox.requests(StreamType::Rpc, 1024);
    let events_asked = inbox.requests(StreamType::Events, 64);
    let inbox = inbox.build();
    let serves = inbox.serves();

    // Drawn apart for each network: what is said on one is not said on another.
    let greeting = |salt: &str, nonce: &str| LocalHello {
        genesis: Some(genesis.id()),
        serves,
        user_agent: concat!("ghostd/", env!("CARGO_PKG_VERSION")).into(),
        record: None,
        best: (head.height, head.id),
        finalized_height: view.finalized().height,
        nonce: u64::from_be_bytes(draw(nonce)[..8].try_into().expect("eight bytes")),
        role: Role::Node,
        tx_salt: Some(draw(salt)[..16].try_into().expect("sixteen bytes")),
    };
    let hello = greeting("ghost 2026 salt", "ghost 2026 nonce");
    let mode = tor.as_ref().map_or(TorMode::Off, |tor| tor.mode);
    let (tor, arriving) = match tor {
        Some(parts) => {
            let (tor, arriving) =
                Tor::start(parts, draw("ghost 2026 socks")).await.map_err(StartError::Tor)?;
            (Some(Arc::new(tor)), Some(arriving))
        }
        None => (None, None),
    };
    let bound: Vec<SocketAddr> = sockets
        .iter()
        .filter_map(|socket| match socket {
            Socket::Bind(address) => Some(*address),
            Socket::Custom(socket) => socket.local_addr().ok(),
        })
        .collect();
    let saved = match &peer_store {
        Some(store) => store.load().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was known about peers is not read");
            Saved::default()
        }),
        None => Saved::default(),
    };
    let now = Now { at: Instant::now().into_std(), unix_ms: clock.unix_ms() };
    let discovery = Discovery::new(
        discovery_config(peer_id, &config.network, mode, config.rpc.clients_max, &bound),
        saved,
        draw("ghost 2026 discovery"),
        now,
    );
    let book = PeerBook::new(discovery, clock);
    let operators = Arc::new(operators);
    let gate = book.gate(operators.clone());
    let shape = Shape { pad: config.shape.pad, jitter: Duration::from_millis(config.shape.jitter_ms.into()) };
    let context = SessionContext { inbox, shape, ..SessionContext::default() };
    let tally = context.tally.clone();
    let listening = sockets.len();
    let (overlay, overlay_events) = Overlay::start(
        OverlayConfig {
            identity: identity.clone(),
            context,
            gate,
            rng_seed: seed.map(|_| draw("ghost 2026 quic")),
            onion: tor.as_ref().map(|tor| OnionFace {
                identity: tor.identity().clone(),
                hello: match mode {
                    // The only face there is.
                    TorMode::Only => hello.clone(),
                    _ => greeting("ghost 2026 onion salt", "ghost 2026 onion nonce"),
                },
                carrier: tor.carrier.clone(),
            }),
            dials_ip: mode != TorMode::Only,
            hello,
        },
        sockets,
    )
    .map_err(|source| {
        let address = config.network.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        StartError::Listen { address, source }
    })?;
    let local: Vec<Multiaddr> =
        overlay.local_addresses().into_iter().take(listening).map(of_socket).collect();
    let mut listen: Vec<Multiaddr> =
        local.iter().map(|address| with_peer(address.clone(), peer_id)).collect();
    let control = match control {
        Some(path) => {
            let failed = |source| StartError::Listen { address: path.display().to_string(), source };
            let listener = bind_control(&path).map_err(failed)?;
            listen.extend(of_unix_socket(&path).map(|address| with_peer(address, peer_id)));
            Some(listener)
        }
        None => None,
    };
    if let Some(tor) = &tor {
        let onion = tor.onion().map(|onion| with_peer(onion.to_multiaddr(), tor.identity().peer_id()));
        listen.extend(onion);
    }
    metrics.watch_traffic(tally.clone());
    let refusals = book.clone();
    metrics.watch_events(Box::new(move || {
        let events = tally.snapshot().into_iter().map(|(event, count)| {
            let (kind, reason) = event.labels();
            (kind, reason, count)
        });
        let refused = refusals.refusals().into_iter().map(|(reason, count)| ("not_admitted", reason, count));
        events.chain(refused).collect()
    }));
    let exporter = match config.metrics.listen {
        Some(address) => Some(Exporter::start(address, metrics.clone()).await?),
        None => None,
    };

    let advertised: Vec<Multiaddr> = match &config.network.external_address {
        // The record of a node that is behind Tor alone names its onion service and nothing else.
        _ if mode == TorMode::Only => Vec::new(),
        Some(address) => vec![address.clone()],
        None => overlay
            .local_addresses()
            .into_iter()
            .take(listening)
            .filter(|address| !address.ip().is_unspecified())
            .map(of_socket)
            .collect(),
    };
    let (to_chain, chain_commands) = mpsc::channel(COMMANDS_MAX);
    let (to_transactions, transaction_commands) = mpsc::channel(COMMANDS_MAX);
    let (to_peers, peer_commands) = mpsc::channel(COMMANDS_MAX);
    let conduct = Conduct(to_peers.clone());
    let (heads, heads_seen) = watch::channel(HeadNote { view: view.clone(), reorganised: false });
    let (progress, progress_seen) = watch::channel(SyncProgress {
        state: SyncState::NoPeers,
        height: head.height,
        target: head.height,
        headers_ahead: 0,
        window_bytes: 0,
        blocks_per_second: 0.0,
        bytes_per_second: 0.0,
        peers_serving: 0,
    });
    let (stats, relay_stats) = watch::channel(RelayStats::default());
    let underway = Underway::default();
    let authority = chain.authority();
    let listen_first =
        (head.height > 0 && !config.network.peers.is_empty()).then(|| Instant::now() + LISTEN_FIRST);
    let access = Access { operators, strangers: config.rpc.strangers };

    let chain_task = tokio::spawn(
        ChainService {
            chain,
            pool: pool.clone(),
            overlay: overlay.clone(),
            clock,
            conduct: conduct.clone(),
            metrics: metrics.clone(),
            entropy: ChaCha12Rng::from_seed(draw("ghost 2026 chain signatures")),
            commands: chain_commands,
            blocks,
            consensus,
            transactions: to_transactions.clone(),
            heads,
            progress,
            underway: underway.clone(),
            relay_seed: draw("ghost 2026 compact blocks"),
            listen_first,
        }
        .run(),
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(
        TransactionService {
            pool: pool.clone(),
            views: views.clone(),
            seed: draw("ghost 2026 relay"),
            stem_seed: draw("ghost 2026 stem"),
            entropy: ChaCha12Rng::from_seed(draw("ghost 2026 signatures")),
            conduct,
            metrics: metrics.clone(),
            commands: transaction_commands,
            pushes: tx_pushes,
            asked: tx_asked,
            compared: tx_compared,
            stats,
        }
        .run(),
    );
    tasks.spawn(serve::run(block_asked, views.clone(), underway.clone(), draw("ghost 2026 compact answers")));
    tasks.spawn(serve::run(sync_asked, views.clone(), underway, draw("ghost 2026 compact answers")));
    tasks.spawn(events::run(events_asked, heads_seen.clone(), access.clone()));
    let submissions = Submission {
        pool: pool.clone(),
        views: views.clone(),
        relay: to_transactions.clone(),
        metrics: metrics.clone(),
        hidden: Hidden::new(tor.clone(), book.clone(), pool.clone(), views.clone(), metrics.clone()),
    };
    let rpc = Rpc {
        relay: relay_stats,
        views: views.clone(),
        pool: pool.clone(),
        overlay: overlay.clone(),
        clock,
        started: Instant::now(),
        authority,
        listen: Arc::new(listen.iter().map(ToString::to_string).collect()),
        access,
        progress: progress_seen,
        submissions: submissions.clone(),
        peers: to_peers.clone(),
        peer_book: book.clone(),
        tor: tor.clone(),
        external: config.network.external_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        metrics: metrics.clone(),
        contracts: Contracts {
            views: views.clone(),
            execution: Execution::new(),
            key: Arc::new(identity.key().clone()),
        },
    };
    tasks.spawn(rpc::run(rpc, rpc_asked));
    let peers = PeerService {
        overlay: overlay.clone(),
        book: book.clone(),
        store: peer_store,
        metrics: metrics.clone(),
        views: views.clone(),
        data_dir: mempool_file.as_deref().and_then(Path::parent).map(Path::to_owned),
        seeds: config.network.seeds.clone(),
        dns_seeds: config.network.dns_seeds.clone(),
        dns_server: config.network.dns_server,
        identity,
        tor,
        tor_only: mode == TorMode::Only,
        serves,
        addresses: advertised,
        fixed_address: config.network.external_address.is_some(),
        listening,
        events: overlay_events,
        commands: peer_commands,
        asked: discovery_asked,
        chain: to_chain.clone(),
        transactions: to_transactions,
    };
    tasks.spawn(peers.run());
    if let Some(arriving) = arriving {
        tasks.spawn(tor::accept(overlay.clone(), arriving));
    }
    if let Some(listener) = control {
        tasks.spawn(local_callers(listener, overlay.clone()));
    }

    let (stop, stop_asked) = watch::channel(false);
    let (stopped, stopped_seen) = watch::channel(false);
    let supervisor =
        Supervisor { overlay: overlay.clone(), to_chain, to_peers, chain_task, tasks, pool, mempool_file };
    tokio::spawn(async move {
        supervisor.run(stop_asked).await;
        stopped.send_replace(true);
    });
    Ok(RunningNode {
        listen,
        peer_id,
        stop,
        stopped: stopped_seen,
        views,
        overlay,
        submissions,
        heads: heads_seen,
        book,
        metrics,
        _exporter: exporter,
    })
}

/// Waits for the word to stop, or for the chain to fail, and takes the node down in order.
struct Supervisor {
    overlay: Overlay,
    to_chain: mpsc::Sender<ToChain>,
    to_peers: mpsc::Sender<ToPeers>,
    chain_task: JoinHandle<Result<(), StoreError>>,
    tasks: JoinSet<()>,
    pool: Arc<Mutex<Pool>>,
    mempool_file: Option<PathBuf>,
}

impl Supervisor {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let ended = tokio::select! {
            // A handle that is dropped without a word stops the node too.
            _ = stop.wait_for(|stop| *stop) => None,
            ended = &mut self.chain_task => Some(ended),
            // None of them ends by itself: a node that has lost one only looks alive.
            Some(ended) = self.tasks.join_next() => {
                tracing::error!(?ended, "a task broke down; the node stops");
                None
            }
        };
        self.overlay.shut_down(DRAIN).await;
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // Fails only if the task has ended, which is what is asked of it.
                let _ = self.to_chain.send(ToChain::Stop).await;
                self.chain_task.await
            }
        };
        let (done, written) = oneshot::channel();
        // Both fail only if the task has ended: then there is nothing to write.
        if self.to_peers.send(ToPeers::Stop { done }).await.is_ok() {
            let _ = written.await;
        }
        self.tasks.abort_all();
        match ended {
            Ok(Ok(())) => tracing::info!("chain flushed"),
            Ok(Err(error)) => tracing::error!(%error, "the store failed; the node stops"),
            Err(error) => tracing::error!(%error, "the chain task broke down; the node stops"),
        }
        if let Some(file) = &self.mempool_file {
            let dump = self.pool.lock().expect("no code panics while it holds the pool").dump();
            if let Err(error) = store_mempool(file, &dump) {
                tracing::warn!(%error, file = %file.display(), "the mempool could not be written down");
            }
        }
    }
}

/// Opens what is known about peers. A damaged store is set aside with a word; without one the node runs on.
fn open_peer_store(path: &Path) -> Option<Box<dyn PeerStore>> {
    match SledPeerStore::open(path) {
        Ok(opened) => {
            if let Some(word) = opened.damage {
                tracing::warn!("{word}");
            }
            Some(Box::new(opened.store))
        }
        Err(error) => {
            tracing::warn!(%error, "nothing is remembered about peers");
            None
        }
    }
}

/// Writes pending transactions: each behind its length. The file replaces the old one whole.
fn store_mempool(file: &Path, dump: &[bytes::Bytes]) -> io::Result<()> {
    let mut out = Vec::new();
    for tx in dump {
        put_var_bytes(&mut out, tx);
    }
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, out)?;
    std::fs::rename(fresh, file)
}

/// Reads them again and forgets the file: what is in it is in the pool now, or was not worth keeping.
fn load_mempool(file: &Path, pool: &mut Pool, view: &HeadView) {
    let Ok(bytes) = std::fs::read(file) else { return };
    let mut cursor = Cursor::new(bytes.into());
    let mut dump = Vec::new();
    while cursor.remaining() > 0 {
        match cursor.var_bytes("transaction", TX_BYTES_MAX) {
            Ok(tx) => dump.push(bytes::Bytes::copy_from_slice(&tx)),
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "the rest of the stored mempool is damaged");
                break;
            }
        }
    }
    let loaded = pool.load(dump, &accounts_of(view), rand::rng(), Instant::now().into_std());
    tracing::info!(ready = loaded.ready.len(), left_out = loaded.left_out, "mempool loaded");
    let _ = std::fs::remove_file(file);
}

//! Real nodes in this process, on real sockets, and wallets that use them as any program does.

use std::{path::Path, sync::Arc, time::Duration};

use ghost_node::{
    clock::Clock,
    config::Config,
    run::{NodeParts, RunningNode, StartError, start_parts},
    store::MemoryStore,
    wallet::{Ask, WalletConfig, WalletFolder, Walletd, daemon::WalletEvent},
};
use ghost_proto::{AuthoritySet, Genesis, KeyPair, Multiaddr};
use ghost_protocol::{Identity, transport::quic::Socket};
use ghost_wallet_channel::{keys::WalletKeys, secret::Secret, session::What};
use serde_json::Value;
use tokio::{sync::broadcast, time::timeout};

/// Far more than anything here takes; reached only by what has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const SLOT_MS: u64 = 300;

pub(crate) fn keys(wallet: usize) -> WalletKeys {
    WalletKeys::from_seed(seed(wallet))
}

fn seed(wallet: usize) -> Secret {
    Secret::new([150 + wallet as u8; 32])
}

fn authority(index: usize) -> KeyPair {
    KeyPair::from_seed(&[100 + index as u8; 32])
}

/// Nodes that are connected; the first four wallets have something.
pub(crate) struct Net {
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) nodes: Vec<RunningNode>,
    stores: Vec<Arc<MemoryStore>>,
    dir: tempfile::TempDir,
}

impl Net {
    pub(crate) async fn start(count: usize) -> Self {
        let genesis = Arc::new(Genesis {
            name: "wallets test".into(),
            chain_id: 7,
            time_unix_ms: Clock::System.unix_ms(),
            slot_ms: SLOT_MS,
            gas_price_min: 1,
            block_gas_max: 100_000_000,
            block_bytes_max: 1 << 20,
            authorities: AuthoritySet::new((0..count).map(|n| authority(n).public()).collect()).unwrap(),
            allocation: (0..4).map(|n| (keys(n).address(), 1 << 60)).collect(),
            markets: Default::default(),
            feeds: Vec::new(),
        });
        let stores = (0..count).map(|_| Arc::new(MemoryStore::new())).collect();
        let mut net = Self { genesis, nodes: Vec::new(), stores, dir: tempfile::tempdir().unwrap() };
        for index in 0..count {
            let peers = (0..index).map(|other| net.address(other)).collect();
            let node = net.start_node(index, ([127, 0, 0, 1], 0).into(), peers).await.unwrap();
            net.nodes.push(node);
        }
        net
    }

    async fn start_node(
        &self,
        index: usize,
        socket: std::net::SocketAddr,
        peers: Vec<Multiaddr>,
    ) -> Result<RunningNode, StartError> {
        let mut config = Config::default();
        // What a test opens is a box, not a lesson in patience.
        config.mailbox.open_bits = 8;
        config.network.peers = peers;
        start_parts(NodeParts {
            config,
            genesis: self.genesis.clone(),
            identity: Identity::from_seed(&[50 + index as u8; 32]),
            authority: Some(authority(index)),
            operators: Vec::new(),
            store: self.stores[index].clone(),
            peer_store: None,
            mempool_file: None,
            sockets: vec![Socket::Bind(socket)],
            clock: Clock::System,
            seed: None,
            control: None,
            tor: None,
        })
        .await
    }

    /// Stops a node and starts it again on its store, at the same address.
    pub(crate) async fn restart_node(&mut self, index: usize) {
        let address = self.nodes[index].overlay().local_addresses()[0];
        let others = (0..self.nodes.len()).filter(|other| *other != index);
        let peers: Vec<_> = others.map(|other| self.address(other)).collect();
        let node = self.nodes.remove(index);
        node.shutdown();
        node.stopped().await;
        drop(node);
        // The socket is free when the last connection of the old node is done with.
        let starting = async {
            loop {
                match self.start_node(index, address, peers.clone()).await {
                    Ok(node) => return node,
                    Err(StartError::Listen { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let node = timeout(PATIENCE, starting).await.expect("the address is free again");
        self.nodes.insert(index, node);
    }

    pub(crate) fn address(&self, index: usize) -> Multiaddr {
        self.nodes[index].listen[0].clone()
    }

    pub(crate) fn folder(&self, wallet: usize) -> WalletFolder {
        WalletFolder::at(self.dir.path().join(format!("wallet {wallet}")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens a wallet that uses this node, with its mail at these.
    pub(crate) async fn open(&self, wallet: usize, node: usize, mailboxes: &[usize]) -> Opened {
        let config = WalletConfig {
            folder: self.folder(wallet),
            nodes: vec![self.address(node)],
            mailboxes: mailboxes.iter().map(|index| self.address(*index)).collect(),
            stamp_bits: 8,
            timeout: Duration::from_secs(20),
            file_bytes_max: 0,
        };
        let walletd = Walletd::open(config, seed(wallet)).unwrap();
        assert!(walletd.ready(PATIENCE).await, "wallet {wallet} reaches no mailbox");
        Opened { events: walletd.events(), walletd }
    }
}

/// A wallet and what happens in it.
pub(crate) struct Opened {
    pub(crate) walletd: Walletd,
    events: broadcast::Receiver<WalletEvent>,
}

impl Opened {
    pub(crate) async fn ask(&self, ask: Ask) -> Value {
        self.walletd.ask(ask).await.unwrap()
    }

    /// The next event that is wanted.
    pub(crate) async fn event<T>(&mut self, what: &str, wanted: impl Fn(&What) -> Option<T>) -> T {
        let waiting = async {
            loop {
                match self.events.recv().await {
                    Ok(event) => {
                        if let Some(found) = wanted(&event.what) {
                            return found;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never {what}"))
    }

    pub(crate) async fn happens(&mut self, what: &str, wanted: impl Fn(&What) -> bool) {
        self.event(what, |it| wanted(it).then_some(())).await;
    }

    pub(crate) async fn close(self) {
        self.walletd.close().await.unwrap();
    }
}

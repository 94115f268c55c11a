//! A few nodes in this process, on real sockets, and what one does with them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ghost_node::{
    clock::Clock,
    config::Config,
    run::{NodeParts, RunningNode, start_parts},
    store::MemoryStore,
};
use ghost_proto::{
    Action, Address, AuthoritySet, EngineId, Genesis, KeyPair, Markets, Multiaddr, Outcome, Receipt,
    Transaction, TxId,
    market::{Asset, Market},
};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
    transport::quic::Socket,
};
use tokio::time::{sleep, timeout};

/// Far more than anything here takes; reached only by what has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const SLOT_MS: u64 = 200;

/// Adds one to slot 0, logs the new count under the topic 0x77 and returns it.
pub(crate) const COUNTER: &str = "60015f5401805f555f52607760205fa160205ff3";

pub(crate) fn user(index: u8) -> KeyPair {
    KeyPair::from_seed(&[index + 1; 32])
}

fn authority(index: usize) -> KeyPair {
    KeyPair::from_seed(&[100 + index as u8; 32])
}

/// Init code that returns `code`.
pub(crate) fn init(hex: &str) -> Bytes {
    let code = hex::decode(hex).unwrap();
    // PUSH2 len, DUP1, PUSH1 12, PUSH0, CODECOPY, PUSH0, RETURN, STOP, STOP
    let [high, low] = (code.len() as u16).to_be_bytes();
    [&[0x61, high, low, 0x80, 0x60, 12, 0x5f, 0x39, 0x5f, 0xf3, 0, 0], code.as_slice()].concat().into()
}

fn markets() -> Markets {
    let allocation = (0..8).map(|n| (user(n).address(), 1 << 80)).collect();
    let usd = Asset { symbol: "USD".into(), decimals: 6, allocation };
    let market = Market { base: 0, quote: 1, lot: 10, tick: 2, maker_fee_ppm: 1_000, taker_fee_ppm: 2_000 };
    Markets { assets: vec![usd], markets: vec![market] }
}

pub(crate) struct Net {
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) nodes: Vec<RunningNode>,
    stores: Vec<Arc<MemoryStore>>,
}

impl Net {
    /// As many authorities, all connected.
    pub(crate) async fn start(count: usize) -> Self {
        let genesis = Arc::new(Genesis {
            name: "contracts test".into(),
            chain_id: 7,
            time_unix_ms: Clock::System.unix_ms(),
            slot_ms: SLOT_MS,
            gas_price_min: 1,
            block_gas_max: 100_000_000,
            block_bytes_max: 1 << 20,
            authorities: AuthoritySet::new((0..count).map(|n| authority(n).public()).collect()).unwrap(),
            markets: markets(),
            allocation: (0..8).map(|n| (user(n).address(), 1 << 80)).collect(),
            feeds: Vec::new(),
        });
        let stores = (0..count).map(|_| Arc::new(MemoryStore::new())).collect();
        let mut net = Self { genesis, nodes: Vec::new(), stores };
        for index in 0..count {
            let node = net.node(index).await;
            net.nodes.push(node);
        }
        net
    }

    /// Starts a node on its store, and lets it dial the others.
    pub(crate) async fn node(&self, index: usize) -> RunningNode {
        let mut config = Config::default();
        let others = (0..self.nodes.len()).filter(|other| *other != index);
        config.network.peers = others.map(|other| self.address(other)).collect();
        start_parts(NodeParts {
            tor: None,
            control: None,
            config,
            genesis: self.genesis.clone(),
            identity: Identity::from_seed(&[50 + index as u8; 32]),
            authority: Some(authority(index)),
            operators: Vec::new(),
            store: self.stores[index].clone(),
            peer_store: None,
            mempool_file: None,
            sockets: vec![Socket::Bind(([127, 0, 0, 1], 0).into())],
            clock: Clock::System,
            seed: None,
        })
        .await
        .unwrap()
    }

    pub(crate) fn address(&self, index: usize) -> Multiaddr {
        self.nodes[index].listen[0].clone()
    }

    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        (0..self.nodes.len()).map(|index| self.address(index)).collect()
    }

    pub(crate) async fn client(&self, index: usize) -> Client {
        let config = ClientConfig { timeout: PATIENCE, ..ClientConfig::new(Identity::generate()) };
        Client::connect(config, &self.address(index)).await.unwrap()
    }

    pub(crate) fn sign(&self, from: u8, nonce: u64, action: Action) -> (TxId, Bytes) {
        let key = user(from);
        let body = Transaction {
            chain_id: self.genesis.chain_id,
            sender_key: key.public(),
            nonce,
            gas_limit: 5_000_000,
            gas_price: 1,
            action,
        };
        let tx = body.sign(&key).unwrap().into_signed();
        (tx.id(), tx.bytes().clone())
    }
}

/// Sends what an account does next and waits until it is in a block.
pub(crate) async fn send(net: &Net, client: &Client, from: u8, action: Action) -> Receipt {
    let nonce = client.account(user(from).address()).await.unwrap().next_nonce;
    let (id, bytes) = net.sign(from, nonce, action);
    let results = client.submit(vec![bytes]).await.unwrap();
    assert!(results[0].accepted, "{results:?}");
    receipt_of(client, id).await
}

pub(crate) async fn receipt_of(client: &Client, id: TxId) -> Receipt {
    let waiting = async {
        let mut heads = client.heads().await.unwrap();
        loop {
            if let Some(found) = client.receipt(id).await.unwrap() {
                return found.receipt;
            }
            heads.next().await.unwrap();
        }
    };
    timeout(PATIENCE, waiting).await.expect("it is included")
}

pub(crate) async fn deploy(net: &Net, client: &Client, from: u8, hex: &str) -> Address {
    let action = Action::Deploy { engine: EngineId::EVM, value: 0, code: init(hex), input: Bytes::new() };
    let receipt = send(net, client, from, action).await;
    assert_eq!(receipt.outcome, Outcome::Done);
    receipt.created.unwrap()
}

pub(crate) fn call(to: Address) -> Action {
    Action::Call { to, value: 0, input: Bytes::new() }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !so().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never {what}"));
}

//! Whole nodes over real sockets on loopback: what their mempools tell each other, and what they keep to
//! themselves.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ghost_node::{
    clock::Clock,
    config::Layers,
    run::{NodeParts, RunningNode, start_parts},
    store::MemoryStore,
};
use ghost_proto::{Address, TxId, message};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
    transport::quic::Socket,
};
use ghost_testnet::genesis::{Plan, Purpose, key};
use tokio::time::{Instant, sleep};

const PLAN: Plan =
    Plan { seed: 5, nodes: 1, accounts: 4, slot_ms: 1_000, spare_authorities: 0, publishers: 0 };
const PATIENCE: Duration = Duration::from_secs(30);

/// Of a chain whose only authority is not here: nothing is ever included.
async fn node(index: u32) -> (RunningNode, Client) {
    let operator = Identity::from_seed(&[200 + index as u8; 32]);
    let node = start_parts(NodeParts {
        tor: None,
        control: None,
        config: Layers::new().finish().unwrap(),
        genesis: Arc::new(PLAN.genesis(1_700_000_000_000).unwrap()),
        identity: Identity::from_seed(&key(PLAN.seed, Purpose::Node, index).seed()),
        authority: None,
        operators: vec![operator.peer_id()],
        store: Arc::new(MemoryStore::new()),
        peer_store: None,
        mempool_file: None,
        sockets: vec![Socket::Bind("127.0.0.1:0".parse().unwrap())],
        clock: Clock::System,
        // The first embargo of these is some seconds long.
        seed: Some([index as u8; 32]),
    })
    .await
    .unwrap();
    let client = Client::connect(ClientConfig::new(operator), &node.listen[0]).await.unwrap();
    (node, client)
}

async fn connect(from: &Client, to: &RunningNode) {
    let add = message::peer_command::What::Add(to.listen[0].to_string());
    from.peer_command(message::PeerCommand { what: Some(add) }).await.unwrap();
}

/// Transfers of one account, from a nonce on.
fn transfers(account: usize, nonces: std::ops::Range<u64>) -> Vec<(TxId, Bytes)> {
    let mut sender = PLAN.senders().swap_remove(account);
    sender.nonce = nonces.start;
    nonces
        .map(|_| {
            let tx = sender.transfer(Address([7; 20]), 1, Bytes::new()).unwrap();
            (tx.id(), tx.bytes().clone())
        })
        .collect()
}

async fn submit(client: &Client, txs: &[(TxId, Bytes)], privacy: message::Privacy) {
    let bytes = txs.iter().map(|(_, bytes)| bytes.clone()).collect();
    let results = client.submit_with(bytes, privacy).await.unwrap();
    assert!(results.iter().all(|result| result.accepted), "{results:?}");
}

async fn count(client: &Client) -> u64 {
    client.status().await.unwrap().mempool.unwrap().count
}

async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

/// Two that were apart: 300 in common, 40 and 25 not. Each holds all soon after they meet, and nothing that
/// both had is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_23_two_nodes_that_meet_have_the_union() {
    let ((_first, one), (second, two)) = (node(1).await, node(2).await);
    let common = transfers(0, 0..300);
    for client in [&one, &two] {
        submit(client, &common, message::Privacy::Fast).await;
    }
    submit(&one, &transfers(1, 0..40), message::Privacy::Fast).await;
    submit(&two, &transfers(2, 0..25), message::Privacy::Fast).await;
    assert_eq!((count(&one).await, count(&two).await), (340, 325));
    connect(&one, &second).await;
    wait_for("both have all", async || count(&one).await == 365 && count(&two).await == 365).await;
    let relay = async |client: &Client| client.status().await.unwrap().relay.unwrap_or_default();
    wait_for("figures are shown", async || relay(&one).await.reconciliations > 0).await;
    let relay = relay(&one).await;
    assert_eq!((relay.transactions, relay.duplicates), (25, 0), "{relay:?}");
    assert_eq!((relay.reconciliations_listed, relay.differences), (0, 65), "{relay:?}");
    assert!(relay.symbols >= 80 && relay.symbols <= 65 * 5, "{relay:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_24_what_goes_by_a_stem_is_nowhere_to_be_seen_until_its_embargo_ends() {
    let (_alone, client) = node(3).await;
    let txs = transfers(3, 0..1);
    let sender = key(PLAN.seed, Purpose::Account, 3).address();
    submit(&client, &txs, message::Privacy::Stem).await;
    assert!(client.transaction(txs[0].0).await.unwrap().is_none());
    assert_eq!(client.account(sender).await.unwrap().next_nonce, 0);
    assert_eq!((count(&client).await, client.pending(10).await.unwrap().count), (0, 0));
    let after = wait_for("it is flooded", async || count(&client).await == 1).await;
    assert!(after < Duration::from_secs(17), "{after:?}");
    assert_eq!(client.account(sender).await.unwrap().next_nonce, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_by_a_stem_is_everywhere_in_the_end() {
    let ((_first, one), (second, two)) = (node(4).await, node(5).await);
    connect(&one, &second).await;
    let connected = async || one.status().await.unwrap().peers.iter().any(|row| row.role == "node");
    wait_for("they are connected", connected).await;
    submit(&one, &transfers(3, 0..20), message::Privacy::Stem).await;
    wait_for("all are flooded", async || count(&one).await == 20 && count(&two).await == 20).await;
    assert_eq!(two.pending(100).await.unwrap().transactions.len(), 20, "all of them ready");
}

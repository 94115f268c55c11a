//! Whole nodes that find each other and small values, over simulated packets.

use std::{collections::BTreeSet, time::Duration};

use ghost_discovery::lookup::Goal;
use ghost_proto::{KeyPair, SignedValue};
use ghost_testnet::sim::{NetworkPlan, NodeId, SimNetwork, network::ORIGIN_UNIX_MS};
use tokio::time::{Instant, sleep};

const NODES: u32 = 24;

/// Nodes that each dial three others, so that nobody is connected to all.
async fn network() -> SimNetwork {
    let plan = NetworkPlan {
        nodes: NODES,
        authorities: 4,
        outbound: 3,
        told: 2,
        slot_ms: 10_000,
        ..NetworkPlan::default()
    };
    let network = SimNetwork::start(plan).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    network
}

#[tokio::test(start_paused = true)]
#[allow(clippy::print_stdout)]
async fn a_node_finds_one_that_it_is_not_connected_to_and_a_value_that_a_third_published() {
    let network = network().await;
    let node = |n: u32| network.node(NodeId(n)).unwrap();
    let connected =
        |n: u32| -> BTreeSet<_> { node(n).overlay().sessions().iter().map(|one| one.peer()).collect() };
    let mut looked = 0;
    for from in 0..NODES {
        let known = connected(from);
        let stranger = (0..NODES).find(|to| *to != from && !known.contains(&network.peer_id(NodeId(*to))));
        let Some(to) = stranger else { continue };
        let began = Instant::now();
        let found = node(from).find(Goal::Peer(network.peer_id(NodeId(to)))).await.unwrap();
        let record =
            found.peer.unwrap_or_else(|| panic!("{from} looks for {to}, asked {}", found.asked)).record;
        assert_eq!(record.peer(), network.peer_id(NodeId(to)));
        looked += 1;
        if looked == 1 {
            println!("{from} found {to} after {:?} and {} questions", began.elapsed(), found.asked);
        }
    }
    assert!(looked >= NODES / 2, "{looked} nodes had somebody to look for");

    let owner = KeyPair::from_seed(&[0x77; 32]);
    let until = ORIGIN_UNIX_MS / 1000 + 240;
    let value = |sequence, text: &str| {
        SignedValue::sign(&owner, b"mailbox", sequence, until, text.as_bytes()).unwrap()
    };
    let kept = node(3).publish(value(1, "at the third")).await;
    println!("kept by {kept} of {NODES}");
    assert!(kept >= 4, "{kept}");
    let find = async |n: u32| node(n).find(Goal::Value(value(1, "").key())).await.unwrap().value;
    for n in [0, 7, 15, 23] {
        assert_eq!(find(n).await, Some(value(1, "at the third")), "asked by {n}");
    }
    // The owner moves: the newer word wins everywhere.
    assert!(node(9).publish(value(2, "at the ninth")).await >= 4);
    for n in [1, 12, 20] {
        assert_eq!(find(n).await, Some(value(2, "at the ninth")), "asked by {n}");
    }
    // Who asks leaves no trace: visits are no peers, and nobody is blamed.
    sleep(Duration::from_secs(5)).await;
    for n in 0..NODES {
        assert!(node(n).overlay().clients().is_empty(), "{n}");
        assert!(node(n).bans().is_empty(), "{n}");
    }
    // When its time is over it is gone.
    sleep(Duration::from_secs(240)).await;
    assert_eq!(find(5).await, None);
}

//! Nodes behind NATs, that meet through a peer they have in common.

use std::time::Duration;

use ghost_frames::{Payload, StreamType, discovery::PeersRequest};
use ghost_protocol::transport::circuit::is_circuit;
use ghost_testnet::sim::{Fault, Nat, NetworkPlan, NodeId, SimNetwork, wire::Dropped};
use tokio::time::{Instant, sleep};

const COMMON: NodeId = NodeId(0);
const ONE: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// Three nodes, of which the second and third are behind NATs. Both are told of the first, and the third alone of the
/// second: nothing opens the second's NAT to it but what the first brings about.
async fn behind(nat: Nat, circuits_max: u32) -> SimNetwork {
    let nats = [(ONE.0, nat), (OTHER.0, nat)].into();
    let told_of = [(0, vec![]), (ONE.0, vec![COMMON.0]), (OTHER.0, vec![COMMON.0, ONE.0])].into();
    let plan = NetworkPlan {
        nodes: 3,
        authorities: 1,
        outbound: 0,
        told_of,
        nats,
        circuits_max,
        ..NetworkPlan::default()
    };
    SimNetwork::start(plan).await.unwrap()
}

async fn connected(network: &SimNetwork, one: NodeId, other: NodeId, within: Duration) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < within {
        let there = network.node(one).unwrap().overlay().session(&network.peer_id(other));
        if there.is_some_and(|session| !session.is_closing()) {
            return Some(began.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    None
}

#[tokio::test(start_paused = true)]
#[allow(clippy::print_stdout)]
async fn two_nodes_behind_port_restricted_nats_meet_directly() {
    let network = behind(Nat::PortRestricted, 0).await;
    let after = connected(&network, OTHER, ONE, Duration::from_secs(60)).await.expect("they meet");
    println!("behind two NATs: a session after {after:?} of virtual time");
    let session = network.node(OTHER).unwrap().overlay().session(&network.peer_id(ONE)).unwrap();
    assert_eq!(session.remote(), network.wire().address(ONE).into(), "no third is between them");
    assert!(network.wire().totals().dropped_for(Dropped::Nat).packets > 0, "the NATs kept something out");
    // It holds without the one that brought them together.
    network.wire().apply(Fault::Down(COMMON));
    sleep(Duration::from_secs(120)).await;
    assert!(!session.is_closing());
    assert!(session.ping(Duration::from_secs(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
#[allow(clippy::print_stdout)]
async fn two_nodes_behind_symmetric_nats_meet_through_the_common_peer_and_not_if_it_will_not() {
    let network = behind(Nat::Symmetric, 8).await;
    let after = connected(&network, OTHER, ONE, Duration::from_secs(90)).await.expect("they meet");
    println!("behind two symmetric NATs: a circuit after {after:?} of virtual time");
    let session = network.node(OTHER).unwrap().overlay().session(&network.peer_id(ONE)).unwrap();
    assert!(session.remote().ip().is_some_and(|at| is_circuit(&at)));
    assert_eq!(session.peer(), network.peer_id(ONE), "the handshake proved it through the circuit");
    let request = PeersRequest { limit: 8 }.to_frame();
    let answer = session.request(StreamType::Discovery, &request, Duration::from_secs(5)).await.unwrap();
    assert!(answer.single().await.is_ok(), "requests are answered through it");
    sleep(Duration::from_secs(60)).await;
    assert!(!session.is_closing());
    // Its time is over after ten minutes; they meet again.
    sleep(Duration::from_secs(600)).await;
    assert!(session.is_closing(), "a circuit is no home");
    assert!(connected(&network, OTHER, ONE, Duration::from_secs(120)).await.is_some());

    let network = behind(Nat::Symmetric, 0).await;
    assert_eq!(
        connected(&network, OTHER, ONE, Duration::from_secs(60)).await,
        None,
        "nobody passes packets on"
    );
}

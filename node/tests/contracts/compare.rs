//! Several nodes asked at once: the slow, the dead and the liar.

use bytes::Bytes;
use ghost_frames::{
    Frame, Payload, StreamType,
    contract::{CallAnswer, CallRequest},
};
use ghost_node::run::RunningNode;
use ghost_proto::{Call, Multiaddr, PeerId};
use ghost_protocol::{
    Identity,
    client::{Client, CompareError, Pool, PoolConfig, SignedAnswer},
    handshake::{LocalHello, Role},
    inbox::InboxBuilder,
    overlay::{Gate, Overlay, OverlayConfig},
    session::SessionContext,
    transport::quic::Socket,
};

use crate::net::{COUNTER, Net, call, deploy, send, until};

/// A node that asks an honest one and doubles each number before it signs.
struct Liar {
    address: Multiaddr,
    peer: PeerId,
    _overlay: Overlay,
}

async fn liar(net: &Net, honest: Client) -> Liar {
    let identity = Identity::from_seed(&[77; 32]);
    let mut inbox = InboxBuilder::new();
    let mut asked = inbox.requests(StreamType::Rpc, 64);
    let inbox = inbox.build();
    let hello = LocalHello {
        genesis: Some(net.genesis.id()),
        serves: inbox.serves(),
        user_agent: "ghostd/liar".into(),
        record: None,
        best: (0, ghost_proto::BlockId::ZERO),
        finalized_height: 0,
        nonce: 1,
        role: Role::Node,
        tx_salt: Some([0; 16]),
    };
    let (overlay, events) = Overlay::start(
        OverlayConfig {
            onion: None,
            dials_ip: true,
            identity: identity.clone(),
            hello,
            context: SessionContext { inbox, ..SessionContext::default() },
            gate: Gate::default(),
            rng_seed: None,
        },
        vec![Socket::Bind(([127, 0, 0, 1], 0).into())],
    )
    .unwrap();
    drop(tokio::spawn(async move {
        let mut events = events;
        while events.recv().await.is_some() {}
    }));
    let genesis = net.genesis.id();
    let key = identity.key().clone();
    tokio::spawn(async move {
        while let Some(request) = asked.recv().await {
            let frame = match request.frame {
                Frame::CallRequest(CallRequest(call)) => {
                    match honest.call(&Call { signed: false, ..call.clone() }).await {
                        Ok(mut answer) => {
                            let mut output = answer.output.to_vec();
                            output[31] *= 2;
                            answer.output = Bytes::from(output);
                            answer.sign(&call, &genesis, &key);
                            CallAnswer(answer).to_frame()
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                _ => honest.status().await.unwrap().to_frame(),
            };
            let _ = request.responder.answer(&frame).await;
        }
    });
    let local = ghost_protocol::address::of_socket(overlay.local_addresses()[0]);
    let address = ghost_protocol::address::with_peer(local, identity.peer_id());
    Liar { address, peer: identity.peer_id(), _overlay: overlay }
}

async fn same_height(nodes: &[RunningNode], height: u64) {
    until("synchronised", async || nodes.iter().all(|node| node.view().head().height >= height)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_36_the_majority_is_returned_and_the_signed_lie_is_kept() {
    let net = Net::start(2).await;
    let client = net.client(0).await;
    let counter = deploy(&net, &client, 0, COUNTER).await;
    send(&net, &client, 0, call(counter)).await;
    let height = client.status().await.unwrap().head.unwrap().height;
    same_height(&net.nodes, height).await;

    let liar = liar(&net, net.client(1).await).await;
    let addresses = vec![net.address(0), net.address(1), liar.address.clone()];
    let pool = Pool::new(PoolConfig::new(Identity::generate()), addresses);
    let ask = Call { to: Some(counter), ..Call::default() };
    let compared = pool.call_compared(&ask, 3).await.unwrap();
    assert_eq!(compared.answer.output[31], 2);
    assert_eq!((compared.agreeing.len(), compared.dissenting.len()), (2, 1));
    let lies: Vec<&SignedAnswer> = compared.lies().collect();
    assert_eq!((lies[0].peer, lies[0].answer.output[31]), (liar.peer, 4));
    // What was kept convinces anyone.
    let kept = SignedAnswer::parse(lies[0].encode().into()).unwrap();
    assert!(kept.verify().is_ok());
    assert!(kept.contradicts(&compared.agreeing[0]));

    // Half is no majority: of two, neither is believed.
    let two = Pool::new(PoolConfig::new(Identity::generate()), vec![net.address(0), liar.address.clone()]);
    let undecided = two.call_compared(&ask, 2).await;
    assert!(matches!(undecided, Err(CompareError::NoMajority { answers, .. }) if answers.len() == 2));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_goes_on_when_a_node_dies_and_comes_back_to_it() {
    let net = Net::start(2).await;
    let client = net.client(0).await;
    let counter = deploy(&net, &client, 0, COUNTER).await;
    let height = client.status().await.unwrap().head.unwrap().height;
    same_height(&net.nodes, height).await;
    // Nobody listens at the first address.
    let nobody: Multiaddr =
        format!("/ip4/127.0.0.1/udp/1/quic-v1/p2p/{}", Identity::from_seed(&[78; 32]).peer_id())
            .parse()
            .unwrap();
    let addresses = [vec![nobody], net.addresses()].concat();
    let mut config = PoolConfig::new(Identity::generate());
    config.hedge_after = Some(std::time::Duration::from_millis(50));
    let pool = Pool::new(config, addresses);
    let ask = Call { to: Some(counter), ..Call::default() };
    for _ in 0..3 {
        assert_eq!(pool.call(&ask).await.unwrap().output[31], 1);
    }
    let served: Vec<_> = pool.health().iter().map(|node| node.answered).collect();
    assert_eq!(served[0], 0);
    let first = if served[1] > 0 { 0 } else { 1 };
    net.nodes[first].shutdown();
    net.nodes[first].stopped().await;
    for _ in 0..3 {
        assert_eq!(pool.call(&ask).await.unwrap().output[31], 1);
    }
    assert!(pool.health()[2 - first].answered > 0);
    // A request that makes no sense is not tried everywhere.
    let before: u64 = pool.health().iter().map(|node| node.answered).sum();
    assert!(pool.call(&Call { gas_limit: u64::MAX, ..ask }).await.is_err());
    let after: u64 = pool.health().iter().map(|node| node.answered).sum();
    assert_eq!(after, before + 1);
    pool.close().await;
}

//! What a world costs. The figures go to the test's output (`--nocapture`); they are not asserted.

use std::time::Duration;

use ghost_protocol::session::Direction;
use ghost_testnet::sim::{Delay, Loss, Path, Setup, World};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn fifty_nodes_with_eight_dials_each_stay_connected() {
    let (nodes, dials, rounds) = (50, 8, 30);
    let wall = std::time::Instant::now();
    let path = Path::new(Delay::Uniform(Duration::from_millis(10), Duration::from_millis(100)))
        .with_loss(Loss::Random(0.001));
    let world = World::of_peers(1, path, nodes, &Setup::default()).await.unwrap();
    let ids: Vec<_> = world.nodes().map(|(id, _)| id).collect();
    let started = Instant::now();
    let mut dialling = tokio::task::JoinSet::new();
    for (n, from) in ids.iter().enumerate() {
        for step in 1..=dials {
            let to = ids[(n + step) % nodes];
            let (overlay, peer) = (world.node(*from).overlay.clone(), world.node(to).peer_id());
            let address = world.wire().address(to);
            dialling.spawn(async move { overlay.dial(peer, address).await.map(drop) });
        }
    }
    while let Some(dialled) = dialling.join_next().await {
        dialled.unwrap().unwrap();
    }
    let (dialled, dialled_wall) = (started.elapsed(), wall.elapsed());
    assert!(dialled < Duration::from_secs(3), "{dialled:?}");
    let mut pings = 0;
    for _ in 0..rounds {
        let mut pinging = tokio::task::JoinSet::new();
        for (_, peer) in world.nodes() {
            for session in peer.overlay.sessions() {
                pinging.spawn(async move { session.ping(Duration::from_secs(5)).await });
            }
        }
        while let Some(pinged) = pinging.join_next().await {
            pinged.unwrap().unwrap();
            pings += 1;
        }
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(pings, rounds * 2 * nodes * dials);
    for (_, peer) in world.nodes() {
        let sessions = peer.overlay.sessions();
        let outbound = sessions.iter().filter(|session| session.direction() == Direction::Outbound).count();
        assert_eq!((sessions.len(), outbound), (2 * dials, dials));
    }
    let totals = world.wire().totals();
    eprintln!(
        "{} connections in {dialled:?} (wall {dialled_wall:?}); {pings} pings over {:?} (wall {:?}); {} packets, {} MiB",
        nodes * dials,
        started.elapsed(),
        wall.elapsed(),
        totals.sent.packets,
        totals.sent.bytes >> 20,
    );
    // Nothing is left on the wire once everybody is silent.
    timeout(Duration::from_secs(1), async {
        while world.wire().in_flight().packets > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

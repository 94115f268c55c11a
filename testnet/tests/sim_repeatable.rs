//! A world is repeatable: one seed, one course of events, packet for packet.

use std::time::Duration;

use ghost_testnet::sim::{
    Access, Delay, Fault, Loss, Path, Rate, Schedule, Setup, World,
    wire::{Counters, Dropped},
};
use tokio::time::{Instant, sleep};

/// Twelve nodes on a bad network, with a partition, a crash and a new address on the way.
fn run(seed: u64) -> (u64, Counters, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let path = Path::new(Delay::LogNormal { median: Duration::from_millis(60), sigma: 0.4 })
            .with_jitter(Delay::Uniform(Duration::ZERO, Duration::from_millis(5)))
            .with_reordering(0.01, Delay::ms(20))
            .with_loss(Loss::bursts(0.02, 4.0));
        let setup = Setup::default();
        let mut world = World::of_peers(seed, path, 12, &setup).await.unwrap();
        let ids: Vec<_> = world.nodes().map(|(id, _)| id).collect();
        world.wire().set_access(ids[3], Access::symmetric(Rate::new(64 * 1024, Duration::from_millis(100))));
        let schedule = Schedule::new()
            .at(Duration::from_secs(15), Fault::Partition(vec![ids[..4].to_vec()]))
            .at(Duration::from_secs(19), Fault::Heal)
            .at(Duration::from_secs(17), Fault::Down(ids[9]))
            .at(Duration::from_secs(20), Fault::Up(ids[9]))
            .at(Duration::from_secs(21), Fault::Rebind(ids[1], "12.34.56.78:999".parse().unwrap()));
        schedule.start(world.wire());
        for (n, from) in ids.iter().enumerate() {
            for step in [1, 3, 5] {
                let _ = world.dial(*from, ids[(n + step) % ids.len()]).await;
            }
        }
        for _ in 0..20 {
            let sessions: Vec<_> = world.nodes().flat_map(|(_, peer)| peer.overlay.sessions()).collect();
            let pings: Vec<_> = sessions
                .into_iter()
                .map(|session| tokio::spawn(async move { session.ping(Duration::from_secs(1)).await.ok() }))
                .collect();
            for ping in pings {
                let _ = ping.await.unwrap();
            }
            sleep(Duration::from_millis(500)).await;
        }
        world
            .restart(ids[7], async |seat| ghost_testnet::sim::Peer::start(seat, setup.clone()).await)
            .await
            .unwrap();
        let _ = world.dial(ids[7], ids[0]).await;
        sleep(Duration::from_secs(5)).await;
        let mut log: Vec<_> = Vec::new();
        let started = Instant::now();
        for (id, peer) in world.nodes() {
            log.extend(peer.log().into_iter().map(|(at, event)| {
                // Sessions are numbered through the whole process.
                let event = match event {
                    ghost_testnet::sim::world::Happened::Up(peer, direction, _) => {
                        format!("up {peer} {direction:?}")
                    }
                    ghost_testnet::sim::world::Happened::Down(peer, _, closed) => {
                        format!("down {peer} {closed}")
                    }
                    failed => format!("{failed:?}"),
                };
                format!("{id:?} {:?} {event}", started - at)
            }));
        }
        (world.wire().fingerprint(), world.wire().totals(), log)
    })
}

#[test]
fn one_seed_gives_one_course_of_events_and_another_seed_another() {
    let (first, totals, log) = run(1);
    for reason in [Dropped::Loss, Dropped::Partitioned, Dropped::Down] {
        assert!(totals.dropped_for(reason).packets > 9, "nothing was {reason:?}: {totals:?}");
    }
    assert!(
        log.len() >= 60,
        "36 sessions came up at both ends, 6 of them at the node that lost its log: {}",
        log.len()
    );
    let (again, totals_again, log_again) = run(1);
    assert_eq!(log, log_again);
    assert_eq!(totals, totals_again);
    assert_eq!(first, again);
    let others = [run(2).0, run(3).0];
    assert!(first != others[0] && first != others[1] && others[0] != others[1]);
}

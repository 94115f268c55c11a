//! Whole nodes in virtual time: they agree, and go on agreeing when the network or their clocks fail.

use std::time::Duration;

use ghost_testnet::sim::{
    Access, Delay, Fault, Load, Loss, NetworkPlan, NodeId, NodeReading, Pace, Path, Rate, SimNetwork,
    disk::DiskKind, network::heads_agree,
};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn pace(tps: f64, entrances: u32) -> Pace {
    Pace { tps, payload_bytes: 100, entrances }
}

fn nobody_is_banned(readings: &[NodeReading]) {
    for reading in readings {
        assert!(reading.bans.is_empty(), "{:?} bans {:?}", reading.node, reading.bans);
    }
}

/// Where everybody is, for messages.
fn heights(readings: &[NodeReading]) -> Vec<(u64, u64, usize)> {
    readings.iter().map(|reading| (reading.head.0, reading.finalized.0, reading.peers)).collect()
}

/// After the traffic: everything is in a block of everybody, and final.
async fn settles(network: &SimNetwork, load: &mut Load, patience: Duration) -> Duration {
    load.stop();
    let begun = Instant::now();
    while load.waiting() > 0 {
        assert!(begun.elapsed() < patience, "{} transfers are in no block", load.waiting());
        sleep(Duration::from_millis(100)).await;
    }
    let submitted = load.summary().submitted;
    let all_final = |readings: &[NodeReading]| {
        heads_agree(network, readings, 1)
            && readings.iter().all(|r| r.included == submitted && r.pending == 0)
    };
    let settled = network.wait_until(patience.saturating_sub(begun.elapsed()), all_final).await;
    assert!(settled.is_some(), "{submitted} submitted: {:?}", network.read_all());
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn four_nodes_produce_agree_and_finalize_in_virtual_time() {
    let wall = std::time::Instant::now();
    let network = SimNetwork::start(NetworkPlan::default()).await.unwrap();
    let mut load = Load::start(&network, pace(20.0, 4));
    sleep(60 * SECOND).await;
    let readings = network.read_all();
    assert!(heads_agree(&network, &readings, 1), "{:?}", heights(&readings));
    for reading in &readings {
        // A slot each second, begun one second after the world.
        assert!((57..=60).contains(&reading.head.0), "{:?}", heights(&readings));
        assert!(reading.finalized.0 + 3 >= reading.head.0, "{:?}", heights(&readings));
        assert_eq!(reading.peers, 3);
    }
    let summary = load.summary();
    assert_eq!(summary.refused, Default::default());
    let p95 = summary.percentile_ms(0.95).unwrap();
    assert!(p95 < 1_300.0, "a transfer waits for the next slot and for its block: {p95} ms");
    settles(&network, &mut load, 10 * SECOND).await;
    nobody_is_banned(&network.read_all());
    eprintln!("p50 {:?} ms, p95 {p95} ms; wall {:?}", summary.percentile_ms(0.5), wall.elapsed());
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_quick_slots_finalize_with_every_seed() {
    for seed in 0..24 {
        let path = Path::new(Delay::LogNormal { median: Duration::from_millis(8), sigma: 0.7 })
            .with_jitter(Delay::Uniform(Duration::ZERO, Duration::from_millis(3)));
        let plan =
            NetworkPlan { seed, nodes: 2, authorities: 2, slot_ms: 200, path, ..NetworkPlan::default() };
        let network = SimNetwork::start(plan).await.unwrap();
        sleep(20 * SECOND).await;
        let readings = network.read_all();
        assert!(heads_agree(&network, &readings, 1), "seed {seed}: {:?}", heights(&readings));
        for reading in readings {
            assert!(reading.head.0 > 80, "seed {seed}: {reading:?}");
            assert!(reading.finalized.0 + 4 >= reading.head.0, "seed {seed}: {reading:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_38_a_halved_network_converges_in_30_s_once_healed() {
    let path = Path::new(Delay::LogNormal { median: Duration::from_millis(40), sigma: 0.5 });
    let plan =
        NetworkPlan { seed: 38, nodes: 16, authorities: 8, slot_ms: 2_000, path, ..NetworkPlan::default() };
    let network = SimNetwork::start(plan).await.unwrap();
    let mut load = Load::start(&network, pace(4.0, 16));
    sleep(30 * SECOND).await;
    let before = network.wire().totals().received.bytes;
    sleep(60 * SECOND).await;
    let quiet_minute = network.wire().totals().received.bytes - before;
    let whole = network.read_all();
    assert!(heads_agree(&network, &whole, 1), "{:?}", heights(&whole));

    // Authorities on both sides: four and four, so that neither can finalize.
    let side: Vec<NodeId> = network.ids().filter(|id| id.0 % 2 == 0).collect();
    network.wire().apply(Fault::Partition(vec![side]));
    sleep(600 * SECOND).await;
    let parted = network.read_all();
    let finalized = parted.iter().map(|reading| reading.finalized.0).max().unwrap();
    let head = parted.iter().map(|reading| reading.head.0).max().unwrap();
    assert!(head > finalized + 100, "the sides go on without finality: {:?}", heights(&parted));
    assert!(!heads_agree(&network, &parted, 1));

    network.wire().apply(Fault::Heal);
    let before = network.wire().totals().received.bytes;
    let healed = Instant::now();
    let agreed = network
        .wait_until(30 * SECOND, |readings| {
            heads_agree(&network, readings, 1)
                && readings.iter().all(|reading| reading.finalized.0 + 3 >= reading.head.0)
        })
        .await;
    let readings = network.read_all();
    assert!(agreed.is_some(), "not within 30 s: {:?}", heights(&readings));
    sleep((60 * SECOND).saturating_sub(healed.elapsed())).await;
    let healing_minute = network.wire().totals().received.bytes - before;
    // Each side made about 150 blocks that the other lacks, and both are fetched by eight nodes: no
    // more than each body twice, on top of what a minute costs anyway.
    let bodies: u64 = load.summary().submitted * 300 + 300 * 500;
    let most = 2 * quiet_minute + 2 * 16 * bodies;
    eprintln!(
        "agreed after {agreed:?}; a quiet minute took {quiet_minute} bytes, the healing one {healing_minute}, at most {most}"
    );
    assert!(healing_minute < most);
    nobody_is_banned(&network.read_all());
    settles(&network, &mut load, 60 * SECOND).await;
    // Nobody lost a peer for good.
    assert!(
        network.read_all().iter().all(|reading| reading.peers >= 4),
        "{:?}",
        heights(&network.read_all())
    );
}

#[tokio::test(start_paused = true)]
async fn scenario_39_a_third_of_the_nodes_on_bad_links_delays_nobody_by_much() {
    let bad = Path::new(Delay::ms(100)).with_loss(Loss::bursts(0.05, 5.0));
    let plan = NetworkPlan { seed: 39, nodes: 12, authorities: 4, slot_ms: 1_000, ..NetworkPlan::default() };
    let network = SimNetwork::start(plan).await.unwrap();
    // The last third; authorities are none of them, so that the others' latency is the chain's.
    let poor: Vec<NodeId> = network.ids().filter(|id| id.0 >= 8).collect();
    for one in &poor {
        network.wire().set_access(*one, Access::symmetric(Rate::new(1 << 20, Duration::from_millis(200))));
        for other in network.ids().filter(|other| other != one) {
            network.wire().set_path_both_ways(*one, other, bad);
        }
    }
    let mut load = Load::start(&network, pace(20.0, 12));
    sleep(120 * SECOND).await;
    let summary = load.summary();
    let p95 = summary.percentile_ms(0.95).unwrap();
    eprintln!("p50 {:?}, p95 {p95}, p99 {:?} ms", summary.percentile_ms(0.5), summary.percentile_ms(0.99));
    assert!(p95 <= 2_000.0, "{p95} ms");
    let readings = network.read_all();
    assert!(heads_agree(&network, &readings, 2), "{:?}", heights(&readings));
    settles(&network, &mut load, 60 * SECOND).await;
    nobody_is_banned(&network.read_all());
}

#[tokio::test(start_paused = true)]
async fn scenario_40_a_fifth_of_the_clocks_two_minutes_off_hurts_only_those() {
    // 15 nodes, five authorities; one authority and two followers are wrong, in both directions.
    let skew_ms = [(0, 120_000), (7, -120_000), (11, 120_000)].into();
    let plan = NetworkPlan {
        seed: 40,
        nodes: 15,
        authorities: 5,
        slot_ms: 1_000,
        skew_ms,
        ..NetworkPlan::default()
    };
    let network = SimNetwork::start(plan).await.unwrap();
    let mut load = Load::start(&network, pace(5.0, 5));
    sleep(180 * SECOND).await;
    let readings = network.read_all();
    let right: Vec<_> = readings.iter().filter(|r| ![0, 7, 11].contains(&r.node.0)).cloned().collect();
    assert!(heads_agree(&network, &right, 1), "{:?}", heights(&readings));
    for reading in &right {
        // Every slot but those of the authority whose clock is wrong has a block.
        assert!(reading.head.0 >= 180 * 4 / 5 - 5, "{:?}", heights(&readings));
        assert!(reading.finalized.0 + 8 >= reading.head.0, "{:?}", heights(&readings));
    }
    // Peers' clocks move nobody's: no block is from the future by the right ones' clocks.
    for reading in &right {
        let view = network.node(reading.node).unwrap().view();
        let slot = view.head().slot.unwrap();
        assert!(slot <= 180, "{slot}");
    }
    nobody_is_banned(&readings);
    load.stop();
}

#[tokio::test(start_paused = true)]
async fn scenario_30_nodes_that_crash_with_torn_writes_come_back_and_lose_nothing_final() {
    for (seed, disk) in [(1, DiskKind::Memory), (2, DiskKind::Memory), (3, DiskKind::Sled)] {
        let plan = NetworkPlan { seed, slot_ms: 500, disk, ..NetworkPlan::default() };
        let mut network = SimNetwork::start(plan).await.unwrap();
        let mut load = Load::start(&network, pace(20.0, 4));
        sleep(10 * SECOND).await;
        for round in 0..6 {
            let id = NodeId(round % 4);
            let before = network.read(id).unwrap();
            network.crash(id).unwrap();
            sleep(Duration::from_millis(700 * u64::from(round))).await;
            network.restart(id).await.unwrap();
            let after = network.read(id).unwrap();
            assert!(after.finalized.0 + 1 >= before.finalized.0, "seed {seed}: {before:?} {after:?}");
            sleep(15 * SECOND).await;
            let readings = network.read_all();
            assert!(heads_agree(&network, &readings, 2), "seed {seed}: {:?}", heights(&readings));
            assert!(
                readings[id.0 as usize].finalized.0 > before.head.0,
                "seed {seed}: {:?}",
                heights(&readings)
            );
        }
        settles(&network, &mut load, 60 * SECOND).await;
        nobody_is_banned(&network.read_all());
    }
}

/// What a large world costs. The figures go to the output (`--nocapture --ignored`).
#[tokio::test(start_paused = true)]
#[ignore = "takes minutes; run it by name"]
async fn three_hundred_nodes_part_for_ten_minutes_and_heal() {
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let (nodes, minutes) = (number("GHOST_SIM_NODES", 300), number("GHOST_SIM_MINUTES", 10));
    let wall = std::time::Instant::now();
    let path = Path::new(Delay::LogNormal { median: Duration::from_millis(40), sigma: 0.5 });
    let plan = NetworkPlan {
        seed: 300,
        nodes,
        authorities: 4,
        slot_ms: 5_000,
        outbound: 4,
        path,
        ..NetworkPlan::default()
    };
    let network = SimNetwork::start(plan).await.unwrap();
    let mut load = Load::start(&network, pace(1.0, 16));
    let part = minutes * 60 / 5;
    let say = |what: &str| {
        let readings = network.read_all();
        let heads = readings.iter().map(|reading| reading.head.0);
        let links: usize = readings.iter().map(|reading| reading.peers).sum();
        let totals = network.wire().totals();
        eprintln!(
            "{what}: heads {:?} to {:?}, {} links, {} packets, {} MiB; wall {:?}, resident {:?} MiB",
            heads.clone().min(),
            heads.max(),
            links / 2,
            totals.sent.packets,
            totals.sent.bytes >> 20,
            wall.elapsed(),
            ghost_node::metrics::resident_bytes().map(|bytes| bytes >> 20),
        );
    };
    say("started");
    sleep(SECOND * 30).await;
    say("after 30 s");
    sleep(SECOND * (2 * part).saturating_sub(30)).await;
    say("whole");
    let half: Vec<NodeId> = network.ids().filter(|id| id.0 % 2 == 0).collect();
    network.wire().apply(Fault::Partition(vec![half]));
    sleep(SECOND * 2 * part).await;
    say("parted");
    network.wire().apply(Fault::Heal);
    let agreed = network.wait_until(30 * SECOND, |readings| heads_agree(&network, readings, 1)).await;
    say("healed");
    assert!(agreed.is_some());
    sleep(SECOND * part - agreed.unwrap()).await;
    settles(&network, &mut load, 60 * SECOND).await;
    say("settled");
    nobody_is_banned(&network.read_all());
}

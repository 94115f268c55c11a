//! What each adversary costs the honest, against a quiet run of the same network.
//!
//! Every test prints a line: transfer latency, bytes and packets that an honest node received, and how
//! far finality is behind, each beside the quiet run's.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use ghost_proto::PeerId;
use ghost_testnet::{
    adversary::Role,
    sim::{Load, NetworkPlan, NodeReading, Pace, SimNetwork, network::heads_agree},
};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};

const SECOND: Duration = Duration::from_secs(1);
const NODES: u32 = 8;

#[derive(Debug)]
struct Figures {
    p50_ms: f64,
    p95_ms: f64,
    kib_per_node: u64,
    packets_per_node: u64,
    finality_lag: u64,
    banned: usize,
}

/// Eight nodes for 70 s, with transfers; and for the last minute, so many adversaries of a role.
async fn run(role: Option<(Role, usize)>, authorities: u16) -> Figures {
    let plan = NetworkPlan { seed: 9, nodes: NODES, authorities, ..NetworkPlan::default() };
    let mut network = SimNetwork::start(plan).await.unwrap();
    let mut load = Load::start(&network, Pace { tps: 10.0, payload_bytes: 100, entrances: NODES });
    sleep(10 * SECOND).await;
    let mut adversaries = Vec::new();
    if let Some((role, count)) = role {
        adversaries.extend((0..count).map(|_| network.add_adversary(role).unwrap()));
    }
    let received = |readings: &[NodeReading]| {
        let sum = |of: fn(&NodeReading) -> u64| readings.iter().map(of).sum::<u64>() / u64::from(NODES);
        (sum(|r| r.traffic.received.bytes), sum(|r| r.traffic.received.packets))
    };
    let (before, begun) = (received(&network.read_all()), Instant::now());
    sleep(60 * SECOND).await;
    let readings = network.read_all();
    let after = received(&readings);

    // The honest are of one mind, and ban nobody of theirs.
    assert!(heads_agree(&network, &readings, 2), "{role:?}: {readings:?}");
    let hostile: BTreeSet<PeerId> = adversaries.iter().map(|adversary| adversary.peer_id).collect();
    for (peer, why) in readings.iter().flat_map(|reading| &reading.bans) {
        assert!(hostile.contains(peer), "{role:?}: an honest peer is banned for {why}");
    }
    // The others were really there.
    for adversary in &adversaries {
        let deeds = (&adversary.deeds.sessions, &adversary.deeds.done);
        let (sessions, done) = (deeds.0.load(Ordering::Relaxed), deeds.1.load(Ordering::Relaxed));
        assert!(sessions > 0 && done > 0, "{role:?}: {sessions} sessions, {done} deeds");
    }
    let summary = load.summary_between(Some(begun), None);
    let figures = Figures {
        p50_ms: summary.percentile_ms(0.5).unwrap(),
        p95_ms: summary.percentile_ms(0.95).unwrap(),
        kib_per_node: (after.0 - before.0) >> 10,
        packets_per_node: after.1 - before.1,
        finality_lag: readings.iter().map(|r| r.head.0 - r.finalized.0).max().unwrap(),
        banned: readings.iter().flat_map(|r| &r.bans).map(|(peer, _)| *peer).collect::<BTreeSet<_>>().len(),
    };
    // Nothing that was submitted is lost.
    load.stop();
    let patience = Instant::now();
    while load.waiting() > 0 {
        assert!(patience.elapsed() < 30 * SECOND, "{role:?}: {} transfers are in no block", load.waiting());
        sleep(SECOND / 10).await;
    }
    figures
}

/// What a role may cost: milliseconds at the 95th percentile, and bytes received as a multiple.
async fn costs(role: Role, count: usize, p95_more_ms: f64, bytes_times: f64) {
    costs_with(role, count, 4, p95_more_ms, bytes_times).await;
}

async fn costs_with(role: Role, count: usize, authorities: u16, p95_more_ms: f64, bytes_times: f64) {
    static QUIET: [OnceCell<Figures>; 2] = [const { OnceCell::const_new() }; 2];
    let quiet = QUIET[usize::from(authorities > 4)].get_or_init(|| run(None, authorities)).await;
    let loud = run(Some((role, count)), authorities).await;
    eprintln!(
        "{count} {}: p50 {:.0} ms (quiet {:.0}), p95 {:.0} ms ({:.0}), {} KiB per node and minute ({}), \
         {} packets ({}), finality {} behind ({}), {} banned",
        role.name(),
        loud.p50_ms,
        quiet.p50_ms,
        loud.p95_ms,
        quiet.p95_ms,
        loud.kib_per_node,
        quiet.kib_per_node,
        loud.packets_per_node,
        quiet.packets_per_node,
        loud.finality_lag,
        quiet.finality_lag,
        loud.banned,
    );
    assert!(loud.p95_ms <= quiet.p95_ms + p95_more_ms, "{loud:?} {quiet:?}");
    assert!(loud.kib_per_node as f64 <= bytes_times * quiet.kib_per_node as f64, "{loud:?} {quiet:?}");
    assert!(loud.finality_lag <= quiet.finality_lag + 3, "{loud:?} {quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn scenario_18_a_flooder_delays_no_transfer() {
    costs(Role::Flooder, 1, 200.0, 60.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_18_a_liar_that_announces_first_delays_transfers_by_less_than_2_s() {
    costs(Role::Liar, 1, 2_000.0, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_27_a_withholder_delays_no_block_beyond_its_slot() {
    costs(Role::Withholder, 1, 1_500.0, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_11_a_slow_reader_holds_up_nobody() {
    costs(Role::SlowReader, 2, 100.0, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_09_a_slow_writer_holds_up_nobody() {
    costs(Role::SlowWriter, 2, 100.0, 3.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_14_eclipsers_take_places_and_no_transfer_is_late() {
    costs(Role::Eclipser, 24, 300.0, 4.0).await;
}

#[tokio::test(start_paused = true)]
async fn an_equivocator_stops_neither_blocks_nor_finality() {
    costs_with(Role::Equivocator, 1, NODES as u16 + 1, 1_500.0, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_of_junk_is_thrown_out_and_costs_little() {
    costs(Role::Junk, 1, 100.0, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_42_a_churner_of_a_hundred_connections_a_second_delays_no_transfer() {
    costs(Role::Churner, 1, 200.0, 40.0).await;
}

#[tokio::test(start_paused = true)]
async fn scenario_22_a_symbol_poisoner_delays_no_transfer() {
    costs(Role::SymbolPoisoner, 1, 200.0, 4.0).await;
}

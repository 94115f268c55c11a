//! The transaction relay in a simulated network: not only that everything arrives, but how fast, in
//! how many copies, with how many bytes.
//!
//! The large runs are ignored by default:
//!
//! ```text
//! cargo test --release -p ghost-mempool-relay --test relay_sim -- --ignored --nocapture
//! ```

#[path = "../../simulation/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod simulation;

use std::time::Duration;

use simulation::transactions::{Plan, Report, World};

fn run(name: &str, plan: Plan) -> Report {
    let report = World::new(plan.clone()).run();
    // Shown when an assertion fails, and with --nocapture.
    eprintln!("{name} (seed {}, {} nodes, {} tx/s): {report}", plan.seed, plan.nodes, plan.txs_per_second);
    report
}

#[test]
fn a_hundred_nodes_get_everything_once_and_soon() {
    let report = run("honest", Plan::default());
    assert_eq!(report.undelivered, 0);
    assert!(report.copies <= 1.4, "{report}");
    assert!(report.payload <= 1.8, "{report}");
    assert!(report.p90_ms <= 400.0 && report.p99_ms <= 500.0, "{report}");
    assert_eq!(report.offences, []);
}

#[test]
fn silent_announcers_lose_nothing() {
    let report = run("10 % silent", Plan { liars: 0.1, ..Plan::default() });
    assert_eq!(report.undelivered, 0);
    assert!(report.p99_ms <= 700.0, "{report}");
    assert!(report.copies <= 1.5, "{report}");
    assert_eq!(report.offences, []);
}

/// Round trips of 200 ms, links that lose everything in bursts for a twentieth of the time, and a third
/// of the nodes on 1 MiB/s uplinks under ten times the usual load.
#[test]
fn scenario_39_loss_and_narrow_links_slow_it_down_and_blame_nobody() {
    let plan = Plan {
        nodes: 40,
        txs_per_second: 1_000,
        seconds: 3,
        latency: Duration::from_millis(100),
        sigma: 0.0,
        loss: 0.05,
        slow: 0.34,
        ..Plan::default()
    };
    let report = run("5 % bursty loss", plan);
    assert_eq!(report.undelivered, 0);
    assert!(report.p95_ms <= 2_000.0, "{report}");
    assert_eq!(report.offences, []);
    assert!(report.timeouts > 0, "the faults were felt: {report}");
}

/// Uplinks too narrow for the load: sessions refuse frames, and all that was refused is sent later.
#[test]
fn what_a_full_link_refuses_is_sent_later() {
    let plan = Plan {
        nodes: 12,
        outbound: 4,
        txs_per_second: 300,
        seconds: 3,
        latency: Duration::from_millis(20),
        slow: 1.0,
        slow_bytes_per_second: 70_000.0,
        ..Plan::default()
    };
    let report = run("too narrow", plan);
    assert!(report.not_delivered > 0, "the links were full: {report}");
    assert_eq!((report.undelivered, report.offences.len()), (0, 0), "{report}");
}

/// Twenty wallets with fifty transactions each: children overtake parents, wait parked, and go on.
#[test]
fn chains_of_nonces_arrive_whole() {
    let plan = Plan { nodes: 60, txs_per_second: 250, seconds: 4, chain: 50, ..Plan::default() };
    let report = run("chains", plan);
    assert_eq!(report.undelivered, 0);
    assert!(report.p99_ms <= 700.0, "{report}");
    assert!(report.copies <= 1.5, "{report}");
}

/// A testnet on one machine: what waits for others waits for milliseconds.
#[test]
fn short_links_deliver_in_milliseconds() {
    let plan = Plan {
        nodes: 8,
        outbound: 7,
        txs_per_second: 200,
        seconds: 5,
        latency: Duration::from_micros(100),
        sigma: 0.0,
        ..Plan::default()
    };
    let report = run("loopback", plan);
    assert_eq!(report.undelivered, 0);
    // Two hops of validation, three of the wire, and what sharing datagrams costs at this rate. Without
    // any gap it is 2 ms, at ten times the datagrams.
    assert!(report.p99_ms <= 6.0, "{report}");
    assert!(report.copies <= 1.4, "{report}");
}

#[test]
fn one_seed_runs_twice_the_same() {
    let plan = Plan { nodes: 30, seconds: 1, liars: 0.1, loss: 0.02, digest: true, ..Plan::default() };
    let first = World::new(plan.clone()).run();
    assert_eq!(first, World::new(plan.clone()).run());
    assert_ne!(first.digest, World::new(Plan { seed: 2, ..plan }).run().digest);
}

/// The targets of the relay at full size; a gigabyte of memory and a few minutes of CPU.
#[test]
#[ignore = "large; see the head of this file"]
fn a_thousand_nodes_meet_the_targets() {
    let plan = Plan { nodes: 1_000, seconds: 5, ..Plan::default() };
    let honest = run("honest", plan.clone());
    assert_eq!(honest.undelivered, 0);
    assert!(honest.copies <= 1.4 && honest.payload <= 1.8, "{honest}");
    assert!(honest.p90_ms <= 400.0 && honest.p99_ms <= 500.0, "{honest}");
    let lied_to = run("10 % silent", Plan { liars: 0.1, ..plan });
    assert_eq!((lied_to.undelivered, lied_to.offences.len()), (0, 0));
    assert!(lied_to.p99_ms <= 700.0, "{lied_to}");
}

/// Wire bytes at a higher rate, where frames are fuller.
#[test]
#[ignore = "large; see the head of this file"]
fn a_thousand_transactions_a_second_share_their_frames() {
    let report = run("busy", Plan { nodes: 200, txs_per_second: 1_000, seconds: 4, ..Plan::default() });
    assert_eq!(report.undelivered, 0);
    assert!(report.wire <= 2.6, "{report}");
}

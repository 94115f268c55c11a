//! The transaction relay in a simulated network: not only that everything arrives, but how fast, in
//! how many copies, with how many bytes.
//!
//! The large runs are ignored by default:
//!
//! ```text
//! cargo test --release -p ghost-mempool-relay --test relay_sim -- --ignored --nocapture
//! ```

mod world;

use std::time::Duration;

use world::{Plan, Report, World};

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

#[test]
#[ignore]
fn experiment() {
    let env = |name: &str, default: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    run("x", Plan { nodes: env("N", 100.0) as usize, seconds: env("S", 8.0) as u32, txs_per_second: env("R", 100.0) as u32, liars: env("L", 0.0), ..Plan::default() });
}

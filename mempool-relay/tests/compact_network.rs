//! Many nodes with pools, each the real core: how fast and in how many bytes large blocks spread, beside pushing them
//! whole, over the same links.

#[path = "../simulation/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod simulation;

use simulation::blocks::{Lacks, Plan, Protocol, Row, measure};

fn run(plan: Plan) -> Row {
    let row = measure(plan.clone());
    eprintln!("{plan:?}\n  {row:?}");
    assert_eq!((row.offences, row.undelivered), (0, 0), "all are honest");
    row
}

#[test]
fn compact_blocks_beat_whole_ones_in_time_and_bytes_at_0_1_and_10_percent_missing() {
    // About 600 kB.
    let plan = Plan { nodes: 60, transactions: 2_400, ..Plan::default() };
    let full = run(Plan { protocol: Protocol::FullPush, ..plan.clone() });
    for (missing, t99_most, bytes_most) in [(0.0, 400.0, 0.14), (0.01, 700.0, 0.16), (0.1, 900.0, 0.35)] {
        let row = run(Plan { lacks: Lacks::Each(missing), ..plan.clone() });
        assert!(row.times_ms[2] <= t99_most, "{row:?}");
        assert!(row.times_ms[2] * 2.0 < full.times_ms[2], "{row:?} against {full:?}");
        assert!(row.ratio() <= bytes_most && row.ratio() * 20.0 < full.ratio(), "{row:?} against {full:?}");
        assert_eq!((row.stats.whole, row.stats.whole_instead), (0, 0), "none asks for a block whole");
        let share = row.stats.transactions_lacked as f64
            / (row.stats.transactions_lacked + row.stats.transactions_found) as f64;
        assert!((share - missing).abs() < 0.01, "{share}");
        if missing == 0.0 {
            assert_eq!(row.stats.rebuilt, row.stats.rebuilt_at_once, "no round trip");
        }
    }
}

#[test]
fn nodes_without_a_pool_get_blocks_whole_and_once() {
    let row = run(Plan { nodes: 30, transactions: 300, lacks: Lacks::Everything, ..Plan::default() });
    assert_eq!(row.stats.rebuilt, 0);
    assert!(row.ratio() < 1.4, "{row:?}");
}

#[test]
fn nodes_without_a_pool_get_large_blocks_in_shards_faster_than_whole() {
    let plan = Plan { nodes: 60, transactions: 8_000, lacks: Lacks::Everything, ..Plan::default() };
    let announced = run(Plan { protocol: Protocol::AnnounceRequest, ..plan.clone() });
    let sharded = run(plan);
    assert!(sharded.stats.sharded >= 59, "{sharded:?}");
    assert!(sharded.ratio() <= 1.6, "{sharded:?}");
    assert!(sharded.times_ms[2] < announced.times_ms[2], "{sharded:?} against {announced:?}");
}

#[test]
fn what_only_the_proposer_has_goes_in_shards() {
    let plan = Plan { nodes: 60, transactions: 16_000, lacks: Lacks::All(0.1), ..Plan::default() };
    let row = run(plan);
    assert!(row.stats.sharded >= 59, "{row:?}");
    assert!(row.ratio() <= 0.35, "{row:?}");
}

#[test]
fn a_fifth_of_silent_nodes_does_not_stop_a_swarm() {
    let plan =
        Plan { nodes: 60, transactions: 8_000, lacks: Lacks::Everything, silent: 0.2, ..Plan::default() };
    let row = run(plan);
    assert!(row.times_ms[3] < 10_000.0, "{row:?}");
}

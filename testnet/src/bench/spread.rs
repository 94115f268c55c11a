//! How transactions and blocks spread over many nodes: the cores of ghostd beside simpler ways, over the same links.
//!
//! Virtual time: one seed gives the same figures on every machine. Eight peers dialled by each node, round trips lognormal with a
//! median of 100 ms.

#[path = "../../../mempool-relay/simulation/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod simulation;

use simulation::{
    blocks::{self, Lacks, Row},
    transactions::{self, World},
};

use super::{
    BenchArgs, BenchError,
    report::{Comparison, Target},
};

/// Bytes of a simulated transaction.
const TX_BYTES: f64 = 250.0;

/// Nodes and messages for which the targets were set.
const TARGETS_FROM_NODES: u32 = 1_000;

fn seeds(args: &BenchArgs) -> impl Iterator<Item = u64> {
    1..=u64::from(args.runs)
}

/// `testnet bench relay`.
pub(super) fn transactions(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    use transactions::Protocol;
    let run = |protocol, liars| -> Vec<transactions::Report> {
        let plan = |seed| transactions::Plan {
            protocol,
            seed,
            liars,
            nodes: args.nodes as usize,
            seconds: 5,
            ..transactions::Plan::default()
        };
        seeds(args).map(|seed| World::new(plan(seed)).run()).collect()
    };
    let ours = run(Protocol::Core, 0.0);
    let lied_to = run(Protocol::Core, 0.1);
    let name = |what: &str| format!("{} nodes, 100 tx/s of 250 B: {what}", args.nodes);
    let mut out = Vec::new();
    for (rival, reports) in
        [("flooding", run(Protocol::Flood, 0.0)), ("announce and ask", run(Protocol::AnnounceRequest, 0.0))]
    {
        type Figure = fn(&transactions::Report) -> f64;
        let figures: [(&str, &str, Figure, &[Target]); 6] = [
            ("half of the nodes have it", "ms", |one| one.p50_ms, &[]),
            ("90 % have it", "ms", |one| one.p90_ms, &[Target::OursMax(400.0)]),
            ("99 % have it", "ms", |one| one.p99_ms, &[Target::OursMax(500.0)]),
            (
                "bytes of a transaction for each node, without datagrams",
                "B",
                |one| one.payload * TX_BYTES,
                &[Target::OursMax(1.8 * TX_BYTES)],
            ),
            ("the same on the wire", "B", |one| one.wire * TX_BYTES, &[Target::OursMax(3.7 * TX_BYTES)]),
            ("copies of a transaction for each node", "copies", |one| one.copies, &[Target::OursMax(1.4)]),
        ];
        for (what, unit, figure, targets) in figures {
            let [ours, theirs] = [&ours, &reports].map(|all| all.iter().map(figure).collect());
            out.push(Comparison::new(name(what), unit, ("ghost", ours), (rival, theirs), targets));
        }
    }
    let figure = |all: &[transactions::Report]| all.iter().map(|one| one.p99_ms).collect::<Vec<_>>();
    out.push(Comparison::new(
        name("99 % have it, a tenth of the nodes announce and never serve"),
        "ms",
        ("ghost", figure(&lied_to)),
        ("ghost, all honest", figure(&ours)),
        &[Target::OursMax(700.0)],
    ));
    let lost =
        |all: &[transactions::Report]| all.iter().map(|one| one.undelivered as f64).collect::<Vec<_>>();
    out.push(Comparison::new(
        name("undelivered, a tenth of the nodes announce and never serve"),
        "transactions",
        ("ghost", lost(&lied_to)),
        ("ghost, all honest", lost(&ours)),
        &[Target::OursMax(0.0)],
    ));
    Ok(out)
}

/// `testnet bench blocks`.
pub(super) fn blocks(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    use blocks::Protocol;
    let run = |protocol, transactions, lacks| -> Vec<Row> {
        let plan = |seed| blocks::Plan {
            seed,
            protocol,
            transactions,
            lacks,
            nodes: args.nodes as usize,
            ..blocks::Plan::default()
        };
        seeds(args).map(|seed| blocks::measure(plan(seed))).collect()
    };
    let mut out = Vec::new();
    for (size, transactions) in [("50 kB", 200), ("2 MB", 8_000), ("32 MB", 128_000)] {
        let rivals = [
            ("full push", run(Protocol::FullPush, transactions, Lacks::Each(0.0))),
            ("announce and ask", run(Protocol::AnnounceRequest, transactions, Lacks::Each(0.0))),
        ];
        for (lack, lacks) in [
            ("nothing missing", Lacks::Each(0.0)),
            ("1 % missing", Lacks::Each(0.01)),
            ("10 % missing", Lacks::Each(0.1)),
            ("1 % that only the proposer has", Lacks::All(0.01)),
            ("10 % that only the proposer has", Lacks::All(0.1)),
            ("nodes without a mempool", Lacks::Everything),
        ] {
            let ours = run(Protocol::Core, transactions, lacks);
            for (rival, rows) in &rivals {
                type Figure = fn(&Row) -> f64;
                let figures: [(&str, &str, Figure); 5] = [
                    ("half of the nodes have it", "ms", |row| row.times_ms[0]),
                    ("90 % have it", "ms", |row| row.times_ms[1]),
                    ("99 % have it", "ms", |row| row.times_ms[2]),
                    ("bytes for each node over those of the block", "×", Row::ratio),
                    ("bodies that came over those needed", "×", |row| row.bodies),
                ];
                for (what, unit, figure) in figures {
                    let [ours, theirs] = [&ours, rows].map(|all| all.iter().map(figure).collect());
                    let targets = target(args.nodes, size, lack, what);
                    let work = format!("{} nodes, {size}, {lack}: {what}", args.nodes);
                    out.push(Comparison::new(work, unit, ("ghost", ours), (rival, theirs), &targets));
                }
            }
        }
    }
    Ok(out)
}

/// What was set as a target for a thousand nodes; smaller networks have none.
fn target(nodes: u32, size: &str, lack: &str, what: &str) -> Vec<Target> {
    if nodes < TARGETS_FROM_NODES {
        return Vec::new();
    }
    let (times, bytes) = (what.starts_with("99"), what.starts_with("bytes"));
    match (size, lack) {
        ("2 MB", "nothing missing") if what.starts_with("90") => vec![Target::OursMax(300.0)],
        ("2 MB", "nothing missing") if times => vec![Target::OursMax(350.0)],
        ("2 MB", "nothing missing") if bytes => vec![Target::OursMax(0.14)],
        ("2 MB", "1 % missing") if times => vec![Target::OursMax(600.0)],
        ("32 MB", "1 % missing") if times => vec![Target::OursMax(1_100.0)],
        ("32 MB", "nodes without a mempool") if times => vec![Target::OursMax(5_000.0)],
        ("32 MB", "nodes without a mempool") if bytes => vec![Target::OursMax(1.6)],
        _ => Vec::new(),
    }
}

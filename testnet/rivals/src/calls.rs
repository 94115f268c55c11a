//! Calls of contracts: ours, bare QUIC, JSON-RPC over HTTP and WebSocket, gRPC.

use std::{fs, sync::Arc, time::Duration};

use ghost_testnet::bench::calls::{Bare, CONCURRENCIES, GhostAsker, Load, Work, World, connect_all, load};
use tokio::runtime::Runtime;

use crate::{
    Args, chart,
    grpc::{self, GrpcAsker},
    harness::{Failure, Way, alternate},
    json,
    table::{self, Column, ratio, spread},
};

const COLUMNS: [Column<Load>; 3] = [
    ("p50 µs", |load| load.p50_us),
    ("p99 µs", |load| load.p99_us),
    ("calls/s", |load| load.per_second),
];

/// What `targets.md` of the project asks: the rival, how many at once, the column, the bound, and
/// whether the ratio must be at most or at least that.
const TARGETS: [(&str, usize, usize, f64, bool); 8] = [
    ("bare quinn", 1, 0, 1.3, false),
    ("tonic", 64, 2, 2.0, true),
    ("jsonrpsee HTTP", 64, 2, 3.0, true),
    ("jsonrpsee WebSocket", 64, 2, 3.0, true),
    ("tonic", 1, 0, 0.5, false),
    ("jsonrpsee HTTP", 1, 0, 0.5, false),
    ("jsonrpsee WebSocket", 1, 0, 0.5, false),
    ("tonic", 64, 0, 0.5, false),
];

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Versions of what is compared, from the lock file that this was built with.
fn versions() -> String {
    let lock = include_str!("../Cargo.lock");
    let version = |name: &str| {
        let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))?;
        let line = entry.lines().find_map(|line| line.strip_prefix("version = "))?;
        Some(format!("{name} {}", line.trim_matches('"')))
    };
    ["ghost-testnet", "quinn", "jsonrpsee", "tonic", "hyper", "tokio", "revm"]
        .into_iter()
        .filter_map(version)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Measures, prints, and writes.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (server, caller_end) = (runtime(args.threads)?, runtime(args.threads)?);
    let world = Arc::new(server.block_on(async { tokio::spawn(World::start()).await })??);
    let bare = server.block_on(async { Bare::serve(world.clone()) })?;
    let (json_at, _json) = server.block_on(json::serve(world.clone()))?;
    let grpc_at = server.block_on(grpc::serve(world.clone()))?;
    let turn = Duration::from_secs_f64(args.seconds.clamp(0.05, 60.0));

    let load_before = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut text = format!(
        "{}\n{} runs of {} s, all in turns; median [least..most]; {} threads for each end; up to 16 connections each.\n",
        versions(),
        args.runs,
        args.seconds,
        args.threads,
    );
    let mut groups = Vec::new();
    let mut verdicts = String::from("\n### targets\n\n");
    for (work, work_name) in Work::ALL {
        for concurrency in CONCURRENCIES {
            let call = world.call(work);
            let (world, call, bare) = (&world, &call, &bare);
            macro_rules! way {
                ($name:literal, $connect:expr) => {
                    Way::new($name, move || {
                        Ok(caller.block_on(async {
                            let askers = connect_all(concurrency, || $connect).await?;
                            load(askers, concurrency, turn).await
                        })?)
                    })
                };
            }
            let caller = &caller_end;
            let measured = alternate(
                args.runs,
                vec![
                    way!("ghost", GhostAsker::connect(world, work)),
                    way!("bare quinn", bare.connect(call)),
                    way!("tonic", GrpcAsker::connect(grpc_at, call)),
                    way!("jsonrpsee HTTP", async { json::http(json_at, call) }),
                    way!("jsonrpsee WebSocket", json::websocket(json_at, call)),
                ],
            )?;
            let title = format!("{work_name}, {concurrency} at once");
            text += &table::markdown(&title, &measured, &COLUMNS);
            for (rival, at_once, column, bound, least) in TARGETS {
                let Some(rival) = measured.iter().find(|way| way.name == rival && at_once == concurrency) else {
                    continue;
                };
                let (name, of) = COLUMNS[column];
                let found = ratio(&measured[0], rival, of);
                let met = if least { found >= bound } else { found <= bound };
                let (sign, met) = (if least { "≥" } else { "≤" }, if met { "met" } else { "**missed**" });
                verdicts +=
                    &format!("- {title}: {name} {sign} {bound} × {}: {found:.2}, {met}\n", rival.name);
            }
            for (name, of) in [COLUMNS[0], COLUMNS[2]] {
                let bars = measured
                    .iter()
                    .map(|way| (way.name.to_owned(), spread(way.turns.iter().map(of).collect())[0]));
                groups.push(chart::Group { title: format!("{title}: {name}"), bars: bars.collect() });
            }
        }
    }
    text += &verdicts;
    let load_after = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text += &format!("\nload average before: {}, after: {}\n", load_before.trim(), load_after.trim());
    print!("{text}");
    if let Some(dir) = &args.out {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("calls.md"), &text)?;
        fs::write(dir.join("calls.svg"), chart::svg(&groups))?;
    }
    // A node that still runs would hold its runtime open.
    server.shutdown_background();
    caller_end.shutdown_background();
    Ok(())
}

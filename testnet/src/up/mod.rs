//! `testnet up`.

pub mod adversaries;
pub mod child;
pub mod network;
pub mod table;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use ghost_node::cli::{
    output::{Failure, Out},
    parse_duration,
};
use ghost_proto::{
    Multiaddr,
    limits::{SLOT_MS_MAX, SLOT_MS_MIN},
};
use ghost_protocol::client::Client;
use tokio::sync::watch;

use crate::{
    genesis::{NODES_MAX, Plan, SEED_DEFAULT},
    orders::{self, ORDERS_MAX, Orders},
    prices::{PUBLISHERS_DEFAULT, Publishers},
    report::{Report, report, settle},
    stop::Stop,
    traffic::{Pace, TPS_MAX, Tracker, Traffic, accounts_for, directory_of, lost_lane},
};
use network::{Network, Topology};

const EXAMPLES: &str = "\
Examples:
  testnet up
  testnet up --orders 200 --for 30s             more trading
  testnet up --nodes 16 --tps 500 --for 60s --json
  testnet up --adversary eclipser=3 --adversary liar
  testnet up --dir /tmp/net --keep              homes and logs stay there
  ghostd status --node ADDRESS                  with an address that is printed

Without --for it runs until Ctrl-C, and sums up then. A node that ends by itself is marked as down, and the others go
on. Exit code 1 if one did, or if the heads do not agree at the end, or
an accepted transaction is not in a block of every node, or is not final.";

/// `testnet up`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct UpArgs {
    /// How many nodes, at most 64; the first 16 propose and vote
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    pub nodes: u16,
    /// Transfers a second over all nodes, at most 20000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=i64::from(TPS_MAX)))]
    pub tps: u32,
    /// Orders a second over all markets, at most 2000
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(0..=i64::from(ORDERS_MAX)))]
    pub orders: u32,
    /// Decides every key
    #[arg(long, value_name = "S", default_value_t = SEED_DEFAULT)]
    pub seed: u64,
    /// How long to make traffic [default: until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// End with one JSON object on standard output, and show nothing else there
    #[arg(long)]
    pub json: bool,
    /// Where to put the homes; must be empty or not there [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the homes and logs where they are
    #[arg(long)]
    pub keep: bool,
    /// Slot length in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(SLOT_MS_MIN..=SLOT_MS_MAX))]
    pub slot_ms: u64,
    /// Peers that mean harm: flooder, liar, withholder, slow-reader, slow-writer, eclipser, equivocator, junk,
    /// churner, price-equivocator or symbol-poisoner. May be given again
    #[arg(long = "adversary", value_name = "ROLE[=N]", value_parser = adversaries::parse)]
    pub adversaries: Vec<adversaries::Asked>,
    /// Whom each node is told of when it starts; they find the others
    #[arg(long, value_enum, value_name = "SHAPE", default_value_t)]
    pub topology: Topology,
    /// Which lines the nodes log, such as warn,ghost=debug; each to ghostd.log in its home
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Runs a network until its time is over or someone asks to stop, and sums it up.
pub async fn run(args: &UpArgs, out: &Out, stop: &Stop) -> Result<ExitCode, Failure> {
    let plan = Plan {
        seed: args.seed,
        nodes: args.nodes,
        accounts: accounts_for(args.tps, args.nodes),
        slot_ms: args.slot_ms,
        spare_authorities: adversaries::authorities(&args.adversaries),
        publishers: PUBLISHERS_DEFAULT + adversaries::publishers(&args.adversaries),
    };
    let mut network = Network::prepare(plan, args.dir.as_deref(), args.keep, args.log.clone())?
        .with_topology(args.topology);
    let dir = network.dir().to_owned();
    stop.would_leave(&dir);
    let result = live(args, &mut network, out, stop).await;
    // Whatever happened, no process is left behind.
    let killed = network.stop().await;
    if killed > 0 {
        out.remark(format!("{killed} nodes did not stop within their time and were killed"));
    }
    if args.keep {
        out.remark(format!("homes and logs are in {}", dir.display()));
    }
    let Some(report) = result? else {
        return Err(Failure::new("stopped before all nodes ran"));
    };
    let complaints = report.complaints();
    out.answer(&report, report.text())?;
    for complaint in &complaints {
        let _ = writeln!(io::stderr(), "error: {complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// From the first process to the report; `None` if it was stopped before all nodes ran.
async fn live(
    args: &UpArgs,
    network: &mut Network,
    out: &Out,
    stop: &Stop,
) -> Result<Option<Report>, Failure> {
    let started = Instant::now();
    tokio::select! {
        result = network.start_all() => result?,
        () = stop.asked() => return Ok(None),
    }
    // Before the addresses are told: from then on any node may end, and the others go on.
    let clients = network.connect_all().await?;
    out.remark(format!("{} nodes listen after {:.1} s:", args.nodes, started.elapsed().as_secs_f64()));
    for node in network.nodes() {
        // Those who read JSON may want to point a client at them too.
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let _ = writeln!(io::stderr(), "node {}  {}", node.index, addresses.join(" "));
    }
    let (directory, addresses) = watch::channel(directory_of(network.nodes()));
    let pace = Pace { tps: args.tps, seed: args.seed, duration: args.duration };
    let mut traffic = Traffic::start(pace, network.plan().senders(), network.genesis(), addresses.clone());
    let orders = Orders::start(args.orders, args.seed, &addresses);
    let tracker = traffic.tracker.clone();
    let _publishers = Publishers::start(args.seed, PUBLISHERS_DEFAULT, network.genesis(), &addresses);
    let hostile = adversaries::start_all(network, &args.adversaries)?;
    let begun = Instant::now();
    let over = async {
        match args.duration {
            Some(duration) => drop(stop.sleep(duration).await),
            None => stop.asked().await,
        }
    };
    let shown = async {
        match args.json {
            true => std::future::pending().await,
            false => table::show(&clients, &tracker, &addresses).await,
        }
    };
    let watched = async {
        loop {
            let index = network.next_ended().await;
            if let Some(failure) = note_ended(network, index, &tracker, &directory) {
                return failure;
            }
        }
    };
    tokio::select! {
        () = over => {}
        () = shown => {}
        failure = watched => return Err(failure),
    }
    for line in adversaries::deeds(&hostile) {
        out.remark(line);
    }
    // They go before the count: what they hold back would only be waited for.
    drop(hostile);
    traffic.stop_lanes().await;
    orders.stop().await;
    let traffic_time = begun.elapsed();
    out.remark("traffic ended; waiting until everything is in blocks and final");
    let (running, moment) = loop {
        let running: Vec<Client> = network
            .nodes()
            .iter()
            .zip(&clients)
            .filter(|(node, _)| node.ended.is_none())
            .map(|(_, client)| client.clone())
            .collect();
        let ended = tokio::select! {
            moment = settle(&running, &tracker, args.slot_ms, Some(stop)) => break (running, moment),
            ended = network.next_ended() => ended,
        };
        if let Some(failure) = note_ended(network, ended, &tracker, &directory) {
            return Err(failure);
        }
    };
    let tracker = traffic.finish().await;
    let summary = tracker.summary();
    if let Some(failure) = lost_lane(&summary) {
        return Err(failure);
    }
    if summary.rejected > 0 {
        out.remark(format!("refused: {}", summary.reasons_text()));
    }
    let mut report = report(&running, &moment, &summary, &tracker.accepted_ids(), traffic_time).await?;
    report.prices =
        Some(crate::prices::read(&running, PUBLISHERS_DEFAULT, network.genesis(), moment.height()).await?);
    if args.orders > 0 {
        report.orders = Some(orders::report(&running).await?);
    }
    for node in network.nodes() {
        if let Some(how) = &node.ended {
            let last = tracker.take_reported(node.index);
            report.add_ended(node.index, node.peer_id.to_string(), &last, how.clone());
        }
    }
    Ok(Some(report))
}

/// Says that a node has ended by itself, and takes it off the lists of those that are asked. A failure if
/// it was the last one.
fn note_ended(
    network: &Network,
    index: usize,
    tracker: &Tracker,
    directory: &watch::Sender<Vec<Vec<Multiaddr>>>,
) -> Option<Failure> {
    let node = &network.nodes()[index];
    let how = node.ended.as_deref().unwrap_or("for no known reason");
    tracker.node_ended(index);
    directory.send_modify(|all| all[index].clear());
    if network.nodes().iter().all(|node| node.ended.is_some()) {
        return Some(
            Failure::new(format!("no node is left; node {index} was the last to end by itself ({how})"))
                .hint("with --dir DIR --keep their logs stay, in DIR/node-0/ghostd.log and so on"),
        );
    }
    let _ = writeln!(
        io::stderr(),
        "node {index} ended by itself ({how}), the others go on; the last lines of its log:\n  {}",
        node.log_tail()
    );
    None
}

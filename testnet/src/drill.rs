//! `testnet restart-drill`: nodes are killed without warning, again and again, and nothing that they
//! acknowledged may be lost.
//!
//! *Acknowledged* is what a node said itself before it was killed: the block it named as its head, the
//! height it named as final, and every transfer it showed in a canonical block. After it is back, that
//! block must be there, finality must not have gone back, and every one of these transfers must stand in
//! a canonical block. (A block that was head may have been left for a better branch meanwhile; it is
//! still there by its id.)

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use ghost_node::cli::{
    output::{Failure, Out},
    parse_duration,
};
use ghost_proto::{BlockId, TxId, message, message::BlockDetail};
use ghost_protocol::client::{BlockSelector, Client};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use serde_json::json;
use tokio::{sync::watch, time};

use crate::{
    genesis::{Plan, SEED_DEFAULT},
    report::{count, settle},
    stop::Stop,
    traffic::{Pace, Reported, Traffic, accounts_for, directory_of},
    up::network::Network,
};

/// How long a node may take to catch up, besides a tenth of the time it was away.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a transfer that a reorganisation took out of its block may take into another one.
const INCLUDED_AGAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How often nodes are asked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Latest moment of a kill after the node before was back, in milliseconds; the earliest is a tenth.
const MOMENT_MS_MAX: u32 = 5_000;

const EXAMPLES: &str = "\
Examples:
  testnet restart-drill                         30 tries with 20 s of absence each: about 12 minutes
  testnet restart-drill --tries 3 --down 2s
  testnet restart-drill --seed 8 --json         one line a try, and one at the end

Exit code 1 as soon as a node does not catch up, or something it acknowledged is lost.";

/// `testnet restart-drill`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct DrillArgs {
    /// How many kills
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tries: u32,
    /// How many nodes; with fewer than 4, finality stops while one is away
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub nodes: u16,
    /// How long a killed node stays away
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub down: Duration,
    /// Transfers a second over all nodes
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub tps: u32,
    /// Decides every key, which node is killed, and when
    #[arg(long, value_name = "S", default_value_t = SEED_DEFAULT)]
    pub seed: u64,
    /// One JSON object a line, on standard output
    #[arg(long)]
    pub json: bool,
    /// Where to put the homes; must be empty or not there [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the homes and logs where they are
    #[arg(long)]
    pub keep: bool,
    /// Slot length in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    pub slot_ms: u64,
    /// Which lines the nodes log; each to ghostd.log in its home
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// What one try showed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Try {
    node: usize,
    moment: Duration,
    acknowledged: Acknowledged,
    /// The height it named when it was first asked again.
    height_back: u64,
    listening_after: Duration,
    caught_up_height: u64,
    caught_up_after: Duration,
}

/// What a node had said before it was killed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Acknowledged {
    head: Option<(u64, BlockId)>,
    finalized: u64,
    included: Vec<TxId>,
}

impl Acknowledged {
    /// Joins what the watcher heard with the last answer to a direct question.
    fn new(reported: Reported, status: &message::Status) -> Result<Self, Failure> {
        let asked = match &status.head {
            Some(head) => Some((head.height, BlockId::try_from(head.id.as_ref())?)),
            None => None,
        };
        let finalized = status.finalized.as_ref().map_or(0, |block| block.height);
        Ok(Self {
            head: asked.or(reported.head),
            finalized: finalized.max(reported.finalized),
            included: reported.included,
        })
    }
}

/// Runs the drill.
pub async fn run(args: &DrillArgs, out: &Out, stop: &Stop) -> Result<ExitCode, Failure> {
    let plan = Plan {
        seed: args.seed,
        nodes: args.nodes,
        accounts: accounts_for(args.tps, args.nodes),
        slot_ms: args.slot_ms,
        spare_authorities: 0,
        publishers: 0,
    };
    let mut network = Network::prepare(plan, args.dir.as_deref(), args.keep, args.log.clone())?;
    let dir = network.dir().to_owned();
    let result = drill(args, &mut network, out, stop).await;
    network.stop().await;
    if args.keep {
        out.remark(format!("homes and logs are in {}", dir.display()));
    }
    result
}

async fn drill(args: &DrillArgs, network: &mut Network, out: &Out, stop: &Stop) -> Result<ExitCode, Failure> {
    tokio::select! {
        result = network.start_all() => result?,
        () = stop.asked() => return Err(Failure::new("stopped before all nodes ran")),
    }
    let (directory, addresses) = watch::channel(directory_of(network.nodes()));
    let pace = Pace { tps: args.tps, seed: args.seed, duration: None };
    let mut traffic = Traffic::start(pace, network.plan().senders(), network.genesis(), addresses);
    let mut rng = ChaCha12Rng::seed_from_u64(args.seed);
    let started = Instant::now();
    for number in 1..=args.tries {
        let attempt = async {
            one_try(args, network, &directory, &traffic, &mut rng).await.map_err(|failure| {
                Failure::new(format!("try {number} of {}: {}", args.tries, failure.text()))
            })
        };
        let shown = tokio::select! {
            shown = attempt => shown?,
            () = stop.asked() => return Err(Failure::new(format!("stopped during try {number} of {}", args.tries))),
        };
        print_try(number, args.tries, &shown, out)?;
    }
    traffic.stop_lanes().await;
    let clients = network.connect_all().await?;
    let moment = settle(&clients, &traffic.tracker, args.slot_ms, Some(stop)).await;
    let tracker = traffic.finish().await;
    let counted = count(&clients, moment.height(), &tracker.accepted_ids()).await?;
    let summary = tracker.summary();
    let all_there = counted.included == summary.accepted && counted.agree && moment.agree;
    out.answer(
        &json!({
            "tries": args.tries, "passed": all_there, "seconds": started.elapsed().as_secs_f64(),
            "blocks": moment.height(), "finalized": moment.finalized(), "heads_agree": moment.agree && counted.agree,
            "tx": { "submitted": summary.accepted + summary.rejected, "included": counted.included, "rejected": summary.rejected },
        }),
        format!(
            "{} tries in {:.0} s: {} of {} accepted transactions are in blocks of every node; heads {}",
            args.tries,
            started.elapsed().as_secs_f64(),
            counted.included,
            summary.accepted,
            if moment.agree && counted.agree { "agree" } else { "DO NOT AGREE" }
        ),
    )?;
    Ok(if all_there { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn one_try(
    args: &DrillArgs,
    network: &mut Network,
    directory: &watch::Sender<Vec<Vec<ghost_proto::Multiaddr>>>,
    traffic: &Traffic,
    rng: &mut ChaCha12Rng,
) -> Result<Try, Failure> {
    let moment_ms = MOMENT_MS_MAX / 10 + rng.next_u32() % (MOMENT_MS_MAX * 9 / 10);
    let moment = Duration::from_millis(moment_ms.into());
    let victim = rng.next_u32() as usize % network.nodes().len();
    time::sleep(moment).await;

    let status = network.connect(victim).await?.status().await?;
    let reported = traffic.tracker.take_reported(victim);
    network.kill(victim).await?;
    let acknowledged = Acknowledged::new(reported, &status)?;
    directory.send_modify(|all| all[victim] = Vec::new());
    time::sleep(args.down).await;

    let restarting = Instant::now();
    network.restart(victim).await?;
    let listening_after = restarting.elapsed();
    directory.send_modify(|all| all[victim].clone_from(&network.nodes()[victim].addresses));
    let client = network.connect(victim).await?;
    let back = client.status().await?;
    if let Some((height, id)) = acknowledged.head
        && client.block(BlockSelector::Id(id), BlockDetail::Header).await?.is_none()
    {
        return Err(Failure::new(format!(
            "node {victim} lost block {height} {id}, which it had named as its head"
        )));
    }

    let (caught_up_height, caught_up_after) = catch_up(args, network, victim, &client).await?;
    let status = client.status().await?;
    let finalized = status.finalized.as_ref().map_or(0, |block| block.height);
    if finalized < acknowledged.finalized {
        return Err(Failure::new(format!(
            "node {victim} had named height {} as final, and names {finalized} now",
            acknowledged.finalized
        )));
    }
    let deadline = Instant::now() + INCLUDED_AGAIN_TIMEOUT;
    for id in &acknowledged.included {
        loop {
            if client.transaction(*id).await?.is_some_and(|answer| answer.included) {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "node {victim} had shown transaction {id} in a block, and it is in none now"
                )));
            }
            time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(Try {
        node: victim,
        moment,
        acknowledged,
        height_back: back.head.map_or(0, |head| head.height),
        listening_after,
        caught_up_height,
        caught_up_after,
    })
}

/// Waits until the node is on the chain of the others, at the height they have now or above.
async fn catch_up(
    args: &DrillArgs,
    network: &Network,
    victim: usize,
    client: &Client,
) -> Result<(u64, Duration), Failure> {
    let started = Instant::now();
    let timeout = CATCH_UP_TIMEOUT + args.down / 10;
    let other = if victim == 0 { 1 } else { 0 };
    let other = network.connect(other).await?;
    let goal = other.status().await?.head.map_or(0, |head| head.height);
    loop {
        let height = client.status().await?.head.map_or(0, |head| head.height);
        if height >= goal {
            let ours = client.block(BlockSelector::Height(goal), BlockDetail::Header).await?;
            let theirs = other.block(BlockSelector::Height(goal), BlockDetail::Header).await?;
            if ours.is_some() && ours.map(|block| block.header) == theirs.map(|block| block.header) {
                return Ok((height, started.elapsed()));
            }
        }
        if started.elapsed() > timeout {
            return Err(Failure::new(format!(
                "node {victim} is at height {height} after {:.0} s, the others were at {goal} when it came back",
                started.elapsed().as_secs_f64()
            )));
        }
        time::sleep(LOOK_EVERY).await;
    }
}

fn print_try(number: u32, tries: u32, shown: &Try, out: &Out) -> Result<(), Failure> {
    let (height, id) = shown.acknowledged.head.unwrap_or_default();
    out.answer(
        &json!({
            "try": number, "node": shown.node, "killed_after_ms": shown.moment.as_millis() as u64,
            "acknowledged_height": height, "acknowledged_block": id.to_string(),
            "acknowledged_finalized": shown.acknowledged.finalized,
            "acknowledged_transactions": shown.acknowledged.included.len(),
            "height_back": shown.height_back,
            "listening_after_ms": shown.listening_after.as_millis() as u64,
            "caught_up_height": shown.caught_up_height,
            "caught_up_after_ms": shown.caught_up_after.as_millis() as u64,
            "lost": 0,
        }),
        format!(
            "try {number:>2}/{tries}: node {} killed at height {height} ({}); listens again after {} ms with height {}, \
             caught up to {} after {} ms; {} acknowledged transactions all there",
            shown.node,
            id.short(),
            shown.listening_after.as_millis(),
            shown.height_back,
            shown.caught_up_height,
            shown.caught_up_after.as_millis(),
            shown.acknowledged.included.len(),
        ),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_node_counts() {
        let block = |height, n: u8| message::BlockRef { height, id: vec![n; 32].into(), slot: 0 };
        let reported =
            Reported { head: Some((4, BlockId([4; 32]))), finalized: 3, included: vec![TxId([1; 32])] };
        let status =
            message::Status { head: Some(block(5, 5)), finalized: Some(block(2, 2)), ..Default::default() };
        let acknowledged = Acknowledged::new(reported.clone(), &status).unwrap();
        assert_eq!(acknowledged.head, Some((5, BlockId([5; 32]))));
        assert_eq!(acknowledged.finalized, 3);
        assert_eq!(acknowledged.included.len(), 1);
        let silent = Acknowledged::new(reported, &message::Status::default()).unwrap();
        assert_eq!(silent.head, Some((4, BlockId([4; 32]))));
    }
}

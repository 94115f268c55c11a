//! `testnet soak`: a network under traffic, with nodes that die and come back, for as long as one likes;
//! and whether memory and descriptors of those that live long stay where they were.
//!
//! Node 0 is never killed, so one life is as long as the run. A life is judged from its second quarter
//! on: before that caches fill and sessions are made.

use std::{
    collections::BTreeMap,
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use ghost_node::cli::{
    output::{Failure, Out, bytes_for_people},
    parse_duration,
};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;
use tokio::{sync::watch, time::sleep};

use crate::{
    genesis::{NODES_MAX, Plan, SEED_DEFAULT},
    report::{Report, report, settle},
    stop::Stop,
    traffic::{Pace, TPS_MAX, Traffic, accounts_for, directory_of},
    up::{adversaries, network::Network},
};

/// How often memory and descriptors are read; longer in long runs, so that no series is longer than
/// [`SAMPLES_MAX`].
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Samples of one life: 2,000 × 24 bytes for each node.
const SAMPLES_MAX: u32 = 2_000;

/// A life with fewer samples is not judged.
const SAMPLES_MIN: usize = 16;

/// How much more memory a life may take at its end than in its second quarter: a tenth, and this. The
/// final chain is on disk; what grows with it in memory is the store's index, some 100 bytes a block.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// How many more descriptors.
const GROWTH_DESCRIPTORS_MAX: u64 = 8;

/// How long a killed node stays down.
const DOWN: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  testnet soak                                  ten minutes, a node killed every 20 s
  testnet soak --for 2h --churn 1m --adversary liar --adversary churner
  testnet soak --for 30s --churn 5s --json

Exit code 1 if the heads do not agree at the end, a transaction is lost, or memory or descriptors grow.";

/// `testnet soak`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SoakArgs {
    /// How long to make traffic
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    pub duration: Duration,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=i64::from(NODES_MAX)))]
    pub nodes: u16,
    /// Transfers a second over all nodes
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=i64::from(TPS_MAX)))]
    pub tps: u32,
    /// How often a node is killed and started again, 2 s later; 0s for never
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub churn: Duration,
    /// Peers that mean harm, as for `up`
    #[arg(long = "adversary", value_name = "ROLE[=N]", value_parser = adversaries::parse)]
    pub adversaries: Vec<adversaries::Asked>,
    /// Decides every key, and who is killed when
    #[arg(long, value_name = "S", default_value_t = SEED_DEFAULT)]
    pub seed: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Memory and descriptors of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    resident_bytes: u64,
    descriptors: u64,
}

impl Sample {
    fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Self { resident_bytes: kib << 10, descriptors })
    }
}

/// What became of memory and descriptors in one life of one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Life {
    /// Which node.
    pub node: usize,
    /// Seconds it was watched.
    pub seconds: f64,
    /// Median resident bytes of its second quarter.
    pub resident_bytes_before: u64,
    /// Of its last quarter.
    pub resident_bytes_after: u64,
    /// Most descriptors in its second quarter.
    pub descriptors_before: u64,
    /// In its last quarter.
    pub descriptors_after: u64,
}

impl Life {
    /// `None` if it was too short to be judged.
    fn of(node: usize, samples: &[Sample], every: Duration) -> Option<Self> {
        if samples.len() < SAMPLES_MIN {
            return None;
        }
        let quarter = samples.len() / 4;
        let (second, last) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
        let median = |samples: &[Sample]| {
            let mut all: Vec<u64> = samples.iter().map(|sample| sample.resident_bytes).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        let most = |samples: &[Sample]| samples.iter().map(|sample| sample.descriptors).max().unwrap_or(0);
        Some(Self {
            node,
            seconds: every.as_secs_f64() * samples.len() as f64,
            resident_bytes_before: median(second),
            resident_bytes_after: median(last),
            descriptors_before: most(second),
            descriptors_after: most(last),
        })
    }

    fn complaint(&self) -> Option<String> {
        let (before, after) = (self.resident_bytes_before, self.resident_bytes_after);
        if after > before + before / 10 + GROWTH_BYTES_MAX {
            return Some(format!(
                "node {} grew from {} to {} in {:.0} s",
                self.node,
                bytes_for_people(before),
                bytes_for_people(after),
                self.seconds
            ));
        }
        (self.descriptors_after > self.descriptors_before + GROWTH_DESCRIPTORS_MAX).then(|| {
            format!(
                "node {} had {} descriptors open and has {}",
                self.node, self.descriptors_before, self.descriptors_after
            )
        })
    }
}

/// Runs it.
///
/// # Errors
/// If the network does not start, or a node ends by itself.
pub async fn run(args: &SoakArgs, out: &Out, stop: &Stop) -> Result<ExitCode, Failure> {
    let plan = Plan {
        seed: args.seed,
        nodes: args.nodes,
        accounts: accounts_for(args.tps, args.nodes),
        slot_ms: 1_000,
        spare_authorities: adversaries::authorities(&args.adversaries),
        publishers: 0,
    };
    let mut network = Network::prepare(plan, None, false, None)?;
    let result = soak(args, &mut network, out, stop).await;
    // Whatever happened, no process is left behind.
    network.stop().await;
    result
}

/// The samples of the lives that go on, and what became of those that ended.
#[derive(Debug, Default)]
struct Lives {
    running: BTreeMap<usize, Vec<Sample>>,
    ended: Vec<Life>,
}

impl Lives {
    fn sample(&mut self, network: &Network) {
        for node in network.nodes() {
            if let Some(sample) = node.pid().and_then(Sample::of) {
                self.running.entry(node.index).or_default().push(sample);
            }
        }
    }

    fn end(&mut self, node: usize, every: Duration) {
        let samples = self.running.remove(&node).unwrap_or_default();
        self.ended.extend(Life::of(node, &samples, every));
    }
}

async fn soak(args: &SoakArgs, network: &mut Network, out: &Out, stop: &Stop) -> Result<ExitCode, Failure> {
    tokio::select! {
        result = network.start_all() => result?,
        () = stop.asked() => return Err(Failure::new("stopped before all nodes ran")),
    }
    let (directory, addresses) = watch::channel(directory_of(network.nodes()));
    let pace = Pace { tps: args.tps, seed: args.seed, duration: Some(args.duration) };
    let mut traffic = Traffic::start(pace, network.plan().senders(), network.genesis(), addresses);
    let hostile = adversaries::start_all(network, &args.adversaries)?;
    let every = SAMPLE_EVERY.max(args.duration / SAMPLES_MAX);
    let mut rng = ChaCha12Rng::seed_from_u64(args.seed);
    let (begun, mut lives, mut kills) = (Instant::now(), Lives::default(), 0_u32);
    let mut next_kill = args.churn;
    while begun.elapsed() < args.duration && !stop.is_asked() {
        tokio::select! {
            () = sleep(every) => {}
            () = stop.asked() => {}
            failure = network.watch() => return Err(failure),
        }
        lives.sample(network);
        // The last ones are given time to come back.
        let may_kill = !args.churn.is_zero() && begun.elapsed() + 3 * DOWN < args.duration;
        if may_kill && begun.elapsed() >= next_kill {
            next_kill += args.churn;
            let victim = 1 + rng.next_u32() as usize % (network.nodes().len() - 1);
            network.kill(victim).await?;
            lives.end(victim, every);
            directory.send_modify(|all| all[victim] = Vec::new());
            sleep(DOWN).await;
            network.restart(victim).await?;
            directory.send_modify(|all| all[victim].clone_from(&network.nodes()[victim].addresses));
            kills += 1;
        }
    }
    let traffic_time = begun.elapsed();
    for line in adversaries::deeds(&hostile) {
        out.remark(line);
    }
    drop(hostile);
    traffic.stop_lanes().await;
    for node in 0..network.nodes().len() {
        lives.end(node, every);
    }
    let clients = network.connect_all().await?;
    let moment = settle(&clients, &traffic.tracker, 1_000, Some(stop)).await;
    let tracker = traffic.finish().await;
    let summary = tracker.summary();
    let counted = report(&clients, &moment, &summary, &tracker.accepted_ids(), traffic_time).await?;
    sum_up(counted, lives.ended, kills, out)
}

fn sum_up(counted: Report, lives: Vec<Life>, kills: u32, out: &Out) -> Result<ExitCode, Failure> {
    let mut complaints = counted.complaints();
    complaints.extend(lives.iter().filter_map(Life::complaint));
    let mut text = format!("{}\n{kills} nodes killed and started again\n", counted.text().trim_end());
    for life in &lives {
        text += &format!(
            "node {} over {:.0} s: {} to {}, {} to {} descriptors\n",
            life.node,
            life.seconds,
            bytes_for_people(life.resident_bytes_before),
            bytes_for_people(life.resident_bytes_after),
            life.descriptors_before,
            life.descriptors_after
        );
    }
    for complaint in &complaints {
        text += &format!("BROKEN: {complaint}\n");
    }
    let passed = complaints.is_empty();
    let value = serde_json::json!({
        "passed": passed, "complaints": complaints, "killed": kills, "lives": lives, "network": counted,
    });
    out.answer(&value, text)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(of: impl Fn(u64) -> (u64, u64)) -> Life {
        let samples: Vec<Sample> = (0..40)
            .map(|n| {
                let (resident_bytes, descriptors) = of(n);
                Sample { resident_bytes, descriptors }
            })
            .collect();
        Life::of(1, &samples, SAMPLE_EVERY).unwrap()
    }

    #[test]
    fn growth_is_told_from_warming_up_and_from_noise() {
        const MIB: u64 = 1 << 20;
        // The first quarter does not count; a tenth and 16 MiB are allowed from the second to the last.
        assert_eq!(life(|n| (if n < 10 { 10 * MIB } else { 100 * MIB }, 20)).complaint(), None);
        let grown = |by: u64| life(move |n| (if n < 20 { 100 * MIB } else { 100 * MIB + by }, 20));
        assert_eq!(grown(26 * MIB).complaint(), None);
        assert!(grown(26 * MIB + 1).complaint().unwrap().contains("grew"));
        let leaks = |by: u64| life(move |n| (100 * MIB, if n < 20 { 20 } else { 20 + by }));
        assert_eq!(leaks(8).complaint(), None);
        assert!(leaks(9).complaint().unwrap().contains("29"));
    }

    #[test]
    fn a_short_life_is_not_judged() {
        let sample = Sample { resident_bytes: 1, descriptors: 1 };
        assert_eq!(Life::of(1, &[sample; SAMPLES_MIN - 1], SAMPLE_EVERY), None);
        assert!(Life::of(1, &[sample; SAMPLES_MIN], SAMPLE_EVERY).is_some());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let sample = Sample::of(std::process::id()).unwrap();
        assert!(sample.resident_bytes > 1 << 20 && sample.descriptors >= 3);
    }
}

//! `testnet payloads`: opaque bytes with the sizes of a real chain's transactions go in at one node and
//! are read back, byte for byte, from another.
//!
//! # Where the sizes come from
//! Bitcoin's transactions from the genesis block to September 2023, as published with `getblockstats` of
//! Bitcoin Core as the source: the mean size is about 590 bytes, the mean of the blocks' medians about
//! 265 bytes ("Bitcoin – Block Size", <https://blockchainanalysis.co.uk/bitcoin-block-size>). A mean of
//! more than twice the median says that few large transactions carry much of the weight. The log-normal
//! distribution is the usual one of that shape, and the two figures determine it:
//!
//! ```text
//! median = e^μ             → μ  = ln 265            = 5.580
//! mean   = e^(μ + σ²/2)    → σ² = 2 ln (590 / 265)  = 1.601,  σ = 1.265
//! ```
//!
//! Sizes are cut off at what Bitcoin Core relays: at least 65 bytes (`MIN_STANDARD_TX_NONWITNESS_SIZE`) and
//! at most 100,000 (`MAX_STANDARD_TX_WEIGHT`, 400,000 weight units of a quarter byte).

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use ghost_node::cli::output::{Failure, Out, bytes_for_people};
use ghost_proto::{SignedTransaction, TxId};
use ghost_protocol::client::Client;
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;
use tokio::time;

use crate::{
    genesis::{Plan, SEED_DEFAULT},
    stop::Stop,
    traffic::{Patience, submit_patiently},
    up::network::Network,
};

/// Median of the published sizes, in bytes.
pub const MEDIAN_BYTES: f64 = 265.0;
/// Mean of the published sizes, in bytes.
pub const MEAN_BYTES: f64 = 590.0;
/// Smallest size that is drawn.
pub const SIZE_MIN: usize = 65;
/// Largest size that is drawn.
pub const SIZE_MAX: usize = 100_000;

/// How long nodes are given for all of it, besides a second for every 200 payloads.
const INCLUDE_TIMEOUT: Duration = Duration::from_secs(60);

const PATIENCE: Patience = Patience { total: Duration::from_secs(60), pause: Duration::from_millis(100) };

const EXAMPLES: &str = "\
Examples:
  testnet payloads --count 1000
  testnet payloads --count 1000 --write payloads.hex     the file that ghostd tx send --payloads takes
  testnet payloads --from payloads.hex

The exit code is 1 unless every payload came back from the other node as it was.";

/// `testnet payloads`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct PayloadsArgs {
    /// How many payloads to make
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Take them from a file instead: hex, one a line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "write"])]
    pub from: Option<PathBuf>,
    /// Write them to a file as well: hex, one a line
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// How many nodes; the first takes them, the last gives them back
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub nodes: u16,
    /// Decides every key, size and byte
    #[arg(long, value_name = "S", default_value_t = SEED_DEFAULT)]
    pub seed: u64,
    /// End with one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to put the homes; must be empty or not there [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the homes and logs where they are
    #[arg(long)]
    pub keep: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PayloadReport {
    /// How many went in at the first node.
    pub submitted: usize,
    /// How many stood in blocks of the last one.
    pub included: usize,
    /// How many of these came back byte for byte.
    pub identical: usize,
    /// Bytes of all payloads.
    pub bytes: u64,
    /// Median size in bytes.
    pub size_p50: usize,
    /// 90 of 100 are at most this large.
    pub size_p90: usize,
    /// 99 of 100 are.
    pub size_p99: usize,
    /// The largest.
    pub size_max: usize,
    /// Mean size in bytes.
    pub size_mean: f64,
    /// From the first submission until the last one was in a block of the last node.
    pub seconds: f64,
}

/// Draws a size.
pub fn draw_size(rng: &mut impl Rng) -> usize {
    let sigma = (2.0 * (MEAN_BYTES / MEDIAN_BYTES).ln()).sqrt();
    // Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958).
    let uniform = |rng: &mut dyn FnMut() -> u64| (rng() >> 11) as f64 / (1u64 << 53) as f64;
    let mut next = || rng.next_u64();
    let radius = (-2.0 * (1.0 - uniform(&mut next)).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * uniform(&mut next)).cos();
    let size = MEDIAN_BYTES * (sigma * normal).exp();
    (size.round() as usize).clamp(SIZE_MIN, SIZE_MAX)
}

/// Payloads with sizes of that distribution and random bytes: the same for the same seed.
pub fn draw(seed: u64, count: u32) -> Vec<Bytes> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let mut payload = vec![0; draw_size(&mut rng)];
            rng.fill_bytes(&mut payload);
            payload.into()
        })
        .collect()
}

/// Runs it.
pub async fn run(args: &PayloadsArgs, out: &Out, stop: &Stop) -> Result<ExitCode, Failure> {
    let payloads = match &args.from {
        Some(path) => read(path)?,
        None => draw(args.seed, args.count),
    };
    if let Some(path) = &args.write {
        let lines: String = payloads.iter().map(|payload| format!("{}\n", hex::encode(payload))).collect();
        fs::write(path, lines)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    // One account in eight payloads: an account's limit of waiting transactions is seldom reached.
    let accounts = u32::try_from(payloads.len() / 8).unwrap_or(u32::MAX).clamp(16, 10_000);
    let plan = Plan {
        seed: args.seed,
        nodes: args.nodes,
        accounts,
        slot_ms: 1_000,
        spare_authorities: 0,
        publishers: 0,
    };
    let mut network = Network::prepare(plan, args.dir.as_deref(), args.keep, None)?;
    let dir = network.dir().to_owned();
    let result = tokio::select! {
        result = through(&mut network, &payloads, out) => result,
        () = stop.asked() => Err(Failure::new("stopped before it was done")),
    };
    network.stop().await;
    if args.keep {
        out.remark(format!("homes and logs are in {}", dir.display()));
    }
    let report = result?;
    out.answer(&report, report.text())?;
    let good = report.identical == report.submitted;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

impl PayloadReport {
    fn new(payloads: &[Bytes], included: usize, identical: usize, time: Duration) -> Self {
        let mut sizes: Vec<usize> = payloads.iter().map(Bytes::len).collect();
        sizes.sort_unstable();
        let at = |percent: usize| sizes.get((sizes.len() * percent / 100).min(sizes.len().saturating_sub(1)));
        let size = |percent| at(percent).copied().unwrap_or(0);
        let bytes: u64 = sizes.iter().map(|size| *size as u64).sum();
        Self {
            submitted: payloads.len(),
            included,
            identical,
            bytes,
            size_p50: size(50),
            size_p90: size(90),
            size_p99: size(99),
            size_max: size(100),
            size_mean: (bytes as f64 / sizes.len().max(1) as f64 * 10.0).round() / 10.0,
            seconds: time.as_secs_f64(),
        }
    }

    fn text(&self) -> String {
        format!(
            "{} payloads ({}; median {}, mean {:.0}, p90 {}, p99 {}, largest {} bytes) submitted to the first node\n\
             {} in blocks of the last node after {:.1} s; {} of them came back byte for byte",
            self.submitted,
            bytes_for_people(self.bytes),
            self.size_p50,
            self.size_mean,
            self.size_p90,
            self.size_p99,
            self.size_max,
            self.included,
            self.seconds,
            self.identical,
        )
    }
}

fn read(path: &PathBuf) -> Result<Vec<Bytes>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let bytes = hex::decode(line).map_err(|error| {
                Failure::new(format!("{}:{}: not hex: {error}", path.display(), number + 1))
            })?;
            Ok(bytes.into())
        })
        .collect()
}

async fn through(network: &mut Network, payloads: &[Bytes], out: &Out) -> Result<PayloadReport, Failure> {
    network.start_all().await?;
    let first = network.connect(0).await?;
    let last = network.connect(network.nodes().len() - 1).await?;
    let mut senders = network.plan().senders();
    let accounts = senders.len();
    let mut sent = HashMap::with_capacity(payloads.len());
    let mut all = Vec::with_capacity(payloads.len());
    for (index, payload) in payloads.iter().enumerate() {
        let sender = &mut senders[index % accounts];
        let to = sender.key.address();
        let tx = sender.transfer(to, 0, payload.clone())?;
        sent.insert(tx.id(), payload.clone());
        all.push((tx.id(), tx.bytes().clone()));
    }
    let started = Instant::now();
    submit_patiently(&first, all, PATIENCE).await?;
    out.remark(format!(
        "{} payloads submitted after {:.1} s",
        payloads.len(),
        started.elapsed().as_secs_f64()
    ));
    let deadline = started + INCLUDE_TIMEOUT + Duration::from_secs(payloads.len() as u64 / 200);
    let (mut included, mut identical) = (0, 0);
    let mut waiting: Vec<(TxId, Bytes)> = sent.into_iter().collect();
    while !waiting.is_empty() && Instant::now() < deadline {
        let mut left = Vec::new();
        for (id, payload) in waiting {
            match read_back(&last, id).await? {
                Some(back) => {
                    included += 1;
                    identical += usize::from(back == payload);
                }
                None => left.push((id, payload)),
            }
        }
        waiting = left;
        time::sleep(Duration::from_millis(100)).await;
    }
    Ok(PayloadReport::new(payloads, included, identical, started.elapsed()))
}

/// The payload as the node has it in a canonical block.
async fn read_back(client: &Client, id: TxId) -> Result<Option<Bytes>, Failure> {
    let Some(answer) = client.transaction(id).await?.filter(|answer| answer.included) else {
        return Ok(None);
    };
    let tx = SignedTransaction::parse(answer.transaction)?;
    Ok(Some(tx.body().payload().clone()).filter(|_| tx.id() == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_published_median_and_mean() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut sizes: Vec<usize> = (0..200_000).map(|_| draw_size(&mut rng)).collect();
        sizes.sort_unstable();
        let median = sizes[sizes.len() / 2] as f64;
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        assert!((median / MEDIAN_BYTES - 1.0).abs() < 0.02, "median {median}");
        assert!((mean / MEAN_BYTES - 1.0).abs() < 0.03, "mean {mean}");
        assert!(sizes[0] >= SIZE_MIN && sizes[sizes.len() - 1] <= SIZE_MAX);
        assert_eq!(sizes[0], SIZE_MIN, "the lower cut is reached");
    }

    #[test]
    fn one_seed_gives_the_same_payloads() {
        assert_eq!(draw(3, 50), draw(3, 50));
        assert_ne!(draw(3, 50), draw(4, 50));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payloads.hex");
        fs::write(&path, "# two\n00ff\n\n01\n").unwrap();
        assert_eq!(read(&path).unwrap(), [Bytes::from_static(&[0, 255]), Bytes::from_static(&[1])]);
        fs::write(&path, "00\nxx").unwrap();
        assert!(read(&path).unwrap_err().text().contains(":2: not hex"));
    }

    #[test]
    fn the_report_describes_the_sizes() {
        let payloads: Vec<Bytes> = (1..=100).map(|n| Bytes::from(vec![0; n])).collect();
        let report = PayloadReport::new(&payloads, 100, 99, Duration::from_secs(2));
        assert_eq!((report.size_p50, report.size_p90, report.size_max), (51, 91, 100));
        assert_eq!((report.bytes, report.size_mean), (5_050, 50.5));
        let empty = PayloadReport::new(&[], 0, 0, Duration::ZERO);
        assert_eq!((empty.size_max, empty.size_mean), (0, 0.0));
    }
}

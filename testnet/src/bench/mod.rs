//! `testnet bench`: the overlay against bare QUIC doing the same work.
//!
//! The rival is always the same `quinn` with the same TLS and transport settings and the least code
//! that does the work, so a ratio tells what hellos, typed frames, quotas and classes cost. Ours and
//! the rival take turns within one run, so that what else the machine does falls on both; absolute
//! figures still depend on the machine, ratios hardly.
//!
//! Everything runs over real UDP sockets on loopback. Each end has a runtime of its own.

mod bare;
mod frames;
mod ghost;
mod handshakes;
mod head_of_line;
mod idle_memory;
mod link;
mod machine;
mod report;
mod shape;

use std::{io::Write, time::Duration};

use clap::{Args, ValueEnum};

use report::{Comparison, Report};

/// What `testnet bench` is told.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Which bench, or all of them
    #[arg(value_enum)]
    pub name: BenchName,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// How often ours and the rival take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,

    /// Seconds that each turn of a timed bench measures
    #[arg(long, default_value_t = 0.8, value_name = "S")]
    pub seconds: f64,

    /// Connections that `idle-memory` holds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,

    /// Worker threads of each end
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,

    /// What the server process of `idle-memory` holds connections with
    #[arg(long, value_enum, hide = true, default_value = "ghost")]
    pub holder: idle_memory::Holder,
}

/// The benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchName {
    /// Every bench below
    All,
    /// Dial to the first answer, one after another, 32 at once, and resumed
    Handshakes,
    /// Memory that an idle connection costs the server
    IdleMemory,
    /// Small messages and large frames on one stream
    Frames,
    /// Pings while bulk data fills the link
    HeadOfLine,
    /// What padding and jitter cost
    Shape,
    /// The server process of `idle-memory`
    #[value(hide = true)]
    HoldIdle,
}

/// A bench that could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct BenchError {
    doing: &'static str,
    cause: String,
}

trait Doing<T> {
    /// Says what failed.
    fn doing(self, doing: &'static str) -> Result<T, BenchError>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, BenchError> {
        self.map_err(|error| BenchError { doing, cause: error.to_string() })
    }
}

/// Runs what `args` name and prints it to standard output. Call it outside of any runtime.
///
/// # Errors
/// If a socket, a process or a connection fails, or standard output does. A target that is missed
/// is a result, not an error.
pub fn run(args: &BenchArgs) -> Result<(), BenchError> {
    type Bench = fn(&BenchArgs) -> Result<Vec<Comparison>, BenchError>;
    const BENCHES: [(BenchName, &str, Bench); 5] = [
        (BenchName::Handshakes, "handshakes", handshakes::run),
        (BenchName::IdleMemory, "idle-memory", idle_memory::run),
        (BenchName::Frames, "frames", frames::run),
        (BenchName::HeadOfLine, "head-of-line", head_of_line::run),
        (BenchName::Shape, "shape", shape::run),
    ];

    if args.name == BenchName::HoldIdle {
        return idle_memory::hold(args);
    }
    let mut report = Report::begin(args);
    for (name, text, bench) in BENCHES {
        if args.name == name || args.name == BenchName::All {
            tracing::info!(bench = text, "begins");
            report.add(text, bench(args)?);
        }
    }
    let report = report.end();
    let text = if args.json {
        serde_json::to_string(&report).doing("writing the report")? + "\n"
    } else {
        report.to_markdown()
    };
    std::io::stdout().lock().write_all(text.as_bytes()).doing("writing the report")
}

/// One end of a bench, with threads of its own.
struct End(tokio::runtime::Runtime);

impl End {
    fn new(args: &BenchArgs) -> Result<Self, BenchError> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(args.threads as usize)
            .enable_all()
            .build()
            .map(Self)
            .doing("starting a runtime")
    }

    /// Runs a future on the end's own threads, not on the caller's.
    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, BenchError>> + Send + 'static,
    ) -> Result<T, BenchError> {
        self.0.block_on(self.0.spawn(future)).doing("running one end")?
    }
}

impl BenchArgs {
    fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.05, 3600.0))
    }
}

/// Ours first in even runs, the rival first in odd ones: what the machine does in between falls on
/// both alike.
fn in_turns<const N: usize>(run: u32) -> impl Iterator<Item = usize> {
    (0..N).map(move |index| if run.is_multiple_of(2) { index } else { N - 1 - index })
}

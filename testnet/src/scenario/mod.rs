//! Scenarios: what a network meets, and what must hold, in files that people write.
//!
//! One file runs on several back ends: see [`Backend`]. `testnet/SCENARIOS.md` has the format.
//!
//! - [`mod@file`]: what a file says.
//! - [`run`]: what happens when, on any back end; the first thing that does not hold ends the run.
//!
//! # What repeats
//! On cores, everything: one seed gives one course, to the id of the last block. On whole nodes, keys,
//! addresses, distances, losses, faults and transfers follow from the seed; the order in which tasks
//! of a node look at what has arrived together does not, so that two runs make the same promises true
//! and may differ in blocks. Processes repeat their keys and their transfers.

mod core_node;
mod cores;
pub mod file;
mod nodes;
mod processes;
pub mod run;

use std::{path::Path, process::ExitCode, time::Instant};

use clap::Args;
use ghost_node::cli::output::{Failure, Out, Table};
use serde::Serialize;

pub use file::{Backend, Scenario, ScenarioError};
pub use run::Course;

/// The scenarios that ship with the binary: name and file.
pub const SHIPPED: &[(&str, &str)] = &[
    ("adversaries", include_str!("../../scenarios/adversaries.toml")),
    ("bad-links", include_str!("../../scenarios/bad-links.toml")),
    ("crashes", include_str!("../../scenarios/crashes.toml")),
    ("eclipse", include_str!("../../scenarios/eclipse.toml")),
    ("new-addresses", include_str!("../../scenarios/new-addresses.toml")),
    ("one-falls", include_str!("../../scenarios/one-falls.toml")),
    ("partition", include_str!("../../scenarios/partition.toml")),
    ("quiet", include_str!("../../scenarios/quiet.toml")),
    ("three-hundred", include_str!("../../scenarios/three-hundred.toml")),
    ("wrong-clocks", include_str!("../../scenarios/wrong-clocks.toml")),
];

const EXAMPLES: &str = "\
Examples:
  testnet sim partition                         a scenario that ships: see `testnet list`
  testnet sim my.toml --seed 7 --json
  testnet sim one-falls --real                  the same with real processes, in real time

Exit code 1 if something that the scenario expects does not hold: the seed and the first broken promise are
printed. The same seed gives the same network, faults and transfers.";

/// `testnet sim`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimArgs {
    /// A file, or the name of one that ships
    #[arg(value_name = "SCENARIO.toml|NAME")]
    pub scenario: String,
    /// Instead of the scenario's own
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Where to run it [default: the first the scenario names]
    #[arg(long, value_enum, value_name = "BACKEND")]
    pub backend: Option<Backend>,
    /// Short for --backend processes
    #[arg(long, conflicts_with = "backend")]
    pub real: bool,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `testnet list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// How a scenario ended, and what was run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub scenario: String,
    /// Where it ran.
    pub backend: Backend,
    /// What decided it.
    pub seed: u64,
    /// Seconds of this machine that it took.
    pub wall_seconds: f64,
    /// How it went.
    #[serde(flatten)]
    pub course: Course,
}

impl Outcome {
    fn text(&self) -> String {
        let course = &self.course;
        let mut text = format!(
            "{} on {}, seed {}: {:.0} s of its time in {:.1} s\n",
            self.scenario,
            self.backend.name(),
            self.seed,
            course.seconds,
            self.wall_seconds
        );
        for kept in &course.kept {
            text += &format!("  held    {} at {:.1} s", kept.invariant, kept.at_s);
            if kept.after_s > 0.0 {
                text += &format!(", {:.1} s after it was expected", kept.after_s);
            }
            text.push('\n');
        }
        if let Some(broken) = &course.broken {
            text += &format!("  BROKEN  {} at {:.1} s: {}\n", broken.invariant, broken.at_s, broken.seen);
        }
        let milliseconds = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.0} ms"));
        text += &format!(
            "  heads {} to {}, final {}; {} of {} transfers included, p50 {}, p95 {}",
            course.heads.0,
            course.heads.1,
            course.finalized,
            course.included,
            course.submitted,
            milliseconds(course.p50_ms),
            milliseconds(course.p95_ms),
        );
        if let Some(bytes) = course.received_bytes_max {
            text += &format!("; at most {} KiB received by a node", bytes >> 10);
        }
        text
    }
}

/// Runs a scenario in this process, on runtimes of its own.
///
/// # Errors
/// If the back end cannot run it, or fails; what the scenario expects and does not get stands in the
/// outcome.
pub fn run_scenario(
    name: &str,
    scenario: &Scenario,
    backend: Option<Backend>,
    seed: Option<u64>,
) -> Result<Outcome, Failure> {
    let (seed, began) = (seed.unwrap_or(scenario.seed), Instant::now());
    let backend = backend.or_else(|| scenario.backends.first().copied()).unwrap_or(Backend::Nodes);
    if let Some(need) = scenario.needs_more_than(backend) {
        return Err(Failure::usage(format!("{name} does not run on {}: {need}", backend.name())));
    }
    let course = match backend {
        Backend::Cores => {
            // Nothing of it waits; the runtime is only there to poll.
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            runtime.block_on(async { run::drive(scenario, cores::Cores::start(scenario, seed)?).await })?
        }
        Backend::Nodes => {
            // Virtual time needs one thread: it moves on when nobody has anything left to do.
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
            runtime.block_on(async {
                let nodes = nodes::Nodes::start(scenario, seed).await?;
                run::drive(scenario, nodes).await
            })?
        }
        Backend::Processes => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut processes = processes::Processes::start(scenario, seed).await?;
                let course = run::drive(scenario, &mut processes).await;
                // Whatever happened, no process is left behind.
                processes.stop().await;
                course
            })?
        }
    };
    let wall_seconds = began.elapsed().as_secs_f64();
    Ok(Outcome { scenario: name.to_owned(), backend, seed, wall_seconds, course })
}

/// Finds a scenario by name or file.
///
/// # Errors
/// If there is none, or it is not one.
pub fn load(named: &str) -> Result<(String, Scenario), Failure> {
    let (name, text) = match SHIPPED.iter().find(|(name, _)| *name == named) {
        Some((name, text)) => ((*name).to_owned(), (*text).to_owned()),
        None => {
            let path = Path::new(named);
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(format!("cannot read {named}: {error}"))
                    .hint("name a file, or a scenario that ships: see `testnet list`")
            })?;
            let name = path.file_stem().map_or(named.into(), |stem| stem.to_string_lossy());
            (name.into_owned(), text)
        }
    };
    let scenario = Scenario::parse(&text).map_err(|error| Failure::new(format!("{named}: {error}")))?;
    Ok((name, scenario))
}

/// Runs `testnet sim`.
///
/// # Errors
/// As [`run_scenario`] and [`load`].
pub fn sim(args: &SimArgs, out: &Out) -> Result<ExitCode, Failure> {
    let (name, scenario) = load(&args.scenario)?;
    let backend = if args.real { Some(Backend::Processes) } else { args.backend };
    let outcome = run_scenario(&name, &scenario, backend, args.seed)?;
    out.answer(&outcome, outcome.text())?;
    match &outcome.course.broken {
        None => Ok(ExitCode::SUCCESS),
        Some(broken) => {
            out.remark(format!(
                "error: seed {}: {} does not hold at {:.1} s: {}",
                outcome.seed, broken.invariant, broken.at_s, broken.seen
            ));
            Ok(ExitCode::from(1))
        }
    }
}

/// Runs `testnet list`.
///
/// # Errors
/// If nothing can be written.
pub fn list(out: &Out) -> Result<ExitCode, Failure> {
    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        about: String,
        shows: Vec<u8>,
        backends: Vec<Backend>,
        seconds: f64,
    }
    let mut rows = Vec::new();
    let mut table = Table::new(["NAME", "LASTS", "BACK ENDS", "WHAT"]);
    for (name, text) in SHIPPED {
        let scenario = Scenario::parse(text)?;
        let names: Vec<&str> = scenario.backends.iter().map(|backend| backend.name()).collect();
        let seconds = scenario.duration.length().as_secs_f64();
        table.row([(*name).to_owned(), format!("{seconds:.0} s"), names.join(" "), scenario.about.clone()]);
        rows.push(Row {
            name,
            about: scenario.about,
            shows: scenario.shows,
            backends: scenario.backends,
            seconds,
        });
    }
    out.answer(&serde_json::json!({ "scenarios": rows }), table)
}

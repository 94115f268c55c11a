//! Drives a scenario on any back end: what happens when, and what must hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ghost_node::cli::output::Failure;
use ghost_proto::BlockId;
use serde::Serialize;

use super::file::{Expect, Fault, Hostile, Property, Scenario};

/// How often what has not come true yet is looked at again, in the back end's time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often safety is looked at when nothing else happens.
const SAFETY_EVERY: Duration = Duration::from_secs(5);

/// What a node of any back end says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// Which one.
    pub node: u32,
    /// Its canonical tip.
    pub head: (u64, BlockId),
    /// Its highest final block.
    pub finalized: (u64, BlockId),
    /// Transactions in its canonical blocks.
    pub included: u64,
    /// Transactions in its mempool.
    pub pending: u64,
    /// Nodes it is connected to.
    pub peers: u64,
    /// Honest peers that it bans, and why; `None` if it does not say.
    pub bans: Option<Vec<String>>,
    /// Bytes it received; `None` if it does not say.
    pub received_bytes: Option<u64>,
}

/// What became of the transfers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Transfers {
    /// Made.
    pub submitted: u64,
    /// Of these, in a block of the node they went to.
    pub included: u64,
    /// Half were within this time.
    pub p50_ms: Option<f64>,
    /// 95 % were.
    pub p95_ms: Option<f64>,
}

/// Something that is done to a network.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// A fault.
    Fault(Fault),
    /// Adversaries come.
    Adversaries(Hostile),
    /// Transfers end.
    TrafficEnds,
}

/// A network that can be driven.
pub(super) trait Driven {
    /// Time since it was started.
    fn elapsed(&self) -> Duration;

    /// Lets time pass until then.
    async fn run_until(&mut self, at: Duration) -> Result<(), Failure>;

    /// Does something to it.
    async fn act(&mut self, action: &Action) -> Result<(), Failure>;

    /// What those that live say.
    async fn read(&mut self) -> Result<Vec<Reading>, Failure>;

    /// The canonical block of a height at a node.
    async fn canonical(&mut self, node: u32, height: u64) -> Result<Option<BlockId>, Failure>;

    /// What became of the transfers.
    fn transfers(&self) -> Transfers;
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Broken {
    /// Seconds since the start.
    pub at_s: f64,
    /// Which.
    pub invariant: String,
    /// What was seen.
    pub seen: String,
}

/// A promise that was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    /// Which.
    pub invariant: String,
    /// Seconds since the start when it was seen to hold.
    pub at_s: f64,
    /// How late that was after it was expected.
    pub after_s: f64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Course {
    /// True if everything held.
    pub passed: bool,
    /// The first thing that did not.
    pub broken: Option<Broken>,
    /// What held, in the order in which it was seen.
    pub kept: Vec<Kept>,
    /// Seconds it took, in the back end's time.
    pub seconds: f64,
    /// Lowest and highest head at the end.
    pub heads: (u64, u64),
    /// Lowest final height at the end.
    pub finalized: u64,
    /// Block at the lowest final height of the end, if all have the same.
    pub finalized_id: Option<String>,
    /// Transfers made.
    pub submitted: u64,
    /// Of these, in a block of their node.
    pub included: u64,
    /// Half were within this time.
    pub p50_ms: Option<f64>,
    /// 95 % were.
    pub p95_ms: Option<f64>,
    /// Most bytes that a node received.
    pub received_bytes_max: Option<u64>,
}

struct Waiting<'a> {
    expect: &'a Expect,
    since: Duration,
}

struct Run<'a, D> {
    scenario: &'a Scenario,
    driven: D,
    /// What anybody ever called final, by height.
    final_ids: BTreeMap<u64, BlockId>,
    kept: Vec<Kept>,
}

/// Runs a scenario to its end, or to the first thing that does not hold.
///
/// # Errors
/// If the back end fails, which says nothing about the scenario.
pub(super) async fn drive<D: Driven>(scenario: &Scenario, driven: D) -> Result<Course, Failure> {
    let mut run = Run { scenario, driven, final_ids: BTreeMap::new(), kept: Vec::new() };
    let broken = run.course().await?;
    run.sum_up(broken).await
}

impl<D: Driven> Run<'_, D> {
    async fn course(&mut self) -> Result<Option<Broken>, Failure> {
        let scenario = self.scenario;
        let end = scenario.duration.length();
        let mut actions: Vec<(Duration, Action)> = Vec::new();
        actions.extend(scenario.fault.iter().map(|fault| (fault.at.length(), Action::Fault(fault.clone()))));
        actions.extend(scenario.adversary.iter().map(|come| (come.at.length(), Action::Adversaries(*come))));
        actions.push((end, Action::TrafficEnds));
        // Stable: what is written first happens first.
        actions.sort_by_key(|(at, _)| *at);
        let mut expected: Vec<&Expect> = scenario.expect.iter().collect();
        expected.sort_by_key(|expect| expect.at.map_or(end, |at| at.length()));
        let (mut actions, mut expected) = (actions.into_iter().peekable(), expected.into_iter().peekable());
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        let mut safe_at = Duration::ZERO;
        loop {
            let now = self.driven.elapsed();
            // What is expected at the moment of a fault is expected before it.
            while let Some(expect) = expected.next_if(|e| e.at.map_or(end, |at| at.length()) <= now) {
                waiting.push(Waiting { expect, since: now });
            }
            if now >= safe_at || !waiting.is_empty() {
                safe_at = now + SAFETY_EVERY;
                if let Some(broken) = self.look(&mut waiting).await? {
                    return Ok(Some(broken));
                }
            }
            while let Some((_, action)) = actions.next_if(|(at, _)| *at <= now) {
                self.driven.act(&action).await?;
            }
            let mut next = [
                actions.peek().map(|(at, _)| *at),
                expected.peek().map(|expect| expect.at.map_or(end, |at| at.length())),
                (!waiting.is_empty()).then_some(now + LOOK_EVERY),
            ]
            .into_iter()
            .flatten()
            .min();
            let Some(at) = next.take() else { return Ok(None) };
            self.driven.run_until(at.min(safe_at)).await?;
        }
    }

    /// Looks at what is waited for and at safety.
    async fn look(&mut self, waiting: &mut Vec<Waiting<'_>>) -> Result<Option<Broken>, Failure> {
        let now = self.driven.elapsed();
        let readings = self.driven.read().await?;
        for reading in &readings {
            let (height, id) = reading.finalized;
            let known = *self.final_ids.entry(height).or_insert(id);
            if known != id {
                return Ok(Some(Broken {
                    at_s: now.as_secs_f64(),
                    invariant: "safety".into(),
                    seen: format!(
                        "node {} calls {} final at height {height}, another {}",
                        reading.node,
                        id.short(),
                        known.short()
                    ),
                }));
            }
        }
        let mut still = Vec::new();
        for wait in waiting.drain(..) {
            match self.holds(wait.expect, &readings).await? {
                Ok(()) => self.kept.push(Kept {
                    invariant: name_of(wait.expect),
                    at_s: now.as_secs_f64(),
                    after_s: (now - wait.since).as_secs_f64(),
                }),
                Err(_) if now < wait.since + wait.expect.within.length() => still.push(wait),
                Err(seen) => {
                    return Ok(Some(Broken {
                        at_s: now.as_secs_f64(),
                        invariant: name_of(wait.expect),
                        seen,
                    }));
                }
            }
        }
        *waiting = still;
        Ok(None)
    }

    async fn holds(&mut self, expect: &Expect, all: &[Reading]) -> Result<Result<(), String>, Failure> {
        let chosen: Option<BTreeSet<u32>> =
            expect.nodes.as_ref().map(|set| set.of(self.scenario.topology.nodes).into_iter().collect());
        let readings: Vec<&Reading> = all
            .iter()
            .filter(|reading| chosen.as_ref().is_none_or(|chosen| chosen.contains(&reading.node)))
            .collect();
        let (max, min) = (expect.max.unwrap_or(1), expect.min.unwrap_or(0));
        if readings.is_empty() {
            return Ok(Err("none of them lives".into()));
        }
        let first_bad = |bad: &dyn Fn(&Reading) -> Option<String>| match readings
            .iter()
            .find_map(|reading| bad(reading).map(|why| format!("node {}: {why}", reading.node)))
        {
            Some(why) => Err(why),
            None => Ok(()),
        };
        Ok(match expect.what {
            Property::HeadsAgree => self.agree(&readings, max).await?,
            Property::HeadsDiffer => match self.agree(&readings, 1).await? {
                Ok(()) => Err("all heads agree".into()),
                Err(_) => Ok(()),
            },
            Property::FinalityLag => first_bad(&|r| {
                let lag = r.head.0.saturating_sub(r.finalized.0);
                (lag > max).then(|| format!("finality is {lag} blocks behind its head {}", r.head.0))
            }),
            Property::Height => first_bad(&|r| (r.head.0 < min).then(|| format!("its head is {}", r.head.0))),
            Property::TxP95Ms => match self.driven.transfers().p95_ms {
                Some(p95) if p95 <= max as f64 => Ok(()),
                Some(p95) => Err(format!("p95 is {p95:.0} ms")),
                None => Err("no transfer is in a block".into()),
            },
            Property::AllIncluded => {
                let submitted = self.driven.transfers().submitted;
                first_bad(&|r| {
                    (r.included != submitted || r.pending > 0)
                        .then(|| format!("{} of {submitted} included, {} wait", r.included, r.pending))
                })
            }
            Property::NoBans => {
                first_bad(&|r| r.bans.as_ref().filter(|b| !b.is_empty()).map(|b| b.join("; ")))
            }
            Property::BytesPerNode => first_bad(&|r| {
                let bytes = r.received_bytes.unwrap_or(0);
                (bytes > max).then(|| format!("received {bytes} bytes"))
            }),
            Property::Peers => first_bad(&|r| (r.peers < min).then(|| format!("{} peers", r.peers))),
            Property::Pending => first_bad(&|r| (r.pending > max).then(|| format!("{} wait", r.pending))),
        })
    }

    async fn agree(&mut self, readings: &[&Reading], within: u64) -> Result<Result<(), String>, Failure> {
        let heights = readings.iter().map(|reading| reading.head.0);
        let (lowest, highest) = (heights.clone().min().unwrap_or(0), heights.max().unwrap_or(0));
        if highest - lowest > within {
            return Ok(Err(format!("heads are from {lowest} to {highest}")));
        }
        let depth = lowest.saturating_sub(within);
        let mut ids: BTreeMap<Option<BlockId>, u32> = BTreeMap::new();
        for reading in readings {
            ids.insert(self.driven.canonical(reading.node, depth).await?, reading.node);
        }
        Ok(match ids.len() {
            0 | 1 => Ok(()),
            _ => {
                let named: Vec<String> = ids
                    .iter()
                    .map(|(id, node)| match id {
                        Some(id) => format!("{} (node {node})", id.short()),
                        None => format!("none (node {node})"),
                    })
                    .collect();
                Err(format!("at height {depth} there are {}", named.join(", ")))
            }
        })
    }

    async fn sum_up(mut self, broken: Option<Broken>) -> Result<Course, Failure> {
        let readings = self.driven.read().await?;
        let heights = readings.iter().map(|reading| reading.head.0);
        let finalized = readings.iter().map(|reading| reading.finalized.0).min().unwrap_or(0);
        let mut ids = BTreeSet::new();
        for reading in &readings {
            ids.insert(self.driven.canonical(reading.node, finalized).await?);
        }
        let finalized_id = match (ids.len(), ids.first().copied().flatten()) {
            (1, Some(id)) => Some(hex::encode(id.0)),
            _ => None,
        };
        let load = self.driven.transfers();
        Ok(Course {
            passed: broken.is_none(),
            broken,
            seconds: self.driven.elapsed().as_secs_f64(),
            heads: (heights.clone().min().unwrap_or(0), heights.max().unwrap_or(0)),
            finalized,
            finalized_id,
            submitted: load.submitted,
            included: load.included,
            p50_ms: load.p50_ms,
            p95_ms: load.p95_ms,
            received_bytes_max: readings.iter().filter_map(|reading| reading.received_bytes).max(),
            kept: self.kept,
        })
    }
}

/// `finality-lag (at most 4)`.
fn name_of(expect: &Expect) -> String {
    let mut name = serde_json::to_value(expect.what)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default();
    if let Some(max) = expect.max {
        name += &format!(" (at most {max})");
    }
    if let Some(min) = expect.min {
        name += &format!(" (at least {min})");
    }
    name
}

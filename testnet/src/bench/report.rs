//! Samples, ratios, and how they are shown.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{BenchArgs, machine::Machine};

/// One figure for each run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) runs: Vec<f64>,
}

impl Spread {
    pub(super) fn of(runs: Vec<f64>) -> Self {
        let mut sorted = runs.clone();
        Self {
            median: quantile(&mut sorted, 0.5),
            min: sorted.first().copied().unwrap_or(f64::NAN),
            max: sorted.last().copied().unwrap_or(f64::NAN),
            runs,
        }
    }

    fn ratios(&self, rival: &Self) -> Self {
        Self::of(self.runs.iter().zip(&rival.runs).map(|(ours, rival)| ours / rival).collect())
    }

    fn text(&self) -> String {
        if self.median.is_nan() {
            return "–".to_owned();
        }
        format!("{} [{}..{}]", number(self.median), number(self.min), number(self.max))
    }
}

/// Sorts, and interpolates between the two nearest samples. Not a number if there are none.
pub(super) fn quantile(samples: &mut [f64], quantile: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let Some(last) = samples.len().checked_sub(1) else { return f64::NAN };
    let place = quantile * last as f64;
    let (low, high) = (samples[place.floor() as usize], samples[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// Three significant digits, and all that stand before the point.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.4}"),
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// What a median must be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// The ratio to the rival, at least.
    RatioMin(f64),
    /// The ratio to the rival, at most.
    RatioMax(f64),
    /// Our own figure, at least.
    OursMin(f64),
    /// Our own figure, at most.
    OursMax(f64),
}

/// A target, and whether it was met.
#[derive(Debug, Serialize)]
struct Verdict {
    #[serde(flatten)]
    target: Target,
    met: bool,
}

/// One of the two ways.
#[derive(Debug, Serialize)]
struct Way {
    name: &'static str,
    #[serde(flatten)]
    spread: Spread,
}

/// The same work done two ways, in the same runs.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    work: String,
    unit: &'static str,
    ours: Way,
    rival: Way,
    /// Ours over the rival's, run by run.
    ratio: Spread,
    targets: Vec<Verdict>,
}

impl Comparison {
    pub(super) fn new(
        work: impl Into<String>,
        unit: &'static str,
        ours: (&'static str, Vec<f64>),
        rival: (&'static str, Vec<f64>),
        targets: &[Target],
    ) -> Self {
        let [ours, rival] = [ours, rival].map(|(name, runs)| Way { name, spread: Spread::of(runs) });
        let ratio = ours.spread.ratios(&rival.spread);
        let targets = targets
            .iter()
            .map(|target| {
                let met = match *target {
                    Target::RatioMin(least) => ratio.median >= least,
                    Target::RatioMax(most) => ratio.median <= most,
                    Target::OursMin(least) => ours.spread.median >= least,
                    Target::OursMax(most) => ours.spread.median <= most,
                };
                Verdict { target: *target, met }
            })
            .collect();
        Self { work: work.into(), unit, ours, rival, ratio, targets }
    }

    /// What has no rival here: only our own figure can meet a target.
    pub(super) fn alone(
        work: impl Into<String>,
        unit: &'static str,
        ours: (&'static str, Vec<f64>),
        targets: &[Target],
    ) -> Self {
        let rival = ("none here", vec![f64::NAN; ours.1.len()]);
        Self::new(work, unit, ours, rival, targets)
    }

    fn row(&self) -> String {
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|Verdict { target, met }| {
                let text = match target {
                    Target::RatioMin(least) => format!("ratio ≥ {}", number(*least)),
                    Target::RatioMax(most) => format!("ratio ≤ {}", number(*most)),
                    Target::OursMin(least) => format!("≥ {} {}", number(*least), self.unit),
                    Target::OursMax(most) => format!("≤ {} {}", number(*most), self.unit),
                };
                format!("{text}: {}", if *met { "met" } else { "**missed**" })
            })
            .collect();
        format!(
            "| {} | {} | {}: {} | {}: {} | {} | {} |",
            self.work,
            self.unit,
            self.ours.name,
            self.ours.spread.text(),
            self.rival.name,
            self.rival.spread.text(),
            self.ratio.text(),
            targets.join("; ")
        )
    }
}

/// All that a call of `testnet bench` found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    runs: u32,
    seconds: f64,
    connections: u32,
    threads: u32,
    benches: BTreeMap<&'static str, Vec<Comparison>>,
}

impl Report {
    pub(super) fn begin(args: &BenchArgs) -> Self {
        Self {
            machine: Machine::look(),
            runs: args.runs,
            seconds: args.seconds,
            connections: args.connections,
            threads: args.threads,
            benches: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, name: &'static str, comparisons: Vec<Comparison>) {
        self.benches.insert(name, comparisons);
    }

    pub(super) fn end(mut self) -> Self {
        self.machine.look_again();
        self
    }

    pub(super) fn to_markdown(&self) -> String {
        let mut out = format!(
            "{}\n{} runs, ours and the rival in turns; median [least..most]; {} threads for each end.\n",
            self.machine, self.runs, self.threads
        );
        for (name, comparisons) in &self.benches {
            let _ = write!(
                out,
                "\n### {name}\n\n| work | unit | ours | rival | ratio | target |\n| --- | --- | --- | --- | --- | --- |\n"
            );
            for comparison in comparisons {
                let _ = writeln!(out, "{}", comparison.row());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        assert_eq!(quantile(&mut [0.0, 100.0], 0.99), 99.0);
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn a_target_is_met_at_its_edge_and_missed_beyond() {
        let met = |ours: f64, target| {
            Comparison::new("w", "u", ("a", vec![ours]), ("b", vec![100.0]), &[target]).targets[0].met
        };
        assert!(met(90.0, Target::RatioMin(0.9)) && !met(89.9, Target::RatioMin(0.9)));
        assert!(met(125.0, Target::RatioMax(1.25)) && !met(125.1, Target::RatioMax(1.25)));
        assert!(met(50.0, Target::OursMax(50.0)) && !met(50.1, Target::OursMax(50.0)));
        assert!(met(50.0, Target::OursMin(50.0)) && !met(49.9, Target::OursMin(50.0)));
    }

    #[test]
    fn the_ratio_is_taken_run_by_run() {
        // The machine was half as fast in the second run: the ratio does not change.
        let comparison = Comparison::new("w", "u", ("a", vec![90.0, 45.0]), ("b", vec![100.0, 50.0]), &[]);
        assert_eq!((comparison.ratio.min, comparison.ratio.max), (0.9, 0.9));
    }
}

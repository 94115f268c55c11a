//! Markdown tables: medians, spreads, and the first way over each of the others.

use std::fmt::Write;

use crate::harness::Measured;

/// One column: what it is called, and how to read it from a turn.
pub type Column<T> = (&'static str, fn(&T) -> f64);

/// Median, least and most.
pub fn spread(mut runs: Vec<f64>) -> [f64; 3] {
    runs.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return [f64::NAN; 3] };
    let half = runs.len() / 2;
    let median = if runs.len() % 2 == 1 { runs[half] } else { (runs[half - 1] + runs[half]) / 2.0 };
    [median, *first, *last]
}

/// The median of the ratios run by run, the first way over another.
pub fn ratio<T>(ours: &Measured<T>, rival: &Measured<T>, of: fn(&T) -> f64) -> f64 {
    spread(ours.turns.iter().zip(&rival.turns).map(|(ours, rival)| of(ours) / of(rival)).collect())[0]
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// A table of all ways. The first is ours.
pub fn markdown<T>(title: &str, measured: &[Measured<T>], columns: &[Column<T>]) -> String {
    let mut out = format!("\n### {title}\n\n| way |");
    for (name, _) in columns {
        let _ = write!(out, " {name} | ours over it |");
    }
    out += "\n| --- |";
    out += &" --- | --- |".repeat(columns.len());
    out += "\n";
    for way in measured {
        let _ = write!(out, "| {} |", way.name);
        for (_, of) in columns {
            let [median, least, most] = spread(way.turns.iter().map(of).collect());
            let [median, least, most] = [median, least, most].map(number);
            let over = measured.first().map_or(f64::NAN, |ours| ratio(ours, way, *of));
            let _ = write!(out, " {median} [{least}..{most}] | {over:.2} |");
        }
        out += "\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_run_by_run() {
        let of = |name, turns: &[f64]| Measured { name, turns: turns.to_vec() };
        let (ours, rival) = (of("ours", &[2.0, 1.0, 4.0]), of("rival", &[4.0, 2.0, 8.0]));
        assert_eq!(spread(ours.turns.clone()), [2.0, 1.0, 4.0]);
        assert_eq!(ratio(&ours, &rival, |turn| *turn), 0.5);
        let text = markdown("work", &[ours, rival], &[("ms", |turn| *turn)]);
        assert!(text.contains("| rival | 4.00 [2.00..8.00] | 0.50 |"), "{text}");
    }
}

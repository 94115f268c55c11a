//! Bars, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const NAME_WIDTH: f64 = 170.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;

/// A group of bars under a title; the first bar is ours.
#[derive(Debug)]
pub struct Group {
    /// What was measured, with its unit.
    pub title: String,
    /// Name and value of each.
    pub bars: Vec<(String, f64)>,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws the groups below each other, each with a scale of its own.
pub fn svg(groups: &[Group]) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for group in groups {
        y += 20.0;
        let _ = writeln!(body, r#"<text x="8" y="{y}" font-weight="bold">{}</text>"#, escaped(&group.title));
        y += 8.0;
        let most = group.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (index, (name, value)) in group.bars.iter().enumerate() {
            let length = (WIDTH - NAME_WIDTH - 100.0) * value / most;
            let colour = if index == 0 { "#2266bb" } else { "#b0b8c0" };
            let (text, end) = (y + BAR - 5.0, NAME_WIDTH + length + 6.0);
            let _ = writeln!(
                body,
                r#"<text x="8" y="{text}">{}</text><rect x="{NAME_WIDTH}" y="{y}" width="{length:.1}" height="{BAR}" fill="{colour}"/><text x="{end:.1}" y="{text}">{value:.0}</text>"#,
                escaped(name)
            );
            y += BAR + GAP;
        }
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>
{body}</svg>
"##,
        height = y + 10.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_largest_value() {
        let bars = vec![("a<b".to_owned(), 10.0), ("c".to_owned(), 5.0)];
        let text = svg(&[Group { title: "calls/s".into(), bars }]);
        assert!(text.contains(r#"width="450.0""#) && text.contains(r#"width="225.0""#), "{text}");
        assert!(text.contains("a&lt;b"));
    }
}

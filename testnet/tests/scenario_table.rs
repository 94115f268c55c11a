//! `SCENARIOS.md` accounts for every scenario, and names nothing that does not exist.

use std::{collections::BTreeMap, fs, path::Path};

use ghost_testnet::scenario::SHIPPED;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Cells of the table by number.
fn rows() -> BTreeMap<u32, Vec<String>> {
    let text = fs::read_to_string(root().join("testnet/SCENARIOS.md")).unwrap();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = text.lines().filter(|line| line.starts_with("| ")).map(cells);
    rows.filter_map(|cells| Some((cells.get(1)?.parse().ok()?, cells))).collect()
}

#[test]
fn every_scenario_is_accounted_for_and_everything_named_exists() {
    let rows = rows();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=44).collect::<Vec<_>>());
    let mut shown = 0;
    for (number, cells) in rows {
        let [_, _, what, by, open, _] = &cells[..] else { panic!("{number}: {cells:?}") };
        assert!(!what.is_empty(), "{number}");
        if by == "–" {
            assert_eq!(open, "Not built yet.", "{number} is neither shown nor said to be open");
            continue;
        }
        for item in by.split("; ") {
            shown += 1;
            let (name, rest) = item.strip_prefix('`').and_then(|item| item.split_once('`')).unwrap();
            if let Some(scenario) = name.strip_prefix("testnet sim ") {
                assert!(SHIPPED.iter().any(|(shipped, _)| *shipped == scenario), "{number}: {scenario}");
                continue;
            }
            assert!(name.starts_with(&format!("scenario_{number:02}_")), "{number}: {name}");
            let file = rest.trim().trim_start_matches('(').trim_end_matches(')');
            let source =
                fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            // With a parenthesis: a test that was given a longer name is another one.
            assert!(source.contains(&format!("fn {name}(")), "{number}: {file} has no {name}");
        }
    }
    assert!(shown >= 90, "{shown}");
}

//! The scenarios that ship hold; one file means the same on every back end; a broken promise is named.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use ghost_testnet::scenario::{Backend, Outcome, SHIPPED, Scenario, load, run_scenario};

fn run(name: &str, backend: Backend, seed: Option<u64>) -> Outcome {
    let (name, scenario) = load(name).unwrap_or_else(|failure| panic!("{name}: {}", failure.text()));
    let outcome = run_scenario(&name, &scenario, Some(backend), seed);
    outcome.unwrap_or_else(|failure| panic!("{name} on {}: {}", backend.name(), failure.text()))
}

fn holds(name: &str, backend: Backend) -> Outcome {
    let outcome = run(name, backend, None);
    eprintln!("{outcome:?}");
    assert_eq!(outcome.course.broken, None, "{outcome:?}");
    outcome
}

#[test]
fn every_file_ships_and_can_be_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files: BTreeSet<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let shipped: BTreeSet<String> = SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, shipped);
    for (name, text) in SHIPPED {
        let scenario = Scenario::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(scenario.shows.iter().all(|number| (1..=44).contains(number)), "{name}");
    }
}

#[test]
fn quiet() {
    let nodes = holds("quiet", Backend::Nodes);
    let cores = holds("quiet", Backend::Cores);
    assert_eq!(nodes.course.submitted, cores.course.submitted);
}

#[test]
fn scenario_30_one_falls() {
    holds("one-falls", Backend::Nodes);
    holds("one-falls", Backend::Cores);
}

#[test]
fn scenario_38_partition() {
    holds("partition", Backend::Nodes);
    holds("partition", Backend::Cores);
}

#[test]
fn whole_nodes_keep_their_promises_with_every_seed() {
    for seed in 1..=4 {
        let outcome = run("one-falls", Backend::Nodes, Some(seed));
        assert_eq!(outcome.course.broken, None, "{outcome:?}");
        assert_eq!((outcome.course.submitted, outcome.course.included), (220, 220), "{outcome:?}");
    }
}

#[test]
fn scenario_39_bad_links() {
    holds("bad-links", Backend::Nodes);
}

#[test]
fn scenario_40_wrong_clocks() {
    holds("wrong-clocks", Backend::Nodes);
    holds("wrong-clocks", Backend::Cores);
}

#[test]
fn scenario_41_new_addresses() {
    holds("new-addresses", Backend::Nodes);
}

#[test]
fn scenario_30_crashes() {
    holds("crashes", Backend::Nodes);
}

#[test]
fn adversaries() {
    holds("adversaries", Backend::Nodes);
}

#[test]
fn scenario_14_eclipse() {
    holds("eclipse", Backend::Nodes);
}

#[test]
fn on_cores_one_seed_gives_one_course_and_another_seed_another() {
    let all = |seed| {
        ["quiet", "one-falls", "wrong-clocks"].map(|name| {
            let mut outcome = run(name, Backend::Cores, seed);
            outcome.wall_seconds = 0.0;
            outcome
        })
    };
    let (one, again, other) = (all(None), all(None), all(Some(77)));
    assert_eq!(one, again);
    for (one, other) in one.iter().zip(&other) {
        assert!(one.course.finalized_id.is_some(), "{one:?}");
        assert_ne!(one.course.finalized_id, other.course.finalized_id, "{}", one.scenario);
    }
}

fn testnet(args: &[&str]) -> (Option<i32>, serde_json::Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_testnet")).args(args).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn one_scenario_has_one_outcome_on_cores_nodes_and_processes() {
    let mut outcomes = Vec::new();
    for backend in ["cores", "nodes", "processes"] {
        let (code, json, error) = testnet(&["sim", "one-falls", "--backend", backend, "--json"]);
        assert_eq!(code, Some(0), "{backend}: {json} {error}");
        assert_eq!((&json["passed"], &json["backend"]), (&true.into(), &backend.into()), "{json}");
        let kept: Vec<_> = json["kept"]
            .as_array()
            .unwrap()
            .iter()
            .map(|kept| kept["invariant"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        // Also that every transfer is included: that is among what is expected.
        outcomes.push(kept);
    }
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
}

#[test]
fn a_promise_that_does_not_hold_is_named_with_its_seed_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("too-much.toml");
    let text = "about = \"asks for more blocks than there are slots\"\nseed = 5\nduration = \"10s\"\n\
                backends = [\"cores\", \"nodes\"]\n[[expect]]\nwhat = \"height\"\nmin = 5\nat = \"8s\"\n\
                [[expect]]\nwhat = \"height\"\nmin = 1000\nwithin = \"3s\"\n";
    fs::write(&file, text).unwrap();
    for backend in ["cores", "nodes"] {
        let path = file.to_str().unwrap();
        let (code, json, _) = testnet(&["sim", path, "--seed", "99", "--backend", backend, "--json"]);
        assert_eq!(code, Some(1), "{json}");
        assert_eq!((&json["passed"], &json["seed"]), (&false.into(), &99.into()), "{json}");
        assert_eq!(json["broken"]["invariant"], "height (at least 1000)", "{json}");
        // Ten seconds, and three of patience.
        assert!((json["broken"]["at_s"].as_f64().unwrap() - 13.0).abs() < 0.2, "{json}");
        assert_eq!(json["kept"][0]["invariant"], "height (at least 5)", "{json}");
        let (code, _, error) = testnet(&["sim", path, "--seed", "99", "--backend", backend]);
        assert_eq!(code, Some(1));
        assert!(error.contains("seed 99") && error.contains("height (at least 1000)"), "{error}");
    }
    let (code, _, error) = testnet(&["sim", "nowhere.toml"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("testnet list"), "{error}");
    let (code, _, error) = testnet(&["sim", "bad-links", "--real"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("loopback"), "{error}");
}

#[test]
fn what_ships_is_listed() {
    let (code, json, _) = testnet(&["list", "--json"]);
    assert_eq!(code, Some(0));
    let names: Vec<_> = json["scenarios"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, SHIPPED.iter().map(|(name, _)| serde_json::json!(name)).collect::<Vec<_>>());
}

//! Real processes: what `testnet` leaves behind, which must be nothing.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything here may take on a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rounds of what has to hold every time. `GHOST_TESTNET_ROUNDS=100` runs as many.
fn rounds(usual: usize) -> usize {
    std::env::var("GHOST_TESTNET_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn testnet(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testnet"));
    command
        .args(args)
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for a condition of the outside world, looking often and not for ever.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Processes whose command line names a path below `dir`, other than this one.
fn processes_of(dir: &Path) -> Vec<u32> {
    let name = dir.to_str().unwrap().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process that ended meanwhile has none; a zombie's is empty.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid != std::process::id() && line.windows(name.len()).any(|part| part == name) {
            found.push(pid);
        }
    }
    found
}

/// The UDP ports in the lines that tell the addresses of the nodes.
fn ports_in(text: &str) -> Vec<u16> {
    text.split("/udp/").skip(1).filter_map(|rest| rest.split('/').next()?.parse().ok()).collect()
}

fn assert_free(ports: &[u16]) {
    assert!(!ports.is_empty());
    for port in ports {
        UdpSocket::bind(("127.0.0.1", *port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Reads standard error until a node's address is told.
fn read_addresses(stderr: ChildStderr, nodes: usize) -> (Vec<u16>, thread::JoinHandle<()>) {
    let mut lines = BufReader::new(stderr).lines();
    let mut ports = Vec::new();
    while ports.len() < nodes {
        let line = lines.next().expect("it ended before all nodes listened").unwrap();
        ports.extend(ports_in(&line));
    }
    // Whoever writes must not block on a pipe that is full.
    (ports, thread::spawn(move || while lines.next().is_some() {}))
}

fn up(dir: &Path, seed: &str) -> (Output, Value) {
    let args = [
        "up",
        "--nodes",
        "2",
        "--tps",
        "20",
        "--slot-ms",
        "200",
        "--for",
        "1s",
        "--json",
        "--keep",
        "--seed",
        seed,
    ];
    let output = testnet(&args, dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output, value)
}

#[test]
fn scenario_44_up_and_down_again_and_again_leaves_nothing_and_keys_follow_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let mut first: Option<(Vec<Vec<u8>>, Value)> = None;
    for round in 0..rounds(5) {
        let home = dir.path().join(format!("round-{round}"));
        let (output, report) = up(&home, "11");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "round {round}: {stderr}\n{report}");
        let prices = &report["prices"];
        assert_eq!((&prices["nodes_agree"], &prices["stale"]), (&Value::Bool(true), &0.into()), "{prices}");
        assert_eq!(prices["feeds"].as_array().map(Vec::len), Some(2), "{prices}");
        assert_eq!(processes_of(&home), [] as [u32; 0], "round {round}: a process is left");
        assert_free(&ports_in(&stderr));
        assert_eq!(report["heads_agree"], true);
        assert_eq!(report["tx"]["included"], report["tx"]["submitted"], "{report}");
        assert!(report["tx"]["included"].as_u64().unwrap() > 0 && report["blocks"].as_u64().unwrap() > 0);
        let keys: Vec<Vec<u8>> =
            ["node-0/node.key", "node-1/node.key", "node-1/operator.key", "node-0/authority.key"]
                .iter()
                .map(|file| fs::read(home.join(file)).unwrap())
                .collect();
        let peers = Value::from_iter(
            report["per_node"].as_array().unwrap().iter().map(|node| node["peer_id"].clone()),
        );
        match &first {
            Some(first) => assert_eq!(*first, (keys, peers), "round {round}: other keys for the same seed"),
            None => first = Some((keys, peers)),
        }
    }
    let (_, report) = up(&dir.path().join("other"), "12");
    let (_, peers) = first.unwrap();
    assert_ne!(report["per_node"][0]["peer_id"], peers[0], "another seed, and the same key");
}

#[test]
fn scenario_44_ctrl_c_at_any_moment_of_the_start_leaves_no_process_and_no_home() {
    let dir = tempfile::tempdir().unwrap();
    // What is there tells how far the start is; each is a moment to interrupt at.
    let moments =
        ["", "node-0/config.toml", "node-0/lock", "node-0/address", "node-2/lock", "node-3/address"];
    for round in 0..rounds(moments.len()) {
        let home = dir.path().join(format!("round-{round}"));
        let mut child = testnet(&["up", "--slot-ms", "200", "--json"], &home).spawn().unwrap();
        let drain =
            child.stderr.take().map(|stderr| thread::spawn(move || BufReader::new(stderr).lines().count()));
        let moment = home.join(moments[round % moments.len()]);
        wait_until("the start has come to its moment", || {
            moment.exists() || child.try_wait().unwrap().is_some()
        });
        assert!(child.try_wait().unwrap().is_none(), "round {round}: it ended by itself");
        signal(&child, Signal::INT);
        let output = child.wait_with_output().unwrap();
        drain.unwrap().join().unwrap();
        assert_eq!(processes_of(&home), [] as [u32; 0], "round {round}: a process is left");
        assert!(!home.exists(), "round {round}: a home is left");
        // The program that reads gets its one object in any case.
        if output.status.code().is_some() {
            let lines = String::from_utf8(output.stdout).unwrap();
            assert_eq!(lines.lines().count(), 1, "round {round}: {lines}");
            serde_json::from_str::<Value>(&lines).unwrap();
        }
    }
}

#[test]
fn scenario_44_nodes_end_when_their_parent_is_killed_without_warning() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..rounds(2) {
        let home = dir.path().join(format!("round-{round}"));
        let mut child =
            testnet(&["up", "--nodes", "3", "--slot-ms", "200", "--json"], &home).spawn().unwrap();
        let (ports, drain) = read_addresses(child.stderr.take().unwrap(), 3);
        assert!(processes_of(&home).len() >= 4, "the parent and three nodes run");
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        drain.join().unwrap();
        wait_until("the nodes have ended", || processes_of(&home).is_empty());
        assert_free(&ports);
    }
}

#[test]
fn a_summary_comes_on_ctrl_c_too() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("net");
    let mut child =
        testnet(&["up", "--nodes", "2", "--slot-ms", "200", "--tps", "20", "--json"], &home).spawn().unwrap();
    let (ports, drain) = read_addresses(child.stderr.take().unwrap(), 2);
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    drain.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    assert_eq!(report["nodes"], 2);
    assert_free(&ports);
    assert!(!home.exists());
}

#[test]
fn a_node_that_is_killed_is_named_and_the_others_are_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("net");
    let mut child = testnet(&["up", "--slot-ms", "200", "--tps", "20", "--json"], &home).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut ports = Vec::new();
    while ports.len() < 4 {
        ports.extend(ports_in(&lines.next().expect("it ended before all nodes listened").unwrap()));
    }
    let victim = processes_of(&home.join("node-3"));
    assert_eq!(victim.len(), 1, "{victim:?}");
    kill_process(Pid::from_raw(victim[0].try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let noticed = lines.by_ref().map_while(Result::ok).find(|line| line.contains("ended by itself"));
    assert!(noticed.is_some_and(|line| line.starts_with("node 3 ended by itself (signal: 9")));
    let drain = thread::spawn(move || while lines.next().is_some() {});
    assert!(child.try_wait().unwrap().is_none(), "the run ended with the node");
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    drain.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!((&report["nodes"], &report["heads_agree"]), (&4.into(), &true.into()), "{report}");
    let nodes = report["per_node"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    assert!(nodes[3]["ended"].as_str().unwrap().contains('9'), "{report}");
    assert!(nodes[..3].iter().all(|node| node.get("ended").is_none() && node["height"].as_u64() > Some(0)));
    assert_free(&ports);
    assert!(!home.exists());
}

#[test]
fn scenario_30_killed_nodes_come_back_with_all_they_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let tries = rounds(2).to_string();
    let args = ["restart-drill", "--tries", &tries, "--down", "1s", "--slot-ms", "200", "--json"];
    let output = testnet(&args, &dir.path().join("net")).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), rounds(2) + 1);
    assert_eq!(lines.last().unwrap()["passed"], true);
}

#[test]
fn payloads_come_back_byte_for_byte_from_another_node() {
    let dir = tempfile::tempdir().unwrap();
    let output = testnet(&["payloads", "--count", "60", "--nodes", "2", "--json"], &dir.path().join("net"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["submitted"], &report["identical"]), (&60.into(), &60.into()));
}

/// What `ghostd` says of a home's node.
fn ghostd(command: &[&str], home: &Path) -> Value {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testnet"))
        .arg("__ghostd")
        .args(command)
        .args(["--json", "--home"])
        .arg(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Run by this program it ends when its standard input does.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// What `ghostd peers list` of a home shows: the nodes it is connected to.
fn listed_peers(home: &Path) -> std::collections::BTreeSet<String> {
    let value = ghostd(&["peers", "list"], home);
    let rows = value["peers"].as_array().cloned().unwrap_or_default();
    let nodes = rows.iter().filter(|row| row["role"] == "node");
    nodes.map(|row| row["peer_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[allow(clippy::print_stdout)]
fn twelve_nodes_that_are_told_of_one_other_each_are_fully_meshed_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["up", "--nodes", "12", "--tps", "0", "--topology", "chain"];
    let mut child = testnet(&args, dir.path()).spawn().unwrap();
    let (_, drained) = read_addresses(child.stderr.take().unwrap(), 12);
    let started = Instant::now();
    let mut degrees = [0; 12];
    wait_until("every node lists the eleven others", || {
        for (index, degree) in degrees.iter_mut().enumerate().filter(|(_, degree)| **degree < 11) {
            *degree = listed_peers(&dir.path().join(format!("node-{index}"))).len();
        }
        degrees == [11; 12]
    });
    println!(
        "12 nodes told of one other each: meshed {:.1} s after the last one listened",
        started.elapsed().as_secs_f64()
    );
    signal(&child, Signal::INT);
    child.wait().unwrap();
    drained.join().unwrap();
}

#[test]
fn a_banned_peer_is_refused_and_explained_and_what_is_known_outlives_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["up", "--nodes", "3", "--tps", "0", "--topology", "star", "--keep"];
    let mut child = testnet(&args, dir.path()).spawn().unwrap();
    let (_, drained) = read_addresses(child.stderr.take().unwrap(), 3);
    let home = |node: usize| dir.path().join(format!("node-{node}"));
    wait_until("the first node has two peers", || listed_peers(&home(0)).len() == 2);
    let banned = ghostd(&["status"], &home(1))["peer_id"].as_str().unwrap().to_owned();
    ghostd(&["peers", "ban", &banned, "--for", "1h"], &home(0));
    wait_until("it is gone", || !listed_peers(&home(0)).contains(&banned));
    // It was told of the first node alone to stay connected to, and comes back again and again.
    let story = |event: &str| {
        let explained = ghostd(&["peers", "explain", &banned], &home(0));
        let events = explained["story"].as_array().cloned().unwrap_or_default();
        let text = explained["message"].as_str().unwrap_or_default().to_owned();
        (events.iter().any(|one| one["event"].as_str().unwrap().starts_with(event)), text)
    };
    wait_until("the refusal is in its story", || story("refused").0);
    let (told, text) = story("banned for 3600 s");
    assert!(told && text.contains("it would not be let in: banned"), "{text}");
    let known = ghostd(&["status"], &home(0));
    assert!(known["refusals"].is_object(), "{known}");

    signal(&child, Signal::INT);
    child.wait().unwrap();
    drained.join().unwrap();
    // Written down at the end, and carried to a home that has never run.
    let export = ghostd(&["peers", "export"], &home(0));
    assert!(export["addresses"].as_array().unwrap().len() >= 2, "{export}");
    assert!(export["conduct"].as_array().unwrap().iter().any(|one| one["peer"] == banned.as_str()));
    let file = dir.path().join("peers.json");
    fs::write(&file, export.to_string()).unwrap();
    let fresh = dir.path().join("fresh");
    let genesis = home(0).join("genesis.toml");
    ghostd(&["init", "--genesis", genesis.to_str().unwrap()], &fresh);
    let taken = ghostd(&["peers", "import", file.to_str().unwrap()], &fresh);
    assert!(taken["addresses"].as_u64().unwrap() >= 2 && taken["stories"].as_u64().unwrap() >= 1, "{taken}");
    assert_eq!(ghostd(&["peers", "export"], &fresh)["addresses"], export["addresses"]);
}

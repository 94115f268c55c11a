//! Single `ghostd` processes: what they know after a kill, and what they do when the disk is full.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ghost_proto::{KeyPair, record::peer_of};
use serde_json::{Value, json};

/// How long anything here may take on a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(90);

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A running node; killed without warning when it is dropped.
struct Node {
    child: Child,
    home: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ghostd(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testnet"));
    command.arg("__ghostd").args(args).arg("--home").arg(home).stdin(Stdio::piped()).stderr(Stdio::null());
    command
}

fn init(home: &Path, genesis: Option<&Path>) {
    let mut args = vec!["init"];
    if let Some(genesis) = genesis {
        args.extend(["--genesis", genesis.to_str().unwrap()]);
    }
    run(&args, home);
}

fn run(args: &[&str], home: &Path) -> Value {
    let mut child = ghostd(args, home).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
    // Run by this program it ends when its standard input does.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

impl Node {
    /// Starts a node with these settings (GHOSTD_…), and waits until it answers.
    fn start(home: &Path, settings: &[(&str, &str)]) -> Self {
        let command = ghostd(&["run", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"], home);
        Self::spawn(command, home.to_owned(), settings)
    }

    fn spawn(mut command: Command, home: PathBuf, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| (format!("GHOSTD_{name}"), *value));
        let child = command.envs(settings).stdout(Stdio::null()).spawn().unwrap();
        let node = Self { child, home };
        wait_until("the node answers", || node.status()["peer_id"].is_string());
        node
    }

    fn status(&self) -> Value {
        run(&["status"], &self.home)
    }

    fn address(&self) -> String {
        fs::read_to_string(self.home.join("address")).unwrap().lines().next().unwrap().to_owned()
    }

    fn peers(&self) -> BTreeSet<String> {
        let value = run(&["peers", "list"], &self.home);
        let rows = value["peers"].as_array().cloned().unwrap_or_default();
        let nodes = rows.iter().filter(|row| row["role"] == "node");
        nodes.map(|row| row["peer_id"].as_str().unwrap().to_owned()).collect()
    }
}

/// So many addresses that nobody is at, as an export has them.
fn five_thousand() -> Value {
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let address = |n: u32| {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let peer = peer_of(&KeyPair::from_seed(&seed).public()).unwrap();
        // Of 5,200 netgroups, told by 650 others.
        let (a, b) = (20 + n / 256, n % 256);
        json!({
            "address": format!("/ip4/{a}.{b}.1.1/udp/4001/quic-v1/p2p/{peer}"), "tried": false,
            "source": format!("34{:02x}{:02x}0000000000", 20 + n / 2048, n / 8 % 256),
            "last_seen_s": now_s - 60, "last_try_s": 0, "last_success_s": 0, "attempts": 0, "stream_types": 255,
        })
    };
    let addresses: Vec<Value> = (0..5_200).map(address).collect();
    json!({ "version": 1, "addresses": addresses, "anchors": [], "conduct": [] })
}

#[test]
#[allow(clippy::print_stdout)]
fn killed_with_five_thousand_addresses_a_node_is_back_with_a_peer_before_it_needs_a_seed() {
    let dir = tempfile::tempdir().unwrap();
    let home = |name: &str| dir.path().join(name);
    init(&home("seed"), None);
    init(&home("node"), Some(&home("seed").join("genesis.toml")));
    let file = dir.path().join("known.json");
    fs::write(&file, five_thousand().to_string()).unwrap();
    run(&["peers", "import", file.to_str().unwrap()], &home("node"));

    let seed = Node::start(&home("seed"), &[]);
    let seed_id = seed.status()["peer_id"].as_str().unwrap().to_owned();
    let first = Node::start(&home("node"), &[("NETWORK_SEEDS", &seed.address())]);
    wait_until("the seed is a peer", || first.peers().contains(&seed_id));
    let anchored = || {
        // The store is the node's while it runs: what it wrote is looked at in a copy.
        let copy = dir.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        copy_dir(&home("node"), &copy);
        let export = run(&["peers", "export"], &copy);
        export["anchors"].as_array().is_some_and(|anchors| !anchors.is_empty())
    };
    wait_until("the anchor is on disk", anchored);
    let mut first = first;
    first.child.kill().unwrap();
    first.child.wait().unwrap();

    let export = run(&["peers", "export"], &home("node"));
    let known = export["addresses"].as_array().unwrap().len();
    assert!(known >= 5_000, "{known} addresses after kill -9");
    let anchor = export["anchors"][0]["address"].as_str().unwrap();
    assert!(anchor.ends_with(&seed_id), "{anchor}");

    // Nobody names a seed any more.
    let began = Instant::now();
    let again = Node::start(&home("node"), &[]);
    wait_until("it is connected", || again.peers().contains(&seed_id));
    println!("{known} addresses and the anchor are there; connected {:?} after the start", began.elapsed());
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        // What goes while it is copied was not to be kept.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy_dir(&entry.path(), &target);
        } else {
            let _ = fs::copy(entry.path(), target);
        }
    }
}

/// A node whose home is on a disk of its own, in a mount namespace of its own: a tmpfs of 256 MiB. The path that
/// leads there from here is below `/proc`.
fn on_a_small_disk(home: &Path, settings: &[(&str, &str)]) -> (Node, PathBuf) {
    let script = "mount -t tmpfs -o size=256m,mode=700 tmpfs \"$1/data\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(home)
        .arg(env!("CARGO_BIN_EXE_testnet"))
        .args(["__ghostd", "run", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--home"])
        .arg(home)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    fs::create_dir_all(home.join("data")).unwrap();
    let mut node = Node::spawn(command, home.to_owned(), settings);
    let mut lines = BufReader::new(node.child.stderr.take().unwrap()).lines();
    // Whoever writes must not block on a pipe that is full.
    thread::spawn(move || while lines.next().is_some() {});
    let data = PathBuf::from(format!("/proc/{}/root", node.child.id()))
        .join(home.join("data").strip_prefix("/").unwrap());
    (node, data)
}

#[test]
fn scenario_41_a_disk_that_fills_up_pauses_accepting_and_recovers_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let home = |name: &str| dir.path().join(name);
    init(&home("full"), None);
    for name in ["early", "late"] {
        init(&home(name), Some(&home("full").join("genesis.toml")));
    }
    let (node, data) = on_a_small_disk(&home("full"), &[]);
    let address = node.address();
    let early = Node::start(&home("early"), &[("NETWORK_PEERS", &address)]);
    let id = |node: &Node| node.status()["peer_id"].as_str().unwrap().to_owned();
    let (node_id, early_id) = (id(&node), id(&early));
    wait_until("the first is connected", || node.peers().contains(&early_id));
    let alarmed = || node.status()["alarms"].to_string().contains("the disk is nearly full");
    assert!(!alarmed());

    // 32 MiB stay free.
    let filler = data.join("filler");
    let written = Command::new("fallocate").args(["-l", "224M"]).arg(&filler).status().unwrap();
    if !written.success() {
        // What is there already takes its part.
        assert!(Command::new("fallocate").args(["-l", "200M"]).arg(&filler).status().unwrap().success());
    }
    wait_until("the node says that its disk is nearly full", alarmed);
    let late = Node::start(&home("late"), &[("NETWORK_PEERS", &address), ("NETWORK_DISCOVERY", "false")]);
    let late_id = id(&late);
    // Blocks go on and reach who is connected.
    let height = || early.status()["head"]["height"].as_u64().unwrap_or(0);
    let before = height();
    wait_until("blocks still reach the first", || height() >= before + 3);
    assert!(node.peers().contains(&early_id), "its session lives");
    assert!(!node.peers().contains(&late_id) && !late.peers().contains(&node_id), "nobody new got in");

    fs::remove_file(&filler).unwrap();
    wait_until("there is room again", || !alarmed());
    wait_until("the newcomer gets in", || node.peers().contains(&late_id));
    assert!(node.peers().contains(&early_id));
}

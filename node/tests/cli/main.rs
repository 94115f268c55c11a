//! The `ghostd` program as people and scripts use it: processes, exit codes, and what they leave behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything here may take on a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(60);

const TO: &str = "0x00000000000000000000000000000000000000aa";

fn ghostd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ghostd"));
    command.args(args).stdin(Stdio::null());
    for name in ["GHOSTD_HOME", "GHOSTD_NODE", "GHOSTD_LOG"] {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    ghostd(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn init(home: &Path, more: &[&str]) {
    let mut args = vec!["init", "--home", home.to_str().unwrap()];
    args.extend(["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    args.extend(more);
    let output = run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// A node that runs; ended when dropped.
struct Node {
    child: Child,
    home: PathBuf,
}

impl Node {
    /// Starts the node of a home and returns when it listens.
    fn start(home: &Path, more: &[&str]) -> Self {
        let mut args = vec!["run", "--json", "--home", home.to_str().unwrap()];
        args.extend(more);
        let mut child = ghostd(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line}");
        Self { child, home: home.into() }
    }

    fn ask(&self, args: &[&str]) -> Output {
        run(&[args, &["--json", "--home", self.home.to_str().unwrap()]].concat())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_client_whose_question_failed_says_goodbye() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &[]);
    let node = Node::start(&home, &[]);
    let address = fs::read_to_string(home.join("address")).unwrap();
    let none = "11".repeat(32);
    // Denied: a home of its own, whose operator this node does not know.
    let other = dir.path().join("other");
    init(&other, &["--genesis", home.join("genesis.toml").to_str().unwrap()]);
    let denied = run(&["peers", "--node", address.trim(), "--home", other.to_str().unwrap()]);
    assert!(denied.status.code() == Some(1) && stderr(&denied).contains("denies"), "{}", stderr(&denied));
    for failing in [
        vec!["tx", "get", &none],
        vec!["tx", "send", "--to", TO, "--gas-price", "0"],
        vec!["block", "get", "1000000"],
        vec![
            "peers",
            "add",
            "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq",
        ],
    ] {
        node.ask(&failing);
    }
    // Without a goodbye they are there until the idle timeout, 30 s. The one that asks is a client as well.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let peers = json(&node.ask(&["peers", "list"]));
        let clients =
            peers["peers"].as_array().unwrap().iter().filter(|peer| peer["role"] == "client").count();
        if clients == 1 {
            return;
        }
        assert!(Instant::now() < deadline, "{peers}");
    }
}

#[test]
fn doctor_does_not_take_the_port_of_another_node_for_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    init(&a, &[]);
    let first = Node::start(&a, &[]);
    let taken = fs::read_to_string(a.join("address")).unwrap();
    let taken = &taken[..taken.find("/p2p").unwrap()];
    let genesis = a.join("genesis.toml");
    let args =
        ["init", "--home", b.to_str().unwrap(), "--genesis", genesis.to_str().unwrap(), "--listen", taken];
    assert!(run(&args).status.success());
    // Its settings name the port of the first, and a flag another one, as in a walk-through on one machine.
    let second = Node::start(&b, &["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    let ports = |node: &Node| {
        let checks = json(&node.ask(&["doctor"]));
        checks["checks"].as_array().unwrap().iter().find(|check| check["check"] == "ports").unwrap().clone()
    };
    assert_eq!(ports(&first)["verdict"], "ok");
    let check = ports(&second);
    assert_eq!(check["verdict"], "warning", "{check}");
    assert!(check["seen"].as_str().unwrap().contains("does not listen on UDP 127.0.0.1"), "{check}");
}

#[test]
fn a_parked_transaction_says_so_when_sent_and_when_listed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &[]);
    let node = Node::start(&home, &[]);
    let sent = json(&node.ask(&["tx", "send", "--to", TO, "--nonce", "5"]));
    assert_eq!((&sent["accepted"], &sent["waits_for_nonce"]), (&true.into(), &0.into()), "{sent}");
    let pending = json(&node.ask(&["tx", "pending"]));
    assert_eq!(pending["count"], 1);
    let row = &pending["transactions"][0];
    assert_eq!((&row["id"], &row["state"], &row["nonce"]), (&sent["id"], &"parked".into(), &5.into()));
    assert_eq!(row["waits_for_nonce"], 0);
    // Whoever waits for it in vain still learns its id.
    let args = ["tx", "send", "--to", TO, "--nonce", "6", "--wait", "--wait-timeout", "300ms"];
    let output = node.ask(&args);
    assert_eq!(output.status.code(), Some(1));
    let failed = json(&output);
    let (id, error) = (failed["id"].as_str().unwrap(), failed["error"].as_str().unwrap());
    assert!(error.contains(&format!("ghostd tx get {id}")) && error.contains("after 300 ms"), "{error}");
}

#[test]
fn who_waits_on_a_node_that_ends_still_learns_the_id() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &[]);
    let mut node = Node::start(&home, &[]);
    let root = home.to_str().unwrap();
    let waiting = ghostd(&["tx", "send", "--to", TO, "--nonce", "5", "--wait", "--json", "--home", root])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while json(&node.ask(&["tx", "pending"]))["count"] != 1 {
        assert!(Instant::now() < deadline, "it was not sent");
    }
    node.signal(Signal::TERM);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let failed = json(&output);
    assert_eq!(failed["id"].as_str().map(str::len), Some(64), "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("was accepted, and then"), "{failed}");
    assert!(node.ended().success());
}

#[test]
fn the_end_of_its_terminal_stops_a_node_as_sigterm_does() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &[]);
    let mut node = Node::start(&home, &[]);
    node.signal(Signal::HUP);
    let status = node.ended();
    assert!(status.success(), "{status}");
    assert!(!home.join("address").exists(), "an address is left behind");
}

#[test]
fn what_init_takes_run_takes() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("c");
    let root = home.to_str().unwrap();
    let output = run(&["init", "--home", root, "--listen", "/ip4/1.2.3.4/tcp/4"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!home.exists());
    init(&home, &[]);
    for (section, wrong) in [
        ("network", "listen = [\"/ip4/1.2.3.4/tcp/4\"]"),
        ("network", "peers = [\"/ip4/127.0.0.1/udp/4001/quic-v1\"]"),
        ("log", "filter = \"xx=yy=zz\""),
    ] {
        fs::write(home.join("config.toml"), format!("[{section}]\n{wrong}\n")).unwrap();
        let checked = run(&["doctor", "--json", "--home", root]);
        assert_eq!(checked.status.code(), Some(1), "{wrong}");
        let config = json(&checked)["checks"][0].clone();
        assert_eq!((&config["check"], &config["verdict"]), (&"config".into(), &"bad".into()), "{config}");
        let started = run(&["run", "--home", root]);
        assert_eq!(started.status.code(), Some(1), "{wrong}");
        let said = config["seen"].as_str().unwrap().lines().next().unwrap().to_owned();
        assert!(stderr(&started).contains(&said), "{} and {said}", stderr(&started));
    }
}

#[test]
fn genesis_is_a_block_that_can_be_asked_for_and_ids_that_are_printed_can_be_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &["--slot-ms", "200"]);
    let node = Node::start(&home, &[]);
    let genesis = json(&node.ask(&["block", "get", "0"]));
    assert_eq!((&genesis["height"], &genesis["genesis"]), (&0.into(), &true.into()), "{genesis}");
    let id = genesis["id"].as_str().unwrap().to_owned();
    assert_eq!(json(&node.ask(&["block", "get", &id])), genesis);
    let sent = json(&node.ask(&["tx", "send", "--to", TO, "--wait"]));
    let root = home.to_str().unwrap();
    let status = run(&["status", "--home", root]);
    let status = String::from_utf8(status.stdout).unwrap();
    let head = status.lines().find(|line| line.starts_with("head")).unwrap();
    let block = json(&node.ask(&["block", "get", head.split_whitespace().last().unwrap()]));
    assert!(block["height"].as_u64().unwrap() >= sent["block"]["height"].as_u64().unwrap(), "{block}");
    assert_eq!(json(&node.ask(&["block", "get", "1"]))["parent"], id);
}

#[test]
fn a_node_is_no_peer_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &[]);
    let node = Node::start(&home, &[]);
    let own = fs::read_to_string(home.join("address")).unwrap();
    let output = node.ask(&["peers", "add", own.trim()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("this node itself"), "{}", stderr(&output));
}

#[test]
fn nothing_to_send_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    init(&home, &[]);
    let node = Node::start(&home, &[]);
    let output = node.ask(&["tx", "send", "--payloads", "/dev/null"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("holds no payload"), "{}", stderr(&output));
}

#[test]
fn files_that_are_missing_or_there_already_come_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (home, other) = (dir.path().join("a"), dir.path().join("b"));
    init(&home, &[]);
    init(&other, &[]);
    let root = home.to_str().unwrap();
    for (args, expected) in [
        (vec!["account", "new", "dev", "--home", root], "choose another name"),
        (vec!["account", "address", "--home", root, "--key", "nowhere.key"], "name another key file"),
    ] {
        let output = run(&args);
        assert!(output.status.code() == Some(1) && stderr(&output).contains(expected), "{}", stderr(&output));
    }
    fs::copy(other.join("authority.key"), home.join("authority.key")).unwrap();
    let output = run(&["run", "--home", root]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("set chain.role to \"follower\"") && !said.contains("remove"), "{said}");
    fs::remove_file(home.join("node.key")).unwrap();
    let output = run(&["run", "--home", root]);
    assert!(stderr(&output).contains("put this one back from a copy"), "{}", stderr(&output));
}

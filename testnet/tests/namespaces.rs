//! What loopback cannot show: two hosts with a wire between them, made of network namespaces. Addresses
//! change under a session, the wire narrows, and packets are really lost.
//!
//! It takes root and the programs `ip`, `tc` and `nft`. Without them the tests say so and show nothing;
//! with `CI` set, that is a failure.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything here may take on a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(60);

const TO: &str = "0x00000000000000000000000000000000000000aa";

/// Runs a program to its end: what it wrote, or what went wrong.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let line = || format!("{program} {}", args.join(" "));
    let output = Command::new(program).args(args).output().map_err(|error| format!("{}: {error}", line()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", line(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn must(line: &str) {
    let (program, args) = line.split_once(' ').unwrap();
    run(program, &args.split(' ').collect::<Vec<_>>()).unwrap();
}

/// Two hosts and the wire between them; gone when dropped.
struct Lab {
    hosts: [String; 2],
    subnet: u32,
}

impl Lab {
    /// `None`, said aloud, where the machine does not allow it.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("gh{}{number}{side}", std::process::id());
        let lab = Self { hosts: [name("a"), name("b")], subnet: number };
        match lab.build() {
            Ok(()) => Some(lab),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "no network namespaces: {error}");
                eprintln!("SKIPPED, nothing was shown: no network namespaces: {error}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let [a, b] = &self.hosts;
        run("nft", &["--version"])?;
        run("tc", &["-Version"])?;
        run("ip", &["netns", "add", a])?;
        run("ip", &["netns", "add", b])?;
        run("ip", &["link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b])?;
        for side in 0..2 {
            let host = &self.hosts[side];
            let address = format!("{}/24", self.address(side, 1));
            run("ip", &["-n", host, "link", "set", "lo", "up"])?;
            run("ip", &["-n", host, "addr", "add", &address, "dev", host])?;
            run("ip", &["-n", host, "link", "set", host, "up"])?;
        }
        Ok(())
    }

    /// The n-th address of a host.
    fn address(&self, side: usize, n: u32) -> String {
        format!("10.77.{}.{}", self.subnet, 100 * side as u32 + n)
    }

    /// A wire that takes datagrams of at most so many bytes with their IP header.
    fn narrow(&self, mtu: u32) {
        for host in &self.hosts {
            must(&format!("ip -n {host} link set {host} mtu {mtu}"));
        }
    }

    /// Each host loses one packet in `one_in` that reaches it, and sends `mbit` Mbit/s at most.
    fn spoil(&self, one_in: u32, mbit: u32) {
        for host in &self.hosts {
            let table = format!(
                "table inet wire {{\nchain in {{\ntype filter hook input priority 0;\n\
                 meta l4proto udp numgen random mod {one_in} 0 counter drop\n}}\n}}"
            );
            run("ip", &["netns", "exec", host, "nft", &table]).unwrap();
            must(&format!(
                "ip netns exec {host} tc qdisc add dev {host} root tbf rate {mbit}mbit burst 32k latency 100ms"
            ));
        }
    }

    /// Packets that a spoiled host lost.
    fn lost(&self, side: usize) -> u64 {
        let host = &self.hosts[side];
        let output = Command::new("ip")
            .args(["netns", "exec", host, "nft", "-j", "list", "table", "inet", "wire"])
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let (_, rest) = text.split_once("\"packets\":").unwrap_or_else(|| panic!("no counter in {text}"));
        rest.trim().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    fn ghostd(&self, side: usize, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[side], env!("CARGO_BIN_EXE_testnet"), "__ghostd"]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ["GHOSTD_HOME", "GHOSTD_NODE", "GHOSTD_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs one of ghostd's commands on a host, to its end.
    fn ask(&self, side: usize, args: &[&str]) -> Output {
        let mut child = self.ghostd(side, args).spawn().unwrap();
        // It stops when this pipe closes.
        let pipe = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(pipe);
        output
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = run("ip", &["netns", "del", host]);
        }
    }
}

/// A node on one of the hosts; ended when dropped.
struct Node<'a> {
    lab: &'a Lab,
    side: usize,
    home: PathBuf,
    child: Child,
}

impl<'a> Node<'a> {
    fn start(lab: &'a Lab, side: usize, dir: &Path, init: &[&str], more: &[&str]) -> Self {
        let home = dir.join(["a", "b"][side]);
        let path = home.to_str().unwrap();
        let made = lab.ask(side, &[&["init", "--home", path], init].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let listen = ["--listen", "/ip4/0.0.0.0/udp/4001/quic-v1"];
        let args = [&["run", "--json", "--home", path][..], &listen, more].concat();
        let mut child = lab.ghostd(side, &args).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line}");
        Self { lab, side, home, child }
    }

    fn ask(&self, args: &[&str]) -> Value {
        let output =
            self.lab.ask(self.side, &[args, &["--json", "--home", self.home.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Its only session with a node.
    fn session(&self) -> Option<Value> {
        let peers = self.ask(&["peers", "list"])["peers"].take();
        let mut nodes = peers.as_array().unwrap().iter().filter(|peer| peer["role"] == "node");
        let first = nodes.next().cloned();
        assert!(nodes.next().is_none(), "{peers}");
        first
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}: {}",
                self.ask(&["peers", "list"])
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn height(&self) -> u64 {
        self.ask(&["status"])["head"]["height"].as_u64().unwrap()
    }

    /// Sends a transfer with so many bytes of payload through this node and waits until it is included.
    fn send(&self, key: &Path, payload_bytes: usize) -> String {
        let file = self.home.join("payload");
        fs::write(&file, vec![7_u8; payload_bytes]).unwrap();
        let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
        let sent = self.ask(&["tx", "send", "--key", key, "--to", TO, "--payload-file", file, "--wait"]);
        sent["id"].as_str().unwrap().to_owned()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Host 1 makes blocks; host 0 follows it, and dialled.
fn two_hosts<'a>(lab: &'a Lab, dir: &Path) -> (Node<'a>, Node<'a>) {
    let maker = Node::start(lab, 1, dir, &["--slot-ms", "200"], &[]);
    let genesis = maker.home.join("genesis.toml");
    let peer = maker.ask(&["status"])["peer_id"].as_str().unwrap().to_owned();
    let address = format!("/ip4/{}/udp/4001/quic-v1/p2p/{peer}", lab.address(1, 1));
    let follower = Node::start(lab, 0, dir, &["--genesis", genesis.to_str().unwrap()], &["--peer", &address]);
    follower.wait("it has a session", Node::session);
    (follower, maker)
}

#[test]
fn scenario_41_a_host_that_gets_another_address_keeps_its_session() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (follower, maker) = two_hosts(&lab, dir.path());
    let (old, new) = (lab.address(0, 1), lab.address(0, 9));
    let seen = |node: &Node| node.session().map(|session| session["address"].as_str().unwrap().to_owned());
    assert!(seen(&maker).unwrap().contains(&format!("{old}/")));
    let (before, since) = (follower.height(), Instant::now());
    let host = &lab.hosts[0];
    must(&format!("ip -n {host} addr del {old}/24 dev {host}"));
    must(&format!("ip -n {host} addr add {new}/24 dev {host}"));
    maker.wait("it sees the new address", |maker| seen(maker)?.contains(&format!("{new}/")).then_some(()));
    follower.wait("blocks come", |follower| (follower.height() > before + 5).then_some(()));
    // The same session: older than the new address.
    for node in [&follower, &maker] {
        let connected_ms = node.session().unwrap()["connected_ms"].as_u64().unwrap();
        assert!(u128::from(connected_ms) > since.elapsed().as_millis(), "{connected_ms} ms");
    }
}

#[test]
fn a_wire_that_narrows_under_a_session_costs_neither_the_session_nor_a_transaction() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (follower, maker) = two_hosts(&lab, dir.path());
    let key = maker.home.join("accounts/dev.key");
    // Datagrams grow to what the wire takes; then it takes less, down to what IPv6 and QUIC ask for at least.
    for mtu in [1_500, 1_280] {
        let since = Instant::now();
        lab.narrow(mtu);
        let id = follower.send(&key, 100_000);
        assert_eq!(maker.ask(&["tx", "get", &id])["payload_bytes"], 100_000, "{mtu}");
        let connected_ms = follower.session().unwrap()["connected_ms"].as_u64().unwrap();
        assert!(u128::from(connected_ms) > since.elapsed().as_millis(), "{mtu}: {connected_ms} ms");
    }
}

#[test]
fn scenario_39_real_loss_on_a_narrow_wire_bans_nobody_and_loses_no_transaction() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (follower, maker) = two_hosts(&lab, dir.path());
    let key = maker.home.join("accounts/dev.key");
    let since = Instant::now();
    lab.spoil(20, 8);
    for payload_bytes in [0, 1_000, 30_000, 60_000, 10_000] {
        let id = follower.send(&key, payload_bytes);
        assert_ne!(maker.ask(&["tx", "get", &id])["status"], "pending");
    }
    let lost = lab.lost(0) + lab.lost(1);
    assert!(lost > 5, "only {lost} packets were lost: it showed nothing");
    for node in [&follower, &maker] {
        let session = node.session().unwrap();
        assert_eq!(session["conduct"], 0, "{session}");
        let connected_ms = session["connected_ms"].as_u64().unwrap();
        assert!(u128::from(connected_ms) > since.elapsed().as_millis(), "{session}");
    }
}

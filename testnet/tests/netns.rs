//! Nodes behind real NATs: network namespaces with nftables.
//!
//! It takes root and the programs `ip` and `nft`. Without them the tests say so and show nothing; with `CI` set,
//! that is a failure.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Namespaces of one test, gone when it is dropped.
struct Spaces(String);

impl Drop for Spaces {
    fn drop(&mut self) {
        for name in ["r", "nat1", "nat2", "a", "b"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(name)]).status();
        }
    }
}

impl Spaces {
    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.0)
    }

    fn sh(&self, name: &str, script: &str) {
        let done = Command::new("ip").args(["netns", "exec", &self.name(name), "sh", "-ec", script]).output();
        let done = done.expect("`ip` is there");
        assert!(done.status.success(), "{name}: {script}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A bridge that is the internet, and two homes behind routers that let in only what answers.
    fn new(test: &str, masquerade: &str) -> Self {
        let spaces = Self(format!("ghost{}{test}", std::process::id()));
        for name in ["r", "nat1", "nat2", "a", "b"] {
            let added = Command::new("ip").args(["netns", "add", &spaces.name(name)]).status();
            assert!(added.is_ok_and(|status| status.success()), "this needs root and network namespaces");
        }
        spaces.sh("r", "ip link add br type bridge; ip addr add 55.1.0.1/16 dev br; ip link set br up; ip link set lo up");
        for (nat, inner, n) in [("nat1", "a", 1), ("nat2", "b", 2)] {
            let (nat_ns, inner_ns) = (spaces.name(nat), spaces.name(inner));
            spaces.sh(
                "r",
                &format!(
                    "ip link add p{n} type veth peer name out netns {nat_ns}; ip link set p{n} master br up"
                ),
            );
            spaces.sh(nat, &format!("ip link add in type veth peer name eth netns {inner_ns}"));
            spaces.sh(nat, &format!(
                "ip addr add 55.1.{n}.1/16 dev out; ip link set out up; ip addr add 192.168.{n}.1/24 dev in; \
                 ip link set in up; echo 1 > /proc/sys/net/ipv4/ip_forward; nft add table ip t; \
                 nft 'add chain ip t post {{ type nat hook postrouting priority 100 ; }}'; \
                 nft add rule ip t post oifname out {masquerade}; \
                 nft 'add chain ip t input {{ type filter hook input priority 0 ; }}'; \
                 nft add rule ip t input iifname out ct state new drop"
            ));
            spaces.sh(
                inner,
                &format!(
                    "ip link set lo up; ip addr add 192.168.{n}.2/24 dev eth; ip link set eth up; \
                 ip route add default via 192.168.{n}.1"
                ),
            );
        }
        spaces
    }

    fn ghostd(&self, name: &str, args: &[&str], home: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(name), env!("CARGO_BIN_EXE_testnet"), "__ghostd"])
            .args(args)
            .arg("--home")
            .arg(home)
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    fn ask(&self, name: &str, args: &[&str], home: &Path) -> Value {
        let mut child = self.ghostd(name, args, home).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(input);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

/// Whether namespaces can be made here, and NATs in them.
fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(probe)
}

#[allow(clippy::print_stderr)]
fn probe() -> bool {
    let name = format!("ghost{}-probe", std::process::id());
    let works = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|done| done.status.success())
    };
    let possible = works("ip", &["netns", "add", &name])
        && works("ip", &["netns", "exec", &name, "nft", "add", "table", "ip", "t"]);
    works("ip", &["netns", "del", &name]);
    assert!(possible || std::env::var_os("CI").is_none(), "network namespaces with nftables are needed");
    if !possible {
        eprintln!("not shown: this takes root, `ip` and `nft`");
    }
    possible
}

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the common peer and the two behind NATs; the address at which the second lists the first.
fn meet(test: &str, masquerade: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let home = |name: &str| dir.path().join(name);
    let spaces = Spaces::new(test, masquerade);
    let genesis = home("r").join("genesis.toml");
    spaces.ask("r", &["init"], &home("r"));
    for name in ["a", "b"] {
        spaces.ask(name, &["init", "--genesis", genesis.to_str().unwrap()], &home(name));
    }
    let start = |name: &str, listen: &str, peers: &str| {
        let listen = format!("/ip4/{listen}/udp/4001/quic-v1");
        let mut command = spaces.ghostd(name, &["run", "--listen", &listen], &home(name));
        command.env("GHOSTD_NETWORK_PEERS", peers).stdout(Stdio::null());
        let node = Node(command.spawn().unwrap());
        let began = Instant::now();
        loop {
            let status = spaces.ask(name, &["status"], &home(name));
            if let Some(id) = status["peer_id"].as_str() {
                return (node, id.to_owned());
            }
            assert!(began.elapsed() < PATIENCE, "{name} does not answer");
            thread::sleep(Duration::from_millis(100));
        }
    };
    let at = |ip: &str, id: &str| format!("/ip4/{ip}/udp/4001/quic-v1/p2p/{id}");
    let (_r, r_id) = start("r", "55.1.0.1", "");
    let (_a, a_id) = start("a", "192.168.1.2", &at("55.1.0.1", &r_id));
    let told = [at("55.1.0.1", &r_id), at("55.1.1.1", &a_id)].join(",");
    let (_b, _) = start("b", "192.168.2.2", &told);
    let began = Instant::now();
    loop {
        let listed = spaces.ask("b", &["peers", "list"], &home("b"));
        let rows = listed["peers"].as_array().cloned().unwrap_or_default();
        if let Some(row) = rows.iter().find(|row| row["peer_id"] == a_id.as_str()) {
            let address = row["address"].as_str().unwrap().to_owned();
            println_at(test, began.elapsed(), &address);
            return address;
        }
        assert!(began.elapsed() < PATIENCE, "they do not meet");
        thread::sleep(Duration::from_millis(200));
    }
}

#[allow(clippy::print_stdout)]
fn println_at(test: &str, after: Duration, address: &str) {
    println!("{test}: b lists a at {address} after {after:?}");
}

#[test]
fn two_nodes_behind_masquerading_routers_meet_directly() {
    if !is_possible() {
        return;
    }
    assert_eq!(meet("punch", "masquerade"), "/ip4/55.1.1.1/udp/4001/quic-v1");
}

#[test]
fn two_nodes_behind_routers_with_random_ports_meet_through_the_common_peer() {
    if !is_possible() {
        return;
    }
    let address = meet("relay", "masquerade fully-random");
    assert!(address.starts_with("/ip6/fd67:686f:7374:"), "{address}");
}

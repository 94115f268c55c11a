//! Nodes behind Tor alone, on a Tor network of their own, with everything that leaves them looked at.
//!
//! Relays and nodes run in a network namespace of which the test sees every packet. It has a second way out, which
//! leads nowhere: whatever a node would send past Tor, a look-up of a name included, would go there and be seen.
//!
//! Needs root, and the programs `tor`, `tcpdump` and `ip` (Debian: tor, tcpdump, iproute2). Where they are missing
//! the tests say so and pass; with `CI` set they fail.
#![cfg(feature = "tor")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bytes::Bytes;
use ghost_node::home::Home;
use ghost_proto::{Address, TxId, message};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
};
use ghost_testnet::{
    genesis::Plan,
    tor_network::{Place, TorNetwork, is_installed},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

const PLAN: Plan =
    Plan { seed: 43, nodes: 1, accounts: 4, slot_ms: 200, spare_authorities: 0, publishers: 0 };

/// How long a network may take for anything here, on a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(240);

/// True if the tests cannot run here. Says why.
fn is_impossible() -> bool {
    let missing: Vec<&str> =
        ["tor", "tor-gencert", "tcpdump", "ip"].into_iter().filter(|name| !is_installed(name)).collect();
    let why = if !missing.is_empty() {
        format!("not installed: {}", missing.join(", "))
    } else if !rustix::process::geteuid().is_root() {
        "not root".into()
    } else {
        return false;
    };
    assert!(std::env::var_os("CI").is_none(), "the tests of Tor must run here, and cannot: {why}");
    eprintln!("SKIPPED, nothing was tested: {why}");
    true
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace with loopback and a way to nowhere.
struct Namespace(String);

impl Namespace {
    fn make(name: &str) -> Self {
        let name = format!("ghost-{name}-{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let made = Self(name);
        for line in [
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
            "ip link set lo up",
            "ip link add nowhere type veth peer name nobody",
            "ip link set nobody up",
            "ip addr add 10.99.0.1/24 dev nowhere",
            "ip link set nowhere up",
            // Anybody is thought to be there, so that no packet waits for an answer to who has the address.
            "ip neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev nowhere",
            "ip route add default via 10.99.0.2 dev nowhere",
        ] {
            run(made.place().command("sh").args(["-c", line]));
        }
        made
    }

    fn place(&self) -> Place {
        Place::Namespace(self.0.clone())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Every packet in a namespace that is not of Tor: TCP to or from one of these ports.
struct Capture {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Capture {
    fn start(place: &Place, tor: &[u16]) -> Self {
        let ports: Vec<String> = tor.iter().map(|port| format!("port {port}")).collect();
        let filter = format!("not (tcp and ({}))", ports.join(" or "));
        let mut child = place
            .command("tcpdump")
            .args(["-i", "any", "-nn", "-l", "-p", &filter])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (seen, out) = (lines.clone(), child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                seen.lock().unwrap().push(line);
            }
        });
        // It says when it has begun to look.
        let mut words = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(words.any(|line| line.contains("listening on")), "tcpdump does not begin");
        thread::spawn(move || words.for_each(drop));
        let mut capture = Self { child, lines };
        capture.sees(place);
        capture
    }

    /// One packet as a look-up of a name would send it: seen, or the capture is worth nothing.
    fn sees(&mut self, place: &Place) {
        run(place.command("bash").args(["-c", "echo look > /dev/udp/192.0.2.53/53"]));
        for _ in 0..200 {
            thread::sleep(Duration::from_millis(50));
            let mut lines = self.lines.lock().unwrap();
            if lines.iter().any(|line| line.contains("192.0.2.53.53")) {
                return lines.clear();
            }
        }
        panic!("the capture does not see what it is to find: {:?}", self.lines.lock().unwrap());
    }

    /// What was seen that is not of Tor, once everything so far has been written down.
    fn strangers(mut self, place: &Place) -> Vec<String> {
        let seen = {
            let kept = std::mem::take(&mut *self.lines.lock().unwrap());
            // What comes before this one is there when this one is.
            self.sees_after(place, kept)
        };
        let _ = self.child.kill();
        let _ = self.child.wait();
        seen
    }

    fn sees_after(&mut self, place: &Place, mut kept: Vec<String>) -> Vec<String> {
        run(place.command("bash").args(["-c", "echo look > /dev/udp/192.0.2.53/53"]));
        for _ in 0..200 {
            thread::sleep(Duration::from_millis(50));
            kept.append(&mut self.lines.lock().unwrap());
            if kept.iter().any(|line| line.contains("192.0.2.53.53")) {
                kept.retain(|line| !line.contains("192.0.2.53.53"));
                return kept;
            }
        }
        panic!("the capture has gone blind");
    }
}

/// A ghostd process that uses nothing but Tor.
struct Node {
    home: Home,
    child: Child,
    log: PathBuf,
}

impl Node {
    fn start(root: &Path, index: u16, place: &Place, settings: &Path, more: &[(&str, &str)]) -> Self {
        let root = root.join(format!("node{index}"));
        let home = match Home::open(&root) {
            Ok(home) => home,
            Err(_) => PLAN.make_home(&root, index, &genesis(root.parent().unwrap())).unwrap(),
        };
        let log = root.join("log");
        let child = place
            .command(env!("CARGO_BIN_EXE_testnet"))
            .args(["__ghostd", "run", "--home"])
            .arg(&root)
            .env("GHOSTD_TOR_MODE", "only")
            .env("GHOSTD_TOR_SETTINGS", settings)
            .env("GHOSTD_LOG", "warn,ghost=debug")
            .envs(more.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { home, child, log }
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Connects as its operator, through the socket in its home.
    async fn client(&mut self) -> Client {
        let identity = Identity::from_seed(&self.home.operator_key().unwrap().seed());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the node ended: {status}\n{}", self.tail());
            }
            if let Ok(addresses) = self.home.addresses()
                && let Ok(client) = Client::connect(ClientConfig::new(identity.clone()), &addresses[0]).await
            {
                return client;
            }
            assert!(Instant::now() < deadline, "the node does not answer\n{}", self.tail());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Its sockets of one table of the kernel's (`tcp`, `udp`, …): local and remote port of each.
    fn sockets(&self, table: &str) -> Vec<(u16, u16)> {
        let pid = self.child.id();
        let held: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        text.lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.get(9).is_some_and(|inode| held.contains(*inode)))
            .filter_map(|words| Some((port(words[1])?, port(words[2])?)))
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.tail());
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// One chain for all nodes of a test: it begins when the first of them is made.
fn genesis(root: &Path) -> ghost_proto::Genesis {
    let file = root.join("genesis.toml");
    if !file.exists() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        fs::write(&file, PLAN.genesis(now.as_millis() as u64).unwrap().to_toml()).unwrap();
    }
    ghost_proto::Genesis::from_toml(&fs::read_to_string(file).unwrap()).unwrap()
}

async fn status(client: &Client) -> message::Status {
    client.status().await.unwrap()
}

async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(200)).await;
    }
    begun.elapsed()
}

fn height(status: &message::Status) -> u64 {
    status.head.as_ref().map_or(0, |head| head.height)
}

fn transfer(account: usize, nonce: u64) -> (TxId, Bytes) {
    let mut sender = PLAN.senders().swap_remove(account);
    sender.nonce = nonce;
    let tx = sender.transfer(Address([7; 20]), 1, Bytes::new()).unwrap();
    (tx.id(), tx.bytes().clone())
}

async fn submit(client: &Client, tx: &(TxId, Bytes), privacy: message::Privacy) {
    let results = client.submit_with(vec![tx.1.clone()], privacy).await.unwrap();
    assert!(results[0].accepted, "{results:?}");
}

async fn is_included(client: &Client, id: TxId) -> bool {
    client.receipt(id).await.unwrap().is_some()
}

/// 200 blocks, transactions both ways, a relay that dies on the path; and of all that left the nodes not one
/// packet was anything but Tor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_behind_tor_alone_find_each_other_sync_relay_and_send_nothing_else() {
    if is_impossible() {
        return;
    }
    let begun = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let namespace = Namespace::make("pair");
    let place = namespace.place();
    let mut tor = TorNetwork::start(&dir.path().join("tor"), &place).unwrap();
    let ports: Vec<u16> = tor.relays().iter().flat_map(|relay| [relay.or_port, relay.dir_port]).collect();
    let capture = Capture::start(&place, &ports);
    let settings = tor.settings().to_owned();

    // The first begins before its Tor network is of one mind, and goes on trying.
    let mut one = Node::start(dir.path(), 0, &place, &settings, &[]);
    let first = one.client().await;
    tor.settle().unwrap();
    eprintln!("Tor network up after {:?}", begun.elapsed());
    wait_until("the first has published its onion service", async || {
        let tor = status(&first).await.tor.unwrap_or_default();
        tor.ready && tor.service == "published"
    })
    .await;
    wait_until("there are 200 blocks", async || height(&status(&first).await) >= 200).await;
    let onion = status(&first).await.tor.unwrap().onion;
    assert!(onion.starts_with("/onion3/"), "{onion}");

    // The second knows nothing but that address.
    let mut two = Node::start(dir.path(), 1, &place, &settings, &[("GHOSTD_NETWORK_PEERS", onion.as_str())]);
    let second = two.client().await;
    let took = wait_until("the second has 200 blocks", async || height(&status(&second).await) >= 200).await;
    eprintln!("found, connected and 200 blocks after {took:?}");
    let said = status(&second).await;
    let over_tor: Vec<_> = said.peers.iter().filter(|row| row.role == "node" && row.count > 0).collect();
    assert_eq!(over_tor.len(), 1, "{over_tor:?}");
    assert_eq!((over_tor[0].network.as_str(), over_tor[0].direction.as_str()), ("onion", "outbound"));

    // Both ways, and hidden over circuits of their own. Only the first makes blocks.
    let there = transfer(0, 0);
    submit(&second, &there, message::Privacy::Fast).await;
    let took = wait_until("the first has included it", async || is_included(&first, there.0).await).await;
    eprintln!("a transaction of the second was included after {took:?}");
    let back = transfer(1, 0);
    submit(&first, &back, message::Privacy::Fast).await;
    wait_until("the second has the block with it", async || is_included(&second, back.0).await).await;
    wait_until("the first counts what the second relayed to it", async || {
        status(&first).await.relay.is_some_and(|relay| relay.transactions >= 1)
    })
    .await;

    let or_ports: BTreeSet<u16> = tor.relays().iter().map(|relay| relay.or_port).collect();
    for node in [&one, &two] {
        for table in ["udp", "udp6", "raw", "raw6"] {
            assert_eq!(node.sockets(table), [], "{table}");
        }
        let elsewhere: Vec<_> =
            node.sockets("tcp").into_iter().filter(|(_, to)| !or_ports.contains(to)).collect();
        // The multiplexer of file systems is not TCP; arti listens nowhere.
        assert_eq!(elsewhere, [], "connections that are not to a relay");
    }
    let strangers = capture.strangers(&place);
    assert_eq!(strangers, Vec::<String>::new(), "packets that are not of Tor");
    eprintln!("all of it took {:?}", begun.elapsed());
}

/// Its relays answer nobody. They are at an address out there, so that the attempts to reach them are packets too;
/// nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_43_behind_tor_alone_and_tor_unreachable_not_one_packet_goes_elsewhere_and_the_status_says_why()
 {
    if is_impossible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let namespace = Namespace::make("43");
    let place = namespace.place();
    let settings = dir.path().join("unreachable.toml");
    let digits = "0123456789ABCDEF0123456789ABCDEF01234567";
    fs::write(
        &settings,
        format!(
            "[tor_network]\nfallback_caches = [{{ rsa_identity = \"{digits}\", ed_identity = \"{}\", orports = [\"192.0.2.9:9001\"] }}]\n\
             [tor_network.authorities]\nv3idents = [\"{digits}\"]\n\
             [storage.permissions]\ndangerously_trust_everyone = true\n",
            "Vie8hBjqT4rnqOHVUEFe4AzpMxwLCHqU0nqZye4T/i8"
        ),
    )
    .unwrap();
    let capture = Capture::start(&place, &[9001]);
    let onion = "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:4001/p2p/12D3KooWGC6b4zqRu8WvfLmkKxqgLKhPSUexo7qsmwnPcNaKQdBq";
    let mut node = Node::start(
        dir.path(),
        0,
        &place,
        &settings,
        &[("GHOSTD_NETWORK_PEERS", onion), ("GHOSTD_NETWORK_LISTEN", "/ip4/0.0.0.0/udp/4001/quic-v1")],
    );
    let client = node.client().await;
    // Long enough for dials, feelers, seeds and what else a node tries when it knows nobody.
    let transaction = transfer(0, 0);
    submit(&client, &transaction, message::Privacy::Fast).await;
    sleep(Duration::from_secs(20)).await;
    let said = status(&client).await;
    let tor = said.tor.clone().expect("Tor is in the status");
    assert_eq!((tor.mode.as_str(), tor.ready), ("only", false), "{tor:?}");
    assert!(!tor.detail.is_empty());
    let alarm = said.alarms.iter().find(|alarm| alarm.starts_with("Tor does not work"));
    assert!(alarm.is_some_and(|alarm| alarm.contains("sends nothing")), "{:?}", said.alarms);
    assert_eq!(said.peers.iter().filter(|row| row.role == "node").map(|row| row.count).sum::<u32>(), 0);
    for table in ["udp", "udp6", "raw", "raw6"] {
        assert_eq!(node.sockets(table), [], "{table}");
    }
    let listens: Vec<_> = node.sockets("tcp").into_iter().filter(|(_, to)| *to != 9001).collect();
    assert_eq!(listens, [], "TCP that is not to its relay");
    let strangers = capture.strangers(&place);
    assert_eq!(strangers, Vec::<String>::new(), "packets that are not of Tor");
    eprintln!("status says: {} %, {}", tor.percent, tor.detail);
}

//! The processes of a network: started, watched, killed, started again, stopped.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use ghost_node::{
    cli::{
        connect::dial,
        output::{Failure, unix_ms_now},
    },
    home::Home,
};
use ghost_proto::{Genesis, Multiaddr, PeerId, record};
use ghost_protocol::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time,
};

use super::child::HIDDEN;
use crate::genesis::{Plan, Purpose, key};

/// How long a node may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a node may take to stop after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a file or a process is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often the nodes are looked at while they run.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Earlier nodes that a node is told of; peer exchange finds the others.
const PEERS_TOLD: usize = 3;

/// Nodes that are started side by side, once there are [`PEERS_TOLD`] to tell them of.
const START_TOGETHER: usize = 4;

/// How long an answer of a node is waited for.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom each node is told of when it starts. Peer exchange finds the others in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Topology {
    /// Up to three earlier nodes, near and far.
    #[default]
    Mesh,
    /// The one before it, and no other.
    Chain,
    /// The first, and no other.
    Star,
}

/// Where the homes are, and what becomes of them.
#[derive(Debug)]
enum Place {
    /// Ours alone; removed at the end.
    Temporary(TempDir),
    /// Named by the user. What we put there is removed at the end unless it is to be kept.
    Named { path: PathBuf, made: bool, keep: bool },
}

impl Place {
    fn new(dir: Option<&Path>, keep: bool) -> Result<Self, Failure> {
        let Some(path) = dir else {
            let temporary = tempfile::Builder::new().prefix("ghost-testnet-").tempdir()?;
            return Ok(match keep {
                true => Self::Named { path: temporary.keep(), made: true, keep },
                false => Self::Temporary(temporary),
            });
        };
        let made = !path.exists();
        fs::create_dir_all(path)
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", path.display())))?;
        if fs::read_dir(path)?.next().is_some() {
            return Err(Failure::new(format!("{} is not empty", path.display()))
                .hint("name another --dir; nothing that is there is touched"));
        }
        Ok(Self::Named { path: path.into(), made, keep })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Named { path, .. } => path,
        }
    }

    fn clean(self, nodes: usize) {
        if let Self::Named { path, made, keep: false } = self {
            for index in 0..nodes {
                let _ = fs::remove_dir_all(node_dir(&path, index));
            }
            if made {
                let _ = fs::remove_dir(path);
            }
        }
    }
}

fn node_dir(root: &Path, index: usize) -> PathBuf {
    root.join(format!("node-{index}"))
}

/// One node, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub index: usize,
    /// Where it lives.
    pub home: Home,
    /// Who it is.
    pub peer_id: PeerId,
    /// Where it listens, with its PeerId; kept while it does not run.
    pub addresses: Vec<Multiaddr>,
    child: Option<Child>,
    /// How it ended by itself, if it did.
    pub ended: Option<String>,
}

impl Node {
    /// The process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(log_path(&self.home)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n  ")
    }

    fn failed(&self, what: impl std::fmt::Display) -> Failure {
        Failure::new(format!("node {} {what}; the last lines of its log:\n  {}", self.index, self.log_tail()))
    }
}

fn log_path(home: &Home) -> PathBuf {
    home.root().join("ghostd.log")
}

/// The nodes of one chain on this machine.
#[derive(Debug)]
pub struct Network {
    plan: Plan,
    genesis: Genesis,
    place: Place,
    nodes: Vec<Node>,
    log_filter: Option<String>,
    topology: Topology,
}

impl Network {
    /// Makes the homes. The chain begins now.
    pub fn prepare(
        plan: Plan,
        dir: Option<&Path>,
        keep: bool,
        log_filter: Option<String>,
    ) -> Result<Self, Failure> {
        let place = Place::new(dir, keep)?;
        let genesis = plan.genesis(unix_ms_now() / 100 * 100)?;
        let mut nodes = Vec::new();
        for index in 0..plan.nodes {
            let home = plan.make_home(&node_dir(place.path(), index.into()), index, &genesis)?;
            let peer_id = record::peer_of(&key(plan.seed, Purpose::Node, index.into()).public())
                .ok_or_else(|| Failure::new("a derived key is no curve point"))?;
            nodes.push(Node {
                index: index.into(),
                home,
                peer_id,
                addresses: Vec::new(),
                child: None,
                ended: None,
            });
        }
        Ok(Self { plan, genesis, place, nodes, log_filter, topology: Topology::default() })
    }

    /// With whom each node is told of.
    pub fn with_topology(self, topology: Topology) -> Self {
        Self { topology, ..self }
    }

    /// What the network was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The chain.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Where the homes are.
    pub fn dir(&self) -> &Path {
        self.place.path()
    }

    /// All nodes by number.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts all nodes, each knowing one to three that listen already.
    pub async fn start_all(&mut self) -> Result<(), Failure> {
        let mut next = 0;
        while next < self.nodes.len() {
            let alone = next <= PEERS_TOLD || self.topology == Topology::Chain;
            let together = if alone { 1 } else { START_TOGETHER };
            let last = (next + together).min(self.nodes.len());
            for index in next..last {
                let peers = self.peers_for(index, next);
                self.spawn(index, &peers, &[])?;
            }
            for index in next..last {
                self.wait_listening(index).await?;
            }
            next = last;
        }
        Ok(())
    }

    /// Whom a node is told of, among the first `started` nodes. In a mesh up to three, near and far, so that
    /// the network hangs together by more than its first node.
    fn peers_for(&self, index: usize, started: usize) -> Vec<Multiaddr> {
        if started == 0 {
            return Vec::new();
        }
        let told = |index: usize| self.nodes[index].addresses.first().cloned().into_iter().collect();
        match self.topology {
            Topology::Chain => return told(started - 1),
            Topology::Star => return told(0),
            Topology::Mesh => {}
        }
        let mut chosen = Vec::new();
        let near = [started - 1, index / 2 % started, index % started];
        for candidate in near.into_iter().chain((0..started).rev()) {
            if !chosen.contains(&candidate) && chosen.len() < PEERS_TOLD {
                chosen.push(candidate);
            }
        }
        chosen.iter().filter_map(|index| self.nodes[*index].addresses.first().cloned()).collect()
    }

    fn spawn(&mut self, index: usize, peers: &[Multiaddr], listen: &[Multiaddr]) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        let log = OpenOptions::new().create(true).append(true).open(log_path(&node.home))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(HIDDEN).arg("run").arg("--home").arg(node.home.root());
        if let Some(filter) = &self.log_filter {
            command.arg("--log").arg(filter);
        }
        for peer in peers {
            command.arg("--peer").arg(peer.to_string());
        }
        for address in listen {
            command.arg("--listen").arg(address.to_string());
        }
        // Settings of the shell are for a node of its own.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GHOSTD_") {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for us: the nodes still have to tell what happened.
            .process_group(0)
            .kill_on_drop(true);
        node.child = Some(command.spawn()?);
        node.ended = None;
        Ok(())
    }

    async fn wait_listening(&mut self, index: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let ended = match &mut node.child {
                Some(child) => child.try_wait()?,
                None => return Err(node.failed("was not started")),
            };
            if let Some(status) = ended {
                return Err(node.failed(format!("ended while it started ({status})")));
            }
            if let Ok(addresses) = node.home.addresses() {
                node.addresses = addresses;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(node.failed(format!("does not listen after {} s", START_TIMEOUT.as_secs())));
            }
            time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends a node without warning, as a power cut would.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        match node.child.take() {
            Some(mut child) => Ok(child.kill().await?),
            None => Err(node.failed("does not run")),
        }
    }

    /// Starts a node that was killed, on the port it had, knowing three that run.
    pub async fn restart(&mut self, index: usize) -> Result<(), Failure> {
        let others: Vec<Multiaddr> = self
            .nodes
            .iter()
            .filter(|node| node.index != index && node.child.is_some())
            .filter_map(|node| node.addresses.first().cloned())
            .take(PEERS_TOLD)
            .collect();
        let listen: Vec<Multiaddr> = self.nodes[index].addresses.iter().map(without_peer).collect();
        self.spawn(index, &others, &listen)?;
        self.wait_listening(index).await
    }

    /// A connection of ours to a node.
    pub async fn connect(&self, index: usize) -> Result<Client, Failure> {
        connect(self.plan.seed, index, &self.nodes[index].addresses).await
    }

    /// Connections to all nodes.
    pub async fn connect_all(&self) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        for node in &self.nodes {
            clients.push(
                self.connect(node.index)
                    .await
                    .map_err(|failure| Failure::new(format!("node {}: {}", node.index, failure.text())))?,
            );
        }
        Ok(clients)
    }

    /// Ends on the first node that ended by itself, which it names; otherwise never.
    pub async fn watch(&mut self) -> Failure {
        let index = self.next_ended().await;
        let node = &self.nodes[index];
        node.failed(format!("ended by itself ({})", node.ended.as_deref().unwrap_or("no status")))
    }

    /// Returns when a node has ended by itself: its number. It is no longer watched then.
    pub async fn next_ended(&mut self) -> usize {
        loop {
            for node in &mut self.nodes {
                if let Some(child) = &mut node.child
                    && let Ok(Some(status)) = child.try_wait()
                {
                    node.child = None;
                    node.ended = Some(status.to_string());
                    return node.index;
                }
            }
            time::sleep(WATCH_EVERY).await;
        }
    }

    /// Stops all nodes: SIGTERM to all, then SIGKILL to those that are left. Returns how many needed it.
    /// When it returns, all of them are gone and so are their homes, unless they are kept.
    pub async fn stop(mut self) -> usize {
        for node in &self.nodes {
            if let Some(pid) = node.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = time::Instant::now() + STOP_TIMEOUT;
        let mut killed = 0;
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else { continue };
            // The pipe on its standard input stays open until it is gone: see `child`.
            let pipe = child.stdin.take();
            if time::timeout_at(deadline, child.wait()).await.is_err() {
                killed += 1;
                let _ = child.kill().await;
            }
            drop(pipe);
        }
        let nodes = self.nodes.len();
        self.place.clean(nodes);
        killed
    }
}

/// A connection of ours to a node, known by its addresses. Which key it shows depends on seed and node.
pub async fn connect(seed: u64, index: usize, addresses: &[Multiaddr]) -> Result<Client, Failure> {
    let key = key(seed, Purpose::Client, u32::try_from(index).unwrap_or(u32::MAX));
    dial(&key, addresses, CALL_TIMEOUT).await.map(|(client, _)| client)
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, multiaddr::Protocol::P2p(_))).collect()
}

#[cfg(test)]
mod tests {
    use ghost_node::doctor::socket_of;

    use super::*;

    fn plan(nodes: u16) -> Plan {
        Plan { seed: 1, nodes, accounts: 1, slot_ms: 1_000, spare_authorities: 0, publishers: 0 }
    }

    #[test]
    fn every_node_is_told_of_three_others_that_listen_already() {
        let dir = tempfile::tempdir().unwrap();
        let mut network = Network::prepare(plan(16), Some(&dir.path().join("n")), false, None).unwrap();
        for node in &mut network.nodes {
            node.addresses =
                vec![format!("/ip4/127.0.0.1/udp/{}/quic-v1", 1_000 + node.index).parse().unwrap()];
        }
        assert_eq!(network.peers_for(0, 0), [] as [Multiaddr; 0]);
        for index in 1..16 {
            let started = if index <= PEERS_TOLD { index } else { index - index % START_TOGETHER };
            let peers = network.peers_for(index, started);
            assert_eq!(peers.len(), started.min(PEERS_TOLD), "node {index}");
            let ports: std::collections::BTreeSet<_> =
                peers.iter().map(|peer| socket_of(peer).unwrap().port()).collect();
            assert_eq!(ports.len(), peers.len(), "node {index}: distinct");
            assert!(ports.iter().all(|port| usize::from(*port) < 1_000 + started), "node {index}");
        }
    }

    #[test]
    fn in_a_chain_and_in_a_star_every_node_is_told_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut network = Network::prepare(plan(12), Some(&dir.path().join("n")), false, None).unwrap();
        for node in &mut network.nodes {
            node.addresses =
                vec![format!("/ip4/127.0.0.1/udp/{}/quic-v1", 1_000 + node.index).parse().unwrap()];
        }
        let address = |network: &Network, index: usize| network.nodes[index].addresses.clone();
        network = network.with_topology(Topology::Chain);
        assert_eq!(network.peers_for(7, 7), address(&network, 6));
        network = network.with_topology(Topology::Star);
        assert_eq!(network.peers_for(7, 4), address(&network, 0));
        assert_eq!(network.peers_for(0, 0), [] as [Multiaddr; 0]);
    }

    #[tokio::test]
    async fn what_the_user_has_in_a_directory_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "…").unwrap();
        let error = Network::prepare(plan(1), Some(dir.path()), false, None).unwrap_err();
        assert!(error.text().contains("not empty"), "{}", error.text());
        // An empty one that was there before is emptied again, and stays.
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let network = Network::prepare(plan(2), Some(&empty), false, None).unwrap();
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 2);
        network.stop().await;
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
        // One that was made is removed; one that is to be kept is not.
        let (made, kept) = (dir.path().join("made"), dir.path().join("kept"));
        Network::prepare(plan(1), Some(&made), false, None).unwrap().stop().await;
        Network::prepare(plan(1), Some(&kept), true, None).unwrap().stop().await;
        assert!(!made.exists() && kept.join("node-0/node.key").exists());
    }

    #[test]
    fn a_restarted_node_listens_where_it_was() {
        let peer = record::peer_of(&key(1, Purpose::Node, 0).public()).unwrap();
        let with: Multiaddr = format!("/ip4/127.0.0.1/udp/5/quic-v1/p2p/{peer}").parse().unwrap();
        assert_eq!(without_peer(&with).to_string(), "/ip4/127.0.0.1/udp/5/quic-v1");
    }
}

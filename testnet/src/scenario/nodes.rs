//! A scenario on whole nodes over a simulated network.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ghost_node::cli::output::Failure;
use ghost_proto::{BlockId, PeerId};
use tokio::time::sleep_until;

use super::{
    file::{Fault as FileFault, Link, NodeSet, Scenario, What},
    run::{Action, Driven, Reading, Transfers},
};
use crate::{
    adversary::Adversary,
    sim::{Fault, Load, NodeId, SimNetwork},
};

/// A network under a scenario.
pub(super) struct Nodes {
    network: SimNetwork,
    load: Option<Load>,
    adversaries: Vec<Adversary>,
    rebinds: u32,
}

impl Nodes {
    /// Starts the network and its traffic.
    pub(super) async fn start(scenario: &Scenario, seed: u64) -> Result<Self, Failure> {
        let network = SimNetwork::start(scenario.plan(seed)).await?;
        let mut nodes = Self { network, load: None, adversaries: Vec::new(), rebinds: 0 };
        for id in nodes.network.ids() {
            nodes.network.wire().set_access(id, scenario.link.access());
        }
        for links in &scenario.links {
            nodes.relink(&links.nodes, &links.link);
        }
        nodes.load = scenario.pace().map(|pace| Load::start(&nodes.network, pace));
        Ok(nodes)
    }

    fn of(&self, set: Option<&NodeSet>) -> Vec<NodeId> {
        let all = NodeSet::all();
        set.unwrap_or(&all).of(self.network.plan().nodes).into_iter().map(NodeId).collect()
    }

    fn relink(&self, set: &NodeSet, link: &Link) {
        for one in self.of(Some(set)) {
            self.network.wire().set_access(one, link.access());
            for other in self.network.ids().filter(|other| *other != one) {
                self.network.wire().set_path_both_ways(one, other, link.path());
            }
        }
    }

    async fn fault(&mut self, fault: &FileFault) -> Result<(), Failure> {
        let nodes = self.of(fault.nodes.as_ref());
        match fault.what {
            What::Partition => self.network.wire().apply(Fault::Partition(vec![nodes])),
            What::Heal => self.network.wire().apply(Fault::Heal),
            What::Crash => {
                for node in nodes {
                    self.network.crash(node)?;
                }
            }
            What::Restart => {
                for node in nodes {
                    self.network.restart(node).await?;
                }
            }
            What::Down => nodes.into_iter().for_each(|node| self.network.wire().apply(Fault::Down(node))),
            What::Up => nodes.into_iter().for_each(|node| self.network.wire().apply(Fault::Up(node))),
            What::Rebind => {
                for node in nodes {
                    // A block that the address plan does not reach.
                    self.rebinds += 1;
                    let ip = Ipv4Addr::from_bits((172 << 24 | 16 << 16) + self.rebinds);
                    self.network.wire().apply(Fault::Rebind(node, SocketAddr::from((ip, 50_000))));
                }
            }
            What::Skew => {
                for node in nodes {
                    self.network.set_skew(node, fault.by.map_or(0, |by| by.ms));
                    self.network.restart(node).await?;
                }
            }
            What::Link => {
                if let (Some(set), Some(link)) = (&fault.nodes, &fault.link) {
                    self.relink(set, link);
                }
            }
        }
        Ok(())
    }
}

impl Driven for Nodes {
    fn elapsed(&self) -> Duration {
        self.network.origin().elapsed()
    }

    async fn run_until(&mut self, at: Duration) -> Result<(), Failure> {
        sleep_until(self.network.origin() + at).await;
        Ok(())
    }

    async fn act(&mut self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::Fault(fault) => self.fault(fault).await?,
            Action::Adversaries(come) => {
                for _ in 0..come.count {
                    self.adversaries.push(self.network.add_adversary(come.role)?);
                }
            }
            Action::TrafficEnds => {
                if let Some(load) = &mut self.load {
                    load.stop();
                }
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Vec<Reading>, Failure> {
        let hostile: BTreeSet<PeerId> = self.adversaries.iter().map(|adversary| adversary.peer_id).collect();
        let readings = self.network.read_all();
        Ok(readings
            .into_iter()
            .map(|reading| Reading {
                node: reading.node.0,
                head: reading.head,
                finalized: reading.finalized,
                included: reading.included,
                pending: reading.pending as u64,
                peers: reading.peers as u64,
                bans: Some(
                    reading
                        .bans
                        .into_iter()
                        .filter(|(peer, _)| !hostile.contains(peer))
                        .map(|(peer, why)| format!("bans {peer}: {why}"))
                        .collect(),
                ),
                received_bytes: Some(reading.traffic.received.bytes),
            })
            .collect())
    }

    async fn canonical(&mut self, node: u32, height: u64) -> Result<Option<BlockId>, Failure> {
        match self.network.node(NodeId(node)) {
            Some(_) if height == 0 => Ok(Some(self.network.genesis().block_id())),
            Some(node) => Ok(node.view().canonical_id(height)?),
            None => Ok(None),
        }
    }

    fn transfers(&self) -> Transfers {
        let Some(load) = &self.load else { return Transfers::default() };
        let summary = load.summary();
        Transfers {
            submitted: summary.submitted,
            included: summary.included,
            p50_ms: summary.percentile_ms(0.5),
            p95_ms: summary.percentile_ms(0.95),
        }
    }
}

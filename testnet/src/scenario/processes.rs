//! A scenario on real processes on loopback.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_node::cli::output::Failure;
use ghost_proto::{BlockId, Header, Multiaddr, message::BlockDetail};
use ghost_protocol::client::{BlockSelector, Client};
use tokio::sync::watch;

use super::{
    file::{Scenario, What},
    run::{Action, Driven, Reading, Transfers},
};
use crate::{
    adversary::Adversary,
    genesis::{AUTHORITIES_MAX, Plan},
    report::node_peers,
    traffic::{Pace, Traffic, accounts_for, directory_of},
    up::{adversaries, network::Network},
};

/// A network of processes under a scenario.
pub(super) struct Processes {
    network: Network,
    clients: BTreeMap<u32, Client>,
    addresses: watch::Sender<Vec<Vec<Multiaddr>>>,
    traffic: Traffic,
    adversaries: Vec<Adversary>,
    started: Instant,
}

impl Processes {
    /// Starts the processes and their traffic.
    pub(super) async fn start(scenario: &Scenario, seed: u64) -> Result<Self, Failure> {
        let topology = &scenario.topology;
        let nodes = u16::try_from(topology.nodes).map_err(|_| Failure::usage("too many nodes"))?;
        let tps = scenario.traffic.map_or(0.0, |traffic| traffic.tps).ceil() as u32;
        let plan = Plan {
            seed,
            nodes,
            accounts: accounts_for(tps, nodes),
            slot_ms: topology.slot.ms as u64,
            spare_authorities: topology.authorities.saturating_sub(nodes.min(AUTHORITIES_MAX)),
            publishers: 0,
        };
        let mut network = Network::prepare(plan, None, false, None)?;
        let started = match network.start_all().await {
            Ok(()) => Instant::now(),
            Err(failure) => {
                network.stop().await;
                return Err(failure);
            }
        };
        let (addresses, directory) = watch::channel(directory_of(network.nodes()));
        let pace = Pace { tps, seed, duration: Some(scenario.duration.length()) };
        let traffic = Traffic::start(pace, network.plan().senders(), network.genesis(), directory);
        Ok(Self { network, clients: BTreeMap::new(), addresses, traffic, adversaries: Vec::new(), started })
    }

    /// Ends every process.
    pub(super) async fn stop(self) {
        self.traffic.finish().await;
        self.network.stop().await;
    }

    fn publish(&self) {
        let addresses = self.network.nodes().iter().map(|node| match node.pid() {
            Some(_) => node.addresses.clone(),
            None => Vec::new(),
        });
        self.addresses.send_replace(addresses.collect());
    }

    async fn client(&mut self, node: u32) -> Result<&Client, Failure> {
        if !self.clients.contains_key(&node) {
            let client = self.network.connect(node as usize).await?;
            self.clients.insert(node, client);
        }
        Ok(&self.clients[&node])
    }
}

fn block_id(bytes: &[u8]) -> Result<BlockId, Failure> {
    Ok(BlockId(bytes.try_into().map_err(|_| Failure::new("a node answered with a block id of no length"))?))
}

impl Driven for &mut Processes {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    async fn run_until(&mut self, at: Duration) -> Result<(), Failure> {
        let left = at.saturating_sub(self.started.elapsed());
        let ended = tokio::time::timeout(left, self.network.watch()).await;
        ended.map_or(Ok(()), Err)
    }

    async fn act(&mut self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::Fault(fault) => {
                let nodes = fault.nodes.as_ref().map(|set| set.of(self.network.nodes().len() as u32));
                for node in nodes.unwrap_or_default() {
                    self.clients.remove(&node);
                    let runs = self.network.nodes()[node as usize].pid().is_some();
                    if runs {
                        self.network.kill(node as usize).await?;
                        self.publish();
                    }
                    if fault.what == What::Restart {
                        self.network.restart(node as usize).await?;
                        self.publish();
                    }
                }
                Ok(())
            }
            Action::TrafficEnds => {
                self.traffic.stop_lanes().await;
                Ok(())
            }
            Action::Adversaries(come) => {
                let equivocators = self.adversaries.iter().filter(|one| one.role.is_authority()).count();
                for n in 0..come.count {
                    let number = self.adversaries.len() as u32;
                    let spare = equivocators as u16 + n as u16;
                    self.adversaries.push(adversaries::start(&self.network, come.role, number, spare)?);
                }
                Ok(())
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<Reading>, Failure> {
        let alive: Vec<u32> = (0_u32..)
            .zip(self.network.nodes())
            .filter(|(_, node)| node.pid().is_some())
            .map(|(number, _)| number)
            .collect();
        let mut readings = Vec::new();
        for node in alive {
            let status = self.client(node).await?.status().await?;
            let (head, finalized) =
                (status.head.clone().unwrap_or_default(), status.finalized.clone().unwrap_or_default());
            readings.push(Reading {
                node,
                head: (head.height, block_id(&head.id)?),
                finalized: (finalized.height, block_id(&finalized.id)?),
                included: status.included_total,
                pending: status.mempool.as_ref().map_or(0, |pool| pool.count),
                peers: node_peers(&status).into(),
                bans: None,
                received_bytes: None,
            });
        }
        Ok(readings)
    }

    async fn canonical(&mut self, node: u32, height: u64) -> Result<Option<BlockId>, Failure> {
        if height == 0 {
            return Ok(Some(self.network.genesis().block_id()));
        }
        let answer = self.client(node).await?.block(BlockSelector::Height(height), BlockDetail::Header).await;
        match answer {
            Ok(Some(block)) => Ok(Some(Header::parse(block.header)?.id())),
            Ok(None) | Err(_) => Ok(None),
        }
    }

    fn transfers(&self) -> Transfers {
        let summary = self.traffic.tracker.summary();
        Transfers {
            submitted: summary.accepted,
            included: summary.seen,
            p50_ms: summary.p50_ms,
            p95_ms: summary.p95_ms,
        }
    }
}

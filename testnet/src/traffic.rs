//! Transfers at a steady pace, and when each was seen in a block.
//!
//! Each node has a *lane*: accounts of its own, one connection, and its share of the rate. A transfer is
//! submitted to one node only; how it reaches the others is theirs to do. The pace is open-loop: what is
//! due is sent, however long the answer before took, so that a slow node shows as latency and not as less
//! traffic.
//!
//! Each node also has a *watcher*, which follows its head and reads the ids in every new block. A
//! transfer's latency is the time from just before it was submitted until the head event through which
//! the *same* node first showed it in a canonical block.

mod lane;
mod tracker;
mod watcher;

use std::{sync::Arc, time::Duration};

use ghost_node::cli::{output::Failure, tx::send::Sender};
use ghost_proto::{Genesis, Multiaddr};
use ghost_protocol::client::Client;
use tokio::{sync::watch, task::JoinSet};

pub use lane::{Patience, submit_patiently};
pub use tracker::{Reported, Summary, Tracker};
pub(crate) use watcher::read_ids;

/// Where the nodes listen now. A node that is down has none.
pub type Directory = watch::Receiver<Vec<Vec<Multiaddr>>>;

/// Most transfers a second that are asked of a network.
pub const TPS_MAX: u32 = 20_000;

/// Accounts for a rate: one that has a transfer waiting should seldom be used again before that is in a
/// block, and every lane has some.
pub fn accounts_for(tps: u32, nodes: u16) -> u32 {
    (2 * tps).max(16 * u32::from(nodes)).min(20_000)
}

/// Everything a lane or a watcher needs to reach its node, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    seed: u64,
    node: usize,
    directory: Directory,
}

impl Reach {
    /// Connects as soon as the node is there.
    async fn connect(&mut self) -> Client {
        loop {
            let addresses = self.directory.borrow_and_update()[self.node].clone();
            if !addresses.is_empty()
                && let Ok(client) = crate::up::network::connect(self.seed, self.node, &addresses).await
            {
                return client;
            }
            tokio::time::sleep(lane::RETRY_EVERY).await;
        }
    }

    /// Returns when the node listens elsewhere than at the last [`Self::connect`], or no longer: what
    /// the connection to it is worth would show only after a timeout.
    async fn moved(&self) {
        let mut directory = self.directory.clone();
        let before = directory.borrow_and_update()[self.node].clone();
        if directory.wait_for(|all| all[self.node] != before).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Traffic under way.
#[derive(Debug)]
pub struct Traffic {
    /// What was sent and what was seen.
    pub tracker: Arc<Tracker>,
    stop: watch::Sender<bool>,
    lanes: JoinSet<()>,
    watchers: JoinSet<()>,
}

/// What traffic to make.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Transfers a second over all lanes.
    pub tps: u32,
    /// Decides who pays whom.
    pub seed: u64,
    /// After this time nothing more becomes due: exactly `tps` × seconds transfers are made in all.
    pub duration: Option<Duration>,
}

impl Traffic {
    /// Starts the watchers and the lanes.
    pub fn start(pace: Pace, senders: Vec<Sender>, genesis: &Genesis, directory: Directory) -> Self {
        let nodes = directory.borrow().len();
        let tracker = Arc::new(Tracker::new(nodes));
        let (stop, stopped) = watch::channel(false);
        let mut lanes = JoinSet::new();
        let mut watchers = JoinSet::new();
        let recipients: Arc<[_]> = senders.iter().map(|sender| sender.key.address()).collect();
        let mut shares: Vec<Vec<Sender>> = (0..nodes).map(|_| Vec::new()).collect();
        for (index, sender) in senders.into_iter().enumerate() {
            shares[index % nodes].push(sender);
        }
        for (node, senders) in shares.into_iter().enumerate() {
            let reach = Reach { seed: pace.seed, node, directory: directory.clone() };
            watchers.spawn(watcher::watch(reach.clone(), genesis.block_id(), tracker.clone()));
            if pace.tps > 0 && !senders.is_empty() {
                let share = lane::Share::new(pace, node, nodes);
                let lane = lane::Lane::new(reach, senders, recipients.clone(), share, tracker.clone());
                lanes.spawn(lane.run(stopped.clone()));
            }
        }
        Self { tracker, stop, lanes, watchers }
    }

    /// Ends the lanes; returns when the last answer is in. The watchers go on.
    pub async fn stop_lanes(&mut self) {
        self.stop.send_replace(true);
        while self.lanes.join_next().await.is_some() {}
    }

    /// Ends everything.
    pub async fn finish(mut self) -> Arc<Tracker> {
        self.stop_lanes().await;
        self.watchers.shutdown().await;
        self.tracker
    }
}

/// The directory of a network whose nodes all run.
pub fn directory_of(nodes: &[crate::up::network::Node]) -> Vec<Vec<Multiaddr>> {
    nodes.iter().map(|node| node.addresses.clone()).collect()
}

/// Fails if the network did not take what was sent for reasons that are no load: see [`Tracker`].
pub(crate) fn lost_lane(summary: &Summary) -> Option<Failure> {
    (summary.accepted == 0 && summary.rejected > 0)
        .then(|| Failure::new(format!("every transfer was refused: {}", summary.reasons_text())))
}

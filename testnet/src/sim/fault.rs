//! What goes wrong on a wire, and when.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    path::{Access, Path},
    wire::{NodeId, Wire},
};

/// What stands between a node and everybody else (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Every packet leaves from the same address and port; in comes what is from an address and port that the node
    /// sent to within [`NAT_REMEMBERS`]. Most home routers.
    PortRestricted,
    /// The same, and packets to each destination leave from another port: what one peer sees is of no use to another.
    Symmetric,
}

/// A NAT lets answers in for so long: the shortest that RFC 4787 §4.3 allows for.
pub const NAT_REMEMBERS: Duration = Duration::from_secs(120);

/// Something that changes on the network.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nodes reach only those of their own side. Who is on no list is on one more side together.
    Partition(Vec<Vec<NodeId>>),
    /// The partition is over.
    Heal,
    /// A node is cut off: what it sends and what is on its way to it vanishes.
    Down(NodeId),
    /// It is back.
    Up(NodeId),
    /// The NAT in front of a node gives it another address: what it sends now comes from there, and
    /// what is sent to the old one is lost.
    Rebind(NodeId, SocketAddr),
    /// A node is behind a NAT from now on: nothing gets in but what answers it.
    Nat(NodeId, Nat),
    /// One direction between two nodes changes.
    Path {
        /// From here.
        from: NodeId,
        /// To there.
        to: NodeId,
        /// How it is from now on.
        path: Path,
    },
    /// Every path without a model of its own changes.
    DefaultPath(Path),
    /// A node's attachment changes.
    Access(NodeId, Access),
}

/// Faults in the order in which they happen.
#[derive(Debug, Clone, Default)]
pub struct Schedule(Vec<(Duration, Fault)>);

impl Schedule {
    /// Nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// This happens so long after the schedule was started.
    pub fn at(mut self, after: Duration, fault: Fault) -> Self {
        self.0.push((after, fault));
        self
    }

    /// Starts it. It runs to its end, whether or not the handle is kept.
    pub fn start(self, wire: &Wire) -> tokio::task::JoinHandle<()> {
        let (wire, started) = (wire.clone(), Instant::now());
        let mut faults = self.0;
        faults.sort_by_key(|(after, _)| *after);
        tokio::spawn(async move {
            for (after, fault) in faults {
                sleep_until(started + after).await;
                wire.apply(fault);
            }
        })
    }
}

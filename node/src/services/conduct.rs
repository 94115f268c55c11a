//! Telling the keeper of peers what a peer did.

use std::time::Duration;

use ghost_mempool_relay::{sync, tx_relay};
use ghost_proto::PeerId;
use tokio::sync::mpsc;

use super::peers::ToPeers;

/// What a peer did wrong, as the services see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// On the block side.
    Block(sync::Offence),
    /// On the transaction side.
    Transaction(tx_relay::Offence),
    /// A vote that is never valid.
    InvalidVote,
    /// A certificate that proves nothing.
    InvalidCertificate,
}

/// A handle for services. Reports are dropped rather than waited for when the keeper is behind: a peer
/// that does so much wrong that it fills the channel will be heard of again.
#[derive(Debug, Clone)]
pub(crate) struct Conduct(pub(crate) mpsc::Sender<ToPeers>);

impl Conduct {
    /// A peer did wrong.
    pub(crate) fn offence(&self, peer: PeerId, what: Offence) {
        let _ = self.0.try_send(ToPeers::Offence { peer, what });
    }

    /// The head has not moved for long.
    pub(crate) fn tip_stale(&self, age: Duration, outbound: Vec<PeerId>) {
        let _ = self.0.try_send(ToPeers::TipStale { age, outbound });
    }
}

//! Telling the keeper of peers what a peer did.

use ghost_discovery::conduct;
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
    /// A report of a price, or evidence, that its publisher did not sign.
    InvalidReport,
}

impl Offence {
    /// How it is weighed.
    pub(crate) fn kind(self) -> conduct::Offence {
        use sync::Offence as Block;
        use tx_relay::Offence as Tx;
        match self {
            Self::Block(
                Block::InvalidHeader
                | Block::InvalidChain
                | Block::MutatedBody
                | Block::FalseShard
                | Block::InvalidCertificate,
            )
            | Self::Transaction(Tx::InvalidTransaction)
            | Self::InvalidVote
            | Self::InvalidCertificate
            | Self::InvalidReport => conduct::Offence::InvalidData,
            Self::Block(Block::Unrequested)
            | Self::Transaction(Tx::Unrequested | Tx::PushTooLarge | Tx::FalseSketch) => {
                conduct::Offence::ProtocolViolation
            }
            Self::Block(Block::BodiesWithheld) => conduct::Offence::NotDelivered,
            Self::Transaction(Tx::Misannounced) => conduct::Offence::FalseAnnouncement,
        }
    }
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

    /// A peer was first to bring a transaction that was taken: it is of use.
    pub(crate) fn brought_tx(&self, peer: PeerId) {
        let _ = self.0.try_send(ToPeers::BroughtTx { peer });
    }

    /// A peer was first to bring a block that was valid.
    pub(crate) fn brought_block(&self, peer: PeerId) {
        let _ = self.0.try_send(ToPeers::BroughtBlock { peer });
    }

    /// The head has not moved for long, or moves again.
    pub(crate) fn tip(&self, stale: bool) {
        let _ = self.0.try_send(if stale { ToPeers::TipStale } else { ToPeers::TipFresh });
    }
}

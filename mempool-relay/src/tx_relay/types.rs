//! What the relay is told, and what it wants done.

use std::time::Duration;

use ghost_frames::{
    Frame,
    tx::{ShortId, TxAnnounce, TxAnnounceEntry},
};
use ghost_proto::{PeerId, SignedTransaction, TxId};

use crate::{fetch::RequestId, link::Salt, reconcile::Ask};

/// What the relay needs to know of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxSummary {
    /// Its id.
    pub id: TxId,
    /// Length of its encoding.
    pub bytes: u32,
    /// ⌊log2(gas price)⌋, 0 for a price of 0 or 1.
    pub fee_class: u8,
}

impl From<&SignedTransaction> for TxSummary {
    fn from(tx: &SignedTransaction) -> Self {
        Self { id: tx.id(), bytes: tx.bytes().len() as u32, fee_class: fee_class(tx.body().gas_price) }
    }
}

/// ⌊log2(gas price)⌋, 0 for a price of 0 or 1.
pub fn fee_class(gas_price: u64) -> u8 {
    gas_price.max(1).ilog2() as u8
}

/// How bodies came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Unasked, on the peer's push stream.
    Push,
    /// In the answer to a request of ours.
    Pull(RequestId),
}

/// What became of a checked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// In the pool and ready: relay it.
    Ready,
    /// In the pool, waiting for an earlier nonce.
    Parked,
    /// Not for now: used nonce, balance, full pool ([`crate::pool::Refusal::is_invalid`] is false).
    /// Nobody's fault.
    Refused,
    /// Never valid here: bad signature, or `is_invalid` is true. Whoever sent it is at fault.
    Invalid,
}

/// What happened. The time at which it happened is given beside it.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// A peer is connected.
    PeerUp {
        /// Who.
        peer: PeerId,
        /// We dialled: preferred when several announce the same.
        outbound: bool,
        /// Smoothed round-trip time.
        rtt: Duration,
        /// What we told it in our hello.
        our_salt: Salt,
        /// What it told us in its hello.
        their_salt: Salt,
        /// Announce and push to it. Others are listened to and answered, and told by reconciliation.
        active: bool,
        /// A secret of the connection that only its two sides know, if the peer serves reconciliation.
        sync_key: Option<[u8; 16]>,
    },
    /// A peer is gone.
    PeerDown {
        /// Who.
        peer: PeerId,
    },
    /// The choice of active links changed.
    SetActive {
        /// Who.
        peer: PeerId,
        /// See [`Input::PeerUp`].
        active: bool,
    },
    /// A new estimate.
    RttUpdate {
        /// Whose.
        peer: PeerId,
        /// Smoothed round-trip time.
        rtt: Duration,
    },
    /// A peer announced transactions.
    Announced {
        /// Who.
        peer: PeerId,
        /// What.
        entries: &'a [TxAnnounceEntry],
    },
    /// Bodies came; nothing of them is checked but their layout.
    Received {
        /// From whom.
        peer: PeerId,
        /// How.
        via: Via,
        /// What.
        txs: &'a [TxSummary],
    },
    /// Bodies of an [`Effect::Check`] are checked.
    Checked {
        /// As in the effect.
        peer: PeerId,
        /// One for each.
        verdicts: &'a [(TxId, Checked)],
    },
    /// The answer to a request ended in good order.
    AnswerEnded {
        /// Who answered.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// A request could not be sent, or was reset by the other side.
    RequestFailed {
        /// Who was asked.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// A peer asks for bodies.
    Requested {
        /// Who.
        peer: PeerId,
        /// The driver's name for it, given back in [`Effect::Answer`].
        request: u64,
        /// What.
        ids: &'a [ShortId],
    },
    /// A frame of an answer to an [`Effect::SyncRequest`].
    SyncAnswered {
        /// Who answered.
        peer: PeerId,
        /// Which request.
        request: RequestId,
        /// What.
        frame: &'a Frame,
    },
    /// A peer asks on a tx_sync stream.
    SyncRequested {
        /// Who.
        peer: PeerId,
        /// The driver's name for it, given back in [`Effect::SyncAnswer`] or [`Effect::SyncRefuse`].
        request: u64,
        /// What.
        ask: &'a Ask,
    },
    /// Submitted to this node, ready in the pool: relay as if pushed to us.
    Submitted {
        /// What.
        txs: &'a [TxSummary],
    },
    /// The pool changed.
    PoolChanged {
        /// Ready now, and not before: freed by a parent, loaded at start, or out of a reverted block.
        ready: &'a [TxSummary],
        /// No longer in the pool.
        removed: &'a [TxId],
    },
    /// A peer told what its pool takes.
    PeerFeeFloor {
        /// Who.
        peer: PeerId,
        /// Least gas price, base units.
        gas_price: u64,
    },
    /// The canonical head moved: what was refused may be good now.
    HeadChanged,
    /// Least gas price the pool accepts now. Announcements that are surely below are not fetched.
    FeeFloor {
        /// Base units per gas.
        gas_price: u64,
    },
}

/// Something a peer did wrong. Being slow, late or first never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offence {
    /// A body whose size or fee class is not what the same peer announced.
    Misannounced,
    /// A body in an answer that was not asked for.
    Unrequested,
    /// A push above [`super::PUSH_BYTES_MAX`].
    PushTooLarge,
    /// A transaction that is never valid on this chain.
    InvalidTransaction,
    /// An answer in a reconciliation session that contradicts itself, or was not asked for.
    FalseSketch,
}

impl Offence {
    /// One word, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Misannounced => "misannounced",
            Self::Unrequested => "unrequested",
            Self::PushTooLarge => "push_too_large",
            Self::InvalidTransaction => "invalid_transaction",
            Self::FalseSketch => "false_sketch",
        }
    }
}

/// Names an announcement or a push whose delivery is to be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(super) u64);

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this frame on the push stream; confirm.
    Announce {
        /// To whom.
        peer: PeerId,
        /// What.
        announce: TxAnnounce,
        /// For the confirmation.
        token: Token,
    },
    /// Send the bodies in one `Transactions` frame on the push stream; confirm. They fit one frame.
    Push {
        /// To whom.
        peer: PeerId,
        /// What; all in the pool.
        ids: Vec<TxId>,
        /// For the confirmation.
        token: Token,
    },
    /// Send a `FeeFloor` on the push stream. One that is lost costs announcements, no more.
    TellFeeFloor {
        /// To whom.
        peer: PeerId,
        /// Base units per gas.
        gas_price: u64,
    },
    /// Ask for bodies. If that cannot be sent: [`Input::RequestFailed`].
    Request {
        /// Whom.
        peer: PeerId,
        /// Goes with every input about it.
        request: RequestId,
        /// What.
        ids: Vec<ShortId>,
    },
    /// Reset the stream of a request; nothing more is to be reported of it.
    Cancel {
        /// Who was asked.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// Answer a peer's request with those of these bodies that are still in the pool, then end the
    /// answer. May be empty.
    Answer {
        /// Who asked.
        peer: PeerId,
        /// The driver's name for it.
        request: u64,
        /// What.
        ids: Vec<TxId>,
    },
    /// Ask on a tx_sync stream. As for [`Effect::Request`].
    SyncRequest {
        /// Whom.
        peer: PeerId,
        /// Goes with every input about it; distinct from those of other requests.
        request: RequestId,
        /// What.
        ask: Ask,
    },
    /// Answer a peer's request on a tx_sync stream with these frames, then end the answer. May be empty.
    SyncAnswer {
        /// Who asked.
        peer: PeerId,
        /// The driver's name for it.
        request: u64,
        /// In order.
        frames: Vec<Frame>,
    },
    /// Refuse a peer's request on a tx_sync stream as busy.
    SyncRefuse {
        /// Who asked.
        peer: PeerId,
        /// The driver's name for it.
        request: u64,
    },
    /// Verify these bodies and try to insert them into the pool; then [`Input::Checked`].
    Check {
        /// Who sent them.
        peer: PeerId,
        /// Which, out of the frame just handed in.
        ids: Vec<TxId>,
    },
    /// Tell the keeper of conduct.
    Offence {
        /// Who did it.
        peer: PeerId,
        /// What.
        what: Offence,
    },
}

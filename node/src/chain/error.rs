//! Why the chain refuses, and who is to blame.

use ghost_proto::{BlockId, TxId};

use crate::{consensus::TurnFault, engine::NotIncludable, store::StoreError};

/// Who is at fault, and with that what the caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody: fetch what is missing, come back later, or drop it.
    Nobody,
    /// Whoever sent it: honest peers check this before they send. Penalise the peer.
    Sender,
    /// The authority that signed it. Peers may relay a block before they execute it: do not penalise
    /// them, drop the block, never fetch it again.
    Proposer,
    /// This node: its store failed. Stop it.
    Ourselves,
}

/// Why a header is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Turn and signature are good; the block before is not here. Fetch that first.
    #[error("the parent {} is unknown", parent.short())]
    UnknownParent {
        /// Id of the missing block.
        parent: BlockId,
    },
    /// Its slot begins too far in the future. Its signature was not looked at. Try again at the time given, or drop it.
    #[error("its slot has not begun; try again at {ready_unix_ms} unix ms")]
    FromFuture {
        /// When it may be taken.
        ready_unix_ms: u64,
    },
    /// It stands on a branch that finality has left behind. Drop it.
    #[error("it conflicts with the finalized block at height {finalized_height}")]
    BelowFinality {
        /// Height of the last finalized block.
        finalized_height: u64,
    },
    /// Its proposer signed several blocks for the slot, and we hold enough of them. Drop it; it is
    /// taken once a block that stands on it shows up.
    #[error("its proposer has signed too many blocks for slot {slot}")]
    TooManyProposals {
        /// The slot.
        slot: u64,
    },
    /// The block was executed before and is wrong.
    #[error("the block is known to be invalid")]
    KnownInvalid,
    /// Not its proposer's turn, or a bad signature.
    #[error(transparent)]
    Turn(#[from] TurnFault),
    /// Height or slot do not follow from the parent.
    #[error("its {field} is {found}, after its parent it must be {expected}")]
    NotAfterParent {
        /// `height` or `slot`.
        field: &'static str,
        /// In the header.
        found: u64,
        /// Exactly this height; at least this slot.
        expected: u64,
    },
    /// The body is longer than the genesis allows.
    #[error("its body has {found} bytes, the genesis allows {most}")]
    BodyTooLarge {
        /// In the header.
        found: u64,
        /// In the genesis.
        most: u64,
    },
    /// More gas than the genesis allows.
    #[error("it uses {found} gas, the genesis allows {most}")]
    TooMuchGas {
        /// In the header.
        found: u64,
        /// In the genesis.
        most: u64,
    },
    /// Our store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl HeaderError {
    /// Who is at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::UnknownParent { .. }
            | Self::FromFuture { .. }
            | Self::BelowFinality { .. }
            | Self::TooManyProposals { .. } => Blame::Nobody,
            Self::KnownInvalid => Blame::Proposer,
            Self::Turn(_)
            | Self::NotAfterParent { .. }
            | Self::BodyTooLarge { .. }
            | Self::TooMuchGas { .. } => Blame::Sender,
            Self::Store(_) => Blame::Ourselves,
        }
    }
}

/// What is wrong with a body that its header commits to. The block is never valid; the id is remembered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// Transactions are not in strictly ascending canonical order.
    #[error("its transactions are not in canonical order")]
    Order,
    /// A transaction's signature does not verify.
    #[error("the signature of transaction {} does not verify", .0.short())]
    Signature(TxId),
    /// A transaction may not stand where it does.
    #[error("transaction {} may not be included: {reason}", id.short())]
    NotIncludable {
        /// The transaction.
        id: TxId,
        /// Why not.
        reason: NotIncludable,
    },
    /// Executing it gives something else than the header says.
    #[error("executing it gives another {0} than its header says")]
    Mismatch(&'static str),
}

/// Why a block was not imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The header is not taken.
    #[error(transparent)]
    Header(HeaderError),
    /// The block is invalid, and its proposer signed it.
    #[error("block {} of authority {proposer} is invalid: {fault}", id.short())]
    Invalid {
        /// Id of the block.
        id: BlockId,
        /// Index of the authority that signed it.
        proposer: u16,
        /// What is wrong.
        fault: BlockFault,
    },
    /// Our store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<HeaderError> for ImportError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Store(error) => Self::Store(error),
            error => Self::Header(error),
        }
    }
}

impl ImportError {
    /// Who is at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Header(error) => error.blame(),
            Self::Invalid { .. } => Blame::Proposer,
            Self::Store(_) => Blame::Ourselves,
        }
    }

    /// The block to fetch first, if that is what is missing.
    pub fn missing_parent(&self) -> Option<BlockId> {
        match self {
            Self::Header(HeaderError::UnknownParent { parent }) => Some(*parent),
            _ => None,
        }
    }
}

/// Why no block was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node holds no authority key.
    #[error("this node is no authority")]
    NoAuthority,
    /// The slot is another's, in the future, not above the head's, or was proposed for before.
    #[error("slot {slot} is not ours to propose for now")]
    NotOurTurn {
        /// The slot asked for.
        slot: u64,
    },
    /// Our store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the chain did not open. Each text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The authority key is not in the genesis.
    #[error(
        "the authority key {key} is not among the authorities of the genesis\n  set chain.role to \"follower\" in config.toml, or put the key of an authority of this chain in its place"
    )]
    NotAnAuthority {
        /// The public key.
        key: ghost_proto::PublicKey,
    },
    /// The store does not open, is damaged, or is of another chain or version.
    #[error(transparent)]
    Store(#[from] StoreError),
}

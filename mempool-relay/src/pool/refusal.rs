//! Why a transaction is not taken.

/// What the submitter of a refused transaction should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing helps: these bytes are never valid on this chain. A node that relays them broke the
    /// rules.
    None,
    /// Sign it again with another price, nonce, limit or chain.
    SignAgain,
    /// Submit the same bytes again later.
    Later,
}

/// Why a transaction is not taken. The text is for people, [`Refusal::reason`] for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Signed for another chain.
    #[error(
        "the transaction is for chain {got}, this node serves chain {want}; sign it again with chain id {want}"
    )]
    WrongChain {
        /// In the transaction.
        got: u64,
        /// Of this chain.
        want: u64,
    },
    /// The gas limit can never work.
    #[error(
        "the gas limit is {got}; this transaction needs at least {min} and a block holds {max}; sign it again with a limit between them"
    )]
    GasLimit {
        /// In the transaction.
        got: u64,
        /// What it uses before it does anything.
        min: u64,
        /// Gas of a whole block.
        max: u64,
    },
    /// Below the least price of the chain.
    #[error("the gas price is {got}, the chain's least price is {min}; sign it again with a higher price")]
    PriceBelowMinimum {
        /// In the transaction.
        got: u64,
        /// From the genesis.
        min: u64,
    },
    /// Value and gas exceed 2^128 - 1 base units.
    #[error("value and gas limit together cost more than any balance can hold; sign it again with less")]
    CostOverflow,
    /// The mempool is full of better ones.
    #[error(
        "the mempool is full and takes transactions from a gas price of {floor}, this one pays {got}; submit it again later or sign it with a higher price"
    )]
    BelowFloor {
        /// In the transaction.
        got: u64,
        /// Least price now.
        floor: u64,
    },
    /// An earlier transaction used this nonce.
    #[error(
        "nonce {got} is used, the account's next nonce is {next}; sign it again with nonce {next} if it is not included"
    )]
    NonceUsed {
        /// In the transaction.
        got: u64,
        /// Of the account at the head.
        next: u64,
    },
    /// Too many transactions are missing before this one.
    #[error(
        "nonce {got} is too far ahead of the account's next nonce {next} (at most {ahead_max}); submit the earlier transactions first"
    )]
    NonceTooFar {
        /// In the transaction.
        got: u64,
        /// Of the account at the head.
        next: u64,
        /// How far ahead it may be.
        ahead_max: u64,
    },
    /// Another transaction with this sender and nonce waits and pays about as much.
    #[error(
        "a transaction with this nonce waits already; to replace it, pay a gas price of at least {needed} instead of {got}"
    )]
    ReplacementUnderpriced {
        /// In the transaction.
        got: u64,
        /// The least that replaces.
        needed: u64,
    },
    /// The account cannot pay for all it has waiting.
    #[error(
        "the account holds {balance} base units, its waiting transactions and this one may cost {needed}; fund the account or wait until they are included"
    )]
    Balance {
        /// What all of them may cost.
        needed: u128,
        /// What the account has at the head.
        balance: u128,
    },
    /// Too many wait for an earlier nonce.
    #[error("too many transactions wait for an earlier nonce; submit the one with nonce {next} first")]
    ParkedFull {
        /// The account's next nonce, pending transactions counted.
        next: u64,
    },
}

impl Refusal {
    /// One word, stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::WrongChain { .. } => "wrong_chain",
            Self::GasLimit { .. } => "gas_limit",
            Self::PriceBelowMinimum { .. } => "price_below_minimum",
            Self::CostOverflow => "cost_overflow",
            Self::BelowFloor { .. } => "pool_full",
            Self::NonceUsed { .. } => "nonce_used",
            Self::NonceTooFar { .. } => "nonce_too_far",
            Self::ReplacementUnderpriced { .. } => "replacement_underpriced",
            Self::Balance { .. } => "balance",
            Self::ParkedFull { .. } => "parked_full",
        }
    }

    /// What the submitter should do.
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::WrongChain { .. }
            | Self::GasLimit { .. }
            | Self::PriceBelowMinimum { .. }
            | Self::CostOverflow => Remedy::None,
            Self::NonceUsed { .. } | Self::ReplacementUnderpriced { .. } => Remedy::SignAgain,
            Self::BelowFloor { .. }
            | Self::NonceTooFar { .. }
            | Self::Balance { .. }
            | Self::ParkedFull { .. } => Remedy::Later,
        }
    }

    /// True if no honest node of this chain can have taken it, so that a peer who relays it is at
    /// fault. Everything else depends on the head and the load of a node: never an offence.
    pub const fn is_invalid(&self) -> bool {
        matches!(self.remedy(), Remedy::None)
    }
}

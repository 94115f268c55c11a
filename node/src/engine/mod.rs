//! What executes transactions.
//!
//! An [`Engine`] is given one transaction, the state as the transactions before it left it, and the
//! block it stands in. It answers with a receipt, or says that no block may hold the transaction
//! here. [`Transfers`] is the engine of native transfers, [`Evm`] that of Ethereum contracts, [`Wasm`] that of WebAssembly
//! ones, [`Orders`] that of markets, [`Prices`] that of prices; [`Engines`] sends each transaction to its own.

mod cache;
mod evm;
mod orders;
mod rules;
mod simulate;
mod transfers;
pub mod wasm;
pub mod zvm;

use std::fmt;

use ghost_proto::{Action, Address, EngineId, Genesis, Outcome, Receipt, SignedTransaction};

use self::zvm::{Container, Target};
pub use self::{
    evm::Evm,
    orders::{GAS_ORDER, GAS_PER_MATCH, Orders},
    rules::{
        GAS_PER_NONZERO_BYTE, GAS_PER_ZERO_BYTE, GAS_TRANSACTION, gas_of_payload, gas_to_wait, intrinsic_gas,
        intrinsic_gas_of_call,
    },
    simulate::{
        CallResult, SHORT_GAS, SHORT_INSTRUCTIONS, SimulateError, Simulation, Stop, StopOnDrop, Until,
    },
    transfers::Transfers,
    wasm::Wasm,
};
use crate::{
    chain::state::WorkingState,
    oracle::{PriceFault, Prices},
    store::StoreError,
};

/// The block that a transaction executes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockContext {
    /// Chain the block belongs to.
    pub chain_id: u64,
    /// Its height.
    pub height: u64,
    /// Its slot.
    pub slot: u64,
    /// When its slot began, in milliseconds since 1970-01-01 UTC.
    pub time_unix_ms: u64,
    /// Account that fees go to.
    pub proposer: Address,
    /// Least price of a unit of gas, in base units.
    pub gas_price_min: u64,
    /// Gas that the transactions before left over.
    pub gas_left: u64,
}

/// Why a transaction may not stand here. It changed nothing and may be includable elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotIncludable {
    /// Signed for another chain. Never includable here.
    #[error("it is for chain {found}, this is chain {expected}")]
    OtherChain {
        /// In the transaction.
        found: u64,
        /// Of this chain.
        expected: u64,
    },
    /// Another transaction of the sender comes first, or took its place.
    #[error("its nonce is {found}, the account's next is {expected}")]
    Nonce {
        /// In the transaction.
        found: u64,
        /// Of the account.
        expected: u64,
    },
    /// Less gas than the transaction takes by its size alone. Never includable.
    #[error("its gas limit is {limit}, it needs {needed}")]
    GasLimit {
        /// In the transaction.
        limit: u64,
        /// Its intrinsic gas.
        needed: u64,
    },
    /// The price is below what the genesis asks. Never includable.
    #[error("its gas price is {found}, the chain's least is {least}")]
    GasPrice {
        /// In the transaction.
        found: u64,
        /// Of this chain.
        least: u64,
    },
    /// The sender cannot buy the gas.
    #[error("the account has {balance}, the gas costs {needed}")]
    CannotBuyGas {
        /// Of the account, in base units.
        balance: u128,
        /// Gas limit times gas price.
        needed: u128,
    },
    /// The block has less gas left than the transaction needs.
    #[error("it needs {needed} gas, the block has {left} left")]
    BlockFull {
        /// Its intrinsic gas.
        needed: u64,
        /// Left in the block.
        left: u64,
    },
    /// The transaction was given to an engine that does not run its kind. [`Engines`] never does that.
    #[error("another engine runs transactions of its kind")]
    OtherEngine,
    /// Prices that no block may hold here.
    #[error("prices: {0}")]
    Prices(PriceFault),
    /// A sum that does not fit its integer. Cannot happen while supply and nonces are honest.
    #[error("a balance or nonce would overflow")]
    Overflow,
}

/// Why an engine gave no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The transaction may not stand here; the state is unchanged.
    #[error(transparent)]
    NotIncludable(#[from] NotIncludable),
    /// The state could not be read. The node's fault, not the transaction's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Executes transactions. The same input gives the same receipt and state on every node.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Executes one transaction. On an error the state is as it was before.
    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError>;
}

/// Every engine of this node behind one.
#[derive(Debug, Clone)]
pub struct Engines {
    prices: Prices,
}

impl Engines {
    /// For the chain of this genesis.
    pub fn new(genesis: &Genesis) -> Self {
        Self { prices: Prices::new(genesis) }
    }
}

impl Engine for Engines {
    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let engine = match &tx.body().action {
            Action::Transfer { .. } => return Transfers.execute(tx, state, context),
            Action::Place { .. } | Action::Cancel { .. } | Action::Replace { .. } => {
                return Orders.execute(tx, state, context);
            }
            Action::Prices { .. } => return self.prices.execute(tx, state, context),
            Action::Deploy { engine, .. } => *engine,
            // Who calls no contract sends value: the EVM knows how.
            Action::Call { to, .. } => state.account(to)?.contract.map_or(EngineId::EVM, |it| it.engine),
        };
        match engine {
            EngineId::EVM => Evm.execute(tx, state, context),
            EngineId::WASM => Wasm.execute(tx, state, context),
            EngineId::ZVM => match &tx.body().action {
                Action::Deploy { code, .. }
                    if Container::parse(code).is_ok_and(|container| container.target == Target::Wasm) =>
                {
                    Wasm.execute(tx, state, context)
                }
                _ => Evm.execute(tx, state, context),
            },
            _ => rules::fail(tx, state, context, Outcome::CodeRefused),
        }
    }
}

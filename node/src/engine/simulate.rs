//! Running code for an answer instead of for the chain.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use ghost_proto::{Address, EngineId, LogEntry, Outcome};

use super::{BlockContext, evm};
use crate::{chain::state::WorkingState, store::StoreError};

/// Stops what runs from another thread. Clones stop the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for it; the engine looks before every instruction.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if asked.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A call that changes nothing that is kept. No signature, nonce or fee is asked for; a value must be
/// there to be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// Who calls.
    pub from: Address,
    /// The contract; `None` deploys `input` as the EVM's init code.
    pub to: Option<Address>,
    /// Base units that go with it.
    pub value: u128,
    /// Arguments, or init code.
    pub input: Bytes,
    /// Most gas.
    pub gas_limit: u64,
}

/// What a simulation gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResult {
    /// How it ended.
    pub outcome: Outcome,
    /// Gas that a transaction would pay for.
    pub gas_used: u64,
    /// Gas that came back at the end: a transaction must have it to begin with.
    pub gas_refunded: u64,
    /// What was returned, or why it reverted. Not cut off.
    pub output: Bytes,
    /// What was logged; empty unless it is done.
    pub logs: Vec<LogEntry>,
    /// The contract that was made.
    pub created: Option<Address>,
}

/// Why a simulation gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// [`Stop`] was asked for.
    #[error("the call was stopped")]
    Stopped,
    /// It could not even begin. The asker's fault.
    #[error("{0}")]
    Refused(String),
    /// The state could not be read. The node's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Simulation {
    /// Runs it on a state, which it may alter: give it one that is thrown away.
    ///
    /// # Errors
    /// [`SimulateError`]. Code that reverts or faults is no error: the outcome says so.
    pub fn run(
        &self,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
        stop: &Stop,
    ) -> Result<CallResult, SimulateError> {
        let engine = match &self.to {
            None => EngineId::EVM,
            Some(to) => state.account(to)?.contract.map_or(EngineId::EVM, |contract| contract.engine),
        };
        match engine {
            EngineId::EVM => evm::simulate(self, state, context, stop),
            other => Err(SimulateError::Refused(format!("this node does not run {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_stop_together() {
        let stop = Stop::default();
        let other = stop.clone();
        assert!(!other.is_stopped());
        stop.stop();
        assert!(other.is_stopped());
    }
}

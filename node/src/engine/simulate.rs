//! Running code for an answer instead of for the chain.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use ghost_proto::{Address, EngineId, LogEntry, Outcome};

use super::{
    BlockContext, evm, wasm,
    zvm::{CodeError, Container, MAGIC, Target},
};
use crate::{chain::state::WorkingState, store::StoreError};

/// Stops what runs from another thread. Clones stop the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for it; the EVM looks before every instruction, WebAssembly after each million of fuel.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Asks for it when the guard is dropped: when nobody waits for the result any more.
    pub fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }

    /// True if asked.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Stops what runs when it is dropped.
#[derive(Debug)]
pub struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// When a run is to end before its time.
#[derive(Debug, Clone, Copy)]
pub enum Until<'a> {
    /// When this says so.
    Stopped(&'a Stop),
    /// When it turns out not to be short: after [`SHORT_INSTRUCTIONS`], [`SHORT_GAS`], or before a
    /// precompile whose price is not bounded by the length of its input. It then ends with
    /// [`SimulateError::NotShort`] and may be begun again elsewhere: it takes less than a millisecond,
    /// which a thread that others wait for can spare.
    Short,
}

/// Instructions of a run that counts as short.
pub const SHORT_INSTRUCTIONS: u32 = 4_096;
/// Gas of a run that counts as short. Of all instructions hashing is the slowest for its price:
/// 300,000 gas hash 1.6 MB.
pub const SHORT_GAS: u64 = 300_000;

/// A call that changes nothing that is kept. No signature, nonce or fee is asked for; a value must be
/// there to be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// Who calls.
    pub from: Address,
    /// The contract; `None` deploys `input`: the EVM's init code, or a ZVMC container and behind it what
    /// its constructor is told.
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
    /// It had to be [`Until::Short`] and is not.
    #[error("the call is not a short one")]
    NotShort,
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
        until: Until<'_>,
    ) -> Result<CallResult, SimulateError> {
        let engine = match &self.to {
            None if self.input.starts_with(MAGIC) => return self.deploy(state, context, until),
            None => EngineId::EVM,
            Some(to) => state.account(to)?.contract.map_or(EngineId::EVM, |contract| contract.engine),
        };
        match engine {
            EngineId::EVM => evm::simulate(self, state, context, until),
            EngineId::WASM => wasm::simulate(self, None, state, context, until),
            other => Err(SimulateError::Refused(format!("this node does not run {other}"))),
        }
    }

    /// Deploys a container; what stands behind it is for the constructor.
    fn deploy(
        &self,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
        until: Until<'_>,
    ) -> Result<CallResult, SimulateError> {
        let refused = |error: CodeError| SimulateError::Refused(error.to_string());
        let (container, input) = Container::split(&self.input).map_err(refused)?;
        match container.target {
            Target::Wasm => wasm::simulate(self, Some((container, input)), state, context, until),
            Target::Native | Target::Evm => {
                let init = container.init_code().map_err(refused)?;
                let input = [init.as_ref(), &input].concat().into();
                evm::simulate(&Self { input, ..self.clone() }, state, context, until)
            }
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

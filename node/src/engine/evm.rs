//! Ethereum contracts, by revm.
//!
//! The rules are those of the Osaka upgrade, without its cap on the gas of one transaction. What our
//! chain says in place of Ethereum's:
//!
//! | opcode | here |
//! |---|---|
//! | COINBASE | account of the proposer |
//! | TIMESTAMP | beginning of the slot, in whole seconds; several blocks may share one |
//! | NUMBER, BLOCKHASH | height and block ids |
//! | PREVRANDAO | id of the parent block: the proposer before could choose it, it is no randomness |
//! | BASEFEE | least gas price of the genesis; nothing is burned, the proposer gets the whole fee |
//! | BLOBHASH, BLOBBASEFEE | nothing, 1 |
//!
//! Beside Ethereum's precompiles there is one that reads committed prices (see `precompile`).
//!
//! There are no blobs, access lists or set-code transactions, and no system contracts. Contract
//! addresses and storage are Ethereum's.

mod database;
mod precompile;

use bytes::Bytes;
use ghost_proto::{
    Action, Address, EngineId, LogEntry, Outcome, Receipt, SignedTransaction,
    limits::{RECEIPT_BYTES_MAX, RECEIPT_OUTPUT_BYTES_MAX},
};
use revm::{
    Context, ExecuteEvm, InspectEvm, Inspector, MainBuilder, MainContext,
    context::{
        BlockEnv, CfgEnv, TxEnv,
        result::{EVMError, ExecutionResult, HaltReason, ResultGas},
    },
    interpreter::{
        CallInputs, CallOutcome, Gas, InstructionResult, Interpreter, InterpreterResult, InterpreterTypes,
    },
    primitives::{B256, TxKind, U256, hardfork::SpecId},
    state::EvmState,
};

use self::database::{StateDatabase, from_evm, to_evm};
use super::{
    BlockContext, CallResult, Engine, ExecuteError, NotIncludable, SimulateError, Simulation, Until,
    rules::{self, Bought},
    simulate::{SHORT_GAS, SHORT_INSTRUCTIONS},
    zvm::Container,
};
use crate::{chain::state::WorkingState, store::StoreError};

/// Rules of the machine.
const SPEC: SpecId = SpecId::OSAKA;

/// Runs Ethereum contracts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evm;

/// How a run of code ended.
struct Ended {
    outcome: Outcome,
    gas: ResultGas,
    output: Bytes,
    logs: Vec<LogEntry>,
    created: Option<Address>,
}

impl Ended {
    fn of(result: ExecutionResult) -> Self {
        match result {
            ExecutionResult::Success { gas, logs, output, .. } => {
                let created = output.address().map(from_evm);
                let logs = logs.into_iter().map(|log| {
                    let (topics, data) = log.data.split();
                    LogEntry {
                        address: from_evm(&log.address),
                        topics: topics.into_iter().map(|topic| topic.0).collect(),
                        data: data.0,
                    }
                });
                // What a deployment returns is its code, which the state keeps.
                let output = if created.is_some() { Bytes::new() } else { output.into_data().0 };
                Self { outcome: Outcome::Done, gas, output, logs: logs.collect(), created }
            }
            ExecutionResult::Revert { gas, output, .. } => {
                Self { outcome: Outcome::Reverted, gas, output: output.0, logs: Vec::new(), created: None }
            }
            ExecutionResult::Halt { gas, reason, .. } => {
                let outcome = match reason {
                    HaltReason::OutOfGas(_) => Outcome::OutOfGas,
                    HaltReason::CreateContractSizeLimit
                    | HaltReason::CreateContractStartingWithEF
                    | HaltReason::CreateInitCodeSizeLimit => Outcome::CodeRefused,
                    _ => Outcome::Fault,
                };
                Self { outcome, gas, output: Bytes::new(), logs: Vec::new(), created: None }
            }
        }
    }
}

fn block_env(state: &WorkingState<'_>, context: &BlockContext) -> Result<BlockEnv, StoreError> {
    let parent = match context.height.checked_sub(1) {
        Some(height) => state.ancestor(height)?.map(|id| id.0).unwrap_or_default(),
        None => [0; 32],
    };
    Ok(BlockEnv {
        number: U256::from(context.height),
        beneficiary: to_evm(&context.proposer),
        timestamp: U256::from(context.time_unix_ms / 1_000),
        gas_limit: u64::MAX,
        basefee: context.gas_price_min,
        difficulty: U256::ZERO,
        prevrandao: Some(B256::from(parent)),
        slot_num: context.slot,
        ..Default::default()
    })
}

fn configuration(context: &BlockContext) -> CfgEnv {
    let mut configuration = CfgEnv::new_with_spec(SPEC).with_chain_id(context.chain_id);
    configuration.tx_gas_limit_cap = Some(u64::MAX);
    configuration
}

impl Engine for Evm {
    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let body = tx.body();
        let (kind, value, input) = match &body.action {
            Action::Transfer { .. }
            | Action::Place { .. }
            | Action::Cancel { .. }
            | Action::Replace { .. }
            | Action::Prices { .. } => return Err(NotIncludable::OtherEngine.into()),
            Action::Deploy { engine, value, code, input } => {
                let init = if *engine == EngineId::ZVM {
                    match Container::parse(code).and_then(|container| container.init_code()) {
                        Ok(init) => init,
                        Err(error) => return rules::refuse_code(tx, state, context, &error.to_string()),
                    }
                } else {
                    code.clone()
                };
                let whole = if input.is_empty() { init } else { [init.as_ref(), input].concat().into() };
                if whole.len() > INIT_CODE_BYTES_MAX {
                    return rules::fail(tx, state, context, Outcome::CodeRefused);
                }
                (TxKind::Create, *value, whole)
            }
            Action::Call { to, value, input } => (TxKind::Call(to_evm(to)), *value, input.clone()),
        };
        let Bought { sender, gas } = rules::buy_gas(tx, state, context)?;
        // A container is longer than its code: what the machine does not see is paid for all the same.
        let wrapping = match &kind {
            TxKind::Create => gas.saturating_sub(rules::contract_gas(&[&input], true)),
            TxKind::Call(_) => 0,
        };
        let gas_cost = u128::from(body.gas_limit) * u128::from(body.gas_price);
        if sender.balance - gas_cost < value {
            return rules::fail(tx, state, context, Outcome::InsufficientBalance);
        }
        let env = TxEnv {
            caller: to_evm(&tx.sender()),
            gas_limit: body.gas_limit - wrapping,
            gas_price: body.gas_price.into(),
            kind,
            value: U256::from(value),
            data: input.into(),
            nonce: body.nonce,
            chain_id: Some(body.chain_id),
            ..Default::default()
        };
        let block = block_env(state, context)?;
        let ran = Context::mainnet()
            .with_db(StateDatabase(state))
            .with_cfg(configuration(context))
            .with_block(block)
            .build_mainnet()
            .with_precompiles(precompile::Precompiles::new(context.time_unix_ms))
            .transact(env);
        let ran = match ran {
            Ok(ran) => ran,
            Err(EVMError::Database(error)) => return Err(error.into()),
            // Only reading a price fails so, and only with the store.
            Err(EVMError::Custom(error)) => return Err(StoreError::damaged(error).into()),
            // Everything it could refuse was checked before; if it finds more, no node includes it.
            Err(_) => return Err(NotIncludable::Overflow.into()),
        };
        let ended = Ended::of(ran.result);
        let gas_used = ended.gas.tx_gas_used() + wrapping;
        let mut output = ended.output;
        output.truncate(RECEIPT_OUTPUT_BYTES_MAX);
        let receipt = Receipt {
            outcome: ended.outcome,
            gas_used,
            created: ended.created,
            // Detached: the whole may be large.
            output: Bytes::copy_from_slice(&output),
            logs: ended.logs,
        };
        if receipt.encoded_len() > RECEIPT_BYTES_MAX {
            let mut sender = sender;
            rules::charge(tx, &mut sender, state, context, gas_used)?;
            return Ok(Receipt::plain(Outcome::LogsTooLarge, gas_used));
        }
        // The machine paid the proposer what is above the base fee, and would burn the rest.
        let burned = u128::from(gas_used - wrapping) * u128::from(context.gas_price_min);
        // Bought with the gas limit, so the sender has it still.
        let wrapping = (tx.sender(), u128::from(wrapping) * u128::from(body.gas_price));
        database::apply(state, &ran.state, &context.proposer, burned, wrapping)?;
        Ok(receipt)
    }
}

/// EIP-3860: twice the largest code.
const INIT_CODE_BYTES_MAX: usize = 2 * 0x6000;

/// Ends a run before its next instruction.
struct Stopper<'a> {
    until: Until<'a>,
    instructions: u32,
    /// Used within the frames; what a frame gave to another one is counted there.
    gas: u64,
    /// Left in the frame that ran last.
    gas_left: u64,
    ended: Option<SimulateError>,
}

impl<'a> Stopper<'a> {
    fn new(until: Until<'a>) -> Self {
        Self { until, instructions: 0, gas: 0, gas_left: 0, ended: None }
    }
}

/// Precompiles up to this one (the identity) take a time that the length of their input bounds.
const SIMPLE_PRECOMPILE_LAST: u64 = 4;
/// Addresses below are those of precompiles, of today and of later upgrades.
const PRECOMPILES_END: u64 = 0x200;

impl<CTX, INTR: InterpreterTypes> Inspector<CTX, INTR> for Stopper<'_> {
    fn step(&mut self, interpreter: &mut Interpreter<INTR>, _context: &mut CTX) {
        match self.until {
            Until::Stopped(stop) => {
                if stop.is_stopped() {
                    self.ended = Some(SimulateError::Stopped);
                }
            }
            Until::Short => {
                let left = interpreter.gas.remaining();
                self.gas += self.gas_left.saturating_sub(left);
                self.gas_left = left;
                self.instructions += 1;
                if self.instructions > SHORT_INSTRUCTIONS || self.gas > SHORT_GAS {
                    self.ended = Some(SimulateError::NotShort);
                }
            }
        }
        if self.ended.is_some() {
            // A caller whose callee ends so goes on, and is ended at its own next instruction.
            interpreter.halt(InstructionResult::OutOfGas);
        }
    }

    fn call(&mut self, _context: &mut CTX, inputs: &mut CallInputs) -> Option<CallOutcome> {
        // A new frame begins with gas of its own.
        self.gas_left = inputs.gas_limit;
        if matches!(self.until, Until::Short) {
            let callee = U256::from_be_slice(inputs.bytecode_address.as_slice());
            if callee > U256::from(SIMPLE_PRECOMPILE_LAST) && callee < U256::from(PRECOMPILES_END) {
                self.ended = Some(SimulateError::NotShort);
                let result = InterpreterResult::new(
                    InstructionResult::OutOfGas,
                    Default::default(),
                    Gas::new(inputs.gas_limit),
                );
                return Some(CallOutcome::new(result, inputs.return_memory_offset.clone()));
            }
        }
        None
    }
}

/// Runs a call that changes nothing that is kept.
pub(super) fn simulate(
    call: &Simulation,
    state: &mut WorkingState<'_>,
    context: &BlockContext,
    until: Until<'_>,
) -> Result<CallResult, SimulateError> {
    let caller = state.account(&call.from)?;
    if caller.balance < call.value {
        return Ok(CallResult {
            outcome: Outcome::InsufficientBalance,
            gas_used: 0,
            gas_refunded: 0,
            output: Bytes::new(),
            logs: Vec::new(),
            created: None,
        });
    }
    let needed = rules::contract_gas(&[&call.input], call.to.is_none());
    if call.gas_limit < needed {
        return Err(SimulateError::Refused(format!(
            "the gas limit is {}, the call takes {needed} by its size alone",
            call.gas_limit
        )));
    }
    if call.to.is_none() && call.input.len() > INIT_CODE_BYTES_MAX {
        return Err(SimulateError::Refused(format!(
            "init code of {} bytes is too long; {INIT_CODE_BYTES_MAX} are allowed",
            call.input.len()
        )));
    }
    let env = TxEnv {
        caller: to_evm(&call.from),
        gas_limit: call.gas_limit,
        gas_price: 0,
        kind: call.to.as_ref().map_or(TxKind::Create, |to| TxKind::Call(to_evm(to))),
        value: U256::from(call.value),
        data: call.input.clone().into(),
        nonce: caller.nonce,
        chain_id: Some(context.chain_id),
        ..Default::default()
    };
    let mut configuration = configuration(context);
    configuration.disable_base_fee = true;
    configuration.disable_eip3607 = true;
    let block = block_env(state, context)?;
    let mut stopper = Stopper::new(until);
    let ran = Context::mainnet()
        .with_db(StateDatabase(state))
        .with_cfg(configuration)
        .with_block(block)
        .build_mainnet_with_inspector(&mut stopper)
        .with_precompiles(precompile::Precompiles::new(context.time_unix_ms))
        .inspect_tx(env);
    if let Some(ended) = stopper.ended {
        return Err(ended);
    }
    let ran = match ran {
        Ok(ran) => ran,
        Err(EVMError::Database(error)) => return Err(error.into()),
        Err(EVMError::Custom(error)) => return Err(StoreError::damaged(error).into()),
        Err(error) => return Err(SimulateError::Refused(error.to_string())),
    };
    let ended = Ended::of(ran.result);
    Ok(CallResult {
        outcome: ended.outcome,
        gas_used: ended.gas.tx_gas_used(),
        gas_refunded: ended.gas.inner_refunded(),
        output: ended.output,
        logs: ended.logs,
        created: ended.created,
    })
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(super) mod tests;

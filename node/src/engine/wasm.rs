//! WebAssembly contracts, by wasmi.
//!
//! wasmi because it is an interpreter made for this: it counts fuel by the WebAssembly instruction, so
//! that every node counts the same, it translates a module in one pass over it (nothing to bomb), it
//! can be told to refuse floats, and it was audited twice. A compiler such as wasmtime's Cranelift runs
//! long computations several times faster; it takes longer to translate a module than most calls run, adds
//! three times the crates, and its time to compile has no bound that follows from the code's length.
//! Its version is pinned exactly: what it charges is part of the chain's rules.
//!
//! # What a contract is
//!
//! A module of at most 96 KiB that exports its memory as `memory` and a function `call`, and perhaps
//! one `deploy`, both without parameters and results, and that imports from [`ghost`](host) only. It
//! has no start function, one memory of at most 4 MiB, and no floats, references, SIMD or threads. With
//! its deployment the module is checked and compiled; what is wrong is told with its offset.
//!
//! # What it costs
//!
//! | what | gas |
//! |---|---|
//! | the transaction | as for the EVM: its intrinsic gas, here with the floor of EIP-7623 always |
//! | each instruction | 1 gas is [`FUEL_PER_GAS`] fuel; an instruction takes 1, those that only shape blocks 0 |
//! | `memory.fill`, `copy`, `init`, `grow` | wasmi's: 1 fuel for each 64 bytes |
//! | a run | [`GAS_RUN`], 1 for each 4 bytes of the module, 1,024 for each page that it begins with |
//! | a deployment | 200 for each byte of the module (yellow paper, `G_codedeposit`) |
//! | host functions | see [`host`]: Ethereum's prices for storage, logs, accounts, hashes; nothing is refunded |
//!
//! What is left when it reverts comes back; a fault (a trap) takes all gas, as in the EVM.

pub(crate) mod host;
mod module;

use bytes::Bytes;
use ghost_proto::{
    Action, Address, EngineId, Outcome, Receipt, SignedTransaction,
    limits::{RECEIPT_BYTES_MAX, RECEIPT_OUTPUT_BYTES_MAX},
};
use wasmi::{Instance, ResumableCall, Store, StoreLimitsBuilder, TrapCode};

pub use self::module::{MEMORY_PAGES_MAX, MODULE_BYTES_MAX, ModuleError};
use self::{
    host::{Halt, Host},
    module::{CALL, Compiled, DEPLOY, MEMORY, TABLE_ELEMENTS_MAX},
};
use super::{
    BlockContext, CallResult, Engine, ExecuteError, NotIncludable, SimulateError, Simulation, Until,
    rules::{self, Bought},
    simulate::SHORT_GAS,
    zvm::{Container, Target},
};
use crate::{
    chain::state::{Account, Contract, WorkingState, code_key},
    store::StoreError,
};

/// Fuel that one unit of gas buys.
pub const FUEL_PER_GAS: u64 = 1;

/// Gas of making an instance.
pub const GAS_RUN: u64 = 2_600;
/// Bytes of the module that take one gas each time it runs: its data is copied, and it may have to be
/// compiled again.
const CODE_BYTES_PER_GAS: u64 = 4;
/// Gas of each page that is there from the beginning: as wasmi takes for growing by one.
const GAS_PER_PAGE: u64 = 1_024 / FUEL_PER_GAS;
/// Gas of each byte that is deployed.
const GAS_PER_DEPLOYED_BYTE: u64 = 200;

/// Fuel between two looks at whether a run is to stop: a few milliseconds.
const FUEL_SLICE: u64 = 1_000_000;

/// Runs WebAssembly contracts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wasm;

/// Checks a module as its deployment will.
///
/// # Errors
/// [`ModuleError`]: a deployment of it fails.
pub fn check(code: &[u8]) -> Result<(), ModuleError> {
    Compiled::of(code).map(drop)
}

/// How a run ended, and what it leaves.
struct Ended<'s, 'p> {
    outcome: Outcome,
    /// Used by the run alone.
    gas_used: u64,
    host: Host<'s, 'p>,
}

/// Gas of making an instance of a module, before anything of it runs.
fn gas_of_instance(module: &Compiled) -> u64 {
    GAS_RUN + module.code_bytes() as u64 / CODE_BYTES_PER_GAS + GAS_PER_PAGE * module.pages()
}

/// What a host begins with.
struct Setting<'a> {
    module: &'a Compiled,
    context: &'a BlockContext,
    contract: Address,
    caller: Address,
    value: u128,
    input: Bytes,
    /// The account of the caller, after everything that it pays beforehand.
    paid: Account,
    /// It is a deployment.
    deploys: bool,
    gas: u64,
}

/// Runs a contract. What it wrote is in the host, not in the state.
fn run<'s, 'p>(
    setting: Setting<'_>,
    state: &'s mut WorkingState<'p>,
    until: Option<Until<'_>>,
) -> Result<Ended<'s, 'p>, SimulateError> {
    let Setting { module, context, contract, caller, value, input, paid, deploys, gas } = setting;
    let limits = StoreLimitsBuilder::new()
        .memory_size(MEMORY_PAGES_MAX as usize * 64 * 1024)
        .table_elements(TABLE_ELEMENTS_MAX)
        .build();
    let mut host = Host::new(state, context, [contract, caller], value, input, limits);
    host.accounts.insert(caller, paid);
    let account = host.account(&contract)?;
    if deploys {
        if account.nonce != 0 || account.contract.is_some() {
            return Ok(Ended { outcome: Outcome::Fault, gas_used: gas, host });
        }
        account.nonce = 1;
        account.contract = Some(Contract { engine: EngineId::WASM, code_hash: module.code_hash() });
    }
    let Some(balance) = account.balance.checked_add(value) else {
        return Ok(Ended { outcome: Outcome::Fault, gas_used: gas, host });
    };
    account.balance = balance;

    let deposit = if deploys { GAS_PER_DEPLOYED_BYTE * module.code_bytes() as u64 } else { 0 };
    let Some(left) = gas.checked_sub(gas_of_instance(module) + deposit) else {
        return Ok(Ended { outcome: Outcome::OutOfGas, gas_used: gas, host });
    };
    let short = matches!(until, Some(Until::Short)) && left > SHORT_GAS;
    let given = if short { SHORT_GAS } else { left }.saturating_mul(FUEL_PER_GAS);
    host.reserve = given;
    let mut store = Store::new(module.engine(), host);
    store.limiter(|host| &mut host.limits);
    let ran = machine(module, &mut store, if deploys { DEPLOY } else { CALL }, until);
    let fuel = store.get_fuel().unwrap_or_default();
    let mut host = store.into_data();
    if let Some(error) = host.broken.take() {
        return Err(error.into());
    }
    let outcome = match ran {
        Err(Break::Stopped) => return Err(SimulateError::Stopped),
        Err(Break::Halt(Halt::OutOfGas)) if short => return Err(SimulateError::NotShort),
        Ok(()) => Outcome::Done,
        Err(Break::Halt(Halt::OutOfGas)) => Outcome::OutOfGas,
        Err(Break::Halt(Halt::Reverted)) => Outcome::Reverted,
        Err(Break::Halt(Halt::Fault | Halt::Broken)) => Outcome::Fault,
        Err(Break::Refused) => Outcome::CodeRefused,
    };
    let gas_used = match outcome {
        Outcome::Done | Outcome::Reverted => {
            gas - left + (given - host.reserve.saturating_add(fuel).min(given)).div_ceil(FUEL_PER_GAS)
        }
        _ => gas,
    };
    if outcome != Outcome::Done {
        host.logs.clear();
    }
    if !matches!(outcome, Outcome::Done | Outcome::Reverted) {
        host.output = Bytes::new();
    }
    Ok(Ended { outcome, gas_used, host })
}

/// Why the machine did not come to the end.
enum Break {
    Stopped,
    Halt(Halt),
    /// The module cannot be instantiated: a table too large, data beyond its memory.
    Refused,
}

impl From<wasmi::Error> for Break {
    fn from(error: wasmi::Error) -> Self {
        match (error.downcast_ref::<Halt>(), error.as_trap_code()) {
            (Some(halt), _) => Self::Halt(*halt),
            (None, Some(TrapCode::OutOfFuel)) => Self::Halt(Halt::OutOfGas),
            _ => Self::Halt(Halt::Fault),
        }
    }
}

fn machine(
    module: &Compiled,
    store: &mut Store<Host<'_, '_>>,
    entry: &str,
    until: Option<Until<'_>>,
) -> Result<(), Break> {
    let mut imports = Vec::new();
    for import in module.module().imports() {
        imports.push(host::function(store, import.name()).ok_or(Break::Refused)?);
    }
    // Data and elements are paid for with the bytes of the module that hold them.
    let reserve = std::mem::replace(&mut store.data_mut().reserve, 0);
    store.set_fuel(u64::MAX)?;
    let made = Instance::new(&mut *store, module.module(), &imports);
    store.set_fuel(0)?;
    store.data_mut().reserve = reserve;
    let instance = made.map_err(|_| Break::Refused)?;
    store.data_mut().memory = instance.get_memory(&*store, MEMORY);
    let Some(function) = instance.get_func(&*store, entry) else {
        // Only a constructor may be missing.
        return Ok(());
    };
    let stop = match until {
        Some(Until::Stopped(stop)) => Some(stop),
        Some(Until::Short) | None => None,
    };
    give(store, 0, stop.is_some())?;
    let mut at = function.call_resumable(&mut *store, &[], &mut [])?;
    loop {
        match at {
            ResumableCall::Finished => return Ok(()),
            ResumableCall::HostTrap(trap) => return Err(trap.into_host_error().into()),
            ResumableCall::OutOfFuel(paused) => {
                if stop.is_some_and(|stop| stop.is_stopped()) {
                    return Err(Break::Stopped);
                }
                give(store, paused.required_fuel(), stop.is_some())?;
                at = paused.resume(&mut *store, &mut [])?;
            }
        }
    }
}

/// Gives the machine fuel from the reserve: what it needs to go on, and a slice or all that is left.
fn give(store: &mut Store<Host<'_, '_>>, needed: u64, sliced: bool) -> Result<(), Break> {
    let given = store.get_fuel()?;
    let reserve = store.data().reserve;
    let missing = needed.saturating_sub(given);
    if missing > reserve {
        return Err(Break::Halt(Halt::OutOfGas));
    }
    let more = if sliced { missing.max(FUEL_SLICE).min(reserve) } else { reserve };
    store.data_mut().reserve = reserve - more;
    Ok(store.set_fuel(given + more)?)
}

/// The address of the contract that an account makes with the transaction of a nonce: Ethereum's.
fn created(sender: &Address, nonce: u64) -> Address {
    Address(revm::primitives::Address(sender.0.into()).create(nonce).0.0)
}

/// The module that a deployment carries.
fn deployed(engine: EngineId, code: &Bytes, input: &Bytes) -> Result<(Compiled, Bytes), String> {
    let code = if engine == EngineId::ZVM {
        Container::parse(code).map_err(|error| error.to_string())?.code
    } else {
        code.clone()
    };
    let module = Compiled::of(&code).map_err(|error| error.to_string())?;
    if !module.has_constructor() && !input.is_empty() {
        return Err(ModuleError::NoConstructor.to_string());
    }
    Ok((module, code))
}

/// The module of a contract.
fn module_of(contract: &Contract, state: &mut WorkingState<'_>) -> Result<Compiled, StoreError> {
    if let Some(module) = Compiled::kept(&contract.code_hash) {
        return Ok(module);
    }
    let damaged = |why: String| StoreError::damaged(format!("the code of a contract {why}"));
    let code = state.get(&code_key(&contract.code_hash))?.ok_or_else(|| damaged("is missing".into()))?;
    Compiled::of(&code).map_err(|error| damaged(format!("cannot run: {error}")))
}

impl Engine for Wasm {
    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let Bought { mut sender, gas } = rules::buy_gas(tx, state, context)?;
        let body = tx.body();
        let (module, code, contract, input) = match &body.action {
            Action::Transfer { .. }
            | Action::Place { .. }
            | Action::Cancel { .. }
            | Action::Replace { .. }
            | Action::Prices { .. } => return Err(NotIncludable::OtherEngine.into()),
            Action::Deploy { engine, code, input, .. } => match deployed(*engine, code, input) {
                Ok((module, code)) => (module, Some(code), created(&tx.sender(), body.nonce), input),
                Err(why) => return rules::refuse_code(tx, state, context, &why),
            },
            Action::Call { to, input, .. } => match state.account(to)?.contract {
                Some(contract) if contract.engine == EngineId::WASM => {
                    (module_of(&contract, state)?, None, *to, input)
                }
                _ => return Err(NotIncludable::OtherEngine.into()),
            },
        };
        let value = body.action.value();
        let bought = u128::from(body.gas_limit) * u128::from(body.gas_price);
        let Some(left) = (sender.balance - bought).checked_sub(value) else {
            return rules::fail(tx, state, context, Outcome::InsufficientBalance);
        };
        let setting = Setting {
            module: &module,
            context,
            contract,
            caller: tx.sender(),
            value,
            input: input.clone(),
            paid: Account { nonce: sender.nonce + 1, balance: left, ..sender },
            deploys: code.is_some(),
            gas: body.gas_limit - gas,
        };
        let Ended { outcome, gas_used, mut host } = match run(setting, state, None) {
            Ok(ended) => ended,
            Err(SimulateError::Store(error)) => return Err(error.into()),
            // Only a run that is told when to stop ends otherwise.
            Err(_) => return Err(NotIncludable::Overflow.into()),
        };
        let mut output = std::mem::take(&mut host.output);
        output.truncate(RECEIPT_OUTPUT_BYTES_MAX);
        let mut receipt = Receipt {
            outcome,
            gas_used: gas + gas_used,
            created: (outcome == Outcome::Done && code.is_some()).then_some(contract),
            output: Bytes::copy_from_slice(&output),
            logs: std::mem::take(&mut host.logs),
        };
        if receipt.created.is_some() {
            receipt.output = Bytes::new();
        }
        if receipt.encoded_len() > RECEIPT_BYTES_MAX {
            receipt = Receipt::plain(Outcome::LogsTooLarge, receipt.gas_used);
        }
        if receipt.outcome != Outcome::Done {
            drop(host);
            rules::charge(tx, &mut sender, state, context, receipt.gas_used)?;
            return Ok(receipt);
        }
        let fee = u128::from(receipt.gas_used) * u128::from(body.gas_price);
        // # Correctness: all is added up before anything is written.
        let payer = host.account(&tx.sender())?;
        payer.balance = payer.balance.checked_add(bought - fee).ok_or(NotIncludable::Overflow)?;
        let proposer = host.account(&context.proposer)?;
        proposer.balance = proposer.balance.checked_add(fee).ok_or(NotIncludable::Overflow)?;
        let state = host.commit()?;
        if let Some(code) = code {
            state.put(&code_key(&module.code_hash()), Some(&code))?;
        }
        Ok(receipt)
    }
}

/// Runs a call that changes nothing that is kept. Without `to` it is a deployment: its input is a
/// container with a module, and what the constructor is told.
pub(super) fn simulate(
    call: &Simulation,
    deploys: Option<(Container, Bytes)>,
    state: &mut WorkingState<'_>,
    context: &BlockContext,
    until: Until<'_>,
) -> Result<CallResult, SimulateError> {
    let needed = rules::contract_gas(&[&call.input], call.to.is_none());
    if call.gas_limit < needed {
        return Err(SimulateError::Refused(format!(
            "the gas limit is {}, the call takes {needed} by its size alone",
            call.gas_limit
        )));
    }
    let caller = state.account(&call.from)?;
    let (module, contract, input) = match (deploys, &call.to) {
        (Some((container, input)), _) => {
            if matches!(until, Until::Short) {
                return Err(SimulateError::NotShort);
            }
            debug_assert_eq!(container.target, Target::Wasm);
            let (module, _) =
                deployed(EngineId::WASM, &container.code, &input).map_err(SimulateError::Refused)?;
            (module, created(&call.from, caller.nonce), input)
        }
        (None, Some(to)) => {
            let Some(contract) = state.account(to)?.contract else {
                return Err(SimulateError::Refused("no contract stands there".into()));
            };
            if matches!(until, Until::Short) && Compiled::kept(&contract.code_hash).is_none() {
                // To compile it may take milliseconds.
                return Err(SimulateError::NotShort);
            }
            (module_of(&contract, state)?, *to, call.input.clone())
        }
        (None, None) => return Err(SimulateError::Refused("a deployment needs a container".into())),
    };
    let Some(left) = caller.balance.checked_sub(call.value) else {
        return Ok(CallResult {
            outcome: Outcome::InsufficientBalance,
            gas_used: 0,
            gas_refunded: 0,
            output: Bytes::new(),
            logs: Vec::new(),
            created: None,
        });
    };
    let deploys = call.to.is_none();
    let setting = Setting {
        module: &module,
        context,
        contract,
        caller: call.from,
        value: call.value,
        input,
        paid: Account { balance: left, ..caller },
        deploys,
        gas: call.gas_limit - needed,
    };
    let Ended { outcome, gas_used, host } = run(setting, state, Some(until))?;
    let done = outcome == Outcome::Done;
    Ok(CallResult {
        outcome,
        gas_used: needed + gas_used,
        gas_refunded: 0,
        output: if done && deploys { Bytes::new() } else { host.output },
        logs: host.logs,
        created: (done && deploys).then_some(contract),
    })
}

#[cfg(test)]
mod tests;

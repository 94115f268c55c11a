//! What a WebAssembly contract can ask of the chain.
//!
//! Every function is imported from the module `ghost`. Pointers and lengths are `i32`, read as
//! unsigned, and must lie within the exported memory, else the contract faults. Numbers in memory are
//! big-endian, as everywhere on this chain.
//!
//! | function | what it does |
//! |---|---|
//! | `input_len() -> i32` | length of the arguments |
//! | `input(at, to, len)` | copies that part of the arguments to `to`; beyond their end is a fault |
//! | `caller(to)` | who called, 20 bytes |
//! | `contract(to)` | this contract, 20 bytes |
//! | `value(to)` | base units that came with the call, 16 bytes |
//! | `balance(address, to)` | base units of an account, 16 bytes |
//! | `transfer(address, value) -> i32` | pays from this contract; 0 if it has not enough, or the receiver is a contract |
//! | `storage_read(slot, to)` | a word of this contract's storage: 32 bytes under 32 bytes, zeros at first |
//! | `storage_write(slot, word)` | sets one |
//! | `log(topics, count, data, len)` | logs up to 4 topics of 32 bytes, and data |
//! | `output(from, len)` | what is returned; the last time counts |
//! | `revert(from, len)` | ends the run, undoes all, and says why; does not return |
//! | `keccak256(from, len, to)`, `blake3(from, len, to)` | a hash, 32 bytes |
//! | `block_height() -> i64`, `block_time_ms() -> i64`, `chain_id() -> i64` | the block: height, beginning of its slot in ms since 1970, chain |
//!
//! A contract cannot call another one: it would have to survive being called back in the middle of its
//! own run, in one machine of two.

use std::collections::BTreeMap;

use bytes::Bytes;
use ghost_proto::{Address, LogEntry, limits::LOG_TOPICS_MAX};
use revm::primitives::keccak256;
use wasmi::{Caller, Extern, Func, FuncType, Memory, Store, StoreLimits, ValType, errors::HostError};

use super::FUEL_PER_GAS;
use crate::{
    chain::state::{Account, WorkingState},
    engine::BlockContext,
    store::StoreError,
};

/// The module that the functions are imported from.
pub(super) const MODULE: &str = "ghost";

/// Gas of asking at all.
const GAS_ASK: u64 = 10;
/// Gas of every 32 bytes that are copied, begun ones too.
const GAS_COPY_WORD: u64 = 3;
/// Gas of a hash, and of every 32 bytes of it.
const GAS_HASH: u64 = 30;
const GAS_HASH_WORD: u64 = 6;
/// Gas of a log, of each topic, of each byte (yellow paper).
const GAS_LOG: u64 = 375;
const GAS_LOG_TOPIC: u64 = 375;
const GAS_LOG_BYTE: u64 = 8;
/// Gas of a word of storage: the first time in a run, and again (EIP-2929).
const GAS_SLOT_COLD: u64 = 2_100;
const GAS_SLOT_WARM: u64 = 100;
/// Gas of changing a word for the first time, on top: of zero, of anything else (EIP-2200, without
/// its refunds).
const GAS_SLOT_SET: u64 = 20_000 - GAS_SLOT_WARM;
const GAS_SLOT_RESET: u64 = 2_900 - GAS_SLOT_WARM;
/// Gas of an account: the first time in a run, and again.
const GAS_ACCOUNT_COLD: u64 = 2_600;
const GAS_ACCOUNT_WARM: u64 = 100;
/// Gas of paying, and of paying to an account that does not exist yet.
const GAS_TRANSFER: u64 = 9_000;
const GAS_TRANSFER_NEW: u64 = 25_000;

/// Why a host function ended the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Halt {
    #[error("out of gas")]
    OutOfGas,
    #[error("reverted")]
    Reverted,
    #[error("fault")]
    Fault,
    /// The state could not be read: see [`Host::broken`].
    #[error("broken")]
    Broken,
}

impl HostError for Halt {}

/// A word of storage in a run.
#[derive(Debug, Clone, Copy)]
struct Slot {
    before: [u8; 32],
    now: [u8; 32],
}

/// What a run reads and what it has written. Nothing reaches the state before it has ended well.
pub(super) struct Host<'s, 'p> {
    pub(super) state: &'s mut WorkingState<'p>,
    pub(super) contract: Address,
    pub(super) caller: Address,
    pub(super) value: u128,
    pub(super) input: Bytes,
    pub(super) context: BlockContext,
    /// Accounts as they are now.
    pub(super) accounts: BTreeMap<Address, Account>,
    slots: BTreeMap<[u8; 32], Slot>,
    pub(super) logs: Vec<LogEntry>,
    pub(super) output: Bytes,
    pub(super) broken: Option<StoreError>,
    /// Fuel that the machine has not been given yet.
    pub(super) reserve: u64,
    pub(super) limits: StoreLimits,
    pub(super) memory: Option<Memory>,
}

impl<'s, 'p> Host<'s, 'p> {
    pub(super) fn new(
        state: &'s mut WorkingState<'p>,
        context: &BlockContext,
        [contract, caller]: [Address; 2],
        value: u128,
        input: Bytes,
        limits: StoreLimits,
    ) -> Self {
        Self {
            state,
            contract,
            caller,
            value,
            input,
            context: *context,
            accounts: BTreeMap::new(),
            slots: BTreeMap::new(),
            logs: Vec::new(),
            output: Bytes::new(),
            broken: None,
            reserve: 0,
            limits,
            memory: None,
        }
    }

    /// An account as it is now.
    pub(super) fn account(&mut self, address: &Address) -> Result<&mut Account, StoreError> {
        if !self.accounts.contains_key(address) {
            let account = self.state.account(address)?;
            self.accounts.insert(*address, account);
        }
        Ok(self.accounts.entry(*address).or_default())
    }

    /// Writes everything to the state.
    pub(super) fn commit(self) -> Result<&'s mut WorkingState<'p>, StoreError> {
        for (address, account) in &self.accounts {
            self.state.set_account(address, account)?;
        }
        for (slot, word) in self.slots.iter().filter(|(_, word)| word.before != word.now) {
            self.state.set_storage(&self.contract, slot, &word.now)?;
        }
        Ok(self.state)
    }
}

type Asking<'c, 's, 'p> = Caller<'c, Host<'s, 'p>>;

fn words(bytes: u32) -> u64 {
    u64::from(bytes).div_ceil(32)
}

/// Takes gas, or ends the run.
fn charge(asking: &mut Asking<'_, '_, '_>, gas: u64) -> Result<(), wasmi::Error> {
    let fuel = gas.saturating_mul(FUEL_PER_GAS);
    let given = asking.get_fuel()?;
    if let Some(left) = given.checked_sub(fuel) {
        return asking.set_fuel(left);
    }
    let Some(left) = given.saturating_add(asking.data().reserve).checked_sub(fuel) else {
        return Err(wasmi::Error::host(Halt::OutOfGas));
    };
    asking.data_mut().reserve = left;
    asking.set_fuel(0)
}

fn memory(asking: &Asking<'_, '_, '_>) -> Result<Memory, wasmi::Error> {
    asking.data().memory.ok_or_else(fault)
}

fn fault() -> wasmi::Error {
    wasmi::Error::host(Halt::Fault)
}

fn part(from: u32, len: u32) -> Result<std::ops::Range<usize>, wasmi::Error> {
    let end = from.checked_add(len).ok_or_else(fault)?;
    Ok(from as usize..end as usize)
}

fn read(asking: &Asking<'_, '_, '_>, from: u32, len: u32) -> Result<Bytes, wasmi::Error> {
    let bytes = memory(asking)?.data(asking).get(part(from, len)?).ok_or_else(fault)?;
    Ok(Bytes::copy_from_slice(bytes))
}

fn read_array<const N: usize>(asking: &Asking<'_, '_, '_>, from: u32) -> Result<[u8; N], wasmi::Error> {
    let bytes = memory(asking)?.data(asking).get(part(from, N as u32)?).ok_or_else(fault)?;
    bytes.try_into().map_err(|_| fault())
}

fn write(asking: &mut Asking<'_, '_, '_>, to: u32, bytes: &[u8]) -> Result<(), wasmi::Error> {
    let range = part(to, bytes.len() as u32)?;
    let memory = memory(asking)?;
    memory.data_mut(asking).get_mut(range).ok_or_else(fault)?.copy_from_slice(bytes);
    Ok(())
}

/// Keeps why the state could not be read, and ends the run.
fn reach<T>(asking: &mut Asking<'_, '_, '_>, found: Result<T, StoreError>) -> Result<T, wasmi::Error> {
    found.map_err(|error| {
        asking.data_mut().broken = Some(error);
        wasmi::Error::host(Halt::Broken)
    })
}

fn input(mut asking: Asking<'_, '_, '_>, at: u32, to: u32, len: u32) -> Result<(), wasmi::Error> {
    charge(&mut asking, GAS_ASK + GAS_COPY_WORD * words(len))?;
    let bytes = asking.data().input.clone();
    let bytes = bytes.get(part(at, len)?).ok_or_else(fault)?;
    write(&mut asking, to, bytes)
}

fn slot(asking: &mut Asking<'_, '_, '_>, key: [u8; 32]) -> Result<Slot, wasmi::Error> {
    if let Some(slot) = asking.data().slots.get(&key).copied() {
        charge(asking, GAS_ASK + GAS_SLOT_WARM)?;
        return Ok(slot);
    }
    charge(asking, GAS_ASK + GAS_SLOT_COLD)?;
    let host = asking.data_mut();
    let contract = host.contract;
    let found = host.state.storage(&contract, &key);
    let word = reach(asking, found)?;
    let slot = Slot { before: word, now: word };
    asking.data_mut().slots.insert(key, slot);
    Ok(slot)
}

fn storage_read(mut asking: Asking<'_, '_, '_>, key: u32, to: u32) -> Result<(), wasmi::Error> {
    let key = read_array(&asking, key)?;
    let slot = slot(&mut asking, key)?;
    write(&mut asking, to, &slot.now)
}

fn storage_write(mut asking: Asking<'_, '_, '_>, key: u32, word: u32) -> Result<(), wasmi::Error> {
    let (key, word) = (read_array(&asking, key)?, read_array(&asking, word)?);
    let slot = slot(&mut asking, key)?;
    if slot.now == slot.before && word != slot.now {
        charge(&mut asking, if slot.before == [0; 32] { GAS_SLOT_SET } else { GAS_SLOT_RESET })?;
    }
    asking.data_mut().slots.insert(key, Slot { now: word, ..slot });
    Ok(())
}

fn reach_account(asking: &mut Asking<'_, '_, '_>, address: &Address) -> Result<Account, wasmi::Error> {
    let warm = asking.data().accounts.contains_key(address);
    charge(asking, GAS_ASK + if warm { GAS_ACCOUNT_WARM } else { GAS_ACCOUNT_COLD })?;
    let found = asking.data_mut().account(address).copied();
    reach(asking, found)
}

fn balance(mut asking: Asking<'_, '_, '_>, address: u32, to: u32) -> Result<(), wasmi::Error> {
    let address = Address(read_array(&asking, address)?);
    let account = reach_account(&mut asking, &address)?;
    write(&mut asking, to, &account.balance.to_be_bytes())
}

fn transfer(mut asking: Asking<'_, '_, '_>, to: u32, value: u32) -> Result<u32, wasmi::Error> {
    let to = Address(read_array(&asking, to)?);
    let value = u128::from_be_bytes(read_array(&asking, value)?);
    charge(&mut asking, GAS_TRANSFER)?;
    let receiver = reach_account(&mut asking, &to)?;
    let contract = asking.data().contract;
    let own = reach_account(&mut asking, &contract)?;
    let Some(left) = own.balance.checked_sub(value).filter(|_| receiver.contract.is_none()) else {
        return Ok(0);
    };
    if receiver == Account::default() && value > 0 {
        charge(&mut asking, GAS_TRANSFER_NEW)?;
    }
    // All base units together fit, so these do.
    let paid = receiver.balance.checked_add(value).ok_or_else(fault)?;
    let accounts = &mut asking.data_mut().accounts;
    accounts.insert(contract, Account { balance: left, ..own });
    accounts.insert(to, Account { balance: paid, ..receiver });
    Ok(1)
}

fn log(
    mut asking: Asking<'_, '_, '_>,
    topics: u32,
    count: u32,
    data: u32,
    len: u32,
) -> Result<(), wasmi::Error> {
    if count as usize > LOG_TOPICS_MAX {
        return Err(fault());
    }
    charge(&mut asking, GAS_LOG + GAS_LOG_TOPIC * u64::from(count) + GAS_LOG_BYTE * u64::from(len))?;
    let topics = read(&asking, topics, 32 * count)?;
    let topics = topics.as_chunks().0.to_vec();
    let data = read(&asking, data, len)?;
    let address = asking.data().contract;
    asking.data_mut().logs.push(LogEntry { address, topics, data });
    Ok(())
}

fn output(mut asking: Asking<'_, '_, '_>, from: u32, len: u32) -> Result<(), wasmi::Error> {
    charge(&mut asking, GAS_ASK + GAS_COPY_WORD * words(len))?;
    asking.data_mut().output = read(&asking, from, len)?;
    Ok(())
}

fn revert(asking: Asking<'_, '_, '_>, from: u32, len: u32) -> Result<(), wasmi::Error> {
    output(asking, from, len)?;
    Err(wasmi::Error::host(Halt::Reverted))
}

fn hash(
    mut asking: Asking<'_, '_, '_>,
    from: u32,
    len: u32,
    to: u32,
    hash: fn(&[u8]) -> [u8; 32],
) -> Result<(), wasmi::Error> {
    charge(&mut asking, GAS_HASH + GAS_HASH_WORD * words(len))?;
    let digest = hash(memory(&asking)?.data(&asking).get(part(from, len)?).ok_or_else(fault)?);
    write(&mut asking, to, &digest)
}

fn keccak(asking: Asking<'_, '_, '_>, from: u32, len: u32, to: u32) -> Result<(), wasmi::Error> {
    hash(asking, from, len, to, |bytes| keccak256(bytes).0)
}

fn blake(asking: Asking<'_, '_, '_>, from: u32, len: u32, to: u32) -> Result<(), wasmi::Error> {
    hash(asking, from, len, to, |bytes| *blake3::hash(bytes).as_bytes())
}

fn tell<'c, 's, 'p>(
    mut asking: Asking<'c, 's, 'p>,
    to: u32,
    what: impl FnOnce(&Host<'s, 'p>) -> Bytes,
) -> Result<(), wasmi::Error> {
    charge(&mut asking, GAS_ASK)?;
    let bytes = what(asking.data());
    write(&mut asking, to, &bytes)
}

fn caller(asking: Asking<'_, '_, '_>, to: u32) -> Result<(), wasmi::Error> {
    tell(asking, to, |host| Bytes::copy_from_slice(&host.caller.0))
}

fn contract(asking: Asking<'_, '_, '_>, to: u32) -> Result<(), wasmi::Error> {
    tell(asking, to, |host| Bytes::copy_from_slice(&host.contract.0))
}

fn value(asking: Asking<'_, '_, '_>, to: u32) -> Result<(), wasmi::Error> {
    tell(asking, to, |host| Bytes::copy_from_slice(&host.value.to_be_bytes()))
}

fn input_len(mut asking: Asking<'_, '_, '_>) -> Result<u32, wasmi::Error> {
    charge(&mut asking, GAS_ASK)?;
    // At most a transaction's bytes.
    Ok(asking.data().input.len() as u32)
}

fn block_height(mut asking: Asking<'_, '_, '_>) -> Result<u64, wasmi::Error> {
    charge(&mut asking, GAS_ASK)?;
    Ok(asking.data().context.height)
}

fn block_time_ms(mut asking: Asking<'_, '_, '_>) -> Result<u64, wasmi::Error> {
    charge(&mut asking, GAS_ASK)?;
    Ok(asking.data().context.time_unix_ms)
}

fn chain_id(mut asking: Asking<'_, '_, '_>) -> Result<u64, wasmi::Error> {
    charge(&mut asking, GAS_ASK)?;
    Ok(asking.data().context.chain_id)
}

/// The type of a host function; `None` if there is none of this name.
pub(super) fn function_type(name: &str) -> Option<FuncType> {
    let (parameters, result) = match name {
        "input_len" => (0, Some(ValType::I32)),
        "block_height" | "block_time_ms" | "chain_id" => (0, Some(ValType::I64)),
        "caller" | "contract" | "value" => (1, None),
        "transfer" => (2, Some(ValType::I32)),
        "balance" | "storage_read" | "storage_write" | "output" | "revert" => (2, None),
        "input" | "keccak256" | "blake3" => (3, None),
        "log" => (4, None),
        _ => return None,
    };
    Some(FuncType::new(vec![ValType::I32; parameters], result))
}

/// A host function for a run; `None` if there is none of this name.
pub(super) fn function<'s, 'p>(store: &mut Store<Host<'s, 'p>>, name: &str) -> Option<Extern> {
    let func = match name {
        "input_len" => Func::wrap(store, input_len),
        "input" => Func::wrap(store, input),
        "caller" => Func::wrap(store, caller),
        "contract" => Func::wrap(store, contract),
        "value" => Func::wrap(store, value),
        "balance" => Func::wrap(store, balance),
        "transfer" => Func::wrap(store, transfer),
        "storage_read" => Func::wrap(store, storage_read),
        "storage_write" => Func::wrap(store, storage_write),
        "log" => Func::wrap(store, log),
        "output" => Func::wrap(store, output),
        "revert" => Func::wrap(store, revert),
        "keccak256" => Func::wrap(store, keccak),
        "blake3" => Func::wrap(store, blake),
        "block_height" => Func::wrap(store, block_height),
        "block_time_ms" => Func::wrap(store, block_time_ms),
        "chain_id" => Func::wrap(store, chain_id),
        _ => return None,
    };
    Some(Extern::Func(func))
}

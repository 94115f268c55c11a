//! The state as revm reads it, and what it wrote as the state keeps it.

use std::sync::LazyLock;

use ghost_proto::{Address, EngineId};
use revm::{
    Database,
    database_interface::DBErrorMarker,
    primitives::{self, B256, KECCAK_EMPTY, U256},
    state::{AccountInfo, Bytecode},
};

use super::EvmState;
use crate::{
    chain::state::{Account, Contract, WorkingState, code_key},
    engine::{ExecuteError, NotIncludable, cache::CodeCache},
    store::StoreError,
};

impl DBErrorMarker for StoreError {}

/// Bytes of code that is kept with its jump destinations: 1,200 contracts of the largest size.
const ANALYSED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Code as the machine runs it. To find its jump destinations reads all of it.
static ANALYSED: LazyLock<CodeCache<Bytecode>> = LazyLock::new(|| CodeCache::new(ANALYSED_BYTES_MAX));

/// What analysed code takes: itself padded with zeros, a bit for each byte, and its handles.
const fn analysed_bytes(code_bytes: usize) -> usize {
    code_bytes + code_bytes / 8 + 256
}

/// An address as the machine writes it.
pub(super) fn to_evm(address: &Address) -> primitives::Address {
    primitives::Address(address.0.into())
}

/// An address of the machine.
pub(super) fn from_evm(address: &primitives::Address) -> Address {
    Address(address.0.0)
}

/// Reads a [`WorkingState`].
pub(super) struct StateDatabase<'s, 'p>(pub(super) &'s mut WorkingState<'p>);

impl Database for StateDatabase<'_, '_> {
    type Error = StoreError;

    fn basic(&mut self, address: primitives::Address) -> Result<Option<AccountInfo>, StoreError> {
        let account = self.0.account(&from_evm(&address))?;
        if account == Account::default() {
            return Ok(None);
        }
        let code_hash = match &account.contract {
            Some(contract) if contract.engine == EngineId::EVM => B256::from(contract.code_hash),
            _ => KECCAK_EMPTY,
        };
        Ok(Some(AccountInfo {
            balance: U256::from(account.balance),
            nonce: account.nonce,
            code_hash,
            // Loaded when it is run; the default says that there is none.
            code: None,
            ..Default::default()
        }))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StoreError> {
        if code_hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        if let Some(code) = ANALYSED.get(&code_hash.0) {
            return Ok(code);
        }
        let code = self
            .0
            .get(&code_key(&code_hash.0))?
            .ok_or_else(|| StoreError::damaged(format!("the code {code_hash} of a contract is missing")))?;
        let bytecode = Bytecode::new_legacy(primitives::Bytes::copy_from_slice(&code));
        ANALYSED.put(code_hash.0, bytecode.clone(), analysed_bytes(code.len()));
        Ok(bytecode)
    }

    fn storage(&mut self, address: primitives::Address, index: U256) -> Result<U256, StoreError> {
        Ok(U256::from_be_bytes(self.0.storage(&from_evm(&address), &index.to_be_bytes())?))
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StoreError> {
        Ok(self.0.ancestor(number)?.map(|id| B256::from(id.0)).unwrap_or_default())
    }
}

/// Keeps what a run wrote, and pays `extra` base units to `payee`, and from `payer` what stands beside
/// it. On an error nothing was written.
pub(super) fn apply(
    state: &mut WorkingState<'_>,
    written: &EvmState,
    payee: &Address,
    extra: u128,
    (payer, owed): (Address, u128),
) -> Result<(), ExecuteError> {
    let mut accounts = Vec::with_capacity(written.len() + 1);
    for (address, account) in written.iter().filter(|(_, account)| account.is_touched()) {
        let address = from_evm(address);
        let before = state.account(&address)?;
        let after = if account.is_selfdestructed() {
            Account::default()
        } else {
            let contract = if account.info.is_empty_code_hash() {
                before.contract
            } else {
                Some(Contract { engine: EngineId::EVM, code_hash: account.info.code_hash.0 })
            };
            Account {
                nonce: account.info.nonce,
                balance: account.info.balance.try_into().map_err(|_| NotIncludable::Overflow)?,
                contract,
            }
        };
        accounts.push((address, after, account));
    }
    if owed > 0 {
        // The sender of a transaction is always among what it wrote: its nonce is.
        let paying = accounts.iter_mut().find(|(address, ..)| *address == payer);
        let (_, account, _) = paying.ok_or(NotIncludable::Overflow)?;
        account.balance = account.balance.checked_sub(owed).ok_or(NotIncludable::Overflow)?;
    }
    let extra = extra.checked_add(owed).ok_or(NotIncludable::Overflow)?;
    let mut paid = match accounts.iter().find(|(address, ..)| address == payee) {
        Some((_, account, _)) => *account,
        None => state.account(payee)?,
    };
    paid.balance = paid.balance.checked_add(extra).ok_or(NotIncludable::Overflow)?;

    for (address, after, account) in accounts {
        state.set_account(&address, &after)?;
        if account.is_selfdestructed() {
            // Only what was made in the same transaction can go: it has no storage yet.
            continue;
        }
        if account.is_created()
            && let (Some(contract), Some(code)) = (&after.contract, &account.info.code)
        {
            state.put(&code_key(&contract.code_hash), Some(code.original_byte_slice()))?;
        }
        for (slot, word) in account.changed_storage_slots() {
            state.set_storage(&address, &slot.to_be_bytes(), &word.present_value().to_be_bytes())?;
        }
    }
    state.set_account(payee, &paid)?;
    Ok(())
}

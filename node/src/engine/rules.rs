//! What every transaction must satisfy and pay, whatever runs it.
//!
//! The gas rules are Ethereum's (yellow paper, `G_transaction`, `G_txdatazero`, `G_txcreate`; EIP-2028
//! for the non-zero byte, EIP-3860 for init code, EIP-7623 for the floor of calls with much input).
//! Gas is bought first: a sender must own the whole gas limit times the price. What was not used
//! costs nothing.

use bytes::Bytes;
use ghost_proto::{
    Action, Outcome, Receipt, SignedTransaction, Transaction, limits::RECEIPT_OUTPUT_BYTES_MAX,
    price::REPORT_LEN,
};

use super::{BlockContext, ExecuteError, NotIncludable, orders::GAS_ORDER};
use crate::chain::state::{Account, WorkingState};

/// Gas of every transaction.
pub const GAS_TRANSACTION: u64 = 21_000;
/// Gas of each payload byte that is not zero.
pub const GAS_PER_NONZERO_BYTE: u64 = 16;
/// Gas of each payload byte that is zero.
pub const GAS_PER_ZERO_BYTE: u64 = 4;
/// Gas of each signed report in a batch of prices, as for the EVM's ECRECOVER. Nobody pays it; it takes its
/// share of the block.
const GAS_PER_REPORT: u64 = 3_000;
/// Gas of each deployment, on top.
const GAS_CREATE: u64 = 32_000;
/// Gas of each 32 bytes of code to deploy, on top.
const GAS_PER_CODE_WORD: u64 = 2;
/// Least gas of each input byte of a contract's transaction that is not zero, execution included.
const GAS_FLOOR_PER_NONZERO_BYTE: u64 = 40;
/// Least gas of each zero byte of the same.
const GAS_FLOOR_PER_ZERO_BYTE: u64 = 10;

/// Gas a transaction takes by its kind and size alone: at most 21,000 + 40 × 131,072 = 5,263,880.
pub fn intrinsic_gas(tx: &Transaction) -> u64 {
    match &tx.action {
        Action::Transfer { payload, .. } => gas_of_payload(payload),
        Action::Call { input, .. } => contract_gas(&[input], false),
        Action::Deploy { code, input, .. } => contract_gas(&[code, input], true),
        Action::Place { .. } | Action::Cancel { .. } | Action::Replace { .. } => GAS_TRANSACTION + GAS_ORDER,
        Action::Prices { batch } => {
            let reports = (batch.len() / REPORT_LEN) as u64;
            gas_of_payload(batch) + GAS_PER_REPORT * reports
        }
    }
}

/// What a mempool asks of a transaction: as [`intrinsic_gas`], and more than there is for one that only the
/// proposer of a block may put there.
pub fn gas_to_wait(tx: &Transaction) -> u64 {
    match tx.action {
        Action::Prices { .. } => u64::MAX,
        _ => intrinsic_gas(tx),
    }
}

/// The same for a call that is not a transaction yet.
pub fn intrinsic_gas_of_call(call: &ghost_proto::Call) -> u64 {
    contract_gas(&[&call.input], call.to.is_none())
}

/// The same for a transfer with this payload that is not made yet.
pub fn gas_of_payload(payload: &[u8]) -> u64 {
    by_bytes(&[payload], GAS_PER_ZERO_BYTE, GAS_PER_NONZERO_BYTE)
}

fn by_bytes(parts: &[&[u8]], zero: u64, nonzero: u64) -> u64 {
    let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let zeros = parts.iter().flat_map(|part| part.iter()).filter(|byte| **byte == 0).count() as u64;
    GAS_TRANSACTION + nonzero * (len - zeros) + zero * zeros
}

/// Gas that a contract's transaction takes at least, with what it carries in parts.
pub(super) fn contract_gas(parts: &[&[u8]], creates: bool) -> u64 {
    let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let create = if creates { GAS_CREATE + GAS_PER_CODE_WORD * len.div_ceil(32) } else { 0 };
    let base = by_bytes(parts, GAS_PER_ZERO_BYTE, GAS_PER_NONZERO_BYTE) + create;
    base.max(by_bytes(parts, GAS_FLOOR_PER_ZERO_BYTE, GAS_FLOOR_PER_NONZERO_BYTE))
}

/// A sender that can pay for its gas, as it stands before anything is taken.
pub(super) struct Bought {
    pub(super) sender: Account,
    /// Intrinsic gas.
    pub(super) gas: u64,
}

/// Checks all that makes a transaction includable. Changes nothing.
pub(super) fn buy_gas(
    tx: &SignedTransaction,
    state: &mut WorkingState<'_>,
    context: &BlockContext,
) -> Result<Bought, ExecuteError> {
    let body = tx.body();
    if body.chain_id != context.chain_id {
        return Err(NotIncludable::OtherChain { found: body.chain_id, expected: context.chain_id }.into());
    }
    if body.gas_price < context.gas_price_min {
        return Err(NotIncludable::GasPrice { found: body.gas_price, least: context.gas_price_min }.into());
    }
    let gas = intrinsic_gas(body);
    if body.gas_limit < gas {
        return Err(NotIncludable::GasLimit { limit: body.gas_limit, needed: gas }.into());
    }
    // What a contract or an order will use is known only afterwards.
    let needed = match body.action {
        Action::Transfer { .. } | Action::Prices { .. } => gas,
        _ => body.gas_limit,
    };
    if needed > context.gas_left {
        return Err(NotIncludable::BlockFull { needed, left: context.gas_left }.into());
    }
    let sender = state.account(&tx.sender())?;
    if body.nonce != sender.nonce {
        return Err(NotIncludable::Nonce { found: body.nonce, expected: sender.nonce }.into());
    }
    // Two factors below 2^64 cannot overflow 128 bits.
    let needed = u128::from(body.gas_limit) * u128::from(body.gas_price);
    if sender.balance < needed {
        return Err(NotIncludable::CannotBuyGas { balance: sender.balance, needed }.into());
    }
    if sender.nonce == u64::MAX {
        return Err(NotIncludable::Overflow.into());
    }
    Ok(Bought { sender, gas })
}

/// Takes the intrinsic gas of a transaction that does nothing else.
pub(super) fn fail(
    tx: &SignedTransaction,
    state: &mut WorkingState<'_>,
    context: &BlockContext,
    outcome: Outcome,
) -> Result<Receipt, ExecuteError> {
    let Bought { mut sender, gas } = buy_gas(tx, state, context)?;
    charge(tx, &mut sender, state, context, gas)?;
    Ok(Receipt::plain(outcome, gas))
}

/// The same for code that is not taken, with why: the receipt's output says it.
pub(super) fn refuse_code(
    tx: &SignedTransaction,
    state: &mut WorkingState<'_>,
    context: &BlockContext,
    why: &str,
) -> Result<Receipt, ExecuteError> {
    let mut receipt = fail(tx, state, context, Outcome::CodeRefused)?;
    let mut end = why.len().min(RECEIPT_OUTPUT_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    receipt.output = Bytes::copy_from_slice(&why.as_bytes()[..end]);
    Ok(receipt)
}

/// Takes gas from the sender, advances its nonce and pays the proposer. On an error nothing changed.
pub(super) fn charge(
    tx: &SignedTransaction,
    sender: &mut Account,
    state: &mut WorkingState<'_>,
    context: &BlockContext,
    gas: u64,
) -> Result<(), ExecuteError> {
    let fee = u128::from(gas) * u128::from(tx.body().gas_price);
    sender.nonce = sender.nonce.checked_add(1).ok_or(NotIncludable::Overflow)?;
    sender.balance = sender.balance.checked_sub(fee).ok_or(NotIncludable::Overflow)?;
    let itself = context.proposer == tx.sender();
    let mut proposer = if itself { *sender } else { state.account(&context.proposer)? };
    proposer.balance = proposer.balance.checked_add(fee).ok_or(NotIncludable::Overflow)?;
    state.set_account(&tx.sender(), sender)?;
    state.set_account(&context.proposer, &proposer)?;
    Ok(())
}

//! Native transfers.
//!
//! The gas rules are Ethereum's for a plain transaction (yellow paper, `G_transaction`,
//! `G_txdatazero`; EIP-2028 for the non-zero byte). Gas is bought first: a sender must own the whole
//! gas limit times the price. What was not used costs nothing; the fee goes to the proposer at once.

use ghost_proto::{Action, Outcome, Receipt, SignedTransaction, Transaction};

use super::{BlockContext, Engine, ExecuteError, NotIncludable};
use crate::chain::state::WorkingState;

/// Gas of every transaction.
pub const GAS_TRANSACTION: u64 = 21_000;
/// Gas of each payload byte that is not zero.
pub const GAS_PER_NONZERO_BYTE: u64 = 16;
/// Gas of each payload byte that is zero.
pub const GAS_PER_ZERO_BYTE: u64 = 4;

/// Gas a transaction takes by its size alone: at most 21,000 + 16 × 131,072 = 2,118,152.
pub fn intrinsic_gas(tx: &Transaction) -> u64 {
    gas_of_payload(tx.payload())
}

/// The same for a transfer with this payload that is not made yet.
pub fn gas_of_payload(payload: &[u8]) -> u64 {
    let zeros = payload.iter().filter(|byte| **byte == 0).count() as u64;
    let others = payload.len() as u64 - zeros;
    GAS_TRANSACTION + GAS_PER_NONZERO_BYTE * others + GAS_PER_ZERO_BYTE * zeros
}

/// Moves base units between accounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transfers;

impl Engine for Transfers {
    fn gas_least(&self, tx: &SignedTransaction) -> u64 {
        intrinsic_gas(tx.body())
    }

    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let body = tx.body();
        if body.chain_id != context.chain_id {
            return Err(NotIncludable::OtherChain { found: body.chain_id, expected: context.chain_id }.into());
        }
        if body.gas_price < context.gas_price_min {
            return Err(
                NotIncludable::GasPrice { found: body.gas_price, least: context.gas_price_min }.into()
            );
        }
        let gas = intrinsic_gas(body);
        if body.gas_limit < gas {
            return Err(NotIncludable::GasLimit { limit: body.gas_limit, needed: gas }.into());
        }
        if gas > context.gas_left {
            return Err(NotIncludable::BlockFull { needed: gas, left: context.gas_left }.into());
        }
        let mut sender = state.account(&tx.sender())?;
        if body.nonce != sender.nonce {
            return Err(NotIncludable::Nonce { found: body.nonce, expected: sender.nonce }.into());
        }
        // Two factors below 2^64 cannot overflow 128 bits.
        let needed = u128::from(body.gas_limit) * u128::from(body.gas_price);
        if sender.balance < needed {
            return Err(NotIncludable::CannotBuyGas { balance: sender.balance, needed }.into());
        }
        let fee = u128::from(gas) * u128::from(body.gas_price);
        sender.nonce = sender.nonce.checked_add(1).ok_or(NotIncludable::Overflow)?;
        sender.balance = sender.balance.checked_sub(fee).ok_or(NotIncludable::Overflow)?;

        let Action::Transfer { to, value, .. } = &body.action;
        let paid = sender.balance.checked_sub(*value);
        let mut receiver = None;
        if let Some(rest) = paid
            && *to != tx.sender()
        {
            let mut account = state.account(to)?;
            account.balance = account.balance.checked_add(*value).ok_or(NotIncludable::Overflow)?;
            sender.balance = rest;
            receiver = Some(account);
        }
        // Proposer last, read from what the accounts above have become. The sum of all balances never
        // exceeds 2^128 − 1, so that this cannot overflow after something was written; it is checked
        // before, all the same.
        let mut proposer = if context.proposer == tx.sender() {
            sender
        } else if let Some(account) = receiver
            && context.proposer == *to
        {
            account
        } else {
            state.account(&context.proposer)?
        };
        proposer.balance = proposer.balance.checked_add(fee).ok_or(NotIncludable::Overflow)?;

        state.set_account(&tx.sender(), &sender)?;
        if let Some(account) = receiver {
            state.set_account(to, &account)?;
        }
        state.set_account(&context.proposer, &proposer)?;
        let outcome = if paid.is_some() { Outcome::Done } else { Outcome::InsufficientBalance };
        Ok(Receipt { outcome, gas_used: gas })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        chain::state::{Account, BlockState, Snapshot},
        store::{MemoryStore, Records},
    };
    use bytes::Bytes;
    use ghost_proto::{Address, KeyPair};
    use proptest::prelude::*;

    const PROPOSER: Address = Address([0xee; 20]);

    fn key(seed: u8) -> KeyPair {
        KeyPair::from_seed(&[seed; 32])
    }

    fn context() -> BlockContext {
        BlockContext {
            chain_id: 7,
            height: 1,
            slot: 1,
            time_unix_ms: 0,
            proposer: PROPOSER,
            gas_price_min: 2,
            gas_left: 1_000_000,
        }
    }

    fn empty() -> BlockState {
        BlockState {
            snapshot: Snapshot::of_finalized(Records::new(Arc::new(MemoryStore::new()))),
            lthash: Arc::default(),
            changed: Arc::new([]),
        }
    }

    fn transfer(to: Address, value: u128) -> Transaction {
        Transaction {
            chain_id: 7,
            sender_key: key(1).public(),
            nonce: 0,
            gas_limit: 21_000,
            gas_price: 2,
            action: Action::Transfer { to, value, payload: Bytes::new() },
        }
    }

    /// Runs one transaction of key 1 with a balance; gives the receipt and the three accounts.
    fn run(
        tx: Transaction,
        balance: u128,
        context: &BlockContext,
    ) -> Result<(Receipt, Account, Account, Account), ExecuteError> {
        let parent = empty();
        let mut state = WorkingState::new(&parent);
        let sender = key(1).address();
        state.set_account(&sender, &Account { nonce: 0, balance }).unwrap();
        let Action::Transfer { to, .. } = &tx.action;
        let to = *to;
        let receipt = Transfers.execute(&tx.sign(&key(1)).unwrap(), &mut state, context)?;
        let mut account = |address| state.account(address).unwrap();
        Ok((receipt, account(&sender), account(&to), account(&context.proposer)))
    }

    fn refused(tx: Transaction, balance: u128, context: &BlockContext) -> NotIncludable {
        match run(tx, balance, context) {
            Err(ExecuteError::NotIncludable(reason)) => reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn value_moves_and_the_fee_goes_to_the_proposer() {
        let (receipt, sender, to, proposer) =
            run(transfer(Address([9; 20]), 1_000), 100_000, &context()).unwrap();
        assert_eq!(receipt, Receipt { outcome: Outcome::Done, gas_used: 21_000 });
        assert_eq!(sender, Account { nonce: 1, balance: 100_000 - 42_000 - 1_000 });
        assert_eq!(to.balance, 1_000);
        assert_eq!(proposer.balance, 42_000);
    }

    #[test]
    fn each_rule_from_both_sides() {
        let to = Address([9; 20]);
        let base = || transfer(to, 0);
        let ok = |tx, balance| run(tx, balance, &context()).unwrap().0.outcome;

        assert_eq!(ok(base(), 42_000), Outcome::Done);
        assert_eq!(
            refused(base(), 41_999, &context()),
            NotIncludable::CannotBuyGas { balance: 41_999, needed: 42_000 }
        );
        assert_eq!(
            refused(Transaction { gas_limit: 20_999, ..base() }, 1 << 40, &context()),
            NotIncludable::GasLimit { limit: 20_999, needed: 21_000 }
        );
        assert_eq!(
            refused(Transaction { gas_price: 1, ..base() }, 1 << 40, &context()),
            NotIncludable::GasPrice { found: 1, least: 2 }
        );
        assert_eq!(
            refused(Transaction { nonce: 1, ..base() }, 1 << 40, &context()),
            NotIncludable::Nonce { found: 1, expected: 0 }
        );
        assert_eq!(
            refused(Transaction { chain_id: 8, ..base() }, 1 << 40, &context()),
            NotIncludable::OtherChain { found: 8, expected: 7 }
        );
        let full = BlockContext { gas_left: 20_999, ..context() };
        assert_eq!(
            refused(base(), 1 << 40, &full),
            NotIncludable::BlockFull { needed: 21_000, left: 20_999 }
        );
        let just = BlockContext { gas_left: 21_000, ..context() };
        assert!(run(base(), 1 << 40, &just).is_ok());

        // The value is what is left after the fee, and one more.
        assert_eq!(ok(transfer(to, 58_000), 100_000), Outcome::Done);
        let (receipt, sender, receiver, proposer) = run(transfer(to, 58_001), 100_000, &context()).unwrap();
        assert_eq!(receipt.outcome, Outcome::InsufficientBalance);
        assert_eq!(sender, Account { nonce: 1, balance: 58_000 });
        assert_eq!((receiver.balance, proposer.balance), (0, 42_000));
    }

    #[test]
    fn gas_is_bought_first_and_the_rest_comes_back() {
        let tx = Transaction { gas_limit: 50_000, ..transfer(Address([9; 20]), 0) };
        assert!(matches!(
            refused(tx.clone(), 99_999, &context()),
            NotIncludable::CannotBuyGas { needed: 100_000, .. }
        ));
        assert_eq!(run(tx, 100_000, &context()).unwrap().1.balance, 58_000);
        let whale = Transaction { gas_limit: u64::MAX, gas_price: u64::MAX, ..transfer(Address([9; 20]), 0) };
        assert!(matches!(refused(whale, u128::MAX >> 1, &context()), NotIncludable::CannotBuyGas { .. }));
    }

    #[test]
    fn payload_bytes_cost_by_kind() {
        let action = Action::Transfer {
            to: Address([9; 20]),
            value: 0,
            payload: Bytes::from_static(&[0, 1, 0, 255, 7]),
        };
        let tx = Transaction { gas_limit: 21_056, action, ..transfer(Address([9; 20]), 0) };
        assert_eq!(run(tx.clone(), 1 << 40, &context()).unwrap().0.gas_used, 21_056);
        let less = Transaction { gas_limit: 21_055, ..tx };
        assert!(matches!(refused(less, 1 << 40, &context()), NotIncludable::GasLimit { needed: 21_056, .. }));
    }

    #[test]
    fn accounts_that_coincide_lose_and_gain_nothing() {
        let sender = key(1).address();
        let (_, to_self, ..) = run(transfer(sender, 500), 100_000, &context()).unwrap();
        assert_eq!(to_self, Account { nonce: 1, balance: 58_000 });
        let own = BlockContext { proposer: sender, ..context() };
        let (_, all, ..) = run(transfer(sender, 500), 100_000, &own).unwrap();
        assert_eq!(all, Account { nonce: 1, balance: 100_000 });
        let (_, sender, _, proposer) = run(transfer(PROPOSER, 500), 100_000, &context()).unwrap();
        assert_eq!((sender.balance, proposer.balance), (57_500, 42_500));
    }

    proptest! {
        #[test]
        fn supply_is_conserved(
            moves in proptest::collection::vec((0u8..4, 0u8..5, 0u128..200_000, 2u64..6), 1..40),
            proposer in 0u8..5,
        ) {
            let address = |n: u8| if n == 4 { PROPOSER } else { key(n).address() };
            let parent = empty();
            let mut state = WorkingState::new(&parent);
            for n in 0..4 {
                state.set_account(&address(n), &Account { nonce: 0, balance: 300_000 }).unwrap();
            }
            let mut nonces = [0u64; 4];
            let context = BlockContext { proposer: address(proposer), gas_left: u64::MAX, ..context() };
            for (from, to, value, gas_price) in moves {
                let tx = Transaction {
                    sender_key: key(from).public(),
                    nonce: nonces[usize::from(from)],
                    gas_price,
                    ..transfer(address(to), value)
                }.sign(&key(from)).unwrap();
                if Transfers.execute(&tx, &mut state, &context).is_ok() {
                    nonces[usize::from(from)] += 1;
                }
                let total: u128 = (0..5).map(|n| state.account(&address(n)).unwrap().balance).sum();
                prop_assert_eq!(total, 1_200_000);
            }
        }
    }
}

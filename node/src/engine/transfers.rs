//! Native transfers.
//!
//! A transfer uses exactly its intrinsic gas. The fee goes to the proposer at once.

use ghost_proto::{Action, Outcome, Receipt, SignedTransaction};

use super::{
    BlockContext, Engine, ExecuteError, NotIncludable,
    rules::{self, Bought},
};
use crate::chain::state::WorkingState;

/// Moves base units between accounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transfers;

impl Engine for Transfers {
    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let body = tx.body();
        let Action::Transfer { to, value, .. } = &body.action else {
            return Err(NotIncludable::OtherEngine.into());
        };
        let Bought { mut sender, gas } = rules::buy_gas(tx, state, context)?;
        let fee = u128::from(gas) * u128::from(body.gas_price);
        sender.nonce = sender.nonce.checked_add(1).ok_or(NotIncludable::Overflow)?;
        sender.balance = sender.balance.checked_sub(fee).ok_or(NotIncludable::Overflow)?;

        let mut outcome = Outcome::Done;
        let mut receiver = None;
        let paid = sender.balance.checked_sub(*value);
        if paid.is_none() {
            outcome = Outcome::InsufficientBalance;
        } else if *to != tx.sender() {
            let account = state.account(to)?;
            if account.contract.is_some() {
                outcome = Outcome::ToContract;
            } else {
                receiver = Some(account);
            }
        }
        if let (Some(rest), Some(account)) = (paid, &mut receiver) {
            account.balance = account.balance.checked_add(*value).ok_or(NotIncludable::Overflow)?;
            sender.balance = rest;
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
        Ok(Receipt::plain(outcome, gas))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        chain::state::{Account, BlockState, NoAncestors, Snapshot},
        store::{MemoryStore, Records},
    };
    use bytes::Bytes;
    use ghost_proto::{Address, KeyPair, Transaction};
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
            dex: Default::default(),
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
        let mut state = WorkingState::new(&parent, &NoAncestors);
        let sender = key(1).address();
        state.set_account(&sender, &Account::plain(0, balance)).unwrap();
        let to = match &tx.action {
            Action::Transfer { to, .. } => *to,
            other => panic!("{other:?}"),
        };
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
        assert_eq!(receipt, Receipt::plain(Outcome::Done, 21_000));
        assert_eq!(sender, Account::plain(1, 100_000 - 42_000 - 1_000));
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
        assert_eq!(sender, Account::plain(1, 58_000));
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
        assert_eq!(to_self, Account::plain(1, 58_000));
        let own = BlockContext { proposer: sender, ..context() };
        let (_, all, ..) = run(transfer(sender, 500), 100_000, &own).unwrap();
        assert_eq!(all, Account::plain(1, 100_000));
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
            let mut state = WorkingState::new(&parent, &NoAncestors);
            for n in 0..4 {
                state.set_account(&address(n), &Account::plain(0, 300_000)).unwrap();
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

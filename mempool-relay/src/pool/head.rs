//! What a new canonical head does to the pool.

use std::{
    collections::{BTreeSet, HashSet},
    time::Instant,
};

use ghost_proto::{Address, TxId, VerifiedTransaction};

use super::{AccountState, Accounts, Inserted, Place, Pool, Removal};

/// A move of the canonical head.
#[derive(Debug, Clone, Default)]
pub struct HeadChange {
    /// Transactions of the blocks that are canonical now and were not before.
    pub included: Vec<TxId>,
    /// Transactions of the blocks that were canonical and no longer are.
    pub reverted: Vec<VerifiedTransaction>,
    /// Accounts whose nonce or balance differs between the old head and the new one; those that are
    /// not listed are not looked up again. Senders of `reverted` need not be listed.
    pub touched: Vec<Address>,
}

/// What the move changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadOutcome {
    /// What is ready and was not: freed by an included parent, or brought back from a reverted block.
    pub ready: Vec<TxId>,
    /// What left.
    pub removed: Vec<(TxId, Removal)>,
}

impl Pool {
    /// Follows the canonical head: drops what is included or can no longer be, takes reverted
    /// transactions back, makes ready what an inclusion freed. `accounts` is the state at the *new*
    /// head. Costs O(waiting transactions of the touched senders).
    pub fn on_head_change(
        &mut self,
        change: HeadChange,
        accounts: &impl Accounts,
        now: Instant,
    ) -> HeadOutcome {
        self.floor.settle(self.is_half_empty(), now);
        let included: HashSet<TxId> = change.included.iter().copied().collect();
        let mut touched: BTreeSet<Address> = change.touched.into_iter().collect();
        touched.extend(change.included.iter().filter_map(|id| self.index.get(id)).map(|(sender, _)| *sender));
        touched.extend(change.reverted.iter().map(|tx| tx.sender()));
        let mut outcome = HeadOutcome::default();
        for address in touched {
            if self.senders.contains_key(&address) {
                self.refresh(address, accounts.account(&address), &included, &mut outcome);
            }
        }

        let mut reverted: Vec<_> =
            change.reverted.into_iter().filter(|tx| !included.contains(&tx.id())).collect();
        reverted.sort_by_key(|tx| (tx.sender(), tx.body().nonce));
        let mut inserted = Inserted { place: Place::Ready, ready: Vec::new(), removed: Vec::new() };
        for tx in reverted {
            // It was good enough for a block; what the pool asks today does not matter.
            if !self.index.contains_key(&tx.id())
                && let Ok(cost) = self.check_rules(&tx)
            {
                let _ = self.admit(tx, cost, accounts, now, &mut inserted);
            }
        }
        outcome.ready.append(&mut inserted.ready);
        outcome.removed.append(&mut inserted.removed);
        self.trim(now, &mut outcome.removed);
        outcome.ready.retain(|id| self.index.contains_key(id));
        outcome
    }

    /// Brings one sender in line with its account.
    fn refresh(
        &mut self,
        address: Address,
        account: AccountState,
        included: &HashSet<TxId>,
        outcome: &mut HeadOutcome,
    ) {
        self.unlink(&address);
        let Some(sender) = self.senders.get_mut(&address) else { return };
        sender.account = account;
        // Counted anew by `promote`; the flags of the entries say what they were.
        sender.ready = 0;
        let stale: Vec<u64> = sender.txs.range(..account.nonce).map(|(nonce, _)| *nonce).collect();
        let mut spent = 0u128;
        let unpayable = sender.txs.range(account.nonce..).find_map(|(nonce, entry)| {
            spent = spent.saturating_add(entry.cost);
            (spent > account.balance).then_some(*nonce)
        });
        for nonce in stale {
            let id = self.take(&address, nonce).tx.id();
            let why = if included.contains(&id) { Removal::Included } else { Removal::Stale };
            outcome.removed.push((id, why));
        }
        if let Some(from) = unpayable {
            let rest: Vec<u64> = self.senders[&address].txs.range(from..).map(|(nonce, _)| *nonce).collect();
            for nonce in rest {
                outcome.removed.push((self.take(&address, nonce).tx.id(), Removal::Unpayable));
            }
        }
        let sender = &self.senders[&address];
        let was_ready: HashSet<TxId> =
            sender.txs.values().filter(|entry| entry.ready).map(|entry| entry.tx.id()).collect();
        let gap = (account.nonce..).find(|nonce| !sender.txs.contains_key(nonce)).unwrap_or(u64::MAX);
        let beyond: Vec<u64> = sender.txs.range(gap..).map(|(nonce, _)| *nonce).collect();
        for nonce in beyond {
            self.set_ready(&address, nonce, false);
        }
        let mut ready = Vec::new();
        self.promote(address, &mut ready);
        outcome.ready.extend(ready.into_iter().filter(|id| !was_ready.contains(id)));
    }
}

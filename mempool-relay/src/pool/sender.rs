//! What one account has waiting.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_proto::{Address, VerifiedTransaction};

use super::AccountState;

/// Best price first, then first come.
pub(super) type HeadKey = (Reverse<u64>, u64, Address);
/// Worst first: lowest worth, then last come.
pub(super) type TailKey = (u64, Reverse<u64>, Address);
/// Most parked bytes last, among equals the lowest price.
pub(super) type HolderKey = (usize, Reverse<u64>, Address);

pub(super) struct Entry {
    pub(super) tx: VerifiedTransaction,
    /// Bytes it counts for.
    pub(super) charge: usize,
    /// Most it can cost its sender.
    pub(super) cost: u128,
    /// Lowest gas price on the way to it: what a proposer must accept to reach it. Never rises along
    /// a sender's nonces, so the worst of a sender is always its last. Only for ready ones.
    pub(super) worth: u64,
    /// Order of arrival.
    pub(super) seq: u64,
    pub(super) arrived: Instant,
    pub(super) ready: bool,
}

impl Entry {
    pub(super) fn price(&self) -> u64 {
        self.tx.body().gas_price
    }

    pub(super) fn expiry_key(&self, lifetime: Duration, parked_lifetime: Duration) -> (Instant, u64) {
        (self.arrived + if self.ready { lifetime } else { parked_lifetime }, self.seq)
    }
}

/// The waiting transactions of one sender. The first `ready` nonces from the account's nonce on are
/// all there; whatever is beyond the first gap is parked.
pub(super) struct Sender {
    pub(super) account: AccountState,
    pub(super) txs: BTreeMap<u64, Entry>,
    pub(super) ready: usize,
    /// Sum over all entries; at most the balance.
    pub(super) cost: u128,
    pub(super) parked_bytes: usize,
}

impl Sender {
    pub(super) fn new(account: AccountState) -> Self {
        Self { account, txs: BTreeMap::new(), ready: 0, cost: 0, parked_bytes: 0 }
    }

    /// The nonce after the ready ones.
    pub(super) fn next_nonce(&self) -> u64 {
        self.account.nonce.saturating_add(self.ready as u64)
    }

    fn head(&self) -> Option<&Entry> {
        (self.ready > 0).then(|| &self.txs[&self.account.nonce])
    }

    pub(super) fn tail(&self) -> Option<&Entry> {
        (self.ready > 0).then(|| &self.txs[&(self.next_nonce() - 1)])
    }

    pub(super) fn last_parked(&self) -> Option<&Entry> {
        self.txs.last_key_value().map(|(_, entry)| entry).filter(|entry| !entry.ready)
    }

    /// What a ready transaction at the end would be worth.
    pub(super) fn worth_of_next(&self, price: u64) -> u64 {
        self.tail().map_or(price, |tail| tail.worth.min(price))
    }

    pub(super) fn head_key(&self, address: Address) -> Option<HeadKey> {
        self.head().map(|head| (Reverse(head.price()), head.seq, address))
    }

    pub(super) fn tail_key(&self, address: Address) -> Option<TailKey> {
        self.tail().map(|tail| (tail.worth, Reverse(tail.seq), address))
    }

    pub(super) fn holder_key(&self, address: Address) -> Option<HolderKey> {
        self.last_parked().map(|last| (self.parked_bytes, Reverse(last.price()), address))
    }
}

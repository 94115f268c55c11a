//! Best price first, each sender in nonce order.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, btree_set},
};

use ghost_proto::{Address, VerifiedTransaction};

use super::{
    Pool,
    sender::{Entry, HeadKey},
};

/// How many ready senders in a row may not fit into a block before the search ends. Each costs one
/// step of O(log n); behind so many misses a fit is not worth the proposer's time.
const MISSES_MAX: usize = 256;

/// Walks the ready transactions: the best head among all senders, then the one that follows it with
/// the same sender if [`Self::follow`] is called, and so on. The heads are kept sorted by the pool;
/// only followers go through a heap, so that the first k of n cost O(k log k).
pub(super) struct BestFirst<'a> {
    pool: &'a Pool,
    heads: btree_set::Iter<'a, HeadKey>,
    next_head: Option<&'a HeadKey>,
    followers: BinaryHeap<(Reverse<HeadKey>, u64)>,
}

/// A step of the walk.
pub(super) struct Step<'a> {
    pub(super) entry: &'a Entry,
    pub(super) address: Address,
    nonce: u64,
}

impl<'a> BestFirst<'a> {
    pub(super) fn new(pool: &'a Pool) -> Self {
        let mut heads = pool.heads.iter();
        let next_head = heads.next();
        Self { pool, heads, next_head, followers: BinaryHeap::new() }
    }

    pub(super) fn step(&mut self) -> Option<Step<'a>> {
        let follower_first = match (self.next_head, self.followers.peek()) {
            (None, None) => return None,
            (Some(head), Some((Reverse(follower), _))) => follower < head,
            (head, _) => head.is_none(),
        };
        let (address, nonce) = if follower_first {
            let (Reverse((_, _, address)), nonce) = self.followers.pop()?;
            (address, nonce)
        } else {
            let (_, _, address) = *self.next_head?;
            self.next_head = self.heads.next();
            (address, self.pool.senders[&address].account.nonce)
        };
        Some(Step { entry: &self.pool.senders[&address].txs[&nonce], address, nonce })
    }

    /// Lets the transaction after `step` take part.
    pub(super) fn follow(&mut self, step: &Step<'_>) {
        let nonce = step.nonce + 1;
        if let Some(entry) = self.pool.senders[&step.address].txs.get(&nonce).filter(|entry| entry.ready) {
            self.followers.push((Reverse((Reverse(entry.price()), entry.seq, step.address)), nonce));
        }
    }
}

impl Pool {
    /// What a proposer should put into a block: best gas price first, each sender in nonce order.
    ///
    /// `bytes_max` bounds the body (each transaction with its length prefix), `gas_max` the sum of
    /// gas limits. The balance that a sender has *before* the block pays for all that is chosen of
    /// it, so no order of execution can leave one unpaid. A transaction that does not fit ends its
    /// sender's turn, not the search. O(log n) for each one chosen.
    pub fn select(&self, bytes_max: usize, gas_max: u64) -> Vec<&VerifiedTransaction> {
        let (mut bytes_left, mut gas_left) = (bytes_max, gas_max);
        let mut chosen = Vec::new();
        let mut misses = 0;
        let mut walk = BestFirst::new(self);
        while let Some(step) = walk.step() {
            let bytes = encoded_in_body(step.entry.tx.bytes().len());
            let gas = step.entry.tx.body().gas_limit;
            if bytes > bytes_left || gas > gas_left {
                misses += 1;
                if misses == MISSES_MAX {
                    break;
                }
                continue;
            }
            // All that a sender has in the pool is within its balance: the pool admits no more, and
            // looks again whenever the balance changes. So a prefix of it is, too.
            misses = 0;
            bytes_left -= bytes;
            gas_left -= gas;
            chosen.push(&step.entry.tx);
            walk.follow(&step);
        }
        chosen
    }
}

/// A transaction and the QUIC varint of its length (RFC 9000 §16).
fn encoded_in_body(len: usize) -> usize {
    len + match len {
        0..=63 => 1,
        64..=16_383 => 2,
        _ => 4,
    }
}

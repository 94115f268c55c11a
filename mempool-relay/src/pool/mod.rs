//! The mempool: transactions that wait to be included.
//!
//! # What is kept
//! **Ready** transactions can be included now: their nonces follow the account's without a gap.
//! **Parked** ones wait for an earlier nonce, within bounds of their own. Only ready ones are shown,
//! selected and relayed, so that a flood of gaps stays where it was sent.
//!
//! # Rules
//! - *Replacement*: same sender and nonce, gas price at least 10 % higher (rounded up).
//! - *Balance*: everything of one sender, parked included, is paid for by its balance at the head.
//! - *Eviction*: a transaction is worth the lowest gas price on the way to it. When the pool is full,
//!   the one that is worth least goes, last come first. It is always the last of its sender, so no
//!   gap opens, and a dear transaction behind a cheap one protects nothing.
//! - *Floor*: after an eviction the pool asks 10 % more than what it evicted; that halves every
//!   minute, four times as fast while the pool is half empty.
//! - *Expiry*: ready after three hours, parked after ten minutes. What expires takes the ready ones
//!   behind it along.
//!
//! # Who calls what
//! 1. Arrival: [`Pool::insert`] with a verified transaction. [`Inserted::ready`] goes to the relay as
//!    ready, [`Inserted::removed`] as removed.
//! 2. A new canonical head: [`Pool::on_head_change`], same two lists.
//! 3. [`Pool::next_deadline`] passed: [`Pool::on_deadline`], removed.
//! 4. A turn to propose: [`Pool::select`].
//! 5. Stop and start: [`Pool::dump`], [`Pool::load`].
//!
//! A core: no clock, no entropy, no I/O. Deterministic.

mod floor;
mod head;
mod order;
mod refusal;
mod sender;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_proto::{Address, SignedTransaction, TxId, VerifiedTransaction};

use self::{
    floor::Floor,
    order::BestFirst,
    sender::{Entry, HeadKey, HolderKey, Sender, TailKey},
};
pub use self::{
    head::{HeadChange, HeadOutcome},
    refusal::{Refusal, Remedy},
};

/// Bytes counted for each transaction beyond its own: 400 for the parsed transaction and its entry,
/// half as much again for the B-tree nodes it lies in, 130 for the id index, 80 for the expiry queue
/// and its share of the sender's record and of the three orders.
pub const ENTRY_OVERHEAD_BYTES: usize = 1152;

/// Parked transactions looked at to make room for one: 128 KiB / 1,319 B = 99 of the smallest make
/// room for the largest, and as many again may be better than it.
const PARKED_LOOKED_AT_MAX: usize = 256;

/// What the state says of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountState {
    /// Transactions included so far: the nonce its next one has.
    pub nonce: u64,
    /// Base units.
    pub balance: u128,
}

/// The state at the canonical head, as far as the pool needs it. Closures do.
pub trait Accounts {
    /// The account; zero nonce and balance if there is none.
    fn account(&self, address: &Address) -> AccountState;
}

impl<F: Fn(&Address) -> AccountState> Accounts for F {
    fn account(&self, address: &Address) -> AccountState {
        self(address)
    }
}

/// What the chain demands of every transaction.
#[derive(Debug, Clone, Copy)]
pub struct ChainRules {
    /// Of the genesis.
    pub chain_id: u64,
    /// Of the genesis, base units per gas.
    pub gas_price_min: u64,
    /// Of the genesis.
    pub block_gas_max: u64,
    /// Gas that a transaction uses before it does anything.
    pub intrinsic_gas: fn(&SignedTransaction) -> u64,
}

/// Bounds of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Bytes of ready and parked transactions together, [`ENTRY_OVERHEAD_BYTES`] each included.
    /// Default 64 MiB: 47,000 transfers of 250 B.
    pub bytes_max: usize,
    /// The part of `bytes_max` that parked ones may take. Default 8 MiB: 5,900 transfers.
    pub parked_bytes_max: usize,
    /// Transactions of one sender, and how far a nonce may be ahead of the account's. Default 1,024:
    /// 18 senders with the largest cheapest transactions could fill the pool, and each must have the
    /// balance for all of them.
    pub sender_count_max: usize,
    /// How long a ready transaction may wait. Default three hours.
    pub lifetime: Duration,
    /// How long a parked one may wait. Default ten minutes.
    pub parked_lifetime: Duration,
    /// Percent by which a replacement must pay more, and by which the floor rises above what was
    /// evicted. Default 10.
    pub bump_percent: u64,
    /// Half-life of the floor. Default one minute.
    pub floor_half_life: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            parked_bytes_max: 8 << 20,
            sender_count_max: 1024,
            lifetime: Duration::from_secs(3 * 60 * 60),
            parked_lifetime: Duration::from_secs(10 * 60),
            bump_percent: 10,
            floor_half_life: Duration::from_secs(60),
        }
    }
}

/// Where an inserted transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Can be included now.
    Ready,
    /// Waits for an earlier nonce.
    Parked,
    /// Was there already; nothing changed.
    Known,
}

/// Why a transaction left the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is in a canonical block.
    Included,
    /// Another transaction used its nonce.
    Stale,
    /// Its sender can no longer pay for it.
    Unpayable,
    /// It waited too long.
    Expired,
    /// Better ones needed the room.
    Evicted,
    /// Another with the same sender and nonce pays more.
    Replaced,
}

/// What an insertion changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// Where it stands.
    pub place: Place,
    /// What became ready by it, in nonce order: itself if it is ready, and parked ones it freed.
    pub ready: Vec<TxId>,
    /// What had to go.
    pub removed: Vec<(TxId, Removal)>,
}

/// Counts for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Ready and parked transactions.
    pub count: usize,
    /// What they count for, overhead included.
    pub bytes: usize,
    /// How many of them are parked.
    pub parked: usize,
    /// Least gas price that is accepted now.
    pub gas_price_min: u64,
}

/// A waiting transaction, for people who ask.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// The transaction.
    pub tx: &'a VerifiedTransaction,
    /// When it came.
    pub arrived: Instant,
    /// The earlier nonce of its sender that is missing, if it is parked.
    pub waits_for: Option<u64>,
}

/// See the [module](self).
pub struct Pool {
    config: PoolConfig,
    rules: ChainRules,
    senders: HashMap<Address, Sender>,
    index: HashMap<TxId, (Address, u64)>,
    heads: BTreeSet<HeadKey>,
    tails: BTreeSet<TailKey>,
    holders: BTreeSet<HolderKey>,
    expiry: BTreeMap<(Instant, u64), (Address, u64)>,
    ready_bytes: usize,
    parked_bytes: usize,
    parked_count: usize,
    next_seq: u64,
    floor: Floor,
}

impl Pool {
    /// An empty pool.
    pub fn new(config: PoolConfig, rules: ChainRules) -> Self {
        Self {
            floor: Floor::new(config.floor_half_life),
            config,
            rules,
            senders: HashMap::new(),
            index: HashMap::new(),
            heads: BTreeSet::new(),
            tails: BTreeSet::new(),
            holders: BTreeSet::new(),
            expiry: BTreeMap::new(),
            ready_bytes: 0,
            parked_bytes: 0,
            parked_count: 0,
            next_seq: 0,
        }
    }

    /// Takes a transaction, or says why not.
    ///
    /// Its bytes should own their memory: a slice of a received frame keeps the whole frame alive.
    ///
    /// # Errors
    /// A [`Refusal`] with its remedy; the pool is unchanged then.
    pub fn insert(
        &mut self,
        tx: VerifiedTransaction,
        accounts: &impl Accounts,
        now: Instant,
    ) -> Result<Inserted, Refusal> {
        if self.index.contains_key(&tx.id()) {
            return Ok(Inserted { place: Place::Known, ready: Vec::new(), removed: Vec::new() });
        }
        let cost = self.check_rules(&tx)?;
        let floor = self.floor.price(self.is_half_empty(), now);
        if tx.body().gas_price < floor {
            return Err(Refusal::BelowFloor { got: tx.body().gas_price, floor });
        }
        let mut out = Inserted { place: Place::Parked, ready: Vec::new(), removed: Vec::new() };
        let id = tx.id();
        self.admit(tx, cost, accounts, now, &mut out)?;
        // What was admitted stays: room for it was counted before.
        self.trim(now, &mut out.removed);
        if out.ready.contains(&id) {
            out.place = Place::Ready;
        }
        out.ready.retain(|id| self.index.contains_key(id));
        Ok(out)
    }

    /// Whether it would be taken by what is known of it alone: rules, floor, nonce and balance. What waits here
    /// already and how full it is are not looked at; [`Self::insert`] may still refuse it.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn check(
        &self,
        tx: &VerifiedTransaction,
        accounts: &impl Accounts,
        now: Instant,
    ) -> Result<(), Refusal> {
        let needed = self.check_rules(tx)?;
        let floor = self.gas_price_min(now);
        if tx.body().gas_price < floor {
            return Err(Refusal::BelowFloor { got: tx.body().gas_price, floor });
        }
        let account = accounts.account(&tx.sender());
        Self::check_nonce(tx.body().nonce, account, self.config.sender_count_max)?;
        if needed > account.balance {
            return Err(Refusal::Balance { needed, balance: account.balance });
        }
        Ok(())
    }

    fn check_nonce(got: u64, account: AccountState, ahead_max: usize) -> Result<(), Refusal> {
        let (next, ahead_max) = (account.nonce, ahead_max as u64);
        if got < next {
            return Err(Refusal::NonceUsed { got, next });
        }
        if got - next >= ahead_max {
            return Err(Refusal::NonceTooFar { got, next, ahead_max });
        }
        Ok(())
    }

    /// The checks that need no state. Returns the most it can cost.
    fn check_rules(&self, tx: &VerifiedTransaction) -> Result<u128, Refusal> {
        let (body, rules) = (tx.body(), &self.rules);
        if body.chain_id != rules.chain_id {
            return Err(Refusal::WrongChain { got: body.chain_id, want: rules.chain_id });
        }
        let min = (rules.intrinsic_gas)(tx);
        if body.gas_limit < min || body.gas_limit > rules.block_gas_max {
            return Err(Refusal::GasLimit { got: body.gas_limit, min, max: rules.block_gas_max });
        }
        if body.gas_price < rules.gas_price_min {
            return Err(Refusal::PriceBelowMinimum { got: body.gas_price, min: rules.gas_price_min });
        }
        body.cost_max().ok_or(Refusal::CostOverflow)
    }

    /// Puts a transaction that obeys the rules into its place; the pool may be too large afterwards.
    fn admit(
        &mut self,
        tx: VerifiedTransaction,
        cost: u128,
        accounts: &impl Accounts,
        now: Instant,
        out: &mut Inserted,
    ) -> Result<(), Refusal> {
        let (address, nonce, price) = (tx.sender(), tx.body().nonce, tx.body().gas_price);
        let charge = tx.bytes().len() + ENTRY_OVERHEAD_BYTES;
        let fresh;
        let sender = match self.senders.get(&address) {
            Some(sender) => sender,
            None => {
                fresh = Sender::new(accounts.account(&address));
                &fresh
            }
        };
        let account = sender.account;
        Self::check_nonce(nonce, account, self.config.sender_count_max)?;
        let old = sender.txs.get(&nonce);
        if let Some(old) = old {
            let needed = self.bump(old.price());
            if price < needed {
                return Err(Refusal::ReplacementUnderpriced { got: price, needed });
            }
        }
        let needed = (sender.cost - old.map_or(0, |old| old.cost)).saturating_add(cost);
        if needed > account.balance {
            return Err(Refusal::Balance { needed, balance: account.balance });
        }
        let extra = charge.saturating_sub(old.map_or(0, |old| old.charge));
        let mut victims = Vec::new();
        if nonce > sender.next_nonce() {
            victims = self
                .parked_victims(&address, sender, &tx, extra)
                .ok_or(Refusal::ParkedFull { next: sender.next_nonce() })?;
        } else {
            let before = nonce.checked_sub(1).and_then(|nonce| sender.txs.get(&nonce));
            let worth = before.map_or(price, |before| before.worth.min(price));
            if !self.has_room(extra, worth, &address) {
                let floor = self.tails.first().map_or(0, |(worth, ..)| self.bump(*worth));
                return Err(Refusal::BelowFloor { got: price, floor: floor.max(price.saturating_add(1)) });
            }
        }

        let (replaces, id) = (old.is_some(), tx.id());
        for (address, nonce) in victims {
            self.cut(address, nonce, Removal::Evicted, &mut out.removed);
        }
        self.unlink(&address);
        let old = replaces.then(|| self.take(&address, nonce));
        self.put(address, account, tx, charge, cost, now);
        if let Some(old) = old {
            out.removed.push((old.tx.id(), Removal::Replaced));
            if old.ready {
                self.reinstate(address, nonce);
                out.ready.push(id);
            }
        }
        self.promote(address, &mut out.ready);
        Ok(())
    }

    /// Adds an entry, parked. The sender's keys are out at this time; [`Self::promote`] puts them
    /// back.
    fn put(
        &mut self,
        address: Address,
        account: AccountState,
        tx: VerifiedTransaction,
        charge: usize,
        cost: u128,
        now: Instant,
    ) {
        let (nonce, seq) = (tx.body().nonce, self.next_seq);
        self.next_seq += 1;
        self.index.insert(tx.id(), (address, nonce));
        let entry = Entry { tx, charge, cost, worth: 0, seq, arrived: now, ready: false };
        self.expiry
            .insert(entry.expiry_key(self.config.lifetime, self.config.parked_lifetime), (address, nonce));
        let sender = self.senders.entry(address).or_insert_with(|| Sender::new(account));
        sender.cost += cost;
        sender.parked_bytes += charge;
        sender.txs.insert(nonce, entry);
        self.parked_bytes += charge;
        self.parked_count += 1;
    }

    /// Makes ready what took the place of a ready one, and values anew what follows it.
    fn reinstate(&mut self, address: Address, nonce: u64) {
        self.set_ready(&address, nonce, true);
        let sender = self.senders.get_mut(&address).expect("the sender has an entry");
        let end = sender.next_nonce();
        let mut worth =
            nonce.checked_sub(1).and_then(|nonce| sender.txs.get(&nonce)).map_or(u64::MAX, |e| e.worth);
        for (_, entry) in sender.txs.range_mut(nonce..end) {
            worth = worth.min(entry.price());
            entry.worth = worth;
        }
    }

    /// Extends the run of ready ones as far as it goes, and puts the sender's keys back.
    fn promote(&mut self, address: Address, ready: &mut Vec<TxId>) {
        while let Some(sender) = self.senders.get_mut(&address) {
            let nonce = sender.next_nonce();
            let Some(price) = sender.txs.get(&nonce).map(Entry::price) else { break };
            let worth = sender.worth_of_next(price);
            let entry = sender.txs.get_mut(&nonce).expect("looked up above");
            entry.worth = worth;
            ready.push(entry.tx.id());
            sender.ready += 1;
            self.set_ready(&address, nonce, true);
        }
        self.link(address);
    }

    /// Moves an entry between the ready and the parked accounts.
    fn set_ready(&mut self, address: &Address, nonce: u64, ready: bool) {
        let (lifetime, parked_lifetime) = (self.config.lifetime, self.config.parked_lifetime);
        let sender = self.senders.get_mut(address).expect("the sender has an entry");
        let entry = sender.txs.get_mut(&nonce).expect("the caller saw it");
        if entry.ready == ready {
            return;
        }
        self.expiry.remove(&entry.expiry_key(lifetime, parked_lifetime));
        entry.ready = ready;
        self.expiry.insert(entry.expiry_key(lifetime, parked_lifetime), (*address, nonce));
        if ready {
            sender.parked_bytes -= entry.charge;
            self.parked_bytes -= entry.charge;
            self.parked_count -= 1;
            self.ready_bytes += entry.charge;
        } else {
            sender.parked_bytes += entry.charge;
            self.parked_bytes += entry.charge;
            self.parked_count += 1;
            self.ready_bytes -= entry.charge;
        }
    }

    /// Takes an entry out of all but the sender's run and keys.
    fn take(&mut self, address: &Address, nonce: u64) -> Entry {
        let sender = self.senders.get_mut(address).expect("the sender has an entry");
        let entry = sender.txs.remove(&nonce).expect("the caller saw it");
        sender.cost -= entry.cost;
        if entry.ready {
            self.ready_bytes -= entry.charge;
        } else {
            sender.parked_bytes -= entry.charge;
            self.parked_bytes -= entry.charge;
            self.parked_count -= 1;
        }
        self.index.remove(&entry.tx.id());
        self.expiry.remove(&entry.expiry_key(self.config.lifetime, self.config.parked_lifetime));
        entry
    }

    fn unlink(&mut self, address: &Address) {
        let Some(sender) = self.senders.get(address) else { return };
        if let Some(key) = sender.head_key(*address) {
            self.heads.remove(&key);
        }
        if let Some(key) = sender.tail_key(*address) {
            self.tails.remove(&key);
        }
        if let Some(key) = sender.holder_key(*address) {
            self.holders.remove(&key);
        }
    }

    fn link(&mut self, address: Address) {
        let Some(sender) = self.senders.get(&address) else { return };
        if sender.txs.is_empty() {
            self.senders.remove(&address);
            return;
        }
        self.heads.extend(sender.head_key(address));
        self.tails.extend(sender.tail_key(address));
        self.holders.extend(sender.holder_key(address));
    }

    /// True if `extra` bytes fit, or if others that are worth less than `worth` hold enough.
    fn has_room(&self, extra: usize, worth: u64, address: &Address) -> bool {
        let max = self.config.bytes_max - self.config.parked_bytes_max;
        let mut needed = (self.ready_bytes + extra).saturating_sub(max);
        // At most 128 KiB / 1,319 B = 99 entries are looked at before the answer is clear.
        for (_, _, other) in self.tails.iter().take_while(|(tail, ..)| *tail < worth) {
            if other == address {
                continue;
            }
            let sender = &self.senders[other];
            let ready = sender.txs.range(..sender.next_nonce()).rev();
            for (_, entry) in ready.take_while(|(_, entry)| entry.worth < worth) {
                if needed == 0 {
                    return true;
                }
                needed = needed.saturating_sub(entry.charge);
            }
        }
        needed == 0
    }

    /// Which parked ones must go so that `extra` more bytes can park, or `None` if `tx` is not better
    /// than enough of them. Whoever parks most goes first, so that a flood of gaps displaces itself:
    /// better is a sender that parks less, or a higher price.
    fn parked_victims(
        &self,
        address: &Address,
        sender: &Sender,
        tx: &VerifiedTransaction,
        extra: usize,
    ) -> Option<Vec<(Address, u64)>> {
        let mut needed = (self.parked_bytes + extra).saturating_sub(self.config.parked_bytes_max);
        let mut victims = Vec::new();
        if needed == 0 {
            return Some(victims);
        }
        let own = sender.parked_bytes + extra;
        let others = self.holders.iter().rev().filter(|(.., other)| other != address);
        let mut looked_at = 0;
        for (bytes, _, other) in others {
            let mut left = *bytes;
            for (nonce, entry) in self.senders[other].txs.iter().rev() {
                looked_at += 1;
                if entry.ready || !(left > own || entry.price() < tx.body().gas_price) {
                    break;
                }
                victims.push((*other, *nonce));
                left -= entry.charge;
                needed = needed.saturating_sub(entry.charge);
                if needed == 0 {
                    return Some(victims);
                }
            }
            if looked_at > PARKED_LOOKED_AT_MAX {
                return None;
            }
        }
        None
    }

    /// Evicts until both bounds hold again.
    fn trim(&mut self, now: Instant, removed: &mut Vec<(TxId, Removal)>) {
        while self.ready_bytes > self.config.bytes_max - self.config.parked_bytes_max {
            let Some((worth, _, address)) = self.tails.first().copied() else { break };
            let half_empty = self.is_half_empty();
            self.floor.raise(self.bump(worth), half_empty, now);
            let nonce = self.senders[&address].next_nonce() - 1;
            self.cut(address, nonce, Removal::Evicted, removed);
        }
        while self.parked_bytes > self.config.parked_bytes_max {
            let Some((.., address)) = self.holders.last().copied() else { break };
            let Some(nonce) = self.senders[&address].last_parked().map(|entry| entry.tx.body().nonce) else {
                break;
            };
            self.cut(address, nonce, Removal::Evicted, removed);
        }
    }

    /// Removes a transaction; if it is ready, the ready ones behind it as well.
    fn cut(&mut self, address: Address, nonce: u64, why: Removal, removed: &mut Vec<(TxId, Removal)>) {
        self.unlink(&address);
        let Some(sender) = self.senders.get_mut(&address) else { return };
        let end = sender.next_nonce();
        if nonce < end {
            sender.ready = (nonce - sender.account.nonce) as usize;
        }
        for nonce in nonce..end.max(nonce + 1) {
            removed.push((self.take(&address, nonce).tx.id(), why));
        }
        self.link(address);
    }

    fn bump(&self, price: u64) -> u64 {
        let percent = u128::from(100 + self.config.bump_percent);
        u64::try_from((u128::from(price) * percent).div_ceil(100))
            .unwrap_or(u64::MAX)
            .max(price.saturating_add(1))
    }

    fn is_half_empty(&self) -> bool {
        self.ready_bytes < (self.config.bytes_max - self.config.parked_bytes_max) / 2
    }

    /// When the oldest transaction expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.expiry.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Removes what has expired.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<(TxId, Removal)> {
        self.floor.settle(self.is_half_empty(), now);
        let mut removed = Vec::new();
        while let Some((&(deadline, _), &(address, nonce))) = self.expiry.first_key_value() {
            if deadline > now {
                break;
            }
            self.cut(address, nonce, Removal::Expired, &mut removed);
        }
        removed
    }

    /// Least gas price that is accepted now: the chain's, or more while the pool is full.
    pub fn gas_price_min(&self, now: Instant) -> u64 {
        self.floor.price(self.is_half_empty(), now).max(self.rules.gas_price_min)
    }

    /// Counts.
    pub fn status(&self, now: Instant) -> PoolStatus {
        PoolStatus {
            count: self.index.len(),
            bytes: self.ready_bytes + self.parked_bytes,
            parked: self.parked_count,
            gas_price_min: self.gas_price_min(now),
        }
    }

    /// The transaction with this id, ready or parked.
    pub fn get(&self, id: &TxId) -> Option<&VerifiedTransaction> {
        let (address, nonce) = self.index.get(id)?;
        Some(&self.senders[address].txs[nonce].tx)
    }

    /// Every transaction, ready or parked, in no order to rely on.
    pub fn transactions(&self) -> impl Iterator<Item = &VerifiedTransaction> {
        self.senders.values().flat_map(|sender| sender.txs.values().map(|entry| &entry.tx))
    }

    /// True if it waits here.
    pub fn contains(&self, id: &TxId) -> bool {
        self.index.contains_key(id)
    }

    /// The nonce to use next, ready transactions counted.
    pub fn next_nonce(&self, address: &Address, accounts: &impl Accounts) -> u64 {
        match self.senders.get(address) {
            Some(sender) => sender.next_nonce(),
            None => accounts.account(address).nonce,
        }
    }

    /// When a transaction came, if it is here.
    pub fn arrived(&self, id: &TxId) -> Option<Instant> {
        let (address, nonce) = self.index.get(id)?;
        Some(self.senders.get(address)?.txs.get(nonce)?.arrived)
    }

    /// Ready transactions in the order [`Self::select`] would take them, at most `limit`.
    pub fn pending(&self, limit: usize) -> Vec<Pending<'_>> {
        let mut rows = Vec::new();
        let mut walk = BestFirst::new(self);
        while rows.len() < limit
            && let Some(step) = walk.step()
        {
            rows.push(Pending { tx: &step.entry.tx, arrived: step.entry.arrived, waits_for: None });
            walk.follow(&step);
        }
        rows
    }

    /// Parked transactions, those of one sender together and in the order of their nonces, at most `limit`.
    pub fn parked(&self, limit: usize) -> Vec<Pending<'_>> {
        let rows = self.holders.iter().flat_map(|(.., address)| {
            let sender = &self.senders[address];
            let next = sender.next_nonce();
            sender.txs.range(next..).map(move |(_, entry)| Pending {
                tx: &entry.tx,
                arrived: entry.arrived,
                waits_for: Some(next),
            })
        });
        rows.take(limit).collect()
    }

    /// Everything, by sender and nonce, for [`Self::load`] after a clean restart.
    pub fn dump(&self) -> Vec<Bytes> {
        let mut senders: Vec<_> = self.senders.iter().collect();
        senders.sort_unstable_by_key(|(address, _)| **address);
        senders
            .into_iter()
            .flat_map(|(_, sender)| sender.txs.values().map(|entry| entry.tx.bytes().clone()))
            .collect()
    }

    /// Takes what [`Self::dump`] gave, as if it came now: parsed, signatures checked, admitted by the
    /// rules of today. What does not pass is left out and counted. Returns what is ready.
    pub fn load(
        &mut self,
        dump: Vec<Bytes>,
        accounts: &impl Accounts,
        mut entropy: impl rand::CryptoRng,
        now: Instant,
    ) -> Loaded {
        let mut loaded = Loaded { ready: Vec::new(), left_out: dump.len() };
        let parsed: Vec<_> =
            dump.into_iter().filter_map(|bytes| SignedTransaction::parse(bytes).ok()).collect();
        for tx in SignedTransaction::verify_many(parsed, &mut entropy).into_iter().flatten() {
            if let Ok(inserted) = self.insert(tx, accounts, now) {
                loaded.left_out -= 1;
                loaded.ready.extend(inserted.ready);
            }
        }
        loaded.ready.retain(|id| self.index.contains_key(id));
        loaded
    }
}

/// What became of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// For the relay.
    pub ready: Vec<TxId>,
    /// How many were damaged, used up meanwhile, or no longer fit.
    pub left_out: usize,
}

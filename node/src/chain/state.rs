//! The state: keys and values of bytes, read at any unfinalized block.
//!
//! A key starts with a domain byte. Domain `0x01` holds accounts: `0x01 address(20)` → nonce (8),
//! balance (16). Other domains are free for contract storage, order books and prices. An entry that
//! says nothing (an account without nonce and balance) does not exist.
//!
//! The store holds the state at the last finalized block. A [`Snapshot`] is that and a persistent
//! hash map of everything changed since, which shares its nodes with the snapshots of the blocks
//! around it: a read costs one look into the map and at most one into the store, no matter how many
//! blocks are not final yet.

use std::{collections::HashMap, sync::Arc};

use ghost_proto::Address;
use rpds::HashTrieMapSync;

use super::lthash::LtHash;
use crate::store::{Records, StoreError};

/// Key of a state entry.
pub type StateKey = Arc<[u8]>;
/// Value of a state entry.
pub type StateValue = Arc<[u8]>;

const DOMAIN_ACCOUNT: u8 = 0x01;
const ACCOUNT_LEN: usize = 24;

/// What the chain knows about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Transactions of it that were included.
    pub nonce: u64,
    /// Base units it owns.
    pub balance: u128,
}

impl Account {
    /// The state key of an address.
    pub fn key(address: &Address) -> [u8; 1 + Address::LEN] {
        let mut key = [DOMAIN_ACCOUNT; 1 + Address::LEN];
        key[1..].copy_from_slice(&address.0);
        key
    }

    /// The state value; `None` for an account that does not exist.
    pub fn encode(&self) -> Option<[u8; ACCOUNT_LEN]> {
        (*self != Self::default()).then(|| {
            let mut out = [0; ACCOUNT_LEN];
            out[..8].copy_from_slice(&self.nonce.to_be_bytes());
            out[8..].copy_from_slice(&self.balance.to_be_bytes());
            out
        })
    }

    fn decode(value: Option<&[u8]>) -> Result<Self, StoreError> {
        let Some(value) = value else { return Ok(Self::default()) };
        let value: &[u8; ACCOUNT_LEN] = value
            .try_into()
            .map_err(|_| StoreError::damaged(format!("an account of {} bytes, not 24", value.len())))?;
        let (nonce, balance) = value.split_at(8);
        Ok(Self {
            nonce: u64::from_be_bytes(nonce.try_into().unwrap_or_default()),
            balance: u128::from_be_bytes(balance.try_into().unwrap_or_default()),
        })
    }
}

/// The state after one block. Cheap to clone.
///
/// It stays right as long as its block is finalized or a descendant of the finalized block. Once a
/// *later* block is final, keys that this snapshot's block left alone read as of that later block.
#[derive(Debug, Clone)]
pub struct Snapshot {
    changed: HashTrieMapSync<StateKey, Option<StateValue>>,
    base: Records,
}

impl Snapshot {
    /// The state in the store.
    pub fn of_finalized(base: Records) -> Self {
        Self { changed: HashTrieMapSync::new_sync(), base }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<StateValue>, StoreError> {
        match self.changed.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.base.state(key)?.map(Arc::from)),
        }
    }

    /// An account; all zero if nothing is known about it.
    pub fn account(&self, address: &Address) -> Result<Account, StoreError> {
        Account::decode(self.get(&Account::key(address))?.as_deref())
    }

    /// Entries held in memory.
    pub fn changed_len(&self) -> usize {
        self.changed.size()
    }

    /// Everything that may differ from the store, in no order.
    pub fn changed(&self) -> impl Iterator<Item = (&StateKey, Option<&StateValue>)> {
        self.changed.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// What memory holds for a key: `None` if it did not change.
    pub fn changed_value(&self, key: &[u8]) -> Option<&Option<StateValue>> {
        self.changed.get(key)
    }

    /// This snapshot with some entries set.
    pub fn with(&self, changes: impl IntoIterator<Item = (StateKey, Option<StateValue>)>) -> Self {
        let mut next = self.clone();
        for (key, value) in changes {
            next.changed.insert_mut(key, value);
        }
        next
    }

    /// This snapshot without the entries that `keep` turns down: they must equal the store's.
    pub fn retain(&self, keep: impl Fn(&StateKey, &Option<StateValue>) -> bool) -> Self {
        let mut next = Self::of_finalized(self.base.clone());
        for (key, value) in self.changed.iter().filter(|(key, value)| keep(key, value)) {
            next.changed.insert_mut(key.clone(), value.clone());
        }
        next
    }
}

/// The state after a block, with what is needed to commit to it and to build on it.
#[derive(Debug, Clone)]
pub struct BlockState {
    /// For reading.
    pub snapshot: Snapshot,
    /// Sum over all entries.
    pub lthash: Arc<LtHash>,
    /// Keys that the block changed, ascending.
    pub changed: Arc<[StateKey]>,
}

struct Entry {
    before: Option<StateValue>,
    after: Option<StateValue>,
}

/// The state while a block executes: what was read and written, on top of the parent's state.
pub struct WorkingState<'a> {
    parent: &'a BlockState,
    entries: HashMap<StateKey, Entry>,
}

impl<'a> WorkingState<'a> {
    /// Starts where the parent block ended.
    pub fn new(parent: &'a BlockState) -> Self {
        Self { parent, entries: HashMap::new() }
    }

    fn entry(&mut self, key: &[u8]) -> Result<&mut Entry, StoreError> {
        if !self.entries.contains_key(key) {
            let before = self.parent.snapshot.get(key)?;
            self.entries.insert(Arc::from(key), Entry { after: before.clone(), before });
        }
        self.entries.get_mut(key).ok_or_else(|| StoreError::damaged("an entry vanished from memory"))
    }

    /// The value of a key now.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<StateValue>, StoreError> {
        Ok(self.entry(key)?.after.clone())
    }

    /// Sets or removes a value.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        self.entry(key)?.after = value.map(Arc::from);
        Ok(())
    }

    /// An account as it is now.
    pub fn account(&mut self, address: &Address) -> Result<Account, StoreError> {
        Account::decode(self.entry(&Account::key(address))?.after.as_deref())
    }

    /// Sets an account.
    pub fn set_account(&mut self, address: &Address, account: &Account) -> Result<(), StoreError> {
        self.put(&Account::key(address), account.encode().as_ref().map(<[u8; ACCOUNT_LEN]>::as_slice))
    }

    /// The state after the block.
    pub fn finish(self) -> BlockState {
        let mut changed: Vec<(StateKey, Entry)> =
            self.entries.into_iter().filter(|(_, entry)| entry.before != entry.after).collect();
        changed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut lthash = LtHash::clone(&self.parent.lthash);
        for (key, entry) in &changed {
            if let Some(before) = &entry.before {
                lthash.remove(key, before);
            }
            if let Some(after) = &entry.after {
                lthash.add(key, after);
            }
        }
        let keys = changed.iter().map(|(key, _)| key.clone()).collect();
        let snapshot = self.parent.snapshot.with(changed.into_iter().map(|(key, entry)| (key, entry.after)));
        BlockState { snapshot, lthash: Arc::new(lthash), changed: keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, WriteBatch};

    fn empty() -> (Records, BlockState) {
        let records = Records::new(Arc::new(MemoryStore::new()));
        let state = BlockState {
            snapshot: Snapshot::of_finalized(records.clone()),
            lthash: Arc::default(),
            changed: Arc::new([]),
        };
        (records, state)
    }

    #[test]
    fn an_empty_account_leaves_no_entry() {
        let (_, parent) = empty();
        let mut working = WorkingState::new(&parent);
        working.set_account(&Address([1; 20]), &Account { nonce: 0, balance: 5 }).unwrap();
        working.set_account(&Address([1; 20]), &Account::default()).unwrap();
        let after = working.finish();
        assert_eq!(after.lthash, parent.lthash);
        assert!(after.changed.is_empty());
    }

    #[test]
    fn a_removed_entry_hides_the_stored_one() {
        let (records, parent) = empty();
        let mut batch = WriteBatch::default();
        Records::put_state(&mut batch, b"k", Some(b"old"));
        records.apply(batch).unwrap();
        let mut working = WorkingState::new(&parent);
        assert_eq!(working.get(b"k").unwrap().as_deref(), Some(b"old".as_slice()));
        working.put(b"k", None).unwrap();
        let after = working.finish();
        assert_eq!(after.snapshot.get(b"k").unwrap(), None);
        assert_eq!(parent.snapshot.get(b"k").unwrap().as_deref(), Some(b"old".as_slice()));
    }

    #[test]
    fn snapshots_of_two_children_do_not_see_each_other() {
        let (_, parent) = empty();
        let child = |value: &[u8]| {
            let mut working = WorkingState::new(&parent);
            working.put(b"k", Some(value)).unwrap();
            working.finish()
        };
        let (a, b) = (child(b"a"), child(b"b"));
        assert_eq!(a.snapshot.get(b"k").unwrap().as_deref(), Some(b"a".as_slice()));
        assert_eq!(b.snapshot.get(b"k").unwrap().as_deref(), Some(b"b".as_slice()));
        assert_ne!(a.lthash.digest(), b.lthash.digest());
    }
}

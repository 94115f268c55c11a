//! The state: keys and values of bytes, read at any unfinalized block.
//!
//! A key starts with a domain byte. Prices have 0x08 and 0x09 (see [`crate::oracle::state`]); other domains than
//! those and these are free:
//!
//! ```text
//! 0x01 address(20)            nonce (8), balance (16); of a contract also engine (1), code hash (32)
//! 0x02 code hash(32)          code of a contract, once for all that share it
//! 0x03 address(20) slot(32)   a word of a contract's storage (32)
//! ```
//!
//! An entry that says nothing (an account without nonce and balance, a word of zeros) does not exist.
//! Code is never removed.
//!
//! The store holds the state at the last finalized block. A [`Snapshot`] is that and a persistent
//! hash map of everything changed since, which shares its nodes with the snapshots of the blocks
//! around it: a read costs one look into the map and at most one into the store, no matter how many
//! blocks are not final yet.

use std::{collections::HashMap, sync::Arc};

use ghost_proto::{Address, BlockId, EngineId};
use rpds::HashTrieMapSync;

use super::lthash::LtHash;
use crate::{
    dex::Dex,
    store::{Records, StoreError},
};

/// Key of a state entry.
pub type StateKey = Arc<[u8]>;
/// Value of a state entry.
pub type StateValue = Arc<[u8]>;

const DOMAIN_ACCOUNT: u8 = 0x01;
const DOMAIN_CODE: u8 = 0x02;
const DOMAIN_STORAGE: u8 = 0x03;
const ACCOUNT_LEN: usize = 24;
const CONTRACT_LEN: usize = ACCOUNT_LEN + 1 + 32;

/// What makes an account a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    /// What runs it.
    pub engine: EngineId,
    /// Under what its code is kept. For the EVM: its Keccak-256.
    pub code_hash: [u8; 32],
}

/// The state key of code.
pub fn code_key(code_hash: &[u8; 32]) -> [u8; 33] {
    let mut key = [DOMAIN_CODE; 33];
    key[1..].copy_from_slice(code_hash);
    key
}

/// The state key of a word of a contract's storage.
pub fn storage_key(address: &Address, slot: &[u8; 32]) -> [u8; 53] {
    let mut key = [DOMAIN_STORAGE; 53];
    key[1..21].copy_from_slice(&address.0);
    key[21..].copy_from_slice(slot);
    key
}

/// What the chain knows about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Transactions of it that were included.
    pub nonce: u64,
    /// Base units it owns.
    pub balance: u128,
    /// Its code, if it is a contract.
    pub contract: Option<Contract>,
}

impl Account {
    /// The state key of an address.
    pub fn key(address: &Address) -> [u8; 1 + Address::LEN] {
        let mut key = [DOMAIN_ACCOUNT; 1 + Address::LEN];
        key[1..].copy_from_slice(&address.0);
        key
    }

    /// An account that is no contract.
    pub const fn plain(nonce: u64, balance: u128) -> Self {
        Self { nonce, balance, contract: None }
    }

    /// The state value; `None` for an account that does not exist.
    pub fn encode(&self) -> Option<Vec<u8>> {
        (*self != Self::default()).then(|| {
            let mut out = Vec::with_capacity(CONTRACT_LEN);
            out.extend_from_slice(&self.nonce.to_be_bytes());
            out.extend_from_slice(&self.balance.to_be_bytes());
            if let Some(contract) = &self.contract {
                out.push(contract.engine.0);
                out.extend_from_slice(&contract.code_hash);
            }
            out
        })
    }

    fn decode(value: Option<&[u8]>) -> Result<Self, StoreError> {
        let Some(value) = value else { return Ok(Self::default()) };
        let read = || {
            let (nonce, rest) = value.split_first_chunk()?;
            let (balance, rest) = rest.split_first_chunk()?;
            let contract = match rest {
                [] => None,
                [engine, hash @ ..] => {
                    Some(Contract { engine: EngineId(*engine), code_hash: hash.try_into().ok()? })
                }
            };
            Some(Self { nonce: u64::from_be_bytes(*nonce), balance: u128::from_be_bytes(*balance), contract })
        };
        read().ok_or_else(|| {
            StoreError::damaged(format!(
                "an account of {} bytes, not {ACCOUNT_LEN} or {CONTRACT_LEN}",
                value.len()
            ))
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

    /// The code under a hash.
    pub fn code(&self, code_hash: &[u8; 32]) -> Result<Option<StateValue>, StoreError> {
        self.get(&code_key(code_hash))
    }

    /// A word of a contract's storage; zero if it was never set.
    pub fn storage(&self, address: &Address, slot: &[u8; 32]) -> Result<[u8; 32], StoreError> {
        read_word(self.get(&storage_key(address, slot))?.as_deref())
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
    /// The books: an index of the orders in the state.
    pub dex: Dex,
}

fn read_word(value: Option<&[u8]>) -> Result<[u8; 32], StoreError> {
    let Some(value) = value else { return Ok([0; 32]) };
    value
        .try_into()
        .map_err(|_| StoreError::damaged(format!("a word of storage of {} bytes, not 32", value.len())))
}

/// Ids of the blocks that a block builds on.
pub trait Ancestors: Sync {
    /// The id of the ancestor at a height below the block's; `None` above it.
    fn block_id(&self, height: u64) -> Result<Option<BlockId>, StoreError>;
}

struct Entry {
    before: Option<StateValue>,
    after: Option<StateValue>,
}

/// The state while a block executes: what was read and written, on top of the parent's state.
pub struct WorkingState<'a> {
    parent: &'a BlockState,
    ancestors: &'a dyn Ancestors,
    entries: HashMap<StateKey, Entry>,
    dex: Dex,
}

impl<'a> WorkingState<'a> {
    /// Starts where the parent block ended.
    pub fn new(parent: &'a BlockState, ancestors: &'a dyn Ancestors) -> Self {
        Self { parent, ancestors, entries: HashMap::new(), dex: parent.dex.clone() }
    }

    /// The id of an ancestor of the block that executes.
    pub fn ancestor(&self, height: u64) -> Result<Option<BlockId>, StoreError> {
        self.ancestors.block_id(height)
    }

    /// The markets as they are now.
    pub fn dex(&self) -> &Dex {
        &self.dex
    }

    /// To change them. Whoever does writes the entries that they are an index of.
    pub(crate) fn dex_mut(&mut self) -> &mut Dex {
        &mut self.dex
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
        self.put(&Account::key(address), account.encode().as_deref())
    }

    /// A word of a contract's storage as it is now.
    pub fn storage(&mut self, address: &Address, slot: &[u8; 32]) -> Result<[u8; 32], StoreError> {
        read_word(self.entry(&storage_key(address, slot))?.after.as_deref())
    }

    /// Sets a word of a contract's storage.
    pub fn set_storage(
        &mut self,
        address: &Address,
        slot: &[u8; 32],
        word: &[u8; 32],
    ) -> Result<(), StoreError> {
        let value = (*word != [0; 32]).then_some(word.as_slice());
        self.put(&storage_key(address, slot), value)
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
        BlockState { snapshot, lthash: Arc::new(lthash), changed: keys, dex: self.dex }
    }
}

/// Of a block that stands alone: there are none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAncestors;

impl Ancestors for NoAncestors {
    fn block_id(&self, _height: u64) -> Result<Option<BlockId>, StoreError> {
        Ok(None)
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
            dex: Dex::default(),
        };
        (records, state)
    }

    #[test]
    fn an_empty_account_leaves_no_entry() {
        let (_, parent) = empty();
        let mut working = WorkingState::new(&parent, &NoAncestors);
        working.set_account(&Address([1; 20]), &Account::plain(0, 5)).unwrap();
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
        let mut working = WorkingState::new(&parent, &NoAncestors);
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
            let mut working = WorkingState::new(&parent, &NoAncestors);
            working.put(b"k", Some(value)).unwrap();
            working.finish()
        };
        let (a, b) = (child(b"a"), child(b"b"));
        assert_eq!(a.snapshot.get(b"k").unwrap().as_deref(), Some(b"a".as_slice()));
        assert_eq!(b.snapshot.get(b"k").unwrap().as_deref(), Some(b"b".as_slice()));
        assert_ne!(a.lthash.digest(), b.lthash.digest());
    }
}

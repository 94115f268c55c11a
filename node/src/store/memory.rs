//! A store that lives as long as its process: for tests and for networks simulated in one process.

use std::{collections::BTreeMap, sync::RwLock};

use super::{ChainStore, StoreError, Visit, WriteBatch};

/// Keys and values in a `BTreeMap`.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    mark: RwLock<Option<Vec<u8>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

fn poisoned<T>(_: T) -> StoreError {
    StoreError::Io("a thread panicked while it held the in-memory store".into())
}

impl ChainStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.entries.read().map_err(poisoned)?.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for (key, value) in self.entries.read().map_err(poisoned)?.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut entries = self.entries.write().map_err(poisoned)?;
        for (key, value) in batch.entries {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn put_mark(&self, bytes: &[u8]) -> Result<(), StoreError> {
        *self.mark.write().map_err(poisoned)? = Some(bytes.to_vec());
        Ok(())
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.mark.read().map_err(poisoned)?.clone())
    }
}

//! A store that forgets when the process ends: for tests, and for a node whose disk failed.

use std::collections::BTreeMap;

use super::{Batch, PeerStore, Saved, StoreError, format};

/// Keeps encoded pairs, so that it goes through the same format as the one on disk.
#[derive(Debug, Default)]
pub struct MemoryStore {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl PeerStore for MemoryStore {
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        for write in &batch.writes {
            match format::encode(write) {
                (key, Some(value)) => drop(self.pairs.insert(key, value)),
                (key, None) => drop(self.pairs.remove(&key)),
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<Saved, StoreError> {
        let mut saved = Saved::default();
        for (key, value) in &self.pairs {
            format::decode(key, value, &mut saved)
                .map_err(|error| StoreError::Database { path: "memory".into(), reason: error.to_string() })?;
        }
        Ok(saved)
    }
}

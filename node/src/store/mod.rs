//! Where the chain is kept: ordered keys and values, written in atomic batches.
//!
//! [`ChainStore`] is what a store must be able to do; [`SledStore`] does it on disk and
//! [`MemoryStore`] in memory. [`Records`] knows which key holds what.
//!
//! Provided: a batch is there wholly or not at all after any crash; what was flushed stays; batches
//! survive in the order they were applied, so a crash loses a suffix of the unflushed ones.
//! Not provided: protection from a disk that lies about having written, or that alters bytes later.
//! Damage that shows up as an impossible value is reported as [`StoreError::Damaged`].

mod bloom;
mod memory;
mod records;
mod sled;

use std::{fmt, ops::ControlFlow};

pub use self::{
    bloom::LogBloom,
    memory::MemoryStore,
    records::{FORMAT_VERSION, FinalizedRecord, Records, TxPlace},
    sled::{CACHE_BYTES_DEFAULT, SledStore},
};

/// Why the store did not do what it was asked to. All but [`StoreError::Locked`] and the two of a
/// wrong chain mean that this node cannot go on: stop it, mend the cause, start it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused to read or write: disk full, no permission, descriptors exhausted.
    #[error("the chain store cannot read or write: {0}; free disk space or mend the disk, then start again")]
    Io(String),
    /// What was read cannot have been written by us.
    #[error(
        "the chain store is damaged: {what}; move its directory away and start again, the node fetches \
         the chain from its peers"
    )]
    Damaged {
        /// What was found, and where.
        what: String,
    },
    /// Another process holds the store open.
    #[error("the chain store is in use by another process; stop the other ghostd or use another --home")]
    Locked,
    /// The store belongs to another chain.
    #[error(
        "the chain store is of genesis {found}, the configured genesis is {expected}; use another --home, or the genesis file this one was made with"
    )]
    OtherGenesis {
        /// Genesis of the store.
        found: String,
        /// Genesis that was asked for.
        expected: String,
    },
    /// The store was written by an incompatible version.
    #[error(
        "the chain store has format {found}, this ghostd reads format {supported}; use the version that wrote it, or move the directory away and sync again"
    )]
    OtherFormat {
        /// Version in the store.
        found: u32,
        /// Version this build reads.
        supported: u32,
    },
}

impl StoreError {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

/// Puts and removals that happen together or not at all. Later ones win over earlier ones.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    /// Key and new value; `None` removes.
    pub entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl WriteBatch {
    /// Sets a value.
    pub fn put(&mut self, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        self.entries.push((key, Some(value.into())));
    }

    /// Removes a key; nothing happens if it is not there.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.entries.push((key, None));
    }

    /// True if nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Is shown a key and its value; says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered keys and values. Shared between threads: reads go on while one thread writes.
pub trait ChainStore: Send + Sync + fmt::Debug {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the keys from `from` up to but not including `to`, ascending, until told to break.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Applies a batch atomically. Readers may see it at once; a crash may still lose it.
    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Returns when everything applied before is durable (one `fsync`).
    fn flush(&self) -> Result<(), StoreError>;
}

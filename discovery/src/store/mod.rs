//! What is known about peers, kept across restarts.
//!
//! The cores collect changes; every second the shell applies them as one [`Batch`]. A batch is atomic and
//! on disk when [`PeerStore::apply`] returns.
//!
//! # Loss window
//! After `kill -9` at most the changes of the last second before, and of the batch being written, are
//! missing: about 2 seconds of what was learned. Nothing else depends on them. After a loss of power it
//! is also whatever the file system had not written.

mod disk;
mod export;
mod format;
mod mark;
mod memory;
mod merge;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use ghost_proto::PeerId;

use crate::{
    book::{Change, Row},
    conduct::Story,
    dial::Anchor,
};

pub use disk::{Opened, SledStore};
pub use export::{Export, ExportError};
pub use format::FORMAT_VERSION;
pub use memory::MemoryStore;
pub use merge::{Merged, merge};

/// Most writes in one batch: 4,096 × at most 2.5 KiB = 10 MiB, in practice about 1 MiB.
pub const BATCH_MAX: usize = 4096;

/// Everything that is kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Saved {
    /// The secret of the address book. `None` in a new store: draw one and write it first.
    pub secret: Option<[u8; 16]>,
    /// Highest sequence number of our own records.
    pub own_sequence: u64,
    /// The address book, with the times of the last success.
    pub rows: Vec<Row>,
    /// Whom to dial first.
    pub anchors: Vec<Anchor>,
    /// Conduct and bans.
    pub stories: Vec<(PeerId, Story)>,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// See [`Saved::secret`].
    Secret([u8; 16]),
    /// See [`Saved::own_sequence`].
    OwnSequence(u64),
    /// See [`Saved::anchors`].
    Anchors(Vec<Anchor>),
    /// One entry of the book.
    Entry(Change),
    /// One story, or its end.
    Story(PeerId, Option<Story>),
}

/// Changes that become true together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// In order; a later one wins.
    pub writes: Vec<Write>,
}

/// Why the store can't be used. The node runs on without it, and says so.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path} is in use by another process; stop the other ghostd, or use another --home")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The file system refuses: rights, space, or the disk.
    #[error("{path}: {source}; check the rights and the space of that folder")]
    Io {
        /// The store.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The database failed.
    #[error(
        "the peer store {path} failed: {reason}; restart ghostd, and if it fails again move the folder away"
    )]
    Database {
        /// The store.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// A place to keep what is known about peers. There is one on disk and one in memory.
pub trait PeerStore: Send {
    /// Makes the batch true, all of it or nothing. Blocks until it is on disk: up to some 100 ms.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was written. Give the batch back to the cores and try again later.
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Everything that is kept.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be read.
    fn load(&self) -> Result<Saved, StoreError>;
}

impl Saved {
    /// The writes that make an empty store hold this.
    pub fn into_writes(self) -> Vec<Write> {
        let mut writes = Vec::with_capacity(self.rows.len() + self.stories.len() + 3);
        writes.extend(self.secret.map(Write::Secret));
        writes.push(Write::OwnSequence(self.own_sequence));
        writes.push(Write::Anchors(self.anchors));
        writes.extend(self.rows.into_iter().map(|row| Write::Entry(Change::Put(row))));
        writes.extend(self.stories.into_iter().map(|(peer, story)| Write::Story(peer, Some(story))));
        writes
    }
}

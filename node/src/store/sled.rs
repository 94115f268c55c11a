//! The store on disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Mutex,
};

use super::{ChainStore, StoreError, Visit, WriteBatch, mark_file::MarkFile};

/// Page cache in bytes unless configured otherwise: 32 MiB. Sixteen nodes on one laptop then take
/// 512 MiB for it.
pub const CACHE_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;

/// One sled tree. All of the chain is in one tree, because only then is a batch atomic.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    mark: Mutex<MarkFile>,
}

impl SledStore {
    /// Opens the store in a directory, or makes an empty one there. Its mark is the file `DIRECTORY.mark`.
    ///
    /// `cache_bytes` bounds the page cache; 1 MiB is the least that makes sense, and below
    /// [`CACHE_BYTES_DEFAULT`] reads of accounts that rarely move go to the disk.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Io`] or [`StoreError::Damaged`]; each says what to do.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(cache_bytes)
            // Durability is asked for where it is needed; a timer would only add writes.
            .flush_every_ms(None);
        // sled panics on some damaged files instead of returning an error. Nothing of it is left
        // when it does, so there is nothing to be unwind-unsafe about.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| StoreError::damaged(format!("{} does not open", directory.display())))?;
        let db = opened.map_err(|error| convert(error, directory))?;
        let mark = directory.with_added_extension("mark");
        let mark =
            MarkFile::open(&mark).map_err(|error| StoreError::Io(format!("{}: {error}", mark.display())))?;
        Ok(Self { db, mark: Mutex::new(mark) })
    }
}

fn convert(error: sled::Error, directory: &Path) -> StoreError {
    match error {
        // sled reports a held lock as an I/O error with this text and no kind of its own.
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => StoreError::Locked,
        sled::Error::Io(error) => StoreError::Io(format!("{}: {error}", directory.display())),
        error => StoreError::damaged(format!("{}: {error}", directory.display())),
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        convert(error, Path::new("sled"))
    }
}

impl ChainStore for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for entry in self.db.range(from..to) {
            let (key, value) = entry?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut sled_batch = sled::Batch::default();
        for (key, value) in batch.entries {
            match value {
                Some(value) => sled_batch.insert(key, value),
                None => sled_batch.remove(key),
            }
        }
        Ok(self.db.apply_batch(sled_batch)?)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }

    fn put_mark(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = self.mark.lock().expect("no code panics while it holds the mark");
        file.write(bytes).map_err(|error| StoreError::Io(format!("the mark beside the chain store: {error}")))
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.mark.lock().expect("no code panics while it holds the mark").bytes().map(<[u8]>::to_vec))
    }
}

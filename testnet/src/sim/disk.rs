//! Disks that a simulated crash tears: what was flushed stays, and of what was not, a prefix.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use ghost_node::store::{CACHE_BYTES_DEFAULT, ChainStore, SledStore, StoreError, Visit, WriteBatch};
use rand::{Rng, RngExt};
use tempfile::TempDir;

/// The file in which sled keeps everything.
const LOG: &str = "db";

/// The directory of the store; beside it stands its mark.
const CHAIN: &str = "chain";

/// What a node's chain is kept on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskKind {
    /// A map in memory with the promises of [`ChainStore`].
    #[default]
    Memory,
    /// The real store, on files in a temporary directory.
    Sled,
}

/// The disk of one node, through all its lives.
#[derive(Debug)]
pub struct Disk(Medium);

#[derive(Debug)]
enum Medium {
    Memory(Arc<MemoryDisk>),
    /// The directory of each life: a torn copy of the one before. Earlier ones are kept until the
    /// end, since the tasks of a killed node may still hold them open.
    Sled(Vec<(TempDir, Arc<AtomicU64>)>),
}

/// sled, and how long its log was when it was last known to be durable.
#[derive(Debug)]
struct Marked {
    store: SledStore,
    log: PathBuf,
    durable: Arc<AtomicU64>,
}

impl ChainStore for Marked {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.store.scan(from, to, visit)
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.store.apply(batch)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()?;
        let length = fs::metadata(&self.log).map_err(|error| StoreError::Io(error.to_string()))?.len();
        self.durable.store(length, Ordering::Relaxed);
        Ok(())
    }

    fn put_mark(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.put_mark(bytes)
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.mark()
    }
}

impl Disk {
    /// An empty one.
    pub fn new(kind: DiskKind) -> io::Result<Self> {
        Ok(Self(match kind {
            DiskKind::Memory => Medium::Memory(Arc::default()),
            DiskKind::Sled => Medium::Sled(vec![(tempfile::tempdir()?, Arc::default())]),
        }))
    }

    /// Opens it for a life.
    pub fn open(&self) -> Result<Arc<dyn ChainStore>, StoreError> {
        Ok(match &self.0 {
            Medium::Memory(disk) => disk.clone(),
            Medium::Sled(lives) => {
                let (dir, durable) = lives.last().expect("there is one from the start");
                let chain = dir.path().join(CHAIN);
                let store = SledStore::open(&chain, CACHE_BYTES_DEFAULT)?;
                Arc::new(Marked { store, log: chain.join(LOG), durable: durable.clone() })
            }
        })
    }

    /// The power fails: of the batches that were not flushed, an arbitrary number of the last is gone,
    /// and with sled the write under way is torn. What the killed node still writes goes nowhere.
    pub fn crash(&mut self, rng: &mut impl Rng) -> io::Result<()> {
        match &mut self.0 {
            Medium::Memory(disk) => *disk = Arc::new(disk.torn(rng)),
            Medium::Sled(lives) => {
                let next = tempfile::tempdir()?;
                let (last, durable) = lives.last().expect("there is one from the start");
                copy(last.path(), next.path())?;
                tear(&next.path().join(CHAIN).join(LOG), durable.load(Ordering::Relaxed), rng)?;
                lives.push((next, Arc::default()));
            }
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Cuts the log anywhere behind its durable part.
fn tear(log: &Path, durable: u64, rng: &mut impl Rng) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(log)?;
    let length = file.metadata()?.len();
    file.set_len(rng.random_range(durable.min(length)..=length))
}

#[derive(Debug, Clone, Default)]
struct Contents {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For each unflushed batch, what its keys held before.
    undo: Vec<WriteBatch>,
    mark: Option<Vec<u8>>,
}

/// Keys and values in memory that remember how to forget.
#[derive(Debug, Default)]
struct MemoryDisk(Mutex<Contents>);

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("no code panics while it holds the disk")
    }

    fn torn(&self, rng: &mut impl Rng) -> Self {
        let mut left = self.lock().clone();
        let kept = rng.random_range(0..=left.undo.len());
        for batch in left.undo.drain(kept..).rev() {
            for (key, before) in batch.entries.into_iter().rev() {
                match before {
                    Some(value) => left.entries.insert(key, value),
                    None => left.entries.remove(&key),
                };
            }
        }
        left.undo.clear();
        Self(Mutex::new(left))
    }
}

impl ChainStore for MemoryDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().entries.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        // Copied, since what is visited may read the store again.
        let range: Vec<_> = {
            let contents = self.lock();
            let range = contents.entries.range(from.to_vec()..to.to_vec());
            range.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        for (key, value) in range {
            if let ControlFlow::Break(()) = visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut contents = self.lock();
        let mut undo = WriteBatch::default();
        for (key, value) in batch.entries {
            let before = match value {
                Some(value) => contents.entries.insert(key.clone(), value),
                None => contents.entries.remove(&key),
            };
            undo.entries.push((key, before));
        }
        contents.undo.push(undo);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.lock().undo.clear();
        Ok(())
    }

    fn put_mark(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.lock().mark = Some(bytes.to_vec());
        Ok(())
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().mark.clone())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn batch(value: u8) -> WriteBatch {
        let mut batch = WriteBatch::default();
        batch.put(vec![1], [value]);
        batch.put(vec![100 + value], [value]);
        batch.remove(vec![99 + value]);
        batch
    }

    /// The value under 1, and the keys above 100.
    fn read(store: &dyn ChainStore) -> (Option<u8>, Vec<u8>) {
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            keys.push(key[0]);
            ControlFlow::Continue(())
        };
        store.scan(&[100], &[255], &mut visit).unwrap();
        (store.get(&[1]).unwrap().map(|value| value[0]), keys)
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_a_prefix_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut disk = Disk::new(DiskKind::Memory).unwrap();
            let store = disk.open().unwrap();
            for value in 1..=6 {
                store.apply(batch(value)).unwrap();
                if value == 3 {
                    store.flush().unwrap();
                }
            }
            disk.crash(&mut ChaCha12Rng::seed_from_u64(seed)).unwrap();
            // A killed node that still writes harms nobody.
            store.apply(batch(50)).unwrap();
            let (value, keys) = read(&*disk.open().unwrap());
            let value = value.unwrap();
            assert_eq!(keys, [100 + value], "all of a batch or nothing");
            seen.insert(value);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
    }

    #[test]
    fn a_torn_sled_opens_with_everything_that_was_flushed() {
        for seed in 0..8 {
            let mut disk = Disk::new(DiskKind::Sled).unwrap();
            let store = disk.open().unwrap();
            for value in 1..=6 {
                store.apply(batch(value)).unwrap();
                if value == 3 {
                    store.flush().unwrap();
                }
            }
            disk.crash(&mut ChaCha12Rng::seed_from_u64(seed)).unwrap();
            let (value, keys) = read(&*disk.open().unwrap());
            let value = value.expect("what was flushed is there");
            assert!((3..=6).contains(&value));
            assert_eq!(keys, [100 + value]);
        }
    }
}

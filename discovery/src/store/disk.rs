//! The store on disk: a sled database of its own, and two plain files beside it.

use std::{
    collections::BTreeMap,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::warn;

use super::{Batch, PeerStore, Saved, StoreError, format, mark};

/// Page cache: the whole book is about 10 MiB, and it is read once.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Damaged stores that may lie beside the good one.
const SET_ASIDE_MAX: u32 = 1000;
/// Tries to open a store that is in use, and the pause between them: half a second in all.
const IN_USE_TRIES: u32 = 20;
const IN_USE_PAUSE: Duration = Duration::from_millis(25);
const GENERATION_KEY: &[u8] = b"mg";
const COUNT_KEY: &[u8] = b"mc";
/// What the mark holds besides the generation.
const MARKED_KEYS: [&[u8]; 3] = [b"ms", b"mq", b"ma"];

/// A store on disk. Beside its folder `PATH` it keeps `PATH.mark` (rewritten with each batch, under
/// 1 KiB) and `PATH.copy` (rewritten when the store is opened, as large as what it holds).
pub struct SledStore {
    path: PathBuf,
    db: sled::Db,
    generation: u64,
    count: u64,
}

/// A store that was opened, and what it held.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SledStore,
    /// What it held.
    pub saved: Saved,
    /// If the store was damaged: what happened, where the old one is, what was saved from it, and what
    /// to do. Show it to the operator; the node can go on.
    pub damage: Option<String>,
}

type Stored = BTreeMap<Vec<u8>, Vec<u8>>;

enum Trouble {
    /// Not the store's fault: nothing is set aside.
    Fatal(StoreError),
    /// The store is damaged; these pairs could be read.
    Damaged { reason: String, salvaged: Stored },
}

impl SledStore {
    /// Opens the store in the folder `path`, makes it if there is none, and checks all of it. A damaged one
    /// is renamed to `path.damaged-N` and mended as far as possible: what can still be read, over the copy
    /// from the last good start, with secret, sequence and anchors from the last batch.
    ///
    /// Blocks: about 20 ms for each 10,000 entries, and up to half a second for another process to let go.
    ///
    /// # Errors
    /// [`StoreError`] if another process holds it or the folder can't be used. Damage is no error.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        let mut opened = Self::try_open(path);
        // A store that was just closed may be held a moment longer by sled's own threads, or by a
        // ghostd that is about to end.
        for _ in 0..IN_USE_TRIES {
            if !matches!(opened, Err(Trouble::Fatal(StoreError::InUse { .. }))) {
                break;
            }
            std::thread::sleep(IN_USE_PAUSE);
            opened = Self::try_open(path);
        }
        match opened {
            Ok((store, pairs)) => {
                store.write_copy(&pairs)?;
                Ok(Opened { saved: decode_all(&pairs).0, store, damage: None })
            }
            Err(Trouble::Fatal(error)) => Err(error),
            Err(Trouble::Damaged { reason, salvaged }) => Self::mend(path, &reason, salvaged),
        }
    }

    /// The database, for tests that damage it.
    #[cfg(test)]
    pub(super) fn raw(&self) -> &sled::Db {
        &self.db
    }

    fn try_open(path: &Path) -> Result<(Self, Stored), Trouble> {
        // # Correctness
        // sled 0.34 panics on some kinds of damage instead of answering with an error, so the panic
        // is caught here, and only here. Nothing of ours is half-changed by it: the database is dropped.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = open_db(path).map_err(|error| trouble(path, error))?;
            let pairs = read_all(path, &db)?;
            Ok((db, pairs))
        }));
        let (db, mut pairs) = opened.unwrap_or_else(|panic| {
            Err(Trouble::Damaged { reason: panic_text(&*panic), salvaged: Stored::new() })
        })?;
        let marked = mark::read(&mark::mark_path(path)).map_or(0, |mark| mark.generation);
        let number = |key: &[u8]| -> Option<u64> {
            let payload = format::unsealed(key, pairs.get(key)?).ok()?;
            payload.try_into().ok().map(u64::from_be_bytes)
        };
        let (generation, count) = (number(GENERATION_KEY).unwrap_or(0), number(COUNT_KEY));
        pairs.remove(GENERATION_KEY);
        pairs.remove(COUNT_KEY);
        let (_, bad) = decode_all(&pairs);
        let reason = if let Some(reason) = bad {
            Some(reason)
        } else if generation < marked {
            Some(format!("it is at batch {generation}, and batch {marked} was on disk"))
        } else if pairs.is_empty() {
            None
        } else if !pairs.contains_key(&b"mv"[..]) {
            Some("it has no format version".into())
        } else if count != Some(pairs.len() as u64) {
            Some(format!("it holds {} pairs instead of {}", pairs.len(), count.unwrap_or(0)))
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Trouble::Damaged { reason, salvaged: pairs });
        }
        Ok((Self { path: path.into(), db, generation, count: pairs.len() as u64 }, pairs))
    }

    fn mend(path: &Path, reason: &str, salvaged: Stored) -> Result<Opened, StoreError> {
        let mark = mark::read(&mark::mark_path(path)).unwrap_or_default();
        let copy = mark::read(&mark::copy_path(path)).unwrap_or_default();
        // Of another version nothing can be trusted to mean what it seems to.
        let mut pairs = Stored::new();
        let layers = [copy.pairs, mark.pairs];
        let layers = layers.into_iter().flatten().map(|(key, value)| (key.to_vec(), value.to_vec()));
        let (from_copy, read) =
            if is_other_version(&salvaged) { (None, None) } else { (Some(layers), Some(salvaged)) };
        let mut good = |key: Vec<u8>, value: Vec<u8>| {
            if key != b"mv" && format::decode(&key, &value, &mut Saved::default()).is_ok() {
                pairs.insert(key, value);
            }
        };
        for (key, value) in from_copy.into_iter().flatten() {
            good(key, value);
        }
        for (key, value) in read.into_iter().flatten() {
            // The mark is younger than whatever the database still shows.
            if !MARKED_KEYS.contains(&&key[..]) {
                good(key, value);
            }
        }
        let aside = set_aside(path)?;
        let io = |source| StoreError::Io { path: path.into(), source };
        // The new database begins where the old one ended, so the mark has to stand back meanwhile.
        let mark_path = mark::mark_path(path);
        if mark_path.exists() {
            std::fs::remove_file(&mark_path).map_err(io)?;
        }
        let (mut store, _) = Self::try_open(path).map_err(|trouble| match trouble {
            Trouble::Fatal(error) => error,
            Trouble::Damaged { reason, .. } => StoreError::Database { path: path.into(), reason },
        })?;
        store.generation = mark.generation;
        store.apply_pairs(pairs.clone().into_iter().map(|(key, value)| (key, Some(value))).collect())?;
        store.write_copy(&pairs)?;
        let saved = decode_all(&pairs).0;
        let damage = format!(
            "the peer store {} was damaged ({reason}); it was set aside as {}. {} addresses, {} anchors and {} \
             conduct records were saved. Nothing needs to be done; delete the old folder if you don't want to \
             examine it, and check the disk if this happens again",
            path.display(),
            aside.display(),
            saved.rows.len(),
            saved.anchors.len(),
            saved.stories.len(),
        );
        warn!(store = %path.display(), aside = %aside.display(), reason, "damaged peer store set aside");
        Ok(Opened { store, saved, damage: Some(damage) })
    }

    fn apply_pairs(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let mut count = self.count;
        let version = (self.count == 0).then(format::version_pair);
        let version = version.into_iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in changes.into_iter().chain(version) {
            let known = self.db.contains_key(&key).map_err(|error| self.error(error))?;
            match (value, known) {
                (Some(value), known) => {
                    count += u64::from(!known);
                    batch.insert(key, value);
                }
                (None, true) => {
                    count -= 1;
                    batch.remove(key);
                }
                (None, false) => {}
            }
        }
        let generation = self.generation + 1;
        for (key, number) in [(GENERATION_KEY, generation), (COUNT_KEY, count)] {
            batch.insert(key, format::sealed(key, &number.to_be_bytes()));
        }
        self.db.apply_batch(batch).map_err(|error| self.error(error))?;
        self.count = count;
        self.generation = generation;
        self.db.flush().map_err(|error| self.error(error))?;
        let marked = MARKED_KEYS.map(|key| (key, self.db.get(key).ok().flatten()));
        let marked = marked.iter().filter_map(|(key, value)| Some((*key, &value.as_ref()?[..])));
        // After the flush: what the mark promises is on disk.
        mark::write(&mark::mark_path(&self.path), generation, marked).map_err(|source| self.io(source))
    }

    fn write_copy(&self, pairs: &Stored) -> Result<(), StoreError> {
        let path = mark::copy_path(&self.path);
        let pairs = pairs.iter().map(|(key, value)| (&key[..], &value[..]));
        mark::write(&path, self.generation, pairs).map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }

    fn error(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(source) => self.io(source),
            other => StoreError::Database { path: self.path.clone(), reason: other.to_string() },
        }
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SledStore({}, {} pairs at batch {})", self.path.display(), self.count, self.generation)
    }
}

impl PeerStore for SledStore {
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.apply_pairs(batch.writes.iter().map(format::encode).collect())
    }

    fn load(&self) -> Result<Saved, StoreError> {
        let mut pairs = Stored::new();
        for pair in self.db.iter() {
            let (key, value) = pair.map_err(|error| self.error(error))?;
            if key != GENERATION_KEY && key != COUNT_KEY {
                pairs.insert(key.to_vec(), value.to_vec());
            }
        }
        match decode_all(&pairs) {
            (saved, None) => Ok(saved),
            (_, Some(reason)) => Err(StoreError::Database { path: self.path.clone(), reason }),
        }
    }
}

fn open_db(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::LowSpace)
        // `apply` flushes; a thread that flushes in between would only blur the loss window.
        .flush_every_ms(None)
        .open()
}

fn read_all(path: &Path, db: &sled::Db) -> Result<Stored, Trouble> {
    let mut pairs = Stored::new();
    for pair in db.iter() {
        match pair {
            Ok((key, value)) => drop(pairs.insert(key.to_vec(), value.to_vec())),
            Err(error) => {
                return Err(match trouble(path, error) {
                    Trouble::Damaged { reason, .. } => Trouble::Damaged { reason, salvaged: pairs },
                    fatal @ Trouble::Fatal(_) => fatal,
                });
            }
        }
    }
    Ok(pairs)
}

/// What the pairs mean, and what is wrong with those that mean nothing.
fn decode_all(pairs: &Stored) -> (Saved, Option<String>) {
    let mut saved = Saved::default();
    let (mut bad, mut first) = (0u32, None);
    for (key, value) in pairs {
        if let Err(error) = format::decode(key, value, &mut saved) {
            bad += 1;
            first.get_or_insert(error);
        }
    }
    let reason = first.map(|first| format!("{bad} of its values can't be read; the first: {first}"));
    (saved, reason)
}

fn is_other_version(pairs: &Stored) -> bool {
    pairs.get(&b"mv"[..]).is_some_and(|value| {
        matches!(format::decode(b"mv", value, &mut Saved::default()), Err(format::FormatError::Version(_)))
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the database gave up");
    text.lines().next().unwrap_or_default().to_owned()
}

fn trouble(path: &Path, error: sled::Error) -> Trouble {
    use io::ErrorKind::{
        AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem, StorageFull, WouldBlock,
    };
    match error {
        sled::Error::Io(source)
            if source.kind() == WouldBlock || source.to_string().contains("could not acquire lock") =>
        {
            Trouble::Fatal(StoreError::InUse { path: path.into() })
        }
        sled::Error::Io(source)
            if [PermissionDenied, ReadOnlyFilesystem, StorageFull, NotADirectory, AlreadyExists]
                .contains(&source.kind()) =>
        {
            Trouble::Fatal(StoreError::Io { path: path.into(), source })
        }
        other => Trouble::Damaged { reason: other.to_string(), salvaged: Stored::new() },
    }
}

fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let io = |source| StoreError::Io { path: path.into(), source };
    for n in 1..=SET_ASIDE_MAX {
        let aside = mark::beside(path, &format!(".damaged-{n}"));
        if !aside.exists() {
            std::fs::rename(path, &aside).map_err(io)?;
            return Ok(aside);
        }
    }
    Err(io(io::Error::other("a thousand damaged stores lie beside it; delete them")))
}

//! A wallet's state on disk.

use std::path::Path;

use ghost_wallet_channel::{keys::WalletKeys, session::StoreWrite, storage::Sealer};

use super::daemon::WalletdError;

/// Keys and values.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Sealed entries in a sled tree. One process at a time.
#[derive(Debug)]
pub(super) struct WalletStore {
    db: sled::Db,
    sealer: Sealer,
}

impl WalletStore {
    /// Opens it, or makes it. Entries that do not open are another wallet's or altered: that is an error, since going on
    /// without them could use a key twice.
    pub(super) fn open(path: &Path, keys: &WalletKeys) -> Result<(Self, Entries), WalletdError> {
        let opened = sled::Config::new().path(path).cache_capacity(8 << 20).flush_every_ms(None).open();
        let db = opened.map_err(|error| match &error {
            sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => {
                WalletdError::InUse(path.to_owned())
            }
            _ => WalletdError::Store(format!("{}: {error}", path.display())),
        })?;
        let store = Self { db, sealer: Sealer::new(keys) };
        let mut entries = Vec::new();
        for entry in store.db.iter() {
            let (name, value) = entry.map_err(|error| WalletdError::Store(error.to_string()))?;
            let opened = store.sealer.open(&name, &value);
            entries.push(opened.ok_or_else(|| {
                WalletdError::Store(format!(
                    "{} holds entries that this wallet did not write; move it away to begin without channels",
                    path.display()
                ))
            })?);
        }
        entries.sort();
        Ok((store, entries))
    }

    /// One durable batch.
    pub(super) fn apply(&self, writes: &[StoreWrite]) -> Result<(), WalletdError> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for write in writes {
            let name = self.sealer.name(&write.key).to_vec();
            match &write.value {
                Some(value) => batch.insert(name, self.sealer.seal(&write.key, value, &mut rand::rng())),
                None => batch.remove(name),
            }
        }
        let failed = |error: sled::Error| WalletdError::Store(error.to_string());
        self.db.apply_batch(batch).map_err(failed)?;
        self.db.flush().map_err(failed)?;
        Ok(())
    }

    /// The value of one key.
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let name = self.sealer.name(key);
        let value = self.db.get(name).ok()??;
        self.sealer.open(&name, &value).map(|(_, value)| value)
    }
}

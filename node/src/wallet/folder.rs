//! The directory a wallet lives in.
//!
//! ```text
//! wallet.json   the seed, sealed with a passphrase      only its owner may read it
//! state/        channels and all else, sealed with a key of the seed
//! files/        what peers have sent
//! socket        while a process has the wallet open: where others ask it
//! ```

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ghost_proto::PublicKey;
use ghost_wallet_channel::{
    keystore::{self, Cost, KeystoreError},
    secret::Secret,
};

/// Longest keystore that is read.
const KEYSTORE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with a wallet's directory. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no wallet there.
    #[error("there is no wallet at {dir}\n  to make one: ghostd wallet new --wallet {dir}", dir = .0.display())]
    Missing(PathBuf),
    /// There is one.
    #[error("there is a wallet at {} already; nothing in it was changed\n  choose another --wallet, or move this one away", .0.display())]
    Exists(PathBuf),
    /// Others can read it.
    #[error("{file} can be read by others (mode {mode:03o}); it holds a sealed key\n  to mend: chmod 600 {file}", file = .path.display())]
    Permissions {
        /// The keystore.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not open.
    #[error("{}: {source}", .path.display())]
    Keystore {
        /// The keystore.
        path: PathBuf,
        /// Why.
        source: KeystoreError,
    },
    /// The file system refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { what, path, source }
}

/// A wallet's directory.
#[derive(Debug, Clone)]
pub struct WalletFolder {
    root: PathBuf,
}

impl WalletFolder {
    /// At this place, whether or not there is a wallet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The sealed seed.
    pub fn keystore_path(&self) -> PathBuf {
        self.root.join("wallet.json")
    }

    /// Where channels are kept.
    pub fn state_path(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Where files of peers go.
    pub fn files_path(&self) -> PathBuf {
        self.root.join("files")
    }

    /// Where the process that has the wallet open is asked.
    pub fn socket_path(&self) -> PathBuf {
        self.root.join("socket")
    }

    /// Makes a wallet of a seed. Nothing is overwritten.
    pub fn create(&self, seed: &Secret, passphrase: &str, cost: Cost) -> Result<(), FolderError> {
        let path = self.keystore_path();
        if path.exists() {
            return Err(FolderError::Exists(self.root.clone()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(failed("make", &self.root))?;
        let text = keystore::seal(seed, passphrase, cost, &mut rand::rng());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("make", &path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &path))
    }

    fn keystore(&self) -> Result<String, FolderError> {
        let path = self.keystore_path();
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::Missing(self.root.clone()));
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let mode = file.metadata().map_err(failed("read", &path))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FolderError::Permissions { path, mode });
        }
        let mut text = String::new();
        file.take(KEYSTORE_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", &path))?;
        Ok(text)
    }

    /// Whose wallet it is, by what the keystore says of itself.
    pub fn wallet(&self) -> Result<PublicKey, FolderError> {
        keystore::wallet_of(&self.keystore()?)
            .map_err(|source| FolderError::Keystore { path: self.keystore_path(), source })
    }

    /// The seed. Takes as long as the keystore's cost says.
    pub fn unlock(&self, passphrase: &str) -> Result<Secret, FolderError> {
        keystore::open(&self.keystore()?, passphrase)
            .map_err(|source| FolderError::Keystore { path: self.keystore_path(), source })
    }
}

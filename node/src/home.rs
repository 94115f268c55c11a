//! The directory a node lives in.
//!
//! ```text
//! config.toml    settings, with what each costs beside it
//! genesis.toml   which chain this is
//! node.key       who the node is to other peers          only its owner may read it
//! tor.key        who it is to peers behind Tor           likewise; made when it first uses Tor
//! operator.key   who may give it orders                  likewise
//! authority.key  proposes and votes; few nodes have one  likewise
//! accounts/      keys of accounts, for `ghostd tx send`  likewise
//! data/          the store
//! tor/           what Tor keeps: keys of onion services, guards, its directory
//! control.sock   where its operator reaches a node that listens nowhere else
//! lock           held while a node runs here; says which process
//! address        where the running node listens, one multiaddr a line
//! ```
//!
//! The command line finds its own node through `address`, so port 0 is as good as any.

mod keys;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ghost_proto::{Genesis, KeyPair, Multiaddr};
use multiaddr::Protocol;
use rustix::fs::{FlockOperation, flock};

pub use keys::{KEY_FILE_BYTES_MAX, fresh_key, read_key_file, write_key_file};

/// Longest genesis file that is read, in bytes: 128 authorities and 16,000 accounts fit.
pub const GENESIS_FILE_BYTES_MAX: u64 = 2 << 20;

/// What is wrong with a home. Every text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// There is no home there.
    #[error("{home} is no ghostd home: it has no config.toml\n  to make one: ghostd init --home {home}", home = .0.display())]
    Missing(PathBuf),
    /// There is one already, and nothing in it is ever overwritten.
    #[error("{} is a ghostd home already; nothing in it was changed\n  choose another --home, or move this one away", .0.display())]
    Exists(PathBuf),
    /// Another process has it.
    #[error(
        "another ghostd{} runs on {}\n  stop that one first, or give this one another --home",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        .root.display()
    )]
    Locked {
        /// The home.
        root: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// No node runs here, so that there is nobody to ask.
    #[error(
        "no node runs on {home}\n  start it: ghostd run --home {home}\n  or ask another one: --node MULTIADDR",
        home = .0.display()
    )]
    NotRunning(PathBuf),
    /// A key that others can read is no secret.
    #[error(
        "{file} can be read by others (mode {mode:03o}); it holds a secret key\n  to mend: chmod 600 {file}",
        file = .path.display()
    )]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file that is no key.
    #[error("{}: {reason}\n  a key file holds the 64 hex digits of an ed25519 seed", .path.display())]
    BadKey {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A genesis file no chain can start from.
    #[error("{}: {source}", .path.display())]
    Genesis {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ghost_proto::genesis::GenesisError,
    },
    /// A file of the home says something it should not.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot {what} {}: {source}{}", .path.display(), hint(.source, .path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no randomness to make a key of.
    #[error("the system's random number generator failed: {0}")]
    Entropy(String),
}

/// What to do about what the file system said, on a line of its own; empty if that is for the text alone
/// to say.
fn hint(error: &io::Error, path: &Path) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound if path.extension().is_some_and(|extension| extension == "key") => {
            "name another key file, or put this one back from a copy; a new key is another identity"
        }
        io::ErrorKind::NotFound => "see that the path is right",
        io::ErrorKind::AlreadyExists => "nothing is overwritten: choose another name, or move that file away",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "let this user write there (chown, chmod, mount -o remount,rw), or use another --home"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that disk",
        _ => return String::new(),
    };
    format!("\n  {hint}")
}

/// Turns an [`io::Error`] into a [`HomeError`] that says what was tried on which file.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { what, path, source }
}

/// What a new home is filled with.
#[derive(Debug)]
pub struct Contents {
    /// `config.toml`.
    pub config: String,
    /// `genesis.toml`.
    pub genesis: String,
    /// `node.key`.
    pub node_key: KeyPair,
    /// `operator.key`.
    pub operator_key: KeyPair,
    /// `authority.key`, if the node is to propose and vote.
    pub authority_key: Option<KeyPair>,
    /// Keys under `accounts/`, by name without `.key`.
    pub accounts: Vec<(String, KeyPair)>,
}

/// A home that is there.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// `$GHOSTD_HOME`, else `~/.ghostd`, else `./.ghostd` for a process without a home of its own.
    pub fn default_root() -> PathBuf {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("GHOSTD_HOME").unwrap_or_else(|| set("HOME").unwrap_or_default().join(".ghostd"))
    }

    /// Opens a home that [`Self::create`] made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, HomeError> {
        let home = Self { root: root.into() };
        match home.config_path().try_exists() {
            Ok(true) => Ok(home),
            Ok(false) => Err(HomeError::Missing(home.root)),
            Err(source) => Err(failed("look into", &home.root)(source)),
        }
    }

    /// Makes a home. `config.toml` is written last: a home that was made half is none.
    ///
    /// # Errors
    /// [`HomeError::Exists`] if there is a `config.toml` or a `node.key` already.
    pub fn create(root: impl Into<PathBuf>, contents: &Contents) -> Result<Self, HomeError> {
        let home = Self { root: root.into() };
        if home.config_path().exists() || home.node_key_path().exists() {
            return Err(HomeError::Exists(home.root));
        }
        make_dir(&home.root)?;
        write_key_file(&home.node_key_path(), &contents.node_key)?;
        write_key_file(&home.operator_key_path(), &contents.operator_key)?;
        if let Some(key) = &contents.authority_key {
            write_key_file(&home.root.join("authority.key"), key)?;
        }
        if !contents.accounts.is_empty() {
            make_dir(&home.accounts_dir())?;
        }
        for (name, key) in &contents.accounts {
            write_key_file(&home.accounts_dir().join(format!("{name}.key")), key)?;
        }
        write_atomically(&home.genesis_path(), contents.genesis.as_bytes())?;
        write_atomically(&home.config_path(), contents.config.as_bytes())?;
        Ok(home)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the settings are.
    pub fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Where the genesis is.
    pub fn genesis_path(&self) -> PathBuf {
        self.root.join("genesis.toml")
    }

    /// Where the node's own key is.
    pub fn node_key_path(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// Where the operator's key is.
    pub fn operator_key_path(&self) -> PathBuf {
        self.root.join("operator.key")
    }

    /// Where keys of accounts are.
    pub fn accounts_dir(&self) -> PathBuf {
        self.root.join("accounts")
    }

    /// Where the store is. The store makes the directory.
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where a running node says how to reach it.
    pub fn address_path(&self) -> PathBuf {
        self.root.join("address")
    }

    /// A path from the configuration: relative ones start at the home.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// The chain this node is of.
    pub fn genesis(&self) -> Result<Genesis, HomeError> {
        read_genesis(&self.genesis_path()).map(|(genesis, _)| genesis)
    }

    /// Who the node is to other peers.
    pub fn node_key(&self) -> Result<KeyPair, HomeError> {
        read_key_file(&self.node_key_path())
    }

    /// Who the node is to peers behind Tor. Made when it is asked for the first time.
    pub fn tor_key(&self) -> Result<KeyPair, HomeError> {
        let path = self.root.join("tor.key");
        if !path.exists() {
            write_key_file(&path, &fresh_key()?)?;
        }
        read_key_file(&path)
    }

    /// Where Tor keeps what it must not forget. Made, for its owner alone, when it is asked for.
    pub fn tor_dir(&self) -> Result<PathBuf, HomeError> {
        let path = self.root.join("tor");
        make_dir(&path)?;
        Ok(path)
    }

    /// Where the operator reaches a node that listens nowhere else.
    pub fn control_path(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Who may give the node orders.
    pub fn operator_key(&self) -> Result<KeyPair, HomeError> {
        read_key_file(&self.operator_key_path())
    }

    /// Takes the home for this process.
    ///
    /// # Errors
    /// [`HomeError::Locked`] if another process has it. A lock dies with its process, so that none
    /// is ever left behind.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        // `running` holds a shared lock for an instant; a starting node must not mistake that for a
        // node, so it looks more than once.
        for attempt in 0..5 {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    file.set_len(0).map_err(failed("write", &path))?;
                    write!(file, "{}", std::process::id()).map_err(failed("write", &path))?;
                    return Ok(HomeLock { _file: file });
                }
                Err(rustix::io::Errno::WOULDBLOCK) if attempt < 4 => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(error) => return Err(failed("lock", &path)(error.into())),
            }
        }
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        Err(HomeError::Locked { root: self.root.clone(), pid: text.trim().parse().ok() })
    }

    /// The process of the node that runs here: `None` if none does, `Some(None)` if it did not say.
    pub fn running(&self) -> Result<Option<Option<u32>>, HomeError> {
        let path = self.root.join("lock");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Ok(Some(text.trim().parse().ok()))
            }
            Err(error) => Err(failed("lock", &path)(error.into())),
        }
    }

    /// Says where the node listens. Addresses of "every interface" are written as loopback, which is
    /// what a reader of this file can dial.
    pub fn write_addresses(&self, addresses: &[Multiaddr]) -> Result<(), HomeError> {
        let lines: String = addresses.iter().map(|address| format!("{}\n", dialable(address))).collect();
        write_atomically(&self.address_path(), lines.as_bytes())
    }

    /// Where the node that runs here listens.
    ///
    /// # Errors
    /// [`HomeError::NotRunning`] if none does, whatever an earlier one left behind.
    pub fn addresses(&self) -> Result<Vec<Multiaddr>, HomeError> {
        if self.running()?.is_none() {
            return Err(HomeError::NotRunning(self.root.clone()));
        }
        let path = self.address_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::Malformed {
                    path,
                    reason: "is not there yet: the node is still starting; ask again in a moment".into(),
                });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let malformed = |reason: String| HomeError::Malformed { path: path.clone(), reason };
        let addresses: Vec<Multiaddr> = text
            .lines()
            .map(|line| line.parse().map_err(|error| malformed(format!("`{line}` is no multiaddr: {error}"))))
            .collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(malformed("the node listens on no address; set network.listen".into()));
        }
        Ok(addresses)
    }

    /// Takes back what [`Self::write_addresses`] said.
    pub fn forget_addresses(&self) {
        let _ = fs::remove_file(self.address_path());
    }
}

/// Proof that no other process runs on a home; ends when dropped.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// Reads a genesis file: the chain, and the text as written.
pub fn read_genesis(path: &Path) -> Result<(Genesis, String), HomeError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(GENESIS_FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(failed("read", path))?;
    if text.len() as u64 > GENESIS_FILE_BYTES_MAX {
        return Err(HomeError::Malformed {
            path: path.to_owned(),
            reason: format!("is longer than {GENESIS_FILE_BYTES_MAX} bytes"),
        });
    }
    let genesis =
        Genesis::from_toml(&text).map_err(|source| HomeError::Genesis { path: path.to_owned(), source })?;
    Ok((genesis, text))
}

/// The address with "every interface" replaced by loopback.
pub fn dialable(address: &Multiaddr) -> Multiaddr {
    address
        .iter()
        .map(|part| match part {
            Protocol::Ip4(ip) if ip.is_unspecified() => Protocol::Ip4(Ipv4Addr::LOCALHOST),
            Protocol::Ip6(ip) if ip.is_unspecified() => Protocol::Ip6(Ipv6Addr::LOCALHOST),
            other => other,
        })
        .collect()
}

fn make_dir(path: &Path) -> Result<(), HomeError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

/// Readers see the old file or the new one, never half of one, also after a crash.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let unfinished = path.with_extension("unfinished");
    File::create(&unfinished)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(failed("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(failed("write", path))
}

#[cfg(test)]
mod tests;

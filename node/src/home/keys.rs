//! Files that hold one secret key each: 64 hex digits and a newline, readable by the owner alone.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use ghost_proto::KeyPair;
use rand::TryRng;
use zeroize::Zeroizing;

use super::{HomeError, failed};

/// Longest key file that is read, in bytes: 64 digits with room for white space.
pub const KEY_FILE_BYTES_MAX: u64 = 256;

/// A new key from the operating system's randomness.
pub fn fresh_key() -> Result<KeyPair, HomeError> {
    let mut seed = Zeroizing::new([0; 32]);
    rand::rngs::SysRng
        .try_fill_bytes(seed.as_mut())
        .map_err(|error| HomeError::Entropy(error.to_string()))?;
    Ok(KeyPair::from_seed(&seed))
}

/// Reads a key.
///
/// # Security
/// The permissions are those of the file that was opened, not of what the name meant before; a key
/// that its group or the world may read is refused. What was read is zeroized.
pub fn read_key_file(path: &Path) -> Result<KeyPair, HomeError> {
    let file = File::open(path).map_err(failed("read", path))?;
    let metadata = file.metadata().map_err(failed("read", path))?;
    let bad = |reason: String| HomeError::BadKey { path: path.to_owned(), reason };
    if !metadata.is_file() {
        return Err(bad("is not a file".into()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::Permissions { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize + 1));
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed("read", path))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(bad(format!("is longer than {KEY_FILE_BYTES_MAX} bytes")));
    }
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), seed.as_mut())
        .map_err(|_| bad(format!("has {} characters that are not a key", text.trim_ascii().len())))?;
    Ok(KeyPair::from_seed(&seed))
}

/// Writes a key to a file that is not there yet, and to the disk before it returns.
pub fn write_key_file(path: &Path, key: &KeyPair) -> Result<(), HomeError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("make", path))?;
    let mut line = Zeroizing::new([b'\n'; 65]);
    hex::encode_to_slice(key.seed().as_ref(), &mut line[..64]).expect("64 digits for 32 bytes");
    file.write_all(line.as_ref()).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

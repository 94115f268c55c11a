//! Two plain files beside the database.
//!
//! sled 0.34 drops everything behind a damaged place in its log without a word: one flipped bit and
//! the store opens empty. The **mark** notices that: it holds the generation that was on disk after the
//! last batch, and besides that the few things that must not be lost (the book's secret, our sequence
//! number, the anchors). The **copy** holds every pair as it was when the store was last opened in good
//! health; it is what a damaged store is mended from.
//!
//! ```text
//! generation u64; for each pair: varint length, key, varint length, value; BLAKE3 of all before, 32 bytes
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ghost_proto::layout::{Cursor, put_var_bytes};

const HASH_LEN: usize = 32;
/// Longest key or value taken from a file: a story with 16 events of 120 bytes is the longest.
const ITEM_BYTES_MAX: usize = 64 * 1024;

/// Pairs at a generation.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pub(super) generation: u64,
    pub(super) pairs: Vec<(Bytes, Bytes)>,
}

pub(super) fn mark_path(store: &Path) -> PathBuf {
    beside(store, ".mark")
}

pub(super) fn copy_path(store: &Path) -> PathBuf {
    beside(store, ".copy")
}

pub(super) fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes the file anew: under another name first, so that there is a whole one at any moment.
pub(super) fn write<'a>(
    path: &Path,
    generation: u64,
    pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> io::Result<()> {
    let mut out = generation.to_be_bytes().to_vec();
    for (key, value) in pairs {
        put_var_bytes(&mut out, key);
        put_var_bytes(&mut out, value);
    }
    out.extend_from_slice(blake3::hash(&out).as_bytes());
    let fresh = beside(path, ".tmp");
    let mut file = fs::File::create(&fresh)?;
    io::Write::write_all(&mut file, &out)?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}

/// Reads the file; `None` if there is none, or it is damaged.
pub(super) fn read(path: &Path) -> Option<Pairs> {
    let bytes = Bytes::from(fs::read(path).ok()?);
    let body = bytes.len().checked_sub(HASH_LEN)?;
    if blake3::hash(&bytes[..body]).as_bytes()[..] != bytes[body..] {
        return None;
    }
    let mut cursor = Cursor::new(bytes.slice(..body));
    let generation = cursor.u64("generation").ok()?;
    let mut pairs = Vec::new();
    while cursor.remaining() > 0 {
        let key = cursor.var_bytes("key", ITEM_BYTES_MAX).ok()?;
        pairs.push((key, cursor.var_bytes("value", ITEM_BYTES_MAX).ok()?));
    }
    Some(Pairs { generation, pairs })
}

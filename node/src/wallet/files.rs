//! Files of peers on disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ghost_proto::PublicKey;
use ghost_wallet_channel::session::{FileWrite, ReadChunk};

fn part_path(dir: &Path, peer: &PublicKey, id: &[u8; 16]) -> PathBuf {
    dir.join(format!("{}-{}.part", hex::encode(&peer.0[..4]), hex::encode(id)))
}

/// The name a file gets: two files of one name do not meet.
fn final_path(dir: &Path, id: &[u8; 16], name: &str) -> PathBuf {
    dir.join(format!("{}-{name}", hex::encode(&id[..4])))
}

fn hash(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok((*hasher.finalize().as_bytes(), bytes))
}

/// Hash and length of a file that is to be sent.
pub(super) fn describe(path: &Path) -> io::Result<([u8; 32], u64)> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file"));
    }
    hash(path)
}

/// Writes a part. With the last one: where the whole lies and how long it is, or why it is not what was offered.
#[allow(clippy::type_complexity, reason = "used once")]
pub(super) fn write(dir: &Path, part: &FileWrite) -> io::Result<Option<Result<(String, u64), String>>> {
    if let Some((name, expected)) = &part.complete {
        let whole = final_path(dir, &part.id, name);
        // The last part comes again if the process was killed before it was noted.
        if whole.exists() && hash(&whole)?.0 == *expected {
            return Ok(Some(Ok((whole.display().to_string(), fs::metadata(&whole)?.len()))));
        }
    }
    fs::create_dir_all(dir)?;
    let path = part_path(dir, &part.peer, &part.id);
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    if !part.content.is_empty() {
        file.seek(SeekFrom::Start(part.offset))?;
        file.write_all(&part.content)?;
    }
    file.sync_data()?;
    let Some((name, expected)) = &part.complete else { return Ok(None) };
    let (found, bytes) = hash(&path)?;
    if found != *expected {
        fs::remove_file(&path)?;
        return Ok(Some(Err("it is not what was offered: its hash is another one".into())));
    }
    let whole = final_path(dir, &part.id, name);
    fs::rename(&path, &whole)?;
    Ok(Some(Ok((whole.display().to_string(), bytes))))
}

/// A part of a file that is sent; `None` if it cannot be read.
pub(super) fn read(chunk: &ReadChunk) -> Option<Bytes> {
    let mut file = File::open(&chunk.path).ok()?;
    file.seek(SeekFrom::Start(chunk.offset)).ok()?;
    let mut content = vec![0; chunk.bytes];
    file.read_exact(&mut content).ok()?;
    Some(content.into())
}

//! The file of a mark: two copies that are written in turn, so that one is whole at any moment.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use super::MARK_BYTES_MAX;

/// Bytes of a copy: a sector of a disk. Turn (8), length (2), the bytes, and the first eight of their BLAKE3.
const COPY_LEN: usize = 512;

const HEAD_LEN: usize = 10;
const SUM_LEN: usize = 8;

const _: () = assert!(HEAD_LEN + MARK_BYTES_MAX + SUM_LEN <= COPY_LEN);

/// The open file, and what stands in it.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    /// Counts the writes; its parity says which copy is the newer.
    turn: u64,
    bytes: Option<Vec<u8>>,
}

impl MarkFile {
    /// Opens or makes the file. What is damaged counts as not there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let mut all = Vec::with_capacity(2 * COPY_LEN);
        (&mut file).take(2 * COPY_LEN as u64).read_to_end(&mut all)?;
        let newest = all.chunks(COPY_LEN).filter_map(parse).max_by_key(|(turn, _)| *turn);
        let (turn, bytes) = newest.map_or((0, None), |(turn, bytes)| (turn, Some(bytes)));
        Ok(Self { file, turn, bytes })
    }

    /// What was written last.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }

    /// Replaces the older copy; durable when it returns.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let turn = self.turn + 1;
        let mut copy = Vec::with_capacity(COPY_LEN);
        copy.extend_from_slice(&turn.to_be_bytes());
        copy.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        copy.extend_from_slice(bytes);
        let sum = blake3::hash(&copy);
        copy.extend_from_slice(&sum.as_bytes()[..SUM_LEN]);
        copy.resize(COPY_LEN, 0);
        self.file.seek(SeekFrom::Start((turn % 2) * COPY_LEN as u64))?;
        self.file.write_all(&copy)?;
        self.file.sync_data()?;
        self.turn = turn;
        self.bytes = Some(bytes.to_vec());
        Ok(())
    }
}

fn parse(copy: &[u8]) -> Option<(u64, Vec<u8>)> {
    let turn = u64::from_be_bytes(copy.get(..8)?.try_into().ok()?);
    let len = usize::from(u16::from_be_bytes(copy.get(8..HEAD_LEN)?.try_into().ok()?));
    let (written, sum) = copy.get(..HEAD_LEN + len + SUM_LEN)?.split_at(HEAD_LEN + len);
    (blake3::hash(written).as_bytes()[..SUM_LEN] == *sum).then(|| (turn, written[HEAD_LEN..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_copy_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let mut file = MarkFile::open(&path).unwrap();
        assert_eq!(file.bytes(), None);
        for n in 1..=3_u8 {
            file.write(&[n; MARK_BYTES_MAX]).unwrap();
            assert_eq!(MarkFile::open(&path).unwrap().bytes(), Some(&[n; MARK_BYTES_MAX][..]));
        }
        // The third write was torn: the second still stands.
        let mut all = std::fs::read(&path).unwrap();
        all[COPY_LEN + 100] ^= 1;
        std::fs::write(&path, &all).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().bytes(), Some(&[2; MARK_BYTES_MAX][..]));
        all[100] ^= 1;
        std::fs::write(&path, &all).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().bytes(), None);
        std::fs::write(&path, [0; 40]).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().bytes(), None);
    }
}

//! Files, in chunks, each a message of its own.
//!
//! At most [`WINDOW`] chunks of a file wait to be acknowledged, so a peer that is away costs its mailbox and this wallet
//! no more than that; the rest is read when it is its turn.

use std::collections::BTreeMap;

use bytes::Bytes;
use ghost_proto::{
    PublicKey,
    message::{WalletFileChunk, WalletFileOffer, wallet_message::Body},
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{
    Refused, Wallet, WalletError,
    event::What,
    output::{FileWrite, ReadChunk},
    stored,
};

/// Content of one chunk: with all that surrounds it, it fills the largest envelope but for 600 bytes.
pub const CHUNK_BYTES: usize = 32_000;
/// Chunks of a file that may wait to be acknowledged: 48 × 32 KiB = 1.5 MiB.
pub const WINDOW: usize = 48;
/// Largest file that is taken, unless set otherwise.
pub const FILE_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// Unfinished files of one peer that are taken at once.
const INCOMING_MAX: usize = 8;
/// Files that are sent at once.
const OUTGOING_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 255;

/// A file that comes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Incoming {
    offer: Option<Offer>,
    /// One bit for each chunk that is here.
    chunks: Vec<u8>,
    got_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Offer {
    name: String,
    bytes: u64,
    hash: [u8; 32],
}

/// A file that goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outgoing {
    peer: PublicKey,
    path: String,
    name: String,
    bytes: u64,
    /// Where the next chunk begins.
    next: u64,
    /// Sent and not acknowledged: number in the channel, bytes.
    outstanding: BTreeMap<u64, u32>,
    /// Up to where reading was asked for.
    #[serde(skip)]
    asked: u64,
}

/// A file as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its id, in hex.
    pub file: String,
    /// With whom.
    pub peer: PublicKey,
    /// Its name.
    pub name: String,
    /// True if it goes, false if it comes.
    pub sent: bool,
    /// Bytes that are through.
    pub done_bytes: u64,
    /// Its size; 0 while that is not known.
    pub bytes: u64,
}

fn incoming_key(peer: &PublicKey, id: &[u8; 16]) -> Vec<u8> {
    [b"i", &peer.0[..], id].concat()
}

fn outgoing_key(id: &[u8; 16]) -> Vec<u8> {
    [b"f", &id[..]].concat()
}

pub(super) fn id_of(bytes: &[u8]) -> Result<[u8; 16], Refused> {
    bytes.try_into().map_err(|_| Refused::Malformed)
}

/// A name without a path: nobody else decides where on our disk a file goes.
fn is_plain_name(name: &str) -> bool {
    let bad = |c: char| c.is_control() || matches!(c, '/' | '\\' | '\0');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && !name.contains(bad)
}

impl Outgoing {
    fn done_bytes(&self) -> u64 {
        self.next - self.outstanding.values().map(|bytes| u64::from(*bytes)).sum::<u64>()
    }
}

impl Incoming {
    /// False if the chunk was here.
    fn mark(&mut self, index: usize, bytes: usize) -> bool {
        let (byte, bit) = (index / 8, 1 << (index % 8));
        if self.chunks.len() <= byte {
            self.chunks.resize(byte + 1, 0);
        }
        if self.chunks[byte] & bit != 0 {
            return false;
        }
        self.chunks[byte] |= bit;
        self.got_bytes += bytes as u64;
        true
    }

    fn complete(&self) -> Option<(String, [u8; 32])> {
        let offer = self.offer.as_ref()?;
        (self.got_bytes >= offer.bytes).then(|| (offer.name.clone(), offer.hash))
    }
}

impl Wallet {
    /// Largest file that is taken.
    pub fn file_bytes_max(&self) -> u64 {
        match self.general.file_bytes_max {
            0 => FILE_BYTES_MAX_DEFAULT,
            max => max,
        }
    }

    /// Sets it; 0 is the default.
    pub fn set_file_bytes_max(&mut self, bytes: u64) {
        if self.general.file_bytes_max != bytes {
            self.general.file_bytes_max = bytes;
            self.store_general();
        }
    }

    /// Sends a file. Its id. The driver has hashed it and will be asked for its parts.
    #[allow(clippy::too_many_arguments, reason = "each is one thing a file is")]
    pub fn offer(
        &mut self,
        peer: &PublicKey,
        path: &str,
        name: &str,
        bytes: u64,
        hash: [u8; 32],
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<[u8; 16], WalletError> {
        if !is_plain_name(name) {
            return Err(WalletError::Invalid(format!(
                "`{name}` is no name for a file: 1 to {NAME_BYTES_MAX} bytes, no path, no dot in front"
            )));
        }
        if bytes == 0 {
            return Err(WalletError::Invalid("an empty file says nothing; send a text".into()));
        }
        if self.outgoing.len() >= OUTGOING_MAX {
            return Err(WalletError::TooMany(OUTGOING_MAX, "files under way"));
        }
        let mut id = [0; 16];
        entropy.fill_bytes(&mut id);
        let offer = WalletFileOffer {
            id: Bytes::copy_from_slice(&id),
            name: name.into(),
            bytes,
            hash: Bytes::copy_from_slice(&hash),
        };
        self.post(peer, Body::FileOffer(offer), now_ms, entropy)?;
        let file = Outgoing {
            peer: *peer,
            path: path.into(),
            name: name.into(),
            bytes,
            next: 0,
            outstanding: BTreeMap::new(),
            asked: 0,
        };
        self.out.write(outgoing_key(&id), stored(&file));
        self.outgoing.insert(id, file);
        self.pump_files(peer);
        Ok(id)
    }

    /// All files under way.
    pub fn files(&self) -> Vec<FileInfo> {
        let sent = self.outgoing.iter().map(|(id, file)| FileInfo {
            file: hex::encode(id),
            peer: file.peer,
            name: file.name.clone(),
            sent: true,
            done_bytes: file.done_bytes(),
            bytes: file.bytes,
        });
        let got = self.incoming.iter().map(|((peer, id), file)| FileInfo {
            file: hex::encode(id),
            peer: *peer,
            name: file.offer.as_ref().map(|offer| offer.name.clone()).unwrap_or_default(),
            sent: false,
            done_bytes: file.got_bytes,
            bytes: file.offer.as_ref().map_or(0, |offer| offer.bytes),
        });
        sent.chain(got).collect()
    }

    /// Asks for parts of files whose turn it is.
    pub(super) fn pump_files(&mut self, peer: &PublicKey) {
        for (id, file) in self.outgoing.iter_mut().filter(|(_, file)| file.peer == *peer) {
            file.asked = file.asked.max(file.next);
            let asked = (file.asked - file.next).div_ceil(CHUNK_BYTES as u64) as usize;
            let room = WINDOW.saturating_sub(file.outstanding.len() + asked);
            for _ in 0..room {
                let bytes = (file.bytes - file.asked).min(CHUNK_BYTES as u64) as usize;
                if bytes == 0 {
                    break;
                }
                self.out.reads.push(ReadChunk {
                    id: *id,
                    path: file.path.clone(),
                    offset: file.asked,
                    bytes,
                });
                file.asked += bytes as u64;
            }
        }
    }

    /// A part that was asked for; `None` if it cannot be read. Parts come in the order they were asked for.
    pub fn chunk(
        &mut self,
        id: &[u8; 16],
        offset: u64,
        content: Option<Bytes>,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) {
        let Some(file) = self.outgoing.get(id) else { return };
        if offset != file.next {
            return;
        }
        let (peer, wanted) = (file.peer, (file.bytes - offset).min(CHUNK_BYTES as u64));
        let content = match content {
            Some(content) if content.len() as u64 == wanted => content,
            _ => {
                let what = What::FileFailed {
                    file: hex::encode(id),
                    name: file.name.clone(),
                    reason: "it can no longer be read as it was offered".into(),
                };
                self.outgoing.remove(id);
                self.out.write(outgoing_key(id), None);
                return self.tell(Some(peer), now_ms, what);
            }
        };
        // Before it is posted: posting asks for more.
        let file = self.outgoing.get_mut(id).expect("looked at above");
        file.next += wanted;
        let number = self.channels.get(&peer).map_or(0, |channel| channel.next_number);
        file.outstanding.insert(number, wanted as u32);
        let body = Body::FileChunk(WalletFileChunk { id: Bytes::copy_from_slice(id), offset, content });
        let posted = self.post(&peer, body, now_ms, entropy);
        let file = self.outgoing.get_mut(id).expect("looked at above");
        if posted.is_err() {
            // A full queue empties with acknowledgements, which ask again.
            file.next = offset;
            file.asked = offset;
            file.outstanding.remove(&number);
        }
        let value = stored(&*file);
        self.out.write(outgoing_key(id), value);
    }

    /// Chunks that wait have other numbers now.
    pub(super) fn chunks_renumbered(&mut self, peer: &PublicKey, numbers: &BTreeMap<u64, u64>) {
        for (id, file) in self.outgoing.iter_mut().filter(|(_, file)| file.peer == *peer) {
            let old = std::mem::take(&mut file.outstanding);
            file.outstanding =
                old.into_iter().filter_map(|(number, bytes)| Some((*numbers.get(&number)?, bytes))).collect();
            self.out.write(outgoing_key(id), stored(&*file));
        }
    }

    pub(super) fn chunks_acknowledged(&mut self, peer: &PublicKey, numbers: &[u64], now_ms: u64) {
        let mut words = Vec::new();
        let mut over = Vec::new();
        for (id, file) in self.outgoing.iter_mut().filter(|(_, file)| file.peer == *peer) {
            let before = file.outstanding.len();
            numbers.iter().for_each(|number| {
                file.outstanding.remove(number);
            });
            if file.outstanding.len() == before {
                continue;
            }
            let (file_id, bytes) = (hex::encode(id), file.bytes);
            let done_bytes = file.done_bytes();
            words.push(What::FileProgress { file: file_id.clone(), done_bytes, bytes, sent: true });
            if done_bytes == bytes {
                words.push(What::FileDone { file: file_id, name: file.name.clone(), bytes, sent: true });
                over.push(*id);
            }
            self.out.write(outgoing_key(id), stored(&*file));
        }
        for id in over {
            self.outgoing.remove(&id);
            self.out.write(outgoing_key(&id), None);
        }
        words.into_iter().for_each(|what| self.tell(Some(*peer), now_ms, what));
    }

    fn incoming(&mut self, peer: &PublicKey, id: [u8; 16]) -> Result<&mut Incoming, Refused> {
        let known = self.incoming.contains_key(&(*peer, id));
        let from_peer = self.incoming.keys().filter(|(from, _)| from == peer).count();
        if !known && from_peer >= INCOMING_MAX {
            return Err(Refused::TooMuch);
        }
        Ok(self.incoming.entry((*peer, id)).or_default())
    }

    fn store_incoming(&mut self, peer: &PublicKey, id: &[u8; 16]) {
        let value = self.incoming.get(&(*peer, *id)).and_then(stored);
        self.out.write(incoming_key(peer, id), value);
    }

    pub(super) fn on_file_offer(
        &mut self,
        peer: &PublicKey,
        offer: WalletFileOffer,
        time: u64,
    ) -> Result<(), Refused> {
        let id = id_of(&offer.id)?;
        let hash = offer.hash.as_ref().try_into().map_err(|_| Refused::Malformed)?;
        if !is_plain_name(&offer.name) || offer.bytes == 0 {
            return Err(Refused::Malformed);
        }
        let taken = offer.bytes <= self.file_bytes_max();
        let what =
            What::FileOffered { file: hex::encode(id), name: offer.name.clone(), bytes: offer.bytes, taken };
        self.tell(Some(*peer), time, what);
        if !taken {
            self.incoming.remove(&(*peer, id));
            self.store_incoming(peer, &id);
            return Ok(());
        }
        let file = self.incoming(peer, id)?;
        file.offer = Some(Offer { name: offer.name, bytes: offer.bytes, hash });
        // Chunks may have come before it.
        if let Some(complete) = file.complete() {
            self.finish_incoming(peer, id, 0, Bytes::new(), Some(complete));
        } else {
            self.store_incoming(peer, &id);
        }
        Ok(())
    }

    pub(super) fn on_file_chunk(
        &mut self,
        peer: &PublicKey,
        chunk: WalletFileChunk,
        time: u64,
    ) -> Result<(), Refused> {
        let id = id_of(&chunk.id)?;
        let max = self.file_bytes_max();
        let bytes = chunk.content.len();
        let end = chunk.offset.checked_add(bytes as u64).ok_or(Refused::Malformed)?;
        if bytes == 0 || bytes > CHUNK_BYTES || !chunk.offset.is_multiple_of(CHUNK_BYTES as u64) {
            return Err(Refused::Malformed);
        }
        if end > max {
            return Err(Refused::TooMuch);
        }
        let file = self.incoming(peer, id)?;
        if file.offer.as_ref().is_some_and(|offer| end > offer.bytes) {
            return Err(Refused::Malformed);
        }
        if !file.mark((chunk.offset / CHUNK_BYTES as u64) as usize, bytes) {
            return Ok(());
        }
        let (done_bytes, total) = (file.got_bytes, file.offer.as_ref().map_or(0, |offer| offer.bytes));
        let complete = file.complete();
        let what = What::FileProgress { file: hex::encode(id), done_bytes, bytes: total, sent: false };
        self.tell(Some(*peer), time, what);
        self.finish_incoming(peer, id, chunk.offset, chunk.content, complete);
        Ok(())
    }

    fn finish_incoming(
        &mut self,
        peer: &PublicKey,
        id: [u8; 16],
        offset: u64,
        content: Bytes,
        complete: Option<(String, [u8; 32])>,
    ) {
        if complete.is_some() {
            self.incoming.remove(&(*peer, id));
        }
        self.store_incoming(peer, &id);
        self.out.files.push(FileWrite { peer: *peer, id, offset, content, complete });
    }

    /// The driver has looked at a file that is complete.
    pub fn file_checked(
        &mut self,
        peer: &PublicKey,
        id: &[u8; 16],
        outcome: Result<(String, u64), String>,
        now_ms: u64,
    ) {
        let file = hex::encode(id);
        let what = match outcome {
            Ok((name, bytes)) => What::FileDone { file, name, bytes, sent: false },
            Err(reason) => What::FileFailed { file, name: String::new(), reason },
        };
        self.tell(Some(*peer), now_ms, what);
    }
}

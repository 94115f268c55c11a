//! How things look in the store: keys with a prefix, values with a checksum.
//!
//! ```text
//! m v                          format version, u32
//! m s                          secret of the address book, 16 bytes
//! m q                          our highest record sequence number, u64
//! m a                          anchors: count u8; each: block-only u8, key 32, varint length, multiaddr
//! m g                          generation: batches applied so far, u64
//! m c                          pairs in the store, this one and `m g` not counted, u64
//! e  key 32  multiaddr         one entry of the book
//! s  PeerId                    one story of the conduct ledger, JSON
//! ```
//!
//! Every value begins with 4 bytes of BLAKE3 over key and payload, so that a page that came back wrong is
//! noticed here, whatever the database thinks of it.

use bytes::Bytes;
use ghost_proto::{
    Multiaddr, PeerId, PublicKey,
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{MULTIADDR_BYTES_MAX, RECORD_BYTES_MAX},
    record::key_of,
};

use super::{Saved, Write};
use crate::{
    address::{self, Endpoint, peer_id},
    book::{Change, Key, NEW_SLOTS_PER_ENTRY, Row},
    conduct::Story,
    dial::{ANCHORS_MAX, Anchor},
    netgroup::NetGroup,
};

/// The version this program writes. It reads no other.
pub const FORMAT_VERSION: u32 = 1;

const CHECK_LEN: usize = 4;
/// A name has up to 253 bytes, and multiaddrs in records at most 192: the longer of both, and its frame.
const PLACE_BYTES_MAX: usize = MULTIADDR_BYTES_MAX + 128;

/// One stored thing that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("a value does not match its checksum")]
    Checksum,
    #[error("a value does not parse: {0}")]
    Layout(#[from] LayoutError),
    #[error("a story does not parse: {0}")]
    Story(String),
    #[error("a key of unknown kind")]
    UnknownKey,
    #[error("format version {0}, this program reads version {FORMAT_VERSION}")]
    Version(u32),
}

/// A write as key and value; no value means removal.
pub(super) fn encode(write: &Write) -> (Vec<u8>, Option<Vec<u8>>) {
    let (key, payload) = match write {
        Write::Secret(secret) => (b"ms".to_vec(), Some(secret.to_vec())),
        Write::OwnSequence(sequence) => (b"mq".to_vec(), Some(sequence.to_be_bytes().to_vec())),
        Write::Anchors(anchors) => (b"ma".to_vec(), Some(encode_anchors(anchors))),
        Write::Entry(Change::Put(row)) => (entry_key(&row.key), Some(encode_row(row))),
        Write::Entry(Change::Gone(key)) => (entry_key(key), None),
        Write::Story(peer, story) => (
            [b"s", &peer.to_bytes()[..]].concat(),
            story.as_ref().map(|story| serde_json::to_vec(story).expect("a story is plain data")),
        ),
    };
    let value = payload.map(|payload| sealed(&key, &payload));
    (key, value)
}

pub(super) fn version_pair() -> (Vec<u8>, Vec<u8>) {
    let key = b"mv".to_vec();
    let value = sealed(&key, &FORMAT_VERSION.to_be_bytes());
    (key, value)
}

/// Adds one stored pair to what was saved.
pub(super) fn decode(key: &[u8], value: &[u8], saved: &mut Saved) -> Result<(), FormatError> {
    let payload = unsealed(key, value)?;
    let mut cursor = Cursor::new(Bytes::copy_from_slice(payload));
    match key {
        b"mv" => {
            let version = cursor.u32("version")?;
            if version != FORMAT_VERSION {
                return Err(FormatError::Version(version));
            }
            cursor.finish()?;
        }
        b"ms" => {
            saved.secret = Some(cursor.array("secret")?);
            cursor.finish()?;
        }
        b"mq" => {
            saved.own_sequence = cursor.u64("sequence")?;
            cursor.finish()?;
        }
        b"ma" => saved.anchors = decode_anchors(cursor)?,
        [b'e', rest @ ..] => saved.rows.push(decode_row(decode_entry_key(rest)?, cursor)?),
        [b's', rest @ ..] => {
            let peer = PeerId::from_bytes(rest)
                .map_err(|_| LayoutError::Invalid { field: "peer", reason: "is no PeerId" })?;
            let story: Story =
                serde_json::from_slice(payload).map_err(|error| FormatError::Story(error.to_string()))?;
            saved.stories.push((peer, story));
        }
        _ => return Err(FormatError::UnknownKey),
    }
    Ok(())
}

fn check(key: &[u8], payload: &[u8]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u32).to_be_bytes());
    hasher.update(key);
    hasher.update(payload);
    let mut out = [0; CHECK_LEN];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_LEN]);
    out
}

/// The payload of a value, if the value belongs to the key and is whole.
pub(super) fn unsealed<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], FormatError> {
    let payload = value.get(CHECK_LEN..).ok_or(FormatError::Checksum)?;
    if value[..CHECK_LEN] == check(key, payload) { Ok(payload) } else { Err(FormatError::Checksum) }
}

/// A payload as it is stored.
pub(super) fn sealed(key: &[u8], payload: &[u8]) -> Vec<u8> {
    [&check(key, payload)[..], payload].concat()
}

fn entry_key(key: &Key) -> Vec<u8> {
    [b"e", &key.peer.0[..], key.endpoint.to_multiaddr().as_ref()].concat()
}

fn decode_entry_key(bytes: &[u8]) -> Result<Key, FormatError> {
    let mut cursor = Cursor::new(Bytes::copy_from_slice(bytes));
    let peer = PublicKey(cursor.array("peer")?);
    let endpoint = endpoint(&cursor.rest())?;
    Ok(Key { peer, endpoint })
}

fn endpoint(bytes: &[u8]) -> Result<Endpoint, LayoutError> {
    let invalid = LayoutError::Invalid { field: "address", reason: "is no address that can be dialled" };
    Multiaddr::try_from(bytes.to_vec())
        .ok()
        .and_then(|multiaddr| address::parse(&multiaddr).ok())
        .map(|(endpoint, _)| endpoint)
        .ok_or(invalid)
}

fn encode_row(row: &Row) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + row.record.as_ref().map_or(0, Bytes::len));
    out.extend_from_slice(row.source.as_bytes());
    for time in [row.last_seen_s, row.last_try_s, row.last_success_s] {
        out.extend_from_slice(&time.to_be_bytes());
    }
    out.extend_from_slice(&row.attempts.to_be_bytes());
    out.push(u8::from(row.tried));
    out.push(row.slots.len() as u8);
    row.slots.iter().for_each(|slot| out.extend_from_slice(&slot.to_be_bytes()));
    out.extend_from_slice(&row.sequence.to_be_bytes());
    out.extend_from_slice(&row.stream_types.to_be_bytes());
    put_var_bytes(&mut out, row.record.as_deref().unwrap_or_default());
    out
}

fn decode_row(key: Key, mut cursor: Cursor) -> Result<Row, FormatError> {
    let source = NetGroup(cursor.array("source")?);
    let last_seen_s = cursor.u32("last_seen")?;
    let last_try_s = cursor.u32("last_try")?;
    let last_success_s = cursor.u32("last_success")?;
    let attempts = cursor.u16("attempts")?;
    let tried = cursor.u8("tried")? != 0;
    let count = usize::from(cursor.u8("slots")?);
    if count > NEW_SLOTS_PER_ENTRY {
        return Err(LayoutError::Invalid { field: "slots", reason: "are more than 8" }.into());
    }
    let slots = (0..count).map(|_| cursor.u16("slot")).collect::<Result<_, _>>()?;
    let sequence = cursor.u64("sequence")?;
    let stream_types = cursor.u64("stream_types")?;
    let record = cursor.var_bytes("record", RECORD_BYTES_MAX)?;
    cursor.finish()?;
    Ok(Row {
        key,
        source,
        last_seen_s,
        last_try_s,
        last_success_s,
        attempts,
        tried,
        slots,
        sequence,
        stream_types,
        record: (!record.is_empty()).then_some(record),
    })
}

fn encode_anchors(anchors: &[Anchor]) -> Vec<u8> {
    // The list is bounded by whoever makes it; a longer one would be refused when read.
    let anchors: Vec<_> =
        anchors.iter().filter_map(|one| Some((one, key_of(&one.peer)?))).take(ANCHORS_MAX).collect();
    let mut out = vec![anchors.len() as u8];
    for (anchor, key) in anchors {
        out.push(u8::from(anchor.block_only));
        out.extend_from_slice(&key.0);
        put_var_bytes(&mut out, anchor.endpoint.to_multiaddr().as_ref());
    }
    out
}

fn decode_anchors(mut cursor: Cursor) -> Result<Vec<Anchor>, FormatError> {
    let count = usize::from(cursor.u8("anchors")?);
    if count > ANCHORS_MAX {
        return Err(LayoutError::Invalid { field: "anchors", reason: "are more than 4" }.into());
    }
    let mut anchors = Vec::with_capacity(count);
    for _ in 0..count {
        let block_only = cursor.u8("block_only")? != 0;
        let peer = peer_id(&PublicKey(cursor.array("peer")?));
        let endpoint = endpoint(&cursor.var_bytes("address", PLACE_BYTES_MAX)?)?;
        anchors.push(Anchor { peer, endpoint, block_only });
    }
    cursor.finish()?;
    Ok(anchors)
}

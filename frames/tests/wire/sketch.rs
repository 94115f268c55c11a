//! Reconciliation as `WIRE.md` tells it, one transaction at a time.

use std::hash::Hasher;

use ghost_frames::reconcile::{COUNTED_SYMBOLS, CodedSymbol, SketchId};
use ghost_proto::TxId;
use siphasher::sip::SipHasher13;

/// The key and the nonce of all samples.
pub(crate) const CONNECTION_KEY: [u8; 16] =
    *b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f";
pub(crate) const NONCE: u64 = 0x2122_2324_2526_2728;

/// Keys of ids and of checks.
pub(crate) fn keys(connection: &[u8; 16], nonce: u64) -> ([u8; 16], [u8; 16]) {
    let material = [connection.as_slice(), &nonce.to_be_bytes()].concat();
    let out = blake3::derive_key("ghost reconciliation keys v1", &material);
    (out[..16].try_into().unwrap(), out[16..].try_into().unwrap())
}

fn sip(key: &[u8; 16], bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(bytes);
    hasher.finish()
}

/// The id and the check of a transaction.
pub(crate) fn item(connection: &[u8; 16], nonce: u64, tx: &TxId) -> (SketchId, u32) {
    let (id_key, check_key) = keys(connection, nonce);
    let id = sip(&id_key, &tx.0);
    (SketchId(id), sip(&check_key, &id.to_be_bytes()) as u32)
}

/// The symbols below `end` that an id is in.
pub(crate) fn indexes(id: SketchId, end: u32) -> Vec<u32> {
    let mut state = if id.0 == 0 { 0x9e37_79b9_7f4a_7c15 } else { id.0 };
    let (mut index, mut indexes) = (0, Vec::new());
    while index < end {
        indexes.push(index);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let uniform = (state >> 33) as f32 + 1.0;
        let stretch = 46_340.95_f32 / uniform.sqrt() - 1.0;
        let length = (index as f32 + 1.5) * stretch;
        index = index.saturating_add(1).saturating_add(length.trunc() as u32);
    }
    indexes
}

/// The symbols `first..first + count` of a set.
pub(crate) fn symbols(
    connection: &[u8; 16],
    nonce: u64,
    set: &[TxId],
    first: u32,
    count: u32,
) -> Vec<CodedSymbol> {
    let mut symbols = vec![CodedSymbol::default(); count as usize];
    for tx in set {
        let (id, check) = item(connection, nonce, tx);
        for index in indexes(id, first + count).into_iter().filter(|index| *index >= first) {
            let symbol = &mut symbols[(index - first) as usize];
            symbol.sum ^= id.0;
            symbol.check ^= check;
            symbol.count += u16::from((index as usize) < COUNTED_SYMBOLS);
        }
    }
    symbols
}

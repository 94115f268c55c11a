//! Transaction frames.
//!
//! ```text
//! TxAnnounce    0x10  entries of 13 bytes: short id (8), length of the transaction (4), fee class (1)
//! TxRequest     0x11  short ids of 8 bytes
//! Transactions  0x12  for each: varint length, transaction
//! StemTransaction  0x18  transaction
//! FeeFloor      0x2f  gas price (8)
//! ```
//!
//! A **short id** for a peer is SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input
//! PRF", INDOCRYPT 2012) of the 32-byte transaction id under the 16-byte `tx_salt` of that peer's
//! hello. A node is told of all transactions under its own salt, whoever tells it, so it keeps one
//! index; what it asks for in `TxRequest` it names by the id it was told. The **fee class** is ⌊log2(gas price)⌋: enough to decide what to
//! fetch first, and it tells nothing the transaction will not.

use bytes::Bytes;
use ghost_proto::{
    SignedTransaction,
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{ANNOUNCE_ENTRIES_MAX, TX_BATCH_MAX, TX_BYTES_MAX, TX_BYTES_MIN, TX_REQUEST_IDS_MAX},
};

use crate::{
    bounds::count_entries,
    writer::{Payload, PayloadError},
};

/// Size of a short id.
pub const SHORT_ID_LEN: usize = 8;
/// Size of an entry of an announcement.
pub const ANNOUNCE_ENTRY_LEN: usize = SHORT_ID_LEN + 4 + 1;

/// A transaction's name towards the peer that is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub u64);

/// One announced transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxAnnounceEntry {
    /// Its name under the salt of the peer that receives this.
    pub id: ShortId,
    /// Its length in bytes.
    pub bytes: u32,
    /// ⌊log2(gas price)⌋, 0 for a price of 0 or 1.
    pub fee_class: u8,
}

/// Transactions the sender has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxAnnounce {
    /// At least one, at most [`ANNOUNCE_ENTRIES_MAX`].
    pub entries: Vec<TxAnnounceEntry>,
}

/// Transactions the sender wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxRequest {
    /// At least one, at most [`TX_REQUEST_IDS_MAX`].
    pub ids: Vec<ShortId>,
}

/// Transactions. In answer to a request, several such frames may follow each other; what was asked
/// for and is in none of them is not to be had here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transactions {
    /// At most [`TX_BATCH_MAX`]; signatures are not checked by decoding.
    pub transactions: Vec<SignedTransaction>,
}

/// One transaction on its stem: hand it on to one peer or flood it, and flood it if it does not come
/// back by flooding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StemTransaction(pub SignedTransaction);

/// The least gas price that the sender's mempool takes now. Until the next such frame, transactions that pay less are
/// not announced to it; before the first, all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeFloor(pub u64);

impl Payload for FeeFloor {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let gas_price = cursor.u64("gas price")?;
        cursor.finish()?;
        Ok(Self(gas_price))
    }
}

impl Payload for StemTransaction {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(SignedTransaction::parse(bytes)?))
    }
}

impl Payload for TxAnnounce {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.entries.len() * ANNOUNCE_ENTRY_LEN);
        for entry in &self.entries {
            out.extend_from_slice(&entry.id.0.to_be_bytes());
            out.extend_from_slice(&entry.bytes.to_be_bytes());
            out.push(entry.fee_class);
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let count =
            count_entries("announced transactions", &cursor, ANNOUNCE_ENTRY_LEN, ANNOUNCE_ENTRIES_MAX)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ShortId(cursor.u64("short id")?);
            let bytes = cursor.u32("transaction length")?;
            if (bytes as usize) < TX_BYTES_MIN || bytes as usize > TX_BYTES_MAX {
                return Err(LayoutError::OutOfRange {
                    field: "transaction length",
                    value: bytes.into(),
                    min: TX_BYTES_MIN as u64,
                    max: TX_BYTES_MAX as u64,
                }
                .into());
            }
            entries.push(TxAnnounceEntry { id, bytes, fee_class: cursor.u8("fee class")? });
        }
        Ok(Self { entries })
    }
}

impl Payload for TxRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        for id in &self.ids {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let count = count_entries("requested transactions", &cursor, SHORT_ID_LEN, TX_REQUEST_IDS_MAX)?;
        let ids = (0..count).map(|_| cursor.u64("short id").map(ShortId)).collect::<Result<_, _>>()?;
        Ok(Self { ids })
    }
}

impl Payload for Transactions {
    fn encode(&self, out: &mut Vec<u8>) {
        let varint_len_max = 4;
        out.reserve(self.transactions.iter().map(|tx| varint_len_max + tx.bytes().len()).sum());
        for tx in &self.transactions {
            put_var_bytes(out, tx.bytes());
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let mut transactions = Vec::new();
        while cursor.remaining() > 0 {
            if transactions.len() == TX_BATCH_MAX {
                return Err(LayoutError::OutOfRange {
                    field: "transactions",
                    value: TX_BATCH_MAX as u64 + 1,
                    min: 0,
                    max: TX_BATCH_MAX as u64,
                }
                .into());
            }
            let bytes = cursor.var_bytes("transaction", TX_BYTES_MAX)?;
            transactions.push(SignedTransaction::parse(bytes)?);
        }
        Ok(Self { transactions })
    }
}

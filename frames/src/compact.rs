//! Compact blocks: a block as the short ids of its transactions, for receivers that have most of them.
//!
//! ```text
//! CompactBlock              0x23  header (227), nonce (8), varint number of transactions that stand here whole,
//!                                 for each of those: index, varint length, transaction;
//!                                 then the short ids (6) of all others, in the block's order
//! CompactRequest            0x24  block id (32)
//! BlockTransactionsRequest  0x25  block id (32), indexes
//! BlockTransactions         0x26  for each: index, varint length, transaction
//! BlockRelayMode            0x27  0: announce, 1: push (1)
//! ```
//!
//! An **index** is a transaction's place in its block, from 0. Indexes ascend; each is a varint of its
//! distance from the one before, less one, and the first of itself: `2, 3, 7` is `2, 0, 3`.
//!
//! A **short id** is the first six bytes of the big-endian SipHash-1-3 (Aumasson and Bernstein, INDOCRYPT
//! 2012) of the 32-byte transaction id, under a key that is the first 16 bytes of BLAKE3 in its key
//! derivation mode, context `ghost compact block v1`, over block id and nonce. The block id contains
//! its proposer's signature: nobody else can look for transactions that collide before the block is
//! out. The shape is that of BIP 152.

use bytes::Bytes;
use ghost_proto::{
    BlockId, Header, SignedTransaction,
    layout::{Cursor, LayoutError, put_var_bytes, put_varint},
    limits::{BLOCK_TXS_MAX, COMPACT_PREFILL_BYTES_MAX, TX_BYTES_MAX},
};

use crate::writer::{Payload, PayloadError};

/// Size of a short id.
pub const COMPACT_ID_LEN: usize = 6;

/// A transaction and its place in its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedTransaction {
    /// From 0.
    pub index: u32,
    /// Its signature is not checked by decoding.
    pub transaction: SignedTransaction,
}

/// A block by its header and short ids. Neither ids nor transactions are covered by a signature: only the
/// header's transaction root says whether what was put together is the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactBlock {
    /// The sealed header. Its signature is not checked by decoding.
    pub header: Header,
    /// Part of the short ids' key.
    pub nonce: u64,
    /// Transactions the receiver is likely not to have; ascending; at most
    /// [`COMPACT_PREFILL_BYTES_MAX`] bytes with their indexes and lengths.
    pub prefilled: Vec<PlacedTransaction>,
    /// [`COMPACT_ID_LEN`] bytes for each of the others, in the block's order.
    pub short_ids: Bytes,
}

/// A block the sender wants compact. The answer is a [`CompactBlock`], a
/// [`crate::block::WholeBlock`] where that is hardly longer, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactRequest(pub BlockId);

/// Transactions of one block, by their places in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTransactionsRequest {
    /// Which block.
    pub block: BlockId,
    /// At least one; ascending; below [`BLOCK_TXS_MAX`].
    pub indexes: Vec<u32>,
}

/// Transactions that were asked for. Several such frames may follow each other, each ascending, the
/// later ones with what the sender had to wait for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTransactions {
    /// At least one.
    pub transactions: Vec<PlacedTransaction>,
}

/// How the sender wants to hear of new blocks from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockRelayMode {
    /// By header, as in the beginning.
    Announce,
    /// Compact, unasked.
    Push,
}

/// Writes ascending indexes one by one.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    next: u32,
}

impl IndexWriter {
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, index: u32) {
        debug_assert!(index >= self.next, "indexes ascend");
        put_varint(out, u64::from(index.saturating_sub(self.next)));
        self.next = index + 1;
    }
}

/// Reads them.
#[derive(Debug, Default)]
pub(crate) struct IndexReader {
    next: u32,
}

impl IndexReader {
    pub(crate) fn take(&mut self, cursor: &mut Cursor) -> Result<u32, LayoutError> {
        let most = (BLOCK_TXS_MAX as u64)
            .checked_sub(u64::from(self.next) + 1)
            .ok_or(LayoutError::Invalid { field: "index", reason: "no block has so many transactions" })?;
        let index = self.next + cursor.varint("index", 0, most)? as u32;
        self.next = index + 1;
        Ok(index)
    }
}

fn put_placed<'a>(out: &mut Vec<u8>, transactions: impl IntoIterator<Item = &'a PlacedTransaction>) {
    let mut indexes = IndexWriter::default();
    for placed in transactions {
        indexes.put(out, placed.index);
        put_var_bytes(out, placed.transaction.bytes());
    }
}

fn take_placed(cursor: &mut Cursor, indexes: &mut IndexReader) -> Result<PlacedTransaction, LayoutError> {
    let index = indexes.take(cursor)?;
    let bytes = cursor.var_bytes("transaction", TX_BYTES_MAX)?;
    Ok(PlacedTransaction { index, transaction: SignedTransaction::parse(bytes)? })
}

impl Payload for CompactBlock {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.bytes());
        out.extend_from_slice(&self.nonce.to_be_bytes());
        put_varint(out, self.prefilled.len() as u64);
        put_placed(out, &self.prefilled);
        out.extend_from_slice(&self.short_ids);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let header = Header::read(&mut cursor)?;
        let nonce = cursor.u64("nonce")?;
        let count = cursor.varint("prefilled transactions", 0, u64::from(header.tx_count))?;
        let start = cursor.position();
        let mut prefilled = Vec::new();
        let mut indexes = IndexReader::default();
        for _ in 0..count {
            let placed = take_placed(&mut cursor, &mut indexes)?;
            let bytes = cursor.position() - start;
            if bytes > COMPACT_PREFILL_BYTES_MAX {
                return Err(LayoutError::OutOfRange {
                    field: "prefilled bytes",
                    value: bytes as u64,
                    min: 0,
                    max: COMPACT_PREFILL_BYTES_MAX as u64,
                }
                .into());
            }
            if placed.index >= header.tx_count {
                return Err(LayoutError::OutOfRange {
                    field: "index",
                    value: placed.index.into(),
                    min: 0,
                    max: u64::from(header.tx_count) - 1,
                }
                .into());
            }
            prefilled.push(placed);
        }
        let short_ids = cursor.rest();
        if short_ids.len() != (header.tx_count as usize - prefilled.len()) * COMPACT_ID_LEN {
            return Err(LayoutError::Invalid {
                field: "short ids",
                reason: "with the transactions that stand here whole, they are not as many as the header says",
            }
            .into());
        }
        Ok(Self { header, nonce, prefilled, short_ids })
    }
}

impl Payload for CompactRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.0);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let id = BlockId(cursor.array("block id")?);
        cursor.finish()?;
        Ok(Self(id))
    }
}

impl Payload for BlockTransactionsRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.block.0);
        let mut indexes = IndexWriter::default();
        for index in &self.indexes {
            indexes.put(out, *index);
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let block = BlockId(cursor.array("block id")?);
        let mut reader = IndexReader::default();
        let mut indexes = vec![reader.take(&mut cursor)?];
        while cursor.remaining() > 0 {
            indexes.push(reader.take(&mut cursor)?);
        }
        Ok(Self { block, indexes })
    }
}

impl Payload for BlockTransactions {
    fn encode(&self, out: &mut Vec<u8>) {
        put_placed(out, &self.transactions);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let mut indexes = IndexReader::default();
        let mut transactions = vec![take_placed(&mut cursor, &mut indexes)?];
        while cursor.remaining() > 0 {
            transactions.push(take_placed(&mut cursor, &mut indexes)?);
        }
        Ok(Self { transactions })
    }
}

impl Payload for BlockRelayMode {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Announce => 0,
            Self::Push => 1,
        });
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let mode = match cursor.u8("relay mode")? {
            0 => Self::Announce,
            1 => Self::Push,
            other => {
                return Err(LayoutError::OutOfRange {
                    field: "relay mode",
                    value: other.into(),
                    min: 0,
                    max: 1,
                }
                .into());
            }
        };
        cursor.finish()?;
        Ok(mode)
    }
}

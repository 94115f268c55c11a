//! Which key holds what. One tree, a letter in front of each kind, big-endian heights so that what
//! is written together stands together:
//!
//! ```text
//! n id                    height (8)                       every stored block
//! h height id             header (227)
//! b height id chunk(2)    body, in chunks
//! r height id chunk(2)    receipts, in chunks: where each ends (4 each), then the receipts
//! l height id             bloom (256) of the logs in the block, if there are any
//! c height                id (32)                          finalized blocks only
//! t tx id[..16]           height (8) index (4) offset (4)  last canonical block that holds it; a hint
//! s key                   value                            state at the finalized block
//! m name                  format, genesis, finalized, head, votes (see below)
//! ```

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use ghost_proto::{
    Block, BlockId, Checkpoint, FinalityCertificate, GenesisId, Header, Receipt, TxId, Vote,
    layout::{Cursor, LayoutError, varint_len},
    limits::{BLOCK_BODY_BYTES_MAX, RECEIPT_BYTES_MAX, TX_BYTES_MAX},
};

use super::{ChainStore, LogBloom, Mark, StoreError, WriteBatch};
use crate::chain::lthash::{LTHASH_LEN, LtHash};

/// Layout of keys and values. Another number means that this code cannot read the store.
pub const FORMAT_VERSION: u32 = 2;

/// Values are cut into chunks of this many bytes. A leaf of the tree holds up to 16 of them and is
/// rewritten as a whole, so a chunk must stay small against a segment of sled (512 KiB): 16 × 8 KiB
/// = 128 KiB.
const CHUNK_BYTES: usize = 8 * 1024;
const _: () =
    assert!(BLOCK_BODY_BYTES_MAX / CHUNK_BYTES < u16::MAX as usize, "chunks are numbered in two bytes");

/// How much of a transaction id its hint is filed under. Two ids that share it (2^64 work) hide one
/// another from lookup and do nothing else: who reads a hint compares the whole id.
const TX_KEY_LEN: usize = 16;

const META_FORMAT: &[u8] = b"mformat";
const META_GENESIS: &[u8] = b"mgenesis";
const META_FINALIZED: &[u8] = b"mfinalized";
const META_HEAD: &[u8] = b"mhead";
const META_JUSTIFIED_BY: &[u8] = b"mjustified_by";
const META_FINALIZED_BY: &[u8] = b"mfinalized_by";
const META_LAST_VOTE: &[u8] = b"mlast_vote";
const META_LAST_PROPOSED: &[u8] = b"mlast_proposed";

/// The block that the stored state belongs to.
#[derive(Debug, Clone)]
pub struct FinalizedRecord {
    /// Its height; 0 is genesis.
    pub height: u64,
    /// Its id.
    pub id: BlockId,
    /// Transactions in the canonical blocks up to it.
    pub included_total: u64,
    /// Sum over the stored state.
    pub lthash: LtHash,
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxPlace {
    /// Height of the block.
    pub height: u64,
    /// Number of transactions before it in the block.
    pub index: u32,
    /// Offset in the body, in bytes, of the length that stands in front of it.
    pub offset: u32,
}

/// Typed access to a [`ChainStore`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    store: Arc<dyn ChainStore>,
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

fn chunk_key(kind: u8, height: u64, id: &BlockId, chunk: usize) -> Vec<u8> {
    key(kind, &[&height.to_be_bytes(), &id.0, &(chunk as u16).to_be_bytes()])
}

fn read_u64(value: &[u8], what: &str) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(
        value
            .try_into()
            .map_err(|_| StoreError::damaged(format!("{what} has {} bytes, not 8", value.len())))?,
    ))
}

fn read_id(value: &[u8], what: &str) -> Result<BlockId, StoreError> {
    BlockId::try_from(value)
        .map_err(|_| StoreError::damaged(format!("{what} has {} bytes, not 32", value.len())))
}

fn layout(what: &'static str) -> impl FnOnce(LayoutError) -> StoreError {
    move |error| StoreError::damaged(format!("{what}: {error}"))
}

/// Bytes of an entry in the table in front of a block's receipts.
const RECEIPT_END_LEN: usize = 4;

/// The receipts of a block behind a table of where each ends, counted from the end of the table.
fn receipt_table(receipts: &[Receipt]) -> Vec<u8> {
    let len: usize = receipts.iter().map(Receipt::encoded_len).sum();
    let mut out = Vec::with_capacity(RECEIPT_END_LEN * receipts.len() + len);
    let mut end = 0;
    for receipt in receipts {
        // Gas bounds what a block logs far below 4 GiB: 8 gas for each byte.
        end += receipt.encoded_len() as u32;
        out.extend_from_slice(&end.to_be_bytes());
    }
    receipts.iter().for_each(|receipt| out.extend_from_slice(&receipt.encode()));
    out
}

impl Records {
    /// Wraps a store without looking into it.
    pub fn new(store: Arc<dyn ChainStore>) -> Self {
        Self { store }
    }

    /// Checks that the store is empty (`false`) or holds this genesis in this format (`true`).
    pub fn check_identity(&self, genesis: &GenesisId) -> Result<bool, StoreError> {
        let Some(format) = self.store.get(META_FORMAT)? else {
            let mut any = false;
            self.store.scan(&[0], &[0xff], &mut |_, _| {
                any = true;
                ControlFlow::Break(())
            })?;
            return if any {
                Err(StoreError::damaged("it has entries and no format version"))
            } else {
                Ok(false)
            };
        };
        let found = u32::from_be_bytes(
            format
                .as_slice()
                .try_into()
                .map_err(|_| StoreError::damaged("the format version is not 4 bytes"))?,
        );
        if found != FORMAT_VERSION {
            return Err(StoreError::OtherFormat { found, supported: FORMAT_VERSION });
        }
        let found = self.store.get(META_GENESIS)?.unwrap_or_default();
        if found != genesis.0 {
            return Err(StoreError::OtherGenesis {
                found: GenesisId::try_from(found.as_slice()).map_or_else(|_| "?".into(), |id| id.to_string()),
                expected: genesis.to_string(),
            });
        }
        Ok(true)
    }

    /// Marks the store as belonging to `genesis`.
    pub fn put_identity(batch: &mut WriteBatch, genesis: &GenesisId) {
        batch.put(META_FORMAT.to_vec(), FORMAT_VERSION.to_be_bytes());
        batch.put(META_GENESIS.to_vec(), genesis.0);
    }

    /// Applies a batch atomically.
    pub fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        if batch.is_empty() { Ok(()) } else { self.store.apply(batch) }
    }

    /// Makes everything applied so far durable, and then the mark that tells of it.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()?;
        let Some(genesis) = self.store.get(META_GENESIS)? else { return Ok(()) };
        let genesis = GenesisId::try_from(genesis.as_slice())
            .map_err(|_| StoreError::damaged("the genesis id is not 32 bytes"))?;
        let before = self.mark(&genesis)?;
        let mut mark = before.clone().unwrap_or_else(|| Mark::new(genesis));
        mark.advance(self.finalized_checkpoint()?, self.last_proposed()?, self.last_vote()?);
        if before.as_ref() == Some(&mark) { Ok(()) } else { self.store.put_mark(&mark.encode()) }
    }

    /// The mark of this chain, if one was ever written.
    pub fn mark(&self, genesis: &GenesisId) -> Result<Option<Mark>, StoreError> {
        let Some(bytes) = self.store.mark()? else { return Ok(None) };
        let mark = Mark::parse(&bytes).map_err(layout("the mark beside it"))?;
        Ok(Some(mark).filter(|mark| mark.genesis == *genesis))
    }

    // ---- blocks

    /// Adds a block and its receipts.
    pub fn put_block(batch: &mut WriteBatch, block: &Block, receipts: &[Receipt]) {
        let header = block.header();
        let (height, id) = (header.height, header.id());
        batch.put(key(b'n', &[&id.0]), height.to_be_bytes());
        batch.put(key(b'h', &[&height.to_be_bytes(), &id.0]), header.bytes().to_vec());
        let whole = block.encode();
        for (chunk, bytes) in whole[header.bytes().len()..].chunks(CHUNK_BYTES).enumerate() {
            batch.put(chunk_key(b'b', height, &id, chunk), bytes);
        }
        for (chunk, bytes) in receipt_table(receipts).chunks(CHUNK_BYTES).enumerate() {
            batch.put(chunk_key(b'r', height, &id, chunk), bytes);
        }
        if let Some(bloom) = LogBloom::of(receipts) {
            batch.put(key(b'l', &[&height.to_be_bytes(), &id.0]), bloom.bytes().to_vec());
        }
    }

    /// Removes a block and its receipts.
    pub fn remove_block(&self, batch: &mut WriteBatch, header: &Header) -> Result<(), StoreError> {
        let (height, id) = (header.height, header.id());
        batch.remove(key(b'n', &[&id.0]));
        batch.remove(key(b'h', &[&height.to_be_bytes(), &id.0]));
        for chunk in 0..(header.body_bytes as usize).div_ceil(CHUNK_BYTES) {
            batch.remove(chunk_key(b'b', height, &id, chunk));
        }
        let (_, receipts_end) = self.receipt_span(header, header.tx_count.saturating_sub(1))?;
        for chunk in 0..receipts_end.div_ceil(CHUNK_BYTES) {
            batch.remove(chunk_key(b'r', height, &id, chunk));
        }
        batch.remove(key(b'l', &[&height.to_be_bytes(), &id.0]));
        Ok(())
    }

    /// Where the receipt at an index begins and ends among the bytes kept for a block.
    fn receipt_span(&self, header: &Header, index: u32) -> Result<(usize, usize), StoreError> {
        let table = RECEIPT_END_LEN * header.tx_count as usize;
        let at = RECEIPT_END_LEN * index as usize;
        if table == 0 {
            return Ok((0, 0));
        }
        let from = at.saturating_sub(RECEIPT_END_LEN);
        let ends = self.chunks(b'r', header, from, at + RECEIPT_END_LEN)?;
        let mut ends =
            ends.as_chunks::<RECEIPT_END_LEN>().0.iter().map(|end| u32::from_be_bytes(*end) as usize);
        let begin = if index == 0 { 0 } else { ends.next().unwrap_or_default() };
        let end = ends.next().unwrap_or_default();
        if end < begin || end - begin > RECEIPT_BYTES_MAX {
            return Err(StoreError::damaged(format!("receipt {index} of block {}", header.id().short())));
        }
        Ok((table + begin, table + end))
    }

    /// The height of a stored block, canonical or not.
    pub fn height_of(&self, id: &BlockId) -> Result<Option<u64>, StoreError> {
        self.store.get(&key(b'n', &[&id.0]))?.map(|value| read_u64(&value, "a block's height")).transpose()
    }

    /// The header of a stored block, canonical or not.
    pub fn header(&self, id: &BlockId) -> Result<Option<Header>, StoreError> {
        match self.height_of(id)? {
            Some(height) => self.unless_removed(id, self.header_at(height, id)),
            None => Ok(None),
        }
    }

    /// A reader may look at a block on a side branch while finality removes it; that is no damage.
    fn unless_removed<T>(&self, id: &BlockId, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Err(StoreError::Damaged { .. }) if self.height_of(id)?.is_none() => Ok(None),
            read => read.map(Some),
        }
    }

    /// The header of a block that must be there.
    pub fn header_at(&self, height: u64, id: &BlockId) -> Result<Header, StoreError> {
        let bytes = self.store.get(&key(b'h', &[&height.to_be_bytes(), &id.0]))?.ok_or_else(|| {
            StoreError::damaged(format!("the header of block {height} {} is missing", id.short()))
        })?;
        let header = Header::parse(bytes.into()).map_err(layout("a header"))?;
        if header.id() != *id {
            return Err(StoreError::damaged(format!(
                "the header of block {height} {} was altered",
                id.short()
            )));
        }
        Ok(header)
    }

    fn chunks(&self, kind: u8, header: &Header, from: usize, to: usize) -> Result<Vec<u8>, StoreError> {
        let (height, id) = (header.height, header.id());
        let mut out = Vec::with_capacity(to - from);
        let first = from / CHUNK_BYTES;
        let mut next = first;
        if to > from {
            let last = (to - 1) / CHUNK_BYTES;
            self.store.scan(
                &chunk_key(kind, height, &id, first),
                &chunk_key(kind, height, &id, last + 1),
                &mut |key, value| {
                    if key.ends_with(&(next as u16).to_be_bytes()) {
                        next += 1;
                        out.extend_from_slice(value);
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                },
            )?;
        }
        let start = from - first * CHUNK_BYTES;
        if out.len() < start + (to - from) {
            return Err(StoreError::damaged(format!("parts of block {height} {} are missing", id.short())));
        }
        out.truncate(start + (to - from));
        out.drain(..start);
        Ok(out)
    }

    /// The body of a stored block, as it travels.
    pub fn body(&self, header: &Header) -> Result<Bytes, StoreError> {
        self.chunks(b'b', header, 0, header.body_bytes as usize).map(Bytes::from)
    }

    /// Header and body of a stored block, as they travel: for sending, without parsing.
    pub fn raw_block(&self, id: &BlockId) -> Result<Option<(Header, Bytes)>, StoreError> {
        let Some(header) = self.header(id)? else { return Ok(None) };
        let body = self.unless_removed(id, self.body(&header))?;
        Ok(body.map(|body| (header, body)))
    }

    /// A stored block, parsed and checked against its header.
    pub fn block(&self, id: &BlockId) -> Result<Option<Block>, StoreError> {
        let Some((header, body)) = self.raw_block(id)? else { return Ok(None) };
        Block::from_parts(header, body).map(Some).map_err(layout("a block body"))
    }

    /// The receipts of a stored block, in order.
    pub fn receipts(&self, header: &Header) -> Result<Vec<Receipt>, StoreError> {
        let Some(last) = header.tx_count.checked_sub(1) else { return Ok(Vec::new()) };
        let table = RECEIPT_END_LEN * header.tx_count as usize;
        let (_, end) = self.receipt_span(header, last)?;
        let bytes = Bytes::from(self.chunks(b'r', header, 0, end)?);
        let mut begin = table;
        let ends = bytes[..table].as_chunks::<RECEIPT_END_LEN>().0.iter();
        ends.map(|end| {
            let end = table + u32::from_be_bytes(*end) as usize;
            if end < begin || end > bytes.len() {
                return Err(StoreError::damaged(format!("receipts of block {}", header.id().short())));
            }
            let receipt = Receipt::parse(bytes.slice(begin..end)).map_err(layout("a receipt"))?;
            begin = end;
            Ok(receipt)
        })
        .collect()
    }

    /// Blocks with logs at the heights `from` to `to`, both included, on any branch: height, id and
    /// bloom, ascending by height. Stops when `visit` breaks.
    pub fn blooms(
        &self,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(u64, BlockId, &LogBloom) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut failed = None;
        self.store.scan(
            &key(b'l', &[&from.to_be_bytes()]),
            &key(b'l', &[&to.saturating_add(1).to_be_bytes()]),
            &mut |key, value| {
                let read = || {
                    let (height, id) = key.get(1..)?.split_first_chunk()?;
                    Some((u64::from_be_bytes(*height), BlockId::try_from(id).ok()?, LogBloom::parse(value)?))
                };
                let Some((height, id, bloom)) = read() else {
                    failed = Some(StoreError::damaged("a bloom of logs is none"));
                    return ControlFlow::Break(());
                };
                visit(height, id, &bloom)
            },
        )?;
        failed.map_or(Ok(()), Err)
    }

    /// Headers of all stored blocks above a height, ascending by height, then id.
    pub fn headers_above(&self, height: u64) -> Result<Vec<Header>, StoreError> {
        let mut found = Vec::new();
        self.store.scan(
            &key(b'h', &[&height.saturating_add(1).to_be_bytes()]),
            &key(b'h' + 1, &[]),
            &mut |_, value| {
                found.push(Bytes::copy_from_slice(value));
                ControlFlow::Continue(())
            },
        )?;
        found.into_iter().map(|bytes| Header::parse(bytes).map_err(layout("a header"))).collect()
    }

    // ---- the canonical chain

    /// Names the finalized block of a height.
    pub fn put_canonical(batch: &mut WriteBatch, height: u64, id: &BlockId) {
        batch.put(key(b'c', &[&height.to_be_bytes()]), id.0);
    }

    /// The finalized block of a height; genesis included.
    pub fn canonical_id(&self, height: u64) -> Result<Option<BlockId>, StoreError> {
        self.store
            .get(&key(b'c', &[&height.to_be_bytes()]))?
            .map(|value| read_id(&value, "a canonical id"))
            .transpose()
    }

    /// The finalized blocks of the heights `from` to `to`, both included.
    pub fn canonical_range(&self, from: u64, to: u64) -> Result<Vec<BlockId>, StoreError> {
        let mut ids = Vec::new();
        let mut failed = None;
        self.store.scan(
            &key(b'c', &[&from.to_be_bytes()]),
            &key(b'c', &[&to.saturating_add(1).to_be_bytes()]),
            &mut |_, value| match read_id(value, "a canonical id") {
                Ok(id) => {
                    ids.push(id);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(ids), Err)
    }

    // ---- transactions

    /// Points the transactions of a block that became canonical to it.
    pub fn put_places(batch: &mut WriteBatch, block: &Block) {
        let mut offset = 0u32;
        for (index, tx) in block.transactions().iter().enumerate() {
            let mut value = Vec::with_capacity(16);
            value.extend_from_slice(&block.header().height.to_be_bytes());
            value.extend_from_slice(&(index as u32).to_be_bytes());
            value.extend_from_slice(&offset.to_be_bytes());
            batch.put(key(b't', &[&tx.id().0[..TX_KEY_LEN]]), value);
            let len = tx.bytes().len();
            offset += (varint_len(len as u64) + len) as u32;
        }
    }

    /// Where a transaction was last seen in a canonical block. The block of that height may have
    /// been replaced since: compare what stands there.
    pub fn place(&self, id: &TxId) -> Result<Option<TxPlace>, StoreError> {
        let Some(value) = self.store.get(&key(b't', &[&id.0[..TX_KEY_LEN]]))? else { return Ok(None) };
        let mut cursor = Cursor::new(value.into());
        let mut read = || -> Result<TxPlace, LayoutError> {
            Ok(TxPlace {
                height: cursor.u64("height")?,
                index: cursor.u32("index")?,
                offset: cursor.u32("offset")?,
            })
        };
        read().map(Some).map_err(layout("a transaction's place"))
    }

    /// The transaction bytes at a place in a block, or `None` if no transaction starts there.
    pub fn transaction_at(&self, header: &Header, place: &TxPlace) -> Result<Option<Bytes>, StoreError> {
        let (from, end) = (place.offset as usize, header.body_bytes as usize);
        if from >= end || place.index >= header.tx_count {
            return Ok(None);
        }
        let first = Bytes::from(self.chunks(b'b', header, from, end.min(from + 4))?);
        let mut cursor = Cursor::new(first);
        let Ok(len) = cursor.varint("transaction length", 0, TX_BYTES_MAX as u64) else { return Ok(None) };
        let from = from + cursor.position();
        let to = from + len as usize;
        if to > end {
            return Ok(None);
        }
        self.chunks(b'b', header, from, to).map(|bytes| Some(bytes.into()))
    }

    /// The receipt of the transaction at an index of a block.
    pub fn receipt_at(&self, header: &Header, index: u32) -> Result<Receipt, StoreError> {
        let (from, to) = self.receipt_span(header, index)?;
        let bytes = self.chunks(b'r', header, from, to)?;
        Receipt::parse(bytes.into()).map_err(layout("a receipt"))
    }

    // ---- state

    /// A value of the state at the finalized block.
    pub fn state(&self, state_key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&key(b's', &[state_key]))
    }

    /// Visits the entries of the state at the finalized block whose keys begin with a byte, ascending, without that byte.
    pub fn scan_state(&self, domain: u8, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let (from, to) = (key(b's', &[&[domain]]), key(b's', &[&[domain + 1]]));
        self.store.scan(&from, &to, &mut |key, value| {
            visit(&key[2..], value);
            ControlFlow::Continue(())
        })
    }

    /// Sets or removes a value of the state at the finalized block.
    pub fn put_state(batch: &mut WriteBatch, state_key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => batch.put(key(b's', &[state_key]), value),
            None => batch.remove(key(b's', &[state_key])),
        }
    }

    // ---- what is known about the whole

    /// Replaces the finalized record.
    pub fn put_finalized(batch: &mut WriteBatch, record: &FinalizedRecord) {
        let mut value = Vec::with_capacity(48 + LTHASH_LEN);
        value.extend_from_slice(&record.height.to_be_bytes());
        value.extend_from_slice(&record.id.0);
        value.extend_from_slice(&record.included_total.to_be_bytes());
        value.extend_from_slice(&record.lthash.to_bytes());
        batch.put(META_FINALIZED.to_vec(), value);
    }

    /// The block the stored state belongs to.
    pub fn finalized(&self) -> Result<FinalizedRecord, StoreError> {
        let value = self
            .store
            .get(META_FINALIZED)?
            .ok_or_else(|| StoreError::damaged("the finalized block is not named"))?;
        let mut cursor = Cursor::new(value.into());
        let mut read = || -> Result<FinalizedRecord, LayoutError> {
            let record = FinalizedRecord {
                height: cursor.u64("height")?,
                id: BlockId(cursor.array("id")?),
                included_total: cursor.u64("included")?,
                lthash: LtHash::from_bytes(&cursor.array("state sum")?),
            };
            cursor.clone().finish()?;
            Ok(record)
        };
        read().map_err(layout("the finalized record"))
    }

    /// The block the stored state belongs to.
    pub fn finalized_checkpoint(&self) -> Result<Checkpoint, StoreError> {
        let value = self.store.get(META_FINALIZED)?;
        let value = value.as_deref().and_then(|value| value.first_chunk::<40>());
        let (height, id) = value
            .map(|value| value.split_at(8))
            .ok_or_else(|| StoreError::damaged("the finalized block is not named"))?;
        Ok(Checkpoint { height: read_u64(height, "the final height")?, id: read_id(id, "the final block")? })
    }

    /// Names the head.
    pub fn put_head(batch: &mut WriteBatch, id: &BlockId) {
        batch.put(META_HEAD.to_vec(), id.0);
    }

    /// The head when the store was last written.
    pub fn head(&self) -> Result<Option<BlockId>, StoreError> {
        self.store.get(META_HEAD)?.map(|value| read_id(&value, "the head")).transpose()
    }

    /// Keeps the certificate of the highest justified block.
    pub fn put_justified_by(batch: &mut WriteBatch, certificate: &FinalityCertificate) {
        batch.put(META_JUSTIFIED_BY.to_vec(), certificate.encode());
    }

    /// The certificate of the highest justified block.
    pub fn justified_by(&self) -> Result<Option<FinalityCertificate>, StoreError> {
        self.certificate(META_JUSTIFIED_BY)
    }

    /// Keeps the certificate of the finalized block.
    pub fn put_finalized_by(batch: &mut WriteBatch, certificate: &FinalityCertificate) {
        batch.put(META_FINALIZED_BY.to_vec(), certificate.encode());
    }

    /// The certificate of the finalized block.
    pub fn finalized_by(&self) -> Result<Option<FinalityCertificate>, StoreError> {
        self.certificate(META_FINALIZED_BY)
    }

    fn certificate(&self, name: &[u8]) -> Result<Option<FinalityCertificate>, StoreError> {
        self.store
            .get(name)?
            .map(|value| FinalityCertificate::parse(value.into()).map_err(layout("a certificate")))
            .transpose()
    }

    /// Keeps the last vote this node signed. It must be durable before the vote leaves the node.
    pub fn put_last_vote(batch: &mut WriteBatch, vote: &Vote) {
        batch.put(META_LAST_VOTE.to_vec(), vote.encode());
    }

    /// The last vote this node signed.
    pub fn last_vote(&self) -> Result<Option<Vote>, StoreError> {
        self.store
            .get(META_LAST_VOTE)?
            .map(|value| Vote::parse(value.into()).map_err(layout("the last vote")))
            .transpose()
    }

    /// Keeps the last slot this node proposed for. It must be durable before the block leaves the node.
    pub fn put_last_proposed(batch: &mut WriteBatch, slot: u64) {
        batch.put(META_LAST_PROPOSED.to_vec(), slot.to_be_bytes());
    }

    /// The last slot this node proposed for.
    pub fn last_proposed(&self) -> Result<Option<u64>, StoreError> {
        self.store
            .get(META_LAST_PROPOSED)?
            .map(|value| read_u64(&value, "the last proposed slot"))
            .transpose()
    }
}

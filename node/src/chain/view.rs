//! What services read: the chain as it was after one change, without a lock.

use std::sync::Arc;

use bytes::Bytes;
use ghost_proto::{
    Address, Block, BlockId, Checkpoint, FinalityCertificate, Genesis, GenesisId, Header, Receipt, TxId,
    limits::{HEADERS_PER_ANSWER_MAX, LOCATOR_IDS_MAX},
};
use rpds::HashTrieMapSync;

use super::state::{Account, BlockState, Snapshot};
use crate::store::{Records, StoreError};

/// How many of the newest blocks a locator names one by one before it starts to leap.
const LOCATOR_DENSE: usize = 10;

/// What the alarm of a node begins with whose store lost blocks that were final.
pub const LOST_BLOCKS: &str = "the chain store has lost final blocks";

/// That alarm.
pub fn lost_blocks(stored_height: u64, lost_height: u64) -> String {
    format!(
        "{LOST_BLOCKS}: {stored_height} of {lost_height} are there; until the rest is back, nothing is proposed or voted for"
    )
}

/// A block, named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// Distance from genesis.
    pub height: u64,
    /// Its id; that of genesis is the genesis id.
    pub id: BlockId,
    /// Its slot; genesis has none.
    pub slot: Option<u64>,
}

impl From<BlockRef> for Checkpoint {
    fn from(block: BlockRef) -> Self {
        Self { height: block.height, id: block.id }
    }
}

/// A transaction of a canonical block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncludedTransaction {
    /// As it was signed.
    pub bytes: Bytes,
    /// The block that holds it.
    pub block: BlockRef,
    /// Its place there.
    pub index: u32,
    /// What became of it.
    pub receipt: Receipt,
    /// It cannot be reverted any more.
    pub finalized: bool,
}

/// The chain at one moment: head, finality, accounts, and everything stored. A view never changes;
/// take the newest for each question, and the same one for questions that belong together.
#[derive(Debug, Clone)]
pub struct HeadView {
    pub(super) genesis: Arc<Genesis>,
    pub(super) genesis_id: GenesisId,
    pub(super) head: BlockRef,
    pub(super) finalized: BlockRef,
    pub(super) justified: Checkpoint,
    pub(super) finalized_by: Option<Arc<FinalityCertificate>>,
    pub(super) justified_by: Option<Arc<FinalityCertificate>>,
    pub(super) included_total: u64,
    pub(super) lost: Option<Checkpoint>,
    pub(super) state: BlockState,
    /// The head and the blocks below whose states can be read, newest first.
    pub(super) readable: Arc<[(BlockRef, BlockState)]>,
    /// Height to id of canonical blocks that are not final.
    pub(super) canonical: HashTrieMapSync<u64, BlockId>,
    pub(super) records: Records,
}

impl HeadView {
    /// The genesis.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    /// Id of the genesis.
    pub fn genesis_id(&self) -> GenesisId {
        self.genesis_id
    }

    /// The canonical tip.
    pub fn head(&self) -> BlockRef {
        self.head
    }

    /// The highest final block.
    pub fn finalized(&self) -> BlockRef {
        self.finalized
    }

    /// The highest justified block.
    pub fn justified(&self) -> Checkpoint {
        self.justified
    }

    /// The certificate that made [`Self::finalized`] final: what a peer that asks gets. `None` at genesis.
    pub fn finalized_by(&self) -> Option<&Arc<FinalityCertificate>> {
        self.finalized_by.as_ref()
    }

    /// The certificate that justified [`Self::justified`], if that is above the finalized block.
    pub fn justified_by(&self) -> Option<&Arc<FinalityCertificate>> {
        self.justified_by.as_ref()
    }

    /// A block that was final before the store was damaged, while it is not back: as [`super::Chain::lost`].
    pub fn lost(&self) -> Option<Checkpoint> {
        self.lost
    }

    /// Transactions in canonical blocks since genesis.
    pub fn included_total(&self) -> u64 {
        self.included_total
    }

    /// An account at the head; all zero if the chain knows nothing about it.
    pub fn account(&self, address: &Address) -> Result<Account, StoreError> {
        self.state.snapshot.account(address)
    }

    /// The whole state at the head.
    pub fn state(&self) -> &Snapshot {
        &self.state.snapshot
    }

    /// True if the block is stored (canonical or not), or is genesis.
    pub fn contains(&self, id: &BlockId) -> Result<bool, StoreError> {
        Ok(*id == self.genesis.block_id() || self.records.height_of(id)?.is_some())
    }

    /// The header of a stored block. Genesis has none.
    pub fn header(&self, id: &BlockId) -> Result<Option<Header>, StoreError> {
        self.records.header(id)
    }

    /// A stored block, parsed.
    pub fn block(&self, id: &BlockId) -> Result<Option<Block>, StoreError> {
        self.records.block(id)
    }

    /// Header and body of a stored block as they travel, unparsed.
    pub fn raw_block(&self, id: &BlockId) -> Result<Option<(Header, Bytes)>, StoreError> {
        self.records.raw_block(id)
    }

    /// The receipts of a stored block, in the order of its transactions.
    pub fn receipts(&self, header: &Header) -> Result<Vec<Receipt>, StoreError> {
        self.records.receipts(header)
    }

    /// The canonical block of a height; `None` above the head.
    pub fn canonical_id(&self, height: u64) -> Result<Option<BlockId>, StoreError> {
        if height > self.head.height {
            Ok(None)
        } else if height > self.finalized.height {
            Ok(self.canonical.get(&height).copied())
        } else {
            self.records.canonical_id(height)
        }
    }

    /// True if the block with this header stands on the canonical chain.
    pub fn is_canonical(&self, header: &Header) -> Result<bool, StoreError> {
        Ok(self.canonical_id(header.height)? == Some(header.id()))
    }

    /// A transaction of a canonical block.
    pub fn transaction(&self, id: &TxId) -> Result<Option<IncludedTransaction>, StoreError> {
        let Some(place) = self.records.place(id)? else { return Ok(None) };
        let Some(block_id) = self.canonical_id(place.height)? else { return Ok(None) };
        let Some(header) = self.records.header(&block_id)? else { return Ok(None) };
        // The place is a hint: the block of that height may be another one than when it was written.
        let Some(bytes) = self.records.transaction_at(&header, &place)? else { return Ok(None) };
        if *blake3::hash(&bytes).as_bytes() != id.0 {
            return Ok(None);
        }
        Ok(Some(IncludedTransaction {
            bytes,
            block: BlockRef { height: header.height, id: block_id, slot: Some(header.slot) },
            index: place.index,
            receipt: self.records.receipt_at(&header, place.index)?,
            finalized: header.height <= self.finalized.height,
        }))
    }

    /// Canonical ids for a peer to find out what we have: the newest ten, then at doubling distances,
    /// then genesis.
    pub fn locator(&self) -> Result<Vec<BlockId>, StoreError> {
        let mut ids = Vec::new();
        let (mut height, mut step) = (self.head.height, 1);
        while height > 0 && ids.len() < LOCATOR_IDS_MAX - 1 {
            ids.extend(self.canonical_id(height)?);
            if ids.len() >= LOCATOR_DENSE {
                step *= 2;
            }
            height = height.saturating_sub(step);
        }
        ids.push(self.genesis.block_id());
        Ok(ids)
    }

    /// Canonical headers after the first id of `locator` that stands on our canonical chain; at most
    /// `limit` and at most [`HEADERS_PER_ANSWER_MAX`]. Empty if none stands there, or nothing follows.
    pub fn headers_after(&self, locator: &[BlockId], limit: usize) -> Result<Vec<Header>, StoreError> {
        let Some(start) = self.first_canonical(locator)? else { return Ok(Vec::new()) };
        let limit = limit.min(HEADERS_PER_ANSWER_MAX) as u64;
        let last = self.head.height.min(start.saturating_add(limit));
        let final_last = last.min(self.finalized.height);
        let mut headers = Vec::new();
        if start < final_last {
            for (height, id) in (start + 1..).zip(self.records.canonical_range(start + 1, final_last)?) {
                headers.push(self.records.header_at(height, &id)?);
            }
        }
        for height in start.max(self.finalized.height) + 1..=last {
            // A view outlives its moment: what it calls canonical may have been removed since.
            let Some(id) = self.canonical.get(&height) else { break };
            let Some(header) = self.records.header(id)? else { break };
            headers.push(header);
        }
        Ok(headers)
    }

    fn first_canonical(&self, locator: &[BlockId]) -> Result<Option<u64>, StoreError> {
        for id in locator.iter().take(LOCATOR_IDS_MAX) {
            if *id == self.genesis.block_id() {
                return Ok(Some(0));
            }
            if let Some(height) = self.records.height_of(id)?
                && self.canonical_id(height)? == Some(*id)
            {
                return Ok(Some(height));
            }
        }
        Ok(None)
    }
}

//! Putting a block together from short ids, the pool, and what others send.

use std::sync::Arc;

use ghost_frames::compact::{CompactBlock, PlacedTransaction};
use ghost_proto::{Block, Header, PeerId, SignedTransaction, layout::varint_len};

use super::compact::{Found, ShortIds};

/// The transactions of a block that are here while others are still asked for.
#[derive(Debug)]
pub struct PartialBlock {
    /// Of the block.
    pub header: Header,
    /// One for each place.
    pub transactions: Vec<Option<SignedTransaction>>,
}

/// What is known of how a finished block was put together.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) ids: Arc<ShortIds>,
    /// Places whose transactions were not in the pool: who gets the block from us may lack them too.
    pub(crate) lacked: Vec<u32>,
}

/// One block being put together. It holds a slot of about 0.3 KiB for each transaction the header
/// counts.
#[derive(Debug)]
pub struct Rebuild {
    header: Header,
    from: PeerId,
    ids: Arc<ShortIds>,
    slots: Vec<Option<SignedTransaction>>,
    pooled: Vec<bool>,
    missing: usize,
    /// Bytes of the body that are here.
    bytes: usize,
}

impl Rebuild {
    /// Begins with what the compact block brought.
    pub fn new(from: PeerId, compact: CompactBlock) -> Self {
        let count = compact.header.tx_count as usize;
        let ids = Arc::new(ShortIds::received(&compact));
        let mut rebuild = Self {
            header: compact.header,
            from,
            ids,
            slots: vec![None; count],
            pooled: vec![false; count],
            missing: count,
            bytes: 0,
        };
        for placed in compact.prefilled {
            rebuild.fill(placed);
        }
        rebuild
    }

    /// Who sent the compact block.
    pub fn from(&self) -> PeerId {
        self.from
    }

    /// Of the block.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What is to be looked up in the pool.
    pub fn ids(&self) -> &Arc<ShortIds> {
        &self.ids
    }

    /// Takes what the pool has. Answers how many that were.
    pub fn looked_up(&mut self, found: Found) -> usize {
        let mut count = 0;
        for (place, transaction) in found.0.into_iter().enumerate().take(self.slots.len()) {
            let Some(transaction) = transaction else { continue };
            self.pooled[place] = true;
            count += 1;
            self.fill(PlacedTransaction { index: place as u32, transaction });
        }
        count
    }

    /// Takes one transaction. True if its place was empty; the first to come stays.
    pub fn fill(&mut self, placed: PlacedTransaction) -> bool {
        let Some(slot) = self.slots.get_mut(placed.index as usize).filter(|slot| slot.is_none()) else {
            return false;
        };
        let len = placed.transaction.bytes().len();
        self.bytes += len + varint_len(len as u64);
        self.missing -= 1;
        *slot = Some(placed.transaction);
        true
    }

    /// True if the place exists and is empty.
    pub fn is_missing(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(Option::is_none)
    }

    /// Empty places, ascending.
    pub fn missing(&self) -> Vec<u32> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, slot)| slot.is_none()).map(|(place, _)| place as u32).collect()
    }

    /// How many.
    pub fn missing_count(&self) -> usize {
        self.missing
    }

    /// Bytes of the body that are not here. If a false transaction was taken this may be off; only the end tells.
    pub fn missing_bytes(&self) -> usize {
        (self.header.body_bytes as usize).saturating_sub(self.bytes)
    }

    fn lacked(&self) -> impl Iterator<Item = (u32, &SignedTransaction)> {
        let lacked = self.slots.iter().zip(&self.pooled).enumerate().filter(|(_, (_, pooled))| !**pooled);
        lacked.filter_map(|(place, (slot, _))| Some((place as u32, slot.as_ref()?)))
    }

    /// The block as it may be passed on already, and the transactions that can be served for it.
    pub fn pass_on(&self) -> (CompactBlock, PartialBlock) {
        let partial = PartialBlock { header: self.header.clone(), transactions: self.slots.clone() };
        (self.ids.compact(self.header.clone(), self.lacked()), partial)
    }

    /// The block, if nothing is missing and the transactions are those under the header's root. If they
    /// are not, one of the short ids stood for another transaction, or somebody sent a false one; no way
    /// to say who, so the block must come whole.
    pub(crate) fn finish(self) -> Option<(Block, Rebuilt)> {
        let lacked = self.lacked().map(|(place, _)| place).collect();
        let transactions = self.slots.into_iter().collect::<Option<Vec<_>>>()?;
        let block = Block::assemble(self.header, transactions).ok()?;
        Some((block, Rebuilt { ids: self.ids, lacked }))
    }
}

impl Rebuilt {
    /// The block as it is passed on: with what we had to get stands in it whole, up to the bound.
    pub(crate) fn compact(&self, block: &Block) -> CompactBlock {
        let lacked =
            self.lacked.iter().filter_map(|place| Some((*place, block.transactions().get(*place as usize)?)));
        self.ids.compact(block.header().clone(), lacked)
    }
}

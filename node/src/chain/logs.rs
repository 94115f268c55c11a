//! Finding what contracts logged.

use std::ops::ControlFlow;

use ghost_proto::{
    Address, BlockId, LogEntry, SignedTransaction, TxId,
    limits::{LOG_ROWS_BYTES_MAX, LOG_TOPICS_MAX, RPC_ROWS_MAX},
};

use super::view::HeadView;
use crate::{
    engine::Stop,
    store::{LogBloom, StoreError},
};

/// What is looked for. What is left empty may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// One of these contracts.
    pub addresses: Vec<Address>,
    /// For each place, one of these topics. An entry without a topic there does not match.
    pub topics: [Vec<[u8; 32]>; LOG_TOPICS_MAX],
}

impl LogFilter {
    /// True if the entry is looked for.
    pub fn matches(&self, entry: &LogEntry) -> bool {
        let topic = |(place, wanted): (usize, &Vec<[u8; 32]>)| {
            wanted.is_empty() || entry.topics.get(place).is_some_and(|topic| wanted.contains(topic))
        };
        (self.addresses.is_empty() || self.addresses.contains(&entry.address))
            && self.topics.iter().enumerate().all(topic)
    }

    fn may_match(&self, bloom: &LogBloom) -> bool {
        let any = |wanted: &Vec<[u8; 32]>| {
            wanted.is_empty() || wanted.iter().any(|topic| bloom.may_hold_topic(topic))
        };
        (self.addresses.is_empty() || self.addresses.iter().any(|it| bloom.may_hold_address(it)))
            && self.topics.iter().all(any)
    }
}

/// A place among all entries of the canonical chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPlace {
    /// Height of the block.
    pub height: u64,
    /// Place of the transaction in the block.
    pub transaction: u32,
    /// Place among the entries of the transaction.
    pub index: u32,
}

impl LogPlace {
    /// The first of a block.
    pub fn block(height: u64) -> Self {
        Self { height, ..Self::default() }
    }
}

/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLog {
    /// Where.
    pub place: LogPlace,
    /// The canonical block.
    pub block: BlockId,
    /// The transaction.
    pub transaction: TxId,
    /// The entry.
    pub entry: LogEntry,
}

/// How much one search may bring and cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of them, as they stand in receipts. One entry is brought in any case.
    pub bytes: usize,
    /// Most blocks with entries to look at.
    pub blocks: usize,
}

impl LogLimits {
    /// Of one remote call: an answer of 1.2 MiB at most; looking at a block takes about a
    /// microsecond, and about a hundred if it may hold a match.
    pub const CALL: Self = Self { entries: RPC_ROWS_MAX, bytes: LOG_ROWS_BYTES_MAX, blocks: 100_000 };
}

/// Entries in the order of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLogs {
    /// What matches between the place asked for and [`Self::next`].
    pub entries: Vec<FoundLog>,
    /// The place to go on from; `None` if all was looked through.
    pub next: Option<LogPlace>,
}

/// A search under way.
struct Search<'a> {
    filter: &'a LogFilter,
    from: LogPlace,
    limits: LogLimits,
    bytes: usize,
    blocks: usize,
    found: FoundLogs,
}

impl HeadView {
    /// Entries of canonical blocks from a place up to a height, that included. If it is stopped, what
    /// was found until then, and where to go on.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn logs(
        &self,
        filter: &LogFilter,
        from: LogPlace,
        to: u64,
        limits: LogLimits,
        stop: &Stop,
    ) -> Result<FoundLogs, StoreError> {
        let to = to.min(self.head.height);
        let found = FoundLogs { entries: Vec::new(), next: None };
        let mut search = Search { filter, from, limits, bytes: 0, blocks: 0, found };
        let mut failed = None;
        self.records.blooms(from.height, to, &mut |height, id, bloom| {
            if search.blocks >= limits.blocks || stop.is_stopped() {
                search.found.next = Some(LogPlace::block(height));
                return ControlFlow::Break(());
            }
            search.blocks += 1;
            if !filter.may_match(bloom) {
                return ControlFlow::Continue(());
            }
            match self.search_block(&mut search, height, &id) {
                Ok(flow) => flow,
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(search.found), Err)
    }

    fn search_block(
        &self,
        search: &mut Search<'_>,
        height: u64,
        id: &BlockId,
    ) -> Result<ControlFlow<()>, StoreError> {
        if self.canonical_id(height)? != Some(*id) {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(header) = self.records.header(id)? else { return Ok(ControlFlow::Continue(())) };
        let mut block = None;
        for (transaction, receipt) in (0..).zip(self.records.receipts(&header)?) {
            for (index, entry) in (0..).zip(receipt.logs) {
                let place = LogPlace { height, transaction, index };
                if place < search.from || !search.filter.matches(&entry) {
                    continue;
                }
                let bytes = search.bytes + entry.encoded_len();
                if search.found.entries.len() >= search.limits.entries
                    || (bytes > search.limits.bytes && !search.found.entries.is_empty())
                {
                    search.found.next = Some(place);
                    return Ok(ControlFlow::Break(()));
                }
                search.bytes = bytes;
                if block.is_none() {
                    block = self.records.block(id)?;
                }
                let tx = block.as_ref().and_then(|block| block.transactions().get(transaction as usize));
                let transaction = tx.map(SignedTransaction::id).ok_or_else(|| {
                    StoreError::damaged(format!("block {} has more receipts than transactions", id.short()))
                })?;
                search.found.entries.push(FoundLog { place, block: *id, transaction, entry });
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

//! Finding what contracts logged.

use std::ops::ControlFlow;

use ghost_proto::{Address, BlockId, LogEntry, limits::LOG_TOPICS_MAX};

use super::view::{BlockRef, HeadView};
use crate::store::{LogBloom, StoreError};

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

/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLog {
    /// The canonical block.
    pub block: BlockRef,
    /// Place of its transaction in the block.
    pub transaction: u32,
    /// Place among the entries of its transaction.
    pub index: u32,
    /// The entry.
    pub entry: LogEntry,
}

/// Entries in the order of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLogs {
    /// All that match in the heights looked through.
    pub entries: Vec<FoundLog>,
    /// The height to go on from; `None` if all heights asked for were looked through.
    pub next: Option<u64>,
}

impl HeadView {
    /// Entries in canonical blocks from height `from` to `to`, both included. Stops behind the block
    /// that brings the entries to `limit`, so that no block is told in part: at most `limit` and what
    /// one block can hold, which its gas bounds to 8 gas for each byte and 375 for each entry.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn logs(
        &self,
        filter: &LogFilter,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<FoundLogs, StoreError> {
        let to = to.min(self.head.height);
        let mut found = FoundLogs { entries: Vec::new(), next: None };
        let mut failed = None;
        self.records.blooms(from, to, &mut |height, id, bloom| {
            if !filter.may_match(bloom) {
                return ControlFlow::Continue(());
            }
            if let Err(error) = self.logs_of_block(filter, height, &id, &mut found.entries) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            if found.entries.len() >= limit && height < to {
                found.next = Some(height + 1);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(found), Err)
    }

    fn logs_of_block(
        &self,
        filter: &LogFilter,
        height: u64,
        id: &BlockId,
        into: &mut Vec<FoundLog>,
    ) -> Result<(), StoreError> {
        if self.canonical_id(height)? != Some(*id) {
            return Ok(());
        }
        let Some(header) = self.records.header(id)? else { return Ok(()) };
        let block = BlockRef { height, id: *id, slot: Some(header.slot) };
        for (transaction, receipt) in (0..).zip(self.records.receipts(&header)?) {
            let entries = (0..).zip(receipt.logs).filter(|(_, entry)| filter.matches(entry));
            into.extend(entries.map(|(index, entry)| FoundLog { block, transaction, index, entry }));
        }
        Ok(())
    }
}

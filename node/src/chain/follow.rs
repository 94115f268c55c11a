//! Telling what contracts and accounts do, block by block, so that it can be resumed at any node.
//!
//! The sequence is the chain itself: a position is the height and the id of a canonical block, which
//! is the same on every node that has the block. What was told up to a position is everything that
//! matches up to that block. If the chain is reorganised, a step leads back to a position that was
//! told and is still canonical; what was told above it is undone, and what stands there now follows.

use std::collections::VecDeque;

use ghost_proto::{
    Address, BlockId, Receipt, TxId,
    limits::{FOLLOW_POSITIONS_MAX, LOG_ROWS_BYTES_MAX, RPC_ROWS_MAX},
};

use super::{
    logs::{FoundLog, LogFilter, LogLimits, LogPlace},
    view::HeadView,
};
use crate::{engine::Stop, store::StoreError};

/// Blocks with transactions that one step looks through for receipts.
const RECEIPT_BLOCKS_PER_STEP: usize = 64;

/// A position in the sequence: a canonical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its height.
    pub height: u64,
    /// Its id.
    pub id: BlockId,
}

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Logs.
    Logs(LogFilter),
    /// Receipts of the transactions of these senders.
    Receipts(Vec<Address>),
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Behind the head.
    Now,
    /// With the block of this height.
    Height(u64),
    /// Behind the newest of these that is canonical; newest first.
    Positions(Vec<Position>),
}

/// A receipt and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundReceipt {
    /// The block.
    pub block: Position,
    /// The transaction.
    pub transaction: TxId,
    /// Its place in the block.
    pub index: u32,
    /// What became of it.
    pub receipt: Receipt,
}

/// One step: everything that matches in the blocks behind `prev` up to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The position before.
    pub prev: Position,
    /// The position now.
    pub to: Position,
    /// The chain was reorganised: what was told above `to` is undone.
    pub reverted: bool,
    /// The rows of the block `to` go on in the next step, whose `prev` is the same. Until then they do
    /// not count.
    pub more: bool,
    /// Positions up to this height stay.
    pub finalized: u64,
    /// Of [`Followed::Logs`].
    pub logs: Vec<FoundLog>,
    /// Of [`Followed::Receipts`].
    pub receipts: Vec<FoundReceipt>,
}

/// Why nothing can be followed from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// The height is above the next block's.
    #[error("height {wanted} is not there yet; the head is at {head}")]
    Ahead {
        /// What was asked for.
        wanted: u64,
        /// Of the head.
        head: u64,
    },
    /// None of the positions is on this chain.
    #[error("this node has none of these positions on its chain")]
    Unknown,
    /// The state of the node.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One who follows: where it is, and what it was told.
#[derive(Debug)]
pub struct Follower {
    what: Followed,
    at: Position,
    /// A row of the block behind `at` that the next step begins with.
    inside: Option<(LogPlace, BlockId)>,
    /// Positions told, newest first; the last is final, or the first of all.
    told: VecDeque<Position>,
}

fn position(view: &HeadView, height: u64) -> Result<Option<Position>, StoreError> {
    Ok(view.canonical_id(height)?.map(|id| Position { height, id }))
}

impl Follower {
    /// Begins. The first step has no rows: it says where one is, or leads back to where one was.
    ///
    /// # Errors
    /// [`FollowError`]; [`FollowError::Ahead`] passes with time.
    pub fn begin(view: &HeadView, what: Followed, from: From) -> Result<(Self, Told), FollowError> {
        let head = view.head().height;
        let (prev, at) = match from {
            From::Now => {
                let at = Position { height: head, id: view.head().id };
                (at, at)
            }
            From::Height(height) => {
                let at = position(view, height.saturating_sub(1))?;
                let at = at.ok_or(FollowError::Ahead { wanted: height, head })?;
                (at, at)
            }
            From::Positions(positions) => {
                let newest = *positions.first().ok_or(FollowError::Unknown)?;
                if newest.height > head {
                    return Err(FollowError::Ahead { wanted: newest.height, head });
                }
                let mut found = None;
                for told in positions {
                    if position(view, told.height)? == Some(told) {
                        found = Some(told);
                        break;
                    }
                }
                (newest, found.ok_or(FollowError::Unknown)?)
            }
        };
        let told = Told {
            prev,
            to: at,
            reverted: prev != at,
            more: false,
            finalized: view.finalized().height,
            logs: Vec::new(),
            receipts: Vec::new(),
        };
        Ok((Self { what, at, inside: None, told: VecDeque::from([at]) }, told))
    }

    /// How many blocks the view is ahead.
    pub fn behind(&self, view: &HeadView) -> u64 {
        view.head().height.saturating_sub(self.at.height)
    }

    /// The next step towards the head of the view; `None` if nothing is new.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn step(&mut self, view: &HeadView, stop: &Stop) -> Result<Option<Told>, StoreError> {
        let finalized = view.finalized().height;
        let told = |prev, to| Told {
            prev,
            to,
            reverted: false,
            more: false,
            finalized,
            logs: Vec::new(),
            receipts: Vec::new(),
        };
        let cut = match &self.inside {
            Some((place, id)) => view.canonical_id(place.height)? != Some(*id),
            None => false,
        };
        if cut || position(view, self.at.height)? != Some(self.at) {
            self.inside = None;
            let prev = self.at;
            while let Some(newest) = self.told.front() {
                if position(view, newest.height)? == Some(*newest) {
                    break;
                }
                self.told.pop_front();
            }
            // The last one told is final, or it is where this one began: then, as if it began anew.
            let back = match self.told.front() {
                Some(newest) => *newest,
                None => position(view, finalized)?.unwrap_or(prev),
            };
            self.at = back;
            if self.told.is_empty() {
                self.told.push_front(back);
            }
            return Ok(Some(Told { reverted: true, ..told(prev, back) }));
        }
        let head = view.head().height;
        if self.at.height >= head {
            return Ok(None);
        }
        let prev = self.at;
        let mut step = told(prev, prev);
        let next = match &self.what {
            Followed::Logs(filter) => {
                let from = self.inside.map_or(LogPlace::block(prev.height + 1), |(place, _)| place);
                let found = view.logs(filter, from, head, LogLimits::CALL, stop)?;
                step.logs = found.entries;
                found.next
            }
            Followed::Receipts(senders) => {
                let from = self.inside.map_or(LogPlace::block(prev.height + 1), |(place, _)| place);
                let (receipts, next) = receipts(view, senders, from, head, stop)?;
                step.receipts = receipts;
                next
            }
        };
        self.inside = None;
        let (height, inside) = match next {
            None => (head, None),
            Some(place) if place == LogPlace::block(place.height) => (place.height - 1, None),
            Some(place) => (place.height, Some(place)),
        };
        let Some(to) = position(view, height)? else { return Ok(None) };
        step.to = to;
        if let Some(place) = inside {
            self.inside = Some((place, to.id));
            step.more = true;
            return Ok(Some(step));
        }
        if to == prev && step.logs.is_empty() && step.receipts.is_empty() {
            // Stopped before the first block was looked through.
            return Ok(None);
        }
        self.at = to;
        self.remember(to, finalized);
        Ok(Some(step))
    }

    /// Keeps what one may have to go back to: all above the finalized block, and one that is not.
    fn remember(&mut self, position: Position, finalized: u64) {
        self.told.push_front(position);
        while self.told.len() > 1 && self.told[self.told.len() - 2].height <= finalized {
            self.told.pop_back();
        }
        if self.told.len() > FOLLOW_POSITIONS_MAX {
            // While finality stalls the older ones thin out; the last one stays.
            let middle = self.told.len() / 2;
            self.told.remove(middle);
        }
    }
}

type ReceiptPage = (Vec<FoundReceipt>, Option<LogPlace>);

fn receipts(
    view: &HeadView,
    senders: &[Address],
    from: LogPlace,
    to: u64,
    stop: &Stop,
) -> Result<ReceiptPage, StoreError> {
    let (mut found, mut bytes, mut blocks) = (Vec::new(), 0, 0);
    for height in from.height..=to {
        if stop.is_stopped() || blocks >= RECEIPT_BLOCKS_PER_STEP {
            return Ok((found, Some(LogPlace::block(height))));
        }
        let Some(block) = position(view, height)? else { break };
        let Some(header) = view.header(&block.id)?.filter(|header| header.tx_count > 0) else { continue };
        let Some(body) = view.block(&block.id)? else { continue };
        blocks += 1;
        let mine = (0..).zip(body.transactions()).filter(|(_, tx)| senders.contains(&tx.sender()));
        let mine: Vec<(u32, TxId)> = mine.map(|(index, tx)| (index, tx.id())).collect();
        if mine.is_empty() {
            continue;
        }
        let all = view.receipts(&header)?;
        for (index, transaction) in mine {
            let place = LogPlace { height, transaction: index, index: 0 };
            let Some(receipt) = all.get(index as usize).filter(|_| place >= from) else { continue };
            bytes += receipt.encoded_len();
            if found.len() >= RPC_ROWS_MAX || (bytes > LOG_ROWS_BYTES_MAX && !found.is_empty()) {
                return Ok((found, Some(place)));
            }
            found.push(FoundReceipt { block, transaction, index, receipt: receipt.clone() });
        }
    }
    Ok((found, None))
}

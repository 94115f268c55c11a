//! Following logs and receipts, and going on at another node.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use ghost_frames::{Frame, Payload, StreamType};
use ghost_proto::{
    Address, BlockId, Receipt, TxId,
    limits::{FOLLOW_POSITIONS_MAX, FOLLOW_SENDERS_MAX},
    message::{
        self, RpcCode,
        follow_request::{From as Begin, What},
    },
};
use tokio::time::{sleep, timeout};

use super::{
    CallError, Client, Log, LogFilter, Pool,
    contract::{array, broken, log, nonsense},
    unexpected,
};
use crate::request::{Answer, RequestError};

/// A position in what is followed: a block of the canonical chain. Everything that matches up to it
/// has been told. It is the same at every node, and can be kept to go on after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Height of the block.
    pub seq: u64,
    /// Its id.
    pub hash: BlockId,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FollowFrom {
    /// With the next block.
    #[default]
    Now,
    /// With the block of this height; history first.
    Height(u64),
    /// Where an earlier subscription ended: see [`Cursor`].
    Resume(Cursor),
}

/// Where a subscription is, and the way back if the chain is reorganised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    epoch: u64,
    /// Newest first; the last is final, or where it began. At most [`FOLLOW_POSITIONS_MAX`].
    told: VecDeque<Position>,
}

impl Cursor {
    /// The newest position.
    pub fn position(&self) -> Option<Position> {
        self.told.front().copied()
    }

    fn advance(&mut self, at: Position, finalized: u64) {
        self.told.retain(|told| told.seq < at.seq);
        self.told.push_front(at);
        while self.told.len() > 1 && self.told[self.told.len() - 2].seq <= finalized {
            self.told.pop_back();
        }
        if self.told.len() > FOLLOW_POSITIONS_MAX {
            // While finality stalls the older ones thin out; the last one stays.
            self.told.remove(FOLLOW_POSITIONS_MAX / 2);
        }
    }

    fn message(&self) -> message::Positions {
        let told = self.told.iter().map(|position| message::Position {
            seq: position.seq,
            hash: Bytes::copy_from_slice(&position.hash.0),
        });
        message::Positions { epoch: self.epoch, told: told.collect() }
    }
}

/// A receipt that was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedReceipt {
    /// The block.
    pub block: Position,
    /// The transaction.
    pub transaction: TxId,
    /// Its place in the block.
    pub index: u32,
    /// What became of it.
    pub receipt: Receipt,
}

/// What stands in some blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// All that matches up to here has been told.
    pub at: Position,
    /// The chain was reorganised: undo what was told above `at`. There are no rows.
    pub reverted: bool,
    /// Rows up to this height stay.
    pub finalized: u64,
    /// In the order of the chain; of a subscription to logs.
    pub logs: Vec<Log>,
    /// Likewise; of a subscription to receipts.
    pub receipts: Vec<FollowedReceipt>,
}

/// What is followed.
#[derive(Debug, Clone)]
enum Wanted {
    Logs(LogFilter),
    Receipts(Vec<Address>),
}

impl Wanted {
    fn message(&self) -> Result<What, CallError> {
        match self {
            Self::Logs(filter) => Ok(What::Logs(filter.message()?)),
            Self::Receipts(senders) if (1..=FOLLOW_SENDERS_MAX).contains(&senders.len()) => {
                let senders = senders.iter().map(|it| Bytes::copy_from_slice(&it.0)).collect();
                Ok(What::Receipts(message::ReceiptFilter { senders }))
            }
            Self::Receipts(_) => {
                Err(CallError::Invalid(format!("name 1 to {FOLLOW_SENDERS_MAX} senders to follow")))
            }
        }
    }
}

fn position(position: Option<message::Position>) -> Result<Position, CallError> {
    let position = position.ok_or_else(|| nonsense("an event without a position"))?;
    Ok(Position { seq: position.seq, hash: BlockId(array(&position.hash, "a hash")?) })
}

/// One subscription at one node. Nothing is ever left out in silence: what does not join on to what
/// came before is an error.
#[derive(Debug)]
pub struct FollowStream {
    answer: Answer,
    /// Keeps the connection open.
    _client: Client,
    /// `None` until the node has said where this is.
    cursor: Option<Cursor>,
    /// Rows of a block that is not complete.
    logs: Vec<Log>,
    receipts: Vec<FollowedReceipt>,
}

impl FollowStream {
    /// Where this is: to go on from later.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// What stands in the next blocks, with rows or without; `None` when the node ends it. May be
    /// dropped and called again.
    ///
    /// # Errors
    /// [`CallError`]: the subscription is over. Go on from [`Self::cursor`] at another node.
    pub async fn next(&mut self) -> Result<Option<Batch>, CallError> {
        loop {
            let event = match self.answer.next_whenever().await? {
                Some(Frame::FollowEvent(event)) => event,
                Some(Frame::RpcFailure(failure)) => return Err(failure.into()),
                Some(other) => return Err(unexpected(&other)),
                None => return Ok(None),
            };
            if let Some(batch) = self.take(event)? {
                return Ok(Some(batch));
            }
        }
    }

    fn take(&mut self, event: message::FollowEvent) -> Result<Option<Batch>, CallError> {
        let (at, prev) = (position(event.at)?, position(event.prev)?);
        let cursor = self.cursor.get_or_insert_with(|| Cursor { epoch: event.epoch, told: [prev].into() });
        if event.epoch != cursor.epoch || cursor.position() != Some(prev) {
            return Err(nonsense("an event that does not follow the one before"));
        }
        if event.reverted {
            self.logs.clear();
            self.receipts.clear();
            if !cursor.told.contains(&at) || !event.logs.is_empty() || !event.receipts.is_empty() {
                return Err(nonsense("it leads back to where this never was"));
            }
            cursor.told.retain(|told| told.seq <= at.seq);
            let (logs, receipts) = (Vec::new(), Vec::new());
            return Ok(Some(Batch { at, reverted: true, finalized: event.finalized, logs, receipts }));
        }
        for row in event.logs {
            let log = log(row)?;
            let last = self.logs.last().map(|last| last.place);
            if log.place.height <= prev.seq || log.place.height > at.seq || last >= Some(log.place) {
                return Err(nonsense("a log out of its place"));
            }
            self.logs.push(log);
        }
        for row in event.receipts {
            let block = super::contract::block(row.block)?;
            let receipt = FollowedReceipt {
                block: Position { seq: block.0, hash: block.1 },
                transaction: TxId(array(&row.transaction, "a transaction id")?),
                index: row.index,
                receipt: Receipt::parse(row.receipt).map_err(broken)?,
            };
            let last = self.receipts.last().map(|last| (last.block.seq, last.index));
            if block.0 <= prev.seq || block.0 > at.seq || last >= Some((block.0, row.index)) {
                return Err(nonsense("a receipt out of its place"));
            }
            self.receipts.push(receipt);
        }
        if event.more {
            return Ok(None);
        }
        if at != prev {
            if at.seq <= prev.seq {
                return Err(nonsense("a position that does not advance"));
            }
            cursor.advance(at, event.finalized);
        }
        Ok(Some(Batch {
            at,
            reverted: false,
            finalized: event.finalized,
            logs: std::mem::take(&mut self.logs),
            receipts: std::mem::take(&mut self.receipts),
        }))
    }
}

impl Client {
    /// Follows logs. The first batch has no rows and says where the subscription is.
    pub async fn subscribe_logs(
        &self,
        filter: &LogFilter,
        from: FollowFrom,
    ) -> Result<FollowStream, CallError> {
        self.follow(&Wanted::Logs(filter.clone()), from).await
    }

    /// Follows the receipts of the transactions of some senders: one's own, usually.
    pub async fn subscribe_receipts(
        &self,
        senders: &[Address],
        from: FollowFrom,
    ) -> Result<FollowStream, CallError> {
        self.follow(&Wanted::Receipts(senders.to_vec()), from).await
    }

    async fn follow(&self, wanted: &Wanted, from: FollowFrom) -> Result<FollowStream, CallError> {
        let what = Some(wanted.message()?);
        let (from, cursor) = match from {
            FollowFrom::Now => (None, None),
            FollowFrom::Height(height) => (Some(Begin::Height(height)), None),
            FollowFrom::Resume(cursor) => (Some(Begin::Resume(cursor.message())), Some(cursor)),
        };
        let request = message::FollowRequest { what, from }.to_frame();
        let answer = self.session().request(StreamType::Events, &request, self.timeout).await?;
        Ok(FollowStream { answer, _client: self.clone(), cursor, logs: Vec::new(), receipts: Vec::new() })
    }
}

/// Pause before another node is tried, after all have failed in turn.
const PAUSE: Duration = Duration::from_millis(100);

/// A subscription that outlives its nodes: when one fails, ends it or falls silent, it goes on at
/// another one of the pool, exactly where it was. No row is lost, none comes twice.
///
/// ```no_run
/// # async fn example(pool: ghost_protocol::client::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// use ghost_protocol::client::{FollowFrom, LogFilter};
///
/// let token = "0x00000000000000000000000000000000000000aa".parse()?;
/// let mut transfers = pool.subscribe_logs(LogFilter::of(token), FollowFrom::Height(1));
/// loop {
///     let batch = transfers.next().await?;
///     if batch.reverted {
///         println!("forget what came after block {}", batch.at.seq);
///     }
///     for log in batch.logs {
///         println!("{} {}", log.place.height, hex::encode(&log.entry.data));
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    pool: Pool,
    wanted: Wanted,
    from: FollowFrom,
    stream: Option<(usize, FollowStream)>,
    /// Longest silence of a node before another one is tried.
    patience: Duration,
}

impl Pool {
    /// Follows logs at whichever node is best.
    pub fn subscribe_logs(&self, filter: LogFilter, from: FollowFrom) -> Subscription {
        self.follow(Wanted::Logs(filter), from)
    }

    /// Follows the receipts of the transactions of some senders.
    pub fn subscribe_receipts(&self, senders: &[Address], from: FollowFrom) -> Subscription {
        self.follow(Wanted::Receipts(senders.to_vec()), from)
    }

    fn follow(&self, wanted: Wanted, from: FollowFrom) -> Subscription {
        Subscription { pool: self.clone(), wanted, from, stream: None, patience: self.timeout() }
    }
}

impl Subscription {
    /// Where this is: to go on from after a restart of the program. `None` before the first batch.
    pub fn cursor(&self) -> Option<&Cursor> {
        match &self.from {
            FollowFrom::Resume(cursor) => Some(cursor),
            _ => None,
        }
    }

    /// What stands in the next blocks, with rows or without. Waits as long as no node can be reached.
    /// May be dropped and called again.
    ///
    /// # Errors
    /// [`CallError::Invalid`], or that a node calls the request invalid: every other would too.
    pub async fn next(&mut self) -> Result<Batch, CallError> {
        loop {
            let (index, stream) = match &mut self.stream {
                Some(open) => open,
                None => {
                    let open = self.open().await?;
                    self.stream.insert(open)
                }
            };
            let failed = match timeout(self.patience, stream.next()).await {
                Ok(Ok(Some(batch))) => {
                    if let Some(cursor) = stream.cursor() {
                        self.from = FollowFrom::Resume(cursor.clone());
                    }
                    return Ok(batch);
                }
                Ok(Err(CallError::Failed { code: RpcCode::RpcInvalid, message, retry_after })) => {
                    return Err(CallError::Failed { code: RpcCode::RpcInvalid, message, retry_after });
                }
                // Ended, failed, behind, or silent for longer than any slot.
                Ok(Ok(None) | Err(_)) | Err(_) => *index,
            };
            self.stream = None;
            self.pool.rest(failed);
        }
    }

    async fn open(&self) -> Result<(usize, FollowStream), CallError> {
        loop {
            for index in self.pool.order() {
                let Ok(client) = self.pool.client_of(index).await else { continue };
                match client.follow(&self.wanted, self.from.clone()).await {
                    Ok(stream) => return Ok((index, stream)),
                    Err(CallError::Invalid(why)) => return Err(CallError::Invalid(why)),
                    Err(_) => self.pool.rest(index),
                }
            }
            if self.pool.is_empty() {
                let why = "the pool has no node".into();
                return Err(CallError::Request(RequestError::Disconnected(why)));
            }
            sleep(PAUSE).await;
        }
    }
}

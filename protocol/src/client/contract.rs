//! What contract calls answer, typed.

use bytes::Bytes;
use ghost_proto::{
    Address, BlockId, EngineId, LogEntry, Outcome, Receipt, TxId,
    layout::LayoutError,
    limits::{LOG_FILTER_ADDRESSES_MAX, LOG_FILTER_TOPICS_MAX, LOG_TOPICS_MAX},
    message,
};

use super::CallError;
use crate::request::RequestError;

/// An answer that does not say what it must. The node is at fault.
pub(super) fn nonsense(what: impl std::fmt::Display) -> CallError {
    CallError::Request(RequestError::Unexpected(what.to_string()))
}

pub(super) fn array<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], CallError> {
    bytes.try_into().map_err(|_| nonsense(format_args!("{what} of {} bytes, not {N}", bytes.len())))
}

pub(super) fn broken(error: LayoutError) -> CallError {
    nonsense(error)
}

fn outcome(code: u32) -> Result<Outcome, CallError> {
    u8::try_from(code)
        .ok()
        .and_then(Outcome::of_code)
        .ok_or_else(|| nonsense(format_args!("outcome {code} is not known")))
}

/// Which logs. What is left empty may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// One of these contracts; at most 256.
    pub addresses: Vec<Address>,
    /// For each place, one of these topics; at most 64. A log without a topic there does not match.
    pub topics: [Vec<[u8; 32]>; LOG_TOPICS_MAX],
}

impl LogFilter {
    /// All logs of one contract.
    pub fn of(address: Address) -> Self {
        Self { addresses: vec![address], ..Self::default() }
    }

    /// Only those whose first topic, the kind of event, is this.
    pub fn event(mut self, topic: [u8; 32]) -> Self {
        self.topics[0] = vec![topic];
        self
    }

    pub(super) fn message(&self) -> Result<message::LogFilter, CallError> {
        if self.addresses.len() > LOG_FILTER_ADDRESSES_MAX
            || self.topics.iter().any(|choice| choice.len() > LOG_FILTER_TOPICS_MAX)
        {
            return Err(CallError::Invalid(format!(
                "a log filter names at most {LOG_FILTER_ADDRESSES_MAX} contracts and {LOG_FILTER_TOPICS_MAX} topics for each place"
            )));
        }
        let used = self.topics.iter().rposition(|choice| !choice.is_empty()).map_or(0, |last| last + 1);
        let topics = self.topics[..used].iter().map(|choice| message::TopicChoice {
            any_of: choice.iter().map(|topic| Bytes::copy_from_slice(topic)).collect(),
        });
        Ok(message::LogFilter {
            addresses: self.addresses.iter().map(|it| Bytes::copy_from_slice(&it.0)).collect(),
            topics: topics.collect(),
        })
    }
}

/// A place among all logs of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPlace {
    /// Height of the block.
    pub height: u64,
    /// Place of the transaction in the block.
    pub transaction: u32,
    /// Place among the logs of the transaction.
    pub index: u32,
}

impl From<message::LogPlace> for LogPlace {
    fn from(place: message::LogPlace) -> Self {
        Self { height: place.height, transaction: place.transaction, index: place.index }
    }
}

impl From<LogPlace> for message::LogPlace {
    fn from(place: LogPlace) -> Self {
        Self { height: place.height, transaction: place.transaction, index: place.index }
    }
}

/// Which logs, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Which.
    pub filter: LogFilter,
    /// First place to look at.
    pub from: LogPlace,
    /// Last height to look at; `None` is the head.
    pub to_height: Option<u64>,
    /// Most rows of one page; 0 is as many as fit (1,024).
    pub limit: u32,
}

/// A log and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Where.
    pub place: LogPlace,
    /// The block.
    pub block: BlockId,
    /// The transaction.
    pub transaction: TxId,
    /// Contract, topics, data.
    pub entry: LogEntry,
}

pub(super) fn entry(entry: message::LogEntry) -> Result<LogEntry, CallError> {
    if entry.topics.len() > LOG_TOPICS_MAX {
        return Err(nonsense(format_args!("a log with {} topics", entry.topics.len())));
    }
    Ok(LogEntry {
        address: Address(array(&entry.address, "an address")?),
        topics: entry.topics.iter().map(|topic| array(topic, "a topic")).collect::<Result<_, _>>()?,
        data: entry.data,
    })
}

pub(super) fn log(row: message::LogRow) -> Result<Log, CallError> {
    Ok(Log {
        place: row.place.ok_or_else(|| nonsense("a log without a place"))?.into(),
        block: BlockId(array(&row.block, "a block id")?),
        transaction: TxId(array(&row.transaction, "a transaction id")?),
        entry: entry(row.entry.ok_or_else(|| nonsense("an empty log"))?)?,
    })
}

/// One page of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// In the order of the chain. May be empty although there is a next page.
    pub logs: Vec<Log>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<LogPlace>,
    /// The head of the chain that was read: height and id.
    pub head: (u64, BlockId),
    /// Logs up to this height stay.
    pub finalized: u64,
}

impl LogPage {
    pub(super) fn of(answer: message::LogsAnswer) -> Result<Self, CallError> {
        Ok(Self {
            logs: answer.rows.into_iter().map(log).collect::<Result<_, _>>()?,
            next: answer.next.map(LogPlace::from),
            head: block(answer.head)?,
            finalized: answer.finalized,
        })
    }
}

pub(super) fn block(block: Option<message::BlockRef>) -> Result<(u64, BlockId), CallError> {
    let block = block.ok_or_else(|| nonsense("no block is named"))?;
    Ok((block.height, BlockId(array(&block.id, "a block id")?)))
}

/// What a call would do as a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulated {
    /// The block it ran after: height and id.
    pub at: (u64, BlockId),
    /// Commitment to the state it ran on.
    pub state: [u8; 32],
    /// How it ended.
    pub outcome: Outcome,
    /// Gas it would pay for.
    pub gas_used: u64,
    /// Gas that came back at the end: a transaction needs it to begin with.
    pub gas_refunded: u64,
    /// What was returned, or why it reverted.
    pub output: Bytes,
    /// The contract it would make.
    pub created: Option<Address>,
    /// What it would log.
    pub logs: Vec<LogEntry>,
}

impl Simulated {
    pub(super) fn of(answer: message::SimulateAnswer) -> Result<Self, CallError> {
        Ok(Self {
            at: block(answer.at)?,
            state: array(&answer.state, "a state commitment")?,
            outcome: outcome(answer.outcome)?,
            gas_used: answer.gas_used,
            gas_refunded: answer.gas_refunded,
            output: answer.output,
            created: match answer.created.len() {
                0 => None,
                _ => Some(Address(array(&answer.created, "an address")?)),
            },
            logs: answer.logs.into_iter().map(entry).collect::<Result<_, _>>()?,
        })
    }
}

/// How much gas a call takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// The block it ran after: height and id.
    pub at: (u64, BlockId),
    /// How it ended with the most gas it could have. Unless it is done, no gas limit helps.
    pub outcome: Outcome,
    /// The least limit that was seen to do, within 1.5 %. Zero unless it is done.
    pub gas_limit: u64,
    /// What it would pay for.
    pub gas_used: u64,
    /// What was returned, or why it reverted.
    pub output: Bytes,
}

impl Estimate {
    pub(super) fn of(answer: message::EstimateAnswer) -> Result<Self, CallError> {
        Ok(Self {
            at: block(answer.at)?,
            outcome: outcome(answer.outcome)?,
            gas_limit: answer.gas_limit,
            gas_used: answer.gas_used,
            output: answer.output,
        })
    }
}

/// A receipt and where its transaction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptAt {
    /// The block: height and id.
    pub block: (u64, BlockId),
    /// Place of the transaction in it.
    pub index: u32,
    /// What became of the transaction.
    pub receipt: Receipt,
    /// It cannot be undone any more.
    pub finalized: bool,
}

impl ReceiptAt {
    pub(super) fn of(answer: message::ReceiptAnswer) -> Result<Self, CallError> {
        Ok(Self {
            block: block(answer.block)?,
            index: answer.index,
            receipt: Receipt::parse(answer.receipt).map_err(broken)?,
            finalized: answer.finalized,
        })
    }
}

/// The code of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractCode {
    /// The block whose state was read: height and id.
    pub at: (u64, BlockId),
    /// What runs it.
    pub engine: EngineId,
    /// What the state knows it by; for the EVM its Keccak-256.
    pub code_hash: [u8; 32],
    /// The code.
    pub code: Bytes,
}

impl ContractCode {
    pub(super) fn of(answer: message::CodeAnswer) -> Result<Option<Self>, CallError> {
        if answer.engine == 0 {
            return Ok(None);
        }
        let engine =
            u8::try_from(answer.engine).map_err(|_| nonsense(format_args!("engine {}", answer.engine)))?;
        Ok(Some(Self {
            at: block(answer.at)?,
            engine: EngineId(engine),
            code_hash: array(&answer.code_hash, "a code hash")?,
            code: answer.code,
        }))
    }
}

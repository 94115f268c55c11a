//! Work on whole payloads, to be done where nothing waits for it.

use std::sync::Arc;

use bytes::Bytes;
use ghost_frames::{
    block::WholeBlock,
    compact::PlacedTransaction,
    shards::{Shard, ShardPlan},
};
use ghost_proto::{
    Block, SignedTransaction,
    block::HEADER_LEN,
    layout::{Cursor, put_var_bytes},
    limits::TX_BYTES_MAX,
};

use super::code::{self, Coded};
use crate::block::Received;

/// What is to be cut or put together.
#[derive(Debug, Clone)]
pub enum ShardJob {
    /// The block is here and others want its shards.
    Cut {
        /// Its proposer's.
        plan: Arc<ShardPlan>,
        /// The block.
        block: Arc<Block>,
    },
    /// Enough shards are here.
    Join {
        /// Their plan.
        plan: Arc<ShardPlan>,
        /// Checked against it.
        shards: Vec<Arc<Shard>>,
    },
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum ShardOutcome {
    /// The body.
    Block(Received, Coded),
    /// The transactions that the plan named.
    Transactions(Vec<PlacedTransaction>, Coded),
    /// The shards of a block that was here.
    Cut(Coded),
    /// The root the proposer signed is not that of its payload's shards, or the payload is not what the plan says.
    Poisoned,
}

/// What a plan with these indexes cuts: the body, or the transactions named.
pub fn payload(block: &Block, indexes: &[u32]) -> Vec<u8> {
    if indexes.is_empty() {
        return block.encode().split_off(HEADER_LEN);
    }
    let mut out = Vec::new();
    for tx in indexes.iter().filter_map(|index| block.transactions().get(*index as usize)) {
        put_var_bytes(&mut out, tx.bytes());
    }
    out
}

/// The transactions at `indexes`, from their payload.
fn placed(indexes: &[u32], payload: Vec<u8>) -> Option<Vec<PlacedTransaction>> {
    let mut cursor = Cursor::new(Bytes::from(payload));
    let one = |index: &u32| {
        let bytes = cursor.var_bytes("transaction", TX_BYTES_MAX).ok()?;
        // Bytes of its own: a slice would keep all of the payload alive for as long as one transaction waits in the pool.
        let transaction = SignedTransaction::parse(Bytes::copy_from_slice(&bytes)).ok()?;
        Some(PlacedTransaction { index: *index, transaction })
    };
    let transactions = indexes.iter().map(one).collect::<Option<Vec<_>>>()?;
    cursor.finish().ok()?;
    Some(transactions)
}

impl ShardJob {
    /// Which plan.
    pub fn plan(&self) -> &Arc<ShardPlan> {
        match self {
            Self::Cut { plan, .. } | Self::Join { plan, .. } => plan,
        }
    }

    /// Does it: 0.1 s for the largest blocks.
    pub fn run(self) -> ShardOutcome {
        match self {
            Self::Cut { plan, block } => {
                let payload = payload(&block, &plan.indexes);
                let coded = code::encode(&payload);
                let same = coded.root == plan.root && payload.len() == plan.payload_bytes as usize;
                if same { ShardOutcome::Cut(coded) } else { ShardOutcome::Poisoned }
            }
            Self::Join { plan, shards } => {
                let Some(payload) = code::decode(plan.payload_bytes as usize, &shards) else {
                    return ShardOutcome::Poisoned;
                };
                // Which shards came must not decide what is believed: all of them must be shards of this payload.
                let coded = code::encode(&payload);
                if coded.root != plan.root {
                    return ShardOutcome::Poisoned;
                }
                if plan.is_whole() {
                    let whole = WholeBlock { header: plan.header.clone(), body: payload.into() };
                    return match Received::read(whole) {
                        Received::Mismatched { .. } => ShardOutcome::Poisoned,
                        block => ShardOutcome::Block(block, coded),
                    };
                }
                match placed(&plan.indexes, payload) {
                    Some(transactions) => ShardOutcome::Transactions(transactions, coded),
                    None => ShardOutcome::Poisoned,
                }
            }
        }
    }
}

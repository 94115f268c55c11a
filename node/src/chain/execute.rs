//! Executing a block on its parent's state.

use ghost_proto::{BlockId, Genesis, Receipt, SignedTransaction};

use super::{
    error::BlockFault,
    state::{Ancestors, BlockState, WorkingState},
};
use crate::{
    consensus::BlockTree,
    engine::{BlockContext, Engine, ExecuteError},
    store::{Records, StoreError},
};

/// What executing gave.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) receipts: Vec<Receipt>,
    pub(super) state: BlockState,
}

/// A block has a fault, or the node has.
#[derive(Debug)]
pub(super) enum ExecuteBlockError {
    Fault(BlockFault),
    Store(StoreError),
}

impl From<StoreError> for ExecuteBlockError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The ancestors of a block as the tree and the store know them.
pub(super) struct ChainOf<'a, T> {
    pub(super) tree: &'a BlockTree<T>,
    pub(super) records: &'a Records,
    pub(super) parent: BlockId,
}

impl<T: Sync> Ancestors for ChainOf<'_, T> {
    fn block_id(&self, height: u64) -> Result<Option<BlockId>, StoreError> {
        let mut at = self.parent;
        // The root of the tree is final: what is below it stands in the store.
        while let Some(node) = self.tree.get(&at) {
            if node.height == height {
                return Ok(Some(at));
            }
            if node.height < height {
                return Ok(None);
            }
            if at == self.tree.root() {
                break;
            }
            at = node.parent;
        }
        self.records.canonical_id(height)
    }
}

/// The context of the first transaction in a block.
pub(super) fn context(genesis: &Genesis, height: u64, slot: u64) -> BlockContext {
    let proposer = genesis.authorities.proposer_of(slot);
    BlockContext {
        chain_id: genesis.chain_id,
        height,
        slot,
        time_unix_ms: genesis.slot_start_unix_ms(slot),
        proposer: genesis.authorities.key(proposer).map(|key| key.address()).unwrap_or_default(),
        gas_price_min: genesis.gas_price_min,
        gas_left: genesis.block_gas_max,
    }
}

/// Executes all transactions; one that is not includable is the block's fault.
pub(super) fn execute_all(
    engine: &dyn Engine,
    parent: &BlockState,
    ancestors: &dyn Ancestors,
    mut context: BlockContext,
    transactions: &[SignedTransaction],
) -> Result<Executed, ExecuteBlockError> {
    let mut state = WorkingState::new(parent, ancestors);
    let mut receipts = Vec::with_capacity(transactions.len());
    for tx in transactions {
        let receipt = engine.execute(tx, &mut state, &context).map_err(|error| match error {
            ExecuteError::NotIncludable(reason) => {
                ExecuteBlockError::Fault(BlockFault::NotIncludable { id: tx.id(), reason })
            }
            ExecuteError::Store(error) => error.into(),
        })?;
        context.gas_left = context.gas_left.saturating_sub(receipt.gas_used);
        receipts.push(receipt);
    }
    Ok(Executed { receipts, state: state.finish() })
}

/// Executes those that are includable, in the order given, and leaves out the others.
pub(super) fn execute_possible(
    engine: &dyn Engine,
    parent: &BlockState,
    ancestors: &dyn Ancestors,
    mut context: BlockContext,
    candidates: Vec<SignedTransaction>,
) -> Result<(Vec<SignedTransaction>, Executed), StoreError> {
    let mut state = WorkingState::new(parent, ancestors);
    let mut receipts = Vec::with_capacity(candidates.len());
    let mut included = Vec::with_capacity(candidates.len());
    for tx in candidates {
        match engine.execute(&tx, &mut state, &context) {
            Ok(receipt) => {
                context.gas_left = context.gas_left.saturating_sub(receipt.gas_used);
                receipts.push(receipt);
                included.push(tx);
            }
            Err(ExecuteError::NotIncludable(_)) => {}
            Err(ExecuteError::Store(error)) => return Err(error),
        }
    }
    Ok((included, Executed { receipts, state: state.finish() }))
}

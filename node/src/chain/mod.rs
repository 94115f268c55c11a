//! The chain: blocks, state, head and finality of one node.
//!
//! [`Chain`] is a core: synchronous, no clock, no task; times are passed in as unix milliseconds. Its
//! owner calls, in this order of life:
//!
//! - [`Chain::open`] once;
//! - [`Chain::check_header`] before relaying or fetching a block, [`Chain::import`] with the block;
//! - [`Chain::duty`] and [`Chain::propose`] when a slot begins;
//! - [`Chain::vote`] when the head advanced, again at [`Chain::vote_due`]; [`Chain::on_vote`] and
//!   [`Chain::on_certificate`] with what peers send;
//! - [`Chain::views`] once, and hands the handle to everything that only reads.
//!
//! What is where: the store has every block, and the state at the last finalized one. In memory is
//! the tree of the blocks above it, without their bodies, each with its state as a persistent map
//! (see [`state`]). While finality stalls, states further back are dropped except every 64th, and
//! computed again from the stored blocks if somebody builds there.
//!
//! After a [`StoreError`] the chain answers every change with that error: what is in memory may be
//! ahead of the disk. Stop the node; opening again gives a consistent chain.

mod error;
mod execute;
mod finalize;
pub mod follow;
mod import;
mod judge;
mod logs;
pub mod lthash;
mod open;
mod propose;
mod read;
pub mod state;
mod view;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use arc_swap::ArcSwap;
use ghost_proto::{Address, BlockId, Checkpoint, Genesis, Header, KeyPair, SignedTransaction, TxId};
use rand_chacha::ChaCha12Rng;
use rpds::HashTrieMapSync;

pub use self::{
    error::{Blame, BlockFault, HeaderError, ImportError, OpenError, ProposeError},
    finalize::{CertificateOutcome, FinalityChange, OwnVote, VoteOutcome},
    import::{Imported, Placement},
    logs::{FoundLog, FoundLogs, LogFilter, LogLimits, LogPlace},
    propose::Proposed,
    read::{STATES_READABLE_MAX, StateAt},
    state::{Account, BlockState, Snapshot},
    view::{BlockRef, HeadView, IncludedTransaction, LOST_BLOCKS, lost_blocks},
};
use crate::{
    consensus::{Ballot, BlockTree, Finality, Proposals, Schedule, VotePool},
    engine::Engine,
    store::{Records, StoreError},
};

/// States kept in memory, the newest, beside every [`ANCHOR_EVERY`]th. Finality normally follows two
/// blocks behind the head; 256 outlast two minutes of slots of half a second without it.
pub const STATES_MAX: usize = 256;

/// Of the states further back one in this many is kept, so that at most 63 blocks have to be executed
/// again to build on any unfinalized block.
pub const ANCHOR_EVERY: u64 = 64;

/// Entries of the head's snapshot below which it is not pruned after finality advanced. They also
/// serve as a cache of busy accounts: 16,384 × about 200 bytes = 3.2 MiB.
pub const SNAPSHOT_ENTRIES_SOFT_MAX: usize = 16 * 1024;

/// Ids of invalid blocks remembered, the newest.
pub const INVALID_IDS_MAX: usize = 1024;

/// Bytes of reverted transactions handed back after a reorganisation, those of the lowest blocks
/// first. What is beyond is lost from this node, as a full mempool would lose it.
pub const REVERTED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A change of the canonical chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadChange {
    /// The head before.
    pub old: BlockRef,
    /// The head now.
    pub new: BlockRef,
    /// Blocks that became canonical, ascending.
    pub applied: Vec<BlockId>,
    /// Blocks that were canonical, ascending. Empty unless this is a reorganisation.
    pub reverted: Vec<BlockId>,
    /// Transactions that became included.
    pub included: Vec<TxId>,
    /// Transactions of reverted blocks that no applied block includes: they belong back in the
    /// mempool. Their signatures were good. At most [`REVERTED_BYTES_MAX`].
    pub returned: Vec<SignedTransaction>,
}

/// What the tree keeps with a block.
#[derive(Debug)]
struct BlockNode {
    /// `None` for genesis.
    header: Option<Header>,
    /// Transactions on the chain up to it.
    included_total: u64,
    /// `None` if it was dropped to save memory.
    state: Option<BlockState>,
}

#[derive(Debug)]
struct Authority {
    index: u16,
    key: KeyPair,
}

/// A bounded set that forgets the oldest.
#[derive(Debug, Default)]
struct RecentIds {
    order: VecDeque<BlockId>,
    ids: HashSet<BlockId>,
}

impl RecentIds {
    fn insert(&mut self, id: BlockId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
            if self.order.len() > INVALID_IDS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
    }

    fn contains(&self, id: &BlockId) -> bool {
        self.ids.contains(id)
    }
}

/// Blocks, state, head and finality of one node. See the module's text for how to drive it.
#[derive(Debug)]
pub struct Chain {
    schedule: Schedule,
    engine: Box<dyn Engine>,
    records: Records,
    authority: Option<Authority>,
    entropy: ChaCha12Rng,
    tree: BlockTree<BlockNode>,
    /// Blocks whose state is in memory, oldest first.
    states: VecDeque<BlockId>,
    head: BlockId,
    canonical: HashTrieMapSync<u64, BlockId>,
    finality: Finality,
    votes: VotePool,
    ballot: Ballot,
    proposals: Proposals,
    invalid: RecentIds,
    last_proposed: Option<u64>,
    /// A block that was final before the store was damaged. Below it nothing may be signed.
    lost: Option<Checkpoint>,
    failed: Option<StoreError>,
    published: Arc<ArcSwap<HeadView>>,
}

impl Chain {
    /// The chain now. Cheap.
    pub fn view(&self) -> Arc<HeadView> {
        self.published.load_full()
    }

    /// Always holds the newest view, published after each change. For tasks that only read.
    pub fn views(&self) -> Arc<ArcSwap<HeadView>> {
        self.published.clone()
    }

    /// The genesis.
    pub fn genesis(&self) -> &Arc<Genesis> {
        self.schedule.genesis()
    }

    /// The canonical tip.
    pub fn head(&self) -> BlockRef {
        self.block_ref(&self.head)
    }

    /// A block that was final, and that the store no longer has: it was damaged. Until the chain is there again
    /// this node follows, and neither proposes nor votes.
    pub fn lost(&self) -> Option<Checkpoint> {
        self.lost.filter(|lost| self.finality.finalized().height < lost.height)
    }

    /// The highest final block.
    pub fn finalized(&self) -> Checkpoint {
        self.finality.finalized()
    }

    /// The highest justified block.
    pub fn justified(&self) -> Checkpoint {
        self.finality.justified()
    }

    /// Index of this node among the authorities, if it holds an authority key.
    pub fn authority(&self) -> Option<u16> {
        self.authority.as_ref().map(|authority| authority.index)
    }

    /// Blocks in memory: the finalized one and all above it.
    pub fn unfinalized_len(&self) -> usize {
        self.tree.len() - 1
    }

    /// States in memory.
    pub fn states_len(&self) -> usize {
        self.tree.ids_ascending().iter().filter(|id| self.state_in_memory(id)).count()
    }

    fn state_in_memory(&self, id: &BlockId) -> bool {
        self.tree.get(id).is_some_and(|node| node.data.state.is_some())
    }

    /// An account after a block that is finalized last or not finalized yet; `None` for other blocks.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn account_at(&mut self, id: &BlockId, address: &Address) -> Result<Option<Account>, StoreError> {
        if !self.tree.contains(id) {
            return Ok(None);
        }
        self.state_of(id)?.snapshot.account(address).map(Some)
    }

    /// Waits until everything imported with [`Chain::import_later`] is durable.
    ///
    /// # Errors
    /// [`StoreError`]: stop the node.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        let flushed = self.records.flush();
        self.guarded(flushed)
    }

    /// Remembers the first failure of the store.
    fn guarded<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    fn check_alive(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn block_ref(&self, id: &BlockId) -> BlockRef {
        let (height, slot) = self.tree.get(id).map_or((0, None), |node| (node.height, node.slot));
        BlockRef { height, id: *id, slot }
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        let view = self.make_view()?;
        self.published.store(Arc::new(view));
        Ok(())
    }

    fn make_view(&mut self) -> Result<HeadView, StoreError> {
        let head = self.head;
        let head_state = self.state_of(&head)?;
        let readable = self.readable_states(&head_state);
        Ok(HeadView {
            genesis: self.schedule.genesis().clone(),
            genesis_id: *self.schedule.genesis_id(),
            head: self.block_ref(&head),
            finalized: self.block_ref(&self.tree.root()),
            justified: self.finality.justified(),
            finalized_by: self.finality.finalized_by().cloned().map(Arc::new),
            justified_by: self.finality.justified_by().cloned().map(Arc::new),
            included_total: self.tree.get(&head).map_or(0, |node| node.data.included_total),
            lost: self.lost(),
            state: head_state,
            readable,
            canonical: self.canonical.clone(),
            records: self.records.clone(),
        })
    }

    /// The states of the finalized block and of the canonical blocks above it, the newest. One that
    /// was dropped while finality stalled is left out.
    fn readable_states(&self, head_state: &BlockState) -> Arc<[(BlockRef, BlockState)]> {
        let mut readable = vec![(self.block_ref(&self.head), head_state.clone())];
        let mut at = self.head;
        while readable.len() < STATES_READABLE_MAX && at != self.tree.root() {
            let Some(node) = self.tree.get(&at) else { break };
            at = node.parent;
            let state = self.tree.get(&at).and_then(|node| node.data.state.as_ref());
            readable.extend(state.map(|state| (self.block_ref(&at), state.clone())));
        }
        readable.into()
    }

    // ---- states

    fn ancestors_of(&self, parent: BlockId) -> execute::ChainOf<'_, BlockNode> {
        execute::ChainOf { tree: &self.tree, records: &self.records, parent }
    }

    /// The state after a block of the tree, executed again from the stored blocks if it was dropped.
    fn state_of(&mut self, id: &BlockId) -> Result<BlockState, StoreError> {
        let mut missing = Vec::new();
        let mut at = *id;
        let mut state = loop {
            let node = self
                .tree
                .get(&at)
                .ok_or_else(|| StoreError::damaged(format!("block {} is not in the tree", at.short())))?;
            match &node.data.state {
                Some(state) => break state.clone(),
                None => missing.push(at),
            }
            at = node.parent;
        };
        if missing.is_empty() {
            return Ok(state);
        }
        for id in missing.iter().rev() {
            let block = self
                .records
                .block(id)?
                .ok_or_else(|| StoreError::damaged(format!("block {} is missing", id.short())))?;
            state = self.execute_stored(&block, &state)?.state;
        }
        self.keep_state(*id, state.clone());
        Ok(state)
    }

    /// Executes a block that was valid once: if it is not any more, the store is damaged.
    fn execute_stored(
        &self,
        block: &ghost_proto::Block,
        parent: &BlockState,
    ) -> Result<execute::Executed, StoreError> {
        let header = block.header();
        let context = execute::context(self.schedule.genesis(), header.height, header.slot);
        let executed = execute::execute_all(
            &*self.engine,
            parent,
            &self.ancestors_of(header.parent),
            context,
            block.transactions(),
        );
        match executed {
            Ok(executed) if executed.state.lthash.digest() == header.state => Ok(executed),
            Err(execute::ExecuteBlockError::Store(error)) => Err(error),
            Ok(_) | Err(execute::ExecuteBlockError::Fault(_)) => Err(StoreError::damaged(format!(
                "block {} {} does not execute to the state its header commits to",
                header.height,
                header.id().short()
            ))),
        }
    }

    fn keep_state(&mut self, id: BlockId, state: BlockState) {
        if let Some(node) = self.tree.get_mut(&id) {
            node.data.state = Some(state);
            self.states.push_back(id);
        }
        if self.states.len() > STATES_MAX
            && let Some(oldest) = self.states.pop_front()
        {
            if oldest == self.head {
                self.states.push_back(oldest);
            } else if oldest != self.tree.root()
                && let Some(node) = self.tree.get_mut(&oldest)
                && !node.height.is_multiple_of(ANCHOR_EVERY)
            {
                node.data.state = None;
            }
        }
    }

    /// After finality advanced: takes out of the snapshots what the store now has.
    fn prune_snapshots(&mut self) {
        let head = self.tree.get(&self.head).and_then(|node| node.data.state.as_ref());
        let entries = head.map_or(0, |state| state.snapshot.changed_len());
        if entries <= SNAPSHOT_ENTRIES_SOFT_MAX {
            return;
        }
        let ids = self.tree.ids_ascending();
        let states = ids[1..].iter().filter_map(|id| self.tree.get(id)?.data.state.as_ref());
        let needed: usize = states.map(|state| state.changed.len()).sum();
        if entries <= 2 * needed {
            return;
        }
        let root = ids[0];
        let Some(root_state) = self.tree.get(&root).and_then(|node| node.data.state.clone()) else { return };
        let empty = Snapshot::of_finalized(self.records.clone());
        for id in ids {
            let Some(node) = self.tree.get(&id) else { continue };
            let Some(state) = &node.data.state else { continue };
            let above = self.tree.get(&node.parent).and_then(|parent| parent.data.state.as_ref());
            let snapshot = if id == root {
                empty.clone()
            } else if let Some(above) = above {
                let changes = state
                    .changed
                    .iter()
                    .map(|key| (key.clone(), state.snapshot.changed_value(key).cloned().unwrap_or_default()));
                above.snapshot.with(changes)
            } else {
                state.snapshot.retain(|key, value| root_state.snapshot.changed_value(key) != Some(value))
            };
            if let Some(state) = self.tree.get_mut(&id).and_then(|node| node.data.state.as_mut()) {
                state.snapshot = snapshot;
            }
        }
    }
}

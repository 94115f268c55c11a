//! New blocks on their way: what peers may ask for before the store has it, and shortly after.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ghost_frames::shards::{Shard, ShardRoot, ShardSet};
use ghost_mempool_relay::block::PartialBlock;
use ghost_proto::{Block, BlockId};
use tokio::{sync::Notify, time::timeout};

/// Blocks kept after their import: the time in which peers complete theirs, at the shortest slot 1.6 s.
const RECENT_BLOCKS_MAX: usize = 16;

/// Bytes of the bodies of those, or one block if that is larger.
const RECENT_BYTES_MAX: usize = 32 << 20;

/// Incomplete blocks of which parts are served. Honest chains have one, forks two.
const PARTIAL_BLOCKS_MAX: usize = 4;

/// Longest wait for the rest of a block that was passed on before it was complete. After as long an asker turns to another.
const REST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Blocks {
    /// Not imported; at most what the sync core holds.
    waiting: HashMap<BlockId, Arc<Block>>,
    recent: VecDeque<Arc<Block>>,
    partial: VecDeque<(BlockId, Arc<PartialBlock>)>,
    /// As many as the sync core keeps.
    shards: HashMap<ShardRoot, HashMap<u16, Arc<Shard>>>,
}

#[derive(Debug, Default)]
struct Shared {
    blocks: Mutex<Blocks>,
    arrived: Notify,
}

/// Shared by the chain task, which fills it, and the tasks that answer peers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Underway(Arc<Shared>);

impl Underway {
    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.0.blocks.lock().expect("no code panics while it holds the blocks")
    }

    /// A block that was announced, or was until just now.
    pub(crate) fn get(&self, id: &BlockId) -> Option<Arc<Block>> {
        let blocks = self.lock();
        let recent = || blocks.recent.iter().rev().find(|block| block.header().id() == *id);
        blocks.waiting.get(id).or_else(recent).cloned()
    }

    /// What is here of a block that is not complete.
    pub(crate) fn partial(&self, id: &BlockId) -> Option<Arc<PartialBlock>> {
        let blocks = self.lock();
        blocks.partial.iter().find(|(other, _)| other == id).map(|(_, partial)| partial.clone())
    }

    /// The block, as soon as it is complete, or nothing after a second.
    pub(crate) async fn complete(&self, id: &BlockId) -> Option<Arc<Block>> {
        let wait = async {
            loop {
                let mut arrived = std::pin::pin!(self.0.arrived.notified());
                // Registered before the look: no block can slip in between.
                arrived.as_mut().enable();
                if let Some(block) = self.get(id) {
                    return block;
                }
                arrived.await;
            }
        };
        timeout(REST_WAIT, wait).await.ok()
    }

    pub(crate) fn insert(&self, block: &Arc<Block>) {
        let id = block.header().id();
        let mut blocks = self.lock();
        blocks.partial.retain(|(other, _)| *other != id);
        blocks.waiting.insert(id, block.clone());
        drop(blocks);
        self.0.arrived.notify_waiters();
    }

    pub(crate) fn insert_partial(&self, partial: Arc<PartialBlock>) {
        let mut blocks = self.lock();
        if blocks.partial.len() == PARTIAL_BLOCKS_MAX {
            blocks.partial.pop_front();
        }
        blocks.partial.push_back((partial.header.id(), partial));
    }

    /// These shards can be asked for.
    pub(crate) fn insert_shards(&self, shards: Vec<Arc<Shard>>) {
        let mut blocks = self.lock();
        for shard in shards {
            blocks.shards.entry(shard.root).or_default().insert(shard.index, shard);
        }
    }

    /// Those of these that are here.
    pub(crate) fn shards(&self, root: &ShardRoot, wanted: &ShardSet) -> Vec<Arc<Shard>> {
        let blocks = self.lock();
        let Some(here) = blocks.shards.get(root) else { return Vec::new() };
        wanted.iter().filter_map(|index| here.get(&index).cloned()).collect()
    }

    /// None of this plan's any more.
    pub(crate) fn drop_shards(&self, root: &ShardRoot) {
        self.lock().shards.remove(root);
    }

    /// Drops those that will not be imported after all.
    pub(crate) fn keep(&self, held: impl Fn(&BlockId) -> bool) {
        self.lock().waiting.retain(|id, _| held(id));
    }

    /// The block was imported, or refused.
    pub(crate) fn imported(&self, id: &BlockId) {
        let mut blocks = self.lock();
        let Some(block) = blocks.waiting.remove(id) else { return };
        blocks.recent.push_back(block);
        let bytes = |recent: &VecDeque<Arc<Block>>| -> usize {
            recent.iter().map(|block| block.header().body_bytes as usize).sum()
        };
        while blocks.recent.len() > RECENT_BLOCKS_MAX
            || (blocks.recent.len() > 1 && bytes(&blocks.recent) > RECENT_BYTES_MAX)
        {
            blocks.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::{BlockBuilder, Checkpoint, GenesisId, KeyPair};

    fn block(height: u64) -> Arc<Block> {
        let parent = Checkpoint { height: height - 1, id: BlockId([height as u8; 32]) }.id;
        let builder = BlockBuilder {
            parent,
            height,
            slot: height,
            proposer: 0,
            transactions: Vec::new(),
            receipts: Vec::new(),
            state: [0; 32],
        };
        Arc::new(builder.seal(&GenesisId([1; 32]), &KeyPair::from_seed(&[1; 32])))
    }

    fn partial(block: &Block) -> Arc<PartialBlock> {
        Arc::new(PartialBlock { header: block.header().clone(), transactions: Vec::new() })
    }

    #[test]
    fn what_was_imported_is_served_for_a_while_and_the_bounds_hold() {
        let underway = Underway::default();
        let blocks: Vec<_> = (1..=RECENT_BLOCKS_MAX as u64 + 1).map(block).collect();
        for block in &blocks {
            underway.insert(block);
            underway.imported(&block.header().id());
            assert!(underway.get(&block.header().id()).is_some());
            underway.insert_partial(partial(block));
        }
        assert!(underway.get(&blocks[0].header().id()).is_none());
        assert!(underway.get(&blocks[1].header().id()).is_some());
        assert_eq!(underway.lock().partial.len(), PARTIAL_BLOCKS_MAX);
        assert!(underway.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_rest_gets_it_when_it_is_there_or_gives_up() {
        let (underway, block) = (Underway::default(), block(1));
        let id = block.header().id();
        underway.insert_partial(partial(&block));
        assert!(underway.partial(&id).is_some());
        let waiter = tokio::spawn({
            let underway = underway.clone();
            async move { underway.complete(&id).await }
        });
        tokio::task::yield_now().await;
        underway.insert(&block);
        assert_eq!(waiter.await.unwrap(), Some(block));
        assert!(underway.partial(&id).is_none());
        assert_eq!(underway.complete(&BlockId([9; 32])).await, None);
    }
}

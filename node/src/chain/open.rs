//! Opening the chain from its store.

use std::{collections::VecDeque, sync::Arc};

use arc_swap::ArcSwap;
use ghost_proto::{BlockId, Checkpoint, Genesis, KeyPair};
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use rpds::HashTrieMapSync;

use super::{
    Account, Authority, BlockNode, BlockRef, BlockState, Chain, HeadView, OpenError, RecentIds, Snapshot,
    lthash::LtHash,
};
use crate::{
    consensus::{Ballot, BlockTree, Finality, Proposals, Schedule, VotePool},
    engine::{Engine, Engines},
    store::{ChainStore, FinalizedRecord, Records, StoreError, WriteBatch},
};

/// Blocks executed again at start between two lines in the log.
const PROGRESS_EVERY: usize = 1_000;

impl Chain {
    /// Opens the chain, or starts it at its genesis if the store is empty.
    ///
    /// Blocks above the finalized one are executed again: normally two, after a kill while finality
    /// stalled all of those. Progress is logged.
    ///
    /// `authority` is the key to propose and vote with, if this node is to. `seed` must be
    /// unpredictable to others: it drives batch verification of signatures.
    ///
    /// # Errors
    /// [`OpenError`]; its text says what to do.
    pub fn open(
        genesis: Arc<Genesis>,
        store: Arc<dyn ChainStore>,
        authority: Option<KeyPair>,
        seed: [u8; 32],
    ) -> Result<Self, OpenError> {
        let authority = match authority {
            None => None,
            Some(key) => {
                let index = genesis
                    .authorities
                    .index_of(&key.public())
                    .ok_or_else(|| OpenError::NotAnAuthority { key: key.public() })?;
                Some(Authority { index, key })
            }
        };
        let records = Records::new(store);
        let schedule = Schedule::new(genesis.clone());
        if !records.check_identity(schedule.genesis_id())? {
            write_genesis(&records, &schedule)?;
        }
        let finalized = records.finalized()?;
        let mark = records.mark(schedule.genesis_id())?;
        let lost = mark.as_ref().map(|mark| mark.finalized).filter(|mark| mark.height > finalized.height);
        if let Some(lost) = lost {
            tracing::error!(
                stored = finalized.height,
                lost = lost.height,
                "the chain store has lost blocks that were final; they are fetched from peers, and until then this node neither proposes nor votes. If no peer has them, restore a copy of the store, or remove the .mark file beside it to go on from here"
            );
        }
        // What was signed stays signed, whatever became of the store.
        let (voted, proposed) = mark.map_or((None, None), |mark| (mark.vote, mark.proposed));
        let stored_vote = records.last_vote()?;
        let last_vote = [stored_vote, voted].into_iter().flatten().max_by_key(|vote| vote.link.target.height);
        let slot = check_finalized(&records, &genesis, &finalized)?;
        let checkpoint = Checkpoint { height: finalized.height, id: finalized.id };
        let state = BlockState {
            snapshot: Snapshot::of_finalized(records.clone()),
            lthash: Arc::new(finalized.lthash),
            changed: Arc::new([]),
        };
        let root =
            BlockNode { header: None, included_total: finalized.included_total, state: Some(state.clone()) };
        let block_ref = BlockRef { height: finalized.height, id: finalized.id, slot };
        let view = HeadView {
            genesis: genesis.clone(),
            genesis_id: *schedule.genesis_id(),
            head: block_ref,
            finalized: block_ref,
            justified: checkpoint,
            finalized_by: None,
            justified_by: None,
            included_total: finalized.included_total,
            lost,
            readable: Arc::new([(block_ref, state.clone())]),
            state,
            canonical: HashTrieMapSync::new_sync(),
            records: records.clone(),
        };
        let engine: Box<dyn Engine> = Box::new(Engines);
        let mut chain = Self {
            tree: BlockTree::new(finalized.id, finalized.height, slot, root),
            engine,
            authority,
            entropy: ChaCha12Rng::from_seed(seed),
            states: VecDeque::new(),
            head: finalized.id,
            canonical: HashTrieMapSync::new_sync(),
            finality: Finality::new(checkpoint, records.finalized_by()?),
            votes: VotePool::new(*schedule.genesis_id(), genesis.authorities.clone()),
            ballot: Ballot::new(last_vote.map(|vote| vote.link)),
            proposals: Proposals::default(),
            invalid: RecentIds::default(),
            last_proposed: records.last_proposed()?.max(proposed),
            lost,
            failed: None,
            published: Arc::new(ArcSwap::from_pointee(view)),
            schedule,
            records,
        };
        chain.execute_unfinalized()?;
        chain.restore_justified()?;
        chain.restore_head()?;
        if let Some(vote) = stored_vote {
            // The pool is empty after a start; of what was in it, our own vote is still ours to give.
            chain.on_vote(vote)?;
        }
        chain.publish()?;
        Ok(chain)
    }

    fn execute_unfinalized(&mut self) -> Result<(), StoreError> {
        let headers = self.records.headers_above(self.tree.root_height())?;
        let total = headers.len();
        for (done, header) in headers.into_iter().enumerate() {
            if done > 0 && done % PROGRESS_EVERY == 0 {
                tracing::info!(done, total, "executing blocks that are not final");
            }
            let id = header.id();
            let Some(parent) = self.tree.get(&header.parent) else {
                return Err(StoreError::damaged(format!(
                    "block {} {} stands on a block that is missing",
                    header.height,
                    id.short()
                )));
            };
            let included_total = parent.data.included_total + u64::from(header.tx_count);
            let state = self.state_of(&header.parent)?;
            let block = self
                .records
                .block(&id)?
                .ok_or_else(|| StoreError::damaged(format!("block {} has no body", id.short())))?;
            let executed = self.execute_stored(&block, &state)?;
            self.proposals.admit(&header);
            let (parent, slot) = (header.parent, header.slot);
            self.tree.insert(
                id,
                parent,
                slot,
                BlockNode { header: Some(header), included_total, state: None },
            );
            self.keep_state(id, executed.state);
        }
        Ok(())
    }

    fn restore_justified(&mut self) -> Result<(), StoreError> {
        let certificates = [self.finality.finalized_by().cloned(), self.records.justified_by()?];
        for certificate in certificates.into_iter().flatten() {
            // Our own: its signatures were checked before it was kept.
            if let Err(fault) = self.finality.apply(&certificate, &self.tree) {
                return Err(StoreError::damaged(format!("its certificate does not fit its blocks: {fault}")));
            }
        }
        Ok(())
    }

    fn restore_head(&mut self) -> Result<(), StoreError> {
        let best = self.tree.best_tip(&self.finality.justified().id);
        let stored = self.records.head()?.filter(|id| self.tree.contains(id));
        let root = self.tree.root();
        let mut height = self.tree.root_height();
        for id in self.tree.path(&root, &best) {
            height += 1;
            self.canonical.insert_mut(height, id);
        }
        self.head = best;
        if stored != Some(best) {
            // Places of transactions were written for another head, or not at all.
            let fork = stored.map_or(root, |stored| self.tree.fork_point(&stored, &best));
            let mut batch = WriteBatch::default();
            for id in self.tree.path(&fork, &best) {
                if let Some(block) = self.records.block(&id)? {
                    Records::put_places(&mut batch, &block);
                }
            }
            Records::put_head(&mut batch, &best);
            self.records.apply(batch)?;
            self.records.flush()?;
        }
        Ok(())
    }
}

fn write_genesis(records: &Records, schedule: &Schedule) -> Result<(), StoreError> {
    let genesis = schedule.genesis();
    let mut batch = WriteBatch::default();
    let mut lthash = LtHash::default();
    for (address, balance) in &genesis.allocation {
        if let Some(value) = Account::plain(0, *balance).encode() {
            let key = Account::key(address);
            lthash.add(&key, &value);
            Records::put_state(&mut batch, &key, Some(&value));
        }
    }
    let id = genesis.block_id();
    Records::put_canonical(&mut batch, 0, &id);
    Records::put_finalized(&mut batch, &FinalizedRecord { height: 0, id, included_total: 0, lthash });
    Records::put_head(&mut batch, &id);
    Records::put_identity(&mut batch, schedule.genesis_id());
    records.apply(batch)?;
    records.flush()
}

/// That the finalized record, the chain of ids and the header agree; the slot of the block.
fn check_finalized(
    records: &Records,
    genesis: &Genesis,
    finalized: &FinalizedRecord,
) -> Result<Option<u64>, StoreError> {
    let short = |id: BlockId| id.short();
    if records.canonical_id(finalized.height)? != Some(finalized.id) {
        return Err(StoreError::damaged(format!(
            "the finalized block {} {} is not on the stored chain",
            finalized.height,
            short(finalized.id)
        )));
    }
    if finalized.height == 0 {
        return if finalized.id == genesis.block_id() {
            Ok(None)
        } else {
            Err(StoreError::damaged("height 0 is not the genesis"))
        };
    }
    let header = records.header_at(finalized.height, &finalized.id)?;
    if header.state != finalized.lthash.digest() {
        return Err(StoreError::damaged(format!(
            "the stored state is not the one that block {} {} commits to",
            finalized.height,
            short(finalized.id)
        )));
    }
    Ok(Some(header.slot))
}

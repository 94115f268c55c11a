//! Taking blocks that others made.

use ghost_proto::{Block, BlockId, Checkpoint, FinalityCertificate, Header, SignedTransaction, TxId};

use super::{
    BlockFault, BlockNode, BlockRef, Chain, HeadChange, HeaderError, ImportError,
    execute::{self, ExecuteBlockError, Executed},
    finalize::FinalityChange,
};
use crate::{
    consensus::{Admission, Applied, Equivocation},
    store::{Records, StoreError, WriteBatch},
};

/// Where an imported block ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It was here before; nothing happened.
    AlreadyKnown,
    /// Stored, and not on the canonical chain.
    SideBranch,
    /// It is the head now.
    Head,
}

/// What importing a block did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Where the block ended up.
    pub placement: Placement,
    /// What it led to. The head also changes when a certificate that had waited for this block makes
    /// another tip the head.
    pub change: FinalityChange,
    /// Its proposer has signed another block for the slot. Reported once for each slot.
    pub equivocation: Option<Equivocation>,
}

/// A block that was executed and is about to be kept.
pub(super) struct Fresh {
    pub(super) block: Block,
    pub(super) executed: Executed,
    pub(super) equivocation: Option<Equivocation>,
    /// This node made it.
    pub(super) own: bool,
}

impl Chain {
    /// Checks what can be checked without the body, cheapest first; the signature (about 40 µs) last.
    /// `Ok` for a block that is here already. Relay and fetch on `Ok`.
    ///
    /// # Errors
    /// [`HeaderError`]; [`HeaderError::blame`] tells who is at fault. With
    /// [`HeaderError::UnknownParent`] turn and signature are good and all else is open.
    pub fn check_header(&self, header: &Header, now_unix_ms: u64) -> Result<(), HeaderError> {
        self.check_alive()?;
        let genesis = self.schedule.genesis();
        let id = header.id();
        if self.tree.contains(&id) {
            return Ok(());
        }
        if self.invalid.contains(&id) {
            return Err(HeaderError::KnownInvalid);
        }
        self.schedule.check_turn(header)?;
        if let Some(ready_unix_ms) = self.schedule.not_before(header.slot, now_unix_ms) {
            return Err(HeaderError::FromFuture { ready_unix_ms });
        }
        for (found, most, error) in [
            (
                u64::from(header.body_bytes),
                genesis.block_bytes_max,
                (|found, most| HeaderError::BodyTooLarge { found, most }) as fn(u64, u64) -> HeaderError,
            ),
            (header.gas_used, genesis.block_gas_max, |found, most| HeaderError::TooMuchGas { found, most }),
        ] {
            if found > most {
                return Err(error(found, most));
            }
        }
        let parent = self.tree.get(&header.parent);
        match parent {
            Some(parent) => {
                if header.height != parent.height + 1 {
                    return Err(HeaderError::NotAfterParent {
                        field: "height",
                        found: header.height,
                        expected: parent.height + 1,
                    });
                }
                let slot_least = parent.slot.map_or(0, |slot| slot.saturating_add(1));
                if header.slot < slot_least {
                    return Err(HeaderError::NotAfterParent {
                        field: "slot",
                        found: header.slot,
                        expected: slot_least,
                    });
                }
            }
            // A parent that is not in the tree stands below the finalized block or is unknown; a
            // block just above the finalized one can only be the child of another.
            None => {
                let finalized = self.finality.finalized();
                if header.height <= finalized.height && self.records.height_of(&id)?.is_some() {
                    return Ok(());
                }
                let final_slot = self.tree.get(&finalized.id).and_then(|node| node.slot);
                if header.height <= finalized.height + 1
                    || final_slot.is_some_and(|slot| header.slot <= slot)
                    || self.records.height_of(&header.parent)?.is_some()
                {
                    return Err(HeaderError::BelowFinality { finalized_height: finalized.height });
                }
            }
        }
        if !self.proposals.would_admit(header) {
            return Err(HeaderError::TooManyProposals { slot: header.slot });
        }
        self.schedule.check(header)?;
        match parent {
            Some(_) => Ok(()),
            None => Err(HeaderError::UnknownParent { parent: header.parent }),
        }
    }

    /// Checks, executes and keeps a block. It is durable when this returns. `verified` tells which
    /// transactions had their signatures checked before (those of the mempool); the others are
    /// checked here, in one batch.
    ///
    /// # Errors
    /// [`ImportError`]; [`ImportError::blame`] tells who is at fault,
    /// [`ImportError::missing_parent`] what to fetch first.
    pub fn import(
        &mut self,
        block: Block,
        verified: impl Fn(&TxId) -> bool,
        now_unix_ms: u64,
    ) -> Result<Imported, ImportError> {
        let imported = self.import_later(block, verified, now_unix_ms)?;
        if imported.placement != Placement::AlreadyKnown {
            self.flush()?;
        }
        Ok(imported)
    }

    /// As [`Self::import`], durable only after [`Self::flush`] or the next import with it: for a node
    /// that catches up, and fetches again what it lost.
    ///
    /// # Errors
    /// As [`Self::import`].
    pub fn import_later(
        &mut self,
        block: Block,
        verified: impl Fn(&TxId) -> bool,
        now_unix_ms: u64,
    ) -> Result<Imported, ImportError> {
        let header = block.header();
        let id = header.id();
        let checked = self.check_header(header, now_unix_ms);
        let known = self.tree.contains(&id) || header.height <= self.finality.finalized().height;
        if checked.is_ok() && known {
            return Ok(Imported {
                placement: Placement::AlreadyKnown,
                change: FinalityChange::default(),
                equivocation: None,
            });
        }
        if let Err(HeaderError::UnknownParent { parent }) = checked {
            // It has a place of its own now, so that its parent may have one too.
            self.proposals.admit(header);
            self.proposals.want(parent);
        }
        checked?;
        let equivocation = match self.proposals.admit(header) {
            Admission::Admitted => None,
            Admission::Equivocates(other) => self.double_proposal(&other, header),
            Admission::TooMany => return Err(HeaderError::TooManyProposals { slot: header.slot }.into()),
        };
        match self.execute(&block, verified) {
            Ok(executed) => {
                let fresh = Fresh { block, executed, equivocation, own: false };
                let kept = self.keep(fresh);
                Ok(self.guarded(kept)?)
            }
            Err(ExecuteBlockError::Store(error)) => Err(self.guarded::<()>(Err(error)).unwrap_err().into()),
            Err(ExecuteBlockError::Fault(fault)) => {
                self.invalid.insert(id);
                Err(ImportError::Invalid { id, proposer: header.proposer, fault })
            }
        }
    }

    /// Evidence needs both headers; while the other block waits for its parent there is none.
    fn double_proposal(&mut self, other: &BlockId, second: &Header) -> Option<Equivocation> {
        let first = self.tree.get(other)?.data.header.clone()?;
        self.proposals.reported(second.slot);
        Some(Equivocation::Proposals { first: Box::new(first), second: Box::new(second.clone()) })
    }

    fn execute(
        &mut self,
        block: &Block,
        verified: impl Fn(&TxId) -> bool,
    ) -> Result<Executed, ExecuteBlockError> {
        let header = block.header();
        if !block.is_canonically_ordered() {
            return Err(ExecuteBlockError::Fault(BlockFault::Order));
        }
        let unverified: Vec<SignedTransaction> =
            block.transactions().iter().filter(|tx| !verified(&tx.id())).cloned().collect();
        let ids: Vec<TxId> = unverified.iter().map(SignedTransaction::id).collect();
        let verdicts = SignedTransaction::verify_many(unverified, &mut self.entropy);
        if let Some((id, _)) = ids.iter().zip(&verdicts).find(|(_, verdict)| verdict.is_err()) {
            return Err(ExecuteBlockError::Fault(BlockFault::Signature(*id)));
        }
        let parent = self.state_of(&header.parent)?;
        let context = execute::context(self.schedule.genesis(), header.height, header.slot);
        let executed = execute::execute_all(
            &*self.engine,
            &parent,
            &self.ancestors_of(header.parent),
            context,
            block.transactions(),
        )?;
        let gas: u64 = executed.receipts.iter().map(|receipt| receipt.gas_used).sum();
        let receipt_root =
            ghost_proto::merkle::root(executed.receipts.iter().map(|receipt| receipt.encode()));
        let mismatch = if gas != header.gas_used {
            Some("sum of gas")
        } else if receipt_root != header.receipt_root {
            Some("receipt root")
        } else if executed.state.lthash.digest() != header.state {
            Some("state")
        } else {
            None
        };
        mismatch.map_or(Ok(executed), |what| Err(ExecuteBlockError::Fault(BlockFault::Mismatch(what))))
    }

    /// Puts an executed block into tree and store, and follows what that leads to.
    pub(super) fn keep(&mut self, fresh: Fresh) -> Result<Imported, StoreError> {
        let Fresh { block, executed, equivocation, own } = fresh;
        let header = block.header().clone();
        let id = header.id();
        let mut batch = WriteBatch::default();
        Records::put_block(&mut batch, &block, &executed.receipts);
        if own {
            Records::put_last_proposed(&mut batch, header.slot);
            self.last_proposed = Some(header.slot);
        }
        let above = self.tree.get(&header.parent).map_or(0, |parent| parent.data.included_total);
        let node = BlockNode {
            included_total: above + u64::from(header.tx_count),
            header: Some(header.clone()),
            state: None,
        };
        self.tree.insert(id, header.parent, header.slot, node);
        self.keep_state(id, executed.state);

        let target = Checkpoint { height: header.height, id };
        let waiting: Vec<FinalityCertificate> = self.finality.take_pending(&target);
        let mut applied = Applied::default();
        for certificate in &waiting {
            match self.finality.apply(certificate, &self.tree) {
                Ok(more) => {
                    applied.justified |= more.justified;
                    applied.finalized |= more.finalized;
                }
                Err(fault) => {
                    tracing::error!(%fault, "a certificate that waited for a block is not followed")
                }
            }
        }
        let change = self.settle(batch, Some(&block), applied)?;
        let placement = if self.head == id { Placement::Head } else { Placement::SideBranch };
        Ok(Imported { placement, change, equivocation })
    }

    /// Chooses the head, writes everything that follows in one batch, and publishes a new view.
    /// The tree and [`crate::consensus::Finality`] are up to date before.
    pub(super) fn settle(
        &mut self,
        mut batch: WriteBatch,
        fresh: Option<&Block>,
        applied: Applied,
    ) -> Result<FinalityChange, StoreError> {
        let justified = self.finality.justified();
        let best = if applied.justified {
            self.tree.best_tip(&justified.id)
        } else {
            match fresh.map(Block::header) {
                Some(header)
                    if self.tree.is_better(&header.id(), &self.head)
                        && (header.parent == self.head
                            || self.tree.descends(&header.id(), &justified.id)) =>
                {
                    header.id()
                }
                _ => self.head,
            }
        };
        let head = if best == self.head { None } else { Some(self.switch_head(&mut batch, best, fresh)?) };
        if applied.justified
            && let Some(certificate) = self.finality.justified_by()
        {
            Records::put_justified_by(&mut batch, certificate);
        }
        if applied.finalized {
            self.flatten(&mut batch)?;
        }
        self.records.apply(batch)?;
        if applied.finalized {
            self.prune_snapshots();
        }
        self.publish()?;
        Ok(FinalityChange {
            justified: applied.justified.then_some(justified),
            finalized: applied.finalized.then(|| self.finality.finalized()),
            head,
        })
    }

    fn switch_head(
        &mut self,
        batch: &mut WriteBatch,
        best: BlockId,
        fresh: Option<&Block>,
    ) -> Result<HeadChange, StoreError> {
        let old: BlockRef = self.head();
        let fork = self.tree.fork_point(&old.id, &best);
        let reverted = self.tree.path(&fork, &old.id);
        let applied = self.tree.path(&fork, &best);
        let fork_height = self.tree.get(&fork).map_or(0, |node| node.height);
        let mut included = Vec::new();
        for (height, id) in (fork_height + 1..).zip(&applied) {
            match fresh {
                Some(block) if block.header().id() == *id => {
                    Records::put_places(batch, block);
                    included.extend(block.transactions().iter().map(SignedTransaction::id));
                }
                _ => {
                    let block = self.stored(id)?;
                    Records::put_places(batch, &block);
                    included.extend(block.transactions().iter().map(SignedTransaction::id));
                }
            }
            self.canonical.insert_mut(height, *id);
        }
        let mut returned = Vec::new();
        if !reverted.is_empty() {
            let again: std::collections::HashSet<&TxId> = included.iter().collect();
            let mut bytes = 0;
            for id in &reverted {
                for tx in self.stored(id)?.transactions() {
                    bytes += tx.bytes().len();
                    if bytes <= super::REVERTED_BYTES_MAX && !again.contains(&tx.id()) {
                        returned.push(tx.clone());
                    }
                }
            }
        }
        let new_height = fork_height + applied.len() as u64;
        for height in new_height + 1..=old.height {
            self.canonical.remove_mut(&height);
        }
        Records::put_head(batch, &best);
        self.head = best;
        Ok(HeadChange { old, new: self.head(), applied, reverted, included, returned })
    }

    fn stored(&self, id: &BlockId) -> Result<Block, StoreError> {
        self.records.block(id)?.ok_or_else(|| StoreError::damaged(format!("block {} is missing", id.short())))
    }
}

//! How blocks by short ids and blocks in shards go together: the relay decides for each payload whether it wants it.

use std::{sync::Arc, time::Instant};

use ghost_frames::{
    compact::PlacedTransaction,
    shards::{Shard, ShardHave, ShardPlan, ShardRoot},
};
use ghost_proto::{Block, BlockId, PeerId, layout::varint_len, limits::COMPACT_PREFILL_BYTES_MAX};

use super::{
    Received,
    fetch::Progress,
    relay::{BlockRelay, HIT_RATE_MIN, Orphans},
    shards::{Arrival, SWARM_PATIENCE, ShardOutcome, Stance, WHOLE_BYTES_MIN, code::Coded},
};
use crate::sync::{Effect, HeaderVerdict, Offence, RequestId};

/// Part of what a plan cuts that must be missing here for its shards to be wanted: one in two. With less, asking by
/// place takes fewer bytes.
const WANTED_PART: (usize, usize) = (1, 2);

/// Blocks whose transactions are kept until the pool has been asked for the rest: those of one slot.
const EARLY_MAX: usize = 2;

/// Length of the transactions at these places, with their lengths in front.
fn bytes_at(block: &Block, places: &[u32]) -> usize {
    let transactions = places.iter().filter_map(|place| block.transactions().get(*place as usize));
    transactions.map(|tx| tx.bytes().len() + varint_len(tx.bytes().len() as u64)).sum()
}

impl BlockRelay {
    /// What of our own block is cut: each list of places is a payload, an empty one the whole body.
    pub(super) fn to_be_cut(block: &Block, fresh: &[u32]) -> Vec<Vec<u32>> {
        let (body, part) = (block.header().body_bytes as usize, bytes_at(block, fresh));
        let mut cut = Vec::new();
        // Where most of the body is fresh the whole of it serves everybody.
        if part > COMPACT_PREFILL_BYTES_MAX && (part * 2 < body || body < WHOLE_BYTES_MIN) {
            cut.push(fresh.to_vec());
        }
        if body >= WHOLE_BYTES_MIN {
            cut.push(Vec::new());
        }
        cut
    }

    /// A plan from a peer.
    pub(crate) fn shard_plan(
        &mut self,
        peer: PeerId,
        plan: Arc<ShardPlan>,
        verdict: HeaderVerdict,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let id = plan.header.id();
        match verdict {
            HeaderVerdict::Invalid => {
                return effects.push(Effect::Offence { peer, what: Offence::InvalidHeader });
            }
            // Those who are behind may still want it.
            HeaderVerdict::Known if self.latest.contains(&id) || self.block(&id).is_some() => {}
            HeaderVerdict::Good => {}
            HeaderVerdict::Known | HeaderVerdict::UnknownParent | HeaderVerdict::Ignore => return,
        }
        if !self.swarm.knows(&plan.root) && !self.admit_sibling(&plan.header) {
            return;
        }
        if self.swarm.plan(Some(peer), &plan, now, effects) {
            self.take_stance(&plan, now, effects);
        }
    }

    /// For every payload of a block, whether it is wanted: again whenever more is known.
    pub(super) fn take_stances(&mut self, id: &BlockId, now: Instant, effects: &mut Vec<Effect>) {
        for plan in self.swarm.plans(id) {
            self.take_stance(&plan, now, effects);
        }
    }

    fn take_stance(&mut self, plan: &Arc<ShardPlan>, now: Instant, effects: &mut Vec<Effect>) {
        let id = plan.header.id();
        let stance = match self.block(&id) {
            Some(block) => Stance::Has(Arc::clone(block)),
            None if self.latest.contains(&id) => Stance::Passes,
            None if self.wants(plan) => Stance::Wants,
            None => Stance::Passes,
        };
        if matches!(stance, Stance::Wants) {
            let missing = (!plan.is_whole()).then_some(&plan.indexes[..]);
            let held = plan.is_whole() || self.fetches.missing(&id).is_some();
            if held && !self.swarm.is_poisoned(&plan.root) {
                self.fetches.hold(&id, missing, now + SWARM_PATIENCE, now, effects);
            }
        }
        self.swarm.take_stance(&plan.root, stance, now, effects);
    }

    fn wants(&self, plan: &ShardPlan) -> bool {
        let id = plan.header.id();
        let pool_is_of_use = self.hit_rate >= HIT_RATE_MIN;
        if plan.is_whole() {
            return match self.fetches.header(&id) {
                Some(_) => self.fetches.wants_whole(&id),
                None => !pool_is_of_use,
            };
        }
        match self.fetches.missing(&id) {
            Some(missing) => {
                let wanted = plan.indexes.iter().filter(|place| missing.binary_search(place).is_ok()).count();
                wanted * WANTED_PART.1 >= plan.indexes.len() * WANTED_PART.0
            }
            // Before the pool has been asked the proposer is believed: it says that nobody has these.
            None => pool_is_of_use && !self.fetches.wants_whole(&id),
        }
    }

    pub(crate) fn shard_have(
        &mut self,
        peer: PeerId,
        have: &ShardHave,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.swarm.have(peer, have, now, effects);
    }

    /// A shard, pushed or in answer to a request.
    pub(crate) fn shard(
        &mut self,
        peer: PeerId,
        request: Option<RequestId>,
        shard: Shard,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.stats.shards += 1;
        self.stats.bytes += shard.bytes.len() as u64;
        match self.swarm.shard(peer, request, shard, now, effects) {
            Arrival::New(id) => self.fetches.hold_on(&id, now + SWARM_PATIENCE),
            Arrival::Useless => self.stats.shards_useless += 1,
        }
    }

    /// Whom we asked, if the request is for shards and still open.
    pub(crate) fn shard_request(&self, request: RequestId) -> Option<PeerId> {
        self.swarm.request(request)
    }

    /// A request for shards is over.
    pub(crate) fn shards_ended(&mut self, request: RequestId, now: Instant) {
        self.swarm.ended(request, now);
    }

    /// Payloads in shards, and bytes of shards that are here.
    pub(crate) fn shard_load(&self) -> (usize, usize) {
        self.swarm.load()
    }

    /// Our own block was cut.
    pub(crate) fn shards_cut(
        &mut self,
        plan: &Arc<ShardPlan>,
        coded: Coded,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.swarm.plan(None, plan, now, effects);
        self.swarm.coded(coded, now, effects);
    }

    /// Work on a payload is done.
    pub(crate) fn shards_worked(
        &mut self,
        root: ShardRoot,
        outcome: ShardOutcome,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let Some((plan, from)) = self.swarm.plan_and_giver(&root) else { return Vec::new() };
        let id = plan.header.id();
        match outcome {
            ShardOutcome::Cut(coded) => {
                self.swarm.coded(coded, now, effects);
                Vec::new()
            }
            ShardOutcome::Block(received, coded) => {
                self.swarm.coded(coded, now, effects);
                self.stats.sharded += 1;
                match (received, from) {
                    (Received::Matching(block), Some(from)) => self.take(from, block, None, now, effects),
                    _ => Vec::new(),
                }
            }
            ShardOutcome::Transactions(transactions, coded) => {
                self.swarm.coded(coded, now, effects);
                self.stats.sharded += 1;
                if self.fetches.missing(&id).is_none() {
                    self.keep_early(id, transactions);
                    return Vec::new();
                }
                match self.fetches.fill(&id, transactions) {
                    Progress::Complete => self.complete(id, now, effects),
                    _ => Vec::new(),
                }
            }
            ShardOutcome::Poisoned => {
                self.swarm.poisoned(&root, now, effects);
                self.fetches.let_go(&id);
                Vec::new()
            }
        }
    }

    fn keep_early(&mut self, id: BlockId, transactions: Vec<PlacedTransaction>) {
        if self.block(&id).is_some() || self.latest.contains(&id) {
            return;
        }
        if self.early.len() == EARLY_MAX {
            self.early.pop_front();
        }
        self.early.push_back((id, transactions));
    }

    pub(super) fn take_early(&mut self, id: &BlockId) -> Option<Vec<PlacedTransaction>> {
        let at = self.early.iter().position(|(early, _)| early == id)?;
        self.early.remove(at).map(|(_, transactions)| transactions)
    }
}

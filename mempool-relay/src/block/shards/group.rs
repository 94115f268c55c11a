//! The shards of one payload: which are here, and which the peers have.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::shards::{Geometry, Shard, ShardHave, ShardPlan, ShardSet};
use ghost_proto::{Block, PeerId};

use super::{OWED_BYTES_MAX, PULL_BYTES, PULL_PATIENCE};
use crate::sync::RequestId;

/// What we do with a payload's shards.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// We pass the plan on. The block, once it is here.
    Idle(Option<Arc<Block>>),
    /// We want it.
    Joined,
    /// It is being put together, or cut.
    Working,
    /// All shards are here.
    Complete,
    /// Its proposer signed a lie.
    Poisoned,
}

/// A request for shards.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: RequestId,
    pub(super) wanted: ShardSet,
    pub(super) mark: Instant,
}

/// A peer, as far as one payload goes.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) rtt: Duration,
    /// It has the plan.
    pub(super) knows: bool,
    /// It was told what we have since it knew the plan.
    pub(super) told: bool,
    /// It takes shards unasked.
    pub(super) wants: bool,
    /// What it said it has.
    pub(super) has: ShardSet,
    /// What we sent unasked.
    pub(super) pushed: ShardSet,
    pub(super) asked: Option<Asked>,
    pub(super) failures: u32,
    pub(super) ready_from: Instant,
}

impl Member {
    pub(super) fn new(rtt: Duration, now: Instant) -> Self {
        Self {
            rtt,
            knows: false,
            told: false,
            wants: false,
            has: ShardSet::default(),
            pushed: ShardSet::default(),
            asked: None,
            failures: 0,
            ready_from: now,
        }
    }

    fn lacks(&self, index: u16) -> bool {
        self.wants && !self.has.contains(index) && !self.pushed.contains(index)
    }

    /// Pushed and not confirmed.
    fn owed(&self) -> usize {
        self.pushed.without(&self.has).len()
    }

    /// It did not deliver: it is left alone for longer each time, five seconds at most.
    pub(super) fn fail(&mut self, now: Instant) {
        self.asked = None;
        self.ready_from = now + PULL_PATIENCE * (1 << self.failures.min(3));
        self.failures += 1;
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) plan: Arc<ShardPlan>,
    pub(super) geometry: Geometry,
    pub(super) came: Instant,
    pub(super) stage: Stage,
    pub(super) have: ShardSet,
    /// In the order they came.
    pub(super) shards: Vec<Arc<Shard>>,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// Shards that are to be pushed once.
    queue: VecDeque<Arc<Shard>>,
    /// Who sent the last one.
    pub(super) giver: Option<PeerId>,
    /// When what is here is to be told.
    pub(super) tell_at: Option<Instant>,
    /// Nobody is asked before.
    pub(super) pull_from: Instant,
}

impl Group {
    pub(super) fn new(plan: Arc<ShardPlan>, now: Instant) -> Self {
        Self {
            geometry: plan.geometry(),
            plan,
            came: now,
            stage: Stage::Idle(None),
            have: ShardSet::default(),
            shards: Vec::new(),
            members: BTreeMap::new(),
            queue: VecDeque::new(),
            giver: None,
            tell_at: None,
            pull_from: now,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.shards.len() * self.geometry.shard_bytes
    }

    pub(super) fn is_joined(&self) -> bool {
        matches!(self.stage, Stage::Joined)
    }

    pub(super) fn say(&self) -> ShardHave {
        ShardHave { root: self.plan.root, wants: self.is_joined(), have: self.have }
    }

    /// A shard that was checked and was not here. What came unasked is passed on unasked, once; what was asked for is only told
    /// of: where most have most, most is asked for, and pushing dies out by itself.
    pub(super) fn insert(&mut self, shard: Arc<Shard>, pass_on: bool, chance: u64) {
        self.have.insert(shard.index);
        if pass_on {
            self.enqueue(Arc::clone(&shard), chance);
        }
        self.shards.push(shard);
    }

    /// At a place by chance: nodes that got the same shards in the same order should not all pass the same one on next.
    fn enqueue(&mut self, shard: Arc<Shard>, chance: u64) {
        self.queue.push_back(shard);
        let last = self.queue.len() - 1;
        self.queue.swap((chance % (last as u64 + 1)) as usize, last);
    }

    /// All of them are here. If none came from others, each is pushed once.
    pub(super) fn complete(&mut self, shards: Vec<Arc<Shard>>, mut chance: impl FnMut() -> u64) {
        if self.have.is_empty() {
            shards.iter().for_each(|shard| self.enqueue(Arc::clone(shard), chance()));
        }
        self.have = ShardSet::first(self.geometry.count());
        self.shards = shards;
        self.stage = Stage::Complete;
    }

    /// What is to be pushed now, and to whom.
    pub(super) fn pushes(&mut self, mut chance: impl FnMut() -> u64) -> Vec<(PeerId, Arc<Shard>)> {
        let mut out = Vec::new();
        let mut room: BTreeMap<PeerId, usize> = BTreeMap::new();
        let most = (OWED_BYTES_MAX / self.geometry.shard_bytes).max(1);
        for (peer, member) in self.members.iter().filter(|(_, member)| member.wants) {
            let left = most.saturating_sub(member.owed());
            if left > 0 {
                room.insert(*peer, left);
            }
        }
        let mut waiting = VecDeque::new();
        while !room.is_empty()
            && let Some(shard) = self.queue.pop_front()
        {
            let lacking = |peer: &PeerId| self.members.get(peer).is_some_and(|one| one.lacks(shard.index));
            let open: Vec<PeerId> = room.keys().filter(|peer| lacking(peer)).copied().collect();
            if open.is_empty() {
                // Kept for those who have no room now; what nobody lacks is not pushed any more.
                if self.members.values().any(|member| member.lacks(shard.index)) {
                    waiting.push_back(shard);
                }
                continue;
            }
            let peer = open[(chance() % open.len() as u64) as usize];
            if let Some(member) = self.members.get_mut(&peer) {
                member.pushed.insert(shard.index);
            }
            if let Some(left) = room.get_mut(&peer) {
                *left -= 1;
                if *left == 0 {
                    room.remove(&peer);
                }
            }
            out.push((peer, shard));
        }
        self.queue.extend(waiting);
        out
    }

    /// What is asked for and not here, and how many more than that are needed.
    fn under_way(&self) -> (ShardSet, usize) {
        let asked = self.members.values().filter_map(|member| member.asked.as_ref());
        let sum = asked.fold(ShardSet::default(), |sum, asked| sum.with(&asked.wanted)).without(&self.have);
        (sum, self.geometry.data.saturating_sub(self.have.len() + sum.len()))
    }

    /// What is to be asked for now, and of whom.
    pub(super) fn pulls(&self, now: Instant, mut chance: impl FnMut() -> u64) -> Vec<(PeerId, ShardSet)> {
        if !self.is_joined() || now < self.pull_from {
            return Vec::new();
        }
        let (mut under_way, mut needed) = self.under_way();
        let most = (PULL_BYTES / self.geometry.shard_bytes).max(1);
        let mut ready: Vec<(&PeerId, &Member)> = self
            .members
            .iter()
            .filter(|(_, member)| {
                member.asked.is_none() && member.ready_from <= now && !member.has.is_empty()
            })
            .collect();
        // The nearest first: they take what is needed next.
        ready.sort_by_key(|(_, member)| member.rtt);
        let mut out = Vec::new();
        for (peer, member) in ready {
            let mut open: Vec<u16> = member.has.without(&self.have).without(&under_way).iter().collect();
            let count = open.len().min(most).min(needed);
            if count == 0 {
                continue;
            }
            // By chance and then by how many have it, so that peers that ask at once do not ask for the same.
            let rarity = |index: u16| self.members.values().filter(|one| one.has.contains(index)).count();
            let turn = (chance() % open.len() as u64) as usize;
            open.rotate_left(turn);
            if open.len() > count {
                open.sort_by_cached_key(|index| rarity(*index));
            }
            let mut wanted = ShardSet::default();
            open.iter().take(count).for_each(|index| wanted.insert(*index));
            under_way = under_way.with(&wanted);
            needed -= count;
            out.push((*peer, wanted));
        }
        out
    }

    /// When a peer may be asked next, or a request is given up.
    pub(super) fn next_pull(&self) -> Option<Instant> {
        if !self.is_joined() {
            return None;
        }
        let (under_way, needed) = self.under_way();
        let here = self.have.with(&under_way);
        let waits = self.members.values().filter_map(|member| match &member.asked {
            Some(asked) => Some(asked.mark + member.rtt + PULL_PATIENCE),
            None if needed == 0 || member.has.without(&here).is_empty() => None,
            None => Some(member.ready_from.max(self.pull_from)),
        });
        waits.min()
    }
}

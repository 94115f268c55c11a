//! All payloads that travel in shards.

use std::{
    collections::BTreeMap,
    hash::Hasher,
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::shards::{Shard, ShardHave, ShardPlan, ShardRequest, ShardRoot};
use ghost_proto::{Block, BlockId, PeerId};
use siphasher::sip::SipHasher13;

use super::{
    GROUP_LIFETIME, GROUPS_MAX, HELD_BYTES_MAX, PLANS_PER_BLOCK_MAX, PULL_AFTER, PULL_PATIENCE, TELL_EVERY,
    code::Coded,
    group::{Asked, Group, Member, Stage},
    job::ShardJob,
};
use crate::sync::{Effect, Offence, RequestId, ShardFault};

/// What the relay makes of a plan.
#[derive(Debug, Clone)]
pub(crate) enum Stance {
    /// The payload is wanted.
    Wants,
    /// It is not.
    Passes,
    /// The block is here.
    Has(Arc<Block>),
}

/// What a shard was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A new one of this block.
    New(BlockId),
    /// Of no use.
    Useless,
}

/// See [`super`].
#[derive(Debug)]
pub(crate) struct ShardSwarm {
    seed: [u8; 16],
    drawn: u64,
    peers: BTreeMap<PeerId, Duration>,
    groups: BTreeMap<ShardRoot, Group>,
    requests: BTreeMap<RequestId, (ShardRoot, PeerId)>,
}

impl ShardSwarm {
    /// `seed` decides who gets which shard.
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&seed[16..]);
        Self {
            seed: half,
            drawn: 0,
            peers: BTreeMap::new(),
            groups: BTreeMap::new(),
            requests: BTreeMap::new(),
        }
    }

    pub(crate) fn peer_up(&mut self, peer: PeerId, rtt: Duration) {
        self.peers.insert(peer, rtt);
    }

    pub(crate) fn peer_down(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        for group in self.groups.values_mut() {
            group.members.remove(peer);
        }
        self.requests.retain(|_, (_, asked)| asked != peer);
    }

    /// Plans of this block.
    pub(crate) fn plans(&self, block: &BlockId) -> Vec<Arc<ShardPlan>> {
        let groups = self.groups.values().filter(|group| group.plan.header.id() == *block);
        groups.map(|group| Arc::clone(&group.plan)).collect()
    }

    /// Of a plan that is known, and who sent the last of its shards.
    pub(crate) fn plan_and_giver(&self, root: &ShardRoot) -> Option<(Arc<ShardPlan>, Option<PeerId>)> {
        self.groups.get(root).map(|group| (Arc::clone(&group.plan), group.giver))
    }

    pub(crate) fn is_poisoned(&self, root: &ShardRoot) -> bool {
        self.groups.get(root).is_some_and(|group| matches!(group.stage, Stage::Poisoned))
    }

    pub(crate) fn knows(&self, root: &ShardRoot) -> bool {
        self.groups.contains_key(root)
    }

    /// A checked plan, from a peer or, with its shards, of our own making. False if it was known or is not followed.
    pub(crate) fn plan(
        &mut self,
        from: Option<PeerId>,
        plan: &Arc<ShardPlan>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let root = plan.root;
        if !self.groups.contains_key(&root) {
            let others = self.plans(&plan.header.id());
            if others.len() >= PLANS_PER_BLOCK_MAX || !self.make_room(now, effects) {
                return false;
            }
            let twin = others.iter().find(|other| other.indexes == plan.indexes);
            let mut group = Group::new(Arc::clone(plan), now);
            let members = self.peers.iter().map(|(peer, rtt)| (*peer, Member::new(*rtt, now)));
            group.members = members.collect();
            if let Some(first) = twin {
                group.stage = Stage::Poisoned;
                let (first, second) = (Arc::clone(first), Arc::clone(plan));
                effects.push(Effect::ShardFault(ShardFault::Equivocal { first, second }));
            }
            let to: Vec<PeerId> = group.members.keys().filter(|peer| Some(**peer) != from).copied().collect();
            for peer in &to {
                if let Some(member) = group.members.get_mut(peer) {
                    member.knows = true;
                }
            }
            effects.push(Effect::PushShardPlan { peers: to, plan: Arc::clone(plan) });
            self.groups.insert(root, group);
            self.heard_from(from, root, now, effects);
            return true;
        }
        self.heard_from(from, root, now, effects);
        false
    }

    /// The peer has the plan: what we told it before, it did not understand.
    fn heard_from(&mut self, from: Option<PeerId>, root: ShardRoot, now: Instant, effects: &mut Vec<Effect>) {
        let rtt = from.and_then(|peer| self.peers.get(&peer)).copied();
        let (Some(peer), Some(rtt), Some(group)) = (from, rtt, self.groups.get_mut(&root)) else { return };
        let have = group.say();
        let member = group.members.entry(peer).or_insert_with(|| Member::new(rtt, now));
        member.knows = true;
        if !std::mem::replace(&mut member.told, true) && (have.wants || !have.have.is_empty()) {
            effects.push(Effect::PushShardHave { peers: vec![peer], have });
        }
    }

    /// The oldest payload that nobody here waits for goes where there are too many.
    fn make_room(&mut self, now: Instant, effects: &mut Vec<Effect>) -> bool {
        self.drop_old(now, effects);
        let bytes = |groups: &BTreeMap<ShardRoot, Group>| groups.values().map(Group::bytes).sum::<usize>();
        while self.groups.len() >= GROUPS_MAX || bytes(&self.groups) > HELD_BYTES_MAX {
            let idle = self.groups.iter().filter(|(_, group)| !group.is_joined());
            let Some(oldest) = idle.min_by_key(|(_, group)| group.came).map(|(root, _)| *root) else {
                return false;
            };
            self.drop_group(oldest, effects);
        }
        true
    }

    fn drop_old(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let old = self.groups.iter().filter(|(_, group)| now >= group.came + GROUP_LIFETIME);
        let old: Vec<ShardRoot> = old.map(|(root, _)| *root).collect();
        old.into_iter().for_each(|root| self.drop_group(root, effects));
    }

    fn drop_group(&mut self, root: ShardRoot, effects: &mut Vec<Effect>) {
        if let Some(group) = self.groups.remove(&root) {
            self.cancel(&group, effects);
            effects.push(Effect::DropShards { root });
        }
    }

    fn cancel(&mut self, group: &Group, effects: &mut Vec<Effect>) {
        for asked in group.members.values().filter_map(|member| member.asked.as_ref()) {
            self.requests.remove(&asked.request);
            effects.push(Effect::Cancel { request: asked.request });
        }
    }

    /// We want the payload from now on, or no longer, or have it.
    pub(crate) fn take_stance(
        &mut self,
        root: &ShardRoot,
        stance: Stance,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut group) = self.groups.remove(root) else { return };
        match (&group.stage, stance) {
            (Stage::Idle(_), Stance::Wants) => {
                group.stage = Stage::Joined;
                group.pull_from = now + PULL_AFTER;
                group.tell_at = Some(now);
            }
            (Stage::Joined, Stance::Passes) => {
                self.cancel(&group, effects);
                group.members.values_mut().for_each(|member| member.asked = None);
                group.stage = Stage::Idle(None);
                group.tell_at = Some(now);
            }
            (Stage::Idle(_) | Stage::Joined, Stance::Has(block)) => {
                self.cancel(&group, effects);
                group.members.values_mut().for_each(|member| member.asked = None);
                group.stage = Stage::Idle(Some(block));
                group.tell_at = Some(now);
            }
            _ => {}
        }
        self.groups.insert(*root, group);
        self.serve_block(root, effects);
    }

    /// The block is here and somebody wants its shards: they are made, once.
    fn serve_block(&mut self, root: &ShardRoot, effects: &mut Vec<Effect>) {
        let Some(group) = self.groups.get_mut(root) else { return };
        if let Stage::Idle(Some(block)) = &group.stage
            && group.members.values().any(|member| member.wants)
        {
            let job = ShardJob::Cut { plan: Arc::clone(&group.plan), block: Arc::clone(block) };
            group.stage = Stage::Working;
            effects.push(Effect::WorkOnShards { job });
        }
    }

    /// What a peer has and wants.
    pub(crate) fn have(&mut self, peer: PeerId, have: &ShardHave, now: Instant, effects: &mut Vec<Effect>) {
        if !self.groups.contains_key(&have.root) {
            return;
        }
        self.heard_from(Some(peer), have.root, now, effects);
        let Some(group) = self.groups.get_mut(&have.root) else { return };
        let Some(member) = group.members.get_mut(&peer) else { return };
        member.wants = have.wants;
        member.has = member.has.with(&have.have);
        self.serve_block(&have.root, effects);
        self.push(&have.root, effects);
    }

    /// A shard, pushed or in answer to a request.
    pub(crate) fn shard(
        &mut self,
        peer: PeerId,
        request: Option<RequestId>,
        shard: Shard,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Arrival {
        let chance = self.chance();
        if let Some(request) = request {
            let Some((root, _)) = self.requests.get(&request) else { return Arrival::Useless };
            let asked = self.groups.get(root).and_then(|group| group.members.get(&peer)?.asked.as_ref());
            if *root != shard.root || asked.is_none_or(|asked| !asked.wanted.contains(shard.index)) {
                effects.push(Effect::Offence { peer, what: Offence::Unrequested });
                return Arrival::Useless;
            }
        }
        let Some(group) = self.groups.get_mut(&shard.root) else { return Arrival::Useless };
        if let Some(member) = group.members.get_mut(&peer) {
            member.has.insert(shard.index);
            if let Some(asked) = member.asked.as_mut().filter(|asked| Some(asked.request) == request) {
                asked.mark = now;
                member.failures = 0;
            }
        }
        if !group.is_joined() || group.have.contains(shard.index) {
            return Arrival::Useless;
        }
        if !group.plan.covers(&shard) {
            // The root is signed and the proof is short: whoever sends this did it, or did not look.
            effects.push(Effect::Offence { peer, what: Offence::FalseShard });
            if let Some(member) = group.members.get_mut(&peer) {
                member.has = Default::default();
                member.fail(now);
            }
            if let Some(request) = request {
                self.requests.remove(&request);
                effects.push(Effect::Cancel { request });
            }
            return Arrival::Useless;
        }
        let (root, block) = (shard.root, group.plan.header.id());
        let shard = Arc::new(shard);
        group.giver = Some(peer);
        group.insert(Arc::clone(&shard), request.is_none(), chance);
        effects.push(Effect::KeepShards { shards: vec![shard] });
        group.tell_at = group.tell_at.or(Some(now + TELL_EVERY));
        if group.have.len() >= group.geometry.data {
            group.stage = Stage::Working;
            let (plan, shards) = (Arc::clone(&group.plan), group.shards.clone());
            for member in group.members.values_mut() {
                if let Some(asked) = member.asked.take() {
                    self.requests.remove(&asked.request);
                    effects.push(Effect::Cancel { request: asked.request });
                }
            }
            // At once: whoever pushes to us can stop.
            group.tell_at = Some(now);
            effects.push(Effect::WorkOnShards { job: ShardJob::Join { plan, shards } });
        }
        self.push(&root, effects);
        Arrival::New(block)
    }

    /// All shards of a payload are here: made of our own block, or after it was put together.
    pub(crate) fn coded(&mut self, coded: Coded, now: Instant, effects: &mut Vec<Effect>) {
        let (seed, mut drawn) = (self.seed, self.drawn);
        let Some(group) = self.groups.get_mut(&coded.root) else { return };
        group.complete(coded.shards.clone(), || draw(&seed, &mut drawn));
        group.tell_at = Some(now);
        self.drawn = drawn;
        effects.push(Effect::KeepShards { shards: coded.shards });
        self.push(&coded.root, effects);
    }

    /// The proposer signed a root over something else.
    pub(crate) fn poisoned(&mut self, root: &ShardRoot, now: Instant, effects: &mut Vec<Effect>) {
        let Some(group) = self.groups.get_mut(root) else { return };
        group.stage = Stage::Poisoned;
        group.shards.clear();
        group.tell_at = Some(now);
        effects.push(Effect::DropShards { root: *root });
        effects.push(Effect::ShardFault(ShardFault::Poisoned { plan: Arc::clone(&group.plan) }));
    }

    /// Whether a request is one of ours, for which plan and to whom.
    pub(crate) fn request(&self, request: RequestId) -> Option<PeerId> {
        self.requests.get(&request).map(|(_, peer)| *peer)
    }

    /// A request is over.
    pub(crate) fn ended(&mut self, request: RequestId, now: Instant) {
        let Some((root, peer)) = self.requests.remove(&request) else { return };
        let Some(group) = self.groups.get_mut(&root) else { return };
        let (have, member) = (group.have, group.members.get_mut(&peer));
        let Some(member) = member.filter(|one| one.asked.as_ref().is_some_and(|a| a.request == request))
        else {
            return;
        };
        match member.asked.take() {
            // It did not have after all what it said it has: nothing of it is believed until it says so again.
            Some(asked) if !asked.wanted.without(&have).is_empty() => {
                member.has = member.has.without(&asked.wanted.without(&have));
                member.fail(now);
            }
            _ => {}
        }
    }

    fn chance(&mut self) -> u64 {
        draw(&self.seed, &mut self.drawn)
    }

    fn push(&mut self, root: &ShardRoot, effects: &mut Vec<Effect>) {
        let (seed, mut drawn) = (self.seed, self.drawn);
        let Some(group) = self.groups.get_mut(root) else { return };
        let pushes = group.pushes(|| draw(&seed, &mut drawn));
        self.drawn = drawn;
        effects.extend(pushes.into_iter().map(|(peer, shard)| Effect::PushShard { peer, shard }));
    }

    /// Does what is due.
    pub(crate) fn pump(&mut self, now: Instant, next_request: &mut u64, effects: &mut Vec<Effect>) {
        self.drop_old(now, effects);
        let (seed, mut drawn) = (self.seed, self.drawn);
        for (root, group) in &mut self.groups {
            if group.tell_at.is_some_and(|at| at <= now) {
                group.tell_at = None;
                let have = group.say();
                let everything = group.geometry.count();
                let mut peers = Vec::new();
                for (peer, member) in &mut group.members {
                    // Who has all needs to know nothing.
                    if member.knows && member.has.len() < everything {
                        member.told = true;
                        peers.push(*peer);
                    }
                }
                if !peers.is_empty() {
                    effects.push(Effect::PushShardHave { peers, have });
                }
            }
            for member in group.members.values_mut() {
                let late = |asked: &Asked| now >= asked.mark + member.rtt + PULL_PATIENCE;
                if let Some(request) = member.asked.as_ref().filter(|asked| late(asked)).map(|a| a.request) {
                    self.requests.remove(&request);
                    effects.push(Effect::Cancel { request });
                    member.fail(now);
                }
            }
            for (peer, wanted) in group.pulls(now, || draw(&seed, &mut drawn)) {
                *next_request += 1;
                let request = RequestId(*next_request);
                self.requests.insert(request, (*root, peer));
                if let Some(member) = group.members.get_mut(&peer) {
                    member.asked = Some(Asked { request, wanted, mark: now });
                }
                let wanted = ShardRequest { root: *root, wanted };
                effects.push(Effect::RequestShards { peer, request, wanted });
            }
        }
        self.drawn = drawn;
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let each = |group: &Group| {
            let end = Some(group.came + GROUP_LIFETIME);
            [end, group.tell_at, group.next_pull()].into_iter().flatten().min()
        };
        self.groups.values().filter_map(each).min()
    }

    /// Payloads, and bytes of their shards that are here.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.groups.len(), self.groups.values().map(Group::bytes).sum())
    }
}

/// A number by chance, another one each time.
fn draw(seed: &[u8; 16], drawn: &mut u64) -> u64 {
    *drawn += 1;
    let mut hasher = SipHasher13::new_with_key(seed);
    hasher.write_u64(*drawn);
    hasher.finish()
}

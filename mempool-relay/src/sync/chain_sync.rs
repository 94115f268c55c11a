//! Catching up: whose chain is followed, and when that is given up.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, limits::HEADERS_PER_ANSWER_MAX};

use super::{
    bad::BadBlocks,
    io::{Effect, HeadersVerdict, ImportOutcome, Offence, RequestEnd, RequestId},
    leader::{Ask, DEAD_END_PATIENCE, HEADERS_TIMEOUT, LEADER_BACKOFF_MAX, LEADER_BACKOFF_MIN, Leader},
    peer::SyncPeer,
    schedule::Schedule,
    window::HEADER_WINDOW_MAX,
};
use crate::block::{Received, fetch::FLOOR_BYTES_PER_SECOND};

/// Pause of a peer whose chain had nothing new after all. Not a failure of its: it may have moved on.
const NOTHING_NEW_PAUSE: Duration = Duration::from_secs(1);

/// Pause of a peer whose headers were ahead of our clock. Slots begin one by one, so each time there may be
/// one more to take.
const AHEAD_PAUSE: Duration = Duration::from_secs(1);

/// Blocks per second that a chain must deliver at least, if they are small, while there is another chain: 20.
const FLOOR_BLOCK_TIME: Duration = Duration::from_millis(50);

/// Pause after our own import failed.
const IMPORT_FAILED_PAUSE: Duration = Duration::from_secs(5);

/// Failures as a leader after which a peer's claim no longer counts as something we are behind.
const CREDIBLE_FAILURES_MAX: u32 = 3;

/// See [`super`].
#[derive(Debug)]
pub(crate) struct ChainSync {
    head: Checkpoint,
    pub(crate) peers: BTreeMap<PeerId, SyncPeer>,
    pub(crate) schedule: Schedule,
    leader: Option<Leader>,
    bad: BadBlocks,
    /// The block at the window's front, and until when it is waited for while there is another chain.
    front: Option<(BlockId, Instant)>,
    paused_until: Option<Instant>,
}

impl ChainSync {
    pub(crate) fn new(head: Checkpoint) -> Self {
        Self {
            head,
            peers: BTreeMap::new(),
            schedule: Schedule::default(),
            leader: None,
            bad: BadBlocks::default(),
            front: None,
            paused_until: None,
        }
    }

    pub(crate) fn header(&self, id: &BlockId) -> Option<&Header> {
        self.schedule.window.header(id)
    }

    pub(crate) fn covers(&self, id: &BlockId) -> bool {
        self.schedule.window.contains(id)
    }

    pub(crate) fn is_bad(&self, id: &BlockId) -> bool {
        self.bad.contains(id)
    }

    pub(crate) fn mark_bad(&mut self, id: BlockId) {
        self.bad.insert(id);
    }

    /// Something to catch up with, as far as it is credible.
    pub(crate) fn is_behind(&self) -> bool {
        let credible =
            |peer: &SyncPeer| peer.claim.is_some() && peer.leading.failures() < CREDIBLE_FAILURES_MAX;
        !self.schedule.window.is_empty() || self.peers.values().any(credible)
    }

    pub(crate) fn height(&self) -> u64 {
        self.head.height
    }

    /// See [`super::SyncProgress::target`].
    pub(crate) fn target(&self) -> u64 {
        let window = self.schedule.window.last().map_or(self.head.height, |last| last.height);
        let claimed = self.leader.as_ref().filter(|leader| !leader.done).and_then(|leader| {
            self.peers.get(&leader.peer).and_then(|peer| peer.claim).map(|claim| claim.height)
        });
        window.max(claimed.unwrap_or(0)).max(self.head.height)
    }

    pub(crate) fn peer_down(&mut self, peer: &PeerId) {
        self.schedule.peer_down(peer, &mut self.peers);
        self.peers.remove(peer);
        if self.leader.as_ref().is_some_and(|leader| leader.peer == *peer) {
            self.leader = None;
        }
    }

    /// The peer's chain reaches this high.
    pub(crate) fn reaches(&mut self, peer: &PeerId, height: u64) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.height = peer.height.max(height);
            peer.lacks = None;
        }
    }

    /// The peer has a block that we do not have, nor its parent.
    pub(crate) fn claimed(&mut self, peer: &PeerId, block: Checkpoint) {
        if self.bad.contains(&block.id) || block.id == self.head.id {
            return;
        }
        self.reaches(peer, block.height);
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.claim = Some(block);
            peer.deferred = false;
        }
    }

    /// Asks everyone for news, one after another.
    pub(crate) fn challenge_all(&mut self) {
        for peer in self.peers.values_mut() {
            peer.probe = true;
        }
    }

    /// A checked header whose parent stands in the window.
    pub(crate) fn announced(&mut self, peer: PeerId, header: &Header) {
        let window = &mut self.schedule.window;
        let extends = window.last().is_some_and(|last| last.id == header.parent);
        if extends && window.len() < HEADER_WINDOW_MAX && self.peers.contains_key(&peer) {
            window.push(header.clone(), peer);
        } else {
            self.claimed(&peer, Checkpoint { height: header.height, id: header.id() });
        }
    }

    /// A block of the window that was pushed.
    pub(crate) fn offered(
        &mut self,
        peer: PeerId,
        block: Arc<Block>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.schedule.offered(block, peer, now, &mut self.peers, effects);
    }

    pub(crate) fn head_changed(&mut self, head: Checkpoint) {
        self.head = head;
        self.satisfied(&head.id);
    }

    fn satisfied(&mut self, id: &BlockId) {
        for peer in self.peers.values_mut() {
            if peer.claim.is_some_and(|claim| claim.id == *id) {
                peer.claim = None;
            }
        }
    }

    /// The answer to a headers request.
    pub(crate) fn headers(
        &mut self,
        request: RequestId,
        headers: Vec<Header>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.open_request() == Some(request))
        else {
            return;
        };
        let peer = leader.peer;
        if headers.is_empty() {
            leader.ask = Ask::Nothing;
            leader.done = true;
            return self.nothing_new(&peer, now);
        }
        let consistent = headers
            .windows(2)
            .all(|pair| pair[1].height == pair[0].height.wrapping_add(1) && pair[1].slot > pair[0].slot);
        let moves_on =
            leader.cursor.is_none_or(|cursor| headers.last().is_some_and(|h| h.height > cursor.height));
        let offence = match () {
            () if headers.len() > HEADERS_PER_ANSWER_MAX || !moves_on => Some(Offence::Unrequested),
            () if !consistent || headers.iter().any(|header| self.bad.contains(&header.id())) => {
                Some(Offence::InvalidChain)
            }
            () => None,
        };
        if let Some(what) = offence {
            effects.push(Effect::Offence { peer, what });
            return self.fail_leader(now);
        }
        leader.ask = Ask::Checking { request, headers: headers.clone() };
        effects.push(Effect::CheckHeaders { request, peer, headers });
    }

    /// What the chain says of them. Answers the blocks that are new in the window.
    pub(crate) fn headers_checked(
        &mut self,
        request: RequestId,
        verdict: HeadersVerdict,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Vec<BlockId> {
        let Some(leader) = self.leader.as_mut() else { return Vec::new() };
        let Ask::Checking { request: checking, headers } = &mut leader.ask else { return Vec::new() };
        if *checking != request {
            return Vec::new();
        }
        let (peer, mut headers) = (leader.peer, std::mem::take(headers));
        leader.ask = Ask::Nothing;
        match verdict {
            HeadersVerdict::Good { known, ahead: 0 } => return self.follow(peer, headers, known, now),
            HeadersVerdict::Good { known, ahead } => {
                leader.done = true;
                let last = headers.last().map(|last| Checkpoint { height: last.height, id: last.id() });
                headers.truncate(headers.len().saturating_sub(ahead));
                let added = self.follow(peer, headers, known, now);
                if let Some(peer) = self.peers.get_mut(&peer) {
                    // As long as there is something ahead, we are not in step.
                    peer.claim = last;
                    peer.probe = false;
                    peer.leading.pause(now, AHEAD_PAUSE);
                }
                return added;
            }
            HeadersVerdict::Ignore => {
                leader.done = true;
                self.nothing_new(&peer, now);
            }
            HeadersVerdict::UnknownParent | HeadersVerdict::Invalid => {
                let invalid = verdict == HeadersVerdict::Invalid;
                let what = if invalid { Offence::InvalidChain } else { Offence::Unrequested };
                effects.push(Effect::Offence { peer, what });
                self.fail_leader(now);
            }
        }
        Vec::new()
    }

    fn nothing_new(&mut self, peer: &PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.claim = None;
            peer.probe = false;
            peer.leading.pause(now, NOTHING_NEW_PAUSE);
        }
    }

    fn fail_leader(&mut self, now: Instant) {
        if let Some(leader) = self.leader.take()
            && let Some(peer) = self.peers.get_mut(&leader.peer)
        {
            peer.probe = false;
            peer.leading.fail(now, LEADER_BACKOFF_MIN, LEADER_BACKOFF_MAX);
        }
    }

    /// Puts checked headers of the leader into the window.
    fn follow(&mut self, from: PeerId, headers: Vec<Header>, known: usize, now: Instant) -> Vec<BlockId> {
        let full = headers.len() == HEADERS_PER_ANSWER_MAX;
        let Some(tip) = headers.last().map(|last| Checkpoint { height: last.height, id: last.id() }) else {
            return Vec::new();
        };
        let window = &self.schedule.window;
        // Headers connect, so all before one that is in the window are its ancestors.
        let seen = headers.iter().rposition(|header| window.contains(&header.id())).map_or(0, |at| at + 1);
        let new: Vec<Header> = headers.into_iter().skip(known.max(seen)).collect();
        let (mut deferred, mut added) = (false, Vec::new());
        if let Some(first) = new.first() {
            let fork = window.position(&first.parent).map_or(0, |at| at + 1);
            // Another chain than the one being fetched waits until that is done with: a tall claim must not
            // be able to interrupt it.
            deferred = fork < window.len();
            if !deferred {
                if self.schedule.window.is_empty() {
                    self.forget_lacks();
                }
                for header in new {
                    added.push(header.id());
                    self.schedule.window.push(header, from);
                }
            }
        }
        let covered = self.covers(&tip.id);
        if let Some(leader) = &mut self.leader {
            leader.cursor = Some(tip);
            leader.done = !full || deferred;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return added };
        peer.probe = false;
        peer.deferred = deferred;
        peer.height = peer.height.max(tip.height);
        if full {
            // More follows: what it claims stands above this.
            peer.claim = peer.claim.or(Some(tip));
        } else if deferred || covered {
            peer.claim = Some(tip);
        } else {
            self.nothing_new(&from, now);
        }
        added
    }

    /// Drops the window from a position on: another chain, or none.
    fn cut(&mut self, at: usize, effects: &mut Vec<Effect>) {
        self.schedule.cut(at, &mut self.peers, effects);
        self.forget_lacks();
    }

    /// What a peer lacks, it lacks of the chain in the window.
    fn forget_lacks(&mut self) {
        for peer in self.peers.values_mut() {
            peer.lacks = None;
        }
    }

    pub(crate) fn fetched(
        &mut self,
        request: RequestId,
        block: Received,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.schedule.fetched(request, block, now, &mut self.peers, effects);
    }

    pub(crate) fn ended(&mut self, request: RequestId, end: RequestEnd, now: Instant) {
        if self.leader.as_ref().is_some_and(|leader| leader.open_request() == Some(request)) {
            // An answer without its frame. A busy peer is asked again later, like a broken one.
            self.fail_leader(now);
        } else {
            self.schedule.ended(request, end, now, &mut self.peers);
        }
    }

    /// Import has dealt with a block, whoever handed it over. True if chain sync did.
    pub(crate) fn imported(
        &mut self,
        id: BlockId,
        outcome: ImportOutcome,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let ours = self.schedule.confirmed(&id);
        let slot = self.schedule.window.position(&id);
        let from = slot.and_then(|at| self.schedule.window.slot(at)).map(|slot| slot.from);
        match outcome {
            ImportOutcome::Stored => {
                self.satisfied(&id);
                if let Some(peer) = from.and_then(|from| self.peers.get_mut(&from)) {
                    peer.leading.succeed();
                }
                self.schedule.imported(&id, &mut self.peers, effects);
            }
            ImportOutcome::Invalid => {
                self.bad.insert(id);
                self.satisfied(&id);
                if let (Some(at), Some(from)) = (slot, from) {
                    self.cut(at, effects);
                    effects.push(Effect::Offence { peer: from, what: Offence::InvalidChain });
                    self.give_up_on(&from, now, effects);
                }
            }
            ImportOutcome::Failed => {
                if let Some(at) = slot {
                    self.cut(at, effects);
                    self.dismiss_leader(effects);
                    self.paused_until = Some(now + IMPORT_FAILED_PAUSE);
                }
            }
        }
        ours
    }

    /// A peer's chain turned out to be of no use.
    fn give_up_on(&mut self, from: &PeerId, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.leading.fail(now, LEADER_BACKOFF_MIN, LEADER_BACKOFF_MAX);
        }
        self.dismiss_leader(effects);
    }

    fn dismiss_leader(&mut self, effects: &mut Vec<Effect>) {
        if let Some(request) = self.leader.take().and_then(|leader| leader.open_request()) {
            effects.push(Effect::Cancel { request });
        }
    }

    pub(crate) fn pump(&mut self, now: Instant, next_request: &mut u64, effects: &mut Vec<Effect>) {
        self.schedule.hand_over(effects);
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        self.paused_until = None;
        self.check_front(now, effects);
        self.lead(now, next_request, effects);
        self.schedule.pump(now, &mut self.peers, next_request, effects);
    }

    /// Keeps a leader and asks it for more headers while the window has room.
    fn lead(&mut self, now: Instant, next_request: &mut u64, effects: &mut Vec<Effect>) {
        if let Some(Leader { ask: Ask::Asked { request, until }, .. }) = self.leader
            && now >= until
        {
            effects.push(Effect::Cancel { request });
            self.fail_leader(now);
        }
        if self.schedule.window.is_empty() {
            for peer in self.peers.values_mut() {
                peer.deferred = false;
            }
            self.leader = self.leader.take().filter(|leader| !leader.done);
        }
        if self.leader.as_ref().is_none_or(|leader| leader.done)
            && let Some(peer) = self.next_leader(now)
        {
            self.leader = Some(Leader::new(peer));
        }
        let window = &self.schedule.window;
        let room = window.len() + HEADERS_PER_ANSWER_MAX <= HEADER_WINDOW_MAX;
        let Some(leader) = self.leader.as_mut().filter(|leader| room && !leader.done) else { return };
        if matches!(leader.ask, Ask::Nothing) {
            *next_request += 1;
            let request = RequestId(*next_request);
            let mut after: Vec<BlockId> = leader.cursor.iter().map(|cursor| cursor.id).collect();
            after.extend(window.locator());
            after.dedup();
            leader.ask = Ask::Asked { request, until: now + HEADERS_TIMEOUT };
            effects.push(Effect::RequestHeaders { peer: leader.peer, request, after });
        }
    }

    /// What a peer would be followed for: height of a block that is not on the way.
    fn prospect(&self, peer: &SyncPeer) -> Option<u64> {
        let window = &self.schedule.window;
        let probe = peer.probe.then_some(self.head.height + 1).filter(|_| window.is_empty());
        let claim = peer.claim.filter(|claim| !window.contains(&claim.id) && !peer.deferred);
        let claim = claim.filter(|claim| window.last().is_none_or(|last| claim.height > last.height));
        claim.map(|claim| claim.height).or(probe)
    }

    /// Fewest failures first, then outbound: an attacker can fill our inbound side with tall claims. Then
    /// the tallest claim, then the shortest way.
    fn next_leader(&self, now: Instant) -> Option<PeerId> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.leading.is_over(now))
            .filter_map(|(id, peer)| Some((id, peer, self.prospect(peer)?)))
            .max_by_key(|(id, peer, height)| {
                (Reverse(peer.leading.failures()), peer.outbound, *height, Reverse(peer.rtt), Reverse(**id))
            })
            .map(|(id, ..)| *id)
    }

    /// Another chain is claimed than the one in the window.
    fn has_alternative(&self, now: Instant) -> bool {
        let elsewhere = |peer: &SyncPeer| {
            peer.claim.is_some_and(|claim| !self.covers(&claim.id)) && peer.leading.is_over(now)
        };
        self.peers.values().any(elsewhere)
    }

    /// Moves the front's deadline when another block is at the front: by the time that block may take, never beyond
    /// [`DEAD_END_PATIENCE`] from now, so that a trickle of blocks does not hold us for ever.
    fn watch_front(&mut self, now: Instant) {
        let Some((_, slot)) = self.schedule.window.front_wanted() else {
            self.front = None;
            return;
        };
        let id = slot.header.id();
        if self.front.is_some_and(|(front, _)| front == id) {
            return;
        }
        let bytes_ms = u64::from(slot.header.body_bytes) * 1000 / FLOOR_BYTES_PER_SECOND;
        let time = Duration::from_millis(bytes_ms) + FLOOR_BLOCK_TIME;
        let most = now + DEAD_END_PATIENCE + time;
        let running = self.front.filter(|_| self.has_alternative(now));
        self.front = Some((id, running.map_or(most, |(_, until)| most.min(until.max(now) + time))));
    }

    /// Gives up a chain whose next body nobody has, or nobody sends while there is another chain to look at.
    fn check_front(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.watch_front(now);
        let Some((at, slot)) = self.schedule.window.front_wanted() else { return };
        let (height, from) = (slot.header.height, slot.from);
        let somebody = self.peers.values().any(|peer| peer.may_have(height));
        let patient = self.front.is_none_or(|(_, until)| now < until) || !self.has_alternative(now);
        if somebody && patient {
            return;
        }
        // Who served the header and ended the answer without the body misled us; who is silent may be in trouble.
        if self.peers.get(&from).is_some_and(|peer| peer.lacks.is_some_and(|lacks| lacks <= height)) {
            effects.push(Effect::Offence { peer: from, what: Offence::BodiesWithheld });
        }
        self.cut(at, effects);
        self.front = None;
        self.give_up_on(&from, now, effects);
    }

    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.paused_until.is_some() {
            return self.paused_until;
        }
        let headers = self.leader.as_ref().and_then(|leader| match leader.ask {
            Ask::Asked { until, .. } => Some(until),
            Ask::Nothing | Ask::Checking { .. } => None,
        });
        let leaders = self.peers.values().filter(|peer| peer.claim.is_some() || peer.probe);
        let leaders = leaders.filter_map(|peer| peer.leading.pending(now)).min();
        let front =
            self.front.map(|(_, until)| until).filter(|until| *until > now || self.has_alternative(now));
        let bodies = self.schedule.next_deadline(now, &self.peers);
        [headers, leaders, front, bodies].into_iter().flatten().min()
    }
}

//! Which bodies are asked of whom.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::StreamType;
use ghost_proto::{Block, BlockId, PeerId, limits::BODIES_PER_REQUEST_MAX};

use super::{
    io::{Effect, Offence, RequestEnd, RequestId},
    peer::SyncPeer,
    serve::ANSWER_BYTES_MAX,
    window::{Body, Slot, Window},
};
use crate::block::{
    Received,
    fetch::{PROGRESS_BYTES_MIN, stall_limit},
};

/// Most blocks in one request.
pub const BATCH_BLOCKS_MAX: usize = BODIES_PER_REQUEST_MAX;

/// Work in one request, by the peer's rate: long enough that a round trip between two batches is
/// hidden by the second one in flight, short enough that a slow peer holds little.
const BATCH_TIME: Duration = Duration::from_millis(500);

/// First batch of a peer whose rate is not known.
const FIRST_BATCH_BLOCKS: usize = 16;
const FIRST_BATCH_BYTES: usize = 64 * 1024;

/// Requests in flight to one peer: two, so that its link never idles; three while the number of blocks and not
/// their bytes cuts the batches. A fourth is left for headers of the four a peer serves at a time.
const REQUESTS_PER_PEER: usize = 2;
const REQUESTS_PER_PEER_OF_SMALL: usize = 3;

/// Most blocks handed to import and not confirmed: enough to keep it busy over a turn of the shell.
pub const IMPORTS_MAX: usize = 64;

/// Most bytes of those, or one block if that is larger.
pub const IMPORT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Shortest silence, in a request for bodies, after which it is given up; a body adds the time it takes at
/// 64 KiB/s.
pub const STALL_MIN: Duration = Duration::from_secs(4);

/// A block is taken over if its holder needs this many times as long as the idle peer would …
const SLOWER_BY: u32 = 2;
/// … and this much longer: the jitter of a wide-area path.
const SLOWER_THAN: Duration = Duration::from_millis(50);

/// Slots looked at for blocks to take over: as far as one batch reaches, four times.
const TAKE_OVER_REACH: usize = 4 * BATCH_BLOCKS_MAX;

#[derive(Debug)]
struct Wanted {
    id: BlockId,
    height: u64,
    bytes: usize,
}

#[derive(Debug)]
struct BodyRequest {
    peer: PeerId,
    /// As sent.
    ids: Vec<BlockId>,
    /// What is still to come, in the order asked for.
    wanted: VecDeque<Wanted>,
    sent: Instant,
    /// Last sign of progress.
    mark: Instant,
    bytes_seen: u64,
    answering: bool,
    cut_by_count: bool,
}

impl BodyRequest {
    fn gives_up_at(&self) -> Instant {
        self.mark + stall_limit(self.wanted.front().map_or(0, |next| next.bytes as u32))
    }
}

/// How much a batch may hold.
#[derive(Debug, Clone, Copy)]
struct Budget {
    blocks: usize,
    bytes: usize,
}

impl Budget {
    fn of(peer: &SyncPeer) -> Self {
        match peer.rate() {
            None => Self { blocks: FIRST_BATCH_BLOCKS, bytes: FIRST_BATCH_BYTES },
            Some(rate) => Self {
                blocks: BATCH_BLOCKS_MAX,
                bytes: ((rate * BATCH_TIME.as_secs_f64()) as usize).min(ANSWER_BYTES_MAX),
            },
        }
    }

    /// The first block is always allowed.
    fn admits(&self, blocks: usize, bytes: usize, next: usize) -> bool {
        blocks == 0 || (blocks < self.blocks && bytes + next <= self.bytes)
    }
}

/// The moving window of bodies and the requests that fill it.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    pub(crate) window: Window,
    requests: BTreeMap<RequestId, BodyRequest>,
    handed: BTreeMap<BlockId, usize>,
    handed_bytes: usize,
    /// When a holder that was fast enough until now is too slow.
    recheck_at: Option<Instant>,
}

type Peers = BTreeMap<PeerId, SyncPeer>;

impl Schedule {
    pub(crate) fn peers_serving(&self, peers: &Peers) -> usize {
        peers.values().filter(|peer| !peer.requests.is_empty()).count()
    }

    /// Hands blocks to import, in order, as far as it keeps up.
    pub(crate) fn hand_over(&mut self, effects: &mut Vec<Effect>) {
        while self.handed.len() < IMPORTS_MAX
            && (self.handed.is_empty() || self.handed_bytes < IMPORT_BYTES_MAX)
            && let Some((block, from)) = self.window.hand_over()
        {
            let bytes = block.header().body_bytes as usize;
            self.handed.insert(block.header().id(), bytes);
            self.handed_bytes += bytes;
            effects.push(Effect::Import { block, from });
        }
    }

    /// Import has dealt with a block. True if it came from here.
    pub(crate) fn confirmed(&mut self, id: &BlockId) -> bool {
        let bytes = self.handed.remove(id);
        self.handed_bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }

    /// A block is part of the chain now, by whatever way it came.
    pub(crate) fn imported(&mut self, id: &BlockId, peers: &mut Peers, effects: &mut Vec<Effect>) {
        let holders = match self.window.position(id).and_then(|at| self.window.slot(at)) {
            Some(Slot { body: Body::Wanted(holders), .. }) => holders.clone(),
            Some(_) => Vec::new(),
            None => return,
        };
        self.window.imported(id);
        for request in holders {
            self.no_longer_wanted(request, |wanted| wanted.id == *id, peers, effects);
        }
    }

    /// Drops the window from a position on, and the requests for what stood there.
    pub(crate) fn cut(&mut self, at: usize, peers: &mut Peers, effects: &mut Vec<Effect>) {
        self.window.truncate(at);
        for request in self.requests.keys().copied().collect::<Vec<_>>() {
            let window = std::mem::take(&mut self.window);
            self.no_longer_wanted(request, |wanted| !window.contains(&wanted.id), peers, effects);
            self.window = window;
        }
    }

    fn no_longer_wanted(
        &mut self,
        request: RequestId,
        gone: impl Fn(&Wanted) -> bool,
        peers: &mut Peers,
        effects: &mut Vec<Effect>,
    ) {
        let Some(open) = self.requests.get_mut(&request) else { return };
        open.wanted.retain(|wanted| !gone(wanted));
        if open.wanted.is_empty() {
            effects.push(Effect::Cancel { request });
            self.close(request, peers);
        }
    }

    /// Forgets a request; what it still wanted is free again.
    fn close(&mut self, request: RequestId, peers: &mut Peers) -> Option<BodyRequest> {
        let open = self.requests.remove(&request)?;
        for wanted in &open.wanted {
            self.window.release(&wanted.id, request);
        }
        if let Some(peer) = peers.get_mut(&open.peer) {
            peer.requests.retain(|other| *other != request);
            peer.finished();
        }
        Some(open)
    }

    /// Cancels every request to a peer.
    fn close_all(&mut self, peer: &PeerId, peers: &mut Peers, effects: &mut Vec<Effect>) {
        for request in peers.get(peer).map(|peer| peer.requests.clone()).unwrap_or_default() {
            effects.push(Effect::Cancel { request });
            self.close(request, peers);
        }
    }

    /// Frees what the peer held. To be called while the peer is still in `peers`.
    pub(crate) fn peer_down(&mut self, peer: &PeerId, peers: &mut Peers) {
        self.close_all(peer, peers, &mut Vec::new());
    }

    /// One frame of an answer.
    pub(crate) fn fetched(
        &mut self,
        request: RequestId,
        received: Received,
        now: Instant,
        peers: &mut Peers,
        effects: &mut Vec<Effect>,
    ) {
        let Some(open) = self.requests.get_mut(&request) else { return };
        let from = open.peer;
        let Some(peer) = peers.get_mut(&from) else { return };
        let id = received.id();
        let Received::Matching(block) = received else {
            peer.barred = true;
            effects.push(Effect::Offence { peer: from, what: Offence::MutatedBody });
            return self.close_all(&from, peers, effects);
        };
        if !open.ids.contains(&id) {
            peer.fail(now);
            effects.push(Effect::Offence { peer: from, what: Offence::Unrequested });
            effects.push(Effect::Cancel { request });
            self.close(request, peers);
            return;
        }
        (open.mark, open.answering, open.bytes_seen) = (now, true, 0);
        peer.delivered(block.header().body_bytes as usize + block.header().bytes().len(), open.sent, now);
        // Absent if another peer was faster, or the window has moved.
        if let Some(at) = open.wanted.iter().position(|wanted| wanted.id == id) {
            for left_out in open.wanted.drain(..at) {
                peer.lacks = Some(peer.lacks.map_or(left_out.height, |lacks| lacks.min(left_out.height)));
                self.window.release(&left_out.id, request);
            }
            open.wanted.pop_front();
        }
        if open.wanted.is_empty() {
            peer.slow.succeed();
            self.close(request, peers);
        }
        self.fill(block, from, Some(request), now, peers, effects);
    }

    /// A block that came another way.
    pub(crate) fn offered(
        &mut self,
        block: Arc<Block>,
        from: PeerId,
        now: Instant,
        peers: &mut Peers,
        effects: &mut Vec<Effect>,
    ) {
        self.fill(block, from, None, now, peers, effects);
    }

    fn fill(
        &mut self,
        block: Arc<Block>,
        from: PeerId,
        by: Option<RequestId>,
        now: Instant,
        peers: &mut Peers,
        effects: &mut Vec<Effect>,
    ) {
        let id = block.header().id();
        for other in self.window.fill(block, from).unwrap_or_default() {
            if Some(other) != by {
                self.lost_race(other, &id, by.is_some(), now, peers, effects);
            }
        }
    }

    /// Another peer delivered a block first. Who was at work on exactly that one loses its request.
    fn lost_race(
        &mut self,
        request: RequestId,
        id: &BlockId,
        blame: bool,
        now: Instant,
        peers: &mut Peers,
        effects: &mut Vec<Effect>,
    ) {
        let Some(open) = self.requests.get_mut(&request) else { return };
        if open.wanted.front().is_none_or(|next| next.id != *id) || !blame {
            return self.no_longer_wanted(request, |wanted| wanted.id == *id, peers, effects);
        }
        let bytes = open.wanted.pop_front().map_or(0, |lost| lost.bytes);
        effects.push(Effect::Cancel { request });
        let Some(closed) = self.close(request, peers) else { return };
        if let Some(peer) = peers.get_mut(&closed.peer) {
            peer.lost_race(bytes, now.saturating_duration_since(closed.mark), now);
        }
    }

    pub(crate) fn progress(&mut self, request: RequestId, total: u64, now: Instant) {
        if let Some(open) = self.requests.get_mut(&request)
            && total >= open.bytes_seen + PROGRESS_BYTES_MIN
        {
            (open.mark, open.bytes_seen) = (now, total);
        }
    }

    /// The answer ended with blocks missing. True if it was to be complete: then the peer does not have them.
    pub(crate) fn ended(&mut self, request: RequestId, end: RequestEnd, now: Instant, peers: &mut Peers) {
        let Some(open) = self.close(request, peers) else { return };
        let Some(peer) = peers.get_mut(&open.peer) else { return };
        if let (RequestEnd::Done, Some(first)) = (end, open.wanted.front()) {
            peer.lacks = Some(peer.lacks.map_or(first.height, |lacks| lacks.min(first.height)));
            if open.answering {
                return;
            }
        }
        peer.fail(now);
    }

    /// Gives up requests without progress and asks for what is free.
    pub(crate) fn pump(
        &mut self,
        now: Instant,
        peers: &mut Peers,
        next_request: &mut u64,
        effects: &mut Vec<Effect>,
    ) {
        let stalled = self.requests.iter().filter(|(_, open)| now >= open.gives_up_at());
        for (request, peer) in stalled.map(|(request, open)| (*request, open.peer)).collect::<Vec<_>>() {
            effects.push(Effect::Cancel { request });
            self.close(request, peers);
            if let Some(peer) = peers.get_mut(&peer) {
                peer.fail(now);
            }
        }
        self.recheck_at = None;
        let Some(needed) = self.window.free_slots().next().or(self.window.front_wanted()) else { return };
        let needed = needed.1.header.height;
        let rested = |peer: &SyncPeer| peer.slow.is_over(now) && peer.failing.is_over(now);
        let others_can = peers.values().any(|peer| rested(peer) && peer.may_have(needed));
        let mut order: Vec<PeerId> = peers
            .iter()
            .filter(|(_, peer)| peer.failing.is_over(now) && (peer.slow.is_over(now) || !others_can))
            .filter(|(_, peer)| self.has_room(peer))
            .map(|(peer, _)| *peer)
            .collect();
        order.sort_by(|a, b| {
            let (left, right) = (&peers[a], &peers[b]);
            right
                .rate_or_guess()
                .total_cmp(&left.rate_or_guess())
                .then(left.rtt.cmp(&right.rtt))
                .then(a.cmp(b))
        });
        for peer in order {
            let budget = Budget::of(&peers[&peer]);
            let mut picks = Vec::new();
            if self.handed.is_empty() {
                // Import has nothing to do: what it waits for comes before what it will want.
                picks = self.take_over(&peer, budget, 1, now, peers);
            }
            if picks.is_empty() {
                picks = self.free(&peers[&peer], budget);
            }
            if picks.is_empty() {
                picks = self.take_over(&peer, budget, TAKE_OVER_REACH, now, peers);
            }
            if !picks.is_empty() {
                self.ask(peer, &picks, budget, now, peers, next_request, effects);
            }
        }
    }

    fn has_room(&self, peer: &SyncPeer) -> bool {
        let open = || peer.requests.iter().filter_map(|request| self.requests.get(request));
        match peer.requests.len() {
            0 => true,
            // A second batch goes to who has shown that it answers the first.
            count if count < REQUESTS_PER_PEER => open().all(|open| open.answering),
            count => count < REQUESTS_PER_PEER_OF_SMALL && open().all(|open| open.cut_by_count),
        }
    }

    fn free(&self, peer: &SyncPeer, budget: Budget) -> Vec<usize> {
        let (mut picks, mut bytes) = (Vec::new(), 0);
        for (at, slot) in self.window.free_slots() {
            if !peer.may_have(slot.header.height) || !budget.admits(picks.len(), bytes, slot.bytes()) {
                break;
            }
            bytes += slot.bytes();
            picks.push(at);
        }
        picks
    }

    /// Blocks at the front, within `reach` wanted slots, that this peer would deliver much earlier than who holds them.
    fn take_over(
        &mut self,
        peer_id: &PeerId,
        budget: Budget,
        reach: usize,
        now: Instant,
        peers: &Peers,
    ) -> Vec<usize> {
        let peer = &peers[peer_id];
        let queued: usize = peer
            .requests
            .iter()
            .filter_map(|request| self.requests.get(request))
            .flat_map(|open| open.wanted.iter().map(|wanted| wanted.bytes))
            .sum();
        let (mut picks, mut bytes) = (Vec::new(), 0);
        let mut ahead: BTreeMap<RequestId, usize> = BTreeMap::new();
        for (at, slot) in self.window.wanted_slots().take(reach) {
            let Body::Wanted(holders) = &slot.body else { continue };
            let [holder] = holders.as_slice() else { continue };
            let Some(open) = self.requests.get(holder) else { continue };
            let ahead = ahead.entry(*holder).or_default();
            *ahead += slot.bytes();
            if open.peer == *peer_id || !peer.may_have(slot.header.height) {
                continue;
            }
            if !budget.admits(picks.len(), bytes, slot.bytes()) {
                break;
            }
            let mine = peer.time_for(queued + bytes + slot.bytes()) * SLOWER_BY + SLOWER_THAN;
            let age = now.saturating_duration_since(open.mark);
            // What is overdue, or was never timed, is expected to take as long again as it has taken.
            let timed = peers.get(&open.peer).filter(|holder| holder.rate().is_some());
            let due = timed.map_or(Duration::ZERO, |holder| holder.time_for(*ahead));
            let left = due.checked_sub(age).unwrap_or(age);
            if left > mine {
                bytes += slot.bytes();
                picks.push(at);
            } else if picks.is_empty() {
                let check = open.mark + due.max(mine) + Duration::from_millis(1);
                self.recheck_at = Some(self.recheck_at.map_or(check, |at| at.min(check)));
            }
        }
        picks
    }

    #[allow(clippy::too_many_arguments)]
    fn ask(
        &mut self,
        peer: PeerId,
        picks: &[usize],
        budget: Budget,
        now: Instant,
        peers: &mut Peers,
        next_request: &mut u64,
        effects: &mut Vec<Effect>,
    ) {
        *next_request += 1;
        let request = RequestId(*next_request);
        let mut wanted = VecDeque::with_capacity(picks.len());
        for at in picks {
            let Some(slot) = self.window.slot(*at) else { continue };
            wanted.push_back(Wanted {
                id: slot.header.id(),
                height: slot.header.height,
                bytes: slot.bytes(),
            });
            self.window.hold(*at, request);
        }
        let ids: Vec<BlockId> = wanted.iter().map(|wanted| wanted.id).collect();
        if let Some(peer) = peers.get_mut(&peer) {
            peer.requests.push(request);
        }
        let open = BodyRequest {
            peer,
            ids: ids.clone(),
            wanted,
            sent: now,
            mark: now,
            bytes_seen: 0,
            answering: false,
            cut_by_count: ids.len() == budget.blocks && budget.blocks == BATCH_BLOCKS_MAX,
        };
        self.requests.insert(request, open);
        effects.push(Effect::RequestBlocks { peer, request, stream: StreamType::Sync, ids });
    }

    pub(crate) fn next_deadline(&self, now: Instant, peers: &Peers) -> Option<Instant> {
        let stalls = self.requests.values().map(BodyRequest::gives_up_at);
        let wanted = self.window.front_wanted().is_some();
        let pauses = peers
            .values()
            .filter(|_| wanted)
            .flat_map(|peer| peer.failing.pending(now).into_iter().chain(peer.slow.pending(now)));
        stalls.chain(pauses).chain(self.recheck_at).min()
    }
}

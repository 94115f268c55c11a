//! Who is asked for an announced block, and when the next one is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::StreamType;
use ghost_proto::{BlockId, Header, PeerId};

use crate::sync::{Effect, RequestId, STALL_MIN};

/// Silence after which a second source is asked in parallel. Far above the round trips of the open
/// internet (median 100 ms, worst about 600 ms), so that honest peers rarely cause a second copy, and
/// within the slots of common chains.
pub const SECOND_SOURCE_AFTER: Duration = Duration::from_secs(1);

/// Most sources asked for one block at the same time. Three copies is the price of two silent peers.
pub const SOURCES_IN_PARALLEL_MAX: usize = 3;

/// Most requests in flight to one peer: half of the eight a peer serves at a time.
pub const FETCHES_PER_PEER_MAX: usize = 4;

/// Pause before a source that failed is asked for the same block again; doubles up to eight times that.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_DOUBLINGS_MAX: u32 = 3;

/// Bytes that count as progress. A peer that trickles less than this each second is asked beside another.
pub const PROGRESS_BYTES_MIN: u64 = 64 * 1024;

/// Slowest delivery that is waited for: as for half-sent frames, 64 KiB/s.
pub(crate) const FLOOR_BYTES_PER_SECOND: u64 = 64 * 1024;

/// How long a request for a body may stay without progress before it is given up.
pub(crate) fn stall_limit(body_bytes: u32) -> Duration {
    STALL_MIN + Duration::from_millis(u64::from(body_bytes) * 1000 / FLOOR_BYTES_PER_SECOND)
}

#[derive(Debug)]
enum Turn {
    Ready { from: Instant },
    Asked { request: RequestId, mark: Instant, bytes: u64 },
}

#[derive(Debug)]
struct Source {
    peer: PeerId,
    turn: Turn,
    failures: u32,
}

impl Source {
    fn fail(&mut self, now: Instant) {
        let pause = RETRY_AFTER * (1 << self.failures.min(RETRY_DOUBLINGS_MAX));
        self.failures += 1;
        self.turn = Turn::Ready { from: now + pause };
    }

    fn mark(&self) -> Option<Instant> {
        match self.turn {
            Turn::Asked { mark, .. } => Some(mark),
            Turn::Ready { .. } => None,
        }
    }
}

/// One wanted block. Sources stand in the order they announced it.
#[derive(Debug)]
struct Fetch {
    header: Header,
    sources: Vec<Source>,
}

impl Fetch {
    fn in_flight(&self) -> impl Iterator<Item = Instant> + '_ {
        self.sources.iter().filter_map(Source::mark)
    }

    /// When a source may be asked next, if any may.
    fn next_ask_at(&self, may_ask: impl Fn(&PeerId) -> bool) -> Option<Instant> {
        if self.in_flight().count() >= SOURCES_IN_PARALLEL_MAX {
            return None;
        }
        let ready = self.sources.iter().filter(|source| may_ask(&source.peer));
        let ready = ready.filter_map(|source| match source.turn {
            Turn::Ready { from } => Some(from),
            Turn::Asked { .. } => None,
        });
        let ready = ready.min()?;
        Some(self.in_flight().max().map_or(ready, |mark| ready.max(mark + SECOND_SOURCE_AFTER)))
    }

    fn source(&mut self, peer: &PeerId) -> Option<&mut Source> {
        self.sources.iter_mut().find(|source| source.peer == *peer)
    }
}

/// The request tracker of announced blocks.
///
/// The first announcer is asked at once. After [`SECOND_SOURCE_AFTER`] without progress the next one is asked in
/// parallel, up to [`SOURCES_IN_PARALLEL_MAX`]. A source that fails is asked again after a pause: a wanted
/// block is given up only when no announcer is left. A source that sends a false body is not asked
/// for that block again, and the block stays wanted.
///
/// Bounds: [`super::relay::ANNOUNCED_PER_PEER_MAX`] blocks for each peer (kept by the relay).
#[derive(Debug, Default)]
pub(crate) struct FetchTracker {
    wanted: BTreeMap<BlockId, Fetch>,
    requests: BTreeMap<RequestId, (BlockId, PeerId)>,
}

impl FetchTracker {
    pub(crate) fn header(&self, id: &BlockId) -> Option<&Header> {
        self.wanted.get(id).map(|fetch| &fetch.header)
    }

    pub(crate) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Blocks whose parent is `parent`.
    pub(crate) fn children_of(&self, parent: &BlockId) -> Vec<BlockId> {
        let children = self.wanted.iter().filter(|(_, fetch)| fetch.header.parent == *parent);
        children.map(|(id, _)| *id).collect()
    }

    /// Another source of a block, wanted from now on if it was not.
    pub(crate) fn announced(&mut self, peer: PeerId, header: &Header, now: Instant) {
        let fetch = self
            .wanted
            .entry(header.id())
            .or_insert_with(|| Fetch { header: header.clone(), sources: Vec::new() });
        if fetch.source(&peer).is_none() {
            fetch.sources.push(Source { peer, turn: Turn::Ready { from: now }, failures: 0 });
        }
    }

    /// Asks whoever is to be asked by now, and gives up requests without progress.
    pub(crate) fn pump(&mut self, now: Instant, next_request: &mut u64, effects: &mut Vec<Effect>) {
        let requests = &mut self.requests;
        for (id, fetch) in &mut self.wanted {
            let limit = stall_limit(fetch.header.body_bytes);
            for source in &mut fetch.sources {
                if let Turn::Asked { request, mark, .. } = source.turn
                    && now >= mark + limit
                {
                    requests.remove(&request);
                    effects.push(Effect::Cancel { request });
                    source.fail(now);
                }
            }
            let may_ask =
                |peer: &PeerId| requests.values().filter(|(_, at)| at == peer).count() < FETCHES_PER_PEER_MAX;
            if fetch.next_ask_at(may_ask).is_none_or(|at| at > now) {
                continue;
            }
            let next = fetch.sources.iter().position(|source| {
                matches!(source.turn, Turn::Ready { from } if from <= now) && may_ask(&source.peer)
            });
            let Some(source) = next.map(|at| &mut fetch.sources[at]) else { continue };
            *next_request += 1;
            let request = RequestId(*next_request);
            source.turn = Turn::Asked { request, mark: now, bytes: 0 };
            requests.insert(request, (*id, source.peer));
            let (peer, stream) = (source.peer, StreamType::BlockFetch);
            effects.push(Effect::RequestBlocks { peer, request, stream, ids: vec![*id] });
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let may_ask = |peer: &PeerId| {
            self.requests.values().filter(|(_, at)| at == peer).count() < FETCHES_PER_PEER_MAX
        };
        let asks = self.wanted.values().filter_map(|fetch| fetch.next_ask_at(may_ask));
        let stalls = self.wanted.values().flat_map(|fetch| {
            let limit = stall_limit(fetch.header.body_bytes);
            fetch.in_flight().map(move |mark| mark + limit)
        });
        asks.chain(stalls).min()
    }

    /// Who was asked for what, if the request is one of ours and still open.
    pub(crate) fn request(&self, request: RequestId) -> Option<(BlockId, PeerId)> {
        self.requests.get(&request).copied()
    }

    pub(crate) fn progress(&mut self, request: RequestId, total: u64, now: Instant) {
        let Some((id, peer)) = self.requests.get(&request) else { return };
        let source = self.wanted.get_mut(id).and_then(|fetch| fetch.source(peer));
        if let Some(Source { turn: Turn::Asked { mark, bytes, .. }, .. }) = source
            && total >= *bytes + PROGRESS_BYTES_MIN
        {
            (*mark, *bytes) = (now, total);
        }
    }

    /// The request ended without the block.
    pub(crate) fn ended(&mut self, request: RequestId, now: Instant) {
        let Some((id, peer)) = self.requests.remove(&request) else { return };
        if let Some(source) = self.wanted.get_mut(&id).and_then(|fetch| fetch.source(&peer)) {
            source.fail(now);
        }
    }

    /// Takes a peer off a block. True if nobody is left to ask.
    pub(crate) fn remove_source(&mut self, id: &BlockId, peer: &PeerId, effects: &mut Vec<Effect>) -> bool {
        let Some(fetch) = self.wanted.get_mut(id) else { return false };
        let Some(at) = fetch.sources.iter().position(|source| source.peer == *peer) else { return false };
        if let Turn::Asked { request, .. } = fetch.sources.remove(at).turn {
            self.requests.remove(&request);
            effects.push(Effect::Cancel { request });
        }
        fetch.sources.is_empty()
    }

    /// The block is here, or no longer wanted: stops every request for it and says who had announced it.
    pub(crate) fn remove(
        &mut self,
        id: &BlockId,
        effects: &mut Vec<Effect>,
    ) -> Option<(Header, Vec<PeerId>)> {
        let fetch = self.wanted.remove(id)?;
        for source in &fetch.sources {
            if let Turn::Asked { request, .. } = source.turn {
                self.requests.remove(&request);
                effects.push(Effect::Cancel { request });
            }
        }
        Some((fetch.header, fetch.sources.into_iter().map(|source| source.peer).collect()))
    }

    /// Forgets a peer. Answers the blocks that nobody is left to ask for.
    pub(crate) fn peer_down(&mut self, peer: &PeerId) -> Vec<BlockId> {
        self.requests.retain(|_, (_, asked)| asked != peer);
        for fetch in self.wanted.values_mut() {
            fetch.sources.retain(|source| source.peer != *peer);
        }
        let left = self.wanted.iter().filter(|(_, fetch)| fetch.sources.is_empty());
        left.map(|(id, _)| *id).collect()
    }
}

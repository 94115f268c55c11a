//! Who is asked for an announced block or what of it is missing, and when the next one is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::{StreamType, compact::PlacedTransaction};
use ghost_proto::{BlockId, Header, PeerId, limits::BLOCK_TXS_MAX};

use super::{
    compact::Found,
    rebuild::{Rebuild, Rebuilt},
};
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

/// Missing bytes for which another announcer is asked in parallel: below, what the second link saves is less
/// than a round trip differs from the next (128 KiB take 10 ms at 100 Mbit/s).
pub const PARALLEL_BYTES_MIN: usize = 128 * 1024;

/// Blocks being put together at one time: an honest chain has one, a fork two.
pub const REBUILDS_MAX: usize = 8;

/// Transactions of those together: 2 × 220,752 slots of 0.3 KiB, 132 MB, what two of the largest blocks take once parsed.
pub const REBUILD_TXS_MAX: usize = 2 * BLOCK_TXS_MAX;

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
    Asked(Asked),
}

#[derive(Debug)]
struct Asked {
    request: RequestId,
    mark: Instant,
    bytes: u64,
    limit: Duration,
    /// Places of the transactions asked for; one entry that means nothing where the block is asked for.
    places: Vec<u32>,
    /// Another source was asked for the same because this one was silent. It may still answer.
    superseded: bool,
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

    fn asked(&self) -> Option<&Asked> {
        match &self.turn {
            Turn::Asked(asked) => Some(asked),
            Turn::Ready { .. } => None,
        }
    }

    fn ready_from(&self) -> Option<Instant> {
        match self.turn {
            Turn::Ready { from } => Some(from),
            Turn::Asked(_) => None,
        }
    }
}

/// How a block is being got.
#[derive(Debug)]
enum Stage {
    /// Nobody has sent its short ids: they are asked for.
    Compact,
    /// The pool is being asked.
    LookUp(Rebuild),
    /// Transactions are asked for by place.
    Missing(Rebuild),
    /// The body is asked for.
    Whole,
}

impl Stage {
    fn rebuild(&self) -> Option<&Rebuild> {
        match self {
            Self::LookUp(rebuild) | Self::Missing(rebuild) => Some(rebuild),
            Self::Compact | Self::Whole => None,
        }
    }

    /// What of `places` is still wanted.
    fn wanted(&self, mut places: Vec<u32>) -> Vec<u32> {
        if let Self::Missing(rebuild) = self {
            places.retain(|place| rebuild.is_missing(*place));
        }
        places
    }
}

/// Where nothing is known of places, the whole is one thing to be asked for.
const THE_WHOLE: u32 = 0;

/// What comes in shards, and until when it is waited for.
#[derive(Debug)]
struct Hold {
    until: Instant,
    places: Vec<u32>,
}

/// One wanted block. Sources stand in the order they announced it.
#[derive(Debug)]
struct Fetch {
    header: Header,
    sources: Vec<Source>,
    stage: Stage,
    /// What nobody is asked for now.
    free: Vec<u32>,
    not_before: Instant,
    told: Instant,
    /// What was put together from short ids was not the block, or hardly any of it was in the pool. Not tried again: each try costs
    /// a pass over the pool.
    whole_only: bool,
    /// What nobody is asked for because it comes in shards.
    hold: Option<Hold>,
}

impl Fetch {
    fn in_flight(&self) -> impl Iterator<Item = &Asked> {
        self.sources.iter().filter_map(Source::asked)
    }

    /// When a source may be asked next, if any may.
    fn next_ask_at(&self, may_ask: impl Fn(&PeerId) -> bool) -> Option<Instant> {
        if matches!(self.stage, Stage::LookUp(_)) || self.in_flight().count() >= SOURCES_IN_PARALLEL_MAX {
            return None;
        }
        let ready = self.sources.iter().filter(|source| may_ask(&source.peer));
        let ready = ready.filter_map(Source::ready_from).min()?.max(self.not_before);
        if !self.free.is_empty() {
            return Some(ready);
        }
        let silent = self.in_flight().filter(|asked| !asked.superseded);
        silent.map(|asked| ready.max(asked.mark + SECOND_SOURCE_AFTER)).min()
    }

    fn source(&mut self, peer: &PeerId) -> Option<&mut Source> {
        self.sources.iter_mut().find(|source| source.peer == *peer)
    }

    /// Nobody is asked for these any more.
    fn give_back(&mut self, asked: Asked) {
        if !asked.superseded {
            self.free.extend(self.stage.wanted(asked.places));
            self.free.sort_unstable();
            self.free.dedup();
        }
    }

    /// What silent sources were asked for is to be had elsewhere.
    fn supersede_silent(&mut self, now: Instant) {
        let mut places = Vec::new();
        for source in &mut self.sources {
            if let Turn::Asked(asked) = &mut source.turn
                && !asked.superseded
                && now >= asked.mark + SECOND_SOURCE_AFTER
            {
                asked.superseded = true;
                places.extend_from_slice(&asked.places);
            }
        }
        self.free.extend(self.stage.wanted(places));
        self.free.sort_unstable();
        self.free.dedup();
    }

    /// Bytes that a request for so many places is expected to bring.
    fn expected_bytes(&self, places: usize) -> usize {
        match &self.stage {
            Stage::Missing(rebuild) => rebuild.missing_bytes() / rebuild.missing_count().max(1) * places,
            _ => self.header.body_bytes as usize,
        }
    }

    /// Cuts what is free into one request for each of at most `sources`.
    fn parts(&mut self, sources: usize) -> Vec<Vec<u32>> {
        let free = std::mem::take(&mut self.free);
        let pays = 1 + self.expected_bytes(free.len()) / PARALLEL_BYTES_MIN;
        let parts = match self.stage {
            Stage::Missing(_) => pays.min(sources),
            _ => 1,
        };
        free.chunks(free.len().div_ceil(parts)).map(<[u32]>::to_vec).collect()
    }

    fn change(&mut self, stage: Stage, free: Vec<u32>) {
        self.stage = stage;
        self.free = free;
        self.hold = None;
    }

    /// What was to come in shards is asked for like everything else.
    fn let_go(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.free.extend(self.stage.wanted(hold.places));
            self.free.sort_unstable();
            self.free.dedup();
        }
    }

    /// Ends all requests: what comes of them is of no use any more.
    fn cancel_all(
        &mut self,
        now: Instant,
        requests: &mut BTreeMap<RequestId, (BlockId, PeerId)>,
        effects: &mut Vec<Effect>,
    ) {
        for source in &mut self.sources {
            if let Some(request) = source.asked().map(|asked| asked.request) {
                requests.remove(&request);
                effects.push(Effect::Cancel { request });
                source.turn = Turn::Ready { from: now };
            }
        }
    }
}

/// What came of transactions for a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More are missing.
    Waiting,
    /// None is.
    Complete,
    /// One was not asked for.
    Unrequested,
}

/// The request tracker of announced blocks.
///
/// The first announcer is asked at once. After [`SECOND_SOURCE_AFTER`] without progress the next one is asked in
/// parallel, up to [`SOURCES_IN_PARALLEL_MAX`]. A source that fails is asked again after a pause: a wanted
/// block is given up only when no announcer is left. A source that sends a false body is not asked
/// for that block again, and the block stays wanted.
///
/// What is asked for depends on what is known: the short ids first, then the transactions that the pool lacks,
/// in parallel from several announcers where they are many; or the body at once.
///
/// Bounds: [`super::relay::ANNOUNCED_PER_PEER_MAX`] blocks for each peer (kept by the relay), [`REBUILDS_MAX`] and
/// [`REBUILD_TXS_MAX`].
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

    /// Another source of a block, wanted from now on if it was not: by its short ids if `compact`. Nobody is asked before `not_before`,
    /// the earliest one counting.
    pub(crate) fn announced(
        &mut self,
        peer: PeerId,
        header: &Header,
        compact: bool,
        not_before: Instant,
        now: Instant,
    ) {
        let fetch = self.wanted.entry(header.id()).or_insert_with(|| Fetch {
            header: header.clone(),
            sources: Vec::new(),
            stage: if compact { Stage::Compact } else { Stage::Whole },
            free: vec![THE_WHOLE],
            not_before,
            told: now,
            whole_only: false,
            hold: None,
        });
        fetch.not_before = fetch.not_before.min(not_before);
        if fetch.source(&peer).is_none() {
            fetch.sources.push(Source { peer, turn: Turn::Ready { from: now }, failures: 0 });
        }
    }

    /// When it was first heard of.
    pub(crate) fn told(&self, id: &BlockId) -> Option<Instant> {
        self.wanted.get(id).map(|fetch| fetch.told)
    }

    /// True if short ids for this block are of use: it is wanted, and neither being put together nor on its way whole.
    pub(crate) fn takes_short_ids(&self, id: &BlockId) -> bool {
        self.wanted.get(id).filter(|fetch| !fetch.whole_only).is_some_and(|fetch| match fetch.stage {
            Stage::Compact => true,
            Stage::Whole => fetch.in_flight().next().is_none() && !fetch.free.is_empty(),
            Stage::LookUp(_) | Stage::Missing(_) => false,
        })
    }

    /// True if there is room to put another block of so many transactions together.
    pub(crate) fn has_room(&self, transactions: usize) -> bool {
        let under_way = self.wanted.values().filter_map(|fetch| fetch.stage.rebuild());
        let (count, sum) = under_way
            .fold((0, 0), |(count, sum), rebuild| (count + 1, sum + rebuild.header().tx_count as usize));
        count < REBUILDS_MAX && sum + transactions <= REBUILD_TXS_MAX
    }

    /// Its short ids are here: nobody is asked for anything until the pool has been.
    pub(crate) fn begin(&mut self, id: &BlockId, rebuild: Rebuild, now: Instant, effects: &mut Vec<Effect>) {
        let Some(fetch) = self.wanted.get_mut(id) else { return };
        fetch.cancel_all(now, &mut self.requests, effects);
        effects.push(Effect::LookUp { wanted: rebuild.ids().clone() });
        fetch.change(Stage::LookUp(rebuild), Vec::new());
    }

    /// The pool has answered. Gives back the rebuild as it stands, and how many of its transactions the pool had.
    pub(crate) fn looked_up(&mut self, id: &BlockId, found: Found) -> Option<(&Rebuild, usize)> {
        let fetch = self.wanted.get_mut(id)?;
        let Stage::LookUp(_) = &fetch.stage else { return None };
        let Stage::LookUp(mut rebuild) = std::mem::replace(&mut fetch.stage, Stage::Whole) else {
            return None;
        };
        let pooled = rebuild.looked_up(found);
        let missing = rebuild.missing();
        fetch.change(Stage::Missing(rebuild), missing);
        fetch.stage.rebuild().map(|rebuild| (rebuild, pooled))
    }

    /// A block being put together.
    pub(crate) fn rebuild(&self, id: &BlockId) -> Option<&Rebuild> {
        self.wanted.get(id)?.stage.rebuild()
    }

    /// Transactions came for a block.
    pub(crate) fn placed(
        &mut self,
        request: RequestId,
        transactions: Vec<PlacedTransaction>,
        now: Instant,
    ) -> Progress {
        let Some((id, peer)) = self.requests.get(&request) else { return Progress::Waiting };
        let Some(fetch) = self.wanted.get_mut(id) else { return Progress::Waiting };
        let Some(source) = fetch.sources.iter_mut().find(|source| source.peer == *peer) else {
            return Progress::Waiting;
        };
        let (Stage::Missing(rebuild), Turn::Asked(asked)) = (&mut fetch.stage, &mut source.turn) else {
            return Progress::Unrequested;
        };
        if !transactions.iter().all(|placed| asked.places.binary_search(&placed.index).is_ok()) {
            return Progress::Unrequested;
        }
        for placed in transactions {
            if rebuild.fill(placed) {
                asked.mark = now;
            }
        }
        if rebuild.missing_count() == 0 { Progress::Complete } else { Progress::Waiting }
    }

    /// Puts a block together of which nothing is missing. If it is another one than its header says, it is wanted
    /// whole from now on, and of whoever sent the short ids last.
    pub(crate) fn finish(
        &mut self,
        id: &BlockId,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<(ghost_proto::Block, Rebuilt, PeerId)> {
        let fetch = self.wanted.get_mut(id)?;
        let Stage::Missing(rebuild) = std::mem::replace(&mut fetch.stage, Stage::Whole) else { return None };
        let from = rebuild.from();
        if let Some((block, rebuilt)) = rebuild.finish() {
            return Some((block, rebuilt, from));
        }
        self.want_whole(id, now, effects);
        let sources = &mut self.wanted.get_mut(id)?.sources;
        if let Some(at) = sources.iter().position(|source| source.peer == from) {
            let last = sources.remove(at);
            sources.push(last);
        }
        None
    }

    /// Short ids are of no use for this block: its body is asked for.
    pub(crate) fn want_whole(&mut self, id: &BlockId, now: Instant, effects: &mut Vec<Effect>) {
        let Some(fetch) = self.wanted.get_mut(id) else { return };
        fetch.cancel_all(now, &mut self.requests, effects);
        fetch.change(Stage::Whole, vec![THE_WHOLE]);
        fetch.whole_only = true;
    }

    /// True if the block is wanted, and as a whole.
    pub(crate) fn wants_whole(&self, id: &BlockId) -> bool {
        self.wanted.get(id).is_some_and(|fetch| matches!(fetch.stage, Stage::Whole))
    }

    /// Places of a block that are known to be missing; `None` before the pool was asked.
    pub(crate) fn missing(&self, id: &BlockId) -> Option<Vec<u32>> {
        match &self.wanted.get(id)?.stage {
            Stage::Missing(rebuild) => Some(rebuild.missing()),
            _ => None,
        }
    }

    /// The body, or these transactions of it, come in shards: nobody is asked for them until `until`, if nothing comes by then.
    pub(crate) fn hold(
        &mut self,
        id: &BlockId,
        places: Option<&[u32]>,
        until: Instant,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(fetch) = self.wanted.get_mut(id) else { return };
        let places = match places {
            Some(places) => fetch.stage.wanted(places.to_vec()),
            None => {
                fetch.cancel_all(now, &mut self.requests, effects);
                vec![THE_WHOLE]
            }
        };
        fetch.free.retain(|place| places.binary_search(place).is_err());
        fetch.hold = Some(Hold { until, places });
    }

    /// Shards of it came.
    pub(crate) fn hold_on(&mut self, id: &BlockId, until: Instant) {
        if let Some(hold) = self.wanted.get_mut(id).and_then(|fetch| fetch.hold.as_mut()) {
            hold.until = until;
        }
    }

    /// They will bring nothing.
    pub(crate) fn let_go(&mut self, id: &BlockId) {
        if let Some(fetch) = self.wanted.get_mut(id) {
            fetch.let_go();
        }
    }

    /// Transactions came that nobody was asked for by place.
    pub(crate) fn fill(&mut self, id: &BlockId, transactions: Vec<PlacedTransaction>) -> Progress {
        let Some(Fetch { stage: Stage::Missing(rebuild), free, hold, .. }) = self.wanted.get_mut(id) else {
            return Progress::Waiting;
        };
        *hold = None;
        transactions.into_iter().for_each(|placed| _ = rebuild.fill(placed));
        free.retain(|place| rebuild.is_missing(*place));
        if rebuild.missing_count() == 0 { Progress::Complete } else { Progress::Waiting }
    }

    /// Asks whoever is to be asked by now, and gives up requests without progress.
    pub(crate) fn pump(&mut self, now: Instant, next_request: &mut u64, effects: &mut Vec<Effect>) {
        let requests = &mut self.requests;
        for (id, fetch) in &mut self.wanted {
            if fetch.hold.as_ref().is_some_and(|hold| hold.until <= now) {
                fetch.let_go();
            }
            for at in 0..fetch.sources.len() {
                let source = &mut fetch.sources[at];
                if source.asked().is_none_or(|asked| now < asked.mark + asked.limit) {
                    continue;
                }
                if let Turn::Asked(asked) = std::mem::replace(&mut source.turn, Turn::Ready { from: now }) {
                    requests.remove(&asked.request);
                    effects.push(Effect::Cancel { request: asked.request });
                    source.fail(now);
                    fetch.give_back(asked);
                }
            }
            let may_ask =
                |peer: &PeerId| requests.values().filter(|(_, at)| at == peer).count() < FETCHES_PER_PEER_MAX;
            if fetch.next_ask_at(may_ask).is_none_or(|at| at > now) {
                continue;
            }
            fetch.supersede_silent(now);
            let ready = fetch.sources.iter().enumerate().filter(|(_, source)| {
                source.ready_from().is_some_and(|from| from <= now) && may_ask(&source.peer)
            });
            let room = SOURCES_IN_PARALLEL_MAX - fetch.in_flight().count();
            let ready: Vec<usize> = ready.map(|(at, _)| at).take(room).collect();
            if ready.is_empty() || fetch.free.is_empty() {
                continue;
            }
            for (places, at) in fetch.parts(ready.len()).into_iter().zip(ready) {
                *next_request += 1;
                let request = RequestId(*next_request);
                let peer = fetch.sources[at].peer;
                effects.push(match &fetch.stage {
                    Stage::Compact => Effect::RequestCompact { peer, request, id: *id },
                    Stage::Missing(_) => {
                        Effect::RequestTransactions { peer, request, id: *id, places: places.clone() }
                    }
                    _ => {
                        let stream = StreamType::BlockFetch;
                        Effect::RequestBlocks { peer, request, stream, ids: vec![*id] }
                    }
                });
                let bytes = fetch.expected_bytes(places.len()).min(fetch.header.body_bytes as usize);
                let limit = stall_limit(u32::try_from(bytes).unwrap_or(u32::MAX));
                requests.insert(request, (*id, peer));
                let asked = Asked { request, mark: now, bytes: 0, limit, places, superseded: false };
                fetch.sources[at].turn = Turn::Asked(asked);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let may_ask = |peer: &PeerId| {
            self.requests.values().filter(|(_, at)| at == peer).count() < FETCHES_PER_PEER_MAX
        };
        let asks = self.wanted.values().filter_map(|fetch| fetch.next_ask_at(may_ask));
        let stalls =
            self.wanted.values().flat_map(|fetch| fetch.in_flight().map(|asked| asked.mark + asked.limit));
        let holds = self.wanted.values().filter_map(|fetch| fetch.hold.as_ref().map(|hold| hold.until));
        asks.chain(stalls).chain(holds).min()
    }

    /// Who was asked for what, if the request is one of ours and still open.
    pub(crate) fn request(&self, request: RequestId) -> Option<(BlockId, PeerId)> {
        self.requests.get(&request).copied()
    }

    pub(crate) fn progress(&mut self, request: RequestId, total: u64, now: Instant) {
        let Some((id, peer)) = self.requests.get(&request) else { return };
        let source = self.wanted.get_mut(id).and_then(|fetch| fetch.source(peer));
        if let Some(Source { turn: Turn::Asked(asked), .. }) = source
            && total >= asked.bytes + PROGRESS_BYTES_MIN
        {
            (asked.mark, asked.bytes) = (now, total);
        }
    }

    /// The request ended, and the block is not complete by it.
    pub(crate) fn ended(&mut self, request: RequestId, now: Instant) {
        let Some((id, peer)) = self.requests.remove(&request) else { return };
        let Some(fetch) = self.wanted.get_mut(&id) else { return };
        let Some(at) = fetch.sources.iter().position(|source| source.peer == peer) else { return };
        let turn = std::mem::replace(&mut fetch.sources[at].turn, Turn::Ready { from: now });
        let Turn::Asked(asked) = turn else { return };
        let wants_more = !fetch.stage.wanted(asked.places.clone()).is_empty();
        if wants_more || !matches!(fetch.stage, Stage::Missing(_)) {
            fetch.sources[at].fail(now);
        }
        fetch.give_back(asked);
        // Who has no short ids to give may have the body.
        if matches!(fetch.stage, Stage::Compact) {
            fetch.stage = Stage::Whole;
        }
    }

    /// Takes a peer off a block. True if nobody is left to ask.
    pub(crate) fn remove_source(&mut self, id: &BlockId, peer: &PeerId, effects: &mut Vec<Effect>) -> bool {
        let Some(fetch) = self.wanted.get_mut(id) else { return false };
        let Some(at) = fetch.sources.iter().position(|source| source.peer == *peer) else { return false };
        if let Turn::Asked(asked) = fetch.sources.remove(at).turn {
            self.requests.remove(&asked.request);
            effects.push(Effect::Cancel { request: asked.request });
            fetch.give_back(asked);
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
        for asked in fetch.in_flight() {
            self.requests.remove(&asked.request);
            effects.push(Effect::Cancel { request: asked.request });
        }
        Some((fetch.header, fetch.sources.into_iter().map(|source| source.peer).collect()))
    }

    /// Forgets a peer. Answers the blocks that nobody is left to ask for.
    pub(crate) fn peer_down(&mut self, peer: &PeerId) -> Vec<BlockId> {
        self.requests.retain(|_, (_, asked)| asked != peer);
        for fetch in self.wanted.values_mut() {
            let Some(at) = fetch.sources.iter().position(|source| source.peer == *peer) else { continue };
            if let Turn::Asked(asked) = fetch.sources.remove(at).turn {
                fetch.give_back(asked);
            }
        }
        let left = self.wanted.iter().filter(|(_, fetch)| fetch.sources.is_empty());
        left.map(|(id, _)| *id).collect()
    }
}

//! What becomes of a block whose parent we have or are about to have.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::compact::{CompactBlock, PlacedTransaction};
pub use ghost_proto::limits::WHOLE_PUSH_BYTES_MAX;
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, block::HEADER_LEN};

use super::{
    compact::{Found, ShortIds},
    favour::{self, Candidate, FAVOURED_PEERS, PUSHED_TO_MAX},
    fetch::{FetchTracker, Progress},
    known::KnownBlocks,
    rebuild::{PartialBlock, Rebuild, Rebuilt},
    shards::{self, ShardSwarm},
    stats::BlockStats,
};
use crate::sync::{Effect, ImportOutcome, Offence, RequestId};

/// Peers that are pushed a small block whole.
pub const WHOLE_PUSH_PEERS: usize = FAVOURED_PEERS;

/// How long the favoured peers have to push a large block that another has announced by header: their push is on its way, and asking costs
/// its bytes twice.
pub const PUSH_PATIENCE: Duration = Duration::from_millis(30);

/// Part of a block's transactions that may be missing when it is passed on before it is complete: one in four. What a false compact block can
/// make a hop fetch in vain is bounded by it.
const PASS_ON_MISSING: (usize, usize) = (1, 4);

/// Part of a block's transactions that the pool must have for it to be completed by place: one in ten.
/// With less, the body in one piece is shorter than its transactions with their places.
const REBUILD_FOUND: (usize, usize) = (1, 10);

/// Share of transactions found below which an announced block is asked for whole, or taken in shards: a node that is catching
/// up has no pool to speak of. Pushed compact blocks go on to be tried, and raise it again.
pub(super) const HIT_RATE_MIN: f64 = 0.25;

/// Weight of the newest block in the hit rate: after five without a hit a node asks for blocks whole.
const HIT_RATE_WEIGHT: f64 = 0.25;

/// Blocks of one slot that are passed on. An honest proposer makes one; a second proves that
/// it is not honest; more would let it make the network carry what it likes.
pub const SIBLINGS_PER_SLOT_MAX: usize = 2;

/// Slots for which siblings are counted.
const SLOTS_REMEMBERED_MAX: usize = 256;

/// Announced blocks waited for, for each peer; beyond it the peer's oldest is forgotten. 32 × 0.7 KiB = 22 KiB.
pub const ANNOUNCED_PER_PEER_MAX: usize = 32;

/// Most blocks that are here and not yet imported.
pub const PENDING_BLOCKS_MAX: usize = 64;

/// Most bytes of those, or one block if that is larger: two of the largest.
pub const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Times of arrival kept until somebody asks for them.
const WAITS_MAX: usize = 256;

/// How much older first deliveries count less with each new one.
const MERIT_DECAY: f64 = 15.0 / 16.0;

#[derive(Debug)]
struct Peer {
    outbound: bool,
    rtt: Duration,
    known: KnownBlocks,
    announced: VecDeque<BlockId>,
    merit: f64,
    /// We asked it to push blocks to us.
    favoured: bool,
    /// It asked us to.
    wants_pushes: bool,
}

/// A block that is here and not imported.
#[derive(Debug)]
struct Pending {
    block: Arc<Block>,
    from: PeerId,
    handed: bool,
}

/// How a block is written in short ids.
#[derive(Clone, Copy)]
enum How<'a> {
    /// As it was put together from short ids.
    Rebuilt(&'a Rebuilt),
    /// Anew, with these transactions whole.
    Own(&'a [(u32, &'a ghost_proto::SignedTransaction)]),
}

/// Blocks that must be left to chain sync: who claims them.
pub(crate) type Orphans = Vec<(PeerId, Checkpoint)>;

/// The relay core; see [`super`].
#[derive(Debug)]
pub(crate) struct BlockRelay {
    seed: [u8; 32],
    pub(super) hit_rate: f64,
    pub(super) stats: BlockStats,
    waits: Vec<Duration>,
    peers: BTreeMap<PeerId, Peer>,
    pub(super) fetches: FetchTracker,
    pending: BTreeMap<BlockId, Pending>,
    pending_bytes: usize,
    siblings: BTreeMap<u64, Vec<BlockId>>,
    pub(super) swarm: ShardSwarm,
    /// The latest imported, whose plans may still come.
    pub(super) latest: KnownBlocks,
    /// Transactions that came in shards before the pool had been asked for their block.
    pub(super) early: VecDeque<(BlockId, Vec<PlacedTransaction>)>,
}

fn checkpoint(header: &Header) -> Checkpoint {
    Checkpoint { height: header.height, id: header.id() }
}

fn size(header: &Header) -> usize {
    HEADER_LEN + header.body_bytes as usize
}

impl BlockRelay {
    /// `seed` decides the nonces of compact blocks.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            hit_rate: 1.0,
            stats: BlockStats::default(),
            waits: Vec::new(),
            peers: BTreeMap::new(),
            fetches: FetchTracker::default(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            siblings: BTreeMap::new(),
            swarm: ShardSwarm::new(&seed),
            latest: KnownBlocks::default(),
            early: VecDeque::new(),
        }
    }

    pub(crate) fn peer_up(
        &mut self,
        peer: PeerId,
        outbound: bool,
        best: BlockId,
        rtt: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let mut known = KnownBlocks::default();
        known.insert(best);
        let announced = VecDeque::new();
        let fresh =
            Peer { outbound, rtt, known, announced, merit: 0.0, favoured: false, wants_pushes: false };
        self.peers.insert(peer, fresh);
        self.swarm.peer_up(peer, rtt);
        self.favour(effects);
    }

    /// The peer wants large blocks pushed, or no longer.
    pub(crate) fn relay_mode(&mut self, peer: &PeerId, push: bool) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.wants_pushes = push;
        }
    }

    pub(crate) fn stats(&self) -> BlockStats {
        BlockStats { hit_rate: self.hit_rate, ..self.stats }
    }

    /// From the first news of a block until it was here, for each since the last call.
    pub(crate) fn take_waits(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.waits)
    }

    /// Tells peers that are favoured from now on, and those that no longer are.
    fn favour(&mut self, effects: &mut Vec<Effect>) {
        let candidates = self.peers.iter().map(|(peer, entry)| Candidate {
            peer: *peer,
            outbound: entry.outbound,
            rtt: entry.rtt,
            merit: entry.merit,
            favoured: entry.favoured,
        });
        let chosen = favour::choose(candidates.collect());
        for (peer, entry) in &mut self.peers {
            let push = chosen.contains(peer);
            if std::mem::replace(&mut entry.favoured, push) != push {
                effects.push(Effect::RelayMode { peer: *peer, push });
            }
        }
    }

    /// Blocks that only this peer had are nobody's claim any more; blocks above them are.
    pub(crate) fn peer_down(&mut self, peer: &PeerId, effects: &mut Vec<Effect>) -> Orphans {
        self.peers.remove(peer);
        self.swarm.peer_down(peer);
        self.favour(effects);
        let mut orphans = Vec::new();
        for id in self.fetches.peer_down(peer) {
            self.drop_branch(id, &mut orphans, effects);
        }
        orphans
    }

    /// The peer has the block: it said so, sent it or asked for what follows it.
    pub(crate) fn peer_has(&mut self, peer: &PeerId, id: BlockId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.known.insert(id);
        }
    }

    /// Header of a block that is wanted or waits for its import.
    pub(crate) fn header(&self, id: &BlockId) -> Option<&Header> {
        self.fetches.header(id).or_else(|| self.pending.get(id).map(|pending| pending.block.header()))
    }

    /// A block that is here and not imported.
    pub(crate) fn block(&self, id: &BlockId) -> Option<&Arc<Block>> {
        self.pending.get(id).map(|pending| &pending.block)
    }

    /// A checked header from a peer.
    pub(crate) fn announced(
        &mut self,
        peer: PeerId,
        header: &Header,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let id = header.id();
        let mut orphans = Vec::new();
        if self.pending.contains_key(&id) || !self.admit_sibling(header) {
            return orphans;
        }
        let Some(entry) = self.peers.get_mut(&peer) else { return orphans };
        if !entry.announced.contains(&id) {
            entry.announced.push_back(id);
        }
        let large = size(header) > WHOLE_PUSH_BYTES_MAX;
        let compact = large && self.hit_rate >= HIT_RATE_MIN;
        // Whoever announces by header what it could have pushed will not push it.
        let pushed_soon = large
            && !entry.favoured
            && self.peers.values().any(|other| other.favoured && !other.known.contains(&id));
        // What is cut into shards comes with a plan, and with less for whoever sends it.
        let cut_soon = !compact && header.body_bytes as usize >= shards::WHOLE_BYTES_MIN;
        let patience = match () {
            () if cut_soon => shards::PLAN_PATIENCE,
            () if pushed_soon => PUSH_PATIENCE,
            () => Duration::ZERO,
        };
        let known = self.fetches.header(&id).is_some();
        self.fetches.announced(peer, header, compact, now + patience, now);
        if !known {
            self.take_stances(&id, now, effects);
        }
        while let Some(entry) = self.peers.get_mut(&peer)
            && entry.announced.len() > ANNOUNCED_PER_PEER_MAX
            && let Some(oldest) = entry.announced.pop_front()
        {
            if self.fetches.remove_source(&oldest, &peer, effects) {
                self.drop_branch(oldest, &mut orphans, effects);
            }
        }
        orphans
    }

    /// A compact block under a checked header, pushed or answered.
    pub(crate) fn compact(
        &mut self,
        peer: PeerId,
        compact: CompactBlock,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let id = compact.header.id();
        let whole = compact.prefilled.iter().map(|placed| placed.transaction.bytes().len()).sum::<usize>();
        self.stats.bytes += (HEADER_LEN + compact.short_ids.len() + whole) as u64;
        let orphans = self.announced(peer, &compact.header.clone(), now, effects);
        if !self.fetches.takes_short_ids(&id) {
            return orphans;
        }
        self.stats.compact += 1;
        if self.fetches.has_room(compact.header.tx_count as usize) {
            self.fetches.begin(&id, Rebuild::new(peer, compact), now, effects);
        } else {
            self.fetches.want_whole(&id, now, effects);
        }
        orphans
    }

    /// What the pool has of a block.
    pub(crate) fn looked_up(
        &mut self,
        id: BlockId,
        found: Found,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let Some((rebuild, pooled)) = self.fetches.looked_up(&id, found) else { return Vec::new() };
        let (count, missing) = (rebuild.header().tx_count as usize, rebuild.missing_count());
        let rate = pooled as f64 / count.max(1) as f64;
        self.hit_rate += (rate - self.hit_rate) * HIT_RATE_WEIGHT;
        self.stats.transactions_found += pooled as u64;
        self.stats.transactions_lacked += (count - pooled) as u64;
        if missing == 0 {
            self.stats.rebuilt_at_once += 1;
            return self.complete(id, now, effects);
        }
        // What came in shards before the pool was asked.
        if let Some(early) = self.take_early(&id)
            && self.fetches.fill(&id, early) == Progress::Complete
        {
            return self.complete(id, now, effects);
        }
        if (count - missing) * REBUILD_FOUND.1 < count * REBUILD_FOUND.0 {
            self.stats.whole_instead += 1;
            self.fetches.want_whole(&id, now, effects);
            self.take_stances(&id, now, effects);
            return Vec::new();
        }
        self.take_stances(&id, now, effects);
        if missing * PASS_ON_MISSING.1 <= count * PASS_ON_MISSING.0
            && let Some(rebuild) = self.fetches.rebuild(&id)
        {
            let (compact, partial) = rebuild.pass_on();
            let unaware = self.unaware(&id);
            self.push_compact(&unaware, compact, Some(Arc::new(partial)), effects);
        }
        Vec::new()
    }

    /// Transactions of a block that were asked for by place.
    pub(crate) fn transactions(
        &mut self,
        request: RequestId,
        transactions: Vec<PlacedTransaction>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let Some((id, peer)) = self.fetches.request(request) else { return Vec::new() };
        let bytes = transactions.iter().map(|placed| placed.transaction.bytes().len() as u64);
        self.stats.bytes += bytes.sum::<u64>();
        match self.fetches.placed(request, transactions, now) {
            Progress::Waiting => Vec::new(),
            Progress::Complete => self.complete(id, now, effects),
            Progress::Unrequested => {
                effects.push(Effect::Offence { peer, what: Offence::Unrequested });
                self.discard_source(id, &peer, effects)
            }
        }
    }

    pub(super) fn complete(&mut self, id: BlockId, now: Instant, effects: &mut Vec<Effect>) -> Orphans {
        match self.fetches.finish(&id, now, effects) {
            Some((block, rebuilt, from)) => {
                self.stats.rebuilt += 1;
                self.take(from, Arc::new(block), Some(&rebuilt), now, effects)
            }
            None => {
                self.stats.whole_instead += 1;
                self.take_stances(&id, now, effects);
                Vec::new()
            }
        }
    }

    /// A block whose body matches its checked header: passes it on, then hands it to import.
    pub(crate) fn received(
        &mut self,
        from: PeerId,
        block: Arc<Block>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        self.stats.bytes += size(block.header()) as u64;
        match self.pending.contains_key(&block.header().id()) {
            true => self.stats.whole_known += 1,
            false => self.stats.whole += 1,
        }
        self.take(from, block, None, now, effects)
    }

    /// A whole block came that we know.
    pub(crate) fn received_again(&mut self, block: &Block) {
        self.stats.whole_known += 1;
        self.stats.bytes += size(block.header()) as u64;
    }

    pub(super) fn take(
        &mut self,
        from: PeerId,
        block: Arc<Block>,
        rebuilt: Option<&Rebuilt>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let (id, bytes) = (block.header().id(), size(block.header()));
        self.peer_has(&from, id);
        if self.pending.contains_key(&id) || !self.admit_sibling(block.header()) {
            return Vec::new();
        }
        let mut first = from;
        if self.waits.len() < WAITS_MAX {
            self.waits.push(now - self.fetches.told(&id).unwrap_or(now));
        }
        if let Some((_, sources)) = self.fetches.remove(&id, effects) {
            first = *sources.first().unwrap_or(&from);
            for source in sources {
                self.no_longer_announced(&source, &id);
            }
        }
        let full = self.pending.len() >= PENDING_BLOCKS_MAX || self.pending_bytes + bytes > PENDING_BYTES_MAX;
        if full && !self.pending.is_empty() {
            return vec![(from, checkpoint(block.header()))];
        }
        self.pending_bytes += bytes;
        self.credit(&first);
        self.favour(effects);
        self.spread(&block, rebuilt.map_or(How::Own(&[]), How::Rebuilt), effects);
        self.pending.insert(id, Pending { block, from, handed: false });
        self.hand_over(id, effects);
        self.take_stances(&id, now, effects);
        Vec::new()
    }

    /// A block of our own making.
    pub(crate) fn produced(&mut self, block: &Arc<Block>, fresh: Vec<u32>, effects: &mut Vec<Effect>) {
        self.admit_sibling(block.header());
        self.latest.insert(block.header().id());
        let cut = Self::to_be_cut(block, &fresh);
        let at = |place: &u32| Some((*place, block.transactions().get(*place as usize)?));
        // What is cut does not stand in the compact block as well.
        let whole: Vec<_> = if cut.is_empty() { fresh.iter().filter_map(at).collect() } else { Vec::new() };
        self.spread(block, How::Own(&whole), effects);
        for indexes in cut {
            effects.push(Effect::CutShards { block: Arc::clone(block), indexes });
        }
    }

    /// Tells those who are not known to have it of a block that came by another way.
    pub(crate) fn announce(&mut self, header: &Header, effects: &mut Vec<Effect>) {
        let peers = self.unaware(&header.id());
        self.tell(peers, header, effects);
    }

    /// Import has dealt with a block. True if it was one of the relay's.
    pub(crate) fn imported(
        &mut self,
        id: BlockId,
        outcome: ImportOutcome,
        effects: &mut Vec<Effect>,
    ) -> (bool, Orphans) {
        let mut orphans = Vec::new();
        let Some(pending) = self.pending.remove(&id) else {
            if outcome == ImportOutcome::Stored {
                self.came_otherwise(id, effects);
            }
            return (false, orphans);
        };
        self.pending_bytes -= size(pending.block.header());
        match outcome {
            ImportOutcome::Stored => self.latest.insert(id),
            ImportOutcome::Failed => {
                orphans.push((pending.from, checkpoint(pending.block.header())));
                self.drop_children(id, &mut orphans, effects);
            }
            // What stands on an invalid block is nobody's claim worth following.
            ImportOutcome::Invalid => self.drop_children(id, &mut Vec::new(), effects),
        }
        (true, orphans)
    }

    /// Chain sync was faster: nobody needs to be asked, and what waited for the block waits no more.
    fn came_otherwise(&mut self, id: BlockId, effects: &mut Vec<Effect>) {
        for source in self.fetches.remove(&id, effects).map_or(Vec::new(), |(_, sources)| sources) {
            self.no_longer_announced(&source, &id);
        }
        for child in self.pending_children(&id) {
            self.hand_over(child, effects);
        }
    }

    fn no_longer_announced(&mut self, peer: &PeerId, id: &BlockId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.announced.retain(|announced| announced != id);
        }
    }

    pub(crate) fn request(&self, request: RequestId) -> Option<(BlockId, PeerId)> {
        self.fetches.request(request)
    }

    pub(crate) fn progress(&mut self, request: RequestId, bytes: u64, now: Instant) {
        self.fetches.progress(request, bytes, now);
    }

    pub(crate) fn ended(&mut self, request: RequestId, now: Instant) {
        self.fetches.ended(request, now);
    }

    /// A source sent a false body, or something else: it is not asked for this block again.
    pub(crate) fn discard_source(
        &mut self,
        id: BlockId,
        peer: &PeerId,
        effects: &mut Vec<Effect>,
    ) -> Orphans {
        let mut orphans = Vec::new();
        self.no_longer_announced(peer, &id);
        if self.fetches.remove_source(&id, peer, effects) {
            self.drop_branch(id, &mut orphans, effects);
        }
        orphans
    }

    pub(crate) fn pump(&mut self, now: Instant, next_request: &mut u64, effects: &mut Vec<Effect>) {
        let before = *next_request;
        self.swarm.pump(now, next_request, effects);
        self.fetches.pump(now, next_request, effects);
        self.stats.requests += *next_request - before;
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.fetches.next_deadline().into_iter().chain(self.swarm.next_deadline()).min()
    }

    /// Blocks wanted, blocks here and not imported, bytes of the latter.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        (self.fetches.len(), self.pending.len(), self.pending_bytes)
    }

    pub(super) fn admit_sibling(&mut self, header: &Header) -> bool {
        let slot = self.siblings.entry(header.slot).or_default();
        let id = header.id();
        if slot.contains(&id) {
            return true;
        }
        if slot.len() == SIBLINGS_PER_SLOT_MAX {
            return false;
        }
        slot.push(id);
        if self.siblings.len() > SLOTS_REMEMBERED_MAX {
            self.siblings.pop_first();
        }
        true
    }

    fn credit(&mut self, first: &PeerId) {
        for (peer, entry) in &mut self.peers {
            entry.merit *= MERIT_DECAY;
            if peer == first {
                entry.merit += 1.0;
            }
        }
    }

    fn unaware(&self, id: &BlockId) -> Vec<PeerId> {
        let peers = self.peers.iter().filter(|(_, entry)| !entry.known.contains(id));
        peers.map(|(peer, _)| *peer).collect()
    }

    fn tell(&mut self, peers: Vec<PeerId>, header: &Header, effects: &mut Vec<Effect>) {
        if peers.is_empty() {
            return;
        }
        for peer in &peers {
            self.peer_has(peer, header.id());
        }
        effects.push(Effect::Announce { peers, header: header.clone() });
    }

    fn spread(&mut self, block: &Arc<Block>, how: How<'_>, effects: &mut Vec<Effect>) {
        let id = block.header().id();
        let mut rest = self.unaware(&id);
        if size(block.header()) > WHOLE_PUSH_BYTES_MAX {
            if rest.iter().any(|peer| self.peers[peer].wants_pushes) {
                let compact = match how {
                    How::Rebuilt(rebuilt) => rebuilt.compact(block),
                    How::Own(whole) => {
                        let never_pooled = ShortIds::never_pooled(block);
                        let mut whole: Vec<_> = whole.iter().copied().chain(never_pooled).collect();
                        whole.sort_by_key(|(place, _)| *place);
                        whole.dedup_by_key(|(place, _)| *place);
                        ShortIds::of(block, self.nonce(&id)).compact(block.header().clone(), whole)
                    }
                };
                self.push_compact(&rest, compact, None, effects);
                rest = self.unaware(&id);
            }
        } else if !rest.is_empty() {
            self.rank(&mut rest);
            let chosen: Vec<PeerId> = rest.drain(..rest.len().min(WHOLE_PUSH_PEERS)).collect();
            for peer in &chosen {
                self.peer_has(peer, id);
            }
            effects.push(Effect::PushWhole { peers: chosen, block: Arc::clone(block) });
            rest.sort_unstable();
        }
        self.tell(rest, block.header(), effects);
    }

    /// To those of `peers` who asked for it.
    fn push_compact(
        &mut self,
        peers: &[PeerId],
        compact: CompactBlock,
        partial: Option<Arc<PartialBlock>>,
        effects: &mut Vec<Effect>,
    ) {
        let mut peers: Vec<PeerId> =
            peers.iter().filter(|peer| self.peers[*peer].wants_pushes).copied().collect();
        if peers.is_empty() {
            return;
        }
        self.rank(&mut peers);
        peers.truncate(PUSHED_TO_MAX);
        for peer in &peers {
            self.peer_has(peer, compact.header.id());
        }
        effects.push(Effect::PushCompact { peers, compact: Arc::new(compact), partial });
    }

    /// Of each node another: two transactions that have the same short id for one node have not for the next.
    fn nonce(&self, id: &BlockId) -> u64 {
        let hash = blake3::keyed_hash(&self.seed, &id.0);
        hash.as_bytes()[..8].iter().fold(0, |nonce, byte| nonce << 8 | u64::from(*byte))
    }

    /// Best first: merit, then round trip. One of the first [`WHOLE_PUSH_PEERS`] is outbound if any is: an attacker can
    /// fill our inbound side, not our outbound one.
    fn rank(&self, peers: &mut [PeerId]) {
        peers.sort_by(|a, b| {
            let (left, right) = (&self.peers[a], &self.peers[b]);
            right.merit.total_cmp(&left.merit).then(left.rtt.cmp(&right.rtt)).then(a.cmp(b))
        });
        let first_outbound = peers.iter().position(|peer| self.peers[peer].outbound);
        if let Some(at) = first_outbound
            && at >= WHOLE_PUSH_PEERS
        {
            peers.swap(WHOLE_PUSH_PEERS - 1, at);
        }
    }

    /// Hands a block to import if its parent is there or handed already, and then what waited for it.
    fn hand_over(&mut self, id: BlockId, effects: &mut Vec<Effect>) {
        let mut ready = vec![id];
        while let Some(id) = ready.pop() {
            let Some(parent) = self.pending.get(&id).map(|pending| pending.block.header().parent) else {
                continue;
            };
            let parent_handed = self.pending.get(&parent).is_none_or(|parent| parent.handed);
            if !parent_handed || self.fetches.header(&parent).is_some() {
                continue;
            }
            let Some(pending) = self.pending.get_mut(&id).filter(|pending| !pending.handed) else { continue };
            pending.handed = true;
            effects.push(Effect::Import { block: Arc::clone(&pending.block), from: pending.from });
            ready.extend(self.pending_children(&id));
        }
    }

    fn pending_children(&self, parent: &BlockId) -> Vec<BlockId> {
        let children = self.pending.iter().filter(|(_, pending)| pending.block.header().parent == *parent);
        children.map(|(id, _)| *id).collect()
    }

    /// Chain sync gets a wanted block and what stands on it.
    pub(crate) fn yield_branch(&mut self, id: BlockId, effects: &mut Vec<Effect>) -> Orphans {
        let mut orphans = Vec::new();
        if self.fetches.header(&id).is_some() {
            self.drop_branch(id, &mut orphans, effects);
        }
        orphans
    }

    /// True if the block is with the importer.
    pub(crate) fn is_handed(&self, id: &BlockId) -> bool {
        self.pending.get(id).is_some_and(|pending| pending.handed)
    }

    /// Chain sync gets a block that is here and waits for its parent.
    pub(crate) fn yield_waiting(&mut self, id: &BlockId) -> Option<(PeerId, Arc<Block>)> {
        let pending = self.pending.remove(id)?;
        self.pending_bytes -= size(pending.block.header());
        Some((pending.from, pending.block))
    }

    /// A wanted block can no longer be had: it and all that stands on it leaves the relay.
    fn drop_branch(&mut self, id: BlockId, orphans: &mut Orphans, effects: &mut Vec<Effect>) {
        if let Some((header, sources)) = self.fetches.remove(&id, effects) {
            for source in sources {
                orphans.push((source, checkpoint(&header)));
                self.no_longer_announced(&source, &id);
            }
        }
        self.drop_children(id, orphans, effects);
    }

    fn drop_children(&mut self, id: BlockId, orphans: &mut Orphans, effects: &mut Vec<Effect>) {
        let mut parents = vec![id];
        while let Some(parent) = parents.pop() {
            for child in self.pending_children(&parent) {
                // Once handed over, the chain answers for it.
                if self.pending.get(&child).is_some_and(|pending| pending.handed) {
                    continue;
                }
                if let Some(pending) = self.pending.remove(&child) {
                    self.pending_bytes -= size(pending.block.header());
                    orphans.push((pending.from, checkpoint(pending.block.header())));
                    parents.push(child);
                }
            }
            for child in self.fetches.children_of(&parent) {
                let Some((header, sources)) = self.fetches.remove(&child, effects) else { continue };
                for source in sources {
                    orphans.push((source, checkpoint(&header)));
                    self.no_longer_announced(&source, &child);
                }
                parents.push(child);
            }
        }
    }
}

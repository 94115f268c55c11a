//! What becomes of a block whose parent we have or are about to have.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, block::HEADER_LEN};

use super::{fetch::FetchTracker, known::KnownBlocks};
use crate::sync::{Effect, ImportOutcome, RequestId};

/// Largest block, header included, that is pushed whole: it then leaves within QUIC's initial window
/// (ten datagrams, 14,720 bytes), and a round trip for asking would cost more than the copy.
pub const WHOLE_PUSH_BYTES_MAX: usize = 14_000;

/// Peers that are pushed a small block whole. Simulated with compact blocks of 2 MB over 1,000 nodes,
/// three reach 99 % in 523 ms, five in 456 ms for half as many bytes again.
pub const WHOLE_PUSH_PEERS: usize = 3;

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

/// How much older first deliveries count less with each new one.
const MERIT_DECAY: f64 = 15.0 / 16.0;

#[derive(Debug)]
struct Peer {
    outbound: bool,
    rtt: Duration,
    known: KnownBlocks,
    announced: VecDeque<BlockId>,
    merit: f64,
}

/// A block that is here and not imported.
#[derive(Debug)]
struct Pending {
    block: Arc<Block>,
    from: PeerId,
    handed: bool,
}

/// Blocks that must be left to chain sync: who claims them.
pub(crate) type Orphans = Vec<(PeerId, Checkpoint)>;

/// The relay core; see [`super`].
#[derive(Debug, Default)]
pub(crate) struct BlockRelay {
    peers: BTreeMap<PeerId, Peer>,
    fetches: FetchTracker,
    pending: BTreeMap<BlockId, Pending>,
    pending_bytes: usize,
    siblings: BTreeMap<u64, Vec<BlockId>>,
}

fn checkpoint(header: &Header) -> Checkpoint {
    Checkpoint { height: header.height, id: header.id() }
}

fn size(header: &Header) -> usize {
    HEADER_LEN + header.body_bytes as usize
}

impl BlockRelay {
    pub(crate) fn peer_up(&mut self, peer: PeerId, outbound: bool, best: BlockId, rtt: Duration) {
        let mut known = KnownBlocks::default();
        known.insert(best);
        self.peers.insert(peer, Peer { outbound, rtt, known, announced: VecDeque::new(), merit: 0.0 });
    }

    /// Blocks that only this peer had are nobody's claim any more; blocks above them are.
    pub(crate) fn peer_down(&mut self, peer: &PeerId, effects: &mut Vec<Effect>) -> Orphans {
        self.peers.remove(peer);
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
        self.fetches.announced(peer, header, now);
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

    /// A block whose body matches its checked header: passes it on, then hands it to import.
    pub(crate) fn received(&mut self, from: PeerId, block: Arc<Block>, effects: &mut Vec<Effect>) -> Orphans {
        let (id, bytes) = (block.header().id(), size(block.header()));
        self.peer_has(&from, id);
        if self.pending.contains_key(&id) || !self.admit_sibling(block.header()) {
            return Vec::new();
        }
        if let Some((_, sources)) = self.fetches.remove(&id, effects) {
            for source in sources {
                self.no_longer_announced(&source, &id);
            }
        }
        let full = self.pending.len() >= PENDING_BLOCKS_MAX || self.pending_bytes + bytes > PENDING_BYTES_MAX;
        if full && !self.pending.is_empty() {
            return vec![(from, checkpoint(block.header()))];
        }
        self.pending_bytes += bytes;
        self.credit(&from);
        self.spread(&block, effects);
        self.pending.insert(id, Pending { block, from, handed: false });
        self.hand_over(id, effects);
        Vec::new()
    }

    /// A block of our own making.
    pub(crate) fn produced(&mut self, block: &Arc<Block>, effects: &mut Vec<Effect>) {
        self.admit_sibling(block.header());
        self.spread(block, effects);
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
            ImportOutcome::Stored => {}
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
        self.fetches.pump(now, next_request, effects);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.fetches.next_deadline()
    }

    /// Blocks wanted, blocks here and not imported, bytes of the latter.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        (self.fetches.len(), self.pending.len(), self.pending_bytes)
    }

    fn admit_sibling(&mut self, header: &Header) -> bool {
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

    fn spread(&mut self, block: &Arc<Block>, effects: &mut Vec<Effect>) {
        let id = block.header().id();
        let mut rest = self.unaware(&id);
        if size(block.header()) <= WHOLE_PUSH_BYTES_MAX && !rest.is_empty() {
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

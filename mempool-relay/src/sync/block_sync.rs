//! The one core a shell drives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::{compact::CompactBlock, shards::ShardPlan};
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId};

use super::{
    certificate::CertificateQuest,
    chain_sync::ChainSync,
    io::{CertificateVerdict, Effect, HeaderVerdict, ImportOutcome, Input, Offence, RequestEnd, RequestId},
    peer::SyncPeer,
    progress::{Speed, SyncProgress, SyncState},
    tip::TipWatch,
};
use crate::block::{
    BlockStats, Received,
    relay::{BlockRelay, Orphans},
};

/// What the core has to know of its chain.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The head at the start; genesis has height 0 and [`ghost_proto::Genesis::block_id`].
    pub head: Checkpoint,
    /// Length of a slot.
    pub slot: Duration,
    /// Decides the nonces of compact blocks: random, and another one on each node.
    pub seed: [u8; 32],
}

/// Announcing, fetching and catching up.
///
/// A driver calls, in this order: [`Self::handle`] for every input, or [`Self::on_deadline`]; performs the
/// effects; asks [`Self::next_deadline`]. [`Self::header`] and [`Self::block`] are asked in between: by the chain for the
/// parent of a header, and by who serves blocks, because a block is announced before it is in the store.
/// [`Self::progress`] is for people.
#[derive(Debug)]
pub struct BlockSync {
    relay: BlockRelay,
    sync: ChainSync,
    certificate: CertificateQuest,
    tip: TipWatch,
    speed: Speed,
    state: SyncState,
    head: Option<Header>,
    /// The last block that chain sync imported, until the peers are told.
    untold: Option<BlockId>,
    next_request: u64,
    now: Instant,
}

impl BlockSync {
    /// A node without peers.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut certificate = CertificateQuest::default();
        certificate.begin();
        Self {
            relay: BlockRelay::new(config.seed),
            sync: ChainSync::new(config.head),
            certificate,
            tip: TipWatch::new(config.slot, now),
            speed: Speed::new(now),
            state: SyncState::NoPeers,
            head: None,
            untold: None,
            next_request: 0,
            now,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let fx = &mut effects;
        match input {
            Input::PeerUp { peer, outbound, best, best_known, rtt } => {
                if self.sync.peers.contains_key(&peer) {
                    self.peer_down(&peer, fx);
                }
                self.relay.peer_up(peer, outbound, best.id, rtt, fx);
                self.sync.peers.insert(peer, SyncPeer::new(outbound, rtt, best, best_known));
            }
            Input::PeerDown { peer } => self.peer_down(&peer, fx),
            Input::Announced { peer, header, verdict } => self.announced(peer, &header, verdict, now, fx),
            Input::Pushed { peer, block, verdict } => self.pushed(peer, block, verdict, now, fx),
            Input::Compact { peer, compact, verdict } => self.compact(peer, compact, verdict, now, fx),
            Input::RelayMode { peer, push } => self.relay.relay_mode(&peer, push),
            Input::LookedUp { id, found } => {
                let orphans = self.relay.looked_up(id, found, now, fx);
                self.claim(orphans);
            }
            Input::FetchedCompact { request, compact } => self.fetched_compact(request, compact, now, fx),
            Input::FetchedTransactions { request, transactions } => {
                let orphans = self.relay.transactions(request, transactions, now, fx);
                self.claim(orphans);
            }
            Input::Missing { peer, block } => self.sync.claimed(&peer, block),
            Input::Produced { block, fresh } => self.relay.produced(&block, fresh, fx),
            Input::ShardPlan { peer, plan, verdict } => self.shard_plan(peer, plan, verdict, now, fx),
            Input::ShardHave { peer, have } => self.relay.shard_have(peer, &have, now, fx),
            Input::Shard { peer, shard } => self.relay.shard(peer, None, shard, now, fx),
            Input::FetchedShard { request, shard } => {
                if let Some(peer) = self.relay.shard_request(request) {
                    self.relay.shard(peer, Some(request), shard, now, fx);
                }
            }
            Input::ShardsCut { plan, coded } => self.relay.shards_cut(&plan, coded, now, fx),
            Input::ShardsWorked { root, outcome } => {
                let orphans = self.relay.shards_worked(root, outcome, now, fx);
                self.claim(orphans);
            }
            Input::Headers { request, headers } => self.sync.headers(request, headers, now, fx),
            Input::HeadersChecked { request, verdict } => {
                let added = self.sync.headers_checked(request, verdict, now, fx);
                self.take_over(&added, now, fx);
            }
            Input::Fetched { request, block } => self.fetched(request, block, now, fx),
            Input::Progress { request, bytes } => {
                self.relay.progress(request, bytes, now);
                self.sync.schedule.progress(request, bytes, now);
            }
            Input::Certificate { request, verdict } => self.certificate(request, verdict, fx),
            Input::Ended { request, end } => self.ended(request, end, now),
            Input::Imported { id, outcome } => self.imported(id, outcome, now, fx),
            Input::HeadChanged { head } => {
                self.tip.moved(now);
                self.sync.head_changed(Checkpoint { height: head.height, id: head.id() });
                self.head = Some(head);
            }
        }
        self.pump(now, &mut effects);
        effects
    }

    /// Does what is due by now.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.pump(now, &mut effects);
        effects
    }

    /// When [`Self::on_deadline`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let tip = (!self.sync.peers.is_empty()).then(|| self.tip.deadline());
        [self.relay.next_deadline(), self.sync.next_deadline(self.now), self.certificate.next_deadline(), tip]
            .into_iter()
            .flatten()
            .min()
    }

    /// A checked header that is on its way into the chain.
    pub fn header(&self, id: &BlockId) -> Option<&Header> {
        self.relay.header(id).or_else(|| self.sync.header(id))
    }

    /// A block that was announced to others and is not imported yet. Serve it.
    pub fn block(&self, id: &BlockId) -> Option<&Arc<Block>> {
        self.relay.block(id)
    }

    /// Figures for people.
    pub fn progress(&self, now: Instant) -> SyncProgress {
        let (blocks_per_second, bytes_per_second) = self.speed.rates(now);
        let window = &self.sync.schedule.window;
        SyncProgress {
            state: self.state,
            height: self.sync.height(),
            target: self.sync.target(),
            headers_ahead: window.len(),
            window_bytes: window.open_bytes(),
            blocks_per_second,
            bytes_per_second,
            peers_serving: self.sync.schedule.peers_serving(&self.sync.peers),
        }
    }

    /// Announced blocks waited for; blocks here and not imported; bytes of those.
    pub fn relay_load(&self) -> (usize, usize, usize) {
        self.relay.load()
    }

    /// Payloads that travel in shards; bytes of shards that are here.
    pub fn shard_load(&self) -> (usize, usize) {
        self.relay.shard_load()
    }

    /// How new blocks came, counted.
    pub fn block_stats(&self) -> BlockStats {
        self.relay.stats()
    }

    /// From the first news of a new block until it was here, for each that came since the last call; at most 256.
    pub fn take_waits(&mut self) -> Vec<Duration> {
        self.relay.take_waits()
    }

    fn claim(&mut self, orphans: Orphans) {
        for (peer, block) in orphans {
            self.sync.claimed(&peer, block);
        }
    }

    /// Blocks that the relay was about to get are chain sync's now; those with the importer stay there.
    fn take_over(&mut self, added: &[BlockId], now: Instant, fx: &mut Vec<Effect>) {
        for id in added {
            if self.relay.is_handed(id) {
                self.sync.schedule.window.handed_elsewhere(id);
            } else if let Some((from, block)) = self.relay.yield_waiting(id) {
                self.sync.offered(from, block, now, fx);
            } else {
                let orphans = self.relay.yield_branch(*id, fx);
                self.claim(orphans);
            }
        }
    }

    fn peer_down(&mut self, peer: &PeerId, fx: &mut Vec<Effect>) {
        self.certificate.peer_down(peer);
        self.sync.peer_down(peer);
        let orphans = self.relay.peer_down(peer, fx);
        self.claim(orphans);
    }

    fn announced(
        &mut self,
        peer: PeerId,
        header: &Header,
        verdict: HeaderVerdict,
        now: Instant,
        fx: &mut Vec<Effect>,
    ) {
        let id = header.id();
        if self.sync.is_bad(&id) || !self.sync.peers.contains_key(&peer) {
            return;
        }
        if verdict == HeaderVerdict::Invalid {
            fx.push(Effect::Offence { peer, what: Offence::InvalidHeader });
            return;
        }
        self.relay.peer_has(&peer, id);
        self.sync.reaches(&peer, header.height);
        match verdict {
            HeaderVerdict::Good if self.sync.covers(&id) => {}
            HeaderVerdict::Good if self.sync.covers(&header.parent) => self.sync.announced(peer, header),
            HeaderVerdict::Good => {
                let orphans = self.relay.announced(peer, header, now, fx);
                self.claim(orphans);
            }
            HeaderVerdict::UnknownParent => {
                self.sync.claimed(&peer, Checkpoint { height: header.height, id });
            }
            HeaderVerdict::Known | HeaderVerdict::Ignore | HeaderVerdict::Invalid => {}
        }
    }

    fn pushed(
        &mut self,
        peer: PeerId,
        received: Received,
        verdict: HeaderVerdict,
        now: Instant,
        fx: &mut Vec<Effect>,
    ) {
        let block = match received {
            Received::Matching(block) => block,
            Received::Mismatched { id, .. } => {
                fx.push(Effect::Offence { peer, what: Offence::MutatedBody });
                self.mutated(id, &peer, fx);
                return;
            }
        };
        let id = block.header().id();
        let here = self.relay.block(&id).is_some() || self.sync.is_bad(&id);
        if verdict != HeaderVerdict::Good || here || !self.sync.peers.contains_key(&peer) {
            if here || verdict == HeaderVerdict::Known {
                self.relay.received_again(&block);
            }
            return self.announced(peer, &block.header().clone(), verdict, now, fx);
        }
        self.relay.peer_has(&peer, id);
        self.sync.reaches(&peer, block.header().height);
        if self.sync.covers(&block.header().parent) && !self.sync.covers(&id) {
            self.sync.announced(peer, block.header());
        }
        if self.sync.covers(&id) {
            self.sync.offered(peer, block, now, fx);
        } else if !self.sync.covers(&block.header().parent) {
            let orphans = self.relay.received(peer, block, now, fx);
            self.claim(orphans);
        }
    }

    fn compact(
        &mut self,
        peer: PeerId,
        compact: CompactBlock,
        verdict: HeaderVerdict,
        now: Instant,
        fx: &mut Vec<Effect>,
    ) {
        let id = compact.header.id();
        let ours = !self.sync.covers(&id) && !self.sync.covers(&compact.header.parent);
        let usable = verdict == HeaderVerdict::Good && ours && !self.sync.is_bad(&id);
        if !usable || !self.sync.peers.contains_key(&peer) {
            return self.announced(peer, &compact.header, verdict, now, fx);
        }
        self.relay.peer_has(&peer, id);
        self.sync.reaches(&peer, compact.header.height);
        let orphans = self.relay.compact(peer, compact, now, fx);
        self.claim(orphans);
    }

    /// A plan is news of its block too, but not of who has it.
    fn shard_plan(
        &mut self,
        peer: PeerId,
        plan: Arc<ShardPlan>,
        verdict: HeaderVerdict,
        now: Instant,
        fx: &mut Vec<Effect>,
    ) {
        let header = &plan.header;
        let ours = !self.sync.covers(&header.id()) && !self.sync.covers(&header.parent);
        if ours && !self.sync.is_bad(&header.id()) && self.sync.peers.contains_key(&peer) {
            self.relay.shard_plan(peer, plan, verdict, now, fx);
        }
    }

    fn fetched_compact(
        &mut self,
        request: RequestId,
        compact: CompactBlock,
        now: Instant,
        fx: &mut Vec<Effect>,
    ) {
        let Some((id, peer)) = self.relay.request(request) else { return };
        let orphans = if compact.header.id() == id {
            self.relay.compact(peer, compact, now, fx)
        } else {
            fx.push(Effect::Offence { peer, what: Offence::Unrequested });
            self.relay.discard_source(id, &peer, fx)
        };
        self.claim(orphans);
    }

    /// A peer sent a false body for a block: it is not asked for bodies again.
    fn mutated(&mut self, id: BlockId, peer: &PeerId, fx: &mut Vec<Effect>) {
        if let Some(peer) = self.sync.peers.get_mut(peer) {
            peer.barred = true;
        }
        let orphans = self.relay.discard_source(id, peer, fx);
        self.claim(orphans);
    }

    fn fetched(&mut self, request: RequestId, received: Received, now: Instant, fx: &mut Vec<Effect>) {
        let Some((id, peer)) = self.relay.request(request) else {
            return self.sync.fetched(request, received, now, fx);
        };
        match received {
            Received::Matching(block) if block.header().id() == id => {
                let orphans = self.relay.received(peer, block, now, fx);
                self.claim(orphans);
            }
            Received::Mismatched { id: got, .. } if got == id => {
                fx.push(Effect::Offence { peer, what: Offence::MutatedBody });
                self.mutated(id, &peer, fx);
            }
            Received::Matching(_) | Received::Mismatched { .. } => {
                fx.push(Effect::Offence { peer, what: Offence::Unrequested });
                let orphans = self.relay.discard_source(id, &peer, fx);
                self.claim(orphans);
            }
        }
    }

    fn certificate(&mut self, request: RequestId, verdict: CertificateVerdict, fx: &mut Vec<Effect>) {
        let Some(peer) = self.certificate.peer_of(request) else { return };
        match verdict {
            CertificateVerdict::Good => self.certificate.done(),
            CertificateVerdict::Invalid => {
                fx.push(Effect::Offence { peer, what: Offence::InvalidCertificate });
                self.certificate.failed();
            }
        }
    }

    fn ended(&mut self, request: RequestId, end: RequestEnd, now: Instant) {
        if self.certificate.peer_of(request).is_some() {
            self.certificate.failed();
        } else if self.relay.shard_request(request).is_some() {
            self.relay.shards_ended(request, now);
        } else if self.relay.request(request).is_some() {
            self.relay.ended(request, now);
        } else {
            self.sync.ended(request, end, now);
        }
    }

    fn imported(&mut self, id: BlockId, outcome: ImportOutcome, now: Instant, fx: &mut Vec<Effect>) {
        let bytes = self.header(&id).map_or(0, |header| header.body_bytes as usize);
        let (relayed, orphans) = self.relay.imported(id, outcome, fx);
        self.claim(orphans);
        let synced = self.sync.imported(id, outcome, now, fx);
        match outcome {
            ImportOutcome::Stored => {
                if synced && !relayed {
                    self.untold = Some(id);
                }
                self.speed.count(bytes, now);
            }
            ImportOutcome::Invalid => self.sync.mark_bad(id),
            ImportOutcome::Failed => {}
        }
    }

    fn pump(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        self.now = now;
        if !self.sync.peers.is_empty()
            && let Some(age) = self.tip.stale(now)
        {
            let idle = self.sync.peers.iter().filter(|(_, peer)| peer.outbound && peer.claim.is_none());
            fx.push(Effect::TipStale { age, outbound: idle.map(|(peer, _)| *peer).collect() });
            self.sync.challenge_all();
        }
        self.relay.pump(now, &mut self.next_request, fx);
        self.sync.pump(now, &mut self.next_request, fx);
        self.update_state(fx);
        self.certificate.pump(now, &self.sync.peers, &mut self.next_request, fx);
    }

    fn update_state(&mut self, fx: &mut Vec<Effect>) {
        let state = match () {
            () if self.sync.peers.is_empty() => SyncState::NoPeers,
            () if self.sync.is_behind() => SyncState::Syncing,
            () => SyncState::Synced,
        };
        // Those behind us heard nothing while we caught up.
        if state == SyncState::Synced
            && let Some(head) = self.head.as_ref().filter(|head| self.untold == Some(head.id()))
        {
            self.untold = None;
            self.relay.announce(&head.clone(), fx);
        }
        if state == self.state {
            return;
        }
        if state == SyncState::Synced && self.state == SyncState::Syncing {
            self.certificate.begin();
        }
        self.state = state;
        fx.push(Effect::State(state));
    }
}

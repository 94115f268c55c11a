//! The one task that changes the chain: blocks, votes, slots, and catching up.
//!
//! It owns two cores, the [`Chain`] and the [`BlockSync`], and carries values between them: a header
//! that a peer announced is checked by the one and judged by the other, a block that arrived is
//! imported by the one at the word of the other. Execution happens here, so everything that would
//! have to wait for it stands in another task.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use ghost_frames::{
    Frame, Payload, StreamType,
    block::{BlockAnnounce, BlocksRequest, WholeBlock},
    compact::{BlockRelayMode, BlockTransactionsRequest, CompactRequest},
    consensus::{Certificate, Vote as VoteFrame},
    shards::ShardRoot,
    sync::CertificateRequest,
};
use ghost_mempool_relay::{
    block::{
        BlockStats, Received,
        shards::{self, ShardOutcome, code::Coded},
    },
    pool::{HeadChange as PoolHeadChange, Pool},
    sync::{
        BlockSync, CertificateVerdict, Config as SyncConfig, Effect, HeaderVerdict, ImportOutcome, Input,
        RequestId, ShardFault, SyncProgress, SyncState, headers_request,
    },
};
use ghost_proto::{
    Action, Address, Block, Checkpoint, FinalityCertificate, Genesis, Header, PeerId, SignedTransaction,
    TxId, Vote,
};
use ghost_protocol::{Overlay, Session, inbox::Pushed, session::Direction};
use rand_chacha::ChaCha12Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    conduct::{Conduct, Offence},
    requests::{Report, Requests},
    transactions::{ToTransactions, accounts_of},
    underway::Underway,
};
use crate::{
    chain::{Blame, CertificateOutcome, Chain, FinalityChange, HeadChange, HeadView, Imported, Placement},
    clock::Clock,
    consensus::VoteVerdict,
    metrics::Metrics,
    oracle::{commit, relay::Board},
    store::StoreError,
};

/// Blocks imported between two flushes while catching up. What a crash loses is fetched again.
const FLUSH_EVERY: u32 = 64;

/// Checked headers waiting for their bodies above which the node counts as behind: it does not propose,
/// and imports in batches.
const BEHIND_HEADERS: usize = 2;

/// How often the log speaks of a clock that seems slow.
const CLOCK_WARNING_EVERY: Duration = Duration::from_secs(60);

/// What the chain task is told by the node.
#[derive(Debug)]
pub(crate) enum ToChain {
    /// A node peer is here.
    PeerUp(Session),
    /// It is gone.
    PeerDown(PeerId),
    /// Flush and end.
    Stop,
}

/// The head, for everyone who waits for the next.
#[derive(Debug, Clone)]
pub(crate) struct HeadNote {
    pub(crate) view: Arc<HeadView>,
    pub(crate) reorganised: bool,
}

/// What the chain task needs.
pub(crate) struct ChainService {
    pub(crate) chain: Chain,
    pub(crate) pool: Arc<Mutex<Pool>>,
    pub(crate) overlay: Overlay,
    pub(crate) clock: Clock,
    pub(crate) conduct: Conduct,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) entropy: ChaCha12Rng,
    pub(crate) commands: mpsc::Receiver<ToChain>,
    pub(crate) blocks: mpsc::Receiver<Pushed>,
    pub(crate) shards: mpsc::Receiver<Pushed>,
    pub(crate) consensus: mpsc::Receiver<Pushed>,
    pub(crate) transactions: mpsc::Sender<ToTransactions>,
    pub(crate) heads: watch::Sender<HeadNote>,
    pub(crate) progress: watch::Sender<SyncProgress>,
    pub(crate) underway: Underway,
    /// Decides the nonces of compact blocks.
    pub(crate) relay_seed: [u8; 32],
    /// Propose nothing before: a restarted node first hears what its peers have.
    pub(crate) listen_first: Option<Instant>,
    /// What is known of prices.
    pub(crate) prices: watch::Receiver<Board>,
}

/// Results of work on shards that may wait for the chain task.
const JOBS_MAX: usize = 16;

/// How many round trips ago a transaction must have come to be expected everywhere: its way through a network of a thousand nodes
/// takes 467 ms (99th percentile) where the median round trip is 100 ms.
const FRESH_ROUND_TRIPS: u32 = 4;

/// What was done elsewhere, because it takes a tenth of a second.
enum Worked {
    /// Our own block was cut.
    Cut { block: Arc<Block>, indexes: Vec<u32>, payload_bytes: u32, coded: Coded },
    /// A peer's payload was put together, or cut.
    Done(ShardRoot, ShardOutcome),
}

struct Running {
    service: ChainService,
    genesis: Arc<Genesis>,
    sync: BlockSync,
    requests: Requests<RequestId>,
    work: mpsc::Sender<Worked>,
    worked: mpsc::Receiver<Worked>,
    sessions: BTreeMap<PeerId, Session>,
    unflushed: u32,
    /// Sent again to whoever connects: votes cast alone would reach nobody.
    last_vote: Option<Vote>,
    /// Our latest slot, while nothing was proposed in it.
    turn: Option<u64>,
    warned_of_clock: Option<Instant>,
    tip_is_stale: bool,
    /// What was counted already.
    counted: BlockStats,
}

impl ChainService {
    /// Runs until the node stops (the command channel closes) or the store fails.
    pub(crate) async fn run(self) -> Result<(), StoreError> {
        let genesis = self.chain.genesis().clone();
        let view = self.chain.view();
        let config = SyncConfig {
            head: view.head().into(),
            slot: Duration::from_millis(genesis.slot_ms),
            seed: self.relay_seed,
        };
        let sync = BlockSync::new(config, Instant::now().into_std());
        let (work, worked) = mpsc::channel(JOBS_MAX);
        Running {
            service: self,
            genesis,
            sync,
            requests: Requests::new(),
            work,
            worked,
            sessions: BTreeMap::new(),
            unflushed: 0,
            last_vote: None,
            turn: None,
            warned_of_clock: None,
            tip_is_stale: false,
            counted: BlockStats::default(),
        }
        .run()
        .await
    }
}

impl Running {
    async fn run(mut self) -> Result<(), StoreError> {
        loop {
            let wake = self.next_wake();
            tokio::select! {
                command = self.service.commands.recv() => match command {
                    Some(ToChain::PeerUp(session)) => self.peer_up(session).await?,
                    Some(ToChain::PeerDown(peer)) => {
                        self.sessions.remove(&peer);
                        self.input(Input::PeerDown { peer }).await?;
                    }
                    Some(ToChain::Stop) | None => break,
                },
                Some(pushed) = self.service.consensus.recv() => {
                    for frame in pushed.frames {
                        self.consensus_frame(&pushed.session, frame).await?;
                    }
                }
                Some(pushed) = self.service.blocks.recv() => {
                    for frame in pushed.frames {
                        self.block_frame(&pushed.session, frame).await?;
                    }
                }
                Some(pushed) = self.service.shards.recv() => {
                    for frame in pushed.frames {
                        self.shard_frame(&pushed.session, frame).await?;
                    }
                }
                Some(worked) = self.worked.recv() => self.worked(worked).await?,
                report = self.requests.next() => self.report(report).await?,
                () = sleep_until(wake) => {}
            }
            self.on_time().await?;
        }
        self.service.chain.flush()
    }

    /// When something is due: a turn to propose, a vote, or a deadline of the sync core.
    fn next_wake(&self) -> Instant {
        let clock = &self.service.clock;
        let chain = &self.service.chain;
        let turn = chain.next_turn_start(clock.unix_ms()).map(|at| clock.instant_of(at));
        let vote = chain.vote_due().map(|at| clock.instant_of(at));
        let sync = self.sync.next_deadline().map(Instant::from_std);
        let hour = Instant::now() + Duration::from_secs(3600);
        [turn, vote, sync].into_iter().flatten().fold(hour, Instant::min)
    }

    async fn on_time(&mut self) -> Result<(), StoreError> {
        let now = Instant::now().into_std();
        if self.sync.next_deadline().is_some_and(|deadline| deadline <= now) {
            let effects = self.sync.on_deadline(now);
            self.perform(effects).await?;
        }
        self.propose().await?;
        self.vote().await?;
        let progress = self.sync.progress(now);
        let metrics = &self.service.metrics;
        metrics.sync_target_height.set(progress.target.max(progress.height) as i64);
        metrics.syncing.set(i64::from(progress.state == SyncState::Syncing));
        self.service.progress.send_replace(progress);
        self.count_blocks();
        Ok(())
    }

    fn count_blocks(&mut self) {
        let (now, metrics) = (self.sync.block_stats(), &self.service.metrics);
        let before = std::mem::replace(&mut self.counted, now);
        for (counter, now, before) in [
            (&metrics.relay_blocks_whole, now.whole, before.whole),
            (&metrics.relay_blocks_compact, now.rebuilt, before.rebuilt),
            (&metrics.relay_blocks_compact_at_once, now.rebuilt_at_once, before.rebuilt_at_once),
            (&metrics.relay_blocks_compact_failed, now.whole_instead, before.whole_instead),
            (&metrics.relay_duplicate_blocks, now.whole_known, before.whole_known),
            (&metrics.relay_block_transactions_found, now.transactions_found, before.transactions_found),
            (&metrics.relay_block_transactions_lacked, now.transactions_lacked, before.transactions_lacked),
            (&metrics.relay_block_requests, now.requests, before.requests),
            (&metrics.relay_block_bytes, now.bytes, before.bytes),
            (&metrics.relay_blocks_sharded, now.sharded, before.sharded),
            (&metrics.relay_shards, now.shards, before.shards),
            (&metrics.relay_shards_useless, now.shards_useless, before.shards_useless),
        ] {
            counter.inc_by(now - before);
        }
        for wait in self.sync.take_waits() {
            metrics.block_arrival_seconds.observe(wait.as_secs_f64());
        }
    }

    fn view(&self) -> Arc<HeadView> {
        self.service.chain.view()
    }

    // ---- peers

    async fn peer_up(&mut self, session: Session) -> Result<(), StoreError> {
        let peer = session.peer();
        let (height, id) = session.hello().best;
        let view = self.view();
        let best_known = view.contains(&id)?;
        // A peer whose finality is behind ours catches up at once.
        if session.hello().finalized_height < view.finalized().height {
            for certificate in view.finalized_by().into_iter().chain(view.justified_by()) {
                session.push(StreamType::Consensus, &Certificate(certificate.as_ref().clone()).to_frame());
            }
        }
        if let Some(vote) = self.last_vote {
            session.push(StreamType::Consensus, &VoteFrame(vote).to_frame());
        }
        let input = Input::PeerUp {
            peer,
            outbound: session.direction() == Direction::Outbound,
            best: Checkpoint { height, id },
            best_known,
            rtt: session.rtt(),
        };
        self.sessions.insert(peer, session);
        self.input(input).await
    }

    // ---- blocks

    async fn block_frame(&mut self, session: &Session, frame: Frame) -> Result<(), StoreError> {
        let peer = session.peer();
        match frame {
            Frame::BlockAnnounce(BlockAnnounce(header)) => {
                let verdict = self.judge(&header)?;
                self.input(Input::Announced { peer, header, verdict }).await
            }
            Frame::WholeBlock(block) => {
                let verdict = self.judge(&block.header)?;
                self.input(Input::Pushed { peer, block: Received::read(block), verdict }).await
            }
            Frame::CompactBlock(compact) => {
                let verdict = self.judge(&compact.header)?;
                self.input(Input::Compact { peer, compact, verdict }).await
            }
            Frame::BlockRelayMode(mode) => {
                self.input(Input::RelayMode { peer, push: mode == BlockRelayMode::Push }).await
            }
            _ => Ok(()),
        }
    }

    async fn shard_frame(&mut self, session: &Session, frame: Frame) -> Result<(), StoreError> {
        let peer = session.peer();
        match frame {
            Frame::ShardPlan(plan) => {
                let now = self.service.clock.unix_ms();
                let verdict = self.service.chain.judge_plan(&plan, &self.sync, now)?;
                self.input(Input::ShardPlan { peer, plan: Arc::new(plan), verdict }).await
            }
            Frame::ShardHave(have) => self.input(Input::ShardHave { peer, have }).await,
            Frame::Shard(shard) => self.input(Input::Shard { peer, shard }).await,
            _ => Ok(()),
        }
    }

    /// Runs something on a thread of its own and hears of it later.
    fn start_work(&self, work: impl FnOnce() -> Worked + Send + 'static) {
        let sender = self.work.clone();
        tokio::task::spawn_blocking(move || {
            // Fails only if the node is going down.
            let _ = sender.blocking_send(work());
        });
    }

    async fn worked(&mut self, worked: Worked) -> Result<(), StoreError> {
        match worked {
            Worked::Cut { block, indexes, payload_bytes, coded } => {
                let plan = self.service.chain.seal_shards(block.header(), payload_bytes, coded.root, indexes);
                match plan {
                    Some(plan) => self.input(Input::ShardsCut { plan: Arc::new(plan), coded }).await,
                    None => Ok(()),
                }
            }
            Worked::Done(root, outcome) => self.input(Input::ShardsWorked { root, outcome }).await,
        }
    }

    /// Places of the transactions of our own block that others are not expected to have.
    fn fresh(&self, block: &Block) -> Vec<u32> {
        let mut round_trips: Vec<Duration> = self.sessions.values().map(Session::rtt).collect();
        round_trips.sort_unstable();
        let Some(median) = round_trips.get(round_trips.len() / 2) else { return Vec::new() };
        let (now, age) = (Instant::now().into_std(), *median * FRESH_ROUND_TRIPS);
        let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
        let is_fresh = |tx: &SignedTransaction| {
            pool.arrived(&tx.id()).is_none_or(|arrived| now.saturating_duration_since(arrived) < age)
        };
        let fresh = block.transactions().iter().enumerate().filter(|(_, tx)| is_fresh(tx));
        fresh.map(|(place, _)| place as u32).collect()
    }

    fn judge(&self, header: &Header) -> Result<HeaderVerdict, StoreError> {
        self.service.chain.judge(header, &self.sync, self.service.clock.unix_ms())
    }

    /// Says, now and then, that peers have blocks of a time that has not come here.
    fn warn_of_clock(&mut self, ahead_ms: u64) {
        let now = Instant::now();
        if self.warned_of_clock.is_none_or(|last| now - last >= CLOCK_WARNING_EVERY) {
            self.warned_of_clock = Some(now);
            tracing::warn!(
                ahead_s = ahead_ms / 1000,
                "peers have blocks that this node's clock calls too early; it follows as far as its clock goes. Set the clock"
            );
        }
    }

    async fn report(&mut self, report: Report<RequestId>) -> Result<(), StoreError> {
        let input = match report {
            Report::Block(request, block) => Input::Fetched { request, block },
            Report::Frame(request, frame) => match *frame {
                Frame::Headers(headers) => Input::Headers { request, headers: headers.headers },
                Frame::Certificate(Certificate(certificate)) => {
                    let verdict = match self.certificate(&certificate).await? {
                        CertificateOutcome::Invalid(_) => CertificateVerdict::Invalid,
                        _ => CertificateVerdict::Good,
                    };
                    Input::Certificate { request, verdict }
                }
                Frame::CompactBlock(compact) => Input::FetchedCompact { request, compact },
                Frame::Shard(shard) => Input::FetchedShard { request, shard },
                Frame::BlockTransactions(frame) => {
                    Input::FetchedTransactions { request, transactions: frame.transactions }
                }
                // Anything else was not asked for; the end of the request says that nothing came.
                _ => return Ok(()),
            },
            Report::Progress(request, bytes) => Input::Progress { request, bytes },
            Report::Ended(request, end) => Input::Ended { request, end },
        };
        self.input(input).await
    }

    async fn input(&mut self, input: Input) -> Result<(), StoreError> {
        let effects = self.sync.handle(input, Instant::now().into_std());
        self.perform(effects).await
    }

    /// Performs effects in order. What they lead to is performed after them.
    async fn perform(&mut self, effects: Vec<Effect>) -> Result<(), StoreError> {
        let mut queue = std::collections::VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let Some(input) = self.perform_one(effect).await? else { continue };
            queue.extend(self.sync.handle(input, Instant::now().into_std()));
        }
        self.service.underway.keep(|id| self.sync.block(id).is_some());
        Ok(())
    }

    async fn perform_one(&mut self, effect: Effect) -> Result<Option<Input>, StoreError> {
        match effect {
            Effect::RequestHeaders { peer, request, after } => {
                let view = self.view();
                let canonical = |height| match height {
                    0 => Some(self.genesis.block_id()),
                    _ => view.canonical_id(height).ok().flatten(),
                };
                let frame = headers_request(&after, view.head().height, canonical).to_frame();
                self.start(peer, request, StreamType::Sync, frame);
            }
            Effect::RequestBlocks { peer, request, stream, ids } => {
                self.start(peer, request, stream, BlocksRequest { ids }.to_frame());
            }
            Effect::RequestCompact { peer, request, id } => {
                self.start(peer, request, StreamType::BlockFetch, CompactRequest(id).to_frame());
            }
            Effect::RequestTransactions { peer, request, id, places } => {
                let frame = BlockTransactionsRequest { block: id, indexes: places }.to_frame();
                self.start(peer, request, StreamType::BlockFetch, frame);
            }
            Effect::LookUp { wanted } => {
                let found = {
                    let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
                    wanted.select(pool.transactions().map(|tx| &**tx))
                };
                return Ok(Some(Input::LookedUp { id: wanted.block(), found }));
            }
            Effect::PushCompact { peers, compact, partial } => {
                if let Some(partial) = partial {
                    self.service.underway.insert_partial(partial);
                } else if let Some(block) = self.sync.block(&compact.header.id()) {
                    self.service.underway.insert(block);
                }
                self.push(&peers, &compact.to_frame());
            }
            Effect::PushShardPlan { peers, plan } => self.push_shards(&peers, &plan.to_frame()),
            Effect::PushShardHave { peers, have } => self.push_shards(&peers, &have.to_frame()),
            Effect::PushShard { peer, shard } => self.push_shards(&[peer], &shard.to_frame()),
            Effect::RequestShards { peer, request, wanted } => {
                self.start(peer, request, StreamType::BlockFetch, wanted.to_frame());
            }
            Effect::KeepShards { shards } => self.service.underway.insert_shards(shards),
            Effect::DropShards { root } => self.service.underway.drop_shards(&root),
            Effect::CutShards { block, indexes } => self.start_work(move || {
                let payload = shards::payload(&block, &indexes);
                let (payload_bytes, coded) = (payload.len() as u32, shards::code::encode(&payload));
                Worked::Cut { block, indexes, payload_bytes, coded }
            }),
            Effect::WorkOnShards { job } => self.start_work(move || {
                let root = job.plan().root;
                Worked::Done(root, job.run())
            }),
            Effect::ShardFault(fault) => {
                let (plan, what) = match &fault {
                    ShardFault::Equivocal { first, .. } => (first, "signed two shard roots for one block"),
                    ShardFault::Poisoned { plan } => (plan, "signed a shard root that is not its block's"),
                };
                tracing::warn!(
                    authority = plan.header.proposer,
                    block = %plan.header.id().short(),
                    "an authority {what}; the block is got without shards"
                );
                self.service.metrics.shard_faults.inc();
            }
            Effect::RelayMode { peer, push } => {
                let mode = if push { BlockRelayMode::Push } else { BlockRelayMode::Announce };
                self.push(&[peer], &mode.to_frame());
            }
            Effect::RequestCertificate { peer, request } => {
                self.start(peer, request, StreamType::Sync, CertificateRequest.to_frame());
            }
            Effect::Cancel { request } => self.requests.cancel(request),
            Effect::CheckHeaders { request, headers, .. } => {
                let now = self.service.clock.unix_ms();
                let (verdict, early_ms) = self.service.chain.judge_all(&headers, &self.sync, now)?;
                if let Some(early_ms) = early_ms {
                    self.warn_of_clock(early_ms);
                }
                return Ok(Some(Input::HeadersChecked { request, verdict }));
            }
            Effect::Import { block, from } => {
                self.service.underway.insert(&block);
                let input = self.import(block).await?;
                if matches!(input, Input::Imported { outcome: ImportOutcome::Stored, .. }) {
                    self.service.conduct.brought_block(from);
                }
                return Ok(Some(input));
            }
            Effect::Announce { peers, header } => {
                if let Some(block) = self.sync.block(&header.id()) {
                    self.service.underway.insert(block);
                }
                self.push(&peers, &BlockAnnounce(header).to_frame());
            }
            Effect::PushWhole { peers, block } => {
                let encoded = block.encode();
                let frame = ghost_frames::EncodedFrame::new(
                    <WholeBlock as ghost_frames::writer::Registered>::KIND,
                    &encoded,
                );
                self.push(&peers, &frame);
            }
            Effect::Offence { peer, what } => self.service.conduct.offence(peer, Offence::Block(what)),
            Effect::State(state) => {
                if state == SyncState::Synced && self.unflushed > 0 {
                    self.unflushed = 0;
                    self.service.chain.flush()?;
                }
                tracing::info!(?state, "chain sync");
            }
            Effect::TipStale { age, outbound } => {
                tracing::warn!(
                    age_s = age.as_secs(),
                    peers = outbound.len(),
                    "the head has not moved for long"
                );
                self.tip_is_stale = true;
                self.service.conduct.tip(true);
            }
        }
        Ok(None)
    }

    /// What finds no room is asked for by who lacks it.
    fn push_shards(&self, peers: &[PeerId], frame: &ghost_frames::EncodedFrame) {
        for session in peers.iter().filter_map(|peer| self.sessions.get(peer)) {
            session.push(StreamType::ShardPush, frame);
        }
    }

    fn push(&self, peers: &[PeerId], frame: &ghost_frames::EncodedFrame) {
        for session in peers.iter().filter_map(|peer| self.sessions.get(peer)) {
            session.push(StreamType::BlockPush, frame);
        }
    }

    fn start(
        &mut self,
        peer: PeerId,
        request: RequestId,
        stream: StreamType,
        frame: ghost_frames::EncodedFrame,
    ) {
        // Without a session the core hears `PeerDown` next, which ends the peer's requests.
        if let Some(session) = self.sessions.get(&peer) {
            self.requests.start(request, session.clone(), stream, frame);
        }
    }

    async fn import(&mut self, block: Arc<Block>) -> Result<Input, StoreError> {
        let id = block.header().id();
        let verified: HashSet<TxId> = {
            let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            block.transactions().iter().map(SignedTransaction::id).filter(|id| pool.contains(id)).collect()
        };
        let verified = |id: &TxId| verified.contains(id);
        let now = self.service.clock.unix_ms();
        let behind = self.sync.progress(Instant::now().into_std()).headers_ahead > BEHIND_HEADERS;
        let begun = Instant::now();
        let result = if behind {
            self.unflushed += 1;
            self.service.chain.import_later(block.as_ref().clone(), verified, now)
        } else {
            self.service.chain.import(block.as_ref().clone(), verified, now)
        };
        if self.unflushed >= FLUSH_EVERY {
            self.unflushed = 0;
            self.service.chain.flush()?;
        }
        self.service.metrics.block_import_seconds.observe(begun.elapsed().as_secs_f64());
        self.service.underway.imported(&id);
        let outcome = match result {
            Ok(imported) => {
                self.imported(imported).await?;
                ImportOutcome::Stored
            }
            Err(error) => {
                tracing::warn!(block = %id.short(), %error, "block not imported");
                match error.blame() {
                    Blame::Ourselves => return Err(import_store_error(error)),
                    Blame::Nobody => ImportOutcome::Failed,
                    Blame::Sender | Blame::Proposer => {
                        self.service.metrics.blocks_invalid.inc();
                        ImportOutcome::Invalid
                    }
                }
            }
        };
        Ok(Input::Imported { id, outcome })
    }

    async fn imported(&mut self, imported: Imported) -> Result<(), StoreError> {
        if imported.placement != Placement::AlreadyKnown {
            self.service.metrics.blocks_imported.inc();
        }
        if let Some(evidence) = &imported.equivocation {
            tracing::warn!(
                authority = evidence.authority(),
                ?evidence,
                "an authority signed two blocks for one slot"
            );
            self.service.metrics.equivocations.inc();
        }
        self.changed(imported.change).await
    }

    // ---- slots and votes

    async fn propose(&mut self) -> Result<(), StoreError> {
        let now = self.service.clock.unix_ms();
        let Some(slot) = self.service.chain.duty(now) else { return Ok(()) };
        // A block on a head that is known to be old would only be a fork. Headers carry signatures of
        // the authorities, so no peer can silence this node with claims.
        if self.turn.replace(slot).is_some_and(|turn| turn != slot) {
            self.service.metrics.slots_missed.inc();
        }
        let behind = self.sync.progress(Instant::now().into_std()).headers_ahead > BEHIND_HEADERS;
        if behind || self.service.listen_first.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let candidates = {
            let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            let bytes_max = self.genesis.block_bytes_max as usize;
            pool.select(bytes_max, self.genesis.block_gas_max).into_iter().cloned().collect()
        };
        let prices = {
            let board = self.service.prices.borrow().clone();
            let slot_start = self.genesis.slot_start_unix_ms(slot);
            commit::due(&self.genesis, &board, self.view().state(), slot_start)?
        };
        match self.service.chain.propose_with(slot, candidates, prices.as_ref(), now) {
            Ok(proposed) => {
                self.turn = None;
                self.service.metrics.blocks_proposed.inc();
                self.service.metrics.price_blocks.inc_by(prices.is_some().into());
                let block = Arc::new(proposed.block);
                self.service.underway.insert(&block);
                self.service.underway.imported(&block.header().id());
                // Told before anything else is done with it: every millisecond counts on its way.
                let fresh = self.fresh(&block);
                self.input(Input::Produced { block, fresh }).await?;
                self.imported(proposed.imported).await
            }
            Err(crate::chain::ProposeError::Store(error)) => Err(error),
            Err(error) => {
                tracing::debug!(slot, %error, "no block proposed");
                Ok(())
            }
        }
    }

    async fn vote(&mut self) -> Result<(), StoreError> {
        let now = self.service.clock.unix_ms();
        if self.service.chain.vote_due().is_none_or(|due| due > now) {
            return Ok(());
        }
        if let Some(own) = self.service.chain.vote(now)? {
            self.service.metrics.votes_cast.inc();
            self.last_vote = Some(own.vote);
            if let Some(certificate) = own.source_by {
                self.gossip(&Certificate(certificate).to_frame(), None);
            }
            self.gossip(&VoteFrame(own.vote).to_frame(), None);
            self.changed(own.finality).await?;
        }
        Ok(())
    }

    async fn consensus_frame(&mut self, session: &Session, frame: Frame) -> Result<(), StoreError> {
        match frame {
            Frame::Vote(VoteFrame(vote)) => self.vote_received(session, vote).await,
            Frame::Certificate(Certificate(certificate)) => {
                let peer = session.peer();
                match self.certificate(&certificate).await? {
                    CertificateOutcome::Followed(_) => {
                        self.gossip(&Certificate(certificate).to_frame(), Some(peer));
                    }
                    CertificateOutcome::Waiting(block) => self.input(Input::Missing { peer, block }).await?,
                    CertificateOutcome::Invalid(_) => {
                        self.service.conduct.offence(peer, Offence::InvalidCertificate)
                    }
                    CertificateOutcome::Known | CertificateOutcome::Refused(_) => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn vote_received(&mut self, session: &Session, vote: Vote) -> Result<(), StoreError> {
        let peer = session.peer();
        let outcome = self.service.chain.on_vote(vote)?;
        match outcome.verdict {
            VoteVerdict::Added(_) => {
                self.service.metrics.votes_received.inc();
                self.gossip(&VoteFrame(vote).to_frame(), Some(peer));
            }
            VoteVerdict::Equivocates(evidence) => {
                tracing::warn!(
                    authority = evidence.authority(),
                    ?evidence,
                    "an authority signed two votes that exclude each other"
                );
                self.service.metrics.equivocations.inc();
                self.gossip(&VoteFrame(vote).to_frame(), Some(peer));
            }
            VoteVerdict::Invalid(_) => self.service.conduct.offence(peer, Offence::InvalidVote),
            // A vote often outruns its block: that is no reason to ask for the block.
            VoteVerdict::Known | VoteVerdict::Old | VoteVerdict::TooFar => {}
        }
        self.changed(outcome.finality).await
    }

    async fn certificate(
        &mut self,
        certificate: &FinalityCertificate,
    ) -> Result<CertificateOutcome, StoreError> {
        let outcome = self.service.chain.on_certificate(certificate)?;
        match &outcome {
            CertificateOutcome::Followed(change) => self.changed(change.as_ref().clone()).await?,
            CertificateOutcome::Refused(fault) => {
                tracing::error!(%fault, "two thirds of the authorities signed what contradicts finality");
            }
            _ => {}
        }
        Ok(outcome)
    }

    fn gossip(&self, frame: &ghost_frames::EncodedFrame, except: Option<PeerId>) {
        for (peer, session) in &self.sessions {
            if Some(*peer) != except {
                session.push(StreamType::Consensus, frame);
            }
        }
    }

    async fn changed(&mut self, change: FinalityChange) -> Result<(), StoreError> {
        if let Some(finalized) = change.finalized {
            self.service.metrics.finalized_height.set(finalized.height as i64);
            self.service.overlay.update_hello(|hello| hello.finalized_height = finalized.height);
        }
        match change.head {
            Some(head) => self.head_changed(head).await,
            None => {
                if change.finalized.is_some() {
                    self.service.heads.send_replace(HeadNote { view: self.view(), reorganised: false });
                }
                Ok(())
            }
        }
    }

    // ---- head

    async fn head_changed(&mut self, change: HeadChange) -> Result<(), StoreError> {
        let view = self.view();
        let metrics = &self.service.metrics;
        metrics.head_height.set(change.new.height as i64);
        metrics.transactions_included.inc_by(change.included.len() as u64);
        if let Some(slot) = change.new.slot.filter(|_| metrics.syncing.get() == 0) {
            let now = self.service.clock.unix_ms();
            let delay = now.saturating_sub(self.genesis.slot_start_unix_ms(slot));
            metrics.block_delay_seconds.observe(delay as f64 / 1000.0);
        }
        if std::mem::take(&mut self.tip_is_stale) {
            self.service.conduct.tip(false);
        }
        if !change.reverted.is_empty() {
            metrics.reorganised(change.reverted.len() as u64);
            tracing::info!(depth = change.reverted.len(), height = change.new.height, "reorganised");
        }
        self.service.overlay.update_hello(|hello| hello.best = (change.new.height, change.new.id));

        let mut touched = BTreeSet::new();
        for id in change.applied.iter().chain(&change.reverted) {
            for tx in view.block(id)?.iter().flat_map(|block| block.transactions()) {
                touched.insert(tx.sender());
                touched.insert(receiver(tx));
            }
        }
        let returned = SignedTransaction::verify_many(change.returned, &mut self.service.entropy);
        let pool_change = PoolHeadChange {
            included: change.included.clone(),
            // They verified when their block was imported, and do so again.
            reverted: returned.into_iter().filter_map(Result::ok).collect(),
            touched: touched.into_iter().collect(),
        };
        let outcome = {
            let accounts = accounts_of(&view);
            let mut pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            pool.on_head_change(pool_change, &accounts, Instant::now().into_std())
        };
        let note = ToTransactions::HeadChanged { ready: outcome.ready, removed: outcome.removed };
        // The transaction task ends only with the node.
        let _ = self.service.transactions.send(note).await;

        let reorganised = !change.reverted.is_empty();
        self.service.heads.send_replace(HeadNote { view: view.clone(), reorganised });
        if let Some(head) = view.header(&change.new.id)? {
            let effects = self.sync.handle(Input::HeadChanged { head }, Instant::now().into_std());
            Box::pin(self.perform(effects)).await?;
        }
        Ok(())
    }
}

/// Whose balance a transaction may raise, as far as it says.
fn receiver(tx: &SignedTransaction) -> Address {
    match &tx.body().action {
        Action::Transfer { to, .. } | Action::Call { to, .. } => *to,
        Action::Deploy { .. }
        | Action::Place { .. }
        | Action::Cancel { .. }
        | Action::Replace { .. }
        | Action::Prices { .. } => tx.sender(),
    }
}

fn import_store_error(error: crate::chain::ImportError) -> StoreError {
    match error {
        crate::chain::ImportError::Store(error) => error,
        other => StoreError::damaged(other.to_string()),
    }
}

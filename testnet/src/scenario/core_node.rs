//! A node made of cores alone: chain, block sync and mempool, with nothing around them that waits.
//!
//! It does what the chain task of the daemon does, in the same order; what that sends over sessions it
//! hands back as [`Message`]s.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::{
    compact::{BlockTransactions, CompactBlock},
    sync::HeadersRequest,
};
use ghost_mempool_relay::{
    block::{PartialBlock, Received, ShortIds, serve as block_serve},
    pool::{AccountState, Accounts, ChainRules, HeadChange as PoolHeadChange, Place, Pool, PoolConfig},
    sync::{
        BlockSync, CertificateVerdict, Config, Effect, HeaderVerdict, ImportOutcome, Input, RequestEnd,
        RequestId, headers_request, serve,
    },
};
use ghost_node::{
    chain::{
        Blame, CertificateOutcome, Chain, FinalityChange, HeadChange, HeadView, ImportError, Imported,
        OpenError, ProposeError,
    },
    consensus::VoteVerdict,
    engine::gas_to_wait,
    store::{ChainStore, StoreError},
};
use ghost_proto::{
    Action, Address, Block, BlockId, Checkpoint, FinalityCertificate, Genesis, Header, KeyPair, PeerId,
    SignedTransaction, TxId, VerifiedTransaction, Vote,
};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// Checked headers waiting for their bodies above which a node counts as behind.
const BEHIND_HEADERS: usize = 2;

/// Blocks that peers may ask for although a newer one is the head.
const RECENT_BLOCKS: usize = 64;

/// A restarted node proposes nothing for so long.
const LISTEN_FIRST: Duration = Duration::from_secs(3);

/// What travels between cores.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Header(Header),
    Whole(Arc<Block>),
    Compact(Arc<CompactBlock>),
    Mode(bool),
    Vote(Vote),
    Certificate(Arc<FinalityCertificate>),
    Transaction(VerifiedTransaction),
    Ask(RequestId, Question),
    Answer(RequestId, Vec<Part>),
}

/// What is asked of a peer.
#[derive(Debug, Clone)]
pub(super) enum Question {
    Headers(HeadersRequest),
    Blocks(Vec<BlockId>),
    Compact(BlockId),
    Transactions(BlockId, Vec<u32>),
    Certificate,
}

/// A frame of an answer.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Headers(Vec<Header>),
    Block(Arc<Block>),
    Transactions(BlockTransactions),
    Certificate(Arc<FinalityCertificate>),
}

/// Why a node of cores ended: its store is in memory, so this is a fault of the cores.
pub(super) type Fatal = StoreError;

/// What a node is started with.
pub(super) struct Parts {
    pub(super) genesis: Arc<Genesis>,
    pub(super) store: Arc<dyn ChainStore>,
    pub(super) authority: Option<KeyPair>,
    pub(super) seed: [u8; 32],
}

/// A node.
pub(super) struct CoreNode {
    genesis: Arc<Genesis>,
    chain: Chain,
    sync: BlockSync,
    pool: Pool,
    peers: BTreeSet<PeerId>,
    entropy: ChaCha12Rng,
    recent: VecDeque<Arc<Block>>,
    partial: VecDeque<Arc<PartialBlock>>,
    requests: BTreeMap<RequestId, PeerId>,
    last_vote: Option<Vote>,
    listen_until: Option<Instant>,
    out: Vec<(PeerId, Message)>,
    /// The time of day of what is going on.
    unix_ms: u64,
    now: Instant,
}

fn accounts_of(view: &HeadView) -> impl Accounts + '_ {
    |address: &Address| {
        let account = view.account(address).unwrap_or_default();
        AccountState { nonce: account.nonce, balance: account.balance }
    }
}

impl CoreNode {
    pub(super) fn open(parts: Parts, now: Instant, unix_ms: u64) -> Result<Self, OpenError> {
        let Parts { genesis, store, authority, seed } = parts;
        let draw = |purpose: &str| blake3::derive_key(purpose, &seed);
        let chain = Chain::open(genesis.clone(), store, authority, draw("ghost 2026 chain"))?;
        let view = chain.view();
        let config = Config {
            head: view.head().into(),
            slot: Duration::from_millis(genesis.slot_ms),
            seed: draw("ghost 2026 relay"),
        };
        let rules = ChainRules {
            chain_id: genesis.chain_id,
            gas_price_min: genesis.gas_price_min,
            block_gas_max: genesis.block_gas_max,
            intrinsic_gas: |tx| gas_to_wait(tx.body()),
        };
        Ok(Self {
            listen_until: (view.head().height > 0).then(|| now + LISTEN_FIRST),
            sync: BlockSync::new(config, now),
            pool: Pool::new(PoolConfig::default(), rules),
            peers: BTreeSet::new(),
            entropy: ChaCha12Rng::from_seed(draw("ghost 2026 signatures")),
            recent: VecDeque::new(),
            partial: VecDeque::new(),
            requests: BTreeMap::new(),
            last_vote: None,
            out: Vec::new(),
            genesis,
            chain,
            unix_ms,
            now,
        })
    }

    pub(super) fn view(&self) -> Arc<HeadView> {
        self.chain.view()
    }

    pub(super) fn pending(&self) -> usize {
        self.pool.status(self.now).count
    }

    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Everything it has to say since this was last asked.
    pub(super) fn take_messages(&mut self) -> Vec<(PeerId, Message)> {
        std::mem::take(&mut self.out)
    }

    /// From now on it is this late.
    pub(super) fn set_time(&mut self, now: Instant, unix_ms: u64) {
        (self.now, self.unix_ms) = (now, unix_ms);
    }

    /// When it has to be woken: by its own clock, and by the time that cores are told.
    pub(super) fn next_wake(&self) -> (Option<u64>, Option<Instant>) {
        let turn = self.chain.next_turn_start(self.unix_ms);
        let by_clock = [turn, self.chain.vote_due()].into_iter().flatten().min();
        let by_time = [self.sync.next_deadline(), self.pool.next_deadline(), self.listen_until]
            .into_iter()
            .flatten()
            .min();
        (by_clock, by_time)
    }

    pub(super) fn on_time(&mut self) -> Result<(), Fatal> {
        if self.listen_until.is_some_and(|until| until <= self.now) {
            self.listen_until = None;
        }
        if self.sync.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            let effects = self.sync.on_deadline(self.now);
            self.perform(effects)?;
        }
        if self.pool.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.pool.on_deadline(self.now);
        }
        self.propose()?;
        if self.chain.vote_due().is_some_and(|due| due <= self.unix_ms)
            && let Some(own) = self.chain.vote(self.unix_ms)?
        {
            self.last_vote = Some(own.vote);
            if let Some(certificate) = own.source_by {
                self.gossip(&Message::Certificate(certificate.into()), None);
            }
            self.gossip(&Message::Vote(own.vote), None);
            self.changed(own.finality)?;
        }
        Ok(())
    }

    pub(super) fn peer_up(&mut self, peer: PeerId, outbound: bool, other: &HeadView) -> Result<(), Fatal> {
        let view = self.view();
        if other.finalized().height < view.finalized().height {
            for certificate in view.finalized_by().into_iter().chain(view.justified_by()) {
                self.out.push((peer, Message::Certificate(certificate.clone())));
            }
        }
        if let Some(vote) = self.last_vote {
            self.out.push((peer, Message::Vote(vote)));
        }
        self.peers.insert(peer);
        let best: Checkpoint = other.head().into();
        let best_known = view.contains(&best.id)?;
        self.input(Input::PeerUp { peer, outbound, best, best_known, rtt: Duration::from_millis(50) })
    }

    pub(super) fn peer_down(&mut self, peer: PeerId) -> Result<(), Fatal> {
        self.requests.retain(|_, asked| *asked != peer);
        if self.peers.remove(&peer) { self.input(Input::PeerDown { peer }) } else { Ok(()) }
    }

    /// Takes a transaction of its own or of a peer, and passes on what is new.
    pub(super) fn transaction(&mut self, from: Option<PeerId>, tx: VerifiedTransaction) {
        let view = self.view();
        let inserted = self.pool.insert(tx.clone(), &accounts_of(&view), self.now);
        if inserted.is_ok_and(|inserted| inserted.place != Place::Known) {
            self.gossip(&Message::Transaction(tx), from);
        }
    }

    pub(super) fn message(&mut self, peer: PeerId, message: Message) -> Result<(), Fatal> {
        if !self.peers.contains(&peer) {
            return Ok(());
        }
        match message {
            Message::Header(header) => {
                let verdict = self.judge(&header)?;
                self.input(Input::Announced { peer, header, verdict })
            }
            Message::Whole(block) => {
                let verdict = self.judge(block.header())?;
                self.input(Input::Pushed { peer, block: Received::Matching(block), verdict })
            }
            Message::Compact(compact) => {
                let verdict = self.judge(&compact.header)?;
                self.input(Input::Compact { peer, compact: (*compact).clone(), verdict })
            }
            Message::Mode(push) => self.input(Input::RelayMode { peer, push }),
            Message::Vote(vote) => self.vote_received(peer, vote),
            Message::Certificate(certificate) => match self.certificate(&certificate)? {
                CertificateOutcome::Followed(_) => {
                    self.gossip(&Message::Certificate(certificate), Some(peer));
                    Ok(())
                }
                CertificateOutcome::Waiting(block) => self.input(Input::Missing { peer, block }),
                _ => Ok(()),
            },
            Message::Transaction(tx) => {
                self.transaction(Some(peer), tx);
                Ok(())
            }
            Message::Ask(request, question) => {
                let parts = self.answer(question)?;
                self.out.push((peer, Message::Answer(request, parts)));
                Ok(())
            }
            Message::Answer(request, parts) => self.answered(request, parts),
        }
    }

    fn answer(&self, question: Question) -> Result<Vec<Part>, Fatal> {
        let view = self.view();
        Ok(match question {
            Question::Headers(request) => {
                let height_of = |id: &BlockId| {
                    if *id == self.genesis.block_id() {
                        return Some(0);
                    }
                    let header = view.header(id).ok()??;
                    view.is_canonical(&header).ok()?.then_some(header.height)
                };
                let header_at = |height| view.header(&view.canonical_id(height).ok()??).ok()?;
                vec![Part::Headers(serve::headers(&request, height_of, header_at).headers)]
            }
            Question::Blocks(ids) => {
                let mut parts = Vec::new();
                for id in ids {
                    parts.extend(self.block(&id)?.map(Part::Block));
                }
                parts
            }
            Question::Compact(id) => self.block(&id)?.map(Part::Block).into_iter().collect(),
            Question::Transactions(id, places) => match self.block(&id)? {
                Some(block) => {
                    let all = block.transactions();
                    let frames = block_serve::transactions(places, |place| all.get(place as usize));
                    frames.into_iter().map(Part::Transactions).collect()
                }
                None => {
                    let partial = self.partial.iter().find(|partial| partial.header.id() == id);
                    let here = partial.map(|partial| {
                        let here = |place: u32| partial.transactions.get(place as usize)?.as_ref();
                        block_serve::transactions(places, here)
                    });
                    here.into_iter().flatten().map(Part::Transactions).collect()
                }
            },
            Question::Certificate => {
                let newest = view.justified_by().or(view.finalized_by());
                newest.cloned().map(Part::Certificate).into_iter().collect()
            }
        })
    }

    fn block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, Fatal> {
        if let Some(block) = self.recent.iter().rev().find(|block| block.header().id() == *id) {
            return Ok(Some(block.clone()));
        }
        if let Some(block) = self.sync.block(id) {
            return Ok(Some(block.clone()));
        }
        Ok(self.view().block(id)?.map(Arc::new))
    }

    fn answered(&mut self, request: RequestId, parts: Vec<Part>) -> Result<(), Fatal> {
        // A cancelled one hears nothing more.
        for part in parts {
            if !self.requests.contains_key(&request) {
                return Ok(());
            }
            let input = match part {
                Part::Headers(headers) => Input::Headers { request, headers },
                Part::Block(block) => Input::Fetched { request, block: Received::Matching(block) },
                Part::Transactions(frame) => {
                    Input::FetchedTransactions { request, transactions: frame.transactions }
                }
                Part::Certificate(certificate) => {
                    let verdict = match self.certificate(&certificate)? {
                        CertificateOutcome::Invalid(_) => CertificateVerdict::Invalid,
                        _ => CertificateVerdict::Good,
                    };
                    Input::Certificate { request, verdict }
                }
            };
            self.input(input)?;
        }
        match self.requests.remove(&request) {
            Some(_) => self.input(Input::Ended { request, end: RequestEnd::Done }),
            None => Ok(()),
        }
    }

    fn judge(&self, header: &Header) -> Result<HeaderVerdict, Fatal> {
        self.chain.judge(header, &self.sync, self.unix_ms)
    }

    fn input(&mut self, input: Input) -> Result<(), Fatal> {
        let effects = self.sync.handle(input, self.now);
        self.perform(effects)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), Fatal> {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let Some(input) = self.perform_one(effect)? else { continue };
            queue.extend(self.sync.handle(input, self.now));
        }
        Ok(())
    }

    fn ask(&mut self, peer: PeerId, request: RequestId, question: Question) {
        if self.peers.contains(&peer) {
            self.requests.insert(request, peer);
            self.out.push((peer, Message::Ask(request, question)));
        }
    }

    fn push(&mut self, peers: Vec<PeerId>, message: &Message) {
        self.out.extend(peers.into_iter().map(|peer| (peer, message.clone())));
    }

    fn perform_one(&mut self, effect: Effect) -> Result<Option<Input>, Fatal> {
        match effect {
            Effect::RequestHeaders { peer, request, after } => {
                let view = self.view();
                let canonical = |height| match height {
                    0 => Some(self.genesis.block_id()),
                    _ => view.canonical_id(height).ok().flatten(),
                };
                let question = headers_request(&after, view.head().height, canonical);
                self.ask(peer, request, Question::Headers(question));
            }
            Effect::RequestBlocks { peer, request, ids, .. } => {
                self.ask(peer, request, Question::Blocks(ids));
            }
            Effect::RequestCompact { peer, request, id } => self.ask(peer, request, Question::Compact(id)),
            Effect::RequestTransactions { peer, request, id, places } => {
                self.ask(peer, request, Question::Transactions(id, places));
            }
            Effect::RequestCertificate { peer, request } => self.ask(peer, request, Question::Certificate),
            Effect::LookUp { wanted } => {
                let found = ShortIds::select(&wanted, self.pool.transactions().map(|tx| &**tx));
                return Ok(Some(Input::LookedUp { id: wanted.block(), found }));
            }
            Effect::PushCompact { peers, compact, partial } => {
                if let Some(partial) = partial {
                    self.partial.push_back(partial);
                    if self.partial.len() > 4 {
                        self.partial.pop_front();
                    }
                }
                self.push(peers, &Message::Compact(compact));
            }
            // Blocks of this world are small, and it makes none with transactions that others lack.
            Effect::PushShardPlan { .. }
            | Effect::PushShardHave { .. }
            | Effect::PushShard { .. }
            | Effect::RequestShards { .. }
            | Effect::KeepShards { .. }
            | Effect::DropShards { .. }
            | Effect::CutShards { .. }
            | Effect::WorkOnShards { .. }
            | Effect::ShardFault(_) => {}
            Effect::RelayMode { peer, push } => self.out.push((peer, Message::Mode(push))),
            Effect::Cancel { request } => {
                self.requests.remove(&request);
            }
            Effect::CheckHeaders { request, headers, .. } => {
                let verdict = self.chain.judge_all(&headers, &self.sync, self.unix_ms)?.0;
                return Ok(Some(Input::HeadersChecked { request, verdict }));
            }
            Effect::Import { block, .. } => return self.import(block).map(Some),
            Effect::Announce { peers, header } => self.push(peers, &Message::Header(header)),
            Effect::PushWhole { peers, block } => self.push(peers, &Message::Whole(block)),
            Effect::Offence { .. } | Effect::State(_) | Effect::TipStale { .. } => {}
        }
        Ok(None)
    }

    fn remember(&mut self, block: Arc<Block>) {
        self.recent.push_back(block);
        if self.recent.len() > RECENT_BLOCKS {
            self.recent.pop_front();
        }
    }

    fn import(&mut self, block: Arc<Block>) -> Result<Input, Fatal> {
        let id = block.header().id();
        let pool = &self.pool;
        let verified: BTreeSet<TxId> =
            block.transactions().iter().map(SignedTransaction::id).filter(|id| pool.contains(id)).collect();
        self.remember(block.clone());
        let imported =
            self.chain.import(block.as_ref().clone(), |id: &TxId| verified.contains(id), self.unix_ms);
        let outcome = match imported {
            Ok(imported) => {
                self.imported(imported)?;
                ImportOutcome::Stored
            }
            Err(ImportError::Store(error)) => return Err(error),
            Err(error) if error.blame() == Blame::Nobody => ImportOutcome::Failed,
            Err(_) => ImportOutcome::Invalid,
        };
        Ok(Input::Imported { id, outcome })
    }

    fn imported(&mut self, imported: Imported) -> Result<(), Fatal> {
        self.changed(imported.change)
    }

    fn propose(&mut self) -> Result<(), Fatal> {
        let Some(slot) = self.chain.duty(self.unix_ms) else { return Ok(()) };
        let behind = self.sync.progress(self.now).headers_ahead > BEHIND_HEADERS;
        if behind || self.listen_until.is_some() {
            return Ok(());
        }
        let bytes_max = self.genesis.block_bytes_max as usize;
        let candidates =
            self.pool.select(bytes_max, self.genesis.block_gas_max).into_iter().cloned().collect();
        match self.chain.propose(slot, candidates, self.unix_ms) {
            Ok(proposed) => {
                let block = Arc::new(proposed.block);
                self.remember(block.clone());
                self.input(Input::Produced { block, fresh: Vec::new() })?;
                self.imported(proposed.imported)
            }
            Err(ProposeError::Store(error)) => Err(error),
            Err(_) => Ok(()),
        }
    }

    fn vote_received(&mut self, peer: PeerId, vote: Vote) -> Result<(), Fatal> {
        let outcome = self.chain.on_vote(vote)?;
        if matches!(outcome.verdict, VoteVerdict::Added(_) | VoteVerdict::Equivocates(_)) {
            self.gossip(&Message::Vote(vote), Some(peer));
        }
        self.changed(outcome.finality)
    }

    fn certificate(&mut self, certificate: &FinalityCertificate) -> Result<CertificateOutcome, Fatal> {
        let outcome = self.chain.on_certificate(certificate)?;
        if let CertificateOutcome::Followed(change) = &outcome {
            self.changed(change.as_ref().clone())?;
        }
        Ok(outcome)
    }

    fn gossip(&mut self, message: &Message, except: Option<PeerId>) {
        let others = self.peers.iter().filter(|peer| Some(**peer) != except);
        self.out.extend(others.map(|peer| (*peer, message.clone())));
    }

    fn changed(&mut self, change: FinalityChange) -> Result<(), Fatal> {
        change.head.map_or(Ok(()), |head| self.head_changed(head))
    }

    fn head_changed(&mut self, change: HeadChange) -> Result<(), Fatal> {
        let view = self.view();
        let mut touched = BTreeSet::new();
        for id in change.applied.iter().chain(&change.reverted) {
            for tx in view.block(id)?.iter().flat_map(|block| block.transactions()) {
                touched.insert(tx.sender());
                if let Action::Transfer { to, .. } = &tx.body().action {
                    touched.insert(*to);
                }
            }
        }
        let returned = SignedTransaction::verify_many(change.returned, &mut self.entropy);
        let pool_change = PoolHeadChange {
            included: change.included,
            reverted: returned.into_iter().filter_map(Result::ok).collect(),
            touched: touched.into_iter().collect(),
        };
        self.pool.on_head_change(pool_change, &accounts_of(&view), self.now);
        if let Some(head) = view.header(&change.new.id)? {
            self.input(Input::HeadChanged { head })?;
        }
        Ok(())
    }
}

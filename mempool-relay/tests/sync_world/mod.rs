//! One node under test among made-up peers, in virtual time.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::print_stdout)]

#[path = "../../simulation/chain.rs"]
pub mod chain;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::{block::WholeBlock, sync::HeadersRequest};
use ghost_mempool_relay::{
    block::Received,
    sync::{
        BODY_WINDOW_BYTES_MAX, BlockSync, CertificateVerdict, Config, Effect, HEADER_WINDOW_MAX, IMPORTS_MAX,
        Input, Offence, RequestEnd, RequestId, SyncState, headers_request, serve,
    },
};
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, block::HEADER_LEN};

use chain::{Blocks, Chain, ROOT, checkpoint, peer};

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a peer does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    Honest,
    /// Answers nothing at all.
    Silent,
    /// Serves headers; ends every request for blocks without any.
    NoBodies,
    /// Serves headers; leaves every request for blocks open.
    SilentBodies,
    /// Says it is high and has no header.
    NoHeaders,
    /// Serves headers with broken signatures.
    BrokenSeals,
    /// Serves true headers with false bodies.
    Mutates,
    /// Serves other blocks than those asked for.
    Unrequested,
    /// Resets every n-th request.
    Resets(u32),
    /// Goes away after so many requests.
    Dies(u32),
}

#[derive(Clone)]
pub struct Remote {
    pub conduct: Conduct,
    pub outbound: bool,
    pub rtt: Duration,
    pub bytes_per_second: u64,
    pub blocks: Blocks,
    /// Claimed instead of the tip of `blocks`.
    pub claim: Option<Checkpoint>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { conduct, outbound, rtt, bytes_per_second, .. } = self;
        write!(
            f,
            "{conduct:?} to {:?} of {:?} out {outbound} {rtt:?} {bytes_per_second} B/s",
            self.tip(),
            self.blocks.last().map(|b| b.header().height)
        )
    }
}

impl Remote {
    pub fn honest(blocks: &Blocks) -> Self {
        Self {
            conduct: Conduct::Honest,
            outbound: true,
            rtt: ms(40),
            bytes_per_second: 4_000_000,
            blocks: Arc::clone(blocks),
            claim: None,
        }
    }

    pub fn with(self, conduct: Conduct) -> Self {
        Self { conduct, ..self }
    }

    fn tip(&self) -> Checkpoint {
        self.claim.or_else(|| self.blocks.last().map(|tip| checkpoint(tip.header()))).unwrap_or(ROOT)
    }
}

enum Frame {
    Headers(Vec<Header>),
    Block(Received, usize),
    Certificate,
    End(RequestEnd),
}

struct Link {
    remote: Remote,
    ids: BTreeMap<BlockId, u64>,
    queue: VecDeque<(RequestId, Frame)>,
    busy: bool,
    asked: u32,
}

enum Event {
    Asked { peer: PeerId, request: RequestId, question: Question },
    Sent { peer: PeerId },
    Arrived { peer: PeerId, request: RequestId, frame: Frame },
    ImportDone,
    Join { peer: PeerId, remote: Box<Remote> },
    Leave { peer: PeerId },
    Announce { peer: PeerId, header: Header },
}

enum Question {
    Headers(HeadersRequest),
    Blocks(Vec<BlockId>),
    Certificate,
}

/// Counted over a run.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub imports: usize,
    pub blocks_received: usize,
    pub headers_received: usize,
    pub headers_ahead_max: usize,
    pub window_bytes_max: usize,
    pub certificates_asked: usize,
    pub states: Vec<SyncState>,
    pub offences: BTreeSet<(PeerId, Offence)>,
    pub announced: Vec<Checkpoint>,
    pub tip_stale: usize,
    pub asked: BTreeMap<PeerId, usize>,
}

pub struct World {
    pub now: Instant,
    pub start: Instant,
    pub core: BlockSync,
    pub chain: Chain,
    pub import_time: Duration,
    /// Offences but the light ones end the connection.
    pub bans: bool,
    pub tally: Tally,
    /// Every effect and when, if wanted.
    pub record: Option<Vec<String>>,
    links: BTreeMap<PeerId, Link>,
    open: BTreeMap<RequestId, PeerId>,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    importing: VecDeque<Arc<Block>>,
}

impl World {
    pub fn new(stored: &[Arc<Block>]) -> Self {
        let now = Instant::now();
        let chain = Chain::of(stored);
        let config = Config { head: chain.head_checkpoint(), slot: ms(1000), seed: [0; 32] };
        Self {
            now,
            start: now,
            core: BlockSync::new(config, now),
            chain,
            import_time: Duration::ZERO,
            bans: true,
            tally: Tally::default(),
            record: None,
            links: BTreeMap::new(),
            open: BTreeMap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            importing: VecDeque::new(),
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + after, self.next_event), event);
    }

    pub fn join(&mut self, n: u16, remote: Remote) -> PeerId {
        self.join_after(Duration::ZERO, n, remote)
    }

    pub fn join_after(&mut self, after: Duration, n: u16, remote: Remote) -> PeerId {
        self.at(after, Event::Join { peer: peer(n), remote: Box::new(remote) });
        peer(n)
    }

    pub fn leave_after(&mut self, after: Duration, peer: PeerId) {
        self.at(after, Event::Leave { peer });
    }

    pub fn announce_after(&mut self, after: Duration, peer: PeerId, header: &Header) {
        self.at(after, Event::Announce { peer, header: header.clone() });
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.links.contains_key(peer)
    }

    pub fn input(&mut self, input: Input) {
        let effects = self.core.handle(input, self.now);
        self.perform(effects);
    }

    /// Runs until `done`, at most for `limit`. True if it got there.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        let mut still = 0;
        while !done(self) {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let deadline = self.core.next_deadline();
            let Some(next) = event.into_iter().chain(deadline).min() else { return false };
            if next > end {
                self.now = end;
                return false;
            }
            still = if next > self.now { 0 } else { still + 1 };
            assert!(still < 100_000, "time stands still");
            self.now = self.now.max(next);
            if deadline.is_some_and(|at| at <= self.now) {
                let effects = self.core.on_deadline(self.now);
                self.perform(effects);
                let again = self.core.next_deadline();
                assert!(again.is_none_or(|at| at > self.now), "a deadline that was served is still due");
            } else if let Some((_, event)) = self.events.pop_first() {
                self.happen(event);
            }
            self.check_bounds();
        }
        true
    }

    pub fn run_to_height(&mut self, limit: Duration, height: u64) -> bool {
        self.run(limit, |world| world.chain.height() >= height)
    }

    fn check_bounds(&mut self) {
        let progress = self.core.progress(self.now);
        self.tally.headers_ahead_max = self.tally.headers_ahead_max.max(progress.headers_ahead);
        self.tally.window_bytes_max = self.tally.window_bytes_max.max(progress.window_bytes);
        assert!(progress.headers_ahead <= HEADER_WINDOW_MAX);
        assert!(progress.window_bytes <= BODY_WINDOW_BYTES_MAX);
        assert!(self.importing.len() <= IMPORTS_MAX + 64);
        for peer in self.links.keys() {
            let open = self.open.values().filter(|asked| *asked == peer).count();
            assert!(open <= 9, "{open} requests to one peer");
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join { peer, remote } => {
                let ids = remote.blocks.iter().map(|block| (block.header().id(), block.header().height));
                let ids = ids.chain([(ROOT.id, 0)]).collect();
                let (outbound, rtt, best) = (remote.outbound, remote.rtt, remote.tip());
                let link = Link { remote: *remote, ids, queue: VecDeque::new(), busy: false, asked: 0 };
                self.links.insert(peer, link);
                let best_known = self.chain.has(&best.id);
                self.input(Input::PeerUp { peer, outbound, best, best_known, rtt });
            }
            Event::Leave { peer } => self.disconnect(peer),
            Event::Announce { peer, header } => {
                if self.links.contains_key(&peer) {
                    let verdict = self.chain.check(&header, &self.core);
                    self.input(Input::Announced { peer, header, verdict });
                }
            }
            Event::Asked { peer, request, question } => self.answer(peer, request, question),
            Event::Sent { peer } => self.sent(peer),
            Event::Arrived { peer, request, frame } => self.arrived(peer, request, frame),
            Event::ImportDone => {
                if let Some(block) = self.importing.pop_front() {
                    self.import(&block);
                }
                if !self.importing.is_empty() {
                    self.at(self.import_time, Event::ImportDone);
                }
            }
        }
    }

    fn import(&mut self, block: &Arc<Block>) {
        let before = self.chain.head_checkpoint();
        let outcome = self.chain.import(block);
        self.tally.imports += 1;
        self.input(Input::Imported { id: block.header().id(), outcome });
        if self.chain.head_checkpoint() != before {
            let head = self.chain.head.clone().expect("it moved");
            self.input(Input::HeadChanged { head });
        }
    }

    fn disconnect(&mut self, peer: PeerId) {
        if self.links.remove(&peer).is_some() {
            self.open.retain(|_, asked| *asked != peer);
            self.input(Input::PeerDown { peer });
        }
    }

    fn ask(&mut self, peer: PeerId, request: RequestId, question: Question) {
        let Some(link) = self.links.get(&peer) else {
            panic!("a request to a peer that is not connected");
        };
        let way = link.remote.rtt / 2;
        *self.tally.asked.entry(peer).or_default() += 1;
        assert!(self.open.insert(request, peer).is_none(), "a request id was used twice");
        self.at(way, Event::Asked { peer, request, question });
    }

    fn answer(&mut self, peer: PeerId, request: RequestId, question: Question) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.asked += 1;
        let conduct = link.remote.conduct;
        match conduct {
            Conduct::Silent => return,
            Conduct::Dies(after) if link.asked > after => return self.disconnect(peer),
            Conduct::Resets(every) if link.asked % every == 0 => {
                link.queue.push_back((request, Frame::End(RequestEnd::Failed)));
                return self.send_next(peer);
            }
            _ => {}
        }
        let blocks = Arc::clone(&link.remote.blocks);
        let ids = &link.ids;
        match question {
            Question::Headers(asked) => {
                let header_at = |height: u64| Some(blocks.get(height as usize - 1)?.header().clone());
                let mut headers = serve::headers(&asked, |id| ids.get(id).copied(), header_at).headers;
                match conduct {
                    Conduct::NoHeaders => headers.clear(),
                    Conduct::BrokenSeals => headers = headers.iter().map(broken).collect(),
                    _ => {}
                }
                link.queue.push_back((request, Frame::Headers(headers)));
            }
            Question::Blocks(wanted) => {
                let mut sent = 0;
                for id in &wanted {
                    let Some(height) = ids.get(id) else { continue };
                    let mut block = Arc::clone(&blocks[*height as usize - 1]);
                    let bytes = HEADER_LEN + block.header().body_bytes as usize;
                    if sent > 0 && sent + bytes > serve::ANSWER_BYTES_MAX {
                        break;
                    }
                    sent += bytes;
                    match conduct {
                        Conduct::NoBodies => break,
                        Conduct::SilentBodies => return,
                        Conduct::Unrequested => block = Arc::clone(&blocks[0]),
                        _ => {}
                    }
                    let received =
                        if conduct == Conduct::Mutates { mutated(&block) } else { Received::Matching(block) };
                    link.queue.push_back((request, Frame::Block(received, bytes)));
                }
            }
            Question::Certificate => link.queue.push_back((request, Frame::Certificate)),
        }
        link.queue.push_back((request, Frame::End(RequestEnd::Done)));
        self.send_next(peer);
    }

    /// One frame after another travels at the link's rate.
    fn send_next(&mut self, peer: PeerId) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.busy {
            return;
        }
        let Some((_, frame)) = link.queue.front() else { return };
        let bytes = match frame {
            Frame::Headers(headers) => headers.len() * HEADER_LEN,
            Frame::Block(_, bytes) => *bytes,
            Frame::Certificate | Frame::End(_) => 0,
        };
        link.busy = true;
        let time = Duration::from_secs_f64(bytes as f64 / link.remote.bytes_per_second as f64);
        self.at(time, Event::Sent { peer });
    }

    fn sent(&mut self, peer: PeerId) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.busy = false;
        let way = link.remote.rtt / 2;
        if let Some((request, frame)) = link.queue.pop_front() {
            self.at(way, Event::Arrived { peer, request, frame });
        }
        self.send_next(peer);
    }

    fn arrived(&mut self, peer: PeerId, request: RequestId, frame: Frame) {
        if self.open.get(&request) != Some(&peer) {
            return;
        }
        match frame {
            Frame::Headers(headers) => {
                self.tally.headers_received += headers.len();
                self.input(Input::Headers { request, headers });
            }
            Frame::Block(block, _) => {
                self.tally.blocks_received += 1;
                self.input(Input::Fetched { request, block });
            }
            Frame::Certificate => {
                self.input(Input::Certificate { request, verdict: CertificateVerdict::Good });
            }
            Frame::End(end) => {
                self.open.remove(&request);
                self.input(Input::Ended { request, end });
            }
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Some(record) = &mut self.record {
                record.push(format!("{:?} {effect:?}", self.now - self.start));
            }
            match effect {
                Effect::RequestHeaders { peer, request, after } => {
                    let question =
                        headers_request(&after, self.chain.height(), |height| self.chain.canonical(height));
                    self.ask(peer, request, Question::Headers(question));
                }
                Effect::RequestBlocks { peer, request, ids, .. } => {
                    assert!(!ids.is_empty());
                    self.ask(peer, request, Question::Blocks(ids));
                }
                // A peer may answer with the block whole, and without a pool that is what helps.
                Effect::RequestCompact { peer, request, id } => {
                    self.ask(peer, request, Question::Blocks(vec![id]));
                }
                Effect::RelayMode { .. } => {}
                Effect::RequestTransactions { .. } | Effect::LookUp { .. } | Effect::PushCompact { .. } => {
                    panic!("nobody sends or wants short ids here")
                }
                Effect::RequestCertificate { peer, request } => {
                    self.tally.certificates_asked += 1;
                    self.ask(peer, request, Question::Certificate);
                }
                Effect::Cancel { request } => {
                    if let Some(peer) = self.open.remove(&request)
                        && let Some(link) = self.links.get_mut(&peer)
                    {
                        // What is on the wire already stays there.
                        let mut at = 0;
                        link.queue.retain(|(queued, _)| {
                            at += 1;
                            (at == 1 && link.busy) || *queued != request
                        });
                    }
                }
                Effect::CheckHeaders { request, headers, .. } => {
                    let verdict = self.chain.check_all(&headers, &self.core);
                    self.input(Input::HeadersChecked { request, verdict });
                }
                Effect::Import { block, .. } => {
                    self.importing.push_back(block);
                    if self.importing.len() == 1 {
                        self.at(self.import_time, Event::ImportDone);
                    }
                }
                Effect::Announce { header, .. } => self.tally.announced.push(checkpoint(&header)),
                Effect::PushWhole { block, .. } => self.tally.announced.push(checkpoint(block.header())),
                Effect::Offence { peer, what } => {
                    self.tally.offences.insert((peer, what));
                    if self.bans && what != Offence::BodiesWithheld {
                        self.leave_after(Duration::ZERO, peer);
                    }
                }
                Effect::State(state) => self.tally.states.push(state),
                // No block of these worlds is cut: none is so large, or made here.
                Effect::PushShardPlan { .. }
                | Effect::PushShardHave { .. }
                | Effect::PushShard { .. }
                | Effect::RequestShards { .. }
                | Effect::KeepShards { .. }
                | Effect::DropShards { .. }
                | Effect::CutShards { .. }
                | Effect::WorkOnShards { .. }
                | Effect::ShardFault(_) => {}
                Effect::TipStale { .. } => self.tally.tip_stale += 1,
            }
        }
    }
}

fn broken(header: &Header) -> Header {
    let mut bytes = header.bytes().to_vec();
    bytes[HEADER_LEN - 1] ^= 1;
    Header::parse(bytes.into()).expect("only the signature is wrong")
}

/// The true header with a body of the right length and other content.
pub fn mutated(block: &Block) -> Received {
    let mut body = block.encode()[HEADER_LEN..].to_vec();
    if let Some(last) = body.last_mut() {
        *last ^= 1;
    }
    Received::read(WholeBlock { header: block.header().clone(), body: body.into() })
}

//! Every bound and timer of chain sync, from both sides.

mod sync_world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_frames::{Frame, FrameReader, block::BlocksRequest, sync::HeadersRequest};
use ghost_mempool_relay::{
    block::Received,
    sync::{
        BODY_WINDOW_BLOCKS_MAX, BlockSync, CertificateVerdict, Config, DEAD_END_PATIENCE, Effect,
        HEADERS_TIMEOUT, HeadersVerdict, IMPORTS_MAX, ImportOutcome, Input, Offence, RequestEnd, RequestId,
        STALL_MIN, serve,
    },
};
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, block::HEADER_LEN};
use sync_world::{
    Conduct, Remote, World,
    chain::{ROOT, checkpoint, grow, peer},
    ms,
};

/// The core alone.
struct Core {
    core: BlockSync,
    now: Instant,
}

impl Core {
    fn new() -> Self {
        let now = Instant::now();
        Self { core: BlockSync::new(Config { head: ROOT, slot: ms(60_000), seed: [0; 32] }, now), now }
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(input, self.now)
    }

    fn up(&mut self, n: u16, best: Checkpoint) -> Vec<Effect> {
        let up = Input::PeerUp { peer: peer(n), outbound: n == 0, best, best_known: false, rtt: ms(10) };
        self.give(up)
    }

    /// A peer that leads, its headers checked.
    fn led_by(&mut self, n: u16, blocks: &[Arc<Block>]) -> Vec<Effect> {
        let best = checkpoint(blocks[blocks.len() - 1].header());
        let effects = self.up(n, best);
        let request = headers_asked(&effects).expect("asked for headers").1;
        let headers: Vec<Header> = blocks.iter().map(|block| block.header().clone()).collect();
        self.give(Input::Headers { request, headers });
        self.give(Input::HeadersChecked { request, verdict: HeadersVerdict::Good { known: 0, ahead: 0 } })
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            assert!(at > self.now, "a served deadline is still due");
            self.now = at;
            effects.extend(self.core.on_deadline(at));
        }
        self.now = end;
        effects
    }
}

fn headers_asked(effects: &[Effect]) -> Option<(PeerId, RequestId)> {
    effects.iter().find_map(|effect| match effect {
        Effect::RequestHeaders { peer, request, .. } => Some((*peer, *request)),
        _ => None,
    })
}

fn blocks_asked(effects: &[Effect]) -> Option<(PeerId, RequestId, Vec<BlockId>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::RequestBlocks { peer, request, ids, .. } => Some((*peer, *request, ids.clone())),
        _ => None,
    })
}

fn certificate_asked(effects: &[Effect]) -> Option<(PeerId, RequestId)> {
    effects.iter().find_map(|effect| match effect {
        Effect::RequestCertificate { peer, request } => Some((*peer, *request)),
        _ => None,
    })
}

fn cancelled(effects: &[Effect], request: RequestId) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Cancel { request: other } if *other == request))
}

#[test]
fn a_leader_has_three_seconds_for_headers() {
    let tall = Checkpoint { height: 9, id: BlockId([1; 32]) };
    let mut core = Core::new();
    let (_, request) = headers_asked(&core.up(0, tall)).expect("asked");
    assert!(headers_asked(&core.up(1, tall)).is_none(), "one leads");
    let effects = core.wait(HEADERS_TIMEOUT - ms(1));
    assert!(!cancelled(&effects, request) && headers_asked(&effects).is_none());
    let effects = core.wait(ms(1));
    assert!(cancelled(&effects, request));
    assert_eq!(headers_asked(&effects).map(|(peer, _)| peer), Some(peer(1)));
}

#[test]
fn a_request_for_bodies_may_be_silent_for_four_seconds_and_its_bytes() {
    let blocks = grow(ROOT, 1, 0, 640 * 1024);
    let bytes_ms = (HEADER_LEN as u64 + u64::from(blocks[0].header().body_bytes)) * 1000 / (64 * 1024);
    let limit = STALL_MIN + ms(bytes_ms);
    let mut core = Core::new();
    let (_, request, _) = blocks_asked(&core.led_by(0, &blocks)).expect("asked");
    let effects = core.wait(limit - ms(1));
    assert!(!cancelled(&effects, request));
    // Progress gives it as much again.
    core.give(Input::Progress { request, bytes: 64 * 1024 });
    assert!(!cancelled(&core.wait(limit - ms(1)), request));
    assert!(cancelled(&core.wait(ms(1)), request));
    let (again, ..) = blocks_asked(&core.wait(ms(500))).expect("asked again after half a second");
    assert_eq!(again, peer(0));
}

#[test]
fn a_silent_front_is_borne_for_fifteen_seconds_if_there_is_another_chain() {
    let blocks = grow(ROOT, 2, 0, 0);
    let other = Checkpoint { height: 2, id: BlockId([7; 32]) };
    for alternative in [true, false] {
        let mut core = Core::new();
        core.led_by(0, &blocks);
        if alternative {
            assert!(headers_asked(&core.up(1, other)).is_none(), "no taller than what is under way");
        }
        assert!(headers_asked(&core.wait(DEAD_END_PATIENCE + ms(49))).is_none());
        let effects = core.wait(ms(1));
        assert_eq!(headers_asked(&effects).map(|(peer, _)| peer), alternative.then_some(peer(1)));
    }
}

#[test]
fn a_trickle_of_blocks_buys_no_more_than_its_time() {
    let blocks = grow(ROOT, 100, 0, 0);
    let other = Checkpoint { height: 2, id: BlockId([7; 32]) };
    let mut core = Core::new();
    let mut effects = core.led_by(0, &blocks);
    core.up(1, other);
    let start = core.now;
    let mut sent = 0;
    // One block every three seconds, below the limit of a stall.
    while headers_asked(&effects).is_none() {
        effects = core.wait(ms(3_000));
        if headers_asked(&effects).is_some() {
            break;
        }
        for n in 1..400 {
            let block = Received::Matching(Arc::clone(&blocks[sent]));
            let fetched = core.give(Input::Fetched { request: RequestId(n), block });
            if fetched.iter().any(|effect| matches!(effect, Effect::Import { .. })) {
                sent += 1;
                effects.extend(fetched);
                break;
            }
        }
        assert!(core.now < start + 2 * DEAD_END_PATIENCE, "held up by a trickle, {sent} blocks");
    }
    assert!(sent >= 3, "it did deliver");
}

#[test]
fn import_is_handed_no_more_than_it_confirms() {
    let blocks = grow(ROOT, 200, 0, 0);
    let mut core = Core::new();
    let mut effects = core.led_by(0, &blocks);
    let mut imported = Vec::new();
    while let Some((_, request, ids)) = blocks_asked(&effects) {
        effects.clear();
        for id in ids {
            let block = blocks.iter().find(|block| block.header().id() == id).expect("ours");
            effects
                .extend(core.give(Input::Fetched { request, block: Received::Matching(Arc::clone(block)) }));
        }
        imported.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Import { block, .. } => Some(block.header().id()),
            _ => None,
        }));
    }
    assert_eq!(imported.len(), IMPORTS_MAX);
    let effects = core.give(Input::Imported { id: imported[0], outcome: ImportOutcome::Stored });
    let more: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Import { .. })).collect();
    assert_eq!(more.len(), 1, "one for one");
}

#[test]
fn the_window_of_bodies_is_bounded_in_blocks() {
    let blocks = Arc::new(grow(ROOT, BODY_WINDOW_BLOCKS_MAX + 600, 0, 0));
    let mut world = World::new(&[]);
    world.import_time = Duration::from_secs(86_400);
    world.join(1, Remote::honest(&blocks));
    world.run(Duration::from_secs(60), |_| false);
    assert_eq!(world.tally.blocks_received, BODY_WINDOW_BLOCKS_MAX);
}

#[test]
fn certificates_are_asked_of_three_peers_at_most_and_a_false_one_is_an_offence() {
    let mut core = Core::new();
    let known =
        |n| Input::PeerUp { peer: peer(n), outbound: false, best: ROOT, best_known: true, rtt: ms(9) };
    let (first, request) = certificate_asked(&core.give(known(0))).expect("at the start");
    for n in 1..6 {
        assert!(certificate_asked(&core.give(known(n))).is_none(), "one at a time");
    }
    let effects = core.give(Input::Certificate { request, verdict: CertificateVerdict::Invalid });
    let blamed = |effect: &Effect| matches!(effect, Effect::Offence { peer, what: Offence::InvalidCertificate } if *peer == first);
    assert!(effects.iter().any(blamed));
    let (second, request) = certificate_asked(&effects).expect("the next");
    assert_ne!(first, second);
    // It has none.
    let effects = core.give(Input::Ended { request, end: RequestEnd::Done });
    let (third, request) = certificate_asked(&effects).expect("the next");
    assert!(third != first && third != second);
    // It is silent.
    assert!(!cancelled(&core.wait(ms(4_999)), request));
    let effects = core.wait(ms(1));
    assert!(cancelled(&effects, request));
    assert!(certificate_asked(&effects).is_none(), "three is enough");
}

fn reader(answer: impl Iterator<Item = ghost_frames::EncodedFrame>) -> Vec<usize> {
    answer.map(|frame| frame.len()).collect()
}

#[test]
fn an_answer_of_blocks_ends_at_its_bytes_and_leaves_out_what_is_not_there() {
    let ids: Vec<BlockId> = (1..=5).map(|n| BlockId([n; 32])).collect();
    let request = BlocksRequest { ids };
    let with = |sizes: [Option<usize>; 5]| {
        reader(serve::blocks(&request, move |id| {
            Some(Bytes::from(vec![0; sizes[usize::from(id.0[0]) - 1]?]))
        }))
        .len()
    };
    let half = serve::ANSWER_BYTES_MAX / 2;
    assert_eq!(with([Some(half), Some(half), Some(1), None, None]), 2, "exactly full");
    assert_eq!(with([Some(half), Some(half + 1), Some(1), None, None]), 1, "a byte too many");
    assert_eq!(with([Some(3 * half), Some(1), None, None, None]), 1, "the first always goes");
    assert_eq!(with([None, Some(9), None, Some(9), Some(9)]), 3);
    assert_eq!(with([None; 5]), 0);
}

#[test]
fn an_answer_of_blocks_is_read_back_as_sent() {
    let blocks = grow(ROOT, 3, 0, 500);
    let request = BlocksRequest { ids: blocks.iter().map(|block| block.header().id()).collect() };
    let read = |id: &BlockId| {
        blocks.iter().find(|block| block.header().id() == *id).map(|block| Bytes::from(block.encode()))
    };
    let mut reader = FrameReader::new(ghost_frames::StreamType::Sync);
    for (frame, block) in serve::blocks(&request, read).zip(&blocks) {
        reader.push(frame.bytes());
        let Ok(Some(Frame::WholeBlock(whole))) = reader.next() else { panic!("a block") };
        let Received::Matching(again) = Received::read(whole) else { panic!("it matches") };
        assert_eq!(again, *block);
    }
}

#[test]
fn an_answer_of_headers_starts_after_the_first_id_we_have_and_connects() {
    let blocks = grow(ROOT, 20, 0, 0);
    let header_at = |height: u64| Some(blocks.get(height as usize - 1)?.header().clone());
    let height_of = |id: &BlockId| {
        if *id == ROOT.id {
            Some(0)
        } else {
            blocks.iter().find(|b| b.header().id() == *id).map(|b| b.header().height)
        }
    };
    let ask = |limit, locator: &[BlockId]| {
        let request = HeadersRequest { limit, locator: locator.to_vec() };
        serve::headers(&request, height_of, header_at).headers.iter().map(|h| h.height).collect::<Vec<_>>()
    };
    let foreign = BlockId([3; 32]);
    let id = |n: usize| blocks[n - 1].header().id();
    assert_eq!(ask(3, &[foreign, id(5), id(2)]), [6, 7, 8]);
    assert_eq!(ask(512, &[id(18)]), [19, 20]);
    assert!(ask(512, &[id(20)]).is_empty());
    assert_eq!(ask(2, &[ROOT.id]), [1, 2]);
    assert!(ask(512, &[foreign]).is_empty());
    // A reorganisation between two reads.
    let other = grow(ROOT, 20, 1, 0);
    let mixed = |height: u64| {
        if height < 8 { header_at(height) } else { Some(other[height as usize - 1].header().clone()) }
    };
    let request = HeadersRequest { limit: 512, locator: vec![id(5)] };
    let heights: Vec<u64> =
        serve::headers(&request, height_of, mixed).headers.iter().map(|h| h.height).collect();
    assert_eq!(heights, [6, 7]);
}

#[test]
fn the_same_inputs_have_the_same_effects() {
    let blocks = Arc::new(grow(ROOT, 700, 0, 300));
    let run = || {
        let mut world = World::new(&[]);
        world.record = Some(Vec::new());
        for n in 0..6 {
            let conduct = [Conduct::Honest, Conduct::Resets(3), Conduct::SilentBodies][usize::from(n % 3)];
            let remote = Remote::honest(&blocks).with(conduct);
            world.join_after(ms(13 * u64::from(n)), n, Remote { rtt: ms(20 + 30 * u64::from(n)), ..remote });
        }
        assert!(world.run_to_height(Duration::from_secs(120), 700));
        world.record.take().expect("recorded")
    };
    let (first, second) = (run(), run());
    assert!(first.len() > 700);
    assert_eq!(first, second);
}

//! Inputs in any order, from peers that say anything: no panic, no bound broken, no deadline that stays due.

mod sync_world;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use ghost_frames::compact::{CompactBlock, PlacedTransaction};
use ghost_mempool_relay::{
    block::{Received, ShortIds, relay::*},
    sync::{
        BODY_WINDOW_BYTES_MAX, BlockSync, CertificateVerdict, Config, Effect, HEADER_WINDOW_MAX,
        HeadersVerdict, IMPORTS_MAX, ImportOutcome, Input, RequestEnd, RequestId,
    },
};
use ghost_proto::{Block, BlockId, Checkpoint};
use proptest::prelude::*;
use sync_world::{
    chain::{Blocks, Chain, ROOT, checkpoint, fork, grow, peer},
    ms, mutated,
};

const PEERS: u16 = 4;

fn forks() -> &'static [Blocks] {
    static FORKS: OnceLock<Vec<Blocks>> = OnceLock::new();
    FORKS.get_or_init(|| {
        let main: Blocks = Arc::new(grow(ROOT, 600, 0, 200));
        vec![Arc::clone(&main), fork(&main, 3, 20, 1, 250_000), fork(&main, 40, 540, 2, 200)]
    })
}

#[derive(Debug, Clone)]
enum Step {
    Up(u16, usize, usize, bool),
    Down(u16),
    Announce(u16, usize, usize),
    Push(u16, usize, usize, bool),
    Produce(usize, usize),
    Missing(u16, usize, usize),
    /// Answers an open request, by its place among the open ones, with a run of some fork.
    Headers(usize, usize, usize, usize),
    Blocks(usize, usize, usize, bool),
    BlocksAsAsked(usize, usize),
    Progress(usize, u64),
    Certificate(usize, bool),
    Compact(u16, usize, usize, u8),
    CompactAnswer(usize, usize, usize, u8),
    LookUp(u8),
    Transactions(usize, u8),
    Mode(u16, bool),
    End(usize, u8),
    Import(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (who, which, place) = (0..PEERS, 0..3usize, 0..600usize);
    let (who2, which2, place2) = (0..PEERS, 0..3usize, 0..50usize);
    prop_oneof![
        2 => (who.clone(), which.clone(), place.clone(), any::<bool>()).prop_map(|(p, f, n, o)| Step::Up(p, f, n, o)),
        1 => who.clone().prop_map(Step::Down),
        3 => (who.clone(), which.clone(), 0..50usize).prop_map(|(p, f, n)| Step::Announce(p, f, n)),
        3 => (who.clone(), which.clone(), 0..50usize, any::<bool>()).prop_map(|(p, f, n, m)| Step::Push(p, f, n, m)),
        1 => (which.clone(), place.clone()).prop_map(|(f, n)| Step::Produce(f, n)),
        1 => (who, which.clone(), place.clone()).prop_map(|(p, f, n)| Step::Missing(p, f, n)),
        4 => (0..8usize, which.clone(), place.clone(), 0..600usize).prop_map(|(r, f, n, c)| Step::Headers(r, f, n, c)),
        2 => (0..8usize, which, place, any::<bool>()).prop_map(|(r, f, n, m)| Step::Blocks(r, f, n, m)),
        6 => (0..8usize, 0..40usize).prop_map(|(r, c)| Step::BlocksAsAsked(r, c)),
        1 => (0..8usize, any::<u64>()).prop_map(|(r, b)| Step::Progress(r, b)),
        1 => (0..8usize, any::<bool>()).prop_map(|(r, g)| Step::Certificate(r, g)),
        4 => (who2, which2.clone(), place2.clone(), any::<u8>()).prop_map(|(p, f, n, d)| Step::Compact(p, f, n, d)),
        2 => (0..8usize, which2, place2, any::<u8>()).prop_map(|(r, f, n, d)| Step::CompactAnswer(r, f, n, d)),
        4 => any::<u8>().prop_map(Step::LookUp),
        4 => (0..8usize, any::<u8>()).prop_map(|(r, d)| Step::Transactions(r, d)),
        1 => (0..PEERS, any::<bool>()).prop_map(|(p, m)| Step::Mode(p, m)),
        2 => (0..8usize, 0..3u8).prop_map(|(r, e)| Step::End(r, e)),
        6 => (0..20u8).prop_map(Step::Import),
        3 => (0..3_000u64).prop_map(Step::Wait),
    ]
}

/// Short ids of a block: true ones, or with one that is false; with or without its first transaction whole.
fn compact_of(block: &Block, dice: u8) -> CompactBlock {
    let whole = block.transactions().first().filter(|_| dice & 1 == 1).map(|tx| (0, tx));
    let mut compact = ShortIds::of(block, u64::from(dice)).compact(block.header().clone(), whole);
    if dice & 6 == 6 && !compact.short_ids.is_empty() {
        let mut ids = compact.short_ids.to_vec();
        ids[0] ^= 1;
        compact.short_ids = ids.into();
    }
    compact
}

struct Fuzzed {
    core: BlockSync,
    chain: Chain,
    now: Instant,
    open: Vec<(RequestId, Vec<BlockId>)>,
    importing: Vec<Arc<Block>>,
    lookups: Vec<Arc<ShortIds>>,
}

impl Fuzzed {
    fn give(&mut self, input: Input) {
        let effects = self.core.handle(input, self.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::RequestHeaders { request, after, .. } => {
                    assert!(after.len() <= 32);
                    self.open.push((request, Vec::new()));
                }
                Effect::RequestBlocks { request, ids, .. } => {
                    assert!((1..=128).contains(&ids.len()));
                    self.open.push((request, ids));
                }
                Effect::RequestCompact { request, id, .. } => self.open.push((request, vec![id])),
                Effect::RequestTransactions { request, id, places, .. } => {
                    let block = self.block(&id).expect("only true headers pass the check");
                    assert!(!places.is_empty() && places.is_sorted());
                    assert!(places.iter().all(|place| (*place as usize) < block.transactions().len()));
                    self.open.push((request, vec![id]));
                }
                Effect::LookUp { wanted } => self.lookups.push(wanted),
                Effect::RequestCertificate { request, .. } => self.open.push((request, Vec::new())),
                Effect::Cancel { request } => self.open.retain(|(open, _)| *open != request),
                Effect::CheckHeaders { request, headers, .. } => {
                    let verdict = self.chain.check_all(&headers, &self.core);
                    // A chain that is wrong about what it has must not break anything either.
                    let verdict = match (verdict, headers.len() % 7) {
                        (HeadersVerdict::Good { .. }, 6) => HeadersVerdict::Ignore,
                        (verdict, _) => verdict,
                    };
                    self.give(Input::HeadersChecked { request, verdict });
                }
                Effect::Import { block, .. } => self.importing.push(block),
                _ => {}
            }
        }
    }

    fn request(&self, at: usize) -> Option<(RequestId, Vec<BlockId>)> {
        self.open.get(at % self.open.len().max(1)).cloned()
    }

    fn block(&self, id: &BlockId) -> Option<Arc<Block>> {
        forks().iter().flat_map(|blocks| blocks.iter()).find(|block| block.header().id() == *id).cloned()
    }

    fn take(&mut self, step: &Step) {
        let at = |which: usize, n: usize| {
            let blocks = &forks()[which];
            Arc::clone(&blocks[n % blocks.len()])
        };
        let received = |block: Arc<Block>, mutate: bool| {
            if mutate { mutated(&block) } else { Received::Matching(block) }
        };
        match *step {
            Step::Up(p, f, n, outbound) => {
                let best = checkpoint(at(f, n).header());
                let best_known = self.chain.has(&best.id);
                self.give(Input::PeerUp { peer: peer(p), outbound, best, best_known, rtt: ms(20) });
            }
            Step::Down(p) => self.give(Input::PeerDown { peer: peer(p) }),
            Step::Announce(p, f, n) => {
                let header = at(f, n).header().clone();
                let verdict = self.chain.check(&header, &self.core);
                self.give(Input::Announced { peer: peer(p), header, verdict });
            }
            Step::Push(p, f, n, mutate) => {
                let block = at(f, n);
                let verdict = self.chain.check(block.header(), &self.core);
                self.give(Input::Pushed {
                    peer: peer(p),
                    block: received(block, mutate && n % 5 == 0),
                    verdict,
                });
            }
            Step::Produce(f, n) => self.give(Input::Produced { block: at(f, n), fresh: Vec::new() }),
            Step::Missing(p, f, n) => {
                let block = checkpoint(at(f, n).header());
                let block = Checkpoint { height: block.height << (n % 40), ..block };
                self.give(Input::Missing { peer: peer(p), block });
            }
            Step::Headers(r, f, n, count) => {
                let Some((request, _)) = self.request(r) else { return };
                let headers = forks()[f].iter().skip(n % 60).take(count.min(512)).map(|b| b.header().clone());
                self.give(Input::Headers { request, headers: headers.collect() });
            }
            Step::Blocks(r, f, n, mutate) => {
                let Some((request, _)) = self.request(r) else { return };
                self.give(Input::Fetched { request, block: received(at(f, n), mutate) });
            }
            Step::BlocksAsAsked(r, count) => {
                let Some((request, ids)) = self.request(r) else { return };
                for id in ids.iter().take(count) {
                    let block = self.block(id).expect("only true headers pass the check");
                    self.give(Input::Fetched { request, block: Received::Matching(block) });
                }
            }
            Step::Progress(r, bytes) => {
                let Some((request, _)) = self.request(r) else { return };
                self.give(Input::Progress { request, bytes });
            }
            Step::Compact(p, f, n, dice) => {
                let compact = compact_of(&at(f, n), dice);
                let verdict = self.chain.check(&compact.header, &self.core);
                self.give(Input::Compact { peer: peer(p), compact, verdict });
            }
            Step::CompactAnswer(r, f, n, dice) => {
                let Some((request, _)) = self.request(r) else { return };
                self.give(Input::FetchedCompact { request, compact: compact_of(&at(f, n), dice) });
            }
            Step::LookUp(dice) => {
                let Some(wanted) = self.lookups.pop() else { return };
                let block = self.block(&wanted.block()).expect("only true headers pass the check");
                let pool = block.transactions().iter().take(usize::from(dice % 4));
                self.give(Input::LookedUp { id: wanted.block(), found: wanted.select(pool) });
            }
            Step::Transactions(r, dice) => {
                let Some((request, ids)) = self.request(r) else { return };
                let Some(block) = ids.first().and_then(|id| self.block(id)) else { return };
                let all = block.transactions().iter().enumerate();
                let all = all.map(|(index, tx)| PlacedTransaction {
                    index: index as u32 + u32::from(dice == 0),
                    transaction: tx.clone(),
                });
                let transactions = all.skip(usize::from(dice % 3)).collect();
                self.give(Input::FetchedTransactions { request, transactions });
            }
            Step::Mode(p, push) => self.give(Input::RelayMode { peer: peer(p), push }),
            Step::Certificate(r, good) => {
                let Some((request, _)) = self.request(r) else { return };
                let verdict = if good { CertificateVerdict::Good } else { CertificateVerdict::Invalid };
                self.give(Input::Certificate { request, verdict });
            }
            Step::End(r, end) => {
                let Some((request, _)) = self.request(r) else { return };
                self.open.retain(|(open, _)| *open != request);
                let end = [RequestEnd::Done, RequestEnd::Busy, RequestEnd::Failed][usize::from(end)];
                self.give(Input::Ended { request, end });
            }
            Step::Import(dice) => {
                if self.importing.is_empty() {
                    return;
                }
                let block = self.importing.remove(0);
                let id = block.header().id();
                let outcome = match dice {
                    0 => ImportOutcome::Invalid,
                    1 => ImportOutcome::Failed,
                    _ => self.chain.import(&block),
                };
                self.give(Input::Imported { id, outcome });
                if let Some(head) = self.chain.head.clone() {
                    self.give(Input::HeadChanged { head });
                }
            }
            Step::Wait(time_ms) => {
                let end = self.now + ms(time_ms);
                while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
                    assert!(at > self.now, "a served deadline is still due");
                    self.now = at;
                    let effects = self.core.on_deadline(at);
                    self.perform(effects);
                }
                self.now = end;
            }
        }
    }

    fn check(&self) {
        let progress = self.core.progress(self.now);
        assert!(progress.headers_ahead <= HEADER_WINDOW_MAX);
        assert!(progress.window_bytes <= BODY_WINDOW_BYTES_MAX);
        let (wanted, pending, bytes) = self.core.relay_load();
        assert!(wanted <= ANNOUNCED_PER_PEER_MAX * usize::from(PEERS));
        assert!(pending <= PENDING_BLOCKS_MAX && bytes <= PENDING_BYTES_MAX);
        assert!(self.importing.len() <= IMPORTS_MAX + PENDING_BLOCKS_MAX);
        // For each peer: three batches or four fetches, one of headers; and one certificate.
        assert!(self.open.len() <= usize::from(PEERS) * 8 + 1, "{} requests are open", self.open.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_in_any_order(steps in proptest::collection::vec(step(), 1..250)) {
        let now = Instant::now();
        let core = BlockSync::new(Config { head: ROOT, slot: ms(1_000), seed: [0; 32] }, now);
        let (open, importing, lookups) = (Vec::new(), Vec::new(), Vec::new());
        let mut fuzzed = Fuzzed { core, chain: Chain::default(), now, open, importing, lookups };
        for step in &steps {
            fuzzed.take(step);
            fuzzed.check();
        }
        for n in 0..PEERS {
            fuzzed.give(Input::PeerDown { peer: peer(n) });
        }
        fuzzed.take(&Step::Wait(60_000));
        while !fuzzed.importing.is_empty() {
            fuzzed.take(&Step::Import(9));
        }
        fuzzed.take(&Step::Wait(60_000));
        prop_assert_eq!(fuzzed.core.relay_load(), (0, 0, 0));
        let progress = fuzzed.core.progress(fuzzed.now);
        prop_assert_eq!((progress.headers_ahead, progress.window_bytes), (0, 0));
        prop_assert!(fuzzed.core.next_deadline().is_none(), "nothing is waited for without peers");
    }
}

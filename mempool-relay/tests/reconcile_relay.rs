//! Mempool reconciliation between whole relays: sessions open by themselves, and both sides end with the union.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use ghost_frames::{
    Frame,
    reconcile::{CodedSymbol, Inventory, SketchId, Symbols, SymbolsRequest},
    tx::{ShortId, TxAnnounce},
};
use ghost_mempool_relay::{
    reconcile::{Ask, Keys, NONCE_GAP_MIN, OPEN_GAP_MIN, Symbol, encode},
    tx_relay::{
        ASK_TIMEOUT, Checked, Effect, Input, Offence, REPAIR_PERIOD, RequestId, SYNC_PERIOD, Salt, TxRelay,
        TxSummary, Via,
    },
};
use ghost_proto::{KeyPair, PeerId, TxId, record};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

const KEY: [u8; 16] = [9; 16];
const RTT: Duration = Duration::from_millis(40);
const MS: Duration = Duration::from_millis(1);

fn peer(n: usize) -> PeerId {
    record::peer_of(&KeyPair::from_seed(&[n as u8 + 1; 32]).public()).unwrap()
}

fn tx(n: u32) -> TxSummary {
    let mut id = [0; 32];
    ChaCha12Rng::seed_from_u64(n.into()).fill_bytes(&mut id);
    TxSummary { id: TxId(id), bytes: 250, fee_class: 5 }
}

fn txs(range: std::ops::Range<u32>) -> Vec<TxSummary> {
    range.map(tx).collect()
}

/// What travels, and arrives half a round trip later.
enum Message {
    Announce(TxAnnounce),
    /// An answer's frames and its end; none if it was refused.
    Answer(RequestId, Option<Vec<Frame>>, Vec<TxId>),
    Fetch(RequestId, Vec<ShortId>),
    Compare(RequestId, Ask),
}

/// Bytes of tx_sync and of announcements, counted at the receiver.
#[derive(Default, Debug)]
struct Seen {
    symbols: usize,
    listed: usize,
    announced: usize,
    bodies: usize,
    sync_bytes: usize,
    refused: usize,
}

struct Node {
    relay: TxRelay,
    has: BTreeMap<TxId, TxSummary>,
    seen: Seen,
    offences: Vec<Offence>,
    /// Open requests of the other side, by the number they were handed in with.
    open: HashMap<u64, RequestId>,
    /// Answers that are no longer wanted.
    cancelled: BTreeSet<RequestId>,
}

/// What is answered in place of the truth; `None` is the truth.
type Forge = Box<dyn FnMut(&Ask) -> Option<Vec<Frame>>>;

struct Pair {
    nodes: [Node; 2],
    now: Instant,
    start: Instant,
    wire: VecDeque<(Instant, usize, Message)>,
    next: u64,
    /// Answers of node 1 to requests on tx_sync are these instead.
    forge: Option<Forge>,
}

impl Pair {
    /// Two that hold these, not yet connected.
    fn new(first: &[TxSummary], second: &[TxSummary]) -> Self {
        let now = Instant::now();
        let nodes = [(first, 1), (second, 2)].map(|(txs, seed)| {
            let mut relay = TxRelay::new([seed; 32]);
            relay.handle(Input::PoolChanged { ready: txs, removed: &[] }, now);
            let has = txs.iter().map(|tx| (tx.id, *tx)).collect();
            Node {
                relay,
                has,
                seen: Seen::default(),
                offences: Vec::new(),
                open: HashMap::new(),
                cancelled: BTreeSet::new(),
            }
        });
        Self { nodes, now, start: now, wire: VecDeque::new(), next: 0, forge: None }
    }

    /// The first dials. `active`: whether either tells the other of what is new.
    fn connect(&mut self, active: bool) {
        self.connect_with(active, Some(KEY));
    }

    fn connect_with(&mut self, active: bool, sync_key: Option<[u8; 16]>) {
        for n in 0..2 {
            let input = Input::PeerUp {
                peer: peer(1 - n),
                outbound: n == 0,
                rtt: RTT,
                our_salt: Salt([n as u8; 16]),
                their_salt: Salt([1 - n as u8; 16]),
                active,
                sync_key,
            };
            self.input(n, input);
        }
    }

    fn input(&mut self, n: usize, input: Input<'_>) {
        let effects = self.nodes[n].relay.handle(input, self.now);
        self.perform(n, effects);
    }

    fn send(&mut self, to: usize, message: Message) {
        self.wire.push_back((self.now + RTT / 2, to, message));
    }

    fn perform(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Announce { announce, token, .. } => {
                    self.nodes[n].relay.delivered(token);
                    self.send(1 - n, Message::Announce(announce));
                }
                Effect::Push { token, .. } => self.nodes[n].relay.delivered(token),
                Effect::Request { request, ids, .. } => self.send(1 - n, Message::Fetch(request, ids)),
                Effect::SyncRequest { request, ask, .. } => self.send(1 - n, Message::Compare(request, ask)),
                Effect::TellFeeFloor { .. } => {}
                Effect::Cancel { request, .. } => drop(self.nodes[n].cancelled.insert(request)),
                Effect::Answer { request, ids, .. } => {
                    let request = self.nodes[n].open.remove(&request).unwrap();
                    self.send(1 - n, Message::Answer(request, Some(Vec::new()), ids));
                }
                Effect::SyncAnswer { request, frames, .. } => {
                    let request = self.nodes[n].open.remove(&request).unwrap();
                    self.send(1 - n, Message::Answer(request, Some(frames), Vec::new()));
                }
                Effect::SyncRefuse { request, .. } => {
                    let request = self.nodes[n].open.remove(&request).unwrap();
                    self.send(1 - n, Message::Answer(request, None, Vec::new()));
                }
                Effect::Check { peer, ids } => {
                    let verdicts: Vec<_> = ids.iter().map(|id| (*id, Checked::Ready)).collect();
                    self.input(n, Input::Checked { peer, verdicts: &verdicts });
                }
                Effect::Offence { what, .. } => self.nodes[n].offences.push(what),
            }
        }
    }

    fn deliver(&mut self, n: usize, message: Message) {
        let from = peer(1 - n);
        match message {
            Message::Announce(announce) => {
                self.nodes[n].seen.announced += announce.entries.len();
                self.input(n, Input::Announced { peer: from, entries: &announce.entries });
            }
            Message::Fetch(request, ids) => {
                self.next += 1;
                self.nodes[n].open.insert(self.next, request);
                self.input(n, Input::Requested { peer: from, request: self.next, ids: &ids });
            }
            Message::Compare(request, ask) => {
                if n == 1
                    && let Some(frames) = self.forge.as_mut().and_then(|forge| forge(&ask))
                {
                    return self.send(0, Message::Answer(request, Some(frames), Vec::new()));
                }
                self.next += 1;
                self.nodes[n].open.insert(self.next, request);
                self.input(n, Input::SyncRequested { peer: from, request: self.next, ask: &ask });
            }
            Message::Answer(request, None, _) => {
                self.nodes[n].seen.refused += 1;
                self.input(n, Input::RequestFailed { peer: from, request });
            }
            Message::Answer(request, Some(frames), bodies) => {
                for frame in frames {
                    if self.nodes[n].cancelled.contains(&request) {
                        return;
                    }
                    let seen = &mut self.nodes[n].seen;
                    seen.sync_bytes += frame.encode().len();
                    match &frame {
                        Frame::Symbols(symbols) => seen.symbols += symbols.symbols.len(),
                        Frame::Inventory(inventory) => seen.listed += inventory.ids.len(),
                        Frame::TxAnnounce(announce) => seen.announced += announce.entries.len(),
                        other => panic!("{other:?}"),
                    }
                    self.input(n, Input::SyncAnswered { peer: from, request, frame: &frame });
                }
                if !bodies.is_empty() {
                    let txs: Vec<TxSummary> = bodies.iter().map(|id| self.nodes[1 - n].has[id]).collect();
                    self.nodes[n].seen.bodies += txs.len();
                    self.nodes[n].has.extend(txs.iter().map(|tx| (tx.id, *tx)));
                    self.input(n, Input::Received { peer: from, via: Via::Pull(request), txs: &txs });
                }
                if !self.nodes[n].cancelled.contains(&request) {
                    self.input(n, Input::AnswerEnded { peer: from, request });
                }
            }
        }
    }

    /// Runs for so long, or until both hold `count`.
    fn run(&mut self, time: Duration, count: usize) {
        let end = self.now + time;
        while !self.nodes.iter().all(|node| node.has.len() == count) {
            let message = self.wire.front().map(|(at, ..)| *at);
            let deadlines = self.nodes.iter().filter_map(|node| node.relay.next_deadline());
            let Some(next) = deadlines.chain(message).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if message.is_some_and(|at| at <= self.now) {
                let (_, to, message) = self.wire.pop_front().unwrap();
                self.deliver(to, message);
                continue;
            }
            for n in 0..2 {
                let effects = self.nodes[n].relay.on_deadline(self.now);
                self.perform(n, effects);
            }
        }
        if self.nodes.iter().any(|node| node.has.len() != count) {
            self.now = end;
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}

/// A session of node 0 finds what differs, and both end with all of it; what they had in common is not spoken
/// of.
#[test]
fn scenario_23_both_sides_end_with_the_union() {
    for (common, first, second) in [
        (2_000, 0, 0),
        (2_000, 1, 0),
        (2_000, 0, 1),
        (2_000, 5, 5),
        (12_000, 5_000, 5_000),
        (0, 3_000, 0),
        (0, 0, 3_000),
        (0, 1_500, 1_500),
    ] {
        let case = format!("{common} in common, {first} and {second} not");
        let (a, b) = (common + first, common + first + second);
        let ours = [txs(0..common), txs(common..a)].concat();
        let theirs = [txs(0..common), txs(a..b)].concat();
        let mut pair = Pair::new(&ours, &theirs);
        pair.connect(true);
        pair.run(Duration::from_secs(60), b as usize);
        assert_eq!(pair.nodes.each_ref().map(|node| node.has.len()), [b as usize; 2], "{case}");
        // What follows the last body: the end of the session.
        pair.run(Duration::from_secs(1), usize::MAX);
        let [one, two] = &pair.nodes;
        let stats = one.relay.stats().sync;
        assert_eq!((stats.opened, stats.completed, stats.failed), (1, 1, 0), "{case}");
        assert_eq!((stats.lacked, stats.lacking), (u64::from(second), u64::from(first)), "{case}");
        assert_eq!(two.relay.stats().sync.served, 1, "{case}");
        assert_eq!((one.seen.bodies, two.seen.bodies), (second as usize, first as usize), "{case}");
        // Announcements are of the difference alone: the peer's walk over its pool did not start.
        assert_eq!((one.seen.announced, two.seen.announced), (second as usize, first as usize), "{case}");
        assert!(one.offences.is_empty() && two.offences.is_empty(), "{case}");
        if first + second <= 10 {
            assert!(one.seen.sync_bytes < 1_400, "{case}: {:?}", one.seen);
            assert!(pair.elapsed() <= Duration::from_secs(2), "{case}");
        }
        for (node, other) in [(one, peer(1)), (two, peer(0))] {
            let unknown = (0..b).find(|n| !node.relay.is_known_to(&other, &tx(*n).id));
            assert_eq!(unknown, None, "{case}: each knows that the other has all");
        }
    }
}

#[test]
fn a_peer_that_does_not_serve_it_is_told_of_everything() {
    let mut pair = Pair::new(&txs(0..300), &txs(200..500));
    pair.connect_with(true, None);
    pair.run(Duration::from_secs(10), 500);
    assert_eq!(pair.nodes.each_ref().map(|node| node.has.len()), [500; 2]);
    assert_eq!(pair.nodes[0].relay.stats().sync.opened, 0);
    assert!(pair.nodes[0].seen.announced >= 300);
}

#[test]
fn a_link_that_is_told_nothing_learns_everything_every_period() {
    let mut pair = Pair::new(&txs(0..100), &txs(0..100));
    pair.connect(false);
    pair.run(Duration::from_secs(2), usize::MAX);
    assert_eq!(pair.nodes[0].relay.stats().sync.completed, 1);
    pair.nodes[0].has.insert(tx(100).id, tx(100));
    pair.nodes[1].has.insert(tx(101).id, tx(101));
    let (first, second) = (txs(100..101), txs(101..102));
    pair.input(0, Input::Submitted { txs: &first });
    pair.input(1, Input::Submitted { txs: &second });
    pair.run(SYNC_PERIOD.mul_f64(0.9) - Duration::from_secs(2) - MS, usize::MAX);
    assert_eq!(pair.nodes[0].seen.announced + pair.nodes[1].seen.announced, 0);
    pair.run(SYNC_PERIOD.mul_f64(0.2) + Duration::from_secs(1), 102);
    assert_eq!(pair.nodes.each_ref().map(|node| node.has.len()), [102; 2]);
    // One side opens them all; and no more often.
    pair.run(SYNC_PERIOD * 10, usize::MAX);
    let [one, two] = pair.nodes.each_ref().map(|node| node.relay.stats().sync);
    assert!((10..=13).contains(&one.opened), "{one:?}");
    assert_eq!((one.completed, one.failed, two.opened), (one.opened, 0, 0));
}

#[test]
fn a_partition_that_heals_is_reconciled_at_once() {
    let mut pair = Pair::new(&txs(0..1_000), &txs(0..1_000));
    pair.connect(true);
    pair.run(Duration::from_secs(1), usize::MAX);
    for n in 0..2 {
        pair.input(n, Input::PeerDown { peer: peer(1 - n) });
        let new = if n == 0 { txs(1_000..1_050) } else { txs(1_050..1_100) };
        pair.nodes[n].has.extend(new.iter().map(|tx| (tx.id, *tx)));
        pair.input(n, Input::Submitted { txs: &new });
    }
    pair.wire.clear();
    let healed = pair.now;
    pair.connect(true);
    pair.run(Duration::from_secs(10), 1_100);
    assert_eq!(pair.nodes.each_ref().map(|node| node.has.len()), [1_100; 2]);
    assert!(pair.now - healed <= Duration::from_secs(1), "{:?}", pair.now - healed);
}

#[test]
fn active_links_repair_more_rarely() {
    let mut pair = Pair::new(&txs(0..10), &txs(0..10));
    pair.connect(true);
    pair.run(REPAIR_PERIOD.mul_f64(0.9) - MS, usize::MAX);
    assert_eq!(pair.nodes[0].relay.stats().sync.opened, 1);
    pair.run(REPAIR_PERIOD.mul_f64(0.2) + Duration::from_secs(1), usize::MAX);
    assert_eq!(pair.nodes[0].relay.stats().sync.opened, 2);
}

/// Noise in place of symbols, for as long as it is asked for: the asker stops at its cap and lists.
#[test]
fn scenario_22_noise_in_place_of_symbols_ends_in_the_inventory() {
    // Seventy: more than 80 symbols hold, and less than is listed.
    let mut pair = Pair::new(&txs(0..500), &txs(0..570));
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    pair.forge = Some(Box::new(move |ask| {
        // The real one opens the session, so that the inventory is there afterwards.
        let Ask::Symbols(request) = ask else { return None };
        if request.first == 0 {
            return None;
        }
        let mut noise = |_| CodedSymbol { sum: rng.random(), check: rng.random(), count: 0 };
        let symbols = (0..request.credit).map(&mut noise).collect();
        Some(vec![Symbols { count: 570, first: request.first, symbols }.into()])
    }));
    pair.connect(true);
    pair.run(Duration::from_secs(20), usize::MAX);
    let [one, two] = &pair.nodes;
    assert_eq!(one.has.len(), 570);
    assert_eq!(two.has.len(), 570);
    assert_eq!((one.relay.stats().sync.listed, one.seen.listed), (1, 570));
    // ⅔ of the other side's and a thousand, no more.
    assert!(one.seen.symbols <= 570 * 2 / 3 + 1_000, "{:?}", one.seen);
    assert!(one.offences.is_empty(), "noise may be a fault of ours: the list settles it");
}

/// Who answers with more than it was asked for, or contradicts itself, is at fault, and the session is over.
#[test]
fn scenario_22_endless_symbols_are_an_offence_and_cost_one_frame() {
    let mut pair = Pair::new(&txs(0..500), &txs(0..10));
    pair.forge = Some(Box::new(|ask| {
        let Ask::Symbols(_) = ask else { return Some(Vec::new()) };
        let frame = |first: u32| {
            let symbols = vec![CodedSymbol { sum: 1, check: 2, count: 0 }; 4_096];
            Symbols { count: 10, first, symbols }.into()
        };
        Some((0..30).map(|n| frame(n * 4_096)).collect())
    }));
    pair.connect(true);
    pair.run(Duration::from_secs(4), usize::MAX);
    let one = &pair.nodes[0];
    assert_eq!(one.offences, [Offence::FalseSketch]);
    assert_eq!(one.seen.symbols, 4_096);
    let stats = one.relay.stats().sync;
    assert_eq!((stats.opened, stats.failed), (1, 1));
    // The peer is told of everything after all.
    assert!(pair.nodes[1].seen.announced >= 490);
}

#[test]
fn scenario_22_an_inventory_of_another_size_is_an_offence() {
    let mut pair = Pair::new(&txs(0..1), &txs(0..1_000));
    pair.forge = Some(Box::new(|ask| match ask {
        Ask::Inventory(_) => {
            let ids = (0..4_000).map(SketchId).collect();
            Some(vec![Inventory { ids }.into()])
        }
        _ => None,
    }));
    pair.connect(false);
    pair.run(Duration::from_secs(1), usize::MAX);
    assert_eq!(pair.nodes[0].offences, [Offence::FalseSketch]);
}

#[test]
fn who_answers_nothing_is_given_up_after_a_while_and_asked_again_later_and_later() {
    let mut pair = Pair::new(&txs(0..5), &txs(0..5));
    pair.connect(false);
    let mut openings = Vec::new();
    while openings.len() < 5 {
        let effects = pair.nodes[0].relay.on_deadline(pair.now);
        if effects.iter().any(|effect| matches!(effect, Effect::SyncRequest { .. })) {
            openings.push(pair.now);
        }
        pair.now = pair.nodes[0].relay.next_deadline().unwrap();
    }
    let gaps: Vec<f64> =
        openings.windows(2).map(|pair| (pair[1] - pair[0] - ASK_TIMEOUT).as_secs_f64()).collect();
    for (gap, period) in gaps.iter().zip([10.0, 20.0, 40.0, 80.0]) {
        assert!((period * 0.9..=period * 1.1).contains(gap), "{gaps:?}");
    }
}

#[test]
fn a_peer_opens_no_more_than_it_may() {
    let mut pair = Pair::new(&txs(0..50), &[]);
    pair.connect(false);
    let ask = |pair: &mut Pair, nonce: u64| {
        let ask = Ask::Symbols(SymbolsRequest { nonce, count: 0, first: 0, credit: 80 });
        let input = Input::SyncRequested { peer: peer(1), request: 1, ask: &ask };
        let effects = pair.nodes[0].relay.handle(input, pair.now);
        effects.iter().any(|effect| matches!(effect, Effect::SyncAnswer { .. }))
    };
    assert!(ask(&mut pair, 7));
    assert!(!ask(&mut pair, 7), "at once");
    pair.now += OPEN_GAP_MIN - MS;
    assert!(!ask(&mut pair, 7));
    pair.now += MS;
    assert!(ask(&mut pair, 7));
    pair.now += OPEN_GAP_MIN;
    assert!(!ask(&mut pair, 8), "a new nonce");
    assert!(ask(&mut pair, 7));
    pair.now = pair.start + NONCE_GAP_MIN - MS;
    assert!(!ask(&mut pair, 8));
    pair.now += MS;
    assert!(ask(&mut pair, 8));
    assert_eq!(pair.nodes[0].relay.stats().sync.served, 4);
}

#[test]
fn parked_and_removed_ones_are_not_in_a_sketch() {
    let mut pair = Pair::new(&txs(0..20), &[]);
    pair.connect(false);
    let gone: Vec<TxId> = txs(5..20).iter().map(|tx| tx.id).collect();
    pair.input(0, Input::PoolChanged { ready: &[], removed: &gone });
    let parked = txs(50..51);
    let from = peer(1);
    let effects =
        pair.nodes[0].relay.handle(Input::Received { peer: from, via: Via::Push, txs: &parked }, pair.now);
    assert!(matches!(effects[..], [Effect::Check { .. }]));
    let verdicts = [(parked[0].id, Checked::Parked)];
    pair.nodes[0].relay.handle(Input::Checked { peer: from, verdicts: &verdicts }, pair.now);
    let ask = Ask::Symbols(SymbolsRequest { nonce: 1, count: 0, first: 0, credit: 1 });
    let effects =
        pair.nodes[0].relay.handle(Input::SyncRequested { peer: from, request: 1, ask: &ask }, pair.now);
    let [Effect::SyncAnswer { frames, .. }] = &effects[..] else { panic!("{effects:?}") };
    let [Frame::Symbols(symbols)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(symbols.count, 5);
    let keys = Keys::derive(&KEY, 1);
    let mut expected = [Symbol::default()];
    let items: Vec<_> = txs(0..5).iter().map(|tx| keys.item(&tx.id)).collect();
    encode(&items, 0, &mut expected);
    assert_eq!(symbols.symbols[0].sum, expected[0].sum);
    // Freed by its parent, it is in the next one.
    pair.now += OPEN_GAP_MIN;
    pair.input(0, Input::PoolChanged { ready: &parked, removed: &[] });
    let effects =
        pair.nodes[0].relay.handle(Input::SyncRequested { peer: from, request: 2, ask: &ask }, pair.now);
    let [Effect::SyncAnswer { frames, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert!(matches!(&frames[..], [Frame::Symbols(symbols)] if symbols.count == 6));
}

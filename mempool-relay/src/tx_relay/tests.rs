use ghost_frames::tx::TxAnnounceEntry;
use ghost_proto::{KeyPair, record};
use proptest::prelude::*;

use super::*;
use crate::{announce::QUEUE_MAX, fetch::ANNOUNCED_PER_PEER_MAX};
use ghost_proto::limits::ANNOUNCE_ENTRIES_MAX;

impl TxRelay {
    pub(crate) fn check(&self) {
        self.fetch.check();
        let checking = (0..self.held.places())
            .filter_map(|index| self.held.at(index))
            .filter(|(_, held)| held.stage == Stage::Checking)
            .count();
        assert_eq!(self.checking, checking);
        for link in self.links.iter().flatten() {
            assert!(link.queue.is_empty() || link.flush_at.is_some(), "what waits is announced");
            assert!(!link.queue.overflowed || link.walk.is_some(), "what overflowed is found");
        }
    }
}

const RTT: Duration = Duration::from_millis(100);
const MS: Duration = Duration::from_millis(1);
const OURS: Salt = Salt([1; 16]);

fn peer(n: u8) -> PeerId {
    record::peer_of(&KeyPair::from_seed(&[n + 1; 32]).public()).unwrap()
}

fn salt(n: u8) -> Salt {
    Salt([n.wrapping_add(100); 16])
}

fn tx(n: u32) -> TxSummary {
    sized(n, 250)
}

fn sized(n: u32, bytes: u32) -> TxSummary {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    TxSummary { id: TxId(id), bytes, fee_class: 5 }
}

/// As a peer would announce it to us.
fn entry(tx: TxSummary) -> TxAnnounceEntry {
    TxAnnounceEntry { id: OURS.short_id(&tx.id), bytes: tx.bytes, fee_class: tx.fee_class }
}

fn bogus(n: u64) -> TxAnnounceEntry {
    TxAnnounceEntry { id: ShortId(n), bytes: 250, fee_class: 5 }
}

struct Bench {
    relay: TxRelay,
    now: Instant,
    /// Whether sessions take what is pushed and announced.
    open: bool,
}

impl Bench {
    fn new(peers: u8) -> Self {
        let mut bench = Self { relay: TxRelay::new([3; 32]), now: Instant::now(), open: true };
        for n in 0..peers {
            bench.up(n, true);
        }
        bench
    }

    fn up(&mut self, n: u8, active: bool) -> Vec<Effect> {
        self.input(Input::PeerUp {
            peer: peer(n),
            outbound: true,
            rtt: RTT,
            our_salt: OURS,
            their_salt: salt(n),
            active,
            sync_key: None,
        })
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Effect> {
        let effects = self.relay.handle(input, self.now);
        self.confirm(effects)
    }

    fn confirm(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        for effect in &effects {
            if let Effect::Announce { token, .. } | Effect::Push { token, .. } = effect {
                if self.open {
                    self.relay.delivered(*token);
                } else {
                    self.relay.not_delivered(*token, self.now);
                }
            }
        }
        self.relay.check();
        effects
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut all = Vec::new();
        while let Some(at) = self.relay.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let effects = self.relay.on_deadline(self.now);
            all.extend(self.confirm(effects));
        }
        self.now = end;
        all
    }

    fn announced(&mut self, n: u8, entries: &[TxAnnounceEntry]) -> Vec<Effect> {
        self.input(Input::Announced { peer: peer(n), entries })
    }

    fn submit(&mut self, txs: &[TxSummary]) -> Vec<Effect> {
        self.input(Input::Submitted { txs })
    }

    fn push(&mut self, n: u8, txs: &[TxSummary]) -> Vec<Effect> {
        self.input(Input::Received { peer: peer(n), via: Via::Push, txs })
    }

    fn checked(&mut self, n: u8, txs: &[TxSummary], verdict: Checked) -> Vec<Effect> {
        let verdicts: Vec<_> = txs.iter().map(|tx| (tx.id, verdict)).collect();
        self.input(Input::Checked { peer: peer(n), verdicts: &verdicts })
    }
}

fn pushed(effects: &[Effect]) -> Vec<(PeerId, TxId)> {
    let pushes = effects.iter().filter_map(|effect| match effect {
        Effect::Push { peer, ids, .. } => Some((*peer, ids)),
        _ => None,
    });
    pushes.flat_map(|(peer, ids)| ids.iter().map(move |id| (peer, *id))).collect()
}

fn told(effects: &[Effect]) -> Vec<(PeerId, ShortId)> {
    let announcements = effects.iter().filter_map(|effect| match effect {
        Effect::Announce { peer, announce, .. } => Some((*peer, &announce.entries)),
        _ => None,
    });
    announcements.flat_map(|(peer, entries)| entries.iter().map(move |entry| (peer, entry.id))).collect()
}

fn requests(effects: &[Effect]) -> Vec<(PeerId, RequestId, Vec<ShortId>)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Request { peer, request, ids } => Some((*peer, *request, ids.clone())),
            _ => None,
        })
        .collect()
}

fn offences(effects: &[Effect]) -> Vec<(PeerId, Offence)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Offence { peer, what } => Some((*peer, *what)),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_submitted_is_pushed_to_few_and_announced_to_the_rest_at_once() {
    let mut bench = Bench::new(10);
    let effects = bench.submit(&[tx(1)]);
    let (pushed, told) = (pushed(&effects), told(&effects));
    assert!((1..=4).contains(&pushed.len()));
    assert_eq!(pushed.len() + told.len(), 10);
    for n in 0..10 {
        assert!(bench.relay.is_known_to(&peer(n), &tx(1).id));
        let name = salt(n).short_id(&tx(1).id);
        let by_push = pushed.contains(&(peer(n), tx(1).id));
        assert_eq!(told.contains(&(peer(n), name)), !by_push, "under the receiver's own name");
    }
    assert_eq!(bench.submit(&[tx(1)]), []);
}

#[test]
fn pushed_is_pushed_on_unless_it_was_announced_and_pulled_is_only_announced() {
    let mut bench = Bench::new(10);
    assert_eq!(bench.push(0, &[tx(1)]), [Effect::Check { peer: peer(0), ids: vec![tx(1).id] }]);
    let effects = bench.checked(0, &[tx(1)], Checked::Ready);
    assert!(!pushed(&effects).is_empty());
    assert!(!pushed(&effects).iter().any(|(to, _)| *to == peer(0)));
    assert_eq!(pushed(&effects).len() + told(&effects).len(), 9);

    // Announced by one, pushed by another.
    bench.announced(1, &[entry(tx(2))]);
    bench.push(0, &[tx(2)]);
    let mut effects = bench.checked(0, &[tx(2)], Checked::Ready);
    effects.extend(bench.wait(Duration::from_millis(100)));
    assert_eq!((pushed(&effects).len(), told(&effects).len()), (0, 8));

    // Asked for.
    let asked = requests(&bench.announced(1, &[entry(tx(3))]));
    let (_, request, _) = asked[0];
    let effects = bench.input(Input::Received { peer: peer(1), via: Via::Pull(request), txs: &[tx(3)] });
    assert_eq!(effects, [Effect::Check { peer: peer(1), ids: vec![tx(3).id] }]);
    let mut effects = bench.checked(1, &[tx(3)], Checked::Ready);
    effects.extend(bench.wait(Duration::from_millis(100)));
    assert_eq!((pushed(&effects).len(), told(&effects).len()), (0, 9));
    assert_eq!(bench.relay.stats().announce_to_have.count, 1);
}

#[test]
fn large_bodies_are_announced_and_a_large_push_is_an_offence() {
    let mut bench = Bench::new(5);
    assert!(!pushed(&bench.submit(&[sized(1, PUSH_BYTES_MAX)])).is_empty());
    let mut effects = bench.submit(&[sized(2, PUSH_BYTES_MAX + 1)]);
    effects.extend(bench.wait(Duration::from_millis(100)));
    assert_eq!(
        (
            pushed(&effects).len(),
            told(&effects)
                .iter()
                .filter(|(_, id)| (0..5).any(|n| *id == salt(n).short_id(&tx(2).id)))
                .count()
        ),
        (0, 5)
    );
    let effects = bench.push(0, &[sized(3, PUSH_BYTES_MAX), sized(4, PUSH_BYTES_MAX + 1)]);
    assert_eq!(offences(&effects), [(peer(0), Offence::PushTooLarge)]);
    assert!(effects.contains(&Effect::Check { peer: peer(0), ids: vec![tx(3).id] }));
}

#[test]
fn two_announcers_one_request() {
    let mut bench = Bench::new(3);
    assert_eq!(requests(&bench.announced(0, &[entry(tx(1))])).len(), 1);
    assert_eq!(bench.announced(1, &[entry(tx(1))]), []);
    assert_eq!(bench.announced(2, &[entry(tx(1))]), []);
}

#[test]
fn what_is_here_gone_or_refused_is_not_fetched_again() {
    let mut bench = Bench::new(3);
    bench.submit(&[tx(1)]);
    assert_eq!(bench.announced(0, &[entry(tx(1))]), []);
    bench.input(Input::PoolChanged { ready: &[], removed: &[tx(1).id] });
    assert_eq!(bench.announced(0, &[entry(tx(1))]), []);
    bench.push(0, &[tx(2)]);
    assert_eq!(bench.checked(0, &[tx(2)], Checked::Refused), []);
    assert_eq!(bench.announced(1, &[entry(tx(2))]), []);
    assert_eq!(bench.push(1, &[tx(2)]), []);
    assert_eq!(bench.relay.stats().bodies_duplicate, 1);
    // A new head may make it good; a minute makes what left unknown.
    bench.input(Input::HeadChanged);
    assert_eq!(requests(&bench.announced(1, &[entry(tx(2))])).len(), 1);
    bench.wait(GONE_PERIOD * 2);
    assert_eq!(requests(&bench.announced(2, &[entry(tx(1))])).len(), 1);
}

#[test]
fn parked_ones_wait_in_silence() {
    let mut bench = Bench::new(4);
    bench.push(0, &[tx(2)]);
    assert_eq!(bench.checked(0, &[tx(2)], Checked::Parked), []);
    assert_eq!(bench.wait(Duration::from_secs(5)), []);
    let mut effects = bench.input(Input::PoolChanged { ready: &[tx(2)], removed: &[] });
    effects.extend(bench.wait(Duration::from_millis(100)));
    assert_eq!(pushed(&effects).len() + told(&effects).len(), 3);
}

#[test]
fn an_invalid_body_is_its_senders_offence_and_not_taken_twice() {
    let mut bench = Bench::new(2);
    bench.push(0, &[tx(1)]);
    let effects = bench.checked(0, &[tx(1)], Checked::Invalid);
    assert_eq!(offences(&effects), [(peer(0), Offence::InvalidTransaction)]);
    assert_eq!(bench.push(0, &[tx(1)]), []);
}

#[test]
fn what_is_surely_below_the_floor_is_not_fetched() {
    let mut bench = Bench::new(1);
    // Class 5 is 32 to 63.
    bench.input(Input::FeeFloor { gas_price: 64 });
    assert_eq!(bench.announced(0, &[entry(tx(1))]), []);
    bench.input(Input::FeeFloor { gas_price: 63 });
    assert_eq!(requests(&bench.announced(0, &[entry(tx(1))])).len(), 1);
    assert!(!is_surely_below(63, u64::MAX));
    assert!(is_surely_below(62, u64::MAX));
    assert!(!is_surely_below(0, 1) && is_surely_below(0, 2));
}

#[test]
fn a_peers_floor_keeps_cheap_transactions_from_it_until_it_falls() {
    let mut bench = Bench::new(1);
    bench.input(Input::PeerFeeFloor { peer: peer(0), gas_price: 64 });
    // Class 5 is 32 to 63.
    let mut effects = bench.submit(&[tx(1)]);
    effects.extend(bench.wait(Duration::from_millis(500)));
    assert_eq!(pushed(&effects).len() + told(&effects).len(), 0);
    bench.input(Input::PeerFeeFloor { peer: peer(0), gas_price: 63 });
    let effects = bench.wait(Duration::from_millis(500));
    assert_eq!(told(&effects).len(), 1, "what was held back is announced");
}

#[test]
fn peers_are_told_of_a_floor_that_rises_by_a_tenth_or_falls_by_half() {
    let mut bench = Bench::new(2);
    let mut told = |gas_price| {
        let effects = bench.input(Input::FeeFloor { gas_price });
        let floors = effects.iter().filter(|one| matches!(one, Effect::TellFeeFloor { .. }));
        floors.count()
    };
    let expected = [(100, 2), (110, 0), (111, 2), (56, 0), (55, 2), (0, 2), (0, 0)];
    for (gas_price, count) in expected {
        assert_eq!(told(gas_price), count, "at {gas_price}");
    }
}

#[test]
fn requests_are_answered_with_what_was_announced_three_times_at_most() {
    let mut bench = Bench::new(6);
    let effects = bench.submit(&[tx(1)]);
    let (to, name) = told(&effects)[0];
    let mut answers = Vec::new();
    for request in 0..4 {
        let ids = [ShortId(9), name];
        let effects = bench.input(Input::Requested { peer: to, request, ids: &ids });
        assert!(
            matches!(&effects[..], [Effect::Answer { peer, request: number, .. }] if *peer == to && *number == request)
        );
        let Effect::Answer { ids, .. } = &effects[0] else { unreachable!() };
        answers.push(ids.clone());
    }
    assert_eq!(answers, [vec![tx(1).id], vec![tx(1).id], vec![tx(1).id], vec![]]);
    // Another peer's name for it is no name here.
    let other = (0..6).map(peer).find(|other| *other != to).unwrap();
    let effects = bench.input(Input::Requested { peer: other, request: 9, ids: &[name] });
    assert_eq!(effects, [Effect::Answer { peer: other, request: 9, ids: vec![] }]);
}

#[test]
fn an_answer_has_at_most_a_mebibyte() {
    let mut bench = Bench::new(1);
    let txs: Vec<_> = (0..20).map(|n| sized(n, 100_000)).collect();
    let mut effects = bench.submit(&txs);
    effects.extend(bench.wait(Duration::from_millis(100)));
    let ids: Vec<_> = told(&effects).into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), 20);
    let effects = bench.input(Input::Requested { peer: peer(0), request: 1, ids: &ids });
    let Effect::Answer { ids, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(ids.len(), 10);
}

#[test]
fn scenario_18_a_silent_flood_does_not_keep_an_honest_announcer_waiting() {
    let mut bench = Bench::new(2);
    // The liar is first with the victim's transaction, and with 50,000 that do not exist.
    let mut flood = vec![entry(tx(1))];
    flood.extend((0..50_000).map(bogus));
    let mut effects = Vec::new();
    for entries in flood.chunks(ANNOUNCE_ENTRIES_MAX) {
        effects.extend(bench.announced(0, entries));
    }
    let asked: usize = requests(&effects).iter().map(|(.., ids)| ids.len()).sum();
    assert!(asked <= 256, "{asked} outstanding");
    assert_eq!(bench.relay.stats().fetch.over_cap, 50_001 - ANNOUNCED_PER_PEER_MAX as u64);
    bench.announced(1, &[entry(tx(1))]);
    let start = bench.now;
    let (to, request, ids) = loop {
        let effects = bench.wait(MS);
        if let Some(found) = requests(&effects).into_iter().find(|(to, ..)| *to == peer(1)) {
            break found;
        }
        assert!(bench.now < start + Duration::from_secs(2), "starved");
    };
    assert_eq!(ids, [entry(tx(1)).id]);
    assert!(bench.now - start < Duration::from_millis(400), "{:?}", bench.now - start);
    let effects = bench.input(Input::Received { peer: to, via: Via::Pull(request), txs: &[tx(1)] });
    assert_eq!(effects, [Effect::Check { peer: to, ids: vec![tx(1).id] }]);
    assert_eq!(bench.relay.stats().offences, 0, "silence is no offence");
    // What it announces from now on waits for its pause, others do not wait at all.
    bench.announced(0, &[entry(tx(2))]);
    assert_eq!(requests(&bench.announced(1, &[entry(tx(2))])).len(), 1);
}

#[test]
fn scenario_20_what_overflows_is_not_marked_and_is_announced_later() {
    let mut bench = Bench::new(0);
    bench.up(0, true);
    // Too large to be pushed; the session takes nothing.
    bench.open = false;
    let count = QUEUE_MAX as u32 + 1_000;
    let txs: Vec<_> = (0..count).map(|n| sized(n, PUSH_BYTES_MAX + 1)).collect();
    for batch in txs.chunks(500) {
        bench.submit(batch);
    }
    let stats = bench.relay.stats();
    assert!(stats.announce_overflow >= 1_000 && stats.not_delivered > 0, "{stats:?}");
    assert!(txs.iter().all(|tx| !bench.relay.is_known_to(&peer(0), &tx.id)), "nothing was sent");
    // It opens: everything is announced, each once, fresh ones first.
    bench.open = true;
    let told = told(&bench.wait(Duration::from_secs(30)));
    let mut ids: Vec<_> = told.iter().map(|(_, id)| *id).collect();
    ids.sort();
    let announced = ids.len();
    ids.dedup();
    assert_eq!((announced, ids.len()), (count as usize, count as usize));
    assert!(txs.iter().all(|tx| bench.relay.is_known_to(&peer(0), &tx.id)));
}

#[test]
fn a_push_that_was_not_queued_becomes_an_announcement() {
    let mut bench = Bench::new(1);
    bench.open = false;
    let effects = bench.submit(&[tx(1)]);
    assert_eq!(pushed(&effects), [(peer(0), tx(1).id)]);
    assert!(!bench.relay.is_known_to(&peer(0), &tx(1).id));
    bench.open = true;
    // After the pause, to the millisecond.
    assert_eq!(bench.wait(spread::BACK_OFF_MIN - MS), []);
    assert_eq!(told(&bench.wait(MS)).len(), 1);
    assert!(bench.relay.is_known_to(&peer(0), &tx(1).id));
}

#[test]
fn scenario_21_a_body_that_is_not_as_announced_is_dropped_and_fetched_elsewhere() {
    let mut bench = Bench::new(3);
    let lie = TxAnnounceEntry { fee_class: 60, ..entry(tx(1)) };
    let (_, request, _) = requests(&bench.announced(0, &[lie])).remove(0);
    bench.announced(1, &[entry(tx(1))]);
    let effects = bench.input(Input::Received { peer: peer(0), via: Via::Pull(request), txs: &[tx(1)] });
    assert_eq!(offences(&effects), [(peer(0), Offence::Misannounced)]);
    let (to, request, _) = requests(&effects).remove(0);
    assert_eq!(to, peer(1));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Check { .. })));
    let effects = bench.input(Input::Received { peer: to, via: Via::Pull(request), txs: &[tx(1)] });
    assert_eq!(effects, [Effect::Check { peer: to, ids: vec![tx(1).id] }]);

    // The same by push, and one nobody asked for in an answer.
    bench.announced(0, &[TxAnnounceEntry { bytes: 251, ..entry(tx(2)) }]);
    assert_eq!(offences(&bench.push(0, &[tx(2)])), [(peer(0), Offence::Misannounced)]);
    let (_, request, _) = requests(&bench.announced(2, &[entry(tx(3))])).remove(0);
    let effects = bench.input(Input::Received { peer: peer(2), via: Via::Pull(request), txs: &[tx(4)] });
    assert_eq!(offences(&effects), [(peer(2), Offence::Unrequested)]);
}

#[test]
fn scenario_21_races_between_honest_peers_are_no_offence() {
    let mut bench = Bench::new(3);
    let (_, request, _) = requests(&bench.announced(0, &[entry(tx(1))])).remove(0);
    // Pushed by another meanwhile; then the answer comes, and then it ends; then a late push.
    bench.push(1, &[tx(1)]);
    bench.input(Input::Received { peer: peer(0), via: Via::Pull(request), txs: &[tx(1)] });
    bench.checked(1, &[tx(1)], Checked::Ready);
    bench.input(Input::AnswerEnded { peer: peer(0), request });
    bench.push(2, &[tx(1)]);
    bench.push(2, &[tx(1)]);
    // Included meanwhile; asked for after it left; answered empty; after a disconnect.
    bench.input(Input::PoolChanged { ready: &[], removed: &[tx(1).id] });
    bench.input(Input::Requested { peer: peer(1), request: 1, ids: &[salt(1).short_id(&tx(1).id)] });
    let (_, request, _) = requests(&bench.announced(0, &[entry(tx(2))])).remove(0);
    bench.input(Input::AnswerEnded { peer: peer(0), request });
    bench.input(Input::PeerDown { peer: peer(0) });
    bench.input(Input::Received { peer: peer(0), via: Via::Pull(request), txs: &[tx(2)] });
    // Timed out, given up, then answered.
    let (_, request, _) = requests(&bench.announced(1, &[entry(tx(3))])).remove(0);
    bench.wait(Duration::from_secs(10));
    let effects = bench.input(Input::Received { peer: peer(1), via: Via::Pull(request), txs: &[tx(3)] });
    assert_eq!(effects, [Effect::Check { peer: peer(1), ids: vec![tx(3).id] }]);
    assert_eq!(bench.relay.stats().offences, 0);
}

#[test]
fn a_new_link_hears_of_everything_held_at_a_pace_it_can_fetch() {
    let mut bench = Bench::new(1);
    let txs: Vec<_> = (0..1_000).map(tx).collect();
    bench.submit(&txs);
    assert_eq!(bench.up(1, true), []);
    let first = told(&bench.wait(Duration::ZERO)).len();
    assert_eq!(first, spread::WALK_STEP);
    assert!(told(&bench.wait(spread::WALK_PAUSE - MS)).is_empty());
    let rest = told(&bench.wait(Duration::from_secs(5)));
    assert_eq!(first + rest.iter().filter(|(to, _)| *to == peer(1)).count(), 1_000);
    // One that is only listened to hears nothing until it is chosen.
    bench.up(2, false);
    assert_eq!(bench.wait(Duration::from_secs(5)), []);
    bench.input(Input::SetActive { peer: peer(2), active: true });
    assert_eq!(told(&bench.wait(Duration::from_secs(5))).len(), 1_000);
}

#[test]
fn links_come_and_go_and_leave_nothing() {
    let mut bench = Bench::new(1);
    bench.submit(&[tx(1)]);
    for round in 0..600u32 {
        let n = 1 + (round % 200) as u8;
        bench.up(n, true);
        assert!(!bench.relay.is_known_to(&peer(n), &tx(1).id), "the bit of the one before is cleared");
        bench.wait(Duration::ZERO);
        assert!(bench.relay.is_known_to(&peer(n), &tx(1).id));
        bench.announced(n, &[bogus(u64::from(round))]);
        bench.input(Input::PeerDown { peer: peer(n) });
    }
    assert_eq!(bench.relay.peers.len(), 1);
    assert_eq!(bench.relay.links.iter().flatten().count(), 1);
    assert_eq!(bench.relay.stats().links_refused, 0);
    // All links taken: refused, and noted.
    for n in 1..=LINKS_MAX as u8 {
        bench.up(n, true);
    }
    assert_eq!(bench.relay.stats().links_refused, 1);
}

#[test]
fn two_identities_have_two_names_for_one_transaction() {
    let mut bench = Bench::new(1);
    bench.submit(&[tx(1)]);
    let second = Salt([2; 16]);
    let up = Input::PeerUp {
        peer: peer(1),
        outbound: true,
        rtt: RTT,
        our_salt: second,
        their_salt: salt(1),
        active: false,
        sync_key: None,
    };
    bench.input(up);
    let named = |tx: TxSummary| TxAnnounceEntry { id: second.short_id(&tx.id), ..entry(tx) };
    assert_eq!(bench.announced(1, &[named(tx(1))]), [], "held already");
    // Announced under both names, fetched under the first, settled under both.
    let (_, request, _) = requests(&bench.announced(0, &[entry(tx(2))])).remove(0);
    bench.announced(1, &[named(tx(2))]);
    bench.input(Input::Received { peer: peer(0), via: Via::Pull(request), txs: &[tx(2)] });
    assert!(bench.relay.is_known_to(&peer(1), &tx(2).id));
    bench.checked(0, &[tx(2)], Checked::Ready);
    assert_eq!(bench.announced(1, &[named(tx(2))]), []);
}

#[test]
fn pushes_to_check_are_bounded_and_answers_are_not_dropped() {
    let mut bench = Bench::new(2);
    for first in (0..CHECKING_MAX as u32).step_by(1024) {
        let txs: Vec<_> = (first..first + 1024).map(tx).collect();
        bench.relay.handle(Input::Received { peer: peer(0), via: Via::Push, txs: &txs }, bench.now);
    }
    assert_eq!(bench.relay.stats().dropped_busy, 0);
    let extra = tx(900_000);
    assert_eq!(bench.push(0, &[extra]), []);
    assert_eq!(bench.relay.stats().dropped_busy, 1);
    let (_, request, _) = requests(&bench.announced(1, &[entry(extra)])).remove(0);
    let effects = bench.input(Input::Received { peer: peer(1), via: Via::Pull(request), txs: &[extra] });
    assert_eq!(effects.len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Up { n: u8, active: bool },
    Down { n: u8 },
    Announced { n: u8, from: u32, count: u32, class: u8 },
    Pushed { n: u8, tx: u32, bytes: u32 },
    Answered { n: u8, request: u64, tx: u32 },
    Ended { n: u8, request: u64, failed: bool },
    Checked { n: u8, tx: u32, verdict: Checked },
    Submitted { tx: u32 },
    Pool { ready: u32, removed: u32 },
    Requested { n: u8, tx: u32 },
    Wait { millis: u64 },
    Close { open: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        Just(Checked::Ready),
        Just(Checked::Parked),
        Just(Checked::Refused),
        Just(Checked::Invalid)
    ];
    prop_oneof![
        (0..6u8, any::<bool>()).prop_map(|(n, active)| Step::Up { n, active }),
        (0..6u8).prop_map(|n| Step::Down { n }),
        (0..6u8, 0..30u32, 1..9u32, 4..6u8).prop_map(|(n, from, count, class)| Step::Announced {
            n,
            from,
            count,
            class
        }),
        (0..6u8, 0..40u32, prop_oneof![Just(250u32), Just(9_000)]).prop_map(|(n, tx, bytes)| Step::Pushed {
            n,
            tx,
            bytes
        }),
        (0..6u8, 0..20u64, 0..40u32).prop_map(|(n, request, tx)| Step::Answered { n, request, tx }),
        (0..6u8, 0..20u64, any::<bool>()).prop_map(|(n, request, failed)| Step::Ended { n, request, failed }),
        (0..6u8, 0..40u32, verdict).prop_map(|(n, tx, verdict)| Step::Checked { n, tx, verdict }),
        (0..40u32).prop_map(|tx| Step::Submitted { tx }),
        (0..40u32, 0..40u32).prop_map(|(ready, removed)| Step::Pool { ready, removed }),
        (0..6u8, 0..40u32).prop_map(|(n, tx)| Step::Requested { n, tx }),
        (0..2_000u64).prop_map(|millis| Step::Wait { millis }),
        any::<bool>().prop_map(|open| Step::Close { open }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any inputs in any order: no panic, the books agree, and at rest every active link knows all
    /// that is ready.
    #[test]
    fn whatever_happens_every_active_link_is_told_in_the_end(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut bench = Bench::new(3);
        for step in steps {
            match step {
                Step::Up { n, active } => { bench.up(n, active); }
                Step::Down { n } => { bench.input(Input::PeerDown { peer: peer(n) }); }
                Step::Announced { n, from, count, class } => {
                    let entries: Vec<_> = (from..from + count)
                        .map(|n| TxAnnounceEntry { fee_class: class, ..entry(tx(n)) })
                        .collect();
                    bench.announced(n, &entries);
                }
                Step::Pushed { n, tx, bytes } => { bench.push(n, &[sized(tx, bytes)]); }
                Step::Answered { n, request, tx: number } => {
                    let via = Via::Pull(RequestId(request));
                    bench.input(Input::Received { peer: peer(n), via, txs: &[tx(number)] });
                }
                Step::Ended { n, request, failed } => {
                    let (peer, request) = (peer(n), RequestId(request));
                    bench.input(if failed {
                        Input::RequestFailed { peer, request }
                    } else {
                        Input::AnswerEnded { peer, request }
                    });
                }
                Step::Checked { n, tx: number, verdict } => { bench.checked(n, &[tx(number)], verdict); }
                Step::Submitted { tx: number } => { bench.submit(&[tx(number)]); }
                Step::Pool { ready, removed } => {
                    bench.input(Input::PoolChanged { ready: &[tx(ready)], removed: &[tx(removed).id] });
                }
                Step::Requested { n, tx: number } => {
                    let ids = [salt(n).short_id(&tx(number).id)];
                    bench.input(Input::Requested { peer: peer(n), request: 1, ids: &ids });
                }
                Step::Wait { millis } => { bench.wait(Duration::from_millis(millis)); }
                Step::Close { open } => bench.open = open,
            }
        }
        bench.open = true;
        bench.wait(Duration::from_secs(150));
        for index in 0..bench.relay.held.places() {
            let Some((_, held)) = bench.relay.held.at(index) else { continue };
            for (peer, slot) in &bench.relay.peers {
                let active = bench.relay.links[usize::from(slot.0)].as_ref().unwrap().active;
                prop_assert!(
                    !active || held.stage != Stage::Ready || held.known.contains(*slot),
                    "{peer} was not told of {:?}",
                    held.tx
                );
            }
        }
    }
}

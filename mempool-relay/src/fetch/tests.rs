use proptest::prelude::*;

use super::*;

impl Fetch {
    /// Recomputes everything that is kept incrementally.
    pub(crate) fn check(&self) {
        for (name, wanted) in &self.wanted {
            assert!(!wanted.announcers.is_empty());
            for announcer in &wanted.announcers {
                let peer =
                    self.peers[usize::from(announcer.slot.0)].as_ref().expect("announcers are connected");
                assert!(peer.announced.contains(name));
                if let Some(place) = announcer.queued {
                    assert_eq!(peer.backlog[&place], *name);
                }
                if let Some(request) = announcer.asked_in {
                    assert!(self.requests[&request].names.contains_key(name));
                }
            }
            if let Some(live) = wanted.live {
                assert!(self.requests.contains_key(&live));
            } else {
                let waits = wanted.retry_at.is_some()
                    || wanted
                        .announcers
                        .iter()
                        .any(|announcer| announcer.queued.is_some() || announcer.asked_in.is_some());
                assert!(waits, "nobody will ask for {name:?}: {wanted:?}");
            }
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            let slot = Slot(index as u8);
            let own: Vec<_> = self.requests.iter().filter(|(_, request)| request.slot == slot).collect();
            assert_eq!(peer.requests.len(), own.len());
            assert!(own.len() <= REQUESTS_PER_PEER_MAX);
            let live = own.iter().filter(|(_, request)| !request.timed_out);
            assert_eq!(
                (peer.outstanding, peer.outstanding_bytes),
                live.fold((0, 0), |(n, bytes), (_, r)| (n + r.names.len(), bytes + r.bytes))
            );
            assert!(peer.backlog.len() <= peer.announced.len());
            assert!(peer.outstanding <= OUTSTANDING_PER_PEER_MAX);
            assert!(peer.announced.len() <= ANNOUNCED_PER_PEER_MAX);
            for name in &peer.announced {
                assert!(self.wanted[name].announcers.iter().any(|announcer| announcer.slot == slot));
            }
        }
    }
}

const RTT: Duration = Duration::from_millis(100);
const MS: Duration = Duration::from_millis(1);
const KIND: Kind = Kind { bytes: 250, fee_class: 5 };

struct Bench {
    fetch: Fetch,
    now: Instant,
}

impl Bench {
    /// Links 0 to `links`; the even ones are outbound.
    fn new(links: u8) -> Self {
        let mut fetch = Fetch::new();
        for slot in 0..links {
            fetch.link_up(Slot(slot), slot % 2 == 0, RTT);
        }
        Self { fetch, now: Instant::now() }
    }

    fn did(&mut self, call: impl FnOnce(&mut Fetch, Instant, &mut Vec<Action>)) -> Vec<Action> {
        let mut out = Vec::new();
        call(&mut self.fetch, self.now, &mut out);
        self.fetch.check();
        out
    }

    fn announce(&mut self, slot: u8, ids: impl IntoIterator<Item = u64>, kind: Kind) -> Vec<Action> {
        self.did(|fetch, now, out| {
            fetch.announced(Slot(slot), ids.into_iter().map(|id| (name(id), kind)), now, out);
        })
    }

    fn body(&mut self, slot: u8, request: RequestId, id: u64) -> (Verdict, Vec<Action>) {
        let mut verdict = Verdict::Late;
        let out = self.did(|fetch, now, out| {
            verdict = fetch.body(Slot(slot), request, name(id), KIND, now, out);
            if matches!(verdict, Verdict::AsAnnounced | Verdict::Late) {
                fetch.arrived(name(id), now, out);
            }
        });
        (verdict, out)
    }

    fn ended(&mut self, slot: u8, request: RequestId) -> Vec<Action> {
        self.did(|fetch, now, out| fetch.answer_ended(Slot(slot), request, now, out))
    }

    /// Lets time pass, step by step.
    fn wait(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut all = Vec::new();
        while let Some(at) = self.fetch.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            all.extend(self.did(|fetch, now, out| fetch.on_deadline(now, out)));
        }
        self.now = end;
        all
    }
}

fn name(id: u64) -> Name {
    Name { salt: 0, id: ShortId(id) }
}

/// Who is asked for what, without the numbers of the requests.
fn asked(actions: &[Action]) -> Vec<(u8, Vec<u64>)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Request { slot, ids, .. } => Some((slot.0, ids.iter().map(|id| id.0).collect())),
            Action::Cancel { .. } => None,
        })
        .collect()
}

fn request(actions: &[Action]) -> RequestId {
    actions
        .iter()
        .find_map(|action| match action {
            Action::Request { request, .. } => Some(*request),
            Action::Cancel { .. } => None,
        })
        .expect("somebody is asked")
}

/// What a request for `bytes` may take.
fn timeout(bytes: u64) -> Duration {
    RTT + ANSWER_GRACE + Duration::from_secs_f64(bytes as f64 / LINK_BYTES_PER_SECOND_MIN)
}

#[test]
fn the_first_announcer_is_asked_at_once_and_only_it() {
    let mut bench = Bench::new(3);
    assert_eq!(asked(&bench.announce(1, [7, 8], KIND)), [(1, vec![7, 8])]);
    assert_eq!(bench.announce(0, [7, 8], KIND), []);
    assert_eq!(bench.announce(1, [7], KIND), []);
}

#[test]
fn a_timeout_to_the_millisecond_then_the_next_outbound_first() {
    let mut bench = Bench::new(4);
    let first = bench.announce(1, [7], KIND);
    bench.announce(3, [7], KIND);
    bench.announce(2, [7], KIND);
    assert_eq!(bench.wait(timeout(250) - MS), []);
    let second = bench.wait(MS + MS);
    assert_eq!(asked(&second), [(2, vec![7])]);
    // The late answer of the first is welcome, and stops the second.
    let (verdict, actions) = bench.body(1, request(&first), 7);
    assert_eq!(verdict, Verdict::AsAnnounced);
    assert_eq!(actions, [Action::Cancel { slot: Slot(2), request: request(&second) }]);
    assert_eq!(bench.fetch.stats.timeouts, 1);
}

#[test]
fn scenario_19_a_lone_announcer_is_asked_again_after_a_pause_and_never_excluded() {
    let mut bench = Bench::new(1);
    bench.announce(0, [7], KIND);
    // Given up after four timeouts; asked again a second later.
    let give_up = timeout(250) * PATIENCE;
    assert!(asked(&bench.wait(give_up + RETRY_PAUSE - MS)).is_empty());
    assert_eq!(asked(&bench.wait(MS + MS)), [(0, vec![7])]);
    // It stays silent for a minute: the transaction is given up, the peer is not.
    bench.wait(WANTED_LIFETIME);
    assert_eq!((bench.fetch.stats.expired, bench.fetch.wanted.len()), (1, 0));
    let mut again = bench.announce(0, [8], KIND);
    again.extend(bench.wait(Duration::from_secs(40)));
    assert!(asked(&again).contains(&(0, vec![8])), "{again:?}");
    // One answer, and it is trusted with a full request at once.
    let probe = again.iter().rev().find_map(|action| match action {
        Action::Request { request, .. } => Some(*request),
        Action::Cancel { .. } => None,
    });
    bench.body(0, probe.unwrap(), 8);
    bench.ended(0, probe.unwrap());
    assert_eq!(asked(&bench.announce(0, 100..200, KIND))[0].1.len(), 100);
}

#[test]
fn an_answer_without_it_means_not_found() {
    let mut bench = Bench::new(2);
    let first = bench.announce(0, [7, 8], KIND);
    bench.announce(1, [7, 8], KIND);
    bench.body(0, request(&first), 8);
    let next = bench.ended(0, request(&first));
    assert_eq!(asked(&next), [(1, vec![7])]);
    // Nobody is left to ask: forgotten, until somebody announces it again.
    assert_eq!(bench.ended(1, request(&next)), []);
    assert!(bench.fetch.wanted.is_empty());
    bench.wait(Duration::from_secs(1));
    assert_eq!(asked(&bench.announce(0, [7], KIND)), [(0, vec![7])]);
}

#[test]
fn a_failed_request_goes_elsewhere_at_once() {
    let mut bench = Bench::new(2);
    let first = bench.announce(0, [7], KIND);
    bench.announce(1, [7], KIND);
    let actions = bench.did(|fetch, now, out| fetch.request_failed(Slot(0), request(&first), now, out));
    assert_eq!(asked(&actions), [(1, vec![7])]);
}

#[test]
fn a_peer_that_leaves_is_replaced_at_once() {
    let mut bench = Bench::new(3);
    bench.announce(1, [7, 8, 9], KIND);
    bench.announce(2, [7, 8], KIND);
    let actions = bench.did(|fetch, now, out| fetch.link_down(Slot(1), now, out));
    assert_eq!(asked(&actions), [(2, vec![7, 8])]);
    let actions = bench.did(|fetch, now, out| fetch.link_down(Slot(2), now, out));
    assert_eq!((actions.len(), bench.fetch.wanted.len(), bench.fetch.timers.len()), (0, 0, 0));
}

#[test]
fn outstanding_transactions_bytes_and_requests_are_bounded() {
    let mut bench = Bench::new(3);
    let sent = asked(&bench.announce(0, 0..300, KIND));
    assert_eq!(sent.iter().map(|(_, ids)| ids.len()).sum::<usize>(), OUTSTANDING_PER_PEER_MAX);
    // 64 KiB in a request, eight requests.
    let large = Kind { bytes: 60_000, fee_class: 5 };
    let sent = asked(&bench.announce(1, 1_000..1_020, large));
    assert_eq!(sent.len(), REQUESTS_PER_PEER_MAX);
    assert!(sent.iter().all(|(_, ids)| ids.len() == 1));
    // The largest transaction is still asked for.
    let largest = Kind { bytes: 128 * 1024, fee_class: 5 };
    assert_eq!(asked(&bench.announce(2, [5_000], largest)).len(), 1);
}

#[test]
fn what_waits_for_room_is_asked_when_there_is_some() {
    let mut bench = Bench::new(1);
    let first = bench.announce(0, 0..260, KIND);
    let request = request(&first);
    let delivered = asked(&first)[0].1.clone();
    for id in &delivered {
        bench.body(0, request, *id);
    }
    let next = bench.ended(0, request);
    assert_eq!(asked(&next), [(0, vec![256, 257, 258, 259])]);
}

#[test]
fn announcements_are_counted_to_five_thousand() {
    let mut bench = Bench::new(1);
    let cap = ANNOUNCED_PER_PEER_MAX as u64;
    bench.announce(0, 0..cap - 1, KIND);
    assert_eq!(bench.fetch.stats.over_cap, 0);
    bench.announce(0, cap..cap + 2, KIND);
    assert_eq!((bench.fetch.stats.over_cap, bench.fetch.wanted.len()), (1, ANNOUNCED_PER_PEER_MAX));
}

#[test]
fn bodies_nobody_asked_for_and_bodies_that_differ_are_told_apart() {
    let mut bench = Bench::new(2);
    let first = request(&bench.announce(0, [7, 8], KIND));
    bench.announce(1, [7], KIND);
    assert_eq!(bench.body(0, first, 9).0, Verdict::Unrequested);
    let mut verdict = Verdict::Late;
    let other = Kind { bytes: 251, ..KIND };
    let actions = bench.did(|fetch, now, out| {
        verdict = fetch.body(Slot(0), first, name(7), other, now, out);
    });
    assert_eq!((verdict, asked(&actions)), (Verdict::Misannounced, vec![(1, vec![7])]));
    assert_eq!(bench.body(0, first, 8).0, Verdict::AsAnnounced);
    assert_eq!(bench.body(0, first, 8).0, Verdict::Unrequested, "twice");
    bench.ended(0, first);
    assert_eq!(bench.body(0, first, 7).0, Verdict::Late, "after the end");
}

#[derive(Debug, Clone)]
enum Step {
    Announce { slot: u8, from: u64, count: u64, bytes: u32 },
    Body { slot: u8, request: u64, id: u64 },
    Arrived { id: u64 },
    Ended { slot: u8, request: u64 },
    Failed { slot: u8, request: u64 },
    Down { slot: u8 },
    Up { slot: u8 },
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..4u8;
    prop_oneof![
        4 => (slot.clone(), 0..40u64, 1..20u64, prop_oneof![Just(250u32), Just(30_000), Just(100_000)])
            .prop_map(|(slot, from, count, bytes)| Step::Announce { slot, from, count, bytes }),
        4 => (slot.clone(), 0..30u64, 0..60u64).prop_map(|(slot, request, id)| Step::Body { slot, request, id }),
        2 => (0..60u64).prop_map(|id| Step::Arrived { id }),
        3 => (slot.clone(), 0..30u64).prop_map(|(slot, request)| Step::Ended { slot, request }),
        1 => (slot.clone(), 0..30u64).prop_map(|(slot, request)| Step::Failed { slot, request }),
        1 => slot.clone().prop_map(|slot| Step::Down { slot }),
        1 => slot.prop_map(|slot| Step::Up { slot }),
        3 => (0..3_000u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever peers do, the books agree, nothing wanted is left unasked, and all is over after two
    /// minutes.
    #[test]
    fn whatever_peers_do_nothing_starves_and_all_ends(steps in proptest::collection::vec(step(), 1..150)) {
        let mut bench = Bench::new(4);
        for step in steps {
            let now = bench.now;
            match step {
                Step::Announce { slot, from, count, bytes } => {
                    bench.announce(slot, from..from + count, Kind { bytes, fee_class: 1 });
                }
                // Half the bodies are not what was announced.
                Step::Body { slot, request, id } => {
                    bench.body(slot, RequestId(request), id);
                }
                Step::Arrived { id } => {
                    bench.did(|fetch, now, out| { fetch.arrived(name(id), now, out); });
                }
                Step::Ended { slot, request } => {
                    bench.ended(slot, RequestId(request));
                }
                Step::Failed { slot, request } => {
                    bench.did(|fetch, _, out| fetch.request_failed(Slot(slot), RequestId(request), now, out));
                }
                Step::Down { slot } => {
                    bench.did(|fetch, _, out| fetch.link_down(Slot(slot), now, out));
                }
                Step::Up { slot } => {
                    if bench.fetch.peers[usize::from(slot)].is_none() {
                        bench.fetch.link_up(Slot(slot), false, RTT);
                    }
                }
                Step::Wait { millis } => {
                    bench.wait(Duration::from_millis(millis));
                }
            }
        }
        bench.wait(Duration::from_secs(120));
        prop_assert!(bench.fetch.wanted.is_empty());
        prop_assert!(bench.fetch.requests.is_empty());
        prop_assert!(bench.fetch.timers.is_empty());
    }
}

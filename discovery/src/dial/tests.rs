use super::*;
use crate::{
    address::peer_id,
    netgroup::{AddressPolicy, Source},
    testing::{NOW_MS, endpoint, key, made_up, peer, place, rng},
};

struct World {
    book: AddressBook,
    ledger: Ledger,
    dialler: Dialler,
    now: Now,
    /// Who serves a stale tip; the others bring a block when they connect.
    stale: Option<fn(&PeerId) -> bool>,
}

struct Dialled {
    at: Endpoint,
}

fn config() -> DialConfig {
    DialConfig { feeler_every: Duration::ZERO, ..DialConfig::default() }
}

fn network_policy(networks: &[Network]) -> AddressPolicy {
    AddressPolicy { networks: networks.iter().copied().collect(), ..AddressPolicy::default() }
}

impl World {
    fn new(config: DialConfig, statics: Vec<StaticPeer>, anchors: Vec<Anchor>) -> Self {
        let now = Now { at: Instant::now(), unix_ms: NOW_MS };
        let all = network_policy(&[Network::Ip4, Network::Ip6, Network::Onion]);
        Self {
            book: AddressBook::new([7; 16], all),
            ledger: Ledger::new(),
            dialler: Dialler::new(config, statics, anchors, [1; 32], now),
            now,
            stale: None,
        }
    }

    fn tell(&mut self, n: u32, at: Endpoint) {
        let claim = Claim {
            peer: made_up(n),
            endpoint: at,
            seen_unix_s: NOW_MS / 1000,
            source: self.book.policy().group(&place(n as u16, 9)),
            first_hand: false,
        };
        self.book.add(&claim, &mut rng(u64::from(n)), NOW_MS);
    }

    fn start(&mut self) -> Vec<Effect> {
        self.dialler.start(&mut self.book, &self.ledger, self.now)
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        self.dialler.handle(input, &mut self.book, &self.ledger, self.now)
    }

    /// To the next deadline, if it is within `limit`.
    fn step(&mut self, limit: Duration) -> Option<Vec<Effect>> {
        let next = self.dialler.next_deadline()?.max(self.now.at);
        let wait = next - self.now.at;
        (wait <= limit).then(|| {
            self.now = self.now + wait;
            let effects = self.dialler.on_deadline(&mut self.book, &self.ledger, self.now);
            assert!(
                self.dialler.next_deadline().is_none_or(|next| next > self.now.at),
                "a deadline is dealt with at once"
            );
            effects
        })
    }

    /// Everything that happens in `length`; `answer` decides about each dial.
    fn run(
        &mut self,
        length: Duration,
        mut effects: Vec<Effect>,
        mut answer: impl FnMut(&Dialled) -> Option<DialFailure>,
    ) -> Vec<(Duration, Effect)> {
        let (start, end) = (self.now.at, self.now.at + length);
        let mut log = Vec::new();
        loop {
            let mut next = Vec::new();
            for effect in effects {
                log.push((self.now.at - start, effect.clone()));
                match effect {
                    Effect::Dial { dial, peer, addresses, .. } => {
                        for Attempt { endpoint, .. } in addresses {
                            let one = Dialled { at: endpoint.clone() };
                            match answer(&one) {
                                Some(why) => {
                                    next.extend(self.handle(Input::AddressFailed { dial, endpoint, why }));
                                }
                                None => {
                                    let link = Link::Outbound { dial, endpoint };
                                    let peer = peer.expect("tests dial known peers");
                                    next.extend(self.handle(Input::Connected { peer, link, record: None }));
                                    if self.stale.is_some_and(|stale| !stale(&peer)) {
                                        next.extend(self.handle(Input::BroughtBlock { peer }));
                                        next.extend(self.handle(Input::TipFresh));
                                    }
                                    break;
                                }
                            }
                        }
                    }
                    Effect::Drop { peer, why } => {
                        let code = Some(why.code());
                        next.extend(self.handle(Input::Disconnected { peer, code }));
                    }
                    Effect::ChallengeTip { peer } => {
                        // While we are behind as well, its head is as good as ours.
                        let behind = self.dialler.stale_since.is_none();
                        if behind && self.stale.is_some_and(|stale| stale(&peer)) {
                            next.extend(self.handle(Input::ChallengeFailed { peer }));
                        }
                    }
                    Effect::Alarm(_) => {}
                }
            }
            effects = next;
            if effects.is_empty() {
                let left = end.saturating_duration_since(self.now.at);
                match self.step(left) {
                    Some(more) => effects = more,
                    None => {
                        self.now = self.now + left;
                        return log;
                    }
                }
            }
        }
    }
}

fn dials(log: &[(Duration, Effect)]) -> Vec<(Duration, Kind, Endpoint)> {
    log.iter()
        .filter_map(|(at, effect)| match effect {
            Effect::Dial { kind, addresses, .. } => Some((*at, *kind, addresses[0].endpoint.clone())),
            _ => None,
        })
        .collect()
}

fn unreachable_() -> Option<DialFailure> {
    Some(DialFailure::Unreachable("timed out".into()))
}

#[test]
fn slots_fill_from_different_netgroups_and_no_further() {
    let mut world = World::new(config(), vec![], vec![]);
    for n in 0..400 {
        // 400 peers in 12 netgroups.
        world.tell(n, place(n as u16 % 12, n as u16));
    }
    let effects = world.start();
    let log = world.run(Duration::from_secs(60), effects, |_| None);
    assert_eq!(world.dialler.outbound(Kind::FullRelay), 8);
    assert_eq!(world.dialler.outbound(Kind::BlockOnly), 2);
    let groups: BTreeSet<_> = world.dialler.conns.values().map(|conn| conn.group).collect();
    assert_eq!(groups.len(), 10);
    assert_eq!(dials(&log).len(), 10);
    // One each 100 ms.
    let times: Vec<_> = dials(&log).into_iter().map(|(at, ..)| at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(100)));
    // With three netgroups there are three connections: diversity is not given up for numbers.
    let mut world = World::new(config(), vec![], vec![]);
    (0..400).for_each(|n| world.tell(n, place(n as u16 % 3, n as u16)));
    let effects = world.start();
    world.run(Duration::from_secs(60), effects, |_| None);
    assert_eq!(world.dialler.outbound(Kind::FullRelay), 3);
}

#[test]
fn on_loopback_sixteen_ports_are_sixteen_groups() {
    let mut world = World::new(DialConfig { full_relay: 16, ..config() }, vec![], vec![]);
    world.book = AddressBook::new([7; 16], AddressPolicy::private());
    (0..16).for_each(|n| world.tell(n, endpoint(&format!("127.0.0.1:{}", 4000 + n))));
    let effects = world.start();
    world.run(Duration::from_secs(10), effects, |_| None);
    assert_eq!(world.dialler.outbound(Kind::FullRelay), 16);
}

#[test]
fn a_static_peer_is_dialled_within_30_s_whatever_happens() {
    let one = StaticPeer { endpoint: place(1, 1), peer: Some(peer(1)) };
    let mut world = World::new(config(), vec![one.clone()], vec![]);
    let effects = world.start();
    assert_eq!(effects.len(), 1, "at once");
    let log = world.run(Duration::from_secs(600), effects, |_| unreachable_());
    let times: Vec<_> = dials(&log).into_iter().map(|(at, ..)| at).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] <= Duration::from_millis(313), "{:?}", pauses[0]);
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(30)), "{pauses:?}");
    assert!(pauses.iter().take(4).sum::<Duration>() < Duration::from_secs(5), "{pauses:?}");
    assert!((20..60).contains(&times.len()), "{}", times.len());
    // It comes up, and is lost after a long life: back within a second.
    world.run(Duration::from_secs(60), vec![], |_| None);
    assert_eq!(world.dialler.outbound(Kind::Static), 1);
    let effects = world.handle(Input::Disconnected { peer: peer(1), code: None });
    assert!(effects.is_empty());
    let log = world.run(Duration::from_secs(1), effects, |_| None);
    assert_eq!(dials(&log).len(), 1);
    // Even one that refuses us is asked again.
    world.handle(Input::Disconnected { peer: peer(1), code: Some(Code::Refused) });
    let log = world.run(Duration::from_secs(60), vec![], |_| Some(DialFailure::Closed(Code::Refused)));
    assert!(dials(&log).len() >= 5, "{}", dials(&log).len());
    // Removed, it is left alone.
    world.handle(Input::RemoveStatic(one.endpoint));
    assert!(world.run(Duration::from_secs(60), vec![], |_| None).is_empty());
}

#[test]
fn a_static_peer_that_dialled_us_is_not_dialled() {
    let one = StaticPeer { endpoint: place(1, 1), peer: Some(peer(1)) };
    let mut world = World::new(config(), vec![], vec![]);
    let source = Source::Peer(place(1, 77));
    world.handle(Input::Connected { peer: peer(1), link: Link::Inbound { source }, record: None });
    let effects = world.handle(Input::AddStatic(one));
    assert!(dials(&world.run(Duration::from_secs(120), effects, |_| None)).is_empty());
    let effects = world.handle(Input::Disconnected { peer: peer(1), code: None });
    assert_eq!(dials(&world.run(Duration::from_secs(5), effects, |_| None)).len(), 1);
}

#[test]
fn failures_pause_longer_and_longer_and_are_bounded_in_number() {
    let mut world = World::new(DialConfig { block_only: 0, full_relay: 1, ..config() }, vec![], vec![]);
    world.tell(1, place(1, 1));
    let effects = world.start();
    let log = world.run(Duration::from_secs(24 * 3600), effects, |_| unreachable_());
    let times: Vec<_> = dials(&log).into_iter().map(|(at, ..)| at).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        pauses[0] >= Duration::from_millis(1500) && pauses[0] <= Duration::from_millis(4500),
        "{pauses:?}"
    );
    assert!(pauses[5] > Duration::from_secs(40), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(4501)));
    assert!((20..45).contains(&times.len()), "about 11 to reach an hour, then one an hour: {}", times.len());
}

#[test]
fn dials_in_flight_are_bounded_and_given_up_in_the_end() {
    let mut world = World::new(DialConfig { full_relay: 100, ..config() }, vec![], vec![]);
    (0..200).for_each(|n| world.tell(n, place(n as u16, 1)));
    world.start();
    let mut last = world.now.at;
    while let Some(effects) = world.step(Duration::from_secs(10)) {
        assert!(effects.iter().all(|effect| matches!(effect, Effect::Dial { .. })));
        last = world.now.at;
    }
    assert_eq!(world.dialler.in_flight(), 8);
    // Nobody ever reports: after two minutes the slots are free again.
    let effects = world.step(DIAL_GIVEN_UP).unwrap();
    assert!(world.now.at >= last && !dials(&[(Duration::ZERO, effects[0].clone())]).is_empty());
    assert!(world.dialler.in_flight() <= 8);
}

#[test]
fn scenario_04_our_own_address_is_marked_and_never_dialled_again() {
    let own = place(1, 1);
    let static_self = StaticPeer { endpoint: own.clone(), peer: None };
    let mut world = World::new(config(), vec![static_self], vec![]);
    world.tell(1, own.clone());
    let effects = world.start();
    let log = world.run(Duration::from_secs(7 * 24 * 3600), effects, |_| Some(DialFailure::SelfDial));
    assert_eq!(dials(&log).len(), 1, "once, and never again in a week");
    assert!(world.book.is_empty());
    assert!(world.dialler.static_peers()[0].1, "marked");
    // Gossip brings it back into the book: it is still not dialled.
    world.tell(1, own);
    let effects = world.handle(Input::Learned);
    assert!(dials(&world.run(Duration::from_secs(3600), effects, |_| None)).is_empty());
}

#[test]
fn scenario_02_a_mismatch_pauses_the_place_and_leaves_the_peer_alone() {
    let mut world = World::new(DialConfig { full_relay: 1, block_only: 0, ..config() }, vec![], vec![]);
    let (wrong, right) = (place(1, 1), place(2, 2));
    let id = peer_id(&made_up(1));
    world.tell(1, wrong.clone());
    world.book.good(&id, &wrong, None, NOW_MS);
    let effects = world.start();
    let log = world.run(Duration::from_secs(1), effects, |one| {
        (one.at == wrong).then_some(DialFailure::IdentityMismatch)
    });
    assert_eq!(dials(&log).len(), 1);
    assert!(world.book.contains(&id, &wrong) && !world.book.is_tried(&id, &wrong), "back to new");
    // The peer's other address is dialled at once.
    world.tell(1, right.clone());
    let effects = world.handle(Input::Learned);
    let log = world.run(Duration::from_millis(1100), effects, |_| None);
    assert_eq!(dials(&log)[0].2, right);
    assert!(world.book.is_tried(&id, &right));
    assert!(world.ledger.is_empty(), "nobody is blamed");
}

#[test]
fn scenario_03_another_chain_is_forgotten_and_not_dialled_for_a_day() {
    let mut world = World::new(DialConfig { full_relay: 1, block_only: 0, ..config() }, vec![], vec![]);
    world.tell(1, place(1, 1));
    let effects = world.start();
    world.run(Duration::from_secs(1), effects, |_| Some(DialFailure::WrongGenesis));
    assert!(world.book.is_empty(), "neither new nor tried");
    world.tell(1, place(1, 1));
    let log = world.run(WRONG_GENESIS_PAUSE - Duration::from_secs(2), vec![], |_| None);
    assert!(dials(&log).is_empty());
    // A search that found nobody is repeated within a minute.
    let log = world.run(Duration::from_secs(63), vec![], |_| None);
    assert_eq!(dials(&log).len(), 1);
    assert!(world.ledger.is_empty(), "no offence");
}

#[test]
fn anchors_come_first_and_stay_anchors_until_others_took_their_place() {
    let anchors: Vec<_> = (0..4)
        .map(|n| Anchor {
            peer: peer_id(&made_up(1000 + n)),
            endpoint: place(1000 + n as u16, 1),
            block_only: n < 2,
        })
        .collect();
    let mut world = World::new(config(), vec![], anchors.clone());
    (0..500).for_each(|n| world.tell(n, place(n as u16, 1)));
    let effects = world.start();
    let first: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Dial { peer, .. } => *peer,
            _ => None,
        })
        .collect();
    assert_eq!(first[..4], anchors.iter().map(|one| one.peer).collect::<Vec<_>>()[..]);
    // Without a network they stay.
    world.run(Duration::from_secs(30), effects, |_| unreachable_());
    assert_eq!(world.dialler.anchors(), anchors);
    // As soon as it works they are dialled again, being alone.
    let log = world.run(Duration::from_secs(120), vec![], |_| None);
    assert!(!dials(&log).is_empty());
    let kept = world.dialler.anchors();
    assert_eq!(kept.len(), ANCHORS_MAX);
    assert_eq!(kept.iter().filter(|one| one.block_only).count(), 2);
}

#[test]
fn a_slot_is_kept_for_each_network() {
    let onion = |n: u32| {
        let mut bytes = [9; 35];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        crate::address::parse(&multiaddr::Protocol::Onion3((bytes, 1).into()).into()).unwrap().0
    };
    let mut world = World::new(config(), vec![], vec![]);
    (0..3000).for_each(|n| world.tell(n, place(n as u16, 1)));
    (3000..3003).for_each(|n| world.tell(n, onion(n)));
    let effects = world.start();
    world.run(Duration::from_secs(30), effects, |_| None);
    let networks: Vec<_> = world.dialler.conns.values().filter_map(|conn| conn.network).collect();
    assert!(networks.contains(&Network::Onion), "3 onion peers among 3,000 are not crowded out");
    // If that network is down the slot goes to somebody else.
    let mut world = World::new(config(), vec![], vec![]);
    (0..3000).for_each(|n| world.tell(n, place(n as u16, 1)));
    (3000..3100).for_each(|n| world.tell(n, onion(n)));
    let effects = world.start();
    world.run(Duration::from_secs(60), effects, |one| {
        (one.at.network() == Network::Onion).then(|| DialFailure::Unreachable("no Tor".into()))
    });
    assert_eq!(world.dialler.outbound(Kind::FullRelay), 8);
}

#[test]
#[allow(clippy::print_stdout)]
fn scenario_16_with_a_stale_tip_an_extra_peer_comes_and_the_stale_ones_are_replaced() {
    // Made-up keys begin with their number: below 400 they are stale, 80 % of the book.
    fn stale(peer: &PeerId) -> bool {
        let key = key_of(peer).unwrap().0;
        u32::from_be_bytes(key[..4].try_into().unwrap()) < 400
    }
    let mut world = World::new(config(), vec![], vec![]);
    (0..400).for_each(|n| world.tell(n, place(n as u16, 1)));
    let effects = world.start();
    world.run(Duration::from_secs(60), effects, |_| None);
    assert_eq!(world.dialler.conns.len(), 10, "all outbound serve a stale tip");
    (400..500).for_each(|n| world.tell(n, place(n as u16, 1)));
    world.stale = Some(stale);

    let began = world.now.at;
    let effects = world.handle(Input::TipStale);
    let challenged = effects.iter().filter(|effect| matches!(effect, Effect::ChallengeTip { .. })).count();
    assert_eq!(challenged, 10, "every outbound peer has to show its head");
    let mut effects = effects;
    while world.dialler.stale_since.is_some() {
        world.run(Duration::from_secs(1), std::mem::take(&mut effects), |_| None);
        assert!(world.dialler.outbound(Kind::FullRelay) <= 9);
        assert!(world.now.at - began < Duration::from_secs(300));
    }
    let found = world.now.at - began;
    // The tip moves: those that are behind are found out and replaced, one by one if the next are stale too.
    for _ in 0..40 {
        world.run(Duration::from_secs(10), vec![], |_| None);
        let mut effects = world.handle(Input::TipStale);
        effects.extend(world.handle(Input::TipFresh));
        world.run(Duration::from_secs(1), effects, |_| None);
        if !world.dialler.conns.keys().any(stale) && world.dialler.outbound(Kind::FullRelay) == 8 {
            break;
        }
    }
    assert!(!world.dialler.conns.keys().any(stale), "the stale ones were replaced");
    assert_eq!(world.dialler.outbound(Kind::FullRelay), 8);
    println!(
        "80 % of the book stale: a fresh tip after {found:?}, no stale outbound peer after {:?}",
        world.now.at - began
    );
}

#[test]
fn if_the_whole_chain_stands_still_old_peers_stay() {
    let mut world = World::new(config(), vec![], vec![]);
    (0..400).for_each(|n| world.tell(n, place(n as u16, 1)));
    let effects = world.start();
    world.run(Duration::from_secs(60), effects, |_| None);
    let before: BTreeSet<PeerId> = world.dialler.conns.keys().copied().collect();
    let effects = world.handle(Input::TipStale);
    let log = world.run(Duration::from_secs(1800), effects, |_| None);
    let rotated =
        log.iter().filter(|(_, effect)| matches!(effect, Effect::Drop { why: DropReason::ExtraDone, .. }));
    assert!(rotated.count() >= 20, "the extra slot looks through the book");
    assert!(before.iter().all(|peer| world.dialler.conns.contains_key(peer)));
}

#[test]
fn feelers_prove_new_addresses_and_leave() {
    let mut world = World::new(
        DialConfig { feeler_every: Duration::from_secs(120), ..DialConfig::default() },
        vec![],
        vec![],
    );
    (0..300).for_each(|n| world.tell(n, place(n as u16, 1)));
    let effects = world.start();
    let log = world.run(Duration::from_secs(3600), effects, |_| None);
    let feelers = dials(&log).iter().filter(|(_, kind, _)| *kind == Kind::Feeler).count();
    // 3,600 / 120 = 30 expected; Poisson, so 5 sigma is 27.
    assert!((10..57).contains(&feelers), "{feelers}");
    assert_eq!(world.dialler.outbound(Kind::Feeler), 0);
    assert_eq!(world.book.tried_len(), 10 + feelers);
}

#[test]
fn isolation_sounds_an_alarm_once_after_5_minutes() {
    let mut world = World::new(config(), vec![], vec![]);
    world.tell(1, place(1, 1));
    let effects = world.start();
    let alarms = |log: &[(Duration, Effect)]| {
        log.iter().filter(|(_, effect)| matches!(effect, Effect::Alarm(_))).count()
    };
    let log = world.run(Duration::from_millis(299_999), effects, |_| unreachable_());
    assert_eq!(alarms(&log), 0);
    let log = world.run(Duration::from_millis(1), vec![], |_| unreachable_());
    assert_eq!(alarms(&log), 1);
    let log = world.run(Duration::from_secs(24 * 3600), vec![], |_| unreachable_());
    assert_eq!(alarms(&log), 0);
}

#[test]
fn banned_and_unlisted_peers_are_not_dialled() {
    let only = DialConfig { only: Some([peer_id(&made_up(5))].into()), ..config() };
    let mut world = World::new(only, vec![], vec![]);
    (0..50).for_each(|n| world.tell(n, place(n as u16, 1)));
    let effects = world.start();
    let log = world.run(Duration::from_secs(60), effects, |_| None);
    assert_eq!(dials(&log).len(), 1);
    assert_eq!(dials(&log)[0].2, place(5, 1));

    let mut world = World::new(config(), vec![], vec![]);
    world.tell(1, place(1, 1));
    world.ledger.ban(&peer_id(&made_up(1)), None, "operator", NOW_MS);
    let effects = world.start();
    assert!(dials(&world.run(Duration::from_secs(3600), effects, |_| None)).is_empty());
}

#[test]
fn a_peer_without_a_known_key_can_be_static() {
    let one = StaticPeer { endpoint: endpoint("1.2.3.4:5"), peer: None };
    let mut world = World::new(config(), vec![one], vec![]);
    let effects = world.start();
    let [Effect::Dial { dial, kind: Kind::Static, peer: None, .. }] = effects[..] else {
        panic!("{effects:?}")
    };
    let link = Link::Outbound { dial, endpoint: endpoint("1.2.3.4:5") };
    world.handle(Input::Connected { peer: peer(3), link, record: None });
    assert!(world.dialler.is_static(&peer(3)));
    assert!(world.book.is_tried(&peer_id(&key(3).public()), &endpoint("1.2.3.4:5")));
    assert!(dials(&world.run(Duration::from_secs(600), vec![], |_| None)).is_empty());
}

#[test]
fn one_seed_one_course() {
    let course = || {
        let mut world = World::new(DialConfig::default(), vec![], vec![]);
        (0..300).for_each(|n| world.tell(n, place(n as u16 % 40, n as u16)));
        let effects = world.start();
        world.run(Duration::from_secs(3600), effects, |one| {
            (one.at.to_string().len() % 3 == 0).then(|| DialFailure::Unreachable("x".into()))
        })
    };
    assert_eq!(course(), course());
}

//! Overlays that find each other, in virtual time.

#![allow(missing_docs, clippy::print_stdout)]

mod killed;
mod world;

use std::{net::SocketAddr, time::Duration};

use ghost_discovery::{
    address::Endpoint,
    book::{Change, Key, Row},
    clock::Now,
    conduct::{Note, Offence, What},
    dial::{DialFailure, Kind, Link, StaticPeer},
    inbound::{Arrival, Incoming},
    lookup::{Goal, LOOKUP_TIME},
    netgroup::{AddressPolicy, NetGroup, Source},
    overlay::{Effect, Input, Overlay, OverlayConfig},
    store::{Batch, PeerStore, Saved, Write},
};
use ghost_proto::{PeerId, PublicKey};
use world::{World, key, peer, place};

const SECOND: Duration = Duration::from_secs(1);

fn seed(n: usize) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(n as u64).to_be_bytes());
    seed
}

fn loopback(n: usize) -> Endpoint {
    SocketAddr::new([127, 0, 0, 1].into(), 4000 + n as u16).into()
}

type Told = Box<dyn Fn(usize) -> usize>;

/// Nodes on loopback, each told of one other only: node n of `told(n)`.
fn testnet(nodes: usize, told: impl Fn(usize) -> usize) -> World {
    let mut world = World::new();
    for n in 0..nodes {
        let mut config = OverlayConfig::private(peer(n), nodes);
        config.static_peers.push(StaticPeer { endpoint: loopback(told(n)), peer: Some(peer(told(n))) });
        world.add(loopback(n), config);
    }
    (0..nodes).for_each(|n| world.boot(n, seed(n)));
    world
}

#[test]
fn nodes_told_of_one_other_only_are_fully_meshed_within_seconds() {
    for nodes in [4, 12, 16] {
        let shapes: [(&str, Told); 3] = [
            ("ring", Box::new(move |n| (n + 1) % nodes)),
            ("star", Box::new(|n| usize::from(n == 0))),
            ("chain", Box::new(|n| if n == 0 { 1 } else { n - 1 })),
        ];
        for (name, told) in shapes {
            let mut world = testnet(nodes, told);
            let meshed = |world: &World| world.degrees().iter().all(|&degree| degree == nodes - 1);
            assert!(world.run(10 * SECOND, meshed), "{nodes} in a {name}: {:?}", world.degrees());
            println!("{nodes} nodes in a {name}: meshed after {:?}, {} messages", world.at, world.messages);
            // And it stays so: no churn, no offences.
            let (at, dials) = (world.at, world.dials.len());
            world.run(at + 300 * SECOND, |_| false);
            assert!(meshed(&world));
            assert!(world.dials.len() <= dials + nodes, "{} dials later", world.dials.len() - dials);
            for node in &world.nodes {
                assert!(node.overlay.ledger().bans(world.now().unix_ms).is_empty());
            }
        }
    }
}

/// 200 nodes on the public network that each know one seed.
fn public(nodes: usize) -> World {
    let mut world = World::new();
    for n in 0..nodes {
        world.add(place(n), OverlayConfig::new(peer(n)));
        world.nodes[n].seed = (n > 0).then(|| (peer(0), place(0)));
    }
    (0..nodes).for_each(|n| world.boot(n, seed(n)));
    world
}

#[test]
fn two_hundred_nodes_with_one_seed_connect_and_heal_when_thirty_percent_leave() {
    let mut world = public(200);
    let well = |world: &World| {
        world.parts().len() == 1
            && world.nodes.iter().skip(1).filter(|node| node.up).all(|node| {
                node.overlay.dialler().outbound(Kind::FullRelay) == 8
                    && node.overlay.dialler().outbound(Kind::BlockOnly) == 2
            })
    };
    assert!(world.run(1200 * SECOND, well), "{:?}", world.degrees());
    let (at, messages) = (world.at, world.messages);
    let degrees = world.degrees();
    println!(
        "200 nodes, one seed: every outbound slot full after {at:?}, {messages} messages, degree {} to {}",
        degrees.iter().skip(1).min().unwrap(),
        degrees.iter().skip(1).max().unwrap()
    );
    assert!(degrees.iter().skip(1).all(|degree| (10..=128).contains(degree)), "{degrees:?}");

    // 60 leave at once, the seed among them.
    (0..200).filter(|n| n % 10 < 3).for_each(|n| world.kill(n));
    assert_eq!(world.degrees().len(), 140);
    // Silence is noticed after the idle timeout of 30 s; until then nobody acts.
    world.run(at + 31 * SECOND, |_| false);
    assert!(!well(&world), "so many slots are empty now");
    assert!(world.run(at + 1800 * SECOND, well), "{:?}", world.parts());
    println!(
        "30 % left: healed after {:?} (30 s of it to notice), {} messages",
        world.at - at,
        world.messages - messages
    );
    assert!(world.degrees().iter().all(|degree| (10..=128).contains(degree)), "{:?}", world.degrees());
}

#[test]
fn among_two_hundred_anybody_finds_anybody_and_a_third_that_leaves_hides_nobody() {
    let mut world = public(200);
    let full = |world: &World| {
        let nodes = world.nodes.iter().skip(1);
        nodes.clone().all(|node| node.overlay.dialler().outbound(Kind::FullRelay) == 8)
    };
    assert!(world.run(600 * SECOND, full));
    world.run(world.at + 600 * SECOND, |_| false);
    let look = |world: &mut World, pairs: &[(usize, usize)]| {
        world.nodes.iter_mut().for_each(|node| node.found.clear());
        let (began, before) = (world.at, world.messages);
        pairs.iter().for_each(|&(from, to)| world.find(from, Goal::Peer(peer(to))));
        let froms: Vec<usize> = pairs.iter().map(|pair| pair.0).collect();
        let over = |world: &World| froms.iter().all(|&from| !world.nodes[from].found.is_empty());
        assert!(world.run(began + LOOKUP_TIME + SECOND, over));
        let found = pairs.iter().filter(|(from, to)| {
            let (_, found) = &world.nodes[*from].found[0];
            found.peer.as_ref().is_some_and(|one| one.record.peer() == peer(*to))
        });
        let asked: usize = froms.iter().map(|&from| world.nodes[from].found[0].1.asked).sum();
        (found.count(), asked, world.messages - before, world.at - began)
    };
    let pairs: Vec<(usize, usize)> = (0..20).map(|n| (n * 10 + 1, (n * 77 + 40) % 200)).collect();
    let (found, asked, messages, took) = look(&mut world, &pairs);
    println!("20 lookups among 200: {found} found, {asked} asked, {messages} messages, {took:?}");
    assert_eq!(found, pairs.len());
    // A third leaves at once; who is left is found as before.
    let gone = |n: usize| n % 10 < 3 && n > 0;
    (0..200).filter(|n| gone(*n)).for_each(|n| world.kill(n));
    let pairs: Vec<(usize, usize)> = (0..20)
        .map(|n| (n * 10 + 5, (n * 70 + 44) % 200))
        .filter(|(from, to)| !gone(*from) && !gone(*to))
        .collect();
    let (found, asked, messages, took) = look(&mut world, &pairs);
    println!(
        "{} lookups after 30 % left: {found} found, {asked} asked, {messages} messages, {took:?}",
        pairs.len()
    );
    assert!(found * 20 >= pairs.len() * 19, "{found} of {}", pairs.len());
}

#[test]
fn one_seed_gives_one_course() {
    let course = || {
        let mut world = testnet(6, |n| (n + 1) % 6);
        world.run(20 * SECOND, |_| false);
        (world.dials, world.messages)
    };
    assert_eq!(course(), course());
}

fn row(n: u32, at: Endpoint, source: u16, now: Now) -> Row {
    let mut bytes = [0x99; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Row {
        key: Key { peer: PublicKey(bytes), endpoint: at },
        source: AddressPolicy::default().group(&place(usize::from(source))),
        last_seen_s: (now.unix_ms / 1000) as u32,
        last_try_s: 0,
        last_success_s: 0,
        attempts: 0,
        tried: false,
        slots: vec![],
        sequence: 0,
        stream_types: 0,
        record: None,
    }
}

/// A node that ran among honest ones, was killed, and whose book was then filled by an attacker to
/// `poison` of 100 entries. The poisoned addresses do not answer.
fn poisoned() -> (World, usize) {
    let mut world = public(40);
    let victim = 39;
    assert!(
        world.run(600 * SECOND, |world| world.nodes[victim].overlay.dialler().outbound(Kind::FullRelay) == 8)
    );
    let settled = world.at + 10 * SECOND;
    world.run(settled, |_| false);
    world.kill(victim);
    let now = world.now();
    let known = world.nodes[victim].store.load().unwrap().rows.len() as u32;
    // 19 of 20, from 300 source netgroups.
    let writes = (0..known * 19).map(|n| {
        let at = SocketAddr::new([60 + (n % 30) as u8, (n / 30) as u8, 1, 1].into(), 4001).into();
        Write::Entry(Change::Put(row(n, at, 1000 + (n % 300) as u16, now)))
    });
    world.nodes[victim].store.apply(&Batch { writes: writes.collect() }).unwrap();
    (world, victim)
}

#[test]
fn scenario_15_with_a_poisoned_book_an_anchor_is_reached_first() {
    let (mut world, victim) = poisoned();
    let saved = world.nodes[victim].store.load().unwrap();
    let anchors: Vec<Endpoint> = saved.anchors.iter().map(|anchor| anchor.endpoint.clone()).collect();
    assert_eq!(anchors.len(), 4);
    // No seed: it is on its own.
    world.nodes[victim].seed = None;
    let (began, before) = (world.at, world.dials.len());
    world.boot(victim, seed(1000));
    let dialled: Vec<_> =
        world.dials[before..].iter().filter(|(_, n, _)| *n == victim).map(|(_, _, at)| at.clone()).collect();
    assert_eq!(dialled[..4], anchors[..], "anchors before anybody else");
    let reached = |world: &World| !world.nodes[victim].links.is_empty();
    assert!(world.run(began + 300 * SECOND, reached));
    println!("book of {} with 95 % poison: an honest anchor after {:?}", saved.rows.len(), world.at - began);
    assert!(world.at - began < SECOND);
    // All slots fill with honest peers in the end.
    let full = |world: &World| world.nodes[victim].links.len() >= 8;
    assert!(world.run(began + 3600 * SECOND, full), "{}", world.nodes[victim].links.len());
    println!("eight honest connections after {:?}", world.at - began);
}

/// 20 honest nodes, a victim that was one of them and is down, and 1,000 hostile nodes in 300 netgroups that
/// answer, name only their like, and fill the victim's book.
fn surrounded() -> (World, usize) {
    let mut world = public(21);
    let victim = 20;
    let full = |world: &World| world.nodes[victim].overlay.dialler().outbound(Kind::FullRelay) == 8;
    assert!(world.run(600 * SECOND, full));
    let settled = world.at + 10 * SECOND;
    world.run(settled, |_| false);
    world.kill(victim);
    world.nodes[victim].seed = None;
    let now = world.now();
    let mut writes = Vec::new();
    for n in 21..1021 {
        let group = n % 300;
        let at: Endpoint =
            SocketAddr::new([60 + (group % 30) as u8, (group / 30) as u8, (n / 300) as u8, 1].into(), 4001)
                .into();
        let mut config = OverlayConfig::new(peer(n));
        config.dial.full_relay = 0;
        config.dial.block_only = 0;
        config.dial.feeler_every = Duration::ZERO;
        world.add(at.clone(), config);
        world.nodes[n].hostile = true;
        world.boot(n, seed(n));
        let key = Key { peer: key(n).public(), endpoint: at.clone() };
        writes.push(Write::Entry(Change::Put(Row { key, ..row(n as u32, at, 1000 + group as u16, now) })));
    }
    world.nodes[victim].store.apply(&Batch { writes }).unwrap();
    (world, victim)
}

fn honest_links(world: &World, victim: usize) -> usize {
    world.nodes[victim].links.iter().filter(|&&n| !world.nodes[n].hostile).count()
}

#[test]
fn scenario_15_twenty_honest_and_a_thousand_hostile_an_anchor_holds_the_line() {
    let (mut world, victim) = surrounded();
    let began = world.at;
    world.boot(victim, seed(3000));
    assert!(world.run(began + 300 * SECOND, |world| honest_links(world, victim) > 0));
    let first = world.at - began;
    world.run(began + 1800 * SECOND, |_| false);
    let (honest, all) = (honest_links(&world, victim), world.nodes[victim].links.len());
    println!(
        "20 honest, 1,000 hostile: an honest peer after {first:?}; after 30 min {honest} honest of {all} links"
    );
    assert!(first < SECOND && honest >= 2, "{first:?}, {honest} honest of {all}");
}

#[test]
fn scenario_15_with_no_anchor_left_among_a_thousand_hostile_an_honest_peer_or_an_alarm() {
    let (mut world, victim) = surrounded();
    let saved = world.nodes[victim].store.load().unwrap();
    let anchors: Vec<usize> =
        (0..20).filter(|&n| saved.anchors.iter().any(|anchor| anchor.peer == peer(n))).collect();
    anchors.into_iter().for_each(|n| world.kill(n));
    let began = world.at;
    world.boot(victim, seed(3001));
    // All it reached by then serve a stale tip, which its sync notices after half a minute.
    world.run(began + 30 * SECOND, |_| false);
    if honest_links(&world, victim) == 0 {
        world.input(victim, Input::TipStale);
    }
    let done = |world: &World| honest_links(world, victim) > 0 || !world.nodes[victim].alarms.is_empty();
    assert!(world.run(began + 300 * SECOND, done));
    let what = match world.nodes[victim].alarms.first() {
        Some((_, alarm)) => alarm.clone(),
        None => "an honest peer".into(),
    };
    println!("no anchor left, 1,000 hostile: {what} after {:?}", world.at - began);
}

#[test]
fn scenario_15_without_anchors_an_honest_peer_or_an_alarm_within_five_minutes() {
    let (mut world, victim) = poisoned();
    // The anchors are gone as well, and nobody answers but one in twenty.
    let anchors: Vec<usize> = {
        let saved = world.nodes[victim].store.load().unwrap();
        (0..40).filter(|&n| saved.anchors.iter().any(|anchor| anchor.peer == peer(n))).collect()
    };
    anchors.into_iter().for_each(|n| world.kill(n));
    world.nodes[victim].seed = None;
    let began = world.at;
    world.boot(victim, seed(1001));
    let done =
        |world: &World| !world.nodes[victim].links.is_empty() || !world.nodes[victim].alarms.is_empty();
    assert!(world.run(began + 300 * SECOND, done));
    println!(
        "95 % poison, anchors dead: {} after {:?}",
        if world.nodes[victim].links.is_empty() { "alarm" } else { "an honest peer" },
        world.at - began
    );
}

#[test]
fn killed_after_learning_five_thousand_it_comes_back_without_a_seed() {
    let mut world = public(30);
    let node = 29;
    assert!(
        world.run(600 * SECOND, |world| world.nodes[node].overlay.dialler().outbound(Kind::FullRelay) == 8)
    );
    // 5,000 records from its peers, as fast as its budget for them lets them in.
    let now = world.now();
    let rows: Vec<Row> = (0..5000u32)
        .map(|n| {
            let at = SocketAddr::new([30 + (n % 30) as u8, (n / 30) as u8, 2, 2].into(), 4001).into();
            row(n, at, (n % 40) as u16, now)
        })
        .collect();
    let added = world.nodes[node].overlay.import(Saved { rows, ..Saved::default() }, now);
    assert!(added > 4500, "{added} found a slot");
    let known = world.nodes[node].overlay.book().len();
    let later = world.at + 3 * SECOND;
    world.run(later, |_| false);
    world.kill(node);
    // The seed is down, too.
    world.nodes[node].seed = None;
    world.kill(0);
    let began = world.at;
    world.boot(node, seed(2000));
    assert!(world.nodes[node].overlay.book().len() >= known, "nothing older than the loss window is lost");
    assert!(world.run(began + 10 * SECOND, |world| !world.nodes[node].links.is_empty()));
    println!("{known} addresses came back; first connection after {:?}", world.at - began);
    assert!(world.at - began < SECOND);
}

/// 20 honest nodes that keep a connection to node 0, and 1,000 hostile identities that all dial it, from so
/// many netgroups. Answers (fewest honest connected at any time, hostile connected at the end).
fn flooded(groups: usize, slots: usize) -> (usize, usize) {
    let mut world = World::new();
    let quiet = |n: usize| {
        let mut config = OverlayConfig::new(peer(n));
        config.dial.full_relay = 0;
        config.dial.block_only = 0;
        config.dial.feeler_every = Duration::ZERO;
        config
    };
    let towards_victim = |n: usize| {
        let mut config = quiet(n);
        config.static_peers.push(StaticPeer { endpoint: place(0), peer: Some(peer(0)) });
        config
    };
    let mut victim = quiet(0);
    victim.inbound.connections_max = slots;
    world.add(place(0), victim);
    for n in 1..=20 {
        world.add(place(n), towards_victim(n));
    }
    for n in 21..1021 {
        let at = [200, (n % groups) as u8, (n / 250) as u8, (n % 250) as u8];
        world.add(SocketAddr::new(at.into(), 4001).into(), towards_victim(n));
        world.nodes[n].hostile = true;
    }
    (0..=20).for_each(|n| world.boot(n, seed(n)));
    let honest = |world: &World| world.nodes[0].links.iter().filter(|&&n| n <= 20).count();
    assert!(world.run(60 * SECOND, |world| honest(world) == 20));
    let mut fewest = 20;
    for step in 0..600usize {
        // Ten minutes; two hostile identities more each second until all are there, and the honest are of use.
        (0..2).map(|more| 21 + 2 * step + more).filter(|&n| n < 1021).for_each(|n| world.boot(n, seed(n)));
        let useful = 1 + step % 20;
        world.input(0, Input::BroughtTx { peer: peer(useful) });
        if step % 10 == 0 {
            world.input(0, Input::BroughtBlock { peer: peer(useful) });
        }
        let next = world.at + SECOND;
        world.run(next, |_| false);
        fewest = fewest.min(honest(&world));
    }
    (fewest, world.nodes[0].links.len() - honest(&world))
}

#[test]
fn scenario_14_twenty_honest_among_a_thousand_hostile_identities_stay() {
    let (one_group, let_in) = flooded(1, 117);
    println!(
        "20 honest, 1,000 hostile from one netgroup: never fewer than {one_group} honest, {let_in} hostile let in"
    );
    assert!(one_group >= 18 && let_in <= 32, "{one_group} {let_in}");
    let (many_groups, let_in) = flooded(200, 60);
    println!("from 200 netgroups, 60 slots: never fewer than {many_groups} honest, {let_in} hostile let in");
    assert!(many_groups >= 18 && let_in >= 30, "{many_groups} {let_in}");
}

#[test]
fn scenario_40_a_fifth_of_the_clocks_two_minutes_off_changes_nothing() {
    let course = |skew_ms: i64| {
        let mut world = World::new();
        for n in 0..40 {
            world.add(place(n), OverlayConfig::new(peer(n)));
            world.nodes[n].seed = (n > 0).then(|| (peer(0), place(0)));
            world.nodes[n].skew_ms = match n % 10 {
                3 => skew_ms,
                7 => -skew_ms,
                _ => 0,
            };
        }
        (0..40).for_each(|n| world.boot(n, seed(n)));
        let full = |world: &World| {
            let slots = |node: &world::Node| node.overlay.dialler().outbound(Kind::FullRelay);
            world.parts().len() == 1 && world.nodes.iter().skip(1).all(|node| slots(node) == 8)
        };
        assert!(world.run(1200 * SECOND, full), "{:?}", world.degrees());
        let at = world.at;
        world.run(at + 3600 * SECOND, |_| false);
        assert!(full(&world));
        for (n, node) in world.nodes.iter().enumerate() {
            let now = world.now_at(n);
            assert!(node.overlay.ledger().bans(now.unix_ms).is_empty(), "node {n} bans for a clock");
            // Nobody's clock reaches further into ours than what a record may be ahead.
            let latest = node.overlay.book().rows().iter().map(|row| row.last_seen_s).max().unwrap();
            assert!(u64::from(latest) <= now.unix_ms / 1000 + 600, "node {n}");
        }
        at
    };
    let (right, wrong) = (course(0), course(120_000));
    println!(
        "40 nodes: all slots full after {right:?}; with a fifth of the clocks ±2 min off after {wrong:?}"
    );
    assert!(wrong <= 2 * right + 60 * SECOND, "{right:?} {wrong:?}");
}

fn admit(overlay: &mut Overlay, source: &Source, peer: PeerId, now: Now) -> Arrival {
    let Incoming::Accept(ticket) = overlay.incoming(source, true, now) else {
        panic!("{peer} is refused before its handshake")
    };
    overlay.arrived(ticket, source, peer, false, now)
}

fn single(config: OverlayConfig) -> (Overlay, Now) {
    let world = World::new();
    let now = world.now();
    (Overlay::new(config, Saved::default(), seed(1), now), now)
}

#[test]
fn scenario_42_a_thousand_connects_and_disconnects_a_second_leave_no_trace() {
    let mut config = OverlayConfig::new(peer(0));
    config.inbound.connections_max = 4000;
    let (mut overlay, start) = single(config);
    overlay.start(start);
    let peers: Vec<_> = (1..=1000).map(peer).collect();
    let before = overlay.footprint();
    let mut now = start;
    for second in 0..20usize {
        for (n, &one) in peers.iter().enumerate() {
            let from = place(second * 1000 + n);
            let source = Source::Peer(from);
            admit(&mut overlay, &source, one, now);
            let link = Link::Inbound { source };
            overlay.handle(
                Input::Connected { peer: one, link, record: bytes::Bytes::new(), is_node: true },
                now,
            );
            overlay.answer(&one, 32, now);
        }
        assert_eq!(overlay.inbound().len(), 1000);
        for &one in &peers {
            overlay.inbound_left(&one);
            overlay.handle(Input::Disconnected { peer: one, code: None, detail: "gone".into() }, now);
        }
        now = now + SECOND;
        overlay.on_deadline(now);
    }
    let paces = overlay.footprint();
    // What is left: the pace of hosts until it is full again, and a cached answer per class.
    overlay.on_deadline(now + 60 * SECOND);
    let after = overlay.footprint();
    assert!(paces <= before + 8192 + 16);
    assert!(after <= before + 16, "{before} before, {after} after");
    assert_eq!(overlay.inbound().len(), 0);
    println!("20,000 connects and disconnects: {before} entries before, {after} after (answer classes)");
}

#[test]
fn scenario_02_an_identity_mismatch_is_in_the_story_and_no_offence() {
    let mut config = OverlayConfig::new(peer(0));
    config.static_peers.push(StaticPeer { endpoint: place(1), peer: Some(peer(1)) });
    let (mut overlay, now) = single(config);
    let effects = overlay.start(now);
    let Some(Effect::Dial { dial, .. }) = effects.first() else { panic!("{effects:?}") };
    let why = DialFailure::IdentityMismatch;
    overlay.handle(Input::AddressFailed { dial: *dial, peer: Some(peer(1)), endpoint: place(1), why }, now);
    let explained = overlay.explain(&peer(1), now);
    let story = explained.story.unwrap();
    assert_eq!(story.events[0].what, What::Note(Note::IdentityMismatch));
    assert_eq!((explained.score, explained.ban), (0.0, None));
    assert_eq!(overlay.ledger().score(&peer(2), now.unix_ms), 0.0);
}

#[test]
fn a_forged_record_is_an_offence_of_who_passed_it_on_and_stops_the_answer() {
    let (mut overlay, now) = single(OverlayConfig::new(peer(0)));
    let join = |overlay: &mut Overlay, n: usize| {
        let source = Source::Peer(place(n));
        admit(overlay, &source, peer(n), now);
        let link = Link::Inbound { source };
        overlay.handle(
            Input::Connected { peer: peer(n), link, record: bytes::Bytes::new(), is_node: true },
            now,
        );
    };
    join(&mut overlay, 1);
    let good =
        ghost_proto::PeerRecord::sign(&key(7), vec![place(7).to_multiaddr()], 1, 1, now.unix_ms / 1000)
            .unwrap();
    let mut forged = good.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let answer = vec![good.bytes().clone(), forged.into(), good.bytes().clone()];
    overlay.handle(Input::Peers { peer: peer(1), records: Some(answer.clone()) }, now);
    assert!(overlay.book().contains(&peer(7), &place(7)), "what came before the forged one counts");
    let explained = overlay.explain(&peer(1), now);
    assert_eq!(explained.score, 60.0);
    assert_eq!(explained.connection, Some("inbound"));
    // The second time it is banned, dropped, and its host discouraged.
    let effects = overlay.handle(Input::Peers { peer: peer(1), records: Some(answer) }, now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Drop { peer: one, .. } if *one == peer(1))));
    let explained = overlay.explain(&peer(1), now);
    assert!(explained.ban.unwrap().reason.contains("forged_record"));
    let json = serde_json::to_string(&overlay.explain(&peer(1), now)).unwrap();
    assert!(json.contains("passed on a record that is invalid"), "{json}");
    // A banned peer is refused at the door, and the refusal is in its story.
    overlay.inbound_left(&peer(1));
    overlay.handle(Input::Disconnected { peer: peer(1), code: None, detail: "closed".into() }, now);
    let source = Source::Peer(place(1));
    admit(&mut overlay, &source, peer(1), now);
    let story = overlay.explain(&peer(1), now).story.unwrap();
    assert_eq!(story.events.back().unwrap().what, What::Note(Note::Refused));
}

#[test]
fn a_static_peer_is_never_banned_by_itself() {
    let mut config = OverlayConfig::new(peer(0));
    config.static_peers.push(StaticPeer { endpoint: place(1), peer: Some(peer(1)) });
    let (mut overlay, now) = single(config);
    overlay.start(now);
    for _ in 0..10 {
        let input = Input::Offence {
            peer: peer(1),
            offence: Offence::Malformed,
            evidence: "frame 0x20, 3 bytes".into(),
            congested: false,
        };
        assert!(overlay.handle(input, now).iter().all(|effect| !matches!(effect, Effect::Drop { .. })));
    }
    assert!(overlay.ledger().banned(&peer(1), now.unix_ms).is_none());
    assert!(overlay.explain(&peer(1), now).story.unwrap().events[0].detail.contains("malformed"));
}

#[test]
fn a_store_that_fails_gets_the_same_changes_again() {
    let (mut overlay, start) = single(OverlayConfig::new(peer(0)));
    overlay.start(start);
    let input = Input::OperatorBan { peer: peer(5), until_unix_ms: None, reason: "test".into() };
    overlay.handle(input, start);
    let mut now = start;
    let mut next = |overlay: &mut Overlay| loop {
        now = now + SECOND / 4;
        let found = overlay.on_deadline(now).into_iter().find_map(|effect| match effect {
            Effect::Persist(batch) => Some(batch),
            _ => None,
        });
        if let Some(batch) = found {
            break (batch, now);
        }
        assert!(now.at < start.at + 10 * SECOND);
    };
    let (first, at) = next(&mut overlay);
    assert!(first.writes.iter().any(|write| matches!(write, Write::Story(..))));
    assert!(first.writes.iter().any(|write| matches!(write, Write::Secret(_))));
    overlay.handle(Input::Persisted(Err(first.clone())), at);
    let (second, at) = next(&mut overlay);
    assert_eq!(second, first);
    overlay.handle(Input::Persisted(Ok(())), at);
    assert_eq!(overlay.flush(), None);
    // What was saved bans after a restart.
    let mut store = ghost_discovery::store::MemoryStore::new();
    store.apply(&second).unwrap();
    let again = Overlay::new(OverlayConfig::new(peer(0)), store.load().unwrap(), seed(3), at);
    assert!(again.ledger().banned(&peer(5), at.unix_ms).is_some());
}

#[test]
fn a_private_network_lets_in_and_dials_only_whom_it_lists() {
    let mut config = OverlayConfig::private(peer(0), 4);
    config.inbound.only_allowed = true;
    config.inbound.allow_peers = [peer(1)].into();
    let (mut overlay, now) = single(config);
    overlay.start(now);
    let rows = [1, 2].map(|n| {
        let key = key(n).public();
        Row {
            key: Key { peer: key, endpoint: loopback(n) },
            source: NetGroup::OPERATOR,
            ..row(0, place(0), 1, now)
        }
    });
    overlay.import(Saved { rows: rows.to_vec(), ..Saved::default() }, now);
    let mut dialled = Vec::new();
    let mut at = now;
    for _ in 0..200 {
        at = at + SECOND / 4;
        for effect in overlay.on_deadline(at) {
            if let Effect::Dial { peer, .. } = effect {
                dialled.extend(peer);
            }
        }
    }
    assert_eq!(dialled, vec![peer(1)]);
}

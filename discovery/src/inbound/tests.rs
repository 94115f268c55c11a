use std::net::Ipv6Addr;

use super::*;
use crate::{
    address::peer_id,
    testing::{made_up, place, rng},
};
use rand::RngExt;

fn peer(n: u32) -> PeerId {
    peer_id(&made_up(n))
}
fn from(group: u16, host: u16) -> Source {
    Source::Peer(place(group, host))
}
fn inbound(config: InboundConfig) -> Inbound {
    Inbound::new(config, AddressPolicy::default(), [5; 16])
}
fn join(inbound: &mut Inbound, source: &Source, n: u32, now: Instant) -> Result<Option<PeerId>, Refusal> {
    match inbound.incoming(source, true, false, now) {
        Incoming::Accept(ticket) => match inbound.arrived(ticket, peer(n), Standing::default(), false, now) {
            Arrival::Welcome { evict } => Ok(evict),
            Arrival::Refuse(refusal) => Err(refusal),
        },
        Incoming::Refuse(refusal) => Err(refusal),
        Incoming::ValidateAddress => panic!("it was validated"),
    }
}

fn accepted(inbound: &mut Inbound, source: &Source, validated: bool, now: Instant) -> Ticket {
    match inbound.incoming(source, validated, false, now) {
        Incoming::Accept(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// 20 honest peers that behave as such, then 1,000 hostile ones under fresh identities.
/// `groups` is how many netgroups the hostile ones come from. Answers how many honest ones stay.
fn flood(config: InboundConfig, groups: u16, seed: u64) -> (usize, usize) {
    let mut rng = rng(seed);
    let mut inbound = inbound(config);
    let mut now = Instant::now();
    for n in 0..20u32 {
        // Honest peers from 20 netgroups, 20 to 200 ms away, a transaction or block now and then.
        join(&mut inbound, &from(100 + n as u16, 1), n, now).unwrap();
        inbound.ping(&peer(n), Duration::from_millis(rng.random_range(20..200)));
        now += Duration::from_secs(30);
    }
    let mut let_in = 0;
    for n in 1000..2000u32 {
        now += Duration::from_millis(100);
        if n % 10 == 0 {
            inbound.brought_tx(&peer(rng.random_range(0..20)), now);
        }
        if n % 50 == 0 {
            inbound.brought_block(&peer(rng.random_range(0..20)), now);
        }
        let source = from(5000 + n as u16 % groups, n as u16);
        if let Ok(evicted) = join(&mut inbound, &source, n, now) {
            let_in += 1;
            // Hostile ones sit close by: they win by ping.
            inbound.ping(&peer(n), Duration::from_millis(1));
            if let Some(evicted) = evicted {
                inbound.left(&evicted);
            }
        }
    }
    ((0..20).filter(|&n| inbound.conns.contains_key(&peer(n))).count(), let_in)
}

#[test]
#[allow(clippy::print_stdout)]
fn scenario_14_a_flood_from_one_netgroup_leaves_the_honest_connected() {
    let tight = InboundConfig { connections_max: 40, ..Default::default() };
    let no_limits = InboundConfig { per_host_max: 4096, per_netgroup_max: 4096, ..tight.clone() };
    for seed in 0..20 {
        let (stayed, let_in) = flood(tight.clone(), 1, seed);
        assert!(stayed >= 18, "{stayed} of 20 with limits");
        assert!(let_in <= 32 + 1000, "{let_in}");
        // Eviction alone, without any limit, must hold as well.
        let (stayed_alone, _) = flood(no_limits.clone(), 1, seed);
        assert!(stayed_alone >= 18, "{stayed_alone} of 20 by eviction alone");
        // And against a botnet in 200 netgroups.
        let (stayed_wide, _) = flood(no_limits.clone(), 200, seed);
        assert!(stayed_wide >= 18, "{stayed_wide} of 20 against 200 netgroups");
        if seed == 0 {
            println!(
                "honest of 20 after 1,000 hostile: {stayed} with limits ({let_in} let in), \
                 {stayed_alone} by eviction alone, {stayed_wide} against 200 netgroups"
            );
        }
    }
}

#[test]
fn scenario_42_connects_and_disconnects_leave_the_maps_as_they_were() {
    let mut inbound = inbound(InboundConfig { connections_max: 2000, ..Default::default() });
    let mut now = Instant::now();
    join(&mut inbound, &from(1, 1), 0, now).unwrap();
    let quiet = now + Duration::from_secs(100);
    inbound.on_deadline(quiet);
    let before = inbound.footprint();
    let mut most = 0;
    for second in 0..20u32 {
        let one_second: Vec<u32> = (0..1000).map(|n| second * 1000 + n + 1).collect();
        for &n in &one_second {
            let source = from(n as u16, (n / 7) as u16);
            if n % 3 == 0 {
                let ticket = accepted(&mut inbound, &source, true, now);
                inbound.failed(ticket);
            } else if join(&mut inbound, &source, n, now).is_ok() && n % 2 == 0 {
                inbound.left(&peer(n));
            }
        }
        one_second.iter().for_each(|&n| inbound.left(&peer(n)));
        now += Duration::from_secs(1);
        most = most.max(inbound.footprint());
    }
    assert!(most <= HOSTS_REMEMBERED_MAX + 3 * 1001, "{most}");
    assert_eq!(inbound.half_open(), 0);
    let deadline = inbound.next_deadline().unwrap();
    assert!(deadline > now);
    inbound.on_deadline(now + HANDSHAKE_EVERY * HANDSHAKES_BURST);
    assert_eq!(inbound.footprint(), before);
    assert_eq!(inbound.next_deadline(), None);
}

#[test]
fn limits_per_host_and_netgroup_from_both_sides() {
    let mut inbound = inbound(InboundConfig::default());
    let now = Instant::now();
    for n in 0..4 {
        assert_eq!(join(&mut inbound, &from(1, 1), n, now), Ok(None));
    }
    assert_eq!(join(&mut inbound, &from(1, 1), 4, now), Err(Refusal::HostFull));
    for n in 4..32 {
        assert_eq!(join(&mut inbound, &from(1, n as u16), n, now), Ok(None));
    }
    assert_eq!(join(&mut inbound, &from(1, 999), 40, now), Err(Refusal::NetgroupFull));
    inbound.left(&peer(31));
    assert_eq!(join(&mut inbound, &from(1, 999), 40, now), Ok(None));
    // One IPv6 /64 is one host.
    let v6 = |last: u16| {
        let ip = Ipv6Addr::new(0x2a00, 1, 2, 3, last, 0, 0, 1);
        Source::Peer(std::net::SocketAddr::new(ip.into(), 1).into())
    };
    for n in 0..4 {
        assert_eq!(join(&mut inbound, &v6(n), 100 + u32::from(n), now), Ok(None));
    }
    assert_eq!(join(&mut inbound, &v6(9), 110, now), Err(Refusal::HostFull));
}

#[test]
fn sixteen_nodes_on_loopback_get_in() {
    let mut inbound = Inbound::new(InboundConfig::default(), AddressPolicy::private(), [5; 16]);
    for n in 0..100u16 {
        let address = std::net::SocketAddr::new([127, 0, 0, 1].into(), 50_000 + n);
        assert_eq!(join(&mut inbound, &Source::Peer(address.into()), u32::from(n), Instant::now()), Ok(None));
    }
}

#[test]
fn half_open_handshakes_turn_on_validation_at_the_bound() {
    let mut inbound = inbound(InboundConfig::default());
    let now = Instant::now();
    let first = accepted(&mut inbound, &from(0, 0), false, now);
    for n in 1..256u16 {
        accepted(&mut inbound, &from(n, n), false, now);
    }
    assert_eq!(inbound.incoming(&from(300, 1), false, false, now), Incoming::ValidateAddress);
    let validated = accepted(&mut inbound, &from(300, 1), true, now);
    assert_eq!(inbound.half_open(), 257);
    inbound.failed(validated);
    inbound.failed(first);
    let again = accepted(&mut inbound, &from(300, 1), false, now);
    // Giving a ticket back twice changes nothing.
    inbound.failed(validated);
    assert_eq!(inbound.half_open(), 256);
    inbound.failed(again);
    // With proven addresses four times as many, and not one more.
    for n in 255..1024u16 {
        accepted(&mut inbound, &from(1000 + n, n), true, now);
    }
    assert_eq!(inbound.half_open(), 1024);
    assert_eq!(inbound.incoming(&from(9000, 1), true, false, now), Incoming::Refuse(Refusal::Busy));
}

#[test]
fn a_quick_host_is_slowed_and_a_spoofed_one_is_not_charged() {
    let mut inbound = inbound(InboundConfig { per_host_max: 1000, ..Default::default() });
    let now = Instant::now();
    let source = from(1, 1);
    for _ in 0..1000 {
        let ticket = accepted(&mut inbound, &source, false, now);
        inbound.failed(ticket);
    }
    for _ in 0..HANDSHAKES_BURST {
        let ticket = accepted(&mut inbound, &source, true, now);
        inbound.failed(ticket);
    }
    assert_eq!(inbound.incoming(&source, false, false, now), Incoming::ValidateAddress);
    let too_fast = Incoming::Refuse(Refusal::TooFast);
    assert_eq!(inbound.incoming(&source, true, false, now), too_fast);
    assert_eq!(
        inbound.incoming(&source, true, false, now + HANDSHAKE_EVERY - Duration::from_millis(1)),
        too_fast
    );
    accepted(&mut inbound, &source, true, now + HANDSHAKE_EVERY);
}

#[test]
fn spoofed_first_packets_never_lock_a_host_out() {
    let mut inbound = inbound(InboundConfig::default());
    let now = Instant::now();
    let victim = from(1, 1);
    for _ in 0..4 {
        accepted(&mut inbound, &victim, false, now);
    }
    // The fifth has to prove its address; who can do that gets in.
    assert_eq!(inbound.incoming(&victim, false, false, now), Incoming::ValidateAddress);
    assert_eq!(join(&mut inbound, &victim, 1, now), Ok(None));
    // The same for its netgroup: 4 claimed and 1 connected so far.
    for n in 0..27 {
        accepted(&mut inbound, &from(1, 10 + n), false, now);
    }
    assert_eq!(inbound.incoming(&from(1, 99), false, false, now), Incoming::ValidateAddress);
    assert_eq!(join(&mut inbound, &from(1, 99), 2, now), Ok(None));
}

#[test]
fn a_handshake_without_a_token_counts_once_it_is_done() {
    let mut inbound = inbound(InboundConfig { per_host_max: 2, ..Default::default() });
    let now = Instant::now();
    let source = from(1, 1);
    let tickets: Vec<_> = (0..2).map(|_| accepted(&mut inbound, &source, false, now)).collect();
    assert_eq!(join(&mut inbound, &source, 1, now), Ok(None));
    let mut arrive = |ticket, n| inbound.arrived(ticket, peer(n), Standing::default(), false, now);
    assert_eq!(arrive(tickets[0], 2), Arrival::Welcome { evict: None });
    assert_eq!(arrive(tickets[1], 3), Arrival::Refuse(Refusal::HostFull));
    assert_eq!(arrive(tickets[1], 3), Arrival::Refuse(Refusal::Busy), "a ticket is good once");
    assert_eq!((inbound.len(), inbound.half_open()), (2, 0));
}

#[test]
fn clients_have_slots_of_their_own() {
    let config = InboundConfig { clients_max: 20, clients_per_host_max: 4, ..Default::default() };
    let mut inbound = inbound(config);
    let mut now = Instant::now();
    let mut join = |inbound: &mut Inbound, host: u16, id: u64, protect: bool| {
        now += Duration::from_secs(1);
        let ticket = accepted(inbound, &from(host, host), true, now);
        inbound.client_arrived(ticket, id, &peer(id as u32), Standing::default(), protect, now)
    };
    for id in 0..4 {
        assert_eq!(join(&mut inbound, 1, id, false), Ok(()));
    }
    assert_eq!(join(&mut inbound, 1, 4, false), Err(Refusal::HostFull));
    for id in 4..20 {
        assert_eq!(join(&mut inbound, 2 + id as u16 / 4, id, false), Ok(()));
    }
    assert_eq!(join(&mut inbound, 900, 20, false), Err(Refusal::Full));
    assert_eq!(join(&mut inbound, 900, 21, true), Ok(()), "an operator always gets in");
    assert_eq!((inbound.clients(), inbound.len(), inbound.half_open()), (21, 0, 0));
    (0..22).for_each(|id| inbound.client_left(id));
    inbound.on_deadline(now + HANDSHAKE_EVERY * HANDSHAKES_BURST);
    assert_eq!(inbound.footprint(), 0);
}

#[test]
fn lists_bans_and_the_private_network() {
    let now = Instant::now();
    let config = InboundConfig {
        allow_peers: [peer(1)].into(),
        deny_peers: [peer(2)].into(),
        deny_hosts: vec!["16.9.0.0/16".parse().unwrap()],
        ..Default::default()
    };
    let mut inbound_ = inbound(config.clone());
    assert_eq!(join(&mut inbound_, &from(9, 1), 5, now), Err(Refusal::HostDenied));
    assert_eq!(join(&mut inbound_, &from(1, 1), 2, now), Err(Refusal::PeerDenied));
    let banned = Standing { banned: true, discouraged: false };
    for (n, expected) in [(3, Arrival::Refuse(Refusal::Banned)), (1, Arrival::Welcome { evict: None })] {
        let ticket = accepted(&mut inbound_, &from(1, 1), true, now);
        assert_eq!(inbound_.arrived(ticket, peer(n), banned, false, now), expected);
    }
    let mut private = inbound(InboundConfig { only_allowed: true, ..config });
    assert_eq!(join(&mut private, &from(1, 1), 7, now), Err(Refusal::NotAllowed));
    assert_eq!(join(&mut private, &from(1, 1), 1, now), Ok(None));
    assert_eq!(private.half_open(), 0);
    // What was refused is not counted.
    assert_eq!(private.len(), 1);
    assert_eq!(private.hosts.values().map(|count| count.proven + count.claimed).sum::<usize>(), 1);
}

#[test]
fn a_discouraged_host_gets_in_while_there_is_room() {
    let mut inbound = inbound(InboundConfig { connections_max: 40, ..Default::default() });
    let now = Instant::now();
    for n in 0..29 {
        join(&mut inbound, &from(n, 1), u32::from(n), now).unwrap();
    }
    assert!(matches!(inbound.incoming(&from(99, 1), true, true, now), Incoming::Accept(_)));
    assert_eq!(inbound.incoming(&from(98, 1), true, true, now), Incoming::Refuse(Refusal::Discouraged));
}

//! Who gets in: before a handshake costs us anything, and once we know who it is.
//!
//! A core. Order of calls: [`Inbound::incoming`] for every first packet (it counts the accepted as
//! half-open); then [`Inbound::failed`] or [`Inbound::arrived`]; for those let in,
//! [`Inbound::ping`], [`Inbound::brought_tx`] and [`Inbound::brought_block`] as they happen, and
//! [`Inbound::left`] at the end.
//!
//! Every map holds at most as many entries as there are half-open or open connections, plus
//! [`HOSTS_REMEMBERED_MAX`] hosts that were quick.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use ghost_frames::Code;
use ghost_proto::PeerId;

use crate::{
    address::{Endpoint, Host},
    evict::{self, Candidate, Disadvantaged},
    netgroup::{AddressPolicy, NetGroup, Source},
    prefix::Prefix,
};

/// Most hosts whose handshake rate is remembered: 8,192 × about 100 bytes = 800 KiB.
pub const HOSTS_REMEMBERED_MAX: usize = 8192;
/// Handshakes a host may start at once before it has to slow down.
pub const HANDSHAKES_BURST: u32 = 32;
/// One more handshake every so often.
pub const HANDSHAKE_EVERY: Duration = Duration::from_secs(1);

/// Inbound limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundConfig {
    /// Most inbound connections. Default 117 (with 11 outbound 128 in all), 0 to 100,000; each costs
    /// about 40 KiB.
    pub connections_max: usize,
    /// Most connections and handshakes from one host (an IPv4 address or an IPv6 /64). Default 4, at
    /// least 1. Not applied to private addresses if `allow_private` is on, nor to the onion service.
    pub per_host_max: usize,
    /// Most connections and handshakes from one netgroup. Default 32, at least 1. Same exceptions.
    pub per_netgroup_max: usize,
    /// Handshakes at once before addresses have to be validated (a QUIC Retry, one more round trip).
    /// Default 256.
    pub half_open_max: usize,
    /// Peers that are always let in and never evicted. At most 4,096.
    pub allow_peers: BTreeSet<PeerId>,
    /// Peers that are never let in.
    pub deny_peers: BTreeSet<PeerId>,
    /// Ranges whose hosts are not counted against limits.
    pub allow_hosts: Vec<Prefix>,
    /// Ranges that are refused before the handshake.
    pub deny_hosts: Vec<Prefix>,
    /// Private network: only `allow_peers` get in, and only they are dialled.
    pub only_allowed: bool,
}

impl Default for InboundConfig {
    fn default() -> Self {
        Self {
            connections_max: 117,
            per_host_max: 4,
            per_netgroup_max: 32,
            half_open_max: 256,
            allow_peers: BTreeSet::new(),
            deny_peers: BTreeSet::new(),
            allow_hosts: Vec::new(),
            deny_hosts: Vec::new(),
            only_allowed: false,
        }
    }
}

/// What to do with a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Go on with the handshake. Later call [`Inbound::failed`] or [`Inbound::arrived`].
    Accept,
    /// Send a Retry; the next packet comes with a validated address.
    ValidateAddress,
    /// Drop or refuse it.
    Refuse(Refusal),
}

/// Why somebody was not let in. The reason is for the ledger and the logs; the peer is told
/// [`Refusal::code`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// In `deny_hosts`.
    #[error("its address is on the deny-list")]
    HostDenied,
    /// In `deny_peers`.
    #[error("it is on the deny-list")]
    PeerDenied,
    /// `only_allowed`, and it is not in `allow_peers`.
    #[error("this is a private network and it is not on the allow-list")]
    NotAllowed,
    /// Banned.
    #[error("it is banned")]
    Banned,
    /// Its host was banned and there is not much room.
    #[error("a peer at its address is banned, and there is little room")]
    Discouraged,
    /// Too many from its host.
    #[error("its host has as many connections as one host may have")]
    HostFull,
    /// Too many from its netgroup.
    #[error("its netgroup has as many connections as one netgroup may have")]
    NetgroupFull,
    /// Too many handshakes from its host in a short time.
    #[error("its host starts more than one handshake a second")]
    TooFast,
    /// No room, and nobody to evict.
    #[error("every inbound slot is taken by a better peer")]
    Full,
}

impl Refusal {
    /// The close code.
    pub const fn code(self) -> Code {
        match self {
            Self::HostDenied | Self::PeerDenied | Self::NotAllowed | Self::Banned => Code::Refused,
            Self::Discouraged | Self::HostFull | Self::NetgroupFull | Self::TooFast | Self::Full => {
                Code::Full
            }
        }
    }

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostDenied => "host_denied",
            Self::PeerDenied => "peer_denied",
            Self::NotAllowed => "not_allowed",
            Self::Banned => "banned",
            Self::Discouraged => "discouraged",
            Self::HostFull => "host_full",
            Self::NetgroupFull => "netgroup_full",
            Self::TooFast => "too_fast",
            Self::Full => "full",
        }
    }
}

/// What is known about a host or peer from the conduct ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The peer is banned.
    pub banned: bool,
    /// A peer at its host is banned.
    pub discouraged: bool,
}

/// Let in, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Let in; if there is somebody to evict, close that connection with [`Code::Full`] first.
    Welcome {
        /// Whom to part with for it.
        evict: Option<PeerId>,
    },
    /// Close with [`Refusal::code`].
    Refuse(Refusal),
}

#[derive(Debug, Clone)]
struct Conn {
    candidate: Candidate,
    host: Host,
    counted: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    left: u32,
    filled: Instant,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Inbound {
    config: InboundConfig,
    policy: AddressPolicy,
    secret: [u8; 16],
    half_open: usize,
    conns: BTreeMap<PeerId, Conn>,
    hosts: BTreeMap<Host, usize>,
    groups: BTreeMap<NetGroup, usize>,
    pace: BTreeMap<Host, Pace>,
}

impl Inbound {
    /// `secret` decides which netgroups eviction protects: draw it at each start.
    pub fn new(config: InboundConfig, policy: AddressPolicy, secret: [u8; 16]) -> Self {
        Self {
            config,
            policy,
            secret,
            half_open: 0,
            conns: BTreeMap::new(),
            hosts: BTreeMap::new(),
            groups: BTreeMap::new(),
            pace: BTreeMap::new(),
        }
    }

    /// The limits.
    pub fn config(&self) -> &InboundConfig {
        &self.config
    }

    /// A first packet from `source`. `validated` says that it has proved its address (Retry token).
    pub fn incoming(
        &mut self,
        source: &Source,
        validated: bool,
        discouraged: bool,
        now: Instant,
    ) -> Incoming {
        let (host, group, counted) = self.place(source);
        if self.config.deny_hosts.iter().any(|prefix| prefix.contains(&host)) {
            return Incoming::Refuse(Refusal::HostDenied);
        }
        if !self.config.allow_hosts.iter().any(|prefix| prefix.contains(&host)) {
            if discouraged && self.conns.len() + self.half_open >= self.config.connections_max * 3 / 4 {
                return Incoming::Refuse(Refusal::Discouraged);
            }
            if counted {
                if self.hosts.get(&host).is_some_and(|&count| count >= self.config.per_host_max) {
                    return Incoming::Refuse(Refusal::HostFull);
                }
                if self.groups.get(&group).is_some_and(|&count| count >= self.config.per_netgroup_max) {
                    return Incoming::Refuse(Refusal::NetgroupFull);
                }
                // # Security: only a validated address is charged, or anyone could spend a victim's
                // pace, and fill this map, with spoofed packets.
                if validated && !self.spend(&host, now) {
                    return Incoming::Refuse(Refusal::TooFast);
                }
            }
        }
        if self.half_open >= self.config.half_open_max && !validated {
            return Incoming::ValidateAddress;
        }
        self.half_open += 1;
        if counted {
            *self.hosts.entry(host).or_insert(0) += 1;
            *self.groups.entry(group).or_insert(0) += 1;
        }
        Incoming::Accept
    }

    /// An accepted handshake came to nothing.
    pub fn failed(&mut self, source: &Source) {
        let (host, group, counted) = self.place(source);
        self.half_open = self.half_open.saturating_sub(1);
        if counted {
            self.uncount(&host, group);
        }
    }

    /// The handshake of an accepted connection is done and the peer is known. `protect` is set for
    /// static peers and operators' keys.
    ///
    /// Call it only for the connection that stays if two peers dialled each other, and
    /// [`Inbound::failed`] for one that doesn't.
    pub fn arrived(
        &mut self,
        source: &Source,
        peer: PeerId,
        standing: Standing,
        protect: bool,
        now: Instant,
    ) -> Arrival {
        let refuse = |this: &mut Self, refusal| {
            this.failed(source);
            Arrival::Refuse(refusal)
        };
        let allowed = self.config.allow_peers.contains(&peer);
        if self.config.deny_peers.contains(&peer) {
            return refuse(self, Refusal::PeerDenied);
        }
        if self.config.only_allowed && !allowed && !protect {
            return refuse(self, Refusal::NotAllowed);
        }
        if standing.banned && !allowed {
            return refuse(self, Refusal::Banned);
        }
        let protected = protect || allowed;
        let mut evict = None;
        if self.conns.len() >= self.config.connections_max && !self.conns.contains_key(&peer) {
            let candidates = self.conns.values().map(|conn| conn.candidate.clone()).collect();
            evict = evict::select(candidates, self.secret);
            if evict.is_none() && !protected {
                return refuse(self, Refusal::Full);
            }
        }
        if let Some(victim) = evict {
            self.left(&victim);
        }
        // A second connection of the same peer replaces the first in the counts.
        self.left(&peer);
        self.half_open = self.half_open.saturating_sub(1);
        let (host, group, counted) = self.place(source);
        let disadvantaged = match source {
            Source::TorInbound => Some(Disadvantaged::Onion),
            Source::Peer(endpoint) if !endpoint.host().is_global() => Some(Disadvantaged::Private),
            _ => None,
        };
        let candidate = Candidate {
            peer,
            group,
            since: now,
            ping_min: None,
            last_tx: None,
            last_block: None,
            block_only: false,
            disadvantaged,
            prefer: standing.discouraged,
            protected,
        };
        self.conns.insert(peer, Conn { candidate, host, counted });
        Arrival::Welcome { evict }
    }

    /// The connection is gone. Nothing happens if the peer was not let in or was evicted.
    pub fn left(&mut self, peer: &PeerId) {
        if let Some(conn) = self.conns.remove(peer)
            && conn.counted
        {
            self.uncount(&conn.host, conn.candidate.group);
        }
    }

    /// A round trip was measured.
    pub fn ping(&mut self, peer: &PeerId, round_trip: Duration) {
        if let Some(conn) = self.conns.get_mut(peer) {
            let best = conn.candidate.ping_min.map_or(round_trip, |best| best.min(round_trip));
            conn.candidate.ping_min = Some(best);
        }
    }

    /// It was first to bring a transaction that is valid and pays.
    pub fn brought_tx(&mut self, peer: &PeerId, now: Instant) {
        if let Some(conn) = self.conns.get_mut(peer) {
            conn.candidate.last_tx = Some(now);
        }
    }

    /// It was first to bring a block that is valid.
    pub fn brought_block(&mut self, peer: &PeerId, now: Instant) {
        if let Some(conn) = self.conns.get_mut(peer) {
            conn.candidate.last_block = Some(now);
        }
    }

    /// It takes no transactions.
    pub fn is_block_only(&mut self, peer: &PeerId) {
        if let Some(conn) = self.conns.get_mut(peer) {
            conn.candidate.block_only = true;
        }
    }

    /// Open inbound connections.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Handshakes going on.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Entries of every map together, for tests and metrics.
    pub fn footprint(&self) -> usize {
        self.conns.len() + self.hosts.len() + self.groups.len() + self.pace.len()
    }

    /// When hosts can be forgotten that were quick; call [`Inbound::on_deadline`] then.
    pub fn next_deadline(&self) -> Option<Instant> {
        let full = HANDSHAKE_EVERY * HANDSHAKES_BURST;
        self.pace.values().map(|pace| pace.filled + full).min()
    }

    /// Forgets hosts whose pace is full again.
    pub fn on_deadline(&mut self, now: Instant) {
        self.pace.retain(|_, pace| refill(*pace, now).left < HANDSHAKES_BURST);
    }

    fn spend(&mut self, host: &Host, now: Instant) -> bool {
        if self.pace.len() >= HOSTS_REMEMBERED_MAX && !self.pace.contains_key(host) {
            self.on_deadline(now);
            if self.pace.len() >= HOSTS_REMEMBERED_MAX {
                // Thousands of real hosts at once: the limits per host and netgroup still hold.
                return true;
            }
        }
        let pace = self.pace.entry(host.clone()).or_insert(Pace { left: HANDSHAKES_BURST, filled: now });
        *pace = refill(*pace, now);
        if pace.left == 0 {
            return false;
        }
        pace.left -= 1;
        true
    }

    fn uncount(&mut self, host: &Host, group: NetGroup) {
        decrement(&mut self.hosts, host);
        decrement(&mut self.groups, &group);
    }

    /// Host as limits count it, netgroup, and whether limits apply.
    fn place(&self, source: &Source) -> (Host, NetGroup, bool) {
        let group = self.policy.source_group(source);
        match source {
            Source::Peer(endpoint) => {
                let exempt = self.policy.allow_private && !endpoint.host().is_global();
                (counted_host(endpoint), group, !exempt)
            }
            Source::TorInbound | Source::Operator => (Host::Ip6(Ipv6Addr::UNSPECIFIED), group, false),
        }
    }
}

/// IPv6 hosts are handed out by /64: anyone has 2^64 addresses in one.
fn counted_host(endpoint: &Endpoint) -> Host {
    match endpoint.host() {
        Host::Ip6(ip) => Host::Ip6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        host => host.clone(),
    }
}

fn refill(mut pace: Pace, now: Instant) -> Pace {
    let gained = now.saturating_duration_since(pace.filled).as_secs() / HANDSHAKE_EVERY.as_secs();
    let gained = u32::try_from(gained).unwrap_or(u32::MAX).min(2 * HANDSHAKES_BURST);
    pace.left = pace.left.saturating_add(gained).min(HANDSHAKES_BURST);
    pace.filled = if gained == 2 * HANDSHAKES_BURST { now } else { pace.filled + HANDSHAKE_EVERY * gained };
    pace
}

fn decrement<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
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
            Incoming::Accept => match inbound.arrived(source, peer(n), Standing::default(), false, now) {
                Arrival::Welcome { evict } => Ok(evict),
                Arrival::Refuse(refusal) => Err(refusal),
            },
            Incoming::Refuse(refusal) => Err(refusal),
            Incoming::ValidateAddress => panic!("it was validated"),
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
                    assert_eq!(inbound.incoming(&source, true, false, now), Incoming::Accept);
                    inbound.failed(&source);
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
            assert_eq!(
                join(&mut inbound, &Source::Peer(address.into()), u32::from(n), Instant::now()),
                Ok(None)
            );
        }
    }

    #[test]
    fn half_open_handshakes_turn_on_validation_at_the_bound() {
        let mut inbound = inbound(InboundConfig::default());
        let now = Instant::now();
        for n in 0..256u16 {
            assert_eq!(inbound.incoming(&from(n, n), false, false, now), Incoming::Accept);
        }
        assert_eq!(inbound.incoming(&from(300, 1), false, false, now), Incoming::ValidateAddress);
        assert_eq!(inbound.incoming(&from(300, 1), true, false, now), Incoming::Accept);
        assert_eq!(inbound.half_open(), 257);
        inbound.failed(&from(300, 1));
        inbound.failed(&from(0, 0));
        assert_eq!(inbound.incoming(&from(300, 1), false, false, now), Incoming::Accept);
    }

    #[test]
    fn a_quick_host_is_slowed_and_a_spoofed_one_is_not_charged() {
        let mut inbound = inbound(InboundConfig { per_host_max: 1000, ..Default::default() });
        let now = Instant::now();
        let source = from(1, 1);
        for _ in 0..1000 {
            inbound.incoming(&source, false, false, now);
            inbound.failed(&source);
        }
        for _ in 0..HANDSHAKES_BURST {
            assert_eq!(inbound.incoming(&source, true, false, now), Incoming::Accept);
            inbound.failed(&source);
        }
        let too_fast = Incoming::Refuse(Refusal::TooFast);
        assert_eq!(inbound.incoming(&source, true, false, now), too_fast);
        assert_eq!(
            inbound.incoming(&source, true, false, now + HANDSHAKE_EVERY - Duration::from_millis(1)),
            too_fast
        );
        assert_eq!(inbound.incoming(&source, true, false, now + HANDSHAKE_EVERY), Incoming::Accept);
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
            inbound_.incoming(&from(1, 1), true, false, now);
            assert_eq!(inbound_.arrived(&from(1, 1), peer(n), banned, false, now), expected);
        }
        let mut private = inbound(InboundConfig { only_allowed: true, ..config });
        assert_eq!(join(&mut private, &from(1, 1), 7, now), Err(Refusal::NotAllowed));
        assert_eq!(join(&mut private, &from(1, 1), 1, now), Ok(None));
        assert_eq!(private.half_open(), 0);
        // What was refused is not counted.
        assert_eq!(private.len(), 1);
        assert_eq!(private.hosts.values().sum::<usize>(), 1);
    }

    #[test]
    fn a_discouraged_host_gets_in_while_there_is_room() {
        let mut inbound = inbound(InboundConfig { connections_max: 40, ..Default::default() });
        let now = Instant::now();
        for n in 0..29 {
            join(&mut inbound, &from(n, 1), u32::from(n), now).unwrap();
        }
        assert_eq!(inbound.incoming(&from(99, 1), true, true, now), Incoming::Accept);
        assert_eq!(inbound.incoming(&from(98, 1), true, true, now), Incoming::Refuse(Refusal::Discouraged));
    }
}

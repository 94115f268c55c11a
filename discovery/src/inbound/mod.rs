//! Who gets in: before a handshake costs us anything, and once we know who it is.
//!
//! A core. Order of calls: [`Inbound::incoming`] for every first packet (it gives a ticket to the
//! accepted); then [`Inbound::failed`], [`Inbound::arrived`] or [`Inbound::client_arrived`] with that
//! ticket; for those let in, [`Inbound::ping`], [`Inbound::brought_tx`] and [`Inbound::brought_block`] as
//! they happen, and [`Inbound::left`] or [`Inbound::client_left`] at the end.
//!
//! # Security
//! A first packet proves nothing about where it comes from. So what counts *against* a host or netgroup
//! are connections and handshakes from validated addresses only; handshakes from addresses that are
//! claimed can make the next one prove its address, and no more. Otherwise four spoofed packets every ten
//! seconds would lock a host out.
//!
//! Every map holds at most as many entries as there are half-open or open connections, plus
//! [`HOSTS_REMEMBERED_MAX`] hosts that were quick.

mod pace;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use ghost_proto::PeerId;

use crate::{
    address::{Endpoint, Host},
    evict::{self, Candidate, Disadvantaged},
    netgroup::{AddressPolicy, NetGroup, Source},
};

pub use pace::{HANDSHAKE_EVERY, HANDSHAKES_BURST, HOSTS_REMEMBERED_MAX};
pub use types::{Arrival, HALF_OPEN_FACTOR, InboundConfig, Incoming, Refusal, Standing, Ticket};

use pace::Paces;

/// Where a connection is from, as limits count it.
#[derive(Debug, Clone)]
struct From {
    host: Host,
    group: NetGroup,
    /// False where limits do not apply.
    counted: bool,
}

#[derive(Debug, Clone)]
struct HalfOpen {
    from: From,
    validated: bool,
}

#[derive(Debug, Clone)]
struct Conn {
    candidate: Candidate,
    from: From,
}

/// What a host or netgroup has open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    /// Connections, and handshakes from addresses that were validated.
    proven: usize,
    /// Handshakes from addresses that were only claimed.
    claimed: usize,
}

impl Count {
    fn of(&mut self, proven: bool) -> &mut usize {
        if proven { &mut self.proven } else { &mut self.claimed }
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Inbound {
    config: InboundConfig,
    policy: AddressPolicy,
    secret: [u8; 16],
    next_ticket: u64,
    half_open: BTreeMap<Ticket, HalfOpen>,
    conns: BTreeMap<PeerId, Conn>,
    clients: BTreeMap<u64, From>,
    hosts: BTreeMap<Host, Count>,
    groups: BTreeMap<NetGroup, Count>,
    client_hosts: BTreeMap<Host, Count>,
    paces: Paces,
}

impl Inbound {
    /// `secret` decides which netgroups eviction protects: draw it at each start.
    pub fn new(config: InboundConfig, policy: AddressPolicy, secret: [u8; 16]) -> Self {
        Self {
            config,
            policy,
            secret,
            next_ticket: 0,
            half_open: BTreeMap::new(),
            conns: BTreeMap::new(),
            clients: BTreeMap::new(),
            hosts: BTreeMap::new(),
            groups: BTreeMap::new(),
            client_hosts: BTreeMap::new(),
            paces: Paces::default(),
        }
    }

    /// The limits.
    pub fn config(&self) -> &InboundConfig {
        &self.config
    }

    /// Why whoever came from there now would not be let in, in the end. Changes nothing.
    pub fn refuses(&self, source: &Source, discouraged: bool, now: Instant) -> Option<Refusal> {
        let from = self.place(source);
        if self.config.deny_hosts.iter().any(|prefix| prefix.contains(&from.host)) {
            return Some(Refusal::HostDenied);
        }
        if self.is_allowed(&from.host) {
            return None;
        }
        if discouraged && self.conns.len() + self.half_open.len() >= self.config.connections_max * 3 / 4 {
            return Some(Refusal::Discouraged);
        }
        let limits = || self.full(&from).or(self.paces.is_spent(&from.host, now).then_some(Refusal::TooFast));
        if from.counted { limits() } else { None }
    }

    /// Why this peer would not be let in, wherever it came from. `protect` is set for static peers and
    /// operators' keys.
    pub fn refuses_peer(&self, peer: &PeerId, banned: bool, protect: bool) -> Option<Refusal> {
        let welcome = protect || self.config.allow_peers.contains(peer);
        if self.config.deny_peers.contains(peer) {
            Some(Refusal::PeerDenied)
        } else if self.config.only_allowed && !welcome {
            Some(Refusal::NotAllowed)
        } else if banned && !welcome {
            Some(Refusal::Banned)
        } else {
            None
        }
    }

    /// A first packet from `source`. `validated` says that it has proved its address (Retry token).
    pub fn incoming(
        &mut self,
        source: &Source,
        validated: bool,
        discouraged: bool,
        now: Instant,
    ) -> Incoming {
        let from = self.place(source);
        let held_to_limits = from.counted && !self.is_allowed(&from.host);
        match self.refuses(source, discouraged, now) {
            // What is claimed of an address is not held against it until it is proven.
            Some(Refusal::TooFast) if !validated => return Incoming::ValidateAddress,
            Some(refusal) => return Incoming::Refuse(refusal),
            None if held_to_limits && !validated && self.claims_full(&from) => {
                return Incoming::ValidateAddress;
            }
            // # Security: only a validated address is charged, or anyone could spend a victim's pace, and
            // fill this map, with spoofed packets.
            None if held_to_limits && validated => {
                self.paces.spend(&from.host, now);
            }
            None => {}
        }
        if self.half_open.len() >= self.config.half_open_max && !validated {
            return Incoming::ValidateAddress;
        }
        if self.half_open.len() >= HALF_OPEN_FACTOR * self.config.half_open_max {
            return Incoming::Refuse(Refusal::Busy);
        }
        self.count(&from, validated);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.half_open.insert(ticket, HalfOpen { from, validated });
        Incoming::Accept(ticket)
    }

    /// An accepted handshake came to nothing.
    pub fn failed(&mut self, ticket: Ticket) {
        self.take_half_open(ticket);
    }

    /// The handshake of an accepted connection is done and the peer is known. `protect` is set for
    /// static peers and operators' keys.
    ///
    /// Call it only for the connection that stays if two peers dialled each other, and
    /// [`Inbound::failed`] for one that doesn't.
    pub fn arrived(
        &mut self,
        ticket: Ticket,
        peer: PeerId,
        standing: Standing,
        protect: bool,
        now: Instant,
    ) -> Arrival {
        // An unknown ticket was given back already.
        let Some(HalfOpen { from, validated }) = self.take_half_open(ticket) else {
            return Arrival::Refuse(Refusal::Busy);
        };
        if let Some(refusal) = self.unwelcome(&from, &peer, standing, protect, validated, now) {
            return Arrival::Refuse(refusal);
        }
        let protected = protect || self.config.allow_peers.contains(&peer);
        let mut evict = None;
        if self.conns.len() >= self.config.connections_max && !self.conns.contains_key(&peer) {
            let candidates = self.conns.values().map(|conn| conn.candidate.clone()).collect();
            evict = evict::select(candidates, self.secret);
            if evict.is_none() && !protected {
                return Arrival::Refuse(Refusal::Full);
            }
        }
        if let Some(victim) = evict {
            self.left(&victim);
        }
        // A second connection of the same peer replaces the first in the counts.
        self.left(&peer);
        let disadvantaged = match (&from.host, from.group) {
            (_, NetGroup::TOR_INBOUND) => Some(Disadvantaged::Onion),
            (host, _) if !host.is_global() => Some(Disadvantaged::Private),
            _ => None,
        };
        let candidate = Candidate {
            peer,
            group: from.group,
            since: now,
            ping_min: None,
            last_tx: None,
            last_block: None,
            block_only: false,
            disadvantaged,
            prefer: standing.discouraged,
            protected,
        };
        self.count(&from, true);
        self.conns.insert(peer, Conn { candidate, from });
        Arrival::Welcome { evict }
    }

    /// As [`Inbound::arrived`], for a program that only asks. `id` names its connection: one key may have
    /// several. Nobody is evicted for a client.
    ///
    /// # Errors
    /// [`Refusal`]: close with its code.
    pub fn client_arrived(
        &mut self,
        ticket: Ticket,
        id: u64,
        peer: &PeerId,
        standing: Standing,
        protect: bool,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(HalfOpen { from, validated }) = self.take_half_open(ticket) else {
            return Err(Refusal::Busy);
        };
        if let Some(refusal) = self.unwelcome(&from, peer, standing, protect, validated, now) {
            return Err(refusal);
        }
        if !protect && !self.config.allow_peers.contains(peer) {
            if self.clients.len() >= self.config.clients_max {
                return Err(Refusal::Full);
            }
            let here = self.client_hosts.get(&from.host).map_or(0, |count| count.proven);
            if from.counted && !self.is_allowed(&from.host) && here >= self.config.clients_per_host_max {
                return Err(Refusal::HostFull);
            }
        }
        self.client_left(id);
        if from.counted {
            self.client_hosts.entry(from.host.clone()).or_default().proven += 1;
        }
        self.clients.insert(id, from);
        Ok(())
    }

    /// The connection is gone. Nothing happens if the peer was not let in or was evicted.
    pub fn left(&mut self, peer: &PeerId) {
        if let Some(conn) = self.conns.remove(peer) {
            self.uncount(&conn.from, true);
        }
    }

    /// A client's connection is gone. Nothing happens if it was not let in.
    pub fn client_left(&mut self, id: u64) {
        if let Some(from) = self.clients.remove(&id)
            && from.counted
        {
            decrement(&mut self.client_hosts, &from.host, true);
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

    /// Open inbound connections of nodes.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Open connections of clients.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Handshakes going on.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Entries of every map together, for tests and metrics.
    pub fn footprint(&self) -> usize {
        self.half_open.len()
            + self.conns.len()
            + self.clients.len()
            + self.hosts.len()
            + self.groups.len()
            + self.client_hosts.len()
            + self.paces.len()
    }

    /// When hosts can be forgotten that were quick; call [`Inbound::on_deadline`] then.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.paces.next_deadline()
    }

    /// Forgets hosts whose pace is full again.
    pub fn on_deadline(&mut self, now: Instant) {
        self.paces.on_deadline(now);
    }

    /// Lists, bans and limits, for whoever proved its key.
    fn unwelcome(
        &mut self,
        from: &From,
        peer: &PeerId,
        standing: Standing,
        protect: bool,
        validated: bool,
        now: Instant,
    ) -> Option<Refusal> {
        if let Some(refusal) = self.refuses_peer(peer, standing.banned, protect) {
            return Some(refusal);
        }
        let allowed = self.config.allow_peers.contains(peer);
        // A handshake that is done proves the address as well as a token does: now it counts.
        if !validated && from.counted && !self.is_allowed(&from.host) {
            let charged = self.paces.spend(&from.host, now);
            if !allowed && !protect {
                return self.full(from).or((!charged).then_some(Refusal::TooFast));
            }
        }
        None
    }

    fn is_allowed(&self, host: &Host) -> bool {
        self.config.allow_hosts.iter().any(|prefix| prefix.contains(host))
    }

    fn full(&self, from: &From) -> Option<Refusal> {
        let proven = |count: Option<&Count>| count.map_or(0, |count| count.proven);
        if proven(self.hosts.get(&from.host)) >= self.config.per_host_max {
            Some(Refusal::HostFull)
        } else if proven(self.groups.get(&from.group)) >= self.config.per_netgroup_max {
            Some(Refusal::NetgroupFull)
        } else {
            None
        }
    }

    /// What is open and what is claimed together are as many as there may be.
    fn claims_full(&self, from: &From) -> bool {
        let all = |count: Option<&Count>| count.map_or(0, |count| count.proven + count.claimed);
        all(self.hosts.get(&from.host)) >= self.config.per_host_max
            || all(self.groups.get(&from.group)) >= self.config.per_netgroup_max
    }

    fn take_half_open(&mut self, ticket: Ticket) -> Option<HalfOpen> {
        let half_open = self.half_open.remove(&ticket)?;
        self.uncount(&half_open.from, half_open.validated);
        Some(half_open)
    }

    fn count(&mut self, from: &From, proven: bool) {
        if from.counted {
            *self.hosts.entry(from.host.clone()).or_default().of(proven) += 1;
            *self.groups.entry(from.group).or_default().of(proven) += 1;
        }
    }

    fn uncount(&mut self, from: &From, proven: bool) {
        if from.counted {
            decrement(&mut self.hosts, &from.host, proven);
            decrement(&mut self.groups, &from.group, proven);
        }
    }

    /// Host as limits count it, netgroup, and whether limits apply. They do not on loopback: whoever
    /// connects from there is on this machine already.
    fn place(&self, source: &Source) -> From {
        let group = self.policy.source_group(source);
        match source {
            Source::Peer(endpoint) => {
                let host = endpoint.host();
                let exempt = host.is_loopback() || (self.policy.allow_private && !host.is_global());
                From { host: counted_host(endpoint), group, counted: !exempt }
            }
            Source::TorInbound | Source::Operator => {
                From { host: Host::Ip6(Ipv6Addr::UNSPECIFIED), group, counted: false }
            }
        }
    }
}

/// IPv6 hosts are handed out by /64: anyone has 2^64 addresses in one.
fn counted_host(endpoint: &Endpoint) -> Host {
    match endpoint.host() {
        Host::Ip6(ip) if !ip.is_loopback() => Host::Ip6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        host => host.clone(),
    }
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, Count>, key: &K, proven: bool) {
    if let Some(count) = counts.get_mut(key) {
        *count.of(proven) -= 1;
        if *count == Count::default() {
            counts.remove(key);
        }
    }
}

//! What may be configured, asked and answered about who gets in.

use std::collections::BTreeSet;

use ghost_frames::Code;
use ghost_proto::PeerId;

use crate::prefix::Prefix;

/// So many times [`InboundConfig::half_open_max`] handshakes may go on when all addresses are
/// validated: 4 × 256 × about 40 KiB = 40 MiB.
pub const HALF_OPEN_FACTOR: usize = 4;

/// Names one accepted first packet until its handshake came to something or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Inbound limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundConfig {
    /// Most inbound connections. Default 117 (with 11 outbound 128 in all), 0 to 100,000; each costs
    /// about 40 KiB.
    pub connections_max: usize,
    /// Most connections and handshakes from one host (an IPv4 address or an IPv6 /64). Default 4, at
    /// least 1. Not applied to loopback, to private addresses if `allow_private` is on, nor to the onion
    /// service.
    pub per_host_max: usize,
    /// Most connections and handshakes from one netgroup. Default 32, at least 1. Same exceptions.
    pub per_netgroup_max: usize,
    /// Handshakes at once before addresses have to be validated (a QUIC Retry, one more round trip).
    /// Default 256, 1 to 4,096. Above [`HALF_OPEN_FACTOR`] times this many nobody gets in.
    pub half_open_max: usize,
    /// Peers that are always let in and never evicted. At most 4,096.
    pub allow_peers: BTreeSet<PeerId>,
    /// Peers that are never let in.
    pub deny_peers: BTreeSet<PeerId>,
    /// Ranges whose hosts are not counted against limits.
    pub allow_hosts: Vec<Prefix>,
    /// Ranges that are refused before the handshake.
    pub deny_hosts: Vec<Prefix>,
    /// Private network: only `allow_peers` get in, and only they are dialled. Default false.
    pub only_allowed: bool,
    /// Most programs that only ask (clients). Default 64, 0 to 100,000.
    pub clients_max: usize,
    /// Of these, most from one host. Default 16, at least 1. Same exceptions as `per_host_max`.
    pub clients_per_host_max: usize,
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
            clients_max: 64,
            clients_per_host_max: 16,
        }
    }
}

/// What to do with a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Go on with the handshake. The ticket goes back with [`super::Inbound::failed`], [`super::Inbound::arrived`] or
    /// [`super::Inbound::client_arrived`].
    Accept(Ticket),
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
    /// Too many handshakes going on.
    #[error("too many handshakes are going on")]
    Busy,
    /// No room, and nobody to evict.
    #[error("every slot is taken by somebody better")]
    Full,
}

impl Refusal {
    /// The close code.
    pub const fn code(self) -> Code {
        match self {
            Self::HostDenied | Self::PeerDenied | Self::NotAllowed | Self::Banned => Code::Refused,
            Self::Discouraged
            | Self::HostFull
            | Self::NetgroupFull
            | Self::TooFast
            | Self::Busy
            | Self::Full => Code::Full,
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
            Self::Busy => "busy",
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

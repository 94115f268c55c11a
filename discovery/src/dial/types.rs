//! What the dialling policy is told, what it answers, and its numbers.

use std::{collections::BTreeSet, time::Duration};

use ghost_frames::Code;
use ghost_proto::{PeerId, PeerRecord};

use super::{Attempt, StaticPeer};
use crate::{address::Endpoint, netgroup::Source};

/// The dialling policy's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct DialConfig {
    /// Outbound connections that relay everything. Default 8, 0 to 128. Each costs about 40 KiB and its
    /// share of traffic. For a full mesh of n nodes set n.
    pub full_relay: usize,
    /// Outbound connections for blocks only: they see no transactions, so they do not give away who
    /// is next to whom. Default 2, 0 to 16.
    pub block_only: usize,
    /// Mean time between feelers, exponentially distributed. Default 2 min; 0 turns them off.
    pub feeler_every: Duration,
    /// Dials at once, static peers not counted. Default 8, at least 1.
    pub in_flight_max: usize,
    /// Least time between two dials from the book. Default 100 ms.
    pub pace: Duration,
    /// First and longest pause of a static peer. Default 250 ms and 30 s.
    pub static_pause: (Duration, Duration),
    /// First and longest pause of anybody else. Default 2 s and 1 h.
    pub pause: (Duration, Duration),
    /// An alarm sounds after so long without any outbound connection. Default 5 min.
    pub isolated_after: Duration,
    /// Private network: dial these only, and static peers.
    pub only: Option<BTreeSet<PeerId>>,
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            full_relay: 8,
            block_only: 2,
            feeler_every: Duration::from_secs(120),
            in_flight_max: 8,
            pace: Duration::from_millis(100),
            static_pause: (Duration::from_millis(250), Duration::from_secs(30)),
            pause: (Duration::from_secs(2), Duration::from_secs(3600)),
            isolated_after: Duration::from_secs(300),
            only: None,
        }
    }
}

/// What an outbound connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Configured: kept up whatever happens.
    Static,
    /// Relays everything.
    FullRelay,
    /// Relays blocks only.
    BlockOnly,
    /// Only to see whether somebody is there; dropped after hello.
    Feeler,
}

impl Kind {
    /// The name in logs, metrics and `peers list`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::FullRelay => "full_relay",
            Self::BlockOnly => "block_only",
            Self::Feeler => "feeler",
        }
    }
}

/// Names one dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// A peer to come back to after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Who.
    pub peer: PeerId,
    /// Where it was reached.
    pub endpoint: Endpoint,
    /// It was block-only.
    pub block_only: bool,
}

/// How a connection came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// We dialled.
    Outbound {
        /// Which dial.
        dial: DialId,
        /// The address that answered.
        endpoint: Endpoint,
    },
    /// It dialled us.
    Inbound {
        /// Where from.
        source: Source,
    },
}

/// Why one address of a dial came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// No answer, no route, no such name, no such onion service.
    #[error("nobody answered: {0}")]
    Unreachable(String),
    /// Another key answered.
    #[error("another key answered at its address")]
    IdentityMismatch,
    /// The handshake went through and it is of another chain.
    #[error("it is of another chain")]
    WrongGenesis,
    /// We reached ourselves.
    #[error("it is this node")]
    SelfDial,
    /// The two of us are connected already, by a connection that stays.
    #[error("it is connected already")]
    Duplicate,
    /// It answered and closed with this code, or we closed with it, before the connection was of use.
    #[error("closed with {}", .0.name())]
    Closed(Code),
}

impl DialFailure {
    /// The failure that a close code stands for.
    pub fn of_code(code: Code) -> Self {
        match code {
            Code::WrongGenesis => Self::WrongGenesis,
            Code::SelfDial => Self::SelfDial,
            Code::Duplicate => Self::Duplicate,
            code => Self::Closed(code),
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection is up: hello was exchanged and it stays.
    Connected {
        /// Who.
        peer: PeerId,
        /// How.
        link: Link,
        /// The record in its hello, verified.
        record: Option<PeerRecord>,
    },
    /// The last connection to a peer ended.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// The code it was closed with, by either side; `None` if the network took it.
        code: Option<Code>,
    },
    /// One address of a dial came to nothing. When all have, the dial is over.
    AddressFailed {
        /// Which dial.
        dial: DialId,
        /// Which of its addresses.
        endpoint: Endpoint,
        /// Why.
        why: DialFailure,
    },
    /// A peer was first to bring a block that is valid.
    BroughtBlock {
        /// Who.
        peer: PeerId,
    },
    /// No new tip for longer than the chain's slots explain.
    TipStale,
    /// The tip moves again.
    TipFresh,
    /// A peer that was challenged ([`Effect::ChallengeTip`]) showed no head as good as ours in time.
    ChallengeFailed {
        /// Who.
        peer: PeerId,
    },
    /// The book has new entries.
    Learned,
    /// Keep a connection to this peer.
    AddStatic(StaticPeer),
    /// Don't any longer. The connection itself stays until somebody drops it.
    RemoveStatic(Endpoint),
    /// These places are our own.
    OwnPlaces(Vec<Endpoint>),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Dial. Report [`Input::Connected`] once, or [`Input::AddressFailed`] for each address.
    Dial {
        /// Names the dial in reports.
        dial: DialId,
        /// What for.
        kind: Kind,
        /// Who is expected. `None`: whoever answers (a static peer configured without its PeerId).
        peer: Option<PeerId>,
        /// Where, in order.
        addresses: Vec<Attempt>,
    },
    /// Close the connection.
    Drop {
        /// Whose.
        peer: PeerId,
        /// Why; [`DropReason::code`] is the close code.
        why: DropReason,
    },
    /// Ask the peer for its head: it has to show that it is not behind, or gone astray. If it shows none as
    /// good as ours within 20 s, report [`Input::ChallengeFailed`]. All are asked when our tip goes stale,
    /// and those that brought no block since then when it moves again.
    ChallengeTip {
        /// Whom.
        peer: PeerId,
    },
    /// Tell the operator.
    Alarm(Alarm),
}

/// Why we let a connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum DropReason {
    /// It was a feeler, and somebody is there.
    #[error("it was only dialled to see whether it is there")]
    FeelerDone,
    /// There was one connection more than slots because the tip was stale, and of all outbound peers this
    /// one brought no block for longest.
    #[error("of all outbound peers it brought no block for longest while the tip was stale")]
    ExtraDone,
    /// It is behind, and did not catch up when asked.
    #[error("its head is behind ours, and it did not catch up when asked")]
    StaleTip,
    /// More outbound connections than slots.
    #[error("there are more outbound connections than slots")]
    NoSlot,
}

impl DropReason {
    /// The close code.
    pub const fn code(self) -> Code {
        match self {
            Self::FeelerDone => Code::Done,
            Self::ExtraDone | Self::StaleTip | Self::NoSlot => Code::Dropped,
        }
    }
}

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// No outbound connection for too long.
    #[error(
        "no outbound connection for {for_s} s: {failures} dials failed, {known} addresses are known. \
         Check the network and the clock, or add a peer with `ghostd peers add`"
    )]
    Isolated {
        /// How long, in seconds.
        for_s: u64,
        /// Dials that failed in that time.
        failures: u32,
        /// Addresses in the book.
        known: usize,
    },
    /// Signs that this node is cut off from the honest network.
    #[error(
        "this node may be cut off from the honest network: {reasons}. Compare its head with that of a node you \
         trust, and add peers that you know with `ghostd peers add`"
    )]
    Eclipse {
        /// What was seen.
        reasons: String,
    },
}

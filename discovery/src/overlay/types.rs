//! What the overlay is told, what it answers, and what is configured.

use std::time::Duration;

use bytes::Bytes;
use ghost_frames::Code;
use ghost_proto::{PeerId, limits::PEERS_PER_ANSWER_MAX};
use serde::Serialize;

use crate::{
    address::{Endpoint, Network},
    conduct::{Ban, Note, Offence, Story},
    dial::{Alarm, Attempt, DialConfig, DialFailure, DialId, Kind, Link, StaticPeer},
    eclipse::WatchConfig,
    exchange::{AnswersConfig, AskingConfig},
    inbound::InboundConfig,
    lookup::{Ask, Found, QueryId},
    netgroup::{AddressPolicy, Source},
    reach::{DialBack, ReachConfig},
    store::Batch,
};

/// Everything that is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct OverlayConfig {
    /// Our own PeerId.
    pub own: PeerId,
    /// Which addresses are of use.
    pub policy: AddressPolicy,
    /// Outbound.
    pub dial: DialConfig,
    /// Inbound.
    pub inbound: InboundConfig,
    /// Answering.
    pub answers: AnswersConfig,
    /// Asking.
    pub asking: AskingConfig,
    /// Agreement about where we are seen.
    pub reach: ReachConfig,
    /// When the eclipse watch speaks up.
    pub watch: WatchConfig,
    /// Peers to stay connected to.
    pub static_peers: Vec<StaticPeer>,
}

impl OverlayConfig {
    /// The defaults, for a public network.
    pub fn new(own: PeerId) -> Self {
        Self {
            own,
            policy: AddressPolicy::default(),
            dial: DialConfig::default(),
            inbound: InboundConfig::default(),
            answers: AnswersConfig::default(),
            asking: AskingConfig::default(),
            reach: ReachConfig::default(),
            watch: WatchConfig::default(),
            static_peers: Vec::new(),
        }
    }

    /// For `nodes` nodes on one machine or in one private network: private addresses are of use, everybody
    /// is asked, and a full mesh of up to 32 comes about within seconds.
    pub fn private(own: PeerId, nodes: usize) -> Self {
        let mut config = Self::new(own);
        config.policy = AddressPolicy::private();
        config.dial.full_relay = nodes.clamp(8, 32);
        config.dial.block_only = 0;
        config.reach = ReachConfig { agree_groups: 1, verdicts: 1 };
        config.watch.sources_min = 0;
        config.dial.pace = Duration::from_millis(20);
        config.dial.pause.0 = Duration::from_millis(500);
        config.answers =
            AnswersConfig { grow_every: Duration::ZERO, recent_per_answer: PEERS_PER_ANSWER_MAX };
        config.asking = AskingConfig {
            again_min: Duration::from_secs(1),
            again_max: Duration::from_secs(30),
            ask_inbound: true,
            ..AskingConfig::default()
        };
        config
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Hello was exchanged on a connection that stays.
    Connected {
        /// Who.
        peer: PeerId,
        /// How.
        link: Link,
        /// The record in its hello as received; empty if it doesn't listen.
        record: Bytes,
        /// False for programs that only ask (role client): they are neither asked nor passed on.
        is_node: bool,
    },
    /// The last connection to a peer ended, or another one took its place.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// The close code, from either side; `None` if the network took it.
        code: Option<Code>,
        /// For its story: who closed, and why.
        detail: String,
    },
    /// One address of a dial came to nothing.
    AddressFailed {
        /// Which dial.
        dial: DialId,
        /// Who was expected.
        peer: Option<PeerId>,
        /// Which address.
        endpoint: Endpoint,
        /// Why.
        why: DialFailure,
    },
    /// The answer to [`Effect::AskForPeers`]; `None` if it failed.
    Peers {
        /// From whom.
        peer: PeerId,
        /// Records as received.
        records: Option<Vec<Bytes>>,
    },
    /// A round trip was measured.
    Ping {
        /// With whom.
        peer: PeerId,
        /// How long.
        round_trip: Duration,
    },
    /// It was first to bring a transaction that is valid and pays.
    BroughtTx {
        /// Who.
        peer: PeerId,
    },
    /// It was first to bring a block that is valid.
    BroughtBlock {
        /// Who.
        peer: PeerId,
    },
    /// It did something wrong.
    Offence {
        /// Who.
        peer: PeerId,
        /// What.
        offence: Offence,
        /// Evidence, for its story: ids, lengths, codes.
        evidence: String,
        /// Our own queues or link were the likelier reason for anything slow.
        congested: bool,
    },
    /// Something worth telling that is nobody's fault.
    Note {
        /// About whom.
        peer: PeerId,
        /// What.
        note: Note,
        /// Details.
        detail: String,
    },
    /// No new tip for longer than the chain's slots explain.
    TipStale,
    /// The tip moves again.
    TipFresh,
    /// A peer that was challenged showed no head as good as ours in time.
    ChallengeFailed {
        /// Who.
        peer: PeerId,
    },
    /// Seeds were found: they go into the book as [`Overlay::add_seed`](super::Overlay::add_seed) puts
    /// them.
    Seeds(Vec<(PeerId, Endpoint)>),
    /// A peer that we dialled said in its hello where it sees us.
    Observed {
        /// Who.
        peer: PeerId,
        /// Where.
        at: Endpoint,
    },
    /// The answer to [`Effect::AskDialBack`].
    DialBack {
        /// Who was asked.
        peer: PeerId,
        /// What came of it.
        result: DialBack,
    },
    /// The answer to [`Effect::Find`].
    FindAnswered {
        /// Which lookup.
        query: QueryId,
        /// Who was asked.
        peer: PeerId,
        /// Where it sits.
        source: Source,
        /// The value and the records as received; `None` if it failed.
        answer: Option<(Option<Bytes>, Vec<Bytes>)>,
    },
    /// A peer that was reached over this network showed a head of this height.
    TipSeen {
        /// The network.
        network: Network,
        /// The height.
        height: u64,
    },
    /// These places are our own: where we listen.
    OwnPlaces(Vec<Endpoint>),
    /// The operator wants a connection to be kept.
    AddStatic(StaticPeer),
    /// The operator doesn't any longer.
    RemoveStatic(Endpoint),
    /// The operator drops a peer: it may come back, and is not dialled for a while.
    OperatorDrop(PeerId),
    /// The operator bans a peer, for good if there is no end.
    OperatorBan {
        /// Whom.
        peer: PeerId,
        /// Until when, Unix ms.
        until_unix_ms: Option<u64>,
        /// Why, for its story.
        reason: String,
    },
    /// The operator lifts a ban.
    OperatorUnban(PeerId),
    /// The batch of the last [`Effect::Persist`] is on disk, or comes back because it isn't.
    Persisted(Result<(), Batch>),
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Dial; see [`crate::dial::Effect::Dial`].
    Dial {
        /// Names the dial.
        dial: DialId,
        /// What for.
        kind: Kind,
        /// Who is expected.
        peer: Option<PeerId>,
        /// Where.
        addresses: Vec<Attempt>,
    },
    /// Close the connection to a peer, if there is one.
    Drop {
        /// Whose.
        peer: PeerId,
        /// With this code.
        code: Code,
        /// Why, for the log.
        why: String,
    },
    /// Send a `PeersRequest`; answer with [`Input::Peers`].
    AskForPeers {
        /// Whom.
        peer: PeerId,
        /// Most records wanted.
        limit: u16,
    },
    /// Ask the peer for its head; see [`crate::dial::Effect::ChallengeTip`].
    ChallengeTip {
        /// Whom.
        peer: PeerId,
    },
    /// Ask the peer to dial us back; answer with [`Input::DialBack`].
    AskDialBack {
        /// Whom.
        peer: PeerId,
    },
    /// Ask somebody for what a lookup wants, dialling it if it is not connected, within
    /// [`crate::lookup::ASK_TIME`]; answer with [`Input::FindAnswered`].
    Find {
        /// Which lookup.
        query: QueryId,
        /// Whom, and for what.
        ask: Ask,
    },
    /// A lookup that [`Overlay::find`](super::Overlay::find) began is over.
    FindDone {
        /// Which.
        query: QueryId,
        /// What it found.
        found: Box<Found>,
    },
    /// What is known of our reachability changed; see [`Overlay::reach`](super::Overlay::reach).
    ReachChanged,
    /// Tell the operator.
    Alarm(Alarm),
    /// Apply to the store, outside the loop; answer with [`Input::Persisted`].
    Persist(Batch),
}

/// Everything about one peer, for `peers explain`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// PeerId.
    pub peer: String,
    /// What our connection to it is for, "inbound", or `None` if there is none.
    pub connection: Option<&'static str>,
    /// It is configured as static.
    pub is_static: bool,
    /// Conduct score now; a ban comes at 100.
    pub score: f64,
    /// The ban in force.
    pub ban: Option<Ban>,
    /// Why it would not be let in, wherever it came from.
    pub refused_as: Option<&'static str>,
    /// Where it may be.
    pub addresses: Vec<ExplainedAddress>,
    /// What happened, oldest first.
    pub story: Option<Story>,
}

/// One address in an [`Explanation`]. Times are Unix seconds, 0 = never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedAddress {
    /// Multiaddr.
    pub address: String,
    /// "tried" or "new".
    pub table: &'static str,
    /// Who told us first.
    pub source: String,
    /// Its netgroup.
    pub netgroup: String,
    /// Last said or seen to be there.
    pub last_seen_s: u32,
    /// Last dialled.
    pub last_try_s: u32,
    /// Last reached.
    pub last_success_s: u32,
    /// Failures since.
    pub attempts: u16,
    /// It is not dialled for so many more seconds.
    pub paused_s: u64,
    /// Why nobody would be let in from there now.
    pub refused: Option<&'static str>,
}

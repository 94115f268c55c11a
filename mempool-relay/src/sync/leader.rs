//! Whose headers are followed.

use std::time::{Duration, Instant};

use ghost_proto::{Checkpoint, Header, PeerId};

use super::io::RequestId;

/// Longest wait for an answer to a headers request: 116 KB at most, so 39 KB/s.
pub const HEADERS_TIMEOUT: Duration = Duration::from_secs(3);

/// First and longest pause before a peer that failed as a leader may lead again; doubles each time.
/// Ten liars cost ten times the patience once, and then next to nothing.
pub const LEADER_BACKOFF_MIN: Duration = Duration::from_secs(5);
/// See [`LEADER_BACKOFF_MIN`].
pub const LEADER_BACKOFF_MAX: Duration = Duration::from_secs(600);

/// Silence at the window's front that is borne, beyond the time its bytes take at 64 KiB/s, while another
/// peer claims another chain. Each block that arrives gives back what it may take, no more.
pub const DEAD_END_PATIENCE: Duration = Duration::from_secs(15);

/// What the leader was last asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Nothing is under way.
    Nothing,
    /// Headers, until when.
    Asked { request: RequestId, until: Instant },
    /// Its answer is with the chain.
    Checking { request: RequestId, headers: Vec<Header> },
}

/// The peer whose headers the window follows.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) peer: PeerId,
    pub(crate) ask: Ask,
    /// Last header of its last answer: where to go on from, also when we have all of it.
    pub(crate) cursor: Option<Checkpoint>,
    /// Its last answer was not full: that is all it has.
    pub(crate) done: bool,
}

impl Leader {
    pub(crate) fn new(peer: PeerId) -> Self {
        Self { peer, ask: Ask::Nothing, cursor: None, done: false }
    }

    pub(crate) fn open_request(&self) -> Option<RequestId> {
        match self.ask {
            Ask::Asked { request, .. } => Some(request),
            Ask::Nothing | Ask::Checking { .. } => None,
        }
    }
}

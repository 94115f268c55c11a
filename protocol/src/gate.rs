//! Who gets in: the overlay asks, whoever keeps its gate decides.
//!
//! A [`Porter`] is asked twice about everyone who dials us: at the first packet, which costs nothing and
//! proves nothing; and when the peer has proven its key and said hello. About those we dial it is asked
//! once. What it let in it is told the end of, before the next one is let in, so that it can count.

use std::{fmt, sync::Arc};

use ghost_frames::Code;
use ghost_proto::PeerId;

use crate::{
    session::Session,
    transport::{Remote, quic::Verdict},
};

/// Names one who was let in at the first packet, until it is known what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What to do with a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knock {
    /// Go on. The ticket comes back once, with [`Porter::arrives`] or [`Porter::failed`].
    Enter(Ticket),
    /// Send it back for a token (QUIC Retry) that proves its address.
    ProveAddress,
    /// Nothing more is said.
    Refuse,
}

/// Why somebody does not get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The code to close with: all that the peer is told.
    pub code: Code,
    /// For our own log.
    pub reason: String,
}

/// Keeps a gate. Calls come from several tasks; none may wait for anything.
pub trait Porter: Send + Sync {
    /// A first packet came, or a stream. `validated` says that it proved its address.
    fn knocks(&self, from: Remote, validated: bool) -> Knock;

    /// Nothing came of an entry: the handshake failed, or its connection lost to another of the same peer.
    fn failed(&self, ticket: Ticket);

    /// A session is ready and would stay. `ticket` is that of a peer that dialled us. The answer may name a
    /// peer whose session ends for this one.
    ///
    /// # Errors
    /// [`Refused`]: the session is closed with its code.
    fn arrives(&self, session: &Session, ticket: Option<Ticket>) -> Result<Option<PeerId>, Refused>;

    /// A session that was let in is over. Not said of one whose place another of the same peer took.
    fn left(&self, session: &Session);
}

/// The gate of an overlay. By default it stands open to everyone.
#[derive(Clone, Default)]
pub struct Gate(Option<Arc<dyn Porter>>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Gate(kept)" } else { "Gate(open)" })
    }
}

/// One who was let in at the first packet. Dropped, it gives its ticket back.
#[derive(Debug)]
pub(crate) struct Entry {
    gate: Gate,
    ticket: Option<Ticket>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let (Some(porter), Some(ticket)) = (&self.gate.0, self.ticket.take()) {
            porter.failed(ticket);
        }
    }
}

impl Gate {
    /// A gate that is kept.
    pub fn new(porter: impl Porter + 'static) -> Self {
        Self(Some(Arc::new(porter)))
    }

    pub(crate) fn knock(&self, from: Remote, validated: bool) -> Verdict<Entry> {
        let entry = |ticket| Verdict::Accept(Entry { gate: self.clone(), ticket });
        match self.0.as_ref().map(|porter| porter.knocks(from, validated)) {
            None => entry(None),
            Some(Knock::Enter(ticket)) => entry(Some(ticket)),
            Some(Knock::ProveAddress) => Verdict::Validate,
            Some(Knock::Refuse) => Verdict::Refuse,
        }
    }

    pub(crate) fn arrives(&self, session: &Session, entry: Option<Entry>) -> Result<Option<PeerId>, Refused> {
        let ticket = entry.and_then(|mut entry| entry.ticket.take());
        self.0.as_ref().map_or(Ok(None), |porter| porter.arrives(session, ticket))
    }

    pub(crate) fn left(&self, session: &Session) {
        if let Some(porter) = &self.0 {
            porter.left(session);
        }
    }
}

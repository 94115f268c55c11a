//! Why things were closed, reset, refused or dropped: counted, by reason.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use ghost_frames::Code;

use crate::{
    class::Class,
    transport::{Closed, ClosedBy},
};

/// What happened. Names are stable: they are metric labels and status rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// We closed a connection.
    ClosedByUs(Code),
    /// The other side closed a connection. Not counted when the network failed.
    ClosedByPeer(Code),
    /// A connection ended because nothing was heard, or in a way that QUIC reports itself.
    Lost,
    /// We reset a stream or refused a request.
    ResetByUs(Code),
    /// The other side reset a stream or refused a request.
    ResetByPeer(Code),
    /// A frame was refused because the peer's queue was full; its maker was told.
    QueueRefused(Class),
    /// A queued frame was dropped for a newer one.
    QueueDropped(Class),
    /// A dial reached another key than the one named.
    IdentityMismatch,
    /// A connection attempt was sent back to prove its address.
    AddressChallenged,
    /// A connection attempt was refused before its handshake.
    RefusedBeforeHandshake,
    /// Reading paused because a peer was over its quota.
    Throttled(Class),
}

impl Event {
    /// Kind and reason, as labels.
    pub fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::ClosedByUs(code) => ("closed_by_us", code.name()),
            Self::ClosedByPeer(code) => ("closed_by_peer", code.name()),
            Self::Lost => ("lost", "network"),
            Self::ResetByUs(code) => ("reset_by_us", code.name()),
            Self::ResetByPeer(code) => ("reset_by_peer", code.name()),
            Self::QueueRefused(class) => ("queue_refused", class.name()),
            Self::QueueDropped(class) => ("queue_dropped", class.name()),
            Self::IdentityMismatch => ("dial_failed", "identity_mismatch"),
            Self::AddressChallenged => ("handshake", "address_challenged"),
            Self::RefusedBeforeHandshake => ("handshake", "refused"),
            Self::Throttled(class) => ("throttled", class.name()),
        }
    }
}

/// Frames of one class that went one way, and their bytes: with their heads, without what QUIC adds or
/// sends again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Complete frames.
    pub frames: u64,
    /// Bytes, of incomplete frames too.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Moved {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Moved {
    fn add(&self, frames: usize, bytes: usize) {
        self.frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn get(&self) -> Traffic {
        Traffic { frames: self.frames.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Counters shared by all sessions of a node. The number of events is fixed, so is the memory.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    events: Mutex<BTreeMap<Event, u64>>,
    received: [Moved; Class::ALL.len()],
    sent: [Moved; Class::ALL.len()],
}

impl Tally {
    /// Counts one more.
    pub fn count(&self, event: Event) {
        *self.events().entry(event).or_default() += 1;
    }

    /// Counts the end of a connection, unless we decided it: then it was counted where it was.
    pub(crate) fn count_closed(&self, closed: &Closed) {
        match (closed.by, closed.code) {
            (ClosedBy::Peer, code) => self.count(Event::ClosedByPeer(code.unwrap_or(Code::Internal))),
            (ClosedBy::Network, _) => self.count(Event::Lost),
            (ClosedBy::Us, _) => {}
        }
    }

    pub(crate) fn received(&self, class: Class, frames: usize, bytes: usize) {
        self.0.received[class as usize].add(frames, bytes);
    }

    pub(crate) fn sent(&self, class: Class, frames: usize, bytes: usize) {
        self.0.sent[class as usize].add(frames, bytes);
    }

    /// How often something happened.
    pub fn get(&self, event: Event) -> u64 {
        self.events().get(&event).copied().unwrap_or(0)
    }

    /// All that ever happened.
    pub fn snapshot(&self) -> Vec<(Event, u64)> {
        self.events().iter().map(|(event, count)| (*event, *count)).collect()
    }

    /// What peers and clients sent us in a class.
    pub fn traffic_in(&self, class: Class) -> Traffic {
        self.0.received[class as usize].get()
    }

    /// What we sent them in a class.
    pub fn traffic_out(&self, class: Class) -> Traffic {
        self.0.sent[class as usize].get()
    }

    fn events(&self) -> MutexGuard<'_, BTreeMap<Event, u64>> {
        self.0.events.lock().expect("no code panics while counting")
    }
}

//! Static peers: configured by the operator and kept up whatever happens.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::Code;
use ghost_proto::PeerId;
use rand_chacha::ChaCha12Rng;

use super::{DialFailure, DialId, backoff::jitter};
use crate::address::Endpoint;

/// Most static peers. Configuration beyond this is refused where it is read.
pub const STATIC_PEERS_MAX: usize = 256;

/// Pause after a static peer turned out to be on another chain. Its operator may set it up anew.
const OTHER_CHAIN_PAUSE: Duration = Duration::from_secs(600);

/// A peer to keep a connection to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPeer {
    /// Where.
    pub endpoint: Endpoint,
    /// Who. Without it whoever answers there is taken for it.
    pub peer: Option<PeerId>,
}

#[derive(Debug, Clone)]
struct State {
    peer: Option<PeerId>,
    next: Instant,
    pause: Duration,
    dial: Option<DialId>,
    up: Option<PeerId>,
    is_self: bool,
}

#[derive(Debug)]
pub(super) struct Statics {
    pause: (Duration, Duration),
    peers: BTreeMap<Endpoint, State>,
}

impl Statics {
    pub(super) fn new(pause: (Duration, Duration)) -> Self {
        Self { pause, peers: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, one: StaticPeer, now: Instant) {
        if self.peers.len() < STATIC_PEERS_MAX && !self.peers.contains_key(&one.endpoint) {
            let state = State {
                peer: one.peer,
                next: now,
                pause: self.pause.0,
                dial: None,
                up: None,
                is_self: false,
            };
            self.peers.insert(one.endpoint, state);
        }
    }

    pub(super) fn remove(&mut self, endpoint: &Endpoint) {
        self.peers.remove(endpoint);
    }

    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.peers.values().any(|state| state.peer == Some(*peer) || state.up == Some(*peer))
    }

    pub(super) fn list(&self) -> Vec<(StaticPeer, bool)> {
        let one = |(endpoint, state): (&Endpoint, &State)| {
            (StaticPeer { endpoint: endpoint.clone(), peer: state.peer }, state.is_self)
        };
        self.peers.iter().map(one).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().filter(|state| state.idle()).map(|state| state.next).min()
    }

    /// Who is to be dialled now. Tell [`Statics::dialled`] or [`Statics::up`] for each.
    pub(super) fn due(&self, now: Instant) -> Vec<StaticPeer> {
        let due = self.peers.iter().filter(|(_, state)| state.idle() && state.next <= now);
        due.map(|(endpoint, state)| StaticPeer { endpoint: endpoint.clone(), peer: state.peer }).collect()
    }

    pub(super) fn dialled(&mut self, endpoint: &Endpoint, dial: DialId) {
        if let Some(state) = self.peers.get_mut(endpoint) {
            state.dial = Some(dial);
        }
    }

    pub(super) fn connected(&mut self, dial: DialId, peer: &PeerId, now: Instant) {
        for state in self.peers.values_mut().filter(|state| state.dial == Some(dial)) {
            state.dial = None;
            state.up = Some(*peer);
            state.next = now;
        }
    }

    /// The peer is connected, whoever dialled.
    pub(super) fn up(&mut self, peer: &PeerId, now: Instant) {
        for state in self.peers.values_mut().filter(|state| state.peer == Some(*peer)) {
            state.up = Some(*peer);
            state.next = now;
        }
    }

    pub(super) fn down(
        &mut self,
        peer: &PeerId,
        lived: Duration,
        code: Option<Code>,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) {
        let (min, max) = self.pause;
        for state in self.peers.values_mut().filter(|state| state.up == Some(*peer)) {
            state.up = None;
            // A connection that ends at once is a failure; one that lived is a new beginning, unless the
            // peer has no room: many who come back at once would only push each other out.
            state.pause = match code {
                Some(Code::Full) => max,
                _ if lived >= Duration::from_secs(10) => min,
                _ => (state.pause * 2).min(max),
            };
            state.next = now + jitter(state.pause, rng).min(max);
        }
    }

    pub(super) fn failed(&mut self, dial: DialId, why: &DialFailure, rng: &mut ChaCha12Rng, now: Instant) {
        let max = self.pause.1;
        for state in self.peers.values_mut().filter(|state| state.dial == Some(dial)) {
            state.dial = None;
            state.is_self |= *why == DialFailure::SelfDial;
            let least = if *why == DialFailure::WrongGenesis { OTHER_CHAIN_PAUSE } else { Duration::ZERO };
            state.next = now + jitter(state.pause, rng).min(max).max(least);
            state.pause = (state.pause * 2).min(max);
        }
    }

    pub(super) fn is_self(&mut self, endpoint: &Endpoint) {
        if let Some(state) = self.peers.get_mut(endpoint) {
            state.is_self = true;
        }
    }
}

impl State {
    fn idle(&self) -> bool {
        self.dial.is_none() && self.up.is_none() && !self.is_self
    }
}

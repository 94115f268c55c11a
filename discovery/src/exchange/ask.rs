//! Whom to ask for peers, and when.
//!
//! Each peer that we dialled is asked once when it connects, and again, ever more rarely, while we know
//! few addresses. Peers that dialled us are not asked: an attacker could dial us from a thousand
//! places and tell us of nobody but itself. In a private network they are.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_proto::PeerId;

/// How often to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingConfig {
    /// Pause after an answer that told us something new. Default 30 s, 100 ms to 1 h. Testnets set 1 s.
    pub again_min: Duration,
    /// The pause doubles with each answer that told nothing new, up to this. Default 24 h. Testnets set
    /// 30 s.
    pub again_max: Duration,
    /// With at least so many addresses a peer is asked only once. Default 1,000.
    pub enough: usize,
    /// Ask peers that dialled us as well. Default false; set it in private networks.
    pub ask_inbound: bool,
}

impl Default for AskingConfig {
    fn default() -> Self {
        Self {
            again_min: Duration::from_secs(30),
            again_max: Duration::from_secs(24 * 3600),
            enough: 1000,
            ask_inbound: false,
        }
    }
}

/// An answer takes at most this long.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct State {
    next: Instant,
    pause: Duration,
    waiting: bool,
    asked_once: bool,
}

/// A core; see the [module documentation](self). It knows one entry per connection.
#[derive(Debug)]
pub struct Asking {
    config: AskingConfig,
    peers: BTreeMap<PeerId, State>,
}

impl Asking {
    /// Nobody to ask yet.
    pub fn new(config: AskingConfig) -> Self {
        Self { config, peers: BTreeMap::new() }
    }

    /// A connection that may be asked began. Block-only peers and feelers are not told of here: who is
    /// never asked is not seen in the network's address traffic.
    pub fn connected(&mut self, peer: PeerId, outbound: bool, now: Instant) {
        if outbound || self.config.ask_inbound {
            let state = State { next: now, pause: self.config.again_min, waiting: false, asked_once: false };
            self.peers.entry(peer).or_insert(state);
        }
    }

    /// A connection ended.
    pub fn disconnected(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// The answer came, with so many entries that were new to us. `None` if it failed.
    pub fn answered(&mut self, peer: &PeerId, new: Option<usize>, now: Instant) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.waiting = false;
            state.pause = match new {
                Some(1..) => self.config.again_min,
                Some(0) | None => (state.pause * 2).min(self.config.again_max),
            };
            state.next = now + state.pause;
        }
    }

    /// When somebody is to be asked.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().map(|state| state.next).min()
    }

    /// Whom to ask now. `known` is how many addresses the book holds.
    pub fn on_deadline(&mut self, known: usize, now: Instant) -> Vec<PeerId> {
        let enough = known >= self.config.enough;
        let mut ask = Vec::new();
        for (peer, state) in &mut self.peers {
            if state.next > now {
                continue;
            }
            if state.waiting {
                state.waiting = false;
                state.pause = (state.pause * 2).min(self.config.again_max);
                state.next = now + state.pause;
            } else if enough && state.asked_once {
                state.next = now + self.config.again_max;
            } else {
                *state = State { next: now + ANSWER_TIMEOUT, waiting: true, asked_once: true, ..*state };
                ask.push(*peer);
            }
        }
        ask
    }

    /// Peers that may be asked.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// True if there is nobody to ask.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer;

    #[test]
    fn a_peer_is_asked_at_once_and_then_ever_more_rarely() {
        let mut asking = Asking::new(AskingConfig::default());
        let start = Instant::now();
        asking.connected(peer(1), true, start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..14 {
            assert_eq!(asking.on_deadline(10, now), vec![peer(1)]);
            assert!(asking.on_deadline(10, now).is_empty(), "one question at a time");
            asking.answered(&peer(1), Some(0), now);
            let next = asking.next_deadline().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses[..3], [60, 120, 240]);
        assert_eq!(*pauses.last().unwrap(), 24 * 3600);
        // News make it worth asking again soon.
        asking.on_deadline(10, now);
        asking.answered(&peer(1), Some(3), now);
        assert_eq!(asking.next_deadline(), Some(now + Duration::from_secs(30)));
        // Not if we know enough.
        now += Duration::from_secs(30);
        assert!(asking.on_deadline(1000, now).is_empty());
        asking.disconnected(&peer(1));
        assert!(asking.is_empty() && asking.next_deadline().is_none());
    }

    #[test]
    fn who_dialled_us_is_asked_in_private_networks_only() {
        let now = Instant::now();
        let mut asking = Asking::new(AskingConfig::default());
        asking.connected(peer(1), false, now);
        assert!(asking.is_empty());
        let mut asking = Asking::new(AskingConfig { ask_inbound: true, ..Default::default() });
        asking.connected(peer(1), false, now);
        assert_eq!(asking.on_deadline(0, now), vec![peer(1)]);
    }

    #[test]
    fn a_peer_that_never_answers_is_asked_again_later() {
        let mut asking = Asking::new(AskingConfig::default());
        let now = Instant::now();
        asking.connected(peer(1), true, now);
        asking.on_deadline(0, now);
        let late = now + ANSWER_TIMEOUT;
        assert!(asking.on_deadline(0, late - Duration::from_millis(1)).is_empty());
        assert!(asking.on_deadline(0, late).is_empty());
        let next = asking.next_deadline().unwrap();
        assert_eq!(next, late + Duration::from_secs(60));
        assert_eq!(asking.on_deadline(0, next), vec![peer(1)]);
    }

    #[test]
    fn with_enough_addresses_a_peer_is_still_asked_once() {
        let mut asking = Asking::new(AskingConfig::default());
        let now = Instant::now();
        asking.connected(peer(1), true, now);
        assert_eq!(asking.on_deadline(5000, now), vec![peer(1)]);
    }
}

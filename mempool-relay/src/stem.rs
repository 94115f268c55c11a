//! Who sent it first? A stem keeps that from those who listen: Dandelion++ (Fanti et al., "Dandelion++:
//! Lightweight Cryptocurrency Networking with Formal Anonymity Guarantees", SIGMETRICS 2018,
//! arXiv:1805.11060).
//!
//! A transaction submitted with `stem` is handed from one node to one other, a few times, before somebody
//! floods it: listeners see it appear there. Until then it is in no mempool, in no answer, in no sketch; a
//! node that holds one asks for it like anybody else when it hears of it.
//!
//! # Rules
//! - Each epoch of ten minutes a node chooses two relays among the peers it dialled (an attacker can dial us
//!   as often as it likes), and gives each peer that stems through it, and itself, one of the two.
//!   Transactions of one source take one way then, so that more of them tell no more about it.
//! - In each epoch a node floods what others stem through it, with probability [`FLUFF_PROBABILITY`], or
//!   hands it on. Its own it always hands on. A stem has 1 / 0.25 = 4 hops on average.
//! - Every node that holds one waits for it to come back by flooding. If it has not by the end of an
//!   **embargo**, it floods it itself. So a peer that swallows it can delay it and not stop it.
//!
//! # The embargo
//! is exponential with a mean of 2 s, drawn anew at each node: who floods after an embargo is then no
//! likelier to be the source than the others on the stem. In a stem of k nodes and a delay of δ for each hop,
//! none fires before the stem has ended with the probability exp(−δ·k·(k−1) / 2T): at k = 4, T = 2 s and δ =
//! 55 ms (a one-way path and the check), exp(−0.165) = 0.85. The other 15 % flood early, which costs hops of
//! the stem and never the transaction. A swallowed one is flooded after 2 s / k on average when k nodes hold
//! it.
//!
//! # Bounds
//! [`HELD_MAX`] transactions and [`HELD_BYTES_MAX`] bytes, [`HELD_PER_PEER_MAX`] of them from one peer. What
//! a peer sends beyond is dropped (its own embargo brings it); what is submitted beyond is flooded at once.
//!
//! # Driver
//! Check signatures and [`crate::pool::Pool::check`] before [`Stem::received`] and [`Stem::submitted`].
//! Insert what [`Effect::Fluff`] names into the pool as if it was submitted here. Tell [`Stem::seen`] of all
//! that comes into the pool otherwise.
//!
//! # Security
//! It hides a source among the nodes of a few stems from those who watch most of the network's nodes, not
//! from one who watches the source's own links. The next nonce a node tells does not count what it stems:
//! asking for it would show whose it is. A node that stops forgets what it holds, for who floods after a
//! restart would show the same: the others on the stem flood it, or its sender submits it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ghost_proto::{PeerId, TxId, VerifiedTransaction};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The chance that a node floods what others stem through it, drawn once an epoch.
pub const FLUFF_PROBABILITY: f64 = 0.25;
/// Mean time after which a node floods what has not come back.
pub const EMBARGO_MEAN: Duration = Duration::from_secs(2);
/// Longest embargo: 1 in 3,000 would be longer.
pub const EMBARGO_MAX: Duration = Duration::from_secs(16);
/// How long relays and the choice to flood stay.
pub const EPOCH: Duration = Duration::from_secs(600);
/// Peers that stems go to in an epoch.
pub const RELAYS: usize = 2;
/// Most transactions held: 1,000 a second for two embargos.
pub const HELD_MAX: usize = 4_096;
/// Most bytes of them.
pub const HELD_BYTES_MAX: usize = 4 << 20;
/// Most of them from one peer.
pub const HELD_PER_PEER_MAX: usize = 256;

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send it in a `StemTransactions` frame. If that cannot be queued, do nothing: the embargo runs.
    Forward {
        /// To whom.
        peer: PeerId,
        /// What.
        tx: VerifiedTransaction,
    },
    /// Insert it into the pool and relay it as submitted.
    Fluff(VerifiedTransaction),
}

struct Held {
    tx: VerifiedTransaction,
    /// `None` for our own.
    from: Option<PeerId>,
    embargo: Instant,
}

/// See the [module](self). A core: deterministic for a seed and a sequence of calls.
pub struct Stem {
    rng: StdRng,
    /// True for those that we dialled.
    peers: BTreeMap<PeerId, bool>,
    /// This epoch's, in the order drawn.
    relays: Vec<PeerId>,
    /// Which of them each source stems through; `None` is us.
    routes: BTreeMap<Option<PeerId>, PeerId>,
    floods: bool,
    epoch_end: Option<Instant>,
    held: BTreeMap<TxId, Held>,
    embargoes: BTreeSet<(Instant, TxId)>,
    /// How many of them came from each peer.
    from: BTreeMap<PeerId, usize>,
    bytes: usize,
}

impl Stem {
    /// Without peers. The seed decides routes and embargoes; draw it from the system.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            peers: BTreeMap::new(),
            relays: Vec::new(),
            routes: BTreeMap::new(),
            floods: false,
            epoch_end: None,
            held: BTreeMap::new(),
            embargoes: BTreeSet::new(),
            from: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// A node that takes transactions is connected.
    pub fn peer_up(&mut self, peer: PeerId, outbound: bool) {
        self.peers.insert(peer, outbound);
    }

    /// It is gone. Who stemmed through it gets another relay with its next transaction.
    pub fn peer_down(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        self.relays.retain(|relay| relay != peer);
        self.routes.retain(|from, relay| relay != peer && from.as_ref() != Some(peer));
    }

    /// Submitted here with `stem`.
    pub fn submitted(&mut self, tx: VerifiedTransaction, now: Instant) -> Vec<Effect> {
        if self.held.contains_key(&tx.id()) {
            return Vec::new();
        }
        self.turn_epoch(now);
        match self.route(None) {
            Some(relay) if self.hold(tx.clone(), None, now) => vec![Effect::Forward { peer: relay, tx }],
            // Nobody to hand it to may change before the embargo ends; nothing is gained by flooding alone.
            None if self.hold(tx.clone(), None, now) => Vec::new(),
            _ => vec![Effect::Fluff(tx)],
        }
    }

    /// A peer stems it through us.
    pub fn received(&mut self, from: PeerId, tx: VerifiedTransaction, now: Instant) -> Vec<Effect> {
        // One that comes again is held already, and its embargo runs: a stem that has met itself.
        if !self.peers.contains_key(&from) || self.held.contains_key(&tx.id()) {
            return Vec::new();
        }
        self.turn_epoch(now);
        if self.floods {
            return vec![Effect::Fluff(tx)];
        }
        let theirs = self.from.get(&from).copied().unwrap_or(0);
        if theirs >= HELD_PER_PEER_MAX || !self.hold(tx.clone(), Some(from), now) {
            return Vec::new();
        }
        let relay = self.route(Some(from));
        relay.map(|peer| Effect::Forward { peer, tx }).into_iter().collect()
    }

    /// It is in the pool, or in a block: flooded by somebody.
    pub fn seen(&mut self, id: &TxId) {
        self.release(id);
    }

    /// True if it is held here and not flooded.
    pub fn holds(&self, id: &TxId) -> bool {
        self.held.contains_key(id)
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True if none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When the next embargo ends.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.embargoes.first().map(|(at, _)| *at)
    }

    /// Floods what has not come back.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((at, id)) = self.embargoes.first().copied() {
            if at > now {
                break;
            }
            effects.extend(self.release(&id).map(Effect::Fluff));
        }
        effects
    }

    fn hold(&mut self, tx: VerifiedTransaction, from: Option<PeerId>, now: Instant) -> bool {
        let bytes = tx.bytes().len();
        if self.held.len() >= HELD_MAX || self.bytes + bytes > HELD_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        if let Some(peer) = from {
            *self.from.entry(peer).or_default() += 1;
        }
        // By inversion; the argument is never 0.
        let draw = -(1.0 - self.rng.random::<f64>()).ln();
        let embargo = now + EMBARGO_MEAN.mul_f64(draw).min(EMBARGO_MAX);
        self.embargoes.insert((embargo, tx.id()));
        self.held.insert(tx.id(), Held { tx, from, embargo });
        true
    }

    fn release(&mut self, id: &TxId) -> Option<VerifiedTransaction> {
        let held = self.held.remove(id)?;
        self.embargoes.remove(&(held.embargo, *id));
        self.bytes -= held.tx.bytes().len();
        if let Some(peer) = held.from
            && let Some(count) = self.from.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                self.from.remove(&peer);
            }
        }
        Some(held.tx)
    }

    fn turn_epoch(&mut self, now: Instant) {
        if self.epoch_end.is_none_or(|end| end <= now) {
            self.epoch_end = Some(now + EPOCH);
            self.relays.clear();
            self.routes.clear();
            self.floods = self.rng.random::<f64>() < FLUFF_PROBABILITY;
        }
    }

    /// The relay of a source in this epoch.
    fn route(&mut self, from: Option<PeerId>) -> Option<PeerId> {
        if let Some(relay) = self.routes.get(&from) {
            return Some(*relay);
        }
        while self.relays.len() < RELAYS {
            let dialled = |(peer, outbound): (&PeerId, &bool)| outbound.then_some(*peer);
            let mut able: Vec<PeerId> = self.peers.iter().filter_map(dialled).collect();
            if able.is_empty() {
                // Who dials nobody has only those that came to it.
                able = self.peers.keys().copied().collect();
            }
            able.retain(|peer| !self.relays.contains(peer));
            if able.is_empty() {
                break;
            }
            self.relays.push(able[self.rng.random_range(0..able.len())]);
        }
        // Not back to where it comes from.
        let able: Vec<PeerId> =
            self.relays.iter().filter(|relay| from.as_ref() != Some(relay)).copied().collect();
        if able.is_empty() {
            return None;
        }
        let relay = able[self.rng.random_range(0..able.len())];
        self.routes.insert(from, relay);
        Some(relay)
    }
}

#[cfg(test)]
mod tests {
    use ghost_proto::{Action, Address, KeyPair, Transaction, record};

    use super::*;

    fn peer(n: u8) -> PeerId {
        record::peer_of(&KeyPair::from_seed(&[n + 1; 32]).public()).unwrap()
    }

    fn tx(nonce: u64) -> VerifiedTransaction {
        sized(nonce, 0)
    }

    fn sized(nonce: u64, payload: usize) -> VerifiedTransaction {
        let key = KeyPair::from_seed(&[99; 32]);
        let action = Action::Transfer { to: Address([1; 20]), value: 1, payload: vec![0; payload].into() };
        let gas_limit = 21_000;
        Transaction { chain_id: 7, sender_key: key.public(), nonce, gas_limit, gas_price: 1, action }
            .sign(&key)
            .unwrap()
    }

    fn stem(seed: u8, outbound: u8, inbound: u8) -> Stem {
        let mut stem = Stem::new([seed; 32]);
        (0..outbound).for_each(|n| stem.peer_up(peer(n), true));
        (outbound..outbound + inbound).for_each(|n| stem.peer_up(peer(n), false));
        stem
    }

    /// One that hands on in its first epoch.
    fn handing_on(outbound: u8, inbound: u8) -> Stem {
        let now = Instant::now();
        let hands_on = |seed: &u8| {
            let mut stem = stem(*seed, outbound, inbound);
            stem.turn_epoch(now);
            !stem.floods
        };
        stem((0..=255).find(hands_on).unwrap(), outbound, inbound)
    }

    fn forwarded(effects: &[Effect]) -> Option<PeerId> {
        match effects {
            [Effect::Forward { peer, .. }] => Some(*peer),
            _ => None,
        }
    }

    #[test]
    fn all_of_one_source_take_one_way_and_only_to_whom_we_dialled() {
        let now = Instant::now();
        let mut stem = handing_on(8, 8);
        let own = forwarded(&stem.submitted(tx(0), now)).unwrap();
        let mut ways = BTreeSet::from([own]);
        for n in 1..20 {
            assert_eq!(forwarded(&stem.submitted(tx(n), now)), Some(own));
        }
        for source in 0..16u8 {
            let first = forwarded(&stem.received(peer(source), tx(100 + u64::from(source)), now)).unwrap();
            let second = forwarded(&stem.received(peer(source), tx(200 + u64::from(source)), now)).unwrap();
            assert_eq!(first, second);
            assert_ne!(first, peer(source), "not back");
            ways.insert(first);
        }
        assert_eq!(ways.len(), RELAYS);
        assert!(ways.iter().all(|way| (0..8).any(|n| peer(n) == *way)), "dialled");
    }

    #[test]
    fn a_quarter_of_epochs_floods_and_never_its_own() {
        let mut now = Instant::now();
        let mut stem = stem(1, 4, 1);
        let (mut floods, mut ways) = (0, BTreeSet::new());
        const EPOCHS: u64 = 2_000;
        for n in 0..EPOCHS {
            let effects = stem.received(peer(4), tx(2 * n), now);
            floods += u64::from(matches!(effects[..], [Effect::Fluff(_)]));
            ways.extend(forwarded(&stem.submitted(tx(2 * n + 1), now)));
            assert_eq!(
                stem.on_deadline(now + EMBARGO_MAX).len(),
                stem.len().max(1 + usize::from(forwarded(&effects).is_some()))
            );
            now += EPOCH;
        }
        assert!((430..=570).contains(&floods), "{floods} of {EPOCHS}");
        assert_eq!(ways.len(), 4, "each epoch anew");
        // A millisecond before its end it is still the same one.
        let first = forwarded(&stem.submitted(tx(1 << 20), now));
        let ways: BTreeSet<_> = (1..50)
            .map(|n| forwarded(&stem.submitted(tx((1 << 20) + n), now + EPOCH - Duration::from_millis(1))))
            .collect();
        assert_eq!(ways, BTreeSet::from([first]));
    }

    #[test]
    fn scenario_24_stem_peers_swallow_it_and_the_embargo_floods_it() {
        let start = Instant::now();
        let mut stem = handing_on(2, 0);
        let mut total = Duration::ZERO;
        let mut longest = Duration::ZERO;
        const COUNT: u64 = 2_000;
        for n in 0..COUNT {
            assert!(forwarded(&stem.submitted(tx(n), start)).is_some());
            let at = stem.next_deadline().unwrap();
            assert_eq!(stem.on_deadline(at - Duration::from_nanos(1)), []);
            assert_eq!(stem.on_deadline(at), [Effect::Fluff(tx(n))]);
            assert!(stem.is_empty() && stem.next_deadline().is_none());
            total += at - start;
            longest = longest.max(at - start);
        }
        let mean = total.as_secs_f64() / COUNT as f64;
        // Three standard deviations of a mean of 2,000.
        assert!((1.86..=2.14).contains(&mean), "{mean}");
        assert!(longest > Duration::from_secs(8) && longest <= EMBARGO_MAX, "{longest:?}");
    }

    #[test]
    fn what_comes_back_flooded_is_not_flooded_again() {
        let now = Instant::now();
        let mut stem = handing_on(2, 1);
        stem.submitted(tx(1), now);
        stem.received(peer(2), tx(2), now);
        assert!(stem.holds(&tx(1).id()) && stem.holds(&tx(2).id()));
        stem.seen(&tx(1).id());
        stem.seen(&tx(3).id());
        assert_eq!(stem.on_deadline(now + EMBARGO_MAX), [Effect::Fluff(tx(2))]);
        assert_eq!((stem.len(), stem.bytes, stem.from.len()), (0, 0, 0));
    }

    #[test]
    fn a_stem_that_meets_itself_or_nobody_waits_for_the_embargo() {
        let now = Instant::now();
        let mut stem = handing_on(2, 1);
        stem.submitted(tx(1), now);
        assert_eq!(stem.received(peer(0), tx(1), now), []);
        assert_eq!(stem.submitted(tx(1), now), []);
        assert_eq!(stem.len(), 1);
        let mut alone = Stem::new([1; 32]);
        assert_eq!(alone.submitted(tx(1), now), []);
        assert_eq!(alone.received(peer(0), tx(2), now), [], "no peer of ours");
        assert_eq!(alone.on_deadline(now + EMBARGO_MAX), [Effect::Fluff(tx(1))]);
    }

    #[test]
    fn another_relay_takes_the_place_of_one_that_is_gone() {
        let now = Instant::now();
        let mut stem = handing_on(3, 0);
        let first = forwarded(&stem.submitted(tx(1), now)).unwrap();
        stem.peer_down(&first);
        let second = forwarded(&stem.submitted(tx(2), now)).unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn what_is_held_is_bounded_from_both_sides() {
        let now = Instant::now();
        let mut stem = handing_on(2, 20);
        for n in 0..HELD_PER_PEER_MAX as u64 {
            assert!(forwarded(&stem.received(peer(2), tx(n), now)).is_some());
        }
        assert_eq!(stem.received(peer(2), tx(9_999), now), []);
        for n in HELD_PER_PEER_MAX as u64..HELD_MAX as u64 {
            let from = peer(2 + (n as usize / HELD_PER_PEER_MAX) as u8);
            assert!(forwarded(&stem.received(from, tx(n), now)).is_some(), "{n}");
        }
        assert_eq!(stem.len(), HELD_MAX);
        assert_eq!(stem.received(peer(21), tx(10_000), now), []);
        assert_eq!(stem.submitted(tx(10_001), now), [Effect::Fluff(tx(10_001))], "not lost");
        assert_eq!(stem.on_deadline(now + EMBARGO_MAX).len(), HELD_MAX);
        assert_eq!((stem.len(), stem.bytes, stem.next_deadline()), (0, 0, None));
        // And by bytes.
        let large = |n| sized(n, 100_000);
        let fit = HELD_BYTES_MAX / large(0).bytes().len();
        for n in 0..fit as u64 {
            assert!(forwarded(&stem.submitted(large(n), now)).is_some());
        }
        assert!(matches!(stem.submitted(large(999), now)[..], [Effect::Fluff(_)]));
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let start = Instant::now();
        let run = || {
            let mut stem = stem(7, 6, 6);
            let mut all = Vec::new();
            for n in 0..200u64 {
                let now = start + Duration::from_secs(n);
                all.extend(stem.received(peer((n % 12) as u8), tx(2 * n), now));
                all.extend(stem.submitted(tx(2 * n + 1), now));
                all.extend(stem.on_deadline(now));
            }
            all
        };
        assert_eq!(run(), run());
    }
}

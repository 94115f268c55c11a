//! Answers to "whom do you know?".
//!
//! An answer holds at most [`PEERS_PER_ANSWER_MAX`] records of peers that a handshake proved, and is the
//! same for at least a day for everyone of its class, as in Bitcoin Core: asking a thousand times, or from a
//! thousand identities, shows no more than asking once. A class is (clearnet or Tor, one of
//! [`CLASSES_PER_NETWORK`] that a keyed hash of the asker's netgroup picks), so that the whole world
//! together sees at most 16 × 32 = 512 of our peers a day by each network.
//!
//! While an answer is not full it may grow as we meet peers, but nothing in it changes or goes: a
//! young network meshes in seconds, and there still is one answer a day.
//!
//! # Security
//! Answers over Tor hold peers reached over Tor, answers on clearnet all others, and a peer reached
//! both ways is in one of them only: comparing the two answers does not show that one node gave
//! both.
//!
//! # Memory
//! 2 × 16 answers × 32 records × 2,048 bytes = 2 MiB and 512 recent records = 1 MiB, at worst.

use std::{
    collections::BTreeMap,
    hash::Hasher,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_proto::{PeerId, limits::PEERS_PER_ANSWER_MAX};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;
use siphasher::sip::SipHasher24;

use crate::{
    address::Network,
    book::AddressBook,
    netgroup::{NetGroup, Source},
};

/// Classes of askers on each of clearnet and Tor.
pub const CLASSES_PER_NETWORK: u64 = 16;
/// An answer lives for a day, and up to a quarter of a day longer by lot.
pub const ANSWER_LIVES: Duration = Duration::from_secs(24 * 3600);
/// Records of peers that dialled us, kept to be passed on.
pub const RECENT_MAX: usize = 512;
/// Of these, most from one netgroup.
pub const RECENT_PER_NETGROUP: usize = 4;
/// They are passed on for so long after they were last seen: 3 hours.
pub const RECENT_LIVES: Duration = Duration::from_secs(3 * 3600);
/// Answers that one connection gets at once.
pub const ASKS_BURST: u32 = 8;
/// One more answer every so often.
pub const ASK_EVERY: Duration = Duration::from_secs(30);
/// Refusals to one connection after which it counts as flooding.
pub const REFUSALS_UNTIL_FLOODING: u32 = 256;
/// Connections with a pace of their own; more share one.
pub const ASKERS_MAX: usize = 2048;

/// How answers are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswersConfig {
    /// A short answer grows at most this often. Default 10 s, 0 s to 1 h. Testnets set 0.
    pub grow_every: Duration,
    /// Most records in one answer of peers that only dialled us. Default 16, at most 32: we know that
    /// they are, not that they can be reached. Testnets set 32.
    pub recent_per_answer: usize,
}

impl Default for AnswersConfig {
    fn default() -> Self {
        Self { grow_every: Duration::from_secs(10), recent_per_answer: PEERS_PER_ANSWER_MAX / 2 }
    }
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These records; possibly none.
    Records(Vec<Bytes>),
    /// Too soon: reset with `Busy`.
    Busy,
    /// Too soon, again and again: reset with `Busy` and tell the ledger of flooding.
    Flooding,
}

#[derive(Debug)]
struct Cached {
    records: Vec<(PeerId, Bytes)>,
    recent: usize,
    until: Instant,
    grown: Instant,
}

#[derive(Debug)]
struct Recent {
    record: Bytes,
    group: NetGroup,
    onion: bool,
    seen: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    left: u32,
    filled: Instant,
    refused: u32,
}

/// See the [module documentation](self). A core.
#[derive(Debug)]
pub struct Answers {
    config: AnswersConfig,
    secret: [u8; 16],
    rng: ChaCha12Rng,
    cached: BTreeMap<(bool, u64), Cached>,
    recent: BTreeMap<PeerId, Recent>,
    askers: BTreeMap<PeerId, Pace>,
    shared: Option<Pace>,
}

impl Answers {
    /// `seed` makes the choices; draw it at each start.
    pub fn new(config: AnswersConfig, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        Self {
            config,
            secret: rng.random(),
            rng,
            cached: BTreeMap::new(),
            recent: BTreeMap::new(),
            askers: BTreeMap::new(),
            shared: None,
        }
    }

    /// A peer dialled us, its handshake proved its key, and one of the addresses in its record has
    /// the host it came from. It may be passed on for a while.
    pub fn met(&mut self, peer: PeerId, record: Bytes, group: NetGroup, onion: bool, now: Instant) {
        if !self.recent.contains_key(&peer) {
            let same_group = |recent: &Recent| recent.group == group;
            if self.recent.values().filter(|recent| same_group(recent)).count() >= RECENT_PER_NETGROUP {
                self.forget_oldest(same_group);
            } else if self.recent.len() >= RECENT_MAX {
                self.forget_oldest(|_| true);
            }
        }
        self.recent.insert(peer, Recent { record, group, onion, seen: now });
    }

    /// A connection ended.
    pub fn disconnected(&mut self, peer: &PeerId) {
        self.askers.remove(peer);
    }

    /// The peer is of no use (banned, another chain): it is in no answer any more.
    pub fn forget(&mut self, peer: &PeerId) {
        self.recent.remove(peer);
        for cached in self.cached.values_mut() {
            cached.records.retain(|(one, _)| one != peer);
        }
    }

    /// Answers one request for at most `limit` records.
    pub fn answer(
        &mut self,
        asker: &PeerId,
        source: &Source,
        limit: usize,
        book: &AddressBook,
        now: Instant,
    ) -> Answer {
        if let Some(refusal) = self.charge(asker, now) {
            return refusal;
        }
        let onion = matches!(source, Source::TorInbound)
            || matches!(source, Source::Peer(place) if place.network() == Network::Onion);
        let class = (onion, self.class(book.policy().source_group(source)));
        self.refresh(class, book, now);
        let limit = limit.min(PEERS_PER_ANSWER_MAX);
        Answer::Records(
            self.cached[&class].records.iter().take(limit).map(|(_, record)| record.clone()).collect(),
        )
    }

    /// Connections and cached answers and recent records, for tests and metrics.
    pub fn footprint(&self) -> (usize, usize, usize) {
        (self.askers.len(), self.cached.len(), self.recent.len())
    }

    fn class(&self, group: NetGroup) -> u64 {
        self.hash(b'c', group.as_bytes()) % CLASSES_PER_NETWORK
    }

    fn hash(&self, domain: u8, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&[domain]);
        hasher.write(bytes);
        hasher.finish()
    }

    fn refresh(&mut self, class: (bool, u64), book: &AddressBook, now: Instant) {
        let onion = class.0;
        let mut cached = match self.cached.remove(&class) {
            Some(cached) if now < cached.until => cached,
            _ => {
                let extra = ANSWER_LIVES.as_secs() / 4;
                let lives = ANSWER_LIVES + Duration::from_secs(self.rng.random_range(0..extra));
                Cached { records: Vec::new(), recent: 0, until: now + lives, grown: now }
            }
        };
        let full = cached.records.len() >= PEERS_PER_ANSWER_MAX;
        let fresh = cached.grown == now;
        if !full && (fresh || now.saturating_duration_since(cached.grown) >= self.config.grow_every) {
            cached.grown = now;
            self.grow(&mut cached, onion, book, now);
        }
        self.cached.insert(class, cached);
    }

    fn grow(&mut self, cached: &mut Cached, onion: bool, book: &AddressBook, now: Instant) {
        let room = PEERS_PER_ANSWER_MAX - cached.records.len();
        let known = |records: &[(PeerId, Bytes)], peer: &PeerId| records.iter().any(|(one, _)| one == peer);
        let mut rng = self.rng.clone();
        let tried = book.sample_records(
            room,
            |peer, place| {
                let here = place.network() == Network::Onion;
                let places = book.places(peer);
                let both_ways = places.iter().any(|one| (one.network() == Network::Onion) != here);
                let side = if both_ways { self.hash(b's', &peer.to_bytes()) & 1 == 1 } else { here };
                side == onion && !known(&cached.records, peer)
            },
            &mut rng,
        );
        cached.records.extend(tried);

        self.recent.retain(|_, recent| now.saturating_duration_since(recent.seen) < RECENT_LIVES);
        let mut met: Vec<(PeerId, Bytes)> = self
            .recent
            .iter()
            .filter(|(peer, recent)| recent.onion == onion && !known(&cached.records, peer))
            .map(|(peer, recent)| (*peer, recent.record.clone()))
            .collect();
        met.shuffle(&mut rng);
        let room = PEERS_PER_ANSWER_MAX - cached.records.len();
        met.truncate(room.min(self.config.recent_per_answer.saturating_sub(cached.recent)));
        cached.recent += met.len();
        cached.records.extend(met);
        self.rng = rng;
    }

    fn charge(&mut self, asker: &PeerId, now: Instant) -> Option<Answer> {
        let fresh = || Pace { left: ASKS_BURST, filled: now, refused: 0 };
        let pace = if self.askers.len() < ASKERS_MAX || self.askers.contains_key(asker) {
            self.askers.entry(*asker).or_insert_with(fresh)
        } else {
            self.shared.get_or_insert_with(fresh)
        };
        let gained = now.saturating_duration_since(pace.filled).as_secs() / ASK_EVERY.as_secs();
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            pace.left = pace.left.saturating_add(gained).min(ASKS_BURST);
            pace.filled = if gained > ASKS_BURST { now } else { pace.filled + ASK_EVERY * gained };
        }
        if pace.left > 0 {
            pace.left -= 1;
            return None;
        }
        pace.refused = pace.refused.saturating_add(1);
        if pace.refused.is_multiple_of(REFUSALS_UNTIL_FLOODING) && self.askers.contains_key(asker) {
            return Some(Answer::Flooding);
        }
        Some(Answer::Busy)
    }

    fn forget_oldest(&mut self, which: impl Fn(&Recent) -> bool) {
        let oldest = self
            .recent
            .iter()
            .filter(|(_, recent)| which(recent))
            .min_by_key(|(peer, recent)| (recent.seen, **peer))
            .map(|(peer, _)| *peer);
        if let Some(peer) = oldest {
            self.recent.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ghost_proto::PeerRecord;

    use super::*;
    use crate::{
        address::Endpoint,
        book::Claim,
        netgroup::AddressPolicy,
        testing::{NOW_MS, key, peer, place, record_at, rng},
    };

    fn onion_place(n: u32) -> Endpoint {
        let mut bytes = [9; 35];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        crate::address::parse(&multiaddr::Protocol::Onion3((bytes, 1).into()).into()).unwrap().0
    }

    fn try_at(book: &mut AddressBook, n: u32, at: &Endpoint) {
        let claim = Claim {
            peer: key(n).public(),
            endpoint: at.clone(),
            seen_unix_s: NOW_MS / 1000,
            source: NetGroup([b'x', n as u8, (n >> 8) as u8, 0, 0, 0, 0, 0]),
            first_hand: true,
        };
        book.add(&claim, &mut rng(u64::from(n)), NOW_MS);
        book.good(&peer(n), at, Some(&record_at(n, at, 1)), NOW_MS);
    }

    /// `clear` peers tried at clearnet places, `onion` at onion places, 10 at both.
    fn book(clear: u32, onion: u32) -> AddressBook {
        let networks = [Network::Ip4, Network::Ip6, Network::Onion].into();
        let mut book = AddressBook::new([1; 16], AddressPolicy { networks, ..Default::default() });
        for n in 0..clear {
            try_at(&mut book, n, &place(n as u16, 1));
        }
        for n in clear - 10..clear + onion {
            try_at(&mut book, n, &onion_place(n));
        }
        book
    }

    fn from(group: u16) -> Source {
        Source::Peer(place(group, 77))
    }

    fn records(answer: Answer) -> Vec<Bytes> {
        match answer {
            Answer::Records(records) => records,
            other => panic!("{other:?}"),
        }
    }

    fn peers(records: &[Bytes]) -> BTreeSet<PeerId> {
        records.iter().map(|bytes| PeerRecord::verify(bytes.clone()).unwrap().peer()).collect()
    }

    #[test]
    fn scenario_17_a_thousand_requests_show_one_answer_for_a_day_and_another_on_tor() {
        let book = book(300, 60);
        let mut answers = Answers::new(AnswersConfig::default(), [3; 32]);
        let start = Instant::now();
        let first = records(answers.answer(&peer(9000), &from(1), 32, &book, start));
        assert_eq!(first.len(), PEERS_PER_ANSWER_MAX);
        // 1,000 times over the day, under 1,000 identities.
        for n in 0..1000 {
            let now = start + Duration::from_secs(86 * u64::from(n));
            let again = records(answers.answer(&peer(9000 + n), &from(1), 32, &book, now));
            assert_eq!(again, first);
            answers.disconnected(&peer(9000 + n));
        }
        // 1,000 times at once: the burst, then busy; nothing new in any.
        let now = start + Duration::from_secs(80_000);
        let mut answered = 0;
        for _ in 0..1000 {
            match answers.answer(&peer(1), &from(1), 32, &book, now) {
                Answer::Records(records) => {
                    assert_eq!(records, first);
                    answered += 1;
                }
                Answer::Busy | Answer::Flooding => {}
            }
        }
        assert_eq!(answered, ASKS_BURST);
        // Tor: fixed as well, and with no peer in common.
        let tor = records(answers.answer(&peer(2), &Source::TorInbound, 32, &book, start));
        assert_eq!(tor.len(), PEERS_PER_ANSWER_MAX);
        assert_eq!(records(answers.answer(&peer(3), &Source::TorInbound, 32, &book, now)), tor);
        let mut clear_seen = BTreeSet::new();
        for group in 0..2000 {
            clear_seen.extend(peers(&records(answers.answer(&peer(5), &from(group), 32, &book, now))));
            answers.disconnected(&peer(5));
        }
        assert!(clear_seen.is_disjoint(&peers(&tor)), "the answers can't be linked");
        // All the netgroups of the world together see no more than the classes hold.
        assert!(clear_seen.len() <= 512);
        assert_eq!(answers.footprint().1, 17);
        // The next day brings another.
        let tomorrow = start + ANSWER_LIVES + ANSWER_LIVES / 4;
        assert_ne!(records(answers.answer(&peer(4), &from(1), 32, &book, tomorrow)), first);
    }

    #[test]
    fn a_short_answer_grows_and_never_loses_or_changes_anything() {
        let empty = AddressBook::new([1; 16], AddressPolicy::default());
        let mut answers = Answers::new(AnswersConfig::default(), [3; 32]);
        let start = Instant::now();
        assert!(records(answers.answer(&peer(1), &from(1), 32, &empty, start)).is_empty());
        let book = book(20, 0);
        // Not before its time, and then.
        let soon = start + AnswersConfig::default().grow_every;
        let early = soon - Duration::from_millis(1);
        assert!(records(answers.answer(&peer(1), &from(1), 32, &book, early)).is_empty());
        let grown = records(answers.answer(&peer(1), &from(1), 32, &book, soon));
        assert!(grown.len() >= 10, "{}", grown.len());
        for n in 0..40u16 {
            let at = place(5000 + n, 1);
            let record = record_at(500 + u32::from(n), &at, 1).bytes().clone();
            answers.met(peer(500 + u32::from(n)), record, book.policy().group(&at), false, soon);
        }
        let later = soon + Duration::from_secs(60);
        let full = records(answers.answer(&peer(1), &from(1), 32, &book, later));
        assert_eq!(full.len(), (grown.len() + 16).min(32), "at most half are peers that only dialled us");
        assert_eq!(full[..grown.len()], grown[..]);
        assert_eq!(records(answers.answer(&peer(1), &from(1), 5, &book, later)), full[..5]);
    }

    #[test]
    fn recent_records_are_bounded_in_all_and_per_netgroup() {
        let policy = AddressPolicy::default();
        let mut answers = Answers::new(AnswersConfig::default(), [3; 32]);
        let now = Instant::now();
        for n in 0..100u16 {
            let at = place(7, n);
            answers.met(peer(u32::from(n)), Bytes::from_static(b"r"), policy.group(&at), false, now);
        }
        assert_eq!(answers.footprint().2, RECENT_PER_NETGROUP);
        for n in 0..1000u16 {
            let at = place(100 + n, 1);
            answers.met(peer(1000 + u32::from(n)), Bytes::from_static(b"r"), policy.group(&at), false, now);
        }
        assert_eq!(answers.footprint().2, RECENT_MAX);
    }

    #[test]
    fn a_forgotten_peer_is_in_no_answer() {
        let book = book(40, 0);
        let mut answers = Answers::new(AnswersConfig::default(), [3; 32]);
        let now = Instant::now();
        let first = records(answers.answer(&peer(1), &from(1), 32, &book, now));
        let gone = PeerRecord::verify(first[3].clone()).unwrap().peer();
        answers.forget(&gone);
        assert!(!peers(&records(answers.answer(&peer(1), &from(1), 32, &book, now))).contains(&gone));
    }

    #[test]
    fn asking_on_and_on_is_flooding() {
        let book = book(10, 0);
        let mut answers = Answers::new(AnswersConfig::default(), [3; 32]);
        let now = Instant::now();
        let got: Vec<Answer> = (0..ASKS_BURST + 2 * REFUSALS_UNTIL_FLOODING)
            .map(|_| answers.answer(&peer(1), &from(1), 32, &book, now))
            .collect();
        assert_eq!(got.iter().filter(|answer| **answer == Answer::Flooding).count(), 2);
        let first = got.iter().position(|answer| *answer == Answer::Flooding).unwrap();
        assert_eq!(first as u32, ASKS_BURST + REFUSALS_UNTIL_FLOODING - 1);
        answers.disconnected(&peer(1));
        assert_eq!(answers.footprint().0, 0);
    }
}

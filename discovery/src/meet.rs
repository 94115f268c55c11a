//! Bringing two peers together that cannot dial each other, and passing their packets on where nothing else helps.
//!
//! A core, at the peer that both are connected to. What it spends on others is bounded in every direction: how often
//! a peer may ask, how many circuits there are, for how long, for how many bytes.
//!
//! # Security
//! Nobody is made to send to a third party: each of the two is told the address at which the *other's connection* is
//! seen here, and it is asked first. What travels through a circuit is a QUIC connection between the two: whoever
//! passes it on can read nothing of it and change nothing, only see how much, and drop it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::meet::How;
use ghost_proto::PeerId;

/// What passing on may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeetConfig {
    /// Circuits at once. Default 8, 0 to 256; 0 passes on nothing.
    pub circuits_max: usize,
    /// Of these, most of which one peer is an end. Default 2.
    pub circuits_per_peer_max: usize,
    /// A circuit ends after so long. Default 10 min: time to find a better way.
    pub circuit_lives: Duration,
    /// A circuit ends after so many bytes, both ways together. Default 64 MiB: with 8 circuits at once and
    /// 10 min for each at most 0.9 MiB a second in and as much out, on average.
    pub circuit_bytes_max: u64,
}

impl Default for MeetConfig {
    fn default() -> Self {
        Self {
            circuits_max: 8,
            circuits_per_peer_max: 2,
            circuit_lives: Duration::from_secs(600),
            circuit_bytes_max: 64 << 20,
        }
    }
}

/// A circuit on which nothing passes for so long ends: its two ends keep theirs alive more often.
pub const CIRCUIT_IDLE: Duration = Duration::from_secs(60);
/// Meetings that one peer may ask for, or be asked for by one common peer, at once.
pub const MEETINGS_BURST: u32 = 8;
/// One more every so often.
pub const MEETING_EVERY: Duration = Duration::from_secs(5);
/// Peers with a pace of their own; more are told to come back: 2,048 × 64 bytes.
pub const PACES_MAX: usize = 2048;

/// What to do about somebody who wants to meet somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Offer it to the other; the number names the circuit, 0 for a punch.
    Offer(u64),
    /// Not now.
    Busy,
}

#[derive(Debug)]
struct Circuit {
    ends: [PeerId; 2],
    until: Instant,
    last: Instant,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    left: u32,
    filled: Instant,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Meetings {
    config: MeetConfig,
    paces: BTreeMap<PeerId, Pace>,
    circuits: BTreeMap<u64, Circuit>,
    next: u64,
    passed_bytes: u64,
}

impl Meetings {
    /// `first` is the number of the first circuit: drawn at each start, so that packets of an earlier life find none.
    pub fn new(config: MeetConfig, first: u64) -> Self {
        // 0 stands for none.
        let next = first.max(1);
        Self { config, paces: BTreeMap::new(), circuits: BTreeMap::new(), next, passed_bytes: 0 }
    }

    /// `asker` wants to meet `wanted`, which is connected here. If it is not, this need not be asked.
    pub fn asked(&mut self, asker: PeerId, wanted: PeerId, how: How, now: Instant) -> Verdict {
        if asker == wanted || !self.may(&asker, now) {
            return Verdict::Busy;
        }
        if how == How::Punch {
            return Verdict::Offer(0);
        }
        self.end_old(now);
        let ends = |peer: &PeerId| self.circuits.values().filter(|one| one.ends.contains(peer)).count();
        let per_peer = self.config.circuits_per_peer_max;
        if self.circuits.len() >= self.config.circuits_max
            || ends(&asker) >= per_peer
            || ends(&wanted) >= per_peer
        {
            return Verdict::Busy;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        let until = now + self.config.circuit_lives;
        self.circuits.insert(number, Circuit { ends: [asker, wanted], until, last: now, bytes: 0 });
        Verdict::Offer(number)
    }

    /// A common peer offers a meeting to us, or somebody asks for one: whether that is not too often.
    pub fn may(&mut self, peer: &PeerId, now: Instant) -> bool {
        if self.paces.len() >= PACES_MAX && !self.paces.contains_key(peer) {
            return false;
        }
        let pace = self.paces.entry(*peer).or_insert(Pace { left: MEETINGS_BURST, filled: now });
        let gained = now.saturating_duration_since(pace.filled).as_secs() / MEETING_EVERY.as_secs();
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            pace.left = pace.left.saturating_add(gained).min(MEETINGS_BURST);
            pace.filled = now;
        }
        let may = pace.left > 0;
        pace.left = pace.left.saturating_sub(1);
        may
    }

    /// Nothing came of a circuit, or it is over.
    pub fn end(&mut self, circuit: u64) {
        self.circuits.remove(&circuit);
    }

    /// A packet of so many bytes came from a peer. To whom to pass it; `None`: it is not for us to pass on.
    pub fn pass(&mut self, circuit: u64, from: &PeerId, bytes: usize, now: Instant) -> Option<PeerId> {
        let one = self.circuits.get_mut(&circuit)?;
        let to = match &one.ends {
            [asker, wanted] if asker == from => *wanted,
            [asker, wanted] if wanted == from => *asker,
            _ => return None,
        };
        one.bytes = one.bytes.saturating_add(bytes as u64);
        let idle = now.saturating_duration_since(one.last) >= CIRCUIT_IDLE;
        if idle || now >= one.until || one.bytes > self.config.circuit_bytes_max {
            self.end(circuit);
            return None;
        }
        one.last = now;
        self.passed_bytes = self.passed_bytes.saturating_add(bytes as u64);
        Some(to)
    }

    /// A peer is gone, and all of which it was an end.
    pub fn disconnected(&mut self, peer: &PeerId) {
        self.paces.remove(peer);
        self.circuits.retain(|_, one| !one.ends.contains(peer));
    }

    /// Circuits that are open, and bytes passed on so far.
    pub fn circuits(&self) -> (usize, u64) {
        (self.circuits.len(), self.passed_bytes)
    }

    fn end_old(&mut self, now: Instant) {
        self.circuits
            .retain(|_, one| now < one.until && now.saturating_duration_since(one.last) < CIRCUIT_IDLE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::peer;

    fn circuit(meetings: &mut Meetings, one: u32, other: u32, now: Instant) -> Option<u64> {
        match meetings.asked(peer(one), peer(other), How::Circuit, now) {
            Verdict::Offer(number) => Some(number),
            Verdict::Busy => None,
        }
    }

    #[test]
    fn packets_go_between_the_two_ends_and_nobody_else() {
        let (mut meetings, now) = (Meetings::new(MeetConfig::default(), 7), Instant::now());
        let number = circuit(&mut meetings, 1, 2, now).unwrap();
        assert_eq!(number, 7);
        assert_eq!(meetings.pass(number, &peer(1), 100, now), Some(peer(2)));
        assert_eq!(meetings.pass(number, &peer(2), 100, now), Some(peer(1)));
        assert_eq!(meetings.pass(number, &peer(3), 100, now), None, "a third is no end");
        assert_eq!(meetings.pass(number + 1, &peer(1), 100, now), None);
        assert_eq!(meetings.circuits(), (1, 200));
        meetings.disconnected(&peer(2));
        assert_eq!(meetings.pass(number, &peer(1), 100, now), None);
        assert_eq!(meetings.circuits().0, 0);
        assert_eq!(meetings.asked(peer(1), peer(1), How::Circuit, now), Verdict::Busy, "with itself");
    }

    #[test]
    fn a_circuit_ends_by_time_by_silence_and_by_bytes_each_at_its_bound() {
        let config = MeetConfig { circuit_bytes_max: 1000, ..MeetConfig::default() };
        let (mut meetings, now) = (Meetings::new(config.clone(), 1), Instant::now());
        let by_bytes = circuit(&mut meetings, 1, 2, now).unwrap();
        assert!(meetings.pass(by_bytes, &peer(1), 1000, now).is_some());
        assert!(meetings.pass(by_bytes, &peer(2), 1, now).is_none());

        let by_silence = circuit(&mut meetings, 1, 2, now).unwrap();
        let millisecond = Duration::from_millis(1);
        assert!(meetings.pass(by_silence, &peer(1), 1, now + CIRCUIT_IDLE - millisecond).is_some());
        let later = now + CIRCUIT_IDLE - millisecond + CIRCUIT_IDLE;
        assert!(meetings.pass(by_silence, &peer(1), 1, later).is_none());

        let by_time = circuit(&mut meetings, 1, 2, now).unwrap();
        let mut at = now;
        while at + CIRCUIT_IDLE / 2 < now + config.circuit_lives {
            at += CIRCUIT_IDLE / 2;
            assert!(meetings.pass(by_time, &peer(1), 1, at).is_some());
        }
        assert!(meetings.pass(by_time, &peer(1), 1, now + config.circuit_lives - millisecond).is_some());
        assert!(meetings.pass(by_time, &peer(1), 1, now + config.circuit_lives).is_none());
        assert_eq!(meetings.circuits().0, 0);
    }

    #[test]
    fn a_peer_has_its_share_of_circuits_and_all_have_so_many() {
        let (mut meetings, now) = (Meetings::new(MeetConfig::default(), 1), Instant::now());
        assert!(circuit(&mut meetings, 1, 2, now).is_some());
        assert!(circuit(&mut meetings, 1, 3, now).is_some());
        assert!(circuit(&mut meetings, 1, 4, now).is_none(), "its own share, as asker");
        assert!(circuit(&mut meetings, 5, 1, now).is_none(), "and as the one wanted");
        let more = (10..30).filter(|n| circuit(&mut meetings, *n, n + 100, now).is_some()).count();
        assert_eq!(more, 6);
        // Those that nobody uses make room.
        assert!(circuit(&mut meetings, 50, 51, now + CIRCUIT_IDLE).is_some());
        let none = MeetConfig { circuits_max: 0, ..MeetConfig::default() };
        assert!(circuit(&mut Meetings::new(none, 1), 1, 2, now).is_none());
    }

    #[test]
    fn who_asks_too_often_has_to_wait_and_askers_are_bounded() {
        let (mut meetings, now) = (Meetings::new(MeetConfig::default(), 1), Instant::now());
        let ask = |meetings: &mut Meetings, at| meetings.asked(peer(1), peer(2), How::Punch, at);
        let offered = (0..100).filter(|_| ask(&mut meetings, now) == Verdict::Offer(0)).count();
        assert_eq!(offered, MEETINGS_BURST as usize);
        assert_eq!(ask(&mut meetings, now + MEETING_EVERY - Duration::from_millis(1)), Verdict::Busy);
        assert_eq!(ask(&mut meetings, now + MEETING_EVERY), Verdict::Offer(0));
        assert_eq!(ask(&mut meetings, now + MEETING_EVERY), Verdict::Busy);
        let paced = (10..10 + 3 * PACES_MAX as u32).filter(|n| meetings.may(&peer(*n), now)).count();
        assert_eq!(paced, PACES_MAX - 1, "and one who asked before");
        assert_eq!(meetings.paces.len(), PACES_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_asked_every_bound_holds(
            steps in proptest::collection::vec((0u32..12, 0u32..12, 0u64..700, 0usize..1500), 1..200),
        ) {
            let config = MeetConfig { circuits_max: 4, circuit_bytes_max: 5000, ..MeetConfig::default() };
            let (mut meetings, start) = (Meetings::new(config.clone(), u64::MAX - 3), Instant::now());
            let mut now = start;
            for (one, other, after, bytes) in steps {
                now += Duration::from_millis(after * 10);
                let number = circuit(&mut meetings, one, other, now);
                prop_assert!(number.is_none_or(|number| number != 0));
                if let Some((&number, _)) = meetings.circuits.first_key_value() {
                    let to = meetings.pass(number, &peer(one), bytes, now);
                    prop_assert!(to != Some(peer(one)), "nothing comes back to its sender");
                }
                prop_assert!(meetings.circuits.len() <= config.circuits_max);
                for n in 0..12 {
                    let ends = meetings.circuits.values().filter(|one| one.ends.contains(&peer(n)));
                    prop_assert!(ends.count() <= config.circuits_per_peer_max);
                }
                prop_assert!(meetings.circuits.values().all(|one| one.bytes <= config.circuit_bytes_max));
            }
        }
    }
}

//! The conduct ledger: what each peer did, what it weighed, and what followed.
//!
//! Each offence has evidence, a weight and a consequence. Weights add up to a score that halves every
//! [`SCORE_HALF_LIFE_S`]; at [`BAN_LINE`] the peer is banned, first for an hour, four times as long each
//! time, at most a week. Bans are short because identities are free: they stop a broken peer from
//! costing us handshakes, and cannot stop a determined one; netgroup limits, eviction and address
//! buckets do that.
//!
//! What is never an offence: races between honest peers ([`Note::Race`]), another chain, a lost
//! network, and anything slow while *we* are congested.
//!
//! # Memory
//! 4,096 stories × 16 events × at most 200 bytes = 13 MiB, all of them full.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ghost_frames::Code;
use ghost_proto::PeerId;
use serde::{Deserialize, Serialize};

use crate::address::Host;

/// A peer with this score is banned.
pub const BAN_LINE: f64 = 100.0;
/// The score halves in this time: 1 hour.
pub const SCORE_HALF_LIFE_S: u64 = 3600;
/// The first ban: 1 hour. Each further one lasts four times as long.
pub const FIRST_BAN_S: u64 = 3600;
/// The longest ban for offences: a week. Operators ban for as long as they say.
pub const BAN_S_MAX: u64 = 7 * 24 * 3600;
/// Most peers with a story.
pub const STORIES_MAX: usize = 4096;
/// Most events of one peer; the oldest go.
pub const EVENTS_PER_STORY: usize = 16;
/// Longest text of one event, in bytes.
pub const DETAIL_BYTES_MAX: usize = 120;

/// What a peer did wrong. The weight is against [`BAN_LINE`] = 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    /// Frames before hello, a second hello, frames on the wrong stream: another program.
    ProtocolViolation,
    /// A frame longer than its kind allows.
    FrameTooLarge,
    /// A payload that does not decode.
    Malformed,
    /// A block, transaction or vote that cannot be valid on any fork.
    InvalidData,
    /// A peer record with a bad signature, passed on unchecked.
    ForgedRecord,
    /// The body differs from what was announced.
    FalseAnnouncement,
    /// Announced or promised, asked for, not delivered in time.
    NotDelivered,
    /// Left a frame half-sent.
    Stalled,
    /// Limits ignored again and again.
    Flooding,
}

impl Offence {
    /// Every offence.
    pub const ALL: [Self; 9] = [
        Self::ProtocolViolation,
        Self::FrameTooLarge,
        Self::Malformed,
        Self::InvalidData,
        Self::ForgedRecord,
        Self::FalseAnnouncement,
        Self::NotDelivered,
        Self::Stalled,
        Self::Flooding,
    ];

    /// Points of score. A hundred ban at once: no correct program does it even by accident.
    pub const fn weight(self) -> f64 {
        match self {
            Self::ProtocolViolation | Self::FrameTooLarge | Self::Malformed | Self::InvalidData => 100.0,
            // Twice in an hour bans.
            Self::ForgedRecord | Self::Flooding => 60.0,
            Self::FalseAnnouncement => 25.0,
            Self::NotDelivered | Self::Stalled => 5.0,
        }
    }

    /// True if a slow network, ours or another's, can look like this. Such offences weigh nothing while
    /// we are congested ourselves.
    pub const fn is_about_time(self) -> bool {
        matches!(self, Self::NotDelivered | Self::Stalled)
    }

    /// The name in logs, metrics and `peers explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProtocolViolation => "protocol_violation",
            Self::FrameTooLarge => "frame_too_large",
            Self::Malformed => "malformed",
            Self::InvalidData => "invalid_data",
            Self::ForgedRecord => "forged_record",
            Self::FalseAnnouncement => "false_announcement",
            Self::NotDelivered => "not_delivered",
            Self::Stalled => "stalled",
            Self::Flooding => "flooding",
        }
    }

    /// The code to close with when it leads to a ban.
    pub const fn code(self) -> Code {
        match self {
            Self::ProtocolViolation => Code::ProtocolViolation,
            Self::FrameTooLarge => Code::FrameTooLarge,
            Self::Malformed => Code::Malformed,
            Self::InvalidData | Self::ForgedRecord | Self::FalseAnnouncement => Code::InvalidData,
            Self::NotDelivered | Self::Stalled => Code::Refused,
            Self::Flooding => Code::Flooding,
        }
    }

    /// The offence for which we close or reset with this code, if it is one.
    pub const fn of_code(code: Code) -> Option<Self> {
        match code {
            Code::ProtocolViolation => Some(Self::ProtocolViolation),
            Code::FrameTooLarge => Some(Self::FrameTooLarge),
            Code::Malformed => Some(Self::Malformed),
            Code::InvalidData => Some(Self::InvalidData),
            Code::Flooding => Some(Self::Flooding),
            Code::Stalled => Some(Self::Stalled),
            _ => None,
        }
    }
}

/// What happened to a peer without anybody being at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A connection began.
    Connected,
    /// A connection ended.
    Disconnected,
    /// A dial failed.
    DialFailed,
    /// Another key answered at its address.
    IdentityMismatch,
    /// It is of another chain.
    WrongGenesis,
    /// We did not let it in.
    Refused,
    /// We closed the connection, for a reason of ours.
    Dropped,
    /// Two honest peers were quicker than each other.
    Race,
    /// Slow, while we were congested.
    LocalCongestion,
    /// The operator did something to it.
    Operator,
}

impl Note {
    /// The name in `peers explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::DialFailed => "dial failed",
            Self::IdentityMismatch => "identity mismatch",
            Self::WrongGenesis => "wrong genesis",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Race => "race",
            Self::LocalCongestion => "local congestion",
            Self::Operator => "operator",
        }
    }
}

/// What an event was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Nobody's fault.
    Note(Note),
    /// An offence, and what it weighed.
    Offence {
        /// Which.
        offence: Offence,
        /// Points added.
        weight: f64,
    },
    /// A ban began.
    Banned {
        /// When it ends, Unix ms; `None` if an operator must lift it.
        until_unix_ms: Option<u64>,
    },
    /// The ban was lifted.
    Unbanned,
}

/// One line of a story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, Unix ms.
    pub at_unix_ms: u64,
    /// What.
    pub what: What,
    /// Evidence or reason, at most [`DETAIL_BYTES_MAX`] bytes.
    pub detail: String,
    /// The same event came so many times in a row.
    pub times: u32,
}

/// A ban.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ban {
    /// When it ends, Unix ms; `None` if an operator must lift it.
    pub until_unix_ms: Option<u64>,
    /// Why.
    pub reason: String,
}

/// All that is known about a peer's conduct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// First event, Unix ms.
    pub since_unix_ms: u64,
    /// Latest event, Unix ms.
    pub last_unix_ms: u64,
    /// The score at `scored_unix_ms`; see [`Ledger::score`] for now.
    pub score: f64,
    /// When the score was last added to, Unix ms.
    pub scored_unix_ms: u64,
    /// Bans for offences so far: the next one is four times as long.
    pub bans: u32,
    /// The ban in force, or one that ended and was not looked at since.
    pub ban: Option<Ban>,
    /// The latest events, oldest first.
    pub events: VecDeque<Event>,
}

/// What follows from an offence.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is on record.
    Noted {
        /// The score now.
        score: f64,
    },
    /// Close the connection and refuse the peer until then.
    Ban {
        /// When the ban ends, Unix ms.
        until_unix_ms: u64,
    },
}

/// The conduct of all peers. A core in wall-clock time, for stories outlive the process.
#[derive(Debug, Default)]
pub struct Ledger {
    stories: BTreeMap<PeerId, Story>,
    by_age: BTreeSet<(u64, PeerId)>,
    hosts: BTreeMap<Host, u64>,
    changed: BTreeSet<PeerId>,
    /// Stories the store holds: only their end has to be told.
    stored: BTreeSet<PeerId>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// The ledger as the store kept it.
    pub fn restore(stories: impl IntoIterator<Item = (PeerId, Story)>) -> Self {
        let mut ledger = Self::new();
        for (peer, mut story) in stories {
            while story.events.len() > EVENTS_PER_STORY {
                story.events.pop_front();
            }
            ledger.by_age.insert((story.last_unix_ms, peer));
            ledger.stories.insert(peer, story);
            ledger.stored.insert(peer);
            ledger.make_room();
        }
        ledger
    }

    /// Puts something blameless on record.
    pub fn note(&mut self, peer: &PeerId, note: Note, detail: &str, now_unix_ms: u64) {
        self.push(peer, What::Note(note), detail, now_unix_ms);
    }

    /// Puts an offence on record and judges. `congested` is true while our own queues, link or CPU are
    /// the likelier reason for anything slow: then what [`Offence::is_about_time`] weighs nothing.
    ///
    /// `host` is where the peer sits; with a ban its host is discouraged for as long. Pass `None`
    /// for peers that share a host by design (loopback, private networks, Tor).
    pub fn offend(
        &mut self,
        peer: &PeerId,
        host: Option<&Host>,
        offence: Offence,
        evidence: &str,
        congested: bool,
        now_unix_ms: u64,
    ) -> Verdict {
        if congested && offence.is_about_time() {
            self.note(peer, Note::LocalCongestion, evidence, now_unix_ms);
            return Verdict::Noted { score: self.score(peer, now_unix_ms) };
        }
        let weight = offence.weight();
        let score = self.score(peer, now_unix_ms) + weight;
        self.push(peer, What::Offence { offence, weight }, evidence, now_unix_ms);
        let story = self.stories.get_mut(peer).expect("just pushed");
        story.score = score;
        story.scored_unix_ms = now_unix_ms;
        if score < BAN_LINE {
            return Verdict::Noted { score };
        }
        let lasts_s = FIRST_BAN_S.saturating_mul(4u64.saturating_pow(story.bans)).min(BAN_S_MAX);
        story.bans = story.bans.saturating_add(1);
        // Punished: it starts again below the line, though not at zero.
        story.score = BAN_LINE / 2.0;
        let until = now_unix_ms.saturating_add(lasts_s * 1000);
        self.set_ban(peer, Some(until), &format!("{}: {evidence}", offence.name()), now_unix_ms);
        if let Some(host) = host {
            self.discourage(host, until, now_unix_ms);
        }
        Verdict::Ban { until_unix_ms: until }
    }

    /// The operator bans a peer, for good if `until_unix_ms` is `None`.
    pub fn ban(&mut self, peer: &PeerId, until_unix_ms: Option<u64>, reason: &str, now_unix_ms: u64) {
        self.set_ban(peer, until_unix_ms, reason, now_unix_ms);
    }

    /// The operator lifts a ban; the score starts at zero. False if there was none.
    pub fn unban(&mut self, peer: &PeerId, now_unix_ms: u64) -> bool {
        let Some(story) = self.stories.get_mut(peer) else { return false };
        let was = story.ban.take().is_some();
        story.score = 0.0;
        story.bans = 0;
        if was {
            self.push(peer, What::Unbanned, "by the operator", now_unix_ms);
        }
        was
    }

    /// The ban in force, if there is one.
    pub fn banned(&self, peer: &PeerId, now_unix_ms: u64) -> Option<&Ban> {
        let ban = self.stories.get(peer)?.ban.as_ref()?;
        ban.until_unix_ms.is_none_or(|until| now_unix_ms < until).then_some(ban)
    }

    /// Everybody banned now, in the order of PeerIds.
    pub fn bans(&self, now_unix_ms: u64) -> Vec<(PeerId, Ban)> {
        self.stories
            .keys()
            .filter_map(|peer| self.banned(peer, now_unix_ms).map(|ban| (*peer, ban.clone())))
            .collect()
    }

    /// True if a peer at this host was banned and the ban lasts. Such hosts are let in while there is
    /// room, and evicted first: others may share them.
    pub fn discouraged(&self, host: &Host, now_unix_ms: u64) -> bool {
        self.hosts.get(host).is_some_and(|&until| now_unix_ms < until)
    }

    /// The score now.
    pub fn score(&self, peer: &PeerId, now_unix_ms: u64) -> f64 {
        self.stories.get(peer).map_or(0.0, |story| {
            let age_s = now_unix_ms.saturating_sub(story.scored_unix_ms) as f64 / 1000.0;
            story.score * 0.5f64.powf(age_s / SCORE_HALF_LIFE_S as f64)
        })
    }

    /// The story of a peer.
    pub fn story(&self, peer: &PeerId) -> Option<&Story> {
        self.stories.get(peer)
    }

    /// Every story, in the order of PeerIds.
    pub fn stories(&self) -> impl Iterator<Item = (&PeerId, &Story)> {
        self.stories.iter()
    }

    /// Peers with a story.
    pub fn len(&self) -> usize {
        self.stories.len()
    }

    /// True if nobody has a story.
    pub fn is_empty(&self) -> bool {
        self.stories.is_empty()
    }

    /// Hosts that are discouraged, and their number is bounded by [`STORIES_MAX`].
    pub fn hosts_len(&self) -> usize {
        self.hosts.len()
    }

    /// Up to `most` peers whose story changed since the last call; `None` if it is gone. Apply them to
    /// the store.
    pub fn take_changes(&mut self, most: usize) -> Vec<(PeerId, Option<Story>)> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(peer) = self.changed.pop_first()
        {
            let story = self.stories.get(&peer).cloned();
            if story.is_some() {
                self.stored.insert(peer);
            }
            changes.push((peer, story));
        }
        changes
    }

    /// The store could not take these.
    pub fn give_back(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        self.changed.extend(peers);
    }

    /// Peers whose story the store has not heard of.
    pub fn changes_len(&self) -> usize {
        self.changed.len()
    }

    fn set_ban(&mut self, peer: &PeerId, until_unix_ms: Option<u64>, reason: &str, now_unix_ms: u64) {
        let reason = cut(reason);
        self.push(peer, What::Banned { until_unix_ms }, &reason, now_unix_ms);
        let story = self.stories.get_mut(peer).expect("just pushed");
        story.ban = Some(Ban { until_unix_ms, reason });
    }

    fn discourage(&mut self, host: &Host, until_unix_ms: u64, now_unix_ms: u64) {
        if self.hosts.len() >= STORIES_MAX {
            self.hosts.retain(|_, until| now_unix_ms < *until);
        }
        if self.hosts.len() < STORIES_MAX || self.hosts.contains_key(host) {
            let until = self.hosts.entry(host.clone()).or_insert(0);
            *until = until_unix_ms.max(*until);
        }
    }

    fn push(&mut self, peer: &PeerId, what: What, detail: &str, now_unix_ms: u64) {
        let story = self.stories.entry(*peer).or_insert_with(|| Story {
            since_unix_ms: now_unix_ms,
            last_unix_ms: now_unix_ms,
            score: 0.0,
            scored_unix_ms: now_unix_ms,
            bans: 0,
            ban: None,
            events: VecDeque::new(),
        });
        self.by_age.remove(&(story.last_unix_ms, *peer));
        story.last_unix_ms = story.last_unix_ms.max(now_unix_ms);
        self.by_age.insert((story.last_unix_ms, *peer));
        let detail = cut(detail);
        match story.events.back_mut() {
            // A peer that fails every minute must not push its past out of its story.
            Some(last) if last.what == what && last.detail == detail => {
                last.times = last.times.saturating_add(1);
                last.at_unix_ms = now_unix_ms;
            }
            _ => {
                if story.events.len() == EVENTS_PER_STORY {
                    story.events.pop_front();
                }
                story.events.push_back(Event { at_unix_ms: now_unix_ms, what, detail, times: 1 });
            }
        }
        self.changed.insert(*peer);
        self.make_room_except(peer);
    }

    fn make_room(&mut self) {
        if let Some((_, youngest)) = self.by_age.last().copied() {
            self.make_room_except(&youngest);
        }
    }

    /// Forgets the story that was quiet longest, of those without a ban if there are any near.
    fn make_room_except(&mut self, keep: &PeerId) {
        while self.stories.len() > STORIES_MAX {
            let quiet = |(_, peer): &&(u64, PeerId)| peer != keep;
            let unbanned =
                self.by_age.iter().filter(quiet).take(64).find(|(_, peer)| self.stories[peer].ban.is_none());
            let Some(&(at, peer)) = unbanned.or_else(|| self.by_age.iter().find(quiet)) else { return };
            self.by_age.remove(&(at, peer));
            self.stories.remove(&peer);
            if self.stored.remove(&peer) {
                self.changed.insert(peer);
            } else {
                self.changed.remove(&peer);
            }
        }
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::peer_id,
        testing::{NOW_MS, endpoint, made_up},
    };

    fn peer(n: u32) -> PeerId {
        peer_id(&made_up(n))
    }
    fn offend(ledger: &mut Ledger, offence: Offence, at_ms: u64) -> Verdict {
        ledger.offend(&peer(1), None, offence, "evidence", false, at_ms)
    }

    #[test]
    fn the_ban_line_from_both_sides() {
        let mut ledger = Ledger::new();
        for _ in 0..3 {
            assert!(matches!(offend(&mut ledger, Offence::FalseAnnouncement, NOW_MS), Verdict::Noted { .. }));
        }
        assert_eq!(ledger.score(&peer(1), NOW_MS), 75.0);
        assert!(ledger.banned(&peer(1), NOW_MS).is_none());
        let Verdict::Ban { until_unix_ms } = offend(&mut ledger, Offence::FalseAnnouncement, NOW_MS) else {
            panic!("100 points ban")
        };
        assert_eq!(until_unix_ms, NOW_MS + FIRST_BAN_S * 1000);
        assert!(ledger.banned(&peer(1), until_unix_ms - 1).is_some());
        assert!(ledger.banned(&peer(1), until_unix_ms).is_none());
    }

    #[test]
    fn scores_halve_and_bans_grow_to_a_week() {
        let mut ledger = Ledger::new();
        offend(&mut ledger, Offence::ForgedRecord, NOW_MS);
        assert_eq!(ledger.score(&peer(1), NOW_MS + SCORE_HALF_LIFE_S * 1000), 30.0);
        let mut lasted = Vec::new();
        let mut now = NOW_MS;
        for _ in 0..6 {
            let Verdict::Ban { until_unix_ms } = offend(&mut ledger, Offence::Malformed, now) else {
                panic!()
            };
            lasted.push((until_unix_ms - now) / 3_600_000);
            now = until_unix_ms;
        }
        assert_eq!(lasted, [1, 4, 16, 64, 168, 168]);
    }

    #[test]
    fn local_congestion_and_races_never_count() {
        let mut ledger = Ledger::new();
        for n in 0..10_000 {
            ledger.offend(&peer(1), None, Offence::NotDelivered, "late", true, NOW_MS + n);
            ledger.offend(&peer(1), None, Offence::Stalled, "half a frame", true, NOW_MS + n);
            ledger.note(&peer(1), Note::Race, "both pushed the block", NOW_MS + n);
        }
        assert_eq!(ledger.score(&peer(1), NOW_MS), 0.0);
        assert!(ledger.bans(NOW_MS).is_empty());
        // What is not about time counts, congested or not.
        let verdict = ledger.offend(&peer(1), None, Offence::InvalidData, "bad block", true, NOW_MS);
        assert!(matches!(verdict, Verdict::Ban { .. }));
    }

    #[test]
    fn a_slow_peer_on_a_good_day_is_not_banned() {
        // One lost delivery every 5 minutes, for a day: 5 × 1/(1 - 2^(-1/12)) = 89 points at most.
        let mut ledger = Ledger::new();
        for n in 0..288 {
            offend(&mut ledger, Offence::NotDelivered, NOW_MS + n * 300_000);
        }
        assert!(ledger.bans(NOW_MS + 288 * 300_000).is_empty());
        // Every 4 minutes is too many.
        let banned = (0..360).any(|n| {
            matches!(offend(&mut ledger, Offence::NotDelivered, NOW_MS + n * 240_000), Verdict::Ban { .. })
        });
        assert!(banned);
    }

    #[test]
    fn stories_events_details_and_hosts_are_bounded() {
        let mut ledger = Ledger::new();
        let banned = peer(1_000_000);
        ledger.ban(&banned, None, "operator", NOW_MS);
        for n in 0..STORIES_MAX as u32 + 1000 {
            let host = crate::testing::place((n / 256) as u16, n as u16);
            ledger.offend(&peer(n), Some(host.host()), Offence::Malformed, "x", false, NOW_MS + 1);
        }
        assert_eq!(ledger.len(), STORIES_MAX);
        assert!(ledger.hosts_len() <= STORIES_MAX);
        for n in 0..100 {
            ledger.note(&peer(1), Note::Refused, &format!("{n} {}", "ü".repeat(400)), NOW_MS + 2);
        }
        let story = ledger.story(&peer(1)).unwrap();
        assert_eq!(story.events.len(), EVENTS_PER_STORY);
        assert!(story.events.iter().all(|event| event.detail.len() <= DETAIL_BYTES_MAX));
        assert_eq!(ledger.changes_len(), STORIES_MAX, "what the store never heard of needs no end");
    }

    #[test]
    fn notes_about_strangers_do_not_push_out_bans() {
        let mut ledger = Ledger::new();
        ledger.ban(&peer(0), None, "operator", NOW_MS);
        for n in 1..2 * STORIES_MAX as u32 {
            ledger.note(&peer(n), Note::Refused, "full", NOW_MS + u64::from(n));
        }
        assert!(ledger.banned(&peer(0), NOW_MS + 1).is_some());
        assert_eq!(ledger.len(), STORIES_MAX);
    }

    #[test]
    fn the_same_event_again_is_counted_not_repeated() {
        let mut ledger = Ledger::new();
        for n in 0..50 {
            ledger.note(&peer(1), Note::DialFailed, "timed out", NOW_MS + n);
        }
        let story = ledger.story(&peer(1)).unwrap();
        assert_eq!((story.events.len(), story.events[0].times), (1, 50));
        assert_eq!(story.events[0].at_unix_ms, NOW_MS + 49);
    }

    #[test]
    fn a_banned_peers_host_is_discouraged_and_unban_clears_the_peer() {
        let mut ledger = Ledger::new();
        let host = endpoint("1.2.3.4:1").host().clone();
        let Verdict::Ban { until_unix_ms } =
            ledger.offend(&peer(1), Some(&host), Offence::Malformed, "x", false, NOW_MS)
        else {
            panic!()
        };
        assert!(ledger.discouraged(&host, until_unix_ms - 1) && !ledger.discouraged(&host, until_unix_ms));
        assert!(ledger.unban(&peer(1), NOW_MS));
        assert!(ledger.banned(&peer(1), NOW_MS).is_none() && ledger.score(&peer(1), NOW_MS) == 0.0);
        assert!(!ledger.unban(&peer(1), NOW_MS));
    }

    #[test]
    fn codes_that_mean_ban_are_offences() {
        for &code in Code::ALL {
            if code.consequence() == ghost_frames::code::Consequence::Ban && code != Code::Refused {
                assert!(Offence::of_code(code).is_some(), "{}", code.name());
            }
        }
    }

    #[test]
    fn a_restored_ledger_is_the_same() {
        let mut ledger = Ledger::new();
        for n in 0..50 {
            ledger.offend(&peer(n), None, Offence::ALL[n as usize % 9], "evidence", false, NOW_MS);
        }
        let stories = ledger.take_changes(usize::MAX);
        let again = Ledger::restore(stories.into_iter().map(|(peer, story)| (peer, story.unwrap())));
        assert_eq!(again.bans(NOW_MS), ledger.bans(NOW_MS));
        for n in 0..50 {
            assert_eq!(again.story(&peer(n)), ledger.story(&peer(n)));
        }
    }
}

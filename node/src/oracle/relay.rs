//! The core between publishers, peers and subscribers.
//!
//! It is told of every report and every piece of evidence that arrives ([`Oracle::report`],
//! [`Oracle::evidence`]) and answers with a [`Verdict`] and with what to do. The order of the checks is that
//! of their cost, and everything that a stranger can make it do is bounded:
//!
//! | check | fails with | signature checked | offence |
//! | --- | --- | --- | --- |
//! | feed and publisher exist | [`Verdict::Unknown`] | no | no |
//! | publisher not accused | [`Verdict::Accused`] | no | no |
//! | not seen, not older than what was | [`Verdict::Known`], [`Verdict::Old`] | no | no |
//! | time not ahead, not older than max age | [`Verdict::Ahead`], [`Verdict::Old`] | no | no |
//! | the publisher's pace on the feed | [`Verdict::TooFast`] | no | no |
//! | the peer's pace | [`Verdict::PeerTooFast`] | no | no |
//! | signature | [`Verdict::BadSignature`] | yes | **yes** |
//! | no other report with this sequence | [`Verdict::Equivocates`] | yes | no: the publisher's, not the peer's |
//!
//! Only what passes them all is passed on, once, to every peer but the one that brought it.
//!
//! Memory: for each publisher of each feed its newest [`RECENT_MAX`] reports: 64 feeds × 11 publishers × 8 ×
//! 136 bytes = 766 KB at most; for each peer that sent something within [`BURST_SECONDS`] seconds, its pace.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use ghost_proto::{
    FeedSpec, GenesisId, PeerId, Quote, Report,
    limits::PRICE_AHEAD_MS_MAX,
    price::{Aggregate, Equivocation},
};

/// Reports remembered of each publisher on each feed, the newest: what an equivocation is found by. At the
/// fastest pace that is 40 ms of reports, at a heartbeat of a second 8 s.
pub const RECENT_MAX: usize = 8;

/// Reports a second that are taken of one publisher on one feed, over [`BURST_SECONDS`].
pub const PUBLISHER_REPORTS_PER_SECOND: u32 = 200;

/// Signatures a second that are checked for one peer, over [`BURST_SECONDS`]: 2,048 × 40 µs are 8 % of a
/// core, and three times what 64 feeds with 11 publishers say at a heartbeat of a second.
pub const PEER_CHECKS_PER_SECOND: u32 = 2_048;

/// Seconds' worth of a pace that may come at once.
pub const BURST_SECONDS: u32 = 2;

/// Peers whose pace is remembered before those that are idle are forgotten.
const PEERS_SOFT_MAX: usize = 256;

/// What became of a report or of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Verdict {
    /// New and good: passed on.
    #[error("taken")]
    Taken,
    /// No such feed or publisher.
    #[error("this chain has no such feed, or the feed no such publisher")]
    Unknown,
    /// The publisher signed two prices for one sequence before: nothing of it counts any more.
    #[error("the publisher signed two prices for one sequence and counts no more")]
    Accused,
    /// Seen before.
    #[error("the report is known already")]
    Known,
    /// A newer one is here, or it is older than the feed's maximum age.
    #[error("the report is older than what counts: its sequence and time must ascend")]
    Old,
    /// It claims to be seen in the future.
    #[error("the report is dated ahead of this node's clock; set the clocks")]
    Ahead,
    /// The publisher says more than the feed takes.
    #[error("the publisher reports faster than {PUBLISHER_REPORTS_PER_SECOND} times a second")]
    TooFast,
    /// The peer brings more than is checked for it.
    #[error("too many reports at once from this peer")]
    PeerTooFast,
    /// The signature does not verify.
    #[error("the report is not signed by its publisher")]
    BadSignature,
    /// The publisher said something else with this sequence: there is evidence now.
    #[error("the publisher signed two prices for one sequence")]
    Equivocates,
}

impl Verdict {
    /// The word in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Unknown => "unknown",
            Self::Accused => "accused",
            Self::Known => "known",
            Self::Old => "old",
            Self::Ahead => "ahead",
            Self::TooFast => "too_fast",
            Self::PeerTooFast => "peer_too_fast",
            Self::BadSignature => "bad_signature",
            Self::Equivocates => "equivocates",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Pass the report on to every peer but this one.
    Forward {
        /// What.
        report: Report,
        /// Who brought it.
        except: Option<PeerId>,
    },
    /// Pass the evidence on to every peer but this one.
    ForwardEvidence {
        /// What.
        evidence: Equivocation,
        /// Who brought it.
        except: Option<PeerId>,
    },
    /// The peer sent what is never valid.
    Offence(PeerId),
    /// The newest reports of a feed make a price, perhaps the same as before.
    Price(u16),
}

/// What is known of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// The newest reports that made a price, however old by now.
    pub quote: Option<Quote>,
    /// The price.
    pub price: Option<Aggregate>,
    /// Against publishers that count no more.
    pub evidence: Vec<Equivocation>,
}

impl Row {
    /// Bit *n*: there is evidence against publisher *n*.
    pub fn accused(&self) -> u16 {
        self.evidence.iter().fold(0, |bits, evidence| bits | 1 << (evidence.publisher() & 15))
    }
}

/// What is known of all feeds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// In the order of the genesis.
    pub feeds: Vec<Arc<Row>>,
}

/// So many a second, and [`BURST_SECONDS`] seconds' worth at once.
#[derive(Debug, Clone, Copy)]
struct Pace {
    per_second: u32,
    left: f64,
    at: Instant,
}

impl Pace {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: f64::from(per_second * BURST_SECONDS), at: now }
    }

    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(self.per_second);
        self.left = (self.left + gained).min(f64::from(self.per_second * BURST_SECONDS));
        self.at = now;
    }

    fn allows(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= 1.0
    }

    fn take(&mut self) {
        self.left -= 1.0;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= f64::from(self.per_second * BURST_SECONDS)
    }
}

#[derive(Debug)]
struct Publisher {
    /// Oldest first; sequences ascend.
    recent: VecDeque<Report>,
    pace: Pace,
    accused: bool,
}

/// The core. One for each node.
#[derive(Debug)]
pub struct Oracle {
    genesis: GenesisId,
    feeds: Arc<[FeedSpec]>,
    publishers: Vec<Vec<Publisher>>,
    board: Board,
    peers: BTreeMap<PeerId, Pace>,
}

impl Oracle {
    /// Knows nothing yet.
    pub fn new(genesis: GenesisId, feeds: Arc<[FeedSpec]>, now: Instant) -> Self {
        let publisher = |_: &ghost_proto::PublicKey| Publisher {
            recent: VecDeque::new(),
            pace: Pace::new(PUBLISHER_REPORTS_PER_SECOND, now),
            accused: false,
        };
        let publishers = feeds.iter().map(|spec| spec.publishers.iter().map(publisher).collect()).collect();
        let board = Board { feeds: feeds.iter().map(|_| Arc::default()).collect() };
        Self { genesis, feeds, publishers, board, peers: BTreeMap::new() }
    }

    /// What is known now.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The newest report of each publisher of a feed, except of those accused.
    pub fn newest(&self, feed: u16) -> Vec<Report> {
        let publishers = self.publishers.get(usize::from(feed)).into_iter().flatten();
        publishers
            .filter(|publisher| !publisher.accused)
            .filter_map(|publisher| publisher.recent.back().copied())
            .collect()
    }

    /// Peers whose pace is remembered.
    pub fn peers_len(&self) -> usize {
        self.peers.len()
    }

    /// A report arrived, from a peer or from a publisher that called us.
    pub fn report(
        &mut self,
        from: Option<PeerId>,
        report: Report,
        now: Instant,
        now_unix_ms: u64,
    ) -> (Verdict, Vec<Effect>) {
        let (feed, place) = (usize::from(report.feed), usize::from(report.publisher));
        let Some(spec) = self.feeds.get(feed) else { return (Verdict::Unknown, Vec::new()) };
        let Some(key) = spec.publishers.get(place) else { return (Verdict::Unknown, Vec::new()) };
        let publisher = &mut self.publishers[feed][place];
        if publisher.accused {
            return (Verdict::Accused, Vec::new());
        }
        let same = publisher.recent.iter().find(|known| known.sequence == report.sequence).copied();
        let contradicted = same.filter(|known| known.contradicts(&report));
        if same.is_some() && contradicted.is_none() {
            return (Verdict::Known, Vec::new());
        }
        if contradicted.is_none() {
            if let Some(newest) = publisher.recent.back()
                && (report.sequence < newest.sequence || report.time_unix_ms < newest.time_unix_ms)
            {
                return (Verdict::Old, Vec::new());
            }
            if report.time_unix_ms > now_unix_ms.saturating_add(PRICE_AHEAD_MS_MAX) {
                return (Verdict::Ahead, Vec::new());
            }
            if report.time_unix_ms < now_unix_ms.saturating_sub(spec.max_age_ms) {
                return (Verdict::Old, Vec::new());
            }
            if !publisher.pace.allows(now) {
                return (Verdict::TooFast, Vec::new());
            }
        }
        if !may_check(&mut self.peers, from, now) {
            return (Verdict::PeerTooFast, Vec::new());
        }
        if report.verify(&self.genesis, key).is_err() {
            return (Verdict::BadSignature, from.map(Effect::Offence).into_iter().collect());
        }
        if let Some(evidence) = contradicted.and_then(|known| Equivocation::of(known, report)) {
            // Nobody has it from us: it was made here.
            return (Verdict::Equivocates, self.accuse(evidence, None));
        }
        publisher.pace.take();
        publisher.recent.push_back(report);
        if publisher.recent.len() > RECENT_MAX {
            publisher.recent.pop_front();
        }
        let mut effects = vec![Effect::Forward { report, except: from }];
        effects.extend(self.price(report.feed));
        (Verdict::Taken, effects)
    }

    /// Evidence arrived.
    pub fn evidence(
        &mut self,
        from: Option<PeerId>,
        evidence: Equivocation,
        now: Instant,
    ) -> (Verdict, Vec<Effect>) {
        let (feed, place) = (usize::from(evidence.feed()), usize::from(evidence.publisher()));
        let key = self.feeds.get(feed).and_then(|spec| spec.publishers.get(place));
        let Some(key) = key else { return (Verdict::Unknown, Vec::new()) };
        if self.publishers[feed][place].accused {
            return (Verdict::Known, Vec::new());
        }
        if !may_check(&mut self.peers, from, now) {
            return (Verdict::PeerTooFast, Vec::new());
        }
        if evidence.verify(&self.genesis, key).is_err() {
            return (Verdict::BadSignature, from.map(Effect::Offence).into_iter().collect());
        }
        (Verdict::Taken, self.accuse(evidence, from))
    }

    /// Remembers evidence whose signatures are good, and what it means for the feed.
    fn accuse(&mut self, evidence: Equivocation, except: Option<PeerId>) -> Vec<Effect> {
        let feed = usize::from(evidence.feed());
        let publisher = &mut self.publishers[feed][usize::from(evidence.publisher())];
        publisher.accused = true;
        publisher.recent.clear();
        Arc::make_mut(&mut self.board.feeds[feed]).evidence.push(evidence);
        let mut effects = vec![Effect::ForwardEvidence { evidence, except }];
        effects.extend(self.price(evidence.feed()));
        effects
    }

    /// Makes the price of a feed anew. Where the reports make none, the last one stays and grows old.
    fn price(&mut self, feed: u16) -> Option<Effect> {
        let spec = self.feeds.get(usize::from(feed))?;
        let mut quote = Quote { feed, reports: self.newest(feed) };
        let newest = quote.time_unix_ms();
        quote.reports.retain(|report| report.time_unix_ms >= newest.saturating_sub(spec.max_age_ms));
        let price = quote.aggregate(spec).ok()?;
        let row = Arc::make_mut(&mut self.board.feeds[usize::from(feed)]);
        (row.quote, row.price) = (Some(quote), Some(price));
        Some(Effect::Price(feed))
    }
}

/// True, and counted, if one more signature is checked for the peer.
fn may_check(peers: &mut BTreeMap<PeerId, Pace>, from: Option<PeerId>, now: Instant) -> bool {
    let Some(peer) = from else { return true };
    if peers.len() >= PEERS_SOFT_MAX && !peers.contains_key(&peer) {
        // A pace that is full is that of a stranger.
        peers.retain(|_, pace| !pace.is_full(now));
    }
    let pace = peers.entry(peer).or_insert_with(|| Pace::new(PEER_CHECKS_PER_SECOND, now));
    let allowed = pace.allows(now);
    if allowed {
        pace.take();
    }
    allowed
}

#[cfg(test)]
mod tests;

//! Where others see us, and whether they can reach us there.
//!
//! Every peer says in its hello where it sees us. One peer's word is worth nothing: we believe an
//! address when peers *that we dialled* in [`ReachConfig::agree_groups`] netgroups name the same one, and
//! none is named by more. Then such peers are asked, one after the other, to dial us back there from another
//! socket; when [`ReachConfig::verdicts`] netgroups say the same we know whether we can be reached.
//!
//! A peer dials back only to the very address it sees the asker at on a live connection, so nobody can
//! point it at a third party; how often it does is bounded by [`DialBacks`]. The scheme is that of libp2p's
//! AutoNAT v2, without its choice of addresses. As there, a NAT that lets anybody in from an
//! *address* it sent to, whatever the port, looks open.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ghost_proto::PeerId;

use crate::{
    address::{Endpoint, Network},
    netgroup::NetGroup,
};

/// Reports kept: one for each connection that we dialled, about 120 bytes each.
pub const REPORTS_MAX: usize = 512;
/// An answer takes at most this long: the dial back has 5 s.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two tests of one address.
pub const TEST_AGAIN: Duration = Duration::from_secs(30 * 60);
/// Between two tests that came to no verdict.
pub const TEST_SOON: Duration = Duration::from_secs(60);

/// How much agreement is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReachConfig {
    /// Netgroups that have to name an address before we believe it. Default 3, at least 1: an attacker has to
    /// be among those we chose to dial in as many. Private networks set 1.
    pub agree_groups: usize,
    /// Netgroups that have to say the same about reaching us. Default 2, at least 1. Private networks
    /// set 1.
    pub verdicts: usize,
}

impl Default for ReachConfig {
    fn default() -> Self {
        Self { agree_groups: 3, verdicts: 2 }
    }
}

/// What came of a dial back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialBack {
    /// It reached us, at this address.
    Reached(Endpoint),
    /// It did not, at this address, and why.
    NotReached(Endpoint, &'static str),
    /// No answer, or none that says anything.
    NoVerdict,
}

/// What is known of one address of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// Too few peers agree where they see us, or nobody has tried yet.
    Unknown {
        /// The address most netgroups name, if any does.
        seen_at: Option<Endpoint>,
        /// So many netgroups name it.
        groups: usize,
    },
    /// Peers of several netgroups dialled us there.
    Reachable {
        /// Where.
        at: Endpoint,
    },
    /// Peers of several netgroups tried in vain.
    Unreachable {
        /// Where.
        at: Endpoint,
        /// What the last of them said.
        why: &'static str,
    },
}

impl Reachability {
    /// The word in `status`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Reachable { .. } => "reachable",
            Self::Unreachable { .. } => "unreachable",
        }
    }
}

#[derive(Debug)]
struct Test {
    at: Endpoint,
    asked: BTreeSet<PeerId>,
    waiting: Option<(PeerId, Instant)>,
    reached: BTreeSet<NetGroup>,
    missed: BTreeMap<NetGroup, &'static str>,
    next: Instant,
}

/// See the [module documentation](self). A core.
#[derive(Debug)]
pub struct Reach {
    config: ReachConfig,
    reports: BTreeMap<PeerId, (NetGroup, Endpoint)>,
    tests: BTreeMap<Network, Test>,
    verdicts: BTreeMap<Network, Reachability>,
}

impl Reach {
    /// Nothing is known yet.
    pub fn new(config: ReachConfig) -> Self {
        Self { config, reports: BTreeMap::new(), tests: BTreeMap::new(), verdicts: BTreeMap::new() }
    }

    /// A peer that we dialled says where it sees us.
    pub fn observed(&mut self, peer: PeerId, group: NetGroup, at: Endpoint, now: Instant) {
        if self.reports.len() >= REPORTS_MAX && !self.reports.contains_key(&peer) {
            return;
        }
        let network = at.network();
        self.reports.insert(peer, (group, at));
        let Some((believed, groups)) = self.most_named(network) else { return };
        if groups < self.config.agree_groups
            || self.tests.get(&network).is_some_and(|test| test.at == believed)
        {
            return;
        }
        // What was known of another address says nothing of this one.
        self.verdicts.remove(&network);
        let test = Test {
            at: believed,
            asked: BTreeSet::new(),
            waiting: None,
            reached: BTreeSet::new(),
            missed: BTreeMap::new(),
            next: now,
        };
        self.tests.insert(network, test);
    }

    /// A connection ended.
    pub fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        self.reports.remove(peer);
        for test in self.tests.values_mut() {
            if test.waiting.is_some_and(|(waiting, _)| waiting == *peer) {
                test.waiting = None;
                test.next = now;
            }
        }
    }

    /// The address that is believed, by network.
    pub fn believed(&self) -> Vec<Endpoint> {
        self.tests.values().map(|test| test.at.clone()).collect()
    }

    /// What is known, of the better-known network first.
    pub fn verdict(&self) -> Reachability {
        let rank = |verdict: &&Reachability| matches!(verdict, Reachability::Reachable { .. });
        if let Some(verdict) = self.verdicts.values().max_by_key(rank) {
            return verdict.clone();
        }
        let seen = [Network::Ip4, Network::Ip6].into_iter().filter_map(|network| self.most_named(network));
        match seen.max_by_key(|(_, groups)| *groups) {
            Some((at, groups)) => Reachability::Unknown { seen_at: Some(at), groups },
            None => Reachability::Unknown { seen_at: None, groups: 0 },
        }
    }

    /// When [`Reach::on_deadline`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.tests.values().map(|test| test.waiting.map_or(test.next, |(_, until)| until)).min()
    }

    /// Whom to ask for a dial back now; answer each with [`Reach::answered`].
    pub fn on_deadline(&mut self, now: Instant) -> Vec<PeerId> {
        let mut ask = Vec::new();
        for test in self.tests.values_mut() {
            match test.waiting {
                Some((_, until)) if now < until => continue,
                Some(_) => test.waiting = None,
                None if now < test.next => continue,
                None => {}
            }
            let fresh = |peer: &PeerId, group: &NetGroup| {
                !test.asked.contains(peer)
                    && !test.reached.contains(group)
                    && !test.missed.contains_key(group)
            };
            let willing = self.reports.iter().filter(|(_, (_, at))| *at == test.at);
            match willing.map(|(peer, (group, _))| (*peer, *group)).find(|(peer, group)| fresh(peer, group)) {
                Some((peer, _)) => {
                    test.asked.insert(peer);
                    test.waiting = Some((peer, now + ANSWER_TIMEOUT));
                    ask.push(peer);
                }
                None => test.begin_again(now + TEST_SOON),
            }
        }
        ask
    }

    /// A peer that was asked answered. True if what is known changed.
    pub fn answered(&mut self, peer: &PeerId, result: DialBack, now: Instant) -> bool {
        let Some((group, reported)) = self.reports.get(peer).cloned() else { return false };
        let (network, wanted) = (reported.network(), self.config.verdicts);
        let Some(test) = self.tests.get_mut(&network) else { return false };
        // Only who was asked has a say.
        if test.waiting.is_none_or(|(waiting, _)| waiting != *peer) {
            return false;
        }
        test.waiting = None;
        test.next = now;
        match result {
            DialBack::Reached(at) if at == test.at => drop(test.reached.insert(group)),
            DialBack::NotReached(at, why) if at == test.at => drop(test.missed.insert(group, why)),
            // It tried another address than the one in question, or did not try.
            DialBack::Reached(_) | DialBack::NotReached(..) | DialBack::NoVerdict => {}
        }
        let verdict = if test.reached.len() >= wanted {
            Reachability::Reachable { at: test.at.clone() }
        } else if let Some(why) = test.missed.get(&group).filter(|_| test.missed.len() >= wanted) {
            Reachability::Unreachable { at: test.at.clone(), why }
        } else {
            return false;
        };
        test.begin_again(now + TEST_AGAIN);
        self.verdicts.insert(network, verdict.clone()) != Some(verdict)
    }

    /// Entries of every map together, for tests and metrics.
    pub fn footprint(&self) -> usize {
        self.reports.len() + self.tests.values().map(|test| test.asked.len()).sum::<usize>()
    }

    /// The address that most netgroups name, and how many; the smaller address if two are level.
    fn most_named(&self, network: Network) -> Option<(Endpoint, usize)> {
        let mut groups: BTreeMap<&Endpoint, BTreeSet<NetGroup>> = BTreeMap::new();
        for (group, at) in self.reports.values().filter(|(_, at)| at.network() == network) {
            groups.entry(at).or_default().insert(*group);
        }
        let most = groups.into_iter().rev().max_by_key(|(_, groups)| groups.len())?;
        Some((most.0.clone(), most.1.len()))
    }
}

impl Test {
    fn begin_again(&mut self, next: Instant) {
        self.asked.clear();
        self.reached.clear();
        self.missed.clear();
        self.next = next;
    }
}

/// Dials back that may be under way at once.
pub const DIAL_BACKS_MAX: usize = 4;
/// One peer gets at most one in this time.
pub const DIAL_BACK_EVERY: Duration = Duration::from_secs(60);
/// All peers together get at most one in this time, and [`DIAL_BACKS_MAX`] at once: a handshake takes about
/// 1 ms of a core.
pub const DIAL_BACK_PACE: Duration = Duration::from_secs(1);
/// Peers remembered. More at once wait.
const ASKERS_MAX: usize = 1024;

/// How often we dial back for others. A core.
#[derive(Debug, Default)]
pub struct DialBacks {
    lately: BTreeMap<PeerId, Instant>,
    under_way: usize,
    last: Option<Instant>,
}

impl DialBacks {
    /// True if this peer may have one now; then call [`DialBacks::done`] after it.
    pub fn begin(&mut self, peer: &PeerId, now: Instant) -> bool {
        self.lately.retain(|_, at| now.saturating_duration_since(*at) < DIAL_BACK_EVERY);
        let too_soon = self.last.is_some_and(|last| now.saturating_duration_since(last) < DIAL_BACK_PACE);
        if too_soon
            || self.under_way >= DIAL_BACKS_MAX
            || self.lately.len() >= ASKERS_MAX
            || self.lately.contains_key(peer)
        {
            return false;
        }
        self.lately.insert(*peer, now);
        self.under_way += 1;
        self.last = Some(now);
        true
    }

    /// One ended, however.
    pub fn done(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netgroup::AddressPolicy,
        testing::{endpoint, peer, place},
    };

    fn group(n: u16) -> NetGroup {
        AddressPolicy::default().group(&place(n, 1))
    }

    fn ours() -> Endpoint {
        endpoint("99.1.2.3:4001")
    }

    #[test]
    fn an_address_is_believed_when_three_netgroups_agree_and_not_before() {
        let (mut reach, now) = (Reach::new(ReachConfig::default()), Instant::now());
        // A hundred peers of one netgroup, and one of another.
        for n in 0..100 {
            reach.observed(peer(n), group(1), ours(), now);
        }
        reach.observed(peer(100), group(2), ours(), now);
        assert!(reach.believed().is_empty() && reach.next_deadline().is_none());
        assert_eq!(reach.verdict(), Reachability::Unknown { seen_at: Some(ours()), groups: 2 });
        reach.observed(peer(101), group(3), ours(), now);
        assert_eq!(reach.believed(), vec![ours()]);
        // Two liars in two netgroups change nothing; three against three do not either.
        let lie = endpoint("88.8.8.8:1");
        for n in 0..2 {
            reach.observed(peer(200 + n), group(200 + n as u16), lie.clone(), now);
        }
        assert_eq!(reach.believed(), vec![ours()]);
    }

    #[test]
    fn two_netgroups_that_dialled_back_make_it_reachable_and_one_does_not() {
        let (mut reach, now) = (Reach::new(ReachConfig::default()), Instant::now());
        for n in 0..5 {
            reach.observed(peer(n), group(n as u16), ours(), now);
        }
        let first = reach.on_deadline(now);
        assert_eq!(first.len(), 1, "one at a time");
        assert!(reach.on_deadline(now + Duration::from_secs(1)).is_empty());
        assert!(!reach.answered(&peer(4000), DialBack::Reached(ours()), now), "nobody asked it");
        assert!(!reach.answered(&first[0], DialBack::Reached(ours()), now));
        let second = reach.on_deadline(now);
        assert!(reach.answered(&second[0], DialBack::Reached(ours()), now));
        assert_eq!(reach.verdict(), Reachability::Reachable { at: ours() });
        // It is looked at again later, and then two that fail turn it.
        assert_eq!(reach.next_deadline(), Some(now + TEST_AGAIN));
        let later = now + TEST_AGAIN;
        for turn in 0..2 {
            let asked = reach.on_deadline(later);
            let result = DialBack::NotReached(ours(), "nobody answered");
            assert_eq!(reach.answered(&asked[0], result, later), turn == 1);
        }
        assert_eq!(reach.verdict(), Reachability::Unreachable { at: ours(), why: "nobody answered" });
    }

    #[test]
    fn who_says_nothing_or_tried_elsewhere_has_no_say() {
        let (mut reach, now) = (Reach::new(ReachConfig::default()), Instant::now());
        for n in 0..4 {
            reach.observed(peer(n), group(n as u16), ours(), now);
        }
        let silent = reach.on_deadline(now);
        let late = now + ANSWER_TIMEOUT;
        let elsewhere = reach.on_deadline(late);
        assert_ne!(silent, elsewhere);
        assert!(!reach.answered(&silent[0], DialBack::Reached(ours()), late), "too late");
        reach.answered(&elsewhere[0], DialBack::Reached(endpoint("1.2.3.4:5")), late);
        let gone = reach.on_deadline(late);
        reach.disconnected(&gone[0], late);
        let last = reach.on_deadline(late);
        reach.answered(&last[0], DialBack::Reached(ours()), late);
        assert!(matches!(reach.verdict(), Reachability::Unknown { .. }));
        // Nobody is left to ask: it begins again soon.
        assert!(reach.on_deadline(late).is_empty());
        assert_eq!(reach.next_deadline(), Some(late + TEST_SOON));
    }

    #[test]
    fn the_reports_are_bounded_and_go_with_their_peers() {
        let (mut reach, now) = (Reach::new(ReachConfig::default()), Instant::now());
        for n in 0..REPORTS_MAX as u32 + 50 {
            reach.observed(peer(n), group(n as u16), ours(), now);
        }
        assert_eq!(reach.footprint(), REPORTS_MAX);
        for n in 0..REPORTS_MAX as u32 + 50 {
            reach.disconnected(&peer(n), now);
        }
        assert_eq!(reach.footprint(), 0);
    }

    #[test]
    fn dials_back_are_paced_for_one_and_for_all() {
        let (mut dials, start) = (DialBacks::default(), Instant::now());
        assert!(dials.begin(&peer(1), start));
        assert!(!dials.begin(&peer(2), start + DIAL_BACK_PACE - Duration::from_millis(1)));
        for n in 2..=DIAL_BACKS_MAX as u32 {
            assert!(dials.begin(&peer(n), start + DIAL_BACK_PACE * n));
        }
        let now = start + DIAL_BACK_PACE * 20;
        assert!(!dials.begin(&peer(9), now), "four are under way");
        dials.done();
        assert!(!dials.begin(&peer(1), now), "it had one a minute ago");
        assert!(dials.begin(&peer(9), now));
        dials.done();
        assert!(!dials.begin(&peer(1), start + DIAL_BACK_EVERY - Duration::from_millis(1)));
        assert!(dials.begin(&peer(1), start + DIAL_BACK_EVERY));
    }
}

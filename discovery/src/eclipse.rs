//! The eclipse watch: signs that this node may be cut off from the honest network.
//!
//! None of them proves it. An alarm says what was seen and leaves the judgement to the operator, which
//! is why each reason has to hold for a while, and why the alarm ends by itself.
//!
//! | reason | seen | why it is a sign |
//! | --- | --- | --- |
//! | stale tip | no new head for longer than slots explain | all peers may hold blocks back |
//! | few sources | outbound connections in fewer than [`WatchConfig::sources_min`] netgroups | one hand may hold them all |
//! | tips disagree | heads seen over two networks are more than [`TIPS_APART_MAX`] blocks apart | one of the two is fed by somebody |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use crate::address::Network;

/// Blocks by which heads over two networks may differ: what catching up after a pause looks like.
pub const TIPS_APART_MAX: u64 = 16;
/// A head that was seen so long ago says nothing.
pub const TIP_LIVES: Duration = Duration::from_secs(5 * 60);

/// When the watch speaks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchConfig {
    /// Netgroups that outbound connections should be in. Default 3; 0 turns this reason off, as in private
    /// networks, where all is in one hand anyway.
    pub sources_min: usize,
    /// How long a reason has to hold. Default 2 min.
    pub holds: Duration,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self { sources_min: 3, holds: Duration::from_secs(120) }
    }
}

/// One sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No new head.
    StaleTip,
    /// Outbound connections in so few netgroups.
    FewSources {
        /// How many.
        groups: usize,
    },
    /// Heads seen over two networks are far apart.
    TipsDisagree {
        /// The one that is ahead.
        ahead: Network,
        /// The one that is behind.
        behind: Network,
        /// By so many blocks.
        blocks: u64,
    },
}

impl Reason {
    const fn kind(self) -> u8 {
        match self {
            Self::StaleTip => 0,
            Self::FewSources { .. } => 1,
            Self::TipsDisagree { .. } => 2,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StaleTip => f.write_str("no new block for longer than the chain's slots explain"),
            Self::FewSources { groups: 0 } => f.write_str("no peer that this node dialled is connected"),
            Self::FewSources { groups } => {
                write!(f, "the peers that this node dialled are in {groups} netgroups only")
            }
            Self::TipsDisagree { ahead, behind, blocks } => {
                write!(f, "heads seen over {ahead} are {blocks} blocks ahead of those seen over {behind}")
            }
        }
    }
}

/// See the [module documentation](self). A core.
#[derive(Debug)]
pub struct Watch {
    config: WatchConfig,
    tips: BTreeMap<Network, (u64, Instant)>,
    /// Reasons that are so now, and since when.
    seen: BTreeMap<u8, (Reason, Instant)>,
    raised: BTreeSet<u8>,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(config: WatchConfig) -> Self {
        Self { config, tips: BTreeMap::new(), seen: BTreeMap::new(), raised: BTreeSet::new() }
    }

    /// A peer that was reached over this network showed a head of this height.
    pub fn tip_seen(&mut self, network: Network, height: u64, now: Instant) {
        let tip = self.tips.entry(network).or_insert((height, now));
        *tip =
            (if now.saturating_duration_since(tip.1) < TIP_LIVES { tip.0.max(height) } else { height }, now);
    }

    /// How things are: the netgroups of outbound connections, and whether the tip is stale. Answers true if
    /// what the alarm says changed.
    pub fn look(&mut self, outbound_groups: usize, tip_is_stale: bool, now: Instant) -> bool {
        let mut reasons = Vec::new();
        reasons.extend(tip_is_stale.then_some(Reason::StaleTip));
        let few = outbound_groups < self.config.sources_min;
        reasons.extend(few.then_some(Reason::FewSources { groups: outbound_groups }));
        reasons.extend(self.disagreement(now));
        let kinds: BTreeSet<u8> = reasons.iter().map(|reason| reason.kind()).collect();
        self.seen.retain(|kind, _| kinds.contains(kind));
        for reason in reasons {
            self.seen.entry(reason.kind()).or_insert((reason, now)).0 = reason;
        }
        let holds = |since: &Instant| now.saturating_duration_since(*since) >= self.config.holds;
        let raised: BTreeSet<u8> =
            self.seen.iter().filter(|(_, (_, since))| holds(since)).map(|(kind, _)| *kind).collect();
        let changed = raised != self.raised;
        self.raised = raised;
        changed
    }

    /// The reasons of the alarm, if there is one.
    pub fn reasons(&self) -> Vec<Reason> {
        self.raised.iter().filter_map(|kind| Some(self.seen.get(kind)?.0)).collect()
    }

    /// When [`Watch::look`] may say something new though nothing happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.seen.iter().filter(|(kind, _)| !self.raised.contains(kind));
        waiting.map(|(_, (_, since))| *since + self.config.holds).min()
    }

    fn disagreement(&self, now: Instant) -> Option<Reason> {
        let fresh = || self.tips.iter().filter(|(_, (_, at))| now.saturating_duration_since(*at) < TIP_LIVES);
        let (ahead, (most, _)) = fresh().max_by_key(|(_, (height, _))| *height)?;
        let (behind, (least, _)) = fresh().min_by_key(|(_, (height, _))| *height)?;
        let blocks = most - least;
        (blocks > TIPS_APART_MAX).then_some(Reason::TipsDisagree { ahead: *ahead, behind: *behind, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_reason_has_to_hold_and_the_alarm_ends_by_itself() {
        let (mut watch, start) = (Watch::new(WatchConfig::default()), Instant::now());
        assert!(!watch.look(8, true, start));
        let due = watch.next_deadline().unwrap();
        assert_eq!(due, start + 120 * SECOND);
        assert!(!watch.look(8, true, due - Duration::from_millis(1)) && watch.reasons().is_empty());
        assert!(watch.look(8, true, due));
        assert_eq!(watch.reasons(), [Reason::StaleTip]);
        assert!(!watch.look(8, true, due + SECOND) && watch.next_deadline().is_none());
        assert!(watch.look(8, false, due + 2 * SECOND));
        assert!(watch.reasons().is_empty());
        // A moment without it begins the wait anew.
        watch.look(8, true, due + 3 * SECOND);
        assert!(!watch.look(8, true, due + 60 * SECOND));
    }

    #[test]
    fn sources_from_both_sides_of_the_bound() {
        let later = Instant::now() + 1000 * SECOND;
        for (groups, alarm) in [(0, true), (2, true), (3, false)] {
            let mut watch = Watch::new(WatchConfig::default());
            watch.look(groups, false, later - 120 * SECOND);
            assert_eq!(watch.look(groups, false, later), alarm, "{groups}");
        }
        let mut private = Watch::new(WatchConfig { sources_min: 0, ..WatchConfig::default() });
        private.look(0, false, later - 120 * SECOND);
        assert!(!private.look(0, false, later));
    }

    #[test]
    fn tips_over_two_networks_from_both_sides_of_the_bound() {
        let start = Instant::now();
        for (behind, alarm) in [(1000 - TIPS_APART_MAX, false), (999 - TIPS_APART_MAX, true)] {
            let mut watch = Watch::new(WatchConfig::default());
            for at in [start, start + 120 * SECOND] {
                watch.tip_seen(Network::Ip4, 1000, at);
                watch.tip_seen(Network::Ip6, behind, at);
                assert_eq!(watch.look(8, false, at), alarm && at > start, "{behind}");
            }
            if alarm {
                let text = watch.reasons()[0].to_string();
                assert_eq!(text, "heads seen over ip4 are 17 blocks ahead of those seen over ip6");
            }
            // What was seen long ago says nothing.
            watch.tip_seen(Network::Ip4, 2000, start + 120 * SECOND + TIP_LIVES);
            watch.look(8, false, start + 120 * SECOND + TIP_LIVES);
            assert!(watch.reasons().is_empty());
        }
    }
}

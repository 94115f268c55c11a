//! What a scenario file says. See `testnet/SCENARIOS.md` for the format with examples.

use std::{collections::BTreeMap, fmt, time::Duration};

use ghost_node::cli::parse_duration;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    adversary::Role,
    sim::{Access, Delay, Loss, NetworkPlan, Pace, Path, Rate, disk::DiskKind},
};

/// Longest scenario, in time of its world. A day of four nodes is half an hour of one core.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Most nodes of a world: each takes about a MiB.
pub const NODES_MAX: u32 = 5_000;

/// Why a file is no scenario. The text names the place.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It is not TOML, or has a key that means nothing.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Its parts do not fit together.
    #[error("{0}")]
    Invalid(String),
}

fn invalid<T>(text: impl fmt::Display) -> Result<T, ScenarioError> {
    Err(ScenarioError::Invalid(text.to_string()))
}

/// A length of time, written like `250ms`, `30s` or `10m`; with a minus in front where a clock is
/// behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span {
    /// In milliseconds.
    pub ms: i64,
}

impl Span {
    /// As a length; what is negative is nothing.
    pub fn length(self) -> Duration {
        Duration::from_millis(self.ms.max(0) as u64)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (sign, rest) = text.strip_prefix('-').map_or((1, &*text), |rest| (-1, rest));
        let length = parse_duration(rest).map_err(D::Error::custom)?;
        let ms = i64::try_from(length.as_millis()).map_err(D::Error::custom)?;
        Ok(Self { ms: sign * ms })
    }
}

/// Some of the nodes: `all`, `even`, `odd`, or numbers and ranges with commas, such as `0-3,7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSet(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Even,
    Odd,
    Range(u32, u32),
}

impl NodeSet {
    /// Everybody.
    pub fn all() -> Self {
        Self(vec![Part::All])
    }

    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.trim().parse::<u32>().map_err(|_| {
                format!("`{text}` names no nodes; write all, even, odd, or numbers and ranges such as 0-3,7")
            })
        };
        let mut parts = Vec::new();
        for part in text.split(',') {
            parts.push(match part.trim() {
                "all" => Part::All,
                "even" => Part::Even,
                "odd" => Part::Odd,
                part => match part.split_once('-') {
                    Some((first, last)) => Part::Range(number(first)?, number(last)?),
                    None => Part::Range(number(part)?, number(part)?),
                },
            });
        }
        Ok(Self(parts))
    }

    /// Their numbers, ascending, of so many.
    pub fn of(&self, nodes: u32) -> Vec<u32> {
        let is_in = |node: &u32| {
            self.0.iter().any(|part| match part {
                Part::All => true,
                Part::Even => node.is_multiple_of(2),
                Part::Odd => !node.is_multiple_of(2),
                Part::Range(first, last) => (first..=last).contains(&node),
            })
        };
        (0..nodes).filter(is_in).collect()
    }

    fn highest(&self) -> u32 {
        self.0.iter().map(|part| if let Part::Range(_, last) = part { *last } else { 0 }).max().unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for NodeSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Where a scenario runs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Chain, sync, mempool and relay alone, in virtual time: repeats bit for bit.
    Cores,
    /// Whole nodes over a simulated network, in virtual time.
    Nodes,
    /// Real processes on loopback, in real time.
    Processes,
}

impl Backend {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Nodes => "nodes",
            Self::Processes => "processes",
        }
    }
}

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line for people.
    pub about: String,
    /// Which of the scenarios in `SCENARIOS.md` it shows.
    #[serde(default)]
    pub shows: Vec<u8>,
    /// Decides everything that is drawn, unless another is named.
    pub seed: u64,
    /// How long it goes on, from the start of the nodes. Traffic ends then; what is expected with a
    /// patience may take longer.
    pub duration: Span,
    /// Where it has a meaning.
    #[serde(default = "everywhere")]
    pub backends: Vec<Backend>,
    /// The nodes.
    #[serde(default)]
    pub topology: Topology,
    /// How every path is.
    #[serde(default)]
    pub link: Link,
    /// How the paths to and from some nodes are instead.
    #[serde(default)]
    pub links: Vec<SomeLinks>,
    /// Transfers.
    pub traffic: Option<Traffic>,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// Who means harm.
    #[serde(default)]
    pub adversary: Vec<Hostile>,
    /// What must hold.
    pub expect: Vec<Expect>,
}

fn everywhere() -> Vec<Backend> {
    vec![Backend::Nodes]
}

/// The nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// How many.
    pub nodes: u32,
    /// The first so many propose and vote. Keys beyond the nodes belong to equivocators.
    pub authorities: u16,
    /// Slot length.
    pub slot: Span,
    /// Links that each node dials by itself.
    pub outbound: u32,
    /// Nodes that each is told of.
    pub told: usize,
    /// Accounts with money.
    pub accounts: u32,
    /// What chains are kept on: `memory` or `sled`.
    pub disk: DiskName,
    /// Clocks that are wrong.
    pub skew: Vec<Skew>,
}

impl Default for Topology {
    fn default() -> Self {
        let plan = NetworkPlan::default();
        Self {
            nodes: plan.nodes,
            authorities: plan.authorities,
            slot: Span { ms: plan.slot_ms as i64 },
            outbound: plan.outbound,
            told: plan.told,
            accounts: plan.accounts,
            disk: DiskName::Memory,
            skew: Vec::new(),
        }
    }
}

/// What chains are kept on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskName {
    /// A map with the promises of a store.
    Memory,
    /// The real store.
    Sled,
}

/// Some clocks are wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skew {
    /// Whose.
    pub nodes: NodeSet,
    /// How far ahead; `-2m` is behind.
    pub by: Span,
}

/// A path.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Median one-way delay.
    pub delay: Span,
    /// Standard deviation of the delay's logarithm over the pairs of nodes; 0 makes all alike.
    pub sigma: f64,
    /// Most that a packet is late beside the others of its path.
    pub jitter: Span,
    /// Share of the packets that is lost.
    pub loss: f64,
    /// Mean length of a burst of loss, in packets; 1 makes losses independent.
    pub burst: f64,
    /// What a node's attachment carries each way, in bytes per second; 0 is as much as need be.
    pub rate_bytes_per_s: u64,
    /// How much may wait in front of it.
    pub queue: Span,
}

impl Default for Link {
    fn default() -> Self {
        let ms = |ms| Span { ms };
        Self {
            delay: ms(25),
            sigma: 0.0,
            jitter: ms(0),
            loss: 0.0,
            burst: 1.0,
            rate_bytes_per_s: 0,
            queue: ms(200),
        }
    }
}

impl Link {
    fn check(&self) -> Result<(), ScenarioError> {
        if !(0.0..1.0).contains(&self.loss) {
            return invalid(format!("loss is {}; it is a share below 1", self.loss));
        }
        if !(1.0..=10_000.0).contains(&self.burst) || !(0.0..=5.0).contains(&self.sigma) {
            return invalid("burst is a number of packets from 1 to 10,000, and sigma is from 0 to 5");
        }
        Ok(())
    }

    /// As the wire takes it.
    pub fn path(&self) -> Path {
        let delay = match self.sigma {
            0.0 => Delay::Constant(self.delay.length()),
            sigma => Delay::LogNormal { median: self.delay.length(), sigma },
        };
        let loss = match (self.loss, self.burst) {
            (0.0, _) => Loss::None,
            (loss, 1.0) => Loss::Random(loss),
            (loss, burst) => Loss::bursts(loss, burst),
        };
        let path = Path::new(delay).with_loss(loss);
        match self.jitter.length() {
            Duration::ZERO => path,
            jitter => path.with_jitter(Delay::Uniform(Duration::ZERO, jitter)),
        }
    }

    /// The attachment of a node that has such links.
    pub fn access(&self) -> Access {
        match self.rate_bytes_per_s {
            0 => Access::default(),
            rate => Access::symmetric(Rate::new(rate, self.queue.length())),
        }
    }

    fn is_lossy(&self) -> bool {
        self.loss > 0.0 || self.rate_bytes_per_s > 0
    }
}

/// The paths to and from some nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SomeLinks {
    /// Whose.
    pub nodes: NodeSet,
    /// How they are.
    pub link: Link,
}

/// Transfers at a steady pace.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// A second, over all nodes.
    pub tps: f64,
    /// Bytes of payload in each.
    #[serde(default)]
    pub payload_bytes: usize,
    /// The first so many nodes have wallets; all by default.
    pub entrances: Option<u32>,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// `nodes` reach only each other, and so do the others.
    Partition,
    /// The partition is over.
    Heal,
    /// The power of `nodes` fails; with it goes what was not flushed.
    Crash,
    /// `nodes` start again; those that run crash first.
    Restart,
    /// `nodes` are cut off, and run on.
    Down,
    /// They are back.
    Up,
    /// The NAT in front of `nodes` gives each another address.
    Rebind,
    /// `nodes` restart with clocks that are off `by`.
    Skew,
    /// The paths to and from `nodes` become `link`.
    Link,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, from the start.
    pub at: Span,
    /// What.
    pub what: What,
    /// Whom it strikes.
    pub nodes: Option<NodeSet>,
    /// For `skew`.
    pub by: Option<Span>,
    /// For `link`.
    pub link: Option<Link>,
}

/// Adversaries.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hostile {
    /// What they do.
    pub role: Role,
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// When they come.
    #[serde(default)]
    pub at: Span,
}

fn one() -> u32 {
    1
}

/// What can be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Property {
    /// Heads are at most `max` blocks apart (1 by default), and all have the same block so far below.
    HeadsAgree,
    /// At least two heads have different blocks below them: only a step on the way to a later check.
    HeadsDiffer,
    /// Nobody's highest final block is more than `max` below its head.
    FinalityLag,
    /// Everybody's head is at least `min`.
    Height,
    /// 95 % of the transfers were in a block of their node within `max` milliseconds.
    TxP95Ms,
    /// Every transfer is in a block of everybody.
    AllIncluded,
    /// Nobody honest bans anybody honest.
    NoBans,
    /// Nobody received more than `max` bytes since the start.
    BytesPerNode,
    /// Everybody has at least `min` peers.
    Peers,
    /// At most `max` transactions wait in anybody's mempool.
    Pending,
}

/// What must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What.
    pub what: Property,
    /// When; at the end by default.
    pub at: Option<Span>,
    /// So long after that it is late enough. At once by default.
    #[serde(default)]
    pub within: Span,
    /// Of whom; of all that live by default.
    pub nodes: Option<NodeSet>,
    /// A most.
    pub max: Option<u64>,
    /// A least.
    pub min: Option<u64>,
}

impl Scenario {
    /// Reads a file and checks that its parts fit together.
    ///
    /// # Errors
    /// [`ScenarioError`]; the text names the line or the part.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let nodes = self.topology.nodes;
        if nodes == 0 || nodes > NODES_MAX {
            return invalid(format!("topology.nodes is {nodes}; from 1 to {NODES_MAX} is allowed"));
        }
        if self.topology.authorities == 0 {
            return invalid("topology.authorities is 0; nobody would make blocks");
        }
        if self.topology.slot.ms < 100 {
            return invalid("topology.slot is shorter than 100ms");
        }
        if self.duration.length() > DURATION_MAX || self.duration.ms <= 0 {
            return invalid("duration must be longer than nothing and no more than a day");
        }
        if self.backends.is_empty() || self.expect.is_empty() {
            return invalid("a scenario runs somewhere (backends) and expects something (expect)");
        }
        if let Some(traffic) = self.traffic
            && !(traffic.tps > 0.0 && traffic.tps <= f64::from(crate::traffic::TPS_MAX))
        {
            return invalid(format!("traffic.tps is {}", traffic.tps));
        }
        self.link.check()?;
        let sets = self.links.iter().map(|links| &links.nodes);
        let sets = sets.chain(self.fault.iter().filter_map(|fault| fault.nodes.as_ref()));
        let sets = sets.chain(self.expect.iter().filter_map(|expect| expect.nodes.as_ref()));
        let sets = sets.chain(self.topology.skew.iter().map(|skew| &skew.nodes));
        for set in sets {
            if set.highest() >= nodes {
                return invalid(format!("node {} is named; the nodes are 0 to {}", set.highest(), nodes - 1));
            }
        }
        for links in &self.links {
            links.link.check()?;
        }
        for fault in &self.fault {
            let (what, strikes) = (fault.what, fault.what != What::Heal);
            if strikes != fault.nodes.is_some() {
                return invalid(format!(
                    "a {what:?} fault {} nodes",
                    if strikes { "needs" } else { "has no" }
                ));
            }
            if (what == What::Skew) != fault.by.is_some() || (what == What::Link) != fault.link.is_some() {
                return invalid(format!("`by` belongs to a skew and `link` to a link, not to a {what:?}"));
            }
            if fault.at > self.duration || fault.at.ms < 0 {
                return invalid(format!("a {what:?} fault comes after the end"));
            }
        }
        for expect in &self.expect {
            let (max, min) = match expect.what {
                Property::HeadsAgree => (expect.max.is_some(), false),
                Property::FinalityLag | Property::TxP95Ms | Property::BytesPerNode | Property::Pending => {
                    (true, false)
                }
                Property::Height | Property::Peers => (false, true),
                Property::HeadsDiffer | Property::AllIncluded | Property::NoBans => (false, false),
            };
            if expect.max.is_some() != max || expect.min.is_some() != min {
                return invalid(format!(
                    "{:?} takes {}",
                    expect.what,
                    match (max, min) {
                        (true, _) => "a max",
                        (_, true) => "a min",
                        _ => "neither max nor min",
                    }
                ));
            }
            if expect.at.is_some_and(|at| at > self.duration) {
                return invalid(format!("{:?} is expected after the end", expect.what));
            }
        }
        self.backends.iter().try_for_each(|backend| match self.needs_more_than(*backend) {
            Some(need) => invalid(format!("{} cannot run it: {need}", backend.name())),
            None => Ok(()),
        })
    }

    /// What a back end lacks for this scenario, if anything.
    pub fn needs_more_than(&self, backend: Backend) -> Option<&'static str> {
        let lossy = self.link.is_lossy() || self.links.iter().any(|links| links.link.is_lossy());
        let has = |what: &[What]| self.fault.iter().any(|fault| what.contains(&fault.what));
        match backend {
            Backend::Nodes => None,
            Backend::Cores if !self.adversary.is_empty() => Some("adversaries speak to whole nodes"),
            Backend::Cores if lossy || has(&[What::Rebind, What::Link]) => {
                Some("cores have no packets to lose and no addresses to change")
            }
            Backend::Cores if self.expect.iter().any(|expect| expect.what == Property::Peers) => {
                Some("cores are all connected")
            }
            Backend::Cores => None,
            Backend::Processes if lossy || !self.links.is_empty() || !self.topology.skew.is_empty() => {
                Some("loopback loses nothing and has one clock")
            }
            Backend::Processes
                if self.fault.iter().any(|fault| !matches!(fault.what, What::Crash | What::Restart)) =>
            {
                Some("on loopback processes can only crash and restart")
            }
            Backend::Processes if self.topology.nodes > u32::from(crate::genesis::NODES_MAX) => {
                Some("too many nodes for processes of one machine")
            }
            Backend::Processes
                if self
                    .expect
                    .iter()
                    .any(|expect| matches!(expect.what, Property::BytesPerNode | Property::NoBans)) =>
            {
                Some("processes do not say what they received or whom they ban")
            }
            Backend::Processes => None,
        }
    }

    /// The network it wants.
    pub fn plan(&self, seed: u64) -> NetworkPlan {
        let mut skew_ms = BTreeMap::new();
        for skew in &self.topology.skew {
            skew_ms.extend(skew.nodes.of(self.topology.nodes).into_iter().map(|node| (node, skew.by.ms)));
        }
        NetworkPlan {
            seed,
            nodes: self.topology.nodes,
            authorities: self.topology.authorities,
            accounts: self.topology.accounts,
            slot_ms: self.topology.slot.ms as u64,
            outbound: self.topology.outbound,
            told: self.topology.told,
            path: self.link.path(),
            disk: match self.topology.disk {
                DiskName::Memory => DiskKind::Memory,
                DiskName::Sled => DiskKind::Sled,
            },
            skew_ms,
            // The only publisher there is.
            publishers: self.adversary.iter().any(|come| come.role.is_publisher()).into(),
            ..NetworkPlan::default()
        }
    }

    /// The traffic it wants.
    pub fn pace(&self) -> Option<Pace> {
        self.traffic.map(|traffic| Pace {
            tps: traffic.tps,
            payload_bytes: traffic.payload_bytes,
            entrances: traffic.entrances.unwrap_or(self.topology.nodes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "about = \"x\"\nseed = 1\nduration = \"10s\"\n[[expect]]\nwhat = \"heads-agree\"\n";

    fn refused(text: &str) -> String {
        Scenario::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn nodes_are_named_in_words_or_numbers() {
        let of = |text| NodeSet::parse(text).map(|set| set.of(8));
        assert_eq!(of("all").unwrap().len(), 8);
        assert_eq!(of("even").unwrap(), [0, 2, 4, 6]);
        assert_eq!(of("odd, 0").unwrap(), [0, 1, 3, 5, 7]);
        assert_eq!(of("1-3,6").unwrap(), [1, 2, 3, 6]);
        assert!(of("some").is_err() && of("1-").is_err() && of("").is_err());
    }

    #[test]
    fn keys_that_mean_nothing_are_refused_with_their_line() {
        assert!(Scenario::parse(LEAST).is_ok());
        let error = refused(&format!("{LEAST}\n[topology]\nnodez = 4\n"));
        assert!(error.contains("nodez") && error.contains("line 8"), "{error}");
        assert!(refused(&LEAST.replace("seed", "sead")).contains("sead"));
        assert!(refused(&LEAST.replace("heads-agree", "all-is-well")).contains("all-is-well"));
        assert!(refused(&LEAST.replace("10s", "10 apples")).contains("such as 500ms"));
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        for (more, word) in [
            ("[[fault]]\nat = \"1s\"\nwhat = \"crash\"\n", "needs nodes"),
            ("[[fault]]\nat = \"1s\"\nwhat = \"heal\"\nnodes = \"all\"\n", "has no nodes"),
            ("[[fault]]\nat = \"11s\"\nwhat = \"heal\"\n", "after the end"),
            ("[[fault]]\nat = \"1s\"\nwhat = \"crash\"\nnodes = \"4\"\n", "0 to 3"),
            ("[[fault]]\nat = \"1s\"\nwhat = \"skew\"\nnodes = \"1\"\n", "`by`"),
            ("[[expect]]\nwhat = \"height\"\nmax = 3\n", "a min"),
            ("[[expect]]\nwhat = \"no-bans\"\nmax = 3\n", "neither"),
            ("[topology]\nnodes = 0\n", "from 1"),
            ("[topology]\nauthorities = 0\n", "nobody"),
            ("[link]\nloss = 1.0\n", "share"),
        ] {
            let error = refused(&format!("{LEAST}{more}"));
            assert!(error.contains(word), "{more}: {error}");
        }
        let lossy = LEAST.replace("seed", "backends = [\"cores\"]\nseed");
        assert!(refused(&format!("{lossy}[link]\nloss = 0.1\n")).contains("no packets"));
    }
}

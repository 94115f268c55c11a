//! Every figure the node shows to Prometheus: all names in one file, all starting with `ghostd_`.
//!
//! Counters only grow, and start at zero with the process. Labels take values from fixed lists, so
//! that no peer can make the set of series grow.

mod process;

use std::{
    fmt,
    sync::{Mutex, atomic::AtomicU64},
};

use ghost_protocol::{
    class::Class,
    tally::{Tally, Traffic},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use ghost_mempool_relay::tx_relay::RelayStats;

pub use process::{descriptors_in_use, resident_bytes};

/// The prefix of every name.
pub const PREFIX: &str = "ghostd";

macro_rules! labels {
    ($($(#[doc = $doc:literal])* $name:ident { $($variant:ident = $text:literal),* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum $name { $($variant),* }

        impl $name {
            /// The word in labels and in the status.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                EncodeLabelValue::encode(&self.name(), encoder)
            }
        }
    )*};
}

labels! {
    /// Who started a connection, or which way bytes go.
    Direction { Inbound = "inbound", Outbound = "outbound" }
    /// What kind of address a peer is reached at.
    Network { Ip4 = "ip4", Ip6 = "ip6", Onion = "onion", Local = "local" }
    /// What the other side of a session is.
    PeerRole { Node = "node", Client = "client" }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    direction: Direction,
    network: Network,
    role: PeerRole,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Where to read counts that are kept elsewhere: kind, reason, count.
pub type EventSource = Box<dyn Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync>;

macro_rules! metrics {
    (
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $name:literal;)*
    ) => {
        /// The counters and gauges of a node; share it in an `Arc`.
        pub struct Metrics {
            registry: Mutex<Registry>,
            $($(#[doc = $doc])* pub $field: $type,)*
            sessions: Family<SessionLabels, Gauge>,
            rejected: Family<Reason, Counter>,
            hidden: Family<Reason, Counter>,
            served: Family<KindLabel, Counter>,
            price_reports: Family<Reason, Counter>,
        }

        impl Metrics {
            /// All at zero.
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix(PREFIX);
                $(
                    let $field = <$type as NewMetric>::new_metric();
                    // The client ends every help text with a full stop of its own.
                    let help = concat!($($doc),*).trim().trim_end_matches('.');
                    registry.register($name, help, $field.clone());
                )*
                let sessions = Family::default();
                registry.register("sessions", "Connections that are open now, by who dialled, network and role", sessions.clone());
                let hidden = Family::default();
                registry.register("submissions_over_tor", "Submissions over circuits of Tor: confirmed when the network brought them back, or given_up", hidden.clone());
                let rejected = Family::default();
                registry.register("transactions_rejected", "Transactions not taken into the mempool, by reason; not those known already", rejected.clone());
                let served = Family::default();
                registry.register("requests_served", "Requests answered, by kind; not those refused or cancelled", served.clone());
                let price_reports = Family::default();
                registry.register("price_reports", "Reports of prices and evidence against publishers, by what became of them", price_reports.clone());
                let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
                registry.register("build", "The running version", build);
                registry.register_collector(Box::new(process::ProcessCollector::new()));
                Self {
                    registry: Mutex::new(registry),
                    $($field,)*
                    sessions,
                    rejected,
                    hidden,
                    served,
                    price_reports,
                }
            }
        }
    };
}

metrics! {
    /// Height of the canonical head.
    head_height: Gauge = "head_height";
    /// Height of the highest final block.
    finalized_height: Gauge = "finalized_height";
    /// Highest height that a peer has claimed with a valid header; equal to the head when in step.
    sync_target_height: Gauge = "sync_target_height";
    /// 1 while the node catches up, else 0.
    syncing: Gauge = "syncing";
    /// Transactions that wait for a block, parked ones too.
    mempool_transactions: Gauge = "mempool_transactions";
    /// Bytes of transactions that wait for a block.
    mempool_bytes: Gauge = "mempool_bytes";
    /// Mailboxes of wallets that are kept.
    mailboxes: Gauge = "mailboxes";
    /// Envelopes in them.
    mailbox_envelopes: Gauge = "mailbox_envelopes";
    /// Bytes of these envelopes.
    mailbox_bytes: Gauge = "mailbox_bytes";
    /// Envelopes that were brought and are kept; not those that were in the box already.
    mailbox_deposits: Counter = "mailbox_deposits";
    /// Envelopes that were brought and are not kept, for want of room, grant or stamp, or because they were there.
    mailbox_refusals: Counter = "mailbox_refusals";
    /// Transactions taken into the mempool, from callers and peers; not again after a reorganisation.
    transactions_accepted: Counter = "transactions_accepted";
    /// Transactions in blocks that became canonical; those of a branch that was left are not taken back.
    transactions_included: Counter = "transactions_included";
    /// Blocks this node proposed.
    blocks_proposed: Counter = "blocks_proposed";
    /// Slots of this node in which it ran and proposed nothing; counted when its next slot comes.
    slots_missed: Counter = "slots_missed";
    /// Blocks executed and stored, its own too; not blocks known already or refused.
    blocks_imported: Counter = "blocks_imported";
    /// Blocks refused as invalid; not those whose parent is unknown.
    blocks_invalid: Counter = "blocks_invalid";
    /// Times the head moved to a block that does not descend from it.
    reorganisations: Counter = "reorganisations";
    /// Blocks that the deepest of those took back.
    reorganisation_depth_max: Gauge = "reorganisation_depth_max";
    /// Times an authority was caught signing two things of which it may sign one.
    equivocations: Counter = "equivocations";
    /// Publishers that signed two prices for one sequence; each once.
    price_equivocations: Counter = "price_equivocations";
    /// Blocks proposed with prices in them.
    price_blocks: Counter = "price_blocks";
    /// Votes this node made.
    votes_cast: Counter = "votes_cast";
    /// Valid votes of others; not votes known already.
    votes_received: Counter = "votes_received";
    /// Transactions received from peers that were new.
    relay_new_transactions: Counter = "relay_new_transactions";
    /// Transactions received that were known already: the price of redundancy in relay.
    relay_duplicate_transactions: Counter = "relay_duplicate_transactions";
    /// Blocks received whole that were known already.
    relay_duplicate_blocks: Counter = "relay_duplicate_blocks";
    /// New blocks that came whole, pushed or asked for; not those of chain sync.
    relay_blocks_whole: Counter = "relay_blocks_whole";
    /// New blocks put together from short ids.
    relay_blocks_compact: Counter = "relay_blocks_compact";
    /// New blocks put together from short ids without asking for anything.
    relay_blocks_compact_at_once: Counter = "relay_blocks_compact_at_once";
    /// New blocks whose short ids were of no use: hardly any transaction was in the mempool, or the result was not the block.
    relay_blocks_compact_failed: Counter = "relay_blocks_compact_failed";
    /// Transactions of such blocks that were in the mempool.
    relay_block_transactions_found: Counter = "relay_block_transactions_found";
    /// Transactions of such blocks that were not.
    relay_block_transactions_lacked: Counter = "relay_block_transactions_lacked";
    /// New blocks, or the part of one that was missing, put together from shards.
    relay_blocks_sharded: Counter = "relay_blocks_sharded";
    /// Shards received.
    relay_shards: Counter = "relay_shards";
    /// Shards received that were here already or of no use.
    relay_shards_useless: Counter = "relay_shards_useless";
    /// Proposers that signed two shard roots for one payload, or one that is not its payload's.
    shard_faults: Counter = "shard_faults";
    /// Requests sent for new blocks: for short ids, for what is missing, for the whole.
    relay_block_requests: Counter = "relay_block_requests";
    /// Bytes received of new blocks: short ids, transactions, shards, bodies; those of no use included.
    relay_block_bytes: Counter = "relay_block_bytes";
    /// Seconds from the first news of a block until it was here; not those of chain sync.
    block_arrival_seconds: Histogram = "block_arrival_seconds";
    /// Transactions that were asked of a peer and did not come in time; each repeat counts.
    relay_fetch_timeouts: Counter = "relay_fetch_timeouts";
    /// Bytes of transactions received from peers that were new.
    relay_useful_bytes: Counter = "relay_useful_bytes";
    /// Bytes received from peers to spread transactions that brought none: bodies again, announcements, sketches; not framing.
    relay_other_bytes: Counter = "relay_other_bytes";
    /// Mempool reconciliations of ours that found the difference.
    reconciliations_completed: Counter = "reconciliations_completed";
    /// Mempool reconciliations of ours that came to nothing: refused, broken off, timed out or made up.
    reconciliations_failed: Counter = "reconciliations_failed";
    /// Mempool reconciliations of ours that found the difference by a list; counted among the completed.
    reconciliations_listed: Counter = "reconciliations_listed";
    /// Coded symbols received in completed reconciliations; not in those that were listed.
    reconciliation_symbols: Counter = "reconciliation_symbols";
    /// Transactions that differed in completed reconciliations; not in those that were listed.
    reconciliation_differences: Counter = "reconciliation_differences";
    /// Transactions held on stems now, neither pending nor announced.
    stem_transactions: Gauge = "stem_transactions";
    /// Dials that were begun.
    dials: Counter = "dials";
    /// Dials that ended without a session, for whatever reason.
    dials_failed: Counter = "dials_failed";
    /// Peers in the address book.
    known_peers: Gauge = "known_peers";
    /// Peers that are banned now.
    banned_peers: Gauge = "banned_peers";
    /// Seconds to execute and store a block of another node; not the time it waited in a queue.
    block_import_seconds: Histogram = "block_import_seconds";
    /// Seconds from the start of a block's slot to its becoming our head; not while syncing.
    block_delay_seconds: Histogram = "block_delay_seconds";
}

trait NewMetric {
    fn new_metric() -> Self;
}

impl NewMetric for Counter<u64, AtomicU64> {
    fn new_metric() -> Self {
        Self::default()
    }
}

impl NewMetric for Gauge {
    fn new_metric() -> Self {
        Self::default()
    }
}

impl NewMetric for Histogram {
    fn new_metric() -> Self {
        // 1 ms, doubling, to 16 s: from an empty block on a fast disk to several slots.
        Self::new(exponential_buckets(0.001, 2.0, 15))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A session began. Count it down again with [`Self::session_ended`] and the same labels.
    pub fn session_began(&self, direction: Direction, network: Network, role: PeerRole) {
        self.sessions.get_or_create(&SessionLabels { direction, network, role }).inc();
    }

    /// A session ended.
    pub fn session_ended(&self, direction: Direction, network: Network, role: PeerRole) {
        self.sessions.get_or_create(&SessionLabels { direction, network, role }).dec();
    }

    /// A transaction was not taken. `reason` is the word that submitters get.
    pub fn transaction_rejected(&self, reason: &'static str) {
        self.rejected.get_or_create(&Reason { reason }).inc();
    }

    /// A submission over Tor is over, and how: `confirmed` or `given_up`.
    pub fn hidden_submission(&self, reason: &'static str) {
        self.hidden.get_or_create(&Reason { reason }).inc();
    }

    /// A request was answered. `kind` is the frame's name in the registry.
    pub fn request_served(&self, kind: &'static str) {
        self.served.get_or_create(&KindLabel { kind }).inc();
    }

    /// A report of a price, or evidence, was dealt with.
    pub fn price_report(&self, reason: &'static str) {
        self.price_reports.get_or_create(&Reason { reason }).inc();
    }

    /// How many were dealt with so.
    pub fn price_reports_of(&self, reason: &'static str) -> u64 {
        self.price_reports.get_or_create(&Reason { reason }).get()
    }

    /// What the relay counted between two looks at it.
    pub fn relayed(&self, last: &RelayStats, now: &RelayStats) {
        type Read = fn(&RelayStats) -> u64;
        let counters: [(&Counter, Read); 10] = [
            (&self.relay_new_transactions, |stats| stats.bodies_first),
            (&self.relay_duplicate_transactions, |stats| stats.bodies_duplicate),
            (&self.relay_fetch_timeouts, |stats| stats.fetch.timeouts),
            (&self.relay_useful_bytes, |stats| stats.bytes_useful),
            (&self.relay_other_bytes, RelayStats::bytes_other),
            (&self.reconciliations_completed, |stats| stats.sync.completed),
            (&self.reconciliations_failed, |stats| stats.sync.failed),
            (&self.reconciliations_listed, |stats| stats.sync.listed),
            (&self.reconciliation_symbols, |stats| stats.sync.symbols),
            (&self.reconciliation_differences, |stats| stats.sync.difference),
        ];
        for (counter, read) in counters {
            counter.inc_by(read(now).saturating_sub(read(last)));
        }
    }

    /// The head moved to another branch, and took back this many blocks.
    pub fn reorganised(&self, depth: u64) {
        self.reorganisations.inc();
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.reorganisation_depth_max.set(self.reorganisation_depth_max.get().max(depth));
    }

    /// Shows what a session layer counts by itself. The kinds `closed_by_us`, `closed_by_peer` and
    /// `lost` are shown as `session_closes`, `reset_by_us` and `reset_by_peer` as `stream_resets`, all
    /// others as `refusals`. Every pair of kind and reason must stand in the list at most once.
    pub fn watch_events(&self, source: EventSource) {
        self.registry().register_collector(Box::new(EventCollector(source)));
    }

    /// Shows how many frames and bytes the sessions carried, by stream class and direction.
    pub fn watch_traffic(&self, tally: Tally) {
        self.registry().register_collector(Box::new(TrafficCollector(tally)));
    }

    /// All of it in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry()).expect("a string takes all that is written to it");
        out
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().expect("no code panics while it holds the registry")
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

struct EventCollector(EventSource);

impl fmt::Debug for EventCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventCollector")
    }
}

impl Collector for EventCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let events = (self.0)();
        let family = |kind: &str| match kind {
            "closed_by_us" | "closed_by_peer" | "lost" => 0,
            "reset_by_us" | "reset_by_peer" => 1,
            _ => 2,
        };
        let families = [
            ("session_closes", "Connections that ended, by side and code"),
            ("stream_resets", "Streams reset and requests refused, by side and code"),
            ("refusals", "What was refused, dropped or slowed down otherwise, by kind and reason"),
        ];
        for (index, (name, help)) in families.into_iter().enumerate() {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (kind, reason, count) in events.iter().filter(|(kind, ..)| family(kind) == index) {
                let labels = [("kind", *kind), ("reason", *reason)];
                ConstCounter::new(*count).encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct TrafficCollector(Tally);

impl Collector for TrafficCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Figure = fn(Traffic) -> u64;
        let families: [(_, _, Figure); 2] = [
            ("frames", "Frames by stream class and direction; not those of refused streams", |traffic| {
                traffic.frames
            }),
            (
                "frame_bytes",
                "Bytes of frames by stream class and direction, without QUIC's own overhead and repeats",
                |traffic| traffic.bytes,
            ),
        ];
        for (name, help, figure) in families {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for class in Class::ALL {
                for (direction, traffic) in [
                    (Direction::Inbound, self.0.traffic_in(class)),
                    (Direction::Outbound, self.0.traffic_out(class)),
                ] {
                    let labels = [("class", class.name()), ("direction", direction.name())];
                    ConstCounter::new(figure(traffic)).encode(encoder.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// One gauge of a collector.
fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_have_the_prefix_and_a_help_text() {
        let metrics = Metrics::new();
        metrics.watch_traffic(Tally::default());
        let text = metrics.encode();
        let helps = text.lines().filter(|line| line.starts_with("# HELP")).count();
        assert!(helps >= 30, "{text}");
        for line in text.lines().filter(|line| *line != "# EOF") {
            let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
            assert!(name.starts_with("ghostd_"), "{line}");
        }
        assert!(text.contains("ghostd_frames_total{class=\"tx\",direction=\"inbound\"} 0\n"), "{text}");
        assert!(text.contains("ghostd_frame_bytes_total{class=\"sync\",direction=\"outbound\"} 0\n"));
        assert!(text.contains("ghostd_resident_bytes "));
    }

    #[test]
    fn what_begins_and_ends_is_back_at_zero() {
        let metrics = Metrics::new();
        metrics.session_began(Direction::Outbound, Network::Ip6, PeerRole::Node);
        metrics.session_began(Direction::Outbound, Network::Ip6, PeerRole::Node);
        metrics.session_ended(Direction::Outbound, Network::Ip6, PeerRole::Node);
        let series = "ghostd_sessions{direction=\"outbound\",network=\"ip6\",role=\"node\"}";
        assert!(metrics.encode().contains(&format!("{series} 1\n")));
        metrics.session_ended(Direction::Outbound, Network::Ip6, PeerRole::Node);
        assert!(metrics.encode().contains(&format!("{series} 0\n")));
    }

    #[test]
    fn the_relays_counts_are_shown_once() {
        let metrics = Metrics::new();
        let (mut first, mut second) = (RelayStats::default(), RelayStats::default());
        (first.bodies_first, first.sync.completed) = (3, 1);
        (second.bodies_first, second.sync.completed, second.heard) = (5, 1, 10);
        metrics.relayed(&RelayStats::default(), &first);
        metrics.relayed(&first, &second);
        assert_eq!(metrics.relay_new_transactions.get(), 5);
        assert_eq!(metrics.reconciliations_completed.get(), 1);
        assert_eq!(metrics.relay_other_bytes.get(), 130);
    }

    #[test]
    fn the_deepest_reorganisation_stays() {
        let metrics = Metrics::new();
        for depth in [1, 3, 2] {
            metrics.reorganised(depth);
        }
        assert_eq!(metrics.reorganisation_depth_max.get(), 3);
        assert_eq!(metrics.reorganisations.get(), 3);
    }

    #[test]
    fn events_of_the_session_layer_are_shown_by_family() {
        let metrics = Metrics::new();
        metrics.watch_events(Box::new(|| {
            vec![("closed_by_us", "done", 4), ("reset_by_peer", "busy", 5), ("queue_refused", "tx", 6)]
        }));
        let text = metrics.encode();
        for line in [
            "ghostd_session_closes_total{kind=\"closed_by_us\",reason=\"done\"} 4\n",
            "ghostd_stream_resets_total{kind=\"reset_by_peer\",reason=\"busy\"} 5\n",
            "ghostd_refusals_total{kind=\"queue_refused\",reason=\"tx\"} 6\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}

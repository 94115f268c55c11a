//! What happened on a network, counted by reading it from every node.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use ghost_node::cli::{connect::peer_text, output::Failure};
use ghost_proto::{TxId, message};
use ghost_protocol::client::{BlockSelector, Client};
use serde::Serialize;
use tokio::{task::JoinSet, time};

use crate::{
    orders::OrdersReport,
    prices::Prices,
    stop::Stop,
    traffic::{Reported, Summary, Tracker},
    up::table::statuses,
};

/// How long one round of questions to all nodes may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nodes are given to include what waits and to make it final, besides some slots.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often they are asked meanwhile.
const SETTLE_EVERY: Duration = Duration::from_millis(50);

/// How many peers that are nodes a node counts.
pub fn node_peers(status: &message::Status) -> u32 {
    status.peers.iter().filter(|row| row.role == "node").map(|row| row.count).sum()
}

/// The object that `testnet up --json` ends with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How many nodes were asked.
    pub nodes: usize,
    /// How long traffic was made.
    pub seconds: f64,
    /// Height of the canonical chain.
    pub blocks: u64,
    /// Height that is final on every node.
    pub finalized: u64,
    /// True if all nodes named the same head when they were asked at once, and every block below it is
    /// the same on all of them.
    pub heads_agree: bool,
    /// Transactions.
    pub tx: Transactions,
    /// Prices; of a network that has publishers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// Orders, if there was such traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders: Option<OrdersReport>,
    /// By node.
    pub per_node: Vec<PerNode>,
    /// Height of the highest block with a transaction of ours.
    #[serde(skip)]
    pub tx_height: u64,
}

/// The figures about transactions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transactions {
    /// Those that a node gave an answer to.
    pub submitted: u64,
    /// Those of them that stand in a canonical block of every node.
    pub included: u64,
    /// Those of them that the node refused.
    pub rejected: u64,
    /// Half were in a block of their node within this time.
    pub p50_ms: Option<f64>,
    /// All but one in a hundred were.
    pub p99_ms: Option<f64>,
}

/// One node at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerNode {
    /// Who it is.
    pub peer_id: String,
    /// Height of its head.
    pub height: u64,
    /// Nodes it is connected to.
    pub peers: u32,
    /// Resident memory.
    pub rss_mib: f64,
    /// Height of its highest final block.
    pub finalized: u64,
    /// Our transactions in its canonical blocks.
    pub included: u64,
    /// How it ended, if it ended by itself: the figures are then those it told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

impl Report {
    /// Puts a node that ended by itself in its place, with what it told last.
    pub fn add_ended(&mut self, index: usize, peer_id: String, last: &Reported, how: String) {
        let node = PerNode {
            peer_id,
            height: last.head.map_or(0, |(height, _)| height),
            peers: 0,
            rss_mib: 0.0,
            finalized: last.finalized,
            included: 0,
            ended: Some(how),
        };
        self.per_node.insert(index.min(self.per_node.len()), node);
        self.nodes += 1;
    }

    /// What did not go as it should; empty if all is well.
    pub fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (index, node) in self.per_node.iter().enumerate() {
            if let Some(how) = &node.ended {
                all.push(format!("node {index} ended by itself ({how}); the other nodes went on without it"));
            }
        }
        if !self.heads_agree {
            let running = self.per_node.iter().filter(|node| node.ended.is_none());
            let heights: Vec<String> = running.map(|node| node.height.to_string()).collect();
            all.push(format!("the nodes do not agree on one head (heights {})", heights.join(" ")));
        }
        if self.prices.as_ref().is_some_and(|prices| !prices.nodes_agree) {
            all.push("the nodes do not have the same prices in their blocks".into());
        }
        let missing = self.tx.submitted.saturating_sub(self.tx.rejected).saturating_sub(self.tx.included);
        if missing > 0 {
            all.push(format!("{missing} accepted transactions are not in a block of every node"));
        }
        if self.orders.as_ref().is_some_and(|orders| !orders.books_agree) {
            all.push("the nodes do not agree on the books of their markets".into());
        }
        if self.finalized < self.tx_height {
            all.push(format!(
                "height {} is final, and accepted transactions stand as high as {}: finality does not follow",
                self.finalized, self.tx_height
            ));
        }
        all
    }

    /// For people.
    pub fn text(&self) -> String {
        let ms = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.0} ms"));
        let mut out = format!(
            "{} nodes, {:.1} s: {} blocks, {} of them final; heads {}\n\
             {} transactions submitted, {} in blocks of every node, {} refused; into a block after {} (p50), {} (p99)\n",
            self.nodes,
            self.seconds,
            self.blocks,
            self.finalized,
            if self.heads_agree { "agree" } else { "DO NOT AGREE" },
            self.tx.submitted,
            self.tx.included,
            self.tx.rejected,
            ms(self.tx.p50_ms),
            ms(self.tx.p99_ms),
        );
        if let Some(prices) = &self.prices {
            out += &format!(
                "{} prices in blocks, {}; oldest shown {} ms, {} stale\n",
                prices.committed,
                if prices.nodes_agree { "the same on all nodes" } else { "NOT THE SAME ON ALL NODES" },
                prices.age_ms_max.map_or("–".into(), |age| age.to_string()),
                prices.stale,
            );
            for feed in &prices.feeds {
                out += &format!(
                    "  {:<8} {}  in block {}: {}\n",
                    feed.feed,
                    feed.price.as_deref().unwrap_or("none"),
                    feed.height.map_or("–".into(), |height| height.to_string()),
                    feed.committed.as_deref().unwrap_or("none"),
                );
            }
        }
        if let Some(orders) = &self.orders {
            for market in &orders.markets {
                out += &format!(
                    "  market {:<11} {} orders placed, {} trades, {} orders rest\n",
                    market.market, market.placed, market.trades, market.resting
                );
            }
            out += if orders.books_agree { "  all books agree\n" } else { "  the books DO NOT AGREE\n" };
        }
        for (index, node) in self.per_node.iter().enumerate() {
            out += &format!(
                "  node {index:<2} {}  height {}  peers {}  {:.0} MiB{}\n",
                node.peer_id,
                node.height,
                node.peers,
                node.rss_mib,
                node.ended.as_ref().map(|how| format!("  DOWN ({how})")).unwrap_or_default()
            );
        }
        out
    }
}

/// Our transactions in the canonical blocks up to a height.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Count {
    /// In those of every node.
    pub included: u64,
    /// In those of each.
    pub per_node: Vec<u64>,
    /// True if every block is the same on all nodes.
    pub agree: bool,
}

/// Reads every block from every node, and checks that the ids are those which its header commits to.
pub async fn count(clients: &[Client], height_last: u64, ours: &HashSet<TxId>) -> Result<Count, Failure> {
    let mut seen_by: HashMap<TxId, usize> = HashMap::with_capacity(ours.len());
    let mut per_node = vec![0; clients.len()];
    let mut agree = true;
    for height in 1..=height_last {
        let mut asked = JoinSet::new();
        for (node, client) in clients.iter().cloned().enumerate() {
            asked.spawn(async move {
                (node, crate::traffic::read_ids(&client, BlockSelector::Height(height)).await)
            });
        }
        let mut first = None;
        while let Some(joined) = asked.join_next().await {
            let (node, block) = joined?;
            let Some(block) = block? else {
                agree = false;
                continue;
            };
            agree &= block.canonical && block.header.height == height;
            agree &= *first.get_or_insert(block.header.id()) == block.header.id();
            for id in block.ids.into_iter().filter(|id| ours.contains(id)) {
                per_node[node] += 1;
                *seen_by.entry(id).or_default() += 1;
            }
        }
    }
    let included = seen_by.values().filter(|nodes| **nodes == clients.len()).count() as u64;
    Ok(Count { included, per_node, agree })
}

/// All nodes at one moment.
#[derive(Debug, Clone)]
pub struct Moment {
    /// What each said.
    pub statuses: Vec<Option<message::Status>>,
    /// All named the same head.
    pub agree: bool,
}

impl Moment {
    async fn now(clients: &[Client]) -> Self {
        let statuses = statuses(clients, ROUND_TIMEOUT).await;
        let mut heads = statuses.iter().map(|status| Some(status.as_ref()?.head.as_ref()?.id.clone()));
        let first = heads.next().flatten();
        let agree = first.is_some() && heads.all(|head| head == first);
        Self { statuses, agree }
    }

    /// The lowest head.
    pub fn height(&self) -> u64 {
        self.lowest(|status| status.head.as_ref())
    }

    /// What is final everywhere.
    pub fn finalized(&self) -> u64 {
        self.lowest(|status| status.finalized.as_ref())
    }

    fn lowest(&self, of: impl Fn(&message::Status) -> Option<&message::BlockRef>) -> u64 {
        let heights = self.statuses.iter().map(|status| Some(of(status.as_ref()?)?.height));
        heights.min().flatten().unwrap_or(0)
    }
}

/// Waits, within bounds, until everything that was accepted is in blocks, these are final, and all nodes
/// name the same head. Returns what they said last, settled or not.
pub async fn settle(clients: &[Client], tracker: &Tracker, slot_ms: u64, stop: Option<&Stop>) -> Moment {
    let deadline = Instant::now() + SETTLE_TIMEOUT + Duration::from_millis(20 * slot_ms);
    loop {
        let moment = Moment::now(clients).await;
        let settled =
            tracker.waiting() == 0 && moment.agree && moment.finalized() >= tracker.summary().highest;
        if settled || Instant::now() > deadline {
            return moment;
        }
        match stop {
            Some(stop) if !stop.is_asked() => {
                stop.sleep(SETTLE_EVERY).await;
            }
            _ => time::sleep(SETTLE_EVERY).await,
        }
    }
}

/// The report of a network at a moment: every figure of it was read from the nodes.
pub async fn report(
    clients: &[Client],
    moment: &Moment,
    summary: &Summary,
    ours: &HashSet<TxId>,
    traffic_time: Duration,
) -> Result<Report, Failure> {
    let height = moment.height();
    let count = count(clients, height, ours).await?;
    let per_node = moment
        .statuses
        .iter()
        .zip(&count.per_node)
        .map(|(status, included)| {
            let status = status.clone().unwrap_or_default();
            PerNode {
                peer_id: peer_text(&status.peer),
                height: status.head.as_ref().map_or(0, |head| head.height),
                peers: node_peers(&status),
                rss_mib: (status.rss_bytes as f64 / 1_048_576.0 * 10.0).round() / 10.0,
                finalized: status.finalized.as_ref().map_or(0, |block| block.height),
                included: *included,
                ended: None,
            }
        })
        .collect();
    Ok(Report {
        nodes: clients.len(),
        seconds: (traffic_time.as_secs_f64() * 10.0).round() / 10.0,
        blocks: height,
        finalized: moment.finalized(),
        heads_agree: moment.agree && count.agree,
        tx: Transactions {
            submitted: summary.accepted + summary.rejected,
            included: count.included,
            rejected: summary.rejected,
            p50_ms: summary.p50_ms,
            p99_ms: summary.p99_ms,
        },
        prices: None,
        orders: None,
        per_node,
        tx_height: summary.highest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Report {
        let node = PerNode {
            peer_id: "12D3KooW".into(),
            height: 29,
            peers: 3,
            rss_mib: 31.5,
            finalized: 28,
            included: 1_500,
            ended: None,
        };
        Report {
            nodes: 2,
            seconds: 30.0,
            blocks: 29,
            finalized: 28,
            heads_agree: true,
            tx: Transactions {
                submitted: 1_501,
                included: 1_500,
                rejected: 1,
                p50_ms: Some(540.5),
                p99_ms: None,
            },
            prices: None,
            orders: None,
            per_node: vec![node.clone(), node],
            tx_height: 28,
        }
    }

    #[test]
    fn the_object_has_the_keys_that_scripts_read() {
        let value = serde_json::to_value(sound()).unwrap();
        for (key, expected) in [
            ("nodes", 2.into()),
            ("seconds", 30.0.into()),
            ("blocks", 29.into()),
            ("finalized", 28.into()),
            ("heads_agree", serde_json::Value::Bool(true)),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
        let tx = &value["tx"];
        assert_eq!(
            (&tx["submitted"], &tx["included"], &tx["rejected"]),
            (&1_501.into(), &1_500.into(), &1.into())
        );
        assert_eq!((&tx["p50_ms"], &tx["p99_ms"]), (&540.5.into(), &serde_json::Value::Null));
        let node = &value["per_node"][1];
        assert_eq!((&node["peer_id"], &node["height"]), (&"12D3KooW".into(), &29.into()));
        assert_eq!((&node["peers"], &node["rss_mib"]), (&3.into(), &31.5.into()));
        for key in ["calls", "orders", "prices"] {
            assert!(value.get(key).is_none(), "there is no such traffic: {key}");
        }
    }

    #[test]
    fn what_is_missing_is_complained_about() {
        assert_eq!(sound().complaints(), [] as [String; 0]);
        let mut report = sound();
        report.tx.included -= 1;
        assert_eq!(report.complaints(), ["1 accepted transactions are not in a block of every node"]);
        report.heads_agree = false;
        assert_eq!(report.complaints().len(), 2);
        report = sound();
        report.tx_height = 29;
        assert!(report.complaints()[0].ends_with("finality does not follow"));
    }

    #[test]
    fn a_node_that_ended_is_named_and_its_height_is_no_disagreement() {
        let mut report = sound();
        report.per_node[1].ended = Some("signal: 9 (SIGKILL)".into());
        let complaints = report.complaints();
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("node 1 ended by itself (signal: 9"), "{complaints:?}");
        assert!(report.text().contains("DOWN (signal: 9 (SIGKILL))"));
        let value = serde_json::to_value(&report).unwrap();
        assert!(value["per_node"][0].get("ended").is_none() && value["per_node"][1]["ended"].is_string());
    }

    #[test]
    fn a_node_that_does_not_answer_has_no_height() {
        let block = |height| Some(message::BlockRef { height, ..Default::default() });
        let status = |height| {
            Some(message::Status { head: block(height), finalized: block(height - 1), ..Default::default() })
        };
        let moment = |statuses| Moment { statuses, agree: true };
        assert_eq!(moment(vec![status(5), status(4)]).height(), 4);
        assert_eq!(moment(vec![status(5), status(4)]).finalized(), 3);
        assert_eq!(moment(vec![status(5), None]).height(), 0);
    }
}

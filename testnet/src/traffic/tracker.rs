//! What was sent, what became of it, and what each node reported.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use bytes::Bytes;
use ghost_proto::{BlockId, TxId};
use hdrhistogram::Histogram;

/// Longest latency that is told apart, in microseconds: 10 minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// A transfer on its way.
#[derive(Debug)]
struct Sent {
    node: usize,
    /// Counts up over all transfers, so that those of one account can be sent again in order.
    order: u64,
    at: Instant,
    bytes: Bytes,
    accepted: bool,
    seen: bool,
}

/// What a node said through its head events.
#[derive(Debug, Clone, Default)]
pub struct Reported {
    /// Its newest head.
    pub head: Option<(u64, BlockId)>,
    /// Height of its highest final block.
    pub finalized: u64,
    /// Ids of our transfers in blocks it showed as canonical, since they were last taken.
    pub included: Vec<TxId>,
}

#[derive(Debug)]
struct Inner {
    sent: HashMap<TxId, Sent>,
    accepted: HashSet<TxId>,
    next_order: u64,
    rejected: u64,
    reasons: BTreeMap<String, u64>,
    seen: u64,
    highest: u64,
    latency_us: Histogram<u64>,
    reported: Vec<Reported>,
    ended: BTreeSet<usize>,
}

/// The book of a run: shared by lanes and watchers.
#[derive(Debug)]
pub struct Tracker(Mutex<Inner>);

/// Figures of a run so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Transfers a node said it took.
    pub accepted: u64,
    /// Transfers a node refused.
    pub rejected: u64,
    /// Why, and how often.
    pub reasons: BTreeMap<String, u64>,
    /// Taken ones that the node they were sent to has shown in a block.
    pub seen: u64,
    /// Highest block with one of ours in it.
    pub highest: u64,
    /// Half were in a block after this time.
    pub p50_ms: Option<f64>,
    /// All but one in twenty were.
    pub p95_ms: Option<f64>,
    /// All but one in a hundred were.
    pub p99_ms: Option<f64>,
}

impl Summary {
    /// `3 sender_full, 1 balance`.
    pub fn reasons_text(&self) -> String {
        let reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.join(", ")
    }
}

impl Tracker {
    /// Empty, for so many nodes.
    pub fn new(nodes: usize) -> Self {
        let latency_us =
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in the order it wants");
        Self(Mutex::new(Inner {
            sent: HashMap::new(),
            accepted: HashSet::new(),
            next_order: 0,
            rejected: 0,
            reasons: BTreeMap::new(),
            seen: 0,
            highest: 0,
            latency_us,
            reported: vec![Reported::default(); nodes],
            ended: BTreeSet::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no code panics while it holds the book")
    }

    /// A transfer is about to be submitted. It is written down first: its block may be faster than the
    /// answer.
    pub fn sending(&self, id: TxId, node: usize, bytes: Bytes, at: Instant) {
        let mut inner = self.inner();
        let order = inner.next_order;
        inner.next_order += 1;
        inner.sent.insert(id, Sent { node, order, at, bytes, accepted: false, seen: false });
    }

    /// The node took it.
    pub fn accepted(&self, id: TxId) {
        let mut inner = self.inner();
        if !inner.accepted.insert(id) {
            return;
        }
        if let Some(sent) = inner.sent.get_mut(&id) {
            sent.accepted = true;
            if sent.seen {
                inner.sent.remove(&id);
                inner.seen += 1;
            }
        }
    }

    /// The node refused it.
    pub fn rejected(&self, id: TxId, reason: &str) {
        let mut inner = self.inner();
        inner.sent.remove(&id);
        inner.rejected += 1;
        *inner.reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// A node showed a block as part of its canonical chain.
    pub fn block(&self, node: usize, height: u64, ids: &[TxId], at: Instant) {
        let mut inner = self.inner();
        for id in ids {
            let Inner { sent, seen, highest, latency_us, accepted, reported, .. } = &mut *inner;
            let Some(entry) = sent.get_mut(id) else {
                if accepted.contains(id) {
                    *highest = (*highest).max(height);
                    reported[node].included.push(*id);
                }
                continue;
            };
            *highest = (*highest).max(height);
            reported[node].included.push(*id);
            if entry.node != node || entry.seen {
                continue;
            }
            entry.seen = true;
            let us = at.saturating_duration_since(entry.at).as_micros();
            latency_us.saturating_record(u64::try_from(us).unwrap_or(u64::MAX).clamp(1, LATENCY_US_MAX));
            if entry.accepted {
                sent.remove(id);
                *seen += 1;
            }
        }
    }

    /// A node told a head, after all its blocks were counted.
    pub fn head(&self, node: usize, height: u64, id: BlockId, finalized: u64) {
        let reported = &mut self.inner().reported[node];
        reported.head = Some((height, id));
        reported.finalized = reported.finalized.max(finalized);
    }

    /// What a node reported so far; the list of ids begins anew.
    pub fn take_reported(&self, node: usize) -> Reported {
        let reported = &mut self.inner().reported[node];
        let taken = reported.clone();
        reported.included.clear();
        taken
    }

    /// Transfers a node took and has not shown in a block. One that has ended shows no more.
    pub fn waiting(&self) -> usize {
        let inner = self.inner();
        let waits = |sent: &&Sent| sent.accepted && !sent.seen && !inner.ended.contains(&sent.node);
        inner.sent.values().filter(waits).count()
    }

    /// A node has ended and does not come back.
    pub fn node_ended(&self, node: usize) {
        self.inner().ended.insert(node);
    }

    /// The bytes of all that was sent to a node and is not in a block of it, in the order they were sent:
    /// what a wallet would submit again after its node came back.
    pub fn unseen_of(&self, node: usize) -> Vec<(TxId, Bytes)> {
        let inner = self.inner();
        let mut all: Vec<_> = inner.sent.iter().filter(|(_, sent)| sent.node == node && !sent.seen).collect();
        all.sort_by_key(|(_, sent)| sent.order);
        all.into_iter().map(|(id, sent)| (*id, sent.bytes.clone())).collect()
    }

    /// Ids of all transfers that a node took.
    pub fn accepted_ids(&self) -> HashSet<TxId> {
        self.inner().accepted.clone()
    }

    /// The figures.
    pub fn summary(&self) -> Summary {
        let inner = self.inner();
        let quantile = |q| {
            (!inner.latency_us.is_empty()).then(|| inner.latency_us.value_at_quantile(q) as f64 / 1_000.0)
        };
        Summary {
            accepted: inner.accepted.len() as u64,
            rejected: inner.rejected,
            reasons: inner.reasons.clone(),
            seen: inner.seen,
            highest: inner.highest,
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: u8) -> TxId {
        TxId([n; 32])
    }

    #[test]
    fn latency_is_measured_at_the_node_it_was_sent_to() {
        let tracker = Tracker::new(2);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        tracker.sending(id(1), 0, Bytes::new(), start);
        tracker.accepted(id(1));
        tracker.block(1, 4, &[id(1)], after(100));
        assert_eq!(tracker.summary().seen, 0, "another node's word does not count");
        assert_eq!(tracker.waiting(), 1);
        tracker.block(0, 4, &[id(1), id(9)], after(250));
        tracker.block(0, 5, &[id(1)], after(900));
        let summary = tracker.summary();
        assert_eq!((summary.seen, summary.accepted, tracker.waiting()), (1, 1, 0));
        assert!((summary.p50_ms.unwrap() - 250.0).abs() < 1.0, "{summary:?}");
        assert_eq!(summary.highest, 5);
    }

    #[test]
    fn a_block_that_is_faster_than_the_answer_is_not_lost() {
        let tracker = Tracker::new(1);
        let start = Instant::now();
        tracker.sending(id(1), 0, Bytes::new(), start);
        tracker.block(0, 1, &[id(1)], start);
        assert_eq!(tracker.summary().seen, 0);
        tracker.accepted(id(1));
        assert_eq!((tracker.summary().seen, tracker.waiting()), (1, 0));
    }

    #[test]
    fn what_was_refused_is_not_waited_for() {
        let tracker = Tracker::new(1);
        tracker.sending(id(1), 0, Bytes::new(), Instant::now());
        tracker.rejected(id(1), "balance");
        let summary = tracker.summary();
        assert_eq!((summary.accepted, summary.rejected, tracker.waiting()), (0, 1, 0));
        assert_eq!(summary.reasons_text(), "1 balance");
        assert!(tracker.unseen_of(0).is_empty());
    }

    #[test]
    fn what_a_node_has_not_shown_is_sent_again_in_order() {
        let tracker = Tracker::new(2);
        let now = Instant::now();
        for n in (1..=9).rev() {
            tracker.sending(id(n), usize::from(n % 2), Bytes::from(vec![n]), now);
            tracker.accepted(id(n));
        }
        tracker.block(1, 1, &[id(5)], now);
        let again: Vec<u8> = tracker.unseen_of(1).iter().map(|(id, _)| id.0[0]).collect();
        assert_eq!(again, [9, 7, 3, 1]);
    }

    #[test]
    fn what_a_node_reported_is_taken_once() {
        let tracker = Tracker::new(2);
        let now = Instant::now();
        tracker.sending(id(1), 0, Bytes::new(), now);
        tracker.accepted(id(1));
        tracker.block(1, 7, &[id(1), id(2)], now);
        tracker.head(1, 7, BlockId([7; 32]), 5);
        let reported = tracker.take_reported(1);
        assert_eq!(reported.included, [id(1)], "only ours");
        assert_eq!((reported.head, reported.finalized), (Some((7, BlockId([7; 32]))), 5));
        assert!(tracker.take_reported(1).included.is_empty());
        assert!(tracker.take_reported(0).head.is_none());
    }
}

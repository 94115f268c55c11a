//! What the relay measures of itself.

use std::time::Duration;

use ghost_frames::tx::ANNOUNCE_ENTRY_LEN;

pub use crate::fetch::FetchStats;

/// Upper bounds of the latency histogram, in milliseconds; a last bucket holds the rest.
pub const LATENCY_BUCKETS_MS: [u64; 10] = [1, 5, 20, 50, 100, 200, 400, 800, 1_600, 5_000];

/// A histogram with the bounds of [`LATENCY_BUCKETS_MS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencyHistogram {
    /// Counts; not cumulative.
    pub buckets: [u64; LATENCY_BUCKETS_MS.len() + 1],
    /// Sum of all values.
    pub sum: Duration,
    /// How many values.
    pub count: u64,
}

impl LatencyHistogram {
    pub(super) fn record(&mut self, latency: Duration) {
        let index = LATENCY_BUCKETS_MS.partition_point(|bound| Duration::from_millis(*bound) < latency);
        self.buckets[index] += 1;
        self.sum += latency;
        self.count += 1;
    }
}

/// Counters of mempool reconciliation; each only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncStats {
    /// Sessions we opened.
    pub opened: u64,
    /// Of them, those that found the difference.
    pub completed: u64,
    /// Of those, the ones that had to be listed.
    pub listed: u64,
    /// Of those opened, those that came to nothing: refused, timed out, broken off or made up.
    pub failed: u64,
    /// Symbols received in sessions that were completed and not listed.
    pub symbols: u64,
    /// Transactions that differed in those sessions, of either side.
    pub difference: u64,
    /// Transactions that we turned out to lack, listed ones too; again in each session.
    pub lacked: u64,
    /// Transactions that the other side turned out to lack, likewise.
    pub lacking: u64,
    /// Bytes of symbols and lists received, without framing.
    pub bytes: u64,
    /// Sessions that peers opened here.
    pub served: u64,
    /// Requests of theirs that were refused.
    pub refused: u64,
}

impl SyncStats {
    /// Symbols for each transaction of a difference; `None` before the first.
    pub fn overhead(&self) -> Option<f64> {
        (self.difference > 0).then(|| self.symbols as f64 / self.difference as f64)
    }
}

/// Counters of the transaction relay; each only grows unless it says otherwise. Bytes are those of
/// transactions as signed and of announcement entries, without framing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RelayStats {
    /// Bodies received that were not here yet. Not counted: bodies dropped as an offence.
    pub bodies_first: u64,
    /// Their bytes.
    pub bytes_useful: u64,
    /// Bodies received that were here already.
    pub bodies_duplicate: u64,
    /// Their bytes.
    pub bytes_duplicate: u64,
    /// Bodies of [`Self::bodies_first`] that came by push.
    pub bodies_pushed_to_us: u64,
    /// Bodies pushed and queued by the driver.
    pub pushed: u64,
    /// Transactions announced and queued by the driver.
    pub announced: u64,
    /// Announcement frames that carried them.
    pub announce_frames: u64,
    /// Announcements or pushes that the driver could not queue.
    pub not_delivered: u64,
    /// Announcements that found the queue of their link full; they are found again by the walk over
    /// what is held.
    pub announce_overflow: u64,
    /// Announced transactions received.
    pub heard: u64,
    /// Of them, those that were here, wanted from others, or remembered.
    pub heard_known: u64,
    /// Of them, those below our fee floor.
    pub heard_below_floor: u64,
    /// Transactions named in answers to peers.
    pub answered: u64,
    /// Bodies dropped because [`super::CHECKING_MAX`] were being checked.
    pub dropped_busy: u64,
    /// Offences reported.
    pub offences: u64,
    /// Peers without a link, because [`crate::link::LINKS_MAX`] had one.
    pub links_refused: u64,
    /// From the first announcement of a transaction until its body was here, pulled ones only.
    pub announce_to_have: LatencyHistogram,
    /// Reconciliation's.
    pub sync: SyncStats,
    /// The request tracker's.
    pub fetch: FetchStats,
    /// Current mean number of peers that a body is pushed to; rises and falls.
    pub fanout: f64,
    /// Transactions held now; rises and falls.
    pub held: usize,
}

impl RelayStats {
    /// Bytes received that brought nothing new: bodies again, announcements, symbols and lists. Not counted:
    /// requests, framing, and what the transport adds.
    pub fn bytes_other(&self) -> u64 {
        self.bytes_duplicate + self.heard * ANNOUNCE_ENTRY_LEN as u64 + self.sync.bytes
    }

    /// Copies of a body received on average; `None` before the first.
    pub fn copies(&self) -> Option<f64> {
        (self.bodies_first > 0)
            .then(|| (self.bodies_first + self.bodies_duplicate) as f64 / self.bodies_first as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = LatencyHistogram::default();
        for micros in [0, 1_000, 1_001, 5_000_000, 5_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(histogram.count, 5);
    }
}

//! What chain sync knows of one peer.

use std::time::{Duration, Instant};

use ghost_proto::Checkpoint;

use super::{backoff::Backoff, io::RequestId, schedule::STALL_MIN};

/// Bytes of blocks for each second that a peer is taken to deliver before it was seen to: a slow home uplink.
const UNKNOWN_BYTES_PER_SECOND: f64 = 256.0 * 1024.0;

/// Time over which deliveries are summed up before they count as a sample.
const SAMPLE: Duration = Duration::from_millis(200);

/// First and longest pause after a request for bodies failed.
const FAILURE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// First and longest rest of a peer that lost a race at the window's front.
const SLOW_REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

#[derive(Debug)]
pub(crate) struct SyncPeer {
    pub(crate) outbound: bool,
    pub(crate) rtt: Duration,
    /// Greatest height it ever claimed: bodies up to there may be asked of it.
    pub(crate) height: u64,
    /// A block of its that we do not have.
    pub(crate) claim: Option<Checkpoint>,
    /// Its chain was looked at and put off until the window is empty.
    pub(crate) deferred: bool,
    /// It is to be asked whether it has anything newer than our head.
    pub(crate) probe: bool,
    /// It did not have the block at this height of the window's chain.
    pub(crate) lacks: Option<u64>,
    /// It sent a false body: no more bodies from it.
    pub(crate) barred: bool,
    pub(crate) leading: Backoff,
    pub(crate) failing: Backoff,
    pub(crate) slow: Backoff,
    pub(crate) requests: Vec<RequestId>,
    rate: Option<f64>,
    delivered_at: Option<Instant>,
    sample: (f64, Duration),
}

impl SyncPeer {
    pub(crate) fn new(outbound: bool, rtt: Duration, best: Checkpoint, known: bool) -> Self {
        Self {
            outbound,
            rtt,
            height: best.height,
            claim: (!known).then_some(best),
            deferred: false,
            probe: false,
            lacks: None,
            barred: false,
            leading: Backoff::default(),
            failing: Backoff::default(),
            slow: Backoff::default(),
            requests: Vec::new(),
            rate: None,
            delivered_at: None,
            sample: (0.0, Duration::ZERO),
        }
    }

    /// True if it may have the body at a height.
    pub(crate) fn may_have(&self, height: u64) -> bool {
        !self.barred && height <= self.height && self.lacks.is_none_or(|lacks| height < lacks)
    }

    /// Bytes per second it was seen to deliver.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    pub(crate) fn rate_or_guess(&self) -> f64 {
        self.rate.unwrap_or(UNKNOWN_BYTES_PER_SECOND)
    }

    /// Time it is expected to take for so many bytes from now on, the question's way included.
    pub(crate) fn time_for(&self, bytes: usize) -> Duration {
        self.rtt + Duration::from_secs_f64(bytes as f64 / self.rate_or_guess())
    }

    /// A block came. `asked` is when its request was sent: with several requests in flight the time since
    /// the block before counts, so that only the first one's sample contains the round trip.
    pub(crate) fn delivered(&mut self, bytes: usize, asked: Instant, now: Instant) {
        let since = self.delivered_at.map_or(asked, |last| last.max(asked));
        self.delivered_at = Some(now);
        self.sample.0 += bytes as f64;
        self.sample.1 += now.saturating_duration_since(since);
        if self.sample.1 >= SAMPLE {
            self.take_sample();
        }
        self.failing.succeed();
    }

    /// A request is over: what was delivered counts, however short the time.
    pub(crate) fn finished(&mut self) {
        if self.sample.0 > 0.0 {
            self.take_sample();
        }
    }

    fn take_sample(&mut self) {
        let (bytes, time) = std::mem::take(&mut self.sample);
        let sample = bytes / time.as_secs_f64().max(0.001);
        self.rate = Some(self.rate.map_or(sample, |rate| (rate + sample) / 2.0));
    }

    /// It failed to deliver.
    pub(crate) fn fail(&mut self, now: Instant) {
        self.failing.fail(now, FAILURE_PAUSE.0, FAILURE_PAUSE.1);
    }

    /// Others delivered what it held. `bytes` were not delivered in `time`: its rate is at most that.
    pub(crate) fn lost_race(&mut self, bytes: usize, time: Duration, now: Instant) {
        self.slow.fail(now, SLOW_REST.0, SLOW_REST.1);
        let most = bytes as f64 / time.max(Duration::from_millis(1)).as_secs_f64();
        self.rate = Some(self.rate.map_or(most, |rate| rate.min(most)));
    }
}

const _: () = assert!(FAILURE_PAUSE.0.as_millis() < STALL_MIN.as_millis());

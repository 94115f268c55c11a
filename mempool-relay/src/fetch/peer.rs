//! What one peer is asked for, and how far it is trusted to answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    OUTSTANDING_BYTES_PER_PEER_MAX, OUTSTANDING_PER_PEER_MAX, REQUEST_BYTES_MAX, REQUESTS_PER_PEER_MAX,
    Request, RequestId,
};
use crate::link::Name;

/// First pause of a peer that did not answer; it doubles seven times, to 32 s.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_DOUBLINGS_MAX: u32 = 7;
/// What a peer that did not answer last time is asked for at a time.
pub(super) const PROBE_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) outbound: bool,
    pub(super) rtt: Duration,
    /// What it announced and is not here: at most 5,000.
    pub(super) announced: BTreeSet<Name>,
    /// What it is to be asked for when it has room, by place in the queue; a subset of `announced`.
    pub(super) backlog: BTreeMap<u64, Name>,
    next_place: u64,
    /// Every request that is not over; at most 8.
    pub(super) requests: BTreeSet<RequestId>,
    /// Transactions and bytes in those that have not timed out.
    pub(super) outstanding: usize,
    pub(super) outstanding_bytes: usize,
    live_requests: usize,
    /// Requests in a row that brought nothing in time.
    pub(super) strikes: u32,
    pub(super) paused_until: Option<Instant>,
    /// Requests under construction; the last one has this many transactions and bytes.
    built: Vec<RequestId>,
    open_len: usize,
    open_bytes: usize,
}

impl Peer {
    pub(super) fn new(outbound: bool, rtt: Duration) -> Self {
        Self {
            outbound,
            rtt,
            announced: BTreeSet::new(),
            backlog: BTreeMap::new(),
            next_place: 0,
            requests: BTreeSet::new(),
            outstanding: 0,
            outstanding_bytes: 0,
            live_requests: 0,
            strikes: 0,
            paused_until: None,
            built: Vec::new(),
            open_len: 0,
            open_bytes: 0,
        }
    }

    /// Puts a transaction at the end of the queue; returns its place.
    pub(super) fn queue(&mut self, name: Name) -> u64 {
        self.next_place += 1;
        self.backlog.insert(self.next_place, name);
        self.next_place
    }

    pub(super) fn unqueue(&mut self, place: Option<u64>) {
        if let Some(place) = place {
            self.backlog.remove(&place);
        }
    }

    fn fits_open(&self, bytes: usize) -> bool {
        !self.built.is_empty()
            && self.open_len < OUTSTANDING_PER_PEER_MAX
            && self.open_bytes + bytes <= REQUEST_BYTES_MAX
    }

    /// True if it may be asked for one more transaction of this size.
    pub(super) fn can_take(&self, bytes: usize, now: Instant) -> bool {
        let (outstanding_max, requests_max) = if self.strikes == 0 {
            (OUTSTANDING_PER_PEER_MAX, REQUESTS_PER_PEER_MAX)
        } else {
            (PROBE_MAX, 1)
        };
        self.paused_until.is_none_or(|until| until <= now)
            && self.outstanding < outstanding_max
            && (self.outstanding == 0 || self.outstanding_bytes + bytes <= OUTSTANDING_BYTES_PER_PEER_MAX)
            && (self.fits_open(bytes)
                || (self.live_requests < requests_max && self.requests.len() < REQUESTS_PER_PEER_MAX))
    }

    /// Books one more transaction; returns the request it goes into.
    pub(super) fn build(&mut self, bytes: usize, new_id: &mut impl FnMut() -> RequestId) -> RequestId {
        self.outstanding += 1;
        self.outstanding_bytes += bytes;
        if self.fits_open(bytes)
            && let Some(id) = self.built.last()
        {
            self.open_len += 1;
            self.open_bytes += bytes;
            return *id;
        }
        let id = new_id();
        (self.open_len, self.open_bytes) = (1, bytes);
        self.live_requests += 1;
        self.requests.insert(id);
        self.built.push(id);
        id
    }

    pub(super) fn take_built(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.built)
    }

    /// A request no longer counts as outstanding, but its answer may still come.
    pub(super) fn timed_out(&mut self, request: &Request) {
        self.outstanding -= request.names.len();
        self.outstanding_bytes -= request.bytes;
        self.live_requests -= 1;
    }

    /// A request is over.
    pub(super) fn ended(&mut self, id: RequestId, request: &Request) {
        if self.requests.remove(&id) && !request.timed_out {
            self.timed_out(request);
        }
    }

    /// It delivered. Returns when its pause would have ended, if it paused.
    pub(super) fn forgive(&mut self) -> Option<Instant> {
        self.strikes = 0;
        self.paused_until.take()
    }

    /// It delivered nothing in time. Returns when its pause ends.
    pub(super) fn strike(&mut self, now: Instant) -> Instant {
        let until = now + PAUSE * (1 << self.strikes.min(PAUSE_DOUBLINGS_MAX));
        self.strikes = self.strikes.saturating_add(1);
        self.paused_until = Some(until);
        until
    }
}

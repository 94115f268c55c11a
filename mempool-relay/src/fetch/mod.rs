//! The request tracker: whom to ask for an announced transaction, and whom next.
//!
//! # How a transaction is fetched
//! The first to announce it is asked at once. Whoever else announces it is noted. If the answer does
//! not come in time (a round trip, 150 ms, and the time its bytes may take), the next is asked:
//! outbound before inbound, those who answered last time before those who did not, then in the order
//! of announcement. A late answer is still welcome. An answer that ends without the transaction
//! counts as "not found"; that announcer is not asked for it again, the next one is.
//!
//! # Silent announcers
//! A request that brings nothing in time makes its peer pause: 250 ms, doubling up to 32 s, during
//! which only others are asked. After the pause it gets one request of at most 16 transactions; if
//! that is answered, all is forgotten. Nobody is excluded for good, and no honest announcer waits for
//! a silent one longer than one timeout. Timeouts are never an offence.
//!
//! # Bounds
//! For each link: 5,000 announced transactions that are not here yet, 256 transactions, 512 KiB and
//! 8 requests outstanding. What is announced beyond 5,000 is ignored; another announcer brings it.
//! A bogus one costs 250 B (64 for its announcer, 120 for its entry, the rest for timer and sets) for
//! at most a minute: 64 hostile links make 64 × 5,000 × 250 B = 80 MB.

mod peer;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use ghost_frames::tx::ShortId;

use self::peer::Peer;
use crate::link::{LINKS_MAX, LinkSet, Name, Slot};

/// Most transactions that one peer may have announced and that are not here yet.
pub const ANNOUNCED_PER_PEER_MAX: usize = 5_000;
/// Most transactions that one peer is asked for at a time.
pub const OUTSTANDING_PER_PEER_MAX: usize = 256;
/// Most announced bytes that one peer is asked for at a time; a single larger one may exceed it.
pub const OUTSTANDING_BYTES_PER_PEER_MAX: usize = 512 * 1024;
/// Most requests to one peer at a time: what the transaction class lets it answer at a time.
pub const REQUESTS_PER_PEER_MAX: usize = 8;
/// Most announced bytes in one request, so that an answer is one frame and its delay can be foreseen.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How long an answer may take beyond a round trip: scheduling and queues of the other side.
pub const ANSWER_GRACE: Duration = Duration::from_millis(150);
/// The slowest link that is not taken for a silent one, in bytes per second.
const LINK_BYTES_PER_SECOND_MIN: f64 = 1024.0 * 1024.0;
/// A request that timed out is given up after this many times its timeout.
const PATIENCE: u32 = 4;
/// How long an announced transaction is sought; announced again, it is sought again.
const WANTED_LIFETIME: Duration = Duration::from_secs(60);
/// First pause before the same announcer is asked for the same transaction again; it doubles.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

const _: () = {
    assert!(OUTSTANDING_PER_PEER_MAX <= ghost_proto::limits::TX_REQUEST_IDS_MAX);
    assert!(ANNOUNCED_PER_PEER_MAX > OUTSTANDING_PER_PEER_MAX);
    assert!(REQUEST_BYTES_MAX * REQUESTS_PER_PEER_MAX <= OUTSTANDING_BYTES_PER_PEER_MAX);
    assert!(REQUEST_BYTES_MAX < ghost_proto::limits::TX_BATCH_BYTES_MAX);
};

/// A request of ours; unique in the life of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What an announcement says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) bytes: u32,
    pub(crate) fee_class: u8,
}

/// What the tracker wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Request { slot: Slot, request: RequestId, ids: Vec<ShortId> },
    Cancel { slot: Slot, request: RequestId },
}

/// What a body in an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Asked for, and as announced.
    AsAnnounced,
    /// Asked for, but of another size or fee class than this peer announced.
    Misannounced,
    /// Not asked for in this request, or sent twice.
    Unrequested,
    /// The request is given up, its answer was late: a race.
    Late,
}

/// Whom a body made unnecessary to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) announcers: LinkSet,
    pub(crate) first_announced: Instant,
}

#[derive(Debug)]
struct Announcer {
    slot: Slot,
    kind: Kind,
    /// Timeouts for this transaction.
    timeouts: u32,
    /// Not to be asked before.
    not_before: Instant,
    /// The request it was asked in, also after it timed out.
    asked_in: Option<RequestId>,
    /// Its place in the peer's backlog.
    queued: Option<u64>,
}

#[derive(Debug)]
struct Wanted {
    first_announced: Instant,
    /// In the order of announcement; at most one for each link.
    announcers: Vec<Announcer>,
    /// The request that is expected to bring it.
    live: Option<RequestId>,
    /// When an announcer that must not be asked before becomes eligible.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    kind: Kind,
    delivered: bool,
}

#[derive(Debug)]
struct Request {
    slot: Slot,
    names: BTreeMap<Name, Asked>,
    /// As announced, so that a sender's nonces come in order. Taken when it is sent.
    order: Vec<ShortId>,
    /// How many of them are still wanted.
    open: usize,
    bytes: usize,
    sent: Instant,
    timeout: Duration,
    timed_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A request timed out, or is given up.
    Request(RequestId),
    /// A peer's pause ends.
    Resume(Slot),
    /// A transaction may be asked for again.
    Retry(Name),
    /// A transaction is given up.
    Expire(Name),
}

/// Counters; each only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchStats {
    /// Requests sent.
    pub requests: u64,
    /// Transactions asked for in them.
    pub requested: u64,
    /// Requests that were not answered in full in time.
    pub timeouts: u64,
    /// Transactions that an answer ended without.
    pub not_found: u64,
    /// Announcements ignored because their peer had [`ANNOUNCED_PER_PEER_MAX`] open.
    pub over_cap: u64,
    /// Transactions given up because no announcer delivered in a minute.
    pub expired: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Fetch {
    wanted: HashMap<Name, Wanted>,
    requests: BTreeMap<RequestId, Request>,
    peers: Vec<Option<Peer>>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Links with a request under construction.
    building: BTreeSet<Slot>,
    next_request: u64,
    pub(crate) stats: FetchStats,
}

impl Fetch {
    pub(crate) fn new() -> Self {
        Self {
            wanted: HashMap::new(),
            requests: BTreeMap::new(),
            peers: (0..LINKS_MAX).map(|_| None).collect(),
            timers: BTreeSet::new(),
            building: BTreeSet::new(),
            next_request: 0,
            stats: FetchStats::default(),
        }
    }

    pub(crate) fn link_up(&mut self, slot: Slot, outbound: bool, rtt: Duration) {
        self.peers[usize::from(slot.0)] = Some(Peer::new(outbound, rtt));
    }

    pub(crate) fn set_rtt(&mut self, slot: Slot, rtt: Duration) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.rtt = rtt;
        }
    }

    pub(crate) fn link_down(&mut self, slot: Slot, now: Instant, out: &mut Vec<Action>) {
        let Some(peer) = self.peers[usize::from(slot.0)].take() else { return };
        self.building.remove(&slot);
        for id in &peer.requests {
            if let Some(request) = self.requests.remove(id) {
                self.drop_timers(*id, &request);
            }
        }
        if let Some(at) = peer.paused_until {
            self.timers.remove(&(at, Timer::Resume(slot)));
        }
        for name in peer.announced {
            self.forget_announcer(name, slot);
            self.assign(name, now);
        }
        self.send(now, out);
    }

    /// Transactions this peer has announced and that are not here yet.
    pub(crate) fn open(&self, slot: Slot) -> usize {
        self.peers[usize::from(slot.0)].as_ref().map_or(0, |peer| peer.announced.len())
    }

    fn peer_mut(&mut self, slot: Slot) -> Option<&mut Peer> {
        self.peers[usize::from(slot.0)].as_mut()
    }

    /// A peer announced transactions that are neither here nor remembered.
    pub(crate) fn announced(
        &mut self,
        slot: Slot,
        entries: impl IntoIterator<Item = (Name, Kind)>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        for (name, kind) in entries {
            let Some(peer) = self.peers[usize::from(slot.0)].as_mut() else { return };
            if !peer.announced.contains(&name) {
                if peer.announced.len() >= ANNOUNCED_PER_PEER_MAX {
                    self.stats.over_cap += 1;
                    continue;
                }
                peer.announced.insert(name);
            }
            let wanted = self.wanted.entry(name).or_insert_with(|| {
                self.timers.insert((now + WANTED_LIFETIME, Timer::Expire(name)));
                // Most bogus transactions have one announcer; `Vec` would begin with four.
                let announcers = Vec::with_capacity(1);
                Wanted { first_announced: now, announcers, live: None, retry_at: None }
            });
            if !wanted.announcers.iter().any(|announcer| announcer.slot == slot) {
                wanted.announcers.push(Announcer {
                    slot,
                    kind,
                    timeouts: 0,
                    not_before: now,
                    asked_in: None,
                    queued: None,
                });
            }
            self.assign(name, now);
        }
        self.send(now, out);
    }

    /// Finds somebody to ask for a transaction, if nobody is being asked.
    fn assign(&mut self, name: Name, now: Instant) {
        let Some(wanted) = self.wanted.get_mut(&name) else { return };
        if wanted.live.is_some() {
            return;
        }
        let best = wanted
            .announcers
            .iter()
            .enumerate()
            .filter(|(_, announcer)| announcer.asked_in.is_none() && announcer.not_before <= now)
            .filter_map(|(order, announcer)| {
                let peer = self.peers[usize::from(announcer.slot.0)].as_ref()?;
                let able = peer.can_take(announcer.kind.bytes as usize, now);
                able.then_some((peer.strikes, !peer.outbound, announcer.timeouts, order))
            })
            .min();
        if let Some((.., order)) = best {
            let slot = wanted.announcers[order].slot;
            self.ask(name, slot);
            return;
        }
        // Whoever has room first gets it; who may not be asked yet gets it later.
        let mut retry_at: Option<Instant> = None;
        for announcer in &mut wanted.announcers {
            if announcer.not_before > now {
                let sooner = retry_at.map_or(announcer.not_before, |at| at.min(announcer.not_before));
                retry_at = Some(sooner);
            } else if announcer.asked_in.is_none()
                && announcer.queued.is_none()
                && let Some(peer) = self.peers[usize::from(announcer.slot.0)].as_mut()
            {
                announcer.queued = Some(peer.queue(name));
            }
        }
        if wanted.retry_at != retry_at {
            if let Some(at) = wanted.retry_at {
                self.timers.remove(&(at, Timer::Retry(name)));
            }
            if let Some(at) = retry_at {
                self.timers.insert((at, Timer::Retry(name)));
            }
            wanted.retry_at = retry_at;
        }
    }

    /// Adds a transaction to the request to a peer that is under construction.
    fn ask(&mut self, name: Name, slot: Slot) {
        let Some(wanted) = self.wanted.get_mut(&name) else { return };
        let Some(announcer) = wanted.announcers.iter_mut().find(|announcer| announcer.slot == slot) else {
            return;
        };
        let Some(peer) = self.peers[usize::from(slot.0)].as_mut() else { return };
        let mut id = || {
            self.next_request += 1;
            RequestId(self.next_request)
        };
        peer.unqueue(announcer.queued.take());
        let request = peer.build(announcer.kind.bytes as usize, &mut id);
        announcer.asked_in = Some(request);
        wanted.live = Some(request);
        if let Some(at) = wanted.retry_at.take() {
            self.timers.remove(&(at, Timer::Retry(name)));
        }
        let kind = announcer.kind;
        let entry = self.requests.entry(request).or_insert_with(|| Request {
            slot,
            names: BTreeMap::new(),
            order: Vec::new(),
            open: 0,
            bytes: 0,
            // Set when it is sent, at the end of the same call.
            sent: wanted.first_announced,
            timeout: Duration::ZERO,
            timed_out: false,
        });
        entry.names.insert(name, Asked { kind, delivered: false });
        entry.order.push(name.id);
        entry.open += 1;
        entry.bytes += kind.bytes as usize;
        self.building.insert(slot);
    }

    /// Sends what is under construction. Every public call ends with it.
    fn send(&mut self, now: Instant, out: &mut Vec<Action>) {
        for slot in std::mem::take(&mut self.building) {
            let Some(peer) = self.peers[usize::from(slot.0)].as_mut() else { continue };
            for id in peer.take_built() {
                let Some(request) = self.requests.get_mut(&id) else { continue };
                let queued = peer.outstanding_bytes.min(OUTSTANDING_BYTES_PER_PEER_MAX) as f64;
                request.sent = now;
                request.timeout =
                    peer.rtt + ANSWER_GRACE + Duration::from_secs_f64(queued / LINK_BYTES_PER_SECOND_MIN);
                self.timers.insert((now + request.timeout, Timer::Request(id)));
                self.stats.requests += 1;
                self.stats.requested += request.names.len() as u64;
                let ids = std::mem::take(&mut request.order);
                out.push(Action::Request { slot, request: id, ids });
            }
        }
    }

    /// Gives a peer with room what waits for it.
    fn drain(&mut self, slot: Slot, now: Instant) {
        while let Some(peer) = self.peers[usize::from(slot.0)].as_mut() {
            let Some((place, name)) = peer.backlog.first_key_value().map(|(place, name)| (*place, *name))
            else {
                return;
            };
            let announcer = self
                .wanted
                .get_mut(&name)
                .and_then(|wanted| wanted.announcers.iter_mut().find(|announcer| announcer.slot == slot));
            let Some(announcer) = announcer else {
                peer.unqueue(Some(place));
                continue;
            };
            let bytes = announcer.kind.bytes as usize;
            let eligible = announcer.asked_in.is_none() && announcer.not_before <= now;
            if eligible && !peer.can_take(bytes, now) {
                return;
            }
            announcer.queued = None;
            peer.unqueue(Some(place));
            if eligible && self.wanted[&name].live.is_none() {
                self.ask(name, slot);
            }
        }
    }

    /// A body came in the answer to `request`. Afterwards, unless it was [`Verdict::Unrequested`] or
    /// [`Verdict::Misannounced`], call [`Self::arrived`].
    pub(crate) fn body(
        &mut self,
        slot: Slot,
        request: RequestId,
        name: Name,
        kind: Kind,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Verdict {
        let Some(asked) = self
            .requests
            .get_mut(&request)
            .filter(|request| request.slot == slot)
            .map(|request| request.names.get_mut(&name))
        else {
            return Verdict::Late;
        };
        let Some(asked) = asked.filter(|asked| !asked.delivered) else {
            return Verdict::Unrequested;
        };
        asked.delivered = true;
        if asked.kind != kind {
            self.forget_announcer(name, slot);
            self.assign(name, now);
            self.send(now, out);
            return Verdict::Misannounced;
        }
        if let Some(peer) = self.peers[usize::from(slot.0)].as_mut()
            && peer.strikes > 0
        {
            if let Some(at) = peer.forgive() {
                self.timers.remove(&(at, Timer::Resume(slot)));
            }
            self.drain(slot, now);
            self.send(now, out);
        }
        Verdict::AsAnnounced
    }

    /// What a peer announced a transaction as, if it is wanted and the peer announced it.
    pub(crate) fn announced_as(&self, slot: Slot, name: Name) -> Option<Kind> {
        let wanted = self.wanted.get(&name)?;
        wanted.announcers.iter().find(|announcer| announcer.slot == slot).map(|announcer| announcer.kind)
    }

    /// A transaction is here, however it came: nobody needs to be asked for it.
    pub(crate) fn arrived(&mut self, name: Name, now: Instant, out: &mut Vec<Action>) -> Option<Arrival> {
        let wanted = self.take_wanted(name)?;
        let mut announcers = LinkSet::default();
        for announcer in &wanted.announcers {
            announcers.insert(announcer.slot);
            if let Some(peer) = self.peer_mut(announcer.slot) {
                peer.announced.remove(&name);
                peer.unqueue(announcer.queued);
            }
            if let Some(request) = announcer.asked_in {
                self.close_one(request, now, out);
            }
        }
        Some(Arrival { announcers, first_announced: wanted.first_announced })
    }

    fn take_wanted(&mut self, name: Name) -> Option<Wanted> {
        let wanted = self.wanted.remove(&name)?;
        self.timers.remove(&(wanted.first_announced + WANTED_LIFETIME, Timer::Expire(name)));
        if let Some(at) = wanted.retry_at {
            self.timers.remove(&(at, Timer::Retry(name)));
        }
        Some(wanted)
    }

    /// One transaction of a request is no longer wanted from it.
    fn close_one(&mut self, id: RequestId, now: Instant, out: &mut Vec<Action>) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.open -= 1;
        let slot = request.slot;
        let rtt = self.peers[usize::from(slot.0)].as_ref().map_or(Duration::ZERO, |peer| peer.rtt);
        // Later than half a round trip after it was sent, the answer is on its way: let it come.
        let can_be_stopped = request.timed_out || now.saturating_duration_since(request.sent) < rtt / 2;
        let undelivered = request.names.values().any(|asked| !asked.delivered);
        if request.open == 0 && undelivered && can_be_stopped && request.timeout > Duration::ZERO {
            out.push(Action::Cancel { slot, request: id });
            self.end(id, now, false);
            self.drain(slot, now);
            self.send(now, out);
        }
    }

    /// Takes a request off the books. What it did not bring is asked of others.
    fn end(&mut self, id: RequestId, now: Instant, not_found: bool) {
        let Some(request) = self.requests.remove(&id) else { return };
        let slot = request.slot;
        self.drop_timers(id, &request);
        if let Some(peer) = self.peer_mut(slot) {
            peer.ended(id, &request);
        }
        let nothing_came = request.names.values().all(|asked| !asked.delivered);
        if not_found && nothing_came && request.open > 0 {
            self.strike(slot, now);
        }
        for name in request.names.into_keys() {
            let Some(wanted) = self.wanted.get_mut(&name) else { continue };
            if wanted.live == Some(id) {
                wanted.live = None;
            }
            let announcer = wanted
                .announcers
                .iter_mut()
                .find(|announcer| announcer.slot == slot && announcer.asked_in == Some(id));
            let Some(announcer) = announcer else { continue };
            if not_found {
                self.stats.not_found += 1;
                self.forget_announcer(name, slot);
            } else {
                announcer.asked_in = None;
                announcer.timeouts = announcer.timeouts.max(1);
                announcer.not_before = now + RETRY_PAUSE * (1 << (announcer.timeouts - 1).min(4));
            }
            self.assign(name, now);
        }
    }

    fn drop_timers(&mut self, id: RequestId, request: &Request) {
        self.timers.remove(&(request.sent + request.timeout, Timer::Request(id)));
        self.timers.remove(&(request.sent + request.timeout * PATIENCE, Timer::Request(id)));
    }

    fn strike(&mut self, slot: Slot, now: Instant) {
        let Some(peer) = self.peers[usize::from(slot.0)].as_mut() else { return };
        if let Some(at) = peer.paused_until {
            self.timers.remove(&(at, Timer::Resume(slot)));
        }
        self.timers.insert((peer.strike(now), Timer::Resume(slot)));
    }

    fn forget_announcer(&mut self, name: Name, slot: Slot) {
        let Some(wanted) = self.wanted.get_mut(&name) else { return };
        let Some(index) = wanted.announcers.iter().position(|announcer| announcer.slot == slot) else {
            return;
        };
        let announcer = wanted.announcers.remove(index);
        if announcer.asked_in.is_some() && wanted.live == announcer.asked_in {
            wanted.live = None;
        }
        let empty = wanted.announcers.is_empty();
        if let Some(request) = announcer.asked_in.and_then(|id| self.requests.get_mut(&id)) {
            request.open -= 1;
        }
        if let Some(peer) = self.peer_mut(slot) {
            peer.announced.remove(&name);
            peer.unqueue(announcer.queued);
        }
        if empty {
            self.take_wanted(name);
        }
    }

    /// The answer to a request ended.
    pub(crate) fn answer_ended(
        &mut self,
        slot: Slot,
        request: RequestId,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.finish(slot, request, true, now, out);
    }

    /// A request could not be sent, or was reset. The peer pauses as if it had been silent.
    pub(crate) fn request_failed(
        &mut self,
        slot: Slot,
        request: RequestId,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if self.requests.get(&request).is_some_and(|request| request.slot == slot) {
            self.strike(slot, now);
        }
        self.finish(slot, request, false, now, out);
    }

    fn finish(&mut self, slot: Slot, id: RequestId, not_found: bool, now: Instant, out: &mut Vec<Action>) {
        if self.requests.get(&id).is_none_or(|request| request.slot != slot) {
            return;
        }
        self.end(id, now, not_found);
        self.drain(slot, now);
        self.send(now, out);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn on_deadline(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Request(id) => self.request_overdue(id, now, out),
                Timer::Resume(slot) => {
                    if let Some(peer) = self.peer_mut(slot) {
                        peer.paused_until = None;
                    }
                    self.drain(slot, now);
                }
                Timer::Expire(name) => {
                    self.stats.expired += 1;
                    self.arrived(name, now, out);
                }
                Timer::Retry(name) => {
                    if let Some(wanted) = self.wanted.get_mut(&name) {
                        wanted.retry_at = None;
                    }
                    self.assign(name, now);
                }
            }
        }
        self.send(now, out);
    }

    fn request_overdue(&mut self, id: RequestId, now: Instant, out: &mut Vec<Action>) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let slot = request.slot;
        if request.timed_out {
            out.push(Action::Cancel { slot, request: id });
            self.end(id, now, false);
            self.drain(slot, now);
            return;
        }
        request.timed_out = true;
        let give_up = request.sent + request.timeout * PATIENCE;
        self.timers.insert((give_up, Timer::Request(id)));
        let names: Vec<Name> = request.names.keys().copied().collect();
        let (open, delivered) = (request.open, request.names.values().any(|asked| asked.delivered));
        if let Some(peer) = self.peers[usize::from(slot.0)].as_mut() {
            peer.timed_out(&self.requests[&id]);
        }
        if open == 0 {
            return;
        }
        self.stats.timeouts += 1;
        if !delivered {
            self.strike(slot, now);
        }
        for name in names {
            let Some(wanted) = self.wanted.get_mut(&name) else { continue };
            if wanted.live != Some(id) {
                continue;
            }
            wanted.live = None;
            for announcer in &mut wanted.announcers {
                if announcer.asked_in == Some(id) {
                    announcer.timeouts += 1;
                }
            }
            self.assign(name, now);
        }
    }
}

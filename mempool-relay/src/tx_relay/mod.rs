//! Transaction relay: the least bytes and the least time to get every transaction to every node.
//!
//! # Pull-stop
//! A transaction that was **submitted here, or pushed to us before anybody announced it**, is pushed on
//! to a few random peers that do not know it (one to four, steered by [`COPIES_TARGET`]) and announced
//! to all other active links. One that we **asked for, or had heard of**, is only announced. While few
//! nodes have a transaction it spreads by pushes; where it is announced already, most will get it by
//! asking, and the pushing dies out by itself, without a hop count on the wire. (Pushing on what had
//! been announced made 2.27 copies instead of 1.29 in 1,000 simulated nodes with a fanout of 3.) Bodies
//! above [`PUSH_BYTES_MAX`] are never pushed. Figures: `tests/relay_sim`.
//!
//! # What the other side knows
//! is one bit for each transaction and link: set by what it announced, pushed or answered, and by
//! what we sent to it. A bit set for something that the driver then could not queue is cleared, and
//! the transaction is announced later. What finds the queue of a link full is not marked either: a
//! slow walk over all held transactions announces whatever the link does not know, also to a link that
//! just came up.
//!
//! # Reconciliation
//! A new peer is not told of everything: a session of [`crate::reconcile`] finds out what each side
//! lacks, opened by the one that dialled. Links that nothing is announced on repeat it every
//! [`SYNC_PERIOD`], the others every [`REPAIR_PERIOD`]. What the peer has goes to the request tracker as
//! its announcement; what it lacks, the slow walk announces.
//!
//! # Driver
//! 1. A session is up, both hellos read: [`Input::PeerUp`]. It ends: [`Input::PeerDown`].
//! 2. A frame arrives:
//!    - `TxAnnounce` on the push stream: [`Input::Announced`];
//!    - `Transactions` on the push stream, or in an answer to us: [`Input::Received`];
//!    - `TxRequest`: [`Input::Requested`], with a number of the driver's to find the stream by;
//!    - `Symbols`, `Inventory` or `TxAnnounce` in an answer to an [`Effect::SyncRequest`]:
//!      [`Input::SyncAnswered`];
//!    - a request on a tx_sync stream: [`Input::SyncRequested`], likewise with a number.
//! 3. An answer to us ended: [`Input::AnswerEnded`]; its request could not be sent or was reset:
//!    [`Input::RequestFailed`].
//! 4. After *each* input, execute the effects in order. [`Effect::Announce`] and [`Effect::Push`] are
//!    confirmed at once: [`TxRelay::delivered`] if the session queued the frame,
//!    [`TxRelay::not_delivered`] if not. An unconfirmed one counts as sent.
//! 5. [`Effect::Check`] names bodies to be verified, out of the frame that was just handed in. Check
//!    their signatures (a batch, on a worker), insert them into the pool, then answer with
//!    [`Input::Checked`], followed by [`Input::PoolChanged`] with what else the insertions changed.
//!    Every check must be answered, in any order and at any time; until then the same body is not
//!    fetched again.
//! 6. The pool changes for other reasons (expiry, a new head): [`Input::PoolChanged`]. A new head also
//!    means that what was refused may be good now: [`Input::HeadChanged`].
//! 7. A transaction is submitted to this node and the pool took it as ready: [`Input::Submitted`].
//!    (A parked one needs nothing: it comes with a later [`Input::PoolChanged`].)
//! 8. [`TxRelay::next_deadline`] passed: [`TxRelay::on_deadline`].
//!
//! A core: no clock, no entropy, no I/O. Deterministic for a seed and a sequence of inputs.

mod fanout;
mod held;
mod spread;
mod stats;
mod sync;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::tx::{ShortId, TxAnnounceEntry};
use ghost_proto::{PeerId, TxId, limits::TX_BATCH_BYTES_MAX};
use rand::{SeedableRng, rngs::StdRng};

pub use self::{
    fanout::COPIES_TARGET,
    stats::{FetchStats, LATENCY_BUCKETS_MS, LatencyHistogram, RelayStats, SyncStats},
    sync::{ASK_TIMEOUT, ASKING_MAX, LISTS_MAX, REPAIR_PERIOD, SYNC_PERIOD},
    types::{Checked, Effect, Input, Offence, Token, TxSummary, Via, fee_class},
};
use self::{
    fanout::Fanout,
    held::{Held, HeldSet, Remembered, Stage, TxRef},
    spread::{Link, Sent},
    sync::LinkSync,
};
pub use crate::{fetch::RequestId, link::Salt};
use crate::{
    fetch::{Action, Fetch, Kind, Verdict},
    link::{LINKS_MAX, LinkSet, Name, Salts, Slot, Slots},
};

/// Larger bodies are announced, never pushed: a wasted copy of one costs as much as 300 announcements.
pub const PUSH_BYTES_MAX: u32 = 4096;
/// Most bytes of bodies in one answer; an asker does not ask for more in one request.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Most bodies that may be with the driver for checking. Further pushes are dropped (they will be
/// announced by somebody): 16,384 checks of 30 µs are half a second of work. Answers to requests are
/// bounded by what is asked for.
pub const CHECKING_MAX: usize = 16_384;
/// How long what left the pool is not fetched again.
const GONE_PERIOD: Duration = Duration::from_secs(60);
/// How long what was refused is not fetched again, unless the head changes before.
const REFUSED_PERIOD: Duration = Duration::from_secs(10);
/// How long announcing all that is held to a new peer waits for reconciliation to say what it has.
const WALK_GRACE: Duration = Duration::from_secs(3);

const _: () = {
    assert!((PUSH_BYTES_MAX as usize) < TX_BATCH_BYTES_MAX);
    assert!(crate::fetch::REQUEST_BYTES_MAX <= ANSWER_BYTES_MAX);
};

/// See the [module](self).
pub struct TxRelay {
    rng: StdRng,
    salts: Salts,
    slots: Slots,
    peers: BTreeMap<PeerId, Slot>,
    links: Vec<Option<Link>>,
    held: HeldSet,
    checking: usize,
    fetch: Fetch,
    gone: Remembered,
    refused: Remembered,
    fanout: Fanout,
    fee_floor: u64,
    /// What the peers know of it.
    told_fee_floor: u64,
    /// Links with a reconciliation session of ours.
    asking: Vec<Slot>,
    next_sync: u64,
    unconfirmed: BTreeMap<Token, (Slot, Sent)>,
    next_token: u64,
    actions: Vec<Action>,
    effects: Vec<Effect>,
    stats: RelayStats,
}

impl TxRelay {
    /// A relay without links. The seed decides whom it pushes to; draw it from the system.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            salts: Salts::default(),
            slots: Slots::default(),
            peers: BTreeMap::new(),
            links: (0..LINKS_MAX).map(|_| None).collect(),
            held: HeldSet::default(),
            checking: 0,
            fetch: Fetch::new(),
            gone: Remembered::new(GONE_PERIOD),
            refused: Remembered::new(REFUSED_PERIOD),
            fanout: Fanout::new(),
            fee_floor: 0,
            told_fee_floor: 0,
            asking: Vec::new(),
            next_sync: 0,
            unconfirmed: BTreeMap::new(),
            next_token: 0,
            actions: Vec::new(),
            effects: Vec::new(),
            stats: RelayStats::default(),
        }
    }

    /// Takes what happened at `now`; answers with what to do, in order. Inputs about peers that are
    /// not up are ignored: they raced with a disconnect.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) -> Vec<Effect> {
        match input {
            Input::PeerUp { peer, outbound, rtt, our_salt, their_salt, active, sync_key } => {
                self.peer_up(peer, outbound, rtt, our_salt, their_salt, active, sync_key, now);
            }
            Input::PeerDown { peer } => self.peer_down(&peer, now),
            Input::SetActive { peer, active } => self.set_active(&peer, active, now),
            Input::RttUpdate { peer, rtt } => {
                if let Some(slot) = self.slot(&peer) {
                    self.fetch.set_rtt(slot, rtt);
                    self.link_mut(slot).rtt = rtt;
                }
            }
            Input::Announced { peer, entries } => self.announced(&peer, entries, now),
            Input::Received { peer, via, txs } => self.received(&peer, via, txs, now),
            Input::Checked { peer, verdicts } => self.checked(&peer, verdicts, now),
            Input::AnswerEnded { peer, request } => {
                if let Some(slot) = self.slot(&peer)
                    && !self.sync_answer_ended(slot, request, now)
                {
                    self.fetch.answer_ended(slot, request, now, &mut self.actions);
                }
            }
            Input::RequestFailed { peer, request } => {
                if let Some(slot) = self.slot(&peer)
                    && !self.sync_request_failed(slot, request, now)
                {
                    self.fetch.request_failed(slot, request, now, &mut self.actions);
                }
            }
            Input::Requested { peer, request, ids } => self.requested(&peer, request, ids),
            Input::SyncAnswered { peer, request, frame } => {
                self.sync_answered(&peer, request, frame, now);
            }
            Input::SyncRequested { peer, request, ask } => self.sync_requested(&peer, request, ask, now),
            Input::Submitted { txs } => {
                let new = self.hold_ready(txs, true, now);
                self.relay(new, now);
            }
            Input::PoolChanged { ready, removed } => {
                for id in removed {
                    self.removed(id, now);
                }
                let new = self.hold_ready(ready, false, now);
                self.relay(new, now);
            }
            Input::HeadChanged => self.refused.clear(),
            Input::FeeFloor { gas_price } => self.floor_changed(gas_price),
            Input::PeerFeeFloor { peer, gas_price } => self.peer_floor_changed(&peer, gas_price, now),
        }
        self.name_missing(now);
        self.take_effects()
    }

    /// When to call [`Self::on_deadline`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let links = self.peers.values().filter_map(|slot| self.links[usize::from(slot.0)].as_ref());
        let links = links.flat_map(|link| {
            let walk = link.walk.map(|(_, at)| at);
            [link.flush_at, walk].into_iter().flatten()
        });
        links.chain(self.sync_deadlines()).chain(self.fetch.next_deadline()).min()
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Effect> {
        let slots: Vec<Slot> = self.peers.values().copied().collect();
        for slot in slots {
            let link = self.link_mut(slot);
            let walk_due = link.walk.is_some_and(|(_, at)| at <= now);
            if link.flush_at.is_some_and(|at| at <= now) {
                self.flush(slot, now);
            }
            if walk_due {
                self.walk(slot, now);
            }
        }
        self.fetch.on_deadline(now, &mut self.actions);
        self.sync_on_deadline(now);
        self.take_effects()
    }

    /// A copy of the counters.
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            fetch: self.fetch.stats,
            fanout: self.fanout.value(),
            held: self.held.len(),
            ..self.stats
        }
    }

    /// True if this peer has the transaction as far as we know: it told us, or we told it.
    pub fn is_known_to(&self, peer: &PeerId, id: &TxId) -> bool {
        let held = self.held.find(id).and_then(|tx| self.held.get(tx));
        match (self.slot(peer), held) {
            (Some(slot), Some(held)) => held.known.contains(slot),
            _ => false,
        }
    }

    fn slot(&self, peer: &PeerId) -> Option<Slot> {
        self.peers.get(peer).copied()
    }

    fn link_mut(&mut self, slot: Slot) -> &mut Link {
        self.links[usize::from(slot.0)].as_mut().expect("a slot in use has a link")
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        for action in std::mem::take(&mut self.actions) {
            let slot = match &action {
                Action::Request { slot, .. } | Action::Cancel { slot, .. } => *slot,
            };
            // A link that went down has no requests left to cancel.
            let Some(link) = &self.links[usize::from(slot.0)] else { continue };
            let peer = link.peer;
            self.effects.push(match action {
                Action::Request { request, ids, .. } => Effect::Request { peer, request, ids },
                Action::Cancel { request, .. } => Effect::Cancel { peer, request },
            });
        }
        std::mem::take(&mut self.effects)
    }

    fn offence(&mut self, peer: PeerId, what: Offence) {
        self.stats.offences += 1;
        self.effects.push(Effect::Offence { peer, what });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one input")]
    fn peer_up(
        &mut self,
        peer: PeerId,
        outbound: bool,
        rtt: Duration,
        our_salt: Salt,
        their_salt: Salt,
        active: bool,
        sync_key: Option<[u8; 16]>,
        now: Instant,
    ) {
        if self.peers.contains_key(&peer) {
            self.peer_down(&peer, now);
        }
        let Some((our_salt, is_new)) = self.salts.index(our_salt) else {
            self.stats.links_refused += 1;
            tracing::warn!(%peer, max = Salts::MAX, "no transactions relayed: too many identities in one process");
            return;
        };
        if is_new {
            self.held.add_names(&self.salts);
        }
        let slot = self.slots.take().or_else(|| {
            self.held.forget_links(self.slots.sweep());
            self.slots.take()
        });
        let Some(slot) = slot else {
            self.stats.links_refused += 1;
            tracing::warn!(%peer, max = LINKS_MAX, "no transactions relayed: all links are taken");
            return;
        };
        self.peers.insert(peer, slot);
        let mut link = Link::new(peer, rtt, our_salt, their_salt);
        link.sync = sync_key.map(|key| LinkSync::new(key, outbound, now));
        self.links[usize::from(slot.0)] = Some(link);
        if self.told_fee_floor > 0 {
            self.effects.push(Effect::TellFeeFloor { peer, gas_price: self.told_fee_floor });
        }
        self.fetch.link_up(slot, outbound, rtt);
        self.set_active(&peer, active, now);
    }

    fn peer_down(&mut self, peer: &PeerId, now: Instant) {
        let Some(slot) = self.peers.remove(peer) else { return };
        self.fetch.link_down(slot, now, &mut self.actions);
        self.links[usize::from(slot.0)] = None;
        self.asking.retain(|other| *other != slot);
        self.unconfirmed.retain(|_, (other, _)| *other != slot);
        self.slots.free(slot);
    }

    fn set_active(&mut self, peer: &PeerId, active: bool, now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        let held = self.held.len();
        let link = self.link_mut(slot);
        if link.active == active {
            return;
        }
        link.active = active;
        link.queue.clear();
        link.flush_at = None;
        // Reconciliation tells what need not be announced; it comes first, unless it fails.
        let at = if link.sync.as_ref().is_some_and(LinkSync::is_awaited) { now + WALK_GRACE } else { now };
        link.walk = (active && held > 0).then_some((0, at));
    }

    fn announced(&mut self, peer: &PeerId, entries: &[TxAnnounceEntry], now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        let salt = self.link_mut(slot).our_salt;
        let mut wanted = Vec::with_capacity(entries.len());
        for entry in entries {
            self.stats.heard += 1;
            let name = Name { salt, id: entry.id };
            if let Some(held) = self.held.find_name(name).and_then(|tx| self.held.get_mut(tx)) {
                held.known.insert(slot);
                self.stats.heard_known += 1;
            } else if self.gone.contains(name, now) || self.refused.contains(name, now) {
                self.stats.heard_known += 1;
            } else if is_surely_below(entry.fee_class, self.fee_floor) {
                self.stats.heard_below_floor += 1;
            } else {
                wanted.push((name, Kind { bytes: entry.bytes, fee_class: entry.fee_class }));
            }
        }
        self.fetch.announced(slot, wanted, now, &mut self.actions);
    }

    fn received(&mut self, peer: &PeerId, via: Via, txs: &[TxSummary], now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        let salt = self.link_mut(slot).our_salt;
        let mut to_check = Vec::new();
        for tx in txs {
            let kind = Kind { bytes: tx.bytes, fee_class: tx.fee_class };
            let names: Vec<Name> = self.salts.names(&tx.id).collect();
            let name = names[usize::from(salt)];
            match via {
                Via::Push => {
                    if tx.bytes > PUSH_BYTES_MAX {
                        self.offence(*peer, Offence::PushTooLarge);
                        continue;
                    }
                    if self.fetch.announced_as(slot, name).is_some_and(|announced| announced != kind) {
                        self.offence(*peer, Offence::Misannounced);
                        continue;
                    }
                }
                Via::Pull(request) => {
                    match self.fetch.body(slot, request, name, kind, now, &mut self.actions) {
                        Verdict::AsAnnounced | Verdict::Late => {}
                        Verdict::Misannounced => {
                            self.offence(*peer, Offence::Misannounced);
                            continue;
                        }
                        Verdict::Unrequested => {
                            self.offence(*peer, Offence::Unrequested);
                            continue;
                        }
                    }
                }
            }
            let here = self.held.find(&tx.id).and_then(|tx| self.held.get_mut(tx));
            let is_here = here.is_some();
            if let Some(held) = here {
                held.known.insert(slot);
            }
            if is_here || self.gone.contains(name, now) || self.refused.contains(name, now) {
                self.stats.bodies_duplicate += 1;
                self.stats.bytes_duplicate += u64::from(tx.bytes);
                self.fanout.received(false);
                continue;
            }
            if via == Via::Push && self.checking >= CHECKING_MAX {
                self.stats.dropped_busy += 1;
                continue;
            }
            self.stats.bodies_first += 1;
            self.stats.bytes_useful += u64::from(tx.bytes);
            self.stats.bodies_pushed_to_us += u64::from(via == Via::Push);
            self.fanout.received(true);
            let mut known = LinkSet::default();
            known.insert(slot);
            let mut was_announced = false;
            for name in names {
                if let Some(arrival) = self.fetch.arrived(name, now, &mut self.actions) {
                    was_announced = true;
                    known.extend(arrival.announcers);
                    if via != Via::Push {
                        let latency = now.saturating_duration_since(arrival.first_announced);
                        self.stats.announce_to_have.record(latency);
                    }
                }
            }
            // Whoever was told of it before it was pushed stands where most have it or will ask for it.
            let pushed = via == Via::Push && !was_announced;
            let held = Held { tx: *tx, stage: Stage::Checking, pushed, known };
            self.held.insert(held, &self.salts);
            self.checking += 1;
            to_check.push(tx.id);
        }
        if !to_check.is_empty() {
            self.effects.push(Effect::Check { peer: *peer, ids: to_check });
        }
    }

    fn checked(&mut self, peer: &PeerId, verdicts: &[(TxId, Checked)], now: Instant) {
        let mut ready = Vec::with_capacity(verdicts.len());
        for (id, verdict) in verdicts {
            if *verdict == Checked::Invalid {
                self.offence(*peer, Offence::InvalidTransaction);
            }
            let Some(tx) = self.held.find(id) else { continue };
            let Some(held) = self.held.get_mut(tx).filter(|held| held.stage == Stage::Checking) else {
                // Submitted here while it was checked.
                continue;
            };
            self.checking -= 1;
            match verdict {
                Checked::Ready => {
                    self.held.make_ready(tx);
                    ready.push(tx);
                }
                Checked::Parked => held.stage = Stage::Parked,
                Checked::Refused => {
                    self.held.remove(id, &self.salts);
                    self.refused.insert(self.salts.names(id), now);
                }
                Checked::Invalid => {
                    self.held.remove(id, &self.salts);
                    self.gone.insert(self.salts.names(id), now);
                }
            }
        }
        self.relay(ready, now);
    }

    /// Holds what is ready in the pool; returns what was not ready here before.
    fn hold_ready(&mut self, txs: &[TxSummary], submitted: bool, now: Instant) -> Vec<TxRef> {
        let mut new = Vec::with_capacity(txs.len());
        for tx in txs {
            if let Some(known) = self.held.find(&tx.id) {
                if let Some(held) = self.held.get_mut(known).filter(|held| held.stage != Stage::Ready) {
                    self.checking -= usize::from(held.stage == Stage::Checking);
                    held.pushed |= submitted;
                    self.held.make_ready(known);
                    new.push(known);
                }
                continue;
            }
            let mut known = LinkSet::default();
            for name in self.salts.names(&tx.id) {
                self.gone.remove(name);
                self.refused.remove(name);
                if let Some(arrival) = self.fetch.arrived(name, now, &mut self.actions) {
                    known.extend(arrival.announcers);
                }
            }
            let held = Held { tx: *tx, stage: Stage::Ready, pushed: submitted, known };
            new.push(self.held.insert(held, &self.salts));
        }
        new
    }

    fn removed(&mut self, id: &TxId, now: Instant) {
        if let Some(held) = self.held.remove(id, &self.salts) {
            self.checking -= usize::from(held.stage == Stage::Checking);
        }
        self.gone.insert(self.salts.names(id), now);
    }

    fn requested(&mut self, peer: &PeerId, request: u64, ids: &[ShortId]) {
        let Some(slot) = self.slot(peer) else { return };
        let link = self.links[usize::from(slot.0)].as_mut().expect("a slot in use has a link");
        let mut answer = Vec::with_capacity(ids.len());
        let mut bytes = 0;
        for id in ids {
            let Some(held) = link.announced.answer(*id).and_then(|tx| self.held.get(tx)) else { continue };
            bytes += held.tx.bytes as usize;
            if bytes > ANSWER_BYTES_MAX && !answer.is_empty() {
                break;
            }
            answer.push(held.tx.id);
        }
        self.stats.answered += answer.len() as u64;
        self.effects.push(Effect::Answer { peer: *peer, request, ids: answer });
    }
}

/// True if every gas price of the class is below the floor.
fn is_surely_below(fee_class: u8, floor: u64) -> bool {
    // The highest price of class c is 2^(c+1) - 1.
    floor > 0 && u32::from(fee_class) + 1 < u64::BITS && (1u64 << (fee_class + 1)) <= floor
}

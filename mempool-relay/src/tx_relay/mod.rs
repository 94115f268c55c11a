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
//! # Driver
//! 1. A session is up, both hellos read: [`Input::PeerUp`]. It ends: [`Input::PeerDown`].
//! 2. A frame arrives:
//!    - `TxAnnounce` on the push stream: [`Input::Announced`];
//!    - `Transactions` on the push stream, or in an answer to us: [`Input::Received`];
//!    - `TxRequest`: [`Input::Requested`], with a number of the driver's to find the stream by.
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
mod stats;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::tx::{ShortId, TxAnnounce, TxAnnounceEntry};
use ghost_proto::{
    PeerId, SignedTransaction, TxId,
    limits::{ANNOUNCE_ENTRIES_MAX, TX_BATCH_BYTES_MAX, TX_BATCH_MAX},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub use self::{
    fanout::COPIES_TARGET,
    stats::{FetchStats, LATENCY_BUCKETS_MS, LatencyHistogram, RelayStats},
};
use self::{
    fanout::Fanout,
    held::{Held, HeldSet, Remembered, Stage, TxRef},
};
use crate::{
    announce::{Pace, Queue},
    fetch::{Action, Fetch, Kind, Verdict},
    link::{Announced, LINKS_MAX, LinkSet, Name, Salts, Slot, Slots},
};
pub use crate::{fetch::RequestId, link::Salt};

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
/// Announcements in one step of the walk over all held transactions, and the time between two steps:
/// 1,280 a second, what a link of 200 ms can fetch (256 outstanding). The other side ignores what
/// goes beyond 5,000.
const WALK_STEP: usize = 128;
const WALK_PAUSE: Duration = Duration::from_millis(100);
/// Held transactions looked at in one step.
const WALK_LOOK_MAX: usize = 4096;
/// Added to each round trip when peers to push to are drawn, so that a neighbour in the same rack does
/// not draw every push.
const PUSH_RTT_FLOOR: Duration = Duration::from_millis(20);
/// Confirmations that are waited for; the driver gives each before it hands in anything else.
const UNCONFIRMED_MAX: usize = 16_384;
/// First pause of a link that could not take a frame; it doubles up to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

const _: () = {
    assert!((PUSH_BYTES_MAX as usize) < TX_BATCH_BYTES_MAX);
    assert!(crate::fetch::REQUEST_BYTES_MAX <= ANSWER_BYTES_MAX);
    assert!(WALK_STEP <= ANNOUNCE_ENTRIES_MAX);
};

/// What the relay needs to know of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxSummary {
    /// Its id.
    pub id: TxId,
    /// Length of its encoding.
    pub bytes: u32,
    /// ⌊log2(gas price)⌋, 0 for a price of 0 or 1.
    pub fee_class: u8,
}

impl From<&SignedTransaction> for TxSummary {
    fn from(tx: &SignedTransaction) -> Self {
        Self { id: tx.id(), bytes: tx.bytes().len() as u32, fee_class: fee_class(tx.body().gas_price) }
    }
}

/// ⌊log2(gas price)⌋, 0 for a price of 0 or 1.
pub fn fee_class(gas_price: u64) -> u8 {
    gas_price.max(1).ilog2() as u8
}

/// How bodies came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Unasked, on the peer's push stream.
    Push,
    /// In the answer to a request of ours.
    Pull(RequestId),
}

/// What became of a checked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// In the pool and ready: relay it.
    Ready,
    /// In the pool, waiting for an earlier nonce.
    Parked,
    /// Not for now: used nonce, balance, full pool ([`crate::pool::Refusal::is_invalid`] is false).
    /// Nobody's fault.
    Refused,
    /// Never valid here: bad signature, or `is_invalid` is true. Whoever sent it is at fault.
    Invalid,
}

/// What happened. The time at which it happened is given beside it.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// A peer is connected.
    PeerUp {
        /// Who.
        peer: PeerId,
        /// We dialled: preferred when several announce the same.
        outbound: bool,
        /// Smoothed round-trip time.
        rtt: Duration,
        /// What we told it in our hello.
        our_salt: Salt,
        /// What it told us in its hello.
        their_salt: Salt,
        /// Announce and push to it. Others are only listened to and answered.
        active: bool,
    },
    /// A peer is gone.
    PeerDown {
        /// Who.
        peer: PeerId,
    },
    /// The choice of active links changed.
    SetActive {
        /// Who.
        peer: PeerId,
        /// See [`Input::PeerUp`].
        active: bool,
    },
    /// A new estimate.
    RttUpdate {
        /// Whose.
        peer: PeerId,
        /// Smoothed round-trip time.
        rtt: Duration,
    },
    /// A peer announced transactions.
    Announced {
        /// Who.
        peer: PeerId,
        /// What.
        entries: &'a [TxAnnounceEntry],
    },
    /// Bodies came; nothing of them is checked but their layout.
    Received {
        /// From whom.
        peer: PeerId,
        /// How.
        via: Via,
        /// What.
        txs: &'a [TxSummary],
    },
    /// Bodies of an [`Effect::Check`] are checked.
    Checked {
        /// As in the effect.
        peer: PeerId,
        /// One for each.
        verdicts: &'a [(TxId, Checked)],
    },
    /// The answer to a request ended in good order.
    AnswerEnded {
        /// Who answered.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// A request could not be sent, or was reset by the other side.
    RequestFailed {
        /// Who was asked.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// A peer asks for bodies.
    Requested {
        /// Who.
        peer: PeerId,
        /// The driver's name for it, given back in [`Effect::Answer`].
        request: u64,
        /// What.
        ids: &'a [ShortId],
    },
    /// Submitted to this node, ready in the pool: relay as if pushed to us.
    Submitted {
        /// What.
        txs: &'a [TxSummary],
    },
    /// The pool changed.
    PoolChanged {
        /// Ready now, and not before: freed by a parent, loaded at start, or out of a reverted block.
        ready: &'a [TxSummary],
        /// No longer in the pool.
        removed: &'a [TxId],
    },
    /// The canonical head moved: what was refused may be good now.
    HeadChanged,
    /// Least gas price the pool accepts now. Announcements that are surely below are not fetched.
    FeeFloor {
        /// Base units per gas.
        gas_price: u64,
    },
}

/// Something a peer did wrong. Being slow, late or first never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offence {
    /// A body whose size or fee class is not what the same peer announced.
    Misannounced,
    /// A body in an answer that was not asked for.
    Unrequested,
    /// A push above [`PUSH_BYTES_MAX`].
    PushTooLarge,
    /// A transaction that is never valid on this chain.
    InvalidTransaction,
}

impl Offence {
    /// One word, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Misannounced => "misannounced",
            Self::Unrequested => "unrequested",
            Self::PushTooLarge => "push_too_large",
            Self::InvalidTransaction => "invalid_transaction",
        }
    }
}

/// Names an announcement or a push whose delivery is to be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this frame on the push stream; confirm.
    Announce {
        /// To whom.
        peer: PeerId,
        /// What.
        announce: TxAnnounce,
        /// For the confirmation.
        token: Token,
    },
    /// Send the bodies in one `Transactions` frame on the push stream; confirm. They fit one frame.
    Push {
        /// To whom.
        peer: PeerId,
        /// What; all in the pool.
        ids: Vec<TxId>,
        /// For the confirmation.
        token: Token,
    },
    /// Ask for bodies. If that cannot be sent: [`Input::RequestFailed`].
    Request {
        /// Whom.
        peer: PeerId,
        /// Goes with every input about it.
        request: RequestId,
        /// What.
        ids: Vec<ShortId>,
    },
    /// Reset the stream of a request; nothing more is to be reported of it.
    Cancel {
        /// Who was asked.
        peer: PeerId,
        /// Which request.
        request: RequestId,
    },
    /// Answer a peer's request with those of these bodies that are still in the pool, then end the
    /// answer. May be empty.
    Answer {
        /// Who asked.
        peer: PeerId,
        /// The driver's name for it.
        request: u64,
        /// What.
        ids: Vec<TxId>,
    },
    /// Verify these bodies and try to insert them into the pool; then [`Input::Checked`].
    Check {
        /// Who sent them.
        peer: PeerId,
        /// Which, out of the frame just handed in.
        ids: Vec<TxId>,
    },
    /// Tell the keeper of conduct.
    Offence {
        /// Who did it.
        peer: PeerId,
        /// What.
        what: Offence,
    },
}

struct Link {
    peer: PeerId,
    active: bool,
    rtt: Duration,
    /// Which of our salts it names transactions by.
    our_salt: u8,
    their_salt: Salt,
    pace: Pace,
    queue: Queue<TxRef>,
    announced: Announced<TxRef>,
    /// When to announce next; set while something waits.
    flush_at: Option<Instant>,
    /// Where the walk over all held transactions stands, and when it goes on.
    walk: Option<(usize, Instant)>,
    /// After a refused frame: not to be sent to before, and how long the next pause is.
    blocked_until: Option<Instant>,
    back_off: Duration,
}

enum Sent {
    Announcement(Vec<TxRef>),
    Push(Vec<TxRef>),
}

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
            Input::PeerUp { peer, outbound, rtt, our_salt, their_salt, active } => {
                self.peer_up(peer, outbound, rtt, our_salt, their_salt, active, now);
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
                if let Some(slot) = self.slot(&peer) {
                    self.fetch.answer_ended(slot, request, now, &mut self.actions);
                }
            }
            Input::RequestFailed { peer, request } => {
                if let Some(slot) = self.slot(&peer) {
                    self.fetch.request_failed(slot, request, now, &mut self.actions);
                }
            }
            Input::Requested { peer, request, ids } => self.requested(&peer, request, ids),
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
            Input::FeeFloor { gas_price } => self.fee_floor = gas_price,
        }
        self.take_effects()
    }

    /// When to call [`Self::on_deadline`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let links = self.peers.values().filter_map(|slot| self.links[usize::from(slot.0)].as_ref());
        let links = links.flat_map(|link| {
            let walk = link.walk.map(|(_, at)| at);
            [link.flush_at, walk].into_iter().flatten()
        });
        links.chain(self.fetch.next_deadline()).min()
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
        self.take_effects()
    }

    /// The session queued what `token` names.
    pub fn delivered(&mut self, token: Token) {
        let Some((slot, sent)) = self.unconfirmed.remove(&token) else { return };
        match sent {
            Sent::Announcement(txs) => {
                self.stats.announced += txs.len() as u64;
                self.stats.announce_frames += 1;
            }
            Sent::Push(txs) => self.stats.pushed += txs.len() as u64,
        }
        self.link_mut(slot).back_off = BACK_OFF_MIN;
    }

    /// The session could not queue what `token` names: nothing of it counts as known to the peer. It
    /// is announced later, after a pause of the link that doubles each time, from 50 ms to 1 s.
    pub fn not_delivered(&mut self, token: Token, now: Instant) {
        let Some((slot, sent)) = self.unconfirmed.remove(&token) else { return };
        self.stats.not_delivered += 1;
        let (Sent::Announcement(txs) | Sent::Push(txs)) = sent;
        let link = self.links[usize::from(slot.0)].as_mut().expect("tokens die with their link");
        let until = now + link.back_off;
        link.back_off = (link.back_off * 2).min(BACK_OFF_MAX);
        link.blocked_until = Some(until);
        for tx in txs {
            if let Some(held) = self.held.get_mut(tx) {
                held.known.remove(slot);
                if link.active && !link.queue.push(tx) {
                    self.stats.announce_overflow += 1;
                }
            }
        }
        if !link.queue.is_empty() {
            link.flush_at = Some(until);
            link.note_overflow(until);
        }
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
        self.links[usize::from(slot.0)] = Some(Link {
            peer,
            active: false,
            rtt,
            our_salt,
            their_salt,
            pace: Pace::default(),
            queue: Queue::default(),
            announced: Announced::default(),
            flush_at: None,
            walk: None,
            blocked_until: None,
            back_off: BACK_OFF_MIN,
        });
        self.fetch.link_up(slot, outbound, rtt);
        self.set_active(&peer, active, now);
    }

    fn peer_down(&mut self, peer: &PeerId, now: Instant) {
        let Some(slot) = self.peers.remove(peer) else { return };
        self.fetch.link_down(slot, now, &mut self.actions);
        self.links[usize::from(slot.0)] = None;
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
        link.walk = (active && held > 0).then_some((0, now));
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
                    held.stage = Stage::Ready;
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
                    held.stage = Stage::Ready;
                    held.pushed |= submitted;
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

    /// Spreads what has just become ready: pushes what came by push, announces the rest.
    fn relay(&mut self, txs: Vec<TxRef>, now: Instant) {
        if txs.is_empty() {
            return;
        }
        // One order for the batch: bodies that came together leave together, in few frames.
        let order = self.draw_order();
        let fanout = self.fanout.draw(self.rng.random::<f64>());
        let mut pushes: BTreeMap<Slot, Vec<TxRef>> = BTreeMap::new();
        for tx in txs {
            let Some(held) = self.held.get_mut(tx) else { continue };
            let mut left = if held.pushed && held.tx.bytes <= PUSH_BYTES_MAX { fanout } else { 0 };
            for slot in &order {
                if held.known.contains(*slot) {
                    continue;
                }
                let link = self.links[usize::from(slot.0)].as_mut().expect("filtered above");
                if left > 0 && link.blocked_until.is_none_or(|until| until <= now) {
                    left -= 1;
                    held.known.insert(*slot);
                    pushes.entry(*slot).or_default().push(tx);
                } else if !link.queue.push(tx) {
                    self.stats.announce_overflow += 1;
                }
            }
        }
        for (slot, txs) in pushes {
            self.push(slot, txs);
        }
        for slot in order {
            self.schedule(slot, now);
        }
    }

    /// The active links in random order, short ones rather first: a link with half the delay comes
    /// first twice as often (sampling by exponential keys: Efraimidis, Spirakis 2006). Pushes over short
    /// links cover more of the network before the announcements arrive: at equal copies the 99th
    /// percentile falls by 3 %.
    fn draw_order(&mut self) -> Vec<Slot> {
        let mut keyed = Vec::with_capacity(self.peers.len());
        for slot in self.peers.values() {
            let link = self.links[usize::from(slot.0)].as_ref().expect("a slot in use has a link");
            if link.active {
                let draw = -self.rng.random::<f64>().max(f64::MIN_POSITIVE).ln();
                keyed.push((draw * (link.rtt + PUSH_RTT_FLOOR).as_secs_f64(), *slot));
            }
        }
        keyed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        keyed.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Emits pushes in frames that keep their limits.
    fn push(&mut self, slot: Slot, txs: Vec<TxRef>) {
        let peer = self.link_mut(slot).peer;
        let (mut ids, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
        for tx in txs {
            let Some(summary) = self.held.get(tx).map(|held| held.tx) else { continue };
            // Four bytes for the length before each body.
            let size = summary.bytes as usize + 4;
            if ids.len() == TX_BATCH_MAX || bytes + size > TX_BATCH_BYTES_MAX {
                let token = self.token(slot, Sent::Push(std::mem::take(&mut batch)));
                self.effects.push(Effect::Push { peer, ids: std::mem::take(&mut ids), token });
                bytes = 0;
            }
            ids.push(summary.id);
            batch.push(tx);
            bytes += size;
        }
        if !ids.is_empty() {
            let token = self.token(slot, Sent::Push(batch));
            self.effects.push(Effect::Push { peer, ids, token });
        }
    }

    fn token(&mut self, slot: Slot, sent: Sent) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.unconfirmed.insert(token, (slot, sent));
        if self.unconfirmed.len() > UNCONFIRMED_MAX {
            self.unconfirmed.pop_first();
        }
        token
    }

    /// Announces what waits on a link, at once if the link is idle.
    fn schedule(&mut self, slot: Slot, now: Instant) {
        let link = self.link_mut(slot);
        if link.queue.is_empty() {
            return;
        }
        let at = link.pace.next(link.rtt, now).max(link.blocked_until.unwrap_or(now));
        link.note_overflow(at);
        if at <= now {
            self.flush(slot, now);
        } else {
            self.link_mut(slot).flush_at = Some(at);
        }
    }

    fn flush(&mut self, slot: Slot, now: Instant) {
        let link = self.links[usize::from(slot.0)].as_mut().expect("a slot in use has a link");
        link.flush_at = None;
        link.blocked_until = link.blocked_until.filter(|until| *until > now);
        let mut batch = Vec::with_capacity(link.queue.len());
        while let Some(tx) = link.queue.pop() {
            if let Some(held) = self.held.get_mut(tx)
                && held.stage == Stage::Ready
                && !held.known.contains(slot)
            {
                held.known.insert(slot);
                batch.push(tx);
            }
        }
        if !batch.is_empty() {
            link.pace.sent(batch.len(), now);
            self.announce(slot, batch);
        }
    }

    /// Emits announcements of transactions that are marked as known to the link already.
    fn announce(&mut self, slot: Slot, txs: Vec<TxRef>) {
        for chunk in txs.chunks(ANNOUNCE_ENTRIES_MAX) {
            let link = self.links[usize::from(slot.0)].as_mut().expect("a slot in use has a link");
            let mut entries = Vec::with_capacity(chunk.len());
            for tx in chunk {
                let Some(held) = self.held.get(*tx) else { continue };
                let id = link.their_salt.short_id(&held.tx.id);
                link.announced.insert(id, *tx);
                entries.push(TxAnnounceEntry { id, bytes: held.tx.bytes, fee_class: held.tx.fee_class });
            }
            let peer = link.peer;
            let token = self.token(slot, Sent::Announcement(chunk.to_vec()));
            self.effects.push(Effect::Announce { peer, announce: TxAnnounce { entries }, token });
        }
    }

    /// One step of the walk over all held transactions: announces what the link does not know.
    fn walk(&mut self, slot: Slot, now: Instant) {
        let places = self.held.places();
        let link = self.links[usize::from(slot.0)].as_mut().expect("a slot in use has a link");
        let Some((mut index, _)) = link.walk else { return };
        let pause = WALK_PAUSE.max(link.rtt / 2);
        // What is fresh goes first.
        if !link.queue.is_empty() || link.blocked_until.is_some_and(|until| until > now) {
            let at = link.flush_at.unwrap_or(now).max(now + pause);
            link.walk = Some((index, at));
            return;
        }
        let mut batch = Vec::new();
        let end = places.min(index + WALK_LOOK_MAX);
        while index < end && batch.len() < WALK_STEP {
            if let Some((tx, held)) = self.held.at(index)
                && held.stage == Stage::Ready
                && !held.known.contains(slot)
            {
                batch.push(tx);
            }
            index += 1;
        }
        link.walk = if index < places {
            // Nothing was sent: nothing to wait for.
            Some((index, if batch.is_empty() { now + WALK_PAUSE / 10 } else { now + pause }))
        } else if std::mem::take(&mut link.queue.overflowed) {
            Some((0, now + pause))
        } else {
            None
        };
        for tx in &batch {
            if let Some(held) = self.held.get_mut(*tx) {
                held.known.insert(slot);
            }
        }
        self.announce(slot, batch);
    }
}

impl Link {
    /// If something did not fit the queue, the walk has to find it.
    fn note_overflow(&mut self, at: Instant) {
        if self.queue.overflowed && self.walk.is_none() {
            self.queue.overflowed = false;
            self.walk = Some((0, at + WALK_PAUSE));
        }
    }
}

/// True if every gas price of the class is below the floor.
fn is_surely_below(fee_class: u8, floor: u64) -> bool {
    // The highest price of class c is 2^(c+1) - 1.
    floor > 0 && u32::from(fee_class) + 1 < u64::BITS && (1u64 << (fee_class + 1)) <= floor
}

#[cfg(test)]
impl TxRelay {
    pub(crate) fn check(&self) {
        self.fetch.check();
        let checking = (0..self.held.places())
            .filter_map(|index| self.held.at(index))
            .filter(|(_, held)| held.stage == Stage::Checking)
            .count();
        assert_eq!(self.checking, checking);
        for link in self.links.iter().flatten() {
            assert!(link.queue.is_empty() || link.flush_at.is_some(), "what waits is announced");
            assert!(!link.queue.overflowed || link.walk.is_some(), "what overflowed is found");
        }
    }
}

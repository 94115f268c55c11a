//! Who is pushed to, who is told, and when.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_frames::tx::{TxAnnounce, TxAnnounceEntry};
use ghost_proto::{
    PeerId,
    limits::{ANNOUNCE_ENTRIES_MAX, TX_BATCH_BYTES_MAX, TX_BATCH_MAX},
};
use rand::RngExt;

use super::{
    Effect, PUSH_BYTES_MAX, Token, TxRelay,
    held::{Stage, TxRef},
    is_surely_below,
    sync::LinkSync,
};
use crate::{
    announce::{Pace, Queue},
    link::{Announced, Salt, Slot},
};

/// Announcements in one step of the walk over all held transactions, and the time between two steps:
/// 1,280 a second, what a link of 200 ms can fetch (256 outstanding). The other side ignores what
/// goes beyond 5,000.
pub(super) const WALK_STEP: usize = 128;
pub(super) const WALK_PAUSE: Duration = Duration::from_millis(100);
/// Held transactions looked at in one step.
const WALK_LOOK_MAX: usize = 4096;
/// Added to each round trip when peers to push to are drawn, so that a neighbour in the same rack does
/// not draw every push.
const PUSH_RTT_FLOOR: Duration = Duration::from_millis(20);
/// Confirmations that are waited for; the driver gives each before it hands in anything else.
const UNCONFIRMED_MAX: usize = 16_384;
/// First pause of a link that could not take a frame; it doubles up to the second.
pub(super) const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(WALK_STEP <= ANNOUNCE_ENTRIES_MAX);

/// What the relay keeps of a connected peer, beside the bits of each transaction.
pub(super) struct Link {
    pub(super) peer: PeerId,
    pub(super) active: bool,
    pub(super) rtt: Duration,
    /// Which of our salts it names transactions by.
    pub(super) our_salt: u8,
    pub(super) their_salt: Salt,
    pub(super) pace: Pace,
    pub(super) queue: Queue<TxRef>,
    pub(super) announced: Announced<TxRef>,
    /// When to announce next; set while something waits.
    pub(super) flush_at: Option<Instant>,
    /// Where the walk over all held transactions stands, and when it goes on.
    pub(super) walk: Option<(usize, Instant)>,
    /// After a refused frame: not to be sent to before, and how long the next pause is.
    pub(super) blocked_until: Option<Instant>,
    pub(super) back_off: Duration,
    /// Least gas price that it takes: what surely pays less is neither pushed nor announced to it.
    pub(super) fee_floor: u64,
    /// Reconciliation, with peers that serve it.
    pub(super) sync: Option<LinkSync>,
}

pub(super) enum Sent {
    Announcement(Vec<TxRef>),
    Push(Vec<TxRef>),
}

impl Link {
    pub(super) fn new(peer: PeerId, rtt: Duration, our_salt: u8, their_salt: Salt) -> Self {
        Self {
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
            fee_floor: 0,
            sync: None,
        }
    }

    /// If something did not fit the queue, the walk has to find it.
    pub(super) fn note_overflow(&mut self, at: Instant) {
        if self.queue.overflowed && self.walk.is_none() {
            self.queue.overflowed = false;
            self.walk = Some((0, at + WALK_PAUSE));
        }
    }
}

impl TxRelay {
    /// Our own floor is another: the peers are told, where it makes a difference to them.
    pub(super) fn floor_changed(&mut self, gas_price: u64) {
        self.fee_floor = gas_price;
        let told = self.told_fee_floor;
        // A tenth up, or half down: a floor decays all the time.
        if gas_price > told + told / 10 || (told > 0 && gas_price <= told / 2) {
            self.told_fee_floor = gas_price;
            let peers: Vec<PeerId> = self.peers.keys().copied().collect();
            self.effects.extend(peers.into_iter().map(|peer| Effect::TellFeeFloor { peer, gas_price }));
        }
    }

    /// A peer's floor is another. What was below and is no longer is found by the walk over all that is held.
    pub(super) fn peer_floor_changed(&mut self, peer: &PeerId, gas_price: u64, now: Instant) {
        let Some(slot) = self.peers.get(peer).copied() else { return };
        let link = self.link_mut(slot);
        let lower = gas_price < link.fee_floor;
        link.fee_floor = gas_price;
        if lower && link.active && link.walk.is_none() {
            link.walk = Some((0, now + WALK_PAUSE));
        }
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

    /// Spreads what has just become ready: pushes what came by push, announces the rest.
    pub(super) fn relay(&mut self, txs: Vec<TxRef>, now: Instant) {
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
                if is_surely_below(held.tx.fee_class, link.fee_floor) {
                    continue;
                }
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
    /// first four times as often (sampling by exponential keys: Efraimidis, Spirakis 2006). Pushes over
    /// short links cover more of the network before the announcements arrive: at equal copies the 99th
    /// percentile falls by 5 %.
    fn draw_order(&mut self) -> Vec<Slot> {
        let mut keyed = Vec::with_capacity(self.peers.len());
        for slot in self.peers.values() {
            let link = self.links[usize::from(slot.0)].as_ref().expect("a slot in use has a link");
            if link.active {
                let draw = -self.rng.random::<f64>().max(f64::MIN_POSITIVE).ln();
                keyed.push((draw * (link.rtt + PUSH_RTT_FLOOR).as_secs_f64().powi(2), *slot));
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

    pub(super) fn flush(&mut self, slot: Slot, now: Instant) {
        let link = self.links[usize::from(slot.0)].as_mut().expect("a slot in use has a link");
        link.flush_at = None;
        link.blocked_until = link.blocked_until.filter(|until| *until > now);
        let mut batch = Vec::with_capacity(link.queue.len());
        while let Some(tx) = link.queue.pop() {
            if let Some(held) = self.held.get_mut(tx)
                && held.stage == Stage::Ready
                && !held.known.contains(slot)
                && !is_surely_below(held.tx.fee_class, link.fee_floor)
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
    pub(super) fn walk(&mut self, slot: Slot, now: Instant) {
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
                && !is_surely_below(held.tx.fee_class, link.fee_floor)
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

//! When mempools are reconciled, and what is done with what comes out.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use ghost_frames::{
    Frame,
    reconcile::{MissingRequest, SKETCH_ID_LEN, SYMBOL_LEN, SketchId},
    tx::{TxAnnounce, TxAnnounceEntry},
};
use ghost_proto::{PeerId, TxId, limits::ANNOUNCE_ENTRIES_MAX};
use rand::RngExt;

use super::{Effect, Offence, RequestId, TxRelay, held::Stage};
use crate::{
    link::Slot,
    reconcile::{
        Ask, Difference, Failure, Keys, NONCE_GAP_MIN, NONCE_LIFETIME, OPEN_GAP_MIN, Prefix, Progress,
        Requester, Responder, SESSION_IDLE_MAX,
    },
};

/// Time between two sessions with a peer that nothing is announced to. Both sides' sessions count.
pub const SYNC_PERIOD: Duration = Duration::from_secs(10);
/// Time between two sessions with a peer that is told of everything: repairs what was lost.
pub const REPAIR_PERIOD: Duration = Duration::from_secs(60);
/// Longest time between two sessions with a peer where they fail, or find much and change nothing.
const PERIOD_MAX: Duration = Duration::from_secs(160);
/// Who was dialled waits this much longer: as a rule one side opens all sessions.
const INBOUND_DELAY: Duration = Duration::from_secs(5);
/// Sessions of ours at a time: at most 2 × 8 MiB, and the bytes of two answers.
pub const ASKING_MAX: usize = 2;
/// Sessions of others whose list of members is kept: 80 B × 50,000 × 4 = 16 MiB. The one that was idle
/// longest makes room.
pub const LISTS_MAX: usize = 4;
/// Longest time without progress in a session of ours.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Ids in one request for announcements.
const NAMED_MAX: usize = 1_024;
/// No more are named while this many announcements of the peer wait to be fetched.
const NAMED_OPEN_MAX: usize = 2_000;
/// Differences up to here cost one datagram; finding the same ones again is nothing to avoid.
const SMALL_DIFFERENCE: usize = 50;
/// Marks request numbers of this module; the request tracker counts from 1.
const SYNC_REQUEST: u64 = 1 << 63;

const _: () = {
    assert!(NAMED_MAX <= ghost_proto::limits::SKETCH_IDS_MAX);
    assert!(NAMED_OPEN_MAX + NAMED_MAX <= crate::fetch::ANNOUNCED_PER_PEER_MAX);
    // A responder lets so few be named at a time.
    assert!(NAMED_MAX >= 256);
    assert!(SYNC_PERIOD.as_millis() >= OPEN_GAP_MIN.as_millis());
    assert!(NONCE_LIFETIME.as_millis() >= NONCE_GAP_MIN.as_millis());
};

/// What the relay keeps of reconciliation with a peer.
pub(super) struct LinkSync {
    key: [u8; 16],
    outbound: bool,
    /// Under a nonce of ours.
    ours: Option<Prefix>,
    /// Under a nonce of the peer's.
    theirs: Option<Prefix>,
    asking: Option<Asking>,
    answering: Option<Responder>,
    /// When to open a session.
    next_at: Instant,
    /// Doubles while sessions are in vain.
    period: Option<Duration>,
    /// One was completed, by either side.
    done: bool,
    /// What the last one of ours found.
    difference: usize,
    /// When the peer last opened one, and last changed its nonce.
    opened: Option<Instant>,
    nonce_changed: Option<Instant>,
}

struct Asking {
    request: RequestId,
    /// Whether its answer may still come.
    in_flight: bool,
    deadline: Instant,
    phase: Phase,
}

enum Phase {
    Comparing(Box<Requester>),
    /// The ids that are lacked and not yet named.
    Naming {
        nonce: u64,
        left: VecDeque<SketchId>,
    },
}

impl LinkSync {
    pub(super) fn new(key: [u8; 16], outbound: bool, now: Instant) -> Self {
        Self {
            key,
            outbound,
            ours: None,
            theirs: None,
            asking: None,
            answering: None,
            next_at: if outbound { now } else { now + INBOUND_DELAY },
            period: None,
            done: false,
            difference: 0,
            opened: None,
            nonce_changed: None,
        }
    }

    /// True until the first session is over.
    pub(super) fn is_awaited(&self) -> bool {
        !self.done
    }
}

impl TxRelay {
    fn sync_mut(&mut self, slot: Slot) -> Option<&mut LinkSync> {
        self.links[usize::from(slot.0)].as_mut()?.sync.as_mut()
    }

    pub(super) fn sync_deadlines(&self) -> impl Iterator<Item = Instant> {
        let busy = self.asking.len() >= ASKING_MAX;
        let syncs = self.links.iter().flatten().filter_map(|link| link.sync.as_ref());
        syncs.flat_map(move |sync| {
            let open = match &sync.asking {
                Some(asking) => Some(asking.deadline),
                None => (!busy).then_some(sync.next_at),
            };
            let idle = sync.answering.as_ref().map(|responder| responder.used() + SESSION_IDLE_MAX);
            [open, idle].into_iter().flatten()
        })
    }

    pub(super) fn sync_on_deadline(&mut self, now: Instant) {
        let slots: Vec<Slot> = self.peers.values().copied().collect();
        for slot in slots {
            let Some(sync) = self.sync_mut(slot) else { continue };
            if sync.answering.as_ref().is_some_and(|responder| responder.used() + SESSION_IDLE_MAX <= now) {
                sync.answering = None;
            }
            let late = sync.asking.as_ref().is_some_and(|asking| asking.deadline <= now);
            let due = sync.asking.is_none() && sync.next_at <= now;
            if late {
                self.fail_sync(slot, now);
            } else if due && self.asking.len() < ASKING_MAX {
                self.open_sync(slot, now);
            }
        }
    }

    fn open_sync(&mut self, slot: Slot, now: Instant) {
        let nonce = self.rng.random();
        let Some(link) = &mut self.links[usize::from(slot.0)] else { return };
        let Some(sync) = &mut link.sync else { return };
        let journal = self.held.journal();
        sync.ours = sync.ours.take().filter(|prefix| now < prefix.made() + NONCE_LIFETIME);
        let prefix = sync.ours.get_or_insert_with(|| {
            Prefix::new(Keys::derive(&sync.key, nonce), nonce, journal, self.held.ready_ids(), now)
        });
        let snapshot = prefix.snapshot(journal, self.held.ready_ids());
        let (requester, ask) = Requester::open(prefix.nonce(), snapshot);
        self.asking.push(slot);
        self.stats.sync.opened += 1;
        self.sync_ask(slot, Phase::Comparing(Box::new(requester)), ask, now);
    }

    fn sync_ask(&mut self, slot: Slot, phase: Phase, ask: Ask, now: Instant) {
        let peer = self.link_mut(slot).peer;
        self.next_sync += 1;
        let request = RequestId(SYNC_REQUEST | self.next_sync);
        let Some(sync) = self.sync_mut(slot) else { return };
        sync.asking = Some(Asking { request, in_flight: true, deadline: now + ASK_TIMEOUT, phase });
        self.effects.push(Effect::SyncRequest { peer, request, ask });
    }

    /// Takes the session out if this request belongs to it.
    fn take_asking(&mut self, slot: Slot, request: RequestId) -> Option<Asking> {
        self.sync_mut(slot)?.asking.take_if(|asking| asking.in_flight && asking.request == request)
    }

    pub(super) fn sync_answered(&mut self, peer: &PeerId, request: RequestId, frame: &Frame, now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        // An answer that is done with may send more than it was asked for; it is cancelled.
        let Some(mut asking) = self.take_asking(slot, request) else { return };
        self.stats.sync.bytes += match frame {
            Frame::Symbols(symbols) => symbols.symbols.len() * SYMBOL_LEN,
            Frame::Inventory(inventory) => inventory.ids.len() * SKETCH_ID_LEN,
            _ => 0,
        } as u64;
        let progress = match (&mut asking.phase, frame) {
            (Phase::Comparing(requester), Frame::Symbols(symbols)) => requester.symbols(symbols),
            (Phase::Comparing(requester), Frame::Inventory(inventory)) => requester.inventory(inventory),
            (Phase::Naming { .. }, Frame::TxAnnounce(announce)) => {
                self.announced(peer, &announce.entries, now);
                Progress::Wait
            }
            _ => Progress::Failed(Failure::Contradiction),
        };
        self.sync_progress(slot, asking, progress, now);
    }

    /// False if the request is none of reconciliation's.
    pub(super) fn sync_answer_ended(&mut self, slot: Slot, request: RequestId, now: Instant) -> bool {
        if request.0 & SYNC_REQUEST == 0 {
            return false;
        }
        let Some(mut asking) = self.take_asking(slot, request) else { return true };
        asking.in_flight = false;
        let progress = match &mut asking.phase {
            Phase::Comparing(requester) => requester.ended(),
            Phase::Naming { .. } => Progress::Wait,
        };
        self.sync_progress(slot, asking, progress, now);
        true
    }

    /// False if the request is none of reconciliation's.
    pub(super) fn sync_request_failed(&mut self, slot: Slot, request: RequestId, now: Instant) -> bool {
        if request.0 & SYNC_REQUEST == 0 {
            return false;
        }
        let asking = self.take_asking(slot, request);
        if let Some(asking) = asking {
            self.sync_progress(slot, asking, Progress::Failed(Failure::Short), now);
        }
        true
    }

    fn sync_progress(&mut self, slot: Slot, mut asking: Asking, mut progress: Progress, now: Instant) {
        if progress == Progress::NeedMembers
            && let Phase::Comparing(requester) = &mut asking.phase
        {
            let position = requester.snapshot_mut().position();
            match self.held.journal().look_back(self.held.ready_ids(), position) {
                Some(members) => {
                    requester.snapshot_mut().set_members(members);
                    progress = requester.proceed();
                }
                // So much has changed meanwhile that the answer is of no use.
                None => progress = Progress::Failed(Failure::Short),
            }
        }
        // What is still to come of an answer that did its work is cancelled.
        let unanswered = match &asking.phase {
            Phase::Comparing(requester) => !requester.is_answered(),
            Phase::Naming { .. } => true,
        };
        let cancel = asking.in_flight
            && match &progress {
                Progress::Wait | Progress::NeedMembers => false,
                Progress::Failed(_) => true,
                Progress::Ask(_) | Progress::Found(_) => unanswered,
            };
        if cancel {
            let peer = self.link_mut(slot).peer;
            self.effects.push(Effect::Cancel { peer, request: asking.request });
        }
        match progress {
            Progress::Wait | Progress::NeedMembers => {
                // Naming waits for the request tracker.
                let is_naming = matches!(asking.phase, Phase::Naming { .. });
                asking.deadline = now + if is_naming { SESSION_IDLE_MAX } else { ASK_TIMEOUT };
                if let Some(sync) = self.sync_mut(slot) {
                    sync.asking = Some(asking);
                }
            }
            Progress::Ask(ask) => self.sync_ask(slot, asking.phase, ask, now),
            Progress::Found(difference) => {
                if let Phase::Comparing(requester) = asking.phase {
                    self.found(slot, *requester, difference, now);
                }
            }
            Progress::Failed(failure) => {
                if failure == Failure::Contradiction {
                    let peer = self.link_mut(slot).peer;
                    self.offence(peer, Offence::FalseSketch);
                }
                self.end_failed(slot, now);
            }
        }
    }

    /// The session timed out.
    fn fail_sync(&mut self, slot: Slot, now: Instant) {
        let peer = self.link_mut(slot).peer;
        let Some(asking) = self.sync_mut(slot).and_then(|sync| sync.asking.take()) else { return };
        if asking.in_flight {
            self.effects.push(Effect::Cancel { peer, request: asking.request });
        }
        self.end_failed(slot, now);
    }

    fn end_failed(&mut self, slot: Slot, now: Instant) {
        self.stats.sync.failed += 1;
        self.asking.retain(|other| *other != slot);
        let link = self.link_mut(slot);
        // Without knowing what the peer has, it is told of everything, as slowly as ever.
        if link.active && link.walk.is_some_and(|(index, at)| index == 0 && at > now) {
            link.walk = Some((0, now));
        }
        if let Some(sync) = &mut link.sync {
            sync.done = true;
        }
        self.schedule_sync(slot, true, now);
    }

    /// Sets when the next session is due; in vain, later and later.
    fn schedule_sync(&mut self, slot: Slot, in_vain: bool, now: Instant) {
        // Sessions that began together drift apart.
        let jitter = 0.9 + 0.2 * self.rng.random::<f64>();
        let link = self.link_mut(slot);
        let Some(sync) = &mut link.sync else { return };
        let period = match sync.period {
            Some(last) if in_vain => (last * 2).min(PERIOD_MAX),
            _ if in_vain || !link.active => SYNC_PERIOD,
            _ => REPAIR_PERIOD,
        };
        sync.period = Some(period);
        sync.next_at =
            now + period.mul_f64(jitter) + if sync.outbound { Duration::ZERO } else { INBOUND_DELAY };
    }

    fn found(&mut self, slot: Slot, mut requester: Requester, difference: Difference, now: Instant) {
        let (symbols, _) = requester.received();
        let stats = &mut self.stats.sync;
        stats.completed += 1;
        stats.lacked += difference.theirs.len() as u64;
        stats.lacking += difference.ours.len() as u64;
        if requester.was_listed() {
            stats.listed += 1;
        } else {
            stats.symbols += symbols as u64;
            stats.difference += difference.len() as u64;
        }
        let position = requester.snapshot_mut().position();
        let ours: HashSet<TxId> = difference.ours.iter().copied().collect();
        let news = self.mark_known(slot, position, |id| ours.contains(id));
        self.link_mut(slot).walk = (news.unknown > 0).then_some((0, now));
        let last =
            self.sync_mut(slot).map_or(0, |sync| std::mem::replace(&mut sync.difference, difference.len()));
        // As much as last time, and we had not thought otherwise: the two pools differ in what they take.
        let in_vain = news.corrected == 0 && last > SMALL_DIFFERENCE && difference.len() >= last / 10 * 9;
        self.schedule_sync(slot, in_vain, now);
        let nonce = requester.nonce();
        let phase = Phase::Naming { nonce, left: difference.theirs.into() };
        let idle = RequestId(SYNC_REQUEST);
        let asking = Asking { request: idle, in_flight: false, deadline: now + SESSION_IDLE_MAX, phase };
        if let Some(sync) = self.sync_mut(slot) {
            sync.done = true;
            sync.asking = Some(asking);
        }
        self.name_next(slot, true, now);
    }

    /// Marks what the peer has of all that was ready at `position`, and what it lacks.
    fn mark_known(&mut self, slot: Slot, position: u64, lacks: impl Fn(&TxId) -> bool) -> News {
        let mut news = News::default();
        let Some(since) = self.held.journal().since(position) else { return news };
        let later: HashSet<TxId> = since.filter(|change| change.added).map(|change| change.id).collect();
        for held in self.held.ready_mut() {
            if later.contains(&held.tx.id) {
                news.unknown += usize::from(!held.known.contains(slot));
            } else if lacks(&held.tx.id) {
                news.corrected += usize::from(!held.known.contains(slot));
                news.unknown += 1;
                held.known.remove(slot);
            } else {
                held.known.insert(slot);
            }
        }
        news
    }

    /// Goes on naming what is lacked as the request tracker has room. Called after every input.
    pub(super) fn name_missing(&mut self, now: Instant) {
        for slot in self.asking.clone() {
            self.name_next(slot, false, now);
        }
    }

    fn name_next(&mut self, slot: Slot, first: bool, now: Instant) {
        let room = self.fetch.open(slot) <= NAMED_OPEN_MAX;
        let Some(sync) = self.sync_mut(slot) else { return };
        let naming = |asking: &mut Asking| !asking.in_flight && matches!(asking.phase, Phase::Naming { .. });
        let Some(asking) = sync.asking.take_if(naming) else { return };
        let Phase::Naming { nonce, mut left } = asking.phase else { return };
        if left.is_empty() && !first {
            self.asking.retain(|other| *other != slot);
        } else if room || left.is_empty() {
            let ids: Vec<SketchId> = left.drain(..left.len().min(NAMED_MAX)).collect();
            let ask = Ask::Missing(MissingRequest { nonce, more: !left.is_empty(), ids });
            self.sync_ask(slot, Phase::Naming { nonce, left }, ask, now);
        } else {
            sync.asking = Some(Asking { phase: Phase::Naming { nonce, left }, ..asking });
        }
    }

    pub(super) fn sync_requested(&mut self, peer: &PeerId, request: u64, ask: &Ask, now: Instant) {
        let Some(slot) = self.slot(peer) else { return };
        let peer = *peer;
        let effect = match self.answer_sync(slot, ask, now) {
            Some(frames) => Effect::SyncAnswer { peer, request, frames },
            None => {
                self.stats.sync.refused += 1;
                Effect::SyncRefuse { peer, request }
            }
        };
        self.effects.push(effect);
    }

    fn answer_sync(&mut self, slot: Slot, ask: &Ask, now: Instant) -> Option<Vec<Frame>> {
        match ask {
            Ask::Symbols(request) => {
                if request.first == 0 {
                    self.accept_sync(slot, request.nonce, now)?;
                }
                let responder = self.sync_mut(slot)?.answering.as_ref()?;
                if responder.needs_members(request) {
                    self.list_members(slot)?;
                }
                self.sync_mut(slot)?.answering.as_mut()?.symbols(request, now).ok()
            }
            Ask::Inventory(request) => {
                self.list_members(slot)?;
                self.sync_mut(slot)?.answering.as_mut()?.inventory(request.nonce, now).ok()
            }
            Ask::Missing(request) => {
                if !request.ids.is_empty() {
                    self.list_members(slot)?;
                }
                let named = self.sync_mut(slot)?.answering.as_mut()?.missing(request, now).ok()?;
                let frames = self.announce_named(slot, &named);
                if !request.more {
                    self.end_answering(slot, now);
                }
                Some(frames)
            }
        }
    }

    /// Opens a session of the peer's, if it may.
    fn accept_sync(&mut self, slot: Slot, nonce: u64, now: Instant) -> Option<()> {
        let sync = self.links[usize::from(slot.0)].as_mut()?.sync.as_mut()?;
        if sync.opened.is_some_and(|opened| now < opened + OPEN_GAP_MIN) {
            return None;
        }
        let journal = self.held.journal();
        if sync.theirs.as_ref().is_none_or(|prefix| prefix.nonce() != nonce) {
            if sync.nonce_changed.is_some_and(|changed| now < changed + NONCE_GAP_MIN) {
                return None;
            }
            sync.nonce_changed = Some(now);
            let keys = Keys::derive(&sync.key, nonce);
            sync.theirs = Some(Prefix::new(keys, nonce, journal, self.held.ready_ids(), now));
        }
        sync.opened = Some(now);
        let snapshot = sync.theirs.as_mut()?.snapshot(journal, self.held.ready_ids());
        sync.answering = Some(Responder::open(nonce, snapshot, now));
        self.stats.sync.served += 1;
        Some(())
    }

    /// Gives the session of a peer its members. `None` if there is no session, or too much has changed since.
    fn list_members(&mut self, slot: Slot) -> Option<()> {
        let snapshot = self.sync_mut(slot)?.answering.as_ref()?.snapshot();
        if snapshot.has_members() {
            return Some(());
        }
        let position = snapshot.position();
        let members = self.held.journal().look_back(self.held.ready_ids(), position)?;
        let listing = self.links.iter().enumerate().filter_map(|(at, link)| {
            let responder = link.as_ref()?.sync.as_ref()?.answering.as_ref()?;
            responder.snapshot().has_members().then(|| (responder.used(), at))
        });
        let listing: Vec<_> = listing.collect();
        if listing.len() >= LISTS_MAX
            && let Some((_, idle)) = listing.into_iter().min()
            && let Some(sync) = self.links[idle].as_mut().and_then(|link| link.sync.as_mut())
        {
            sync.answering = None;
        }
        self.sync_mut(slot)?.answering.as_mut()?.snapshot_mut().set_members(members);
        Some(())
    }

    fn announce_named(&mut self, slot: Slot, named: &[TxId]) -> Vec<Frame> {
        let mut entries = Vec::with_capacity(named.len());
        let Some(link) = self.links[usize::from(slot.0)].as_mut() else { return Vec::new() };
        for id in named {
            let Some(tx) = self.held.find(id) else { continue };
            let Some(held) = self.held.get_mut(tx).filter(|held| held.stage == Stage::Ready) else {
                continue;
            };
            held.known.insert(slot);
            let id = link.their_salt.short_id(id);
            link.announced.insert(id, tx);
            entries.push(TxAnnounceEntry { id, bytes: held.tx.bytes, fee_class: held.tx.fee_class });
        }
        self.stats.announced += entries.len() as u64;
        let frames = entries.chunks(ANNOUNCE_ENTRIES_MAX);
        frames.map(|entries| TxAnnounce { entries: entries.to_vec() }.into()).collect()
    }

    /// The peer has named all it lacks: it has the rest.
    fn end_answering(&mut self, slot: Slot, now: Instant) {
        let Some(sync) = self.sync_mut(slot) else { return };
        sync.done = true;
        let Some(responder) = sync.answering.take() else { return };
        // What it named was announced to it just now.
        let news = self.mark_known(slot, responder.snapshot().position(), |_| false);
        let link = self.link_mut(slot);
        link.walk = (link.active && news.unknown > 0).then_some((0, now));
        if self.sync_mut(slot).is_some_and(|sync| sync.asking.is_none()) {
            self.schedule_sync(slot, false, now);
        }
    }
}

/// What marking found.
#[derive(Debug, Default)]
struct News {
    /// Ready, and not known to the peer.
    unknown: usize,
    /// Of what it lacks, those that were not thought to be known to it.
    corrected: usize,
}

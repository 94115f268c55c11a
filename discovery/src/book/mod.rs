//! The address book: places we were told of ("new") and places a handshake proved ("tried").
//!
//! A core. Its model is Bitcoin Core's address manager: each source netgroup can fill at most
//! [`NEW_BUCKETS_PER_SOURCE`] of [`NEW_BUCKETS`] buckets, each target netgroup at most
//! [`TRIED_BUCKETS_PER_GROUP`] of [`TRIED_BUCKETS`], slots are chosen by a secret, and what is in a
//! "tried" slot is tested before anything takes its place.
//!
//! Order of calls: [`AddressBook::add`] for every claim; [`AddressBook::select`] and
//! [`AddressBook::attempt`] for every dial; then [`AddressBook::good`],
//! [`AddressBook::identity_mismatch`] or [`AddressBook::forget_peer`]; now and then
//! [`AddressBook::resolve_collisions`] and [`AddressBook::take_changes`].
//!
//! # Memory
//! At most (1,024 + 256) × 64 = 81,920 entries of 112 bytes, 320 KiB of slots, and for each peer about
//! 130 bytes of index: 20 MiB when every slot is taken. An onion address adds 35 bytes, a name up to
//! 253. Records are kept for tried entries only, at most 16,384 × 2,048 bytes = 32 MiB, in practice about
//! 200 bytes each; each took a handshake that we started.

mod entry;
mod placement;
mod rows;
mod select;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use ghost_proto::{PeerId, PeerRecord, PublicKey, record::key_of};
use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use crate::{
    address::{Endpoint, Network, peer_id},
    netgroup::{AddressPolicy, NetGroup},
};

pub use entry::{
    FAILING_S, FUTURE_S, HORIZON_S, JUST_TRIED_S, Key, NEW_SLOTS_PER_ENTRY, RETRIES_NEVER_REACHED,
    RETRIES_ONCE_REACHED,
};
pub use placement::{
    BUCKET_SLOTS, NEW_BUCKETS, NEW_BUCKETS_PER_SOURCE, TRIED_BUCKETS, TRIED_BUCKETS_PER_GROUP,
};
pub use rows::{Change, Row};
pub use select::{Candidate, Table};

use entry::Entry;
use placement::{NEW_SLOTS, Placement, TRIED_SLOTS};

/// Most entries of one PeerId: the 8 of its record, and as many from the operator or an older record
/// that are tried.
pub const ENTRIES_PER_PEER_MAX: usize = 16;
/// Most "tried" collisions that wait for a test.
pub const COLLISIONS_MAX: usize = 10;
/// A tried entry that succeeded within this time keeps its slot: 4 hours.
pub const TRIED_KEEPS_S: u32 = 4 * 3600;
/// A collision that could not be tested for so long is decided for the newcomer: 40 minutes.
pub const COLLISION_WAITS_S: u32 = 40 * 60;
/// What others say they saw is taken as that much older: 2 hours.
pub const HEARSAY_PENALTY_S: u32 = 2 * 3600;

const EMPTY: u32 = u32::MAX;

/// A claim: this peer can be reached at this place.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The peer's key.
    pub peer: PublicKey,
    /// The place.
    pub endpoint: Endpoint,
    /// When it was said to be there, Unix seconds.
    pub seen_unix_s: u64,
    /// Who says so.
    pub source: NetGroup,
    /// The peer says so itself, in a connection: no penalty for hearsay.
    pub first_hand: bool,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// A new entry.
    New,
    /// Known; perhaps refreshed, perhaps in one more bucket.
    Known,
    /// Its slot is taken by an entry that is not terrible, or the peer has its fill of entries.
    NoRoom,
}

/// What became of a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Good {
    /// It is in "tried" now, or was.
    Tried,
    /// The slot is taken: the occupant is tested first ([`AddressBook::collision_to_test`]).
    Collision,
    /// Not in the book.
    Unknown,
}

#[derive(Debug, Default)]
struct Known {
    ids: Vec<u32>,
    sequence: u64,
    stream_types: u64,
    record: Option<Bytes>,
}

/// See the [module documentation](self).
pub struct AddressBook {
    policy: AddressPolicy,
    placement: Placement,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    peers: BTreeMap<PublicKey, Known>,
    new: Box<[u32]>,
    tried: Box<[u32]>,
    new_fill: Box<[u8]>,
    tried_fill: Box<[u8]>,
    new_count: usize,
    tried_count: usize,
    by_network: [usize; Network::ALL.len()],
    collisions: BTreeSet<u32>,
    last_good_s: u32,
    changed: BTreeSet<u32>,
    gone: BTreeSet<Key>,
}

impl fmt::Debug for AddressBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressBook({} new, {} tried)", self.new_count, self.tried_count)
    }
}

fn seconds(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / 1000).unwrap_or(u32::MAX)
}

impl AddressBook {
    /// An empty book. `secret` decides about slots: draw it once, keep it, tell nobody.
    pub fn new(secret: [u8; 16], policy: AddressPolicy) -> Self {
        Self {
            policy,
            placement: Placement::new(secret),
            entries: Vec::new(),
            free: Vec::new(),
            peers: BTreeMap::new(),
            new: vec![EMPTY; NEW_SLOTS].into(),
            tried: vec![EMPTY; TRIED_SLOTS].into(),
            new_fill: vec![0; NEW_BUCKETS].into(),
            tried_fill: vec![0; TRIED_BUCKETS].into(),
            new_count: 0,
            tried_count: 0,
            by_network: [0; Network::ALL.len()],
            collisions: BTreeSet::new(),
            // Before the first success failures count, or a first start could never forget anything.
            last_good_s: 1,
            changed: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Which addresses are of use, and how they are grouped.
    pub fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// Entries in "new".
    pub fn new_len(&self) -> usize {
        self.new_count
    }

    /// Entries in "tried".
    pub fn tried_len(&self) -> usize {
        self.tried_count
    }

    /// Entries in both tables.
    pub fn len(&self) -> usize {
        self.new_count + self.tried_count
    }

    /// True if nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries whose address is of this network.
    pub fn network_len(&self, network: Network) -> usize {
        self.by_network[network as usize]
    }

    /// True if the entry is in "tried".
    pub fn is_tried(&self, peer: &PeerId, endpoint: &Endpoint) -> bool {
        self.find_peer(peer, endpoint).is_some_and(|id| self.entry(id).tried)
    }

    /// True if the entry is in either table.
    pub fn contains(&self, peer: &PeerId, endpoint: &Endpoint) -> bool {
        self.find_peer(peer, endpoint).is_some()
    }

    /// The highest sequence number seen in a record of this peer, 0 if there was none.
    pub fn sequence(&self, peer: &PeerId) -> u64 {
        key_of(peer).and_then(|key| self.peers.get(&key)).map_or(0, |known| known.sequence)
    }

    /// The record of a tried peer, as received.
    pub fn record(&self, peer: &PeerId) -> Option<&Bytes> {
        self.peers.get(&key_of(peer)?)?.record.as_ref()
    }

    /// Where a peer may be: tried places first, then by the time of the last success.
    pub fn places(&self, peer: &PeerId) -> Vec<Endpoint> {
        let Some(known) = key_of(peer).and_then(|key| self.peers.get(&key)) else { return Vec::new() };
        let mut ids = known.ids.clone();
        ids.sort_by_key(|&id| {
            let entry = self.entry(id);
            (!entry.tried, u32::MAX - entry.last_success_s, entry.key.endpoint.clone())
        });
        ids.into_iter().map(|id| self.entry(id).key.endpoint.clone()).collect()
    }

    /// Adds the addresses of an admitted record and notes its sequence number. A record newer than
    /// the one known replaces it: "new" entries that it no longer lists go. An older one changes
    /// nothing. Answers how many entries are new.
    pub fn add_record(
        &mut self,
        record: &PeerRecord,
        usable: &[Endpoint],
        source: NetGroup,
        first_hand: bool,
        rng: &mut ChaCha12Rng,
        now_unix_ms: u64,
    ) -> usize {
        let Some(peer) = key_of(&record.peer()) else { return 0 };
        if let Some(known) = self.peers.get(&peer) {
            if record.sequence() < known.sequence {
                return 0;
            }
            if record.sequence() > known.sequence {
                let listed: BTreeSet<_> = usable.iter().collect();
                let stale: Vec<u32> = known
                    .ids
                    .iter()
                    .copied()
                    .filter(|&id| {
                        let entry = self.entry(id);
                        !entry.tried
                            && entry.source != NetGroup::OPERATOR
                            && !listed.contains(&entry.key.endpoint)
                    })
                    .collect();
                stale.into_iter().for_each(|id| self.remove(id));
            }
        }
        let mut added = 0;
        for endpoint in usable {
            let claim = Claim {
                peer,
                endpoint: endpoint.clone(),
                seen_unix_s: record.time_unix_s(),
                source,
                first_hand,
            };
            added += usize::from(self.add(&claim, rng, now_unix_ms) == Added::New);
        }
        if let Some(known) = self.peers.get_mut(&peer)
            && (record.sequence() > known.sequence || known.stream_types != record.stream_types())
        {
            known.sequence = record.sequence();
            known.stream_types = record.stream_types();
            if known.record.is_some() {
                known.record = Some(record.bytes().clone());
            }
            self.changed.extend(known.ids.iter().copied());
        }
        added
    }

    /// Adds one claim to "new". `rng` decides whether a known entry gets one more slot: each costs
    /// twice as many claims as the one before.
    pub fn add(&mut self, claim: &Claim, rng: &mut ChaCha12Rng, now_unix_ms: u64) -> Added {
        let now = seconds(now_unix_ms);
        let penalty = if claim.first_hand { 0 } else { HEARSAY_PENALTY_S };
        let seen = u32::try_from(claim.seen_unix_s).unwrap_or(u32::MAX).saturating_sub(penalty);
        let found = self.find(&claim.peer, &claim.endpoint);
        if let Some(id) = found {
            let entry = self.entries[id as usize].as_mut().expect("found");
            // An hour's step keeps gossip from rewriting every entry all the time.
            if seen > entry.last_seen_s.saturating_add(3600) && seen <= now.saturating_add(FUTURE_S) {
                entry.last_seen_s = seen;
                self.changed.insert(id);
            }
            let entry = self.entry(id);
            let slots = entry.slots().len();
            if entry.tried || slots == NEW_SLOTS_PER_ENTRY || rng.random_range(0..1u32 << slots) != 0 {
                return Added::Known;
            }
        } else if self.peers.get(&claim.peer).is_some_and(|known| known.ids.len() >= ENTRIES_PER_PEER_MAX) {
            return Added::NoRoom;
        }
        let target = self.policy.group(&claim.endpoint);
        let slot = self.placement.new_slot(&claim.endpoint, target, claim.source);
        let occupant = self.new[usize::from(slot)];
        if occupant != EMPTY {
            if Some(occupant) == found {
                return Added::Known;
            }
            let sitting = self.entry(occupant);
            let yields = sitting.is_terrible(now) || (found.is_none() && sitting.slots().len() > 1);
            if !yields {
                return if found.is_some() { Added::Known } else { Added::NoRoom };
            }
            self.clear_new_slot(slot);
        }
        let id = found.unwrap_or_else(|| self.insert(claim, seen));
        self.put_new(id, slot);
        if found.is_some() { Added::Known } else { Added::New }
    }

    /// A dial to this entry starts. It counts as a failure until [`AddressBook::good`] says
    /// otherwise, but only once between two successes with anyone: while our own network is down,
    /// nobody is to be forgotten for it.
    pub fn attempt(&mut self, peer: &PeerId, endpoint: &Endpoint, now_unix_ms: u64) {
        let now = seconds(now_unix_ms);
        let last_good = self.last_good_s;
        if let Some(id) = self.find_peer(peer, endpoint) {
            let entry = self.entries[id as usize].as_mut().expect("found");
            entry.last_try_s = now;
            if entry.last_counted_s < last_good {
                entry.last_counted_s = now;
                entry.attempts = entry.attempts.saturating_add(1);
            }
            self.changed.insert(id);
        }
    }

    /// A dial reached the peer at this place and the handshake proved it, on our chain. Moves it to
    /// "tried", with its record if it has one.
    pub fn good(
        &mut self,
        peer: &PeerId,
        endpoint: &Endpoint,
        record: Option<&PeerRecord>,
        now_unix_ms: u64,
    ) -> Good {
        let now = seconds(now_unix_ms);
        self.last_good_s = self.last_good_s.max(now);
        let Some(id) = self.find_peer(peer, endpoint) else { return Good::Unknown };
        let entry = self.entries[id as usize].as_mut().expect("found");
        entry.last_success_s = now;
        entry.last_try_s = now;
        entry.last_seen_s = now;
        entry.attempts = 0;
        self.changed.insert(id);
        let verdict = self.move_to_tried(id, false);
        if verdict == Good::Tried
            && let Some(record) = record.filter(|record| record.peer() == *peer)
        {
            let key = self.entry(id).key.peer;
            let known = self.peers.get_mut(&key).expect("an entry has its peer");
            if record.sequence() >= known.sequence {
                known.sequence = record.sequence();
                known.stream_types = record.stream_types();
                known.record = Some(record.bytes().clone());
            }
        }
        verdict
    }

    /// The connection still lives, or ended after a long life: keeps the entry fresh.
    pub fn still_there(&mut self, peer: &PeerId, endpoint: &Endpoint, now_unix_ms: u64) {
        let now = seconds(now_unix_ms);
        if let Some(id) = self.find_peer(peer, endpoint) {
            let entry = self.entries[id as usize].as_mut().expect("found");
            if now.saturating_sub(entry.last_seen_s) > 20 * 60 {
                entry.last_seen_s = now;
                self.changed.insert(id);
            }
        }
    }

    /// Somebody else's key answered at this place. The entry goes back to "new" and its attempt
    /// counts; the peer itself did nothing wrong and keeps its other entries.
    pub fn identity_mismatch(&mut self, peer: &PeerId, endpoint: &Endpoint, now_unix_ms: u64) {
        let now = seconds(now_unix_ms);
        let Some(id) = self.find_peer(peer, endpoint) else { return };
        let entry = self.entries[id as usize].as_mut().expect("found");
        entry.last_try_s = now;
        // Our network works, evidently: this failure counts even right after another.
        if entry.last_counted_s < now {
            entry.last_counted_s = now;
            entry.attempts = entry.attempts.saturating_add(1);
        }
        self.changed.insert(id);
        if self.entry(id).tried {
            self.move_to_new(id);
        }
    }

    /// The peer is of another chain, or is ourselves: nothing of it stays. No offence.
    pub fn forget_peer(&mut self, peer: &PeerId) {
        let ids = key_of(peer)
            .and_then(|key| self.peers.get(&key))
            .map(|known| known.ids.clone())
            .unwrap_or_default();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Removes every entry at a place: it turned out to be our own.
    pub fn forget_place(&mut self, endpoint: &Endpoint) {
        let ids: Vec<u32> = (0..self.entries.len() as u32)
            .filter(|&id| self.entries[id as usize].as_ref().is_some_and(|e| e.key.endpoint == *endpoint))
            .collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// A tried entry whose slot somebody else could take, to be tested by a feeler.
    pub fn collision_to_test(&self, rng: &mut ChaCha12Rng) -> Option<Candidate> {
        if self.collisions.is_empty() {
            return None;
        }
        let id = *self.collisions.iter().nth(rng.random_range(0..self.collisions.len()))?;
        let newcomer = self.entries[id as usize].as_ref()?;
        let occupant = self.tried[usize::from(self.tried_slot_of(newcomer))];
        (occupant != EMPTY).then(|| self.candidate(occupant))
    }

    /// Collisions that wait for a test.
    pub fn collisions_len(&self) -> usize {
        self.collisions.len()
    }

    /// Decides collisions: an occupant that was reached lately stays; one that was tested and not
    /// reached yields.
    pub fn resolve_collisions(&mut self, now_unix_ms: u64) {
        let now = seconds(now_unix_ms);
        for id in self.collisions.clone() {
            let occupant = self.tried[usize::from(self.tried_slot_of(self.entry(id)))];
            let decided = if occupant == EMPTY {
                Some(true)
            } else {
                let sitting = self.entry(occupant);
                if now.saturating_sub(sitting.last_success_s) < TRIED_KEEPS_S {
                    Some(false)
                } else if now.saturating_sub(sitting.last_try_s) < TRIED_KEEPS_S {
                    (now.saturating_sub(sitting.last_try_s) > JUST_TRIED_S).then_some(true)
                } else {
                    (now.saturating_sub(self.entry(id).last_success_s) > COLLISION_WAITS_S).then_some(true)
                }
            };
            if let Some(newcomer_wins) = decided {
                self.collisions.remove(&id);
                if newcomer_wins {
                    self.move_to_tried(id, true);
                }
            }
        }
    }

    fn entry(&self, id: u32) -> &Entry {
        self.entries[id as usize].as_ref().expect("ids in the tables and indexes have entries")
    }

    fn find(&self, peer: &PublicKey, endpoint: &Endpoint) -> Option<u32> {
        let known = self.peers.get(peer)?;
        known.ids.iter().copied().find(|&id| self.entry(id).key.endpoint == *endpoint)
    }

    fn find_peer(&self, peer: &PeerId, endpoint: &Endpoint) -> Option<u32> {
        self.find(&key_of(peer)?, endpoint)
    }

    fn tried_slot_of(&self, entry: &Entry) -> u16 {
        let endpoint = &entry.key.endpoint;
        self.placement.tried_slot(endpoint, self.policy.group(endpoint))
    }

    fn insert(&mut self, claim: &Claim, last_seen_s: u32) -> u32 {
        self.insert_entry(Entry {
            key: Key { peer: claim.peer, endpoint: claim.endpoint.clone() },
            source: claim.source,
            last_seen_s,
            last_try_s: 0,
            last_counted_s: 0,
            last_success_s: 0,
            attempts: 0,
            tried: false,
            persisted: false,
            slot_count: 0,
            slots: [0; NEW_SLOTS_PER_ENTRY],
        })
    }

    fn insert_entry(&mut self, mut entry: Entry) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as u32
        });
        // Gone and back before the store heard of it: the store still holds the old row.
        entry.persisted |= self.gone.remove(&entry.key);
        self.by_network[entry.key.endpoint.network() as usize] += 1;
        self.peers.entry(entry.key.peer).or_default().ids.push(id);
        self.entries[id as usize] = Some(entry);
        self.new_count += 1;
        self.changed.insert(id);
        id
    }

    fn remove(&mut self, id: u32) {
        let (tried, slots) = {
            let entry = self.entry(id);
            (entry.tried, entry.slots().to_vec())
        };
        for slot in slots {
            if tried {
                self.tried[usize::from(slot)] = EMPTY;
                self.tried_fill[usize::from(slot) / BUCKET_SLOTS] -= 1;
            } else {
                self.new[usize::from(slot)] = EMPTY;
                self.new_fill[usize::from(slot) / BUCKET_SLOTS] -= 1;
            }
        }
        self.drop_entry(id);
    }

    /// Drops an entry that is in no slot any more.
    fn drop_entry(&mut self, id: u32) {
        let Some(entry) = self.entries[id as usize].take() else { return };
        if entry.tried {
            self.tried_count -= 1;
        } else {
            self.new_count -= 1;
        }
        self.by_network[entry.key.endpoint.network() as usize] -= 1;
        self.free.push(id);
        self.collisions.remove(&id);
        self.changed.remove(&id);
        if let Some(known) = self.peers.get_mut(&entry.key.peer) {
            known.ids.retain(|&one| one != id);
            if known.ids.is_empty() {
                self.peers.remove(&entry.key.peer);
            } else if entry.tried {
                self.drop_record_if_untried(&entry.key.peer);
            }
        }
        if entry.persisted {
            self.gone.insert(entry.key);
        }
    }

    fn drop_record_if_untried(&mut self, peer: &PublicKey) {
        let Some(known) = self.peers.get(peer) else { return };
        if !known.ids.iter().any(|&id| self.entry(id).tried) {
            self.peers.get_mut(peer).expect("just found").record = None;
        }
    }

    fn put_new(&mut self, id: u32, slot: u16) {
        debug_assert_eq!(self.new[usize::from(slot)], EMPTY);
        self.new[usize::from(slot)] = id;
        self.new_fill[usize::from(slot) / BUCKET_SLOTS] += 1;
        self.entries[id as usize].as_mut().expect("exists").push_slot(slot);
        self.changed.insert(id);
    }

    /// Takes the occupant out of a "new" slot; it is dropped if that was its last.
    fn clear_new_slot(&mut self, slot: u16) {
        let id = std::mem::replace(&mut self.new[usize::from(slot)], EMPTY);
        if id == EMPTY {
            return;
        }
        self.new_fill[usize::from(slot) / BUCKET_SLOTS] -= 1;
        let entry = self.entries[id as usize].as_mut().expect("in a slot");
        entry.remove_slot(slot);
        if entry.slots().is_empty() {
            self.drop_entry(id);
        } else {
            self.changed.insert(id);
        }
    }

    fn move_to_tried(&mut self, id: u32, displace: bool) -> Good {
        if self.entry(id).tried {
            return Good::Tried;
        }
        let slot = self.tried_slot_of(self.entry(id));
        let occupant = self.tried[usize::from(slot)];
        if occupant != EMPTY {
            // Another key at the very same place: the handshake proved that the old one left.
            let same_place = self.entry(occupant).key.endpoint == self.entry(id).key.endpoint;
            if !displace && !same_place {
                if self.collisions.len() < COLLISIONS_MAX {
                    self.collisions.insert(id);
                }
                return Good::Collision;
            }
        }
        // Out of "new" first: making room for the old occupant must not throw the newcomer out.
        let entry = self.entries[id as usize].as_mut().expect("checked above");
        let new_slots = entry.slots().to_vec();
        entry.slot_count = 0;
        entry.tried = true;
        entry.push_slot(slot);
        for new_slot in new_slots {
            self.new[usize::from(new_slot)] = EMPTY;
            self.new_fill[usize::from(new_slot) / BUCKET_SLOTS] -= 1;
        }
        if occupant != EMPTY {
            self.move_to_new(occupant);
        }
        self.tried[usize::from(slot)] = id;
        self.tried_fill[usize::from(slot) / BUCKET_SLOTS] += 1;
        self.new_count -= 1;
        self.tried_count += 1;
        self.collisions.remove(&id);
        self.changed.insert(id);
        Good::Tried
    }

    /// From "tried" to the "new" slot of its first source, whoever sits there.
    fn move_to_new(&mut self, id: u32) {
        let entry = self.entries[id as usize].as_mut().expect("in tried");
        let tried_slot = entry.slots[0];
        entry.tried = false;
        entry.slot_count = 0;
        let (key, source) = (entry.key.clone(), entry.source);
        self.tried[usize::from(tried_slot)] = EMPTY;
        self.tried_fill[usize::from(tried_slot) / BUCKET_SLOTS] -= 1;
        self.tried_count -= 1;
        self.new_count += 1;
        let slot = self.placement.new_slot(&key.endpoint, self.policy.group(&key.endpoint), source);
        self.clear_new_slot(slot);
        self.put_new(id, slot);
        self.drop_record_if_untried(&key.peer);
    }

    fn candidate(&self, id: u32) -> Candidate {
        let entry = self.entry(id);
        Candidate {
            peer: peer_id(&entry.key.peer),
            endpoint: entry.key.endpoint.clone(),
            tried: entry.tried,
            stream_types: self.peers.get(&entry.key.peer).map_or(0, |known| known.stream_types),
        }
    }
}

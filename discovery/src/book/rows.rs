//! The book as rows: what the store keeps, and what changed since it was last told.

use bytes::Bytes;
use ghost_proto::{PeerId, PublicKey};

use super::{AddressBook, EMPTY, Entry, Key, Known, NEW_SLOTS, NEW_SLOTS_PER_ENTRY, TRIED_SLOTS};
use crate::{
    address::Endpoint,
    netgroup::{AddressPolicy, NetGroup},
};

/// One entry as it is kept. Times are Unix seconds, 0 = never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Who and where.
    pub key: Key,
    /// Who told us first.
    pub source: NetGroup,
    /// When it was last said or seen to be there.
    pub last_seen_s: u32,
    /// When it was last dialled.
    pub last_try_s: u32,
    /// When it was last reached.
    pub last_success_s: u32,
    /// Failures since then.
    pub attempts: u16,
    /// In "tried" rather than "new".
    pub tried: bool,
    /// Its slots; meaningful with the book's secret only.
    pub slots: Vec<u16>,
    /// Highest sequence number of the peer's records.
    pub sequence: u64,
    /// Stream types the peer's record claims.
    pub stream_types: u64,
    /// The peer's record, if it is tried.
    pub record: Option<Bytes>,
}

/// A change that the store has to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry is now like this.
    Put(Row),
    /// The entry is gone.
    Gone(Key),
}

impl AddressBook {
    /// The book as the store kept it.
    ///
    /// Rows go to the slots they had. A row whose slots are impossible or taken (the address policy
    /// changed, or a write was lost) is placed anew; if its slot is taken then, it is left out, and
    /// the store will hear of that.
    pub fn restore(secret: [u8; 16], policy: AddressPolicy, rows: Vec<Row>) -> Self {
        let mut book = Self::new(secret, policy);
        let mut rows = rows;
        // Tried first, then in the order of keys: the same rows make the same book.
        rows.sort_by(|a, b| b.tried.cmp(&a.tried).then_with(|| a.key.cmp(&b.key)));
        for row in rows {
            book.restore_row(row);
        }
        book
    }

    /// Adds rows that are not known yet, placed by this book's secret. Answers how many had room.
    pub fn import(&mut self, rows: Vec<Row>) -> usize {
        let before = self.len();
        for row in rows {
            if self.find(&row.key.peer, &row.key.endpoint).is_none() {
                self.restore_row(Row { slots: Vec::new(), ..row });
            }
        }
        self.len() - before
    }

    fn restore_row(&mut self, row: Row) {
        let fits_peer =
            self.peers.get(&row.key.peer).is_none_or(|known| known.ids.len() < super::ENTRIES_PER_PEER_MAX);
        let target = self.policy.group(&row.key.endpoint);
        let first_slot = if row.tried {
            self.placement.tried_slot(&row.key.endpoint, target)
        } else {
            self.placement.new_slot(&row.key.endpoint, target, row.source)
        };
        let table_len = if row.tried { TRIED_SLOTS } else { NEW_SLOTS };
        let mut slots = row.slots.clone();
        slots.sort_unstable();
        slots.dedup();
        slots.truncate(if row.tried { 1 } else { NEW_SLOTS_PER_ENTRY });
        slots.retain(|&slot| {
            usize::from(slot) < table_len
                && self.placement.fits(row.tried, slot, &row.key.endpoint)
                && (!row.tried || slot == first_slot)
                && self.slot_is_free(row.tried, slot)
        });
        let moved = slots.is_empty();
        if moved && self.slot_is_free(row.tried, first_slot) {
            slots.push(first_slot);
        }
        if slots.is_empty() || !fits_peer || self.find(&row.key.peer, &row.key.endpoint).is_some() {
            self.gone.insert(row.key);
            return;
        }
        let key = row.key.clone();
        self.last_good_s = self.last_good_s.max(row.last_success_s);
        let id = self.insert_entry(Entry {
            key: row.key,
            source: row.source,
            last_seen_s: row.last_seen_s,
            last_try_s: row.last_try_s,
            last_counted_s: row.last_try_s,
            last_success_s: row.last_success_s,
            attempts: row.attempts,
            tried: false,
            persisted: true,
            slot_count: 0,
            slots: [0; NEW_SLOTS_PER_ENTRY],
        });
        if row.tried {
            self.restore_tried(id, slots[0]);
        } else {
            slots.into_iter().for_each(|slot| self.put_new(id, slot));
        }
        let known = self.peers.get_mut(&key.peer).expect("just inserted");
        if row.sequence >= known.sequence {
            known.sequence = row.sequence;
            known.stream_types = row.stream_types;
        }
        if row.tried && row.record.is_some() {
            known.record = row.record;
        }
        if !moved {
            self.changed.remove(&id);
        }
    }

    fn restore_tried(&mut self, id: u32, slot: u16) {
        let entry = self.entries[id as usize].as_mut().expect("just inserted");
        entry.tried = true;
        entry.push_slot(slot);
        self.tried[usize::from(slot)] = id;
        self.tried_fill[usize::from(slot) / super::BUCKET_SLOTS] += 1;
        self.new_count -= 1;
        self.tried_count += 1;
    }

    fn slot_is_free(&self, tried: bool, slot: u16) -> bool {
        let table = if tried { &self.tried } else { &self.new };
        table[usize::from(slot)] == EMPTY
    }

    /// Every entry as a row, in the order of keys.
    pub fn rows(&self) -> Vec<Row> {
        self.peers
            .iter()
            .flat_map(|(peer, known)| {
                let mut ids = known.ids.clone();
                ids.sort_by(|&a, &b| self.entry(a).key.cmp(&self.entry(b).key));
                ids.into_iter().map(move |id| self.row(peer, known, id))
            })
            .collect()
    }

    /// The entries of one peer as rows.
    pub fn rows_of(&self, peer: &PeerId) -> Vec<Row> {
        let Some(key) = ghost_proto::record::key_of(peer) else { return Vec::new() };
        let Some(known) = self.peers.get(&key) else { return Vec::new() };
        known.ids.iter().map(|&id| self.row(&key, known, id)).collect()
    }

    /// One entry as a row.
    pub fn row_at(&self, peer: &PeerId, endpoint: &Endpoint) -> Option<Row> {
        self.rows_of(peer).into_iter().find(|row| row.key.endpoint == *endpoint)
    }

    fn row(&self, peer: &PublicKey, known: &Known, id: u32) -> Row {
        let entry = self.entry(id);
        debug_assert_eq!(entry.key.peer, *peer);
        // Sorted, so that equal books have equal rows.
        let mut slots = entry.slots().to_vec();
        slots.sort_unstable();
        Row {
            key: entry.key.clone(),
            source: entry.source,
            last_seen_s: entry.last_seen_s,
            last_try_s: entry.last_try_s,
            last_success_s: entry.last_success_s,
            attempts: entry.attempts,
            tried: entry.tried,
            slots,
            sequence: known.sequence,
            stream_types: known.stream_types,
            record: known.record.clone().filter(|_| entry.tried),
        }
    }

    /// Up to `most` changes since the last call. Apply them to the store in one batch.
    pub fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most {
            if let Some(key) = self.gone.pop_first() {
                changes.push(Change::Gone(key));
            } else if let Some(id) = self.changed.pop_first() {
                let entry = self.entries[id as usize].as_mut().expect("changed entries exist");
                entry.persisted = true;
                let peer = entry.key.peer;
                let known = &self.peers[&peer];
                changes.push(Change::Put(self.row(&peer, known, id)));
            } else {
                break;
            }
        }
        changes
    }

    /// The store could not take these changes: they are told again.
    pub fn give_back(&mut self, changes: Vec<Change>) {
        for change in changes {
            let (Change::Put(Row { key, .. }) | Change::Gone(key)) = change;
            if let Some(id) = self.find(&key.peer, &key.endpoint) {
                self.changed.insert(id);
            } else {
                self.gone.insert(key);
            }
        }
    }

    /// Changes that wait for [`AddressBook::take_changes`].
    pub fn changes_len(&self) -> usize {
        self.gone.len() + self.changed.len()
    }
}

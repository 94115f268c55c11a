//! What goes into the store, and what comes from an export.

use super::{Overlay, PERSIST_EVERY};
use crate::{
    clock::Now,
    store::{BATCH_MAX, Batch, Saved, Write},
};

impl Overlay {
    /// What is not on disk yet, at the end. Apply it; call again until it is `None`.
    pub fn flush(&mut self) -> Option<Batch> {
        let batch = self.take_batch();
        (!batch.writes.is_empty()).then_some(batch)
    }

    /// What is saved, for an export while the node runs.
    pub fn saved(&self) -> Saved {
        let stories = self.ledger.stories().map(|(peer, story)| (*peer, story.clone())).collect();
        Saved {
            secret: None,
            own_sequence: self.own_record.sequence(),
            rows: self.book.rows(),
            anchors: self.anchors.clone(),
            stories,
        }
    }

    /// Takes over the addresses of an export, those that are not known yet. Answers how many. Conduct and
    /// anchors are taken over by importing into the store of a node that does not run.
    pub fn import(&mut self, saved: Saved, now: Now) -> usize {
        let added = self.book.import(saved.rows);
        self.schedule_persist(now);
        added
    }

    pub(super) fn schedule_persist(&mut self, now: Now) {
        let changed = !self.urgent.is_empty() || self.book.changes_len() > 0 || self.ledger.changes_len() > 0;
        if changed && self.persist_at.is_none() {
            self.persist_at = Some(now.at + PERSIST_EVERY);
        }
    }

    pub(super) fn take_batch(&mut self) -> Batch {
        let mut writes = std::mem::take(&mut self.urgent);
        let stories = self.ledger.take_changes(BATCH_MAX / 2);
        writes.extend(stories.into_iter().map(|(peer, story)| Write::Story(peer, story)));
        let room = BATCH_MAX.saturating_sub(writes.len());
        writes.extend(self.book.take_changes(room).into_iter().map(Write::Entry));
        Batch { writes }
    }

    pub(super) fn give_back(&mut self, batch: Batch) {
        for write in batch.writes {
            match write {
                Write::Entry(change) => self.book.give_back(vec![change]),
                Write::Story(peer, _) => self.ledger.give_back([peer]),
                // Newer ones may wait already; they win.
                Write::Anchors(_) if self.urgent.iter().any(|one| matches!(one, Write::Anchors(_))) => {}
                write => self.urgent.insert(0, write),
            }
        }
    }
}

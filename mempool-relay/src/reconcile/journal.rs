//! What came into a set and left it, in order: enough to bring symbols up to date, and to look back.

use std::collections::{HashSet, VecDeque};

use ghost_proto::TxId;

/// Changes that are remembered: 8 s of 4,000 transactions a second that come and go. 65,536 × 33 B = 2.1 MiB.
pub const JOURNAL_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) id: TxId,
    pub(crate) added: bool,
}

/// What came into a set and left it, in order. The holder of the set tells it of every change.
#[derive(Debug, Default)]
pub struct Journal {
    changes: VecDeque<Change>,
    /// Changes before the first that is remembered.
    forgotten: u64,
    /// Members now.
    len: usize,
}

impl Journal {
    /// An id is in the set now, and was not before.
    pub fn added(&mut self, id: TxId) {
        self.len += 1;
        self.push(Change { id, added: true });
    }

    /// An id is no longer in the set.
    pub fn removed(&mut self, id: TxId) {
        self.len = self.len.saturating_sub(1);
        self.push(Change { id, added: false });
    }

    fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > JOURNAL_MAX {
            self.changes.pop_front();
            self.forgotten += 1;
        }
    }

    /// Changes so far: names the state of the set.
    pub fn position(&self) -> u64 {
        self.forgotten + self.changes.len() as u64
    }

    /// Members now.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What changed since; `None` if that is forgotten.
    pub(crate) fn since(&self, position: u64) -> Option<impl ExactSizeIterator<Item = &Change>> {
        let from = usize::try_from(position.checked_sub(self.forgotten)?).ok()?;
        (from <= self.changes.len()).then(|| self.changes.range(from..))
    }

    /// The members at an earlier position, of those `now`; `None` if what changed is forgotten.
    pub fn look_back(&self, now: impl Iterator<Item = TxId>, position: u64) -> Option<Vec<TxId>> {
        let mut came = HashSet::new();
        // In the order in which they went, so that the result does not depend on how sets are hashed.
        let mut went = Vec::new();
        for change in self.since(position)? {
            match change.added {
                true => drop(came.insert(change.id)),
                // What came and went since was not there before.
                false if !came.remove(&change.id) => went.push(change.id),
                false => {}
            }
        }
        // What went and came back is both among those now and among `came`.
        let mut members: Vec<TxId> = now.filter(|id| !came.contains(id)).collect();
        members.extend(went);
        Some(members)
    }
}

//! Which headers were seen for each slot.
//!
//! An honest authority makes one block for a slot. A dishonest one can sign any number, and each of
//! them would be stored and executed. So only the first few are, and others only if a block that we
//! would take stands on them: the rest of the network may have built on another one than we saw
//! first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ghost_proto::{BlockId, Header};

/// Blocks taken for one slot without further reason. Each slot can cost at most twice as many blocks:
/// these, and one parent wanted by each of those taken for a later slot.
pub const PROPOSALS_PER_SLOT_MAX: usize = 4;

/// Parents remembered as wanted, the newest: 256 × 40 bytes.
pub const WANTED_MAX: usize = 256;

/// What to do with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Take the block.
    Admitted,
    /// Take it; its proposer has signed this other block for the slot, too, and nobody was told yet:
    /// call [`Proposals::reported`] once somebody is.
    Equivocates(BlockId),
    /// Its proposer has signed too many for this slot: drop it. Nobody but the proposer is at fault.
    TooMany,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    ids: Vec<BlockId>,
    reported: bool,
}

/// Slots and the blocks seen for each. Headers must have a checked signature.
#[derive(Debug, Clone, Default)]
pub struct Proposals {
    slots: BTreeMap<u64, Seen>,
    wanted: VecDeque<BlockId>,
    known_wanted: BTreeSet<BlockId>,
}

impl Proposals {
    /// True if [`Self::admit`] would take it.
    pub fn would_admit(&self, header: &Header) -> bool {
        let Some(Seen { ids, .. }) = self.slots.get(&header.slot) else { return true };
        ids.contains(&header.id())
            || ids.len() < PROPOSALS_PER_SLOT_MAX
            || (ids.len() < 2 * PROPOSALS_PER_SLOT_MAX && self.known_wanted.contains(&header.id()))
    }

    /// Notes a header.
    pub fn admit(&mut self, header: &Header) -> Admission {
        if !self.would_admit(header) {
            return Admission::TooMany;
        }
        let id = header.id();
        let seen = self.slots.entry(header.slot).or_default();
        if !seen.ids.contains(&id) {
            seen.ids.push(id);
        }
        match seen.ids.iter().find(|other| **other != id) {
            Some(other) if !seen.reported => Admission::Equivocates(*other),
            _ => Admission::Admitted,
        }
    }

    /// The double proposal of a slot was reported: once is enough.
    pub fn reported(&mut self, slot: u64) {
        if let Some(seen) = self.slots.get_mut(&slot) {
            seen.reported = true;
        }
    }

    /// Notes that an admitted block stands on one we do not have.
    pub fn want(&mut self, parent: BlockId) {
        if self.known_wanted.insert(parent) {
            self.wanted.push_back(parent);
            if self.wanted.len() > WANTED_MAX
                && let Some(oldest) = self.wanted.pop_front()
            {
                self.known_wanted.remove(&oldest);
            }
        }
    }

    /// True if a block was seen for the slot.
    pub fn seen(&self, slot: u64) -> bool {
        self.slots.contains_key(&slot)
    }

    /// Forgets the slots up to that of the finalized block.
    pub fn prune(&mut self, finalized_slot: u64) {
        self.slots = self.slots.split_off(&finalized_slot.saturating_add(1));
    }

    /// Slots remembered.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if no slot is remembered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::{GenesisId, KeyPair, block::HeaderFields};

    fn header(slot: u64, tag: u8) -> Header {
        HeaderFields {
            parent: BlockId([tag; 32]),
            height: 1,
            slot,
            proposer: 0,
            tx_count: 0,
            body_bytes: 0,
            tx_root: [0; 32],
            receipt_root: [0; 32],
            state: [0; 32],
            gas_used: 0,
        }
        .seal(&GenesisId([1; 32]), &KeyPair::from_seed(&[1; 32]))
    }

    #[test]
    fn the_second_is_evidence_until_it_is_reported() {
        let mut proposals = Proposals::default();
        assert_eq!(proposals.admit(&header(5, 0)), Admission::Admitted);
        assert_eq!(proposals.admit(&header(5, 0)), Admission::Admitted);
        assert_eq!(proposals.admit(&header(5, 1)), Admission::Equivocates(header(5, 0).id()));
        assert_eq!(proposals.admit(&header(5, 0)), Admission::Equivocates(header(5, 1).id()));
        proposals.reported(5);
        assert_eq!(proposals.admit(&header(5, 1)), Admission::Admitted);
        assert_eq!(proposals.admit(&header(5, 2)), Admission::Admitted);
        assert_eq!(proposals.admit(&header(6, 2)), Admission::Admitted);
    }

    #[test]
    fn the_bound_holds_from_both_sides_and_wanted_parents_pass_it() {
        let mut proposals = Proposals::default();
        let max = PROPOSALS_PER_SLOT_MAX as u8;
        for tag in 0..max {
            assert_ne!(proposals.admit(&header(5, tag)), Admission::TooMany);
        }
        assert!(!proposals.would_admit(&header(5, max)));
        assert_eq!(proposals.admit(&header(5, max)), Admission::TooMany);
        for tag in max..2 * max {
            proposals.want(header(5, tag).id());
            assert_ne!(proposals.admit(&header(5, tag)), Admission::TooMany);
        }
        proposals.want(header(5, 2 * max).id());
        assert_eq!(proposals.admit(&header(5, 2 * max)), Admission::TooMany);
    }

    #[test]
    fn wanted_parents_are_bounded() {
        let mut proposals = Proposals::default();
        for n in 0..WANTED_MAX as u64 + 1 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            proposals.want(BlockId(id));
        }
        assert_eq!(proposals.wanted.len(), WANTED_MAX);
        assert_eq!(proposals.known_wanted.len(), WANTED_MAX);
        assert!(!proposals.known_wanted.contains(&BlockId([0; 32])), "the oldest goes first");
    }

    #[test]
    fn finalized_slots_are_forgotten() {
        let mut proposals = Proposals::default();
        for slot in 1..=4 {
            proposals.admit(&header(slot, 0));
        }
        proposals.prune(2);
        assert_eq!((proposals.seen(2), proposals.seen(3)), (false, true));
        assert_eq!(proposals.len(), 2);
    }
}

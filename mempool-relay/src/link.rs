//! Links: the peers that transactions are relayed with, and names that are short enough for them.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hasher,
};

use ghost_frames::tx::ShortId;
use ghost_proto::TxId;
use siphasher::sip::SipHasher13;

/// Most links at a time, so that a set of them is one machine word pair for each transaction.
pub const LINKS_MAX: usize = 128;

/// The secret under which a node wants transactions to be named *to it*.
///
/// Every node draws one at start and tells it to each peer in its hello. All its peers announce a
/// transaction under the same name then, so that it knows which announcements mean the same thing
/// *before* it has the body, and asks only once. (Names keyed by connection cannot tell: with 16 links
/// it would fetch a transaction up to 16 times.)
///
/// # Security
/// Whoever is not a neighbour cannot prepare a collision. A neighbour can find two transactions *of
/// its own* with one name in 2^32 steps; then one of them reaches this node later, with a block or by
/// reconciliation. To collide with somebody else's takes 2^64 steps. A node that wants two identities
/// kept apart (clearnet and Tor) draws a salt for each: the same salt in two hellos would link them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    /// The transaction's name: SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF",
    /// 2012) over its id.
    pub fn short_id(&self, id: &TxId) -> ShortId {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&id.0);
        ShortId(hasher.finish())
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// A transaction's name to us, and under which of our salts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    /// Which of our salts: its index in [`Salts`].
    pub(crate) salt: u8,
    pub(crate) id: ShortId,
}

/// Our own salts: one for each identity of this process, so one or two.
#[derive(Debug, Default)]
pub(crate) struct Salts(Vec<Salt>);

impl Salts {
    /// Most identities of one process.
    pub(crate) const MAX: usize = 4;

    /// The index of a salt, and whether it is new; `None` if there are too many.
    pub(crate) fn index(&mut self, salt: Salt) -> Option<(u8, bool)> {
        if let Some(index) = self.0.iter().position(|known| *known == salt) {
            return Some((index as u8, false));
        }
        (self.0.len() < Self::MAX).then(|| {
            self.0.push(salt);
            (self.0.len() as u8 - 1, true)
        })
    }

    /// All the names of a transaction.
    pub(crate) fn names(&self, id: &TxId) -> impl Iterator<Item = Name> {
        self.0.iter().zip(0..).map(|(salt, index)| Name { salt: index, id: salt.short_id(id) })
    }
}

/// Index of a link, below [`LINKS_MAX`]. Reused only after every set has forgotten it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u8);

/// A set of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkSet(u128);

const _: () = assert!(LINKS_MAX == u128::BITS as usize);

impl LinkSet {
    pub(crate) fn insert(&mut self, slot: Slot) {
        self.0 |= 1 << slot.0;
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        self.0 &= !(1 << slot.0);
    }

    pub(crate) fn remove_all(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn contains(self, slot: Slot) -> bool {
        self.0 & (1 << slot.0) != 0
    }

    #[cfg(test)]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Hands out slots. A freed one rests until all are used up; then the owner of the sets sweeps once
/// for all of them, so that a storm of connects and disconnects costs one sweep per 64 or more.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    used: LinkSet,
    resting: LinkSet,
}

impl Slots {
    /// A slot, or `None` if every one is used or rests: then call [`Self::sweep`] and ask again.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        let slot = (0..LINKS_MAX as u8)
            .map(Slot)
            .find(|slot| !self.used.contains(*slot) && !self.resting.contains(*slot))?;
        self.used.insert(slot);
        Some(slot)
    }

    pub(crate) fn free(&mut self, slot: Slot) {
        self.used.remove(slot);
        self.resting.insert(slot);
    }

    /// What must be removed from every set now; free to be used afterwards.
    pub(crate) fn sweep(&mut self) -> LinkSet {
        std::mem::take(&mut self.resting)
    }
}

/// What we announced on a link, by the name the other side knows it by, so that its requests can be
/// answered. Oldest out first.
#[derive(Debug)]
pub(crate) struct Announced<T> {
    by_id: HashMap<ShortId, (T, u8)>,
    order: VecDeque<ShortId>,
}

impl<T> Default for Announced<T> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), order: VecDeque::new() }
    }
}

/// Most announcements that are remembered on a link: three times what the other side remembers of
/// ours, and 8 s at 2,000 tx/s. 16,384 × 40 B = 640 KiB.
pub(crate) const ANNOUNCED_MAX: usize = 16_384;

/// How often one announcement is answered. More than once for answers that were lost; not for ever,
/// or 8 bytes of request would draw 4 KiB again and again.
const ANSWERS_MAX: u8 = 3;

impl<T: Copy> Announced<T> {
    pub(crate) fn insert(&mut self, id: ShortId, what: T) {
        if self.by_id.insert(id, (what, 0)).is_none() {
            self.order.push_back(id);
            if self.order.len() > ANNOUNCED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// What was announced under this name, for an answer.
    pub(crate) fn answer(&mut self, id: ShortId) -> Option<T> {
        let (what, answers) = self.by_id.get_mut(&id)?;
        *answers += 1;
        (*answers <= ANSWERS_MAX).then_some(*what).or_else(|| {
            *answers = ANSWERS_MAX;
            None
        })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        debug_assert_eq!(self.by_id.len(), self.order.len());
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_names_of_its_own() {
        let id = TxId([7; 32]);
        assert_ne!(Salt([1; 16]).short_id(&id), Salt([2; 16]).short_id(&id));
        // Computed by another implementation. A change breaks every peer.
        assert_eq!(Salt([1; 16]).short_id(&id), ShortId(0xb4f3_dab6_a3c3_8018));
    }

    #[test]
    fn a_slot_rests_until_it_is_swept() {
        let mut slots = Slots::default();
        let first = slots.take().unwrap();
        slots.free(first);
        let others: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(others.len(), LINKS_MAX - 1);
        assert!(!others.contains(&first));
        assert!(slots.sweep().contains(first));
        assert_eq!(slots.take(), Some(first));
        assert_eq!(slots.take(), None);
        assert!(slots.sweep().is_empty());
    }

    #[test]
    fn announcements_are_forgotten_oldest_first() {
        let mut announced = Announced::default();
        for id in 0..ANNOUNCED_MAX as u64 {
            announced.insert(ShortId(id), id);
        }
        assert_eq!(announced.answer(ShortId(0)), Some(0));
        announced.insert(ShortId(u64::MAX), 0);
        assert_eq!(announced.len(), ANNOUNCED_MAX);
        assert_eq!(announced.answer(ShortId(0)), None);
        assert_eq!(announced.answer(ShortId(1)), Some(1));
    }

    #[test]
    fn an_announcement_is_answered_three_times() {
        let mut announced = Announced::default();
        announced.insert(ShortId(1), ());
        let answers: Vec<_> = (0..300).map(|_| announced.answer(ShortId(1)).is_some()).collect();
        assert_eq!(answers.iter().filter(|yes| **yes).count(), usize::from(ANSWERS_MAX));
        assert!(answers[..3].iter().all(|yes| *yes));
    }
}

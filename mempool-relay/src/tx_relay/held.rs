//! The transactions the relay knows, and who else knows them.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use ghost_proto::TxId;

use super::TxSummary;
use crate::{
    link::{LinkSet, Name, Salts},
    reconcile::Journal,
};

/// Names a held transaction in queues: one word, and stale once the transaction is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TxRef {
    index: u32,
    generation: u32,
}

/// How far a transaction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The driver checks it.
    Checking,
    /// In the pool, but not ready: not relayed.
    Parked,
    /// Relayed.
    Ready,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) tx: TxSummary,
    pub(crate) stage: Stage,
    /// It was submitted here or pushed to us unannounced: push it on.
    pub(crate) pushed: bool,
    /// Links whose other side has it, or was told of it.
    pub(crate) known: LinkSet,
}

struct Place {
    generation: u32,
    held: Option<Held>,
}

/// A slab with indexes by id and by our names. 250 B for each transaction; as many as the pool holds
/// and [`super::CHECKING_MAX`] more.
#[derive(Default)]
pub(crate) struct HeldSet {
    places: Vec<Place>,
    free: Vec<u32>,
    by_id: HashMap<TxId, u32>,
    by_name: HashMap<Name, u32>,
    /// What became ready and what of that left: the set that is reconciled.
    journal: Journal,
}

impl HeldSet {
    pub(crate) fn insert(&mut self, held: Held, salts: &Salts) -> TxRef {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, held: None });
            self.places.len() as u32 - 1
        });
        if held.stage == Stage::Ready {
            self.journal.added(held.tx.id);
        }
        self.by_id.insert(held.tx.id, index);
        self.by_name.extend(salts.names(&held.tx.id).map(|name| (name, index)));
        let place = &mut self.places[index as usize];
        place.held = Some(held);
        TxRef { index, generation: place.generation }
    }

    pub(crate) fn remove(&mut self, id: &TxId, salts: &Salts) -> Option<Held> {
        let index = self.by_id.remove(id)?;
        for name in salts.names(id) {
            self.by_name.remove(&name);
        }
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        let held = place.held.take();
        if held.as_ref().is_some_and(|held| held.stage == Stage::Ready) {
            self.journal.removed(*id);
        }
        held
    }

    /// Makes ready what is here and was not.
    pub(crate) fn make_ready(&mut self, what: TxRef) {
        if let Some(held) = self.get_mut(what).filter(|held| held.stage != Stage::Ready) {
            held.stage = Stage::Ready;
            let id = held.tx.id;
            self.journal.added(id);
        }
    }

    /// Changes of the ready set.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The ready set.
    pub(crate) fn ready_ids(&self) -> impl Iterator<Item = TxId> {
        let held = self.places.iter().filter_map(|place| place.held.as_ref());
        held.filter(|held| held.stage == Stage::Ready).map(|held| held.tx.id)
    }

    /// Each of the ready set, to mark what links know of it.
    pub(crate) fn ready_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        let held = self.places.iter_mut().filter_map(|place| place.held.as_mut());
        held.filter(|held| held.stage == Stage::Ready)
    }

    /// Makes what is held findable under a salt that came after it.
    pub(crate) fn add_names(&mut self, salts: &Salts) {
        for (id, index) in &self.by_id {
            self.by_name.extend(salts.names(id).map(|name| (name, *index)));
        }
    }

    fn reference(&self, index: u32) -> TxRef {
        TxRef { index, generation: self.places[index as usize].generation }
    }

    pub(crate) fn find(&self, id: &TxId) -> Option<TxRef> {
        self.by_id.get(id).map(|index| self.reference(*index))
    }

    pub(crate) fn find_name(&self, name: Name) -> Option<TxRef> {
        self.by_name.get(&name).map(|index| self.reference(*index))
    }

    pub(crate) fn get(&self, what: TxRef) -> Option<&Held> {
        let place = self.places.get(what.index as usize)?;
        place.held.as_ref().filter(|_| place.generation == what.generation)
    }

    pub(crate) fn get_mut(&mut self, what: TxRef) -> Option<&mut Held> {
        let place = self.places.get_mut(what.index as usize)?;
        place.held.as_mut().filter(|_| place.generation == what.generation)
    }

    /// What stands at a place, for walks over all of them.
    pub(crate) fn at(&self, index: usize) -> Option<(TxRef, &Held)> {
        let place = self.places.get(index)?;
        let what = TxRef { index: index as u32, generation: place.generation };
        place.held.as_ref().map(|held| (what, held))
    }

    /// Places there are, taken or free.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Makes every transaction forget these links.
    pub(crate) fn forget_links(&mut self, links: LinkSet) {
        for held in self.places.iter_mut().filter_map(|place| place.held.as_mut()) {
            held.known.remove_all(links);
        }
    }
}

/// Names of transactions that need not be fetched again for a while. Two generations: a name is
/// remembered for one to two periods, or until twice the bound came after it.
#[derive(Debug)]
pub(crate) struct Remembered {
    young: HashSet<Name>,
    old: HashSet<Name>,
    turned: Option<Instant>,
    period: Duration,
}

/// Names in one generation: 2 × 65,536 × 24 B = 3 MiB.
pub(crate) const REMEMBERED_MAX: usize = 65_536;

impl Remembered {
    pub(crate) fn new(period: Duration) -> Self {
        Self { young: HashSet::new(), old: HashSet::new(), turned: None, period }
    }

    fn turn(&mut self, now: Instant) {
        let age = self.turned.map_or(Duration::MAX, |turned| now.saturating_duration_since(turned));
        if age >= self.period || self.young.len() >= REMEMBERED_MAX {
            self.old = std::mem::take(&mut self.young);
            if age >= self.period.saturating_mul(2) {
                self.old.clear();
            }
            self.turned = Some(now);
        }
    }

    pub(crate) fn insert(&mut self, names: impl Iterator<Item = Name>, now: Instant) {
        self.turn(now);
        self.young.extend(names);
    }

    pub(crate) fn contains(&mut self, name: Name, now: Instant) -> bool {
        self.turn(now);
        self.young.contains(&name) || self.old.contains(&name)
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    pub(crate) fn remove(&mut self, name: Name) {
        self.young.remove(&name);
        self.old.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use ghost_frames::tx::ShortId;

    use super::*;
    use crate::link::{Salt, Slot};

    fn held(n: u8) -> Held {
        let tx = TxSummary { id: TxId([n; 32]), bytes: 250, fee_class: 3 };
        Held { tx, stage: Stage::Ready, pushed: false, known: LinkSet::default() }
    }

    #[test]
    fn a_reference_dies_with_its_transaction() {
        let mut salts = Salts::default();
        salts.index(Salt([1; 16])).unwrap();
        let mut set = HeldSet::default();
        let first = set.insert(held(1), &salts);
        assert_eq!(set.find_name(salts.names(&TxId([1; 32])).next().unwrap()), Some(first));
        set.remove(&TxId([1; 32]), &salts).unwrap();
        let second = set.insert(held(2), &salts);
        assert!(set.get(first).is_none());
        assert_eq!(set.get(second).unwrap().tx.id, TxId([2; 32]));
        assert_eq!((set.len(), set.places()), (1, 1));
    }

    #[test]
    fn a_freed_link_is_forgotten_by_all() {
        let salts = Salts::default();
        let mut set = HeldSet::default();
        let what = set.insert(held(1), &salts);
        set.get_mut(what).unwrap().known.insert(Slot(3));
        let mut gone = LinkSet::default();
        gone.insert(Slot(3));
        set.forget_links(gone);
        assert!(set.get(what).unwrap().known.is_empty());
    }

    #[test]
    fn names_are_remembered_for_a_period_and_bounded() {
        let start = Instant::now();
        let period = Duration::from_secs(60);
        let name = |n| Name { salt: 0, id: ShortId(n) };
        let mut remembered = Remembered::new(period);
        remembered.insert([name(0)].into_iter(), start);
        assert!(remembered.contains(name(0), start + period));
        assert!(remembered.contains(name(0), start + period * 2 - Duration::from_millis(1)));
        assert!(!remembered.contains(name(0), start + period * 2));
        // Also if nobody asked in between.
        remembered.insert([name(1)].into_iter(), start + period * 3);
        assert!(!remembered.contains(name(1), start + period * 5));
        for n in 0..3 * REMEMBERED_MAX as u64 {
            remembered.insert([name(n)].into_iter(), start);
        }
        assert!(remembered.young.len() + remembered.old.len() <= 2 * REMEMBERED_MAX);
    }
}

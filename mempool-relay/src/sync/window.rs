//! Headers that were checked and not imported yet, with the bodies that have come.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId, block::HEADER_LEN};

use super::{io::RequestId, locator};

/// Most headers ahead of the last import: 8,192 × about 0.7 KiB = 6 MiB. At 100 bytes and more for each
/// block this keeps the bodies' window full, which is all that headers are for.
pub const HEADER_WINDOW_MAX: usize = 8192;

/// Most blocks asked for, received or being imported. Eight peers with three batches of 128 each
/// fit.
pub const BODY_WINDOW_BLOCKS_MAX: usize = 4096;

/// Most bytes of those by their headers, or one block if that is larger. Eight peers with two batches
/// of 4 MiB each fit.
pub const BODY_WINDOW_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(BODY_WINDOW_BLOCKS_MAX <= HEADER_WINDOW_MAX);

/// Most requests that a block is part of at the same time.
pub(crate) const HOLDERS_MAX: usize = 2;

#[derive(Debug)]
pub(crate) enum Body {
    /// In these requests, [`HOLDERS_MAX`] at most.
    Wanted(Vec<RequestId>),
    /// Here.
    Received(Arc<Block>, PeerId),
    /// With the importer.
    Handed,
    /// Imported before the ones in front of it were confirmed.
    Imported,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) header: Header,
    /// Who served the header.
    pub(crate) from: PeerId,
    pub(crate) body: Body,
}

impl Slot {
    pub(crate) fn bytes(&self) -> usize {
        HEADER_LEN + self.header.body_bytes as usize
    }

    pub(crate) fn is_free(&self) -> bool {
        matches!(&self.body, Body::Wanted(holders) if holders.is_empty())
    }
}

/// One chain of headers, each the parent of the next.
///
/// The first `open` of them make up the moving window of bodies.
#[derive(Debug, Default)]
pub(crate) struct Window {
    slots: VecDeque<Slot>,
    heights: BTreeMap<BlockId, u64>,
    open: usize,
    open_bytes: usize,
    /// No slot before this one is free.
    free_from: usize,
    /// No slot before this one is other than handed or imported.
    unhanded_from: usize,
    /// No slot before this one is wanted.
    wanted_from: usize,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the bodies asked for, received or being imported.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    pub(crate) fn last(&self) -> Option<Checkpoint> {
        self.slots.back().map(|slot| Checkpoint { height: slot.header.height, id: slot.header.id() })
    }

    pub(crate) fn position(&self, id: &BlockId) -> Option<usize> {
        let first = self.slots.front()?.header.height;
        self.heights.get(id).map(|height| (height - first) as usize)
    }

    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.heights.contains_key(id)
    }

    pub(crate) fn slot(&self, at: usize) -> Option<&Slot> {
        self.slots.get(at)
    }

    pub(crate) fn header(&self, id: &BlockId) -> Option<&Header> {
        self.position(id).map(|at| &self.slots[at].header)
    }

    /// Slots whose bodies may be asked for and are not, with their positions.
    pub(crate) fn free_slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let from = self.free_from.min(self.open);
        self.slots
            .range(from..self.open)
            .enumerate()
            .map(move |(at, slot)| (from + at, slot))
            .filter(|(_, slot)| slot.is_free())
    }

    /// Slots whose bodies may be asked for and are not here, with their positions.
    pub(crate) fn wanted_slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        let from = self.wanted_from.min(self.open);
        let slots = self.slots.range(from..self.open).enumerate().map(move |(at, slot)| (from + at, slot));
        slots.filter(|(_, slot)| matches!(slot.body, Body::Wanted(_)))
    }

    /// The block that everything behind it waits for.
    pub(crate) fn front_wanted(&self) -> Option<(usize, &Slot)> {
        self.wanted_slots().next()
    }

    /// Locator part, newest first.
    pub(crate) fn locator(&self) -> Vec<BlockId> {
        locator::sparse(self.slots.len()).map(|at| self.slots[at].header.id()).collect()
    }

    /// Appends a header whose parent is the last one's, or any if the window is empty.
    pub(crate) fn push(&mut self, header: Header, from: PeerId) {
        debug_assert!(self.slots.len() < HEADER_WINDOW_MAX);
        debug_assert!(
            self.last().is_none_or(|last| last.id == header.parent && last.height + 1 == header.height)
        );
        self.heights.insert(header.id(), header.height);
        self.slots.push_back(Slot { header, from, body: Body::Wanted(Vec::new()) });
        self.widen();
    }

    fn widen(&mut self) {
        while let Some(slot) = self.slots.get(self.open) {
            let bytes = self.open_bytes + slot.bytes();
            if self.open > 0 && (self.open == BODY_WINDOW_BLOCKS_MAX || bytes > BODY_WINDOW_BYTES_MAX) {
                break;
            }
            self.open_bytes = bytes;
            self.open += 1;
        }
    }

    /// Drops the slots from a position on.
    pub(crate) fn truncate(&mut self, at: usize) {
        while self.slots.len() > at {
            if let Some(slot) = self.slots.pop_back() {
                self.heights.remove(&slot.header.id());
                if self.slots.len() < self.open {
                    self.open = self.slots.len();
                    self.open_bytes -= slot.bytes();
                }
            }
        }
        self.free_from = self.free_from.min(at);
        self.unhanded_from = self.unhanded_from.min(at);
        self.wanted_from = self.wanted_from.min(at);
    }

    fn pass_unwanted(&mut self) {
        while self.slots.get(self.wanted_from).is_some_and(|slot| !matches!(slot.body, Body::Wanted(_))) {
            self.wanted_from += 1;
        }
    }

    /// Adds a holder to a wanted slot.
    pub(crate) fn hold(&mut self, at: usize, request: RequestId) {
        if let Some(Slot { body: Body::Wanted(holders), .. }) = self.slots.get_mut(at) {
            debug_assert!(holders.len() < HOLDERS_MAX);
            holders.push(request);
        }
        while self.slots.get(self.free_from).is_some_and(|slot| !slot.is_free()) {
            self.free_from += 1;
        }
    }

    /// Takes a holder off a wanted slot.
    pub(crate) fn release(&mut self, id: &BlockId, request: RequestId) {
        let Some(at) = self.position(id) else { return };
        if let Body::Wanted(holders) = &mut self.slots[at].body {
            holders.retain(|holder| *holder != request);
            if holders.is_empty() {
                self.free_from = self.free_from.min(at);
            }
        }
    }

    /// Puts a body in its slot. Answers the requests that still ask for it, or `None` if it is not
    /// wanted.
    pub(crate) fn fill(&mut self, block: Arc<Block>, from: PeerId) -> Option<Vec<RequestId>> {
        let at = self.position(&block.header().id()).filter(|at| *at < self.open)?;
        let Body::Wanted(holders) = &mut self.slots[at].body else { return None };
        let holders = std::mem::take(holders);
        self.slots[at].body = Body::Received(block, from);
        self.pass_unwanted();
        Some(holders)
    }

    /// Takes the next body in order, if it is here.
    pub(crate) fn hand_over(&mut self) -> Option<(Arc<Block>, PeerId)> {
        let slot = self.slots.get_mut(self.unhanded_from)?;
        if !matches!(slot.body, Body::Received(..)) {
            return None;
        }
        let Body::Received(block, from) = std::mem::replace(&mut slot.body, Body::Handed) else {
            return None;
        };
        self.unhanded_from += 1;
        Some((block, from))
    }

    /// The next block in order has gone to import by another way.
    pub(crate) fn handed_elsewhere(&mut self, id: &BlockId) {
        if let Some(at) = self.position(id).filter(|at| *at == self.unhanded_from) {
            self.slots[at].body = Body::Handed;
            self.unhanded_from += 1;
            self.pass_unwanted();
        }
    }

    /// Marks a block as imported, by whatever way it came, and moves the window on. True if it was a
    /// slot.
    pub(crate) fn imported(&mut self, id: &BlockId) -> bool {
        let Some(at) = self.position(id) else { return false };
        self.slots[at].body = Body::Imported;
        while let Some(Slot { body: Body::Imported, .. }) = self.slots.front() {
            let Some(slot) = self.slots.pop_front() else { break };
            self.heights.remove(&slot.header.id());
            if self.open > 0 {
                self.open -= 1;
                self.open_bytes -= slot.bytes();
            }
            self.free_from = self.free_from.saturating_sub(1);
            self.unhanded_from = self.unhanded_from.saturating_sub(1);
            self.wanted_from = self.wanted_from.saturating_sub(1);
        }
        self.pass_unwanted();
        while self
            .slots
            .get(self.unhanded_from)
            .is_some_and(|s| matches!(s.body, Body::Handed | Body::Imported))
        {
            self.unhanded_from += 1;
        }
        self.widen();
        true
    }
}

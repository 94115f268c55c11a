//! The side that asks: gets symbols, decodes, stops.

use std::collections::HashSet;

use ghost_frames::reconcile::{Inventory, InventoryRequest, Symbols, SymbolsRequest};
use ghost_proto::{TxId, limits::SKETCH_IDS_MAX};

use super::{
    Ask, COUNTED_SYMBOLS, Decoder, INVENTORY_FRACTION, SYMBOLS_MAX, SketchId, Snapshot, estimate,
    symbol::Symbol, symbols_max,
};

/// What two sets differ in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// What they have and we lack, ascending.
    pub theirs: Vec<SketchId>,
    /// What we have and they lack.
    pub ours: Vec<TxId>,
}

impl Difference {
    /// How many.
    pub fn len(&self) -> usize {
        self.theirs.len() + self.ours.len()
    }

    /// True if the sets are equal.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a session came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What came was not what was asked for, or contradicts itself. The peer is at fault.
    #[error("the answer contradicts itself")]
    Contradiction,
    /// The answer ended too early: the peer gave up. Try later.
    #[error("the answer ended too early")]
    Short,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Go on reading the answer.
    Wait,
    /// The answer is done with; send this.
    Ask(Ask),
    /// The members of the snapshot are needed: give them to [`Requester::snapshot_mut`], then call
    /// [`Requester::proceed`].
    NeedMembers,
    /// Done.
    Found(Difference),
    /// Give up.
    Failed(Failure),
}

enum Stage {
    /// Reading symbols up to this many.
    Symbols {
        until: usize,
    },
    Inventory {
        ids: HashSet<u64>,
    },
    /// Members are awaited to tell whose these ids are.
    Whose {
        ids: HashSet<u64>,
        listed: bool,
    },
    Over,
}

/// Gets symbols, decodes, stops.
pub struct Requester {
    nonce: u64,
    snapshot: Snapshot,
    decoder: Option<Decoder>,
    theirs: Option<usize>,
    /// Their symbols that wait for ours.
    waiting: Vec<Symbol>,
    counts: Vec<u16>,
    stage: Stage,
    /// Symbols received.
    symbols: usize,
    /// Symbols asked for.
    asked: usize,
    /// Requests for symbols.
    batches: usize,
    listed: bool,
}

impl Requester {
    /// A session about `snapshot`, and its first request.
    pub fn open(nonce: u64, snapshot: Snapshot) -> (Self, Ask) {
        let decoder = Some(Decoder::new(snapshot.keys()));
        let mut requester = Self {
            nonce,
            snapshot,
            decoder,
            theirs: None,
            waiting: Vec::new(),
            counts: Vec::new(),
            stage: Stage::Over,
            symbols: 0,
            asked: 0,
            batches: 0,
            listed: false,
        };
        let ask = requester.ask_symbols(COUNTED_SYMBOLS);
        (requester, ask)
    }

    /// For its position in the journal, and to give it its members.
    pub fn snapshot_mut(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// Of the session.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// True if the other side has sent all it was asked for; otherwise moving on cancels the rest.
    pub fn is_answered(&self) -> bool {
        self.symbols == self.asked
    }

    /// True if symbols did not do.
    pub fn was_listed(&self) -> bool {
        self.listed
    }

    /// Symbols received, and requests they came in.
    pub fn received(&self) -> (usize, usize) {
        (self.symbols, self.batches)
    }

    fn ask_symbols(&mut self, credit: usize) -> Ask {
        let first = self.symbols;
        self.stage = Stage::Symbols { until: first + credit };
        self.asked = first + credit;
        self.batches += 1;
        Ask::Symbols(SymbolsRequest {
            nonce: self.nonce,
            count: self.snapshot.len() as u32,
            first: first as u32,
            credit: credit as u32,
        })
    }

    fn ask_inventory(&mut self) -> Progress {
        self.decoder = None;
        self.listed = true;
        self.stage = Stage::Inventory { ids: HashSet::new() };
        Progress::Ask(Ask::Inventory(InventoryRequest { nonce: self.nonce }))
    }

    #[cfg(test)]
    pub(super) fn ask_inventory_for_tests(&mut self) -> Progress {
        self.ask_inventory()
    }

    fn fail(&mut self, failure: Failure) -> Progress {
        self.stage = Stage::Over;
        Progress::Failed(failure)
    }

    /// Symbols came.
    pub fn symbols(&mut self, frame: &Symbols) -> Progress {
        let Stage::Symbols { until } = self.stage else { return self.fail(Failure::Contradiction) };
        let theirs = *self.theirs.get_or_insert(frame.count as usize);
        let came = self.symbols + frame.symbols.len();
        if frame.first as usize != self.symbols || frame.count as usize != theirs || came > until {
            return self.fail(Failure::Contradiction);
        }
        for symbol in &frame.symbols {
            self.waiting.push(Symbol { sum: symbol.sum, check: symbol.check, count: symbol.count.into() });
        }
        self.symbols = came;
        self.proceed()
    }

    /// Goes on with what is here.
    pub fn proceed(&mut self) -> Progress {
        match &self.stage {
            Stage::Symbols { until } => {
                let until = *until;
                self.decode(until)
            }
            Stage::Whose { .. } => self.tell_apart(),
            Stage::Inventory { .. } | Stage::Over => Progress::Wait,
        }
    }

    fn decode(&mut self, until: usize) -> Progress {
        let first = self.symbols - self.waiting.len();
        let Some(own) = self.snapshot.symbols(first, self.symbols) else { return Progress::NeedMembers };
        let Some(decoder) = &mut self.decoder else { return self.fail(Failure::Contradiction) };
        for (theirs, ours) in self.waiting.iter_mut().zip(own) {
            if self.counts.len() < COUNTED_SYMBOLS {
                self.counts.push((theirs.count as u16).wrapping_sub(ours.count as u16));
            }
            theirs.toggle(ours.sum, ours.check);
        }
        match decoder.add(self.waiting.drain(..)) {
            Ok(true) => self.finish(),
            Ok(false) if self.symbols < until => Progress::Wait,
            Ok(false) => self.ask_more(),
            Err(_) => self.ask_inventory(),
        }
    }

    fn finish(&mut self) -> Progress {
        match self.decoder.take().map(Decoder::finish) {
            Some(Ok(ids)) => {
                self.stage = Stage::Whose { ids: ids.into_iter().collect(), listed: false };
                self.tell_apart()
            }
            _ => self.ask_inventory(),
        }
    }

    fn ask_more(&mut self) -> Progress {
        let theirs = self.theirs.unwrap_or(0);
        let max = symbols_max(theirs);
        let wanted = if self.batches == 1 {
            let difference = estimate(&self.counts, theirs, self.snapshot.len());
            if difference as f64 > INVENTORY_FRACTION * theirs as f64 && theirs > 2 * COUNTED_SYMBOLS {
                return self.ask_inventory();
            }
            // 1.38 symbols for each and an eighth more make a third request rare.
            let enough = (1.15 * 1.38 * difference as f64) as usize + 20;
            enough.saturating_sub(self.symbols).max(COUNTED_SYMBOLS / 4)
        } else {
            self.symbols.div_ceil(6)
        };
        let room = max.min(SYMBOLS_MAX).saturating_sub(self.symbols);
        if room == 0 { self.ask_inventory() } else { Progress::Ask(self.ask_symbols(wanted.min(room))) }
    }

    /// Part of the list came.
    pub fn inventory(&mut self, frame: &Inventory) -> Progress {
        let max = self.theirs.unwrap_or(0);
        let Stage::Inventory { ids } = &mut self.stage else { return self.fail(Failure::Contradiction) };
        ids.extend(frame.ids.iter().map(|id| id.0));
        // Memory: 16 B for each id of a list that is as long as the first answer said, or a frame longer.
        if ids.len() > max {
            return self.fail(Failure::Contradiction);
        }
        Progress::Wait
    }

    /// The answer ended.
    pub fn ended(&mut self) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Inventory { ids } if Some(ids.len()) == self.theirs => {
                self.stage = Stage::Whose { ids, listed: true };
                self.tell_apart()
            }
            Stage::Inventory { .. } | Stage::Symbols { .. } => Progress::Failed(Failure::Short),
            other => {
                self.stage = other;
                Progress::Wait
            }
        }
    }

    fn tell_apart(&mut self) -> Progress {
        let Stage::Whose { ids, listed } = &mut self.stage else { return Progress::Wait };
        let none = ids.is_empty() && !*listed;
        if !none && !self.snapshot.is_empty() && !self.snapshot.has_members() {
            return Progress::NeedMembers;
        }
        let mut ours = Vec::new();
        for (id, tx) in self.snapshot.members() {
            // In a list an id of ours is shared; in a decoded difference it is ours alone.
            if !none && ids.remove(&id) != *listed {
                ours.push(*tx);
            }
        }
        let mut theirs: Vec<SketchId> = ids.iter().map(|id| SketchId(*id)).collect();
        theirs.sort_unstable();
        let (listed, sizes) = (*listed, self.theirs.unwrap_or(0) + ours.len());
        self.stage = Stage::Over;
        if sizes != self.snapshot.len() + theirs.len() {
            // An id that came out is not in the difference after all, or two of ours share one.
            return if listed { self.fail(Failure::Contradiction) } else { self.ask_inventory() };
        }
        Progress::Found(Difference { theirs, ours })
    }
}

const _: () = assert!(SKETCH_IDS_MAX >= 1024);

//! Finding the ids in a difference of symbols.

use super::{
    SYMBOLS_MAX,
    keys::Keys,
    symbol::{Mapping, Symbol},
};

/// Why symbols are not those of a difference of two sets under these keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// More ids came out than symbols went in: without this bound, symbols made up for it could go round for
    /// ever.
    #[error("more ids than symbols")]
    TooManyIds,
    /// More symbols than a session may have.
    #[error("more than {SYMBOLS_MAX} symbols")]
    TooManySymbols,
    /// An id came out twice.
    #[error("an id came out twice")]
    Twice,
}

struct Found {
    id: u64,
    check: u32,
    /// Its next symbol, beyond those that are here.
    next: Mapping,
}

/// Takes symbols in order and finds what is in them. 16 B for each symbol and 32 for each id found: at
/// most 6 MiB at [`SYMBOLS_MAX`]. Each id is taken out of about 2 ln(symbols) symbols, once.
pub struct Decoder {
    keys: Keys,
    symbols: Vec<Symbol>,
    found: Vec<Found>,
    /// Indexes to look at.
    touched: Vec<u32>,
}

impl Decoder {
    /// Without symbols.
    pub fn new(keys: Keys) -> Self {
        Self { keys, symbols: Vec::new(), found: Vec::new(), touched: Vec::new() }
    }

    /// Symbols taken so far.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// True before the first symbol.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// Takes the next symbols of the difference: theirs and ours, each with the other's taken out. True if
    /// the difference is known then.
    ///
    /// # Errors
    /// [`Undecodable`]: the symbols are made up, or a check failed by chance (once in 2^32 symbols with several
    /// ids). List everything instead. The decoder is of no more use.
    pub fn add(&mut self, difference: impl IntoIterator<Item = Symbol>) -> Result<bool, Undecodable> {
        let before = self.symbols.len();
        self.symbols.extend(difference.into_iter().take(SYMBOLS_MAX + 1 - before));
        let end = self.symbols.len();
        if end > SYMBOLS_MAX {
            return Err(Undecodable::TooManySymbols);
        }
        for found in &mut self.found {
            while (found.next.index() as usize) < end {
                self.symbols[found.next.index() as usize].toggle(found.id, found.check);
                found.next.advance();
            }
        }
        self.touched.extend(before as u32..end as u32);
        while let Some(index) = self.touched.pop() {
            self.look_at(index)?;
        }
        Ok(self.is_complete())
    }

    /// Every id is in the first symbol, so that one is empty when all were found.
    fn is_complete(&self) -> bool {
        self.symbols.first().is_some_and(Symbol::is_empty)
    }

    /// If this symbol holds a single id, takes it out of all.
    fn look_at(&mut self, index: u32) -> Result<(), Undecodable> {
        let symbol = self.symbols[index as usize];
        let Symbol { sum: id, check, .. } = symbol;
        // That the id belongs to this index is up to 17 more bits of check, for nothing.
        if symbol.is_empty() || self.keys.check(id) != check || !Mapping::new(id).contains(index) {
            return Ok(());
        }
        if self.found.len() == self.symbols.len() {
            return Err(Undecodable::TooManyIds);
        }
        let mut next = Mapping::new(id);
        while let Some(symbol) = self.symbols.get_mut(next.index() as usize) {
            symbol.toggle(id, check);
            self.touched.push(next.index());
            next.advance();
        }
        self.found.push(Found { id, check, next });
        Ok(())
    }

    /// The ids in the difference, ascending.
    ///
    /// # Errors
    /// [`Undecodable::Twice`]: as for [`Self::add`].
    pub fn finish(self) -> Result<Vec<u64>, Undecodable> {
        let mut ids: Vec<u64> = self.found.iter().map(|found| found.id).collect();
        ids.sort_unstable();
        if ids.is_sorted_by(|a, b| a < b) { Ok(ids) } else { Err(Undecodable::Twice) }
    }
}

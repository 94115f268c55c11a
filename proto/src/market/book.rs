//! A book as its followers keep it: built from a snapshot and events, and checked by its hash.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{BOOK_ORDERS_MAX, ORDER_LOTS_MAX, OrderEvent, PRICE_TICKS_MAX, Side};
use crate::layout::{Cursor, LayoutError, VARINT_MAX, put_varint};

/// An order in a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestingOrder {
    /// Its number. Of two at one price, the smaller one comes first.
    pub order: u64,
    /// Its price.
    pub ticks: u64,
    /// Lots that rest.
    pub lots: u64,
}

/// All orders at one price, or of a group of prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookLevel {
    /// The price; of a group, the one that is worst for a taker.
    pub ticks: u64,
    /// Lots together.
    pub lots: u64,
    /// How many orders.
    pub orders: u32,
}

/// What a book does not say. Whoever keeps it starts anew from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The bytes are none of a book or an event.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An event names an order that is not there, or one that is there already, or other numbers than are there.
    #[error("an event about order {0} does not fit the book")]
    Misfit(u64),
    /// A bid at or above an ask.
    #[error("the book is crossed: bid {bid}, ask {ask}")]
    Crossed {
        /// Best bid.
        bid: u64,
        /// Best ask.
        ask: u64,
    },
    /// More orders than a book can have.
    #[error("more than {BOOK_ORDERS_MAX} orders")]
    TooMany,
}

/// The key that sorts a side best first.
fn rank(side: Side, ticks: u64, order: u64) -> (u64, u64) {
    match side {
        Side::Buy => (u64::MAX - ticks, order),
        Side::Sell => (ticks, order),
    }
}

type Ranked = BTreeMap<(u64, u64), u64>;

/// A book, order by order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderBook {
    bids: Ranked,
    asks: Ranked,
    places: HashMap<u64, (Side, u64)>,
    last_ticks: u64,
}

impl OrderBook {
    fn side(&self, side: Side) -> &Ranked {
        match side {
            Side::Buy => &self.bids,
            Side::Sell => &self.asks,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut Ranked {
        match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        }
    }

    /// How many orders rest.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True if none does.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Price of the newest trade; 0 before the first.
    pub fn last_ticks(&self) -> u64 {
        self.last_ticks
    }

    /// Adds an order.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn insert(&mut self, side: Side, order: RestingOrder) -> Result<(), BookError> {
        let RestingOrder { order, ticks, lots } = order;
        if self.places.len() >= BOOK_ORDERS_MAX {
            return Err(BookError::TooMany);
        }
        if self.places.insert(order, (side, ticks)).is_some() {
            return Err(BookError::Misfit(order));
        }
        self.side_mut(side).insert(rank(side, ticks, order), lots);
        Ok(())
    }

    /// Sets the price of the newest trade.
    pub fn set_last(&mut self, ticks: u64) {
        self.last_ticks = ticks;
    }

    /// Leaves `left` lots of an order; gives its side and price, and how many it had.
    fn leave(&mut self, order: u64, left: u64) -> Result<(Side, u64, u64), BookError> {
        let (side, ticks) = *self.places.get(&order).ok_or(BookError::Misfit(order))?;
        let ranked = self.side_mut(side);
        let key = rank(side, ticks, order);
        let lots = ranked.get_mut(&key).ok_or(BookError::Misfit(order))?;
        let had = *lots;
        if left >= had {
            return Err(BookError::Misfit(order));
        }
        *lots = left;
        if left == 0 {
            ranked.remove(&key);
            self.places.remove(&order);
        }
        Ok((side, ticks, had))
    }

    /// Lets something happen to the book.
    ///
    /// # Errors
    /// [`BookError::Misfit`]: it cannot have happened to this one.
    pub fn apply(&mut self, event: &OrderEvent) -> Result<(), BookError> {
        match *event {
            OrderEvent::Rested { order, side, ticks, lots } => {
                self.insert(side, RestingOrder { order, ticks, lots })
            }
            OrderEvent::Traded { maker, side, ticks, lots, left, .. } => {
                let (was, at, had) = self.leave(maker, left)?;
                self.last_ticks = ticks;
                if was == side || at != ticks || had != left + lots {
                    return Err(BookError::Misfit(maker));
                }
                Ok(())
            }
            OrderEvent::Removed { order, lots, .. } => {
                let (_, _, had) = self.leave(order, 0)?;
                if had == lots { Ok(()) } else { Err(BookError::Misfit(order)) }
            }
            OrderEvent::Reduced { order, left } => self.leave(order, left).map(|_| ()),
        }
    }

    /// The orders of a side, best first.
    pub fn orders(&self, side: Side) -> impl Iterator<Item = RestingOrder> + '_ {
        self.side(side).iter().map(move |((rank, order), lots)| {
            let ticks = if side == Side::Buy { u64::MAX - rank } else { *rank };
            RestingOrder { order: *order, ticks, lots: *lots }
        })
    }

    /// Where an order rests.
    pub fn order(&self, order: u64) -> Option<(Side, RestingOrder)> {
        let (side, ticks) = *self.places.get(&order)?;
        let lots = *self.side(side).get(&rank(side, ticks, order))?;
        Some((side, RestingOrder { order, ticks, lots }))
    }

    /// The best prices of a side, `levels` of them. `group` ticks count as one price: a bid's is rounded down, an ask's up.
    pub fn levels(&self, side: Side, levels: usize, group: u64) -> Vec<BookLevel> {
        let group = group.max(1);
        let mut out: Vec<BookLevel> = Vec::new();
        for order in self.orders(side) {
            let ticks = match side {
                Side::Buy => order.ticks / group * group,
                Side::Sell => order.ticks.div_ceil(group) * group,
            };
            let full = out.len() == levels;
            match out.last_mut() {
                Some(level) if level.ticks == ticks => {
                    level.lots += order.lots;
                    level.orders += 1;
                }
                _ if full => break,
                _ => out.push(BookLevel { ticks, lots: order.lots, orders: 1 }),
            }
        }
        out
    }

    /// The best price of a side, with all that is there.
    pub fn best(&self, side: Side) -> Option<BookLevel> {
        self.levels(side, 1, 1).first().copied()
    }

    /// That no bid is as high as an ask.
    ///
    /// # Errors
    /// [`BookError::Crossed`].
    pub fn check(&self) -> Result<(), BookError> {
        let best = |side| self.orders(side).next().map(|order| order.ticks);
        match (best(Side::Buy), best(Side::Sell)) {
            (Some(bid), Some(ask)) if bid >= ask => Err(BookError::Crossed { bid, ask }),
            _ => Ok(()),
        }
    }

    /// The snapshot: price of the newest trade, then for bids and for asks how many there are, and of each, best first,
    /// order, ticks and lots; all varints. One book has one encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16 + 16 * self.len());
        put_varint(&mut out, self.last_ticks);
        for side in [Side::Buy, Side::Sell] {
            put_varint(&mut out, self.side(side).len() as u64);
            for order in self.orders(side) {
                put_varint(&mut out, order.order);
                put_varint(&mut out, order.ticks);
                put_varint(&mut out, order.lots);
            }
        }
        out.into()
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn decode(bytes: Bytes) -> Result<Self, BookError> {
        let mut cursor = Cursor::new(bytes);
        let mut book =
            Self { last_ticks: cursor.varint("last price", 0, PRICE_TICKS_MAX)?, ..Self::default() };
        for side in [Side::Buy, Side::Sell] {
            let count = cursor.varint("orders", 0, BOOK_ORDERS_MAX as u64)?;
            for _ in 0..count {
                let order = cursor.varint("order", 1, VARINT_MAX)?;
                let ticks = cursor.varint("ticks", 1, PRICE_TICKS_MAX)?;
                let lots = cursor.varint("lots", 1, ORDER_LOTS_MAX)?;
                book.insert(side, RestingOrder { order, ticks, lots })?;
            }
        }
        cursor.finish()?;
        book.check()?;
        Ok(book)
    }

    /// BLAKE3 over the snapshot: two who agree on it have the same book.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key("ghost order book v1", &self.encode())
    }
}

/// The best prices of both sides, as a view keeps them.
///
/// ```text
/// snapshot   as a change from nothing
/// change     price of the newest trade, then for bids and for asks: count, then for each changed price
///            ticks, lots, orders; 0 lots take it out. All varints
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DepthView {
    bids: BTreeMap<u64, BookLevel>,
    asks: BTreeMap<u64, BookLevel>,
    last_ticks: u64,
}

/// What changed in a view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DepthChange {
    /// Changed prices of bids; those with 0 lots are gone.
    pub bids: Vec<BookLevel>,
    /// Of asks.
    pub asks: Vec<BookLevel>,
    /// Price of the newest trade.
    pub last_ticks: u64,
}

impl DepthChange {
    /// Its bytes; see [`DepthView`].
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_varint(&mut out, self.last_ticks);
        for levels in [&self.bids, &self.asks] {
            put_varint(&mut out, levels.len() as u64);
            for level in levels {
                put_varint(&mut out, level.ticks);
                put_varint(&mut out, level.lots);
                put_varint(&mut out, level.orders.into());
            }
        }
        out.into()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn decode(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let last_ticks = cursor.varint("last price", 0, PRICE_TICKS_MAX)?;
        let mut sides = [Vec::new(), Vec::new()];
        for side in &mut sides {
            let count = cursor.varint("levels", 0, 2 * DepthView::LEVELS_MAX as u64)?;
            for _ in 0..count {
                side.push(BookLevel {
                    ticks: cursor.varint("ticks", 0, 2 * PRICE_TICKS_MAX)?,
                    lots: cursor.varint("lots", 0, VARINT_MAX)?,
                    orders: cursor.varint("orders", 0, BOOK_ORDERS_MAX as u64)? as u32,
                });
            }
        }
        cursor.finish()?;
        let [bids, asks] = sides;
        Ok(Self { bids, asks, last_ticks })
    }
}

impl DepthView {
    /// Most prices of a side that a view may show.
    pub const LEVELS_MAX: usize = 1_000;

    /// What a view of a book shows.
    pub fn of(book: &OrderBook, levels: usize, group: u64) -> Self {
        let side =
            |side| book.levels(side, levels, group).into_iter().map(|level| (level.ticks, level)).collect();
        Self { bids: side(Side::Buy), asks: side(Side::Sell), last_ticks: book.last_ticks }
    }

    /// The prices of a side, best first.
    pub fn levels(&self, side: Side) -> Vec<BookLevel> {
        match side {
            Side::Buy => self.bids.values().rev().copied().collect(),
            Side::Sell => self.asks.values().copied().collect(),
        }
    }

    /// Price of the newest trade; 0 before the first.
    pub fn last_ticks(&self) -> u64 {
        self.last_ticks
    }

    /// What turns `self` into `next`.
    pub fn change_to(&self, next: &Self) -> DepthChange {
        let changed = |old: &BTreeMap<u64, BookLevel>, new: &BTreeMap<u64, BookLevel>| {
            let gone = old.keys().filter(|ticks| !new.contains_key(ticks));
            let mut out: Vec<_> = gone.map(|ticks| BookLevel { ticks: *ticks, lots: 0, orders: 0 }).collect();
            out.extend(new.values().filter(|level| old.get(&level.ticks) != Some(level)));
            out
        };
        DepthChange {
            bids: changed(&self.bids, &next.bids),
            asks: changed(&self.asks, &next.asks),
            last_ticks: next.last_ticks,
        }
    }

    /// Lets a change happen.
    pub fn apply(&mut self, change: &DepthChange) {
        for (side, levels) in [(&mut self.bids, &change.bids), (&mut self.asks, &change.asks)] {
            for level in levels {
                if level.lots == 0 {
                    side.remove(&level.ticks);
                } else {
                    side.insert(level.ticks, *level);
                }
            }
        }
        self.last_ticks = change.last_ticks;
    }

    /// BLAKE3 over what is shown.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key("ghost depth view v1", &Self::default().change_to(self).encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rested(order: u64, side: Side, ticks: u64, lots: u64) -> OrderEvent {
        OrderEvent::Rested { order, side, ticks, lots }
    }

    fn book(events: &[OrderEvent]) -> OrderBook {
        let mut book = OrderBook::default();
        events.iter().for_each(|event| book.apply(event).unwrap());
        book
    }

    #[test]
    fn best_first_and_of_one_price_the_older_first() {
        let book = book(&[
            rested(1, Side::Buy, 99, 5),
            rested(2, Side::Buy, 100, 1),
            rested(3, Side::Buy, 100, 2),
            rested(4, Side::Sell, 102, 7),
            rested(5, Side::Sell, 101, 3),
        ]);
        let numbers = |side| book.orders(side).map(|order| order.order).collect::<Vec<_>>();
        assert_eq!((numbers(Side::Buy), numbers(Side::Sell)), (vec![2, 3, 1], vec![5, 4]));
        assert_eq!(book.best(Side::Buy), Some(BookLevel { ticks: 100, lots: 3, orders: 2 }));
        let grouped =
            |side| book.levels(side, 9, 10).iter().map(|it| (it.ticks, it.lots)).collect::<Vec<_>>();
        assert_eq!((grouped(Side::Buy), grouped(Side::Sell)), (vec![(100, 3), (90, 5)], vec![(110, 10)]));
        assert_eq!(OrderBook::decode(book.encode()), Ok(book));
    }

    #[test]
    fn what_cannot_have_happened_is_refused() {
        let mut it = book(&[rested(1, Side::Sell, 100, 5)]);
        assert_eq!(it.apply(&rested(1, Side::Buy, 9, 1)), Err(BookError::Misfit(1)));
        let mut it = book(&[rested(1, Side::Sell, 100, 5)]);
        assert_eq!(it.apply(&OrderEvent::Reduced { order: 1, left: 5 }), Err(BookError::Misfit(1)));
        let mut it = book(&[rested(1, Side::Sell, 100, 5), rested(2, Side::Buy, 100, 5)]);
        assert!(it.check().is_err());
        let wrong = OrderEvent::Traded { maker: 1, taker: 9, side: Side::Buy, ticks: 100, lots: 2, left: 2 };
        assert_eq!(it.apply(&wrong), Err(BookError::Misfit(1)));
    }

    #[test]
    fn a_view_follows_by_changes() {
        let mut it = book(&[rested(1, Side::Sell, 100, 5), rested(2, Side::Sell, 101, 5)]);
        let mut view = DepthView::of(&it, 1, 1);
        it.apply(&OrderEvent::Traded { maker: 1, taker: 9, side: Side::Buy, ticks: 100, lots: 5, left: 0 })
            .unwrap();
        let next = DepthView::of(&it, 1, 1);
        let change = DepthChange::decode(view.change_to(&next).encode()).unwrap();
        assert_eq!(change.asks.len(), 2, "one price is gone, the next one moved up");
        view.apply(&change);
        assert_eq!((view.hash(), &view), (next.hash(), &next));
    }
}

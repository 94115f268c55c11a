//! The matching core.

use std::collections::VecDeque;

use ghost_proto::{
    Address,
    market::{BOOK_ORDERS_MAX, OrderKind, RestingOrder, Side},
};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::Refusal;

/// An order that rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resting {
    /// Whose it is.
    pub owner: Address,
    /// Its side.
    pub side: Side,
    /// Its price.
    pub ticks: u64,
    /// Lots that rest.
    pub lots: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    order: u64,
    lots: u64,
    owner: Address,
}

/// All orders at one price, oldest first.
type Level = VecDeque<Waiting>;

/// An order that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// Whose it is.
    pub owner: Address,
    /// Its side.
    pub side: Side,
    /// What becomes of what does not trade at once.
    pub kind: OrderKind,
    /// Worst price.
    pub ticks: u64,
    /// How much.
    pub lots: u64,
}

/// A resting order that an incoming one meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Its number.
    pub maker: u64,
    /// Whose it is.
    pub owner: Address,
    /// Its price.
    pub ticks: u64,
    /// Lots that trade; of an order that is taken off, all it had.
    pub lots: u64,
    /// Lots that rest on.
    pub left: u64,
    /// It belongs to the same account: nothing trades, it is taken off.
    pub own: bool,
}

/// What an incoming order would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub matches: Vec<Match>,
    /// Lots that trade.
    pub filled: u64,
    /// Lots that rest then.
    pub rests: u64,
}

/// A book. Cheap to clone: what two clones share is copied when one of them changes, level by level.
#[derive(Debug, Clone)]
pub struct Book {
    bids: RedBlackTreeMapSync<u64, Level>,
    asks: RedBlackTreeMapSync<u64, Level>,
    places: HashTrieMapSync<u64, (Side, u64)>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            bids: RedBlackTreeMapSync::new_sync(),
            asks: RedBlackTreeMapSync::new_sync(),
            places: HashTrieMapSync::new_sync(),
        }
    }
}

impl Book {
    fn side(&self, side: Side) -> &RedBlackTreeMapSync<u64, Level> {
        match side {
            Side::Buy => &self.bids,
            Side::Sell => &self.asks,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut RedBlackTreeMapSync<u64, Level> {
        match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        }
    }

    /// How many orders rest.
    pub fn len(&self) -> usize {
        self.places.size()
    }

    /// True if none does.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The levels of a side, best first.
    fn levels(&self, side: Side) -> Box<dyn Iterator<Item = (u64, &Level)> + '_> {
        match side {
            Side::Buy => Box::new(self.bids.iter().rev().map(|(ticks, level)| (*ticks, level))),
            Side::Sell => Box::new(self.asks.iter().map(|(ticks, level)| (*ticks, level))),
        }
    }

    /// The best price of a side.
    pub fn best(&self, side: Side) -> Option<u64> {
        match side {
            Side::Buy => self.bids.last().map(|(ticks, _)| *ticks),
            Side::Sell => self.asks.first().map(|(ticks, _)| *ticks),
        }
    }

    /// The orders of a side, best first.
    pub fn orders(&self, side: Side) -> impl Iterator<Item = RestingOrder> + '_ {
        self.levels(side).flat_map(|(ticks, level)| {
            level.iter().map(move |waiting| RestingOrder { order: waiting.order, ticks, lots: waiting.lots })
        })
    }

    /// An order by its number.
    pub fn get(&self, order: u64) -> Option<Resting> {
        let (side, ticks) = *self.places.get(&order)?;
        let level = self.side(side).get(&ticks)?;
        let at = level.binary_search_by_key(&order, |waiting| waiting.order).ok()?;
        let Waiting { owner, lots, .. } = level[at];
        Some(Resting { owner, side, ticks, lots })
    }

    /// The orders of one owner, by number. Looks through the whole book.
    pub fn of_owner(&self, owner: &Address) -> Vec<(u64, Resting)> {
        let mut out = Vec::new();
        for side in [Side::Buy, Side::Sell] {
            for (ticks, level) in self.levels(side) {
                let mine = level.iter().filter(|waiting| waiting.owner == *owner);
                out.extend(mine.map(|waiting| {
                    (waiting.order, Resting { owner: *owner, side, ticks, lots: waiting.lots })
                }));
            }
        }
        out.sort_unstable_by_key(|(order, _)| *order);
        out
    }

    /// What an order would do, meeting at most `matches_max` others. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal::WouldTrade`], [`Refusal::NotFilled`] or [`Refusal::BookFull`].
    pub fn plan(&self, incoming: &Incoming, matches_max: u32) -> Result<Plan, Refusal> {
        let Incoming { owner, side, kind, ticks, lots } = *incoming;
        let crosses = |price| side.crosses(ticks, price);
        let mut plan = Plan::default();
        if kind == OrderKind::PostOnly {
            if self.best(side.opposite()).is_some_and(crosses) {
                return Err(Refusal::WouldTrade);
            }
        } else if self.best(side.opposite()).is_some_and(crosses) {
            'levels: for (price, level) in
                self.levels(side.opposite()).take_while(|(price, _)| crosses(*price))
            {
                for waiting in level {
                    if plan.filled == lots || plan.matches.len() >= matches_max as usize {
                        break 'levels;
                    }
                    let own = waiting.owner == owner;
                    let met = if own { waiting.lots } else { waiting.lots.min(lots - plan.filled) };
                    plan.filled += if own { 0 } else { met };
                    plan.matches.push(Match {
                        maker: waiting.order,
                        owner: waiting.owner,
                        ticks: price,
                        lots: met,
                        left: waiting.lots - met,
                        own,
                    });
                }
            }
        }
        let over = lots - plan.filled;
        match kind {
            OrderKind::FillOrKill if over > 0 => return Err(Refusal::NotFilled),
            OrderKind::Limit | OrderKind::PostOnly if over > 0 => {
                let gone = plan.matches.iter().filter(|met| met.left == 0).count();
                // With its gas used up it could still cross.
                let crosses =
                    plan.matches.len() >= matches_max as usize && self.crosses_behind(incoming, gone);
                if !crosses {
                    if self.len() - gone >= BOOK_ORDERS_MAX {
                        return Err(Refusal::BookFull);
                    }
                    plan.rests = over;
                }
            }
            _ => {}
        }
        Ok(plan)
    }

    /// True if the order would still trade after the first `gone` orders of the other side.
    fn crosses_behind(&self, incoming: &Incoming, gone: usize) -> bool {
        let next = self.orders(incoming.side.opposite()).nth(gone);
        next.is_some_and(|order| incoming.side.crosses(incoming.ticks, order.ticks))
    }

    /// Does what was planned for an order of `side`.
    pub fn take(&mut self, side: Side, plan: &Plan) {
        for met in &plan.matches {
            let levels = self.side_mut(side.opposite());
            let mut empty = false;
            if let Some(level) = levels.get_mut(&met.ticks) {
                if met.left == 0 {
                    level.pop_front();
                } else if let Some(first) = level.front_mut() {
                    first.lots = met.left;
                }
                empty = level.is_empty();
            }
            if empty {
                levels.remove_mut(&met.ticks);
            }
            if met.left == 0 {
                self.places.remove_mut(&met.maker);
            }
        }
    }

    /// Puts an order behind all of its price. Its number has to be the highest so far.
    pub fn rest(&mut self, order: u64, resting: &Resting) {
        let Resting { owner, side, ticks, lots } = *resting;
        let waiting = Waiting { order, lots, owner };
        let levels = self.side_mut(side);
        match levels.get_mut(&ticks) {
            Some(level) => level.push_back(waiting),
            None => levels.insert_mut(ticks, VecDeque::from([waiting])),
        }
        self.places.insert_mut(order, (side, ticks));
    }

    /// Leaves `left` lots of an order that is there; none takes it off.
    pub fn leave(&mut self, order: u64, left: u64) {
        let Some(&(side, ticks)) = self.places.get(&order) else { return };
        let levels = self.side_mut(side);
        let Some(level) = levels.get_mut(&ticks) else { return };
        let Ok(at) = level.binary_search_by_key(&order, |waiting| waiting.order) else { return };
        if left > 0 {
            level[at].lots = left;
            return;
        }
        level.remove(at);
        if level.is_empty() {
            levels.remove_mut(&ticks);
        }
        self.places.remove_mut(&order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Address = Address([1; 20]);
    const YOU: Address = Address([2; 20]);

    fn book(orders: &[(u64, Address, Side, u64, u64)]) -> Book {
        let mut book = Book::default();
        for (order, owner, side, ticks, lots) in orders {
            book.rest(*order, &Resting { owner: *owner, side: *side, ticks: *ticks, lots: *lots });
        }
        book
    }

    fn incoming(side: Side, kind: OrderKind, ticks: u64, lots: u64) -> Incoming {
        Incoming { owner: ME, side, kind, ticks, lots }
    }

    fn asks() -> Book {
        book(&[
            (1, YOU, Side::Sell, 101, 5),
            (2, YOU, Side::Sell, 100, 3),
            (3, YOU, Side::Sell, 100, 4),
            (4, YOU, Side::Buy, 90, 1),
        ])
    }

    fn met(plan: &Plan) -> Vec<(u64, u64, u64)> {
        plan.matches.iter().map(|met| (met.maker, met.lots, met.left)).collect()
    }

    #[test]
    fn the_best_price_comes_first_and_of_one_price_the_oldest() {
        let mut book = asks();
        let order = incoming(Side::Buy, OrderKind::Limit, 101, 9);
        let plan = book.plan(&order, 100).unwrap();
        assert_eq!(met(&plan), [(2, 3, 0), (3, 4, 0), (1, 2, 3)]);
        assert_eq!((plan.filled, plan.rests), (9, 0));
        book.take(Side::Buy, &plan);
        assert_eq!(book.orders(Side::Sell).map(|it| (it.order, it.lots)).collect::<Vec<_>>(), [(1, 3)]);
        assert_eq!((book.len(), book.get(2)), (2, None));
    }

    #[test]
    fn each_kind_does_its_own_with_what_is_over() {
        let book = asks();
        let plan = |kind, lots| book.plan(&incoming(Side::Buy, kind, 100, lots), 100);
        assert_eq!(plan(OrderKind::Limit, 10).map(|it| (it.filled, it.rests)), Ok((7, 3)));
        assert_eq!(plan(OrderKind::ImmediateOrCancel, 10).map(|it| (it.filled, it.rests)), Ok((7, 0)));
        assert_eq!(plan(OrderKind::FillOrKill, 8), Err(Refusal::NotFilled));
        assert_eq!(plan(OrderKind::FillOrKill, 7).map(|it| it.filled), Ok(7));
        assert_eq!(plan(OrderKind::PostOnly, 1), Err(Refusal::WouldTrade));
        let below = book.plan(&incoming(Side::Buy, OrderKind::PostOnly, 99, 1), 100);
        assert_eq!(below.map(|it| (it.filled, it.rests)), Ok((0, 1)));
    }

    #[test]
    fn ones_own_order_is_taken_off_and_not_traded_with() {
        let book = book(&[(1, ME, Side::Sell, 100, 5), (2, YOU, Side::Sell, 100, 5)]);
        let plan = book.plan(&incoming(Side::Buy, OrderKind::Limit, 100, 5), 100).unwrap();
        assert_eq!(met(&plan), [(1, 5, 0), (2, 5, 0)]);
        assert_eq!((plan.matches[0].own, plan.filled, plan.rests), (true, 5, 0));
    }

    #[test]
    fn an_order_that_meets_its_bound_does_not_rest_across_the_others() {
        let book = asks();
        let plan = |most| book.plan(&incoming(Side::Buy, OrderKind::Limit, 100, 10), most).unwrap();
        assert_eq!((plan(1).filled, plan(1).rests), (3, 0));
        assert_eq!((plan(2).filled, plan(2).rests), (7, 3), "nothing of that price is left to cross");
    }

    #[test]
    fn a_clone_does_not_see_what_happens_to_the_other() {
        let before = asks();
        let mut after = before.clone();
        after.leave(3, 0);
        after.leave(2, 1);
        assert_eq!(before.get(3).map(|it| it.lots), Some(4));
        assert_eq!((after.get(3), after.get(2).map(|it| it.lots)), (None, Some(1)));
    }

    #[test]
    fn a_full_book_takes_no_more() {
        let mut book = Book::default();
        for order in 1..=BOOK_ORDERS_MAX as u64 {
            let resting = Resting { owner: YOU, side: Side::Sell, ticks: 100 + order % 7, lots: 1 };
            assert!(book.plan(&incoming(Side::Buy, OrderKind::Limit, 9, 1), 9).is_ok());
            book.rest(order, &resting);
        }
        let more = |ticks, lots| book.plan(&incoming(Side::Buy, OrderKind::Limit, ticks, lots), 9);
        assert_eq!(more(9, 1), Err(Refusal::BookFull));
        assert!(more(100, 1).is_ok(), "who takes one off leaves room");
    }
}

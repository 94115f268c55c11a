//! One market: what orders do to its book and to balances.

use std::sync::Arc;

use bytes::Bytes;
use ghost_proto::{
    Address, FeedPosition,
    market::{Market, OrderBook, OrderEvent, OrderKind, Removal, Side, encode_events},
};

use super::book::{Book, Incoming, Plan, Resting};
use crate::store::StoreError;

/// What an account has of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// Units it can use.
    pub free: u128,
    /// Units in its open orders.
    pub locked: u128,
}

/// Where balances are kept.
pub trait Accounts {
    /// The balance of an account.
    ///
    /// # Errors
    /// [`StoreError`].
    fn balance(&mut self, asset: u16, owner: &Address) -> Result<Balance, StoreError>;

    /// Sets it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_balance(&mut self, asset: u16, owner: &Address, balance: Balance) -> Result<(), StoreError>;
}

/// Why an order does nothing. Its gas is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such market.
    #[error("there is no market {0}")]
    NoMarket(u32),
    /// A post-only order that would trade.
    #[error("a post-only order would trade at once")]
    WouldTrade,
    /// A fill-or-kill order that would not fill.
    #[error("the book does not fill the order at once")]
    NotFilled,
    /// The book is full.
    #[error("the book has as many orders as it can have")]
    BookFull,
    /// No order of this number rests.
    #[error("order {0} does not rest in this book")]
    UnknownOrder(u64),
    /// It is somebody else's.
    #[error("order {0} belongs to another account")]
    NotOwner(u64),
    /// An order can only be made smaller.
    #[error("order {0} has no more lots than should stay")]
    NotSmaller(u64),
}

/// Why an order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// By the rules of the market.
    Refused(Refusal),
    /// Its owner has not what it takes.
    InsufficientBalance,
    /// The state is not what it should be.
    Store(StoreError),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What an account wants of a market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A new order.
    Place {
        /// What to do.
        side: Side,
        /// What becomes of what does not trade.
        kind: OrderKind,
        /// Worst price.
        ticks: u64,
        /// How much.
        lots: u64,
    },
    /// Fewer lots, or none.
    Cancel {
        /// Which order.
        order: u64,
        /// Lots that stay.
        leave: u64,
    },
    /// Another order in place of one.
    Replace {
        /// Which one goes.
        order: u64,
        /// Worst price of the new one.
        ticks: u64,
        /// Its size.
        lots: u64,
    },
}

/// An order and all it will do, if its owner can pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    owner: Address,
    /// An order that goes, or gets smaller: what it was, and the lots that stay.
    old: Option<(u64, Resting, u64)>,
    new: Option<(Incoming, Plan)>,
}

impl Prepared {
    /// Resting orders that it meets.
    pub fn matches(&self) -> u32 {
        self.new.as_ref().map_or(0, |(_, plan)| plan.matches.len() as u32)
    }
}

/// What an order did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its number; of a cancelled one, its own.
    pub order: u64,
    /// Lots that traded.
    pub filled: u64,
    /// Lots that rest now.
    pub rests: u64,
    /// What happened to the book, in order.
    pub events: Vec<OrderEvent>,
    /// The same as an entry of the feed.
    pub entry: Bytes,
    /// Numbers of all orders that are not as they were.
    pub touched: Vec<u64>,
}

/// What has happened in a market so far.
///
/// ```text
///  0   8  next order   number of the next order, from 1
///  8  40  position     of its feed
/// 48   8  last         price of the newest trade in ticks, 0 before it
/// 56   8  trades
/// 64   8  placed       orders that traded or rested
/// 72  16  volume       lots
/// 88  16  volume       quote units
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarketRecord {
    /// Number of the next order.
    pub next_order: u64,
    /// Where its feed stands.
    pub position: FeedPosition,
    /// Price of the newest trade, 0 before it.
    pub last_ticks: u64,
    /// How many there were.
    pub trades: u64,
    /// Orders that traded or rested.
    pub placed: u64,
    /// Traded lots.
    pub volume_lots: u128,
    /// Traded quote units.
    pub volume_quote: u128,
}

impl MarketRecord {
    /// Of a market where nothing has happened.
    pub fn new(origin: FeedPosition) -> Self {
        Self {
            next_order: 1,
            position: origin,
            last_ticks: 0,
            trades: 0,
            placed: 0,
            volume_lots: 0,
            volume_quote: 0,
        }
    }

    /// The state value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(104);
        out.extend_from_slice(&self.next_order.to_be_bytes());
        self.position.encode(&mut out);
        for number in [self.last_ticks, self.trades, self.placed] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for volume in [self.volume_lots, self.volume_quote] {
            out.extend_from_slice(&volume.to_be_bytes());
        }
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let read = || {
            let mut cursor = ghost_proto::layout::Cursor::new(Bytes::copy_from_slice(value));
            let record = Self {
                next_order: cursor.u64("next order")?,
                position: FeedPosition::read(&mut cursor)?,
                last_ticks: cursor.u64("last")?,
                trades: cursor.u64("trades")?,
                placed: cursor.u64("placed")?,
                volume_lots: cursor.u128("volume")?,
                volume_quote: cursor.u128("volume")?,
            };
            cursor.finish()?;
            Ok::<_, ghost_proto::layout::LayoutError>(record)
        };
        read().map_err(|error| StoreError::damaged(format!("the record of a market: {error}")))
    }
}

/// Balances as an order will leave them.
struct Ledger<'a, A> {
    accounts: &'a mut A,
    /// At most two for each match and two more: looked through in turn.
    changed: Vec<(u16, Address, Balance)>,
}

impl<A: Accounts> Ledger<'_, A> {
    fn of(&mut self, asset: u16, owner: &Address) -> Result<&mut Balance, StoreError> {
        let at = self.changed.iter().position(|(a, o, _)| (*a, o) == (asset, owner));
        let at = match at {
            Some(at) => at,
            None => {
                let balance = self.accounts.balance(asset, owner)?;
                self.changed.push((asset, *owner, balance));
                self.changed.len() - 1
            }
        };
        Ok(&mut self.changed[at].2)
    }

    /// Takes what the account has to have: the caller's own.
    fn pay(&mut self, asset: u16, owner: &Address, units: u128) -> Result<(), Failed> {
        let balance = self.of(asset, owner)?;
        balance.free = balance.free.checked_sub(units).ok_or(Failed::InsufficientBalance)?;
        Ok(())
    }

    fn receive(&mut self, asset: u16, owner: &Address, units: u128) -> Result<(), Failed> {
        let balance = self.of(asset, owner)?;
        balance.free = balance.free.checked_add(units).ok_or_else(|| unsound("a balance"))?;
        Ok(())
    }

    fn lock(&mut self, asset: u16, owner: &Address, units: u128) -> Result<(), Failed> {
        self.pay(asset, owner, units)?;
        let balance = self.of(asset, owner)?;
        balance.locked = balance.locked.checked_add(units).ok_or_else(|| unsound("a lock"))?;
        Ok(())
    }

    /// Takes units out of a lock and gives back `back` of them.
    fn unlock(&mut self, asset: u16, owner: &Address, units: u128, back: u128) -> Result<(), Failed> {
        let balance = self.of(asset, owner)?;
        balance.locked = balance.locked.checked_sub(units).ok_or_else(|| unsound("a lock"))?;
        balance.free = balance.free.checked_add(back).ok_or_else(|| unsound("a balance"))?;
        Ok(())
    }

    fn write(self) -> Result<(), StoreError> {
        let Self { accounts, changed } = self;
        changed
            .into_iter()
            .try_for_each(|(asset, owner, balance)| accounts.set_balance(asset, &owner, balance))
    }
}

/// Supply fits 128 bits and locks cover their orders: if not, the state is not one that this code made.
fn unsound(what: &str) -> StoreError {
    StoreError::damaged(format!("{what} does not cover the orders of its account"))
}

/// A market after some orders. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MarketState {
    rules: Arc<Market>,
    epoch: u64,
    pub(super) book: Book,
    pub(super) record: MarketRecord,
}

impl MarketState {
    /// A market where nothing has happened.
    pub fn new(rules: Market, epoch: u64, origin: FeedPosition) -> Self {
        Self { rules: Arc::new(rules), epoch, book: Book::default(), record: MarketRecord::new(origin) }
    }

    /// Its rules.
    pub fn rules(&self) -> &Market {
        &self.rules
    }

    /// Its book.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// What has happened.
    pub fn record(&self) -> &MarketRecord {
        &self.record
    }

    /// The book as followers keep it.
    pub fn order_book(&self) -> OrderBook {
        let mut book = OrderBook::default();
        for side in [Side::Buy, Side::Sell] {
            for order in self.book.orders(side) {
                // A book has each number once, and no more orders than it may.
                let _ = book.insert(side, order);
            }
        }
        book.set_last(self.record.last_ticks);
        book
    }

    /// Quote units that lots cost: below 2^120.
    fn cost(&self, ticks: u64, lots: u64) -> u128 {
        u128::from(ticks) * u128::from(lots) * u128::from(self.rules.tick)
    }

    fn fee(cost: u128, ppm: u32) -> u128 {
        // A cost is below 2^120: split, so that the product fits.
        let ppm = u128::from(ppm);
        cost / 1_000_000 * ppm + cost % 1_000_000 * ppm / 1_000_000
    }

    fn base(&self, lots: u64) -> u128 {
        u128::from(lots) * u128::from(self.rules.lot)
    }

    /// What is locked for an order that rests: the asset and the units.
    fn lock_of(&self, side: Side, ticks: u64, lots: u64) -> (u16, u128) {
        match side {
            Side::Buy => {
                let cost = self.cost(ticks, lots);
                (self.rules.quote, cost + Self::fee(cost, self.rules.maker_fee_ppm))
            }
            Side::Sell => (self.rules.base, self.base(lots)),
        }
    }

    fn own(&self, owner: &Address, order: u64) -> Result<Resting, Refusal> {
        let resting = self.book.get(order).ok_or(Refusal::UnknownOrder(order))?;
        if resting.owner == *owner { Ok(resting) } else { Err(Refusal::NotOwner(order)) }
    }

    /// What a command will do, if its owner can pay. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn prepare(&self, owner: Address, command: &Command, matches_max: u32) -> Result<Prepared, Refusal> {
        let plan = |side, kind, ticks, lots| {
            let incoming = Incoming { owner, side, kind, ticks, lots };
            self.book.plan(&incoming, matches_max).map(|plan| Some((incoming, plan)))
        };
        match *command {
            Command::Place { side, kind, ticks, lots } => {
                Ok(Prepared { owner, old: None, new: plan(side, kind, ticks, lots)? })
            }
            Command::Cancel { order, leave } => {
                let resting = self.own(&owner, order)?;
                if leave >= resting.lots {
                    return Err(Refusal::NotSmaller(order));
                }
                Ok(Prepared { owner, old: Some((order, resting, leave)), new: None })
            }
            Command::Replace { order, ticks, lots } => {
                let resting = self.own(&owner, order)?;
                let new = match plan(resting.side, OrderKind::Limit, ticks, lots) {
                    // The one that goes leaves room.
                    Err(Refusal::BookFull) => {
                        let incoming =
                            Incoming { owner, side: resting.side, kind: OrderKind::Limit, ticks, lots };
                        Some((incoming, Plan { rests: lots, ..Plan::default() }))
                    }
                    other => other?,
                };
                Ok(Prepared { owner, old: Some((order, resting, 0)), new })
            }
        }
    }

    /// Does what was prepared on this very state. Fees go to `fees_to`. On an error nothing changed.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn settle(
        &mut self,
        prepared: &Prepared,
        accounts: &mut impl Accounts,
        fees_to: &Address,
    ) -> Result<Done, Failed> {
        let owner = prepared.owner;
        let mut ledger = Ledger { accounts, changed: Vec::with_capacity(8) };
        let mut record = self.record;
        let mut done = Done {
            order: prepared.old.map_or(0, |(order, ..)| order),
            filled: 0,
            rests: 0,
            events: Vec::new(),
            entry: Bytes::new(),
            touched: Vec::new(),
        };
        if let Some((order, was, leave)) = prepared.old {
            let (asset, before) = self.lock_of(was.side, was.ticks, was.lots);
            let (_, after) = self.lock_of(was.side, was.ticks, leave);
            ledger.unlock(asset, &owner, before - after, before - after)?;
            done.touched.push(order);
            done.rests = leave;
            done.events.push(if leave > 0 {
                OrderEvent::Reduced { order, left: leave }
            } else {
                let reason = if prepared.new.is_some() { Removal::Replaced } else { Removal::Cancelled };
                OrderEvent::Removed { order, lots: was.lots, reason }
            });
        }
        if let Some((incoming, plan)) = &prepared.new {
            let taker = record.next_order;
            record.next_order = taker.checked_add(1).ok_or_else(|| unsound("the number of orders"))?;
            done.order = taker;
            done.filled = plan.filled;
            done.rests = plan.rests;
            self.trade(&mut ledger, incoming, plan, taker, fees_to, &mut record, &mut done)?;
            if plan.rests > 0 {
                let (asset, units) = self.lock_of(incoming.side, incoming.ticks, plan.rests);
                ledger.lock(asset, &owner, units)?;
                done.touched.push(taker);
                let Incoming { side, ticks, .. } = *incoming;
                done.events.push(OrderEvent::Rested { order: taker, side, ticks, lots: plan.rests });
            }
            record.placed += u64::from(plan.rests > 0 || plan.filled > 0);
        }
        ledger.write()?;
        if let Some((order, _, leave)) = prepared.old {
            self.book.leave(order, leave);
        }
        if let Some((incoming, plan)) = &prepared.new {
            self.book.take(incoming.side, plan);
            if plan.rests > 0 {
                let Incoming { owner, side, ticks, .. } = *incoming;
                self.book.rest(done.order, &Resting { owner, side, ticks, lots: plan.rests });
            }
        }
        if !done.events.is_empty() {
            done.entry = encode_events(&done.events);
            record.position = record.position.after(self.epoch, &done.entry);
        }
        self.record = record;
        Ok(done)
    }

    #[allow(clippy::too_many_arguments)]
    fn trade(
        &self,
        ledger: &mut Ledger<'_, impl Accounts>,
        incoming: &Incoming,
        plan: &Plan,
        taker: u64,
        fees_to: &Address,
        record: &mut MarketRecord,
        done: &mut Done,
    ) -> Result<(), Failed> {
        let Market { base, quote, maker_fee_ppm, taker_fee_ppm, .. } = *self.rules;
        let Incoming { owner, side, .. } = incoming;
        for met in &plan.matches {
            done.touched.push(met.maker);
            let (asset, before) = self.lock_of(side.opposite(), met.ticks, met.left + met.lots);
            let (_, after) = self.lock_of(side.opposite(), met.ticks, met.left);
            let unlocked = before - after;
            if met.own {
                ledger.unlock(asset, &met.owner, unlocked, unlocked)?;
                let reason = Removal::SelfTrade;
                done.events.push(OrderEvent::Removed { order: met.maker, lots: met.lots, reason });
                continue;
            }
            let cost = self.cost(met.ticks, met.lots);
            let units = self.base(met.lots);
            let maker_fee = Self::fee(cost, maker_fee_ppm);
            let taker_fee = Self::fee(cost, taker_fee_ppm);
            match side {
                Side::Buy => {
                    ledger.pay(quote, owner, cost + taker_fee)?;
                    ledger.unlock(base, &met.owner, unlocked, 0)?;
                    ledger.receive(quote, &met.owner, cost - maker_fee)?;
                    ledger.receive(base, owner, units)?;
                }
                Side::Sell => {
                    ledger.pay(base, owner, units)?;
                    // What rounding left over of the fee goes back.
                    ledger.unlock(quote, &met.owner, unlocked, unlocked - cost - maker_fee)?;
                    ledger.receive(base, &met.owner, units)?;
                    ledger.receive(quote, owner, cost - taker_fee)?;
                }
            }
            ledger.receive(quote, fees_to, maker_fee + taker_fee)?;
            record.last_ticks = met.ticks;
            record.trades += 1;
            record.volume_lots = record.volume_lots.saturating_add(met.lots.into());
            record.volume_quote = record.volume_quote.saturating_add(cost);
            done.events.push(OrderEvent::Traded {
                maker: met.maker,
                taker,
                side: *side,
                ticks: met.ticks,
                lots: met.lots,
                left: met.left,
            });
        }
        Ok(())
    }
}

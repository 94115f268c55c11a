//! The market against a naive model: a list of orders, looked through from end to end.

use std::collections::{BTreeMap, HashMap};

use ghost_proto::{
    Address, FeedPosition,
    market::{Market, OrderBook, OrderKind, Side, decode_events},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::*;
use crate::store::StoreError;

const BASE: u16 = 0;
const QUOTE: u16 = 1;
const FEES: Address = Address([0xfe; 20]);
const TRADERS: u8 = 5;
const RICH: u128 = 3_000_000;

fn rules() -> Market {
    Market { base: BASE, quote: QUOTE, lot: 7, tick: 3, maker_fee_ppm: 700, taker_fee_ppm: 1_900 }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Purses(BTreeMap<(u16, Address), Balance>);

impl Accounts for Purses {
    fn balance(&mut self, asset: u16, owner: &Address) -> Result<Balance, StoreError> {
        Ok(self.0.get(&(asset, *owner)).copied().unwrap_or_default())
    }

    fn set_balance(&mut self, asset: u16, owner: &Address, balance: Balance) -> Result<(), StoreError> {
        self.0.insert((asset, *owner), balance);
        Ok(())
    }
}

fn trader(n: u8) -> Address {
    Address([n + 1; 20])
}

fn purses() -> Purses {
    let all = (0..TRADERS)
        .flat_map(|n| [BASE, QUOTE].map(|asset| ((asset, trader(n)), Balance { free: RICH, locked: 0 })));
    Purses(all.collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Naive {
    id: u64,
    owner: Address,
    side: Side,
    ticks: u64,
    lots: u64,
}

/// What the rules say, as slowly and plainly as can be. Balances are free units only: what is locked is
/// computed anew from the orders.
#[derive(Debug, Clone)]
struct Model {
    orders: Vec<Naive>,
    free: HashMap<(u16, Address), i128>,
    next: u64,
}

fn fee(cost: u128, ppm: u32) -> u128 {
    cost * u128::from(ppm) / 1_000_000
}

fn locked(order: &Naive) -> (u16, u128) {
    let rules = rules();
    match order.side {
        Side::Buy => {
            let cost = u128::from(order.ticks) * u128::from(order.lots) * u128::from(rules.tick);
            (QUOTE, cost + fee(cost, rules.maker_fee_ppm))
        }
        Side::Sell => (BASE, u128::from(order.lots) * u128::from(rules.lot)),
    }
}

impl Model {
    fn new() -> Self {
        let free = purses().0.into_iter().map(|(key, balance)| (key, balance.free as i128)).collect();
        Self { orders: Vec::new(), free, next: 1 }
    }

    fn add(&mut self, asset: u16, owner: Address, units: i128) {
        *self.free.entry((asset, owner)).or_default() += units;
    }

    fn best(&self, side: Side) -> Option<usize> {
        let key = |order: &Naive| match side {
            Side::Buy => (u64::MAX - order.ticks, order.id),
            Side::Sell => (order.ticks, order.id),
        };
        let all = self.orders.iter().enumerate().filter(|(_, order)| order.side == side);
        all.min_by_key(|(_, order)| key(order)).map(|(at, _)| at)
    }

    fn locked(&self, asset: u16, owner: &Address) -> u128 {
        let all = self.orders.iter().filter(|order| order.owner == *owner).map(locked);
        all.filter(|(of, _)| *of == asset).map(|(_, units)| units).sum()
    }

    /// Gives false, and is then to be thrown away, if the command does nothing.
    fn run(&mut self, owner: Address, command: Command, most: u32) -> bool {
        match command {
            Command::Cancel { order, leave } => {
                let Some(at) = self.orders.iter().position(|it| it.id == order) else { return false };
                let was = self.orders[at];
                if was.owner != owner || leave >= was.lots {
                    return false;
                }
                let (asset, before) = locked(&was);
                self.orders[at].lots = leave;
                let (_, after) = locked(&self.orders[at]);
                self.add(asset, owner, (before - after) as i128);
                if leave == 0 {
                    self.orders.remove(at);
                }
                true
            }
            Command::Replace { order, ticks, lots } => {
                let Some(was) = self.orders.iter().find(|it| it.id == order).copied() else { return false };
                let gone = self.run(owner, Command::Cancel { order, leave: 0 }, most);
                gone && self.run(
                    owner,
                    Command::Place { side: was.side, kind: OrderKind::Limit, ticks, lots },
                    most,
                )
            }
            Command::Place { side, kind, ticks, lots } => self.place(owner, side, kind, ticks, lots, most),
        }
    }

    fn place(
        &mut self,
        owner: Address,
        side: Side,
        kind: OrderKind,
        ticks: u64,
        lots: u64,
        most: u32,
    ) -> bool {
        let rules = rules();
        let id = self.next;
        self.next += 1;
        let (mut left, mut met) = (lots, 0);
        let crosses = |model: &Self| {
            let at = model.best(side.opposite())?;
            let price = model.orders[at].ticks;
            let does = if side == Side::Buy { price <= ticks } else { price >= ticks };
            does.then_some(at)
        };
        if kind == OrderKind::PostOnly && crosses(self).is_some() {
            return false;
        }
        while left > 0 && met < most {
            let Some(at) = crosses(self) else { break };
            met += 1;
            let maker = self.orders[at];
            let (asset, before) = locked(&maker);
            if maker.owner == owner {
                self.orders.remove(at);
                self.add(asset, owner, before as i128);
                continue;
            }
            let now = left.min(maker.lots);
            left -= now;
            self.orders[at].lots -= now;
            let (_, after) = locked(&self.orders[at]);
            if self.orders[at].lots == 0 {
                self.orders.remove(at);
            }
            let cost = u128::from(maker.ticks) * u128::from(now) * u128::from(rules.tick);
            let units = (u128::from(now) * u128::from(rules.lot)) as i128;
            let (maker_fee, taker_fee) = (fee(cost, rules.maker_fee_ppm), fee(cost, rules.taker_fee_ppm));
            self.add(asset, maker.owner, (before - after) as i128);
            let (buyer, seller, buyer_fee, seller_fee) = match side {
                Side::Buy => (owner, maker.owner, taker_fee, maker_fee),
                Side::Sell => (maker.owner, owner, maker_fee, taker_fee),
            };
            self.add(QUOTE, buyer, -((cost + buyer_fee) as i128));
            self.add(BASE, buyer, units);
            self.add(QUOTE, seller, (cost - seller_fee) as i128);
            self.add(BASE, seller, -units);
            self.add(QUOTE, FEES, (buyer_fee + seller_fee) as i128);
            // What comes in later does not pay for what goes out now.
            if [BASE, QUOTE].iter().any(|asset| self.free[&(*asset, owner)] < 0) {
                return false;
            }
        }
        if kind == OrderKind::FillOrKill && left > 0 {
            return false;
        }
        if left > 0 && matches!(kind, OrderKind::Limit | OrderKind::PostOnly) && crosses(self).is_none() {
            let order = Naive { id, owner, side, ticks, lots: left };
            let (asset, units) = locked(&order);
            self.add(asset, owner, -(units as i128));
            self.orders.push(order);
            if self.free[&(asset, owner)] < 0 {
                return false;
            }
        }
        true
    }

    fn sorted(&self, side: Side) -> Vec<(u64, u64, u64)> {
        let mut all: Vec<_> = self.orders.iter().filter(|order| order.side == side).collect();
        all.sort_by_key(|order| {
            (if side == Side::Buy { u64::MAX - order.ticks } else { order.ticks }, order.id)
        });
        all.into_iter().map(|order| (order.id, order.ticks, order.lots)).collect()
    }
}

fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    rng.next_u64() % bound
}

fn random_command(rng: &mut ChaCha8Rng, newest: u64) -> Command {
    let order = newest.saturating_sub(below(rng, 60)).max(1);
    let (ticks, lots) = (90 + below(rng, 20), 1 + below(rng, 30));
    match below(rng, 10) {
        0 | 1 => Command::Cancel { order, leave: if below(rng, 2) == 0 { 0 } else { below(rng, 20) } },
        2 => Command::Replace { order, ticks, lots },
        _ => {
            let side = if below(rng, 2) == 0 { Side::Buy } else { Side::Sell };
            let kind = OrderKind::ALL[below(rng, 8).min(3) as usize % 4];
            let kind = if below(rng, 2) == 0 { OrderKind::Limit } else { kind };
            Command::Place { side, kind, ticks, lots }
        }
    }
}

/// Runs random commands on both, and compares everything after each.
fn compare(seed: u64, operations: usize) -> (u64, u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let origin = FeedPosition::origin(1, b"m");
    let mut market = MarketState::new(rules(), 1, origin);
    let mut accounts = purses();
    let mut model = Model::new();
    let mut follower = OrderBook::default();
    let supply = RICH * u128::from(TRADERS);
    let mut failed = 0;
    for step in 0..operations {
        let owner = trader(below(&mut rng, TRADERS.into()) as u8);
        let command = random_command(&mut rng, market.record().next_order);
        let most = if below(&mut rng, 4) == 0 { below(&mut rng, 4) as u32 } else { 256 };
        let before = (market.record().position, accounts.clone());
        let done = market
            .prepare(owner, &command, most)
            .map_err(Failed::from)
            .and_then(|prepared| market.settle(&prepared, &mut accounts, &FEES));
        let mut next = model.clone();
        let ran = next.run(owner, command, most);
        assert_eq!(done.is_ok(), ran, "seed {seed}, step {step}: {command:?} by {owner}: {done:?}");
        match done {
            Ok(done) => {
                model = next;
                for event in decode_events(&done.entry).unwrap() {
                    follower.apply(&event).unwrap();
                    follower.check().unwrap();
                }
                for side in [Side::Buy, Side::Sell] {
                    let book: Vec<_> =
                        market.book().orders(side).map(|it| (it.order, it.ticks, it.lots)).collect();
                    assert_eq!(book, model.sorted(side), "seed {seed}, step {step}");
                }
                assert_eq!(
                    follower.orders(Side::Buy).count() + follower.orders(Side::Sell).count(),
                    market.book().len()
                );
                let after = before.0.after(1, &done.entry);
                assert_eq!(market.record().position, if done.entry.is_empty() { before.0 } else { after });
            }
            Err(Failed::Store(error)) => panic!("seed {seed}, step {step}: {error}"),
            Err(_) => {
                failed += 1;
                assert_eq!((market.record().position, &accounts), (before.0, &before.1));
            }
        }
        for asset in [BASE, QUOTE] {
            let of = |owner: Address| accounts.0.get(&(asset, owner)).copied().unwrap_or_default();
            for owner in (0..TRADERS).map(trader).chain([FEES]) {
                let free = model.free.get(&(asset, owner)).copied().unwrap_or_default();
                assert_eq!(of(owner).free as i128, free, "seed {seed}, step {step}");
                assert_eq!(of(owner).locked, model.locked(asset, &owner), "seed {seed}, step {step}");
            }
            let all: u128 = accounts
                .0
                .iter()
                .filter(|((of, _), _)| *of == asset)
                .map(|(_, it)| it.free + it.locked)
                .sum();
            assert_eq!(all, supply, "units of asset {asset} are neither made nor lost");
        }
        if step % 500 == 0 {
            let book = market.order_book();
            assert_eq!((book.hash(), &book), (follower.hash(), &follower));
        }
    }
    (market.record().trades, failed)
}

#[test]
fn random_orders_do_what_the_naive_model_does() {
    let ran: Vec<_> = (0..10).map(|seed| compare(seed, 2_000)).collect();
    let (trades, failed) = ran.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(trades > 2_000 && failed > 500, "the flow has both: {trades} trades, {failed} refused");
}

/// `cargo test -p ghost-node --lib dex -- --ignored` takes some minutes.
#[test]
#[ignore = "a million operations"]
fn a_million_random_orders_do_what_the_naive_model_does() {
    let ran: Vec<_> = (100..200).map(|seed| compare(seed, 10_000)).collect();
    let trades: u64 = ran.iter().map(|(trades, _)| trades).sum();
    assert!(trades > 100_000, "{trades}");
}

#[test]
fn the_dearest_order_there_can_be_is_counted_exactly() {
    use ghost_proto::market::{ORDER_LOTS_MAX, PRICE_TICKS_MAX, UNITS_MAX};
    let rules = Market { lot: UNITS_MAX, tick: UNITS_MAX, maker_fee_ppm: 100_000, ..rules() };
    let mut market = MarketState::new(rules, 1, FeedPosition::origin(1, b"m"));
    let cost = 1u128 << 120;
    let needed = cost + cost / 10;
    let place = Command::Place {
        side: Side::Buy,
        kind: OrderKind::Limit,
        ticks: PRICE_TICKS_MAX,
        lots: ORDER_LOTS_MAX,
    };
    let prepared = market.prepare(trader(0), &place, 9).unwrap();
    let mut purse = Purses([((QUOTE, trader(0)), Balance { free: needed - 1, locked: 0 })].into());
    assert_eq!(market.settle(&prepared, &mut purse, &FEES), Err(Failed::InsufficientBalance));
    let mut purse = Purses([((QUOTE, trader(0)), Balance { free: needed, locked: 0 })].into());
    market.settle(&prepared, &mut purse, &FEES).unwrap();
    assert_eq!(purse.0[&(QUOTE, trader(0))], Balance { free: 0, locked: needed });
}

#[test]
fn nobody_touches_the_order_of_another() {
    let mut market = MarketState::new(rules(), 1, FeedPosition::origin(1, b"m"));
    let mut accounts = purses();
    let place = Command::Place { side: Side::Sell, kind: OrderKind::Limit, ticks: 100, lots: 5 };
    let prepared = market.prepare(trader(0), &place, 9).unwrap();
    let order = market.settle(&prepared, &mut accounts, &FEES).unwrap().order;
    for command in [Command::Cancel { order, leave: 0 }, Command::Replace { order, ticks: 1, lots: 1 }] {
        assert_eq!(market.prepare(trader(1), &command, 9), Err(Refusal::NotOwner(order)));
    }
    let unknown = Command::Cancel { order: order + 1, leave: 0 };
    assert_eq!(market.prepare(trader(0), &unknown, 9), Err(Refusal::UnknownOrder(order + 1)));
    let larger = Command::Cancel { order, leave: 5 };
    assert_eq!(market.prepare(trader(0), &larger, 9), Err(Refusal::NotSmaller(order)));
}

/// Places orders one after another, each of an account of its own, and gives what they traded: maker, price, size.
fn play(orders: &[(u64, Side, u64, u64)]) -> (MarketState, Vec<(u64, u64, u64)>) {
    let rules = Market { maker_fee_ppm: 0, taker_fee_ppm: 0, ..rules() };
    let mut market = MarketState::new(rules, 1, FeedPosition::origin(1, b"m"));
    let mut trades = Vec::new();
    for (number, side, ticks, lots) in orders {
        let owner = trader(*number as u8);
        let mut rich =
            Purses([BASE, QUOTE].map(|asset| ((asset, owner), Balance { free: RICH, locked: 0 })).into());
        for maker in 0..=*number {
            for asset in [BASE, QUOTE] {
                rich.0.entry((asset, trader(maker as u8))).or_insert(Balance { free: 0, locked: RICH });
            }
        }
        let place = Command::Place { side: *side, kind: OrderKind::Limit, ticks: *ticks, lots: *lots };
        let prepared = market.prepare(owner, &place, 256).unwrap();
        let done = market.settle(&prepared, &mut rich, &FEES).unwrap();
        assert_eq!(done.order, *number);
        trades.extend(done.events.iter().filter_map(|event| match *event {
            ghost_proto::market::OrderEvent::Traded { maker, ticks, lots, .. } => Some((maker, ticks, lots)),
            _ => None,
        }));
    }
    (market, trades)
}

fn rests(market: &MarketState, side: Side) -> Vec<(u64, u64, u64)> {
    market.book().orders(side).map(|it| (it.order, it.ticks, it.lots)).collect()
}

/// The worked example of FIFO matching in Donadio and Ghosh, *Learn Algorithmic Trading* (Packt 2019, ISBN 978-1-78934-834-7): orders
/// A to D, X to Z, then K, with the fills and the book that the text gives.
#[test]
fn the_published_example_of_fifo_matching_comes_out_as_published() {
    use Side::{Buy, Sell};
    let (a, b, c, d) = ((1, Buy, 10, 1), (2, Buy, 10, 2), (3, Buy, 10, 3), (4, Buy, 9, 1));
    let (x, y, z) = ((5, Sell, 11, 1), (6, Sell, 11, 2), (7, Sell, 12, 2));
    let (market, trades) = play(&[a, b, c, d, x, y, z, (8, Sell, 10, 4)]);
    assert_eq!(trades, [(1, 10, 1), (2, 10, 2), (3, 10, 1)]);
    assert_eq!(rests(&market, Buy), [(3, 10, 2), (4, 9, 1)], "C has two left and is first");
    assert_eq!(rests(&market, Sell), [(5, 11, 1), (6, 11, 2), (7, 12, 2)]);
}

/// Lesson 19 of the tutorial on execution at evanot.com ("How Price Changes Interrupt FIFO"): a better ask comes while an older one
/// waits at 20, and a buyer of 5 takes 4 at 18, then 1 of the 2 at 20.
#[test]
fn the_published_example_of_a_better_price_comes_out_as_published() {
    use Side::{Buy, Sell};
    let (market, trades) = play(&[(1, Sell, 20, 2), (2, Sell, 20, 3), (3, Sell, 18, 4), (4, Buy, 20, 5)]);
    assert_eq!(trades, [(3, 18, 4), (1, 20, 1)]);
    assert_eq!(rests(&market, Sell)[0], (1, 20, 1));
    assert_eq!(rests(&market, Buy), []);
}

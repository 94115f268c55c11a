//! Matching: random orders on one market, with every balance settled, beside the same book without any.
//!
//! The flow is made before the clock runs: seven of ten are new orders within ten ticks of a wandering middle, the
//! others take off or replace one of the newest. About a third of the new ones trade at once.

use std::{collections::HashMap, hint::black_box, time::Instant};

use ghost_node::{
    dex::{Accounts, Balance, Book, Command, Incoming, MarketState, Resting},
    store::StoreError,
};
use ghost_proto::{
    Address, FeedPosition,
    market::{Market, OrderKind, Side},
};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{
    BenchArgs, BenchError,
    report::{Comparison, Target},
};

const TRADERS: u64 = 1_000;
const MATCHES_MAX: u32 = 256;

/// Balances in a table, as an exchange in one process would keep them.
struct Table(HashMap<(u16, Address), Balance>);

impl Accounts for Table {
    fn balance(&mut self, asset: u16, owner: &Address) -> Result<Balance, StoreError> {
        Ok(self.0.get(&(asset, *owner)).copied().unwrap_or_default())
    }

    fn set_balance(&mut self, asset: u16, owner: &Address, balance: Balance) -> Result<(), StoreError> {
        self.0.insert((asset, *owner), balance);
        Ok(())
    }
}

fn owner(n: u64) -> Address {
    let mut address = [0; 20];
    address[12..].copy_from_slice(&n.to_be_bytes());
    Address(address)
}

/// What each step says, with numbers counted back from the newest order.
fn flow(count: usize) -> Vec<(Address, Command)> {
    let mut rng = ChaCha12Rng::seed_from_u64(11);
    let mut below = |bound: u64| rng.next_u64() % bound;
    let mut middle = 10_000;
    (0..count)
        .map(|_| {
            middle = (middle + below(3)).saturating_sub(1).max(100);
            let (ticks, lots) = (middle + below(20) - 10, 1 + below(100));
            let command = match below(10) {
                0..2 => Command::Cancel { order: 1 + below(200), leave: 0 },
                2 => Command::Replace { order: 1 + below(200), ticks, lots },
                _ => {
                    let side = if below(2) == 0 { Side::Buy } else { Side::Sell };
                    Command::Place { side, kind: OrderKind::Limit, ticks, lots }
                }
            };
            (owner(below(TRADERS)), command)
        })
        .collect()
}

/// The order that a step means now, and the account whose it is.
fn aimed(owner: Address, command: Command, newest: u64, book: &Book) -> (Address, Command) {
    let at = |back: u64| newest.saturating_sub(back).max(1);
    let of = |order| book.get(order).map_or(owner, |it| it.owner);
    match command {
        Command::Cancel { order, leave } => (of(at(order)), Command::Cancel { order: at(order), leave }),
        Command::Replace { order, ticks, lots } => {
            (of(at(order)), Command::Replace { order: at(order), ticks, lots })
        }
        other => (owner, other),
    }
}

fn settled(flow: &[(Address, Command)]) -> f64 {
    let rules = Market { base: 0, quote: 1, lot: 10, tick: 2, maker_fee_ppm: 100, taker_fee_ppm: 300 };
    let mut market = MarketState::new(rules, 1, FeedPosition::origin(1, b"bench"));
    let purse = Balance { free: 1 << 90, locked: 0 };
    let all = (0..TRADERS).flat_map(|n| [0, 1].map(|asset| ((asset, owner(n)), purse)));
    let mut table = Table(all.collect());
    let begun = Instant::now();
    for (who, command) in flow {
        let (who, command) = aimed(*who, *command, market.record().next_order, market.book());
        if let Ok(prepared) = market.prepare(who, &command, MATCHES_MAX) {
            let _ = black_box(market.settle(&prepared, &mut table, &owner(TRADERS)));
        }
    }
    flow.len() as f64 / begun.elapsed().as_secs_f64()
}

fn matched(flow: &[(Address, Command)]) -> f64 {
    let mut book = Book::default();
    let mut next = 1;
    let begun = Instant::now();
    for (who, command) in flow {
        let (who, command) = aimed(*who, *command, next, &book);
        let (side, ticks, lots) = match command {
            Command::Cancel { order, .. } => {
                book.leave(order, 0);
                continue;
            }
            Command::Replace { order, ticks, lots } => {
                let Some(was) = book.get(order) else { continue };
                book.leave(order, 0);
                (was.side, ticks, lots)
            }
            Command::Place { side, ticks, lots, .. } => (side, ticks, lots),
        };
        let incoming = Incoming { owner: who, side, kind: OrderKind::Limit, ticks, lots };
        if let Ok(plan) = black_box(book.plan(&incoming, MATCHES_MAX)) {
            book.take(side, &plan);
            if plan.rests > 0 {
                book.rest(next, &Resting { owner: who, side, ticks, lots: plan.rests });
            }
            next += 1;
        }
    }
    flow.len() as f64 / begun.elapsed().as_secs_f64()
}

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let flow = flow((args.seconds * 500_000.0) as usize + 1_000);
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        ours.push(settled(&flow));
        alone.push(matched(&flow));
    }
    Ok(vec![Comparison::new(
        format!("{} random orders on one market, one thread", flow.len()),
        "orders/s",
        ("settled and chained", ours),
        ("the book alone", alone),
        &[Target::OursMin(1_000_000.0)],
    )])
}

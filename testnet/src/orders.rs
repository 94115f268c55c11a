//! Orders on a test network: traders with accounts of their own, who place orders around a price that wanders, cross
//! the spread now and then, and take some of their orders off again.
//!
//! A trader speaks to one node, and to the next one when that is gone. What it sent is counted nowhere: the report asks
//! the nodes what their books say.

use std::time::Duration;

use bytes::Bytes;
use ghost_node::cli::output::Failure;
use ghost_proto::{
    Action, KeyPair, Markets, Transaction,
    market::{Asset, Market, OrderBook, OrderKind, Side},
    message::{self, BookView},
};
use ghost_protocol::{
    client::{BookQuery, Client},
    feed::{CursorLimits, Event},
};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time};

use crate::{
    genesis::{BALANCE, CHAIN_ID, Purpose, key},
    traffic::Directory,
};

/// How many traders.
pub const TRADERS: u32 = 4;

/// Most orders a second that are asked of a network.
pub const ORDERS_MAX: u32 = 2_000;

/// Prices wander between these, in ticks of 0.01.
const PRICE_MIN: u64 = 5_000;
const PRICE_MAX: u64 = 15_000;

/// How far from the middle an order stands, at most.
const SPREAD_TICKS: u64 = 40;

/// Orders between two looks at what still rests.
const TIDY_EVERY: u64 = 40;

/// Enough for about 60 resting orders that are met.
const GAS: u64 = 30_000 + 60 * 5_000;

/// The assets and markets of every test chain: a coin against two currencies, and these against each other.
pub fn markets(seed: u64) -> Markets {
    let allocation = || (0..TRADERS).map(|n| (trader(seed, n).address(), BALANCE)).collect();
    let asset = |symbol: &str| Asset { symbol: symbol.into(), decimals: 6, allocation: allocation() };
    // A lot is 0.001 GHOST, a tick 0.01 of the currency.
    let coin =
        |quote| Market { base: 0, quote, lot: 1_000_000, tick: 10, maker_fee_ppm: 200, taker_fee_ppm: 500 };
    // A lot is 1 EUR, a tick 0.01 USD.
    let currency =
        Market { base: 2, quote: 1, lot: 1_000_000, tick: 10_000, maker_fee_ppm: 0, taker_fee_ppm: 100 };
    Markets { assets: vec![asset("USD"), asset("EUR")], markets: vec![coin(1), coin(2), currency] }
}

/// The key of a trader.
pub fn trader(seed: u64, index: u32) -> KeyPair {
    key(seed, Purpose::Trader, index)
}

/// Orders under way.
#[derive(Debug)]
pub struct Orders {
    stop: watch::Sender<bool>,
    traders: JoinSet<()>,
}

impl Orders {
    /// Starts the traders: so many orders a second together.
    pub fn start(per_second: u32, seed: u64, directory: &Directory) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut traders = JoinSet::new();
        if per_second > 0 {
            for index in 0..TRADERS {
                let trader = Trader::new(seed, index, per_second, directory.clone());
                traders.spawn(trader.run(stopped.clone()));
            }
        }
        Self { stop, traders }
    }

    /// Ends them; what they have sent stays sent.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.traders.join_next().await.is_some() {}
    }
}

struct Trader {
    seed: u64,
    index: u32,
    key: KeyPair,
    every: Duration,
    directory: Directory,
    rng: ChaCha12Rng,
    middle: [u64; 3],
    made: u64,
}

impl Trader {
    fn new(seed: u64, index: u32, per_second: u32, directory: Directory) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX / 2 - u64::from(index));
        let every = Duration::from_secs(1) * TRADERS / per_second;
        Self {
            seed,
            index,
            key: trader(seed, index),
            every,
            directory,
            rng,
            middle: [10_000, 9_000, 11_000],
            made: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let trading = self.trade();
            let failure = tokio::select! {
                failure = trading => failure,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            tracing::debug!(trader = self.index, error = failure.text(), "trading interrupted");
            time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Trades until something fails.
    async fn trade(&mut self) -> Failure {
        let client = match self.connect().await {
            Ok(client) => client,
            Err(failure) => return failure,
        };
        loop {
            if let Err(failure) = self.turn(&client).await {
                return failure;
            }
        }
    }

    /// A node that runs, another one for each trader as far as there are.
    async fn connect(&mut self) -> Result<Client, Failure> {
        let all = self.directory.borrow().clone();
        let running: Vec<_> = (0..all.len()).filter(|node| !all[*node].is_empty()).collect();
        let turn = self.index as usize + self.made as usize;
        let node = *running.get(turn % running.len().max(1)).ok_or_else(|| Failure::new("no node runs"))?;
        crate::up::network::connect(self.seed, node, &all[node]).await
    }

    /// One order of each market, at its pace.
    async fn turn(&mut self, client: &Client) -> Result<(), Failure> {
        let address = self.key.address();
        let mut nonce = client.account(address).await?.next_nonce;
        for market in 0..self.middle.len() {
            time::sleep(self.every).await;
            let step = self.below(11);
            self.middle[market] = (self.middle[market] + step).saturating_sub(5).clamp(PRICE_MIN, PRICE_MAX);
            let mut actions = vec![self.order(market)];
            if self.made.is_multiple_of(TIDY_EVERY) {
                actions.extend(self.tidy(client, market).await?);
            }
            self.made += 1;
            let signed = actions.into_iter().map(|action| {
                let body = Transaction {
                    chain_id: CHAIN_ID,
                    sender_key: self.key.public(),
                    nonce,
                    gas_limit: GAS,
                    gas_price: 1,
                    action,
                };
                nonce += 1;
                body.sign(&self.key).map(|tx| tx.bytes().clone())
            });
            let signed = signed.collect::<Result<Vec<Bytes>, _>>();
            let results = client.submit(signed.map_err(|error| Failure::new(error.to_string()))?).await?;
            if let Some(refused) = results.iter().find(|result| !result.accepted) {
                return Err(Failure::new(format!("refused ({}): {}", refused.reason, refused.message)));
            }
        }
        Ok(())
    }

    fn order(&mut self, market: usize) -> Action {
        let side = if self.below(2) == 0 { Side::Buy } else { Side::Sell };
        // Four of five stand on their own side of the middle; the fifth crosses it.
        let (away, crosses) = (self.below(SPREAD_TICKS) + 1, self.below(5) == 0);
        let middle = self.middle[market];
        let ticks = if (side == Side::Buy) == crosses { middle + away } else { middle - away };
        let kind = if crosses { OrderKind::ImmediateOrCancel } else { OrderKind::Limit };
        Action::Place { market: market as u32, side, kind, ticks, lots: 1 + self.below(500) }
    }

    /// Takes the older half of what still rests off the book.
    async fn tidy(&mut self, client: &Client, market: usize) -> Result<Vec<Action>, Failure> {
        let names = self.names();
        let query = BookQuery {
            owner: Bytes::copy_from_slice(&self.key.address().0),
            ..BookQuery::view(names[market].as_str(), BookView::BookOwn)
        };
        let mut stream = client.follow_market(&query, None, CursorLimits::default()).await?;
        let event = stream.next().await.map_err(|error| Failure::new(error.to_string()))?;
        let Event::Snapshot { bytes, .. } = event else { return Ok(Vec::new()) };
        let book = OrderBook::decode(bytes).map_err(|error| Failure::new(error.to_string()))?;
        let mut orders: Vec<u64> =
            [Side::Buy, Side::Sell].iter().flat_map(|side| book.orders(*side)).map(|it| it.order).collect();
        orders.sort_unstable();
        orders.truncate((orders.len() / 2).min(20));
        let cancel = |order| Action::Cancel { market: market as u32, order, leave: 0 };
        Ok(orders.into_iter().map(cancel).collect())
    }

    fn names(&self) -> Vec<String> {
        let markets = markets(self.seed);
        (0..).map_while(|market| markets.name_of(market)).collect()
    }
}

/// What the nodes say about their markets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OrdersReport {
    /// Orders that traded or rest, over all markets.
    pub placed: u64,
    /// Trades.
    pub trades: u64,
    /// Orders that rest.
    pub resting: u64,
    /// True if all nodes name the same position and the same book for each market.
    pub books_agree: bool,
    /// By market.
    pub markets: Vec<MarketReport>,
}

/// One market at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MarketReport {
    /// `BASE/QUOTE`.
    pub market: String,
    /// Orders that traded or rest.
    pub placed: u64,
    /// Trades.
    pub trades: u64,
    /// Orders that rest.
    pub resting: u64,
    /// Number of the newest entry of its feed.
    pub seq: u64,
    /// Hash over all entries.
    pub hash: String,
}

/// How long nodes are given to agree: what was sent last may still be on its way into a block.
const AGREE_WITHIN: Duration = Duration::from_secs(15);

/// Asks all nodes, until they say the same or have had time enough to.
///
/// # Errors
/// If one does not answer.
pub async fn report(clients: &[Client]) -> Result<OrdersReport, Failure> {
    let deadline = time::Instant::now() + AGREE_WITHIN;
    loop {
        let report = ask(clients).await?;
        if report.books_agree || time::Instant::now() > deadline {
            return Ok(report);
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

async fn ask(clients: &[Client]) -> Result<OrdersReport, Failure> {
    let mut answers: Vec<Vec<message::MarketRow>> = Vec::new();
    for client in clients {
        answers.push(client.markets("").await?.markets);
    }
    let first = answers.first().cloned().unwrap_or_default();
    let markets: Vec<MarketReport> = first
        .iter()
        .map(|row| MarketReport {
            market: row.name.clone(),
            placed: row.placed,
            trades: row.trades,
            resting: row.orders,
            seq: row.seq,
            hash: hex::encode(&row.hash),
        })
        .collect();
    let sum = |of: fn(&MarketReport) -> u64| markets.iter().map(of).sum();
    Ok(OrdersReport {
        placed: sum(|it| it.placed),
        trades: sum(|it| it.trades),
        resting: sum(|it| it.resting),
        books_agree: answers.iter().all(|rows| *rows == first),
        markets,
    })
}

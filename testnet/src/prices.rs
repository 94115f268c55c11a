//! Publishers with real reports, and what became of them on the chain.
//!
//! Each publisher signs what it sees of one common price, a little off, and hands it to one node; if that
//! ends, to the next. What the report says of prices is read back from the nodes: from the logs that
//! committed prices leave, and from what each node knows.

use std::{sync::Arc, time::Duration};

use ghost_node::cli::output::{Failure, unix_ms_now};
use ghost_proto::{
    FeedSpec, Genesis, KeyPair, Report,
    price::{ORACLE_ADDRESS, PRICE_UPDATED_TOPIC, ReportFields, decimal},
};
use ghost_protocol::client::{Client, LogFilter, LogPlace, LogQuery, PriceRules};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    genesis::{Purpose, key},
    traffic::Directory,
};

/// The feeds of every test network with publishers: name, exponent, first price.
const FEEDS: [(&str, i8, i64); 2] = [("GHO/USD", -6, 1_250_000), ("BTC/USD", -2, 9_500_000)];

/// Longest time between two reports.
const HEARTBEAT_MS: u64 = 1_000;

/// How often a publisher looks at its price: twice in a heartbeat, so that one report may be lost.
const REPORT_EVERY: Duration = Duration::from_millis(HEARTBEAT_MS / 2);

/// How long before another node is tried.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Publishers of a test network that only makes traffic.
pub const PUBLISHERS_DEFAULT: u16 = 4;

/// The key of a publisher.
pub fn publisher_key(seed: u64, index: u16) -> KeyPair {
    key(seed, Purpose::Publisher, index.into())
}

/// The feeds that so many publishers make prices for; none without publishers.
pub fn feeds(seed: u64, publishers: u16) -> Vec<FeedSpec> {
    if publishers == 0 {
        return Vec::new();
    }
    let feed = |(name, exponent, _): &(&str, i8, i64)| FeedSpec {
        name: (*name).into(),
        exponent: *exponent,
        publishers: (0..publishers).map(|index| publisher_key(seed, index).public()).collect(),
        quorum: (2 * publishers).div_ceil(3),
        heartbeat_ms: HEARTBEAT_MS,
        deviation_bps: 10,
        max_age_ms: 5 * HEARTBEAT_MS,
    };
    FEEDS.iter().map(feed).collect()
}

/// What the world's price of a feed is at a time: it wanders by up to 2 % within a minute, the same for all who
/// look.
fn price_at(feed: usize, unix_ms: u64) -> i64 {
    let base = FEEDS[feed % FEEDS.len()].2;
    let phase = (unix_ms % 60_000) as f64 / 60_000.0 * std::f64::consts::TAU;
    base + (base as f64 * 0.02 * (phase + feed as f64).sin()) as i64
}

/// The reports of one publisher at a time, one for each feed.
pub fn reports(
    genesis: &Genesis,
    publisher: u16,
    key: &KeyPair,
    unix_ms: u64,
    rng: &mut ChaCha12Rng,
) -> Vec<Report> {
    let id = genesis.id();
    let report = |feed: usize| {
        let seen = price_at(feed, unix_ms);
        let off = seen / 10_000;
        let fields = ReportFields {
            feed: feed as u16,
            publisher,
            sequence: unix_ms,
            time_unix_ms: unix_ms,
            price: seen + (rng.next_u64() % (2 * off as u64 + 1)) as i64 - off,
            confidence: off as u64,
        };
        Report::sign(fields, &id, key)
    };
    (0..genesis.feeds.len()).map(report).collect()
}

/// Publishers at work. They end when this is dropped.
#[derive(Debug)]
pub struct Publishers {
    _tasks: JoinSet<()>,
}

impl Publishers {
    /// Starts so many, each at a node of its own as long as there are enough.
    pub fn start(seed: u64, count: u16, genesis: &Genesis, directory: &Directory) -> Self {
        let genesis = Arc::new(genesis.clone());
        let mut tasks = JoinSet::new();
        for index in 0..count {
            tasks.spawn(publish(seed, index, genesis.clone(), directory.clone()));
        }
        Self { _tasks: tasks }
    }
}

async fn publish(seed: u64, index: u16, genesis: Arc<Genesis>, mut directory: Directory) {
    let key = publisher_key(seed, index);
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(index) + 1);
    let mut node = usize::from(index);
    loop {
        let all = directory.borrow_and_update().clone();
        node %= all.len().max(1);
        let addresses = all.get(node).cloned().unwrap_or_default();
        let client = match addresses.is_empty() {
            true => None,
            false => crate::up::network::connect(seed, 1_000 + usize::from(index), &addresses).await.ok(),
        };
        if let Some(client) = client {
            let mut timer = interval(REPORT_EVERY);
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                timer.tick().await;
                let reports = reports(&genesis, index, &key, unix_ms_now(), &mut rng);
                if client.publish_prices(&reports).await.is_err() {
                    break;
                }
            }
        }
        node += 1;
        sleep(RETRY_EVERY).await;
    }
}

/// What the nodes say of prices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prices {
    /// Publishers at work.
    pub publishers: u16,
    /// Prices in canonical blocks, by their logs, as every node has them.
    pub committed: u64,
    /// True if all nodes have the same logs.
    pub nodes_agree: bool,
    /// Oldest price that a node shows, in milliseconds.
    pub age_ms_max: Option<u64>,
    /// Prices, over all nodes, that are too old to count.
    pub stale: u64,
    /// By feed.
    pub feeds: Vec<PerFeed>,
}

/// A feed at the end, as the first node has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerFeed {
    /// Its name.
    pub feed: String,
    /// Newest price, computed from the reports.
    pub price: Option<String>,
    /// What the chain has at the head.
    pub committed: Option<String>,
    /// The block that committed it.
    pub height: Option<u64>,
    /// Publishers that made the newest price.
    pub publishers: u32,
    /// Publishers that signed two prices for one sequence.
    pub flagged: u32,
}

/// Logs of committed prices up to a height, one line each.
async fn committed(client: &Client, height_last: u64) -> Result<Vec<(LogPlace, Vec<u8>)>, Failure> {
    let mut filter = LogFilter::of(ORACLE_ADDRESS);
    filter.topics[0].push(PRICE_UPDATED_TOPIC);
    let mut query = LogQuery { filter, from: LogPlace::default(), to_height: Some(height_last), limit: 0 };
    let mut all = Vec::new();
    loop {
        let page = client.logs(&query).await?;
        all.extend(page.logs.into_iter().map(|log| (log.place, log.entry.data.to_vec())));
        match page.next {
            Some(next) => query.from = next,
            None => return Ok(all),
        }
    }
}

/// Asks all nodes.
pub async fn read(
    clients: &[Client],
    publishers: u16,
    genesis: &Genesis,
    height_last: u64,
) -> Result<Prices, Failure> {
    let mut rules = PriceRules::of(genesis);
    let (mut first, mut agree): (Option<Vec<_>>, bool) = (None, true);
    let (mut ages, mut stale, mut feeds) = (Vec::new(), 0, Vec::new());
    for client in clients {
        let logs = committed(client, height_last).await?;
        agree &= *first.get_or_insert_with(|| logs.clone()) == logs;
        let list = client.prices(&[]).await?;
        for row in &list.prices {
            let price = match &row.quote {
                Some(quote) => Some(rules.price(quote)?),
                None => None,
            };
            if let Some(price) = &price {
                let age = price.age_ms(list.time_unix_ms);
                ages.push(age);
                stale += u64::from(age > row.spec.max_age_ms);
            }
            if feeds.len() < list.prices.len() {
                let text = |price| decimal(price, row.spec.exponent);
                feeds.push(PerFeed {
                    feed: row.spec.name.clone(),
                    price: price.as_ref().map(|price| text(price.price)),
                    committed: row.committed.as_ref().map(|price| text(price.aggregate.price)),
                    height: row.committed.as_ref().map(|price| price.height),
                    publishers: price.map_or(0, |price| price.used.count_ones()),
                    flagged: row.flagged.count_ones(),
                });
            }
        }
    }
    Ok(Prices {
        publishers,
        committed: first.map_or(0, |logs| logs.len() as u64),
        nodes_agree: agree,
        age_ms_max: ages.into_iter().max(),
        stale,
        feeds,
    })
}

/// One line of prices for people.
pub async fn line(client: &Client) -> Option<String> {
    let list = client.prices(&[]).await.ok()?;
    let mut rules = client.price_rules(&list).ok()?;
    let shown = list.prices.iter().map(|row| {
        let price = row.quote.as_ref().and_then(|quote| rules.price(quote).ok());
        match price {
            None => format!("{} none yet", row.spec.name),
            Some(price) => {
                let age = price.age_ms(list.time_unix_ms);
                let stale = if age > row.spec.max_age_ms { ", STALE" } else { "" };
                format!("{} {} ({age} ms{stale})", row.spec.name, decimal(price.price, row.spec.exponent))
            }
        }
    });
    let shown: Vec<String> = shown.collect();
    (!shown.is_empty()).then(|| format!("prices  {}", shown.join("   ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_of_all_publishers_make_a_price_of_every_feed() {
        let plan = crate::genesis::Plan {
            seed: 3,
            nodes: 1,
            accounts: 1,
            slot_ms: 1_000,
            spare_authorities: 0,
            publishers: PUBLISHERS_DEFAULT,
        };
        let genesis = plan.genesis(1_000).unwrap();
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let all: Vec<_> = (0..PUBLISHERS_DEFAULT)
            .flat_map(|n| reports(&genesis, n, &publisher_key(3, n), 10_000, &mut rng))
            .collect();
        let mut rules = PriceRules::of(&genesis);
        for feed in 0..genesis.feeds.len() as u16 {
            let reports = all.iter().filter(|report| report.feed == feed).copied().collect();
            let price = rules.price(&ghost_proto::Quote { feed, reports }).unwrap();
            assert_eq!(price.used.count_ones(), u32::from(PUBLISHERS_DEFAULT));
        }
    }
}

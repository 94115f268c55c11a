//! `ghostd price`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use ghost_proto::{
    FeedSpec, KeyPair, Multiaddr, Report,
    price::{Aggregate, CommittedPrice, ReportFields, decimal, from_decimal},
};
use ghost_protocol::{
    Identity,
    client::{Client, Pool, PoolConfig, PriceEvent, PriceList, PriceRow, PriceRules},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Globals,
    connect::{Connected, ask, connect},
    output::{Failure, Out, Table, unix_ms_now},
};
use crate::home::{Home, read_key_file};

const EXAMPLES: &str = "\
Examples:
  ghostd price list
  ghostd price get GHO/USD --proof            what the chain committed to, proven by the home's genesis
  ghostd price follow GHO/USD BTC/USD         every report and the price it makes, until Ctrl-C
  ghostd price follow GHO/USD --rate 50 --json
  echo '{\"price\":\"1.25\"}' | ghostd price publish GHO/USD --key publisher.key

Prices are computed here from the reports that publishers signed, by the feeds of the home's genesis or, where
there is no home, by those that the node names. A price that stops is shown with its age, and as stale.";

/// `ghostd price`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PriceArgs {
    #[command(subcommand)]
    command: PriceCommand,
}

#[derive(Debug, Subcommand)]
enum PriceCommand {
    /// All feeds of the chain with their newest prices
    List,
    /// One feed: price, age, publishers, and what the chain has
    Get {
        /// Its name
        #[arg(value_name = "FEED")]
        feed: String,
        /// Prove what the chain has: from the receipt to a block that two thirds of the authorities signed
        #[arg(long)]
        proof: bool,
    },
    /// Prices as they change
    Follow {
        /// Names of feeds
        #[arg(value_name = "FEED", required = true)]
        feeds: Vec<String>,
        /// Newest prices at a fixed rate: 1, 50, 200 or 1000 ms; without it every report, in order
        #[arg(long, value_name = "MS", value_parser = parse_rate)]
        rate: Option<u32>,
        /// Without --rate: go on at this node if the other one fails; may be given again
        #[arg(long, value_name = "MULTIADDR", conflicts_with = "rate")]
        also: Vec<Multiaddr>,
        /// Stop after so many lines
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Sign prices and hand them to the node, one for each line of JSON
    #[command(after_help = PUBLISH)]
    Publish {
        /// The feed
        #[arg(value_name = "FEED")]
        feed: String,
        /// Where the lines come from; - is standard input
        #[arg(long, value_name = "FILE|-", default_value = "-")]
        from: PathBuf,
        /// The publisher's key [default: publisher.key in the home]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

const PUBLISH: &str = "\
Each line is one object; only the price must be there, as text or as a number that is written exactly:
  {\"price\": \"1.25\", \"confidence\": \"0.01\", \"time_unix_ms\": 1764252000000}
The time is now if it is left out, the confidence 0. Each line of output is one report:
  {\"feed\":\"GHO/USD\",\"price\":\"1.25\",\"sequence\":1764252000000000,\"taken\":true}
A report that the node does not take is said, and the next line goes on; the exit code is 1 in the end.";

fn parse_rate(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(rate @ (1 | 50 | 200 | 1_000)) => Ok(rate),
        _ => Err("write 1, 50, 200 or 1000".into()),
    }
}

pub(super) async fn run(globals: &Globals, args: PriceArgs, out: &Out) -> Result<ExitCode, Failure> {
    match args.command {
        PriceCommand::List => ask(globals, async |connected: &Connected| list(connected, out).await).await,
        PriceCommand::Get { feed, proof } => {
            ask(globals, async |connected: &Connected| get(connected, &feed, proof, out).await).await
        }
        PriceCommand::Follow { feeds, rate, also, count } => {
            ask(globals, async |connected: &Connected| {
                let count = count.unwrap_or(u64::MAX);
                match rate {
                    Some(rate) => follow_newest(connected, &feeds, rate, count, out).await,
                    None => follow_all(globals, connected, &feeds, &also, count, out).await,
                }
            })
            .await
        }
        PriceCommand::Publish { feed, from, key } => {
            publish(globals, &feed, &from, key.as_deref(), out).await
        }
    }
}

/// By which feeds prices are checked: the home's, unless the node is of another chain.
fn rules(connected: &Connected, list: &PriceList) -> Result<PriceRules, Failure> {
    let genesis = connected.home.as_ref().and_then(|home| home.genesis().ok());
    match genesis.filter(|genesis| connected.client.session().hello().genesis == Some(genesis.id())) {
        Some(genesis) => Ok(PriceRules::of(&genesis)),
        None => Ok(connected.client.price_rules(list)?),
    }
}

/// The price of a row, checked; `None` before the first.
fn checked(rules: &mut PriceRules, row: &PriceRow) -> Result<Option<Aggregate>, Failure> {
    let Some(quote) = &row.quote else { return Ok(None) };
    rules.price(quote).map(Some).map_err(|error| {
        Failure::new(format!("the node's price of {} proves nothing: {error}", row.spec.name))
            .hint("ask another node")
    })
}

fn bits(set: u16) -> Vec<u16> {
    (0..16).filter(|bit| set & (1 << bit) != 0).collect()
}

fn price_json(spec: &FeedSpec, price: &Aggregate, now: u64) -> Value {
    let age = price.age_ms(now);
    json!({
        "feed": spec.name,
        "price": decimal(price.price, spec.exponent),
        "confidence": decimal(i64::try_from(price.confidence).unwrap_or(i64::MAX), spec.exponent),
        "time_unix_ms": price.time_unix_ms,
        "age_ms": age,
        "stale": age > spec.max_age_ms,
        "publishers": bits(price.used),
        "outliers": bits(price.outliers),
    })
}

fn committed_json(spec: &FeedSpec, committed: &CommittedPrice, now: u64) -> Value {
    let mut value = price_json(spec, &committed.aggregate, now);
    value["height"] = json!(committed.height);
    value
}

fn row_json(row: &PriceRow, price: Option<&Aggregate>, now: u64) -> Value {
    let mut value = match price {
        Some(price) => price_json(&row.spec, price, now),
        None => json!({ "feed": row.spec.name, "price": null, "age_ms": null, "stale": true }),
    };
    value["flagged"] = json!(bits(row.flagged));
    value["quorum"] = json!(row.spec.quorum);
    value["max_age_ms"] = json!(row.spec.max_age_ms);
    value["committed"] =
        row.committed.as_ref().map_or(Value::Null, |price| committed_json(&row.spec, price, now));
    value
}

fn age_text(spec: &FeedSpec, price: &Aggregate, now: u64) -> String {
    let age = price.age_ms(now);
    let text = if age < 10_000 { format!("{age} ms") } else { format!("{} s", age / 1_000) };
    if age > spec.max_age_ms { format!("{text}, STALE") } else { text }
}

async fn list(connected: &Connected, out: &Out) -> Result<ExitCode, Failure> {
    let list = connected.client.prices(&[]).await?;
    let mut rules = rules(connected, &list)?;
    let mut table = Table::new(["FEED", "PRICE", "±", "AGE", "PUBLISHERS", "COMMITTED", "AT HEIGHT"]);
    let mut rows = Vec::new();
    for row in &list.prices {
        let price = checked(&mut rules, row)?;
        rows.push(row_json(row, price.as_ref(), list.time_unix_ms));
        let dash = || "–".to_owned();
        let shown = |price: &Aggregate| decimal(price.price, row.spec.exponent);
        let confidence = |price: &Aggregate| {
            decimal(i64::try_from(price.confidence).unwrap_or(i64::MAX), row.spec.exponent)
        };
        let flagged = if row.flagged == 0 { "" } else { ", one lied" };
        table.row([
            row.spec.name.clone(),
            price.as_ref().map_or_else(|| "none yet".into(), shown),
            price.as_ref().map_or_else(dash, confidence),
            price.as_ref().map_or_else(dash, |price| age_text(&row.spec, price, list.time_unix_ms)),
            price.as_ref().map_or_else(dash, |price| {
                format!("{} of {}{flagged}", price.used.count_ones(), row.spec.publishers.len())
            }),
            row.committed.as_ref().map_or_else(dash, |price| shown(&price.aggregate)),
            row.committed.as_ref().map_or_else(dash, |price| price.height.to_string()),
        ]);
    }
    if rows.is_empty() {
        return out.answer(
            &json!({ "prices": [] }),
            "this chain has no price feeds; a genesis declares them ([[feeds]])",
        );
    }
    out.answer(&json!({ "time_unix_ms": list.time_unix_ms, "prices": rows }), table)
}

async fn one(client: &Client, feed: &str) -> Result<(PriceList, PriceRow), Failure> {
    let list = client.prices(&[feed]).await?;
    let row = list.prices.first().cloned();
    let row = row.ok_or_else(|| Failure::new("the node answered about no feed").hint("ask another node"))?;
    Ok((list, row))
}

async fn get(connected: &Connected, feed: &str, proof: bool, out: &Out) -> Result<ExitCode, Failure> {
    let (list, row) = one(&connected.client, feed).await?;
    let price = checked(&mut rules(connected, &list)?, &row)?;
    let mut value = row_json(&row, price.as_ref(), list.time_unix_ms);
    let spec = &row.spec;
    let mut text = match &price {
        None => format!(
            "{feed}: no price yet; {} of {} publishers must report\n",
            spec.quorum,
            spec.publishers.len()
        ),
        Some(price) => format!(
            "{feed}  {} ± {}\nage         {}\npublishers  {:?} of {}, quorum {}{}\n",
            decimal(price.price, spec.exponent),
            decimal(i64::try_from(price.confidence).unwrap_or(i64::MAX), spec.exponent),
            age_text(spec, price, list.time_unix_ms),
            bits(price.used),
            spec.publishers.len(),
            spec.quorum,
            if price.outliers == 0 {
                String::new()
            } else {
                format!(", left out {:?}", bits(price.outliers))
            },
        ),
    };
    if row.flagged != 0 {
        text +=
            &format!("FLAGGED     publishers {:?} signed two prices for one sequence\n", bits(row.flagged));
    }
    match &row.committed {
        None => text += "committed   nothing yet\n",
        Some(committed) => {
            text += &format!(
                "committed   {} at height {}, age {}\n",
                decimal(committed.aggregate.price, spec.exponent),
                committed.height,
                age_text(spec, &committed.aggregate, list.time_unix_ms),
            );
        }
    }
    if proof {
        let genesis = connected.home.as_ref().map(Home::genesis).transpose()?;
        let genesis = genesis.ok_or_else(|| {
            Failure::usage("a proof begins at the genesis").hint("name a home of the chain: --home DIR")
        })?;
        let proven = connected.client.price_proof(&genesis, feed).await?;
        let proven = proven.ok_or_else(|| Failure::new(format!("the chain has no price of {feed} yet")))?;
        value["proof"] = json!({
            "price": decimal(proven.price, proven.exponent),
            "confidence": decimal(i64::try_from(proven.confidence).unwrap_or(i64::MAX), proven.exponent),
            "time_unix_ms": proven.time_unix_ms,
            "height": proven.height,
            "block": proven.block.to_string(),
            "finalized": proven.finalized,
        });
        text += &format!(
            "proven      {} in block {} {}, {}\n",
            decimal(proven.price, proven.exponent),
            proven.height,
            proven.block,
            if proven.finalized { "final" } else { "signed by its proposer, not final yet" },
        );
    }
    out.answer(&value, text)
}

async fn follow_newest(
    connected: &Connected,
    feeds: &[String],
    rate: u32,
    count: u64,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let names: Vec<&str> = feeds.iter().map(String::as_str).collect();
    let sent = unix_ms_now();
    let list = connected.client.prices(&names).await?;
    // Ages are by the node's clock, which stamped nothing but says what time it is.
    let ahead = list.time_unix_ms as i128 - i128::from((sent + unix_ms_now()) / 2);
    let mut rules = rules(connected, &list)?;
    let mut ticks = connected.client.price_ticks(&names, rate).await?;
    let mut last: Vec<(u16, Aggregate, bool)> = Vec::new();
    let mut lines = 0;
    while lines < count {
        let Some(quote) = ticks.next().await? else {
            return Err(Failure::new("the node ended the subscription").hint("ask another node"));
        };
        let price = rules.price(&quote).map_err(|error| {
            Failure::new(format!("a price of the node proves nothing: {error}")).hint("ask another node")
        })?;
        let Some(spec) = rules.spec(quote.feed) else { continue };
        let now = u64::try_from(i128::from(unix_ms_now()) + ahead).unwrap_or_default();
        let state = (quote.feed, price, price.age_ms(now) > spec.max_age_ms);
        // Repeats keep the subscription honest; a line is for news, and going stale is news.
        if last.contains(&state) {
            continue;
        }
        last.retain(|(feed, ..)| *feed != quote.feed);
        last.push(state);
        let text = format!(
            "{:<12} {:>20} ± {:<12} {}",
            spec.name,
            decimal(price.price, spec.exponent),
            decimal(i64::try_from(price.confidence).unwrap_or(i64::MAX), spec.exponent),
            age_text(spec, &price, now),
        );
        out.answer(&price_json(spec, &price, now), text)?;
        lines += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every report of some feeds, at whichever node answers.
async fn follow_all(
    globals: &Globals,
    connected: &Connected,
    feeds: &[String],
    also: &[Multiaddr],
    count: u64,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let names: Vec<&str> = feeds.iter().map(String::as_str).collect();
    let list = connected.client.prices(&names).await?;
    let rules = rules(connected, &list)?;
    let nodes: Vec<Multiaddr> = std::iter::once(&connected.address).chain(also).cloned().collect();
    let config = PoolConfig { timeout: globals.timeout, ..PoolConfig::new(Identity::generate()) };
    let pool = Pool::new(config, nodes);
    let (sender, mut events) = mpsc::channel(64);
    let mut tasks = tokio::task::JoinSet::new();
    for name in feeds {
        let (mut subscription, sender, name) =
            (pool.follow_price(&rules, name), sender.clone(), name.clone());
        tasks.spawn(async move {
            loop {
                let event = subscription.next().await;
                let failed = event.is_err();
                if sender.send((name.clone(), event)).await.is_err() || failed {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut lines = 0;
    while lines < count {
        let Some((name, event)) = events.recv().await else { break };
        let Some((_, spec)) = rules.feed(&name) else { continue };
        let (value, text) = match event? {
            PriceEvent::Begun { reason, skipped } => (
                json!({ "feed": name, "begun": reason.name(), "skipped": skipped }),
                format!("{name:<12} begins ({})", reason.name()),
            ),
            PriceEvent::Price { price, .. } => {
                let now = unix_ms_now();
                let text = format!(
                    "{name:<12} {:>20} ± {:<12} {}",
                    decimal(price.price, spec.exponent),
                    decimal(i64::try_from(price.confidence).unwrap_or(i64::MAX), spec.exponent),
                    age_text(spec, &price, now),
                );
                (price_json(spec, &price, now), text)
            }
            PriceEvent::Flagged(publisher) => (
                json!({ "feed": name, "flagged": publisher }),
                format!(
                    "{name:<12} publisher {publisher} signed two prices for one sequence, and counts no more"
                ),
            ),
            PriceEvent::Stale { age } => (
                json!({ "feed": name, "stale": true, "age_ms": age.as_millis() as u64 }),
                format!("{name:<12} STALE: the newest price is {} s old", age.as_secs()),
            ),
        };
        out.answer(&value, text)?;
        lines += 1;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    price: Number,
    #[serde(default)]
    confidence: Option<Number>,
    #[serde(default)]
    time_unix_ms: Option<u64>,
}

/// A decimal as text or as a JSON number, read by its digits and never through a float.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Number(serde_json::Number),
}

impl Number {
    fn units(&self, exponent: i8) -> Result<i64, Failure> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        };
        from_decimal(&text, exponent).ok_or_else(|| {
            Failure::new(format!("{text:?} is no price of a feed in units of 10^{exponent}")).hint(
                "write a decimal with no more places than the feed keeps; a number as text is always exact",
            )
        })
    }
}

fn publisher_key(key: Option<&Path>, connected: &Connected) -> Result<KeyPair, Failure> {
    if let Some(file) = key {
        return Ok(read_key_file(file)?);
    }
    let default = connected.home.as_ref().map(|home| home.root().join("publisher.key"));
    match default.filter(|path| path.exists()) {
        Some(path) => Ok(read_key_file(&path)?),
        None => Err(Failure::new("there is no publisher's key")
            .hint("name one: --key FILE; it must be one of those that the genesis names for the feed")),
    }
}

/// Lines as they come, read on a thread: a program may take its time between them.
fn lines_of(from: &Path) -> Result<mpsc::Receiver<std::io::Result<String>>, Failure> {
    let reader: Box<dyn BufRead + Send> = if from == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = std::fs::File::open(from)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", from.display())))?;
        Box::new(BufReader::new(file))
    };
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in reader.lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

async fn publish(
    globals: &Globals,
    feed: &str,
    from: &Path,
    key: Option<&Path>,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let connected = connect(globals).await?;
    let published = tokio::select! {
        published = publish_lines(&connected, feed, from, key, out) => published,
        Ok(()) = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    };
    connected.client.close().await;
    published
}

async fn publish_lines(
    connected: &Connected,
    feed: &str,
    from: &Path,
    key: Option<&Path>,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let key = publisher_key(key, connected)?;
    let (_, row) = one(&connected.client, feed).await?;
    let spec = &row.spec;
    let publisher = spec.publisher(&key.public()).ok_or_else(|| {
        Failure::new(format!("{} is no publisher of {feed}", key.public()))
            .hint("the genesis names the publishers of a feed; sign with one of their keys")
    })?;
    let genesis = connected.client.session().hello().genesis;
    let genesis = genesis.ok_or_else(|| Failure::new("the node says of no chain that it is of"))?;
    let mut lines = lines_of(from)?;
    let (mut number, mut refused, mut sequence) = (0u64, 0u64, 0u64);
    while let Some(line) = lines.recv().await {
        let line = line.map_err(|error| Failure::new(format!("cannot read {}: {error}", from.display())))?;
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        let said: Line = serde_json::from_str(&line).map_err(|error| {
            Failure::new(format!("line {number} is not what is read here: {error}"))
                .hint("write one JSON object a line, such as {\"price\": \"1.25\"}")
        })?;
        let price = said.price.units(spec.exponent)?;
        let confidence = said.confidence.as_ref().map_or(Ok(0), |number| number.units(spec.exponent))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // By the clock, so that a publisher that starts again goes on above what it said before.
        sequence = (now.map_or(0, |now| now.as_micros() as u64)).max(sequence + 1);
        let fields = ReportFields {
            feed: row.feed,
            publisher,
            sequence,
            time_unix_ms: said.time_unix_ms.unwrap_or_else(unix_ms_now),
            price,
            confidence: confidence.unsigned_abs(),
        };
        let report = Report::sign(fields, &genesis, &key);
        let answer = connected.client.publish_prices(&[report]).await?;
        let shown = decimal(price, spec.exponent);
        let taken = answer.first().is_some_and(Result::is_ok);
        let reason = answer.into_iter().next().and_then(Result::err);
        refused += u64::from(!taken);
        let text = match &reason {
            None => format!("{feed} {shown}"),
            Some(reason) => format!("{feed} {shown} not taken: {reason}"),
        };
        let value = json!({
            "feed": feed, "price": shown, "sequence": sequence, "taken": taken, "reason": reason,
        });
        out.answer(&value, text)?;
    }
    if refused > 0 {
        return Err(Failure::new(format!("{refused} of {number} reports were not taken"))
            .hint("the reason stands beside each")
            .with("refused", refused));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_by_its_digits() {
        let read = |line: &str| serde_json::from_str::<Line>(line).ok();
        assert_eq!(read(r#"{"price":"1.25"}"#).unwrap().price.units(-2).unwrap(), 125);
        assert_eq!(read(r#"{"price":1.25,"confidence":1}"#).unwrap().price.units(-2).unwrap(), 125);
        assert!(read(r#"{"price":1.255}"#).unwrap().price.units(-2).is_err());
        assert!(read(r#"{"prise":1}"#).is_none());
        assert!(read("1.25").is_none());
    }
}

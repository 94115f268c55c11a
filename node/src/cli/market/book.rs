//! `ghostd book` and `ghostd trades`: looking at a market, once or for as long as one likes.

use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
};

use clap::Args;
use ghost_proto::{
    Multiaddr,
    market::{BookLevel, BookMark, DepthChange, DepthView, OrderBook, OrderEvent, Side, decode_events},
    message::BookView,
};
use ghost_protocol::{
    Identity,
    client::{BookQuery, BookUpdate, Pool, PoolConfig},
    feed::{CursorLimits, Event},
};
use serde_json::{Value, json};

use super::{Units, market, order::trade_json};
use crate::{
    cli::{
        Globals,
        connect::{Connected, ask},
        output::{Failure, Out},
    },
    config::parse_node,
};

/// `ghostd book`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ghostd book GHOST/USD --home a
  ghostd book GHOST/USD --home a --follow --also \"$(head -n 1 b/address)\"
  ghostd book trades GHOST/USD --follow --json")]
pub struct BookArgs {
    /// Which market: BASE/QUOTE; or the word `trades` and then the market
    #[arg(value_name = "MARKET", num_args = 1..=2, required = true)]
    what: Vec<String>,
    /// Prices on each side
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    depth: u32,
    /// Ticks that make one row
    #[arg(long, value_name = "TICKS", default_value_t = 1)]
    group: u64,
    /// Keep a checked copy of the book and show each change
    #[arg(long)]
    follow: bool,
    /// End after so many updates
    #[arg(long, value_name = "N", requires = "follow")]
    count: Option<u64>,
    /// Another node to go on at when the first one fails
    #[arg(long, value_name = "MULTIADDR", value_parser = parse_node)]
    also: Vec<Multiaddr>,
}

/// `ghostd trades`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ghostd trades GHOST/USD --home a --follow")]
pub struct TradesArgs {
    /// Which market: BASE/QUOTE
    market: String,
    /// Go on with each new trade
    #[arg(long)]
    follow: bool,
    /// End after so many trades
    #[arg(long, value_name = "N", requires = "follow")]
    count: Option<u64>,
}

fn level_json(level: &BookLevel, units: &Units) -> Value {
    json!({ "price": units.price(level.ticks), "size": units.size(level.lots), "orders": level.orders })
}

fn levels_json(view: &DepthView, side: Side, units: &Units) -> Vec<Value> {
    view.levels(side).iter().map(|level| level_json(level, units)).collect()
}

/// Asks above, bids below, the best of both in the middle.
fn ladder(name: &str, view: &DepthView, units: &Units, remark: &str) -> String {
    let mut text = format!("{name}   {remark}\n{:>14}  {:>14}  {:>14}\n", "bid size", "price", "ask size");
    for level in view.levels(Side::Sell).iter().rev() {
        text += &format!("{:>14}  {:>14}  {:>14}\n", "", units.price(level.ticks), units.size(level.lots));
    }
    let last = if view.last_ticks() > 0 { units.price(view.last_ticks()) } else { "-".into() };
    text += &format!("{:>14}  {:>14}\n", "last", last);
    for level in view.levels(Side::Buy) {
        text += &format!("{:>14}  {:>14}\n", units.size(level.lots), units.price(level.ticks));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Runs `ghostd book`.
pub async fn book(globals: &Globals, args: &BookArgs, out: &Out) -> Result<ExitCode, Failure> {
    let name = match &args.what[..] {
        [word, market] if word == "trades" => {
            let args = TradesArgs { market: market.clone(), follow: args.follow, count: args.count };
            return trades(globals, &args, out).await;
        }
        [market] => market.clone(),
        _ => return Err(Failure::usage("name one market, or `trades` and a market")),
    };
    ask(globals, async |node| {
        let (_, units) = market(&node.client, &name).await?;
        if args.follow {
            follow(node, &name, &units, args, out).await
        } else {
            once(node, &name, &units, args, out).await
        }
    })
    .await
}

async fn once(
    node: &Connected,
    name: &str,
    units: &Units,
    args: &BookArgs,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let query = BookQuery {
        levels: args.depth,
        grouping_ticks: args.group,
        ..BookQuery::view(name, BookView::BookDepth)
    };
    let mut stream = node.client.follow_market(&query, None, CursorLimits::default()).await?;
    let event = stream.next().await.map_err(|error| Failure::new(error.to_string()))?;
    let nonsense = || Failure::new("the node tells what is no book").hint("ask another node");
    let Event::Snapshot { bytes, mark, at, .. } = event else { return Err(nonsense()) };
    let mut view = DepthView::default();
    view.apply(&DepthChange::decode(bytes).map_err(|_| nonsense())?);
    let mark = BookMark::parse(&mark).map_err(|_| nonsense())?;
    if view.hash() != mark.book_hash {
        return Err(nonsense());
    }
    let value = json!({
        "market": name, "height": mark.height, "time_unix_ms": mark.time_unix_ms, "seq": at.seq,
        "bids": levels_json(&view, Side::Buy, units), "asks": levels_json(&view, Side::Sell, units),
        "view_hash": hex::encode(mark.book_hash),
    });
    out.answer(&value, ladder(name, &view, units, &format!("after block {}", mark.height)))
}

fn event_json(event: &OrderEvent, units: &Units) -> Value {
    match *event {
        OrderEvent::Rested { order, side, ticks, lots } => json!({
            "event": "rested", "order": order, "side": side.name(), "price": units.price(ticks),
            "size": units.size(lots),
        }),
        OrderEvent::Traded { maker, taker, side, ticks, lots, left } => json!({
            "event": "traded", "maker": maker, "taker": taker, "side": side.name(),
            "price": units.price(ticks), "size": units.size(lots), "left": units.size(left),
        }),
        OrderEvent::Removed { order, lots, reason } => json!({
            "event": "removed", "order": order, "size": units.size(lots), "reason": reason.name(),
        }),
        OrderEvent::Reduced { order, left } => {
            json!({ "event": "reduced", "order": order, "left": units.size(left) })
        }
    }
}

/// What an update says, for programs. Whatever it is, it has the best prices and the hash of the book.
fn update_json(update: &BookUpdate, view: &DepthView, seq: u64, units: &Units) -> Value {
    let best = |side| view.levels(side).first().map(|level| level_json(level, units));
    let mut value = match update {
        BookUpdate::Snapshot { reason, skipped, .. } => json!({
            "type": "snapshot", "reason": reason.name(), "skipped": skipped,
            "bids": levels_json(view, Side::Buy, units), "asks": levels_json(view, Side::Sell, units),
        }),
        BookUpdate::Changed { events, .. } => json!({
            "type": "changed",
            "events": events.iter().map(|event| event_json(event, units)).collect::<Vec<_>>(),
        }),
        BookUpdate::Idle { age, .. } => json!({ "type": "idle", "age_ms": age.as_millis() as u64 }),
        BookUpdate::Stale { age } => json!({ "type": "stale", "age_ms": age.as_millis() as u64 }),
        BookUpdate::Moved { why } => json!({ "type": "moved", "why": why }),
    };
    if let BookUpdate::Snapshot { mark, .. }
    | BookUpdate::Changed { mark, .. }
    | BookUpdate::Idle { mark, .. } = update
    {
        value["height"] = mark.height.into();
        value["finalized"] = mark.finalized.into();
        value["book_hash"] = hex::encode(mark.book_hash).into();
    }
    value["seq"] = seq.into();
    value["bid"] = best(Side::Buy).into();
    value["ask"] = best(Side::Sell).into();
    value
}

fn update_text(update: &BookUpdate) -> String {
    match update {
        BookUpdate::Snapshot { reason, mark, .. } => {
            format!("after block {} (snapshot: {})", mark.height, reason.name())
        }
        BookUpdate::Changed { mark, .. } => format!("after block {}", mark.height),
        BookUpdate::Idle { age, mark } => {
            format!("after block {}, nothing new for {} s", mark.height, age.as_secs())
        }
        BookUpdate::Stale { age } => format!("STALE: nothing heard for {} s", age.as_secs()),
        BookUpdate::Moved { why } => format!("going on at another node: {why}"),
    }
}

async fn follow(
    node: &Connected,
    name: &str,
    units: &Units,
    args: &BookArgs,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let nodes = std::iter::once(&node.address).chain(&args.also).cloned().collect();
    let pool = Pool::new(PoolConfig::new(Identity::generate()), nodes);
    let mut book = pool.book(name);
    let draws = stdout().is_terminal() && !out.is_json();
    let mut shown = 0;
    loop {
        let update = book.next().await?;
        let view = DepthView::of(book.book(), args.depth as usize, args.group);
        let seq = book.place().map_or(0, |place| place.at.seq);
        let remark = format!("{} (entry {seq})", update_text(&update));
        let text = if draws {
            // Home, clear: the ladder stands still and its numbers move.
            format!("\x1b[H\x1b[2J{}", ladder(name, &view, units, &remark))
        } else {
            best_line(book.book(), units, &remark)
        };
        out.answer(&update_json(&update, &view, seq, units), text)?;
        shown += 1;
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn best_line(book: &OrderBook, units: &Units, remark: &str) -> String {
    let best = |side| {
        let level = book.best(side);
        level.map_or("-".into(), |level| format!("{} x {}", units.price(level.ticks), units.size(level.lots)))
    };
    format!("bid {:<24} ask {:<24} {remark}", best(Side::Buy), best(Side::Sell))
}

/// Runs `ghostd trades`.
pub async fn trades(globals: &Globals, args: &TradesArgs, out: &Out) -> Result<ExitCode, Failure> {
    ask(globals, async |node| {
        let (_, units) = market(&node.client, &args.market).await?;
        let query = BookQuery::view(args.market.as_str(), BookView::BookTrades);
        let mut stream = node.client.follow_market(&query, None, CursorLimits::default()).await?;
        let mut shown = 0;
        loop {
            let event = stream.next().await.map_err(|error| {
                Failure::new(error.to_string()).hint("see whether the node still runs: ghostd status")
            })?;
            let (bytes, mark, first) = match event {
                Event::Snapshot { bytes, mark, .. } => (bytes, mark, true),
                Event::Step { bytes, mark, .. } => (bytes, mark, false),
                Event::Stale { age } => {
                    out.remark(format!("nothing heard for {} s", age.as_secs()));
                    continue;
                }
                _ => continue,
            };
            let nonsense = |_| Failure::new("the node tells what are no trades").hint("ask another node");
            let mark = BookMark::parse(&mark).map_err(nonsense)?;
            for event in decode_events(&bytes).map_err(nonsense)? {
                let Some(mut value) = trade_json(&event, &units) else { continue };
                value["height"] = mark.height.into();
                let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
                let line = format!(
                    "{:>8}  {:<4}  {:>14} at {}",
                    if first { "earlier".into() } else { mark.height.to_string() },
                    text("side"),
                    text("size"),
                    text("price"),
                );
                out.answer(&value, line)?;
                shown += 1;
                if args.count.is_some_and(|count| shown >= count) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            if !args.follow {
                return Ok(ExitCode::SUCCESS);
            }
        }
    })
    .await
}

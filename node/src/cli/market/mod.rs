//! `ghostd markets`, `order`, `book` and `trades`.

mod book;
mod order;
mod units;

use std::process::ExitCode;

use clap::Args;
use ghost_proto::{Address, message};
use ghost_protocol::client::Client;
use serde_json::{Value, json};

pub use self::{
    book::{BookArgs, TradesArgs, book, trades},
    order::{OrderArgs, order},
    units::Units,
};
use super::{
    Globals,
    account::signing_key,
    connect::ask,
    output::{Failure, Out, Table},
};

/// `ghostd markets`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ghostd markets --home a\n  ghostd markets GHOST/USD --json")]
pub struct MarketsArgs {
    /// Only this one
    market: Option<String>,
}

/// `ghostd balances`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  ghostd balances --home a\n  ghostd balances 0x00000000000000000000000000000000000000aa"
)]
pub struct BalancesArgs {
    /// Whose [default: the account of accounts/dev.key of the home]
    address: Option<Address>,
}

/// The row of one market, and its units.
async fn market(client: &Client, name: &str) -> Result<(message::MarketRow, Units), Failure> {
    let answer = client.markets(name).await?;
    let row = answer.markets.into_iter().next();
    let row = row.ok_or_else(|| Failure::new("the node answered nothing").hint("ask another node"))?;
    let units = Units::of(&row).ok_or_else(|| {
        Failure::new(format!("the node tells nonsense about {name}")).hint("ask another node")
    })?;
    Ok((row, units))
}

fn number(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_be_bytes)
}

fn market_json(row: &message::MarketRow, units: &Units) -> Value {
    let price = |ticks| (ticks > 0).then(|| units.price(ticks));
    json!({
        "market": row.name, "base": row.base, "quote": row.quote,
        "lot": units.size(1), "tick": units.price(1),
        "maker_fee_ppm": row.maker_fee_ppm, "taker_fee_ppm": row.taker_fee_ppm,
        "bid": price(row.bid_ticks), "bid_size": units.size(row.bid_lots),
        "ask": price(row.ask_ticks), "ask_size": units.size(row.ask_lots),
        "last": price(row.last_ticks), "orders": row.orders, "placed": row.placed, "trades": row.trades,
        "volume": units.size_of(number(&row.volume_lots)),
        "volume_quote": units.quote_of(number(&row.volume_quote)),
        "bid_depth": units.size(row.bid_depth_lots), "ask_depth": units.size(row.ask_depth_lots),
        "seq": row.seq, "hash": hex::encode(&row.hash),
    })
}

/// Runs `ghostd markets`.
pub async fn markets(globals: &Globals, args: &MarketsArgs, out: &Out) -> Result<ExitCode, Failure> {
    ask(globals, async |node| {
        let answer = node.client.markets(args.market.as_deref().unwrap_or_default()).await?;
        let mut table =
            Table::new(["market", "bid", "ask", "last", "orders", "trades", "volume", "lot", "tick"]);
        let mut rows = Vec::new();
        for row in &answer.markets {
            let Some(units) = Units::of(row) else { continue };
            let price = |ticks| if ticks > 0 { units.price(ticks) } else { "-".into() };
            table.row([
                row.name.clone(),
                price(row.bid_ticks),
                price(row.ask_ticks),
                price(row.last_ticks),
                row.orders.to_string(),
                row.trades.to_string(),
                units.size_of(number(&row.volume_lots)),
                units.size(1),
                units.price(1),
            ]);
            rows.push(market_json(row, &units));
        }
        let height = answer.at.map_or(0, |at| at.height);
        out.answer(&json!({ "height": height, "markets": rows }), table)
    })
    .await
}

/// Runs `ghostd balances`.
pub async fn balances(globals: &Globals, args: &BalancesArgs, out: &Out) -> Result<ExitCode, Failure> {
    ask(globals, async |node| {
        let address = match args.address {
            Some(address) => address,
            None => signing_key(None, node.home.as_ref())?.address(),
        };
        let answer = node.client.balances(address).await?;
        let mut table = Table::new(["asset", "free", "in orders"]);
        let mut rows = Vec::new();
        for row in &answer.balances {
            let shown = |bytes: &[u8]| units::decimal(number(bytes), row.decimals);
            table.row([row.asset.clone(), shown(&row.free), shown(&row.locked)]);
            rows.push(json!({
                "asset": row.asset, "free": shown(&row.free), "locked": shown(&row.locked),
                "free_units": number(&row.free).to_string(), "locked_units": number(&row.locked).to_string(),
            }));
        }
        out.answer(&json!({ "address": address.to_string(), "balances": rows }), table)
    })
    .await
}

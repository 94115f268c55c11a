//! `ghostd order`: placing, cancelling, replacing and listing.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use ghost_proto::{
    Action, Address, Outcome, Receipt, Transaction,
    market::{BookMark, DEX_ADDRESS, OrderBook, OrderEvent, OrderKind, Side, decode_events},
    message::BookView,
};
use ghost_protocol::{
    client::BookQuery,
    feed::{CursorLimits, Event},
};
use serde_json::{Value, json};

use super::{Units, market};
use crate::{
    cli::{
        Globals,
        account::signing_key,
        connect::{Connected, ask, block_ref_json, block_ref_text},
        output::{Failure, Out, Table},
        parse_duration,
        tx::send::wait_included,
    },
    engine::{GAS_ORDER, GAS_PER_MATCH, GAS_TRANSACTION},
};

/// Resting orders that an order may meet, unless --gas says otherwise.
const MATCHES_USUAL: u64 = 50;

/// `ghostd order`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ghostd order place --home a --market GHOST/USD --side buy --price 1.25 --size 10
  ghostd order cancel --home a GHOST/USD:17
  ghostd order list --home a --market GHOST/USD")]
pub struct OrderArgs {
    #[command(subcommand)]
    command: OrderCommand,
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Put an order into a market
    Place(PlaceArgs),
    /// Take an order off, or make it smaller
    Cancel(CancelArgs),
    /// Take an order off and place another one on the same side, in one step
    Replace(ReplaceArgs),
    /// The open orders of an account in a market
    List(ListArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SideArg {
    Buy,
    Sell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// What does not trade at once rests in the book
    Limit,
    /// What does not trade at once is over
    Ioc,
    /// All of it trades at once, or nothing does
    Fok,
    /// It rests, or is refused if any of it would trade at once
    PostOnly,
}

#[derive(Debug, Args)]
struct Signing {
    /// Key of the account [default: accounts/dev.key of the home]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Most gas: 30,000, and 5,000 for each resting order that it may meet [default: enough for 50]
    #[arg(long, value_name = "N")]
    gas: Option<u64>,
    /// Base units for each unit of gas [default: the least the node takes now]
    #[arg(long, value_name = "N")]
    gas_price: Option<u64>,
    /// Do not wait: print the id of the transaction
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for a block
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    wait_timeout: Duration,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// Which market: BASE/QUOTE
    #[arg(long, value_name = "M")]
    market: String,
    /// Buy or sell the base
    #[arg(long)]
    side: SideArg,
    /// Worst price, in quote for one base
    #[arg(long, value_name = "P")]
    price: String,
    /// How much, in base
    #[arg(long, value_name = "S")]
    size: String,
    /// What becomes of what does not trade at once
    #[arg(long, default_value = "limit")]
    kind: KindArg,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Debug, Args)]
struct CancelArgs {
    /// Which order: MARKET:NUMBER, as it was printed when it was placed; or a number, with --market
    #[arg(value_name = "ID")]
    order: String,
    /// Which market
    #[arg(long, value_name = "M")]
    market: Option<String>,
    /// Leave so much of it: it keeps its place
    #[arg(long, value_name = "S")]
    leave: Option<String>,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    /// Which order, as for cancel
    #[arg(value_name = "ID")]
    order: String,
    /// Which market
    #[arg(long, value_name = "M")]
    market: Option<String>,
    /// Worst price of the new one
    #[arg(long, value_name = "P")]
    price: String,
    /// Its size
    #[arg(long, value_name = "S")]
    size: String,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Which market
    #[arg(long, value_name = "M")]
    market: String,
    /// Whose [default: the account of accounts/dev.key of the home]
    #[arg(long, value_name = "ADDRESS")]
    owner: Option<Address>,
}

/// Runs `ghostd order`.
pub async fn order(globals: &Globals, args: OrderArgs, out: &Out) -> Result<ExitCode, Failure> {
    ask(globals, async |node| match &args.command {
        OrderCommand::Place(args) => place(node, args, out).await,
        OrderCommand::Cancel(args) => {
            let (name, order) = named(&args.order, args.market.as_deref())?;
            let (number, units) = numbered(node, &name).await?;
            let leave = match &args.leave {
                Some(size) => units.lots(size).map_err(Failure::usage)?,
                None => 0,
            };
            let action = Action::Cancel { market: number, order, leave };
            send(node, &args.signing, action, &name, &units, out).await
        }
        OrderCommand::Replace(args) => {
            let (name, order) = named(&args.order, args.market.as_deref())?;
            let (number, units) = numbered(node, &name).await?;
            let ticks = units.ticks(&args.price).map_err(Failure::usage)?;
            let lots = units.lots(&args.size).map_err(Failure::usage)?;
            let action = Action::Replace { market: number, order, ticks, lots };
            send(node, &args.signing, action, &name, &units, out).await
        }
        OrderCommand::List(args) => list(node, args, out).await,
    })
    .await
}

fn named(order: &str, market: Option<&str>) -> Result<(String, u64), Failure> {
    let wrong =
        || Failure::usage(format!("`{order}` names no order; write MARKET:NUMBER, such as GHOST/USD:17"));
    let (market, number) = match (order.rsplit_once(':'), market) {
        (Some((market, number)), _) => (market, number),
        (None, Some(market)) => (market, order),
        (None, None) => return Err(wrong()),
    };
    Ok((market.into(), number.parse().map_err(|_| wrong())?))
}

/// The number of a market in the genesis, and its units.
async fn numbered(node: &Connected, name: &str) -> Result<(u32, Units), Failure> {
    let (row, units) = market(&node.client, name).await?;
    let all = node.client.markets("").await?.markets;
    let number = (0..).zip(&all).find(|(_, other)| other.name == row.name).map(|(number, _)| number);
    let number = number.ok_or_else(|| Failure::new(format!("the node does not list {name}")))?;
    Ok((number, units))
}

async fn place(node: &Connected, args: &PlaceArgs, out: &Out) -> Result<ExitCode, Failure> {
    let (number, units) = numbered(node, &args.market).await?;
    let action = Action::Place {
        market: number,
        side: match args.side {
            SideArg::Buy => Side::Buy,
            SideArg::Sell => Side::Sell,
        },
        kind: match args.kind {
            KindArg::Limit => OrderKind::Limit,
            KindArg::Ioc => OrderKind::ImmediateOrCancel,
            KindArg::Fok => OrderKind::FillOrKill,
            KindArg::PostOnly => OrderKind::PostOnly,
        },
        ticks: units.ticks(&args.price).map_err(Failure::usage)?,
        lots: units.lots(&args.size).map_err(Failure::usage)?,
    };
    send(node, &args.signing, action, &args.market, &units, out).await
}

async fn send(
    node: &Connected,
    signing: &Signing,
    action: Action,
    name: &str,
    units: &Units,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let key = signing_key(signing.key.as_ref(), node.home.as_ref())?;
    let status = node.client.status().await?;
    let nonce = node.client.account(key.address()).await?.next_nonce;
    let least = status.mempool.unwrap_or_default().gas_price_min;
    let meets = if matches!(action, Action::Cancel { .. }) { 0 } else { MATCHES_USUAL };
    let body = Transaction {
        chain_id: status.chain_id,
        sender_key: key.public(),
        nonce,
        gas_limit: signing.gas.unwrap_or(GAS_TRANSACTION + GAS_ORDER + meets * GAS_PER_MATCH),
        gas_price: signing.gas_price.unwrap_or(least),
        action,
    };
    let tx = body.sign(&key).map_err(|error| Failure::usage(format!("the order cannot be: {error}")))?;
    let results = node.client.submit(vec![tx.bytes().clone()]).await?;
    let result =
        results.first().ok_or_else(|| Failure::new("the node answered nothing").hint("ask another node"))?;
    if !result.accepted {
        return Err(Failure::new(format!("refused ({}): {}", result.reason, result.message)));
    }
    let id = tx.id();
    if signing.no_wait {
        return out.answer(&json!({ "id": id.to_string(), "nonce": nonce, "accepted": true }), id);
    }
    let shown = wait_included(&node.client, id, signing.wait_timeout).await?;
    let Some(receipt) = &shown.receipt else {
        return Err(Failure::new(format!("the node sent no receipt for {id}")).hint("ask another node"));
    };
    if receipt.outcome != Outcome::Done {
        let why = match receipt.outcome {
            Outcome::InsufficientBalance => {
                "the account has not what the order takes; see ghostd balances".into()
            }
            Outcome::Reverted => String::from_utf8_lossy(&receipt.output).into_owned(),
            other => other.name().into(),
        };
        return Err(Failure::new(format!("transaction {id} stands in a block and did nothing: {why}"))
            .with("id", id.to_string()));
    }
    let done = Done::of(receipt);
    let trades: Vec<_> = done.events.iter().filter_map(|event| trade_json(event, units)).collect();
    let value = json!({
        "id": id.to_string(),
        "order": format!("{name}:{}", done.order),
        "filled": units.size(done.filled),
        "rests": units.size(done.rests),
        "trades": trades,
        "gas_used": receipt.gas_used,
        "block": block_ref_json(shown.answer.block.as_ref()),
    });
    let mut text = format!(
        "order       {name}:{}\nfilled      {}\nrests       {}\nblock       {}",
        done.order,
        units.size(done.filled),
        units.size(done.rests),
        block_ref_text(shown.answer.block.as_ref()),
    );
    for event in &done.events {
        if let OrderEvent::Traded { ticks, lots, maker, .. } = event {
            text +=
                &format!("\ntrade       {} at {} with order {maker}", units.size(*lots), units.price(*ticks));
        }
    }
    out.answer(&value, text)
}

/// What an order did, as its receipt tells.
struct Done {
    order: u64,
    filled: u64,
    rests: u64,
    events: Vec<OrderEvent>,
}

impl Done {
    fn of(receipt: &Receipt) -> Self {
        let mut numbers =
            receipt.output.chunks_exact(8).map(|chunk| chunk.try_into().map_or(0, u64::from_be_bytes));
        let mut next = || numbers.next().unwrap_or_default();
        let logs = receipt.logs.iter().filter(|log| log.address == DEX_ADDRESS);
        let events = logs.flat_map(|log| decode_events(&log.data).unwrap_or_default()).collect();
        Self { order: next(), filled: next(), rests: next(), events }
    }
}

/// A trade for programs; `None` for what is none.
pub(super) fn trade_json(event: &OrderEvent, units: &Units) -> Option<Value> {
    let OrderEvent::Traded { maker, taker, side, ticks, lots, .. } = *event else { return None };
    Some(json!({
        "maker": maker, "taker": taker, "side": side.name(), "price": units.price(ticks),
        "size": units.size(lots),
    }))
}

async fn list(node: &Connected, args: &ListArgs, out: &Out) -> Result<ExitCode, Failure> {
    let owner = match args.owner {
        Some(owner) => owner,
        None => signing_key(None, node.home.as_ref())?.address(),
    };
    let (_, units) = market(&node.client, &args.market).await?;
    let query = BookQuery {
        owner: Bytes::copy_from_slice(&owner.0),
        ..BookQuery::view(args.market.as_str(), BookView::BookOwn)
    };
    let mut stream = node.client.follow_market(&query, None, CursorLimits::default()).await?;
    let event = stream.next().await.map_err(|error| Failure::new(error.to_string()))?;
    let Event::Snapshot { bytes, mark, .. } = event else {
        return Err(Failure::new("the node did not begin with a snapshot").hint("ask another node"));
    };
    let nonsense = || Failure::new("the node tells what is no book").hint("ask another node");
    let book = OrderBook::decode(bytes).map_err(|_| nonsense())?;
    let mark = BookMark::parse(&mark).map_err(|_| nonsense())?;
    let mut table = Table::new(["order", "side", "price", "size"]);
    let mut rows = Vec::new();
    for side in [Side::Buy, Side::Sell] {
        for it in book.orders(side) {
            let id = format!("{}:{}", args.market, it.order);
            let (price, size) = (units.price(it.ticks), units.size(it.lots));
            rows.push(json!({ "order": id, "side": side.name(), "price": price, "size": size }));
            table.row([id, side.name().into(), price, size]);
        }
    }
    let value =
        json!({ "owner": owner.to_string(), "market": args.market, "height": mark.height, "orders": rows });
    out.answer(&value, table)
}

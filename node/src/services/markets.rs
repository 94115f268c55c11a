//! Calls about markets and balances.

use bytes::Bytes;
use ghost_proto::{Address, market::Side, message};

use super::rpc::{Failure, block_ref};
use crate::{
    chain::HeadView,
    dex::{MarketState, read_balance},
};

/// Prices whose lots a summary adds up on each side.
const SUMMARY_LEVELS: usize = 10;

/// Finds a market by its name, or says which there are.
pub(crate) fn find<'v>(view: &'v HeadView, name: &str) -> Result<(u32, &'v MarketState), Failure> {
    let markets = &view.genesis().markets;
    let found = markets.market(name).and_then(|(number, _)| Some((number, view.dex().market(number)?)));
    found.ok_or_else(|| {
        let all: Vec<_> = (0..).map_while(|number| markets.name_of(number)).collect();
        let all = if all.is_empty() { "none".into() } else { all.join(", ") };
        Failure::not_found(format!("there is no market {name:?}; this chain has: {all}"))
    })
}

fn row(view: &HeadView, number: u32, market: &MarketState) -> message::MarketRow {
    let all = &view.genesis().markets;
    let (rules, record) = (market.rules(), market.record());
    let book = market.order_book();
    let best = |side| book.best(side).map_or((0, 0), |level| (level.ticks, level.lots));
    let depth = |side| book.levels(side, SUMMARY_LEVELS, 1).iter().map(|level| level.lots).sum();
    let ((bid_ticks, bid_lots), (ask_ticks, ask_lots)) = (best(Side::Buy), best(Side::Sell));
    message::MarketRow {
        name: all.name_of(number).unwrap_or_default(),
        base: all.symbol(rules.base).into(),
        quote: all.symbol(rules.quote).into(),
        base_decimals: all.decimals(rules.base).into(),
        quote_decimals: all.decimals(rules.quote).into(),
        lot: rules.lot,
        tick: rules.tick,
        maker_fee_ppm: rules.maker_fee_ppm,
        taker_fee_ppm: rules.taker_fee_ppm,
        seq: record.position.seq,
        hash: Bytes::copy_from_slice(&record.position.hash),
        orders: book.len() as u64,
        bid_ticks,
        bid_lots,
        ask_ticks,
        ask_lots,
        last_ticks: record.last_ticks,
        trades: record.trades,
        volume_lots: Bytes::copy_from_slice(&record.volume_lots.to_be_bytes()),
        volume_quote: Bytes::copy_from_slice(&record.volume_quote.to_be_bytes()),
        placed: record.placed,
        bid_depth_lots: depth(Side::Buy),
        ask_depth_lots: depth(Side::Sell),
    }
}

/// One market or all.
pub(crate) fn markets(view: &HeadView, name: &str) -> Result<message::MarketsAnswer, Failure> {
    let rows = if name.is_empty() {
        (0..).zip(view.dex().markets()).map(|(number, market)| row(view, number, market)).collect()
    } else {
        let (number, market) = find(view, name)?;
        vec![row(view, number, market)]
    };
    Ok(message::MarketsAnswer { at: Some(block_ref(view.head())), markets: rows })
}

/// All assets of an account, also those it has nothing of.
pub(crate) fn balances(view: &HeadView, address: &[u8]) -> Result<message::BalancesAnswer, Failure> {
    let address = Address::try_from(address).map_err(|error| Failure::invalid(error.to_string()))?;
    let all = &view.genesis().markets;
    let rows = (0..=all.assets.len() as u16).map(|asset| {
        let balance = read_balance(view.state(), asset, &address)?;
        Ok(message::BalanceRow {
            asset: all.symbol(asset).into(),
            decimals: all.decimals(asset).into(),
            free: Bytes::copy_from_slice(&balance.free.to_be_bytes()),
            locked: Bytes::copy_from_slice(&balance.locked.to_be_bytes()),
        })
    });
    let balances = rows.collect::<Result<_, Failure>>()?;
    Ok(message::BalancesAnswer { at: Some(block_ref(view.head())), balances })
}

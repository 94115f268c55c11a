//! What a proposer puts into its block.

use ghost_proto::{
    FeedSpec, Genesis, PriceBatch, Quote,
    limits::PRICE_EVIDENCE_PER_BATCH_MAX,
    price::{aggregate, is_fresh},
};

use super::{
    relay::Board,
    state::{is_excluded_at, price_at},
};
use crate::{chain::Snapshot, store::StoreError};

/// The prices that are due for the block of a slot, on the state of its parent: those that moved by the
/// feed's deviation, those whose committed price is older than the heartbeat, and evidence against
/// publishers that still count. `None` if nothing is due.
///
/// # Errors
/// [`StoreError`] if the state cannot be read.
pub fn due(
    genesis: &Genesis,
    board: &Board,
    snapshot: &Snapshot,
    slot_unix_ms: u64,
) -> Result<Option<PriceBatch>, StoreError> {
    let mut batch = PriceBatch::default();
    for (spec, row) in genesis.feeds.iter().zip(&board.feeds) {
        for evidence in row.evidence.iter() {
            let room = batch.equivocations.len() < PRICE_EVIDENCE_PER_BATCH_MAX;
            if room && !is_excluded_at(snapshot, &spec.key(), evidence.publisher())? {
                batch.equivocations.push(*evidence);
            }
        }
        let Some(quote) = &row.quote else { continue };
        if let Some(quote) = due_quote(spec, quote, row, snapshot, slot_unix_ms)? {
            batch.quotes.push(quote);
        }
    }
    Ok((!batch.is_empty()).then_some(batch))
}

fn due_quote(
    spec: &FeedSpec,
    quote: &Quote,
    row: &super::relay::Row,
    snapshot: &Snapshot,
    slot_unix_ms: u64,
) -> Result<Option<Quote>, StoreError> {
    let key = spec.key();
    let mut reports = Vec::with_capacity(quote.reports.len());
    for report in &quote.reports {
        let accused = row.evidence.iter().any(|evidence| evidence.publisher() == report.publisher);
        let fresh = is_fresh(spec, report, slot_unix_ms);
        if fresh && !accused && !is_excluded_at(snapshot, &key, report.publisher)? {
            reports.push(*report);
        }
    }
    let Ok(now) = aggregate(spec, &reports, slot_unix_ms) else { return Ok(None) };
    let due = match price_at(snapshot, &key)? {
        None => true,
        Some(before) => {
            let before = before.aggregate;
            now.time_unix_ms > before.time_unix_ms
                && (spec.deviates(before.price, now.price)
                    || before.age_ms(slot_unix_ms) >= spec.heartbeat_ms)
        }
    };
    Ok(due.then_some(Quote { feed: quote.feed, reports }))
}

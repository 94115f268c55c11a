//! Orders in markets.
//!
//! An order uses its intrinsic gas, and [`GAS_PER_MATCH`] for each resting order that it meets; what is left
//! of the gas limit bounds how many it may meet.

use bytes::Bytes;
use ghost_proto::{
    Action, LogEntry, Outcome, Receipt, SignedTransaction,
    market::{DEX_ADDRESS, MATCHES_MAX, ORDER_EVENTS_TOPIC, market_topic},
};

use super::{
    BlockContext, Engine, ExecuteError, NotIncludable,
    rules::{self, Bought},
};
use crate::{
    chain::state::WorkingState,
    dex::{self, Command, Failed, Refusal},
};

/// Gas of each order, besides that of every transaction: about four entries of the state.
pub const GAS_ORDER: u64 = 9_000;
/// Gas of each resting order that it meets: two balances and the order.
pub const GAS_PER_MATCH: u64 = 5_000;

/// Executes orders.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders;

fn command(action: &Action) -> Option<(u32, Command)> {
    match *action {
        Action::Place { market, side, kind, ticks, lots } => {
            Some((market, Command::Place { side, kind, ticks, lots }))
        }
        Action::Cancel { market, order, leave } => Some((market, Command::Cancel { order, leave })),
        Action::Replace { market, order, ticks, lots } => {
            Some((market, Command::Replace { order, ticks, lots }))
        }
        _ => None,
    }
}

fn refused(refusal: Refusal, gas_used: u64) -> Receipt {
    Receipt { output: refusal.to_string().into(), ..Receipt::plain(Outcome::Reverted, gas_used) }
}

impl Engine for Orders {
    fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let body = tx.body();
        let Some((number, command)) = command(&body.action) else {
            return Err(NotIncludable::OtherEngine.into());
        };
        let Bought { mut sender, gas } = rules::buy_gas(tx, state, context)?;
        let matches_max = ((body.gas_limit - gas) / GAS_PER_MATCH).min(MATCHES_MAX.into()) as u32;
        let owner = tx.sender();
        let prepared = state
            .dex()
            .market(number)
            .ok_or(Refusal::NoMarket(number))
            .and_then(|market| market.prepare(owner, &command, matches_max));
        let gas_used = gas + prepared.as_ref().map_or(0, |it| u64::from(it.matches()) * GAS_PER_MATCH);
        rules::charge(tx, &mut sender, state, context, gas_used)?;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return Ok(refused(refusal, gas_used)),
        };
        // Taken out, so that the market and the balances can be changed together.
        let mut markets = std::mem::take(state.dex_mut());
        let settled = markets.get_mut(number).map_err(Failed::from).and_then(|market| {
            let done = market.settle(&prepared, state, &context.proposer)?;
            dex::write(state, number, market, &done.touched)?;
            Ok(done)
        });
        *state.dex_mut() = markets;
        let done = match settled {
            Ok(done) => done,
            Err(Failed::InsufficientBalance) => {
                return Ok(Receipt::plain(Outcome::InsufficientBalance, gas_used));
            }
            Err(Failed::Refused(refusal)) => return Ok(refused(refusal, gas_used)),
            Err(Failed::Store(error)) => return Err(error.into()),
        };
        let mut output = Vec::with_capacity(24);
        for value in [done.order, done.filled, done.rests] {
            output.extend_from_slice(&value.to_be_bytes());
        }
        let log = (!done.entry.is_empty()).then(|| LogEntry {
            address: DEX_ADDRESS,
            topics: vec![ORDER_EVENTS_TOPIC, market_topic(number)],
            data: done.entry.clone(),
        });
        Ok(Receipt {
            output: Bytes::from(output),
            logs: log.into_iter().collect(),
            ..Receipt::plain(Outcome::Done, gas_used)
        })
    }
}

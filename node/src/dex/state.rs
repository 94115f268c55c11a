//! Markets in the state of the chain.
//!
//! ```text
//! 0x05 market (4)             record of a market, see `MarketRecord`
//! 0x06 market (4) order (8)   owner (20), side (1), ticks (8), lots (8)
//! 0x07 asset (2) owner (20)   free (16), locked (16); of the native asset only what is locked
//! ```

use std::sync::Arc;

use ghost_proto::{Address, Genesis, market::Side};

use super::{Accounts, Balance, MarketRecord, MarketState, Refusal, Resting};
use crate::{
    chain::state::{Snapshot, WorkingState},
    store::{Records, StoreError, WriteBatch},
};

const DOMAIN_MARKET: u8 = 0x05;
const DOMAIN_ORDER: u8 = 0x06;
const DOMAIN_BALANCE: u8 = 0x07;
const NATIVE: u16 = 0;

fn market_key(market: u32) -> [u8; 5] {
    let mut key = [DOMAIN_MARKET; 5];
    key[1..].copy_from_slice(&market.to_be_bytes());
    key
}

/// The state key of an order.
pub fn order_key(market: u32, order: u64) -> [u8; 13] {
    let mut key = [DOMAIN_ORDER; 13];
    key[1..5].copy_from_slice(&market.to_be_bytes());
    key[5..].copy_from_slice(&order.to_be_bytes());
    key
}

/// The state key of a balance.
pub fn balance_key(asset: u16, owner: &Address) -> [u8; 23] {
    let mut key = [DOMAIN_BALANCE; 23];
    key[1..3].copy_from_slice(&asset.to_be_bytes());
    key[3..].copy_from_slice(&owner.0);
    key
}

fn encode_order(resting: &Resting) -> [u8; 37] {
    let mut value = [0; 37];
    value[..20].copy_from_slice(&resting.owner.0);
    value[20] = resting.side.code();
    value[21..29].copy_from_slice(&resting.ticks.to_be_bytes());
    value[29..].copy_from_slice(&resting.lots.to_be_bytes());
    value
}

fn decode_order(value: &[u8]) -> Option<Resting> {
    let (owner, rest) = value.split_first_chunk()?;
    let (side, rest) = rest.split_first()?;
    let (ticks, lots) = rest.split_first_chunk()?;
    Some(Resting {
        owner: Address(*owner),
        side: Side::of_code(*side).ok()?,
        ticks: u64::from_be_bytes(*ticks),
        lots: u64::from_be_bytes(lots.try_into().ok()?),
    })
}

fn encode_balance(balance: &Balance) -> Option<[u8; 32]> {
    (*balance != Balance::default()).then(|| {
        let mut value = [0; 32];
        value[..16].copy_from_slice(&balance.free.to_be_bytes());
        value[16..].copy_from_slice(&balance.locked.to_be_bytes());
        value
    })
}

fn decode_balance(value: Option<&[u8]>) -> Result<Balance, StoreError> {
    let Some(value) = value else { return Ok(Balance::default()) };
    let (free, locked) = value
        .split_first_chunk()
        .and_then(|(free, locked)| Some((free, locked.try_into().ok()?)))
        .ok_or_else(|| StoreError::damaged(format!("a balance of {} bytes, not 32", value.len())))?;
    Ok(Balance { free: u128::from_be_bytes(*free), locked: u128::from_be_bytes(locked) })
}

/// What an account has of an asset in a state.
///
/// # Errors
/// [`StoreError`] as everywhere.
pub fn read_balance(snapshot: &Snapshot, asset: u16, owner: &Address) -> Result<Balance, StoreError> {
    let balance = decode_balance(snapshot.get(&balance_key(asset, owner))?.as_deref())?;
    if asset == NATIVE {
        return Ok(Balance { free: snapshot.account(owner)?.balance, ..balance });
    }
    Ok(balance)
}

impl Accounts for WorkingState<'_> {
    fn balance(&mut self, asset: u16, owner: &Address) -> Result<Balance, StoreError> {
        let balance = decode_balance(self.get(&balance_key(asset, owner))?.as_deref())?;
        if asset == NATIVE {
            return Ok(Balance { free: self.account(owner)?.balance, ..balance });
        }
        Ok(balance)
    }

    fn set_balance(&mut self, asset: u16, owner: &Address, balance: Balance) -> Result<(), StoreError> {
        let mut kept = balance;
        if asset == NATIVE {
            let mut account = self.account(owner)?;
            account.balance = balance.free;
            self.set_account(owner, &account)?;
            kept.free = 0;
        }
        let value = encode_balance(&kept);
        self.put(&balance_key(asset, owner), value.as_ref().map(|value| value.as_slice()))
    }
}

/// All markets after one block. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Dex {
    markets: Arc<Vec<Arc<MarketState>>>,
}

impl Dex {
    /// The markets of a chain before its first block.
    pub fn new(genesis: &Genesis) -> Self {
        let id = genesis.id();
        let markets = (0..).zip(&genesis.markets.markets).map(|(number, rules)| {
            let name = genesis.markets.name_of(number).unwrap_or_default();
            Arc::new(MarketState::new(rules.clone(), id.epoch(), id.feed_origin(&name)))
        });
        Self { markets: Arc::new(markets.collect()) }
    }

    /// The markets as they are in the store, after the last final block.
    ///
    /// # Errors
    /// [`StoreError`], also if an order is of no market.
    pub fn load(genesis: &Genesis, records: &Records) -> Result<Self, StoreError> {
        let mut dex = Self::new(genesis);
        let mut broken = None;
        records.scan_state(DOMAIN_MARKET, &mut |key, value| {
            let number = key.first_chunk().map(|number| u32::from_be_bytes(*number));
            match (number.and_then(|number| dex.market_mut(number)), MarketRecord::decode(value)) {
                (Some(market), Ok(record)) => market.record = record,
                (_, record) => broken = Some(record.err()),
            }
        })?;
        records.scan_state(DOMAIN_ORDER, &mut |key, value| {
            // Ascending by number: of one price, that is their order in time.
            let order = key.split_first_chunk().and_then(|(number, order)| {
                let market = dex.market_mut(u32::from_be_bytes(*number))?;
                market.book.rest(u64::from_be_bytes(order.try_into().ok()?), &decode_order(value)?);
                Some(())
            });
            if order.is_none() {
                broken = Some(None);
            }
        })?;
        match broken {
            None => Ok(dex),
            Some(error) => {
                Err(error.unwrap_or_else(|| StoreError::damaged("an order or a market that is none")))
            }
        }
    }

    /// Writes what the genesis allots besides the native asset; `each` is told of every entry.
    pub(crate) fn write_genesis(
        genesis: &Genesis,
        batch: &mut WriteBatch,
        mut each: impl FnMut(&[u8], &[u8]),
    ) {
        for (number, asset) in (1..).zip(&genesis.markets.assets) {
            for (owner, units) in &asset.allocation {
                if let Some(value) = encode_balance(&Balance { free: *units, locked: 0 }) {
                    let key = balance_key(number, owner);
                    Records::put_state(batch, &key, Some(&value));
                    each(&key, &value);
                }
            }
        }
    }

    /// A market by its number.
    pub fn market(&self, number: u32) -> Option<&MarketState> {
        self.markets.get(number as usize).map(|market| &**market)
    }

    /// All of them.
    pub fn markets(&self) -> impl Iterator<Item = &MarketState> {
        self.markets.iter().map(|market| &**market)
    }

    /// To change one.
    ///
    /// # Errors
    /// [`Refusal::NoMarket`].
    pub(crate) fn get_mut(&mut self, number: u32) -> Result<&mut MarketState, Refusal> {
        self.market_mut(number).ok_or(Refusal::NoMarket(number))
    }

    fn market_mut(&mut self, number: u32) -> Option<&mut MarketState> {
        Arc::make_mut(&mut self.markets).get_mut(number as usize).map(Arc::make_mut)
    }
}

/// Writes what an order changed: the record of its market, and the orders that are not as they were.
pub(crate) fn write(
    state: &mut WorkingState<'_>,
    number: u32,
    market: &MarketState,
    touched: &[u64],
) -> Result<(), StoreError> {
    for order in touched {
        let value = market.book().get(*order).map(|resting| encode_order(&resting));
        state.put(&order_key(number, *order), value.as_ref().map(|value| value.as_slice()))?;
    }
    state.put(&market_key(number), Some(&market.record().encode()))
}

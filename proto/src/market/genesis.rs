//! Assets and markets as the genesis declares them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FEE_PPM_MAX, UNITS_MAX};
use crate::{
    feed::FeedPosition,
    genesis::GenesisError,
    ids::{Address, GenesisId},
    layout::put_var_bytes,
    limits::{ASSETS_MAX, MARKETS_MAX, SYMBOL_BYTES_MAX},
};

/// Symbol of what fees are paid in.
pub const NATIVE_SYMBOL: &str = "GHOST";
/// Its decimals, for people.
pub const NATIVE_DECIMALS: u8 = 9;

/// Most decimals: 10^18 units fit 64 bits.
const DECIMALS_MAX: u8 = 18;

/// Something that can be owned, besides what fees are paid in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Upper-case letters and digits, at most [`SYMBOL_BYTES_MAX`].
    pub symbol: String,
    /// How many digits people see behind the point.
    pub decimals: u8,
    /// Balances before the first block, in units.
    pub allocation: BTreeMap<Address, u128>,
}

/// What is traded for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Market {
    /// Number of the asset that is traded; 0 is the native one.
    pub base: u16,
    /// Number of the asset that it is paid with.
    pub quote: u16,
    /// Base units of one lot.
    pub lot: u64,
    /// Quote units of one lot at a price of one tick.
    pub tick: u64,
    /// Taken from whoever's order rested, in millionths of the cost.
    pub maker_fee_ppm: u32,
    /// Taken from whoever's order came.
    pub taker_fee_ppm: u32,
}

/// All assets and markets of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Markets {
    /// Number 1 and following; number 0 is the native asset.
    pub assets: Vec<Asset>,
    /// By their numbers.
    pub markets: Vec<Market>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AssetFile {
    symbol: String,
    decimals: u8,
    allocation: BTreeMap<Address, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarketFile {
    base: String,
    quote: String,
    lot: u64,
    tick: u64,
    maker_fee_ppm: u32,
    taker_fee_ppm: u32,
}

fn out_of_range(field: &'static str, value: impl ToString, allowed: impl ToString) -> GenesisError {
    GenesisError::OutOfRange { field, value: value.to_string(), allowed: allowed.to_string() }
}

impl Markets {
    pub(crate) fn of_files(assets: Vec<AssetFile>, markets: Vec<MarketFile>) -> Result<Self, GenesisError> {
        let assets = assets.into_iter().map(|file| {
            let mut allocation = BTreeMap::new();
            for (address, text) in file.allocation {
                let units = text.parse().map_err(|_| {
                    out_of_range(
                        "assets.allocation",
                        format!("{address} = {text:?}"),
                        "a whole number, as text",
                    )
                })?;
                allocation.insert(address, units);
            }
            Ok(Asset { symbol: file.symbol, decimals: file.decimals, allocation })
        });
        let mut all = Self { assets: assets.collect::<Result<_, GenesisError>>()?, markets: Vec::new() };
        for file in markets {
            let number = |symbol: &str| {
                all.number_of(symbol).ok_or_else(|| {
                    out_of_range(
                        "markets",
                        symbol,
                        format!("{NATIVE_SYMBOL}, or the symbol of one of the assets"),
                    )
                })
            };
            let (base, quote) = (number(&file.base)?, number(&file.quote)?);
            let MarketFile { lot, tick, maker_fee_ppm, taker_fee_ppm, .. } = file;
            all.markets.push(Market { base, quote, lot, tick, maker_fee_ppm, taker_fee_ppm });
        }
        Ok(all)
    }

    pub(crate) fn to_files(&self) -> (Vec<AssetFile>, Vec<MarketFile>) {
        let assets = self.assets.iter().map(|asset| AssetFile {
            symbol: asset.symbol.clone(),
            decimals: asset.decimals,
            allocation: asset.allocation.iter().map(|(at, units)| (*at, units.to_string())).collect(),
        });
        let markets = self.markets.iter().map(|market| MarketFile {
            base: self.symbol(market.base).into(),
            quote: self.symbol(market.quote).into(),
            lot: market.lot,
            tick: market.tick,
            maker_fee_ppm: market.maker_fee_ppm,
            taker_fee_ppm: market.taker_fee_ppm,
        });
        (assets.collect(), markets.collect())
    }

    pub(crate) fn check(&self) -> Result<(), GenesisError> {
        if self.assets.len() >= ASSETS_MAX {
            return Err(out_of_range("assets", self.assets.len(), format!("at most {}", ASSETS_MAX - 1)));
        }
        if self.markets.len() > MARKETS_MAX {
            return Err(out_of_range("markets", self.markets.len(), format!("at most {MARKETS_MAX}")));
        }
        for (index, asset) in self.assets.iter().enumerate() {
            let symbol = &asset.symbol;
            let spelled = (1..=SYMBOL_BYTES_MAX).contains(&symbol.len())
                && symbol.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
            if !spelled || self.number_of(symbol) != Some(index as u16 + 1) {
                let allowed = format!(
                    "1 to {SYMBOL_BYTES_MAX} of A-Z and 0-9, each symbol once, and not {NATIVE_SYMBOL}"
                );
                return Err(out_of_range("assets.symbol", symbol, allowed));
            }
            if asset.decimals > DECIMALS_MAX {
                return Err(out_of_range("assets.decimals", asset.decimals, format!("0 to {DECIMALS_MAX}")));
            }
            let supply = asset.allocation.values().try_fold(0u128, |sum, units| sum.checked_add(*units));
            if supply.is_none() {
                return Err(out_of_range("assets.allocation", "more than 2^128 - 1 in total", "less"));
            }
        }
        for (index, market) in self.markets.iter().enumerate() {
            let same = |other: &Market| (other.base, other.quote) == (market.base, market.quote);
            let name = self.name_of(index as u32).unwrap_or_default();
            if market.base == market.quote || self.markets[..index].iter().any(same) {
                return Err(out_of_range("markets", name, "two different assets, each pair once"));
            }
            for (field, units) in [("markets.lot", market.lot), ("markets.tick", market.tick)] {
                if !(1..=UNITS_MAX).contains(&units) {
                    return Err(out_of_range(field, units, format!("1 to {UNITS_MAX}")));
                }
            }
            for (field, fee) in [
                ("markets.maker_fee_ppm", market.maker_fee_ppm),
                ("markets.taker_fee_ppm", market.taker_fee_ppm),
            ] {
                if fee > FEE_PPM_MAX {
                    return Err(out_of_range(field, fee, format!("0 to {FEE_PPM_MAX}")));
                }
            }
        }
        Ok(())
    }

    /// Appends what the genesis id covers: nothing for a chain without assets and markets.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if *self == Self::default() {
            return;
        }
        put_var_bytes(out, b"markets");
        out.extend_from_slice(&(self.assets.len() as u16).to_be_bytes());
        for asset in &self.assets {
            put_var_bytes(out, asset.symbol.as_bytes());
            out.push(asset.decimals);
            out.extend_from_slice(&(asset.allocation.len() as u64).to_be_bytes());
            for (address, units) in &asset.allocation {
                out.extend_from_slice(&address.0);
                out.extend_from_slice(&units.to_be_bytes());
            }
        }
        out.extend_from_slice(&(self.markets.len() as u16).to_be_bytes());
        for market in &self.markets {
            out.extend_from_slice(&market.base.to_be_bytes());
            out.extend_from_slice(&market.quote.to_be_bytes());
            out.extend_from_slice(&market.lot.to_be_bytes());
            out.extend_from_slice(&market.tick.to_be_bytes());
            out.extend_from_slice(&market.maker_fee_ppm.to_be_bytes());
            out.extend_from_slice(&market.taker_fee_ppm.to_be_bytes());
        }
    }

    /// The number of an asset.
    pub fn number_of(&self, symbol: &str) -> Option<u16> {
        if symbol == NATIVE_SYMBOL {
            return Some(0);
        }
        self.assets.iter().position(|asset| asset.symbol == symbol).map(|index| index as u16 + 1)
    }

    /// The symbol of an asset; empty if there is none of this number.
    pub fn symbol(&self, asset: u16) -> &str {
        match usize::from(asset).checked_sub(1) {
            None => NATIVE_SYMBOL,
            Some(index) => self.assets.get(index).map_or("", |asset| &asset.symbol),
        }
    }

    /// Digits that people see behind the point of an asset.
    pub fn decimals(&self, asset: u16) -> u8 {
        match usize::from(asset).checked_sub(1) {
            None => NATIVE_DECIMALS,
            Some(index) => self.assets.get(index).map_or(0, |asset| asset.decimals),
        }
    }

    /// The name of a market: `BASE/QUOTE`.
    pub fn name_of(&self, market: u32) -> Option<String> {
        let market = self.markets.get(market as usize)?;
        Some(format!("{}/{}", self.symbol(market.base), self.symbol(market.quote)))
    }

    /// The market with a name.
    pub fn market(&self, name: &str) -> Option<(u32, &Market)> {
        (0..).zip(&self.markets).find(|(index, _)| self.name_of(*index).as_deref() == Some(name))
    }
}

impl GenesisId {
    /// The epoch of everything that follows the chain: the first 8 bytes of the id.
    pub fn epoch(&self) -> u64 {
        self.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    /// Where the feed of a market begins.
    pub fn feed_origin(&self, name: &str) -> FeedPosition {
        FeedPosition::origin(self.epoch(), name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markets() -> Markets {
        let allocation = [(Address([1; 20]), 5)].into();
        let market = Market { base: 0, quote: 1, lot: 10, tick: 1, maker_fee_ppm: 0, taker_fee_ppm: 1 };
        Markets {
            assets: vec![Asset { symbol: "USD".into(), decimals: 6, allocation }],
            markets: vec![market],
        }
    }

    #[test]
    fn each_bad_value_is_named() {
        assert_eq!(markets().check(), Ok(()));
        let refused = |change: &dyn Fn(&mut Markets)| {
            let mut changed = markets();
            change(&mut changed);
            changed.check().unwrap_err().to_string()
        };
        assert!(refused(&|it| it.assets[0].symbol = "usd".into()).contains("assets.symbol"));
        assert!(refused(&|it| it.assets[0].symbol = NATIVE_SYMBOL.into()).contains("assets.symbol"));
        assert!(refused(&|it| it.markets[0].tick = 0).contains("markets.tick"));
        assert!(refused(&|it| it.markets[0].taker_fee_ppm = FEE_PPM_MAX + 1).contains("taker_fee_ppm"));
        assert!(refused(&|it| it.markets.push(it.markets[0].clone())).contains("GHOST/USD"));
    }

    #[test]
    fn names_lead_to_markets_and_back() {
        let markets = markets();
        assert_eq!(markets.name_of(0).as_deref(), Some("GHOST/USD"));
        assert_eq!(markets.market("GHOST/USD").map(|(index, _)| index), Some(0));
        assert_eq!(markets.market("USD/GHOST"), None);
        let (assets, list) = markets.to_files();
        assert_eq!(Markets::of_files(assets, list), Ok(markets));
    }
}

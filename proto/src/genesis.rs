//! The genesis file: what makes two nodes be of one chain.
//!
//! People write it as TOML. Its id is BLAKE3 over a canonical encoding of the values, so comments,
//! order and spelling of the file do not matter, and every value does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Address, BlockId, GenesisId},
    keys::PublicKey,
    layout::put_var_bytes,
    limits::{
        AUTHORITIES_MAX, BLOCK_BODY_BYTES_MAX, CHAIN_NAME_BYTES_MAX, SLOT_MS_MAX, SLOT_MS_MIN, TX_BYTES_MAX,
    },
    market::{AssetFile, MarketFile, Markets},
    price::{self, FeedSpec},
};

/// A genesis that no chain can start from. The text says which value, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Not TOML, a missing or an unknown key, or a value of another type.
    #[error("the genesis file does not parse: {0}")]
    Syntax(String),
    /// A value outside its range.
    #[error("genesis `{field}` is {value}; allowed is {allowed}")]
    OutOfRange {
        /// Key in the file.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: String,
    },
}

/// Who may propose and vote, in the order of their turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritySet {
    keys: Vec<PublicKey>,
}

impl AuthoritySet {
    /// From 1 to [`AUTHORITIES_MAX`] distinct keys.
    pub fn new(keys: Vec<PublicKey>) -> Result<Self, GenesisError> {
        let mut sorted = keys.clone();
        sorted.sort();
        sorted.dedup();
        if keys.is_empty() || keys.len() > AUTHORITIES_MAX || sorted.len() != keys.len() {
            return Err(GenesisError::OutOfRange {
                field: "authorities",
                value: format!("{} keys, {} of them distinct", keys.len(), sorted.len()),
                allowed: format!("1 to {AUTHORITIES_MAX} distinct keys"),
            });
        }
        Ok(Self { keys })
    }

    /// How many there are; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Fewest that are at least two thirds: ⌈2n/3⌉. Of 4 that is 3, of 3 it is 2.
    ///
    /// Two such sets share at least ⌈n/3⌉ members, so that two conflicting finalized blocks prove
    /// that a third of the authorities broke the rules.
    pub fn quorum(&self) -> usize {
        (2 * self.keys.len()).div_ceil(3)
    }

    /// The key at an index.
    pub fn key(&self, index: u16) -> Option<&PublicKey> {
        self.keys.get(usize::from(index))
    }

    /// The index of a key.
    pub fn index_of(&self, key: &PublicKey) -> Option<u16> {
        self.keys.iter().position(|other| other == key).map(|index| index as u16)
    }

    /// Whose turn a slot is: round robin.
    pub fn proposer_of(&self, slot: u64) -> u16 {
        (slot % self.keys.len() as u64) as u16
    }

    /// All keys in turn order.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenesisFile {
    name: String,
    chain_id: u64,
    time_unix_ms: u64,
    slot_ms: u64,
    gas_price_min: u64,
    block_gas_max: u64,
    block_bytes_max: u64,
    authorities: Vec<PublicKey>,
    allocation: BTreeMap<Address, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    assets: Vec<AssetFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    markets: Vec<MarketFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    feeds: Vec<FeedSpec>,
}

/// The rules and the first state of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// For people.
    pub name: String,
    /// Stands in every transaction, so that none is valid on two chains.
    pub chain_id: u64,
    /// When slot 0 begins, in milliseconds since 1970-01-01 UTC.
    pub time_unix_ms: u64,
    /// Length of a slot in milliseconds.
    pub slot_ms: u64,
    /// Least price of a unit of gas, in base units.
    pub gas_price_min: u64,
    /// Most gas a block may use.
    pub block_gas_max: u64,
    /// Most bytes a block body may have.
    pub block_bytes_max: u64,
    /// Who proposes and votes.
    pub authorities: AuthoritySet,
    /// Balances before the first block, in base units.
    pub allocation: BTreeMap<Address, u128>,
    /// What else can be owned, and what is traded for what.
    pub markets: Markets,
    /// Prices that the chain keeps. Their places are the numbers they are known by on the wire.
    pub feeds: Vec<FeedSpec>,
}

impl Genesis {
    /// Reads and checks a genesis file.
    pub fn from_toml(text: &str) -> Result<Self, GenesisError> {
        let file: GenesisFile =
            toml::from_str(text).map_err(|error| GenesisError::Syntax(error.to_string()))?;
        let mut allocation = BTreeMap::new();
        let mut supply = 0u128;
        for (address, text) in file.allocation {
            let balance: u128 = text.parse().map_err(|_| GenesisError::OutOfRange {
                field: "allocation",
                value: format!("{address} = {text:?}"),
                allowed: "a whole number of base units, as text".into(),
            })?;
            supply = supply.checked_add(balance).ok_or_else(|| GenesisError::OutOfRange {
                field: "allocation",
                value: "more than 2^128 - 1 in total".into(),
                allowed: "a total supply that fits 128 bits".into(),
            })?;
            allocation.insert(address, balance);
        }
        let genesis = Self {
            name: file.name,
            chain_id: file.chain_id,
            time_unix_ms: file.time_unix_ms,
            slot_ms: file.slot_ms,
            gas_price_min: file.gas_price_min,
            block_gas_max: file.block_gas_max,
            block_bytes_max: file.block_bytes_max,
            authorities: AuthoritySet::new(file.authorities)?,
            allocation,
            markets: Markets::of_files(file.assets, file.markets)?,
            feeds: file.feeds,
        };
        genesis.check()?;
        Ok(genesis)
    }

    fn check(&self) -> Result<(), GenesisError> {
        self.markets.check()?;
        let name_ok = (1..=CHAIN_NAME_BYTES_MAX).contains(&self.name.len());
        if !name_ok {
            return Err(GenesisError::OutOfRange {
                field: "name",
                value: format!("{} bytes long", self.name.len()),
                allowed: format!("1 to {CHAIN_NAME_BYTES_MAX} bytes"),
            });
        }
        price::check_feeds(&self.feeds)?;
        for (field, value, min, max) in [
            ("chain_id", self.chain_id, 1, i64::MAX as u64),
            ("time_unix_ms", self.time_unix_ms, 1, 1 << 48),
            ("slot_ms", self.slot_ms, SLOT_MS_MIN, SLOT_MS_MAX),
            ("block_gas_max", self.block_gas_max, 1_000_000, i64::MAX as u64),
            ("block_bytes_max", self.block_bytes_max, 2 * TX_BYTES_MAX as u64, BLOCK_BODY_BYTES_MAX as u64),
        ] {
            if value < min || value > max {
                return Err(GenesisError::OutOfRange {
                    field,
                    value: value.to_string(),
                    allowed: format!("{min} to {max}"),
                });
            }
        }
        Ok(())
    }

    /// Writes the file that [`Self::from_toml`] reads.
    pub fn to_toml(&self) -> String {
        let (assets, markets) = self.markets.to_files();
        let file = GenesisFile {
            assets,
            markets,
            name: self.name.clone(),
            chain_id: self.chain_id,
            time_unix_ms: self.time_unix_ms,
            slot_ms: self.slot_ms,
            gas_price_min: self.gas_price_min,
            block_gas_max: self.block_gas_max,
            block_bytes_max: self.block_bytes_max,
            authorities: self.authorities.keys.clone(),
            allocation: self
                .allocation
                .iter()
                .map(|(address, balance)| (*address, balance.to_string()))
                .collect(),
            feeds: self.feeds.clone(),
        };
        toml::to_string(&file).expect("a genesis has no value that TOML cannot hold")
    }

    /// BLAKE3 over the canonical encoding. What a chain may be without is hashed behind the id of the chain
    /// without it: a chain that has no feeds has the id it would have if there were no such thing.
    pub fn id(&self) -> GenesisId {
        let mut out = b"ghost/genesis/1\0".to_vec();
        put_var_bytes(&mut out, self.name.as_bytes());
        for number in [
            self.chain_id,
            self.time_unix_ms,
            self.slot_ms,
            self.gas_price_min,
            self.block_gas_max,
            self.block_bytes_max,
            self.authorities.len() as u64,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for key in &self.authorities.keys {
            out.extend_from_slice(&key.0);
        }
        for (address, balance) in &self.allocation {
            out.extend_from_slice(&address.0);
            out.extend_from_slice(&balance.to_be_bytes());
        }
        self.markets.encode(&mut out);
        let mut id = *blake3::hash(&out).as_bytes();
        if !self.feeds.is_empty() {
            let mut out = b"ghost/genesis/feeds/1\0".to_vec();
            out.extend_from_slice(&id);
            self.feeds.iter().for_each(|feed| feed.encode(&mut out));
            id = *blake3::hash(&out).as_bytes();
        }
        GenesisId(id)
    }

    /// The id that blocks of height 1 name as their parent: the genesis id itself.
    pub fn block_id(&self) -> BlockId {
        BlockId(self.id().0)
    }

    /// The slot at a time, `None` before slot 0 begins.
    pub fn slot_at(&self, unix_ms: u64) -> Option<u64> {
        Some(unix_ms.checked_sub(self.time_unix_ms)? / self.slot_ms)
    }

    /// When a slot begins, in milliseconds since 1970-01-01 UTC.
    pub fn slot_start_unix_ms(&self, slot: u64) -> u64 {
        self.time_unix_ms.saturating_add(slot.saturating_mul(self.slot_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis() -> Genesis {
        Genesis {
            name: "test".into(),
            chain_id: 1,
            time_unix_ms: 1_000,
            slot_ms: 500,
            gas_price_min: 1,
            block_gas_max: 30_000_000,
            block_bytes_max: 1 << 20,
            authorities: AuthoritySet::new(vec![PublicKey([1; 32]), PublicKey([2; 32])]).unwrap(),
            allocation: [(Address([1; 20]), u128::MAX)].into(),
            markets: Markets::default(),
            feeds: Vec::new(),
        }
    }

    #[test]
    fn file_round_trip_keeps_the_id() {
        let genesis = genesis();
        let again = Genesis::from_toml(&genesis.to_toml()).unwrap();
        assert_eq!(again, genesis);
        assert_eq!(again.id(), genesis.id());
        let other = Genesis { slot_ms: 501, ..genesis.clone() };
        assert_ne!(other.id(), again.id());

        let with = |feeds: Vec<FeedSpec>| Genesis { feeds, ..genesis.clone() };
        let quick = Genesis::from_toml(&with(vec![feed("A")]).to_toml()).unwrap();
        assert_eq!(quick, with(vec![feed("A")]));
        let slow = FeedSpec { max_age_ms: 5_001, ..feed("A") };
        let ids = [genesis.id(), quick.id(), with(vec![slow]).id(), with(vec![feed("A"), feed("B")]).id()];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id));
        }
    }

    fn feed(name: &str) -> FeedSpec {
        FeedSpec {
            name: name.into(),
            exponent: -8,
            publishers: vec![PublicKey([3; 32]), PublicKey([4; 32])],
            quorum: 2,
            heartbeat_ms: 1_000,
            deviation_bps: 50,
            max_age_ms: 5_000,
        }
    }

    #[test]
    fn each_bound_of_a_feed_from_both_sides() {
        let keys = |count: u8| (0..count).map(|n| PublicKey([n; 32])).collect::<Vec<_>>();
        let good = |feed: FeedSpec| {
            Genesis::from_toml(&Genesis { feeds: vec![feed], ..genesis() }.to_toml()).is_ok()
        };
        let base = || feed("GHO/USD");
        for (change, ok) in [
            (FeedSpec { name: "A".repeat(32), ..base() }, true),
            (FeedSpec { name: "A".repeat(33), ..base() }, false),
            (FeedSpec { name: String::new(), ..base() }, false),
            (FeedSpec { name: "gho".into(), ..base() }, false),
            (FeedSpec { exponent: -18, ..base() }, true),
            (FeedSpec { exponent: -19, ..base() }, false),
            (FeedSpec { exponent: 19, ..base() }, false),
            (FeedSpec { publishers: keys(11), ..base() }, true),
            (FeedSpec { publishers: keys(12), ..base() }, false),
            (FeedSpec { publishers: vec![PublicKey([3; 32]); 2], ..base() }, false),
            (FeedSpec { quorum: 0, ..base() }, false),
            (FeedSpec { quorum: 3, ..base() }, false),
            (FeedSpec { heartbeat_ms: 5_000, ..base() }, true),
            (FeedSpec { heartbeat_ms: 5_001, ..base() }, false),
            (FeedSpec { deviation_bps: 10_000, ..base() }, true),
            (FeedSpec { deviation_bps: 10_001, ..base() }, false),
            (FeedSpec { max_age_ms: 86_400_001, ..base() }, false),
        ] {
            assert_eq!(good(change.clone()), ok, "{change:?}");
        }
        let twice = Genesis { feeds: vec![feed("A"), feed("A")], ..genesis() };
        assert!(Genesis::from_toml(&twice.to_toml()).is_err());
    }

    #[test]
    fn slots_from_both_sides() {
        let genesis = genesis();
        assert_eq!(genesis.slot_at(999), None);
        assert_eq!(genesis.slot_at(1_000), Some(0));
        assert_eq!(genesis.slot_at(1_499), Some(0));
        assert_eq!(genesis.slot_at(1_500), Some(1));
        assert_eq!(genesis.slot_start_unix_ms(1), 1_500);
    }

    #[test]
    fn bad_values_are_named() {
        let mut bad = genesis();
        bad.slot_ms = 50;
        let error = Genesis::from_toml(&bad.to_toml()).unwrap_err().to_string();
        assert_eq!(error, "genesis `slot_ms` is 50; allowed is 100 to 60000");
        let unknown = format!("slots_ms = 3\n{}", genesis().to_toml());
        assert!(Genesis::from_toml(&unknown).unwrap_err().to_string().contains("slots_ms"));
        let mut rich = genesis();
        rich.allocation.insert(Address([2; 20]), 1);
        assert!(Genesis::from_toml(&rich.to_toml()).is_err());
    }

    #[test]
    fn quorum_is_two_thirds_rounded_up() {
        let quorum =
            |n: u8| AuthoritySet::new((0..n).map(|k| PublicKey([k; 32])).collect()).unwrap().quorum();
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(quorum), [1, 2, 2, 3, 4, 4, 5]);
    }
}

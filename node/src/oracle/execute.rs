//! The prices of a block.
//!
//! A transaction of prices is made by the proposer of the block, for this block: nobody else can put it
//! there, it stands once and first, and costs nothing. It carries the reports themselves, so that every
//! node checks the signatures and computes the prices, now and whenever the chain is executed again.
//!
//! It is valid, and the block with it, if
//! - the sender is the proposer of the slot, the nonce is the height, the gas price is zero and the gas limit
//!   is what it takes by its size;
//! - each piece of evidence is signed, and against a publisher that is not excluded yet;
//! - each quote is of publishers that are not excluded, signed, makes a price at the time at which the slot
//!   begins ([`ghost_proto::price::aggregate()`]), every report in it is fresh then, and the price is newer
//!   than the one the chain has.
//!
//! Each price leaves a log of [`ORACLE_ADDRESS`] with the topics [`PRICE_UPDATED_TOPIC`] and the feed's key:
//! that is what a subscriber that trusts no node proves with a Merkle path to the header.
//!
//! # Security
//! A proposer chooses which reports it includes, as long as they are a quorum and newer than the last
//! price: it can leave out publishers, and it can wait. It cannot make up a price.

use std::sync::Arc;

use bytes::Bytes;
use ghost_proto::{
    Action, FeedSpec, Genesis, GenesisId, LogEntry, Outcome, PriceBatch, PublicKey, Quote, Receipt,
    SignedTransaction,
    price::{
        CommittedPrice, NoPrice, ORACLE_ADDRESS, PRICE_UPDATED_TOPIC, PUBLISHER_EXCLUDED_TOPIC, aggregate,
        is_fresh,
    },
};

use super::state::{excluded_key, price, price_key};
use crate::{
    chain::state::WorkingState,
    engine::{BlockContext, ExecuteError, NotIncludable, intrinsic_gas},
};

/// What is wrong with the prices of a block: its proposer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceFault {
    /// Somebody else signed them.
    #[error("only the proposer of a block puts prices into it")]
    NotProposer,
    /// Nonce, gas limit or gas price are not what they must be.
    #[error("prices have the height as nonce, no gas price, and the gas limit they need")]
    Terms,
    /// The batch does not parse.
    #[error("the batch of prices is malformed")]
    Malformed,
    /// No such feed.
    #[error("there is no feed {0}")]
    UnknownFeed(u16),
    /// No such publisher.
    #[error("feed {feed} has no publisher {publisher}")]
    UnknownPublisher {
        /// The feed.
        feed: u16,
        /// The publisher.
        publisher: u16,
    },
    /// A signature does not verify.
    #[error("a report of feed {0} is not signed by its publisher")]
    BadSignature(u16),
    /// The publisher is excluded, or is to be excluded twice.
    #[error("publisher {publisher} of feed {feed} is excluded")]
    Excluded {
        /// The feed.
        feed: u16,
        /// The publisher.
        publisher: u16,
    },
    /// A report is too old, or ahead of the slot.
    #[error("a report of feed {0} is not of the time of the block")]
    NotFresh(u16),
    /// The reports make no price.
    #[error("feed {feed}: {reason}")]
    NoPrice {
        /// The feed.
        feed: u16,
        /// Why.
        reason: NoPrice,
    },
    /// The chain has a price as new.
    #[error("the price of feed {0} is not newer than the one before")]
    NotNewer(u16),
}

/// Executes transactions of prices by the feeds of a chain.
#[derive(Debug, Clone)]
pub struct Prices {
    feeds: Arc<[FeedSpec]>,
    genesis: GenesisId,
}

impl Prices {
    /// By the feeds of this genesis.
    pub fn new(genesis: &Genesis) -> Self {
        Self { feeds: genesis.feeds.clone().into(), genesis: genesis.id() }
    }

    fn spec(&self, feed: u16) -> Result<&FeedSpec, PriceFault> {
        self.feeds.get(usize::from(feed)).ok_or(PriceFault::UnknownFeed(feed))
    }

    fn key_of(spec: &FeedSpec, feed: u16, publisher: u16) -> Result<&PublicKey, PriceFault> {
        spec.publishers.get(usize::from(publisher)).ok_or(PriceFault::UnknownPublisher { feed, publisher })
    }

    /// Checks a quote by everything but the state.
    fn check(
        &self,
        quote: &Quote,
        context: &BlockContext,
    ) -> Result<(&FeedSpec, ghost_proto::price::Aggregate), PriceFault> {
        let feed = quote.feed;
        let spec = self.spec(feed)?;
        if quote.reports.iter().any(|report| !is_fresh(spec, report, context.time_unix_ms)) {
            return Err(PriceFault::NotFresh(feed));
        }
        let aggregate = aggregate(spec, &quote.reports, context.time_unix_ms)
            .map_err(|reason| PriceFault::NoPrice { feed, reason })?;
        // Singly: a batch of so few saves little, and needs entropy that execution has none of.
        for report in &quote.reports {
            let key = Self::key_of(spec, feed, report.publisher)?;
            report.verify(&self.genesis, key).map_err(|_| PriceFault::BadSignature(feed))?;
        }
        Ok((spec, aggregate))
    }

    /// Executes one. On an error the state is as it was before.
    pub fn execute(
        &self,
        tx: &SignedTransaction,
        state: &mut WorkingState<'_>,
        context: &BlockContext,
    ) -> Result<Receipt, ExecuteError> {
        let body = tx.body();
        let Action::Prices { batch } = &body.action else { return Err(NotIncludable::OtherEngine.into()) };
        let refuse = |fault| ExecuteError::from(NotIncludable::Prices(fault));
        if body.chain_id != context.chain_id {
            let (found, expected) = (body.chain_id, context.chain_id);
            return Err(NotIncludable::OtherChain { found, expected }.into());
        }
        if tx.sender() != context.proposer {
            return Err(refuse(PriceFault::NotProposer));
        }
        let gas = intrinsic_gas(body);
        if body.nonce != context.height || body.gas_price != 0 || body.gas_limit != gas {
            return Err(refuse(PriceFault::Terms));
        }
        if gas > context.gas_left {
            return Err(NotIncludable::BlockFull { needed: gas, left: context.gas_left }.into());
        }
        let batch = PriceBatch::parse(batch.clone()).map_err(|_| refuse(PriceFault::Malformed))?;
        let mut writes: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut logs = Vec::new();
        for evidence in &batch.equivocations {
            let (feed, publisher) = (evidence.feed(), evidence.publisher());
            let spec = self.spec(feed).map_err(refuse)?;
            let key = Self::key_of(spec, feed, publisher).map_err(refuse)?;
            let at = excluded_key(&spec.key(), publisher);
            if writes.iter().any(|(key, _)| *key == at) || state.get(&at)?.is_some() {
                return Err(refuse(PriceFault::Excluded { feed, publisher }));
            }
            evidence.verify(&self.genesis, key).map_err(|_| refuse(PriceFault::BadSignature(feed)))?;
            writes.push((at.into(), blake3::hash(&evidence.encode()).as_bytes().to_vec()));
            let mut data = vec![0; 32];
            data[30..].copy_from_slice(&publisher.to_be_bytes());
            logs.push(LogEntry {
                address: ORACLE_ADDRESS,
                topics: vec![PUBLISHER_EXCLUDED_TOPIC, spec.key()],
                data: data.into(),
            });
        }
        for quote in &batch.quotes {
            let feed = quote.feed;
            let (spec, aggregate) = self.check(quote, context).map_err(refuse)?;
            let key = spec.key();
            for report in &quote.reports {
                let at = excluded_key(&key, report.publisher);
                if writes.iter().any(|(key, _)| *key == at) || state.get(&at)?.is_some() {
                    return Err(refuse(PriceFault::Excluded { feed, publisher: report.publisher }));
                }
            }
            let before = price(state, &key)?;
            if before.is_some_and(|before| before.aggregate.time_unix_ms >= aggregate.time_unix_ms) {
                return Err(refuse(PriceFault::NotNewer(feed)));
            }
            let committed = CommittedPrice {
                aggregate,
                exponent: spec.exponent,
                max_age_ms: spec.max_age_ms,
                height: context.height,
            };
            logs.push(LogEntry {
                address: ORACLE_ADDRESS,
                topics: vec![PRICE_UPDATED_TOPIC, key],
                data: Bytes::copy_from_slice(&committed.log_data()),
            });
            writes.push((price_key(&key).into(), committed.encode().into()));
        }
        for (key, value) in writes {
            state.put(&key, Some(&value))?;
        }
        let mut receipt = Receipt::plain(Outcome::Done, gas);
        receipt.logs = logs;
        Ok(receipt)
    }
}

#[cfg(test)]
mod tests;

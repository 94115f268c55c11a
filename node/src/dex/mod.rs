//! Markets: books, matching and settlement.
//!
//! [`Book`] matches, by price and then by time. [`MarketState`] is a market: its rules, its book, and what has happened
//! so far; it says what an order would do ([`MarketState::prepare`]) and does it ([`MarketState::settle`]).
//! [`Dex`] is all markets after one block.
//!
//! # What is committed to
//! The chain's state is key → value under one commitment. It has an entry for each resting order, one for each market
//! (how many orders there were, the position of its feed, volumes) and one for each balance, free and locked. So the
//! commitment covers every book, order by order; there is no other root of it. The books in memory are an index of these
//! entries, kept with each block's state as persistent maps, and built from the store at start.
//!
//! # Rules
//! - Price-time priority: the best price first, of one price the smaller order number. Trades are at the price of
//!   the order that rested.
//! - Self-trade prevention: an incoming order that would trade with one of the same account takes that one off, and
//!   goes on.
//! - An order that meets as many resting orders as it has gas for is over; what is left of it does not rest, for it might cross.
//! - Costs are whole quote units. Fees are rounded down, so that what was locked for a whole order always suffices for its parts.

mod book;
pub mod feeds;
mod market;
mod state;
#[cfg(test)]
mod tests;

pub use book::{Book, Incoming, Match, Plan, Resting};
pub use market::{Accounts, Balance, Command, Done, Failed, MarketRecord, MarketState, Prepared, Refusal};
pub(crate) use state::write;
pub use state::{Dex, balance_key, order_key, read_balance};

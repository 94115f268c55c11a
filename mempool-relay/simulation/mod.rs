//! Many nodes, each the real core, on simulated links in virtual time: what tests assert and `testnet bench` tabulates.
//!
//! These files belong to no crate's library. The tests of this crate and the benches of `testnet` name them by their path, so that both
//! speak of the same network.

pub(crate) mod blocks;
pub(crate) mod chain;
pub(crate) mod transactions;

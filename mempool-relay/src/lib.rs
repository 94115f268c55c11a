//! Mempool, transaction relay, block fetching and chain sync of the ghostd overlay.

pub mod announce;
pub mod fetch;
pub mod link;
pub mod pool;
pub mod tx_relay;

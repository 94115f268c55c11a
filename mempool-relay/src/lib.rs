//! Mempool, transaction relay, block fetching and chain sync of the ghostd overlay.

pub mod announce;
pub mod block;
pub mod fetch;
pub mod link;
pub mod pool;
pub mod reconcile;
pub mod stem;
pub mod sync;
pub mod tx_relay;

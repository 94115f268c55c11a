//! Mempool, transaction relay, block fetching and chain sync of the ghostd overlay.

pub mod block;
pub mod sync;
pub mod announce;
pub mod link;
pub mod pool;

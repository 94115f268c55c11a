//! Mempool, transaction relay, block fetching and chain sync of the ghostd overlay.

pub mod block;
pub mod sync;

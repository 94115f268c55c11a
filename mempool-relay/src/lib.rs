//! Mempool, transaction relay, block fetching and chain sync of the ghostd overlay.

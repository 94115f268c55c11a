//! Peer records, address book, peer exchange, dialling policy and the persistent peer store.

pub mod address;
pub mod book;
pub mod clock;
pub mod conduct;
pub mod dial;
pub mod evict;
pub mod exchange;
pub mod inbound;
pub mod netgroup;
pub mod overlay;
pub mod record;
pub mod store;
#[cfg(test)]
mod testing;

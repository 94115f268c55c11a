//! Peer records, address book, peer exchange, dialling policy and the persistent peer store.

pub mod address;
pub mod book;
pub mod conduct;
pub mod evict;
pub mod exchange;
pub mod inbound;
pub mod netgroup;
pub mod record;
#[cfg(test)]
mod testing;

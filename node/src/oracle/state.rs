//! Where the chain keeps prices.
//!
//! ```text
//! 0x08 feed key(32)                committed price (45), see ghost_proto::price::CommittedPrice
//! 0x09 feed key(32) publisher(2)   BLAKE3 over the evidence that excluded the publisher (32)
//! ```
//!
//! A feed's key is its name padded with zeros: contracts read by it and know no index.

use ghost_proto::price::CommittedPrice;

use crate::{
    chain::state::{Snapshot, WorkingState},
    store::StoreError,
};

const DOMAIN_PRICE: u8 = 0x08;
const DOMAIN_EXCLUDED: u8 = 0x09;

/// The state key of a feed's price.
pub fn price_key(feed: &[u8; 32]) -> [u8; 33] {
    let mut key = [DOMAIN_PRICE; 33];
    key[1..].copy_from_slice(feed);
    key
}

/// The state key of what excluded a publisher from a feed.
pub fn excluded_key(feed: &[u8; 32], publisher: u16) -> [u8; 35] {
    let mut key = [DOMAIN_EXCLUDED; 35];
    key[1..33].copy_from_slice(feed);
    key[33..].copy_from_slice(&publisher.to_be_bytes());
    key
}

fn decode(value: Option<&[u8]>) -> Result<Option<CommittedPrice>, StoreError> {
    let parse = |value: &[u8]| {
        CommittedPrice::parse(bytes::Bytes::copy_from_slice(value))
            .map_err(|error| StoreError::damaged(format!("a committed price: {error}")))
    };
    value.map(parse).transpose()
}

/// The price of a feed while a block executes.
///
/// # Errors
/// [`StoreError`] if the state cannot be read.
pub fn price(state: &mut WorkingState<'_>, feed: &[u8; 32]) -> Result<Option<CommittedPrice>, StoreError> {
    decode(state.get(&price_key(feed))?.as_deref())
}

/// The price of a feed after a block.
///
/// # Errors
/// As [`price`].
pub fn price_at(snapshot: &Snapshot, feed: &[u8; 32]) -> Result<Option<CommittedPrice>, StoreError> {
    decode(snapshot.get(&price_key(feed))?.as_deref())
}

/// True if the publisher's reports on the feed count no more, after a block.
///
/// # Errors
/// As [`price`].
pub fn is_excluded_at(snapshot: &Snapshot, feed: &[u8; 32], publisher: u16) -> Result<bool, StoreError> {
    Ok(snapshot.get(&excluded_key(feed, publisher))?.is_some())
}

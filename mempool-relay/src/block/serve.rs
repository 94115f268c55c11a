//! Answers about new blocks.

use ghost_frames::compact::{BlockTransactions, PlacedTransaction};
use ghost_proto::{SignedTransaction, limits::TX_BATCH_BYTES_MAX};

/// Bytes of a place and a length at most.
const PLACE_LEN_MAX: usize = 8;

/// The transactions at these places, which ascend, in as few frames as they fit in. Left out are those that
/// `transaction` does not have.
pub fn transactions<'a>(
    places: impl IntoIterator<Item = u32>,
    transaction: impl Fn(u32) -> Option<&'a SignedTransaction>,
) -> Vec<BlockTransactions> {
    let mut frames: Vec<BlockTransactions> = Vec::new();
    let mut room = 0;
    for index in places {
        let Some(transaction) = transaction(index) else { continue };
        let takes = transaction.bytes().len() + PLACE_LEN_MAX;
        if takes > room || frames.is_empty() {
            frames.push(BlockTransactions { transactions: Vec::new() });
            room = TX_BATCH_BYTES_MAX;
        }
        room -= takes;
        if let Some(frame) = frames.last_mut() {
            frame.transactions.push(PlacedTransaction { index, transaction: transaction.clone() });
        }
    }
    frames
}

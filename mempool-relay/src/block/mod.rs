//! New blocks: who is told, who is sent the body, who is asked for it.
//!
//! A block comes in as an announced header or pushed whole. The caller checks the header (turn,
//! signature, parent); the body is asked of those who announced it ([`fetch`]); once its body is
//! here and matches the header, the block goes on to the peers that are not known to have it and
//! to execution, in that order ([`relay`]).
//!
//! **Why announce then, and not earlier or later.** Later, after execution, every hop adds the whole
//! validation: simulated over 1,000 nodes, a 2 MB block sent compact reaches 99 % of them in 1,084 ms
//! when relayed after validation and in 523 ms when relayed before it. Earlier, on the header alone, we would offer a body we do not have, and whoever asks us first
//! waits for our own fetch instead of asking a peer that has it. A body that matches a signed header
//! can be false only if its proposer made it so, and a proposer gets at most
//! [`relay::SIBLINGS_PER_SLOT_MAX`] blocks of a slot relayed by each node.

mod compact;
pub mod favour;
pub mod fetch;
mod known;
mod rebuild;
mod received;
pub mod relay;
pub mod serve;
mod sharded;
pub mod shards;
mod stats;

pub use compact::{Found, ShortIds};
pub use rebuild::{PartialBlock, Rebuild};
pub use received::Received;
pub use stats::BlockStats;

//! Prices: what publishers say, what it makes, and what of it the chain keeps.
//!
//! - [`relay`]: the core between publishers, peers and subscribers. It checks every report at every
//!   hop and passes each on once.
//! - [`commit`]: which prices a proposer puts into its block.
//! - [`execute`]: what every node makes of that: the rules of a block's prices.
//! - [`state`]: where the chain keeps them.
//!
//! A report goes publisher → node → its peers → theirs; the newest of each publisher make a
//! [`Quote`](ghost_proto::Quote), which subscribers get and the next proposer commits. The same rules
//! ([`ghost_proto::price::aggregate()`]) make the price at each of these places, from the reports themselves.

pub mod commit;
pub mod execute;
pub mod relay;
pub mod state;

pub use execute::{PriceFault, Prices};

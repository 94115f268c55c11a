//! Local ghostd networks: real processes on loopback and simulated worlds in virtual time.
//!
//! - [`genesis`]: keys, accounts and the chain of a network, all of them from one seed.
//! - [`up`]: the processes, the live table and `testnet up`.
//! - [`traffic`]: transfers at a steady pace, and when each was seen in a block.
//! - [`prices`]: publishers with real reports.
//! - [`report`]: what happened, counted by reading it from every node.
//! - [`soak`]: `testnet soak`. [`drill`]: `testnet restart-drill`. [`payloads`]: `testnet payloads`.
//! - [`sim`]: a network in memory and virtual time, for real sessions and nodes.
//! - [`scenario`]: what a network meets and what must hold, in files: `testnet sim`.
//! - `tor_network` (feature `tor`): a Tor network on loopback.
//! - [`adversary`]: peers that speak the protocol and mean harm.
//! - [`mod@bench`]: the overlay beside bare QUIC, in one run.

pub mod adversary;
pub mod bench;
pub mod drill;
pub mod genesis;
pub mod orders;
pub mod payloads;
pub mod prices;
pub mod report;
pub mod scenario;
pub mod sim;
pub mod soak;
pub mod stop;
#[cfg(feature = "tor")]
pub mod tor_network;
pub mod traffic;
pub mod up;

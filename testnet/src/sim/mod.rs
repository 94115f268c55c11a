//! Simulated worlds: the real stack, from QUIC packets upward, on a network that is a data structure.
//!
//! - [`wire`]: the network. A socket of it goes wherever `ghost_protocol::transport::quic::Socket`
//!   goes; packets wait in memory until they are due.
//! - [`path`]: what a packet meets on its way: delay, loss, bottlenecks.
//! - [`fault`]: what goes wrong, and when.
//! - [`world`]: nodes on the wire, with addresses, identities and seeds.
//! - [`network`]: whole nodes on it, on [`disk`]s that crashes tear, under the traffic of [`load`].
//! - [`adversary`]: a peer that handshakes honestly and then writes whatever it likes.
//!
//! Time is tokio's. Under `#[tokio::test(start_paused = true)]` it jumps from event to event, so
//! that an hour takes as long as its packets take to process. Timers have a granularity of 1 ms:
//! what is due within a millisecond happens at its end.
//!
//! # Repeatability
//! One seed gives the same packets at the same times with the same lengths, provided that the nodes
//! draw their randomness from their seeds and run on a current-thread runtime. Keys and ciphertext
//! differ from run to run; nothing that the wire sees depends on them. [`wire::Wire::fingerprint`]
//! says whether two runs were the same.

pub mod adversary;
pub mod disk;
pub mod fault;
pub mod load;
pub mod network;
pub mod path;
mod socket;
pub mod wire;
pub mod world;

pub use fault::{Fault, Nat, Schedule};
pub use load::{Load, LoadSummary, Pace};
pub use network::{NetworkPlan, NodeReading, SimNetwork};
pub use path::{Access, Delay, Loss, Path, Rate};
pub use wire::{NodeId, Wire};
pub use world::{Peer, Seat, Setup, World};

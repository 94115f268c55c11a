//! Channels between wallets: end to end encrypted, carried by mailbox nodes that learn neither what is said
//! nor by whom.
//!
//! | room | what it decides |
//! | --- | --- |
//! | [`keys`], [`keystore`], [`storage`] | the keys that follow from a wallet's seed; the file that keeps the seed; what else is on disk |
//! | [`establish`] | the first two messages of a channel: Noise, with X25519 and ML-KEM-768 |
//! | [`ratchet`] | a key for each message, gone when used; new ones after a compromise |
//! | [`envelope`], [`stamp`] | what mailbox nodes see: four sizes; what a stranger pays |
//! | [`mailbox`] | the node's side: boxes, quotas, expiry, grants, presence records |
//! | [`session`] | the wallet's side: channels with all peers, what is sent in them, what they survive |
//!
//! All of it is cores: told what happened and when, they answer with effects, draw only from the entropy they
//! are given, and leave sockets, files and clocks to their shells. What a wallet must not lose is among the
//! effects and is to be on disk before the others happen.
//!
//! One wallet, one device: a copy of a wallet's state on another machine would use message keys twice.

pub mod envelope;
pub mod establish;
pub mod keys;
pub mod keystore;
pub mod mailbox;
mod post_quantum;
pub mod ratchet;
pub mod secret;
pub mod session;
pub mod stamp;
pub mod storage;

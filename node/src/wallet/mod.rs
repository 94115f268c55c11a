//! A wallet that lives in a process of its own: `ghostd wallet`.
//!
//! ```text
//!              ┌───────────────── Walletd: one task ─────────────────┐
//!  Ask ───────▶│  core (ghost_wallet_channel::session::Wallet)       │──▶ events
//!  envelopes ─▶│  in the order of its output: files, store, grants,  │──▶ deposits, one worker for each peer
//!  the chain ─▶│  deposits, transactions                             │──▶ transactions, one task that follows heads
//!              └─────────────────────────────────────────────────────┘
//!  one task for each mailbox: connects under the box's own key, collects, acknowledges
//! ```
//!
//! It uses a node as any program does, through [`ghost_protocol::client`]; nothing here touches the node's own state.
//! While one process has a wallet open, others ask it over a socket in the wallet's directory ([`socket`]).

pub mod ask;
mod chain;
mod courier;
pub mod daemon;
mod files;
pub mod folder;
mod mailboxes;
pub mod socket;
mod store;

pub use ask::Ask;
pub use daemon::{WalletConfig, Walletd, WalletdError};
pub use folder::WalletFolder;

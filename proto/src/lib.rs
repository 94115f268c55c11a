//! The nouns of the ghostd overlay: identifiers, transactions, blocks, votes, genesis, peer records, presence of
//! wallets.
//!
//! Two encodings live here. **Fixed layouts** ([`layout`]) serve what is hashed, signed or hot:
//! big-endian integers, QUIC varints (RFC 9000 §16) for lengths, no padding, no optional fields.
//! **Protobuf** ([`message`]) serves what evolves: hello, the body of a peer record, remote calls.
//!
//! Everything signed is parsed from, hashed over and verified over *the bytes as received*. A
//! parsed noun keeps those bytes; nothing is ever re-encoded in order to be checked.
//!
//! This crate opens no socket, reads no clock and draws no entropy.

pub mod block;
pub mod call;
pub mod feed;
pub mod genesis;
pub mod ids;
pub mod keys;
pub mod layout;
pub mod limits;
pub mod market;
pub mod merkle;
pub mod price;
pub mod receipt;
pub mod record;
pub mod tx;
pub mod value;
pub mod vote;
pub mod wallet;

/// Protobuf messages compiled from `schema/*.proto`. Field meanings, units and bounds are in the
/// schema files; [`limits`] holds the numbers.
pub mod message {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/ghost.v1.rs"));
}

pub use block::{Block, BlockBuilder, Header};
pub use call::{Call, CallAnswer};
pub use feed::FeedPosition;
pub use genesis::{AuthoritySet, Genesis};
pub use ids::{Address, BlockId, GenesisId, TxId};
pub use keys::{KeyPair, PublicKey, Signature};
pub use libp2p_identity::PeerId;
pub use market::Markets;
pub use multiaddr::Multiaddr;
pub use price::{FeedSpec, PriceBatch, Quote, Report};
pub use receipt::{LogEntry, Outcome, Receipt};
pub use record::PeerRecord;
pub use tx::{Action, EngineId, SignedTransaction, Transaction, VerifiedTransaction};
pub use value::{LookupKey, SignedValue};
pub use vote::{Checkpoint, FinalityCertificate, Vote};
pub use wallet::{MailboxAt, Presence, PresenceBody, WalletName};

//! How two peers speak: identity, handshake, sessions, stream classes, requests.
//!
//! # A tour
//! - [`identity`]: the ed25519 key a peer is known by. [`transport`]: QUIC connections on which both
//!   ends have proven theirs.
//! - [`handshake`]: the hello each side sends first, and what it is checked for.
//! - [`session`]: one authenticated, greeted connection. *Pushes* go into bounded outboxes, one for
//!   each long-lived stream type ([`session::Session::push`] says what became of a frame);
//!   *requests* take a stream of their own ([`session::Session::request`]). What arrives is cut
//!   into frames, held to the quota of its [`class`], and handed to the [`inbox`] by stream type.
//! - [`overlay`]: all sessions of a node: it accepts, dials, settles two connections between one
//!   pair into one, and reports who came and went. Its [`overlay::Gate`] decides who gets in.
//! - [`shape`]: padding and jitter, for who wants sizes and times to tell less.
//! - [`client`]: what a program that is not a node uses.
//!
//! # Running tasks
//! An overlay runs one task that accepts connections; a session runs one that accepts streams and reads
//! the control stream, one
//! for each incoming stream while it is open, and one for each outgoing push stream while its
//! outbox is not empty. An idle session therefore costs one parked task and one control stream.
//!
//! Time is tokio's, sockets can be replaced ([`transport::quic::Socket`]), and randomness comes in
//! through seeds: the same code runs on a simulated network in virtual time.

pub mod address;
pub mod class;
pub mod client;
mod gate;
pub mod handshake;
pub mod identity;
pub mod inbox;
pub mod overlay;
pub mod quota;
pub mod request;
pub mod session;
pub mod shape;
pub mod tally;
pub mod transport;

pub use ghost_proto::PeerId;
pub use identity::Identity;
pub use overlay::Overlay;
pub use session::Session;

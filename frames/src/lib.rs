//! What travels on the streams: frames, stream types, close and reset codes.
//!
//! A stream starts with its type as a varint ([`stream::StreamType`]); frames follow it:
//!
//! ```text
//! kind    varint   which frame (registry: `frame`)
//! length  varint   bytes of payload, at most the kind's own limit
//! payload
//! ```
//!
//! [`reader::FrameReader`] cuts received bytes into frames and refuses a length before it allocates;
//! [`frame::Frame`] is every frame there is; [`writer::EncodedFrame`] is one ready to be sent to any
//! number of peers. The whole protocol in prose, with vectors: `WIRE.md` beside this crate.
//!
//! This crate opens no socket, reads no clock and draws no entropy.

pub mod block;
mod bounds;
pub mod code;
pub mod compact;
pub mod consensus;
pub mod contract;
pub mod control;
pub mod discovery;
pub mod feed;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod kind;
pub mod market;
pub mod meet;
pub mod price;
pub mod reader;
pub mod reconcile;
pub mod rpc;
pub mod shards;
pub mod stream;
pub mod sync;
pub mod tx;
pub mod wallet;
pub mod writer;

pub use code::Code;
pub use frame::Frame;
pub use kind::{Kind, KindInfo};
pub use reader::{DecodeError, FrameReader};
pub use stream::StreamType;
pub use writer::{EncodedFrame, Payload};

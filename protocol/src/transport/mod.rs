//! What carries a session: an authenticated connection with many streams.
//!
//! Everything above this module speaks of [`Link`], [`SendStream`] and [`RecvStream`] and never of
//! QUIC, so that a second transport can stand beside it without twin code.

pub mod circuit;
pub mod quic;

pub use quic::Link;
pub use quinn::{RecvStream, SendStream};

use ghost_frames::Code;

/// A code as the transport takes it.
pub(crate) fn wire_code(code: Code) -> quinn::VarInt {
    quinn::VarInt::from_u32(code.number() as u32)
}

/// The code a peer sent; an unknown number means an internal fault of the peer.
pub(crate) fn read_code(code: quinn::VarInt) -> Code {
    Code::from_number(code.into_inner()).unwrap_or(Code::Internal)
}

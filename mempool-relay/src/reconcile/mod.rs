//! In which transactions do two mempools differ? Answered in bytes that grow with the difference and not with
//! the mempools, by rateless set reconciliation (Yang, Gilad, Alizadeh: "Practical Rateless Set
//! Reconciliation", SIGCOMM 2024, arXiv:2402.02668).
//!
//! # How it works
//! Every transaction has a short [`SketchId`] and takes part in an endless sequence of **coded symbols**: in
//! the first always, in the i-th with a probability of about 1 / (1 + i/2) ([`Mapping`]). A symbol is the
//! exclusive or of the ids in it, and of their checks ([`Symbol`]). The asker subtracts its own symbols from
//! those it is sent: what both have cancels out. A symbol that is left with one id shows it; taken out of all
//! other symbols, it uncovers more ([`Decoder`]). About 1.36 symbols of 12 bytes are needed for each
//! transaction of a large difference, 1.45 at 100, 1.7 at 10.
//!
//! # A session
//! The asker opens with a request for the first [`COUNTED_SYMBOLS`]: one datagram, enough for differences up
//! to about 50. Their counts tell how large the difference is ([`estimate`]), the second request asks for as
//! many as it takes and an eighth more, and each one after that for a sixth of what has come. Nothing comes
//! that was not asked for, so nothing overshoots. Where listing every id is shorter ([`INVENTORY_FRACTION`]),
//! where the symbols do not decode within [`symbols_max`], or contradict themselves, the asker asks for the
//! list instead. At last it names what it lacks, is told of that in announcements, and fetches it like
//! anything announced; and announces what the other side lacks. Both know then what the other has.
//! ([`Requester`], [`Responder`].)
//!
//! Both sides reconcile what they held when the session was opened; what comes later is relayed anyway.
//!
//! # Work
//! The first [`PREFIX_SYMBOLS`] symbols are kept warm for each link and nonce ([`Prefix`]) and brought up to
//! date from a [`Journal`] of what came and went. Symbols are linear, so removing is the same as adding.
//!
//! # Security
//! Ids and checks are keyed with a secret of the connection and a nonce ([`Keys`]): nobody but the two sides
//! can prepare transactions whose ids collide or never separate. A peer can do so on its own link, and loses
//! that link's sessions. A hostile answer costs at most [`SYMBOLS_MAX`] symbols and as many steps of
//! decoding; it can hide transactions of its sender, which silence can as well.

mod decoder;
mod encoder;
mod estimate;
#[doc(hidden)]
pub mod fuzzing;
mod journal;
mod keys;
mod prefix;
mod requester;
mod responder;
mod snapshot;
mod symbol;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use ghost_frames::reconcile::{COUNTED_SYMBOLS, SketchId};
use ghost_frames::{
    EncodedFrame, Frame, Payload,
    reconcile::{InventoryRequest, MissingRequest, SymbolsRequest},
};
pub use ghost_proto::limits::SYMBOLS_MAX;

pub use self::{
    decoder::{Decoder, Undecodable},
    encoder::encode,
    estimate::{estimate, marginals},
    journal::{JOURNAL_MAX, Journal},
    keys::{Item, Keys},
    prefix::{PREFIX_SYMBOLS, Prefix},
    requester::{Difference, Failure, Progress, Requester},
    responder::{Refusal, Responder},
    snapshot::Snapshot,
    symbol::{Mapping, Symbol},
};

/// Listing is shorter than symbols when the difference is more than this part of what the other side
/// holds: 8 bytes for each held against 1.15 × 1.38 × 12 = 19 for each that differs.
pub const INVENTORY_FRACTION: f64 = 0.4;

/// Least time between two sessions that a peer may open.
pub const OPEN_GAP_MIN: Duration = Duration::from_secs(5);
/// Least time between two nonces of a peer: each makes us encode everything anew.
pub const NONCE_GAP_MIN: Duration = Duration::from_secs(60);
/// How long a nonce is used before its prefix is thrown away.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(600);
/// How long a session that is not used is kept for its asker.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(30);

/// A request of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Coded symbols.
    Symbols(SymbolsRequest),
    /// Everything.
    Inventory(InventoryRequest),
    /// Announcements of what the asker lacks.
    Missing(MissingRequest),
}

impl Ask {
    /// As it travels.
    pub fn to_frame(&self) -> EncodedFrame {
        match self {
            Self::Symbols(request) => request.to_frame(),
            Self::Inventory(request) => request.to_frame(),
            Self::Missing(request) => request.to_frame(),
        }
    }

    /// What a frame asks; `None` if that is not a request of a session.
    pub fn from_frame(frame: Frame) -> Option<Self> {
        match frame {
            Frame::SymbolsRequest(request) => Some(Self::Symbols(request)),
            Frame::InventoryRequest(request) => Some(Self::Inventory(request)),
            Frame::MissingRequest(request) => Some(Self::Missing(request)),
            _ => None,
        }
    }
}

/// Most symbols that are worth having from a set of `theirs`: 12 bytes each against 8 for each id, and a
/// thousand for small sets; never more than [`SYMBOLS_MAX`].
pub fn symbols_max(theirs: usize) -> usize {
    (theirs * 2 / 3 + 1_000).min(SYMBOLS_MAX)
}

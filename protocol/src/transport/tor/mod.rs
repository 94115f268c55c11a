//! Streams over Tor: through a daemon that runs already ([`SocksCarrier`]), or by a Tor in this process
//! (`Arti`, with the cargo feature `tor`).

#[cfg(feature = "tor")]
mod arti;
mod socks;

#[cfg(feature = "tor")]
pub use arti::{Arti, ArtiConfig, Hosted};
pub use socks::SocksCarrier;

/// How far Tor is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// 100 when circuits can be built.
    pub percent: u8,
    /// Streams can be opened.
    pub ready: bool,
    /// For people: what it does, or what keeps it.
    pub detail: String,
}

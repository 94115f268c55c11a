//! Who opens streams of bytes to where sockets do not reach.

use std::{io, pin::Pin};

use ghost_proto::PeerId;

use super::{Onion, stream::BoxedStream};

/// Which streams may take the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// Those to this peer, and no others.
    Peer(PeerId),
    /// Those with this number: a path that is used once.
    Once(u128),
}

/// A stream that is being opened.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxedStream>> + Send + 'a>>;

/// Opens streams to onion services: a Tor in this process, or a daemon's SOCKS port.
pub trait Carrier: Send + Sync {
    /// Opens a stream. It takes no path that a stream of another isolation takes.
    fn connect(&self, onion: Onion, isolation: Isolation) -> Connecting<'_>;
}

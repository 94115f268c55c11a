//! Where the other end of a link is, as far as this end can tell.

use std::{fmt, net::SocketAddr};

use ghost_proto::Multiaddr;
use multiaddr::Protocol;

use crate::address::of_socket;

/// An onion service, version 3, and a port of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Onion {
    /// Key, checksum and version: what the name spells in base 32.
    pub name: [u8; 35],
    /// Which of its ports.
    pub port: u16,
}

impl Onion {
    /// The onion service of a multiaddr that begins with one.
    pub fn of(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Onion3(onion) => Some(Self { name: *onion.hash(), port: onion.port() }),
            _ => None,
        }
    }

    /// From a name as browsers take it, with or without `.onion`. `None` if it is none.
    pub fn of_host(host: &str, port: u16) -> Option<Self> {
        let name = host.strip_suffix(".onion").unwrap_or(host);
        Self::of(&format!("/onion3/{name}:{port}").parse().ok()?)
    }

    /// As a multiaddr without a peer.
    pub fn to_multiaddr(self) -> Multiaddr {
        Protocol::Onion3((self.name, self.port).into()).into()
    }

    /// The name as a resolver of Tor takes it: 56 letters and digits, then `.onion`.
    pub fn host(self) -> String {
        let text = self.to_multiaddr().to_string();
        let name = text.trim_start_matches("/onion3/").split(':').next().unwrap_or_default();
        format!("{name}.onion")
    }
}

impl fmt::Display for Onion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_multiaddr().fmt(f)
    }
}

impl fmt::Debug for Onion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_multiaddr().fmt(f)
    }
}

/// Where the other end of a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// At a socket address; on QUIC it may move.
    Ip(SocketAddr),
    /// At an onion service that we dialled.
    Onion(Onion),
    /// Somewhere behind Tor: it dialled our onion service.
    Tor,
    /// On this machine: it came through a socket in the file system.
    Local,
}

impl Remote {
    /// The socket address, if there is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Onion(_) | Self::Tor | Self::Local => None,
        }
    }

    /// True if Tor lies between.
    pub fn is_tor(&self) -> bool {
        matches!(self, Self::Onion(_) | Self::Tor)
    }

    /// The address as one would dial it again; `None` if there is none.
    pub fn to_multiaddr(&self) -> Option<Multiaddr> {
        match self {
            Self::Ip(address) => Some(of_socket(*address)),
            Self::Onion(onion) => Some(onion.to_multiaddr()),
            Self::Tor | Self::Local => None,
        }
    }

    /// The name of the network in answers and metrics.
    pub fn network(&self) -> &'static str {
        match self {
            Self::Ip(address) if address.ip().to_canonical().is_ipv4() => "ip4",
            Self::Ip(_) => "ip6",
            Self::Onion(_) | Self::Tor => "onion",
            Self::Local => "local",
        }
    }
}

impl From<SocketAddr> for Remote {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<Onion> for Remote {
    fn from(onion: Onion) -> Self {
        Self::Onion(onion)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Onion(onion) => onion.fmt(f),
            Self::Tor => f.write_str("somewhere behind Tor"),
            Self::Local => f.write_str("this machine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_onion_service_has_one_name() {
        let host = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd";
        let onion = Onion::of_host(&format!("{host}.onion"), 4001).unwrap();
        assert_eq!(onion.host(), format!("{host}.onion"));
        assert_eq!(onion.to_string(), format!("/onion3/{host}:4001"));
        assert_eq!(Onion::of(&onion.to_multiaddr()), Some(onion));
        assert_eq!(Onion::of_host("example.org", 1), None);
    }
}

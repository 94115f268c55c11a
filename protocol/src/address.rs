//! Multiaddrs as this node dials and listens.
//!
//! | form | meaning |
//! | --- | --- |
//! | `/ip4/A/udp/P/quic-v1[/p2p/ID]`, `/ip6/…` | QUIC at an address |
//! | `/dns/H/udp/P/quic-v1[/p2p/ID]`, `/dns4/…`, `/dns6/…` | the same, by name |
//! | `/onion3/NAME:PORT[/p2p/ID]` | TLS over Tor |
//! | `/unix/PATH[/p2p/ID]` | TLS over a socket in the file system; `/` is written `%2F` in PATH, `%` is `%25` |
//!
//! A dial needs the `/p2p` part: without a PeerId there is nobody to authenticate.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ghost_proto::{Multiaddr, PeerId};
use multiaddr::Protocol;

/// An address that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not one of the forms above.
    #[error("{0} is not of the form /ip4|ip6|dns/HOST/udp/PORT/quic-v1[/p2p/PEER]")]
    Unsupported(Multiaddr),
    /// A dial needs to know whom it expects.
    #[error("{0} does not say whom to expect: append /p2p/PEERID")]
    NoPeer(Multiaddr),
    /// The name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
}

/// Where the other end is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// By address.
    Ip(IpAddr),
    /// By name.
    Name(String),
}

/// A multiaddr taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QuicAddress {
    /// Where.
    pub host: Host,
    /// UDP port.
    pub port: u16,
    /// Who is expected there.
    pub peer: Option<PeerId>,
}

impl QuicAddress {
    /// Takes a multiaddr apart.
    pub fn parse(address: &Multiaddr) -> Result<Self, AddressError> {
        let unsupported = || AddressError::Unsupported(address.clone());
        let mut parts = address.iter();
        let host = match parts.next() {
            Some(Protocol::Ip4(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Ip6(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
                Host::Name(name.into_owned())
            }
            _ => return Err(unsupported()),
        };
        let Some(Protocol::Udp(port)) = parts.next() else { return Err(unsupported()) };
        let Some(Protocol::QuicV1) = parts.next() else { return Err(unsupported()) };
        let peer = match parts.next() {
            None => None,
            Some(Protocol::P2p(peer)) => Some(peer),
            Some(_) => return Err(unsupported()),
        };
        if parts.next().is_some() {
            return Err(unsupported());
        }
        Ok(Self { host, port, peer })
    }

    /// Whom a dial to this address expects.
    pub fn expected_peer(&self, address: &Multiaddr) -> Result<PeerId, AddressError> {
        self.peer.ok_or_else(|| AddressError::NoPeer(address.clone()))
    }

    /// The socket addresses behind it. Asks the resolver of the system for names.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, AddressError> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => {
                let unresolved = |reason: String| AddressError::Unresolved { host: name.clone(), reason };
                let found: Vec<_> = tokio::net::lookup_host((name.as_str(), self.port))
                    .await
                    .map_err(|error| unresolved(error.to_string()))?
                    .collect();
                if found.is_empty() { Err(unresolved("no address".into())) } else { Ok(found) }
            }
        }
    }
}

/// The path of a socket in the file system, and who is expected there; `None` if the address is no such.
pub fn unix_socket(address: &Multiaddr) -> Option<(PathBuf, Option<PeerId>)> {
    let mut parts = address.iter();
    let Protocol::Unix(path) = parts.next()? else { return None };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    let path = path.replace("%2F", "/").replace("%25", "%");
    parts.next().is_none().then(|| (path.into(), peer))
}

/// The multiaddr of a socket in the file system, without a peer. `None` if its path is not UTF-8.
pub fn of_unix_socket(path: &Path) -> Option<Multiaddr> {
    let path = path.to_str()?.replace('%', "%25").replace('/', "%2F");
    Some(Multiaddr::empty().with(Protocol::Unix(path.into())))
}

/// The multiaddr of a socket address, without a peer.
pub fn of_socket(address: SocketAddr) -> Multiaddr {
    let host = match address.ip() {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => Protocol::Ip4(ip),
            None => Protocol::Ip6(ip),
        },
    };
    Multiaddr::empty().with(host).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// The same address with a peer at its end.
pub fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    address.with(Protocol::P2p(peer))
}

/// The wildcard address of the family of `target`, from which it can be dialled.
pub fn unspecified_for(target: &SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_and_unsupported_forms() {
        let peer = crate::Identity::from_seed(&[1; 32]).peer_id();
        let full: Multiaddr = format!("/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{peer}").parse().unwrap();
        let parsed = QuicAddress::parse(&full).unwrap();
        assert_eq!(parsed.expected_peer(&full), Ok(peer));
        assert_eq!(with_peer(of_socket("127.0.0.1:4001".parse().unwrap()), peer), full);
        let bare: Multiaddr = "/dns/example.org/udp/1/quic-v1".parse().unwrap();
        let parsed = QuicAddress::parse(&bare).unwrap();
        assert_eq!(parsed.host, Host::Name("example.org".into()));
        assert_eq!(parsed.expected_peer(&bare), Err(AddressError::NoPeer(bare.clone())));
        let socket = of_unix_socket(Path::new("/tmp/a%b/control.sock")).unwrap();
        let again: Multiaddr = with_peer(socket, peer).to_string().parse().unwrap();
        assert_eq!(unix_socket(&again), Some((PathBuf::from("/tmp/a%b/control.sock"), Some(peer))));
        assert_eq!(unix_socket(&full), None);
        for other in ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/1.2.3.4/udp/1/quic-v1/ws"] {
            assert!(QuicAddress::parse(&other.parse().unwrap()).is_err(), "{other}");
        }
    }
}

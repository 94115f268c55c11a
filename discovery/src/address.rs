//! Where a peer can be dialled, in one canonical form.
//!
//! A multiaddr can say the same place in many ways (`::ffff:1.2.3.4`, upper-case names, with or
//! without `/p2p`). The book counts places, so it must not be possible to mint more of them by
//! spelling: everything is parsed into an [`Endpoint`] at the door.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ghost_proto::{Multiaddr, PeerId, PublicKey};
use multiaddr::Protocol;
use serde::{Deserialize, Serialize};

/// Longest DNS name, in bytes (RFC 1035 §2.3.4).
pub const NAME_BYTES_MAX: usize = 253;

/// Which network an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
    /// Tor onion services, version 3.
    Onion,
    /// A name that has to be looked up. The lookup tells a resolver whom we dial.
    Dns,
}

impl Network {
    /// Every network there is.
    pub const ALL: [Self; 4] = [Self::Ip4, Self::Ip6, Self::Onion, Self::Dns];

    /// The name in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip4 => "ip4",
            Self::Ip6 => "ip6",
            Self::Onion => "onion",
            Self::Dns => "dns",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A machine, as far as an address can tell one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// IPv4.
    Ip4(Ipv4Addr),
    /// IPv6, never an IPv4 address in disguise.
    Ip6(Ipv6Addr),
    /// The 35 bytes of an onion v3 address: key, checksum, version.
    Onion(Box<[u8; 35]>),
    /// A DNS name in lower case, without the final dot.
    Name(Box<str>),
}

/// Host and port: where a dial goes. 32 bytes, plus the heap for onion addresses and names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

/// Why a multiaddr is of no use to us. Nobody is to blame for one inside a record: other versions
/// may know more transports. An operator who wrote it is told the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not one of the forms we can dial.
    #[error(
        "{0} is none of /ip4/…/udp/…/quic-v1, /ip6/…/udp/…/quic-v1, /dns/…/udp/…/quic-v1, /onion3/…:port"
    )]
    Unsupported(String),
    /// Port 0, an unspecified, multicast or broadcast address, or a malformed name.
    #[error("{address} cannot be dialled: {reason}")]
    Undiallable {
        /// As written.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Splits a multiaddr into the place and the peer that is expected there.
///
/// # Errors
/// [`AddressError`] if the form is unknown or the place can't be dialled; skip the address.
pub fn parse(address: &Multiaddr) -> Result<(Endpoint, Option<PeerId>), AddressError> {
    let unsupported = || AddressError::Unsupported(address.to_string());
    let undiallable = |reason| AddressError::Undiallable { address: address.to_string(), reason };
    let mut parts = address.iter();
    let (host, port) = match parts.next().ok_or_else(unsupported)? {
        Protocol::Ip4(ip) => (Host::from(IpAddr::V4(ip)), quic_port(&mut parts).ok_or_else(unsupported)?),
        Protocol::Ip6(ip) => (Host::from(IpAddr::V6(ip)), quic_port(&mut parts).ok_or_else(unsupported)?),
        Protocol::Dns(name) => {
            let name = canonical_name(&name).ok_or_else(|| undiallable("the name is not a DNS name"))?;
            (Host::Name(name), quic_port(&mut parts).ok_or_else(unsupported)?)
        }
        Protocol::Onion3(onion) => (Host::Onion(Box::new(*onion.hash())), onion.port()),
        _ => return Err(unsupported()),
    };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return Err(unsupported()),
    };
    if parts.next().is_some() {
        return Err(unsupported());
    }
    if port == 0 {
        return Err(undiallable("the port is 0"));
    }
    match &host {
        Host::Ip4(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() => {
            Err(undiallable("it is no address of one host"))
        }
        Host::Ip6(ip) if ip.is_unspecified() || ip.is_multicast() => {
            Err(undiallable("it is no address of one host"))
        }
        _ => Ok((Endpoint { host, port }, peer)),
    }
}

fn quic_port(parts: &mut multiaddr::Iter<'_>) -> Option<u16> {
    match (parts.next()?, parts.next()?) {
        (Protocol::Udp(port), Protocol::QuicV1) => Some(port),
        _ => None,
    }
}

fn canonical_name(name: &str) -> Option<Box<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (name.len() <= NAME_BYTES_MAX && name.split('.').all(label_ok)).then(|| name.to_ascii_lowercase().into())
}

impl Host {
    /// The network it belongs to.
    pub fn network(&self) -> Network {
        match self {
            Self::Ip4(_) => Network::Ip4,
            Self::Ip6(_) => Network::Ip6,
            Self::Onion(_) => Network::Onion,
            Self::Name(_) => Network::Dns,
        }
    }

    /// True if it can be reached from anywhere: not loopback, private, link-local, shared, reserved,
    /// documentation, or a tunnel of IPv4 in IPv6 (IANA special-purpose registries, RFC 6890).
    /// Onion services and names count as reachable from anywhere; what a name resolves to is
    /// checked by whoever resolves it.
    pub fn is_global(&self) -> bool {
        match self {
            Self::Ip4(ip) => {
                let [a, b, c, _] = ip.octets();
                !(ip.is_private()
                    || ip.is_loopback()
                    || ip.is_link_local()
                    || ip.is_documentation()
                    || a == 0
                    || a >= 240
                    || (a == 100 && (64..128).contains(&b))
                    || (a == 192 && b == 0 && c == 0)
                    || (a == 198 && (b == 18 || b == 19)))
            }
            Self::Ip6(ip) => {
                let parts = ip.segments();
                // 2000::/3 without documentation, Teredo (2001::/32) and 6to4 (2002::/16).
                parts[0] & 0xe000 == 0x2000
                    && !(parts[0] == 0x2001 && (parts[1] == 0x0db8 || parts[1] == 0))
                    && parts[0] != 0x2002
                    && !(parts[0] == 0x3fff && parts[1] < 0x1000)
            }
            Self::Onion(_) | Self::Name(_) => true,
        }
    }

    /// True for 127.0.0.0/8 and ::1.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip4(ip) => ip.is_loopback(),
            Self::Ip6(ip) => ip.is_loopback(),
            Self::Onion(_) | Self::Name(_) => false,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::Ip4(ip),
            IpAddr::V6(ip) => Self::Ip6(ip),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().into(), port: address.port() }
    }
}

impl Endpoint {
    /// The machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The network it belongs to.
    pub fn network(&self) -> Network {
        self.host.network()
    }

    /// As a multiaddr without a peer.
    pub fn to_multiaddr(&self) -> Multiaddr {
        let base = match &self.host {
            Host::Ip4(ip) => Multiaddr::from(*ip),
            Host::Ip6(ip) => Multiaddr::from(*ip),
            Host::Name(name) => Protocol::Dns(name.as_ref().into()).into(),
            Host::Onion(onion) => return Protocol::Onion3((**onion, self.port).into()).into(),
        };
        base.with(Protocol::Udp(self.port)).with(Protocol::QuicV1)
    }

    /// As a multiaddr that names the peer expected there.
    pub fn with_peer(&self, peer: PeerId) -> Multiaddr {
        self.to_multiaddr().with(Protocol::P2p(peer))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_multiaddr().fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_multiaddr().fmt(f)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip4(ip) => ip.fmt(f),
            Self::Ip6(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Onion(onion) => write!(f, "onion({:02x}{:02x}…)", onion[0], onion[1]),
        }
    }
}

/// The PeerId of a key that came out of one, without checking the point again.
pub(crate) fn peer_id(key: &PublicKey) -> PeerId {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20]);
    bytes[6..].copy_from_slice(&key.0);
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a PeerId")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        parse(&text.parse().unwrap()).unwrap().0
    }

    #[test]
    fn one_place_has_one_form() {
        let plain = endpoint("/ip4/1.2.3.4/udp/4001/quic-v1");
        assert_eq!(endpoint("/ip6/::ffff:1.2.3.4/udp/4001/quic-v1"), plain);
        let peer = peer_id(&ghost_proto::KeyPair::from_seed(&[1; 32]).public());
        let (again, found) = parse(&plain.with_peer(peer)).unwrap();
        assert_eq!((again, found), (plain.clone(), Some(peer)));
        assert_eq!(endpoint("/dns/Seed.Example./udp/1/quic-v1"), endpoint("/dns/seed.example/udp/1/quic-v1"));
        assert_eq!(endpoint(&plain.to_multiaddr().to_string()), plain);
    }

    #[test]
    fn peer_ids_agree_with_proto() {
        for seed in 0..8 {
            let key = ghost_proto::KeyPair::from_seed(&[seed; 32]).public();
            assert_eq!(Some(peer_id(&key)), ghost_proto::record::peer_of(&key));
            assert_eq!(ghost_proto::record::key_of(&peer_id(&key)), Some(key));
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for text in [
            "/ip4/1.2.3.4/tcp/1",
            "/ip4/1.2.3.4/udp/0/quic-v1",
            "/ip4/0.0.0.0/udp/1/quic-v1",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/ip6/::/udp/1/quic-v1",
            "/ip6/ff02::1/udp/1/quic-v1",
            "/dns/a..b/udp/1/quic-v1",
            "/ip4/1.2.3.4/udp/1/quic-v1/p2p-circuit",
            "/ip4/1.2.3.4/udp/1",
            "/udp/1/quic-v1",
        ] {
            assert!(parse(&text.parse().unwrap()).is_err(), "{text}");
        }
        assert!(parse(&Multiaddr::empty()).is_err());
    }

    #[test]
    fn global_and_not() {
        for text in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2a00:1450::1", "2001:4860::1"] {
            assert!(Host::from(text.parse::<IpAddr>().unwrap()).is_global(), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.0.1",
            "100.64.0.1",
            "0.1.2.3",
            "240.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "::1",
            "fe80::1",
            "fc00::1",
            "2001:db8::1",
            "2001::1",
            "2002:102:304::1",
            "64:ff9b::1.2.3.4",
            "3fff::1",
        ] {
            assert!(!Host::from(text.parse::<IpAddr>().unwrap()).is_global(), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_small() {
        assert_eq!(size_of::<Endpoint>(), 32);
    }
}

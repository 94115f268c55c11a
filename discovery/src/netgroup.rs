//! Netgroups: which addresses are likely in one hand.
//!
//! | network | group | why |
//! | --- | --- | --- |
//! | ip4 | /16 | what one operator typically holds together (as Bitcoin Core) |
//! | ip6 | /32 | what a registry gives to one provider |
//! | onion | 16 groups by the first 4 bits | onion addresses are free to mint, so more groups would be a gift |
//! | dns | the last two labels | subdomains are free to mint |
//! | not global | one group for all of them | see below |
//!
//! With [`AddressPolicy::allow_private`] (local testnets, private networks) every address that is not
//! global is a group of its own: host and port. Sixteen nodes on 127.0.0.1 are then sixteen groups
//! and mesh; netgroup limits mean nothing among them, which is right, as they are in one hand anyway.

use std::{collections::BTreeSet, fmt, hash::Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::address::{Endpoint, Host, Network};

/// A netgroup in 8 bytes: a tag, then what the addresses of the group have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetGroup(pub(crate) [u8; 8]);

impl NetGroup {
    /// The operator: configuration, command line, import. Not reachable from the network.
    pub const OPERATOR: Self = Self([b'o', 0, 0, 0, 0, 0, 0, 0]);
    /// Everyone who came in over our onion service: Tor hides where from.
    pub const TOR_INBOUND: Self = Self([b't', 0, 0, 0, 0, 0, 0, 0]);

    pub(crate) fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    fn new(tag: u8, common: &[u8]) -> Self {
        let mut bytes = [0; 8];
        bytes[0] = tag;
        bytes[1..=common.len()].copy_from_slice(common);
        Self(bytes)
    }
}

impl fmt::Display for NetGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tag, common @ ..] = &self.0;
        match tag {
            b'4' => write!(f, "{}.{}.0.0/16", common[0], common[1]),
            b'6' => write!(f, "{:02x}{:02x}:{:02x}{:02x}::/32", common[0], common[1], common[2], common[3]),
            b'3' => write!(f, "onion/{:x}", common[0]),
            b'd' => write!(f, "names/{:02x}{:02x}{:02x}{:02x}", common[0], common[1], common[2], common[3]),
            b'o' => f.write_str("operator"),
            b't' => f.write_str("tor inbound"),
            _ if *common == [0; 7] => f.write_str("not global"),
            _ => write!(f, "not global/{:02x}{:02x}{:02x}{:02x}", common[0], common[1], common[2], common[3]),
        }
    }
}

impl fmt::Debug for NetGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a claim came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Configuration, command line, import.
    Operator,
    /// A peer whose address we see.
    Peer(Endpoint),
    /// A peer that came in over our onion service.
    TorInbound,
}

/// Which addresses are of use to us, and how they are grouped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPolicy {
    /// Accept loopback and private addresses, from sources that have such an address themselves,
    /// and count each as a netgroup of its own. Default false. Set it for testnets on one machine
    /// and for networks inside one organisation, never on a public chain: anyone could then make the
    /// node dial into its own network.
    pub allow_private: bool,
    /// Networks we dial. Default ip4 and ip6; add `onion` when Tor runs. `dns` here means that names
    /// in *other peers'* records are looked up, which tells resolvers whom we dial and lets a
    /// stranger point many nodes at one name server; names that the operator configured are always
    /// looked up.
    pub networks: BTreeSet<Network>,
}

impl Default for AddressPolicy {
    fn default() -> Self {
        Self { allow_private: false, networks: [Network::Ip4, Network::Ip6].into() }
    }
}

/// Why an address is not taken. Nobody is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unusable {
    /// Of a network we don't use.
    #[error("it is of a network that this node does not use")]
    Network,
    /// Loopback or private, on a node that allows neither.
    #[error("it is not reachable from everywhere, and `allow_private` is off")]
    Private,
    /// Loopback or private, said by someone on the public network.
    #[error("it is private, and who named it is on the public network")]
    PrivateFromPublic,
}

impl AddressPolicy {
    /// A policy for nodes on one machine or in one private network.
    pub fn private() -> Self {
        Self { allow_private: true, ..Self::default() }
    }

    /// The netgroup of a place.
    pub fn group(&self, endpoint: &Endpoint) -> NetGroup {
        let host = endpoint.host();
        if !host.is_global() {
            return if self.allow_private { own_group(endpoint) } else { NetGroup::new(b'p', &[]) };
        }
        match host {
            Host::Ip4(ip) => NetGroup::new(b'4', &ip.octets()[..2]),
            Host::Ip6(ip) => NetGroup::new(b'6', &ip.octets()[..4]),
            Host::Onion(onion) => NetGroup::new(b'3', &[onion[0] >> 4]),
            Host::Name(name) => {
                let mut dots = name.rmatch_indices('.').map(|(at, _)| at + 1);
                let start = dots.nth(1).unwrap_or(0);
                NetGroup::new(b'd', &hash7(&name.as_bytes()[start..], 0))
            }
        }
    }

    /// The netgroup of a source.
    pub fn source_group(&self, source: &Source) -> NetGroup {
        match source {
            Source::Operator => NetGroup::OPERATOR,
            Source::TorInbound => NetGroup::TOR_INBOUND,
            Source::Peer(endpoint) => self.group(endpoint),
        }
    }

    /// Whether we would dial `endpoint` on the word of `source`.
    ///
    /// # Errors
    /// [`Unusable`]: leave the address out.
    pub fn check(&self, endpoint: &Endpoint, source: &Source) -> Result<(), Unusable> {
        if *source == Source::Operator {
            return Ok(());
        }
        if !self.networks.contains(&endpoint.network()) {
            return Err(Unusable::Network);
        }
        if endpoint.host().is_global() {
            return Ok(());
        }
        match source {
            _ if !self.allow_private => Err(Unusable::Private),
            Source::Peer(from) if !from.host().is_global() => Ok(()),
            _ => Err(Unusable::PrivateFromPublic),
        }
    }
}

fn own_group(endpoint: &Endpoint) -> NetGroup {
    match endpoint.host() {
        Host::Ip4(ip) => {
            let mut common = [0; 7];
            common[..4].copy_from_slice(&ip.octets());
            common[4..6].copy_from_slice(&endpoint.port().to_be_bytes());
            NetGroup::new(b'p', &common)
        }
        Host::Ip6(ip) => NetGroup::new(b'q', &hash7(&ip.octets(), endpoint.port())),
        Host::Onion(_) | Host::Name(_) => NetGroup::new(b'p', &[]),
    }
}

fn hash7(bytes: &[u8], port: u16) -> [u8; 7] {
    // Unkeyed: groups must be the same after a restart. Whoever finds two names with one hash only
    // shares a group with itself.
    let mut hasher = SipHasher24::new();
    hasher.write(bytes);
    hasher.write(&port.to_be_bytes());
    let hash = hasher.finish().to_be_bytes();
    let mut out = [0; 7];
    out.copy_from_slice(&hash[..7]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        crate::address::parse(&text.parse().unwrap()).unwrap().0
    }
    fn ip(text: &str, port: u16) -> Endpoint {
        std::net::SocketAddr::new(text.parse().unwrap(), port).into()
    }
    fn onion(first: u8) -> Endpoint {
        let mut bytes = [7; 35];
        bytes[0] = first;
        crate::address::parse(&multiaddr::Protocol::Onion3((bytes, 9).into()).into()).unwrap().0
    }

    #[test]
    fn groups_by_network() {
        let policy = AddressPolicy::default();
        let same = |a: &Endpoint, b: &Endpoint| policy.group(a) == policy.group(b);
        assert!(same(&ip("1.2.3.4", 1), &ip("1.2.200.9", 2)));
        assert!(!same(&ip("1.2.3.4", 1), &ip("1.3.3.4", 1)));
        assert!(same(&ip("2a00:1450:1::1", 1), &ip("2a00:1450:ffff::2", 1)));
        assert!(!same(&ip("2a00:1450::1", 1), &ip("2a00:1451::1", 1)));
        assert!(same(&onion(0x10), &onion(0x1f)) && !same(&onion(0x10), &onion(0x20)));
        let name = |name: &str| endpoint(&format!("/dns/{name}/udp/1/quic-v1"));
        assert!(same(&name("a.example.org"), &name("b.c.example.org")));
        assert!(!same(&name("example.org"), &name("example.com")));
        assert!(same(&name("example.org"), &name("x.example.org")));
        // Without the switch everything that is not global is one group.
        assert!(same(&ip("127.0.0.1", 1), &ip("10.1.1.1", 2)));
        assert_eq!(policy.group(&ip("1.2.3.4", 1)).to_string(), "1.2.0.0/16");
    }

    #[test]
    fn sixteen_nodes_on_loopback_are_sixteen_groups() {
        let policy = AddressPolicy::private();
        let groups: BTreeSet<_> = (0..16).map(|n| policy.group(&ip("127.0.0.1", 4000 + n))).collect();
        assert_eq!(groups.len(), 16);
        // Global addresses are grouped as ever.
        assert_eq!(policy.group(&ip("1.2.3.4", 1)), policy.group(&ip("1.2.9.9", 2)));
    }

    #[test]
    fn private_addresses_need_a_private_source() {
        let (public, private) = (Source::Peer(ip("1.2.3.4", 1)), Source::Peer(ip("127.0.0.1", 1)));
        let target = ip("192.168.1.1", 1);
        let open = AddressPolicy::private();
        assert_eq!(open.check(&target, &private), Ok(()));
        assert_eq!(open.check(&target, &public), Err(Unusable::PrivateFromPublic));
        assert_eq!(open.check(&target, &Source::TorInbound), Err(Unusable::PrivateFromPublic));
        let closed = AddressPolicy::default();
        assert_eq!(closed.check(&target, &private), Err(Unusable::Private));
        assert_eq!(closed.check(&target, &Source::Operator), Ok(()));
        assert_eq!(closed.check(&onion(1), &public), Err(Unusable::Network));
    }
}

//! Addresses as settings and flags take them: checked when they are read, by the rules by which they are
//! used.

use std::net::SocketAddr;

use ghost_proto::Multiaddr;
use ghost_protocol::address::{AddressError, Host, QuicAddress};

/// The socket of an address to listen on.
///
/// # Errors
/// [`AddressError`] if it is no QUIC address, or names a host instead of an IP address.
pub fn listen_socket(address: &Multiaddr) -> Result<SocketAddr, AddressError> {
    let parsed = QuicAddress::parse(address)?;
    match parsed.host {
        Host::Ip(ip) => Ok((ip, parsed.port).into()),
        Host::Name(_) => Err(AddressError::Unsupported(address.clone())),
    }
}

/// Checks an address to listen on. The error says what one looks like.
pub(super) fn check_listen(address: &Multiaddr) -> Result<(), String> {
    listen_socket(address)
        .map(drop)
        .map_err(|_| format!("{address} is nothing to listen on; an example: /ip4/0.0.0.0/udp/4001/quic-v1"))
}

/// Checks an address to dial: it says where, and whom to expect there. The error says what is missing.
pub(super) fn check_peer(address: &Multiaddr) -> Result<(), String> {
    match ghost_discovery::address::parse(address) {
        Ok((_, Some(_))) => Ok(()),
        Ok((_, None)) => Err(no_peer(address)),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks an address to ask a node at.
fn check_node(address: &Multiaddr) -> Result<(), String> {
    match QuicAddress::parse(address) {
        Ok(QuicAddress { peer: Some(_), .. }) => Ok(()),
        Ok(_) => Err(no_peer(address)),
        Err(error) => Err(error.to_string()),
    }
}

fn no_peer(address: &Multiaddr) -> String {
    format!(
        "{address} does not say whom to expect there: end it with /p2p/ and the PeerId, as `ghostd status` of that node shows it"
    )
}

/// Checks an address that others are to dial.
pub(super) fn check_external(address: &Multiaddr) -> Result<(), String> {
    ghost_discovery::address::parse(address).map(drop).map_err(|error| error.to_string())
}

fn parse(text: &str, check: fn(&Multiaddr) -> Result<(), String>) -> Result<Multiaddr, String> {
    let address: Multiaddr = text.parse().map_err(|error| format!("it is no multiaddr: {error}"))?;
    check(&address).map(|()| address)
}

/// An address to listen on, from a flag.
pub fn parse_listen(text: &str) -> Result<Multiaddr, String> {
    parse(text, check_listen)
}

/// An address to ask a node at, from a flag.
pub fn parse_node(text: &str) -> Result<Multiaddr, String> {
    parse(text, check_node)
}

/// An address to stay connected to, from a flag.
pub fn parse_peer(text: &str) -> Result<Multiaddr, String> {
    parse(text, check_peer)
}

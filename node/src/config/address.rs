//! Addresses as settings and flags take them: checked when they are read, by the rules by which they are
//! used.

use std::net::SocketAddr;

use ghost_proto::Multiaddr;
use ghost_protocol::{
    address::{AddressError, Host, QuicAddress, unix_socket},
    transport::Onion,
};

use super::{Network, Tor, TorMode};

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

/// Checks that peers are where this node may dial.
pub(super) fn check_networks(addresses: &[Multiaddr], tor: &Tor) -> Result<(), String> {
    for address in addresses {
        let onion = Onion::of(address).is_some();
        if onion && tor.mode == TorMode::Off {
            return Err(format!("{address} is reached over Tor only: set tor.mode to \"also\" or \"only\""));
        }
        if !onion && tor.mode == TorMode::Only {
            return Err(format!(
                "{address} is not behind Tor, and with tor.mode = \"only\" nothing else is dialled: give its /onion3/… address, or set tor.mode to \"also\""
            ));
        }
    }
    Ok(())
}

/// Checks that no name would be looked up outside of Tor.
pub(super) fn check_dns(network: &Network, tor: &Tor) -> Result<(), String> {
    match tor.mode == TorMode::Only && !network.dns_seeds.is_empty() {
        true => Err("with tor.mode = \"only\" no name is looked up: remove it, and name seeds by their /onion3/… addresses in network.seeds".into()),
        false => Ok(()),
    }
}

/// Checks that there is a way to Tor.
pub(super) fn check_tor(tor: &Tor) -> Result<(), String> {
    if tor.mode == TorMode::Off || tor.socks.is_some() || cfg!(feature = "tor") {
        return Ok(());
    }
    Err("this ghostd has no Tor of its own: build it with `cargo build --release -p ghost-node --features tor`, or name the SOCKS port of a running tor daemon in tor.socks (127.0.0.1:9050, as a rule)".into())
}

/// Checks that an onion service that a daemon forwards is named whole.
pub(super) fn check_onion(tor: &Tor) -> Result<(), String> {
    match (&tor.external_address, tor.forward) {
        (Some(address), _) if Onion::of(address).is_none() => {
            Err(format!("{address} is no onion service; an example: /onion3/NAME:4001, with the 56 letters before .onion"))
        }
        (Some(_), _) if tor.socks.is_none() => {
            Err("it says which onion service a daemon forwards here, and no daemon is named in tor.socks; the Tor in this process makes an address of its own".into())
        }
        (Some(_), None) => Err("set tor.forward too: where the daemon forwards to".into()),
        _ => Ok(()),
    }
}

/// Checks an address to ask a node at.
fn check_node(address: &Multiaddr) -> Result<(), String> {
    match unix_socket(address) {
        Some((_, Some(_))) => return Ok(()),
        Some((_, None)) => return Err(no_peer(address)),
        None => {}
    }
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

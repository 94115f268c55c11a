//! The discovery cores' settings, made of the node's.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ghost_discovery::{
    address::{self, Endpoint, Network},
    dial::StaticPeer,
    overlay::OverlayConfig as DiscoveryConfig,
};
use ghost_proto::{Multiaddr, PeerId};
use ghost_protocol::{address::of_socket, transport::Remote};

use crate::config::{self, TorMode};

/// The discovery cores' settings for a node's. A node that listens on a loopback or private address is
/// part of a private network: such addresses are of use to it.
pub(crate) fn discovery_config(
    own: PeerId,
    network: &config::Network,
    tor: TorMode,
    clients_max: u32,
    listen: &[SocketAddr],
) -> DiscoveryConfig {
    let local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    };
    let outbound = network.outbound_max as usize;
    let mut config = if listen.iter().any(|address| local(address.ip())) {
        DiscoveryConfig::private(own, outbound)
    } else {
        let mut config = DiscoveryConfig::new(own);
        config.dial.block_only = network.block_only_max as usize;
        config
    };
    let networks = &mut config.policy.networks;
    if tor == TorMode::Only {
        networks.clear();
    }
    if tor != TorMode::Off {
        networks.insert(Network::Onion);
    }
    config.dial.full_relay = outbound.min(128);
    config.dial.feeler_every = Duration::from_secs(network.feeler_every_s.into());
    if !network.discovery {
        config.dial.full_relay = 0;
        config.dial.block_only = 0;
        config.dial.feeler_every = Duration::ZERO;
    }
    let inbound = &mut config.inbound;
    inbound.connections_max = network.inbound_max as usize;
    inbound.per_host_max = network.per_host_max as usize;
    inbound.per_netgroup_max = network.per_netgroup_max as usize;
    inbound.half_open_max = network.half_open_max as usize;
    inbound.clients_max = clients_max as usize;
    inbound.clients_per_host_max = clients_max.div_ceil(4).max(1) as usize;
    inbound.allow_peers = network.allow_peers.iter().copied().collect();
    inbound.deny_peers = network.deny_peers.iter().copied().collect();
    inbound.allow_hosts = network.allow_hosts.clone();
    inbound.deny_hosts = network.deny_hosts.clone();
    inbound.only_allowed = network.only_allowed;
    for address in &network.peers {
        match static_peer(address) {
            Ok(peer) => config.static_peers.push(peer),
            Err(error) => tracing::warn!(%address, error, "configured peer cannot be dialled"),
        }
    }
    config
}

/// A peer and where it is, as an operator writes it.
pub(super) fn static_peer(address: &Multiaddr) -> Result<StaticPeer, String> {
    match address::parse(address) {
        Ok((endpoint, peer @ Some(_))) => Ok(StaticPeer { endpoint, peer }),
        Ok((_, None)) => Err(format!("{address} does not say whom to expect: append /p2p/PEERID")),
        Err(error) => Err(error.to_string()),
    }
}

/// The endpoint of a socket address; `None` for a wildcard, which is nobody's address.
pub(super) fn endpoint_of(address: SocketAddr) -> Option<Endpoint> {
    address::parse(&of_socket(address)).ok().map(|(endpoint, _)| endpoint)
}

/// The endpoint at the other end of a link; `None` if it shows none.
pub(super) fn endpoint_at(remote: Remote) -> Option<Endpoint> {
    address::parse(&remote.to_multiaddr()?).ok().map(|(endpoint, _)| endpoint)
}

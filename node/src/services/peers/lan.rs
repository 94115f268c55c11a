//! Peers on the same local network, by multicast DNS (RFC 6762) and DNS-SD (RFC 6763).
//!
//! # What it reveals
//! To everybody on the network: that a node of this chain runs here, its PeerId, addresses and port, for as long as
//! it runs. Nobody proves anything: who answers can name any PeerId and any address of its own, so that what is found
//! goes into the address book like a configured seed, at most [`FOUND_MAX`] of them, and only a handshake makes a
//! peer of it. Hence it is off unless the operator turns it on.

use std::{collections::BTreeSet, net::SocketAddr};

use ghost_discovery::address::{self, Endpoint};
use ghost_proto::{GenesisId, PeerId};
use ghost_protocol::address::of_socket;
use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::mpsc;

use super::Report;

const SERVICE: &str = "_ghostd._udp.local.";

/// Places taken from the local network while the node runs.
const FOUND_MAX: usize = 64;

/// Bytes of the genesis id that are announced: enough to tell chains apart.
const GENESIS_BYTES: usize = 8;

/// Announces this node while it is kept.
pub(super) struct Lan {
    daemon: ServiceDaemon,
}

impl Drop for Lan {
    fn drop(&mut self) {
        // It says goodbye; a network that is gone hears nothing.
        let _ = self.daemon.shutdown();
    }
}

fn tag(genesis: &GenesisId) -> String {
    hex::encode(&genesis.0[..GENESIS_BYTES])
}

/// Announces a node that listens on `port`, and reports others of its chain. Must be called inside a tokio runtime.
pub(super) fn open(
    own: PeerId,
    genesis: &GenesisId,
    port: u16,
    only_loopback: bool,
    report: mpsc::Sender<Report>,
) -> Result<Lan, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    if only_loopback {
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(vec![IfKind::LoopbackV4])?;
    }
    let lan = Lan { daemon };
    let (name, tag) = (own.to_string(), tag(genesis));
    let host = format!("ghostd-{}.local.", &name[name.len() - 12..].to_lowercase());
    let properties = [("peer", name.as_str()), ("genesis", tag.as_str())];
    let service = ServiceInfo::new(SERVICE, &name, &host, (), port, &properties[..])?.enable_addr_auto();
    lan.daemon.register(service)?;
    let events = lan.daemon.browse(SERVICE)?;
    tokio::spawn(async move {
        let mut found = BTreeSet::new();
        while let Ok(event) = events.recv_async().await {
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let mut places = places_in(&service, &tag, &own);
            places.retain(|place| found.len() < FOUND_MAX && found.insert(place.clone()));
            if !places.is_empty() {
                tracing::info!(peer = %places[0].0, places = places.len(), "found on the local network");
                // The task that asked ends only with the node.
                let _ = report.send(Report::Seeds(places)).await;
            }
        }
    });
    Ok(lan)
}

/// Where an announced node says it is; nothing if it is of another chain, or this one.
fn places_in(service: &ResolvedService, tag: &str, own: &PeerId) -> Vec<(PeerId, Endpoint)> {
    let said = |name| service.txt_properties.get_property_val_str(name);
    let Some(peer) = said("peer").and_then(|peer| peer.parse::<PeerId>().ok()) else { return Vec::new() };
    if said("genesis") != Some(tag) || peer == *own {
        return Vec::new();
    }
    let sockets = service.addresses.iter().map(|ip| SocketAddr::new(ip.to_ip_addr(), service.port));
    // A link-local address means nothing without the interface, which no multiaddr says.
    let sockets = sockets.filter(|socket| match socket {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(socket) => !socket.ip().is_unicast_link_local(),
    });
    let mut places: Vec<_> = sockets
        .filter_map(|socket| address::parse(&of_socket(socket)).ok())
        .map(|(at, _)| (peer, at))
        .collect();
    places.sort();
    places
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ghost_protocol::Identity;
    use tokio::time::timeout;

    use super::*;

    fn peer(n: u8) -> PeerId {
        Identity::from_seed(&[n; 32]).peer_id()
    }

    #[tokio::test]
    async fn nodes_of_one_chain_find_each_other_by_multicast_and_others_do_not() {
        let (one, other) = (GenesisId([1; 32]), GenesisId([2; 32]));
        let (report, mut first) = mpsc::channel(8);
        let _first = open(peer(1), &one, 4101, true, report).unwrap();
        let (report, mut stranger) = mpsc::channel(8);
        let _stranger = open(peer(2), &other, 4102, true, report).unwrap();
        let (report, mut second) = mpsc::channel(8);
        let _second = open(peer(3), &one, 4103, true, report).unwrap();
        for (found, who, port) in [(&mut first, peer(3), 4103), (&mut second, peer(1), 4101)] {
            let report = timeout(Duration::from_secs(30), found.recv()).await.expect("it is found").unwrap();
            let Report::Seeds(places) = report else { panic!("seeds are reported") };
            assert!(places.contains(&(who, SocketAddr::from(([127, 0, 0, 1], port)).into())), "{places:?}");
        }
        assert!(stranger.try_recv().is_err(), "of another chain");
    }
}

//! Asking the router to let others in: PCP (RFC 6887), else NAT-PMP (RFC 6886).
//!
//! What comes of it is not believed: peers that dial back say whether this node can be reached, as without it.
//!
//! # What it reveals
//! To the router, and who sees its traffic: that a program here wants this UDP port to be reachable. Off by default.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroU16,
    time::Duration,
};

use crab_nat::{GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, TimeoutConfig};
use tokio::time::sleep;

/// A mapping is asked for so long and renewed at half of it.
const LIFETIME_S: u32 = 3600;

/// A router that refused or did not answer is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// 250 ms, 500 ms, 1 s, 2 s: a router is one hop away.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(2)),
};

/// Keeps a UDP port mapped at the router that packets to everywhere go to. Ends only with its task.
pub(super) async fn keep(port: u16) {
    loop {
        match default_gateway() {
            Some(gateway) => keep_at(gateway, port).await,
            None => tracing::debug!("network.port_mapping: this machine has no IPv4 router"),
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Keeps a port mapped at a router, until the router will not any longer.
async fn keep_at(gateway: Ipv4Addr, port: u16) {
    let mut mapping = match map(gateway, port).await {
        Ok(mapping) => mapping,
        Err(error) => {
            return tracing::warn!(%gateway, error, "network.port_mapping: the router maps no port; forward UDP port {port} there by hand");
        }
    };
    tracing::info!(%gateway, port, external_port = mapping.external_port(), "the router maps this node's port");
    if mapping.external_port().get() != port {
        tracing::warn!(
            "network.port_mapping: the router gave port {} and not {port}; others reach this node only if network.external_address says so",
            mapping.external_port()
        );
    }
    loop {
        // A router that grants a moment is not asked all the time.
        sleep(Duration::from_secs(u64::from(mapping.lifetime() / 2).max(30))).await;
        if let Err(error) = mapping.renew().await {
            return tracing::warn!(%gateway, %error, "network.port_mapping: the router ended the mapping");
        }
    }
}

async fn map(gateway: Ipv4Addr, port: u16) -> Result<PortMapping, String> {
    let port = NonZeroU16::new(port).ok_or("port 0 cannot be mapped")?;
    let client = own_address_to(gateway).map_err(|error| error.to_string())?;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME_S),
        timeout_config: Some(TIMING),
    };
    PortMapping::new(GatewayAddress::IpV4(gateway), client, InternetProtocol::Udp, port, options)
        .await
        .map_err(|error| error.to_string())
}

/// The address of this machine from which it sends to another. Nothing is sent.
fn own_address_to(gateway: Ipv4Addr) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from((gateway, crab_nat::GATEWAY_PORT)))?;
    Ok(socket.local_addr()?.ip())
}

/// The router of the default route, by Linux's table of routes; on other systems nothing is known.
fn default_gateway() -> Option<Ipv4Addr> {
    gateway_in(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Columns: interface, destination, gateway, flags, …; addresses are hexadecimal in the machine's byte order.
fn gateway_in(table: &str) -> Option<Ipv4Addr> {
    const USES_GATEWAY: u32 = 2;
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let mut number = || u32::from_str_radix(columns.next()?, 16).ok();
        let (destination, gateway, flags) = (number()?, number()?, number()?);
        (destination == 0 && flags & USES_GATEWAY != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket as AsyncSocket;

    use super::*;

    #[test]
    fn the_default_route_names_the_router() {
        let gateway = u32::from_ne_bytes([192, 168, 7, 1]);
        let table = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t0007A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
             eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t100\t00000000\n"
        );
        assert_eq!(gateway_in(&table), Some(Ipv4Addr::new(192, 168, 7, 1)));
        assert_eq!(gateway_in("Iface\tDestination\nlo\t0000007F\t0\t0001\n"), None);
        assert_eq!(gateway_in(""), None);
    }

    /// A router that speaks NAT-PMP only, and grants another port than the one asked for if `other` says so.
    async fn router(at: Ipv4Addr, grants: Option<u16>) -> AsyncSocket {
        let socket = AsyncSocket::bind((at, crab_nat::GATEWAY_PORT)).await.unwrap();
        let mut buffer = [0; 1100];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let request = &buffer[..length];
            let Some(port) = grants else { continue };
            if request[0] != 0 {
                // RFC 6886 §3.5: unsupported version, and the seconds since the start.
                socket.send_to(&[0, 128, 0, 1, 0, 0, 0, 9], from).await.unwrap();
                continue;
            }
            assert_eq!((request[1], length), (1, 12), "map a UDP port");
            let mut answer = vec![0, 129, 0, 0, 0, 0, 0, 9];
            answer.extend_from_slice(&request[4..6]);
            answer.extend_from_slice(&port.to_be_bytes());
            answer.extend_from_slice(&request[8..12]);
            socket.send_to(&answer, from).await.unwrap();
            return socket;
        }
    }

    /// A loopback address that no other process of these tests has.
    fn address(n: u8) -> Ipv4Addr {
        let process = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 64 + n, process[2], process[3].max(1))
    }

    #[tokio::test]
    async fn a_router_that_speaks_nat_pmp_maps_the_port() {
        let (router, mapping) = tokio::join!(router(address(1), Some(4001)), map(address(1), 4001));
        drop(router);
        let mapping = mapping.unwrap();
        assert_eq!((mapping.external_port().get(), mapping.lifetime()), (4001, LIFETIME_S));
    }

    #[tokio::test]
    async fn a_router_that_is_silent_is_given_up_within_seconds() {
        let begun = tokio::time::Instant::now();
        let silent = router(address(2), None);
        let mapping = tokio::select! {
            mapping = map(address(2), 4001) => mapping,
            _ = silent => unreachable!("it never answers"),
        };
        assert!(mapping.is_err());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

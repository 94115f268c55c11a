//! The rival: `quinn` with our TLS and transport settings and nothing above it.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use ghost_protocol::{
    Identity, PeerId,
    transport::quic::{tls, tuning},
};
use quinn::{
    EndpointConfig, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::{BenchError, Doing};

pub(super) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A loopback socket with the buffers that the overlay asks for.
fn socket() -> Result<UdpSocket, BenchError> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).doing("opening a socket")?;
    let _ = socket.set_recv_buffer_size(tuning::SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(tuning::SOCKET_BUFFER);
    socket.bind(&LOOPBACK.into()).doing("binding a socket")?;
    Ok(socket.into())
}

pub(super) fn server(
    identity: &Identity,
    transport: Arc<TransportConfig>,
) -> Result<quinn::Endpoint, BenchError> {
    let (tls, _) = tls::configs(identity).doing("setting up TLS")?;
    let crypto = QuicServerConfig::try_from(tls).doing("setting up TLS")?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport);
    quinn::Endpoint::new(EndpointConfig::default(), Some(config), socket()?, Arc::new(quinn::TokioRuntime))
        .doing("opening an endpoint")
}

pub(super) fn client() -> Result<quinn::Endpoint, BenchError> {
    quinn::Endpoint::new(EndpointConfig::default(), None, socket()?, Arc::new(quinn::TokioRuntime))
        .doing("opening an endpoint")
}

/// Settings for dials under this identity, with a ticket store of their own or none.
pub(super) fn client_config(
    identity: &Identity,
    transport: Arc<TransportConfig>,
    resume: bool,
) -> Result<quinn::ClientConfig, BenchError> {
    let (_, mut tls) = tls::configs(identity).doing("setting up TLS")?;
    if !resume {
        tls::disable_resumption(&mut tls);
    }
    let crypto = QuicClientConfig::try_from(tls).doing("setting up TLS")?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    Ok(config)
}

/// The name to dial a peer by.
pub(super) fn name_of(peer: &PeerId) -> Result<String, BenchError> {
    tls::server_name(peer).ok_or("its key is not ed25519").doing("naming a peer")
}

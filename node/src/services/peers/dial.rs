//! One dial: names, addresses in their order, and what became of each.

use std::net::SocketAddr;

use ghost_discovery::{
    address::{Endpoint, Host},
    dial::{DialFailure, Kind},
};
use ghost_frames::StreamType;
use ghost_proto::PeerId;
use ghost_protocol::{
    Overlay,
    handshake::{HelloError, LocalHello},
    overlay::ConnectError,
    session::Direction,
    transport::quic::DialError,
};

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    match endpoint.host() {
        Host::Ip4(ip) => Ok(vec![(*ip, endpoint.port()).into()]),
        Host::Ip6(ip) => Ok(vec![(*ip, endpoint.port()).into()]),
        Host::Name(name) => tokio::net::lookup_host((&**name, endpoint.port()))
            .await
            .map(Iterator::collect)
            .map_err(|error| error.to_string()),
        Host::Onion(_) => Err("this node does not speak Tor".into()),
    }
}

/// What a hello says on a connection that is for blocks only: send me no transactions, and ask me for none.
fn blocks_only(hello: &mut LocalHello) {
    hello.serves = hello.serves.without(StreamType::TxPush).without(StreamType::TxFetch);
}

/// Dials a peer at one place.
pub(super) async fn dial_one(
    overlay: &Overlay,
    kind: Kind,
    peer: PeerId,
    endpoint: &Endpoint,
) -> Result<(), DialFailure> {
    if overlay.session(&peer).is_some() {
        return Err(DialFailure::Duplicate);
    }
    let sockets = resolve(endpoint).await.map_err(DialFailure::Unreachable)?;
    let mut last = DialFailure::Unreachable("the name has no address".into());
    for socket in sockets {
        let dialled = match kind {
            Kind::BlockOnly => overlay.dial_saying(peer, socket, blocks_only).await,
            Kind::Static | Kind::FullRelay | Kind::Feeler => overlay.dial(peer, socket).await,
        };
        match dialled {
            Ok(session) if session.direction() == Direction::Outbound => return Ok(()),
            Ok(_) => return Err(DialFailure::Duplicate),
            Err(error) => last = failure_of(error),
        }
    }
    Err(last)
}

fn failure_of(error: ConnectError) -> DialFailure {
    match error {
        ConnectError::Dial(DialError::IdentityMismatch { .. }) => DialFailure::IdentityMismatch,
        ConnectError::Dial(DialError::Refused { code: Some(code), .. })
        | ConnectError::Refused { code, .. } => DialFailure::of_code(code),
        ConnectError::Dial(error) => DialFailure::Unreachable(error.to_string()),
        ConnectError::Hello(HelloError::WrongGenesis(_)) => DialFailure::WrongGenesis,
        ConnectError::Hello(HelloError::SelfDial) => DialFailure::SelfDial,
        ConnectError::Hello(error) => DialFailure::of_code(error.code()),
    }
}

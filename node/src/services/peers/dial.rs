//! One dial: names, addresses in their order, and what became of each.

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
    transport::{DialError, Onion, Remote},
};

/// # Security
/// With `tor_only` neither an IP address nor a name gets any further, whoever put it into the book.
async fn resolve(endpoint: &Endpoint, tor_only: bool) -> Result<Vec<Remote>, String> {
    let port = endpoint.port();
    match endpoint.host() {
        Host::Onion(name) => Ok(vec![Remote::Onion(Onion { name: **name, port })]),
        _ if tor_only => Err("tor.mode is \"only\": nothing is dialled but onion services".into()),
        Host::Ip4(ip) => Ok(vec![Remote::Ip((*ip, port).into())]),
        Host::Ip6(ip) => Ok(vec![Remote::Ip((*ip, port).into())]),
        Host::Name(name) => tokio::net::lookup_host((&**name, port))
            .await
            .map(|found| found.map(Remote::Ip).collect())
            .map_err(|error| error.to_string()),
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
    tor_only: bool,
) -> Result<(), DialFailure> {
    if overlay.session(&peer).is_some() {
        return Err(DialFailure::Duplicate);
    }
    let places = resolve(endpoint, tor_only).await.map_err(DialFailure::Unreachable)?;
    let mut last = DialFailure::Unreachable("the name has no address".into());
    for place in places {
        let dialled = match kind {
            Kind::BlockOnly => overlay.dial_saying(peer, place, blocks_only).await,
            Kind::Static | Kind::FullRelay | Kind::Feeler => overlay.dial(peer, place).await,
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

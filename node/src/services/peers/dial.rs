//! One dial: names, addresses in their order, and what became of each.

use std::collections::VecDeque;

use ghost_discovery::{
    address::{Endpoint, Host},
    dial::{Attempt, DialFailure, Kind},
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
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// # Security
/// With `tor_only` neither an IP address nor a name gets any further, whoever put it into the book.
pub(super) async fn resolve(endpoint: &Endpoint, tor_only: bool) -> Result<Vec<Remote>, String> {
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
async fn dial_one(
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

/// A dial at several addresses (happy eyeballs, RFC 8305): each begins at its time, or as soon as all before it have
/// failed, and the first that answers wins. Those under way then end by themselves, as there is a session already.
pub(super) struct Race {
    overlay: Overlay,
    kind: Kind,
    peer: PeerId,
    tor_only: bool,
    begun: Instant,
    waiting: VecDeque<Attempt>,
    under_way: JoinSet<(Endpoint, Result<(), DialFailure>)>,
    won: bool,
}

impl Race {
    pub(super) fn begin(
        overlay: Overlay,
        kind: Kind,
        peer: PeerId,
        attempts: Vec<Attempt>,
        tor_only: bool,
    ) -> Self {
        let (begun, waiting) = (Instant::now(), attempts.into());
        Self { overlay, kind, peer, tor_only, begun, waiting, under_way: JoinSet::new(), won: false }
    }

    /// The next address that failed; `None` at the end, which is a victory or the failure of all.
    pub(super) async fn next_failure(&mut self) -> Option<(Endpoint, DialFailure)> {
        while !self.won {
            let next = self.waiting.front().map(|attempt| self.begun + attempt.after);
            let due = next.filter(|_| !self.under_way.is_empty());
            tokio::select! {
                () = async { sleep_until(due.unwrap_or(self.begun)).await }, if next.is_some() => self.start_next(),
                Some(ended) = self.under_way.join_next() => match ended {
                    Ok((_, Ok(()))) => self.won = true,
                    // Another of these addresses was a little quicker.
                    Ok((_, Err(DialFailure::Duplicate))) if self.is_connected() => self.won = true,
                    Ok((endpoint, Err(why))) => return Some((endpoint, why)),
                    // A dial that panicked is none.
                    Err(_) => {}
                },
                else => break,
            }
        }
        self.under_way.detach_all();
        None
    }

    pub(super) fn is_won(&self) -> bool {
        self.won
    }

    fn is_connected(&self) -> bool {
        self.overlay.session(&self.peer).is_some_and(|session| session.direction() == Direction::Outbound)
    }

    fn start_next(&mut self) {
        let Some(Attempt { endpoint, .. }) = self.waiting.pop_front() else { return };
        let (overlay, kind, peer, tor_only) = (self.overlay.clone(), self.kind, self.peer, self.tor_only);
        self.under_way.spawn(async move {
            let result = dial_one(&overlay, kind, peer, &endpoint, tor_only).await;
            (endpoint, result)
        });
    }
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

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, UdpSocket},
        time::Duration,
    };

    use ghost_protocol::{
        Identity,
        handshake::Role,
        overlay::{Gate, OverlayConfig, OverlayEvent},
        session::SessionContext,
        transport::quic::{HANDSHAKE_TIMEOUT, Socket},
    };
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    fn node(n: u8) -> (Overlay, mpsc::Receiver<OverlayEvent>) {
        let context = SessionContext::default();
        let hello = LocalHello {
            genesis: Some(ghost_proto::GenesisId([1; 32])),
            serves: context.inbox.serves(),
            user_agent: "test".into(),
            record: None,
            best: (0, ghost_proto::BlockId([1; 32])),
            finalized_height: 0,
            nonce: n.into(),
            role: Role::Node,
            tx_salt: Some([n; 16]),
        };
        let identity = Identity::from_seed(&[n; 32]);
        let config = OverlayConfig {
            identity,
            hello,
            context,
            gate: Gate::default(),
            rng_seed: None,
            onion: None,
            dials_ip: true,
        };
        Overlay::start(config, vec![Socket::Bind("127.0.0.1:0".parse().unwrap())]).unwrap()
    }

    fn attempt(address: SocketAddr, after_ms: u64) -> Attempt {
        Attempt { endpoint: address.into(), after: Duration::from_millis(after_ms) }
    }

    #[tokio::test]
    async fn an_address_that_is_silent_holds_up_no_other_and_one_that_refuses_lets_the_next_begin_at_once() {
        let ((dialler, _ups), (there, _comings)) = (node(1), node(2));
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let attempts =
            vec![attempt(silent.local_addr().unwrap(), 0), attempt(there.local_addresses()[0], 100)];
        let mut race = Race::begin(dialler.clone(), Kind::FullRelay, there.peer_id(), attempts, false);
        // A dial at the silent one alone takes as long as a handshake may.
        let won = timeout(HANDSHAKE_TIMEOUT / 2, race.next_failure()).await.expect("the other answers");
        assert!(won.is_none() && race.is_won());
        assert!(dialler.session(&there.peer_id()).is_some());

        // Somebody else's address fails at once; the next one's time would be far away.
        let ((dialler, _ups), (other, _visits)) = (node(3), node(4));
        let attempts =
            vec![attempt(other.local_addresses()[0], 0), attempt(there.local_addresses()[0], 3_600_000)];
        let mut race = Race::begin(dialler, Kind::FullRelay, there.peer_id(), attempts, false);
        let first = timeout(HANDSHAKE_TIMEOUT, race.next_failure()).await.expect("it fails at once");
        assert_eq!(first, Some((other.local_addresses()[0].into(), DialFailure::IdentityMismatch)));
        assert_eq!(timeout(HANDSHAKE_TIMEOUT, race.next_failure()).await.expect("the next begins"), None);
        assert!(race.is_won());
    }
}

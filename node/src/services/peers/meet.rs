//! Meeting peers behind NATs: asking a common peer, being asked, and passing packets on.
//!
//! # Security
//! All of it shows addresses and sends UDP, so that whoever is behind Tor has no part in it: nobody there is asked,
//! answered or named, and a node that dials through Tor alone has no [`Meeting`].

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ghost_discovery::{
    address::{self, Endpoint, Host},
    meet::{MeetConfig, Meetings, Verdict},
    netgroup::Source,
};
use ghost_frames::{
    Code, EncodedFrame, Frame, Payload, StreamType,
    meet::{How, MeetAnswer, MeetOffer, MeetOutcome, MeetRequest},
};
use ghost_proto::{
    Multiaddr, PeerId,
    record::{key_of, peer_of},
};
use ghost_protocol::{
    Overlay, Session,
    address::of_socket,
    inbox::{Asked, Pushed},
    transport::circuit::CircuitSocket,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::PeerBook;

/// Time the one who is wanted has to answer the common peer.
const OFFER_TIME: Duration = Duration::from_secs(3);

/// Time the common peer has to answer the asker.
const ASK_TIME: Duration = Duration::from_secs(5);

/// Time a dial through an opened NAT may take. A NAT that lets nothing in is silent.
const PUNCH_DIAL_TIME: Duration = Duration::from_secs(3);

/// Datagrams that open the NAT, and how far apart: as long as the other's dial lasts.
const PUNCHES: u32 = 10;
const PUNCH_EVERY: Duration = Duration::from_millis(250);

/// Peers that are asked whether they know the one who is wanted, and those of them through whom it is tried.
const ASKED_MAX: usize = 16;
const COMMON_MAX: usize = 2;

/// Time for all of it; then the dial has failed and is repeated in its turn.
const MEET_TIME: Duration = Duration::from_secs(15);

const _: () = assert!(PUNCH_EVERY.as_millis() as u64 * PUNCHES as u64 <= PUNCH_DIAL_TIME.as_millis() as u64);

/// Meetings of a node. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Meeting {
    meetings: Arc<Mutex<Meetings>>,
    circuits: Arc<CircuitSocket>,
    overlay: Overlay,
    book: PeerBook,
}

impl Meeting {
    pub(crate) fn new(
        config: MeetConfig,
        first: u64,
        overlay: Overlay,
        book: PeerBook,
    ) -> std::io::Result<Self> {
        let circuits = overlay.open_circuits()?;
        Ok(Self { meetings: Arc::new(Mutex::new(Meetings::new(config, first))), circuits, overlay, book })
    }

    fn lock(&self) -> MutexGuard<'_, Meetings> {
        self.meetings.lock().expect("no code panics while it holds the meetings")
    }

    pub(super) fn disconnected(&self, peer: &PeerId) {
        self.lock().disconnected(peer);
    }

    /// Serves until the node stops.
    pub(crate) async fn run(self, mut asked: mpsc::Receiver<Asked>, mut pushed: mpsc::Receiver<Pushed>) {
        loop {
            tokio::select! {
                asked = asked.recv() => match asked {
                    Some(asked) => self.asked(asked),
                    None => return,
                },
                pushed = pushed.recv() => match pushed {
                    Some(pushed) => self.pushed(pushed),
                    None => return,
                },
            }
        }
    }

    fn pushed(&self, Pushed { session, frames }: Pushed) {
        if session.remote().ip().is_none() {
            return;
        }
        let (from, now) = (session.peer(), Instant::now().into_std());
        for frame in frames {
            let Frame::CircuitPacket(packet) = frame else { continue };
            let to = self.lock().pass(packet.circuit, &from, packet.packet.len(), now);
            match to.and_then(|to| self.overlay.session(&to)) {
                // What does not fit is lost, as on any narrow path.
                Some(to) => drop(to.push(StreamType::Circuit, &packet.to_frame())),
                // Not ours to pass on: for us, or of a circuit that has ended.
                None => drop(self.circuits.deliver(&from, packet)),
            }
        }
    }

    fn asked(&self, asked: Asked) {
        let Some(session) = asked.session.clone() else {
            return asked.responder.refuse(Code::ProtocolViolation);
        };
        if session.remote().ip().is_none() {
            return asked.responder.refuse(Code::UnknownStream);
        }
        let meeting = self.clone();
        match asked.frame {
            Frame::MeetRequest(request) => {
                tokio::spawn(async move {
                    let answer = meeting.bring_together(&session, request).await;
                    // An asker that is gone wants no answer.
                    let _ = asked.responder.answer(&answer.to_frame()).await;
                });
            }
            Frame::MeetOffer(offer) => {
                let answer = self.offered(&session, &offer);
                tokio::spawn(async move {
                    let _ = asked.responder.answer(&answer.to_frame()).await;
                });
            }
            _ => asked.responder.refuse(Code::ProtocolViolation),
        }
    }

    /// Two of our peers cannot dial each other, and one of them asks us.
    async fn bring_together(&self, asker: &Session, MeetRequest { how, wanted }: MeetRequest) -> MeetAnswer {
        let answer = |outcome| MeetAnswer { outcome, circuit: 0, address: bytes::Bytes::new() };
        let wanted = peer_of(&wanted).and_then(|wanted| self.overlay.session(&wanted));
        let Some(wanted) = wanted.filter(|session| session.hello().serves.contains(StreamType::Meet)) else {
            return answer(MeetOutcome::Unknown);
        };
        let seen = |session: &Session| Some(bytes::Bytes::from(of_socket(session.remote().ip()?).to_vec()));
        // Of somebody behind Tor nobody hears from us.
        let (Some(key), Some(asker_at), Some(wanted_at)) =
            (key_of(&asker.peer()), seen(asker), seen(&wanted))
        else {
            return answer(MeetOutcome::Unknown);
        };
        let now = Instant::now().into_std();
        let Verdict::Offer(circuit) = self.lock().asked(asker.peer(), wanted.peer(), how, now) else {
            return answer(MeetOutcome::Busy);
        };
        let offer = MeetOffer { how, asker: key, circuit, address: asker_at };
        let agreed = match wanted.request(StreamType::Meet, &offer.to_frame(), OFFER_TIME).await {
            Ok(answer) => matches!(
                answer.single().await,
                Ok(Frame::MeetAnswer(MeetAnswer { outcome: MeetOutcome::Agreed, .. }))
            ),
            Err(_) => false,
        };
        if !agreed {
            self.lock().end(circuit);
            return answer(MeetOutcome::Unwilling);
        }
        tracing::debug!(asker = %asker.peer(), wanted = %wanted.peer(), ?how, "brought together");
        MeetAnswer { outcome: MeetOutcome::Agreed, circuit, address: wanted_at }
    }

    /// A peer says that somebody wants to meet us.
    fn offered(&self, relay: &Session, offer: &MeetOffer) -> MeetAnswer {
        let answer = |outcome, circuit| MeetAnswer { outcome, circuit, address: bytes::Bytes::new() };
        if !self.lock().may(&relay.peer(), Instant::now().into_std()) {
            return answer(MeetOutcome::Busy, 0);
        }
        let (Some(asker), Some(at)) = (peer_of(&offer.asker), self.place(&offer.address, relay)) else {
            return answer(MeetOutcome::Unwilling, 0);
        };
        if !self.book.welcome(&asker) {
            return answer(MeetOutcome::Unwilling, 0);
        }
        match offer.how {
            How::Punch => {
                let overlay = self.overlay.clone();
                tokio::spawn(async move {
                    for _ in 0..PUNCHES {
                        // A network that is unreachable is no reason not to try again.
                        let _ = overlay.punch(at);
                        sleep(PUNCH_EVERY).await;
                        if overlay.session(&asker).is_some() {
                            return;
                        }
                    }
                });
                answer(MeetOutcome::Agreed, 0)
            }
            How::Circuit => match self.circuits.open(relay.clone(), offer.circuit) {
                Some(_) => answer(MeetOutcome::Agreed, offer.circuit),
                None => answer(MeetOutcome::Busy, 0),
            },
        }
    }

    /// An address that a common peer names, if it is one that we may send to on its word.
    fn place(&self, address: &[u8], relay: &Session) -> Option<SocketAddr> {
        let address = Multiaddr::try_from(address.to_vec()).ok()?;
        let (endpoint, _) = address::parse(&address).ok()?;
        let source = Source::Peer(relay.remote().ip()?.into());
        self.book.may_dial(&endpoint, &source).then(|| socket_of(&endpoint)).flatten()
    }

    /// Tries to meet a peer that nobody reaches by dialling: through an opened NAT, else through a common peer.
    /// True if there is a session.
    pub(super) async fn meet(&self, wanted: PeerId) -> bool {
        timeout(MEET_TIME, self.try_to_meet(wanted)).await.unwrap_or(false)
    }

    async fn try_to_meet(&self, wanted: PeerId) -> bool {
        let Some(key) = key_of(&wanted) else { return false };
        let request = MeetRequest { how: How::Punch, wanted: key }.to_frame();
        // All at once: some may be gone without our knowing yet.
        let mut asks = JoinSet::new();
        let serves = |session: &Session| {
            session.hello().serves.contains(StreamType::Meet) && session.remote().ip().is_some()
        };
        let others = self.overlay.sessions().into_iter().filter(|one| one.peer() != wanted && serves(one));
        for relay in others.take(ASKED_MAX) {
            let request = request.clone();
            asks.spawn(async move { (ask(&relay, &request).await, relay) });
        }
        let mut common = Vec::new();
        while let Some(asked) = asks.join_next().await {
            let Ok((Some(MeetAnswer { outcome: MeetOutcome::Agreed, address, .. }), relay)) = asked else {
                continue;
            };
            if let Some(at) = self.place(&address, &relay)
                && self.dial_met(wanted, at, PUNCH_DIAL_TIME, &relay).await
            {
                return true;
            }
            common.push(relay);
            if common.len() == COMMON_MAX {
                break;
            }
        }
        let request = MeetRequest { how: How::Circuit, wanted: key }.to_frame();
        for relay in common {
            let Some(MeetAnswer { outcome: MeetOutcome::Agreed, circuit, .. }) = ask(&relay, &request).await
            else {
                continue;
            };
            let Some(at) = self.circuits.open(relay.clone(), circuit) else { return false };
            if self.dial_met(wanted, at, ASK_TIME, &relay).await {
                return true;
            }
            self.circuits.close(&at);
        }
        false
    }

    async fn dial_met(&self, wanted: PeerId, at: SocketAddr, patience: Duration, relay: &Session) -> bool {
        let met = matches!(timeout(patience, self.overlay.dial(wanted, at)).await, Ok(Ok(_)));
        tracing::debug!(%wanted, relay = %relay.peer(), %at, met, "tried to meet");
        met
    }
}

async fn ask(relay: &Session, request: &EncodedFrame) -> Option<MeetAnswer> {
    let answer = relay.request(StreamType::Meet, request, ASK_TIME).await.ok()?;
    match answer.single().await.ok()? {
        Frame::MeetAnswer(answer) => Some(answer),
        _ => None,
    }
}

fn socket_of(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint.host() {
        Host::Ip4(ip) => Some((*ip, endpoint.port()).into()),
        Host::Ip6(ip) => Some((*ip, endpoint.port()).into()),
        Host::Onion(_) | Host::Name(_) => None,
    }
}

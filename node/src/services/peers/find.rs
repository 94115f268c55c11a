//! Lookups: asking others for a peer or a value, and answering them.

use ghost_discovery::{
    lookup::{ASK_TIME, Ask, Found, Goal, QueryId},
    netgroup::Source,
};
use ghost_frames::{
    Code, Frame, Payload, StreamType,
    discovery::{FindAnswer, FindRequest, StoreAnswer, StoreOutcome, StoreRequest},
};
use ghost_proto::{LookupKey, PeerId, SignedValue, message};
use ghost_protocol::{Overlay, Session, inbox::Asked, transport::Remote};
use tokio::{sync::oneshot, time::timeout};

use super::{Report, Running, book::source_of, dial::resolve};

/// The value and the records of an answer, unverified.
pub(super) type Answer = (Option<bytes::Bytes>, Vec<bytes::Bytes>);

type Reply<T> = oneshot::Sender<T>;

/// Who waits for the end of a lookup.
pub(super) enum Seeker {
    /// The operator.
    Operator { what: String, reply: Reply<Result<message::PeerCommandAnswer, String>> },
    /// Another part of this node.
    Service(Reply<Found>),
    /// The value is to be kept by those that were found.
    Publisher { value: SignedValue, reply: Reply<usize> },
}

impl Running {
    pub(super) fn find(&mut self, goal: Goal, seeker: Seeker) {
        let begun = {
            let (mut discovery, now) = (self.service.book.lock(), self.service.book.now());
            discovery.find(goal, now)
        };
        match begun {
            Some((query, effects)) => {
                self.seekers.insert(query, seeker);
                self.perform(effects);
            }
            None => match seeker {
                Seeker::Operator { reply, .. } => {
                    // An operator that is gone wants no answer.
                    let _ =
                        reply.send(Err("too many lookups are under way; try again in some seconds".into()));
                }
                // Who asked hears it from the end of the channel.
                Seeker::Service(_) | Seeker::Publisher { .. } => {}
            },
        }
    }

    pub(super) fn publish(&mut self, value: SignedValue, reply: Reply<usize>) {
        self.find(Goal::Nearest(value.key()), Seeker::Publisher { value, reply });
    }

    /// The operator looks for a peer, or for a value by its lookup key.
    pub(super) fn operator_finds(
        &mut self,
        id: &[u8],
        reply: Reply<Result<message::PeerCommandAnswer, String>>,
    ) {
        let goal = match (<[u8; 32]>::try_from(id), PeerId::from_bytes(id)) {
            (Ok(key), _) => Goal::Value(LookupKey(key)),
            (_, Ok(peer)) => Goal::Peer(peer),
            _ => {
                let _ = reply.send(Err("that is neither a PeerId nor a lookup key of 32 bytes".into()));
                return;
            }
        };
        let what = match goal {
            Goal::Peer(peer) => peer.to_string(),
            Goal::Value(key) | Goal::Nearest(key) => format!("the value at {key}"),
        };
        self.find(goal, Seeker::Operator { what, reply });
    }

    pub(super) fn found(&mut self, query: QueryId, found: Found) {
        match self.seekers.remove(&query) {
            Some(Seeker::Operator { what, reply }) => {
                let _ = reply.send(Ok(message::PeerCommandAnswer {
                    message: describe(&what, &found),
                    story: Vec::new(),
                }));
            }
            Some(Seeker::Service(reply)) => {
                let _ = reply.send(found);
            }
            Some(Seeker::Publisher { value, reply }) => self.keep_at(value, found, reply),
            None => {}
        }
    }

    /// Asks the nearest to keep a value; says with how many it is.
    fn keep_at(&self, value: SignedValue, found: Found, reply: Reply<usize>) {
        let overlay = self.service.overlay.clone();
        let (book, tor_only) = (self.service.book.clone(), self.service.tor_only);
        tokio::spawn(async move {
            let request = StoreRequest { value: value.bytes().clone() }.to_frame();
            let asks = found.nearest.into_iter().map(|one| {
                let (overlay, request) = (overlay.clone(), request.clone());
                tokio::spawn(async move {
                    let peer = one.record.peer();
                    let kept = timeout(ASK_TIME, async {
                        let (session, visit) = meet(&overlay, peer, &one.endpoints, tor_only).await?;
                        let answer = session.request(StreamType::Discovery, &request, ASK_TIME).await.ok()?;
                        let frame = answer.single().await.ok();
                        visit.then(|| session.close(Code::Done, "stored"));
                        frame
                    });
                    matches!(kept.await, Ok(Some(Frame::StoreAnswer(StoreAnswer(StoreOutcome::Stored)))))
                })
            });
            let mut kept = 0;
            for ask in asks.collect::<Vec<_>>() {
                kept += usize::from(ask.await.unwrap_or(false));
            }
            // One of the nearest may be this node itself.
            let own = {
                let (now, source) = (book.now(), Source::Operator);
                book.lock().store_value(&overlay.peer_id(), value.bytes().clone(), &source, now)
            };
            kept += usize::from(own == Some(StoreOutcome::Stored));
            let _ = reply.send(kept);
        });
    }

    pub(super) fn ask_to_find(&self, query: QueryId, ask: Ask) {
        let (report, overlay) = (self.report.clone(), self.service.overlay.clone());
        let tor_only = self.service.tor_only;
        tokio::spawn(async move {
            let first = ask.endpoints.first().cloned();
            let peer = ask.peer;
            let asked = timeout(ASK_TIME, async {
                let (session, visit) = meet(&overlay, peer, &ask.endpoints, tor_only).await?;
                let request = FindRequest { value: ask.value, target: ask.target }.to_frame();
                let answer = session.request(StreamType::Discovery, &request, ASK_TIME).await.ok()?;
                let frame = answer.single().await.ok();
                let source = source_of(session.remote());
                visit.then(|| session.close(Code::Done, "that was all"));
                match frame? {
                    Frame::FindAnswer(FindAnswer { value, closer }) => Some((source, (value, closer))),
                    _ => None,
                }
            });
            let (source, answer) = match asked.await {
                Ok(Some((source, answer))) => (source, Some(answer)),
                Ok(None) | Err(_) => (first.map_or(Source::TorInbound, Source::Peer), None),
            };
            // The task that asked ends only with the node.
            let _ = report.send(Report::FindAnswered { query, peer, source, answer }).await;
        });
    }

    /// Somebody looks for something, or wants us to keep a value.
    ///
    /// # Security
    /// A node that is also behind Tor answers nobody there: a value given to one of its faces and found at the other
    /// would show that the two are one.
    pub(super) fn asked_to_find(&self, session: &Session, asked: Asked) {
        if session.remote().is_tor() && !self.service.tor_only {
            return asked.responder.refuse(Code::UnknownStream);
        }
        let source = source_of(session.remote());
        let (book, peer) = (&self.service.book, session.peer());
        let now = book.now();
        let answer = match asked.frame {
            Frame::FindRequest(FindRequest { value, target }) => {
                let (value, closer) = book.lock().answer_find(value, &target, &source, now);
                FindAnswer { value, closer }.to_frame()
            }
            Frame::StoreRequest(StoreRequest { value }) => {
                match book.lock().store_value(&peer, value, &source, now) {
                    Some(outcome) => StoreAnswer(outcome).to_frame(),
                    None => return asked.responder.refuse(Code::InvalidData),
                }
            }
            _ => return asked.responder.refuse(Code::ProtocolViolation),
        };
        tokio::spawn(async move {
            // An asker that is gone wants no answer.
            let _ = asked.responder.answer(&answer).await;
        });
    }
}

/// The session with a peer; or a new one, to be closed after the question. Nobody is visited through Tor: behind Tor
/// alone only those who are connected are asked.
async fn meet(
    overlay: &Overlay,
    peer: PeerId,
    endpoints: &[ghost_discovery::address::Endpoint],
    tor_only: bool,
) -> Option<(Session, bool)> {
    if let Some(session) = overlay.session(&peer).filter(|session| !session.is_closing()) {
        // Who looks for one thing with two faces shows that they are one.
        return (tor_only || !session.remote().is_tor()).then_some((session, false));
    }
    for endpoint in endpoints {
        let places = resolve(endpoint, tor_only).await.unwrap_or_default();
        for socket in places.iter().filter_map(Remote::ip) {
            if let Ok(session) = overlay.visit(peer, socket).await {
                return Some((session, true));
            }
        }
    }
    None
}

fn describe(what: &str, found: &Found) -> String {
    let asked = match found.asked {
        0 => "known here".to_owned(),
        1 => "one peer was asked".to_owned(),
        asked => format!("{asked} peers were asked"),
    };
    if let Some(one) = &found.peer {
        let peer = one.record.peer();
        let mut text = format!("{what} says it is here ({asked}):");
        for endpoint in &one.endpoints {
            text += &format!("\n  {}", endpoint.with_peer(peer));
        }
        return text;
    }
    match &found.value {
        Some(value) => {
            let payload = value.payload();
            let said = std::str::from_utf8(payload).map_or_else(|_| hex::encode(payload), str::to_owned);
            format!(
                "{what} ({asked}): {said}\n  of {}, label {}, sequence {}, until Unix time {} s",
                value.owner(),
                String::from_utf8_lossy(value.label()),
                value.sequence(),
                value.expires_unix_s()
            )
        }
        None => format!("{what} was not found ({asked})"),
    }
}

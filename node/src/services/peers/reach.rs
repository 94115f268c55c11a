//! Dialling back, asking for it, and what follows from the answers.

use std::time::Duration;

use ghost_discovery::{
    address::{self, Endpoint},
    overlay::Input,
    reach::{DialBack, Reachability},
};
use ghost_frames::{
    Code, Frame, Payload, StreamType,
    discovery::{DialBackAnswer, DialBackOutcome, DialBackRequest},
};
use ghost_proto::{Multiaddr, PeerId, message};
use ghost_protocol::{
    Session,
    address::of_socket,
    inbox::Asked,
    session::Direction,
    transport::{DialError, circuit::is_circuit},
};

use super::{PeerBook, Report, Running};

/// Time a dial back may take.
const DIAL_BACK_TIME: Duration = Duration::from_secs(5);

/// Time the answer may take: the dial, and the way there and back.
const ANSWER_TIME: Duration = Duration::from_secs(10);

impl PeerBook {
    /// What is known of our reachability, for `status`.
    pub(crate) fn reachability(&self) -> message::Reachability {
        let verdict = self.lock().reach().verdict();
        let detail = match &verdict {
            Reachability::Reachable { at } => format!("peers that were asked to dialled this node at {at}"),
            Reachability::Unreachable { at, why } => {
                format!("peers see this node at {at}, and those asked to dial it there could not: {why}")
            }
            Reachability::Unknown { seen_at: Some(at), groups } => {
                format!("peers in {groups} netgroups see this node at {at}; nobody has dialled it there yet")
            }
            Reachability::Unknown { seen_at: None, .. } => {
                "no peer that this node dialled has said where it sees it".into()
            }
        };
        message::Reachability { state: verdict.name().into(), detail }
    }

    /// Where peers see this node, once enough of them agree.
    pub(crate) fn seen_at(&self) -> Option<String> {
        self.lock().reach().believed().first().map(ToString::to_string)
    }
}

impl Running {
    /// A peer that we dialled said where it sees us.
    pub(super) fn observed(&mut self, session: &Session) {
        // Through Tor nobody sees where we are: whoever says so makes it up. Inside a circuit nobody sees where
        // the other is.
        let sees = session.direction() == Direction::Outbound
            && session.remote().ip().is_some_and(|at| !is_circuit(&at));
        let Some(at) = session.hello().observed.as_ref().filter(|_| sees) else {
            return;
        };
        if let Ok((at, None)) = address::parse(at) {
            self.input(Input::Observed { peer: session.peer(), at });
        }
    }

    pub(super) fn ask_dial_back(&self, peer: PeerId) {
        let (report, session) = (self.report.clone(), self.service.overlay.session(&peer));
        tokio::spawn(async move {
            let result = match session {
                Some(session) => dialled_back(&session).await.unwrap_or(DialBack::NoVerdict),
                None => DialBack::NoVerdict,
            };
            // The task that asked ends only with the node.
            let _ = report.send(Report::DialBack { peer, result }).await;
        });
    }

    /// A peer asks to be dialled back.
    pub(super) fn dial_back(&self, session: Session, asked: Asked) {
        let book = self.service.book.clone();
        // Nobody is dialled back through Tor: who is there is asked for by name, and found or not. Nor through a
        // circuit, which says nothing about who else gets there.
        let place = session.remote().ip().filter(|at| !is_circuit(at));
        let (peer, Some(address)) = (session.peer(), place) else {
            return asked.responder.refuse(Code::UnknownStream);
        };
        if !book.lock().may_dial_back(&peer, book.now()) {
            return asked.responder.refuse(Code::Busy);
        }
        let overlay = self.service.overlay.clone();
        tokio::spawn(async move {
            // # Security: the address is the one at which the asker holds this very connection, so it gets
            // nobody else dialled.
            let outcome = match overlay.probe(peer, address, DIAL_BACK_TIME).await {
                Ok(()) => DialBackOutcome::Reached,
                Err(DialError::TimedOut(_)) => DialBackOutcome::NoAnswer,
                Err(DialError::IdentityMismatch { .. }) => DialBackOutcome::OtherKey,
                Err(DialError::Refused { .. } | DialError::Local { .. }) => DialBackOutcome::BrokenOff,
            };
            book.lock().dialled_back();
            let answer = DialBackAnswer { outcome, address: of_socket(address).to_vec().into() };
            // An asker that is gone wants no answer.
            let _ = asked.responder.answer(&answer.to_frame()).await;
        });
    }

    /// Peers agree that we can be reached, or not: what we say of ourselves follows.
    pub(super) fn reach_changed(&mut self) {
        let verdict = self.service.book.lock().reach().verdict();
        match &verdict {
            Reachability::Reachable { at } => tracing::info!(%at, "this node can be reached"),
            Reachability::Unreachable { at, why } => {
                tracing::warn!(%at, why, "this node cannot be reached; `ghostd doctor` says what to do");
            }
            Reachability::Unknown { .. } => {}
        }
        if self.service.fixed_address {
            return;
        }
        let mut addresses: Vec<Multiaddr> = match &verdict {
            Reachability::Reachable { at } => vec![at.to_multiaddr()],
            Reachability::Unreachable { .. } | Reachability::Unknown { .. } => Vec::new(),
        };
        let bound = self.service.overlay.local_addresses().into_iter().take(self.service.listening);
        let bound = bound.filter(|address| !address.ip().is_unspecified()).map(of_socket);
        addresses.extend(bound.filter(|address| !addresses.contains(address)).collect::<Vec<_>>());
        self.advertise(&addresses);
    }

    /// Puts addresses into the record that later hellos carry.
    pub(super) fn advertise(&mut self, addresses: &[Multiaddr]) {
        let book = &self.service.book;
        let record = {
            let (mut discovery, now) = (book.lock(), book.now());
            discovery.own_record(self.service.identity.key(), addresses, self.service.serves.bits(), now)
        };
        match record {
            Ok(record) => {
                let bytes = record.map(|record| record.bytes().clone());
                self.service.overlay.update_clear_hello(|hello| hello.record = bytes);
            }
            Err(error) => {
                tracing::warn!(%error, "this node's addresses make no record; peers will not hear of it");
            }
        }
        self.advertise_onion();
    }

    /// Puts our onion service into the record that later hellos behind Tor carry, and nothing else: it has
    /// its own key and sequence, and no address of ours on another network.
    pub(super) fn advertise_onion(&mut self) {
        let Some(tor) = &self.service.tor else { return };
        let Some(onion) = tor.onion() else { return };
        let now = self.service.book.now();
        let made = self.onion_record.current(
            tor.identity().key(),
            &[onion.to_multiaddr()],
            self.service.serves.bits(),
            now.unix_ms,
        );
        match made {
            Ok(record) => {
                let bytes = record.map(|record| record.bytes().clone());
                self.service.overlay.update_onion_hello(|hello| hello.record = bytes);
            }
            Err(error) => tracing::warn!(%error, "this node's onion address makes no record"),
        }
    }
}

async fn dialled_back(session: &Session) -> Option<DialBack> {
    let answer =
        session.request(StreamType::Discovery, &DialBackRequest.to_frame(), ANSWER_TIME).await.ok()?;
    let Frame::DialBackAnswer(DialBackAnswer { outcome, address }) = answer.single().await.ok()? else {
        return None;
    };
    let at: Endpoint = address::parse(&Multiaddr::try_from(address.to_vec()).ok()?).ok()?.0;
    Some(match outcome {
        DialBackOutcome::Reached => DialBack::Reached(at),
        DialBackOutcome::NoAnswer => DialBack::NotReached(at, "nobody answered"),
        DialBackOutcome::OtherKey => DialBack::NotReached(at, "another key answered there"),
        // A node that takes nobody in now can be reached all the same.
        DialBackOutcome::BrokenOff => DialBack::NoVerdict,
    })
}

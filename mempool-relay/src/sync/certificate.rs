//! Learning what is final: a node that was away missed the votes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ghost_proto::PeerId;

use super::{
    io::{Effect, RequestId},
    peer::SyncPeer,
};

/// Peers asked before it is left to the votes to come.
const TRIES_MAX: u32 = 3;
/// An answer takes 8.5 KB at most.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks one peer after another until a certificate verifies.
#[derive(Debug, Default)]
pub(crate) struct CertificateQuest {
    tries_left: u32,
    asked: BTreeSet<PeerId>,
    in_flight: Option<(RequestId, PeerId, Instant)>,
}

impl CertificateQuest {
    /// Starts, or starts over.
    pub(crate) fn begin(&mut self) {
        self.tries_left = TRIES_MAX;
        self.asked.clear();
    }

    pub(crate) fn peer_of(&self, request: RequestId) -> Option<PeerId> {
        self.in_flight.filter(|(id, ..)| *id == request).map(|(_, peer, _)| peer)
    }

    pub(crate) fn done(&mut self) {
        self.in_flight = None;
        self.tries_left = 0;
    }

    /// The peer had none, or none that proves anything: the next one is asked.
    pub(crate) fn failed(&mut self) {
        self.in_flight = None;
    }

    pub(crate) fn peer_down(&mut self, peer: &PeerId) {
        self.asked.remove(peer);
        if self.in_flight.is_some_and(|(_, asked, _)| asked == *peer) {
            self.in_flight = None;
        }
    }

    pub(crate) fn pump(
        &mut self,
        now: Instant,
        peers: &BTreeMap<PeerId, SyncPeer>,
        next_request: &mut u64,
        effects: &mut Vec<Effect>,
    ) {
        if let Some((request, _, until)) = self.in_flight
            && now >= until
        {
            effects.push(Effect::Cancel { request });
            self.in_flight = None;
        }
        if self.in_flight.is_some() || self.tries_left == 0 {
            return;
        }
        // Outbound first: we chose them. Then who claims to be furthest.
        let best = peers
            .iter()
            .filter(|(peer, _)| !self.asked.contains(peer))
            .max_by_key(|(peer, known)| (known.outbound, known.height, std::cmp::Reverse(**peer)));
        let Some((peer, _)) = best else { return };
        *next_request += 1;
        let request = RequestId(*next_request);
        self.tries_left -= 1;
        self.asked.insert(*peer);
        self.in_flight = Some((request, *peer, now + TIMEOUT));
        effects.push(Effect::RequestCertificate { peer: *peer, request });
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.map(|(_, _, until)| until)
    }
}

//! Who gets in.

use ghost_proto::PeerId;

use super::Overlay;
use crate::{
    address::Host,
    clock::Now,
    conduct::Note,
    inbound::{Arrival, Incoming, Refusal, Standing, Ticket},
    netgroup::Source,
};

impl Overlay {
    /// A first packet. `validated` says that it came with a Retry or NEW_TOKEN token.
    pub fn incoming(&mut self, source: &Source, validated: bool, now: Now) -> Incoming {
        let discouraged = self.discouraged(source, now);
        self.inbound.incoming(source, validated, discouraged, now.at)
    }

    /// An accepted handshake failed, or its connection lost to another one of the same peer.
    pub fn handshake_failed(&mut self, ticket: Ticket) {
        self.inbound.failed(ticket);
    }

    /// The peer at the other end of an accepted connection is known, and is a node. A refusal is on
    /// record, and not counted any more.
    pub fn arrived(
        &mut self,
        ticket: Ticket,
        source: &Source,
        peer: PeerId,
        operator: bool,
        now: Now,
    ) -> Arrival {
        let protect = operator || self.dialler.is_static(&peer);
        let standing = self.standing(source, &peer, now);
        let arrival = self.inbound.arrived(ticket, peer, standing, protect, now.at);
        match arrival {
            Arrival::Refuse(refusal) => self.note_refusal(&peer, refusal, source, now),
            Arrival::Welcome { evict } => {
                if let Some(evicted) = evict {
                    let detail = "evicted: all inbound slots are taken and others are better";
                    self.ledger.note(&evicted, Note::Dropped, detail, now.unix_ms);
                }
            }
        }
        self.schedule_persist(now);
        arrival
    }

    /// As [`Overlay::arrived`], for a program that only asks; `id` names its connection.
    ///
    /// # Errors
    /// [`Refusal`]: on record already; close with its code.
    pub fn client_arrived(
        &mut self,
        ticket: Ticket,
        source: &Source,
        id: u64,
        peer: PeerId,
        operator: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let standing = self.standing(source, &peer, now);
        let result = self.inbound.client_arrived(ticket, id, &peer, standing, operator, now.at);
        if let Err(refusal) = result {
            self.note_refusal(&peer, refusal, source, now);
            self.schedule_persist(now);
        }
        result
    }

    /// The inbound connection of a node is over, or gave way to an outbound one that stays. Call it as soon
    /// as that is so: a slot is free from then on.
    pub fn inbound_left(&mut self, peer: &PeerId) {
        self.inbound.left(peer);
    }

    /// An inbound peer takes no transactions.
    pub fn inbound_is_block_only(&mut self, peer: &PeerId) {
        self.inbound.is_block_only(peer);
    }

    /// The connection of a client is over.
    pub fn client_left(&mut self, id: u64) {
        self.inbound.client_left(id);
    }

    fn standing(&self, source: &Source, peer: &PeerId, now: Now) -> Standing {
        Standing {
            banned: self.ledger.banned(peer, now.unix_ms).is_some(),
            discouraged: self.discouraged(source, now),
        }
    }

    pub(super) fn discouraged(&self, source: &Source, now: Now) -> bool {
        shared_by_none(source).is_some_and(|host| self.ledger.discouraged(host, now.unix_ms))
    }

    fn note_refusal(&mut self, peer: &PeerId, refusal: Refusal, source: &Source, now: Now) {
        let from = match source {
            Source::Peer(place) => place.to_string(),
            Source::TorInbound | Source::Operator => "Tor".to_owned(),
        };
        let detail = format!("{} ({refusal}), from {from}", refusal.name());
        self.ledger.note(peer, Note::Refused, &detail, now.unix_ms);
    }
}

/// The host, if it is not shared by design (loopback, private networks, Tor).
pub(super) fn shared_by_none(source: &Source) -> Option<&Host> {
    match source {
        Source::Peer(place) if place.host().is_global() => Some(place.host()),
        _ => None,
    }
}

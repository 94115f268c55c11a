//! Filling the slots.

use std::time::{Duration, Instant};

use ghost_proto::PeerId;
use rand::seq::IndexedRandom;

use super::{Anchor, Dial, DialId, Dialler, Effect, Kind, Subject, backoff::jitter, order::order};
use crate::{
    address::{Endpoint, Network},
    book::{AddressBook, Candidate, Table},
    clock::Now,
    conduct::Ledger,
    netgroup::NetGroup,
};

/// After a search that found nobody the next one waits: a search may walk 81,920 slots (about 5 ms). The
/// pause doubles up to a minute, and starts anew when anything changes.
pub(super) const NOBODY_PAUSE_MIN: Duration = Duration::from_secs(1);
const NOBODY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// After so many failures in a row a network is taken for down, and no slot is kept for it.
const NETWORK_DOWN_FAILURES: u32 = 8;
/// For so long.
const NETWORK_DOWN_FOR: Duration = Duration::from_secs(30 * 60);

impl Dialler {
    /// Static peers that are due, anchors as long as we are alone, then at most one dial from the book.
    pub(super) fn fill(
        &mut self,
        book: &mut AddressBook,
        ledger: &Ledger,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.dial_statics(book, now, effects);
        if self.alone_since.is_some() {
            self.dial_anchors(book, ledger, now, effects);
        }
        let feeler_due = self.wants_feeler() && self.next_feeler.is_some_and(|at| now.at >= at);
        if now.at < self.next_auto || !(self.wants_auto() || feeler_due) {
            return;
        }
        let (kind, found) = match self.wanted_kind() {
            Some(kind) => (kind, self.choose(kind, book, ledger, now)),
            None => {
                self.next_feeler = self.feeler_after(now.at);
                (Kind::Feeler, self.choose_feeler(book, ledger, now))
            }
        };
        let pause = if found.is_some() { self.config.pace } else { jitter(self.nobody_pause, &mut self.rng) };
        self.next_auto = now.at + pause;
        self.nobody_pause = match found {
            Some(_) => NOBODY_PAUSE_MIN,
            None => (self.nobody_pause * 2).min(NOBODY_PAUSE_MAX),
        };
        if let Some(found) = found {
            let others: Vec<Endpoint> = match kind {
                // A feeler is about one place.
                Kind::Feeler => Vec::new(),
                _ => book
                    .places(&found.peer)
                    .into_iter()
                    .filter(|place| {
                        book.policy().networks.contains(&place.network())
                            && self.place_free(place, now.at)
                            && !self.group_taken(book.policy().group(place))
                    })
                    .collect(),
            };
            book.attempt(&found.peer, &found.endpoint, now.unix_ms);
            self.dial(kind, Some(found.peer), &found.endpoint, others, book, now.at, effects);
        }
    }

    pub(super) fn wants_auto(&self) -> bool {
        self.auto_in_flight() < self.config.in_flight_max && self.wanted_kind().is_some()
    }

    pub(super) fn wants_feeler(&self) -> bool {
        self.next_feeler.is_some()
            && self.wanted_kind().is_none()
            && self.auto_in_flight() < self.config.in_flight_max
            && self.with_dials(Kind::Feeler) == 0
    }

    /// What is short, feelers aside.
    fn wanted_kind(&self) -> Option<Kind> {
        let full = self.config.full_relay + usize::from(self.stale_since.is_some());
        if self.with_dials(Kind::FullRelay) < full {
            Some(Kind::FullRelay)
        } else if self.with_dials(Kind::BlockOnly) < self.config.block_only {
            Some(Kind::BlockOnly)
        } else {
            None
        }
    }

    fn with_dials(&self, kind: Kind) -> usize {
        self.outbound(kind) + self.dials.values().filter(|dial| dial.kind == kind).count()
    }

    fn auto_in_flight(&self) -> usize {
        self.dials.values().filter(|dial| dial.kind != Kind::Static).count()
    }

    pub(super) fn dial_anchors(
        &mut self,
        book: &mut AddressBook,
        ledger: &Ledger,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        for Anchor { peer, endpoint, block_only } in self.anchors.clone() {
            let kind = if block_only { Kind::BlockOnly } else { Kind::FullRelay };
            let slots = if block_only { self.config.block_only } else { self.config.full_relay };
            if self.with_dials(kind) < slots
                && self.peer_free(&peer, ledger, now)
                && self.place_free(&endpoint, now.at)
            {
                book.attempt(&peer, &endpoint, now.unix_ms);
                self.dial(kind, Some(peer), &endpoint, Vec::new(), book, now.at, effects);
            }
        }
    }

    fn dial_statics(&mut self, book: &AddressBook, now: Now, effects: &mut Vec<Effect>) {
        for one in self.statics.due(now.at) {
            let up = one.peer.filter(|peer| self.conns.contains_key(peer));
            if let Some(peer) = up {
                self.statics.up(&peer, now.at);
                continue;
            }
            if self.own.contains(&one.endpoint) {
                self.statics.is_self(&one.endpoint);
                continue;
            }
            let id = self.dial(Kind::Static, one.peer, &one.endpoint, Vec::new(), book, now.at, effects);
            self.statics.dialled(&one.endpoint, id);
        }
    }

    fn choose(&mut self, kind: Kind, book: &AddressBook, ledger: &Ledger, now: Now) -> Option<Candidate> {
        let mut rng = self.rng.clone();
        let accept = |peer: &PeerId, place: &Endpoint| {
            self.peer_free(peer, ledger, now)
                && self.place_free(place, now.at)
                && !self.group_taken(book.policy().group(place))
        };
        let missing = if kind == Kind::FullRelay { self.missing_networks(book, now.at) } else { Vec::new() };
        let free = self.config.full_relay.saturating_sub(self.with_dials(Kind::FullRelay));
        let kept = missing.choose(&mut rng).filter(|_| free <= missing.len()).copied();
        let found = kept
            .and_then(|network| book.select(Table::Either, Some(network), accept, &mut rng, now.unix_ms))
            .or_else(|| book.select(Table::Either, None, accept, &mut rng, now.unix_ms));
        self.rng = rng;
        found
    }

    /// Whoever holds a contested "tried" slot, else somebody new.
    fn choose_feeler(&mut self, book: &AddressBook, ledger: &Ledger, now: Now) -> Option<Candidate> {
        let mut rng = self.rng.clone();
        let accept = |peer: &PeerId, place: &Endpoint| {
            self.peer_free(peer, ledger, now) && self.place_free(place, now.at)
        };
        let found = book
            .collision_to_test(&mut rng)
            .filter(|one| accept(&one.peer, &one.endpoint))
            .or_else(|| book.select(Table::New, None, accept, &mut rng, now.unix_ms));
        self.rng = rng;
        found
    }

    /// Networks that we use and know somebody on, without an outbound connection or dial.
    fn missing_networks(&self, book: &AddressBook, now: Instant) -> Vec<Network> {
        let down = |network: &Network| {
            self.network_failures.get(network).is_some_and(|(count, last)| {
                *count >= NETWORK_DOWN_FAILURES && now.saturating_duration_since(*last) < NETWORK_DOWN_FOR
            })
        };
        let served = |network: &Network| {
            self.conns.values().any(|conn| conn.network == Some(*network))
                || self.dials.values().any(|dial| dial.network == *network)
        };
        let networks = book.policy().networks.iter();
        networks
            .filter(|network| book.network_len(**network) > 0 && !served(network) && !down(network))
            .copied()
            .collect()
    }

    fn peer_free(&self, peer: &PeerId, ledger: &Ledger, now: Now) -> bool {
        !self.conns.contains_key(peer)
            && !self.dials.values().any(|dial| dial.peer == Some(*peer))
            && !self.backoff.blocks(&Subject::Peer(*peer), now.at)
            && self.config.only.as_ref().is_none_or(|only| only.contains(peer))
            && ledger.banned(peer, now.unix_ms).is_none()
    }

    fn place_free(&self, place: &Endpoint, now: Instant) -> bool {
        !self.own.contains(place) && !self.backoff.blocks(&Subject::Place(place.clone()), now)
    }

    fn group_taken(&self, group: NetGroup) -> bool {
        let counts = |kind: Kind| kind != Kind::Feeler;
        self.conns.values().any(|conn| conn.kind.is_some_and(counts) && conn.group == group)
            || self.dials.values().any(|dial| counts(dial.kind) && dial.group == group)
    }

    #[expect(clippy::too_many_arguments, reason = "one call site for each kind of dial")]
    fn dial(
        &mut self,
        kind: Kind,
        peer: Option<PeerId>,
        chosen: &Endpoint,
        others: Vec<Endpoint>,
        book: &AddressBook,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> DialId {
        let id = DialId(self.next_dial);
        self.next_dial += 1;
        let addresses = order(chosen, others);
        let dial = Dial {
            kind,
            peer,
            left: addresses.iter().map(|attempt| attempt.endpoint.clone()).collect(),
            group: book.policy().group(chosen),
            network: chosen.network(),
            started: now,
        };
        self.dials.insert(id, dial);
        effects.push(Effect::Dial { dial: id, kind, peer, addresses });
        id
    }
}

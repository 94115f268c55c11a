//! Lookups, behind the overlay's door.

use bytes::Bytes;
use ghost_frames::discovery::StoreOutcome;
use ghost_proto::{LookupKey, PeerId, PeerRecord, SignedValue};

use super::{Effect, Overlay};
use crate::{
    address::{Endpoint, Network},
    clock::Now,
    conduct::Offence,
    lookup::{Candidate, Contact, Goal, Lookups, QueryId, Step},
    netgroup::Source,
    record::Refused,
};

/// Peers of the last run that a routing table begins with; verifying their records takes 20 ms.
const CONTACTS_FIRST: usize = 512;

pub(super) fn effects_of(query: QueryId, steps: Vec<Step>) -> impl Iterator<Item = Effect> {
    steps.into_iter().map(move |step| match step {
        Step::Ask(ask) => Effect::Find { query, ask },
        Step::Done(found) => Effect::FindDone { query, found },
    })
}

fn is_onion(source: &Source) -> bool {
    match source {
        Source::TorInbound => true,
        Source::Peer(place) => place.network() == Network::Onion,
        Source::Operator => false,
    }
}

impl Overlay {
    /// Begins a lookup; [`Effect::FindDone`] ends it. `None` if too many are under way: try again in seconds.
    pub fn find(&mut self, goal: Goal, now: Now) -> Option<(QueryId, Vec<Effect>)> {
        let (query, steps) = self.lookups.begin(goal, now)?;
        Some((query, effects_of(query, steps).collect()))
    }

    /// The answer to a `FindRequest` of somebody who sits at `source`: the value, and records of peers near.
    pub fn answer_find(
        &self,
        value: bool,
        target: &LookupKey,
        source: &Source,
        now: Now,
    ) -> (Option<Bytes>, Vec<Bytes>) {
        self.lookups.answer(value, target, is_onion(source), now.unix_ms)
    }

    /// The answer to a `StoreRequest`; `None` if the value does not verify, which is an offence and on record.
    pub fn store_value(
        &mut self,
        peer: &PeerId,
        bytes: Bytes,
        source: &Source,
        now: Now,
    ) -> Option<StoreOutcome> {
        match SignedValue::verify(bytes) {
            Ok(value) => {
                let group = self.book.policy().source_group(source);
                Some(self.lookups.store(value, group, now.unix_ms))
            }
            Err(error) => {
                let evidence = format!("asked to keep a value that is invalid: {error}");
                self.offend(peer, Offence::ForgedRecord, &evidence, false, now);
                self.schedule_persist(now);
                None
            }
        }
    }

    /// Whom lookups begin with, and what is kept for others.
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    pub(super) fn find_answered(
        &mut self,
        query: QueryId,
        peer: &PeerId,
        source: &Source,
        answer: Option<(Option<Bytes>, Vec<Bytes>)>,
        now: Now,
    ) -> Vec<Effect> {
        let checked = answer.map(|answer| self.check_answer(source, answer, now));
        let mut effects = Vec::new();
        let steps = match checked {
            Some(Ok((value, closer))) => self.lookups.answered(query, peer, closer, value, now.at),
            None => self.lookups.failed(query, peer, now.at),
            Some(Err(evidence)) => {
                effects.extend(self.offend(peer, Offence::ForgedRecord, &evidence, false, now));
                self.lookups.failed(query, peer, now.at)
            }
        };
        effects.extend(effects_of(query, steps));
        effects
    }

    /// What of an answer is to be believed, or the evidence that no honest node gave it.
    fn check_answer(
        &mut self,
        source: &Source,
        (value, records): (Option<Bytes>, Vec<Bytes>),
        now: Now,
    ) -> Result<(Option<SignedValue>, Vec<Candidate>), String> {
        let value = value
            .map(SignedValue::verify)
            .transpose()
            .map_err(|error| format!("answered with a value that is invalid: {error}"))?;
        // Void values are withheld by honest nodes whose clock is right; it is no offence.
        let value = value.filter(|value| value.expires_unix_s() > now.unix_ms / 1000);
        let mut closer = Vec::new();
        for bytes in records {
            match self.admission.admit_own(bytes, source, self.book.policy(), now.unix_ms) {
                Ok(admitted) => {
                    let group = self.book.policy().group(&admitted.endpoints[0]);
                    closer.push(Candidate { record: admitted.record, endpoints: admitted.endpoints, group });
                }
                Err(Refused::Invalid(error)) => {
                    return Err(format!("answered with a record that is invalid: {error}"));
                }
                Err(_) => {}
            }
        }
        Ok((value, closer))
    }

    /// A peer whose key a handshake proved, at a place that its record names.
    pub(super) fn learn_contact(
        &mut self,
        source: &Source,
        record: PeerRecord,
        endpoints: Vec<Endpoint>,
        dialled: bool,
    ) {
        let (group, onion) = (self.book.policy().source_group(source), is_onion(source));
        self.lookups.table_mut().met(Contact { record, endpoints, group, onion, dialled });
    }

    /// The table begins with peers that were reached in an earlier run.
    pub(super) fn remember_contacts(&mut self) {
        for (peer, bytes) in self.book.sample_records(CONTACTS_FIRST, |_, _| true, &mut self.rng) {
            let places = self.book.places(&peer);
            if let (Ok(record), Some(first)) = (PeerRecord::verify(bytes), places.first().cloned()) {
                self.learn_contact(&Source::Peer(first), record, places, true);
            }
        }
    }
}

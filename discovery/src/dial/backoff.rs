//! Pauses between dials: exponential, with jitter, bounded.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ghost_proto::PeerId;
use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use crate::address::Endpoint;

/// Most pauses remembered: 4,096 × about 150 bytes = 600 KiB. The one that ends first is forgotten.
pub const BACKOFFS_MAX: usize = 4096;

/// What a pause is for. What a network does to us is held against the place, what a peer says against
/// the peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Place(Endpoint),
    Peer(PeerId),
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Backoff {
    pauses: BTreeMap<Subject, Pause>,
}

impl Backoff {
    pub(super) fn blocks(&self, subject: &Subject, now: Instant) -> bool {
        self.pauses.get(subject).is_some_and(|pause| now < pause.until)
    }

    pub(super) fn until(&self, subject: &Subject) -> Option<Instant> {
        self.pauses.get(subject).map(|pause| pause.until)
    }

    /// Another failure: twice the last pause, from `min` to `max`, ± 25 %.
    pub(super) fn fail(
        &mut self,
        subject: Subject,
        min: Duration,
        max: Duration,
        rng: &mut ChaCha12Rng,
        now: Instant,
    ) {
        let length = self.pauses.get(&subject).map_or(min, |pause| (pause.length * 2).clamp(min, max));
        self.set(subject, length, jitter(length, rng), now);
    }

    /// Not before `length` from now, whatever was before.
    pub(super) fn block(&mut self, subject: Subject, length: Duration, now: Instant) {
        self.set(subject, length, length, now);
    }

    pub(super) fn clear(&mut self, subject: &Subject) {
        self.pauses.remove(subject);
    }

    pub(super) fn len(&self) -> usize {
        self.pauses.len()
    }

    fn set(&mut self, subject: Subject, length: Duration, wait: Duration, now: Instant) {
        if self.pauses.len() >= BACKOFFS_MAX && !self.pauses.contains_key(&subject) {
            // A pause that is over is kept as long again, so that the next one can be twice as long.
            self.pauses.retain(|_, pause| pause.until + pause.length > now);
            if self.pauses.len() >= BACKOFFS_MAX
                && let Some(first) = self
                    .pauses
                    .iter()
                    .min_by_key(|(_, pause)| pause.until)
                    .map(|(subject, _)| subject.clone())
            {
                self.pauses.remove(&first);
            }
        }
        self.pauses.insert(subject, Pause { until: now + wait, length });
    }
}

/// `length` ± 25 %: nodes that were cut off together must not come back together.
pub(super) fn jitter(length: Duration, rng: &mut ChaCha12Rng) -> Duration {
    length.mul_f64(rng.random_range(0.75..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{peer, place, rng};

    #[test]
    fn pauses_double_to_the_largest_and_jitter_by_a_quarter() {
        let (mut backoff, mut rng, now) = (Backoff::default(), rng(1), Instant::now());
        let subject = Subject::Peer(peer(1));
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        for step in 0..10 {
            backoff.fail(subject.clone(), min, max, &mut rng, now);
            let wait = backoff.until(&subject).unwrap() - now;
            let length = Duration::from_secs((1u64 << step).min(60));
            assert!(wait >= length.mul_f64(0.75) && wait <= length.mul_f64(1.25), "{step}: {wait:?}");
        }
        let until = backoff.until(&subject).unwrap();
        assert!(backoff.blocks(&subject, until - Duration::from_millis(1)));
        assert!(!backoff.blocks(&subject, until));
        backoff.clear(&subject);
        assert_eq!(backoff.len(), 0);
    }

    #[test]
    fn pauses_are_bounded_and_the_first_to_end_goes() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for n in 0..BACKOFFS_MAX as u16 + 10 {
            let length = Duration::from_secs(100 + u64::from(n));
            backoff.block(Subject::Place(place(n, 1)), length, now);
        }
        assert_eq!(backoff.len(), BACKOFFS_MAX);
        assert!(!backoff.blocks(&Subject::Place(place(0, 1)), now));
        assert!(backoff.blocks(&Subject::Place(place(10, 1)), now));
    }
}

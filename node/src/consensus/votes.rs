//! Votes seen, until they make a certificate or are overtaken by finality.

use std::collections::{BTreeMap, HashMap};

use ghost_proto::{AuthoritySet, FinalityCertificate, GenesisId, Signature, Vote, vote::Link};

use super::evidence::Equivocation;

/// How far above our head a vote's target may be, in blocks. Further votes are of no use before we
/// have caught up, and by then a certificate has come.
pub const VOTES_AHEAD_MAX: u64 = 64;

/// Votes kept of one authority, those of the highest targets. With the most authorities there can
/// be: 128 × 128 votes of about 400 bytes with their tally, 6.3 MiB. More than
/// [`VOTES_AHEAD_MAX`], so that votes from the future never push out the one for the head.
pub const VOTES_PER_AUTHORITY_MAX: usize = 128;
const _: () = assert!(VOTES_PER_AUTHORITY_MAX as u64 >= 2 * VOTES_AHEAD_MAX);

/// A vote that nobody honest relays: the sender is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VoteFault {
    /// An index beyond the authority set.
    #[error("there is no authority {0}")]
    UnknownAuthority(u16),
    /// The signature does not verify.
    #[error("the vote's signature does not verify")]
    BadSignature,
}

/// What became of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoteVerdict {
    /// New and good: relay it. If it completed a quorum, here is the certificate.
    Added(Option<FinalityCertificate>),
    /// Seen before. Nothing to do.
    Known,
    /// Overtaken by finality. Nothing to do; honest peers send such votes when we are ahead of them.
    Old,
    /// Too far above our head. Nothing to do; we are behind.
    TooFar,
    /// Its authority has signed another vote that excludes it: relay it, so that others see it too.
    Equivocates(Equivocation),
    /// Never valid.
    Invalid(VoteFault),
}

#[derive(Debug, Clone)]
struct Cast {
    vote: Vote,
    /// It was the first half of reported evidence.
    reported: bool,
}

/// Collects votes. The first of two conflicting votes counts, the second is evidence.
#[derive(Debug, Clone)]
pub struct VotePool {
    genesis: GenesisId,
    authorities: AuthoritySet,
    cast: Vec<BTreeMap<u64, Cast>>,
    tally: HashMap<Link, BTreeMap<u16, Signature>>,
}

impl VotePool {
    /// An empty pool.
    pub fn new(genesis: GenesisId, authorities: AuthoritySet) -> Self {
        let cast = vec![BTreeMap::new(); authorities.len()];
        Self { genesis, authorities, cast, tally: HashMap::new() }
    }

    /// Votes kept.
    pub fn len(&self) -> usize {
        self.cast.iter().map(BTreeMap::len).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a vote, given the heights of our finalized block and head. Its signature is checked
    /// (about 40 µs) unless it is known, old or too far.
    pub fn add(&mut self, vote: Vote, finalized_height: u64, head_height: u64) -> VoteVerdict {
        let target = vote.link.target.height;
        let Some(key) = self.authorities.key(vote.authority) else {
            return VoteVerdict::Invalid(VoteFault::UnknownAuthority(vote.authority));
        };
        if target <= finalized_height {
            return VoteVerdict::Old;
        }
        if target > head_height.saturating_add(VOTES_AHEAD_MAX) {
            return VoteVerdict::TooFar;
        }
        let cast = &mut self.cast[usize::from(vote.authority)];
        if cast.get(&target).is_some_and(|known| known.vote.link == vote.link) {
            return VoteVerdict::Known;
        }
        let full = cast.len() >= VOTES_PER_AUTHORITY_MAX;
        if full && cast.first_key_value().is_some_and(|(lowest, _)| target < *lowest) {
            return VoteVerdict::Old;
        }
        if vote.verify(&self.genesis, key).is_err() {
            return VoteVerdict::Invalid(VoteFault::BadSignature);
        }
        if let Some(first) = cast.values_mut().find(|other| other.vote.link.conflicts_with(&vote.link)) {
            if first.reported {
                return VoteVerdict::Known;
            }
            first.reported = true;
            let first = first.vote;
            return VoteVerdict::Equivocates(Equivocation::Votes {
                first: Box::new(first),
                second: Box::new(vote),
            });
        }
        if full && let Some((_, lowest)) = cast.pop_first() {
            remove_from_tally(&mut self.tally, &lowest.vote);
        }
        cast.insert(target, Cast { vote, reported: false });
        let signatures = self.tally.entry(vote.link).or_default();
        signatures.insert(vote.authority, vote.signature);
        let complete = signatures.len() == self.authorities.quorum();
        VoteVerdict::Added(complete.then(|| FinalityCertificate {
            link: vote.link,
            signatures: signatures.iter().map(|(index, signature)| (*index, *signature)).collect(),
        }))
    }

    /// Forgets the votes whose target is not above the finalized block.
    pub fn prune(&mut self, finalized_height: u64) {
        for cast in &mut self.cast {
            *cast = cast.split_off(&finalized_height.saturating_add(1));
        }
        self.tally.retain(|link, _| link.target.height > finalized_height);
    }
}

fn remove_from_tally(tally: &mut HashMap<Link, BTreeMap<u16, Signature>>, vote: &Vote) {
    if let Some(signatures) = tally.get_mut(&vote.link) {
        signatures.remove(&vote.authority);
        if signatures.is_empty() {
            tally.remove(&vote.link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::{BlockId, Checkpoint, KeyPair};

    const GENESIS: GenesisId = GenesisId([7; 32]);

    fn keys() -> Vec<KeyPair> {
        (1..=4).map(|seed| KeyPair::from_seed(&[seed; 32])).collect()
    }

    fn pool() -> VotePool {
        VotePool::new(GENESIS, AuthoritySet::new(keys().iter().map(KeyPair::public).collect()).unwrap())
    }

    fn at(height: u64, tag: u8) -> Checkpoint {
        Checkpoint { height, id: BlockId([tag; 32]) }
    }

    fn vote(authority: u16, source: u64, target: u64, tag: u8) -> Vote {
        let link = Link { source: at(source, 0), target: at(target, tag) };
        Vote::sign(link, authority, &GENESIS, &keys()[usize::from(authority)])
    }

    #[test]
    fn the_third_of_four_completes_the_certificate_once() {
        let mut pool = pool();
        assert_eq!(pool.add(vote(0, 0, 1, 1), 0, 1), VoteVerdict::Added(None));
        assert_eq!(pool.add(vote(0, 0, 1, 1), 0, 1), VoteVerdict::Known);
        assert_eq!(pool.add(vote(3, 0, 1, 1), 0, 1), VoteVerdict::Added(None));
        let VoteVerdict::Added(Some(certificate)) = pool.add(vote(1, 0, 1, 1), 0, 1) else {
            panic!("three of four are a quorum");
        };
        let rng = <rand_chacha::ChaCha8Rng as rand_chacha::rand_core::SeedableRng>::from_seed([0; 32]);
        certificate.verify(&GENESIS, &pool.authorities, rng).unwrap();
        assert_eq!(pool.add(vote(2, 0, 1, 1), 0, 1), VoteVerdict::Added(None));
    }

    #[test]
    fn double_and_surround_votes_are_reported_once_and_do_not_count() {
        let mut pool = pool();
        pool.add(vote(0, 1, 3, 1), 0, 9);
        let second = vote(0, 1, 3, 2);
        assert_eq!(
            pool.add(second, 0, 9),
            VoteVerdict::Equivocates(Equivocation::Votes {
                first: Box::new(vote(0, 1, 3, 1)),
                second: Box::new(second)
            })
        );
        assert_eq!(pool.add(second, 0, 9), VoteVerdict::Known);
        pool.add(vote(1, 2, 3, 1), 0, 9);
        assert!(matches!(pool.add(vote(1, 1, 4, 1), 0, 9), VoteVerdict::Equivocates(_)), "surrounds");
        pool.add(vote(2, 1, 6, 1), 0, 9);
        assert!(matches!(pool.add(vote(2, 2, 5, 1), 0, 9), VoteVerdict::Equivocates(_)), "surrounded");
        assert_eq!(pool.len(), 3);
    }

    #[test]
    fn the_window_from_both_sides() {
        let mut pool = pool();
        assert_eq!(pool.add(vote(0, 0, 5, 1), 5, 9), VoteVerdict::Old);
        assert_eq!(pool.add(vote(0, 0, 6, 1), 5, 9), VoteVerdict::Added(None));
        assert_eq!(pool.add(vote(0, 0, 9 + VOTES_AHEAD_MAX, 1), 5, 9), VoteVerdict::Added(None));
        assert_eq!(pool.add(vote(0, 0, 10 + VOTES_AHEAD_MAX, 1), 5, 9), VoteVerdict::TooFar);
        assert_eq!(
            pool.add(vote(0, 0, 6, 1), u64::MAX, u64::MAX),
            VoteVerdict::Old,
            "no overflow at the ends"
        );
    }

    #[test]
    fn forged_votes_are_refused() {
        let mut pool = pool();
        let mut forged = vote(0, 0, 1, 1);
        forged.authority = 1;
        assert_eq!(pool.add(forged, 0, 1), VoteVerdict::Invalid(VoteFault::BadSignature));
        forged.authority = 4;
        assert_eq!(pool.add(forged, 0, 1), VoteVerdict::Invalid(VoteFault::UnknownAuthority(4)));
        assert!(pool.is_empty());
    }

    #[test]
    fn an_authority_is_bounded_and_takes_no_room_from_others() {
        let mut pool = pool();
        pool.add(vote(1, 0, 1, 1), 0, 1_000);
        let max = VOTES_PER_AUTHORITY_MAX as u64;
        for height in 1..=max {
            pool.add(vote(0, 0, height, 1), 0, 1_000);
        }
        assert_eq!(pool.len(), 1 + VOTES_PER_AUTHORITY_MAX);
        pool.add(vote(0, 0, max + 1, 1), 0, 1_000);
        assert_eq!(pool.len(), 1 + VOTES_PER_AUTHORITY_MAX, "the oldest made room");
        assert_eq!(pool.add(vote(0, 0, 1, 1), 0, 1_000), VoteVerdict::Old);
        assert_eq!(pool.tally.len(), VOTES_PER_AUTHORITY_MAX + 1);
        pool.prune(max);
        assert_eq!((pool.len(), pool.tally.len()), (1, 1));
    }
}

//! When this node votes, and that no two of its votes ever conflict.

use ghost_proto::{Checkpoint, vote::Link};

/// What an authority remembers of its votes. The last one is enough: targets only rise and sources
/// never sink, so a later vote can neither share a target height with an earlier one nor surround it
/// or be surrounded by it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ballot {
    last: Option<Link>,
}

impl Ballot {
    /// Starts from the last vote that was signed, ever, on any machine.
    pub fn new(last: Option<Link>) -> Self {
        Self { last }
    }

    /// The link to vote for, if there is one that conflicts with no earlier vote.
    pub fn choose(&self, justified: Checkpoint, head: Checkpoint) -> Option<Link> {
        let link = Link { source: justified, target: head };
        let rises = self.last.is_none_or(|last| {
            link.target.height > last.target.height && link.source.height >= last.source.height
        });
        (rises && head.height > justified.height).then_some(link)
    }

    /// Remembers a vote. Make it durable before you call this, and call this before you send it.
    pub fn cast(&mut self, link: Link) {
        self.last = Some(link);
    }

    /// The last vote.
    pub fn last(&self) -> Option<Link> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::BlockId;
    use proptest::prelude::*;

    fn at(height: u64, tag: u8) -> Checkpoint {
        Checkpoint { height, id: BlockId([tag; 32]) }
    }

    #[test]
    fn targets_rise_and_sources_do_not_sink() {
        let mut ballot = Ballot::default();
        assert_eq!(ballot.choose(at(3, 0), at(3, 0)), None, "nothing above the justified block");
        ballot.cast(ballot.choose(at(2, 0), at(5, 0)).unwrap());
        assert_eq!(ballot.choose(at(2, 0), at(5, 1)), None, "same target height");
        assert_eq!(ballot.choose(at(1, 0), at(6, 0)), None, "would surround");
        assert!(ballot.choose(at(2, 0), at(6, 0)).is_some());
        assert!(ballot.choose(at(4, 0), at(6, 0)).is_some());
    }

    proptest! {
        #[test]
        fn no_two_votes_conflict(steps in proptest::collection::vec((0u64..20, 0u64..24, 0u8..3), 1..80)) {
            let mut ballot = Ballot::default();
            let mut cast: Vec<Link> = Vec::new();
            for (source, target, tag) in steps {
                if let Some(link) = ballot.choose(at(source, 0), at(target, tag)) {
                    for earlier in &cast {
                        prop_assert!(!link.conflicts_with(earlier), "{link:?} {earlier:?}");
                    }
                    ballot.cast(link);
                    cast.push(link);
                }
            }
        }
    }
}

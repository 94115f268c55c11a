//! Proof that an authority broke a rule.

use ghost_proto::{Header, Vote};

/// Two signed things of one authority that exclude each other. Both signatures were checked. Keep
/// it, show it to people; the authority is at fault, whoever relayed it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Equivocation {
    /// Two blocks for one slot.
    Proposals {
        /// The block seen first.
        first: Box<Header>,
        /// The block seen now.
        second: Box<Header>,
    },
    /// Two votes of which one surrounds the other, or both have one target height.
    Votes {
        /// The vote seen first.
        first: Box<Vote>,
        /// The vote seen now.
        second: Box<Vote>,
    },
}

impl Equivocation {
    /// Index of the authority at fault.
    pub fn authority(&self) -> u16 {
        match self {
            Self::Proposals { first, .. } => first.proposer,
            Self::Votes { first, .. } => first.authority,
        }
    }
}

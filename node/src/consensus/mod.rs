//! Who may propose when, which tip is the head, and what is final.
//!
//! - [`Schedule`]: slots, turns, and what a header must satisfy on its own.
//! - [`BlockTree`]: the blocks above the finalized one, and the fork choice among them.
//! - [`Proposals`]: at most a few headers for each slot; finds double proposals.
//! - [`VotePool`]: votes become certificates; finds double and surround votes.
//! - [`Finality`]: what certificates justify and finalize.
//! - [`Ballot`]: when this node votes, and that it never contradicts itself.
//!
//! All are plain structs without clock or store. Finality is Casper FFG (Buterin and Griffith,
//! arXiv:1710.09437) with every block a checkpoint; see [`ghost_proto::vote`].
//!
//! # Security
//! Provided, as long as fewer than a third of the authorities break the rules: no two conflicting
//! blocks are ever final. As long as two thirds are up, hear each other within a slot and a half, and
//! agree on a head: blocks become final one slot after they were made.
//! Not provided: protection from a third or more of the authorities; punishment (evidence is
//! returned, nothing is slashed).

mod ballot;
mod evidence;
mod finality;
mod proposals;
mod schedule;
mod tree;
mod votes;

pub use self::{
    ballot::Ballot,
    evidence::Equivocation,
    finality::{Applied, CertificateFault, Finality, PENDING_MAX},
    proposals::{Admission, PROPOSALS_PER_SLOT_MAX, Proposals, WANTED_MAX},
    schedule::{FUTURE_TOLERANCE_MS, Schedule, TurnFault},
    tree::{BlockTree, Node},
    votes::{VOTES_AHEAD_MAX, VOTES_PER_AUTHORITY_MAX, VoteFault, VotePool, VoteVerdict},
};

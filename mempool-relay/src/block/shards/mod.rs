//! Shards: large blocks, and the part of a block that nobody has, as a swarm of pieces.
//!
//! Short ids are shorter than any body, for whoever has the transactions. Who has not (a node that just started, or everybody,
//! of transactions that only the proposer had) fetches them whole, one hop after the other, and each hop
//! waits for all of it: 32 MB over four hops of 50 Mbit/s are 20 s. In shards every node passes on what it has while it
//! waits for the rest, any two thirds are enough, and no link carries it all.
//!
//! 1. The proposer cuts a body of [`WHOLE_BYTES_MIN`] or more, and the transactions of a block that it expects nobody to
//!    have where they are too many to stand in the compact block; it signs what it cut ([`ghost_frames::shards`]).
//! 2. The signed plan goes to everybody. Who needs the payload joins and says so; who does not only passes the plan on.
//! 3. Each node pushes each shard it has once, to a peer that wants shards and is not known to have it; never more
//!    than [`OWED_BYTES_MAX`] that the peer has not confirmed, so a slow link gets fewer, not later. What has not come by itself is asked
//!    for: of those who said they have it, rarest first.
//! 4. Two thirds are here: the payload is put together and cut again, where nothing waits. If that gives another
//!    root, the proposer signed a lie: nobody else is blamed, and the block is got without shards.
//!
//! A shard is checked against the signed root when it comes, alone; a false one is its sender's fault, for sure.
//!
//! # Memory
//! [`GROUPS_MAX`] payloads, [`HELD_BYTES_MAX`] of shards; for each peer and payload four sets of 96 bytes.

pub mod code;
mod group;
mod job;
mod swarm;

pub use job::{ShardJob, ShardOutcome, payload};
pub(crate) use swarm::{Arrival, ShardSwarm, Stance};

use std::time::Duration;

/// Shortest body that is cut whole, in bytes. Below, a whole body takes less than the round trips of a swarm: 1 MiB is
/// 84 ms at 100 Mbit/s.
pub const WHOLE_BYTES_MIN: usize = 1024 * 1024;

/// Payloads at a time: two blocks of a slot, each whole and in part, and those of the slot before.
pub const GROUPS_MAX: usize = 8;

/// Bytes of shards held for all payloads, or one payload's if that is more: two of the largest blocks with what repairs them.
pub const HELD_BYTES_MAX: usize = 96 * 1024 * 1024;

/// How long shards are kept to be served.
pub const GROUP_LIFETIME: Duration = Duration::from_secs(15);

/// Bytes pushed to one peer and not confirmed by it: what a link of 20 Mbit/s takes in a round trip of 100 ms.
pub const OWED_BYTES_MAX: usize = 256 * 1024;

/// Pause between two tellings of what is here.
pub const TELL_EVERY: Duration = Duration::from_millis(20);

/// How long shards may come by themselves before any are asked for.
pub const PULL_AFTER: Duration = Duration::from_millis(60);

/// Bytes asked of one peer at a time.
pub const PULL_BYTES: usize = 256 * 1024;

/// Silence after which a request for shards is given up, the round trip not counted.
pub const PULL_PATIENCE: Duration = Duration::from_millis(600);

/// How long the plan of a large block is waited for before its body is asked for: cutting 32 MiB takes 0.1 s, and the plan
/// four hops.
pub const PLAN_PATIENCE: Duration = Duration::from_millis(500);

/// How long shards may make no progress before what they were to bring is asked for without them.
pub const SWARM_PATIENCE: Duration = Duration::from_secs(1);

/// Plans of one block that are passed on: whole, in part, and one more that proves its proposer signed two.
pub(crate) const PLANS_PER_BLOCK_MAX: usize = 3;

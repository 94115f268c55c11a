//! Feeds: numbered, hash-chained sequences with a snapshot, resumable at any honest peer.
//!
//! - [`Feed`] is the publisher's core. What is published is encoded once; the ring of frames that it keeps
//!   serves every subscriber from the same bytes, and whoever comes back with a position. Nothing is queued
//!   for anybody: a [`Reader`] is a place in the ring. One that is further behind than it is owed, in bytes, is
//!   *conflated*: a [`FeedNotice`](ghost_frames::feed::FeedNotice) says so and a snapshot of the moment stands for what it missed.
//! - [`Cursor`] is the subscriber's core. It checks that each frame joins on to the one before, and tells its application
//!   of everything in [`Event`]s: a gap, a divergence, an announced snapshot, and silence, by age.
//! - [`Hub`] and [`FeedStream`] are the shells: one task for each subscriber at the server, one answer at the
//!   client.
//!
//! A **feed** carries [entries](ghost_frames::feed::FeedEntries), whose hash the subscriber computes. A **view** of a feed
//! (the best ten prices of a book, say) has the feed's positions but cannot be checked entry by entry; it
//! travels in [steps](ghost_frames::feed::FeedStep), each of which names the position before and after.

mod cursor;
mod publish;
mod serve;
mod stream;

pub use cursor::{Cursor, CursorLimits, Event, Place, Rejected};
pub use publish::{Feed, FeedLimits, Joined, Next, Reader};
pub use serve::{Hub, Source};
pub use stream::{FeedError, FeedStream};

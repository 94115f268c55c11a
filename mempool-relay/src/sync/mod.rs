//! The block side of a node: new blocks from peers, and catching up with them.
//!
//! [`BlockSync`] is the one core a shell drives. Inside, [`crate::block`] handles blocks whose parent
//! we have, one at a time and at once; chain sync handles everything that is further away:
//!
//! 1. A peer claims a block we do not have (hello, an announcement whose parent is unknown, a vote).
//! 2. One such peer **leads**: it is asked for headers after our locator, 512 at a time. The caller
//!    checks them. They stand in a window of at most [`HEADER_WINDOW_MAX`], in memory only.
//! 3. Bodies in the window are asked of every peer that claims such a height, in batches sized to
//!    half a second of what that peer was seen to deliver. The front decides: an idle peer takes over what a
//!    much slower one holds, and the slower one rests.
//! 4. Blocks are handed to import in order, at most [`IMPORTS_MAX`] not yet confirmed.
//! 5. A chain whose front nobody delivers is dropped, its leader waits longer each time before it
//!    may lead again, and the next claim is followed.
//!
//! Every claim is followed in the end, so a node with one honest peer reaches that peer's chain
//! whatever the others say; fork choice is the chain's, not decided here.
//!
//! # Memory
//! Headers: 8,192 × about 0.7 KiB = 6 MiB. Bodies asked for, received or being imported:
//! [`BODY_WINDOW_BYTES_MAX`], or one block if that is larger. Announced blocks: 32 headers for each
//! peer, 64 MiB of bodies in all. Nothing here is written to disk; after a restart the locator says where
//! to go on.
//!
//! # The shell
//! Perform the effects in order, then wait until [`BlockSync::next_deadline`] for the next input. Each request effect is one
//! bidirectional stream; give back its frames one by one and then [`Input::Ended`].

mod backoff;
mod bad;
mod block_sync;
mod certificate;
mod chain_sync;
mod io;
mod leader;
mod locator;
mod peer;
mod progress;
mod schedule;
pub mod serve;
mod tip;
mod window;

pub use block_sync::{BlockSync, Config};
pub use io::{
    CertificateVerdict, Effect, HeaderVerdict, HeadersVerdict, ImportOutcome, Input, Offence, RequestEnd,
    RequestId, ShardFault,
};
pub use leader::{DEAD_END_PATIENCE, HEADERS_TIMEOUT, LEADER_BACKOFF_MAX, LEADER_BACKOFF_MIN};
pub use locator::headers_request;
pub use progress::{SyncProgress, SyncState};
pub use schedule::{BATCH_BLOCKS_MAX, IMPORT_BYTES_MAX, IMPORTS_MAX, STALL_MIN};
pub use tip::STALE_TIP_MIN;
pub use window::{BODY_WINDOW_BLOCKS_MAX, BODY_WINDOW_BYTES_MAX, HEADER_WINDOW_MAX};

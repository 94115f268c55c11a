//! The wire format, frozen: vectors, the tables of `WIRE.md`, bounds, malformed input, round trips.
//!
//! `GHOST_REGENERATE_VECTORS=1 cargo test -p ghost-frames --test wire` rewrites the vectors, the
//! fuzz seeds and the generated parts of `WIRE.md`. To regenerate is to approve a change of the
//! protocol: read the diff as one.

mod contracts;
mod document;
mod frozen;
mod fuzz_smoke;
mod malformed;
mod market_samples;
mod markets;
mod prices;
mod round_trip;
mod samples;
mod sketch;
mod vectors;

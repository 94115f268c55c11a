//! Contracts over streams: several nodes in one process, on real sockets.

mod abuse;
mod calls;
mod compare;
mod engines;
mod follow;
mod markets;
mod net;
mod token;

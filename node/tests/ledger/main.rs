//! The chain of one node and of several, in virtual time, over stores that fail.

mod consensus;
mod contracts;
mod crash;
mod follow;
mod forks;
mod markets;
mod world;

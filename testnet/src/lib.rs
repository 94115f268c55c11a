//! Local ghostd networks: real processes on loopback and simulated worlds in virtual time.

pub mod bench;

//! The ghostd daemon: chain, consensus, services, stores, configuration and command line.

pub mod chain;
pub mod consensus;
pub mod engine;
pub mod store;

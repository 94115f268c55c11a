//! The ghostd daemon: chain, consensus, services, stores, configuration and command line.

pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consensus;
pub mod dex;
pub mod doctor;
pub mod engine;
pub mod exporter;
pub mod home;
pub mod logging;
pub mod metrics;
pub mod oracle;
pub mod run;
mod services;
pub mod store;
pub mod wallet;

//! The ghostd daemon: chain, consensus, services, stores, configuration and command line.

pub mod config;
pub mod exporter;
pub mod home;
pub mod logging;
pub mod metrics;

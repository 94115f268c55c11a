//! The ghostd daemon: chain, consensus, services, stores, configuration and command line.

pub mod cli;
pub mod config;
pub mod doctor;
pub mod exporter;
pub mod home;
pub mod logging;
pub mod metrics;
pub mod run;

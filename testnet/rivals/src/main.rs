//! `ghost-rivals`: other ways to do our work, beside ours, in one run.
//!
//! One file for each rival, which serves the same [`World`](ghost_testnet::bench::calls::World) and
//! knows how to ask it; [`harness`] lets all take turns; [`table`] and [`chart`] write what came out.
//! To add one: a file with `serve` and an [`Asker`](ghost_testnet::bench::calls::Asker), and a line in
//! [`calls::run`].

mod calls;
mod chart;
mod grpc;
mod harness;
mod json;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// ghostd beside other ways to do the same work.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// How often all take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 0.8)]
    pub seconds: f64,
    /// Worker threads of each end
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Write calls.md and calls.svg into this directory, too
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match calls::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ghost-rivals: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The ghostd daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    ghost_node::cli::main(std::env::args_os())
}

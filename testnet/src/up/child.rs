//! What runs in the processes of the nodes.
//!
//! The program starts itself again with [`HIDDEN`] as its first argument and hands over to ghostd's own
//! command line, so that a network needs no second binary and the node is the one it was built with.
//!
//! A child must not outlive its parent, not even one that was killed with -9 and could not clean up. The
//! parent therefore holds the only writing end of the pipe on the child's standard input: when the parent
//! ends, in whatever way, the kernel closes it, and the child reads the end of the pipe and stops itself.

use std::{
    ffi::OsString,
    io::{self, Read},
    iter,
    process::ExitCode,
    thread,
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};

/// The first argument that makes this program a node.
pub const HIDDEN: &str = "__ghostd";

/// How long a clean stop may take when the parent is gone.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs ghostd's command line with these arguments, until the parent ends at the latest.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    thread::spawn(|| {
        let mut buffer = [0; 64];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        // As the parent would have asked for it; and if that does not help, without asking.
        let _ = kill_process(getpid(), Signal::TERM);
        thread::sleep(STOP_TIMEOUT);
        std::process::exit(1);
    });
    ghost_node::cli::main(iter::once(OsString::from("ghostd")).chain(args))
}

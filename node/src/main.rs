//! The ghostd daemon.

fn main() {}

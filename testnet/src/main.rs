//! Local ghostd networks.

fn main() {}

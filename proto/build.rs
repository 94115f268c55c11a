//! Compiles `schema/*.proto` without needing a `protoc` binary on the machine.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["contract", "hello", "market", "prices", "record", "rpc"].map(|name| format!("schema/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={}", Path::new(file).display());
    }
    let descriptors = protox::compile(files, ["schema"])?;
    // A frame is as large as the largest message: what is long and rare stands apart.
    let boxed = [".ghost.v1.Status.relay", ".ghost.v1.Status.reachability"];
    let mut config = prost_build::Config::new();
    boxed.iter().for_each(|field| {
        config.boxed(field);
    });
    config.bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}

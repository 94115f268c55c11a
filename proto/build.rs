//! Compiles `schema/*.proto` without needing a `protoc` binary on the machine.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["contract", "hello", "record", "rpc"].map(|name| format!("schema/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={}", Path::new(file).display());
    }
    let descriptors = protox::compile(files, ["schema"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}

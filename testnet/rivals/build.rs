//! Compiles the gRPC service.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["proto/call.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}

//! Local ghostd networks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ghost_node::cli::output::{Failure, Out};
use ghost_testnet::{drill, payloads, stop::Stop, up};

const EXAMPLES: &str = "\
Examples:
  testnet up                                    four nodes, 50 transfers a second, until Ctrl-C
  testnet up --nodes 16 --tps 500 --for 60s --json
  testnet restart-drill --tries 30              kill -9 a random node, again and again
  testnet payloads --count 1000                 opaque bytes in at one node, out at another

Every node is a process of its own. None outlives this one, however it ends.";

/// Local networks of real ghostd processes.
#[derive(Debug, Parser)]
#[command(name = "testnet", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a network with traffic, and sum it up
    Up(up::UpArgs),
    /// Kill nodes without warning, start them again, and see that nothing acknowledged is lost
    RestartDrill(drill::DrillArgs),
    /// Send payloads of real-chain sizes through one node and read them back from another
    Payloads(payloads::PayloadsArgs),
}

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == up::child::HIDDEN) {
        return up::child::main(args.drain(2..));
    }
    // Exits with 2 for wrong usage, and with 0 after help.
    let cli = Cli::parse();
    let json = match &cli.command {
        Command::Up(args) => args.json,
        Command::RestartDrill(args) => args.json,
        Command::Payloads(args) => args.json,
    };
    let out = Out::new(json);
    let work = async {
        let stop = Stop::listen()?;
        match cli.command {
            Command::Up(args) => up::run(&args, &out, &stop).await,
            Command::RestartDrill(args) => drill::run(&args, &out, &stop).await,
            Command::Payloads(args) => payloads::run(&args, &out, &stop).await,
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Failure::from).and_then(|runtime| {
        let result = runtime.block_on(work);
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        result
    });
    result.unwrap_or_else(|failure| out.fail(&failure))
}

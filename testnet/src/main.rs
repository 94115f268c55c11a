//! Local ghostd networks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ghost_node::cli::output::{Failure, Out};
use ghost_testnet::{bench, drill, payloads, scenario, soak, stop::Stop, up};

const EXAMPLES: &str = "\
Examples:
  testnet                                       as `testnet up`: four nodes, 50 transfers a second, until Ctrl-C
  testnet up --nodes 16 --tps 500 --for 60s --json
  testnet sim partition                         ten minutes apart and together again, in virtual time
  testnet restart-drill --tries 30              kill -9 a random node, again and again
  testnet payloads --count 1000                 opaque bytes in at one node, out at another
  testnet bench all                             the overlay beside bare QUIC, in one run

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
    /// Run a scenario: a network, what it meets, and what must hold
    Sim(scenario::SimArgs),
    /// The scenarios that ship with this program
    List(scenario::ListArgs),
    /// Run a network for long, with nodes that die and come back, and see that nothing grows
    Soak(soak::SoakArgs),
    /// Kill nodes without warning, start them again, and see that nothing acknowledged is lost
    RestartDrill(drill::DrillArgs),
    /// Send payloads of real-chain sizes through one node and read them back from another
    Payloads(payloads::PayloadsArgs),
    /// Measure the overlay beside bare QUIC doing the same work, in the same run
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == up::child::HIDDEN) {
        return up::child::main(args.drain(2..));
    }
    // Without a word it does its main job.
    if args.len() == 1 {
        args.push("up".into());
    }
    // Exits with 2 for wrong usage, and with 0 after help.
    let cli = Cli::parse_from(args);
    let json = match &cli.command {
        Command::Up(args) => args.json,
        Command::Sim(args) => args.json,
        Command::Soak(args) => args.json,
        Command::List(args) => args.json,
        Command::RestartDrill(args) => args.json,
        Command::Payloads(args) => args.json,
        Command::Bench(args) => args.json,
    };
    let out = Out::new(json);
    // These have runtimes of their own.
    match &cli.command {
        Command::Bench(args) => {
            return match bench::run(args) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => out.fail(&Failure::new(error.to_string())),
            };
        }
        Command::Sim(args) => {
            return scenario::sim(args, &out).unwrap_or_else(|failure| out.fail(&failure));
        }
        Command::List(_) => return scenario::list(&out).unwrap_or_else(|failure| out.fail(&failure)),
        _ => {}
    }
    let work = async {
        let stop = Stop::listen()?;
        match cli.command {
            Command::Up(args) => up::run(&args, &out, &stop).await,
            Command::Soak(args) => soak::run(&args, &out, &stop).await,
            Command::RestartDrill(args) => drill::run(&args, &out, &stop).await,
            Command::Payloads(args) => payloads::run(&args, &out, &stop).await,
            Command::Bench(_) | Command::Sim(_) | Command::List(_) => Ok(ExitCode::SUCCESS),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declared_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_parses() {
        for line in [
            "testnet up",
            "testnet up --nodes 4 --tps 50 --seed 9 --for 30s --json --dir d --keep",
            "testnet up --nodes 64 --tps 0 --slot-ms 100",
            "testnet up --adversary eclipser=3 --adversary liar",
            "testnet up --nodes 12 --topology chain",
            "testnet restart-drill --tries 30",
            "testnet restart-drill --tries 1 --nodes 4 --down 500ms --json",
            "testnet payloads --count 1000 --write f",
            "testnet payloads --from f --json",
            "testnet sim partition",
            "testnet sim my.toml --seed 7 --backend cores --json",
            "testnet sim one-falls --real",
            "testnet list --json",
            "testnet soak",
            "testnet soak --for 2h --churn 1m --adversary liar --json",
            "testnet bench all --json",
            "testnet bench handshakes --runs 3",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            "testnet up --nodes 0",
            "testnet up --nodes 65",
            "testnet up --tps 20001",
            "testnet up --slot-ms 99",
            "testnet up --adversary saint",
            "testnet up --for soon",
            "testnet restart-drill --tries 0",
            "testnet restart-drill --nodes 1",
            "testnet sim",
            "testnet soak --nodes 1",
            "testnet sim a --backend clouds",
            "testnet sim a --real --backend nodes",
            "testnet bench everything",
            "testnet payloads --count 0",
            "testnet payloads --count 5 --from f",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}

//! The command line of `ghostd`.
//!
//! Standard output carries what was asked for, for people or (with `--json`) for programs: one object,
//! or one a line for streams. Standard error carries logs, progress and errors. The exit code is 0 when
//! it was done, 1 when it failed (with what to do next), 2 when it was asked in a way that means nothing.

pub mod account;
pub mod block;
pub mod connect;
mod contract;
mod doctor;
pub mod init;
pub mod market;
pub mod output;
mod peers;
mod price;
mod run;
mod status;
pub mod tx;
mod wallet;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use ghost_proto::Multiaddr;

use crate::{
    config::{Log, LogFormat, parse_node},
    home::Home,
    logging,
};
use output::{Failure, Out};

const EXAMPLES: &str = "\
Examples:
  ghostd init --home a                       a chain of your own, with one authority
  ghostd run --home a                        run its node
  ghostd init --home b --genesis a/genesis.toml
  ghostd run --home b --listen /ip4/127.0.0.1/udp/0/quic-v1 --peer \"$(head -n 1 a/address)\"
  ghostd status --home a
  ghostd tx send --home a --to 0x00000000000000000000000000000000000000aa --value 5 --wait
  ghostd block follow --home b --json

A command that asks a node finds it by --node MULTIADDR or, by default, through --home. While a node runs, the file
`address` in its home says how to reach it: one multiaddr a line, one line for each address it listens on.
Environment: GHOSTD_HOME, GHOSTD_NODE, GHOSTD_LOG, NO_COLOR, and GHOSTD_SECTION_NAME for every setting.";

/// A node of a ghost chain, and the commands to ask one.
#[derive(Debug, Parser)]
#[command(name = "ghostd", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// What all commands take.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What all commands take.
#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// The node's directory [default: $GHOSTD_HOME or ~/.ghostd]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Ask the node at this address instead of the one that runs on --home
    #[arg(long, global = true, value_name = "MULTIADDR", value_parser = parse_node)]
    pub node: Option<Multiaddr>,
    /// Answer with JSON: one object, or one a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Which log lines to write to standard error, such as warn,ghost=debug
    #[arg(long, global = true, value_name = "FILTER", value_parser = parse_filter)]
    pub log: Option<String>,
    /// How long to wait for a node to answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = parse_patience)]
    pub timeout: Duration,
}

impl Globals {
    /// Where the home is, whether or not there is one.
    pub fn home_root(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(Home::default_root)
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a home: settings, node key, and a chain to be of
    Init(init::InitArgs),
    /// Run the node of a home until it is told to stop
    Run(run::RunArgs),
    /// Head, peers, mempool, sync and uptime of a node
    Status,
    /// The peers of your own node: list, add, drop, ban, unban, explain
    Peers(peers::PeersArgs),
    /// Send transactions, look them up, list those that wait
    Tx(tx::TxArgs),
    /// Look up blocks, or follow the chain
    Block(block::BlockArgs),
    /// Deploy contracts, ask them, send to them, read what they logged
    Contract(contract::ContractArgs),
    /// Prices: list, get, follow, publish
    Price(price::PriceArgs),
    /// The markets of the chain: best prices, volumes, steps
    Markets(market::MarketsArgs),
    /// Place orders, cancel and replace them, list those that rest
    Order(market::OrderArgs),
    /// The book of a market, once or as it changes
    Book(market::BookArgs),
    /// The trades of a market
    Trades(market::TradesArgs),
    /// What an account has of each asset
    Balances(market::BalancesArgs),
    /// Balance and nonce of an account, code of a contract
    State(account::StateArgs),
    /// Make a key for an account, or show the address of one
    Account(account::AccountArgs),
    /// A wallet: keys of its own, sealed channels to other wallets, payments, groups that sign together
    Wallet(wallet::WalletArgs),
    /// Check settings, keys, ports, clock, store, disk and reachability, and say how to mend each
    Doctor(doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// `ghostd completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ghostd completions bash > /etc/bash_completion.d/ghostd")]
pub struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Commands that ask no node, by their path, and what all commands take and means nothing to these. It is
/// accepted nevertheless: scripts give the same flags to all.
const MEANS_NOTHING: &[(&[&str], &[&str])] = &[
    (&["init"], &["node", "timeout"]),
    (&["run"], &["node", "timeout"]),
    (&["peers", "export"], &["node", "timeout", "json"]),
    (&["peers", "import"], &["node", "timeout"]),
    (&["account"], &["node", "timeout"]),
    (&["account", "new"], &["node", "timeout"]),
    (&["account", "address"], &["node", "timeout"]),
    (&["account", "list"], &["node", "timeout"]),
    (&["wallet", "new"], &["node", "timeout", "mailboxes", "stamp_bits", "file_mib_max"]),
    (&["wallet", "address"], &["node", "mailboxes", "stamp_bits", "file_mib_max"]),
    (&["completions"], &["home", "node", "json", "log", "timeout"]),
];

/// All commands, with help that shows only what means something.
fn command() -> clap::Command {
    let mut command = Cli::command();
    // What all commands take is theirs only from here on.
    command.build();
    for (path, hidden) in MEANS_NOTHING {
        let mut at = &mut command;
        for name in *path {
            at = at.find_subcommand_mut(name).expect("the path names a command");
        }
        let taken = std::mem::replace(at, clap::Command::new("taken"));
        *at =
            taken.mut_args(|arg| if hidden.contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg });
    }
    command
}

/// Runs one command. `args` starts with the program's name, as a process's own does.
pub fn main(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        // Help and version are no errors: clap prints them to standard output and says 0.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let out = Out::new(cli.globals.json);
    match dispatch(cli, &out) {
        Ok(code) => code,
        Err(failure) => out.fail(&failure),
    }
}

fn dispatch(cli: Cli, out: &Out) -> Result<ExitCode, Failure> {
    let globals = &cli.globals;
    if !matches!(cli.command, Command::Run(_)) {
        let filter = globals.log.clone().or_else(|| std::env::var("GHOSTD_LOG").ok());
        let filter = filter.unwrap_or_else(|| "error".into());
        logging::start(&Log { filter, format: LogFormat::Text })?;
    }
    match cli.command {
        Command::Run(args) => run::run(globals, &args, out),
        Command::Init(args) => init::run(globals, &args, out),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut command(), "ghostd", &mut script);
            out.bytes(&script)
        }
        Command::Account(args) => account::run(globals, &args, out),
        Command::Doctor(args) => block_on(doctor::run(globals, &args, out)),
        Command::Status => block_on(status::run(globals, out)),
        Command::Peers(args) => block_on(peers::run(globals, args, out)),
        Command::Tx(args) => block_on(tx::run(globals, args, out)),
        Command::Block(args) => block_on(block::run(globals, args, out)),
        Command::Contract(args) => block_on(contract::run(globals, args, out)),
        Command::Price(args) => block_on(price::run(globals, args, out)),
        Command::Markets(args) => block_on(market::markets(globals, &args, out)),
        Command::Order(args) => block_on(market::order(globals, args, out)),
        Command::Book(args) => block_on(market::book(globals, &args, out)),
        Command::Trades(args) => block_on(market::trades(globals, &args, out)),
        Command::Balances(args) => block_on(market::balances(globals, &args, out)),
        Command::State(args) => block_on(account::state(globals, &args, out)),
        Command::Wallet(args) => block_on(wallet::run(globals, args, out)),
    }
}

/// One thread is enough to ask: nothing here waits for a processor.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// `30s`, `500ms`, `2m`, `1h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(DURATION_FORM.into()),
    };
    let number: f64 = number.parse().map_err(|_| DURATION_FORM.to_owned())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|error| error.to_string())
}

const DURATION_FORM: &str = "write a number of seconds, or a number and ms, s, m, h or d, such as 500ms";

/// A duration in which something can happen.
fn parse_patience(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("nothing answers within no time; the default is 10s".into()),
        patience => Ok(patience),
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    logging::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;

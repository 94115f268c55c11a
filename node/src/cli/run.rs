//! `ghostd run`.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use ghost_proto::Multiaddr;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Globals,
    output::{Failure, Out},
};
use crate::{
    config::{Layers, parse_listen, parse_peer},
    home::{Home, dialable},
    logging, run,
};

/// How long a clean stop may take: peers drain for 2 s, the store flushes what it holds.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  ghostd run --home a
  ghostd run --home b --listen /ip4/127.0.0.1/udp/0/quic-v1 --peer /ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooW…
  ghostd run --home a --log warn,ghost=debug

Ctrl-C, SIGTERM or the end of its terminal stops it cleanly; a second one stops it at once. `kill -9` loses nothing that was acknowledged.";

/// `ghostd run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Where to listen, instead of network.listen; may be given several times
    #[arg(long, value_name = "MULTIADDR", value_parser = parse_listen)]
    listen: Vec<Multiaddr>,
    /// A peer to stay connected to, besides network.peers; may be given several times
    #[arg(long, value_name = "MULTIADDR", value_parser = parse_peer)]
    peer: Vec<Multiaddr>,
}

pub(super) fn run(globals: &Globals, args: &RunArgs, out: &Out) -> Result<ExitCode, Failure> {
    if globals.node.is_some() {
        return Err(Failure::usage("run starts the node of --home; --node is for commands that ask one"));
    }
    let home = Home::open(globals.home_root())?;
    let mut layers = Layers::new().file(&home.config_path())?.environment(std::env::vars())?;
    if !args.listen.is_empty() {
        let list: Vec<String> = args.listen.iter().map(ToString::to_string).collect();
        layers = layers.flag("--listen", "network.listen", list)?;
    }
    if !args.peer.is_empty() {
        layers = layers.flag_items("--peer", "network.peers", args.peer.iter().map(ToString::to_string))?;
    }
    if let Some(filter) = &globals.log {
        layers = layers.flag("--log", "log.filter", filter.as_str())?;
    }
    let config = layers.finish()?;
    logging::start(&config.log)?;
    let lock = home.lock()?;
    // An address that an earlier process left behind would send callers to nobody.
    home.forget_addresses();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(&home, config, out));
    home.forget_addresses();
    drop(lock);
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn serve(home: &Home, config: crate::config::Config, out: &Out) -> Result<ExitCode, Failure> {
    // Before the start, so that a signal during it is not missed.
    let mut asked = StopSignals::listen()?;
    let node = tokio::select! {
        started = run::start(config, home) => started.map_err(|error| {
            let failure = Failure::from(error);
            if failure.text().to_lowercase().contains("in use") {
                failure.hint("listen elsewhere: --listen /ip4/0.0.0.0/udp/0/quic-v1 takes any free port")
            } else {
                failure
            }
        })?,
        () = asked.next() => return Ok(ExitCode::SUCCESS),
    };
    home.write_addresses(&node.listen)?;
    let listen: Vec<String> = node.listen.iter().map(|address| dialable(address).to_string()).collect();
    out.answer(
        &json!({ "event": "listening", "peer_id": node.peer_id.to_string(), "listen": listen }),
        format!("{} listens on\n  {}", node.peer_id, listen.join("\n  ")),
    )?;
    let stopped_by_itself = tokio::select! {
        () = node.stopped() => true,
        () = asked.next() => false,
    };
    home.forget_addresses();
    if stopped_by_itself {
        return Err(Failure::new("the node stopped by itself; the last lines of its log say why"));
    }
    node.shutdown();
    tokio::select! {
        () = node.stopped() => {}
        () = asked.next() => return Err(Failure::new("stopped at once, by a second signal")),
        () = tokio::time::sleep(STOP_TIMEOUT) => {
            return Err(Failure::new(format!("did not stop cleanly within {} s; nothing that was acknowledged is lost",
                STOP_TIMEOUT.as_secs())));
        }
    }
    if out.is_json() {
        out.answer(&json!({ "event": "stopped" }), "")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What asks a node to stop: Ctrl-C, SIGTERM, and the end of the terminal it was started in.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// None if whoever started it, such as nohup, wants it to survive the terminal.
    hangup: Option<Signal>,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hangup => {}
        }
    }
}

/// Whether SIGHUP was ignored when the process began, as far as the system tells it.
fn hangup_is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// SIGHUP is signal 1, the lowest bit of the mask (proc(5)).
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_started_with_nohup_outlives_its_terminal() {
        assert!(ignores_hangup("Name:\tghostd\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tghostd\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("Name:\tghostd\n"));
    }
}

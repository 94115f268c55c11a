//! `ghostd doctor`.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use ghost_proto::{Multiaddr, PeerId, message};
use multiaddr::Protocol;
use serde_json::{Value, json};

use super::{
    Globals,
    connect::{Connected, ask, clock_ahead_ms, connect, connect_home, dial},
    output::{Failure, Out, unix_ms_now},
};
use crate::{
    config::Config,
    doctor::{self, Check, Listening, Verdict},
    home::{Home, HomeError, fresh_key},
};

/// Peers whose clock is looked at; each costs one connection.
const CLOCKS_MAX: usize = 3;

/// `ghostd doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  ghostd doctor --home a\n\nExit code 1 if something is bad; warnings leave it at 0."
)]
pub struct DoctorArgs {}

pub(super) async fn run(globals: &Globals, _args: &DoctorArgs, out: &Out) -> Result<ExitCode, Failure> {
    let checks = match (&globals.node, Home::open(globals.home_root())) {
        (_, Ok(home)) => check_home(globals, &home).await,
        // A node that is asked for by its address is looked at from outside.
        (Some(_), Err(_)) => check_node(globals).await,
        (None, Err(error)) => return Err(error.into()),
    };
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Good);
    let rows: Vec<Value> = checks
        .iter()
        .map(|check| {
            let mend = (!check.mend.is_empty()).then_some(&check.mend);
            json!({ "check": check.name, "verdict": check.verdict.name(), "seen": check.seen, "mend": mend })
        })
        .collect();
    let mut text = String::new();
    for check in &checks {
        text += &format!("{:<8} {:<12} {}\n", check.verdict.name(), check.name, check.seen);
        if !check.mend.is_empty() {
            text += &format!("{:<21} to mend: {}\n", "", check.mend);
        }
    }
    out.answer(&json!({ "healthy": worst != Verdict::Bad, "checks": rows }), text)?;
    Ok(if worst == Verdict::Bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

async fn check_home(globals: &Globals, home: &Home) -> Vec<Check> {
    let running = match home.running() {
        Ok(running) => running.is_some(),
        Err(_) => false,
    };
    let (check, config) = doctor::config(home);
    let mut checks = vec![check, doctor::genesis(home)];
    if let Some(config) = &config {
        checks.push(doctor::keys(home, config));
        let at = if running { own_sockets(home, globals.timeout).await } else { None };
        let node = match &at {
            Some(sockets) => Listening::At(sockets),
            None if running => Listening::Unknown,
            None => Listening::NotRunning,
        };
        checks.push(doctor::ports(config, node));
    }
    checks.push(doctor::store(home, running));
    checks.push(doctor::disk(home));
    checks.push(doctor::descriptors());
    checks.push(doctor::clock(home, unix_ms_now()));
    if running || globals.node.is_some() {
        checks.extend(check_node(globals).await);
    } else {
        checks.push(Check {
            name: "node",
            verdict: Verdict::Warning,
            seen: HomeError::NotRunning(home.root().into())
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .into(),
            mend: format!("start it: ghostd run --home {}", home.root().display()),
        });
    }
    checks.extend(check_clocks(globals, config.as_ref(), running).await);
    checks
}

/// Where the node of this home says that it listens, whichever node the flags name.
async fn own_sockets(home: &Home, timeout: Duration) -> Option<Vec<SocketAddr>> {
    let Connected { client, .. } = connect_home(home, timeout).await.ok()?;
    let status = client.status().await;
    client.close().await;
    let listen = status.ok()?.listen;
    Some(listen.iter().filter_map(|address| doctor::socket_of(&address.parse().ok()?)).collect())
}

async fn check_node(globals: &Globals) -> Vec<Check> {
    let asked = ask(globals, async |node| {
        let started = Instant::now();
        let status = node.client.status().await?;
        Ok((status, started.elapsed()))
    });
    match asked.await {
        Ok((status, took)) => doctor::node(&status, took),
        Err(failure) => vec![Check {
            name: "node",
            verdict: Verdict::Bad,
            seen: failure.text().into(),
            mend: "look at the last lines of its log; restart it if it hangs".into(),
        }],
    }
}

/// The address as a client dials it: it says whom to expect there.
fn address_with_peer(address: &str, peer: &[u8]) -> Option<Multiaddr> {
    let address: Multiaddr = address.parse().ok()?;
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        return Some(address);
    }
    Some(address.with(Protocol::P2p(PeerId::from_bytes(peer).ok()?)))
}

/// Compares our clock with those of peers: the connected ones if our node tells them, else the static
/// ones of the settings.
async fn check_clocks(globals: &Globals, config: Option<&Config>, running: bool) -> Vec<Check> {
    let mut addresses = Vec::new();
    if running && let Ok(connected) = connect(globals).await {
        if let Ok(answer) = connected.client.peers().await {
            // Only those that we dialled have an address that can be dialled.
            let dialled = answer.peers.iter().filter(|peer| peer.direction == "outbound");
            addresses.extend(dialled.filter_map(|peer| address_with_peer(&peer.address, &peer.peer)));
        }
        connected.client.close().await;
    }
    if addresses.is_empty()
        && let Some(config) = config
    {
        addresses.extend(config.network.peers.iter().cloned());
    }
    let Ok(key) = fresh_key() else { return Vec::new() };
    let mut checks = Vec::new();
    for address in addresses.into_iter().take(CLOCKS_MAX) {
        let Ok((client, _)) = dial(&key, std::slice::from_ref(&address), globals.timeout).await else {
            continue;
        };
        let started = Instant::now();
        let status: Result<message::Status, _> = client.status().await;
        let round_trip_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        client.close().await;
        if let Ok(status) = status {
            let ahead = clock_ahead_ms(&status, round_trip_ms);
            checks.push(doctor::clock_beside(&address.to_string(), ahead, round_trip_ms / 2 + 1));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use ghost_proto::{KeyPair, record};

    use super::*;

    #[test]
    fn an_address_of_a_peer_says_whom_to_expect() {
        let peer = record::peer_of(&KeyPair::from_seed(&[1; 32]).public()).unwrap();
        let full = format!("/ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer}");
        for address in ["/ip4/127.0.0.1/udp/1/quic-v1", full.as_str()] {
            assert_eq!(address_with_peer(address, &peer.to_bytes()).unwrap().to_string(), full);
        }
        assert!(address_with_peer("/ip4/127.0.0.1/udp/1/quic-v1", b"nobody").is_none());
        assert!(address_with_peer("elsewhere", &peer.to_bytes()).is_none());
    }
}

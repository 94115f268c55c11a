//! `ghostd peers`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use ghost_discovery::store::{BATCH_MAX, Batch, Export, Merged, Opened, PeerStore as _, SledStore, merge};
use ghost_proto::{LookupKey, Multiaddr, PeerId, PublicKey, limits::VALUE_LABEL_BYTES_MAX, message, record};
use message::peer_command::What;
use serde_json::{Value, json};

use super::{
    Globals,
    connect::{ask, peer_text},
    output::{Failure, Out, Table, bytes_for_people, duration_for_people, unix_ms_now},
    parse_duration,
};
use crate::{
    config::parse_peer,
    home::{Home, HomeLock},
};

const EXAMPLES: &str = "\
Examples:
  ghostd peers
  ghostd peers add /ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooW…
  ghostd peers ban 12D3KooW… --for 1h
  ghostd peers explain 12D3KooW…          why it is (not) connected, and what it did
  ghostd peers find 12D3KooW…             where it is, asked of peers that may know
  ghostd peers find 5f0c… --label mailbox what the owner of a key says of its mailbox
  ghostd peers export --home a > peers.json
  ghostd peers import peers.json --home b

Only a node's operator may do this: whoever holds operator.key of its home, or is listed in rpc.operators.
`export` and `import` read and write the home's peer store itself: stop the node first.";

/// `ghostd peers`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PeersArgs {
    #[command(subcommand)]
    command: Option<PeersCommand>,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// Connected peers (this is the default)
    List,
    /// Dial a peer, and stay connected to it until the node restarts
    Add {
        /// Ends in /p2p/ and the PeerId
        #[arg(value_parser = parse_peer)]
        address: Multiaddr,
    },
    /// Close the connection to a peer
    Drop {
        /// 12D3KooW…
        peer: PeerId,
    },
    /// Close the connection to a peer and refuse it from now on
    Ban {
        /// 12D3KooW…
        peer: PeerId,
        /// For how long [default: for good]
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_ban)]
        duration: Option<Duration>,
    },
    /// Take a ban back
    Unban {
        /// 12D3KooW…
        peer: PeerId,
    },
    /// What is known of a peer, and why
    Explain {
        /// 12D3KooW…
        peer: PeerId,
    },
    /// Ask peers, and those they know, where a peer is or what the owner of a key says of something
    Find {
        /// A PeerId (12D3KooW…), or a public key (64 hex digits)
        id: Sought,
        /// What of it the owner of the key says
        #[arg(long, default_value = "mailbox", value_parser = parse_label)]
        label: String,
    },
    /// Print what the home remembers about peers, as JSON: addresses, anchors, conduct and bans
    Export,
    /// Add what an export holds to what the home remembers
    Import {
        /// A file that `export` wrote; - is standard input
        file: PathBuf,
    },
}

/// What `find` looks for.
#[derive(Debug, Clone)]
enum Sought {
    Peer(PeerId),
    Owner(PublicKey),
}

impl std::str::FromStr for Sought {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let peer = || text.parse().map(Self::Peer).ok();
        let found = peer().or_else(|| text.parse().map(Self::Owner).ok());
        found.ok_or_else(|| "is neither a PeerId (12D3KooW…) nor a public key of 64 hex digits".to_owned())
    }
}

fn parse_label(text: &str) -> Result<String, String> {
    match text.len() {
        1..=VALUE_LABEL_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(format!("a label has 1 to {VALUE_LABEL_BYTES_MAX} bytes, this has {bytes}")),
    }
}

pub(super) async fn run(globals: &Globals, args: PeersArgs, out: &Out) -> Result<ExitCode, Failure> {
    let bytes = |peer: PeerId| peer.to_bytes().into();
    let what = match args.command.unwrap_or(PeersCommand::List) {
        PeersCommand::List => return list(globals, out).await,
        PeersCommand::Export => return export(globals, out),
        PeersCommand::Import { file } => return import(globals, &file, out),
        PeersCommand::Add { address } => What::Add(address.to_string()),
        PeersCommand::Drop { peer } => What::Drop(bytes(peer)),
        PeersCommand::Ban { peer, duration } => {
            let seconds = duration.map_or(0, |duration| duration.as_secs());
            What::Ban(message::PeerBan { peer: bytes(peer), seconds })
        }
        PeersCommand::Unban { peer } => What::Unban(bytes(peer)),
        PeersCommand::Explain { peer } => What::Explain(bytes(peer)),
        PeersCommand::Find { id: Sought::Peer(peer), .. } => What::Find(bytes(peer)),
        PeersCommand::Find { id: Sought::Owner(owner), label } => {
            What::Find(LookupKey::of_value(&owner, label.as_bytes()).0.to_vec().into())
        }
    };
    let command = message::PeerCommand { what: Some(what) };
    let answer = ask(globals, async |node| Ok(node.client.peer_command(command).await?)).await?;
    let story: Vec<Value> = answer
        .story
        .iter()
        .map(|event| json!({ "time_unix_ms": event.time_unix_ms, "event": event.event, "detail": event.detail }))
        .collect();
    let mut text = answer.message.clone();
    let now = unix_ms_now();
    for event in &answer.story {
        let ago = duration_for_people(now.saturating_sub(event.time_unix_ms));
        text += &format!("\n  {ago:>12} ago  {}  {}", event.event, event.detail);
    }
    out.answer(&json!({ "message": answer.message, "story": story }), text)
}

/// Bans are kept in whole seconds, and 0 stands for good.
fn parse_ban(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        duration if duration < Duration::from_secs(1) => {
            Err("a ban lasts at least 1s; to end one: ghostd peers unban; for good: leave --for out".into())
        }
        duration => Ok(duration),
    }
}

/// The home's peer store, which no node uses now, and the lock that keeps one from starting.
fn open_store(globals: &Globals) -> Result<(HomeLock, Opened, Home), Failure> {
    let home = Home::open(globals.home_root())?;
    let lock = home.lock()?;
    let opened = SledStore::open(&home.data_dir().join("peers")).map_err(Failure::new)?;
    Ok((lock, opened, home))
}

fn export(globals: &Globals, out: &Out) -> Result<ExitCode, Failure> {
    let (_lock, opened, _home) = open_store(globals)?;
    if let Some(damage) = opened.damage {
        out.remark(damage);
    }
    let mut json = Export::of(&opened.saved).to_json();
    json.push('\n');
    out.bytes(json.as_bytes())
}

fn import(globals: &Globals, file: &Path, out: &Out) -> Result<ExitCode, Failure> {
    let unreadable = |error| Failure::new(format!("cannot read {}: {error}", file.display()));
    let json = match file.to_str() {
        Some("-") => io::read_to_string(io::stdin()).map_err(unreadable)?,
        _ => fs::read_to_string(file).map_err(unreadable)?,
    };
    let export = Export::read(&json)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())).hint("nothing was taken"))?;
    let (_lock, mut opened, home) = open_store(globals)?;
    let own = record::peer_of(&home.node_key()?.public())
        .ok_or_else(|| Failure::new("the node key of this home is no curve point"))?;
    let merged = merge(own, opened.saved, export, rand::random(), unix_ms_now());
    for writes in merged.writes.chunks(BATCH_MAX) {
        opened.store.apply(&Batch { writes: writes.to_vec() }).map_err(Failure::new)?;
    }
    let Merged { addresses, stories, anchors, .. } = merged;
    let text =
        format!("{addresses} addresses, {anchors} anchors and the conduct of {stories} peers are new here");
    out.answer(&json!({ "addresses": addresses, "anchors": anchors, "stories": stories }), text)
}

async fn list(globals: &Globals, out: &Out) -> Result<ExitCode, Failure> {
    let answer = ask(globals, async |node| Ok(node.client.peers().await?)).await?;
    let rows: Vec<Value> = answer
        .peers
        .iter()
        .map(|peer| {
            json!({
                "peer_id": peer_text(&peer.peer), "address": peer.address, "direction": peer.direction,
                "role": peer.role, "user_agent": peer.user_agent, "connected_ms": peer.connected_ms,
                "best_height": peer.best_height, "rtt_us": peer.rtt_us, "bytes_in": peer.bytes_in,
                "bytes_out": peer.bytes_out, "conduct": peer.conduct,
            })
        })
        .collect();
    let mut table = Table::new([
        "PEER",
        "DIRECTION",
        "ROLE",
        "HEIGHT AT HELLO",
        "RTT",
        "IN",
        "OUT",
        "SINCE",
        "CONDUCT",
        "ADDRESS",
    ]);
    for peer in &answer.peers {
        table.row([
            peer_text(&peer.peer),
            peer.direction.clone(),
            peer.role.clone(),
            peer.best_height.to_string(),
            format!("{:.1} ms", f64::from(peer.rtt_us) / 1_000.0),
            bytes_for_people(peer.bytes_in),
            bytes_for_people(peer.bytes_out),
            duration_for_people(peer.connected_ms),
            peer.conduct.to_string(),
            peer.address.clone(),
        ]);
    }
    if answer.peers.is_empty() {
        return out.answer(&json!({ "peers": rows }), "no peers; add one: ghostd peers add MULTIADDR");
    }
    out.answer(&json!({ "peers": rows }), table)
}

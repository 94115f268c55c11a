//! Finding a node and connecting to it, as a client.

use std::time::Duration;

use ghost_proto::{BlockId, KeyPair, Multiaddr, PeerId, message};
use ghost_protocol::{
    Identity,
    client::{CallError, Client, ClientConfig},
};
use serde_json::{Value, json};

use super::{
    Globals,
    output::{Failure, unix_ms_now},
};
use crate::{
    config::parse_node,
    home::{Home, fresh_key},
};

/// How long to wait when a busy node does not say how long.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Longest a node's own word on that is followed.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A connection, and whose it is.
#[derive(Debug)]
pub struct Connected {
    /// To ask with.
    pub client: Client,
    /// The address that answered.
    pub address: Multiaddr,
    /// The home it was found through, or whose operator key was shown.
    pub home: Option<Home>,
}

/// Connects to the node that the flags name, puts a question, and says goodbye whatever came of it: a
/// node holds a client that only vanished until its idle timeout.
pub async fn ask<T>(
    globals: &Globals,
    question: impl AsyncFnOnce(&Connected) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let connected = connect(globals).await?;
    let answer = tokio::select! {
        answer = question(&connected) => answer,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    connected.client.close().await;
    answer
}

/// Connects to the node that runs on a home, whatever the flags name, as its operator.
pub async fn connect_home(home: &Home, timeout: Duration) -> Result<Connected, Failure> {
    let (client, address) = dial(&home.operator_key()?, &home.addresses()?, timeout).await?;
    Ok(Connected { client, address, home: Some(home.clone()) })
}

/// Connects to the node that the flags name: `--node`, else `$GHOSTD_NODE`, else the one that runs on
/// the home. Shows the operator key of the home where there is one, else a key of the moment.
pub async fn connect(globals: &Globals) -> Result<Connected, Failure> {
    let named = named_node(globals)?;
    let (addresses, home) = match named {
        Some(address) => {
            // A home that was named must be one; the default one may be missing.
            let home = match &globals.home {
                Some(root) => Some(Home::open(root)?),
                None => Home::open(Home::default_root()).ok(),
            };
            (vec![address], home)
        }
        None => {
            let home = Home::open(globals.home_root())?;
            (home.addresses()?, Some(home))
        }
    };
    let key = match &home {
        Some(home) => home.operator_key()?,
        None => fresh_key()?,
    };
    let (client, address) = dial(&key, &addresses, globals.timeout).await?;
    Ok(Connected { client, address, home })
}

/// The node that the flags or the environment name, if they do.
fn named_node(globals: &Globals) -> Result<Option<Multiaddr>, Failure> {
    match &globals.node {
        Some(address) => Ok(Some(address.clone())),
        None => match std::env::var("GHOSTD_NODE") {
            Ok(text) if !text.is_empty() => parse_node(&text)
                .map(Some)
                .map_err(|error| Failure::usage(format!("GHOSTD_NODE is `{text}`: {error}"))),
            _ => Ok(None),
        },
    }
}

/// Where the node is that the flags name: `--node`, else `$GHOSTD_NODE`, else the one that runs on the home.
pub fn node_addresses(globals: &Globals) -> Result<Vec<Multiaddr>, Failure> {
    match named_node(globals)? {
        Some(address) => Ok(vec![address]),
        None => Ok(Home::open(globals.home_root())?.addresses()?),
    }
}

/// Connects to the first address that answers.
pub async fn dial(
    key: &KeyPair,
    addresses: &[Multiaddr],
    timeout: Duration,
) -> Result<(Client, Multiaddr), Failure> {
    let mut failures = Vec::new();
    for address in addresses {
        let config = ClientConfig { timeout, ..ClientConfig::new(Identity::from_seed(&key.seed())) };
        match Client::connect(config, address).await {
            Ok(client) => return Ok((client, address.clone())),
            Err(error) => failures.push(format!("{address}: {}", Failure::from(error).text())),
        }
    }
    Err(Failure::new(format!("no node answers at\n  {}", failures.join("\n  ")))
        .hint("see that it runs and that UDP gets through; `ghostd doctor` looks at both"))
}

/// How long to wait before a call that the node was too busy for; `None` if it failed otherwise.
pub fn busy_pause(error: &CallError) -> Option<Duration> {
    match error {
        CallError::Busy => Some(BUSY_PAUSE),
        CallError::Failed { code: message::RpcCode::RpcBusy, retry_after, .. } => {
            Some((*retry_after).clamp(BUSY_PAUSE, BUSY_PAUSE_MAX))
        }
        _ => None,
    }
}

/// A PeerId from its bytes, for people; other bytes in hex.
pub fn peer_text(bytes: &[u8]) -> String {
    PeerId::from_bytes(bytes).map_or_else(|_| hex::encode(bytes), |peer| peer.to_string())
}

/// A reference to a block as JSON, `null` if there is none.
pub fn block_ref_json(block: Option<&message::BlockRef>) -> Value {
    block.map_or(
        Value::Null,
        |block| json!({ "height": block.height, "id": hex::encode(&block.id), "slot": block.slot }),
    )
}

/// A reference to a block for people, with the whole id: it can be given back to `block get`.
pub fn block_ref_text(block: Option<&message::BlockRef>) -> String {
    block.map_or_else(|| "none".into(), |block| format!("{} {}", block.height, hex::encode(&block.id)))
}

/// The id in an answer; anything else than 32 bytes is the node's fault.
pub fn block_id(bytes: &[u8]) -> Result<BlockId, Failure> {
    BlockId::try_from(bytes).map_err(|_| {
        Failure::new(format!("the node named a block by {} bytes instead of 32", bytes.len()))
            .hint("ask another node")
    })
}

/// Milliseconds by which the node's clock is ahead of ours, as seen in a status that took
/// `round_trip_ms`: known to within half of that.
pub fn clock_ahead_ms(status: &message::Status, round_trip_ms: u64) -> i64 {
    let now = i64::try_from(unix_ms_now()).unwrap_or(i64::MAX);
    let theirs = i64::try_from(status.time_unix_ms).unwrap_or(i64::MAX);
    theirs.saturating_add_unsigned(round_trip_ms / 2).saturating_sub(now)
}

//! `ghostd contract logs`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use ghost_proto::{Address, Multiaddr, limits::LOG_TOPICS_MAX};
use ghost_protocol::{
    Identity,
    client::{FollowFrom, Log, LogFilter, LogPlace, LogQuery, Pool, PoolConfig},
};
use serde_json::{Value, json};

use super::{Abi, log_json, log_text};
use crate::cli::{
    Globals,
    connect::connect,
    output::{Failure, Out},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ghostd contract logs --home a --address 0x…aa --topic 'Transfer(address,address,uint256)' --topic - --topic 0x…bb

The first --topic is about the first topic, the second about the second; - is any. A topic is an event's
signature, its name if --abi knows it, or hex, to which zeros are added in front.")]
pub(super) struct LogsArgs {
    /// Only of this contract; may be given again
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<Address>,
    /// Only with this topic at its place; may be given four times
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true)]
    topic: Vec<String>,
    /// What the contract understands: the JSON ABI, or the compiler's artifact
    #[arg(long, value_name = "FILE")]
    abi: Option<PathBuf>,
    /// First height to look at [default: 0; with --follow the next block]
    #[arg(long, value_name = "HEIGHT")]
    from_height: Option<u64>,
    /// Go on with what comes; if the connection breaks, or the node stops, from where it was
    #[arg(long)]
    follow: bool,
    /// With --follow: go on at this node if the other one fails; may be given again
    #[arg(long, value_name = "MULTIADDR", requires = "follow")]
    also: Vec<Multiaddr>,
    /// Last height to look at [default: the head]
    #[arg(long, value_name = "HEIGHT", conflicts_with = "follow")]
    to_height: Option<u64>,
}

fn filter(args: &LogsArgs, abi: &Abi) -> Result<LogFilter, Failure> {
    let mut filter = LogFilter { addresses: args.address.clone(), ..LogFilter::default() };
    if args.topic.len() > LOG_TOPICS_MAX {
        return Err(Failure::usage(format!("a log has at most {LOG_TOPICS_MAX} topics")));
    }
    for (place, topic) in filter.topics.iter_mut().zip(&args.topic) {
        if topic != "-" {
            place.push(abi.topic(topic)?);
        }
    }
    Ok(filter)
}

fn to_json(abi: &Abi, log: &Log) -> Value {
    let mut value = log_json(abi, &log.entry);
    value["height"] = json!(log.place.height);
    value["block"] = json!(log.block.to_string());
    value["transaction"] = json!(log.transaction.to_string());
    value["transaction_index"] = json!(log.place.transaction);
    value["log_index"] = json!(log.place.index);
    value
}

fn to_text(abi: &Abi, log: &Log) -> String {
    format!("{:>8} {} {}\n", log.place.height, log.transaction.short(), log_text(abi, &log.entry))
}

pub(super) async fn run(globals: &Globals, args: &LogsArgs, out: &Out) -> Result<ExitCode, Failure> {
    let abi = Abi::load(args.abi.as_deref())?;
    let filter = filter(args, &abi)?;
    let connected = connect(globals).await?;
    if args.follow {
        let mut nodes = vec![connected.address.clone()];
        nodes.extend(args.also.iter().cloned());
        connected.client.close().await;
        return follow(globals, args, &abi, filter, nodes, out).await;
    }
    let mut query = LogQuery {
        filter,
        from: LogPlace { height: args.from_height.unwrap_or_default(), ..LogPlace::default() },
        to_height: args.to_height,
        limit: 0,
    };
    loop {
        let page = connected.client.logs(&query).await?;
        for log in &page.logs {
            if out.is_json() {
                out.answer(&to_json(&abi, log), "")?;
            } else {
                out.bytes(to_text(&abi, log).as_bytes())?;
            }
        }
        match page.next {
            Some(next) => query.from = next,
            None => break,
        }
    }
    connected.client.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Until the reader has enough. An undone log is a line of its own.
async fn follow(
    globals: &Globals,
    args: &LogsArgs,
    abi: &Abi,
    filter: LogFilter,
    nodes: Vec<Multiaddr>,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let config = PoolConfig { timeout: globals.timeout, ..PoolConfig::new(Identity::generate()) };
    let from = args.from_height.map_or(FollowFrom::Now, FollowFrom::Height);
    let mut subscription = Pool::new(config, nodes).subscribe_logs(filter, from);
    loop {
        let batch = subscription.next().await?;
        if batch.reverted {
            out.remark(format!("reorganised: forget what stands above height {}", batch.at.seq));
            if out.is_json() {
                out.answer(&json!({ "reverted_above": batch.at.seq }), "")?;
            }
        }
        for log in &batch.logs {
            if out.is_json() {
                out.answer(&to_json(abi, log), "")?;
            } else {
                out.bytes(to_text(abi, log).as_bytes())?;
            }
        }
    }
}

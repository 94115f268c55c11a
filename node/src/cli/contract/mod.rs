//! `ghostd contract`.

mod abi;
mod logs;
mod transact;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use ghost_proto::{Address, Call, EngineId, Multiaddr, Outcome};
use ghost_protocol::{
    Identity,
    client::{Pool, PoolConfig},
};
use serde_json::{Value, json};

use self::abi::{Abi, Method};
use super::{
    Globals,
    connect::connect,
    output::{Failure, Out},
    parse_duration,
};

const EXAMPLES: &str = "\
Examples:
  ghostd contract deploy --home a --engine evm Token.json 1000000 --abi Token.json
  ghostd contract call --home a --to 0x…aa --sig 'balanceOf(address)(uint256)' 0x…bb
  ghostd contract call --home a --to 0x…aa --data 18160ddd
  ghostd contract send --home a --to 0x…aa --abi Token.json --sig transfer 0x…bb 5
  ghostd contract logs --home a --address 0x…aa --topic 'Transfer(address,address,uint256)'

--sig takes a signature, `name(types)(returned types)`, or the name of a method of --abi; arguments follow.";

/// `ghostd contract`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ContractArgs {
    #[command(subcommand)]
    command: ContractCommand,
}

#[derive(Debug, Subcommand)]
enum ContractCommand {
    /// Make a contract and wait until it stands in a block
    Deploy(transact::DeployArgs),
    /// Ask a contract something; nothing changes
    Call(CallArgs),
    /// Call a contract in a transaction, and wait until it stands in a block
    Send(transact::SendArgs),
    /// What contracts logged
    Logs(logs::LogsArgs),
}

/// What runs a contract.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    /// Ethereum bytecode
    Evm,
    /// A WebAssembly module
    Wasm,
    /// A ZVMC container
    Zvm,
}

impl Engine {
    fn id(self) -> EngineId {
        match self {
            Self::Evm => EngineId::EVM,
            Self::Wasm => EngineId::WASM,
            Self::Zvm => EngineId::ZVM,
        }
    }
}

/// What is said to a contract.
#[derive(Debug, Args)]
struct Input {
    /// The input as it is, in hex
    #[arg(long, value_name = "HEX", value_parser = hex_bytes, conflicts_with_all = ["sig", "args"])]
    data: Option<Bytes>,
    /// The method: name(types)(returned types), or a name that --abi knows
    #[arg(long, value_name = "SIGNATURE")]
    sig: Option<String>,
    /// What the contract understands: the JSON ABI, or the compiler's artifact
    #[arg(long, value_name = "FILE")]
    abi: Option<PathBuf>,
    /// Arguments of the method
    #[arg(value_name = "ARG", requires = "sig", allow_negative_numbers = true)]
    args: Vec<String>,
}

impl Input {
    fn encode(&self, abi: &Abi) -> Result<(Bytes, Option<Method>), Failure> {
        match (&self.data, &self.sig) {
            (Some(data), _) => Ok((data.clone(), None)),
            (None, Some(sig)) => {
                let method = abi.method(sig)?;
                Ok((method.encode(&self.args)?.into(), Some(method)))
            }
            (None, None) => Ok((Bytes::new(), None)),
        }
    }
}

fn hex_bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map(Bytes::from).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
struct CallArgs {
    /// The contract
    #[arg(long, value_name = "ADDRESS")]
    to: Address,
    #[command(flatten)]
    input: Input,
    /// Who calls; nobody has to prove it [default: the zero address]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Address>,
    /// Base units that go with it
    #[arg(long, value_name = "N", default_value_t = 0)]
    value: u128,
    /// Most gas [default: as much as the node gives to one call]
    #[arg(long, value_name = "N", default_value_t = 0)]
    gas: u64,
    /// On the state after the block of this height [default: the head]
    #[arg(long, value_name = "HEIGHT")]
    height: Option<u64>,
    /// Ask this node too, and believe only what more than half of them sign; may be given again
    #[arg(long, value_name = "MULTIADDR")]
    compare: Vec<Multiaddr>,
    /// Keep the signed answers of nodes that lied in this directory
    #[arg(long, value_name = "DIR", requires = "compare")]
    lies: Option<PathBuf>,
}

pub(super) async fn run(globals: &Globals, args: ContractArgs, out: &Out) -> Result<ExitCode, Failure> {
    match args.command {
        ContractCommand::Deploy(args) => transact::deploy(globals, &args, out).await,
        ContractCommand::Call(args) => call(globals, &args, out).await,
        ContractCommand::Send(args) => transact::send(globals, &args, out).await,
        ContractCommand::Logs(args) => logs::run(globals, &args, out).await,
    }
}

async fn call(globals: &Globals, args: &CallArgs, out: &Out) -> Result<ExitCode, Failure> {
    let abi = Abi::load(args.input.abi.as_deref())?;
    let (input, method) = args.input.encode(&abi)?;
    let call = Call {
        from: args.from.unwrap_or_default(),
        to: Some(args.to),
        value: args.value,
        input,
        gas_limit: args.gas,
        height: args.height,
        signed: false,
    };
    let connected = connect(globals).await?;
    let mut lies = Vec::new();
    let answer = if args.compare.is_empty() {
        connected.client.call(&call).await?
    } else {
        let mut nodes = vec![connected.address.clone()];
        nodes.extend(args.compare.iter().cloned());
        let count = nodes.len();
        let config = PoolConfig { timeout: globals.timeout, ..PoolConfig::new(Identity::generate()) };
        let pool = Pool::new(config, nodes);
        let compared = pool.call_compared(&call, count).await?;
        for lie in compared.lies() {
            out.remark(format!("{} signed another answer: it lied", lie.peer));
            if let Some(dir) = &args.lies {
                std::fs::create_dir_all(dir)?;
                std::fs::write(dir.join(lie.peer.to_string()), lie.encode())?;
            }
            lies.push(lie.peer.to_string());
        }
        pool.close().await;
        compared.answer
    };
    connected.client.close().await;
    if answer.outcome != Outcome::Done {
        return Err(Failure::new(abi.revert(answer.outcome, &answer.output)));
    }
    let decoded = method.and_then(|method| method.decode(&answer.output));
    let output = hex::encode(&answer.output);
    let mut value = json!({
        "outcome": answer.outcome.name(),
        "gas_used": answer.gas_used,
        "output": output,
        "decoded": decoded.as_ref().map(|(value, _)| value),
        "at": { "height": answer.height, "id": answer.block.to_string(), "state": hex::encode(answer.state) },
    });
    if !args.compare.is_empty() {
        value["lies"] = json!(lies);
    }
    out.answer(&value, decoded.map_or(output, |(_, text)| text))
}

/// How long to wait for a block.
#[derive(Debug, Args)]
struct Waiting {
    /// Do not wait: print the id of the transaction
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    wait_timeout: Duration,
}

/// A log for programs, with what its event says if that is known.
fn log_json(abi: &Abi, entry: &ghost_proto::LogEntry) -> Value {
    let event = abi.event(entry);
    json!({
        "address": entry.address.to_string(),
        "topics": entry.topics.iter().map(hex::encode).collect::<Vec<_>>(),
        "data": hex::encode(&entry.data),
        "event": event.as_ref().map(|(name, _)| name),
        "values": event.as_ref().map(|(_, values)| values),
    })
}

/// A log for people.
fn log_text(abi: &Abi, entry: &ghost_proto::LogEntry) -> String {
    match abi.event(entry) {
        Some((name, Value::Object(values))) => {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let values: Vec<_> =
                values.iter().map(|(name, value)| format!("{name} {}", text(value))).collect();
            format!("{} {name}({})", entry.address, values.join(", "))
        }
        _ => {
            let topics: Vec<_> = entry.topics.iter().map(hex::encode).collect();
            format!("{} [{}] {}", entry.address, topics.join(" "), hex::encode(&entry.data))
        }
    }
}

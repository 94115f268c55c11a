//! `ghostd contract deploy` and `send`: transactions with code.

use std::{path::Path, path::PathBuf, process::ExitCode};

use bytes::Bytes;
use clap::Args;
use ghost_proto::{
    Action, Address, Call, KeyPair, Outcome, Receipt, Transaction, TxId, limits::TX_BYTES_MAX,
};
use ghost_protocol::client::Client;
use serde_json::{Value, json};

use super::{Abi, Engine, Input, Waiting, hex_bytes, log_json, log_text};
use crate::cli::{
    Globals,
    account::signing_key,
    connect::{block_ref_json, block_ref_text, connect},
    output::{Failure, Out},
    tx::send::wait_included,
};
use crate::engine::{
    intrinsic_gas, intrinsic_gas_of_call, wasm,
    zvm::{Container, Target},
};

/// Who pays, and how much.
#[derive(Debug, Args)]
struct Payment {
    /// Base units that go with it
    #[arg(long, value_name = "N", default_value_t = 0)]
    value: u128,
    /// Most gas [default: what a trial run takes, and a tenth more]
    #[arg(long, value_name = "N")]
    gas: Option<u64>,
    /// Base units for each unit of gas [default: the least the node takes now]
    #[arg(long, value_name = "N")]
    gas_price: Option<u64>,
    /// Key of the sender [default: accounts/dev.key of the home]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ghostd contract deploy --home a --engine evm Token.json 1000000 --abi Token.json
  ghostd contract deploy --home a --engine wasm counter.wasm

FILE has the code in hex, as it is, or (for the EVM) is a compiler's artifact with `bytecode`.")]
pub(super) struct DeployArgs {
    /// What runs it
    #[arg(long)]
    engine: Engine,
    /// The code
    file: PathBuf,
    /// Arguments of the constructor, by --abi
    #[arg(value_name = "ARG", requires = "abi", allow_negative_numbers = true)]
    args: Vec<String>,
    /// What the contract understands: the JSON ABI, or the compiler's artifact
    #[arg(long, value_name = "FILE")]
    abi: Option<PathBuf>,
    /// Input of the constructor as it is, in hex
    #[arg(long, value_name = "HEX", value_parser = hex_bytes, conflicts_with = "args")]
    data: Option<Bytes>,
    #[command(flatten)]
    payment: Payment,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The contract
    #[arg(long, value_name = "ADDRESS")]
    to: Address,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    payment: Payment,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) async fn deploy(globals: &Globals, args: &DeployArgs, out: &Out) -> Result<ExitCode, Failure> {
    let abi = Abi::load(args.abi.as_deref())?;
    let code = read_code(&args.file)?;
    let input: Bytes = match &args.data {
        Some(data) => data.clone(),
        None if args.abi.is_some() => abi.constructor(&args.args)?.into(),
        None => Bytes::new(),
    };
    // Said here, before anything is paid for.
    let init = trial_code(args.engine, &code).map_err(|why| {
        Failure::new(format!("{} is not taken: {why}", args.file.display())).hint(match args.engine {
            Engine::Evm => "the engine takes init code, as compilers write it",
            Engine::Wasm => {
                "the engine takes modules that import from `ghost` only and export `memory` and `call`"
            }
            Engine::Zvm => "the engine takes ZVMC containers of native or Ethereum code, or of a module",
        })
    })?;
    let trial =
        Call { input: [init.as_ref(), &input].concat().into(), value: args.payment.value, ..Call::default() };
    let action = Action::Deploy { engine: args.engine.id(), value: args.payment.value, code, input };
    transact(globals, &args.payment, &args.waiting, &abi, action, trial, out).await
}

/// What a trial run is given to deploy: init code, or a container with a module.
fn trial_code(engine: Engine, code: &Bytes) -> Result<Bytes, String> {
    let container = match engine {
        Engine::Evm => return Ok(code.clone()),
        Engine::Wasm => Container { target: Target::Wasm, code: code.clone(), abi: Bytes::new() },
        Engine::Zvm => Container::parse(code).map_err(|error| error.to_string())?,
    };
    match container.target {
        Target::Wasm => {
            wasm::check(&container.code).map_err(|error| error.to_string())?;
            Ok(container.encode().into())
        }
        Target::Native | Target::Evm => container.init_code().map_err(|error| error.to_string()),
    }
}

pub(super) async fn send(globals: &Globals, args: &SendArgs, out: &Out) -> Result<ExitCode, Failure> {
    let abi = Abi::load(args.input.abi.as_deref())?;
    let (input, _) = args.input.encode(&abi)?;
    let value = args.payment.value;
    let trial = Call { to: Some(args.to), value, input: input.clone(), ..Call::default() };
    let action = Action::Call { to: args.to, value, input };
    transact(globals, &args.payment, &args.waiting, &abi, action, trial, out).await
}

/// Code as hex, with or without 0x; an artifact; else the bytes as they are.
fn read_code(path: &Path) -> Result<Bytes, Failure> {
    let cannot = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(cannot)?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(bytes.into()) };
    if let Ok(artifact) = serde_json::from_str::<Value>(text)
        && artifact.is_object()
    {
        // solc writes an object, older tools the text itself.
        let code = ["/bytecode/object", "/bytecode", "/evm/bytecode/object", "/bin"]
            .iter()
            .find_map(|place| artifact.pointer(place)?.as_str());
        let code = code.ok_or_else(|| {
            Failure::new(format!("{} is JSON without `bytecode`", path.display()))
                .hint("name the artifact that the compiler wrote, or a file with the code in hex")
        })?;
        return hex_bytes(code.trim()).map_err(|error| {
            Failure::new(format!("the bytecode of {} is no hex: {error}", path.display()))
                .hint("libraries must be linked before it is deployed")
        });
    }
    Ok(hex_bytes(text.trim()).unwrap_or_else(|_| bytes.into()))
}

async fn transact(
    globals: &Globals,
    payment: &Payment,
    waiting: &Waiting,
    abi: &Abi,
    action: Action,
    trial: Call,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let connected = connect(globals).await?;
    let key = signing_key(payment.key.as_ref(), connected.home.as_ref())?;
    let status = connected.client.status().await?;
    let nonce = connected.client.account(key.address()).await?.next_nonce;
    let least = status.mempool.unwrap_or_default().gas_price_min;
    let mut body = Transaction {
        chain_id: status.chain_id,
        sender_key: key.public(),
        nonce,
        gas_limit: 0,
        gas_price: payment.gas_price.unwrap_or(least),
        action,
    };
    body.gas_limit = match payment.gas {
        Some(gas) => gas,
        None => {
            let call = Call { from: key.address(), ..trial };
            // Of a container the trial sees the code alone.
            let unseen = intrinsic_gas(&body).saturating_sub(intrinsic_gas_of_call(&call));
            try_out(&connected.client, abi, call).await? + unseen
        }
    };
    let id = submit(&connected.client, body, &key).await?;
    if waiting.no_wait {
        connected.client.close().await;
        return out.answer(&json!({ "id": id.to_string(), "nonce": nonce, "accepted": true }), id);
    }
    let shown = wait_included(&connected.client, id, waiting.wait_timeout).await?;
    connected.client.close().await;
    let answer = &shown.answer;
    let Some(receipt) = &shown.receipt else {
        return Err(Failure::new(format!("the node sent no receipt for {id}")).hint("ask another node"));
    };
    if receipt.outcome != Outcome::Done {
        return Err(Failure::new(format!(
            "transaction {id} stands in a block and did nothing: {}",
            abi.revert(receipt.outcome, &receipt.output)
        )));
    }
    let value = json!({
        "id": id.to_string(),
        "block": block_ref_json(answer.block.as_ref()),
        "outcome": receipt.outcome.name(),
        "gas_used": receipt.gas_used,
        "contract": receipt.created.map(|address| address.to_string()),
        "output": hex::encode(&receipt.output),
        "logs": receipt.logs.iter().map(|log| log_json(abi, log)).collect::<Vec<_>>(),
    });
    out.answer(&value, for_people(abi, id, receipt, &block_ref_text(answer.block.as_ref())))
}

fn for_people(abi: &Abi, id: TxId, receipt: &Receipt, block: &str) -> String {
    let mut text = format!("id          {id}\nblock       {block}\ngas used    {}\n", receipt.gas_used);
    if let Some(address) = &receipt.created {
        text += &format!("contract    {address}\n");
    }
    if !receipt.output.is_empty() {
        text += &format!("output      {}\n", hex::encode(&receipt.output));
    }
    for log in &receipt.logs {
        text += &format!("log         {}\n", log_text(abi, log));
    }
    text
}

/// The gas that a trial run takes, and a tenth more: the state may be another one in its block.
async fn try_out(client: &Client, abi: &Abi, call: Call) -> Result<u64, Failure> {
    let estimate = client.estimate_gas(&call).await?;
    if estimate.outcome != Outcome::Done {
        return Err(Failure::new(format!(
            "a trial run failed: {}",
            abi.revert(estimate.outcome, &estimate.output)
        ))
        .hint("nothing was sent; with --gas N it is sent without a trial"));
    }
    Ok(estimate.gas_limit + estimate.gas_limit / 10)
}

async fn submit(client: &Client, body: Transaction, key: &KeyPair) -> Result<TxId, Failure> {
    let tx = body.sign(key).map_err(|_| {
        Failure::new(format!("the transaction would be longer than {TX_BYTES_MAX} bytes"))
            .hint("code and input must fit")
    })?;
    let results = client.submit(vec![tx.bytes().clone()]).await?;
    let result =
        results.first().ok_or_else(|| Failure::new("the node answered nothing").hint("ask another node"))?;
    if !result.accepted {
        return Err(Failure::new(format!("refused ({}): {}", result.reason, result.message)));
    }
    Ok(tx.id())
}

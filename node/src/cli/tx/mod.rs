//! `ghostd tx`.

mod bulk;
pub mod send;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use ghost_proto::{Action, Receipt, SignedTransaction, TxId, limits::RPC_ROWS_MAX, message};
use serde_json::{Value, json};

use super::{
    Globals,
    connect::{block_ref_json, block_ref_text, connect},
    output::{Failure, Out, Table, bytes_for_people, duration_for_people},
};

const EXAMPLES: &str = "\
Examples:
  ghostd tx send --home a --to 0x00000000000000000000000000000000000000aa --value 5 --wait
  ghostd tx send --home a --to 0x…aa --payload-file photo.jpg --key alice.key
  ghostd tx send --home a --payloads payloads.hex --json > ids      one payload in hex a line
  ghostd tx get --home b 6f1c… --payload-out photo.jpg
  ghostd tx pending --home a";

/// `ghostd tx`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TxArgs {
    #[command(subcommand)]
    command: TxCommand,
}

#[derive(Debug, Subcommand)]
enum TxCommand {
    /// Sign a transfer and submit it, or many of them
    Send(send::SendArgs),
    /// What became of a transaction
    Get(GetArgs),
    /// Transactions that wait for a block, best price first
    Pending {
        /// How many to list
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=RPC_ROWS_MAX as i64))]
        limit: u32,
    },
}

#[derive(Debug, Args)]
struct GetArgs {
    /// 64 hex digits
    id: TxId,
    /// Write the payload's bytes to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    payload_out: Option<PathBuf>,
}

pub(super) async fn run(globals: &Globals, args: TxArgs, out: &Out) -> Result<ExitCode, Failure> {
    match args.command {
        TxCommand::Send(args) if args.is_bulk() => bulk::run(globals, &args, out).await,
        TxCommand::Send(args) => send::run(globals, &args, out).await,
        TxCommand::Get(args) => get(globals, &args, out).await,
        TxCommand::Pending { limit } => pending(globals, limit, out).await,
    }
}

/// A transaction as a node showed it, checked: what it sent is what was asked for.
struct Shown {
    tx: SignedTransaction,
    answer: message::TransactionAnswer,
    receipt: Option<Receipt>,
}

impl Shown {
    fn check(id: TxId, answer: message::TransactionAnswer) -> Result<Self, Failure> {
        let bad =
            |what: &str| Failure::new(format!("the node's answer for {id} {what}")).hint("ask another node");
        let tx = SignedTransaction::parse(answer.transaction.clone())
            .map_err(|error| bad(&format!("is no transaction: {error}")))?;
        if tx.id() != id {
            return Err(bad(&format!("is transaction {}", tx.id())));
        }
        let receipt = match answer.included {
            true => Some(
                Receipt::parse(answer.receipt.clone())
                    .map_err(|error| bad(&format!("has no receipt: {error}")))?,
            ),
            false => None,
        };
        Ok(Self { tx, answer, receipt })
    }

    fn state(&self) -> &'static str {
        match (self.answer.included, self.answer.finalized) {
            (false, _) => "pending",
            (true, false) => "included",
            (true, true) => "finalized",
        }
    }

    fn to_json(&self) -> Value {
        let body = self.tx.body();
        let included = self.answer.included;
        let mut shown = json!({
            "id": self.tx.id().to_string(),
            "status": self.state(),
            "block": block_ref_json(self.answer.block.as_ref().filter(|_| included)),
            "index": included.then_some(self.answer.index),
            "receipt": self.receipt.as_ref().map(receipt_json),
            "sender": self.tx.sender().to_string(),
            "nonce": body.nonce,
            "gas_limit": body.gas_limit,
            "gas_price": body.gas_price,
            "value": body.action.value().to_string(),
        });
        match &body.action {
            Action::Transfer { to, payload, .. } => {
                shown["to"] = json!(to.to_string());
                shown["payload_bytes"] = json!(payload.len());
                shown["payload"] = json!(hex::encode(payload));
            }
            Action::Call { to, input, .. } => {
                shown["to"] = json!(to.to_string());
                shown["input"] = json!(hex::encode(input));
            }
            Action::Deploy { engine, code, input, .. } => {
                shown["engine"] = json!(engine.to_string());
                shown["code"] = json!(hex::encode(code));
                shown["input"] = json!(hex::encode(input));
            }
        }
        shown
    }

    fn to_text(&self) -> String {
        let body = self.tx.body();
        let value = body.action.value();
        let (what, name, carried) = match &body.action {
            Action::Transfer { to, payload, .. } => (to.to_string(), "payload", payload.len()),
            Action::Call { to, input, .. } => (format!("{to} (call)"), "input", input.len()),
            Action::Deploy { engine, code, input, .. } => {
                (format!("a new contract ({engine})"), "code", code.len() + input.len())
            }
        };
        let place = match &self.receipt {
            Some(receipt) => format!(
                "block       {} (transaction {})\noutcome     {}, {} gas used\n{}",
                block_ref_text(self.answer.block.as_ref()),
                self.answer.index,
                receipt.outcome.name(),
                receipt.gas_used,
                receipt.created.map(|address| format!("contract    {address}\n")).unwrap_or_default()
            ),
            None => String::new(),
        };
        format!(
            "id          {}\nstatus      {}\n{place}sender      {} (nonce {})\nto          {what}\nvalue       {value}\n\
             gas         at most {} at {}\n{name:<12}{}",
            self.tx.id(),
            self.state(),
            self.tx.sender(),
            body.nonce,
            body.gas_limit,
            body.gas_price,
            bytes_for_people(carried as u64),
        )
    }
}

fn receipt_json(receipt: &Receipt) -> Value {
    let logs: Vec<Value> = receipt
        .logs
        .iter()
        .map(|log| {
            json!({
                "address": log.address.to_string(),
                "topics": log.topics.iter().map(hex::encode).collect::<Vec<_>>(),
                "data": hex::encode(&log.data),
            })
        })
        .collect();
    json!({
        "outcome": receipt.outcome.name(),
        "gas_used": receipt.gas_used,
        "created": receipt.created.map(|address| address.to_string()),
        "output": hex::encode(&receipt.output),
        "logs": logs,
    })
}

async fn get(globals: &Globals, args: &GetArgs, out: &Out) -> Result<ExitCode, Failure> {
    let connected = connect(globals).await?;
    let answer = connected.client.transaction(args.id).await?;
    connected.client.close().await;
    let Some(answer) = answer else {
        return Err(Failure::new(format!("this node knows no transaction {}", args.id)).hint(
            "it may be on its way, or have been dropped: ask again, ask another node, or send it again",
        ));
    };
    let shown = Shown::check(args.id, answer)?;
    if let Some(path) = &args.payload_out {
        let payload = shown.tx.body().payload();
        if path.as_os_str() == "-" {
            return out.bytes(payload);
        }
        std::fs::write(path, payload)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
        out.remark(format!("wrote {} bytes of payload to {}", payload.len(), path.display()));
    }
    out.answer(&shown.to_json(), shown.to_text())
}

async fn pending(globals: &Globals, limit: u32, out: &Out) -> Result<ExitCode, Failure> {
    let connected = connect(globals).await?;
    let answer = connected.client.pending(limit).await?;
    connected.client.close().await;
    let mut table = Table::new(["ID", "SENDER", "NONCE", "GAS PRICE", "SIZE", "AGE"]);
    let mut rows = Vec::new();
    for tx in &answer.transactions {
        let sender = format!("0x{}", hex::encode(&tx.sender));
        rows.push(json!({
            "id": hex::encode(&tx.id), "sender": sender, "nonce": tx.nonce, "gas_price": tx.gas_price,
            "bytes": tx.bytes, "age_ms": tx.age_ms,
        }));
        table.row([
            hex::encode(&tx.id),
            sender,
            tx.nonce.to_string(),
            tx.gas_price.to_string(),
            bytes_for_people(tx.bytes.into()),
            duration_for_people(tx.age_ms),
        ]);
    }
    let heading = format!("{} transactions wait, {}", answer.count, bytes_for_people(answer.bytes));
    let text = if rows.is_empty() { heading } else { format!("{heading}; {} shown\n{table}", rows.len()) };
    out.answer(&json!({ "count": answer.count, "bytes": answer.bytes, "transactions": rows }), text)
}

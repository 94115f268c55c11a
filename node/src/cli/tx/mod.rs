//! `ghostd tx`.

mod bulk;
pub mod send;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use ghost_proto::{Action, Receipt, SignedTransaction, TxId, limits::RPC_ROWS_MAX, message};
use serde_json::{Value, json};

use super::{
    Globals,
    connect::{ask, block_ref_json, block_ref_text},
    output::{Failure, Out, Table, bytes_for_people, count_for_people, duration_for_people},
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
    /// Transactions that wait: those a block can take now, best price first, then those parked for a nonce
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
pub(super) struct Shown {
    tx: SignedTransaction,
    pub(super) answer: message::TransactionAnswer,
    pub(super) receipt: Option<Receipt>,
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
            Action::Place { market, side, kind, ticks, lots } => {
                shown["order"] = json!({
                    "market": market, "side": side.name(), "kind": kind.name(), "ticks": ticks, "lots": lots,
                });
            }
            Action::Cancel { market, order, leave } => {
                shown["cancel"] = json!({ "market": market, "order": order, "leave_lots": leave });
            }
            Action::Replace { market, order, ticks, lots } => {
                shown["replace"] = json!({ "market": market, "order": order, "ticks": ticks, "lots": lots });
            }
            Action::Prices { batch } => shown["prices"] = json!(hex::encode(batch)),
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
            Action::Place { market, side, kind, ticks, lots } => (
                format!("market {market}: {} {} {lots} lots at {ticks}", kind.name(), side.name()),
                "payload",
                0,
            ),
            Action::Cancel { market, order, leave } => {
                (format!("market {market}: leave {leave} lots of order {order}"), "payload", 0)
            }
            Action::Replace { market, order, ticks, lots } => {
                (format!("market {market}: {lots} lots at {ticks} in place of order {order}"), "payload", 0)
            }
            Action::Prices { batch } => ("the chain (prices)".into(), "batch", batch.len()),
        };
        let place = match &self.receipt {
            Some(receipt) => format!(
                "block       {} (transaction {})\noutcome     {}, {} gas used\n{}",
                block_ref_text(self.answer.block.as_ref()),
                self.answer.index,
                receipt.outcome.name(),
                receipt.gas_used,
                receipt_lines(receipt)
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

/// What a contract left behind.
fn receipt_lines(receipt: &Receipt) -> String {
    let mut text = String::new();
    if let Some(address) = &receipt.created {
        text += &format!("contract    {address}\n");
    }
    if !receipt.output.is_empty() {
        text += &format!("output      {}\n", hex::encode(&receipt.output));
    }
    for log in &receipt.logs {
        let topics: Vec<_> = log.topics.iter().map(hex::encode).collect();
        text += &format!("log         {} [{}] {}\n", log.address, topics.join(" "), hex::encode(&log.data));
    }
    text
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
    let answer = ask(globals, async |node| Ok(node.client.transaction(args.id).await?)).await?;
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
    let answer = ask(globals, async |node| Ok(node.client.pending(limit).await?)).await?;
    out.answer(&pending_json(&answer), pending_text(&answer))
}

fn pending_json(answer: &message::PendingAnswer) -> Value {
    let rows: Vec<Value> = answer
        .transactions
        .iter()
        .map(|tx| {
            json!({
                "id": hex::encode(&tx.id), "sender": sender_text(tx), "nonce": tx.nonce,
                "gas_price": tx.gas_price, "bytes": tx.bytes, "age_ms": tx.age_ms,
                "state": if tx.waits_for_nonce.is_some() { "parked" } else { "ready" },
                "waits_for_nonce": tx.waits_for_nonce,
            })
        })
        .collect();
    json!({ "count": answer.count, "bytes": answer.bytes, "transactions": rows })
}

fn pending_text(answer: &message::PendingAnswer) -> String {
    let verb = if answer.count == 1 { "waits" } else { "wait" };
    // What a transaction counts for in the mempool is more than its own bytes, which its row shows.
    let heading = match answer.count {
        0 => "no transaction waits".to_owned(),
        count => format!(
            "{} {verb} and {} {} of the mempool",
            count_for_people(count, "transaction"),
            if count == 1 { "takes" } else { "take" },
            bytes_for_people(answer.bytes)
        ),
    };
    if answer.transactions.is_empty() {
        return heading;
    }
    let mut table = Table::new(["ID", "SENDER", "NONCE", "GAS PRICE", "SIZE", "AGE", "STATE"]);
    for tx in &answer.transactions {
        table.row([
            hex::encode(&tx.id),
            sender_text(tx),
            tx.nonce.to_string(),
            tx.gas_price.to_string(),
            bytes_for_people(tx.bytes.into()),
            duration_for_people(tx.age_ms),
            tx.waits_for_nonce
                .map_or_else(|| "ready".into(), |nonce| format!("parked: waits for nonce {nonce}")),
        ]);
    }
    format!("{heading}; {} shown\n{table}", answer.transactions.len())
}

fn sender_text(tx: &message::PendingTransaction) -> String {
    format!("0x{}", hex::encode(&tx.sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(waits_for_nonce: Option<u64>) -> message::PendingAnswer {
        let tx = message::PendingTransaction { nonce: 5, bytes: 167, waits_for_nonce, ..Default::default() };
        message::PendingAnswer { count: 1, bytes: 1_191, transactions: vec![tx] }
    }

    #[test]
    fn a_parked_transaction_is_shown_with_the_nonce_it_waits_for() {
        let text = pending_text(&answer(Some(1)));
        assert!(text.starts_with("1 transaction waits and takes 1.2 KiB of the mempool; 1 shown"), "{text}");
        assert!(text.contains("167 B") && text.contains("parked: waits for nonce 1"), "{text}");
        let row = &pending_json(&answer(Some(1)))["transactions"][0];
        assert_eq!((&row["state"], &row["waits_for_nonce"]), (&json!("parked"), &json!(1)));
        let row = &pending_json(&answer(None))["transactions"][0];
        assert_eq!((&row["state"], &row["waits_for_nonce"]), (&json!("ready"), &Value::Null));
        assert!(pending_text(&answer(None)).contains("ready"));
        assert_eq!(pending_text(&message::PendingAnswer::default()), "no transaction waits");
    }
}

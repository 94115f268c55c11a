//! `ghostd block`.

use std::{process::ExitCode, str::FromStr};

use clap::{Args, Subcommand};
use ghost_proto::{Block, BlockId, Header, message};
use ghost_protocol::client::{BlockSelector, Client};
use message::BlockDetail;
use serde_json::{Value, json};

use super::{
    Globals,
    connect::{ask, block_ref_json},
    output::{Failure, Out},
};

const EXAMPLES: &str = "\
Examples:
  ghostd block get head
  ghostd block get 17 --transactions
  ghostd block get 3b0a…                the id of a block, canonical or not
  ghostd block follow --json            one line for every block from now on";

/// `ghostd block`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BlockArgs {
    #[command(subcommand)]
    command: BlockCommand,
}

#[derive(Debug, Subcommand)]
enum BlockCommand {
    /// One block
    Get {
        /// A height, an id of 64 hex digits, or `head`
        #[arg(value_name = "HEIGHT|ID|head")]
        which: Which,
        /// List its transactions, after checking that they are those the header commits to
        #[arg(long)]
        transactions: bool,
    },
    /// Every block that becomes part of the canonical chain from now on
    Follow {
        /// Stop after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Height(u64),
    Id(BlockId),
    Head,
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "head" {
            return Ok(Self::Head);
        }
        // 64 digits are an id, whatever number they would be.
        if text.trim_start_matches("0x").len() == 64 {
            return text
                .parse()
                .map(Self::Id)
                .map_err(|error: ghost_proto::ids::ParseIdError| error.to_string());
        }
        text.parse().map(Self::Height).map_err(|_| "neither a height, nor 64 hex digits, nor `head`".into())
    }
}

pub(super) async fn run(globals: &Globals, args: BlockArgs, out: &Out) -> Result<ExitCode, Failure> {
    ask(globals, async |node| match args.command {
        BlockCommand::Get { which, transactions } => get(&node.client, which, transactions, out).await,
        BlockCommand::Follow { count } => follow(&node.client, count, out).await,
    })
    .await
}

fn parse_header(answer: &message::BlockAnswer) -> Result<Header, Failure> {
    Header::parse(answer.header.clone()).map_err(|error| {
        Failure::new(format!("the node's block has a bad header: {error}")).hint("ask another node")
    })
}

async fn get(client: &Client, which: Which, transactions: bool, out: &Out) -> Result<ExitCode, Failure> {
    let (selector, name) = match which {
        Which::Height(height) => (BlockSelector::Height(height), format!("block at height {height}")),
        Which::Id(id) => (BlockSelector::Id(id), format!("block {id}")),
        Which::Head => (BlockSelector::Head, "head".into()),
    };
    let detail = if transactions { BlockDetail::Full } else { BlockDetail::Header };
    let Some(answer) = client.block(selector, detail).await? else {
        if let Some(genesis) = genesis(client, which).await? {
            return out.answer(&genesis_json(&genesis, transactions), genesis_text(&genesis));
        }
        return Err(Failure::new(format!("this node has no {name}")).hint("see how far it is: ghostd status"));
    };
    let header = parse_header(&answer)?;
    match which {
        Which::Id(id) if header.id() != id => {
            return Err(Failure::new(format!("the node sent block {} instead of {id}", header.id()))
                .hint("ask another node"));
        }
        Which::Height(height) if header.height != height => {
            return Err(Failure::new(format!("the node sent height {} instead of {height}", header.height))
                .hint("ask another node"));
        }
        _ => {}
    }
    let mut value = header_json(&header, &answer);
    let mut text = header_text(&header, &answer);
    if transactions {
        let block = Block::from_parts(header, answer.body.clone()).map_err(|error| {
            Failure::new(format!("the node sent a false body: {error}")).hint("ask another node")
        })?;
        let rows: Vec<Value> = block
            .transactions()
            .iter()
            .map(|tx| json!({ "id": tx.id().to_string(), "sender": tx.sender().to_string(), "nonce": tx.body().nonce, "bytes": tx.bytes().len() }))
            .collect();
        value["transactions"] = rows.into();
        for tx in block.transactions() {
            text += &format!(
                "\n  {}  {} bytes from {} (nonce {})",
                tx.id(),
                tx.bytes().len(),
                tx.sender(),
                tx.body().nonce
            );
        }
    }
    out.answer(&value, text)
}

/// What the node says of itself, if the block that was asked for is the genesis: height 0, with the
/// genesis id as its own, and with neither header nor body.
async fn genesis(client: &Client, which: Which) -> Result<Option<message::Status>, Failure> {
    let status = client.status().await?;
    let named = match which {
        Which::Height(height) => height == 0,
        Which::Id(id) => id.0[..] == *status.genesis,
        Which::Head => status.head.as_ref().is_some_and(|head| head.height == 0),
    };
    Ok(named.then_some(status))
}

fn genesis_json(status: &message::Status, transactions: bool) -> Value {
    let mut value = json!({
        "height": 0,
        "id": hex::encode(&status.genesis),
        "genesis": true,
        "chain_name": status.chain_name,
        "chain_id": status.chain_id,
        "tx_count": 0,
        "canonical": true,
        "finalized": true,
    });
    if transactions {
        value["transactions"] = json!([]);
    }
    value
}

fn genesis_text(status: &message::Status) -> String {
    format!(
        "block         0 (final)\nid            {}\nit is the genesis of chain `{}` (id {}): it has no header, no proposer and no transactions;\n\
         what it allocates stands in genesis.toml of a node's home",
        hex::encode(&status.genesis),
        status.chain_name,
        status.chain_id,
    )
}

fn header_json(header: &Header, answer: &message::BlockAnswer) -> Value {
    json!({
        "height": header.height,
        "id": header.id().to_string(),
        "parent": header.parent.to_string(),
        "slot": header.slot,
        "time_unix_ms": answer.time_unix_ms,
        "proposer": header.proposer,
        "tx_count": header.tx_count,
        "body_bytes": header.body_bytes,
        "gas_used": header.gas_used,
        "tx_root": hex::encode(header.tx_root),
        "receipt_root": hex::encode(header.receipt_root),
        "state": hex::encode(header.state),
        "canonical": answer.canonical,
        "finalized": answer.finalized,
    })
}

fn header_text(header: &Header, answer: &message::BlockAnswer) -> String {
    let standing = match (answer.canonical, answer.finalized) {
        (false, _) => "not on the canonical chain",
        (true, false) => "canonical",
        (true, true) => "final",
    };
    format!(
        "block         {} ({standing})\nid            {}\nparent        {}\nslot          {} (proposer {})\n\
         transactions  {} in {} bytes, {} gas\nstate         {}",
        header.height,
        header.id(),
        header.parent,
        header.slot,
        header.proposer,
        header.tx_count,
        header.body_bytes,
        header.gas_used,
        hex::encode(header.state),
    )
}

/// The node tells heads, and leaves some out when we are slow; the blocks between are fetched, so that
/// every canonical block is shown. After a reorganisation the new branch is shown from the head on.
async fn follow(client: &Client, count: Option<u64>, out: &Out) -> Result<ExitCode, Failure> {
    let mut heads = client.heads().await?;
    let mut last: Option<u64> = None;
    let mut shown = 0;
    while let Some(event) = heads.next().await? {
        let head = Header::parse(event.header.clone()).map_err(|error| {
            Failure::new(format!("the node told a bad head: {error}")).hint("ask another node")
        })?;
        let mut blocks = Vec::new();
        if let Some(last) = last
            && !event.reorganised
        {
            for height in last + 1..head.height {
                if let Some(answer) = client.block(BlockSelector::Height(height), BlockDetail::Header).await?
                {
                    blocks.push(parse_header(&answer)?);
                }
            }
        }
        // The first event may tell the head that was there before.
        if last != Some(head.height) || event.reorganised {
            blocks.push(head);
        }
        for header in blocks {
            last = Some(header.height);
            let reorganised = event.reorganised;
            let value = json!({
                "height": header.height, "id": header.id().to_string(), "parent": header.parent.to_string(),
                "slot": header.slot, "proposer": header.proposer, "tx_count": header.tx_count,
                "body_bytes": header.body_bytes, "gas_used": header.gas_used,
                "finalized": block_ref_json(event.finalized.as_ref()), "reorganised": reorganised,
            });
            let finalized = event.finalized.as_ref().map_or(0, |block| block.height);
            out.answer(
                &value,
                format!(
                    "{:>8}  {}  {:>5} tx {:>9} bytes  proposer {:>3}  final {finalized}{}",
                    header.height,
                    header.id(),
                    header.tx_count,
                    header.body_bytes,
                    header.proposer,
                    if reorganised { "  reorganised" } else { "" }
                ),
            )?;
            shown += 1;
            if count.is_some_and(|count| shown >= count) {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Err(Failure::new("the node ended the subscription").hint("see whether it still runs: ghostd status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_block() {
        assert_eq!("17".parse(), Ok(Which::Height(17)));
        assert_eq!("head".parse(), Ok(Which::Head));
        let digits = "11".repeat(32);
        assert_eq!(digits.parse(), Ok(Which::Id(BlockId([0x11; 32]))), "64 digits are an id");
        assert_eq!(format!("0x{digits}").parse(), Ok(Which::Id(BlockId([0x11; 32]))));
        for bad in ["", "-1", "tail", &digits[1..], &"zz".repeat(32)] {
            assert!(bad.parse::<Which>().is_err(), "{bad}");
        }
    }
}

//! `ghostd tx send`: one transfer.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use ghost_proto::{
    Action, Address, KeyPair, Transaction, TxId, VerifiedTransaction, limits::TX_BYTES_MAX, message,
};
use ghost_protocol::client::Client;
use serde_json::json;

use super::Shown;
use crate::{
    cli::{
        Globals,
        account::signing_key,
        connect::{Connected, ask},
        output::{Failure, Out, duration_for_people},
        parse_duration,
    },
    engine::gas_of_payload,
    home::Home,
};

const EXAMPLES: &str = "\
Examples:
  ghostd tx send --to 0x00000000000000000000000000000000000000aa --value 5 --wait
  ghostd tx send --to 0x00000000000000000000000000000000000000aa --payload-hex c0ffee
  ghostd tx send --payloads payloads.hex --json > ids

The file of --payloads has one payload in hex on each line; empty lines and lines that start with # are
skipped. All are sent from one account, in order; each line of output is one of them:
  {\"line\":1,\"id\":\"6f1c…\",\"bytes\":226}";

/// `ghostd tx send`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SendArgs {
    /// The receiving account [with --payloads: the sender itself]
    #[arg(long, value_name = "ADDRESS", required_unless_present = "payloads")]
    pub(super) to: Option<Address>,
    /// Base units to move
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) value: u128,
    /// Opaque bytes to carry, in hex
    #[arg(long, value_name = "HEX", group = "payload", value_parser = payload_hex)]
    payload_hex: Option<Bytes>,
    /// Opaque bytes to carry: the content of a file
    #[arg(long, value_name = "FILE", group = "payload")]
    payload_file: Option<PathBuf>,
    /// Send one transaction for each line of a file
    #[arg(long, value_name = "FILE", group = "payload", conflicts_with = "nonce")]
    pub(super) payloads: Option<PathBuf>,
    /// Key of the sender [default: accounts/dev.key of the home]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Base units for each unit of gas [default: the least the node takes now]
    #[arg(long, value_name = "N")]
    gas_price: Option<u64>,
    /// Not taken: a transfer needs exactly the gas that its payload costs.
    #[arg(long, value_name = "N", hide = true, value_parser = no_gas)]
    gas: Option<u64>,
    /// The sender's nonce [default: the next one, those that wait counted]
    #[arg(long, value_name = "N")]
    nonce: Option<u64>,
    /// How it spreads: fast to all at once; stem from node to node first, so that nobody sees where it came from,
    /// some seconds later and meanwhile not counted in the account's next nonce; tor over circuits of their own to a
    /// few other nodes, which needs a node that uses Tor, and is likewise not seen here until the network brings it
    #[arg(long, value_enum, default_value = "fast", conflicts_with = "payloads")]
    pub(super) privacy: Privacy,
    /// Wait until it stands in a block
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait for that
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(super) wait_timeout: Duration,
}

/// How a transaction spreads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Privacy {
    /// To all at once.
    Fast,
    /// From node to node first.
    Stem,
    /// Over circuits of Tor to a few other nodes.
    Tor,
}

impl From<Privacy> for message::Privacy {
    fn from(privacy: Privacy) -> Self {
        match privacy {
            Privacy::Fast => Self::Fast,
            Privacy::Stem => Self::Stem,
            Privacy::Tor => Self::Tor,
        }
    }
}

impl SendArgs {
    pub(super) fn is_bulk(&self) -> bool {
        self.payloads.is_some()
    }
}

pub(super) fn payload_hex(text: &str) -> Result<Bytes, String> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map(Bytes::from).map_err(|error| error.to_string())
}

/// Who gives a limit, as other chains want one, is told that none is needed.
fn no_gas(_text: &str) -> Result<u64, String> {
    Err("a transfer takes exactly the gas that its payload costs, so none is given; --gas-price is what each unit of it costs".into())
}

/// Everything that the transactions of one sender have in common.
#[derive(Debug)]
pub struct Sender {
    /// Signs, and pays.
    pub key: KeyPair,
    /// Of the chain.
    pub chain_id: u64,
    /// Base units for each unit of gas.
    pub gas_price: u64,
    /// Of the next transaction.
    pub nonce: u64,
}

impl Sender {
    /// Asks the node for what the flags leave open.
    pub(super) async fn prepare(connected: &Connected, args: &SendArgs) -> Result<Self, Failure> {
        let key = signing_key(args.key.as_ref(), connected.home.as_ref())?;
        let status = connected.client.status().await?;
        if let Some(home) = &connected.home {
            check_chain(home, &status.genesis)?;
        }
        let nonce = match args.nonce {
            Some(nonce) => nonce,
            None => connected.client.account(key.address()).await?.next_nonce,
        };
        let least = status.mempool.unwrap_or_default().gas_price_min;
        Ok(Self { key, chain_id: status.chain_id, gas_price: args.gas_price.unwrap_or(least), nonce })
    }

    /// Signs a transfer with the next nonce, and the gas it takes.
    pub fn transfer(
        &mut self,
        to: Address,
        value: u128,
        payload: Bytes,
    ) -> Result<VerifiedTransaction, Failure> {
        let bytes = payload.len();
        let body = Transaction {
            chain_id: self.chain_id,
            sender_key: self.key.public(),
            nonce: self.nonce,
            gas_limit: gas_of_payload(&payload),
            gas_price: self.gas_price,
            action: Action::Transfer { to, value, payload },
        };
        let tx = body.sign(&self.key).map_err(|_| {
            Failure::new(format!(
                "a payload of {bytes} bytes makes the transaction longer than {TX_BYTES_MAX} bytes"
            ))
            .hint("split it over several transactions")
        })?;
        self.nonce += 1;
        Ok(tx)
    }
}

/// A transaction signed for the chain of another home would be refused, or be valid where it was not meant.
fn check_chain(home: &Home, genesis: &[u8]) -> Result<(), Failure> {
    let ours = home.genesis()?.id();
    if ours.0[..] != *genesis {
        return Err(Failure::new(format!(
            "the node is of chain {}, the home {} of chain {ours}",
            hex::encode(genesis),
            home.root().display()
        ))
        .hint("name the home of that chain with --home, or a node of this chain with --node"));
    }
    Ok(())
}

pub(super) async fn run(globals: &Globals, args: &SendArgs, out: &Out) -> Result<ExitCode, Failure> {
    let payload = match (&args.payload_hex, &args.payload_file) {
        (Some(bytes), _) => bytes.clone(),
        (None, Some(path)) => read_payload(path)?,
        (None, None) => Bytes::new(),
    };
    ask(globals, async |node| submit(node, args, payload, out).await).await
}

async fn submit(node: &Connected, args: &SendArgs, payload: Bytes, out: &Out) -> Result<ExitCode, Failure> {
    let mut sender = Sender::prepare(node, args).await?;
    let to = args.to.ok_or_else(|| Failure::usage("--to ADDRESS is needed"))?;
    let nonce = sender.nonce;
    let tx = sender.transfer(to, args.value, payload)?;
    let results = node.client.submit_with(vec![tx.bytes().clone()], args.privacy.into()).await?;
    let result =
        results.first().ok_or_else(|| Failure::new("the node answered nothing").hint("ask another node"))?;
    if !result.accepted {
        return Err(Failure::new(format!("refused ({}): {}", result.reason, result.message)));
    }
    let id = tx.id();
    let waits_for = waits_for_nonce(&node.client, args, tx.sender(), nonce).await;
    if let Some(missing) = waits_for {
        out.remark(format!(
            "accepted and parked: nonce {nonce} waits for nonce {missing}; it is dropped if that does not come within ten minutes"
        ));
    }
    if !args.wait {
        let value = json!({
            "id": id.to_string(), "sender": tx.sender().to_string(), "nonce": nonce, "accepted": true,
            "waits_for_nonce": waits_for,
        });
        if waits_for.is_none() {
            out.remark(format!("accepted; to see what becomes of it: ghostd tx get {id}"));
        }
        return out.answer(&value, id);
    }
    let shown = wait_included(&node.client, id, args.wait_timeout).await?;
    out.answer(&shown.to_json(), shown.to_text())
}

/// The earlier nonce that an accepted transaction waits for, if it does. Only a nonce that was chosen can
/// leave a gap, and what goes by a stem is in no mempool yet.
async fn waits_for_nonce(client: &Client, args: &SendArgs, sender: Address, nonce: u64) -> Option<u64> {
    if args.nonce.is_none() || args.privacy != Privacy::Fast {
        return None;
    }
    // It is accepted, whether or not this is answered.
    let next = client.account(sender).await.ok()?.next_nonce;
    (next < nonce).then_some(next)
}

fn read_payload(path: &PathBuf) -> Result<Bytes, Failure> {
    let cannot = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(cannot)?.len();
    if length > TX_BYTES_MAX as u64 {
        return Err(Failure::new(format!(
            "{} has {length} bytes, a transaction at most {TX_BYTES_MAX}",
            path.display()
        ))
        .hint("split it over several transactions"));
    }
    std::fs::read(path).map(Bytes::from).map_err(cannot)
}

/// Waits until a transaction stands in a canonical block, looking whenever the head moves.
pub(in crate::cli) async fn wait_included(
    client: &Client,
    id: TxId,
    patience: Duration,
) -> Result<Shown, Failure> {
    let look = async {
        let mut heads = client.heads().await?;
        loop {
            if let Some(answer) = client.transaction(id).await?
                && answer.included
            {
                return Shown::check(id, answer);
            }
            if heads.next().await?.is_none() {
                return Err(Failure::new("the node stopped telling its heads"));
            }
        }
    };
    match tokio::time::timeout(patience, look).await {
        Ok(Ok(shown)) => Ok(shown),
        Ok(Err(failure)) => Err(Failure::new(format!("{id} was accepted, and then: {}", failure.text()))
            .hint(format!(
                "see whether the node runs (ghostd status), and then what became of it: ghostd tx get {id}"
            ))
            .with("id", id.to_string())),
        Err(_) => Err(Failure::new(format!(
            "{id} was accepted, and is in no block after {}",
            duration_for_people(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX))
        ))
        .hint(format!(
            "it may still come: ghostd tx get {id}; see whether the head advances and what others pay: ghostd status"
        ))
        .with("id", id.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gas_counts_zero_bytes_apart() {
        assert_eq!(gas_of_payload(b""), 21_000);
        assert_eq!(gas_of_payload(&[0, 1, 0, 255]), 21_000 + 4 + 16 + 4 + 16);
    }

    #[test]
    fn nonces_follow_one_another_and_too_long_a_payload_takes_none() {
        let mut sender = Sender { key: KeyPair::from_seed(&[1; 32]), chain_id: 5, gas_price: 7, nonce: 3 };
        let first = sender.transfer(Address([2; 20]), 1, Bytes::new()).unwrap();
        assert!(sender.transfer(Address([2; 20]), 1, vec![1; TX_BYTES_MAX].into()).is_err());
        let second = sender.transfer(Address([2; 20]), 1, Bytes::from_static(b"x")).unwrap();
        assert_eq!((first.body().nonce, second.body().nonce), (3, 4));
        assert_eq!((second.body().gas_limit, second.body().gas_price), (21_016, 7));
    }

    #[test]
    fn payloads_are_hex_with_or_without_a_prefix() {
        assert_eq!(payload_hex("0xC0ffee").unwrap()[..], [0xc0, 0xff, 0xee]);
        assert_eq!(payload_hex("").unwrap().len(), 0);
        assert!(payload_hex("abc").is_err());
    }
}

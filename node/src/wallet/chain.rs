//! The chain as a wallet needs it: submitting, and looking for what was submitted.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use ghost_proto::{Address, Multiaddr, Outcome, Receipt, SignedTransaction, TxId};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
};
use ghost_wallet_channel::session::ChainFacts;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::engine::gas_of_payload;

const RETRY: Duration = Duration::from_secs(1);

/// What the wallet wants of the chain.
pub(super) enum ToChain {
    /// Submit it, and again whenever the node does not know it.
    Submit(Box<SignedTransaction>),
    /// Tell when it is in a block and when that is final.
    Watch(TxId),
    /// What a transfer of this account needs, and its balance.
    Facts(Address, oneshot::Sender<Result<(ChainFacts, u128), String>>),
}

/// A transaction was found.
pub(super) struct Seen {
    pub(super) id: TxId,
    pub(super) height: u64,
    pub(super) is_final: bool,
    pub(super) success: bool,
}

/// The task that talks to the wallet's node about the chain.
pub(super) struct ChainTask {
    pub(super) nodes: Vec<Multiaddr>,
    pub(super) timeout: Duration,
    pub(super) commands: mpsc::UnboundedReceiver<ToChain>,
    pub(super) seen: mpsc::UnboundedSender<Seen>,
    /// What to look for, with the transaction if it is ours to submit.
    pub(super) watched: BTreeMap<TxId, Option<Bytes>>,
}

async fn connect(nodes: &[Multiaddr], timeout: Duration) -> Result<Client, String> {
    let mut last = "no node is named".to_owned();
    for node in nodes {
        let config = ClientConfig { timeout, ..ClientConfig::new(Identity::generate()) };
        match Client::connect(config, node).await {
            Ok(client) => return Ok(client),
            Err(error) => last = format!("{node}: {error}"),
        }
    }
    Err(last)
}

async fn facts(client: &Client, address: Address) -> Result<(ChainFacts, u128), String> {
    let status = client.status().await.map_err(|error| error.to_string())?;
    let account = client.account(address).await.map_err(|error| error.to_string())?;
    let balance = <[u8; 16]>::try_from(account.balance.as_ref())
        .map(u128::from_be_bytes)
        .map_err(|_| "the node sent a balance that is none".to_owned())?;
    let facts = ChainFacts {
        chain_id: status.chain_id,
        nonce: account.next_nonce,
        gas_price: status.mempool.unwrap_or_default().gas_price_min,
        gas_limit: gas_of_payload(&[]),
    };
    Ok((facts, balance))
}

impl ChainTask {
    /// Ends when the wallet closes.
    pub(super) async fn run(mut self) {
        loop {
            match connect(&self.nodes, self.timeout).await {
                Ok(client) => {
                    let ended = self.serve(&client).await;
                    client.close().await;
                    if ended {
                        return;
                    }
                }
                Err(reason) => {
                    tracing::warn!(reason, "the wallet's node is not reached");
                    if !self.wait(&reason).await {
                        return;
                    }
                }
            }
        }
    }

    /// Takes note while there is no node. False when the wallet closes.
    async fn wait(&mut self, reason: &str) -> bool {
        let pause = sleep(RETRY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                command = self.commands.recv() => match command {
                    None => return false,
                    Some(ToChain::Submit(tx)) => drop(self.watched.insert(tx.id(), Some(tx.bytes().clone()))),
                    Some(ToChain::Watch(id)) => drop(self.watched.entry(id).or_default()),
                    Some(ToChain::Facts(_, answer)) => {
                        let _ = answer.send(Err(format!("the wallet's node does not answer: {reason}")));
                    }
                },
            }
        }
    }

    /// True when the wallet closes, false when the connection is gone.
    async fn serve(&mut self, client: &Client) -> bool {
        let Ok(mut heads) = client.heads().await else {
            sleep(RETRY).await;
            return false;
        };
        loop {
            if self.look(client).await.is_err() {
                return false;
            }
            tokio::select! {
                head = heads.next() => {
                    if !matches!(head, Ok(Some(_))) {
                        return false;
                    }
                }
                command = self.commands.recv() => match command {
                    None => return true,
                    Some(ToChain::Submit(tx)) => drop(self.watched.insert(tx.id(), Some(tx.bytes().clone()))),
                    Some(ToChain::Watch(id)) => drop(self.watched.entry(id).or_default()),
                    Some(ToChain::Facts(address, answer)) => {
                        let _ = answer.send(facts(client, address).await);
                    }
                },
            }
        }
    }

    /// Looks for everything that is watched, and submits what is ours and not known.
    async fn look(&mut self, client: &Client) -> Result<(), String> {
        for (id, ours) in self.watched.clone() {
            let found = client.transaction(id).await.map_err(|error| error.to_string())?;
            match found {
                Some(found) if found.included => {
                    let receipt = Receipt::parse(found.receipt).map_err(|error| error.to_string())?;
                    let seen = Seen {
                        id,
                        height: found.block.unwrap_or_default().height,
                        is_final: found.finalized,
                        success: receipt.outcome == Outcome::Done,
                    };
                    if seen.is_final {
                        self.watched.remove(&id);
                    }
                    let _ = self.seen.send(seen);
                }
                Some(_) => {}
                None => {
                    if let Some(bytes) = ours {
                        let results = client.submit(vec![bytes]).await.map_err(|error| error.to_string())?;
                        for result in results.iter().filter(|result| !result.accepted) {
                            tracing::warn!(%id, reason = result.reason, "a transaction is not taken: {}", result.message);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

//! Bringing envelopes to mailboxes of peers, and asking nodes for presence records.
//!
//! All of it under keys of the moment: no node can tie them to the wallet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ghost_frames::{
    Frame, Payload, StreamType,
    wallet::{DepositProof, MailboxDeposit, MailboxOutcome, PresenceRequest},
};
use ghost_proto::{MailboxAt, Multiaddr, Presence, PublicKey};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
};
use ghost_wallet_channel::{
    session::{Delivered, Deposit, Proof},
    stamp,
};
use tokio::sync::{Mutex, mpsc};

use super::mailboxes::make_stamp;

/// Bits of a stamp above which a mailbox asks for too much.
const STAMP_BITS_MAX: u8 = 28;

/// What became of a deposit.
pub(super) struct Brought {
    pub(super) peer: PublicKey,
    pub(super) number: u64,
    pub(super) what: Delivered,
}

/// Connections to other nodes, kept while they live.
#[derive(Debug, Clone)]
pub(super) struct Courier {
    clients: Arc<Mutex<BTreeMap<String, Client>>>,
    timeout: Duration,
}

impl Courier {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { clients: Arc::default(), timeout }
    }

    async fn client(&self, node: &Multiaddr) -> Result<Client, String> {
        let name = node.to_string();
        let mut clients = self.clients.lock().await;
        clients.retain(|_, client| !client.session().is_closing());
        if let Some(client) = clients.get(&name) {
            return Ok(client.clone());
        }
        let config = ClientConfig { timeout: self.timeout, ..ClientConfig::new(Identity::generate()) };
        let client = Client::connect(config, node).await.map_err(|error| error.to_string())?;
        clients.insert(name, client.clone());
        Ok(client)
    }

    async fn forget(&self, node: &Multiaddr) {
        self.clients.lock().await.remove(&node.to_string());
    }

    /// Asks a node for a wallet's presence; it may ask others.
    pub(super) async fn presence(
        &self,
        node: &Multiaddr,
        wallet: PublicKey,
    ) -> Result<Option<Presence>, String> {
        let client = self.client(node).await?;
        let question = PresenceRequest { wallet, ask_others: true }.to_frame();
        let answer = client.session().request(StreamType::Wallet, &question, self.timeout).await;
        let answer = match answer {
            Ok(answer) => answer.single().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Frame::PresenceAnswer(answer)) => {
                Ok(Presence::verify(answer.record).ok().filter(|presence| presence.wallet() == wallet))
            }
            Ok(other) => Err(format!("it answered with a {} frame", other.info().name)),
            Err(error) => {
                self.forget(node).await;
                Err(error.to_string())
            }
        }
    }

    async fn bring_to(&self, mailbox: &MailboxAt, deposit: &Deposit) -> Result<Delivered, String> {
        let proof = match &deposit.proof {
            Proof::Grant(grant) => DepositProof::Grant(*grant.bytes()),
            Proof::Stamp if mailbox.stamp_bits > STAMP_BITS_MAX => {
                return Err(format!("it wants a stamp of {} bits", mailbox.stamp_bits));
            }
            Proof::Stamp => {
                let subject = stamp::of_envelope(&mailbox.box_key, &deposit.envelope);
                DepositProof::Stamp(
                    make_stamp(subject, mailbox.stamp_bits).await.ok_or("no stamp was found")?,
                )
            }
        };
        let request =
            MailboxDeposit { box_key: mailbox.box_key, proof, envelope: deposit.envelope.clone().into() };
        let client = self.client(&mailbox.node).await?;
        let asked = async {
            let frame = request.to_frame();
            client.session().request(StreamType::Wallet, &frame, self.timeout).await?.single().await
        };
        match asked.await {
            Ok(Frame::MailboxAnswer(answer)) => match answer.outcome {
                MailboxOutcome::Done | MailboxOutcome::Repeated => Ok(Delivered::Kept),
                MailboxOutcome::BoxFull => Ok(Delivered::Full),
                other => Err(format!("{other:?}")),
            },
            Ok(other) => Err(format!("it answered with a {} frame", other.info().name)),
            Err(error) => {
                self.forget(&mailbox.node).await;
                Err(error.to_string())
            }
        }
    }

    /// Brings what comes for one peer, in order.
    pub(super) async fn serve(
        self,
        mut deposits: mpsc::UnboundedReceiver<Deposit>,
        brought: mpsc::UnboundedSender<Brought>,
    ) {
        while let Some(deposit) = deposits.recv().await {
            let mut what = Delivered::Failed;
            for mailbox in &deposit.mailboxes {
                match self.bring_to(mailbox, &deposit).await {
                    Ok(outcome) => {
                        what = outcome;
                        break;
                    }
                    Err(reason) => {
                        tracing::debug!(mailbox = %mailbox.node, reason, "an envelope is not taken");
                    }
                }
            }
            if brought.send(Brought { peer: deposit.peer, number: deposit.number, what }).is_err() {
                return;
            }
        }
    }
}

//! A wallet's own mailboxes: one task for each, for as long as the wallet is open.

use std::time::Duration;

use bytes::Bytes;
use ghost_frames::{
    Frame, Payload, StreamType,
    wallet::{
        MailboxAcknowledge, MailboxAnswer, MailboxCollect, MailboxGrant, MailboxOpen, MailboxOutcome,
        PresencePublish,
    },
    writer::EncodedFrame,
};
use ghost_proto::{KeyPair, Multiaddr, PublicKey, limits::GRANTS_PER_FRAME_MAX};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
};
use ghost_wallet_channel::stamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

/// Between two attempts to reach a mailbox, at first and at most.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Hashes between two looks whether a stamp is found.
const STAMP_TRIES: u64 = 1 << 22;

/// What the wallet wants of one of its mailboxes.
pub(super) enum ToMailbox {
    /// Add grants or take them back; answered when it is done or could not be.
    Grant { add: bool, ids: Vec<[u8; 32]>, done: oneshot::Sender<()> },
    /// All up to this sequence is stored.
    Acknowledge(u64),
}

/// What came.
pub(super) struct Delivered {
    pub(super) mailbox: usize,
    pub(super) sequence: u64,
    pub(super) envelope: Bytes,
}

/// One mailbox of the wallet.
pub(super) struct Mailbox {
    pub(super) index: usize,
    pub(super) node: Multiaddr,
    pub(super) node_key: PublicKey,
    pub(super) key: KeyPair,
    pub(super) stamp_bits: u8,
    pub(super) timeout: Duration,
    /// The presence record now.
    pub(super) record: watch::Receiver<Option<Bytes>>,
    /// Ids of all grants now.
    pub(super) grants: watch::Receiver<Vec<[u8; 32]>>,
    pub(super) commands: mpsc::UnboundedReceiver<ToMailbox>,
    pub(super) deliveries: mpsc::Sender<Delivered>,
    /// Says that the box is open and knows the record.
    pub(super) ready: watch::Sender<usize>,
}

async fn ask(client: &Client, frame: EncodedFrame, timeout: Duration) -> Result<MailboxAnswer, String> {
    let answer = client.session().request(StreamType::Wallet, &frame, timeout).await;
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.single().await.map_err(|error| error.to_string())? {
        Frame::MailboxAnswer(answer) => Ok(answer),
        other => Err(format!("it answered with a {} frame", other.info().name)),
    }
}

/// A stamp, made on a thread for what takes long.
pub(super) async fn make_stamp(subject: [u8; 32], bits: u8) -> Option<u64> {
    let search = move || {
        let mut from = 0u64;
        loop {
            match stamp::search(&subject, bits, from, STAMP_TRIES) {
                Some(nonce) => return Some(nonce),
                None => from = from.checked_add(STAMP_TRIES)?,
            }
        }
    };
    tokio::task::spawn_blocking(search).await.ok().flatten()
}

impl Mailbox {
    /// Ends when the wallet closes.
    pub(super) async fn run(mut self) {
        let mut pause = RETRY;
        loop {
            match self.serve(&mut pause).await {
                Ok(()) => return,
                Err(reason) => tracing::warn!(mailbox = %self.node, reason, "the mailbox is not reached"),
            }
            // Nobody waits for what cannot be done now: all grants are said again at the next connection.
            while let Ok(command) = self.commands.try_recv() {
                drop(command);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn open(&self, client: &Client) -> Result<(), String> {
        let day = (crate::cli::output::unix_ms_now() / 86_400_000) as u32;
        let mut nonce = 0;
        loop {
            let request = MailboxOpen { stamp_bits: self.stamp_bits, day, nonce };
            match ask(client, request.to_frame(), self.timeout).await? {
                MailboxAnswer { outcome: MailboxOutcome::Done, .. } => return Ok(()),
                MailboxAnswer { outcome: MailboxOutcome::StampNeeded, value } if nonce == 0 => {
                    let bits = u8::try_from(value).unwrap_or(u8::MAX);
                    if bits > 28 {
                        return Err(format!(
                            "it wants a stamp of {bits} bits for a box; choose another mailbox"
                        ));
                    }
                    let subject = stamp::of_box(&self.node_key, &self.key.public(), day);
                    nonce = make_stamp(subject, bits).await.ok_or("no stamp was found")?;
                }
                other => return Err(format!("it opens no box: {:?}", other.outcome)),
            }
        }
    }

    async fn grant(&self, client: &Client, add: bool, ids: &[[u8; 32]]) -> Result<(), String> {
        for ids in ids.chunks(GRANTS_PER_FRAME_MAX) {
            let request = MailboxGrant { add, ids: ids.to_vec() };
            let answer = ask(client, request.to_frame(), self.timeout).await?;
            if answer.outcome != MailboxOutcome::Done {
                return Err(format!("it takes no grants: {:?}", answer.outcome));
            }
        }
        Ok(())
    }

    async fn publish(&mut self, client: &Client) -> Result<(), String> {
        let record = self.record.borrow_and_update().clone();
        if let Some(record) = record {
            let answer = ask(client, PresencePublish { record }.to_frame(), self.timeout).await?;
            if answer.outcome != MailboxOutcome::Done {
                return Err(format!("it refuses the presence record: {:?}", answer.outcome));
            }
        }
        Ok(())
    }

    /// Does what is wanted, with all that waits behind it: the last acknowledgement says what those before it do.
    async fn command(&mut self, client: &Client, first: ToMailbox) -> Result<(), String> {
        let mut acknowledged = None;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                ToMailbox::Grant { add, ids, done } => {
                    self.grant(client, add, &ids).await?;
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
                ToMailbox::Acknowledge(up_to) => acknowledged = Some(up_to),
            }
            next = self.commands.try_recv().ok();
        }
        if let Some(up_to) = acknowledged {
            ask(client, MailboxAcknowledge { up_to }.to_frame(), self.timeout).await?;
        }
        Ok(())
    }

    /// One connection. `Ok` when the wallet closes.
    async fn serve(&mut self, pause: &mut Duration) -> Result<(), String> {
        let identity = Identity::from_seed(&self.key.seed());
        let config = ClientConfig { timeout: self.timeout, ..ClientConfig::new(identity) };
        let client = Client::connect(config, &self.node).await.map_err(|error| error.to_string())?;
        let served = self.serve_on(&client, pause).await;
        client.close().await;
        served
    }

    async fn serve_on(&mut self, client: &Client, pause: &mut Duration) -> Result<(), String> {
        self.open(client).await?;
        let grants = self.grants.borrow_and_update().clone();
        self.grant(client, true, &grants).await?;
        self.publish(client).await?;
        let collect = MailboxCollect { after: 0 }.to_frame();
        let mut mail = client
            .session()
            .request(StreamType::Wallet, &collect, self.timeout)
            .await
            .map_err(|error| error.to_string())?;
        *pause = RETRY;
        self.ready.send_modify(|ready| *ready += 1);
        let result = loop {
            tokio::select! {
                frame = mail.next_whenever() => match frame {
                    Ok(Some(Frame::MailboxDelivery(delivery))) => {
                        let delivered = Delivered {
                            mailbox: self.index,
                            sequence: delivery.sequence,
                            envelope: Bytes::copy_from_slice(&delivery.envelope),
                        };
                        if self.deliveries.send(delivered).await.is_err() {
                            break Ok(());
                        }
                    }
                    Ok(Some(other)) => break Err(format!("it sent a {} frame", other.info().name)),
                    Ok(None) => break Err("it ended the collection".into()),
                    Err(error) => break Err(error.to_string()),
                },
                command = self.commands.recv() => match command {
                    None => break Ok(()),
                    Some(command) => {
                        if let Err(error) = self.command(client, command).await {
                            break Err(error);
                        }
                    }
                },
                changed = self.record.changed() => {
                    if changed.is_err() {
                        break Ok(());
                    }
                    if let Err(error) = self.publish(client).await {
                        break Err(error);
                    }
                }
            }
        };
        self.ready.send_modify(|ready| *ready -= 1);
        result
    }
}

//! Mailboxes for wallets, and the presence records that name them.
//!
//! One task owns nothing but the queue: it takes what has come together, changes the core, writes all of it in
//! one batch, flushes once, and then answers. Collections are tasks of their own that wait for their box.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{
    Code, Frame, Payload, StreamType,
    wallet::{MailboxAnswer, MailboxDelivery, MailboxOutcome, PresenceAnswer, PresenceRequest},
};
use ghost_proto::{Presence, PublicKey, record::key_of};
use ghost_protocol::{Overlay, inbox::Asked, request::Responder};
use ghost_wallet_channel::mailbox::{Mailbox, MailboxLimits, Write, item_key, item_of};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    clock::Clock,
    config,
    metrics::Metrics,
    store::{ChainStore, StoreError, WriteBatch},
};

/// Requests that are taken together: 64 deposits of 32 KiB are 2 MiB before a flush.
const TOGETHER_MAX: usize = 64;
/// Peers that are asked for a presence record that is not here.
const ASKED_MAX: usize = 8;
/// How long they have.
const ASKED_TIME: Duration = Duration::from_secs(2);
/// Questions to peers under way: 32 × 8 requests.
const ASKING_MAX: usize = 32;
/// All keys of mailboxes begin with this; no key of the chain does.
const PREFIX: u8 = b'W';

/// What the configuration gives to mailboxes; `None` if it gives nothing.
pub(crate) fn limits(mailbox: &config::Mailbox) -> Option<MailboxLimits> {
    let day_ms = 86_400_000;
    mailbox.serve.then(|| MailboxLimits {
        boxes_max: mailbox.boxes_max as usize,
        box_bytes_max: mailbox.box_mib << 20,
        bytes_max: mailbox.total_mib << 20,
        keep_ms: u64::from(mailbox.keep_days) * day_ms,
        idle_ms: u64::from(mailbox.idle_days) * day_ms,
        open_bits: mailbox.open_bits as u8,
    })
}

/// The task that serves mailboxes.
pub(crate) struct WalletService {
    mailbox: Arc<Mutex<Mailbox>>,
    store: Arc<dyn ChainStore>,
    overlay: Overlay,
    clock: Clock,
    metrics: Arc<Metrics>,
    requests: mpsc::Receiver<Asked>,
    /// Tells who collects from a box that something came. One for each box that is collected from.
    collected: BTreeMap<PublicKey, watch::Sender<()>>,
    asking: Arc<Semaphore>,
}

fn store_key(key: &[u8]) -> Vec<u8> {
    [&[PREFIX], key].concat()
}

impl WalletService {
    /// Reads what is stored.
    pub(crate) fn open(
        limits: MailboxLimits,
        store: Arc<dyn ChainStore>,
        overlay: Overlay,
        clock: Clock,
        metrics: Arc<Metrics>,
        requests: mpsc::Receiver<Asked>,
    ) -> Result<Self, StoreError> {
        let mut mailbox = Mailbox::new(limits);
        let mut senseless = WriteBatch::default();
        store.scan(&[PREFIX], &[PREFIX + 1], &mut |key, value| {
            if !mailbox.restore(&key[1..], value) {
                senseless.remove(key.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        if !senseless.is_empty() {
            tracing::warn!(
                entries = senseless.entries.len(),
                "what makes no sense in the mailboxes is removed"
            );
            store.apply(senseless)?;
        }
        let service = Self {
            mailbox: Arc::new(Mutex::new(mailbox)),
            store,
            overlay,
            clock,
            metrics,
            requests,
            collected: BTreeMap::new(),
            asking: Arc::new(Semaphore::new(ASKING_MAX)),
        };
        service.count();
        Ok(service)
    }

    fn count(&self) {
        let (boxes, envelopes, bytes) =
            self.mailbox.lock().expect("no code panics while it holds it").totals();
        self.metrics.mailboxes.set(boxes as i64);
        self.metrics.mailbox_envelopes.set(envelopes as i64);
        self.metrics.mailbox_bytes.set(bytes as i64);
    }

    /// Serves for as long as the node runs.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::with_capacity(TOGETHER_MAX);
        loop {
            let now = self.clock.unix_ms();
            let next = self.mailbox.lock().expect("no code panics while it holds it").next_deadline();
            let sweep = Instant::now() + Duration::from_millis(next.saturating_sub(now).max(1_000));
            tokio::select! {
                taken = self.requests.recv_many(&mut waiting, TOGETHER_MAX) => {
                    if taken == 0 {
                        return;
                    }
                }
                () = sleep_until(sweep) => {}
            }
            let now = self.clock.unix_ms();
            let mut writes = self.mailbox.lock().expect("no code panics while it holds it").on_deadline(now);
            let mut answers = Vec::new();
            for asked in waiting.drain(..) {
                if let Some((responder, answer, told, more)) = self.handle(asked, now) {
                    writes.extend(more);
                    answers.push((responder, answer, told));
                }
            }
            let written = self.write(writes).await;
            self.count();
            for (responder, answer, told) in answers {
                if let Err(error) = &written {
                    tracing::error!(%error, "a mailbox could not be written");
                    responder.refuse(Code::Internal);
                    continue;
                }
                if let Some(waiting) = told.and_then(|owner| self.collected.get(&owner)) {
                    waiting.send_replace(());
                }
                // Whoever does not wait for its answer loses it.
                tokio::spawn(async move {
                    let _ = responder.answer(&answer.to_frame()).await;
                });
            }
            self.collected.retain(|_, waiting| !waiting.is_closed());
        }
    }

    /// One durable batch for all that was asked together.
    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for write in writes {
            batch.entries.push((store_key(&write.key), write.value));
        }
        self.store.apply(batch)?;
        let store = self.store.clone();
        // A flush waits for the disk; this task's thread has other tasks.
        tokio::task::spawn_blocking(move || store.flush())
            .await
            .unwrap_or_else(|error| Err(StoreError::Io(error.to_string())))
    }

    /// What is to be written, who is to be answered what, and whose box got something. `None` for what is
    /// answered elsewhere.
    #[allow(clippy::type_complexity, reason = "used once, in one place")]
    fn handle(
        &mut self,
        asked: Asked,
        now: u64,
    ) -> Option<(Responder, MailboxAnswer, Option<PublicKey>, Vec<Write>)> {
        let Asked { session, frame, responder } = asked;
        let Some(owner) = session.as_ref().and_then(|session| key_of(&session.peer())) else {
            responder.refuse(Code::TooEarly);
            return None;
        };
        let node = self.overlay.peer_id();
        let mut mailbox = self.mailbox.lock().expect("no code panics while it holds it");
        let (answer, writes) = match frame {
            Frame::PresenceRequest(request) => {
                let known = mailbox.presence(&request.wallet).cloned();
                drop(mailbox);
                self.look_up(request, known, responder);
                return None;
            }
            Frame::MailboxCollect(request) => {
                drop(mailbox);
                let told = self.collected.entry(owner).or_insert_with(|| watch::channel(()).0).subscribe();
                let collection = Collection {
                    mailbox: self.mailbox.clone(),
                    store: self.store.clone(),
                    clock: self.clock,
                    owner,
                };
                tokio::spawn(collection.run(request.after, told, responder));
                return None;
            }
            Frame::MailboxOpen(request) => {
                let node = key_of(&node).expect("a node's key is ed25519");
                mailbox.open(&node, &owner, &request, now)
            }
            Frame::PresencePublish(request) => mailbox.publish(&node, &owner, &detached(&request.record)),
            Frame::MailboxGrant(request) => mailbox.grant(&owner, request.add, &request.ids),
            Frame::MailboxAcknowledge(request) => mailbox.acknowledge(&owner, request.up_to, now),
            Frame::MailboxDeposit(request) => {
                let (answer, writes) = mailbox.deposit(&request, now);
                let outcome = match answer.outcome {
                    MailboxOutcome::Done => &self.metrics.mailbox_deposits,
                    _ => &self.metrics.mailbox_refusals,
                };
                outcome.inc();
                return Some((responder, answer, Some(request.box_key), writes));
            }
            _ => {
                responder.refuse(Code::ProtocolViolation);
                return None;
            }
        };
        Some((responder, answer, None, writes))
    }

    /// Answers with what is known, or with what peers know.
    fn look_up(&self, request: PresenceRequest, known: Option<Bytes>, responder: Responder) {
        let asking = (known.is_none() && request.ask_others).then(|| self.asking.clone().try_acquire_owned());
        let sessions = match &asking {
            Some(Ok(_)) => self.overlay.sessions(),
            _ => Vec::new(),
        };
        tokio::spawn(async move {
            let mut record = known.unwrap_or_default();
            let question = PresenceRequest { ask_others: false, ..request }.to_frame();
            let mut answers = JoinSet::new();
            let serving = sessions.into_iter().filter(|it| it.hello().serves.contains(StreamType::Wallet));
            for session in serving.take(ASKED_MAX) {
                let question = question.clone();
                answers.spawn(async move {
                    let answer = session.request(StreamType::Wallet, &question, ASKED_TIME).await.ok()?;
                    let Ok(Frame::PresenceAnswer(answer)) = answer.single().await else { return None };
                    Presence::verify(answer.record).ok()
                });
            }
            let mut newest = 0;
            while let Some(answer) = answers.join_next().await {
                let Ok(Some(presence)) = answer else { continue };
                if presence.wallet() == request.wallet && presence.body().sequence >= newest {
                    newest = presence.body().sequence;
                    record = presence.bytes().clone();
                }
            }
            drop(asking);
            let _ = responder.answer(&PresenceAnswer { record }.to_frame()).await;
        });
    }
}

/// Bytes of their own: what is kept must not hold on to a whole receive buffer.
fn detached(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// One owner's collection.
struct Collection {
    mailbox: Arc<Mutex<Mailbox>>,
    store: Arc<dyn ChainStore>,
    clock: Clock,
    owner: PublicKey,
}

impl Collection {
    async fn run(self, mut after: u64, mut told: watch::Receiver<()>, mut responder: Responder) {
        loop {
            told.mark_unchanged();
            let now = self.clock.unix_ms();
            let next = {
                let mut mailbox = self.mailbox.lock().expect("no code panics while it holds it");
                mailbox.collect(&self.owner, after, now)
            };
            let Some(sequences) = next else { return responder.refuse(Code::Refused) };
            if sequences.is_empty() {
                tokio::select! {
                    changed = told.changed() => {
                        if changed.is_err() {
                            return responder.finish();
                        }
                    }
                    () = responder.cancelled() => return,
                }
                continue;
            }
            for sequence in sequences {
                after = sequence;
                // Acknowledged meanwhile: nothing to deliver.
                let value = self.store.get(&store_key(&item_key(&self.owner, sequence))).ok().flatten();
                let Some((time_unix_ms, envelope)) = value.and_then(|value| item_of(&value.into())) else {
                    continue;
                };
                let delivery = MailboxDelivery { sequence, time_unix_ms, envelope };
                if responder.send(&delivery.to_frame()).await.is_err() {
                    return;
                }
            }
        }
    }
}

//! The task that owns a wallet.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use ghost_proto::{Address, MailboxAt, Multiaddr, PeerId, Presence, PublicKey, WalletName, record::key_of};
use ghost_wallet_channel::{
    keys::WalletKeys,
    secret::Secret,
    session::{Delivered as Outcome, Deposit, Event, Output, ReadChunk, Wallet},
};
use multiaddr::Protocol;
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    ask::Ask,
    chain::{ChainTask, Seen, ToChain},
    courier::{Brought, Courier},
    files,
    folder::WalletFolder,
    mailboxes::{Delivered, Mailbox, ToMailbox},
    store::WalletStore,
};
use crate::cli::output::unix_ms_now;

/// Envelopes that may wait for the wallet; a mailbox holds back beyond that.
const DELIVERIES_MAX: usize = 32;
/// Questions that may wait.
const ASKS_MAX: usize = 64;
/// Events that a slow reader may be behind; the log has them all.
const EVENTS_BEHIND_MAX: usize = 4_096;
/// Between two looks for a newer presence of a peer whose mailboxes take nothing.
const REFRESH: Duration = Duration::from_secs(10);
/// How long a grant may take to reach a mailbox before the envelope that tells of it leaves.
const GRANT_TIME: Duration = Duration::from_secs(5);

/// Why a wallet does not open. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum WalletdError {
    /// Another process has it.
    #[error("the wallet at {} is open in another process", .0.display())]
    InUse(PathBuf),
    /// Its state cannot be read or written.
    #[error("the wallet's state: {0}")]
    Store(String),
    /// A mailbox that cannot be one.
    #[error("mailbox {0}: {1}")]
    Mailbox(Multiaddr, String),
    /// It has ended.
    #[error("the wallet has been closed")]
    Closed,
}

/// What a wallet needs to run.
#[derive(Debug, Clone)]
pub struct WalletConfig {
    /// Where it lives.
    pub folder: WalletFolder,
    /// Its node, for the chain and for looking up presences: addresses to try in this order.
    pub nodes: Vec<Multiaddr>,
    /// Nodes that are to keep its mail, at most three. Empty: those it has, else its node.
    pub mailboxes: Vec<Multiaddr>,
    /// Leading zero bits of the stamp on a stranger's first message.
    pub stamp_bits: u8,
    /// Longest wait for a node's answer.
    pub timeout: Duration,
    /// Largest file that is taken, in bytes; 0 is the default.
    pub file_bytes_max: u64,
}

/// What happens in a wallet.
pub type WalletEvent = Event;

type Answer = Result<Value, String>;

/// A wallet that is open. It closes when this is dropped.
#[derive(Debug)]
pub struct Walletd {
    asks: mpsc::Sender<(Ask, oneshot::Sender<Answer>)>,
    events: broadcast::Sender<Event>,
    /// Heard from the first moment on, until somebody takes it.
    first: Mutex<Option<broadcast::Receiver<Event>>>,
    ready: watch::Receiver<usize>,
    task: JoinHandle<Result<(), WalletdError>>,
}

impl Walletd {
    /// Opens a wallet. Must be called inside a tokio runtime.
    pub fn open(config: WalletConfig, seed: Secret) -> Result<Self, WalletdError> {
        let keys = WalletKeys::from_seed(seed);
        let (store, entries) = WalletStore::open(&config.folder.state_path(), &keys)?;
        let mut wallet = Wallet::new(keys);
        for (key, value) in entries {
            if !wallet.restore(&key, &value) {
                return Err(WalletdError::Store(
                    "an entry makes no sense to this version; use the version that wrote it".into(),
                ));
            }
        }
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (events, first) = broadcast::channel(EVENTS_BEHIND_MAX);
        let (ready, ready_seen) = watch::channel(0);
        let daemon = Daemon::start(config, wallet, store, events.clone(), asked, ready)?;
        Ok(Self {
            asks,
            events,
            first: Mutex::new(Some(first)),
            ready: ready_seen,
            task: tokio::spawn(daemon.run()),
        })
    }

    /// Asks it something.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.asker().ask(ask).await
    }

    /// Something that can ask, and be cloned.
    pub fn asker(&self) -> Asker {
        Asker(self.asks.clone())
    }

    /// What happens; for the first who asks from when it was opened, for others from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        let first = self.first.lock().expect("no code panics while it holds it").take();
        first.unwrap_or_else(|| self.events.subscribe())
    }

    /// The same, by who can be cloned.
    pub fn event_source(&self) -> broadcast::Sender<Event> {
        self.events.clone()
    }

    /// Waits until at least one of its mailboxes is open. False if that takes longer.
    pub async fn ready(&self, patience: Duration) -> bool {
        let mut ready = self.ready.clone();
        timeout(patience, ready.wait_for(|ready| *ready > 0)).await.is_ok_and(|ready| ready.is_ok())
    }

    /// Sends what is due, and closes.
    pub async fn close(self) -> Result<(), WalletdError> {
        drop(self.asks);
        self.task.await.unwrap_or(Err(WalletdError::Closed))
    }
}

/// Asks a wallet.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<(Ask, oneshot::Sender<Answer>)>);

impl Asker {
    /// Asks it something.
    pub async fn ask(&self, ask: Ask) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.0.send((ask, answer)).await.map_err(|_| WalletdError::Closed.to_string())?;
        answered.await.map_err(|_| WalletdError::Closed.to_string())?
    }
}

struct Daemon {
    config: WalletConfig,
    wallet: Wallet,
    store: WalletStore,
    events: broadcast::Sender<Event>,
    asked: mpsc::Receiver<(Ask, oneshot::Sender<Answer>)>,
    courier: Courier,
    peers: BTreeMap<PublicKey, mpsc::UnboundedSender<Deposit>>,
    brought: mpsc::UnboundedReceiver<Brought>,
    bring: mpsc::UnboundedSender<Brought>,
    under_way: usize,
    settling: Vec<oneshot::Sender<Answer>>,
    mailboxes: Vec<mpsc::UnboundedSender<ToMailbox>>,
    deliveries: mpsc::Receiver<Delivered>,
    record: watch::Sender<Option<Bytes>>,
    grants: watch::Sender<Vec<[u8; 32]>>,
    chain: mpsc::UnboundedSender<ToChain>,
    seen: mpsc::UnboundedReceiver<Seen>,
    found: mpsc::UnboundedReceiver<Found>,
    find: mpsc::UnboundedSender<Found>,
    refreshed: BTreeMap<PublicKey, Instant>,
}

/// A presence that was looked for.
struct Found {
    wallet: PublicKey,
    presence: Result<Presence, String>,
    purpose: Purpose,
}

/// Why.
enum Purpose {
    /// To open a channel, perhaps with an invitation, and tell whoever asked.
    Open(Option<Secret>, oneshot::Sender<Answer>),
    /// It is a member of a group.
    Member,
    /// None of its mailboxes took what was brought: it may have others now.
    Refresh,
}

fn node_peer(node: &Multiaddr) -> Option<PeerId> {
    match node.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

impl Daemon {
    fn start(
        config: WalletConfig,
        mut wallet: Wallet,
        store: WalletStore,
        events: broadcast::Sender<Event>,
        asked: mpsc::Receiver<(Ask, oneshot::Sender<Answer>)>,
        ready: watch::Sender<usize>,
    ) -> Result<Self, WalletdError> {
        let (record, record_seen) = watch::channel(None);
        let (grants, grants_seen) = watch::channel(Vec::new());
        let (deliver, deliveries) = mpsc::channel(DELIVERIES_MAX);
        let nodes: Vec<Multiaddr> = match (&config.mailboxes, wallet.presence()) {
            (named, _) if !named.is_empty() => named.clone(),
            (_, Some(own)) => own.body().mailboxes.iter().map(|mailbox| mailbox.node.clone()).collect(),
            _ => config.nodes.first().cloned().into_iter().collect(),
        };
        let (mut tasks, mut named, mut mailboxes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, node) in nodes.into_iter().enumerate() {
            let peer = node_peer(&node);
            let node_key = peer.as_ref().and_then(key_of).ok_or_else(|| {
                WalletdError::Mailbox(node.clone(), "end it with /p2p/ and the node's PeerId".into())
            })?;
            let key = wallet.keys().box_key(&node_key);
            // What one node is told about strangers, all are told.
            let stamp_bits = config.stamp_bits;
            named.push(MailboxAt { box_key: key.public(), stamp_bits, node: node.clone() });
            let (commands, commanded) = mpsc::unbounded_channel();
            mailboxes.push(commands);
            tasks.push(Mailbox {
                index,
                node,
                node_key,
                key,
                stamp_bits,
                timeout: config.timeout,
                record: record_seen.clone(),
                grants: grants_seen.clone(),
                commands: commanded,
                deliveries: deliver.clone(),
                ready: ready.clone(),
            });
        }
        let now = unix_ms_now();
        if !named.is_empty() {
            let first = named[0].node.clone();
            wallet
                .set_mailboxes(named, now, &mut rand::rng())
                .map_err(|error| WalletdError::Mailbox(first, error.to_string()))?;
        }
        wallet.set_file_bytes_max(config.file_bytes_max);
        wallet.resume(now, &mut rand::rng());
        record.send_replace(wallet.presence().map(|own| own.bytes().clone()));
        grants.send_replace(wallet.grant_ids());
        for task in tasks {
            tokio::spawn(task.run());
        }
        let (chain, commands) = mpsc::unbounded_channel();
        let (seen, seen_by) = mpsc::unbounded_channel();
        let task = ChainTask {
            nodes: config.nodes.clone(),
            timeout: config.timeout,
            commands,
            seen,
            watched: BTreeMap::new(),
        };
        tokio::spawn(task.run());
        let (bring, brought) = mpsc::unbounded_channel();
        let (find, found) = mpsc::unbounded_channel();
        Ok(Self {
            courier: Courier::new(config.timeout),
            config,
            wallet,
            store,
            events,
            asked,
            peers: BTreeMap::new(),
            brought,
            bring,
            under_way: 0,
            settling: Vec::new(),
            mailboxes,
            deliveries,
            record,
            grants,
            chain,
            seen: seen_by,
            found,
            find,
            refreshed: BTreeMap::new(),
        })
    }

    async fn run(mut self) -> Result<(), WalletdError> {
        loop {
            self.perform().await?;
            if self.under_way == 0 {
                for waiting in self.settling.drain(..) {
                    let _ = waiting.send(Ok(json!({ "settled": true })));
                }
            }
            let now = unix_ms_now();
            let due = self.wallet.next_deadline();
            let due =
                Instant::now() + Duration::from_millis(due.map_or(3_600_000, |due| due.saturating_sub(now)));
            tokio::select! {
                asked = self.asked.recv() => match asked {
                    Some((ask, answer)) => self.asked(ask, answer).await,
                    None => return self.close().await,
                },
                delivered = self.deliveries.recv() => {
                    if let Some(delivered) = delivered {
                        self.delivered(delivered).await?;
                    }
                }
                Some(brought) = self.brought.recv() => {
                    self.under_way -= 1;
                    self.wallet.deposited(&brought.peer, brought.number, brought.what, unix_ms_now());
                    if brought.what == Outcome::Failed {
                        self.refresh(brought.peer);
                    }
                }
                Some(Seen { id, height, is_final, success }) = self.seen.recv() => {
                    self.wallet.seen(id, height, is_final, success, unix_ms_now(), &mut rand::rng());
                }
                Some(found) = self.found.recv() => self.presence_found(found),
                () = sleep_until(due) => self.wallet.on_deadline(unix_ms_now(), &mut rand::rng()),
            }
        }
    }

    /// Acknowledgements that wait are sent; what is on its way arrives or is sent again by the next process.
    async fn close(mut self) -> Result<(), WalletdError> {
        self.wallet.flush(unix_ms_now(), &mut rand::rng());
        self.perform().await?;
        self.peers.clear();
        drop(self.bring);
        let rest = async {
            while self.under_way > 0 && self.brought.recv().await.is_some() {
                self.under_way -= 1;
            }
        };
        let _ = timeout(self.config.timeout, rest).await;
        Ok(())
    }

    /// An envelope: into the core, to disk, and only then acknowledged.
    async fn delivered(&mut self, delivered: Delivered) -> Result<(), WalletdError> {
        let Delivered { mailbox, sequence, envelope } = delivered;
        if let Err(refused) = self.wallet.envelope(&envelope, unix_ms_now(), &mut rand::rng()) {
            tracing::debug!(%refused, "an envelope is refused");
        }
        self.perform().await?;
        // Ends only with the wallet.
        let _ = self.mailboxes[mailbox].send(ToMailbox::Acknowledge(sequence));
        Ok(())
    }

    /// Does what the core wants done, until it wants nothing more.
    async fn perform(&mut self) -> Result<(), WalletdError> {
        loop {
            let output = self.wallet.take();
            let reads = output.reads.clone();
            self.carry_out(output).await?;
            if reads.is_empty() {
                return Ok(());
            }
            for chunk in reads {
                let content = files::read(&chunk);
                let ReadChunk { id, offset, .. } = chunk;
                self.wallet.chunk(&id, offset, content, unix_ms_now(), &mut rand::rng());
            }
        }
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), WalletdError> {
        let dir = self.config.folder.files_path();
        for part in &output.files {
            // # Correctness
            // A part that is not on disk must not be noted as received: it would not come again.
            let written = files::write(&dir, part)
                .map_err(|error| WalletdError::Store(format!("{}: {error}", dir.display())))?;
            if let Some(outcome) = written {
                self.wallet.file_checked(&part.peer, &part.id, outcome, unix_ms_now());
            }
        }
        self.store.apply(&output.writes)?;
        self.spread_grants(&output.grants).await;
        if let Some(presence) = &output.publish {
            self.record.send_replace(Some(presence.bytes().clone()));
        }
        for deposit in output.deposits {
            self.under_way += 1;
            let (courier, bring) = (&self.courier, &self.bring);
            let worker = self.peers.entry(deposit.peer).or_insert_with(|| {
                let (deposits, deposited) = mpsc::unbounded_channel();
                tokio::spawn(courier.clone().serve(deposited, bring.clone()));
                deposits
            });
            // The worker ends only with the wallet.
            let _ = worker.send(deposit);
        }
        for tx in output.submits {
            let _ = self.chain.send(ToChain::Submit(tx.into()));
        }
        for id in output.watches {
            let _ = self.chain.send(ToChain::Watch(id));
        }
        for (wallet, hint) in output.wanted {
            let hint = Multiaddr::from_str(&hint).ok().filter(|hint| node_peer(hint).is_some());
            self.look_up(wallet, hint, Purpose::Member);
        }
        for event in output.events {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
        Ok(())
    }

    /// Mailboxes know of a grant before the peer does.
    async fn spread_grants(&mut self, grants: &[(bool, [u8; 32])]) {
        if grants.is_empty() {
            return;
        }
        self.grants.send_replace(self.wallet.grant_ids());
        let mut waiting = Vec::new();
        for add in [true, false] {
            let ids: Vec<_> = grants.iter().filter(|(adds, _)| *adds == add).map(|(_, id)| *id).collect();
            if ids.is_empty() {
                continue;
            }
            for mailbox in &self.mailboxes {
                let (done, granted) = oneshot::channel();
                let _ = mailbox.send(ToMailbox::Grant { add, ids: ids.clone(), done });
                waiting.push(granted);
            }
        }
        // A mailbox that is away is told all grants when it is back.
        let all = async {
            for granted in waiting {
                let _ = granted.await;
            }
        };
        let _ = timeout(GRANT_TIME, all).await;
    }

    /// Looks for a newer presence of a peer, not more often than every [`REFRESH`].
    fn refresh(&mut self, peer: PublicKey) {
        let now = Instant::now();
        if self.refreshed.get(&peer).is_some_and(|last| now.duration_since(*last) < REFRESH) {
            return;
        }
        self.refreshed.insert(peer, now);
        self.look_up(peer, None, Purpose::Refresh);
    }

    fn look_up(&self, wallet: PublicKey, hint: Option<Multiaddr>, purpose: Purpose) {
        let (courier, find) = (self.courier.clone(), self.find.clone());
        let own = self.wallet.presence().map(|own| own.body().mailboxes.clone()).unwrap_or_default();
        let nodes: Vec<Multiaddr> = hint
            .into_iter()
            .chain(self.config.nodes.first().cloned())
            .chain(own.into_iter().map(|mailbox| mailbox.node))
            .collect();
        tokio::spawn(async move {
            let mut presence =
                Err("no node knows where that wallet has its mail; name one that does: KEY@MULTIADDR"
                    .to_owned());
            for node in nodes {
                match courier.presence(&node, wallet).await {
                    Ok(Some(found)) => {
                        presence = Ok(found);
                        break;
                    }
                    Ok(None) => {}
                    Err(reason) => tracing::debug!(%node, reason, "a node tells no presence"),
                }
            }
            let _ = find.send(Found { wallet, presence, purpose });
        });
    }

    fn presence_found(&mut self, found: Found) {
        let Found { wallet, presence, purpose } = found;
        let now = unix_ms_now();
        let (invitation, answer) = match purpose {
            Purpose::Open(invitation, answer) => (invitation, Some(answer)),
            Purpose::Member => (None, None),
            Purpose::Refresh => {
                if let Ok(presence) = presence {
                    self.wallet.learn(&wallet, &presence);
                }
                return;
            }
        };
        let opened = presence.and_then(|presence| {
            self.wallet.open(presence, invitation, now, &mut rand::rng()).map_err(|error| error.to_string())
        });
        // A channel that is there already serves a group as well.
        self.wallet.greet_for_groups(&wallet, now, &mut rand::rng());
        match answer {
            Some(answer) => {
                let _ = answer.send(opened.map(|()| json!({ "peer": wallet, "stage": "opening" })));
            }
            None => {
                if let Err(reason) = opened {
                    tracing::warn!(%wallet, reason, "no channel to a member of a group");
                }
            }
        }
    }

    async fn facts(
        &self,
        address: Address,
    ) -> Result<(ghost_wallet_channel::session::ChainFacts, u128), String> {
        let (answer, answered) = oneshot::channel();
        self.chain.send(ToChain::Facts(address, answer)).map_err(|_| WalletdError::Closed.to_string())?;
        match timeout(self.config.timeout * 2, answered).await {
            Ok(Ok(facts)) => facts,
            _ => Err("the wallet's node does not answer; see that it runs: ghostd status".into()),
        }
    }

    async fn asked(&mut self, ask: Ask, answer: oneshot::Sender<Answer>) {
        let result = match ask {
            Ask::Settle => return self.settling.push(answer),
            Ask::Open { peer, invitation } => match self.named(&peer, invitation) {
                Ok((name, invitation)) => {
                    let known = self.wallet.channels().iter().any(|channel| channel.peer == name.key);
                    if known {
                        Ok(json!({ "peer": name.key, "stage": "known" }))
                    } else {
                        return self.look_up(name.key, name.at, Purpose::Open(invitation, answer));
                    }
                }
                Err(error) => Err(error),
            },
            ask => self.answer(ask).await,
        };
        // What is answered is on disk.
        let result = match self.perform().await {
            Ok(()) => result,
            Err(error) => Err(error.to_string()),
        };
        let _ = answer.send(result);
    }

    fn named(&self, peer: &str, invitation: Option<String>) -> Result<(WalletName, Option<Secret>), String> {
        // An invitation may follow the name: KEY@MULTIADDR#GRANT.
        let (name, follows) = match peer.split_once('#') {
            Some((name, grant)) => (name, Some(grant.to_owned())),
            None => (peer, None),
        };
        let name = WalletName::from_str(name).map_err(|error| error.to_string())?;
        let grant = match invitation.or(follows) {
            None => None,
            Some(text) => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(&text, &mut bytes)
                    .map_err(|_| "an invitation ends in 64 hex digits".to_owned())?;
                Some(Secret::new(bytes))
            }
        };
        Ok((name, grant))
    }

    async fn answer(&mut self, ask: Ask) -> Answer {
        let now = unix_ms_now();
        let peer_of = |text: &str| {
            let name = text.split('#').next().unwrap_or_default();
            WalletName::from_str(name).map(|name| name.key).map_err(|error| error.to_string())
        };
        let id_of = |text: &str| {
            let mut id = [0; 16];
            hex::decode_to_slice(text, &mut id)
                .map(|()| id)
                .map_err(|_| format!("`{text}` is no id: 32 hex digits"))
        };
        let units =
            |text: &str| text.parse::<u128>().map_err(|_| format!("`{text}` is no number of base units"));
        fn told<T, E: ToString>(result: Result<T, E>) -> Result<T, String> {
            result.map_err(|error| error.to_string())
        }
        match ask {
            Ask::Status => {
                let own = self.wallet.presence();
                let mailboxes: Vec<String> = own
                    .map(|own| own.body().mailboxes.iter().map(|it| it.node.to_string()).collect())
                    .unwrap_or_default();
                let wallet = self.wallet.keys().wallet();
                let name =
                    WalletName { key: wallet, at: own.map(|own| own.body().mailboxes[0].node.clone()) };
                Ok(json!({
                    "wallet": wallet,
                    "name": name.to_string(),
                    "address": self.wallet.keys().address().to_string(),
                    "mailboxes": mailboxes,
                    "channels": self.wallet.channels().len(),
                    "on_their_way": self.under_way,
                }))
            }
            Ask::Close { peer } => {
                let peer = peer_of(&peer)?;
                told(self.wallet.close(&peer))?;
                Ok(json!({ "peer": peer, "closed": true }))
            }
            Ask::Uninvite => Ok(json!({ "taken_back": self.wallet.take_back_invitations() })),
            Ask::Invite => {
                let grant = told(self.wallet.invite(&mut rand::rng()))?;
                let own = self.wallet.presence().ok_or("this wallet has no mailbox yet")?;
                let name = WalletName { key: own.wallet(), at: Some(own.body().mailboxes[0].node.clone()) };
                Ok(json!({ "invitation": format!("{name}#{}", hex::encode(grant.bytes())) }))
            }
            Ask::Say { peer, text } => {
                let peer = peer_of(&peer)?;
                let number = told(self.wallet.say(&peer, &text, now, &mut rand::rng()))?;
                Ok(json!({ "peer": peer, "number": number }))
            }
            Ask::File { peer, path } => {
                let peer = peer_of(&peer)?;
                let path = told(Path::new(&path).canonicalize().map_err(|error| format!("{path}: {error}")))?;
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                let (hash, bytes) =
                    told(files::describe(&path).map_err(|e| format!("{}: {e}", path.display())))?;
                let path = path.to_str().ok_or("the path is no UTF-8")?;
                let id = told(self.wallet.offer(&peer, path, &name, bytes, hash, now, &mut rand::rng()))?;
                Ok(json!({ "peer": peer, "file": hex::encode(id), "name": name, "bytes": bytes }))
            }
            Ask::Request { peer, value, memo } => {
                let (peer, value) = (peer_of(&peer)?, units(&value)?);
                let id = told(self.wallet.request(&peer, value, &memo, now, &mut rand::rng()))?;
                Ok(json!({ "peer": peer, "request": hex::encode(id), "value": value.to_string() }))
            }
            Ask::Pay { request, memo } => {
                let id = id_of(&request)?;
                let (facts, balance) = self.facts(self.wallet.keys().address()).await?;
                let asked = self.wallet.requests().into_iter().find(|it| it.request == request);
                if let Some(asked) = asked {
                    affordable(units(&asked.value)?, facts, balance)?;
                }
                let tx = told(self.wallet.pay(&id, &memo, facts, now, &mut rand::rng()))?;
                Ok(json!({ "request": request, "transaction": tx.to_string() }))
            }
            Ask::Send { to, value } => {
                let value = units(&value)?;
                let (facts, balance) = self.facts(self.wallet.keys().address()).await?;
                affordable(value, facts, balance)?;
                let tx = told(self.wallet.transfer(to, value, facts, now))?;
                Ok(json!({ "transaction": tx.to_string(), "to": to.to_string(), "value": value.to_string() }))
            }
            Ask::Channels => Ok(json!({ "channels": self.wallet.channels() })),
            Ask::Requests => Ok(json!({ "requests": self.wallet.requests() })),
            Ask::Payments => Ok(json!({ "payments": self.wallet.payments() })),
            Ask::Files => Ok(json!({ "files": self.wallet.files() })),
            Ask::Groups => Ok(json!({ "groups": self.wallet.groups() })),
            Ask::History { after, limit } => {
                let key = |number: u64| [b"e", &number.to_be_bytes()[..]].concat();
                let stored = (after..after.saturating_add(limit.min(4_096)))
                    .map_while(|number| self.store.get(&key(number)));
                let events: Vec<Value> =
                    stored.filter_map(|event| serde_json::from_slice(&event).ok()).collect();
                Ok(json!({ "events": events }))
            }
            Ask::GroupNew { label, threshold, members } => {
                let named: Result<Vec<_>, String> = members
                    .iter()
                    .map(|text| {
                        let name = told(WalletName::from_str(text))?;
                        Ok((name.key, name.at.map(|at| at.to_string()).unwrap_or_default()))
                    })
                    .collect();
                let id = told(self.wallet.found_group(&label, threshold, named?, now, &mut rand::rng()))?;
                Ok(json!({ "group": hex::encode(id) }))
            }
            Ask::GroupJoin { group } => {
                told(self.wallet.join_group(&id_of(&group)?, now, &mut rand::rng()))?;
                Ok(json!({ "group": group, "joined": true }))
            }
            Ask::GroupPropose { group, to, value } => {
                let (id, value) = (id_of(&group)?, units(&value)?);
                let address = self
                    .wallet
                    .group_address(&id)
                    .ok_or("the group has no account yet: all members must join")?;
                let (facts, balance) = self.facts(address).await?;
                affordable(value, facts, balance)?;
                let proposal = told(self.wallet.propose(&id, to, value, facts, now, &mut rand::rng()))?;
                Ok(json!({ "group": group, "proposal": hex::encode(proposal) }))
            }
            Ask::GroupApprove { group, proposal } => {
                told(self.wallet.approve(&id_of(&group)?, &id_of(&proposal)?, now, &mut rand::rng()))?;
                Ok(json!({ "group": group, "proposal": proposal, "approved": true }))
            }
            Ask::Open { .. } | Ask::Settle => Err("asked elsewhere".into()),
        }
    }
}

/// Says now what the chain would say later.
fn affordable(
    value: u128,
    facts: ghost_wallet_channel::session::ChainFacts,
    balance: u128,
) -> Result<(), String> {
    let fee = u128::from(facts.gas_limit) * u128::from(facts.gas_price);
    match value.checked_add(fee) {
        Some(cost) if cost <= balance => Ok(()),
        _ => Err(format!("{value} base units and a fee of {fee} are more than the account has: {balance}")),
    }
}

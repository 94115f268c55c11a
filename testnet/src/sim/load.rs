//! Transfers into a simulated network, and when each was seen in a block.
//!
//! The pace is open-loop: what is due is submitted, however the network fares. Each account belongs to
//! one node, as a wallet does to its ghostd; a transfer is submitted there, and its latency is the time
//! until *that* node first has it in a canonical block. What is not in a block after [`PATIENCE`] is
//! submitted again, as a wallet would, since a crash may have taken it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use ghost_node::{chain::HeadView, cli::tx::send::Sender};
use ghost_proto::{Address, BlockId, TxId};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    network::{Directory, SimNetwork},
    wire::NodeId,
};
use crate::genesis::{CHAIN_ID, Purpose, key};

/// After so long without a block a transfer is submitted again.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a dead node is looked for, and how often the book is searched for what is overdue.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Transfers a second over all nodes.
    pub tps: f64,
    /// Bytes of payload in each.
    pub payload_bytes: usize,
    /// The first so many nodes have wallets.
    pub entrances: u32,
}

#[derive(Debug)]
struct Sent {
    node: NodeId,
    order: u64,
    at: Instant,
    again_at: Instant,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Book {
    waiting: HashMap<TxId, Sent>,
    submitted: u64,
    included: u64,
    latencies: Vec<(Instant, Duration)>,
    refused: BTreeMap<String, u64>,
}

/// What became of the traffic so far.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadSummary {
    /// Transfers made.
    pub submitted: u64,
    /// Of these, in a block of the node they went to.
    pub included: u64,
    /// Refusals by reason. A transfer that was submitted again may be among them.
    pub refused: BTreeMap<String, u64>,
    /// Latencies, ascending.
    latencies: Vec<Duration>,
}

impl LoadSummary {
    /// The latency that this share of the included stayed below, in milliseconds.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        Some(self.latencies[rank.saturating_sub(1).min(last)].as_secs_f64() * 1e3)
    }
}

/// Traffic under way.
#[derive(Debug)]
pub struct Load {
    book: Arc<Mutex<Book>>,
    maker: JoinSet<()>,
    _insister: JoinSet<()>,
    _watchers: JoinSet<()>,
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("no code panics while it holds the book")
}

impl Load {
    /// Starts it. It ends when this is dropped.
    pub fn start(network: &SimNetwork, pace: Pace) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let plan = network.plan();
        let entrances = pace.entrances.clamp(1, plan.nodes);
        let mut watchers = JoinSet::new();
        for node in (0..entrances).map(NodeId) {
            watchers.spawn(watch(network.directory(), node, book.clone()));
        }
        let wallets: Vec<(NodeId, Sender)> = (0..plan.accounts)
            .map(|n| {
                let key = key(plan.seed, Purpose::Account, n);
                (NodeId(n % entrances), Sender { key, chain_id: CHAIN_ID, gas_price: 1, nonce: 0 })
            })
            .collect();
        let mut maker = JoinSet::new();
        if pace.tps > 0.0 && !wallets.is_empty() {
            maker.spawn(make(network.directory(), pace, wallets, book.clone()));
        }
        let mut insister = JoinSet::new();
        insister.spawn(insist(network.directory(), book.clone()));
        Self { book, maker, _insister: insister, _watchers: watchers }
    }

    /// No more transfers. What is under way is still watched, and submitted again when it is overdue.
    pub fn stop(&mut self) {
        self.maker.abort_all();
    }

    /// Transfers that are in no block of their node yet.
    pub fn waiting(&self) -> usize {
        lock(&self.book).waiting.len()
    }

    /// What became of it so far.
    pub fn summary(&self) -> LoadSummary {
        self.summary_between(None, None)
    }

    /// The same, with the latencies of those alone that were submitted in between.
    pub fn summary_between(&self, from: Option<Instant>, to: Option<Instant>) -> LoadSummary {
        let book = lock(&self.book);
        let mut latencies: Vec<Duration> = book
            .latencies
            .iter()
            .filter(|(at, _)| from.is_none_or(|from| *at >= from) && to.is_none_or(|to| *at < to))
            .map(|(_, latency)| *latency)
            .collect();
        latencies.sort();
        LoadSummary {
            submitted: book.submitted,
            included: book.included,
            refused: book.refused.clone(),
            latencies,
        }
    }
}

async fn submit(directory: &Directory, node: NodeId, bytes: Bytes, book: &Mutex<Book>) {
    let Some(node) = directory.get(node) else {
        *lock(book).refused.entry("node_down".into()).or_default() += 1;
        return;
    };
    let answer = node.submit(vec![bytes]).await;
    for result in answer.results.into_iter().filter(|result| !result.accepted) {
        *lock(book).refused.entry(result.reason).or_default() += 1;
    }
}

async fn make(directory: Directory, pace: Pace, mut wallets: Vec<(NodeId, Sender)>, book: Arc<Mutex<Book>>) {
    let recipients: Vec<Address> = wallets.iter().map(|(_, wallet)| wallet.key.address()).collect();
    let begun = Instant::now();
    for order in 0_u64.. {
        sleep_until(begun + Duration::from_secs_f64(order as f64 / pace.tps)).await;
        let turn = (order % wallets.len() as u64) as usize;
        let to = recipients[(turn + 1 + order as usize / wallets.len()) % recipients.len()];
        let (node, wallet) = &mut wallets[turn];
        let payload = Bytes::from(vec![order as u8 | 1; pace.payload_bytes]);
        let Ok(tx) = wallet.transfer(to, 1, payload) else { return };
        let (node, now) = (*node, Instant::now());
        {
            let mut book = lock(&book);
            book.submitted += 1;
            let bytes = tx.bytes().clone();
            book.waiting.insert(tx.id(), Sent { node, order, at: now, again_at: now + PATIENCE, bytes });
        }
        submit(&directory, node, tx.bytes().clone(), &book).await;
    }
}

/// Submits again what is overdue, oldest first: those of one account must come in order.
async fn insist(directory: Directory, book: Arc<Mutex<Book>>) {
    loop {
        sleep(LOOK_EVERY).await;
        let now = Instant::now();
        let mut overdue: Vec<(u64, NodeId, Bytes)> = Vec::new();
        for sent in lock(&book).waiting.values_mut().filter(|sent| sent.again_at <= now) {
            sent.again_at = now + PATIENCE;
            overdue.push((sent.order, sent.node, sent.bytes.clone()));
        }
        overdue.sort_by_key(|(order, ..)| *order);
        for (_, node, bytes) in overdue {
            submit(&directory, node, bytes, &book).await;
        }
    }
}

/// Reads every new canonical block of a node, through all its lives.
async fn watch(directory: Directory, node: NodeId, book: Arc<Mutex<Book>>) {
    // By height: what was read already.
    let mut read: BTreeMap<u64, BlockId> = BTreeMap::new();
    loop {
        let heads = directory.get(node).map(|node| (node.heads(), node.view()));
        let Some((mut heads, mut view)) = heads else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        loop {
            take_in(&view, &mut read, &book);
            match heads.next().await {
                // A killed node goes on for a moment without a network; nobody sees what it says.
                Some(next) if directory.get(node).is_some() => view = next,
                _ => break,
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn take_in(view: &HeadView, read: &mut BTreeMap<u64, BlockId>, book: &Mutex<Book>) {
    let now = Instant::now();
    let head = view.head();
    read.split_off(&(head.height + 1));
    let mut fresh = Vec::new();
    for height in (1..=head.height).rev() {
        let Ok(Some(id)) = view.canonical_id(height) else { return };
        if read.get(&height) == Some(&id) {
            break;
        }
        fresh.push((height, id));
    }
    for (height, id) in fresh.into_iter().rev() {
        let Ok(Some(block)) = view.block(&id) else { return };
        read.insert(height, id);
        let mut book = lock(book);
        for tx in block.transactions() {
            if let Some(sent) = book.waiting.remove(&tx.id()) {
                book.included += 1;
                book.latencies.push((sent.at, now - sent.at));
            }
        }
    }
    while read.len() > 256 {
        read.pop_first();
    }
}

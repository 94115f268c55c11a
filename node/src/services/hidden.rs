//! Submitting through circuits of their own: privacy level `tor`.
//!
//! A transaction goes over a few circuits that nothing else uses, to different peers, each from a caller whose key
//! was made for this one call; who gets it sees a client somewhere behind Tor and floods what it brings as its own.
//! This node says nothing of the transaction to anybody, not even to its own pool, until it hears it from the
//! network like any other: that is how it knows that it is out. What was not heard of in time is tried with other
//! peers. If that does not help it is given up, with a word in the log: it is never sent another way.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use ghost_mempool_relay::pool::Pool;
use ghost_proto::{PeerId, TxId, message};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
    transport::{Isolation, Onion, Remote},
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{peers::PeerBook, tor::Tor};
use crate::{chain::HeadView, metrics::Metrics};

/// Circuits for one submission. One peer could swallow it; three that do not know of each other rarely all do.
const CIRCUITS: usize = 3;

/// Times that other peers are tried.
const ROUNDS: usize = 3;

/// A circuit is opened up to this long after it could be: three that begin together look like one hand.
const JITTER: Duration = Duration::from_secs(2);

/// Time one circuit may take, from its first relay to the peer's answer.
const CIRCUIT_TIME: Duration = Duration::from_secs(60);

/// Time the network has to bring it back. Flooding takes seconds; a block takes a slot.
const HEARD_WITHIN: Duration = Duration::from_secs(20);

/// Submissions under way at once. Each takes three circuits and what it carries, 256 KiB at most: 16 MiB.
const UNDERWAY_MAX: usize = 64;

/// Sends what is to be hidden.
#[derive(Clone)]
pub(crate) struct Hidden {
    pub(crate) tor: Option<Arc<Tor>>,
    pub(crate) book: PeerBook,
    pub(crate) pool: Arc<Mutex<Pool>>,
    pub(crate) views: Arc<ArcSwap<HeadView>>,
    pub(crate) metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
}

/// One submission and the place it takes.
pub(crate) struct Underway {
    hidden: Hidden,
    tor: Arc<Tor>,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Hidden {
    pub(crate) fn new(
        tor: Option<Arc<Tor>>,
        book: PeerBook,
        pool: Arc<Mutex<Pool>>,
        views: Arc<ArcSwap<HeadView>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { tor, book, pool, views, metrics, places: Arc::new(Semaphore::new(UNDERWAY_MAX)) }
    }

    /// A place for one submission, or why there is none: a word for programs, and a text for people.
    pub(crate) fn begin(&self) -> Result<Underway, (&'static str, String)> {
        let unable =
            |text: &str| ("no_tor", format!("{text}; nothing was sent. Use stem, or try again later"));
        let Some(tor) = &self.tor else {
            return Err(unable("this node does not use Tor (tor.mode is \"off\")"));
        };
        if !tor.is_ready() {
            return Err(unable("Tor does not work yet; `ghostd status` says how far it is"));
        }
        if self.book.onion_places(1, &BTreeSet::new()).is_empty() {
            return Err(unable("no peer with an onion address is known"));
        }
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Ok(Underway { hidden: self.clone(), tor: tor.clone(), _place: place }),
            Err(_) => Err(("busy", format!("{UNDERWAY_MAX} submissions over Tor are under way; try again"))),
        }
    }
}

impl Underway {
    /// Sends them, and sees to it that they are heard of.
    pub(crate) async fn send(self, transactions: Vec<(TxId, Bytes)>) {
        let ids: Vec<TxId> = transactions.iter().map(|(id, _)| *id).collect();
        let bytes: Vec<Bytes> = transactions.into_iter().map(|(_, bytes)| bytes).collect();
        let mut asked = BTreeSet::new();
        for round in 0..ROUNDS {
            let places = self.hidden.book.onion_places(CIRCUITS, &asked);
            asked.extend(places.iter().map(|(peer, _)| *peer));
            let mut circuits = JoinSet::new();
            for (peer, onion) in places {
                circuits.spawn(one_circuit(self.tor.clone(), peer, onion, bytes.clone()));
            }
            let mut taken = 0;
            while let Some(done) = circuits.join_next().await {
                taken += usize::from(done.unwrap_or(false));
            }
            tracing::debug!(round, taken, "submitted over Tor");
            if taken == 0 && round + 1 < ROUNDS {
                // Whoever was asked may have been away: in the next round everyone may be asked again.
                asked.clear();
            }
            if self.heard(&ids).await {
                self.hidden.metrics.hidden_submission("confirmed");
                return tracing::debug!(count = ids.len(), "what was submitted over Tor came back");
            }
        }
        self.hidden.metrics.hidden_submission("given_up");
        for id in ids.iter().filter(|id| !self.is_out(id)) {
            tracing::warn!(%id, "submitted over Tor and not heard of since; it is given up, and was sent no other way. Submit it again");
        }
    }

    async fn heard(&self, ids: &[TxId]) -> bool {
        let deadline = Instant::now() + HEARD_WITHIN;
        loop {
            if ids.iter().all(|id| self.is_out(id)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Only the network can have brought it here.
    fn is_out(&self, id: &TxId) -> bool {
        let pending = self.hidden.pool.lock().expect("no code panics while it holds the pool").contains(id);
        pending || self.hidden.views.load().transaction(id).is_ok_and(|found| found.is_some())
    }
}

/// Calls one peer as somebody it has never heard of. True if it took all.
async fn one_circuit(tor: Arc<Tor>, peer: PeerId, onion: Onion, transactions: Vec<Bytes>) -> bool {
    sleep(JITTER.mul_f64(rand::random())).await;
    let call = async {
        let stream = tor.carrier.connect(onion, Isolation::Once(rand::random())).await.ok()?;
        let config = ClientConfig { timeout: CIRCUIT_TIME, ..ClientConfig::new(Identity::generate()) };
        let client = Client::over(config, stream, peer, Remote::Onion(onion)).await.ok()?;
        let results = client.submit_with(transactions, message::Privacy::Fast).await.ok();
        client.close().await;
        // One that is known there already is as good.
        Some(results?.iter().all(|result| result.accepted || result.reason == "known"))
    };
    timeout(CIRCUIT_TIME, call).await.ok().flatten().unwrap_or(false)
}

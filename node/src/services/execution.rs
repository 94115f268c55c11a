//! Threads for what remote callers let this node compute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ghost_proto::PeerId;
use tokio::{sync::Semaphore, time::timeout};

use crate::engine::Stop;

/// Time one call may run.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(1);

/// Calls of one peer that run or wait. More than a peer with one connection can have running, and few
/// enough that it waits 16 s at most for its own endless ones.
pub(crate) const CALLS_PER_PEER_MAX: usize = 16;

/// Calls of all peers that run or wait: 256 × 128 KiB of input are 32 MiB.
pub(crate) const CALLS_MAX: usize = 256;

/// When to ask again after [`Refusal::Busy`].
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Why nothing was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too much runs or waits; try again after [`RETRY_AFTER`].
    Busy,
    /// The job broke down.
    Broken,
}

#[derive(Debug)]
struct Inner {
    turns: Arc<Semaphore>,
    admitted: Mutex<Admitted>,
}

#[derive(Debug, Default)]
struct Admitted {
    all: usize,
    /// By peer; those in 0-RTT data, whose sender nobody knows, together.
    of_peer: HashMap<Option<PeerId>, usize>,
}

/// Runs calls on threads of their own: as many at once as there are processors but one, which the
/// chain keeps. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Execution(Arc<Inner>);

/// A place among the calls that run or wait, until it is dropped.
struct Place {
    pool: Execution,
    peer: Option<PeerId>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut admitted = self.pool.admitted();
        admitted.all -= 1;
        if let Some(count) = admitted.of_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                admitted.of_peer.remove(&self.peer);
            }
        }
    }
}

impl Execution {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(processors.saturating_sub(1).max(1))
    }

    fn with_threads(threads: usize) -> Self {
        Self(Arc::new(Inner { turns: Arc::new(Semaphore::new(threads)), admitted: Mutex::default() }))
    }

    fn admitted(&self) -> std::sync::MutexGuard<'_, Admitted> {
        self.0.admitted.lock().expect("no code panics while it holds the counts")
    }

    fn admit(&self, peer: Option<PeerId>) -> Result<Place, Refusal> {
        let mut admitted = self.admitted();
        let of_peer = admitted.of_peer.get(&peer).copied().unwrap_or_default();
        if admitted.all >= CALLS_MAX || of_peer >= CALLS_PER_PEER_MAX {
            return Err(Refusal::Busy);
        }
        admitted.all += 1;
        admitted.of_peer.insert(peer, of_peer + 1);
        Ok(Place { pool: self.clone(), peer })
    }

    /// Says at once what [`Self::run`] would say of one more job of this peer.
    pub(crate) fn check(&self, peer: Option<PeerId>) -> Result<(), Refusal> {
        self.admit(peer).map(drop)
    }

    /// Runs a job that ends soon after it is told to stop: after [`CALL_TIME_MAX`], or when the future
    /// is dropped. Its place is free when it has ended, not before.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        peer: Option<PeerId>,
        job: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = self.admit(peer)?;
        // The semaphore is never closed.
        let Ok(turn) = self.0.turns.clone().acquire_owned().await else { return Err(Refusal::Broken) };
        let stop = Stop::default();
        let told = stop.clone();
        let _guard = stop.on_drop();
        let mut running = tokio::task::spawn_blocking(move || {
            let done = job(&stop);
            drop((turn, place));
            done
        });
        let done = match timeout(CALL_TIME_MAX, &mut running).await {
            Ok(done) => done,
            Err(_) => {
                told.stop();
                running.await
            }
        };
        done.map_err(|_| Refusal::Broken)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Works until it is stopped.
    fn endless(stop: &Stop) {
        while !stop.is_stopped() {
            std::thread::yield_now();
        }
    }

    fn peer(seed: u8) -> Option<PeerId> {
        ghost_proto::record::peer_of(&ghost_proto::KeyPair::from_seed(&[seed; 32]).public())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn scenario_35_a_dropped_call_stops_and_frees_its_place() {
        let pool = Execution::with_threads(1);
        let (ended, seen) = mpsc::channel();
        let running = tokio::spawn({
            let (pool, ended) = (pool.clone(), ended.clone());
            async move {
                pool.run(peer(1), move |stop| {
                    ended.send("began").unwrap();
                    endless(stop);
                    ended.send("ended").unwrap();
                })
                .await
            }
        });
        assert_eq!(seen.recv(), Ok("began"));
        running.abort();
        // The next can run only because the first has stopped.
        assert_eq!(pool.run(peer(2), |_| 7).await, Ok(7));
        assert_eq!(seen.recv(), Ok("ended"));
        // A place is given back by the thread that held it, a moment after its call has ended.
        for _ in 0..1_000_000 {
            if pool.admitted().all == 0 {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(pool.admitted().all, 0);
        assert!(pool.admitted().of_peer.is_empty(), "nothing is kept of peers that are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn scenario_35_a_call_is_stopped_when_its_time_is_over() {
        let pool = Execution::with_threads(1);
        let running = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(peer(1), endless).await }
        });
        tokio::task::yield_now().await;
        tokio::time::advance(CALL_TIME_MAX - Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
        assert!(!running.is_finished());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(running.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn scenario_35_a_peer_and_all_peers_may_have_so_many_calls() {
        let pool = Execution::with_threads(1);
        let places: Vec<_> = (0..CALLS_PER_PEER_MAX).map(|_| pool.admit(peer(1)).map_err(drop)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(pool.admit(peer(1)).err(), Some(Refusal::Busy));
        let others: Vec<_> =
            (CALLS_PER_PEER_MAX..CALLS_MAX).map(|n| pool.admit(peer((2 + n / 10) as u8))).collect();
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(pool.admit(peer(200)).err(), Some(Refusal::Busy));
        drop(places);
        assert!(pool.admit(peer(200)).is_ok());
        drop(others);
        assert_eq!(pool.admitted().all, 0);
    }
}

//! One node's share of the traffic.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_node::cli::{connect::busy_pause, output::Failure, tx::send::Sender};
use ghost_proto::{
    Address, TxId,
    limits::{SUBMIT_TXS_MAX, TX_BATCH_BYTES_MAX},
};
use ghost_protocol::client::{CallError, Client};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::{sync::watch, time};

use super::{Pace, Reach, Tracker};

/// How long to wait before a node that did not answer is tried again.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(250);

/// What is due within this time goes into one submission. It is part of no latency: a transfer's time
/// begins when it is submitted.
const TICK: Duration = Duration::from_millis(25);

/// How often, after a refusal, an account asks for its next nonce: once for the transfer that fills the
/// gap, once for the one after it.
const ASK_AGAIN: u8 = 2;

#[derive(Debug)]
struct Account {
    sender: Sender,
    ask_nonce: u8,
}

/// Sends one node's share.
#[derive(Debug)]
pub(super) struct Lane {
    reach: Reach,
    accounts: Vec<Account>,
    next: usize,
    recipients: Arc<[Address]>,
    rng: ChaCha12Rng,
    share: Share,
    begun: Instant,
    made: u64,
    tracker: Arc<Tracker>,
}

/// One lane's part of the pace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Transfers a second.
    rate: f64,
    /// Where between two transfers this lane begins, from 0 to 1.
    phase: f64,
    duration: Option<Duration>,
}

impl Share {
    pub(super) fn new(pace: Pace, lane: usize, lanes: usize) -> Self {
        let lanes = lanes as f64;
        Self { rate: f64::from(pace.tps) / lanes, phase: lane as f64 / lanes, duration: pace.duration }
    }

    /// Transfers that are due after a time. Lanes begin at different phases, so that the sum over n lanes
    /// is what one lane with n times the rate would have made: ⌊x⌋ + ⌊x + 1/n⌋ + … = ⌊nx⌋ (Hermite).
    fn due(&self, elapsed: Duration) -> u64 {
        let elapsed = self.duration.map_or(elapsed, |duration| elapsed.min(duration));
        // A billionth makes up for what the division left off a whole number.
        (elapsed.as_secs_f64() * self.rate + self.phase + 1e-9) as u64
    }
}

impl Lane {
    pub(super) fn new(
        reach: Reach,
        senders: Vec<Sender>,
        recipients: Arc<[Address]>,
        share: Share,
        tracker: Arc<Tracker>,
    ) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(reach.seed);
        rng.set_stream(u64::MAX - reach.node as u64);
        let accounts = senders.into_iter().map(|sender| Account { sender, ask_nonce: 0 }).collect();
        Self { reach, accounts, next: 0, recipients, rng, share, begun: Instant::now(), made: 0, tracker }
    }

    /// Ends when `stop` says so and what was begun is answered.
    pub(super) async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut was_away = false;
        while !*stop.borrow() {
            let client = tokio::select! {
                client = self.reach.connect() => client,
                () = stopped(stop.clone()) => return,
            };
            if was_away {
                // What was due meanwhile is left out: it would come as one burst.
                self.made = self.share.due(self.begun.elapsed());
            }
            was_away = true;
            let reach = self.reach.clone();
            let served = tokio::select! {
                served = self.serve(&client, &stop) => served,
                () = reach.moved() => continue,
            };
            if let Err(failure) = served {
                tracing::debug!(node = self.reach.node, error = failure.text(), "traffic interrupted");
                time::sleep(RETRY_EVERY).await;
            }
        }
    }

    async fn serve(&mut self, client: &Client, stop: &watch::Receiver<bool>) -> Result<(), Failure> {
        // What the node knew only in memory when it was killed comes again, as from a wallet.
        let again = self.tracker.unseen_of(self.reach.node);
        for batch in batches(again) {
            self.submit(client, batch).await?;
        }
        let mut ended = None;
        loop {
            // What became due before the end is still sent; the end does not move while that takes time.
            if ended.is_none() && *stop.borrow() {
                ended = Some(self.begun.elapsed());
            }
            let due = self.share.due(ended.unwrap_or_else(|| self.begun.elapsed()));
            let count =
                usize::try_from(due.saturating_sub(self.made)).unwrap_or(usize::MAX).min(SUBMIT_TXS_MAX);
            if count == 0 {
                if ended.is_some() {
                    return Ok(());
                }
                time::sleep(TICK).await;
                continue;
            }
            self.made += count as u64;
            let mut batch = Vec::with_capacity(count);
            for _ in 0..count {
                batch.push(self.make(client).await?);
            }
            for batch in batches(batch) {
                self.submit(client, batch).await?;
            }
        }
    }

    /// Signs the next transfer: accounts take turns, recipients are drawn.
    async fn make(&mut self, client: &Client) -> Result<(TxId, Bytes), Failure> {
        let index = self.next % self.accounts.len();
        self.next += 1;
        let account = &mut self.accounts[index];
        if account.ask_nonce > 0 {
            account.sender.nonce = client.account(account.sender.key.address()).await?.next_nonce;
            account.ask_nonce -= 1;
        }
        let to = self.recipients[self.rng.next_u32() as usize % self.recipients.len()];
        let value = u128::from(self.rng.next_u32() % 1_000 + 1);
        let tx = account.sender.transfer(to, value, Bytes::new())?;
        let (id, bytes) = (tx.id(), tx.bytes().clone());
        self.tracker.sending(id, self.reach.node, bytes.clone(), Instant::now());
        Ok((id, bytes))
    }

    async fn submit(&mut self, client: &Client, batch: Vec<(TxId, Bytes)>) -> Result<(), Failure> {
        let results = submit_when_free(client, &batch).await?;
        let mut refused = false;
        for ((id, _), result) in batch.iter().zip(results) {
            // A transfer that was submitted again may have been included meanwhile.
            if result.accepted || client_knows(client, *id, &result.reason).await? {
                self.tracker.accepted(*id);
            } else {
                refused = true;
                self.tracker.rejected(*id, &result.reason);
            }
        }
        if refused {
            // Which account it was is in the bytes; asking all of them is simpler, and seldom needed.
            for account in &mut self.accounts {
                account.ask_nonce = ASK_AGAIN;
            }
        }
        Ok(())
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn client_knows(client: &Client, id: TxId, reason: &str) -> Result<bool, Failure> {
    Ok(reason == "nonce_used" && client.transaction(id).await?.is_some())
}

/// Cuts what is to be submitted into calls.
fn batches(all: Vec<(TxId, Bytes)>) -> Vec<Vec<(TxId, Bytes)>> {
    let mut batches: Vec<Vec<(TxId, Bytes)>> = Vec::new();
    let mut bytes = 0;
    for (id, tx) in all {
        match batches.last_mut() {
            Some(last) if last.len() < SUBMIT_TXS_MAX && bytes + tx.len() <= TX_BATCH_BYTES_MAX => {
                bytes += tx.len();
                last.push((id, tx));
            }
            _ => {
                bytes = tx.len();
                batches.push(vec![(id, tx)]);
            }
        }
    }
    batches
}

async fn submit_when_free(
    client: &Client,
    batch: &[(TxId, Bytes)],
) -> Result<Vec<ghost_proto::message::SubmitResult>, CallError> {
    loop {
        match client.submit(batch.iter().map(|(_, bytes)| bytes.clone()).collect()).await {
            Err(error) => match busy_pause(&error) {
                Some(pause) => time::sleep(pause).await,
                None => return Err(error),
            },
            answered => return answered,
        }
    }
}

/// How long refusals that pass are borne.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without any progress.
    pub total: Duration,
    /// Between two tries.
    pub pause: Duration,
}

/// Submits until all are taken. What is refused is sent again in its order, because an account's limit
/// passes as blocks are made.
///
/// # Errors
/// The last refusal, when nothing more was taken for as long as `patience` lasts.
pub async fn submit_patiently(
    client: &Client,
    all: Vec<(TxId, Bytes)>,
    patience: Patience,
) -> Result<(), Failure> {
    for mut batch in batches(all) {
        let mut deadline = Instant::now() + patience.total;
        loop {
            let results = submit_when_free(client, &batch).await?;
            let before = batch.len();
            let mut last = None;
            let mut left = Vec::new();
            for (entry, result) in batch.into_iter().zip(results) {
                if !result.accepted && !client_knows(client, entry.0, &result.reason).await? {
                    left.push(entry);
                    last = Some(result);
                }
            }
            batch = left;
            let Some(refusal) = last else { break };
            if batch.len() < before {
                deadline = Instant::now() + patience.total;
            } else if Instant::now() > deadline {
                return Err(Failure::new(format!("refused ({}): {}", refusal.reason, refusal.message)));
            }
            time::sleep(patience.pause).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_on_average_whatever_the_ticks() {
        let share = |lane, lanes, tps, duration| Share::new(Pace { tps, seed: 0, duration }, lane, lanes);
        let one = share(0, 1, 50, None);
        assert_eq!(one.due(Duration::ZERO), 0);
        assert_eq!(one.due(Duration::from_millis(19)), 0);
        assert_eq!(one.due(Duration::from_millis(20)), 1);
        for (lanes, tps, seconds) in [(4, 50, 30), (16, 500, 60), (3, 100, 7), (7, 1, 1), (64, 20_000, 1)] {
            let limit = Some(Duration::from_secs(seconds));
            let total: u64 =
                (0..lanes).map(|lane| share(lane, lanes, tps, limit).due(Duration::from_secs(999))).sum();
            assert_eq!(total, u64::from(tps) * seconds, "{lanes} lanes, {tps} a second, {seconds} s");
        }
    }

    #[test]
    fn calls_are_cut_at_both_limits_and_keep_the_order() {
        let all = |count: usize, size: usize| -> Vec<(TxId, Bytes)> {
            (0..count).map(|n| (TxId([(n % 251) as u8; 32]), Bytes::from(vec![0; size]))).collect()
        };
        let lengths = |all| batches(all).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(all(SUBMIT_TXS_MAX, 1)), [SUBMIT_TXS_MAX]);
        assert_eq!(lengths(all(SUBMIT_TXS_MAX + 1, 1)), [SUBMIT_TXS_MAX, 1]);
        assert_eq!(lengths(all(3, TX_BATCH_BYTES_MAX / 2)), [2, 1]);
        assert_eq!(lengths(all(2, TX_BATCH_BYTES_MAX / 2 + 1)), [1, 1]);
        assert_eq!(lengths(Vec::new()), [] as [usize; 0]);
        let kept: Vec<_> = batches(all(3_000, 100)).concat();
        assert_eq!(kept, all(3_000, 100));
    }
}

//! The task that relays transactions: the shell around [`TxRelay`].
//!
//! Bodies are verified and put into the pool here, a frame at a time; the pool itself is shared with
//! remote calls, which put in what is submitted, and with the chain task, which takes out what it
//! includes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use ghost_frames::{
    Code, Frame, Payload, StreamType,
    tx::{FeeFloor, StemTransaction, Transactions, TxRequest},
};
use ghost_mempool_relay::{
    pool::{AccountState, Accounts, Place, Pool, Removal},
    reconcile::Ask,
    stem::{self, Stem},
    sync::RequestEnd,
    tx_relay::{self, Checked, Effect, Input, RelayStats, RequestId, Salt, TxRelay, TxSummary, Via},
};
use ghost_proto::{
    Address, PeerId, SignedTransaction, TxId, VerifiedTransaction,
    limits::{TX_BATCH_BYTES_MAX, TX_BATCH_MAX},
};
use ghost_protocol::{
    Session,
    inbox::{Asked, Pushed},
    request::Responder,
    session::{Delivery, Direction},
};
use rand_chacha::ChaCha12Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    conduct::{Conduct, Offence},
    requests::{Report, Requests},
};
use crate::{chain::HeadView, metrics::Metrics};

/// Links that transactions are announced and pushed on. Sixteen would do for reach, but a node that
/// is inactive to all its peers would hear nothing; 32 leave nobody out in networks of that size.
const ACTIVE_LINKS_MAX: usize = 32;

/// How often round-trip times and figures are brought up to date.
const REFRESH: Duration = Duration::from_secs(2);

/// What the transaction task is told.
#[derive(Debug)]
pub(crate) enum ToTransactions {
    /// A node peer is here.
    PeerUp(Session),
    /// It is gone.
    PeerDown(PeerId),
    /// The canonical head moved, and with it the pool.
    HeadChanged { ready: Vec<TxId>, removed: Vec<(TxId, Removal)> },
    /// Transactions were submitted to this node.
    Submitted { ready: Vec<TxId>, removed: Vec<(TxId, Removal)> },
    /// Transactions were submitted to this node that shall not be seen to come from it.
    Stem(Vec<VerifiedTransaction>),
}

/// The state at the head, as the pool asks for it.
pub(crate) fn accounts_of(view: &HeadView) -> impl Accounts + '_ {
    |address: &Address| {
        // A store that fails stops the node; until then nobody has anything.
        let account = view.account(address).unwrap_or_default();
        AccountState { nonce: account.nonce, balance: account.balance }
    }
}

/// What the transaction task needs.
pub(crate) struct TransactionService {
    pub(crate) pool: Arc<Mutex<Pool>>,
    pub(crate) views: Arc<ArcSwap<HeadView>>,
    pub(crate) seed: [u8; 32],
    pub(crate) stem_seed: [u8; 32],
    pub(crate) entropy: ChaCha12Rng,
    pub(crate) conduct: Conduct,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) commands: mpsc::Receiver<ToTransactions>,
    pub(crate) pushes: mpsc::Receiver<Pushed>,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) compared: mpsc::Receiver<Asked>,
    pub(crate) stats: watch::Sender<RelayStats>,
}

struct Peer {
    session: Session,
    active: bool,
}

type Key = (PeerId, RequestId);

struct Running {
    service: TransactionService,
    relay: TxRelay,
    stem: Stem,
    requests: Requests<Key>,
    peers: BTreeMap<PeerId, Peer>,
    responders: BTreeMap<u64, Responder>,
    next_responder: u64,
    floor: u64,
}

impl TransactionService {
    /// Runs until the node stops.
    pub(crate) async fn run(self) {
        let relay = TxRelay::new(self.seed);
        let stem = Stem::new(self.stem_seed);
        let running = Running {
            service: self,
            relay,
            stem,
            requests: Requests::new(),
            peers: BTreeMap::new(),
            responders: BTreeMap::new(),
            next_responder: 0,
            floor: 0,
        };
        running.run().await;
    }
}

impl Running {
    async fn run(mut self) {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.announce_pool();
        loop {
            let wake = self.next_wake();
            tokio::select! {
                command = self.service.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(pushed) = self.service.pushes.recv() => self.pushed(pushed),
                Some(asked) = self.service.asked.recv() => self.asked(asked),
                Some(asked) = self.service.compared.recv() => self.compared(asked),
                report = self.requests.next() => self.report(report),
                _ = refresh.tick() => self.refresh(),
                () = sleep_until(wake) => {}
            }
            self.on_time();
        }
    }

    fn next_wake(&self) -> Instant {
        let pool = self.service.pool.lock().expect("no code panics while it holds the pool").next_deadline();
        let hour = Instant::now() + Duration::from_secs(3600);
        [pool, self.relay.next_deadline(), self.stem.next_deadline()]
            .into_iter()
            .flatten()
            .map(Instant::from_std)
            .fold(hour, Instant::min)
    }

    fn on_time(&mut self) {
        let now = Instant::now().into_std();
        let expired = {
            let mut pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            if pool.next_deadline().is_some_and(|deadline| deadline <= now) {
                pool.on_deadline(now)
            } else {
                Vec::new()
            }
        };
        if !expired.is_empty() {
            self.pool_changed(&[], &expired);
        }
        if self.stem.next_deadline().is_some_and(|deadline| deadline <= now) {
            let effects = self.stem.on_deadline(now);
            self.perform_stem(effects);
        }
        if self.relay.next_deadline().is_some_and(|deadline| deadline <= now) {
            let effects = self.relay.on_deadline(now);
            self.perform(effects, &HashMap::new());
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let effects = self.relay.handle(input, Instant::now().into_std());
        self.perform(effects, &HashMap::new());
    }

    /// What was loaded into the pool before this task ran.
    fn announce_pool(&mut self) {
        let ready: Vec<TxId> = {
            let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            pool.pending(usize::MAX).iter().map(|pending| pending.tx.id()).collect()
        };
        self.pool_changed(&ready, &[]);
    }

    fn command(&mut self, command: ToTransactions) {
        match command {
            ToTransactions::PeerUp(session) => self.peer_up(session),
            ToTransactions::PeerDown(peer) => {
                self.peers.remove(&peer);
                self.stem.peer_down(&peer);
                self.input(Input::PeerDown { peer });
                let waiting = self.peers.iter_mut().find(|(_, peer)| !peer.active);
                if let Some((&peer, waiting)) = waiting {
                    waiting.active = true;
                    self.input(Input::SetActive { peer, active: true });
                }
            }
            ToTransactions::HeadChanged { ready, removed } => {
                self.input(Input::HeadChanged);
                self.pool_changed(&ready, &removed);
            }
            ToTransactions::Submitted { ready, removed } => {
                let txs = self.summaries(&ready);
                self.input(Input::Submitted { txs: &txs });
                self.pool_changed(&[], &removed);
            }
            ToTransactions::Stem(txs) => {
                for tx in txs {
                    let effects = self.stem.submitted(tx, Instant::now().into_std());
                    self.perform_stem(effects);
                }
            }
        }
    }

    fn perform_stem(&mut self, effects: Vec<stem::Effect>) {
        for effect in effects {
            match effect {
                stem::Effect::Forward { peer, tx } => {
                    // One that is not taken is flooded when its embargo ends.
                    self.push(&peer, &StemTransaction((*tx).clone()).to_frame());
                }
                stem::Effect::Fluff(tx) => self.fluff(tx),
            }
        }
    }

    /// Puts what was on a stem into the pool, and relays it as if it was submitted here.
    fn fluff(&mut self, tx: VerifiedTransaction) {
        let view = self.service.views.load_full();
        let inserted = {
            let mut pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            pool.insert(tx, &accounts_of(&view), Instant::now().into_std())
        };
        // What is refused now was included meanwhile, or cannot be any more.
        if let Ok(inserted) = inserted {
            self.service.metrics.transactions_accepted.inc_by((inserted.place != Place::Known).into());
            let txs = self.summaries(&inserted.ready);
            self.input(Input::Submitted { txs: &txs });
            self.pool_changed(&[], &inserted.removed);
        }
    }

    /// A peer hands us one on its stem.
    fn stemmed(&mut self, peer: PeerId, tx: SignedTransaction) {
        let id = tx.id();
        let verified = SignedTransaction::verify_many(vec![tx.detached()], &mut self.service.entropy).pop();
        let Some(Ok(tx)) = verified else {
            let offence = tx_relay::Offence::InvalidTransaction;
            return self.service.conduct.offence(peer, Offence::Transaction(offence));
        };
        let view = self.service.views.load_full();
        let now = Instant::now().into_std();
        let checked = {
            let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            if pool.contains(&id) {
                // Flooded already.
                return;
            }
            pool.check(&tx, &accounts_of(&view), now)
        };
        match checked {
            Ok(()) => {
                let effects = self.stem.received(peer, tx, now);
                self.perform_stem(effects);
            }
            Err(refusal) if refusal.is_invalid() => {
                let offence = tx_relay::Offence::InvalidTransaction;
                self.service.conduct.offence(peer, Offence::Transaction(offence));
            }
            Err(_) => {}
        }
    }

    fn peer_up(&mut self, session: Session) {
        let (Some(own_salt), Some(their_salt)) = (session.own_salt(), session.hello().tx_salt) else {
            return;
        };
        let peer = session.peer();
        let active = self.peers.values().filter(|peer| peer.active).count() < ACTIVE_LINKS_MAX;
        let input = Input::PeerUp {
            peer,
            outbound: session.direction() == Direction::Outbound,
            rtt: session.rtt(),
            our_salt: Salt(own_salt),
            their_salt: Salt(their_salt),
            active,
            sync_key: session
                .hello()
                .serves
                .contains(StreamType::TxSync)
                .then(|| session.short_id_key())
                .flatten(),
        };
        self.stem.peer_up(peer, session.direction() == Direction::Outbound);
        self.peers.insert(peer, Peer { session, active });
        self.input(input);
    }

    fn summaries(&self, ids: &[TxId]) -> Vec<TxSummary> {
        let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
        ids.iter().filter_map(|id| pool.get(id)).map(|tx| TxSummary::from(&**tx)).collect()
    }

    fn pool_changed(&mut self, ready: &[TxId], removed: &[(TxId, Removal)]) {
        let ready = self.summaries(ready);
        let removed: Vec<TxId> = removed.iter().map(|(id, _)| *id).collect();
        self.input(Input::PoolChanged { ready: &ready, removed: &removed });
        let floor = {
            let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            pool.gas_price_min(Instant::now().into_std())
        };
        if floor != self.floor {
            self.floor = floor;
            self.input(Input::FeeFloor { gas_price: floor });
        }
    }

    fn pushed(&mut self, pushed: Pushed) {
        let peer = pushed.session.peer();
        for frame in pushed.frames {
            match frame {
                Frame::TxAnnounce(announce) => {
                    self.input(Input::Announced { peer, entries: &announce.entries })
                }
                Frame::Transactions(transactions) => self.received(peer, Via::Push, transactions),
                Frame::StemTransaction(StemTransaction(tx)) => self.stemmed(peer, tx),
                Frame::FeeFloor(FeeFloor(gas_price)) => self.input(Input::PeerFeeFloor { peer, gas_price }),
                _ => {}
            }
        }
    }

    fn asked(&mut self, asked: Asked) {
        let (Some(session), Frame::TxRequest(request)) = (asked.session, asked.frame) else {
            return asked.responder.refuse(Code::ProtocolViolation);
        };
        let number = self.next_responder;
        self.next_responder += 1;
        self.responders.insert(number, asked.responder);
        self.input(Input::Requested { peer: session.peer(), request: number, ids: &request.ids });
        // A peer that is not up in the core gets no effect: its request ends here.
        self.responders.remove(&number);
    }

    /// A peer compares its mempool with ours.
    fn compared(&mut self, asked: Asked) {
        let (Some(session), Some(ask)) = (asked.session, Ask::from_frame(asked.frame)) else {
            return asked.responder.refuse(Code::ProtocolViolation);
        };
        let number = self.next_responder;
        self.next_responder += 1;
        self.responders.insert(number, asked.responder);
        self.input(Input::SyncRequested { peer: session.peer(), request: number, ask: &ask });
        if let Some(responder) = self.responders.remove(&number) {
            responder.refuse(Code::Busy);
        }
    }

    fn report(&mut self, report: Report<Key>) {
        match report {
            Report::Frame((peer, request), frame) => match *frame {
                Frame::Transactions(transactions) => {
                    self.received(peer, Via::Pull(request), transactions);
                }
                frame => self.input(Input::SyncAnswered { peer, request, frame: &frame }),
            },
            Report::Block(..) | Report::Progress(..) => {}
            Report::Ended((peer, request), RequestEnd::Done) => {
                self.input(Input::AnswerEnded { peer, request })
            }
            Report::Ended((peer, request), _) => self.input(Input::RequestFailed { peer, request }),
        }
    }

    fn received(&mut self, peer: PeerId, via: Via, frame: Transactions) {
        let summaries: Vec<TxSummary> = frame.transactions.iter().map(TxSummary::from).collect();
        let bodies: HashMap<TxId, SignedTransaction> =
            frame.transactions.into_iter().map(|tx| (tx.id(), tx)).collect();
        let input = Input::Received { peer, via, txs: &summaries };
        let effects = self.relay.handle(input, Instant::now().into_std());
        self.perform(effects, &bodies);
    }

    /// Performs effects in order; `bodies` are those of the frame that led to them.
    fn perform(&mut self, effects: Vec<Effect>, bodies: &HashMap<TxId, SignedTransaction>) {
        for effect in effects {
            match effect {
                Effect::Announce { peer, announce, token } => {
                    let delivery = self.push(&peer, &announce.to_frame());
                    self.confirm(token, delivery);
                }
                Effect::Push { peer, ids, token } => {
                    let frame = self.bodies(&ids);
                    // What has left the pool meanwhile needs no pushing.
                    let delivery = match frame.transactions.is_empty() {
                        true => Delivery::Queued,
                        false => self.push(&peer, &frame.to_frame()),
                    };
                    self.confirm(token, delivery);
                }
                Effect::Request { peer, request, ids } => match self.peers.get(&peer) {
                    Some(known) => {
                        let frame = TxRequest { ids }.to_frame();
                        self.requests.start(
                            (peer, request),
                            known.session.clone(),
                            StreamType::TxFetch,
                            frame,
                        );
                    }
                    None => self.input(Input::RequestFailed { peer, request }),
                },
                Effect::TellFeeFloor { peer, gas_price } => {
                    self.push(&peer, &FeeFloor(gas_price).to_frame());
                }
                Effect::Cancel { peer, request } => self.requests.cancel((peer, request)),
                Effect::Answer { request, ids, .. } => {
                    if let Some(responder) = self.responders.remove(&request) {
                        tokio::spawn(answer(responder, self.bodies(&ids)));
                    }
                }
                Effect::SyncRequest { peer, request, ask } => match self.peers.get(&peer) {
                    Some(known) => {
                        let session = known.session.clone();
                        self.requests.start((peer, request), session, StreamType::TxSync, ask.to_frame());
                    }
                    None => self.input(Input::RequestFailed { peer, request }),
                },
                Effect::SyncAnswer { request, frames, .. } => {
                    if let Some(responder) = self.responders.remove(&request) {
                        tokio::spawn(answer_frames(responder, frames));
                    }
                }
                Effect::SyncRefuse { request, .. } => {
                    if let Some(responder) = self.responders.remove(&request) {
                        responder.refuse(Code::Busy);
                    }
                }
                Effect::Check { peer, ids } => self.check(peer, &ids, bodies),
                Effect::Offence { peer, what } => {
                    self.service.conduct.offence(peer, Offence::Transaction(what))
                }
            }
        }
    }

    fn push(&self, peer: &PeerId, frame: &ghost_frames::EncodedFrame) -> Delivery {
        self.peers.get(peer).map_or(Delivery::Closed, |peer| peer.session.push(StreamType::TxPush, frame))
    }

    fn confirm(&mut self, token: tx_relay::Token, delivery: Delivery) {
        match delivery {
            Delivery::Queued => self.relay.delivered(token),
            _ => self.relay.not_delivered(token, Instant::now().into_std()),
        }
    }

    fn bodies(&self, ids: &[TxId]) -> Transactions {
        let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
        let transactions = ids.iter().filter_map(|id| pool.get(id)).map(|tx| (**tx).clone()).collect();
        Transactions { transactions }
    }

    /// Verifies bodies, puts the good ones into the pool and tells the core.
    fn check(&mut self, peer: PeerId, ids: &[TxId], bodies: &HashMap<TxId, SignedTransaction>) {
        let known: Vec<_> =
            ids.iter().filter_map(|id| bodies.get(id)).map(|tx| tx.clone().detached()).collect();
        let names: Vec<TxId> = known.iter().map(SignedTransaction::id).collect();
        let verified = SignedTransaction::verify_many(known, &mut self.service.entropy);
        let view = self.service.views.load_full();
        let now = Instant::now().into_std();
        let mut verdicts = Vec::with_capacity(names.len());
        let (mut ready, mut removed) = (Vec::new(), Vec::new());
        let mut brought = false;
        {
            let accounts = accounts_of(&view);
            let mut pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            for (id, verified) in names.into_iter().zip(verified) {
                let verdict = match verified {
                    Err(_) => Checked::Invalid,
                    Ok(tx) => match pool.insert(tx, &accounts, now) {
                        Ok(inserted) => {
                            self.stem.seen(&id);
                            ready.extend(inserted.ready.into_iter().filter(|other| *other != id));
                            removed.extend(inserted.removed);
                            brought |= inserted.place == Place::Ready;
                            match inserted.place {
                                Place::Parked => Checked::Parked,
                                Place::Ready | Place::Known => Checked::Ready,
                            }
                        }
                        Err(refusal) if refusal.is_invalid() => Checked::Invalid,
                        Err(_) => Checked::Refused,
                    },
                };
                verdicts.push((id, verdict));
            }
        }
        if brought {
            self.service.conduct.brought_tx(peer);
        }
        self.input(Input::Checked { peer, verdicts: &verdicts });
        if !ready.is_empty() || !removed.is_empty() {
            self.pool_changed(&ready, &removed);
        }
    }

    fn refresh(&mut self) {
        let rtts: Vec<_> = self.peers.iter().map(|(peer, known)| (*peer, known.session.rtt())).collect();
        for (peer, rtt) in rtts {
            self.input(Input::RttUpdate { peer, rtt });
        }
        let status = {
            let pool = self.service.pool.lock().expect("no code panics while it holds the pool");
            pool.status(Instant::now().into_std())
        };
        self.service.metrics.mempool_transactions.set(status.count as i64);
        self.service.metrics.mempool_bytes.set(status.bytes as i64);
        self.service.metrics.stem_transactions.set(self.stem.len() as i64);
        let stats = self.relay.stats();
        let last = self.service.stats.send_replace(stats);
        self.service.metrics.relayed(&last, &stats);
    }
}

/// Sends an answer that is there already.
async fn answer_frames(mut responder: Responder, frames: Vec<Frame>) {
    for frame in frames {
        if responder.send(&frame.encode()).await.is_err() {
            return;
        }
    }
    responder.finish();
}

/// Sends bodies, as many to a frame as fit.
async fn answer(mut responder: Responder, mut bodies: Transactions) {
    while !bodies.transactions.is_empty() {
        let mut bytes = 0;
        let count = bodies
            .transactions
            .iter()
            .take(TX_BATCH_MAX)
            .take_while(|tx| {
                // Four bytes hold the length of any transaction.
                bytes += tx.bytes().len() + 4;
                bytes <= TX_BATCH_BYTES_MAX
            })
            .count();
        let rest = bodies.transactions.split_off(count);
        if responder.send(&bodies.to_frame()).await.is_err() {
            return;
        }
        bodies.transactions = rest;
    }
    responder.finish();
}

//! The task that decides whom to be connected to: the shell around the discovery cores.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use ghost_frames::{
    Code, Frame, Payload, StreamType,
    discovery::{Peers, PeersRequest},
};
use ghost_proto::{Multiaddr, PeerId, PeerRecord, limits::PEERS_PER_ANSWER_MAX, message};
use ghost_protocol::{
    Overlay, Session,
    address::{QuicAddress, with_peer},
    handshake::Role,
    inbox::Asked,
    overlay::OverlayEvent,
    session::Direction,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{chain::ToChain, conduct::Offence, transactions::ToTransactions};
use crate::{clock::Clock, config};

/// What the peer task is told.
#[derive(Debug)]
pub(crate) enum ToPeers {
    /// A peer did wrong.
    Offence { peer: PeerId, what: Offence },
    /// The head has not moved for long.
    TipStale { age: Duration, outbound: Vec<PeerId> },
    /// The operator commands.
    Command {
        what: message::peer_command::What,
        reply: oneshot::Sender<Result<message::PeerCommandAnswer, String>>,
    },
}

/// What other tasks may read about peers.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerBook(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    external_address: String,
    conduct: BTreeMap<PeerId, i32>,
}

impl PeerBook {
    pub(crate) fn external_address(&self) -> String {
        self.0.lock().expect("no code panics while it holds this").external_address.clone()
    }

    pub(crate) fn conduct(&self, peer: &PeerId) -> i32 {
        self.0
            .lock()
            .expect("no code panics while it holds this")
            .conduct
            .get(peer)
            .copied()
            .unwrap_or_default()
    }
}

/// What the peer task needs.
pub(crate) struct PeerService {
    pub(crate) overlay: Overlay,
    pub(crate) config: config::Network,
    pub(crate) clock: Clock,
    pub(crate) events: mpsc::Receiver<OverlayEvent>,
    pub(crate) commands: mpsc::Receiver<ToPeers>,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) chain: mpsc::Sender<ToChain>,
    pub(crate) transactions: mpsc::Sender<ToTransactions>,
    pub(crate) book: PeerBook,
}

#[derive(Debug)]
struct Target {
    addresses: Vec<Multiaddr>,
    fixed: bool,
    next: Instant,
    pause: Duration,
    dialling: bool,
}

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const TARGETS_MAX: usize = 1024;

struct Running {
    service: PeerService,
    targets: BTreeMap<PeerId, Target>,
    records: BTreeMap<PeerId, PeerRecord>,
    learned: mpsc::Receiver<Vec<PeerRecord>>,
    learn: mpsc::Sender<Vec<PeerRecord>>,
    dialled: mpsc::Receiver<(PeerId, bool)>,
    report: mpsc::Sender<(PeerId, bool)>,
    banned: BTreeSet<PeerId>,
    up: BTreeSet<PeerId>,
}

impl PeerService {
    pub(crate) async fn run(self) {
        let (learn, learned) = mpsc::channel(64);
        let (report, dialled) = mpsc::channel(64);
        let mut running = Running {
            targets: BTreeMap::new(),
            records: BTreeMap::new(),
            learned,
            learn,
            dialled,
            report,
            banned: BTreeSet::new(),
            up: BTreeSet::new(),
            service: self,
        };
        for address in running.service.config.peers.clone() {
            if let Err(error) = running.add(&address, true) {
                tracing::warn!(%address, %error, "configured peer cannot be dialled");
            }
        }
        running.run().await;
    }
}

impl Running {
    async fn run(mut self) {
        let mut tick = interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ask = interval(Duration::from_secs(10));
        loop {
            tokio::select! {
                event = self.service.events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None => return,
                },
                command = self.service.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(asked) = self.service.asked.recv() => self.asked(asked),
                Some(records) = self.learned.recv() => self.records(records),
                Some((peer, connected)) = self.dialled.recv() => {
                    if let Some(target) = self.targets.get_mut(&peer) {
                        target.dialling = false;
                        target.pause = if connected { PAUSE_MIN } else { (2 * target.pause).min(PAUSE_MAX) };
                        target.next = Instant::now() + target.pause;
                    }
                }
                _ = tick.tick() => self.dial(),
                _ = ask.tick() => {
                    for session in self.service.overlay.sessions() {
                        self.ask(session);
                    }
                }
            }
        }
    }

    fn add(&mut self, address: &Multiaddr, fixed: bool) -> Result<PeerId, String> {
        let peer = QuicAddress::parse(address)
            .and_then(|parsed| parsed.expected_peer(address))
            .map_err(|error| error.to_string())?;
        let target = self.targets.entry(peer).or_insert_with(|| Target {
            addresses: Vec::new(),
            fixed,
            next: Instant::now(),
            pause: PAUSE_MIN,
            dialling: false,
        });
        target.fixed |= fixed;
        if !target.addresses.contains(address) {
            target.addresses.insert(0, address.clone());
            target.addresses.truncate(4);
        }
        Ok(peer)
    }

    fn dial(&mut self) {
        let now = Instant::now();
        let outbound =
            self.service.overlay.sessions().iter().filter(|s| s.direction() == Direction::Outbound).count()
                + self.targets.values().filter(|target| target.dialling).count();
        let mut room = (self.service.config.outbound_max as usize).saturating_sub(outbound);
        for (peer, target) in &mut self.targets {
            if target.dialling
                || target.next > now
                || (!target.fixed && room == 0)
                || self.banned.contains(peer)
                || self.service.overlay.session(peer).is_some()
            {
                continue;
            }
            room = room.saturating_sub(1);
            target.dialling = true;
            let (overlay, report, peer) = (self.service.overlay.clone(), self.report.clone(), *peer);
            let addresses = target.addresses.clone();
            tokio::spawn(async move {
                let mut connected = false;
                for address in addresses {
                    let Ok(parsed) = QuicAddress::parse(&address) else { continue };
                    for socket in parsed.resolve().await.unwrap_or_default() {
                        match overlay.dial(peer, socket).await {
                            Ok(_) => connected = true,
                            Err(error) => tracing::debug!(%peer, %socket, %error, "dial failed"),
                        }
                        if connected {
                            break;
                        }
                    }
                }
                let _ = report.send((peer, connected)).await;
            });
        }
    }

    async fn event(&mut self, event: OverlayEvent) {
        match event {
            OverlayEvent::Up(session) if session.role() == Role::Node => {
                tracing::info!(peer = %session.peer(), direction = session.direction().name(), "peer connected");
                if let Some(record) = session.hello().record.clone() {
                    self.records(vec![record]);
                }
                self.ask(session.clone());
                if !self.up.insert(session.peer()) {
                    // A new session in place of an old one: what was under way on that is lost.
                    self.down(session.peer()).await;
                }
                let _ = self.service.chain.send(ToChain::PeerUp(session.clone())).await;
                let _ = self.service.transactions.send(ToTransactions::PeerUp(session)).await;
            }
            OverlayEvent::Up(session) => tracing::debug!(peer = %session.peer(), "client connected"),
            OverlayEvent::Down { session, closed } => {
                if session.role() == Role::Node {
                    tracing::info!(peer = %session.peer(), %closed, "peer disconnected");
                    self.up.remove(&session.peer());
                    self.down(session.peer()).await;
                }
            }
            OverlayEvent::Failed { peer, reason, .. } => tracing::debug!(%peer, reason, "no session"),
        }
    }

    async fn down(&self, peer: PeerId) {
        let _ = self.service.chain.send(ToChain::PeerDown(peer)).await;
        let _ = self.service.transactions.send(ToTransactions::PeerDown(peer)).await;
    }

    fn ask(&self, session: Session) {
        let learn = self.learn.clone();
        tokio::spawn(async move {
            let request = PeersRequest { limit: PEERS_PER_ANSWER_MAX as u16 }.to_frame();
            let Ok(answer) = session.request(StreamType::Discovery, &request, Duration::from_secs(10)).await
            else {
                return;
            };
            if let Ok(Frame::Peers(peers)) = answer.single().await {
                let records =
                    peers.records.into_iter().filter_map(|bytes| PeerRecord::verify(bytes).ok()).collect();
                let _ = learn.send(records).await;
            }
        });
    }

    fn records(&mut self, records: Vec<PeerRecord>) {
        for record in records {
            let peer = record.peer();
            let newer = self.records.get(&peer).is_none_or(|known| known.sequence() < record.sequence());
            if peer == self.service.overlay.peer_id() || !newer || self.targets.len() >= TARGETS_MAX {
                continue;
            }
            if self.service.config.discovery {
                for address in record.addresses() {
                    let _ = self.add(&with_peer(address.clone(), peer), false);
                }
            }
            self.records.insert(peer, record);
        }
    }

    fn asked(&mut self, asked: Asked) {
        let Frame::PeersRequest(request) = asked.frame else {
            return asked.responder.refuse(Code::ProtocolViolation);
        };
        let records = self
            .service
            .overlay
            .sessions()
            .iter()
            .filter_map(|session| session.hello().record.as_ref())
            .take(usize::from(request.limit))
            .map(|record| record.bytes().clone())
            .collect();
        tokio::spawn(async move {
            let _ = asked.responder.answer(&Peers { records }.to_frame()).await;
        });
    }

    fn command(&mut self, command: ToPeers) {
        use message::peer_command::What;
        match command {
            ToPeers::Offence { peer, what } => tracing::warn!(%peer, ?what, "offence"),
            ToPeers::TipStale { .. } => {}
            ToPeers::Command { what, reply } => {
                let answer = match what {
                    What::Add(address) => address
                        .parse::<Multiaddr>()
                        .map_err(|error| error.to_string())
                        .and_then(|address| self.add(&address, true))
                        .map(|peer| format!("{peer} is dialled from now on")),
                    What::Drop(peer) => {
                        PeerId::from_bytes(&peer).map_err(|error| error.to_string()).map(|peer| {
                            self.targets.remove(&peer);
                            if let Some(session) = self.service.overlay.session(&peer) {
                                session.close(Code::Dropped, "dropped by the operator");
                            }
                            format!("{peer} is dropped")
                        })
                    }
                    _ => Err("not yet".into()),
                };
                let _ = reply
                    .send(answer.map(|message| message::PeerCommandAnswer { message, story: Vec::new() }));
            }
        }
    }
}

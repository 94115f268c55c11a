//! Remote calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use ghost_frames::{
    Code, EncodedFrame, Frame, Payload,
    contract::{CallAnswer, CallRequest, EstimateRequest, SimulateRequest},
};
use ghost_mempool_relay::{
    pool::Pool,
    sync::{SyncProgress, SyncState},
    tx_relay::RelayStats,
};
use ghost_proto::{Address, BlockId, PeerId, TxId, limits::RPC_ROWS_MAX, message};
use ghost_protocol::{Overlay, Session, handshake::Role, inbox::Asked};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use super::{
    contracts::Contracts,
    peers::{PeerBook, ToPeers},
    submission::Submission,
    transactions::accounts_of,
};
use crate::{
    chain::{BlockRef, HeadView, lost_blocks},
    clock::Clock,
    metrics::{Metrics, resident_bytes},
    store::StoreError,
};

/// Time an operator command may take before it is answered as failed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15);

/// Who may ask what.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) operators: Arc<Vec<PeerId>>,
    pub(crate) strangers: bool,
}

impl Access {
    fn is_operator(&self, session: Option<&Session>) -> bool {
        session.is_some_and(|session| self.operators.contains(&session.peer()))
    }

    pub(crate) fn may_ask(&self, session: Option<&Session>) -> bool {
        self.strangers || self.is_operator(session)
    }
}

/// What remote calls need.
#[derive(Clone)]
pub(crate) struct Rpc {
    pub(crate) views: Arc<ArcSwap<HeadView>>,
    pub(crate) pool: Arc<Mutex<Pool>>,
    pub(crate) overlay: Overlay,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) authority: Option<u16>,
    pub(crate) listen: Arc<Vec<String>>,
    pub(crate) access: Access,
    pub(crate) progress: watch::Receiver<SyncProgress>,
    pub(crate) relay: watch::Receiver<RelayStats>,
    pub(crate) submissions: Submission,
    pub(crate) peers: mpsc::Sender<ToPeers>,
    pub(crate) peer_book: PeerBook,
    pub(crate) external: String,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) contracts: Contracts,
}

/// Why a call has no answer.
pub(crate) struct Failure {
    code: message::RpcCode,
    message: String,
    retry_after: Duration,
}

impl Failure {
    fn new(code: message::RpcCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: Duration::ZERO }
    }

    /// As it travels.
    pub(crate) fn frame(self) -> EncodedFrame {
        message::RpcFailure {
            code: self.code.into(),
            message: self.message,
            retry_after_ms: self.retry_after.as_millis() as u32,
        }
        .to_frame()
    }

    pub(crate) fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after, ..Self::new(message::RpcCode::RpcBusy, message) }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(message::RpcCode::RpcInternal, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(message::RpcCode::RpcInvalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(message::RpcCode::RpcNotFound, message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(message::RpcCode::RpcInternal, error.to_string())
    }
}

/// A block as calls name it.
pub(crate) fn block_ref(block: BlockRef) -> message::BlockRef {
    message::BlockRef {
        height: block.height,
        id: Bytes::copy_from_slice(&block.id.0),
        slot: block.slot.unwrap_or_default(),
    }
}

/// Serves calls for as long as the node runs. Each is a task; how many a peer may have at once is the
/// session's business.
pub(crate) async fn run(rpc: Rpc, mut requests: mpsc::Receiver<Asked>) {
    while let Some(asked) = requests.recv().await {
        tokio::spawn(rpc.clone().answer(asked));
    }
}

fn relay_status(stats: &RelayStats) -> message::RelayStatus {
    let waited = &stats.announce_to_have;
    message::RelayStatus {
        transactions: stats.bodies_first,
        duplicates: stats.bodies_duplicate,
        bytes_useful: stats.bytes_useful,
        bytes_other: stats.bytes_other(),
        announce_to_have_us: waited.sum.as_micros() as u64 / waited.count.max(1),
        reconciliations: stats.sync.completed,
        reconciliations_failed: stats.sync.failed,
        reconciliations_listed: stats.sync.listed,
        symbols: stats.sync.symbols,
        differences: stats.sync.difference,
    }
}

impl Rpc {
    async fn answer(self, asked: Asked) {
        let Asked { session, frame, mut responder } = asked;
        let kind = frame.info().name;
        let answer = tokio::select! {
            answer = self.call(session.as_ref(), frame) => answer,
            () = responder.cancelled() => return,
        };
        self.metrics.request_served(kind);
        let frame = match answer {
            Ok(Some(frame)) => frame,
            Ok(None) => return responder.refuse(Code::ProtocolViolation),
            Err(failure) => failure.frame(),
        };
        // An asker that is gone wants no answer.
        let _ = responder.answer(&frame).await;
    }

    async fn call(&self, session: Option<&Session>, frame: Frame) -> Result<Option<EncodedFrame>, Failure> {
        if !self.access.may_ask(session) {
            let reason = "this node answers its operators only (rpc.strangers is off)";
            return Err(Failure::new(message::RpcCode::RpcDenied, reason));
        }
        let view = self.views.load_full();
        let peer = session.map(Session::peer);
        Ok(Some(match frame {
            Frame::StatusRequest(_) => self.status(&view).to_frame(),
            Frame::SubmitRequest(request) => {
                let Ok(privacy) = message::Privacy::try_from(request.privacy) else {
                    let reason =
                        "this way to relay a transaction is not known here; fast (0) and stem (1) are";
                    return Err(Failure::new(message::RpcCode::RpcInvalid, reason));
                };
                self.submissions.submit(request.transactions, privacy).await.to_frame()
            }
            Frame::TransactionRequest(request) => self.transaction(&view, &request.id)?.to_frame(),
            Frame::BlockRequest(request) => block(&view, &request)?.to_frame(),
            Frame::AccountRequest(request) => self.account(&view, &request.address)?.to_frame(),
            Frame::CallRequest(CallRequest(call)) => {
                CallAnswer(self.contracts.call(peer, &call).await?).to_frame()
            }
            Frame::SimulateRequest(SimulateRequest(call)) => {
                self.contracts.simulate(peer, &call).await?.to_frame()
            }
            Frame::EstimateRequest(EstimateRequest(call)) => {
                self.contracts.estimate(peer, &call).await?.to_frame()
            }
            Frame::ReceiptRequest(request) => self.contracts.receipt(&view, &request.id)?.to_frame(),
            Frame::LogsRequest(request) => self.contracts.logs(peer, request).await?.to_frame(),
            Frame::CodeRequest(request) => self.contracts.code(&request)?.to_frame(),
            Frame::StorageRequest(request) => self.contracts.storage(&request)?.to_frame(),
            Frame::PendingRequest(request) => self.pending(request.limit).to_frame(),
            Frame::PeersListRequest(_) => {
                self.operator_only(session)?;
                self.peers_list().to_frame()
            }
            Frame::PeerCommand(command) => {
                self.operator_only(session)?;
                self.peer_command(command).await?.to_frame()
            }
            _ => return Ok(None),
        }))
    }

    fn operator_only(&self, session: Option<&Session>) -> Result<(), Failure> {
        if self.access.is_operator(session) {
            return Ok(());
        }
        let who = session.map_or_else(|| "an early request".into(), |session| session.peer().to_string());
        Err(Failure::new(
            message::RpcCode::RpcDenied,
            format!(
                "only the node's operator may ask this; {who} is none. Use the operator.key of the node's home (--home), or list this PeerId in rpc.operators"
            ),
        ))
    }

    fn status(&self, view: &HeadView) -> message::Status {
        let genesis = view.genesis();
        let progress = *self.progress.borrow();
        let mut counts: BTreeMap<(&str, &str, &str), u32> = BTreeMap::new();
        for session in self.overlay.sessions().into_iter().chain(self.overlay.clients()) {
            let network = if session.remote_address().ip().to_canonical().is_ipv4() { "ip4" } else { "ip6" };
            let role = role_name(session.role());
            *counts.entry((session.direction().name(), network, role)).or_default() += 1;
        }
        let pool = {
            let pool = self.pool.lock().expect("no code panics while it holds the pool");
            pool.status(Instant::now().into_std())
        };
        message::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            peer: self.overlay.peer_id().to_bytes().into(),
            genesis: Bytes::copy_from_slice(&view.genesis_id().0),
            chain_name: genesis.name.clone(),
            chain_id: genesis.chain_id,
            head: Some(block_ref(view.head())),
            finalized: Some(block_ref(view.finalized())),
            sync: Some(message::Sync {
                syncing: progress.state == SyncState::Syncing,
                target_height: progress.target.max(view.head().height),
            }),
            peers: counts
                .into_iter()
                .map(|((direction, network, role), count)| message::PeerCount {
                    direction: direction.into(),
                    network: network.into(),
                    role: role.into(),
                    count,
                })
                .collect(),
            mempool: Some(message::MempoolStatus {
                count: pool.count as u64,
                bytes: pool.bytes as u64,
                parked: pool.parked as u64,
                gas_price_min: pool.gas_price_min,
            }),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            listen: self.listen.as_ref().clone(),
            authority: self.authority.map(u32::from),
            rss_bytes: resident_bytes().unwrap_or_default(),
            time_unix_ms: self.clock.unix_ms(),
            slot_ms: genesis.slot_ms,
            included_total: view.included_total(),
            refusals: self
                .overlay
                .tally()
                .snapshot()
                .into_iter()
                .map(|(event, count)| {
                    let (kind, reason) = event.labels();
                    message::Count { name: format!("{kind}/{reason}"), count }
                })
                .collect(),
            external_address: match self.external.is_empty() {
                true => self.peer_book.seen_at().unwrap_or_default(),
                false => self.external.clone(),
            },
            relay: Some(Box::new(relay_status(&self.relay.borrow()))),
            reachability: Some(Box::new(self.peer_book.reachability())),
            alarms: view
                .lost()
                .map(|lost| lost_blocks(view.finalized().height, lost.height))
                .into_iter()
                .chain(self.peer_book.alarms())
                .collect(),
        }
    }

    fn transaction(&self, view: &HeadView, id: &[u8]) -> Result<message::TransactionAnswer, Failure> {
        let id = TxId::try_from(id).map_err(|error| Failure::invalid(error.to_string()))?;
        if let Some(included) = view.transaction(&id)? {
            return Ok(message::TransactionAnswer {
                transaction: included.bytes,
                included: true,
                block: Some(block_ref(included.block)),
                index: included.index,
                receipt: Bytes::copy_from_slice(&included.receipt.encode()),
                finalized: included.finalized,
            });
        }
        let pool = self.pool.lock().expect("no code panics while it holds the pool");
        match pool.get(&id) {
            Some(tx) => {
                Ok(message::TransactionAnswer { transaction: tx.bytes().clone(), ..Default::default() })
            }
            None => {
                Err(Failure::not_found(format!("transaction {id} is neither in a block nor pending here")))
            }
        }
    }

    fn account(&self, view: &HeadView, address: &[u8]) -> Result<message::AccountAnswer, Failure> {
        let address = Address::try_from(address).map_err(|error| Failure::invalid(error.to_string()))?;
        let account = view.account(&address)?;
        let next_nonce = {
            let pool = self.pool.lock().expect("no code panics while it holds the pool");
            pool.next_nonce(&address, &accounts_of(view))
        };
        Ok(message::AccountAnswer {
            address: Bytes::copy_from_slice(&address.0),
            balance: Bytes::copy_from_slice(&account.balance.to_be_bytes()),
            nonce: account.nonce,
            next_nonce,
            at: Some(block_ref(view.head())),
            engine: account.contract.map_or(0, |contract| contract.engine.0.into()),
            code_hash: account
                .contract
                .map(|contract| Bytes::copy_from_slice(&contract.code_hash))
                .unwrap_or_default(),
        })
    }

    fn pending(&self, limit: u32) -> message::PendingAnswer {
        let now = Instant::now().into_std();
        let pool = self.pool.lock().expect("no code panics while it holds the pool");
        let status = pool.status(now);
        let limit = (limit as usize).min(RPC_ROWS_MAX);
        let mut rows = pool.pending(limit);
        rows.extend(pool.parked(limit - rows.len()));
        let transactions = rows
            .into_iter()
            .map(|pending| message::PendingTransaction {
                id: Bytes::copy_from_slice(&pending.tx.id().0),
                sender: Bytes::copy_from_slice(&pending.tx.sender().0),
                nonce: pending.tx.body().nonce,
                gas_price: pending.tx.body().gas_price,
                bytes: pending.tx.bytes().len() as u32,
                age_ms: now.saturating_duration_since(pending.arrived).as_millis() as u64,
                waits_for_nonce: pending.waits_for,
            })
            .collect();
        message::PendingAnswer { count: status.count as u64, bytes: status.bytes as u64, transactions }
    }

    fn peers_list(&self) -> message::PeersAnswer {
        let sessions = self.overlay.sessions().into_iter().chain(self.overlay.clients());
        let peers = sessions
            .take(RPC_ROWS_MAX)
            .map(|session| {
                let (bytes_in, bytes_out) = session.udp_bytes();
                message::PeerInfo {
                    peer: session.peer().to_bytes().into(),
                    address: ghost_protocol::address::of_socket(session.remote_address()).to_string(),
                    direction: session.direction().name().into(),
                    role: role_name(session.role()).into(),
                    user_agent: session.hello().user_agent.clone(),
                    connected_ms: session.established().elapsed().as_millis() as u64,
                    best_height: session.hello().best.0,
                    rtt_us: session.rtt().as_micros() as u32,
                    bytes_in,
                    bytes_out,
                    conduct: self.peer_book.conduct(&session.peer()),
                }
            })
            .collect();
        message::PeersAnswer { peers }
    }

    async fn peer_command(
        &self,
        command: message::PeerCommand,
    ) -> Result<message::PeerCommandAnswer, Failure> {
        let failed = || {
            Failure::new(message::RpcCode::RpcInternal, "the node is shutting down or overloaded; try again")
        };
        let what = command.what.ok_or_else(|| Failure::invalid("the command is empty"))?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.peers.send(ToPeers::Command { what, reply }).await.map_err(|_| failed())?;
        let answer = timeout(COMMAND_TIMEOUT, answer).await.map_err(|_| failed())?.map_err(|_| failed())?;
        answer.map_err(Failure::invalid)
    }
}

/// The name of a role in answers and figures.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Node => "node",
        Role::Client => "client",
    }
}

fn block(view: &HeadView, request: &message::BlockRequest) -> Result<message::BlockAnswer, Failure> {
    use message::block_request::Which;
    let id = match &request.which {
        Some(Which::Height(height)) => {
            view.canonical_id(*height)?.filter(|_| *height > 0).ok_or_else(|| {
                Failure::not_found(format!(
                    "there is no block at height {height}; the head is at {}",
                    view.head().height
                ))
            })?
        }
        Some(Which::Id(id)) => {
            BlockId::try_from(id.as_ref()).map_err(|error| Failure::invalid(error.to_string()))?
        }
        Some(Which::Head(_)) => view.head().id,
        None => {
            return Err(Failure::invalid("the request names no block: give a height, an id, or the head"));
        }
    };
    let missing = || Failure::not_found(format!("block {id} is not here"));
    let header = view.header(&id)?.ok_or_else(missing)?;
    let mut answer = message::BlockAnswer {
        header: Bytes::copy_from_slice(header.bytes()),
        canonical: view.is_canonical(&header)?,
        time_unix_ms: view.genesis().slot_start_unix_ms(header.slot),
        ..Default::default()
    };
    answer.finalized = answer.canonical && header.height <= view.finalized().height;
    match request.detail() {
        message::BlockDetail::Header => {}
        message::BlockDetail::Ids => {
            let block = view.block(&id)?.ok_or_else(missing)?;
            let ids = block.transactions().iter().map(|tx| Bytes::copy_from_slice(&tx.id().0));
            answer.transaction_ids = ids.collect();
        }
        message::BlockDetail::Full => answer.body = view.raw_block(&id)?.ok_or_else(missing)?.1,
    }
    Ok(answer)
}

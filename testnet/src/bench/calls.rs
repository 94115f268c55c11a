//! Calls of a contract against the same engine behind the least code, and how soon an event is told.
//!
//! One node with one state serves both ways: ours over its streams, as any client asks; the rival over
//! bare `quinn`, one stream for each call, with the same bytes. Other ways
//! to ask can be put in front of the same [`World`], with the same [`load`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_node::{
    clock::Clock,
    config::Config,
    engine::{Simulation, Until},
    run::{NodeParts, RunningNode, start_parts},
    store::MemoryStore,
};
use ghost_proto::{
    Action, Address, AuthoritySet, Call, CallAnswer, EngineId, Genesis, KeyPair, Outcome, Transaction,
    call::{CALL_ANSWER_BYTES_MAX, CALL_BYTES_MAX},
};
use ghost_protocol::{
    Identity, PeerId,
    client::{Client, ClientConfig, FollowFrom, LogFilter},
    transport::quic::{Socket, tuning},
};
use tokio::time::timeout;

use super::{
    BenchArgs, BenchError, Doing, End, bare, in_turns,
    report::{Comparison, Target, quantile},
};

const PATIENCE: Duration = Duration::from_secs(30);
const SLOT_MS: u64 = 100;
const CHAIN_ID: u64 = 7;
/// Connections that calls at a concurrency above it are spread over: a node gives one peer 4,096 calls
/// a second, and what is measured here lies beyond. Every way gets as many.
pub const CONNECTIONS: usize = 16;
/// Calls at once, one and many.
pub const CONCURRENCIES: [usize; 2] = [1, 64];
/// Events that one run of the latency waits for.
const EVENTS: usize = 20;

/// Returns 32 bytes, whatever it is asked.
const NOOP: &[u8] = &[0x60, 0x20, 0x5f, 0xf3];
/// Adds one to slot 0, logs the new count and returns it.
const COUNTER: &[u8] = &[
    0x60, 0x01, 0x5f, 0x54, 0x01, 0x80, 0x5f, 0x55, 0x5f, 0x52, 0x60, 0x77, 0x60, 0x20, 0x5f, 0xa1, 0x60,
    0x20, 0x5f, 0xf3,
];
/// A published ERC-20; see the README beside it.
const TOKEN: &str = include_str!("../../../node/contracts/erc20/Token.json");

/// What is asked: 68 bytes of input, 32 of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing but an answer.
    Noop,
    /// The balance of an account, by a published ERC-20.
    BalanceOf,
}

impl Work {
    /// All of them, with a name.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Noop, "no-op"), (Self::BalanceOf, "ERC-20 balanceOf")];
}

/// A node with contracts on its state. It lasts as long as its runtime.
pub struct World {
    node: RunningNode,
    noop: Address,
    token: Address,
    counter: Address,
    holder: KeyPair,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("peer", &self.node.peer_id).finish_non_exhaustive()
    }
}

/// Init code that returns `code`.
fn init(code: &[u8]) -> Bytes {
    let [high, low] = (code.len() as u16).to_be_bytes();
    [&[0x61, high, low, 0x80, 0x60, 12, 0x5f, 0x39, 0x5f, 0xf3, 0, 0], code].concat().into()
}

fn token() -> Result<Bytes, BenchError> {
    let artifact: serde_json::Value = serde_json::from_str(TOKEN).doing("reading Token.json")?;
    let code = artifact["bytecode"]["object"].as_str().ok_or("no bytecode").doing("reading Token.json")?;
    Ok(hex::decode(code.trim_start_matches("0x")).doing("reading Token.json")?.into())
}

impl World {
    /// Starts the node and deploys. Must be called inside the runtime that it shall live in.
    ///
    /// # Errors
    /// If it does not start, or does not make blocks.
    pub async fn start() -> Result<Self, BenchError> {
        const DOING: &str = "starting a node";
        let (authority, holder) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let genesis = Genesis {
            name: "bench".into(),
            chain_id: CHAIN_ID,
            time_unix_ms: Clock::System.unix_ms(),
            slot_ms: SLOT_MS,
            gas_price_min: 1,
            block_gas_max: 100_000_000,
            block_bytes_max: 1 << 20,
            authorities: AuthoritySet::new(vec![authority.public()]).doing(DOING)?,
            allocation: [(holder.address(), 1 << 80)].into(),
            markets: Default::default(),
            feeds: Vec::new(),
        };
        let node = start_parts(NodeParts {
            config: Config::default(),
            genesis: Arc::new(genesis),
            identity: Identity::generate(),
            authority: Some(authority),
            operators: Vec::new(),
            store: Arc::new(MemoryStore::new()),
            peer_store: None,
            mempool_file: None,
            sockets: vec![Socket::Bind(bare::LOOPBACK)],
            clock: Clock::System,
            seed: None,
            control: None,
            tor: None,
        })
        .await
        .doing(DOING)?;
        let nobody = Address::default();
        let mut world = Self { node, noop: nobody, token: nobody, counter: nobody, holder };
        let client = world.client().await?;
        let supply = [[0; 16].as_slice(), &1_000_000u128.to_be_bytes()].concat().into();
        world.noop = world.deploy(&client, init(NOOP), Bytes::new()).await?;
        world.token = world.deploy(&client, token()?, supply).await?;
        world.counter = world.deploy(&client, init(COUNTER), Bytes::new()).await?;
        client.close().await;
        Ok(world)
    }

    /// A new connection to the node, by an identity of its own.
    ///
    /// # Errors
    /// If the node does not take it.
    pub async fn client(&self) -> Result<Client, BenchError> {
        let config = ClientConfig { timeout: PATIENCE, ..ClientConfig::new(Identity::generate()) };
        Client::connect(config, &self.node.listen[0]).await.doing("connecting")
    }

    /// The call of a work.
    pub fn call(&self, work: Work) -> Call {
        let to = match work {
            Work::Noop => self.noop,
            Work::BalanceOf => self.token,
        };
        let account = [[0; 12].as_slice(), &self.holder.address().0].concat();
        // A decoder leaves alone what stands behind the argument.
        let input = [&[0x70, 0xa0, 0x82, 0x31], account.as_slice(), &[0; 32]].concat().into();
        Call { from: Address([9; 20]), to: Some(to), input, ..Call::default() }
    }

    /// What the engine answers on the state of the head: what every way to ask puts its transport in
    /// front of.
    ///
    /// # Errors
    /// If it answers nothing.
    pub fn answer(&self, call: &Call) -> Result<CallAnswer, BenchError> {
        answer(&self.node, call)
    }

    async fn send(&self, client: &Client, action: Action) -> Result<Option<Address>, BenchError> {
        const DOING: &str = "sending a transaction";
        let nonce = client.account(self.holder.address()).await.doing(DOING)?.next_nonce;
        let body = Transaction {
            chain_id: CHAIN_ID,
            sender_key: self.holder.public(),
            nonce,
            gas_limit: 5_000_000,
            gas_price: 1,
            action,
        };
        let tx = body.sign(&self.holder).doing(DOING)?;
        client.submit(vec![tx.bytes().clone()]).await.doing(DOING)?;
        let mut heads = self.node.heads();
        let included = async {
            loop {
                if let Some(found) = client.receipt(tx.id()).await.doing(DOING)? {
                    return Ok(found.receipt);
                }
                heads.next().await.ok_or("the node ended").doing(DOING)?;
            }
        };
        let receipt = timeout(PATIENCE, included).await.doing(DOING)??;
        if receipt.outcome == Outcome::Done {
            Ok(receipt.created)
        } else {
            Err(receipt.outcome.name()).doing(DOING)
        }
    }

    async fn deploy(&self, client: &Client, code: Bytes, input: Bytes) -> Result<Address, BenchError> {
        let action = Action::Deploy { engine: EngineId::EVM, value: 0, code, input };
        self.send(client, action).await?.ok_or("no contract was made").doing("deploying")
    }

    /// Microseconds from when the node has a block with a log as its head to when a subscriber's
    /// callback has the log, for each of `count` logs.
    ///
    /// # Errors
    /// If one does not come.
    pub async fn event_latencies(&self, count: usize) -> Result<Vec<f64>, BenchError> {
        const DOING: &str = "following logs";
        let (client, caller) = (self.client().await?, self.client().await?);
        let filter = LogFilter::of(self.counter);
        let mut logs = client.subscribe_logs(&filter, FollowFrom::Now).await.doing(DOING)?;
        let mut heads = self.node.heads();
        let (note, mut noted) = tokio::sync::mpsc::unbounded_channel();
        // As soon as the node has a head, for whoever asks it.
        let committing = tokio::spawn(async move {
            while let Some(view) = heads.next().await {
                if note.send((view.head().height, Instant::now())).is_err() {
                    return;
                }
            }
        });
        let (told, mut callbacks) = tokio::sync::mpsc::unbounded_channel();
        let following = tokio::spawn(async move {
            while let Ok(Some(batch)) = logs.next().await {
                let now = Instant::now();
                for log in batch.logs {
                    if told.send((log.place.height, now)).is_err() {
                        return;
                    }
                }
            }
        });
        let mut latencies = Vec::with_capacity(count);
        for _ in 0..count {
            let action = Action::Call { to: self.counter, value: 0, input: Bytes::new() };
            self.send(&caller, action).await?;
            let event = timeout(PATIENCE, callbacks.recv()).await.doing(DOING)?;
            let (height, told) = event.ok_or("the subscription ended").doing(DOING)?;
            let committed = loop {
                let head = timeout(PATIENCE, noted.recv()).await.doing(DOING)?;
                match head.ok_or("the node ended").doing(DOING)? {
                    (head, at) if head == height => break at,
                    (head, _) if head > height => return Err("a head was skipped").doing(DOING),
                    _ => {}
                }
            };
            // The subscriber may be woken before the task that takes the time: then it was at once.
            latencies.push(told.saturating_duration_since(committed).as_secs_f64() * 1e6);
        }
        committing.abort();
        following.abort();
        client.close().await;
        caller.close().await;
        Ok(latencies)
    }
}

fn answer(node: &RunningNode, call: &Call) -> Result<CallAnswer, BenchError> {
    const DOING: &str = "running a call";
    let view = node.view();
    let at = view.state_at(None).ok_or("there is no state").doing(DOING)?;
    let simulation = Simulation {
        from: call.from,
        to: call.to,
        value: call.value,
        input: call.input.clone(),
        gas_limit: 50_000_000,
    };
    let result = at.simulate(&simulation, Until::Short).doing(DOING)?;
    Ok(CallAnswer {
        height: at.block().height,
        block: at.block().id,
        state: at.commitment(),
        outcome: result.outcome,
        gas_used: result.gas_used,
        output: result.output,
        signature: None,
    })
}

/// One way to ask the node, over one connection.
pub trait Asker: Send + Sync + 'static {
    /// Asks once, and gives what the contract returned.
    fn ask(&self) -> impl Future<Output = Result<Bytes, BenchError>> + Send;
}

/// What a turn gave.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Half of the calls took less, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took less.
    pub p99_us: f64,
    /// Calls answered.
    pub per_second: f64,
}

/// Asks for one turn, so many at once spread evenly over the askers. A tenth of the time before is not counted.
///
/// # Errors
/// If one answer does not come, or is not 32 bytes.
pub async fn load<A: Asker>(
    askers: Vec<Arc<A>>,
    concurrency: usize,
    turn: Duration,
) -> Result<Load, BenchError> {
    let begin = Instant::now() + turn / 10;
    let end = begin + turn;
    let tasks = (0..concurrency).map(|index| {
        let asker = askers[index % askers.len()].clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            loop {
                let asked = Instant::now();
                if asked >= end {
                    return Ok::<_, BenchError>(took);
                }
                let output = asker.ask().await?;
                if output.len() != 32 {
                    return Err(format!("an answer of {} bytes", output.len())).doing("calling");
                }
                if asked >= begin {
                    took.push(asked.elapsed().as_secs_f64() * 1e6);
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.doing("calling")??);
    }
    let per_second = took.len() as f64 / turn.as_secs_f64();
    Ok(Load { p50_us: quantile(&mut took, 0.5), p99_us: quantile(&mut took, 0.99), per_second })
}

/// Our way: the typed client.
#[derive(Debug)]
pub struct GhostAsker {
    client: Client,
    call: Call,
}

impl GhostAsker {
    /// Connects.
    ///
    /// # Errors
    /// If the node does not take it.
    pub async fn connect(world: &World, work: Work) -> Result<Self, BenchError> {
        Ok(Self { client: world.client().await?, call: world.call(work) })
    }
}

impl Asker for GhostAsker {
    async fn ask(&self) -> Result<Bytes, BenchError> {
        let answer = self.client.call(&self.call).await.doing("calling")?;
        Ok(answer.output)
    }
}

/// The least that does the work: a stream for each call, the same bytes on it.
#[derive(Debug)]
pub struct BareAsker {
    connection: quinn::Connection,
    call: Bytes,
    _endpoint: quinn::Endpoint,
}

impl Asker for BareAsker {
    async fn ask(&self) -> Result<Bytes, BenchError> {
        const DOING: &str = "calling over bare QUIC";
        let (mut send, mut recv) = self.connection.open_bi().await.doing(DOING)?;
        send.write_chunk(self.call.clone()).await.doing(DOING)?;
        send.finish().doing(DOING)?;
        let bytes = recv.read_to_end(CALL_ANSWER_BYTES_MAX).await.doing(DOING)?;
        Ok(CallAnswer::parse(bytes.into()).doing(DOING)?.output)
    }
}

/// Bare `quinn` with our TLS and transport settings in front of a [`World`].
#[derive(Debug)]
pub struct Bare {
    peer: PeerId,
    address: std::net::SocketAddr,
}

impl Bare {
    /// Serves for as long as the runtime that it is called in.
    ///
    /// # Errors
    /// If there is no socket.
    pub fn serve(world: Arc<World>) -> Result<Self, BenchError> {
        let identity = Identity::generate();
        let endpoint = bare::server(&identity, tuning::transport())?;
        let address = endpoint.local_addr().doing("opening an endpoint")?;
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let world = world.clone();
                tokio::spawn(async move {
                    let connection = incoming.accept().ok()?.await.ok()?;
                    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                        let world = world.clone();
                        tokio::spawn(async move {
                            let bytes = recv.read_to_end(CALL_BYTES_MAX).await.ok()?;
                            let answer = world.answer(&Call::parse(bytes.into()).ok()?).ok()?;
                            let mut bytes = Vec::with_capacity(128 + answer.output.len());
                            answer.encode(&mut bytes);
                            send.write_chunk(bytes.into()).await.ok()?;
                            send.finish().ok()
                        });
                    }
                    Some(())
                });
            }
        });
        Ok(Self { peer: identity.peer_id(), address })
    }

    /// Connects.
    ///
    /// # Errors
    /// If the server does not take it.
    pub async fn connect(&self, call: &Call) -> Result<BareAsker, BenchError> {
        const DOING: &str = "connecting over bare QUIC";
        let endpoint = bare::client()?;
        let config = bare::client_config(&Identity::generate(), tuning::transport(), false)?;
        let connecting =
            endpoint.connect_with(config, self.address, &bare::name_of(&self.peer)?).doing(DOING)?;
        let connection = timeout(PATIENCE, connecting).await.doing(DOING)?.doing(DOING)?;
        let mut bytes = Vec::new();
        call.encode(&mut bytes);
        Ok(BareAsker { connection, call: bytes.into(), _endpoint: endpoint })
    }
}

/// Connects as many askers as a concurrency is spread over.
///
/// # Errors
/// The first that fails.
pub async fn connect_all<A, F: Future<Output = Result<A, BenchError>>>(
    concurrency: usize,
    connect: impl Fn() -> F,
) -> Result<Vec<Arc<A>>, BenchError> {
    let mut askers = Vec::new();
    for _ in 0..concurrency.min(CONNECTIONS) {
        askers.push(Arc::new(connect().await?));
    }
    Ok(askers)
}

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let (server, caller) = (End::new(args)?, End::new(args)?);
    let world = Arc::new(server.run(World::start())?);
    let bare = Arc::new(server.run({
        let world = world.clone();
        async move { Bare::serve(world) }
    })?);
    let mut comparisons = Vec::new();
    for (work, name) in Work::ALL {
        for concurrency in CONCURRENCIES {
            let mut loads = [(); 2].map(|()| Vec::new());
            for run in 0..args.runs {
                for index in in_turns::<2>(run) {
                    let (world, bare, turn) = (world.clone(), bare.clone(), args.turn());
                    let measured = caller.run(async move {
                        if index == 0 {
                            let connect = || GhostAsker::connect(&world, work);
                            load(connect_all(concurrency, connect).await?, concurrency, turn).await
                        } else {
                            let call = world.call(work);
                            let askers = connect_all(concurrency, || bare.connect(&call)).await?;
                            load(askers, concurrency, turn).await
                        }
                    })?;
                    loads[index].push(measured);
                }
            }
            let compare = |unit, of: fn(&Load) -> f64, targets: &[Target]| {
                let [ours, rival] = loads.each_ref().map(|loads| loads.iter().map(of).collect::<Vec<_>>());
                let work = format!("{name}, {concurrency} at once");
                Comparison::new(work, unit, ("ghost", ours), ("quinn", rival), targets)
            };
            let target = if concurrency == 1 { vec![Target::RatioMax(1.3)] } else { Vec::new() };
            comparisons.push(compare("p50 µs", |load| load.p50_us, &target));
            comparisons.push(compare("p99 µs", |load| load.p99_us, &[]));
            comparisons.push(compare("calls/s", |load| load.per_second, &[]));
        }
    }
    let mut latencies = Vec::new();
    for _ in 0..args.runs {
        let world = world.clone();
        let mut samples = caller.run(async move { world.event_latencies(EVENTS).await })?;
        latencies.push(quantile(&mut samples, 0.5) / 1_000.0);
    }
    comparisons.push(Comparison::alone(
        "event: commit to callback",
        "p50 ms",
        ("ghost", latencies),
        &[Target::OursMax(1.0)],
    ));
    Ok(comparisons)
}

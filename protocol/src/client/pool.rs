//! Several nodes that serve one program: health, failover, hedged reads.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ghost_frames::EncodedFrame;
use ghost_proto::{Multiaddr, message};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Answered, CallError, Client, ClientConfig, Connector};
use crate::{Identity, request::RequestError};

/// First pause before a node that failed is asked again, doubled with each failure in a row.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A second node is asked at the earliest after this, however fast the first one normally is.
const HEDGE_LEAST: Duration = Duration::from_millis(5);

/// How a pool connects and asks.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Who calls.
    pub identity: Identity,
    /// Bounds connecting and each answer. 10 s by default.
    pub timeout: Duration,
    /// A read that takes longer than four times what its node usually takes is asked of a second node
    /// too, and this is the most that is waited before. 200 ms by default; `None` asks one at a time.
    pub hedge_after: Option<Duration>,
}

impl PoolConfig {
    /// The defaults, for this identity.
    pub fn new(identity: Identity) -> Self {
        Self { identity, timeout: Duration::from_secs(10), hedge_after: Some(Duration::from_millis(200)) }
    }
}

/// How a node of a pool does.
#[derive(Debug, Clone)]
pub struct NodeHealth {
    /// Where it is.
    pub address: Multiaddr,
    /// It is connected.
    pub connected: bool,
    /// What it usually takes to answer; `None` until it has.
    pub latency: Option<Duration>,
    /// Failures in a row; it rests after each.
    pub failures: u32,
    /// Answers it gave.
    pub answered: u64,
    /// Requests it failed.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Health {
    latency: Option<Duration>,
    failures: u32,
    rests_until: Option<Instant>,
    answered: u64,
    failed: u64,
}

#[derive(Debug)]
struct Node {
    address: Multiaddr,
    /// Held while one connects: others wait for that connection.
    link: tokio::sync::Mutex<Link>,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Link {
    connector: Option<Connector>,
    client: Option<Client>,
}

#[derive(Debug)]
struct Inner {
    config: PoolConfig,
    nodes: Vec<Node>,
}

/// Several nodes of one chain, asked as if they were one. Cheap to clone.
///
/// Each request goes to the node that answers fastest of those that do not rest after a failure. If it
/// fails, or is busy, the next one is asked; if a *read* takes unusually long, a second one is asked
/// beside it, and the first answer counts. Every method may be dropped before it is done: what is
/// under way is then cancelled at the nodes.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use ghost_proto::Call;
/// use ghost_protocol::{Identity, client::{Pool, PoolConfig}};
///
/// let nodes = vec![
///     "/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X".parse()?,
///     "/ip4/192.0.2.2/udp/4001/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse()?,
///     "/ip4/192.0.2.3/udp/4001/quic-v1/p2p/12D3KooWLJtG8fd2hkQzTn96MrLvThmnNQjTUFZwGEsLRz5EmSzc".parse()?,
/// ];
/// let pool = Pool::new(PoolConfig::new(Identity::generate()), nodes);
///
/// let token = "0x00000000000000000000000000000000000000aa".parse()?;
/// let total_supply = hex::decode("18160ddd")?;
/// let call = Call { to: Some(token), input: total_supply.into(), ..Call::default() };
/// let fast = pool.call(&call).await?;
/// println!("{} after block {}", hex::encode(&fast.output), fast.height);
///
/// // What matters: three nodes, and what two of them at least say.
/// let sure = pool.call_compared(&call, 3).await?;
/// for lie in sure.lies() {
///     std::fs::write(format!("lie-of-{}", lie.peer), lie.encode())?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

impl Pool {
    /// A pool of these nodes; each is connected when it is first needed.
    pub fn new(config: PoolConfig, addresses: Vec<Multiaddr>) -> Self {
        let node = |address| Node { address, link: tokio::sync::Mutex::default(), health: Mutex::default() };
        Self(Arc::new(Inner { config, nodes: addresses.into_iter().map(node).collect() }))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.0.nodes.len()
    }

    /// True if there is none: every request fails.
    pub fn is_empty(&self) -> bool {
        self.0.nodes.is_empty()
    }

    /// How each node does, in the order they were given.
    pub fn health(&self) -> Vec<NodeHealth> {
        let of = |node: &Node| {
            // While it is being connected it is not connected.
            let connected = node.link.try_lock().is_ok_and(|link| link.live().is_some());
            let health = node.health();
            NodeHealth {
                address: node.address.clone(),
                connected,
                latency: health.latency,
                failures: health.failures,
                answered: health.answered,
                failed: health.failed,
            }
        };
        self.0.nodes.iter().map(of).collect()
    }

    /// A connection to the best node that can be reached, for what is not asked through the pool.
    pub async fn client(&self) -> Result<Client, CallError> {
        let mut last = no_node();
        for index in self.order() {
            match self.client_of(index).await {
                Ok(client) => return Ok(client),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Says goodbye to all.
    pub async fn close(self) {
        for node in &self.0.nodes {
            if let Some(client) = node.link.lock().await.client.take() {
                client.close().await;
            }
        }
    }

    pub(super) fn address(&self, index: usize) -> &Multiaddr {
        &self.0.nodes[index].address
    }

    pub(super) fn timeout(&self) -> Duration {
        self.0.config.timeout
    }

    /// A node did not do what it should: others come first for a while.
    pub(super) fn rest(&self, index: usize) {
        self.0.nodes[index].failed();
    }

    /// Those that do not rest first, then the fastest; one that was never asked counts as fast.
    pub(super) fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let mut order: Vec<_> = (0..self.len()).collect();
        order.sort_by_key(|index| {
            let health = self.0.nodes[*index].health();
            let rests_until = health.rests_until.filter(|until| *until > now);
            (rests_until, health.latency.unwrap_or_default())
        });
        order
    }

    pub(super) async fn client_of(&self, index: usize) -> Result<Client, CallError> {
        let node = &self.0.nodes[index];
        let mut link = node.link.lock().await;
        if let Some(client) = link.live() {
            return Ok(client.clone());
        }
        let config = || ClientConfig {
            timeout: self.0.config.timeout,
            ..ClientConfig::new(self.0.config.identity.clone())
        };
        let connected = async {
            let connector = match link.connector.take() {
                Some(connector) => connector,
                None => Connector::open(config(), &node.address).await?,
            };
            let client = link.connector.insert(connector).connect(&node.address).await?;
            Ok::<_, super::ClientError>(link.client.insert(client).clone())
        }
        .await;
        connected.map_err(|error| {
            node.failed();
            CallError::Request(RequestError::Disconnected(format!("{}: {error}", node.address)))
        })
    }

    /// Asks one node, and learns from it how the node does.
    pub(super) async fn ask_node(&self, index: usize, request: &EncodedFrame) -> Result<Answered, CallError> {
        let client = self.client_of(index).await?;
        let asked = Instant::now();
        let answer = client.ask(request).await;
        match &answer {
            Err(CallError::Request(_)) => self.0.nodes[index].failed(),
            Err(CallError::Failed { code: message::RpcCode::RpcInternal, .. }) => {
                self.0.nodes[index].failed();
            }
            _ => self.0.nodes[index].answered(asked.elapsed()),
        }
        answer
    }

    /// Asks one after the other until one answers.
    pub(super) async fn tell(&self, request: &EncodedFrame) -> Result<Answered, CallError> {
        self.ask_until(request, None).await
    }

    /// The same, and a second one beside the first if that takes long.
    pub(super) async fn ask(&self, request: &EncodedFrame) -> Result<Answered, CallError> {
        self.ask_until(request, self.0.config.hedge_after).await
    }

    async fn ask_until(
        &self,
        request: &EncodedFrame,
        hedge_after: Option<Duration>,
    ) -> Result<Answered, CallError> {
        let mut order = self.order().into_iter();
        let mut running = JoinSet::new();
        let mut worst = no_node();
        let start = |running: &mut JoinSet<_>, index: usize| {
            let (pool, request) = (self.clone(), request.clone());
            running.spawn(async move { pool.ask_node(index, &request).await });
            let usual = self.0.nodes[index].health().latency;
            hedge_after
                .map(|most| Instant::now() + usual.map_or(most, |usual| (4 * usual).clamp(HEDGE_LEAST, most)))
        };
        let Some(first) = order.next() else { return Err(worst) };
        let mut hedge_at = start(&mut running, first);
        loop {
            let hedge = async {
                match hedge_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(done) = running.join_next() => {
                    let error = match done {
                        Ok(Ok(answer)) => return Ok(answer),
                        Ok(Err(error)) if is_final(&error) => return Err(error),
                        Ok(Err(error)) => error,
                        Err(broken) => CallError::Request(RequestError::Disconnected(broken.to_string())),
                    };
                    // That something is not there says more than that a node is not.
                    if !matches!(worst, CallError::Failed { .. }) {
                        worst = error;
                    }
                    match order.next() {
                        Some(next) => hedge_at = start(&mut running, next),
                        None if running.is_empty() => return Err(worst),
                        None => hedge_at = None,
                    }
                }
                () = hedge => {
                    hedge_at = order.next().and_then(|next| start(&mut running, next));
                }
            }
        }
    }
}

impl Link {
    fn live(&self) -> Option<&Client> {
        self.client.as_ref().filter(|client| {
            !client.session().is_closing() && client.session().link().close_reason().is_none()
        })
    }
}

impl Node {
    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().expect("no code panics while it holds the health")
    }

    fn failed(&self) {
        let mut health = self.health();
        let pause = PAUSE_FIRST.saturating_mul(1 << health.failures.min(16)).min(PAUSE_MAX);
        health.failures = health.failures.saturating_add(1);
        health.failed += 1;
        health.rests_until = Some(Instant::now() + pause);
    }

    fn answered(&self, took: Duration) {
        let mut health = self.health();
        health.failures = 0;
        health.rests_until = None;
        health.answered += 1;
        // Jacobson's smoothing (SIGCOMM 1988): an eighth of each new sample.
        health.latency = Some(health.latency.map_or(took, |usual| (usual * 7 + took) / 8));
    }
}

fn no_node() -> CallError {
    CallError::Request(RequestError::Disconnected("the pool has no node".into()))
}

/// True if every other honest node would say the same.
fn is_final(error: &CallError) -> bool {
    matches!(error, CallError::Invalid(_) | CallError::Failed { code: message::RpcCode::RpcInvalid, .. })
}

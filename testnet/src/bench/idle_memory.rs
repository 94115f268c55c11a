//! Memory that an authenticated connection costs a server while nothing happens on it.
//!
//! The server is a process of its own. Every peer has its own key and they share one socket of this
//! process; they handshake, greet the overlay as it wants to be greeted, and are silent.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use ghost_proto::PeerId;
use ghost_protocol::{
    Identity, class::ClassTable, handshake::Role, inbox::InboxBuilder, transport::quic::tuning,
};
use quinn::{TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    BenchArgs, BenchError, Doing, End, bare, ghost, in_turns, machine,
    report::{Comparison, Target},
};

/// What the server process is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Holder {
    /// The overlay.
    Ghost,
    /// Bare quinn with as few streams and as small buffers as will do.
    QuinnTuned,
    /// Bare quinn with its own defaults.
    QuinnDefault,
}

/// A server and what its peers say they are.
#[derive(Debug, Clone, Copy)]
struct Way {
    holder: Holder,
    greets_as: Option<Role>,
}

const WAYS: [Way; 4] = [
    Way { holder: Holder::Ghost, greets_as: Some(Role::Node) },
    Way { holder: Holder::Ghost, greets_as: Some(Role::Client) },
    Way { holder: Holder::QuinnTuned, greets_as: None },
    Way { holder: Holder::QuinnDefault, greets_as: None },
];

/// Handshakes under way at once.
const AT_ONCE: usize = 32;
/// After so long a server has freed what it needed for handshakes.
const SETTLE: Duration = Duration::from_millis(800);
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server process says of itself once it listens.
#[derive(Debug, Serialize, Deserialize)]
struct Listening {
    port: u16,
    peer: String,
}

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let end = End::new(args)?;
    let mut each = [(); WAYS.len()].map(|()| Vec::new());
    let mut whole = each.clone();
    for run in 0..args.runs {
        for index in in_turns::<{ WAYS.len() }>(run) {
            let held = end.run(hold_and_weigh(WAYS[index], args.clone()))?;
            each[index].push(held.per_connection as f64 / 1024.0);
            whole[index].push(held.process as f64 / 1e6);
        }
    }
    let [node, client, tuned, default] = each;
    let [node_whole, client_whole, tuned_whole, _] = whole;
    let count = args.connections;
    let limit = 50.0 * f64::from(count) / 1000.0;
    Ok(vec![
        Comparison::new(
            format!("{count} nodes, each"),
            "KiB",
            ("ghost", node.clone()),
            ("quinn tuned", tuned.clone()),
            &[Target::RatioMax(1.25)],
        ),
        Comparison::new(
            format!("{count} clients, each"),
            "KiB",
            ("ghost", client),
            ("quinn tuned", tuned),
            &[Target::RatioMax(1.25)],
        ),
        Comparison::new(
            format!("{count} nodes, each"),
            "KiB",
            ("ghost", node),
            ("quinn default", default),
            &[],
        ),
        Comparison::new(
            format!("{count} nodes, the process"),
            "MB",
            ("ghost", node_whole),
            ("quinn tuned", tuned_whole.clone()),
            &[Target::OursMax(limit)],
        ),
        Comparison::new(
            format!("{count} clients, the process"),
            "MB",
            ("ghost", client_whole),
            ("quinn tuned", tuned_whole),
            &[Target::OursMax(limit)],
        ),
    ])
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// Bytes that each connection added.
    per_connection: u64,
    /// Bytes of the whole process, with all of them.
    process: u64,
}

async fn hold_and_weigh(way: Way, args: BenchArgs) -> Result<Held, BenchError> {
    let mut server = Server::spawn(way.holder, &args).await?;
    let endpoint = bare::client()?;
    // The first connection makes the server fault in what it keeps only once.
    let first = greet(server.dial(&endpoint, way), way.greets_as).await?;
    sleep(SETTLE / 4).await;
    let before = machine::resident_bytes(server.pid)?;

    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut dials = JoinSet::new();
    for _ in 0..args.connections {
        let place = places.clone().acquire_owned().await.doing("waiting for a place")?;
        let connecting = server.dial(&endpoint, way);
        dials.spawn(async move {
            let peer = greet(connecting, way.greets_as).await;
            drop(place);
            peer
        });
    }
    let mut peers = vec![first];
    while let Some(dial) = dials.join_next().await {
        peers.push(dial.doing("dialling")??);
    }
    sleep(SETTLE).await;
    let count = server.count().await?;
    if count != peers.len() {
        return Err(format!("the server holds {count} of {} connections", peers.len())).doing("dialling");
    }
    let process = machine::resident_bytes(server.pid)?;
    if let Some(peer) = peers.iter().find(|peer| peer.connection.close_reason().is_some()) {
        return Err(format!("{:?}", peer.connection.close_reason())).doing("holding connections");
    }
    let per_connection = process.saturating_sub(before) / u64::from(args.connections);
    server.end().await?;
    endpoint.close(0u32.into(), b"");
    Ok(Held { per_connection, process })
}

/// The server process.
#[derive(Debug)]
struct Server {
    child: Child,
    pid: u32,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
    name: String,
}

impl Server {
    async fn spawn(holder: Holder, args: &BenchArgs) -> Result<Self, BenchError> {
        const DOING: &str = "starting the server process";
        let program = std::env::current_exe().doing(DOING)?;
        let holder = holder.to_possible_value().ok_or("no name").doing(DOING)?;
        let mut child = Command::new(program)
            .args(["bench", "hold-idle", "--holder", holder.get_name()])
            .args(["--threads", &args.threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing(DOING)?;
        let pid = child.id().ok_or("it ended at once").doing(DOING)?;
        let stdin = child.stdin.take().ok_or("no standard input").doing(DOING)?;
        let stdout = child.stdout.take().ok_or("no standard output").doing(DOING)?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.doing(DOING)?.doing(DOING)?;
        let line = line.ok_or("it ended without a word").doing(DOING)?;
        let listening: Listening = serde_json::from_str(&line).doing(DOING)?;
        let peer: PeerId = listening.peer.parse().doing(DOING)?;
        let address = (Ipv4Addr::LOCALHOST, listening.port).into();
        Ok(Self { child, pid, stdin, lines, address, name: bare::name_of(&peer)? })
    }

    /// Starts a connection under a key of its own.
    fn dial(&self, endpoint: &quinn::Endpoint, way: Way) -> Result<quinn::Connecting, BenchError> {
        let config = bare::client_config(&Identity::generate(), Arc::new(transport(way.holder)), true)?;
        endpoint.connect_with(config, self.address, &self.name).doing("dialling")
    }

    /// How many connections the server holds.
    async fn count(&mut self) -> Result<usize, BenchError> {
        const DOING: &str = "asking the server process";
        self.stdin.write_all(b"count\n").await.doing(DOING)?;
        let line = timeout(PATIENCE, self.lines.next_line()).await.doing(DOING)?.doing(DOING)?;
        line.ok_or("it ended").doing(DOING)?.parse().doing(DOING)
    }

    /// Ends the process: its standard input ends, and so does it.
    async fn end(mut self) -> Result<(), BenchError> {
        drop(self.stdin);
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.doing("ending the server process")?.doing("ending the server process")?;
        if status.success() { Ok(()) } else { Err(status).doing("ending the server process") }
    }
}

/// One peer of the server; its streams live as long as it does.
#[derive(Debug)]
struct Peer {
    connection: quinn::Connection,
    _control: Option<(quinn::SendStream, quinn::RecvStream)>,
}

/// Completes the handshake and, if the server expects it, exchanges hellos.
async fn greet(
    connecting: Result<quinn::Connecting, BenchError>,
    role: Option<Role>,
) -> Result<Peer, BenchError> {
    let connection = timeout(PATIENCE, connecting?).await.doing("dialling")?.doing("dialling")?;
    let Some(role) = role else { return Ok(Peer { connection, _control: None }) };
    let mut send = connection.open_uni().await.doing("greeting")?;
    send.write_all(&ghost::greeting(role)).await.doing("greeting")?;
    let recv = timeout(PATIENCE, connection.accept_uni()).await.doing("awaiting hello")?;
    let mut recv = recv.doing("awaiting hello")?;
    recv.read_chunk(usize::MAX, true).await.doing("awaiting hello")?;
    Ok(Peer { connection, _control: Some((send, recv)) })
}

fn transport(holder: Holder) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(tuning::IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(tuning::KEEP_ALIVE));
    match holder {
        // The peers of the overlay only need room for its control stream.
        Holder::Ghost | Holder::QuinnTuned => {
            config
                .max_concurrent_bidi_streams(4u32.into())
                .max_concurrent_uni_streams(2u32.into())
                .stream_receive_window(VarInt::from_u32(64 * 1024))
                .receive_window(VarInt::from_u32(128 * 1024))
                .send_window(128 * 1024)
                .datagram_receive_buffer_size(None)
                .datagram_send_buffer_size(0)
                .mtu_discovery_config(None);
        }
        Holder::QuinnDefault => {}
    }
    config
}

/// The server process: says where it listens, then answers each line it reads with the number of
/// connections it holds, until its standard input ends.
pub(super) fn hold(args: &BenchArgs) -> Result<(), BenchError> {
    const DOING: &str = "speaking with the parent process";
    let holder = args.holder;
    let end = End::new(args)?;
    let held = end.run(async move { Holding::start(holder) })?;
    let mut stdout = std::io::stdout().lock();
    let mut answer = serde_json::to_string(&held.listening()?).doing(DOING)?;
    let mut lines = std::io::stdin().lines();
    loop {
        writeln!(stdout, "{answer}").doing(DOING)?;
        let Some(line) = lines.next() else { return Ok(()) };
        line.doing(DOING)?;
        answer = held.count().to_string();
    }
}

#[derive(Debug)]
enum Holding {
    Ghost(ghost::Node),
    Bare { endpoint: quinn::Endpoint, peer: PeerId },
}

impl Holding {
    fn start(holder: Holder) -> Result<Self, BenchError> {
        if holder == Holder::Ghost {
            return ghost::start(ClassTable::default(), InboxBuilder::new().build()).map(Self::Ghost);
        }
        let identity = Identity::generate();
        let endpoint = bare::server(&identity, Arc::new(transport(holder)))?;
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        connection.closed().await;
                    }
                });
            }
        });
        Ok(Self::Bare { endpoint, peer: identity.peer_id() })
    }

    fn listening(&self) -> Result<Listening, BenchError> {
        let (address, peer) = match self {
            Self::Ghost(node) => (node.address, node.peer),
            Self::Bare { endpoint, peer } => (endpoint.local_addr().doing("opening an endpoint")?, *peer),
        };
        Ok(Listening { port: address.port(), peer: peer.to_string() })
    }

    fn count(&self) -> usize {
        match self {
            Self::Ghost(node) => node.overlay.sessions().len() + node.overlay.clients().len(),
            Self::Bare { endpoint, .. } => endpoint.open_connections(),
        }
    }
}

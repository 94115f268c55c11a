//! Dial to the first byte of an answer.
//!
//! Ours: handshake, hello both ways, a status request and its answer. The rival: handshake, a request
//! and an answer of the same sizes. No tickets are kept, except for the resumed dials.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_frames::{Code, Frame};
use ghost_proto::{Multiaddr, PeerId, message};
use ghost_protocol::{
    Identity, address,
    client::{ClientConfig, Connecting, Connector},
    handshake::Role,
    tally::Tally,
    transport::{
        RecvStream, SendStream,
        quic::{self, Endpoint, Socket, tuning},
    },
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    BenchArgs, BenchError, Doing, End, bare, ghost, in_turns, machine,
    report::{Comparison, Target, quantile},
};

/// Turns in which a run is divided.
const TURNS: u32 = 4;
/// Dials one after another, for each run and way.
const SEQUENTIAL: usize = 200;
/// Dials of a rate, for each run and way.
const CONCURRENT: usize = 512;
/// How many of them are under way at once.
const AT_ONCE: usize = 32;
/// Resumed dials, for each run and way.
const RESUMED: usize = 100;
/// Nothing here takes so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server answers with; both ways use the same bytes.
const ANSWER_BYTES_MAX: usize = 1024;

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let (server, client) = (End::new(args)?, End::new(args)?);
    let node = server.run(async { ghost::start_answering() })?;
    let rival = server.run(serve_bare())?;
    let node_address = address::with_peer(address::of_socket(node.address), node.peer);
    let ways = [Way::Ghost { peer: node.peer, socket: node.address, address: node_address }, rival];

    // The first handshakes fault pages in and fill caches: they count for nobody.
    for way in &ways {
        client.run(dial_in_sequence(way.clone(), SEQUENTIAL / 10))?;
    }
    let mut turns = [(); 2].map(|()| Vec::new());
    for run in 0..args.runs {
        let mut dialled = [(); 2].map(|()| Dialled::default());
        // Many short turns: what disturbs one way for a moment disturbs the other in the next.
        for turn in 0..TURNS {
            for index in in_turns::<2>(run + turn) {
                let way = || ways[index].clone();
                let so_far = &mut dialled[index];
                let (times, cpu_seconds) =
                    client.run(dial_in_sequence(way(), SEQUENTIAL / TURNS as usize))?;
                so_far.times.extend(times);
                so_far.cpu_seconds += cpu_seconds;
                so_far.concurrent_seconds += client.run(dial_at_once(way(), CONCURRENT / TURNS as usize))?;
                so_far.resumed_times.extend(client.run(dial_resumed(way(), RESUMED / TURNS as usize))?);
            }
        }
        for (turns, dialled) in turns.iter_mut().zip(dialled) {
            turns.push(dialled);
        }
    }
    let mut of = |figure: fn(&mut Dialled) -> f64| {
        turns.each_mut().map(|turns| turns.iter_mut().map(figure).collect::<Vec<_>>())
    };
    let against = |work: &str, unit, [ours, rival]: [Vec<f64>; 2], targets: &[Target]| {
        Comparison::new(work, unit, ("ghost", ours), ("quinn", rival), targets)
    };
    let full = of(|dialled| quantile(&mut dialled.times, 0.5) * 1e6);
    let resumed = of(|dialled| quantile(&mut dialled.resumed_times, 0.5) * 1e6);
    let early = |names: [&'static str; 2], index: usize, targets: &[Target]| {
        let [resumed, full] = [&resumed, &full].map(|times| times[index].clone());
        Comparison::new(
            "0-RTT request to answer, median",
            "µs",
            (names[0], resumed),
            (names[1], full),
            targets,
        )
    };
    Ok(vec![
        against(
            "dials one after another",
            "dials/s",
            of(|dialled| dialled.times.len() as f64 / dialled.times.iter().sum::<f64>()),
            &[Target::RatioMin(0.9)],
        ),
        against(
            "CPU of a dial, both ends",
            "µs",
            of(|dialled| dialled.cpu_seconds / dialled.times.len() as f64 * 1e6),
            &[],
        ),
        against("dial to answer, median", "µs", full.clone(), &[Target::OursMax(1000.0)]),
        against("dial to answer, p99", "µs", of(|dialled| quantile(&mut dialled.times, 0.99) * 1e6), &[]),
        against(
            &format!("dials, {AT_ONCE} at once"),
            "dials/s",
            of(|dialled| CONCURRENT as f64 / dialled.concurrent_seconds),
            &[Target::RatioMin(0.9), Target::OursMin(1000.0)],
        ),
        early(["ghost 0-RTT", "ghost full"], 0, &[Target::RatioMax(0.85)]),
        early(["quinn 0-RTT", "quinn full"], 1, &[]),
        against("0-RTT request to answer, median", "µs", resumed.clone(), &[Target::RatioMax(1.0 / 0.9)]),
    ])
}

/// One run's dials of one way.
#[derive(Debug, Default)]
struct Dialled {
    /// Seconds of each dial of those that came one after another.
    times: Vec<f64>,
    /// What these took of the processor, at both ends.
    cpu_seconds: f64,
    concurrent_seconds: f64,
    resumed_times: Vec<f64>,
}

/// One of the two ways to a server.
#[derive(Debug, Clone)]
enum Way {
    Ghost { peer: PeerId, socket: SocketAddr, address: Multiaddr },
    Bare { peer: PeerId, socket: SocketAddr },
}

/// A connection that has had its answer.
#[derive(Debug)]
enum Connected {
    Ghost(Connecting),
    Bare(quinn::Connection),
}

impl Connected {
    fn close(self) {
        match self {
            Self::Ghost(connecting) => drop(connecting),
            Self::Bare(connection) => connection.close(0u32.into(), b""),
        }
    }
}

/// Dials the server, each time with a full handshake.
#[derive(Debug)]
enum Dialler {
    Ghost { connector: Connector, address: Multiaddr },
    Bare { endpoint: quinn::Endpoint, config: quinn::ClientConfig, name: String, socket: SocketAddr },
}

impl Way {
    fn dialler(&self) -> Result<Dialler, BenchError> {
        let identity = Identity::generate();
        match self {
            Self::Ghost { address, .. } => {
                let config = ClientConfig { resume: false, ..ClientConfig::new(identity) };
                let connector = Connector::with_socket(config, Socket::Bind(bare::LOOPBACK));
                Ok(Dialler::Ghost {
                    connector: connector.doing("opening a client")?,
                    address: address.clone(),
                })
            }
            Self::Bare { peer, socket } => Ok(Dialler::Bare {
                endpoint: bare::client()?,
                config: bare::client_config(&identity, tuning::transport(), false)?,
                name: bare::name_of(peer)?,
                socket: *socket,
            }),
        }
    }
}

impl Dialler {
    async fn dial(&self) -> Result<Connected, BenchError> {
        match self {
            Self::Ghost { connector, address } => {
                let question = Frame::StatusRequest(message::StatusRequest {});
                let (answer, connecting) =
                    connector.connect_asking(address, &question).await.doing("dialling a node")?;
                debug_assert!(matches!(answer, Frame::Status(_)));
                Ok(Connected::Ghost(connecting))
            }
            Self::Bare { endpoint, config, name, socket } => {
                let connecting =
                    endpoint.connect_with(config.clone(), *socket, name).doing("dialling bare")?;
                let connection = connecting.await.doing("dialling bare")?;
                let (send, recv) = connection.open_bi().await.doing("dialling bare")?;
                ask(SendStream::Quic(send), RecvStream::Quic(recv)).await?;
                Ok(Connected::Bare(connection))
            }
        }
    }
}

/// Sends a status request by hand and waits for the whole answer.
async fn ask(mut send: SendStream, mut recv: RecvStream) -> Result<(), BenchError> {
    send.write_chunk(ghost::status_request()).await.doing("asking")?;
    let _ = send.finish();
    let answer = timeout(PATIENCE, recv.read_to_end(ANSWER_BYTES_MAX)).await;
    let answer = answer.doing("awaiting an answer")?.doing("awaiting an answer")?;
    if answer == *ghost::status_answer().bytes() {
        Ok(())
    } else {
        Err("wrong bytes").doing("awaiting an answer")
    }
}

/// Seconds that each dial took, and of processor time that all took at both ends.
async fn dial_in_sequence(way: Way, count: usize) -> Result<(Vec<f64>, f64), BenchError> {
    let dialler = way.dialler()?;
    dialler.dial().await?;
    settle().await;
    let mut times = Vec::with_capacity(count);
    let cpu = machine::cpu_seconds();
    for _ in 0..count {
        let begun = Instant::now();
        let connected = dialler.dial().await?;
        times.push(begun.elapsed().as_secs_f64());
        connected.close();
    }
    settle().await;
    Ok((times, machine::cpu_seconds() - cpu))
}

/// Seconds that all dials took together.
async fn dial_at_once(way: Way, count: usize) -> Result<f64, BenchError> {
    let dialler = Arc::new(way.dialler()?);
    dialler.dial().await?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    settle().await;
    let begun = Instant::now();
    let mut dials = JoinSet::new();
    for _ in 0..count {
        let place = places.clone().acquire_owned().await.doing("waiting for a place")?;
        let dialler = dialler.clone();
        dials.spawn(async move {
            let connected = dialler.dial().await;
            drop(place);
            connected
        });
    }
    let connected: Vec<_> = dials.join_all().await;
    let seconds = begun.elapsed().as_secs_f64();
    connected.into_iter().try_for_each(|connected| connected.map(Connected::close))?;
    settle().await;
    Ok(seconds)
}

/// Lets the other end notice what was opened or closed.
async fn settle() {
    sleep(Duration::from_millis(50)).await;
}

/// Seconds until the answer to each request that travelled with the first flight.
async fn dial_resumed(way: Way, count: usize) -> Result<Vec<f64>, BenchError> {
    let identity = Identity::generate();
    let mut times = Vec::with_capacity(count);
    match way {
        Way::Ghost { peer, socket, .. } => {
            let endpoint =
                Endpoint::open(&identity, Socket::Bind(bare::LOOPBACK), false, None, Tally::default())
                    .doing("opening an endpoint")?;
            for _ in 0..=count {
                let begun = Instant::now();
                let dialled = endpoint.dial_early(peer, socket).await.doing("dialling")?;
                let link = match dialled {
                    quic::Dialled::Early(early) => {
                        let (send, recv) = early.open_bi().await.doing("opening an early stream")?;
                        ask(send, recv).await?;
                        times.push(begun.elapsed().as_secs_f64());
                        early.confirmed().await.doing("resuming")?.0
                    }
                    quic::Dialled::Link(link) => link,
                };
                // A peer that does not greet is closed; and the next ticket comes before this answer.
                let mut control = link.open_uni().await.doing("greeting")?;
                control.write_all(&ghost::greeting(Role::Client)).await.doing("greeting")?;
                let (send, recv) = link.open_bi().await.doing("opening a stream")?;
                ask(send, recv).await?;
                link.close(Code::Done, "");
            }
        }
        Way::Bare { peer, socket } => {
            let endpoint = bare::client()?;
            let config = bare::client_config(&identity, tuning::transport(), true)?;
            let name = bare::name_of(&peer)?;
            for _ in 0..=count {
                let begun = Instant::now();
                let connecting = endpoint.connect_with(config.clone(), socket, &name).doing("dialling")?;
                let connection = match connecting.into_0rtt() {
                    Ok((connection, accepted)) => {
                        let (send, recv) = connection.open_bi().await.doing("opening an early stream")?;
                        ask(SendStream::Quic(send), RecvStream::Quic(recv)).await?;
                        times.push(begun.elapsed().as_secs_f64());
                        accepted.await;
                        connection
                    }
                    Err(connecting) => connecting.await.doing("dialling")?,
                };
                let (send, recv) = connection.open_bi().await.doing("opening a stream")?;
                ask(SendStream::Quic(send), RecvStream::Quic(recv)).await?;
                connection.close(0u32.into(), b"");
            }
        }
    }
    if times.len() < count {
        return Err(format!("only {} of {count} dials could use a ticket", times.len())).doing("resuming");
    }
    Ok(times)
}

/// Answers one request after another on every connection, early ones too.
async fn serve_bare() -> Result<Way, BenchError> {
    let identity = Identity::generate();
    let peer = identity.peer_id();
    let endpoint = bare::server(&identity, tuning::transport())?;
    let socket = endpoint.local_addr().doing("opening an endpoint")?;
    let answer = ghost::status_answer().bytes().clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(answer_all(incoming, answer.clone()));
        }
    });
    Ok(Way::Bare { peer, socket })
}

async fn answer_all(incoming: quinn::Incoming, answer: Bytes) -> Option<()> {
    let connecting = incoming.accept().ok()?;
    let connection = match connecting.into_0rtt() {
        Ok((connection, _)) => connection,
        Err(connecting) => connecting.await.ok()?,
    };
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let request = recv.read_to_end(ANSWER_BYTES_MAX).await.ok()?;
        if request == ghost::status_request() {
            send.write_chunk(answer.clone()).await.ok()?;
            let _ = send.finish();
        }
    }
    Some(())
}

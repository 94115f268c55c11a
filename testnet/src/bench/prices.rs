//! A price from its publisher to a subscriber over three hops, against the same bytes over bare quinn.
//!
//! Ours: a publisher pushes a signed report to a node, which checks it and passes it on to another one,
//! which checks it and hands it to a subscriber, which checks it and computes the price; the nodes are whole
//! ones, with a chain. The rival: 103 bytes go over three connections and are passed on as they come. The last
//! hop is a datagram or a stream, on both sides.
//!
//! Every end has a runtime of its own. What a hop adds is a third of the difference.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_frames::{StreamType, price::PriceReport, writer::Payload};
use ghost_node::{
    clock::Clock,
    config::Config,
    run::{NodeParts, RunningNode, start_parts},
    store::MemoryStore,
};
use ghost_proto::{AuthoritySet, FeedSpec, Genesis, KeyPair, Multiaddr, Report, price::ReportFields};
use ghost_protocol::{
    Identity, PeerId,
    client::{Client, ClientConfig, PriceEvent, PriceRules},
    transport::quic::{Socket, tuning},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    BenchArgs, BenchError, Doing, End, bare, in_turns,
    report::{Comparison, Target, quantile},
};

/// Between two reports: half the pace that is taken of a publisher.
const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a report as it stands on a stream.
const MESSAGE_BYTES: usize = 103;
/// Hops from the publisher to the subscriber.
const HOPS: f64 = 3.0;
/// What a hop may add to bare QUIC, in microseconds.
const ADDED_US_MAX: f64 = 100.0;

/// How the last hop goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Datagram,
    Stream,
}

impl Last {
    fn name(self) -> &'static str {
        match self {
            Self::Datagram => "datagram",
            Self::Stream => "stream",
        }
    }
}

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let mut comparisons = Vec::new();
    for last in [Last::Datagram, Last::Stream] {
        let mut p50 = [Vec::new(), Vec::new()];
        let mut p99 = [Vec::new(), Vec::new()];
        for run in 0..args.runs {
            for index in in_turns::<2>(run) {
                let mut samples = match index {
                    0 => ours(last, args)?,
                    _ => rival(last, args)?,
                };
                p50[index].push(quantile(&mut samples, 0.5));
                p99[index].push(quantile(&mut samples, 0.99));
            }
        }
        let name = last.name();
        let [ours, bare] = p50;
        let added: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| (ours - bare) / HOPS).collect();
        let per_hop = bare.iter().map(|bare| bare / HOPS).collect();
        let [ours99, bare99] = p99;
        comparisons.push(Comparison::new(
            format!("{name}: publisher to subscriber, p50"),
            "µs",
            ("ghost", ours),
            ("quinn", bare),
            &[],
        ));
        comparisons.push(Comparison::new(
            format!("{name}: publisher to subscriber, p99"),
            "µs",
            ("ghost", ours99),
            ("quinn", bare99),
            &[],
        ));
        comparisons.push(Comparison::new(
            format!("{name}: each hop, p50"),
            "µs",
            ("added by ghost", added),
            ("quinn", per_hop),
            &[Target::OursMax(ADDED_US_MAX)],
        ));
    }
    Ok(comparisons)
}

fn genesis(publisher: &KeyPair, authority: &KeyPair) -> Result<Genesis, BenchError> {
    Ok(Genesis {
        name: "bench".into(),
        chain_id: 1,
        time_unix_ms: ghost_node::cli::output::unix_ms_now(),
        slot_ms: 1_000,
        gas_price_min: 1,
        block_gas_max: 30_000_000,
        block_bytes_max: 1 << 20,
        authorities: AuthoritySet::new(vec![authority.public()]).doing("making a chain")?,
        allocation: BTreeMap::new(),
        markets: Default::default(),
        feeds: vec![FeedSpec {
            name: "BENCH".into(),
            exponent: 0,
            publishers: vec![publisher.public()],
            quorum: 1,
            heartbeat_ms: 1_000,
            deviation_bps: 0,
            max_age_ms: 60_000,
        }],
    })
}

/// A whole node that no authority is, on loopback.
async fn node(genesis: Arc<Genesis>) -> Result<RunningNode, BenchError> {
    start_parts(NodeParts {
        config: Config::default(),
        genesis,
        identity: Identity::generate(),
        authority: None,
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
    .doing("starting a node")
}

async fn client(address: &Multiaddr) -> Result<Client, BenchError> {
    Client::connect(ClientConfig::new(Identity::generate()), address).await.doing("connecting to a node")
}

fn ours(last: Last, args: &BenchArgs) -> Result<Vec<f64>, BenchError> {
    let ends = [End::new(args)?, End::new(args)?, End::new(args)?, End::new(args)?];
    let (publisher, authority) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
    let genesis = Arc::new(genesis(&publisher, &authority)?);
    let chain = genesis.clone();
    let first = ends[1].run(async move { node(chain).await })?;
    let chain = genesis.clone();
    let second = ends[2].run(async move { node(chain).await })?;
    let (peer, address) = (second.peer_id, second.overlay().local_addresses()[0]);
    let overlay = first.overlay().clone();
    ends[1].run(async move {
        timeout(PATIENCE, overlay.dial(peer, address)).await.doing("dialling")?.doing("dialling")?;
        Ok(())
    })?;

    let (heard, mut arrivals) = mpsc::unbounded_channel::<(i64, Instant)>();
    let (at, chain) = (second.listen[0].clone(), genesis.clone());
    ends[3].run(async move {
        let client = client(&at).await?;
        let mut rules = PriceRules::of(&chain);
        match last {
            Last::Datagram => {
                let mut ticks = client.price_ticks(&["BENCH"], 1).await.doing("subscribing")?;
                tokio::spawn(async move {
                    while let Ok(Some(quote)) = ticks.next().await {
                        let Ok(price) = rules.price(&quote) else { return };
                        if heard.send((price.price, Instant::now())).is_err() {
                            return;
                        }
                    }
                });
            }
            Last::Stream => {
                let stream = client.follow_price(&rules, "BENCH", None).await;
                let mut stream = stream.doing("subscribing")?;
                tokio::spawn(async move {
                    while let Ok(event) = stream.next().await {
                        let PriceEvent::Price { price, .. } = event else { continue };
                        if heard.send((price.price, Instant::now())).is_err() {
                            return;
                        }
                    }
                });
            }
        }
        Ok(())
    })?;

    let (at, turn) = (first.listen[0].clone(), args.turn());
    let sent = ends[0].run(async move {
        let client = client(&at).await?;
        let id = genesis.id();
        let mut sent = BTreeMap::new();
        let begun = Instant::now();
        let mut timer = interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for price in 1i64.. {
            timer.tick().await;
            if begun.elapsed() > turn {
                break;
            }
            let now = ghost_node::cli::output::unix_ms_now();
            // Signing is the publisher's business and not a hop's.
            let fields = ReportFields {
                feed: 0,
                publisher: 0,
                sequence: price as u64,
                time_unix_ms: now,
                price,
                confidence: 1,
            };
            let frame = PriceReport(Report::sign(fields, &id, &publisher)).to_frame();
            sent.insert(price, Instant::now());
            client.session().push(StreamType::Oracle, &frame);
        }
        sleep(Duration::from_millis(200)).await;
        Ok(sent)
    })?;
    drop((first, second));
    collect(&sent, &mut arrivals)
}

/// Times from sending to the first arrival, in microseconds.
fn collect(
    sent: &BTreeMap<i64, Instant>,
    arrivals: &mut mpsc::UnboundedReceiver<(i64, Instant)>,
) -> Result<Vec<f64>, BenchError> {
    let mut first = BTreeMap::new();
    while let Ok((number, at)) = arrivals.try_recv() {
        first.entry(number).or_insert(at);
    }
    let samples: Vec<f64> = sent
        .iter()
        .filter_map(|(number, sent)| Some((*first.get(number)? - *sent).as_secs_f64() * 1e6))
        .collect();
    // The first reports may come before a peer is known; a datagram may be lost.
    if samples.len() * 10 < sent.len() * 8 {
        let cause = format!("only {} of {} arrived", samples.len(), sent.len());
        return Err(BenchError { doing: "measuring prices", cause });
    }
    Ok(samples)
}

/// Opens an endpoint that accepts one connection and says where.
async fn listen() -> Result<(quinn::Endpoint, PeerId, SocketAddr), BenchError> {
    let identity = Identity::generate();
    let endpoint = bare::server(&identity, tuning::transport())?;
    let address = endpoint.local_addr().doing("opening an endpoint")?;
    Ok((endpoint, identity.peer_id(), address))
}

async fn dial(peer: PeerId, address: SocketAddr) -> Result<(quinn::Endpoint, quinn::Connection), BenchError> {
    let endpoint = bare::client()?;
    let config = bare::client_config(&Identity::generate(), tuning::transport(), false)?;
    let connection = endpoint
        .connect_with(config, address, &bare::name_of(&peer)?)
        .doing("dialling")?
        .await
        .doing("dialling")?;
    Ok((endpoint, connection))
}

/// Passes messages on: from the one stream of who dialled first to who dialled next.
async fn pass_on(endpoint: quinn::Endpoint, to: mpsc::UnboundedSender<Bytes>) {
    let Some(incoming) = endpoint.accept().await else { return };
    let Ok(connection) = incoming.await else { return };
    let Ok(mut stream) = connection.accept_uni().await else { return };
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).await.is_ok() {
        if to.send(Bytes::copy_from_slice(&message)).is_err() {
            return;
        }
    }
}

fn rival(last: Last, args: &BenchArgs) -> Result<Vec<f64>, BenchError> {
    let ends = [End::new(args)?, End::new(args)?, End::new(args)?, End::new(args)?];
    let (first, first_peer, first_at) = ends[1].run(listen())?;
    let (second, second_peer, second_at) = ends[2].run(listen())?;
    // The subscriber dials a socket of its own at the second node.
    let (serving, serving_peer, serving_at) = ends[2].run(listen())?;
    let (heard, mut arrivals) = mpsc::unbounded_channel::<(i64, Instant)>();
    let (to_subscriber, mut subscribed) = mpsc::unbounded_channel::<Bytes>();
    ends[2].run(async move {
        tokio::spawn(pass_on(second, to_subscriber));
        tokio::spawn(async move {
            let Some(incoming) = serving.accept().await else { return };
            let Ok(connection) = incoming.await else { return };
            let stream = match last {
                Last::Stream => connection.open_uni().await.ok(),
                Last::Datagram => None,
            };
            let mut stream = stream;
            while let Some(message) = subscribed.recv().await {
                let sent = match &mut stream {
                    Some(stream) => stream.write_all(&message).await.is_ok(),
                    None => connection.send_datagram(message).is_ok(),
                };
                if !sent {
                    return;
                }
            }
        });
        Ok(())
    })?;
    ends[1].run(async move {
        let (endpoint, connection) = dial(second_peer, second_at).await?;
        let (to, mut messages) = mpsc::unbounded_channel::<Bytes>();
        tokio::spawn(pass_on(first, to));
        let mut stream = connection.open_uni().await.doing("opening a stream")?;
        tokio::spawn(async move {
            let _open = endpoint;
            while let Some(message) = messages.recv().await {
                if stream.write_all(&message).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    })?;
    ends[3].run(async move {
        let (endpoint, connection) = dial(serving_peer, serving_at).await?;
        tokio::spawn(async move {
            let _open = endpoint;
            let number = |message: &[u8]| {
                let (number, _) = message.split_first_chunk::<8>()?;
                Some(i64::from_be_bytes(*number))
            };
            let mut message = vec![0; MESSAGE_BYTES];
            let mut stream = match last {
                Last::Stream => connection.accept_uni().await.ok(),
                Last::Datagram => None,
            };
            loop {
                let got = match &mut stream {
                    Some(stream) => match stream.read_exact(&mut message).await {
                        Ok(()) => number(&message),
                        Err(_) => return,
                    },
                    None => match connection.read_datagram().await {
                        Ok(message) => number(&message),
                        Err(_) => return,
                    },
                };
                let Some(got) = got else { return };
                if heard.send((got, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(())
    })?;
    let turn = args.turn();
    let sent = ends[0].run(async move {
        let (endpoint, connection) = dial(first_peer, first_at).await?;
        let mut stream = connection.open_uni().await.doing("opening a stream")?;
        let mut sent = BTreeMap::new();
        let begun = Instant::now();
        let mut timer = interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 1i64.. {
            timer.tick().await;
            if begun.elapsed() > turn {
                break;
            }
            let mut message = [0; MESSAGE_BYTES];
            message[..8].copy_from_slice(&number.to_be_bytes());
            sent.insert(number, Instant::now());
            stream.write_all(&message).await.doing("sending")?;
        }
        sleep(Duration::from_millis(200)).await;
        drop(endpoint);
        Ok(sent)
    })?;
    collect(&sent, &mut arrivals)
}

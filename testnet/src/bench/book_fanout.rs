//! A book's feed to many followers: 10,000 deltas a second, published as 100 batches, beside bare quinn that writes the
//! same bytes.
//!
//! Ours is all that a follower of a market gets: the hub's ring, a session, a request, frames, and at the other end the
//! chain of hashes computed again. The rival hands each batch, encoded once, to a task for each connection, which writes it to
//! a stream; its reader counts frames and looks at the time. Other rivals have a crate of their own: a batch is [`Batch`],
//! and what is measured is [`Delivered`].

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use ghost_frames::{Payload, StreamType, feed::FeedEntries};
use ghost_proto::{
    FeedPosition,
    market::{OrderEvent, Side, encode_events},
};
use ghost_protocol::{
    Identity,
    address::{of_socket, with_peer},
    class::ClassTable,
    client::{BookQuery, Client, ClientConfig},
    feed::{CursorLimits, Event, Feed, FeedLimits, Hub, Source},
    inbox::InboxBuilder,
    transport::quic::tuning,
};
use tokio::{sync::mpsc, task::JoinSet, time};

use super::{
    BenchArgs, BenchError, Doing, End, bare, ghost, in_turns,
    machine::cpu_seconds,
    report::{Comparison, quantile},
};

const FOLLOWERS: [usize; 3] = [1, 50, 500];
const BATCHES_PER_SECOND: u32 = 100;
const DELTAS_PER_BATCH: usize = 100;
const EPOCH: u64 = 1;
/// Length of the mark of a book.
const MARK_BYTES: usize = 88;
/// How long followers have for what was published last.
const PATIENCE: Duration = Duration::from_secs(20);

/// The deltas of one moment.
struct Batch {
    entries: Vec<Bytes>,
}

impl Batch {
    fn new(number: u64) -> Self {
        let entry = |n: u64| {
            let order = number * DELTAS_PER_BATCH as u64 + n + 1;
            let side = if n.is_multiple_of(2) { Side::Buy } else { Side::Sell };
            encode_events(&[OrderEvent::Rested { order, side, ticks: 10_000 + n % 50, lots: 1 + n }])
        };
        Self { entries: (0..DELTAS_PER_BATCH as u64).map(entry).collect() }
    }
}

/// The time since the start, where a book has its height.
fn mark(begun: Instant) -> Bytes {
    let mut mark = vec![0; MARK_BYTES];
    mark[..8].copy_from_slice(&(begun.elapsed().as_micros() as u64).to_be_bytes());
    mark.into()
}

fn age_us(begun: Instant, mark: &[u8]) -> f64 {
    let sent = mark.first_chunk().map_or(0, |at| u64::from_be_bytes(*at));
    (begun.elapsed().as_micros() as u64).saturating_sub(sent) as f64
}

/// What the followers got.
#[derive(Debug, Clone, Copy)]
struct Delivered {
    p50_us: f64,
    p99_us: f64,
    cpu_seconds_per_million: f64,
    bytes_per_delta: f64,
}

impl Delivered {
    fn of(ages: Arc<Mutex<Vec<f64>>>, cpu_seconds: f64, bytes: f64) -> Self {
        let mut ages = ages.lock().expect("no follower panics").clone();
        let deliveries = ages.len() as f64 * DELTAS_PER_BATCH as f64;
        Self {
            p50_us: quantile(&mut ages, 0.5),
            p99_us: quantile(&mut ages, 0.99),
            cpu_seconds_per_million: cpu_seconds * 1e6 / deliveries,
            bytes_per_delta: bytes / DELTAS_PER_BATCH as f64,
        }
    }
}

struct Nothing;

impl Source for Nothing {
    fn snapshot(&self) -> (Bytes, Bytes) {
        (Bytes::new(), Bytes::from_static(&[0; MARK_BYTES]))
    }
    fn mark(&self) -> Bytes {
        Bytes::from_static(&[0; MARK_BYTES])
    }
}

/// Publishes at the pace, whatever the followers do.
async fn publish(batches: u64, mut each: impl FnMut(Batch)) {
    let mut pace = time::interval(Duration::from_secs(1) / BATCHES_PER_SECOND);
    for number in 0..batches {
        pace.tick().await;
        each(Batch::new(number));
    }
}

async fn all(mut followers: JoinSet<Result<(), BenchError>>) -> Result<(), BenchError> {
    let joined = async {
        while let Some(done) = followers.join_next().await {
            done.doing("following")??;
        }
        Ok(())
    };
    time::timeout(PATIENCE, joined).await.doing("waiting for all followers")?
}

/// Ours.
fn ghost_way(followers: usize, batches: u64, server: &End, clients: &End) -> Result<Delivered, BenchError> {
    let origin = FeedPosition::origin(EPOCH, b"bench");
    let limits = FeedLimits { ring_bytes_max: 64 << 20, behind_bytes_max: 64 << 20 };
    let hub = Hub::new(Feed::new(EPOCH, origin, limits), Nothing);
    let serving = hub.clone();
    let node = server.run(async move {
        let mut inbox = InboxBuilder::new();
        let mut asked = inbox.requests(StreamType::Books, 1024);
        tokio::spawn(async move {
            while let Some(asked) = asked.recv().await {
                tokio::spawn(serving.serve(None, asked.responder));
            }
        });
        ghost::start(ClassTable::default(), inbox.build())
    })?;
    let begun = Instant::now();
    let ages = Arc::new(Mutex::new(Vec::new()));
    let (counted, address) = (ages.clone(), with_peer(of_socket(node.address), node.peer));
    let following = clients.run(async move {
        let mut set = JoinSet::new();
        for _ in 0..followers {
            let config = ClientConfig { timeout: PATIENCE, ..ClientConfig::new(Identity::generate()) };
            let client = Client::connect(config, &address).await.doing("connecting")?;
            let query = BookQuery::orders("BENCH");
            let stream = client.follow_market(&query, None, CursorLimits::default()).await;
            let mut stream = stream.doing("subscribing")?;
            stream.next().await.doing("waiting for the snapshot")?;
            let counted = counted.clone();
            set.spawn(async move {
                let mut mine = Vec::with_capacity(batches as usize);
                while (mine.len() as u64) < batches {
                    if let Event::Entries { mark, .. } = stream.next().await.doing("following")? {
                        mine.push(age_us(begun, &mark));
                    }
                }
                counted.lock().expect("no follower panics").extend(mine);
                drop(client);
                Ok(())
            });
        }
        Ok(set)
    })?;
    let cpu = cpu_seconds();
    let publisher = hub.clone();
    server.run(async move {
        publish(batches, |batch| {
            publisher.publish(|feed, _| feed.publish(&batch.entries, &mark(begun)));
        })
        .await;
        Ok(())
    })?;
    clients.run(all(following))?;
    let cpu = cpu_seconds() - cpu;
    let bytes = hub.read(|feed, _| feed.ring_bytes()) as f64 / batches as f64;
    server.run(async move {
        node.overlay.shut_down(Duration::ZERO).await;
        Ok(())
    })?;
    Ok(Delivered::of(ages, cpu, bytes))
}

/// The floor.
fn bare_way(followers: usize, batches: u64, server: &End, clients: &End) -> Result<Delivered, BenchError> {
    let identity = Identity::generate();
    let peer = identity.peer_id();
    let endpoint = server.run(async move { bare::server(&identity, tuning::transport()) })?;
    let address = endpoint.local_addr().doing("reading an address")?;
    let begun = Instant::now();
    let ages = Arc::new(Mutex::new(Vec::new()));
    let accepting = endpoint.clone();
    let (writers, mut opened) = mpsc::unbounded_channel::<mpsc::UnboundedSender<Bytes>>();
    server.run(async move {
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let (sender, mut frames) = mpsc::unbounded_channel::<Bytes>();
                let writers = writers.clone();
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let Ok(mut stream) = connection.open_uni().await else { return };
                    let _ = writers.send(sender);
                    while let Some(frame) = frames.recv().await {
                        if stream.write_chunk(frame).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(())
    })?;
    let counted = ages.clone();
    let following = clients.run(async move {
        let mut set = JoinSet::new();
        for _ in 0..followers {
            let endpoint = bare::client()?;
            let config = bare::client_config(&Identity::generate(), tuning::transport(), false)?;
            let connecting = endpoint.connect_with(config, address, &bare::name_of(&peer)?);
            let connection = connecting.doing("dialling")?.await.doing("connecting")?;
            let counted = counted.clone();
            set.spawn(async move {
                let _endpoint = endpoint;
                let mut stream = connection.accept_uni().await.doing("waiting for a stream")?;
                let mut buffer = BytesMut::new();
                let mut mine = Vec::with_capacity(batches as usize);
                while (mine.len() as u64) < batches {
                    let chunk = stream.read_chunk(64 * 1024, true).await.doing("reading")?;
                    let Some(chunk) = chunk else { break };
                    buffer.extend_from_slice(&chunk.bytes);
                    while let Some(length) = buffer.first_chunk().map(|it| u32::from_be_bytes(*it) as usize)
                        && buffer.len() >= 4 + length
                    {
                        mine.push(age_us(begun, &buffer[4..12]));
                        buffer.advance(4 + length);
                    }
                }
                counted.lock().expect("no follower panics").extend(mine);
                Ok(())
            });
        }
        Ok(set)
    })?;
    let senders = server.run(async move {
        let mut senders = Vec::new();
        while senders.len() < followers {
            senders.extend(opened.recv().await);
        }
        Ok(senders)
    })?;
    let cpu = cpu_seconds();
    let bytes = server.run(async move {
        let (mut at, mut bytes) = (FeedPosition::origin(EPOCH, b"bench"), 0);
        publish(batches, |batch| {
            let mark = mark(begun);
            let time = Bytes::copy_from_slice(&mark[..8]);
            let frame = FeedEntries { epoch: EPOCH, prev: at, mark, entries: batch.entries }.to_frame();
            at.seq += DELTAS_PER_BATCH as u64;
            let mut out = Vec::with_capacity(12 + frame.len());
            out.extend_from_slice(&(8 + frame.len() as u32).to_be_bytes());
            out.extend_from_slice(&time);
            out.extend_from_slice(frame.bytes());
            bytes += out.len();
            let out = Bytes::from(out);
            senders.iter().for_each(|sender| drop(sender.send(out.clone())));
        })
        .await;
        Ok(bytes as f64)
    })?;
    clients.run(all(following))?;
    let cpu = cpu_seconds() - cpu;
    endpoint.close(0u32.into(), b"");
    Ok(Delivered::of(ages, cpu, bytes / batches as f64))
}

/// A figure: what it is of, its unit, and where it stands.
type Figure = (&'static str, &'static str, fn(&Delivered) -> f64);

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let (server, clients) = (End::new(args)?, End::new(args)?);
    let batches = (args.seconds * f64::from(BATCHES_PER_SECOND)).ceil().max(1.0) as u64;
    let mut comparisons = Vec::new();
    for followers in FOLLOWERS {
        let mut ways = [Vec::new(), Vec::new()];
        for run in 0..args.runs {
            for way in in_turns::<2>(run) {
                let measure = [ghost_way, bare_way][way];
                ways[way].push(measure(followers, batches, &server, &clients)?);
            }
        }
        let figures: [Figure; 4] = [
            ("publisher to follower, p50", "us", |it| it.p50_us),
            ("publisher to follower, p99", "us", |it| it.p99_us),
            ("a million deliveries", "CPU s", |it| it.cpu_seconds_per_million),
            ("a delta", "bytes", |it| it.bytes_per_delta),
        ];
        for (what, unit, of) in figures {
            let [ours, rival] = ways.each_ref().map(|way| way.iter().map(of).collect::<Vec<_>>());
            let work = format!("{what}, {followers} followers");
            comparisons.push(Comparison::new(work, unit, ("ghost", ours), ("quinn", rival), &[]));
        }
    }
    Ok(comparisons)
}

//! How long a ping takes while answers to sync requests fill the link.
//!
//! The node that is pinged serves four endless sync answers meanwhile, as many as a peer may ask for
//! at once. Its pongs go first by their class. The rival is the same overlay with one priority for all
//! classes. Measured on a link of 100 Mbit/s and 20 ms, where queues are in the sender and in the
//! link, and on loopback, where the processor is what is full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_frames::{
    EncodedFrame, Frame, StreamType,
    block::{BlocksRequest, WholeBlock},
    writer::Payload,
};
use ghost_proto::{BlockId, GenesisId, KeyPair, block::HeaderFields};
use ghost_protocol::{
    Session,
    class::{Class, ClassTable},
    inbox::{Inbox, InboxBuilder},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    BenchArgs, BenchError, Doing, End, ghost, in_turns,
    link::{self, Shape},
    report::{Comparison, Target, quantile},
};

const BULK_STREAMS: usize = 4;
const BULK_FRAME_BYTES: usize = 64 * 1024;
/// Who ping at the same time, each again a while after its answer: less than the overlay lets be
/// unanswered at once.
const PINGERS: u32 = 8;
const PING_PAUSE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);
/// Until the bulk streams have found the link's capacity.
const WARM_UP: Duration = Duration::from_millis(500);

const SLOW_LINK: Shape = Shape {
    bytes_per_second: 100_000_000 / 8,
    delay: Duration::from_millis(10),
    // One round trip's worth, as routers are dimensioned.
    queue: Duration::from_millis(20),
};

/// One turn on one kind of link.
#[derive(Debug, Clone, Copy)]
struct Figures {
    idle_p99_ms: f64,
    loaded_p99_ms: f64,
    bulk_mbit: f64,
}

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let mut comparisons = Vec::new();
    for (name, shape) in [("100 Mbit/s, 20 ms", Some(SLOW_LINK)), ("loopback", None)] {
        let mut figures = [Vec::new(), Vec::new()];
        for run in 0..args.runs {
            for index in in_turns::<2>(run) {
                figures[index].push(measure(index == 0, shape, args)?);
            }
        }
        let of =
            |index: usize, figure: fn(&Figures) -> f64| figures[index].iter().map(figure).collect::<Vec<_>>();
        let loaded = ("ping p99, loaded", of(0, |figures| figures.loaded_p99_ms));
        comparisons.push(Comparison::new(
            format!("{name}: classes"),
            "ms",
            loaded.clone(),
            ("ping p99, idle", of(0, |figures| figures.idle_p99_ms)),
            &[Target::RatioMax(2.0)],
        ));
        comparisons.push(Comparison::new(
            format!("{name}: with and without classes"),
            "ms",
            loaded,
            ("ping p99, loaded, one class", of(1, |figures| figures.loaded_p99_ms)),
            &[Target::RatioMax(1.0)],
        ));
        comparisons.push(Comparison::new(
            format!("{name}: bulk beside the pings"),
            "Mbit/s",
            ("classes", of(0, |figures| figures.bulk_mbit)),
            ("one class", of(1, |figures| figures.bulk_mbit)),
            &[Target::RatioMin(0.9)],
        ));
    }
    Ok(comparisons)
}

fn measure(classes: bool, shape: Option<Shape>, args: &BenchArgs) -> Result<Figures, BenchError> {
    let (asker, server, between) = (End::new(args)?, End::new(args)?, End::new(args)?);
    let mut target = server.run(async move { serve_bulk(classes) })?;
    if let Some(shape) = shape {
        target.address = between.run(link::open(target.address, shape))?;
    }
    let turn = args.turn();
    asker.run(async move {
        let ours = ghost::start(table(classes), Inbox::default())?;
        let dial = timeout(PATIENCE, ours.overlay.dial(target.peer, target.address)).await;
        let session = dial.doing("dialling")?.doing("dialling")?;
        let mut idle = ping_for(&session, turn).await?;

        let received = Arc::new(AtomicU64::new(0));
        let mut bulk = JoinSet::new();
        for _ in 0..BULK_STREAMS {
            bulk.spawn(receive_bulk(session.clone(), received.clone()));
        }
        sleep(WARM_UP).await;
        let (begun, before) = (Instant::now(), received.load(Ordering::Relaxed));
        let mut loaded = ping_for(&session, turn).await?;
        let bytes = received.load(Ordering::Relaxed) - before;
        let bulk_mbit = bytes as f64 * 8e-6 / begun.elapsed().as_secs_f64();
        if let Some(ended) = bulk.try_join_next() {
            return ended.doing("receiving bulk data")?.and(Err("it ended").doing("receiving bulk data"));
        }
        session.close(ghost_frames::Code::Done, "");
        Ok(Figures {
            idle_p99_ms: quantile(&mut idle, 0.99) * 1e3,
            loaded_p99_ms: quantile(&mut loaded, 0.99) * 1e3,
            bulk_mbit,
        })
    })
}

/// The usual table with a quota for more pings than a node would send; without `classes`, every class
/// has the same priority.
fn table(classes: bool) -> ClassTable {
    let mut table = ClassTable::default();
    table.spec_mut(Class::Control).messages_per_second = 10_000;
    if !classes {
        for class in Class::ALL {
            table.spec_mut(class).priority = 0;
        }
    }
    table
}

/// A node that answers every sync request with blocks and no end.
fn serve_bulk(classes: bool) -> Result<ghost::Node, BenchError> {
    let mut inbox = InboxBuilder::new();
    let mut requests = inbox.requests(StreamType::Sync, BULK_STREAMS);
    let frame = bulk_frame();
    tokio::spawn(async move {
        while let Some(mut asked) = requests.recv().await {
            let frame = frame.clone();
            tokio::spawn(async move { while asked.responder.send(&frame).await.is_ok() {} });
        }
    });
    ghost::start(table(classes), inbox.build())
}

fn bulk_frame() -> EncodedFrame {
    let body = Bytes::from(vec![0xab; BULK_FRAME_BYTES]);
    let header = HeaderFields {
        parent: BlockId::ZERO,
        height: 1,
        slot: 1,
        proposer: 0,
        tx_count: 1,
        body_bytes: body.len() as u32,
        tx_root: Default::default(),
        receipt_root: Default::default(),
        state: [0; 32],
        gas_used: 0,
    };
    let header = header.seal(&GenesisId([7; 32]), &KeyPair::from_seed(&[1; 32]));
    WholeBlock { header, body }.to_frame()
}

async fn receive_bulk(session: Session, received: Arc<AtomicU64>) -> Result<(), BenchError> {
    const DOING: &str = "receiving bulk data";
    let request = BlocksRequest { ids: vec![BlockId::ZERO] }.to_frame();
    let mut answer = session.request(StreamType::Sync, &request, PATIENCE).await.doing(DOING)?;
    while let Some(frame) = answer.next().await.doing(DOING)? {
        if let Frame::WholeBlock(block) = frame {
            received.fetch_add(block.body.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Seconds that each ping took.
async fn ping_for(session: &Session, time: Duration) -> Result<Vec<f64>, BenchError> {
    let mut pingers = JoinSet::new();
    let end = Instant::now() + time;
    for n in 0..PINGERS {
        let session = session.clone();
        pingers.spawn(async move {
            sleep(PING_PAUSE * n / PINGERS).await;
            let mut times = Vec::new();
            while Instant::now() < end {
                times.push(session.ping(PATIENCE).await.doing("pinging")?.as_secs_f64());
                sleep(PING_PAUSE).await;
            }
            Ok(times)
        });
    }
    let times = pingers.join_all().await.into_iter().collect::<Result<Vec<_>, BenchError>>()?;
    Ok(times.concat())
}

//! Typed frames on one push stream against length-prefixed bytes on one stream.
//!
//! Ours: each frame is encoded, queued in the session's outbox, cut, decoded into its type and handed
//! over by the inbox. The rival: each message is written behind its length, read, and cut out of what
//! came. Quotas are lifted, for they are there to hold a peer below what is measured here.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use ghost_frames::{
    StreamType,
    tx::{ShortId, Transactions, TxAnnounce, TxAnnounceEntry},
    writer::Payload,
};
use ghost_proto::{Address, KeyPair, SignedTransaction, Transaction, limits::TX_BYTES_MIN, tx::Action};
use ghost_protocol::{
    Identity, PeerId, Session,
    class::{Class, ClassTable},
    inbox::{Inbox, InboxBuilder},
    session::Delivery,
    transport::quic::tuning,
};
use tokio::time::{sleep, timeout};

use super::{
    BenchArgs, BenchError, Doing, End, bare, ghost, in_turns, machine,
    report::{Comparison, Target},
};

/// Time before counting starts.
const WARM_UP: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(10);
/// Batches that may wait for who takes frames out of the inbox.
const INBOX_CAPACITY: usize = 64;
/// Bytes that the batching rival writes at once.
const BATCH_BYTES: usize = 64 * 1024;

/// What is sent, in bytes on the stream.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// An announcement of 19 transactions: 250 bytes, next to nothing to decode.
    Announcement,
    /// One transaction in 250 bytes, parsed and hashed by its receiver.
    Transaction,
    /// One transaction in 64 KiB; a tenth of its cost is its hash.
    Large,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ghost,
    /// One write for each message.
    Bare,
    /// Messages gathered into large writes.
    BareBatched,
}

const SMALL_BYTES: usize = 250;
const LARGE_BYTES: usize = 64 * 1024;

impl Work {
    fn bytes(self) -> usize {
        match self {
            Self::Announcement | Self::Transaction => SMALL_BYTES,
            Self::Large => LARGE_BYTES,
        }
    }

    /// What a maker of such frames holds before it encodes one.
    fn noun(self) -> Result<Noun, BenchError> {
        let noun = match self {
            Self::Announcement => {
                let entry = |n| TxAnnounceEntry { id: ShortId(n), bytes: SMALL_BYTES as u32, fee_class: 1 };
                Noun::Announcement(TxAnnounce { entries: (0..19).map(entry).collect() })
            }
            // Kind and the two lengths: 1 + 2 + 2 bytes.
            Self::Transaction => Noun::Transactions(transaction_of(SMALL_BYTES - 5)?),
            // 1 + 4 + 4 bytes.
            Self::Large => Noun::Transactions(transaction_of(LARGE_BYTES - 9)?),
        };
        let length = noun.encode().len();
        if length == self.bytes() {
            Ok(noun)
        } else {
            Err(format!("{length} bytes instead of {}", self.bytes())).doing("making a frame")
        }
    }
}

#[derive(Debug)]
enum Noun {
    Announcement(TxAnnounce),
    Transactions(Transactions),
}

impl Noun {
    fn encode(&self) -> ghost_frames::EncodedFrame {
        match self {
            Self::Announcement(announcement) => announcement.to_frame(),
            Self::Transactions(transactions) => transactions.to_frame(),
        }
    }
}

/// A transaction of exactly so many bytes.
fn transaction_of(bytes: usize) -> Result<Transactions, BenchError> {
    let key = KeyPair::from_seed(&[1; 32]);
    let sign = |payload: usize| -> Result<SignedTransaction, BenchError> {
        let action =
            Action::Transfer { to: Address([2; 20]), value: 3, payload: Bytes::from(vec![0xab; payload]) };
        Transaction {
            chain_id: 1,
            sender_key: key.public(),
            nonce: 0,
            gas_limit: 1 << 20,
            gas_price: 1,
            action,
        }
        .sign(&key)
        .map(|tx| tx.into_signed())
        .doing("signing")
    };
    // The payload's length takes more than the one byte it takes when there is none.
    let excess = sign(bytes - TX_BYTES_MIN)?.bytes().len() - bytes;
    Ok(Transactions { transactions: vec![sign(bytes - TX_BYTES_MIN - excess)?] })
}

/// One turn's figures.
#[derive(Debug, Clone, Copy)]
struct Flow {
    per_second: f64,
    cpu_seconds_per_million: f64,
}

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let (sender, receiver) = (End::new(args)?, End::new(args)?);
    let mut comparisons = Vec::new();
    for (work, name) in [
        (Work::Announcement, "250 B announcements"),
        (Work::Transaction, "250 B transactions, parsed and hashed"),
        (Work::Large, "64 KiB frames"),
    ] {
        let mut flows = [(); 3].map(|()| Vec::new());
        for run in 0..args.runs {
            for index in in_turns::<3>(run) {
                let way = [Way::Ghost, Way::Bare, Way::BareBatched][index];
                flows[index].push(measure(way, work, args, &sender, &receiver)?);
            }
        }
        let rates = flows.clone().map(|flows| flows.iter().map(|flow| flow.per_second).collect::<Vec<_>>());
        let cpu =
            flows.map(|flows| flows.iter().map(|flow| flow.cpu_seconds_per_million).collect::<Vec<_>>());
        if matches!(work, Work::Large) {
            let [ours, rival, _] = rates.map(|rates| {
                rates.iter().map(|rate| rate * 8.0 * LARGE_BYTES as f64 / 1e9).collect::<Vec<_>>()
            });
            let targets = [Target::RatioMin(0.9), Target::OursMin(1.0)];
            comparisons.push(Comparison::new(name, "Gbit/s", ("ghost", ours), ("quinn", rival), &targets));
        } else {
            let [ours, rival, batched] = rates;
            comparisons.push(Comparison::new(
                name,
                "messages/s",
                ("ghost", ours.clone()),
                ("quinn", rival),
                &[Target::RatioMin(0.9)],
            ));
            let batched = ("quinn, 64 KiB writes", batched);
            comparisons.push(Comparison::new(name, "messages/s", ("ghost", ours), batched, &[]));
        }
        let [ours, rival, batched] = cpu;
        comparisons.push(Comparison::new(
            name,
            "CPU s/million",
            ("ghost", ours.clone()),
            ("quinn", rival),
            &[],
        ));
        if !matches!(work, Work::Large) {
            let batched = ("quinn, 64 KiB writes", batched);
            comparisons.push(Comparison::new(name, "CPU s/million", ("ghost", ours), batched, &[]));
        }
    }
    Ok(comparisons)
}

/// Lets messages flow for a while, then counts what arrives in a turn.
fn measure(way: Way, work: Work, args: &BenchArgs, sender: &End, receiver: &End) -> Result<Flow, BenchError> {
    let arrived = Arc::new(AtomicU64::new(0));
    let stop: Box<dyn FnOnce()> = match way {
        Way::Ghost => {
            let counter = arrived.clone();
            let to = receiver.run(async move { take_frames(counter) })?;
            let (from, session) = sender.run(push_frames(work, to.clone()))?;
            Box::new(move || {
                session.close(ghost_frames::Code::Done, "");
                drop((from, to));
            })
        }
        Way::Bare | Way::BareBatched => {
            let counter = arrived.clone();
            let (peer, address) = receiver.run(async move { take_messages(counter) })?;
            let connection = sender.run(write_messages(work, way == Way::BareBatched, peer, address))?;
            Box::new(move || connection.close(0u32.into(), b""))
        }
    };
    std::thread::sleep(WARM_UP);
    let (begun, before, cpu) = (Instant::now(), arrived.load(Ordering::Relaxed), machine::cpu_seconds());
    std::thread::sleep(args.turn());
    let cpu = machine::cpu_seconds() - cpu;
    let count = (arrived.load(Ordering::Relaxed) - before) as f64;
    let seconds = begun.elapsed().as_secs_f64();
    stop();
    if count == 0.0 {
        return Err("nothing arrived").doing("sending frames");
    }
    std::thread::sleep(Duration::from_millis(50));
    Ok(Flow { per_second: count / seconds, cpu_seconds_per_million: cpu / count * 1e6 })
}

fn unlimited() -> ClassTable {
    let mut table = ClassTable::default();
    let spec = table.spec_mut(Class::Tx);
    (spec.messages_per_second, spec.bytes_per_second) = (u32::MAX, u32::MAX);
    table
}

fn take_frames(arrived: Arc<AtomicU64>) -> Result<ghost::Node, BenchError> {
    let mut inbox = InboxBuilder::new();
    let mut pushed = inbox.pushes(StreamType::TxPush, INBOX_CAPACITY);
    tokio::spawn(async move {
        while let Some(batch) = pushed.recv().await {
            arrived.fetch_add(batch.frames.len() as u64, Ordering::Relaxed);
        }
    });
    ghost::start(unlimited(), inbox.build())
}

async fn push_frames(work: Work, to: ghost::Node) -> Result<(ghost::Node, Session), BenchError> {
    let noun = work.noun()?;
    let node = ghost::start(unlimited(), Inbox::default())?;
    let dial = timeout(PATIENCE, node.overlay.dial(to.peer, to.address)).await;
    let session = dial.doing("dialling")?.doing("dialling")?;
    let pushing = session.clone();
    tokio::spawn(async move {
        loop {
            let frame = noun.encode();
            loop {
                match pushing.push(StreamType::TxPush, &frame) {
                    Delivery::Queued => break,
                    Delivery::BackOff => pushing.push_ready(StreamType::TxPush).await,
                    Delivery::Closed | Delivery::NotServed => return,
                }
            }
        }
    });
    Ok((node, session))
}

/// The rival's receiver: one connection, one stream, messages behind a length of four bytes.
fn take_messages(arrived: Arc<AtomicU64>) -> Result<(PeerId, SocketAddr), BenchError> {
    let identity = Identity::generate();
    let endpoint = bare::server(&identity, tuning::transport())?;
    let address = endpoint.local_addr().doing("opening an endpoint")?;
    tokio::spawn(async move {
        let connection = endpoint.accept().await?.await.ok()?;
        let mut recv = connection.accept_uni().await.ok()?;
        let mut buffer = BytesMut::new();
        while let Ok(Some(chunk)) = recv.read_chunk(BATCH_BYTES, true).await {
            buffer.extend_from_slice(&chunk.bytes);
            let mut count = 0;
            while buffer.len() >= LENGTH_BYTES {
                let length = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
                if buffer.len() < LENGTH_BYTES + length {
                    break;
                }
                buffer.advance(LENGTH_BYTES);
                std::hint::black_box(buffer.split_to(length).freeze());
                count += 1;
            }
            arrived.fetch_add(count, Ordering::Relaxed);
        }
        Some(())
    });
    Ok((identity.peer_id(), address))
}

const LENGTH_BYTES: usize = 4;

async fn write_messages(
    work: Work,
    batched: bool,
    peer: PeerId,
    address: SocketAddr,
) -> Result<quinn::Connection, BenchError> {
    let endpoint = bare::client()?;
    let config = bare::client_config(&Identity::generate(), tuning::transport(), false)?;
    let connecting = endpoint.connect_with(config, address, &bare::name_of(&peer)?).doing("dialling")?;
    let connection = timeout(PATIENCE, connecting).await.doing("dialling")?.doing("dialling")?;
    let mut send = connection.open_uni().await.doing("opening a stream")?;
    tokio::spawn(async move {
        let message = vec![0xab; work.bytes() - LENGTH_BYTES];
        let mut buffer = Vec::with_capacity(BATCH_BYTES + work.bytes());
        loop {
            buffer.extend_from_slice(&(message.len() as u32).to_be_bytes());
            buffer.extend_from_slice(&message);
            if !batched || buffer.len() >= BATCH_BYTES {
                if send.write_all(&buffer).await.is_err() {
                    return;
                }
                buffer.clear();
            }
        }
    });
    sleep(Duration::ZERO).await;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_work_has_the_size_it_says() {
        for work in [Work::Announcement, Work::Transaction, Work::Large] {
            assert_eq!(work.noun().unwrap().encode().len(), work.bytes());
        }
    }
}

//! What padding and jitter cost: bytes on the wire, and time.
//!
//! Announcements of one transaction, sent one by one as they come to a quiet node, and requests for a status with
//! their answers. The rival is the same node without either.

use std::time::{Duration, Instant};

use ghost_frames::{
    Frame, Payload, StreamType,
    tx::{ShortId, TxAnnounce, TxAnnounceEntry},
};
use ghost_proto::message::StatusRequest;
use ghost_protocol::{class::ClassTable, inbox::InboxBuilder, session::Delivery, shape::Shape};
use tokio::time::{sleep, timeout};

use super::{
    BenchArgs, BenchError, Doing, End, ghost,
    report::{Comparison, quantile},
};

/// Announcements and requests of one turn.
const COUNT: u64 = 200;

/// Between two of them: a node that takes in 100 transactions a second.
const PACE: Duration = Duration::from_millis(10);

/// Longest wait of the jittered turns.
const JITTER: Duration = Duration::from_millis(200);

const PATIENCE: Duration = Duration::from_secs(10);

/// Figures of one turn.
#[derive(Clone, Copy)]
struct Turn {
    bytes_per_push: f64,
    push_ms: f64,
    bytes_per_request: f64,
}

/// Runs it.
pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let shapes = [
        Shape::default(),
        Shape { pad: true, ..Shape::default() },
        Shape { pad: true, jitter: JITTER },
    ];
    let mut turns: [Vec<Turn>; 3] = Default::default();
    for _ in 0..args.runs {
        for (turns, shape) in turns.iter_mut().zip(shapes) {
            let end = End::new(args)?;
            turns.push(end.0.block_on(turn(shape))?);
        }
    }
    let [plain, padded, jittered] = turns;
    let of = |turns: &[Turn], figure: fn(&Turn) -> f64| turns.iter().map(figure).collect::<Vec<_>>();
    let bytes = |turn: &Turn| turn.bytes_per_push;
    let time = |turn: &Turn| turn.push_ms;
    let asked = |turn: &Turn| turn.bytes_per_request;
    Ok(vec![
        Comparison::new("announcement, padded", "B on the wire", ("padded", of(&padded, bytes)), ("plain", of(&plain, bytes)), &[]),
        Comparison::new("announcement, padded, jitter 200 ms", "B on the wire", ("shaped", of(&jittered, bytes)), ("plain", of(&plain, bytes)), &[]),
        Comparison::new("announcement, padded", "ms, median", ("padded", of(&padded, time)), ("plain", of(&plain, time)), &[]),
        Comparison::new("announcement, padded, jitter 200 ms", "ms, median", ("shaped", of(&jittered, time)), ("plain", of(&plain, time)), &[]),
        Comparison::new("status request and answer, padded", "B on the wire", ("padded", of(&padded, asked)), ("plain", of(&plain, asked)), &[]),
    ])
}

async fn turn(shape: Shape) -> Result<Turn, BenchError> {
    let mut inbox = InboxBuilder::new();
    let mut pushed = inbox.pushes(StreamType::TxPush, 64);
    let mut asked = inbox.requests(StreamType::Rpc, 64);
    let there = ghost::start_shaped(ClassTable::default(), inbox.build(), shape)?;
    let here = ghost::start_shaped(ClassTable::default(), InboxBuilder::new().build(), shape)?;
    let session = here.overlay.dial(there.peer, there.address).await.doing("dialling")?;
    let status = ghost::status_answer();
    tokio::spawn(async move {
        while let Some(asked) = asked.recv().await {
            // Whoever does not wait for its answer loses it.
            let _ = asked.responder.answer(&status).await;
        }
    });
    let begun = Instant::now();
    let taking = tokio::spawn(async move {
        let mut arrived = Vec::new();
        while arrived.len() < COUNT as usize {
            let Ok(Some(batch)) = timeout(PATIENCE, pushed.recv()).await else { break };
            for frame in batch.frames {
                if let Frame::TxAnnounce(announce) = frame {
                    arrived.push((announce.entries[0].id.0, begun.elapsed()));
                }
            }
        }
        arrived
    });
    let before = session.wire_bytes();
    let mut sent = Vec::new();
    for number in 0..COUNT {
        let entry = TxAnnounceEntry { id: ShortId(number), bytes: 250, fee_class: 0 };
        let frame = TxAnnounce { entries: vec![entry] }.to_frame();
        sent.push(begun.elapsed());
        if session.push(StreamType::TxPush, &frame) != Delivery::Queued {
            return Err("the queue is full").doing("announcing");
        }
        sleep(PACE).await;
    }
    let arrived = taking.await.doing("taking announcements")?;
    if arrived.len() < COUNT as usize {
        return Err(format!("only {} of {COUNT} came", arrived.len())).doing("taking announcements");
    }
    let mut times: Vec<f64> = arrived
        .iter()
        .map(|(id, at)| at.saturating_sub(sent[*id as usize]).as_secs_f64() * 1000.0)
        .collect();
    let between = session.wire_bytes();
    for _ in 0..COUNT {
        let request = StatusRequest {}.to_frame();
        let answer = session.request(StreamType::Rpc, &request, PATIENCE).await.doing("asking")?;
        answer.single().await.doing("asking")?;
    }
    let after = session.wire_bytes();
    let both = |(received, sent): (u64, u64)| (received + sent) as f64;
    Ok(Turn {
        bytes_per_push: (both(between) - both(before)) / COUNT as f64,
        push_ms: quantile(&mut times, 0.5),
        bytes_per_request: (both(after) - both(between)) / COUNT as f64,
    })
}

//! Roles that abuse connections and streams.

use std::{collections::VecDeque, future::pending, time::Duration};

use ghost_frames::{Code, EncodedFrame, Payload, StreamType, sync::HeadersRequest};
use ghost_proto::layout::put_varint;
use ghost_protocol::{
    Session,
    transport::{RecvStream, SendStream},
};
use rand::{Rng, RngExt};
use tokio::time::{interval, sleep, timeout};

use super::{Ears, Stage};

/// Streams that a slow peer holds open at each of its victims.
const SLOW_STREAMS: usize = 30;

/// Requests that an eclipser leaves without an answer at the same time.
const HELD_MAX: usize = 4_096;

/// Opening a stream may wait for the other side's credit for so long.
const OPEN_PATIENCE: Duration = Duration::from_millis(500);

async fn open(session: &Session) -> Option<(SendStream, RecvStream)> {
    timeout(OPEN_PATIENCE, session.link().open_bi()).await.ok()?.ok()
}

fn request_bytes(stream: StreamType, frame: &EncodedFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, stream.number());
    bytes.extend_from_slice(frame.bytes());
    bytes
}

/// Nothing is ever taken out of the ears; answers to its questions are never read.
pub(super) async fn read_slowly(stage: &Stage, ears: Ears) {
    let genesis = stage.arena.genesis.block_id();
    let question = HeadersRequest { limit: 512, locator: vec![genesis] }.to_frame();
    let bytes = request_bytes(StreamType::Sync, &question);
    let mut unread = VecDeque::new();
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        for session in stage.sessions() {
            let Some((mut send, receive)) = open(&session).await else { continue };
            if send.write_all(&bytes).await.is_ok() && send.finish().is_ok() {
                stage.deeds.add(1);
                unread.push_back((session, receive));
            }
        }
        while unread.len() > SLOW_STREAMS * stage.arena.targets.len() {
            unread.pop_front();
        }
        // Held, never read.
        let _ = &ears;
    }
}

pub(super) async fn write_slowly(stage: &Stage) {
    let genesis = stage.arena.genesis.block_id();
    let question = HeadersRequest { limit: 512, locator: vec![genesis; 30] }.to_frame();
    let bytes = request_bytes(StreamType::Sync, &question);
    let mut writing: Vec<(Session, SendStream, RecvStream, usize)> = Vec::new();
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        for session in stage.sessions() {
            let held = writing.iter().filter(|(other, ..)| other.id() == session.id()).count();
            for _ in held..SLOW_STREAMS {
                let Some((send, receive)) = open(&session).await else { break };
                writing.push((session.clone(), send, receive, 0));
            }
        }
        let mut still = Vec::new();
        for (session, mut send, receive, at) in writing {
            // A stream that was reset takes no more: another takes its place.
            if at < bytes.len() && send.write_all(&bytes[at..=at]).await.is_ok() {
                stage.deeds.add(1);
                still.push((session, send, receive, at + 1));
            }
        }
        writing = still;
    }
}

/// Listens, so that nothing piles up, and gives nothing.
pub(super) async fn sit(stage: &Stage, ears: &mut Ears) {
    let mut held = VecDeque::new();
    loop {
        tokio::select! {
            Some(_) = ears.tx.recv() => {}
            Some(_) = ears.blocks.recv() => {}
            Some(_) = ears.votes.recv() => {}
            Some(_) = ears.shards.recv() => {}
            Some(asked) = ears.asked.recv() => {
                stage.deeds.add(1);
                held.push_back(asked);
                if held.len() > HELD_MAX {
                    held.pop_front();
                }
            }
            else => return pending().await,
        }
    }
}

pub(super) async fn send_junk(stage: &Stage) {
    let mut rng = stage.rng(2);
    let mut tick = interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        for session in stage.sessions() {
            let bytes = junk(&mut rng);
            let sent = if rng.random_bool(0.5) {
                match timeout(OPEN_PATIENCE, session.link().open_uni()).await {
                    Ok(Ok(mut stream)) => stream.write_all(&bytes).await.is_ok(),
                    _ => false,
                }
            } else {
                match open(&session).await {
                    Some((mut stream, _)) => stream.write_all(&bytes).await.is_ok(),
                    None => false,
                }
            };
            stage.deeds.add(sent.into());
        }
    }
}

/// The type of a stream, known or not; then a frame that lies about its kind, its length or its content.
fn junk(rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let stream = match rng.random_bool(0.7) {
        true => StreamType::ALL[rng.random_range(0..StreamType::ALL.len())].number(),
        false => rng.random_range(0..1 << 20),
    };
    put_varint(&mut bytes, stream);
    put_varint(&mut bytes, rng.random_range(0..512));
    let content = rng.random_range(0..200);
    let declared = match rng.random_range(0..3) {
        0 => (1 << 62) - 1,
        1 => content,
        _ => rng.random_range(0..4_096),
    };
    put_varint(&mut bytes, declared);
    for _ in 0..content {
        bytes.push(rng.random());
    }
    bytes
}

/// A target after the other, a hundred connections a second.
pub(super) async fn churn(stage: &Stage) {
    for (peer, address) in stage.arena.targets.iter().cycle() {
        let overlay = stage.overlay.clone();
        let (peer, address, deeds) = (*peer, *address, stage.deeds.clone());
        tokio::spawn(async move {
            if let Ok(session) = overlay.dial(peer, address).await {
                session.close(Code::Dropped, "");
                deeds.add(1);
            }
        });
        sleep(Duration::from_millis(10)).await;
    }
}

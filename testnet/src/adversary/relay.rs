//! Roles that abuse relay: of transactions and of blocks.

use std::{collections::HashSet, time::Duration};

use ghost_frames::{
    Frame, Payload, StreamType,
    block::BlockAnnounce,
    tx::{ShortId, TxAnnounce, TxAnnounceEntry, TxRequest},
};
use ghost_mempool_relay::tx_relay::Salt;
use ghost_proto::{BlockId, PeerId, SignedTransaction};
use ghost_protocol::{Session, inbox::Pushed};
use rand::Rng;
use tokio::{sync::mpsc, time::interval};

use super::{Ears, Stage};

/// Announcements of a flooder in one frame, and how often it sends one on each link: 10,000 ids a
/// second.
const FLOOD_IDS: usize = 100;
const FLOOD_EVERY: Duration = Duration::from_millis(10);

/// Requests that are left without an answer at the same time; older ones are reset.
const HELD_MAX: usize = 4_096;

pub(super) async fn flood(stage: &Stage) {
    let mut rng = stage.rng(1);
    let mut tick = interval(FLOOD_EVERY);
    loop {
        tick.tick().await;
        for session in stage.sessions() {
            let entries = (0..FLOOD_IDS)
                .map(|_| TxAnnounceEntry { id: ShortId(rng.next_u64()), bytes: 250, fee_class: 0 })
                .collect();
            stage.push(&session, StreamType::TxPush, &TxAnnounce { entries }.to_frame());
        }
    }
}

/// What a liar learnt by asking: whose it is, and what.
type Learnt = (PeerId, Vec<SignedTransaction>);

pub(super) async fn lie(stage: &Stage, ears: &mut Ears) {
    let (learn, mut learnt) = mpsc::channel::<Learnt>(64);
    let (mut held, mut known) = (std::collections::VecDeque::new(), HashSet::new());
    loop {
        tokio::select! {
            Some(pushed) = ears.tx.recv() => {
                for frame in pushed.frames {
                    match frame {
                        Frame::TxAnnounce(announce) => {
                            let ids = announce.entries.iter().map(|entry| entry.id).collect();
                            tokio::spawn(fetch(pushed.session.clone(), ids, learn.clone()));
                        }
                        Frame::Transactions(bodies) => {
                            tell_all(stage, pushed.session.peer(), &bodies.transactions, &mut known);
                        }
                        _ => {}
                    }
                }
            }
            Some((from, bodies)) = learnt.recv() => tell_all(stage, from, &bodies, &mut known),
            Some(asked) = ears.asked.recv() => {
                // The asker waits until its own patience ends.
                stage.deeds.add(1);
                held.push_back(asked);
                if held.len() > HELD_MAX {
                    held.pop_front();
                }
            }
            Some(_) = ears.blocks.recv() => {}
            Some(_) = ears.votes.recv() => {}
            Some(_) = ears.shards.recv() => {}
            else => return,
        }
    }
}

async fn fetch(session: Session, ids: Vec<ShortId>, learn: mpsc::Sender<Learnt>) {
    let request = TxRequest { ids }.to_frame();
    let answer = session.request(StreamType::TxFetch, &request, Duration::from_secs(5)).await;
    let Ok(mut answer) = answer else { return };
    while let Ok(Some(frame)) = answer.next().await {
        if let Frame::Transactions(bodies) = frame {
            // Nobody learns any more if it is gone.
            let _ = learn.send((session.peer(), bodies.transactions)).await;
        }
    }
}

/// Announces transactions under each peer's own names for them, to all but the one they came from.
fn tell_all(
    stage: &Stage,
    from: PeerId,
    bodies: &[SignedTransaction],
    known: &mut HashSet<ghost_proto::TxId>,
) {
    let fresh: Vec<_> = bodies.iter().filter(|tx| known.insert(tx.id())).collect();
    if fresh.is_empty() {
        return;
    }
    for session in stage.sessions().into_iter().filter(|session| session.peer() != from) {
        let Some(salt) = session.hello().tx_salt.map(Salt) else { continue };
        let entries = fresh
            .iter()
            .map(|tx| TxAnnounceEntry {
                id: salt.short_id(&tx.id()),
                bytes: tx.bytes().len() as u32,
                fee_class: u8::MAX,
            })
            .collect();
        stage.push(&session, StreamType::TxPush, &TxAnnounce { entries }.to_frame());
    }
}

pub(super) async fn withhold(stage: &Stage, ears: &mut Ears) {
    let (mut held, mut told) = (std::collections::VecDeque::new(), HashSet::<BlockId>::new());
    loop {
        tokio::select! {
            Some(pushed) = ears.blocks.recv() => announce_all(stage, pushed, &mut told),
            Some(asked) = ears.asked.recv() => {
                stage.deeds.add(1);
                held.push_back(asked);
                if held.len() > HELD_MAX {
                    held.pop_front();
                }
            }
            Some(_) = ears.tx.recv() => {}
            Some(_) = ears.votes.recv() => {}
            Some(_) = ears.shards.recv() => {}
            else => return,
        }
    }
}

fn announce_all(stage: &Stage, pushed: Pushed, told: &mut HashSet<BlockId>) {
    for frame in pushed.frames {
        let header = match frame {
            Frame::BlockAnnounce(BlockAnnounce(header)) => header,
            Frame::WholeBlock(block) => block.header,
            _ => continue,
        };
        if !told.insert(header.id()) {
            continue;
        }
        let frame = BlockAnnounce(header).to_frame();
        for session in stage.sessions() {
            if session.peer() != pushed.session.peer() {
                stage.push(&session, StreamType::BlockPush, &frame);
            }
        }
    }
}

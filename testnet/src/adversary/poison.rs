//! The role that spoils what others put together from many pieces: symbols of mempools and shards of blocks.

use ghost_frames::{
    Frame, Payload, StreamType,
    reconcile::{CodedSymbol, Inventory, SketchId, Symbols},
    shards::{Shard, ShardHave, ShardPlan, ShardRoot, ShardSet},
};
use ghost_proto::limits::{SHARD_PATH_MAX, SYMBOLS_PER_FRAME_MAX};
use ghost_protocol::inbox::Asked;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha12Rng;

use super::{Ears, Stage};

/// Bytes of a false shard where the plan is not known.
const SHARD_BYTES: usize = 16 * 1024;

/// False shards pushed for each plan to each peer.
const PUSHED: u16 = 4;

pub(super) async fn poison(stage: &Stage, ears: &mut Ears) {
    let mut rng = stage.rng(3);
    loop {
        tokio::select! {
            Some(pushed) = ears.shards.recv() => {
                for frame in pushed.frames {
                    if let Frame::ShardPlan(plan) = frame {
                        offer(stage, &plan, &mut rng);
                    }
                }
            }
            Some((_, asked)) = ears.asked.recv() => {
                stage.deeds.add(1);
                answer(asked, &mut rng).await;
            }
            Some(_) = ears.tx.recv() => {}
            Some(_) = ears.blocks.recv() => {}
            Some(_) = ears.votes.recv() => {}
            else => return,
        }
    }
}

/// Says that it has everything, and sends some of it.
fn offer(stage: &Stage, plan: &ShardPlan, rng: &mut ChaCha12Rng) {
    let have = ShardSet::first(plan.geometry().count());
    let have = ShardHave { root: plan.root, wants: false, have }.to_frame();
    for session in stage.sessions() {
        stage.push(&session, StreamType::ShardPush, &have);
        for index in 0..PUSHED {
            let shard = noise(plan.root, index, plan.geometry().shard_bytes, rng);
            stage.push(&session, StreamType::ShardPush, &shard.to_frame());
        }
    }
}

fn noise(root: ShardRoot, index: u16, len: usize, rng: &mut ChaCha12Rng) -> Shard {
    let path = (0..SHARD_PATH_MAX).map(|_| rng.random()).collect();
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    Shard { root, index, path, bytes: bytes.into() }
}

async fn answer(asked: Asked, rng: &mut ChaCha12Rng) {
    let Asked { frame, mut responder, .. } = asked;
    let frames = match frame {
        Frame::SymbolsRequest(request) => {
            let count = (request.credit as usize).clamp(1, SYMBOLS_PER_FRAME_MAX);
            let one = |rng: &mut ChaCha12Rng, at: u32| CodedSymbol {
                sum: rng.random(),
                check: rng.random(),
                count: if at < ghost_frames::reconcile::COUNTED_SYMBOLS as u32 { rng.random() } else { 0 },
            };
            let symbols = (0..count as u32).map(|at| one(rng, request.first + at)).collect();
            vec![Symbols { count: request.count, first: request.first, symbols }.to_frame()]
        }
        Frame::InventoryRequest(_) => {
            let ids = (0..1_000).map(|_| SketchId(rng.random())).collect();
            vec![Inventory { ids }.to_frame()]
        }
        Frame::ShardRequest(request) => {
            let wanted: Vec<u16> = request.wanted.iter().take(8).collect();
            wanted.into_iter().map(|at| noise(request.root, at, SHARD_BYTES, rng).to_frame()).collect()
        }
        // It has nothing else.
        _ => return responder.finish(),
    };
    for frame in frames {
        if responder.send(&frame).await.is_err() {
            return;
        }
    }
    responder.finish();
}

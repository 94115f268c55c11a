//! Subscriptions to logs and receipts. The chain is the queue: nothing is buffered for a subscriber,
//! who is told what stands behind the position that it has reached, as fast as it takes it.

use std::sync::Arc;

use bytes::Bytes;
use ghost_frames::{Code, Payload};
use ghost_proto::{
    Address, BlockId, GenesisId,
    limits::FOLLOW_SENDERS_MAX,
    message::{
        self,
        follow_request::{From as Begin, What},
    },
};
use ghost_protocol::request::Responder;
use tokio::sync::{Semaphore, watch};

use super::{
    chain::HeadNote,
    contracts::{log_filter, log_row},
    rpc::{Failure, block_ref},
};
use crate::{
    chain::{
        BlockRef, HeadView,
        follow::{FollowError, Followed, Follower, From, Position, Told},
    },
    engine::Stop,
    store::StoreError,
};

/// A subscriber that is behind by more blocks reads on a thread for what takes long.
const BLOCKS_AT_ONCE: u64 = 4;

/// When to ask a node that is behind again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

/// Subscribers that read history at the same time.
pub(crate) const READERS_MAX: usize = 4;

/// The epoch of the sequence: it is the chain's.
fn epoch(genesis: &GenesisId) -> u64 {
    let (first, _) = genesis.0.split_first_chunk().expect("an id has 32 bytes");
    u64::from_be_bytes(*first)
}

fn begin(view: &HeadView, request: message::FollowRequest) -> Result<(Follower, Told), Failure> {
    let what = match request.what {
        Some(What::Logs(filter)) => Followed::Logs(log_filter(Some(filter))?),
        Some(What::Receipts(filter)) => {
            if filter.senders.is_empty() || filter.senders.len() > FOLLOW_SENDERS_MAX {
                return Err(Failure::invalid(format!("name 1 to {FOLLOW_SENDERS_MAX} senders")));
            }
            let senders = filter.senders.iter().map(|sender| Address::try_from(sender.as_ref()));
            let senders: Result<_, _> = senders.collect();
            Followed::Receipts(senders.map_err(|error| Failure::invalid(error.to_string()))?)
        }
        None => return Err(Failure::invalid("say what to follow: logs or receipts")),
    };
    let from = match request.from {
        None => From::Now,
        Some(Begin::Height(height)) => From::Height(height),
        Some(Begin::Resume(positions)) => {
            if positions.epoch != epoch(&view.genesis_id()) {
                return Err(Failure::not_found("these positions are of another chain"));
            }
            let told = positions.told.iter().map(|told| {
                let id = BlockId::try_from(told.hash.as_ref())?;
                Ok(Position { height: told.seq, id })
            });
            let told: Result<_, ghost_proto::ids::ParseIdError> = told.collect();
            From::Positions(told.map_err(|error| Failure::invalid(error.to_string()))?)
        }
    };
    Follower::begin(view, what, from).map_err(|error| match error {
        FollowError::Ahead { .. } => Failure::busy(error.to_string(), RETRY_AFTER),
        FollowError::Unknown => Failure::not_found(error.to_string()),
        FollowError::Store(error) => error.into(),
    })
}

fn event(epoch: u64, told: Told) -> message::FollowEvent {
    let position =
        |at: Position| message::Position { seq: at.height, hash: Bytes::copy_from_slice(&at.id.0) };
    let receipts = told.receipts.into_iter().map(|found| message::ReceiptRow {
        block: Some(block_ref(BlockRef { height: found.block.height, id: found.block.id, slot: None })),
        transaction: Bytes::copy_from_slice(&found.transaction.0),
        index: found.index,
        receipt: found.receipt.encode().into(),
    });
    message::FollowEvent {
        epoch,
        at: Some(position(told.to)),
        prev: Some(position(told.prev)),
        reverted: told.reverted,
        more: told.more,
        finalized: told.finalized,
        logs: told.logs.into_iter().map(log_row).collect(),
        receipts: receipts.collect(),
    }
}

/// Serves one subscription until the subscriber has enough or the node stops.
pub(crate) async fn serve(
    request: message::FollowRequest,
    mut responder: Responder,
    mut heads: watch::Receiver<HeadNote>,
    readers: Arc<Semaphore>,
) {
    let view = heads.borrow_and_update().view.clone();
    let epoch = epoch(&view.genesis_id());
    let (mut follower, first) = match begin(&view, request) {
        Ok(begun) => begun,
        Err(failure) => {
            // An asker that is gone wants no answer.
            let _ = responder.answer(&failure.frame()).await;
            return;
        }
    };
    if responder.send(&event(epoch, first).to_frame()).await.is_err() {
        return;
    }
    loop {
        let view = heads.borrow_and_update().view.clone();
        loop {
            let told = if follower.behind(&view) <= BLOCKS_AT_ONCE {
                follower.step(&view, &Stop::default())
            } else {
                let read = read(follower, view.clone(), readers.clone());
                let stepped = tokio::select! {
                    stepped = read => stepped,
                    () = responder.cancelled() => return,
                };
                let Some((back, told)) = stepped else { return responder.refuse(Code::Internal) };
                follower = back;
                told
            };
            match told {
                Ok(Some(told)) => {
                    if responder.send(&event(epoch, told).to_frame()).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = responder.answer(&Failure::from(error).frame()).await;
                    return;
                }
            }
        }
        tokio::select! {
            changed = heads.changed() => {
                if changed.is_err() {
                    return responder.finish();
                }
            }
            () = responder.cancelled() => return,
        }
    }
}

type Stepped = (Follower, Result<Option<Told>, StoreError>);

/// One step on a thread of its own; it stops soon after nobody waits for it. `None` if it broke down.
async fn read(mut follower: Follower, view: Arc<HeadView>, readers: Arc<Semaphore>) -> Option<Stepped> {
    let turn = readers.acquire_owned().await.ok()?;
    let stop = Stop::default();
    let _guard = stop.on_drop();
    let running = tokio::task::spawn_blocking(move || {
        let told = follower.step(&view, &stop);
        drop(turn);
        (follower, told)
    });
    running.await.ok()
}

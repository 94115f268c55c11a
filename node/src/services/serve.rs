//! Answers peers that ask for headers, blocks and certificates.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use ghost_frames::{Code, Frame, Payload, compact::BlockTransactionsRequest, consensus::Certificate};
use ghost_mempool_relay::{
    block::{self, ShortIds},
    sync::serve,
};
use ghost_proto::{BlockId, SignedTransaction, block::HEADER_LEN, limits::WHOLE_PUSH_BYTES_MAX};
use ghost_protocol::{inbox::Asked, request::Responder};
use tokio::sync::mpsc;

use super::underway::Underway;
use crate::chain::HeadView;

/// Serves one stream type for as long as the node runs. Each request is a task; how many a peer may
/// have at once is the session's business.
pub(crate) async fn run(
    mut requests: mpsc::Receiver<Asked>,
    views: Arc<ArcSwap<HeadView>>,
    underway: Underway,
    seed: [u8; 32],
) {
    while let Some(asked) = requests.recv().await {
        tokio::spawn(answer(asked, views.load_full(), underway.clone(), seed));
    }
}

/// A new block by short ids, or whole if that is hardly longer. Old ones are not asked for like this.
async fn compact(id: BlockId, underway: &Underway, seed: &[u8; 32], responder: Responder) {
    let Some(block) = underway.get(&id) else { return responder.finish() };
    let frame = if HEADER_LEN + block.header().body_bytes as usize <= WHOLE_PUSH_BYTES_MAX {
        ghost_frames::EncodedFrame::new(
            <ghost_frames::block::WholeBlock as ghost_frames::writer::Registered>::KIND,
            &block.encode(),
        )
    } else {
        let nonce = blake3::keyed_hash(seed, &id.0);
        let nonce = nonce.as_bytes()[..8].iter().fold(0, |nonce, byte| nonce << 8 | u64::from(*byte));
        ShortIds::of(&block, nonce).compact(block.header().clone(), ShortIds::never_pooled(&block)).to_frame()
    };
    // A gone asker is no fault of anyone's.
    let _ = responder.answer(&frame).await;
}

/// Transactions of a new block: those that are here at once, the rest as soon as it is.
async fn transactions(request: BlockTransactionsRequest, underway: &Underway, mut responder: Responder) {
    let BlockTransactionsRequest { block: id, indexes } = request;
    let out_of_range = |count: usize| indexes.last().is_some_and(|last| *last as usize >= count);
    let partial = underway.get(&id).is_none().then(|| underway.partial(&id)).flatten();
    let mut missing = Vec::new();
    if let Some(partial) = partial {
        let here = |place: u32| partial.transactions.get(place as usize).and_then(Option::as_ref);
        if out_of_range(partial.transactions.len()) {
            return responder.refuse(Code::ProtocolViolation);
        }
        if !send(&mut responder, indexes.iter().copied(), here).await {
            return;
        }
        missing.extend(indexes.iter().copied().filter(|place| here(*place).is_none()));
        if missing.is_empty() {
            return responder.finish();
        }
    } else if underway.get(&id).is_none() {
        return responder.finish();
    }
    let Some(block) = underway.complete(&id).await else { return responder.finish() };
    let all = block.transactions();
    if out_of_range(all.len()) {
        return responder.refuse(Code::ProtocolViolation);
    }
    let rest = if missing.is_empty() { indexes } else { missing };
    if send(&mut responder, rest, |place| all.get(place as usize)).await {
        responder.finish();
    }
}

/// False if the asker is gone.
async fn send<'a>(
    responder: &mut Responder,
    places: impl IntoIterator<Item = u32>,
    transaction: impl Fn(u32) -> Option<&'a SignedTransaction>,
) -> bool {
    for frame in block::serve::transactions(places, transaction) {
        if responder.send(&frame.to_frame()).await.is_err() {
            return false;
        }
    }
    true
}

async fn answer(asked: Asked, view: Arc<HeadView>, underway: Underway, seed: [u8; 32]) {
    let Asked { frame, mut responder, .. } = asked;
    match frame {
        Frame::HeadersRequest(request) => {
            let height_of = |id: &BlockId| {
                if *id == view.genesis().block_id() {
                    return Some(0);
                }
                let header = view.header(id).ok()??;
                view.is_canonical(&header).ok()?.then_some(header.height)
            };
            let header_at = |height| view.header(&view.canonical_id(height).ok()??).ok()?;
            let headers = serve::headers(&request, height_of, header_at);
            // A gone asker is no fault of anyone's.
            let _ = responder.answer(&headers.to_frame()).await;
        }
        Frame::BlocksRequest(request) => {
            let read = |id: &BlockId| {
                if let Some(block) = underway.get(id) {
                    return Some(Bytes::from(block.encode()));
                }
                let (header, body) = view.raw_block(id).ok()??;
                let mut block = Vec::with_capacity(header.bytes().len() + body.len());
                block.extend_from_slice(header.bytes());
                block.extend_from_slice(&body);
                Some(block.into())
            };
            for frame in serve::blocks(&request, read) {
                if responder.send(&frame).await.is_err() {
                    return;
                }
            }
            responder.finish();
        }
        Frame::CompactRequest(request) => compact(request.0, &underway, &seed, responder).await,
        Frame::ShardRequest(request) => {
            for shard in underway.shards(&request.root, &request.wanted) {
                if responder.send(&shard.to_frame()).await.is_err() {
                    return;
                }
            }
            responder.finish();
        }
        Frame::BlockTransactionsRequest(request) => transactions(request, &underway, responder).await,
        Frame::CertificateRequest(_) => {
            let newest = view.justified_by().or(view.finalized_by());
            match newest {
                Some(certificate) => {
                    let _ = responder.answer(&Certificate(certificate.as_ref().clone()).to_frame()).await;
                }
                None => responder.finish(),
            }
        }
        _ => responder.refuse(Code::ProtocolViolation),
    }
}

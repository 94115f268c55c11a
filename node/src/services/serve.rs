//! Answers peers that ask for headers, blocks and certificates.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use ghost_frames::{Code, Frame, Payload, consensus::Certificate};
use ghost_mempool_relay::sync::serve;
use ghost_proto::BlockId;
use ghost_protocol::inbox::Asked;
use tokio::sync::mpsc;

use super::chain::Underway;
use crate::chain::HeadView;

/// Serves one stream type for as long as the node runs. Each request is a task; how many a peer may
/// have at once is the session's business.
pub(crate) async fn run(
    mut requests: mpsc::Receiver<Asked>,
    views: Arc<ArcSwap<HeadView>>,
    underway: Underway,
) {
    while let Some(asked) = requests.recv().await {
        tokio::spawn(answer(asked, views.load_full(), underway.clone()));
    }
}

async fn answer(asked: Asked, view: Arc<HeadView>, underway: Underway) {
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

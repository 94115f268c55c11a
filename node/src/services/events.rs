//! Subscriptions to what happens on the chain.

use std::sync::Arc;

use bytes::Bytes;
use ghost_frames::{Code, Frame, Payload};
use ghost_proto::message;
use ghost_protocol::inbox::Asked;
use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    chain::HeadNote,
    follow,
    rpc::{Access, block_ref},
};

/// Serves subscriptions for as long as the node runs.
pub(crate) async fn run(
    mut requests: mpsc::Receiver<Asked>,
    heads: watch::Receiver<HeadNote>,
    access: Access,
) {
    let readers = Arc::new(Semaphore::new(follow::READERS_MAX));
    while let Some(asked) = requests.recv().await {
        match asked.frame {
            Frame::HeadsRequest(_) if access.may_ask(asked.session.as_ref()) => {
                tokio::spawn(follow_heads(asked, heads.clone()));
            }
            Frame::FollowRequest(request) if access.may_ask(asked.session.as_ref()) => {
                tokio::spawn(follow::serve(request, asked.responder, heads.clone(), readers.clone()));
            }
            Frame::HeadsRequest(_) | Frame::FollowRequest(_) => asked.responder.refuse(Code::Refused),
            _ => asked.responder.refuse(Code::ProtocolViolation),
        }
    }
}

/// Sends the head now and whenever it is another one. A subscriber that reads slowly skips to the
/// newest: the channel keeps one value.
async fn follow_heads(asked: Asked, mut heads: watch::Receiver<HeadNote>) {
    let mut responder = asked.responder;
    let mut reorganised = false;
    loop {
        let note = heads.borrow_and_update().clone();
        let head = note.view.head();
        // Genesis has no header: the first event waits for the first block.
        if let Ok(Some(header)) = note.view.header(&head.id) {
            let event = message::HeadEvent {
                header: Bytes::copy_from_slice(header.bytes()),
                finalized: Some(block_ref(note.view.finalized())),
                reorganised,
            };
            if responder.send(&event.to_frame()).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = heads.changed() => {
                if changed.is_err() {
                    return responder.finish();
                }
                let next = heads.borrow();
                // What was skipped counts: the head before is no ancestor of this one.
                reorganised = next.reorganised && next.view.head().id != head.id;
            }
            () = responder.cancelled() => return,
        }
    }
}

//! No class starves another, however slowly its answers are read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{EncodedFrame, Payload, StreamType, block::BlocksRequest, kind::GREASE_FIRST};
use ghost_proto::{BlockId, GenesisId};
use ghost_protocol::{
    Identity, Overlay,
    handshake::{LocalHello, Role},
    inbox::{Inbox, InboxBuilder},
    overlay::{Gate, OverlayConfig},
    session::SessionContext,
    transport::quic::{Socket, tuning::STREAM_WINDOW},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn start(seed: u8, inbox: Inbox) -> Overlay {
    let hello = LocalHello {
        genesis: Some(GenesisId([1; 32])),
        serves: inbox.serves(),
        user_agent: "test".into(),
        record: None,
        best: (0, BlockId::ZERO),
        finalized_height: 0,
        nonce: seed.into(),
        role: Role::Node,
        tx_salt: Some([7; 16]),
    };
    let config = OverlayConfig {
        onion: None,
        dials_ip: true,
        identity: Identity::from_seed(&[seed; 32]),
        hello,
        context: SessionContext { inbox, ..SessionContext::default() },
        gate: Gate::default(),
        rng_seed: None,
    };
    let (overlay, mut events) =
        Overlay::start(config, vec![Socket::Bind("127.0.0.1:0".parse().unwrap())]).unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    overlay
}

/// A node that answers every sync request for ever, in frames that are skipped.
fn start_flooding(sent: Arc<AtomicUsize>) -> Overlay {
    let mut inbox = InboxBuilder::new();
    let mut requests = inbox.requests(StreamType::Sync, 16);
    tokio::spawn(async move {
        let frame = EncodedFrame::new(GREASE_FIRST, &Bytes::from(vec![0; 32 << 10]));
        while let Some(mut asked) = requests.recv().await {
            let (frame, sent) = (frame.clone(), sent.clone());
            tokio::spawn(async move {
                while asked.responder.send(&frame).await.is_ok() {
                    sent.fetch_add(frame.len(), Ordering::Relaxed);
                }
            });
        }
    });
    start(2, inbox.build())
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_hold_up_a_ping() {
    const ANSWERS: usize = 4;
    let sent = Arc::new(AtomicUsize::new(0));
    let node = start_flooding(sent.clone());
    let asker = start(1, Inbox::default());
    let session = asker.dial(node.peer_id(), node.local_addresses()[0]).await.unwrap();
    let request = BlocksRequest { ids: vec![BlockId::ZERO] }.to_frame();
    let mut unread = Vec::new();
    for _ in 0..ANSWERS {
        unread.push(session.request(StreamType::Sync, &request, PATIENCE).await.unwrap());
    }
    // Until every answer has used up all credit of its stream but less than a frame.
    let full = ANSWERS * (STREAM_WINDOW as usize - (64 << 10));
    let mut pings = 0;
    while sent.load(Ordering::Relaxed) < full {
        session.ping(PATIENCE).await.expect("a pong finds room beside unread answers");
        pings += 1;
        assert!(pings < 1_000_000, "the answers came to a halt at {} bytes", sent.load(Ordering::Relaxed));
    }
    session.ping(PATIENCE).await.expect("a pong finds room beside unread answers");
    drop(unread);
    session.ping(PATIENCE).await.expect("and when they were cancelled");
}

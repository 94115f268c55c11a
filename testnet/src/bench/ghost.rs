//! Our side of the benches: nodes without a chain.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use ghost_frames::{Frame, StreamType, writer::Payload};
use ghost_proto::{BlockId, GenesisId, layout::put_varint, message};
use ghost_protocol::{
    Identity, Overlay, PeerId,
    class::ClassTable,
    handshake::{LocalHello, Role},
    inbox::{Inbox, InboxBuilder},
    overlay::{Gate, OverlayConfig},
    session::SessionContext,
    shape::Shape,
    transport::quic::Socket,
};

use super::{BenchError, Doing, bare::LOOPBACK};

const GENESIS: GenesisId = GenesisId([7; 32]);

/// A node on loopback.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) overlay: Overlay,
    pub(super) peer: PeerId,
    pub(super) address: SocketAddr,
}

pub(super) fn hello(role: Role, inbox: &Inbox) -> LocalHello {
    LocalHello {
        genesis: Some(GENESIS),
        serves: inbox.serves(),
        user_agent: concat!("ghost-testnet/", env!("CARGO_PKG_VERSION")).to_owned(),
        record: None,
        best: (0, BlockId::ZERO),
        finalized_height: 0,
        nonce: rand::random(),
        role,
        tx_salt: Some([7; 16]),
    }
}

/// Starts a node. Must be called inside a runtime.
pub(super) fn start(table: ClassTable, inbox: Inbox) -> Result<Node, BenchError> {
    start_shaped(table, inbox, Shape::default())
}

/// As [`start`], with traffic of a shape.
pub(super) fn start_shaped(table: ClassTable, inbox: Inbox, shape: Shape) -> Result<Node, BenchError> {
    let identity = Identity::generate();
    let peer = identity.peer_id();
    let config = OverlayConfig {
        onion: None,
        dials_ip: true,
        identity,
        hello: hello(Role::Node, &inbox),
        context: SessionContext { table: Arc::new(table), inbox, shape, ..SessionContext::default() },
        gate: Gate::default(),
        rng_seed: None,
    };
    let (overlay, mut events) =
        Overlay::start(config, vec![Socket::Bind(LOOPBACK)]).doing("starting a node")?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let address = overlay.local_addresses()[0];
    Ok(Node { overlay, peer, address })
}

/// Starts a node that answers status requests, also early ones.
pub(super) fn start_answering() -> Result<Node, BenchError> {
    let mut inbox = InboxBuilder::new();
    let mut requests = inbox.requests(StreamType::Rpc, 1024);
    let status = status_answer();
    tokio::spawn(async move {
        while let Some(asked) = requests.recv().await {
            if let Frame::StatusRequest(_) = asked.frame {
                // Whoever does not wait for its answer loses it.
                let _ = asked.responder.answer(&status).await;
            }
        }
    });
    start(ClassTable::default(), inbox.build())
}

/// The answer to a status request, of which only the size matters here.
pub(super) fn status_answer() -> ghost_frames::EncodedFrame {
    message::Status { version: "bench".into(), chain_name: "bench".into(), ..Default::default() }.to_frame()
}

/// A status request as it stands on its stream.
pub(super) fn status_request() -> Bytes {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, StreamType::Rpc.number());
    bytes.extend_from_slice(message::StatusRequest {}.to_frame().bytes());
    bytes.into()
}

/// The start of a control stream, by hand: for peers that do nothing but greet.
pub(super) fn greeting(role: Role) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, StreamType::Control.number());
    bytes.extend_from_slice(hello(role, &Inbox::default()).message(None).to_frame().bytes());
    bytes
}

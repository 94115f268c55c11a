//! A peer that handshakes honestly and then writes whatever it likes.

use std::{io, net::SocketAddr};

use ghost_frames::{Payload, StreamType};
use ghost_proto::{BlockId, GenesisId, PeerId, layout::put_varint, message};
use ghost_protocol::{
    Identity,
    handshake::{LocalHello, Role, StreamSet},
    tally::Tally,
    transport::{
        DialError, Link, RecvStream, SendStream,
        quic::{Dialled, Endpoint, Incoming, Verdict},
    },
};

use super::world::Seat;

/// An endpoint without a session above it.
#[derive(Debug)]
pub struct Raw {
    endpoint: Endpoint,
    identity: Identity,
    nonce: u64,
}

impl Raw {
    /// Opens the endpoint. It dials and accepts.
    pub fn start(seat: &Seat) -> io::Result<Self> {
        let endpoint =
            Endpoint::open(&seat.identity, seat.socket(), true, Some(seat.seed_for(1)), Tally::default())?;
        let nonce = rand::Rng::next_u64(&mut seat.rng(0));
        Ok(Self { endpoint, identity: seat.identity.clone(), nonce })
    }

    /// Who it is.
    pub fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// Its socket, with nothing but TLS above.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Dials.
    pub async fn dial(&self, peer: PeerId, address: SocketAddr) -> Result<Link, DialError> {
        self.endpoint.dial(peer, address).await
    }

    /// Dials, with 0-RTT if there is a ticket.
    pub async fn dial_early(&self, peer: PeerId, address: SocketAddr) -> Result<Dialled, DialError> {
        self.endpoint.dial_early(peer, address).await
    }

    /// The next connection attempt of somebody else.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept(|_, _| Verdict::Accept(())).await.map(|(incoming, ())| incoming)
    }

    /// An honest hello of a node of this chain, to be spoilt.
    pub fn hello(&self, genesis: GenesisId) -> message::Hello {
        let all = StreamType::ALL.iter().copied().fold(StreamSet::default(), StreamSet::with);
        let hello = LocalHello {
            genesis: Some(genesis),
            serves: all,
            user_agent: "adversary".into(),
            record: None,
            best: (0, BlockId::ZERO),
            finalized_height: 0,
            nonce: self.nonce,
            role: Role::Node,
            tx_salt: Some([7; 16]),
        };
        hello.message(None)
    }

    /// Opens the control stream and says hello.
    ///
    /// # Errors
    /// If the connection is over.
    pub async fn greet(&self, link: &Link, hello: &message::Hello) -> io::Result<SendStream> {
        open_push(link, StreamType::Control.number(), hello.to_frame().bytes()).await
    }
}

/// The type of a stream and what follows it.
pub fn stream_bytes(number: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rest.len() + 8);
    put_varint(&mut bytes, number);
    bytes.extend_from_slice(rest);
    bytes
}

/// Opens a one-way stream of any type with any content, and leaves it open.
///
/// # Errors
/// If the connection is over.
pub async fn open_push(link: &Link, number: u64, rest: &[u8]) -> io::Result<SendStream> {
    let mut stream = link.open_uni().await?;
    stream.write_all(&stream_bytes(number, rest)).await?;
    Ok(stream)
}

/// Opens a two-way stream of any type with any content, and leaves it open.
///
/// # Errors
/// If the connection is over.
pub async fn open_request(link: &Link, number: u64, rest: &[u8]) -> io::Result<(SendStream, RecvStream)> {
    let (mut send, recv) = link.open_bi().await?;
    send.write_all(&stream_bytes(number, rest)).await?;
    Ok((send, recv))
}

/// A frame that declares this length and has this payload, however wrong that is.
pub fn frame_bytes(kind: u64, declared: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    put_varint(&mut bytes, kind);
    put_varint(&mut bytes, declared);
    bytes.extend_from_slice(payload);
    bytes
}

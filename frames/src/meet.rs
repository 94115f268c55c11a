//! Meeting behind NATs: two peers that cannot dial each other, and one that both are connected to.
//!
//! ```text
//! MeetRequest    0x58  how (1): 0 punch, 1 circuit; key of the peer wanted (32)
//! MeetOffer      0x59  how (1), key of the asker (32), circuit (8; 0 for a punch),
//!                      varint length, the binary multiaddr at which the asker is seen
//! MeetAnswer     0x5a  outcome (1), circuit (8; 0 without one),
//!                      varint length, the binary multiaddr at which the other is seen, or nothing
//! CircuitPacket  0x5b  circuit (8), a UDP payload
//! ```

use bytes::Bytes;
use ghost_proto::{
    PublicKey,
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{CIRCUIT_PACKET_BYTES_MAX, MULTIADDR_BYTES_MAX},
};

use crate::writer::{Payload, PayloadError};

/// How two peers are to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Both send to the address at which the common peer sees the other, which opens their NATs.
    Punch,
    /// The common peer passes their packets on.
    Circuit,
}

impl How {
    /// All, by their number.
    pub const ALL: [Self; 2] = [Self::Punch, Self::Circuit];
}

/// Bring me together with this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeetRequest {
    /// How.
    pub how: How,
    /// The key inside its PeerId.
    pub wanted: PublicKey,
}

/// Somebody wants to meet you.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeetOffer {
    /// How.
    pub how: How,
    /// The key inside its PeerId.
    pub asker: PublicKey,
    /// Names the circuit on this connection; 0 for a punch.
    pub circuit: u64,
    /// Binary multiaddr at which it is seen; 1 to 192 bytes.
    pub address: Bytes,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeetOutcome {
    /// The other is told, and willing.
    Agreed,
    /// The peer wanted is not connected here.
    Unknown,
    /// Too often, or no circuit is free.
    Busy,
    /// The other is not willing, or does not answer.
    Unwilling,
}

impl MeetOutcome {
    /// All, by their number.
    pub const ALL: [Self; 4] = [Self::Agreed, Self::Unknown, Self::Busy, Self::Unwilling];
}

/// The answer to [`MeetRequest`] and to [`MeetOffer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeetAnswer {
    /// What came of it.
    pub outcome: MeetOutcome,
    /// Names the circuit on this connection; 0 without one.
    pub circuit: u64,
    /// Binary multiaddr at which the other is seen; empty in the answer to an offer.
    pub address: Bytes,
}

/// A packet on its way through a common peer. It may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitPacket {
    /// Names the circuit on this connection.
    pub circuit: u64,
    /// 1 to [`CIRCUIT_PACKET_BYTES_MAX`] bytes: the payload of a UDP datagram.
    pub packet: Bytes,
}

fn out_of_range(field: &'static str, value: u64, min: u64, max: u64) -> PayloadError {
    LayoutError::OutOfRange { field, value, min, max }.into()
}

fn one_of<T: Copy>(all: &[T], field: &'static str, number: u8) -> Result<T, PayloadError> {
    let found = all.get(usize::from(number)).copied();
    found.ok_or_else(|| out_of_range(field, number.into(), 0, all.len() as u64 - 1))
}

impl Payload for MeetRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.how as u8);
        out.extend_from_slice(&self.wanted.0);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let how = one_of(&How::ALL, "how", cursor.u8("how")?)?;
        let wanted = PublicKey(cursor.array("wanted")?);
        cursor.finish()?;
        Ok(Self { how, wanted })
    }
}

impl Payload for MeetOffer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.how as u8);
        out.extend_from_slice(&self.asker.0);
        out.extend_from_slice(&self.circuit.to_be_bytes());
        put_var_bytes(out, &self.address);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let how = one_of(&How::ALL, "how", cursor.u8("how")?)?;
        let asker = PublicKey(cursor.array("asker")?);
        let circuit = cursor.u64("circuit")?;
        let address = cursor.var_bytes("address", MULTIADDR_BYTES_MAX)?;
        cursor.finish()?;
        if address.is_empty() {
            return Err(out_of_range("address length", 0, 1, MULTIADDR_BYTES_MAX as u64));
        }
        Ok(Self { how, asker, circuit, address })
    }
}

impl Payload for MeetAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.outcome as u8);
        out.extend_from_slice(&self.circuit.to_be_bytes());
        put_var_bytes(out, &self.address);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let outcome = one_of(&MeetOutcome::ALL, "outcome", cursor.u8("outcome")?)?;
        let circuit = cursor.u64("circuit")?;
        let address = cursor.var_bytes("address", MULTIADDR_BYTES_MAX)?;
        cursor.finish()?;
        Ok(Self { outcome, circuit, address })
    }
}

impl Payload for CircuitPacket {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.circuit.to_be_bytes());
        out.extend_from_slice(&self.packet);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let circuit = cursor.u64("circuit")?;
        let packet = cursor.rest();
        if packet.is_empty() || packet.len() > CIRCUIT_PACKET_BYTES_MAX {
            let length = packet.len() as u64;
            return Err(out_of_range("packet length", length, 1, CIRCUIT_PACKET_BYTES_MAX as u64));
        }
        Ok(Self { circuit, packet })
    }
}

//! Discovery frames.
//!
//! ```text
//! PeersRequest     0x50  most records wanted (2)
//! Peers            0x51  for each: varint length, `SignedPeerRecord`
//! DialBackRequest  0x52  nothing
//! DialBackAnswer   0x53  outcome (1), varint length, the binary multiaddr that was dialled
//! ```

use bytes::Bytes;
use ghost_proto::{
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{MULTIADDR_BYTES_MAX, PEERS_PER_ANSWER_MAX, RECORD_BYTES_MAX},
};

use crate::writer::{Payload, PayloadError};

/// Whom do you know?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeersRequest {
    /// Most records wanted; at most [`PEERS_PER_ANSWER_MAX`].
    pub limit: u16,
}

/// Signed peer records, unverified ([`ghost_proto::PeerRecord::verify`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// At most [`PEERS_PER_ANSWER_MAX`].
    pub records: Vec<Bytes>,
}

/// Dial me back at the address you see me at, over another socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DialBackRequest;

/// What came of a dial back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialBackOutcome {
    /// The asker's key answered.
    Reached,
    /// Nobody answered.
    NoAnswer,
    /// Somebody broke off the handshake.
    BrokenOff,
    /// Another key answered.
    OtherKey,
}

impl DialBackOutcome {
    /// All, by their number.
    pub const ALL: [Self; 4] = [Self::Reached, Self::NoAnswer, Self::BrokenOff, Self::OtherKey];
}

/// The answer to [`DialBackRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialBackAnswer {
    /// What came of it.
    pub outcome: DialBackOutcome,
    /// Binary multiaddr that was dialled, without a peer; 1 to 192 bytes.
    pub address: Bytes,
}

impl Payload for DialBackRequest {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Cursor::new(bytes).finish()?;
        Ok(Self)
    }
}

impl Payload for DialBackAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.outcome as u8);
        put_var_bytes(out, &self.address);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let number = cursor.u8("outcome")?;
        let out_of_range = |field, value: u64, min, max| LayoutError::OutOfRange { field, value, min, max };
        let Some(&outcome) = DialBackOutcome::ALL.get(usize::from(number)) else {
            let max = DialBackOutcome::ALL.len() as u64 - 1;
            return Err(out_of_range("outcome", number.into(), 0, max).into());
        };
        let address = cursor.var_bytes("address", MULTIADDR_BYTES_MAX)?;
        cursor.finish()?;
        if address.is_empty() {
            return Err(out_of_range("address length", 0, 1, MULTIADDR_BYTES_MAX as u64).into());
        }
        Ok(Self { outcome, address })
    }
}

impl Payload for PeersRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.limit.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let limit = cursor.u16("limit")?;
        cursor.finish()?;
        if limit == 0 || usize::from(limit) > PEERS_PER_ANSWER_MAX {
            return Err(LayoutError::OutOfRange {
                field: "limit",
                value: limit.into(),
                min: 1,
                max: PEERS_PER_ANSWER_MAX as u64,
            }
            .into());
        }
        Ok(Self { limit })
    }
}

impl Payload for Peers {
    fn encode(&self, out: &mut Vec<u8>) {
        for record in &self.records {
            put_var_bytes(out, record);
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let mut records = Vec::new();
        while cursor.remaining() > 0 {
            if records.len() == PEERS_PER_ANSWER_MAX {
                return Err(LayoutError::OutOfRange {
                    field: "records",
                    value: PEERS_PER_ANSWER_MAX as u64 + 1,
                    min: 0,
                    max: PEERS_PER_ANSWER_MAX as u64,
                }
                .into());
            }
            records.push(cursor.var_bytes("record", RECORD_BYTES_MAX)?);
        }
        Ok(Self { records })
    }
}

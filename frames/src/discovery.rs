//! Discovery frames.
//!
//! ```text
//! PeersRequest  0x50  most records wanted (2)
//! Peers         0x51  for each: varint length, `SignedPeerRecord`
//! ```

use bytes::Bytes;
use ghost_proto::{
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{PEERS_PER_ANSWER_MAX, RECORD_BYTES_MAX},
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

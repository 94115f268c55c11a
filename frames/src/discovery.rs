//! Discovery frames.
//!
//! ```text
//! PeersRequest     0x50  most records wanted (2)
//! Peers            0x51  for each: varint length, `SignedPeerRecord`
//! DialBackRequest  0x52  nothing
//! DialBackAnswer   0x53  outcome (1), varint length, the binary multiaddr that was dialled
//! FindRequest      0x54  what (1): 0 a peer, 1 a value; lookup key (32)
//! FindAnswer       0x55  varint length, the value or nothing; for each peer that is closer: varint length,
//!                        `SignedPeerRecord`
//! StoreRequest     0x56  a signed value
//! StoreAnswer      0x57  outcome (1)
//! ```

use bytes::Bytes;
use ghost_proto::{
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{
        CLOSER_PER_ANSWER_MAX, MULTIADDR_BYTES_MAX, PEERS_PER_ANSWER_MAX, RECORD_BYTES_MAX, VALUE_BYTES_MAX,
        VALUE_LABEL_BYTES_MAX, VALUE_PAYLOAD_BYTES_MAX,
    },
    value::LookupKey,
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

/// Whom do you know near this key? And the value there, if you keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindRequest {
    /// A value is looked for, not a peer.
    pub value: bool,
    /// Where.
    pub target: LookupKey,
}

/// The answer to [`FindRequest`], unverified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FindAnswer {
    /// The value ([`ghost_proto::SignedValue::verify`]), if it was asked for and is kept.
    pub value: Option<Bytes>,
    /// Records of peers near the key, nearest first; at most [`CLOSER_PER_ANSWER_MAX`].
    pub closer: Vec<Bytes>,
}

/// Keep this value for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRequest {
    /// A signed value, unverified; 1 to [`VALUE_BYTES_MAX`] bytes.
    pub value: Bytes,
}

/// What became of a [`StoreRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOutcome {
    /// It is kept.
    Stored,
    /// A newer one of the same owner and label is kept.
    Newer,
    /// Enough others are nearer to its key.
    NotNear,
    /// There is no room for it.
    Full,
    /// It is void already, or would live for more than a day.
    Expiry,
}

impl StoreOutcome {
    /// All, by their number.
    pub const ALL: [Self; 5] = [Self::Stored, Self::Newer, Self::NotNear, Self::Full, Self::Expiry];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Newer => "a newer one is kept",
            Self::NotNear => "others are nearer",
            Self::Full => "no room",
            Self::Expiry => "its time is over, or more than a day away",
        }
    }
}

/// The answer to [`StoreRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreAnswer(pub StoreOutcome);

fn out_of_range(field: &'static str, value: u64, min: u64, max: u64) -> PayloadError {
    LayoutError::OutOfRange { field, value, min, max }.into()
}

impl Payload for FindRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.value.into());
        out.extend_from_slice(&self.target.0);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let what = cursor.u8("what")?;
        let target = LookupKey(cursor.array("target")?);
        cursor.finish()?;
        if what > 1 {
            return Err(out_of_range("what", what.into(), 0, 1));
        }
        Ok(Self { value: what == 1, target })
    }
}

impl Payload for FindAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        put_var_bytes(out, self.value.as_deref().unwrap_or_default());
        for record in &self.closer {
            put_var_bytes(out, record);
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let value = cursor.var_bytes("value", VALUE_BYTES_MAX)?;
        let mut closer = Vec::new();
        while cursor.remaining() > 0 {
            if closer.len() == CLOSER_PER_ANSWER_MAX {
                let most = CLOSER_PER_ANSWER_MAX as u64;
                return Err(out_of_range("records", most + 1, 0, most));
            }
            let record = cursor.var_bytes("record", RECORD_BYTES_MAX)?;
            if record.is_empty() {
                return Err(out_of_range("record length", 0, 1, RECORD_BYTES_MAX as u64));
            }
            closer.push(record);
        }
        Ok(Self { value: (!value.is_empty()).then_some(value), closer })
    }
}

impl Payload for StoreRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.value);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        // A signed value has no byte to spare: truncated or trailing bytes are found here.
        let mut cursor = Cursor::new(bytes.clone());
        cursor.bytes("owner", 32)?;
        let label = cursor.var_bytes("label", VALUE_LABEL_BYTES_MAX)?;
        cursor.bytes("sequence and expiry", 16)?;
        cursor.var_bytes("payload", VALUE_PAYLOAD_BYTES_MAX)?;
        cursor.bytes("signature", 64)?;
        cursor.finish()?;
        if label.is_empty() {
            return Err(out_of_range("label length", 0, 1, VALUE_LABEL_BYTES_MAX as u64));
        }
        Ok(Self { value: bytes })
    }
}

impl Payload for StoreAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.0 as u8);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let number = cursor.u8("outcome")?;
        cursor.finish()?;
        let outcome = StoreOutcome::ALL.get(usize::from(number)).copied();
        let most = StoreOutcome::ALL.len() as u64 - 1;
        outcome.map(Self).ok_or_else(|| out_of_range("outcome", number.into(), 0, most))
    }
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

//! Encoding frames.

use bytes::Bytes;
use ghost_proto::layout::{LayoutError, put_varint};

use crate::kind::Kind;

/// What the registry says of a payload type. Implemented by the registry alone.
pub trait Registered {
    /// Its kind.
    const KIND: Kind;
    /// Its longest encoding in bytes.
    const PAYLOAD_MAX: usize;
}

/// A payload: what stands between one frame's length and the next frame's kind.
pub trait Payload: Registered + Sized {
    /// Appends the payload.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a payload that fills `bytes` exactly.
    fn decode(bytes: Bytes) -> Result<Self, PayloadError>;

    /// Encodes the frame around it.
    ///
    /// # Panics
    /// In debug builds, if the payload is longer than its kind allows: whoever made it had to cut it.
    fn to_frame(&self) -> EncodedFrame {
        let mut payload = Vec::new();
        self.encode(&mut payload);
        debug_assert!(
            payload.len() <= Self::PAYLOAD_MAX,
            "kind {} takes {} bytes, got {}",
            Self::KIND,
            Self::PAYLOAD_MAX,
            payload.len()
        );
        EncodedFrame::new(Self::KIND, &payload)
    }
}

/// Why a payload does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A fixed layout is broken.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A protobuf message is broken.
    #[error("not the protobuf message: {0}")]
    Protobuf(String),
}

/// A frame as it travels: kind, length, payload. Cloning shares the bytes, so one encoding serves
/// any number of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedFrame {
    kind: Kind,
    bytes: Bytes,
}

impl EncodedFrame {
    /// Puts kind and length in front of a payload.
    pub fn new(kind: Kind, payload: &[u8]) -> Self {
        let mut out = Vec::with_capacity(payload.len() + 12);
        put_varint(&mut out, kind.0);
        put_varint(&mut out, payload.len() as u64);
        out.extend_from_slice(payload);
        Self { kind, bytes: out.into() }
    }

    /// Which frame it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All of it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// All of it, given away.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Bytes on the stream.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

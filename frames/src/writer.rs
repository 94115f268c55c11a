//! Encoding frames.

use bytes::Bytes;
use ghost_proto::layout::{LayoutError, put_varint};

use crate::kind::Kind;

/// Longest head of a frame: two varints of 8 bytes.
const HEAD_BYTES_MAX: usize = 16;

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
        // Encoded once, behind room for a head of any length, which is then put right before it.
        let mut out = vec![0; HEAD_BYTES_MAX];
        self.encode(&mut out);
        let length = out.len() - HEAD_BYTES_MAX;
        debug_assert!(
            length <= Self::PAYLOAD_MAX,
            "kind {} takes {} bytes, got {length}",
            Self::KIND,
            Self::PAYLOAD_MAX,
        );
        let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
        put_varint(&mut head, Self::KIND.0);
        put_varint(&mut head, length as u64);
        let start = HEAD_BYTES_MAX - head.len();
        out[start..HEAD_BYTES_MAX].copy_from_slice(&head);
        EncodedFrame { kind: Self::KIND, bytes: Bytes::from(out).slice(start..) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::Ping,
        tx::{ShortId, TxAnnounce, TxAnnounceEntry},
    };

    #[test]
    fn a_payload_is_framed_as_its_bytes_are() {
        let entry = TxAnnounceEntry { id: ShortId(1), bytes: 200, fee_class: 3 };
        // Lengths whose varint takes one byte, two bytes, and the edge between them.
        for count in [1, 4, 5, 500] {
            let announce = TxAnnounce { entries: vec![entry; count] };
            let mut payload = Vec::new();
            announce.encode(&mut payload);
            assert_eq!(announce.to_frame(), EncodedFrame::new(TxAnnounce::KIND, &payload));
        }
        assert_eq!(Ping(7).to_frame().bytes().as_ref(), [1, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
    }
}

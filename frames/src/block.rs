//! Block frames.
//!
//! ```text
//! BlockAnnounce  0x20  header (227)
//! BlocksRequest  0x21  block ids of 32 bytes
//! WholeBlock     0x22  header (227), body
//! ```

use bytes::Bytes;
use ghost_proto::{
    BlockId, Header,
    layout::{Cursor, LayoutError},
    limits::BODIES_PER_REQUEST_MAX,
};

use crate::{
    bounds::count_entries,
    writer::{Payload, PayloadError},
};

/// A block the sender has, checked or about to be. The header's signature is not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockAnnounce(pub Header);

/// Blocks the sender wants. The answer has a [`WholeBlock`] for each that is to be had, in the order
/// asked for, and leaves out the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksRequest {
    /// At least one, at most [`BODIES_PER_REQUEST_MAX`].
    pub ids: Vec<BlockId>,
}

/// Header and body as they came, asked for or, up to [`ghost_proto::limits::WHOLE_PUSH_BYTES_MAX`], pushed. Decoding reads the header only: parsing the body of a large block
/// is work that its receiver may want to do elsewhere ([`ghost_proto::Block::from_parts`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeBlock {
    /// The sealed header.
    pub header: Header,
    /// The body, unread.
    pub body: Bytes,
}

impl Payload for BlockAnnounce {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.bytes());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(Header::parse(bytes)?))
    }
}

impl Payload for BlocksRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        for id in &self.ids {
            out.extend_from_slice(&id.0);
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let count = count_entries("requested blocks", &cursor, BlockId::LEN, BODIES_PER_REQUEST_MAX)?;
        let ids = (0..count).map(|_| cursor.array("block id").map(BlockId)).collect::<Result<_, _>>()?;
        Ok(Self { ids })
    }
}

impl Payload for WholeBlock {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.bytes());
        out.extend_from_slice(&self.body);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let header = Header::read(&mut cursor)?;
        let body = cursor.rest();
        if body.len() != header.body_bytes as usize {
            return Err(LayoutError::Invalid {
                field: "body",
                reason: "its length is not the one in the header",
            }
            .into());
        }
        Ok(Self { header, body })
    }
}

//! Frames for a node that is behind.
//!
//! ```text
//! HeadersRequest      0x30  most headers wanted (2), then the locator: block ids of 32 bytes, newest first
//! Headers             0x31  headers of 227 bytes, ascending, each the parent of the next; may be empty
//! CertificateRequest  0x32  nothing
//! ```
//!
//! A **locator** names blocks of the asker's canonical chain: the newest ten, then at doubling
//! distances, then genesis. The answer starts after the first one that stands on the answerer's
//! canonical chain.

use bytes::Bytes;
use ghost_proto::{
    BlockId, Header,
    block::HEADER_LEN,
    layout::{Cursor, LayoutError},
    limits::{HEADERS_PER_ANSWER_MAX, LOCATOR_IDS_MAX},
};

use crate::{
    bounds::count_entries,
    writer::{Payload, PayloadError},
};

/// What follows the first of these that you know?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadersRequest {
    /// Most headers wanted; at most [`HEADERS_PER_ANSWER_MAX`].
    pub limit: u16,
    /// At least one, at most [`LOCATOR_IDS_MAX`].
    pub locator: Vec<BlockId>,
}

/// Headers, ascending and connected. Signatures are not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// At most [`HEADERS_PER_ANSWER_MAX`].
    pub headers: Vec<Header>,
}

/// What is your highest final block? Answered with a certificate, or with nothing before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CertificateRequest;

impl Payload for HeadersRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.limit.to_be_bytes());
        for id in &self.locator {
            out.extend_from_slice(&id.0);
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let limit = cursor.u16("limit")?;
        if limit == 0 || usize::from(limit) > HEADERS_PER_ANSWER_MAX {
            return Err(LayoutError::OutOfRange {
                field: "limit",
                value: limit.into(),
                min: 1,
                max: HEADERS_PER_ANSWER_MAX as u64,
            }
            .into());
        }
        let count = count_entries("locator", &cursor, BlockId::LEN, LOCATOR_IDS_MAX)?;
        let locator = (0..count).map(|_| cursor.array("block id").map(BlockId)).collect::<Result<_, _>>()?;
        Ok(Self { limit, locator })
    }
}

impl Payload for Headers {
    fn encode(&self, out: &mut Vec<u8>) {
        for header in &self.headers {
            out.extend_from_slice(header.bytes());
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let mut headers: Vec<Header> = Vec::with_capacity(cursor.remaining() / HEADER_LEN);
        while cursor.remaining() > 0 {
            let header = Header::read(&mut cursor)?;
            if headers.last().is_some_and(|last| last.id() != header.parent) {
                return Err(LayoutError::Invalid { field: "headers", reason: "they do not connect" }.into());
            }
            headers.push(header);
        }
        Ok(Self { headers })
    }
}

impl Payload for CertificateRequest {
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Cursor::new(bytes).finish()?;
        Ok(Self)
    }
}

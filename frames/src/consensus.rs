//! Consensus frames. The layouts are those of [`ghost_proto::vote`].
//!
//! ```text
//! Vote         0x40  vote (146)
//! Certificate  0x41  certificate (82 + 66n)
//! ```

use bytes::Bytes;
use ghost_proto::vote;

use crate::writer::{Payload, PayloadError};

/// One authority's vote. The signature is not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote(pub vote::Vote);

/// Two thirds of the authorities on one link. Signatures are not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate(pub vote::FinalityCertificate);

impl Payload for Vote {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.encode());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(vote::Vote::parse(bytes)?))
    }
}

impl Payload for Certificate {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.encode());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(vote::FinalityCertificate::parse(bytes)?))
    }
}

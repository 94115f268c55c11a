//! Price frames. The layouts of reports and evidence are those of [`ghost_proto::price`].
//!
//! ```text
//! PriceReport    0x90  report (100)
//! PriceEvidence  0x91  evidence of an equivocation (200)
//! ```
//!
//! The rest is protobuf; the schema (`proto/schema/prices.proto`) says what each field means.
//!
//! A **price tick** travels in a datagram and is no frame:
//!
//! ```text
//! offset  size  field
//!      0     8  token   of the subscription
//!      8     8  number  ascends with each tick of the subscription
//!     16     n  quote   the newest reports that make a price
//! ```

use bytes::Bytes;
use ghost_proto::{
    layout::{Cursor, LayoutError},
    limits::{PRICE_FEEDS_MAX, PRICE_PUBLISH_REPORTS_MAX},
    message,
    price::{Equivocation, Quote, Report},
};
use prost::Message;

use crate::{
    control::protobuf_payloads,
    writer::{Payload, PayloadError},
};

/// A publisher's report. The signature is not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceReport(pub Report);

/// Two reports that exclude each other. The signatures are not checked by decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceEvidence(pub Equivocation);

impl Payload for PriceReport {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.bytes());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(Report::parse(bytes)?))
    }
}

impl Payload for PriceEvidence {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.encode());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        Ok(Self(Equivocation::parse(bytes)?))
    }
}

protobuf_payloads!(
    message::PricesRequest {
        1: Each "feeds", max PRICE_FEEDS_MAX;
    }
    message::PricesAnswer {
        2: Each "prices", max PRICE_FEEDS_MAX;
    }
    message::PriceProofRequest {}
    message::PriceProof {
        1: Each "headers", max ghost_proto::limits::HEADERS_PER_ANSWER_MAX;
        4: Each "path", max 64;
    }
    message::PublishRequest {
        1: Each "reports", max PRICE_PUBLISH_REPORTS_MAX;
    }
    message::PublishAnswer {
        1: Each "results", max PRICE_PUBLISH_REPORTS_MAX;
    }
    message::PriceTicksRequest {
        1: Each "feeds", max PRICE_FEEDS_MAX;
    }
    message::PriceTicksAnswer {
        1: Packed "feeds", max PRICE_FEEDS_MAX;
    }
    message::PriceFollowRequest {}
);

/// The newest price of a feed, in a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceTick {
    /// Of the subscription.
    pub token: u64,
    /// Ascends: a tick with a lower number than the last comes late and says nothing.
    pub number: u64,
    /// Proves itself.
    pub quote: Quote,
}

impl PriceTick {
    /// Bytes in front of the quote.
    pub const HEAD_LEN: usize = 16;

    /// As it travels.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(Self::HEAD_LEN + 3 + 100 * self.quote.reports.len());
        out.extend_from_slice(&self.token.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        self.quote.encode(&mut out);
        out.into()
    }

    /// Parses a tick that fills `bytes` exactly. The signatures are not checked.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let (token, number) = (cursor.u64("token")?, cursor.u64("number")?);
        Ok(Self { token, number, quote: Quote::parse(cursor.rest())? })
    }
}

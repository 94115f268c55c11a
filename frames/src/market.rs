//! Markets. All are protobuf (`proto/schema/market.proto`).

use bytes::Bytes;
use ghost_proto::{limits, message};
use prost::Message;

use crate::{
    control::protobuf_payloads,
    writer::{Payload, PayloadError},
};

protobuf_payloads!(
    message::MarketsRequest {}
    message::MarketsAnswer {
        2: Each "markets", max limits::MARKETS_MAX;
    }
    message::BalancesRequest {}
    message::BalancesAnswer {
        2: Each "balances", max limits::ASSETS_MAX;
    }
    message::BookRequest {}
);

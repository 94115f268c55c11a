//! Remote calls and events. All are protobuf; the schema (`proto/schema/rpc.proto`) says what each
//! field means, the registry how long each may be.

use bytes::Bytes;
use ghost_proto::{limits, message};
use prost::Message;

use crate::{
    control::protobuf_payloads,
    frame::Frame,
    writer::{Payload, PayloadError},
};

protobuf_payloads!(
    message::RpcFailure {}
    message::StatusRequest {}
    message::Status {
        9: Each "peers", max limits::RPC_ROWS_MAX;
        12: Each "listen addresses", max limits::RPC_ROWS_MAX;
        18: Each "refusals", max limits::RPC_ROWS_MAX;
        21: Each "alarms", max limits::RPC_ROWS_MAX;
    }
    message::SubmitRequest {
        1: Each "transactions", max limits::SUBMIT_TXS_MAX;
    }
    message::SubmitAnswer {
        1: Each "results", max limits::SUBMIT_TXS_MAX;
    }
    message::TransactionRequest {}
    message::TransactionAnswer {}
    message::BlockRequest {}
    message::BlockAnswer {
        2: Each "transaction ids", max limits::BLOCK_TXS_MAX;
    }
    message::AccountRequest {}
    message::AccountAnswer {}
    message::PendingRequest {}
    message::PendingAnswer {
        3: Each "transactions", max limits::RPC_ROWS_MAX;
    }
    message::PeersRequest {}
    message::PeersAnswer {
        1: Each "peers", max limits::RPC_ROWS_MAX;
    }
    message::PeerCommand {}
    message::PeerCommandAnswer {
        2: Each "story", max limits::RPC_ROWS_MAX;
    }
    message::HeadsRequest {}
    message::HeadEvent {}
);

/// True if the request changes nothing, so that a network attacker who repeats it gains nothing: the
/// only requests a node answers in 0-RTT data.
pub fn is_safe_to_repeat(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::StatusRequest(_)
            | Frame::TransactionRequest(_)
            | Frame::BlockRequest(_)
            | Frame::AccountRequest(_)
            | Frame::PendingRequest(_)
            | Frame::CallRequest(_)
            | Frame::ReceiptRequest(_)
            | Frame::LogsRequest(_)
            | Frame::CodeRequest(_)
            | Frame::StorageRequest(_)
            | Frame::PricesRequest(_)
            | Frame::PriceProofRequest(_)
            | Frame::MarketsRequest(_)
            | Frame::BalancesRequest(_)
    )
}

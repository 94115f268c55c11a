//! Remote calls and events. All are protobuf; the schema (`proto/schema/rpc.proto`) says what each
//! field means, the registry how long each may be.

use bytes::Bytes;
use ghost_proto::message;
use prost::Message;

use crate::{
    control::protobuf_payloads,
    frame::Frame,
    writer::{Payload, PayloadError},
};

protobuf_payloads!(
    message::RpcFailure,
    message::StatusRequest,
    message::Status,
    message::SubmitRequest,
    message::SubmitAnswer,
    message::TransactionRequest,
    message::TransactionAnswer,
    message::BlockRequest,
    message::BlockAnswer,
    message::AccountRequest,
    message::AccountAnswer,
    message::PendingRequest,
    message::PendingAnswer,
    message::PeersRequest,
    message::PeersAnswer,
    message::PeerCommand,
    message::PeerCommandAnswer,
    message::HeadsRequest,
    message::HeadEvent,
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
    )
}

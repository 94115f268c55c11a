//! Calls of contracts and what they left behind. The layouts of calls and their answers are those of
//! [`ghost_proto::call`]; all else is protobuf (`proto/schema/contract.proto`).

use bytes::Bytes;
use ghost_proto::{call, layout::LayoutError, limits, message};
use prost::Message;

use crate::{
    control::protobuf_payloads,
    writer::{Payload, PayloadError},
};

macro_rules! fixed_payloads {
    ($($(#[$doc:meta])* $name:ident($noun:ty);)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $name(pub $noun);

            impl Payload for $name {
                fn encode(&self, out: &mut Vec<u8>) {
                    self.0.encode(out);
                }
                fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
                    Ok(Self(<$noun>::parse(bytes)?))
                }
            }
        )*
    };
}

fixed_payloads!(
    /// Run this and say what it returned.
    CallRequest(call::Call);
    /// What it returned. The signature is not checked by decoding.
    CallAnswer(call::CallAnswer);
    /// Run this and say all it would do.
    SimulateRequest(call::Call);
    /// Find the least gas limit with which this does.
    EstimateRequest(call::Call);
);

/// Counts what stands below the top level, which [`crate::bounds`] does not see. What passes here is
/// small: the frame's length bounds it to a few hundred KiB in memory.
fn check_filter(filter: Option<&message::LogFilter>) -> Result<(), PayloadError> {
    let Some(filter) = filter else { return Ok(()) };
    at_most("addresses", filter.addresses.len(), limits::LOG_FILTER_ADDRESSES_MAX)?;
    at_most("topics", filter.topics.len(), limits::LOG_TOPICS_MAX)?;
    for choice in &filter.topics {
        at_most("topic choices", choice.any_of.len(), limits::LOG_FILTER_TOPICS_MAX)?;
    }
    Ok(())
}

fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), PayloadError> {
    if count > max {
        let error = LayoutError::OutOfRange { field, value: count as u64, min: 0, max: max as u64 };
        return Err(error.into());
    }
    Ok(())
}

impl Payload for message::FollowRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        self.encode_raw(out);
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        use message::follow_request::{From, What};
        let request =
            <Self as Message>::decode(bytes).map_err(|error| PayloadError::Protobuf(error.to_string()))?;
        match &request.what {
            Some(What::Logs(filter)) => check_filter(Some(filter))?,
            Some(What::Receipts(filter)) => {
                at_most("senders", filter.senders.len(), limits::FOLLOW_SENDERS_MAX)?;
            }
            None => {}
        }
        if let Some(From::Resume(positions)) = &request.from {
            at_most("positions", positions.told.len(), limits::FOLLOW_POSITIONS_MAX)?;
        }
        Ok(request)
    }
}

impl Payload for message::LogsRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        self.encode_raw(out);
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let request =
            <Self as Message>::decode(bytes).map_err(|error| PayloadError::Protobuf(error.to_string()))?;
        check_filter(request.filter.as_ref())?;
        Ok(request)
    }
}

protobuf_payloads!(
    message::SimulateAnswer {
        8: Each "logs", max limits::RPC_ROWS_MAX;
    }
    message::EstimateAnswer {}
    message::ReceiptRequest {}
    message::ReceiptAnswer {}
    message::LogsAnswer {
        1: Each "rows", max limits::RPC_ROWS_MAX;
    }
    message::FollowEvent {
        7: Each "logs", max limits::RPC_ROWS_MAX;
        8: Each "receipts", max limits::RPC_ROWS_MAX;
    }
    message::CodeRequest {}
    message::CodeAnswer {}
    message::StorageRequest {
        2: Each "slots", max limits::STORAGE_SLOTS_MAX;
    }
    message::StorageAnswer {
        3: Each "words", max limits::STORAGE_SLOTS_MAX;
    }
);

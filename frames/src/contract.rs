//! Calls of contracts and what they left behind. The layouts of calls and their answers are those of
//! [`ghost_proto::call`]; all else is protobuf (`proto/schema/contract.proto`).

use bytes::Bytes;
use ghost_proto::{call, limits, message};
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
    let counts = [
        ("addresses", filter.addresses.len(), limits::LOG_FILTER_ADDRESSES_MAX),
        ("topics", filter.topics.len(), limits::LOG_TOPICS_MAX),
    ];
    let choices = filter.topics.iter();
    let choices = choices.map(|choice| ("topic choices", choice.any_of.len(), limits::LOG_FILTER_TOPICS_MAX));
    for (field, count, max) in counts.into_iter().chain(choices) {
        if count > max {
            return Err(ghost_proto::layout::LayoutError::OutOfRange {
                field,
                value: count as u64,
                min: 0,
                max: max as u64,
            }
            .into());
        }
    }
    Ok(())
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
    message::CodeRequest {}
    message::CodeAnswer {}
    message::StorageRequest {
        2: Each "slots", max limits::STORAGE_SLOTS_MAX;
    }
    message::StorageAnswer {
        3: Each "words", max limits::STORAGE_SLOTS_MAX;
    }
);

//! Control frames: hello and liveness.
//!
//! ```text
//! Hello      0x00  protobuf `Hello`
//! Ping       0x01  8 bytes, any
//! Pong       0x02  the 8 bytes of a ping
//! ```

use bytes::Bytes;
use ghost_proto::{layout::Cursor, limits, message};
use prost::Message;

use crate::writer::{Payload, PayloadError};

/// Answer me with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping(pub u64);

/// The number of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong(pub u64);

fn decode_number(bytes: Bytes) -> Result<u64, PayloadError> {
    let mut cursor = Cursor::new(bytes);
    let number = cursor.u64("number")?;
    cursor.finish()?;
    Ok(number)
}

impl Payload for Ping {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        decode_number(bytes).map(Self)
    }
}

impl Payload for Pong {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        decode_number(bytes).map(Self)
    }
}

/// Payloads that are protobuf messages, each with the most items its repeated fields may hold.
macro_rules! protobuf_payloads {
    ($($message:ty { $($field:literal: $items:ident $name:literal, max $max:expr;)* })*) => {
        $(impl Payload for $message {
            fn encode(&self, out: &mut Vec<u8>) {
                out.reserve(self.encoded_len());
                self.encode_raw(out);
            }
            fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
                $crate::bounds::check_repeated(
                    &bytes,
                    &[$($crate::bounds::Repeated {
                        field: $field,
                        items: $crate::bounds::Items::$items,
                        name: $name,
                        max: $max,
                    }),*],
                )?;
                <$message as Message>::decode(bytes).map_err(|error| PayloadError::Protobuf(error.to_string()))
            }
        })*
    };
}
pub(crate) use protobuf_payloads;

protobuf_payloads!(message::Hello {
    2: Packed "versions", max limits::HELLO_VERSIONS_MAX;
    3: Packed "stream types", max limits::HELLO_STREAM_TYPES_MAX;
    11: Packed "required features", max limits::HELLO_REQUIRED_MAX;
});

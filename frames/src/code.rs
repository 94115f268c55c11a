//! Why a connection was closed or a stream reset: one table, with the consequence of each.

/// What the side that receives a code should do about the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing; dialling again at once is fine.
    Nothing,
    /// Dial again after a pause, with exponential back-off.
    BackOff,
    /// Do not dial this address for this chain again.
    Forget,
    /// The sender of the code blames the receiver and will refuse it for a while.
    Ban,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $consequence:ident;)*) => {
        /// Application error codes of QUIC CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub const fn number(self) -> u64 {
                match self { $(Self::$name => $number,)* }
            }

            /// The code with this number. Unknown numbers mean what [`Code::Internal`] means.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The name in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What its receiver does.
            pub const fn consequence(self) -> Consequence {
                match self { $(Self::$name => Consequence::$consequence,)* }
            }
        }
    };
}

codes! {
    /// Done; nothing is wrong.
    Done = 0x00, "done", Nothing;
    /// The node is shutting down.
    ShuttingDown = 0x01, "shutting_down", BackOff;
    /// Another connection to the same peer is kept.
    Duplicate = 0x02, "duplicate", Nothing;
    /// The dialler reached itself.
    SelfDial = 0x03, "self_dial", Forget;
    /// The two sides are of different chains. No offence.
    WrongGenesis = 0x04, "wrong_genesis", Forget;
    /// No protocol version in common. No offence.
    NoCommonVersion = 0x05, "no_common_version", BackOff;
    /// Every slot for such peers is taken.
    Full = 0x06, "full", BackOff;
    /// The node does not want this peer: banned or not on its list.
    Refused = 0x07, "refused", Ban;
    /// Nothing was heard for too long, or hello did not come in time.
    Timeout = 0x08, "timeout", BackOff;
    /// The operator dropped the connection.
    Dropped = 0x09, "dropped", BackOff;
    /// A fault of the side that sends the code.
    Internal = 0x0a, "internal", BackOff;
    /// The other side broke the protocol: frames before hello, a second hello, a frame on the wrong
    /// stream.
    ProtocolViolation = 0x10, "protocol_violation", Ban;
    /// A frame longer than its kind allows.
    FrameTooLarge = 0x11, "frame_too_large", Ban;
    /// A payload that does not decode.
    Malformed = 0x12, "malformed", Ban;
    /// A frame of an unknown kind that may not be skipped.
    UnknownKind = 0x13, "unknown_kind", Nothing;
    /// Stream type not served. Only resets.
    UnknownStream = 0x14, "unknown_stream", Nothing;
    /// A frame was left half-sent for too long. Only resets.
    Stalled = 0x15, "stalled", BackOff;
    /// Too many requests at once; ask again later. Only resets.
    Busy = 0x16, "busy", BackOff;
    /// The asker no longer wants the answer. Only resets.
    Cancelled = 0x17, "cancelled", Nothing;
    /// A stream was opened that hello requires to come later, or 0-RTT data that is not safe to
    /// repeat. Only resets.
    TooEarly = 0x18, "too_early", BackOff;
    /// The other side did not drain what it asked for; on the control stream, what it was sent.
    TooSlow = 0x19, "too_slow", BackOff;
    /// Invalid transactions, blocks, votes or records, knowingly sent.
    InvalidData = 0x20, "invalid_data", Ban;
    /// Limits were ignored again and again.
    Flooding = 0x21, "flooding", Ban;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_map_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
        }
    }
}

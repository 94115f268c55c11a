//! Stream types: the varint that each stream starts with.

/// Whether a stream carries frames one way or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Unidirectional and long-lived: its opener pushes.
    Push,
    /// Bidirectional, one per request: its opener asks, the other side answers and ends it.
    Request,
}

macro_rules! stream_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $direction:ident;)*) => {
        /// What a stream is for. Both sides reset a stream whose type they do not serve with
        /// [`crate::Code::UnknownStream`]; that is no offence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum StreamType {
            $($(#[$doc])* $name,)*
        }

        impl StreamType {
            /// Every type there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub const fn number(self) -> u64 {
                match self { $(Self::$name => $number,)* }
            }

            /// The type with this number.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The name in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Which way its frames go.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction,)* }
            }
        }
    };
}

stream_types! {
    /// Hello first, then liveness. One from each side for as long as the connection lives.
    Control = 0x00, "control", Push;
    /// New blocks.
    BlockPush = 0x01, "block_push", Push;
    /// Blocks by id.
    BlockFetch = 0x02, "block_fetch", Request;
    /// Announced and pushed transactions.
    TxPush = 0x03, "tx_push", Push;
    /// Transactions by short id.
    TxFetch = 0x04, "tx_fetch", Request;
    /// Headers, bodies and certificates for a node that is behind.
    Sync = 0x05, "sync", Request;
    /// Votes and certificates.
    Consensus = 0x06, "consensus", Push;
    /// Peer records.
    Discovery = 0x07, "discovery", Request;
    /// Remote calls.
    Rpc = 0x08, "rpc", Request;
    /// Subscriptions to what happens on the chain.
    Events = 0x09, "events", Request;
    /// In which transactions two mempools differ.
    TxSync = 0x0a, "tx_sync", Request;
    /// Reports of prices, and evidence against publishers.
    Oracle = 0x0b, "oracle", Push;
    /// Subscriptions to prices.
    Prices = 0x0c, "prices", Request;
    /// Subscriptions to order books.
    Books = 0x0d, "books", Request;
    /// Mailboxes of wallets, and where wallets have theirs.
    Wallet = 0x0e, "wallet", Request;
    /// Shards of large blocks: their plans, and who has which.
    ShardPush = 0x10, "shard_push", Push;
    /// Meeting a peer through one that both know.
    Meet = 0x11, "meet", Request;
    /// Packets that are passed on between two others.
    Circuit = 0x12, "circuit", Push;
}

/// First of the stream types that are never assigned: peers open such streams now and then, so that
/// nobody hard-codes the list.
pub const GREASE_STREAM_FIRST: u64 = 0x3f00;
/// Last of the stream types that are never assigned.
pub const GREASE_STREAM_LAST: u64 = 0x3fff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_map_back() {
        for stream in StreamType::ALL {
            assert_eq!(StreamType::from_number(stream.number()), Some(*stream));
            assert!(stream.number() < 64, "peer records list types below 64 as bits");
        }
        assert_eq!(StreamType::from_number(GREASE_STREAM_FIRST), None);
    }
}

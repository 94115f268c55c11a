//! Every frame there is.
//!
//! The registry below is the only list: number, name, limit, streams. Each payload type lives with
//! its family ([`crate::control`], [`crate::tx`], …) and knows its own layout.

use bytes::Bytes;
use ghost_proto::{limits, message};

use crate::{
    block, compact, consensus, contract, control, discovery, feed,
    kind::{Kind, KindInfo},
    meet, price,
    reader::DecodeError,
    reconcile, shards,
    stream::StreamType,
    sync, tx, wallet,
    writer::{EncodedFrame, Payload},
};

macro_rules! frames {
    ($($(#[$doc:meta])* $name:ident($payload:ty) = $number:literal, max $max:expr, on [$($stream:ident $(<= $tighter:expr)?),*];)*) => {
        /// A decoded frame.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Frame {
            $($(#[$doc])* $name($payload),)*
        }

        /// The registry, in ascending order of kind.
        pub const REGISTRY: &[KindInfo] = &[
            $(KindInfo {
                kind: Kind($number),
                name: stringify!($name),
                payload_max: $max,
                streams: &[$(StreamType::$stream),*],
                tighter: &[$($((StreamType::$stream, $tighter),)?)*],
            },)*
        ];

        impl Frame {
            /// Decodes a payload of a known kind. The caller has checked its length.
            pub fn decode(kind: Kind, payload: Bytes) -> Result<Self, DecodeError> {
                match kind.0 {
                    $($number => <$payload as Payload>::decode(payload)
                        .map(Self::$name)
                        .map_err(|error| DecodeError::Malformed { kind: stringify!($name), error }),)*
                    _ => Err(DecodeError::UnknownKind(kind)),
                }
            }

            /// The registry's entry for this frame.
            pub fn info(&self) -> &'static KindInfo {
                let number = match self { $(Self::$name(_) => $number,)* };
                info(Kind(number)).expect("every frame is registered")
            }

            /// Encodes it, ready to be sent to any number of peers.
            pub fn encode(&self) -> EncodedFrame {
                match self { $(Self::$name(payload) => payload.to_frame(),)* }
            }
        }

        $(
            impl From<$payload> for Frame {
                fn from(payload: $payload) -> Self {
                    Self::$name(payload)
                }
            }

            impl crate::writer::Registered for $payload {
                const KIND: Kind = Kind($number);
                const PAYLOAD_MAX: usize = $max;
            }
        )*
    };
}

/// What the registry says of a kind, or `None` if it is not assigned.
pub fn info(kind: Kind) -> Option<&'static KindInfo> {
    REGISTRY.binary_search_by_key(&kind, |info| info.kind).ok().map(|index| &REGISTRY[index])
}

const KIB: usize = 1024;

frames! {
    /// Who I am; first on the control stream, once.
    Hello(message::Hello) = 0x00, max 8 * KIB, on [Control];
    /// Answer me with the same number.
    Ping(control::Ping) = 0x01, max 8, on [Control];
    /// The number of a ping.
    Pong(control::Pong) = 0x02, max 8, on [Control];

    /// Transactions I have, by short id.
    TxAnnounce(tx::TxAnnounce) = 0x10, max limits::ANNOUNCE_ENTRIES_MAX * tx::ANNOUNCE_ENTRY_LEN, on [TxPush, TxSync];
    /// Send me these.
    TxRequest(tx::TxRequest) = 0x11, max limits::TX_REQUEST_IDS_MAX * tx::SHORT_ID_LEN, on [TxFetch];
    /// Transactions, pushed or asked for.
    Transactions(tx::Transactions) = 0x12, max limits::TX_BATCH_BYTES_MAX, on [TxPush, TxFetch];
    /// Send me coded symbols of your mempool.
    SymbolsRequest(reconcile::SymbolsRequest) = 0x13, max 20, on [TxSync];
    /// Coded symbols.
    Symbols(reconcile::Symbols) = 0x14, max reconcile::SYMBOLS_BYTES_MAX, on [TxSync];
    /// Send me all sketch ids of your mempool.
    InventoryRequest(reconcile::InventoryRequest) = 0x15, max 8, on [TxSync];
    /// Sketch ids.
    Inventory(reconcile::Inventory) = 0x16, max limits::SKETCH_IDS_MAX * reconcile::SKETCH_ID_LEN, on [TxSync];
    /// Announce these to me: I lack them.
    MissingRequest(reconcile::MissingRequest) = 0x17,
        max 9 + limits::SKETCH_IDS_MAX * reconcile::SKETCH_ID_LEN, on [TxSync];
    /// A transaction on its stem.
    StemTransaction(tx::StemTransaction) = 0x18, max limits::TX_BYTES_MAX, on [TxPush];

    /// A block I have, by its header.
    BlockAnnounce(block::BlockAnnounce) = 0x20, max ghost_proto::block::HEADER_LEN, on [BlockPush];
    /// Send me these blocks.
    BlocksRequest(block::BlocksRequest) = 0x21, max limits::BODIES_PER_REQUEST_MAX * 32, on [BlockFetch, Sync];
    /// One block, whole.
    WholeBlock(block::WholeBlock) = 0x22,
        max ghost_proto::block::HEADER_LEN + limits::BLOCK_BODY_BYTES_MAX,
        on [BlockFetch, Sync, BlockPush <= limits::WHOLE_PUSH_BYTES_MAX];
    /// A block by the short ids of its transactions.
    CompactBlock(compact::CompactBlock) = 0x23,
        max ghost_proto::block::HEADER_LEN + 12 + limits::COMPACT_PREFILL_BYTES_MAX
            + limits::BLOCK_TXS_MAX * compact::COMPACT_ID_LEN,
        on [BlockPush, BlockFetch];
    /// Send me this block by short ids.
    CompactRequest(compact::CompactRequest) = 0x24, max 32, on [BlockFetch];
    /// Send me these transactions of a block.
    BlockTransactionsRequest(compact::BlockTransactionsRequest) = 0x25, max 36 + limits::BLOCK_TXS_MAX, on [BlockFetch];
    /// Transactions of a block, by their places.
    BlockTransactions(compact::BlockTransactions) = 0x26, max limits::TX_BATCH_BYTES_MAX, on [BlockFetch];
    /// How I want to hear of new blocks.
    BlockRelayMode(compact::BlockRelayMode) = 0x27, max 1, on [BlockPush];
    /// Into which shards a block was cut, signed by its proposer.
    ShardPlan(shards::ShardPlan) = 0x28, max shards::PLAN_BYTES_MAX, on [ShardPush];
    /// One shard with its proof.
    Shard(shards::Shard) = 0x29, max shards::SHARD_FRAME_BYTES_MAX, on [ShardPush, BlockFetch];
    /// Which shards I have, and whether I want others.
    ShardHave(shards::ShardHave) = 0x2a, max 33 + shards::SHARD_SET_LEN, on [ShardPush];
    /// Send me these shards, or those of them that you have.
    ShardRequest(shards::ShardRequest) = 0x2b, max 32 + shards::SHARD_SET_LEN, on [BlockFetch];
    /// Do not announce to me what pays less.
    FeeFloor(tx::FeeFloor) = 0x2f, max 8, on [TxPush];

    /// What follows the first of these that you know?
    HeadersRequest(sync::HeadersRequest) = 0x30, max 2 + limits::LOCATOR_IDS_MAX * 32, on [Sync];
    /// Headers, ascending and connected.
    Headers(sync::Headers) = 0x31,
        max limits::HEADERS_PER_ANSWER_MAX * ghost_proto::block::HEADER_LEN, on [Sync];
    /// What is your highest final block?
    CertificateRequest(sync::CertificateRequest) = 0x32, max 0, on [Sync];

    /// One authority's vote.
    Vote(consensus::Vote) = 0x40, max ghost_proto::vote::VOTE_LEN, on [Consensus];
    /// Two thirds of the authorities on one link.
    Certificate(consensus::Certificate) = 0x41, max 82 + limits::AUTHORITIES_MAX * 66, on [Consensus, Sync];

    /// Whom do you know?
    PeersRequest(discovery::PeersRequest) = 0x50, max 2, on [Discovery];
    /// Signed peer records.
    Peers(discovery::Peers) = 0x51, max limits::PEERS_PER_ANSWER_MAX * (limits::RECORD_BYTES_MAX + 2), on [Discovery];
    /// Dial me back at the address you see me at.
    DialBackRequest(discovery::DialBackRequest) = 0x52, max 0, on [Discovery];
    /// What came of it.
    DialBackAnswer(discovery::DialBackAnswer) = 0x53, max 3 + limits::MULTIADDR_BYTES_MAX, on [Discovery];
    /// Whom do you know near this key?
    FindRequest(discovery::FindRequest) = 0x54, max 33, on [Discovery];
    /// These, and the value there.
    FindAnswer(discovery::FindAnswer) = 0x55,
        max 2 + limits::VALUE_BYTES_MAX + limits::CLOSER_PER_ANSWER_MAX * (limits::RECORD_BYTES_MAX + 2),
        on [Discovery];
    /// Keep this value for whoever asks.
    StoreRequest(discovery::StoreRequest) = 0x56, max limits::VALUE_BYTES_MAX, on [Discovery];
    /// What became of it.
    StoreAnswer(discovery::StoreAnswer) = 0x57, max 1, on [Discovery];
    /// Bring me together with this peer.
    MeetRequest(meet::MeetRequest) = 0x58, max 33, on [Meet];
    /// Somebody wants to meet you.
    MeetOffer(meet::MeetOffer) = 0x59, max 43 + limits::MULTIADDR_BYTES_MAX, on [Meet];
    /// What came of it.
    MeetAnswer(meet::MeetAnswer) = 0x5a, max 11 + limits::MULTIADDR_BYTES_MAX, on [Meet];
    /// A packet on its way through a common peer.
    CircuitPacket(meet::CircuitPacket) = 0x5b, max 8 + limits::CIRCUIT_PACKET_BYTES_MAX, on [Circuit];

    /// In place of an answer: why there is none.
    RpcFailure(message::RpcFailure) = 0x60, max 2 * KIB, on [Rpc, Events, Prices, Books];
    /// How are you?
    StatusRequest(message::StatusRequest) = 0x61, max 64, on [Rpc];
    /// How I am.
    Status(message::Status) = 0x62, max 16 * KIB, on [Rpc];
    /// Take these transactions.
    SubmitRequest(message::SubmitRequest) = 0x63, max limits::TX_BATCH_BYTES_MAX + 8 * limits::SUBMIT_TXS_MAX, on [Rpc];
    /// What became of each.
    SubmitAnswer(message::SubmitAnswer) = 0x64, max limits::SUBMIT_TXS_MAX * 512, on [Rpc];
    /// A transaction by id.
    TransactionRequest(message::TransactionRequest) = 0x65, max 64, on [Rpc];
    /// The transaction and where it stands.
    TransactionAnswer(message::TransactionAnswer) = 0x66, max limits::TX_BYTES_MAX + limits::RECEIPT_BYTES_MAX + KIB, on [Rpc];
    /// A block by height or id.
    BlockRequest(message::BlockRequest) = 0x67, max 64, on [Rpc];
    /// The block, in the detail asked for.
    BlockAnswer(message::BlockAnswer) = 0x68, max limits::BLOCK_BODY_BYTES_MAX + KIB, on [Rpc];
    /// An account by address.
    AccountRequest(message::AccountRequest) = 0x69, max 64, on [Rpc];
    /// The account at the head.
    AccountAnswer(message::AccountAnswer) = 0x6a, max 256, on [Rpc];
    /// What waits to be included?
    PendingRequest(message::PendingRequest) = 0x6b, max 16, on [Rpc];
    /// What waits, best price first.
    PendingAnswer(message::PendingAnswer) = 0x6c, max 64 + limits::RPC_ROWS_MAX * 128, on [Rpc];
    /// Whom are you connected to?
    PeersListRequest(message::PeersRequest) = 0x6d, max 64, on [Rpc];
    /// Connected peers.
    PeersList(message::PeersAnswer) = 0x6e, max limits::RPC_ROWS_MAX * 512, on [Rpc];
    /// Add, drop, ban, unban, explain.
    PeerCommand(message::PeerCommand) = 0x6f, max 512, on [Rpc];
    /// What became of the command.
    PeerCommandAnswer(message::PeerCommandAnswer) = 0x70, max 64 * KIB, on [Rpc];

    /// Run this call and change nothing.
    CallRequest(contract::CallRequest) = 0x71, max ghost_proto::call::CALL_BYTES_MAX, on [Rpc];
    /// What it returned, and the state it ran on.
    CallAnswer(contract::CallAnswer) = 0x72, max ghost_proto::call::CALL_ANSWER_BYTES_MAX, on [Rpc];
    /// The same, with all that it would do.
    SimulateRequest(contract::SimulateRequest) = 0x73, max ghost_proto::call::CALL_BYTES_MAX, on [Rpc];
    /// What it would log and make.
    SimulateAnswer(message::SimulateAnswer) = 0x74, max limits::CALL_OUTPUT_BYTES_MAX + limits::LOG_ROWS_BYTES_MAX + limits::RPC_ROWS_MAX * 64 + KIB, on [Rpc];
    /// How much gas does it need?
    EstimateRequest(contract::EstimateRequest) = 0x75, max ghost_proto::call::CALL_BYTES_MAX, on [Rpc];
    /// So much.
    EstimateAnswer(message::EstimateAnswer) = 0x76, max limits::CALL_OUTPUT_BYTES_MAX + KIB, on [Rpc];
    /// What became of a transaction?
    ReceiptRequest(message::ReceiptRequest) = 0x77, max 64, on [Rpc];
    /// Its receipt and place.
    ReceiptAnswer(message::ReceiptAnswer) = 0x78, max limits::RECEIPT_BYTES_MAX + KIB, on [Rpc];
    /// Which logs match?
    LogsRequest(message::LogsRequest) = 0x79, max 16 * KIB, on [Rpc];
    /// These, and where to go on.
    LogsAnswer(message::LogsAnswer) = 0x7a, max limits::LOG_ROWS_BYTES_MAX + limits::RPC_ROWS_MAX * 128 + KIB, on [Rpc];
    /// What is the code of this contract?
    CodeRequest(message::CodeRequest) = 0x7b, max 64, on [Rpc];
    /// The code and its engine.
    CodeAnswer(message::CodeAnswer) = 0x7c, max limits::TX_BYTES_MAX + KIB, on [Rpc];
    /// What stands in its storage?
    StorageRequest(message::StorageRequest) = 0x7d, max limits::STORAGE_SLOTS_MAX * 34 + 64, on [Rpc];
    /// The words asked for.
    StorageAnswer(message::StorageAnswer) = 0x7e, max limits::STORAGE_SLOTS_MAX * 34 + 128, on [Rpc];

    /// Tell me of every new head.
    HeadsRequest(message::HeadsRequest) = 0x80, max 64, on [Events];
    /// The head is this now.
    HeadEvent(message::HeadEvent) = 0x81, max 512, on [Events];
    /// Tell me of logs or receipts, block by block.
    FollowRequest(message::FollowRequest) = 0x82, max 24 * KIB, on [Events];
    /// What stands in the blocks up to here.
    FollowEvent(message::FollowEvent) = 0x83, max limits::LOG_ROWS_BYTES_MAX + limits::RPC_ROWS_MAX * 160 + KIB, on [Events];

    /// A publisher's report of a price.
    PriceReport(price::PriceReport) = 0x90, max ghost_proto::price::REPORT_LEN, on [Oracle];
    /// A publisher signed two prices for one sequence.
    PriceEvidence(price::PriceEvidence) = 0x91, max ghost_proto::price::EQUIVOCATION_LEN, on [Oracle];
    /// Which prices are there?
    PricesRequest(message::PricesRequest) = 0x92, max 4 * KIB, on [Rpc];
    /// These, each with its proof.
    PricesAnswer(message::PricesAnswer) = 0x93, max 64 + limits::PRICE_FEEDS_MAX * (ghost_proto::price::QUOTE_BYTES_MAX + 512), on [Rpc];
    /// Prove the committed price of a feed.
    PriceProofRequest(message::PriceProofRequest) = 0x94, max 64, on [Rpc];
    /// From the receipt to a final block.
    PriceProof(message::PriceProof) = 0x95,
        max limits::HEADERS_PER_ANSWER_MAX * (ghost_proto::block::HEADER_LEN + 3) + limits::RECEIPT_BYTES_MAX + 16 * KIB, on [Rpc];
    /// Take these reports.
    PublishRequest(message::PublishRequest) = 0x96,
        max limits::PRICE_PUBLISH_REPORTS_MAX * (ghost_proto::price::REPORT_LEN + 2), on [Rpc];
    /// What became of each.
    PublishAnswer(message::PublishAnswer) = 0x97, max limits::PRICE_PUBLISH_REPORTS_MAX * 256, on [Rpc];
    /// Send me the newest prices at a fixed rate, in datagrams.
    PriceTicksRequest(message::PriceTicksRequest) = 0x98, max 4 * KIB, on [Prices];
    /// They come.
    PriceTicksAnswer(message::PriceTicksAnswer) = 0x99, max 512, on [Prices];
    /// Send me every report of a feed.
    PriceFollowRequest(message::PriceFollowRequest) = 0x9a, max 128, on [Prices];

    /// A snapshot comes next, and why.
    FeedNotice(feed::FeedNotice) = 0xa0, max 9, on [Prices, Books];
    /// A part of all that stands at a position of a feed.
    FeedSnapshot(feed::FeedSnapshot) = 0xa1, max feed::HEAD_BYTES_MAX + limits::FEED_FRAME_BYTES_MAX, on [Prices, Books];
    /// The entries that follow a position.
    FeedEntries(feed::FeedEntries) = 0xa2, max feed::HEAD_BYTES_MAX + limits::FEED_FRAME_BYTES_MAX, on [Prices, Books];
    /// What changed in a view of a feed between two positions.
    FeedStep(feed::FeedStep) = 0xa3, max feed::HEAD_BYTES_MAX + limits::FEED_FRAME_BYTES_MAX, on [Prices, Books];
    /// Nothing new; so old is the newest.
    FeedIdle(feed::FeedIdle) = 0xa4, max feed::HEAD_BYTES_MAX, on [Prices, Books];
    /// Let me follow this market.
    BookRequest(message::BookRequest) = 0xa8, max 256, on [Books];
    /// Which markets are there?
    MarketsRequest(message::MarketsRequest) = 0xa9, max 64, on [Rpc];
    /// These.
    MarketsAnswer(message::MarketsAnswer) = 0xaa, max 256 + limits::MARKETS_MAX * 512, on [Rpc];
    /// How much of each asset does an account have?
    BalancesRequest(message::BalancesRequest) = 0xab, max 64, on [Rpc];
    /// So much.
    BalancesAnswer(message::BalancesAnswer) = 0xac, max 256 + limits::ASSETS_MAX * 128, on [Rpc];

    /// Keep this presence record of mine.
    PresencePublish(wallet::PresencePublish) = 0xb0, max limits::PRESENCE_BYTES_MAX, on [Wallet];
    /// What do you know about this wallet?
    PresenceRequest(wallet::PresenceRequest) = 0xb1, max 33, on [Wallet];
    /// This, or nothing.
    PresenceAnswer(wallet::PresenceAnswer) = 0xb2, max limits::PRESENCE_BYTES_MAX, on [Wallet];
    /// Keep a box for me.
    MailboxOpen(wallet::MailboxOpen) = 0xb3, max 13, on [Wallet];
    /// What became of it.
    MailboxAnswer(wallet::MailboxAnswer) = 0xb4, max 9, on [Wallet];
    /// Whoever shows one of these may bring me envelopes.
    MailboxGrant(wallet::MailboxGrant) = 0xb5, max 1 + limits::GRANTS_PER_FRAME_MAX * wallet::GRANT_LEN, on [Wallet];
    /// Keep this envelope for the owner of a box.
    MailboxDeposit(wallet::MailboxDeposit) = 0xb6, max wallet::DEPOSIT_BYTES_MAX, on [Wallet];
    /// Send me what is in my box.
    MailboxCollect(wallet::MailboxCollect) = 0xb7, max 8, on [Wallet];
    /// An envelope of your box.
    MailboxDelivery(wallet::MailboxDelivery) = 0xb8, max 16 + limits::ENVELOPE_BYTES_MAX, on [Wallet];
    /// Forget what I have.
    MailboxAcknowledge(wallet::MailboxAcknowledge) = 0xb9, max 8, on [Wallet];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::SKIPPABLE_FIRST;

    #[test]
    fn the_registry_ascends_within_its_range() {
        assert!(REGISTRY.is_sorted_by(|a, b| a.kind < b.kind));
        for info in REGISTRY {
            assert!(info.kind < SKIPPABLE_FIRST, "{} is required", info.name);
            assert!(!info.streams.is_empty());
        }
    }
}

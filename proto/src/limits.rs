//! Every bound of the protocol, in one place, with `const` assertions between them.
//!
//! A bound is here if both sides of a connection must agree on it, or if it decides how much memory
//! a peer can make us use. Local preferences (how many peers, how large a mempool) are configuration.

/// Largest signed transaction, in bytes: contract code of 96 KiB and its frame fit.
pub const TX_BYTES_MAX: usize = 128 * 1024;

/// Smallest signed transaction, in bytes: a deployment of one byte of code; see [`crate::tx`].
/// 66 before the action, 1 + 16 + 2 + 1 for it, 64 of signature.
pub const TX_BYTES_MIN: usize = 150;

/// Most bytes of a transaction's output that its receipt keeps; what is beyond is cut off.
pub const RECEIPT_OUTPUT_BYTES_MAX: usize = 1024;

/// Largest encoded receipt, in bytes: about 1,700 token transfers of 151 bytes each. A transaction
/// that logs more is undone.
pub const RECEIPT_BYTES_MAX: usize = 256 * 1024;

/// Most topics of a log entry, as in the EVM.
pub const LOG_TOPICS_MAX: usize = 4;

/// Bytes of a log entry without topics and data: address, topic count, length of the data.
pub const LOG_BYTES_MIN: usize = 20 + 1 + 1;

/// Largest block body, in bytes. A chain's genesis may set less, never more.
pub const BLOCK_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most transactions in one block: the body cap over the smallest transaction with its length.
pub const BLOCK_TXS_MAX: usize = BLOCK_BODY_BYTES_MAX / (TX_BYTES_MIN + 2);

/// Largest block, header included, that is pushed whole: it leaves within ten datagrams, what RFC 9002 §7.2
/// lets a new connection send (14,720 bytes), and a round trip for asking would cost more than the copy.
/// Larger ones are pushed as short ids. It also bounds what an unasked block can make a reader hold.
pub const WHOLE_PUSH_BYTES_MAX: usize = 14_000;

/// Most bytes of transactions that stand whole in a compact block: with the ids of 10,000 others it still
/// leaves in two flights of our initial window of 64 KiB.
pub const COMPACT_PREFILL_BYTES_MAX: usize = 64 * 1024;

/// Shortest payload that is cut into shards: what fits beside a compact block needs none.
pub const SHARDED_BYTES_MIN: usize = COMPACT_PREFILL_BYTES_MAX;

/// Most shards that together are the payload, and most with those that repair it: 512 of 64 KiB are the largest body,
/// and any 512 of all 768 give it back.
pub const SHARDS_DATA_MAX: usize = 512;
/// See [`SHARDS_DATA_MAX`].
pub const SHARDS_MAX: usize = SHARDS_DATA_MAX + SHARDS_DATA_MAX / 2;

/// Fewest shards that together are the payload: fewer would make each hop wait for too much of it.
pub const SHARDS_DATA_MIN: usize = 16;

/// Longest shard, in bytes.
pub const SHARD_BYTES_MAX: usize = BLOCK_BODY_BYTES_MAX / SHARDS_DATA_MAX;

/// Most hashes between a shard and its root: the tree of 768 leaves is ten levels high.
pub const SHARD_PATH_MAX: usize = 10;

/// Most authorities of a chain. A finality certificate with all of them takes
/// 82 + 128 × 66 = 8,530 bytes.
pub const AUTHORITIES_MAX: usize = 128;

/// Longest name of a chain, in bytes of UTF-8.
pub const CHAIN_NAME_BYTES_MAX: usize = 64;

/// Shortest and longest slot, in milliseconds.
pub const SLOT_MS_MIN: u64 = 100;
/// Longest slot, in milliseconds.
pub const SLOT_MS_MAX: u64 = 60_000;

/// Most addresses in one peer record.
pub const RECORD_ADDRESSES_MAX: usize = 8;

/// Longest binary multiaddr, in bytes; an onion3 address with port and peer id takes 78.
pub const MULTIADDR_BYTES_MAX: usize = 192;

/// Largest encoded peer record, in bytes: 8 addresses of 192 bytes, signature, key and counters.
pub const RECORD_BYTES_MAX: usize = 2048;

/// Most peer records in one answer: 32 × 2,048 = 64 KiB.
pub const PEERS_PER_ANSWER_MAX: usize = 32;

/// Most records in one answer of a lookup: 8 × 2,048 = 16 KiB. Each answer halves the distance about three
/// times; more records would tell more of a routing table to whoever asks.
pub const CLOSER_PER_ANSWER_MAX: usize = 8;

/// Longest label of a signed value, in bytes.
pub const VALUE_LABEL_BYTES_MAX: usize = 32;

/// Longest payload of a signed value, in bytes: three onion addresses with peer ids, and a key to seal to.
pub const VALUE_PAYLOAD_BYTES_MAX: usize = 512;

/// Largest signed value: owner, label, sequence, expiry, payload, signature.
pub const VALUE_BYTES_MAX: usize = 32 + 1 + VALUE_LABEL_BYTES_MAX + 8 + 8 + 2 + VALUE_PAYLOAD_BYTES_MAX + 64;

/// Longest packet that a common peer passes on between two others: an Ethernet path's.
pub const CIRCUIT_PACKET_BYTES_MAX: usize = 1472;

/// Longest user agent, in bytes of printable ASCII.
pub const USER_AGENT_BYTES_MAX: usize = 64;

/// Most stream types that a hello may list.
pub const HELLO_STREAM_TYPES_MAX: usize = 64;

/// Most protocol versions that a hello may list.
pub const HELLO_VERSIONS_MAX: usize = 16;

/// Most features that a hello may require.
pub const HELLO_REQUIRED_MAX: usize = 16;

/// Most block ids in a locator: 10 dense, then doubling steps reach back 2^50 blocks.
pub const LOCATOR_IDS_MAX: usize = 64;

/// Most headers in one answer: 512 × 227 = 116,224 bytes.
pub const HEADERS_PER_ANSWER_MAX: usize = 512;

/// Most blocks asked for in one request.
pub const BODIES_PER_REQUEST_MAX: usize = 128;

/// Most transactions announced in one frame: 512 × 13 = 6,656 bytes.
pub const ANNOUNCE_ENTRIES_MAX: usize = 512;

/// Most transactions asked for in one request.
pub const TX_REQUEST_IDS_MAX: usize = 256;

/// Most coded symbols of one reconciliation session: 131,072 × 16 B = 2 MiB with their decoder, and
/// differences of up to 95,000 transactions. Larger ones are listed.
pub const SYMBOLS_MAX: usize = 128 * 1024;

/// Most coded symbols in one frame: 8 + 4,096 × 12 + 80 × 2 = 49,320 bytes.
pub const SYMBOLS_PER_FRAME_MAX: usize = 4096;

/// Most sketch ids in one frame: 4,096 × 8 = 32 KiB.
pub const SKETCH_IDS_MAX: usize = 4096;

/// Most bytes of transactions in one frame; larger sets are cut into several frames.
pub const TX_BATCH_BYTES_MAX: usize = 256 * 1024;

/// Most transactions in one frame.
pub const TX_BATCH_MAX: usize = 1024;

/// Most transactions one remote call may submit.
pub const SUBMIT_TXS_MAX: usize = TX_BATCH_MAX;

/// Most rows in an answer to a remote call that lists things (peers, pending transactions).
pub const RPC_ROWS_MAX: usize = 1024;

/// Most bytes of input of a remote call: what a transaction could carry.
pub const CALL_INPUT_BYTES_MAX: usize = TX_BYTES_MAX;

/// Most bytes that a remote call may return. A call that returns more has no answer.
pub const CALL_OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Most contracts that a log filter may name: 256 × 22 bytes = 5.5 KiB of a request.
pub const LOG_FILTER_ADDRESSES_MAX: usize = 256;

/// Most alternatives for one topic of a log filter: 4 × 64 × 34 bytes = 8.5 KiB of a request.
pub const LOG_FILTER_TOPICS_MAX: usize = 64;

/// Most words of storage one remote call may ask for.
pub const STORAGE_SLOTS_MAX: usize = 256;

/// Most bytes of log entries in one answer or event, as they stand in receipts. One entry always
/// fits, since a whole receipt does.
pub const LOG_ROWS_BYTES_MAX: usize = 512 * 1024;

/// Most senders whose receipts one subscription may follow.
pub const FOLLOW_SENDERS_MAX: usize = 64;

/// Most positions that a subscriber may name to resume from: 64 × 47 bytes = 3 KiB of a request.
pub const FOLLOW_POSITIONS_MAX: usize = 64;

/// Most mailboxes that a presence record may name: two may be gone.
pub const WALLET_MAILBOXES_MAX: usize = 3;

/// Largest presence record, in bytes: 1,266 of keys and counters, 3 × (33 + 2 + 192) of mailboxes, 64 of signature.
pub const PRESENCE_BYTES_MAX: usize = 2011;

/// Largest sealed envelope between wallets, in bytes: the largest of the size classes.
pub const ENVELOPE_BYTES_MAX: usize = 32 * 1024;

/// Most grants in one frame: 64 × 32 bytes = 2 KiB.
pub const GRANTS_PER_FRAME_MAX: usize = 64;
/// Most price feeds of a chain: with [`PUBLISHERS_MAX`] fresh reports of each, 64 × 1,103 = 70,592 bytes of a block.
pub const PRICE_FEEDS_MAX: usize = 64;

/// Longest name of a feed, in bytes of ASCII: one word of a contract.
pub const PRICE_FEED_NAME_BYTES_MAX: usize = 32;

/// Most publishers of a feed: 11 reports of 100 bytes prove a price within one datagram of 1,200 bytes.
pub const PUBLISHERS_MAX: usize = 11;

/// Largest power of ten, or of a tenth, that a feed's unit may be: an `i64` has 18 whole digits.
pub const PRICE_FEED_EXPONENT_MAX: u8 = 18;

/// Longest age of a price that may still count, in milliseconds: a day.
pub const PRICE_FEED_MAX_AGE_MS_MAX: u64 = 86_400_000;

/// A price that claims to be seen later than so many milliseconds from now is not taken: clocks that NTP
/// keeps differ by tens of milliseconds, and what is dated ahead would stay fresh for longer.
pub const PRICE_AHEAD_MS_MAX: u64 = 1_000;

/// Most reports that one remote call may bring: one of each publisher of several feeds; 6,400 bytes.
pub const PRICE_PUBLISH_REPORTS_MAX: usize = 64;

/// Most proofs of equivocation in one block: 16 × 200 = 3,200 bytes.
pub const PRICE_EVIDENCE_PER_BATCH_MAX: usize = 16;

const _: () = {
    assert!(PUBLISHERS_MAX <= 16, "sets of publishers are 16 bits");
    assert!(crate::price::QUOTE_BYTES_MAX + 37 <= 1162, "a quote and its place fit the least datagram");
    assert!(
        2 + PRICE_FEEDS_MAX * crate::price::QUOTE_BYTES_MAX
            + PRICE_EVIDENCE_PER_BATCH_MAX * crate::price::EQUIVOCATION_LEN
            + TX_BYTES_MIN
            <= TX_BYTES_MAX,
        "one transaction holds the prices of all feeds"
    );
};

/// Largest payload of one feed entry, in bytes: about 1,000 order events of one transaction.
pub const FEED_PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Most entries in one frame of a feed: in memory 1,024 × 32 B beside their bytes.
pub const FEED_ENTRIES_PER_FRAME_MAX: usize = 1024;

/// Most payload bytes in one frame of a feed, lengths included; more is cut into several frames.
pub const FEED_FRAME_BYTES_MAX: usize = 256 * 1024;

/// Longest mark of a feed frame, in bytes: what its application says about the moment, such as block and book hash.
pub const FEED_MARK_BYTES_MAX: usize = 256;

/// Largest snapshot, in bytes, over all of its parts: what one subscription can make its subscriber hold.
/// 65,536 orders of 64 bytes take 4 MiB.
pub const FEED_SNAPSHOT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest name of a feed, in bytes.
pub const FEED_NAME_BYTES_MAX: usize = 32;

/// Most markets of a chain: their rows fill an answer of 64 × 512 B = 32 KiB.
pub const MARKETS_MAX: usize = 64;

/// Most assets of a chain, the native one included.
pub const ASSETS_MAX: usize = 64;

/// Longest symbol of an asset, in bytes of upper-case ASCII.
pub const SYMBOL_BYTES_MAX: usize = 12;

const _: () = {
    assert!(2 * SYMBOL_BYTES_MAX < FEED_NAME_BYTES_MAX, "a market is named by two symbols and a slash");
    assert!(FEED_PAYLOAD_BYTES_MAX + 4 <= FEED_FRAME_BYTES_MAX, "a frame must hold the largest entry");
    assert!(FEED_FRAME_BYTES_MAX <= FEED_SNAPSHOT_BYTES_MAX);
    assert!(RECEIPT_BYTES_MAX < LOG_ROWS_BYTES_MAX, "an answer must hold the longest entry");
    assert!(TX_BYTES_MIN < TX_BYTES_MAX);
    assert!(SHARDS_MAX <= 1 << SHARD_PATH_MAX, "a path must reach every shard");
    assert!(SHARD_BYTES_MAX.is_multiple_of(2), "shards are coded in units of two bytes");
    assert!(SHARDED_BYTES_MIN >= SHARDS_DATA_MIN * 2);
    assert!(TX_BYTES_MAX < TX_BATCH_BYTES_MAX, "a frame must hold the largest transaction");
    assert!(TX_BYTES_MAX < BLOCK_BODY_BYTES_MAX);
    assert!(RECORD_ADDRESSES_MAX * MULTIADDR_BYTES_MAX + 256 <= RECORD_BYTES_MAX);
    assert!(SLOT_MS_MIN < SLOT_MS_MAX);
    assert!(1266 + WALLET_MAILBOXES_MAX * (33 + 2 + MULTIADDR_BYTES_MAX) + 64 <= PRESENCE_BYTES_MAX);
    assert!(CLOSER_PER_ANSWER_MAX <= PEERS_PER_ANSWER_MAX);
    assert!(VALUE_PAYLOAD_BYTES_MAX < 16_384, "its length takes two bytes");
    assert!(SYMBOLS_PER_FRAME_MAX <= SYMBOLS_MAX);
    assert!(BODIES_PER_REQUEST_MAX <= HEADERS_PER_ANSWER_MAX);
};

//! Bytes that must not be accepted, and what is to be answered.

use ghost_frames::{DecodeError, StreamType, frame};
use ghost_proto::{layout::put_varint, limits};
use serde::{Deserialize, Serialize};

use super::{freeze, grease as framed, read_all, stream_named, unhex};
use crate::samples::World;

/// The stream carries these bytes (after its type) and ends.
#[derive(Debug, Serialize, Deserialize)]
struct RefusedVector {
    name: String,
    stream: String,
    hex: String,
    /// What kind of error.
    error: String,
    /// The code to answer with.
    code: u64,
    meaning: String,
}

fn variant(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::TooLarge { .. } => "TooLarge",
        DecodeError::UnknownKind(_) => "UnknownKind",
        DecodeError::WrongStream { .. } => "WrongStream",
        DecodeError::Malformed { .. } => "Malformed",
        DecodeError::Truncated => "Truncated",
    }
}

fn head(kind: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, kind);
    put_varint(&mut out, length);
    out
}

/// Cases: name, stream, bytes, error, and what is wrong with them.
fn cases(world: &World) -> Vec<(String, StreamType, Vec<u8>, &'static str, &'static str)> {
    use StreamType::{
        BlockFetch, BlockPush, Circuit, Consensus, Control, Discovery, Meet, Rpc, Sync, TxFetch, TxPush,
    };
    let tx = world.transactions[0].bytes();
    let header = world.block.header().bytes();
    let vote = world.vote(3).encode();
    let certificate = world.certificate().encode();
    let edit = |bytes: &[u8], at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        bytes
    };
    let one_tx = |tx: &[u8]| framed(0x12, &framed_bytes(tx));
    let announce = |length: u32| framed(0x10, &[[7; 8].as_slice(), &length.to_be_bytes(), &[0]].concat());
    let min = limits::TX_BYTES_MIN as u32;
    let max = limits::TX_BYTES_MAX as u32;

    let mut cases: Vec<(String, StreamType, Vec<u8>, &'static str, &'static str)> = Vec::new();
    for info in frame::REGISTRY {
        let over = info.payload_max as u64 + 1;
        cases.push((
            format!("{}: one byte over its limit", info.name),
            info.streams[0],
            head(info.kind.0, over),
            "TooLarge",
            "refused at the length, before any payload",
        ));
    }
    let mut case = |name: &str, stream, bytes: Vec<u8>, error, meaning| {
        cases.push((name.into(), stream, bytes, error, meaning));
    };
    case(
        "the largest length there is",
        BlockFetch,
        [vec![0x22], vec![0xff; 8]].concat(),
        "TooLarge",
        "length 2^62 - 1",
    );
    case(
        "a skipped frame over its limit",
        Control,
        head(0x3f00, 65_537),
        "TooLarge",
        "skipped frames may have 65,536 bytes",
    );
    case("an unassigned required kind", Control, framed(0x03, b""), "UnknownKind", "may not be skipped");
    case("the last required kind", Rpc, framed(0x1fff, b""), "UnknownKind", "may not be skipped");
    case("beyond the last kind", Rpc, framed(0x4000, b""), "UnknownKind", "not a kind");
    case("a ping on an rpc stream", Rpc, framed(0x01, &[0; 8]), "WrongStream", "ping belongs on control");
    case(
        "an answer on a push stream",
        TxPush,
        framed(0x11, &[0; 8]),
        "WrongStream",
        "requests belong on tx_fetch",
    );
    case("the end inside a kind", Control, vec![0x7f], "Truncated", "the first byte of a two-byte varint");
    case("the end before the length", Control, vec![0x01], "Truncated", "kind only");
    case("the end inside a payload", Control, vec![0x01, 8, 0, 0, 0], "Truncated", "three of eight bytes");
    case(
        "the end inside a skipped payload",
        Control,
        vec![0x60, 0x00, 2, 0],
        "Truncated",
        "one of two bytes",
    );
    case("a short ping", Control, framed(0x01, &[0; 7]), "Malformed", "seven bytes");
    case("an empty ping", Control, framed(0x01, b""), "Malformed", "no bytes");
    case("hello: field number zero", Control, framed(0x00, &[0x00]), "Malformed", "not protobuf");
    case(
        "hello: ends inside a field",
        Control,
        framed(0x00, &[0x0a, 32, 1]),
        "Malformed",
        "one of 32 bytes of the genesis",
    );
    case(
        "hello: 17 versions",
        Control,
        framed(0x00, &[[0x12, 17].as_slice(), &[1; 17]].concat()),
        "Malformed",
        "at most 16",
    );
    case(
        "hello: 65 stream types",
        Control,
        framed(0x00, &[[0x1a, 65].as_slice(), &[1; 65]].concat()),
        "Malformed",
        "at most 64",
    );
    case(
        "hello: user agent is not UTF-8",
        Control,
        framed(0x00, &[0x22, 1, 0xff]),
        "Malformed",
        "a string field holds UTF-8",
    );
    case(
        "submit: 1,025 transactions",
        Rpc,
        framed(0x63, &[0x0a, 0].repeat(1_025)),
        "Malformed",
        "at most 1,024",
    );
    case("announcement: empty", TxPush, framed(0x10, b""), "Malformed", "at least one entry");
    case("announcement: 14 bytes", TxPush, framed(0x10, &[0; 14]), "Malformed", "not a multiple of 13");
    case("announcement: too short a transaction", TxPush, announce(min - 1), "Malformed", "smallest is 150");
    case(
        "announcement: too long a transaction",
        TxPush,
        announce(max + 1),
        "Malformed",
        "largest is 131,072",
    );
    case("transaction request: empty", TxFetch, framed(0x11, b""), "Malformed", "at least one id");
    case(
        "transaction request: nine bytes",
        TxFetch,
        framed(0x11, &[0; 9]),
        "Malformed",
        "not a multiple of 8",
    );
    case("transaction: version 2", TxPush, one_tx(&edit(tx, 0, 2)), "Malformed", "version is 1");
    case("transaction: action 4", TxPush, one_tx(&edit(tx, 65, 4)), "Malformed", "no such action");
    case(
        "transaction: payload longer than it is",
        TxPush,
        one_tx(&edit(tx, 102, 1)),
        "Malformed",
        "the signature then has 63 bytes",
    );
    case(
        "transaction: one byte follows",
        TxPush,
        one_tx(&[tx, [0].as_slice()].concat()),
        "Malformed",
        "nothing follows the signature",
    );
    case(
        "transaction: length not in its shortest form",
        TxPush,
        framed(0x12, &[[0x80, 0, 0, 167].as_slice(), tx].concat()),
        "Malformed",
        "lengths inside payloads have one form",
    );
    let compact = world.samples().into_iter().find(|sample| sample.name == "a compact block").unwrap();
    let compact = compact.frame.encode().bytes()[3..].to_vec();
    case(
        "block: pushed and longer than what is pushed whole",
        BlockPush,
        head(0x22, limits::WHOLE_PUSH_BYTES_MAX as u64 + 1),
        "TooLarge",
        "longer ones go compact",
    );
    case(
        "compact block: one short id too few",
        BlockPush,
        framed(0x23, &compact[..compact.len() - 6]),
        "Malformed",
        "with the one that stands there whole, the header wants two",
    );
    case(
        "compact block: an index beyond the block",
        BlockPush,
        framed(0x23, &edit(&compact, 236, 3)),
        "Malformed",
        "three transactions are 0 to 2",
    );
    case(
        "block transactions request: an index beyond any block",
        BlockFetch,
        framed(0x25, &[[0; 32].as_slice(), &0x8003_5e50_u32.to_be_bytes()].concat()),
        "Malformed",
        "220,752",
    );
    case(
        "block transactions request: no index",
        BlockFetch,
        framed(0x25, &[0; 32]),
        "Malformed",
        "at least one",
    );
    case("block relay mode: 2", BlockPush, framed(0x27, &[2]), "Malformed", "0 or 1");
    case("block request: empty", BlockFetch, framed(0x21, b""), "Malformed", "at least one id");
    case("block request: 33 bytes", BlockFetch, framed(0x21, &[0; 33]), "Malformed", "not a multiple of 32");
    case(
        "block: body longer than the header says",
        BlockFetch,
        framed(0x22, &[world.block.encode(), vec![0]].concat()),
        "Malformed",
        "the header states the length",
    );
    case("header: version 2", BlockFetch, framed(0x22, &edit(header, 0, 2)), "Malformed", "version is 1");
    case(
        "headers: ends inside a header",
        Sync,
        framed(0x31, &header[..226]),
        "Malformed",
        "226 of 227 bytes",
    );
    case(
        "headers: not connected",
        Sync,
        framed(0x31, &[header.as_ref(), header].concat()),
        "Malformed",
        "the second is not a child of the first",
    );
    case(
        "headers request: limit 0",
        Sync,
        framed(0x30, &[[0, 0].as_slice(), &[1; 32]].concat()),
        "Malformed",
        "1 to 512",
    );
    case(
        "headers request: limit 513",
        Sync,
        framed(0x30, &[[2, 1].as_slice(), &[1; 32]].concat()),
        "Malformed",
        "1 to 512",
    );
    case("headers request: no locator", Sync, framed(0x30, &[0, 1]), "Malformed", "at least one id");
    case(
        "vote: target not above its source",
        Consensus,
        framed(0x40, &edit(&vote, 47, 1)),
        "Malformed",
        "both at height 1",
    );
    case("vote: one byte short", Consensus, framed(0x40, &vote[..145]), "Malformed", "146 bytes");
    case(
        "certificate: indices do not ascend",
        Consensus,
        framed(0x41, &edit(&certificate, 83, 1)),
        "Malformed",
        "1, 1, 3",
    );
    case(
        "certificate: more signatures than it holds",
        Consensus,
        framed(0x41, &edit(&certificate, 81, 4)),
        "Malformed",
        "three, says four",
    );
    case(
        "certificate: 129 signatures",
        Consensus,
        framed(0x41, &edit(&certificate, 81, 129)),
        "Malformed",
        "at most 128",
    );
    case("peers request: limit 0", Discovery, framed(0x50, &[0, 0]), "Malformed", "1 to 32");
    case("peers request: limit 33", Discovery, framed(0x50, &[0, 33]), "Malformed", "1 to 32");
    case(
        "peers: a record that is too long",
        Discovery,
        framed(0x51, &framed_bytes(&vec![0; 2_049])),
        "Malformed",
        "at most 2,048 bytes",
    );
    case("peers: 33 records", Discovery, framed(0x51, &[0; 33]), "Malformed", "at most 32");
    case("find: what 2", Discovery, framed(0x54, &[&[2][..], &[0; 32]].concat()), "Malformed", "0 or 1");
    case(
        "find, answered: 9 records",
        Discovery,
        framed(0x55, &[&[0][..], &[1, 0].repeat(9)].concat()),
        "Malformed",
        "at most 8",
    );
    case(
        "find, answered: an empty record",
        Discovery,
        framed(0x55, &[0, 0]),
        "Malformed",
        "at least one byte",
    );
    case("store: an empty label", Discovery, framed(0x56, &[0; 114]), "Malformed", "at least one byte");
    case("meet: how 2", Meet, framed(0x58, &[&[2][..], &[0; 32]].concat()), "Malformed", "0 or 1");
    case("meet, offered: no address", Meet, framed(0x59, &[0; 42]), "Malformed", "at least one byte");
    case(
        "meet, answered: outcome 4",
        Meet,
        framed(0x5a, &[&[4][..], &[0; 9]].concat()),
        "Malformed",
        "0 to 3",
    );
    case("circuit: an empty packet", Circuit, framed(0x5b, &[0; 8]), "Malformed", "at least one byte");
    case("store, answered: outcome 5", Discovery, framed(0x57, &[5]), "Malformed", "0 to 4");
    cases
}

/// Bytes behind their length, as lists of byte strings stand in fixed layouts.
fn framed_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

#[test]
fn refused_bytes_replay() {
    let made: Vec<_> = cases(&World::new())
        .into_iter()
        .map(|(name, stream, bytes, error, meaning)| {
            let got = read_all(stream, &bytes).expect_err(&name);
            assert_eq!(variant(&got), error, "{name}: {got}");
            RefusedVector {
                name,
                stream: stream.name().into(),
                hex: hex::encode(bytes),
                error: error.into(),
                code: got.code().number(),
                meaning: meaning.into(),
            }
        })
        .collect();
    let frozen = freeze("refused.json", &made);
    assert!(frozen.len() >= made.len());
    for vector in frozen {
        let error = read_all(stream_named(&vector.stream), &unhex(&vector.hex)).expect_err(&vector.name);
        assert_eq!(
            (variant(&error), error.code().number()),
            (vector.error.as_str(), vector.code),
            "{}",
            vector.name
        );
    }
}

//! What a hostile peer may send, kind by kind.

use bytes::Bytes;
use ghost_frames::{
    Code, DecodeError, Frame, FrameReader, Kind, StreamType,
    frame::{self, REGISTRY},
    kind::{GREASE_FIRST, KIND_LAST, SKIPPABLE_FIRST, SKIPPED_PAYLOAD_MAX},
};
use ghost_proto::{
    BlockId, Header,
    block::HeaderFields,
    layout::{VARINT_MAX, put_varint},
    limits::{
        BLOCK_BODY_BYTES_MAX, BLOCK_TXS_MAX, HELLO_REQUIRED_MAX, HELLO_STREAM_TYPES_MAX, HELLO_VERSIONS_MAX,
        RPC_ROWS_MAX, SUBMIT_TXS_MAX,
    },
};

use crate::samples::World;

fn head(kind: Kind, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, kind.0);
    put_varint(&mut out, length);
    out
}

fn reader_with(stream: StreamType, bytes: &[u8]) -> FrameReader {
    let mut reader = FrameReader::new(stream);
    reader.push(bytes);
    reader
}

/// Payloads of every sampled frame.
fn payloads() -> Vec<(Kind, StreamType, Bytes)> {
    World::new()
        .samples()
        .into_iter()
        .map(|sample| {
            let encoded = sample.frame.encode();
            let head_len = head(encoded.kind(), 0).len() - 1;
            let length_len = 1 << (encoded.bytes()[head_len] >> 6);
            (encoded.kind(), sample.stream, encoded.bytes().slice(head_len + length_len..))
        })
        .collect()
}

#[test]
fn scenario_06_a_length_over_the_limit_is_refused_before_allocation() {
    for info in REGISTRY {
        for stream in info.streams {
            let max = info.payload_max_on(*stream) as u64;
            for length in [max + 1, VARINT_MAX] {
                let mut reader = reader_with(*stream, &head(info.kind, length));
                let error = reader.next().unwrap_err();
                assert_eq!(error, DecodeError::TooLarge { kind: info.kind, length, max }, "{}", info.name);
                assert_eq!(error.code(), Code::FrameTooLarge);
                assert!(reader.buffered() <= head(info.kind, length).len(), "{}", info.name);
            }
            // From the other side: the limit itself is waited for, and nothing is held for it yet.
            let mut reader = reader_with(*stream, &head(info.kind, max));
            let verdict = reader.next();
            assert!(!matches!(verdict, Err(DecodeError::TooLarge { .. })), "{}", info.name);
            assert_eq!(reader.is_mid_frame(), max > 0, "{}", info.name);
            assert_eq!(reader.buffered(), 0, "{}", info.name);
        }
    }
}

#[test]
fn scenario_06_the_limit_of_a_skipped_frame_is_kept_from_both_sides() {
    for kind in [SKIPPABLE_FIRST, GREASE_FIRST, KIND_LAST] {
        let mut reader = reader_with(StreamType::Rpc, &head(kind, SKIPPED_PAYLOAD_MAX));
        assert_eq!(reader.next(), Ok(None));
        for _ in 0..64 {
            reader.push(&[0; 1024]);
            assert_eq!(reader.next(), Ok(None));
            assert_eq!(reader.buffered(), 0, "a skipped payload is not kept");
        }
        assert_eq!(reader.finish(), Ok(()));
        let mut reader = reader_with(StreamType::Rpc, &head(kind, SKIPPED_PAYLOAD_MAX + 1));
        assert!(matches!(reader.next(), Err(DecodeError::TooLarge { .. })));
    }
}

/// Kinds whose payload may be empty: lists that may be, requests without fields, and protobuf, where
/// no bytes mean that all fields have their defaults.
fn may_be_empty(kind: Kind) -> bool {
    let name = frame::info(kind).unwrap().name;
    let fixed =
        ["CallRequest", "CallAnswer", "SimulateRequest", "EstimateRequest", "PriceReport", "PriceEvidence"]
            .contains(&name)
            || name.starts_with("Feed");
    kind.0 == 0x00
        || kind.0 >= 0x60 && !fixed && !(0xb0..0xd0).contains(&kind.0)
        || ["Transactions", "Headers", "CertificateRequest", "Peers", "DialBackRequest", "PresenceAnswer"]
            .contains(&name)
}

#[test]
fn scenario_07_an_empty_payload_is_an_error_or_means_something_in_every_kind() {
    for info in REGISTRY {
        let verdict = Frame::decode(info.kind, Bytes::new());
        assert_eq!(verdict.is_ok(), may_be_empty(info.kind), "{}: {verdict:?}", info.name);
        if let Err(error) = verdict {
            assert_eq!(error.code(), Code::Malformed);
        }
    }
}

#[test]
fn scenario_07_a_truncated_payload_is_an_error_in_every_kind() {
    for (kind, stream, payload) in payloads() {
        for len in 0..payload.len() {
            // A list cut between two entries is a shorter list, and protobuf cut between two fields
            // is a message with fewer; nothing else may decode.
            if let Ok(frame) = Frame::decode(kind, payload.slice(..len)) {
                let again = frame.encode();
                let expected = [head(kind, len as u64), payload[..len].to_vec()].concat();
                assert_eq!(again.bytes()[..], expected[..], "{kind} cut to {len} bytes");
            }
            // A stream that ends inside the frame is an error in any case.
            let bytes = [head(kind, payload.len() as u64), payload[..len].to_vec()].concat();
            let mut reader = reader_with(stream, &bytes);
            assert_eq!(reader.next(), Ok(None), "{kind}");
            assert_eq!(reader.finish(), Err(DecodeError::Truncated), "{kind}");
        }
    }
}

#[test]
fn scenario_07_trailing_bytes_are_an_error_in_every_kind() {
    for (kind, stream, payload) in payloads() {
        let info = frame::info(kind).unwrap();
        // Tag zero is no field of any protobuf message, and no entry of any list is one byte long.
        let longer = [payload.as_ref(), &[0]].concat();
        let bytes = [head(kind, longer.len() as u64), longer.clone()].concat();
        let verdict = reader_with(stream, &bytes).next();
        // An empty record is an entry of a list of records: the next test of a record refuses it. And a
        // list of indexes goes on with the next one, a list of payloads with an empty one, and a packet is as
        // long as its frame says. Bytes to the end may be any, and a shard is as long as it is until its plan is
        // known: what a presence record or an envelope is made of is for its reader to find out.
        if [
            "Peers",
            "BlockTransactionsRequest",
            "FeedSnapshot",
            "FeedEntries",
            "FeedStep",
            "ShardPlan",
            "Shard",
        ]
        .contains(&info.name)
            || ["PresencePublish", "PresenceAnswer", "MailboxDeposit", "MailboxDelivery"].contains(&info.name)
            || info.name == "CircuitPacket"
        {
            assert!(verdict.is_ok());
            continue;
        }
        let error = verdict.expect_err(info.name);
        let expected = if longer.len() > info.payload_max { Code::FrameTooLarge } else { Code::Malformed };
        assert_eq!(error.code(), expected, "{}: {error}", info.name);
    }
}

#[test]
fn scenario_08_unknown_optional_frames_are_skipped_and_unknown_required_ones_refused() {
    let ping = World::new().samples().into_iter().find(|sample| sample.name == "ping").unwrap().frame;
    for stream in StreamType::ALL {
        for number in (0..=KIND_LAST.0 + 2).chain([VARINT_MAX]) {
            let kind = Kind(number);
            if frame::info(kind).is_some() {
                continue;
            }
            let mut reader = reader_with(*stream, &[head(kind, 5), b"hello".to_vec()].concat());
            let verdict = reader.next();
            if kind >= SKIPPABLE_FIRST && kind <= KIND_LAST {
                assert_eq!(verdict, Ok(None), "{kind} on {}", stream.name());
                assert_eq!(reader.finish(), Ok(()));
            } else {
                assert_eq!(verdict, Err(DecodeError::UnknownKind(kind)), "{kind} on {}", stream.name());
                assert_eq!(verdict.unwrap_err().code(), Code::UnknownKind);
            }
        }
    }
    // What follows skipped frames is read.
    let mut bytes = Vec::new();
    for number in GREASE_FIRST.0..=KIND_LAST.0 {
        bytes.extend(head(Kind(number), number % 7));
        bytes.extend(vec![0xff; (number % 7) as usize]);
    }
    bytes.extend(ping.encode().bytes());
    assert_eq!(reader_with(StreamType::Control, &bytes).next(), Ok(Some(ping)));
}

#[test]
fn scenario_08_a_known_frame_on_another_stream_is_a_violation() {
    for info in REGISTRY {
        for stream in StreamType::ALL {
            let verdict = reader_with(*stream, &head(info.kind, 0)).next();
            let misplaced = matches!(verdict, Err(DecodeError::WrongStream { .. }));
            assert_eq!(misplaced, !info.streams.contains(stream), "{} on {}", info.name, stream.name());
            if misplaced {
                assert_eq!(verdict.unwrap_err().code(), Code::ProtocolViolation);
            }
        }
    }
}

/// A protobuf field with a length, `count` times.
fn items(field: u8, count: usize) -> Vec<u8> {
    let tag = u16::from(field) << 3 | 2;
    match tag {
        0..0x80 => [tag as u8, 0].repeat(count),
        _ => [tag as u8 | 0x80, (tag >> 7) as u8, 0].repeat(count),
    }
}

fn refused_items(name: &str, payload: Vec<u8>) -> bool {
    let info = REGISTRY.iter().find(|info| info.name == name).unwrap();
    match Frame::decode(info.kind, payload.into()) {
        Ok(_) => false,
        Err(error) => {
            assert!(error.to_string().contains("allowed is"), "{name}: {error}");
            true
        }
    }
}

#[test]
fn scenario_12_a_control_message_of_a_million_items_is_bounded_before_decoding() {
    // Packed, a million versions take a million bytes: the length alone is refused.
    let million = 1_000_000;
    let error = reader_with(StreamType::Control, &head(Kind(0), million)).next().unwrap_err();
    assert_eq!(error.code(), Code::FrameTooLarge);
    // As many as fit the length: refused at the first beyond the limit, none made.
    let packed = |field: u8, count: usize| {
        let mut out = vec![field << 3 | 2];
        let mut left = count;
        while left >= 0x80 {
            out.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
        out.extend(vec![1; count]);
        out
    };
    for (field, max) in [(2, HELLO_VERSIONS_MAX), (3, HELLO_STREAM_TYPES_MAX), (11, HELLO_REQUIRED_MAX)] {
        assert!(refused_items("Hello", packed(field, 8_000)), "field {field}");
        assert!(refused_items("Hello", packed(field, max + 1)), "field {field} over its limit");
        assert!(!refused_items("Hello", packed(field, max)), "field {field} at its limit");
    }
}

#[test]
fn scenario_12_every_list_of_every_message_is_bounded_from_both_sides() {
    for (name, field, max) in [
        ("Status", 9, RPC_ROWS_MAX),
        ("Status", 12, RPC_ROWS_MAX),
        ("Status", 18, RPC_ROWS_MAX),
        ("Status", 21, RPC_ROWS_MAX),
        ("SubmitRequest", 1, SUBMIT_TXS_MAX),
        ("SubmitAnswer", 1, SUBMIT_TXS_MAX),
        ("BlockAnswer", 2, BLOCK_TXS_MAX),
        ("PendingAnswer", 3, RPC_ROWS_MAX),
        ("PeersList", 1, RPC_ROWS_MAX),
        ("PeerCommandAnswer", 2, RPC_ROWS_MAX),
    ] {
        assert!(!refused_items(name, items(field, max)), "{name}.{field} at its limit");
        assert!(refused_items(name, items(field, max + 1)), "{name}.{field} over its limit");
    }
}

#[test]
fn scenario_12_a_header_that_declares_a_million_transactions_is_refused() {
    let key = ghost_proto::KeyPair::from_seed(&[1; 32]);
    let sealed = |tx_count: u32, body_bytes: u32| {
        HeaderFields {
            parent: BlockId::ZERO,
            height: 1,
            slot: 1,
            proposer: 0,
            tx_count,
            body_bytes,
            tx_root: [0; 32],
            receipt_root: [0; 32],
            state: [0; 32],
            gas_used: 0,
        }
        .seal(&ghost_proto::GenesisId::ZERO, &key)
    };
    let parse = |header: Header| Header::parse(header.bytes().clone());
    let (txs, bytes) = (BLOCK_TXS_MAX as u32, BLOCK_BODY_BYTES_MAX as u32);
    assert!(parse(sealed(1_000_000, bytes)).is_err());
    assert!(parse(sealed(txs + 1, bytes)).is_err());
    assert!(parse(sealed(txs, bytes)).is_ok());
    assert!(parse(sealed(txs, bytes + 1)).is_err());
    // A count that its body cannot hold is an error of the body.
    let body = Bytes::from(vec![0; 1000]);
    assert!(ghost_proto::Block::from_parts(sealed(txs, 1000), body).is_err());
}

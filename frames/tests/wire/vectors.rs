//! Making, freezing and replaying the vectors.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ghost_frames::{DecodeError, Frame, FrameReader, Kind, StreamType, frame};
use ghost_proto::layout::{peek_varint, put_varint};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    frozen,
    samples::{Sample, World},
};

mod derivations;
mod nouns;
mod refused;

/// One frame, on a stream of the type named, without that type in front.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FrameVector {
    name: String,
    frame: String,
    kind: u64,
    stream: String,
    hex: String,
    meaning: String,
}

/// All bytes of one direction of a stream.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamVector {
    pub(crate) name: String,
    /// The direction from the opener starts with the stream type; the answer does not.
    pub(crate) from_opener: bool,
    pub(crate) stream: String,
    pub(crate) hex: String,
    /// Frames that are not skipped, in order.
    pub(crate) frames: Vec<String>,
    pub(crate) meaning: String,
}

pub(crate) fn stream_named(name: &str) -> StreamType {
    *StreamType::ALL.iter().find(|stream| stream.name() == name).unwrap()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// All frames of a stream whose type was read, and how it ends.
pub(crate) fn read_all(stream: StreamType, bytes: &[u8]) -> Result<Vec<Frame>, DecodeError> {
    let mut reader = FrameReader::new(stream);
    reader.push(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        frames.push(frame);
    }
    reader.finish()?;
    Ok(frames)
}

/// Compares a list with its frozen file, and gives back what the file holds.
fn freeze<T: Serialize + DeserializeOwned>(file: &str, made: &[T]) -> Vec<T> {
    let path = format!("vectors/{file}");
    let mut text = serde_json::to_string_pretty(made).unwrap();
    text.push('\n');
    frozen::check(&path, text.as_bytes());
    serde_json::from_slice(&std::fs::read(frozen::path(&path)).unwrap()).unwrap()
}

#[test]
fn frames_replay() {
    let samples = World::new().samples();
    let made: Vec<_> = samples
        .iter()
        .map(|Sample { name, stream, frame, meaning }| FrameVector {
            name: (*name).into(),
            frame: frame.info().name.into(),
            kind: frame.info().kind.0,
            stream: stream.name().into(),
            hex: hex::encode(frame.encode().bytes()),
            meaning: meaning.clone(),
        })
        .collect();
    let frozen = freeze("frames.json", &made);
    assert_eq!(frozen.len(), samples.len());
    for (vector, sample) in frozen.iter().zip(&samples) {
        let decoded = read_all(stream_named(&vector.stream), &unhex(&vector.hex)).unwrap();
        assert_eq!(decoded, std::slice::from_ref(&sample.frame), "{}", vector.name);
        assert_eq!(hex::encode(decoded[0].encode().bytes()), vector.hex, "{}", vector.name);
        assert_eq!(decoded[0].info().kind.0, vector.kind);
    }
    let names: BTreeSet<_> = frozen.iter().map(|vector| vector.name.as_str()).collect();
    assert_eq!(names.len(), frozen.len(), "names are distinct");
}

#[test]
fn every_kind_has_a_vector() {
    let text = std::fs::read(frozen::path("vectors/frames.json")).unwrap();
    let frozen: Vec<FrameVector> = serde_json::from_slice(&text).unwrap();
    for info in frame::REGISTRY {
        let covered = frozen.iter().any(|vector| vector.kind == info.kind.0 && vector.frame == info.name);
        assert!(covered, "{} has no vector", info.name);
    }
}

/// A frame of a kind that is skipped.
fn grease(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, kind);
    put_varint(&mut out, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

pub(crate) fn streams(world: &World) -> Vec<StreamVector> {
    let samples = world.samples();
    let bytes = |name: &str| {
        let sample = samples.iter().find(|sample| sample.name == name).unwrap();
        sample.frame.encode().bytes().to_vec()
    };
    let make =
        |name: &str, stream: StreamType, from_opener, parts: &[Vec<u8>], frames: &[&str], meaning: &str| {
            let mut out = Vec::new();
            if from_opener {
                put_varint(&mut out, stream.number());
            }
            out.extend(parts.concat());
            StreamVector {
                name: name.into(),
                from_opener,
                stream: stream.name().into(),
                hex: hex::encode(out),
                frames: frames.iter().map(|name| (*name).into()).collect(),
                meaning: meaning.into(),
            }
        };
    use StreamType::{
        BlockFetch, BlockPush, Books, Circuit, Consensus, Control, Discovery, Events, Meet, Oracle, Prices,
        Rpc, ShardPush, Sync, TxFetch, TxPush, TxSync, Wallet,
    };
    vec![
        make(
            "control of a client",
            Control,
            true,
            &[bytes("hello of a client")],
            &["Hello"],
            "the client's first bytes",
        ),
        make(
            "control of a node",
            Control,
            true,
            &[bytes("hello of a node")],
            &["Hello"],
            "the node's first bytes",
        ),
        make(
            "control with grease",
            Control,
            true,
            &[bytes("hello of a client"), grease(0x3f21, b"grease"), bytes("ping"), grease(0x2000, b"")],
            &["Hello", "Ping"],
            "after hello a grease frame of six bytes, then a ping, then an empty frame of an unknown optional kind",
        ),
        make(
            "control with a ping and its pong",
            Control,
            true,
            &[bytes("hello of a node"), bytes("pong")],
            &["Hello", "Pong"],
            "a pong travels on the control stream of its own sender",
        ),
        make(
            "a status call, asked",
            Rpc,
            true,
            &[bytes("status request")],
            &["StatusRequest"],
            "then the asker ends its direction",
        ),
        make(
            "a status call, answered",
            Rpc,
            false,
            &[bytes("status")],
            &["Status"],
            "then the answerer ends its direction",
        ),
        make(
            "a call that fails, answered",
            Rpc,
            false,
            &[bytes("failure")],
            &["RpcFailure"],
            "in place of any answer",
        ),
        make(
            "a subscription, asked",
            Events,
            true,
            &[bytes("heads request")],
            &["HeadsRequest"],
            "then the asker ends its direction",
        ),
        make(
            "a subscription, answered",
            Events,
            false,
            &[bytes("head event"), bytes("head event")],
            &["HeadEvent", "HeadEvent"],
            "one event at each change of the head, until either side ends it",
        ),
        make(
            "a market followed, asked",
            Books,
            true,
            &[bytes("book request")],
            &["BookRequest"],
            "then the asker ends its direction",
        ),
        make(
            "a market followed, answered",
            Books,
            false,
            &[bytes("feed notice"), bytes("feed snapshot"), bytes("feed entries"), bytes("feed idle")],
            &["FeedNotice", "FeedSnapshot", "FeedEntries", "FeedIdle"],
            "a snapshot, what follows it, and a sign of life",
        ),
        make(
            "pushed transactions",
            TxPush,
            true,
            &[
                bytes("announce two transactions"),
                bytes("two transactions"),
                bytes("a transaction on its stem"),
            ],
            &["TxAnnounce", "Transactions", "StemTransaction"],
            "announcements, whole transactions and stems share a stream",
        ),
        make(
            "transactions fetched, asked",
            TxFetch,
            true,
            &[bytes("request two transactions")],
            &["TxRequest"],
            "by short id",
        ),
        make(
            "transactions fetched, answered",
            TxFetch,
            false,
            &[bytes("two transactions")],
            &["Transactions"],
            "and end",
        ),
        make(
            "mempools compared, asked",
            TxSync,
            true,
            &[bytes("request the first symbols")],
            &["SymbolsRequest"],
            "opens a session; each later request of it has a stream of its own",
        ),
        make(
            "mempools compared, answered",
            TxSync,
            false,
            &[bytes("the first symbols")],
            &["Symbols"],
            "and end",
        ),
        make(
            "what is missing, asked",
            TxSync,
            true,
            &[bytes("request what is missing")],
            &["MissingRequest"],
            "by sketch id",
        ),
        make(
            "what is missing, answered",
            TxSync,
            false,
            &[bytes("announce two transactions")],
            &["TxAnnounce"],
            "by short id under the asker's salt, as on tx_push",
        ),
        make(
            "pushed blocks",
            BlockPush,
            true,
            &[bytes("announce a block"), bytes("an empty block")],
            &["BlockAnnounce", "WholeBlock"],
            "a header, then a small block whole",
        ),
        make(
            "blocks fetched, asked",
            BlockFetch,
            true,
            &[bytes("request two blocks")],
            &["BlocksRequest"],
            "by id",
        ),
        make(
            "blocks fetched, answered",
            BlockFetch,
            false,
            &[bytes("a block with three transactions"), bytes("an empty block")],
            &["WholeBlock", "WholeBlock"],
            "in the order asked for",
        ),
        make(
            "pushed compact",
            BlockPush,
            true,
            &[bytes("ask for pushed blocks"), bytes("a compact block")],
            &["BlockRelayMode", "CompactBlock"],
            "asked for in one direction, sent in the other: here both in one",
        ),
        make(
            "transactions of a block, asked",
            BlockFetch,
            true,
            &[bytes("request transactions of a block")],
            &["BlockTransactionsRequest"],
            "by their places",
        ),
        make(
            "transactions of a block, answered",
            BlockFetch,
            false,
            &[bytes("transactions of a block")],
            &["BlockTransactions"],
            "and end",
        ),
        make(
            "pushed shards",
            ShardPush,
            true,
            &[bytes("a plan of a whole body"), bytes("have some shards"), bytes("a shard")],
            &["ShardPlan", "ShardHave", "Shard"],
            "a plan that is passed on, what is here of it, and one shard unasked",
        ),
        make("shards, asked", BlockFetch, true, &[bytes("request shards")], &["ShardRequest"], "by a set"),
        make(
            "headers, asked",
            Sync,
            true,
            &[bytes("request headers")],
            &["HeadersRequest"],
            "with a locator",
        ),
        make("headers, answered", Sync, false, &[bytes("two headers")], &["Headers"], "and end"),
        make(
            "no certificate yet, answered",
            Sync,
            false,
            &[],
            &[],
            "an answer without a frame: nothing is final yet",
        ),
        make(
            "votes",
            Consensus,
            true,
            &[bytes("vote"), bytes("certificate")],
            &["Vote", "Certificate"],
            "as they come",
        ),
        make("peers, asked", Discovery, true, &[bytes("request peers")], &["PeersRequest"], "at most 32"),
        make("peers, answered", Discovery, false, &[bytes("one peer")], &["Peers"], "and end"),
        make(
            "dial back, asked",
            Discovery,
            true,
            &[bytes("dial me back")],
            &["DialBackRequest"],
            "at the address seen",
        ),
        make(
            "dial back, answered",
            Discovery,
            false,
            &[bytes("dialled back")],
            &["DialBackAnswer"],
            "in vain",
        ),
        make(
            "presence, asked",
            Wallet,
            true,
            &[bytes("request presence")],
            &["PresenceRequest"],
            "of one wallet",
        ),
        make("presence, answered", Wallet, false, &[bytes("presence")], &["PresenceAnswer"], "and end"),
        make("deposit", Wallet, true, &[bytes("deposit by grant")], &["MailboxDeposit"], "for one box"),
        make("collection", Wallet, false, &[bytes("delivery")], &["MailboxDelivery"], "as they come"),
        make(
            "prices",
            Oracle,
            true,
            &[bytes("price report"), bytes("price evidence")],
            &["PriceReport", "PriceEvidence"],
            "as they come",
        ),
        make(
            "price ticks, asked",
            Prices,
            true,
            &[bytes("price ticks request")],
            &["PriceTicksRequest"],
            "the ticks come in datagrams",
        ),
        make(
            "price ticks, answered",
            Prices,
            false,
            &[bytes("price ticks answer")],
            &["PriceTicksAnswer"],
            "and stays open",
        ),
        make("find, asked", Discovery, true, &[bytes("find a value")], &["FindRequest"], "a value"),
        make(
            "find, answered",
            Discovery,
            false,
            &[bytes("found")],
            &["FindAnswer"],
            "the value, and one peer",
        ),
        make("store, asked", Discovery, true, &[bytes("store a value")], &["StoreRequest"], "one value"),
        make("store, answered", Discovery, false, &[bytes("not stored")], &["StoreAnswer"], "not kept"),
        make("meet, asked", Meet, true, &[bytes("bring me together")], &["MeetRequest"], "a punch"),
        make(
            "meet, offered",
            Meet,
            true,
            &[bytes("somebody wants to meet you")],
            &["MeetOffer"],
            "a circuit",
        ),
        make("meet, answered", Meet, false, &[bytes("meeting agreed")], &["MeetAnswer"], "agreed"),
        make(
            "circuit",
            Circuit,
            true,
            &[bytes("packet"), bytes("packet")],
            &["CircuitPacket", "CircuitPacket"],
            "as they come",
        ),
    ]
}

#[test]
fn streams_replay() {
    let frozen = freeze("streams.json", &streams(&World::new()));
    let mut opened = BTreeSet::new();
    for vector in &frozen {
        let stream = stream_named(&vector.stream);
        let mut bytes = unhex(&vector.hex);
        if vector.from_opener {
            let (number, len) = peek_varint(&bytes).unwrap();
            assert_eq!(StreamType::from_number(number), Some(stream), "{}", vector.name);
            bytes.drain(..len);
            opened.insert(stream);
        }
        let frames = read_all(stream, &bytes).unwrap();
        let names: Vec<_> = frames.iter().map(|frame| frame.info().name).collect();
        assert_eq!(names, vector.frames, "{}", vector.name);
    }
    assert_eq!(opened, StreamType::ALL.iter().copied().collect(), "each stream type has a vector");
}

/// The seeds of the fuzz targets, by path below `fuzz/seeds`.
fn seeds() -> BTreeMap<String, Vec<u8>> {
    let world = World::new();
    let slug = |name: &str| name.replace([' ', ','], "-").replace("--", "-");
    let mut seeds = BTreeMap::new();
    for sample in world.samples() {
        let bytes = sample.frame.encode().bytes().clone();
        let (_, kind_len) = peek_varint(&bytes).unwrap();
        let (_, length_len) = peek_varint(&bytes[kind_len..]).unwrap();
        let path = format!("{}/{}", sample.frame.info().name, slug(sample.name));
        seeds.insert(path, bytes.slice(kind_len + length_len..).to_vec());
    }
    for vector in streams(&world) {
        let mut bytes = unhex(&vector.hex);
        if vector.from_opener {
            bytes.drain(..peek_varint(&bytes).unwrap().1);
        }
        // The target's own header: stream type and the sizes of two pieces.
        let seed = [[stream_named(&vector.stream).number() as u8, 0, 9].as_slice(), &bytes].concat();
        seeds.insert(format!("stream/{}", slug(&vector.name)), seed);
    }
    seeds
}

/// The seeds of one fuzz target.
pub(crate) fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let prefix = format!("{target}/");
    seeds().into_iter().filter(|(path, _)| path.starts_with(&prefix)).map(|(_, seed)| seed).collect()
}

#[test]
fn fuzz_seeds_are_the_vectors() {
    let mut targets = BTreeSet::new();
    for (path, seed) in seeds() {
        frozen::check(&format!("fuzz/seeds/{path}"), &seed);
        targets.insert(path.split('/').next().unwrap().to_owned());
    }
    let kinds = frame::REGISTRY.iter().map(|info| info.name.to_owned());
    assert_eq!(targets, kinds.chain(["stream".to_owned()]).collect(), "each target has seeds");
    let manifest = std::fs::read_to_string(frozen::path("fuzz/Cargo.toml")).unwrap();
    for target in targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target} is not a binary of frames/fuzz"
        );
        let source = frozen::path(&format!("fuzz/targets/{target}.rs"));
        let source = std::fs::read_to_string(&source).unwrap_or_else(|error| panic!("{target}.rs: {error}"));
        let body = if target == "stream" { "stream!" } else { &format!("kind!({target})") };
        assert!(source.contains(body), "{target}.rs fuzzes something else");
    }
}

#[test]
fn a_frame_on_the_wire_is_kind_length_payload() {
    for Sample { frame, .. } in World::new().samples() {
        let bytes = frame.encode().bytes().clone();
        let (kind, kind_len) = peek_varint(&bytes).unwrap();
        let (length, length_len) = peek_varint(&bytes[kind_len..]).unwrap();
        assert_eq!(Kind(kind), frame.info().kind);
        let payload: Bytes = bytes.slice(kind_len + length_len..);
        assert_eq!(length, payload.len() as u64);
        assert_eq!(Frame::decode(Kind(kind), payload), Ok(frame));
    }
}

//! `WIRE.md` says what the code does: its tables, its hex and its schemas.

use std::fs;

use ghost_frames::{Code, StreamType, code::Consequence, frame::REGISTRY, stream::Direction};
use ghost_proto::limits;

use crate::{
    frozen,
    samples::World,
    vectors::{StreamVector, streams},
};

const DOCUMENT: &str = "WIRE.md";

fn document() -> String {
    fs::read_to_string(frozen::path(DOCUMENT)).unwrap()
}

/// The rows of a marked table, without its head, by cell.
fn table(name: &str) -> Vec<Vec<String>> {
    let text = document();
    let (_, rest) =
        text.split_once(&format!("<!-- table: {name} -->")).unwrap_or_else(|| panic!("no table {name}"));
    let (table, _) = rest.split_once("<!-- end -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Compares the first cells of a table's rows with what the code says.
fn check_table(name: &str, expected: Vec<Vec<String>>) {
    let rows = table(name);
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row[..expected.len()], expected[..], "in table {name} of {DOCUMENT}");
    }
    assert_eq!(rows.len(), expected.len(), "rows of table {name} of {DOCUMENT}");
}

#[test]
fn the_table_of_kinds_is_the_registry() {
    let row = |info: &ghost_frames::KindInfo| {
        let streams = info.streams.iter().map(|stream| match info.payload_max_on(*stream) {
            max if max < info.payload_max => format!("{} up to {max}", stream.name()),
            _ => stream.name().into(),
        });
        let streams: Vec<String> = streams.collect();
        vec![
            format!("{:#04x}", info.kind.0),
            info.name.into(),
            info.payload_max.to_string(),
            streams.join(", "),
        ]
    };
    check_table("kinds", REGISTRY.iter().map(row).collect());
}

#[test]
fn the_table_of_streams_is_the_registry() {
    let row = |stream: &StreamType| {
        let direction = match stream.direction() {
            Direction::Push => "push",
            Direction::Request => "request",
        };
        vec![format!("{:#04x}", stream.number()), stream.name().into(), direction.into()]
    };
    check_table("streams", StreamType::ALL.iter().map(row).collect());
}

#[test]
fn the_table_of_codes_is_the_registry() {
    let row = |code: &Code| {
        let consequence = match code.consequence() {
            Consequence::Nothing => "nothing",
            Consequence::BackOff => "back off",
            Consequence::Forget => "forget",
            Consequence::Ban => "ban",
        };
        vec![format!("{:#04x}", code.number()), code.name().into(), consequence.into()]
    };
    check_table("codes", Code::ALL.iter().map(row).collect());
}

#[test]
fn the_table_of_limits_is_the_code() {
    macro_rules! rows {
        ($($name:ident),* $(,)?) => { vec![$(vec![stringify!($name).to_owned(), limits::$name.to_string()]),*] };
    }
    let rows = rows![
        TX_BYTES_MIN,
        TX_BYTES_MAX,
        RECEIPT_OUTPUT_BYTES_MAX,
        RECEIPT_BYTES_MAX,
        LOG_TOPICS_MAX,
        LOG_BYTES_MIN,
        TX_BATCH_MAX,
        TX_BATCH_BYTES_MAX,
        SUBMIT_TXS_MAX,
        ANNOUNCE_ENTRIES_MAX,
        TX_REQUEST_IDS_MAX,
        SYMBOLS_MAX,
        SYMBOLS_PER_FRAME_MAX,
        SKETCH_IDS_MAX,
        BLOCK_BODY_BYTES_MAX,
        BLOCK_TXS_MAX,
        WHOLE_PUSH_BYTES_MAX,
        COMPACT_PREFILL_BYTES_MAX,
        SHARDED_BYTES_MIN,
        SHARDS_DATA_MIN,
        SHARDS_DATA_MAX,
        SHARDS_MAX,
        SHARD_BYTES_MAX,
        SHARD_PATH_MAX,
        BODIES_PER_REQUEST_MAX,
        LOCATOR_IDS_MAX,
        HEADERS_PER_ANSWER_MAX,
        AUTHORITIES_MAX,
        CHAIN_NAME_BYTES_MAX,
        SLOT_MS_MIN,
        SLOT_MS_MAX,
        RECORD_ADDRESSES_MAX,
        MULTIADDR_BYTES_MAX,
        RECORD_BYTES_MAX,
        PEERS_PER_ANSWER_MAX,
        CLOSER_PER_ANSWER_MAX,
        VALUE_LABEL_BYTES_MAX,
        VALUE_PAYLOAD_BYTES_MAX,
        VALUE_BYTES_MAX,
        CIRCUIT_PACKET_BYTES_MAX,
        USER_AGENT_BYTES_MAX,
        HELLO_VERSIONS_MAX,
        HELLO_STREAM_TYPES_MAX,
        HELLO_REQUIRED_MAX,
        RPC_ROWS_MAX,
        CALL_INPUT_BYTES_MAX,
        CALL_OUTPUT_BYTES_MAX,
        LOG_FILTER_ADDRESSES_MAX,
        LOG_FILTER_TOPICS_MAX,
        STORAGE_SLOTS_MAX,
        LOG_ROWS_BYTES_MAX,
        FOLLOW_SENDERS_MAX,
        FOLLOW_POSITIONS_MAX,
        PRICE_FEEDS_MAX,
        PRICE_FEED_NAME_BYTES_MAX,
        PUBLISHERS_MAX,
        PRICE_FEED_EXPONENT_MAX,
        PRICE_FEED_MAX_AGE_MS_MAX,
        PRICE_AHEAD_MS_MAX,
        PRICE_PUBLISH_REPORTS_MAX,
        PRICE_EVIDENCE_PER_BATCH_MAX,
        FEED_PAYLOAD_BYTES_MAX,
        FEED_ENTRIES_PER_FRAME_MAX,
        FEED_FRAME_BYTES_MAX,
        FEED_MARK_BYTES_MAX,
        FEED_SNAPSHOT_BYTES_MAX,
        FEED_NAME_BYTES_MAX,
        MARKETS_MAX,
        ASSETS_MAX,
        SYMBOL_BYTES_MAX,
        WALLET_MAILBOXES_MAX,
        PRESENCE_BYTES_MAX,
        ENVELOPE_BYTES_MAX,
        GRANTS_PER_FRAME_MAX,
    ];
    // None was forgotten: the source declares no other.
    let source = include_str!("../../../proto/src/limits.rs");
    assert_eq!(source.matches("pub const ").count(), rows.len());
    check_table("limits", rows);
}

/// The document with the bytes of each fenced block ```` ```hex NAME ```` those of the stream vector NAME.
/// Lines keep their lengths and their remarks; a block whose vector has grown must be laid out anew.
fn with_vectors(text: &str) -> String {
    let vectors: Vec<StreamVector> = streams(&World::new());
    let mut shown = 0;
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, block)) = rest.split_once("\n```hex ") {
        let (name, block) = block.split_once('\n').unwrap();
        let (lines, after) = block.split_once("```").unwrap();
        let vector = vectors.iter().find(|vector| vector.name == name);
        let vector = vector.unwrap_or_else(|| panic!("no vector `{name}`"));
        let mut bytes = vector.hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        out += &format!("{before}\n```hex {name}\n");
        for line in lines.lines() {
            let (old, remark) = line.split_at(line.find('#').unwrap_or(line.len()));
            let new: Vec<_> = bytes.by_ref().take(old.split_whitespace().count()).collect();
            let new = new.join(" ");
            out += &format!("{new:width$}{remark}\n", width = old.len());
        }
        assert_eq!(bytes.next(), None, "`{name}` has grown: lay it out anew in {DOCUMENT}");
        out += "```";
        rest = after;
        shown += 1;
    }
    assert!(shown >= 4, "the session shows {shown} streams");
    out + rest
}

#[test]
fn every_long_hex_and_peer_id_stands_in_a_vector() {
    let all: String = ["derivations", "frames", "nouns"]
        .map(|file| fs::read_to_string(frozen::path(&format!("vectors/{file}.json"))).unwrap())
        .concat();
    let text = document();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let mut checked = 0;
    for word in words {
        let hex = word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let peer = word.len() > 20 && word.starts_with("12D3KooW");
        if hex || peer {
            assert!(all.contains(word), "{word} stands in {DOCUMENT} and in no vector");
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} values were found");
}

/// The document with the files it quotes, and their names.
fn with_schemas(text: &str) -> (String, Vec<String>) {
    let (mut out, mut files) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<!-- file: ") {
        let (file, after) = after.split_once(" -->").unwrap();
        let (_, after) = after.split_once("<!-- end -->").unwrap();
        let schema = fs::read_to_string(frozen::path(file)).unwrap();
        out += &format!("{before}<!-- file: {file} -->\n```proto\n{schema}```\n<!-- end -->");
        files.push(file.rsplit('/').next().unwrap().to_owned());
        rest = after;
    }
    (out + rest, files)
}

#[test]
fn the_session_shows_vectors_and_the_schemas_are_quoted_word_for_word() {
    let (made, mut files) = with_schemas(&with_vectors(&document()));
    frozen::check(DOCUMENT, made.as_bytes());
    let schemas = fs::read_dir(frozen::path("../proto/schema")).unwrap();
    let mut schemas: Vec<_> =
        schemas.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    schemas.sort();
    files.sort();
    assert_eq!(files, schemas, "each schema is quoted");
}

#[test]
fn links_inside_the_document_lead_somewhere() {
    let text = document();
    let anchors: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -".contains(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect();
    for link in text.split("](#").skip(1) {
        let (target, _) = link.split_once(')').unwrap();
        assert!(anchors.iter().any(|anchor| anchor == target), "#{target} is no heading");
    }
}

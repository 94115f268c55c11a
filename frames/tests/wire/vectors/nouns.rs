//! Signed and hashed nouns: bytes, id, fields.

use std::collections::BTreeMap;

use bytes::Bytes;
use ghost_proto::{
    Action, Address, Block, EngineId, FinalityCertificate, Genesis, Header, KeyPair, LogEntry, Outcome,
    PeerRecord, PublicKey, Quote, Receipt, Report, SignedTransaction, SignedValue, Transaction, Vote,
    keys::Domain, price::Equivocation,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{freeze, unhex};
use crate::samples::{World, transfer};

/// A noun as it is stored, hashed and signed.
#[derive(Debug, Serialize, Deserialize)]
struct NounVector {
    name: String,
    noun: String,
    /// Empty for a genesis, which is written as TOML.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hex: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    toml: String,
    /// BLAKE3, where the noun has an id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    /// The key that signed it, where it is signed by one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    /// The bytes that were signed, where it is signed by one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    signed: String,
    fields: BTreeMap<String, Value>,
}

impl NounVector {
    fn new(noun: &str, name: &str, bytes: &[u8], fields: Value) -> Self {
        let Value::Object(fields) = fields else { unreachable!("fields are an object") };
        Self {
            name: name.into(),
            noun: noun.into(),
            hex: hex::encode(bytes),
            toml: String::new(),
            id: String::new(),
            key: String::new(),
            signed: String::new(),
            fields: fields.into_iter().collect(),
        }
    }

    fn id(mut self, id: impl AsRef<[u8]>) -> Self {
        self.id = hex::encode(id);
        self
    }

    fn signed(mut self, key: PublicKey, domain: Domain, message: &[&[u8]]) -> Self {
        self.key = key.to_string();
        self.signed = hex::encode([domain.tag().as_slice(), &message.concat()].concat());
        self
    }
}

fn transaction(name: &str, tx: &SignedTransaction) -> NounVector {
    let body = tx.body();
    let mut fields = json!({
        "chain_id": body.chain_id,
        "sender_key": body.sender_key.to_string(),
        "sender": tx.sender().to_string(),
        "nonce": body.nonce,
        "gas_limit": body.gas_limit,
        "gas_price": body.gas_price,
        "value": body.action.value().to_string(),
    });
    match &body.action {
        Action::Transfer { to, payload, .. } => {
            fields["to"] = json!(to.to_string());
            fields["payload"] = json!(hex::encode(payload));
        }
        Action::Deploy { engine, code, input, .. } => {
            fields["engine"] = json!(engine.0);
            fields["code"] = json!(hex::encode(code));
            fields["input"] = json!(hex::encode(input));
        }
        Action::Call { to, input, .. } => {
            fields["to"] = json!(to.to_string());
            fields["input"] = json!(hex::encode(input));
        }
        Action::Place { market, side, kind, ticks, lots } => {
            fields["market"] = json!(market);
            fields["side"] = json!(side.code());
            fields["kind"] = json!(kind.code());
            fields["ticks"] = json!(ticks);
            fields["lots"] = json!(lots);
        }
        Action::Cancel { market, order, leave } => {
            fields["market"] = json!(market);
            fields["order"] = json!(order);
            fields["leave"] = json!(leave);
        }
        Action::Replace { market, order, ticks, lots } => {
            fields["market"] = json!(market);
            fields["order"] = json!(order);
            fields["ticks"] = json!(ticks);
            fields["lots"] = json!(lots);
        }
        Action::Prices { batch } => fields["batch"] = json!(hex::encode(batch)),
    }
    let unsigned = &tx.bytes()[..tx.bytes().len() - 64];
    NounVector::new("transaction", name, tx.bytes(), fields).id(tx.id()).signed(
        body.sender_key,
        Domain::Transaction,
        &[unsigned],
    )
}

fn header(name: &str, world: &World, header: &Header) -> NounVector {
    let fields = json!({
        "parent": header.parent.to_string(),
        "height": header.height,
        "slot": header.slot,
        "proposer": header.proposer,
        "tx_count": header.tx_count,
        "body_bytes": header.body_bytes,
        "tx_root": hex::encode(header.tx_root),
        "receipt_root": hex::encode(header.receipt_root),
        "state": hex::encode(header.state),
        "gas_used": header.gas_used,
    });
    let key = *world.genesis.authorities.key(header.proposer).unwrap();
    NounVector::new("header", name, header.bytes(), fields).id(header.id()).signed(
        key,
        Domain::Block,
        &[&world.genesis.id().0, &header.bytes()[..163]],
    )
}

fn with_action(key: &KeyPair, action: Action) -> SignedTransaction {
    let body = Transaction { action, gas_limit: 200_000, ..transfer(key, 2, 3, b"").body().clone() };
    body.sign(key).unwrap().into_signed()
}

fn nouns(world: &World) -> Vec<NounVector> {
    let report = world.report(1, 10_002);
    let price = world.quote().aggregate(&world.feed()).unwrap();
    let deployment = Action::Deploy {
        engine: EngineId::EVM,
        value: 5,
        code: Bytes::from_static(&[0x60, 0x00, 0x60, 0x00, 0xf3]),
        input: Bytes::from_static(b"args"),
    };
    let call = Action::Call { to: Address([0xcc; 20]), value: 7, input: Bytes::from_static(b"\x01\0") };
    let logged = Receipt {
        created: Some(Address([0xcc; 20])),
        output: Bytes::from_static(b"output"),
        logs: vec![
            LogEntry { address: Address([0xcc; 20]), topics: Vec::new(), data: Bytes::new() },
            LogEntry {
                address: Address([0xcd; 20]),
                topics: vec![[1; 32], [2; 32]],
                data: Bytes::from_static(b"data"),
            },
        ],
        ..Receipt::plain(Outcome::Done, 60_000)
    };
    let genesis_id = world.genesis.id();
    let link = world.link();
    let link_fields = |more: Value| {
        let mut fields = json!({
            "source_height": link.source.height,
            "source": link.source.id.to_string(),
            "target_height": link.target.height,
            "target": link.target.id.to_string(),
        });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    let vote = world.vote(3);
    let certificate = world.certificate();
    let ids = |block: &Block| block.transactions().iter().map(|tx| tx.id().to_string()).collect::<Vec<_>>();
    let long = vec![0x42; 70];

    let mut genesis = NounVector::new(
        "genesis",
        "the chain of all vectors",
        b"",
        json!({
            "name": world.genesis.name,
            "chain_id": world.genesis.chain_id,
            "time_unix_ms": world.genesis.time_unix_ms,
            "slot_ms": world.genesis.slot_ms,
            "gas_price_min": world.genesis.gas_price_min,
            "block_gas_max": world.genesis.block_gas_max,
            "block_bytes_max": world.genesis.block_bytes_max,
            "quorum": world.genesis.authorities.quorum(),
        }),
    )
    .id(genesis_id);
    genesis.toml = world.genesis.to_toml();
    // What the id is a hash of, spelt out here and not asked of the code that hashes it.
    let mut preimage = b"ghost/genesis/1\0".to_vec();
    preimage.push(world.genesis.name.len() as u8);
    preimage.extend(world.genesis.name.as_bytes());
    for number in [7, 1_700_000_000_000, 1_000, 1, 30_000_000, 2 << 20, 4u64] {
        preimage.extend(number.to_be_bytes());
    }
    world.authorities.iter().for_each(|key| preimage.extend(key.public().0));
    for (address, balance) in &world.genesis.allocation {
        preimage.extend(address.0);
        preimage.extend(balance.to_be_bytes());
    }
    genesis.hex = hex::encode(preimage);

    let (record, value) = (&world.record, world.value());
    vec![
        genesis,
        transaction("the smallest", &transfer(&world.senders[0], 0, 1, b"")),
        transaction("with a payload", &transfer(&world.senders[0], 1, 9, b"hello\0")),
        transaction("a deployment", &with_action(&world.senders[0], deployment)),
        transaction("a call", &with_action(&world.senders[0], call)),
        transaction("with a payload length of two bytes", &transfer(&world.senders[1], 9, 1 << 40, &long)),
        header("of three transactions", world, world.block.header()),
        header("of an empty block", world, world.next.header()),
        NounVector::new(
            "block",
            "with three transactions of two senders",
            &world.block.encode(),
            json!({ "header_id": world.block.header().id().to_string(), "transactions": ids(&world.block) }),
        ),
        NounVector::new(
            "receipt",
            "done",
            &world.receipts[0].encode(),
            json!({ "outcome": world.receipts[0].outcome.name(), "gas_used": world.receipts[0].gas_used }),
        ),
        NounVector::new(
            "receipt",
            "of a deployment that logged",
            &logged.encode(),
            json!({
                "outcome": logged.outcome.name(),
                "gas_used": logged.gas_used,
                "created": logged.created.unwrap().to_string(),
                "output": hex::encode(&logged.output),
                "logs": logged.logs.iter().map(|log| json!({
                    "address": log.address.to_string(),
                    "topics": log.topics.iter().map(hex::encode).collect::<Vec<_>>(),
                    "data": hex::encode(&log.data),
                })).collect::<Vec<_>>(),
            }),
        ),
        NounVector::new("vote", "of authority 3", &vote.encode(), link_fields(json!({ "authority": 3 })))
            .signed(world.authorities[3].public(), Domain::Vote, &[&genesis_id.0, &vote.encode()[..82]]),
        NounVector::new(
            "certificate",
            "of authorities 0, 1 and 3",
            &certificate.encode(),
            link_fields(json!({ "authorities": [0, 1, 3], "finalizes_height": 1 })),
        ),
        NounVector::new(
            "report",
            "of publisher 1",
            report.bytes(),
            json!({
                "feed": report.feed,
                "publisher": report.publisher,
                "sequence": report.sequence,
                "time_unix_ms": report.time_unix_ms,
                "price": report.price,
                "confidence": report.confidence,
            }),
        )
        .signed(world.senders[1].public(), Domain::Price, &[&genesis_id.0, &report.bytes()[..36]]),
        NounVector::new(
            "quote",
            "of publishers 0 and 1: their median rounds down",
            &world.quote().to_bytes(),
            json!({
                "feed": 0,
                "price": price.price,
                "confidence": price.confidence,
                "time_unix_ms": price.time_unix_ms,
                "used": price.used,
            }),
        ),
        NounVector::new(
            "equivocation",
            "of publisher 1",
            &world.equivocation().encode(),
            json!({ "feed": 0, "publisher": 1 }),
        ),
        NounVector::new(
            "record",
            "of a node with one address",
            record.bytes(),
            json!({
                "peer": record.peer().to_string(),
                "addresses": record.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
                "stream_types": record.stream_types(),
                "sequence": record.sequence(),
                "time_unix_s": record.time_unix_s(),
            }),
        )
        // The payload stands behind its tag and one length byte; the signature follows it.
        .signed(
            world.node.public(),
            Domain::PeerRecord,
            &[&record.bytes()[2..2 + usize::from(record.bytes()[1])]],
        ),
        NounVector::new(
            "value",
            "of an account's key, for whoever looks for its mailbox",
            value.bytes(),
            json!({
                "owner": value.owner().to_string(),
                "label": String::from_utf8_lossy(value.label()),
                "sequence": value.sequence(),
                "expires_unix_s": value.expires_unix_s(),
                "payload": String::from_utf8_lossy(value.payload()),
                "lookup_key": value.key().to_string(),
            }),
        )
        .signed(
            world.senders[0].public(),
            Domain::Value,
            &[&value.bytes()[..value.bytes().len() - 64]],
        ),
    ]
}

#[test]
fn nouns_replay() {
    let world = World::new();
    let genesis = world.genesis.id();
    let key_of = |vector: &NounVector| vector.key.parse::<PublicKey>().unwrap();
    for vector in freeze("nouns.json", &nouns(&world)) {
        let bytes = Bytes::from(unhex(&vector.hex));
        let name = &vector.name;
        let again: Vec<u8> = match vector.noun.as_str() {
            "genesis" => {
                let read = Genesis::from_toml(&vector.toml).unwrap();
                assert_eq!(read, world.genesis);
                assert_eq!(read.id().to_string(), vector.id, "the id is not over the bytes spelt out");
                assert_eq!(super::derivations::blake3(&bytes), vector.id);
                bytes.to_vec()
            }
            "transaction" => {
                let tx = SignedTransaction::parse(bytes).unwrap();
                assert_eq!(tx.id().to_string(), vector.id, "{name}");
                assert_eq!(tx.body().nonce, vector.fields["nonce"], "{name}");
                assert_eq!(tx.sender().to_string(), vector.fields["sender"], "{name}");
                tx.verify().unwrap().bytes().to_vec()
            }
            "header" => {
                let header = Header::parse(bytes).unwrap();
                assert_eq!(header.id().to_string(), vector.id, "{name}");
                assert_eq!(header.height, vector.fields["height"], "{name}");
                header.verify(&genesis, &key_of(&vector)).unwrap();
                header.bytes().to_vec()
            }
            "block" => {
                let block = Block::parse(bytes).unwrap();
                assert!(block.is_canonically_ordered());
                assert_eq!(block.header().id().to_string(), vector.fields["header_id"]);
                block.encode()
            }
            "receipt" => {
                let receipt = Receipt::parse(bytes).unwrap();
                assert_eq!(receipt.outcome.name(), vector.fields["outcome"], "{name}");
                receipt.encode()
            }
            "vote" => {
                let vote = Vote::parse(bytes).unwrap();
                vote.verify(&genesis, &key_of(&vector)).unwrap();
                vote.encode().to_vec()
            }
            "certificate" => {
                let certificate = FinalityCertificate::parse(bytes).unwrap();
                for (authority, signature) in &certificate.signatures {
                    let vote = Vote { link: certificate.link, authority: *authority, signature: *signature };
                    vote.verify(&genesis, world.genesis.authorities.key(*authority).unwrap()).unwrap();
                }
                assert_eq!(certificate.finalizes().unwrap().height, vector.fields["finalizes_height"]);
                certificate.encode()
            }
            "report" => {
                let report = Report::parse(bytes).unwrap();
                report.verify(&genesis, &key_of(&vector)).unwrap();
                assert_eq!(report.price, vector.fields["price"]);
                report.bytes().to_vec()
            }
            "quote" => {
                let quote = Quote::parse(bytes).unwrap();
                let spec = world.feed();
                quote.verify(std::slice::from_ref(&spec), &genesis, |_| false).unwrap();
                assert_eq!(quote.aggregate(&spec).unwrap().price, vector.fields["price"]);
                quote.to_bytes().to_vec()
            }
            "equivocation" => {
                let evidence = Equivocation::parse(bytes).unwrap();
                evidence.verify(&genesis, &world.senders[1].public()).unwrap();
                evidence.encode().to_vec()
            }
            "value" => {
                let value = SignedValue::verify(bytes).unwrap();
                assert_eq!(vector.fields["lookup_key"], value.key().to_string(), "{name}");
                assert_eq!(vector.fields["owner"], value.owner().to_string(), "{name}");
                assert_eq!(vector.fields["sequence"], value.sequence(), "{name}");
                assert_eq!(vector.fields["expires_unix_s"], value.expires_unix_s(), "{name}");
                value.bytes().to_vec()
            }
            "record" => {
                let record = PeerRecord::verify(bytes).unwrap();
                assert_eq!(record.peer().to_string(), vector.fields["peer"]);
                record.bytes().to_vec()
            }
            other => panic!("{other} is not replayed"),
        };
        assert_eq!(hex::encode(again), vector.hex, "{name}");
        if !vector.signed.is_empty() {
            // The signature, found where the layout says, verifies over the bytes spelt out.
            assert!(is_signed(&vector), "{name}");
        }
    }
}

/// Checks the last 64 bytes as a signature over what the vector says was signed.
fn is_signed(vector: &NounVector) -> bool {
    let (bytes, signed) = (unhex(&vector.hex), unhex(&vector.signed));
    let signature = ghost_proto::Signature(*bytes.last_chunk::<64>().unwrap());
    let domain =
        [Domain::Transaction, Domain::Block, Domain::Vote, Domain::PeerRecord, Domain::Price, Domain::Value]
            .into_iter()
            .find(|domain| signed.starts_with(domain.tag()))
            .unwrap();
    vector.key.parse::<PublicKey>().unwrap().verify(domain, &[&signed[16..]], &signature).is_ok()
}

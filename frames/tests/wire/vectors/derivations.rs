//! What is computed from what: identifiers, names, order, roots.

use std::collections::BTreeMap;

use ghost_frames::reconcile::{CodedSymbol, SketchId};
use ghost_proto::{
    BlockId, KeyPair, LookupKey, PeerId, PublicKey, SignedTransaction, TxId,
    block::CanonicalKey,
    layout::{peek_varint, put_varint},
    merkle, record,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{freeze, unhex};
use crate::samples::{COMPACT_NONCE, SALT, State, World, compact_short_id, intrinsic_gas, lthash, short_id};
use crate::sketch;

/// One computed value.
#[derive(Debug, Serialize, Deserialize)]
struct Derivation {
    derivation: String,
    name: String,
    input: BTreeMap<String, Value>,
    output: Value,
}

fn derive(derivation: &str, name: &str, input: Value) -> Derivation {
    let input: BTreeMap<_, _> = input.as_object().unwrap().clone().into_iter().collect();
    let output = compute(derivation, &input);
    Derivation { derivation: derivation.into(), name: name.into(), input, output }
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    unhex(value.as_str().unwrap()).try_into().unwrap()
}

fn leaves(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().unwrap().iter().map(|leaf| unhex(leaf.as_str().unwrap())).collect()
}

/// The value a derivation gives, from the inputs written in the vector.
fn compute(derivation: &str, input: &BTreeMap<String, Value>) -> Value {
    match derivation {
        "varint" => {
            let mut out = Vec::new();
            put_varint(&mut out, input["value"].as_u64().unwrap());
            hex::encode(out).into()
        }
        "public_key" => KeyPair::from_seed(&array(&input["seed"])).public().to_string().into(),
        "spki" => {
            let mut out = unhex("302a300506032b6570032100");
            out.extend(array::<32>(&input["key"]));
            hex::encode(out).into()
        }
        "peer_id_bytes" => {
            let peer = record::peer_of(&PublicKey(array(&input["key"]))).unwrap();
            hex::encode(peer.to_bytes()).into()
        }
        "lookup_key_of_peer" => {
            let peer = PeerId::from_bytes(&unhex(input["peer_id_bytes"].as_str().unwrap())).unwrap();
            LookupKey::of_peer(&peer).to_string().into()
        }
        "peer_id_text" => {
            PeerId::from_bytes(&unhex(input["peer"].as_str().unwrap())).unwrap().to_string().into()
        }
        "address" => PublicKey(array(&input["key"])).address().to_string().into(),
        "multiaddr" => {
            let address: ghost_proto::Multiaddr = input["text"].as_str().unwrap().parse().unwrap();
            hex::encode(address.to_vec()).into()
        }
        "canonical_key" => {
            let bytes: [u8; 52] = {
                let (parent, sender) = (array::<32>(&input["parent"]), array::<20>(&input["sender"]));
                [parent.as_slice(), &sender].concat().try_into().unwrap()
            };
            blake3(&bytes).into()
        }
        "canonical_order" => {
            let parent = BlockId(array(&input["parent"]));
            let mut all: Vec<_> = leaves(&input["transactions"])
                .into_iter()
                .map(|bytes| SignedTransaction::parse(bytes.into()).unwrap())
                .collect();
            ghost_proto::block::sort_canonically(&parent, &mut all);
            assert!(all.is_sorted_by_key(|tx| CanonicalKey::of(&parent, tx)));
            all.iter().map(|tx| Value::from(tx.id().to_string())).collect()
        }
        "merkle_root" => hex::encode(merkle::root(leaves(&input["leaves"]))).into(),
        "merkle_proof" => {
            let leaves = leaves(&input["leaves"]);
            let index = input["index"].as_u64().unwrap() as usize;
            let path = merkle::proof(&leaves, index).unwrap();
            assert!(merkle::verify(&leaves[index], index, leaves.len(), &path, &merkle::root(&leaves)));
            path.iter().map(|hash| Value::from(hex::encode(hash))).collect()
        }
        "state_commitment" => {
            let pair = |entry: &Value| (unhex(entry[0].as_str().unwrap()), unhex(entry[1].as_str().unwrap()));
            let entries: Vec<_> = input["entries"].as_array().unwrap().iter().map(pair).collect();
            hex::encode(lthash(&entries)).into()
        }
        "short_id" => {
            let id = short_id(&array(&input["salt"]), &TxId(array(&input["id"])));
            hex::encode(id.0.to_be_bytes()).into()
        }
        "sketch_keys" => {
            let (id, check) = sketch::keys(&array(&input["connection_key"]), nonce(input));
            json!({ "id_key": hex::encode(id), "check_key": hex::encode(check) })
        }
        "sketch_item" => {
            let (id, check) =
                sketch::item(&array(&input["connection_key"]), nonce(input), &TxId(array(&input["id"])));
            json!({ "sketch_id": format!("{:016x}", id.0), "check": format!("{check:08x}") })
        }
        "sketch_indexes" => {
            let id = u64::from_str_radix(input["sketch_id"].as_str().unwrap(), 16).unwrap();
            json!(sketch::indexes(SketchId(id), input["below"].as_u64().unwrap() as u32))
        }
        "coded_symbols" => {
            let set: Vec<TxId> = input["ids"].as_array().unwrap().iter().map(|id| TxId(array(id))).collect();
            let (first, count) = (input["first"].as_u64().unwrap(), input["count"].as_u64().unwrap());
            let symbols = sketch::symbols(
                &array(&input["connection_key"]),
                nonce(input),
                &set,
                first as u32,
                count as u32,
            );
            let row = |symbol: &CodedSymbol| {
                json!([format!("{:016x}", symbol.sum), format!("{:08x}", symbol.check), symbol.count])
            };
            symbols.iter().map(row).collect()
        }
        "compact_short_id" => {
            let nonce = u64::from_be_bytes(array(&input["nonce"]));
            let id = compact_short_id(&BlockId(array(&input["block"])), nonce, &TxId(array(&input["id"])));
            hex::encode(id).into()
        }
        "intrinsic_gas" => intrinsic_gas(&unhex(input["payload"].as_str().unwrap())).into(),
        "fee_class" => input["gas_price"].as_u64().unwrap().max(1).ilog2().into(),
        other => panic!("{other} is not computed"),
    }
}

/// A nonce stands as hex: as a number some readers would round it.
fn nonce(input: &BTreeMap<String, Value>) -> u64 {
    u64::from_str_radix(input["nonce"].as_str().unwrap(), 16).unwrap()
}

/// BLAKE3 of plain bytes.
pub(super) fn blake3(bytes: &[u8]) -> String {
    ::blake3::hash(bytes).to_hex().to_string()
}

fn derivations(world: &World) -> Vec<Derivation> {
    let seed = "21".repeat(32);
    let key = world.node.public();
    let peer = hex::encode(world.peer().to_bytes());
    let parent = world.genesis.block_id().to_string();
    let sender = |n: usize| hex::encode(world.senders[n].address().0);
    let mut shuffled: Vec<_> = world.transactions.iter().map(|tx| hex::encode(tx.bytes())).collect();
    shuffled.rotate_left(1);
    let ids: Vec<_> = world.transactions.iter().map(|tx| tx.id().to_string()).collect();
    let receipts: Vec<_> = world.receipts.iter().map(|receipt| hex::encode(receipt.encode())).collect();
    let numbers = |n: u8| (0..n).map(|leaf| hex::encode([leaf])).collect::<Vec<_>>();

    let entries = |state: &State| -> Vec<_> {
        state.entries().iter().map(|(key, value)| [hex::encode(key), hex::encode(value)]).collect()
    };

    let sketch_key = hex::encode(sketch::CONNECTION_KEY);
    let thousand: Vec<String> = (0..1_000u32).map(|n| format!("{n:08x}").repeat(8)).collect();
    let mut all = vec![
        derive("public_key", "ed25519 public key of a 32-byte seed (RFC 8032)", json!({ "seed": seed })),
        derive(
            "spki",
            "the key as it stands in the TLS Certificate message",
            json!({ "key": key.to_string() }),
        ),
        derive(
            "peer_id_bytes",
            "the PeerId of the key, as in records and answers",
            json!({ "key": key.to_string() }),
        ),
        derive("lookup_key_of_peer", "where lookups find the peer", json!({ "peer_id_bytes": peer })),
        derive("peer_id_text", "the same in base58btc, as in multiaddrs", json!({ "peer": peer })),
        derive("address", "the account of the key", json!({ "key": key.to_string() })),
        derive(
            "multiaddr",
            "an address as it stands in records and hello",
            json!({ "text": "/ip4/192.0.2.7/udp/4001/quic-v1" }),
        ),
        derive("multiaddr", "over IPv6", json!({ "text": "/ip6/2001:db8::1/udp/4001/quic-v1" })),
        derive("multiaddr", "by name", json!({ "text": "/dns/seed.example.org/udp/4001/quic-v1" })),
        derive(
            "multiaddr",
            "with a peer",
            json!({ "text": format!("/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{}", world.peer()) }),
        ),
        derive(
            "canonical_key",
            "of the first sender in a child of genesis",
            json!({ "parent": parent, "sender": sender(0) }),
        ),
        derive("canonical_key", "of the second sender", json!({ "parent": parent, "sender": sender(1) })),
        derive(
            "canonical_order",
            "ids in the order of a child of genesis",
            json!({ "parent": parent, "transactions": shuffled }),
        ),
        derive("merkle_root", "the transaction root of the block of height 1", json!({ "leaves": ids })),
        derive("merkle_root", "the receipt root of the block of height 1", json!({ "leaves": receipts })),
        derive("merkle_root", "of no leaves", json!({ "leaves": [] })),
        derive(
            "merkle_proof",
            "of leaf 4 of 7, lowest sibling first",
            json!({ "leaves": numbers(7), "index": 4 }),
        ),
        derive("merkle_proof", "of the last leaf of 5", json!({ "leaves": numbers(5), "index": 4 })),
        derive(
            "short_id",
            "of a transaction for the peer with this salt",
            json!({ "salt": hex::encode(SALT), "id": ids[0] }),
        ),
        derive(
            "short_id",
            "the same transaction for another peer",
            json!({ "salt": "ff".repeat(16), "id": ids[0] }),
        ),
        derive(
            "sketch_keys",
            "of a connection and a nonce",
            json!({ "connection_key": sketch_key, "nonce": format!("{:016x}", sketch::NONCE) }),
        ),
        derive(
            "sketch_item",
            "of a transaction",
            json!({ "connection_key": sketch_key, "nonce": format!("{:016x}", sketch::NONCE), "id": ids[0] }),
        ),
        derive("sketch_indexes", "of 1", json!({ "sketch_id": "0000000000000001", "below": 131_072 })),
        derive("sketch_indexes", "of 0", json!({ "sketch_id": "0000000000000000", "below": 131_072 })),
        derive("sketch_indexes", "of all ones", json!({ "sketch_id": "ffffffffffffffff", "below": 131_072 })),
        derive(
            "coded_symbols",
            "of the three transactions of the block of height 1",
            json!({
                "connection_key": sketch_key, "nonce": format!("{:016x}", sketch::NONCE), "ids": ids, "first": 0, "count": 16,
            }),
        ),
        derive(
            "coded_symbols",
            "of a thousand made-up ids, each its number in four bytes, eight times; around the last count",
            json!({
                "connection_key": sketch_key, "nonce": "0000000000000000", "ids": thousand, "first": 70, "count": 20,
            }),
        ),
        derive(
            "compact_short_id",
            "of the first transaction in the compact block of height 1",
            json!({
                "block": hex::encode(world.block.header().id().0),
                "nonce": hex::encode(COMPACT_NONCE.to_be_bytes()),
                "id": ids[0],
            }),
        ),
        derive("state_commitment", "of nothing", json!({ "entries": [] })),
        derive(
            "state_commitment",
            "of the genesis",
            json!({ "entries": entries(&State::of(&world.genesis)) }),
        ),
        derive("state_commitment", "of the block of height 1", json!({ "entries": entries(&world.state) })),
        derive("intrinsic_gas", "of an empty payload", json!({ "payload": "" })),
        derive(
            "intrinsic_gas",
            "of five other bytes and a zero",
            json!({ "payload": hex::encode(b"hello\0") }),
        ),
    ];
    for n in [1, 2, 3, 4, 5, 7] {
        all.push(derive("merkle_root", &format!("of {n} one-byte leaves"), json!({ "leaves": numbers(n) })));
    }
    for value in
        [0, 37, 63, 64, 15_293, 16_383, 16_384, 494_878_333, (1 << 30) - 1, 1 << 30, (1u64 << 62) - 1]
    {
        all.push(derive("varint", &value.to_string(), json!({ "value": value })));
    }
    for price in [0, 1, 2, 3, 4, u64::MAX] {
        all.push(derive("fee_class", &price.to_string(), json!({ "gas_price": price })));
    }
    all
}

#[test]
fn derivations_replay() {
    let world = World::new();
    for vector in freeze("derivations.json", &derivations(&world)) {
        assert_eq!(compute(&vector.derivation, &vector.input), vector.output, "{}", vector.name);
        if vector.derivation == "varint" {
            let bytes = unhex(vector.output.as_str().unwrap());
            assert_eq!(peek_varint(&bytes), Some((vector.input["value"].as_u64().unwrap(), bytes.len())));
        }
    }
    assert_eq!(
        world.block.header().tx_root,
        merkle::root(world.transactions.iter().map(SignedTransaction::id))
    );
}

//! The vectors of the wire are a chain that this node takes.
use std::sync::Arc;

use bytes::Bytes;
use ghost_node::{chain::Chain, store::MemoryStore};
use ghost_proto::{Block, FinalityCertificate, Genesis};

fn vector(noun: &str, name: &str) -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../frames/vectors/nouns.json");
    let all: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    all.into_iter().find(|v| v["noun"] == noun && v["name"] == name).unwrap()
}

fn bytes(vector: &serde_json::Value) -> Bytes {
    hex::decode(vector["hex"].as_str().unwrap()).unwrap().into()
}

#[test]
fn the_wire_vectors_are_a_chain_that_this_node_takes() {
    let genesis = vector("genesis", "the chain of all vectors");
    let genesis = Arc::new(Genesis::from_toml(genesis["toml"].as_str().unwrap()).unwrap());
    let mut chain = Chain::open(genesis.clone(), Arc::new(MemoryStore::new()), None, [1; 32]).unwrap();
    let now = genesis.slot_start_unix_ms(3);
    let one = Block::parse(bytes(&vector("block", "with three transactions of two senders"))).unwrap();
    let two = Block::parse(bytes(&vector("header", "of an empty block"))).unwrap();
    chain.import(one.clone(), |_| false, now).unwrap();
    chain.import(two, |_| false, now).unwrap();
    assert_eq!(chain.head().height, 2);
    let certificate =
        FinalityCertificate::parse(bytes(&vector("certificate", "of authorities 0, 1 and 3"))).unwrap();
    chain.on_certificate(&certificate).unwrap();
    assert_eq!((chain.justified().height, chain.finalized().height), (2, 1));
    assert_eq!(chain.finalized().id, one.header().id());
}

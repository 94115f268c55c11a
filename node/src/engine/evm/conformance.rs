//! Ethereum's results and gas, through the path of our transactions: signed, bought, executed, paid for.
//!
//! `tests/conformance/cases.json` says what to expect; `fill.py` beside it says where that comes from.
//! What differs by rule, and is held here: the sender is an ed25519 account, and the whole fee goes to the
//! proposer (nothing is burned), so only the gas is compared, and the fee is what the gas costs.

use std::{collections::BTreeMap, sync::Arc};

use ghost_proto::{KeyPair, Transaction};
use revm::primitives::keccak256;
use serde::Deserialize;

use super::*;
use crate::{
    chain::state::{Account, BlockState, Contract, NoAncestors, Snapshot, code_key},
    engine::Engines,
    store::{MemoryStore, Records},
};

#[derive(Deserialize)]
struct Case {
    name: String,
    pre: BTreeMap<String, Before>,
    input: String,
    value: u64,
    gas_limit: u64,
    outcome: String,
    gas_used: u64,
    output: String,
    logs: Vec<Log>,
    post: BTreeMap<String, After>,
}

#[derive(Deserialize)]
struct Before {
    balance: u64,
    code: String,
    storage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct After {
    balance: u64,
    nonce: u64,
    storage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Log {
    address: String,
    topics: Vec<String>,
    data: String,
}

const PROPOSER: Address = Address([0xee; 20]);
const FUNDS: u128 = 1 << 90;
const GAS_PRICE: u64 = 100;
/// The contract that every case calls.
const MAIN: &str = "00000000000000000000000000000000000a0001";

fn address(text: &str) -> Address {
    Address(hex::decode(text).unwrap().try_into().unwrap())
}

/// A number in hex without leading zeros, as a word.
fn word(text: &str) -> [u8; 32] {
    let digits = text.strip_prefix("0x").unwrap();
    hex::decode(format!("{digits:0>64}")).unwrap().try_into().unwrap()
}

fn holds(case: &Case) {
    let name = &case.name;
    let parent = BlockState {
        snapshot: Snapshot::of_finalized(Records::new(Arc::new(MemoryStore::new()))),
        lthash: Arc::default(),
        changed: Arc::new([]),
        dex: Default::default(),
    };
    let mut state = WorkingState::new(&parent, &NoAncestors);
    let key = KeyPair::from_seed(&[1; 32]);
    state.set_account(&key.address(), &Account::plain(0, FUNDS)).unwrap();
    for (at, before) in &case.pre {
        let code = hex::decode(&before.code).unwrap();
        let code_hash = keccak256(&code).0;
        state.put(&code_key(&code_hash), Some(&code)).unwrap();
        let contract = Some(Contract { engine: EngineId::EVM, code_hash });
        let account = Account { nonce: 1, balance: before.balance.into(), contract };
        state.set_account(&address(at), &account).unwrap();
        for (slot, value) in &before.storage {
            state.set_storage(&address(at), &word(slot), &word(value)).unwrap();
        }
    }
    let context = BlockContext {
        chain_id: 7,
        height: 1,
        slot: 1,
        time_unix_ms: 1_000,
        proposer: PROPOSER,
        gas_price_min: 7,
        gas_left: u64::MAX,
    };
    let body = Transaction {
        chain_id: 7,
        sender_key: key.public(),
        nonce: 0,
        gas_limit: case.gas_limit,
        gas_price: GAS_PRICE,
        action: Action::Call {
            to: address(MAIN),
            value: case.value.into(),
            input: hex::decode(&case.input).unwrap().into(),
        },
    };
    let receipt =
        Engines::new(&tests::genesis()).execute(&body.sign(&key).unwrap(), &mut state, &context).unwrap();

    let outcome = match case.outcome.as_str() {
        "done" => Outcome::Done,
        "reverted" => Outcome::Reverted,
        "out of gas" => Outcome::OutOfGas,
        "fault" => Outcome::Fault,
        other => panic!("{name}: an outcome {other}"),
    };
    assert_eq!(receipt.outcome, outcome, "{name}");
    assert_eq!(receipt.gas_used, case.gas_used, "{name}: gas");
    assert_eq!(hex::encode(&receipt.output), case.output, "{name}: output");
    let logs = receipt.logs.iter().map(|log| {
        let topics: Vec<_> = log.topics.iter().map(hex::encode).collect();
        (hex::encode(log.address.0), topics, hex::encode(&log.data))
    });
    let expected = case.logs.iter().map(|log| (log.address.clone(), log.topics.clone(), log.data.clone()));
    assert!(logs.eq(expected), "{name}: logs {:?}", receipt.logs);

    let fee = u128::from(case.gas_used) * u128::from(GAS_PRICE);
    let paid = if outcome == Outcome::Done { u128::from(case.value) } else { 0 };
    let sender = state.account(&key.address()).unwrap();
    assert_eq!((sender.nonce, sender.balance), (1, FUNDS - fee - paid), "{name}: the sender");
    assert_eq!(state.account(&PROPOSER).unwrap().balance, fee, "{name}: the proposer");

    // Read from the state after the block, as callers do.
    let after = state.finish().snapshot;
    for (at, expected) in &case.post {
        let account = after.account(&address(at)).unwrap();
        assert_eq!(
            (account.balance, account.nonce),
            (expected.balance.into(), expected.nonce),
            "{name}: {at}"
        );
        for slot in 0..=255u8 {
            let mut key = [0; 32];
            key[31] = slot;
            let found = after.storage(&address(at), &key).unwrap();
            let expected = expected.storage.get(&format!("{slot:#x}")).map_or([0; 32], |value| word(value));
            assert_eq!(hex::encode(found), hex::encode(expected), "{name}: {at} slot {slot}");
        }
    }
}

#[test]
fn ethereums_arithmetic_storage_and_calls_agree_in_result_and_gas() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/conformance/cases.json")).unwrap();
    for family in ["arithmetic/", "storage/", "call/", "create/", "log/", "flow/", "memory/", "hash/"] {
        assert!(cases.iter().any(|case| case.name.starts_with(family)), "no case of {family}");
    }
    assert_eq!(cases.len(), 95);
    cases.iter().for_each(holds);
}

use std::sync::Arc;

use ghost_proto::{KeyPair, Transaction};
use revm::primitives::keccak256;

use super::*;
use crate::{
    chain::state::{BlockState, NoAncestors, Snapshot},
    engine::{Engines, Stop},
    store::{MemoryStore, Records},
};

const PROPOSER: Address = Address([0xee; 20]);
const FUNDS: u128 = 1 << 60;
const COUNTER: &str = include_str!("../../../contracts/counter/counter.wat");

fn key() -> KeyPair {
    KeyPair::from_seed(&[1; 32])
}

fn context() -> BlockContext {
    BlockContext {
        chain_id: 7,
        height: 9,
        slot: 12,
        time_unix_ms: 5_999,
        proposer: PROPOSER,
        gas_price_min: 2,
        gas_left: 100_000_000,
    }
}

fn empty() -> BlockState {
    BlockState {
        snapshot: Snapshot::of_finalized(Records::new(Arc::new(MemoryStore::new()))),
        lthash: Arc::default(),
        changed: Arc::new([]),
        dex: Default::default(),
    }
}

fn funded(parent: &BlockState) -> WorkingState<'_> {
    let mut state = WorkingState::new(parent, &NoAncestors);
    state.set_account(&key().address(), &Account::plain(0, FUNDS)).unwrap();
    state
}

fn send_with(state: &mut WorkingState<'_>, gas_limit: u64, action: Action) -> Receipt {
    let nonce = state.account(&key().address()).unwrap().nonce;
    let tx = Transaction { chain_id: 7, sender_key: key().public(), nonce, gas_limit, gas_price: 3, action };
    Engines::new(&crate::engine::evm::tests::genesis())
        .execute(&tx.sign(&key()).unwrap(), state, &context())
        .unwrap()
}

fn send(state: &mut WorkingState<'_>, action: Action) -> Receipt {
    send_with(state, 50_000_000, action)
}

fn deploy(wat: &str) -> Action {
    let code = wat::parse_str(wat).unwrap().into();
    Action::Deploy { engine: EngineId::WASM, value: 0, code, input: Bytes::new() }
}

fn deployed(state: &mut WorkingState<'_>, wat: &str) -> Address {
    let receipt = send(state, deploy(wat));
    assert_eq!(receipt.outcome, Outcome::Done, "{receipt:?}");
    receipt.created.unwrap()
}

fn call(to: Address, input: &[u8]) -> Action {
    Action::Call { to, value: 0, input: Bytes::copy_from_slice(input) }
}

/// A module with one page of memory whose `call` is this, with every import that a test may want.
fn module(body: &str) -> String {
    format!(
        r#"(module
        (import "ghost" "input_len" (func $input_len (result i32)))
        (import "ghost" "input" (func $input (param i32 i32 i32)))
        (import "ghost" "caller" (func $caller (param i32)))
        (import "ghost" "contract" (func $contract (param i32)))
        (import "ghost" "value" (func $value (param i32)))
        (import "ghost" "balance" (func $balance (param i32 i32)))
        (import "ghost" "transfer" (func $transfer (param i32 i32) (result i32)))
        (import "ghost" "storage_write" (func $storage_write (param i32 i32)))
        (import "ghost" "log" (func $log (param i32 i32 i32 i32)))
        (import "ghost" "output" (func $output (param i32 i32)))
        (import "ghost" "revert" (func $revert (param i32 i32)))
        (import "ghost" "keccak256" (func $keccak256 (param i32 i32 i32)))
        (import "ghost" "blake3" (func $blake3 (param i32 i32 i32)))
        (import "ghost" "block_height" (func $block_height (result i64)))
        (import "ghost" "block_time_ms" (func $block_time_ms (result i64)))
        (import "ghost" "chain_id" (func $chain_id (result i64)))
        (memory (export "memory") 1)
        (func (export "call") {body}))"#
    )
}

fn ends(state: &mut WorkingState<'_>, body: &str, input: &[u8]) -> Receipt {
    let contract = deployed(state, &module(body));
    send(state, call(contract, input))
}

fn simulation(to: Address) -> Simulation {
    Simulation { from: key().address(), to: Some(to), value: 0, input: Bytes::new(), gas_limit: 30_000_000 }
}

const LOOP: &str = "(loop $again (br $again))";

#[test]
fn the_module_in_the_tree_is_made_from_the_text_beside_it() {
    let made = include_bytes!("../../../contracts/counter/counter.wasm");
    assert!(wat::parse_str(COUNTER).unwrap() == made, "run `wat2wasm` or the `wat` crate again");
}

#[test]
fn a_contract_is_deployed_called_and_remembered() {
    let parent = empty();
    let mut state = funded(&parent);
    let counter = deployed(&mut state, COUNTER);
    let rlp = [&[0xd6, 0x94], key().address().0.as_slice(), &[0x80]].concat();
    assert_eq!(counter.0, keccak256(rlp)[12..]);
    for count in 1..=300u16 {
        let receipt = send(&mut state, call(counter, &[]));
        let mut word = [0; 32];
        word[30..].copy_from_slice(&count.to_be_bytes());
        let mut topic = [0; 32];
        topic[31] = 0x77;
        assert_eq!((receipt.outcome, receipt.output.as_ref()), (Outcome::Done, word.as_slice()));
        assert_eq!((receipt.logs[0].topics[0], receipt.logs[0].data.as_ref()), (topic, word.as_slice()));
        assert_eq!(state.storage(&counter, &[0; 32]).unwrap(), word);
    }
    let after = state.finish();
    let account = after.snapshot.account(&counter).unwrap();
    let contract = account.contract.unwrap();
    assert_eq!((account.nonce, contract.engine), (1, EngineId::WASM));
    assert_eq!(
        after.snapshot.code(&contract.code_hash).unwrap().unwrap().as_ref(),
        wat::parse_str(COUNTER).unwrap()
    );
}

#[test]
fn a_container_deploys_the_same_contract() {
    let parent = empty();
    let mut state = funded(&parent);
    let plain = deployed(&mut state, COUNTER);
    let code: Bytes = wat::parse_str(COUNTER).unwrap().into();
    let container = Container { target: Target::Wasm, code, abi: Bytes::from_static(b"[]") };
    let action = |code: Vec<u8>| Action::Deploy {
        engine: EngineId::ZVM,
        value: 0,
        code: code.into(),
        input: Bytes::new(),
    };
    let receipt = send(&mut state, action(container.encode()));
    let wrapped = receipt.created.unwrap();
    let [a, b] = [plain, wrapped].map(|it| state.account(&it).unwrap().contract);
    assert_eq!(a, b);
    assert_eq!(send(&mut state, call(wrapped, &[])).output[31], 1);
    // What is no module in it is refused with its reason.
    let garbage = Container { code: Bytes::from_static(b"wasm"), ..container };
    let refused = send(&mut state, action(garbage.encode()));
    assert_eq!(refused.outcome, Outcome::CodeRefused);
    assert!(refused.output.starts_with(b"not a module"), "{refused:?}");
}

#[test]
fn every_unit_of_gas_goes_to_the_proposer_and_supply_is_kept() {
    let parent = empty();
    let mut state = funded(&parent);
    let reverts = module(
        "(call $storage_write (i32.const 0) (i32.const 32)) (call $revert (i32.const 0) (i32.const 2))",
    );
    let traps = module("unreachable");
    let pays = module("(call $storage_write (i32.const 64) (i32.const 0))");
    let contracts = [COUNTER, &reverts, &traps, &pays, &module(LOOP)].map(|wat| deployed(&mut state, wat));
    let receipts = contracts.map(|to| {
        let action = Action::Call { to, value: 500, input: Bytes::new() };
        send_with(&mut state, 200_000, action)
    });
    let outcomes = receipts.each_ref().map(|receipt| receipt.outcome);
    let [done, reverted, fault, gas] = [Outcome::Done, Outcome::Reverted, Outcome::Fault, Outcome::OutOfGas];
    assert_eq!(outcomes, [done, reverted, fault, done, gas]);
    assert_eq!(receipts[1].output.as_ref(), [0, 0]);
    assert!(receipts[1].gas_used < 40_000);
    assert_eq!((receipts[2].gas_used, receipts[4].gas_used), (200_000, 200_000));
    let held = contracts.map(|contract| state.account(&contract).unwrap().balance);
    assert_eq!(held, [500, 0, 0, 500, 0]);
    let sender = state.account(&key().address()).unwrap();
    assert_eq!(sender.nonce, 10);
    assert_eq!(sender.balance + state.account(&PROPOSER).unwrap().balance + 1_000, FUNDS);
    let too_much = Action::Call { to: contracts[0], value: u128::MAX >> 1, input: Bytes::new() };
    assert_eq!(send(&mut state, too_much), Receipt::plain(Outcome::InsufficientBalance, 21_000));
}

#[test]
fn gas_is_counted_by_the_instruction() {
    let parent = empty();
    let mut state = funded(&parent);
    let used = |state: &mut WorkingState<'_>, count: usize| {
        // Two instructions each: a load of a constant, and a store.
        let body = "(i32.store (i32.const 0) (i32.const 7))".repeat(count);
        let receipt = ends(state, &body, &[]);
        (receipt.gas_used, wat::parse_str(module(&body)).unwrap().len() as u64)
    };
    let ((one, bytes_of_one), (more, bytes_of_more)) = (used(&mut state, 1), used(&mut state, 101));
    let of_code = bytes_of_more / CODE_BYTES_PER_GAS - bytes_of_one / CODE_BYTES_PER_GAS;
    assert_eq!(more - one - of_code, 100 * 3 / FUEL_PER_GAS);
    assert_eq!(gas_of_instance(&Compiled::of(&wat::parse_str(COUNTER).unwrap()).unwrap()) / 1_000, 3);
}

#[test]
fn a_run_in_slices_is_the_run_in_one() {
    let parent = empty();
    let mut state = funded(&parent);
    // Counts down from three million, then hashes and writes.
    let contract = deployed(
        &mut state,
        &module(
            "(local $left i32) (local.set $left (i32.const 1000000))
             (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
             (drop (memory.grow (i32.const 20)))
             (call $keccak256 (i32.const 0) (i32.const 4096) (i32.const 64))
             (call $storage_write (i32.const 0) (i32.const 64))
             (call $output (i32.const 64) (i32.const 32))",
        ),
    );
    let block = state.finish();
    let mut thrown_away = WorkingState::new(&block, &NoAncestors);
    let sliced =
        simulation(contract).run(&mut thrown_away, &context(), Until::Stopped(&Stop::default())).unwrap();
    let mut real = WorkingState::new(&block, &NoAncestors);
    let whole = send_with(&mut real, 30_000_000, call(contract, &[]));
    assert!(whole.gas_used > 3 * FUEL_SLICE);
    assert_eq!(
        (sliced.outcome, sliced.gas_used, &sliced.output),
        (whole.outcome, whole.gas_used, &whole.output)
    );
    assert_eq!(whole.output.as_ref(), keccak256([0; 4096]).as_slice());
    // With one unit less it does not end, either way.
    let mut real = WorkingState::new(&block, &NoAncestors);
    assert_eq!(send_with(&mut real, whole.gas_used, call(contract, &[])).outcome, Outcome::Done);
    let less = Simulation { gas_limit: whole.gas_used - 1, ..simulation(contract) };
    let mut real = WorkingState::new(&block, &NoAncestors);
    assert_eq!(send_with(&mut real, whole.gas_used - 1, call(contract, &[])).outcome, Outcome::OutOfGas);
    let sliced = less.run(&mut thrown_away, &context(), Until::Stopped(&Stop::default())).unwrap();
    assert_eq!(sliced.outcome, Outcome::OutOfGas);
}

#[test]
fn what_is_no_contract_is_refused_with_its_reason() {
    let parent = empty();
    let mut state = funded(&parent);
    let with = |rest: &str| format!(r#"(module (memory (export "memory") 1) (func (export "call")) {rest})"#);
    let mut refused = |wat: &str, why: &str| {
        let receipt = send(&mut state, deploy(wat));
        let output = String::from_utf8_lossy(&receipt.output).into_owned();
        assert_eq!(receipt.outcome, Outcome::CodeRefused, "{wat}");
        assert!(output.contains(why), "{wat}: {output}");
        assert!(receipt.created.is_none());
    };
    refused(&with("(func (result f32) (f32.const 1))"), "floating-point support is disabled");
    refused(&with("(func (param f64))"), "offset 0x");
    refused(&with("(func $s) (start $s)"), "start");
    refused(&with("(memory 1)"), "memor");
    refused(
        r#"(module (import "env" "time" (func)) (memory (export "memory") 1) (func (export "call")))"#,
        "imports `env.time`",
    );
    refused(
        r#"(module (import "ghost" "memory" (memory 1)) (func (export "call")))"#,
        "imports `ghost.memory`",
    );
    refused(
        r#"(module (import "ghost" "caller" (func (param i64))) (memory (export "memory") 1) (func (export "call")))"#,
        "as (i64) -> (); its type is (i32) -> ()",
    );
    refused(r#"(module (memory 1) (func (export "call")))"#, "memory as `memory`");
    refused(r#"(module (memory (export "memory") 1))"#, "a function `call`");
    refused(
        r#"(module (memory (export "memory") 1) (func (export "call") (param i32)))"#,
        "without parameters",
    );
    refused(r#"(module (memory (export "memory") 65) (func (export "call")))"#, "begins with 65 pages; 64");
    refused(&with("(func (result externref) (ref.null extern))"), "offset 0x");
    let input = Bytes::from_static(b"hello");
    let action = Action::Deploy {
        engine: EngineId::WASM,
        value: 0,
        code: wat::parse_str(COUNTER).unwrap().into(),
        input,
    };
    let receipt = send(&mut state, action);
    assert!(String::from_utf8_lossy(&receipt.output).contains("no function `deploy`"), "{receipt:?}");
}

#[test]
fn bounds_of_memory_tables_and_length_from_both_sides() {
    let parent = empty();
    let mut state = funded(&parent);
    let outcome = |state: &mut WorkingState<'_>, wat: &str| send(state, deploy(wat)).outcome;
    let pages = |pages| format!(r#"(module (memory (export "memory") {pages}) (func (export "call")))"#);
    assert_eq!(outcome(&mut state, &pages(MEMORY_PAGES_MAX)), Outcome::Done);
    let table = |elements| {
        format!(r#"(module (memory (export "memory") 1) (table {elements} funcref) (func (export "call")))"#)
    };
    assert_eq!(outcome(&mut state, &table(TABLE_ELEMENTS_MAX)), Outcome::Done);
    assert_eq!(outcome(&mut state, &table(TABLE_ELEMENTS_MAX + 1)), Outcome::CodeRefused);
    let beyond =
        r#"(module (memory (export "memory") 1) (data (i32.const 65536) "x") (func (export "call")))"#;
    assert_eq!(outcome(&mut state, beyond), Outcome::CodeRefused);
    let long = |data: usize| {
        let wat = format!(
            r#"(module (memory (export "memory") 2) (func (export "call")) (data (i32.const 0) "{}"))"#,
            "a".repeat(data)
        );
        wat::parse_str(wat).unwrap()
    };
    let frame = long(90_000).len() - 90_000;
    assert_eq!(long(MODULE_BYTES_MAX - frame).len(), MODULE_BYTES_MAX);
    assert!(Compiled::of(&long(MODULE_BYTES_MAX - frame)).is_ok());
    let longer = Compiled::of(&long(MODULE_BYTES_MAX - frame + 1));
    assert_eq!(longer.unwrap_err(), ModuleError::Length(MODULE_BYTES_MAX + 1));

    // Growing ends at the same place: the contract is told so by −1.
    let grow = |by: u32| {
        format!(
            "(i32.store (i32.const 0) (memory.grow (i32.const {by}))) (call $output (i32.const 0) (i32.const 4))"
        )
    };
    assert_eq!(ends(&mut state, &grow(MEMORY_PAGES_MAX - 1), &[]).output.as_ref(), [1, 0, 0, 0]);
    assert_eq!(ends(&mut state, &grow(MEMORY_PAGES_MAX), &[]).output.as_ref(), [255; 4]);
}

#[test]
fn pointers_beyond_the_memory_are_faults() {
    let parent = empty();
    let mut state = funded(&parent);
    let mut outcome = |body: &str| ends(&mut state, body, &[1, 2, 3]).outcome;
    assert_eq!(outcome("(call $output (i32.const 65536) (i32.const 0))"), Outcome::Done);
    assert_eq!(outcome("(call $output (i32.const 65536) (i32.const 1))"), Outcome::Fault);
    assert_eq!(outcome("(call $output (i32.const -1) (i32.const 2))"), Outcome::Fault);
    assert_eq!(outcome("(call $caller (i32.const 65516))"), Outcome::Done);
    assert_eq!(outcome("(call $caller (i32.const 65517))"), Outcome::Fault);
    assert_eq!(outcome("(call $input (i32.const 1) (i32.const 0) (i32.const 2))"), Outcome::Done);
    assert_eq!(outcome("(call $input (i32.const 1) (i32.const 0) (i32.const 3))"), Outcome::Fault);
    assert_eq!(outcome("(call $storage_write (i32.const 0) (i32.const 65505))"), Outcome::Fault);
    let log = |count| format!("(call $log (i32.const 0) (i32.const {count}) (i32.const 0) (i32.const 0))");
    assert_eq!(outcome(&log(4)), Outcome::Done);
    assert_eq!(outcome(&log(5)), Outcome::Fault);
    // More than all gas buys, and no copy of it is made.
    assert_eq!(outcome("(call $output (i32.const 0) (i32.const -1))"), Outcome::OutOfGas);
}

#[test]
fn a_recursion_ends() {
    let parent = empty();
    let mut state = funded(&parent);
    let endless = r#"(module (memory (export "memory") 1) (func $f (export "call") (call $f)))"#;
    let contract = deployed(&mut state, endless);
    assert_eq!(send(&mut state, call(contract, &[])).outcome, Outcome::Fault);
}

#[test]
fn the_host_tells_what_is() {
    let parent = empty();
    let mut state = funded(&parent);
    let contract = deployed(
        &mut state,
        &module(
            "(i64.store (i32.const 0) (call $block_height))
             (i64.store (i32.const 8) (call $block_time_ms))
             (i64.store (i32.const 16) (call $chain_id))
             (i32.store (i32.const 24) (call $input_len))
             (call $input (i32.const 0) (i32.const 28) (i32.const 4))
             (call $caller (i32.const 32)) (call $contract (i32.const 52))
             (call $value (i32.const 72)) (call $balance (i32.const 52) (i32.const 88))
             (call $keccak256 (i32.const 28) (i32.const 4) (i32.const 104))
             (call $blake3 (i32.const 28) (i32.const 4) (i32.const 136))
             (call $output (i32.const 0) (i32.const 168))",
        ),
    );
    let account = state.account(&contract).unwrap();
    state.set_account(&contract, &Account { balance: 90, ..account }).unwrap();
    let action = Action::Call { to: contract, value: 10, input: Bytes::from_static(b"ghst") };
    let receipt = send(&mut state, action);
    let expected = [
        9u64.to_le_bytes().as_slice(),
        &5_999u64.to_le_bytes(),
        &7u64.to_le_bytes(),
        &4u32.to_le_bytes(),
        b"ghst",
        &key().address().0,
        &contract.0,
        &10u128.to_be_bytes(),
        &100u128.to_be_bytes(),
        keccak256(b"ghst").as_slice(),
        blake3::hash(b"ghst").as_bytes(),
    ]
    .concat();
    assert_eq!((receipt.outcome, receipt.output.as_ref()), (Outcome::Done, expected.as_slice()));
}

#[test]
fn a_contract_pays_what_it_has_to_whom_it_may() {
    let parent = empty();
    let mut state = funded(&parent);
    // input: address (20), value (16)
    let payer = deployed(
        &mut state,
        &module(
            "(call $input (i32.const 0) (i32.const 0) (i32.const 36))
             (i32.store (i32.const 64) (call $transfer (i32.const 0) (i32.const 20)))
             (call $output (i32.const 64) (i32.const 1))",
        ),
    );
    let counter = deployed(&mut state, COUNTER);
    let mut pay = |to: Address, value: u128, with: u128| {
        let input = [to.0.as_slice(), &value.to_be_bytes()].concat().into();
        let receipt = send(&mut state, Action::Call { to: payer, value: with, input });
        assert_eq!(receipt.outcome, Outcome::Done);
        let balance = |state: &mut WorkingState<'_>, it| state.account(it).unwrap().balance;
        (receipt.output[0], balance(&mut state, &to), balance(&mut state, &payer), receipt.gas_used)
    };
    let stranger = Address([9; 20]);
    let (paid, has, left, gas_new) = pay(stranger, 40, 100);
    assert_eq!((paid, has, left), (1, 40, 60));
    let (paid, has, left, gas) = pay(stranger, 60, 0);
    assert_eq!((paid, has, left), (1, 100, 0));
    // The account was there; the rest is the price of the zero bytes of its input.
    assert!(gas_new - gas >= 25_000 && gas_new - gas < 25_100, "{gas_new} {gas}");
    assert_eq!(pay(stranger, 1, 0).0, 0, "it has nothing left");
    let (paid, has, left, _) = pay(counter, 1, 5);
    assert_eq!((paid, has, left), (0, 0, 5), "a contract would not know of it");
    assert_eq!(pay(payer, 5, 0).0, 0, "not even itself");
    assert_eq!(pay(key().address(), 5, 0).2, 0);
    let total = [key().address(), PROPOSER, stranger].map(|it| state.account(&it).unwrap().balance);
    assert_eq!(total.iter().sum::<u128>(), FUNDS);
}

#[test]
fn a_constructor_runs_once_and_reads_its_input() {
    let parent = empty();
    let mut state = funded(&parent);
    let wat = r#"(module
        (import "ghost" "input" (func $input (param i32 i32 i32)))
        (import "ghost" "storage_write" (func $storage_write (param i32 i32)))
        (import "ghost" "revert" (func $revert (param i32 i32)))
        (memory (export "memory") 1)
        (func (export "deploy")
            (call $input (i32.const 0) (i32.const 63) (i32.const 1))
            (if (i32.eqz (i32.load8_u (i32.const 63))) (then (call $revert (i32.const 0) (i32.const 1))))
            (call $storage_write (i32.const 0) (i32.const 32)))
        (func (export "call")))"#;
    let code: Bytes = wat::parse_str(wat).unwrap().into();
    let with = |input: &[u8]| Action::Deploy {
        engine: EngineId::WASM,
        value: 3,
        code: code.clone(),
        input: Bytes::copy_from_slice(input),
    };
    let receipt = send(&mut state, with(&[5]));
    let created = receipt.created.unwrap();
    assert_eq!(state.storage(&created, &[0; 32]).unwrap()[31], 5);
    assert_eq!(state.account(&created).unwrap().balance, 3);
    let refused = send(&mut state, with(&[0]));
    assert_eq!((refused.outcome, refused.created), (Outcome::Reverted, None));
    assert_eq!(send(&mut state, with(&[])).outcome, Outcome::Fault, "it reads beyond its input");

    // A trial of the same, as a tool makes it: a container, and the input behind it.
    let container = Container { target: Target::Wasm, code: code.clone(), abi: Bytes::new() };
    let trial = |input: &[u8]| Simulation {
        to: None,
        input: [container.encode().as_slice(), input].concat().into(),
        ..simulation(created)
    };
    let run = |state: &mut WorkingState<'_>, input: &[u8]| {
        trial(input).run(state, &context(), Until::Stopped(&Stop::default())).unwrap()
    };
    let tried = run(&mut state, &[5]);
    assert_eq!(tried.outcome, Outcome::Done);
    assert!(tried.gas_used.abs_diff(receipt.gas_used) < 1_000, "{} {}", tried.gas_used, receipt.gas_used);
    assert_eq!(run(&mut state, &[0]).outcome, Outcome::Reverted);
}

#[test]
fn logs_beyond_the_receipt_undo_the_transaction() {
    let parent = empty();
    let mut state = funded(&parent);
    let log = "(call $log (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65536))";
    let body =
        |times: usize| format!("(call $storage_write (i32.const 0) (i32.const 0)) {}", log.repeat(times));
    assert_eq!(ends(&mut state, &body(3), &[]).logs.len(), 3);
    let receipt = ends(&mut state, &body(4), &[]);
    assert_eq!((receipt.outcome, receipt.logs.len()), (Outcome::LogsTooLarge, 0));
}

#[test]
fn scenario_35_a_module_that_never_ends_stops_when_it_is_cancelled() {
    let parent = empty();
    let mut state = funded(&parent);
    let loops = deployed(&mut state, &module(LOOP));
    let endless = Simulation { gas_limit: u64::MAX / 2, ..simulation(loops) };
    let stop = Stop::default();
    let (started, running) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let other = stop.clone();
        let state = &mut state;
        let runner = scope.spawn(move || {
            started.send(()).unwrap();
            endless.run(state, &context(), Until::Stopped(&other))
        });
        running.recv().unwrap();
        // With 2^63 gas the loop would run for centuries: that it ends is the cancellation's doing.
        stop.stop();
        assert_eq!(runner.join().unwrap(), Err(SimulateError::Stopped));
    });
}

#[test]
fn what_is_not_short_is_begun_again_elsewhere() {
    let parent = empty();
    let mut state = funded(&parent);
    let counter = deployed(&mut state, COUNTER);
    let loops = deployed(&mut state, &module(LOOP));
    let run = |state: &mut WorkingState<'_>, to| simulation(to).run(state, &context(), Until::Short);
    assert_eq!(run(&mut state, counter).unwrap().outcome, Outcome::Done);
    assert_eq!(run(&mut state, loops), Err(SimulateError::NotShort));
    let little = Simulation { gas_limit: 100_000, ..simulation(loops) };
    assert_eq!(little.run(&mut state, &context(), Until::Short).unwrap().outcome, Outcome::OutOfGas);
}

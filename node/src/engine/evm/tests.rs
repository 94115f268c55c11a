use std::sync::Arc;

use ghost_proto::{EngineId, KeyPair, Transaction};
use revm::{context_interface::cfg::gas::calculate_initial_tx_gas, primitives::keccak256};

use super::*;
use crate::{
    chain::state::{Account, BlockState, NoAncestors, Snapshot},
    engine::{Engines, Stop, Transfers, zvm},
    store::{MemoryStore, Records},
};

const PROPOSER: Address = Address([0xee; 20]);
const FUNDS: u128 = 1 << 60;

/// Adds one to slot 0, logs the new count under the topic 0x77 and returns it.
const COUNTER: &str = "60015f5401805f555f52607760205fa160205ff3";
/// Reverts with the bytes 0xdead.
const REVERTER: &str = "61dead5f526002601efd";
/// Jumps back to its own beginning for ever.
const LOOP: &str = "5b600056";

fn code(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(' ', "")).unwrap()
}

/// Init code that returns `code`.
fn init(code: &[u8]) -> Bytes {
    // PUSH2 len, DUP1, PUSH1 12, PUSH0, CODECOPY, PUSH0, RETURN, STOP, STOP
    let [high, low] = (code.len() as u16).to_be_bytes();
    [&[0x61, high, low, 0x80, 0x60, 12, 0x5f, 0x39, 0x5f, 0xf3, 0, 0], code].concat().into()
}

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
        gas_left: 30_000_000,
    }
}

pub(in crate::engine) fn genesis() -> ghost_proto::Genesis {
    ghost_proto::Genesis {
        name: "evm".into(),
        chain_id: 7,
        time_unix_ms: 1,
        slot_ms: 1_000,
        gas_price_min: 2,
        block_gas_max: 30_000_000,
        block_bytes_max: 1 << 20,
        authorities: ghost_proto::AuthoritySet::new(vec![key().public()]).unwrap(),
        allocation: Default::default(),
        markets: Default::default(),
        feeds: Vec::new(),
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

fn send_with(state: &mut WorkingState<'_>, gas_limit: u64, action: Action) -> Result<Receipt, ExecuteError> {
    let nonce = state.account(&key().address()).unwrap().nonce;
    let tx = Transaction { chain_id: 7, sender_key: key().public(), nonce, gas_limit, gas_price: 3, action };
    Engines::new(&genesis()).execute(&tx.sign(&key()).unwrap(), state, &context())
}

fn send(state: &mut WorkingState<'_>, action: Action) -> Receipt {
    send_with(state, 5_000_000, action).unwrap()
}

fn deploy(code: &[u8]) -> Action {
    Action::Deploy { engine: EngineId::EVM, value: 0, code: init(code), input: Bytes::new() }
}

fn deployed(state: &mut WorkingState<'_>, hex: &str) -> Address {
    let receipt = send(state, deploy(&code(hex)));
    assert_eq!(receipt.outcome, Outcome::Done);
    receipt.created.unwrap()
}

fn call(to: Address, value: u128) -> Action {
    Action::Call { to, value, input: Bytes::new() }
}

#[test]
fn a_contract_is_deployed_called_and_remembered() {
    let parent = empty();
    let mut state = funded(&parent);
    let counter = deployed(&mut state, COUNTER);
    // Ethereum's address: RLP of (20 bytes, nonce 0), hashed.
    let rlp = [&[0xd6, 0x94], key().address().0.as_slice(), &[0x80]].concat();
    assert_eq!(counter.0, keccak256(rlp)[12..]);
    let account = state.account(&counter).unwrap();
    assert_eq!((account.nonce, account.contract.unwrap().code_hash), (1, keccak256(code(COUNTER)).0));

    for count in 1..=3u8 {
        let receipt = send(&mut state, call(counter, 0));
        let mut word = [0; 32];
        word[31] = count;
        assert_eq!((receipt.outcome, receipt.output.as_ref()), (Outcome::Done, word.as_slice()));
        let mut topic = [0; 32];
        topic[31] = 0x77;
        let log = LogEntry { address: counter, topics: vec![topic], data: word.to_vec().into() };
        assert_eq!(receipt.logs, [log]);
        assert_eq!(state.storage(&counter, &[0; 32]).unwrap(), word);
    }
    // Code, storage, accounts: all is committed to and can be read after the block.
    let after = state.finish();
    assert_ne!(after.lthash.digest(), parent.lthash.digest());
    let hash = after.snapshot.account(&counter).unwrap().contract.unwrap().code_hash;
    assert_eq!(after.snapshot.code(&hash).unwrap().unwrap().as_ref(), code(COUNTER));
    assert_eq!(after.snapshot.storage(&counter, &[0; 32]).unwrap()[31], 3);
}

#[test]
fn every_unit_of_gas_goes_to_the_proposer_and_supply_is_kept() {
    let parent = empty();
    let mut state = funded(&parent);
    let receipts = [
        send(&mut state, deploy(&code(COUNTER))),
        send(&mut state, deploy(&code(REVERTER))),
        send(&mut state, call(Address([5; 20]), 1_000)),
    ];
    let loops = deployed(&mut state, LOOP);
    let used = receipts.iter().map(|receipt| u128::from(receipt.gas_used)).sum::<u128>();
    let before = state.account(&PROPOSER).unwrap().balance;
    assert!(before > 3 * used);
    let receipt = send_with(&mut state, 100_000, call(loops, 0)).unwrap();
    assert_eq!(receipt, Receipt::plain(Outcome::OutOfGas, 100_000));
    let proposer = state.account(&PROPOSER).unwrap().balance;
    assert_eq!(proposer - before, 300_000);
    let sender = state.account(&key().address()).unwrap();
    assert_eq!(sender.nonce, 5);
    assert_eq!(sender.balance + proposer + 1_000, FUNDS);
}

#[test]
fn a_revert_undoes_all_but_the_fee_and_says_why() {
    let parent = empty();
    let mut state = funded(&parent);
    let reverter = deployed(&mut state, REVERTER);
    let receipt = send(&mut state, call(reverter, 500));
    assert_eq!((receipt.outcome, receipt.output.as_ref()), (Outcome::Reverted, [0xde, 0xad].as_slice()));
    assert!((21_000..22_000).contains(&receipt.gas_used), "{}", receipt.gas_used);
    assert_eq!(state.account(&reverter).unwrap().balance, 0);
}

#[test]
fn what_cannot_be_paid_or_run_costs_the_intrinsic_gas() {
    let parent = empty();
    let mut state = funded(&parent);
    let counter = deployed(&mut state, COUNTER);
    assert_eq!(
        send(&mut state, call(counter, u128::MAX >> 1)),
        Receipt::plain(Outcome::InsufficientBalance, 21_000)
    );
    let transfer = Action::Transfer { to: counter, value: 5, payload: Bytes::new() };
    assert_eq!(send(&mut state, transfer), Receipt::plain(Outcome::ToContract, 21_000));
    let unknown = |engine| Action::Deploy { engine, value: 0, code: vec![1].into(), input: Bytes::new() };
    assert_eq!(send(&mut state, unknown(EngineId(200))).outcome, Outcome::CodeRefused);
    let long = |len| Action::Deploy {
        engine: EngineId::EVM,
        value: 0,
        code: vec![0; len].into(),
        input: Bytes::new(),
    };
    assert_eq!(send(&mut state, long(INIT_CODE_BYTES_MAX)).outcome, Outcome::Done);
    assert_eq!(send(&mut state, long(INIT_CODE_BYTES_MAX + 1)).outcome, Outcome::CodeRefused);
    assert_eq!(send(&mut state, deploy(&[0xef, 0])).outcome, Outcome::CodeRefused);
    assert_eq!(state.account(&key().address()).unwrap().nonce, 7);
}

#[test]
fn a_call_must_fit_into_the_block_with_its_whole_limit() {
    let parent = empty();
    let mut state = funded(&parent);
    assert_eq!(send_with(&mut state, 30_000_000, call(PROPOSER, 0)).unwrap().gas_used, 21_000);
    let refused = send_with(&mut state, 30_000_001, call(PROPOSER, 0));
    let reason = NotIncludable::BlockFull { needed: 30_000_001, left: 30_000_000 };
    assert_eq!(refused, Err(reason.into()));
}

#[test]
fn logs_beyond_the_receipt_undo_the_transaction() {
    let parent = empty();
    let mut state = funded(&parent);
    // LOG0 of as many zero bytes as the call carries value, after setting slot 0.
    let logger = deployed(&mut state, "60015f55345fa000");
    let fits = RECEIPT_BYTES_MAX - Receipt::plain(Outcome::Done, 0).encoded_len() - 25;
    assert_eq!(send(&mut state, call(logger, fits as u128)).outcome, Outcome::Done);
    let before = state.account(&logger).unwrap();
    let receipt = send(&mut state, call(logger, fits as u128 + 1));
    assert_eq!((receipt.outcome, receipt.logs.len()), (Outcome::LogsTooLarge, 0));
    assert!(receipt.gas_used > 8 * fits as u64);
    assert_eq!(state.account(&logger).unwrap(), before);
}

#[test]
fn the_block_is_ours() {
    let parent = empty();
    let mut state = funded(&parent);
    for (opcode, word) in [
        ("41", U256::from_be_slice(&PROPOSER.0)),
        ("42", U256::from(5)),
        ("43", U256::from(9)),
        ("46", U256::from(7)),
        ("48", U256::from(2)),
        ("3a", U256::from(3)),
    ] {
        let contract = deployed(&mut state, &format!("{opcode}5f5260205ff3"));
        let output = send(&mut state, call(contract, 0)).output;
        assert_eq!(U256::from_be_slice(&output), word, "opcode {opcode}");
    }
}

#[test]
fn intrinsic_gas_is_the_machines() {
    for len in [0usize, 1, 31, 32, 33, 1_000] {
        for zeros in [0, len / 2, len] {
            for creates in [false, true] {
                let input = [vec![0; zeros], vec![1; len - zeros]].concat();
                let theirs = calculate_initial_tx_gas(SPEC, &input, creates, 0, 0, 0, None);
                let theirs = theirs.initial_total_gas().max(theirs.floor_gas());
                assert_eq!(rules::contract_gas(&[&input], creates), theirs, "{len} {zeros} {creates}");
            }
        }
    }
}

fn simulation(to: Address) -> Simulation {
    Simulation { from: key().address(), to: Some(to), value: 0, input: Bytes::new(), gas_limit: 10_000_000 }
}

#[test]
fn a_simulation_answers_as_a_transaction_would() {
    let parent = empty();
    let mut state = funded(&parent);
    let counter = deployed(&mut state, COUNTER);
    let block = state.finish();
    let mut thrown_away = WorkingState::new(&block, &NoAncestors);
    let result =
        simulation(counter).run(&mut thrown_away, &context(), Until::Stopped(&Stop::default())).unwrap();
    let mut real = WorkingState::new(&block, &NoAncestors);
    let receipt = send(&mut real, call(counter, 0));
    assert_eq!(
        (result.outcome, result.gas_used, &result.output, &result.logs),
        (receipt.outcome, receipt.gas_used, &receipt.output, &receipt.logs)
    );
}

#[test]
fn scenario_35_a_call_that_never_ends_stops_when_it_is_cancelled() {
    let parent = empty();
    let mut state = funded(&parent);
    let loops = deployed(&mut state, LOOP);
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
fn the_engines_leave_each_other_their_kinds() {
    let parent = empty();
    let mut state = funded(&parent);
    let tx = |action| {
        let body = Transaction {
            chain_id: 7,
            sender_key: key().public(),
            nonce: 0,
            gas_limit: 100_000,
            gas_price: 2,
            action,
        };
        body.sign(&key()).unwrap()
    };
    let other = Err(ExecuteError::NotIncludable(NotIncludable::OtherEngine));
    assert_eq!(Transfers.execute(&tx(call(PROPOSER, 0)), &mut state, &context()), other);
    let transfer = Action::Transfer { to: PROPOSER, value: 0, payload: Bytes::new() };
    assert_eq!(Evm.execute(&tx(transfer), &mut state, &context()), other);
}

#[test]
fn what_is_not_short_ends_at_the_bound_and_not_before() {
    let parent = empty();
    let mut state = funded(&parent);
    // PUSH0 POP, so often; the last instruction is STOP.
    let straight = |state: &mut WorkingState<'_>, pairs: usize| {
        let receipt = send(state, deploy(&[0x5f, 0x50].repeat(pairs)));
        receipt.created.unwrap()
    };
    let most = (SHORT_INSTRUCTIONS / 2) as usize;
    let (short, long) = (straight(&mut state, most - 1), straight(&mut state, most));
    let run = |state: &mut WorkingState<'_>, to| simulation(to).run(state, &context(), Until::Short);
    assert_eq!(run(&mut state, short).unwrap().outcome, Outcome::Done);
    assert_eq!(run(&mut state, long), Err(SimulateError::NotShort));

    // One instruction may cost much: Keccak over as many bytes as PUSH3 says, 6 gas for each word.
    let hashing = |state: &mut WorkingState<'_>, bytes: u32| {
        let code = [&[0x62], &bytes.to_be_bytes()[1..], &[0x5f, 0x20, 0x00]].concat();
        send(state, deploy(&code)).created.unwrap()
    };
    let (small, large) = (hashing(&mut state, 32 << 10), hashing(&mut state, 1 << 20));
    assert_eq!(run(&mut state, small).unwrap().outcome, Outcome::Done);
    assert_eq!(run(&mut state, large), Err(SimulateError::NotShort));

    // The identity is short, a modular power may not be.
    let precompile = |number: u8| {
        let mut address = [0; 20];
        address[19] = number;
        Address(address)
    };
    assert_eq!(run(&mut state, precompile(4)).unwrap().outcome, Outcome::Done);
    assert_eq!(run(&mut state, precompile(5)), Err(SimulateError::NotShort));
    let stop = Stop::default();
    let patient = simulation(precompile(5)).run(&mut state, &context(), Until::Stopped(&stop));
    assert_eq!(patient.unwrap().outcome, Outcome::Done);
}

/// The counter in native ZVM bytecode; it has no PUSH0.
const NATIVE_COUNTER: &str = "1101 1100 90 30 17 1100 91 1100 81 1177 1120 1100 f9 1120 1100 a8";

/// Native init code that returns `code`.
fn native_init(code: &[u8]) -> Vec<u8> {
    // PUSH1 len, DUP1, PUSH1 11, PUSH1 0, CODECOPY, PUSH1 0, RETURN
    [&[0x11, code.len() as u8, 0x17, 0x11, 11, 0x11, 0, 0xb9, 0x11, 0, 0xa8], code].concat()
}

fn deploy_zvm(target: zvm::Target, code: Vec<u8>) -> Action {
    let container = Container { target, code: code.into(), abi: Bytes::from_static(b"[]") };
    Action::Deploy { engine: EngineId::ZVM, value: 0, code: container.encode().into(), input: Bytes::new() }
}

#[test]
fn a_native_contract_does_what_its_ethereum_twin_does() {
    let parent = empty();
    let mut state = funded(&parent);
    let native = code(NATIVE_COUNTER);
    let translated = zvm::translate(&native).unwrap();
    let created = |state: &mut WorkingState<'_>, action| {
        let receipt = send(state, action);
        assert_eq!(receipt.outcome, Outcome::Done, "{receipt:?}");
        (receipt.created.unwrap(), receipt.gas_used)
    };
    let (zvm, _) = created(&mut state, deploy_zvm(zvm::Target::Native, native_init(&native)));
    let (compat, _) = created(&mut state, deploy_zvm(zvm::Target::Evm, init(&translated).to_vec()));
    let (evm, _) = created(&mut state, deploy(&translated));
    for count in 1..4 {
        let receipts = [zvm, compat, evm].map(|contract| {
            let receipt = send(&mut state, call(contract, 0));
            (receipt.outcome, receipt.gas_used, receipt.output.clone(), receipt.logs[0].data.clone())
        });
        assert_eq!(receipts[0].2[31], count);
        assert_eq!(receipts[0], receipts[2]);
        assert_eq!(receipts[1], receipts[2]);
    }
}

#[test]
fn a_container_pays_for_all_its_bytes_and_nothing_is_lost() {
    let parent = empty();
    let mut state = funded(&parent);
    let native = code(NATIVE_COUNTER);
    let init = native_init(&native);
    let bare = Action::Deploy {
        engine: EngineId::EVM,
        value: 0,
        code: zvm::translate(&init).unwrap().into(),
        input: Bytes::new(),
    };
    let plain = send(&mut state, bare).gas_used;
    let before = state.account(&key().address()).unwrap().balance;
    let proposer = state.account(&PROPOSER).unwrap().balance;
    let action = deploy_zvm(zvm::Target::Native, init);
    let receipt = send(&mut state, action);
    // Native numbers and Ethereum's are all more than zero where the other is; the container has 14
    // bytes and two of ABI.
    assert!(receipt.gas_used > plain);
    let fee = u128::from(receipt.gas_used) * 3;
    assert_eq!(state.account(&key().address()).unwrap().balance, before - fee);
    assert_eq!(state.account(&PROPOSER).unwrap().balance, proposer + fee);
}

#[test]
fn jumps_land_where_they_were_meant_to() {
    let parent = empty();
    let mut state = funded(&parent);
    // PUSH1 1, PUSH2 8, JUMPI, PUSH1 0, JUMPDEST, PUSH1 42, PUSH1 0, MSTORE, PUSH1 32, PUSH1 0, RETURN
    let jumping = code("1101 120008 a1 1100 a3 112a 1100 81 1120 1100 a8");
    let receipt = send(&mut state, deploy_zvm(zvm::Target::Native, native_init(&jumping)));
    let contract = receipt.created.unwrap();
    assert_eq!(send(&mut state, call(contract, 0)).output[31], 42);
}

#[test]
fn code_that_zvm_has_no_opcode_for_is_refused_with_its_place() {
    let parent = empty();
    let mut state = funded(&parent);
    let receipt = send(&mut state, deploy_zvm(zvm::Target::Native, vec![0x11, 0x00, 0x02]));
    assert_eq!(receipt.outcome, Outcome::CodeRefused);
    assert_eq!(receipt.output, "opcode 0x02 at offset 2 is not assigned");
    assert_eq!(receipt.created, None);
    let receipt = send(
        &mut state,
        Action::Deploy {
            engine: EngineId::ZVM,
            value: 0,
            code: Bytes::from_static(b"wasm"),
            input: Bytes::new(),
        },
    );
    assert_eq!(
        (receipt.outcome, receipt.output.as_ref()),
        (Outcome::CodeRefused, b"it does not begin with ZVMC".as_slice())
    );
}

mod prices {
    use ghost_proto::price::{Aggregate, CommittedPrice, ORACLE_ADDRESS, feed_key};

    use super::{super::precompile::GAS_PRICE_READ, *};
    use crate::oracle::state::price_key;

    const BET: &str = include_str!("../../../examples/price-bet.hex");
    const ABOVE: Address = Address([0xaa; 20]);
    const OTHERWISE: Address = Address([0xbb; 20]);

    /// Commits a price that was seen so many milliseconds before the slot.
    fn commit(state: &mut WorkingState<'_>, price: i64, age_ms: u64) {
        let aggregate = Aggregate {
            price,
            confidence: 4,
            time_unix_ms: context().time_unix_ms - age_ms,
            used: 7,
            outliers: 0,
        };
        let committed = CommittedPrice { aggregate, exponent: -2, max_age_ms: 5_000, height: 8 };
        state.put(&price_key(&feed_key("GHO/USD").unwrap()), Some(&committed.encode())).unwrap();
    }

    fn ask(state: &mut WorkingState<'_>, signature: &str, words: &[[u8; 32]]) -> Receipt {
        let input = [keccak256(signature)[..4].to_vec(), words.concat()].concat();
        send(state, Action::Call { to: ORACLE_ADDRESS, value: 0, input: input.into() })
    }

    fn word(value: u64) -> [u8; 32] {
        U256::from(value).to_be_bytes()
    }

    fn words(output: &[u8]) -> Vec<U256> {
        output.chunks(32).map(U256::from_be_slice).collect()
    }

    #[test]
    fn a_price_is_read_with_its_age_and_staleness_by_age() {
        let parent = empty();
        let mut state = funded(&parent);
        let feed = feed_key("GHO/USD").unwrap();
        let none = ask(&mut state, "price(bytes32)", &[feed]);
        assert_eq!(
            (none.outcome, none.output.as_ref()),
            (Outcome::Reverted, &keccak256("UnknownFeed()")[..4])
        );

        commit(&mut state, -125, 5_000);
        let read = ask(&mut state, "price(bytes32)", &[feed]);
        assert_eq!(read.outcome, Outcome::Done);
        let minus = |value: u64| U256::ZERO.wrapping_sub(U256::from(value));
        let expected = [minus(125), U256::from(4), minus(2), U256::from(999), U256::from(5_000), U256::ZERO];
        assert_eq!(words(&read.output), expected);
        let intrinsic = 21_000 + 16 * (4 + 7) + 4 * 25;
        assert_eq!(read.gas_used, intrinsic + GAS_PRICE_READ);

        // Staleness, from both sides of the feed's maximum age.
        commit(&mut state, -125, 5_001);
        assert_eq!(words(&ask(&mut state, "price(bytes32)", &[feed]).output)[5], U256::from(1));
        // freshPrice: by the caller's bound and by the feed's.
        for (age, max, fresh) in
            [(300, 300, true), (301, 300, false), (5_000, 1 << 40, true), (5_001, 1 << 40, false)]
        {
            commit(&mut state, 7, age);
            let read = ask(&mut state, "freshPrice(bytes32,uint64)", &[feed, word(max)]);
            assert_eq!(read.outcome == Outcome::Done, fresh, "{age} {max}");
            if !fresh {
                assert_eq!(read.output[..4], keccak256("StalePrice(uint64,uint64)")[..4]);
                assert_eq!(words(&read.output[4..]), [U256::from(age), U256::from(max.min(5_000))]);
            }
        }
    }

    #[test]
    fn nonsense_reverts_and_too_little_gas_is_out_of_gas() {
        let parent = empty();
        let mut state = funded(&parent);
        commit(&mut state, 7, 0);
        let feed = feed_key("GHO/USD").unwrap();
        let reverts = |receipt: Receipt| assert_eq!(receipt.outcome, Outcome::Reverted);
        reverts(send(&mut state, call(ORACLE_ADDRESS, 0)));
        reverts(ask(&mut state, "price(bytes32)", &[]));
        reverts(ask(&mut state, "freshPrice(bytes32,uint64)", &[feed]));
        reverts(ask(&mut state, "freshPrice(bytes32,uint64)", &[feed, [0xff; 32]]));
        reverts(ask(&mut state, "other(bytes32)", &[feed]));
        let input = [keccak256("price(bytes32)")[..4].to_vec(), feed.to_vec()].concat();
        // Below the floor of EIP-7623, which the limit must reach all the same.
        let intrinsic = 21_000 + 16 * (4 + 7) + 4 * 25;
        let action = || Action::Call { to: ORACLE_ADDRESS, value: 0, input: input.clone().into() };
        let with = |state: &mut WorkingState<'_>, gas| send_with(state, gas, action()).unwrap().outcome;
        assert_eq!(with(&mut state, intrinsic + GAS_PRICE_READ), Outcome::Done);
        assert_eq!(with(&mut state, intrinsic + GAS_PRICE_READ - 1), Outcome::OutOfGas);
    }

    /// The contract of the README: it reads a price and settles on it.
    #[test]
    fn a_bet_settles_on_the_committed_price_and_waits_while_that_is_stale() {
        let padded = |address: Address| {
            let mut word = [0; 32];
            word[12..].copy_from_slice(&address.0);
            word
        };
        for (price, winner) in [(126, ABOVE), (125, OTHERWISE), (-126, OTHERWISE)] {
            let parent = empty();
            let mut state = funded(&parent);
            let input = [feed_key("GHO/USD").unwrap(), word(125), padded(ABOVE), padded(OTHERWISE)].concat();
            let bet = Action::Deploy {
                engine: EngineId::EVM,
                value: 1_000,
                code: code(BET.trim()).into(),
                input: input.into(),
            };
            let bet = send(&mut state, bet).created.unwrap();
            assert_eq!(state.account(&bet).unwrap().balance, 1_000);
            let early = send(&mut state, call(bet, 0));
            assert_eq!((early.outcome, early.output.len()), (Outcome::Reverted, 4), "no price yet");
            commit(&mut state, price, 5_001);
            let stale = send(&mut state, call(bet, 0));
            assert_eq!(
                (stale.outcome, stale.output.len()),
                (Outcome::Reverted, 68),
                "the reason is handed on"
            );
            assert_eq!(state.account(&bet).unwrap().balance, 1_000);

            commit(&mut state, price, 100);
            let settled = send(&mut state, call(bet, 0));
            assert_eq!(settled.outcome, Outcome::Done, "{price}");
            assert_eq!(state.account(&winner).unwrap().balance, 1_000, "{price}");
            assert_eq!(state.account(&bet).unwrap().balance, 0);
            assert_eq!(settled.logs[0].topics, [keccak256("Settled(int64,address)").0]);
            assert_eq!(settled.output[32..], padded(winner));
        }
    }

    #[test]
    fn a_simulation_reads_prices_too() {
        let parent = empty();
        let mut state = funded(&parent);
        commit(&mut state, 7, 0);
        let input =
            [keccak256("price(bytes32)")[..4].to_vec(), feed_key("GHO/USD").unwrap().to_vec()].concat();
        let asked = Simulation { input: input.into(), ..simulation(ORACLE_ADDRESS) };
        let result = asked.run(&mut state, &context(), Until::Short).unwrap();
        assert_eq!((result.outcome, words(&result.output)[0]), (Outcome::Done, U256::from(7)));
    }
}

use std::collections::BTreeMap;

use ghost_proto::{
    AuthoritySet, KeyPair, Report, Transaction,
    limits::PRICE_AHEAD_MS_MAX,
    price::{Equivocation, ReportFields},
};

use super::*;
use crate::{
    chain::state::{BlockState, NoAncestors, Snapshot},
    oracle::{
        commit::due,
        relay::{Board, Oracle, Verdict},
        state::{is_excluded_at, price_at},
    },
    store::{MemoryStore, Records},
};

const SLOT_AT: u64 = 1_700_000_000_000;

fn key(n: u16) -> KeyPair {
    KeyPair::from_seed(&[n as u8 + 1; 32])
}

fn proposer() -> KeyPair {
    key(90)
}

fn genesis() -> Genesis {
    let spec = |name: &str| FeedSpec {
        name: name.into(),
        exponent: -2,
        publishers: (0..4).map(|n| key(n).public()).collect(),
        quorum: 3,
        heartbeat_ms: 1_000,
        deviation_bps: 50,
        max_age_ms: 5_000,
    };
    Genesis {
        name: "prices".into(),
        chain_id: 7,
        time_unix_ms: SLOT_AT,
        slot_ms: 1_000,
        gas_price_min: 1,
        block_gas_max: 30_000_000,
        block_bytes_max: 1 << 20,
        authorities: AuthoritySet::new(vec![proposer().public()]).unwrap(),
        allocation: BTreeMap::new(),
        markets: Default::default(),
        feeds: vec![spec("GHO/USD"), spec("BTC/USD")],
    }
}

fn context(height: u64) -> BlockContext {
    BlockContext {
        chain_id: 7,
        height,
        slot: height,
        time_unix_ms: SLOT_AT + height * 1_000,
        proposer: proposer().address(),
        gas_price_min: 1,
        gas_left: 30_000_000,
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

fn report(feed: u16, publisher: u16, price: i64, time_unix_ms: u64) -> Report {
    let fields = ReportFields { feed, publisher, sequence: time_unix_ms, time_unix_ms, price, confidence: 2 };
    Report::sign(fields, &genesis().id(), &key(publisher))
}

fn quote(feed: u16, prices: &[i64], time_unix_ms: u64) -> Quote {
    let reports = prices.iter().enumerate().map(|(n, price)| report(feed, n as u16, *price, time_unix_ms));
    Quote { feed, reports: reports.collect() }
}

fn batch(quotes: Vec<Quote>) -> PriceBatch {
    PriceBatch { quotes, equivocations: Vec::new() }
}

fn tx_by(key: &KeyPair, height: u64, batch: &PriceBatch) -> SignedTransaction {
    sign(key, height, batch.encode().into(), |_| {})
}

fn sign(key: &KeyPair, nonce: u64, batch: Bytes, change: impl FnOnce(&mut Transaction)) -> SignedTransaction {
    let mut body = Transaction {
        chain_id: 7,
        sender_key: key.public(),
        nonce,
        gas_limit: 0,
        gas_price: 0,
        action: Action::Prices { batch },
    };
    body.gas_limit = intrinsic_gas(&body);
    change(&mut body);
    body.sign(key).unwrap().into_signed()
}

fn run(
    parent: &BlockState,
    height: u64,
    tx: &SignedTransaction,
) -> Result<(Receipt, BlockState), NotIncludable> {
    let mut state = WorkingState::new(parent, &NoAncestors);
    match Prices::new(&genesis()).execute(tx, &mut state, &context(height)) {
        Ok(receipt) => Ok((receipt, state.finish())),
        Err(ExecuteError::NotIncludable(reason)) => {
            assert!(state.finish().changed.is_empty(), "a refusal changes nothing");
            Err(reason)
        }
        Err(error) => panic!("{error}"),
    }
}

fn refused(parent: &BlockState, height: u64, batch: &PriceBatch) -> PriceFault {
    match run(parent, height, &tx_by(&proposer(), height, batch)) {
        Err(NotIncludable::Prices(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_price_is_committed_logged_and_free() {
    let time = SLOT_AT + 900;
    let (receipt, after) =
        run(&empty(), 1, &tx_by(&proposer(), 1, &batch(vec![quote(0, &[100, 102, 101], time)]))).unwrap();
    let spec = &genesis().feeds[0];
    let committed = price_at(&after.snapshot, &spec.key()).unwrap().unwrap();
    assert_eq!((committed.aggregate.price, committed.aggregate.time_unix_ms), (101, time));
    assert_eq!((committed.height, committed.exponent, committed.max_age_ms), (1, -2, 5_000));
    assert_eq!(after.changed.len(), 1, "no account is touched");
    assert_eq!(receipt.logs.len(), 1);
    assert_eq!(receipt.logs[0].address, ORACLE_ADDRESS);
    assert_eq!(receipt.logs[0].topics, [PRICE_UPDATED_TOPIC, spec.key()]);
    assert_eq!(receipt.logs[0].data.as_ref(), committed.log_data());
    assert_eq!(price_at(&after.snapshot, &genesis().feeds[1].key()), Ok(None));
}

#[test]
fn topics_are_the_hashes_of_their_events() {
    use revm::primitives::keccak256;
    assert_eq!(PRICE_UPDATED_TOPIC, keccak256("PriceUpdated(bytes32,int64,uint64,int32,uint64)").0);
    assert_eq!(PUBLISHER_EXCLUDED_TOPIC, keccak256("PublisherExcluded(bytes32,uint16)").0);
}

#[test]
fn whoever_is_not_the_proposer_or_asks_other_terms_is_refused() {
    let prices = batch(vec![quote(0, &[100, 101, 102], SLOT_AT + 900)]);
    let parent = empty();
    let fault = |tx: &SignedTransaction| match run(&parent, 1, tx) {
        Err(NotIncludable::Prices(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&tx_by(&key(1), 1, &prices)), PriceFault::NotProposer);
    assert_eq!(fault(&tx_by(&proposer(), 2, &prices)), PriceFault::Terms);
    let encoded = || Bytes::from(prices.encode());
    assert_eq!(fault(&sign(&proposer(), 1, encoded(), |body| body.gas_price = 1)), PriceFault::Terms);
    assert_eq!(fault(&sign(&proposer(), 1, encoded(), |body| body.gas_limit += 1)), PriceFault::Terms);
    let long = [prices.encode(), vec![0]].concat();
    assert_eq!(fault(&sign(&proposer(), 1, long.into(), |_| {})), PriceFault::Malformed);
    let other = sign(&proposer(), 1, encoded(), |body| body.chain_id = 8);
    assert_eq!(run(&parent, 1, &other).unwrap_err(), NotIncludable::OtherChain { found: 8, expected: 7 });
}

#[test]
fn every_rule_about_reports_holds_a_block_back() {
    let parent = empty();
    let at = context(1).time_unix_ms;
    let one = |quote| refused(&parent, 1, &batch(vec![quote]));
    let no_quorum = NoPrice::NoQuorum { fresh: 2, needed: 3 };
    assert_eq!(one(quote(0, &[100, 101], at)), PriceFault::NoPrice { feed: 0, reason: no_quorum });
    assert_eq!(one(quote(2, &[100, 101, 102], at)), PriceFault::UnknownFeed(2));
    assert_eq!(one(quote(0, &[1, 2, 3], at + PRICE_AHEAD_MS_MAX + 1)), PriceFault::NotFresh(0));
    assert_eq!(one(quote(0, &[1, 2, 3], at - 5_001)), PriceFault::NotFresh(0));
    let good = |quote| run(&parent, 1, &tx_by(&proposer(), 1, &batch(vec![quote]))).is_ok();
    assert!(good(quote(0, &[1, 2, 3], at + PRICE_AHEAD_MS_MAX)));
    assert!(good(quote(0, &[1, 2, 3], at - 5_000)));

    let mut forged = quote(0, &[100, 101, 102], at);
    let mut bytes = *forged.reports[1].bytes();
    bytes[99] ^= 1;
    forged.reports[1] = Report::parse(Bytes::copy_from_slice(&bytes)).unwrap();
    assert_eq!(one(forged), PriceFault::BadSignature(0));
    let mut stranger = quote(0, &[100, 101, 102], at);
    stranger.reports.push(report(0, 4, 103, at));
    assert_eq!(one(stranger), PriceFault::UnknownPublisher { feed: 0, publisher: 4 });

    let first = batch(vec![quote(0, &[100, 101, 102], at)]);
    let (_, after) = run(&parent, 1, &tx_by(&proposer(), 1, &first)).unwrap();
    assert_eq!(refused(&after, 2, &first), PriceFault::NotNewer(0));
    let newer = batch(vec![quote(0, &[100, 101, 102], at + 1)]);
    assert!(run(&after, 2, &tx_by(&proposer(), 2, &newer)).is_ok());
}

#[test]
fn an_excluded_publisher_counts_no_more() {
    let parent = empty();
    let at = context(1).time_unix_ms;
    let evidence = Equivocation::of(report(0, 1, 100, at), report(0, 1, 900, at)).unwrap();
    let accuse = PriceBatch { quotes: Vec::new(), equivocations: vec![evidence] };
    let (receipt, after) = run(&parent, 1, &tx_by(&proposer(), 1, &accuse)).unwrap();
    assert_eq!(receipt.logs[0].topics, [PUBLISHER_EXCLUDED_TOPIC, genesis().feeds[0].key()]);
    assert_eq!(is_excluded_at(&after.snapshot, &genesis().feeds[0].key(), 1), Ok(true));
    assert_eq!(is_excluded_at(&after.snapshot, &genesis().feeds[0].key(), 2), Ok(false));
    let excluded = PriceFault::Excluded { feed: 0, publisher: 1 };
    assert_eq!(refused(&after, 2, &accuse), excluded);
    let later = context(2).time_unix_ms;
    assert_eq!(refused(&after, 2, &batch(vec![quote(0, &[100, 101, 102], later)])), excluded);
    // In the same batch too: evidence is taken before the prices.
    let both = PriceBatch { quotes: vec![quote(0, &[1, 2, 3], at)], equivocations: vec![evidence] };
    assert_eq!(refused(&parent, 1, &both), excluded);
    // On another feed it goes on.
    let other = batch(vec![quote(1, &[100, 101, 102], later)]);
    assert!(run(&after, 2, &tx_by(&proposer(), 2, &other)).is_ok());
}

/// What the relay knows, the proposer takes, and the rules accept.
#[test]
fn what_is_due_is_valid_and_comes_by_heartbeat_and_deviation() {
    let genesis = genesis();
    let started = std::time::Instant::now();
    let mut oracle = Oracle::new(genesis.id(), genesis.feeds.clone().into(), started);
    let mut say = |prices: [i64; 4], time: u64| -> Board {
        for (publisher, price) in prices.into_iter().enumerate() {
            let (verdict, _) = oracle.report(None, report(0, publisher as u16, price, time), started, time);
            assert_eq!(verdict, Verdict::Taken);
        }
        oracle.board().clone()
    };
    let slot = |height| context(height).time_unix_ms;
    let commit = |parent: &BlockState, height, board: &Board| {
        let batch = due(&genesis, board, &parent.snapshot, slot(height)).unwrap()?;
        Some(run(parent, height, &tx_by(&proposer(), height, &batch)).unwrap().1)
    };
    let price =
        |state: &BlockState| price_at(&state.snapshot, &genesis.feeds[0].key()).unwrap().unwrap().aggregate;

    let board = say([10_000, 10_001, 10_002, 10_003], slot(1) - 100);
    let first = commit(&empty(), 1, &board).unwrap();
    assert_eq!(price(&first).price, 10_001);
    // The same again: not newer.
    assert!(commit(&first, 2, &board).is_none());
    // Newer by less than the heartbeat and the deviation: not due in a slot 999 ms after.
    let board = say([10_002, 10_003, 10_003, 10_004], slot(1) + 100);
    assert!(due(&genesis, &board, &first.snapshot, slot(1) + 899).unwrap().is_none());
    assert!(due(&genesis, &board, &first.snapshot, slot(1) + 900).unwrap().is_some());
    // Moved by half a percent: due at once.
    let board = say([10_060, 10_060, 10_061, 10_062], slot(1) + 200);
    assert!(due(&genesis, &board, &first.snapshot, slot(1) + 300).unwrap().is_some());
    let second = commit(&first, 2, &board).unwrap();
    assert_eq!(price(&second).price, 10_060);
    // Old reports are no price of today.
    assert!(commit(&second, 9, &board).is_none());
}

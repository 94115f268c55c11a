use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

use ghost_proto::{Action, KeyPair, Transaction};
use proptest::prelude::*;
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

use super::*;

const CHAIN: u64 = 7;
const RICH: AccountState = AccountState { nonce: 0, balance: u128::MAX / 2 };

fn rules() -> ChainRules {
    ChainRules { chain_id: CHAIN, gas_price_min: 1, block_gas_max: 30_000_000, intrinsic_gas: |_| 21_000 }
}

fn key(seed: u16) -> KeyPair {
    let mut bytes = [1; 32];
    bytes[..2].copy_from_slice(&seed.to_be_bytes());
    KeyPair::from_seed(&bytes)
}

fn tx(seed: u16, nonce: u64, gas_price: u64) -> VerifiedTransaction {
    big_tx(seed, nonce, gas_price, 0)
}

fn big_tx(seed: u16, nonce: u64, gas_price: u64, payload: usize) -> VerifiedTransaction {
    let key = key(seed);
    Transaction {
        chain_id: CHAIN,
        sender_key: key.public(),
        nonce,
        gas_limit: 21_000,
        gas_price,
        action: Action::Transfer { to: Address([9; 20]), value: 1, payload: vec![0; payload].into() },
    }
    .sign(&key)
    .unwrap()
}

fn rich(_: &Address) -> AccountState {
    RICH
}

fn pool() -> Pool {
    Pool::new(PoolConfig::default(), rules())
}

/// Room for exactly `ready` and `parked` smallest transactions.
fn small_pool(ready: usize, parked: usize) -> Pool {
    let one = tx(0, 0, 1).bytes().len() + ENTRY_OVERHEAD_BYTES;
    let parked_bytes_max = one * parked;
    Pool::new(
        PoolConfig { bytes_max: one * ready + parked_bytes_max, parked_bytes_max, ..PoolConfig::default() },
        rules(),
    )
}

fn prices(pool: &Pool) -> Vec<u64> {
    pool.pending(usize::MAX).iter().map(|row| row.tx.body().gas_price).collect()
}

/// Recomputes everything the pool keeps incrementally.
fn check(pool: &Pool) {
    let (mut ready_bytes, mut parked_bytes, mut parked_count, mut count) = (0, 0, 0, 0);
    for (address, sender) in &pool.senders {
        assert!(!sender.txs.is_empty());
        let (mut next, mut worth, mut cost, mut parked) = (sender.account.nonce, u64::MAX, 0, 0);
        for (nonce, entry) in &sender.txs {
            count += 1;
            cost += entry.cost;
            assert_eq!(pool.index[&entry.tx.id()], (*address, *nonce));
            let key = entry.expiry_key(pool.config.lifetime, pool.config.parked_lifetime);
            assert_eq!(pool.expiry[&key], (*address, *nonce));
            if *nonce == next {
                assert!(entry.ready, "no gap before it");
                next += 1;
                worth = worth.min(entry.price());
                assert_eq!(entry.worth, worth);
                ready_bytes += entry.charge;
            } else {
                assert!(!entry.ready && *nonce > next, "a gap before it");
                parked_bytes += entry.charge;
                parked += entry.charge;
                parked_count += 1;
            }
        }
        assert_eq!(sender.next_nonce(), next);
        assert_eq!((sender.cost, sender.parked_bytes), (cost, parked));
        assert!(cost <= sender.account.balance);
        assert!(sender.txs.len() <= pool.config.sender_count_max);
        assert!(sender.head_key(*address).is_none_or(|key| pool.heads.contains(&key)));
        assert!(sender.tail_key(*address).is_none_or(|key| pool.tails.contains(&key)));
        assert!(sender.holder_key(*address).is_none_or(|key| pool.holders.contains(&key)));
    }
    let with = |f: fn(&Sender) -> bool| pool.senders.values().filter(|sender| f(sender)).count();
    assert_eq!(pool.heads.len(), with(|sender| sender.ready > 0));
    assert_eq!(pool.tails.len(), with(|sender| sender.ready > 0));
    assert_eq!(pool.holders.len(), with(|sender| sender.parked_bytes > 0));
    assert_eq!((pool.index.len(), pool.expiry.len()), (count, count));
    assert_eq!(
        (pool.ready_bytes, pool.parked_bytes, pool.parked_count),
        (ready_bytes, parked_bytes, parked_count)
    );
    assert!(ready_bytes <= pool.config.bytes_max - pool.config.parked_bytes_max);
    assert!(parked_bytes <= pool.config.parked_bytes_max);
}

#[test]
fn an_entry_fits_the_overhead_it_is_charged() {
    // The entry in a B-tree that is at worst half full, and the rest as listed at the constant.
    assert!(size_of::<Entry>() * 2 + 280 <= ENTRY_OVERHEAD_BYTES, "{}", size_of::<Entry>());
}

#[test]
fn best_price_first_and_each_sender_in_nonce_order() {
    let (mut pool, now) = (pool(), Instant::now());
    for (seed, nonce, price) in [(1, 0, 5), (1, 1, 50), (2, 0, 10), (2, 1, 7), (3, 0, 6)] {
        assert_eq!(pool.insert(tx(seed, nonce, price), &rich, now).unwrap().place, Place::Ready);
    }
    assert_eq!(prices(&pool), [10, 7, 6, 5, 50]);
    let chosen: Vec<_> = pool.select(usize::MAX, 3 * 21_000).iter().map(|tx| tx.body().gas_price).collect();
    assert_eq!(chosen, [10, 7, 6]);
    let one = tx(1, 0, 5).bytes().len() + 2;
    assert_eq!(pool.select(2 * one, u64::MAX).len(), 2);
    assert_eq!(pool.select(2 * one - 1, u64::MAX).len(), 1);
    assert_eq!(pool.next_nonce(&key(1).address(), &rich), 2);
    assert_eq!(pool.next_nonce(&key(9).address(), &rich), 0);
    check(&pool);
}

#[test]
fn a_transaction_that_does_not_fit_ends_its_senders_turn_only() {
    let (mut pool, now) = (pool(), Instant::now());
    pool.insert(big_tx(1, 0, 90, 10_000), &rich, now).unwrap();
    pool.insert(tx(1, 1, 80), &rich, now).unwrap();
    pool.insert(tx(2, 0, 5), &rich, now).unwrap();
    let chosen: Vec<_> = pool.select(5_000, u64::MAX).iter().map(|tx| tx.body().gas_price).collect();
    assert_eq!(chosen, [5]);
}

#[test]
fn a_replacement_pays_ten_percent_more() {
    let (mut pool, now) = (pool(), Instant::now());
    let old = tx(1, 0, 100);
    pool.insert(old.clone(), &rich, now).unwrap();
    pool.insert(tx(1, 1, 300), &rich, now).unwrap();
    assert_eq!(pool.insert(old.clone(), &rich, now).unwrap().place, Place::Known);
    assert_eq!(
        pool.insert(tx(1, 0, 109), &rich, now),
        Err(Refusal::ReplacementUnderpriced { got: 109, needed: 110 })
    );
    let new = tx(1, 0, 110);
    let inserted = pool.insert(new.clone(), &rich, now).unwrap();
    assert_eq!(inserted.removed, [(old.id(), Removal::Replaced)]);
    assert_eq!((inserted.place, inserted.ready), (Place::Ready, vec![new.id()]));
    assert_eq!(prices(&pool), [110, 300]);
    check(&pool);
}

#[test]
fn parked_until_the_gap_closes() {
    let (mut pool, now) = (pool(), Instant::now());
    let (parent, child, grandchild) = (tx(1, 0, 5), tx(1, 1, 5), tx(1, 2, 5));
    assert_eq!(pool.insert(grandchild.clone(), &rich, now).unwrap().place, Place::Parked);
    assert_eq!(pool.insert(child.clone(), &rich, now).unwrap().place, Place::Parked);
    assert_eq!((pool.pending(9).len(), pool.status(now).parked), (0, 2));
    let waits: Vec<_> = pool.parked(9).iter().map(|row| (row.tx.body().nonce, row.waits_for)).collect();
    assert_eq!(waits, [(1, Some(0)), (2, Some(0))]);
    assert_eq!(pool.parked(1).len(), 1);
    check(&pool);
    let inserted = pool.insert(parent.clone(), &rich, now).unwrap();
    assert_eq!(inserted.ready, [parent.id(), child.id(), grandchild.id()]);
    assert_eq!((pool.pending(9).len(), pool.status(now).parked), (3, 0));
    assert!(pool.parked(9).is_empty() && pool.pending(9).iter().all(|row| row.waits_for.is_none()));
    check(&pool);
}

#[test]
fn the_sender_pays_for_all_it_has_waiting() {
    let (mut pool, now) = (pool(), Instant::now());
    let each = 21_000 * 2 + 1;
    let accounts = |_: &Address| AccountState { nonce: 0, balance: 3 * each };
    pool.insert(tx(1, 0, 2), &accounts, now).unwrap();
    pool.insert(tx(1, 2, 2), &accounts, now).unwrap();
    pool.insert(tx(1, 1, 2), &accounts, now).unwrap();
    assert_eq!(
        pool.insert(tx(1, 3, 2), &accounts, now),
        Err(Refusal::Balance { needed: 4 * each, balance: 3 * each })
    );
    // A replacement is counted instead of what it replaces.
    assert_eq!(
        pool.insert(tx(1, 2, 3), &accounts, now),
        Err(Refusal::Balance { needed: 3 * each + 21_000, balance: 3 * each })
    );
    check(&pool);
}

#[test]
fn what_can_never_be_valid_is_told_from_what_is_not_valid_now() {
    let (mut pool, now) = (pool(), Instant::now());
    let key = key(1);
    let mut body = tx(1, 0, 5).body().clone();
    body.chain_id = 8;
    let foreign = pool.insert(body.clone().sign(&key).unwrap(), &rich, now).unwrap_err();
    (body.chain_id, body.gas_limit) = (CHAIN, 20_999);
    let starved = pool.insert(body.clone().sign(&key).unwrap(), &rich, now).unwrap_err();
    body.gas_limit = 30_000_001;
    let bloated = pool.insert(body.clone().sign(&key).unwrap(), &rich, now).unwrap_err();
    (body.gas_limit, body.gas_price) = (21_000, 0);
    let free = pool.insert(body.sign(&key).unwrap(), &rich, now).unwrap_err();
    for refusal in [foreign, starved, bloated, free] {
        assert!(refusal.is_invalid(), "{refusal}");
    }
    let used = pool.insert(tx(1, 0, 5), &|_: &Address| AccountState { nonce: 1, ..RICH }, now).unwrap_err();
    let far = pool.insert(tx(1, 1024, 5), &rich, now).unwrap_err();
    assert_eq!(far, Refusal::NonceTooFar { got: 1024, next: 0, ahead_max: 1024 });
    assert!(pool.insert(tx(1, 1023, 5), &rich, now).is_ok());
    for refusal in [used, far] {
        assert!(!refusal.is_invalid(), "{refusal}");
    }
}

#[test]
fn a_full_pool_evicts_the_worst_and_asks_more() {
    let (mut pool, now) = (small_pool(4, 1), Instant::now());
    for (seed, nonce, price) in [(1, 0, 10), (1, 1, 3), (1, 2, 90), (2, 0, 8)] {
        pool.insert(tx(seed, nonce, price), &rich, now).unwrap();
    }
    assert_eq!(pool.gas_price_min(now), 1);
    assert_eq!(pool.insert(tx(3, 0, 3), &rich, now), Err(Refusal::BelowFloor { got: 3, floor: 4 }));
    // Behind the cheap nonce 1, the dear nonce 2 is worth 3 as well, and goes first.
    let inserted = pool.insert(tx(3, 0, 9), &rich, now).unwrap();
    assert_eq!(inserted.removed, [(tx(1, 2, 90).id(), Removal::Evicted)]);
    assert_eq!(pool.gas_price_min(now), 4);
    check(&pool);
    let inserted = pool.insert(tx(4, 0, 9), &rich, now).unwrap();
    assert_eq!(inserted.removed, [(tx(1, 1, 3).id(), Removal::Evicted)]);
    let inserted = pool.insert(tx(5, 0, 20), &rich, now).unwrap();
    assert_eq!(inserted.removed, [(tx(2, 0, 8).id(), Removal::Evicted)]);
    assert_eq!(pool.gas_price_min(now), 9);
    check(&pool);
    // The floor decays, and with it what is refused.
    let later = now + Duration::from_secs(60);
    assert_eq!(pool.gas_price_min(later), 4);
    assert_eq!(prices(&pool), [20, 10, 9, 9]);
}

#[test]
fn room_that_cannot_be_made_evicts_nobody() {
    let (mut pool, now) = (small_pool(4, 1), Instant::now());
    for (seed, price) in [(1, 3), (2, 100), (3, 100), (4, 100)] {
        pool.insert(tx(seed, 0, price), &rich, now).unwrap();
    }
    assert!(matches!(pool.insert(big_tx(5, 0, 50, 5_000), &rich, now), Err(Refusal::BelowFloor { .. })));
    assert_eq!(prices(&pool), [100, 100, 100, 3]);
    // Nobody pushes out its own earlier nonces.
    assert!(pool.insert(tx(1, 1, 500), &rich, now).is_err());
    check(&pool);
}

/// Gaps in 100 funded accounts fill the parked part and nothing else.
#[test]
fn scenario_24_nonce_gaps_are_bounded_and_honest_parent_and_child_get_in() {
    let config = PoolConfig { parked_bytes_max: 1 << 20, ..PoolConfig::default() };
    let (mut pool, now) = (Pool::new(config, rules()), Instant::now());
    let mut accepted = 0;
    for seed in 0..100 {
        for nonce in 1..=25 {
            accepted += usize::from(pool.insert(tx(seed, nonce, 1_000), &rich, now).is_ok());
        }
    }
    let status = pool.status(now);
    assert!(status.bytes <= 1 << 20, "{status:?}");
    assert!(status.parked * (167 + ENTRY_OVERHEAD_BYTES) <= 1 << 20);
    assert!(accepted >= status.parked && status.parked > 700);
    check(&pool);
    // The child comes before its parent, and at a lower price than every gap.
    let inserted = pool.insert(tx(500, 1, 2), &rich, now).unwrap();
    assert_eq!(inserted.place, Place::Parked);
    let inserted = pool.insert(tx(500, 0, 2), &rich, now).unwrap();
    assert_eq!(inserted.ready.len(), 2);
    check(&pool);
}

/// A hundred thousand of them, in a pool as nodes have it.
#[test]
fn scenario_24_a_hundred_thousand_nonce_gaps_take_no_more_than_their_share() {
    let (mut pool, now) = (pool(), Instant::now());
    let ready: Vec<_> = (0..50).map(|nonce| tx(1_000, nonce, 5)).collect();
    for tx in ready {
        pool.insert(tx, &rich, now).unwrap();
    }
    let config = PoolConfig::default();
    let mut accepted = 0;
    for seed in 0..100 {
        for nonce in 1..=1_000 {
            accepted += usize::from(pool.insert(tx(seed, nonce, 1_000), &rich, now).is_ok());
        }
        let status = pool.status(now);
        assert!(status.bytes <= config.parked_bytes_max + 50 * 2_000, "{status:?}");
    }
    let status = pool.status(now);
    assert!(status.parked <= config.parked_bytes_max / (167 + ENTRY_OVERHEAD_BYTES), "{status:?}");
    assert!(status.parked > 6_000 && accepted < 100_000, "{status:?}, {accepted} accepted");
    assert_eq!((status.count - status.parked, status.gas_price_min), (50, 1), "who is ready feels nothing");
    // An honest child, then its parent, both cheaper than every gap.
    assert_eq!(pool.insert(tx(2_000, 1, 2), &rich, now).unwrap().place, Place::Parked);
    assert_eq!(pool.insert(tx(2_000, 0, 2), &rich, now).unwrap().ready.len(), 2);
    check(&pool);
}

/// As many funded accounts as there is room, one gap each: then the price decides.
#[test]
fn scenario_24_a_gap_in_each_of_many_accounts_yields_to_a_better_price() {
    let (mut pool, now) = (small_pool(4, 6), Instant::now());
    for seed in 0..6 {
        pool.insert(tx(seed, 1, 10), &rich, now).unwrap();
    }
    assert_eq!(pool.insert(tx(9, 1, 10), &rich, now), Err(Refusal::ParkedFull { next: 0 }));
    let inserted = pool.insert(tx(9, 1, 11), &rich, now).unwrap();
    assert_eq!((inserted.place, inserted.removed.len()), (Place::Parked, 1));
    // Its parent needs no room among the parked.
    assert_eq!(pool.insert(tx(9, 0, 11), &rich, now).unwrap().ready.len(), 2);
    check(&pool);
}

/// One account: what is beyond its share is refused, however much comes.
#[test]
fn scenario_24_one_sender_parks_no_more_than_its_share() {
    let config = PoolConfig { sender_count_max: 64, ..PoolConfig::default() };
    let (mut pool, now) = (Pool::new(config, rules()), Instant::now());
    for nonce in 1..2_000 {
        let _ = pool.insert(tx(1, nonce, 1_000), &rich, now);
    }
    assert_eq!(pool.status(now).parked, 63);
    check(&pool);
}

#[test]
fn ready_and_parked_expire_to_the_millisecond() {
    let (mut pool, now) = (pool(), Instant::now());
    pool.insert(tx(1, 0, 5), &rich, now).unwrap();
    pool.insert(tx(1, 1, 5), &rich, now + Duration::from_secs(60)).unwrap();
    pool.insert(tx(2, 1, 5), &rich, now).unwrap();
    let config = PoolConfig::default();
    assert_eq!(pool.next_deadline(), Some(now + config.parked_lifetime));
    let ms = Duration::from_millis(1);
    assert_eq!(pool.on_deadline(now + config.parked_lifetime - ms), []);
    assert_eq!(pool.on_deadline(now + config.parked_lifetime), [(tx(2, 1, 5).id(), Removal::Expired)]);
    assert_eq!(pool.on_deadline(now + config.lifetime - ms), []);
    // What stands behind the expired one goes along.
    let gone: Vec<_> = pool.on_deadline(now + config.lifetime).into_iter().map(|(id, _)| id).collect();
    assert_eq!(gone, [tx(1, 0, 5).id(), tx(1, 1, 5).id()]);
    assert_eq!((pool.status(now).count, pool.next_deadline()), (0, None));
    check(&pool);
}

#[test]
fn a_new_head_removes_frees_and_drops() {
    let (mut pool, now) = (pool(), Instant::now());
    let state = Rc::new(RefCell::new(BTreeMap::<Address, AccountState>::new()));
    let lookup = Rc::clone(&state);
    let accounts = move |address: &Address| lookup.borrow().get(address).copied().unwrap_or(RICH);
    for nonce in [0, 1, 2, 4] {
        pool.insert(tx(1, nonce, 5), &accounts, now).unwrap();
    }
    pool.insert(tx(2, 0, 5), &accounts, now).unwrap();
    pool.insert(tx(3, 0, 5), &accounts, now).unwrap();
    // Nonces 0 to 3 of the first are used, 3 by one that never came here; the second's nonce 0 by
    // another; the third spent its money.
    state.borrow_mut().insert(key(1).address(), AccountState { nonce: 4, ..RICH });
    state.borrow_mut().insert(key(2).address(), AccountState { nonce: 1, ..RICH });
    state.borrow_mut().insert(key(3).address(), AccountState { nonce: 0, balance: 100 });
    let change = HeadChange {
        included: (0..4).map(|nonce| tx(1, nonce, 5).id()).collect(),
        reverted: vec![],
        touched: vec![key(1).address(), key(2).address(), key(3).address()],
    };
    let outcome = pool.on_head_change(change, &accounts, now);
    assert_eq!(outcome.ready, [tx(1, 4, 5).id()]);
    let removed: BTreeMap<_, _> = outcome.removed.into_iter().collect();
    for nonce in 0..3 {
        assert_eq!(removed[&tx(1, nonce, 5).id()], Removal::Included);
    }
    assert_eq!(removed[&tx(2, 0, 5).id()], Removal::Stale);
    assert_eq!(removed[&tx(3, 0, 5).id()], Removal::Unpayable);
    assert_eq!(pool.status(now).count, 1);
    check(&pool);
}

#[test]
fn a_reverted_block_comes_back_before_what_followed_it() {
    let (mut pool, now) = (pool(), Instant::now());
    let nonce = Rc::new(RefCell::new(2));
    let lookup = Rc::clone(&nonce);
    let accounts = move |_: &Address| AccountState { nonce: *lookup.borrow(), ..RICH };
    pool.insert(tx(1, 2, 5), &accounts, now).unwrap();
    *nonce.borrow_mut() = 0;
    let change = HeadChange {
        included: vec![tx(1, 7, 5).id()],
        reverted: vec![tx(1, 1, 5), tx(1, 0, 5)],
        touched: vec![],
    };
    let outcome = pool.on_head_change(change, &accounts, now);
    assert_eq!(outcome.removed, []);
    assert_eq!(outcome.ready, [tx(1, 0, 5).id(), tx(1, 1, 5).id(), tx(1, 2, 5).id()]);
    assert_eq!(pool.pending(9).len(), 3);
    check(&pool);
}

#[test]
fn a_dump_loads_and_damage_is_left_out() {
    let (mut old, now) = (pool(), Instant::now());
    for (seed, nonce) in [(1, 0), (1, 1), (2, 3), (3, 0)] {
        old.insert(tx(seed, nonce, 5), &rich, now).unwrap();
    }
    let mut dump = old.dump();
    assert_eq!(dump.len(), 4);
    let mut damaged = dump[0].to_vec();
    damaged[50] ^= 1;
    dump.push(damaged.into());
    dump.push(Bytes::from_static(b"torn"));
    let mut new = pool();
    let loaded = new.load(dump, &rich, ChaCha12Rng::from_seed([1; 32]), now);
    assert_eq!(loaded.left_out, 2);
    assert_eq!(loaded.ready.len(), 3);
    assert_eq!(new.status(now), old.status(now));
    check(&new);
}

#[test]
fn every_refusal_has_a_word_and_says_what_to_do() {
    let all = [
        Refusal::WrongChain { got: 1, want: 2 },
        Refusal::GasLimit { got: 1, min: 2, max: 3 },
        Refusal::PriceBelowMinimum { got: 1, min: 2 },
        Refusal::CostOverflow,
        Refusal::BelowFloor { got: 1, floor: 2 },
        Refusal::NonceUsed { got: 1, next: 2 },
        Refusal::NonceTooFar { got: 1, next: 2, ahead_max: 3 },
        Refusal::ReplacementUnderpriced { got: 1, needed: 2 },
        Refusal::Balance { needed: 1, balance: 2 },
        Refusal::ParkedFull { next: 1 },
    ];
    let words: HashSet<_> = all.iter().map(Refusal::reason).collect();
    assert_eq!(words.len(), all.len());
    for refusal in all {
        let text = refusal.to_string();
        assert!(
            ["sign it again", "submit", "fund", "replace it"].iter().any(|what| text.contains(what)),
            "{text}"
        );
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert { seed: u16, nonce: u64, price: u64, payload: usize },
    Head { seed: u16, nonce: u64, poor: bool, revert: bool },
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u16, 0..10u64, 1..60u64, 0..800usize)
            .prop_map(|(seed, nonce, price, payload)| Step::Insert { seed, nonce, price, payload }),
        2 => (0..6u16, 0..6u64, any::<bool>(), any::<bool>())
            .prop_map(|(seed, nonce, poor, revert)| Step::Head { seed, nonce, poor, revert }),
        1 => (0..400u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, all that is kept incrementally agrees with what is there, the bounds hold,
    /// ready lists name what is ready, and a selection could be executed.
    #[test]
    fn whatever_happens_the_books_agree(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pool = small_pool(12, 5);
        let mut now = Instant::now();
        let state = Rc::new(RefCell::new(BTreeMap::<Address, AccountState>::new()));
        let lookup = Rc::clone(&state);
        let accounts = move |address: &Address| {
            lookup.borrow().get(address).copied().unwrap_or(AccountState { nonce: 0, balance: 10_000_000 })
        };
        // What the relay would hold as ready, from the lists alone.
        let mut ready = HashSet::new();
        for step in steps {
            let (more, less) = match step {
                Step::Insert { seed, nonce, price, payload } => {
                    let before = pool.dump();
                    match pool.insert(big_tx(seed, nonce, price, payload), &accounts, now) {
                        Ok(inserted) => (inserted.ready, inserted.removed),
                        Err(_) => {
                            prop_assert_eq!(before, pool.dump(), "a refusal changes nothing");
                            (vec![], vec![])
                        }
                    }
                }
                Step::Head { seed, nonce, poor, revert } => {
                    let address = key(seed).address();
                    let balance = if poor { 2_000_000 } else { 10_000_000 };
                    let before = accounts(&address).nonce;
                    state.borrow_mut().insert(address, AccountState { nonce, balance });
                    let reverted = if revert { (nonce..before).map(|n| tx(seed, n, 9)).collect() } else { vec![] };
                    let included = (before..nonce).map(|n| tx(seed, n, 9).id()).collect();
                    let change = HeadChange { included, reverted, touched: vec![address] };
                    let outcome = pool.on_head_change(change, &accounts, now);
                    (outcome.ready, outcome.removed)
                }
                Step::Wait { seconds } => {
                    now += Duration::from_secs(seconds);
                    (vec![], pool.on_deadline(now))
                }
            };
            for (id, _) in less {
                prop_assert!(!pool.contains(&id));
                ready.remove(&id);
            }
            ready.extend(more);
            check(&pool);
            let listed: HashSet<_> = pool.pending(usize::MAX).iter().map(|row| row.tx.id()).collect();
            prop_assert!(listed.is_subset(&ready), "something became ready unsaid");
            let mut next = BTreeMap::new();
            let mut spent = BTreeMap::new();
            for tx in pool.select(usize::MAX, u64::MAX) {
                let account = accounts(&tx.sender());
                prop_assert_eq!(tx.body().nonce, *next.entry(tx.sender()).or_insert(account.nonce));
                *next.get_mut(&tx.sender()).unwrap() += 1;
                let spent = spent.entry(tx.sender()).or_insert(0);
                *spent += tx.body().cost_max().unwrap();
                prop_assert!(*spent <= account.balance);
            }
        }
    }
}

//! Markets on the chain: what is committed to, and what survives forks and restarts.

use std::sync::Arc;

use ghost_node::{
    chain::{Chain, HeadView},
    dex::{
        feeds::{Shows, Told, read_block},
        read_balance,
    },
    store::MemoryStore,
};
use ghost_proto::{
    Action, Genesis, Markets, Outcome, Transaction, VerifiedTransaction,
    market::{Asset, BookMark, Market, OrderKind, Side},
};
use ghost_protocol::feed::{Feed, FeedLimits};

use crate::world::*;

const USD: u16 = 1;

fn with_market(authorities: usize) -> Arc<Genesis> {
    let allocation = (0..8).map(|n| (user(n).address(), RICH)).collect();
    let usd = Asset { symbol: "USD".into(), decimals: 6, allocation };
    let market = Market { base: 0, quote: USD, lot: 10, tick: 2, maker_fee_ppm: 1_000, taker_fee_ppm: 2_000 };
    let markets = Markets { assets: vec![usd], markets: vec![market] };
    Arc::new(Genesis { markets, ..(*genesis(authorities)).clone() })
}

fn tx(from: u8, nonce: u64, action: Action) -> VerifiedTransaction {
    let key = user(from);
    Transaction { chain_id: 7, sender_key: key.public(), nonce, gas_limit: 100_000, gas_price: 1, action }
        .sign(&key)
        .unwrap()
}

fn place(from: u8, nonce: u64, side: Side, ticks: u64, lots: u64) -> VerifiedTransaction {
    tx(from, nonce, Action::Place { market: 0, side, kind: OrderKind::Limit, ticks, lots })
}

/// Hash of the book, position and hash of its feed, and everybody's balances, free and locked.
type Picture = ([u8; 32], u64, [u8; 32], Vec<(u128, u128)>);

/// Everything about the market that two views should agree on.
fn picture(view: &HeadView) -> Picture {
    let market = view.dex().market(0).unwrap();
    let balances = (0..8).flat_map(|n| [0, USD].map(|asset| (asset, user(n).address())));
    let balances = balances.map(|(asset, owner)| {
        let balance = read_balance(view.state(), asset, &owner).unwrap();
        (balance.free, balance.locked)
    });
    let position = market.record().position;
    (market.order_book().hash(), position.seq, position.hash, balances.collect())
}

fn usd_in_all(view: &HeadView, genesis: &Genesis) -> u128 {
    let users = (0..8).map(|n| user(n).address());
    let all = users.chain(genesis.authorities.keys().iter().map(|key| key.address()));
    all.map(|owner| read_balance(view.state(), USD, &owner).unwrap()).map(|it| it.free + it.locked).sum()
}

#[test]
fn orders_trade_in_the_order_of_the_block_and_their_receipts_say_so() {
    let genesis = with_market(1);
    let mut chain = memory_chain(&genesis, Some(0));
    let orders = vec![
        place(0, 0, Side::Sell, 100, 5),
        place(1, 0, Side::Buy, 100, 8),
        tx(2, 0, Action::Cancel { market: 0, order: 2, leave: 0 }),
        place(3, 0, Side::Sell, 1 << 40, 1 << 40),
        tx(1, 1, Action::Place { market: 9, side: Side::Buy, kind: OrderKind::Limit, ticks: 1, lots: 1 }),
    ];
    let ids: Vec<_> = orders.iter().map(|order| order.id()).collect();
    chain.propose(1, orders, slot_start(1)).unwrap();
    let view = chain.view();
    let receipt = |n: usize| view.transaction(&ids[n]).unwrap().unwrap().receipt;
    // Blocks order by sender, whatever was handed in: of the two, one rested and the other traded with it.
    let outcomes: Vec<_> = (0..5).map(|n| receipt(n).outcome).collect();
    assert_eq!(outcomes[..2], [Outcome::Done, Outcome::Done]);
    assert_eq!(outcomes[3], Outcome::InsufficientBalance);
    assert_eq!((outcomes[2], outcomes[4]), (Outcome::Reverted, Outcome::Reverted));
    assert_eq!(receipt(4).output.as_ref(), b"there is no market 9");
    assert_eq!(receipt(3).logs, []);
    let market = view.dex().market(0).unwrap();
    assert_eq!((market.record().trades, market.record().volume_lots), (1, 5));
    assert_eq!(market.book().best(Side::Buy), Some(100));
    assert_eq!(usd_in_all(&view, &genesis), 8 * RICH, "fees are the proposer's");
}

#[test]
fn a_market_survives_a_restart_before_and_after_finality() {
    let genesis = with_market(1);
    let store = Arc::new(MemoryStore::new());
    let mut chain = open(&genesis, store.clone(), Some(0));
    let mut nonces = [0u64; 4];
    for slot in 1..=6u64 {
        let mut orders = Vec::new();
        for from in 0..4u8 {
            let side = if from % 2 == 0 { Side::Buy } else { Side::Sell };
            let ticks = 98 + (slot * 3 + u64::from(from) * 5) % 5;
            orders.push(place(from, nonces[usize::from(from)], side, ticks, 1 + slot));
            nonces[usize::from(from)] += 1;
        }
        chain.propose(slot, orders, slot_start(slot)).unwrap();
        if slot <= 3 {
            chain.vote(u64::MAX / 2).unwrap();
        }
    }
    let before = picture(&chain.view());
    let (head, finalized) = (chain.head(), chain.finalized().height);
    assert!(finalized > 0 && finalized < head.height, "some blocks are final and some are not");
    assert!(before.1 > 0);
    drop(chain);
    let chain = open(&genesis, store, Some(0));
    assert_eq!((chain.head(), chain.finalized().height), (head, finalized));
    assert_eq!(picture(&chain.view()), before);
}

/// Follows a view from genesis to its head, as the service of books does.
fn follow(view: &HeadView) -> (Feed, Told) {
    let genesis = view.genesis();
    let (id, dex) = (view.genesis_id(), ghost_node::dex::Dex::new(genesis));
    let market = dex.market(0).unwrap();
    let mark =
        BookMark { height: 0, block: genesis.block_id(), finalized: 0, time_unix_ms: 0, book_hash: [0; 32] };
    let mut feed = Feed::new(id.epoch(), market.record().position, FeedLimits::default());
    let mut told = Told::new(&Shows::Orders, market, mark);
    for height in 1..=view.head().height {
        let blocks = read_block(view, height, 1).unwrap().unwrap();
        assert!(told.advance(&mut feed, &blocks[0], &Default::default(), 0));
    }
    (feed, told)
}

#[test]
fn a_reorganisation_gives_the_book_of_the_other_branch_and_both_feeds_are_those_of_the_state() {
    let genesis = with_market(4);
    let mut forge = Forge::new(genesis.clone());
    let common = forge.block(genesis.block_id(), 1, vec![place(0, 0, Side::Sell, 100, 9)]);
    let left = forge.block(common.header().id(), 2, vec![place(1, 0, Side::Buy, 100, 4)]);
    let right = forge.block(common.header().id(), 3, vec![place(2, 0, Side::Buy, 99, 7)]);
    let beyond = forge.block(
        right.header().id(),
        4,
        vec![tx(0, 1, Action::Replace { market: 0, order: 1, ticks: 99, lots: 3 })],
    );
    let mut chain = memory_chain(&genesis, None);
    for block in [&common, &left] {
        chain.import(block.clone(), trust_none, slot_start(9)).unwrap();
    }
    let on_left = picture(&chain.view());
    let (feed, told) = follow(&chain.view());
    let agrees = |chain: &Chain, feed: &Feed, told: &Told| {
        let view = chain.view();
        let market = view.dex().market(0).unwrap();
        assert_eq!(feed.at(), market.record().position);
        assert_eq!(told.book(), Some(&market.order_book()));
    };
    agrees(&chain, &feed, &told);
    for block in [&right, &beyond] {
        chain.import(block.clone(), trust_none, slot_start(9)).unwrap();
    }
    assert_eq!(chain.head().id, beyond.header().id());
    assert_ne!(picture(&chain.view()), on_left);
    let (feed, told) = follow(&chain.view());
    agrees(&chain, &feed, &told);
    let direct = forge.chain_at(beyond.header().id(), 5);
    assert_eq!(picture(&chain.view()), picture(&direct.view()), "whatever way led there");
    assert_eq!(usd_in_all(&chain.view(), &genesis), 8 * RICH);
}

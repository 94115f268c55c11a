//! Following markets over streams, while nodes come and go.

use std::time::Duration;

use ghost_frames::feed::SnapshotReason;
use ghost_proto::{
    Action, Outcome,
    market::{BookMark, DepthChange, DepthView, OrderBook, OrderKind, Side, decode_events},
    message::BookView,
};
use ghost_protocol::{
    Identity,
    client::{Book, BookQuery, BookUpdate, Client, Pool, PoolConfig},
    feed::{CursorLimits, Event},
};
use tokio::time::timeout;

use crate::net::{Net, PATIENCE, send, user};

const MARKET: &str = "GHOST/USD";

fn place(side: Side, ticks: u64, lots: u64) -> Action {
    Action::Place { market: 0, side, kind: OrderKind::Limit, ticks, lots }
}

async fn next(book: &mut Book) -> BookUpdate {
    timeout(PATIENCE, book.next()).await.expect("something happens").unwrap()
}

/// Reads on until the book stands where the node's market does, and gives all updates on the way.
async fn catch_up(book: &mut Book, client: &Client) -> Vec<BookUpdate> {
    let row = client.markets(MARKET).await.unwrap().markets.remove(0);
    let mut updates = Vec::new();
    while book.place().is_none_or(|place| place.at.seq < row.seq) {
        updates.push(next(book).await);
    }
    assert_eq!(book.place().unwrap().at.hash[..], row.hash[..], "the position is the one in the state");
    assert_eq!(book.book().len() as u64, row.orders);
    updates
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_34_a_subscriber_goes_on_at_another_node_without_a_gap_and_with_the_same_book() {
    let mut net = Net::start(3).await;
    let other = net.client(2).await;
    for (from, side, ticks) in [(0, Side::Sell, 101), (1, Side::Buy, 99), (2, Side::Sell, 103)] {
        let receipt = send(&net, &other, from, place(side, ticks, 5)).await;
        assert_eq!(receipt.outcome, Outcome::Done);
    }
    // The third node is asked about the truth, and is not in the pool.
    let pool = Pool::new(PoolConfig::new(Identity::generate()), net.addresses()[..2].to_vec());
    let mut book = pool.book(MARKET);
    catch_up(&mut book, &other).await;
    send(&net, &other, 3, place(Side::Buy, 101, 2)).await;
    catch_up(&mut book, &other).await;

    let attached = book.peer().unwrap();
    let index = (0..2).find(|index| net.nodes[*index].peer_id == attached).unwrap();
    let stopped = net.nodes.remove(index);
    stopped.shutdown();
    stopped.stopped().await;
    // With two of three authorities the chain goes on.
    send(&net, &other, 4, place(Side::Buy, 100, 7)).await;
    send(&net, &other, 5, place(Side::Sell, 100, 3)).await;
    let updates = catch_up(&mut book, &other).await;
    assert!(updates.iter().any(|update| matches!(update, BookUpdate::Moved { .. })), "{updates:?}");
    // A reorganisation may come in between, and says so; the move itself takes no snapshot.
    let moved_with = |update: &BookUpdate| matches!(update, BookUpdate::Snapshot { reason, .. } if *reason != SnapshotReason::Diverged);
    assert!(!updates.iter().any(moved_with), "{updates:?}");
    assert_ne!(book.peer().unwrap(), attached);
    // Not a copy of the node's word: the orders that were sent, and what they did to one another.
    let rests = |side| book.book().orders(side).map(|it| (it.ticks, it.lots)).collect::<Vec<_>>();
    assert_eq!(rests(Side::Buy), [(100, 4), (99, 5)]);
    assert_eq!(rests(Side::Sell), [(101, 3), (103, 5)]);
}

async fn snapshot(
    client: &Client,
    query: &BookQuery,
) -> (ghost_protocol::feed::FeedStream, bytes::Bytes, BookMark) {
    let mut stream = client.follow_market(query, None, CursorLimits::default()).await.unwrap();
    let event = timeout(PATIENCE, stream.next()).await.unwrap().unwrap();
    let Event::Snapshot { bytes, mark, .. } = event else { panic!("{event:?}") };
    let mark = BookMark::parse(&mark).unwrap_or(BookMark {
        height: 0,
        block: ghost_proto::BlockId::ZERO,
        finalized: 0,
        time_unix_ms: 0,
        book_hash: [0; 32],
    });
    (stream, bytes, mark)
}

async fn step(stream: &mut ghost_protocol::feed::FeedStream) -> (bytes::Bytes, bytes::Bytes) {
    loop {
        if let Event::Step { bytes, mark, .. } = timeout(PATIENCE, stream.next()).await.unwrap().unwrap() {
            return (bytes, mark);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_view_shows_its_part_of_the_same_book() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    send(&net, &client, 0, place(Side::Sell, 101, 5)).await;
    send(&net, &client, 1, place(Side::Sell, 104, 6)).await;
    let depth = BookQuery { levels: 5, grouping_ticks: 5, ..BookQuery::view(MARKET, BookView::BookDepth) };
    let (mut by_depth, bytes, mark) = snapshot(&client, &depth).await;
    let mut view = DepthView::default();
    view.apply(&DepthChange::decode(bytes).unwrap());
    assert_eq!(view.hash(), mark.book_hash);
    let rows =
        |view: &DepthView, side| view.levels(side).iter().map(|it| (it.ticks, it.lots)).collect::<Vec<_>>();
    assert_eq!(rows(&view, Side::Sell), [(105, 11)], "two prices in one row");
    let (mut best, _, _) = snapshot(&client, &BookQuery::view(MARKET, BookView::BookBest)).await;
    let (mut trades, bytes, _) = snapshot(&client, &BookQuery::view(MARKET, BookView::BookTrades)).await;
    assert!(bytes.is_empty());
    let own = BookQuery {
        owner: bytes::Bytes::copy_from_slice(&user(0).address().0),
        ..BookQuery::view(MARKET, BookView::BookOwn)
    };
    let (mut own, bytes, mark) = snapshot(&client, &own).await;
    let mut mine = OrderBook::decode(bytes).unwrap();
    assert_eq!((mine.len(), mine.hash()), (1, mark.book_hash));

    send(&net, &client, 2, place(Side::Buy, 102, 2)).await;
    let (bytes, mark) = step(&mut by_depth).await;
    view.apply(&DepthChange::decode(bytes).unwrap());
    assert_eq!(rows(&view, Side::Sell), [(105, 9)]);
    assert_eq!(view.hash(), BookMark::parse(&mark).unwrap().book_hash);
    let change = DepthChange::decode(step(&mut best).await.0).unwrap();
    assert_eq!((change.asks[0].ticks, change.asks[0].lots, change.last_ticks), (101, 3, 101));
    assert_eq!(decode_events(&step(&mut trades).await.0).unwrap().len(), 1);
    for event in decode_events(&step(&mut own).await.0).unwrap() {
        mine.apply(&event).unwrap();
    }
    assert_eq!(mine.orders(Side::Sell).map(|it| it.lots).collect::<Vec<_>>(), [3]);

    // What waits is shown as such, and is in no book.
    let (mut pending, _, _) = snapshot(&client, &BookQuery::view(MARKET, BookView::BookPending)).await;
    let mut nonce = 0;
    let shown = loop {
        // A block may take it before anybody looks: then another one is sent.
        let (_, bytes) = net.sign(3, nonce, place(Side::Buy, 50, 1));
        nonce += 1;
        client.submit(vec![bytes]).await.unwrap();
        match timeout(Duration::from_millis(500), step(&mut pending)).await {
            Ok((shown, _)) if !shown.is_empty() => break shown,
            _ => assert!(nonce < 60, "nothing is ever shown as pending"),
        }
    };
    assert_eq!(shown[32..52], user(3).address().0, "transaction, then sender");

    let row = client.markets("").await.unwrap().markets.remove(0);
    assert_eq!((row.name.as_str(), row.trades), (MARKET, 1));
    let refused = client.markets("NO/SUCH").await.unwrap_err().to_string();
    assert!(refused.contains("this chain has: GHOST/USD"), "{refused}");
}

//! Prices on networks of whole nodes, in virtual time.

use std::{sync::atomic::Ordering, time::Duration};

use ghost_frames::{Payload, StreamType, feed::SnapshotReason, price::PriceReport};
use ghost_node::oracle::state::{is_excluded_at, price_at};
use ghost_proto::{Report, price::ReportFields};
use ghost_protocol::client::{
    CallError, Client, ClientConfig, Connector, PriceEvent, PriceRules, PriceStream,
};
use ghost_testnet::{
    adversary::Role,
    prices::{publisher_key, reports},
    sim::{
        NetworkPlan, NodeId, SimNetwork,
        disk::DiskKind,
        network::{ORIGIN_UNIX_MS, heads_agree},
    },
};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn now_unix_ms(network: &SimNetwork) -> u64 {
    ORIGIN_UNIX_MS + (Instant::now() - network.origin()).as_millis() as u64
}

/// The honest publishers, which are all but the last, report once to a node of their own.
async fn report_all(network: &SimNetwork, publishers: u16, rng: &mut ChaCha12Rng) {
    for publisher in 0..publishers - 1 {
        let key = publisher_key(network.plan().seed, publisher);
        let reports = reports(network.genesis(), publisher, &key, now_unix_ms(network), rng);
        let bytes = reports.iter().map(|report| bytes::Bytes::copy_from_slice(report.bytes())).collect();
        let at = NodeId(u32::from(publisher) % network.plan().nodes);
        let Some(node) = network.node(at) else { continue };
        let answer = node.publish_prices(bytes).await;
        assert!(answer.results.iter().all(|result| result.taken), "{answer:?}");
    }
}

/// Reports for some seconds, twice in each.
async fn run(network: &SimNetwork, publishers: u16, seconds: u64, rng: &mut ChaCha12Rng) {
    for _ in 0..2 * seconds {
        report_all(network, publishers, rng).await;
        sleep(SECOND / 2).await;
    }
}

fn plan(publishers: u16) -> NetworkPlan {
    NetworkPlan { seed: 32, nodes: 6, publishers, ..NetworkPlan::default() }
}

#[tokio::test(start_paused = true)]
async fn prices_reach_every_node_and_every_block_and_stop_by_age() {
    let network = SimNetwork::start(plan(5)).await.unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    sleep(3 * SECOND).await;
    run(&network, 5, 10, &mut rng).await;
    let key = network.genesis().feeds[0].key();
    let taken: Vec<u64> = network
        .ids()
        .map(|id| {
            let node = network.node(id).unwrap();
            let board = node.prices();
            let price = board.feeds[0].price.expect("a price of four publishers");
            assert_eq!(price.used, 0b1111);
            assert!(price.age_ms(now_unix_ms(&network)) <= 1_000);
            // The chain follows within two slots, of a second, and the way of a block.
            let committed = price_at(node.view().state(), &key).unwrap().expect("a committed price");
            let age = committed.aggregate.age_ms(now_unix_ms(&network));
            assert!(age <= 3_500, "{age}");
            assert!(committed.height + 1 >= node.view().head().height);
            node.metrics().price_reports_of("taken")
        })
        .collect();
    // Every report came to every node, and was taken once: 4 publishers × 2 feeds × 20.
    assert_eq!(taken, [160; 6]);
    assert!(heads_agree(&network, &network.read_all(), 1));

    // They stop. Nothing disappears; everything grows old.
    sleep(20 * SECOND).await;
    for id in network.ids() {
        let node = network.node(id).unwrap();
        let age = node.prices().feeds[0].price.unwrap().age_ms(now_unix_ms(&network));
        assert!(age >= 20_000 && age > network.genesis().feeds[0].max_age_ms);
        assert!(price_at(node.view().state(), &key).unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn committed_prices_survive_a_crash_and_publishers_start_again_above() {
    let plan = NetworkPlan { disk: DiskKind::Sled, nodes: 4, ..plan(5) };
    let mut network = SimNetwork::start(plan).await.unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(2);
    sleep(3 * SECOND).await;
    run(&network, 5, 6, &mut rng).await;
    let key = network.genesis().feeds[1].key();
    let id = NodeId(2);
    let read = |network: &SimNetwork| {
        let node = network.node(id).unwrap();
        (node.view().head().height, price_at(node.view().state(), &key).unwrap())
    };
    let (_, before) = read(&network);
    network.crash(id).unwrap();
    network.restart(id).await.unwrap();
    let (height, after) = read(&network);
    // What was final is there; at most the last blocks are fetched again.
    assert!(height > 0 && after.is_some());
    assert!(before.unwrap().height - after.unwrap().height <= 3);
    assert!(network.node(id).unwrap().prices().feeds[1].price.is_none(), "what was in memory is gone");
    sleep(SECOND).await;
    run(&network, 5, 3, &mut rng).await;
    assert!(network.node(id).unwrap().prices().feeds[1].price.is_some());
    let (_, later) = read(&network);
    assert!(later.unwrap().height > before.unwrap().height);
    assert!(heads_agree(&network, &network.read_all(), 1));
}

#[tokio::test(start_paused = true)]
async fn scenario_31_only_a_forger_is_banned_and_nothing_it_sends_goes_on() {
    let mut network = SimNetwork::start(plan(5)).await.unwrap();
    sleep(3 * SECOND).await;
    let genesis = network.genesis().clone();
    let now = now_unix_ms(&network);
    let sign = |publisher, sequence, time_unix_ms| {
        let fields =
            ReportFields { feed: 0, publisher, sequence, time_unix_ms, price: 1_250_000, confidence: 1 };
        Report::sign(fields, &genesis.id(), &publisher_key(32, publisher))
    };
    let ahead = sign(0, 1, now + 60_000);
    let alone = sign(1, 1, now);
    let mut forged = *sign(2, 1, now).bytes();
    forged[99] ^= 1;
    let forged = Report::parse(bytes::Bytes::copy_from_slice(&forged)).unwrap();

    let victim = NodeId(0);
    let mut say = Vec::new();
    for report in [ahead, alone, forged] {
        // Three peers, each with one thing to say to one node.
        let sitter = network.add_adversary(Role::Eclipser).unwrap();
        say.push((sitter, report));
    }
    sleep(3 * SECOND).await;
    for (sitter, report) in &say {
        let session = sitter.session(&network.peer_id(victim)).expect("it sits there");
        session.push(StreamType::Oracle, &PriceReport(*report).to_frame());
    }
    sleep(2 * SECOND).await;
    let banned: Vec<_> = network.read(victim).unwrap().bans.into_iter().map(|(peer, _)| peer).collect();
    assert_eq!(banned, [say[2].0.peer_id], "only a bad signature is an offence");
    for id in network.ids() {
        let node = network.node(id).unwrap();
        let count = |verdict| node.metrics().price_reports_of(verdict);
        // What is good travels, also without a quorum; and makes no price alone.
        assert_eq!(count("taken"), 1, "{id:?}");
        assert!(node.prices().feeds[0].price.is_none(), "{id:?}");
        // What is ahead or forged reached the one it was sent to, and nobody else.
        let first = u64::from(id == victim);
        assert_eq!((count("ahead"), count("bad_signature")), (first, first), "{id:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn scenario_32_a_price_equivocator_is_found_by_all_told_of_once_and_excluded_by_the_chain() {
    let mut network = SimNetwork::start(plan(5)).await.unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(3);
    sleep(3 * SECOND).await;
    run(&network, 5, 3, &mut rng).await;
    let liar = network.add_adversary(Role::PriceEquivocator).unwrap();
    run(&network, 5, 15, &mut rng).await;
    assert!(liar.deeds.done.load(Ordering::Relaxed) > 0);
    let feeds = network.genesis().feeds.len() as u64;
    for id in network.ids() {
        let node = network.node(id).unwrap();
        for (feed, row) in network.genesis().feeds.iter().zip(&node.prices().feeds) {
            assert_eq!(row.accused(), 0b1_0000, "{id:?}");
            // The four honest ones make the price, and it goes on.
            let price = row.price.unwrap();
            assert_eq!(price.used, 0b1111, "{id:?}");
            assert!(price.age_ms(now_unix_ms(&network)) <= 1_000);
            assert_eq!(is_excluded_at(node.view().state(), &feed.key(), 4), Ok(true), "{id:?}");
            assert_eq!(is_excluded_at(node.view().state(), &feed.key(), 3), Ok(false), "{id:?}");
        }
        // Each node made or took the evidence of a feed once, and passed it on once.
        assert_eq!(node.metrics().price_equivocations.get(), feeds, "{id:?}");
    }
    let readings = network.read_all();
    assert!(heads_agree(&network, &readings, 1));
    for reading in &readings {
        assert!(reading.bans.iter().all(|(peer, _)| *peer == liar.peer_id), "{:?}", reading.bans);
    }
}

/// A client of the simulated network, connected to a node.
async fn client(network: &mut SimNetwork, id: NodeId) -> Client {
    let seat = network.seat();
    let config = ClientConfig::new(seat.identity.clone());
    let connector = Connector::with_socket(config, seat.socket()).unwrap();
    connector.connect(&network.multiaddr(id)).await.unwrap()
}

/// The events of some time.
async fn events_for(stream: &mut PriceStream, seconds: u64) -> Vec<PriceEvent> {
    let mut events = Vec::new();
    let over = sleep(Duration::from_secs(seconds));
    tokio::pin!(over);
    loop {
        tokio::select! {
            event = stream.next() => events.push(event.unwrap()),
            () = &mut over => return events,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_checks_every_report_and_goes_on_at_another_node_with_one_announced_snapshot() {
    let mut network = SimNetwork::start(plan(5)).await.unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(4);
    sleep(3 * SECOND).await;
    run(&network, 5, 2, &mut rng).await;
    let rules = PriceRules::of(network.genesis());
    // Node 5 is nobody's entrance.
    let first = client(&mut network, NodeId(5)).await;
    let mut stream = first.follow_price(&rules, "BTC/USD", None).await.unwrap();
    // Until the snapshot is made: what comes after it is told one by one.
    sleep(SECOND / 2).await;
    let publishing = run(&network, 5, 5, &mut rng);
    let (events, ()) = tokio::join!(events_for(&mut stream, 5), publishing);
    assert!(matches!(events[0], PriceEvent::Begun { reason: SnapshotReason::Begin, .. }), "{:?}", events[0]);
    let prices = events.iter().filter(|event| matches!(event, PriceEvent::Price { .. })).count();
    // The snapshot makes one price; then each of 4 reports, twice a second for 5 s, makes one.
    assert_eq!((events.len(), prices), (42, 41));

    // Its connection breaks and it comes back: nothing is missed, and nothing is said of it.
    let cursor = stream.cursor().unwrap();
    drop(stream);
    first.close().await;
    run(&network, 5, 1, &mut rng).await;
    let again = client(&mut network, NodeId(5)).await;
    let mut stream = again.follow_price(&rules, "BTC/USD", Some(cursor)).await.unwrap();
    let events = events_for(&mut stream, 1).await;
    assert_eq!(events.len(), 8, "{events:?}");
    assert!(events.iter().all(|event| matches!(event, PriceEvent::Price { .. })));

    // The node falls: another one goes on, with one snapshot that is announced.
    let cursor = stream.cursor();
    network.crash(NodeId(5)).unwrap();
    let error = loop {
        if let Err(error) = stream.next().await {
            break error;
        }
    };
    assert!(matches!(error, CallError::Request(_)), "{error}");
    let other = client(&mut network, NodeId(4)).await;
    let mut stream = other.follow_price(&rules, "BTC/USD", cursor).await.unwrap();
    let publishing = run(&network, 5, 2, &mut rng);
    let (events, ()) = tokio::join!(events_for(&mut stream, 2), publishing);
    let begun = |event: &&PriceEvent| matches!(event, PriceEvent::Begun { .. });
    assert_eq!(events.iter().filter(begun).count(), 1);
    assert!(
        matches!(events[0], PriceEvent::Begun { reason: SnapshotReason::Diverged, .. }),
        "{:?}",
        events[0]
    );

    // The publishers stop: by age, once, and the price is still there.
    let events = events_for(&mut stream, 10).await;
    let [PriceEvent::Stale { age }] = events[..] else { panic!("{events:?}") };
    let max = Duration::from_millis(rules.feed("BTC/USD").unwrap().1.max_age_ms);
    assert!(age > max && age <= max + 2 * SECOND, "{age:?}");
    assert!(stream.price().is_some());
}

#[tokio::test(start_paused = true)]
async fn ticks_come_at_their_rate_and_repeat_what_stands_still() {
    let mut network = SimNetwork::start(plan(5)).await.unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(5);
    sleep(3 * SECOND).await;
    run(&network, 5, 1, &mut rng).await;
    let client = client(&mut network, NodeId(5)).await;
    assert!(client.price_ticks(&["GHO/USD"], 7).await.is_err(), "7 ms is no rate");
    assert!(client.price_ticks(&["NONE"], 50).await.is_err());
    let mut rules = PriceRules::of(network.genesis());
    let mut quick = client.price_ticks(&["GHO/USD"], 1).await.unwrap();
    let mut slow = client.price_ticks(&["GHO/USD", "BTC/USD"], 1_000).await.unwrap();
    let counting = async {
        let (mut quick_count, mut slow_count) = (0, 0);
        let over = sleep(5 * SECOND);
        tokio::pin!(over);
        loop {
            tokio::select! {
                quote = quick.next() => {
                    rules.price(&quote.unwrap().unwrap()).unwrap();
                    quick_count += 1;
                }
                quote = slow.next() => {
                    rules.price(&quote.unwrap().unwrap()).unwrap();
                    slow_count += 1;
                }
                () = &mut over => return (quick_count, slow_count),
            }
        }
    };
    let (counts, ()) = tokio::join!(counting, run(&network, 5, 5, &mut rng));
    // Ten rounds of four reports that come by different ways, so in one to four bunches.
    assert!((10..=44).contains(&counts.0), "{counts:?}");
    assert!((8..=12).contains(&counts.1), "two feeds, once a second: {counts:?}");
    // Nothing new any more: once a second all the same.
    let (mut repeats, over) = (0, sleep(5 * SECOND));
    tokio::pin!(over);
    loop {
        tokio::select! {
            _ = quick.next() => repeats += 1,
            () = &mut over => break,
        }
    }
    assert!((4..=6).contains(&repeats), "{repeats}");
}

#[tokio::test(start_paused = true)]
async fn a_light_subscriber_proves_the_committed_price_by_the_genesis_alone() {
    let mut network = SimNetwork::start(plan(5)).await.unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(6);
    sleep(3 * SECOND).await;
    let genesis = network.genesis().clone();
    let client = client(&mut network, NodeId(5)).await;
    assert_eq!(client.price_proof(&genesis, "GHO/USD").await.unwrap(), None);
    run(&network, 5, 6, &mut rng).await;
    let fresh = client.price_proof(&genesis, "GHO/USD").await.unwrap().unwrap();
    let committed = client.prices(&["GHO/USD"]).await.unwrap().prices[0].committed.unwrap();
    assert_eq!((fresh.price, fresh.height), (committed.aggregate.price, committed.height));
    assert_eq!(fresh.time_unix_ms, committed.aggregate.time_unix_ms);
    // Finality follows two blocks behind.
    sleep(5 * SECOND).await;
    assert!(client.price_proof(&genesis, "GHO/USD").await.unwrap().unwrap().finalized);
    // By another genesis it proves nothing.
    let other = ghost_proto::Genesis { chain_id: 1, ..(*genesis).clone() };
    assert!(client.price_proof(&other, "GHO/USD").await.is_err());
}

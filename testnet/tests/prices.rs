//! Prices on networks of whole nodes, in virtual time.

use std::{sync::atomic::Ordering, time::Duration};

use ghost_frames::{Payload, StreamType, price::PriceReport};
use ghost_node::oracle::state::{is_excluded_at, price_at};
use ghost_proto::{Report, price::ReportFields};
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

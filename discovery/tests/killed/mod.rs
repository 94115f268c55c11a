//! A process that is killed while it learns, and what the next one finds.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use ghost_discovery::{
    address::Endpoint,
    clock::Now,
    dial::{DialFailure, Link},
    overlay::{Effect, Input, Overlay, OverlayConfig},
    store::{Batch, PeerStore, SledStore},
};
use ghost_proto::PeerRecord;

use crate::world::{World, key, peer, place};

/// Names the folder of the store; set only in the process that is to be killed.
const STORE: &str = "GHOST_TEST_PEER_STORE";
const LEARNED: usize = 5_000;
/// Honest nodes that are there before and after.
const HONEST: usize = 12;
/// The node that is killed.
const NODE: usize = 100;

/// A place for the many that are only heard of.
fn elsewhere(n: usize) -> Endpoint {
    SocketAddr::new([30 + (n % 60) as u8, (n / 60) as u8, (n / 15_360) as u8, 2].into(), 4001).into()
}

fn now() -> Now {
    World::new().now()
}

/// What runs in the process that is killed: it connects to some, hears of thousands, writes down what the
/// core says, tells how many it has written, and goes on until it is killed.
#[test]
fn child() {
    let Ok(path) = std::env::var(STORE) else { return };
    let mut config = OverlayConfig::new(peer(NODE));
    // It goes on asking, however many it knows.
    config.asking.enough = usize::MAX;
    let start = now();
    let mut store = SledStore::open(Path::new(&path)).unwrap().store;
    let mut overlay = Overlay::new(config, store.load().unwrap(), [3; 32], start);
    for n in 0..HONEST {
        overlay.add_seed(&peer(n), place(n), start);
    }
    let mut todo = overlay.start(start);
    let (mut heard, mut told) = (1_000, false);
    for second in 1.. {
        let at = start + Duration::from_secs(second);
        while let Some(effect) = todo.pop() {
            let input = match effect {
                Effect::Persist(batch) => {
                    store.apply(&batch).unwrap();
                    Input::Persisted(Ok(()))
                }
                Effect::Dial { dial, peer: Some(who), addresses, .. } => {
                    let endpoint = addresses[0].endpoint.clone();
                    let record = (0..HONEST).find(|&n| peer(n) == who).map(|n| record(n, &endpoint, at));
                    match record {
                        Some(record) => {
                            let link = Link::Outbound { dial, endpoint };
                            Input::Connected { peer: who, link, record, is_node: true }
                        }
                        None => {
                            let why = DialFailure::Unreachable("nobody there".into());
                            Input::AddressFailed { dial, peer: Some(who), endpoint, why }
                        }
                    }
                }
                Effect::AskForPeers { peer, limit } => {
                    let first = heard;
                    heard += usize::from(limit);
                    let records = (first..heard).map(|n| record(n, &elsewhere(n), at)).collect();
                    Input::Peers { peer, records: Some(records) }
                }
                _ => continue,
            };
            todo.extend(overlay.handle(input, at));
        }
        todo = overlay.on_deadline(at);
        if !told && second % 30 == 0 && overlay.book().len() > LEARNED + 500 {
            let written = store.load().unwrap().rows.len();
            told = written >= LEARNED;
            if told {
                println!("WRITTEN {written}");
            }
        }
    }
}

fn record(n: usize, at: &Endpoint, now: Now) -> bytes::Bytes {
    let record = PeerRecord::sign(&key(n), vec![at.to_multiaddr()], 1, 1, now.unix_ms / 1000);
    record.unwrap().bytes().clone()
}

#[test]
fn five_thousand_records_learned_and_killed_the_next_start_needs_no_seed() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["killed::child", "--exact", "--nocapture"])
        .env(STORE, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let written: usize = lines
        .find_map(|line| line.unwrap().split_once("WRITTEN ").map(|(_, number)| number.parse().unwrap()))
        .expect("the child has written what it learned");
    // SIGKILL, while it goes on learning and writing.
    child.kill().unwrap();
    child.wait().unwrap();

    let opened = SledStore::open(&path).unwrap();
    assert_eq!(opened.damage, None);
    let saved = opened.saved;
    assert!(saved.rows.len() >= written && saved.anchors.len() == 4, "{} rows", saved.rows.len());
    let tried = saved.rows.iter().filter(|row| row.tried).count();
    assert!(tried >= 8, "{tried} tried survive");

    // The next process: no seed, and only the honest answer.
    let mut world = World::new();
    for n in 0..HONEST {
        world.add(place(n), OverlayConfig::new(peer(n)));
    }
    for n in HONEST..=NODE {
        world.add(SocketAddr::new([90, n as u8, 1, 1].into(), 4001).into(), OverlayConfig::new(peer(n)));
    }
    (0..HONEST).for_each(|n| world.boot(n, [n as u8; 32]));
    let anchors: Vec<Endpoint> = saved.anchors.iter().map(|anchor| anchor.endpoint.clone()).collect();
    world.nodes[NODE].store.apply(&Batch { writes: saved.into_writes() }).unwrap();
    world.boot(NODE, [77; 32]);
    let first: Vec<Endpoint> =
        world.dials.iter().filter(|(_, n, _)| *n == NODE).map(|(.., at)| at.clone()).collect();
    assert_eq!(first[..4], anchors[..], "anchors before anybody else");
    assert!(world.run(Duration::from_secs(10), |world| !world.nodes[NODE].links.is_empty()));
    println!(
        "{written} addresses were written when it was killed, {} came back; first connection after {:?}",
        world.nodes[NODE].overlay.book().len(),
        world.at
    );
    assert!(world.at < Duration::from_secs(1));
    assert!(world.nodes[NODE].overlay.book().len() >= LEARNED);
}

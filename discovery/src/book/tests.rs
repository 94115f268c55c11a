use std::collections::BTreeSet;

use ghost_proto::{PeerId, PeerRecord};
use proptest::prelude::*;

use super::*;
use crate::{
    netgroup::AddressPolicy,
    testing::{NOW_MS, endpoint, key, made_up, peer, place, record_of, rng},
};

const HOUR_MS: u64 = 3_600_000;

fn book() -> AddressBook {
    AddressBook::new([7; 16], AddressPolicy::default())
}

fn claim(peer: PublicKey, endpoint: Endpoint, source: NetGroup) -> Claim {
    Claim { peer, endpoint, seen_unix_s: NOW_MS / 1000, source, first_hand: false }
}

fn group(book: &AddressBook, n: u16) -> NetGroup {
    book.policy.group(&place(n, 1))
}

fn told(book: &mut AddressBook, n: u32, at: &Endpoint) -> PeerId {
    let source = group(book, 9_999);
    book.add(&claim(key(n).public(), at.clone(), source), &mut rng(1), NOW_MS);
    peer(n)
}

/// Everything the structure promises, looked at from outside its bookkeeping.
fn check(book: &AddressBook) {
    let mut seen_new = 0;
    let mut seen_tried = 0;
    let mut by_network = [0; 4];
    let mut slots = BTreeSet::new();
    for (id, entry) in book.entries.iter().enumerate() {
        let Some(entry) = entry else {
            assert!(book.free.contains(&(id as u32)));
            continue;
        };
        by_network[entry.key.endpoint.network() as usize] += 1;
        assert!(!entry.slots().is_empty(), "an entry is in a slot");
        if entry.tried {
            seen_tried += 1;
            assert_eq!(entry.slots().len(), 1);
        } else {
            seen_new += 1;
        }
        for &slot in entry.slots() {
            let table = if entry.tried { &book.tried } else { &book.new };
            assert_eq!(table[usize::from(slot)], id as u32);
            assert!(slots.insert((entry.tried, slot)));
        }
        let known = &book.peers[&entry.key.peer];
        assert!(known.ids.contains(&(id as u32)));
        assert!(known.ids.len() <= ENTRIES_PER_PEER_MAX);
        if known.record.is_some() {
            assert!(known.ids.iter().any(|&id| book.entry(id).tried), "records are of tried peers");
        }
    }
    assert_eq!((seen_new, seen_tried), (book.new_len(), book.tried_len()));
    assert_eq!(by_network, book.by_network);
    for (table, fill) in [(&book.new, &book.new_fill), (&book.tried, &book.tried_fill)] {
        for (bucket, chunk) in table.chunks(BUCKET_SLOTS).enumerate() {
            let filled = chunk.iter().filter(|&&id| id != EMPTY).count();
            assert_eq!(filled, usize::from(fill[bucket]));
        }
    }
    let in_tables = book.new.iter().chain(book.tried.iter()).filter(|&&id| id != EMPTY).count();
    assert_eq!(in_tables, slots.len(), "no slot points to nobody");
    assert_eq!(book.peers.values().map(|known| known.ids.len()).sum::<usize>(), book.len());
    assert!(book.collisions.len() <= COLLISIONS_MAX);
    assert!(book.collisions.iter().all(|&id| !book.entry(id).tried));
    assert!(book.changed.iter().all(|&id| book.entries[id as usize].is_some()));
}

fn touched_buckets(book: &AddressBook) -> usize {
    book.new_fill.iter().filter(|&&count| count > 0).count()
}

#[test]
fn scenario_13_a_million_addresses_of_one_source_touch_at_most_64_buckets() {
    let mut book = book();
    let mut rng = rng(3);
    // 200 honest peers are tried.
    for n in 0..200 {
        let at = place(n, 7);
        let id = told(&mut book, u32::from(n), &at);
        book.good(&id, &at, None, NOW_MS);
    }
    let tried_before: Vec<u32> = book.tried.to_vec();
    let tried_len = book.tried_len();
    let new_before = book.new_len();
    let started = std::time::Instant::now();
    let source = group(&book, 5);
    for n in 0..1_000_000u32 {
        // A new identity, a new place, spread over every netgroup there is.
        let claim = claim(made_up(n), place(n as u16, (n >> 8) as u16), source);
        book.add(&claim, &mut rng, NOW_MS);
    }
    let took = started.elapsed();
    assert!(touched_buckets(&book) <= NEW_BUCKETS_PER_SOURCE, "{}", touched_buckets(&book));
    assert!(book.new_len() <= new_before + NEW_BUCKETS_PER_SOURCE * BUCKET_SLOTS);
    assert_eq!(book.tried.to_vec(), tried_before);
    assert_eq!(book.tried_len(), tried_len);
    check(&book);
    // What is left for whoever dials: half of the choices are tried, every one of them honest.
    let mut honest = 0;
    for _ in 0..1000 {
        honest += usize::from(
            book.select(Table::Either, None, |_, _| true, &mut rng, NOW_MS + HOUR_MS)
                .is_some_and(|one| one.tried),
        );
    }
    assert!((430..570).contains(&honest), "{honest}");
    println_figures(&format!(
        "1,000,000 claims: {} buckets, {} entries, {} ns each",
        touched_buckets(&book),
        book.new_len(),
        took.as_nanos() / 1_000_000
    ));
}

#[allow(clippy::print_stdout)]
fn println_figures(text: &str) {
    println!("{text}");
}

#[test]
fn one_place_has_one_slot_however_many_identities_claim_it() {
    let mut book = book();
    let mut rng = rng(1);
    let source = group(&book, 5);
    for n in 0..1000 {
        book.add(&claim(made_up(n), place(77, 1), source), &mut rng, NOW_MS);
    }
    assert_eq!(book.len(), 1);
    // A thousand sources with a thousand identities each still share a bucket position.
    for n in 0..1000 {
        book.add(&claim(made_up(n), place(77, 1), group(&book, n as u16)), &mut rng, NOW_MS);
    }
    assert!(book.len() <= 1000);
    check(&book);
}

#[test]
fn tried_buckets_of_one_netgroup_are_at_most_8() {
    let mut book = book();
    let mut rng = rng(1);
    for host in 0..2000u16 {
        let (key, at) = (made_up(u32::from(host)), place(1, host));
        book.add(&claim(key, at.clone(), group(&book, host)), &mut rng, NOW_MS);
        book.good(&peer_id(&key), &at, None, NOW_MS);
    }
    let touched = book.tried_fill.iter().filter(|&&count| count > 0).count();
    assert!(touched <= TRIED_BUCKETS_PER_GROUP, "{touched}");
    assert!(book.tried_len() <= TRIED_BUCKETS_PER_GROUP * BUCKET_SLOTS);
    check(&book);
}

#[test]
fn scenario_02_an_identity_mismatch_puts_the_address_back_to_new_and_blames_nobody() {
    let mut book = book();
    let (at, other) = (place(1, 1), place(2, 2));
    let id = told(&mut book, 1, &at);
    told(&mut book, 1, &other);
    book.good(&id, &at, Some(&record_of(1, &["16.1.0.1:4001"], 4)), NOW_MS);
    book.good(&id, &other, None, NOW_MS);
    assert!(book.is_tried(&id, &at) && book.is_tried(&id, &other));

    book.identity_mismatch(&id, &at, NOW_MS + 1000);
    assert!(!book.is_tried(&id, &at), "back to new");
    assert!(book.contains(&id, &at), "not forgotten");
    assert!(book.is_tried(&id, &other), "the peer's other address is untouched");
    assert_eq!(book.row_at(&id, &other).unwrap().attempts, 0, "the peer is not punished");
    assert!(book.record(&id).is_some());
    check(&book);

    // The peer comes back to the place: nothing stands in its way.
    assert_eq!(book.good(&id, &at, None, NOW_MS + HOUR_MS), Good::Tried);
    // A place where somebody else answers every time becomes terrible and yields.
    for n in 1..=10 {
        book.identity_mismatch(&id, &at, NOW_MS + HOUR_MS + n * HOUR_MS);
    }
    let row = book.row_at(&id, &at).unwrap();
    assert_eq!(row.attempts, 10);
    let later = seconds(NOW_MS + 9 * 24 * HOUR_MS);
    let entry_id = book.find_peer(&id, &at).unwrap();
    assert!(book.entry(entry_id).is_terrible(later));
}

#[test]
fn scenario_03_a_peer_of_another_chain_is_not_stored() {
    let mut book = book();
    let at = place(1, 1);
    let id = told(&mut book, 1, &at);
    book.take_changes(usize::MAX);
    book.attempt(&id, &at, NOW_MS);
    book.forget_peer(&id);
    assert_eq!((book.new_len(), book.tried_len()), (0, 0));
    assert_eq!(book.take_changes(usize::MAX).len(), 1, "the store hears of it");
    // Nor if it was tried once.
    told(&mut book, 1, &at);
    book.good(&id, &at, None, NOW_MS);
    book.forget_peer(&id);
    assert!(book.is_empty());
    check(&book);
}

/// Two places of one /16 that share a tried slot.
fn colliding(book: &AddressBook) -> (Endpoint, Endpoint) {
    let slot = |at: &Endpoint| book.placement.tried_slot(at, book.policy.group(at));
    let mut seen = BTreeMap::new();
    for host in 0..4000 {
        let at = place(3, host);
        if let Some(other) = seen.insert(slot(&at), at.clone()) {
            return (other, at);
        }
    }
    unreachable!("4,000 places in 512 slots collide")
}

#[test]
fn the_occupant_of_a_tried_slot_is_tested_before_it_yields() {
    let mut book = book();
    let (old_at, new_at) = colliding(&book);
    let (old, new) = (told(&mut book, 1, &old_at), told(&mut book, 2, &new_at));
    book.good(&old, &old_at, None, NOW_MS);

    let now = NOW_MS + 24 * HOUR_MS;
    assert_eq!(book.good(&new, &new_at, None, now), Good::Collision);
    assert_eq!(book.collision_to_test(&mut rng(1)).unwrap().peer, old);
    book.resolve_collisions(now);
    assert!(book.is_tried(&old, &old_at), "not tested yet");

    // Tested and there: it stays.
    book.good(&old, &old_at, None, now);
    book.resolve_collisions(now);
    assert!(book.is_tried(&old, &old_at) && !book.is_tried(&new, &new_at));
    assert_eq!(book.collisions_len(), 0);

    // Tested and gone, one minute after the attempt and not before: it yields.
    let later = now + 24 * HOUR_MS;
    book.good(&new, &new_at, None, later);
    book.attempt(&old, &old_at, later);
    book.resolve_collisions(later + 60_000);
    assert!(book.is_tried(&old, &old_at));
    book.resolve_collisions(later + 61_000);
    assert!(book.is_tried(&new, &new_at) && !book.is_tried(&old, &old_at));
    assert!(book.contains(&old, &old_at), "back to new, not forgotten");
    check(&book);
}

#[test]
fn an_untested_collision_is_decided_after_40_minutes() {
    let mut book = book();
    let (old_at, new_at) = colliding(&book);
    let (old, new) = (told(&mut book, 1, &old_at), told(&mut book, 2, &new_at));
    book.good(&old, &old_at, None, NOW_MS);
    let now = NOW_MS + 24 * HOUR_MS;
    book.good(&new, &new_at, None, now);
    let waits = u64::from(COLLISION_WAITS_S) * 1000;
    book.resolve_collisions(now + waits);
    assert!(book.is_tried(&old, &old_at));
    book.resolve_collisions(now + waits + 1000);
    assert!(book.is_tried(&new, &new_at));
    check(&book);
}

#[test]
fn a_new_key_at_a_tried_place_takes_it_over_at_once() {
    let mut book = book();
    let at = place(1, 1);
    let old = told(&mut book, 1, &at);
    book.good(&old, &at, None, NOW_MS);
    let source = group(&book, 4_000);
    book.add(&claim(key(2).public(), at.clone(), source), &mut rng(1), NOW_MS);
    assert_eq!(book.good(&peer(2), &at, None, NOW_MS + 1000), Good::Tried);
    assert!(!book.is_tried(&old, &at));
    check(&book);
}

#[test]
fn collisions_are_bounded() {
    let mut book = book();
    let mut rng = rng(1);
    for host in 0..3000u16 {
        let (key, at) = (made_up(u32::from(host)), place(1, host));
        book.add(&claim(key, at.clone(), group(&book, host)), &mut rng, NOW_MS);
        book.good(&peer_id(&key), &at, None, NOW_MS);
    }
    assert_eq!(book.collisions_len(), COLLISIONS_MAX);
    check(&book);
}

#[test]
fn failures_count_once_between_two_successes() {
    let mut book = book();
    let (at, elsewhere) = (place(1, 1), place(2, 1));
    let (id, other) = (told(&mut book, 1, &at), told(&mut book, 2, &elsewhere));
    for n in 0..20 {
        book.attempt(&id, &at, NOW_MS + n * HOUR_MS);
    }
    assert_eq!(book.row_at(&id, &at).unwrap().attempts, 1, "our own network may be down");
    book.good(&other, &elsewhere, None, NOW_MS + 21 * HOUR_MS);
    book.attempt(&id, &at, NOW_MS + 22 * HOUR_MS);
    book.attempt(&id, &at, NOW_MS + 23 * HOUR_MS);
    assert_eq!(book.row_at(&id, &at).unwrap().attempts, 2);
}

#[test]
fn a_newer_record_replaces_and_an_older_one_changes_nothing() {
    let mut book = book();
    let mut rng = rng(1);
    let source = group(&book, 50);
    let add = |book: &mut AddressBook, record: &PeerRecord, rng: &mut ChaCha12Rng| {
        let endpoints: Vec<_> =
            record.addresses().iter().map(|one| crate::address::parse(one).unwrap().0).collect();
        book.add_record(record, &endpoints, source, false, rng, NOW_MS)
    };
    assert_eq!(add(&mut book, &record_of(1, &["16.1.0.1:1", "16.2.0.1:1"], 5), &mut rng), 2);
    assert_eq!(add(&mut book, &record_of(1, &["16.3.0.1:1"], 4), &mut rng), 0);
    assert_eq!(book.places(&peer(1)).len(), 2);
    book.good(&peer(1), &endpoint("16.1.0.1:1"), None, NOW_MS);
    assert_eq!(add(&mut book, &record_of(1, &["16.3.0.1:1"], 6), &mut rng), 1);
    // The tried one stays until it fails; the other went with the record that listed it.
    assert_eq!(book.places(&peer(1)), vec![endpoint("16.1.0.1:1"), endpoint("16.3.0.1:1")]);
    assert_eq!(book.sequence(&peer(1)), 6);
    check(&book);
}

#[test]
fn records_stay_with_tried_peers_only() {
    let mut book = book();
    let at = endpoint("16.1.0.1:1");
    let id = told(&mut book, 1, &at);
    let record = record_of(1, &["16.1.0.1:1"], 3);
    assert!(book.record(&id).is_none());
    book.good(&id, &at, Some(&record), NOW_MS);
    assert_eq!(book.record(&id), Some(record.bytes()));
    // Somebody else's record is not attached.
    book.good(&id, &at, Some(&record_of(2, &["16.1.0.1:1"], 9)), NOW_MS);
    assert_eq!(book.record(&id), Some(record.bytes()));
    book.identity_mismatch(&id, &at, NOW_MS);
    assert!(book.record(&id).is_none());
}

#[test]
fn selection_gives_a_source_no_more_than_its_buckets() {
    let mut book = book();
    let mut rng = rng(9);
    // 19,000 entries of one source against 1,000 of many: 95 % of what was sent.
    let attacker = group(&book, 5);
    for n in 0..19_000u32 {
        book.add(&claim(made_up(n), place(n as u16, 1), attacker), &mut rng, NOW_MS);
    }
    for n in 0..1_000u32 {
        let source = group(&book, 10_000 + n as u16);
        book.add(&claim(made_up(1_000_000 + n), place(n as u16, 2), source), &mut rng, NOW_MS);
    }
    let honest = (0..2000)
        .filter(|_| {
            let one = book.select(Table::New, None, |_, _| true, &mut rng, NOW_MS).unwrap();
            // The second byte group of the host tells who told us of it.
            one.endpoint.to_string().contains(".0.2/")
        })
        .count();
    // About 640 of 1,024 buckets hold honest entries, 64 the attacker's.
    assert!(honest > 2000 * 8 / 10, "{honest} of 2000");
}

#[test]
fn selection_finds_the_only_acceptable_entry() {
    let mut book = book();
    let mut rng = rng(2);
    for n in 0..5000u32 {
        book.add(&claim(made_up(n), place(n as u16, 1), group(&book, n as u16)), &mut rng, NOW_MS);
    }
    let at = place(123, 1);
    let one = book.select(Table::Either, None, |_, place| *place == at, &mut rng, NOW_MS).unwrap();
    assert_eq!(one.endpoint, at);
    assert!(book.select(Table::Either, None, |_, _| false, &mut rng, NOW_MS).is_none());
    assert!(book.select(Table::Tried, None, |_, _| true, &mut rng, NOW_MS).is_none());
    assert!(book.select(Table::New, Some(Network::Onion), |_, _| true, &mut rng, NOW_MS).is_none());
    assert!(book.select(Table::New, Some(Network::Ip4), |_, _| true, &mut rng, NOW_MS).is_some());
}

#[test]
fn five_thousand_rows_come_back_slot_for_slot() {
    let mut book = book();
    let mut rng = rng(2);
    for n in 0..5000u32 {
        let (key, at) = (made_up(n), place(n as u16, n as u16));
        for source in [n, n + 1, n + 2, n + 3] {
            book.add(&claim(key, at.clone(), group(&book, source as u16)), &mut rng, NOW_MS);
        }
        if n % 7 == 0 {
            book.good(&peer_id(&key), &at, None, NOW_MS);
        }
    }
    check(&book);
    let rows = book.rows();
    let mut again = AddressBook::restore([7; 16], AddressPolicy::default(), rows.clone());
    check(&again);
    assert_eq!(again.rows(), rows);
    assert_eq!(again.changes_len(), 0);
    // With another secret every row has to be placed anew, and none is lost without the store hearing.
    again = AddressBook::restore([8; 16], AddressPolicy::default(), rows.clone());
    check(&again);
    assert!(again.len() > rows.len() * 9 / 10, "{} of {}", again.len(), rows.len());
    // (A new slot of another secret passes for one of ours with a chance of 1 in 64.)
    assert!(again.changes_len() > rows.len() * 9 / 10, "{}", again.changes_len());
}

#[test]
fn changes_add_up_to_the_book() {
    let mut book = book();
    let mut rng = rng(4);
    let mut store = BTreeMap::new();
    for step in 0..3000u32 {
        let n = step % 400;
        let (key, at) = (made_up(n), place(n as u16, 1));
        match step % 5 {
            0..=2 => drop(book.add(&claim(key, at, group(&book, step as u16)), &mut rng, NOW_MS)),
            3 => drop(book.good(&peer_id(&key), &at, None, NOW_MS)),
            _ => book.forget_peer(&peer_id(&key)),
        }
        if step % 37 == 0 {
            let changes = book.take_changes(50);
            if step % 74 == 0 {
                book.give_back(changes);
                continue;
            }
            for change in changes {
                match change {
                    Change::Put(row) => drop(store.insert(row.key.clone(), row)),
                    Change::Gone(key) => drop(store.remove(&key)),
                }
            }
        }
    }
    for change in book.take_changes(usize::MAX) {
        match change {
            Change::Put(row) => drop(store.insert(row.key.clone(), row)),
            Change::Gone(key) => drop(store.remove(&key)),
        }
    }
    assert_eq!(store.into_values().collect::<Vec<_>>(), book.rows());
}

#[derive(Debug, Clone)]
enum Step {
    Add { peer: u8, place: u8, source: u8 },
    Good { peer: u8, place: u8 },
    Attempt { peer: u8, place: u8 },
    Mismatch { peer: u8, place: u8 },
    ForgetPeer { peer: u8 },
    ForgetPlace { place: u8 },
    Resolve,
    Wait { hours: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (peer, place) = (0u8..24, 0u8..40);
    prop::collection::vec(
        prop_oneof![
            6 => (peer.clone(), place.clone(), any::<u8>())
                .prop_map(|(peer, place, source)| Step::Add { peer, place, source }),
            3 => (peer.clone(), place.clone()).prop_map(|(peer, place)| Step::Good { peer, place }),
            2 => (peer.clone(), place.clone()).prop_map(|(peer, place)| Step::Attempt { peer, place }),
            1 => (peer.clone(), place.clone()).prop_map(|(peer, place)| Step::Mismatch { peer, place }),
            1 => peer.prop_map(|peer| Step::ForgetPeer { peer }),
            1 => place.prop_map(|place| Step::ForgetPlace { place }),
            1 => Just(Step::Resolve),
            1 => any::<u8>().prop_map(|hours| Step::Wait { hours }),
        ],
        0..200,
    )
}

proptest! {
    #[test]
    fn whatever_happens_the_tables_and_indexes_agree(steps in steps(), seed in any::<u64>()) {
        // Few buckets' worth of places of one group, so that slots collide.
        let mut book = book();
        let mut rng = rng(seed);
        let mut now = NOW_MS;
        for step in steps {
            let who = |n: u8| made_up(u32::from(n));
            let at = |n: u8| place(1, u16::from(n) * 40);
            match step {
                Step::Add { peer, place, source } => {
                    let source = group(&book, u16::from(source));
                    book.add(&claim(who(peer), at(place), source), &mut rng, now);
                }
                Step::Good { peer, place } => drop(book.good(&peer_id(&who(peer)), &at(place), None, now)),
                Step::Attempt { peer, place } => book.attempt(&peer_id(&who(peer)), &at(place), now),
                Step::Mismatch { peer, place } => {
                    book.identity_mismatch(&peer_id(&who(peer)), &at(place), now);
                }
                Step::ForgetPeer { peer } => book.forget_peer(&peer_id(&who(peer))),
                Step::ForgetPlace { place } => book.forget_place(&at(place)),
                Step::Resolve => book.resolve_collisions(now),
                Step::Wait { hours } => now += u64::from(hours) * HOUR_MS,
            }
            check(&book);
        }
        let again = AddressBook::restore([7; 16], AddressPolicy::default(), book.rows());
        check(&again);
        prop_assert_eq!(again.rows(), book.rows());
    }
}

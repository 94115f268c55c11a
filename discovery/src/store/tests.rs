use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::{
    address::peer_id,
    book::{AddressBook, Claim},
    conduct::{Ledger, Note, Offence},
    netgroup::{AddressPolicy, NetGroup},
    testing::{NOW_MS, made_up, peer, place, record_at, rng},
};

/// `count` entries, every tenth tried, every hundredth with a record; some stories; anchors.
fn sample(count: u32) -> (AddressBook, Saved) {
    let mut book = AddressBook::new([9; 16], AddressPolicy::default());
    let mut rng = rng(5);
    for n in 0..count {
        let at = place(n as u16, (n / 20_000) as u16);
        let source = NetGroup([b'4', n as u8, (n >> 8) as u8, 0, 0, 0, 0, 0]);
        let signed = n % 100 == 0;
        let key = if signed { crate::testing::key(n).public() } else { made_up(n) };
        let claim =
            Claim { peer: key, endpoint: at.clone(), seen_unix_s: NOW_MS / 1000, source, first_hand: false };
        book.add(&claim, &mut rng, NOW_MS);
        if n % 10 == 0 {
            let record = signed.then(|| record_at(n, &at, 3));
            book.good(&peer_id(&key), &at, record.as_ref(), NOW_MS);
        }
    }
    let mut ledger = Ledger::new();
    for n in 0..20 {
        ledger.note(&peer(n), Note::Connected, "inbound from 1.2.3.4", NOW_MS);
        ledger.offend(&peer(n), None, Offence::ALL[n as usize % 9], "evidence", false, NOW_MS);
    }
    let anchors = (0..4)
        .map(|n| Anchor { peer: peer(n), endpoint: place(n as u16, 1), block_only: n % 2 == 0 })
        .collect();
    let mut stories: Vec<_> = ledger
        .take_changes(usize::MAX)
        .into_iter()
        .map(|(peer, story)| (peer, story.expect("nobody was forgotten")))
        .collect();
    stories.sort_by_key(|(peer, _)| *peer);
    let saved = Saved { secret: Some([9; 16]), own_sequence: 77, rows: book.rows(), anchors, stories };
    (book, saved)
}

fn sorted(mut saved: Saved) -> Saved {
    saved.rows.sort_by(|a, b| a.key.cmp(&b.key));
    saved.stories.sort_by_key(|(peer, _)| *peer);
    saved
}

fn fill(path: &Path, saved: &Saved) {
    let mut store = SledStore::open(path).unwrap().store;
    for chunk in saved.clone().into_writes().chunks(BATCH_MAX) {
        store.apply(&Batch { writes: chunk.to_vec() }).unwrap();
    }
}

#[test]
fn five_thousand_addresses_survive_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    let (book, saved) = sample(5000);
    fill(&path, &saved);
    let opened = SledStore::open(&path).unwrap();
    assert_eq!(opened.damage, None);
    let opened = sorted(opened.saved);
    assert_eq!(opened, sorted(saved));
    let again = AddressBook::restore(opened.secret.unwrap(), AddressPolicy::default(), opened.rows);
    assert_eq!(again.rows(), book.rows());
    assert!(again.tried_len() > 300 && again.len() > 4500, "{} of 5,000", again.len());
}

#[test]
fn scenario_30_a_killed_process_loses_only_the_batch_that_was_not_applied() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    let (_, saved) = sample(1000);
    let writes = saved.clone().into_writes();
    let (first, second) = writes.split_at(700);
    let mut store = SledStore::open(&path).unwrap().store;
    store.apply(&Batch { writes: first.to_vec() }).unwrap();
    // What a process that is killed leaves: the files as they are now.
    let killed = home.path().join("killed");
    copy(&path, &killed);
    store.apply(&Batch { writes: second.to_vec() }).unwrap();
    drop(store);

    let opened = SledStore::open(&killed).unwrap();
    assert_eq!(opened.damage, None);
    let mut expected = MemoryStore::new();
    expected.apply(&Batch { writes: first.to_vec() }).unwrap();
    assert_eq!(sorted(opened.saved), sorted(expected.load().unwrap()));
    assert_eq!(sorted(SledStore::open(&path).unwrap().saved), sorted(saved));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to.join(file.file_name()));
        } else {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn scenario_30_a_damaged_store_is_set_aside_and_the_node_starts() {
    use rand::RngExt;
    let home = tempfile::tempdir().unwrap();
    let good = home.path().join("good");
    let (_, saved) = sample(500);
    fill(&good, &saved);
    // A start in good health makes the copy that a damaged store is mended from.
    assert_eq!(SledStore::open(&good).unwrap().damage, None);
    let later = Write::Anchors(vec![saved.anchors[2].clone()]);
    SledStore::open(&good).unwrap().store.apply(&Batch { writes: vec![later] }).unwrap();

    let all = sorted(saved.clone());
    let mut rng = rng(8);
    let mut noticed = 0;
    for round in 0..24 {
        let path = home.path().join(format!("round-{round}"));
        copy(&good, &path);
        for suffix in [".mark", ".copy"] {
            fs::copy(mark::beside(&good, suffix), mark::beside(&path, suffix)).unwrap();
        }
        let mut bytes = fs::read(path.join("db")).unwrap();
        match round % 4 {
            // Torn: the end is missing.
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            // A block of zeros, as after a loss of power.
            1 => {
                let at = rng.random_range(0..bytes.len() - 4096);
                bytes[at..at + 4096].fill(0);
            }
            // One flipped bit near the start, where the data is.
            2 => {
                let at = rng.random_range(0..bytes.len().min(64 * 1024));
                bytes[at] ^= 1 << rng.random_range(0..8u32);
            }
            _ => bytes.iter_mut().for_each(|byte| *byte = rng.random()),
        }
        fs::write(path.join("db"), bytes).unwrap();
        let opened = SledStore::open(&path).expect("the node starts");
        if let Some(damage) = &opened.damage {
            noticed += 1;
            assert!(damage.contains("set aside") && damage.contains(".damaged-1"), "{damage}");
            assert!(mark::beside(&path, ".damaged-1").is_dir());
        }
        // Nothing is lost: the book from the copy, the anchors from the last batch.
        let opened_saved = sorted(opened.saved);
        assert_eq!(opened_saved.rows, all.rows, "round {round}: {:?}", opened.damage);
        assert_eq!(opened_saved.stories, all.stories);
        assert_eq!(opened_saved.anchors, vec![saved.anchors[2].clone()]);
        assert_eq!(opened_saved.secret, saved.secret);
        // And the store works.
        let mut store = opened.store;
        store.apply(&Batch { writes: vec![Write::OwnSequence(99)] }).unwrap();
        drop(store);
        let again = SledStore::open(&path).unwrap();
        assert_eq!((again.saved.own_sequence, again.damage), (99, None));
    }
    println!("24 damaged stores: {noticed} noticed and set aside, no entry lost in any");
    assert!(noticed >= 12, "{noticed} noticed");
}

#[test]
fn without_mark_and_copy_a_damaged_store_still_starts_empty() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    fill(&path, &sample(100).1);
    fs::remove_file(mark::copy_path(&path)).unwrap();
    let db = path.join("db");
    let bytes = fs::read(&db).unwrap();
    fs::write(&db, vec![0x5a; bytes.len()]).unwrap();
    let opened = SledStore::open(&path).unwrap();
    assert!(opened.damage.is_some());
    assert!(opened.saved.rows.is_empty());
    assert_eq!(opened.saved.anchors.len(), 4, "from the mark");
}

#[test]
fn a_damaged_value_costs_only_itself() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    let (_, saved) = sample(300);
    fill(&path, &saved);
    let key = format::encode(&Write::Entry(Change::Put(saved.rows[7].clone()))).0;
    {
        let store = SledStore::open(&path).unwrap().store;
        let db = store.raw();
        let mut value = db.get(&key).unwrap().unwrap().to_vec();
        value[20] ^= 0x40;
        db.insert(&key, value).unwrap();
        db.flush().unwrap();
    }
    fs::remove_file(mark::copy_path(&path)).unwrap();
    let opened = SledStore::open(&path).unwrap();
    let damage = opened.damage.unwrap();
    assert!(damage.contains("1 of its values") && damage.contains("checksum"), "{damage}");
    assert_eq!(opened.saved.rows.len(), saved.rows.len() - 1);
    assert_eq!(opened.saved.stories.len(), saved.stories.len());
    drop(opened.store);
    // What was salvaged is in the new store.
    let again = SledStore::open(&path).unwrap();
    assert_eq!((again.damage, again.saved.rows.len()), (None, saved.rows.len() - 1));
}

#[test]
fn a_pair_that_vanished_is_noticed_and_comes_back_from_the_copy() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    let (_, saved) = sample(300);
    fill(&path, &saved);
    drop(SledStore::open(&path).unwrap());
    let key = format::encode(&Write::Entry(Change::Put(saved.rows[7].clone()))).0;
    {
        let store = SledStore::open(&path).unwrap().store;
        let db = store.raw();
        db.remove(&key).unwrap();
        db.flush().unwrap();
    }
    let opened = SledStore::open(&path).unwrap();
    assert!(opened.damage.unwrap().contains("pairs instead of"));
    assert_eq!(sorted(opened.saved).rows, sorted(saved).rows);
}

#[test]
fn another_version_is_set_aside_whole() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    fill(&path, &sample(10).1);
    {
        let store = SledStore::open(&path).unwrap().store;
        let db = store.raw();
        db.remove(b"mv").unwrap();
        db.flush().unwrap();
    }
    assert!(SledStore::open(&path).unwrap().damage.unwrap().contains("no format version"));
    assert!(home.path().join("peers.damaged-1").is_dir());
}

#[test]
fn a_store_in_use_is_not_set_aside() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    let first = SledStore::open(&path).unwrap();
    let error = SledStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(!home.path().join("peers.damaged-1").exists());
    drop(first);
    assert!(SledStore::open(&path).is_ok());
}

#[test]
fn a_file_in_the_way_is_said_and_not_moved() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers");
    fs::write(&path, "mine").unwrap();
    let error = SledStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn json_there_and_back() {
    let (_, saved) = sample(400);
    let json = Export::of(&saved).to_json();
    let again = Export::read(&json).unwrap();
    assert_eq!(again.anchors, saved.anchors);
    assert_eq!(again.stories, saved.stories);
    assert_eq!(again.rows.len(), saved.rows.len());
    assert_eq!(Export::of(&again), Export::of(&saved));
    // A new node places them by its own secret.
    let book = AddressBook::restore([1; 16], AddressPolicy::default(), again.rows);
    assert!(book.len() > saved.rows.len() * 9 / 10);
    assert!(book.tried_len() > 30);
}

#[test]
fn json_that_lies_is_refused_with_its_place() {
    let (_, saved) = sample(101);
    let export = Export::of(&saved);
    let mut forged = export.clone();
    let at = forged.addresses.iter().position(|one| one.record.is_some()).unwrap();
    let record = forged.addresses[at].record.as_mut().unwrap();
    record.replace_range(40..41, if &record[40..41] == "0" { "1" } else { "0" });
    let error = Export::read(&forged.to_json()).unwrap_err().to_string();
    assert!(error.contains(&format!("address number {at}")), "{error}");
    let mut stranger = export.clone();
    stranger.addresses[0].address = "/ip4/1.2.3.4/udp/1/quic-v1".into();
    assert!(Export::read(&stranger.to_json()).unwrap_err().to_string().contains("/p2p/"));
    let newer = export.to_json().replacen("\"version\": 1", "\"version\": 2", 1);
    assert!(matches!(Export::read(&newer), Err(ExportError::Version(2))));
    assert!(Export::read("{}").is_err() && Export::read("[1,2").is_err());
    let unknown = export.to_json().replacen("\"version\"", "\"verzion\"", 1);
    assert!(Export::read(&unknown).is_err());
}

proptest! {
    #[test]
    fn whatever_bytes_are_stored_reading_them_does_not_panic(
        kind in prop::sample::select(vec![b"mv".to_vec(), b"ms".to_vec(), b"ma".to_vec(), b"e".to_vec(), b"s".to_vec()]),
        key in prop::collection::vec(any::<u8>(), 0..80),
        value in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let key = [kind, key].concat();
        let mut saved = Saved::default();
        prop_assert!(format::decode(&key, &value, &mut saved).is_err());
    }
}

#[test]
fn an_export_is_taken_over_into_a_store_that_holds_something() {
    let (_, exported) = sample(600);
    let json = Export::of(&exported).to_json();
    let mut store = MemoryStore::new();
    let own_story = {
        let mut ledger = Ledger::new();
        ledger.ban(&peer(3), None, "ours", NOW_MS);
        ledger.take_changes(1)
    };
    let writes = own_story.into_iter().map(|(peer, story)| Write::Story(peer, story)).collect();
    store.apply(&Batch { writes }).unwrap();
    store.apply(&Batch { writes: vec![Write::Secret([4; 16])] }).unwrap();

    let take = |store: &mut MemoryStore| {
        let merged = merge(peer(9999), store.load().unwrap(), Export::read(&json).unwrap(), [7; 32], NOW_MS);
        store.apply(&Batch { writes: merged.writes.clone() }).unwrap();
        (merged.addresses, merged.anchors, merged.stories)
    };
    let (addresses, anchors, stories) = take(&mut store);
    assert!(addresses > 550 && anchors == 4 && stories == 19, "{addresses} {anchors} {stories}");
    let now = store.load().unwrap();
    assert_eq!((now.secret, now.rows.len(), now.anchors), (Some([4; 16]), addresses, exported.anchors));
    let ours = now.stories.iter().find(|(one, _)| *one == peer(3)).unwrap();
    assert_eq!(ours.1.ban.as_ref().unwrap().reason, "ours", "what we know is not overruled");
    // A second time there is little new: only what found no place before may find one now.
    let (addresses, anchors, stories) = take(&mut store);
    assert!(addresses < 50 && anchors == 0 && stories == 0, "{addresses} {anchors} {stories}");
}

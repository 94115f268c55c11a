//! Crashes at every moment: a store that stops and forgets, and a real process that is killed.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use ghost_node::{
    chain::{Chain, OpenError},
    store::{CACHE_BYTES_DEFAULT, ChainStore, MemoryStore, SledStore, StoreError, Visit, WriteBatch},
};
use ghost_proto::{Address, BlockId, KeyPair, TxId, vote::Link};

use crate::world::*;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Disk {
    durable: Entries,
    unflushed: Vec<WriteBatch>,
    mark: Option<Vec<u8>>,
    /// Writes and flushes that still succeed.
    left: usize,
}

/// Forgets a suffix of the unflushed batches in a crash, and fails from a given write on.
#[derive(Debug)]
struct FailingStore {
    disk: Mutex<Disk>,
}

fn put(entries: &mut Entries, batch: &WriteBatch) {
    for (key, value) in &batch.entries {
        match value {
            Some(value) => entries.insert(key.clone(), value.clone()),
            None => entries.remove(key),
        };
    }
}

impl FailingStore {
    fn new(durable: Entries, left: usize) -> Arc<Self> {
        Arc::new(Self { disk: Mutex::new(Disk { durable, unflushed: Vec::new(), mark: None, left }) })
    }

    fn unflushed(&self) -> usize {
        self.disk.lock().unwrap().unflushed.len()
    }

    /// What is on the disk after a crash that kept the first `kept` unflushed batches.
    fn crash(&self, kept: usize) -> Entries {
        let disk = self.disk.lock().unwrap();
        let mut entries = disk.durable.clone();
        for batch in &disk.unflushed[..kept] {
            put(&mut entries, batch);
        }
        entries
    }

    fn used(&self, before: usize) -> usize {
        before - self.disk.lock().unwrap().left
    }
}

fn failed() -> StoreError {
    StoreError::Io("the power is out".into())
}

impl ChainStore for FailingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let disk = self.disk.lock().unwrap();
        for batch in disk.unflushed.iter().rev() {
            if let Some((_, value)) = batch.entries.iter().rev().find(|(other, _)| other == key) {
                return Ok(value.clone());
            }
        }
        Ok(disk.durable.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let all = self.crash(self.unflushed());
        for (key, value) in all.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut disk = self.disk.lock().unwrap();
        disk.left = disk.left.checked_sub(1).ok_or_else(failed)?;
        disk.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut disk = self.disk.lock().unwrap();
        disk.left = disk.left.checked_sub(1).ok_or_else(failed)?;
        for batch in std::mem::take(&mut disk.unflushed) {
            put(&mut disk.durable, &batch);
        }
        Ok(())
    }

    fn put_mark(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.disk.lock().unwrap().mark = Some(bytes.to_vec());
        Ok(())
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk.lock().unwrap().mark.clone())
    }
}

/// What was promised to the outside before the crash.
#[derive(Default, Clone)]
struct Promises {
    blocks: Vec<BlockId>,
    transactions: Vec<TxId>,
    proposed_slot: Option<u64>,
    votes: Vec<Link>,
}

impl Promises {
    fn check(&self, chain: &Chain) {
        let view = chain.view();
        for id in &self.blocks {
            // A block on a branch that lost to finality may go.
            let kept = view.contains(id).unwrap();
            assert!(kept, "acknowledged block {id} is gone");
        }
        for id in &self.transactions {
            assert!(view.transaction(id).unwrap().is_some());
        }
        if let Some(slot) = self.proposed_slot {
            assert_eq!(chain.duty(slot_start(slot)), None, "slot {slot} would be proposed for twice");
        }
    }
}

/// Steps of one authority of two, whose other one is played from outside: blocks, a fork, votes,
/// finality. Resumes wherever the chain stands.
fn script(chain: &mut Chain, promises: &mut Promises) -> Result<(), StoreError> {
    let genesis = chain.genesis().clone();
    for slot in 0..14u64 {
        let now = slot_start(slot);
        if chain.head().slot.is_some_and(|head| head >= slot) {
            continue;
        }
        if chain.duty(now) == Some(slot) {
            let nonce = chain.view().account(&user(0).address())?.nonce;
            let tx = transfer(0, nonce, Address([9; 20]), 1);
            match chain.propose(slot, vec![tx.clone()], now) {
                Ok(proposed) => {
                    promises.blocks.push(proposed.block.header().id());
                    promises.transactions.push(tx.id());
                    promises.proposed_slot = Some(slot);
                }
                Err(ghost_node::chain::ProposeError::Store(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
        } else if genesis.authorities.proposer_of(slot) == 1 {
            // The other authority, on our head.
            let mut other = memory_chain(&genesis, Some(1));
            let view = chain.view();
            for height in 1..=view.head().height {
                let block = view.block(&view.canonical_id(height)?.unwrap())?.unwrap();
                other.import(block, trust_all, now).unwrap();
            }
            let block = other.propose(slot, vec![], now).unwrap().block;
            match chain.import(block.clone(), trust_all, now) {
                Ok(_) => promises.blocks.push(block.header().id()),
                Err(ghost_node::chain::ImportError::Store(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
        }
        if let Some(own) = chain.vote(now + SLOT_MS)? {
            for earlier in &promises.votes {
                assert!(!earlier.conflicts_with(&own.vote.link), "{earlier:?} {:?}", own.vote.link);
            }
            promises.votes.push(own.vote.link);
            // The other one agrees, except now and then, so that finality also lags.
            if slot % 5 != 3 {
                let vote = ghost_proto::Vote::sign(own.vote.link, 1, &genesis.id(), &authority(1));
                chain.on_vote(vote)?;
            }
        }
    }
    Ok(())
}

#[test]
fn scenario_30_a_crash_at_every_write_loses_nothing_that_was_acknowledged() {
    let genesis = genesis(2);
    let seed = [1; 32];
    let open = |store: Arc<FailingStore>| Chain::open(genesis.clone(), store, Some(authority(0)), seed);
    const PLENTY: usize = 1 << 20;

    let whole = FailingStore::new(Entries::new(), PLENTY);
    let mut reference = open(whole.clone()).unwrap();
    script(&mut reference, &mut Promises::default()).unwrap();
    assert!(reference.finalized().height >= 8, "the script reaches finality");
    let writes = whole.used(PLENTY);
    assert!(writes > 60, "{writes} writes");

    for stop in 0..writes {
        let store = FailingStore::new(Entries::new(), stop);
        let mut promises = Promises::default();
        if let Ok(mut chain) = open(store.clone()) {
            let error = script(&mut chain, &mut promises).unwrap_err();
            assert_eq!(error, failed());
            // The chain says so from then on.
            assert_eq!(chain.vote(slot_start(20)), Err(failed()));
        }
        for kept in 0..=store.unflushed() {
            let again = FailingStore::new(store.crash(kept), PLENTY);
            let mut chain = open(again).unwrap();
            promises.check(&chain);
            let mut promises = promises.clone();
            script(&mut chain, &mut promises).unwrap();
            promises.check(&chain);
            // The slot that was being proposed for may be lost, nothing else.
            assert!(chain.head().height + 1 >= reference.head().height);
            assert_eq!(supply(&chain, &genesis, &[Address([9; 20])]), 8 * RICH);
        }
    }
}

#[test]
fn a_store_of_another_chain_or_version_or_a_damaged_one_says_what_to_do() {
    let genesis = genesis(2);
    let store = Arc::new(MemoryStore::new());
    let mut chain = open(&genesis, store.clone(), Some(0));
    chain.propose(0, vec![transfer(0, 0, Address([9; 20]), 1)], slot_start(0)).unwrap();
    drop(chain);
    let fails = |genesis: &Arc<ghost_proto::Genesis>| {
        Chain::open(genesis.clone(), store.clone(), None, [0; 32]).unwrap_err().to_string()
    };
    let other = Arc::new(ghost_proto::Genesis { chain_id: 8, ..(*genesis).clone() });
    assert!(fails(&other).contains("use another --home"), "{}", fails(&other));

    let set = |key: &[u8], value: Option<&[u8]>| {
        let mut batch = WriteBatch::default();
        batch.entries.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        store.apply(batch).unwrap();
    };
    set(b"mformat", Some(&1u32.to_be_bytes()));
    assert!(fails(&genesis).contains("format 1, this ghostd reads format 2"), "{}", fails(&genesis));
    set(b"mformat", Some(&2u32.to_be_bytes()));

    // A balance that somebody edited: the block above no longer executes to its commitment.
    let key = [b"s".as_slice(), &ghost_node::chain::Account::key(&user(0).address())].concat();
    let honest = store.get(&key).unwrap().unwrap();
    set(&key, Some(&[1; 24]));
    assert!(fails(&genesis).contains("damaged"), "{}", fails(&genesis));
    set(&key, Some(&honest));

    let finalized = store.get(b"mfinalized").unwrap().unwrap();
    let mut bent = finalized.clone();
    bent[100] ^= 1;
    set(b"mfinalized", Some(&bent));
    let text = fails(&genesis);
    assert!(text.contains("damaged") && text.contains("move its directory away"), "{text}");
    set(b"mfinalized", None);
    assert!(fails(&genesis).contains("damaged"));
    set(b"mfinalized", Some(&finalized));
    assert!(Chain::open(genesis.clone(), store.clone(), None, [0; 32]).is_ok());

    let stranger = KeyPair::from_seed(&[77; 32]);
    assert!(matches!(
        Chain::open(genesis.clone(), store.clone(), Some(stranger), [0; 32]),
        Err(OpenError::NotAnAuthority { .. })
    ));
}

#[test]
fn a_store_can_be_opened_once_at_a_time_and_garbage_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain");
    let first = SledStore::open(&path, CACHE_BYTES_DEFAULT).unwrap();
    assert_eq!(SledStore::open(&path, CACHE_BYTES_DEFAULT).unwrap_err(), StoreError::Locked);
    drop(first);
    drop(SledStore::open(&path, CACHE_BYTES_DEFAULT).unwrap());
    let garbage = tempfile::tempdir().unwrap();
    std::fs::write(garbage.path().join("conf"), [0xff; 64]).unwrap();
    std::fs::write(garbage.path().join("db"), [0xff; 4096]).unwrap();
    assert!(matches!(
        SledStore::open(garbage.path(), CACHE_BYTES_DEFAULT),
        Err(StoreError::Damaged { .. } | StoreError::Io(_))
    ));
}

const CHILD_DIR: &str = "LEDGER_TEST_CHILD_DIR";

fn open_sled(path: &Path) -> Chain {
    let store = SledStore::open(&path.join("chain"), CACHE_BYTES_DEFAULT).unwrap();
    Chain::open(genesis(1), Arc::new(store), Some(authority(0)), [3; 32]).unwrap()
}

/// Not a test of its own: the process that the next test kills. The only authority of a chain makes
/// and finalizes blocks as fast as it can and says so.
#[test]
#[ignore = "is run by the test below, as a process of its own"]
fn child_proposes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let mut chain = open_sled(Path::new(&dir));
    let mut out = std::io::stdout();
    let mut say = |text: String| {
        out.write_all(text.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    loop {
        let slot = chain.head().slot.map_or(0, |slot| slot + 1);
        let now = slot_start(slot);
        let nonce = chain.view().account(&user(0).address()).unwrap().nonce;
        let txs: Vec<_> =
            (0..20).map(|n| transfer_with(0, nonce + n, Address([9; 20]), 1, vec![7; 1000].into())).collect();
        let id = txs[19].id();
        let block = chain.propose(slot, txs, now).unwrap().block;
        say(format!("\nack {} {}\n", block.header().id(), id));
        if let Some(own) = chain.vote(now + SLOT_MS).unwrap() {
            say(format!("\nvote {}\n", own.vote.link.target.height));
        }
    }
}

#[test]
fn scenario_30_kill_nine_loses_no_acknowledged_block() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(BlockId, TxId)> = Vec::new();
    let mut voted = 0;
    for round in 0..12usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_proposes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after another number of blocks each time, in the midst of the next write.
        let enough = acknowledged.len() + 3 + round * 7 % 23;
        let mut read = |line: String, acknowledged: &mut Vec<(BlockId, TxId)>| {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["ack", block, tx] => acknowledged.push((block.parse().unwrap(), tx.parse().unwrap())),
                ["vote", height] => voted = height.parse().unwrap(),
                _ => {}
            }
        };
        while acknowledged.len() < enough {
            read(lines.next().unwrap().unwrap(), &mut acknowledged);
        }
        child.kill().unwrap();
        // What it managed to say before it died counts, too.
        for line in lines.map_while(Result::ok) {
            read(line, &mut acknowledged);
        }
        child.wait().unwrap();

        let chain = open_sled(dir.path());
        let view = chain.view();
        for (height, (block, tx)) in (1..).zip(&acknowledged) {
            assert_eq!(view.canonical_id(height).unwrap(), Some(*block), "round {round}");
            assert_eq!(view.transaction(tx).unwrap().unwrap().block.height, height);
        }
        let extra = view.head().height as usize - acknowledged.len();
        assert!(extra <= 1, "at most the block that was being made when it died");
        for height in acknowledged.len() as u64 + 1..=view.head().height {
            let block = view.block(&view.canonical_id(height).unwrap().unwrap()).unwrap().unwrap();
            acknowledged.push((block.header().id(), block.transactions()[19].id()));
        }
        assert!(chain.vote_due().is_none() || view.head().height > voted, "voted {voted}: no second vote");
        assert!(view.finalized().height + 3 >= view.head().height);
    }
}

#[test]
fn a_store_that_lost_final_blocks_says_so_and_its_node_signs_nothing_until_they_are_back() {
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in
            std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
        {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let (store, old) = (dir.path().join("chain"), dir.path().join("old"));
    let mut chain = open_sled(dir.path());
    let mut blocks = Vec::new();
    let mut extend = |chain: &mut Chain, count: u64| {
        for _ in 0..count {
            let slot = chain.head().slot.map_or(0, |slot| slot + 1);
            blocks.push(chain.propose(slot, Vec::new(), slot_start(slot)).unwrap().block);
            chain.vote(slot_start(slot) + SLOT_MS).unwrap().unwrap();
        }
        chain.finalized()
    };
    let early = extend(&mut chain, 5);
    drop(chain);
    copy(&store, &old);
    let mut chain = open_sled(dir.path());
    assert_eq!(chain.lost(), None);
    // The mark tells of what is on disk, and the last block became final after the last write.
    let last = ghost_proto::Checkpoint { height: extend(&mut chain, 20).height - 1, ..early };
    let last = chain
        .view()
        .canonical_id(last.height)
        .unwrap()
        .map(|id| ghost_proto::Checkpoint { id, ..last })
        .unwrap();
    drop(chain);

    // What a damaged log looks like to sled: everything behind the damage is gone.
    std::fs::remove_dir_all(&store).unwrap();
    copy(&old, &store);
    for opening in 0..2 {
        let mut chain = open_sled(dir.path());
        assert_eq!((chain.finalized(), chain.lost()), (early, Some(last)), "opening {opening}");
        let far = slot_start(1_000);
        assert_eq!((chain.duty(far), chain.vote_due()), (None, None));
        assert!(chain.propose(1_000, Vec::new(), far).is_err());
    }
    // Peers have the blocks, and the votes that made them final.
    let mut chain = open_sled(dir.path());
    for block in &blocks[5..] {
        chain.import(block.clone(), trust_all, u64::MAX / 2).unwrap();
    }
    assert_eq!(chain.lost(), Some(last), "their votes are gone with the store");
    let at = |height: u64| ghost_proto::Checkpoint { height, id: blocks[height as usize - 1].header().id() };
    for height in early.height + 1..=last.height {
        let link = Link { source: at(height), target: at(height + 1) };
        chain.on_vote(ghost_proto::Vote::sign(link, 0, &genesis(1).id(), &authority(0))).unwrap();
    }
    assert_eq!((chain.finalized(), chain.lost()), (last, None));
    let slot = chain.head().slot.unwrap() + 1;
    assert_eq!(chain.duty(slot_start(slot)), Some(slot));
}

//! Contracts on the chain: deployed, called, searched, and executed again from genesis.

use std::sync::Arc;

use bytes::Bytes;
use ghost_node::{
    chain::{LogFilter, LogLimits, LogPlace, state::storage_key},
    engine::Stop,
    store::MemoryStore,
};
use ghost_proto::{Action, Address, Block, EngineId, Outcome, Transaction, VerifiedTransaction};

use crate::world::{genesis, memory_chain, open, slot_start, supply, transfer, trust_none, user};

/// Adds one to slot 0, logs the new count under the topic 0x77 and returns it.
const COUNTER: &str = "60015f5401805f555f52607760205fa160205ff3";

fn send(from: u8, nonce: u64, action: Action) -> VerifiedTransaction {
    let key = user(from);
    let body = Transaction {
        chain_id: 7,
        sender_key: key.public(),
        nonce,
        gas_limit: 300_000,
        gas_price: 1,
        action,
    };
    body.sign(&key).unwrap()
}

pub(crate) fn deploy(from: u8, nonce: u64) -> VerifiedTransaction {
    let code = hex::decode(COUNTER).unwrap();
    // Returns what follows it.
    let init = [&[0x60, code.len() as u8, 0x80, 0x60, 9, 0x5f, 0x39, 0x5f, 0xf3], code.as_slice()].concat();
    send(
        from,
        nonce,
        Action::Deploy { engine: EngineId::EVM, value: 0, code: init.into(), input: Bytes::new() },
    )
}

pub(crate) fn call(from: u8, nonce: u64, to: Address) -> VerifiedTransaction {
    send(from, nonce, Action::Call { to, value: 0, input: Bytes::new() })
}

#[test]
fn replay_from_genesis_gives_the_same_commitment() {
    let genesis = genesis(1);
    let store = Arc::new(MemoryStore::new());
    let mut proposer = open(&genesis, store.clone(), Some(0));
    let mut blocks: Vec<Block> = Vec::new();
    let mut propose = |slot: u64, txs| {
        let block = proposer.propose(slot, txs, slot_start(slot)).unwrap().block;
        blocks.push(block);
        proposer.view()
    };

    let deployment = deploy(0, 0);
    let view = propose(1, vec![deployment.clone(), transfer(1, 0, Address([9; 20]), 5)]);
    let receipt = view.transaction(&deployment.id()).unwrap().unwrap().receipt;
    assert_eq!(receipt.outcome, Outcome::Done);
    let counter = receipt.created.unwrap();

    propose(2, vec![call(0, 1, counter), call(1, 1, counter), call(2, 0, counter)]);
    propose(3, vec![transfer(2, 1, counter, 5), transfer(3, 0, Address([9; 20]), 1)]);
    let view = propose(5, vec![call(3, 1, counter)]);

    let count = view.state().get(&storage_key(&counter, &[0; 32])).unwrap().unwrap();
    assert_eq!(count[31], 4);
    let mut topic = [0; 32];
    topic[31] = 0x77;
    let filter = LogFilter { addresses: vec![counter], topics: [vec![topic], vec![], vec![], vec![]] };
    let all = LogLimits::CALL;
    let found = view.logs(&filter, LogPlace::default(), u64::MAX, all, &Stop::default()).unwrap();
    let places: Vec<_> = found.entries.iter().map(|log| (log.place.height, log.entry.data[31])).collect();
    assert_eq!((places.as_slice(), found.next), ([(2, 1), (2, 2), (2, 3), (4, 4)].as_slice(), None));
    assert_eq!(view.transaction(&found.entries[3].transaction).unwrap().unwrap().block.height, 4);
    // Pages of every size, cut by entries, bytes or blocks, make the whole.
    let one = found.entries[0].entry.encoded_len();
    let mut cuts: Vec<_> = (1..=4).map(|entries| LogLimits { entries, ..all }).collect();
    cuts.extend((0..=4).map(|entries| LogLimits { bytes: entries * one, ..all }));
    cuts.push(LogLimits { blocks: 1, ..all });
    for limits in cuts {
        let (mut pages, mut next) = (Vec::new(), Some(LogPlace::default()));
        while let Some(from) = next {
            let page = view.logs(&filter, from, u64::MAX, limits, &Stop::default()).unwrap();
            assert!(page.entries.len() <= limits.entries);
            assert!(page.entries.len() <= (limits.bytes / one).max(1));
            assert!(page.next.is_none_or(|place| place > from), "{limits:?} goes on");
            next = page.next;
            pages.extend(page.entries);
        }
        assert_eq!(pages, found.entries, "{limits:?}");
    }
    let other = LogFilter { addresses: vec![Address([9; 20])], ..LogFilter::default() };
    assert!(
        view.logs(&other, LogPlace::default(), u64::MAX, all, &Stop::default()).unwrap().entries.is_empty()
    );
    assert_eq!(supply(&proposer, &genesis, &[counter, Address([9; 20])]), 8 * crate::world::RICH);

    // Another node that trusts no signature, and this one again from its store.
    let mut replica = memory_chain(&genesis, None);
    for block in &blocks {
        replica.import(block.clone(), trust_none, slot_start(6)).unwrap();
    }
    let tip = blocks.last().unwrap().header();
    assert_eq!(replica.head().id, tip.id());
    assert_eq!(
        replica.view().logs(&filter, LogPlace::default(), u64::MAX, all, &Stop::default()).unwrap(),
        found
    );
    drop(proposer);
    let mut again = open(&genesis, store, None);
    assert_eq!(again.head().id, tip.id());
    assert_eq!(
        again.account_at(&tip.id(), &counter).unwrap(),
        Some(replica.view().account(&counter).unwrap())
    );
}

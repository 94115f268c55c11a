//! A small chain to play with: keys, genesis, transactions, blocks on any parent.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use ghost_node::{
    chain::Chain,
    store::{ChainStore, MemoryStore},
};
use ghost_proto::{
    Action, Address, AuthoritySet, Block, BlockId, Genesis, KeyPair, Transaction, TxId, VerifiedTransaction,
};

pub(crate) const SLOT_MS: u64 = 500;
pub(crate) const START_MS: u64 = 1_000_000;
pub(crate) const RICH: u128 = 1_000_000_000_000;

pub(crate) fn authority(index: usize) -> KeyPair {
    KeyPair::from_seed(&[100 + index as u8; 32])
}

pub(crate) fn user(index: u8) -> KeyPair {
    KeyPair::from_seed(&[index + 1; 32])
}

pub(crate) fn genesis(authorities: usize) -> Arc<Genesis> {
    Arc::new(Genesis {
        name: "ledger test".into(),
        chain_id: 7,
        time_unix_ms: START_MS,
        slot_ms: SLOT_MS,
        gas_price_min: 1,
        block_gas_max: 100_000_000,
        block_bytes_max: 1 << 20,
        authorities: AuthoritySet::new((0..authorities).map(|n| authority(n).public()).collect()).unwrap(),
        markets: Default::default(),
        allocation: (0..8).map(|n| (user(n).address(), RICH)).collect(),
        feeds: Vec::new(),
    })
}

pub(crate) fn slot_start(slot: u64) -> u64 {
    START_MS + slot * SLOT_MS
}

pub(crate) fn transfer(from: u8, nonce: u64, to: Address, value: u128) -> VerifiedTransaction {
    transfer_with(from, nonce, to, value, Bytes::new())
}

pub(crate) fn transfer_with(
    from: u8,
    nonce: u64,
    to: Address,
    value: u128,
    payload: Bytes,
) -> VerifiedTransaction {
    let key = user(from);
    Transaction {
        chain_id: 7,
        sender_key: key.public(),
        nonce,
        gas_limit: 21_000 + 16 * payload.len() as u64,
        gas_price: 1,
        action: Action::Transfer { to, value, payload },
    }
    .sign(&key)
    .unwrap()
}

pub(crate) fn open(genesis: &Arc<Genesis>, store: Arc<dyn ChainStore>, index: Option<usize>) -> Chain {
    Chain::open(genesis.clone(), store, index.map(authority), [9; 32]).unwrap()
}

pub(crate) fn memory_chain(genesis: &Arc<Genesis>, index: Option<usize>) -> Chain {
    open(genesis, Arc::new(MemoryStore::new()), index)
}

pub(crate) fn trust_all(_: &TxId) -> bool {
    true
}

pub(crate) fn trust_none(_: &TxId) -> bool {
    false
}

/// Balances of everyone who can own anything in these tests.
pub(crate) fn supply(chain: &Chain, genesis: &Genesis, others: &[Address]) -> u128 {
    let view = chain.view();
    let mut all: Vec<Address> = (0..8).map(|n| user(n).address()).collect();
    all.extend(genesis.authorities.keys().iter().map(|key| key.address()));
    all.extend_from_slice(others);
    all.iter().map(|address| view.account(address).unwrap().balance).sum()
}

/// Makes valid blocks on any parent, as honest proposers on different forks would.
pub(crate) struct Forge {
    pub(crate) genesis: Arc<Genesis>,
    blocks: HashMap<BlockId, Block>,
}

impl Forge {
    pub(crate) fn new(genesis: Arc<Genesis>) -> Self {
        Self { genesis, blocks: HashMap::new() }
    }

    /// A chain of whoever's turn the slot is, with `parent` as its head.
    pub(crate) fn chain_at(&self, parent: BlockId, slot: u64) -> Chain {
        let turn = usize::from(self.genesis.authorities.proposer_of(slot));
        let mut chain = memory_chain(&self.genesis, Some(turn));
        let mut path = Vec::new();
        let mut at = parent;
        while let Some(block) = self.blocks.get(&at) {
            path.push(block.clone());
            at = block.header().parent;
        }
        for block in path.into_iter().rev() {
            chain.import(block, trust_all, slot_start(slot)).unwrap();
        }
        assert_eq!(chain.head().id, parent);
        chain
    }

    pub(crate) fn block(&mut self, parent: BlockId, slot: u64, txs: Vec<VerifiedTransaction>) -> Block {
        let block = self.chain_at(parent, slot).propose(slot, txs, slot_start(slot)).unwrap().block;
        self.blocks.insert(block.header().id(), block.clone());
        block
    }
}

//! A small chain: real sealed headers and bodies, fork choice by height.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use ghost_mempool_relay::sync::{BlockSync, HeaderVerdict, HeadersVerdict, ImportOutcome};
use ghost_proto::{
    Action, Address, Block, BlockBuilder, BlockId, Checkpoint, GenesisId, Header, KeyPair, PeerId,
    SignedTransaction, Transaction, block::sort_canonically,
};

pub const GENESIS: GenesisId = GenesisId([9; 32]);
pub const ROOT: Checkpoint = Checkpoint { height: 0, id: BlockId(GENESIS.0) };

fn keys() -> &'static [KeyPair] {
    static KEYS: OnceLock<Vec<KeyPair>> = OnceLock::new();
    KEYS.get_or_init(|| (1..=4).map(|n| KeyPair::from_seed(&[n; 32])).collect())
}

/// The key that sealed a header.
pub fn proposer_of(header: &Header) -> &'static KeyPair {
    &keys()[usize::from(header.proposer)]
}

/// The PeerId of a made-up ed25519 key.
pub fn peer(n: u16) -> PeerId {
    let mut bytes = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    bytes.extend_from_slice(&[0; 30]);
    bytes.extend_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(&bytes).expect("an identity multihash of a key")
}

pub fn checkpoint(header: &Header) -> Checkpoint {
    Checkpoint { height: header.height, id: header.id() }
}

fn transactions(parent: &BlockId, height: u64, payload: usize) -> Vec<SignedTransaction> {
    let count = payload.div_ceil(100_000);
    let mut all: Vec<_> = (0..count)
        .map(|n| {
            let key = &keys()[n % 4];
            let size = (payload - n * 100_000).min(100_000);
            Transaction {
                chain_id: 1,
                sender_key: key.public(),
                nonce: height * 1_000 + n as u64,
                gas_limit: 21_000,
                gas_price: 1,
                action: Action::Transfer {
                    to: Address([1; 20]),
                    value: 1,
                    payload: Bytes::from(vec![7; size]),
                },
            }
            .sign(key)
            .expect("fits")
            .into_signed()
        })
        .collect();
    sort_canonically(parent, &mut all);
    all
}

/// Seals a block on `parent`. `fork` moves the slot, so that two forks differ; below 8.
pub fn seal(parent: Checkpoint, fork: u64, payload: usize) -> Arc<Block> {
    seal_of(parent, fork, transactions(&parent.id, parent.height + 1, payload))
}

/// `count` transactions with payloads of this size, all different.
pub fn many(count: usize, payload: usize) -> Vec<SignedTransaction> {
    let one = |n: usize| {
        let key = &keys()[n % 4];
        Transaction {
            chain_id: 1,
            sender_key: key.public(),
            nonce: 1_000_000 + n as u64,
            gas_limit: 21_000,
            gas_price: 1,
            action: Action::Transfer {
                to: Address([1; 20]),
                value: 1,
                payload: Bytes::from(vec![7; payload]),
            },
        }
        .sign(key)
        .expect("fits")
        .into_signed()
    };
    (0..count).map(one).collect()
}

/// Seals a block of these transactions on `parent`. `fork` as for [`seal`].
pub fn seal_of(parent: Checkpoint, fork: u64, mut transactions: Vec<SignedTransaction>) -> Arc<Block> {
    sort_canonically(&parent.id, &mut transactions);
    let height = parent.height + 1;
    let slot = height * 8 + fork;
    let proposer = (slot % 4) as u16;
    let (receipts, state) = (Vec::new(), [0; 32]);
    let builder = BlockBuilder { parent: parent.id, height, slot, proposer, transactions, receipts, state };
    Arc::new(builder.seal(&GENESIS, &keys()[usize::from(proposer)]))
}

pub type Blocks = Arc<Vec<Arc<Block>>>;

/// `count` blocks from `parent` on.
pub fn grow(parent: Checkpoint, count: usize, fork: u64, payload: usize) -> Vec<Arc<Block>> {
    let mut tip = parent;
    (0..count)
        .map(|_| {
            let block = seal(tip, fork, payload);
            tip = checkpoint(block.header());
            block
        })
        .collect()
}

/// The first `height` blocks of `main`, then `count` blocks of a fork.
pub fn fork(main: &Blocks, height: usize, count: usize, fork: u64, payload: usize) -> Blocks {
    let mut blocks = main[..height].to_vec();
    let tip = blocks.last().map_or(ROOT, |block| checkpoint(block.header()));
    blocks.extend(grow(tip, count, fork, payload));
    Arc::new(blocks)
}

thread_local! {
    /// Signatures are checked once for each header and thread: thousands of runs share chains.
    static VERIFIED: RefCell<BTreeSet<BlockId>> = const { RefCell::new(BTreeSet::new()) };
}

fn seal_is_right(header: &Header) -> bool {
    VERIFIED.with_borrow_mut(|verified| {
        if verified.contains(&header.id()) {
            return true;
        }
        let turn = u64::from(header.proposer) == header.slot % 4;
        let right = turn && header.verify(&GENESIS, &keys()[usize::from(header.proposer)].public()).is_ok();
        if right {
            verified.insert(header.id());
        }
        right
    })
}

/// What the node under test has stored.
pub struct Chain {
    blocks: BTreeMap<BlockId, Arc<Block>>,
    canonical: Vec<BlockId>,
    pub head: Option<Header>,
    pub invalid: BTreeSet<BlockId>,
    /// Heights above this have not come by the node's clock.
    pub clock: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            blocks: BTreeMap::new(),
            canonical: vec![ROOT.id],
            head: None,
            invalid: BTreeSet::new(),
            clock: u64::MAX,
        }
    }
}

impl Chain {
    pub fn of(blocks: &[Arc<Block>]) -> Self {
        let mut chain = Self::default();
        for block in blocks {
            assert_eq!(chain.import(block), ImportOutcome::Stored);
        }
        chain
    }

    pub fn height(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.height)
    }

    pub fn head_checkpoint(&self) -> Checkpoint {
        self.head.as_ref().map_or(ROOT, checkpoint)
    }

    pub fn has(&self, id: &BlockId) -> bool {
        *id == ROOT.id || self.blocks.contains_key(id)
    }

    pub fn canonical(&self, height: u64) -> Option<BlockId> {
        self.canonical.get(height as usize).copied()
    }

    fn parent_of(&self, header: &Header, core: &BlockSync) -> Option<(u64, u64)> {
        if header.parent == ROOT.id {
            return Some((0, 0));
        }
        let stored = self.blocks.get(&header.parent).map(|block| block.header());
        stored.or_else(|| core.header(&header.parent)).map(|parent| (parent.height, parent.slot))
    }

    pub fn check(&self, header: &Header, core: &BlockSync) -> HeaderVerdict {
        if self.has(&header.id()) {
            return HeaderVerdict::Known;
        }
        if !seal_is_right(header) {
            return HeaderVerdict::Invalid;
        }
        match self.parent_of(header, core) {
            None => HeaderVerdict::UnknownParent,
            Some((height, slot)) if header.height == height + 1 && header.slot > slot => HeaderVerdict::Good,
            Some(_) => HeaderVerdict::Invalid,
        }
    }

    pub fn check_all(&self, headers: &[Header], core: &BlockSync) -> HeadersVerdict {
        let Some((mut height, mut slot)) = self.parent_of(&headers[0], core) else {
            return HeadersVerdict::UnknownParent;
        };
        for header in headers {
            if header.height != height + 1 || header.slot <= slot || !seal_is_right(header) {
                return HeadersVerdict::Invalid;
            }
            (height, slot) = (header.height, header.slot);
        }
        HeadersVerdict::Good {
            known: headers.iter().take_while(|header| self.has(&header.id())).count(),
            ahead: headers.iter().filter(|header| header.height > self.clock).count(),
        }
    }

    /// Stores, and moves the head by height, then slot, then id.
    pub fn import(&mut self, block: &Arc<Block>) -> ImportOutcome {
        let header = block.header();
        if self.invalid.contains(&header.id()) {
            return ImportOutcome::Invalid;
        }
        if !self.has(&header.parent) {
            return ImportOutcome::Failed;
        }
        self.blocks.insert(header.id(), Arc::clone(block));
        let rank = |header: &Header| (header.height, std::cmp::Reverse((header.slot, header.id())));
        if self.head.as_ref().is_none_or(|head| rank(header) > rank(head)) {
            self.head = Some(header.clone());
            let (mut id, mut height) = (header.id(), header.height as usize);
            self.canonical.resize(height + 1, ROOT.id);
            while height > 0 && self.canonical[height] != id {
                self.canonical[height] = id;
                id = self.blocks[&id].header().parent;
                height -= 1;
            }
        }
        ImportOutcome::Stored
    }
}

//! One node, the real core, whose inputs and effects are looked at one by one.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::{
    StreamType,
    compact::{CompactBlock, PlacedTransaction},
};
use ghost_mempool_relay::{
    block::{Found, Received, ShortIds},
    sync::{BlockSync, Config, Effect, Input, Offence, RequestId},
};
use ghost_proto::{Block, BlockId, Header, PeerId, SignedTransaction};

use crate::sync_world::{
    chain::{Chain, ROOT, peer, seal},
    ms,
};

/// See the head of this file.
pub struct Node {
    pub core: BlockSync,
    pub chain: Chain,
    pub now: Instant,
}

impl Node {
    pub fn new() -> Self {
        let now = Instant::now();
        let core = BlockSync::new(Config { head: ROOT, slot: ms(1_000), seed: [0; 32] }, now);
        Self { core, chain: Chain::default(), now }
    }

    pub fn with_peers(count: u16) -> Self {
        let mut node = Self::new();
        for n in 0..count {
            node.up(n, true);
        }
        node
    }

    pub fn up(&mut self, n: u16, outbound: bool) {
        let rtt = ms(10 + u64::from(n));
        self.give(Input::PeerUp { peer: peer(n), outbound, best: ROOT, best_known: true, rtt });
    }

    pub fn give(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(input, self.now)
    }

    pub fn announce(&mut self, n: u16, header: &Header) -> Vec<Effect> {
        let verdict = self.chain.check(header, &self.core);
        self.give(Input::Announced { peer: peer(n), header: header.clone(), verdict })
    }

    pub fn push(&mut self, n: u16, block: &Arc<Block>) -> Vec<Effect> {
        let verdict = self.chain.check(block.header(), &self.core);
        self.give(Input::Pushed { peer: peer(n), block: Received::Matching(Arc::clone(block)), verdict })
    }

    pub fn fetched(&mut self, request: RequestId, block: &Arc<Block>) -> Vec<Effect> {
        self.give(Input::Fetched { request, block: Received::Matching(Arc::clone(block)) })
    }

    /// A compact block is pushed.
    pub fn compact(&mut self, n: u16, compact: CompactBlock) -> Vec<Effect> {
        let verdict = self.chain.check(&compact.header, &self.core);
        self.give(Input::Compact { peer: peer(n), compact, verdict })
    }

    /// A compact block is pushed, and the pool looked into.
    pub fn compact_with(&mut self, n: u16, compact: CompactBlock, pool: &[SignedTransaction]) -> Vec<Effect> {
        let mut effects = self.compact(n, compact);
        let Some(wanted) = look_ups(&effects).pop() else { return effects };
        effects.extend(self.give(Input::LookedUp { id: wanted.block(), found: wanted.select(pool) }));
        effects
    }

    /// Transactions come in answer to a request.
    pub fn placed(&mut self, request: RequestId, block: &Block, places: &[u32]) -> Vec<Effect> {
        let transactions = places
            .iter()
            .map(|index| PlacedTransaction {
                index: *index,
                transaction: block.transactions()[*index as usize].clone(),
            })
            .collect();
        self.give(Input::FetchedTransactions { request, transactions })
    }

    pub fn imported(&mut self, block: &Arc<Block>) -> Vec<Effect> {
        let outcome = self.chain.import(block);
        self.give(Input::Imported { id: block.header().id(), outcome })
    }

    /// Lets time pass, serving deadlines as they come.
    pub fn wait(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            assert!(at > self.now, "a served deadline is still due");
            self.now = at;
            effects.extend(self.core.on_deadline(at));
        }
        self.now = end;
        effects
    }
}

pub fn requests(effects: &[Effect]) -> Vec<(PeerId, RequestId)> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::RequestBlocks { peer, request, stream: StreamType::BlockFetch, ids } => {
            assert_eq!(ids.len(), 1);
            Some((*peer, *request))
        }
        // The answer may be the block whole.
        Effect::RequestCompact { peer, request, .. } => Some((*peer, *request)),
        _ => None,
    });
    asked.collect()
}

pub fn asked(effects: &[Effect]) -> Vec<PeerId> {
    requests(effects).into_iter().map(|(peer, _)| peer).collect()
}

pub fn told(effects: &[Effect]) -> (Vec<PeerId>, Vec<PeerId>) {
    let (mut pushed, mut announced) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::PushWhole { peers, .. } => pushed.extend(peers),
            Effect::Announce { peers, .. } => announced.extend(peers),
            _ => {}
        }
    }
    (pushed, announced)
}

pub fn imports(effects: &[Effect]) -> Vec<BlockId> {
    let blocks = effects.iter().filter_map(|effect| match effect {
        Effect::Import { block, .. } => Some(block.header().id()),
        _ => None,
    });
    blocks.collect()
}

pub fn offences(effects: &[Effect]) -> Vec<(PeerId, Offence)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Offence { peer, what } => Some((*peer, *what)),
        _ => None,
    });
    all.collect()
}

pub fn cancels(effects: &[Effect]) -> Vec<RequestId> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Cancel { request } => Some(*request),
        _ => None,
    });
    all.collect()
}

/// A block too large to be pushed whole.
pub fn large() -> Arc<Block> {
    seal(ROOT, 0, 20_000)
}

/// A block by its short ids alone.
pub fn short(block: &Block) -> CompactBlock {
    ShortIds::of(block, 7).compact(block.header().clone(), [])
}

pub fn look_ups(effects: &[Effect]) -> Vec<Arc<ShortIds>> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::LookUp { wanted } => Some(Arc::clone(wanted)),
        _ => None,
    });
    all.collect()
}

/// Requests for transactions by place.
pub fn places(effects: &[Effect]) -> Vec<(PeerId, RequestId, Vec<u32>)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::RequestTransactions { peer, request, places, .. } => Some((*peer, *request, places.clone())),
        _ => None,
    });
    all.collect()
}

/// Requests for whole blocks.
pub fn wholes(effects: &[Effect]) -> Vec<(PeerId, RequestId)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::RequestBlocks { peer, request, .. } => Some((*peer, *request)),
        _ => None,
    });
    all.collect()
}

/// To whom compact blocks go, and what they are.
pub fn compacts(effects: &[Effect]) -> Vec<(Vec<PeerId>, Arc<CompactBlock>, bool)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::PushCompact { peers, compact, partial } => {
            Some((peers.clone(), Arc::clone(compact), partial.is_some()))
        }
        _ => None,
    });
    all.collect()
}

/// An empty pool's answer.
pub fn nothing(wanted: &ShortIds) -> Found {
    wanted.select([])
}

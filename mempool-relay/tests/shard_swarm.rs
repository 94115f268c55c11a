//! One node and what peers and proposers do with shards.

#[path = "../simulation/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod simulation;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_frames::shards::{Shard, ShardHave, ShardPlan, ShardRoot, ShardSet};
use ghost_mempool_relay::{
    block::{
        ShortIds,
        shards::{GROUPS_MAX, OWED_BYTES_MAX, SWARM_PATIENCE, code, payload},
    },
    sync::{BlockSync, Config, Effect, HeaderVerdict, Input, Offence, ShardFault},
};
use ghost_proto::{Block, merkle};
use simulation::chain::{GENESIS, ROOT, many, peer, proposer_of, seal_of};

struct Bench {
    core: BlockSync,
    now: Instant,
}

impl Bench {
    fn new(peers: u16) -> Self {
        let now = Instant::now();
        let config = Config { head: ROOT, slot: Duration::from_secs(1), seed: [3; 32] };
        let mut bench = Self { core: BlockSync::new(config, now), now };
        for n in 0..peers {
            let rtt = Duration::from_millis(100);
            bench.give(Input::PeerUp { peer: peer(n), outbound: true, best: ROOT, best_known: true, rtt });
        }
        bench
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(input, self.now)
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            effects.extend(self.core.on_deadline(self.now));
        }
        self.now = end;
        effects
    }

    /// A block by short ids of which the pool has nothing: it is wanted whole.
    fn want(&mut self, block: &Arc<Block>) -> Vec<Effect> {
        let compact = ShortIds::of(block, 1).compact(block.header().clone(), []);
        self.give(Input::Compact { peer: peer(0), compact, verdict: HeaderVerdict::Good });
        let ids = ShortIds::of(block, 1);
        self.give(Input::LookedUp { id: block.header().id(), found: ids.select([]) })
    }

    fn plan(&mut self, from: u16, plan: &Arc<ShardPlan>) -> Vec<Effect> {
        let plan = Arc::clone(plan);
        self.give(Input::ShardPlan { peer: peer(from), plan, verdict: HeaderVerdict::Good })
    }

    fn shard(&mut self, from: u16, shard: &Shard) -> Vec<Effect> {
        self.give(Input::Shard { peer: peer(from), shard: shard.clone() })
    }
}

fn block() -> Arc<Block> {
    seal_of(ROOT, 0, many(4_400, 83))
}

fn plan_of(block: &Block, root: ShardRoot) -> Arc<ShardPlan> {
    let (header, key) = (block.header().clone(), proposer_of(block.header()));
    let bytes = block.header().body_bytes;
    Arc::new(ShardPlan::seal(header, bytes, root, Vec::new(), &GENESIS, key))
}

fn honest(block: &Block) -> (Arc<ShardPlan>, Vec<Arc<Shard>>) {
    let coded = code::encode(&payload(block, &[]));
    (plan_of(block, coded.root), coded.shards)
}

fn offences(effects: &[Effect]) -> Vec<Offence> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Offence { what, .. } => Some(*what),
        _ => None,
    });
    all.collect()
}

fn job(effects: Vec<Effect>) -> Option<ghost_mempool_relay::block::shards::ShardJob> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::WorkOnShards { job } => Some(job),
        _ => None,
    })
}

fn asks_whole(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::RequestBlocks { .. }))
}

#[test]
fn a_block_is_put_together_from_any_two_thirds_and_imported_once() {
    let (mut bench, block) = (Bench::new(3), block());
    let (plan, shards) = honest(&block);
    bench.plan(1, &plan);
    assert!(!asks_whole(&bench.want(&block)), "its shards are on their way");
    let (data, mut work) = (plan.geometry().data, None);
    for shard in shards.iter().rev().take(data) {
        work = work.or(job(bench.shard(1, shard)));
    }
    let job = work.expect("enough are here");
    let effects = bench.give(Input::ShardsWorked { root: plan.root, outcome: job.run() });
    let imports = effects.iter().filter(|effect| matches!(effect, Effect::Import { .. })).count();
    assert_eq!(imports, 1);
    assert_eq!(bench.core.block(&block.header().id()), Some(&block));
}

#[test]
fn a_false_shard_is_its_senders_offence_and_the_true_one_is_still_taken() {
    let (mut bench, block) = (Bench::new(3), block());
    let (plan, shards) = honest(&block);
    bench.plan(1, &plan);
    bench.want(&block);
    let mut false_bytes = shards[0].bytes.to_vec();
    false_bytes[17] ^= 1;
    let moved = Shard { index: 1, ..shards[0].as_ref().clone() };
    for bad in [Shard { bytes: false_bytes.into(), ..shards[0].as_ref().clone() }, moved] {
        assert_eq!(offences(&bench.shard(2, &bad)), [Offence::FalseShard]);
    }
    let kept = |effects: &[Effect]| effects.iter().any(|one| matches!(one, Effect::KeepShards { .. }));
    assert!(kept(&bench.shard(1, &shards[0])));
    assert_eq!(offences(&bench.shard(2, &shards[0])), [], "one that is here already is no offence");
}

#[test]
fn a_proposer_that_signs_another_root_is_found_out_and_no_peer_is_blamed() {
    let (mut bench, block) = (Bench::new(3), block());
    let (_, shards) = honest(&block);
    // What repairs is noise: with it another payload would come out than without.
    let data = plan_of(&block, ShardRoot([0; 32])).geometry().data;
    let pieces: Vec<Vec<u8>> = shards
        .iter()
        .map(|shard| match usize::from(shard.index) < data {
            true => shard.bytes.to_vec(),
            false => vec![shard.index as u8; shard.bytes.len()],
        })
        .collect();
    let (root, paths) = merkle::root_and_proofs(&pieces);
    let root = ShardRoot(root);
    let plan = plan_of(&block, root);
    bench.plan(1, &plan);
    bench.want(&block);
    let mut work = None;
    for index in 0..data {
        let (path, bytes) = (paths[index].clone(), pieces[index].clone().into());
        work = work.or(job(bench.shard(1, &Shard { root, index: index as u16, path, bytes })));
    }
    let outcome = work.expect("each shard is under the signed root").run();
    let effects = bench.give(Input::ShardsWorked { root, outcome });
    let poisoned = effects.iter().any(|one| matches!(one, Effect::ShardFault(ShardFault::Poisoned { .. })));
    assert!(poisoned && offences(&effects).is_empty(), "{effects:?}");
    assert!(asks_whole(&effects), "the block is got without shards");
}

#[test]
fn two_roots_for_one_payload_are_told_and_the_first_is_followed() {
    let (mut bench, block) = (Bench::new(3), block());
    let (plan, shards) = honest(&block);
    bench.plan(1, &plan);
    let effects = bench.plan(2, &plan_of(&block, ShardRoot([9; 32])));
    assert!(effects.iter().any(|one| matches!(one, Effect::ShardFault(ShardFault::Equivocal { .. }))));
    assert_eq!(offences(&effects), []);
    bench.want(&block);
    let kept = |effects: &[Effect]| effects.iter().any(|one| matches!(one, Effect::KeepShards { .. }));
    assert!(kept(&bench.shard(1, &shards[3])));
}

#[test]
fn shards_that_do_not_come_are_waited_for_a_second() {
    let (mut bench, block) = (Bench::new(3), block());
    let (plan, _) = honest(&block);
    bench.plan(1, &plan);
    bench.want(&block);
    let ms = Duration::from_millis(1);
    assert!(!asks_whole(&bench.wait(SWARM_PATIENCE - ms)));
    assert!(asks_whole(&bench.wait(2 * ms)));
}

#[test]
fn a_peer_that_confirms_nothing_is_sent_no_more_than_the_bound() {
    let (mut bench, block) = (Bench::new(1), block());
    bench.give(Input::Produced { block: Arc::clone(&block), fresh: Vec::new() });
    let (plan, _) = honest(&block);
    let coded = code::encode(&payload(&block, &[]));
    let mut pushed = 0;
    let mut count = |effects: Vec<Effect>| {
        let shards = effects.iter().filter_map(|one| match one {
            Effect::PushShard { shard, .. } => Some(shard.bytes.len()),
            _ => None,
        });
        pushed += shards.sum::<usize>();
        pushed
    };
    count(bench.give(Input::ShardsCut { plan: Arc::clone(&plan), coded }));
    let wants = ShardHave { root: plan.root, wants: true, have: ShardSet::default() };
    count(bench.give(Input::ShardHave { peer: peer(0), have: wants }));
    for _ in 0..50 {
        count(bench.give(Input::ShardHave { peer: peer(0), have: wants }));
    }
    let sent = count(bench.wait(Duration::from_secs(2)));
    let size = plan.geometry().shard_bytes;
    assert!(sent <= OWED_BYTES_MAX && sent > OWED_BYTES_MAX - size, "{sent}");
    // Each confirmed one makes room for another.
    let have = ShardSet::first(plan.geometry().count());
    count(bench.give(Input::ShardHave { peer: peer(0), have: ShardHave { have, ..wants }.to_owned() }));
}

#[test]
fn plans_are_bounded_and_old_ones_go() {
    let mut bench = Bench::new(2);
    let transactions = many(4_400, 83);
    for fork in 0..GROUPS_MAX as u64 + 4 {
        let block = seal_of(ROOT, fork, transactions.clone());
        bench.plan(1, &plan_of(&block, ShardRoot([fork as u8; 32])));
        assert!(bench.core.shard_load().0 <= GROUPS_MAX);
    }
    assert_eq!(bench.core.shard_load().0, GROUPS_MAX);
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.core.shard_load(), (0, 0));
}

//! Random peers with random faults: one honest peer is enough.

mod sync_world;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use ghost_mempool_relay::sync::SyncState;
use ghost_proto::{BlockId, Checkpoint};
use proptest::prelude::*;
use sync_world::{
    Conduct, Remote, World,
    chain::{Blocks, ROOT, checkpoint, fork, grow},
    ms,
};

/// The honest chain, shorter and equal and deeper forks of it, and one that leads nowhere.
struct Chains {
    main: Blocks,
    others: Vec<Blocks>,
}

fn chains() -> &'static Chains {
    static CHAINS: OnceLock<Chains> = OnceLock::new();
    CHAINS.get_or_init(|| {
        let main: Blocks = Arc::new(grow(ROOT, 1_300, 0, 700));
        let others = vec![
            Arc::clone(&main),
            fork(&main, 0, 1_250, 1, 0),
            fork(&main, 600, 650, 2, 300),
            fork(&main, 1_290, 9, 3, 300),
            fork(&main, 1_000, 300, 4, 0),
            Arc::new(main[..700].to_vec()),
        ];
        Chains { main, others }
    })
}

fn conduct() -> impl Strategy<Value = Conduct> {
    prop_oneof![
        3 => Just(Conduct::Honest),
        1 => Just(Conduct::Silent),
        1 => Just(Conduct::NoBodies),
        2 => Just(Conduct::SilentBodies),
        1 => Just(Conduct::NoHeaders),
        1 => Just(Conduct::BrokenSeals),
        1 => Just(Conduct::Mutates),
        1 => Just(Conduct::Unrequested),
        2 => (1..5u32).prop_map(Conduct::Resets),
        2 => (1..20u32).prop_map(Conduct::Dies),
    ]
}

fn remote() -> impl Strategy<Value = (Remote, u64)> {
    let link = (any::<bool>(), 1..400u64, prop_oneof![Just(2_000u64), Just(50_000), Just(5_000_000)]);
    let lie = prop_oneof![3 => Just(None), 1 => (1..1u64 << 40).prop_map(Some)];
    (conduct(), 0..6usize, link, lie, 0..30_000u64).prop_map(|(conduct, which, link, lie, joins_ms)| {
        let (outbound, rtt, bytes_per_second) = link;
        let claim = lie.map(|height| Checkpoint { height, id: BlockId([height as u8; 32]) });
        let blocks = Arc::clone(&chains().others[which]);
        (Remote { conduct, outbound, rtt: ms(rtt), bytes_per_second, blocks, claim }, joins_ms)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_honest_peer_is_enough(
        remotes in proptest::collection::vec(remote(), 0..12),
        stored in 0..1_250usize,
        stored_fork in 0..3usize,
        honest_joins_ms in 0..20_000u64,
        honest_inbound: bool,
        import_us in 0..3_000u64,
        bans: bool,
    ) {
        let main = &chains().main;
        let own = &chains().others[stored_fork];
        let mut world = World::new(&own[..stored.min(own.len())]);
        world.import_time = Duration::from_micros(import_us);
        world.bans = bans;
        let honest = Remote { outbound: !honest_inbound, bytes_per_second: 500_000, ..Remote::honest(main) };
        world.join_after(ms(honest_joins_ms), 1_000, honest);
        for (n, (remote, joins_ms)) in remotes.iter().enumerate() {
            world.join_after(ms(*joins_ms), n as u16, remote.clone());
        }
        let tip = checkpoint(main[main.len() - 1].header());
        let there = world.run(Duration::from_secs(1_800), |world| world.chain.head_checkpoint() == tip);
        prop_assert!(there, "{:?} {:?}", world.core.progress(world.now), world.tally.offences);
        let took = world.elapsed();
        prop_assert!(took < Duration::from_secs(400), "{took:?}");
        let blamed = world.tally.offences.iter().any(|(peer, _)| *peer == sync_world::chain::peer(1_000));
        prop_assert!(!blamed, "the honest peer is blamed: {:?}", world.tally.offences);
        for (n, (remote, _)) in remotes.iter().enumerate() {
            let fair = matches!(
                remote.conduct,
                Conduct::Honest | Conduct::Silent | Conduct::Resets(_) | Conduct::Dies(_) | Conduct::NoHeaders
            );
            let blamed = world.tally.offences.iter().any(|(peer, _)| *peer == sync_world::chain::peer(n as u16));
            prop_assert!(!(fair && blamed), "{:?} is blamed: {:?}", remote.conduct, world.tally.offences);
        }
    }

    #[test]
    fn peers_that_come_and_go_leave_nothing_behind(
        stays in proptest::collection::vec((conduct(), 0..5_000u64, 1..3_000u64), 1..30),
    ) {
        let mut world = World::new(&[]);
        world.bans = false;
        for (n, (conduct, joins_ms, stays_ms)) in stays.iter().enumerate() {
            let peer = world.join_after(ms(*joins_ms), n as u16, Remote::honest(&chains().main).with(*conduct));
            world.leave_after(ms(joins_ms + stays_ms), peer);
        }
        world.run(Duration::from_secs(60), |_| false);
        let progress = world.core.progress(world.now);
        prop_assert_eq!(progress.state, SyncState::NoPeers);
        prop_assert_eq!((progress.headers_ahead, progress.window_bytes, progress.peers_serving), (0, 0, 0));
        prop_assert_eq!(world.core.relay_load(), (0, 0, 0));
        prop_assert!(world.core.next_deadline().is_none(), "nothing is waited for without peers");
    }
}

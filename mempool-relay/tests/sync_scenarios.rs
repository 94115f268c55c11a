//! Catching up, among peers that help and peers that do not.

#![allow(clippy::print_stdout)]

mod sync_world;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use ghost_mempool_relay::sync::{Offence, SyncState};
use ghost_proto::{BlockId, Checkpoint};
use sync_world::{
    Conduct, Remote, World,
    chain::{Blocks, ROOT, checkpoint, fork, grow, seal},
    ms,
};

const MINUTE: Duration = Duration::from_secs(60);

/// 3,000 blocks of about 4.4 KB.
fn long() -> &'static Blocks {
    static CHAIN: OnceLock<Blocks> = OnceLock::new();
    CHAIN.get_or_init(|| Arc::new(grow(ROOT, 3_000, 0, 4_000)))
}

fn short() -> Blocks {
    Arc::new(long()[..200].to_vec())
}

#[test]
fn a_node_behind_catches_up_and_says_so() {
    let mut world = World::new(&[]);
    world.join(1, Remote::honest(long()));
    assert!(world.run_to_height(MINUTE, 3_000), "{:?}", world.tally);
    assert!(world.run(MINUTE, |world| world.tally.states.last() == Some(&SyncState::Synced)));
    assert_eq!(world.tally.states, [SyncState::Syncing, SyncState::Synced]);
    assert_eq!(world.tally.imports, 3_000);
    assert_eq!(world.tally.blocks_received, 3_000, "nothing is fetched twice");
    world.run(ms(500), |_| false);
    assert_eq!(world.tally.certificates_asked, 2, "at the start and at the target");
    let progress = world.core.progress(world.now);
    assert_eq!((progress.height, progress.target, progress.headers_ahead), (3_000, 3_000, 0));
    assert!(progress.blocks_per_second > 100.0, "{progress:?}");
}

#[test]
fn a_node_with_a_slow_clock_follows_as_far_as_its_clock_allows_and_does_not_call_itself_in_step() {
    let mut world = World::new(&[]);
    // In the middle of an answer: 512 headers come at once.
    world.chain.clock = 1_375;
    world.join(1, Remote::honest(long()));
    assert!(world.run_to_height(MINUTE, 1_375), "{:?}", world.tally);
    world.run(ms(5_000), |_| false);
    assert_eq!(world.tally.states, [SyncState::Syncing]);
    let seconds = world.elapsed().as_secs() as usize;
    // The three answers on the way, and at most two in a second after them.
    assert!(world.tally.headers_received <= (3 + 2 * seconds) * 512, "{:?}", world.tally);
    world.chain.clock = 1_380;
    assert!(world.run_to_height(ms(2_500), 1_380));
    world.chain.clock = u64::MAX;
    assert!(world.run_to_height(MINUTE, 3_000));
    assert!(world.run(MINUTE, |world| world.tally.states.last() == Some(&SyncState::Synced)));
    assert!(world.tally.offences.is_empty());
}

#[test]
fn after_a_restart_it_goes_on_where_it_was() {
    let mut world = World::new(&long()[..2_900]);
    world.join(1, Remote::honest(long()));
    assert!(world.run_to_height(MINUTE, 3_000));
    assert_eq!(world.tally.imports, 100);
    assert!(world.tally.headers_received <= 100 + 16, "{}", world.tally.headers_received);
}

#[test]
fn a_longer_branch_is_found_below_our_head() {
    let main = short();
    let ours = fork(&main, 50, 100, 1, 500);
    let mut world = World::new(&ours);
    world.join(1, Remote::honest(&main));
    assert!(world.run_to_height(MINUTE, 200));
    assert_eq!(world.chain.head_checkpoint(), checkpoint(main[199].header()));
}

#[test]
fn the_tip_that_was_caught_up_to_is_announced_once() {
    let mut world = World::new(&[]);
    world.join(1, Remote::honest(&short()));
    world.join(2, Remote { claim: Some(ROOT), ..Remote::honest(&Arc::new(Vec::new())) });
    assert!(world.run(MINUTE, |world| world.tally.states.last() == Some(&SyncState::Synced)
        && world.chain.height() == 200));
    assert_eq!(world.tally.announced, [checkpoint(short()[199].header())]);
}

#[test]
fn headers_whose_bodies_nobody_has_are_dropped_and_the_next_chain_is_taken() {
    let nowhere = Arc::new(grow(ROOT, 1_000, 3, 0));
    let mut world = World::new(&[]);
    let liar = world.join(1, Remote::honest(&nowhere).with(Conduct::NoBodies));
    world.join(2, Remote { outbound: false, ..Remote::honest(&short()) });
    assert!(world.run_to_height(MINUTE, 200));
    assert!(world.tally.offences.contains(&(liar, Offence::BodiesWithheld)));
    assert!(world.elapsed() < Duration::from_secs(3), "{:?}", world.elapsed());
}

fn sync_time(fast: u64, slow_peers: u16, slow: u64) -> (Duration, World) {
    let mut world = World::new(&[]);
    world.join(1, Remote { bytes_per_second: fast, ..Remote::honest(long()) });
    for n in 0..slow_peers {
        let remote = Remote { bytes_per_second: slow, rtt: ms(200), ..Remote::honest(long()) };
        world.join(2 + n, remote);
    }
    assert!(world.run_to_height(60 * MINUTE, 3_000), "{:?}", world.core.progress(world.now));
    (world.elapsed(), world)
}

#[test]
fn scenario_29_seven_slow_peers_do_not_hold_back_a_fast_one() {
    let fast = 2_000_000;
    let (alone, _) = sync_time(fast, 0, 0);
    for slow in [1_000, 10_000, 50_000, 200_000, 1_000_000] {
        let (together, world) = sync_time(fast, 7, slow);
        let rate = alone.as_secs_f64() / together.as_secs_f64();
        let copies = world.tally.blocks_received as f64 / 3_000.0;
        println!("7 peers of {slow} B/s: {rate:.2} of {alone:?} alone, {copies:.3} copies");
        assert!(rate >= 0.8, "{rate:.2} with peers of {slow} B/s");
        assert!(copies < 1.1, "{copies:.3} copies");
        assert!(world.tally.offences.is_empty(), "slow is no offence");
    }
}

#[test]
fn eight_equal_peers_add_up() {
    let (alone, _) = sync_time(500_000, 0, 0);
    let (together, world) = sync_time(500_000, 7, 500_000);
    let gain = alone.as_secs_f64() / together.as_secs_f64();
    println!("8 equal peers: {gain:.2} times one, {} copies", world.tally.blocks_received);
    assert!(gain > 5.0, "{gain:.2}");
}

#[test]
fn scenario_29_a_peer_that_answers_with_nothing_loses_its_slot() {
    let mut world = World::new(&[]);
    let nothing = world.join(1, Remote::honest(long()).with(Conduct::NoBodies));
    let honest = world.join(2, Remote { outbound: false, ..Remote::honest(long()) });
    assert!(world.run_to_height(MINUTE, 3_000));
    let asked = |peer| world.tally.asked[&peer];
    assert!(asked(nothing) < 20, "asked {} times", asked(nothing));
    assert!(asked(honest) > 2 * asked(nothing));
}

#[test]
fn a_silent_peer_at_the_front_is_passed_within_seconds() {
    let mut world = World::new(&[]);
    world.join(1, Remote::honest(long()).with(Conduct::SilentBodies));
    world.join(2, Remote { outbound: false, ..Remote::honest(long()) });
    let (alone, _) = sync_time(4_000_000, 0, 0);
    assert!(world.run_to_height(MINUTE, 3_000));
    assert!(world.elapsed() < alone + Duration::from_secs(2), "{:?} against {alone:?}", world.elapsed());
}

#[test]
fn who_lies_about_its_height_is_asked_once_and_not_punished() {
    let mut world = World::new(&short());
    let tall = Checkpoint { height: 1 << 40, id: BlockId([1; 32]) };
    let liar = world.join(1, Remote { claim: Some(tall), ..Remote::honest(&short()) });
    world.run(Duration::from_secs(20), |_| false);
    assert!(world.tally.offences.is_empty());
    assert_eq!(world.tally.states.last(), Some(&SyncState::Synced));
    assert_eq!(world.tally.asked[&liar], 1 + world.tally.certificates_asked);
}

#[test]
fn invalid_headers_blame_who_served_them_and_another_is_followed() {
    let mut world = World::new(&[]);
    let liar = world.join(1, Remote::honest(long()).with(Conduct::BrokenSeals));
    let honest = world.join(2, Remote { outbound: false, ..Remote::honest(&short()) });
    assert!(world.run_to_height(MINUTE, 200));
    assert_eq!(world.tally.offences.iter().collect::<Vec<_>>(), [&(liar, Offence::InvalidChain)]);
    assert!(world.is_connected(&honest));
}

#[test]
fn an_invalid_block_ends_its_chain_and_blames_who_served_the_headers() {
    let main = short();
    let other = fork(&main, 100, 150, 1, 500);
    let mut world = World::new(&[]);
    world.chain.invalid.insert(other[120].header().id());
    let liar = world.join(1, Remote::honest(&other));
    let second = world.join(2, Remote { outbound: false, ..Remote::honest(&other) });
    let honest = world.join(3, Remote { outbound: false, ..Remote::honest(&main) });
    assert!(world.run(MINUTE, |world| world.chain.head_checkpoint() == checkpoint(main[199].header())));
    world.run(Duration::from_secs(10), |_| false);
    assert!(world.tally.offences.contains(&(liar, Offence::InvalidChain)), "{:?}", world.tally.offences);
    assert!(world.tally.offences.contains(&(second, Offence::InvalidChain)), "its header alone tells");
    assert!(world.tally.offences.iter().all(|(peer, _)| *peer != honest));
}

#[test]
fn a_false_body_blames_its_sender_and_the_block_comes_from_another() {
    let mut world = World::new(&[]);
    let liar = world.join(1, Remote::honest(long()).with(Conduct::Mutates));
    world.join(2, Remote { outbound: false, ..Remote::honest(long()) });
    assert!(world.run_to_height(MINUTE, 3_000));
    assert_eq!(world.tally.offences.iter().collect::<Vec<_>>(), [&(liar, Offence::MutatedBody)]);
}

#[test]
fn import_sets_the_pace() {
    let mut world = World::new(&[]);
    world.import_time = ms(10);
    world.join(1, Remote { bytes_per_second: 100_000_000, ..Remote::honest(long()) });
    assert!(world.run_to_height(MINUTE, 3_000));
    let busy = Duration::from_secs(30).as_secs_f64() / world.elapsed().as_secs_f64();
    assert!(busy > 0.98, "import was busy {busy:.2} of the time");
}

#[test]
fn blocks_announced_while_catching_up_extend_the_window() {
    let mut world = World::new(&[]);
    let start = Arc::new(long()[..2_950].to_vec());
    let honest = world.join(1, Remote { bytes_per_second: 1_000_000, ..Remote::honest(&start) });
    // It grows: from here on it is asked for blocks that it announced one by one.
    let mut remote = Remote::honest(long());
    remote.claim = Some(checkpoint(long()[2_949].header()));
    let second = world.join(2, remote);
    for (n, block) in long()[2_950..].iter().enumerate() {
        world.announce_after(ms(1_000 + 20 * n as u64), second, block.header());
    }
    assert!(world.run_to_height(MINUTE, 3_000), "{:?}", world.core.progress(world.now));
    assert!(world.is_connected(&honest) && world.tally.offences.is_empty());
}

#[test]
fn scenario_16_a_tip_that_stands_still_is_reported_and_peers_are_challenged() {
    let mut world = World::new(&short());
    let stale = world.join(1, Remote::honest(&short()));
    world.run(ms(29_990), |_| false);
    assert_eq!(world.tally.tip_stale, 0);
    let asked = world.tally.asked[&stale];
    world.run(ms(200), |_| false);
    assert_eq!(world.tally.tip_stale, 1);
    assert_eq!(world.tally.asked[&stale], asked + 1, "asked for news");
    assert!(world.tally.offences.is_empty());
    // The extra outbound peer knows better.
    world.join(2, Remote::honest(long()));
    assert!(world.run_to_height(MINUTE, 3_000));
}

#[test]
fn large_blocks_stay_within_the_window_of_bytes() {
    let blocks: Blocks = Arc::new(grow(ROOT, 24, 0, 6_000_000));
    let mut world = World::new(&[]);
    world.import_time = ms(200);
    for n in 0..4 {
        world.join(n, Remote { bytes_per_second: 20_000_000, ..Remote::honest(&blocks) });
    }
    assert!(world.run_to_height(MINUTE, 24));
    assert!(world.tally.window_bytes_max > 48 << 20, "{}", world.tally.window_bytes_max);
}

#[test]
fn one_block_behind_is_enough() {
    let main = short();
    let mut world = World::new(&main);
    let honest = world.join(1, Remote::honest(&main));
    world.run(ms(500), |_| false);
    // The announcement of the block before was lost.
    let tip = checkpoint(main[199].header());
    let one = seal(tip, 0, 300);
    let two = seal(checkpoint(one.header()), 0, 300);
    let mut grown = main.to_vec();
    grown.extend([one, Arc::clone(&two)]);
    world.leave_after(Duration::ZERO, honest);
    let again = world.join_after(ms(1), 1, Remote { claim: Some(tip), ..Remote::honest(&Arc::new(grown)) });
    world.announce_after(ms(100), again, two.header());
    assert!(world.run_to_height(ms(2_000), 202));
}

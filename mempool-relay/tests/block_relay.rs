//! New blocks: who is told, who is sent the body, who is asked.

#![allow(clippy::print_stdout)]

mod block_node;
mod sync_world;

use std::time::Duration;

use block_node::{Node, asked, cancels, imports, large, offences, requests, told};
use ghost_mempool_relay::{
    block::{fetch::*, relay::*},
    sync::{Effect, HeaderVerdict, ImportOutcome, Input, Offence, RequestEnd, SyncState},
};
use ghost_proto::block::HEADER_LEN;
use sync_world::{
    chain::{ROOT, checkpoint, grow, peer, seal},
    ms, mutated,
};

#[test]
fn a_large_block_is_announced_to_all_who_do_not_have_it_before_it_is_executed() {
    let mut node = Node::with_peers(6);
    let block = large();
    let [(_, request)] = requests(&node.announce(0, block.header()))[..] else { panic!("asked") };
    let second = node.announce(1, block.header());
    assert!(second.is_empty(), "one source is enough: {second:?}");
    let effects = node.fetched(request, &block);
    let (pushed, announced) = told(&effects);
    assert!(pushed.is_empty());
    assert_eq!(announced, [2, 3, 4, 5].map(peer));
    assert_eq!(imports(&effects), [block.header().id()]);
    let order = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted);
    assert!(
        order(|e| matches!(e, Effect::Announce { .. })) < order(|e| matches!(e, Effect::Import { .. })),
        "told first, executed then"
    );
    // It can be served from now on, and until the store has it.
    assert!(node.core.block(&block.header().id()).is_some());
    assert!(told(&node.imported(&block)).1.is_empty(), "nobody is told twice");
    assert!(node.core.block(&block.header().id()).is_none());
    assert_eq!(node.core.relay_load(), (0, 0, 0));
}

#[test]
fn a_small_block_is_pushed_whole_to_three_and_announced_to_the_rest() {
    let mut node = Node::with_peers(8);
    let effects = node.push(7, &seal(ROOT, 0, 300));
    let (pushed, announced) = told(&effects);
    assert_eq!(pushed, [0, 1, 2].map(peer), "no merit yet: the nearest");
    assert_eq!(announced, [3, 4, 5, 6].map(peer));
}

#[test]
fn whole_pushes_end_at_their_bound() {
    for (payload, whole) in [(13_500, true), (13_900, false)] {
        let block = seal(ROOT, 0, payload);
        let bytes = HEADER_LEN + block.header().body_bytes as usize;
        assert_eq!(bytes <= WHOLE_PUSH_BYTES_MAX, whole, "{bytes}");
        let mut node = Node::with_peers(2);
        assert_eq!(told(&node.push(0, &block)).0.is_empty(), !whole);
    }
}

#[test]
fn merit_is_earned_by_first_deliveries_and_one_of_the_pushed_is_outbound() {
    let mut node = Node::new();
    for n in 0..8 {
        node.up(n, n == 7);
    }
    let mut tip = ROOT;
    for _ in 0..5 {
        for n in [4, 5, 6] {
            let block = seal(tip, 0, 300);
            tip = checkpoint(block.header());
            node.push(n, &block);
            node.imported(&block);
        }
    }
    let block = seal(tip, 0, 300);
    let (pushed, announced) = told(&node.push(0, &block));
    assert_eq!(pushed, [6, 5, 7].map(peer), "the latest first; the third gives way to an outbound peer");
    assert_eq!(announced, [1, 2, 3, 4].map(peer));
}

#[test]
fn what_we_make_goes_out_at_once_and_is_not_imported() {
    let mut node = Node::with_peers(5);
    let effects = node.give(Input::Produced { block: seal(ROOT, 0, 300), fresh: Vec::new() });
    let (pushed, announced) = told(&effects);
    assert_eq!((pushed.len(), announced.len()), (3, 2));
    assert!(imports(&effects).is_empty());
}

#[test]
fn scenario_26_a_mutated_block_does_not_shut_out_the_honest_one() {
    let block = large();
    // Fetched.
    let mut node = Node::with_peers(4);
    let [(_, request)] = requests(&node.announce(0, block.header()))[..] else { panic!("asked") };
    let effects = node.give(Input::Fetched { request, block: mutated(&block) });
    assert_eq!(offences(&effects), [(peer(0), Offence::MutatedBody)]);
    assert!(imports(&effects).is_empty() && told(&effects).1.is_empty(), "it goes nowhere");
    let [(from, request)] = requests(&node.announce(1, block.header()))[..] else { panic!("asked") };
    assert_eq!(from, peer(1));
    let effects = node.fetched(request, &block);
    assert_eq!(imports(&effects), [block.header().id()]);
    assert!(offences(&effects).is_empty());
    // Fetched, with the honest announcer already known.
    let mut node = Node::with_peers(4);
    let [(_, request)] = requests(&node.announce(0, block.header()))[..] else { panic!("asked") };
    node.announce(1, block.header());
    let effects = node.give(Input::Fetched { request, block: mutated(&block) });
    assert_eq!(asked(&effects), [peer(1)], "the next is asked at once");
    assert!(
        asked(&node.wait(ms(30_000))).iter().all(|again| *again == peer(1)),
        "the liar is not asked again"
    );
    // Pushed.
    let mut node = Node::with_peers(4);
    let effects =
        node.give(Input::Pushed { peer: peer(0), block: mutated(&block), verdict: HeaderVerdict::Good });
    assert_eq!(offences(&effects), [(peer(0), Offence::MutatedBody)]);
    let effects = node.push(1, &block);
    assert_eq!(imports(&effects), [block.header().id()]);
}

#[test]
fn scenario_27_a_second_source_is_asked_after_a_second_of_silence() {
    let block = large();
    let mut node = Node::with_peers(6);
    assert_eq!(asked(&node.announce(0, block.header())), [peer(0)]);
    for n in 1..6 {
        assert!(asked(&node.announce(n, block.header())).is_empty());
    }
    assert!(asked(&node.wait(SECOND_SOURCE_AFTER - ms(1))).is_empty(), "not a millisecond early");
    let effects = node.wait(ms(1));
    assert_eq!(asked(&effects), [peer(1)]);
    assert!(cancels(&effects).is_empty(), "in parallel");
    assert!(asked(&node.wait(ms(999))).is_empty());
    assert_eq!(asked(&node.wait(ms(1))), [peer(2)]);
    // Three at a time; then those who stalled give way, and nobody is excluded for good.
    let mut all = asked(&node.wait(Duration::from_secs(60)));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, [0, 1, 2, 3, 4, 5].map(peer));
}

#[test]
fn scenario_27_progress_keeps_the_first_source_alone_and_a_trickle_does_not() {
    let block = seal(ROOT, 0, 4_000_000);
    for (bytes_per_step, alone) in [(PROGRESS_BYTES_MIN, true), (PROGRESS_BYTES_MIN - 1, false)] {
        let mut node = Node::with_peers(2);
        let [(_, request)] = requests(&node.announce(0, block.header()))[..] else { panic!("asked") };
        node.announce(1, block.header());
        // The first step falls just before a second has passed, the next ones likewise.
        let mut effects = node.wait(ms(999));
        effects.extend(node.give(Input::Progress { request, bytes: bytes_per_step }));
        effects.extend(node.wait(ms(999)));
        assert_eq!(asked(&effects).is_empty(), alone, "{bytes_per_step} bytes in a step");
    }
}

#[test]
fn failure_moves_on_at_once_and_comes_back_after_a_pause() {
    let block = large();
    let mut node = Node::with_peers(2);
    let [(_, request)] = requests(&node.announce(0, block.header()))[..] else { panic!("asked") };
    let effects = node.give(Input::Ended { request, end: RequestEnd::Busy });
    assert!(asked(&effects).is_empty(), "nobody else has it");
    assert!(asked(&node.wait(RETRY_AFTER - ms(1))).is_empty());
    let [(again, request)] = requests(&node.wait(ms(1)))[..] else { panic!("asked again") };
    assert_eq!(again, peer(0));
    node.announce(1, block.header());
    let effects = node.give(Input::Ended { request, end: RequestEnd::Done });
    assert_eq!(asked(&effects), [peer(1)]);
    assert!(offences(&effects).is_empty(), "it may have pruned, reorganised or be busy");
}

#[test]
fn the_losers_of_a_race_are_cancelled() {
    let block = large();
    let mut node = Node::with_peers(3);
    let [(_, first)] = requests(&node.announce(0, block.header()))[..] else { panic!("asked") };
    node.announce(1, block.header());
    let [(_, second)] = requests(&node.wait(SECOND_SOURCE_AFTER))[..] else { panic!("asked") };
    let effects = node.fetched(second, &block);
    assert_eq!(cancels(&effects), [first, second], "the answer that came needs no more either");
    assert!(node.fetched(first, &block).is_empty(), "late, and no offence");
}

#[test]
fn a_block_waits_for_its_parent_and_follows_it_into_import() {
    let one = large();
    let two = seal(checkpoint(one.header()), 0, 300);
    let three = seal(checkpoint(two.header()), 0, 300);
    let mut node = Node::with_peers(3);
    let [(_, request)] = requests(&node.announce(0, one.header()))[..] else { panic!("asked") };
    for block in [&two, &three] {
        let effects = node.push(1, block);
        assert!(imports(&effects).is_empty(), "its parent is on its way");
        assert!(!told(&effects).0.is_empty(), "and it is passed on meanwhile");
    }
    let ids = [&one, &two, &three].map(|block| block.header().id());
    assert_eq!(imports(&node.fetched(request, &one)), ids);
    for block in [&one, &two, &three] {
        node.imported(block);
    }
    assert_eq!(node.core.relay_load(), (0, 0, 0));
    assert_eq!(node.chain.height(), 3);
}

#[test]
fn an_unknown_parent_is_left_to_sync() {
    let blocks = grow(ROOT, 2, 0, 300);
    let mut node = Node::with_peers(1);
    let effects = node.announce(0, blocks[1].header());
    assert!(asked(&effects).is_empty());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::RequestHeaders { .. })), "{effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::State(SyncState::Syncing))));
}

#[test]
fn when_the_only_announcer_of_a_parent_leaves_the_child_goes_to_sync() {
    let one = large();
    let two = seal(checkpoint(one.header()), 0, 300);
    let mut node = Node::with_peers(2);
    node.announce(0, one.header());
    node.push(1, &two);
    let effects = node.give(Input::PeerDown { peer: peer(0) });
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::RequestHeaders { peer, .. } => Some(*peer),
        _ => None,
    });
    assert_eq!(asked, Some(peer(1)));
    assert_eq!(node.core.relay_load(), (0, 0, 0));
}

#[test]
fn an_invalid_header_is_its_announcers_offence_and_others_are_none() {
    let mut node = Node::with_peers(1);
    let block = large();
    for (verdict, blamed) in [
        (HeaderVerdict::Invalid, true),
        (HeaderVerdict::Known, false),
        (HeaderVerdict::Ignore, false),
        (HeaderVerdict::UnknownParent, false),
    ] {
        let effects = node.give(Input::Announced { peer: peer(0), header: block.header().clone(), verdict });
        assert_eq!(!offences(&effects).is_empty(), blamed, "{verdict:?}");
        assert!(asked(&effects).is_empty());
    }
}

#[test]
fn a_block_that_fails_to_execute_is_not_its_relayers_offence_and_is_not_fetched_again() {
    let mut node = Node::with_peers(3);
    let block = large();
    node.push(0, &block);
    let child = seal(checkpoint(block.header()), 0, 20_000);
    assert_eq!(asked(&node.announce(1, child.header())), [peer(1)]);
    let id = block.header().id();
    let effects = node.give(Input::Imported { id, outcome: ImportOutcome::Invalid });
    assert!(offences(&effects).is_empty());
    assert_eq!(cancels(&effects).len(), 1, "what stands on it is not wanted either");
    assert_eq!(node.core.relay_load(), (0, 0, 0));
    assert!(asked(&node.announce(2, block.header())).is_empty());
}

#[test]
fn two_blocks_of_a_slot_are_passed_on_and_a_third_is_not() {
    let mut node = Node::with_peers(3);
    let siblings: Vec<_> = (0..3).map(|n| seal(ROOT, 0, 20_000 + n)).collect();
    let passed: Vec<bool> =
        siblings.iter().map(|block| !asked(&node.announce(0, block.header())).is_empty()).collect();
    assert_eq!(passed, [true, true, false]);
    assert!(told(&node.push(1, &siblings[2])).1.is_empty());
    assert_eq!(SIBLINGS_PER_SLOT_MAX, 2);
}

#[test]
fn a_flood_of_announcements_is_bounded_for_each_peer_and_the_newest_stay() {
    let mut node = Node::with_peers(2);
    let blocks = grow(ROOT, ANNOUNCED_PER_PEER_MAX * 4, 0, 20_000);
    let siblings: Vec<_> = (1..=ANNOUNCED_PER_PEER_MAX as u64 + 8)
        .map(|n| {
            // All on the root, each in a slot of its own.
            let far = checkpoint(blocks[n as usize - 1].header());
            seal(ghost_proto::Checkpoint { height: far.height, id: ROOT.id }, 1, 20_000)
        })
        .collect();
    for (n, block) in siblings.iter().enumerate() {
        let header = block.header().clone();
        node.give(Input::Announced { peer: peer(0), header, verdict: HeaderVerdict::Good });
        assert_eq!(node.core.relay_load().0, (n + 1).min(ANNOUNCED_PER_PEER_MAX));
    }
    // Another peer's share is its own.
    let block = seal(ROOT, 7, 20_000);
    assert_eq!(asked(&node.announce(1, block.header())), [peer(1)]);
    assert_eq!(node.core.relay_load().0, ANNOUNCED_PER_PEER_MAX + 1);
    node.give(Input::PeerDown { peer: peer(0) });
    node.give(Input::PeerDown { peer: peer(1) });
    assert_eq!(node.core.relay_load(), (0, 0, 0));
    assert_eq!(node.core.next_deadline(), None);
}

#[test]
fn blocks_that_wait_for_import_are_bounded() {
    let mut node = Node::with_peers(2);
    let blocks = grow(ROOT, PENDING_BLOCKS_MAX + 3, 0, 100);
    let handed: usize = blocks.iter().map(|block| imports(&node.push(0, block)).len()).sum();
    assert_eq!(handed, PENDING_BLOCKS_MAX);
    assert_eq!(node.core.relay_load().1, PENDING_BLOCKS_MAX);
}

#[test]
fn large_blocks_that_wait_for_import_are_bounded_in_bytes() {
    let mut node = Node::with_peers(2);
    let blocks = grow(ROOT, 5, 0, 20_000_000);
    let handed: usize = blocks.iter().map(|block| imports(&node.push(0, block)).len()).sum();
    assert_eq!(handed, 3, "3 × 20 MB fit into 64 MiB, 4 do not");
    assert!(node.core.relay_load().2 <= PENDING_BYTES_MAX);
}

#[test]
fn no_peer_gets_more_requests_at_once_than_it_serves() {
    let mut node = Node::with_peers(1);
    let mut open = 0;
    for fork in 0..8 {
        open += asked(&node.announce(0, seal(ROOT, fork, 20_000).header())).len();
    }
    assert_eq!(open, FETCHES_PER_PEER_MAX);
}

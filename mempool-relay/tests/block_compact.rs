//! Blocks by short ids: put together from the pool, completed by others, passed on before they are whole.

mod block_node;
mod sync_world;

use std::{sync::Arc, time::Duration};

use block_node::{
    Node, asked, cancels, compacts, imports, look_ups, offences, places, requests, short, told, wholes,
};
use bytes::Bytes;
use ghost_frames::compact::{COMPACT_ID_LEN, PlacedTransaction};
use ghost_mempool_relay::{
    block::{Received, ShortIds, favour::*, fetch::*, relay::*},
    sync::{Effect, HeaderVerdict, Input, Offence, RequestEnd},
};
use ghost_proto::{Block, Header, SignedTransaction, limits::COMPACT_PREFILL_BYTES_MAX};
use sync_world::{
    chain::{ROOT, checkpoint, many, peer, seal_of},
    ms, mutated,
};

/// A block of `count` transactions of about 330 bytes.
fn block(count: usize) -> Arc<Block> {
    seal_of(ROOT, 0, many(count, 160))
}

/// All of the block's transactions but those at `lacks`.
fn pool(block: &Block, lacks: &[usize]) -> Vec<SignedTransaction> {
    let all = block.transactions().iter().enumerate();
    all.filter(|(at, _)| !lacks.contains(at)).map(|(_, tx)| tx.clone()).collect()
}

fn push_mode(node: &mut Node, peers: &[u16]) {
    for n in peers {
        node.give(Input::RelayMode { peer: peer(*n), push: true });
    }
}

#[test]
fn a_block_whose_transactions_we_have_needs_no_round_trip() {
    let block = block(100);
    let mut node = Node::with_peers(4);
    push_mode(&mut node, &[2]);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[]));
    assert_eq!(imports(&effects), [block.header().id()]);
    assert!(asked(&effects).is_empty() && places(&effects).is_empty());
    // Passed on before it is executed: compact to who asked for it, by header to the others.
    let [(pushed, compact, false)] = &compacts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(pushed[..], [peer(2)]);
    assert!(compact.prefilled.is_empty(), "we lacked nothing");
    assert_eq!(told(&effects).1, [1, 3].map(peer));
    let at = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted);
    assert!(
        at(|e| matches!(e, Effect::PushCompact { .. })) < at(|e| matches!(e, Effect::Import { .. })),
        "told first, executed then"
    );
    let stats = node.core.block_stats();
    assert_eq!((stats.compact, stats.rebuilt_at_once, stats.whole), (1, 1, 0));
    assert_eq!((stats.transactions_found, stats.transactions_lacked), (100, 0));
}

#[test]
fn what_is_missing_is_asked_for_by_place_and_passed_on_whole() {
    let block = block(100);
    let mut node = Node::with_peers(4);
    push_mode(&mut node, &[1, 2]);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[3, 50, 99]));
    let [(from, request, wanted)] = &places(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((*from, &wanted[..]), (peer(0), &[3, 50, 99][..]));
    // Cut-through: it is on its way to the next before it is complete here.
    let [(pushed, _, true)] = &compacts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(pushed[..], [1, 2].map(peer));
    assert!(imports(&effects).is_empty() && told(&effects).1.is_empty());
    // In two parts, as an upstream sends that waits itself.
    assert!(imports(&node.placed(*request, &block, &[3, 99])).is_empty());
    let effects = node.placed(*request, &block, &[50]);
    assert_eq!(imports(&effects), [block.header().id()]);
    assert_eq!(told(&effects).1, [peer(3)], "nobody is told twice");
    assert!(offences(&effects).is_empty());
    assert_eq!(node.core.relay_load().0, 0);
}

#[test]
fn what_we_had_to_get_stands_whole_in_what_we_pass_on_up_to_the_bound() {
    let block = block(1_000);
    let lacks: Vec<usize> = (0..500).map(|n| 2 * n).collect();
    let mut node = Node::with_peers(2);
    push_mode(&mut node, &[1]);
    let effects = node.compact_with(0, short(&block), &pool(&block, &lacks));
    assert!(compacts(&effects).is_empty(), "half is missing: too much to be passed on now");
    let asked = places(&effects);
    assert_eq!(asked.iter().map(|(.., places)| places.len()).sum::<usize>(), 500);
    let mut last = Vec::new();
    for (_, request, places) in asked {
        last = node.placed(request, &block, &places);
    }
    let [(_, compact, false)] = &compacts(&last)[..] else { panic!("{last:?}") };
    let bytes: usize = compact.prefilled.iter().map(|placed| placed.transaction.bytes().len() + 4).sum();
    assert!(bytes <= COMPACT_PREFILL_BYTES_MAX && bytes + 400 > COMPACT_PREFILL_BYTES_MAX, "{bytes}");
    assert!(compact.prefilled.iter().all(|placed| placed.index % 2 == 0));
    assert_eq!(compact.short_ids.len(), (1_000 - compact.prefilled.len()) * COMPACT_ID_LEN);
    // It is true: the next one puts it together.
    let mut next = Node::with_peers(1);
    let have: Vec<_> = block.transactions().to_vec();
    let effects = next.compact_with(0, compact.as_ref().clone(), &have);
    assert_eq!(imports(&effects), [block.header().id()]);
}

#[test]
fn passing_on_before_it_is_complete_ends_at_its_bound() {
    let block = block(100);
    for (lacks, passed) in [(25, true), (26, false)] {
        let mut node = Node::with_peers(2);
        push_mode(&mut node, &[1]);
        let lacks: Vec<usize> = (0..lacks).collect();
        let effects = node.compact_with(0, short(&block), &pool(&block, &lacks));
        assert_eq!(!compacts(&effects).is_empty(), passed, "{} missing", lacks.len());
    }
}

#[test]
fn with_hardly_any_of_it_in_the_pool_a_block_is_asked_for_whole() {
    let block = block(100);
    for (have, by_place) in [(10, true), (9, false)] {
        let mut node = Node::with_peers(2);
        let lacks: Vec<usize> = (have..100).collect();
        let effects = node.compact_with(0, short(&block), &pool(&block, &lacks));
        assert_eq!(places(&effects).is_empty(), !by_place, "{have} in the pool");
        assert_eq!(wholes(&effects).is_empty(), by_place, "{have} in the pool");
    }
}

#[test]
fn a_node_without_a_pool_stops_asking_for_short_ids_and_comes_back_to_them() {
    let mut node = Node::with_peers(2);
    let mut tip = ROOT;
    let mut by_header = Vec::new();
    for n in 0..16 {
        // Every other block is announced by header by a favoured peer, the others are pushed.
        let block = seal_of(tip, 0, many(60, 160 + n));
        tip = checkpoint(block.header());
        let effects = if n % 2 == 0 {
            let have = if n < 10 { Vec::new() } else { pool(&block, &[]) };
            node.compact_with(0, short(&block), &have)
        } else {
            let effects = node.announce(0, block.header());
            by_header.push(wholes(&effects).is_empty());
            effects
        };
        for (_, request) in requests(&effects) {
            node.fetched(request, &block);
        }
        node.imported(&block);
    }
    assert_eq!(by_header[..3], [true; 3], "compact at first");
    assert_eq!(by_header[3..], [true, false, true, true, true], "whole after five without a hit");
}

#[test]
fn scenario_25_colliding_short_ids_lead_to_the_full_block_from_another_peer() {
    let block = block(100);
    // A transaction of the pool answers to the short id of one in the block. With 48 bits nobody finds one for
    // a test, so the sender of the compact block says that one of ours is in the block.
    let stranger = many(101, 170).pop().expect("one");
    let mut with = block.transactions().to_vec();
    with[40] = stranger.clone();
    let names = seal_of(ROOT, 1, with.clone());
    let named: Vec<SignedTransaction> = names.transactions().to_vec();
    let mut compact = short(&block);
    let forged = forge(&block, 40, &stranger);
    compact.short_ids = forged;
    let mut node = Node::with_peers(3);
    push_mode(&mut node, &[2]);
    let mut have = pool(&block, &[40]);
    have.push(stranger);
    let effects = node.compact_with(0, compact, &have);
    assert!(imports(&effects).is_empty() && compacts(&effects).is_empty(), "it is not the block");
    let [(from, _)] = wholes(&effects)[..] else { panic!("the full block: {effects:?}") };
    assert_eq!(from, peer(0), "nobody else is known to have it");
    // Another announces it: it is asked when the first is silent, and the honest copy is taken.
    node.announce(1, block.header());
    let effects = node.wait(SECOND_SOURCE_AFTER);
    let [(from, request)] = wholes(&effects)[..] else { panic!("a second source: {effects:?}") };
    assert_eq!(from, peer(1));
    let effects = node.fetched(request, &block);
    assert_eq!(imports(&effects), [block.header().id()]);
    assert!(offences(&effects).is_empty(), "nobody can say whose fault it was");
    assert_eq!(named.len(), 100);
    // With the other announcer known before, it is asked at once.
    let mut node = Node::with_peers(3);
    let mut compact = short(&block);
    compact.short_ids = forge(&block, 40, &have[99]);
    let begun = node.compact(0, compact);
    node.announce(1, block.header());
    let wanted = look_ups(&begun).pop().expect("looked up");
    let effects = node.give(Input::LookedUp { id: wanted.block(), found: wanted.select(&have) });
    assert_eq!(wholes(&effects).iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [peer(1)]);
}

/// The block's short ids with that of `other` at `place`.
fn forge(block: &Block, place: usize, other: &SignedTransaction) -> Bytes {
    // A block of this transaction alone tells its id under another key; so the ids are made as for a
    // block with the same header, which is what the key is made of.
    let mut transactions = block.transactions().to_vec();
    transactions[place] = other.clone();
    let ids = ShortIds::under(&block.header().id(), 7, &transactions);
    ids.compact(block.header().clone(), []).short_ids
}

#[test]
fn scenario_25_two_transactions_of_the_pool_with_one_short_id_are_asked_for() {
    let block = block(50);
    let ids = ShortIds::of(&block, 7);
    let twice = block.transactions().iter().chain(&block.transactions()[20..21]);
    let found = ids.select(twice);
    assert_eq!(found.count(), 49, "neither is taken");
    let mut node = Node::with_peers(1);
    node.compact(0, short(&block));
    let effects = node.give(Input::LookedUp { id: block.header().id(), found });
    let [(_, request, wanted)] = &places(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(wanted[..], [20]);
    assert_eq!(imports(&node.placed(*request, &block, &[20])), [block.header().id()]);
}

#[test]
fn scenario_25_a_second_compact_block_for_the_same_hash_is_another_source_and_no_more() {
    let block = block(100);
    let mut node = Node::with_peers(3);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[7]));
    assert_eq!(places(&effects).len(), 1);
    let false_one = {
        let mut compact = short(&block);
        compact.short_ids = vec![0xee; compact.short_ids.len()].into();
        compact
    };
    for n in [1, 0, 2] {
        let effects = node.compact(n, false_one.clone());
        assert!(look_ups(&effects).is_empty(), "the pool is gone through once");
        assert!(asked(&effects).is_empty() && offences(&effects).is_empty());
    }
    let effects = node.wait(SECOND_SOURCE_AFTER);
    let [(second, request, wanted)] = &places(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((*second, &wanted[..]), (peer(1), &[7][..]));
    assert_eq!(imports(&node.placed(*request, &block, &[7])), [block.header().id()]);
}

#[test]
fn scenario_25_false_short_ids_cost_one_look_and_the_block_comes_whole() {
    let block = block(100);
    let mut false_one = short(&block);
    false_one.short_ids = vec![0xee; false_one.short_ids.len()].into();
    let mut node = Node::with_peers(3);
    let effects = node.compact_with(0, false_one.clone(), &pool(&block, &[]));
    let [(_, request)] = wholes(&effects)[..] else { panic!("{effects:?}") };
    node.give(Input::Ended { request, end: RequestEnd::Failed });
    // Again and again: the pool is not gone through again.
    for n in [0, 1, 2] {
        assert!(look_ups(&node.compact(n, false_one.clone())).is_empty());
    }
    let all = node.wait(ms(2_000));
    let (from, request) = *wholes(&all).last().expect("asked");
    let effects = node.fetched(request, &block);
    assert_eq!(imports(&effects), [block.header().id()]);
    assert!(offences(&all).is_empty() && offences(&effects).is_empty(), "{from} passed on what it got");
}

#[test]
fn scenario_25_transactions_that_were_not_asked_for_are_an_offence_and_the_rest_comes_from_another() {
    let block = block(100);
    for bad in [4, 100, 1_000_000] {
        let mut node = Node::with_peers(2);
        let effects = node.compact_with(0, short(&block), &pool(&block, &[3, 5]));
        node.announce(1, block.header());
        let [(_, request, _)] = places(&effects)[..] else { panic!("{effects:?}") };
        let transaction = block.transactions()[4].clone();
        let transactions = vec![PlacedTransaction { index: bad, transaction }];
        let effects = node.give(Input::FetchedTransactions { request, transactions });
        assert_eq!(offences(&effects), [(peer(0), Offence::Unrequested)]);
        let [(from, request, wanted)] = &places(&effects)[..] else { panic!("{effects:?}") };
        assert_eq!((*from, &wanted[..]), (peer(1), &[3, 5][..]));
        assert_eq!(imports(&node.placed(*request, &block, &[3, 5])), [block.header().id()]);
    }
}

#[test]
fn scenario_26_a_false_transaction_in_a_compact_block_does_not_shut_out_the_honest_block() {
    let block = block(100);
    let stranger = many(101, 170).pop().expect("one");
    // In the place of a missing one, sent when asked for; or whole in the compact block.
    let mut node = Node::with_peers(2);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[3]));
    node.announce(1, block.header());
    let [(_, request, _)] = places(&effects)[..] else { panic!("{effects:?}") };
    let transactions = vec![PlacedTransaction { index: 3, transaction: stranger.clone() }];
    let effects = node.give(Input::FetchedTransactions { request, transactions });
    let [(from, request)] = wholes(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(from, peer(1), "another peer first");
    assert_eq!(imports(&node.fetched(request, &block)), [block.header().id()]);

    let mut node = Node::with_peers(2);
    let prefilled = ShortIds::of(&block, 7).compact(block.header().clone(), [(3, &stranger)]);
    let effects = node.compact_with(0, prefilled, &pool(&block, &[3]));
    assert!(imports(&effects).is_empty());
    let [(_, request)] = wholes(&effects)[..] else { panic!("{effects:?}") };
    // Even then the one who sent it may be right about the whole.
    let effects = node.fetched(request, &block);
    assert_eq!(imports(&effects), [block.header().id()]);
    assert!(offences(&effects).is_empty());

    // A mutated whole body while the block is being put together: its sender alone is blamed.
    let mut node = Node::with_peers(3);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[3]));
    let [(_, request, _)] = places(&effects)[..] else { panic!("{effects:?}") };
    let effects =
        node.give(Input::Pushed { peer: peer(1), block: mutated(&block), verdict: HeaderVerdict::Good });
    assert_eq!(offences(&effects), [(peer(1), Offence::MutatedBody)]);
    assert_eq!(imports(&node.placed(request, &block, &[3])), [block.header().id()]);
}

#[test]
fn scenario_27_who_is_silent_about_missing_transactions_is_passed_over_after_a_second() {
    let block = block(100);
    let mut node = Node::with_peers(4);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[1, 2]));
    let [(_, first, _)] = places(&effects)[..] else { panic!("{effects:?}") };
    for n in 1..4 {
        assert!(places(&node.announce(n, block.header())).is_empty());
    }
    // What came of one restarts the second.
    node.wait(ms(600));
    node.placed(first, &block, &[2]);
    assert!(places(&node.wait(SECOND_SOURCE_AFTER - ms(1))).is_empty(), "not a millisecond early");
    let effects = node.wait(ms(1));
    let [(second, request, wanted)] = &places(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((*second, &wanted[..]), (peer(1), &[1][..]), "only what is still missing");
    assert!(cancels(&effects).is_empty(), "in parallel");
    let effects = node.placed(*request, &block, &[1]);
    assert_eq!(imports(&effects), [block.header().id()]);
    assert_eq!(cancels(&effects), [first, *request]);
}

#[test]
fn scenario_27_who_is_silent_about_short_ids_is_passed_over_too_and_none_is_excluded() {
    let block = block(100);
    let mut node = Node::with_peers(4);
    let compact_asked = |effects: &[Effect]| -> Vec<_> {
        let all = effects.iter().filter_map(|effect| match effect {
            Effect::RequestCompact { peer, .. } => Some(*peer),
            _ => None,
        });
        all.collect()
    };
    assert_eq!(compact_asked(&node.announce(0, block.header())), [peer(0)]);
    for n in 1..4 {
        node.announce(n, block.header());
    }
    assert_eq!(compact_asked(&node.wait(SECOND_SOURCE_AFTER - ms(1))), []);
    assert_eq!(compact_asked(&node.wait(ms(1))), [peer(1)]);
    let (_, request) = requests(&node.wait(SECOND_SOURCE_AFTER)).pop().expect("a third");
    let effects = node.give(Input::FetchedCompact { request, compact: short(&block) });
    assert_eq!(look_ups(&effects).len(), 1);
    assert_eq!(cancels(&effects).len(), 3, "the others are asked for nothing any more");
}

#[test]
fn many_missing_are_asked_of_several_announcers_at_once_and_few_of_one() {
    for (lacks, sources) in [(300, 1), (700, 2), (900, 3), (1_800, 3)] {
        let block = block(2_000);
        let mut node = Node::with_peers(5);
        let begun = node.compact(0, short(&block));
        for n in 1..5 {
            node.announce(n, block.header());
        }
        let wanted = look_ups(&begun).pop().expect("looked up");
        let lacks: Vec<usize> = (0..lacks).collect();
        let found = wanted.select(&pool(&block, &lacks));
        let effects = node.give(Input::LookedUp { id: wanted.block(), found });
        let parts = places(&effects);
        assert_eq!(parts.len(), sources, "{} missing", lacks.len());
        let all: Vec<u32> = parts.iter().flat_map(|(.., places)| places.clone()).collect();
        assert_eq!(all, (0..lacks.len() as u32).collect::<Vec<_>>(), "each is asked for once");
        // One of them fails: its part goes to another at once.
        let (_, failed, part) = parts.last().expect("one").clone();
        let effects = node.give(Input::Ended { request: failed, end: RequestEnd::Failed });
        let again: Vec<u32> = places(&effects).into_iter().flat_map(|(.., places)| places).collect();
        assert_eq!(again, part);
    }
}

#[test]
fn three_peers_are_asked_to_push_and_the_best_take_the_place_of_the_worst() {
    let mut node = Node::new();
    let modes = |effects: &[Effect]| -> Vec<(ghost_proto::PeerId, bool)> {
        let all = effects.iter().filter_map(|effect| match effect {
            Effect::RelayMode { peer, push } => Some((*peer, *push)),
            _ => None,
        });
        all.collect()
    };
    let rtt = ms(10);
    let up = |n: u16, outbound| Input::PeerUp { peer: peer(n), outbound, best: ROOT, best_known: true, rtt };
    for n in 0..3 {
        assert_eq!(modes(&node.give(up(n, false))), [(peer(n), true)]);
    }
    assert_eq!(modes(&node.give(up(3, true))), [(peer(2), false), (peer(3), true)], "one is outbound");
    assert_eq!(modes(&node.give(up(4, true))), [], "one suffices");
    assert_eq!(FAVOURED_PEERS, 3);
    // The outbound one stays, whoever delivers.
    let mut tip = ROOT;
    let mut favoured = vec![peer(0), peer(1), peer(3)];
    for _ in 0..6 {
        for n in [5, 6, 7] {
            if tip == ROOT {
                node.give(up(n, false));
            }
        }
        for n in [5, 6, 7] {
            let block = seal_of(tip, 0, many(1, 160));
            tip = checkpoint(block.header());
            let effects = node.push(n, &block);
            for (peer, push) in modes(&effects) {
                if push {
                    favoured.push(peer);
                } else {
                    favoured.retain(|other| *other != peer);
                }
                assert!(favoured.len() <= 4);
            }
            node.imported(&block);
        }
    }
    assert_eq!(favoured.len(), FAVOURED_PEERS);
    assert!(
        favoured.contains(&peer(3))
            && favoured.iter().filter(|p| [5, 6, 7].map(peer).contains(p)).count() == 2
    );
}

#[test]
fn a_header_waits_for_the_push_of_a_favoured_peer_and_no_longer() {
    let block = block(100);
    let mut node = Node::with_peers(4);
    // The nearest three are asked to push; the fourth announces.
    assert!(asked(&node.announce(3, block.header())).is_empty());
    assert!(asked(&node.wait(PUSH_PATIENCE - ms(1))).is_empty());
    assert_eq!(asked(&node.wait(ms(1))), [peer(3)]);
    let mut node = Node::with_peers(4);
    node.announce(3, block.header());
    let effects = node.compact_with(0, short(&block), &pool(&block, &[]));
    assert_eq!(imports(&effects), [block.header().id()]);
    assert!(asked(&effects).is_empty());
    // A favoured one that announces has no push under way.
    let mut node = Node::with_peers(4);
    assert_eq!(asked(&node.announce(1, block.header())), [peer(1)]);
}

#[test]
fn pushes_are_bounded_however_many_ask_for_them() {
    let count = PUSHED_TO_MAX as u16 + 5;
    let mut node = Node::with_peers(count);
    push_mode(&mut node, &(0..count).collect::<Vec<_>>());
    let effects = node.give(Input::Produced { block: block(100), fresh: Vec::new() });
    let [(pushed, ..)] = &compacts(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(pushed.len(), PUSHED_TO_MAX);
    assert_eq!(told(&effects).1.len(), 5);
    node.give(Input::RelayMode { peer: peer(0), push: false });
    let block = seal_of(ROOT, 1, many(100, 160));
    let effects = node.give(Input::Produced { block, fresh: Vec::new() });
    assert!(!compacts(&effects)[0].0.contains(&peer(0)));
}

#[test]
fn blocks_being_put_together_are_bounded_in_number_and_in_transactions() {
    // Each on the root in a slot of its own, none of it in the pool but enough to go on.
    let header = |n: u64, tx_count: u32| {
        let fields = ghost_proto::block::HeaderFields {
            parent: ROOT.id,
            height: 1,
            slot: 8 + n,
            proposer: ((8 + n) % 4) as u16,
            tx_count,
            body_bytes: 30_000_000,
            tx_root: [n as u8; 32],
            receipt_root: [0; 32],
            state: [0; 32],
            gas_used: 0,
        };
        let key = ghost_proto::KeyPair::from_seed(&[((8 + n) % 4) as u8 + 1; 32]);
        fields.seal(&sync_world::chain::GENESIS, &key)
    };
    let compact = |header: Header| ghost_frames::compact::CompactBlock {
        nonce: 1,
        prefilled: Vec::new(),
        short_ids: vec![0; header.tx_count as usize * COMPACT_ID_LEN].into(),
        header,
    };
    let begun = |tx_count: u32, count: u64| {
        let mut node = Node::with_peers(1);
        let begun = (0..count).map(|n| look_ups(&node.compact(0, compact(header(n, tx_count)))).len());
        begun.sum::<usize>()
    };
    assert_eq!(begun(10, REBUILDS_MAX as u64 + 3), REBUILDS_MAX);
    let each = (REBUILD_TXS_MAX / 3) as u32;
    assert_eq!((begun(each, 4), begun(each + 1, 4)), (3, 2));
}

#[test]
fn a_peer_that_leaves_takes_its_requests_and_the_others_go_on() {
    let block = block(100);
    let mut node = Node::with_peers(3);
    let effects = node.compact_with(0, short(&block), &pool(&block, &[9]));
    assert_eq!(places(&effects).len(), 1);
    node.announce(1, block.header());
    let effects = node.give(Input::PeerDown { peer: peer(0) });
    let [(from, request, _)] = places(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(from, peer(1));
    assert_eq!(imports(&node.placed(request, &block, &[9])), [block.header().id()]);
    let whole = node.push(2, &block);
    assert!(imports(&whole).is_empty(), "it is here");
    let effects = node.give(Input::Pushed {
        peer: peer(2),
        block: Received::Matching(Arc::clone(&block)),
        verdict: HeaderVerdict::Known,
    });
    assert!(effects.is_empty());
    assert!(node.wait(Duration::from_secs(20)).iter().all(|e| !matches!(e, Effect::RequestBlocks { .. })));
}

//! Talking, and going on after whatever happens.

use std::collections::BTreeSet;

use ghost_wallet_channel::{envelope::is_size_class, session::What};

use crate::world::{Malice, World};

#[test]
fn two_wallets_talk_and_the_mailbox_sees_sizes_only() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    let secret = "a sentence that stands nowhere else";
    world.say(0, 1, secret);
    world.say(1, 0, secret);
    // Looked at while it lies there.
    world.actors[1].online = false;
    world.settle();
    let keys = [0, 1].map(|it| world.actors[it].key());
    let stored: Vec<_> =
        world.nodes.iter().flat_map(|node| &node.store).filter(|(key, _)| key[0] == b'm').collect();
    assert!(!stored.is_empty());
    for (_, value) in stored {
        assert!(is_size_class(value.len() - 17));
        let holds = |bytes: &[u8]| value.windows(bytes.len()).any(|window| window == bytes);
        assert!(!holds(secret.as_bytes()) && !holds(&keys[0].0) && !holds(&keys[1].0));
    }
    world.actors[1].online = true;
    world.pass(1_000);
    assert_eq!(world.actors[0].texts(), [secret]);
    assert_eq!(world.actors[1].texts(), [secret]);
    for actor in &world.actors {
        assert_eq!(actor.wallet.channels()[0].waiting, 0, "all is acknowledged");
    }
}

#[test]
fn both_may_open_at_once() {
    let mut world = World::new(2);
    world.open(0, 1);
    world.open(1, 0);
    world.say(0, 1, "first");
    world.say(1, 0, "second");
    world.pass(1_000);
    assert_eq!(world.actors[1].texts(), ["first"]);
    assert_eq!(world.actors[0].texts(), ["second"]);
}

#[test]
fn a_wallet_that_was_away_for_days_gets_everything() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    world.actors[1].online = false;
    for day in 0..5 {
        world.say(0, 1, &format!("day {day}"));
        world.pass(86_400_000);
    }
    // Its mailbox is killed as well, and comes back with what it had written.
    world.nodes[1].restart();
    world.actors[1].online = true;
    world.pass(5_000);
    let texts: BTreeSet<_> = world.actors[1].texts().into_iter().collect();
    assert_eq!(texts, (0..5).map(|day| format!("day {day}")).collect());
    assert_eq!(world.actors[1].texts().len(), 5);
}

#[test]
fn a_mailbox_that_is_lost_is_replaced_and_nothing_is() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    world.actors[1].online = false;
    world.say(0, 1, "in the box that burns");
    world.settle();
    // The node of wallet 1 goes, with what it kept.
    world.nodes[1].up = false;
    world.say(0, 1, "while there is none");
    world.pass(10_000);
    let fresh = world.add_node();
    world.actors[1].online = true;
    world.move_to(1, vec![fresh]);
    // It tells its peers where it is now; their letters are brought there.
    world.pass(180_000);
    let texts: BTreeSet<_> = world.actors[1].texts().into_iter().collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert_eq!(world.actors[1].texts().len(), 2, "each once");
    world.say(1, 0, "and back");
    world.pass(1_000);
    assert_eq!(world.actors[0].texts(), ["and back"]);
}

#[test]
fn of_two_mailboxes_one_may_be_gone() {
    let mut world = World::new(2);
    let spare = world.add_node();
    world.move_to(1, vec![1, spare]);
    world.settle();
    world.nodes[1].up = false;
    world.open_and_settle(0, 1);
    world.say(0, 1, "over the spare one");
    world.pass(1_000);
    assert_eq!(world.actors[1].texts(), ["over the spare one"]);
}

#[test]
fn a_mailbox_that_drops_reorders_replays_and_flips_bits_delays_and_no_more() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    world.nodes.iter_mut().for_each(|node| node.malice = Malice::All);
    for number in 0..60 {
        world.say(0, 1, &format!("to {number}"));
        world.say(1, 0, &format!("fro {number}"));
        world.pass(500);
    }
    world.pass(4 * 3_600_000);
    for (index, word) in [(1, "to"), (0, "fro")] {
        let texts = world.actors[index].texts();
        let distinct: BTreeSet<_> = texts.iter().cloned().collect();
        assert_eq!(distinct, (0..60).map(|number| format!("{word} {number}")).collect());
        assert_eq!(texts.len(), 60, "each once");
        assert!(world.actors[index].refused.len() > 60, "what was spoilt was refused");
        assert_eq!(world.actors[index].wallet.channels()[0].waiting, 0);
    }
}

/// Killed after every single step, with and without having done what it was about to: each message comes
/// once, and no two envelopes that left share a header, which a repeated message key would show.
#[test]
fn killed_at_any_moment_a_wallet_repeats_no_key_and_loses_nothing() {
    let mut world = World::new(2);
    let mut wanted = BTreeSet::new();
    for round in 0..80 {
        let (from, to) = (round / 4 % 2, 1 - round / 4 % 2);
        match world.actors[from].wallet.channels().is_empty() {
            // The opening may be lost like anything else.
            true => world.open(from, to),
            false => {
                world.say(from, to, &format!("round {round}"));
                if round % 4 != 0 {
                    wanted.insert(format!("round {round}"));
                }
            }
        }
        match round % 4 {
            // Nothing was stored, nothing was sent: as if it had never been asked.
            0 => {
                let lost = world.actors[from].wallet.take();
                drop(lost);
            }
            // Stored, and killed before anything left.
            1 | 2 => {
                let mut output = world.actors[from].wallet.take();
                output.deposits.clear();
                output.events.clear();
                world.carry_out(from, output);
            }
            _ => {
                world.perform(from);
            }
        }
        let now = world.now;
        world.actors.iter_mut().for_each(|actor| actor.restart(now));
        world.pass(40_000);
    }
    world.pass(3_600_000);
    let heard: Vec<String> = world.actors.iter().flat_map(|actor| actor.texts()).collect();
    let distinct: BTreeSet<_> = heard.iter().cloned().collect();
    assert_eq!(heard.len(), distinct.len(), "each once");
    // Every round whose output was stored was heard; those of the first kind never were.
    assert!(wanted.len() > 50);
    assert_eq!(distinct, wanted);
    for actor in &world.actors {
        let sent: BTreeSet<_> = actor.sent.iter().filter(|envelope| envelope[0] == 3).cloned().collect();
        let headers: BTreeSet<_> = sent.iter().map(|envelope| envelope[..81].to_vec()).collect();
        assert_eq!(headers.len(), sent.len());
    }
}

#[test]
fn a_peer_that_has_lost_its_state_opens_anew_and_gets_what_waited() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    world.actors[1].online = false;
    world.say(0, 1, "before the loss");
    world.settle();
    // Only the seed is left.
    world.actors[1].store.clear();
    let now = world.now;
    world.actors[1].restart(now);
    world.actors[1].online = true;
    world.now += 1_000;
    world.move_to(1, vec![1]);
    world.open(1, 0);
    world.pass(60_000);
    assert_eq!(world.actors[1].texts(), ["before the loss"]);
    world.say(1, 0, "after it");
    world.pass(1_000);
    assert_eq!(world.actors[0].texts(), ["after it"]);
}

#[test]
fn ten_megabytes_come_whole_with_progress_and_restarts_through_a_box_of_four() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    let content: Vec<u8> =
        (0..10_000_000u32).flat_map(|n| [(n.wrapping_mul(2_654_435_761) >> 24) as u8]).collect();
    let hash = *blake3::hash(&content).as_bytes();
    let peer = world.actors[1].key();
    let now = world.now;
    let actor = &mut world.actors[0];
    actor.disk.insert("/photos".into(), content.clone().into());
    actor.wallet.offer(&peer, "/photos", "photos.tar", 10_000_000, hash, now, &mut actor.rng).unwrap();
    // The receiver is away: the window bounds what lies in its box.
    world.actors[1].online = false;
    world.pass(1_000);
    let (_, _, bytes) = world.nodes[1].mailbox.totals();
    assert!((1_000_000..2_000_000).contains(&bytes), "{bytes}");
    world.actors[1].online = true;
    for _ in 0..6 {
        world.pass(150);
        let now = world.now;
        world.actors.iter_mut().for_each(|actor| actor.restart(now));
    }
    world.pass(120_000);
    assert!(world.actors[1].files.get("photos.tar") == Some(&content));
    let progress = |sent_by: usize, wanted: bool| {
        let events = world.actors[sent_by].events.iter();
        events
            .filter_map(|event| match event.what {
                What::FileProgress { done_bytes, sent, .. } if sent == wanted => Some(done_bytes),
                _ => None,
            })
            .collect::<Vec<u64>>()
    };
    for seen in [progress(0, true), progress(1, false)] {
        assert!(seen.len() > 20 && seen.is_sorted() && seen.last() == Some(&10_000_000), "{seen:?}");
    }
    assert!(world.actors[0].saw(|what| matches!(what, What::FileDone { sent: true, .. })));
    assert!(world.actors[1].saw(|what| matches!(what, What::FileDone { sent: false, .. })));
}

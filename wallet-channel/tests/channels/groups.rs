//! Groups that sign together.

use ghost_proto::{Action, Address};
use ghost_wallet_channel::session::{GroupWord, What};

use crate::{payments::FACTS, world::World};

fn word(world: &World, at: usize, wanted: impl Fn(&GroupWord) -> bool) -> bool {
    world.actors[at].saw(|what| matches!(what, What::Group { word, .. } if wanted(word)))
}

/// Three wallets, of which the first knows the two others, and a group of all that two sign for.
fn founded() -> (World, [u8; 16]) {
    let mut world = World::new(3);
    world.open_and_settle(0, 1);
    world.open(0, 2);
    world.pass(1_000);
    let members = [1, 2].map(|it| (world.actors[it].key(), String::new())).to_vec();
    let now = world.now;
    let actor = &mut world.actors[0];
    let id = actor.wallet.found_group("shop", 2, members, now, &mut actor.rng).unwrap();
    world.pass(1_000);
    for index in [1, 2] {
        assert!(word(&world, index, |word| matches!(word, GroupWord::Invited { threshold: 2, .. })));
        let now = world.now;
        let actor = &mut world.actors[index];
        actor.wallet.join_group(&id, now, &mut actor.rng).unwrap();
        world.pass(1_000);
        // Killed in the middle of making a key.
        let now = world.now;
        world.actors.iter_mut().for_each(|actor| actor.restart(now));
        world.pass(1_000);
    }
    world.pass(60_000);
    (world, id)
}

#[test]
fn two_of_three_move_funds_with_a_signature_that_the_chain_accepts() {
    let (mut world, id) = founded();
    let addresses: Vec<_> = world.actors.iter().map(|actor| actor.wallet.group_address(&id)).collect();
    assert!(
        addresses[0].is_some() && addresses.iter().all(|address| *address == addresses[0]),
        "{addresses:?}"
    );
    // One of them is away: two are enough.
    world.actors[2].online = false;
    let now = world.now;
    let actor = &mut world.actors[0];
    let proposal = actor.wallet.propose(&id, Address([9; 20]), 77, FACTS, now, &mut actor.rng).unwrap();
    world.pass(1_000);
    assert!(word(&world, 1, |word| matches!(word, GroupWord::Proposed { value, .. } if value == "77")));
    assert!(world.chain.is_empty(), "one signs nothing");
    let now = world.now;
    let actor = &mut world.actors[1];
    actor.wallet.approve(&id, &proposal, now, &mut actor.rng).unwrap();
    // Killed between its commitment and its share.
    world.perform(1);
    world.actors.iter_mut().for_each(|actor| actor.restart(now));
    world.pass(60_000);
    assert_eq!(world.chain.len(), 1, "{:?}", world.actors[0].events);
    // The world verified it by the chain's rules when it was submitted.
    let (tx, _) = world.chain.values().next().unwrap();
    assert_eq!(Some(tx.sender()), addresses[0]);
    assert!(matches!(tx.body().action, Action::Transfer { to: Address(to), value: 77, .. } if to == [9; 20]));
    for index in [0, 1] {
        assert!(word(&world, index, |word| matches!(word, GroupWord::Signed { .. })));
    }
    // The third hears of it when it is back.
    world.actors[2].online = true;
    world.pass(5_000);
    assert!(word(&world, 2, |word| matches!(word, GroupWord::Signed { .. })));
}

#[test]
fn a_nonce_signs_once_and_strangers_get_nowhere() {
    let (mut world, id) = founded();
    let now = world.now;
    let actor = &mut world.actors[0];
    let proposal = actor.wallet.propose(&id, Address([9; 20]), 1, FACTS, now, &mut actor.rng).unwrap();
    world.pass(1_000);
    let now = world.now;
    for index in [1, 2] {
        let actor = &mut world.actors[index];
        actor.wallet.approve(&id, &proposal, now, &mut actor.rng).unwrap();
        actor.wallet.approve(&id, &proposal, now, &mut actor.rng).unwrap();
    }
    world.pass(5_000);
    assert_eq!(world.chain.len(), 1, "however many approve");
    let actor = &mut world.actors[1];
    assert!(actor.wallet.join_group(&[0; 16], now, &mut actor.rng).is_err());
    assert!(actor.wallet.approve(&id, &[0; 16], now, &mut actor.rng).is_err());
    let pair = vec![(world.actors[1].key(), String::new())];
    let actor = &mut world.actors[0];
    for threshold in [1, 3] {
        assert!(actor.wallet.found_group("x", threshold, pair.clone(), now, &mut actor.rng).is_err());
    }
}

//! What strangers and mailbox nodes may try.

use ghost_frames::wallet::{DepositProof, MailboxDeposit, MailboxOutcome};
use ghost_wallet_channel::{mailbox::STRANGERS_MAX, session::Refused, stamp};

use crate::world::{LIMITS, World};

fn last_sent(world: &World, from: usize) -> Vec<u8> {
    world.actors[from].sent.last().unwrap().clone()
}

fn take(world: &mut World, at: usize, envelope: &[u8]) -> Result<(), Refused> {
    let now = world.now;
    let actor = &mut world.actors[at];
    actor.wallet.envelope(envelope, now, &mut actor.rng)
}

#[test]
fn scenario_37_replayed_reordered_truncated_and_misdirected_messages_are_refused() {
    let mut world = World::new(3);
    world.open_and_settle(0, 1);
    world.actors[1].online = false;
    let mut envelopes = Vec::new();
    for number in 0..5 {
        world.say(0, 1, &format!("{number}"));
        world.perform(0);
        envelopes.push(last_sent(&world, 0));
    }
    // For another wallet: it has no key that opens it.
    assert_eq!(take(&mut world, 2, &envelopes[0]), Err(Refused::NotOurs));
    // Truncated to another class, and to none.
    for length in [0, 1, 100, 511] {
        assert!(take(&mut world, 1, &envelopes[0][..length]).is_err());
    }
    // Any bit.
    for bit in (0..envelopes[0].len() * 8).step_by(61) {
        let mut bad = envelopes[0].clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(take(&mut world, 1, &bad).is_err(), "bit {bit}");
    }
    // In any order, each once.
    for index in [3, 0, 4, 1, 2] {
        assert_eq!(take(&mut world, 1, &envelopes[index]), Ok(()));
        assert_eq!(take(&mut world, 1, &envelopes[index]), Err(Refused::Replayed));
    }
    world.perform(1);
    assert_eq!(world.actors[1].texts(), ["3", "0", "4", "1", "2"]);
    // Long after, over several turns of the ratchet, they are still what came before.
    world.actors[1].online = true;
    for _ in 0..3 {
        world.say(1, 0, "turn");
        world.pass(1_000);
        world.say(0, 1, "turn");
        world.pass(1_000);
    }
    assert_eq!(take(&mut world, 1, &envelopes[2]), Err(Refused::Replayed));
    // An opening that is brought again opens nothing again.
    let opening = world.actors[0].sent.iter().find(|envelope| envelope[0] == 1).unwrap().clone();
    assert_eq!(take(&mut world, 1, &opening), Err(Refused::Replayed));
    assert_eq!(take(&mut world, 2, &opening), Err(Refused::NotOurs));
    world.say(0, 1, "still here");
    world.pass(1_000);
    assert_eq!(world.actors[1].texts().last().unwrap(), "still here");
}

#[test]
fn scenario_37_a_million_unsolicited_are_refused_and_the_quota_holds() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    let mailbox = world.presence(1).body().mailboxes[0].clone();
    let deposit = |envelope: Vec<u8>, proof| MailboxDeposit {
        box_key: mailbox.box_key,
        proof,
        envelope: envelope.into(),
    };
    let now = world.now;
    let node = &mut world.nodes[1];
    let before = node.mailbox.totals();
    // Without a stamp or a grant: not one is kept, nothing is written.
    let mut envelope = vec![3; 512];
    let mut kept = 0;
    for number in 0..1_000_000u32 {
        envelope[1..5].copy_from_slice(&number.to_be_bytes());
        let proof = if number % 2 == 0 { DepositProof::Grant([7; 32]) } else { DepositProof::Stamp(0) };
        let (answer, writes) = node.mailbox.deposit(&deposit(envelope.clone(), proof), now);
        match answer.outcome {
            // Zero is a stamp of eight bits for one envelope in 256.
            MailboxOutcome::Done => kept += 1,
            MailboxOutcome::NoGrant | MailboxOutcome::StampNeeded | MailboxOutcome::BoxFull => {
                assert!(writes.is_empty());
            }
            other => panic!("{other:?}"),
        }
        node.apply(writes);
    }
    let (boxes, envelopes, bytes) = node.mailbox.totals();
    assert_eq!((boxes, envelopes, kept), (before.0, before.1 + STRANGERS_MAX, STRANGERS_MAX));
    assert!(bytes <= LIMITS.box_bytes_max / 4);
    // Those with a grant still get in, and what strangers left is refused by the wallet.
    world.say(0, 1, "through");
    world.pass(1_000);
    assert_eq!(world.actors[1].texts(), ["through"]);
    assert!(world.actors[1].refused.len() >= STRANGERS_MAX);
    // Who pays in full with nonsense of the right kind costs the wallet a look.
    let mut opening = vec![1; 8_192];
    opening[7] = 9;
    let subject = stamp::of_envelope(&mailbox.box_key, &opening);
    let nonce = stamp::search(&subject, 8, 0, u64::MAX).unwrap();
    let (answer, _) =
        world.nodes[1].mailbox.deposit(&deposit(opening.clone(), DepositProof::Stamp(nonce)), now);
    assert_eq!(answer.outcome, MailboxOutcome::Done);
    assert_eq!(take(&mut world, 1, &opening), Err(Refused::NotOurs));
}

#[test]
fn an_invitation_opens_without_a_stamp_until_it_is_taken_back() {
    let mut world = World::new(2);
    let actor = &mut world.actors[1];
    let invitation = actor.wallet.invite(&mut actor.rng).unwrap();
    let grant = invitation.clone();
    world.settle();
    let presence = world.presence(1);
    let now = world.now;
    let actor = &mut world.actors[0];
    actor.wallet.open(presence, Some(invitation), now, &mut actor.rng).unwrap();
    let output = actor.wallet.take();
    assert!(matches!(output.deposits[0].proof, ghost_wallet_channel::session::Proof::Grant(_)));
    world.carry_out(0, output);
    world.pass(1_000);
    assert_eq!(world.actors[0].wallet.channels()[0].stage, "open");
    // Taken back, it opens nothing.
    assert_eq!(world.actors[1].wallet.take_back_invitations(), 1);
    world.perform(1);
    let again = MailboxDeposit {
        box_key: world.presence(1).body().mailboxes[0].box_key,
        proof: DepositProof::Grant(*grant.bytes()),
        envelope: vec![1; 8_192].into(),
    };
    assert_eq!(world.nodes[1].mailbox.deposit(&again, now).0.outcome, MailboxOutcome::NoGrant);
    // Closed, the peer's grant is worth nothing.
    let (peer, other) = (world.actors[0].key(), world.actors[1].key());
    world.actors[1].wallet.close(&peer).unwrap();
    world.perform(1);
    let before = world.nodes[1].mailbox.totals();
    let actor = &mut world.actors[0];
    actor.wallet.say(&other, "anybody?", now + 2_000, &mut actor.rng).unwrap();
    world.perform(0);
    assert_eq!(world.nodes[1].mailbox.totals(), before);
}

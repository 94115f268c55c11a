use ghost_proto::{KeyPair, MailboxAt, PresenceBody, record::peer_of};

use super::*;

const LIMITS: MailboxLimits = MailboxLimits {
    boxes_max: 3,
    box_bytes_max: 8_192,
    bytes_max: 16_384,
    keep_ms: 1_000_000,
    idle_ms: 5_000_000,
    open_bits: 8,
};
const NOW: u64 = 1_700_000_000_000;

fn node() -> PublicKey {
    KeyPair::from_seed(&[1; 32]).public()
}

fn owner(index: u8) -> PublicKey {
    PublicKey([index; 32])
}

fn opening(owner: &PublicKey, day: u32) -> MailboxOpen {
    let nonce = stamp::search(&stamp::of_box(&node(), owner, day), 8, 0, u64::MAX).unwrap();
    MailboxOpen { stamp_bits: 8, day, nonce }
}

fn today() -> u32 {
    (NOW / 86_400_000) as u32
}

fn opened(mailbox: &mut Mailbox, index: u8) -> Outcome {
    mailbox.open(&node(), &owner(index), &opening(&owner(index), today()), NOW).0.outcome
}

const GRANT: [u8; 32] = [5; 32];

fn with_box() -> Mailbox {
    let mut mailbox = Mailbox::new(LIMITS);
    assert_eq!(opened(&mut mailbox, 1), Outcome::Done);
    assert_eq!(mailbox.grant(&owner(1), true, &[grant_id(&GRANT)]).0.outcome, Outcome::Done);
    mailbox
}

fn deposit(tag: u32, bytes: usize, proof: DepositProof) -> MailboxDeposit {
    let mut envelope = vec![0; bytes];
    envelope[..4].copy_from_slice(&tag.to_be_bytes());
    MailboxDeposit { box_key: owner(1), proof, envelope: envelope.into() }
}

fn stamped(tag: u32, bytes: usize) -> MailboxDeposit {
    let plain = deposit(tag, bytes, DepositProof::Stamp(0));
    let subject = stamp::of_envelope(&owner(1), &plain.envelope);
    let nonce = stamp::search(&subject, 8, 0, u64::MAX).unwrap();
    MailboxDeposit { proof: DepositProof::Stamp(nonce), ..plain }
}

#[test]
fn boxes_cost_a_stamp_of_these_days_and_are_so_many() {
    let mut mailbox = Mailbox::new(LIMITS);
    let outcome = |mailbox: &mut Mailbox, request: MailboxOpen| {
        mailbox.open(&node(), &owner(9), &request, NOW).0.outcome
    };
    for day in [today() - 2, today() + 2] {
        assert_eq!(outcome(&mut mailbox, opening(&owner(9), day)), Outcome::StampNeeded);
    }
    let good = opening(&owner(9), today() - 1);
    let bad =
        (0..).find(|nonce| stamp::bits(&stamp::of_box(&node(), &owner(9), good.day), *nonce) < 8).unwrap();
    assert_eq!(outcome(&mut mailbox, MailboxOpen { nonce: bad, ..good }), Outcome::StampNeeded);
    assert_eq!(outcome(&mut mailbox, good), Outcome::Done);
    assert_eq!(outcome(&mut mailbox, MailboxOpen { nonce: bad, ..good }), Outcome::Done, "it is there");
    assert_eq!(
        [1, 2, 3].map(|it| opened(&mut mailbox, it)),
        [Outcome::Done, Outcome::Done, Outcome::NodeFull]
    );
}

#[test]
fn a_box_holds_so_many_bytes_and_so_does_the_node() {
    let mut mailbox = with_box();
    let grant = DepositProof::Grant(GRANT);
    let mut put = |tag, bytes, proof| mailbox.deposit(&deposit(tag, bytes, proof), NOW).0;
    assert_eq!(put(1, 513, grant).outcome, Outcome::BadSize);
    assert_eq!(put(1, 2_048, DepositProof::Grant([6; 32])).outcome, Outcome::NoGrant);
    assert_eq!(put(1, 2_048, grant), answer(Outcome::Done, 8_192 - 2_048));
    assert_eq!(put(1, 2_048, grant).outcome, Outcome::Repeated);
    for tag in 2..=4 {
        assert_eq!(put(tag, 2_048, grant).outcome, Outcome::Done);
    }
    assert_eq!(put(5, 512, grant), answer(Outcome::BoxFull, 8_192));
    // Two boxes are full; the node takes nothing for the third.
    for index in [2, 3] {
        assert_eq!(opened(&mut mailbox, index), Outcome::Done);
        mailbox.grant(&owner(index), true, &[grant_id(&GRANT)]);
    }
    let full = MailboxDeposit { box_key: owner(2), ..deposit(9, 8_192, grant) };
    assert_eq!(mailbox.deposit(&full, NOW).0.outcome, Outcome::Done);
    let one_more = MailboxDeposit { box_key: owner(3), ..deposit(9, 512, grant) };
    assert_eq!(mailbox.deposit(&one_more, NOW).0.outcome, Outcome::NodeFull);
    assert_eq!(mailbox.totals(), (3, 5, 16_384));
    let (_, writes) = mailbox.acknowledge(&owner(1), u64::MAX, NOW);
    assert_eq!(writes.len(), 5);
    assert_eq!(mailbox.totals(), (3, 1, 8_192));
    assert_eq!(mailbox.deposit(&one_more, NOW).0.outcome, Outcome::Done);
}

#[test]
fn strangers_fill_a_quarter_and_leave_the_rest_to_friends() {
    let mut mailbox = with_box();
    for tag in 0..4 {
        assert_eq!(mailbox.deposit(&stamped(tag, 512), NOW).0.outcome, Outcome::Done);
    }
    assert_eq!(mailbox.deposit(&stamped(4, 512), NOW).0.outcome, Outcome::BoxFull);
    let friend = deposit(5, 2_048, DepositProof::Grant(GRANT));
    assert_eq!(mailbox.deposit(&friend, NOW).0.outcome, Outcome::Done);
    mailbox.acknowledge(&owner(1), 1, NOW);
    assert_eq!(mailbox.deposit(&stamped(4, 512), NOW).0.outcome, Outcome::Done, "room again");
}

#[test]
fn grants_are_bounded_from_both_sides_and_can_be_taken_back() {
    let mut mailbox = with_box();
    let ids: Vec<[u8; 32]> =
        (0..GRANTS_MAX as u32).map(|n| *blake3::hash(&n.to_be_bytes()).as_bytes()).collect();
    assert_eq!(mailbox.grant(&owner(1), true, &ids).0, answer(Outcome::TooManyGrants, GRANTS_MAX as u64));
    assert_eq!(mailbox.grant(&owner(1), true, &ids[1..]).0.outcome, Outcome::Done);
    assert_eq!(mailbox.grant(&owner(1), true, &ids[1..]).0.outcome, Outcome::Done, "those are here");
    assert_eq!(mailbox.grant(&owner(1), true, &ids[..1]).0.outcome, Outcome::TooManyGrants);
    mailbox.grant(&owner(1), false, &[grant_id(&GRANT)]);
    let friend = deposit(5, 512, DepositProof::Grant(GRANT));
    assert_eq!(mailbox.deposit(&friend, NOW).0.outcome, Outcome::NoGrant);
    assert_eq!(mailbox.grant(&owner(7), true, &ids[..1]).0.outcome, Outcome::NoBox);
}

#[test]
fn what_expires_goes_to_the_millisecond_and_idle_boxes_with_all_they_have() {
    let mut mailbox = with_box();
    mailbox.deposit(&deposit(1, 512, DepositProof::Grant(GRANT)), NOW);
    mailbox.on_deadline(NOW);
    assert!(mailbox.on_deadline(NOW + LIMITS.keep_ms - 1).is_empty());
    assert_eq!(mailbox.totals().1, 1);
    let mut mailbox_later = mailbox;
    let later = mailbox_later.next_deadline();
    assert!(later > NOW + LIMITS.keep_ms);
    assert!(!mailbox_later.on_deadline(later).is_empty());
    assert_eq!(mailbox_later.totals(), (1, 0, 0));
    let mut at = NOW + LIMITS.idle_ms;
    mailbox_later.on_deadline(at);
    assert_eq!(mailbox_later.totals().0, 1);
    at = mailbox_later.next_deadline();
    mailbox_later.on_deadline(at);
    assert_eq!(mailbox_later.totals().0, 0);
}

#[test]
fn a_presence_is_kept_for_who_has_a_box_that_it_names() {
    let mut mailbox = with_box();
    let peer = peer_of(&node()).unwrap();
    let wallet = KeyPair::from_seed(&[8; 32]);
    let record = |box_key, sequence, node: &PeerId| {
        let address = format!("/ip4/127.0.0.1/udp/1/quic-v1/p2p/{node}").parse().unwrap();
        let body = PresenceBody {
            channel_key: [1; 32],
            post_quantum_key: vec![0; 1184].into(),
            sequence,
            time_unix_s: 0,
            mailboxes: vec![MailboxAt { box_key, stamp_bits: 8, node: address }],
        };
        Presence::sign(&wallet, &body).unwrap().bytes().clone()
    };
    let mut publish = |who, record: &Bytes| mailbox.publish(&peer, &owner(who), record).0.outcome;
    assert_eq!(publish(1, &record(owner(2), 1, &peer)), Outcome::BadRecord);
    let elsewhere = peer_of(&KeyPair::from_seed(&[2; 32]).public()).unwrap();
    assert_eq!(publish(1, &record(owner(1), 1, &elsewhere)), Outcome::BadRecord);
    assert_eq!(publish(2, &record(owner(2), 1, &peer)), Outcome::NoBox);
    let good = record(owner(1), 2, &peer);
    assert_eq!(publish(1, &good), Outcome::Done);
    assert_eq!(publish(1, &record(owner(1), 1, &peer)), Outcome::BadRecord, "older");
    assert_eq!(publish(1, &good), Outcome::Done, "the same");
    assert_eq!(mailbox.presence(&wallet.public()), Some(&good));
}

#[test]
fn what_was_written_comes_back_and_sequences_are_not_used_twice() {
    let mut mailbox = Mailbox::new(LIMITS);
    let mut store = BTreeMap::new();
    let mut apply = |writes: Vec<Write>| {
        for write in writes {
            match write.value {
                Some(value) => store.insert(write.key, value),
                None => store.remove(&write.key),
            };
        }
        store.clone()
    };
    apply(mailbox.open(&node(), &owner(1), &opening(&owner(1), today()), NOW).1);
    apply(mailbox.grant(&owner(1), true, &[grant_id(&GRANT)]).1);
    apply(mailbox.deposit(&deposit(1, 512, DepositProof::Grant(GRANT)), NOW).1);
    apply(mailbox.deposit(&stamped(2, 512), NOW).1);
    let stored = apply(mailbox.acknowledge(&owner(1), 1, NOW).1);
    let restored = |stored: &BTreeMap<Vec<u8>, Vec<u8>>| {
        let mut mailbox = Mailbox::new(LIMITS);
        stored.iter().for_each(|(key, value)| assert!(mailbox.restore(key, value)));
        mailbox
    };
    let mut again = restored(&stored);
    assert_eq!(again.totals(), mailbox.totals());
    assert_eq!(again.collect(&owner(1), 0, NOW), Some(vec![2]));
    let stored = apply(again.acknowledge(&owner(1), 2, NOW).1);
    let mut again = restored(&stored);
    again.deposit(&deposit(3, 512, DepositProof::Grant(GRANT)), NOW);
    assert_eq!(again.collect(&owner(1), 0, NOW), Some(vec![3]));
    assert!(!again.restore(b"x", b"") && !again.restore(b"b", b"") && !again.restore(b"m", b""));
}

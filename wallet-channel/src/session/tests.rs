use ghost_proto::MailboxAt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

fn wallet(seed: u8) -> (Wallet, ChaCha20Rng) {
    let mut wallet = Wallet::new(WalletKeys::from_seed(Secret::new([seed; 32])));
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    let node = "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWJzQR9RTTdTAzupZmmqZcQkTqLVmpQQcknBe5aV9E9bWa";
    let mailbox = MailboxAt { box_key: PublicKey([seed; 32]), stamp_bits: 8, node: node.parse().unwrap() };
    wallet.set_mailboxes(vec![mailbox], 1_000, &mut rng).unwrap();
    (wallet, rng)
}

#[test]
fn letters_that_wait_are_bounded_from_both_sides() {
    let (mut alice, mut rng) = wallet(1);
    let (bob, _) = wallet(2);
    let peer = bob.keys().wallet();
    assert_eq!(alice.say(&peer, "x", 1_000, &mut rng), Err(WalletError::NoChannel(peer)));
    alice.open(bob.presence().unwrap().clone(), None, 1_000, &mut rng).unwrap();
    for _ in 0..LETTERS_MAX {
        alice.say(&peer, "x", 1_000, &mut rng).unwrap();
    }
    assert_eq!(alice.say(&peer, "x", 1_000, &mut rng), Err(WalletError::QueueFull(peer)));
    assert_eq!(alice.channels()[0].waiting, LETTERS_MAX);
}

#[test]
fn what_makes_no_sense_is_refused_before_it_is_sent() {
    let (mut alice, mut rng) = wallet(1);
    let (bob, _) = wallet(2);
    let peer = bob.keys().wallet();
    let own = alice.presence().unwrap().clone();
    assert_eq!(alice.open(own, None, 1_000, &mut rng), Err(WalletError::Ourselves));
    let presence = bob.presence().unwrap().clone();
    alice.open(presence.clone(), None, 1_000, &mut rng).unwrap();
    assert_eq!(alice.open(presence, None, 1_000, &mut rng), Err(WalletError::ChannelExists(peer)));
    for text in [String::new(), "x".repeat(TEXT_BYTES_MAX + 1)] {
        assert!(matches!(alice.say(&peer, &text, 1_000, &mut rng), Err(WalletError::Invalid(_))));
    }
    assert!(alice.say(&peer, &"x".repeat(TEXT_BYTES_MAX), 1_000, &mut rng).is_ok());
    for name in ["", "a/b", "..", ".hidden", "a\\b", "a\nb", &"x".repeat(256)] {
        assert!(alice.offer(&peer, "/x", name, 1, [0; 32], 1_000, &mut rng).is_err(), "{name}");
    }
    assert!(alice.request(&peer, 0, "", 1_000, &mut rng).is_err());
    assert!(alice.request(&peer, 1, &"x".repeat(257), 1_000, &mut rng).is_err());
}

#[test]
fn a_wallet_without_a_mailbox_opens_nothing() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let mut alice = Wallet::new(WalletKeys::from_seed(Secret::new([1; 32])));
    let (bob, _) = wallet(2);
    let presence = bob.presence().unwrap().clone();
    assert_eq!(alice.open(presence, None, 1_000, &mut rng), Err(WalletError::NoMailbox));
}

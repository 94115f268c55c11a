//! The channel's bytes, frozen: for who writes another wallet, and against changing them by accident.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use ghost_proto::{MailboxAt, Presence, PresenceBody, PublicKey};
use ghost_wallet_channel::{
    envelope::{pad, unpad},
    establish::{Opening, read_opening},
    keys::WalletKeys,
    mailbox::grant_id,
    secret::Secret,
    stamp,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};

fn keys(seed: u8) -> WalletKeys {
    WalletKeys::from_seed(Secret::new([seed; 32]))
}

fn presence(keys: &WalletKeys) -> Presence {
    let node = "/ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3KooWJzQR9RTTdTAzupZmmqZcQkTqLVmpQQcknBe5aV9E9bWa";
    let mailbox = MailboxAt {
        box_key: keys.box_key(&PublicKey([0x21; 32])).public(),
        stamp_bits: 20,
        node: node.parse().unwrap(),
    };
    let body = PresenceBody {
        channel_key: keys.channel_public(),
        post_quantum_key: keys.post_quantum_public(),
        sequence: 1,
        time_unix_s: 1_700_000_000,
        mailboxes: vec![mailbox],
    };
    Presence::sign(keys.identity(), &body).unwrap()
}

/// A whole channel from fixed seeds: every envelope, and what the other side reads in it.
fn made() -> Value {
    let (alice, bob) = (keys(0x51), keys(0x52));
    let (alice_presence, bob_presence) = (presence(&alice), presence(&bob));
    let mut entropy = ChaCha20Rng::from_seed([0x53; 32]);
    let opening = Opening::new(&alice_presence, Secret::new([0x54; 32]), 1_700_000_000_123, &mut entropy);
    let first = opening.envelope(&alice, &bob_presence).unwrap();
    let opened = read_opening(&bob, &first, &mut entropy).unwrap();
    assert_eq!(opened.peer.wallet(), alice.wallet());
    assert_eq!(opened.time_unix_ms, 1_700_000_000_123);
    let (second, mut at_bob) = opened.answer(&Secret::new([0x55; 32]), &mut entropy).unwrap();
    let mut at_alice = opening.finish(&alice, &bob_presence, &second, &mut entropy).unwrap();
    assert_eq!(at_alice.grant.bytes(), &[0x55; 32]);
    assert_eq!(at_bob.grant.bytes(), &[0x54; 32]);
    let mut messages = Vec::new();
    for (index, text) in ["one", "two", "three", "four"].into_iter().enumerate() {
        // Two each way, so that the ratchet turns.
        let from_alice = index % 2 == 0;
        let (from, to) = if from_alice {
            (&mut at_alice.ratchet, &mut at_bob.ratchet)
        } else {
            (&mut at_bob.ratchet, &mut at_alice.ratchet)
        };
        let envelope = from.seal(&pad(text.as_bytes()).unwrap(), &mut entropy).unwrap();
        let opened = to.open(&envelope, &mut entropy).unwrap();
        assert_eq!(unpad(&opened), Some(text.as_bytes()));
        messages.push(json!({
            "from": if from_alice { "initiator" } else { "responder" },
            "content": text,
            "envelope": hex::encode(&envelope),
        }));
    }
    let side = |keys: &WalletKeys, presence: &Presence, seed: u8| {
        json!({
            "seed": hex::encode([seed; 32]),
            "wallet_key": keys.wallet().to_string(),
            "account": keys.address().to_string(),
            "channel_key": hex::encode(keys.channel_public()),
            "post_quantum_key_blake3": blake3::hash(&keys.post_quantum_public()).to_hex().to_string(),
            "presence": hex::encode(presence.bytes()),
        })
    };
    let envelope = vec![0x5e; 512];
    let subject = stamp::of_envelope(&PublicKey([0x21; 32]), &envelope);
    let nonce = stamp::search(&subject, 16, 0, u64::MAX).unwrap();
    json!({
        "entropy_seed": hex::encode([0x53; 32]),
        "initiator": side(&alice, &alice_presence, 0x51),
        "responder": side(&bob, &bob_presence, 0x52),
        "time_unix_ms": 1_700_000_000_123u64,
        "grants": [
            { "grant": hex::encode([0x54; 32]), "id": hex::encode(grant_id(&[0x54; 32])) },
            { "grant": hex::encode([0x55; 32]), "id": hex::encode(grant_id(&[0x55; 32])) },
        ],
        "opening": hex::encode(&first),
        "answer": hex::encode(&second),
        "messages": messages,
        "stamp": {
            "box_key": hex::encode([0x21; 32]), "envelope": hex::encode(&envelope),
            "subject": hex::encode(subject), "bits": 16, "nonce": nonce,
        },
    })
}

#[test]
fn a_channel_from_fixed_seeds_is_the_frozen_one() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/channel.json");
    let text = serde_json::to_string_pretty(&made()).unwrap() + "\n";
    if std::env::var_os("GHOST_REGENERATE_VECTORS").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let frozen = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        frozen == text,
        "wallet-channel/vectors/channel.json is not what the code makes. If the protocol is meant to change, \
         run the tests with GHOST_REGENERATE_VECTORS=1 and review the diff."
    );
}

#[test]
fn the_frozen_envelopes_open_with_the_frozen_keys() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/channel.json");
    let frozen: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let bob = keys(0x52);
    let opened =
        read_opening(&bob, &bytes(&frozen["opening"]), &mut ChaCha20Rng::from_seed([1; 32])).unwrap();
    assert_eq!(opened.peer.bytes(), &Bytes::from(bytes(&frozen["initiator"]["presence"])));
    assert_eq!(hex::encode(opened.grant.bytes()), frozen["grants"][0]["grant"].as_str().unwrap());
}

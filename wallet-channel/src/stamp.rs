//! Stamps: what a stranger pays with, since nobody vouches for it.
//!
//! A stamp for a subject is a number whose BLAKE3, in key derivation mode, over subject ‖ number (8 bytes) begins
//! with so many zero bits. Making one takes 2^bits hashes on average, checking one hash. The subject
//! names what is paid for, so that a stamp is good for nothing else.

use ghost_proto::PublicKey;

const CONTEXT: &str = "ghost 2026 wallet stamp";

/// What an envelope's stamp is for: this envelope in this box.
pub fn of_envelope(box_key: &PublicKey, envelope: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("ghost 2026 wallet stamp envelope");
    *hasher.update(&box_key.0).update(envelope).finalize().as_bytes()
}

/// What an opening's stamp is for: this box at this node, on this day (counted from 1970-01-01 UTC).
pub fn of_box(node: &PublicKey, box_key: &PublicKey, day: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("ghost 2026 wallet stamp box");
    *hasher.update(&node.0).update(&box_key.0).update(&day.to_be_bytes()).finalize().as_bytes()
}

/// Leading zero bits that a number earns for a subject.
pub fn bits(subject: &[u8; 32], nonce: u64) -> u8 {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let hash = hasher.update(subject).update(&nonce.to_be_bytes()).finalize();
    let mut bits = 0;
    for byte in hash.as_bytes() {
        bits += byte.leading_zeros() as u8;
        if *byte != 0 {
            break;
        }
    }
    bits
}

/// Looks for a stamp, from `from` on, for at most `tries` numbers: a caller that must do something else
/// meanwhile comes back with where it was.
pub fn search(subject: &[u8; 32], wanted: u8, from: u64, tries: u64) -> Option<u64> {
    (from..from.saturating_add(tries)).find(|nonce| bits(subject, *nonce) >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_good_for_its_subject_alone() {
        let key = PublicKey([1; 32]);
        let subject = of_envelope(&key, b"envelope");
        let nonce = search(&subject, 12, 0, 1 << 20).unwrap();
        assert!(bits(&subject, nonce) >= 12);
        let others = [of_envelope(&key, b"other"), of_envelope(&PublicKey([2; 32]), b"envelope")];
        // A number that is good for one of 4,096 others by chance is possible, for both it is not.
        assert!(others.iter().any(|other| bits(other, nonce) < 12));
        assert_eq!(search(&subject, 12, 0, nonce), None, "the first one is found");
    }
}

//! ML-KEM-768 (FIPS 203), by bytes.
//!
//! It stands beside X25519, never in its place: who breaks one of them has nothing.

use bytes::Bytes;
use ml_kem::{
    KeyExport,
    array::Array,
    kem::{Decapsulate, Encapsulate},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Size of a ciphertext in bytes.
pub(crate) const CIPHERTEXT_LEN: usize = 1088;

/// A decapsulation key, kept as the secret that its 64-byte seed is derived from.
fn decapsulation_key(secret: &Secret) -> DecapsulationKey {
    let mut seed = Zeroizing::new([0; 64]);
    blake3::Hasher::new_derive_key("ghost 2026 wallet ml-kem seed")
        .update(secret.bytes())
        .finalize_xof()
        .fill(seed.as_mut());
    DecapsulationKey::from_seed(Array::from(*seed))
}

/// The encapsulation key that belongs to a secret.
pub(crate) fn public_of(secret: &Secret) -> Bytes {
    Bytes::copy_from_slice(&decapsulation_key(secret).encapsulation_key().to_bytes())
}

/// A shared secret for who holds the other half of `public`, and the ciphertext that tells it to them.
/// `None` if the bytes are no encapsulation key.
pub(crate) fn encapsulate(public: &[u8], entropy: &Secret) -> Option<(Vec<u8>, Secret)> {
    let key = EncapsulationKey::new(&Array::try_from(public).ok()?).ok()?;
    let (ciphertext, shared) = key.encapsulate_with_rng(&mut ChaCha20Rng::from_seed(*entropy.bytes()));
    Some((ciphertext.to_vec(), Secret::new(shared.into())))
}

/// The shared secret in a ciphertext. One that was made for another key, or altered, gives another secret:
/// that is noticed when it is used. `None` for another length.
pub(crate) fn decapsulate(secret: &Secret, ciphertext: &[u8]) -> Option<Secret> {
    let ciphertext = Array::try_from(ciphertext).ok()?;
    Some(Secret::new(decapsulation_key(secret).decapsulate(&ciphertext).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_and_an_altered_ciphertext_gives_another_secret() {
        let secret = Secret::new([3; 32]);
        let public = public_of(&secret);
        assert_eq!(public.len(), ghost_proto::wallet::POST_QUANTUM_KEY_LEN);
        let (mut ciphertext, shared) = encapsulate(&public, &Secret::new([4; 32])).unwrap();
        assert_eq!(ciphertext.len(), CIPHERTEXT_LEN);
        assert_eq!(decapsulate(&secret, &ciphertext).unwrap().bytes(), shared.bytes());
        ciphertext[0] ^= 1;
        assert_ne!(decapsulate(&secret, &ciphertext).unwrap().bytes(), shared.bytes());
        assert!(decapsulate(&secret, &ciphertext[1..]).is_none());
        assert!(encapsulate(&[0xff; 1184], &Secret::new([4; 32])).is_none(), "no reduced coefficients");
    }
}

//! What a wallet keeps on disk, sealed: who reads the disk learns how many entries there are and how long.
//!
//! An entry is stored under BLAKE3 of its key, keyed; its value is the nonce (24), then key and value sealed with
//! XChaCha20-Poly1305 under that name. What it does not notice is an old copy of the whole store: never put one
//! back, it would use message keys twice.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use ghost_proto::layout::{peek_varint, put_var_bytes};
use rand_core::CryptoRng;

use crate::{keys::WalletKeys, secret::Secret};

/// Seals and opens the entries of one wallet.
#[derive(Debug)]
pub struct Sealer {
    names: Secret,
    values: Secret,
}

impl Sealer {
    /// That of a wallet.
    pub fn new(keys: &WalletKeys) -> Self {
        let key = keys.storage_key();
        Self {
            names: key.child("ghost 2026 wallet storage names"),
            values: key.child("ghost 2026 wallet storage values"),
        }
    }

    /// Under which name a key is stored.
    pub fn name(&self, key: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(self.names.bytes(), key).as_bytes()
    }

    /// What is stored under its name.
    pub fn seal(&self, key: &[u8], value: &[u8], entropy: &mut impl CryptoRng) -> Vec<u8> {
        let mut nonce = [0; 24];
        entropy.fill_bytes(&mut nonce);
        let mut content = zeroize::Zeroizing::new(Vec::with_capacity(key.len() + value.len() + 8));
        put_var_bytes(&mut content, key);
        content.extend_from_slice(value);
        let sealed = XChaCha20Poly1305::new(self.values.bytes().into())
            .encrypt(&nonce.into(), Payload { msg: &content, aad: &self.name(key) })
            .expect("an entry is not too long");
        [&nonce[..], &sealed].concat()
    }

    /// Key and value of what is stored under a name; `None` if it was altered, moved, or is another wallet's.
    pub fn open(&self, name: &[u8], stored: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (nonce, sealed) = stored.split_at_checked(24)?;
        let content = XChaCha20Poly1305::new(self.values.bytes().into())
            .decrypt(nonce.into(), Payload { msg: sealed, aad: name })
            .ok()?;
        let (length, at) = peek_varint(&content)?;
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        Some((content.get(at..end)?.to_vec(), content.get(end..)?.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn an_entry_comes_back_under_its_own_name_and_no_other() {
        let sealer = |seed| Sealer::new(&WalletKeys::from_seed(Secret::new([seed; 32])));
        let (ours, theirs) = (sealer(1), sealer(2));
        let stored = ours.seal(b"key", b"value", &mut ChaCha20Rng::from_seed([3; 32]));
        let name = ours.name(b"key");
        assert_eq!(ours.open(&name, &stored), Some((b"key".to_vec(), b"value".to_vec())));
        assert_eq!(ours.open(&ours.name(b"other"), &stored), None);
        assert_eq!(theirs.open(&name, &stored), None);
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ours.open(&name, &bad), None, "bit {bit}");
        }
        assert_eq!(ours.open(&name, &stored[..20]), None);
    }
}

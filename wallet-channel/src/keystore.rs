//! The file that keeps a wallet's seed: sealed with a passphrase.
//!
//! The passphrase goes through Argon2id (RFC 9106); the seed is sealed with XChaCha20-Poly1305, and what
//! stands beside it in the file is authenticated with it. The file is JSON, to be looked at.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use ghost_proto::PublicKey;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{keys::WalletKeys, secret::Secret};

/// What guessing one passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Memory in KiB, 8 to 1,048,576. A file that asks for more is refused: it was not made here.
    pub memory_kib: u32,
    /// Passes over it, 1 to 64.
    pub passes: u32,
}

impl Default for Cost {
    /// 64 MiB, three passes: the second choice of RFC 9106, section 4, with one lane; about 0.2 s of a core.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3 }
    }
}

/// Why a keystore does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// The passphrase is another one, or the file was altered; which of them cannot be told.
    #[error("the passphrase is wrong, or the keystore was altered")]
    WrongPassphrase,
    /// The file is no keystore.
    #[error("the keystore does not parse: {0}")]
    Malformed(String),
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// The wallet key, for who looks at the file.
    wallet: PublicKey,
    kdf: String,
    cost: Cost,
    salt: String,
    cipher: String,
    nonce: String,
    sealed: String,
}

const KDF: &str = "argon2id";
const CIPHER: &str = "xchacha20poly1305";

impl File {
    /// Everything but what is sealed.
    fn authenticated(&self) -> Vec<u8> {
        let Self { version, wallet, kdf, cost, salt, cipher, nonce, sealed: _ } = self;
        let Cost { memory_kib, passes } = cost;
        format!("ghost wallet keystore\n{version}\n{wallet}\n{kdf}\n{memory_kib}\n{passes}\n{salt}\n{cipher}\n{nonce}")
            .into_bytes()
    }

    fn key(&self, passphrase: &str, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let malformed = |error: argon2::Error| KeystoreError::Malformed(error.to_string());
        let params = Params::new(self.cost.memory_kib, self.cost.passes, 1, Some(32)).map_err(malformed)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), salt, key.as_mut())
            .map_err(malformed)?;
        Ok(key)
    }
}

/// Seals a seed. The text is the file.
pub fn seal(seed: &Secret, passphrase: &str, cost: Cost, entropy: &mut impl CryptoRng) -> String {
    let (mut salt, mut nonce) = ([0; 16], [0; 24]);
    entropy.fill_bytes(&mut salt);
    entropy.fill_bytes(&mut nonce);
    let mut file = File {
        version: 1,
        wallet: WalletKeys::from_seed(seed.clone()).wallet(),
        kdf: KDF.into(),
        cost,
        salt: hex::encode(salt),
        cipher: CIPHER.into(),
        nonce: hex::encode(nonce),
        sealed: String::new(),
    };
    let key = file.key(passphrase, &salt).expect("the cost is in range");
    let sealed = XChaCha20Poly1305::new(key.as_ref().into())
        .encrypt(&nonce.into(), Payload { msg: seed.bytes(), aad: &file.authenticated() })
        .expect("a seed is not too long");
    file.sealed = hex::encode(sealed);
    serde_json::to_string_pretty(&file).expect("text and numbers") + "\n"
}

fn parse(text: &str) -> Result<File, KeystoreError> {
    let malformed = |what: &str| KeystoreError::Malformed(what.into());
    let file: File =
        serde_json::from_str(text).map_err(|error| KeystoreError::Malformed(error.to_string()))?;
    if file.version != 1 || file.kdf != KDF || file.cipher != CIPHER {
        return Err(malformed("it is of a version, key derivation or cipher that is not known here"));
    }
    let Cost { memory_kib, passes } = file.cost;
    if !(8..=1 << 20).contains(&memory_kib) || !(1..=64).contains(&passes) {
        return Err(malformed("its cost is out of range"));
    }
    Ok(file)
}

/// Whose keystore it is, by what it says of itself: checked only by [`open`].
pub fn wallet_of(text: &str) -> Result<PublicKey, KeystoreError> {
    Ok(parse(text)?.wallet)
}

/// The seed in a keystore. Takes as long as its cost says.
pub fn open(text: &str, passphrase: &str) -> Result<Secret, KeystoreError> {
    let file = parse(text)?;
    let bytes = |field: &str, text: &str| {
        hex::decode(text).map_err(|_| KeystoreError::Malformed(format!("its {field} is not in hex")))
    };
    let salt = bytes("salt", &file.salt)?;
    let nonce: [u8; 24] = bytes("nonce", &file.nonce)?
        .try_into()
        .map_err(|_| KeystoreError::Malformed("its nonce has not 24 bytes".into()))?;
    let sealed = bytes("sealed seed", &file.sealed)?;
    let key = file.key(passphrase, &salt)?;
    let seed = XChaCha20Poly1305::new(key.as_ref().into())
        .decrypt(&nonce.into(), Payload { msg: &sealed, aad: &file.authenticated() })
        .map(Zeroizing::new)
        .map_err(|_| KeystoreError::WrongPassphrase)?;
    let seed: [u8; 32] = seed
        .as_slice()
        .try_into()
        .map_err(|_| KeystoreError::Malformed("its seed has not 32 bytes".into()))?;
    Ok(Secret::new(seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1 };

    #[test]
    fn a_seed_comes_back_with_its_passphrase_and_with_no_other() {
        let seed = Secret::new([9; 32]);
        let text = seal(&seed, "correct horse", CHEAP, &mut ChaCha20Rng::from_seed([1; 32]));
        assert!(!text.contains(&hex::encode([9; 32])));
        assert_eq!(open(&text, "correct horse").unwrap().bytes(), seed.bytes());
        assert_eq!(open(&text, "correct hors").unwrap_err(), KeystoreError::WrongPassphrase);
        assert_eq!(wallet_of(&text), Ok(WalletKeys::from_seed(seed).wallet()));
    }

    #[test]
    fn what_stands_beside_the_seed_cannot_be_changed() {
        let text = seal(&Secret::new([9; 32]), "x", CHEAP, &mut ChaCha20Rng::from_seed([1; 32]));
        let wallet = wallet_of(&text).unwrap().to_string();
        let other = WalletKeys::from_seed(Secret::new([8; 32])).wallet().to_string();
        assert_eq!(open(&text.replace(&wallet, &other), "x").unwrap_err(), KeystoreError::WrongPassphrase);
        for (from, to) in [
            ("\"passes\": 1", "\"passes\": 65"),
            ("argon2id", "argon2i"),
            ("\"memory_kib\": 8", "\"memory_kib\": 2000000"),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text);
            assert!(matches!(open(&bad, "x"), Err(KeystoreError::Malformed(_))), "{to}");
        }
    }
}

//! The key a peer is known by.

use ghost_proto::{KeyPair, PeerId, PublicKey, record};

/// An ed25519 key with the PeerId derived from it. The secret is zeroized on drop and never printed.
#[derive(Debug, Clone)]
pub struct Identity {
    key: KeyPair,
    peer_id: PeerId,
}

impl Identity {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        Self::from_seed(&rand::random())
    }

    /// From the 32-byte seed that a key file holds.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = KeyPair::from_seed(seed);
        let peer_id =
            record::peer_of(&key.public()).expect("a public key derived from a seed is a curve point");
        Self { key, peer_id }
    }

    /// The 32-byte seed, to be stored in a file only its owner can read.
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        self.key.seed()
    }

    /// What others call this peer: `12D3KooW…`.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// The key pair, to sign peer records with.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// 32 bytes that only this identity can derive, for a purpose named by `context`.
    pub(crate) fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.key.seed().as_ref())
    }
}

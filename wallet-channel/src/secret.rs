//! Thirty-two bytes that nobody else may see.

use std::fmt;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key. Zeroized on drop, never printed, compared by nobody.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// These bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Drawn.
    pub fn draw(entropy: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 32];
        entropy.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// BLAKE3 in its key derivation mode over `parts`.
    pub fn derive(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        parts.iter().for_each(|part| {
            hasher.update(part);
        });
        Self(*hasher.finalize().as_bytes())
    }

    /// Another one that follows from this one.
    pub fn child(&self, context: &str) -> Self {
        Self::derive(context, &[&self.0])
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(withheld)")
    }
}

//! Signed values: something small that the holder of a key says to whoever looks for it.
//!
//! ```text
//! owner (32)  varint length, label  sequence (8)  expires, Unix s (8)  varint length, payload  signature (64)
//! ```
//!
//! The signature covers all before it. A value is looked for by its [`LookupKey`], a hash of owner and label:
//! who keeps it learns whose it is, who only hears the question does not.

use std::fmt;

use bytes::Bytes;

use crate::{
    PeerId,
    keys::{BadSignature, Domain, KeyPair, PublicKey, Signature},
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{VALUE_BYTES_MAX, VALUE_LABEL_BYTES_MAX, VALUE_PAYLOAD_BYTES_MAX},
};

/// A place in the space in which peers and values are looked for: the closer, by XOR, the likelier to know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupKey(pub [u8; 32]);

impl LookupKey {
    /// Where a peer stands. Hashed, so that a place near somebody has to be searched for.
    pub fn of_peer(peer: &PeerId) -> Self {
        Self(blake3::derive_key("ghost 2026 lookup peer", &peer.to_bytes()))
    }

    /// Where a value is kept.
    pub fn of_value(owner: &PublicKey, label: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ghost 2026 lookup value");
        hasher.update(&owner.0).update(label);
        Self(*hasher.finalize().as_bytes())
    }

    /// How far it is to another, most significant byte first.
    pub fn distance(&self, other: &Self) -> [u8; 32] {
        std::array::from_fn(|at| self.0[at] ^ other.0[at])
    }

    /// How many leading bits two of them share; 256 if they are the same.
    pub fn shared_bits(&self, other: &Self) -> u32 {
        let distance = self.distance(other);
        let zeros = distance.iter().take_while(|byte| **byte == 0).count();
        zeros as u32 * 8 + distance.get(zeros).map_or(0, |byte| byte.leading_zeros())
    }
}

impl fmt::Debug for LookupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupKey({})", hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for LookupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not the layout, or a part that is too long.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The signature is not of the key that the value names.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
}

/// A verified value with the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedValue {
    bytes: Bytes,
    owner: PublicKey,
    label: Bytes,
    sequence: u64,
    expires_unix_s: u64,
    payload: Bytes,
}

impl SignedValue {
    /// Signs a value. `sequence` must be higher than in every earlier value of this label.
    ///
    /// # Errors
    /// If label or payload is longer than allowed, or the label is empty.
    pub fn sign(
        key: &KeyPair,
        label: &[u8],
        sequence: u64,
        expires_unix_s: u64,
        payload: &[u8],
    ) -> Result<Self, ValueError> {
        let mut bytes = key.public().0.to_vec();
        put_var_bytes(&mut bytes, label);
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&expires_unix_s.to_be_bytes());
        put_var_bytes(&mut bytes, payload);
        let signature = key.sign(Domain::Value, &[&bytes]);
        bytes.extend_from_slice(&signature.0);
        Self::verify(bytes.into())
    }

    /// Parses a value and checks bounds and signature.
    ///
    /// # Errors
    /// [`ValueError`]: whoever passed it on should have checked.
    pub fn verify(bytes: Bytes) -> Result<Self, ValueError> {
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(LayoutError::OutOfRange {
                field: "value length",
                value: bytes.len() as u64,
                min: 1,
                max: VALUE_BYTES_MAX as u64,
            }
            .into());
        }
        let mut cursor = Cursor::new(bytes.clone());
        let owner = PublicKey(cursor.array("owner")?);
        let label = cursor.var_bytes("label", VALUE_LABEL_BYTES_MAX)?;
        let sequence = cursor.u64("sequence")?;
        let expires_unix_s = cursor.u64("expiry")?;
        let payload = cursor.var_bytes("payload", VALUE_PAYLOAD_BYTES_MAX)?;
        let signed = cursor.position();
        let signature = Signature(cursor.array("signature")?);
        cursor.finish()?;
        if label.is_empty() {
            return Err(LayoutError::Invalid { field: "label", reason: "is empty" }.into());
        }
        owner.verify(Domain::Value, &[&bytes[..signed]], &signature)?;
        Ok(Self { bytes, owner, label, sequence, expires_unix_s, payload })
    }

    /// The bytes as received, to be passed on.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whose it is, and who signed it.
    pub fn owner(&self) -> PublicKey {
        self.owner
    }

    /// What it is about: an owner may have several.
    pub fn label(&self) -> &Bytes {
        &self.label
    }

    /// The higher of two values replaces the other.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// From then on it is void.
    pub fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s
    }

    /// What the owner says.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Where it is looked for.
    pub fn key(&self) -> LookupKey {
        LookupKey::of_value(&self.owner, &self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyPair {
        KeyPair::from_seed(&[6; 32])
    }

    #[test]
    fn the_longest_value_fits_and_a_longer_one_does_not() {
        let label = [b'l'; VALUE_LABEL_BYTES_MAX];
        let payload = vec![7; VALUE_PAYLOAD_BYTES_MAX];
        let value = SignedValue::sign(&key(), &label, 3, 4, &payload).unwrap();
        assert_eq!(value.bytes().len(), VALUE_BYTES_MAX);
        assert_eq!(SignedValue::verify(value.bytes().clone()).unwrap(), value);
        assert!(SignedValue::sign(&key(), &label, 3, 4, &[7; VALUE_PAYLOAD_BYTES_MAX + 1]).is_err());
        assert!(SignedValue::sign(&key(), &[b'l'; VALUE_LABEL_BYTES_MAX + 1], 3, 4, b"").is_err());
        assert!(SignedValue::sign(&key(), b"", 3, 4, b"").is_err());
    }

    #[test]
    fn flipped_bits_are_refused() {
        let good = SignedValue::sign(&key(), b"mailbox", 1, 2, b"here").unwrap().bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SignedValue::verify(bad.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn distance_is_a_metric_by_xor() {
        let one = LookupKey([0; 32]);
        let mut bytes = [0; 32];
        assert_eq!(one.shared_bits(&one), 256);
        bytes[1] = 0b0001_0000;
        let other = LookupKey(bytes);
        assert_eq!(one.shared_bits(&other), 11);
        assert_eq!(one.distance(&other), other.distance(&one));
        let peer = crate::record::peer_of(&key().public()).unwrap();
        assert_ne!(LookupKey::of_peer(&peer), LookupKey::of_value(&key().public(), b"mailbox"));
    }
}

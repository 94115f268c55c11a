//! The keys of a session, and the short names and checks they make.

use std::hash::Hasher;

use ghost_frames::reconcile::SketchId;
use ghost_proto::TxId;
use siphasher::sip::SipHasher13;

/// Domain of the key derivation.
const CONTEXT: &str = "ghost reconciliation keys v1";

/// Derived from a secret of the connection, which TLS exports to both of its sides and to nobody else, and
/// a nonce that the asker chooses in the open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    id: [u8; 16],
    check: [u8; 16],
}

/// A transaction in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// SipHash-1-3 of the transaction id.
    pub id: SketchId,
    /// The lower half of SipHash-1-3, under another key, of the sketch id.
    pub check: u32,
}

impl Keys {
    /// BLAKE3 in its key derivation mode over the connection's key and the nonce.
    pub fn derive(connection: &[u8; 16], nonce: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(connection);
        hasher.update(&nonce.to_be_bytes());
        let out = hasher.finalize();
        let (id, check) = out.as_bytes().split_at(16);
        Self { id: id.try_into().expect("half of 32"), check: check.try_into().expect("half of 32") }
    }

    /// The name of a transaction.
    pub fn id(&self, tx: &TxId) -> SketchId {
        let mut hasher = SipHasher13::new_with_key(&self.id);
        hasher.write(&tx.0);
        SketchId(hasher.finish())
    }

    /// The check of a name: tells a single id in a symbol from several.
    pub fn check(&self, id: u64) -> u32 {
        let mut hasher = SipHasher13::new_with_key(&self.check);
        hasher.write(&id.to_be_bytes());
        hasher.finish() as u32
    }

    /// Both.
    pub fn item(&self, tx: &TxId) -> Item {
        let id = self.id(tx);
        Item { id, check: self.check(id.0) }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

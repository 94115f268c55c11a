//! What a wallet has: one seed, and the keys that follow from it.
//!
//! They are not the node's: a wallet lives in another process, perhaps on another machine, and may change
//! its nodes. And they are apart from each other: the account that pays is not the key that people call the
//! wallet by, and what each mailbox node sees is a key of its own.

use bytes::Bytes;
use ghost_proto::{Address, KeyPair, PublicKey};
use x25519_dalek::{PublicKey as ChannelPublic, StaticSecret};

use crate::{post_quantum, secret::Secret};

/// All keys of a wallet.
#[derive(Debug, Clone)]
pub struct WalletKeys {
    seed: Secret,
    identity: KeyPair,
    account: KeyPair,
    channel: Secret,
    post_quantum: Secret,
}

impl WalletKeys {
    /// Those of a seed.
    pub fn from_seed(seed: Secret) -> Self {
        let pair = |context| KeyPair::from_seed(seed.child(context).bytes());
        Self {
            identity: pair("ghost 2026 wallet identity"),
            account: pair("ghost 2026 wallet account"),
            channel: seed.child("ghost 2026 wallet channel"),
            post_quantum: seed.child("ghost 2026 wallet post-quantum"),
            seed,
        }
    }

    /// Signs presence records; its public half names the wallet.
    pub fn identity(&self) -> &KeyPair {
        &self.identity
    }

    /// The wallet key.
    pub fn wallet(&self) -> PublicKey {
        self.identity.public()
    }

    /// Pays.
    pub fn account(&self) -> &KeyPair {
        &self.account
    }

    /// Where it is paid.
    pub fn address(&self) -> Address {
        self.account.address()
    }

    /// Proves to one mailbox node whose box it is. Two nodes cannot tell from it that they serve one wallet;
    /// the presence record says so to whoever reads it.
    pub fn box_key(&self, node: &PublicKey) -> KeyPair {
        KeyPair::from_seed(Secret::derive("ghost 2026 wallet box", &[self.seed.bytes(), &node.0]).bytes())
    }

    /// Encrypts what the wallet keeps on disk.
    pub fn storage_key(&self) -> Secret {
        self.seed.child("ghost 2026 wallet storage")
    }

    /// For Noise.
    pub(crate) fn channel(&self) -> &Secret {
        &self.channel
    }

    /// The public half of it, for presence records.
    pub fn channel_public(&self) -> [u8; 32] {
        public_of(&self.channel)
    }

    /// For decapsulation.
    pub(crate) fn post_quantum(&self) -> &Secret {
        &self.post_quantum
    }

    /// The public half of it, for presence records.
    pub fn post_quantum_public(&self) -> Bytes {
        post_quantum::public_of(&self.post_quantum)
    }
}

/// The X25519 public key of a secret.
pub(crate) fn public_of(secret: &Secret) -> [u8; 32] {
    ChannelPublic::from(&StaticSecret::from(*secret.bytes())).to_bytes()
}

/// X25519. `None` if the other side's point gives the same for every secret.
pub(crate) fn agree(secret: &Secret, public: &[u8; 32]) -> Option<Secret> {
    let shared = StaticSecret::from(*secret.bytes()).diffie_hellman(&ChannelPublic::from(*public));
    shared.was_contributory().then(|| Secret::new(shared.to_bytes()))
}

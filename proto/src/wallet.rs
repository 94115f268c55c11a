//! Presence: a wallet's own word on its keys for channels and on the nodes that keep its mail.
//!
//! ```text
//! offset  size  field
//!      0     1  version           = 1
//!      1    32  wallet key        ed25519; what people call each other by
//!     33    32  channel key       X25519
//!     65  1184  post-quantum key  ML-KEM-768 encapsulation key
//!   1249     8  sequence          the higher of two records replaces the other
//!   1257     8  time              seconds since 1970-01-01 UTC, rounded down to the hour
//!   1265     1  mailboxes         1 to 3; for each:
//!            32   box key         ed25519; the key under which the wallet comes to fetch
//!             1   stamp bits      what a stranger's first message costs, 8 to 32
//!               varint length, binary multiaddr with /p2p of the node that keeps the box
//!    end    64  signature         of the wallet key over the tag and all before it
//! ```
//!
//! A record proves itself, so anyone may pass it on. Whether the X25519 and ML-KEM bytes are keys is for
//! who uses them to find out.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use multiaddr::{Multiaddr, Protocol};

use crate::{
    PeerId,
    keys::{BadSignature, Domain, KeyPair, PublicKey, SIGNATURE_LEN, Signature},
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{MULTIADDR_BYTES_MAX, PRESENCE_BYTES_MAX, WALLET_MAILBOXES_MAX},
};

/// Size of an X25519 public key in bytes.
pub const CHANNEL_KEY_LEN: usize = 32;
/// Size of an ML-KEM-768 encapsulation key in bytes.
pub const POST_QUANTUM_KEY_LEN: usize = 1184;
/// Fewest leading zero bits of a stamp: below, it costs nothing.
pub const STAMP_BITS_MIN: u8 = 8;
/// Most leading zero bits of a stamp: 2^32 hashes take a laptop's core a quarter of an hour.
pub const STAMP_BITS_MAX: u8 = 32;

const VERSION: u8 = 1;

/// Why a presence record is refused. Whoever passes one on should have checked it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// Not the layout, or a field that means nothing.
    #[error("the presence record does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The signature is not of the wallet key that it names.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
}

/// A box for a wallet's mail at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxAt {
    /// Under which key the wallet fetches.
    pub box_key: PublicKey,
    /// Leading zero bits of the stamp on a stranger's first message.
    pub stamp_bits: u8,
    /// Where the node is, with its PeerId.
    pub node: Multiaddr,
}

impl MailboxAt {
    /// The node's PeerId.
    pub fn node_peer(&self) -> Option<PeerId> {
        match self.node.iter().last() {
            Some(Protocol::P2p(peer)) => Some(peer),
            _ => None,
        }
    }
}

/// What a wallet says about itself, to be signed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresenceBody {
    /// For Noise.
    pub channel_key: [u8; CHANNEL_KEY_LEN],
    /// ML-KEM-768 encapsulation key.
    pub post_quantum_key: Bytes,
    /// Higher than in every earlier record.
    pub sequence: u64,
    /// When it was made; rounded down to the hour.
    pub time_unix_s: u64,
    /// 1 to [`WALLET_MAILBOXES_MAX`].
    pub mailboxes: Vec<MailboxAt>,
}

/// A verified presence record with the bytes it came in.
#[derive(Clone, PartialEq, Eq)]
pub struct Presence {
    bytes: Bytes,
    wallet: PublicKey,
    body: PresenceBody,
}

impl Presence {
    /// Signs a record about oneself.
    ///
    /// # Errors
    /// If there are no mailboxes or too many, an address is too long or names no peer, or a key has
    /// another length.
    pub fn sign(key: &KeyPair, body: &PresenceBody) -> Result<Self, PresenceError> {
        let mut out = Vec::with_capacity(PRESENCE_BYTES_MAX);
        out.push(VERSION);
        out.extend_from_slice(&key.public().0);
        out.extend_from_slice(&body.channel_key);
        out.extend_from_slice(&body.post_quantum_key);
        out.extend_from_slice(&body.sequence.to_be_bytes());
        out.extend_from_slice(&(body.time_unix_s - body.time_unix_s % 3600).to_be_bytes());
        out.push(u8::try_from(body.mailboxes.len()).unwrap_or(u8::MAX));
        for mailbox in &body.mailboxes {
            out.extend_from_slice(&mailbox.box_key.0);
            out.push(mailbox.stamp_bits);
            put_var_bytes(&mut out, &mailbox.node.to_vec());
        }
        let signature = key.sign(Domain::Presence, &[&out]);
        out.extend_from_slice(&signature.0);
        Self::verify(out.into())
    }

    /// Parses a record and checks bounds and signature.
    pub fn verify(bytes: Bytes) -> Result<Self, PresenceError> {
        let out_of_range = |field, value: usize, min: usize, max: usize| LayoutError::OutOfRange {
            field,
            value: value as u64,
            min: min as u64,
            max: max as u64,
        };
        if bytes.len() > PRESENCE_BYTES_MAX {
            return Err(out_of_range("presence length", bytes.len(), 1, PRESENCE_BYTES_MAX).into());
        }
        let mut cursor = Cursor::new(bytes.clone());
        let version = cursor.u8("presence version")?;
        if version != VERSION {
            return Err(out_of_range("presence version", version.into(), 1, 1).into());
        }
        let wallet = PublicKey(cursor.array("wallet key")?);
        let channel_key = cursor.array("channel key")?;
        let post_quantum_key = cursor.bytes("post-quantum key", POST_QUANTUM_KEY_LEN)?;
        let sequence = cursor.u64("sequence")?;
        let time_unix_s = cursor.u64("time")?;
        let count = usize::from(cursor.u8("mailboxes")?);
        if count == 0 || count > WALLET_MAILBOXES_MAX {
            return Err(out_of_range("mailboxes", count, 1, WALLET_MAILBOXES_MAX).into());
        }
        let mut mailboxes = Vec::with_capacity(count);
        for _ in 0..count {
            let box_key = PublicKey(cursor.array("box key")?);
            let stamp_bits = cursor.u8("stamp bits")?;
            if !(STAMP_BITS_MIN..=STAMP_BITS_MAX).contains(&stamp_bits) {
                let (min, max) = (STAMP_BITS_MIN.into(), STAMP_BITS_MAX.into());
                return Err(out_of_range("stamp bits", stamp_bits.into(), min, max).into());
            }
            let node = cursor.var_bytes("mailbox address", MULTIADDR_BYTES_MAX)?;
            let invalid = |reason| LayoutError::Invalid { field: "mailbox address", reason };
            let node = Multiaddr::try_from(node.to_vec()).map_err(|_| invalid("is no multiaddr"))?;
            let mailbox = MailboxAt { box_key, stamp_bits, node };
            if mailbox.node_peer().is_none() {
                return Err(invalid("does not end with the peer").into());
            }
            mailboxes.push(mailbox);
        }
        let signed = cursor.position();
        let signature = Signature(cursor.array("signature")?);
        cursor.finish()?;
        wallet.verify(Domain::Presence, &[&bytes[..signed]], &signature)?;
        debug_assert_eq!(signed + SIGNATURE_LEN, bytes.len());
        let body = PresenceBody { channel_key, post_quantum_key, sequence, time_unix_s, mailboxes };
        Ok(Self { bytes, wallet, body })
    }

    /// The bytes as received, to be passed on.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whose it is.
    pub fn wallet(&self) -> PublicKey {
        self.wallet
    }

    /// What it says.
    pub fn body(&self) -> &PresenceBody {
        &self.body
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("wallet", &self.wallet).field("body", &self.body).finish()
    }
}

impl fmt::Debug for PresenceBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceBody")
            .field("sequence", &self.sequence)
            .field("mailboxes", &self.mailboxes)
            .finish_non_exhaustive()
    }
}

/// How people name a wallet: its key, and perhaps a node that knows its presence.
/// As text `KEY` or `KEY@MULTIADDR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletName {
    /// The wallet key.
    pub key: PublicKey,
    /// A node to ask for its presence.
    pub at: Option<Multiaddr>,
}

impl fmt::Display for WalletName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{}@{at}", self.key),
            None => write!(f, "{}", self.key),
        }
    }
}

impl FromStr for WalletName {
    type Err = LayoutError;
    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let invalid = |reason| LayoutError::Invalid { field: "wallet", reason };
        let (key, at) = match text.split_once('@') {
            Some((key, at)) => {
                let at: Multiaddr = at.parse().map_err(|_| invalid("what follows the @ is no multiaddr"))?;
                if !matches!(at.iter().last(), Some(Protocol::P2p(_))) {
                    return Err(invalid("the address after the @ must end with /p2p/PEER"));
                }
                (key, Some(at))
            }
            None => (text, None),
        };
        let key = key.parse().map_err(|_| invalid("is written as 64 hex digits, perhaps with @MULTIADDR"))?;
        Ok(Self { key, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(node: &str) -> MailboxAt {
        MailboxAt { box_key: PublicKey([7; 32]), stamp_bits: 20, node: node.parse().unwrap() }
    }

    fn node() -> String {
        let peer = crate::record::peer_of(&KeyPair::from_seed(&[9; 32]).public()).unwrap();
        format!("/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{peer}")
    }

    fn body(mailboxes: Vec<MailboxAt>) -> PresenceBody {
        PresenceBody {
            channel_key: [1; 32],
            post_quantum_key: vec![2; POST_QUANTUM_KEY_LEN].into(),
            sequence: 5,
            time_unix_s: 1_700_003_599,
            mailboxes,
        }
    }

    #[test]
    fn round_trip_and_every_flipped_bit_is_refused() {
        let key = KeyPair::from_seed(&[4; 32]);
        let presence = Presence::sign(&key, &body(vec![mailbox(&node())])).unwrap();
        assert_eq!(Presence::verify(presence.bytes().clone()), Ok(presence.clone()));
        assert_eq!(presence.wallet(), key.public());
        assert_eq!(presence.body().time_unix_s % 3600, 0);
        let good = presence.bytes().to_vec();
        // The long key in the middle is covered like the rest; every 37th bit of it is enough.
        for bit in (0..good.len() * 8).filter(|bit| !(65 * 8..1249 * 8).contains(bit) || bit % 37 == 0) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Presence::verify(bad.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn mailboxes_are_bounded_from_both_sides_and_name_their_nodes() {
        let key = KeyPair::from_seed(&[4; 32]);
        let sign = |mailboxes| Presence::sign(&key, &body(mailboxes));
        assert!(sign(vec![]).is_err());
        assert!(sign(vec![mailbox(&node()); WALLET_MAILBOXES_MAX]).is_ok());
        assert!(sign(vec![mailbox(&node()); WALLET_MAILBOXES_MAX + 1]).is_err());
        assert!(sign(vec![mailbox("/ip4/127.0.0.1/udp/4001/quic-v1")]).is_err());
        for bits in [STAMP_BITS_MIN - 1, STAMP_BITS_MAX + 1] {
            assert!(sign(vec![MailboxAt { stamp_bits: bits, ..mailbox(&node()) }]).is_err());
        }
    }

    #[test]
    fn a_wallet_is_named_with_or_without_a_node() {
        let key = KeyPair::from_seed(&[4; 32]).public();
        for text in [key.to_string(), format!("{key}@{}", node())] {
            assert_eq!(text.parse::<WalletName>().unwrap().to_string(), text);
        }
        for text in ["", "abc", &format!("{key}@x"), &format!("{key}@/ip4/127.0.0.1/udp/1/quic-v1")] {
            assert!(text.parse::<WalletName>().is_err(), "{text}");
        }
    }
}

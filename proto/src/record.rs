//! Signed peer records: where a node can be reached, said by itself.
//!
//! On the wire a record is the protobuf `SignedPeerRecord { payload, signature }`. The signature
//! covers the tag "ghost/record/1" and the payload *as received*; the key is the one inside the
//! PeerId, so a record proves itself and anyone may pass it on.

use bytes::Bytes;
use multiaddr::Multiaddr;
use prost::Message;

use crate::{
    PeerId,
    keys::{BadSignature, Domain, KeyPair, PublicKey, Signature},
    limits::{MULTIADDR_BYTES_MAX, RECORD_ADDRESSES_MAX, RECORD_BYTES_MAX},
    message,
};

/// Why a record is refused. Whoever sent it may only be passing on what it was given, but it should
/// have checked: a forged record is an offence of the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`RECORD_BYTES_MAX`], or more addresses than allowed.
    #[error("the peer record has {what} {value}, at most {max} are allowed")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        value: usize,
        /// How much is allowed.
        max: usize,
    },
    /// Not the protobuf, or a field that means nothing.
    #[error("the peer record does not parse: {0}")]
    Malformed(String),
    /// The signature is not of the key that the record names.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
}

/// A verified record with the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    bytes: Bytes,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    stream_types: u64,
    sequence: u64,
    time_unix_s: u64,
}

/// The ed25519 key inside a PeerId, or `None` if it holds another kind of key.
pub fn key_of(peer: &PeerId) -> Option<PublicKey> {
    // An ed25519 PeerId is an identity multihash (00 24) over the protobuf 08 01 12 20 ‖ key.
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20])?;
    key.try_into().ok().map(PublicKey)
}

/// The PeerId of an ed25519 key, or `None` if the bytes are no point of the curve.
pub fn peer_of(key: &PublicKey) -> Option<PeerId> {
    let key = libp2p_identity::ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(libp2p_identity::PublicKey::from(key).to_peer_id())
}

impl PeerRecord {
    /// Signs a record about oneself. `sequence` must be higher than in every earlier record;
    /// `time_unix_s` is rounded down to the hour, so that it tells little about the clock.
    pub fn sign(
        key: &KeyPair,
        addresses: Vec<Multiaddr>,
        stream_types: u64,
        sequence: u64,
        time_unix_s: u64,
    ) -> Result<Self, RecordError> {
        let peer = peer_of(&key.public())
            .ok_or_else(|| RecordError::Malformed("the key is no ed25519 key".into()))?;
        let payload = message::PeerRecordPayload {
            peer: peer.to_bytes().into(),
            addresses: addresses.iter().map(|address| address.to_vec().into()).collect(),
            stream_types,
            sequence,
            time_unix_s: time_unix_s - time_unix_s % 3600,
        }
        .encode_to_vec();
        let signature = key.sign(Domain::PeerRecord, &[&payload]);
        let signed = message::SignedPeerRecord {
            payload: payload.into(),
            signature: Bytes::copy_from_slice(&signature.0),
        };
        Self::verify(signed.encode_to_vec().into())
    }

    /// Parses a record and checks bounds and signature.
    pub fn verify(bytes: Bytes) -> Result<Self, RecordError> {
        Self::parse(bytes, true)
    }

    /// Parses a record whose very bytes the caller has verified before, and checks no signature.
    pub fn verified_before(bytes: Bytes) -> Result<Self, RecordError> {
        Self::parse(bytes, false)
    }

    fn parse(bytes: Bytes, check_signature: bool) -> Result<Self, RecordError> {
        let malformed = |what: &str| RecordError::Malformed(what.into());
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge { what: "bytes", value: bytes.len(), max: RECORD_BYTES_MAX });
        }
        let signed = message::SignedPeerRecord::decode(bytes.clone())
            .map_err(|error| malformed(&error.to_string()))?;
        let payload = message::PeerRecordPayload::decode(signed.payload.clone())
            .map_err(|error| malformed(&error.to_string()))?;
        let peer = PeerId::from_bytes(&payload.peer).map_err(|_| malformed("no PeerId"))?;
        let key = key_of(&peer).ok_or_else(|| malformed("the PeerId holds no ed25519 key"))?;
        let signature =
            signed.signature.as_ref().try_into().map(Signature).map_err(|_| malformed("signature length"))?;
        if check_signature {
            key.verify(Domain::PeerRecord, &[&signed.payload], &signature)?;
        }
        if payload.addresses.len() > RECORD_ADDRESSES_MAX {
            return Err(RecordError::TooLarge {
                what: "addresses",
                value: payload.addresses.len(),
                max: RECORD_ADDRESSES_MAX,
            });
        }
        let mut addresses = Vec::with_capacity(payload.addresses.len());
        for address in payload.addresses {
            if address.len() > MULTIADDR_BYTES_MAX {
                return Err(RecordError::TooLarge {
                    what: "an address of bytes",
                    value: address.len(),
                    max: MULTIADDR_BYTES_MAX,
                });
            }
            addresses
                .push(Multiaddr::try_from(address.to_vec()).map_err(|error| malformed(&error.to_string()))?);
        }
        Ok(Self {
            bytes,
            peer,
            addresses,
            stream_types: payload.stream_types,
            sequence: payload.sequence,
            time_unix_s: payload.time_unix_s,
        })
    }

    /// The bytes as received, to be passed on.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Who it is about, and who signed it.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where it says it can be reached. Only a handshake proves it.
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// Bit *n* is set if it serves stream type *n* (types below 64).
    pub fn stream_types(&self) -> u64 {
        self.stream_types
    }

    /// The higher of two records replaces the other.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it was made, to the hour, in seconds since 1970-01-01 UTC.
    pub fn time_unix_s(&self) -> u64 {
        self.time_unix_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PeerRecord {
        let key = KeyPair::from_seed(&[4; 32]);
        let address = "/ip4/127.0.0.1/udp/4001/quic-v1".parse().unwrap();
        PeerRecord::sign(&key, vec![address], 0b11, 7, 1_700_003_599).unwrap()
    }

    #[test]
    fn round_trip_and_key_in_peer_id() {
        let record = record();
        let again = PeerRecord::verify(record.bytes().clone()).unwrap();
        assert_eq!(again, record);
        assert_eq!(again.time_unix_s() % 3600, 0);
        let key = key_of(&record.peer()).unwrap();
        assert_eq!(peer_of(&key), Some(record.peer()));
        assert!(record.peer().to_string().starts_with("12D3KooW"));
    }

    #[test]
    fn flipped_bits_are_refused() {
        let good = record().bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(PeerRecord::verify(bad.into()).is_err(), "bit {bit}");
        }
    }
}

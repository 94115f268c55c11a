//! Finality votes and the certificates made of them.
//!
//! The rules are those of Casper FFG (Buterin and Griffith, arXiv:1710.09437) with every block a
//! checkpoint: a vote links a justified *source* to a *target* above it. Two thirds of the
//! authorities on one link justify its target; if the target is the source's child, the source is
//! final. An authority never votes twice for one target height, and never a link that surrounds or
//! is surrounded by an earlier one of its own.
//!
//! ```text
//! vote:   offset  size  field
//!              0     8  source height
//!              8    32  source id
//!             40     8  target height     above the source's
//!             48    32  target id
//!             80     2  authority         index into the authorities
//!             82    64  signature         over tag "ghost/vote/1", genesis id and bytes 0..82
//!            146
//! certificate:
//!              0    80  source and target as above
//!             80     2  number of signatures
//!             82   66n  authority index (2, strictly ascending), signature (64)
//! ```

use bytes::Bytes;

use crate::{
    genesis::AuthoritySet,
    ids::{BlockId, GenesisId},
    keys::{BadSignature, Batch, Domain, KeyPair, PublicKey, Signature},
    layout::{Cursor, LayoutError},
    limits::AUTHORITIES_MAX,
};

/// Size of an encoded vote.
pub const VOTE_LEN: usize = 146;
const LINK_LEN: usize = 80;

/// A block as a point in the chain that can be justified and finalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checkpoint {
    /// Its height.
    pub height: u64,
    /// Its id.
    pub id: BlockId,
}

/// What a vote says: having `source` justified, justify `target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// A justified checkpoint.
    pub source: Checkpoint,
    /// A descendant of it.
    pub target: Checkpoint,
}

impl Link {
    fn encode(&self) -> [u8; LINK_LEN] {
        let mut out = [0; LINK_LEN];
        out[..8].copy_from_slice(&self.source.height.to_be_bytes());
        out[8..40].copy_from_slice(&self.source.id.0);
        out[40..48].copy_from_slice(&self.target.height.to_be_bytes());
        out[48..].copy_from_slice(&self.target.id.0);
        out
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let mut checkpoint = || -> Result<Checkpoint, LayoutError> {
            Ok(Checkpoint { height: cursor.u64("height")?, id: BlockId(cursor.array("id")?) })
        };
        let (source, target) = (checkpoint()?, checkpoint()?);
        if target.height <= source.height {
            return Err(LayoutError::Invalid { field: "target", reason: "is not above the source" });
        }
        Ok(Self { source, target })
    }

    /// True if the authority that signed one of these may not have signed the other: two targets at
    /// one height, or one link inside the other.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let surrounds =
            |a: &Self, b: &Self| a.source.height < b.source.height && b.target.height < a.target.height;
        self != other
            && (self.target.height == other.target.height || surrounds(self, other) || surrounds(other, self))
    }
}

/// One authority's signed vote. Its signature is *not* checked by parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// What it says.
    pub link: Link,
    /// Index into the authorities.
    pub authority: u16,
    /// Over tag, genesis id, link and index.
    pub signature: Signature,
}

impl Vote {
    /// Signs a link.
    pub fn sign(link: Link, authority: u16, genesis: &GenesisId, key: &KeyPair) -> Self {
        let signature = key.sign(Domain::Vote, &[&genesis.0, &link.encode(), &authority.to_be_bytes()]);
        Self { link, authority, signature }
    }

    /// Checks the signature under the key the authority set names for it.
    pub fn verify(&self, genesis: &GenesisId, authority: &PublicKey) -> Result<(), BadSignature> {
        authority.verify(
            Domain::Vote,
            &[&genesis.0, &self.link.encode(), &self.authority.to_be_bytes()],
            &self.signature,
        )
    }

    /// Encodes into the layout above.
    pub fn encode(&self) -> [u8; VOTE_LEN] {
        let mut out = [0; VOTE_LEN];
        out[..LINK_LEN].copy_from_slice(&self.link.encode());
        out[80..82].copy_from_slice(&self.authority.to_be_bytes());
        out[82..].copy_from_slice(&self.signature.0);
        out
    }

    /// Parses a vote that fills `bytes` exactly.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let vote = Self {
            link: Link::read(&mut cursor)?,
            authority: cursor.u16("authority")?,
            signature: Signature(cursor.array("signature")?),
        };
        cursor.finish()?;
        Ok(vote)
    }
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Fewer than two thirds signed.
    #[error("{signed} of {needed} needed signatures")]
    NoQuorum {
        /// Signatures it holds.
        signed: usize,
        /// Signatures it needs.
        needed: usize,
    },
    /// An index beyond the authority set.
    #[error("there is no authority {0}")]
    UnknownAuthority(u16),
    /// A signature does not verify.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
}

/// Two thirds of the authorities on one link: the target is justified, and the source is final if
/// the target is its child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalityCertificate {
    /// What they signed.
    pub link: Link,
    /// Authority and signature, ascending by authority.
    pub signatures: Vec<(u16, Signature)>,
}

impl FinalityCertificate {
    /// The checkpoint this makes final, if it does.
    pub fn finalizes(&self) -> Option<Checkpoint> {
        (self.link.target.height == self.link.source.height + 1).then_some(self.link.source)
    }

    /// Checks quorum and every signature.
    pub fn verify(
        &self,
        genesis: &GenesisId,
        authorities: &AuthoritySet,
        entropy: impl rand_core::CryptoRng,
    ) -> Result<(), CertificateError> {
        let needed = authorities.quorum();
        if self.signatures.len() < needed {
            return Err(CertificateError::NoQuorum { signed: self.signatures.len(), needed });
        }
        let link = self.link.encode();
        let mut batch = Batch::new();
        for (index, signature) in &self.signatures {
            let key = authorities.key(*index).ok_or(CertificateError::UnknownAuthority(*index))?;
            batch.push(key, Domain::Vote, &[&genesis.0, &link, &index.to_be_bytes()], signature);
        }
        Ok(batch.verify(entropy)?)
    }

    /// Encodes into the layout above.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LINK_LEN + 2 + self.signatures.len() * 66);
        out.extend_from_slice(&self.link.encode());
        out.extend_from_slice(&(self.signatures.len() as u16).to_be_bytes());
        for (index, signature) in &self.signatures {
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&signature.0);
        }
        out
    }

    /// Parses a certificate that fills `bytes` exactly.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let link = Link::read(&mut cursor)?;
        let count = cursor.u16("signatures")?;
        if usize::from(count) > AUTHORITIES_MAX {
            return Err(LayoutError::OutOfRange {
                field: "signatures",
                value: count.into(),
                min: 0,
                max: AUTHORITIES_MAX as u64,
            });
        }
        let mut signatures: Vec<(u16, Signature)> = Vec::with_capacity(count.into());
        for _ in 0..count {
            let index = cursor.u16("authority")?;
            if signatures.last().is_some_and(|(last, _)| *last >= index) {
                return Err(LayoutError::Invalid { field: "authority", reason: "indices do not ascend" });
            }
            signatures.push((index, Signature(cursor.array("signature")?)));
        }
        cursor.finish()?;
        Ok(Self { link, signatures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    fn checkpoint(height: u64, tag: u8) -> Checkpoint {
        Checkpoint { height, id: BlockId([tag; 32]) }
    }

    fn link(source: u64, target: u64, tag: u8) -> Link {
        Link { source: checkpoint(source, 0), target: checkpoint(target, tag) }
    }

    #[test]
    fn conflicts_are_exactly_double_and_surround_votes() {
        for (a, b, conflict) in [
            (link(1, 2, 1), link(1, 2, 1), false),
            (link(1, 2, 1), link(1, 2, 2), true),
            (link(0, 2, 1), link(1, 2, 1), true),
            (link(1, 4, 1), link(2, 3, 1), true),
            (link(1, 4, 1), link(1, 3, 1), false),
            (link(1, 3, 1), link(3, 4, 1), false),
            (link(1, 3, 1), link(2, 4, 1), false),
        ] {
            assert_eq!(a.conflicts_with(&b), conflict, "{a:?} {b:?}");
            assert_eq!(b.conflicts_with(&a), conflict, "{b:?} {a:?}");
        }
    }

    #[test]
    fn a_certificate_needs_two_thirds_from_both_sides() {
        let keys: Vec<_> = (1..=4).map(|n| KeyPair::from_seed(&[n; 32])).collect();
        let set = AuthoritySet::new(keys.iter().map(KeyPair::public).collect()).unwrap();
        let genesis = GenesisId([8; 32]);
        let link = link(4, 5, 1);
        let certificate = |count: usize| FinalityCertificate {
            link,
            signatures: keys[..count]
                .iter()
                .enumerate()
                .map(|(index, key)| (index as u16, Vote::sign(link, index as u16, &genesis, key).signature))
                .collect(),
        };
        let check = |certificate: &FinalityCertificate| {
            certificate.verify(&genesis, &set, rand_chacha::ChaCha8Rng::from_seed([0; 32]))
        };
        assert_eq!(check(&certificate(2)), Err(CertificateError::NoQuorum { signed: 2, needed: 3 }));
        assert_eq!(check(&certificate(3)), Ok(()));
        assert_eq!(certificate(3).finalizes(), Some(link.source));
        let again = FinalityCertificate::parse(certificate(4).encode().into()).unwrap();
        assert_eq!(again, certificate(4));
        let mut bad = certificate(4);
        bad.signatures[2].1.0[5] ^= 1;
        assert_eq!(check(&bad), Err(CertificateError::BadSignature(BadSignature)));
    }
}

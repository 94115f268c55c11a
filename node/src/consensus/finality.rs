//! What is justified and what is final.
//!
//! A certificate is believed on its own: two thirds of the authorities sign a link only if two
//! thirds of them saw its source justified, so a node that was away needs one certificate, not the
//! chain of them.

use std::collections::BTreeMap;

use ghost_proto::{Checkpoint, FinalityCertificate};

use super::tree::BlockTree;

/// Verified certificates kept for blocks that are not here yet, those of the highest targets:
/// 16 × 8,528 bytes with the most authorities there can be.
pub const PENDING_MAX: usize = 16;

/// A certificate with good signatures that cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Its source or target is not where it says. Two thirds of the authorities signed nonsense.
    #[error("the certificate names a block at a height it does not have")]
    Misplaced,
    /// It contradicts an earlier certificate. At least a third of the authorities signed both sides:
    /// the chain is broken, and people must decide. This node stays with what it finalized.
    #[error(
        "two certificates contradict each other at height {height}: at least a third of the authorities \
         signed both; this node keeps {kept}"
    )]
    Contradiction {
        /// Height of the block that is kept.
        height: u64,
        /// Id of the block that is kept.
        kept: ghost_proto::BlockId,
    },
}

/// What following a certificate changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The highest justified block is another one now.
    pub justified: bool,
    /// The highest final block is another one now.
    pub finalized: bool,
    /// The target is not here: the certificate waits for it.
    pub pending: bool,
}

/// The highest justified and finalized blocks, and the certificates that say so.
#[derive(Debug, Clone)]
pub struct Finality {
    finalized: Checkpoint,
    justified: Checkpoint,
    finalized_by: Option<FinalityCertificate>,
    justified_by: Option<FinalityCertificate>,
    pending: BTreeMap<(Checkpoint, Checkpoint), FinalityCertificate>,
}

impl Finality {
    /// Starts at the finalized block, with the certificate that made it so (none for genesis).
    pub fn new(finalized: Checkpoint, finalized_by: Option<FinalityCertificate>) -> Self {
        Self { finalized, justified: finalized, finalized_by, justified_by: None, pending: BTreeMap::new() }
    }

    /// The highest final block.
    pub fn finalized(&self) -> Checkpoint {
        self.finalized
    }

    /// The highest justified block.
    pub fn justified(&self) -> Checkpoint {
        self.justified
    }

    /// What made [`Self::finalized`] final. `None` at genesis.
    pub fn finalized_by(&self) -> Option<&FinalityCertificate> {
        self.finalized_by.as_ref()
    }

    /// What justified [`Self::justified`]. `None` while that is the finalized block or genesis.
    pub fn justified_by(&self) -> Option<&FinalityCertificate> {
        self.justified_by.as_ref()
    }

    /// What justified [`Self::justified`], also where that is the finalized block: votes go out from there.
    pub fn source_by(&self) -> Option<&FinalityCertificate> {
        self.justified_by
            .as_ref()
            .filter(|by| by.link.target == self.justified)
            .or(self.finalized_by.as_ref())
    }

    /// False if a certificate cannot change anything: not worth checking its signatures.
    pub fn is_news(&self, certificate: &FinalityCertificate) -> bool {
        let link = &certificate.link;
        let advances = link.target.height > self.justified.height
            || certificate.finalizes().is_some_and(|block| block.height > self.finalized.height);
        // One that contradicts what is final is news, too, though not good news.
        let contradicts = link.target.height == self.finalized.height && link.target.id != self.finalized.id;
        (advances || contradicts) && !self.pending.contains_key(&(link.target, link.source))
    }

    /// The waiting certificates of a block that has arrived.
    pub fn take_pending(&mut self, target: &Checkpoint) -> Vec<FinalityCertificate> {
        let links: Vec<_> = self.pending.keys().filter(|(waiting, _)| waiting == target).copied().collect();
        links.iter().filter_map(|link| self.pending.remove(link)).collect()
    }

    /// Certificates that wait.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Follows a certificate whose signatures were checked. On an error nothing changes.
    pub fn apply<T>(
        &mut self,
        certificate: &FinalityCertificate,
        tree: &BlockTree<T>,
    ) -> Result<Applied, CertificateFault> {
        let (source, target) = (certificate.link.source, certificate.link.target);
        let contradiction =
            |kept: Checkpoint| CertificateFault::Contradiction { height: kept.height, kept: kept.id };
        if target.height <= self.finalized.height {
            let same_height = target.height == self.finalized.height;
            return if same_height && target.id != self.finalized.id {
                Err(contradiction(self.finalized))
            } else {
                Ok(Applied::default())
            };
        }
        let Some(node) = tree.get(&target.id) else {
            self.pending.insert((target, source), certificate.clone());
            if self.pending.len() > PENDING_MAX {
                self.pending.pop_first();
            }
            return Ok(Applied { pending: true, ..Applied::default() });
        };
        if node.height != target.height {
            return Err(CertificateFault::Misplaced);
        }
        // Below the finalized block the tree knows nothing; an honest quorum vouches for the source.
        if source.height >= self.finalized.height {
            let placed = tree.get(&source.id).is_some_and(|node| node.height == source.height);
            if !placed || !tree.descends(&target.id, &source.id) {
                return Err(CertificateFault::Misplaced);
            }
        }
        let mut applied = Applied::default();
        let (mut justified, mut finalized) = (self.justified, self.finalized);
        if target.height > justified.height {
            justified = target;
            applied.justified = true;
        } else if target.height == justified.height && target.id != justified.id {
            return Err(contradiction(justified));
        }
        if let Some(block) = certificate.finalizes()
            && block.height > finalized.height
        {
            finalized = block;
            applied.finalized = true;
        }
        if !tree.descends(&justified.id, &finalized.id) {
            return Err(contradiction(self.justified));
        }
        (self.justified, self.finalized) = (justified, finalized);
        if applied.justified {
            self.justified_by = Some(certificate.clone());
        }
        if applied.finalized {
            self.finalized_by = Some(certificate.clone());
            self.pending.retain(|(target, _), _| target.height > finalized.height);
        }
        Ok(applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::{BlockId, vote::Link};

    fn at(height: u64, tag: u8) -> Checkpoint {
        Checkpoint { height, id: BlockId([tag; 32]) }
    }

    fn certificate(source: Checkpoint, target: Checkpoint) -> FinalityCertificate {
        FinalityCertificate { link: Link { source, target }, signatures: Vec::new() }
    }

    /// 0 - 1 - 2 - 3 and a side branch 0 - 11 - 12.
    fn tree() -> BlockTree<()> {
        let mut tree = BlockTree::new(BlockId([0; 32]), 0, None, ());
        for (child, parent) in [(1, 0), (2, 1), (3, 2), (11, 0), (12, 11)] {
            tree.insert(BlockId([child; 32]), BlockId([parent; 32]), child.into(), ());
        }
        tree
    }

    #[test]
    fn a_child_link_finalizes_and_a_longer_one_only_justifies() {
        let tree = tree();
        let mut finality = Finality::new(at(0, 0), None);
        let long = certificate(at(0, 0), at(2, 2));
        assert_eq!(
            finality.apply(&long, &tree),
            Ok(Applied { justified: true, finalized: false, pending: false })
        );
        assert_eq!((finality.justified(), finality.finalized()), (at(2, 2), at(0, 0)));
        let child = certificate(at(2, 2), at(3, 3));
        assert_eq!(
            finality.apply(&child, &tree),
            Ok(Applied { justified: true, finalized: true, pending: false })
        );
        assert_eq!((finality.justified(), finality.finalized()), (at(3, 3), at(2, 2)));
        assert_eq!(finality.finalized_by(), Some(&child));
        assert!(!finality.is_news(&child));
    }

    #[test]
    fn a_contradiction_is_named_and_changes_nothing() {
        let tree = tree();
        let mut finality = Finality::new(at(0, 0), None);
        finality.apply(&certificate(at(0, 0), at(1, 1)), &tree).unwrap();
        for bad in [
            certificate(at(0, 0), at(1, 11)),
            certificate(at(11, 11), at(12, 12)),
            certificate(at(0, 0), at(3, 2)),
        ] {
            assert!(finality.apply(&bad, &tree).is_err());
            assert_eq!(finality.justified(), at(1, 1));
        }
        finality.apply(&certificate(at(1, 1), at(2, 2)), &tree).unwrap();
        assert_eq!(finality.finalized(), at(1, 1));
        // The other branch justified above: followed it would leave the final block.
        let other = certificate(at(0, 0), at(2, 12));
        assert!(finality.is_news(&certificate(at(0, 0), at(1, 11))));
        assert!(matches!(finality.apply(&other, &tree), Err(CertificateFault::Contradiction { .. })));
        assert_eq!(finality.finalized(), at(1, 1));
    }

    #[test]
    fn certificates_of_unknown_blocks_wait_within_a_bound() {
        let tree = tree();
        let mut finality = Finality::new(at(0, 0), None);
        for height in 100..100 + PENDING_MAX as u64 {
            finality.apply(&certificate(at(0, 0), at(height, 99)), &tree).unwrap();
        }
        assert_eq!(finality.pending_len(), PENDING_MAX);
        finality.apply(&certificate(at(0, 0), at(500, 99)), &tree).unwrap();
        assert_eq!(finality.pending_len(), PENDING_MAX);
        assert!(finality.take_pending(&at(100, 99)).is_empty(), "the lowest made room");
        assert_eq!(finality.take_pending(&at(101, 99)).len(), 1);
    }
}

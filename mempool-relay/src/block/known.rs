use std::collections::VecDeque;

use ghost_proto::BlockId;

/// Most blocks remembered for one peer: 128 × 32 B = 4 KiB. At the shortest slot (100 ms) that is
/// 12.8 s of blocks, far beyond the time in which one travels through the network.
pub(crate) const KNOWN_BLOCKS_MAX: usize = 128;

/// What a peer is known to have: the most recent [`KNOWN_BLOCKS_MAX`] ids.
#[derive(Debug, Default)]
pub(crate) struct KnownBlocks {
    ids: VecDeque<BlockId>,
}

impl KnownBlocks {
    pub(crate) fn insert(&mut self, id: BlockId) {
        if self.contains(&id) {
            return;
        }
        if self.ids.len() == KNOWN_BLOCKS_MAX {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
    }

    /// Newest first: what is asked about is nearly always among the last few.
    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.ids.iter().rev().any(|known| known == id)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_at_the_bound() {
        let id = |n: usize| BlockId([n as u8; 32]);
        let mut known = KnownBlocks::default();
        for n in 0..KNOWN_BLOCKS_MAX {
            known.insert(id(n));
            known.insert(id(n));
        }
        assert_eq!(known.len(), KNOWN_BLOCKS_MAX);
        assert!(known.contains(&id(0)));
        known.insert(id(KNOWN_BLOCKS_MAX));
        assert_eq!(known.len(), KNOWN_BLOCKS_MAX);
        assert!(!known.contains(&id(0)) && known.contains(&id(1)));
    }
}

use std::collections::{BTreeSet, VecDeque};

use ghost_proto::BlockId;

/// Most invalid blocks remembered: 1,024 × 64 B = 64 KiB. Each cost an authority a signature.
const BAD_BLOCKS_MAX: usize = 1024;

/// Blocks that failed to execute, so that a chain over one of them is refused by its header.
#[derive(Debug, Default)]
pub(crate) struct BadBlocks {
    order: VecDeque<BlockId>,
    ids: BTreeSet<BlockId>,
}

impl BadBlocks {
    pub(crate) fn insert(&mut self, id: BlockId) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > BAD_BLOCKS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.ids.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_at_the_bound() {
        let id = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            BlockId(bytes)
        };
        let mut bad = BadBlocks::default();
        (0..BAD_BLOCKS_MAX).for_each(|n| bad.insert(id(n)));
        assert!(bad.contains(&id(0)));
        bad.insert(id(BAD_BLOCKS_MAX));
        assert!(!bad.contains(&id(0)) && bad.contains(&id(1)));
        assert_eq!(bad.order.len(), bad.ids.len());
    }
}

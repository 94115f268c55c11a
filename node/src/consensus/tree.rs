//! The tree of blocks above the last finalized one, and the fork choice among its tips.
//!
//! The head is the best tip among the descendants of the highest justified block: greatest height,
//! then smallest slot, then smallest id. All nodes that hold the same blocks and the same justified
//! block choose the same head, whatever the order in which they learnt of them.

use std::{cmp::Ordering, collections::HashMap};

use ghost_proto::BlockId;

/// One block of the tree.
#[derive(Debug, Clone)]
pub struct Node<T> {
    /// Id of the block before.
    pub parent: BlockId,
    /// Distance from genesis.
    pub height: u64,
    /// Slot; genesis has none.
    pub slot: Option<u64>,
    /// What is kept with it.
    pub data: T,
    children: Vec<BlockId>,
}

/// Blocks that all descend from one root.
#[derive(Debug, Clone)]
pub struct BlockTree<T> {
    root: BlockId,
    nodes: HashMap<BlockId, Node<T>>,
}

impl<T> BlockTree<T> {
    /// A tree of its root only.
    pub fn new(root: BlockId, height: u64, slot: Option<u64>, data: T) -> Self {
        let node = Node { parent: BlockId::ZERO, height, slot, data, children: Vec::new() };
        Self { root, nodes: HashMap::from([(root, node)]) }
    }

    /// The root.
    pub fn root(&self) -> BlockId {
        self.root
    }

    /// Height of the root.
    pub fn root_height(&self) -> u64 {
        self.nodes[&self.root].height
    }

    /// How many blocks there are, root included.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A block.
    pub fn get(&self, id: &BlockId) -> Option<&Node<T>> {
        self.nodes.get(id)
    }

    /// A block, to change what is kept with it.
    pub fn get_mut(&mut self, id: &BlockId) -> Option<&mut Node<T>> {
        self.nodes.get_mut(id)
    }

    /// True if the block is in the tree.
    pub fn contains(&self, id: &BlockId) -> bool {
        self.nodes.contains_key(id)
    }

    /// Adds a child. False if the parent is not in the tree or the block already is.
    pub fn insert(&mut self, id: BlockId, parent: BlockId, slot: u64, data: T) -> bool {
        if self.nodes.contains_key(&id) {
            return false;
        }
        let Some(above) = self.nodes.get_mut(&parent) else { return false };
        above.children.push(id);
        let height = above.height + 1;
        self.nodes.insert(id, Node { parent, height, slot: Some(slot), data, children: Vec::new() });
        true
    }

    /// `Greater` if `a` is the better tip.
    fn compare(&self, a: &BlockId, b: &BlockId) -> Ordering {
        let rank = |id: &BlockId| {
            let node = &self.nodes[id];
            (node.height, std::cmp::Reverse(node.slot), std::cmp::Reverse(*id))
        };
        rank(a).cmp(&rank(b))
    }

    /// True if `a` is a better tip than `b`. Both must be in the tree.
    pub fn is_better(&self, a: &BlockId, b: &BlockId) -> bool {
        self.compare(a, b) == Ordering::Greater
    }

    /// The best tip at or above a block of the tree. Time is linear in the blocks above it.
    pub fn best_tip(&self, from: &BlockId) -> BlockId {
        let mut best = *from;
        let mut open = vec![*from];
        while let Some(id) = open.pop() {
            if self.is_better(&id, &best) {
                best = id;
            }
            open.extend_from_slice(&self.nodes[&id].children);
        }
        best
    }

    /// True if both are in the tree and `ancestor` is `id` or stands below it.
    pub fn descends(&self, id: &BlockId, ancestor: &BlockId) -> bool {
        let (Some(mut node), Some(goal)) = (self.nodes.get(id), self.nodes.get(ancestor)) else {
            return false;
        };
        let mut id = *id;
        while node.height > goal.height {
            id = node.parent;
            match self.nodes.get(&id) {
                Some(above) => node = above,
                None => return false,
            }
        }
        id == *ancestor
    }

    /// The blocks from `ancestor` (excluded) to `id` (included), ascending. Empty if `id` does not
    /// descend from it.
    pub fn path(&self, ancestor: &BlockId, id: &BlockId) -> Vec<BlockId> {
        if !self.descends(id, ancestor) {
            return Vec::new();
        }
        let mut path = Vec::new();
        let mut at = *id;
        while at != *ancestor {
            path.push(at);
            at = self.nodes[&at].parent;
        }
        path.reverse();
        path
    }

    /// The highest block that both descend from. Both must be in the tree.
    pub fn fork_point(&self, a: &BlockId, b: &BlockId) -> BlockId {
        let (mut a, mut b) = (*a, *b);
        while a != b {
            let lower = if self.nodes[&a].height >= self.nodes[&b].height { &mut a } else { &mut b };
            *lower = self.nodes[lower].parent;
        }
        a
    }

    /// Makes a block of the tree its root. Answers what left the tree because it does not descend
    /// from it: the old root and the blocks between included.
    pub fn advance_root(&mut self, root: BlockId) -> Vec<(BlockId, Node<T>)> {
        if !self.nodes.contains_key(&root) {
            return Vec::new();
        }
        let mut removed = Vec::new();
        let mut open = vec![self.root];
        while let Some(id) = open.pop() {
            if id != root
                && let Some(node) = self.nodes.remove(&id)
            {
                open.extend_from_slice(&node.children);
                removed.push((id, node));
            }
        }
        self.root = root;
        removed
    }

    /// All ids, parents before children.
    pub fn ids_ascending(&self) -> Vec<BlockId> {
        let mut ids = vec![self.root];
        let mut at = 0;
        while let Some(id) = ids.get(at) {
            ids.extend_from_slice(&self.nodes[id].children);
            at += 1;
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> BlockId {
        BlockId([n; 32])
    }

    /// `(id, parent, slot)` each.
    fn tree(blocks: &[(u8, u8, u64)]) -> BlockTree<()> {
        let mut tree = BlockTree::new(id(0), 0, None, ());
        for (child, parent, slot) in blocks {
            assert!(tree.insert(id(*child), id(*parent), *slot, ()));
        }
        tree
    }

    #[test]
    fn height_then_slot_then_id() {
        let best = |blocks: &[(u8, u8, u64)]| tree(blocks).best_tip(&id(0));
        assert_eq!(best(&[(1, 0, 1), (2, 1, 2), (3, 0, 3)]), id(2), "height comes first");
        assert_eq!(best(&[(1, 0, 5), (2, 0, 4)]), id(2), "then the smaller slot");
        assert_eq!(best(&[(2, 0, 4), (1, 0, 4)]), id(1), "then the smaller id");
    }

    #[test]
    fn a_longer_branch_beside_the_justified_block_does_not_count() {
        let tree = tree(&[(1, 0, 1), (2, 0, 2), (3, 2, 3), (4, 3, 4)]);
        assert_eq!(tree.best_tip(&id(0)), id(4));
        assert_eq!(tree.best_tip(&id(1)), id(1));
    }

    #[test]
    fn advancing_the_root_drops_what_does_not_descend_from_it() {
        let mut tree = tree(&[(1, 0, 1), (2, 1, 2), (3, 1, 3), (4, 3, 4), (5, 0, 5), (6, 2, 6)]);
        let mut gone: Vec<_> = tree.advance_root(id(2)).into_iter().map(|(id, _)| id.0[0]).collect();
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 3, 4, 5]);
        assert_eq!(tree.ids_ascending(), [id(2), id(6)]);
        assert!(!tree.insert(id(9), id(1), 9, ()), "a parent that is gone is unknown");
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            parents in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..4), 1..60),
            order in any::<u64>(),
        ) {
            let mut blocks = Vec::new();
            for (n, (parent, slot)) in parents.iter().enumerate() {
                blocks.push((n as u8 + 1, parent.index(n + 1) as u8, *slot));
            }
            let ordered = tree(&blocks);
            // Insert what can be inserted, in a scrambled order, until all is in.
            let mut rest = blocks.clone();
            rest.sort_by_key(|(child, ..)| u64::from(*child).wrapping_mul(order | 1).rotate_left(17));
            let mut scrambled = BlockTree::new(id(0), 0, None, ());
            while !rest.is_empty() {
                rest.retain(|(child, parent, slot)| !scrambled.insert(id(*child), id(*parent), *slot, ()));
            }
            for (child, ..) in &blocks {
                prop_assert_eq!(ordered.best_tip(&id(*child)), scrambled.best_tip(&id(*child)));
                let path = ordered.path(&id(0), &id(*child));
                prop_assert_eq!(path.len() as u64, ordered.get(&id(*child)).unwrap().height);
            }
            let (a, b) = (id(blocks[0].0), id(blocks[blocks.len() - 1].0));
            let fork = ordered.fork_point(&a, &b);
            prop_assert!(ordered.descends(&a, &fork) && ordered.descends(&b, &fork));
        }
    }
}

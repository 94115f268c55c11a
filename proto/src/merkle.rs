//! Merkle tree over an ordered list, by the construction of RFC 9162 §2.1 with BLAKE3: leaves and
//! nodes are hashed under different prefixes, and the tree of *n* leaves splits at the largest power
//! of two below *n*, so no leaf is ever duplicated.

use blake3::Hasher;

/// Hash of a tree or of a part of it.
pub type Root = [u8; 32];

/// The root of the empty list: BLAKE3 of nothing.
pub fn empty_root() -> Root {
    *blake3::hash(b"").as_bytes()
}

fn leaf_hash(leaf: &[u8]) -> Root {
    *Hasher::new().update(&[0]).update(leaf).finalize().as_bytes()
}

fn node_hash(left: &Root, right: &Root) -> Root {
    *Hasher::new().update(&[1]).update(left).update(right).finalize().as_bytes()
}

/// The root over `leaves`. Time is linear, extra space logarithmic.
pub fn root<T: AsRef<[u8]>>(leaves: impl IntoIterator<Item = T>) -> Root {
    // A stack of complete subtrees, largest first; equal sizes merge.
    let mut stack: Vec<(u32, Root)> = Vec::new();
    for leaf in leaves {
        let mut node = (0, leaf_hash(leaf.as_ref()));
        while let Some((level, left)) = stack.last() {
            if *level != node.0 {
                break;
            }
            node = (level + 1, node_hash(left, &node.1));
            stack.pop();
        }
        stack.push(node);
    }
    let Some((_, last)) = stack.pop() else {
        return empty_root();
    };
    stack.iter().rev().fold(last, |right, (_, left)| node_hash(left, &right))
}

/// The sibling hashes that lead from leaf `index` to the root, lowest first. `None` if there is no
/// such leaf.
pub fn proof<T: AsRef<[u8]>>(leaves: &[T], index: usize) -> Option<Vec<Root>> {
    fn subtree<T: AsRef<[u8]>>(leaves: &[T], index: usize, path: &mut Vec<Root>) {
        if leaves.len() == 1 {
            return;
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        if index < split {
            subtree(left, index, path);
            path.push(root(right));
        } else {
            subtree(right, index - split, path);
            path.push(root(left));
        }
    }
    (index < leaves.len()).then(|| {
        let mut path = Vec::new();
        subtree(leaves, index, &mut path);
        path
    })
}

/// The root, and for each leaf its path as by [`proof`]. Every leaf is hashed once, so this is the way for leaves that
/// are long or many; the hashes of the tree's nodes are computed once too.
pub fn root_and_proofs<T: AsRef<[u8]>>(leaves: &[T]) -> (Root, Vec<Vec<Root>>) {
    fn subtree(leaves: &[Root], paths: &mut [Vec<Root>]) -> Root {
        if let [leaf] = leaves {
            return *leaf;
        }
        let split = leaves.len().next_power_of_two() / 2;
        let ((left, right), (left_paths, right_paths)) = (leaves.split_at(split), paths.split_at_mut(split));
        let (left, right) = (subtree(left, left_paths), subtree(right, right_paths));
        left_paths.iter_mut().for_each(|path| path.push(right));
        right_paths.iter_mut().for_each(|path| path.push(left));
        node_hash(&left, &right)
    }
    let mut paths = vec![Vec::new(); leaves.len()];
    if leaves.is_empty() {
        return (empty_root(), paths);
    }
    let hashes: Vec<Root> = leaves.iter().map(|leaf| leaf_hash(leaf.as_ref())).collect();
    (subtree(&hashes, &mut paths), paths)
}

/// True if `leaf` stands at `index` among `count` leaves under `root` (RFC 9162 §2.1.3.2).
pub fn verify(leaf: &[u8], index: usize, count: usize, path: &[Root], expected: &Root) -> bool {
    fn climb(index: usize, count: usize, leaf: Root, path: &[Root]) -> Option<Root> {
        if count == 1 {
            return path.is_empty().then_some(leaf);
        }
        let (sibling, rest) = path.split_last()?;
        let split = count.next_power_of_two() / 2;
        if index < split {
            Some(node_hash(&climb(index, split, leaf, rest)?, sibling))
        } else {
            Some(node_hash(sibling, &climb(index - split, count - split, leaf, rest)?))
        }
    }
    index < count && climb(index, count, leaf_hash(leaf), path).as_ref() == Some(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_is_proven_and_nothing_else() {
        for count in 1..40usize {
            let leaves: Vec<[u8; 8]> = (0..count as u64).map(u64::to_be_bytes).collect();
            let root = root(&leaves);
            for index in 0..count {
                let path = proof(&leaves, index).unwrap();
                assert!(verify(&leaves[index], index, count, &path, &root));
                assert!(!verify(b"other", index, count, &path, &root));
                assert!(!verify(&leaves[index], (index + 1) % count, count, &path, &root) || count == 1);
                if let Some((_, short)) = path.split_first() {
                    assert!(!verify(&leaves[index], index, count, short, &root));
                }
            }
            assert_eq!(proof(&leaves, count), None);
            let paths = (0..count).map(|index| proof(&leaves, index).unwrap()).collect();
            assert_eq!(root_and_proofs(&leaves), (root, paths));
        }
    }

    #[test]
    fn no_leaves_have_no_proofs() {
        assert_eq!(root_and_proofs::<[u8; 1]>(&[]), (empty_root(), Vec::new()));
    }

    #[test]
    fn a_repeated_last_leaf_changes_the_root() {
        // The mistake of CVE-2012-2459: [a, b, c] and [a, b, c, c] must differ.
        assert_ne!(root([b"a", b"b", b"c"]), root([b"a", b"b", b"c", b"c"]));
    }
}

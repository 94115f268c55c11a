//! Which blocks may hold a log entry that is looked for.
//!
//! The filter is shaped as Ethereum's (yellow paper, section 4.4.3) but hashes with BLAKE3: it never
//! leaves the node. 2,048 bits, three for each address and
//! each topic. A block that has none of the bits cannot hold the entry; one that has all of them may.

use ghost_proto::{Address, Receipt};

const BLOOM_LEN: usize = 256;

/// The filter of the logs in one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBloom(Box<[u8; BLOOM_LEN]>);

impl LogBloom {
    /// Over all logs of a block; `None` if there are none.
    pub fn of(receipts: &[Receipt]) -> Option<Self> {
        let mut bloom = Self(Box::new([0; BLOOM_LEN]));
        let mut any = false;
        for log in receipts.iter().flat_map(|receipt| &receipt.logs) {
            any = true;
            bloom.add(&log.address.0);
            log.topics.iter().for_each(|topic| bloom.add(topic));
        }
        any.then_some(bloom)
    }

    /// Reads what [`Self::bytes`] gave.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self(Box::new(bytes.try_into().ok()?)))
    }

    /// The bits.
    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }

    /// Byte and bit of each of the three places of an entry.
    fn places(entry: &[u8]) -> [(usize, u8); 3] {
        let hash = blake3::hash(entry);
        [0, 2, 4].map(|at| {
            let bit = usize::from(u16::from_be_bytes([hash.as_bytes()[at], hash.as_bytes()[at + 1]]))
                % (8 * BLOOM_LEN);
            (bit / 8, 1 << (bit % 8))
        })
    }

    fn add(&mut self, entry: &[u8]) {
        for (byte, bit) in Self::places(entry) {
            self.0[byte] |= bit;
        }
    }

    fn may_hold(&self, entry: &[u8]) -> bool {
        Self::places(entry).iter().all(|(byte, bit)| self.0[*byte] & bit != 0)
    }

    /// False if no log in the block is of this contract.
    pub fn may_hold_address(&self, address: &Address) -> bool {
        self.may_hold(&address.0)
    }

    /// False if no log in the block has this topic.
    pub fn may_hold_topic(&self, topic: &[u8; 32]) -> bool {
        self.may_hold(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::{LogEntry, Outcome};

    #[test]
    fn holds_what_was_logged_and_little_else() {
        let mut receipt = Receipt::plain(Outcome::Done, 1);
        assert_eq!(LogBloom::of(std::slice::from_ref(&receipt)), None);
        receipt.logs = vec![LogEntry {
            address: Address([1; 20]),
            topics: vec![[2; 32], [3; 32]],
            data: [9; 4].to_vec().into(),
        }];
        let bloom = LogBloom::of(&[receipt]).unwrap();
        assert!(bloom.may_hold_address(&Address([1; 20])));
        assert!(bloom.may_hold_topic(&[2; 32]) && bloom.may_hold_topic(&[3; 32]));
        assert_eq!(LogBloom::parse(bloom.bytes()), Some(bloom.clone()));
        let false_hits = (4..=255).filter(|n| bloom.may_hold_topic(&[*n; 32])).count();
        assert_eq!(false_hits, 0, "9 bits of 2,048 are set: a hit by chance is one in ten million");
    }
}

//! Slots and turns.

use std::sync::Arc;

use ghost_proto::{Genesis, GenesisId, Header};

/// How far in the future a block's slot may begin, in milliseconds, by our clock. Clocks disciplined
/// by NTP differ by less than 100 ms over the internet; a block that was made 1 s early is either
/// from a broken clock or an attempt to take the place of those whose turn comes first.
pub const FUTURE_TOLERANCE_MS: u64 = 1_000;

/// Why a header can never be valid, whatever comes before it. Anyone can make such a header, and
/// everyone who relays checks it: the sender is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TurnFault {
    /// The slot belongs to another authority.
    #[error("slot {slot} is the turn of authority {expected}, the header names {found}")]
    NotItsTurn {
        /// The slot.
        slot: u64,
        /// Whose turn it is.
        expected: u16,
        /// Whom the header names.
        found: u16,
    },
    /// The signature does not verify under the key of the proposer.
    #[error("the proposer's signature does not verify")]
    BadSignature,
}

/// Slots, turns and the clock rule of one chain.
#[derive(Debug, Clone)]
pub struct Schedule {
    genesis: Arc<Genesis>,
    id: GenesisId,
}

impl Schedule {
    /// The schedule a genesis sets.
    pub fn new(genesis: Arc<Genesis>) -> Self {
        let id = genesis.id();
        Self { genesis, id }
    }

    /// The genesis.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    /// Its id.
    pub fn genesis_id(&self) -> &GenesisId {
        &self.id
    }

    /// Whose turn it is, then the signature (about 40 µs).
    pub fn check(&self, header: &Header) -> Result<(), TurnFault> {
        self.check_turn(header)?;
        let key = self.genesis.authorities.key(header.proposer).ok_or(TurnFault::BadSignature)?;
        header.verify(&self.id, key).map_err(|_| TurnFault::BadSignature)
    }

    /// Whose turn it is.
    pub fn check_turn(&self, header: &Header) -> Result<(), TurnFault> {
        let expected = self.genesis.authorities.proposer_of(header.slot);
        if header.proposer == expected {
            Ok(())
        } else {
            Err(TurnFault::NotItsTurn { slot: header.slot, expected, found: header.proposer })
        }
    }

    /// When a block of this slot may be accepted: `None` for now, else the time in unix milliseconds.
    pub fn not_before(&self, slot: u64, now_unix_ms: u64) -> Option<u64> {
        let start = self.genesis.slot_start_unix_ms(slot);
        (start > now_unix_ms.saturating_add(FUTURE_TOLERANCE_MS)).then(|| start - FUTURE_TOLERANCE_MS)
    }

    /// The first slot of `authority` at or after `slot`.
    pub fn next_turn(&self, authority: u16, slot: u64) -> u64 {
        let count = self.genesis.authorities.len() as u64;
        slot.saturating_add((u64::from(authority) + count - slot % count) % count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_proto::{AuthoritySet, KeyPair, block::HeaderFields};

    fn schedule() -> (Schedule, Vec<KeyPair>) {
        let keys: Vec<_> = (1..=3).map(|seed| KeyPair::from_seed(&[seed; 32])).collect();
        let genesis = Genesis {
            name: "test".into(),
            chain_id: 1,
            time_unix_ms: 10_000,
            slot_ms: 500,
            gas_price_min: 1,
            block_gas_max: 30_000_000,
            block_bytes_max: 1 << 20,
            authorities: AuthoritySet::new(keys.iter().map(KeyPair::public).collect()).unwrap(),
            markets: Default::default(),
            allocation: [].into(),
            feeds: Vec::new(),
        };
        (Schedule::new(Arc::new(genesis)), keys)
    }

    fn header(schedule: &Schedule, slot: u64, proposer: u16, key: &KeyPair) -> Header {
        HeaderFields {
            parent: ghost_proto::BlockId([1; 32]),
            height: 1,
            slot,
            proposer,
            tx_count: 0,
            body_bytes: 0,
            tx_root: [0; 32],
            receipt_root: [0; 32],
            state: [0; 32],
            gas_used: 0,
        }
        .seal(schedule.genesis_id(), key)
    }

    #[test]
    fn only_the_one_whose_turn_it_is_may_propose() {
        let (schedule, keys) = schedule();
        assert_eq!(schedule.check(&header(&schedule, 4, 1, &keys[1])), Ok(()));
        assert_eq!(
            schedule.check(&header(&schedule, 4, 2, &keys[2])),
            Err(TurnFault::NotItsTurn { slot: 4, expected: 1, found: 2 })
        );
        assert_eq!(schedule.check(&header(&schedule, 4, 1, &keys[2])), Err(TurnFault::BadSignature));
    }

    #[test]
    fn the_future_begins_one_millisecond_beyond_the_tolerance() {
        let (schedule, _) = schedule();
        let start = 10_000 + 4 * 500;
        assert_eq!(schedule.not_before(4, start - FUTURE_TOLERANCE_MS), None);
        assert_eq!(
            schedule.not_before(4, start - FUTURE_TOLERANCE_MS - 1),
            Some(start - FUTURE_TOLERANCE_MS)
        );
    }

    #[test]
    fn turns_come_round() {
        let (schedule, _) = schedule();
        let turns: Vec<u64> = (0..7).map(|slot| schedule.next_turn(1, slot)).collect();
        assert_eq!(turns, [1, 1, 4, 4, 4, 7, 7]);
    }
}

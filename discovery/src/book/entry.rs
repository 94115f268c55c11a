//! One (peer, place) in the book, and how much we think of it.

use ghost_proto::PublicKey;

use crate::{address::Endpoint, netgroup::NetGroup};

/// Most "new" slots one entry can be in, through different sources.
pub const NEW_SLOTS_PER_ENTRY: usize = 8;

/// An entry not heard of for so long is terrible: 30 days.
pub const HORIZON_S: u32 = 30 * 24 * 3600;
/// Failed attempts after which an entry that never succeeded is terrible.
pub const RETRIES_NEVER_REACHED: u16 = 3;
/// Failed attempts after which an entry that succeeded more than [`FAILING_S`] ago is terrible.
pub const RETRIES_ONCE_REACHED: u16 = 10;
/// See [`RETRIES_ONCE_REACHED`]: 7 days.
pub const FAILING_S: u32 = 7 * 24 * 3600;
/// How far ahead of our clock a claimed time may be: a record's hour, and peers' clocks are off.
pub const FUTURE_S: u32 = 2 * 3600;
/// Nobody is terrible within a minute of being tried: the attempt may still be going on.
pub const JUST_TRIED_S: u32 = 60;

/// What the book is counted by: who, and where. Placement uses only the place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The ed25519 key inside the PeerId.
    pub peer: PublicKey,
    /// The place.
    pub endpoint: Endpoint,
}

/// One entry. 120 bytes; times are Unix seconds (good until 2106), 0 = never.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) source: NetGroup,
    pub(super) last_seen_s: u32,
    pub(super) last_try_s: u32,
    pub(super) last_counted_s: u32,
    pub(super) last_success_s: u32,
    pub(super) attempts: u16,
    pub(super) tried: bool,
    /// The store knows this entry, so its removal has to be told too.
    pub(super) persisted: bool,
    pub(super) slot_count: u8,
    pub(super) slots: [u16; NEW_SLOTS_PER_ENTRY],
}

impl Entry {
    pub(super) fn slots(&self) -> &[u16] {
        &self.slots[..usize::from(self.slot_count)]
    }

    pub(super) fn push_slot(&mut self, slot: u16) {
        self.slots[usize::from(self.slot_count)] = slot;
        self.slot_count += 1;
    }

    pub(super) fn remove_slot(&mut self, slot: u16) {
        if let Some(at) = self.slots().iter().position(|&one| one == slot) {
            self.slot_count -= 1;
            self.slots.swap(at, usize::from(self.slot_count));
        }
    }

    /// Not worth its slot if anyone else wants it (the rule of Bitcoin Core's address manager).
    pub(super) fn is_terrible(&self, now_s: u32) -> bool {
        if self.last_try_s != 0 && now_s.saturating_sub(self.last_try_s) < JUST_TRIED_S {
            return false;
        }
        self.last_seen_s > now_s.saturating_add(FUTURE_S)
            || now_s.saturating_sub(self.last_seen_s) > HORIZON_S
            || (self.last_success_s == 0 && self.attempts >= RETRIES_NEVER_REACHED)
            || (now_s.saturating_sub(self.last_success_s) > FAILING_S
                && self.attempts >= RETRIES_ONCE_REACHED)
    }

    /// Relative chance to be chosen, 0.00036 to 1: a hundredth within ten minutes of an attempt,
    /// two thirds for each failure, eight of which count.
    pub(super) fn chance(&self, now_s: u32) -> f64 {
        let recent = self.last_try_s != 0 && now_s.saturating_sub(self.last_try_s) < 600;
        0.66f64.powi(i32::from(self.attempts.min(8))) * if recent { 0.01 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let address = "1.2.3.4:5".parse::<std::net::SocketAddr>().unwrap();
        Entry {
            key: Key { peer: PublicKey([0; 32]), endpoint: address.into() },
            source: NetGroup::OPERATOR,
            last_seen_s: 1_000_000_000,
            last_try_s: 0,
            last_counted_s: 0,
            last_success_s: 0,
            attempts: 0,
            tried: false,
            persisted: false,
            slot_count: 0,
            slots: [0; NEW_SLOTS_PER_ENTRY],
        }
    }

    #[test]
    fn terrible_from_both_sides() {
        let seen = 1_000_000_000;
        assert!(!entry().is_terrible(seen + HORIZON_S));
        assert!(entry().is_terrible(seen + HORIZON_S + 1));
        assert!(!entry().is_terrible(seen - FUTURE_S));
        assert!(entry().is_terrible(seen - FUTURE_S - 1));

        let never = Entry { attempts: RETRIES_NEVER_REACHED - 1, ..entry() };
        assert!(!never.is_terrible(seen));
        let never = Entry { attempts: RETRIES_NEVER_REACHED, last_try_s: seen, ..entry() };
        assert!(!never.is_terrible(seen + JUST_TRIED_S - 1), "it may still be connecting");
        assert!(never.is_terrible(seen + JUST_TRIED_S));

        let once = Entry { attempts: RETRIES_ONCE_REACHED, last_success_s: seen, ..entry() };
        assert!(!once.is_terrible(seen + FAILING_S));
        assert!(once.is_terrible(seen + FAILING_S + 1));
        let fewer = Entry { attempts: RETRIES_ONCE_REACHED - 1, ..once };
        assert!(!fewer.is_terrible(seen + FAILING_S + 1));
    }

    #[test]
    fn size_and_smallest_chance() {
        assert_eq!(size_of::<Entry>(), 112);
        let worst = Entry { attempts: 1000, last_try_s: 1_000_000_000, ..entry() };
        let chance = worst.chance(1_000_000_001);
        assert!(chance > 0.000_35 && chance < 0.000_37, "{chance}");
        assert_eq!(entry().chance(1_000_000_001), 1.0);
    }
}

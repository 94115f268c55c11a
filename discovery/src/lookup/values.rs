//! Values that we keep for others.

use std::collections::BTreeMap;

use ghost_frames::discovery::StoreOutcome;
use ghost_proto::{LookupKey, SignedValue};

use super::table::BUCKET_PEERS;
use crate::netgroup::NetGroup;

/// Values kept: 8,192 × (659 bytes and about 300 of bookkeeping) = 8 MiB.
pub const VALUES_MAX: usize = 8192;
/// Of these, most that came from one netgroup.
pub const VALUES_PER_SOURCE_MAX: usize = 128;
/// A value is kept for at most a day: who wants it there longer says so again.
pub const VALUE_LIVES_S_MAX: u64 = 24 * 3600;

/// How far a clock may be ahead of the owner's: an hour.
const CLOCK_SLACK_S: u64 = 3600;

#[derive(Debug)]
struct Kept {
    value: SignedValue,
    source: NetGroup,
}

/// See the [module documentation](self). A core.
///
/// One value for each key, which names an owner and a label: nobody takes up the place of another owner's value.
/// When there is no room, values that are nearer to us displace those that are farther: our neighbours keep those.
#[derive(Debug)]
pub struct Values {
    own: LookupKey,
    /// By distance from us, so that the farthest is the last.
    kept: BTreeMap<[u8; 32], Kept>,
    sources: BTreeMap<NetGroup, usize>,
}

impl Values {
    /// Empty, for the node at this key.
    pub fn new(own: LookupKey) -> Self {
        Self { own, kept: BTreeMap::new(), sources: BTreeMap::new() }
    }

    /// Values kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True if none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The value at this key, unless it is void.
    pub fn get(&self, key: &LookupKey, now_unix_ms: u64) -> Option<&SignedValue> {
        let kept = self.kept.get(&self.own.distance(key))?;
        (kept.value.expires_unix_s() > now_unix_ms / 1000).then_some(&kept.value)
    }

    /// Keeps a value that `source` brought, or says why not. `nearer` peers that we know are nearer to it than we
    /// are.
    pub fn store(
        &mut self,
        value: SignedValue,
        source: NetGroup,
        nearer: usize,
        now_unix_ms: u64,
    ) -> StoreOutcome {
        let now_s = now_unix_ms / 1000;
        let expires = value.expires_unix_s();
        if expires <= now_s || expires > now_s.saturating_add(VALUE_LIVES_S_MAX + CLOCK_SLACK_S) {
            return StoreOutcome::Expiry;
        }
        let distance = self.own.distance(&value.key());
        if let Some(kept) = self.kept.get_mut(&distance) {
            if kept.value.sequence() > value.sequence() {
                return StoreOutcome::Newer;
            }
            // It stays on the account of whoever brought it first: a replay costs nobody else a place.
            if kept.value.sequence() < value.sequence() {
                kept.value = value;
            }
            return StoreOutcome::Stored;
        }
        if nearer >= BUCKET_PEERS {
            return StoreOutcome::NotNear;
        }
        if self.sources.get(&source).is_some_and(|count| *count >= VALUES_PER_SOURCE_MAX) {
            return StoreOutcome::Full;
        }
        if self.kept.len() >= VALUES_MAX {
            self.expire(now_unix_ms);
        }
        if self.kept.len() >= VALUES_MAX {
            match self.kept.last_key_value() {
                Some((farthest, _)) if *farthest > distance => {
                    let farthest = *farthest;
                    self.remove(&farthest);
                }
                _ => return StoreOutcome::Full,
            }
        }
        *self.sources.entry(source).or_default() += 1;
        self.kept.insert(distance, Kept { value, source });
        StoreOutcome::Stored
    }

    /// Forgets what is void.
    pub fn expire(&mut self, now_unix_ms: u64) {
        let now_s = now_unix_ms / 1000;
        let void: Vec<_> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.value.expires_unix_s() <= now_s)
            .map(|(distance, _)| *distance)
            .collect();
        void.iter().for_each(|distance| self.remove(distance));
    }

    fn remove(&mut self, distance: &[u8; 32]) {
        let Some(Kept { source, .. }) = self.kept.remove(distance) else { return };
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW_MS, key, peer};

    const NOW_S: u64 = NOW_MS / 1000;

    fn value(n: u32, sequence: u64, expires: u64) -> SignedValue {
        SignedValue::sign(&key(n), b"mailbox", sequence, expires, b"here").unwrap()
    }

    fn values() -> Values {
        Values::new(LookupKey::of_peer(&peer(0)))
    }

    fn group(n: u32) -> NetGroup {
        NetGroup([b'x', n as u8, (n >> 8) as u8, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_newer_of_two_stays_and_a_void_one_is_gone() {
        let mut values = values();
        let (old, new) = (value(1, 1, NOW_S + 50), value(1, 2, NOW_S + 60));
        assert_eq!(values.store(old.clone(), group(1), 0, NOW_MS), StoreOutcome::Stored);
        assert_eq!(values.store(new.clone(), group(2), 0, NOW_MS), StoreOutcome::Stored);
        assert_eq!(values.store(old, group(1), 0, NOW_MS), StoreOutcome::Newer);
        assert_eq!(values.get(&new.key(), NOW_MS), Some(&new));
        assert_eq!(values.get(&new.key(), NOW_MS + 59_999), Some(&new));
        assert_eq!(values.get(&new.key(), NOW_MS + 60_000), None);
        values.expire(NOW_MS + 60_000);
        assert!(values.is_empty() && values.sources.is_empty());
    }

    #[test]
    fn expiry_and_nearness_are_held_from_both_sides() {
        let mut values = values();
        let last = NOW_S + VALUE_LIVES_S_MAX + CLOCK_SLACK_S;
        assert_eq!(values.store(value(1, 1, NOW_S), group(1), 0, NOW_MS), StoreOutcome::Expiry);
        assert_eq!(values.store(value(1, 1, NOW_S + 1), group(1), 0, NOW_MS), StoreOutcome::Stored);
        assert_eq!(values.store(value(2, 1, last + 1), group(1), 0, NOW_MS), StoreOutcome::Expiry);
        assert_eq!(values.store(value(2, 1, last), group(1), BUCKET_PEERS, NOW_MS), StoreOutcome::NotNear);
        assert_eq!(values.store(value(2, 1, last), group(1), BUCKET_PEERS - 1, NOW_MS), StoreOutcome::Stored);
    }

    #[test]
    fn one_source_fills_its_share_and_all_sources_fill_the_rest_nearest_first() {
        let mut values = values();
        let until = NOW_S + 1000;
        let stored = (0..VALUES_PER_SOURCE_MAX as u32 + 40)
            .filter(|n| values.store(value(*n, 1, until), group(1), 0, NOW_MS) == StoreOutcome::Stored)
            .count();
        assert_eq!(stored, VALUES_PER_SOURCE_MAX);
        for n in 1000..1000 + VALUES_MAX as u32 + 200 {
            values.store(value(n, 1, until), group(2 + n / 100), 0, NOW_MS);
        }
        assert_eq!(values.len(), VALUES_MAX);
        assert_eq!(values.sources.values().sum::<usize>(), VALUES_MAX);
        let farthest = *values.kept.last_key_value().unwrap().0;
        let (mut nearer, mut n) = (None, 20_000);
        while nearer.is_none() {
            n += 1;
            let candidate = value(n, 1, until);
            if values.own.distance(&candidate.key()) < farthest {
                nearer = Some(candidate);
            }
        }
        assert_eq!(values.store(nearer.unwrap(), group(999), 0, NOW_MS), StoreOutcome::Stored);
        assert_eq!(values.len(), VALUES_MAX);
        assert!(!values.kept.contains_key(&farthest));
    }
}

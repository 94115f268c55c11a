//! What was made of code, for the next call of the same contract.
//!
//! Code never changes under its hash, so nothing in here can be wrong, only missing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

/// Values by code hash, bounded in bytes.
///
/// There are two generations. What is asked for moves to the young one; when that has half of the
/// bytes, it becomes the old one, and what the old one still had is forgotten. So what is asked for
/// often stays, and neither asking nor keeping looks at more than one value.
#[derive(Debug)]
pub(super) struct CodeCache<T>(Mutex<Generations<T>>);

#[derive(Debug)]
struct Generations<T> {
    bytes_max: usize,
    young: HashMap<[u8; 32], (T, usize)>,
    young_bytes: usize,
    old: HashMap<[u8; 32], (T, usize)>,
}

/// Bytes that an entry takes besides its value: the key twice over, for the map has room to spare.
const ENTRY_BYTES: usize = 128;

impl<T: Clone> CodeCache<T> {
    /// Holds at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Generations {
            bytes_max,
            young: HashMap::new(),
            young_bytes: 0,
            old: HashMap::new(),
        }))
    }

    fn generations(&self) -> MutexGuard<'_, Generations<T>> {
        self.0.lock().expect("no code panics while it holds the cache")
    }

    /// What is kept under a hash.
    pub(super) fn get(&self, code_hash: &[u8; 32]) -> Option<T> {
        let mut generations = self.generations();
        if let Some((value, _)) = generations.young.get(code_hash) {
            return Some(value.clone());
        }
        let (value, bytes) = generations.old.remove(code_hash)?;
        generations.keep(*code_hash, value.clone(), bytes);
        Some(value)
    }

    /// Keeps a value of so many bytes. One that is larger than half of the cache is not kept.
    pub(super) fn put(&self, code_hash: [u8; 32], value: T, bytes: usize) {
        self.generations().keep(code_hash, value, bytes + ENTRY_BYTES);
    }
}

impl<T> Generations<T> {
    fn keep(&mut self, code_hash: [u8; 32], value: T, bytes: usize) {
        let half = self.bytes_max / 2;
        if bytes > half || self.young.contains_key(&code_hash) {
            return;
        }
        if self.young_bytes + bytes > half {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(code_hash, (value, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> [u8; 32] {
        [n; 32]
    }

    fn bytes(cache: &CodeCache<u8>) -> usize {
        let generations = cache.generations();
        generations.young.values().chain(generations.old.values()).map(|(_, bytes)| bytes).sum()
    }

    #[test]
    fn it_never_holds_more_than_its_bytes_and_keeps_what_is_asked_for() {
        let cache = CodeCache::new(10 * 1_000);
        for n in 0..=200 {
            cache.put(hash(n), n, 1_000 - ENTRY_BYTES);
            assert_eq!(cache.get(&hash(0)), Some(0), "it is asked for after every other one");
            assert!(bytes(&cache) <= 10_000, "{}", bytes(&cache));
        }
        assert_eq!(cache.get(&hash(200)), Some(200));
        assert_eq!(cache.get(&hash(100)), None);
    }

    #[test]
    fn what_is_larger_than_half_is_not_kept() {
        let cache = CodeCache::new(1_000);
        cache.put(hash(1), 1, 500 - ENTRY_BYTES);
        cache.put(hash(2), 2, 501 - ENTRY_BYTES);
        assert_eq!((cache.get(&hash(1)), cache.get(&hash(2))), (Some(1), None));
    }
}

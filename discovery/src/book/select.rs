//! Choosing whom to dial or to pass on.

use bytes::Bytes;
use ghost_proto::PeerId;
use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use super::{AddressBook, BUCKET_SLOTS, EMPTY, seconds};
use crate::address::{Endpoint, Network, peer_id};

/// Draws before the tables are searched from end to end. The smallest chance is 0.01 × 0.66^8 =
/// 1/2,780, and 1.2^44 is more: 44 acceptable draws always end with a choice.
const DRAWS_MAX: usize = 128;
const CHANCE_GROWS: f64 = 1.2;

/// Somebody to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who is expected there.
    pub peer: PeerId,
    /// Where.
    pub endpoint: Endpoint,
    /// A handshake proved it once.
    pub tried: bool,
    /// Stream types its record claims, bit *n* for type *n*; 0 if unknown.
    pub stream_types: u64,
}

/// Which table to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Either with equal chance, as long as both have entries.
    Either,
    /// Only what we were told of.
    New,
    /// Only what a handshake proved.
    Tried,
}

impl AddressBook {
    /// Chooses an entry that `accept` agrees to: a table, then a bucket of it that is not empty, then
    /// an entry in that, each with equal chance, weighed by how well it did so far. Whoever fills
    /// few buckets is chosen rarely, however many entries it made.
    ///
    /// Takes at most 128 draws and one pass over the tables (81,920 slots).
    pub fn select(
        &self,
        table: Table,
        network: Option<Network>,
        mut accept: impl FnMut(&PeerId, &Endpoint) -> bool,
        rng: &mut ChaCha12Rng,
        now_unix_ms: u64,
    ) -> Option<Candidate> {
        if network.is_some_and(|network| self.network_len(network) == 0) {
            return None;
        }
        let now = seconds(now_unix_ms);
        let mut acceptable = |id: u32| {
            let key = &self.entry(id).key;
            network.is_none_or(|network| network == key.endpoint.network())
                && accept(&peer_id(&key.peer), &key.endpoint)
        };
        let from_tried = |rng: &mut ChaCha12Rng| match table {
            Table::New => false,
            Table::Tried => true,
            Table::Either if self.tried_count == 0 => false,
            Table::Either if self.new_count == 0 => true,
            Table::Either => rng.random_bool(0.5),
        };
        let mut factor = 1.0;
        for _ in 0..DRAWS_MAX {
            let id = self.draw(from_tried(rng), rng)?;
            if !acceptable(id) {
                continue;
            }
            if rng.random::<f64>() < self.entry(id).chance(now) * factor {
                return Some(self.candidate(id));
            }
            factor *= CHANCE_GROWS;
        }
        let first = from_tried(rng);
        let second = (table == Table::Either).then_some(!first);
        [Some(first), second].into_iter().flatten().find_map(|tried| {
            let slots = if tried { &self.tried } else { &self.new };
            let start = rng.random_range(0..slots.len() / BUCKET_SLOTS) * BUCKET_SLOTS;
            let (before, after) = slots.split_at(start);
            let id = after.iter().chain(before).copied().find(|&id| id != EMPTY && acceptable(id))?;
            Some(self.candidate(id))
        })
    }

    /// Up to `count` different tried peers with their records, chosen at random. `accept` sees where
    /// each was reached.
    pub fn sample_records(
        &self,
        count: usize,
        mut accept: impl FnMut(&PeerId, &Endpoint) -> bool,
        rng: &mut ChaCha12Rng,
    ) -> Vec<(PeerId, Bytes)> {
        let mut ids: Vec<u32> = self.tried.iter().copied().filter(|&id| id != EMPTY).collect();
        let mut chosen: Vec<(PeerId, Bytes)> = Vec::new();
        // Fisher-Yates, only as far as needed.
        let mut left = ids.len();
        while left > 0 && chosen.len() < count {
            let at = rng.random_range(0..left);
            left -= 1;
            ids.swap(at, left);
            let key = &self.entry(ids[left]).key;
            let Some(record) = self.peers.get(&key.peer).and_then(|known| known.record.as_ref()) else {
                continue;
            };
            let peer = peer_id(&key.peer);
            if accept(&peer, &key.endpoint) && !chosen.iter().any(|(one, _)| *one == peer) {
                chosen.push((peer, record.clone()));
            }
        }
        chosen
    }

    fn draw(&self, tried: bool, rng: &mut ChaCha12Rng) -> Option<u32> {
        let (slots, fill) = if tried { (&self.tried, &self.tried_fill) } else { (&self.new, &self.new_fill) };
        let filled = fill.iter().filter(|&&count| count > 0).count();
        if filled == 0 {
            return None;
        }
        let bucket = fill
            .iter()
            .enumerate()
            .filter(|&(_, &count)| count > 0)
            .nth(rng.random_range(0..filled))
            .map(|(bucket, _)| bucket)?;
        let slots = &slots[bucket * BUCKET_SLOTS..][..BUCKET_SLOTS];
        let wanted = rng.random_range(0..usize::from(fill[bucket]));
        slots.iter().copied().filter(|&id| id != EMPTY).nth(wanted)
    }
}

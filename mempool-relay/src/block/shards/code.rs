//! Cutting a payload into shards, and putting it together from enough of them.

use std::sync::Arc;

use bytes::Bytes;
use ghost_frames::shards::{Geometry, Shard, ShardRoot};
use ghost_proto::merkle;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// All shards of a payload, each with its proof.
#[derive(Debug, Clone)]
pub struct Coded {
    /// Over all of them.
    pub root: ShardRoot,
    /// In order.
    pub shards: Vec<Arc<Shard>>,
}

/// Cuts a payload. About 100 ms for one of 32 MiB, half of it for the hashes: do it where nothing waits.
///
/// # Panics
/// Never for payloads of a block; [`Geometry::of`] keeps within what the code can do.
pub fn encode(payload: &[u8]) -> Coded {
    let geometry = Geometry::of(payload.len());
    let mut encoder = ReedSolomonEncoder::new(geometry.data, geometry.repair, geometry.shard_bytes)
        .expect("any geometry is within the code's bounds");
    let mut pieces: Vec<Bytes> = Vec::with_capacity(geometry.count());
    for at in 0..geometry.data {
        let range = |at: usize| (at * geometry.shard_bytes).min(payload.len());
        let mut piece = payload[range(at)..range(at + 1)].to_vec();
        piece.resize(geometry.shard_bytes, 0);
        encoder.add_original_shard(&piece).expect("as many shards of this length as were announced");
        pieces.push(piece.into());
    }
    let repair = encoder.encode().expect("all shards were given");
    pieces.extend(repair.recovery_iter().map(Bytes::copy_from_slice));
    let (root, paths) = merkle::root_and_proofs(&pieces);
    let root = ShardRoot(root);
    let shards = pieces.into_iter().zip(paths).enumerate();
    let shards =
        shards.map(|(index, (bytes, path))| Arc::new(Shard { root, index: index as u16, path, bytes }));
    Coded { root, shards: shards.collect() }
}

/// The payload of `payload_bytes` bytes from shards that were checked against their root; `None` if they are too few.
pub fn decode(payload_bytes: usize, shards: &[Arc<Shard>]) -> Option<Vec<u8>> {
    let geometry = Geometry::of(payload_bytes);
    let mut decoder = ReedSolomonDecoder::new(geometry.data, geometry.repair, geometry.shard_bytes).ok()?;
    let mut payload = vec![0; geometry.data * geometry.shard_bytes];
    let mut place = |index: usize, bytes: &[u8]| {
        payload[index * geometry.shard_bytes..][..geometry.shard_bytes].copy_from_slice(bytes);
    };
    for shard in shards {
        let index = usize::from(shard.index);
        match index.checked_sub(geometry.data) {
            None => {
                decoder.add_original_shard(index, &shard.bytes).ok()?;
                place(index, &shard.bytes);
            }
            Some(repair) => decoder.add_recovery_shard(repair, &shard.bytes).ok()?,
        }
    }
    for (index, bytes) in decoder.decode().ok()?.restored_original_iter() {
        place(index, bytes);
    }
    payload.truncate(payload_bytes);
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

    fn payload(bytes: usize, seed: u64) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..bytes).map(|_| rng.random()).collect()
    }

    #[test]
    fn any_two_thirds_give_the_payload_back_and_one_less_does_not() {
        let mut rng = StdRng::seed_from_u64(1);
        for bytes in [65_536, 65_537, 100_001, 300_000, 1_000_003] {
            let payload = payload(bytes, bytes as u64);
            let coded = encode(&payload);
            let geometry = Geometry::of(bytes);
            assert_eq!(coded.shards.len(), geometry.count());
            let mut shards = coded.shards.clone();
            for _ in 0..4 {
                shards.shuffle(&mut rng);
                assert_eq!(decode(bytes, &shards[..geometry.data]), Some(payload.clone()));
                assert_eq!(decode(bytes, &shards[1..geometry.data]), None);
            }
            assert_eq!(decode(bytes, &coded.shards[..geometry.data]), Some(payload));
        }
    }

    #[test]
    fn every_shard_is_proved_alone() {
        let coded = encode(&payload(200_000, 7));
        let count = coded.shards.len();
        for shard in &coded.shards {
            let (index, path) = (usize::from(shard.index), &shard.path);
            assert!(merkle::verify(&shard.bytes, index, count, path, &coded.root.0));
            assert!(!merkle::verify(&shard.bytes, (index + 1) % count, count, path, &coded.root.0));
        }
    }

    #[test]
    fn the_code_is_frozen() {
        // A change breaks every peer: `WIRE.md` tells the root of the bytes 0, 1, … 250, 0, … 100,000 of them.
        let payload: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let root = hex::encode(encode(&payload).root.0);
        assert_eq!(root, FROZEN);
    }

    const FROZEN: &str = "081e00c952408562e573c8d7e776244020baed80dd3218ae9354e7581a54b3a3";
}

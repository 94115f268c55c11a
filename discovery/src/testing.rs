//! What the tests of this crate share: peers, places and records made from small numbers.

use std::net::SocketAddr;

use ghost_proto::{KeyPair, PeerId, PeerRecord, PublicKey};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::address::{Endpoint, peer_id};

/// A day in 2026, on the hour.
pub(crate) const NOW_MS: u64 = 1_780_000_000_000 / 3_600_000 * 3_600_000;

pub(crate) fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

pub(crate) fn key(n: u32) -> KeyPair {
    let mut seed = [0x11; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    KeyPair::from_seed(&seed)
}

pub(crate) fn peer(n: u32) -> PeerId {
    peer_id(&key(n).public())
}

/// A PeerId that nobody has the key of: a thousand times cheaper than [`peer`].
pub(crate) fn made_up(n: u32) -> PublicKey {
    let mut bytes = [0xee; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey(bytes)
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().unwrap().into()
}

/// A global IPv4 place: `n` decides about the /16 (65,536 of them minus those not global), `host` about the rest.
pub(crate) fn place(group: u16, host: u16) -> Endpoint {
    // 16.0.0.0 to 99.255.0.0 is global throughout: 84 × 256 = 21,504 groups.
    let group = group % 21_504;
    let ip = [16 + (group / 256) as u8, group as u8, (host / 256) as u8, host as u8];
    SocketAddr::new(ip.into(), 4001).into()
}

pub(crate) fn record_of(n: u32, places: &[&str], sequence: u64) -> PeerRecord {
    let addresses = places.iter().map(|text| endpoint(text).to_multiaddr()).collect();
    PeerRecord::sign(&key(n), addresses, 0xff, sequence, NOW_MS / 1000).unwrap()
}

pub(crate) fn record_at(n: u32, place: &Endpoint, sequence: u64) -> PeerRecord {
    PeerRecord::sign(&key(n), vec![place.to_multiaddr()], 0xff, sequence, NOW_MS / 1000).unwrap()
}

//! Which slot an address may take: a keyed hash of netgroups and the place, never of the PeerId.
//!
//! The scheme is that of Bitcoin Core's address manager, after Heilman, Kendler, Zohar, Goldberg,
//! "Eclipse Attacks on Bitcoin's Peer-to-Peer Network" (USENIX Security 2015). Two things differ,
//! because identities are free here: a PeerId takes no part in the hash, so a million identities at
//! one place compete for one slot of a bucket; and the port takes no part in choosing the bucket of a
//! tried address, so one machine reaches one tried bucket whatever ports it opens.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::{
    address::{Endpoint, Host},
    netgroup::NetGroup,
};

/// Slots in one bucket.
pub const BUCKET_SLOTS: usize = 64;
/// Buckets for addresses that we were told of.
pub const NEW_BUCKETS: usize = 1024;
/// Buckets for addresses that a handshake proved.
pub const TRIED_BUCKETS: usize = 256;
/// Most "new" buckets that one source netgroup can put addresses into.
pub const NEW_BUCKETS_PER_SOURCE: usize = 64;
/// Most "tried" buckets that the addresses of one netgroup can be in.
pub const TRIED_BUCKETS_PER_GROUP: usize = 8;

pub(super) const NEW_SLOTS: usize = NEW_BUCKETS * BUCKET_SLOTS;
pub(super) const TRIED_SLOTS: usize = TRIED_BUCKETS * BUCKET_SLOTS;

const _: () = {
    assert!(NEW_SLOTS - 1 <= u16::MAX as usize, "a slot number is a u16");
    assert!(TRIED_SLOTS <= NEW_SLOTS);
    assert!(NEW_BUCKETS_PER_SOURCE < NEW_BUCKETS / 8, "one source must not reach a large part of the book");
};

/// The secret that decides about slots. Nobody who fills the book may know it.
#[derive(Clone)]
pub(super) struct Placement {
    key: [u8; 16],
}

impl Placement {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// Slot in the "new" table for a place told of by a source.
    pub(super) fn new_slot(&self, endpoint: &Endpoint, target: NetGroup, source: NetGroup) -> u16 {
        let spread = self.hash(b"new spread", |hasher| {
            hasher.write(target.as_bytes());
            hasher.write(source.as_bytes());
        }) % NEW_BUCKETS_PER_SOURCE as u64;
        let bucket = self.hash(b"new bucket", |hasher| {
            hasher.write(source.as_bytes());
            hasher.write(&spread.to_be_bytes());
        }) % NEW_BUCKETS as u64;
        self.slot(b"new", bucket, endpoint)
    }

    /// Slot in the "tried" table.
    pub(super) fn tried_slot(&self, endpoint: &Endpoint, target: NetGroup) -> u16 {
        let spread = self.hash(b"tried spread", |hasher| write_host(hasher, endpoint.host()))
            % TRIED_BUCKETS_PER_GROUP as u64;
        let bucket = self.hash(b"tried bucket", |hasher| {
            hasher.write(target.as_bytes());
            hasher.write(&spread.to_be_bytes());
        }) % TRIED_BUCKETS as u64;
        self.slot(b"tried", bucket, endpoint)
    }

    /// True if the secret can have put this place into this slot. Tells slots of another secret; of
    /// another source it can't.
    pub(super) fn fits(&self, tried: bool, slot: u16, endpoint: &Endpoint) -> bool {
        let bucket = u64::from(slot) / BUCKET_SLOTS as u64;
        self.slot(if tried { b"tried" } else { b"new" }, bucket, endpoint) == slot
    }

    fn slot(&self, table: &[u8], bucket: u64, endpoint: &Endpoint) -> u16 {
        let position = self.hash(table, |hasher| {
            hasher.write(&bucket.to_be_bytes());
            write_host(hasher, endpoint.host());
            hasher.write(&endpoint.port().to_be_bytes());
        }) % BUCKET_SLOTS as u64;
        (bucket * BUCKET_SLOTS as u64 + position) as u16
    }

    fn hash(&self, domain: &[u8], write: impl FnOnce(&mut SipHasher24)) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&[domain.len() as u8]);
        hasher.write(domain);
        write(&mut hasher);
        hasher.finish()
    }
}

fn write_host(hasher: &mut SipHasher24, host: &Host) {
    match host {
        Host::Ip4(ip) => hasher.write(&ip.octets()),
        Host::Ip6(ip) => hasher.write(&ip.octets()),
        Host::Onion(onion) => hasher.write(&onion[..]),
        Host::Name(name) => hasher.write(name.as_bytes()),
    }
}

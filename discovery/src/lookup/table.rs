//! Whom we know, by distance from ourselves: k-buckets.

use std::collections::BTreeMap;

use ghost_proto::{LookupKey, PeerId, PeerRecord};

use crate::{address::Endpoint, netgroup::NetGroup};

/// Places in a bucket: Kademlia's k.
pub const BUCKET_PEERS: usize = 16;
/// Of these, most for one netgroup.
pub const PER_NETGROUP_IN_BUCKET: usize = 2;
/// Most places of the whole table for one netgroup.
pub const PER_NETGROUP: usize = 10;
/// Lookups that a peer may fail to answer, one after the other, before it goes.
pub const FAILURES_MAX: u8 = 2;

/// A peer whose key a handshake proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its record.
    pub record: PeerRecord,
    /// Where it can be dialled, by its record.
    pub endpoints: Vec<Endpoint>,
    /// Of where it was met.
    pub group: NetGroup,
    /// It was met over Tor.
    pub onion: bool,
    /// We reached it; the others reached us, from the host that their record names.
    pub dialled: bool,
}

#[derive(Debug)]
struct Place {
    contact: Contact,
    key: LookupKey,
    failures: u8,
}

/// See the [module documentation](self). A core.
///
/// Bucket *n* holds peers whose key shares its first *n* bits with ours. Half of all peers belong into bucket 0,
/// a quarter into bucket 1, and so on: of a million about 20 buckets are in use, 320 places of about 600 bytes. An
/// attacker who mints keys for the deeper ones is held by the bounds of its netgroups.
#[derive(Debug)]
pub struct RoutingTable {
    own: LookupKey,
    buckets: BTreeMap<u32, Vec<Place>>,
}

impl RoutingTable {
    /// Empty, for the node at this key.
    pub fn new(own: LookupKey) -> Self {
        Self { own, buckets: BTreeMap::new() }
    }

    /// Peers in the table.
    pub fn len(&self) -> usize {
        self.buckets.values().map(Vec::len).sum()
    }

    /// True if nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// We met a peer. Who is there stays, as those who were there for long are likely to be there longer; only a
    /// peer that we dialled takes the place of one that only dialled us. True if the peer is in the table.
    pub fn met(&mut self, contact: Contact) -> bool {
        let key = LookupKey::of_peer(&contact.record.peer());
        let bits = self.own.shared_bits(&key);
        if bits == 256 {
            return false;
        }
        let total = self.places().filter(|place| place.contact.group == contact.group).count();
        let bucket = self.buckets.entry(bits).or_default();
        if let Some(known) = bucket.iter_mut().find(|place| place.key == key) {
            known.failures = 0;
            let dialled = known.contact.dialled || contact.dialled;
            if contact.record.sequence() >= known.contact.record.sequence()
                && contact.group == known.contact.group
            {
                known.contact = contact;
            }
            known.contact.dialled = dialled;
            return true;
        }
        let same_group = bucket.iter().filter(|place| place.contact.group == contact.group).count();
        let crowded = same_group >= PER_NETGROUP_IN_BUCKET;
        let yields = |place: &Place| {
            contact.dialled && !place.contact.dialled && (!crowded || place.contact.group == contact.group)
        };
        let place = Place { contact: contact.clone(), key, failures: 0 };
        if !crowded && total < PER_NETGROUP && bucket.len() < BUCKET_PEERS {
            bucket.push(place);
            return true;
        }
        // Taking a place of the same group keeps that group's count.
        let gives_way = bucket.iter().position(|sitting| {
            yields(sitting) && (total < PER_NETGROUP || sitting.contact.group == contact.group)
        });
        match gives_way {
            Some(at) => {
                bucket[at] = place;
                true
            }
            None => false,
        }
    }

    /// A peer did not answer.
    pub fn failed(&mut self, peer: &PeerId) {
        let key = LookupKey::of_peer(peer);
        self.change(&key, |place| {
            place.failures += 1;
            place.failures < FAILURES_MAX
        });
    }

    /// A peer is of no use: banned, or of another chain.
    pub fn forget(&mut self, peer: &PeerId) {
        self.change(&LookupKey::of_peer(peer), |_| false);
    }

    /// The peers nearest to a key, nearest first.
    pub fn nearest(
        &self,
        target: &LookupKey,
        count: usize,
        accept: impl Fn(&Contact) -> bool,
    ) -> Vec<&Contact> {
        let mut near: Vec<_> = self
            .places()
            .filter(|place| accept(&place.contact))
            .map(|place| (place.key.distance(target), &place.contact))
            .collect();
        near.sort_unstable_by_key(|(distance, _)| *distance);
        near.into_iter().take(count).map(|(_, contact)| contact).collect()
    }

    /// How many peers we know that are nearer to a key than we are.
    pub fn nearer_than_own(&self, target: &LookupKey) -> usize {
        let own = self.own.distance(target);
        self.places().filter(|place| place.key.distance(target) < own).count()
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.buckets.values().flatten()
    }

    fn change(&mut self, key: &LookupKey, keep: impl Fn(&mut Place) -> bool) {
        let bits = self.own.shared_bits(key);
        let Some(bucket) = self.buckets.get_mut(&bits) else { return };
        bucket.retain_mut(|place| place.key != *key || keep(place));
        if bucket.is_empty() {
            self.buckets.remove(&bits);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        netgroup::AddressPolicy,
        testing::{peer, place, record_at},
    };

    fn contact(n: u32, group: u16, dialled: bool) -> Contact {
        let at = place(group, n as u16);
        Contact {
            record: record_at(n, &at, 1),
            group: AddressPolicy::default().group(&at),
            endpoints: vec![at],
            onion: false,
            dialled,
        }
    }

    fn table() -> RoutingTable {
        RoutingTable::new(LookupKey::of_peer(&peer(0)))
    }

    #[test]
    fn a_netgroup_gets_no_more_than_its_places() {
        let mut table = table();
        let taken = (1..400).filter(|n| table.met(contact(*n, 7, true))).count();
        assert_eq!((taken, table.len()), (PER_NETGROUP, PER_NETGROUP));
        assert!(table.buckets.values().all(|bucket| bucket.len() <= PER_NETGROUP_IN_BUCKET));
        assert!(table.met(contact(400, 8, true)), "others still get in");
    }

    #[test]
    fn who_only_dialled_us_yields_to_whom_we_dialled_and_nobody_else_yields() {
        let mut table = table();
        let in_first =
            |n: &u32| LookupKey::of_peer(&peer(0)).shared_bits(&LookupKey::of_peer(&peer(*n))) == 0;
        let ids: Vec<u32> = (1..200).filter(in_first).take(BUCKET_PEERS + 2).collect();
        let (first, late) = ids.split_at(BUCKET_PEERS);
        for (at, n) in first.iter().enumerate() {
            assert!(table.met(contact(*n, *n as u16, at > 0)));
        }
        assert!(!table.met(contact(late[0], 900, false)), "the bucket is full");
        assert!(table.met(contact(late[0], 900, true)), "the one that was never dialled yields");
        assert!(!table.met(contact(late[1], 901, true)), "all were dialled");
        assert_eq!(table.len(), BUCKET_PEERS);
        table.failed(&peer(late[0]));
        assert_eq!(table.len(), BUCKET_PEERS, "one failure may be the network's");
        table.failed(&peer(late[0]));
        assert_eq!(table.len(), BUCKET_PEERS - 1);
        table.forget(&peer(first[1]));
        assert_eq!(table.len(), BUCKET_PEERS - 2);
    }

    #[test]
    fn we_are_not_in_our_own_table() {
        assert!(!table().met(contact(0, 1, true)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_nearest_are_the_nearest_and_every_bound_holds(
            met in proptest::collection::vec((1u32..200, 0u16..12, any::<bool>()), 1..120),
            target in any::<[u8; 32]>(),
        ) {
            let mut table = table();
            for (n, group, dialled) in met {
                table.met(contact(n, group, dialled));
            }
            let mut groups = BTreeMap::<NetGroup, usize>::new();
            for (bits, bucket) in &table.buckets {
                prop_assert!(bucket.len() <= BUCKET_PEERS);
                for place in bucket {
                    prop_assert_eq!(table.own.shared_bits(&place.key), *bits);
                    *groups.entry(place.contact.group).or_default() += 1;
                    let same = bucket.iter().filter(|other| other.contact.group == place.contact.group);
                    prop_assert!(same.count() <= PER_NETGROUP_IN_BUCKET);
                }
            }
            prop_assert!(groups.values().all(|count| *count <= PER_NETGROUP));
            let target = LookupKey(target);
            let mut all: Vec<_> = table.places().map(|place| place.key.distance(&target)).collect();
            all.sort_unstable();
            let near: Vec<_> = table.nearest(&target, 5, |_| true);
            let near: Vec<_> =
                near.iter().map(|one| LookupKey::of_peer(&one.record.peer()).distance(&target)).collect();
            prop_assert_eq!(&near[..], &all[..near.len()]);
        }
    }
}

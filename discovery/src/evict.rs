//! Whom to part with when every inbound slot is taken.
//!
//! The scheme is Bitcoin Core's (`src/node/eviction.cpp`, after the eclipse paper of Heilman et al.,
//! 2015): protect in turn those who are good at something that is costly to fake, then evict the
//! youngest connection of the netgroup that has the most. An attacker has to beat the honest at every
//! one of these at once:
//!
//! | protected | by | cost to fake |
//! | --- | --- | --- |
//! | 4 | keyed netgroup | addresses in netgroups it can't choose |
//! | 8 | lowest ping | being near |
//! | 4 | latest new transaction | fees |
//! | 8 | latest new block, of block-only peers | blocks, earlier than others |
//! | 4 | latest new block | blocks, earlier than others |
//! | up to a quarter of the rest | network that would lose by ping: onion, private | being there longest of them |
//! | up to half of the rest | longest connected | time |

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    hash::Hasher,
    time::{Duration, Instant},
};

use ghost_proto::PeerId;
use siphasher::sip::SipHasher24;

use crate::netgroup::NetGroup;

/// Protected by keyed netgroup.
pub const PROTECTED_BY_NETGROUP: usize = 4;
/// Protected by lowest ping.
pub const PROTECTED_BY_PING: usize = 8;
/// Protected by their latest new transaction.
pub const PROTECTED_BY_TX: usize = 4;
/// Block-only peers protected by their latest new block.
pub const PROTECTED_BLOCK_ONLY: usize = 8;
/// Protected by their latest new block.
pub const PROTECTED_BY_BLOCK: usize = 4;
/// With fewer inbound connections than this nobody can be evicted.
pub const PROTECTED_AT_LEAST: usize =
    PROTECTED_BY_NETGROUP + PROTECTED_BY_PING + PROTECTED_BY_TX + PROTECTED_BY_BLOCK;

/// Which disadvantaged network a connection came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disadvantaged {
    /// Over our onion service: every ping is slow.
    Onion,
    /// From a private or loopback address.
    Private,
}

/// An inbound connection as eviction sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// Netgroup it came from.
    pub group: NetGroup,
    /// When its handshake was done.
    pub since: Instant,
    /// Lowest round trip seen.
    pub ping_min: Option<Duration>,
    /// When it last brought a transaction that was new to us and valid.
    pub last_tx: Option<Instant>,
    /// When it last brought a block that was new to us and valid.
    pub last_block: Option<Instant>,
    /// It takes no transactions.
    pub block_only: bool,
    /// The network it came by, if that is one that loses by ping.
    pub disadvantaged: Option<Disadvantaged>,
    /// Evict before others: its host is discouraged.
    pub prefer: bool,
    /// Never evict: on the allow-list, an operator, or one of our static peers.
    pub protected: bool,
}

/// The connection to part with, or `None` if all are protected: then the newcomer is refused.
///
/// `secret` decides which netgroups are protected; nobody outside may know it.
pub fn select(candidates: Vec<Candidate>, secret: [u8; 16]) -> Option<PeerId> {
    let mut left: Vec<Candidate> = candidates.into_iter().filter(|one| !one.protected).collect();
    // Ties fall to the PeerId, so that the order of the argument plays no part.
    protect(&mut left, PROTECTED_BY_NETGROUP, |one| (keyed(one.group, secret), one.peer), |_| true);
    protect(
        &mut left,
        PROTECTED_BY_PING,
        |one| (one.ping_min.unwrap_or(Duration::MAX), one.since, one.peer),
        |_| true,
    );
    let by_tx = |one: &Candidate| (Reverse(one.last_tx), one.block_only, one.since, one.peer);
    protect(&mut left, PROTECTED_BY_TX, by_tx, |_| true);
    let by_block = |one: &Candidate| (Reverse(one.last_block), one.since, one.peer);
    protect(
        &mut left,
        PROTECTED_BLOCK_ONLY,
        |one| (!one.block_only, by_block(one)),
        |one| one.block_only && one.last_block.is_some(),
    );
    protect(&mut left, PROTECTED_BY_BLOCK, by_block, |_| true);
    protect_by_uptime(&mut left);

    if left.iter().any(|one| one.prefer) {
        left.retain(|one| one.prefer);
    }
    let mut groups: BTreeMap<NetGroup, Vec<&Candidate>> = BTreeMap::new();
    for one in &left {
        groups.entry(one.group).or_default().push(one);
    }
    let youngest = |group: &[&Candidate]| group.iter().map(|one| (one.since, one.peer)).max();
    groups
        .into_values()
        .max_by_key(|group| (group.len(), youngest(group)))
        .and_then(|group| youngest(&group))
        .map(|(_, peer)| peer)
}

/// Half of those left, by uptime; up to half of that half is kept for disadvantaged networks first.
fn protect_by_uptime(left: &mut Vec<Candidate>) {
    let total = left.len() / 2;
    let for_networks = total / 2;
    let mut networks: Vec<(usize, Disadvantaged)> = [Disadvantaged::Onion, Disadvantaged::Private]
        .into_iter()
        .map(|network| (left.iter().filter(|one| one.disadvantaged == Some(network)).count(), network))
        .filter(|(count, _)| *count > 0)
        .collect();
    // The smaller first: what it leaves unused goes to the larger.
    networks.sort();
    let mut kept = 0;
    let mut remaining = networks.len();
    for (count, network) in networks {
        let share = ((for_networks - kept) / remaining).min(count);
        remaining -= 1;
        protect(
            left,
            share,
            |one| (one.disadvantaged != Some(network), one.since, one.peer),
            |one| one.disadvantaged == Some(network),
        );
        kept += share;
    }
    protect(left, total - kept, |one| (one.since, one.peer), |_| true);
}

/// Takes the `count` first by `key` out of the list, as far as `which` agrees.
fn protect<K: Ord>(
    left: &mut Vec<Candidate>,
    count: usize,
    key: impl Fn(&Candidate) -> K,
    which: impl Fn(&Candidate) -> bool,
) {
    left.sort_by_key(|one| key(one));
    let mut at = 0;
    left.retain(|one| {
        at += 1;
        at > count || !which(one)
    });
}

fn keyed(group: NetGroup, secret: [u8; 16]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&secret);
    hasher.write(group.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::peer_id,
        netgroup::AddressPolicy,
        testing::{made_up, place},
    };

    fn candidate(n: u32, group: u16, start: Instant) -> Candidate {
        Candidate {
            peer: peer_id(&made_up(n)),
            group: AddressPolicy::default().group(&place(group, 1)),
            since: start + Duration::from_secs(u64::from(n)),
            ping_min: None,
            last_tx: None,
            last_block: None,
            block_only: false,
            disadvantaged: None,
            prefer: false,
            protected: false,
        }
    }
    fn evicted(candidates: &[Candidate]) -> Option<u32> {
        let peer = select(candidates.to_vec(), [3; 16])?;
        let key = ghost_proto::record::key_of(&peer).unwrap().0;
        Some(u32::from_be_bytes(key[..4].try_into().unwrap()))
    }

    #[test]
    fn twenty_are_safe_and_the_next_pair_is_not() {
        let start = Instant::now();
        let many: Vec<_> = (0..64).map(|n| candidate(n, n as u16, start)).collect();
        assert_eq!(evicted(&many[..PROTECTED_AT_LEAST]), None);
        // One left over: half of one, rounded down, is protected by uptime.
        assert!(evicted(&many[..PROTECTED_AT_LEAST + 1]).is_some());
        assert!(evicted(&[]).is_none());
    }

    #[test]
    fn the_youngest_of_the_largest_group_goes() {
        let start = Instant::now();
        let mut many: Vec<_> = (0..60).map(|n| candidate(n, n as u16, start)).collect();
        many.extend((60..80).map(|n| candidate(n, 500, start)));
        many.extend((80..90).map(|n| candidate(n, 600 + n as u16, start)));
        assert_eq!(evicted(&many), Some(79));
    }

    #[test]
    fn who_is_good_at_something_stays() {
        let start = Instant::now();
        let good: [fn(&mut Candidate, Instant); 4] = [
            |one, _| one.ping_min = Some(Duration::from_millis(1)),
            |one, now| one.last_tx = Some(now),
            |one, now| one.last_block = Some(now),
            |one, now| {
                one.block_only = true;
                one.last_block = Some(now);
            },
        ];
        for (n, make_good) in good.into_iter().enumerate() {
            let mut many: Vec<_> = (0..100).map(|n| candidate(n, 7, start)).collect();
            assert_eq!(evicted(&many), Some(99));
            make_good(&mut many[99], start + Duration::from_secs(1000));
            assert_eq!(evicted(&many), Some(98), "kind {n}");
        }
    }

    #[test]
    fn discouraged_go_first_and_protected_never() {
        let start = Instant::now();
        let mut many: Vec<_> = (0..100).map(|n| candidate(n, 7, start)).collect();
        many[90].prefer = true;
        assert_eq!(evicted(&many), Some(90));
        many.iter_mut().for_each(|one| one.protected = true);
        assert_eq!(evicted(&many), None);
    }

    #[test]
    fn onion_peers_keep_a_quarter_though_they_are_slow_and_young() {
        let start = Instant::now();
        let mut many: Vec<_> = (0..100).map(|n| candidate(n, n as u16, start)).collect();
        for one in &mut many[..80] {
            one.ping_min = Some(Duration::from_millis(10));
        }
        for one in &mut many[80..] {
            one.disadvantaged = Some(Disadvantaged::Onion);
            one.group = NetGroup::TOR_INBOUND;
        }
        // 100 − 20 leaves about 80, of which a quarter, 20, is for onion peers: none goes while the
        // group of onion peers is no larger than that.
        let mut left = many.clone();
        for _ in 0..40 {
            let gone = select(left.clone(), [3; 16]).unwrap();
            left.retain(|one| one.peer != gone);
        }
        let onions = left.iter().filter(|one| one.disadvantaged.is_some()).count();
        assert!(onions >= 10, "{onions} of 20 left among {}", left.len());
    }

    #[test]
    fn the_order_of_the_list_plays_no_part() {
        let start = Instant::now();
        let mut many: Vec<_> = (0..100).map(|n| candidate(n, (n % 9) as u16, start)).collect();
        let first = evicted(&many);
        many.reverse();
        assert_eq!(evicted(&many), first);
    }
}

//! Records: which ones we take in, and the one we make about ourselves.
//!
//! A record is checked in the order of what the checks cost: budget of its source, size, then the
//! signature (40 µs), then what it says. Only a record that no honest node could have passed on is an
//! offence of whoever sent it.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_proto::{
    KeyPair, Multiaddr, PeerId, PeerRecord,
    limits::RECORD_ADDRESSES_MAX,
    record::{RecordError, peer_of},
};

use crate::{
    address::{self, Endpoint},
    book::{FUTURE_S, HORIZON_S},
    netgroup::{AddressPolicy, Source},
};

/// Records a source may send at once beyond what we asked for.
pub const RECORDS_BURST: u32 = 128;
/// One more record every so often: 10 s, as Bitcoin Core allows 0.1 addresses a second.
pub const RECORD_EVERY: Duration = Duration::from_secs(10);
/// Sources with a budget of their own. More than this many at once share one: 2,048 × 64 bytes.
pub const SOURCES_MAX: usize = 2048;
/// Our own record is made anew after so long, or it would become stale in others' books: 12 hours.
pub const OWN_RECORD_LIVES_S: u64 = 12 * 3600;

/// A record that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The record.
    pub record: PeerRecord,
    /// Those of its addresses that we could dial; at least one.
    pub endpoints: Vec<Endpoint>,
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The source sent more than its budget. Dropped unread; no offence, for the answer may have been
    /// asked for by another part of us.
    #[error("its source sends records faster than one every 10 s")]
    OverBudget,
    /// Forged or malformed. Whoever passes records on has to check them: an offence of the source.
    #[error(transparent)]
    Invalid(#[from] RecordError),
    /// Made too far in the future. Clocks differ: no offence.
    #[error("it was made {0} s in the future")]
    Future(u64),
    /// Made too long ago. No offence: it was fresh once.
    #[error("it is {0} s old, more than 30 days")]
    Stale(u64),
    /// About ourselves. No offence.
    #[error("it is about this node")]
    Own,
    /// No address that this node could dial. No offence.
    #[error("none of its addresses can be dialled by this node")]
    NoUsableAddress,
}

impl Refused {
    /// True if the source is to blame.
    pub fn is_offence(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }
}

#[derive(Debug)]
struct Budget {
    left: u32,
    filled: Instant,
}

/// Records whose signature was verified and need not be again: their hashes, 8,192 × 64 bytes = 512 KiB. In a quiet
/// network nearly all that peers pass on is known, and signatures are what it costs.
pub const VERIFIED_MAX: usize = 8192;

/// Hashes of the newest records that verified.
#[derive(Debug, Default)]
struct Verified {
    known: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
    checked: u64,
}

impl Verified {
    fn parse(&mut self, bytes: Bytes) -> Result<PeerRecord, RecordError> {
        let hash = *blake3::hash(&bytes).as_bytes();
        if self.known.contains(&hash) {
            return PeerRecord::verified_before(bytes);
        }
        self.checked += 1;
        let record = PeerRecord::verify(bytes)?;
        if self.order.len() >= VERIFIED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(hash);
        self.order.push_back(hash);
        Ok(record)
    }
}

/// Admission of records. A core: a budget for each source, then the checks.
#[derive(Debug)]
pub struct Admission {
    own: PeerId,
    verified: Verified,
    budgets: BTreeMap<PeerId, Budget>,
    shared: Option<Budget>,
}

impl Admission {
    /// For the node with this PeerId.
    pub fn new(own: PeerId) -> Self {
        Self { own, verified: Verified::default(), budgets: BTreeMap::new(), shared: None }
    }

    /// We asked `source` for up to `records`: so many come on top of its budget.
    pub fn asked(&mut self, source: &PeerId, records: u32, now: Instant) {
        if let Some(budget) = self.budget(source, now) {
            budget.left = budget.left.saturating_add(records).min(2 * RECORDS_BURST);
        }
    }

    /// The connection is gone, and its budget with it.
    ///
    /// # Security
    /// Whoever reconnects gets a new burst; reconnecting costs it a handshake and an inbound slot, and
    /// 128 records cost us 5 ms.
    pub fn disconnected(&mut self, source: &PeerId) {
        self.budgets.remove(source);
    }

    /// Sources that have a budget now.
    pub fn len(&self) -> usize {
        self.budgets.len()
    }

    /// True if no source has a budget.
    pub fn is_empty(&self) -> bool {
        self.budgets.is_empty()
    }

    /// Checks one record. `sender` is who passed it on, `source` where it sits; a record that came in
    /// its owner's own hello has both of them the same and no budget is taken.
    ///
    /// # Errors
    /// [`Refused`]; only [`Refused::is_offence`] is worth telling the conduct ledger.
    pub fn admit(
        &mut self,
        bytes: Bytes,
        sender: &PeerId,
        source: &Source,
        policy: &AddressPolicy,
        now: Instant,
        now_unix_ms: u64,
    ) -> Result<Admitted, Refused> {
        match self.budget(sender, now) {
            Some(budget) if budget.left > 0 => budget.left -= 1,
            _ => return Err(Refused::OverBudget),
        }
        self.admit_own(bytes, source, policy, now_unix_ms)
    }

    /// Checks one record that no budget is taken for: the one in a peer's own hello, or in an answer to a lookup,
    /// which are counted otherwise.
    ///
    /// # Errors
    /// As [`Admission::admit`], without [`Refused::OverBudget`].
    pub fn admit_own(
        &mut self,
        bytes: Bytes,
        source: &Source,
        policy: &AddressPolicy,
        now_unix_ms: u64,
    ) -> Result<Admitted, Refused> {
        let record = self.verified.parse(bytes)?;
        judge(record, &self.own, source, policy, now_unix_ms)
    }

    /// Signatures that were checked so far.
    pub fn checked(&self) -> u64 {
        self.verified.checked
    }

    fn budget(&mut self, source: &PeerId, now: Instant) -> Option<&mut Budget> {
        let fresh = || Budget { left: RECORDS_BURST, filled: now };
        let budget = if self.budgets.len() < SOURCES_MAX || self.budgets.contains_key(source) {
            self.budgets.entry(*source).or_insert_with(fresh)
        } else {
            self.shared.get_or_insert_with(fresh)
        };
        let gained = now.saturating_duration_since(budget.filled).as_secs() / RECORD_EVERY.as_secs();
        if gained > 0 {
            // An allowance for an answer we asked for may stand above the burst; refilling may not
            // raise it further.
            let full = RECORDS_BURST.max(budget.left);
            budget.left = budget.left.saturating_add(u32::try_from(gained).unwrap_or(u32::MAX)).min(full);
            budget.filled += RECORD_EVERY * u32::try_from(gained).unwrap_or(u32::MAX);
        }
        Some(budget)
    }
}

fn judge(
    record: PeerRecord,
    own: &PeerId,
    source: &Source,
    policy: &AddressPolicy,
    now_unix_ms: u64,
) -> Result<Admitted, Refused> {
    if record.peer() == *own {
        return Err(Refused::Own);
    }
    let now_s = now_unix_ms / 1000;
    let ahead = record.time_unix_s().saturating_sub(now_s);
    if ahead > u64::from(FUTURE_S) {
        return Err(Refused::Future(ahead));
    }
    let age = now_s.saturating_sub(record.time_unix_s());
    if age > u64::from(HORIZON_S) {
        return Err(Refused::Stale(age));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for address in record.addresses() {
        let Ok((endpoint, named)) = address::parse(address) else { continue };
        let names_another = named.is_some_and(|peer| peer != record.peer());
        if !names_another && policy.check(&endpoint, source).is_ok() && !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    if endpoints.is_empty() {
        return Err(Refused::NoUsableAddress);
    }
    Ok(Admitted { record, endpoints })
}

/// The record we make about ourselves: made anew when what it says changes, and before it goes
/// stale.
#[derive(Debug, Default)]
pub struct OwnRecord {
    last_sequence: u64,
    current: Option<PeerRecord>,
    made_unix_s: u64,
}

impl OwnRecord {
    /// `last_sequence` as the store kept it, 0 if it kept none.
    pub fn new(last_sequence: u64) -> Self {
        Self { last_sequence, ..Self::default() }
    }

    /// The record to hand out now, or `None` without an address worth saying. Cheap unless something
    /// changed. Keep [`OwnRecord::sequence`] when it grew.
    ///
    /// A sequence number is at least the Unix time in seconds, so a node that lost its store is
    /// believed again, as long as its clock goes forward.
    ///
    /// # Errors
    /// [`RecordError`] if the addresses exceed a bound: an operator's mistake, to be shown.
    pub fn current(
        &mut self,
        key: &KeyPair,
        addresses: &[Multiaddr],
        stream_types: u64,
        now_unix_ms: u64,
    ) -> Result<Option<&PeerRecord>, RecordError> {
        let now_s = now_unix_ms / 1000;
        let mut addresses = addresses.to_vec();
        addresses.truncate(RECORD_ADDRESSES_MAX);
        if addresses.is_empty() {
            self.current = None;
            return Ok(None);
        }
        let same = self.current.as_ref().is_some_and(|record| {
            Some(record.peer()) == peer_of(&key.public())
                && record.addresses() == addresses
                && record.stream_types() == stream_types
                && now_s.abs_diff(self.made_unix_s) < OWN_RECORD_LIVES_S
        });
        if !same {
            let sequence = self.last_sequence.saturating_add(1).max(now_s);
            self.current = Some(PeerRecord::sign(key, addresses, stream_types, sequence, now_s)?);
            self.last_sequence = sequence;
            self.made_unix_s = now_s;
        }
        Ok(self.current.as_ref())
    }

    /// The highest sequence number used.
    pub fn sequence(&self) -> u64 {
        self.last_sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW_MS, endpoint, key, peer, record_of};

    fn admission() -> Admission {
        Admission::new(peer(0))
    }
    fn public() -> Source {
        Source::Peer(endpoint("9.9.9.9:9"))
    }

    #[test]
    fn a_good_record_passes_with_the_addresses_we_could_dial() {
        let record = PeerRecord::sign(
            &key(1),
            [
                "/ip4/1.2.3.4/udp/1/quic-v1",
                "/ip4/1.2.3.4/udp/1/quic-v1",
                "/ip4/10.0.0.1/udp/1/quic-v1",
                "/ip4/1.2.3.5/tcp/1",
                "/dns/example.org/udp/1/quic-v1",
            ]
            .map(|text| text.parse().unwrap())
            .to_vec(),
            3,
            5,
            NOW_MS / 1000,
        )
        .unwrap();
        let admitted = admission()
            .admit_own(record.bytes().clone(), &public(), &AddressPolicy::default(), NOW_MS)
            .unwrap();
        assert_eq!(admitted.endpoints, vec![endpoint("1.2.3.4:1")]);
        assert_eq!(admitted.record, record);
    }

    #[test]
    fn refusals_and_whose_fault_they_are() {
        let policy = AddressPolicy::default();
        let check = |bytes: Bytes, now_ms| admission().admit_own(bytes, &public(), &policy, now_ms);
        let good = record_of(1, &["1.2.3.4:1"], 1).bytes().clone();
        let made_s = record_of(1, &["1.2.3.4:1"], 1).time_unix_s();

        let mut forged = good.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(check(forged.into(), NOW_MS).unwrap_err().is_offence());
        assert!(check(Bytes::from(vec![0; 4096]), NOW_MS).unwrap_err().is_offence());

        let blameless = [
            check(record_of(0, &["1.2.3.4:1"], 1).bytes().clone(), NOW_MS).unwrap_err(),
            check(record_of(1, &["10.2.3.4:1"], 1).bytes().clone(), NOW_MS).unwrap_err(),
            check(good.clone(), (made_s - u64::from(FUTURE_S) - 1) * 1000).unwrap_err(),
            check(good.clone(), (made_s + u64::from(HORIZON_S) + 1) * 1000).unwrap_err(),
        ];
        assert!(blameless.iter().all(|refused| !refused.is_offence()), "{blameless:?}");
        assert_eq!(blameless[0], Refused::Own);
        assert_eq!(blameless[1], Refused::NoUsableAddress);
        // The other side of both thresholds.
        assert!(check(good.clone(), (made_s - u64::from(FUTURE_S)) * 1000).is_ok());
        assert!(check(good, (made_s + u64::from(HORIZON_S)) * 1000).is_ok());
    }

    #[test]
    fn a_record_that_is_known_byte_for_byte_costs_no_second_signature() {
        let (mut admission, policy) = (admission(), AddressPolicy::default());
        let mut admit = |bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            (admission.admit_own(bytes, &public(), &policy, NOW_MS), admission.checked())
        };
        let good = record_of(1, &["1.2.3.4:1"], 1).bytes().to_vec();
        let (first, checked) = admit(&good);
        assert_eq!((checked, admit(&good)), (1, (first, 1)));
        // Any other bytes are checked, each time.
        for at in 0..good.len() {
            let mut forged = good.clone();
            forged[at] ^= 1;
            let (refused, checked) = admit(&forged);
            assert!(refused.unwrap_err().is_offence(), "byte {at}");
            assert_eq!(checked, 2 + at as u64);
        }
        // What was pushed out by newer ones is checked again.
        let mut verified = Verified::default();
        let record = |n| record_of(2, &["1.2.3.4:1"], n).bytes().clone();
        for n in 1..=VERIFIED_MAX as u64 {
            verified.parse(record(n)).unwrap();
        }
        verified.parse(record(1)).unwrap();
        assert_eq!(verified.checked, VERIFIED_MAX as u64);
        verified.parse(record(VERIFIED_MAX as u64 + 1)).unwrap();
        verified.parse(record(1)).unwrap();
        assert_eq!(verified.checked, VERIFIED_MAX as u64 + 2);
        assert_eq!((verified.known.len(), verified.order.len()), (VERIFIED_MAX, VERIFIED_MAX));
    }

    #[test]
    fn an_address_that_names_another_peer_is_left_out() {
        let wrong = endpoint("1.2.3.4:1").with_peer(peer(7));
        let right = endpoint("1.2.3.5:1").with_peer(peer(1));
        let record = PeerRecord::sign(&key(1), vec![wrong, right], 0, 1, NOW_MS / 1000).unwrap();
        let admitted = admission()
            .admit_own(record.bytes().clone(), &public(), &AddressPolicy::default(), NOW_MS)
            .unwrap();
        assert_eq!(admitted.endpoints, vec![endpoint("1.2.3.5:1")]);
    }

    #[test]
    fn a_source_has_a_budget_that_refills() {
        let (mut admission, now) = (admission(), Instant::now());
        let bytes = record_of(1, &["1.2.3.4:1"], 1).bytes().clone();
        let policy = AddressPolicy::default();
        let admit = |admission: &mut Admission, now| {
            admission.admit(bytes.clone(), &peer(2), &public(), &policy, now, NOW_MS).is_ok()
        };
        let passed = (0..1000).filter(|_| admit(&mut admission, now)).count();
        assert_eq!(passed, RECORDS_BURST as usize);
        assert!(!admit(&mut admission, now + RECORD_EVERY - Duration::from_millis(1)));
        assert!(admit(&mut admission, now + RECORD_EVERY));
        assert!(!admit(&mut admission, now + RECORD_EVERY));
        admission.asked(&peer(2), 32, now + RECORD_EVERY);
        assert_eq!((0..100).filter(|_| admit(&mut admission, now + RECORD_EVERY)).count(), 32);
        admission.disconnected(&peer(2));
        assert!(admission.is_empty());
    }

    #[test]
    fn the_sources_with_budgets_are_bounded() {
        let (mut admission, now) = (admission(), Instant::now());
        for n in 0..SOURCES_MAX as u32 + 500 {
            admission.asked(&peer(n), 32, now);
        }
        assert_eq!(admission.len(), SOURCES_MAX);
    }

    #[test]
    fn the_own_record_changes_when_what_it_says_does() {
        let mut own = OwnRecord::new(7);
        let address = vec![endpoint("1.2.3.4:1").to_multiaddr()];
        let first = own.current(&key(1), &address, 1, NOW_MS).unwrap().unwrap().clone();
        assert_eq!(first.sequence(), NOW_MS / 1000);
        let again = own.current(&key(1), &address, 1, NOW_MS + 1000).unwrap().unwrap();
        assert_eq!(*again, first);
        let other = own.current(&key(1), &address, 3, NOW_MS + 1000).unwrap().unwrap();
        assert_eq!(other.sequence(), first.sequence() + 1);
        let later = NOW_MS + OWN_RECORD_LIVES_S * 1000;
        assert!(
            own.current(&key(1), &address, 3, later + 1000).unwrap().unwrap().time_unix_s()
                > first.time_unix_s()
        );
        // A clock that went back does not make the sequence go back.
        let before = own.sequence();
        own.current(&key(1), &address, 1, NOW_MS / 2).unwrap();
        assert!(own.sequence() > before);
        assert_eq!(own.current(&key(1), &[], 1, NOW_MS).unwrap(), None);
    }
}

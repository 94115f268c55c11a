//! Finding a peer that nobody nearby knows, and small signed values ("where is this wallet's mailbox?").
//!
//! After Kademlia (Maymounkov and Mazières, 2002) and S/Kademlia (Baumgart and Mies, 2007): peers and values
//! stand at [`LookupKey`]s, distance is XOR, and a lookup asks ever nearer peers along disjoint paths.
//! Three cores:
//!
//! | core | told of | answers with |
//! | --- | --- | --- |
//! | [`RoutingTable`] | peers whose key a handshake proved | those nearest to a key |
//! | [`Values`] | values to keep | the value, or why it is not kept |
//! | [`Query`] | answers | whom to ask next, and what was found |
//!
//! [`Lookups`] holds them, and the queries that are under way.
//!
//! # Security
//! Records and values prove themselves, so whoever answers can only withhold. A peer gets into a table by a
//! handshake, never by hearsay, and a netgroup holds at most [`table::PER_NETGROUP_IN_BUCKET`] places of a bucket and
//! [`table::PER_NETGROUP`] of the table; the same in the shortlist of each path. A lookup fails only if on every
//! path the attacker is asked before anybody honest who knows.
//!
//! # What it reveals
//! To those asked: that this node, or a client at its address, looks for something at this key, though not for
//! what unless they know it already. Answers show a part of the routing table: at most
//! [`ghost_proto::limits::CLOSER_PER_ANSWER_MAX`] peers near the key. Whoever asks for many keys learns most of it. Nothing is
//! asked unless somebody here wants to know.

mod query;
pub mod table;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use ghost_frames::discovery::StoreOutcome;
use ghost_proto::{LookupKey, PeerId, PeerRecord, SignedValue, limits::CLOSER_PER_ANSWER_MAX};

use crate::{clock::Now, netgroup::NetGroup};

pub use query::{ASK_TIME, Ask, Candidate, Found, Goal, LOOKUP_TIME, PATHS, Query, Step};
pub use table::{Contact, RoutingTable};
pub use values::{VALUE_LIVES_S_MAX, VALUES_MAX, VALUES_PER_SOURCE_MAX, Values};

/// Lookups under way at once; more are refused. Each holds at most [`PATHS`] shortlists of 16.
pub const QUERIES_MAX: usize = 16;

/// Names a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

/// The cores of lookups. See the [module documentation](self).
#[derive(Debug)]
pub struct Lookups {
    own: LookupKey,
    table: RoutingTable,
    values: Values,
    queries: BTreeMap<QueryId, Query>,
    next: u64,
}

impl Lookups {
    /// For the node with this PeerId.
    pub fn new(own: &PeerId) -> Self {
        let own = LookupKey::of_peer(own);
        Self {
            own,
            table: RoutingTable::new(own),
            values: Values::new(own),
            queries: BTreeMap::new(),
            next: 0,
        }
    }

    /// Whom we know.
    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    /// To be told whom we met.
    pub fn table_mut(&mut self) -> &mut RoutingTable {
        &mut self.table
    }

    /// What we keep for others.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Queries under way.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// True if no query is under way.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Answers somebody who looks for something: the value, and records of peers near it. Over Tor only peers
    /// reached over Tor are named, elsewhere only others.
    pub fn answer(
        &self,
        value: bool,
        target: &LookupKey,
        onion: bool,
        now_unix_ms: u64,
    ) -> (Option<Bytes>, Vec<Bytes>) {
        let found = value.then(|| self.values.get(target, now_unix_ms)).flatten();
        let near = self.table.nearest(target, CLOSER_PER_ANSWER_MAX, |contact| contact.onion == onion);
        (
            found.map(|value| value.bytes().clone()),
            near.into_iter().map(|one| one.record.bytes().clone()).collect(),
        )
    }

    /// Somebody in `source` asks us to keep a value.
    pub fn store(&mut self, value: SignedValue, source: NetGroup, now_unix_ms: u64) -> StoreOutcome {
        let nearer = self.table.nearer_than_own(&value.key());
        self.values.store(value, source, nearer, now_unix_ms)
    }

    /// Begins a lookup; `None` if too many are under way. What we know ourselves counts as an answer.
    pub fn begin(&mut self, goal: Goal, now: Now) -> Option<(QueryId, Vec<Step>)> {
        if self.queries.len() >= QUERIES_MAX {
            return None;
        }
        let id = QueryId(self.next);
        self.next += 1;
        let kept = match &goal {
            Goal::Value(key) => self.values.get(key, now.unix_ms).cloned(),
            Goal::Peer(_) | Goal::Nearest(_) => None,
        };
        let seeds = self.table.nearest(&goal.key(), PATHS * query::SHORTLIST, |_| true);
        let seeds = seeds.into_iter().map(Candidate::of_contact).collect();
        let (query, steps) = Query::new(goal, self.own, seeds, kept, now.at);
        if !query.is_done() {
            self.queries.insert(id, query);
        }
        Some((id, steps))
    }

    /// An answer came; `closer` are those of its records that were admitted.
    pub fn answered(
        &mut self,
        id: QueryId,
        peer: &PeerId,
        closer: Vec<Candidate>,
        value: Option<SignedValue>,
        now: Instant,
    ) -> Vec<Step> {
        self.step(id, |query| query.answered(peer, closer, value, now))
    }

    /// Nobody answered, or with nonsense.
    pub fn failed(&mut self, id: QueryId, peer: &PeerId, now: Instant) -> Vec<Step> {
        self.table.failed(peer);
        self.step(id, |query| query.failed(peer, now))
    }

    /// When [`Lookups::on_deadline`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.queries.values().map(Query::deadline).min()
    }

    /// Ends lookups whose time is over, and forgets values that are void.
    pub fn on_deadline(&mut self, now: Now) -> Vec<(QueryId, Vec<Step>)> {
        self.values.expire(now.unix_ms);
        let over: BTreeSet<QueryId> =
            self.queries.iter().filter(|(_, query)| query.deadline() <= now.at).map(|(id, _)| *id).collect();
        over.into_iter().map(|id| (id, self.step(id, Query::give_up))).collect()
    }

    fn step(&mut self, id: QueryId, change: impl FnOnce(&mut Query) -> Vec<Step>) -> Vec<Step> {
        // An answer that comes after the end changes nothing.
        let Some(query) = self.queries.get_mut(&id) else { return Vec::new() };
        let steps = change(query);
        if query.is_done() {
            self.queries.remove(&id);
        }
        steps
    }
}

/// The higher of two records of one peer.
pub(crate) fn newer(one: PeerRecord, other: Option<PeerRecord>) -> PeerRecord {
    match other {
        Some(other) if other.sequence() > one.sequence() => other,
        _ => one,
    }
}

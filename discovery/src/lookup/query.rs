//! One lookup: ever nearer peers, along paths that share nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ghost_proto::{LookupKey, PeerId, PeerRecord, SignedValue, limits::CLOSER_PER_ANSWER_MAX};

use super::{newer, table::Contact};
use crate::{address::Endpoint, netgroup::NetGroup};

/// Paths that share nobody. All of them have to meet the attacker first for a lookup to fail: with a fifth of the
/// peers hostile three succeed where one fails half of the time (S/Kademlia, figure 4).
pub const PATHS: usize = 3;
/// Peers asked at once on each path: with three paths twice Kademlia's α of 3, as dials of some take long.
const AT_ONCE: usize = 2;
/// The nearest that a path remembers.
pub(super) const SHORTLIST: usize = 16;
/// Of these, most of one netgroup.
const PER_NETGROUP: usize = 3;
/// A path is at its end when the nearest so many have answered.
const NEAREST: usize = CLOSER_PER_ANSWER_MAX;
/// Most peers asked on one path: each answer brings a path about three bits nearer, so this reaches past 2^40 peers.
const ASKED_MAX: usize = 20;
/// Time a peer has to answer, its handshake included. The shell keeps it.
pub const ASK_TIME: Duration = Duration::from_secs(3);
/// Time a lookup has; then the best that was found counts.
pub const LOOKUP_TIME: Duration = Duration::from_secs(12);

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The record of a peer.
    Peer(PeerId),
    /// The value at a key.
    Value(LookupKey),
    /// The peers nearest to a key, to keep a value there.
    Nearest(LookupKey),
}

impl Goal {
    /// Where it is.
    pub fn key(&self) -> LookupKey {
        match self {
            Self::Peer(peer) => LookupKey::of_peer(peer),
            Self::Value(key) | Self::Nearest(key) => *key,
        }
    }
}

/// Somebody who may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its record, verified.
    pub record: PeerRecord,
    /// Where it can be dialled; at least one place.
    pub endpoints: Vec<Endpoint>,
    /// The netgroup of the first of these.
    pub group: NetGroup,
}

impl Candidate {
    pub(super) fn of_contact(contact: &Contact) -> Self {
        Self { record: contact.record.clone(), endpoints: contact.endpoints.clone(), group: contact.group }
    }
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who.
    pub peer: PeerId,
    /// Where, if it is not connected.
    pub endpoints: Vec<Endpoint>,
    /// For a value, or for a peer.
    pub value: bool,
    /// Near which key.
    pub target: LookupKey,
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The peer's record and where it can be dialled.
    pub peer: Option<Candidate>,
    /// The value of the highest sequence.
    pub value: Option<SignedValue>,
    /// The nearest peers that answered, nearest first.
    pub nearest: Vec<Candidate>,
    /// How many were asked.
    pub asked: usize,
}

/// What a lookup wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask somebody; report [`Query::answered`] or [`Query::failed`].
    Ask(Ask),
    /// It is over.
    Done(Box<Found>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Answered,
}

#[derive(Debug, Default)]
struct Path {
    /// By distance from the target.
    near: BTreeMap<[u8; 32], (Candidate, State)>,
    asked: usize,
    /// It brought the value: nobody else on it needs to be asked.
    satisfied: bool,
}

/// See the [module documentation](self). A core.
#[derive(Debug)]
pub struct Query {
    goal: Goal,
    target: LookupKey,
    own: LookupKey,
    paths: Vec<Path>,
    /// Everybody who was ever on a path, and on which: at most 3 × 20 answers of 8, and the first 48.
    seen: BTreeMap<PeerId, usize>,
    failed: BTreeSet<PeerId>,
    best: Option<SignedValue>,
    found: Option<Candidate>,
    deadline: Instant,
    done: bool,
}

impl Query {
    /// Begins with the peers we know nearest, nearest first, dealt out to the paths in turn.
    pub fn new(
        goal: Goal,
        own: LookupKey,
        seeds: Vec<Candidate>,
        kept: Option<SignedValue>,
        now: Instant,
    ) -> (Self, Vec<Step>) {
        let paths = PATHS.min(seeds.len());
        let mut query = Self {
            goal,
            target: goal.key(),
            own,
            paths: (0..paths).map(|_| Path::default()).collect(),
            seen: BTreeMap::new(),
            failed: BTreeSet::new(),
            best: kept,
            found: None,
            deadline: now + LOOKUP_TIME,
            done: false,
        };
        for (at, seed) in seeds.into_iter().enumerate() {
            query.learn(at % paths, seed);
        }
        let steps = query.go_on();
        (query, steps)
    }

    /// It has given [`Step::Done`].
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// When it ends at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A peer answered.
    pub fn answered(
        &mut self,
        peer: &PeerId,
        closer: Vec<Candidate>,
        value: Option<SignedValue>,
        now: Instant,
    ) -> Vec<Step> {
        let Some(path) = self.asked_on(peer) else { return Vec::new() };
        let at = LookupKey::of_peer(peer).distance(&self.target);
        if let Some((_, state)) = self.paths[path].near.get_mut(&at) {
            *state = State::Answered;
        }
        if let Some(value) = value.filter(|value| Goal::Value(value.key()) == self.goal) {
            self.paths[path].satisfied = true;
            if self.best.as_ref().is_none_or(|best| best.sequence() < value.sequence()) {
                self.best = Some(value);
            }
        }
        for candidate in closer.into_iter().take(CLOSER_PER_ANSWER_MAX) {
            self.learn(path, candidate);
        }
        if now >= self.deadline { self.give_up() } else { self.go_on() }
    }

    /// A peer did not answer, or with nonsense.
    pub fn failed(&mut self, peer: &PeerId, now: Instant) -> Vec<Step> {
        let Some(path) = self.asked_on(peer) else { return Vec::new() };
        let at = LookupKey::of_peer(peer).distance(&self.target);
        self.paths[path].near.remove(&at);
        self.failed.insert(*peer);
        if now >= self.deadline { self.give_up() } else { self.go_on() }
    }

    /// The time is over.
    pub fn give_up(&mut self) -> Vec<Step> {
        if std::mem::replace(&mut self.done, true) {
            return Vec::new();
        }
        let mut nearest: BTreeMap<_, _> = BTreeMap::new();
        for path in &mut self.paths {
            let near = std::mem::take(&mut path.near).into_iter();
            nearest.extend(near.filter(|(_, (_, state))| *state == State::Answered));
        }
        let nearest = nearest.into_values().take(NEAREST).map(|(candidate, _)| candidate).collect();
        let asked = self.paths.iter().map(|path| path.asked).sum();
        vec![Step::Done(Box::new(Found { peer: self.found.take(), value: self.best.take(), nearest, asked }))]
    }

    fn asked_on(&self, peer: &PeerId) -> Option<usize> {
        let path = *self.seen.get(peer).filter(|_| !self.done)?;
        let at = LookupKey::of_peer(peer).distance(&self.target);
        let state = self.paths[path].near.get(&at).map(|(_, state)| *state);
        // One that was asked may have been pushed off the shortlist by nearer ones meanwhile.
        (state == Some(State::Asked) || state.is_none())
            .then_some(path)
            .filter(|_| !self.failed.contains(peer))
    }

    fn learn(&mut self, path: usize, candidate: Candidate) {
        let peer = candidate.record.peer();
        let key = LookupKey::of_peer(&peer);
        if self.goal == Goal::Peer(peer) {
            let known = self.found.take();
            let record = newer(candidate.record.clone(), known.as_ref().map(|known| known.record.clone()));
            self.found = known.filter(|known| known.record == record).or(Some(candidate));
            return;
        }
        if key == self.own || self.seen.contains_key(&peer) {
            return;
        }
        let near = &mut self.paths[path].near;
        let distance = key.distance(&self.target);
        let of_group = |(_, (one, _)): &(&[u8; 32], &(Candidate, State))| one.group == candidate.group;
        if near.iter().filter(of_group).count() >= PER_NETGROUP {
            // The nearer of one netgroup stay: else whoever comes first keeps its neighbours out.
            let farthest = near.iter().filter(of_group).map(|(at, _)| *at).next_back();
            match farthest {
                Some(farthest) if farthest > distance && near[&farthest].1 == State::New => {
                    near.remove(&farthest);
                }
                _ => return,
            }
        }
        self.seen.insert(peer, path);
        near.insert(distance, (candidate, State::New));
        if near.len() > SHORTLIST {
            near.pop_last();
        }
    }

    fn go_on(&mut self) -> Vec<Step> {
        if self.done {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let mut at_work = false;
        for path in &mut self.paths {
            let satisfied = path.satisfied || self.found.is_some();
            let mut under_way = path.near.values().filter(|(_, state)| *state == State::Asked).count();
            // Only the nearest are worth asking: when all of these have answered, the path is at its end.
            for (candidate, state) in path.near.values_mut().take(NEAREST) {
                if satisfied || under_way >= AT_ONCE || path.asked >= ASKED_MAX {
                    break;
                }
                if *state == State::New {
                    *state = State::Asked;
                    path.asked += 1;
                    under_way += 1;
                    steps.push(Step::Ask(Ask {
                        peer: candidate.record.peer(),
                        endpoints: candidate.endpoints.clone(),
                        value: matches!(self.goal, Goal::Value(_)),
                        target: self.target,
                    }));
                }
            }
            at_work |= !satisfied && under_way > 0;
        }
        if !at_work {
            steps.extend(self.give_up());
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use ghost_proto::KeyPair;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        lookup::{RoutingTable, Values},
        netgroup::AddressPolicy,
        testing::{NOW_MS, key, peer, place, record_at},
    };

    /// Nodes with tables, of whom some lie.
    struct Net {
        tables: BTreeMap<PeerId, RoutingTable>,
        values: BTreeMap<PeerId, Values>,
        liars: BTreeSet<PeerId>,
        dead: BTreeSet<PeerId>,
        contacts: Vec<Contact>,
    }

    fn contact(n: u32) -> Contact {
        let at = place(n as u16, 1);
        let group = AddressPolicy::default().group(&at);
        Contact { record: record_at(n, &at, 1), endpoints: vec![at], group, onion: false, dialled: true }
    }

    impl Net {
        /// Everybody met so many others, chosen by a fixed rule.
        fn new(nodes: u32, met: u32) -> Self {
            let contacts: Vec<Contact> = (0..nodes).map(contact).collect();
            let mut net = Self {
                tables: BTreeMap::new(),
                values: BTreeMap::new(),
                liars: BTreeSet::new(),
                dead: BTreeSet::new(),
                contacts,
            };
            for n in 0..nodes {
                let own = LookupKey::of_peer(&peer(n));
                let mut table = RoutingTable::new(own);
                // The next few, as from the seed, and a spread over all, as from peer exchange.
                for step in 0..met {
                    let other = if step < 3 { n + step + 1 } else { n + step * step * 7 + 11 };
                    table.met(net.contacts[(other % nodes) as usize].clone());
                }
                net.tables.insert(peer(n), table);
                net.values.insert(peer(n), Values::new(own));
            }
            net
        }

        fn reply(&self, ask: &Ask) -> Option<(Vec<Candidate>, Option<SignedValue>)> {
            if self.dead.contains(&ask.peer) {
                return None;
            }
            if self.liars.contains(&ask.peer) {
                // Names its like only, and keeps back what it has.
                let mut like: Vec<_> =
                    self.contacts.iter().filter(|one| self.liars.contains(&one.record.peer())).collect();
                like.sort_by_key(|one| LookupKey::of_peer(&one.record.peer()).distance(&ask.target));
                return Some((like.into_iter().take(8).map(Candidate::of_contact).collect(), None));
            }
            let near = self.tables[&ask.peer].nearest(&ask.target, CLOSER_PER_ANSWER_MAX, |_| true);
            let value = self.values[&ask.peer].get(&ask.target, NOW_MS).cloned();
            Some((near.into_iter().map(Candidate::of_contact).collect(), value))
        }

        fn look(&self, from: u32, goal: Goal) -> (Found, usize) {
            let now = Instant::now();
            let table = &self.tables[&peer(from)];
            let seeds = table.nearest(&goal.key(), PATHS * SHORTLIST, |_| true);
            let seeds = seeds.into_iter().map(Candidate::of_contact).collect();
            let own = LookupKey::of_peer(&peer(from));
            let (mut query, mut steps) = Query::new(goal, own, seeds, None, now);
            let mut asked = BTreeSet::new();
            let mut at_once = 0;
            loop {
                at_once = at_once.max(steps.len());
                let Some(step) = steps.pop() else { panic!("it hangs") };
                match step {
                    Step::Ask(ask) => {
                        assert!(asked.insert(ask.peer), "nobody is asked twice: paths are disjoint");
                        let more = match self.reply(&ask) {
                            Some((closer, value)) => query.answered(&ask.peer, closer, value, now),
                            None => query.failed(&ask.peer, now),
                        };
                        steps.extend(more);
                    }
                    Step::Done(found) => {
                        assert!(query.is_done());
                        assert_eq!(asked.len(), found.asked);
                        return (*found, at_once);
                    }
                }
            }
        }

        fn publish(&mut self, from: u32, owner: &KeyPair) -> LookupKey {
            let value = SignedValue::sign(owner, b"mailbox", 1, NOW_MS / 1000 + 900, b"here").unwrap();
            let (found, _) = self.look(from, Goal::Nearest(value.key()));
            assert!(!found.nearest.is_empty());
            for at in found.nearest {
                let values = self.values.get_mut(&at.record.peer()).unwrap();
                values.store(value.clone(), NetGroup([b'x'; 8]), 0, NOW_MS);
            }
            value.key()
        }
    }

    #[test]
    fn any_of_three_hundred_finds_any_other_by_asking_few() {
        let net = Net::new(300, 30);
        let (mut most, mut total) = (0, 0);
        for from in (0..300).step_by(23) {
            let to = (from * 7 + 150) % 300;
            let (found, at_once) = net.look(from, Goal::Peer(peer(to)));
            assert_eq!(found.peer.expect("found").record.peer(), peer(to), "{from} looks for {to}");
            most = most.max(found.asked);
            total += found.asked;
            assert!(at_once <= PATHS * AT_ONCE, "{at_once} at once");
        }
        println!("300 nodes: {:.1} asked on average, {most} at most", f64::from(total as u32) / 14.0);
        assert!(most <= PATHS * ASKED_MAX);
    }

    #[test]
    fn a_value_is_found_from_anywhere_though_a_fifth_lie_and_a_tenth_are_gone() {
        let mut net = Net::new(300, 30);
        let keys: Vec<LookupKey> = (0..10).map(|n| net.publish(n * 29, &key(5000 + n))).collect();
        net.liars = (0..300).filter(|n| n % 5 == 1).map(peer).collect();
        net.dead = (0..300).filter(|n| n % 10 == 3).map(peer).collect();
        let mut found = 0;
        for (n, target) in keys.iter().enumerate() {
            let (answer, _) = net.look((n as u32 * 40 + 5) % 300 / 5 * 5, Goal::Value(*target));
            found += u32::from(answer.value.is_some_and(|value| value.key() == *target));
        }
        assert!(found >= 9, "{found} of 10");
    }

    #[test]
    fn who_knows_nobody_is_told_so_at_once_and_what_is_not_there_ends_the_lookup() {
        let now = Instant::now();
        let own = LookupKey::of_peer(&peer(1));
        let (query, steps) = Query::new(Goal::Peer(peer(2)), own, Vec::new(), None, now);
        assert!(query.is_done());
        assert_eq!(steps, [Step::Done(Box::default())]);
        let net = Net::new(60, 20);
        let (found, _) = net.look(0, Goal::Peer(peer(9999)));
        assert_eq!(found.peer, None);
        assert!(found.asked <= PATHS * ASKED_MAX);
    }

    #[test]
    fn silence_ends_at_the_deadline_and_late_answers_change_nothing() {
        let net = Net::new(20, 10);
        let now = Instant::now();
        let seeds = net.contacts[1..10].iter().map(Candidate::of_contact).collect();
        let own = LookupKey::of_peer(&peer(0));
        let (mut query, steps) = Query::new(Goal::Value(LookupKey([7; 32])), own, seeds, None, now);
        assert_eq!(steps.len(), PATHS * AT_ONCE);
        assert_eq!(query.deadline(), now + LOOKUP_TIME);
        let Step::Ask(ask) = &steps[0] else { panic!("{steps:?}") };
        assert!(matches!(query.give_up()[..], [Step::Done(_)]));
        assert_eq!(query.answered(&ask.peer, Vec::new(), None, now), []);
        assert_eq!(query.give_up(), []);
    }

    #[test]
    fn of_two_values_the_newer_counts_and_another_owners_does_not() {
        let net = Net::new(20, 10);
        let now = Instant::now();
        let value = |n, sequence| SignedValue::sign(&key(n), b"m", sequence, u64::MAX, b"").unwrap();
        let seeds: Vec<_> = net.contacts[1..10].iter().map(Candidate::of_contact).collect();
        let own = LookupKey::of_peer(&peer(0));
        let (mut query, steps) = Query::new(Goal::Value(value(1, 1).key()), own, seeds, None, now);
        let answers =
            [Some(value(1, 1)), Some(value(2, 9)), Some(value(1, 3)), Some(value(1, 2)), None, None];
        let mut done = None;
        for (step, answer) in steps.iter().zip(answers) {
            let Step::Ask(ask) = step else { panic!("{step:?}") };
            for step in query.answered(&ask.peer, Vec::new(), answer, now) {
                if let Step::Done(found) = step {
                    done = Some(found);
                }
            }
        }
        let found = done.map_or_else(
            || match query.give_up().remove(0) {
                Step::Done(found) => found,
                other => panic!("{other:?}"),
            },
            |found| found,
        );
        assert_eq!(found.value, Some(value(1, 3)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn whatever_is_answered_a_lookup_ends_within_its_bounds(
            target in any::<[u8; 32]>(),
            liars in proptest::collection::btree_set(0u32..80, 0..60),
            dead in proptest::collection::btree_set(0u32..80, 0..60),
            from in 0u32..80,
        ) {
            let mut net = Net::new(80, 20);
            net.liars = liars.into_iter().map(peer).collect();
            net.dead = dead.into_iter().map(peer).collect();
            let (found, at_once) = net.look(from, Goal::Nearest(LookupKey(target)));
            prop_assert!(found.asked <= PATHS * ASKED_MAX);
            prop_assert!(at_once <= PATHS * AT_ONCE);
            prop_assert!(found.nearest.len() <= NEAREST);
            prop_assert!(found.nearest.iter().all(|one| !net.dead.contains(&one.record.peer())));
        }
    }
}

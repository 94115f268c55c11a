//! Four authorities in virtual time: delay, loss, partition, a twin that signs everything twice.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use ghost_node::{
    chain::{CertificateOutcome, Chain, FinalityChange, HeaderError, ImportError, OwnVote},
    consensus::{Equivocation, VoteVerdict},
};
use ghost_proto::{Address, Block, BlockId, Checkpoint, FinalityCertificate, Genesis, Vote, vote::Link};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::world::*;

#[derive(Clone)]
enum Message {
    Block(Block),
    Vote(Vote),
    Certificate(FinalityCertificate),
    /// "This is my head": what a status exchange tells.
    Status(Block),
}

enum Event {
    Slot(u64),
    Deliver { from: usize, to: usize, message: Box<Message> },
    VoteDue(usize),
}

struct Network {
    genesis: Arc<Genesis>,
    chains: Vec<Chain>,
    /// Which side of a partition each node is on; messages between sides are lost.
    side: Vec<u8>,
    loss_percent: u32,
    delay_ms: std::ops::Range<u64>,
    rng: StdRng,
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    finalized: BTreeMap<u64, BlockId>,
    evidence: Vec<Equivocation>,
    nonces: Vec<u64>,
    /// An authority that runs no node, and tells each half of the nodes something else.
    liar: Option<usize>,
}

impl Network {
    /// `keys[n]` is the authority that node `n` plays; two nodes with one are twins.
    fn new(authorities: usize, keys: &[usize], seed: u64) -> Self {
        let genesis = genesis(authorities);
        let chains = keys.iter().map(|key| memory_chain(&genesis, Some(*key))).collect();
        let mut network = Self {
            genesis,
            chains,
            side: vec![0; keys.len()],
            loss_percent: 0,
            delay_ms: 5..80,
            rng: StdRng::seed_from_u64(seed),
            now: START_MS,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            finalized: BTreeMap::new(),
            evidence: Vec::new(),
            nonces: vec![0; keys.len()],
            liar: None,
        };
        network.at(START_MS, Event::Slot(0));
        network
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if from == to || self.side[from] != self.side[to] {
            return;
        }
        if self.rng.random_range(0..100) < self.loss_percent {
            return;
        }
        let delay = self.rng.random_range(self.delay_ms.clone());
        self.at(self.now + delay, Event::Deliver { from, to, message: Box::new(message) });
    }

    fn broadcast(&mut self, from: usize, message: &Message) {
        for to in 0..self.chains.len() {
            self.send(from, to, message.clone());
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((time, _))) = self.queue.peek() {
            if *time > end {
                break;
            }
            let Some(Reverse((time, sequence))) = self.queue.pop() else { break };
            self.now = time;
            match self.events.remove(&sequence).unwrap() {
                Event::Slot(slot) => self.slot(slot),
                Event::Deliver { from, to, message } => self.deliver(from, to, *message),
                Event::VoteDue(node) => self.vote(node),
            }
        }
        self.now = end;
    }

    fn slot(&mut self, slot: u64) {
        for node in 0..self.chains.len() {
            if self.chains[node].duty(self.now) == Some(slot) {
                let from = node as u8;
                let account = self.chains[node].view().account(&user(from).address()).unwrap();
                self.nonces[node] = account.nonce;
                let tx = transfer(from, account.nonce, Address([9; 20]), 1);
                let proposed = self.chains[node].propose(slot, vec![tx], self.now).unwrap();
                self.changed(node, &proposed.imported.change);
                self.broadcast(node, &Message::Block(proposed.block));
            }
            // A status exchange with one other each slot.
            let other = self.rng.random_range(0..self.chains.len());
            let view = self.chains[node].view();
            if let Some(block) = view.block(&view.head().id).unwrap() {
                self.send(node, other, Message::Status(block));
            }
            self.vote(node);
        }
        if let Some(liar) = self.liar {
            self.lie(liar);
        }
        self.at(slot_start(slot + 1), Event::Slot(slot + 1));
    }

    fn vote(&mut self, node: usize) {
        match self.chains[node].vote(self.now).unwrap() {
            Some(OwnVote { vote, source_by, finality }) => {
                self.changed(node, &finality);
                if let Some(certificate) = source_by {
                    self.broadcast(node, &Message::Certificate(certificate));
                }
                self.broadcast(node, &Message::Vote(vote));
            }
            None => {
                if let Some(due) = self.chains[node].vote_due()
                    && due > self.now
                {
                    self.at(due, Event::VoteDue(node));
                }
            }
        }
    }

    /// Votes for the head, as the first half of the nodes hears it, and for a block that nobody has, as
    /// the others do. The halves change from slot to slot.
    fn lie(&mut self, liar: usize) {
        let view = self.chains[self.rng.random_range(0..self.chains.len())].view();
        let head: Checkpoint = view.head().into();
        let Some(header) = view.header(&head.id).unwrap() else { return };
        let source = Checkpoint { height: head.height - 1, id: header.parent };
        let mut nobody = head.id;
        nobody.0[0] ^= 1;
        let turn = self.rng.random_range(0..2);
        for to in 0..self.chains.len() {
            let id = if (to + turn) % 2 == 0 { head.id } else { nobody };
            let link = Link { source, target: Checkpoint { height: head.height, id } };
            let vote = Vote::sign(link, liar as u16, &self.genesis.id(), &authority(liar));
            self.at(self.now, Event::Deliver { from: to, to, message: Box::new(Message::Vote(vote)) });
        }
    }

    fn changed(&mut self, node: usize, change: &FinalityChange) {
        if let Some(finalized) = change.finalized {
            let view = self.chains[node].view();
            for height in (0..=finalized.height).rev() {
                let id = view.canonical_id(height).unwrap().unwrap();
                match self.finalized.get(&height) {
                    Some(known) => {
                        assert_eq!(*known, id, "two final blocks at height {height}");
                        if height + 50 < finalized.height {
                            break;
                        }
                    }
                    None => {
                        self.finalized.insert(height, id);
                    }
                }
            }
        }
    }

    fn import(&mut self, from: usize, to: usize, block: Block) {
        let mut missing = vec![block];
        while let Some(block) = missing.pop() {
            match self.chains[to].import(block.clone(), trust_all, self.now) {
                Ok(imported) => {
                    self.changed(to, &imported.change);
                    self.evidence.extend(imported.equivocation);
                }
                Err(ImportError::Header(HeaderError::UnknownParent { parent })) => {
                    // The request for the parent goes to who sent the child.
                    let Some(above) = self.chains[from].view().block(&parent).unwrap() else { break };
                    missing.push(block);
                    missing.push(above);
                }
                Err(ImportError::Header(
                    HeaderError::BelowFinality { .. }
                    | HeaderError::TooManyProposals { .. }
                    | HeaderError::FromFuture { .. },
                )) => break,
                Err(error) => panic!("an honest block was refused: {error}"),
            }
        }
        self.vote(to);
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Block(block) => self.import(from, to, block),
            Message::Vote(vote) => {
                let outcome = self.chains[to].on_vote(vote).unwrap();
                self.changed(to, &outcome.finality);
                match outcome.verdict {
                    VoteVerdict::Added(Some(_)) => self.vote(to),
                    VoteVerdict::Equivocates(evidence) => self.evidence.push(evidence),
                    VoteVerdict::Invalid(fault) => panic!("an honest vote was refused: {fault}"),
                    _ => {}
                }
            }
            Message::Certificate(certificate) => self.certificate(to, &certificate),
            Message::Status(block) => self.import(from, to, block),
        }
    }

    fn certificate(&mut self, to: usize, certificate: &FinalityCertificate) {
        match self.chains[to].on_certificate(certificate).unwrap() {
            CertificateOutcome::Followed(change) => {
                self.changed(to, &change);
                // A node relays what is news to it.
                self.broadcast(to, &Message::Certificate(certificate.clone()));
                self.vote(to);
            }
            CertificateOutcome::Waiting(_) | CertificateOutcome::Known => {}
            other => panic!("an honest certificate was refused: {other:?}"),
        }
    }

    fn heights(&self) -> Vec<(u64, u64)> {
        self.chains.iter().map(|chain| (chain.head().height, chain.finalized().height)).collect()
    }

    /// All agree on everything but the newest blocks, and finality is close behind.
    fn assert_agreement(&self, lag_max: u64) {
        let lowest = self.chains.iter().map(|chain| chain.finalized().height).min().unwrap();
        for chain in &self.chains {
            let view = chain.view();
            assert_eq!(
                view.canonical_id(lowest).unwrap(),
                self.chains[0].view().canonical_id(lowest).unwrap()
            );
            let head = chain.head().height;
            assert!(head - chain.finalized().height <= lag_max, "{:?}", self.heights());
            assert_eq!(supply(chain, &self.genesis, &[Address([9; 20])]), 8 * RICH);
        }
    }
}

#[test]
fn four_authorities_agree_and_finality_follows_two_blocks_behind() {
    let mut network = Network::new(4, &[0, 1, 2, 3], 1);
    network.run_until(slot_start(60));
    let heights = network.heights();
    assert!(heights.iter().all(|(head, _)| *head >= 59), "a block each slot: {heights:?}");
    network.assert_agreement(3);
    assert!(network.evidence.is_empty());
    // Every user's transactions went through exactly once.
    let view = network.chains[0].view();
    assert_eq!(view.account(&Address([9; 20])).unwrap().balance, u128::from(view.included_total()));
}

#[test]
fn votes_slower_than_a_slot_still_finalize() {
    for seed in 0..4 {
        let mut network = Network::new(4, &[0, 1, 2, 3], seed);
        network.delay_ms = 100..350;
        network.run_until(slot_start(80));
        network.assert_agreement(12);
    }
}

#[test]
fn with_a_tenth_of_all_messages_lost_the_chain_goes_on() {
    for seed in 0..6 {
        let mut network = Network::new(4, &[0, 1, 2, 3], seed);
        network.loss_percent = 10;
        network.run_until(slot_start(100));
        let heights = network.heights();
        assert!(heights.iter().all(|(head, _)| *head >= 85), "seed {seed}: {heights:?}");
        network.assert_agreement(15);
    }
}

#[test]
fn one_authority_down_costs_its_slots_and_no_finality() {
    let mut network = Network::new(4, &[0, 1, 2], 3);
    network.run_until(slot_start(80));
    let heights = network.heights();
    assert!(heights.iter().all(|(head, _)| (57..=61).contains(head)), "{heights:?}");
    network.assert_agreement(6);
}

#[test]
fn two_of_four_down_stop_finality_and_nothing_else() {
    let mut network = Network::new(4, &[0, 1], 3);
    network.run_until(slot_start(80));
    let heights = network.heights();
    assert!(heights.iter().all(|(head, finalized)| *head >= 38 && *finalized == 0), "{heights:?}");
    assert_eq!(
        network.chains[0].view().canonical_id(38).unwrap(),
        network.chains[1].view().canonical_id(38).unwrap()
    );
}

#[test]
fn a_partition_in_halves_heals_into_one_chain() {
    for seed in 0..4 {
        let mut network = Network::new(4, &[0, 1, 2, 3], seed);
        network.run_until(slot_start(20));
        let before = network.heights();
        network.side = vec![0, 1, 0, 1];
        network.run_until(slot_start(140));
        for (chain, (_, finalized)) in network.chains.iter().zip(before) {
            assert!(chain.finalized().height <= finalized + 2, "half of the authorities finalize nothing");
        }
        assert_ne!(network.chains[0].head().id, network.chains[1].head().id);
        network.side = vec![0; 4];
        network.run_until(slot_start(160));
        network.assert_agreement(6);
        assert!(network.evidence.is_empty(), "honest nodes never contradict themselves");
    }
}

#[test]
fn an_authority_that_signs_everything_twice_is_caught_and_changes_nothing() {
    let (mut proposals, mut votes) = (0, 0);
    for seed in 0..8 {
        let mut network = Network::new(4, &[0, 1, 2, 3, 3], seed);
        network.loss_percent = 5;
        network.run_until(slot_start(100));
        // The twin sides with two, then with one, so that its two voices are heard apart.
        network.side = vec![0, 0, 1, 0, 1];
        network.run_until(slot_start(130));
        network.side = vec![0; 5];
        network.run_until(slot_start(180));
        network.assert_agreement(25);
        for evidence in &network.evidence {
            assert_eq!(evidence.authority(), 3, "only the twin is guilty");
            match evidence {
                Equivocation::Proposals { .. } => proposals += 1,
                Equivocation::Votes { .. } => votes += 1,
            }
        }
    }
    assert!(proposals > 0 && votes > 0, "{proposals} double proposals, {votes} double votes");
}

/// One node has an authority's vote that completes a certificate, the others have its other vote: those
/// see the block unjustified, and vote from elsewhere. Without the certificate they would do so for ever.
#[test]
fn an_authority_that_tells_each_node_another_vote_keeps_nobody_from_finality() {
    for seed in 0..8 {
        let mut network = Network::new(4, &[0, 1, 2], seed);
        network.liar = Some(3);
        network.loss_percent = 5;
        network.run_until(slot_start(200));
        network.assert_agreement(30);
    }
}

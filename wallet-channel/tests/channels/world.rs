//! Wallets, mailbox nodes and a chain in one process, in virtual time. Wallets and mailboxes are the real cores
//! with stores that survive what the test does to them.

use std::collections::BTreeMap;

use bytes::Bytes;
use ghost_frames::wallet::{DepositProof, MailboxDeposit, MailboxOpen, MailboxOutcome};
use ghost_proto::{
    KeyPair, MailboxAt, PeerId, Presence, PublicKey, SignedTransaction, TxId, record::peer_of,
};
use ghost_wallet_channel::{
    keys::WalletKeys,
    mailbox::{Mailbox, MailboxLimits, Write, item_key, item_of},
    secret::Secret,
    session::{Delivered, Event, Output, Proof, Refused, Wallet, What},
    stamp,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

pub(crate) const START_MS: u64 = 1_700_000_000_000;
pub(crate) const LIMITS: MailboxLimits = MailboxLimits {
    boxes_max: 8,
    box_bytes_max: 4 << 20,
    bytes_max: 16 << 20,
    keep_ms: 14 * 86_400_000,
    idle_ms: 30 * 86_400_000,
    open_bits: 8,
};

/// What a mailbox node does with what it hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Malice {
    #[default]
    None,
    /// Loses some, hands some out twice and later, flips bits in copies, in any order.
    All,
}

pub(crate) struct Node {
    pub(crate) key: KeyPair,
    pub(crate) mailbox: Mailbox,
    pub(crate) store: BTreeMap<Vec<u8>, Bytes>,
    pub(crate) up: bool,
    pub(crate) malice: Malice,
    kept_back: Vec<Bytes>,
    rng: ChaCha20Rng,
}

pub(crate) struct Actor {
    seed: [u8; 32],
    pub(crate) wallet: Wallet,
    pub(crate) store: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) parts: BTreeMap<[u8; 16], BTreeMap<u64, Bytes>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What it sends from.
    pub(crate) disk: BTreeMap<String, Bytes>,
    pub(crate) events: Vec<Event>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) nodes: Vec<usize>,
    pub(crate) online: bool,
    pub(crate) watched: Vec<TxId>,
    pub(crate) wanted: Vec<PublicKey>,
    pub(crate) rng: ChaCha20Rng,
    /// Envelopes that left this wallet.
    pub(crate) sent: Vec<Vec<u8>>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) actors: Vec<Actor>,
    /// Transactions by id, with the height they are in.
    pub(crate) chain: BTreeMap<TxId, (SignedTransaction, u64)>,
}

impl Node {
    fn new(seed: u8) -> Self {
        Self {
            key: KeyPair::from_seed(&[seed; 32]),
            mailbox: Mailbox::new(LIMITS),
            store: BTreeMap::new(),
            up: true,
            malice: Malice::None,
            kept_back: Vec::new(),
            rng: ChaCha20Rng::from_seed([seed; 32]),
        }
    }

    pub(crate) fn peer(&self) -> PeerId {
        peer_of(&self.key.public()).unwrap()
    }

    pub(crate) fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write.value {
                Some(value) => self.store.insert(write.key, value.into()),
                None => self.store.remove(&write.key),
            };
        }
    }

    /// Comes back with what is in its store.
    pub(crate) fn restart(&mut self) {
        self.mailbox = Mailbox::new(LIMITS);
        for (key, value) in &self.store {
            assert!(self.mailbox.restore(key, value));
        }
    }

    fn hand_out(&mut self, envelope: Bytes) -> Vec<Bytes> {
        if self.malice == Malice::None {
            return vec![envelope];
        }
        let mut out = Vec::new();
        let mut flipped = envelope.to_vec();
        let bit = self.rng.next_u32() as usize % (flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        out.push(flipped.into());
        out.push(envelope.slice(..envelope.len() - 1));
        // One in three is lost, one in three comes later, again.
        match self.rng.next_u32() % 3 {
            0 => {}
            1 => self.kept_back.push(envelope),
            _ => out.extend([envelope.clone(), envelope]),
        }
        if self.kept_back.len() > 5 {
            let index = self.rng.next_u32() as usize % self.kept_back.len();
            let late = self.kept_back.swap_remove(index);
            out.extend([late.clone(), late]);
        }
        out
    }
}

impl Actor {
    fn new(index: usize, nodes: Vec<usize>) -> Self {
        let seed = [10 + index as u8; 32];
        Self {
            seed,
            wallet: Wallet::new(WalletKeys::from_seed(Secret::new(seed))),
            store: BTreeMap::new(),
            parts: BTreeMap::new(),
            files: BTreeMap::new(),
            disk: BTreeMap::new(),
            events: Vec::new(),
            refused: Vec::new(),
            nodes,
            online: true,
            watched: Vec::new(),
            wanted: Vec::new(),
            rng: ChaCha20Rng::from_seed([200 + index as u8; 32]),
            sent: Vec::new(),
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.wallet.keys().wallet()
    }

    /// Killed and started again: what was not taken out and applied is gone.
    pub(crate) fn restart(&mut self, now: u64) {
        self.wallet = Wallet::new(WalletKeys::from_seed(Secret::new(self.seed)));
        for (key, value) in &self.store {
            assert!(self.wallet.restore(key, value), "{key:?}");
        }
        self.watched.clear();
        self.wallet.resume(now, &mut self.rng);
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |event: &Event| match &event.what {
            What::Text { text } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }

    pub(crate) fn saw(&self, wanted: impl Fn(&What) -> bool) -> bool {
        self.events.iter().any(|event| wanted(&event.what))
    }
}

impl World {
    /// Wallet *i* has its mailbox at node *i*.
    pub(crate) fn new(wallets: usize) -> Self {
        let mut world = Self {
            now: START_MS,
            nodes: (0..wallets).map(|index| Node::new(100 + index as u8)).collect(),
            actors: (0..wallets).map(|index| Actor::new(index, vec![index])).collect(),
            chain: BTreeMap::new(),
        };
        for index in 0..wallets {
            world.move_to(index, vec![index]);
        }
        world.settle();
        world
    }

    pub(crate) fn add_node(&mut self) -> usize {
        self.nodes.push(Node::new(100 + self.nodes.len() as u8));
        self.nodes.len() - 1
    }

    /// The wallet's mailboxes are at these nodes from now on.
    pub(crate) fn move_to(&mut self, actor: usize, nodes: Vec<usize>) {
        let mut mailboxes = Vec::new();
        for index in &nodes {
            let (actor, node) = (&self.actors[actor], &mut self.nodes[*index]);
            let owner = actor.wallet.keys().box_key(&node.key.public()).public();
            let day = (self.now / 86_400_000) as u32;
            let subject = stamp::of_box(&node.key.public(), &owner, day);
            let nonce = stamp::search(&subject, LIMITS.open_bits, 0, u64::MAX).unwrap();
            let request = MailboxOpen { stamp_bits: 8, day, nonce };
            let (answer, writes) = node.mailbox.open(&node.key.public(), &owner, &request, self.now);
            assert_eq!(answer.outcome, MailboxOutcome::Done);
            node.apply(writes);
            let (answer, writes) = node.mailbox.grant(&owner, true, &actor.wallet.grant_ids());
            assert_eq!(answer.outcome, MailboxOutcome::Done);
            node.apply(writes);
            let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1/p2p/{}", 4000 + index, node.peer());
            mailboxes.push(MailboxAt { box_key: owner, stamp_bits: 8, node: address.parse().unwrap() });
        }
        let actor = &mut self.actors[actor];
        actor.nodes = nodes;
        actor.wallet.set_mailboxes(mailboxes, self.now, &mut actor.rng).unwrap();
    }

    pub(crate) fn presence(&self, actor: usize) -> Presence {
        self.actors[actor].wallet.presence().unwrap().clone()
    }

    pub(crate) fn open(&mut self, from: usize, to: usize) {
        let presence = self.presence(to);
        let actor = &mut self.actors[from];
        actor.wallet.open(presence, None, self.now, &mut actor.rng).unwrap();
    }

    /// Both have an open channel.
    pub(crate) fn open_and_settle(&mut self, from: usize, to: usize) {
        self.open(from, to);
        self.pass(1_000);
        let stages: Vec<_> = [from, to].map(|it| self.actors[it].wallet.channels()[0].stage.clone()).into();
        assert_eq!(stages, ["open", "open"]);
    }

    pub(crate) fn say(&mut self, from: usize, to: usize, text: &str) {
        let peer = self.actors[to].key();
        let actor = &mut self.actors[from];
        actor.wallet.say(&peer, text, self.now, &mut actor.rng).unwrap();
    }

    /// Does what a wallet wants done, as its driver would.
    pub(crate) fn perform(&mut self, index: usize) -> bool {
        let output = self.actors[index].wallet.take();
        self.carry_out(index, output)
    }

    pub(crate) fn carry_out(&mut self, index: usize, output: Output) -> bool {
        let now = self.now;
        let busy = !output.deposits.is_empty() || !output.reads.is_empty() || !output.files.is_empty();
        for part in output.files {
            let actor = &mut self.actors[index];
            let parts = actor.parts.entry(part.id).or_default();
            if !part.content.is_empty() {
                parts.insert(part.offset, part.content);
            }
            if let Some((name, hash)) = part.complete {
                let whole: Vec<u8> = parts.values().flatten().copied().collect();
                let good = *blake3::hash(&whole).as_bytes() == hash;
                let outcome = if good { Ok((name.clone(), whole.len() as u64)) } else { Err("hash".into()) };
                actor.wallet.file_checked(&part.peer, &part.id, outcome, now);
                actor.files.insert(name, whole);
            }
        }
        let actor = &mut self.actors[index];
        for write in output.writes {
            match write.value {
                Some(value) => actor.store.insert(write.key, value),
                None => actor.store.remove(&write.key),
            };
        }
        for (add, id) in output.grants {
            for at in actor.nodes.clone() {
                let node = &mut self.nodes[at];
                let owner = actor.wallet.keys().box_key(&node.key.public()).public();
                let (_, writes) = node.mailbox.grant(&owner, add, &[id]);
                node.apply(writes);
            }
        }
        if let Some(presence) = output.publish {
            for at in actor.nodes.clone() {
                let node = &mut self.nodes[at];
                let owner = actor.wallet.keys().box_key(&node.key.public()).public();
                let (peer, record) = (node.peer(), presence.bytes().clone());
                let (answer, writes) = node.mailbox.publish(&peer, &owner, &record);
                assert_eq!(answer.outcome, MailboxOutcome::Done);
                node.apply(writes);
            }
        }
        for deposit in output.deposits {
            self.actors[index].sent.push(deposit.envelope.clone());
            let mut delivered = Delivered::Failed;
            for mailbox in &deposit.mailboxes {
                let node =
                    self.nodes.iter_mut().find(|node| Some(node.peer()) == mailbox.node_peer()).unwrap();
                if !node.up {
                    continue;
                }
                let proof = match &deposit.proof {
                    Proof::Grant(grant) => DepositProof::Grant(*grant.bytes()),
                    Proof::Stamp => {
                        let subject = stamp::of_envelope(&mailbox.box_key, &deposit.envelope);
                        DepositProof::Stamp(stamp::search(&subject, mailbox.stamp_bits, 0, u64::MAX).unwrap())
                    }
                };
                let request = MailboxDeposit {
                    box_key: mailbox.box_key,
                    proof,
                    envelope: deposit.envelope.clone().into(),
                };
                let (answer, writes) = node.mailbox.deposit(&request, now);
                node.apply(writes);
                match answer.outcome {
                    MailboxOutcome::Done | MailboxOutcome::Repeated => delivered = Delivered::Kept,
                    MailboxOutcome::BoxFull => delivered = Delivered::Full,
                    _ => continue,
                }
                break;
            }
            let actor = &mut self.actors[index];
            actor.wallet.deposited(&deposit.peer, deposit.number, delivered, now);
        }
        let actor = &mut self.actors[index];
        for tx in output.submits {
            let height = 1 + self.chain.len() as u64;
            let tx = tx.verify().expect("only what is signed is submitted").into_signed();
            self.chain.entry(tx.id()).or_insert((tx, height));
        }
        actor.watched.extend(output.watches);
        actor.wanted.extend(output.wanted.into_iter().map(|(peer, _)| peer));
        for read in output.reads {
            let range = read.offset as usize..read.offset as usize + read.bytes;
            let content = actor.disk.get(&read.path).map(|file| file.slice(range));
            actor.wallet.chunk(&read.id, read.offset, content, now, &mut actor.rng);
        }
        actor.events.extend(output.events);
        busy
    }

    /// Fetches what is in a wallet's boxes.
    fn collect(&mut self, index: usize) -> bool {
        let mut any = false;
        for at in self.actors[index].nodes.clone() {
            let node = &mut self.nodes[at];
            if !node.up {
                continue;
            }
            let owner = self.actors[index].wallet.keys().box_key(&node.key.public()).public();
            let Some(sequences) = node.mailbox.collect(&owner, 0, self.now) else { continue };
            for sequence in sequences {
                any = true;
                let node = &mut self.nodes[at];
                let (_, envelope) = item_of(&node.store[&item_key(&owner, sequence)]).unwrap();
                for envelope in node.hand_out(envelope) {
                    let actor = &mut self.actors[index];
                    if let Err(refused) = actor.wallet.envelope(&envelope, self.now, &mut actor.rng) {
                        actor.refused.push(refused);
                    }
                    self.perform(index);
                }
                let node = &mut self.nodes[at];
                let (_, writes) = node.mailbox.acknowledge(&owner, sequence, self.now);
                node.apply(writes);
            }
        }
        any
    }

    fn look_at_chain(&mut self, index: usize) -> bool {
        let actor = &mut self.actors[index];
        let watched = std::mem::take(&mut actor.watched);
        for id in &watched {
            match self.chain.get(id) {
                Some((_, height)) => actor.wallet.seen(*id, *height, true, true, self.now, &mut actor.rng),
                None => actor.watched.push(*id),
            }
        }
        watched.len() > actor.watched.len()
    }

    /// Everybody who is online does what there is to do, until there is nothing more at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for index in 0..self.actors.len() {
                if !self.actors[index].online {
                    continue;
                }
                let actor = &mut self.actors[index];
                if actor.wallet.next_deadline().is_some_and(|due| due <= self.now) {
                    actor.wallet.on_deadline(self.now, &mut actor.rng);
                }
                busy |= self.perform(index);
                busy |= self.collect(index);
                busy |= self.look_at_chain(index);
                for peer in std::mem::take(&mut self.actors[index].wanted) {
                    let to = self.actors.iter().position(|it| it.key() == peer).unwrap();
                    let presence = self.presence(to);
                    let actor = &mut self.actors[index];
                    // The other side may have been faster.
                    let _ = actor.wallet.open(presence, None, self.now, &mut actor.rng);
                    actor.wallet.greet_for_groups(&peer, self.now, &mut actor.rng);
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Lets time pass, from deadline to deadline.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            self.settle();
            let online = self.actors.iter().filter(|actor| actor.online);
            let next = online.filter_map(|actor| actor.wallet.next_deadline()).min();
            match next {
                Some(next) if next <= end => self.now = next.max(self.now + 1),
                _ => break,
            }
        }
        self.now = end;
    }
}

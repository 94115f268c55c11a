//! A node's mailboxes: what is kept for wallets that are not there.
//!
//! A box belongs to a key; whoever proves that key in a handshake opens, collects, acknowledges. Anyone may
//! bring an envelope who shows a grant that the owner gave, or pays with a stamp. The node sees boxes,
//! sizes, times and which grant was shown; it sees no content and no sender.
//!
//! | what a box's owner and strangers can make a node hold | bound |
//! | --- | --- |
//! | boxes | [`MailboxLimits::boxes_max`], each paid for with a stamp |
//! | bytes of envelopes, in all boxes | [`MailboxLimits::bytes_max`] |
//! | bytes in one box | [`MailboxLimits::box_bytes_max`] |
//! | of these brought by strangers | a quarter, and [`STRANGERS_MAX`] envelopes |
//! | grants of a box | [`GRANTS_MAX`] × 32 bytes |
//! | presence records | one for each box |
//! | time | [`MailboxLimits::keep_ms`] for an envelope, [`MailboxLimits::idle_ms`] for a box nobody comes to |
//!
//! What must survive is among the effects ([`Write`]); what is in the store at the start goes in through
//! [`Mailbox::restore`]. Envelopes are not in memory: 64 bytes are, for each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use ghost_frames::wallet::{
    DepositProof, MailboxAnswer, MailboxDeposit, MailboxOpen, MailboxOutcome as Outcome,
};
use ghost_proto::{PeerId, Presence, PublicKey};
use serde::{Deserialize, Serialize};

use crate::{envelope::is_size_class, stamp};

/// Most grants of one box: one for each channel of a wallet with as many, and invitations.
pub const GRANTS_MAX: usize = 1024;
/// Most envelopes of strangers in one box.
pub const STRANGERS_MAX: usize = 64;
/// Most envelopes in one box, however small.
pub const ENVELOPES_MAX: usize = 16_384;
/// Most sequences that [`Mailbox::collect`] names at once.
pub const COLLECT_MAX: usize = 64;

/// What a node gives to mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Most boxes.
    pub boxes_max: usize,
    /// Most bytes of envelopes in one box.
    pub box_bytes_max: u64,
    /// Most bytes of envelopes in all boxes.
    pub bytes_max: u64,
    /// How long an envelope is kept.
    pub keep_ms: u64,
    /// How long a box is kept to which nobody comes.
    pub idle_ms: u64,
    /// Leading zero bits of the stamp that opening a box costs.
    pub open_bits: u8,
}

/// A change to the store. All of one call belong into one batch, which is durable before the call is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub key: Vec<u8>,
    /// What; `None` removes.
    pub value: Option<Vec<u8>>,
}

/// Where the envelope of a sequence in a box is stored.
pub fn item_key(box_key: &PublicKey, sequence: u64) -> Vec<u8> {
    [b"m", &box_key.0[..], &sequence.to_be_bytes()].concat()
}

fn box_store_key(box_key: &PublicKey) -> Vec<u8> {
    [b"b", &box_key.0[..]].concat()
}

/// Expiry (8), time of arrival (8), brought by a stranger (1).
const ITEM_HEAD: usize = 17;

/// When an envelope came, and the envelope, from what is stored under [`item_key`].
pub fn item_of(value: &Bytes) -> Option<(u64, Bytes)> {
    let arrived = u64::from_be_bytes(value.get(8..16)?.try_into().ok()?);
    (value.len() > ITEM_HEAD).then(|| (arrived, value.slice(ITEM_HEAD..)))
}

/// What a box has besides its envelopes, as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    stamp_bits: u8,
    next: u64,
    seen_ms: u64,
    grants: BTreeSet<[u8; 32]>,
    presence: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    bytes: u64,
    expires_ms: u64,
    stranger: bool,
    digest: [u8; 16],
}

#[derive(Debug)]
struct MailBox {
    head: Head,
    items: BTreeMap<u64, Item>,
    bytes: u64,
    strangers: usize,
    strangers_bytes: u64,
    digests: BTreeSet<[u8; 16]>,
}

impl MailBox {
    fn new(head: Head) -> Self {
        Self {
            head,
            items: BTreeMap::new(),
            bytes: 0,
            strangers: 0,
            strangers_bytes: 0,
            digests: BTreeSet::new(),
        }
    }

    fn add(&mut self, sequence: u64, item: Item) {
        self.bytes += item.bytes;
        if item.stranger {
            self.strangers += 1;
            self.strangers_bytes += item.bytes;
        }
        self.digests.insert(item.digest);
        self.items.insert(sequence, item);
    }

    fn remove(&mut self, sequence: u64) -> u64 {
        let Some(item) = self.items.remove(&sequence) else { return 0 };
        self.bytes -= item.bytes;
        if item.stranger {
            self.strangers -= 1;
            self.strangers_bytes -= item.bytes;
        }
        self.digests.remove(&item.digest);
        item.bytes
    }

    fn write(&self, box_key: &PublicKey) -> Write {
        let value = postcard::to_allocvec(&self.head).expect("plain data");
        Write { key: box_store_key(box_key), value: Some(value) }
    }
}

/// The id under which a box knows a grant: the node keeps no grant itself.
pub fn grant_id(grant: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("ghost 2026 wallet grant", grant)
}

fn digest(envelope: &[u8]) -> [u8; 16] {
    blake3::hash(envelope).as_bytes()[..16].try_into().expect("sixteen of 32")
}

fn answer(outcome: Outcome, value: u64) -> MailboxAnswer {
    MailboxAnswer { outcome, value }
}

/// All boxes of a node.
///
/// Drivers call [`Self::restore`] for all that is stored, then the methods named like requests as these come, and
/// [`Self::on_deadline`] when [`Self::next_deadline`] has passed.
#[derive(Debug)]
pub struct Mailbox {
    limits: MailboxLimits,
    boxes: BTreeMap<PublicKey, MailBox>,
    presences: BTreeMap<PublicKey, (Presence, PublicKey)>,
    bytes: u64,
    next_sweep_ms: u64,
}

/// How often expired envelopes are looked for.
const SWEEP_MS: u64 = 60_000;

impl Mailbox {
    /// Without boxes.
    pub fn new(limits: MailboxLimits) -> Self {
        Self { limits, boxes: BTreeMap::new(), presences: BTreeMap::new(), bytes: 0, next_sweep_ms: 0 }
    }

    /// Takes in one entry of the store; boxes sort before their envelopes. False for one that makes no
    /// sense, which may be removed.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> bool {
        match key.split_first() {
            Some((b'b', key)) => {
                let (Ok(key), Ok(head)) = (<[u8; 32]>::try_from(key), postcard::from_bytes::<Head>(value))
                else {
                    return false;
                };
                let key = PublicKey(key);
                if let Ok(presence) = Presence::verify(Bytes::copy_from_slice(&head.presence)) {
                    self.presences.insert(presence.wallet(), (presence, key));
                }
                self.boxes.insert(key, MailBox::new(head));
                true
            }
            Some((b'm', key)) if key.len() == 40 && value.len() > ITEM_HEAD => {
                let (key, sequence) = key.split_at(32);
                let key = PublicKey(key.try_into().expect("split there"));
                let sequence = u64::from_be_bytes(sequence.try_into().expect("eight are left"));
                let Some(mail) = self.boxes.get_mut(&key) else { return false };
                let (head, envelope) = value.split_at(ITEM_HEAD);
                let item = Item {
                    bytes: envelope.len() as u64,
                    expires_ms: u64::from_be_bytes(head[..8].try_into().expect("seventeen bytes")),
                    stranger: head[16] == 1,
                    digest: digest(envelope),
                };
                mail.add(sequence, item);
                mail.head.next = mail.head.next.max(sequence + 1);
                self.bytes += item.bytes;
                true
            }
            _ => false,
        }
    }

    /// How many boxes, envelopes and bytes of envelopes there are.
    pub fn totals(&self) -> (usize, usize, u64) {
        (self.boxes.len(), self.boxes.values().map(|mail| mail.items.len()).sum(), self.bytes)
    }

    /// Opens a box, or takes note that its owner is there. One that is there needs no new stamp.
    pub fn open(
        &mut self,
        node: &PublicKey,
        owner: &PublicKey,
        request: &MailboxOpen,
        now_ms: u64,
    ) -> (MailboxAnswer, Vec<Write>) {
        if let Some(mail) = self.boxes.get_mut(owner) {
            mail.head.seen_ms = now_ms;
            mail.head.stamp_bits = request.stamp_bits;
            return (answer(Outcome::Done, self.limits.box_bytes_max), vec![mail.write(owner)]);
        }
        let today = now_ms / 86_400_000;
        let subject = stamp::of_box(node, owner, request.day);
        // Clocks may differ by hours; a stamp of another day would be a stamp for ever.
        let current = u64::from(request.day).abs_diff(today) <= 1;
        if !current || stamp::bits(&subject, request.nonce) < self.limits.open_bits {
            return (answer(Outcome::StampNeeded, self.limits.open_bits.into()), Vec::new());
        }
        if self.boxes.len() >= self.limits.boxes_max {
            return (answer(Outcome::NodeFull, 0), Vec::new());
        }
        let mail = MailBox::new(Head {
            stamp_bits: request.stamp_bits,
            next: 1,
            seen_ms: now_ms,
            grants: BTreeSet::new(),
            presence: Vec::new(),
        });
        let write = mail.write(owner);
        self.boxes.insert(*owner, mail);
        (answer(Outcome::Done, self.limits.box_bytes_max), vec![write])
    }

    /// Adds grants to the asker's box, or takes them back.
    pub fn grant(&mut self, owner: &PublicKey, add: bool, ids: &[[u8; 32]]) -> (MailboxAnswer, Vec<Write>) {
        let Some(mail) = self.boxes.get_mut(owner) else {
            return (answer(Outcome::NoBox, 0), Vec::new());
        };
        if add {
            let fresh = ids.iter().filter(|id| !mail.head.grants.contains(*id)).count();
            if mail.head.grants.len() + fresh > GRANTS_MAX {
                return (answer(Outcome::TooManyGrants, GRANTS_MAX as u64), Vec::new());
            }
            mail.head.grants.extend(ids);
        } else {
            ids.iter().for_each(|id| {
                mail.head.grants.remove(id);
            });
        }
        (answer(Outcome::Done, 0), vec![mail.write(owner)])
    }

    /// Keeps a presence record. The asker's box here must be one that it names.
    pub fn publish(
        &mut self,
        node: &PeerId,
        owner: &PublicKey,
        record: &Bytes,
    ) -> (MailboxAnswer, Vec<Write>) {
        let bad = (answer(Outcome::BadRecord, 0), Vec::new());
        let Some(mail) = self.boxes.get_mut(owner) else {
            return (answer(Outcome::NoBox, 0), Vec::new());
        };
        let Ok(presence) = Presence::verify(record.clone()) else { return bad };
        let named = |mailbox: &ghost_proto::MailboxAt| {
            mailbox.box_key == *owner && mailbox.node_peer().as_ref() == Some(node)
        };
        if !presence.body().mailboxes.iter().any(named) {
            return bad;
        }
        let known = self.presences.get(&presence.wallet());
        if known.is_some_and(|(known, _)| known.body().sequence > presence.body().sequence) {
            return bad;
        }
        // One record for each box: who changes its wallet key under one box replaces the old one.
        self.presences.retain(|wallet, (_, at)| at != owner || *wallet == presence.wallet());
        mail.head.presence = record.to_vec();
        let write = mail.write(owner);
        self.presences.insert(presence.wallet(), (presence, *owner));
        (answer(Outcome::Done, 0), vec![write])
    }

    /// The presence record of a wallet with a box here.
    pub fn presence(&self, wallet: &PublicKey) -> Option<&Bytes> {
        self.presences.get(wallet).map(|(presence, _)| presence.bytes())
    }

    /// Keeps an envelope. With [`Outcome::Done`], whoever collects from that box is to be told.
    pub fn deposit(&mut self, deposit: &MailboxDeposit, now_ms: u64) -> (MailboxAnswer, Vec<Write>) {
        let refuse = |outcome, value| (answer(outcome, value), Vec::new());
        let MailboxDeposit { box_key, proof, envelope } = deposit;
        let bytes = envelope.len() as u64;
        let limits = self.limits;
        let Some(mail) = self.boxes.get_mut(box_key) else { return refuse(Outcome::NoBox, 0) };
        if !is_size_class(envelope.len()) {
            return refuse(Outcome::BadSize, 0);
        }
        let stranger = match proof {
            DepositProof::Grant(grant) => {
                if !mail.head.grants.contains(&grant_id(grant)) {
                    return refuse(Outcome::NoGrant, 0);
                }
                false
            }
            DepositProof::Stamp(nonce) => {
                let subject = stamp::of_envelope(box_key, envelope);
                if stamp::bits(&subject, *nonce) < mail.head.stamp_bits {
                    return refuse(Outcome::StampNeeded, mail.head.stamp_bits.into());
                }
                true
            }
        };
        let digest = digest(envelope);
        if mail.digests.contains(&digest) {
            return refuse(Outcome::Repeated, 0);
        }
        let full_of_strangers =
            mail.strangers >= STRANGERS_MAX || mail.strangers_bytes + bytes > limits.box_bytes_max / 4;
        if mail.bytes + bytes > limits.box_bytes_max
            || mail.items.len() >= ENVELOPES_MAX
            || stranger && full_of_strangers
        {
            return refuse(Outcome::BoxFull, limits.box_bytes_max);
        }
        if self.bytes + bytes > limits.bytes_max {
            return refuse(Outcome::NodeFull, 0);
        }
        let sequence = mail.head.next;
        mail.head.next += 1;
        let expires_ms = now_ms + limits.keep_ms;
        mail.add(sequence, Item { bytes, expires_ms, stranger, digest });
        self.bytes += bytes;
        let mut value = Vec::with_capacity(ITEM_HEAD + envelope.len());
        value.extend_from_slice(&expires_ms.to_be_bytes());
        value.extend_from_slice(&now_ms.to_be_bytes());
        value.push(stranger.into());
        value.extend_from_slice(envelope);
        let writes = vec![Write { key: item_key(box_key, sequence), value: Some(value) }];
        (answer(Outcome::Done, limits.box_bytes_max - mail.bytes), writes)
    }

    /// The sequences of the next envelopes of a box, at most [`COLLECT_MAX`]; `None` if there is no such box.
    pub fn collect(&mut self, owner: &PublicKey, after: u64, now_ms: u64) -> Option<Vec<u64>> {
        let mail = self.boxes.get_mut(owner)?;
        mail.head.seen_ms = now_ms;
        let next = mail.items.range(after.saturating_add(1)..).take(COLLECT_MAX);
        Some(next.map(|(sequence, _)| *sequence).collect())
    }

    /// Forgets what the owner has.
    pub fn acknowledge(&mut self, owner: &PublicKey, up_to: u64, now_ms: u64) -> (MailboxAnswer, Vec<Write>) {
        let Some(mail) = self.boxes.get_mut(owner) else {
            return (answer(Outcome::NoBox, 0), Vec::new());
        };
        mail.head.seen_ms = now_ms;
        let done: Vec<u64> = mail.items.range(..=up_to).map(|(sequence, _)| *sequence).collect();
        let mut writes = Vec::with_capacity(done.len() + 1);
        for sequence in done {
            self.bytes -= mail.remove(sequence);
            writes.push(Write { key: item_key(owner, sequence), value: None });
        }
        // The next sequence outlives the envelopes: one that was used never comes again.
        writes.push(mail.write(owner));
        (answer(Outcome::Done, 0), writes)
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn next_deadline(&self) -> u64 {
        self.next_sweep_ms
    }

    /// Forgets what has expired, and boxes to which nobody comes.
    pub fn on_deadline(&mut self, now_ms: u64) -> Vec<Write> {
        if now_ms < self.next_sweep_ms {
            return Vec::new();
        }
        self.next_sweep_ms = now_ms + SWEEP_MS;
        let mut writes = Vec::new();
        let mut gone = VecDeque::new();
        for (key, mail) in &mut self.boxes {
            let idle = now_ms.saturating_sub(mail.head.seen_ms) > self.limits.idle_ms;
            let old = mail.items.iter().filter(|(_, item)| idle || item.expires_ms <= now_ms);
            for sequence in old.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
                self.bytes -= mail.remove(sequence);
                writes.push(Write { key: item_key(key, sequence), value: None });
            }
            if idle {
                gone.push_back(*key);
            } else if !writes.is_empty() {
                writes.push(mail.write(key));
            }
        }
        for key in gone {
            self.boxes.remove(&key);
            self.presences.retain(|_, (_, at)| *at != key);
            writes.push(Write { key: box_store_key(&key), value: None });
        }
        writes
    }
}

#[cfg(test)]
mod tests;

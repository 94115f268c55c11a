//! One channel: its ratchet, what was received, and letters that wait to be acknowledged.

use std::collections::BTreeSet;

use ghost_proto::{Presence, PublicKey, message::WalletMessage};
use prost::Message;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{
    Wallet,
    event::What,
    output::{Deposit, Proof},
    stored,
};
use crate::{
    envelope::pad,
    establish::{Established, Opening},
    ratchet::Ratchet,
    secret::Secret,
};

/// Most channels of a wallet: 1,024 × 80 KB of ratchet at worst.
pub const CHANNELS_MAX: usize = 1_024;
/// Most messages that wait for one peer: 1,024 × (32 KiB + 32 KiB) = 64 MiB on disk at worst.
pub const LETTERS_MAX: usize = 1_024;
/// A message that is not acknowledged is sent again after so long, then after twice that, and so on.
pub const RESEND_MS: u64 = 30_000;
/// Longest pause before it is sent again.
pub const RESEND_MS_MAX: u64 = 3_600_000;
/// A deposit that failed is tried again after so long.
pub const RETRY_MS: u64 = 4_000;
/// An acknowledgement waits so long for something to travel with.
pub const ACK_DELAY_MS: u64 = 100;
/// Messages that may be received and not acknowledged.
const UNACKNOWLEDGED_MAX: u32 = 8;
/// How far ahead of the first missing message one may be.
const AHEAD_MAX: u64 = 4 * LETTERS_MAX as u64;

const _: () = assert!(AHEAD_MAX as usize > LETTERS_MAX, "an honest peer is never too far ahead");

/// How far a channel is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Stage {
    /// We opened it and wait for the answer.
    Opening { opening: Opening, invitation: Option<Secret>, due_ms: u64, tries: u32 },
    /// The peer opened it; the answer is sent again until we hear from it.
    Answered { envelope: Vec<u8>, due_ms: u64, tries: u32 },
    /// Both can speak.
    Open,
}

/// One channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Channel {
    presence: Vec<u8>,
    pub(super) stage: Stage,
    pub(super) ratchet: Option<Ratchet>,
    /// When it was opened, by the clock of who opened it.
    pub(super) opened_unix_ms: u64,
    pub(super) grant_given: Secret,
    grant_got: Option<Secret>,
    pub(super) next_number: u64,
    received_up_to: u64,
    received_after: BTreeSet<u64>,
    unacknowledged: u32,
    pub(super) ack_due_ms: Option<u64>,
}

/// What a number that comes means.
pub(super) enum Received {
    New,
    Before,
    TooFarAhead,
}

/// A message that waits: to be sealed, to be acknowledged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Letter {
    message: Vec<u8>,
    pub(super) sealed: Option<Vec<u8>>,
    /// The ratchet key that it was sealed under.
    under: [u8; 32],
    pub(super) due_ms: u64,
    tries: u32,
}

/// A channel as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// With whom.
    pub peer: PublicKey,
    /// `opening`, `answered` or `open`.
    pub stage: String,
    /// Messages that the peer has not acknowledged.
    pub waiting: usize,
    /// Messages of the peer without a gap.
    pub received: u64,
    /// Nodes that keep the peer's mail.
    pub mailboxes: Vec<String>,
}

pub(super) fn channel_key(peer: &PublicKey) -> Vec<u8> {
    [b"c", &peer.0[..]].concat()
}

pub(super) fn letter_key(peer: &PublicKey, number: u64) -> Vec<u8> {
    [b"o", &peer.0[..], &number.to_be_bytes()].concat()
}

fn pause(tries: u32) -> u64 {
    (RESEND_MS << tries.min(20)).min(RESEND_MS_MAX)
}

impl Letter {
    pub(super) fn new(message: Vec<u8>, now_ms: u64) -> Self {
        Self { message, sealed: None, under: [0; 32], due_ms: now_ms, tries: 0 }
    }

    /// For a channel that begins anew. False if it makes no sense any more.
    pub(super) fn renumber(&mut self, number: u64, now_ms: u64) -> bool {
        let Ok(mut message) = WalletMessage::decode(self.message.as_slice()) else { return false };
        message.number = number;
        *self = Self::new(message.encode_to_vec(), now_ms);
        true
    }
}

impl Channel {
    pub(super) fn new(peer: &Presence, grant_given: Secret, stage: Stage, opened_unix_ms: u64) -> Self {
        Self {
            presence: peer.bytes().to_vec(),
            stage,
            ratchet: None,
            opened_unix_ms,
            grant_given,
            grant_got: None,
            next_number: 1,
            received_up_to: 0,
            received_after: BTreeSet::new(),
            unacknowledged: 0,
            ack_due_ms: None,
        }
    }

    pub(super) fn begin(&mut self, established: Established) {
        self.ratchet = Some(established.ratchet);
        self.grant_got = Some(established.grant);
    }

    pub(super) fn presence(&self) -> Option<Presence> {
        Presence::verify(self.presence.clone().into()).ok()
    }

    pub(super) fn learn(&mut self, presence: &Presence) -> bool {
        let Some(known) = self.presence() else { return false };
        let (old, new) = (known.body(), presence.body());
        let same = known.wallet() == presence.wallet() && old.channel_key == new.channel_key;
        if !same || old.sequence >= new.sequence {
            return false;
        }
        self.presence = presence.bytes().to_vec();
        true
    }

    pub(super) fn received(&mut self, number: u64, now_ms: u64) -> Received {
        if number > self.received_up_to + AHEAD_MAX {
            return Received::TooFarAhead;
        }
        self.unacknowledged += 1;
        let due = if self.unacknowledged >= UNACKNOWLEDGED_MAX { now_ms } else { now_ms + ACK_DELAY_MS };
        self.ack_due_ms = Some(self.ack_due_ms.map_or(due, |old| old.min(due)));
        if number <= self.received_up_to || !self.received_after.insert(number) {
            return Received::Before;
        }
        while self.received_after.remove(&(self.received_up_to + 1)) {
            self.received_up_to += 1;
        }
        Received::New
    }

    fn acknowledgement(&mut self) -> (u64, u64) {
        self.ack_due_ms = None;
        self.unacknowledged = 0;
        let first = self.received_up_to + 1;
        let bits = self.received_after.range(first..first + 64).fold(0, |bits, n| bits | 1 << (n - first));
        (self.received_up_to, bits)
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = u64> {
        let stage = match &self.stage {
            Stage::Opening { due_ms, .. } | Stage::Answered { due_ms, .. } => Some(*due_ms),
            Stage::Open => None,
        };
        let can_send = self.ratchet.as_ref().is_some_and(Ratchet::can_send);
        stage.into_iter().chain(self.ack_due_ms.filter(|_| can_send))
    }

    pub(super) fn info(&self, peer: PublicKey, waiting: usize) -> ChannelInfo {
        let stage = match &self.stage {
            Stage::Opening { .. } => "opening",
            Stage::Answered { .. } => "answered",
            Stage::Open => "open",
        };
        let mailboxes = self.presence().map(|presence| {
            presence.body().mailboxes.iter().map(|mailbox| mailbox.node.to_string()).collect()
        });
        ChannelInfo {
            peer,
            stage: stage.into(),
            waiting,
            received: self.received_up_to,
            mailboxes: mailboxes.unwrap_or_default(),
        }
    }
}

impl Wallet {
    pub(super) fn store_channel(&mut self, peer: &PublicKey) {
        let value = self.channels.get(peer).and_then(stored);
        self.out.write(channel_key(peer), value);
    }

    pub(super) fn store_letter(&mut self, peer: &PublicKey, number: u64) {
        let value = self.letters.get(&(*peer, number)).and_then(stored);
        self.out.write(letter_key(peer, number), value);
    }

    /// Hands an envelope to the driver. The first choice among the mailboxes changes with each try.
    fn deposit(&mut self, peer: &PublicKey, number: u64, tries: u32, proof: Proof, envelope: Vec<u8>) {
        let Some(presence) = self.channels.get(peer).and_then(Channel::presence) else { return };
        let mut mailboxes = presence.body().mailboxes.clone();
        let first = tries as usize % mailboxes.len();
        mailboxes.rotate_left(first);
        self.out.deposits.push(Deposit { peer: *peer, number, mailboxes, proof, envelope });
    }

    /// Seals and sends what can be, and what has come due. The caller stores the channel.
    pub(super) fn pump(&mut self, peer: &PublicKey, now_ms: u64, entropy: &mut impl CryptoRng) {
        self.pump_stage(peer, now_ms);
        let Some(channel) = self.channels.get_mut(peer) else { return };
        let grant = channel.grant_got.clone();
        if let (Some(ratchet), Some(grant)) = (&channel.ratchet, grant)
            && ratchet.can_send()
        {
            let unsealed: Vec<u64> = self
                .letters
                .range((*peer, 0)..=(*peer, u64::MAX))
                .filter(|(_, letter)| letter.sealed.is_none())
                .map(|((_, number), _)| *number)
                .collect();
            for number in unsealed {
                self.seal_letter(peer, number, &grant, now_ms, entropy);
            }
            if self.channels[peer].ack_due_ms.is_some_and(|due| due <= now_ms) {
                self.seal_acknowledgement(peer, grant, now_ms, entropy);
            }
        }
        self.pump_files(peer);
    }

    fn pump_stage(&mut self, peer: &PublicKey, now_ms: u64) {
        let Some(mut channel) = self.channels.remove(peer) else { return };
        let sent = match &mut channel.stage {
            Stage::Opening { opening, invitation, due_ms, tries } if *due_ms <= now_ms => {
                let presence = Presence::verify(channel.presence.clone().into()).ok();
                let envelope = presence.and_then(|presence| opening.envelope(&self.keys, &presence).ok());
                let proof = invitation.clone().map_or(Proof::Stamp, Proof::Grant);
                *due_ms = now_ms + pause(*tries);
                *tries += 1;
                envelope.map(|envelope| (envelope, proof, *tries - 1))
            }
            Stage::Answered { envelope, due_ms, tries } if *due_ms <= now_ms => {
                *due_ms = now_ms + pause(*tries);
                *tries += 1;
                channel.grant_got.clone().map(|grant| (envelope.clone(), Proof::Grant(grant), *tries - 1))
            }
            _ => None,
        };
        self.channels.insert(*peer, channel);
        if let Some((envelope, proof, tries)) = sent {
            self.deposit(peer, 0, tries, proof, envelope);
        }
    }

    fn seal_letter(
        &mut self,
        peer: &PublicKey,
        number: u64,
        grant: &Secret,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) {
        let (Some(channel), Some(letter)) =
            (self.channels.get_mut(peer), self.letters.get_mut(&(*peer, number)))
        else {
            return;
        };
        let Ok(mut message) = WalletMessage::decode(letter.message.as_slice()) else { return };
        (message.acknowledged, message.acknowledged_after) = channel.acknowledgement();
        let padded = pad(&message.encode_to_vec()).expect("bodies are bounded to fit");
        let Some(sealed) = channel.ratchet.as_mut().and_then(|ratchet| ratchet.seal(&padded, entropy)) else {
            return;
        };
        letter.sealed = Some(sealed.clone());
        letter.under = channel.ratchet.as_ref().map_or([0; 32], Ratchet::sending_key);
        letter.due_ms = now_ms + pause(letter.tries);
        letter.tries += 1;
        let tries = letter.tries - 1;
        self.store_letter(peer, number);
        self.deposit(peer, number, tries, Proof::Grant(grant.clone()), sealed);
    }

    fn seal_acknowledgement(
        &mut self,
        peer: &PublicKey,
        grant: Secret,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) {
        let Some(channel) = self.channels.get_mut(peer) else { return };
        let (acknowledged, acknowledged_after) = channel.acknowledgement();
        let message =
            WalletMessage { acknowledged, acknowledged_after, time_unix_ms: now_ms, ..Default::default() };
        let padded = pad(&message.encode_to_vec()).expect("numbers fit the smallest class");
        if let Some(sealed) = channel.ratchet.as_mut().and_then(|ratchet| ratchet.seal(&padded, entropy)) {
            self.deposit(peer, 0, 0, Proof::Grant(grant), sealed);
        }
    }

    /// What is due in one channel.
    pub(super) fn resend(&mut self, peer: &PublicKey, now_ms: u64, entropy: &mut impl CryptoRng) {
        let Some(channel) = self.channels.get(peer) else { return };
        let mut due = channel.deadlines().any(|due| due <= now_ms);
        let under = channel.ratchet.as_ref().map_or([0; 32], Ratchet::sending_key);
        if let Some(grant) = channel.grant_got.clone() {
            let mut again = Vec::new();
            for ((_, number), letter) in self.letters.range_mut((*peer, 0)..=(*peer, u64::MAX)) {
                if letter.due_ms > now_ms {
                    continue;
                }
                if letter.under != under {
                    letter.sealed = None;
                    due = true;
                } else if let Some(sealed) = letter.sealed.clone() {
                    letter.due_ms = now_ms + pause(letter.tries);
                    letter.tries += 1;
                    again.push((*number, letter.tries - 1, sealed));
                }
            }
            for (number, tries, sealed) in again {
                self.deposit(peer, number, tries, Proof::Grant(grant.clone()), sealed);
            }
        }
        if due {
            self.pump(peer, now_ms, entropy);
            self.store_channel(peer);
        }
    }

    /// The peer has these.
    pub(super) fn acknowledged(
        &mut self,
        peer: &PublicKey,
        up_to: u64,
        after: u64,
        now_ms: u64,
        _entropy: &mut impl CryptoRng,
    ) {
        let has = |number: u64| {
            number <= up_to
                || number.checked_sub(up_to + 1).is_some_and(|bit| bit < 64 && after >> bit & 1 == 1)
        };
        let range = (*peer, 0)..=(*peer, up_to.saturating_add(64));
        let done: Vec<u64> =
            self.letters.extract_if(range, |(_, number), _| has(*number)).map(|((_, n), _)| n).collect();
        if done.is_empty() {
            return;
        }
        for number in &done {
            self.out.write(letter_key(peer, *number), None);
        }
        self.chunks_acknowledged(peer, &done, now_ms);
        self.tell(Some(*peer), now_ms, What::Acknowledged { up_to });
    }
}

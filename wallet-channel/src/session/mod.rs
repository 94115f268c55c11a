//! A wallet's channels: who is talked to, what is under way, what must not be lost.
//!
//! ```text
//!   own presence ──▶ mailbox nodes                      opening            answer
//!                                    initiator  ───────────────────▶  ◀──────────────── responder
//!   Opening ── answer ──▶ Open                    ◀═══ messages, numbered, acknowledged ═══▶
//! ```
//!
//! [`Wallet`] is the core. Its methods come in four families: [`Wallet::restore`] (once, with all that was stored);
//! what the person wants ([`Wallet::open`], [`Wallet::say`], [`Wallet::request`], [`Wallet::pay`], [`Wallet::offer`], …);
//! what happened outside ([`Wallet::envelope`], [`Wallet::deposited`], [`Wallet::chunk`], [`Wallet::seen`]); and time
//! ([`Wallet::next_deadline`], [`Wallet::on_deadline`]). After each call the driver takes [`Wallet::take`] and does what is in
//! there **in the order of its fields**: what came of files to their files, then all writes as one durable
//! batch, then the rest. Only then is an envelope acknowledged at the mailbox it came from.
//!
//! # Correctness
//! A sealed envelope is stored in one batch with the ratchet that has moved on, before it leaves. So no message
//! key is used for two contents, whenever the process is killed. What is not acknowledged is sent again: the same
//! envelope as long as the ratchet has not turned, so that a mailbox that still has it keeps it once; sealed anew
//! after that, since the other side forgets old chains. Numbers inside the channel make it one that is taken once.

mod channel;
mod event;
mod file;
mod group;
mod output;
mod payment;

use std::collections::BTreeMap;

use bytes::Bytes;
use ghost_proto::{
    MailboxAt, Presence, PresenceBody, PublicKey,
    message::{WalletMessage, WalletPresence, WalletText, wallet_message::Body},
};
use prost::Message;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

pub use self::{
    channel::{ACK_DELAY_MS, CHANNELS_MAX, ChannelInfo, LETTERS_MAX, RESEND_MS, RESEND_MS_MAX, RETRY_MS},
    event::{Event, GroupWord, What},
    file::{CHUNK_BYTES, FILE_BYTES_MAX_DEFAULT, FileInfo, WINDOW},
    group::{GroupInfo, MEMBERS_MAX, ProposalInfo},
    output::{Delivered, Deposit, FileWrite, Output, Proof, ReadChunk, StoreWrite},
    payment::{ChainFacts, PaymentInfo, RequestInfo},
};
use self::{
    channel::{Channel, Letter, Received, Stage},
    file::{Incoming, Outgoing},
    group::Group,
    payment::{Payment, Request},
};
use crate::{
    envelope::{EnvelopeKind, unpad},
    establish::{EstablishError, Opening, read_opening},
    keys::WalletKeys,
    mailbox::grant_id,
    ratchet::RatchetError,
    secret::Secret,
};

/// Most bytes of a text.
pub const TEXT_BYTES_MAX: usize = 30_000;
/// Most invitations that wait to be used.
pub const INVITATIONS_MAX: usize = 64;

/// Why something a person asked for is not done. Each text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// There is no channel to that wallet.
    #[error("there is no channel to {0}; open one: ghostd wallet channel open {0}")]
    NoChannel(PublicKey),
    /// There is one already.
    #[error("there is a channel to {0} already; to begin anew, close it first")]
    ChannelExists(PublicKey),
    /// It is this wallet.
    #[error("that is this wallet itself")]
    Ourselves,
    /// The wallet has no mailbox yet, so nobody could answer.
    #[error("this wallet has no mailbox yet; run: ghostd wallet channel listen")]
    NoMailbox,
    /// Too much waits for the peer.
    #[error("{LETTERS_MAX} messages wait for {0} to acknowledge them; it may be away, so try again later")]
    QueueFull(PublicKey),
    /// Too many of something.
    #[error("there are {0} {1} already, the most that are kept")]
    TooMany(usize, &'static str),
    /// A text, name or memo is too long, or a value makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No such request, payment, file, group or proposal.
    #[error("there is no {0} {1}")]
    Unknown(&'static str, String),
    /// The peer's keys are unusable.
    #[error(transparent)]
    Establish(#[from] EstablishError),
}

/// Why an envelope is not taken. It is acknowledged nevertheless: it will not get better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was taken before.
    #[error("it came before")]
    Replayed,
    /// No channel's keys open it.
    #[error("it is for no channel of this wallet")]
    NotOurs,
    /// It was altered.
    #[error("it was altered on its way")]
    Altered,
    /// It opens and makes no sense, or says what its sender may not.
    #[error("its content is not what the protocol says")]
    Malformed,
    /// Too many messages before it are missing, or too much is under way.
    #[error("it comes too far ahead of what is missing, or is more than this wallet takes")]
    TooMuch,
}

impl From<RatchetError> for Refused {
    fn from(error: RatchetError) -> Self {
        match error {
            RatchetError::NotOurs => Self::NotOurs,
            RatchetError::Replayed => Self::Replayed,
            RatchetError::TooFarAhead(_) => Self::TooMuch,
            RatchetError::Altered => Self::Altered,
            RatchetError::Malformed => Self::Malformed,
        }
    }
}

/// What a wallet knows beside its channels.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct General {
    presence: Vec<u8>,
    sequence: u64,
    /// Number of the next event.
    event: u64,
    invitations: Vec<Secret>,
    /// Largest file that is taken, in bytes; 0 is the default.
    file_bytes_max: u64,
}

/// The wallet core. See the module for how to drive it.
#[derive(Debug)]
pub struct Wallet {
    keys: WalletKeys,
    general: General,
    own: Option<Presence>,
    channels: BTreeMap<PublicKey, Channel>,
    letters: BTreeMap<(PublicKey, u64), Letter>,
    requests: BTreeMap<[u8; 16], Request>,
    payments: BTreeMap<[u8; 32], Payment>,
    incoming: BTreeMap<(PublicKey, [u8; 16]), Incoming>,
    outgoing: BTreeMap<[u8; 16], Outgoing>,
    groups: BTreeMap<[u8; 16], Group>,
    out: Output,
}

/// Most events that are kept.
pub const EVENTS_MAX: u64 = 4_096;

fn stored<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    Some(postcard::to_allocvec(value).expect("plain data"))
}

impl Wallet {
    /// A wallet with nothing but its keys; [`Self::restore`] brings back the rest.
    pub fn new(keys: WalletKeys) -> Self {
        Self {
            keys,
            general: General::default(),
            own: None,
            channels: BTreeMap::new(),
            letters: BTreeMap::new(),
            requests: BTreeMap::new(),
            payments: BTreeMap::new(),
            incoming: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            groups: BTreeMap::new(),
            out: Output::default(),
        }
    }

    /// Takes in one stored entry. False if it makes no sense; events are for others to read.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> bool {
        fn read<T: for<'a> Deserialize<'a>>(value: &[u8]) -> Option<T> {
            postcard::from_bytes(value).ok()
        }
        let Some((kind, rest)) = key.split_first() else { return false };
        let array = |len: usize| rest.get(..len);
        let peer = || Some(PublicKey(array(32)?.try_into().ok()?));
        let id = || <[u8; 16]>::try_from(rest).ok();
        let mut taken = || -> Option<()> {
            match kind {
                b'w' => {
                    self.general = read(value)?;
                    self.own = Presence::verify(self.general.presence.clone().into()).ok();
                }
                b'c' => {
                    self.channels.insert(peer()?, read(value)?);
                }
                b'o' => {
                    let number = u64::from_be_bytes(rest.get(32..)?.try_into().ok()?);
                    self.letters.insert((peer()?, number), read(value)?);
                }
                b'r' => {
                    self.requests.insert(id()?, read(value)?);
                }
                b'p' => {
                    self.payments.insert(rest.try_into().ok()?, read(value)?);
                }
                b'i' => {
                    self.incoming.insert((peer()?, rest.get(32..)?.try_into().ok()?), read(value)?);
                }
                b'f' => {
                    self.outgoing.insert(id()?, read(value)?);
                }
                b'g' => {
                    self.groups.insert(id()?, read(value)?);
                }
                b'e' => {}
                _ => return None,
            }
            Some(())
        };
        taken().is_some()
    }

    /// What is to be done, in the order of its fields.
    pub fn take(&mut self) -> Output {
        std::mem::take(&mut self.out)
    }

    /// Its keys.
    pub fn keys(&self) -> &WalletKeys {
        &self.keys
    }

    /// Its presence record, once it has a mailbox.
    pub fn presence(&self) -> Option<&Presence> {
        self.own.as_ref()
    }

    /// The ids of all grants that its mailboxes must know.
    pub fn grant_ids(&self) -> Vec<[u8; 32]> {
        let given = self.channels.values().map(|channel| &channel.grant_given);
        given.chain(&self.general.invitations).map(|grant| grant_id(grant.bytes())).collect()
    }

    fn store_general(&mut self) {
        let value = stored(&self.general);
        self.out.write(b"w".to_vec(), value);
    }

    /// Says what happened, for people and for the log.
    fn tell(&mut self, peer: Option<PublicKey>, time_unix_ms: u64, what: What) {
        let event = Event { number: self.general.event, peer, time_unix_ms, what };
        if event.what.is_kept() {
            let key = |number: u64| [b"e", &number.to_be_bytes()[..]].concat();
            self.out.write(key(event.number), Some(event.to_json()));
            if let Some(old) = event.number.checked_sub(EVENTS_MAX) {
                self.out.write(key(old), None);
            }
            self.general.event += 1;
            self.store_general();
        }
        self.out.events.push(event);
    }

    /// Names the mailboxes: makes a newer presence record if they are others than before, and tells all peers.
    pub fn set_mailboxes(
        &mut self,
        mailboxes: Vec<MailboxAt>,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), WalletError> {
        if self.own.as_ref().is_some_and(|own| own.body().mailboxes == mailboxes) {
            return Ok(());
        }
        let body = PresenceBody {
            channel_key: self.keys.channel_public(),
            post_quantum_key: self.keys.post_quantum_public(),
            // Ahead of whatever a wallet that was restored from its seed alone has said before.
            sequence: (self.general.sequence + 1).max(now_ms / 1000),
            time_unix_s: now_ms / 1000,
            mailboxes,
        };
        let presence = Presence::sign(self.keys.identity(), &body)
            .map_err(|error| WalletError::Invalid(error.to_string()))?;
        self.general.sequence = body.sequence;
        self.general.presence = presence.bytes().to_vec();
        self.store_general();
        self.own = Some(presence.clone());
        let peers: Vec<_> = self.channels.keys().copied().collect();
        for peer in peers {
            let record = presence.bytes().clone();
            // A peer with a full queue hears of it when it asks a mailbox node.
            let _ = self.post(&peer, Body::Presence(WalletPresence { record }), now_ms, entropy);
        }
        self.out.publish = Some(presence);
        Ok(())
    }

    /// An invitation: who has it may open a channel without a stamp.
    pub fn invite(&mut self, entropy: &mut impl CryptoRng) -> Result<Secret, WalletError> {
        if self.general.invitations.len() >= INVITATIONS_MAX {
            return Err(WalletError::TooMany(INVITATIONS_MAX, "invitations"));
        }
        let grant = Secret::draw(entropy);
        self.general.invitations.push(grant.clone());
        self.store_general();
        self.out.grants.push((true, grant_id(grant.bytes())));
        Ok(grant)
    }

    /// Takes all invitations back. How many there were.
    pub fn take_back_invitations(&mut self) -> usize {
        let grants = std::mem::take(&mut self.general.invitations);
        self.out.grants.extend(grants.iter().map(|grant| (false, grant_id(grant.bytes()))));
        self.store_general();
        grants.len()
    }

    /// Begins a channel to a wallet, with its presence and perhaps an invitation.
    pub fn open(
        &mut self,
        peer: Presence,
        invitation: Option<Secret>,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), WalletError> {
        let own = self.own.clone().ok_or(WalletError::NoMailbox)?;
        let wallet = peer.wallet();
        if wallet == self.keys.wallet() {
            return Err(WalletError::Ourselves);
        }
        if self.channels.contains_key(&wallet) {
            return Err(WalletError::ChannelExists(wallet));
        }
        if self.channels.len() >= CHANNELS_MAX {
            return Err(WalletError::TooMany(CHANNELS_MAX, "channels"));
        }
        let grant = Secret::draw(entropy);
        let opening = Opening::new(&own, grant.clone(), now_ms, entropy);
        // Tells now if the peer's keys are no keys.
        opening.envelope(&self.keys, &peer)?;
        self.out.grants.push((true, grant_id(grant.bytes())));
        let stage = Stage::Opening { opening, invitation, due_ms: now_ms, tries: 0 };
        self.channels.insert(wallet, Channel::new(&peer, grant, stage, now_ms));
        self.pump(&wallet, now_ms, entropy);
        self.store_channel(&wallet);
        Ok(())
    }

    /// Forgets a channel with all that waits in it. The peer is not told.
    pub fn close(&mut self, peer: &PublicKey) -> Result<(), WalletError> {
        let channel = self.channels.remove(peer).ok_or(WalletError::NoChannel(*peer))?;
        self.out.grants.push((false, grant_id(channel.grant_given.bytes())));
        self.out.write(channel::channel_key(peer), None);
        for (key, _) in self.letters.extract_if((*peer, 0)..=(*peer, u64::MAX), |_, _| true) {
            self.out.write(channel::letter_key(&key.0, key.1), None);
        }
        Ok(())
    }

    /// Says something in a channel. Its number.
    pub fn say(
        &mut self,
        peer: &PublicKey,
        text: &str,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<u64, WalletError> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(WalletError::Invalid(format!(
                "a text has 1 to {TEXT_BYTES_MAX} bytes, this one {}; send a long one as a file",
                text.len()
            )));
        }
        self.post(peer, Body::Text(WalletText { text: text.into() }), now_ms, entropy)
    }

    /// All channels.
    pub fn channels(&self) -> Vec<ChannelInfo> {
        let info = |(peer, channel): (&PublicKey, &Channel)| {
            let waiting = self.letters.range((*peer, 0)..=(*peer, u64::MAX)).count();
            channel.info(*peer, waiting)
        };
        self.channels.iter().map(info).collect()
    }

    /// Puts a body into the queue of a channel and sends what can be sent.
    fn post(
        &mut self,
        peer: &PublicKey,
        body: Body,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<u64, WalletError> {
        let waiting = self.letters.range((*peer, 0)..=(*peer, u64::MAX)).count();
        let channel = self.channels.get_mut(peer).ok_or(WalletError::NoChannel(*peer))?;
        if waiting >= LETTERS_MAX {
            return Err(WalletError::QueueFull(*peer));
        }
        let number = channel.next_number;
        channel.next_number += 1;
        let message = WalletMessage { number, time_unix_ms: now_ms, body: Some(body), ..Default::default() };
        self.letters.insert((*peer, number), Letter::new(message.encode_to_vec(), now_ms));
        self.store_letter(peer, number);
        self.pump(peer, now_ms, entropy);
        self.store_channel(peer);
        Ok(number)
    }

    /// Takes an envelope from a mailbox.
    ///
    /// # Errors
    /// [`Refused`], whatever is wrong with it; nothing has changed then, but that a message that came before is
    /// acknowledged again.
    pub fn envelope(
        &mut self,
        envelope: &[u8],
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        match EnvelopeKind::of(envelope).ok_or(Refused::Malformed)? {
            EnvelopeKind::Opening => self.opened(envelope, now_ms, entropy),
            EnvelopeKind::Answer => self.answered(envelope, now_ms, entropy),
            EnvelopeKind::Message => self.message(envelope, now_ms, entropy),
        }
    }

    fn opened(&mut self, envelope: &[u8], now_ms: u64, entropy: &mut impl CryptoRng) -> Result<(), Refused> {
        let opened = read_opening(&self.keys, envelope, entropy).map_err(|error| match error {
            EstablishError::NotForUs => Refused::NotOurs,
            EstablishError::BadKeys | EstablishError::Malformed => Refused::Malformed,
        })?;
        let peer = opened.peer.wallet();
        let known = self.channels.get(&peer);
        match known {
            None if self.channels.len() >= CHANNELS_MAX => return Err(Refused::TooMuch),
            // Both opened at once: the opening of the smaller key is the one that is answered.
            Some(Channel { stage: Stage::Opening { .. }, .. }) if self.keys.wallet() < peer => {
                return Err(Refused::Replayed);
            }
            Some(Channel { stage: Stage::Opening { .. }, .. }) => {}
            Some(channel) if opened.time_unix_ms <= channel.opened_unix_ms => {
                if opened.time_unix_ms == channel.opened_unix_ms
                    && let Stage::Answered { due_ms, .. } =
                        &mut self.channels.get_mut(&peer).expect("known").stage
                {
                    *due_ms = now_ms;
                    self.pump(&peer, now_ms, entropy);
                }
                return Err(Refused::Replayed);
            }
            _ => {}
        }
        let grant = known.map_or_else(|| Secret::draw(entropy), |channel| channel.grant_given.clone());
        let (time, presence) = (opened.time_unix_ms, opened.peer.clone());
        let (answer, established) = opened.answer(&grant, entropy).map_err(|_| Refused::Malformed)?;
        self.out.grants.push((true, grant_id(grant.bytes())));
        let stage = Stage::Answered { envelope: answer, due_ms: now_ms, tries: 0 };
        let mut channel = Channel::new(&presence, grant, stage, time);
        channel.begin(established);
        self.replace(peer, channel, now_ms, entropy);
        self.tell(Some(peer), now_ms, What::ChannelOpened { by_peer: true });
        Ok(())
    }

    fn answered(
        &mut self,
        envelope: &[u8],
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let mut found = None;
        for (peer, channel) in &self.channels {
            let (Stage::Opening { opening, .. }, Some(presence)) = (&channel.stage, channel.presence())
            else {
                continue;
            };
            match opening.finish(&self.keys, &presence, envelope, entropy) {
                Ok(established) => found = Some((*peer, established)),
                Err(EstablishError::NotForUs) => continue,
                Err(_) => return Err(Refused::Malformed),
            }
            break;
        }
        let (peer, established) = found.ok_or(Refused::NotOurs)?;
        let channel = self.channels.get_mut(&peer).expect("found there");
        channel.stage = Stage::Open;
        channel.begin(established);
        // The other side cannot speak before it has heard.
        channel.ack_due_ms = Some(now_ms);
        self.tell(Some(peer), now_ms, What::ChannelOpened { by_peer: false });
        self.pump(&peer, now_ms, entropy);
        self.store_channel(&peer);
        Ok(())
    }

    /// A new channel in place of the one before: what was not acknowledged is sealed anew, under new numbers.
    fn replace(&mut self, peer: PublicKey, mut channel: Channel, now_ms: u64, entropy: &mut impl CryptoRng) {
        let range = (peer, 0)..=(peer, u64::MAX);
        let letters: Vec<_> = self.letters.extract_if(range, |_, _| true).collect();
        for (key, _) in &letters {
            self.out.write(channel::letter_key(&peer, key.1), None);
        }
        let mut renumbered = BTreeMap::new();
        for ((_, old), mut letter) in letters {
            if letter.renumber(channel.next_number, now_ms) {
                let number = channel.next_number;
                channel.next_number += 1;
                renumbered.insert(old, number);
                self.letters.insert((peer, number), letter);
                self.store_letter(&peer, number);
            }
        }
        self.chunks_renumbered(&peer, &renumbered);
        self.channels.insert(peer, channel);
        self.pump(&peer, now_ms, entropy);
        self.store_channel(&peer);
    }

    fn message(&mut self, envelope: &[u8], now_ms: u64, entropy: &mut impl CryptoRng) -> Result<(), Refused> {
        let mut found = None;
        for (peer, channel) in &mut self.channels {
            let Some(ratchet) = &mut channel.ratchet else { continue };
            match ratchet.open(envelope, entropy) {
                Ok(padded) => found = Some((*peer, padded)),
                Err(RatchetError::NotOurs) => continue,
                Err(RatchetError::Replayed) => {
                    // Whoever sends again has not heard our acknowledgement.
                    channel.ack_due_ms.get_or_insert(now_ms + ACK_DELAY_MS);
                    return Err(Refused::Replayed);
                }
                Err(error) => return Err(error.into()),
            }
            break;
        }
        let (peer, padded) = found.ok_or(Refused::NotOurs)?;
        // From here on the key is used, whatever the content is.
        let channel = self.channels.get_mut(&peer).expect("found there");
        if let Stage::Answered { .. } = channel.stage {
            channel.stage = Stage::Open;
        }
        let message = unpad(&padded).and_then(|content| WalletMessage::decode(content).ok());
        let result = match message {
            Some(message) => self.read(&peer, message, now_ms, entropy),
            None => Err(Refused::Malformed),
        };
        self.pump(&peer, now_ms, entropy);
        self.store_channel(&peer);
        result
    }

    fn read(
        &mut self,
        peer: &PublicKey,
        message: WalletMessage,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        self.acknowledged(peer, message.acknowledged, message.acknowledged_after, now_ms, entropy);
        if message.number == 0 {
            return Ok(());
        }
        let channel = self.channels.get_mut(peer).ok_or(Refused::NotOurs)?;
        match channel.received(message.number, now_ms) {
            Received::New => {}
            Received::Before => return Err(Refused::Replayed),
            Received::TooFarAhead => return Err(Refused::TooMuch),
        }
        let body = message.body.ok_or(Refused::Malformed)?;
        let time = message.time_unix_ms;
        match body {
            Body::Text(WalletText { text }) => {
                if text.len() > TEXT_BYTES_MAX {
                    return Err(Refused::Malformed);
                }
                self.tell(Some(*peer), time, What::Text { text });
                Ok(())
            }
            Body::Presence(WalletPresence { record }) => self.moved(peer, record),
            Body::PaymentRequest(request) => self.on_payment_request(peer, request, time),
            Body::Payment(payment) => self.on_payment(peer, payment, time),
            Body::PaymentSeen(seen) => self.on_payment_seen(peer, seen, time),
            Body::FileOffer(offer) => self.on_file_offer(peer, offer, time),
            Body::FileChunk(chunk) => self.on_file_chunk(peer, chunk, time),
            Body::GroupInvite(invite) => self.on_group_invite(peer, invite, now_ms, entropy),
            Body::GroupShare(share) => self.on_group_share(peer, share, now_ms, entropy),
            Body::GroupPropose(propose) => self.on_group_propose(peer, propose, now_ms, entropy),
            Body::GroupCommit(commit) => self.on_group_commit(peer, commit, now_ms, entropy),
            Body::GroupSign(sign) => self.on_group_sign(peer, sign, now_ms, entropy),
            Body::GroupSignature(share) => self.on_group_signature(peer, share, now_ms, entropy),
            Body::GroupDone(done) => self.on_group_done(peer, done, now_ms, entropy),
        }
    }

    fn moved(&mut self, peer: &PublicKey, record: Bytes) -> Result<(), Refused> {
        let presence = Presence::verify(record).map_err(|_| Refused::Malformed)?;
        self.learn(peer, &presence).then_some(()).ok_or(Refused::Malformed)
    }

    /// A newer presence of a peer, from wherever. False if it is not this peer's, or has other keys: those
    /// need a new channel.
    pub fn learn(&mut self, peer: &PublicKey, presence: &Presence) -> bool {
        let Some(channel) = self.channels.get_mut(peer) else { return false };
        let newer = channel.learn(presence);
        if newer {
            self.store_channel(peer);
        }
        newer
    }

    /// What became of a deposit.
    pub fn deposited(&mut self, peer: &PublicKey, number: u64, what: Delivered, now_ms: u64) {
        let wait = match what {
            Delivered::Kept => return,
            Delivered::Full => RETRY_MS / 2,
            Delivered::Failed => RETRY_MS,
        };
        let due = match number {
            0 => match self.channels.get_mut(peer).map(|channel| &mut channel.stage) {
                Some(Stage::Opening { due_ms, .. } | Stage::Answered { due_ms, .. }) => due_ms,
                _ => return,
            },
            number => match self.letters.get_mut(&(*peer, number)) {
                Some(letter) => &mut letter.due_ms,
                None => return,
            },
        };
        *due = (*due).min(now_ms + wait);
    }

    /// When [`Self::on_deadline`] has something to do; `None` if never.
    pub fn next_deadline(&self) -> Option<u64> {
        let channels = self.channels.values().flat_map(Channel::deadlines);
        let letters =
            self.letters.values().filter(|letter| letter.sealed.is_some()).map(|letter| letter.due_ms);
        channels.chain(letters).min()
    }

    /// Sends acknowledgements that are due, and again what nobody acknowledged.
    pub fn on_deadline(&mut self, now_ms: u64, entropy: &mut impl CryptoRng) {
        let peers: Vec<_> = self.channels.keys().copied().collect();
        for peer in peers {
            self.resend(&peer, now_ms, entropy);
        }
    }

    /// Sends all acknowledgements now, due or not: the process is about to end.
    pub fn flush(&mut self, now_ms: u64, entropy: &mut impl CryptoRng) {
        for channel in self.channels.values_mut().filter(|channel| channel.ack_due_ms.is_some()) {
            channel.ack_due_ms = Some(now_ms);
        }
        self.on_deadline(now_ms, entropy);
    }
}

#[cfg(test)]
mod tests;

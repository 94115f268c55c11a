//! Frames of mailboxes: presence records and sealed envelopes between wallets.
//!
//! ```text
//! PresencePublish     0xb0  a presence record
//! PresenceRequest     0xb1  wallet key (32), ask others (1; 0 or 1)
//! PresenceAnswer      0xb2  a presence record, or nothing
//! MailboxOpen         0xb3  stamp bits that strangers must pay (1), day (4), nonce (8)
//! MailboxAnswer       0xb4  outcome (1), value (8)
//! MailboxGrant        0xb5  1 = add, 0 = take back (1), then ids of grants (32 each)
//! MailboxDeposit      0xb6  box key (32), proof: 0 and a grant (32) or 1 and a nonce (8), envelope
//! MailboxCollect      0xb7  sequence after which to begin (8)
//! MailboxDelivery     0xb8  sequence (8), milliseconds since 1970 when it came (8), envelope
//! MailboxAcknowledge  0xb9  sequence up to which all may be forgotten (8)
//! ```
//!
//! Whose box is opened, granted for, collected and acknowledged is not said: it is the box of the key that
//! the asker has proven in the handshake.

use bytes::Bytes;
use ghost_proto::{
    PublicKey,
    layout::{Cursor, LayoutError},
    limits::{ENVELOPE_BYTES_MAX, GRANTS_PER_FRAME_MAX, PRESENCE_BYTES_MAX},
    wallet::{STAMP_BITS_MAX, STAMP_BITS_MIN},
};

use crate::{
    bounds::count_entries,
    writer::{Payload, PayloadError},
};

/// Size of a grant and of its id.
pub const GRANT_LEN: usize = 32;
/// Longest payload of a deposit.
pub const DEPOSIT_BYTES_MAX: usize = 32 + 1 + GRANT_LEN + ENVELOPE_BYTES_MAX;

/// Keep this presence record of mine. The asker must have a box here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresencePublish {
    /// Unverified ([`ghost_proto::Presence::verify`]).
    pub record: Bytes,
}

/// What do you know about this wallet?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceRequest {
    /// The wallet key.
    pub wallet: PublicKey,
    /// Whether the answerer is to ask its peers, if it does not know; they ask nobody.
    pub ask_others: bool,
}

/// This, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PresenceAnswer {
    /// Unverified; empty if none is known.
    pub record: Bytes,
}

/// Keep a box for me.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxOpen {
    /// What a stranger's envelope must cost.
    pub stamp_bits: u8,
    /// Days since 1970-01-01 UTC; part of what the nonce is a stamp for.
    pub day: u32,
    /// The asker's own stamp.
    pub nonce: u64,
}

/// What became of a request about mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailboxOutcome {
    /// Done. Value of an opening: bytes the box may hold; of a deposit: bytes that are left of it.
    Done,
    /// There is no such box here.
    NoBox,
    /// The stamp is too cheap, or for something else. Value: bits that are wanted.
    StampNeeded,
    /// No box gave this grant, or it was taken back.
    NoGrant,
    /// The box is full, or its share for strangers is. Value: bytes it may hold.
    BoxFull,
    /// The node keeps no more boxes or no more bytes. Ask another.
    NodeFull,
    /// The presence record is forged, older than the one that is here, or does not name a box of the asker here.
    BadRecord,
    /// The grants are as many as a box may have. Value: that number.
    TooManyGrants,
    /// The envelope was brought before.
    Repeated,
    /// The envelope's length is none of the size classes.
    BadSize,
}

impl MailboxOutcome {
    /// All, by their number.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::NoBox,
        Self::StampNeeded,
        Self::NoGrant,
        Self::BoxFull,
        Self::NodeFull,
        Self::BadRecord,
        Self::TooManyGrants,
        Self::Repeated,
        Self::BadSize,
    ];
}

/// The answer to everything about mailboxes but a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxAnswer {
    /// What became of it.
    pub outcome: MailboxOutcome,
    /// What that says it means; else 0.
    pub value: u64,
}

/// Whoever shows a grant with one of these ids may bring me envelopes; or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxGrant {
    /// Add, or take back.
    pub add: bool,
    /// 1 to [`GRANTS_PER_FRAME_MAX`].
    pub ids: Vec<[u8; GRANT_LEN]>,
}

/// Why an envelope is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DepositProof {
    /// The box's owner gave this.
    Grant([u8; GRANT_LEN]),
    /// It was paid for with work.
    Stamp(u64),
}

/// Keep this envelope for the owner of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxDeposit {
    /// Which box.
    pub box_key: PublicKey,
    /// Why.
    pub proof: DepositProof,
    /// Sealed; of one of the size classes.
    pub envelope: Bytes,
}

/// Send me what is in my box, and what comes from now on, until I end this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxCollect {
    /// 0 for all.
    pub after: u64,
}

/// An envelope of the asker's box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxDelivery {
    /// Its number in the box, ascending.
    pub sequence: u64,
    /// When it came, by the mailbox node's clock.
    pub time_unix_ms: u64,
    /// As it was brought.
    pub envelope: Bytes,
}

/// Forget what I have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxAcknowledge {
    /// Up to this sequence, itself included.
    pub up_to: u64,
}

fn flag(cursor: &mut Cursor, field: &'static str) -> Result<bool, LayoutError> {
    match cursor.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(LayoutError::OutOfRange { field, value: other.into(), min: 0, max: 1 }),
    }
}

fn length(field: &'static str, bytes: &Bytes, max: usize) -> Result<(), LayoutError> {
    if bytes.is_empty() || bytes.len() > max {
        return Err(LayoutError::OutOfRange { field, value: bytes.len() as u64, min: 1, max: max as u64 });
    }
    Ok(())
}

impl Payload for PresencePublish {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.record);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        length("presence record", &bytes, PRESENCE_BYTES_MAX)?;
        Ok(Self { record: bytes })
    }
}

impl Payload for PresenceRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.wallet.0);
        out.push(self.ask_others.into());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let wallet = PublicKey(cursor.array("wallet key")?);
        let ask_others = flag(&mut cursor, "ask others")?;
        cursor.finish()?;
        Ok(Self { wallet, ask_others })
    }
}

impl Payload for PresenceAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.record);
    }

    fn decode(record: Bytes) -> Result<Self, PayloadError> {
        if !record.is_empty() {
            length("presence record", &record, PRESENCE_BYTES_MAX)?;
        }
        Ok(Self { record })
    }
}

impl Payload for MailboxOpen {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.stamp_bits);
        out.extend_from_slice(&self.day.to_be_bytes());
        out.extend_from_slice(&self.nonce.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let stamp_bits = cursor.u8("stamp bits")?;
        if !(STAMP_BITS_MIN..=STAMP_BITS_MAX).contains(&stamp_bits) {
            let (min, max) = (STAMP_BITS_MIN.into(), STAMP_BITS_MAX.into());
            return Err(
                LayoutError::OutOfRange { field: "stamp bits", value: stamp_bits.into(), min, max }.into()
            );
        }
        let (day, nonce) = (cursor.u32("day")?, cursor.u64("nonce")?);
        cursor.finish()?;
        Ok(Self { stamp_bits, day, nonce })
    }
}

impl Payload for MailboxAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.outcome as u8);
        out.extend_from_slice(&self.value.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let number = cursor.u8("outcome")?;
        let Some(&outcome) = MailboxOutcome::ALL.get(usize::from(number)) else {
            let max = MailboxOutcome::ALL.len() as u64 - 1;
            return Err(
                LayoutError::OutOfRange { field: "outcome", value: number.into(), min: 0, max }.into()
            );
        };
        let value = cursor.u64("value")?;
        cursor.finish()?;
        Ok(Self { outcome, value })
    }
}

impl Payload for MailboxGrant {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.add.into());
        self.ids.iter().for_each(|id| out.extend_from_slice(id));
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let add = flag(&mut cursor, "add")?;
        let count = count_entries("grants", &cursor, GRANT_LEN, GRANTS_PER_FRAME_MAX)?;
        let ids = (0..count).map(|_| cursor.array("grant")).collect::<Result<_, _>>()?;
        Ok(Self { add, ids })
    }
}

impl Payload for MailboxDeposit {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.box_key.0);
        match &self.proof {
            DepositProof::Grant(grant) => {
                out.push(0);
                out.extend_from_slice(grant);
            }
            DepositProof::Stamp(nonce) => {
                out.push(1);
                out.extend_from_slice(&nonce.to_be_bytes());
            }
        }
        out.extend_from_slice(&self.envelope);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let box_key = PublicKey(cursor.array("box key")?);
        let proof = match flag(&mut cursor, "proof")? {
            false => DepositProof::Grant(cursor.array("grant")?),
            true => DepositProof::Stamp(cursor.u64("nonce")?),
        };
        let envelope = cursor.rest();
        length("envelope", &envelope, ENVELOPE_BYTES_MAX)?;
        Ok(Self { box_key, proof, envelope })
    }
}

impl Payload for MailboxCollect {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.after.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let after = cursor.u64("sequence")?;
        cursor.finish()?;
        Ok(Self { after })
    }
}

impl Payload for MailboxDelivery {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        out.extend_from_slice(&self.envelope);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let (sequence, time_unix_ms) = (cursor.u64("sequence")?, cursor.u64("time")?);
        let envelope = cursor.rest();
        length("envelope", &envelope, ENVELOPE_BYTES_MAX)?;
        Ok(Self { sequence, time_unix_ms, envelope })
    }
}

impl Payload for MailboxAcknowledge {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.up_to.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let up_to = cursor.u64("sequence")?;
        cursor.finish()?;
        Ok(Self { up_to })
    }
}

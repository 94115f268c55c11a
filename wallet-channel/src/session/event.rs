//! What happens in a wallet, for people and their programs.

use ghost_proto::PublicKey;
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the events that are kept.
    pub number: u64,
    /// With whom.
    pub peer: Option<PublicKey>,
    /// When, by the clock of who caused it.
    pub time_unix_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

impl Event {
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers")
    }
}

/// What happened. Ids are in hex, amounts in decimal: JSON's numbers do not hold them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields say what they are")]
pub enum What {
    /// A channel is open.
    ChannelOpened { by_peer: bool },
    /// The peer has what we sent, up to this number.
    Acknowledged { up_to: u64 },
    /// The peer says something.
    Text { text: String },
    /// The peer wants to be paid.
    PaymentRequested { request: String, to: String, value: String, memo: String },
    /// The peer says it has paid; `accepted` if that is what was asked for.
    PaymentReceived { transaction: String, request: String, value: String, memo: String, accepted: bool },
    /// The peer has found our payment on the chain.
    PaymentConfirmed { transaction: String, height: u64, r#final: bool, accepted: bool },
    /// We have found a transaction on the chain.
    TransactionSeen { transaction: String, height: u64, r#final: bool, success: bool },
    /// The peer sends a file; `taken` if this wallet takes it.
    FileOffered { file: String, name: String, bytes: u64, taken: bool },
    /// So much of a file is here, or (`sent`) with the peer.
    FileProgress { file: String, done_bytes: u64, bytes: u64, sent: bool },
    /// All of it.
    FileDone { file: String, name: String, bytes: u64, sent: bool },
    /// A file that is not there any more, or is not what was offered.
    FileFailed { file: String, name: String, reason: String },
    /// Something about a group.
    Group { group: String, word: GroupWord },
}

/// What happened in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields say what they are")]
pub enum GroupWord {
    /// We are invited; to accept, join.
    Invited { label: String, threshold: u32, members: Vec<PublicKey> },
    /// The group has its key and account.
    Ready { address: String, key: PublicKey },
    /// It cannot get one, or a signature failed.
    Failed { reason: String },
    /// A member proposes a transaction; to sign it, approve.
    Proposed { proposal: String, to: String, value: String, fee_max: String, nonce: u64 },
    /// It is signed and submitted.
    Signed { proposal: String, transaction: String },
}

impl What {
    /// Progress is for who watches; the rest is kept.
    pub(super) fn is_kept(&self) -> bool {
        !matches!(self, Self::FileProgress { .. } | Self::Acknowledged { .. })
    }
}

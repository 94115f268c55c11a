//! What a wallet's driver has to do.

use ghost_proto::{MailboxAt, Presence, PublicKey, SignedTransaction, TxId};

use super::event::Event;
use crate::secret::Secret;

/// What came of one or more calls. **Do it in the order of the fields.**
#[derive(Debug, Default)]
pub struct Output {
    /// Contents of files that peers send. First: once the ratchet has moved on they do not come again.
    pub files: Vec<FileWrite>,
    /// Changes to the store: one batch, durable before anything below.
    pub writes: Vec<StoreWrite>,
    /// Grants to add to all of the wallet's mailboxes (true) or to take back, before any envelope leaves that
    /// tells a peer of them.
    pub grants: Vec<(bool, [u8; 32])>,
    /// A new presence record for the wallet's mailboxes.
    pub publish: Option<Presence>,
    /// Envelopes for peers' mailboxes.
    pub deposits: Vec<Deposit>,
    /// Transactions to submit. Submitting one twice does no harm.
    pub submits: Vec<SignedTransaction>,
    /// Transactions to look for on the chain until [`super::Wallet::seen`] was told that they are final.
    pub watches: Vec<TxId>,
    /// Parts of files to read for [`super::Wallet::chunk`].
    pub reads: Vec<ReadChunk>,
    /// Wallets to find and to open a channel to, with a node that may know them.
    pub wanted: Vec<(PublicKey, String)>,
    /// What to tell people.
    pub events: Vec<Event>,
}

impl Output {
    /// The last write to a key is the one that counts.
    pub(super) fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match self.writes.iter_mut().find(|write| write.key == key) {
            Some(write) => write.value = value,
            None => self.writes.push(StoreWrite { key, value }),
        }
    }
}

/// A change to the store.
#[derive(Debug, Clone)]
pub struct StoreWrite {
    /// Where.
    pub key: Vec<u8>,
    /// What; `None` removes.
    pub value: Option<Vec<u8>>,
}

/// Why a mailbox is to take an envelope.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Its owner gave us this.
    Grant(Secret),
    /// A stamp is to be made, of as many bits as the mailbox asks.
    Stamp,
}

/// An envelope to bring to one of the peer's mailboxes; tell [`super::Wallet::deposited`] what came of it.
#[derive(Debug, Clone)]
pub struct Deposit {
    /// For whom.
    pub peer: PublicKey,
    /// Its number in the channel; 0 for what is not numbered.
    pub number: u64,
    /// Where, the first choice first.
    pub mailboxes: Vec<MailboxAt>,
    /// Why they are to take it.
    pub proof: Proof,
    /// What.
    pub envelope: Vec<u8>,
}

/// What became of a deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// A mailbox keeps it.
    Kept,
    /// The box is full; it may not be later.
    Full,
    /// No mailbox was reached, or none took it.
    Failed,
}

/// Bytes of a file that a peer sends.
#[derive(Debug, Clone)]
pub struct FileWrite {
    /// From whom.
    pub peer: PublicKey,
    /// The file.
    pub id: [u8; 16],
    /// Where in it.
    pub offset: u64,
    /// What.
    pub content: bytes::Bytes,
    /// With the last part, the name that was offered and the hash that the whole must have: the driver
    /// gives the file its name if it has.
    pub complete: Option<(String, [u8; 32])>,
}

/// A part of a file to read.
#[derive(Debug, Clone)]
pub struct ReadChunk {
    /// The file.
    pub id: [u8; 16],
    /// Where it lies.
    pub path: String,
    /// From where.
    pub offset: u64,
    /// How much.
    pub bytes: usize,
}

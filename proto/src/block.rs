//! Blocks: a sealed header and a list of transactions in canonical order.
//!
//! ```text
//! header: offset  size  field
//!              0     1  version           = 1
//!              1    32  parent            id of the block before
//!             33     8  height            parent's height + 1
//!             41     8  slot              after the parent's slot
//!             49     2  proposer          index into the authorities; slot mod their number
//!             51     4  transaction count
//!             55     4  body length       bytes
//!             59    32  transaction root  Merkle root over the transaction ids, in order
//!             91    32  receipt root      Merkle root over the receipts, in order
//!            123    32  state             commitment to the state after this block
//!            155     8  gas used
//!            163    64  signature         of the proposer, over tag "ghost/block/1", genesis id and bytes 0..163
//!            227
//! body:   for each transaction: varint length, bytes
//! ```
//!
//! **Canonical order** is by BLAKE3(parent id, sender), then nonce; prices, which only the proposer may
//! put there and once, come first. Producer and receivers derive it
//! alone, so a block can travel as a set, and nobody buys a place in line: the order is a fresh
//! shuffle of the senders in every block.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::{
    ids::{Address, BlockId, GenesisId},
    keys::{BadSignature, Domain, KeyPair, PublicKey, SIGNATURE_LEN, Signature},
    layout::{Cursor, LayoutError, put_var_bytes, varint_len},
    limits::{BLOCK_BODY_BYTES_MAX, BLOCK_TXS_MAX, TX_BYTES_MAX, TX_BYTES_MIN},
    merkle,
    receipt::Receipt,
    tx::{Action, SignedTransaction},
};

/// The only version of the layout.
pub const HEADER_VERSION: u8 = 1;
/// Size of a sealed header in bytes.
pub const HEADER_LEN: usize = 227;
const UNSIGNED_LEN: usize = HEADER_LEN - SIGNATURE_LEN;

/// A sealed header with the bytes it came in. Its signature is *not* checked by parsing.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    bytes: Bytes,
    id: BlockId,
    fields: HeaderFields,
    signature: Signature,
}

/// What a proposer decides before it seals a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderFields {
    /// Id of the block before.
    pub parent: BlockId,
    /// Distance from genesis, which has height 0.
    pub height: u64,
    /// When it was its proposer's turn.
    pub slot: u64,
    /// Index into the authorities.
    pub proposer: u16,
    /// Number of transactions.
    pub tx_count: u32,
    /// Length of the body in bytes.
    pub body_bytes: u32,
    /// Merkle root over the transaction ids.
    pub tx_root: merkle::Root,
    /// Merkle root over the receipts.
    pub receipt_root: merkle::Root,
    /// Commitment to the state after the block.
    pub state: [u8; 32],
    /// Gas used by all transactions.
    pub gas_used: u64,
}

impl HeaderFields {
    /// Signs the fields.
    pub fn seal(self, genesis: &GenesisId, key: &KeyPair) -> Header {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.push(HEADER_VERSION);
        out.extend_from_slice(&self.parent.0);
        out.extend_from_slice(&self.height.to_be_bytes());
        out.extend_from_slice(&self.slot.to_be_bytes());
        out.extend_from_slice(&self.proposer.to_be_bytes());
        out.extend_from_slice(&self.tx_count.to_be_bytes());
        out.extend_from_slice(&self.body_bytes.to_be_bytes());
        out.extend_from_slice(&self.tx_root);
        out.extend_from_slice(&self.receipt_root);
        out.extend_from_slice(&self.state);
        out.extend_from_slice(&self.gas_used.to_be_bytes());
        let signature = key.sign(Domain::Block, &[&genesis.0, &out]);
        out.extend_from_slice(&signature.0);
        let bytes = Bytes::from(out);
        Header { id: BlockId(*blake3::hash(&bytes).as_bytes()), bytes, fields: self, signature }
    }
}

impl Header {
    /// Parses one header that fills `bytes` exactly.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let header = Self::read(&mut cursor)?;
        cursor.finish()?;
        Ok(header)
    }

    /// Parses one header from the front of `cursor`.
    pub fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let bytes = cursor.bytes("header", HEADER_LEN)?;
        let mut cursor = Cursor::new(bytes.clone());
        let version = cursor.u8("header version")?;
        if version != HEADER_VERSION {
            return Err(LayoutError::OutOfRange {
                field: "header version",
                value: version.into(),
                min: HEADER_VERSION.into(),
                max: HEADER_VERSION.into(),
            });
        }
        let fields = HeaderFields {
            parent: BlockId(cursor.array("parent")?),
            height: cursor.u64("height")?,
            slot: cursor.u64("slot")?,
            proposer: cursor.u16("proposer")?,
            tx_count: cursor.u32("transaction count")?,
            body_bytes: cursor.u32("body length")?,
            tx_root: cursor.array("transaction root")?,
            receipt_root: cursor.array("receipt root")?,
            state: cursor.array("state")?,
            gas_used: cursor.u64("gas used")?,
        };
        let signature = Signature(cursor.array("signature")?);
        for (field, value, max) in [
            ("transaction count", u64::from(fields.tx_count), BLOCK_TXS_MAX as u64),
            ("body length", u64::from(fields.body_bytes), BLOCK_BODY_BYTES_MAX as u64),
        ] {
            if value > max {
                return Err(LayoutError::OutOfRange { field, value, min: 0, max });
            }
        }
        Ok(Self { id: BlockId(*blake3::hash(&bytes).as_bytes()), bytes, fields, signature })
    }

    /// Checks the proposer's signature under the key that the authority set names for it.
    pub fn verify(&self, genesis: &GenesisId, proposer: &PublicKey) -> Result<(), BadSignature> {
        proposer.verify(Domain::Block, &[&genesis.0, &self.bytes[..UNSIGNED_LEN]], &self.signature)
    }

    /// BLAKE3 over [`Self::bytes`].
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The bytes as received.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl std::ops::Deref for Header {
    type Target = HeaderFields;
    fn deref(&self) -> &HeaderFields {
        &self.fields
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header")
            .field("id", &self.id)
            .field("height", &self.fields.height)
            .field("slot", &self.fields.slot)
            .field("parent", &self.fields.parent)
            .finish_non_exhaustive()
    }
}

/// A header and the transactions it commits to. Transaction signatures are *not* checked by parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    header: Header,
    transactions: Vec<SignedTransaction>,
}

impl Block {
    /// Parses header and body, which must fill `bytes` exactly, and checks that the body is the one
    /// the header commits to: count, length, root and canonical order. After this, a body that
    /// fails to execute is the *proposer's* fault; a failure here is the *sender's*, because anyone
    /// can put a false body behind a true header.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let header = Header::read(&mut cursor)?;
        let body = cursor.rest();
        Self::from_parts(header, body)
    }

    /// As [`Self::parse`], with the header already read.
    pub fn from_parts(header: Header, body: Bytes) -> Result<Self, LayoutError> {
        if body.len() != header.body_bytes as usize {
            return Err(LayoutError::Invalid {
                field: "body",
                reason: "its length is not the one in the header",
            });
        }
        let mut cursor = Cursor::new(body);
        // A count that the body cannot hold must not decide how much is allocated.
        let fitting = cursor.remaining() / (TX_BYTES_MIN + 2);
        let mut transactions = Vec::with_capacity((header.tx_count as usize).min(fitting));
        for _ in 0..header.tx_count {
            let bytes = cursor.var_bytes("transaction", TX_BYTES_MAX)?;
            transactions.push(SignedTransaction::parse(bytes)?);
        }
        cursor.finish()?;
        Self::of_matching(header, transactions)
    }

    /// Puts a block together from its transactions, wherever they came from, in the order of the body.
    /// The checks are those of [`Self::parse`]: what succeeds is the block, what fails is another one.
    pub fn assemble(header: Header, transactions: Vec<SignedTransaction>) -> Result<Self, LayoutError> {
        let bytes = |tx: &SignedTransaction| varint_len(tx.bytes().len() as u64) + tx.bytes().len();
        if transactions.len() != header.tx_count as usize
            || transactions.iter().map(bytes).sum::<usize>() != header.body_bytes as usize
        {
            return Err(LayoutError::Invalid {
                field: "body",
                reason: "its count or length is not the one in the header",
            });
        }
        Self::of_matching(header, transactions)
    }

    fn of_matching(header: Header, transactions: Vec<SignedTransaction>) -> Result<Self, LayoutError> {
        if merkle::root(transactions.iter().map(SignedTransaction::id)) != header.tx_root {
            return Err(LayoutError::Invalid {
                field: "body",
                reason: "its transactions are not those under the header's root",
            });
        }
        Ok(Self { header, transactions })
    }

    /// The sealed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The transactions in the order they stand in the body.
    pub fn transactions(&self) -> &[SignedTransaction] {
        &self.transactions
    }

    /// Header and body as they travel and are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.header.body_bytes as usize);
        out.extend_from_slice(self.header.bytes());
        encode_body(&self.transactions, &mut out);
        out
    }

    /// True if the transactions stand in strictly ascending canonical order.
    pub fn is_canonically_ordered(&self) -> bool {
        let parent = self.header.parent;
        let keys: Vec<_> = self.transactions.iter().map(|tx| CanonicalKey::of(&parent, tx)).collect();
        keys.is_sorted_by(|a, b| a < b)
    }
}

/// Where a transaction stands in a block: prices first, then by BLAKE3(parent id, sender), then nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CanonicalKey {
    sender: [u8; 32],
    nonce: u64,
}

impl CanonicalKey {
    /// The place of `tx` in a child of `parent`.
    pub fn of(parent: &BlockId, tx: &SignedTransaction) -> Self {
        let sender = match tx.body().action {
            Action::Prices { .. } => [0; 32],
            _ => Self::sender_key(parent, &tx.sender()),
        };
        Self { sender, nonce: tx.body().nonce }
    }

    fn sender_key(parent: &BlockId, sender: &Address) -> [u8; 32] {
        *blake3::Hasher::new().update(&parent.0).update(&sender.0).finalize().as_bytes()
    }
}

/// Puts transactions into the canonical order of a child of `parent`.
pub fn sort_canonically<T: AsRef<SignedTransaction>>(parent: &BlockId, transactions: &mut [T]) {
    transactions.sort_by_cached_key(|tx| CanonicalKey::of(parent, tx.as_ref()));
}

impl AsRef<SignedTransaction> for SignedTransaction {
    fn as_ref(&self) -> &SignedTransaction {
        self
    }
}

impl AsRef<SignedTransaction> for crate::tx::VerifiedTransaction {
    fn as_ref(&self) -> &SignedTransaction {
        self
    }
}

fn encode_body(transactions: &[SignedTransaction], out: &mut Vec<u8>) {
    for tx in transactions {
        put_var_bytes(out, tx.bytes());
    }
}

/// What a proposer knows about the block it is about to seal.
#[derive(Debug)]
pub struct BlockBuilder {
    /// Id of the block before.
    pub parent: BlockId,
    /// The parent's height + 1.
    pub height: u64,
    /// The slot being filled.
    pub slot: u64,
    /// The proposer's index.
    pub proposer: u16,
    /// Transactions in canonical order.
    pub transactions: Vec<SignedTransaction>,
    /// Their receipts.
    pub receipts: Vec<Receipt>,
    /// Commitment to the state after them.
    pub state: [u8; 32],
}

impl BlockBuilder {
    /// Computes the roots and seals.
    pub fn seal(self, genesis: &GenesisId, key: &KeyPair) -> Block {
        debug_assert!(
            self.transactions.is_sorted_by(|a, b| {
                CanonicalKey::of(&self.parent, a).cmp(&CanonicalKey::of(&self.parent, b)) == Ordering::Less
            }),
            "the builder is given transactions in canonical order"
        );
        let mut body = Vec::new();
        encode_body(&self.transactions, &mut body);
        let header = HeaderFields {
            parent: self.parent,
            height: self.height,
            slot: self.slot,
            proposer: self.proposer,
            tx_count: self.transactions.len() as u32,
            body_bytes: body.len() as u32,
            tx_root: merkle::root(self.transactions.iter().map(SignedTransaction::id)),
            receipt_root: merkle::root(self.receipts.iter().map(Receipt::encode)),
            state: self.state,
            gas_used: self.receipts.iter().map(|receipt| receipt.gas_used).sum(),
        }
        .seal(genesis, key);
        Block { header, transactions: self.transactions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        receipt::Outcome,
        tx::{Action, Transaction},
    };

    fn block() -> (Block, KeyPair) {
        let proposer = KeyPair::from_seed(&[3; 32]);
        let parent = BlockId([5; 32]);
        let mut transactions: Vec<_> = (0..20u8)
            .map(|n| {
                let key = KeyPair::from_seed(&[n % 4; 32]);
                Transaction {
                    chain_id: 1,
                    sender_key: key.public(),
                    nonce: u64::from(n / 4),
                    gas_limit: 21_000,
                    gas_price: 1,
                    action: Action::Transfer { to: Address([n; 20]), value: 1, payload: Bytes::new() },
                }
                .sign(&key)
                .unwrap()
                .into_signed()
            })
            .collect();
        sort_canonically(&parent, &mut transactions);
        let receipts = vec![Receipt::plain(Outcome::Done, 21_000); 20];
        let builder =
            BlockBuilder { parent, height: 9, slot: 11, proposer: 0, transactions, receipts, state: [1; 32] };
        (builder.seal(&GenesisId([1; 32]), &proposer), proposer)
    }

    #[test]
    fn round_trip_and_signature() {
        let (block, proposer) = block();
        assert_eq!(block.header().bytes().len(), HEADER_LEN);
        let again = Block::parse(block.encode().into()).unwrap();
        assert_eq!(again, block);
        assert!(again.is_canonically_ordered());
        assert!(again.header().verify(&GenesisId([1; 32]), &proposer.public()).is_ok());
        assert!(again.header().verify(&GenesisId([2; 32]), &proposer.public()).is_err());
    }

    #[test]
    fn a_block_is_put_together_from_its_own_transactions_only() {
        let (block, _) = block();
        let (header, all) = (block.header().clone(), block.transactions().to_vec());
        assert_eq!(Block::assemble(header.clone(), all.clone()), Ok(block));
        let mut swapped = all.clone();
        swapped.swap(3, 4);
        let mut repeated = all.clone();
        repeated[7] = all[8].clone();
        for other in [all[1..].to_vec(), swapped, repeated, Vec::new()] {
            assert!(Block::assemble(header.clone(), other).is_err());
        }
    }

    #[test]
    fn a_mutated_body_behind_a_true_header_is_refused_by_parsing() {
        let (block, _) = block();
        let bytes = block.encode();
        for at in (HEADER_LEN..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Block::parse(bad.into()).is_err(), "byte {at} may be altered");
        }
    }
}

//! Signed transactions.
//!
//! ```text
//! offset  size  field
//!      0     1  version            = 1
//!      1     8  chain id           which chain it is for; the EVM's CHAINID
//!      9    32  sender key         ed25519 public key
//!     41     8  nonce              how many transactions the sender had included before
//!     49     8  gas limit          most gas it may use
//!     57     8  gas price          base units paid for each unit of gas used
//!     65     1  action             1 = transfer, 2 = deploy, 3 = call, 4 = place, 5 = cancel, 6 = replace,
//!                                  8 = prices
//!     66    20  to                 receiving account         ┐
//!     86    16  value              base units                │ transfer
//!    102     v  payload length     varint                    │
//!    1xx     n  payload            opaque bytes              ┘
//!     66     1  engine             see [`EngineId`]          ┐
//!     67    16  value              base units                │
//!     83     v  code length        varint, at least 1        │ deploy
//!     8x     n  code               what the engine asks for  │
//!     xx     v  input length       varint                    │
//!     xx     n  input              for the constructor       ┘
//!     66    20  to                 account of the contract   ┐
//!     86    16  value              base units                │ call
//!    102     v  input length       varint                    │
//!    1xx     n  input              for the contract          ┘
//!     66     4  market             its number in the genesis ┐
//!     70     1  side               1 = buy, 2 = sell         │
//!     71     1  kind               see [`OrderKind`]         │ place
//!     72     8  ticks              at least 1                │
//!     80     8  lots               at least 1                ┘
//!     66     4  market                                       ┐
//!     70     8  order              its number in the market  │ cancel
//!     78     8  leave              lots that stay; 0 = none  ┘
//!     66     4  market                                       ┐
//!     70     8  order              the one to be replaced    │ replace
//!     78     8  ticks                                        │
//!     86     8  lots                                         ┘
//!     66     v  batch length       varint                    ┐ prices, see [`crate::price`]
//!     6x     n  batch              quotes and evidence       ┘
//!    end    64  signature          over the tag "ghost/tx/1" and all bytes before it
//! ```
//!
//! The id is BLAKE3 over all of it, signature included. The signature scheme leaves a third party no
//! way to alter a byte (see [`crate::keys`]), so nobody but the sender can make two ids of one intent.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    ids::{Address, TxId},
    keys::{BadSignature, Batch, Domain, KeyPair, PublicKey, SIGNATURE_LEN, Signature},
    layout::{Cursor, LayoutError, put_var_bytes, varint_len},
    limits::{TX_BYTES_MAX, TX_BYTES_MIN},
    market::{ORDER_LOTS_MAX, OrderKind, PRICE_TICKS_MAX, Side},
};

/// The only version of the layout.
pub const TX_VERSION: u8 = 1;

const ACTION_TRANSFER: u8 = 1;
const ACTION_DEPLOY: u8 = 2;
const ACTION_CALL: u8 = 3;
const ACTION_PLACE: u8 = 4;
const ACTION_CANCEL: u8 = 5;
const ACTION_REPLACE: u8 = 6;
const ACTION_PRICES: u8 = 8;

/// What runs the code of a contract. A number that a node does not know is not malformed: deploying
/// for it fails, and costs its gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineId(pub u8);

impl EngineId {
    /// The Ethereum virtual machine.
    pub const EVM: Self = Self(1);
    /// WebAssembly.
    pub const WASM: Self = Self(2);
    /// The ZVMC container.
    pub const ZVM: Self = Self(3);
}

impl std::fmt::Display for EngineId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::EVM => f.write_str("evm"),
            Self::WASM => f.write_str("wasm"),
            Self::ZVM => f.write_str("zvm"),
            Self(other) => write!(f, "engine {other}"),
        }
    }
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Moves `value` to an account. The payload is kept on the chain with it, unread. Code is never
    /// run: a transfer to a contract fails, so that nothing is paid to one that does not know of it.
    Transfer {
        /// Receiving account.
        to: Address,
        /// Base units.
        value: u128,
        /// Opaque bytes.
        payload: Bytes,
    },
    /// Makes a contract.
    Deploy {
        /// What runs it.
        engine: EngineId,
        /// Base units it starts with.
        value: u128,
        /// What the engine makes the contract from, at least one byte. For the EVM: init code.
        code: Bytes,
        /// Arguments for the constructor. For the EVM: appended to the init code.
        input: Bytes,
    },
    /// Calls a contract; an account without code just receives the value.
    Call {
        /// Account of the contract.
        to: Address,
        /// Base units that go with the call.
        value: u128,
        /// Arguments.
        input: Bytes,
    },
    /// Puts an order into a market.
    Place {
        /// Number of the market.
        market: u32,
        /// What to do.
        side: Side,
        /// What becomes of what does not trade at once.
        kind: OrderKind,
        /// Worst price, in ticks.
        ticks: u64,
        /// How much, in lots.
        lots: u64,
    },
    /// Takes an order off, or makes it smaller: then it keeps its place.
    Cancel {
        /// Number of the market.
        market: u32,
        /// Number of the order.
        order: u64,
        /// Lots that stay; with none it is off.
        leave: u64,
    },
    /// Takes an order off and places another one on the same side, in one step. The new one has a number and a place of its own.
    Replace {
        /// Number of the market.
        market: u32,
        /// Number of the order that goes.
        order: u64,
        /// Worst price of the new one, in ticks.
        ticks: u64,
        /// Its size, in lots.
        lots: u64,
    },
    /// Commits prices. Only the proposer of a block may put it there, once and first; the nonce is the
    /// block's height, and neither gas nor a nonce of the account is used.
    Prices {
        /// A [`crate::price::PriceBatch`], unread.
        batch: Bytes,
    },
}

impl Action {
    /// Base units that leave the sender, besides the fee.
    pub fn value(&self) -> u128 {
        match self {
            Self::Transfer { value, .. } | Self::Deploy { value, .. } | Self::Call { value, .. } => *value,
            Self::Place { .. } | Self::Cancel { .. } | Self::Replace { .. } => 0,
            Self::Prices { .. } => 0,
        }
    }
}

/// The fields of a transaction, without its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Chain it is for.
    pub chain_id: u64,
    /// Key of the account that pays.
    pub sender_key: PublicKey,
    /// How many transactions of the sender come before it.
    pub nonce: u64,
    /// Most gas it may use.
    pub gas_limit: u64,
    /// Base units for each unit of gas.
    pub gas_price: u64,
    /// What it does.
    pub action: Action,
}

impl Transaction {
    /// Encodes and signs.
    ///
    /// # Errors
    /// [`LayoutError::OutOfRange`] if the encoding would exceed [`TX_BYTES_MAX`].
    pub fn sign(self, key: &KeyPair) -> Result<VerifiedTransaction, LayoutError> {
        debug_assert_eq!(self.sender_key, key.public());
        let mut out = Vec::with_capacity(TX_BYTES_MIN + 8);
        self.encode_unsigned(&mut out);
        let signature = key.sign(Domain::Transaction, &[&out]);
        out.extend_from_slice(&signature.0);
        SignedTransaction::parse(out.into()).map(VerifiedTransaction)
    }

    /// The encoding without its signature: what is signed, behind the tag of [`Domain::Transaction`].
    pub fn unsigned_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TX_BYTES_MIN);
        self.encode_unsigned(&mut out);
        out
    }

    /// Reads an encoding without its signature.
    pub fn parse_unsigned(bytes: &[u8]) -> Result<Self, LayoutError> {
        let whole = [bytes, &[0; SIGNATURE_LEN]].concat();
        SignedTransaction::parse(whole.into()).map(|tx| tx.body().clone())
    }

    /// The transaction with a signature that was made elsewhere, if it verifies.
    pub fn with_signature(&self, signature: &Signature) -> Result<VerifiedTransaction, LayoutError> {
        let mut out = self.unsigned_bytes();
        out.extend_from_slice(&signature.0);
        SignedTransaction::parse(out.into())?
            .verify()
            .map_err(|_| LayoutError::Invalid { field: "signature", reason: "does not verify" })
    }

    fn encode_unsigned(&self, out: &mut Vec<u8>) {
        out.push(TX_VERSION);
        out.extend_from_slice(&self.chain_id.to_be_bytes());
        out.extend_from_slice(&self.sender_key.0);
        out.extend_from_slice(&self.nonce.to_be_bytes());
        out.extend_from_slice(&self.gas_limit.to_be_bytes());
        out.extend_from_slice(&self.gas_price.to_be_bytes());
        match &self.action {
            Action::Transfer { to, value, payload } => {
                out.push(ACTION_TRANSFER);
                out.extend_from_slice(&to.0);
                out.extend_from_slice(&value.to_be_bytes());
                put_var_bytes(out, payload);
            }
            Action::Deploy { engine, value, code, input } => {
                out.push(ACTION_DEPLOY);
                out.push(engine.0);
                out.extend_from_slice(&value.to_be_bytes());
                put_var_bytes(out, code);
                put_var_bytes(out, input);
            }
            Action::Call { to, value, input } => {
                out.push(ACTION_CALL);
                out.extend_from_slice(&to.0);
                out.extend_from_slice(&value.to_be_bytes());
                put_var_bytes(out, input);
            }
            Action::Place { market, side, kind, ticks, lots } => {
                out.push(ACTION_PLACE);
                out.extend_from_slice(&market.to_be_bytes());
                out.extend_from_slice(&[side.code(), kind.code()]);
                out.extend_from_slice(&ticks.to_be_bytes());
                out.extend_from_slice(&lots.to_be_bytes());
            }
            Action::Cancel { market, order, leave } => {
                out.push(ACTION_CANCEL);
                out.extend_from_slice(&market.to_be_bytes());
                out.extend_from_slice(&order.to_be_bytes());
                out.extend_from_slice(&leave.to_be_bytes());
            }
            Action::Replace { market, order, ticks, lots } => {
                out.push(ACTION_REPLACE);
                out.extend_from_slice(&market.to_be_bytes());
                out.extend_from_slice(&order.to_be_bytes());
                out.extend_from_slice(&ticks.to_be_bytes());
                out.extend_from_slice(&lots.to_be_bytes());
            }
            Action::Prices { batch } => {
                out.push(ACTION_PRICES);
                put_var_bytes(out, batch);
            }
        }
    }

    /// Most it can cost its sender: value and the whole gas limit. `None` if no balance could pay it.
    pub fn cost_max(&self) -> Option<u128> {
        let gas = u128::from(self.gas_limit) * u128::from(self.gas_price);
        self.action.value().checked_add(gas)
    }

    /// The payload of a transfer, the input of a deployment or call, the batch of prices; empty for orders.
    pub fn payload(&self) -> &Bytes {
        match &self.action {
            Action::Transfer { payload: bytes, .. }
            | Action::Deploy { input: bytes, .. }
            | Action::Call { input: bytes, .. }
            | Action::Prices { batch: bytes } => bytes,
            Action::Place { .. } | Action::Cancel { .. } | Action::Replace { .. } => {
                static EMPTY: Bytes = Bytes::new();
                &EMPTY
            }
        }
    }
}

/// A well-formed transaction with the bytes it came in. Its signature is *not* checked yet.
///
/// A clone is one more pointer to the same: pool, block under construction and block share it.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedTransaction(Arc<Parsed>);

#[derive(Clone, PartialEq, Eq)]
struct Parsed {
    bytes: Bytes,
    id: TxId,
    sender: Address,
    signature: Signature,
    body: Transaction,
}

impl Parsed {
    fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        if bytes.len() > TX_BYTES_MAX || bytes.len() < TX_BYTES_MIN {
            return Err(LayoutError::OutOfRange {
                field: "transaction length",
                value: bytes.len() as u64,
                min: TX_BYTES_MIN as u64,
                max: TX_BYTES_MAX as u64,
            });
        }
        let mut cursor = Cursor::new(bytes.clone());
        let version = cursor.u8("transaction version")?;
        if version != TX_VERSION {
            return Err(LayoutError::OutOfRange {
                field: "transaction version",
                value: version.into(),
                min: TX_VERSION.into(),
                max: TX_VERSION.into(),
            });
        }
        let chain_id = cursor.u64("chain id")?;
        let sender_key = PublicKey(cursor.array("sender key")?);
        let nonce = cursor.u64("nonce")?;
        let gas_limit = cursor.u64("gas limit")?;
        let gas_price = cursor.u64("gas price")?;
        let action = match cursor.u8("action")? {
            ACTION_TRANSFER => Action::Transfer {
                to: Address(cursor.array("to")?),
                value: cursor.u128("value")?,
                payload: cursor.var_bytes("payload", TX_BYTES_MAX)?,
            },
            ACTION_DEPLOY => {
                let engine = EngineId(cursor.u8("engine")?);
                let value = cursor.u128("value")?;
                let code_len = cursor.varint("code length", 1, TX_BYTES_MAX as u64)?;
                Action::Deploy {
                    engine,
                    value,
                    code: cursor.bytes("code", code_len as usize)?,
                    input: cursor.var_bytes("input", TX_BYTES_MAX)?,
                }
            }
            ACTION_CALL => Action::Call {
                to: Address(cursor.array("to")?),
                value: cursor.u128("value")?,
                input: cursor.var_bytes("input", TX_BYTES_MAX)?,
            },
            ACTION_PLACE => Action::Place {
                market: cursor.u32("market")?,
                side: Side::of_code(cursor.u8("side")?)?,
                kind: OrderKind::of_code(cursor.u8("order kind")?)?,
                ticks: bounded("ticks", cursor.u64("ticks")?, 1, PRICE_TICKS_MAX)?,
                lots: bounded("lots", cursor.u64("lots")?, 1, ORDER_LOTS_MAX)?,
            },
            ACTION_CANCEL => Action::Cancel {
                market: cursor.u32("market")?,
                order: cursor.u64("order")?,
                leave: bounded("leave", cursor.u64("leave")?, 0, ORDER_LOTS_MAX)?,
            },
            ACTION_REPLACE => Action::Replace {
                market: cursor.u32("market")?,
                order: cursor.u64("order")?,
                ticks: bounded("ticks", cursor.u64("ticks")?, 1, PRICE_TICKS_MAX)?,
                lots: bounded("lots", cursor.u64("lots")?, 1, ORDER_LOTS_MAX)?,
            },
            ACTION_PRICES => Action::Prices { batch: cursor.var_bytes("price batch", TX_BYTES_MAX)? },
            other => {
                return Err(LayoutError::OutOfRange {
                    field: "action",
                    value: other.into(),
                    min: ACTION_TRANSFER.into(),
                    max: ACTION_PRICES.into(),
                });
            }
        };
        let signature = Signature(cursor.array("signature")?);
        cursor.finish()?;
        Ok(Self {
            id: TxId(*blake3::hash(&bytes).as_bytes()),
            sender: sender_key.address(),
            bytes,
            signature,
            body: Transaction { chain_id, sender_key, nonce, gas_limit, gas_price, action },
        })
    }

    fn signed_part(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - SIGNATURE_LEN]
    }
}

impl SignedTransaction {
    /// Parses one transaction that fills `bytes` exactly. The bytes are shared, not copied.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        Parsed::parse(bytes).map(|parsed| Self(Arc::new(parsed)))
    }

    /// Checks the signature.
    pub fn verify(self) -> Result<VerifiedTransaction, BadSignature> {
        let parsed = &self.0;
        parsed.body.sender_key.verify(Domain::Transaction, &[parsed.signed_part()], &parsed.signature)?;
        Ok(VerifiedTransaction(self))
    }

    /// Checks many signatures, all at once where all are good and one by one where not. The answers
    /// stand in the order of the input.
    pub fn verify_many(
        transactions: Vec<Self>,
        entropy: impl rand_core::CryptoRng,
    ) -> Vec<Result<VerifiedTransaction, BadSignature>> {
        // Below four, the set-up of a batch costs more than it saves.
        if transactions.len() >= 4 {
            let mut batch = Batch::new();
            for tx in transactions.iter().map(|tx| &tx.0) {
                batch.push(&tx.body.sender_key, Domain::Transaction, &[tx.signed_part()], &tx.signature);
            }
            if batch.verify(entropy).is_ok() {
                return transactions.into_iter().map(|tx| Ok(VerifiedTransaction(tx))).collect();
            }
        }
        transactions.into_iter().map(Self::verify).collect()
    }

    /// The same with bytes of its own. A transaction cut out of a frame keeps the whole frame in
    /// memory: detach it before it is kept.
    pub fn detached(self) -> Self {
        Self(Arc::new(Arc::unwrap_or_clone(self.0).detached()))
    }

    /// BLAKE3 over [`Self::bytes`].
    pub fn id(&self) -> TxId {
        self.0.id
    }

    /// The account of the sender key.
    pub fn sender(&self) -> Address {
        self.0.sender
    }

    /// The bytes as received.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// The fields.
    pub fn body(&self) -> &Transaction {
        &self.0.body
    }
}

impl Parsed {
    fn detached(mut self) -> Self {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
        let end = self.bytes.len() - SIGNATURE_LEN;
        match &mut self.body.action {
            Action::Transfer { payload: last, .. }
            | Action::Call { input: last, .. }
            | Action::Prices { batch: last } => {
                *last = self.bytes.slice(end - last.len()..end);
            }
            Action::Deploy { code, input, .. } => {
                let input_at = end - input.len();
                let code_end = input_at - varint_len(input.len() as u64);
                *code = self.bytes.slice(code_end - code.len()..code_end);
                *input = self.bytes.slice(input_at..end);
            }
            Action::Place { .. } | Action::Cancel { .. } | Action::Replace { .. } => {}
        }
        self
    }
}

fn bounded(field: &'static str, value: u64, min: u64, max: u64) -> Result<u64, LayoutError> {
    if value < min || value > max {
        return Err(LayoutError::OutOfRange { field, value, min, max });
    }
    Ok(value)
}

impl std::fmt::Debug for SignedTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedTransaction")
            .field("id", &self.id())
            .field("sender", &self.sender())
            .field("nonce", &self.body().nonce)
            .finish_non_exhaustive()
    }
}

/// A transaction whose signature was checked. Only checking makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedTransaction(SignedTransaction);

impl VerifiedTransaction {
    /// Gives up the proof.
    pub fn into_signed(self) -> SignedTransaction {
        self.0
    }
}

impl std::ops::Deref for VerifiedTransaction {
    type Target = SignedTransaction;
    fn deref(&self) -> &SignedTransaction {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> KeyPair {
        KeyPair::from_seed(&[seed; 32])
    }

    fn transfer(seed: u8, nonce: u64, payload: &[u8]) -> VerifiedTransaction {
        let key = key(seed);
        Transaction {
            chain_id: 7,
            sender_key: key.public(),
            nonce,
            gas_limit: 21_000,
            gas_price: 1,
            action: Action::Transfer {
                to: Address([9; 20]),
                value: 5,
                payload: Bytes::copy_from_slice(payload),
            },
        }
        .sign(&key)
        .unwrap()
    }

    fn with_action(action: Action) -> VerifiedTransaction {
        let key = key(1);
        let body = transfer(1, 0, b"").body().clone();
        Transaction { sender_key: key.public(), action, ..body }.sign(&key).unwrap()
    }

    fn deploy(code: &[u8], input: &[u8]) -> Action {
        let bytes = Bytes::copy_from_slice;
        Action::Deploy { engine: EngineId::EVM, value: 1, code: bytes(code), input: bytes(input) }
    }

    #[test]
    fn smallest_transaction_has_the_stated_size() {
        assert_eq!(with_action(deploy(&[0], b"")).bytes().len(), TX_BYTES_MIN);
        assert_eq!(transfer(1, 0, b"").bytes().len(), TX_BYTES_MIN + 17);
    }

    #[test]
    fn a_deployment_without_code_is_refused() {
        let key = key(1);
        let body = transfer(1, 0, b"").body().clone();
        let sign = |action| Transaction { action, ..body.clone() }.sign(&key);
        // Long enough as a whole, so that the code's own bound is what refuses it.
        let field =
            |error| matches!(error, LayoutError::OutOfRange { field: "code length", value: 0, min: 1, .. });
        assert!(sign(deploy(b"", &[7; 40])).is_err_and(field));
        assert!(sign(deploy(&[0], &[7; 40])).is_ok());
    }

    #[test]
    fn orders_round_trip_within_their_bounds() {
        let place = |ticks, lots| Action::Place {
            market: 3,
            side: Side::Sell,
            kind: OrderKind::PostOnly,
            ticks,
            lots,
        };
        let good = [
            place(1, ORDER_LOTS_MAX),
            place(PRICE_TICKS_MAX, 1),
            Action::Cancel { market: 0, order: 9, leave: 0 },
            Action::Replace { market: 1, order: 9, ticks: 7, lots: 8 },
        ];
        for action in good {
            let tx = with_action(action);
            let again = SignedTransaction::parse(tx.bytes().clone()).unwrap();
            assert_eq!((again.body(), &again.clone().detached()), (tx.body(), &again));
            assert!(tx.bytes().len() >= TX_BYTES_MIN);
        }
        let body = transfer(1, 0, b"").body().clone();
        for bad in [place(0, 1), place(1, 0), place(PRICE_TICKS_MAX + 1, 1), place(1, ORDER_LOTS_MAX + 1)] {
            assert!(Transaction { action: bad, ..body.clone() }.sign(&key(1)).is_err());
        }
    }

    /// Where the payload of a transfer stands in memory.
    fn payload_of(tx: &SignedTransaction) -> *const u8 {
        match &tx.body().action {
            Action::Transfer { payload, .. } => payload.as_ptr(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let good = transfer(1, 3, b"payload").bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let accepted = SignedTransaction::parse(bad.into()).is_ok_and(|tx| tx.verify().is_ok());
            assert!(!accepted, "bit {bit} may be flipped");
        }
    }

    #[test]
    fn one_bad_signature_in_a_batch_fails_alone() {
        let mut all: Vec<_> = (0..8).map(|n| transfer(n, 0, b"").into_signed()).collect();
        let mut bad = all[5].bytes().to_vec();
        *bad.last_mut().unwrap() ^= 0; // keep the signature, change what it covers
        bad[41 + 7] ^= 1;
        all[5] = SignedTransaction::parse(bad.into()).unwrap();
        let rng = <rand_chacha::ChaCha8Rng as rand_core::SeedableRng>::from_seed([1; 32]);
        let verdicts = SignedTransaction::verify_many(all, rng);
        let good: Vec<bool> = verdicts.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, true, true, true, true, false, true, true]);
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = SignedTransaction::parse(bytes.into());
        }

        #[test]
        fn round_trip(nonce: u64, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let tx = transfer(2, nonce, &payload);
            let again = SignedTransaction::parse(tx.bytes().clone()).unwrap();
            prop_assert_eq!(again.body(), tx.body());
            let detached = again.clone().detached();
            prop_assert_eq!(&detached, &again);
            prop_assert!(payload.is_empty() || payload_of(&detached) != payload_of(&again));
            prop_assert!(again.verify().is_ok());
        }

        #[test]
        fn contract_actions_round_trip_and_detach(
            code in proptest::collection::vec(any::<u8>(), 1..300),
            input in proptest::collection::vec(any::<u8>(), 0..300),
            value: u128,
        ) {
            let call = Action::Call { to: Address([3; 20]), value, input: input.clone().into() };
            for action in [deploy(&code, &input), call] {
                let tx = with_action(action);
                let again = SignedTransaction::parse(tx.bytes().clone()).unwrap();
                prop_assert_eq!(again.body(), tx.body());
                prop_assert_eq!(&again.clone().detached(), &again);
                prop_assert!(again.verify().is_ok());
            }
        }
    }
}

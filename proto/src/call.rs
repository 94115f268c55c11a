//! Calls that change nothing, and their answers. Fixed layouts: they are hot, hashed and signed.
//!
//! ```text
//! call: offset  size  field
//!            0     1  flags       1 = sign the answer, 2 = `to` follows, 4 = height follows
//!            1    20  from        who calls; nobody has to prove it
//!           21    16  value       base units that go with it
//!           37     8  gas limit   0 = as much as the node gives to one call
//!           45  0/20  to          the contract; without it, input is init code of the EVM, or a
//!                            ZVMC container with the constructor's input behind it
//!            x   0/8  height      after which block; without it, after the head
//!            x     v  input       varint length, then the arguments
//!
//! answer:    0     1  flags       1 = signed
//!            1     8  height      of the block that it ran after
//!            9    32  block id
//!           41    32  state       commitment to the state that it ran on
//!           73     1  outcome     see [`Outcome`]
//!           74     8  gas used    as a transaction would pay for it
//!           82     v  output      varint length, then what was returned or why it reverted
//!            x  0/64  signature   by the node's key over the tag "ghost/call/1", the genesis id, the
//!                                 BLAKE3 of the call, bytes 1..82 of the answer, the BLAKE3 of the output
//! ```

use bytes::Bytes;

use crate::{
    ids::{Address, BlockId, GenesisId},
    keys::{BadSignature, Domain, KeyPair, PublicKey, SIGNATURE_LEN, Signature},
    layout::{Cursor, LayoutError, put_var_bytes, varint_len},
    limits::{CALL_INPUT_BYTES_MAX, CALL_OUTPUT_BYTES_MAX},
    receipt::Outcome,
};

const FLAG_SIGN: u8 = 1;
const FLAG_TO: u8 = 2;
const FLAG_HEIGHT: u8 = 4;

/// Bytes of the longest call.
pub const CALL_BYTES_MAX: usize =
    45 + Address::LEN + 8 + varint_len(CALL_INPUT_BYTES_MAX as u64) + CALL_INPUT_BYTES_MAX;
/// Bytes of an answer in front of its output.
const ANSWER_HEAD_LEN: usize = 82;
/// Bytes of the longest answer.
pub const CALL_ANSWER_BYTES_MAX: usize =
    ANSWER_HEAD_LEN + varint_len(CALL_OUTPUT_BYTES_MAX as u64) + CALL_OUTPUT_BYTES_MAX + SIGNATURE_LEN;

/// A call that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// Who calls. Nobody has to prove it.
    pub from: Address,
    /// The contract; `None` deploys `input`: init code of the EVM, or a ZVMC container and behind it
    /// what its constructor is told.
    pub to: Option<Address>,
    /// Base units that go with it; `from` must have them.
    pub value: u128,
    /// Arguments, at most [`CALL_INPUT_BYTES_MAX`].
    pub input: Bytes,
    /// Most gas; 0 is as much as the node gives to one call.
    pub gas_limit: u64,
    /// After which block of the canonical chain; `None` is the head.
    pub height: Option<u64>,
    /// The node is to sign its answer.
    pub signed: bool,
}

impl Call {
    /// Appends the layout above.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            flag(self.signed, FLAG_SIGN)
                | flag(self.to.is_some(), FLAG_TO)
                | flag(self.height.is_some(), FLAG_HEIGHT),
        );
        out.extend_from_slice(&self.from.0);
        out.extend_from_slice(&self.value.to_be_bytes());
        out.extend_from_slice(&self.gas_limit.to_be_bytes());
        if let Some(to) = &self.to {
            out.extend_from_slice(&to.0);
        }
        if let Some(height) = self.height {
            out.extend_from_slice(&height.to_be_bytes());
        }
        put_var_bytes(out, &self.input);
    }

    /// Reads a call that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`LayoutError`]: these bytes were never a call.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let flags = read_flags(&mut cursor, FLAG_SIGN | FLAG_TO | FLAG_HEIGHT)?;
        let from = Address(cursor.array("from")?);
        let value = cursor.u128("value")?;
        let gas_limit = cursor.u64("gas limit")?;
        let to = if flags & FLAG_TO != 0 { Some(Address(cursor.array("to")?)) } else { None };
        let height = if flags & FLAG_HEIGHT != 0 { Some(cursor.u64("height")?) } else { None };
        let input = cursor.var_bytes("input", CALL_INPUT_BYTES_MAX)?;
        cursor.finish()?;
        Ok(Self { from, to, value, input, gas_limit, height, signed: flags & FLAG_SIGN != 0 })
    }

    /// BLAKE3 of the encoding: what an answer is signed for.
    pub fn hash(&self) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(80 + self.input.len());
        self.encode(&mut bytes);
        *blake3::hash(&bytes).as_bytes()
    }
}

fn read_flags(cursor: &mut Cursor, known: u8) -> Result<u8, LayoutError> {
    let flags = cursor.u8("flags")?;
    if flags & !known != 0 {
        return Err(LayoutError::OutOfRange {
            field: "flags",
            value: flags.into(),
            min: 0,
            max: known.into(),
        });
    }
    Ok(flags)
}

/// What a call gave, and the state it was run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallAnswer {
    /// Height of the block that it ran after.
    pub height: u64,
    /// That block.
    pub block: BlockId,
    /// Commitment to the state after it. A client can hold this against the block's header.
    pub state: [u8; 32],
    /// How it ended.
    pub outcome: Outcome,
    /// Gas that a transaction would pay for.
    pub gas_used: u64,
    /// What was returned, or why it reverted.
    pub output: Bytes,
    /// By the node's key, if it was asked for.
    pub signature: Option<Signature>,
}

impl CallAnswer {
    /// Appends the layout above.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.signature.is_some()));
        out.extend_from_slice(&self.head());
        put_var_bytes(out, &self.output);
        if let Some(signature) = &self.signature {
            out.extend_from_slice(&signature.0);
        }
    }

    /// Bytes 1..82.
    fn head(&self) -> [u8; ANSWER_HEAD_LEN - 1] {
        let mut head = [0; ANSWER_HEAD_LEN - 1];
        head[..8].copy_from_slice(&self.height.to_be_bytes());
        head[8..40].copy_from_slice(&self.block.0);
        head[40..72].copy_from_slice(&self.state);
        head[72] = self.outcome.code();
        head[73..].copy_from_slice(&self.gas_used.to_be_bytes());
        head
    }

    /// Reads an answer that fills `bytes` exactly. The signature is not checked.
    ///
    /// # Errors
    /// [`LayoutError`]: these bytes were never an answer.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let signed = read_flags(&mut cursor, 1)? != 0;
        let height = cursor.u64("height")?;
        let block = BlockId(cursor.array("block id")?);
        let state = cursor.array("state")?;
        let code = cursor.u8("outcome")?;
        let outcome = Outcome::of_code(code).ok_or(LayoutError::OutOfRange {
            field: "outcome",
            value: code.into(),
            min: 0,
            max: Outcome::ALL.len() as u64 - 1,
        })?;
        let gas_used = cursor.u64("gas used")?;
        let output = cursor.var_bytes("output", CALL_OUTPUT_BYTES_MAX)?;
        let signature = if signed { Some(Signature(cursor.array("signature")?)) } else { None };
        cursor.finish()?;
        Ok(Self { height, block, state, outcome, gas_used, output, signature })
    }

    /// Signs it as the answer to `call`.
    pub fn sign(&mut self, call: &Call, genesis: &GenesisId, key: &KeyPair) {
        self.signature = Some(key.sign(Domain::CallAnswer, &[&self.signed_part(call, genesis)]));
    }

    fn signed_part(&self, call: &Call, genesis: &GenesisId) -> Vec<u8> {
        [&genesis.0, &call.hash(), self.head().as_slice(), blake3::hash(&self.output).as_bytes()].concat()
    }

    /// Checks that `key` signed this as the answer to `call` on this chain.
    ///
    /// # Errors
    /// [`BadSignature`], also if there is none: the answer proves nothing to a third party.
    pub fn verify(&self, call: &Call, genesis: &GenesisId, key: &PublicKey) -> Result<(), BadSignature> {
        let signature = self.signature.as_ref().ok_or(BadSignature)?;
        key.verify(Domain::CallAnswer, &[&self.signed_part(call, genesis)], signature)
    }

    /// True if both say the same of the same state; signatures may differ.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let unsigned = |answer: &Self| Self { signature: None, ..answer.clone() };
        unsigned(self) == unsigned(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer() -> CallAnswer {
        CallAnswer {
            height: 9,
            block: BlockId([7; 32]),
            state: [8; 32],
            outcome: Outcome::Done,
            gas_used: 23_000,
            output: Bytes::from_static(b"out"),
            signature: None,
        }
    }

    fn encoded(answer: &CallAnswer) -> Bytes {
        let mut out = Vec::new();
        answer.encode(&mut out);
        out.into()
    }

    #[test]
    fn a_signature_covers_call_chain_and_every_field() {
        let (key, genesis) = (KeyPair::from_seed(&[3; 32]), GenesisId([1; 32]));
        let call = Call { to: Some(Address([5; 20])), signed: true, ..Call::default() };
        let mut good = answer();
        assert_eq!(good.verify(&call, &genesis, &key.public()), Err(BadSignature), "there is none");
        good.sign(&call, &genesis, &key);
        assert_eq!(CallAnswer::parse(encoded(&good)), Ok(good.clone()));
        assert_eq!(good.verify(&call, &genesis, &key.public()), Ok(()));

        let other_call = Call { value: 1, ..call.clone() };
        assert_eq!(good.verify(&other_call, &genesis, &key.public()), Err(BadSignature));
        assert_eq!(good.verify(&call, &GenesisId([2; 32]), &key.public()), Err(BadSignature));
        let changes: [fn(&mut CallAnswer); 6] = [
            |it| it.height += 1,
            |it| it.block.0[0] ^= 1,
            |it| it.state[0] ^= 1,
            |it| it.outcome = Outcome::Reverted,
            |it| it.gas_used += 1,
            |it| it.output = Bytes::from_static(b"oux"),
        ];
        for change in changes {
            let mut changed = good.clone();
            change(&mut changed);
            assert_eq!(changed.verify(&call, &genesis, &key.public()), Err(BadSignature), "{changed:?}");
            assert!(!changed.agrees_with(&good));
        }
        assert!(good.agrees_with(&answer()));
    }

    #[test]
    fn bounds_from_both_sides() {
        let mut call = Call { input: vec![1; CALL_INPUT_BYTES_MAX].into(), ..Call::default() };
        let bytes = |call: &Call| {
            let mut out = Vec::new();
            call.encode(&mut out);
            Bytes::from(out)
        };
        assert_eq!(Call::parse(bytes(&call)), Ok(call.clone()));
        call.input = vec![1; CALL_INPUT_BYTES_MAX + 1].into();
        assert!(Call::parse(bytes(&call)).is_err());
        let mut unknown_flag = bytes(&Call::default()).to_vec();
        unknown_flag[0] = 8;
        assert!(Call::parse(unknown_flag.into()).is_err());

        let mut answer = CallAnswer { output: vec![1; CALL_OUTPUT_BYTES_MAX].into(), ..answer() };
        answer.signature = Some(Signature([0; 64]));
        assert_eq!(encoded(&answer).len(), CALL_ANSWER_BYTES_MAX);
        assert_eq!(CallAnswer::parse(encoded(&answer)), Ok(answer.clone()));
        answer.output = vec![1; CALL_OUTPUT_BYTES_MAX + 1].into();
        assert!(CallAnswer::parse(encoded(&answer)).is_err());
    }

    proptest! {
        #[test]
        fn one_encoding_each(bytes in proptest::collection::vec(any::<u8>(), 0..200), flags in 0u8..9) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = flags;
            }
            if let Ok(call) = Call::parse(bytes.clone().into()) {
                let mut out = Vec::new();
                call.encode(&mut out);
                prop_assert_eq!(&out, &bytes);
            }
            if let Ok(answer) = CallAnswer::parse(bytes.clone().into()) {
                prop_assert_eq!(encoded(&answer), bytes);
            }
        }
    }
}

//! What became of an included transaction.
//!
//! ```text
//! offset  size  field
//!      0     1  outcome          see [`Outcome`]
//!      1     8  gas used
//!      9     1  created          0, or 1 and the address follows
//!     10  0/20  address          of the contract that was deployed
//!      x     v  output length    varint, at most 1,024
//!      x     n  output           what the call returned or why it reverted, cut off there
//!      x     v  log count        varint
//!
//! log entry:
//!      0    20  address          of the contract that logged
//!     20     1  topic count      at most 4
//!     21  32 n  topics
//!      x     v  data length      varint
//!      x     n  data
//! ```
//!
//! A receipt takes at most [`RECEIPT_BYTES_MAX`]. Only what was [`Outcome::Done`] created something
//! or logged.

use bytes::Bytes;

use crate::{
    ids::Address,
    layout::{Cursor, LayoutError, put_var_bytes, put_varint, varint_len},
    limits::{LOG_BYTES_MIN, LOG_TOPICS_MAX, RECEIPT_BYTES_MAX, RECEIPT_OUTPUT_BYTES_MAX},
};

/// How execution ended. Gas is paid for in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it says.
    Done,
    /// The value could not be paid after fees; nothing but the fee was taken.
    InsufficientBalance,
    /// A transfer named a contract; call it instead. Nothing but the fee was taken.
    ToContract,
    /// The contract undid everything; the output may say why.
    Reverted,
    /// The gas limit was used up. Everything was undone.
    OutOfGas,
    /// The code did what its machine forbids. All gas was used, everything was undone.
    Fault,
    /// The code is none that its engine takes, or there is no such engine.
    CodeRefused,
    /// The receipt would exceed [`RECEIPT_BYTES_MAX`] by what was logged. Everything was undone.
    LogsTooLarge,
}

impl Outcome {
    /// All of them, by their number.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::InsufficientBalance,
        Self::ToContract,
        Self::Reverted,
        Self::OutOfGas,
        Self::Fault,
        Self::CodeRefused,
        Self::LogsTooLarge,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The outcome with a number.
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name shown to people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::InsufficientBalance => "insufficient_balance",
            Self::ToContract => "to_contract",
            Self::Reverted => "reverted",
            Self::OutOfGas => "out_of_gas",
            Self::Fault => "fault",
            Self::CodeRefused => "code_refused",
            Self::LogsTooLarge => "logs_too_large",
        }
    }
}

/// What a contract told the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The contract.
    pub address: Address,
    /// What it can be searched by: at most [`LOG_TOPICS_MAX`]; the first names the kind of event.
    pub topics: Vec<[u8; 32]>,
    /// The rest.
    pub data: Bytes,
}

impl LogEntry {
    /// Bytes it takes in a receipt.
    pub fn encoded_len(&self) -> usize {
        20 + 1 + 32 * self.topics.len() + varint_len(self.data.len() as u64) + self.data.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.address.0);
        out.push(self.topics.len() as u8);
        self.topics.iter().for_each(|topic| out.extend_from_slice(topic));
        put_var_bytes(out, &self.data);
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let address = Address(cursor.array("log address")?);
        let count = cursor.u8("topic count")?;
        if usize::from(count) > LOG_TOPICS_MAX {
            return Err(LayoutError::OutOfRange {
                field: "topic count",
                value: count.into(),
                min: 0,
                max: LOG_TOPICS_MAX as u64,
            });
        }
        let topics = (0..count).map(|_| cursor.array("topic")).collect::<Result<_, _>>()?;
        Ok(Self { address, topics, data: cursor.var_bytes("log data", RECEIPT_BYTES_MAX)? })
    }
}

/// The receipt of one transaction. A block commits to the list of its receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// How execution ended.
    pub outcome: Outcome,
    /// Gas paid for.
    pub gas_used: u64,
    /// The contract that was deployed.
    pub created: Option<Address>,
    /// What the contract returned: at most [`RECEIPT_OUTPUT_BYTES_MAX`].
    pub output: Bytes,
    /// In the order in which they were logged.
    pub logs: Vec<LogEntry>,
}

impl Receipt {
    /// Of a transaction that ran no code.
    pub fn plain(outcome: Outcome, gas_used: u64) -> Self {
        Self { outcome, gas_used, created: None, output: Bytes::new(), logs: Vec::new() }
    }

    /// Bytes that [`Self::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        1 + 8
            + 1
            + self.created.map_or(0, |_| Address::LEN)
            + varint_len(self.output.len() as u64)
            + self.output.len()
            + varint_len(self.logs.len() as u64)
            + self.logs.iter().map(LogEntry::encoded_len).sum::<usize>()
    }

    /// Encodes into the layout above.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.push(self.outcome.code());
        out.extend_from_slice(&self.gas_used.to_be_bytes());
        out.push(u8::from(self.created.is_some()));
        out.extend_from_slice(self.created.as_ref().map_or(&[], |address| &address.0));
        put_var_bytes(&mut out, &self.output);
        put_varint(&mut out, self.logs.len() as u64);
        self.logs.iter().for_each(|log| log.encode(&mut out));
        out
    }

    /// Reads a receipt that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`LayoutError`]: these bytes were never a receipt.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        if bytes.len() > RECEIPT_BYTES_MAX {
            return Err(LayoutError::OutOfRange {
                field: "receipt length",
                value: bytes.len() as u64,
                min: 0,
                max: RECEIPT_BYTES_MAX as u64,
            });
        }
        let mut cursor = Cursor::new(bytes);
        let receipt = Self::read(&mut cursor)?;
        cursor.finish()?;
        Ok(receipt)
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let code = cursor.u8("outcome")?;
        let outcome = Outcome::of_code(code).ok_or(LayoutError::OutOfRange {
            field: "outcome",
            value: code.into(),
            min: 0,
            max: Outcome::ALL.len() as u64 - 1,
        })?;
        let gas_used = cursor.u64("gas used")?;
        let created = match cursor.u8("created")? {
            0 => None,
            1 => Some(Address(cursor.array("created address")?)),
            other => {
                return Err(LayoutError::OutOfRange {
                    field: "created",
                    value: other.into(),
                    min: 0,
                    max: 1,
                });
            }
        };
        let output = cursor.var_bytes("output", RECEIPT_OUTPUT_BYTES_MAX)?;
        let fitting = cursor.remaining() / LOG_BYTES_MIN;
        let count = cursor.varint("log count", 0, fitting as u64)?;
        let logs = (0..count).map(|_| LogEntry::read(cursor)).collect::<Result<_, _>>()?;
        Ok(Self { outcome, gas_used, created, output, logs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(topics: usize, data: &[u8]) -> LogEntry {
        LogEntry {
            address: Address([4; 20]),
            topics: vec![[5; 32]; topics],
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn each_outcome_has_its_number() {
        for (code, outcome) in (0u8..).zip(Outcome::ALL) {
            assert_eq!(outcome.code(), code);
            assert_eq!(Outcome::of_code(code), Some(outcome));
        }
        assert_eq!(Outcome::of_code(Outcome::ALL.len() as u8), None);
    }

    #[test]
    fn bounds_from_both_sides() {
        let mut receipt = Receipt::plain(Outcome::Done, 21_000);
        assert_eq!(receipt.encode().len(), 12);
        receipt.output = vec![1; RECEIPT_OUTPUT_BYTES_MAX].into();
        assert_eq!(Receipt::parse(receipt.encode().into()), Ok(receipt.clone()));
        receipt.output = vec![1; RECEIPT_OUTPUT_BYTES_MAX + 1].into();
        assert!(Receipt::parse(receipt.encode().into()).is_err());

        let mut receipt = Receipt::plain(Outcome::Done, 21_000);
        receipt.logs = vec![log(LOG_TOPICS_MAX, b"data")];
        assert_eq!(Receipt::parse(receipt.encode().into()), Ok(receipt.clone()));
        receipt.logs = vec![log(LOG_TOPICS_MAX + 1, b"data")];
        assert!(Receipt::parse(receipt.encode().into()).is_err());

        receipt.logs = vec![log(0, &[])];
        let room = RECEIPT_BYTES_MAX - receipt.encoded_len() - 3;
        receipt.logs = vec![log(0, &vec![0; room])];
        assert_eq!(receipt.encoded_len(), RECEIPT_BYTES_MAX);
        assert_eq!(Receipt::parse(receipt.encode().into()), Ok(receipt.clone()));
        receipt.logs = vec![log(0, &vec![0; room + 1])];
        assert!(Receipt::parse(receipt.encode().into()).is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(receipt) = Receipt::parse(bytes.clone().into()) {
                prop_assert_eq!(receipt.encode(), bytes);
            }
        }

        #[test]
        fn round_trip(
            outcome in 0..Outcome::ALL.len(),
            created: Option<[u8; 20]>,
            output in proptest::collection::vec(any::<u8>(), 0..100),
            logs in proptest::collection::vec((0usize..5, proptest::collection::vec(any::<u8>(), 0..80)), 0..6),
        ) {
            let receipt = Receipt {
                outcome: Outcome::ALL[outcome],
                gas_used: 77,
                created: created.map(Address),
                output: output.into(),
                logs: logs.iter().map(|(topics, data)| log(*topics, data)).collect(),
            };
            let bytes = receipt.encode();
            prop_assert_eq!(bytes.len(), receipt.encoded_len());
            prop_assert_eq!(Receipt::parse(bytes.into()), Ok(receipt));
        }
    }
}

//! What became of an included transaction.
//!
//! ```text
//! offset  size  field
//!      0     1  outcome    0 = done, 1 = the sender could not pay the value
//!      1     8  gas used
//! ```

use crate::layout::{Cursor, LayoutError};

/// Size of an encoded receipt.
pub const RECEIPT_LEN: usize = 9;

/// How execution ended. Gas is paid for either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it says.
    Done,
    /// The value could not be paid after fees; nothing but the fee was taken.
    InsufficientBalance,
}

impl Outcome {
    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::InsufficientBalance => 1,
        }
    }

    /// The name shown to people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::InsufficientBalance => "insufficient_balance",
        }
    }
}

/// The receipt of one transaction. A block commits to the list of its receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// How execution ended.
    pub outcome: Outcome,
    /// Gas paid for.
    pub gas_used: u64,
}

impl Receipt {
    /// Encodes into the layout above.
    pub fn encode(&self) -> [u8; RECEIPT_LEN] {
        let mut out = [0; RECEIPT_LEN];
        out[0] = self.outcome.code();
        out[1..].copy_from_slice(&self.gas_used.to_be_bytes());
        out
    }

    /// Reads the layout above from `cursor`.
    pub fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let outcome = match cursor.u8("outcome")? {
            0 => Outcome::Done,
            1 => Outcome::InsufficientBalance,
            other => {
                return Err(LayoutError::OutOfRange {
                    field: "outcome",
                    value: other.into(),
                    min: 0,
                    max: 1,
                });
            }
        };
        Ok(Self { outcome, gas_used: cursor.u64("gas used")? })
    }
}

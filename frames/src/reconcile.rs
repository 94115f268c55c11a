//! Frames that find out in which transactions two mempools differ.
//!
//! ```text
//! SymbolsRequest    0x13  nonce (8), transactions held by the asker (4), first symbol (4), symbols wanted (4)
//! Symbols           0x14  transactions held by the answerer (4), first symbol (4), then for each symbol:
//!                         sum (8), check (4), and below index 80 count modulo 2^16 (2)
//! InventoryRequest  0x15  nonce (8)
//! Inventory         0x16  sketch ids of 8 bytes
//! MissingRequest    0x17  nonce (8), more to come (1), sketch ids of 8 bytes
//! ```
//!
//! How symbols are made and decoded: `WIRE.md`, "Mempool reconciliation".

use bytes::Bytes;
use ghost_proto::{
    layout::{Cursor, LayoutError},
    limits::{SKETCH_IDS_MAX, SYMBOLS_MAX, SYMBOLS_PER_FRAME_MAX},
};

use crate::{
    bounds::count_entries,
    writer::{Payload, PayloadError},
};

/// Symbols that carry a count: enough to estimate the size of a difference within a sixth, and one
/// datagram: 80 × 14 + 8 = 1,128 bytes.
pub const COUNTED_SYMBOLS: usize = 80;
/// Size of a sketch id.
pub const SKETCH_ID_LEN: usize = 8;
/// Size of a symbol without its count.
pub const SYMBOL_LEN: usize = 12;
/// Size of a count.
pub const COUNT_LEN: usize = 2;
/// Longest `Symbols`.
pub(crate) const SYMBOLS_BYTES_MAX: usize =
    8 + SYMBOLS_PER_FRAME_MAX * SYMBOL_LEN + COUNTED_SYMBOLS * COUNT_LEN;

const _: () = assert!(COUNTED_SYMBOLS <= SYMBOLS_PER_FRAME_MAX);

/// A transaction's name in the sketches of one connection and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SketchId(pub u64);

/// Asks for coded symbols of the answerer's mempool. From symbol 0 it opens a session; from any other it
/// goes on where the last answer of that session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymbolsRequest {
    /// Names the keys of the session, together with the connection.
    pub nonce: u64,
    /// Transactions the asker holds.
    pub count: u32,
    /// Index of the first symbol wanted.
    pub first: u32,
    /// How many: at least one, and none beyond [`SYMBOLS_MAX`].
    pub credit: u32,
}

/// A coded symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CodedSymbol {
    /// Exclusive or of the ids in it.
    pub sum: u64,
    /// Exclusive or of their checks.
    pub check: u32,
    /// How many they are, modulo 2^16; travels below [`COUNTED_SYMBOLS`] only and is 0 above.
    pub count: u16,
}

/// Coded symbols in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbols {
    /// Transactions the answerer held when the session was opened.
    pub count: u32,
    /// Index of the first symbol.
    pub first: u32,
    /// At least one, at most [`SYMBOLS_PER_FRAME_MAX`].
    pub symbols: Vec<CodedSymbol>,
}

/// Asks for all sketch ids: where the mempools differ in much, that is shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InventoryRequest {
    /// Of the session.
    pub nonce: u64,
}

/// Sketch ids of the answerer's mempool. Several such frames follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// At least one, at most [`SKETCH_IDS_MAX`].
    pub ids: Vec<SketchId>,
}

/// What the asker turned out to lack; answered with `TxAnnounce`. The last one of a session also says
/// that the asker has all else that the answerer held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MissingRequest {
    /// Of the session.
    pub nonce: u64,
    /// There is more that the asker lacks: another such request follows.
    pub more: bool,
    /// At most [`SKETCH_IDS_MAX`]; may be none.
    pub ids: Vec<SketchId>,
}

impl Payload for SymbolsRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.nonce.to_be_bytes());
        for field in [self.count, self.first, self.credit] {
            out.extend_from_slice(&field.to_be_bytes());
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let request = Self {
            nonce: cursor.u64("nonce")?,
            count: cursor.u32("held transactions")?,
            first: cursor.u32("first symbol")?,
            credit: cursor.u32("symbols wanted")?,
        };
        let max = (SYMBOLS_MAX as u64).saturating_sub(request.first.into());
        in_range("symbols wanted", request.credit.into(), 1, max)?;
        cursor.finish()?;
        Ok(request)
    }
}

impl Payload for Symbols {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.first.to_be_bytes());
        for (symbol, index) in self.symbols.iter().zip(self.first as usize..) {
            out.extend_from_slice(&symbol.sum.to_be_bytes());
            out.extend_from_slice(&symbol.check.to_be_bytes());
            if index < COUNTED_SYMBOLS {
                out.extend_from_slice(&symbol.count.to_be_bytes());
            }
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let count = cursor.u32("held transactions")?;
        let first = cursor.u32("first symbol")?;
        let counted = COUNTED_SYMBOLS.saturating_sub(first as usize);
        let mut symbols = Vec::with_capacity(cursor.remaining() / SYMBOL_LEN);
        while cursor.remaining() > 0 {
            let (sum, check) = (cursor.u64("symbol sum")?, cursor.u32("symbol check")?);
            let count = if symbols.len() < counted { cursor.u16("symbol count")? } else { 0 };
            symbols.push(CodedSymbol { sum, check, count });
        }
        let max = SYMBOLS_PER_FRAME_MAX.min(SYMBOLS_MAX.saturating_sub(first as usize));
        in_range("symbols", symbols.len() as u64, 1, max as u64)?;
        Ok(Self { count, first, symbols })
    }
}

impl Payload for InventoryRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.nonce.to_be_bytes());
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let nonce = cursor.u64("nonce")?;
        cursor.finish()?;
        Ok(Self { nonce })
    }
}

impl Payload for Inventory {
    fn encode(&self, out: &mut Vec<u8>) {
        put_ids(out, &self.ids);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        count_entries("sketch ids", &cursor, SKETCH_ID_LEN, SKETCH_IDS_MAX)?;
        Ok(Self { ids: take_ids(&mut cursor)? })
    }
}

impl Payload for MissingRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.nonce.to_be_bytes());
        out.push(self.more.into());
        put_ids(out, &self.ids);
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let mut cursor = Cursor::new(bytes);
        let nonce = cursor.u64("nonce")?;
        let more = cursor.u8("more to come")?;
        in_range("more to come", more.into(), 0, 1)?;
        if cursor.remaining() > 0 {
            count_entries("sketch ids", &cursor, SKETCH_ID_LEN, SKETCH_IDS_MAX)?;
        }
        Ok(Self { nonce, more: more == 1, ids: take_ids(&mut cursor)? })
    }
}

fn put_ids(out: &mut Vec<u8>, ids: &[SketchId]) {
    out.reserve(ids.len() * SKETCH_ID_LEN);
    ids.iter().for_each(|id| out.extend_from_slice(&id.0.to_be_bytes()));
}

fn take_ids(cursor: &mut Cursor) -> Result<Vec<SketchId>, LayoutError> {
    let count = cursor.remaining() / SKETCH_ID_LEN;
    (0..count).map(|_| cursor.u64("sketch id").map(SketchId)).collect()
}

fn in_range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), LayoutError> {
    if value < min || value > max {
        return Err(LayoutError::OutOfRange { field, value, min, max });
    }
    Ok(())
}

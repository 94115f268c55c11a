//! What happens to a book: the entries of a market's feed, and the data of its logs.
//!
//! An entry is all that one transaction did to one book, as events one after another:
//!
//! ```text
//! tag  event      varints
//! 0x01 rested     order, ticks, lots               a bid now rests
//! 0x02 rested     order, ticks, lots               an ask now rests
//! 0x03 traded     maker, taker, ticks, lots, left  the taker bought; `left` lots of the maker still rest
//! 0x04 traded     maker, taker, ticks, lots, left  the taker sold
//! 0x05 removed    order, lots, reason              what rested of it is off
//! 0x06 reduced    order, left                      fewer lots rest, in the same place
//! ```

use bytes::Bytes;

use super::{ORDER_LOTS_MAX, PRICE_TICKS_MAX, Side};
use crate::{
    ids::BlockId,
    layout::{Cursor, LayoutError, VARINT_MAX, put_varint},
};

/// Why an order is off the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Removal {
    /// Its owner took it off.
    Cancelled,
    /// Its owner put another one in its place.
    Replaced,
    /// Its owner's own incoming order would have traded with it.
    SelfTrade,
}

impl Removal {
    const ALL: [Self; 3] = [Self::Cancelled, Self::Replaced, Self::SelfTrade];

    /// The word for people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Replaced => "replaced",
            Self::SelfTrade => "self_trade",
        }
    }
}

/// One thing that happened to a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderEvent {
    /// An order rests, behind all of its price.
    Rested {
        /// Its number.
        order: u64,
        /// Its side.
        side: Side,
        /// Its price.
        ticks: u64,
        /// Its size.
        lots: u64,
    },
    /// Two orders traded, at the price of the one that rested.
    Traded {
        /// The one that rested.
        maker: u64,
        /// The one that came.
        taker: u64,
        /// What the taker did.
        side: Side,
        /// At which price.
        ticks: u64,
        /// How much.
        lots: u64,
        /// Lots of the maker that still rest; with none it is off the book.
        left: u64,
    },
    /// An order was taken off.
    Removed {
        /// Its number.
        order: u64,
        /// Lots that rested.
        lots: u64,
        /// Why.
        reason: Removal,
    },
    /// An order was made smaller, and kept its place.
    Reduced {
        /// Its number.
        order: u64,
        /// Lots that rest.
        left: u64,
    },
}

impl OrderEvent {
    /// Appends the event.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (tag, numbers): (u8, &[u64]) = match self {
            Self::Rested { order, side, ticks, lots } => (side.code(), &[*order, *ticks, *lots]),
            Self::Traded { maker, taker, side, ticks, lots, left } => {
                (2 + side.code(), &[*maker, *taker, *ticks, *lots, *left])
            }
            Self::Removed { order, lots, reason } => (5, &[*order, *lots, *reason as u64]),
            Self::Reduced { order, left } => (6, &[*order, *left]),
        };
        out.push(tag);
        numbers.iter().for_each(|number| put_varint(out, *number));
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let tag = cursor.u8("order event")?;
        let order = |cursor: &mut Cursor| cursor.varint("order", 1, VARINT_MAX);
        let ticks = |cursor: &mut Cursor| cursor.varint("ticks", 1, PRICE_TICKS_MAX);
        let lots = |cursor: &mut Cursor, min| cursor.varint("lots", min, ORDER_LOTS_MAX);
        match tag {
            1 | 2 => Ok(Self::Rested {
                side: Side::of_code(tag)?,
                order: order(cursor)?,
                ticks: ticks(cursor)?,
                lots: lots(cursor, 1)?,
            }),
            3 | 4 => Ok(Self::Traded {
                side: Side::of_code(tag - 2)?,
                maker: order(cursor)?,
                taker: order(cursor)?,
                ticks: ticks(cursor)?,
                lots: lots(cursor, 1)?,
                left: lots(cursor, 0)?,
            }),
            5 => {
                let (order, lots) = (order(cursor)?, lots(cursor, 1)?);
                let reason = cursor.varint("removal", 0, Removal::ALL.len() as u64 - 1)?;
                Ok(Self::Removed { order, lots, reason: Removal::ALL[reason as usize] })
            }
            6 => Ok(Self::Reduced { order: order(cursor)?, left: lots(cursor, 1)? }),
            other => {
                Err(LayoutError::OutOfRange { field: "order event", value: other.into(), min: 1, max: 6 })
            }
        }
    }
}

/// The entry of some events.
pub fn encode_events(events: &[OrderEvent]) -> Bytes {
    let mut out = Vec::with_capacity(16 * events.len());
    events.iter().for_each(|event| event.encode(&mut out));
    out.into()
}

/// The events of an entry.
///
/// # Errors
/// [`LayoutError`]: these bytes were never one.
pub fn decode_events(entry: &Bytes) -> Result<Vec<OrderEvent>, LayoutError> {
    let mut cursor = Cursor::new(entry.clone());
    let mut events = Vec::new();
    while cursor.remaining() > 0 {
        events.push(OrderEvent::read(&mut cursor)?);
    }
    Ok(events)
}

/// What the frames of a market's feed say about their moment.
///
/// ```text
///  0   8  height        of the block after which the book stands so
///  8  32  block         its id
/// 40   8  finalized     height of the highest final block
/// 48   8  time          when the block's slot began, in unix milliseconds
/// 56  32  book hash     over what the subscriber should have now
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookMark {
    /// Of the block after which the book stands so.
    pub height: u64,
    /// Its id.
    pub block: BlockId,
    /// Height of the highest final block.
    pub finalized: u64,
    /// When the block's slot began, in unix milliseconds.
    pub time_unix_ms: u64,
    /// Over what the subscriber should have now: see [`super::OrderBook::hash`].
    pub book_hash: [u8; 32],
}

impl BookMark {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(88);
        out.extend_from_slice(&self.height.to_be_bytes());
        out.extend_from_slice(&self.block.0);
        out.extend_from_slice(&self.finalized.to_be_bytes());
        out.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        out.extend_from_slice(&self.book_hash);
        out.into()
    }

    /// Reads one that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn parse(bytes: &Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes.clone());
        let mark = Self {
            height: cursor.u64("height")?,
            block: BlockId(cursor.array("block")?),
            finalized: cursor.u64("finalized")?,
            time_unix_ms: cursor.u64("time")?,
            book_hash: cursor.array("book hash")?,
        };
        cursor.finish()?;
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = OrderEvent> {
        let side = prop_oneof![Just(Side::Buy), Just(Side::Sell)];
        let numbers = (1..=VARINT_MAX, 1..=VARINT_MAX, 1..=PRICE_TICKS_MAX, 1..=ORDER_LOTS_MAX);
        (0..4, side, numbers, 0..=ORDER_LOTS_MAX, 0..Removal::ALL.len()).prop_map(
            |(kind, side, (order, taker, ticks, lots), left, reason)| match kind {
                0 => OrderEvent::Rested { order, side, ticks, lots },
                1 => OrderEvent::Traded { maker: order, taker, side, ticks, lots, left },
                2 => OrderEvent::Removed { order, lots, reason: Removal::ALL[reason] },
                _ => OrderEvent::Reduced { order, left: lots },
            },
        )
    }

    proptest! {
        #[test]
        fn events_round_trip(events in proptest::collection::vec(event(), 0..20)) {
            prop_assert_eq!(decode_events(&encode_events(&events)), Ok(events));
        }

        #[test]
        fn what_decodes_has_one_encoding(bytes in proptest::collection::vec(0u8..8, 0..60)) {
            let bytes = Bytes::from(bytes);
            if let Ok(events) = decode_events(&bytes) {
                prop_assert_eq!(encode_events(&events), bytes);
            }
        }
    }
}

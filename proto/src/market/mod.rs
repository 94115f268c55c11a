//! Markets: what is traded for what, in which steps, and what an order may say.
//!
//! Prices are counted in **ticks**, sizes in **lots**. One lot is `lot` base units; at a price of one tick
//! it costs `tick` quote units. So the cost of a trade is `ticks × lots × tick` quote units, a whole
//! number with nothing to round. Fees are parts per million of that cost, in quote units, rounded down.

mod book;
mod event;
mod genesis;

pub use book::{BookError, BookLevel, DepthChange, DepthView, OrderBook, RestingOrder};
pub use event::{BookMark, OrderEvent, Removal, decode_events, encode_events};
pub use genesis::{Asset, Market, Markets, NATIVE_DECIMALS, NATIVE_SYMBOL};
pub(crate) use genesis::{AssetFile, MarketFile};

use crate::{ids::Address, layout::LayoutError};

/// Highest price in ticks.
pub const PRICE_TICKS_MAX: u64 = 1 << 40;
/// Most lots of one order. With the highest price and the largest tick a cost stays below 2^120.
pub const ORDER_LOTS_MAX: u64 = 1 << 40;
/// Largest tick and lot, in units.
pub const UNITS_MAX: u64 = 1 << 40;
/// Highest fee: a tenth.
pub const FEE_PPM_MAX: u32 = 100_000;

/// Most orders that rest in one book. A node keeps a book in memory, about 200 bytes for each order: 13 MiB.
pub const BOOK_ORDERS_MAX: usize = 65_536;

/// Most resting orders that one incoming order may trade with or take off: each may change two balances.
pub const MATCHES_MAX: u32 = 256;

/// Whose logs the events of all markets are.
pub const DEX_ADDRESS: Address = Address(*b"\0\0\0\0\0\0\0\0\0\0\0ghost-dex");

/// First topic of such a log; the second is the number of the market, big-endian.
pub const ORDER_EVENTS_TOPIC: [u8; 32] = *b"ghost order events 1\0\0\0\0\0\0\0\0\0\0\0\0";

/// The second topic.
pub fn market_topic(market: u32) -> [u8; 32] {
    let mut topic = [0; 32];
    topic[28..].copy_from_slice(&market.to_be_bytes());
    topic
}

/// Which side of the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Gives quote for base.
    Buy,
    /// Gives base for quote.
    Sell,
}

impl Side {
    /// The number in a transaction.
    pub const fn code(self) -> u8 {
        match self {
            Self::Buy => 1,
            Self::Sell => 2,
        }
    }

    /// The side with a number.
    ///
    /// # Errors
    /// [`LayoutError::OutOfRange`].
    pub fn of_code(code: u8) -> Result<Self, LayoutError> {
        match code {
            1 => Ok(Self::Buy),
            2 => Ok(Self::Sell),
            other => Err(LayoutError::OutOfRange { field: "side", value: other.into(), min: 1, max: 2 }),
        }
    }

    /// Whom it trades with.
    pub const fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }

    /// The word for people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }

    /// True if an order of this side at `price` trades with one of the other side at `other`.
    pub const fn crosses(self, price: u64, other: u64) -> bool {
        match self {
            Self::Buy => price >= other,
            Self::Sell => price <= other,
        }
    }
}

/// What becomes of what does not trade at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderKind {
    /// It rests in the book.
    Limit,
    /// It is taken off: immediate or cancel.
    ImmediateOrCancel,
    /// Nothing trades unless everything does at once: fill or kill.
    FillOrKill,
    /// Nothing may trade at once: an order that would is refused.
    PostOnly,
}

impl OrderKind {
    /// All of them, by their number.
    pub const ALL: [Self; 4] = [Self::Limit, Self::ImmediateOrCancel, Self::FillOrKill, Self::PostOnly];

    /// The number in a transaction.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with a number.
    ///
    /// # Errors
    /// [`LayoutError::OutOfRange`].
    pub fn of_code(code: u8) -> Result<Self, LayoutError> {
        let max = Self::ALL.len() as u64 - 1;
        let unknown = LayoutError::OutOfRange { field: "order kind", value: code.into(), min: 0, max };
        Self::ALL.get(usize::from(code)).copied().ok_or(unknown)
    }

    /// The word for people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::ImmediateOrCancel => "ioc",
            Self::FillOrKill => "fok",
            Self::PostOnly => "post-only",
        }
    }
}

const _: () = {
    let bits = PRICE_TICKS_MAX.ilog2() + ORDER_LOTS_MAX.ilog2() + UNITS_MAX.ilog2();
    assert!(bits < 127, "a cost and its fee fit 128 bits");
    assert!((BOOK_ORDERS_MAX as u64).ilog2() + ORDER_LOTS_MAX.ilog2() < 64, "a book's lots fit 64 bits");
};

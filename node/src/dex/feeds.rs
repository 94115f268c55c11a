//! What the followers of a market are told: the core behind the service of books.
//!
//! The feed of a market is its entries, one for each transaction that changed its book, in the order of the
//! chain; number and hash of the newest are in the state, so every node has the same feed. A [`Told`] holds what
//! a feed or a view shows now, and is brought forward block by block.

use std::collections::VecDeque;

use bytes::Bytes;
use ghost_proto::{
    Address, BlockId,
    market::{
        BookMark, DEX_ADDRESS, DepthView, ORDER_EVENTS_TOPIC, OrderBook, OrderEvent, RestingOrder,
        decode_events, encode_events, market_topic,
    },
};
use ghost_protocol::feed::{Feed, Source};

use super::MarketState;
use crate::{chain::HeadView, store::StoreError};

/// Trades in the snapshot of a view of trades: one screen, and some.
pub const TRADES_KEPT: usize = 100;

/// What is shown of a market.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shows {
    /// Every order: the feed itself.
    Orders,
    /// Sizes by price.
    Depth {
        /// Prices on each side.
        levels: usize,
        /// Ticks in one row.
        group: u64,
    },
    /// Trades.
    Trades,
    /// What happens to the orders of one account.
    Own(Address),
}

/// What one transaction did to a book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookEntry {
    /// Who sent it.
    pub sender: Address,
    /// As it stands in the feed.
    pub payload: Bytes,
    /// The same, read.
    pub events: Vec<OrderEvent>,
}

/// What one block did to one book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookBlock {
    /// Height of the block.
    pub height: u64,
    /// Its id.
    pub block: BlockId,
    /// When its slot began.
    pub time_unix_ms: u64,
    /// In order.
    pub entries: Vec<BookEntry>,
}

/// Reads what the canonical block of a height did to each of `markets` markets. `None` if there is none.
///
/// # Errors
/// [`StoreError`] as everywhere.
pub fn read_block(
    view: &HeadView,
    height: u64,
    markets: usize,
) -> Result<Option<Vec<BookBlock>>, StoreError> {
    let Some(id) = view.canonical_id(height)? else { return Ok(None) };
    let Some(header) = view.header(&id)? else { return Ok(None) };
    let time_unix_ms = view.genesis().slot_start_unix_ms(header.slot);
    let empty = BookBlock { height, block: id, time_unix_ms, entries: Vec::new() };
    let mut blocks = vec![empty; markets];
    if header.tx_count == 0 {
        return Ok(Some(blocks));
    }
    let Some(body) = view.block(&id)? else { return Ok(None) };
    for (tx, receipt) in body.transactions().iter().zip(view.receipts(&header)?) {
        for log in receipt.logs.iter().filter(|log| log.address == DEX_ADDRESS) {
            let [topic, market] = log.topics[..] else { continue };
            let number = (0..markets).find(|number| market_topic(*number as u32) == market);
            let (ORDER_EVENTS_TOPIC, Some(number)) = (topic, number) else { continue };
            let events = decode_events(&log.data)
                .map_err(|error| StoreError::damaged(format!("the log of an order: {error}")))?;
            let payload = log.data.clone();
            blocks[number].entries.push(BookEntry { sender: tx.sender(), payload, events });
        }
    }
    Ok(Some(blocks))
}

#[derive(Debug, Clone)]
enum Shown {
    Orders(OrderBook),
    Depth { levels: usize, group: u64, view: DepthView },
    Trades(VecDeque<OrderEvent>),
    Own { owner: Address, book: OrderBook },
}

/// What a feed or view shows, and of which moment.
#[derive(Debug, Clone)]
pub struct Told {
    shown: Shown,
    mark: BookMark,
}

impl Told {
    /// What `shows` shows of a market. Trades of the past are not in a state: the view of them begins empty.
    pub fn new(shows: &Shows, market: &MarketState, mark: BookMark) -> Self {
        let book = market.order_book();
        let shown = match *shows {
            Shows::Orders => Shown::Orders(book),
            Shows::Depth { levels, group } => {
                Shown::Depth { levels, group, view: DepthView::of(&book, levels, group) }
            }
            Shows::Trades => Shown::Trades(VecDeque::new()),
            Shows::Own(owner) => {
                let mut own = OrderBook::default();
                for (order, it) in market.book().of_owner(&owner) {
                    // Of a sound book: each number is there once.
                    let _ = own.insert(it.side, RestingOrder { order, ticks: it.ticks, lots: it.lots });
                }
                Shown::Own { owner, book: own }
            }
        };
        Self { mark: BookMark { book_hash: hash(&shown), ..mark }, shown }
    }

    /// The whole book, if this shows it.
    pub fn book(&self) -> Option<&OrderBook> {
        match &self.shown {
            Shown::Orders(book) => Some(book),
            _ => None,
        }
    }

    /// The moment.
    pub fn mark(&self) -> &BookMark {
        &self.mark
    }

    /// Another history: shows what a state has.
    pub fn rebase(&mut self, feed: &mut Feed, market: &MarketState, mark: BookMark) {
        let shows = match &self.shown {
            Shown::Orders(_) => Shows::Orders,
            Shown::Depth { levels, group, .. } => Shows::Depth { levels: *levels, group: *group },
            Shown::Trades(_) => Shows::Trades,
            Shown::Own { owner, .. } => Shows::Own(*owner),
        };
        *self = Self::new(&shows, market, mark);
        feed.rebase(market.record().position);
    }

    /// A block more. `book` is the whole book after it. Publishes what is new, and says whether the feed itself fits.
    pub fn advance(&mut self, feed: &mut Feed, block: &BookBlock, book: &OrderBook, finalized: u64) -> bool {
        let mut fits = true;
        let events = block.entries.iter().flat_map(|entry| &entry.events);
        let mut change = Bytes::new();
        match &mut self.shown {
            Shown::Orders(own) => fits = events.map(|event| own.apply(event)).all(|applied| applied.is_ok()),
            Shown::Depth { levels, group, view } => {
                let next = DepthView::of(book, *levels, *group);
                if next != *view {
                    change = view.change_to(&next).encode();
                    *view = next;
                }
            }
            Shown::Trades(kept) => {
                let new: Vec<_> =
                    events.filter(|event| matches!(event, OrderEvent::Traded { .. })).copied().collect();
                change = encode_events(&new);
                kept.extend(new);
                kept.drain(..kept.len().saturating_sub(TRADES_KEPT));
            }
            Shown::Own { owner, book } => {
                let mut mine = Vec::new();
                for entry in &block.entries {
                    for event in &entry.events {
                        let sent = entry.sender == *owner;
                        let (concerns, applies) = match event {
                            OrderEvent::Rested { .. } => (sent, sent),
                            OrderEvent::Traded { maker, .. } => {
                                let rested = book.order(*maker).is_some();
                                (sent || rested, rested)
                            }
                            OrderEvent::Removed { order, .. } | OrderEvent::Reduced { order, .. } => {
                                let rested = book.order(*order).is_some();
                                (rested, rested)
                            }
                        };
                        fits &= !applies || book.apply(event).is_ok();
                        if concerns {
                            mine.push(*event);
                        }
                    }
                }
                change = encode_events(&mine);
            }
        }
        self.mark = BookMark {
            height: block.height,
            block: block.block,
            finalized,
            time_unix_ms: block.time_unix_ms,
            book_hash: if block.entries.is_empty() { self.mark.book_hash } else { hash(&self.shown) },
        };
        if block.entries.is_empty() {
            return fits;
        }
        let mark = self.mark.encode();
        if matches!(self.shown, Shown::Orders(_)) {
            let entries: Vec<Bytes> = block.entries.iter().map(|entry| entry.payload.clone()).collect();
            feed.publish(&entries, &mark);
        } else {
            let epoch = feed.epoch();
            let at = block.entries.iter().fold(feed.at(), |at, entry| at.after(epoch, &entry.payload));
            feed.step(at, &mark, change);
        }
        fits
    }
}

fn hash(shown: &Shown) -> [u8; 32] {
    match shown {
        Shown::Orders(book) | Shown::Own { book, .. } => book.hash(),
        Shown::Depth { view, .. } => view.hash(),
        Shown::Trades(_) => [0; 32],
    }
}

impl Source for Told {
    fn snapshot(&self) -> (Bytes, Bytes) {
        let bytes = match &self.shown {
            Shown::Orders(book) | Shown::Own { book, .. } => book.encode(),
            Shown::Depth { view, .. } => DepthView::default().change_to(view).encode(),
            Shown::Trades(kept) => encode_events(&kept.iter().copied().collect::<Vec<_>>()),
        };
        (bytes, self.mark.encode())
    }

    fn mark(&self) -> Bytes {
        self.mark.encode()
    }
}

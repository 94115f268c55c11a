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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ghost_frames::{EncodedFrame, Frame, FrameReader, Payload, StreamType, feed::SnapshotReason};
    use ghost_proto::{
        FeedPosition,
        market::{Market, OrderKind, Side},
    };
    use ghost_protocol::{
        client::{BookUpdate, LocalBook},
        feed::{Cursor, CursorLimits, FeedLimits, Next, Reader},
    };

    use super::*;
    use crate::dex::{Accounts, Balance, Command};

    const EPOCH: u64 = 1;

    /// Everybody is rich.
    struct Endless;

    impl Accounts for Endless {
        fn balance(&mut self, _: u16, _: &Address) -> Result<Balance, StoreError> {
            Ok(Balance { free: 1 << 100, locked: 1 << 100 })
        }
        fn set_balance(&mut self, _: u16, _: &Address, _: Balance) -> Result<(), StoreError> {
            Ok(())
        }
    }

    /// A market and its feed, without a chain.
    struct Stage {
        market: MarketState,
        feed: Feed,
        told: Told,
        book: OrderBook,
        height: u64,
        random: u64,
    }

    impl Stage {
        fn new() -> Self {
            let rules = Market { base: 0, quote: 1, lot: 1, tick: 1, maker_fee_ppm: 0, taker_fee_ppm: 0 };
            let origin = FeedPosition::origin(EPOCH, b"m");
            let market = MarketState::new(rules, EPOCH, origin);
            let mark = BookMark {
                height: 0,
                block: BlockId([0; 32]),
                finalized: 0,
                time_unix_ms: 0,
                book_hash: [0; 32],
            };
            let told = Told::new(&Shows::Orders, &market, mark);
            let feed = Feed::new(EPOCH, origin, FeedLimits::default());
            Self { market, feed, told, book: OrderBook::default(), height: 0, random: 1 }
        }

        fn draw(&mut self, below: u64) -> u64 {
            // Knuth's MMIX generator: only to have many different orders.
            self.random =
                self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.random >> 33) % below
        }

        /// A block of so many orders.
        fn block(&mut self, orders: usize) {
            self.height += 1;
            let mut entries = Vec::new();
            while entries.len() < orders {
                let owner = Address([self.draw(200) as u8; 20]);
                let side = if self.draw(2) == 0 { Side::Buy } else { Side::Sell };
                let (ticks, lots) = (90 + self.draw(20), 1 + self.draw(50));
                let newest = self.market.record().next_order;
                let command = match self.draw(3) {
                    0 => Command::Cancel { order: newest.saturating_sub(self.draw(20) + 1), leave: 0 },
                    _ => Command::Place { side, kind: OrderKind::Limit, ticks, lots },
                };
                let owner = match command {
                    Command::Cancel { order, .. } => {
                        self.market.book().get(order).map_or(owner, |it| it.owner)
                    }
                    _ => owner,
                };
                let Ok(prepared) = self.market.prepare(owner, &command, 256) else { continue };
                let done = self.market.settle(&prepared, &mut Endless, &Address([0; 20])).unwrap();
                if !done.entry.is_empty() {
                    entries.push(BookEntry { sender: owner, payload: done.entry, events: done.events });
                }
            }
            let block = BookBlock { height: self.height, block: BlockId([0; 32]), time_unix_ms: 0, entries };
            let events: Vec<_> = block.entries.iter().flat_map(|entry| entry.events.clone()).collect();
            events.iter().for_each(|event| self.book.apply(event).unwrap());
            assert!(self.told.advance(&mut self.feed, &block, &OrderBook::default(), 0));
        }

        /// What a subscriber gets with one turn, as frames.
        fn send(&mut self, reader: &mut Reader, bytes_max: usize) -> Vec<EncodedFrame> {
            match self.feed.next(reader, bytes_max) {
                Next::Nothing => Vec::new(),
                Next::Frames(frames) => frames,
                Next::Snapshot(notice) => {
                    let mut frames = vec![notice.to_frame()];
                    frames.extend(self.feed.snapshot(|| self.told.snapshot()));
                    frames
                }
            }
        }
    }

    /// A subscriber as programs have it, and what it was told.
    struct Subscriber {
        reader: Reader,
        cursor: Cursor,
        local: LocalBook,
        snapshots: Vec<SnapshotReason>,
        entries: u64,
    }

    impl Subscriber {
        fn new(stage: &Stage, now: Instant) -> Self {
            Self {
                reader: stage.feed.join(None).0,
                cursor: Cursor::new(None, CursorLimits::default(), now),
                local: LocalBook::default(),
                snapshots: Vec::new(),
                entries: 0,
            }
        }

        /// Takes frames. The book's hash is checked at each of them, and that the book is not crossed.
        fn take(&mut self, frames: Vec<EncodedFrame>, now: Instant) {
            for frame in frames {
                let mut reader = FrameReader::new(StreamType::Books);
                reader.push(frame.bytes());
                let frame: Frame = reader.next().unwrap().unwrap();
                let before = self.cursor.place().map_or(0, |place| place.at.seq);
                let Some(event) = self.cursor.handle(frame, now).unwrap() else { continue };
                let after = self.cursor.place().unwrap().at.seq;
                assert!(after >= before, "the sequence never goes back");
                match self.local.take(event).unwrap() {
                    BookUpdate::Snapshot { reason, .. } => self.snapshots.push(reason),
                    BookUpdate::Changed { .. } => self.entries += after - before,
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn scenario_33_a_subscriber_that_drains_ten_a_second_of_five_thousand_is_conflated_and_right() {
        let mut stage = Stage::new();
        let start = Instant::now();
        let mut fast = Subscriber::new(&stage, start);
        let mut slow = Subscriber::new(&stage, start);
        // Half a minute of virtual time: a block of 250 deltas every 50 ms, one message to the slow one every 100 ms.
        for tick in 0..600u64 {
            let now = start + Duration::from_millis(50 * tick);
            stage.block(250);
            let frames = stage.send(&mut fast.reader, usize::MAX);
            fast.take(frames, now);
            if tick % 2 == 0 {
                let frames = stage.send(&mut slow.reader, 1);
                slow.take(frames, now);
            }
            assert!(stage.feed.ring_bytes() <= FeedLimits::default().ring_bytes_max);
        }
        assert_eq!(fast.snapshots, [SnapshotReason::Begin], "the slow one costs the other nothing");
        assert_eq!(fast.cursor.place().unwrap().at, stage.feed.at());
        assert_eq!(fast.local.book(), &stage.book);
        assert_eq!(slow.snapshots[0], SnapshotReason::Begin);
        let conflated = &slow.snapshots[1..];
        assert!(conflated.len() >= 2 && conflated.iter().all(|reason| *reason == SnapshotReason::Conflated));
        assert!(slow.entries < fast.entries);
    }

    #[test]
    fn scenario_34_a_lost_frame_is_seen_with_the_next_one_and_made_good_by_resuming() {
        let mut stage = Stage::new();
        let now = Instant::now();
        let mut it = Subscriber::new(&stage, now);
        stage.block(20);
        let frames = stage.send(&mut it.reader, usize::MAX);
        it.take(frames, now);
        stage.block(20);
        drop(stage.send(&mut it.reader, usize::MAX));
        stage.block(20);
        let frame = stage.send(&mut it.reader, usize::MAX).remove(0);
        let mut reader = FrameReader::new(StreamType::Books);
        reader.push(frame.bytes());
        let event = it.cursor.handle(reader.next().unwrap().unwrap(), now).unwrap().unwrap();
        assert!(matches!(event, ghost_protocol::feed::Event::Gap { .. }), "{event:?}");
        // At this peer or at another one that has the same feed.
        let place = it.cursor.place();
        it.cursor = Cursor::new(place, CursorLimits::default(), now);
        it.reader = stage.feed.join(place).0;
        let frames = stage.send(&mut it.reader, usize::MAX);
        it.take(frames, now);
        assert_eq!((it.snapshots.len(), it.local.book()), (1, &stage.book));
        assert_eq!(it.cursor.place().unwrap().at, stage.market.record().position);
    }
}

//! Subscriptions to markets. Each feed and each view that somebody follows is kept once, whatever the number of
//! its followers ([`ghost_protocol::feed::Hub`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{Code, Frame};
use ghost_mempool_relay::pool::Pool;
use ghost_proto::{
    Action, Address, FeedPosition,
    layout::{put_var_bytes, put_varint},
    market::{BookMark, DepthView, OrderBook},
    message::{self, BookView},
};
use ghost_protocol::{
    feed::{Feed, FeedLimits, Hub, Place, Source},
    inbox::Asked,
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    chain::HeadNote,
    markets::find,
    rpc::{Access, Failure},
};
use crate::{
    chain::{BlockRef, HeadView},
    clock::Clock,
    dex::{
        MarketState,
        feeds::{BookBlock, Shows, Told, read_block},
    },
    store::StoreError,
};

/// Views of one market that are kept for their followers. One of 1,000 prices takes about 100 KiB; with its ring
/// at most 512 KiB: 32 MiB for each market, if 64 different views are followed.
const VIEWS_MAX: usize = 64;

/// What a view keeps: a screen is cheap to send anew.
const VIEW_LIMITS: FeedLimits = FeedLimits { ring_bytes_max: 256 * 1024, behind_bytes_max: 256 * 1024 };

/// Blocks read one by one to follow the head; further back, followers get a snapshot.
const BLOCKS_MAX: u64 = 256;

/// How often the mempool is looked at for those who follow what is pending.
const PENDING_EVERY: Duration = Duration::from_millis(200);

/// Orders shown as pending, at most: those with the best gas price.
const PENDING_MAX: usize = 500;

/// Orders that wait in the mempool, as they are shown.
///
/// ```text
/// for each   transaction (32), sender (20), then as in a transaction, behind its length: what it does
/// ```
#[derive(Debug, Default)]
struct Pending {
    rows: Bytes,
    mark: Bytes,
}

impl Source for Pending {
    fn snapshot(&self) -> (Bytes, Bytes) {
        (self.rows.clone(), self.mark.clone())
    }
    fn mark(&self) -> Bytes {
        self.mark.clone()
    }
}

struct Market {
    orders: Hub<Told>,
    views: HashMap<Shows, Hub<Told>>,
    pending: Option<Hub<Pending>>,
}

struct Books {
    head: BlockRef,
    markets: Vec<Market>,
    pool: Arc<Mutex<Pool>>,
    /// Distinguishes the pending views of this node's life from those of others.
    pending_epoch: u64,
}

/// Serves subscriptions to markets for as long as the node runs.
pub(crate) async fn run(
    mut requests: mpsc::Receiver<Asked>,
    mut heads: watch::Receiver<HeadNote>,
    pool: Arc<Mutex<Pool>>,
    access: Access,
    clock: Clock,
) {
    let view = heads.borrow_and_update().view.clone();
    let mut books = match Books::new(&view, pool, clock.unix_ms()) {
        Ok(books) => books,
        Err(error) => return tracing::error!(%error, "the books cannot be read; nobody can follow them"),
    };
    let mut pending = interval(PENDING_EVERY);
    pending.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = heads.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = heads.borrow_and_update().view.clone();
                if let Err(error) = books.advance(&view) {
                    return tracing::error!(%error, "the chain cannot be read; nobody can follow its books");
                }
            }
            asked = requests.recv() => {
                let Some(asked) = asked else { return };
                let view = heads.borrow().view.clone();
                // A view that begins now begins where the feed is.
                if let Err(error) = books.advance(&view) {
                    return tracing::error!(%error, "the chain cannot be read; nobody can follow its books");
                }
                match asked.frame {
                    Frame::BookRequest(request) if access.may_ask(asked.session.as_ref()) => {
                        books.subscribe(&view, &request, asked.responder);
                    }
                    Frame::BookRequest(_) => asked.responder.refuse(Code::Refused),
                    _ => asked.responder.refuse(Code::ProtocolViolation),
                }
            }
            _ = pending.tick(), if books.has_pending() => books.look_at_pool(),
        }
    }
}

fn mark_of(view: &HeadView, at: BlockRef) -> BookMark {
    let genesis = view.genesis();
    BookMark {
        height: at.height,
        block: at.id,
        finalized: view.finalized().height,
        time_unix_ms: at.slot.map_or(genesis.time_unix_ms, |slot| genesis.slot_start_unix_ms(slot)),
        book_hash: [0; 32],
    }
}

impl Books {
    /// Begins at the oldest state that is at hand, so that the rings reach back as far as can be.
    fn new(view: &HeadView, pool: Arc<Mutex<Pool>>, now_unix_ms: u64) -> Result<Self, StoreError> {
        let (head, dex) = view.oldest_dex();
        let epoch = view.genesis_id().epoch();
        let mark = mark_of(view, head);
        let markets = dex.markets().map(|market| {
            let feed = Feed::new(epoch, market.record().position, FeedLimits::default());
            let orders = Hub::new(feed, Told::new(&Shows::Orders, market, mark));
            Market { orders, views: HashMap::new(), pending: None }
        });
        let mut books = Self { head, markets: markets.collect(), pool, pending_epoch: now_unix_ms };
        books.advance(view)?;
        Ok(books)
    }

    /// Goes to the head of a view.
    fn advance(&mut self, view: &HeadView) -> Result<(), StoreError> {
        for market in &mut self.markets {
            market.views.retain(|_, hub| hub.subscribers() > 0);
            market.pending.take_if(|hub| hub.subscribers() == 0);
        }
        let to = view.head();
        if self.markets.is_empty() || to.id == self.head.id {
            return Ok(());
        }
        let extends = view.canonical_id(self.head.height)? == Some(self.head.id)
            && to.height - self.head.height <= BLOCKS_MAX;
        let last = if extends { to.height } else { self.head.height };
        for height in self.head.height + 1..=last {
            let Some(blocks) = read_block(view, height, self.markets.len())? else { break };
            for (market, block) in self.markets.iter_mut().zip(&blocks) {
                market.advance(block, view.finalized().height);
            }
        }
        self.head = to;
        for (market, state) in self.markets.iter_mut().zip(view.dex().markets()) {
            // The state has the last word. Where the positions are the same, so is all that led there, even if
            // other blocks did; otherwise the book is told anew.
            if market.orders.read(|feed, _| feed.at()) != state.record().position {
                market.rebase(state, mark_of(view, to));
            }
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        view: &HeadView,
        request: &message::BookRequest,
        responder: ghost_protocol::request::Responder,
    ) {
        let (from, wanted) = match wanted(view, request) {
            Ok(wanted) => wanted,
            Err(failure) => {
                let frame = failure.frame();
                // An asker that is gone wants no answer.
                tokio::spawn(async move { responder.answer(&frame).await });
                return;
            }
        };
        let Some(market) = self.markets.get_mut(wanted.number as usize) else {
            return responder.refuse(Code::Internal);
        };
        let Some(shows) = wanted.shows else {
            let epoch = self.pending_epoch;
            let hub = market.pending.get_or_insert_with(|| {
                let at = FeedPosition::origin(epoch, b"pending");
                Hub::new(Feed::new(epoch, at, VIEW_LIMITS), Pending::default())
            });
            let serving = hub.serve(from, responder);
            self.look_at_pool();
            tokio::spawn(serving);
            return;
        };
        let hub = if shows == Shows::Orders {
            market.orders.clone()
        } else if let Some(hub) = market.views.get(&shows) {
            hub.clone()
        } else if market.views.len() >= VIEWS_MAX {
            return responder.refuse(Code::Busy);
        } else {
            // The view is of the head that the feed has reached.
            let (epoch, at) = market.orders.read(|feed, _| (feed.epoch(), feed.at()));
            let told = Told::new(&shows, wanted.market, mark_of(view, self.head));
            let hub = Hub::new(Feed::new(epoch, at, VIEW_LIMITS), told);
            market.views.insert(shows, hub.clone());
            hub
        };
        tokio::spawn(hub.serve(from, responder));
    }

    fn has_pending(&self) -> bool {
        self.markets.iter().any(|market| market.pending.is_some())
    }

    /// Tells those who follow what is pending, if it has changed.
    fn look_at_pool(&mut self) {
        let mut rows: Vec<Vec<u8>> = vec![Vec::new(); self.markets.len()];
        {
            let pool = self.pool.lock().expect("no code panics while it holds the pool");
            for pending in pool.pending(PENDING_MAX) {
                let tx = pending.tx;
                let (Action::Place { market, .. }
                | Action::Cancel { market, .. }
                | Action::Replace { market, .. }) = &tx.body().action
                else {
                    continue;
                };
                let Some(rows) = rows.get_mut(*market as usize) else { continue };
                rows.extend_from_slice(&tx.id().0);
                rows.extend_from_slice(&tx.sender().0);
                put_var_bytes(rows, &what(&tx.body().action));
            }
        }
        for (market, rows) in self.markets.iter().zip(rows) {
            let Some(hub) = &market.pending else { continue };
            if hub.read(|_, shown| shown.rows == rows) {
                continue;
            }
            hub.publish(|feed, shown| {
                let at = feed.at().after(feed.epoch(), &rows);
                shown.rows = rows.into();
                feed.step(at, &Bytes::new(), shown.rows.clone());
            });
        }
    }
}

/// What an order says: kind of action, then its numbers as varints.
fn what(action: &Action) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    let (tag, numbers): (u8, [u64; 3]) = match *action {
        Action::Place { side, kind, ticks, lots, .. } => {
            out.extend_from_slice(&[side.code(), kind.code()]);
            (4, [ticks, lots, 0])
        }
        Action::Cancel { order, leave, .. } => (5, [order, leave, 0]),
        Action::Replace { order, ticks, lots, .. } => (6, [order, ticks, lots]),
        _ => (0, [0; 3]),
    };
    out.insert(0, tag);
    numbers.iter().for_each(|number| put_varint(&mut out, *number));
    out
}

impl Market {
    fn advance(&mut self, block: &BookBlock, finalized: u64) {
        let followed = !self.views.is_empty();
        let book = self.orders.publish_if(!block.entries.is_empty(), |feed, told| {
            // Whether it fits shows in the position, which is compared with the state's.
            told.advance(feed, block, &OrderBook::default(), finalized);
            told.book().filter(|_| followed).cloned()
        });
        let Some(book) = book else { return };
        for hub in self.views.values() {
            hub.publish_if(!block.entries.is_empty(), |feed, told| {
                told.advance(feed, block, &book, finalized)
            });
        }
    }

    fn rebase(&mut self, state: &MarketState, mark: BookMark) {
        for hub in self.views.values().chain([&self.orders]) {
            hub.publish(|feed, told| told.rebase(feed, state, mark));
        }
    }
}

struct Wanted<'v> {
    number: u32,
    market: &'v MarketState,
    /// `None`: what is pending.
    shows: Option<Shows>,
}

fn wanted<'v>(
    view: &'v HeadView,
    request: &message::BookRequest,
) -> Result<(Option<Place>, Wanted<'v>), Failure> {
    let (number, market) = find(view, &request.market)?;
    let book_view = BookView::try_from(request.view)
        .map_err(|_| Failure::invalid(format!("view {} is not known here", request.view)))?;
    let shows = match book_view {
        BookView::BookOrders => Some(Shows::Orders),
        BookView::BookDepth => {
            let levels = request.levels as usize;
            if !(1..=DepthView::LEVELS_MAX).contains(&levels) {
                return Err(Failure::invalid(format!("name 1 to {} levels", DepthView::LEVELS_MAX)));
            }
            Some(Shows::Depth { levels, group: request.grouping_ticks.max(1) })
        }
        BookView::BookBest => Some(Shows::Depth { levels: 1, group: 1 }),
        BookView::BookTrades => Some(Shows::Trades),
        BookView::BookOwn => {
            let owner = Address::try_from(request.owner.as_ref());
            Some(Shows::Own(owner.map_err(|error| Failure::invalid(error.to_string()))?))
        }
        BookView::BookPending => None,
    };
    let from = match &request.resume {
        None => None,
        Some(place) => {
            let hash = place.hash.as_ref().try_into();
            let hash = hash.map_err(|_| Failure::invalid("a position has a hash of 32 bytes"))?;
            Some(Place { epoch: place.epoch, at: FeedPosition { seq: place.seq, hash } })
        }
    };
    Ok((from, Wanted { number, market, shows }))
}

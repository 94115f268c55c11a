//! Following a market, with a book of one's own that is checked, and going on at another node.

use std::time::Duration;

use bytes::Bytes;
use ghost_frames::{Payload, StreamType, feed::SnapshotReason};
use ghost_proto::{
    market::{BookError, BookMark, OrderBook, OrderEvent, decode_events},
    message,
};
use tokio::time::sleep;

use super::{CallError, Client, Pool};
use crate::{
    feed::{CursorLimits, Event, FeedError, FeedStream, Place},
    request::RequestError,
};

/// Pause before another node is tried, after all have failed in turn.
const PAUSE: Duration = Duration::from_millis(100);

/// What of a market is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookQuery {
    /// Its name: `BASE/QUOTE`.
    pub market: String,
    /// What is shown of it.
    pub view: message::BookView,
    /// Of a view by depth: prices on each side.
    pub levels: u32,
    /// Of a view by depth: ticks in one row.
    pub grouping_ticks: u64,
    /// Of a view of own orders: whose.
    pub owner: Bytes,
}

impl BookQuery {
    /// The market itself, order by order.
    pub fn orders(market: impl Into<String>) -> Self {
        Self {
            market: market.into(),
            view: message::BookView::BookOrders,
            levels: 0,
            grouping_ticks: 0,
            owner: Bytes::new(),
        }
    }

    /// Another view of it.
    pub fn view(market: impl Into<String>, view: message::BookView) -> Self {
        Self { view, ..Self::orders(market) }
    }
}

/// What a [`Book`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookUpdate {
    /// The book is another one: it was asked for, or there were too many changes to tell.
    Snapshot {
        /// Why.
        reason: SnapshotReason,
        /// Entries that were not told one by one, if they were counted.
        skipped: u64,
        /// Of which moment.
        mark: BookMark,
    },
    /// These things happened, in order, and the book shows them.
    Changed {
        /// What happened.
        events: Vec<OrderEvent>,
        /// Of which moment.
        mark: BookMark,
    },
    /// Nothing happened for so long; the node lives.
    Idle {
        /// Of the newest entry.
        age: Duration,
        /// Of which moment.
        mark: BookMark,
    },
    /// The node has been silent for too long: the book may be old.
    Stale {
        /// Of the newest that is known, at least.
        age: Duration,
    },
    /// The subscription broke, for this reason, and goes on somewhere else from where it was.
    Moved {
        /// Why.
        why: String,
    },
}

/// A book as its follower keeps it: the core of [`Book`].
#[derive(Debug, Clone, Default)]
pub struct LocalBook {
    book: OrderBook,
}

/// Why what a node tells is not taken. Go to another one, without a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookFault {
    /// It does not fit.
    #[error(transparent)]
    Book(#[from] BookError),
    /// It fits, and gives another book than the node says.
    #[error("the book's hash is not the one that the node gives")]
    Hash,
}

impl LocalBook {
    /// The book.
    pub fn book(&self) -> &OrderBook {
        &self.book
    }

    /// Takes an event of the feed of a market, and checks the book against its hash, and that it is not crossed.
    ///
    /// # Errors
    /// [`BookFault`]: the book is to be thrown away.
    pub fn take(&mut self, event: Event) -> Result<BookUpdate, BookFault> {
        let layout = BookError::Layout;
        match event {
            Event::Snapshot { reason, skipped, mark, bytes, .. } => {
                let mark = BookMark::parse(&mark).map_err(layout)?;
                self.book = OrderBook::decode(bytes)?;
                self.check(&mark)?;
                Ok(BookUpdate::Snapshot { reason, skipped, mark })
            }
            Event::Entries { mark, entries, .. } => {
                let mark = BookMark::parse(&mark).map_err(layout)?;
                let mut events = Vec::new();
                for entry in &entries {
                    for event in decode_events(entry).map_err(layout)? {
                        self.book.apply(&event)?;
                        events.push(event);
                    }
                    self.book.check()?;
                }
                self.check(&mark)?;
                Ok(BookUpdate::Changed { events, mark })
            }
            Event::Step { .. } => Err(BookFault::Hash),
            Event::Idle { age, mark } => {
                Ok(BookUpdate::Idle { age, mark: BookMark::parse(&mark).map_err(layout)? })
            }
            Event::Stale { age } => Ok(BookUpdate::Stale { age }),
            Event::Gap { expected, found } => Ok(BookUpdate::Moved {
                why: format!("entries {} to {} were lost", expected.seq + 1, found.seq),
            }),
            Event::Diverged { found, .. } => {
                Ok(BookUpdate::Moved { why: format!("the node's history differs at entry {}", found.seq) })
            }
        }
    }

    fn check(&self, mark: &BookMark) -> Result<(), BookFault> {
        if self.book.hash() == mark.book_hash { Ok(()) } else { Err(BookFault::Hash) }
    }
}

impl Client {
    /// Follows a market or a view of it; [`FeedStream::place`] is where to go on from.
    pub async fn follow_market(
        &self,
        query: &BookQuery,
        from: Option<Place>,
        limits: CursorLimits,
    ) -> Result<FeedStream, CallError> {
        let resume = from.map(|place| message::FeedPlace {
            epoch: place.epoch,
            seq: place.at.seq,
            hash: Bytes::copy_from_slice(&place.at.hash),
        });
        let request = message::BookRequest {
            market: query.market.clone(),
            view: query.view.into(),
            levels: query.levels,
            grouping_ticks: query.grouping_ticks,
            owner: query.owner.clone(),
            resume,
        };
        let answer = self.session().request(StreamType::Books, &request.to_frame(), self.timeout).await?;
        Ok(FeedStream::new(answer, from, limits))
    }

    /// A book of a market, kept and checked at this node.
    pub fn book(&self, market: &str) -> Book {
        Book::of(Nodes::One(self.clone()), market)
    }
}

impl Pool {
    /// A book of a market, kept and checked at whichever node is best.
    pub fn book(&self, market: &str) -> Book {
        Book::of(Nodes::Pool(self.clone()), market)
    }
}

#[derive(Debug)]
enum Nodes {
    One(Client),
    Pool(Pool),
}

/// A book that is kept for as long as anybody asks for [`Self::next`]. When its node fails, falls silent or tells
/// what cannot be, it goes on at another one of the pool from where it was.
///
/// ```no_run
/// # async fn example(pool: ghost_protocol::client::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// use ghost_proto::market::Side;
///
/// let mut book = pool.book("GHOST/USD");
/// loop {
///     let update = book.next().await?;
///     println!("{update:?}: bid {:?}, ask {:?}", book.book().best(Side::Buy), book.book().best(Side::Sell));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Book {
    nodes: Nodes,
    query: BookQuery,
    limits: CursorLimits,
    local: LocalBook,
    place: Option<Place>,
    stream: Option<(usize, Client, FeedStream)>,
}

impl Book {
    fn of(nodes: Nodes, market: &str) -> Self {
        Self {
            nodes,
            query: BookQuery::orders(market),
            limits: CursorLimits::default(),
            local: LocalBook::default(),
            place: None,
            stream: None,
        }
    }

    /// The book as of the newest update. Reading it costs nothing.
    pub fn book(&self) -> &OrderBook {
        &self.local.book
    }

    /// Where it is in the market's feed. The same at every node.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// The node that it is followed at now.
    pub fn peer(&self) -> Option<ghost_proto::PeerId> {
        self.stream.as_ref().map(|(_, client, _)| client.peer())
    }

    /// What happened next. Waits as long as no node can be reached. May be dropped and called again.
    ///
    /// # Errors
    /// [`CallError`]: every node would say the same (there is no such market), or the only node is gone.
    pub async fn next(&mut self) -> Result<BookUpdate, CallError> {
        let (index, _, stream) = match &mut self.stream {
            Some(open) => open,
            None => {
                let open = self.open().await?;
                self.stream.insert(open)
            }
        };
        let index = *index;
        let why = match stream.next().await {
            Ok(event) => match self.local.take(event) {
                Ok(BookUpdate::Moved { why }) => why,
                Ok(update) => {
                    self.place = stream.place();
                    if matches!(update, BookUpdate::Stale { .. }) {
                        self.leave(index);
                    }
                    return Ok(update);
                }
                Err(fault) => {
                    self.place = None;
                    fault.to_string()
                }
            },
            Err(FeedError::Failed(why)) => {
                if matches!(self.nodes, Nodes::One(_)) {
                    return Err(CallError::Invalid(why));
                }
                if self.place.is_none() {
                    return Err(CallError::Invalid(why));
                }
                why
            }
            Err(error) => error.to_string(),
        };
        self.leave(index);
        Ok(BookUpdate::Moved { why })
    }

    fn leave(&mut self, index: usize) {
        self.stream = None;
        if let Nodes::Pool(pool) = &self.nodes {
            pool.rest(index);
        }
    }

    async fn open(&self) -> Result<(usize, Client, FeedStream), CallError> {
        let pool = match &self.nodes {
            Nodes::One(client) => {
                let stream = client.follow_market(&self.query, self.place, self.limits).await?;
                return Ok((0, client.clone(), stream));
            }
            Nodes::Pool(pool) => pool,
        };
        loop {
            for index in pool.order() {
                let Ok(client) = pool.client_of(index).await else { continue };
                match client.follow_market(&self.query, self.place, self.limits).await {
                    Ok(stream) => return Ok((index, client, stream)),
                    Err(_) => pool.rest(index),
                }
            }
            if pool.is_empty() {
                let why = "the pool has no node".into();
                return Err(CallError::Request(RequestError::Disconnected(why)));
            }
            sleep(PAUSE).await;
        }
    }
}

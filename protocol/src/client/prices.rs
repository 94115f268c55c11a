//! Prices: reading, proving, following and publishing them.
//!
//! Nothing here trusts the node with a price: what it sends are the publishers' own reports, whose
//! signatures are checked and from which the price is computed on this side. [`PriceRules`] says by which feeds:
//! those of a genesis that the program has, or, where it has none, those that the node names.
//!
//! [`Client::price_ticks`] is for who wants the newest as soon as it is there; [`Client::follow_price`] for who
//! wants every report, numbered and chained; [`Pool::follow_price`] goes on at another node when one fails.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{Frame, Payload, StreamType, feed::SnapshotReason, price::PriceTick};
use ghost_proto::{
    BlockId, FeedSpec, FinalityCertificate, Genesis, GenesisId, Header, Quote, Receipt, Report,
    layout::LayoutError,
    merkle, message,
    price::{
        Aggregate, CommittedPrice, EQUIVOCATION_LEN, Equivocation, ORACLE_ADDRESS, PRICE_UPDATED_TOPIC,
        QuoteError, REPORT_LEN, feed_key,
    },
};
use tokio::sync::mpsc;

use super::{CallError, Client, Pool, contract::nonsense, unexpected};
use crate::{
    feed::{CursorLimits, Event, FeedError, FeedStream, Place},
    request::{Answer, RequestError},
    session::Session,
};

/// Ticks that wait for a subscriber before the oldest are dropped: it is the newest that counts.
const TICKS_MAX: usize = 256;

/// By which feeds prices are checked.
#[derive(Debug, Clone)]
pub struct PriceRules {
    genesis: GenesisId,
    feeds: Vec<(u16, FeedSpec)>,
    /// Newest report whose signature was checked, of each publisher.
    checked: HashMap<(u16, u16), [u8; REPORT_LEN]>,
}

impl PriceRules {
    /// Those of a chain.
    pub fn of(genesis: &Genesis) -> Self {
        let feeds = genesis.feeds.iter().enumerate().map(|(index, spec)| (index as u16, spec.clone()));
        Self { genesis: genesis.id(), feeds: feeds.collect(), checked: HashMap::new() }
    }

    /// A feed's number and declaration.
    pub fn feed(&self, name: &str) -> Option<(u16, &FeedSpec)> {
        self.feeds.iter().find(|(_, spec)| spec.name == name).map(|(index, spec)| (*index, spec))
    }

    /// The declaration of a feed by its number.
    pub fn spec(&self, feed: u16) -> Option<&FeedSpec> {
        self.feeds.iter().find(|(index, _)| *index == feed).map(|(_, spec)| spec)
    }

    fn check_evidence(&self, evidence: &Equivocation) -> Result<(), QuoteError> {
        let (feed, publisher) = (evidence.feed(), evidence.publisher());
        let spec = self.spec(feed).ok_or(QuoteError::UnknownFeed(feed))?;
        let key = spec.publishers.get(usize::from(publisher));
        let key = key.ok_or(QuoteError::UnknownPublisher { feed, publisher })?;
        Ok(evidence.verify(&self.genesis, key)?)
    }

    /// Checks the signatures in a quote, those that were not checked before, and computes its price.
    ///
    /// # Errors
    /// [`QuoteError`]: the quote is no price. Whoever sent it made it up, or is broken.
    pub fn price(&mut self, quote: &Quote) -> Result<Aggregate, QuoteError> {
        let (index, spec) = self
            .feeds
            .iter()
            .find(|(index, _)| *index == quote.feed)
            .ok_or(QuoteError::UnknownFeed(quote.feed))?;
        for report in &quote.reports {
            let place = (*index, report.publisher);
            if self.checked.get(&place) == Some(report.bytes()) {
                continue;
            }
            let key = spec.publishers.get(usize::from(report.publisher));
            let key =
                key.ok_or(QuoteError::UnknownPublisher { feed: *index, publisher: report.publisher })?;
            report.verify(&self.genesis, key)?;
            self.checked.insert(place, *report.bytes());
        }
        Ok(quote.aggregate(spec)?)
    }
}

/// What a node knows of a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceRow {
    /// Its number.
    pub feed: u16,
    /// As the genesis declares it, says the node.
    pub spec: FeedSpec,
    /// The newest reports that made a price. Not checked: see [`PriceRules::price`].
    pub quote: Option<Quote>,
    /// What the chain has, says the node: see [`Client::price_proof`].
    pub committed: Option<CommittedPrice>,
    /// Bit *n*: publisher *n* signed two prices for one sequence, says the node.
    pub flagged: u16,
}

/// What a node knows of prices.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceList {
    /// The node's clock.
    pub time_unix_ms: u64,
    /// In the order of the genesis.
    pub prices: Vec<PriceRow>,
}

fn broken(error: LayoutError) -> CallError {
    CallError::Request(RequestError::Unexpected(error.to_string()))
}

impl PriceRow {
    fn read(row: message::PriceRow) -> Result<Self, CallError> {
        let quote = match row.quote.is_empty() {
            true => None,
            false => Some(Quote::parse(row.quote).map_err(broken)?),
        };
        let committed = match row.committed.is_empty() {
            true => None,
            false => Some(CommittedPrice::parse(row.committed).map_err(broken)?),
        };
        Ok(Self {
            feed: u16::try_from(row.feed).map_err(|_| nonsense("a feed's number"))?,
            spec: FeedSpec::parse(row.spec).map_err(broken)?,
            quote,
            committed,
            flagged: row.flagged as u16,
        })
    }
}

/// A committed price that was proven by nothing but the genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenPrice {
    /// In units of 10^exponent.
    pub price: i64,
    /// How far off it may be, in the same units.
    pub confidence: u64,
    /// Of the feed.
    pub exponent: i8,
    /// A quorum of publishers saw it then or later, in unix milliseconds.
    pub time_unix_ms: u64,
    /// The block that committed it.
    pub height: u64,
    /// Its id.
    pub block: BlockId,
    /// Two thirds of the authorities signed that this block stays. If not, only its proposer did.
    pub finalized: bool,
}

fn prove(genesis: &Genesis, feed: &str, proof: &message::PriceProof) -> Result<ProvenPrice, CallError> {
    let id = genesis.id();
    let headers =
        proof.headers.iter().cloned().map(Header::parse).collect::<Result<Vec<_>, _>>().map_err(broken)?;
    let first = headers.first().ok_or_else(|| nonsense("a proof without a header"))?;
    let proposer = genesis.authorities.proposer_of(first.slot);
    let key = genesis.authorities.key(proposer).filter(|_| proposer == first.proposer);
    key.and_then(|key| first.verify(&id, key).ok()).ok_or_else(|| nonsense("a header nobody signed"))?;
    if headers.windows(2).any(|pair| pair[1].parent != pair[0].id() || pair[1].height != pair[0].height + 1) {
        return Err(nonsense("headers that do not follow each other"));
    }
    let path: Option<Vec<merkle::Root>> =
        proof.path.iter().map(|hash| hash.as_ref().try_into().ok()).collect();
    let path = path.ok_or_else(|| nonsense("a hash"))?;
    let (index, count) = (proof.index as usize, first.tx_count as usize);
    if !merkle::verify(&proof.receipt, index, count, &path, &first.receipt_root) {
        return Err(nonsense("a receipt that is not in the block"));
    }
    let receipt = Receipt::parse(proof.receipt.clone()).map_err(broken)?;
    let key = feed_key(feed).ok_or_else(|| CallError::Invalid(format!("{feed:?} is no name of a feed")))?;
    let log = receipt
        .logs
        .iter()
        .find(|log| log.address == ORACLE_ADDRESS && log.topics == [PRICE_UPDATED_TOPIC, key])
        .filter(|log| log.data.len() == 128)
        .ok_or_else(|| nonsense("a receipt without the price"))?;
    let finalized = !proof.certificate.is_empty();
    if finalized {
        let certificate = FinalityCertificate::parse(proof.certificate.clone()).map_err(broken)?;
        certificate
            .verify(&id, &genesis.authorities, rand::rng())
            .map_err(|_| nonsense("a certificate that proves nothing"))?;
        let last = &headers[headers.len() - 1];
        if certificate.finalizes().is_none_or(|point| point.id != last.id()) {
            return Err(nonsense("a certificate for another block"));
        }
    }
    let word = |at: usize| log.data[at + 24..at + 32].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    Ok(ProvenPrice {
        price: word(0) as i64,
        confidence: word(32),
        exponent: word(64) as i8,
        time_unix_ms: word(96),
        height: first.height,
        block: first.id(),
        finalized,
    })
}

impl Client {
    /// What the node knows of these feeds, or of all if none is named.
    pub async fn prices(&self, feeds: &[&str]) -> Result<PriceList, CallError> {
        let feeds = feeds.iter().map(ToString::to_string).collect();
        let answer = self.request(&message::PricesRequest { feeds }.to_frame()).await?;
        let answer = expect_answer!(answer, PricesAnswer)?;
        let prices = answer.prices.into_iter().map(PriceRow::read).collect::<Result<_, _>>()?;
        Ok(PriceList { time_unix_ms: answer.time_unix_ms, prices })
    }

    /// By which feeds to check prices, if the program has no genesis: those the node names.
    pub fn price_rules(&self, list: &PriceList) -> Result<PriceRules, CallError> {
        let genesis = self.session().hello().genesis.ok_or_else(|| nonsense("a node without a chain"))?;
        let feeds = list.prices.iter().map(|row| (row.feed, row.spec.clone())).collect();
        Ok(PriceRules { genesis, feeds, checked: HashMap::new() })
    }

    /// The price of a feed that the chain committed to, proven: a Merkle path from its receipt to a header, and
    /// from there to a block that two thirds of the authorities signed as final. `None` if the chain has none yet.
    ///
    /// # Errors
    /// [`CallError`]; a proof that proves nothing is the node's fault.
    pub async fn price_proof(&self, genesis: &Genesis, feed: &str) -> Result<Option<ProvenPrice>, CallError> {
        let answer = self.request(&message::PriceProofRequest { feed: feed.into() }.to_frame()).await;
        match super::found(answer)? {
            None => Ok(None),
            Some(frame) => prove(genesis, feed, &expect_answer!(frame, PriceProof)?).map(Some),
        }
    }

    /// Hands reports to the node, which relays them. Says of each why it was not taken, if so.
    pub async fn publish_prices(&self, reports: &[Report]) -> Result<Vec<Result<(), String>>, CallError> {
        let bytes = reports.iter().map(|report| Bytes::copy_from_slice(report.bytes())).collect();
        let answer = self.request(&message::PublishRequest { reports: bytes }.to_frame()).await?;
        let answer = expect_answer!(answer, PublishAnswer)?;
        if answer.results.len() != reports.len() {
            return Err(nonsense("an answer about other reports"));
        }
        let results = answer.results.into_iter();
        Ok(results.map(|result| if result.taken { Ok(()) } else { Err(result.reason) }).collect())
    }

    /// The newest price of some feeds at a fixed rate (1, 50, 200 or 1,000 ms), in datagrams: the quickest way
    /// there is. What is lost is made up for by the next; what did not change comes once a second.
    pub async fn price_ticks(&self, feeds: &[&str], rate_ms: u32) -> Result<PriceTicks, CallError> {
        let (token, ticks, guard) = self.ticks.register(self.session());
        let feeds = feeds.iter().map(ToString::to_string).collect();
        let request = message::PriceTicksRequest { feeds, rate_ms, token }.to_frame();
        let mut answer = self.session().request(StreamType::Prices, &request, self.timeout).await?;
        match answer.next().await? {
            Some(Frame::PriceTicksAnswer(_)) => {}
            Some(Frame::RpcFailure(failure)) => return Err(failure.into()),
            Some(other) => return Err(unexpected(&other)),
            None => return Err(nonsense("an answer that is empty")),
        }
        Ok(PriceTicks { answer, ticks, newest: HashMap::new(), _guard: guard, _client: self.clone() })
    }
}

/// A subscription to ticks. It ends when it is dropped.
#[derive(Debug)]
pub struct PriceTicks {
    answer: Answer,
    ticks: mpsc::Receiver<PriceTick>,
    /// Number of the newest tick of each feed.
    newest: HashMap<u16, u64>,
    _guard: Registered,
    _client: Client,
}

impl PriceTicks {
    /// The next tick; one that comes after a newer one of its feed is left out. `None` when the node ends
    /// it. Not checked: see [`PriceRules::price`]. May be dropped and called again.
    ///
    /// # Errors
    /// [`CallError`]: it is over.
    pub async fn next(&mut self) -> Result<Option<Quote>, CallError> {
        loop {
            let tick = tokio::select! {
                biased;
                tick = self.ticks.recv() => tick,
                frame = self.answer.next_whenever() => match frame? {
                    None => None,
                    Some(Frame::RpcFailure(failure)) => return Err(failure.into()),
                    Some(other) => return Err(unexpected(&other)),
                },
            };
            let Some(tick) = tick else { return Ok(None) };
            let newest = self.newest.entry(tick.quote.feed).or_default();
            if tick.number > *newest {
                *newest = tick.number;
                return Ok(Some(tick.quote));
            }
        }
    }
}

type Routes = Arc<Mutex<HashMap<u64, mpsc::Sender<PriceTick>>>>;

/// Hands out the datagrams of a connection, by token.
#[derive(Debug, Clone, Default)]
pub(super) struct TickRouter {
    routes: Routes,
    reading: Arc<std::sync::OnceLock<()>>,
}

/// Takes a subscription's route away when it is dropped.
#[derive(Debug)]
struct Registered {
    routes: Weak<Mutex<HashMap<u64, mpsc::Sender<PriceTick>>>>,
    token: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(routes) = self.routes.upgrade() {
            routes.lock().expect("no code panics while it holds the routes").remove(&self.token);
        }
    }
}

impl TickRouter {
    fn register(&self, session: &Session) -> (u64, mpsc::Receiver<PriceTick>, Registered) {
        let token = rand::random();
        let (sender, receiver) = mpsc::channel(TICKS_MAX);
        self.routes.lock().expect("no code panics while it holds the routes").insert(token, sender);
        self.reading.get_or_init(|| {
            tokio::spawn(read(session.clone(), self.routes.clone()));
        });
        (token, receiver, Registered { routes: Arc::downgrade(&self.routes), token })
    }
}

/// Reads datagrams as long as the connection lives.
async fn read(session: Session, routes: Routes) {
    while let Ok(datagram) = session.link().read_datagram().await {
        let Ok(tick) = PriceTick::parse(datagram) else { continue };
        let route = {
            let routes = routes.lock().expect("no code panics while it holds the routes");
            routes.get(&tick.token).cloned()
        };
        // A subscriber that is behind by so many misses some, as it would on the way.
        if let Some(route) = route {
            let _ = route.try_send(tick);
        }
    }
    routes.lock().expect("no code panics while it holds the routes").clear();
}

/// What a subscriber to every report of a feed is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PriceEvent {
    /// It begins, or begins anew: what was missed is not told one by one.
    Begun {
        /// Why.
        reason: SnapshotReason,
        /// Reports that were missed, if they were counted.
        skipped: u64,
    },
    /// A report came, and this is the price now: the same as before if the report changed nothing.
    Price {
        /// The price.
        price: Aggregate,
        /// The reports that make it.
        quote: Quote,
    },
    /// A publisher signed two prices for one sequence. It counts no more.
    Flagged(u16),
    /// The newest price is older than the feed's maximum age. Told once until a newer one comes.
    Stale {
        /// How old it is, as the node's clock counts.
        age: Duration,
    },
}

/// Longest wait for a word from the node: it says something every second.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// What a subscriber knows of a feed.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The newest of each publisher, ascending.
    reports: Vec<Report>,
    flagged: u16,
    price: Option<Aggregate>,
    stale: bool,
}

/// Where a subscription is and what it knows: to go on from later. At the same node nothing is missed,
/// if it was not long; at another one it begins with a snapshot.
#[derive(Debug, Clone)]
pub struct PriceCursor {
    place: Place,
    known: Known,
}

/// Every report of a feed, in the order in which one node took them, checked and made into prices.
#[derive(Debug)]
pub struct PriceStream {
    stream: FeedStream,
    rules: PriceRules,
    feed: u16,
    known: Known,
    /// Of what was received and not told yet.
    events: std::collections::VecDeque<PriceEvent>,
    /// Keeps the connection open.
    _client: Client,
}

impl PriceStream {
    /// Where it is; `None` before it began, and while events wait that were not told.
    pub fn cursor(&self) -> Option<PriceCursor> {
        let place = self.stream.place().filter(|_| self.events.is_empty())?;
        Some(PriceCursor { place, known: self.known.clone() })
    }

    /// The newest price, however old.
    pub fn price(&self) -> Option<&Aggregate> {
        self.known.price.as_ref()
    }

    /// The next event. May be dropped and called again.
    ///
    /// # Errors
    /// [`CallError`]: it is over, or the node made something up. Go on from [`Self::cursor`], or elsewhere.
    pub async fn next(&mut self) -> Result<PriceEvent, CallError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let ended = |error: FeedError| match error {
                FeedError::Request(error) => CallError::Request(error),
                other => CallError::Request(RequestError::Unexpected(other.to_string())),
            };
            match self.stream.next().await.map_err(ended)? {
                Event::Snapshot { reason, skipped, mark, bytes, .. } => {
                    self.begin(reason, skipped, bytes)?;
                    self.grow_old(&mark);
                }
                Event::Entries { entries, mark, .. } => {
                    for entry in entries {
                        self.take(entry)?;
                    }
                    self.grow_old(&mark);
                }
                Event::Idle { age, mark } => self.grow_older(&mark, age),
                Event::Stale { age } => {
                    let why = format!("the node is silent for {} ms", age.as_millis());
                    return Err(CallError::Request(RequestError::Disconnected(why)));
                }
                Event::Gap { .. } | Event::Diverged { .. } | Event::Step { .. } => {
                    return Err(nonsense("reports that do not follow those before"));
                }
            }
        }
    }

    fn begin(&mut self, reason: SnapshotReason, skipped: u64, bytes: Bytes) -> Result<(), CallError> {
        self.events.push_back(PriceEvent::Begun { reason, skipped });
        (self.known.reports, self.known.flagged) = (Vec::new(), 0);
        let Some((count, rest)) = bytes.split_first() else { return Ok(()) };
        let reports = usize::from(*count) * REPORT_LEN;
        if rest.len() < reports || !(rest.len() - reports).is_multiple_of(EQUIVOCATION_LEN) {
            return Err(nonsense("a snapshot of a price feed"));
        }
        let (reports, evidence) = rest.split_at(reports);
        for report in reports.chunks(REPORT_LEN) {
            self.keep(Report::parse(Bytes::copy_from_slice(report)).map_err(broken)?);
        }
        for evidence in evidence.chunks(EQUIVOCATION_LEN) {
            self.take(Bytes::copy_from_slice(evidence))?;
        }
        self.make_price()
    }

    fn take(&mut self, entry: Bytes) -> Result<(), CallError> {
        if entry.len() == EQUIVOCATION_LEN {
            let evidence = Equivocation::parse(entry).map_err(broken)?;
            self.rules.check_evidence(&evidence).map_err(made_up)?;
            self.known.flagged |= 1 << (evidence.publisher() & 15);
            self.known.reports.retain(|report| report.publisher != evidence.publisher());
            self.events.push_back(PriceEvent::Flagged(evidence.publisher()));
            return Ok(());
        }
        let report = Report::parse(entry).map_err(broken)?;
        if report.feed != self.feed || self.known.flagged & (1 << (report.publisher & 15)) != 0 {
            return Err(nonsense("a report that does not belong there"));
        }
        self.keep(report);
        self.make_price()
    }

    fn keep(&mut self, report: Report) {
        self.known.reports.retain(|other| other.publisher != report.publisher);
        self.known.reports.push(report);
        self.known.reports.sort_unstable_by_key(|report| report.publisher);
    }

    /// As the node does: of the newest reports, and if they make none, the last price stays.
    fn make_price(&mut self) -> Result<(), CallError> {
        let mut quote = Quote { feed: self.feed, reports: self.known.reports.clone() };
        let max_age_ms = self.rules.spec(self.feed).map_or(0, |spec| spec.max_age_ms);
        let newest = quote.time_unix_ms();
        quote.reports.retain(|report| report.time_unix_ms >= newest.saturating_sub(max_age_ms));
        match self.rules.price(&quote) {
            Ok(price) => {
                if self.known.price.is_none_or(|before| price.time_unix_ms > before.time_unix_ms) {
                    self.known.stale = false;
                }
                self.known.price = Some(price);
                self.events.push_back(PriceEvent::Price { price, quote });
                Ok(())
            }
            Err(QuoteError::NoPrice(_)) => Ok(()),
            Err(error) => Err(made_up(error)),
        }
    }

    fn grow_old(&mut self, mark: &Bytes) {
        self.grow_older(mark, Duration::ZERO);
    }

    /// Says that the price is stale, if it is by the node's clock: `mark` is what that said `since` ago.
    fn grow_older(&mut self, mark: &Bytes, since: Duration) {
        let (Some(price), Some(mark)) = (self.known.price, mark.first_chunk::<8>()) else { return };
        let now = u64::from_be_bytes(*mark).saturating_add(since.as_millis() as u64);
        let age = price.age_ms(now);
        let max = self.rules.spec(self.feed).map_or(u64::MAX, |spec| spec.max_age_ms);
        if age > max && !self.known.stale {
            self.known.stale = true;
            self.events.push_back(PriceEvent::Stale { age: Duration::from_millis(age) });
        }
    }
}

fn made_up(error: QuoteError) -> CallError {
    CallError::Request(RequestError::Unexpected(error.to_string()))
}

impl Client {
    /// Every report of a feed, as it comes; from the newest on, or from where an earlier subscription was.
    pub async fn follow_price(
        &self,
        rules: &PriceRules,
        feed: &str,
        from: Option<PriceCursor>,
    ) -> Result<PriceStream, CallError> {
        let (number, _) =
            rules.feed(feed).ok_or_else(|| CallError::Invalid(format!("there is no feed {feed:?}")))?;
        let (place, known) = from.map(|cursor| (cursor.place, cursor.known)).unzip();
        let resume = place.map(|place: Place| message::FeedPlace {
            epoch: place.epoch,
            seq: place.at.seq,
            hash: Bytes::copy_from_slice(&place.at.hash),
        });
        let request = message::PriceFollowRequest { feed: feed.into(), resume }.to_frame();
        let answer = self.session().request(StreamType::Prices, &request, self.timeout).await?;
        let limits = CursorLimits { silence_max: SILENCE_MAX, age_max: None };
        Ok(PriceStream {
            stream: FeedStream::new(answer, place, limits),
            rules: rules.clone(),
            feed: number,
            known: known.unwrap_or_default(),
            events: Default::default(),
            _client: self.clone(),
        })
    }
}

/// Pause before another node is tried, after all have failed in turn.
const PAUSE: Duration = Duration::from_millis(100);

/// A subscription that outlives its nodes: when one fails or falls silent, it goes on at another one of the
/// pool, and says so with [`PriceEvent::Begun`]. What was told is not told again.
#[derive(Debug)]
pub struct PriceSubscription {
    pool: Pool,
    rules: PriceRules,
    feed: String,
    cursor: Option<PriceCursor>,
    stream: Option<(usize, PriceStream)>,
}

impl Pool {
    /// Every report of a feed, at whichever node is best.
    pub fn follow_price(&self, rules: &PriceRules, feed: &str) -> PriceSubscription {
        PriceSubscription {
            pool: self.clone(),
            rules: rules.clone(),
            feed: feed.into(),
            cursor: None,
            stream: None,
        }
    }
}

impl PriceSubscription {
    /// The next event. Waits as long as no node can be reached. May be dropped and called again.
    ///
    /// # Errors
    /// [`CallError::Invalid`]: every node would say so.
    pub async fn next(&mut self) -> Result<PriceEvent, CallError> {
        loop {
            let (index, stream) = match &mut self.stream {
                Some(open) => open,
                None => {
                    let open = self.open().await?;
                    self.stream.insert(open)
                }
            };
            match stream.next().await {
                Ok(event) => {
                    self.cursor = stream.cursor().or(self.cursor.take());
                    return Ok(event);
                }
                Err(_) => {
                    let failed = *index;
                    self.stream = None;
                    self.pool.rest(failed);
                }
            }
        }
    }

    async fn open(&self) -> Result<(usize, PriceStream), CallError> {
        loop {
            for index in self.pool.order() {
                let Ok(client) = self.pool.client_of(index).await else { continue };
                match client.follow_price(&self.rules, &self.feed, self.cursor.clone()).await {
                    Ok(stream) => return Ok((index, stream)),
                    Err(CallError::Invalid(why)) => return Err(CallError::Invalid(why)),
                    Err(_) => self.pool.rest(index),
                }
            }
            if self.pool.is_empty() {
                return Err(CallError::Invalid("the pool has no node".into()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How old a price may be before it is called stale, and how old it is.
pub fn age_of(price: &Aggregate, spec: &FeedSpec, now_unix_ms: u64) -> (Duration, bool) {
    let age = price.age_ms(now_unix_ms);
    (Duration::from_millis(age), age > spec.max_age_ms)
}

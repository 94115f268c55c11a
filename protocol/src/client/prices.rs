//! Prices: reading, proving, following and publishing them.
//!
//! Nothing here trusts the node with a price: what it sends are the publishers' own reports, whose
//! signatures are checked and from which the price is computed on this side. [`PriceRules`] says by which feeds:
//! those of a genesis that the program has, or, where it has none, those that the node names.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{Frame, Payload, StreamType, price::PriceTick};
use ghost_proto::{
    BlockId, FeedSpec, FinalityCertificate, Genesis, GenesisId, Header, Quote, Receipt, Report,
    layout::LayoutError,
    merkle, message,
    price::{Aggregate, CommittedPrice, ORACLE_ADDRESS, PRICE_UPDATED_TOPIC, QuoteError, REPORT_LEN, feed_key},
};
use tokio::sync::mpsc;

use super::{CallError, Client, contract::nonsense, unexpected};
use crate::{
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

/// How old a price may be before it is called stale, and how old it is.
pub fn age_of(price: &Aggregate, spec: &FeedSpec, now_unix_ms: u64) -> (Duration, bool) {
    let age = price.age_ms(now_unix_ms);
    (Duration::from_millis(age), age > spec.max_age_ms)
}

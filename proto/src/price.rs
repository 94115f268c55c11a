//! Prices: feeds, the reports that publishers sign, and what proves a price.
//!
//! ```text
//! report:  offset  size  field
//!               0     2  feed         index into the feeds of the genesis
//!               2     2  publisher    index into the publishers of the feed
//!               4     8  sequence     ascends with every report of the publisher on the feed
//!              12     8  time         when the price was seen, milliseconds since 1970-01-01 UTC
//!              20     8  price        two's complement, in units of 10^exponent of the feed
//!              28     8  confidence   how far off the price may be, in the same units
//!              36    64  signature    over tag "ghost/price/1", genesis id and bytes 0..36
//!             100
//! quote:        0     2  feed
//!               2     1  report count
//!               3  100n  reports      of this feed, publishers strictly ascending
//! equivocation: 0   100  report       ┐ same feed, publisher and sequence; the signed part of the first
//!             100   100  report       ┘ sorts before that of the second
//! price batch:  0     1  quote count
//!               1     n  quotes       feeds strictly ascending
//!               x     1  equivocation count
//!               x  200n  equivocations
//! ```
//!
//! A [`Quote`] proves itself: whoever knows the genesis checks the signatures and computes the price by
//! the same [rules](mod@aggregate), so that nobody between the publishers and the reader is trusted with it.

pub mod aggregate;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::aggregate::{Aggregate, NoPrice, aggregate, is_fresh};
use crate::{
    genesis::GenesisError,
    ids::{Address, GenesisId},
    keys::{BadSignature, Batch, Domain, KeyPair, PublicKey, SIGNATURE_LEN, Signature},
    layout::{Cursor, LayoutError, put_var_bytes},
    limits::{
        PRICE_EVIDENCE_PER_BATCH_MAX, PRICE_FEED_EXPONENT_MAX, PRICE_FEED_MAX_AGE_MS_MAX,
        PRICE_FEED_NAME_BYTES_MAX, PRICE_FEEDS_MAX, PUBLISHERS_MAX,
    },
};

/// Size of an encoded report.
pub const REPORT_LEN: usize = 100;
const REPORT_SIGNED_LEN: usize = REPORT_LEN - SIGNATURE_LEN;
/// Size of encoded evidence of an equivocation.
pub const EQUIVOCATION_LEN: usize = 2 * REPORT_LEN;
/// Size of a quote without its reports.
pub const QUOTE_HEAD_LEN: usize = 3;
/// Size of the largest quote.
pub const QUOTE_BYTES_MAX: usize = QUOTE_HEAD_LEN + PUBLISHERS_MAX * REPORT_LEN;

/// The account that committed prices are logged by, and that contracts ask for them: "oracle" in ASCII.
pub const ORACLE_ADDRESS: Address =
    Address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'o', b'r', b'a', b'c', b'l', b'e']);

/// First topic of the log that a committed price leaves: Keccak-256 of
/// `PriceUpdated(bytes32,int64,uint64,int32,uint64)`.
pub const PRICE_UPDATED_TOPIC: [u8; 32] = [
    0x70, 0x60, 0x93, 0xd7, 0x72, 0xa6, 0x29, 0x1d, 0x56, 0xa9, 0x42, 0x1f, 0xd2, 0xd0, 0x48, 0xa1, 0xc1,
    0x56, 0xff, 0x80, 0xc3, 0x98, 0x2f, 0xcf, 0x7b, 0x8e, 0x05, 0x2e, 0xb7, 0x71, 0x56, 0xdf,
];

/// First topic of the log that the exclusion of a publisher leaves, with its index in the data: Keccak-256 of
/// `PublisherExcluded(bytes32,uint16)`.
pub const PUBLISHER_EXCLUDED_TOPIC: [u8; 32] = [
    0xcb, 0x27, 0x52, 0xee, 0x84, 0x46, 0x87, 0xef, 0x5b, 0x3e, 0x61, 0x0e, 0x39, 0x52, 0x9e, 0x38, 0x89,
    0x25, 0x99, 0x56, 0x80, 0xe1, 0xad, 0x65, 0x13, 0x2c, 0xf0, 0x61, 0x11, 0xa9, 0x34, 0x5b,
];

/// What is said of a price, by whom, and when it counts. Declared in the genesis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedSpec {
    /// For people and contracts: 1 to 32 bytes of `A-Z 0-9 / . _ -`, unique in the chain.
    pub name: String,
    /// A price of `p` means `p × 10^exponent`. −18 to 18.
    pub exponent: i8,
    /// Who may report. 1 to 11 distinct keys.
    pub publishers: Vec<PublicKey>,
    /// Fewest fresh reports that make a price. 1 to the number of publishers.
    pub quorum: u16,
    /// Longest time between two reports of an honest publisher, in milliseconds; and between two
    /// commits of an honest proposer.
    pub heartbeat_ms: u64,
    /// A move by so many hundredths of a percent is reported and committed at once. 0 = any move.
    pub deviation_bps: u16,
    /// A report, and a price, older than this counts no more, in milliseconds. At least the heartbeat.
    pub max_age_ms: u64,
}

impl FeedSpec {
    /// The name as contracts and topics carry it: padded with zeros on the right to 32 bytes.
    pub fn key(&self) -> [u8; 32] {
        feed_key(&self.name).unwrap_or_default()
    }

    /// Checks the ranges of all fields.
    pub fn check(&self) -> Result<(), GenesisError> {
        let refuse = |field, value: String, allowed: String| {
            Err(GenesisError::OutOfRange { field, value: format!("{value} (feed {:?})", self.name), allowed })
        };
        if feed_key(&self.name).is_none() {
            let allowed = format!("1 to {PRICE_FEED_NAME_BYTES_MAX} of A-Z 0-9 / . _ -");
            return refuse("feeds.name", format!("{:?}", self.name), allowed);
        }
        if self.exponent.unsigned_abs() > PRICE_FEED_EXPONENT_MAX {
            let allowed = format!("-{PRICE_FEED_EXPONENT_MAX} to {PRICE_FEED_EXPONENT_MAX}");
            return refuse("feeds.exponent", self.exponent.to_string(), allowed);
        }
        let mut sorted = self.publishers.clone();
        sorted.sort();
        sorted.dedup();
        if sorted.is_empty() || sorted.len() != self.publishers.len() || sorted.len() > PUBLISHERS_MAX {
            let value = format!("{} keys, {} of them distinct", self.publishers.len(), sorted.len());
            return refuse("feeds.publishers", value, format!("1 to {PUBLISHERS_MAX} distinct keys"));
        }
        for (field, value, min, max) in [
            ("feeds.quorum", u64::from(self.quorum), 1, self.publishers.len() as u64),
            ("feeds.heartbeat_ms", self.heartbeat_ms, 1, PRICE_FEED_MAX_AGE_MS_MAX),
            ("feeds.deviation_bps", u64::from(self.deviation_bps), 0, 10_000),
            ("feeds.max_age_ms", self.max_age_ms, self.heartbeat_ms, PRICE_FEED_MAX_AGE_MS_MAX),
        ] {
            if value < min || value > max {
                return refuse(field, value.to_string(), format!("{min} to {max}"));
            }
        }
        Ok(())
    }

    /// True if `now` is a move from `before` that is reported at once.
    pub fn deviates(&self, before: i64, now: i64) -> bool {
        let moved = (i128::from(now) - i128::from(before)).unsigned_abs();
        // 2^64 × 10,000 fits 128 bits.
        moved > 0 && moved * 10_000 >= i128::from(before).unsigned_abs() * u128::from(self.deviation_bps)
    }

    /// The publisher with this key.
    pub fn publisher(&self, key: &PublicKey) -> Option<u16> {
        self.publishers.iter().position(|publisher| publisher == key).map(|index| index as u16)
    }

    /// Reads what [`Self::encode`] wrote and checks its ranges.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let name = cursor.var_bytes("feed name", PRICE_FEED_NAME_BYTES_MAX)?;
        let exponent = cursor.u8("exponent")? as i8;
        let publishers = (0..cursor.u8("publisher count")?)
            .map(|_| Ok(PublicKey(cursor.array("publisher")?)))
            .collect::<Result<_, LayoutError>>()?;
        let spec = Self {
            name: String::from_utf8_lossy(&name).into_owned(),
            exponent,
            publishers,
            quorum: cursor.u16("quorum")?,
            heartbeat_ms: cursor.u64("heartbeat")?,
            deviation_bps: cursor.u16("deviation")?,
            max_age_ms: cursor.u64("max age")?,
        };
        cursor.finish()?;
        spec.check()
            .map_err(|_| LayoutError::Invalid { field: "feed", reason: "no genesis may declare it" })?;
        Ok(spec)
    }

    /// Appends the canonical encoding that the genesis id covers:
    ///
    /// ```text
    ///  v  name            behind its length as a varint
    ///  1  exponent        two's complement
    ///  1  publisher count
    /// 32n publishers
    ///  2  quorum
    ///  8  heartbeat       milliseconds
    ///  2  deviation       hundredths of a percent
    ///  8  max age         milliseconds
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_var_bytes(out, self.name.as_bytes());
        out.push(self.exponent as u8);
        out.push(self.publishers.len() as u8);
        self.publishers.iter().for_each(|key| out.extend_from_slice(&key.0));
        out.extend_from_slice(&self.quorum.to_be_bytes());
        out.extend_from_slice(&self.heartbeat_ms.to_be_bytes());
        out.extend_from_slice(&self.deviation_bps.to_be_bytes());
        out.extend_from_slice(&self.max_age_ms.to_be_bytes());
    }
}

/// A feed's name as contracts carry it; `None` if no feed may have it.
pub fn feed_key(name: &str) -> Option<[u8; 32]> {
    let good = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"/._-".contains(byte);
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > PRICE_FEED_NAME_BYTES_MAX || !bytes.iter().all(good) {
        return None;
    }
    let mut key = [0; 32];
    key[..bytes.len()].copy_from_slice(bytes);
    Some(key)
}

/// Checks all feeds of a genesis.
pub(crate) fn check_feeds(feeds: &[FeedSpec]) -> Result<(), GenesisError> {
    if feeds.len() > PRICE_FEEDS_MAX {
        return Err(GenesisError::OutOfRange {
            field: "feeds",
            value: format!("{} feeds", feeds.len()),
            allowed: format!("at most {PRICE_FEEDS_MAX}"),
        });
    }
    for (index, feed) in feeds.iter().enumerate() {
        feed.check()?;
        if feeds[..index].iter().any(|other| other.name == feed.name) {
            return Err(GenesisError::OutOfRange {
                field: "feeds.name",
                value: format!("{:?} twice", feed.name),
                allowed: "each name once".into(),
            });
        }
    }
    Ok(())
}

/// What a publisher says, before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportFields {
    /// Index into the feeds of the genesis.
    pub feed: u16,
    /// Index into the publishers of the feed.
    pub publisher: u16,
    /// Above that of the publisher's report before.
    pub sequence: u64,
    /// When the price was seen, in unix milliseconds.
    pub time_unix_ms: u64,
    /// In units of 10^exponent.
    pub price: i64,
    /// How far off it may be, in the same units.
    pub confidence: u64,
}

/// A publisher's report with the bytes it came in. Its signature is *not* checked by parsing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Report {
    bytes: [u8; REPORT_LEN],
    fields: ReportFields,
}

impl Report {
    /// Signs.
    pub fn sign(fields: ReportFields, genesis: &GenesisId, key: &KeyPair) -> Self {
        let mut bytes = [0; REPORT_LEN];
        bytes[..2].copy_from_slice(&fields.feed.to_be_bytes());
        bytes[2..4].copy_from_slice(&fields.publisher.to_be_bytes());
        bytes[4..12].copy_from_slice(&fields.sequence.to_be_bytes());
        bytes[12..20].copy_from_slice(&fields.time_unix_ms.to_be_bytes());
        bytes[20..28].copy_from_slice(&fields.price.to_be_bytes());
        bytes[28..36].copy_from_slice(&fields.confidence.to_be_bytes());
        let signature = key.sign(Domain::Price, &[&genesis.0, &bytes[..REPORT_SIGNED_LEN]]);
        bytes[REPORT_SIGNED_LEN..].copy_from_slice(&signature.0);
        Self { bytes, fields }
    }

    fn of(bytes: [u8; REPORT_LEN]) -> Self {
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let eight = |at: usize| bytes[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let fields = ReportFields {
            feed: two(0),
            publisher: two(2),
            sequence: eight(4),
            time_unix_ms: eight(12),
            price: eight(20) as i64,
            confidence: eight(28),
        };
        Self { bytes, fields }
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        Ok(Self::of(cursor.array("report")?))
    }

    /// Parses a report that fills `bytes` exactly.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let report = Self::read(&mut cursor)?;
        cursor.finish()?;
        Ok(report)
    }

    /// The bytes as received.
    pub fn bytes(&self) -> &[u8; REPORT_LEN] {
        &self.bytes
    }

    fn signed_part(&self) -> &[u8] {
        &self.bytes[..REPORT_SIGNED_LEN]
    }

    fn signature(&self) -> Signature {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(&self.bytes[REPORT_SIGNED_LEN..]);
        Signature(signature)
    }

    /// Checks the signature under the key that the feed names for its publisher.
    pub fn verify(&self, genesis: &GenesisId, publisher: &PublicKey) -> Result<(), BadSignature> {
        publisher.verify(Domain::Price, &[&genesis.0, self.signed_part()], &self.signature())
    }

    /// Adds the signature to a batch.
    pub fn verify_later(&self, genesis: &GenesisId, publisher: &PublicKey, batch: &mut Batch) {
        batch.push(publisher, Domain::Price, &[&genesis.0, self.signed_part()], &self.signature());
    }

    /// True if both say something for one sequence and not the same.
    pub fn contradicts(&self, other: &Self) -> bool {
        let name = |report: &Self| (report.feed, report.publisher, report.sequence);
        name(self) == name(other) && self.signed_part() != other.signed_part()
    }
}

impl std::ops::Deref for Report {
    type Target = ReportFields;
    fn deref(&self) -> &ReportFields {
        &self.fields
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.fields.fmt(f)
    }
}

/// Two reports of a publisher for one sequence: proof that it lies to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivocation {
    first: Report,
    second: Report,
}

impl Equivocation {
    /// Of two reports that contradict each other; `None` if they do not.
    pub fn of(a: Report, b: Report) -> Option<Self> {
        let (first, second) = if a.signed_part() < b.signed_part() { (a, b) } else { (b, a) };
        a.contradicts(&b).then_some(Self { first, second })
    }

    /// Parses evidence that fills `bytes` exactly.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let evidence = Self::read(&mut cursor)?;
        cursor.finish()?;
        Ok(evidence)
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let (first, second) = (Report::read(cursor)?, Report::read(cursor)?);
        if !first.contradicts(&second) {
            return Err(LayoutError::Invalid { field: "evidence", reason: "the reports do not contradict" });
        }
        if first.signed_part() > second.signed_part() {
            return Err(LayoutError::Invalid { field: "evidence", reason: "the reports do not ascend" });
        }
        Ok(Self { first, second })
    }

    /// As it travels.
    pub fn encode(&self) -> [u8; EQUIVOCATION_LEN] {
        let mut out = [0; EQUIVOCATION_LEN];
        out[..REPORT_LEN].copy_from_slice(&self.first.bytes);
        out[REPORT_LEN..].copy_from_slice(&self.second.bytes);
        out
    }

    /// Checks both signatures.
    pub fn verify(&self, genesis: &GenesisId, publisher: &PublicKey) -> Result<(), BadSignature> {
        self.first.verify(genesis, publisher)?;
        self.second.verify(genesis, publisher)
    }

    /// The feed.
    pub fn feed(&self) -> u16 {
        self.first.feed
    }

    /// Who signed both.
    pub fn publisher(&self) -> u16 {
        self.first.publisher
    }

    /// The two reports.
    pub fn reports(&self) -> [&Report; 2] {
        [&self.first, &self.second]
    }
}

/// Reports of several publishers of one feed: a price with its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Index into the feeds of the genesis.
    pub feed: u16,
    /// Publishers strictly ascending.
    pub reports: Vec<Report>,
}

/// Why a quote gives no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// The genesis has no such feed.
    #[error("there is no feed {0}")]
    UnknownFeed(u16),
    /// The feed has no such publisher.
    #[error("feed {feed} has no publisher {publisher}")]
    UnknownPublisher {
        /// The feed.
        feed: u16,
        /// The publisher.
        publisher: u16,
    },
    /// A signature does not verify: whoever sent it is at fault.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
    /// The reports make no price now.
    #[error(transparent)]
    NoPrice(#[from] NoPrice),
}

impl Quote {
    /// Parses a quote that fills `bytes` exactly.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let quote = Self::read(&mut cursor)?;
        cursor.finish()?;
        Ok(quote)
    }

    fn read(cursor: &mut Cursor) -> Result<Self, LayoutError> {
        let feed = cursor.u16("feed")?;
        let count = cursor.u8("report count")?;
        if count == 0 || usize::from(count) > PUBLISHERS_MAX {
            return Err(LayoutError::OutOfRange {
                field: "report count",
                value: count.into(),
                min: 1,
                max: PUBLISHERS_MAX as u64,
            });
        }
        let mut reports: Vec<Report> = Vec::with_capacity(count.into());
        for _ in 0..count {
            let report = Report::read(cursor)?;
            if report.feed != feed {
                return Err(LayoutError::Invalid { field: "report", reason: "is of another feed" });
            }
            if reports.last().is_some_and(|last| last.publisher >= report.publisher) {
                return Err(LayoutError::Invalid { field: "report", reason: "publishers do not ascend" });
            }
            reports.push(report);
        }
        Ok(Self { feed, reports })
    }

    /// Appends it as it travels.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.feed.to_be_bytes());
        out.push(self.reports.len() as u8);
        self.reports.iter().for_each(|report| out.extend_from_slice(report.bytes()));
    }

    /// As it travels.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(QUOTE_HEAD_LEN + self.reports.len() * REPORT_LEN);
        self.encode(&mut out);
        out.into()
    }

    /// When the newest report was seen.
    pub fn time_unix_ms(&self) -> u64 {
        self.reports.iter().map(|report| report.time_unix_ms).max().unwrap_or_default()
    }

    /// The price that the reports make among themselves, at the time of the newest. How old it is by now is
    /// another question: [`Aggregate::age_ms`].
    pub fn aggregate(&self, spec: &FeedSpec) -> Result<Aggregate, NoPrice> {
        aggregate(spec, &self.reports, self.time_unix_ms())
    }

    /// Checks every signature except those of reports that `known` says were checked before.
    pub fn verify(
        &self,
        feeds: &[FeedSpec],
        genesis: &GenesisId,
        known: impl Fn(&Report) -> bool,
    ) -> Result<(), QuoteError> {
        let spec = feeds.get(usize::from(self.feed)).ok_or(QuoteError::UnknownFeed(self.feed))?;
        for report in &self.reports {
            let key = spec.publishers.get(usize::from(report.publisher));
            let key =
                key.ok_or(QuoteError::UnknownPublisher { feed: self.feed, publisher: report.publisher })?;
            if !known(report) {
                report.verify(genesis, key)?;
            }
        }
        Ok(())
    }
}

/// What a proposer puts into a block about prices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceBatch {
    /// Feeds strictly ascending.
    pub quotes: Vec<Quote>,
    /// Publishers to be left out from now on.
    pub equivocations: Vec<Equivocation>,
}

impl PriceBatch {
    /// True if it says nothing.
    pub fn is_empty(&self) -> bool {
        self.quotes.is_empty() && self.equivocations.is_empty()
    }

    /// Parses a batch that fills `bytes` exactly and says something.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let mut batch = Self::default();
        for _ in 0..cursor.u8("quote count")? {
            let quote = Quote::read(&mut cursor)?;
            if batch.quotes.last().is_some_and(|last| last.feed >= quote.feed) {
                return Err(LayoutError::Invalid { field: "quote", reason: "feeds do not ascend" });
            }
            batch.quotes.push(quote);
        }
        let count = cursor.u8("equivocation count")?;
        if usize::from(count) > PRICE_EVIDENCE_PER_BATCH_MAX {
            return Err(LayoutError::OutOfRange {
                field: "equivocation count",
                value: count.into(),
                min: 0,
                max: PRICE_EVIDENCE_PER_BATCH_MAX as u64,
            });
        }
        for _ in 0..count {
            batch.equivocations.push(Equivocation::read(&mut cursor)?);
        }
        cursor.finish()?;
        if batch.is_empty() {
            return Err(LayoutError::Invalid { field: "price batch", reason: "it says nothing" });
        }
        Ok(batch)
    }

    /// As it stands in a transaction.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.quotes.len() <= PRICE_FEEDS_MAX);
        debug_assert!(self.equivocations.len() <= PRICE_EVIDENCE_PER_BATCH_MAX);
        let mut out = vec![self.quotes.len() as u8];
        self.quotes.iter().for_each(|quote| quote.encode(&mut out));
        out.push(self.equivocations.len() as u8);
        self.equivocations.iter().for_each(|evidence| out.extend_from_slice(&evidence.encode()));
        out
    }
}

/// A price as the chain keeps it.
///
/// ```text
/// offset  size  field
///      0     8  price
///      8     8  confidence
///     16     1  exponent
///     17     8  time         unix milliseconds: a quorum of publishers saw it then or later
///     25     8  max age      milliseconds
///     33     8  height       of the block that committed it
///     41     2  used         bit n: publisher n counted
///     43     2  outliers     bit n: publisher n was left out as too far off
///     45
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedPrice {
    /// What the reports made.
    pub aggregate: Aggregate,
    /// Of the feed.
    pub exponent: i8,
    /// Of the feed, in milliseconds.
    pub max_age_ms: u64,
    /// Of the block that committed it.
    pub height: u64,
}

/// Size of an encoded committed price.
pub const COMMITTED_PRICE_LEN: usize = 45;

impl CommittedPrice {
    /// As the state keeps it.
    pub fn encode(&self) -> [u8; COMMITTED_PRICE_LEN] {
        let mut out = [0; COMMITTED_PRICE_LEN];
        out[..8].copy_from_slice(&self.aggregate.price.to_be_bytes());
        out[8..16].copy_from_slice(&self.aggregate.confidence.to_be_bytes());
        out[16] = self.exponent as u8;
        out[17..25].copy_from_slice(&self.aggregate.time_unix_ms.to_be_bytes());
        out[25..33].copy_from_slice(&self.max_age_ms.to_be_bytes());
        out[33..41].copy_from_slice(&self.height.to_be_bytes());
        out[41..43].copy_from_slice(&self.aggregate.used.to_be_bytes());
        out[43..].copy_from_slice(&self.aggregate.outliers.to_be_bytes());
        out
    }

    /// Reads it back.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let (price, confidence) = (cursor.u64("price")? as i64, cursor.u64("confidence")?);
        let exponent = cursor.u8("exponent")? as i8;
        let (time_unix_ms, max_age_ms) = (cursor.u64("time")?, cursor.u64("max age")?);
        let height = cursor.u64("height")?;
        let (used, outliers) = (cursor.u16("used")?, cursor.u16("outliers")?);
        cursor.finish()?;
        let aggregate = Aggregate { price, confidence, time_unix_ms, used, outliers };
        Ok(Self { aggregate, exponent, max_age_ms, height })
    }

    /// Data of the log entry that a commit leaves, as the EVM's ABI encodes
    /// `(int64 price, uint64 confidence, int32 exponent, uint64 timeUnixMs)`.
    pub fn log_data(&self) -> [u8; 128] {
        let mut out = [0; 128];
        let signed = |value: i64, word: &mut [u8]| {
            word[..24].fill(if value < 0 { 0xff } else { 0 });
            word[24..].copy_from_slice(&value.to_be_bytes());
        };
        signed(self.aggregate.price, &mut out[..32]);
        out[56..64].copy_from_slice(&self.aggregate.confidence.to_be_bytes());
        signed(self.exponent.into(), &mut out[64..96]);
        out[120..].copy_from_slice(&self.aggregate.time_unix_ms.to_be_bytes());
        out
    }
}

/// A price as people write it: `p × 10^exponent`, exactly.
pub fn decimal(price: i64, exponent: i8) -> String {
    let (sign, digits) = (if price < 0 { "-" } else { "" }, price.unsigned_abs().to_string());
    if exponent >= 0 {
        let zeros = if price == 0 { 0 } else { usize::from(exponent.unsigned_abs()) };
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    let places = usize::from(exponent.unsigned_abs());
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, part) = padded.split_at(padded.len() - places);
    format!("{sign}{whole}.{part}")
}

/// The other way: `None` if the text is no number, has more places than the exponent keeps (zeros at
/// the end do not count), or does not fit.
pub fn from_decimal(text: &str, exponent: i8) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let part = part.trim_end_matches('0');
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && part.is_empty() && !digits.contains('0')) || !number(whole) || !number(part) {
        return None;
    }
    let all: i128 = format!("0{whole}{part}").parse().ok()?;
    // all × 10^−part.len() = p × 10^exponent
    let shift = -i32::from(exponent) - part.len() as i32;
    let scaled = if shift >= 0 {
        all.checked_mul(10i128.checked_pow(shift.unsigned_abs())?)?
    } else {
        let unit = 10i128.checked_pow(shift.unsigned_abs())?;
        (all % unit == 0).then_some(all / unit)?
    };
    i64::try_from(if negative { -scaled } else { scaled }).ok()
}

#[cfg(test)]
mod tests;

//! How reports become a price. Pure integer arithmetic: the same reports give the same price on every
//! node and in every subscriber.
//!
//! At a time *T*, of the newest report of each publisher:
//!
//! 1. **Fresh** are those with *T* − max age ≤ time ≤ *T* + [`PRICE_AHEAD_MS_MAX`].
//! 2. **Quorum**: fewer fresh ones than the feed's quorum make no price.
//! 3. **Outliers** are left out: those further from the median of the fresh ones than
//!    max([`OUTLIER_SPREADS`] × *D*, |median| × deviation, 1 unit), where *D* is
//!    the median of all distances from it.
//! 4. **Agreement**: fewer left than the quorum make no price.
//! 5. **Price**: the median of what is left; of an even number the mean of the middle two, rounded
//!    down.
//! 6. **Confidence**: the larger of the median confidence and the median distance from the price, of
//!    what is left.
//! 7. **Time**: that of the quorum-th newest of what is left. So a quorum of publishers saw the price
//!    then or later, and one that goes on alone does not keep it fresh.
//!
//! With a quorum of *q*, moving the price beyond what honest publishers say takes half of what is
//! left, at least *q*/2 publishers; stopping it takes all but *q* − 1.

use super::{FeedSpec, Report};
use crate::limits::PRICE_AHEAD_MS_MAX;

/// How many median distances from the median a report may be. For normally distributed errors that is
/// 2.7 standard deviations, which an honest report exceeds once in 144.
pub const OUTLIER_SPREADS: u128 = 4;

/// What reports make together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregate {
    /// In units of 10^exponent.
    pub price: i64,
    /// How far off it may be, in the same units.
    pub confidence: u64,
    /// A quorum of publishers saw it then or later, in unix milliseconds.
    pub time_unix_ms: u64,
    /// Bit *n*: publisher *n* counted.
    pub used: u16,
    /// Bit *n*: publisher *n* was too far off.
    pub outliers: u16,
}

impl Aggregate {
    /// Milliseconds since it was seen; 0 if that is still to come.
    pub fn age_ms(&self, now_unix_ms: u64) -> u64 {
        now_unix_ms.saturating_sub(self.time_unix_ms)
    }
}

/// Why reports make no price. Nobody's fault by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPrice {
    /// Too few are fresh.
    #[error("{fresh} fresh reports of {needed} needed")]
    NoQuorum {
        /// How many are.
        fresh: usize,
        /// How many must be.
        needed: usize,
    },
    /// Too few agree.
    #[error("{agreeing} reports agree of {needed} needed")]
    NoAgreement {
        /// How many do.
        agreeing: usize,
        /// How many must.
        needed: usize,
    },
}

/// Median of an ascending list; of an even number the mean of the middle two, rounded down.
fn median_signed(ascending: &[i64]) -> i64 {
    let middle = ascending.len() / 2;
    if ascending.len() % 2 == 1 {
        return ascending[middle];
    }
    ((i128::from(ascending[middle - 1]) + i128::from(ascending[middle])) >> 1) as i64
}

/// The same of sizes, in any order.
fn median_unsigned(mut values: Vec<u128>) -> u128 {
    values.sort_unstable();
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2 }
}

fn distance(a: i64, b: i64) -> u128 {
    (i128::from(a) - i128::from(b)).unsigned_abs()
}

fn median_price(reports: &[&Report]) -> i64 {
    let mut prices: Vec<i64> = reports.iter().map(|report| report.price).collect();
    prices.sort_unstable();
    median_signed(&prices)
}

/// True if a report counts at a time.
pub fn is_fresh(spec: &FeedSpec, report: &Report, at_unix_ms: u64) -> bool {
    report.time_unix_ms <= at_unix_ms.saturating_add(PRICE_AHEAD_MS_MAX)
        && report.time_unix_ms >= at_unix_ms.saturating_sub(spec.max_age_ms)
}

/// Applies the rules above to at most one report of each publisher.
pub fn aggregate<'a>(
    spec: &FeedSpec,
    reports: impl IntoIterator<Item = &'a Report>,
    at_unix_ms: u64,
) -> Result<Aggregate, NoPrice> {
    let needed = usize::from(spec.quorum).max(1);
    let fresh: Vec<&Report> =
        reports.into_iter().filter(|report| is_fresh(spec, report, at_unix_ms)).collect();
    if fresh.len() < needed {
        return Err(NoPrice::NoQuorum { fresh: fresh.len(), needed });
    }
    let middle = median_price(&fresh);
    let spread = median_unsigned(fresh.iter().map(|report| distance(report.price, middle)).collect());
    let allowed = (OUTLIER_SPREADS * spread)
        .max(u128::from(middle.unsigned_abs()) * u128::from(spec.deviation_bps) / 10_000)
        .max(1);
    let bits =
        |reports: &[&Report]| reports.iter().fold(0u16, |bits, report| bits | 1 << (report.publisher & 15));
    let (left, outliers): (Vec<&Report>, Vec<&Report>) =
        fresh.into_iter().partition(|report| distance(report.price, middle) <= allowed);
    if left.len() < needed {
        return Err(NoPrice::NoAgreement { agreeing: left.len(), needed });
    }
    let price = median_price(&left);
    let spread = median_unsigned(left.iter().map(|report| distance(report.price, price)).collect());
    let confidence = median_unsigned(left.iter().map(|report| report.confidence.into()).collect());
    let mut times: Vec<u64> = left.iter().map(|report| report.time_unix_ms).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Aggregate {
        price,
        confidence: u64::try_from(spread.max(confidence)).unwrap_or(u64::MAX),
        time_unix_ms: times[needed - 1],
        used: bits(&left),
        outliers: bits(&outliers),
    })
}

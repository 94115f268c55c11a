use proptest::prelude::*;

use super::*;
use crate::limits::PRICE_AHEAD_MS_MAX;

const GENESIS: GenesisId = GenesisId([7; 32]);
const NOW: u64 = 1_000_000;

fn key(n: u16) -> KeyPair {
    KeyPair::from_seed(&[n as u8 + 1; 32])
}

fn spec(publishers: u16, quorum: u16) -> FeedSpec {
    FeedSpec {
        name: "GHO/USD".into(),
        exponent: -2,
        publishers: (0..publishers).map(|n| key(n).public()).collect(),
        quorum,
        heartbeat_ms: 1_000,
        deviation_bps: 50,
        max_age_ms: 5_000,
    }
}

fn report(publisher: u16, price: i64) -> Report {
    at(publisher, price, NOW)
}

fn at(publisher: u16, price: i64, time_unix_ms: u64) -> Report {
    let fields =
        ReportFields { feed: 0, publisher, sequence: time_unix_ms, time_unix_ms, price, confidence: 3 };
    Report::sign(fields, &GENESIS, &key(publisher))
}

fn of(spec: &FeedSpec, prices: &[i64]) -> Result<Aggregate, NoPrice> {
    let reports: Vec<_> = prices.iter().enumerate().map(|(n, price)| report(n as u16, *price)).collect();
    aggregate(spec, &reports, NOW)
}

#[test]
fn a_report_round_trips_and_binds_chain_key_and_every_byte() {
    let report = report(1, -5);
    let again = Report::parse(Bytes::copy_from_slice(report.bytes())).unwrap();
    assert_eq!(again, report);
    assert_eq!(again.price, -5);
    assert!(again.verify(&GENESIS, &key(1).public()).is_ok());
    assert!(again.verify(&GenesisId([8; 32]), &key(1).public()).is_err());
    assert!(again.verify(&GENESIS, &key(2).public()).is_err());
    for byte in 0..REPORT_LEN {
        let mut bad = *report.bytes();
        bad[byte] ^= 1;
        let bad = Report::parse(Bytes::copy_from_slice(&bad)).unwrap();
        assert!(bad.verify(&GENESIS, &key(1).public()).is_err(), "byte {byte} is not covered");
    }
}

#[test]
fn a_feed_round_trips_by_its_canonical_encoding() {
    let mut out = Vec::new();
    spec(11, 8).encode(&mut out);
    assert_eq!(FeedSpec::parse(out.clone().into()), Ok(spec(11, 8)));
    out.push(0);
    assert!(FeedSpec::parse(out.into()).is_err());
    let mut none = Vec::new();
    FeedSpec { quorum: 12, ..spec(11, 8) }.encode(&mut none);
    assert!(FeedSpec::parse(none.into()).is_err());
}

#[test]
fn evidence_is_two_signed_reports_that_exclude_each_other() {
    let sign = |sequence, price| {
        let fields =
            ReportFields { feed: 0, publisher: 1, sequence, time_unix_ms: NOW, price, confidence: 0 };
        Report::sign(fields, &GENESIS, &key(1))
    };
    assert_eq!(Equivocation::of(sign(1, 5), sign(1, 5)), None);
    assert_eq!(Equivocation::of(sign(1, 5), sign(2, 6)), None);
    let evidence = Equivocation::of(sign(1, 5), sign(1, 6)).unwrap();
    assert_eq!(Equivocation::of(sign(1, 6), sign(1, 5)), Some(evidence));
    assert!(evidence.verify(&GENESIS, &key(1).public()).is_ok());
    assert!(evidence.verify(&GENESIS, &key(2).public()).is_err());
    let bytes = evidence.encode();
    assert_eq!(Equivocation::parse(Bytes::copy_from_slice(&bytes)), Ok(evidence));
    let turned = [&bytes[REPORT_LEN..], &bytes[..REPORT_LEN]].concat();
    assert!(Equivocation::parse(turned.into()).is_err());
    let same = [&bytes[..REPORT_LEN], &bytes[..REPORT_LEN]].concat();
    assert!(Equivocation::parse(same.into()).is_err());
}

#[test]
fn quotes_and_batches_have_one_encoding() {
    let quote = |feed, publishers: &[u16]| Quote {
        feed,
        reports: publishers
            .iter()
            .map(|publisher| {
                let fields = ReportFields { feed, ..*report(*publisher, 5) };
                Report::sign(fields, &GENESIS, &key(*publisher))
            })
            .collect(),
    };
    let good = quote(1, &[0, 2]);
    assert_eq!(Quote::parse(good.to_bytes()), Ok(good.clone()));
    assert!(Quote::parse(quote(1, &[2, 0]).to_bytes()).is_err());
    assert!(Quote::parse(quote(1, &[]).to_bytes()).is_err());
    assert!(Quote::parse(quote(1, &(0..11).collect::<Vec<_>>()).to_bytes()).is_ok());
    assert!(Quote::parse(quote(1, &(0..12).collect::<Vec<_>>()).to_bytes()).is_err());
    let mixed = Quote { feed: 2, ..good.clone() };
    assert!(Quote::parse(mixed.to_bytes()).is_err());

    let batch = |quotes| PriceBatch { quotes, equivocations: Vec::new() };
    let both = batch(vec![quote(0, &[1]), good.clone()]);
    assert_eq!(PriceBatch::parse(both.encode().into()), Ok(both.clone()));
    assert!(PriceBatch::parse(batch(vec![good.clone(), quote(0, &[1])]).encode().into()).is_err());
    assert!(PriceBatch::parse(batch(Vec::new()).encode().into()).is_err());
    let mut long = both.encode();
    long.push(0);
    assert!(PriceBatch::parse(long.into()).is_err());
}

#[test]
fn quorum_and_age_from_both_sides() {
    let spec = spec(4, 3);
    assert_eq!(of(&spec, &[100, 101]), Err(NoPrice::NoQuorum { fresh: 2, needed: 3 }));
    assert_eq!(of(&spec, &[100, 101, 102]).unwrap().price, 101);
    let with = |time| aggregate(&spec, &[report(0, 100), report(1, 101), at(2, 102, time)], NOW).is_ok();
    assert!(with(NOW - spec.max_age_ms));
    assert!(!with(NOW - spec.max_age_ms - 1));
    assert!(with(NOW + PRICE_AHEAD_MS_MAX));
    assert!(!with(NOW + PRICE_AHEAD_MS_MAX + 1));
}

#[test]
fn the_time_is_the_quorums_and_not_that_of_who_goes_on_alone() {
    let spec = spec(4, 2);
    let reports = [at(0, 100, NOW), at(1, 100, NOW - 700), at(2, 100, NOW - 2_000), at(3, 100, NOW - 900)];
    assert_eq!(aggregate(&spec, &reports, NOW).unwrap().time_unix_ms, NOW - 700);
}

#[test]
fn medians_round_down_and_outliers_are_named() {
    let spec = spec(5, 3);
    assert_eq!(of(&spec, &[-3, -4, 5_000, -3]).unwrap().price, -3);
    assert_eq!(of(&spec, &[-3, -4, -3, -4]).unwrap().price, -4);
    let aggregate = of(&spec, &[1_000, 1_001, 1_002, 9_999]).unwrap();
    assert_eq!((aggregate.price, aggregate.used, aggregate.outliers), (1_001, 0b0111, 0b1000));
    assert_eq!(aggregate.confidence, 3);
    // The deviation of half a percent is always allowed: 1,000 × 0.5 % = 5.
    assert_eq!(of(&spec, &[1_000, 1_000, 1_000, 1_005]).unwrap().outliers, 0);
    assert_eq!(of(&spec, &[1_000, 1_000, 1_000, 1_006]).unwrap().outliers, 0b1000);
    // Two camps: no price.
    assert_eq!(
        of(&FeedSpec { quorum: 5, ..spec.clone() }, &[100, 100, 100, 900, 900]),
        Err(NoPrice::NoAgreement { agreeing: 3, needed: 5 })
    );
    // The ends of the range do not overflow.
    let ends = of(&spec, &[i64::MIN, i64::MIN, i64::MAX, i64::MAX]).unwrap();
    assert_eq!((ends.price, ends.confidence), (-1, (1 << 63) - 1));
}

#[test]
fn deviation_from_both_sides() {
    let spec = spec(1, 1);
    assert!(!spec.deviates(10_000, 10_049));
    assert!(spec.deviates(10_000, 10_050));
    assert!(spec.deviates(10_000, 9_950));
    assert!(spec.deviates(0, 1));
    assert!(!spec.deviates(i64::MIN, i64::MIN));
    assert!(spec.deviates(i64::MIN, i64::MAX));
}

#[test]
fn decimals_are_exact() {
    for (price, exponent, text) in [
        (12_345, -2, "123.45"),
        (-5, -2, "-0.05"),
        (0, -3, "0.000"),
        (7, 2, "700"),
        (i64::MIN, -18, "-9.223372036854775808"),
    ] {
        assert_eq!(decimal(price, exponent), text);
        assert_eq!(from_decimal(text, exponent), Some(price), "{text}");
    }
    assert_eq!(from_decimal("1.5", -2), Some(150));
    assert_eq!(from_decimal("1.50000", -2), Some(150));
    for bad in ["1.555", "", ".", "-", "1e5", "1.2.3", "+1", "9999999999999999999"] {
        assert_eq!(from_decimal(bad, -2), None, "{bad}");
    }
    assert_eq!(from_decimal("750", 2), None);
}

#[test]
fn a_committed_price_round_trips() {
    let aggregate = Aggregate { price: -9, confidence: 4, time_unix_ms: NOW, used: 0b101, outliers: 0b10 };
    let price = CommittedPrice { aggregate, exponent: -2, max_age_ms: 5_000, height: 12 };
    assert_eq!(CommittedPrice::parse(Bytes::copy_from_slice(&price.encode())), Ok(price));
    let data = price.log_data();
    assert_eq!(data[..32], [[0xff; 31].as_slice(), &[0xf7]].concat());
    assert_eq!((data[63], data[64], data[95]), (4, 0xff, 0xfe));
}

proptest! {
    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let bytes = Bytes::from(bytes);
        if let Ok(batch) = PriceBatch::parse(bytes.clone()) {
            prop_assert_eq!(batch.encode(), bytes.to_vec());
        }
        if let Ok(quote) = Quote::parse(bytes.clone()) {
            prop_assert_eq!(quote.to_bytes(), bytes);
        }
    }

    /// A minority below half of the quorum moves nothing beyond what the honest say, whatever it says.
    #[test]
    fn a_minority_cannot_move_the_price(
        honest in proptest::collection::vec(990i64..=1_010, 3..=8),
        lies in proptest::collection::vec(any::<i64>(), 0..=2),
    ) {
        let all = honest.len() + lies.len();
        prop_assume!(lies.len() * 2 < honest.len());
        let spec = FeedSpec { quorum: (2 * lies.len() + 1) as u16, ..spec(all as u16, 1) };
        let prices: Vec<i64> = honest.iter().chain(&lies).copied().collect();
        if let Ok(aggregate) = of(&spec, &prices) {
            prop_assert!(aggregate.price >= *honest.iter().min().unwrap());
            prop_assert!(aggregate.price <= *honest.iter().max().unwrap());
        }
    }

    #[test]
    fn decimal_round_trip(price: i64, exponent in -18i8..=18) {
        prop_assert_eq!(from_decimal(&decimal(price, exponent), exponent), Some(price));
    }
}

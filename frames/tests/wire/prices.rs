//! Arbitrary contents of the frames about prices, and of ticks.

use ghost_frames::{
    Frame,
    price::{PriceEvidence, PriceReport, PriceTick},
};
use ghost_proto::{
    GenesisId, KeyPair, Quote, Report,
    limits::{PRICE_FEEDS_MAX, PRICE_PUBLISH_REPORTS_MAX},
    message as m,
    price::{Equivocation, ReportFields},
};
use proptest::{collection::vec, option, prelude::*};

use crate::round_trip::{boxed, bytes};

prop_compose! {
    fn report()(
        feed: u16, publisher: u16, sequence: u64, time_unix_ms: u64, price: i64, confidence: u64, seed in 0u8..4,
    ) -> Report {
        let fields = ReportFields { feed, publisher, sequence, time_unix_ms, price, confidence };
        Report::sign(fields, &GenesisId([1; 32]), &KeyPair::from_seed(&[seed; 32]))
    }
}

prop_compose! {
    fn evidence()(first in report(), move_by in 1i64..) -> Equivocation {
        let fields = ReportFields { price: first.price.wrapping_add(move_by), ..*first };
        let second = Report::sign(fields, &GenesisId([1; 32]), &KeyPair::from_seed(&[1; 32]));
        Equivocation::of(first, second).expect("the prices differ")
    }
}

pub(crate) fn any_of(name: &str) -> BoxedStrategy<Frame> {
    let names = || vec("[A-Z/]{1,12}", 0..=PRICE_FEEDS_MAX);
    match name {
        "PriceReport" => boxed(report().prop_map(PriceReport)),
        "PriceEvidence" => boxed(evidence().prop_map(PriceEvidence)),
        "PricesRequest" => boxed(names().prop_map(|feeds| m::PricesRequest { feeds })),
        "PricesAnswer" => {
            let row = (any::<u32>(), bytes(0..300), bytes(0..900), bytes(0..46), any::<u32>()).prop_map(
                |(feed, spec, quote, committed, flagged)| m::PriceRow {
                    feed,
                    spec,
                    quote,
                    committed,
                    flagged,
                },
            );
            boxed(
                (any::<u64>(), vec(row, 0..=PRICE_FEEDS_MAX))
                    .prop_map(|(time_unix_ms, prices)| m::PricesAnswer { time_unix_ms, prices }),
            )
        }
        "PriceProofRequest" => boxed("[A-Z/]{1,32}".prop_map(|feed| m::PriceProofRequest { feed })),
        "PriceProof" => boxed(
            (vec(bytes(227), 0..20), bytes(0..500), any::<u32>(), vec(bytes(32), 0..20), bytes(0..300))
                .prop_map(|(headers, receipt, index, path, certificate)| m::PriceProof {
                    headers,
                    receipt,
                    index,
                    path,
                    certificate,
                }),
        ),
        "PublishRequest" => boxed(
            vec(bytes(100), 0..=PRICE_PUBLISH_REPORTS_MAX).prop_map(|reports| m::PublishRequest { reports }),
        ),
        "PublishAnswer" => {
            let result = (any::<bool>(), "[a-z ]{0,80}")
                .prop_map(|(taken, reason)| m::PublishResult { taken, reason });
            boxed(vec(result, 0..=PRICE_PUBLISH_REPORTS_MAX).prop_map(|results| m::PublishAnswer { results }))
        }
        "PriceTicksRequest" => {
            boxed(
                (names(), any::<u32>(), any::<u64>())
                    .prop_map(|(feeds, rate_ms, token)| m::PriceTicksRequest { feeds, rate_ms, token }),
            )
        }
        "PriceTicksAnswer" => boxed(
            (vec(any::<u32>(), 0..=PRICE_FEEDS_MAX), any::<u64>())
                .prop_map(|(feeds, time_unix_ms)| m::PriceTicksAnswer { feeds, time_unix_ms }),
        ),
        "PriceFollowRequest" => {
            boxed(("[A-Z/]{0,32}", option::of((any::<u64>(), any::<u64>(), bytes(0..33)))).prop_map(
                |(feed, place)| {
                    let resume = place.map(|(epoch, seq, hash)| m::FeedPlace { epoch, seq, hash });
                    m::PriceFollowRequest { feed, resume }
                },
            ))
        }
        other => crate::markets::any_of(other),
    }
}

proptest! {
    #[test]
    fn ticks_round_trip_and_fit_the_least_datagram(
        token: u64, number: u64, price: i64, publishers in 1u16..=11,
    ) {
        let reports = (0..publishers).map(|publisher| {
            let fields =
                ReportFields { feed: 1, publisher, sequence: 1, time_unix_ms: 1, price, confidence: 1 };
            Report::sign(fields, &GenesisId([1; 32]), &KeyPair::from_seed(&[1; 32]))
        });
        let tick = PriceTick { token, number, quote: Quote { feed: 1, reports: reports.collect() } };
        let bytes = tick.to_bytes();
        prop_assert!(bytes.len() <= 1_162);
        prop_assert_eq!(PriceTick::parse(bytes), Ok(tick));
    }

    #[test]
    fn parsing_a_tick_never_panics(bytes in vec(any::<u8>(), 0..1_200)) {
        if let Ok(tick) = PriceTick::parse(bytes.clone().into()) {
            prop_assert_eq!(tick.to_bytes().to_vec(), bytes);
        }
    }
}

//! Arbitrary contents of the frames about feeds and markets.

use ghost_frames::{
    Frame,
    feed::{FeedEntries, FeedIdle, FeedNotice, FeedSnapshot, FeedStep, SnapshotReason},
};
use ghost_proto::{FeedPosition, message as m};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::round_trip::{block_ref, boxed, bytes, text};

fn position() -> impl Strategy<Value = FeedPosition> {
    any::<(u32, [u8; 32])>().prop_map(|(seq, hash)| FeedPosition { seq: seq.into(), hash })
}

fn market_row() -> impl Strategy<Value = m::MarketRow> {
    (text(20), text(10), any::<[u64; 4]>(), bytes(32), bytes(16)).prop_map(
        |(name, base, [seq, orders, bid_ticks, lot], hash, volume_lots)| m::MarketRow {
            name,
            quote: base.clone(),
            base,
            seq,
            orders,
            bid_ticks,
            lot,
            hash,
            volume_lots,
            ..Default::default()
        },
    )
}

/// Any frame of the kind with this name.
pub(crate) fn any_of(name: &str) -> BoxedStrategy<Frame> {
    match name {
        "FeedNotice" => {
            let reasons = [
                SnapshotReason::Begin,
                SnapshotReason::TooOld,
                SnapshotReason::Diverged,
                SnapshotReason::Conflated,
            ];
            boxed(
                (select(reasons.to_vec()), any::<u64>())
                    .prop_map(|(reason, skipped)| FeedNotice { reason, skipped }),
            )
        }
        "FeedSnapshot" => boxed(
            (any::<(u64, bool)>(), position(), bytes(0..100), bytes(0..300))
                .prop_map(|((epoch, last), at, mark, bytes)| FeedSnapshot { epoch, at, last, mark, bytes }),
        ),
        "FeedEntries" => boxed(
            (any::<u64>(), position(), bytes(0..100), vec(bytes(0..100), 1..20))
                .prop_map(|(epoch, prev, mark, entries)| FeedEntries { epoch, prev, mark, entries }),
        ),
        "FeedStep" => boxed(
            (any::<u64>(), position(), position(), bytes(0..100), bytes(0..300))
                .prop_map(|(epoch, prev, at, mark, bytes)| FeedStep { epoch, prev, at, mark, bytes }),
        ),
        "FeedIdle" => boxed(
            (any::<(u64, u64)>(), position(), bytes(0..100))
                .prop_map(|((epoch, age_ms), at, mark)| FeedIdle { epoch, at, age_ms, mark }),
        ),
        "BookRequest" => boxed(
            (text(20), 0..6i32, any::<(u32, u64)>(), bytes(0..21), option::of((any::<u64>(), bytes(32))))
                .prop_map(|(market, view, (levels, grouping_ticks), owner, resume)| m::BookRequest {
                    market,
                    view,
                    levels,
                    grouping_ticks,
                    owner,
                    resume: resume.map(|(seq, hash)| m::FeedPlace { epoch: seq, seq, hash }),
                }),
        ),
        "MarketsRequest" => boxed(text(20).prop_map(|market| m::MarketsRequest { market })),
        "MarketsAnswer" => boxed(
            (block_ref(), vec(market_row(), 0..5)).prop_map(|(at, markets)| m::MarketsAnswer { at, markets }),
        ),
        "BalancesRequest" => boxed(bytes(0..21).prop_map(|address| m::BalancesRequest { address })),
        "BalancesAnswer" => boxed((block_ref(), vec((text(10), bytes(16)), 0..5)).prop_map(|(at, rows)| {
            let row = |(asset, free)| m::BalanceRow { asset, free, ..Default::default() };
            m::BalancesAnswer { at, balances: rows.into_iter().map(row).collect() }
        })),
        other => panic!("no arbitrary {other}"),
    }
}

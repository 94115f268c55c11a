//! Frames of feeds and markets.

use bytes::Bytes;
use ghost_frames::{
    Frame,
    StreamType::{Books, Rpc},
    feed::{FeedEntries, FeedIdle, FeedNotice, FeedSnapshot, FeedStep, SnapshotReason},
};
use ghost_proto::{FeedPosition, message as m};

use crate::samples::{Sample, World};

const EPOCH: u64 = 0x0102_0304_0506_0708;

fn origin() -> FeedPosition {
    FeedPosition::origin(EPOCH, b"GHOST/USD")
}

fn sample(name: &'static str, frame: impl Into<Frame>, meaning: &str) -> Sample {
    Sample { name, stream: Books, frame: frame.into(), meaning: meaning.into() }
}

pub(crate) fn samples(world: &World) -> Vec<Sample> {
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    let one = origin().after(EPOCH, &first);
    let two = one.after(EPOCH, &second);
    let mark = Bytes::from_static(b"mark");
    let block = || {
        let header = world.block.header();
        let hash = Bytes::copy_from_slice(&header.id().0);
        Some(m::BlockRef { height: header.height, id: hash, slot: header.slot })
    };
    let place = m::FeedPlace { epoch: EPOCH, seq: 1, hash: Bytes::copy_from_slice(&one.hash) };
    let mut samples = vec![
        sample(
            "feed notice",
            FeedNotice { reason: SnapshotReason::Conflated, skipped: 5 },
            "conflated: five entries are not told one by one, a snapshot comes",
        ),
        sample(
            "feed snapshot",
            FeedSnapshot {
                epoch: EPOCH,
                at: origin(),
                last: true,
                mark: mark.clone(),
                bytes: Bytes::from_static(b"all"),
            },
            "all that stands at the origin, in one part",
        ),
        sample(
            "feed entries",
            FeedEntries { epoch: EPOCH, prev: origin(), mark: mark.clone(), entries: vec![first, second] },
            "entries 1 and 2",
        ),
        sample(
            "feed step",
            FeedStep {
                epoch: EPOCH,
                prev: origin(),
                at: two,
                mark: mark.clone(),
                bytes: Bytes::from_static(b"change"),
            },
            "a view of the same two entries",
        ),
        sample("feed idle", FeedIdle { epoch: EPOCH, at: two, age_ms: 1_500, mark }, "nothing for 1.5 s"),
        sample(
            "book request",
            m::BookRequest {
                market: "GHOST/USD".into(),
                view: m::BookView::BookDepth.into(),
                levels: 10,
                grouping_ticks: 5,
                owner: Bytes::new(),
                resume: Some(place),
            },
            "ten prices on each side, five ticks to a row, from entry 1 on",
        ),
    ];
    let rpc = [
        ("markets request", Frame::from(m::MarketsRequest { market: "GHOST/USD".into() }), "one market"),
        (
            "markets answer",
            m::MarketsAnswer {
                at: block(),
                markets: vec![m::MarketRow {
                    name: "GHOST/USD".into(),
                    base: "GHOST".into(),
                    quote: "USD".into(),
                    base_decimals: 9,
                    quote_decimals: 6,
                    lot: 1_000,
                    tick: 1,
                    maker_fee_ppm: 100,
                    taker_fee_ppm: 500,
                    seq: 2,
                    hash: Bytes::copy_from_slice(&two.hash),
                    orders: 2,
                    bid_ticks: 99,
                    bid_lots: 4,
                    ask_ticks: 101,
                    ask_lots: 6,
                    ..Default::default()
                }],
            }
            .into(),
            "a market that has not traded",
        ),
        (
            "balances request",
            m::BalancesRequest { address: Bytes::copy_from_slice(&world.senders[0].address().0) }.into(),
            "of the first sender",
        ),
        (
            "balances answer",
            m::BalancesAnswer {
                at: block(),
                balances: vec![m::BalanceRow {
                    asset: "USD".into(),
                    decimals: 6,
                    free: Bytes::copy_from_slice(&5u128.to_be_bytes()),
                    locked: Bytes::copy_from_slice(&3u128.to_be_bytes()),
                }],
            }
            .into(),
            "five units free, three in open orders",
        ),
    ];
    samples.extend(rpc.map(|(name, frame, meaning)| Sample {
        name,
        stream: Rpc,
        frame,
        meaning: meaning.into(),
    }));
    samples
}

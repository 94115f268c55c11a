use std::time::Duration;

use ghost_proto::{KeyPair, price::ReportFields};

use super::*;

const GENESIS: GenesisId = GenesisId([7; 32]);
const NOW: u64 = 1_000_000;

fn key(n: u16) -> KeyPair {
    KeyPair::from_seed(&[n as u8 + 1; 32])
}

fn peer(n: u8) -> PeerId {
    ghost_protocol::Identity::from_seed(&[n; 32]).peer_id()
}

fn feeds(quorum: u16) -> Arc<[FeedSpec]> {
    let spec = FeedSpec {
        name: "GHO/USD".into(),
        exponent: -2,
        publishers: (0..4).map(|n| key(n).public()).collect(),
        quorum,
        heartbeat_ms: 1_000,
        deviation_bps: 50,
        max_age_ms: 5_000,
    };
    [spec].into()
}

fn oracle() -> (Oracle, Instant) {
    let now = Instant::now();
    (Oracle::new(GENESIS, feeds(3), now), now)
}

fn report(publisher: u16, sequence: u64, price: i64) -> Report {
    at(publisher, sequence, price, NOW)
}

fn at(publisher: u16, sequence: u64, price: i64, time_unix_ms: u64) -> Report {
    let fields = ReportFields { feed: 0, publisher, sequence, time_unix_ms, price, confidence: 1 };
    Report::sign(fields, &GENESIS, &key(publisher))
}

fn forged(publisher: u16, sequence: u64, price: i64) -> Report {
    let mut bytes = *report(publisher, sequence, price).bytes();
    bytes[99] ^= 1;
    Report::parse(bytes::Bytes::copy_from_slice(&bytes)).unwrap()
}

#[test]
fn scenario_31_what_is_forged_ahead_or_alone_is_not_delivered_and_only_forgery_is_an_offence() {
    let (mut oracle, now) = oracle();
    let mut take = |from: u8, report| oracle.report(Some(peer(from)), report, now, NOW);

    // A bad signature: nothing leaves, and the peer is named.
    let (verdict, effects) = take(1, forged(0, 1, 100));
    assert_eq!((verdict, effects), (Verdict::BadSignature, vec![Effect::Offence(peer(1))]));

    // A time in the future: nothing leaves, and nobody is named; from both sides, 1 ms apart.
    let (verdict, effects) = take(1, at(0, 1, 100, NOW + PRICE_AHEAD_MS_MAX + 1));
    assert_eq!((verdict, effects), (Verdict::Ahead, Vec::new()));
    let (verdict, effects) = take(1, at(0, 1, 100, NOW + PRICE_AHEAD_MS_MAX));
    assert_eq!(verdict, Verdict::Taken);
    assert_eq!(effects.len(), 1, "passed on, and no price of one report: {effects:?}");

    // No quorum: each report travels, no price is delivered; the third makes one.
    let (_, effects) = take(2, report(1, 1, 102));
    assert!(!effects.contains(&Effect::Price(0)));
    let (_, effects) = take(2, report(2, 1, 101));
    assert_eq!(effects.last(), Some(&Effect::Price(0)));
    assert_eq!(oracle.board().feeds[0].price.unwrap().price, 101);
}

#[test]
fn scenario_32_two_prices_for_one_sequence_are_evidence_gossiped_once_and_the_feed_is_flagged() {
    let (mut oracle, now) = oracle();
    for publisher in 0..4 {
        oracle.report(Some(peer(1)), report(publisher, 5, 100 + i64::from(publisher)), now, NOW);
    }
    assert_eq!(oracle.board().feeds[0].accused(), 0);
    let lie = report(3, 5, 999);
    let (verdict, effects) = oracle.report(Some(peer(2)), lie, now, NOW);
    assert_eq!(verdict, Verdict::Equivocates);
    let Effect::ForwardEvidence { evidence, except: None } = effects[0] else { panic!("{effects:?}") };
    assert_eq!(evidence.publisher(), 3);
    assert!(evidence.verify(&GENESIS, &key(3).public()).is_ok());
    assert_eq!(oracle.board().feeds[0].accused(), 0b1000);
    // What it said does not count any more; the three others make the price.
    assert_eq!(oracle.board().feeds[0].price.unwrap().used, 0b0111);

    // Once: neither the reports nor the evidence go anywhere again.
    for again in [lie, report(3, 5, 103), report(3, 6, 103)] {
        assert_eq!(oracle.report(Some(peer(3)), again, now, NOW), (Verdict::Accused, Vec::new()));
    }
    assert_eq!(oracle.evidence(Some(peer(3)), evidence, now), (Verdict::Known, Vec::new()));

    // Another node that hears of it passes it on once, and not to who told it.
    let mut other = Oracle::new(GENESIS, feeds(3), now);
    let (verdict, effects) = other.evidence(Some(peer(1)), evidence, now);
    let forward = Effect::ForwardEvidence { evidence, except: Some(peer(1)) };
    assert_eq!((verdict, effects), (Verdict::Taken, vec![forward]));
    assert_eq!(other.evidence(Some(peer(2)), evidence, now), (Verdict::Known, Vec::new()));
    assert_eq!(other.board().feeds[0].accused(), 0b1000);
}

#[test]
fn forged_evidence_accuses_who_sent_it() {
    let (mut oracle, now) = oracle();
    let evidence = Equivocation::of(forged(1, 5, 100), report(1, 5, 101)).unwrap();
    let (verdict, effects) = oracle.evidence(Some(peer(9)), evidence, now);
    assert_eq!((verdict, effects), (Verdict::BadSignature, vec![Effect::Offence(peer(9))]));
    assert_eq!(oracle.board().feeds[0].accused(), 0);
}

#[test]
fn each_report_is_passed_on_once_and_not_to_who_brought_it() {
    let (mut oracle, now) = oracle();
    let first = report(0, 5, 100);
    let (_, effects) = oracle.report(Some(peer(1)), first, now, NOW);
    assert_eq!(effects, [Effect::Forward { report: first, except: Some(peer(1)) }]);
    for from in [1, 2, 3] {
        assert_eq!(oracle.report(Some(peer(from)), first, now, NOW), (Verdict::Known, Vec::new()));
    }
    assert_eq!(oracle.report(None, report(0, 4, 100), now, NOW).0, Verdict::Old);
    assert_eq!(oracle.report(None, at(0, 6, 100, NOW - 1), now, NOW).0, Verdict::Old);
    assert_eq!(oracle.report(None, at(1, 6, 100, NOW - 5_001), now, NOW).0, Verdict::Old);
    assert_eq!(oracle.report(None, at(1, 6, 100, NOW - 5_000), now, NOW).0, Verdict::Taken);
    let unknown = Report::sign(ReportFields { publisher: 4, ..*first }, &GENESIS, &key(4));
    assert_eq!(oracle.report(None, unknown, now, NOW).0, Verdict::Unknown);
    let unknown = Report::sign(ReportFields { feed: 1, ..*first }, &GENESIS, &key(0));
    assert_eq!(oracle.report(None, unknown, now, NOW).0, Verdict::Unknown);
}

#[test]
fn a_price_that_stops_stays_and_grows_old() {
    let (mut oracle, now) = oracle();
    for publisher in 0..3 {
        oracle.report(None, report(publisher, 1, 100), now, NOW);
    }
    let before = oracle.board().feeds[0].clone();
    // One goes on alone, long after: no quorum, and the price is the old one with its old time.
    let (verdict, effects) = oracle.report(None, at(0, 2, 120, NOW + 60_000), now, NOW + 60_000);
    assert_eq!((verdict, effects.len()), (Verdict::Taken, 1));
    let row = &oracle.board().feeds[0];
    assert_eq!(**row, *before);
    assert_eq!(row.price.unwrap().age_ms(NOW + 60_000), 60_000);
    // And it proves itself still.
    let quote = row.quote.as_ref().unwrap();
    quote.verify(&feeds(3), &GENESIS, |_| false).unwrap();
    assert_eq!(quote.aggregate(&feeds(3)[0]).ok(), row.price);
}

#[test]
fn the_paces_of_publishers_and_peers_hold_from_both_sides() {
    let (mut oracle, now) = oracle();
    let burst = u64::from(PUBLISHER_REPORTS_PER_SECOND * BURST_SECONDS);
    for sequence in 1..=burst {
        assert_eq!(oracle.report(None, report(0, sequence, 100), now, NOW).0, Verdict::Taken);
    }
    assert_eq!(oracle.report(None, report(0, burst + 1, 100), now, NOW).0, Verdict::TooFast);
    assert_eq!(oracle.report(None, report(1, 1, 100), now, NOW).0, Verdict::Taken, "others have their own");
    let later = now + Duration::from_micros(1_000_000 / u64::from(PUBLISHER_REPORTS_PER_SECOND) + 1);
    assert_eq!(oracle.report(None, report(0, burst + 1, 100), later, NOW).0, Verdict::Taken);
    assert_eq!(oracle.publishers[0][0].recent.len(), RECENT_MAX);

    // Forgeries cost their peer its pace and not the publisher's.
    let checks = PEER_CHECKS_PER_SECOND * BURST_SECONDS;
    let forgery = forged(2, 1, 100);
    for _ in 0..checks {
        assert_eq!(oracle.report(Some(peer(1)), forgery, later, NOW).0, Verdict::BadSignature);
    }
    assert_eq!(oracle.report(Some(peer(1)), forgery, later, NOW).0, Verdict::PeerTooFast);
    assert_eq!(oracle.report(Some(peer(2)), report(2, 1, 100), later, NOW).0, Verdict::Taken);
}

#[test]
fn paces_of_peers_that_left_are_forgotten() {
    let (mut oracle, now) = oracle();
    for n in 0..=255u8 {
        let id = ghost_protocol::Identity::from_seed(&[n; 32]).peer_id();
        oracle.report(Some(id), forged(0, 1, 100), now, NOW);
    }
    assert_eq!(oracle.peers_len(), PEERS_SOFT_MAX);
    let later = now + Duration::from_secs(u64::from(BURST_SECONDS) + 1);
    let fresh = ghost_protocol::Identity::from_seed(&[0xaa; 32]).peer_id();
    let other = ghost_protocol::Identity::from_seed(&{
        let mut seed = [0xbb; 32];
        seed[0] = 1;
        seed
    })
    .peer_id();
    oracle.report(Some(fresh), forged(0, 1, 100), later, NOW);
    oracle.report(Some(other), forged(0, 1, 100), later, NOW);
    assert_eq!(oracle.peers_len(), 2);
}

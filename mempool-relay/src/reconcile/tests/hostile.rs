//! Peers that send what they please.

use ghost_frames::reconcile::SymbolsRequest;

use super::*;

#[test]
fn scenario_22_symbols_without_end_or_sense_stop_the_decoder() {
    let mut rng = rng(10);
    // Noise: nothing ever comes out.
    let mut decoder = Decoder::new(keys(0));
    let mut noise = || Symbol { sum: rng.random(), check: rng.random(), count: 0 };
    let mut end = Ok(false);
    let mut taken = 0;
    while end == Ok(false) {
        end = decoder.add((0..4_096).map(|_| noise()));
        taken += 4_096;
    }
    assert_eq!((end, taken), (Err(Undecodable::TooManySymbols), SYMBOLS_MAX + 4_096));

    // Every symbol alone is a single id of its own: peeling one makes others come out again and again.
    let mut decoder = Decoder::new(keys(0));
    let mut end = Ok(false);
    let mut from = 0u32;
    while end == Ok(false) && from < 4_096 {
        let singles = (from..from + 64).map(|index| {
            let id = std::iter::repeat_with(|| rng.random::<u64>())
                .find(|id| Mapping::new(*id).contains(index))
                .expect("one in a few thousand");
            Symbol { sum: id, check: keys(0).check(id), count: 1 }
        });
        end = decoder.add(singles);
        from += 64;
    }
    assert_eq!(end, Err(Undecodable::TooManyIds));
}

#[test]
fn scenario_22_ids_that_never_separate_under_a_known_key_do_under_another() {
    // Whoever knows the keys looks for ids whose second symbol is far away: they stay together in the first.
    let known = keys(0);
    let mut rng = rng(11);
    let stubborn: Vec<TxId> = std::iter::repeat_with(|| draw(&mut rng))
        .filter(|tx| {
            let mut mapping = Mapping::new(known.id(tx).0);
            mapping.advance();
            mapping.index() > 400
        })
        .take(2)
        .collect();
    let honest: Vec<TxId> = (0..50).map(|_| draw(&mut rng)).collect();
    let all: Vec<TxId> = honest.iter().chain(&stubborn).copied().collect();
    assert!(symbols_needed_with(known, &all, 1_000_000).is_none_or(|needed| needed > 400));
    for nonce in 1..200 {
        let needed = symbols_needed_with(keys(nonce), &all, 10_000).unwrap();
        assert!(needed <= 250, "{needed} under nonce {nonce}");
    }
}

fn symbols_needed_with(keys: Keys, ids: &[TxId], most: usize) -> Option<usize> {
    let mut symbols = vec![Symbol::default(); most.min(20_000)];
    encode(&items(keys, ids), 0, &mut symbols);
    let mut decoder = Decoder::new(keys);
    symbols
        .into_iter()
        .find_map(|symbol| decoder.add([symbol]).unwrap().then_some(()))
        .map(|()| decoder.len())
}

#[test]
fn scenario_22_an_answer_that_does_not_decode_ends_in_a_list() {
    let (asker, answerer) = sets(2_000, 30, 30, 12);
    let keys = keys(1);
    let (mut requester, ask) = Requester::open(0, asker.snapshot(keys));
    let mut responder = Responder::open(0, answerer.snapshot(keys), Instant::now());
    let count = answerer.members.len();
    let mut ask = Some(ask);
    let mut rng = rng(13);
    let mut asked = 0;
    while let Some(Ask::Symbols(request)) = &ask {
        asked = request.first + request.credit;
        assert!(asked as usize <= symbols_max(count));
        // Noise in place of symbols, as many as asked for.
        let symbols = (0..request.credit)
            .map(|_| CodedSymbol { sum: rng.random(), check: rng.random(), count: 0 })
            .collect::<Vec<_>>();
        let mut progress = Progress::Wait;
        let mut first = request.first;
        for chunk in symbols.chunks(4_096) {
            progress = requester.symbols(&Symbols { count: count as u32, first, symbols: chunk.to_vec() });
            first += chunk.len() as u32;
            if progress == Progress::NeedMembers {
                asker.give_members(requester.snapshot_mut());
                progress = requester.proceed();
            }
        }
        ask = match progress {
            Progress::Ask(ask) => Some(ask),
            other => panic!("{other:?} after {asked}"),
        };
    }
    assert!(matches!(ask, Some(Ask::Inventory(_))), "after {asked} symbols");
    answerer.give_members(responder.snapshot_mut());
    for frame in responder.inventory(0, Instant::now()).unwrap() {
        let Frame::Inventory(frame) = frame else { unreachable!() };
        assert_eq!(requester.inventory(&frame), Progress::Wait);
    }
    assert_eq!(requester.ended(), Progress::NeedMembers);
    asker.give_members(requester.snapshot_mut());
    let Progress::Found(difference) = requester.proceed() else { panic!("not found") };
    check(&asker.members, &answerer.members, &difference);
}

#[test]
fn scenario_22_more_than_was_asked_for_is_a_contradiction() {
    let (asker, answerer) = sets(100, 10, 10, 14);
    let open = || Requester::open(0, asker.snapshot(keys(1))).0;
    let symbols = answerer.snapshot(keys(1)).symbols(0, 81).unwrap();
    let frame = |count: usize, first: u32, from: usize, to: usize| Symbols {
        count: count as u32,
        first,
        symbols: symbols[from..to].iter().zip(from..).map(|(s, at)| s.coded(at < 80)).collect(),
    };
    let contradiction = Progress::Failed(Failure::Contradiction);
    assert_eq!(open().symbols(&frame(110, 0, 0, 81)), contradiction, "81 for 80");
    assert_ne!(open().symbols(&frame(110, 0, 0, 80)), contradiction);
    assert_eq!(open().symbols(&frame(110, 1, 1, 80)), contradiction, "not the first");
    let mut changes_its_mind = open();
    changes_its_mind.symbols(&frame(110, 0, 0, 10));
    assert_eq!(changes_its_mind.symbols(&frame(111, 10, 10, 20)), contradiction);
    assert_eq!(open().inventory(&Inventory { ids: vec![SketchId(1)] }), contradiction, "not asked for");
    let mut listing = open();
    listing.symbols(&frame(110, 0, 0, 10));
    let _ = listing.ask_inventory_for_tests();
    let ids: Vec<SketchId> = (0..111).map(SketchId).collect();
    assert_eq!(listing.inventory(&Inventory { ids: ids[..110].to_vec() }), Progress::Wait);
    assert_eq!(listing.inventory(&Inventory { ids: ids[110..].to_vec() }), contradiction, "111 of 110");
    let mut short = open();
    short.symbols(&frame(110, 0, 0, 10));
    assert_eq!(short.ended(), Progress::Failed(Failure::Short));
}

#[test]
fn a_responder_answers_in_turn_up_to_its_cap() {
    let (_, set) = sets(3_000, 0, 0, 15);
    let now = Instant::now();
    let open = || Responder::open(5, set.snapshot(keys(1)), now);
    let ask = |first, credit| SymbolsRequest { nonce: 5, count: 0, first, credit };
    let mut responder = open();
    assert_eq!(responder.symbols(&SymbolsRequest { nonce: 6, ..ask(0, 80) }, now), Err(Refusal::Unknown));
    assert_eq!(responder.symbols(&ask(80, 80), now), Err(Refusal::OutOfTurn));
    assert!(responder.symbols(&ask(0, 800), now).is_ok());
    assert_eq!(responder.symbols(&ask(0, 800), now), Err(Refusal::OutOfTurn), "once");
    assert_eq!(responder.symbols(&ask(800, 99), now), Err(Refusal::OutOfTurn), "an eighth is 100");
    assert!(responder.symbols(&ask(800, 100), now).is_ok());
    let max = symbols_max(3_000) as u32;
    assert_eq!(max, 3_000);
    assert!(responder.needs_members(&ask(900, max - 900)));
    assert_eq!(responder.symbols(&ask(900, max - 900), now), Err(Refusal::Unknown), "members are not here");
    set.give_members(responder.snapshot_mut());
    assert_eq!(responder.symbols(&ask(900, max - 899), now), Err(Refusal::OutOfTurn), "above the cap");
    assert!(responder.symbols(&ask(900, max - 900), now).is_ok());
    assert!(responder.inventory(5, now).is_ok());
    assert_eq!(responder.inventory(5, now), Err(Refusal::OutOfTurn), "once");
    let missing = MissingRequest { nonce: 5, more: true, ids: Vec::new() };
    for _ in 0..3_000 / 256 + 2 {
        assert_eq!(responder.missing(&missing, now), Ok(Vec::new()));
    }
    assert_eq!(responder.missing(&missing, now), Err(Refusal::OutOfTurn));
}

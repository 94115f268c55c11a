//! Mempool reconciliation measured: bytes, symbols for each transaction that differs, and CPU of both sides,
//! against a list of short ids and one of whole ids. Both ends in one thread, nothing in between.
//!
//! ```text
//! cargo run --release -p ghost-mempool-relay --example reconcile
//! ```

use std::{
    io::Write,
    time::{Duration, Instant},
};

use ghost_frames::Frame;
use ghost_mempool_relay::reconcile::{Ask, Journal, Keys, Prefix, Progress, Requester, Responder, Snapshot};
use ghost_proto::TxId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

const RUNS: usize = 5;

/// One side: its set, and its prefix warm from an earlier session.
struct Side {
    ids: Vec<TxId>,
    journal: Journal,
    prefix: Prefix,
    busy: Duration,
}

impl Side {
    fn new(ids: Vec<TxId>, keys: Keys) -> Self {
        let mut journal = Journal::default();
        ids.iter().for_each(|id| journal.added(*id));
        let prefix = Prefix::new(keys, 0, &journal, ids.iter().copied(), Instant::now());
        Self { ids, journal, prefix, busy: Duration::ZERO }
    }

    fn timed<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let out = work(self);
        self.busy += start.elapsed();
        out
    }

    fn snapshot(&mut self, cold: Option<Keys>) -> Snapshot {
        self.timed(|side| {
            if let Some(keys) = cold {
                side.prefix = Prefix::new(keys, 0, &side.journal, side.ids.iter().copied(), Instant::now());
            }
            side.prefix.snapshot(&side.journal, side.ids.iter().copied())
        })
    }
}

#[derive(Default)]
struct Figures {
    bytes: usize,
    asks: usize,
    symbols: usize,
    listed: bool,
    asker: Duration,
    answerer: Duration,
}

fn session(asker: &mut Side, answerer: &mut Side, cold: Option<Keys>, difference: usize) -> Figures {
    let mut figures = Figures::default();
    (asker.busy, answerer.busy) = (Duration::ZERO, Duration::ZERO);
    let own = asker.snapshot(cold);
    let (mut requester, mut ask) = Requester::open(0, own);
    let theirs = answerer.snapshot(cold);
    let mut responder = Responder::open(0, theirs, Instant::now());
    loop {
        figures.asks += 1;
        figures.bytes += ask.to_frame().len();
        let encoded = answerer.timed(|side| {
            let frames = match &ask {
                Ask::Symbols(request) => {
                    if responder.needs_members(request) {
                        responder.snapshot_mut().set_members(side.ids.clone());
                    }
                    responder.symbols(request, Instant::now())
                }
                Ask::Inventory(request) => {
                    responder.snapshot_mut().set_members(side.ids.clone());
                    responder.inventory(request.nonce, Instant::now())
                }
                Ask::Missing(_) => Ok(Vec::new()),
            };
            frames.expect("it is asked in turn").iter().map(Frame::encode).collect::<Vec<_>>()
        });
        figures.bytes += encoded.iter().map(|frame| frame.len()).sum::<usize>();
        let progress = asker.timed(|side| {
            let mut progress = Progress::Wait;
            for frame in encoded {
                let mut reader = ghost_frames::FrameReader::new(ghost_frames::StreamType::TxSync);
                reader.push(frame.bytes());
                progress = match reader.next().expect("our own frame").expect("a whole one") {
                    Frame::Symbols(symbols) => requester.symbols(&symbols),
                    Frame::Inventory(inventory) => requester.inventory(&inventory),
                    other => panic!("{other:?}"),
                };
                if progress == Progress::NeedMembers {
                    requester.snapshot_mut().set_members(side.ids.clone());
                    progress = requester.proceed();
                }
                if progress != Progress::Wait {
                    break;
                }
            }
            if progress == Progress::Wait {
                progress = requester.ended();
            }
            if progress == Progress::NeedMembers {
                requester.snapshot_mut().set_members(side.ids.clone());
                progress = requester.proceed();
            }
            progress
        });
        match progress {
            Progress::Ask(next) => ask = next,
            Progress::Found(found) => {
                assert_eq!(found.len(), difference);
                figures.symbols = requester.received().0;
                figures.listed = requester.was_listed();
                (figures.asker, figures.answerer) = (asker.busy, answerer.busy);
                return figures;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Medians of {RUNS} runs; half of the difference on each side. Bytes of both directions until the asker knows the\n\
         difference. CPU of asker / answerer in ms, prefixes cold and warm. Lists: 8 and 32 bytes for each id.\n"
    )?;
    writeln!(
        out,
        "| set | differ | bytes | symbols/d | requests | cold ms | warm ms | list of 8 B | list of 32 B |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for size in [10_000usize, 100_000, 1_000_000] {
        for difference in [0usize, 1, 10, 100, 1_000, 10_000] {
            let (mut rows, mut warm) = (Vec::new(), Vec::new());
            for run in 0..RUNS {
                let mut rng = ChaCha12Rng::seed_from_u64(run as u64);
                let mut draw = |count: usize| -> Vec<TxId> {
                    (0..count)
                        .map(|_| {
                            let mut id = [0; 32];
                            rng.fill_bytes(&mut id);
                            TxId(id)
                        })
                        .collect()
                };
                let common = draw(size - difference);
                let (half, rest) = (draw(difference / 2), draw(difference - difference / 2));
                let keys = Keys::derive(&[run as u8; 16], 0);
                let mut asker = Side::new([common.clone(), half].concat(), keys);
                let mut answerer = Side::new([common, rest].concat(), keys);
                rows.push(session(&mut asker, &mut answerer, Some(keys), difference));
                warm.push(session(&mut asker, &mut answerer, None, difference));
            }
            let of =
                |value: &dyn Fn(&Figures) -> f64, rows: &[Figures]| median(rows.iter().map(value).collect());
            let ms = |rows: &[Figures]| {
                format!(
                    "{:.2} / {:.2}",
                    of(&|f| f.asker.as_secs_f64() * 1e3, rows),
                    of(&|f| f.answerer.as_secs_f64() * 1e3, rows)
                )
            };
            let overhead = match difference {
                0 => "–".to_owned(),
                _ if rows.iter().any(|row| row.listed) => "listed".to_owned(),
                _ => format!("{:.2}", of(&|f| f.symbols as f64 / difference as f64, &rows)),
            };
            writeln!(
                out,
                "| {size} | {difference} | {} | {overhead} | {} | {} | {} | {} | {} |",
                of(&|f| f.bytes as f64, &rows),
                of(&|f| f.asks as f64, &rows),
                ms(&rows),
                ms(&warm),
                size * 8,
                size * 32
            )?;
        }
    }
    Ok(())
}

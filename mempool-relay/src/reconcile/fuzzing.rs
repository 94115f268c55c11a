//! The bodies of fuzz targets, here so that ordinary tests run the same code. Only panics, hangs and broken
//! invariants are bugs.

use ghost_frames::{Frame, FrameReader, StreamType};
use ghost_proto::TxId;

use super::{Decoder, Item, Journal, Keys, Prefix, Progress, Requester, SketchId, Symbol, encode};

/// Feeds a decoder with symbols that `data` describes: noise, single ids in the wrong and in the right
/// places, and whole sets, in batches of any size.
pub fn symbols(data: &[u8]) {
    let Some((&[seed, batch], mut rest)) = data.split_first_chunk::<2>() else { return };
    let keys = Keys::derive(&[seed; 16], 0);
    let item = |id: u64| Item { id: SketchId(id), check: keys.check(id) };
    let mut made = vec![Symbol::default(); 1_024];
    let mut set = Vec::new();
    let mut honest = true;
    while let Some((op, after)) = rest.split_first_chunk::<9>() {
        rest = after;
        let id = u64::from_be_bytes(op[1..].try_into().expect("eight bytes"));
        let at = id as usize % made.len();
        match op[0] % 4 {
            0 => {
                made[at].toggle(id, u32::from(op[0]));
                honest = false;
            }
            1 => {
                made[at].toggle(id, keys.check(id));
                honest = false;
            }
            _ => set.push(item(id)),
        }
    }
    encode(&set, 0, &mut made);
    let mut decoder = Decoder::new(keys);
    let mut complete = false;
    for chunk in made.chunks(1 + usize::from(batch)) {
        match decoder.add(chunk.iter().copied()) {
            Ok(done) => complete = done,
            Err(_) => return,
        }
        if complete {
            break;
        }
    }
    let taken = decoder.len();
    let Ok(ids) = decoder.finish() else { return };
    assert!(ids.len() <= taken);
    if complete {
        // Every id is in the first symbol: what was found is what was in there.
        let sum = ids.iter().fold(0, |sum, id| sum ^ id);
        let check = ids.iter().fold(0, |sum, id| sum ^ keys.check(*id));
        assert_eq!((sum, check), (made[0].sum, made[0].check));
    }
    if complete && honest {
        // An id that was put in twice is not in.
        let mut odd: Vec<u64> = Vec::new();
        let mut sorted: Vec<u64> = set.iter().map(|item| item.id.0).collect();
        sorted.sort_unstable();
        for id in sorted {
            if odd.pop_if(|last| *last == id).is_none() {
                odd.push(id);
            }
        }
        assert_eq!(ids, odd);
    }
}

/// Answers a session with the frames in `data`.
pub fn answers(data: &[u8]) {
    let Some((&size, frames)) = data.split_first() else { return };
    let ids: Vec<TxId> = (0..size).map(|n| TxId([n; 32])).collect();
    let mut journal = Journal::default();
    ids.iter().for_each(|id| journal.added(*id));
    let keys = Keys::derive(&[0; 16], 0);
    let mut prefix = Prefix::new(keys, 0, &journal, ids.iter().copied(), std::time::Instant::now());
    let (mut requester, _) = Requester::open(0, prefix.snapshot(&journal, ids.iter().copied()));
    let mut reader = FrameReader::new(StreamType::TxSync);
    reader.push(frames);
    loop {
        let mut progress = match reader.next() {
            Ok(Some(Frame::Symbols(frame))) => requester.symbols(&frame),
            Ok(Some(Frame::Inventory(frame))) => requester.inventory(&frame),
            Ok(Some(_)) => requester.ended(),
            Ok(None) | Err(_) => return,
        };
        if progress == Progress::NeedMembers {
            requester.snapshot_mut().set_members(ids.clone());
            progress = requester.proceed();
        }
        match progress {
            Progress::Found(difference) => assert!(difference.ours.len() <= ids.len()),
            Progress::NeedMembers => panic!("they were given"),
            Progress::Wait | Progress::Ask(_) | Progress::Failed(_) => {}
        }
    }
}

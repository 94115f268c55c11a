//! The publisher's side of a feed.

use std::collections::VecDeque;

use bytes::Bytes;
use ghost_frames::{
    EncodedFrame, Payload,
    feed::{FeedEntries, FeedIdle, FeedNotice, FeedSnapshot, FeedStep, SnapshotReason},
};
use ghost_proto::{
    FeedPosition,
    limits::{
        FEED_ENTRIES_PER_FRAME_MAX, FEED_FRAME_BYTES_MAX, FEED_PAYLOAD_BYTES_MAX, FEED_SNAPSHOT_BYTES_MAX,
    },
};

use super::Place;

/// What a feed keeps, and what it owes a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Bytes of frames kept for those who come back. The cost of one feed, whatever its subscribers.
    pub ring_bytes_max: usize,
    /// Bytes that one subscriber may be behind before it is conflated. At most the ring's.
    pub behind_bytes_max: usize,
}

impl Default for FeedLimits {
    /// 4 MiB of history, about 100,000 order events; a subscriber may be behind by 256 KiB, so that the 16
    /// subscriptions of one peer stay below 4 MiB.
    fn default() -> Self {
        Self { ring_bytes_max: 4 * 1024 * 1024, behind_bytes_max: 256 * 1024 }
    }
}

#[derive(Debug)]
struct Item {
    prev: FeedPosition,
    at: FeedPosition,
    frame: EncodedFrame,
    /// Bytes of all frames before it since the feed began.
    offset: u64,
}

/// Snapshot frames of a position, shared by all who need them.
type Parts = Vec<EncodedFrame>;

/// A feed, at its publisher. See the module's text; its owner calls [`Self::publish`] (or [`Self::step`], for a view) with what is
/// new, [`Self::rebase`] when history was replaced, and for each subscriber [`Self::join`] once, then [`Self::next`].
#[derive(Debug)]
pub struct Feed {
    epoch: u64,
    at: FeedPosition,
    limits: FeedLimits,
    ring: VecDeque<Item>,
    /// Of the first item of the ring.
    first: u64,
    /// Bytes of all frames since the feed began.
    written: u64,
    /// Counts replaced histories: readers of an earlier one have diverged.
    history: u64,
    parts: Option<Parts>,
}

/// One subscriber's place in a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Number of the next item of the ring.
    next: u64,
    /// Number of the newest entry it has.
    seq: u64,
    history: u64,
    owed: Option<SnapshotReason>,
    /// The rest of a frame that it has a part of.
    rest: Option<EncodedFrame>,
}

/// How a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Where it left.
    Resumed,
    /// With a snapshot.
    Snapshot(SnapshotReason),
}

/// What a subscriber gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It has everything.
    Nothing,
    /// These frames.
    Frames(Vec<EncodedFrame>),
    /// This, then a snapshot ([`Feed::snapshot`]).
    Snapshot(FeedNotice),
}

impl Feed {
    /// A feed that continues at a position.
    pub fn new(epoch: u64, at: FeedPosition, limits: FeedLimits) -> Self {
        Self { epoch, at, limits, ring: VecDeque::new(), first: 0, written: 0, history: 0, parts: None }
    }

    /// Which sequence.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where it stands.
    pub fn at(&self) -> FeedPosition {
        self.at
    }

    /// Bytes of frames kept.
    pub fn ring_bytes(&self) -> usize {
        self.ring.front().map_or(0, |item| self.written - item.offset) as usize
    }

    /// Appends entries. They are encoded here, once for everybody. An entry that is longer than
    /// [`FEED_PAYLOAD_BYTES_MAX`] is its maker's fault; it panics in debug builds.
    pub fn publish(&mut self, entries: &[Bytes], mark: &Bytes) {
        let mut entries = entries;
        while !entries.is_empty() {
            let mut bytes = 0;
            let fitting = entries.iter().take(FEED_ENTRIES_PER_FRAME_MAX).take_while(|entry| {
                debug_assert!(entry.len() <= FEED_PAYLOAD_BYTES_MAX);
                bytes += entry.len() + 4;
                bytes <= FEED_FRAME_BYTES_MAX
            });
            let (now, later) = entries.split_at(fitting.count().max(1));
            let prev = self.at;
            let at = now.iter().fold(prev, |at, entry| at.after(self.epoch, entry));
            let frame =
                FeedEntries { epoch: self.epoch, prev, mark: mark.clone(), entries: now.to_vec() }.to_frame();
            self.append(at, frame);
            entries = later;
        }
    }

    /// Appends one step of a view.
    pub fn step(&mut self, at: FeedPosition, mark: &Bytes, bytes: Bytes) {
        let step = FeedStep { epoch: self.epoch, prev: self.at, at, mark: mark.clone(), bytes };
        self.append(at, step.to_frame());
    }

    fn append(&mut self, at: FeedPosition, frame: EncodedFrame) {
        let offset = self.written;
        self.written += frame.len() as u64;
        self.ring.push_back(Item { prev: self.at, at, frame, offset });
        self.at = at;
        self.parts = None;
        while self.ring_bytes() > self.limits.ring_bytes_max {
            self.ring.pop_front();
            self.first += 1;
        }
    }

    /// Another history took the place of this one. Subscribers get a snapshot, announced as a divergence.
    pub fn rebase(&mut self, at: FeedPosition) {
        self.first += self.ring.len() as u64;
        self.ring.clear();
        self.at = at;
        self.history += 1;
        self.parts = None;
    }

    /// A new subscriber, or one that was at `from` here or elsewhere.
    pub fn join(&self, from: Option<Place>) -> (Reader, Joined) {
        let end = self.first + self.ring.len() as u64;
        let reader = |next, seq, owed| Reader { next, seq, history: self.history, owed, rest: None };
        let snapshot = |reason| (reader(end, 0, Some(reason)), Joined::Snapshot(reason));
        let Some(from) = from else { return snapshot(SnapshotReason::Begin) };
        let seq = from.at.seq;
        if from.epoch != self.epoch || seq > self.at.seq {
            return snapshot(SnapshotReason::Diverged);
        }
        if from.at == self.at {
            return (reader(end, seq, None), Joined::Resumed);
        }
        let index = self.ring.partition_point(|item| item.at.seq <= seq);
        let Some(item) = self.ring.get(index) else { return snapshot(SnapshotReason::Diverged) };
        if item.prev == from.at {
            return (reader(self.first + index as u64, seq, None), Joined::Resumed);
        }
        if item.prev.seq == seq {
            return snapshot(SnapshotReason::Diverged);
        }
        if item.prev.seq > seq {
            return snapshot(SnapshotReason::TooOld);
        }
        match self.rest_of(item, from.at) {
            Some(rest) => {
                let reader =
                    Reader { rest: Some(rest), ..reader(self.first + index as u64 + 1, item.at.seq, None) };
                (reader, Joined::Resumed)
            }
            None => snapshot(SnapshotReason::Diverged),
        }
    }

    /// What a frame holds behind a position inside it.
    fn rest_of(&self, item: &Item, from: FeedPosition) -> Option<EncodedFrame> {
        let mut reader = ghost_frames::FrameReader::new(ghost_frames::StreamType::Books);
        reader.push(item.frame.bytes());
        let Ok(Some(ghost_frames::Frame::FeedEntries(mut frame))) = reader.next() else { return None };
        let inside = usize::try_from(from.seq - item.prev.seq).ok()?;
        let (before, _) = frame.entries.split_at_checked(inside)?;
        let at = before.iter().fold(item.prev, |at, entry| at.after(self.epoch, entry));
        frame.entries.drain(..inside);
        frame.prev = at;
        (at == from).then(|| frame.to_frame())
    }

    /// What a subscriber gets next: frames of at most `bytes_max`, but always one, if there is one.
    pub fn next(&self, reader: &mut Reader, bytes_max: usize) -> Next {
        let end = self.first + self.ring.len() as u64;
        if reader.history != self.history {
            reader.owed.get_or_insert(SnapshotReason::Diverged);
        } else if reader.owed.is_none() {
            let behind = match reader.next.checked_sub(self.first) {
                Some(index) => self.ring.get(index as usize).map_or(0, |item| self.written - item.offset),
                None => u64::MAX,
            };
            if behind > self.limits.behind_bytes_max as u64 {
                reader.owed = Some(SnapshotReason::Conflated);
            }
        }
        if let Some(reason) = reader.owed.take() {
            let counted = matches!(reason, SnapshotReason::Conflated | SnapshotReason::TooOld);
            let skipped = if counted { self.at.seq.saturating_sub(reader.seq) } else { 0 };
            *reader = Reader { next: end, seq: self.at.seq, history: self.history, owed: None, rest: None };
            return Next::Snapshot(FeedNotice { reason, skipped });
        }
        let mut frames: Vec<EncodedFrame> = reader.rest.take().into_iter().collect();
        let mut bytes: usize = frames.iter().map(EncodedFrame::len).sum();
        let from = reader.next.saturating_sub(self.first) as usize;
        for item in self.ring.range(from..) {
            bytes += item.frame.len();
            if bytes > bytes_max && !frames.is_empty() {
                break;
            }
            frames.push(item.frame.clone());
            reader.next += 1;
            reader.seq = item.at.seq;
        }
        if frames.is_empty() { Next::Nothing } else { Next::Frames(frames) }
    }

    /// The snapshot of this moment, in frames. `make` gives all of it and the mark; it is asked once for each
    /// position, and what it gives beyond [`FEED_SNAPSHOT_BYTES_MAX`] is its fault: it panics in debug builds.
    pub fn snapshot(&mut self, make: impl FnOnce() -> (Bytes, Bytes)) -> Vec<EncodedFrame> {
        let Self { epoch, at, parts, .. } = self;
        let parts = parts.get_or_insert_with(|| {
            let (whole, mark) = make();
            debug_assert!(whole.len() <= FEED_SNAPSHOT_BYTES_MAX);
            let mut rest = whole;
            let mut parts = Vec::with_capacity(1);
            loop {
                let bytes = rest.split_to(rest.len().min(FEED_FRAME_BYTES_MAX));
                let last = rest.is_empty();
                let part = FeedSnapshot { epoch: *epoch, at: *at, last, mark: mark.clone(), bytes };
                parts.push(part.to_frame());
                if last {
                    break parts;
                }
            }
        });
        parts.clone()
    }

    /// What is sent when nothing else is.
    pub fn idle(&self, age_ms: u64, mark: Bytes) -> EncodedFrame {
        FeedIdle { epoch: self.epoch, at: self.at, age_ms, mark }.to_frame()
    }
}

impl Reader {
    /// Number of the newest entry that was handed out.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FeedLimits = FeedLimits { ring_bytes_max: 2_000, behind_bytes_max: 1_000 };

    fn feed() -> Feed {
        Feed::new(7, FeedPosition::origin(7, b"f"), LIMITS)
    }

    fn publish(feed: &mut Feed, payload: &'static [u8]) {
        feed.publish(&[Bytes::from_static(payload)], &Bytes::new());
    }

    fn snapshot_of(next: Next) -> FeedNotice {
        match next {
            Next::Snapshot(notice) => notice,
            other => panic!("{other:?}"),
        }
    }

    fn frames_of(next: Next) -> Vec<EncodedFrame> {
        match next {
            Next::Frames(frames) => frames,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_subscribers_share_one_encoding() {
        let mut feed = feed();
        let mut readers = [feed.join(None).0, feed.join(None).0];
        readers.iter_mut().for_each(|reader| {
            assert_eq!(snapshot_of(feed.next(reader, 1_000)).reason, SnapshotReason::Begin);
        });
        publish(&mut feed, b"a");
        let [one, two] = readers.each_mut().map(|reader| frames_of(feed.next(reader, 1_000)).remove(0));
        assert_eq!(one.bytes().as_ptr(), two.bytes().as_ptr());
        let make = || (Bytes::from_static(b"all"), Bytes::new());
        let (one, two) = (feed.snapshot(make), feed.snapshot(|| panic!("it is kept")));
        assert_eq!(one[0].bytes().as_ptr(), two[0].bytes().as_ptr());
    }

    #[test]
    fn the_bound_behind_which_one_is_conflated_from_both_sides() {
        let mut feed = feed();
        let (mut reader, _) = feed.join(Some(Place { epoch: 7, at: feed.at() }));
        publish(&mut feed, b"a");
        let each = feed.ring_bytes();
        for _ in 1..LIMITS.behind_bytes_max / each {
            publish(&mut feed, b"a");
        }
        assert!(feed.ring_bytes() <= LIMITS.behind_bytes_max);
        let mut within = reader.clone();
        assert_eq!(frames_of(feed.next(&mut within, usize::MAX)).len(), LIMITS.behind_bytes_max / each);
        publish(&mut feed, b"a");
        let notice = snapshot_of(feed.next(&mut reader, usize::MAX));
        let skipped = (LIMITS.behind_bytes_max / each + 1) as u64;
        assert_eq!(notice, FeedNotice { reason: SnapshotReason::Conflated, skipped });
        assert_eq!(feed.next(&mut reader, usize::MAX), Next::Nothing);
    }

    #[test]
    fn the_ring_is_bounded_and_what_fell_out_is_too_old() {
        let mut feed = feed();
        let origin = Place { epoch: 7, at: feed.at() };
        for _ in 0..1_000 {
            publish(&mut feed, b"entry");
            assert!(feed.ring_bytes() <= LIMITS.ring_bytes_max);
        }
        assert_eq!(feed.join(Some(origin)).1, Joined::Snapshot(SnapshotReason::TooOld));
        let oldest = feed.ring.front().unwrap().prev;
        let at = |at| feed.join(Some(Place { epoch: 7, at })).1;
        assert_eq!(at(oldest), Joined::Resumed);
        assert_eq!(
            at(FeedPosition { seq: oldest.seq - 1, ..oldest }),
            Joined::Snapshot(SnapshotReason::TooOld)
        );
    }

    #[test]
    fn one_resumes_inside_a_frame_that_others_got_whole() {
        let mut feed = feed();
        let start = feed.at();
        let entries = [b"a", b"b", b"c"].map(|entry| Bytes::from_static(entry));
        feed.publish(&entries, &Bytes::new());
        let inside = start.after(7, b"a");
        let (mut reader, joined) = feed.join(Some(Place { epoch: 7, at: inside }));
        assert_eq!(joined, Joined::Resumed);
        let frame = frames_of(feed.next(&mut reader, 1)).remove(0);
        let expected =
            FeedEntries { epoch: 7, prev: inside, mark: Bytes::new(), entries: entries[1..].to_vec() };
        assert_eq!(frame, expected.to_frame());
        assert_eq!(feed.next(&mut reader, 1_000), Next::Nothing);
    }

    #[test]
    fn another_history_another_epoch_and_the_future_diverge() {
        let mut feed = feed();
        publish(&mut feed, b"a");
        let (mut reader, _) = feed.join(Some(Place { epoch: 7, at: feed.at() }));
        let at = |epoch, at| feed.join(Some(Place { epoch, at })).1;
        let diverged = Joined::Snapshot(SnapshotReason::Diverged);
        assert_eq!(at(8, feed.at()), diverged);
        assert_eq!(at(7, FeedPosition { hash: [1; 32], ..feed.at() }), diverged);
        assert_eq!(at(7, feed.at().after(7, b"b")), diverged);
        feed.rebase(FeedPosition { seq: 1, hash: [3; 32] });
        assert_eq!(snapshot_of(feed.next(&mut reader, 1_000)).reason, SnapshotReason::Diverged);
    }

    #[test]
    fn a_long_list_and_a_long_snapshot_are_cut() {
        let limits = FeedLimits { ring_bytes_max: 1 << 22, behind_bytes_max: 1 << 22 };
        let mut feed = Feed::new(7, FeedPosition::origin(7, b"f"), limits);
        let (mut reader, _) = feed.join(Some(Place { epoch: 7, at: feed.at() }));
        let entries = vec![Bytes::from_static(b"e"); 2 * FEED_ENTRIES_PER_FRAME_MAX + 1];
        feed.publish(&entries, &Bytes::new());
        assert_eq!(frames_of(feed.next(&mut reader, usize::MAX)).len(), 3);
        let large = vec![Bytes::from(vec![1; FEED_PAYLOAD_BYTES_MAX]); 5];
        feed.publish(&large, &Bytes::new());
        let frames = frames_of(feed.next(&mut reader, usize::MAX));
        assert_eq!(frames.len(), 2);
        assert!(frames.iter().all(|frame| frame.len() <= FEED_FRAME_BYTES_MAX + 64));
        let whole = Bytes::from(vec![2; FEED_FRAME_BYTES_MAX + 1]);
        assert_eq!(feed.snapshot(|| (whole, Bytes::new())).len(), 2);
    }
}

//! The subscriber's side of a feed.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ghost_frames::{Frame, feed::SnapshotReason};
use ghost_proto::{FeedPosition, limits::FEED_SNAPSHOT_BYTES_MAX};

/// A position and the sequence it belongs to: all that is needed to go on somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which sequence.
    pub epoch: u64,
    /// Where in it.
    pub at: FeedPosition,
}

/// When a subscriber worries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorLimits {
    /// Silence after which the feed is called stale. Publishers break silence every second.
    pub silence_max: Duration,
    /// Age of the newest entry, as its publisher states it, from which the feed is called stale; `None` if a feed may rest.
    pub age_max: Option<Duration>,
}

impl Default for CursorLimits {
    /// Three seconds: three heartbeats lost.
    fn default() -> Self {
        Self { silence_max: Duration::from_secs(3), age_max: None }
    }
}

/// What a subscriber's application is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All that stands at a position. Forget what was known before.
    Snapshot {
        /// Why it came.
        reason: SnapshotReason,
        /// Entries that it stands for, if they were counted.
        skipped: u64,
        /// Where it stands.
        at: FeedPosition,
        /// Of the moment.
        mark: Bytes,
        /// All of it.
        bytes: Bytes,
    },
    /// What follows, checked to join on to what came before.
    Entries {
        /// Behind the last of them.
        at: FeedPosition,
        /// Of the moment after the last.
        mark: Bytes,
        /// In order.
        entries: Vec<Bytes>,
    },
    /// A change of a view; likewise.
    Step {
        /// Behind it.
        at: FeedPosition,
        /// Of the moment.
        mark: Bytes,
        /// The change.
        bytes: Bytes,
    },
    /// The publisher has nothing new; its newest is so old.
    Idle {
        /// As its publisher counts.
        age: Duration,
        /// Of the moment.
        mark: Bytes,
    },
    /// Entries are missing: subscribe anew from [`Cursor::place`]. Nothing else follows from this stream.
    Gap {
        /// Behind what was received.
        expected: FeedPosition,
        /// Before what came.
        found: FeedPosition,
    },
    /// What came follows a history that is not the one received: subscribe anew. Nothing else follows from this stream.
    Diverged {
        /// What was received.
        expected: FeedPosition,
        /// What the publisher builds on.
        found: FeedPosition,
    },
    /// Nothing new for so long. Told once until something comes.
    Stale {
        /// Of the newest entry, at least.
        age: Duration,
    },
}

/// A frame that no honest publisher sends. Leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is no frame of a feed.
    #[error("a frame that does not belong to a feed")]
    OtherFrame,
    /// Something else than the rest of a snapshot, or a snapshot that was not announced.
    #[error("a snapshot out of its place")]
    SnapshotOutOfPlace,
    /// More than is allowed.
    #[error("a snapshot of more than {FEED_SNAPSHOT_BYTES_MAX} bytes")]
    SnapshotTooLarge,
    /// It began in the middle.
    #[error("entries before any snapshot or position")]
    NoBeginning,
    /// The stream was over: there was a gap or a divergence.
    #[error("frames behind a gap")]
    BehindGap,
}

#[derive(Debug)]
struct Assembling {
    reason: SnapshotReason,
    skipped: u64,
    place: Option<Place>,
    bytes: BytesMut,
}

/// A subscriber's core. Its owner passes it each frame, and looks at [`Self::next_deadline`].
#[derive(Debug)]
pub struct Cursor {
    limits: CursorLimits,
    place: Option<Place>,
    assembling: Option<Assembling>,
    broken: bool,
    heard: Instant,
    /// When the newest entry was made, as far as its publisher tells.
    newest: Instant,
    stale: bool,
}

impl Cursor {
    /// One that begins anew, or goes on from somewhere.
    pub fn new(from: Option<Place>, limits: CursorLimits, now: Instant) -> Self {
        Self { limits, place: from, assembling: None, broken: false, heard: now, newest: now, stale: false }
    }

    /// Where it is: what to name when subscribing anew.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// True after the feed was called stale, until something comes.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// [`Rejected`]: the publisher is at fault.
    pub fn handle(&mut self, frame: Frame, now: Instant) -> Result<Option<Event>, Rejected> {
        if self.broken {
            return Err(Rejected::BehindGap);
        }
        self.heard = now;
        if self.assembling.is_some() && !matches!(frame, Frame::FeedSnapshot(_)) {
            return Err(Rejected::SnapshotOutOfPlace);
        }
        match frame {
            Frame::FeedNotice(notice) => {
                self.assembling = Some(Assembling {
                    reason: notice.reason,
                    skipped: notice.skipped,
                    place: None,
                    bytes: BytesMut::new(),
                });
                Ok(None)
            }
            Frame::FeedSnapshot(part) => {
                let assembling = self.assembling.as_mut().ok_or(Rejected::SnapshotOutOfPlace)?;
                let place = Place { epoch: part.epoch, at: part.at };
                if *assembling.place.get_or_insert(place) != place {
                    return Err(Rejected::SnapshotOutOfPlace);
                }
                if assembling.bytes.len() + part.bytes.len() > FEED_SNAPSHOT_BYTES_MAX {
                    return Err(Rejected::SnapshotTooLarge);
                }
                let whole = assembling.bytes.is_empty() && part.last;
                if !whole {
                    assembling.bytes.extend_from_slice(&part.bytes);
                }
                if !part.last {
                    return Ok(None);
                }
                let Some(done) = self.assembling.take() else { return Ok(None) };
                self.place = Some(place);
                self.fresh(now);
                let bytes = if whole { part.bytes } else { done.bytes.freeze() };
                let Assembling { reason, skipped, .. } = done;
                Ok(Some(Event::Snapshot { reason, skipped, at: place.at, mark: part.mark, bytes }))
            }
            Frame::FeedEntries(frame) => {
                if let Some(trouble) = self.join(frame.epoch, frame.prev)? {
                    return Ok(Some(trouble));
                }
                let at = frame.entries.iter().fold(frame.prev, |at, entry| at.after(frame.epoch, entry));
                self.place = Some(Place { epoch: frame.epoch, at });
                self.fresh(now);
                Ok(Some(Event::Entries { at, mark: frame.mark, entries: frame.entries }))
            }
            Frame::FeedStep(step) => {
                if let Some(trouble) = self.join(step.epoch, step.prev)? {
                    return Ok(Some(trouble));
                }
                self.place = Some(Place { epoch: step.epoch, at: step.at });
                self.fresh(now);
                Ok(Some(Event::Step { at: step.at, mark: step.mark, bytes: step.bytes }))
            }
            Frame::FeedIdle(idle) => {
                if let Some(trouble) = self.join(idle.epoch, idle.at)? {
                    return Ok(Some(trouble));
                }
                let age = Duration::from_millis(idle.age_ms);
                self.newest = now.checked_sub(age).unwrap_or(self.newest);
                let old = self.limits.age_max.is_some_and(|max| age >= max);
                if old && !self.stale {
                    self.stale = true;
                    return Ok(Some(Event::Stale { age }));
                }
                self.stale = old;
                Ok(Some(Event::Idle { age, mark: idle.mark }))
            }
            _ => Err(Rejected::OtherFrame),
        }
    }

    fn fresh(&mut self, now: Instant) {
        self.newest = now;
        self.stale = false;
    }

    /// The trouble, if a frame does not join on to what came before.
    fn join(&mut self, epoch: u64, prev: FeedPosition) -> Result<Option<Event>, Rejected> {
        let place = self.place.ok_or(Rejected::NoBeginning)?;
        if place.epoch == epoch && place.at == prev {
            return Ok(None);
        }
        self.broken = true;
        let (expected, found) = (place.at, prev);
        Ok(Some(if place.epoch == epoch && prev.seq > expected.seq {
            Event::Gap { expected, found }
        } else {
            Event::Diverged { expected, found }
        }))
    }

    /// When silence becomes too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        (!self.stale).then(|| self.heard + self.limits.silence_max)
    }

    /// Call at the deadline.
    pub fn on_deadline(&mut self, now: Instant) -> Option<Event> {
        let due = self.next_deadline().is_some_and(|deadline| deadline <= now);
        due.then(|| {
            self.stale = true;
            Event::Stale { age: now.saturating_duration_since(self.newest) }
        })
    }
}

#[cfg(test)]
mod tests {
    use ghost_frames::feed::{FeedEntries, FeedIdle, FeedNotice, FeedSnapshot};

    use super::*;

    fn entries(prev: FeedPosition, payload: &'static [u8]) -> Frame {
        let entries = vec![Bytes::from_static(payload)];
        FeedEntries { epoch: 1, prev, mark: Bytes::new(), entries }.into()
    }

    fn begun(now: Instant) -> (Cursor, FeedPosition) {
        let at = FeedPosition::origin(1, b"f");
        (Cursor::new(Some(Place { epoch: 1, at }), CursorLimits::default(), now), at)
    }

    #[test]
    fn scenario_34_a_lost_delta_is_seen_within_one_message() {
        let now = Instant::now();
        let (mut cursor, origin) = begun(now);
        let first = origin.after(1, b"a");
        let second = first.after(1, b"b");
        assert!(matches!(cursor.handle(entries(origin, b"a"), now), Ok(Some(Event::Entries { .. }))));
        let lost = cursor.handle(entries(second, b"c"), now);
        assert_eq!(lost, Ok(Some(Event::Gap { expected: first, found: second })));
        assert_eq!(cursor.place().unwrap().at, first, "from there one resumes");
        assert_eq!(cursor.handle(entries(first, b"b"), now), Err(Rejected::BehindGap));
    }

    #[test]
    fn an_altered_entry_is_seen_within_one_message() {
        let now = Instant::now();
        let (mut cursor, origin) = begun(now);
        cursor.handle(entries(origin, b"altered"), now).unwrap();
        let told = cursor.handle(entries(origin.after(1, b"a"), b"b"), now);
        assert!(matches!(told, Ok(Some(Event::Diverged { .. }))), "{told:?}");
    }

    #[test]
    fn a_snapshot_needs_its_notice_and_ends_before_anything_else() {
        let now = Instant::now();
        let (mut cursor, origin) = begun(now);
        let part = |last| {
            let bytes = Bytes::from_static(b"half");
            Frame::from(FeedSnapshot { epoch: 2, at: origin, last, mark: Bytes::new(), bytes })
        };
        assert_eq!(cursor.handle(part(true), now), Err(Rejected::SnapshotOutOfPlace));
        let notice = FeedNotice { reason: SnapshotReason::Conflated, skipped: 9 };
        assert_eq!(cursor.handle(notice.into(), now), Ok(None));
        assert_eq!(cursor.handle(part(false), now), Ok(None));
        let Ok(Some(Event::Snapshot { skipped, bytes, .. })) = cursor.handle(part(true), now) else {
            panic!()
        };
        assert_eq!((skipped, bytes.as_ref()), (9, b"halfhalf".as_slice()));
        cursor.handle(notice.into(), now).unwrap();
        cursor.handle(part(false), now).unwrap();
        assert_eq!(cursor.handle(entries(origin, b"a"), now), Err(Rejected::SnapshotOutOfPlace));
    }

    #[test]
    fn a_snapshot_without_end_is_refused_at_its_bound() {
        let now = Instant::now();
        let (mut cursor, origin) = begun(now);
        let notice = FeedNotice { reason: SnapshotReason::Begin, skipped: 0 };
        cursor.handle(notice.into(), now).unwrap();
        let part: Frame = FeedSnapshot {
            epoch: 1,
            at: origin,
            last: false,
            mark: Bytes::new(),
            bytes: vec![0; ghost_proto::limits::FEED_FRAME_BYTES_MAX].into(),
        }
        .into();
        let most = FEED_SNAPSHOT_BYTES_MAX / ghost_proto::limits::FEED_FRAME_BYTES_MAX;
        for _ in 0..most {
            assert_eq!(cursor.handle(part.clone(), now), Ok(None));
        }
        assert_eq!(cursor.handle(part, now), Err(Rejected::SnapshotTooLarge));
    }

    #[test]
    fn silence_is_stale_from_its_bound_on_and_told_once() {
        let now = Instant::now();
        let (mut cursor, origin) = begun(now);
        let deadline = cursor.next_deadline().unwrap();
        assert_eq!(cursor.on_deadline(deadline - Duration::from_millis(1)), None);
        let age = CursorLimits::default().silence_max;
        assert_eq!(cursor.on_deadline(deadline), Some(Event::Stale { age }));
        assert_eq!(cursor.next_deadline(), None);
        cursor.handle(entries(origin, b"a"), deadline).unwrap();
        assert!(!cursor.is_stale());
    }

    #[test]
    fn a_publisher_whose_newest_is_too_old_is_stale_by_age() {
        let now = Instant::now();
        let limits = CursorLimits { age_max: Some(Duration::from_secs(60)), ..CursorLimits::default() };
        let at = FeedPosition::origin(1, b"f");
        let mut cursor = Cursor::new(Some(Place { epoch: 1, at }), limits, now);
        let idle = |age_ms| Frame::from(FeedIdle { epoch: 1, at, age_ms, mark: Bytes::new() });
        assert!(matches!(cursor.handle(idle(59_999), now), Ok(Some(Event::Idle { .. }))));
        let age = Duration::from_secs(60);
        assert_eq!(cursor.handle(idle(60_000), now), Ok(Some(Event::Stale { age })));
    }
}

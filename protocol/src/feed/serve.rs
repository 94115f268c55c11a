//! The shell around a publisher: one task for each subscriber.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use ghost_frames::{EncodedFrame, Payload};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Feed, Next, Place};
use crate::request::{AskerGone, Responder};

/// Silence after which a subscriber is told that there is nothing new.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Most bytes handed to the transport at once, so that one subscriber cannot hold the frames of a whole ring.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// What feeds a [`Hub`].
pub trait Source: Send + 'static {
    /// Everything at the feed's position, and the mark of the moment.
    fn snapshot(&self) -> (Bytes, Bytes);

    /// The mark for when nothing is new.
    fn mark(&self) -> Bytes;
}

#[derive(Debug)]
struct State<S> {
    feed: Feed,
    source: S,
    published: Instant,
}

/// A feed, its source, and whoever follows it. Cloning gives another handle to the same.
#[derive(Debug)]
pub struct Hub<S> {
    state: Arc<Mutex<State<S>>>,
    changed: Arc<watch::Sender<()>>,
}

impl<S> Clone for Hub<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), changed: self.changed.clone() }
    }
}

impl<S: Source> Hub<S> {
    /// A hub without subscribers.
    pub fn new(feed: Feed, source: S) -> Self {
        let state = State { feed, source, published: Instant::now() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::Sender::new(())) }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().expect("no code panics while it holds a feed")
    }

    /// Changes source and feed together, and wakes all subscribers. What is published has to be what the source
    /// will tell in its next snapshot.
    pub fn publish<T>(&self, change: impl FnOnce(&mut Feed, &mut S) -> T) -> T {
        let mut state = self.lock();
        let State { feed, source, .. } = &mut *state;
        let changed = change(feed, source);
        state.published = Instant::now();
        drop(state);
        self.changed.send_replace(());
        changed
    }

    /// Looks at both.
    pub fn read<T>(&self, look: impl FnOnce(&Feed, &S) -> T) -> T {
        let state = self.lock();
        look(&state.feed, &state.source)
    }

    /// Subscribers being served.
    pub fn subscribers(&self) -> usize {
        self.changed.receiver_count()
    }

    /// Serves one subscriber until it has enough, or the last other handle is gone.
    pub async fn serve(&self, from: Option<Place>, mut responder: Responder) {
        let mut changed = self.changed.subscribe();
        let (mut reader, _) = self.read(|feed, _| feed.join(from));
        let mut heartbeat = Instant::now() + HEARTBEAT;
        loop {
            changed.mark_unchanged();
            let frames = self.frames(&mut reader);
            if !frames.is_empty() {
                if responder.send_all(&frames).await.is_err() {
                    return;
                }
                heartbeat = Instant::now() + HEARTBEAT;
                continue;
            }
            tokio::select! {
                woken = changed.changed() => {
                    if woken.is_err() {
                        return responder.finish();
                    }
                }
                () = sleep_until(heartbeat) => {
                    if self.send_idle(&mut responder).await.is_err() {
                        return;
                    }
                    heartbeat = Instant::now() + HEARTBEAT;
                }
                () = responder.cancelled() => return,
            }
        }
    }

    fn frames(&self, reader: &mut super::Reader) -> Vec<EncodedFrame> {
        let mut state = self.lock();
        let State { feed, source, .. } = &mut *state;
        match feed.next(reader, WRITE_BYTES_MAX) {
            Next::Nothing => Vec::new(),
            Next::Frames(frames) => frames,
            Next::Snapshot(notice) => {
                let mut frames = vec![notice.to_frame()];
                frames.extend(feed.snapshot(|| source.snapshot()));
                frames
            }
        }
    }

    async fn send_idle(&self, responder: &mut Responder) -> Result<(), AskerGone> {
        let frame = {
            let state = self.lock();
            let age = state.published.elapsed().as_millis();
            state.feed.idle(u64::try_from(age).unwrap_or(u64::MAX), state.source.mark())
        };
        responder.send(&frame).await
    }
}

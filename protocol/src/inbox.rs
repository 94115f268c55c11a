//! Where received frames go: one bounded channel for each stream type that is served.
//!
//! A full channel of pushes holds back the readers of that stream type, on all sessions, and only of
//! that type; flow control carries it to the senders. A full channel of requests refuses new ones as
//! busy.

use std::sync::Arc;

use ghost_frames::{Frame, StreamType, stream::Direction};
use tokio::sync::mpsc;

use crate::{handshake::StreamSet, request::Responder, session::Session};

/// Frames of one push stream that arrived together, in order.
#[derive(Debug)]
pub struct Pushed {
    /// From whom.
    pub session: Session,
    /// At least one.
    pub frames: Vec<Frame>,
}

/// A request of a peer.
#[derive(Debug)]
pub struct Asked {
    /// From whom; `None` for a request in 0-RTT data, whose sender is not authenticated yet.
    pub session: Option<Session>,
    /// What is asked.
    pub frame: Frame,
    /// How to answer.
    pub responder: Responder,
}

/// The sending ends, shared by all sessions.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    routes: Arc<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    pushes: Vec<(StreamType, mpsc::Sender<Pushed>)>,
    requests: Vec<(StreamType, mpsc::Sender<Asked>)>,
}

/// Collects what a node serves.
#[derive(Debug, Default)]
pub struct InboxBuilder {
    routes: Routes,
}

impl InboxBuilder {
    /// Serves nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a push stream type; at most `capacity` batches wait.
    ///
    /// # Panics
    /// If frames of this type are not pushed, or it is served already.
    pub fn pushes(&mut self, stream: StreamType, capacity: usize) -> mpsc::Receiver<Pushed> {
        assert!(stream.direction() == Direction::Push && stream != StreamType::Control);
        assert!(self.routes.pushes.iter().all(|(served, _)| *served != stream));
        let (sender, receiver) = mpsc::channel(capacity);
        self.routes.pushes.push((stream, sender));
        receiver
    }

    /// Serves a request stream type; at most `capacity` requests wait.
    ///
    /// # Panics
    /// If frames of this type are not requests, or it is served already.
    pub fn requests(&mut self, stream: StreamType, capacity: usize) -> mpsc::Receiver<Asked> {
        assert!(stream.direction() == Direction::Request);
        assert!(self.routes.requests.iter().all(|(served, _)| *served != stream));
        let (sender, receiver) = mpsc::channel(capacity);
        self.routes.requests.push((stream, sender));
        receiver
    }

    /// Done.
    pub fn build(self) -> Inbox {
        Inbox { routes: Arc::new(self.routes) }
    }
}

impl Inbox {
    /// What is served, for hello.
    pub fn serves(&self) -> StreamSet {
        let pushes = self.routes.pushes.iter().map(|(stream, _)| *stream);
        let requests = self.routes.requests.iter().map(|(stream, _)| *stream);
        pushes.chain(requests).fold(StreamSet::default().with(StreamType::Control), StreamSet::with)
    }

    pub(crate) fn push_route(&self, stream: StreamType) -> Option<&mpsc::Sender<Pushed>> {
        self.routes.pushes.iter().find(|(served, _)| *served == stream).map(|(_, sender)| sender)
    }

    pub(crate) fn request_route(&self, stream: StreamType) -> Option<&mpsc::Sender<Asked>> {
        self.routes.requests.iter().find(|(served, _)| *served == stream).map(|(_, sender)| sender)
    }
}

//! Requests to peers on behalf of a core: each runs as a task of its own and reports frame by frame.
//!
//! `Id` is how the core names its requests.

use std::{collections::BTreeMap, time::Duration};

use ghost_frames::{Code, EncodedFrame, Frame, StreamType};
use ghost_mempool_relay::{
    block::{Received, fetch::PROGRESS_BYTES_MIN},
    sync::RequestEnd,
};
use ghost_protocol::{Session, request::RequestError};
use tokio::{sync::mpsc, task::AbortHandle};

/// Bounds the wait for each frame. The core gives up much earlier on a peer that is slower than others.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reports that may wait for the core; requests hold back beyond that.
const REPORTS_MAX: usize = 64;

/// What a request brought.
#[derive(Debug)]
pub(crate) enum Report<Id> {
    /// A block, its body held against its header where the request runs.
    Block(Id, Received),
    /// Any other frame.
    Frame(Id, Box<Frame>),
    /// Bytes of the answer so far, while a long frame is under way.
    Progress(Id, u64),
    /// The end.
    Ended(Id, RequestEnd),
}

/// Bytes after which progress is reported again: what the core takes for progress.
const REPORT_EVERY_BYTES: u64 = PROGRESS_BYTES_MIN;

/// The requests under way.
#[derive(Debug)]
pub(crate) struct Requests<Id> {
    tasks: BTreeMap<Id, AbortHandle>,
    sender: mpsc::Sender<Report<Id>>,
    reports: mpsc::Receiver<Report<Id>>,
}

impl<Id: Copy + Ord + Send + Sync + 'static> Requests<Id> {
    pub(crate) fn new() -> Self {
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        Self { tasks: BTreeMap::new(), sender, reports }
    }

    pub(crate) fn start(&mut self, id: Id, session: Session, stream: StreamType, frame: EncodedFrame) {
        let sender = self.sender.clone();
        let task = tokio::spawn(async move {
            let end = run(id, &session, stream, &frame, &sender).await;
            // Fails only if the node is going down.
            let _ = sender.send(Report::Ended(id, end)).await;
        });
        self.tasks.insert(id, task.abort_handle());
    }

    /// Ends a request; its stream is reset as cancelled. A report may still be on its way.
    pub(crate) fn cancel(&mut self, id: Id) {
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
    }

    /// The next report.
    pub(crate) async fn next(&mut self) -> Report<Id> {
        let report = self.reports.recv().await.expect("this struct holds a sender");
        if let Report::Ended(id, _) = &report {
            self.tasks.remove(id);
        }
        report
    }
}

impl<Id> Drop for Requests<Id> {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

async fn run<Id: Copy + Send + Sync>(
    id: Id,
    session: &Session,
    stream: StreamType,
    frame: &EncodedFrame,
    sender: &mpsc::Sender<Report<Id>>,
) -> RequestEnd {
    let mut answer = match session.request(stream, frame, PATIENCE).await {
        Ok(answer) => answer,
        Err(error) => return end_of(&error),
    };
    let (mut came, mut reported) = (0, 0);
    loop {
        let next = answer.next_watched(|bytes| {
            came += bytes as u64;
            // A report that finds no room is made up for by the next one.
            if came >= reported + REPORT_EVERY_BYTES && sender.try_send(Report::Progress(id, came)).is_ok() {
                reported = came;
            }
        });
        let report = match next.await {
            Ok(Some(Frame::WholeBlock(block))) => Report::Block(id, Received::read(block)),
            Ok(Some(frame)) => Report::Frame(id, Box::new(frame)),
            Ok(None) => return RequestEnd::Done,
            Err(error) => return end_of(&error),
        };
        if sender.send(report).await.is_err() {
            return RequestEnd::Failed;
        }
    }
}

fn end_of(error: &RequestError) -> RequestEnd {
    match error {
        RequestError::Refused(Code::Busy) => RequestEnd::Busy,
        _ => RequestEnd::Failed,
    }
}

//! The shell around a subscriber: one subscription at one node.

use ghost_frames::Frame;
use tokio::time::{Instant, timeout_at};

use super::{Cursor, CursorLimits, Event, Place, Rejected};
use crate::request::{Answer, RequestError};

/// Why a subscription is over. Go on from [`FeedStream::place`], here or at another node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The request or its stream failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The publisher sent what no honest one does.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The publisher said why not.
    #[error("the node answered: {0}")]
    Failed(String),
    /// The publisher ended it.
    #[error("the node ended the subscription")]
    Ended,
}

/// A subscription at one node: frames in, [`Event`]s out.
#[derive(Debug)]
pub struct FeedStream {
    answer: Answer,
    cursor: Cursor,
}

impl FeedStream {
    /// Reads the answer to a request that named `from`.
    pub fn new(answer: Answer, from: Option<Place>, limits: CursorLimits) -> Self {
        Self { answer, cursor: Cursor::new(from, limits, Instant::now().into_std()) }
    }

    /// Where it is.
    pub fn place(&self) -> Option<Place> {
        self.cursor.place()
    }

    /// The next event. [`Event::Stale`] comes in time even if nothing else does. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// [`FeedError`]: it is over.
    pub async fn next(&mut self) -> Result<Event, FeedError> {
        loop {
            let frame = match self.cursor.next_deadline() {
                None => self.answer.next_whenever().await?,
                Some(deadline) => match timeout_at(deadline.into(), self.answer.next_whenever()).await {
                    Ok(frame) => frame?,
                    Err(_) => match self.cursor.on_deadline(Instant::now().into_std()) {
                        Some(event) => return Ok(event),
                        None => continue,
                    },
                },
            };
            let frame = frame.ok_or(FeedError::Ended)?;
            if let Frame::RpcFailure(failure) = frame {
                return Err(FeedError::Failed(failure.message));
            }
            if let Some(event) = self.cursor.handle(frame, Instant::now().into_std())? {
                return Ok(event);
            }
        }
    }
}

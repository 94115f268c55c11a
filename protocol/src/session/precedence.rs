//! Who may write when the connection takes no more.
//!
//! The transport sends what was written by priority, but what may be *written* is limited for the
//! connection as a whole: by the send window and by the peer's credit. Bulk answers fill that limit
//! for as long as they last, and whoever writes next when an acknowledgement makes room gets it all,
//! whatever its class. So a class that found no room keeps the lower ones from writing until it has
//! written, which takes one acknowledgement.
//!
//! A writer can also find no room because the peer reads *its* stream slowly, and the library does
//! not tell which. Lower classes therefore give way for [`PATIENCE`] at most.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{class::Class, transport::SendStream};

/// A connection that is busy sending makes room with every acknowledgement, a few milliseconds apart.
/// After this long it is not the connection that is full.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Precedence {
    begun: Instant,
    /// For each class, since when one of its writers found no room: milliseconds after `begun`, plus
    /// one; zero if none did.
    blocked: [AtomicU64; Class::ALL.len()],
    changed: Notify,
}

/// Takes a blocked writer off the list, also if it gives up.
struct Blocked<'a> {
    precedence: &'a Precedence,
    class: Class,
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.precedence.blocked[self.class as usize].store(0, Ordering::Relaxed);
        self.precedence.changed.notify_waiters();
    }
}

impl Precedence {
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun: now, blocked: Default::default(), changed: Notify::new() }
    }

    /// How long a class has to give way to higher ones; `None` if it may write. `priority` tells how
    /// high a class is.
    fn gives_way(&self, class: Class, priority: impl Fn(Class) -> i32, now: Instant) -> Option<Duration> {
        let own = priority(class);
        let higher = Class::ALL.into_iter().filter(|other| priority(*other) > own);
        higher
            .filter_map(|other| {
                let since = self.blocked[other as usize].load(Ordering::Relaxed).checked_sub(1)?;
                let until = self.begun + Duration::from_millis(since) + PATIENCE;
                Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
            })
            .max()
    }

    fn block(&self, class: Class, now: Instant) -> Blocked<'_> {
        let since = now.saturating_duration_since(self.begun).as_millis() as u64;
        let _ =
            self.blocked[class as usize].compare_exchange(0, since + 1, Ordering::Relaxed, Ordering::Relaxed);
        Blocked { precedence: self, class }
    }

    /// Writes all of `chunks`, giving way to higher classes.
    pub(crate) async fn write(
        &self,
        class: Class,
        priority: impl Fn(Class) -> i32,
        stream: &mut SendStream,
        chunks: &mut [Bytes],
    ) -> Result<(), quinn::WriteError> {
        let mut done = 0;
        let mut blocked = None;
        while done < chunks.len() {
            let changed = self.changed.notified();
            if let Some(wait) = self.gives_way(class, &priority, Instant::now()) {
                // Whether the way is free now or the patience is over: look again.
                let _ = timeout(wait, changed).await;
                continue;
            }
            let written = poll_fn(|context| {
                // Woken by the room that a higher class waits for.
                if blocked.is_some() && self.gives_way(class, &priority, Instant::now()).is_some() {
                    return Poll::Ready(None);
                }
                let written = std::pin::pin!(stream.write_chunks(&mut chunks[done..])).poll(context);
                if written.is_pending() {
                    blocked.get_or_insert_with(|| self.block(class, Instant::now()));
                }
                written.map(Some)
            });
            if let Some(written) = written.await {
                done += written?.chunks;
                blocked = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::ClassTable;

    #[test]
    fn lower_classes_give_way_for_a_while_and_no_longer() {
        let table = ClassTable::default();
        let priority = |class| table.spec(class).priority;
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let precedence = Precedence::new(begun);
        let wait = |class, ms| precedence.gives_way(class, priority, at(ms));
        assert_eq!(wait(Class::Sync, 0), None);

        let blocked = precedence.block(Class::Block, at(100));
        assert_eq!(wait(Class::Sync, 100), Some(PATIENCE));
        assert_eq!(wait(Class::Tx, 149), Some(Duration::from_millis(1)));
        assert_eq!(wait(Class::Tx, 150), None);
        // Neither its own class nor a higher one ever waits for it.
        assert_eq!(wait(Class::Block, 100), None);
        assert_eq!(wait(Class::Control, 100), None);

        // A second writer of the class does not prolong it; the end of either frees the way.
        let second = precedence.block(Class::Block, at(149));
        assert_eq!(wait(Class::Sync, 150), None);
        drop(second);
        assert_eq!(wait(Class::Sync, 149), None);
        drop(blocked);
    }

    #[test]
    fn with_one_priority_for_all_nobody_gives_way() {
        let precedence = Precedence::new(Instant::now());
        let _blocked = precedence.block(Class::Control, Instant::now());
        assert_eq!(precedence.gives_way(Class::Sync, |_| 0, Instant::now()), None);
    }
}

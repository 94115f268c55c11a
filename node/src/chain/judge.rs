//! What the chain says of headers that peers showed, with those taken into account whose blocks are on
//! their way.

use ghost_frames::shards::ShardPlan;
use ghost_mempool_relay::sync::{BlockSync, HeaderVerdict, HeadersVerdict};
use ghost_proto::Header;

use super::{Blame, Chain, HeaderError};
use crate::store::StoreError;

impl Chain {
    /// What it says of one header.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn judge(
        &self,
        header: &Header,
        sync: &BlockSync,
        now_unix_ms: u64,
    ) -> Result<HeaderVerdict, StoreError> {
        if self.view().contains(&header.id())? {
            return Ok(HeaderVerdict::Known);
        }
        Ok(match self.check_header(header, now_unix_ms) {
            Ok(()) => HeaderVerdict::Good,
            Err(HeaderError::UnknownParent { parent }) => match sync.header(&parent) {
                Some(parent) if follows(parent, header) => HeaderVerdict::Good,
                Some(_) => HeaderVerdict::Invalid,
                None => HeaderVerdict::UnknownParent,
            },
            Err(error) => match error.blame() {
                Blame::Sender => HeaderVerdict::Invalid,
                Blame::Nobody | Blame::Proposer => HeaderVerdict::Ignore,
                Blame::Ourselves => return Err(store_error(error)),
            },
        })
    }

    /// What it says of a plan's header, if the plan's own signature is right.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn judge_plan(
        &self,
        plan: &ShardPlan,
        sync: &BlockSync,
        now_unix_ms: u64,
    ) -> Result<HeaderVerdict, StoreError> {
        let authorities = &self.genesis().authorities;
        let signed = authorities
            .key(plan.header.proposer)
            .is_some_and(|key| plan.verify(self.schedule.genesis_id(), key).is_ok());
        if signed { self.judge(&plan.header, sync, now_unix_ms) } else { Ok(HeaderVerdict::Invalid) }
    }

    /// What it says of an answer full of headers; and how many milliseconds too early the first of those
    /// is that are ahead of our clock, if any are.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn judge_all(
        &self,
        headers: &[Header],
        sync: &BlockSync,
        now_unix_ms: u64,
    ) -> Result<(HeadersVerdict, Option<u64>), StoreError> {
        let view = self.view();
        let mut known = 0;
        for (index, header) in headers.iter().enumerate() {
            if known == index && view.contains(&header.id())? {
                known += 1;
                continue;
            }
            let before = index.checked_sub(1).map(|before| &headers[before]);
            match self.check_header(header, now_unix_ms) {
                Ok(()) => {}
                Err(HeaderError::UnknownParent { parent }) => match before.or_else(|| sync.header(&parent)) {
                    Some(parent) if follows(parent, header) => {}
                    Some(_) => return Ok((HeadersVerdict::Invalid, None)),
                    None => return Ok((HeadersVerdict::UnknownParent, None)),
                },
                Err(HeaderError::BelowFinality { .. }) => return Ok((HeadersVerdict::Ignore, None)),
                Err(HeaderError::FromFuture { ready_unix_ms }) => {
                    let early_ms = ready_unix_ms.saturating_sub(now_unix_ms);
                    return Ok((
                        HeadersVerdict::Good { known, ahead: headers.len() - index },
                        Some(early_ms),
                    ));
                }
                Err(error) => match error.blame() {
                    Blame::Ourselves => return Err(store_error(error)),
                    // That a proposer signs too much does not keep its blocks off a chain others built on.
                    Blame::Nobody => {}
                    Blame::Sender | Blame::Proposer => return Ok((HeadersVerdict::Invalid, None)),
                },
            }
        }
        Ok((HeadersVerdict::Good { known, ahead: 0 }, None))
    }
}

fn follows(parent: &Header, child: &Header) -> bool {
    child.parent == parent.id() && child.height == parent.height + 1 && child.slot > parent.slot
}

fn store_error(error: HeaderError) -> StoreError {
    match error {
        HeaderError::Store(error) => error,
        other => StoreError::damaged(other.to_string()),
    }
}

//! Votes, certificates, and what they make final.

use std::collections::{BTreeSet, HashSet};

use ghost_proto::{BlockId, Checkpoint, FinalityCertificate, Vote, vote::CertificateError};

use super::{Chain, HeadChange, state::StateKey};
use crate::{
    consensus::{Applied, CertificateFault, FUTURE_TOLERANCE_MS, VoteVerdict},
    store::{FinalizedRecord, Records, StoreError, WriteBatch},
};

/// What votes and certificates changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinalityChange {
    /// The highest justified block, if it is another one now.
    pub justified: Option<Checkpoint>,
    /// The highest final block, if it is another one now.
    pub finalized: Option<Checkpoint>,
    /// The head, if it is another one now.
    pub head: Option<HeadChange>,
}

/// A vote of this node. It is durable: send it to everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnVote {
    /// The vote.
    pub vote: Vote,
    /// What justified the vote's source, if the head's parent was not justified in time: send it to everyone
    /// before the vote. Votes from different sources do not add up, and an authority that tells each node
    /// something else can keep some from seeing what others see justified. Whoever lacks it has it now, so that
    /// the next votes are from one source.
    pub source_by: Option<FinalityCertificate>,
    /// What the certificate that it completed changed.
    pub finality: FinalityChange,
}

/// What became of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteOutcome {
    /// Whether to relay it, blame its sender, or show evidence. A certificate in it is new. It need not be sent:
    /// others complete it from the same votes, and who cannot gets it with a later vote (see [`OwnVote`]).
    pub verdict: VoteVerdict,
    /// What the certificate it completed changed.
    pub finality: FinalityChange,
}

/// What became of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateOutcome {
    /// New, good, and followed: relay it.
    Followed(Box<FinalityChange>),
    /// New and good, for a block that is not here: fetch that block. It is followed once the block is imported.
    Waiting(Checkpoint),
    /// Changes nothing. Nobody is at fault.
    Known,
    /// Never valid: the sender is at fault.
    Invalid(CertificateError),
    /// Two thirds of the authorities signed it, and it cannot be followed: an alarm for people. The
    /// sender is not at fault.
    Refused(CertificateFault),
}

impl Chain {
    /// When [`Chain::vote`] has a vote to give, in unix milliseconds; may be in the past. `None` if
    /// there is nothing to vote for.
    ///
    /// At once if the head's parent is justified: then the vote finalizes it. Otherwise half a slot
    /// after the head's slot began, because votes on their way may justify the parent until then, and
    /// votes from different sources do not add up.
    pub fn vote_due(&self) -> Option<u64> {
        self.authority.as_ref().filter(|_| self.lost().is_none())?;
        let link = self.ballot.choose(self.finality.justified(), self.head().into())?;
        let genesis = self.schedule.genesis();
        let start = genesis.slot_start_unix_ms(self.head().slot?);
        Some(if link.target.height == link.source.height + 1 {
            // No block is taken earlier than this.
            start.saturating_sub(FUTURE_TOLERANCE_MS)
        } else {
            start + genesis.slot_ms / 2
        })
    }

    /// This node's vote for the head, if it is due. It never conflicts with an earlier one, also
    /// across restarts: the vote is durable before this returns.
    ///
    /// # Errors
    /// [`StoreError`]: stop the node. No vote was made.
    pub fn vote(&mut self, now_unix_ms: u64) -> Result<Option<OwnVote>, StoreError> {
        self.check_alive()?;
        let (Some(due), Some(authority)) = (self.vote_due(), &self.authority) else { return Ok(None) };
        if now_unix_ms < due {
            return Ok(None);
        }
        let Some(link) = self.ballot.choose(self.finality.justified(), self.head().into()) else {
            return Ok(None);
        };
        let vote = Vote::sign(link, authority.index, self.schedule.genesis_id(), &authority.key);
        let late = link.target.height > link.source.height + 1;
        let source_by = self.finality.source_by().filter(|_| late).cloned();
        let mut batch = WriteBatch::default();
        Records::put_last_vote(&mut batch, &vote);
        let kept = self.records.apply(batch).and_then(|()| self.records.flush());
        self.guarded(kept)?;
        self.ballot.cast(link);
        let outcome = self.on_vote(vote)?;
        Ok(Some(OwnVote { vote, source_by, finality: outcome.finality }))
    }

    /// Takes a vote that a peer sent.
    ///
    /// # Errors
    /// [`StoreError`]: stop the node.
    pub fn on_vote(&mut self, vote: Vote) -> Result<VoteOutcome, StoreError> {
        self.check_alive()?;
        let verdict = self.votes.add(vote, self.finality.finalized().height, self.head().height);
        let mut finality = FinalityChange::default();
        if let VoteVerdict::Added(Some(certificate)) = &verdict
            && let CertificateOutcome::Followed(change) = self.follow(certificate)?
        {
            finality = *change;
        }
        Ok(VoteOutcome { verdict, finality })
    }

    /// Takes a certificate that a peer sent. One is enough for a node that was away.
    ///
    /// # Errors
    /// [`StoreError`]: stop the node.
    pub fn on_certificate(
        &mut self,
        certificate: &FinalityCertificate,
    ) -> Result<CertificateOutcome, StoreError> {
        self.check_alive()?;
        if !self.finality.is_news(certificate) {
            return Ok(CertificateOutcome::Known);
        }
        let authorities = &self.schedule.genesis().authorities;
        match certificate.verify(self.schedule.genesis_id(), authorities, &mut self.entropy) {
            Ok(()) => self.follow(certificate),
            Err(error) => Ok(CertificateOutcome::Invalid(error)),
        }
    }

    /// Follows a certificate whose signatures are good.
    fn follow(&mut self, certificate: &FinalityCertificate) -> Result<CertificateOutcome, StoreError> {
        if !self.finality.is_news(certificate) {
            return Ok(CertificateOutcome::Known);
        }
        let applied = match self.finality.apply(certificate, &self.tree) {
            Ok(applied) => applied,
            Err(fault) => {
                tracing::error!(%fault, target = %certificate.link.target.id, "a certificate is not followed");
                return Ok(CertificateOutcome::Refused(fault));
            }
        };
        if applied.pending {
            // Whatever its slot, two thirds of the authorities stand on it.
            self.proposals.want(certificate.link.target.id);
            return Ok(CertificateOutcome::Waiting(certificate.link.target));
        }
        if applied == Applied::default() {
            return Ok(CertificateOutcome::Known);
        }
        let change = self.settle(WriteBatch::default(), None, applied);
        Ok(CertificateOutcome::Followed(Box::new(self.guarded(change)?)))
    }

    /// Moves the stored state up to the block that is final now, and drops the branches that
    /// conflict with it.
    pub(super) fn flatten(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let finalized = self.finality.finalized();
        let path = self.tree.path(&self.tree.root(), &finalized.id);
        let state = self.state_of(&finalized.id)?;
        let mut keys: BTreeSet<StateKey> = BTreeSet::new();
        let mut all_known = true;
        for id in &path {
            match self.tree.get(id).and_then(|node| node.data.state.as_ref()) {
                Some(state) => keys.extend(state.changed.iter().cloned()),
                None => all_known = false,
            }
        }
        if all_known {
            for key in &keys {
                let value = state.snapshot.changed_value(key).and_then(Option::as_deref);
                Records::put_state(batch, key, value);
            }
        } else {
            // Writing an entry again that did not change does no harm.
            for (key, value) in state.snapshot.changed() {
                Records::put_state(batch, key, value.map(|value| &value[..]));
            }
        }
        let base = self.tree.get(&finalized.id).map_or(0, |node| node.height) - path.len() as u64;
        for (height, id) in (base + 1..).zip(&path) {
            Records::put_canonical(batch, height, id);
            self.canonical.remove_mut(&height);
        }
        let included_total = self.tree.get(&finalized.id).map_or(0, |node| node.data.included_total);
        Records::put_finalized(
            batch,
            &FinalizedRecord {
                height: finalized.height,
                id: finalized.id,
                included_total,
                lthash: (*state.lthash).clone(),
            },
        );
        if let Some(certificate) = self.finality.finalized_by() {
            Records::put_finalized_by(batch, certificate);
        }
        let kept: HashSet<BlockId> = path.into_iter().chain([self.tree.root()]).collect();
        for (id, node) in self.tree.advance_root(finalized.id) {
            if !kept.contains(&id)
                && let Some(header) = &node.data.header
            {
                self.records.remove_block(batch, header)?;
            }
        }
        if let Some(root) = self.tree.get_mut(&finalized.id) {
            root.data.state = Some(state);
            if let Some(slot) = root.slot {
                self.proposals.prune(slot);
            }
        }
        self.votes.prune(finalized.height);
        Ok(())
    }
}

//! The side that answers: makes symbols of what it held when the session was opened.

use std::{collections::HashSet, time::Instant};

use ghost_frames::{
    Frame,
    reconcile::{COUNTED_SYMBOLS, Inventory, MissingRequest, SketchId, Symbols, SymbolsRequest},
};
use ghost_proto::{
    TxId,
    limits::{SKETCH_IDS_MAX, SYMBOLS_PER_FRAME_MAX},
};

use super::{Snapshot, symbols_max};

/// Why a request is not answered. The asker tries again later, or lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such session, or not any more.
    #[error("no such session")]
    Unknown,
    /// Too many symbols, out of order, or too few at a time.
    #[error("not what comes next")]
    OutOfTurn,
}

/// Makes symbols of what it held when the session was opened.
pub struct Responder {
    nonce: u64,
    snapshot: Snapshot,
    sent: usize,
    /// The list was sent: once is enough.
    listed: bool,
    /// Requests for announcements that may still come.
    asks_left: usize,
    used: Instant,
}

impl Responder {
    /// A session about `snapshot`.
    pub fn open(nonce: u64, snapshot: Snapshot, now: Instant) -> Self {
        // 256 at a time is fewer than a sensible asker takes.
        let asks_left = snapshot.len() / 256 + 2;
        Self { nonce, snapshot, sent: 0, listed: false, asks_left, used: now }
    }

    /// For its position in the journal, and to give it its members.
    pub fn snapshot_mut(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Of the session.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// When it was last asked for.
    pub fn used(&self) -> Instant {
        self.used
    }

    /// True if this request can be answered only with the members of the snapshot.
    pub fn needs_members(&self, request: &SymbolsRequest) -> bool {
        !self.snapshot.covers(request.first as usize + request.credit as usize)
    }

    /// Symbols, in the frames of the answer.
    ///
    /// # Errors
    /// [`Refusal`]: not in turn, above the cap, or so few that the answers would cost more than they bring.
    /// The second request may be of any size from a quarter of the first, later ones from an eighth of what
    /// was sent.
    pub fn symbols(&mut self, request: &SymbolsRequest, now: Instant) -> Result<Vec<Frame>, Refusal> {
        if request.nonce != self.nonce {
            return Err(Refusal::Unknown);
        }
        let (first, credit) = (request.first as usize, request.credit as usize);
        let end = first + credit;
        let max = symbols_max(self.snapshot.len());
        let least = (self.sent / 8).min(max.saturating_sub(self.sent));
        if first != self.sent || end > max || credit < least {
            return Err(Refusal::OutOfTurn);
        }
        let symbols = self.snapshot.symbols(first, end).ok_or(Refusal::Unknown)?;
        self.sent = end;
        self.used = now;
        let count = self.snapshot.len() as u32;
        let frames = symbols.chunks(SYMBOLS_PER_FRAME_MAX).zip((first..).step_by(SYMBOLS_PER_FRAME_MAX));
        let frame = |(chunk, first): (&[super::Symbol], usize)| {
            let coded = chunk.iter().zip(first..).map(|(symbol, at)| symbol.coded(at < COUNTED_SYMBOLS));
            Frame::from(Symbols { count, first: first as u32, symbols: coded.collect() })
        };
        Ok(frames.map(frame).collect())
    }

    /// The whole list, in the frames of the answer. The snapshot must have its members.
    ///
    /// # Errors
    /// [`Refusal`]: it was sent already.
    pub fn inventory(&mut self, nonce: u64, now: Instant) -> Result<Vec<Frame>, Refusal> {
        if nonce != self.nonce {
            return Err(Refusal::Unknown);
        }
        if self.listed {
            return Err(Refusal::OutOfTurn);
        }
        self.listed = true;
        self.used = now;
        let ids: Vec<SketchId> = self.snapshot.members().map(|(id, _)| SketchId(id)).collect();
        Ok(ids.chunks(SKETCH_IDS_MAX).map(|ids| Inventory { ids: ids.to_vec() }.into()).collect())
    }

    /// Which transactions the asker names; unknown ids are passed over. The snapshot must have its members,
    /// unless none are named.
    ///
    /// # Errors
    /// [`Refusal`]: more requests than the set is worth.
    pub fn missing(&mut self, request: &MissingRequest, now: Instant) -> Result<Vec<TxId>, Refusal> {
        if request.nonce != self.nonce {
            return Err(Refusal::Unknown);
        }
        self.asks_left = self.asks_left.checked_sub(1).ok_or(Refusal::OutOfTurn)?;
        self.used = now;
        let wanted: HashSet<u64> = request.ids.iter().map(|id| id.0).collect();
        Ok(self.snapshot.members().filter(|(id, _)| wanted.contains(id)).map(|(_, tx)| *tx).collect())
    }
}

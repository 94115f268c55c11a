//! Taking over an export into a store that holds something already.

use std::time::Instant;

use ghost_proto::PeerId;

use super::{Saved, Write};
use crate::{
    clock::Now,
    dial::ANCHORS_MAX,
    overlay::{Overlay, OverlayConfig},
};

/// What [`merge`] found to be new.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// What to write, in batches of any size.
    pub writes: Vec<Write>,
    /// Addresses that were not known.
    pub addresses: usize,
    /// Anchors that are added: only where there was room.
    pub anchors: usize,
    /// Peers whose conduct was not known. Where it was, ours stays.
    pub stories: usize,
}

/// Adds an export to what a store of the node `own` holds. The book gives every new entry a place under
/// its own secret, within the bounds of its source; what finds none is left out. `seed` is 32 bytes of fresh
/// entropy.
pub fn merge(own: PeerId, saved: Saved, export: Saved, seed: [u8; 32], now_unix_ms: u64) -> Merged {
    let now = Now { at: Instant::now(), unix_ms: now_unix_ms };
    let mut writes = Vec::new();
    let mut anchors = saved.anchors.clone();
    for anchor in export.anchors.iter().take(ANCHORS_MAX) {
        if anchors.len() < ANCHORS_MAX && !anchors.iter().any(|one| one.peer == anchor.peer) {
            anchors.push(anchor.clone());
        }
    }
    let new_anchors = anchors.len() - saved.anchors.len();
    if new_anchors > 0 {
        writes.push(Write::Anchors(anchors));
    }
    let known = |peer: &PeerId| saved.stories.iter().any(|(one, _)| one == peer);
    let stories: Vec<_> = export.stories.iter().filter(|(peer, _)| !known(peer)).cloned().collect();
    let new_stories = stories.len();
    writes.extend(stories.into_iter().map(|(peer, story)| Write::Story(peer, Some(story))));
    let mut config = OverlayConfig::new(own);
    // An export of a private network is as good as any; the node that runs decides what it dials.
    config.policy.allow_private = true;
    let mut overlay = Overlay::new(config, Saved { stories: Vec::new(), ..saved }, seed, now);
    let addresses = overlay.import(Saved { rows: export.rows, ..Saved::default() }, now);
    while let Some(batch) = overlay.flush() {
        writes.extend(batch.writes);
    }
    Merged { writes, addresses, anchors: new_anchors, stories: new_stories }
}

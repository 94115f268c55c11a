//! Follows the head of one node and counts the blocks below it.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use ghost_node::cli::output::Failure;
use ghost_proto::{BlockId, Header, TxId, message::BlockDetail};
use ghost_protocol::client::{BlockSelector, Client};

use super::{Reach, Tracker, lane::RETRY_EVERY};

/// Blocks that are remembered as counted: an hour of blocks of one second.
const KNOWN_MAX: usize = 3_600;

/// Blocks of a node that were counted.
#[derive(Debug)]
struct Known {
    ids: HashSet<BlockId>,
    order: VecDeque<BlockId>,
}

impl Known {
    fn new(first: BlockId) -> Self {
        Self { ids: HashSet::from([first]), order: VecDeque::from([first]) }
    }

    fn insert(&mut self, id: BlockId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
            if self.order.len() > KNOWN_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
    }
}

/// Never ends by itself; connects again whenever the node was away.
pub(super) async fn watch(mut reach: Reach, genesis: BlockId, tracker: Arc<Tracker>) {
    let mut known = Known::new(genesis);
    loop {
        let client = reach.connect().await;
        tokio::select! {
            followed = follow(&client, reach.node, &mut known, &tracker) => {
                if let Err(failure) = followed {
                    tracing::debug!(node = reach.node, error = failure.text(), "watching interrupted");
                }
            }
            () = reach.moved() => {}
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn follow(client: &Client, node: usize, known: &mut Known, tracker: &Tracker) -> Result<(), Failure> {
    let mut heads = client.heads().await?;
    while let Some(event) = heads.next().await? {
        let at = Instant::now();
        let head = Header::parse(event.header)?;
        let mut id = head.id();
        let mut new = Vec::new();
        // Heads that were left out lie between; after a reorganisation, so does the new branch.
        while !known.ids.contains(&id) {
            let Some(block) = read_ids(client, BlockSelector::Id(id)).await? else { break };
            new.push(block.header.id());
            tracker.block(node, block.header.height, &block.ids, at);
            id = block.header.parent;
        }
        for id in new.into_iter().rev() {
            known.insert(id);
        }
        tracker.head(node, head.height, head.id(), event.finalized.map_or(0, |block| block.height));
    }
    Ok(())
}

/// A block's header and the ids that it commits to.
#[derive(Debug)]
pub(crate) struct BlockIds {
    pub(crate) header: Header,
    pub(crate) ids: Vec<TxId>,
    pub(crate) canonical: bool,
}

/// Reads a block from a node and checks that the ids are those under the header's root.
pub(crate) async fn read_ids(client: &Client, which: BlockSelector) -> Result<Option<BlockIds>, Failure> {
    let Some(answer) = client.block(which, BlockDetail::Ids).await? else { return Ok(None) };
    let header = Header::parse(answer.header)?;
    let ids =
        answer.transaction_ids.iter().map(|id| TxId::try_from(id.as_ref())).collect::<Result<Vec<_>, _>>()?;
    if ghost_proto::merkle::root(ids.iter().copied()) != header.tx_root {
        return Err(Failure::new(format!(
            "a node lists transactions that block {} does not commit to",
            header.id()
        )));
    }
    Ok(Some(BlockIds { header, ids, canonical: answer.canonical }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_counted_blocks_is_bounded() {
        let mut known = Known::new(BlockId::ZERO);
        let id = |n: u64| {
            let mut bytes = [1; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            BlockId(bytes)
        };
        for n in 0..2 * KNOWN_MAX as u64 {
            known.insert(id(n));
            known.insert(id(n));
        }
        assert_eq!((known.ids.len(), known.order.len()), (KNOWN_MAX, KNOWN_MAX));
        assert!(known.ids.contains(&id(KNOWN_MAX as u64)) && !known.ids.contains(&id(KNOWN_MAX as u64 - 1)));
    }
}

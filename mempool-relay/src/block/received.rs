use std::sync::Arc;

use ghost_frames::block::WholeBlock;
use ghost_proto::{Block, BlockId, layout::LayoutError};

/// A block as it came from a peer, its body held against its header.
#[derive(Debug, Clone)]
pub enum Received {
    /// The body is the one the header commits to. Header signature and transactions are not checked.
    Matching(Arc<Block>),
    /// The body is another one. Whoever sent it is at fault: anyone can put a false body behind a true
    /// header, and an honest node never passes one on.
    Mismatched {
        /// Of the header.
        id: BlockId,
        /// What does not match.
        error: LayoutError,
    },
}

impl Received {
    /// Parses the body and compares its roots. This hashes the whole body, so a caller with many
    /// streams does it where each stream is read, in parallel, and not where the core lives.
    pub fn read(frame: WholeBlock) -> Self {
        let id = frame.header.id();
        match Block::from_parts(frame.header, frame.body) {
            Ok(block) => Self::Matching(Arc::new(block)),
            Err(error) => Self::Mismatched { id, error },
        }
    }

    /// The id in the header.
    pub fn id(&self) -> BlockId {
        match self {
            Self::Matching(block) => block.header().id(),
            Self::Mismatched { id, .. } => *id,
        }
    }
}

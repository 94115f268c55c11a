//! What a store must not forget, kept beside it.
//!
//! A store whose files were damaged may open as a shorter chain than the one that was acknowledged, and
//! without the votes that were cast on the rest. The mark is written after each flush, apart from the
//! store: from it a node sees that something is missing, and what it has signed already.

use ghost_proto::{
    BlockId, Checkpoint, GenesisId,
    layout::{Cursor, LayoutError},
    vote::{VOTE_LEN, Vote},
};

/// Bytes of an encoded mark, at most: 32 + 40, and two fields that may be missing.
pub const MARK_BYTES_MAX: usize = 32 + 40 + 1 + 8 + 1 + VOTE_LEN;

/// The mark of a chain's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which chain.
    pub genesis: GenesisId,
    /// The highest block that was final on disk.
    pub finalized: Checkpoint,
    /// The last slot this node proposed for.
    pub proposed: Option<u64>,
    /// The last vote this node signed.
    pub vote: Option<Vote>,
}

impl Mark {
    /// Of a chain that has nothing but its genesis.
    pub fn new(genesis: GenesisId) -> Self {
        let finalized = Checkpoint { height: 0, id: BlockId::ZERO };
        Self { genesis, finalized, proposed: None, vote: None }
    }

    /// Takes over what is newer. A mark never goes back, even if its store did.
    pub fn advance(&mut self, finalized: Checkpoint, proposed: Option<u64>, vote: Option<Vote>) {
        if finalized.height > self.finalized.height {
            self.finalized = finalized;
        }
        self.proposed = self.proposed.max(proposed);
        let target = |vote: &Option<Vote>| vote.map(|vote| vote.link.target.height);
        if target(&vote) > target(&self.vote) {
            self.vote = vote;
        }
    }

    /// The bytes that [`Self::parse`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MARK_BYTES_MAX);
        out.extend_from_slice(&self.genesis.0);
        out.extend_from_slice(&self.finalized.height.to_be_bytes());
        out.extend_from_slice(&self.finalized.id.0);
        out.push(u8::from(self.proposed.is_some()));
        out.extend(self.proposed.iter().flat_map(|slot| slot.to_be_bytes()));
        out.push(u8::from(self.vote.is_some()));
        out.extend(self.vote.iter().flat_map(Vote::encode));
        out
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// If the bytes are none. Their checksum was right, so another version wrote them.
    pub fn parse(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes.to_vec().into());
        let genesis = GenesisId(cursor.array("genesis")?);
        let finalized = Checkpoint { height: cursor.u64("height")?, id: BlockId(cursor.array("block")?) };
        let proposed = if cursor.u8("proposed")? == 0 { None } else { Some(cursor.u64("slot")?) };
        let vote = match cursor.u8("voted")? {
            0 => None,
            _ => Some(Vote::parse(cursor.bytes("vote", VOTE_LEN)?)?),
        };
        cursor.finish()?;
        Ok(Self { genesis, finalized, proposed, vote })
    }
}

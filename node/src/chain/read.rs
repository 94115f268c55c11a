//! Reading states, and running code on them.

use ghost_proto::{Address, BlockId};

use super::{
    execute,
    state::{Account, Ancestors, BlockState, StateValue, WorkingState},
    view::{BlockRef, HeadView},
};
use crate::{
    engine::{CallResult, SimulateError, Simulation, Until},
    store::StoreError,
};

/// States that can be read: of the finalized block and the canonical blocks above it, the newest 64.
/// They are in memory anyway; each view holds 64 references of about 100 bytes.
pub const STATES_READABLE_MAX: usize = 64;

/// The state after one canonical block.
///
/// While it is being read its block may sink below the finalized one, and then it reads as a mixture.
/// Ask [`Self::is_intact`] *after* reading, and throw away what was read if it is not.
#[derive(Debug, Clone, Copy)]
pub struct StateAt<'v> {
    view: &'v HeadView,
    block: BlockRef,
    state: &'v BlockState,
}

impl HeadView {
    /// The state after the head, or after the canonical block of a height; `None` if that one is not
    /// kept.
    pub fn state_at(&self, height: Option<u64>) -> Option<StateAt<'_>> {
        let wanted = height.unwrap_or(self.head.height);
        let (block, state) = self.readable.iter().find(|(block, _)| block.height == wanted)?;
        Some(StateAt { view: self, block: *block, state })
    }

    /// The lowest height whose state can be read.
    pub fn lowest_readable(&self) -> u64 {
        self.readable.last().map_or(self.head.height, |(block, _)| block.height)
    }
}

impl StateAt<'_> {
    /// The block.
    pub fn block(&self) -> BlockRef {
        self.block
    }

    /// The commitment to the state: what the block's header says.
    pub fn commitment(&self) -> [u8; 32] {
        self.state.lthash.digest()
    }

    /// True if what was read until now is of this state.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn is_intact(&self) -> Result<bool, StoreError> {
        Ok(self.view.records.finalized_height()? <= self.block.height)
    }

    /// An account; all zero if nothing is known about it.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn account(&self, address: &Address) -> Result<Account, StoreError> {
        self.state.snapshot.account(address)
    }

    /// The code under a hash.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn code(&self, code_hash: &[u8; 32]) -> Result<Option<StateValue>, StoreError> {
        self.state.snapshot.code(code_hash)
    }

    /// A word of a contract's storage; zero if it was never set.
    ///
    /// # Errors
    /// [`StoreError`] as everywhere.
    pub fn storage(&self, address: &Address, slot: &[u8; 32]) -> Result<[u8; 32], StoreError> {
        self.state.snapshot.storage(address, slot)
    }

    /// Runs a call on this state, in the environment of its block.
    ///
    /// # Errors
    /// [`SimulateError`].
    pub fn simulate(&self, call: &Simulation, until: Until<'_>) -> Result<CallResult, SimulateError> {
        let context = execute::context(
            &self.view.genesis,
            self.block.height,
            // Genesis has no slot of its own.
            self.block.slot.unwrap_or_default(),
        );
        call.run(&mut WorkingState::new(self.state, self), &context, until)
    }
}

impl Ancestors for StateAt<'_> {
    fn block_id(&self, height: u64) -> Result<Option<BlockId>, StoreError> {
        if height >= self.block.height { Ok(None) } else { self.view.canonical_id(height) }
    }
}

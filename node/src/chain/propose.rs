//! Making blocks.

use ghost_frames::shards::{ShardPlan, ShardRoot};
use ghost_proto::{
    Action, Block, BlockBuilder, Header, PriceBatch, SignedTransaction, Transaction, VerifiedTransaction,
    block::sort_canonically, layout::varint_len,
};

use super::{Chain, Imported, ProposeError, execute, import::Fresh};
use crate::engine::intrinsic_gas;

/// A block of this node. It is durable: send it to everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// The block.
    pub block: Block,
    /// What keeping it did, as for the blocks of others.
    pub imported: Imported,
}

impl Chain {
    /// The slot that this node should propose for now, if there is one. It is its turn, the slot is
    /// above the head's, and it has not proposed for it yet, also before a restart.
    pub fn duty(&self, now_unix_ms: u64) -> Option<u64> {
        let slot = self.genesis().slot_at(now_unix_ms)?;
        self.may_propose(slot).then_some(slot)
    }

    /// When the next slot begins, whoever's turn it is; in unix milliseconds.
    pub fn next_slot_start(&self, now_unix_ms: u64) -> u64 {
        let genesis = self.genesis();
        genesis.slot_start_unix_ms(genesis.slot_at(now_unix_ms).map_or(0, |slot| slot.saturating_add(1)))
    }

    /// When this node's next turn begins, after the slot that runs now; in unix milliseconds. `None`
    /// if it is no authority.
    pub fn next_turn_start(&self, now_unix_ms: u64) -> Option<u64> {
        let index = self.authority.as_ref()?.index;
        let next = self.genesis().slot_at(now_unix_ms).map_or(0, |slot| slot.saturating_add(1));
        Some(self.genesis().slot_start_unix_ms(self.schedule.next_turn(index, next)))
    }

    fn may_propose(&self, slot: u64) -> bool {
        let Some(authority) = &self.authority else { return false };
        if self.lost().is_some() {
            return false;
        }
        self.genesis().authorities.proposer_of(slot) == authority.index
            && self.head().slot.is_none_or(|head| slot > head)
            && self.last_proposed.is_none_or(|last| slot > last)
            // Another machine with our key was faster. One of the two must be stopped by people.
            && !self.proposals.seen(slot)
    }

    /// Makes the block of a slot on the head, from candidates in the order in which they are wanted.
    /// Takes as many as fit into gas and bytes, leaves out what cannot be executed, and keeps the
    /// block: it is durable when this returns, and no second one is ever made for the slot.
    ///
    /// # Errors
    /// [`ProposeError::NotOurTurn`] and [`ProposeError::NoAuthority`] if [`Chain::duty`] would not
    /// name this slot; with [`ProposeError::Store`] stop the node.
    pub fn propose(
        &mut self,
        slot: u64,
        candidates: Vec<VerifiedTransaction>,
        now_unix_ms: u64,
    ) -> Result<Proposed, ProposeError> {
        self.propose_with(slot, candidates, None, now_unix_ms)
    }

    /// The same with prices, which come first.
    ///
    /// # Errors
    /// As [`Chain::propose`].
    pub fn propose_with(
        &mut self,
        slot: u64,
        mut candidates: Vec<VerifiedTransaction>,
        prices: Option<&PriceBatch>,
        now_unix_ms: u64,
    ) -> Result<Proposed, ProposeError> {
        self.check_alive()?;
        if self.authority.is_none() {
            return Err(ProposeError::NoAuthority);
        }
        if !self.may_propose(slot) || self.genesis().slot_start_unix_ms(slot) > now_unix_ms {
            return Err(ProposeError::NotOurTurn { slot });
        }
        let parent = self.head();
        let state = self.state_of(&parent.id);
        let state = self.guarded(state)?;
        if let Some(tx) = prices.and_then(|prices| self.price_transaction(parent.height + 1, prices)) {
            candidates.insert(0, tx);
        }
        let mut selected = self.select(candidates);
        sort_canonically(&parent.id, &mut selected);
        let context = execute::context(self.genesis(), parent.height + 1, slot);
        let executed = execute::execute_possible(
            &*self.engine,
            &state,
            &self.ancestors_of(parent.id),
            context,
            selected,
        );
        let (transactions, executed) = self.guarded(executed)?;
        let Some(authority) = &self.authority else { return Err(ProposeError::NoAuthority) };
        let block = BlockBuilder {
            parent: parent.id,
            height: parent.height + 1,
            slot,
            proposer: authority.index,
            transactions,
            receipts: executed.receipts.clone(),
            state: executed.state.lthash.digest(),
        }
        .seal(self.schedule.genesis_id(), &authority.key);
        self.proposals.admit(block.header());
        let kept = self.keep(Fresh { block: block.clone(), executed, equivocation: None, own: true });
        let imported = self.guarded(kept)?;
        self.flush()?;
        Ok(Proposed { block, imported })
    }

    fn price_transaction(&self, height: u64, prices: &PriceBatch) -> Option<VerifiedTransaction> {
        let key = &self.authority.as_ref()?.key;
        let mut body = Transaction {
            chain_id: self.genesis().chain_id,
            sender_key: key.public(),
            nonce: height,
            gas_limit: 0,
            gas_price: 0,
            action: Action::Prices { batch: prices.encode().into() },
        };
        body.gas_limit = intrinsic_gas(&body);
        body.sign(key).ok()
    }

    /// Signs into which shards a block of this node was cut; `None` if it is not its own.
    pub fn seal_shards(
        &self,
        header: &Header,
        payload_bytes: u32,
        root: ShardRoot,
        indexes: Vec<u32>,
    ) -> Option<ShardPlan> {
        let authority = self.authority.as_ref().filter(|authority| authority.index == header.proposer)?;
        let genesis = self.schedule.genesis_id();
        Some(ShardPlan::seal(header.clone(), payload_bytes, root, indexes, genesis, &authority.key))
    }

    /// The candidates that fit, in the order given: one that is too large for the rest does not keep
    /// out a smaller one behind it.
    fn select(&self, candidates: Vec<VerifiedTransaction>) -> Vec<SignedTransaction> {
        let genesis = self.genesis();
        let (mut gas_left, mut bytes_left) = (genesis.block_gas_max, genesis.block_bytes_max);
        let mut selected = Vec::with_capacity(candidates.len());
        for tx in candidates {
            let len = tx.bytes().len() as u64;
            let bytes = len + varint_len(len) as u64;
            let gas = intrinsic_gas(tx.body());
            if bytes <= bytes_left && gas <= gas_left {
                bytes_left -= bytes;
                gas_left -= gas;
                selected.push(tx.into_signed());
            }
        }
        selected
    }
}

//! The own set as it was when a session was opened.

use ghost_proto::TxId;

use super::{
    encoder::encode,
    keys::{Item, Keys},
    symbol::Symbol,
};

/// The own set as it was when a session was opened. The members themselves are looked up only when the prefix does not do: 16 KiB, then
/// 48 B for each member.
pub struct Snapshot {
    keys: Keys,
    prefix: Vec<Symbol>,
    position: u64,
    len: usize,
    members: Option<Members>,
}

struct Members {
    ids: Vec<TxId>,
    items: Vec<Item>,
}

impl Snapshot {
    pub(crate) fn new(keys: Keys, prefix: Vec<Symbol>, position: u64, len: usize) -> Self {
        Self { keys, prefix, position, len, members: None }
    }

    /// The keys of its symbols.
    pub fn keys(&self) -> Keys {
        self.keys
    }

    /// Members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has no members.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where in the journal it was taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// True if [`Self::symbols`] up to this index need no members.
    pub fn covers(&self, end: usize) -> bool {
        end <= self.prefix.len() || self.members.is_some()
    }

    /// True if the members are here.
    pub fn has_members(&self) -> bool {
        self.members.is_some()
    }

    /// Gives it its members, as [`super::Journal::look_back`] finds them for [`Self::position`].
    pub fn set_members(&mut self, ids: Vec<TxId>) {
        let items = ids.iter().map(|id| self.keys.item(id)).collect();
        self.members = Some(Members { ids, items });
    }

    /// Members with their sketch ids; none before [`Self::set_members`].
    pub fn members(&self) -> impl Iterator<Item = (u64, &TxId)> {
        self.members.iter().flat_map(|members| members.items.iter().map(|item| item.id.0).zip(&members.ids))
    }

    /// The symbols `first..end`; `None` if that takes members that are not here.
    pub fn symbols(&self, first: usize, end: usize) -> Option<Vec<Symbol>> {
        if end <= self.prefix.len() {
            return Some(self.prefix[first..end].to_vec());
        }
        let members = self.members.as_ref()?;
        let mut symbols = vec![Symbol::default(); end - first];
        encode(&members.items, first, &mut symbols);
        Some(symbols)
    }
}

/// Counts of how new blocks came, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BlockStats {
    /// Blocks that came whole, pushed or asked for. Not those of chain sync.
    pub whole: u64,
    /// Blocks whose short ids were looked up in the pool.
    pub compact: u64,
    /// Of these, put together.
    pub rebuilt: u64,
    /// Of those, without asking for anything: the pool and what came along had it all.
    pub rebuilt_at_once: u64,
    /// Of `compact`, asked for whole after all: hardly any of it was in the pool, or what was put together
    /// was not the block.
    pub whole_instead: u64,
    /// Transactions of such blocks that the pool had.
    pub transactions_found: u64,
    /// Transactions of such blocks that it had not.
    pub transactions_lacked: u64,
    /// Whole blocks that were here or on their way to execution already.
    pub whole_known: u64,
    /// Requests sent for short ids, transactions by place, and whole blocks. Over `whole` and `rebuilt` it gives the round
    /// trips of a block.
    pub requests: u64,
    /// Blocks, or the part of one that was missing, put together from shards.
    pub sharded: u64,
    /// Shards that came.
    pub shards: u64,
    /// Of these, here already or of no use.
    pub shards_useless: u64,
    /// Bytes of short ids, transactions by place, shards and whole blocks that came, those of no use included.
    pub bytes: u64,
    /// Share of its transactions that the pool has of a block, the latest blocks counting most; 1 at the start.
    pub hit_rate: f64,
}

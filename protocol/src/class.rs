//! Stream classes: who goes first, how much a peer may send, what happens when it is slow.
//!
//! Each stream type belongs to one class. Within a session no class can starve another: each has its
//! own quota for what comes in, its own bounded queues for what goes out, and a priority that the
//! transport honours when the link is full.
//!
//! Memory that one peer can make us hold, worst case: outgoing queues 16 K + 256 K + 1 M + 1 M + 64 K + 512 K +
//! 128 K = 3.0 MiB; sent and not acknowledged, 1.5 MiB, together less than 5 MiB; incoming, what the
//! connection's flow control window allows, 3.25 MiB; answers to its requests, one chunk each for
//! 64 + 16 + 16 + 16 + 16 + 8 + 8 + 6 + 2 requests. A subscription to a book or a price has no queue: it reads from a ring
//! that all share.

use std::time::Duration;

use ghost_frames::StreamType;

/// What happens when a peer takes its frames more slowly than they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowPolicy {
    /// The connection is closed: without this class it is of no use.
    Close,
    /// The oldest queued frame makes room: newer ones say more.
    DropOldest,
    /// The new frame is refused and its maker told, who keeps it for later.
    Refuse,
}

/// A group of stream types that share priority, quotas and bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Hello and liveness.
    Control,
    /// Votes and certificates.
    Consensus,
    /// New blocks.
    Block,
    /// Remote calls.
    Rpc,
    /// Subscriptions.
    Events,
    /// Order books.
    Book,
    /// Transactions.
    Tx,
    /// Peer records.
    Discovery,
    /// Catching up, with blocks and with mempools.
    Sync,
    /// Mailboxes of wallets.
    Wallet,
    /// Prices, to peers and to subscribers.
    Oracle,
    /// Shards of large blocks.
    Shard,
    /// Packets passed on between two others.
    Relay,
}

/// The numbers of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassSpec {
    /// Higher goes first when the link is full.
    pub priority: i32,
    /// Frames a peer may send per second, with a burst of [`BURST_SECONDS`]. Over it, its streams of
    /// this class are read later; flow control pushes back; it is no offence.
    pub messages_per_second: u32,
    /// Bytes a peer may send per second, likewise.
    pub bytes_per_second: u32,
    /// Requests of a peer that are served at once. One more is reset as busy.
    pub concurrent_requests: u16,
    /// Bytes queued for a peer on each push stream of the class.
    pub queue_bytes: usize,
    /// What happens when that is full.
    pub slow: SlowPolicy,
}

/// How many seconds' worth of a quota may come at once.
pub const BURST_SECONDS: u32 = 2;

/// Time a peer has for a frame it has begun, apart from what its length deserves.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);

/// The slowest pace at which a long frame may come or be taken: 64 KiB/s. A peer with less cannot
/// follow a chain, and an attacker with many such streams would hold many buffers.
pub const FRAME_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// Time that a frame of `length` bytes may take from its first byte to its last.
pub fn frame_deadline(length: usize) -> Duration {
    FRAME_DEADLINE + Duration::from_micros(length as u64 * 1_000_000 / FRAME_BYTES_PER_SECOND_MIN)
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Class {
    /// Every class, in declaration order; the index of a class is its `as usize`.
    pub const ALL: [Self; 13] = [
        Self::Control,
        Self::Consensus,
        Self::Block,
        Self::Rpc,
        Self::Events,
        Self::Book,
        Self::Tx,
        Self::Discovery,
        Self::Sync,
        Self::Wallet,
        Self::Oracle,
        Self::Shard,
        Self::Relay,
    ];

    /// The class of a stream type.
    pub const fn of(stream: StreamType) -> Self {
        match stream {
            StreamType::Control => Self::Control,
            StreamType::Consensus => Self::Consensus,
            StreamType::BlockPush | StreamType::BlockFetch => Self::Block,
            StreamType::Rpc => Self::Rpc,
            StreamType::Events => Self::Events,
            StreamType::Books => Self::Book,
            StreamType::TxPush | StreamType::TxFetch => Self::Tx,
            StreamType::Discovery | StreamType::Meet => Self::Discovery,
            StreamType::Sync | StreamType::TxSync => Self::Sync,
            StreamType::Wallet => Self::Wallet,
            StreamType::Oracle | StreamType::Prices => Self::Oracle,
            StreamType::ShardPush => Self::Shard,
            StreamType::Circuit => Self::Relay,
        }
    }

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Consensus => "consensus",
            Self::Block => "block",
            Self::Rpc => "rpc",
            Self::Events => "events",
            Self::Book => "book",
            Self::Tx => "tx",
            Self::Discovery => "discovery",
            Self::Sync => "sync",
            Self::Wallet => "wallet",
            Self::Oracle => "oracle",
            Self::Shard => "shard",
            Self::Relay => "relay",
        }
    }

    const fn default_spec(self) -> ClassSpec {
        let (priority, messages_per_second, bytes_per_second, concurrent_requests, queue_bytes, slow) =
            match self {
                // A ping every few seconds is honest; hello takes at most 8 KiB.
                Self::Control => (7, 20, 32 * KIB, 0, 16 * KIB, SlowPolicy::Close),
                // 128 authorities voting twice a second, relayed once by each peer: 256/s of 150 B.
                Self::Consensus => (6, 1024, 512 * KIB, 0, 256 * KIB, SlowPolicy::DropOldest),
                // Announcements are 229 B; a 32 MiB block fits the burst.
                Self::Block => (5, 128, 64 * MIB, 8, MIB, SlowPolicy::DropOldest),
                Self::Rpc => (4, 4096, 32 * MIB, 64, 0, SlowPolicy::Refuse),
                Self::Events => (4, 64, MIB, 16, 0, SlowPolicy::Refuse),
                // Requests of 128 B. Sixteen subscriptions, each owed at most 256 KiB: 4 MiB; then conflated.
                Self::Book => (4, 64, 64 * KIB, 16, 0, SlowPolicy::Refuse),
                Self::Tx => (3, 2048, 16 * MIB, 8, MIB, SlowPolicy::Refuse),
                Self::Discovery => (2, 4, 64 * KIB, 2, 0, SlowPolicy::Refuse),
                // Four for blocks, two for mempools.
                Self::Sync => (1, 64, 64 * MIB, 6, 0, SlowPolicy::Refuse),
                // A file at 4 MiB/s takes 128 envelopes of 32 KiB a second, each with an acknowledgement;
                // one collection is open all the time.
                Self::Wallet => (3, 512, 4 * MIB, 16, 0, SlowPolicy::Refuse),
                // 64 feeds × 11 publishers once a second from each peer, and bursts; a report is 103 B. Above
                // blocks, for a price that waits is a wrong one; 64 KiB queue 640 reports, the oldest of which
                // newer ones supersede.
                Self::Oracle => (5, 2048, 256 * KIB, 16, 64 * KIB, SlowPolicy::DropOldest),
                // All 768 shards of the largest block fit the burst, and who has which, 50 times a second. Below
                // what is small and urgent: a block by its short ids must not wait for one by its shards. The queue
                // holds eight; the core keeps fewer unacknowledged.
                Self::Shard => (4, 512, 64 * MIB, 0, MIB / 2, SlowPolicy::Refuse),
                // 1 MiB a second of full packets; what is older than 128 KiB of newer ones is late anyway. A
                // favour: everything of our own goes first.
                Self::Relay => (0, 1024, MIB, 0, 128 * KIB, SlowPolicy::DropOldest),
            };
        ClassSpec {
            priority,
            messages_per_second,
            bytes_per_second: bytes_per_second as u32,
            concurrent_requests,
            queue_bytes,
            slow,
        }
    }
}

/// The numbers of all classes. The defaults are part of the protocol's etiquette; an operator may
/// serve clients more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassTable([ClassSpec; Class::ALL.len()]);

impl ClassTable {
    /// The numbers of a class.
    pub fn spec(&self, class: Class) -> &ClassSpec {
        &self.0[class as usize]
    }

    /// Changes the numbers of a class.
    pub fn spec_mut(&mut self, class: Class) -> &mut ClassSpec {
        &mut self.0[class as usize]
    }
}

impl Default for ClassTable {
    fn default() -> Self {
        Self(Class::ALL.map(Class::default_spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_list() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }

    #[test]
    fn the_worst_case_in_the_module_doc_adds_up() {
        let table = ClassTable::default();
        let queued: usize = StreamType::ALL
            .iter()
            .map(|stream| {
                let pushes = stream.direction() == ghost_frames::stream::Direction::Push;
                if pushes { table.spec(Class::of(*stream)).queue_bytes } else { 0 }
            })
            .sum();
        assert_eq!(queued, 16 * KIB + 256 * KIB + 2 * MIB + 64 * KIB + MIB / 2 + 128 * KIB);
        assert!(queued + (crate::transport::quic::tuning::SEND_WINDOW as usize) < 5 * MIB);
    }

    #[test]
    fn a_long_frame_gets_the_time_its_length_deserves() {
        assert_eq!(frame_deadline(0), Duration::from_secs(10));
        assert_eq!(frame_deadline(64 * KIB), Duration::from_secs(11));
    }
}

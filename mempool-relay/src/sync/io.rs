//! What the core is told and what it answers.

use std::{sync::Arc, time::Duration};

use ghost_frames::{
    StreamType,
    compact::{CompactBlock, PlacedTransaction},
    shards::{Shard, ShardHave, ShardPlan, ShardRequest, ShardRoot},
};
use ghost_proto::{Block, BlockId, Checkpoint, Header, PeerId};

use super::progress::SyncState;
use crate::block::{
    Found, PartialBlock, Received, ShortIds,
    shards::{ShardJob, ShardOutcome, code::Coded},
};

/// Names one request from its effect to its end. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the chain says of one header.
///
/// The parent is to be looked up in the chain and then with [`super::BlockSync::header`]: it may be a
/// block that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderVerdict {
    /// Its parent is known; turn, slot, height and signature are right; we do not have the block.
    Good,
    /// The signature is right, its parent is not known.
    UnknownParent,
    /// The chain has this block.
    Known,
    /// Right, and on a branch that finality has ruled out, or too far in the future for our clock.
    /// No offence: the peer may be behind, or clocks differ.
    Ignore,
    /// Wrong turn, slot, height or signature. The peer should have checked before it passed it on.
    Invalid,
}

/// What the chain says of an answer full of headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadersVerdict {
    /// All are right, as far as they can be judged.
    Good {
        /// How many of them, from the first, the chain has with their bodies.
        known: usize,
        /// How many of them, at the end, belong to slots that have not begun by our clock. They are asked
        /// for again, for ours may be the clock that is wrong.
        ahead: usize,
    },
    /// The first one's parent is known neither to the chain nor to [`super::BlockSync::header`]. The answer
    /// does not fit the question.
    UnknownParent,
    /// Right, and on a branch that finality has ruled out. No offence.
    Ignore,
    /// One is wrong. An honest node does not have such a header on its chain.
    Invalid,
}

/// What became of a certificate that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateVerdict {
    /// It verifies.
    Good,
    /// Its signatures are no quorum, or do not verify.
    Invalid,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// The answer was complete, whatever it contained.
    Done,
    /// The peer reset it as busy.
    Busy,
    /// Reset for another reason, timed out in the session, or never sent.
    Failed,
}

/// What became of a block that was handed over for import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is part of the chain's store now, on whichever branch, or was before.
    Stored,
    /// It breaks the rules. Its proposer is at fault, and whoever had it on its canonical chain.
    Invalid,
    /// It could not be judged: its parent is missing, or our disk failed.
    Failed,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A session with hello exchanged. Not to be given for clients and others that do not serve [`StreamType::Sync`].
    PeerUp {
        /// Who.
        peer: PeerId,
        /// True if we dialled.
        outbound: bool,
        /// Its best block according to its hello.
        best: Checkpoint,
        /// True if the chain has that block.
        best_known: bool,
        /// Round trip as measured by the handshake.
        rtt: Duration,
    },
    /// The session is gone. Its requests need no [`Input::Ended`].
    PeerDown {
        /// Who.
        peer: PeerId,
    },
    /// A header came on the block push stream.
    Announced {
        /// From whom.
        peer: PeerId,
        /// As it came.
        header: Header,
        /// What the chain says of it.
        verdict: HeaderVerdict,
    },
    /// A whole block came on the block push stream.
    Pushed {
        /// From whom.
        peer: PeerId,
        /// As it came.
        block: Received,
        /// What the chain says of its header.
        verdict: HeaderVerdict,
    },
    /// A compact block came on the block push stream.
    Compact {
        /// From whom.
        peer: PeerId,
        /// As it came.
        compact: CompactBlock,
        /// What the chain says of its header.
        verdict: HeaderVerdict,
    },
    /// How a peer wants to hear of new blocks.
    RelayMode {
        /// Who.
        peer: PeerId,
        /// True if large ones are to be pushed to it.
        push: bool,
    },
    /// The answer to [`Effect::LookUp`].
    LookedUp {
        /// Which block.
        id: BlockId,
        /// What the pool has of it: [`ShortIds::select`].
        found: Found,
    },
    /// A compact block in answer to [`Effect::RequestCompact`]. If a whole one comes instead, that is
    /// [`Input::Fetched`].
    FetchedCompact {
        /// Which request.
        request: RequestId,
        /// As it came.
        compact: CompactBlock,
    },
    /// One frame of the answer to [`Effect::RequestTransactions`].
    FetchedTransactions {
        /// Which request.
        request: RequestId,
        /// As they came.
        transactions: Vec<PlacedTransaction>,
    },
    /// A vote, a certificate or a status names a block that the chain does not have.
    Missing {
        /// Who told us.
        peer: PeerId,
        /// Which block.
        block: Checkpoint,
    },
    /// This node made a block and has imported it.
    Produced {
        /// The block.
        block: Arc<Block>,
        /// Places of the transactions that others are not expected to have, ascending: those that came here too
        /// lately to be everywhere, or were kept back.
        fresh: Vec<u32>,
    },
    /// A plan came on the shard push stream.
    ShardPlan {
        /// From whom.
        peer: PeerId,
        /// As it came.
        plan: Arc<ShardPlan>,
        /// What the chain says of its header; [`HeaderVerdict::Invalid`] as well if the plan's own signature is wrong.
        verdict: HeaderVerdict,
    },
    /// What a peer has of a plan's shards came on the shard push stream.
    ShardHave {
        /// From whom.
        peer: PeerId,
        /// As it came.
        have: ShardHave,
    },
    /// A shard came on the shard push stream.
    Shard {
        /// From whom.
        peer: PeerId,
        /// As it came.
        shard: Shard,
    },
    /// One frame of the answer to [`Effect::RequestShards`].
    FetchedShard {
        /// Which request.
        request: RequestId,
        /// As it came.
        shard: Shard,
    },
    /// The answer to [`Effect::CutShards`]. None if this node may not sign for the block.
    ShardsCut {
        /// Signed.
        plan: Arc<ShardPlan>,
        /// Its shards.
        coded: Coded,
    },
    /// The answer to [`Effect::WorkOnShards`].
    ShardsWorked {
        /// Of which plan.
        root: ShardRoot,
        /// What came of it.
        outcome: ShardOutcome,
    },
    /// The frame that answers [`Effect::RequestHeaders`].
    Headers {
        /// Which request.
        request: RequestId,
        /// As they came.
        headers: Vec<Header>,
    },
    /// The answer to [`Effect::CheckHeaders`].
    HeadersChecked {
        /// Which request brought them.
        request: RequestId,
        /// What the chain says.
        verdict: HeadersVerdict,
    },
    /// One frame of the answer to [`Effect::RequestBlocks`].
    Fetched {
        /// Which request.
        request: RequestId,
        /// As it came.
        block: Received,
    },
    /// Bytes of a frame that is not complete yet. May be left out for frames below 64 KiB; for larger
    /// ones it is what tells a slow peer from a silent one.
    Progress {
        /// Which request.
        request: RequestId,
        /// All bytes of the answer so far.
        bytes: u64,
    },
    /// The frame that answers [`Effect::RequestCertificate`].
    Certificate {
        /// Which request.
        request: RequestId,
        /// What came of it.
        verdict: CertificateVerdict,
    },
    /// A request is over: answered, reset, or never sent. Cancelled requests need none.
    Ended {
        /// Which request.
        request: RequestId,
        /// How.
        end: RequestEnd,
    },
    /// A block of [`Effect::Import`] was dealt with. One for each, in the order of the effects.
    Imported {
        /// Which block.
        id: BlockId,
        /// What became of it.
        outcome: ImportOutcome,
    },
    /// The head of our chain is another one.
    HeadChanged {
        /// Now.
        head: Header,
    },
}

/// What a peer did wrong. How much each weighs is the session's conduct table's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offence {
    /// It passed on a header that is not valid. Certain and deliberate, or its software is broken.
    InvalidHeader,
    /// It served headers of a chain that holds an invalid block or header as its own. As above.
    InvalidChain,
    /// It sent a body that is not the header's. As above.
    MutatedBody,
    /// Its certificate proves nothing. As above.
    InvalidCertificate,
    /// It answered with something that was not asked for. As above.
    Unrequested,
    /// It sent a shard that is not one of those its plan's proposer signed. As above.
    FalseShard,
    /// It served headers and, asked for the first body, ended the answer without it. Happens to an honest peer
    /// whose store is damaged: light, and only its repetition tells.
    BodiesWithheld,
}

/// What a proposer did wrong with the shards of its block: proved by its own signatures, and nobody else's fault.
#[derive(Debug, Clone)]
pub enum ShardFault {
    /// It signed two roots for one payload. The first is followed.
    Equivocal {
        /// Which came first.
        first: Arc<ShardPlan>,
        /// The other.
        second: Arc<ShardPlan>,
    },
    /// It signed a root over something else than the shards of its payload.
    Poisoned {
        /// The plan.
        plan: Arc<ShardPlan>,
    },
}

/// What the shell is to do.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send [`super::headers_request`] of `after` on a stream of type [`StreamType::Sync`].
    RequestHeaders {
        /// Whom.
        peer: PeerId,
        /// Names the request.
        request: RequestId,
        /// Ids that stand above our chain, newest first; the front of the locator.
        after: Vec<BlockId>,
    },
    /// Send a `BlocksRequest`.
    RequestBlocks {
        /// Whom.
        peer: PeerId,
        /// Names the request.
        request: RequestId,
        /// On which stream: [`StreamType::BlockFetch`] for new blocks, [`StreamType::Sync`] for old ones.
        stream: StreamType,
        /// Which blocks, ascending; never empty.
        ids: Vec<BlockId>,
    },
    /// Send a `CompactRequest` on a stream of type [`StreamType::BlockFetch`].
    RequestCompact {
        /// Whom.
        peer: PeerId,
        /// Names the request.
        request: RequestId,
        /// Which block.
        id: BlockId,
    },
    /// Send a `BlockTransactionsRequest` on a stream of type [`StreamType::BlockFetch`].
    RequestTransactions {
        /// Whom.
        peer: PeerId,
        /// Names the request.
        request: RequestId,
        /// Which block.
        id: BlockId,
        /// Places in it, ascending; never empty.
        places: Vec<u32>,
    },
    /// Look these up in the pool and answer with [`Input::LookedUp`].
    LookUp {
        /// The short ids of a block's transactions.
        wanted: Arc<ShortIds>,
    },
    /// Send a `CompactBlock` on the block push stream.
    PushCompact {
        /// To each of these.
        peers: Vec<PeerId>,
        /// The block.
        compact: Arc<CompactBlock>,
        /// While the block itself is not here: what of it can be served already. The rest follows with
        /// [`Effect::Import`] of the block, or never. Keep a few of these, the latest.
        partial: Option<Arc<PartialBlock>>,
    },
    /// Send a `BlockRelayMode` on the block push stream.
    RelayMode {
        /// Whom.
        peer: PeerId,
        /// True if it is to push large blocks to us.
        push: bool,
    },
    /// Send a plan on the shard push stream.
    PushShardPlan {
        /// To each of these.
        peers: Vec<PeerId>,
        /// The plan.
        plan: Arc<ShardPlan>,
    },
    /// Send on the shard push stream what we have of a plan's shards.
    PushShardHave {
        /// To each of these.
        peers: Vec<PeerId>,
        /// What.
        have: ShardHave,
    },
    /// Send a shard on the shard push stream. If it finds no room, it is asked for.
    PushShard {
        /// To whom.
        peer: PeerId,
        /// Which.
        shard: Arc<Shard>,
    },
    /// Send a `ShardRequest` on a stream of type [`StreamType::BlockFetch`].
    RequestShards {
        /// Whom.
        peer: PeerId,
        /// Names the request.
        request: RequestId,
        /// Which.
        wanted: ShardRequest,
    },
    /// Serve these from now on.
    KeepShards {
        /// All of one plan.
        shards: Vec<Arc<Shard>>,
    },
    /// Serve none of this plan any more.
    DropShards {
        /// Which plan.
        root: ShardRoot,
    },
    /// Cut our own block with [`crate::block::shards::code::encode`], where nothing waits, sign the plan and answer with
    /// [`Input::ShardsCut`].
    CutShards {
        /// The block.
        block: Arc<Block>,
        /// Whose transactions; none for the whole body.
        indexes: Vec<u32>,
    },
    /// Do this where nothing waits, and answer with [`Input::ShardsWorked`].
    WorkOnShards {
        /// What.
        job: ShardJob,
    },
    /// A proposer is at fault.
    ShardFault(ShardFault),
    /// Send a `CertificateRequest` on a stream of type [`StreamType::Sync`].
    RequestCertificate {
        /// Whom.
        peer: PeerId,
        /// Names the request.
        request: RequestId,
    },
    /// Reset the request's stream as cancelled. Late frames of it are ignored.
    Cancel {
        /// Which request.
        request: RequestId,
    },
    /// Check these and answer with [`Input::HeadersChecked`]: at once, or later from another thread.
    CheckHeaders {
        /// Which request brought them.
        request: RequestId,
        /// From whom.
        peer: PeerId,
        /// Connected, ascending, at least one.
        headers: Vec<Header>,
    },
    /// Execute and store, in the order of these effects; answer each with [`Input::Imported`].
    Import {
        /// The block. Its header was checked, its body matches.
        block: Arc<Block>,
        /// Who delivered it.
        from: PeerId,
    },
    /// Send a `BlockAnnounce`.
    Announce {
        /// To each of these.
        peers: Vec<PeerId>,
        /// The header.
        header: Header,
    },
    /// Send a `WholeBlock` on the block push stream.
    PushWhole {
        /// To each of these.
        peers: Vec<PeerId>,
        /// The block.
        block: Arc<Block>,
    },
    /// Hold this against a peer.
    Offence {
        /// Whom.
        peer: PeerId,
        /// What.
        what: Offence,
    },
    /// The node began to catch up, or has caught up.
    State(SyncState),
    /// The head has not moved for so long that our peers may be keeping us behind: open another
    /// outbound connection. Every peer is asked for news by the core itself.
    TipStale {
        /// Since the head last moved.
        age: Duration,
        /// Outbound peers, none of which had anything newer.
        outbound: Vec<PeerId>,
    },
}

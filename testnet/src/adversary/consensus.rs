//! The role that breaks the promise of an authority.

use ghost_frames::{
    Frame, Payload, StreamType,
    block::{BlockAnnounce, WholeBlock},
    consensus::Vote as VoteFrame,
};
use ghost_proto::{BlockBuilder, BlockId, Checkpoint, Header, Vote, vote::Link};
use tokio::time::{Instant, sleep_until};

use super::{Ears, Stage};

/// What it has heard of the chain: the highest header, and that one's parent.
#[derive(Default)]
struct Heard {
    head: Option<Header>,
    before: Option<Header>,
}

impl Heard {
    fn header(&mut self, header: Header) {
        if self.head.as_ref().is_none_or(|head| header.height > head.height) {
            self.before = self
                .head
                .replace(header)
                .filter(|old| self.head.as_ref().is_some_and(|head| head.parent == old.id()));
        }
    }
}

pub(super) async fn equivocate(stage: &Stage, ears: &mut Ears) {
    let mut heard = Heard::default();
    let mut voted_at = 0;
    loop {
        let turn = next_turn(stage).unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(1));
        tokio::select! {
            Some(pushed) = ears.blocks.recv() => {
                for frame in pushed.frames {
                    match frame {
                        Frame::BlockAnnounce(BlockAnnounce(header)) => heard.header(header),
                        Frame::WholeBlock(block) => heard.header(block.header),
                        _ => {}
                    }
                }
                let height = heard.head.as_ref().map_or(0, |head| head.height);
                if height > voted_at {
                    voted_at = height;
                    vote_twice(stage, &heard);
                }
            }
            Some(_) = ears.tx.recv() => {}
            Some(_) = ears.votes.recv() => {}
            Some(_) = ears.shards.recv() => {}
            // Its blocks are pushed whole; who asks for more gets nothing.
            Some(asked) = ears.asked.recv() => drop(asked),
            () = sleep_until(turn) => propose_twice(stage, &heard),
        }
    }
}

/// When its next slot begins.
fn next_turn(stage: &Stage) -> Option<Instant> {
    let (index, _) = stage.arena.authority.as_ref()?;
    let genesis = &stage.arena.genesis;
    let next = genesis.slot_at(stage.arena.clock.unix_ms()).map_or(0, |slot| slot + 1);
    let authorities = genesis.authorities.len() as u64;
    let slot = (next..next + authorities).find(|slot| slot % authorities == u64::from(*index))?;
    Some(stage.arena.clock.instant_of(genesis.slot_start_unix_ms(slot)))
}

/// Two empty blocks for one slot: one on the head, and one on the block before it.
fn propose_twice(stage: &Stage, heard: &Heard) {
    let genesis = &stage.arena.genesis;
    let (Some((index, key)), Some(slot)) =
        (&stage.arena.authority, genesis.slot_at(stage.arena.clock.unix_ms()))
    else {
        return;
    };
    let (Some(head), Some(before)) = (&heard.head, &heard.before) else { return };
    if slot <= head.slot {
        return;
    }
    let blocks: Vec<_> = [head, before]
        .map(|parent| {
            BlockBuilder {
                parent: parent.id(),
                height: parent.height + 1,
                slot,
                proposer: *index,
                transactions: Vec::new(),
                receipts: Vec::new(),
                // Nothing is executed, so nothing changes.
                state: parent.state,
            }
            .seal(&genesis.id(), key)
        })
        .into();
    for (n, session) in stage.sessions().iter().enumerate() {
        let encoded = blocks[n % 2].encode();
        let frame =
            ghost_frames::EncodedFrame::new(<WholeBlock as ghost_frames::writer::Registered>::KIND, &encoded);
        stage.push(session, StreamType::BlockPush, &frame);
    }
}

/// Two votes for one height: the head, and a block that nobody has.
fn vote_twice(stage: &Stage, heard: &Heard) {
    let (Some((index, key)), Some(head), Some(before)) = (&stage.arena.authority, &heard.head, &heard.before)
    else {
        return;
    };
    let source = Checkpoint { height: before.height, id: before.id() };
    let genesis = stage.arena.genesis.id();
    let mut nobody = head.id();
    nobody.0[0] ^= 1;
    let votes = [head.id(), nobody].map(|id: BlockId| {
        let target = Checkpoint { height: head.height, id };
        VoteFrame(Vote::sign(Link { source, target }, *index, &genesis, key)).to_frame()
    });
    for (n, session) in stage.sessions().iter().enumerate() {
        stage.push(session, StreamType::Consensus, &votes[n % 2]);
    }
}

//! Following logs and receipts over reorganisations, and going on elsewhere.

use ghost_node::{
    chain::{
        Chain, HeadView, LogFilter,
        follow::{FollowError, Followed, Follower, From, Position, Told},
    },
    engine::Stop,
};
use ghost_proto::{Address, Block, BlockId};

use crate::{
    contracts::{call, deploy},
    world::*,
};

/// What a subscriber holds: the height and data of each log that was not undone.
#[derive(Debug, Default, PartialEq)]
struct Held {
    rows: Vec<(u64, u8)>,
    at: Option<Position>,
}

impl Held {
    fn take(&mut self, told: &Told) {
        assert!(self.at.is_none_or(|at| at == told.prev), "a gap: {told:?} after {self:?}");
        if told.reverted {
            self.rows.retain(|(height, _)| *height <= told.to.height);
        }
        self.rows.extend(told.logs.iter().map(|log| (log.place.height, log.entry.data[31])));
        self.at = Some(told.to);
    }

    fn follow(&mut self, follower: &mut Follower, view: &HeadView) {
        while let Some(told) = follower.step(view, &Stop::default()).unwrap() {
            self.take(&told);
        }
    }
}

fn all_logs() -> Followed {
    Followed::Logs(LogFilter::default())
}

fn from_scratch(view: &HeadView) -> Held {
    let mut held = Held::default();
    let (mut follower, first) = Follower::begin(view, all_logs(), From::Height(1)).unwrap();
    held.take(&first);
    held.follow(&mut follower, view);
    held
}

/// A chain with a counter in block 1; a fork of one block with one call, and one of two blocks with
/// two calls and one.
struct Forked {
    first: Block,
    short: Block,
    long: [Block; 2],
    chain: Chain,
}

fn import(chain: &mut Chain, block: &Block) {
    chain.import(block.clone(), trust_all, slot_start(9)).unwrap();
}

fn forked() -> Forked {
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let deployment = deploy(0, 0);
    let first = forge.block(genesis.block_id(), 1, vec![deployment.clone()]);
    let mut chain = memory_chain(&genesis, None);
    import(&mut chain, &first);
    let counter: Address =
        chain.view().transaction(&deployment.id()).unwrap().unwrap().receipt.created.unwrap();
    let root = first.header().id();
    let short = forge.block(root, 2, vec![call(1, 0, counter)]);
    let second = forge.block(root, 3, vec![call(2, 0, counter), call(3, 0, counter)]);
    let third = forge.block(second.header().id(), 4, vec![call(1, 0, counter)]);
    Forked { first, short, long: [second, third], chain }
}

fn position(block: &Block) -> Position {
    Position { height: block.header().height, id: block.header().id() }
}

#[test]
fn a_reorganisation_is_told_and_undone_rows_come_again() {
    let Forked { short, long, mut chain, .. } = forked();
    let (mut follower, first) = Follower::begin(&chain.view(), all_logs(), From::Now).unwrap();
    let mut held = Held::default();
    held.take(&first);
    import(&mut chain, &short);
    held.follow(&mut follower, &chain.view());
    assert_eq!(held.rows, [(2, 1)]);
    for block in &long {
        import(&mut chain, block);
    }
    assert_eq!(chain.head().id, long[1].header().id());
    held.follow(&mut follower, &chain.view());
    assert_eq!(held.rows, [(2, 1), (2, 2), (3, 3)]);
    assert_eq!(held, from_scratch(&chain.view()));
    assert_eq!(follower.step(&chain.view(), &Stop::default()), Ok(None), "nothing is told twice");
}

#[test]
fn a_subscriber_goes_on_at_a_node_that_never_saw_its_fork() {
    let Forked { first, short, long, mut chain } = forked();
    // Elsewhere it was told of the short fork, of which this node has heard nothing.
    let mut held = Held { rows: vec![(2, 1)], at: Some(position(&short)) };
    for block in &long {
        import(&mut chain, block);
    }
    let view = chain.view();
    let positions = vec![position(&short), position(&first)];
    let (mut follower, told) = Follower::begin(&view, all_logs(), From::Positions(positions)).unwrap();
    assert!(told.reverted);
    held.take(&told);
    held.follow(&mut follower, &view);
    assert_eq!(held, from_scratch(&view));
}

#[test]
fn the_sequence_is_the_same_wherever_it_is_read() {
    let Forked { short, long, mut chain, first } = forked();
    import(&mut chain, &short);
    for block in &long {
        import(&mut chain, block);
    }
    let mut other = memory_chain(&genesis(4), None);
    for block in [&first, &long[0], &long[1]] {
        import(&mut other, block);
    }
    let steps = |chain: &Chain| {
        let view = chain.view();
        let (mut follower, first) = Follower::begin(&view, all_logs(), From::Height(1)).unwrap();
        let mut steps = vec![first];
        while let Some(told) = follower.step(&view, &Stop::default()).unwrap() {
            steps.push(told);
        }
        steps
    };
    assert_eq!(steps(&chain), steps(&other));
}

#[test]
fn who_is_ahead_waits_and_who_is_lost_is_told() {
    let Forked { first, short, long, mut chain } = forked();
    import(&mut chain, &short);
    let view = chain.view();
    let begin = |from| Follower::begin(&view, all_logs(), from).map(drop);
    let ahead = From::Positions(vec![position(&long[1]), position(&first)]);
    assert_eq!(begin(ahead), Err(FollowError::Ahead { wanted: 3, head: 2 }));
    assert_eq!(begin(From::Height(4)), Err(FollowError::Ahead { wanted: 4, head: 2 }));
    assert_eq!(begin(From::Height(3)), Ok(()));
    let lost = From::Positions(vec![Position { height: 2, id: BlockId([9; 32]) }]);
    assert_eq!(begin(lost), Err(FollowError::Unknown));
    assert_eq!(begin(From::Positions(Vec::new())), Err(FollowError::Unknown));
}

#[test]
fn receipts_of_ones_own_are_followed() {
    let Forked { long, mut chain, .. } = forked();
    for block in &long {
        import(&mut chain, block);
    }
    let view = chain.view();
    let mine = Followed::Receipts(vec![user(1).address(), user(3).address()]);
    let (mut follower, _) = Follower::begin(&view, mine, From::Height(1)).unwrap();
    let told = follower.step(&view, &Stop::default()).unwrap().unwrap();
    let found: Vec<_> = told.receipts.iter().map(|it| (it.block.height, it.receipt.output[31])).collect();
    // Of the two calls in block 2 the order is the chain's; one of them is user 3's.
    assert_eq!(found.len(), 2);
    assert_eq!(found[1], (3, 3));
    assert_eq!(
        view.transaction(&told.receipts[0].transaction).unwrap().unwrap().index,
        told.receipts[0].index
    );
    assert_eq!(follower.step(&view, &Stop::default()), Ok(None));
}

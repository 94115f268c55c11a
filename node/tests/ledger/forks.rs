//! One chain and the blocks it is given, in every order and condition.

use std::sync::Arc;

use ghost_node::{
    chain::{Blame, BlockFault, Chain, HeaderError, ImportError, Placement},
    consensus::{Equivocation, FUTURE_TOLERANCE_MS, TurnFault},
    store::MemoryStore,
};
use ghost_proto::{
    Address, Block, BlockId, Outcome, Vote,
    block::{Header, HeaderFields, sort_canonically},
    merkle,
    vote::Link,
};
use proptest::prelude::*;

use crate::world::*;

const FAR: u64 = u64::MAX / 2;

fn to(n: u8) -> Address {
    Address([n; 20])
}

/// Imports in the order given; those whose parent is missing come again until all are in.
fn import_all(chain: &mut Chain, mut blocks: Vec<Block>) {
    while !blocks.is_empty() {
        let before = blocks.len();
        blocks.retain(|block| match chain.import(block.clone(), trust_all, FAR) {
            Ok(_) => false,
            Err(error) => {
                assert!(error.missing_parent().is_some(), "{error}");
                true
            }
        });
        assert!(blocks.len() < before, "no block could be imported");
    }
}

/// A header with some fields changed and signed again, on the body of `block`.
fn forged(block: &Block, change: impl FnOnce(&mut HeaderFields)) -> Header {
    let mut fields = **block.header();
    change(&mut fields);
    fields.seal(&genesis(4).id(), &authority(fields.proposer.into()))
}

fn with_body(header: Header, block: &Block) -> Block {
    Block::from_parts(header, block.encode()[227..].to_vec().into()).unwrap()
}

#[test]
fn a_transfer_is_included_and_read_back() {
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let tx = transfer(0, 0, to(9), 77);
    let poor = transfer(1, 0, to(9), RICH);
    let block = forge.block(genesis.block_id(), 3, vec![tx.clone(), poor.clone()]);
    let mut chain = memory_chain(&genesis, None);
    let imported = chain.import(block.clone(), trust_none, slot_start(3)).unwrap();
    assert_eq!(imported.placement, Placement::Head);
    let change = imported.change.head.unwrap();
    assert_eq!(change.applied, [block.header().id()]);
    assert_eq!(change.included.len(), 2);
    let view = chain.view();
    assert_eq!(view.account(&to(9)).unwrap().balance, 77);
    assert_eq!(view.included_total(), 2);
    let read = view.transaction(&tx.id()).unwrap().unwrap();
    assert_eq!(read.bytes, *tx.bytes());
    assert_eq!((read.block.height, read.finalized), (1, false));
    assert_eq!(read.receipt.outcome, Outcome::Done);
    assert_eq!(view.transaction(&poor.id()).unwrap().unwrap().receipt.outcome, Outcome::InsufficientBalance);
    assert_eq!(view.block(&block.header().id()).unwrap(), Some(block.clone()));
    assert_eq!(view.receipts(block.header()).unwrap().len(), 2);
    assert_eq!(view.canonical_id(1).unwrap(), Some(block.header().id()));
    assert_eq!(view.canonical_id(2).unwrap(), None);
    assert_eq!(supply(&chain, &genesis, &[to(9)]), 8 * RICH);
    let again = chain.import(block, trust_none, slot_start(3)).unwrap();
    assert_eq!(again.placement, Placement::AlreadyKnown);
}

#[test]
fn a_reorganisation_reverts_returns_and_applies() {
    let genesis = genesis(4);
    let root = genesis.block_id();
    let mut forge = Forge::new(genesis.clone());
    let (shared, lost) = (transfer(0, 0, to(1), 5), transfer(1, 0, to(2), 6));
    let a1 = forge.block(root, 0, vec![shared.clone(), lost.clone()]);
    let b1 = forge.block(root, 1, vec![]);
    let b2 = forge.block(b1.header().id(), 2, vec![shared.clone()]);
    let mut chain = memory_chain(&genesis, None);
    chain.import(a1.clone(), trust_all, FAR).unwrap();
    assert_eq!(chain.import(b1.clone(), trust_all, FAR).unwrap().placement, Placement::SideBranch);
    assert_eq!(chain.head().id, a1.header().id(), "same height: the smaller slot stays");
    let change = chain.import(b2.clone(), trust_all, FAR).unwrap().change.head.unwrap();
    assert_eq!(change.reverted, [a1.header().id()]);
    assert_eq!(change.applied, [b1.header().id(), b2.header().id()]);
    assert_eq!(change.included, [shared.id()]);
    let returned: Vec<_> = change.returned.iter().map(|tx| tx.id()).collect();
    assert_eq!(returned, [lost.id()]);
    let view = chain.view();
    assert_eq!(view.account(&to(1)).unwrap().balance, 5);
    assert_eq!(view.account(&to(2)).unwrap().balance, 0);
    assert_eq!(view.transaction(&shared.id()).unwrap().unwrap().block.height, 2);
    assert_eq!(view.transaction(&lost.id()).unwrap(), None, "a reverted transaction is not included");
    assert_eq!(view.included_total(), 1);
    // And back again.
    let a2 = forge.block(a1.header().id(), 3, vec![]);
    let a3 = forge.block(a2.header().id(), 4, vec![]);
    chain.import(a2, trust_all, FAR).unwrap();
    let change = chain.import(a3, trust_all, FAR).unwrap().change.head.unwrap();
    assert_eq!(change.included.len(), 2);
    let view = chain.view();
    assert_eq!(view.transaction(&shared.id()).unwrap().unwrap().block.height, 1);
    assert_eq!(view.transaction(&lost.id()).unwrap().unwrap().block.height, 1);
    assert_eq!(supply(&chain, &genesis, &[to(1), to(2)]), 8 * RICH);
}

#[test]
fn faults_are_named_and_blamed() {
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let mut txs: Vec<_> = (0..4).map(|n| transfer(n, 0, to(9), 1)).collect();
    let block = forge.block(genesis.block_id(), 5, txs.clone());
    let now = slot_start(5);
    let mut chain = memory_chain(&genesis, None);
    let mut refuse = |block: Block| chain.import(block, trust_none, now).unwrap_err();

    // The sender's fault: anybody can see it.
    let error = refuse(with_body(forged(&block, |fields| fields.proposer = 2), &block));
    assert!(matches!(
        error,
        ImportError::Header(HeaderError::Turn(TurnFault::NotItsTurn { slot: 5, expected: 1, found: 2 }))
    ));
    assert_eq!(error.blame(), Blame::Sender);
    let error = refuse(with_body(forged(&block, |fields| fields.height = 2), &block));
    assert!(matches!(error, ImportError::Header(HeaderError::NotAfterParent { field: "height", .. })));
    assert_eq!(error.blame(), Blame::Sender);

    // The proposer's: it takes executing.
    for (change, what) in [
        ((|fields| fields.state[0] ^= 1) as fn(&mut HeaderFields), "state"),
        (|fields| fields.receipt_root[0] ^= 1, "receipt root"),
        (|fields| fields.gas_used += 1, "sum of gas"),
    ] {
        let bad = with_body(forged(&block, change), &block);
        let id = bad.header().id();
        let error = refuse(bad.clone());
        assert_eq!(error, ImportError::Invalid { id, proposer: 1, fault: BlockFault::Mismatch(what) },);
        assert_eq!(error.blame(), Blame::Proposer);
        let again = refuse(bad);
        assert_eq!(again, ImportError::Header(HeaderError::KnownInvalid));
    }

    // A fresh chain: the slot's room for double proposals is used up on this one.
    let mut chain = memory_chain(&genesis, None);
    let mut refuse = |block: Block| chain.import(block, trust_none, now).unwrap_err();
    sort_canonically(&genesis.block_id(), &mut txs);
    txs.reverse();
    let mut body = Vec::new();
    for tx in &txs {
        ghost_proto::layout::put_var_bytes(&mut body, tx.bytes());
    }
    let header = forged(&block, |fields| fields.tx_root = merkle::root(txs.iter().map(|tx| tx.id())));
    let error = refuse(Block::from_parts(header, body.into()).unwrap());
    assert!(matches!(error, ImportError::Invalid { fault: BlockFault::Order, .. }), "{error}");

    // A signature that does not verify, in a body that the header commits to.
    let mut stolen = block.transactions()[0].bytes().to_vec();
    let end = stolen.len() - 1;
    stolen[end - 40] ^= 1;
    let stolen = ghost_proto::SignedTransaction::parse(stolen.into()).unwrap();
    let mut body = Vec::new();
    let mut ids = Vec::new();
    for tx in std::iter::once(&stolen).chain(&block.transactions()[1..]) {
        ghost_proto::layout::put_var_bytes(&mut body, tx.bytes());
        ids.push(tx.id());
    }
    let header = forged(&block, |fields| fields.tx_root = merkle::root(&ids));
    let error = refuse(Block::from_parts(header, body.into()).unwrap());
    assert!(
        matches!(error, ImportError::Invalid { fault: BlockFault::Signature(id), .. } if id == stolen.id()),
        "{error}"
    );

    // After all that the honest block is still taken.
    assert_eq!(chain.import(block, trust_none, now).unwrap().placement, Placement::Head);
}

#[test]
fn blocks_from_the_future_from_both_sides_of_the_tolerance() {
    let genesis = genesis(4);
    let block = Forge::new(genesis.clone()).block(genesis.block_id(), 40, vec![]);
    let mut chain = memory_chain(&genesis, None);
    let ready_unix_ms = slot_start(40) - FUTURE_TOLERANCE_MS;
    assert_eq!(
        chain.check_header(block.header(), ready_unix_ms - 1),
        Err(HeaderError::FromFuture { ready_unix_ms })
    );
    let error = chain.import(block.clone(), trust_all, ready_unix_ms - 1).unwrap_err();
    assert_eq!(error.blame(), Blame::Nobody);
    assert_eq!(chain.check_header(block.header(), ready_unix_ms), Ok(()));
    chain.import(block, trust_all, ready_unix_ms).unwrap();
}

#[test]
fn a_slot_is_not_proposed_for_twice() {
    let genesis = genesis(4);
    let mut chain = memory_chain(&genesis, Some(1));
    assert_eq!(chain.duty(START_MS - 1), None, "before genesis");
    assert_eq!(chain.duty(slot_start(0)), None, "another's turn");
    assert_eq!(chain.next_turn_start(slot_start(0)), Some(slot_start(1)));
    assert_eq!(chain.next_slot_start(slot_start(0) + 1), slot_start(1));
    assert_eq!(chain.duty(slot_start(1)), Some(1));
    assert!(chain.propose(5, vec![], slot_start(1)).is_err(), "not begun");
    chain.propose(1, vec![], slot_start(1)).unwrap();
    assert_eq!(chain.duty(slot_start(1) + 1), None);
    assert!(chain.propose(1, vec![], slot_start(1)).is_err());
    assert_eq!(chain.next_turn_start(slot_start(1)), Some(slot_start(5)));
    assert_eq!(chain.duty(slot_start(5)), Some(5));
}

#[test]
fn a_double_proposal_is_evidence_once_and_bounded() {
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let mut chain = memory_chain(&genesis, None);
    let blocks: Vec<Block> = (0..6)
        .map(|n| forge.block(genesis.block_id(), 2, vec![transfer(0, 0, to(n), u128::from(n))]))
        .collect();
    assert_eq!(chain.import(blocks[0].clone(), trust_all, FAR).unwrap().equivocation, None);
    let second = chain.import(blocks[1].clone(), trust_all, FAR).unwrap();
    assert_eq!(
        second.equivocation,
        Some(Equivocation::Proposals {
            first: Box::new(blocks[0].header().clone()),
            second: Box::new(blocks[1].header().clone())
        })
    );
    for block in &blocks[2..4] {
        assert_eq!(chain.import(block.clone(), trust_all, FAR).unwrap().equivocation, None);
    }
    let error = chain.import(blocks[4].clone(), trust_all, FAR).unwrap_err();
    assert_eq!(error, ImportError::Header(HeaderError::TooManyProposals { slot: 2 }));
    assert_eq!(error.blame(), Blame::Nobody);
    // The network built on the one we turned down: then we take it.
    let child = forge.block(blocks[4].header().id(), 3, vec![]);
    let error = chain.import(child.clone(), trust_all, FAR).unwrap_err();
    assert_eq!(error.missing_parent(), Some(blocks[4].header().id()));
    chain.import(blocks[4].clone(), trust_all, FAR).unwrap();
    chain.import(child.clone(), trust_all, FAR).unwrap();
    assert_eq!(chain.head().id, child.header().id());
    assert!(chain.import(blocks[5].clone(), trust_all, FAR).is_err());
}

/// Votes of all four for one link.
fn certificate(link: Link) -> ghost_proto::FinalityCertificate {
    let id = genesis(4).id();
    ghost_proto::FinalityCertificate {
        link,
        signatures: (0..3u16)
            .map(|n| (n, Vote::sign(link, n, &id, &authority(n.into())).signature))
            .collect(),
    }
}

fn checkpoint(block: &Block) -> ghost_proto::Checkpoint {
    ghost_proto::Checkpoint { height: block.header().height, id: block.header().id() }
}

/// Blocks of slots 1, 2, ... each on the one before, with one transfer each.
fn straight(forge: &mut Forge, count: u64) -> Vec<Block> {
    let genesis = forge.genesis.clone();
    let mut parent = genesis.block_id();
    let mut chain = memory_chain(&genesis, None);
    (1..=count)
        .map(|slot| {
            // Growing one chain by imports is linear; a forge from genesis for each block is not.
            let turn = usize::from(genesis.authorities.proposer_of(slot));
            let state = chain.view().account(&user(0).address()).unwrap();
            let block = if slot <= 3 {
                forge.block(parent, slot, vec![transfer(0, state.nonce, to(9), 1)])
            } else {
                sealed(&chain, slot, turn, vec![transfer(0, state.nonce, to(9), 1)])
            };
            parent = block.header().id();
            chain.import(block.clone(), trust_all, FAR).unwrap();
            block
        })
        .collect()
}

/// A block on the head of `chain`, made outside of any chain.
fn sealed(chain: &Chain, slot: u64, turn: usize, txs: Vec<ghost_proto::VerifiedTransaction>) -> Block {
    use ghost_node::{
        chain::{
            BlockState,
            lthash::LtHash,
            state::{NoAncestors, WorkingState},
        },
        engine::{BlockContext, Engine, Transfers},
    };
    let view = chain.view();
    let head = view.head();
    let parent = BlockState {
        snapshot: view.state().clone(),
        lthash: Arc::new(LtHash::default()),
        changed: Arc::new([]),
        dex: Default::default(),
    };
    let genesis = chain.genesis();
    let context = BlockContext {
        chain_id: genesis.chain_id,
        height: head.height + 1,
        slot,
        time_unix_ms: slot_start(slot),
        proposer: authority(turn).address(),
        gas_price_min: genesis.gas_price_min,
        gas_left: genesis.block_gas_max,
    };
    let mut transactions: Vec<_> = txs.into_iter().map(|tx| tx.into_signed()).collect();
    sort_canonically(&head.id, &mut transactions);
    let mut state = WorkingState::new(&parent, &NoAncestors);
    let receipts: Vec<_> =
        transactions.iter().map(|tx| Transfers.execute(tx, &mut state, &context).unwrap()).collect();
    // The commitment, from scratch: over every account there is.
    drop(state.finish());
    let mut state = WorkingState::new(&parent, &NoAncestors);
    for tx in &transactions {
        Transfers.execute(tx, &mut state, &context).unwrap();
    }
    let mut all = LtHash::default();
    let mut addresses: Vec<Address> = (0..8).map(|n| user(n).address()).collect();
    addresses.extend((0..4).map(|n| authority(n).address()));
    addresses.push(to(9));
    for address in addresses {
        if let Some(value) = state.account(&address).unwrap().encode() {
            all.add(&ghost_node::chain::Account::key(&address), &value);
        }
    }
    ghost_proto::BlockBuilder {
        parent: head.id,
        height: head.height + 1,
        slot,
        proposer: turn as u16,
        transactions,
        receipts,
        state: all.digest(),
    }
    .seal(&genesis.id(), &authority(turn))
}

#[test]
fn one_certificate_finalizes_for_a_node_that_was_away_and_prunes_the_rest() {
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let blocks = straight(&mut forge, 20);
    let side = forge.block(blocks[0].header().id(), 6, vec![]);
    let mut chain = memory_chain(&genesis, None);
    let certificate = certificate(Link { source: checkpoint(&blocks[17]), target: checkpoint(&blocks[18]) });
    assert!(matches!(
        chain.on_certificate(&certificate).unwrap(),
        ghost_node::chain::CertificateOutcome::Waiting(target) if target == checkpoint(&blocks[18])
    ));
    chain.import(blocks[0].clone(), trust_all, FAR).unwrap();
    chain.import(side.clone(), trust_all, FAR).unwrap();
    for block in &blocks[1..18] {
        chain.import(block.clone(), trust_all, FAR).unwrap();
        assert_eq!(chain.finalized().height, 0);
    }
    let imported = chain.import(blocks[18].clone(), trust_all, FAR).unwrap();
    assert_eq!(imported.change.finalized, Some(checkpoint(&blocks[17])));
    assert_eq!(imported.change.justified, Some(checkpoint(&blocks[18])));
    chain.import(blocks[19].clone(), trust_all, FAR).unwrap();
    assert_eq!(chain.unfinalized_len(), 2);
    let view = chain.view();
    assert!(!view.contains(&side.header().id()).unwrap(), "a branch that lost is gone");
    for (height, block) in (1..).zip(&blocks) {
        assert_eq!(view.canonical_id(height).unwrap(), Some(block.header().id()));
        assert!(view.transaction(&block.transactions()[0].id()).unwrap().is_some());
    }
    assert!(view.transaction(&blocks[17].transactions()[0].id()).unwrap().unwrap().finalized);
    assert!(!view.transaction(&blocks[18].transactions()[0].id()).unwrap().unwrap().finalized);
    // A child of what was left behind, from both sides of the border.
    let late = forge.block(side.header().id(), 7, vec![]);
    let error = chain.import(late, trust_all, FAR).unwrap_err();
    assert!(
        matches!(error, ImportError::Header(HeaderError::BelowFinality { finalized_height: 18 })),
        "{error}"
    );
    assert!(matches!(
        chain.import(blocks[3].clone(), trust_all, FAR).unwrap().placement,
        Placement::AlreadyKnown
    ));
    // Locator and headers: a peer at height 5 gets the rest.
    let locator = [blocks[4].header().id(), genesis.block_id()];
    let headers = view.headers_after(&locator, 512).unwrap();
    let expected: Vec<_> = blocks[5..].iter().map(|block| block.header().clone()).collect();
    assert_eq!(headers, expected);
    assert_eq!(view.headers_after(&locator, 3).unwrap(), expected[..3]);
    assert_eq!(view.headers_after(&[side.header().id()], 3).unwrap(), []);
    let ours = view.locator().unwrap();
    assert_eq!(ours.first(), Some(&blocks[19].header().id()));
    assert_eq!(ours.last(), Some(&genesis.block_id()));
    assert_eq!(view.headers_after(&ours, 512).unwrap(), []);
}

#[test]
fn a_long_stall_keeps_few_states_and_deep_forks_still_work() {
    use ghost_node::chain::{ANCHOR_EVERY, STATES_MAX};
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let count = 4 * STATES_MAX as u64;
    let blocks = straight(&mut forge, count);
    let mut chain = memory_chain(&genesis, None);
    for block in &blocks {
        chain.import_later(block.clone(), trust_all, FAR).unwrap();
    }
    chain.flush().unwrap();
    let most = STATES_MAX + (count / ANCHOR_EVERY) as usize + 2;
    assert!(chain.states_len() <= most, "{} states", chain.states_len());
    assert_eq!(chain.unfinalized_len() as u64, count);
    // The state of a block whose own was dropped: as many transfers as blocks.
    let deep = &blocks[100];
    let balance = chain.account_at(&deep.header().id(), &to(9)).unwrap().unwrap().balance;
    assert_eq!(balance, 101);
    // A branch there, and finality of the trunk at once.
    let pick = &blocks[count as usize - 3..];
    let certificate = certificate(Link { source: checkpoint(&pick[0]), target: checkpoint(&pick[1]) });
    chain.on_certificate(&certificate).unwrap();
    assert_eq!(chain.finalized(), checkpoint(&pick[0]));
    assert_eq!(chain.unfinalized_len(), 2);
    assert_eq!(chain.view().account(&to(9)).unwrap().balance, u128::from(count));
    assert_eq!(supply(&chain, &genesis, &[to(9)]), 8 * RICH);
}

#[test]
fn snapshots_are_pruned_as_finality_advances_and_read_the_same() {
    use ghost_node::chain::SNAPSHOT_ENTRIES_SOFT_MAX;
    fn is_send<T: Send>(_: &T) {}
    const PER_BLOCK: u64 = 1_500;
    let genesis = genesis(1);
    let mut chain = memory_chain(&genesis, Some(0));
    is_send(&chain);
    let receiver = |n: u64| {
        let mut address = [0xaa; 20];
        address[..8].copy_from_slice(&n.to_be_bytes());
        Address(address)
    };
    let mut largest = 0;
    let slots = 2 * SNAPSHOT_ENTRIES_SOFT_MAX as u64 / PER_BLOCK;
    for slot in 0..slots {
        let txs = (0..PER_BLOCK)
            .map(|n| transfer((n % 8) as u8, (slot * PER_BLOCK + n) / 8, receiver(slot * PER_BLOCK + n), 3))
            .collect();
        // 1,500 is no multiple of 8: what a nonce gap keeps out is simply left out.
        chain.propose(slot, txs, slot_start(slot)).unwrap();
        chain.vote(slot_start(slot)).unwrap().unwrap();
        assert_eq!(chain.unfinalized_len(), 1);
        largest = largest.max(chain.view().state().changed_len());
    }
    assert!(
        largest > SNAPSHOT_ENTRIES_SOFT_MAX / 2 && largest <= SNAPSHOT_ENTRIES_SOFT_MAX + 2_000,
        "{largest}"
    );
    let view = chain.view();
    let paid: u128 = (0..slots * PER_BLOCK).map(|n| view.account(&receiver(n)).unwrap().balance).sum();
    assert_eq!(paid, 3 * u128::from(view.included_total()));
    assert_eq!(supply(&chain, &genesis, &[]) + paid, 8 * RICH);
}

#[test]
fn headers_that_lead_nowhere_leave_no_trace_below_the_finalized_slot() {
    let genesis = genesis(4);
    let mut forge = Forge::new(genesis.clone());
    let blocks = straight(&mut forge, 8);
    let mut chain = memory_chain(&genesis, None);
    import_all(&mut chain, blocks.clone());
    chain
        .on_certificate(&certificate(Link { source: checkpoint(&blocks[5]), target: checkpoint(&blocks[6]) }))
        .unwrap();
    let lost = |slot: u64| {
        forged(&blocks[0], |fields| {
            fields.parent = BlockId([0xcc; 32]);
            fields.height = 1_000;
            fields.slot = slot;
            fields.proposer = (slot % 4) as u16;
        })
    };
    assert_eq!(
        chain.check_header(&lost(6), FAR),
        Err(HeaderError::BelowFinality { finalized_height: 6 }),
        "the slot of the finalized block"
    );
    assert_eq!(
        chain.check_header(&lost(7), FAR),
        Err(HeaderError::UnknownParent { parent: BlockId([0xcc; 32]) })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_order_of_arrival_ends_with_the_same_head_and_state(
        shape in proptest::collection::vec((any::<prop::sample::Index>(), 1u64..4, 0u8..8, 0u128..1_000), 1..12),
        order in any::<u64>(),
        justify in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let genesis = genesis(4);
        let mut forge = Forge::new(genesis.clone());
        let mut tips: Vec<(BlockId, Option<u64>)> = vec![(genesis.block_id(), None)];
        let mut blocks = Vec::new();
        for (parent, gap, from, value) in shape {
            let (parent, slot) = tips[parent.index(tips.len())];
            let mut slot = slot.map_or(gap, |slot| slot + gap);
            while blocks.iter().filter(|block: &&Block| block.header().slot == slot).count() == 3 {
                slot += 1;
            }
            let turn = forge.chain_at(parent, slot);
            let nonce = turn.view().account(&user(from).address()).unwrap().nonce;
            let block = forge.block(parent, slot, vec![transfer(from, nonce, to(9), value)]);
            tips.push((block.header().id(), Some(slot)));
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        let mut scrambled = blocks.clone();
        scrambled.sort_by_key(|block| {
            let id = block.header().id().0;
            u64::from_be_bytes(id[..8].try_into().unwrap()).wrapping_mul(order | 1).rotate_left(23)
        });
        let store = Arc::new(MemoryStore::new());
        let mut one = open(&genesis, store.clone(), None);
        let mut two = memory_chain(&genesis, None);
        if let Some(index) = justify {
            let root = ghost_proto::Checkpoint { height: 0, id: genesis.block_id() };
            let target = checkpoint(&blocks[index.index(blocks.len())]);
            let certificate = certificate(Link { source: root, target });
            // One node hears it before the blocks, the other after.
            one.on_certificate(&certificate).unwrap();
            import_all(&mut one, blocks.clone());
            import_all(&mut two, scrambled);
            two.on_certificate(&certificate).unwrap();
            prop_assert_eq!(one.justified(), target);
        } else {
            import_all(&mut one, blocks.clone());
            import_all(&mut two, scrambled);
        }
        prop_assert_eq!(one.head(), two.head());
        prop_assert_eq!(supply(&one, &genesis, &[to(9)]), 8 * RICH);
        for n in 0..8 {
            let address = user(n).address();
            prop_assert_eq!(one.view().account(&address).unwrap(), two.view().account(&address).unwrap());
        }
        prop_assert_eq!(one.view().included_total(), two.view().included_total());
        // Opening the same store again leads to the same place, too.
        let (head, justified) = (one.head(), one.justified());
        drop(one);
        let again = open(&genesis, store, None);
        prop_assert_eq!((again.head(), again.justified()), (head, justified));
        prop_assert_eq!(again.view().included_total(), two.view().included_total());
    }
}

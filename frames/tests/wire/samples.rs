//! A small made-up chain and one or more frames of each kind from it.

use crate::sketch;
use bytes::Bytes;
use ghost_frames::{
    Frame, StreamType,
    block::{BlockAnnounce, BlocksRequest, WholeBlock},
    compact::{
        BlockRelayMode, BlockTransactions, BlockTransactionsRequest, CompactBlock, CompactRequest,
        PlacedTransaction,
    },
    consensus, contract, control, discovery, meet, price,
    reconcile::{Inventory, InventoryRequest, MissingRequest, Symbols, SymbolsRequest},
    shards::{Shard, ShardHave, ShardPlan, ShardRequest, ShardRoot, ShardSet},
    sync,
    tx::{self, FeeFloor},
    wallet::{
        DepositProof, MailboxAcknowledge, MailboxAnswer, MailboxCollect, MailboxDelivery, MailboxDeposit,
        MailboxGrant, MailboxOpen, MailboxOutcome, PresenceAnswer, PresencePublish, PresenceRequest,
    },
};
use ghost_proto::{
    Address, AuthoritySet, Block, BlockBuilder, BlockId, Call, CallAnswer, Checkpoint, FeedSpec,
    FinalityCertificate, Genesis, Header, KeyPair, LookupKey, MailboxAt, Multiaddr, Outcome, PeerId,
    PeerRecord, Presence, PresenceBody, Quote, Receipt, Report, SignedTransaction, SignedValue, TxId, Vote,
    block::{self, HeaderFields},
    merkle, message as m,
    price::{Equivocation, ReportFields},
    record,
    tx::{Action, Transaction},
    vote::Link,
};
use siphasher::sip::SipHasher13;
use std::{collections::BTreeMap, hash::Hasher};

/// The salt of the peer to which the sampled announcements go.
pub(crate) const SALT: [u8; 16] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";

/// A frame with what it says.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) stream: StreamType,
    pub(crate) frame: Frame,
    pub(crate) meaning: String,
}

/// The chain all samples are of.
pub(crate) struct World {
    pub(crate) authorities: Vec<KeyPair>,
    pub(crate) senders: [KeyPair; 2],
    pub(crate) node: KeyPair,
    pub(crate) genesis: Genesis,
    /// In canonical order: two of one sender, one of the other.
    pub(crate) transactions: Vec<SignedTransaction>,
    pub(crate) receipts: Vec<Receipt>,
    /// Height 1.
    pub(crate) block: Block,
    /// Height 2, empty.
    pub(crate) next: Block,
    /// After both blocks.
    pub(crate) state: State,
    pub(crate) record: PeerRecord,
}

/// The short id of a transaction for a peer with this salt.
pub(crate) fn short_id(salt: &[u8; 16], id: &TxId) -> tx::ShortId {
    let mut hasher = SipHasher13::new_with_key(salt);
    hasher.write(&id.0);
    tx::ShortId(hasher.finish())
}

/// The short id of a transaction in a compact block.
pub(crate) fn compact_short_id(block: &BlockId, nonce: u64, id: &TxId) -> [u8; 6] {
    let mut key = blake3::Hasher::new_derive_key("ghost compact block v1");
    let key = key.update(&block.0).update(&nonce.to_be_bytes()).finalize();
    let mut hasher = SipHasher13::new_with_key(key.as_bytes()[..16].try_into().unwrap());
    hasher.write(&id.0);
    hasher.finish().to_be_bytes()[..6].try_into().unwrap()
}

/// The nonce of the sampled compact block.
pub(crate) const COMPACT_NONCE: u64 = 0x0102_0304_0506_0708;

/// What a transfer costs in gas: as in the EVM.
pub(crate) fn intrinsic_gas(payload: &[u8]) -> u64 {
    21_000 + payload.iter().map(|byte| if *byte == 0 { 4 } else { 16 }).sum::<u64>()
}

pub(crate) fn transfer(key: &KeyPair, nonce: u64, gas_price: u64, payload: &[u8]) -> SignedTransaction {
    Transaction {
        chain_id: 7,
        sender_key: key.public(),
        nonce,
        gas_limit: 50_000,
        gas_price,
        action: Action::Transfer {
            to: Address([0xaa; 20]),
            value: 1_000_000,
            payload: Bytes::copy_from_slice(payload),
        },
    }
    .sign(key)
    .unwrap()
    .into_signed()
}

/// The state, by the rules of `WIRE.md` and nothing else: what a second implementation would write.
pub(crate) struct State(pub(crate) BTreeMap<Address, (u64, u128)>);

impl State {
    pub(crate) fn of(genesis: &Genesis) -> Self {
        Self(genesis.allocation.iter().map(|(address, balance)| (*address, (0, *balance))).collect())
    }

    /// A transfer whose sender can pay it.
    fn execute(&mut self, tx: &SignedTransaction, proposer: &Address) {
        let Action::Transfer { to, value, payload } = &tx.body().action else {
            panic!("{:?}", tx.body().action)
        };
        let fee = u128::from(intrinsic_gas(payload)) * u128::from(tx.body().gas_price);
        let sender = self.0.get_mut(&tx.sender()).unwrap();
        assert_eq!(sender.0, tx.body().nonce);
        *sender = (sender.0 + 1, sender.1 - fee - value);
        self.0.entry(*to).or_default().1 += value;
        self.0.entry(*proposer).or_default().1 += fee;
    }

    /// Key and value of each account that is not empty.
    pub(crate) fn entries(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let accounts = self.0.iter().filter(|(_, account)| **account != (0, 0));
        accounts
            .map(|(address, (nonce, balance))| {
                let value = [nonce.to_be_bytes().as_slice(), &balance.to_be_bytes()].concat();
                ([[1].as_slice(), &address.0].concat(), value)
            })
            .collect()
    }

    pub(crate) fn commitment(&self) -> [u8; 32] {
        lthash(&self.entries())
    }
}

/// The commitment to a set of entries.
pub(crate) fn lthash(entries: &[(Vec<u8>, Vec<u8>)]) -> [u8; 32] {
    let mut lanes = [0u16; 1024];
    for (key, value) in entries {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_derive_key("ghost chain state entry v1")
            .update(&(key.len() as u32).to_be_bytes())
            .update(key)
            .update(value)
            .finalize_xof()
            .fill(&mut bytes);
        for (lane, pair) in lanes.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *lane = lane.wrapping_add(u16::from_le_bytes(*pair));
        }
    }
    *blake3::hash(&lanes.map(u16::to_le_bytes).concat()).as_bytes()
}

impl World {
    pub(crate) fn new() -> Self {
        let key = |seed: u8| KeyPair::from_seed(&[seed; 32]);
        let authorities: Vec<_> = (1..=4).map(key).collect();
        let senders = [key(0x11), key(0x12)];
        let genesis = Genesis {
            name: "vectors".into(),
            chain_id: 7,
            time_unix_ms: 1_700_000_000_000,
            slot_ms: 1_000,
            gas_price_min: 1,
            block_gas_max: 30_000_000,
            block_bytes_max: 2 << 20,
            authorities: AuthoritySet::new(authorities.iter().map(KeyPair::public).collect()).unwrap(),
            markets: Default::default(),
            allocation: senders.iter().map(|key| (key.address(), 1_000_000_000_000)).collect(),
            feeds: Vec::new(),
        };
        let mut transactions = vec![
            transfer(&senders[0], 0, 1, b""),
            transfer(&senders[0], 1, 9, b"hello\0"),
            transfer(&senders[1], 0, 2, b""),
        ];
        block::sort_canonically(&genesis.block_id(), &mut transactions);
        let receipts: Vec<_> = transactions
            .iter()
            .map(|tx| match &tx.body().action {
                Action::Transfer { payload, .. } => Receipt::plain(Outcome::Done, intrinsic_gas(payload)),
                other => panic!("{other:?}"),
            })
            .collect();
        let mut state = State::of(&genesis);
        for tx in &transactions {
            state.execute(tx, &authorities[1].address());
        }
        let block = BlockBuilder {
            parent: genesis.block_id(),
            height: 1,
            slot: 1,
            proposer: 1,
            transactions: transactions.clone(),
            receipts: receipts.clone(),
            state: state.commitment(),
        }
        .seal(&genesis.id(), &authorities[1]);
        let next = BlockBuilder {
            parent: block.header().id(),
            height: 2,
            slot: 2,
            proposer: 2,
            transactions: Vec::new(),
            receipts: Vec::new(),
            // Nothing was executed: the state is the parent's.
            state: state.commitment(),
        }
        .seal(&genesis.id(), &authorities[2]);
        let node = key(0x21);
        let address: Multiaddr = "/ip4/192.0.2.7/udp/4001/quic-v1".parse().unwrap();
        let record = PeerRecord::sign(&node, vec![address], 0x3ff, 3, 1_700_003_600).unwrap();
        Self { authorities, senders, node, genesis, transactions, receipts, block, next, state, record }
    }

    pub(crate) fn value(&self) -> SignedValue {
        SignedValue::sign(&self.senders[0], b"mailbox", 5, 1_700_090_000, b"at the third node").unwrap()
    }

    pub(crate) fn peer(&self) -> PeerId {
        record::peer_of(&self.node.public()).unwrap()
    }

    pub(crate) fn link(&self) -> Link {
        let checkpoint = |header: &Header| Checkpoint { height: header.height, id: header.id() };
        Link { source: checkpoint(self.block.header()), target: checkpoint(self.next.header()) }
    }

    pub(crate) fn vote(&self, authority: u16) -> Vote {
        Vote::sign(self.link(), authority, &self.genesis.id(), &self.authorities[usize::from(authority)])
    }

    pub(crate) fn certificate(&self) -> FinalityCertificate {
        FinalityCertificate {
            link: self.link(),
            signatures: [0, 1, 3].map(|authority| (authority, self.vote(authority).signature)).into(),
        }
    }

    /// What a client that takes any chain says first.
    pub(crate) fn client_hello(&self) -> m::Hello {
        m::Hello {
            versions: vec![1],
            user_agent: "example/1.0".into(),
            best_block: vec![0; 32].into(),
            nonce: 0x0102_0304_0506_0708,
            role: m::Role::Client.into(),
            ..Default::default()
        }
    }

    /// What the node says first.
    pub(crate) fn node_hello(&self) -> m::Hello {
        let observed: Multiaddr = "/ip4/198.51.100.9/udp/50000/quic-v1".parse().unwrap();
        m::Hello {
            genesis: Bytes::copy_from_slice(&self.genesis.id().0),
            versions: vec![1],
            stream_types: (0..10).collect(),
            user_agent: "ghostd/0.1.0".into(),
            record: self.record.bytes().clone(),
            best_height: 2,
            best_block: Bytes::copy_from_slice(&self.next.header().id().0),
            nonce: 0x1112_1314_1516_1718,
            role: m::Role::Node.into(),
            observed: observed.to_vec().into(),
            required: Vec::new(),
            finalized_height: 1,
            tx_salt: Bytes::copy_from_slice(&SALT),
        }
    }

    /// Shards of a payload of 70,000 bytes: the n-th byte of it is n mod 251. What repairs it stands for itself here; the code is frozen elsewhere.
    fn shard(&self, index: u16) -> Shard {
        let pieces: Vec<Vec<u8>> = (0..24usize)
            .map(|piece| {
                let byte = |at: usize| if at < 70_000 { (at % 251) as u8 } else { 0 };
                (0..4_376).map(|at| byte(piece * 4_376 + at)).collect()
            })
            .collect();
        let (root, paths) = merkle::root_and_proofs(&pieces);
        let at = usize::from(index);
        Shard { root: ShardRoot(root), index, path: paths[at].clone(), bytes: pieces[at].clone().into() }
    }

    fn shard_plan(&self, indexes: Vec<u32>) -> ShardPlan {
        let fields = HeaderFields {
            parent: self.next.header().id(),
            height: 3,
            slot: 3,
            proposer: 3,
            tx_count: 300,
            body_bytes: 70_000,
            tx_root: [3; 32],
            receipt_root: [4; 32],
            state: [5; 32],
            gas_used: 6,
        };
        let key = &self.authorities[3];
        let header = fields.seal(&self.genesis.id(), key);
        ShardPlan::seal(header, 70_000, self.shard(0).root, indexes, &self.genesis.id(), key)
    }

    fn block_ref(&self, header: &Header) -> m::BlockRef {
        m::BlockRef { height: header.height, id: id(&header.id()), slot: header.slot }
    }

    pub(crate) fn status(&self) -> m::Status {
        m::Status {
            version: "0.1.0".into(),
            peer: self.peer().to_bytes().into(),
            genesis: Bytes::copy_from_slice(&self.genesis.id().0),
            chain_name: "vectors".into(),
            chain_id: 7,
            head: Some(self.block_ref(self.next.header())),
            finalized: Some(self.block_ref(self.block.header())),
            sync: Some(m::Sync { syncing: false, target_height: 2 }),
            peers: vec![m::PeerCount {
                direction: "inbound".into(),
                network: "ip4".into(),
                role: "client".into(),
                count: 1,
            }],
            mempool: Some(m::MempoolStatus { count: 0, bytes: 0, parked: 0, gas_price_min: 1 }),
            uptime_ms: 60_000,
            listen: vec![format!("/ip4/0.0.0.0/udp/4001/quic-v1/p2p/{}", self.peer())],
            authority: Some(0),
            rss_bytes: 50 << 20,
            time_unix_ms: 1_700_000_002_500,
            slot_ms: 1_000,
            included_total: 3,
            refusals: vec![m::Count { name: "busy".into(), count: 2 }],
            external_address: String::new(),
            relay: None,
            reachability: None,
            alarms: Vec::new(),
            tor: None,
        }
    }

    /// At least one frame of each kind.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let mut samples = self.overlay_samples();
        samples.extend(self.rpc_samples());
        samples.extend(self.wallet_samples());
        samples.extend(crate::market_samples::samples(self));
        samples
    }

    fn overlay_samples(&self) -> Vec<Sample> {
        use StreamType::{
            BlockFetch, BlockPush, Circuit, Consensus, Control, Discovery, Meet, ShardPush, Sync, TxFetch,
            TxPush, TxSync,
        };
        let (first, second) = (&self.transactions[0], &self.transactions[1]);
        let seen = Bytes::from("/ip4/198.51.100.9/udp/50000/quic-v1".parse::<Multiaddr>().unwrap().to_vec());
        let entry = |tx: &SignedTransaction| tx::TxAnnounceEntry {
            id: short_id(&SALT, &tx.id()),
            bytes: tx.bytes().len() as u32,
            fee_class: tx.body().gas_price.max(1).ilog2() as u8,
        };
        let whole = |block: &Block| {
            let mut bytes = Bytes::from(block.encode());
            let body = bytes.split_off(block::HEADER_LEN);
            WholeBlock { header: block.header().clone(), body }
        };
        let ids: Vec<TxId> = self.transactions.iter().map(SignedTransaction::id).collect();
        let (key, nonce) = (sketch::CONNECTION_KEY, sketch::NONCE);
        let symbols = |first, count| Symbols {
            count: 3,
            first,
            symbols: sketch::symbols(&key, nonce, &ids, first, count),
        };
        let sketch_id = |index: usize| sketch::item(&key, nonce, &ids[index]).0;
        let headers = vec![self.block.header().clone(), self.next.header().clone()];
        let (one, two) = (self.block.header().id(), self.next.header().id());
        vec![
            sample(
                "hello of a client",
                Control,
                self.client_hello(),
                "a client that takes any chain: no genesis, no salt, no record, serves nothing; best block of 32 zero bytes; nonce 0x0102030405060708",
            ),
            sample(
                "hello of a node",
                Control,
                self.node_hello(),
                "a node that serves ten stream types, best height 2, final height 1, with its record, the address it sees the other side at (/ip4/198.51.100.9/udp/50000/quic-v1) and the salt 000102…0f",
            ),
            sample("ping", Control, control::Ping(0x0123_4567_89ab_cdef), "number 0x0123456789abcdef"),
            sample("pong", Control, control::Pong(0x0123_4567_89ab_cdef), "the answer to that ping"),
            sample(
                "announce two transactions",
                TxPush,
                tx::TxAnnounce { entries: vec![entry(first), entry(second)] },
                "the first two transactions of the block of height 1, by short id under the salt 000102…0f, with length and fee class",
            ),
            sample(
                "request two transactions",
                TxFetch,
                tx::TxRequest { ids: vec![entry(first).id, entry(second).id] },
                "the same two short ids, asked for by the side whose salt it is",
            ),
            sample(
                "no transactions",
                TxFetch,
                tx::Transactions::default(),
                "an answer: none of them is to be had",
            ),
            sample(
                "two transactions",
                TxPush,
                tx::Transactions { transactions: vec![first.clone(), second.clone()] },
                "the same two, whole",
            ),
            sample(
                "a transaction on its stem",
                TxPush,
                tx::StemTransaction(first.clone()),
                "the first of them, not flooded yet",
            ),
            sample(
                "request the first symbols",
                TxSync,
                SymbolsRequest { nonce, count: 2, first: 0, credit: 80 },
                "80 symbols under the nonce 0x2122232425262728, asked for by a side that holds two transactions; opens a session",
            ),
            sample(
                "the first symbols",
                TxSync,
                symbols(0, 80),
                "the first 80 symbols of the three transactions of the block of height 1, on a connection whose key is 101112…1f, with counts",
            ),
            sample(
                "request more symbols",
                TxSync,
                SymbolsRequest { nonce, count: 2, first: 80, credit: 40 },
                "the 40 that follow",
            ),
            sample("more symbols", TxSync, symbols(80, 40), "the 40 that follow, without counts"),
            sample(
                "symbols on both sides of the last count",
                TxSync,
                symbols(78, 4),
                "two with counts and two without",
            ),
            sample("request the inventory", TxSync, InventoryRequest { nonce }, "all ids of that session"),
            sample(
                "inventory",
                TxSync,
                Inventory { ids: vec![sketch_id(0), sketch_id(1), sketch_id(2)] },
                "the sketch ids of the three",
            ),
            sample(
                "request what is missing",
                TxSync,
                MissingRequest { nonce, more: true, ids: vec![sketch_id(2)] },
                "the asker lacks the third, and more that it will name",
            ),
            sample(
                "nothing is missing",
                TxSync,
                MissingRequest { nonce, more: false, ids: Vec::new() },
                "the asker lacks nothing else of that session",
            ),
            sample(
                "announce a block",
                BlockPush,
                BlockAnnounce(self.block.header().clone()),
                "the header of the block of height 1",
            ),
            sample(
                "request two blocks",
                BlockFetch,
                BlocksRequest { ids: vec![one, two] },
                "the blocks of heights 1 and 2",
            ),
            sample(
                "request blocks while behind",
                Sync,
                BlocksRequest { ids: vec![one] },
                "the same frame may stand on a sync stream",
            ),
            sample(
                "a block with three transactions",
                BlockFetch,
                whole(&self.block),
                "the block of height 1",
            ),
            sample("an empty block", Sync, whole(&self.next), "the block of height 2: a header and no body"),
            sample(
                "a compact block",
                BlockPush,
                CompactBlock {
                    header: self.block.header().clone(),
                    nonce: COMPACT_NONCE,
                    prefilled: vec![PlacedTransaction { index: 1, transaction: second.clone() }],
                    short_ids: [first, &self.transactions[2]]
                        .map(|tx| compact_short_id(&one, COMPACT_NONCE, &tx.id()))
                        .concat()
                        .into(),
                },
                "the block of height 1 under the nonce 0x0102030405060708; its second transaction stands there whole",
            ),
            sample("request a compact block", BlockFetch, CompactRequest(one), "the block of height 1"),
            sample(
                "request transactions of a block",
                BlockFetch,
                BlockTransactionsRequest { block: one, indexes: vec![0, 2] },
                "the first and the third of the block of height 1",
            ),
            sample(
                "transactions of a block",
                BlockFetch,
                BlockTransactions {
                    transactions: [0, 2]
                        .map(|index| PlacedTransaction {
                            index,
                            transaction: self.transactions[index as usize].clone(),
                        })
                        .into(),
                },
                "the same two with their places",
            ),
            sample("ask for pushed blocks", BlockPush, BlockRelayMode::Push, "compact, unasked"),
            sample("ask for announcements", BlockPush, BlockRelayMode::Announce, "by header again"),
            sample(
                "a plan of a whole body",
                ShardPush,
                self.shard_plan(Vec::new()),
                "a body of 70,000 bytes in 16 shards and 8 that repair it",
            ),
            sample(
                "a plan of a part",
                ShardPush,
                self.shard_plan(vec![0, 2, 200]),
                "of the same block the first, the third and the 201st transaction, 70,000 bytes too",
            ),
            sample("a shard", ShardPush, self.shard(5), "the sixth of the first plan"),
            sample(
                "a shard, asked for",
                BlockFetch,
                self.shard(23),
                "the last of the first plan, which repairs",
            ),
            sample(
                "have some shards",
                ShardPush,
                ShardHave { root: self.shard(0).root, wants: true, have: ShardSet::first(3) },
                "the first three, and others are welcome",
            ),
            sample(
                "have all shards",
                ShardPush,
                ShardHave { root: self.shard(0).root, wants: false, have: ShardSet::first(24) },
                "all 24, and none is wanted",
            ),
            sample(
                "request shards",
                BlockFetch,
                ShardRequest { root: self.shard(0).root, wanted: ShardSet::first(9) },
                "the first nine",
            ),
            sample(
                "a fee floor",
                TxPush,
                FeeFloor(1_000),
                "nothing below 1,000 base units for a unit of gas",
            ),
            sample(
                "request headers",
                Sync,
                sync::HeadersRequest { limit: 512, locator: vec![one, BlockId(self.genesis.id().0)] },
                "at most 512 headers after the block of height 1, or else after genesis",
            ),
            sample("two headers", Sync, sync::Headers { headers }, "heights 1 and 2"),
            sample("no headers", Sync, sync::Headers::default(), "nothing follows what the locator names"),
            sample("request the certificate", Sync, sync::CertificateRequest, "no payload"),
            sample(
                "vote",
                Consensus,
                consensus::Vote(self.vote(3)),
                "authority 3: source height 1, target height 2",
            ),
            sample(
                "certificate",
                Consensus,
                consensus::Certificate(self.certificate()),
                "authorities 0, 1 and 3 of four on the link from height 1 to height 2: height 2 is justified, height 1 final",
            ),
            sample("request peers", Discovery, discovery::PeersRequest { limit: 32 }, "at most 32 records"),
            sample(
                "one peer",
                Discovery,
                discovery::Peers { records: vec![self.record.bytes().clone()] },
                "one record",
            ),
            sample("no peers", Discovery, discovery::Peers::default(), "none known"),
            sample("dial me back", Discovery, discovery::DialBackRequest, "no payload"),
            sample(
                "dialled back",
                Discovery,
                discovery::DialBackAnswer {
                    outcome: discovery::DialBackOutcome::NoAnswer,
                    address: "/ip4/203.0.113.7/udp/4001/quic-v1"
                        .parse::<Multiaddr>()
                        .unwrap()
                        .to_vec()
                        .into(),
                },
                "nobody answered at /ip4/203.0.113.7/udp/4001/quic-v1",
            ),
            sample(
                "find a peer",
                Discovery,
                discovery::FindRequest { value: false, target: LookupKey::of_peer(&self.peer()) },
                "the peer whose record is in the vectors",
            ),
            sample(
                "find a value",
                Discovery,
                discovery::FindRequest { value: true, target: self.value().key() },
                "the value below",
            ),
            sample(
                "found",
                Discovery,
                discovery::FindAnswer {
                    value: Some(self.value().bytes().clone()),
                    closer: vec![self.record.bytes().clone()],
                },
                "a value, and one peer that is closer",
            ),
            sample("found nothing", Discovery, discovery::FindAnswer::default(), "no value, nobody closer"),
            sample(
                "store a value",
                Discovery,
                discovery::StoreRequest { value: self.value().bytes().clone() },
                "label \"mailbox\", sequence 5, void from 1700090000, payload \"at the third node\"",
            ),
            sample(
                "not stored",
                Discovery,
                discovery::StoreAnswer(discovery::StoreOutcome::NotNear),
                "others are nearer",
            ),
            sample(
                "bring me together",
                Meet,
                meet::MeetRequest { how: meet::How::Punch, wanted: self.node.public() },
                "by a punch, with the peer whose record is in the vectors",
            ),
            sample(
                "somebody wants to meet you",
                Meet,
                meet::MeetOffer {
                    how: meet::How::Circuit,
                    asker: self.node.public(),
                    circuit: 0x0102_0304_0506_0708,
                    address: seen.clone(),
                },
                "through a circuit, a peer seen at /ip4/198.51.100.9/udp/50000/quic-v1",
            ),
            sample(
                "meeting agreed",
                Meet,
                meet::MeetAnswer { outcome: meet::MeetOutcome::Agreed, circuit: 0, address: seen },
                "by a punch, with a peer seen at /ip4/198.51.100.9/udp/50000/quic-v1",
            ),
            sample(
                "packet",
                Circuit,
                meet::CircuitPacket { circuit: 0x0102_0304_0506_0708, packet: Bytes::from_static(b"packet") },
                "six bytes",
            ),
        ]
    }

    /// A wallet with one mailbox, at [`Self::node`].
    pub(crate) fn presence(&self) -> Presence {
        let peer = record::peer_of(&self.node.public()).unwrap();
        let mailbox = MailboxAt {
            box_key: self.senders[1].public(),
            stamp_bits: 20,
            node: format!("/ip4/192.0.2.7/udp/4001/quic-v1/p2p/{peer}").parse().unwrap(),
        };
        let body = PresenceBody {
            channel_key: [0x42; 32],
            post_quantum_key: vec![0x43; 1184].into(),
            sequence: 3,
            time_unix_s: 1_700_000_000,
            mailboxes: vec![mailbox],
        };
        Presence::sign(&self.senders[0], &body).unwrap()
    }

    fn wallet_samples(&self) -> Vec<Sample> {
        use StreamType::Wallet;
        let record = self.presence().bytes().clone();
        let wallet = self.senders[0].public();
        let box_key = self.senders[1].public();
        let envelope = Bytes::from(vec![0x5e; 512]);
        vec![
            sample("publish presence", Wallet, PresencePublish { record: record.clone() }, "one mailbox"),
            sample(
                "request presence",
                Wallet,
                PresenceRequest { wallet, ask_others: true },
                "of the first sender's key, asking others",
            ),
            sample("presence", Wallet, PresenceAnswer { record }, "one mailbox"),
            sample("presence unknown", Wallet, PresenceAnswer::default(), "no payload"),
            sample(
                "open a box",
                Wallet,
                MailboxOpen { stamp_bits: 20, day: 19_675, nonce: 0x0102_0304 },
                "strangers pay 20 bits",
            ),
            sample(
                "box answer",
                Wallet,
                MailboxAnswer { outcome: MailboxOutcome::StampNeeded, value: 20 },
                "a stamp of 20 bits is needed",
            ),
            sample(
                "grant",
                Wallet,
                MailboxGrant { add: true, ids: vec![[0x61; 32], [0x62; 32]] },
                "two, added",
            ),
            sample(
                "deposit by grant",
                Wallet,
                MailboxDeposit {
                    box_key,
                    proof: DepositProof::Grant([0x63; 32]),
                    envelope: envelope.clone(),
                },
                "512 bytes for the second sender's key",
            ),
            sample(
                "deposit by stamp",
                Wallet,
                MailboxDeposit { box_key, proof: DepositProof::Stamp(77), envelope: envelope.clone() },
                "512 bytes, paid with work",
            ),
            sample("collect", Wallet, MailboxCollect { after: 6 }, "from sequence 7 on"),
            sample(
                "delivery",
                Wallet,
                MailboxDelivery { sequence: 7, time_unix_ms: 1_700_000_000_123, envelope },
                "sequence 7",
            ),
            sample("acknowledge", Wallet, MailboxAcknowledge { up_to: 7 }, "all up to 7"),
        ]
    }

    fn rpc_samples(&self) -> Vec<Sample> {
        use StreamType::{Events, Oracle, Prices, Rpc};
        let tx = &self.transactions[0];
        let header = self.block.header();
        let body = self.block.encode().split_off(block::HEADER_LEN);
        let address = Bytes::copy_from_slice(self.senders[0].address().as_bytes());
        let balance = |amount: u128| Bytes::copy_from_slice(&amount.to_be_bytes());
        let peer: Bytes = self.peer().to_bytes().into();
        vec![
            sample(
                "failure",
                Rpc,
                m::RpcFailure {
                    code: m::RpcCode::RpcBusy.into(),
                    message: "64 requests are being served".into(),
                    retry_after_ms: 250,
                },
                "busy; ask again after 250 ms",
            ),
            sample("status request", Rpc, m::StatusRequest {}, "no payload"),
            sample("status", Rpc, self.status(), "head at height 2, final height 1, one client connected"),
            sample(
                "submit request",
                Rpc,
                m::SubmitRequest { transactions: vec![tx.bytes().clone()], privacy: 0 },
                "one transaction",
            ),
            sample(
                "submit answer",
                Rpc,
                m::SubmitAnswer {
                    results: vec![
                        m::SubmitResult { id: id(&tx.id()), accepted: true, ..Default::default() },
                        m::SubmitResult {
                            reason: "malformed".into(),
                            message: "`action` is 9, allowed is 1 to 1".into(),
                            ..Default::default()
                        },
                    ],
                },
                "the first was accepted; the second does not parse, so it has no id",
            ),
            sample("transaction request", Rpc, m::TransactionRequest { id: id(&tx.id()) }, "by id"),
            sample(
                "transaction answer",
                Rpc,
                m::TransactionAnswer {
                    transaction: tx.bytes().clone(),
                    included: true,
                    block: Some(self.block_ref(header)),
                    index: 0,
                    receipt: Bytes::copy_from_slice(&self.receipts[0].encode()),
                    finalized: true,
                },
                "included at height 1 as the first, final",
            ),
            sample(
                "block request by height",
                Rpc,
                m::BlockRequest {
                    which: Some(m::block_request::Which::Height(1)),
                    detail: m::BlockDetail::Full.into(),
                },
                "height 1 with its body",
            ),
            sample(
                "block request by id",
                Rpc,
                m::BlockRequest {
                    which: Some(m::block_request::Which::Id(id(&header.id()))),
                    detail: m::BlockDetail::Ids.into(),
                },
                "by id, with transaction ids",
            ),
            sample(
                "block request for the head",
                Rpc,
                m::BlockRequest {
                    which: Some(m::block_request::Which::Head(true)),
                    detail: m::BlockDetail::Header.into(),
                },
                "the canonical head, header only",
            ),
            sample(
                "block answer",
                Rpc,
                m::BlockAnswer {
                    header: header.bytes().clone(),
                    transaction_ids: self.transactions.iter().map(|tx| id(&tx.id())).collect(),
                    body: body.into(),
                    canonical: true,
                    finalized: true,
                    time_unix_ms: self.genesis.slot_start_unix_ms(header.slot),
                },
                "the block of height 1, with ids and body",
            ),
            sample(
                "account request",
                Rpc,
                m::AccountRequest { address: address.clone() },
                "an account by address",
            ),
            sample(
                "account answer",
                Rpc,
                m::AccountAnswer {
                    address,
                    balance: balance(999_999),
                    nonce: 2,
                    next_nonce: 3,
                    at: Some(self.block_ref(self.next.header())),
                    ..Default::default()
                },
                "999,999 base units; two transactions included and one pending",
            ),
            sample("pending request", Rpc, m::PendingRequest { limit: 10 }, "at most ten rows"),
            sample(
                "pending answer",
                Rpc,
                m::PendingAnswer {
                    count: 1,
                    bytes: 167,
                    transactions: vec![m::PendingTransaction {
                        id: id(&tx.id()),
                        sender: Bytes::copy_from_slice(tx.sender().as_bytes()),
                        nonce: tx.body().nonce,
                        gas_price: tx.body().gas_price,
                        bytes: tx.bytes().len() as u32,
                        age_ms: 120,
                        waits_for_nonce: None,
                    }],
                },
                "one pending transaction",
            ),
            sample(
                "pending answer, parked",
                Rpc,
                m::PendingAnswer {
                    count: 1,
                    bytes: 1_191,
                    transactions: vec![m::PendingTransaction {
                        id: id(&tx.id()),
                        sender: Bytes::copy_from_slice(tx.sender().as_bytes()),
                        nonce: tx.body().nonce,
                        gas_price: tx.body().gas_price,
                        bytes: tx.bytes().len() as u32,
                        age_ms: 120,
                        waits_for_nonce: Some(0),
                    }],
                },
                "one transaction that waits for nonce 0",
            ),
            sample("peers list request", Rpc, m::PeersRequest {}, "no payload"),
            sample(
                "peers list",
                Rpc,
                m::PeersAnswer {
                    peers: vec![m::PeerInfo {
                        peer: peer.clone(),
                        address: "/ip4/192.0.2.7/udp/4001/quic-v1".into(),
                        direction: "outbound".into(),
                        role: "node".into(),
                        user_agent: "ghostd/0.1.0".into(),
                        connected_ms: 5_000,
                        best_height: 2,
                        rtt_us: 350,
                        bytes_in: 4_096,
                        bytes_out: 2_048,
                        conduct: -10,
                    }],
                },
                "one connected peer",
            ),
            sample(
                "peer command",
                Rpc,
                m::PeerCommand {
                    what: Some(m::peer_command::What::Ban(m::PeerBan { peer, seconds: 3_600 })),
                },
                "ban a peer for an hour",
            ),
            sample(
                "peer command answer",
                Rpc,
                m::PeerCommandAnswer {
                    message: "banned for 1 h".into(),
                    story: vec![m::PeerStory {
                        time_unix_ms: 1_700_000_002_500,
                        event: "banned".into(),
                        detail: "by the operator".into(),
                    }],
                },
                "done, with one line of the peer's story",
            ),
            sample(
                "call request",
                Rpc,
                contract::CallRequest(self.call()),
                "a call of the contract 0xcc… with selector 70a08231 and an address, after height 2, to be signed",
            ),
            sample(
                "call answer",
                Rpc,
                contract::CallAnswer(self.call_answer()),
                "32 bytes returned after height 2, for 24,000 gas, signed by the node",
            ),
            sample(
                "simulate request",
                Rpc,
                contract::SimulateRequest(Call { to: None, height: None, signed: false, ..self.call() }),
                "the same input as init code, after the head",
            ),
            sample(
                "simulate answer",
                Rpc,
                m::SimulateAnswer {
                    at: Some(self.block_ref(self.next.header())),
                    state: Bytes::copy_from_slice(&self.next.header().state),
                    outcome: Outcome::Done.code().into(),
                    gas_used: 60_000,
                    gas_refunded: 4_800,
                    output: Bytes::new(),
                    created: Bytes::from_static(&[0xcc; 20]),
                    logs: vec![self.log_entry()],
                },
                "done; it would make the contract 0xcc… and log once",
            ),
            sample(
                "estimate request",
                Rpc,
                contract::EstimateRequest(Call { signed: false, height: None, ..self.call() }),
                "how much gas the call takes at the head",
            ),
            sample(
                "estimate answer",
                Rpc,
                m::EstimateAnswer {
                    at: Some(self.block_ref(self.next.header())),
                    outcome: Outcome::Done.code().into(),
                    gas_limit: 24_300,
                    gas_used: 24_000,
                    output: Bytes::new(),
                },
                "a limit of 24,300 does",
            ),
            sample("receipt request", Rpc, m::ReceiptRequest { id: id(&tx.id()) }, "by transaction id"),
            sample(
                "receipt answer",
                Rpc,
                m::ReceiptAnswer {
                    id: id(&tx.id()),
                    block: Some(self.block_ref(header)),
                    index: 0,
                    receipt: Bytes::copy_from_slice(&self.receipts[0].encode()),
                    finalized: true,
                },
                "included at height 1 as the first, final",
            ),
            sample(
                "logs request",
                Rpc,
                m::LogsRequest {
                    filter: Some(self.log_filter()),
                    from: Some(m::LogPlace { height: 1, transaction: 0, index: 0 }),
                    to_height: Some(2),
                    limit: 100,
                },
                "heights 1 and 2, contract 0xcc…, first topic 0xdd…, any second, third 0xee… or 0xef…",
            ),
            sample(
                "logs answer",
                Rpc,
                m::LogsAnswer {
                    rows: vec![self.log_row()],
                    next: Some(m::LogPlace { height: 1, transaction: 2, index: 0 }),
                    head: Some(self.block_ref(self.next.header())),
                    finalized: 1,
                },
                "one row; go on at the third transaction of height 1",
            ),
            sample(
                "code request",
                Rpc,
                m::CodeRequest { address: Bytes::from_static(&[0xcc; 20]), height: None },
                "at the head",
            ),
            sample(
                "code answer",
                Rpc,
                m::CodeAnswer {
                    at: Some(self.block_ref(self.next.header())),
                    engine: 1,
                    code_hash: Bytes::from_static(&[0xab; 32]),
                    code: Bytes::from_static(b"\x60\x00"),
                },
                "two bytes of code for the EVM",
            ),
            sample(
                "storage request",
                Rpc,
                m::StorageRequest {
                    address: Bytes::from_static(&[0xcc; 20]),
                    slots: vec![Bytes::from_static(&[0; 32])],
                    height: Some(2),
                },
                "slot 0 after height 2",
            ),
            sample(
                "storage answer",
                Rpc,
                m::StorageAnswer {
                    at: Some(self.block_ref(self.next.header())),
                    state: Bytes::copy_from_slice(&self.next.header().state),
                    words: vec![Bytes::from_static(&[1; 32])],
                },
                "one word",
            ),
            sample("heads request", Events, m::HeadsRequest {}, "no payload"),
            sample(
                "head event",
                Events,
                m::HeadEvent {
                    header: self.next.header().bytes().clone(),
                    finalized: Some(self.block_ref(header)),
                    reorganised: false,
                },
                "the head is at height 2; height 1 is final",
            ),
            sample(
                "follow logs from a height",
                Events,
                m::FollowRequest {
                    what: Some(m::follow_request::What::Logs(self.log_filter())),
                    from: Some(m::follow_request::From::Height(1)),
                },
                "those of the filter above, from the block of height 1 on",
            ),
            sample(
                "follow receipts on",
                Events,
                m::FollowRequest {
                    what: Some(m::follow_request::What::Receipts(m::ReceiptFilter {
                        senders: vec![Bytes::copy_from_slice(self.senders[0].address().as_bytes())],
                    })),
                    from: Some(m::follow_request::From::Resume(m::Positions {
                        epoch: self.epoch(),
                        told: vec![self.position(self.next.header()), self.position(header)],
                    })),
                },
                "those of one sender, behind height 2, or behind height 1 if that block is gone",
            ),
            sample(
                "follow event",
                Events,
                m::FollowEvent {
                    epoch: self.epoch(),
                    at: Some(self.position(header)),
                    prev: Some(m::Position { seq: 0, hash: id(&self.genesis.block_id()) }),
                    reverted: false,
                    more: false,
                    finalized: 1,
                    logs: vec![self.log_row()],
                    receipts: Vec::new(),
                },
                "one log in height 1",
            ),
            sample("price report", Oracle, price::PriceReport(self.report(1, 10_002)), "of publisher 1"),
            sample(
                "price evidence",
                Oracle,
                price::PriceEvidence(self.equivocation()),
                "publisher 1 signed two prices for sequence 9",
            ),
            sample("prices request", Rpc, m::PricesRequest { feeds: vec!["GHO/USD".into()] }, "of one feed"),
            sample(
                "prices answer",
                Rpc,
                m::PricesAnswer {
                    time_unix_ms: 1_700_000_002_000,
                    prices: vec![m::PriceRow {
                        feed: 0,
                        spec: {
                            let mut spec = Vec::new();
                            self.feed().encode(&mut spec);
                            spec.into()
                        },
                        quote: self.quote().to_bytes(),
                        committed: Bytes::new(),
                        flagged: 0,
                    }],
                },
                "two reports, nothing on the chain yet",
            ),
            sample(
                "price proof request",
                Rpc,
                m::PriceProofRequest { feed: "GHO/USD".into() },
                "of one feed",
            ),
            sample(
                "price proof",
                Rpc,
                m::PriceProof {
                    headers: vec![header.bytes().clone()],
                    receipt: self.receipts[0].encode().into(),
                    index: 0,
                    path: vec![Bytes::from_static(&[0xab; 32])],
                    certificate: Bytes::new(),
                },
                "not final yet",
            ),
            sample(
                "publish request",
                Rpc,
                m::PublishRequest { reports: vec![Bytes::copy_from_slice(self.report(1, 10_002).bytes())] },
                "one report",
            ),
            sample(
                "publish answer",
                Rpc,
                m::PublishAnswer { results: vec![m::PublishResult { taken: true, reason: String::new() }] },
                "it was taken",
            ),
            sample(
                "price ticks request",
                Prices,
                m::PriceTicksRequest { feeds: vec!["GHO/USD".into()], rate_ms: 50, token: 7 },
                "twenty a second",
            ),
            sample(
                "price ticks answer",
                Prices,
                m::PriceTicksAnswer { feeds: vec![0], time_unix_ms: 1_700_000_002_000 },
                "of feed 0",
            ),
            sample(
                "price follow request",
                Prices,
                m::PriceFollowRequest { feed: "GHO/USD".into(), ..Default::default() },
                "from the newest on",
            ),
        ]
    }
}

impl World {
    /// A feed whose publishers are the two senders. The sampled genesis declares none.
    pub(crate) fn feed(&self) -> FeedSpec {
        FeedSpec {
            name: "GHO/USD".into(),
            exponent: -4,
            publishers: self.senders.iter().map(KeyPair::public).collect(),
            quorum: 2,
            heartbeat_ms: 1_000,
            deviation_bps: 50,
            max_age_ms: 5_000,
        }
    }

    pub(crate) fn report(&self, publisher: u16, price: i64) -> Report {
        let fields = ReportFields {
            feed: 0,
            publisher,
            sequence: 9,
            time_unix_ms: 1_700_000_001_500,
            price,
            confidence: 3,
        };
        Report::sign(fields, &self.genesis.id(), &self.senders[usize::from(publisher)])
    }

    pub(crate) fn quote(&self) -> Quote {
        Quote { feed: 0, reports: vec![self.report(0, 9_999), self.report(1, 10_002)] }
    }

    pub(crate) fn equivocation(&self) -> Equivocation {
        Equivocation::of(self.report(1, 10_002), self.report(1, 20_000)).unwrap()
    }

    fn call(&self) -> Call {
        let mut input = vec![0; 36];
        input[..4].copy_from_slice(&[0x70, 0xa0, 0x82, 0x31]);
        input[16..].copy_from_slice(&self.senders[0].address().0);
        Call {
            from: self.senders[0].address(),
            to: Some(Address([0xcc; 20])),
            value: 0,
            input: input.into(),
            gas_limit: 100_000,
            height: Some(2),
            signed: true,
        }
    }

    fn call_answer(&self) -> CallAnswer {
        let header = self.next.header();
        let mut answer = CallAnswer {
            height: 2,
            block: header.id(),
            state: header.state,
            outcome: Outcome::Done,
            gas_used: 24_000,
            output: Bytes::from_static(&[0x2a; 32]),
            signature: None,
        };
        answer.sign(&self.call(), &self.genesis.id(), &self.node);
        answer
    }

    fn epoch(&self) -> u64 {
        u64::from_be_bytes(self.genesis.id().0[..8].try_into().unwrap())
    }

    fn position(&self, header: &Header) -> m::Position {
        m::Position { seq: header.height, hash: id(&header.id()) }
    }

    fn log_entry(&self) -> m::LogEntry {
        m::LogEntry {
            address: Bytes::from_static(&[0xcc; 20]),
            topics: vec![Bytes::from_static(&[0xdd; 32])],
            data: Bytes::from_static(b"data"),
        }
    }

    fn log_filter(&self) -> m::LogFilter {
        let any_of = |topics: &[u8]| m::TopicChoice {
            any_of: topics.iter().map(|byte| vec![*byte; 32].into()).collect(),
        };
        m::LogFilter {
            addresses: vec![Bytes::from_static(&[0xcc; 20])],
            topics: vec![any_of(&[0xdd]), any_of(&[]), any_of(&[0xee, 0xef])],
        }
    }

    fn log_row(&self) -> m::LogRow {
        m::LogRow {
            place: Some(m::LogPlace { height: 1, transaction: 1, index: 0 }),
            block: id(&self.block.header().id()),
            transaction: id(&self.transactions[1].id()),
            entry: Some(self.log_entry()),
        }
    }
}

fn id(id: &impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(id.as_ref())
}

fn sample(name: &'static str, stream: StreamType, frame: impl Into<Frame>, meaning: &str) -> Sample {
    Sample { name, stream, frame: frame.into(), meaning: meaning.into() }
}

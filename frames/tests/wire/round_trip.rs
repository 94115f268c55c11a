//! Arbitrary contents of every kind survive encoding and decoding.

use bytes::Bytes;
use ghost_frames::{
    Frame, FrameReader, StreamType,
    block::{BlockAnnounce, BlocksRequest, WholeBlock},
    compact::{
        BlockRelayMode, BlockTransactions, BlockTransactionsRequest, COMPACT_ID_LEN, CompactBlock,
        CompactRequest, PlacedTransaction,
    },
    consensus,
    control::{Ping, Pong},
    discovery::{
        DialBackAnswer, DialBackOutcome, DialBackRequest, FindAnswer, FindRequest, Peers, PeersRequest,
        StoreAnswer, StoreOutcome, StoreRequest,
    },
    frame::REGISTRY,
    meet::{CircuitPacket, How, MeetAnswer, MeetOffer, MeetOutcome, MeetRequest},
    reconcile::{
        COUNTED_SYMBOLS, CodedSymbol, Inventory, InventoryRequest, MissingRequest, SketchId, Symbols,
        SymbolsRequest,
    },
    shards::{Shard, ShardHave, ShardPlan, ShardRequest, ShardRoot, ShardSet},
    sync::{CertificateRequest, Headers, HeadersRequest},
    tx::{FeeFloor, ShortId, StemTransaction, Transactions, TxAnnounce, TxAnnounceEntry, TxRequest},
    wallet::{
        DepositProof, MailboxAcknowledge, MailboxAnswer, MailboxCollect, MailboxDelivery, MailboxDeposit,
        MailboxGrant, MailboxOpen, MailboxOutcome, PresenceAnswer, PresencePublish, PresenceRequest,
    },
};
use ghost_proto::{
    BlockId, Checkpoint, FinalityCertificate, GenesisId, Header, KeyPair, LookupKey, PublicKey, Signature,
    SignedValue, Vote, block::HeaderFields, limits::*, message as m, vote::Link,
};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

use crate::{contracts, samples::transfer, vectors::read_all};

pub(crate) fn bytes(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), len).prop_map(Bytes::from)
}

fn shard_set() -> impl Strategy<Value = ShardSet> {
    btree_set(0..SHARDS_MAX as u16, 0..50).prop_map(|indexes| {
        let mut set = ShardSet::default();
        indexes.into_iter().for_each(|index| set.insert(index));
        set
    })
}

fn id() -> impl Strategy<Value = BlockId> {
    any::<[u8; 32]>().prop_map(BlockId)
}

pub(crate) fn text(max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..max).prop_map(String::from_iter)
}

prop_compose! {
    fn transaction()(seed in 0u8..4, nonce: u64, price: u64, payload in vec(any::<u8>(), 0..200)) -> ghost_proto::SignedTransaction {
        transfer(&KeyPair::from_seed(&[seed; 32]), nonce, price, &payload)
    }
}

prop_compose! {
    fn fields()(
        parent in id(), heights in any::<(u64, u64)>(), proposer: u16, tx_count in 0..=BLOCK_TXS_MAX as u32,
        body_bytes in 0..=BLOCK_BODY_BYTES_MAX as u32, roots in any::<[[u8; 32]; 3]>(), gas_used: u64,
    ) -> HeaderFields {
        let (height, slot) = heights;
        let [tx_root, receipt_root, state] = roots;
        HeaderFields { parent, height, slot, proposer, tx_count, body_bytes, tx_root, receipt_root, state, gas_used }
    }
}

fn placed(most: usize) -> impl Strategy<Value = Vec<PlacedTransaction>> {
    btree_map(0..BLOCK_TXS_MAX as u32, transaction(), 1..=most).prop_map(|all| {
        all.into_iter().map(|(index, transaction)| PlacedTransaction { index, transaction }).collect()
    })
}

fn seal(fields: HeaderFields) -> Header {
    fields.seal(&GenesisId([7; 32]), &KeyPair::from_seed(&[1; 32]))
}

/// A chain: each the parent of the next.
fn headers() -> impl Strategy<Value = Vec<Header>> {
    vec(fields(), 0..6).prop_map(|all| {
        let mut chain: Vec<Header> = Vec::new();
        for mut fields in all {
            if let Some(last) = chain.last() {
                fields.parent = last.id();
            }
            chain.push(seal(fields));
        }
        chain
    })
}

prop_compose! {
    fn link()(source in 0u64..u64::MAX, above in 1u64.., ids in (id(), id())) -> Link {
        Link {
            source: Checkpoint { height: source, id: ids.0 },
            target: Checkpoint { height: source.saturating_add(above), id: ids.1 },
        }
    }
}

fn signature() -> impl Strategy<Value = Signature> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| Signature(halves.concat().try_into().unwrap()))
}

pub(crate) fn block_ref() -> impl Strategy<Value = Option<m::BlockRef>> {
    option::of((any::<u64>(), bytes(0..40), any::<u64>()).prop_map(|(height, id, slot)| m::BlockRef {
        height,
        id,
        slot,
    }))
}

prop_compose! {
    fn hello()(
        blobs in (bytes(0..40), bytes(0..2_049), bytes(0..40), bytes(0..193), bytes(0..20)),
        lists in (vec(any::<u32>(), 0..=HELLO_VERSIONS_MAX), vec(any::<u32>(), 0..=HELLO_STREAM_TYPES_MAX),
                  vec(any::<u32>(), 0..=HELLO_REQUIRED_MAX)),
        user_agent in text(USER_AGENT_BYTES_MAX), numbers in any::<(u64, u64, u64)>(), role in 0..3,
    ) -> m::Hello {
        let (genesis, record, best_block, observed, tx_salt) = blobs;
        let (versions, stream_types, required) = lists;
        let (best_height, nonce, finalized_height) = numbers;
        m::Hello {
            genesis, versions, stream_types, user_agent, record, best_height, best_block, nonce, role, observed,
            required, finalized_height, tx_salt,
        }
    }
}

fn relay_status(numbers: [u64; 10]) -> m::RelayStatus {
    let [transactions, duplicates, bytes_useful, bytes_other, announce_to_have_us, ..] = numbers;
    let [.., reconciliations, reconciliations_failed, reconciliations_listed, symbols, differences] = numbers;
    m::RelayStatus {
        transactions,
        duplicates,
        bytes_useful,
        bytes_other,
        announce_to_have_us,
        reconciliations,
        reconciliations_failed,
        reconciliations_listed,
        symbols,
        differences,
    }
}

prop_compose! {
    fn status()(
        texts in (text(20), text(64), text(100)), blobs in (bytes(0..40), bytes(0..40)),
        numbers in any::<[u64; 6]>(), refs in (block_ref(), block_ref()),
        sync in option::of(any::<(bool, u64)>()), mempool in option::of(any::<[u64; 4]>()),
        peers in vec((text(10), text(10), text(10), any::<u32>()), 0..10),
        listen in vec(text(60), 0..10), authority in option::of(any::<u32>()),
        refusals in vec((text(20), any::<u64>()), 0..20), relay in option::of(any::<[u64; 10]>()),
        tor in option::of((text(10), any::<bool>(), any::<u32>())),
    ) -> m::Status {
        m::Status {
            version: texts.0, peer: blobs.0, genesis: blobs.1, chain_name: texts.1, chain_id: numbers[0],
            head: refs.0, finalized: refs.1,
            sync: sync.map(|(syncing, target_height)| m::Sync { syncing, target_height }),
            peers: peers.into_iter()
                .map(|(direction, network, role, count)| m::PeerCount { direction, network, role, count }).collect(),
            mempool: mempool
                .map(|[count, bytes, parked, gas_price_min]| m::MempoolStatus { count, bytes, parked, gas_price_min }),
            uptime_ms: numbers[1], listen, authority, rss_bytes: numbers[2], time_unix_ms: numbers[3],
            slot_ms: numbers[4], included_total: numbers[5],
            refusals: refusals.into_iter().map(|(name, count)| m::Count { name, count }).collect(),
            reachability: (!texts.2.is_empty())
                .then(|| Box::new(m::Reachability { state: texts.2.clone(), detail: texts.2.clone() })),
            alarms: vec![texts.2.clone(); 2],
            external_address: texts.2,
            relay: relay.map(relay_status).map(Box::new),
            tor: tor.map(|(mode, ready, percent)| {
                m::TorStatus { detail: mode.clone(), onion: mode.clone(), service: mode.clone(), mode, ready, percent }
            }),
        }
    }
}

prop_compose! {
    fn peer_info()(
        peer in bytes(0..39), texts in (text(60), text(10), text(10), text(16)), numbers in any::<[u64; 4]>(),
        rtt_us: u32, conduct: i32,
    ) -> m::PeerInfo {
        let (address, direction, role, user_agent) = texts;
        let [connected_ms, best_height, bytes_in, bytes_out] = numbers;
        m::PeerInfo { peer, address, direction, role, user_agent, connected_ms, best_height, rtt_us, bytes_in, bytes_out, conduct }
    }
}

prop_compose! {
    fn pending()(id in bytes(32), sender in bytes(20), numbers in any::<(u64, u64, u32, u64)>(), waits_for_nonce: Option<u64>) -> m::PendingTransaction {
        let (nonce, gas_price, bytes, age_ms) = numbers;
        m::PendingTransaction { id, sender, nonce, gas_price, bytes, age_ms, waits_for_nonce }
    }
}

fn command() -> impl Strategy<Value = Option<m::peer_command::What>> {
    use m::peer_command::What;
    option::of(prop_oneof![
        text(60).prop_map(What::Add),
        bytes(0..39).prop_map(What::Drop),
        (bytes(0..39), any::<u64>()).prop_map(|(peer, seconds)| What::Ban(m::PeerBan { peer, seconds })),
        bytes(0..39).prop_map(What::Unban),
        bytes(0..39).prop_map(What::Explain),
        bytes(0..39).prop_map(What::Find),
    ])
}

fn which() -> impl Strategy<Value = Option<m::block_request::Which>> {
    use m::block_request::Which;
    option::of(prop_oneof![
        any::<u64>().prop_map(Which::Height),
        bytes(0..33).prop_map(Which::Id),
        any::<bool>().prop_map(Which::Head),
    ])
}

pub(crate) fn boxed<T: Into<Frame> + std::fmt::Debug + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Frame> {
    strategy.prop_map(Into::into).boxed()
}

/// Any frame of the kind with this name.
fn any_of(name: &str) -> BoxedStrategy<Frame> {
    match name {
        "Hello" => boxed(hello()),
        "Ping" => boxed(any::<u64>().prop_map(Ping)),
        "Pong" => boxed(any::<u64>().prop_map(Pong)),
        "TxAnnounce" => {
            let entry = (any::<u64>(), TX_BYTES_MIN as u32..=TX_BYTES_MAX as u32, any::<u8>())
                .prop_map(|(id, bytes, fee_class)| TxAnnounceEntry { id: ShortId(id), bytes, fee_class });
            boxed(vec(entry, 1..=ANNOUNCE_ENTRIES_MAX).prop_map(|entries| TxAnnounce { entries }))
        }
        "TxRequest" => {
            let ids = vec(any::<u64>().prop_map(ShortId), 1..=TX_REQUEST_IDS_MAX);
            boxed(ids.prop_map(|ids| TxRequest { ids }))
        }
        "Transactions" => {
            boxed(vec(transaction(), 0..12).prop_map(|transactions| Transactions { transactions }))
        }
        "StemTransaction" => boxed(transaction().prop_map(StemTransaction)),
        "SymbolsRequest" => {
            let fields =
                (any::<u64>(), any::<u32>(), 0..SYMBOLS_MAX as u32).prop_flat_map(|(nonce, count, first)| {
                    (1..=SYMBOLS_MAX as u32 - first).prop_map(move |credit| SymbolsRequest {
                        nonce,
                        count,
                        first,
                        credit,
                    })
                });
            boxed(fields)
        }
        "Symbols" => {
            let symbol = any::<(u64, u32, u16)>();
            let fields = (any::<u32>(), 0..200u32, vec(symbol, 1..300));
            boxed(fields.prop_map(|(count, first, symbols)| {
                let symbols =
                    symbols.into_iter().zip(first as usize..).map(|((sum, check, count), index)| {
                        CodedSymbol { sum, check, count: if index < COUNTED_SYMBOLS { count } else { 0 } }
                    });
                Symbols { count, first, symbols: symbols.collect() }
            }))
        }
        "InventoryRequest" => boxed(any::<u64>().prop_map(|nonce| InventoryRequest { nonce })),
        "Inventory" => boxed(vec(any::<u64>().prop_map(SketchId), 1..600).prop_map(|ids| Inventory { ids })),
        "MissingRequest" => {
            let fields = (any::<u64>(), any::<bool>(), vec(any::<u64>().prop_map(SketchId), 0..600));
            boxed(fields.prop_map(|(nonce, more, ids)| MissingRequest { nonce, more, ids }))
        }
        "BlockAnnounce" => boxed(fields().prop_map(|fields| BlockAnnounce(seal(fields)))),
        "BlocksRequest" => boxed(vec(id(), 1..=BODIES_PER_REQUEST_MAX).prop_map(|ids| BlocksRequest { ids })),
        "WholeBlock" => boxed((fields(), bytes(0..3_000)).prop_map(|(mut fields, body)| {
            fields.body_bytes = body.len() as u32;
            WholeBlock { header: seal(fields), body }
        })),
        "CompactBlock" => {
            let count = 0..40usize;
            boxed((fields(), any::<u64>(), vec(option::of(transaction()), count)).prop_map(
                |(mut fields, nonce, slots)| {
                    fields.tx_count = slots.len() as u32;
                    let whole = slots.iter().flatten().count();
                    let short_ids = vec![0x5a; (slots.len() - whole) * COMPACT_ID_LEN].into();
                    let slots = slots.into_iter().enumerate();
                    let prefilled = slots.filter_map(|(index, transaction)| {
                        Some(PlacedTransaction { index: index as u32, transaction: transaction? })
                    });
                    CompactBlock { header: seal(fields), nonce, prefilled: prefilled.collect(), short_ids }
                },
            ))
        }
        "CompactRequest" => boxed(id().prop_map(CompactRequest)),
        "BlockTransactionsRequest" => {
            let indexes = btree_set(0..BLOCK_TXS_MAX as u32, 1..200);
            boxed((id(), indexes).prop_map(|(block, indexes)| BlockTransactionsRequest {
                block,
                indexes: indexes.into_iter().collect(),
            }))
        }
        "BlockTransactions" => boxed(placed(12).prop_map(|transactions| BlockTransactions { transactions })),
        "BlockRelayMode" => boxed(select(vec![BlockRelayMode::Announce, BlockRelayMode::Push])),
        "ShardPlan" => boxed((vec(0..300u32, 0..9), any::<[u8; 32]>(), 65_536..=80_000u32).prop_map(
            |(mut indexes, root, body_bytes)| {
                indexes.sort_unstable();
                indexes.dedup();
                let fields = HeaderFields {
                    parent: BlockId([1; 32]),
                    height: 1,
                    slot: 1,
                    proposer: 0,
                    tx_count: 300,
                    body_bytes,
                    tx_root: [2; 32],
                    receipt_root: [3; 32],
                    state: [4; 32],
                    gas_used: 5,
                };
                let (genesis, key) = (GenesisId([6; 32]), KeyPair::from_seed(&[7; 32]));
                let header = fields.seal(&genesis, &key);
                ShardPlan::seal(header, body_bytes, ShardRoot(root), indexes, &genesis, &key)
            },
        )),
        "Shard" => boxed(
            (
                any::<[u8; 32]>(),
                0..SHARDS_MAX as u16,
                vec(any::<[u8; 32]>(), 0..=SHARD_PATH_MAX),
                bytes(1..500),
            )
                .prop_map(|(root, index, path, bytes)| Shard {
                    root: ShardRoot(root),
                    index,
                    path,
                    bytes,
                }),
        ),
        "ShardHave" => {
            boxed((any::<[u8; 32]>(), any::<bool>(), shard_set()).prop_map(|(root, wants, have)| ShardHave {
                root: ShardRoot(root),
                wants,
                have,
            }))
        }
        "ShardRequest" => boxed((any::<[u8; 32]>(), shard_set(), 0..SHARDS_MAX as u16).prop_map(
            |(root, mut wanted, one)| {
                wanted.insert(one);
                ShardRequest { root: ShardRoot(root), wanted }
            },
        )),
        "FeeFloor" => boxed(any::<u64>().prop_map(FeeFloor)),
        "HeadersRequest" => boxed(
            (1..=HEADERS_PER_ANSWER_MAX as u16, vec(id(), 1..=LOCATOR_IDS_MAX))
                .prop_map(|(limit, locator)| HeadersRequest { limit, locator }),
        ),
        "Headers" => boxed(headers().prop_map(|headers| Headers { headers })),
        "CertificateRequest" => boxed(Just(CertificateRequest)),
        "Vote" => {
            boxed((link(), any::<u16>(), signature()).prop_map(|(link, authority, signature)| {
                consensus::Vote(Vote { link, authority, signature })
            }))
        }
        "Certificate" => {
            let signatures = btree_map(any::<u16>(), signature(), 0..=AUTHORITIES_MAX);
            boxed((link(), signatures).prop_map(|(link, signatures)| {
                consensus::Certificate(FinalityCertificate {
                    link,
                    signatures: signatures.into_iter().collect(),
                })
            }))
        }
        "PeersRequest" => boxed((1..=PEERS_PER_ANSWER_MAX as u16).prop_map(|limit| PeersRequest { limit })),
        "Peers" => boxed(
            vec(bytes(0..=RECORD_BYTES_MAX), 0..=PEERS_PER_ANSWER_MAX).prop_map(|records| Peers { records }),
        ),
        "RpcFailure" => {
            boxed((0..6, text(200), any::<u32>()).prop_map(|(code, message, retry_after_ms)| m::RpcFailure {
                code,
                message,
                retry_after_ms,
            }))
        }
        "StatusRequest" => boxed(Just(m::StatusRequest {})),
        "Status" => boxed(status()),
        "SubmitRequest" => boxed(
            (vec(bytes(0..300), 0..30), 0..2)
                .prop_map(|(transactions, privacy)| m::SubmitRequest { transactions, privacy }),
        ),
        "SubmitAnswer" => {
            let result = (bytes(0..33), any::<bool>(), text(12), text(60)).prop_map(
                |(id, accepted, reason, message)| m::SubmitResult { id, accepted, reason, message },
            );
            boxed(vec(result, 0..30).prop_map(|results| m::SubmitAnswer { results }))
        }
        "TransactionRequest" => boxed(bytes(0..33).prop_map(|id| m::TransactionRequest { id })),
        "TransactionAnswer" => {
            boxed((bytes(0..400), any::<(bool, u32, bool)>(), block_ref(), bytes(0..10)).prop_map(
                |(transaction, (included, index, finalized), block, receipt)| m::TransactionAnswer {
                    transaction,
                    included,
                    block,
                    index,
                    receipt,
                    finalized,
                },
            ))
        }
        "BlockRequest" => {
            boxed((which(), 0..4).prop_map(|(which, detail)| m::BlockRequest { which, detail }))
        }
        "BlockAnswer" => boxed(
            (bytes(0..228), vec(bytes(32), 0..20), bytes(0..2_000), any::<(bool, bool, u64)>()).prop_map(
                |(header, transaction_ids, body, (canonical, finalized, time_unix_ms))| m::BlockAnswer {
                    header,
                    transaction_ids,
                    body,
                    canonical,
                    finalized,
                    time_unix_ms,
                },
            ),
        ),
        "AccountRequest" => boxed(bytes(0..21).prop_map(|address| m::AccountRequest { address })),
        "AccountAnswer" => {
            boxed((bytes(0..21), bytes(0..17), any::<(u64, u64, u32)>(), bytes(0..33), block_ref()).prop_map(
                |(address, balance, (nonce, next_nonce, engine), code_hash, at)| m::AccountAnswer {
                    address,
                    balance,
                    nonce,
                    next_nonce,
                    at,
                    engine,
                    code_hash,
                },
            ))
        }
        "PendingRequest" => boxed(any::<u32>().prop_map(|limit| m::PendingRequest { limit })),
        "PendingAnswer" => boxed(
            (any::<(u64, u64)>(), vec(pending(), 0..30))
                .prop_map(|((count, bytes), transactions)| m::PendingAnswer { count, bytes, transactions }),
        ),
        "DialBackRequest" => boxed(Just(DialBackRequest)),
        "DialBackAnswer" => {
            boxed((0..4usize, bytes(1..=MULTIADDR_BYTES_MAX)).prop_map(|(outcome, address)| DialBackAnswer {
                outcome: DialBackOutcome::ALL[outcome],
                address,
            }))
        }
        "PresencePublish" => {
            boxed(bytes(1..=PRESENCE_BYTES_MAX).prop_map(|record| PresencePublish { record }))
        }
        "PresenceRequest" => boxed(
            any::<([u8; 32], bool)>()
                .prop_map(|(wallet, ask_others)| PresenceRequest { wallet: PublicKey(wallet), ask_others }),
        ),
        "PresenceAnswer" => boxed(bytes(0..=PRESENCE_BYTES_MAX).prop_map(|record| PresenceAnswer { record })),
        "MailboxOpen" => {
            boxed((8u8..=32, any::<(u32, u64)>()).prop_map(|(stamp_bits, (day, nonce))| MailboxOpen {
                stamp_bits,
                day,
                nonce,
            }))
        }
        "MailboxAnswer" => boxed(
            (0..10usize, any::<u64>())
                .prop_map(|(outcome, value)| MailboxAnswer { outcome: MailboxOutcome::ALL[outcome], value }),
        ),
        "MailboxGrant" => boxed(
            (any::<bool>(), vec(any::<[u8; 32]>(), 1..=GRANTS_PER_FRAME_MAX))
                .prop_map(|(add, ids)| MailboxGrant { add, ids }),
        ),
        "MailboxDeposit" => boxed((any::<([u8; 32], u64, [u8; 32], bool)>(), bytes(1..2000)).prop_map(
            |((box_key, nonce, grant, stamped), envelope)| MailboxDeposit {
                box_key: PublicKey(box_key),
                proof: if stamped { DepositProof::Stamp(nonce) } else { DepositProof::Grant(grant) },
                envelope,
            },
        )),
        "MailboxCollect" => boxed(any::<u64>().prop_map(|after| MailboxCollect { after })),
        "MailboxDelivery" => {
            boxed((any::<(u64, u64)>(), bytes(1..2000)).prop_map(|((sequence, time_unix_ms), envelope)| {
                MailboxDelivery { sequence, time_unix_ms, envelope }
            }))
        }
        "MailboxAcknowledge" => boxed(any::<u64>().prop_map(|up_to| MailboxAcknowledge { up_to })),
        "FindRequest" => boxed(
            any::<(bool, [u8; 32])>()
                .prop_map(|(value, target)| FindRequest { value, target: LookupKey(target) }),
        ),
        "FindAnswer" => boxed(
            (
                option::of(bytes(1..=VALUE_BYTES_MAX)),
                vec(bytes(1..=RECORD_BYTES_MAX), 0..=CLOSER_PER_ANSWER_MAX),
            )
                .prop_map(|(value, closer)| FindAnswer { value, closer }),
        ),
        "StoreRequest" => boxed(
            (
                any::<([u8; 32], u64, u64)>(),
                bytes(1..=VALUE_LABEL_BYTES_MAX),
                bytes(0..=VALUE_PAYLOAD_BYTES_MAX),
            )
                .prop_map(|((seed, sequence, expires), label, payload)| {
                    let key = KeyPair::from_seed(&seed);
                    let value = SignedValue::sign(&key, &label, sequence, expires, &payload).unwrap();
                    StoreRequest { value: value.bytes().clone() }
                }),
        ),
        "StoreAnswer" => boxed((0..5usize).prop_map(|at| StoreAnswer(StoreOutcome::ALL[at]))),
        "MeetRequest" => boxed(any::<([u8; 32], bool)>().prop_map(|(wanted, punch)| MeetRequest {
            how: How::ALL[usize::from(punch)],
            wanted: PublicKey(wanted),
        })),
        "MeetOffer" => boxed((any::<([u8; 32], u64, bool)>(), bytes(1..=MULTIADDR_BYTES_MAX)).prop_map(
            |((asker, circuit, punch), address)| MeetOffer {
                how: How::ALL[usize::from(punch)],
                asker: PublicKey(asker),
                circuit,
                address,
            },
        )),
        "MeetAnswer" => boxed((0..4usize, any::<u64>(), bytes(0..=MULTIADDR_BYTES_MAX)).prop_map(
            |(outcome, circuit, address)| MeetAnswer { outcome: MeetOutcome::ALL[outcome], circuit, address },
        )),
        "CircuitPacket" => boxed(
            (any::<u64>(), bytes(1..=CIRCUIT_PACKET_BYTES_MAX))
                .prop_map(|(circuit, packet)| CircuitPacket { circuit, packet }),
        ),
        "PeersListRequest" => boxed(Just(m::PeersRequest {})),
        "PeersList" => boxed(vec(peer_info(), 0..20).prop_map(|peers| m::PeersAnswer { peers })),
        "PeerCommand" => boxed(command().prop_map(|what| m::PeerCommand { what })),
        "PeerCommandAnswer" => {
            let story = (any::<u64>(), text(10), text(40))
                .prop_map(|(time_unix_ms, event, detail)| m::PeerStory { time_unix_ms, event, detail });
            boxed(
                (text(60), vec(story, 0..30))
                    .prop_map(|(message, story)| m::PeerCommandAnswer { message, story }),
            )
        }
        "HeadsRequest" => boxed(Just(m::HeadsRequest {})),
        "HeadEvent" => boxed(
            (bytes(0..228), block_ref(), any::<bool>())
                .prop_map(|(header, finalized, reorganised)| m::HeadEvent { header, finalized, reorganised }),
        ),
        other => contracts::any_of(other),
    }
}

/// Any frame that may stand on a stream of this type.
fn any_on(stream: StreamType) -> BoxedStrategy<Frame> {
    let names: Vec<_> =
        REGISTRY.iter().filter(|info| info.is_allowed_on(stream)).map(|info| info.name).collect();
    select(names).prop_flat_map(any_of).boxed()
}

#[test]
fn every_kind_survives_a_round_trip_with_any_contents() {
    for info in REGISTRY {
        proptest!(ProptestConfig::with_cases(128), |(frame in any_of(info.name))| {
            let encoded = frame.encode();
            prop_assert_eq!(encoded.kind(), info.kind);
            for stream in info.streams {
                prop_assert_eq!(read_all(*stream, encoded.bytes()), Ok(vec![frame.clone()]));
            }
        });
    }
}

#[test]
fn frames_that_come_byte_by_byte_are_those_that_come_at_once() {
    for stream in StreamType::ALL {
        proptest!(ProptestConfig::with_cases(32), |(frames in vec(any_on(*stream), 0..5), skipped in 0x2000u64..0x4000)| {
            let mut wire = Vec::new();
            for frame in &frames {
                wire.extend_from_slice(frame.encode().bytes());
                wire.extend_from_slice(ghost_frames::EncodedFrame::new(ghost_frames::Kind(skipped), &[1, 2, 3]).bytes());
            }
            prop_assert_eq!(read_all(*stream, &wire), Ok(frames.clone()));
            let mut reader = FrameReader::new(*stream);
            let mut one_by_one = Vec::new();
            for byte in &wire {
                reader.push(std::slice::from_ref(byte));
                while let Some(frame) = reader.next().unwrap() {
                    one_by_one.push(frame);
                }
            }
            prop_assert_eq!(reader.finish(), Ok(()));
            prop_assert_eq!(one_by_one, frames);
        });
    }
}

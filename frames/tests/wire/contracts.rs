//! Arbitrary contents of the frames about contracts.

use ghost_frames::{
    Frame,
    contract::{CallAnswer, CallRequest, EstimateRequest, SimulateRequest},
};
use ghost_proto::{
    Address, BlockId, Call, CallAnswer as Answer, Outcome, Signature, limits::LOG_TOPICS_MAX, message as m,
};
use proptest::{array::uniform, collection::vec, option, prelude::*, sample::select};

use crate::{
    prices,
    round_trip::{block_ref, boxed, bytes},
};

prop_compose! {
    fn call()(
        from: [u8; 20], to: Option<[u8; 20]>, value: u128, input in bytes(0..300), gas_limit: u64,
        height: Option<u64>, signed: bool,
    ) -> Call {
        Call { from: Address(from), to: to.map(Address), value, input, gas_limit, height, signed }
    }
}

prop_compose! {
    fn answer()(
        height: u64, block: [u8; 32], state: [u8; 32], outcome in select(Outcome::ALL.as_slice()), gas_used: u64,
        output in bytes(0..300), signature in option::of(uniform::<_, 64>(any::<u8>())),
    ) -> Answer {
        let (block, signature) = (BlockId(block), signature.map(Signature));
        Answer { height, block, state, outcome, gas_used, output, signature }
    }
}

fn entry() -> impl Strategy<Value = m::LogEntry> {
    (bytes(0..21), vec(bytes(32), 0..=LOG_TOPICS_MAX), bytes(0..100))
        .prop_map(|(address, topics, data)| m::LogEntry { address, topics, data })
}

fn place() -> impl Strategy<Value = Option<m::LogPlace>> {
    option::of(any::<(u64, u32, u32)>().prop_map(|(height, transaction, index)| m::LogPlace {
        height,
        transaction,
        index,
    }))
}

fn position() -> impl Strategy<Value = m::Position> {
    (any::<u64>(), bytes(32)).prop_map(|(seq, hash)| m::Position { seq, hash })
}

pub(crate) fn row() -> impl Strategy<Value = m::LogRow> {
    (place(), bytes(32), bytes(32), option::of(entry()))
        .prop_map(|(place, block, transaction, entry)| m::LogRow { place, block, transaction, entry })
}

pub(crate) fn filter() -> impl Strategy<Value = Option<m::LogFilter>> {
    let choice = vec(bytes(32), 0..5).prop_map(|any_of| m::TopicChoice { any_of });
    let filter = (vec(bytes(20), 0..5), vec(choice, 0..=LOG_TOPICS_MAX))
        .prop_map(|(addresses, topics)| m::LogFilter { addresses, topics });
    option::of(filter)
}

/// Any frame of the kind with this name.
pub(crate) fn any_of(name: &str) -> BoxedStrategy<Frame> {
    match name {
        "CallRequest" => boxed(call().prop_map(CallRequest)),
        "CallAnswer" => boxed(answer().prop_map(CallAnswer)),
        "SimulateRequest" => boxed(call().prop_map(SimulateRequest)),
        "SimulateAnswer" => boxed(
            (block_ref(), any::<(u32, u64, u64)>(), bytes(0..300), bytes(0..21), vec(entry(), 0..9))
                .prop_map(|(at, (outcome, gas_used, gas_refunded), output, created, logs)| {
                    m::SimulateAnswer {
                        at,
                        state: output.clone(),
                        outcome,
                        gas_used,
                        gas_refunded,
                        output,
                        created,
                        logs,
                    }
                }),
        ),
        "EstimateRequest" => boxed(call().prop_map(EstimateRequest)),
        "EstimateAnswer" => boxed((block_ref(), any::<(u32, u64, u64)>(), bytes(0..300)).prop_map(
            |(at, (outcome, gas_limit, gas_used), output)| m::EstimateAnswer {
                at,
                outcome,
                gas_limit,
                gas_used,
                output,
            },
        )),
        "ReceiptRequest" => boxed(bytes(0..33).prop_map(|id| m::ReceiptRequest { id })),
        "ReceiptAnswer" => boxed((bytes(0..33), block_ref(), any::<(u32, bool)>(), bytes(0..300)).prop_map(
            |(id, block, (index, finalized), receipt)| m::ReceiptAnswer {
                id,
                block,
                index,
                receipt,
                finalized,
            },
        )),
        "LogsRequest" => boxed((filter(), place(), any::<(Option<u64>, u32)>()).prop_map(
            |(filter, from, (to_height, limit))| m::LogsRequest { filter, from, to_height, limit },
        )),
        "LogsAnswer" => boxed(
            (vec(row(), 0..9), place(), block_ref(), any::<u64>())
                .prop_map(|(rows, next, head, finalized)| m::LogsAnswer { rows, next, head, finalized }),
        ),
        "CodeRequest" => boxed(
            (bytes(0..21), any::<Option<u64>>())
                .prop_map(|(address, height)| m::CodeRequest { address, height }),
        ),
        "CodeAnswer" => boxed(
            (block_ref(), any::<u32>(), bytes(0..33), bytes(0..300))
                .prop_map(|(at, engine, code_hash, code)| m::CodeAnswer { at, engine, code_hash, code }),
        ),
        "StorageRequest" => boxed(
            (bytes(0..21), vec(bytes(32), 0..9), any::<Option<u64>>())
                .prop_map(|(address, slots, height)| m::StorageRequest { address, slots, height }),
        ),
        "StorageAnswer" => boxed(
            (block_ref(), bytes(0..33), vec(bytes(32), 0..9))
                .prop_map(|(at, state, words)| m::StorageAnswer { at, state, words }),
        ),
        "FollowRequest" => {
            use m::follow_request::{From, What};
            let what = prop_oneof![
                filter().prop_map(|filter| What::Logs(filter.unwrap_or_default())),
                vec(bytes(20), 0..5).prop_map(|senders| What::Receipts(m::ReceiptFilter { senders })),
            ];
            let told = vec(position(), 0..5);
            let from = prop_oneof![
                any::<u64>().prop_map(From::Height),
                (any::<u64>(), told).prop_map(|(epoch, told)| From::Resume(m::Positions { epoch, told })),
            ];
            boxed(
                (option::of(what), option::of(from)).prop_map(|(what, from)| m::FollowRequest { what, from }),
            )
        }
        "FollowEvent" => {
            let receipt = (block_ref(), bytes(32), any::<u32>(), bytes(0..100)).prop_map(
                |(block, transaction, index, receipt)| m::ReceiptRow { block, transaction, index, receipt },
            );
            boxed(
                (
                    any::<(u64, bool, bool, u64)>(),
                    option::of(position()),
                    option::of(position()),
                    vec(row(), 0..5),
                    vec(receipt, 0..5),
                )
                    .prop_map(
                        |((epoch, reverted, more, finalized), at, prev, logs, receipts)| m::FollowEvent {
                            epoch,
                            at,
                            prev,
                            reverted,
                            more,
                            finalized,
                            logs,
                            receipts,
                        },
                    ),
            )
        }
        other => prices::any_of(other),
    }
}

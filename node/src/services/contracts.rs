//! Remote calls about contracts: running them, and reading what they left behind.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use ghost_proto::{
    Address, Call, CallAnswer, KeyPair, LogEntry, Outcome, PeerId, TxId,
    limits::{CALL_OUTPUT_BYTES_MAX, LOG_ROWS_BYTES_MAX, LOG_TOPICS_MAX, RPC_ROWS_MAX, STORAGE_SLOTS_MAX},
    message,
};

use super::{
    execution::{CALL_TIME_MAX, Execution, RETRY_AFTER, Refusal},
    rpc::{Failure, block_ref},
};
use crate::{
    chain::{BlockRef, FoundLog, HeadView, LogFilter, LogLimits, LogPlace, StateAt},
    engine::{CallResult, SimulateError, Simulation, Stop, Until},
};

/// Gas that one call may use. The loop of two cheap instructions that it pays for takes about 100 ms.
pub(crate) const CALL_GAS_MAX: u64 = 50_000_000;

/// An estimate is good enough if it is above the least by at most one part in this many.
const ESTIMATE_PARTS: u64 = 64;

/// How often a call is begun again because its state sank below the finalized block.
const ATTEMPTS_MAX: usize = 3;

/// What calls about contracts need.
#[derive(Clone)]
pub(crate) struct Contracts {
    pub(crate) views: Arc<ArcSwap<HeadView>>,
    pub(crate) execution: Execution,
    /// The node's own key, to sign answers with.
    pub(crate) key: Arc<KeyPair>,
}

/// What a run gave, and where.
struct Ran<T> {
    at: BlockRef,
    state: [u8; 32],
    result: T,
}

/// Why a run gave nothing.
enum Trouble {
    Simulate(SimulateError),
    NotKept { lowest: u64, head: u64 },
    Moved,
}

impl From<SimulateError> for Trouble {
    fn from(error: SimulateError) -> Self {
        Self::Simulate(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Simulate(SimulateError::Refused(why)) => Self::invalid(why),
            Trouble::Simulate(SimulateError::Store(error)) => error.into(),
            Trouble::Simulate(SimulateError::Stopped | SimulateError::NotShort) => Self::invalid(format!(
                "the call ran for {} ms, the most this node gives to one; ask for less gas",
                CALL_TIME_MAX.as_millis()
            )),
            Trouble::NotKept { lowest, head } => Self::not_found(format!(
                "the state of that height is not kept; this node has those of {lowest} to {head}"
            )),
            Trouble::Moved => Self::busy("the chain moved on while the call ran; ask again", Duration::ZERO),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy => Self::busy("too many calls are running; ask again in a moment", RETRY_AFTER),
            Refusal::Broken => Self::internal("the call broke down; ask another node"),
        }
    }
}

fn address(bytes: &[u8]) -> Result<Address, Failure> {
    Address::try_from(bytes).map_err(|error| Failure::invalid(error.to_string()))
}

fn copied(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

fn state_at(view: &HeadView, height: Option<u64>) -> Result<StateAt<'_>, Trouble> {
    view.state_at(height)
        .ok_or_else(|| Trouble::NotKept { lowest: view.lowest_readable(), head: view.head().height })
}

/// Reads from a state of the newest view, again if it moved meanwhile.
fn read<T>(
    views: &ArcSwap<HeadView>,
    height: Option<u64>,
    read: impl Fn(&StateAt<'_>) -> Result<T, SimulateError>,
) -> Result<Ran<T>, Trouble> {
    for _ in 0..ATTEMPTS_MAX {
        let view = views.load_full();
        let at = state_at(&view, height)?;
        let result = read(&at)?;
        if at.is_intact().map_err(SimulateError::from)? {
            return Ok(Ran { at: at.block(), state: at.commitment(), result });
        }
    }
    Err(Trouble::Moved)
}

fn log_entry(entry: LogEntry) -> message::LogEntry {
    message::LogEntry {
        address: copied(entry.address.0),
        topics: entry.topics.iter().map(copied).collect(),
        data: entry.data,
    }
}

/// A found entry as it travels.
pub(crate) fn log_row(found: FoundLog) -> message::LogRow {
    message::LogRow {
        place: Some(log_place(found.place)),
        block: copied(found.block.0),
        transaction: copied(found.transaction.0),
        entry: Some(log_entry(found.entry)),
    }
}

fn log_place(place: LogPlace) -> message::LogPlace {
    message::LogPlace { height: place.height, transaction: place.transaction, index: place.index }
}

/// A filter as it came.
pub(crate) fn log_filter(filter: Option<message::LogFilter>) -> Result<LogFilter, Failure> {
    let Some(filter) = filter else { return Ok(LogFilter::default()) };
    let mut wanted = LogFilter {
        addresses: filter.addresses.iter().map(|it| address(it)).collect::<Result<_, _>>()?,
        ..LogFilter::default()
    };
    if filter.topics.len() > LOG_TOPICS_MAX {
        return Err(Failure::invalid(format!("a log has at most {LOG_TOPICS_MAX} topics")));
    }
    for (place, choice) in wanted.topics.iter_mut().zip(filter.topics) {
        let topic = |bytes: &Bytes| {
            <[u8; 32]>::try_from(bytes.as_ref())
                .map_err(|_| Failure::invalid(format!("a topic has 32 bytes, not {}", bytes.len())))
        };
        *place = choice.any_of.iter().map(topic).collect::<Result<_, _>>()?;
    }
    Ok(wanted)
}

impl Contracts {
    fn simulation(call: &Call) -> Result<Simulation, Failure> {
        if call.gas_limit > CALL_GAS_MAX {
            return Err(Failure::invalid(format!(
                "the gas limit is {}, this node gives at most {CALL_GAS_MAX} to one call",
                call.gas_limit
            )));
        }
        Ok(Simulation {
            from: call.from,
            to: call.to,
            value: call.value,
            input: call.input.clone(),
            gas_limit: if call.gas_limit == 0 { CALL_GAS_MAX } else { call.gas_limit },
        })
    }

    /// Runs something on a state: here if it is short, else on a thread for what is not.
    async fn run<T: Send + 'static>(
        &self,
        peer: Option<PeerId>,
        height: Option<u64>,
        job: impl Fn(&StateAt<'_>, Until<'_>) -> Result<T, SimulateError> + Send + 'static,
    ) -> Result<Ran<T>, Failure> {
        // Who has as many long calls under way as it may does not get to try short ones on top.
        self.execution.check(peer)?;
        match read(&self.views, height, |at| job(at, Until::Short)) {
            Err(Trouble::Simulate(SimulateError::NotShort)) => self.run_long(peer, height, job).await,
            done => Ok(done?),
        }
    }

    async fn run_long<T: Send + 'static>(
        &self,
        peer: Option<PeerId>,
        height: Option<u64>,
        job: impl Fn(&StateAt<'_>, Until<'_>) -> Result<T, SimulateError> + Send + 'static,
    ) -> Result<Ran<T>, Failure> {
        let views = self.views.clone();
        let long = move |stop: &Stop| read(&views, height, |at| job(at, Until::Stopped(stop)));
        Ok(self.execution.run(peer, long).await??)
    }

    async fn simulated(&self, peer: Option<PeerId>, call: &Call) -> Result<Ran<CallResult>, Failure> {
        let simulation = Self::simulation(call)?;
        let ran = self.run(peer, call.height, move |at, until| at.simulate(&simulation, until)).await?;
        if ran.result.output.len() > CALL_OUTPUT_BYTES_MAX {
            return Err(Failure::invalid(format!(
                "the call returned {} bytes; {CALL_OUTPUT_BYTES_MAX} are the most that are sent",
                ran.result.output.len()
            )));
        }
        Ok(ran)
    }

    pub(crate) async fn call(&self, peer: Option<PeerId>, call: &Call) -> Result<CallAnswer, Failure> {
        let ran = self.simulated(peer, call).await?;
        let mut answer = CallAnswer {
            height: ran.at.height,
            block: ran.at.id,
            state: ran.state,
            outcome: ran.result.outcome,
            gas_used: ran.result.gas_used,
            output: ran.result.output,
            signature: None,
        };
        if call.signed {
            answer.sign(call, &self.views.load().genesis_id(), &self.key);
        }
        Ok(answer)
    }

    pub(crate) async fn simulate(
        &self,
        peer: Option<PeerId>,
        call: &Call,
    ) -> Result<message::SimulateAnswer, Failure> {
        let Ran { at, state, result } = self.simulated(peer, call).await?;
        let bytes: usize = result.logs.iter().map(LogEntry::encoded_len).sum();
        if result.logs.len() > RPC_ROWS_MAX || bytes > LOG_ROWS_BYTES_MAX {
            return Err(Failure::invalid(format!(
                "the call logs {} entries of {bytes} bytes; {RPC_ROWS_MAX} of {LOG_ROWS_BYTES_MAX} bytes are the most that are sent",
                result.logs.len()
            )));
        }
        Ok(message::SimulateAnswer {
            at: Some(block_ref(at)),
            state: copied(state),
            outcome: result.outcome.code().into(),
            gas_used: result.gas_used,
            gas_refunded: result.gas_refunded,
            output: result.output,
            created: result.created.map(|created| copied(created.0)).unwrap_or_default(),
            logs: result.logs.into_iter().map(log_entry).collect(),
        })
    }

    pub(crate) async fn estimate(
        &self,
        peer: Option<PeerId>,
        call: &Call,
    ) -> Result<message::EstimateAnswer, Failure> {
        let simulation = Self::simulation(call)?;
        // Many runs are never short.
        let estimate = move |at: &StateAt<'_>, until: Until<'_>| estimate(at, &simulation, until);
        let ran = self.run_long(peer, call.height, estimate).await?;
        let Ran { at, result: (gas_limit, most), .. } = ran;
        let mut output = most.output;
        output.truncate(CALL_OUTPUT_BYTES_MAX);
        Ok(message::EstimateAnswer {
            at: Some(block_ref(at)),
            outcome: most.outcome.code().into(),
            gas_limit,
            gas_used: most.gas_used,
            output,
        })
    }

    pub(crate) fn receipt(&self, view: &HeadView, id: &[u8]) -> Result<message::ReceiptAnswer, Failure> {
        let id = TxId::try_from(id).map_err(|error| Failure::invalid(error.to_string()))?;
        let included = view.transaction(&id)?.ok_or_else(|| {
            Failure::not_found(format!("transaction {id} is in no block of the canonical chain"))
        })?;
        Ok(message::ReceiptAnswer {
            id: copied(id.0),
            block: Some(block_ref(included.block)),
            index: included.index,
            receipt: included.receipt.encode().into(),
            finalized: included.finalized,
        })
    }

    pub(crate) async fn logs(
        &self,
        peer: Option<PeerId>,
        request: message::LogsRequest,
    ) -> Result<message::LogsAnswer, Failure> {
        let filter = log_filter(request.filter)?;
        let from = request.from.unwrap_or_default();
        let from = LogPlace { height: from.height, transaction: from.transaction, index: from.index };
        let mut limits = LogLimits::CALL;
        if request.limit > 0 {
            limits.entries = limits.entries.min(request.limit as usize);
        }
        let (view, to) = (self.views.load_full(), request.to_height.unwrap_or(u64::MAX));
        let (head, finalized) = (view.head(), view.finalized().height);
        let search = move |stop: &Stop| view.logs(&filter, from, to, limits, stop);
        let found = self.execution.run(peer, search).await??;
        Ok(message::LogsAnswer {
            rows: found.entries.into_iter().map(log_row).collect(),
            next: found.next.map(log_place),
            head: Some(block_ref(head)),
            finalized,
        })
    }

    pub(crate) fn code(&self, request: &message::CodeRequest) -> Result<message::CodeAnswer, Failure> {
        let address = address(&request.address)?;
        let ran = read(&self.views, request.height, |at| {
            let Some(contract) = at.account(&address)?.contract else { return Ok(None) };
            Ok(Some((contract, at.code(&contract.code_hash)?)))
        })?;
        let at = Some(block_ref(ran.at));
        let Some((contract, code)) = ran.result else {
            return Ok(message::CodeAnswer { at, ..Default::default() });
        };
        Ok(message::CodeAnswer {
            at,
            engine: contract.engine.0.into(),
            code_hash: copied(contract.code_hash),
            code: code.map(copied).unwrap_or_default(),
        })
    }

    pub(crate) fn storage(
        &self,
        request: &message::StorageRequest,
    ) -> Result<message::StorageAnswer, Failure> {
        let address = address(&request.address)?;
        if request.slots.len() > STORAGE_SLOTS_MAX {
            return Err(Failure::invalid(format!("at most {STORAGE_SLOTS_MAX} slots fit one request")));
        }
        let slot = |bytes: &Bytes| {
            <[u8; 32]>::try_from(bytes.as_ref())
                .map_err(|_| Failure::invalid(format!("a slot has 32 bytes, not {}", bytes.len())))
        };
        let slots: Vec<_> = request.slots.iter().map(slot).collect::<Result<_, _>>()?;
        let ran = read(&self.views, request.height, |at| {
            let words = slots.iter().map(|slot| at.storage(&address, slot).map(copied));
            Ok(words.collect::<Result<_, _>>()?)
        })?;
        Ok(message::StorageAnswer {
            at: Some(block_ref(ran.at)),
            state: copied(ran.state),
            words: ran.result,
        })
    }
}

/// The least gas limit with which a call does, and what it does with the most. Zero if it never does.
fn estimate(
    at: &StateAt<'_>,
    call: &Simulation,
    until: Until<'_>,
) -> Result<(u64, CallResult), SimulateError> {
    let most = at.simulate(call, until)?;
    if most.outcome != Outcome::Done {
        return Ok((0, most));
    }
    let does = |gas_limit: u64| match at.simulate(&Simulation { gas_limit, ..call.clone() }, until) {
        Ok(result) => Ok(result.outcome == Outcome::Done),
        // Below what it takes by its size alone.
        Err(SimulateError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    };
    // What was refunded at the end had to be there before.
    let (mut too_little, mut enough) = (most.gas_used.saturating_sub(1), call.gas_limit);
    let guess = most.gas_used.saturating_add(most.gas_refunded);
    let mut next = guess;
    while enough - too_little > 1 + too_little / ESTIMATE_PARTS {
        let limit = next.clamp(too_little + 1, enough - 1);
        if does(limit)? {
            enough = limit;
        } else {
            too_little = limit;
        }
        // A contract that calls another one keeps a 64th of its gas: often just that was missing.
        next = if limit == guess { guess + guess / 63 + 1 } else { too_little + (enough - too_little) / 2 };
    }
    Ok((enough, most))
}

//! The contract that reads prices, at [`ORACLE_ADDRESS`] (`0x…006f7261636c65`).
//!
//! It has no code; the machine answers for it, by the EVM's ABI:
//!
//! ```solidity
//! interface Oracle {
//!     /// The newest committed price of a feed, however old.
//!     function price(bytes32 feed) external view
//!         returns (int64 price, uint64 confidence, int32 exponent, uint64 timeUnixMs, uint64 ageMs, bool stale);
//!     /// The same if it is no older than both `maxAgeMs` and the feed's own maximum age; reverts otherwise.
//!     function freshPrice(bytes32 feed, uint64 maxAgeMs) external view
//!         returns (int64 price, uint64 confidence, int32 exponent, uint64 timeUnixMs, uint64 ageMs, bool stale);
//!     error UnknownFeed();
//!     error StalePrice(uint64 ageMs, uint64 maxAgeMs);
//! }
//! ```
//!
//! `feed` is the feed's name in ASCII, padded with zeros on the right: `bytes32("GHO/USD")`. Ages are those at the
//! beginning of the block's slot. Prices of a block are committed before everything else in it.
//!
//! A read takes [`GAS_PRICE_READ`]: what the EVM asks for a cold word of storage. What is no call of these two
//! reverts without a reason; a value that goes with a call is kept for ever, as with every precompile.

use std::sync::LazyLock;

use ghost_proto::price::{CommittedPrice, ORACLE_ADDRESS};
use revm::{
    context_interface::{Cfg, ContextTr},
    handler::{EthPrecompiles, PrecompileProvider},
    interpreter::{CallInputs, Gas, InstructionResult, InterpreterResult},
    primitives::{Address, AddressSet, Bytes},
};

use super::{SPEC, database::StateDatabase, to_evm};
use crate::oracle;

/// Gas of a read: EIP-2929's cold SLOAD.
pub(super) const GAS_PRICE_READ: u64 = 2_100;

/// First four bytes of Keccak-256 of the signatures above.
const PRICE: [u8; 4] = [0x88, 0xf3, 0x54, 0x3a];
const FRESH_PRICE: [u8; 4] = [0xd6, 0xa3, 0x6e, 0x19];
const UNKNOWN_FEED: [u8; 4] = [0xea, 0xba, 0xe7, 0x07];
const STALE_PRICE: [u8; 4] = [0x2c, 0xcf, 0xc2, 0xca];

/// Ethereum's precompiles and the one above.
#[derive(Debug)]
pub(super) struct Precompiles {
    ethereum: EthPrecompiles,
    now_unix_ms: u64,
}

/// All of their addresses: they are warm from the beginning.
static ADDRESSES: LazyLock<AddressSet> = LazyLock::new(|| {
    let mut addresses = EthPrecompiles::new(SPEC).warm_addresses().clone();
    addresses.insert(to_evm(&ORACLE_ADDRESS));
    addresses
});

impl Precompiles {
    /// For a block whose slot begins then.
    pub(super) fn new(now_unix_ms: u64) -> Self {
        Self { ethereum: EthPrecompiles::new(SPEC), now_unix_ms }
    }
}

/// What the contract says: its output, or what it reverts with.
type Said = Result<Vec<u8>, Vec<u8>>;

fn word(value: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&value.to_be_bytes());
    word
}

/// What is asked: a feed, and how old its price may be.
fn asked(input: &[u8]) -> Option<([u8; 32], Option<u64>)> {
    let (selector, arguments) = input.split_first_chunk::<4>()?;
    let (feed, rest) = arguments.split_first_chunk::<32>()?;
    match *selector {
        PRICE => Some((*feed, None)),
        FRESH_PRICE => {
            let age = rest.first_chunk::<32>()?;
            // A longer age than 64 bits hold is no uint64: as Solidity, it is refused.
            let (high, low) = age.split_at(24);
            let low: [u8; 8] = low.try_into().ok()?;
            high.iter().all(|byte| *byte == 0).then_some((*feed, Some(u64::from_be_bytes(low))))
        }
        _ => None,
    }
}

fn say(price: Option<CommittedPrice>, max_age_ms: Option<u64>, now_unix_ms: u64) -> Said {
    let price = price.ok_or_else(|| UNKNOWN_FEED.to_vec())?;
    let age = price.aggregate.age_ms(now_unix_ms);
    if let Some(max) = max_age_ms.map(|max| max.min(price.max_age_ms))
        && age > max
    {
        return Err([STALE_PRICE.as_slice(), &word(age), &word(max)].concat());
    }
    let stale = age > price.max_age_ms;
    Ok([price.log_data().as_slice(), &word(age), &word(stale.into())].concat())
}

impl<'s, 'p, CTX: ContextTr<Db = StateDatabase<'s, 'p>>> PrecompileProvider<CTX> for Precompiles
where
    'p: 's,
{
    type Output = InterpreterResult;

    fn set_spec(&mut self, spec: <CTX::Cfg as Cfg>::Spec) -> bool {
        PrecompileProvider::<CTX>::set_spec(&mut self.ethereum, spec)
    }

    fn run(&mut self, context: &mut CTX, inputs: &CallInputs) -> Result<Option<InterpreterResult>, String> {
        if inputs.bytecode_address != to_evm(&ORACLE_ADDRESS) {
            return self.ethereum.run(context, inputs);
        }
        let mut gas = Gas::new(inputs.gas_limit);
        if !gas.record_regular_cost(GAS_PRICE_READ) {
            gas.spend_all();
            return Ok(Some(InterpreterResult::new(InstructionResult::PrecompileOOG, Bytes::new(), gas)));
        }
        let asked = asked(&inputs.input.as_bytes(context));
        let said = match asked {
            None => Err(Vec::new()),
            Some((feed, max_age_ms)) => {
                let price =
                    oracle::state::price(context.db_mut().0, &feed).map_err(|error| error.to_string())?;
                say(price, max_age_ms, self.now_unix_ms)
            }
        };
        let (result, output) = match said {
            Ok(output) => (InstructionResult::Return, output),
            Err(reason) => (InstructionResult::Revert, reason),
        };
        Ok(Some(InterpreterResult::new(result, output.into(), gas)))
    }

    fn warm_addresses(&self) -> &AddressSet {
        &ADDRESSES
    }

    fn contains(&self, address: &Address) -> bool {
        ADDRESSES.contains(address)
    }
}

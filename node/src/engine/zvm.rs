//! The ZVMC container, and native ZVM bytecode.
//!
//! ```text
//! offset  size  field
//!      0     4  magic         "ZVMC"
//!      4     1  version       1
//!      5     1  target        0 = zvm_native, 1 = evm_compat, 2 = wasm_bridge
//!      6     4  code length   big-endian
//!     10     n  code
//!      x     4  ABI length
//!      x     m  ABI           opaque: kept with the transaction, not in the state
//! ```
//!
//! `wasm_bridge` code is a WebAssembly module, which [`super::wasm`] runs. `evm_compat` code is Ethereum
//! init code. `zvm_native` code is init code too, under opcode numbers of
//! its own; it is translated once, when it is deployed, and is an Ethereum contract from then on. Each
//! instruction becomes the one Ethereum instruction that means the same: ZVM pushes 1, 2, 4, 8, 16 or
//! 32 bytes, and for each of these Ethereum has a push of the same length. So the code keeps its length
//! and every offset (jump destinations, PC, CODECOPY, the runtime code that a constructor returns), and
//! gas is Ethereum's.
//!
//! All of the code is translated: constants belong into pushes, not behind the code. What CODECOPY reads,
//! and what CREATE makes, is Ethereum code.

use bytes::Bytes;

/// First bytes of a container.
pub const MAGIC: &[u8; 4] = b"ZVMC";
/// The version that is known.
pub const VERSION: u8 = 1;
const HEAD_LEN: usize = 10;
const LENGTH_LEN: usize = 4;

/// What runs the code of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Native bytecode.
    Native,
    /// Ethereum bytecode.
    Evm,
    /// A WebAssembly module.
    Wasm,
}

/// Why code is not taken. Deploying it again is useless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It is no container.
    #[error("it does not begin with ZVMC")]
    Magic,
    /// A container of another version.
    #[error("the container is of version {0}; {VERSION} is known")]
    Version(u8),
    /// A target that is not known.
    #[error("target {0} is not known; 0 is zvm_native, 1 evm_compat, 2 wasm_bridge")]
    Target(u8),
    /// It ends too soon, or goes on.
    #[error("`{field}` ends at byte {needs}, the container has {has}")]
    Length {
        /// Which part.
        field: &'static str,
        /// Where the part ends by its length.
        needs: u64,
        /// How long the container is.
        has: u64,
    },
    /// An opcode that is none.
    #[error("opcode {opcode:#04x} at offset {offset} is not assigned")]
    Unknown {
        /// The byte.
        opcode: u8,
        /// Its place in the code.
        offset: usize,
    },
    /// The code ends inside a push.
    #[error("{name} at offset {offset} pushes more bytes than follow")]
    Truncated {
        /// Which push.
        name: &'static str,
        /// Its place in the code.
        offset: usize,
    },
    /// A module where Ethereum code is wanted.
    #[error("a container of wasm_bridge holds a module, no Ethereum code")]
    Wasm,
}

/// A container, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// What runs the code.
    pub target: Target,
    /// The code.
    pub code: Bytes,
    /// What the contract understands, for people's tools.
    pub abi: Bytes,
}

fn part(bytes: &Bytes, at: usize, field: &'static str) -> Result<(Bytes, usize), CodeError> {
    let length = bytes.get(at..at + LENGTH_LEN).and_then(|length| length.first_chunk());
    let has = bytes.len() as u64;
    let begin = at + LENGTH_LEN;
    let Some(length) = length else {
        return Err(CodeError::Length { field, needs: begin as u64, has });
    };
    let end = begin as u64 + u64::from(u32::from_be_bytes(*length));
    match usize::try_from(end) {
        Ok(end) if end <= bytes.len() => Ok((bytes.slice(begin..end), end)),
        _ => Err(CodeError::Length { field, needs: end, has }),
    }
}

impl Container {
    /// Takes a container apart.
    ///
    /// # Errors
    /// [`CodeError`].
    pub fn parse(bytes: &Bytes) -> Result<Self, CodeError> {
        let (container, rest) = Self::split(bytes)?;
        if !rest.is_empty() {
            let has = bytes.len() as u64;
            return Err(CodeError::Length { field: "ABI", needs: has - rest.len() as u64, has });
        }
        Ok(container)
    }

    /// Takes apart the container that stands at the beginning, and gives what stands behind it.
    ///
    /// # Errors
    /// [`CodeError`].
    pub fn split(bytes: &Bytes) -> Result<(Self, Bytes), CodeError> {
        if !bytes.starts_with(MAGIC) {
            return Err(CodeError::Magic);
        }
        let has = bytes.len() as u64;
        let &[version, target] = bytes
            .get(MAGIC.len()..)
            .and_then(|rest| rest.first_chunk())
            .ok_or(CodeError::Length { field: "target", needs: 6, has })?;
        if version != VERSION {
            return Err(CodeError::Version(version));
        }
        let target = match target {
            0 => Target::Native,
            1 => Target::Evm,
            2 => Target::Wasm,
            other => return Err(CodeError::Target(other)),
        };
        let (code, end) = part(bytes, HEAD_LEN - LENGTH_LEN, "code")?;
        let (abi, end) = part(bytes, end, "ABI")?;
        Ok((Self { target, code, abi }, bytes.slice(end..)))
    }

    /// Puts one together.
    pub fn encode(&self) -> Vec<u8> {
        let target = match self.target {
            Target::Native => 0,
            Target::Evm => 1,
            Target::Wasm => 2,
        };
        let mut out = Vec::with_capacity(HEAD_LEN + self.code.len() + LENGTH_LEN + self.abi.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, target]);
        for part in [&self.code, &self.abi] {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    /// The Ethereum init code that the container means.
    ///
    /// # Errors
    /// [`CodeError`]: it means none.
    pub fn init_code(&self) -> Result<Bytes, CodeError> {
        match self.target {
            Target::Native => translate(&self.code).map(Bytes::from),
            Target::Evm => Ok(self.code.clone()),
            Target::Wasm => Err(CodeError::Wasm),
        }
    }
}

/// An opcode: its ZVM number and name, the Ethereum opcode, and how many bytes follow.
struct Opcode(u8, &'static str, u8, usize);

/// The published opcodes.
#[rustfmt::skip]
const OPCODES: &[Opcode] = &[
    Opcode(0x00, "HALT", 0x00, 0), Opcode(0x10, "POP", 0x50, 0),
    Opcode(0x11, "PUSH1", 0x60, 1), Opcode(0x12, "PUSH2", 0x61, 2), Opcode(0x13, "PUSH4", 0x63, 4),
    Opcode(0x14, "PUSH8", 0x67, 8), Opcode(0x15, "PUSH16", 0x6f, 16), Opcode(0x16, "PUSH32", 0x7f, 32),
    Opcode(0x17, "DUP1", 0x80, 0), Opcode(0x18, "DUP2", 0x81, 0), Opcode(0x19, "DUP3", 0x82, 0), Opcode(0x1a, "DUP4", 0x83, 0),
    Opcode(0x1b, "SWAP1", 0x90, 0), Opcode(0x1c, "SWAP2", 0x91, 0), Opcode(0x1d, "SWAP3", 0x92, 0), Opcode(0x1e, "SWAP4", 0x93, 0),
    Opcode(0x30, "ADD", 0x01, 0), Opcode(0x31, "SUB", 0x03, 0), Opcode(0x32, "MUL", 0x02, 0), Opcode(0x33, "DIV", 0x04, 0),
    Opcode(0x34, "SDIV", 0x05, 0), Opcode(0x35, "MOD", 0x06, 0), Opcode(0x36, "SMOD", 0x07, 0), Opcode(0x37, "ADDMOD", 0x08, 0),
    Opcode(0x38, "MULMOD", 0x09, 0), Opcode(0x39, "EXP", 0x0a, 0), Opcode(0x3a, "SIGNEXTEND", 0x0b, 0),
    Opcode(0x50, "LT", 0x10, 0), Opcode(0x51, "GT", 0x11, 0), Opcode(0x52, "SLT", 0x12, 0), Opcode(0x53, "SGT", 0x13, 0),
    Opcode(0x54, "EQ", 0x14, 0), Opcode(0x55, "ISZERO", 0x15, 0), Opcode(0x56, "AND", 0x16, 0), Opcode(0x57, "OR", 0x17, 0),
    Opcode(0x58, "XOR", 0x18, 0), Opcode(0x59, "NOT", 0x19, 0), Opcode(0x5a, "BYTE", 0x1a, 0), Opcode(0x5b, "SHL", 0x1b, 0),
    Opcode(0x5c, "SHR", 0x1c, 0), Opcode(0x5d, "SAR", 0x1d, 0),
    Opcode(0x70, "KECCAK256", 0x20, 0),
    Opcode(0x80, "MLOAD", 0x51, 0), Opcode(0x81, "MSTORE", 0x52, 0), Opcode(0x82, "MSTORE8", 0x53, 0), Opcode(0x83, "MSIZE", 0x59, 0),
    Opcode(0x90, "SLOAD", 0x54, 0), Opcode(0x91, "SSTORE", 0x55, 0), Opcode(0x92, "TLOAD", 0x5c, 0), Opcode(0x93, "TSTORE", 0x5d, 0),
    Opcode(0xa0, "JUMP", 0x56, 0), Opcode(0xa1, "JUMPI", 0x57, 0), Opcode(0xa2, "PC", 0x58, 0), Opcode(0xa3, "JUMPDEST", 0x5b, 0),
    Opcode(0xa4, "CALL", 0xf1, 0), Opcode(0xa6, "DELEGATECALL", 0xf4, 0), Opcode(0xa7, "STATICCALL", 0xfa, 0),
    Opcode(0xa8, "RETURN", 0xf3, 0), Opcode(0xa9, "REVERT", 0xfd, 0), Opcode(0xab, "CREATE", 0xf0, 0), Opcode(0xac, "CREATE2", 0xf5, 0),
    Opcode(0xb0, "ADDRESS", 0x30, 0), Opcode(0xb1, "BALANCE", 0x31, 0), Opcode(0xb2, "ORIGIN", 0x32, 0), Opcode(0xb3, "CALLER", 0x33, 0),
    Opcode(0xb4, "CALLVALUE", 0x34, 0), Opcode(0xb5, "CALLDATALOAD", 0x35, 0), Opcode(0xb6, "CALLDATASIZE", 0x36, 0),
    Opcode(0xb7, "CALLDATACOPY", 0x37, 0), Opcode(0xb8, "CODESIZE", 0x38, 0), Opcode(0xb9, "CODECOPY", 0x39, 0),
    Opcode(0xbd, "RETURNDATASIZE", 0x3d, 0), Opcode(0xbe, "RETURNDATACOPY", 0x3e, 0),
    Opcode(0xc2, "TIMESTAMP", 0x42, 0), Opcode(0xc3, "NUMBER", 0x43, 0), Opcode(0xc7, "CHAINID", 0x46, 0),
    Opcode(0xc8, "SELFBALANCE", 0x47, 0), Opcode(0xc9, "BASEFEE", 0x48, 0),
    Opcode(0xf8, "LOG0", 0xa0, 0), Opcode(0xf9, "LOG1", 0xa1, 0), Opcode(0xfa, "LOG2", 0xa2, 0), Opcode(0xfb, "LOG3", 0xa3, 0),
    Opcode(0xfc, "LOG4", 0xa4, 0),
];

/// Native code as Ethereum code: as long, instruction by instruction.
///
/// # Errors
/// [`CodeError::Unknown`] or [`CodeError::Truncated`], with the offset.
pub fn translate(code: &[u8]) -> Result<Vec<u8>, CodeError> {
    let mut out = Vec::with_capacity(code.len());
    let mut offset = 0;
    while let Some(&number) = code.get(offset) {
        let Ok(found) = OPCODES.binary_search_by_key(&number, |opcode| opcode.0) else {
            return Err(CodeError::Unknown { opcode: number, offset });
        };
        let Opcode(_, name, evm, follows) = OPCODES[found];
        out.push(evm);
        let immediate = code.get(offset + 1..offset + 1 + follows);
        out.extend_from_slice(immediate.ok_or(CodeError::Truncated { name, offset })?);
        offset += 1 + follows;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use revm::bytecode::opcode::OpCode;

    use super::*;

    #[test]
    fn every_opcode_becomes_the_one_of_the_same_name_and_length() {
        assert!(OPCODES.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(OPCODES.len(), 83);
        for Opcode(_, name, evm, follows) in OPCODES {
            let theirs = OpCode::new(*evm).unwrap();
            let ours = if *name == "HALT" { "STOP" } else { *name };
            assert_eq!((theirs.as_str(), usize::from(theirs.info().immediate_size())), (ours, *follows));
        }
    }

    #[test]
    fn what_is_not_assigned_or_cut_off_is_refused_with_its_place() {
        assert_eq!(translate(&[0x11, 0xff, 0x00]), Ok(vec![0x60, 0xff, 0x00]));
        assert_eq!(translate(&[0x10, 0x01]), Err(CodeError::Unknown { opcode: 0x01, offset: 1 }));
        // An unassigned number inside a push is data.
        assert_eq!(translate(&[0x11, 0x01]), Ok(vec![0x60, 0x01]));
        assert_eq!(translate(&[0x00, 0x12, 0x01]), Err(CodeError::Truncated { name: "PUSH2", offset: 1 }));
    }

    #[test]
    fn a_container_is_taken_apart_or_refused() {
        let container = Container {
            target: Target::Native,
            code: Bytes::from_static(&[0x11, 7]),
            abi: Bytes::from_static(b"[]"),
        };
        let bytes: Bytes = container.encode().into();
        assert_eq!(Container::parse(&bytes), Ok(container));
        for length in 0..bytes.len() {
            assert!(Container::parse(&bytes.slice(..length)).is_err(), "{length}");
        }
        let longer: Bytes = [bytes.as_ref(), &[0]].concat().into();
        assert_eq!(Container::parse(&longer), Err(CodeError::Length { field: "ABI", needs: 18, has: 19 }));
        let with = |at: usize, byte: u8| {
            let mut changed = bytes.to_vec();
            changed[at] = byte;
            Container::parse(&changed.into()).unwrap_err()
        };
        assert_eq!(with(0, b'z'), CodeError::Magic);
        assert_eq!(with(4, 2), CodeError::Version(2));
        assert_eq!(with(5, 3), CodeError::Target(3));
        assert_eq!(with(6, 0xff), CodeError::Length { field: "code", needs: 0xff00_0002 + 10, has: 18 });
    }

    proptest! {
        #[test]
        fn neither_panics_and_lengths_are_kept(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(translated) = translate(&bytes) {
                prop_assert_eq!(translated.len(), bytes.len());
            }
            let container = [MAGIC.as_slice(), &[VERSION], &bytes].concat();
            if let Ok(parsed) = Container::parse(&container.clone().into()) {
                prop_assert_eq!(parsed.encode(), container);
            }
        }
    }
}

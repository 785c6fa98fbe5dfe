//! Formats of one to three bits that choose from patterns.

use super::fit::{Scaled, Source, Steps, part, scaled};
use super::grid::{
    Grid, IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, Magnitudes,
    Moved,
};

/// Whether a format keeps eight signs of eight values, or seven and makes their number even.
#[derive(Clone, Copy, PartialEq)]
enum Signs {
    All,
    Even,
}

/// The block with magnitudes for values, and the signs of each eight of them. Where the number
/// of signs must be even, the value that matters least keeps the wrong one and counts as a
/// negative magnitude.
fn magnitudes(source: &Source<256>, signs: Signs) -> (Source<256>, [u8; 32]) {
    let mut magnitudes = source.clone();
    let mut kept = [0u8; 32];
    for (run, kept) in kept.iter_mut().enumerate() {
        let values = &mut magnitudes.x[8 * run..8 * run + 8];
        for (i, value) in values.iter_mut().enumerate() {
            *kept |= u8::from(*value < 0.0) << i;
            *value = value.abs();
        }
        if signs == Signs::Even && kept.count_ones() % 2 == 1 {
            let weights = &source.w[8 * run..8 * run + 8];
            let cost = |i: &usize| weights[*i] * values[*i] * values[*i];
            let least = (0..8).min_by(|a, b| cost(a).total_cmp(&cost(b)));
            let least = least.unwrap_or(0);
            *kept ^= 1 << least;
            values[least] = -values[least];
        }
    }
    (magnitudes, kept)
}

/// Index of the pattern of `W` values at place `run` of the block.
fn index<const W: usize>(grid: &Grid<W>, block: &Scaled, run: usize) -> u16 {
    grid.index(part::<W>(&block.codes, run))
}

const fn odd(unit: f32, count: u8) -> Steps {
    Steps {
        first: unit,
        step: 2.0 * unit,
        count,
        far: count - 1,
    }
}

const QUARTERS: Steps = odd(0.125, 16);

/// What the furthest magnitude is tried as, where the largest is 43. The smallest, 8, suits
/// values that are all alike.
const PEAKS_2: [f32; 15] = [
    8.0, 23.0, 25.0, 27.5, 30.0, 32.5, 35.0, 37.5, 40.0, 42.5, 45.0, 48.0, 52.0, 57.0, 64.0,
];

fn write_scale(block: &Scaled, to: &mut [u8]) {
    to[..2].copy_from_slice(&block.scale.bits.to_le_bytes());
}

pub(super) fn iq2_xxs(source: &Source<256>, to: &mut [u8]) -> bool {
    let grid = &*IQ2_XXS_GRID;
    let (source, signs) = magnitudes(source, Signs::Even);
    let Some(block) = scaled::<32>(&Magnitudes(grid), &source, &PEAKS_2, &QUARTERS) else {
        return false;
    };
    write_scale(&block, to);
    for (b, to) in to[2..].chunks_exact_mut(8).enumerate() {
        for (j, to) in to[..4].iter_mut().enumerate() {
            *to = index(grid, &block, 4 * b + j) as u8;
        }
        to[4..].copy_from_slice(&signs_and_step(&signs[4 * b..], block.steps[b]));
    }
    true
}

/// Seven signs of four runs, and a scale of four bits on top.
fn signs_and_step(signs: &[u8], step: u8) -> [u8; 4] {
    let words = signs.iter().take(4).enumerate();
    let bits = words.fold(0u32, |bits, (j, signs)| {
        bits | u32::from(signs & 127) << (7 * j)
    });
    (bits | u32::from(step) << 28).to_le_bytes()
}

/// Four bits for each of sixteen groups.
fn nibbles(steps: &[u8; 16], to: &mut [u8]) {
    for (to, two) in to.iter_mut().zip(steps.chunks_exact(2)) {
        *to = two[0] | two[1] << 4;
    }
}

pub(super) fn iq2_xs(source: &Source<256>, to: &mut [u8]) -> bool {
    let grid = &*IQ2_XS_GRID;
    let (source, signs) = magnitudes(source, Signs::Even);
    let Some(block) = scaled::<16>(&Magnitudes(grid), &source, &PEAKS_2, &QUARTERS) else {
        return false;
    };
    write_scale(&block, to);
    for (run, to) in to[2..66].chunks_exact_mut(2).enumerate() {
        let code = index(grid, &block, run) | u16::from(signs[run] & 127) << 9;
        to.copy_from_slice(&code.to_le_bytes());
    }
    nibbles(&block.steps, &mut to[66..74]);
    true
}

pub(super) fn iq2_s(source: &Source<256>, to: &mut [u8]) -> bool {
    let grid = &*IQ2_S_GRID;
    let (source, signs) = magnitudes(source, Signs::All);
    let Some(block) = scaled::<16>(&Magnitudes(grid), &source, &PEAKS_2, &QUARTERS) else {
        return false;
    };
    write_scale(&block, to);
    for run in 0..32 {
        let index = index(grid, &block, run);
        to[2 + run] = index as u8;
        to[66 + run / 4] |= ((index >> 8) as u8) << (2 * (run % 4));
    }
    to[34..66].copy_from_slice(&signs);
    nibbles(&block.steps, &mut to[74..82]);
    true
}

/// What the furthest magnitude is tried as, in eighths of the largest; the first is the
/// smallest, near enough.
const PEAKS_3: [f32; 12] = [0.525, 4.4, 4.9, 5.4, 5.9, 6.3, 6.7, 7.1, 7.5, 7.9, 8.3, 8.8];

pub(super) fn iq3_xxs(source: &Source<256>, to: &mut [u8]) -> bool {
    const STEPS: Steps = odd(0.25, 16);
    let grid = &*IQ3_XXS_GRID;
    let peaks = PEAKS_3.map(|peak| peak * 62.0 / 8.0);
    let (source, signs) = magnitudes(source, Signs::Even);
    let Some(block) = scaled::<32>(&Magnitudes(grid), &source, &peaks, &STEPS) else {
        return false;
    };
    write_scale(&block, to);
    for (run, to) in to[2..66].iter_mut().enumerate() {
        *to = index(grid, &block, run) as u8;
    }
    for (b, to) in to[66..].chunks_exact_mut(4).enumerate() {
        to.copy_from_slice(&signs_and_step(&signs[4 * b..], block.steps[b]));
    }
    true
}

pub(super) fn iq3_s(source: &Source<256>, to: &mut [u8]) -> bool {
    const STEPS: Steps = odd(1.0, 16);
    let grid = &*IQ3_S_GRID;
    let peaks = PEAKS_3.map(|peak| peak * 15.0 / 8.0);
    let (source, signs) = magnitudes(source, Signs::All);
    let Some(block) = scaled::<32>(&Magnitudes(grid), &source, &peaks, &STEPS) else {
        return false;
    };
    write_scale(&block, to);
    for run in 0..64 {
        let index = index(grid, &block, run);
        to[2 + run] = index as u8;
        to[66 + run / 8] |= ((index >> 8) as u8) << (run % 8);
    }
    to[74..106].copy_from_slice(&signs);
    for (b, step) in block.steps.iter().enumerate().take(8) {
        to[106 + b / 2] |= step << (4 * (b % 2));
    }
    true
}

const EIGHT_ODD: Steps = odd(1.0, 8);

/// What the furthest value is tried as, where codes are -1, 0, 1.
const PEAKS_1: [f32; 10] = [0.9, 1.05, 1.2, 1.35, 1.5, 1.7, 1.9, 2.1, 2.4, 2.8];

/// Index of the moved pattern at place `run`, and whether it was moved down.
fn moved(block: &Scaled, run: usize) -> (u16, bool) {
    let pattern = part::<8>(&block.codes, run).map(f32::round);
    let is_down = block.codes[8 * run] < pattern[0];
    (IQ1_GRID.index(&pattern), is_down)
}

pub(super) fn iq1_s(source: &Source<256>, to: &mut [u8]) -> bool {
    let coder = Moved::<32>(&IQ1_GRID);
    let Some(block) = scaled::<32>(&coder, source, &PEAKS_1, &EIGHT_ODD) else {
        return false;
    };
    write_scale(&block, to);
    for b in 0..8 {
        let mut high = u16::from(block.steps[b]) << 12;
        for j in 0..4 {
            let (index, is_down) = moved(&block, 4 * b + j);
            to[2 + 4 * b + j] = index as u8;
            high |= index >> 8 << (3 * j) | u16::from(is_down) << 15;
        }
        to[34 + 2 * b..36 + 2 * b].copy_from_slice(&high.to_le_bytes());
    }
    true
}

pub(super) fn iq1_m(source: &Source<256>, to: &mut [u8]) -> bool {
    let coder = Moved::<8>(&IQ1_GRID);
    let Some(block) = scaled::<16>(&coder, source, &PEAKS_1, &EIGHT_ODD) else {
        return false;
    };
    for run in 0..32 {
        let (index, is_down) = moved(&block, run);
        to[run] = index as u8;
        let bits = (index >> 8) as u8 | u8::from(is_down) << 3;
        to[32 + run / 2] |= bits << (4 * (run % 2));
    }
    let scale = block.scale.bits.to_bits();
    for (i, to) in to[48..56].chunks_exact_mut(2).enumerate() {
        let steps = &block.steps[4 * i..4 * i + 4];
        let steps = steps.iter().enumerate();
        let three = steps.fold(0, |word, (g, step)| word | u16::from(*step) << (3 * g));
        let nibble = scale >> (4 * i) & 15;
        to.copy_from_slice(&(three | nibble << 12).to_le_bytes());
    }
    true
}

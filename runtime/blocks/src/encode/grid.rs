//! Patterns: the one of a table that is nearest to a few values.
//!
//! Each value is rounded to the nearest level first. If that gives a pattern of the table, it
//! is the best one whatever the weights; else the patterns nearest to the rounded ones are
//! compared. Which those are is worked out once for each table.

use std::sync::LazyLock;

use super::fit::{Coder, inverse};
use crate::grids;

/// Patterns that are compared where rounding gives none.
const NEAR: usize = 24;

/// Stands for no pattern.
const NONE: u16 = u16::MAX;

/// A table of patterns of `W` values.
pub(super) struct Grid<const W: usize> {
    /// Where one level ends and the next begins.
    bounds: Vec<f32>,
    patterns: Vec<[f32; W]>,
    /// For each rounded pattern, its index in `patterns`.
    exact: Vec<u16>,
    /// For each rounded pattern, the indices of the nearest ones.
    near: Vec<[u16; NEAR]>,
}

impl<const W: usize> Grid<W> {
    fn new(levels: &[f32], words: &[u16], bits: usize) -> Grid<W> {
        let mask = (1 << bits) - 1;
        let pattern = |word: &u16| -> [f32; W] {
            std::array::from_fn(|i| levels[usize::from(word >> (bits * i) & mask)])
        };
        let mut grid = Grid {
            bounds: levels
                .windows(2)
                .map(|two| (two[0] + two[1]) / 2.0)
                .collect(),
            patterns: words.iter().map(pattern).collect(),
            exact: vec![NONE; levels.len().pow(W as u32)],
            near: Vec::new(),
        };
        for index in 0..grid.patterns.len() {
            let state = grid.state(&grid.patterns[index]);
            grid.exact[state] = index as u16;
        }
        let rows = 0..grid.exact.len();
        grid.near = rows.map(|state| grid.nearest_to(levels, state)).collect();
        grid
    }

    /// The patterns nearest to a rounded one, the nearest first.
    fn nearest_to(&self, levels: &[f32], state: usize) -> [u16; NEAR] {
        if self.exact[state] != NONE {
            return [self.exact[state]; NEAR];
        }
        let mut rest = state;
        let mut rounded = [0f32; W];
        for value in rounded.iter_mut().rev() {
            *value = levels[rest % levels.len()];
            rest /= levels.len();
        }
        let distance = |pattern: &[f32; W]| -> u32 {
            let squares = pattern.iter().zip(&rounded);
            squares.map(|(a, b)| (a - b) * (a - b)).sum::<f32>() as u32
        };
        let patterns = self.patterns.iter().enumerate();
        let mut all: Vec<(u32, u16)> = patterns
            .map(|(index, pattern)| (distance(pattern), index as u16))
            .collect();
        let _ = all.select_nth_unstable(NEAR - 1);
        all.truncate(NEAR);
        all.sort_unstable();
        std::array::from_fn(|i| all[i].1)
    }

    /// The number of a rounded pattern.
    fn state(&self, values: &[f32; W]) -> usize {
        let mut levels = [0u32; W];
        for bound in &self.bounds {
            for (level, value) in levels.iter_mut().zip(values) {
                *level += u32::from(value > bound);
            }
        }
        let count = self.bounds.len() + 1;
        let digits = levels.iter();
        digits.fold(0, |state, level| state * count + *level as usize)
    }

    /// The pattern nearest to `v`.
    fn nearest(&self, v: &[f32; W], w: &[f32; W]) -> &[f32; W] {
        let state = self.state(v);
        let exact = self.exact[state];
        if exact != NONE {
            return &self.patterns[usize::from(exact)];
        }
        let mut best = &self.patterns[0];
        let mut least = f32::INFINITY;
        for index in &self.near[state] {
            let pattern = &self.patterns[usize::from(*index)];
            let mut parts = [0f32; 4];
            for first in (0..W).step_by(4) {
                for lane in 0..4 {
                    let off = v[first + lane] - pattern[first + lane];
                    parts[lane] += w[first + lane] * off * off;
                }
            }
            let error = (parts[0] + parts[2]) + (parts[1] + parts[3]);
            if error < least {
                (best, least) = (pattern, error);
            }
        }
        best
    }

    /// Index of a pattern of the table.
    pub fn index(&self, pattern: &[f32; W]) -> u16 {
        self.exact[self.state(pattern)]
    }
}

const EIGHTS: [f32; 3] = [8.0, 25.0, 43.0];
const IQ3_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const IQ3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

type Table<const W: usize> = LazyLock<Grid<W>>;

pub(super) static IQ2_XXS_GRID: Table<8> = Table::new(|| Grid::new(&EIGHTS, &grids::IQ2XXS, 2));
pub(super) static IQ2_XS_GRID: Table<8> = Table::new(|| Grid::new(&EIGHTS, &grids::IQ2XS, 2));
pub(super) static IQ2_S_GRID: Table<8> = Table::new(|| Grid::new(&EIGHTS, &grids::IQ2S, 2));
pub(super) static IQ3_XXS_GRID: Table<4> = Table::new(|| Grid::new(&IQ3_XXS, &grids::IQ3XXS, 4));
pub(super) static IQ3_S_GRID: Table<4> = Table::new(|| Grid::new(&IQ3_S, &grids::IQ3S, 4));
pub(super) static IQ1_GRID: Table<8> = Table::new(|| Grid::new(&[-1.0, 0.0, 1.0], &grids::IQ1S, 2));

/// Patterns of magnitudes; signs are the caller's.
pub(super) struct Magnitudes<'g, const W: usize>(pub &'g Grid<W>);

impl<const W: usize, const G: usize> Coder<G> for Magnitudes<'_, W> {
    fn code(&self, x: &[f32; G], w: &[f32; G], scale: f32, codes: &mut [f32; G]) {
        let inverse = inverse(scale);
        let runs = x.as_chunks::<W>().0.iter().zip(w.as_chunks::<W>().0);
        for ((x, w), codes) in runs.zip(codes.as_chunks_mut::<W>().0) {
            *codes = *self.0.nearest(&x.map(|x| x * inverse), w);
        }
    }

    /// A magnitude below zero is one whose sign had to be the other.
    fn furthest(&self, x: &[f32; G]) -> f32 {
        x.iter().fold(0f32, |most, x| most.max(*x))
    }
}

/// Patterns of -1, 0, 1, all of `RUN` values moved up or down by an eighth.
pub(super) struct Moved<'g, const RUN: usize>(pub &'g Grid<8>);

/// By how much.
pub(super) const EIGHTH: f32 = 0.125;

impl<const RUN: usize, const G: usize> Coder<G> for Moved<'_, RUN> {
    fn code(&self, x: &[f32; G], w: &[f32; G], scale: f32, codes: &mut [f32; G]) {
        let inverse = inverse(scale);
        let runs = x.as_chunks::<RUN>().0.iter().zip(w.as_chunks::<RUN>().0);
        for ((x, w), codes) in runs.zip(codes.as_chunks_mut::<RUN>().0) {
            let mut least = f32::INFINITY;
            for by in [EIGHTH, -EIGHTH] {
                let v = x.map(|x| x * inverse - by);
                let mut tried = [0f32; RUN];
                let mut error = 0f32;
                let eights = v.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0);
                for ((v, w), tried) in eights.zip(tried.as_chunks_mut::<8>().0) {
                    let pattern = self.0.nearest(v, w);
                    for i in 0..8 {
                        let off = v[i] - pattern[i];
                        error += w[i] * off * off;
                        tried[i] = pattern[i] + by;
                    }
                }
                if error < least {
                    (*codes, least) = (tried, error);
                }
            }
        }
    }

    fn furthest(&self, x: &[f32; G]) -> f32 {
        x[super::largest(x)].abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much is lost against looking at every pattern.
    #[test]
    fn the_compared_patterns_include_nearly_always_the_best() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let grid = &*IQ2_XXS_GRID;
        let (mut ours, mut least) = (0f64, 0f64);
        for _ in 0..2000 {
            let v: [f32; 8] = std::array::from_fn(|_| 50.0 * random());
            let w: [f32; 8] = std::array::from_fn(|_| 0.2 + random());
            let error = |pattern: &[f32; 8]| -> f64 {
                let all = (0..8).map(|i| w[i] * (v[i] - pattern[i]).powi(2));
                all.sum::<f32>().into()
            };
            ours += error(grid.nearest(&v, &w));
            least += grid
                .patterns
                .iter()
                .map(error)
                .fold(f64::INFINITY, f64::min);
        }
        assert!(ours < 1.02 * least, "{ours} {least}");
    }

    #[test]
    fn every_pattern_has_its_index() {
        for (index, pattern) in IQ1_GRID.patterns.iter().enumerate() {
            assert_eq!(usize::from(IQ1_GRID.index(pattern)), index);
        }
        for (index, pattern) in IQ3_S_GRID.patterns.iter().enumerate() {
            assert_eq!(usize::from(IQ3_S_GRID.index(pattern)), index);
        }
    }
}

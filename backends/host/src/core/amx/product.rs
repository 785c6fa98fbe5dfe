//! Products of rows of activations with rows of weights, strip by strip.

use std::arch::x86_64::*;

use super::activations::Division;
use super::tiles::{COLUMNS, HIGH, STRIP, TILE, Tiles};
use super::weights::{Part, Source};
use crate::args::Fault;
use crate::core::Panel;
use crate::core::avx512::transpose;
use crate::core::digits::Line;
use crate::weight::{BLOCK, Matrix, Rows};

/// Steps of a block of columns with one scale.
const SCALED_STEPS: usize = BLOCK / COLUMNS;

/// `Core::dots` with weights from `S`, whose format `w` has.
///
/// # Safety
/// Tiles are allowed.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
pub(super) unsafe fn dots<S: Source>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    assert!(out.len() >= x.count * w.rows && x.k == w.k && x.k > 0);
    let Panel {
        sums,
        digits,
        lines,
        ..
    } = panel;
    let division = Division::new(x, S::ACTIVATIONS);
    let records = division.tiles(x, digits)?;
    let strips = w.rows.div_ceil(STRIP);
    let of_strip = division.groups * division.sum_lines();
    let sums = sums.take(strips * of_strip)?;
    let weights = S::WEIGHTS * Division::STEPS * STRIP;
    let factors = Division::STEPS.div_ceil(SCALED_STEPS) * HIGH;
    let room = lines.take(weights + factors + division.sum_lines())?;
    // SAFETY: the caller's promise.
    let tiles = unsafe { Tiles::configure() };
    let mut strip = Strip {
        tiles: &tiles,
        division,
        records,
        room,
    };
    for chunk in division.chunks() {
        for (i, sums) in sums.chunks_exact_mut(of_strip).enumerate() {
            // SAFETY: the instruction set is this function's.
            unsafe {
                match division.wide {
                    1 => strip.add::<S, 1>(w, i * STRIP, chunk, sums),
                    _ => strip.add::<S, 2>(w, i * STRIP, chunk, sums),
                }
            }
        }
    }
    drop(tiles);
    for (i, sums) in sums.chunks_exact(of_strip).enumerate() {
        write(
            sums,
            &division,
            &mut out[i * STRIP..],
            w.rows,
            x.count,
            i * STRIP,
        );
    }
    Ok(())
}

/// What products of a strip of weight rows need.
struct Strip<'a> {
    tiles: &'a Tiles,
    division: Division,
    records: &'a [Line],
    /// Tiles of weights, then factors of their rows, then sums that wait for factors.
    room: &'a mut [Line],
}

impl Strip<'_> {
    /// Adds the products of a chunk of columns of the weight rows from `first` on.
    ///
    /// # Safety
    /// See [`dots`].
    #[inline(always)]
    unsafe fn add<S: Source, const WIDE: usize>(
        &mut self,
        w: &Matrix<'_>,
        first: usize,
        chunk: (usize, usize),
        sums: &mut [Line],
    ) {
        let (first_step, steps) = chunk;
        let (weights, rest) = self.room.split_at_mut(S::WEIGHTS * Division::STEPS * STRIP);
        let used = STRIP.min(w.rows - first);
        // SAFETY: the caller's promise; there are lines for all rows and steps.
        unsafe {
            for row in 0..used {
                let part = Part {
                    row: first + row,
                    first: first_step,
                    steps,
                };
                S::row(w, &part, weights[row..].as_mut_ptr());
            }
            if used < STRIP {
                for step in weights.chunks_exact_mut(STRIP) {
                    step[used..].fill(Line::default());
                }
            }
            let blocks = if S::SCALED { SCALED_STEPS } else { steps };
            let (factors, waiting) = rest.split_at_mut(steps.div_ceil(SCALED_STEPS) * HIGH);
            if S::SCALED {
                put_factors(w, first..first + used, first_step / SCALED_STEPS, factors);
            }
            let waiting = &mut waiting[..self.division.sum_lines()];
            let groups = sums.chunks_exact_mut(self.division.sum_lines());
            for (group, sums) in groups.enumerate() {
                let records = &self.records[self.division.group(chunk, group)..];
                for (block, done) in (0..steps).step_by(blocks).enumerate() {
                    let some = blocks.min(steps - done);
                    let fresh = first_step == 0 && block == 0;
                    let to = if S::SCALED { &mut *waiting } else { &mut *sums };
                    let mut pairs = [[std::ptr::null(); 2]; 3];
                    for (pair, (a, b)) in pairs.iter_mut().zip(S::MEETINGS) {
                        *pair = [
                            weights[(a * steps + done) * STRIP..].as_ptr(),
                            records[(b * steps + done) * WIDE * TILE..].as_ptr(),
                        ];
                    }
                    self.tiles.multiply::<WIDE>(
                        &pairs[..S::MEETINGS.len()],
                        some,
                        to.as_mut_ptr(),
                        fresh || S::SCALED,
                    );
                    if S::SCALED {
                        let factors = &factors[block * HIGH..][..HIGH];
                        scaled::<WIDE>(waiting, factors, sums, fresh);
                    }
                }
            }
        }
    }
}

/// Factors of weight rows `rows` for the blocks of columns from `first` on, sixteen in a line.
fn put_factors(w: &Matrix<'_>, rows: std::ops::Range<usize>, first: usize, to: &mut [Line]) {
    for (block, to) in to.chunks_exact_mut(HIGH).enumerate() {
        to.fill(Line::default());
        for (i, row) in rows.clone().enumerate() {
            to[i / TILE].0[i % TILE] = w.scale(row, first + block).to_bits();
        }
    }
}

/// Adds `from`, of which each line is a weight row, times the factors of these rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn scaled<const WIDE: usize>(from: &[Line], factors: &[Line], to: &mut [Line], fresh: bool) {
    let mut rows = factors.iter().flat_map(|line| line.0);
    let from = from.chunks_exact(WIDE * TILE);
    let to = to.chunks_exact_mut(WIDE * TILE);
    for (from, to) in from.zip(to) {
        for row in 0..TILE {
            let factor = _mm512_set1_ps(f32::from_bits(rows.next().unwrap_or(0)));
            for tile in 0..WIDE {
                let at = tile * TILE + row;
                // SAFETY: a line each.
                unsafe {
                    let sum = _mm512_load_ps(std::ptr::from_ref(&from[at]).cast());
                    let to = std::ptr::from_mut(&mut to[at]).cast();
                    let before = match fresh {
                        true => _mm512_setzero_ps(),
                        false => _mm512_load_ps(to),
                    };
                    _mm512_store_ps(to, _mm512_fmadd_ps(sum, factor, before));
                }
            }
        }
    }
}

/// Writes the sums of a strip, whose first weight row is the first of `out`.
#[target_feature(enable = "avx512f")]
fn write(
    sums: &[Line],
    division: &Division,
    out: &mut [f32],
    stride: usize,
    count: usize,
    first: usize,
) {
    let mut turned = [Line::default(); TILE];
    for (i, tile) in sums.chunks_exact(TILE).enumerate() {
        let (group, place) = (i / (HIGH * division.wide), i % (HIGH * division.wide));
        let (high, wide) = (place / division.wide, place % division.wide);
        // SAFETY: sixteen lines are read and as many written.
        unsafe { transpose(tile.as_ptr(), 1, turned.as_mut_ptr()) };
        let row = (group * division.wide + wide) * TILE;
        let column = high * TILE;
        let used = stride.saturating_sub(first + column).min(TILE);
        for (r, line) in turned.iter().enumerate().take(count.saturating_sub(row)) {
            if used > 0 {
                let to = &mut out[(row + r) * stride + column..][..used];
                for (to, bits) in to.iter_mut().zip(line.0) {
                    *to = f32::from_bits(bits);
                }
            }
        }
    }
}

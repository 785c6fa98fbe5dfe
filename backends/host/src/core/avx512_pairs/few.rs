//! Few rows of activations: a lane is two columns of a row, and weights stay in the registers in
//! which they became pairs.

use std::arch::x86_64::*;

use super::{Pairs, RECORD, ROW, Wrong};
use crate::args::Fault;
use crate::core::ahead::Ahead;
use crate::core::digits::Line;
use crate::weight::{BLOCK, Elements, Matrix};

/// Weight rows taken at once.
const TILE: usize = 2;
/// How far ahead of the loads weights are asked for, into the second-level cache.
const PREFETCH_BYTES: usize = 4096;

/// Records of rows one after the other, of the next block `step` lines after them.
#[derive(Clone, Copy)]
struct Activations<'a> {
    records: &'a [Line],
    step: usize,
}

/// Products of all rows; records of the `count` rows of a block lie one after the other. False
/// where of some weights too few bits would be left.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
pub(super) unsafe fn dots<P: Pairs, W: Elements>(
    records: &[Line],
    count: usize,
    w: &Matrix<'_>,
    out: &mut [f32],
) -> Result<bool, Fault> {
    let mut first = 0;
    while first < w.rows {
        let shared = w.same_scale(first);
        let stored = w.rows(first, shared)?;
        let mut r = 0;
        while r < count {
            let x = Activations {
                records: records.get(r * RECORD..).unwrap_or_default(),
                step: count * RECORD,
            };
            let out = &mut out[r * w.rows + first..];
            // SAFETY: the caller's promise.
            let done = unsafe {
                match count - r {
                    1 => strip::<P, W, 1>(x, &stored, out, w.rows),
                    2 => strip::<P, W, 2>(x, &stored, out, w.rows),
                    3 => strip::<P, W, 3>(x, &stored, out, w.rows),
                    _ => strip::<P, W, 4>(x, &stored, out, w.rows),
                }
            };
            match done {
                Some(rows) => r += rows,
                None => return Ok(false),
            }
        }
        first += shared;
    }
    Ok(true)
}

/// `R` rows of activations against all rows of `w`, which share scales; returns `R`, or nothing
/// where of some weights too few bits would be left.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
unsafe fn strip<P: Pairs, W: Elements, const R: usize>(
    x: Activations<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    stride: usize,
) -> Option<usize> {
    let blocks = w.k.div_ceil(BLOCK);
    assert!(blocks == 0 || x.records.len() >= (blocks - 1) * x.step + R * RECORD);
    let ahead = Ahead::new(TILE, w.row_bytes, PREFETCH_BYTES);
    let whole = w.rows / TILE * TILE;
    for row in (0..whole).step_by(TILE) {
        // SAFETY: the caller's promise; there are records of all blocks.
        let sums = unsafe { tile::<P, W, R, TILE>(x, w, row, ahead) }?;
        for (r, sums) in sums.into_iter().enumerate() {
            out[r * stride + row..][..TILE].copy_from_slice(&sums);
        }
    }
    for row in whole..w.rows {
        // SAFETY: as above.
        let sums = unsafe { tile::<P, W, R, 1>(x, w, row, ahead) }?;
        for (r, [sum]) in sums.into_iter().enumerate() {
            out[r * stride + row] = sum;
        }
    }
    Some(R)
}

/// Products of `R` rows of activations and `C` weight rows from row `first` on, unless too few bits
/// would be left of weights.
///
/// # Safety
/// See [`Pairs`]; there are records of all blocks.
#[inline(always)]
unsafe fn tile<P: Pairs, W: Elements, const R: usize, const C: usize>(
    x: Activations<'_>,
    w: &Matrix<'_>,
    first: usize,
    ahead: Ahead,
) -> Option<[[f32; C]; R]> {
    let rows: [*const u8; C] = std::array::from_fn(|c| w.row::<W>(first + c).as_ptr());
    // SAFETY: the caller's promise; weights beyond the last column are not read, and a prefetch
    // may have any address.
    unsafe {
        let tables = P::tables();
        // Unrolled, the loop over halves needs more registers than there are.
        let halves = std::hint::black_box(2);
        let mut totals = [[_mm512_setzero_ps(); C]; R];
        let mut wrong = [Wrong::default(); C];
        for block in 0..w.k.div_ceil(BLOCK) {
            let records = x.records.as_ptr().add(block * x.step);
            let mut worst = [_mm512_setzero_si512(); C];
            let mut sums = [[_mm512_setzero_si512(); C]; R];
            for half in 0..halves {
                let at = block * BLOCK + 64 * half;
                let next = ahead.at(at * W::BYTES);
                for c in 0..C {
                    let from = rows[c].wrapping_add(at * W::BYTES);
                    for line in 0..W::BYTES {
                        let asked = from.wrapping_add(next + 64 * line);
                        _mm_prefetch::<_MM_HINT_T1>(asked.cast());
                    }
                    let left = w.k.saturating_sub(at);
                    let weights = P::weights(&tables, from, left, &mut worst[c]);
                    for i in 0..2 {
                        for r in 0..R {
                            let x = records.add(r * RECORD + 2 * half + i);
                            let x = _mm512_load_si512(x.cast());
                            sums[r][c] = P::dot(sums[r][c], weights[i], x);
                        }
                    }
                }
            }
            for c in 0..C {
                let block = P::wrong(worst[c]);
                wrong[c].no_number |= block.no_number;
                wrong[c].small |= block.small;
            }
            let scale = _mm512_set1_ps(w.scale(0, block) / P::UNIT);
            for r in 0..R {
                let one = _mm512_load_ps(records.add(r * RECORD + ROW).cast());
                let factor = _mm512_mul_ps(one, scale);
                for c in 0..C {
                    let sum = P::total(sums[r][c]);
                    totals[r][c] = _mm512_fmadd_ps(sum, factor, totals[r][c]);
                }
            }
        }
        let mut out = [[f32::NAN; C]; R];
        for c in 0..C {
            if wrong[c].small {
                return None;
            }
            if !wrong[c].no_number {
                for r in 0..R {
                    out[r][c] = _mm512_reduce_add_ps(totals[r][c]);
                }
            }
        }
        Some(out)
    }
}

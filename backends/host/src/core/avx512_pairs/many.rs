//! Many rows of activations: panels of sixteen weight rows, so that a lane is a weight
//! row, and an instruction multiplies two columns of it by two activations of a row.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Pairs, RECORD, ROW};
use crate::args::Fault;
use crate::core::Grown;
use crate::core::ahead::Ahead;
use crate::core::avx512::transpose;
use crate::core::digits::Line;
use crate::weight::{BLOCK, Elements, Matrix};

/// Weight rows of a panel, and panels that are multiplied at once.
pub(super) const ROWS: usize = 16;
pub(super) const PANELS: usize = 2;
/// Lines of a panel: two columns of all rows in each, then the factors of the rows.
pub(super) const PAIRS: usize = BLOCK / 2;
pub(super) const FACTORS: usize = PAIRS;
pub(super) const LINES: usize = PAIRS + 1;

/// How far ahead of the loads weights are asked for, in columns of each row.
const AHEAD: usize = 2 * BLOCK;

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
    room: &mut Grown<Line>,
) -> Result<bool, Fault> {
    if w.k == 0 {
        out[..count * w.rows].fill(0.0);
    }
    let lines = room.take(PANELS * LINES + ROWS * ROW)?;
    let (panels, loose) = lines.split_at_mut(PANELS * LINES);
    for first in (0..w.rows).step_by(PANELS * ROWS) {
        let used = w.rows.min(first + PANELS * ROWS) - first;
        for block in 0..w.k.div_ceil(BLOCK) {
            let records = &records[block * count * RECORD..];
            let to = To {
                stride: w.rows,
                used,
                fresh: block == 0,
                pairs: pairs(w.k - block * BLOCK),
            };
            let out = &mut out[first..];
            // SAFETY: the caller's promise.
            unsafe {
                let some = panels.chunks_exact_mut(LINES).take(used.div_ceil(ROWS));
                for (i, panel) in some.enumerate() {
                    let rows = [i, i + 1].map(|i| (first + i * ROWS).min(w.rows));
                    if !pack::<P, W>(w, rows[0]..rows[1], block, loose, panel) {
                        return Ok(false);
                    }
                }
                all::<P>(panels, records, count, out, to);
            }
        }
    }
    Ok(true)
}

/// Block `block` of weight rows `rows` as a panel; rows that are missing count nothing. False
/// where of a row too few bits would be left.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
unsafe fn pack<P: Pairs, W: Elements>(
    w: &Matrix<'_>,
    rows: Range<usize>,
    block: usize,
    loose: &mut [Line],
    panel: &mut [Line],
) -> bool {
    assert!(loose.len() == ROWS * ROW && panel.len() == LINES && rows.len() <= ROWS);
    loose[rows.len() * ROW..].fill(Line::default());
    let mut factors = [0.0f32; ROWS];
    let first = block * BLOCK;
    let count = BLOCK.min(w.k - first);
    // The rows after those that share panels come next.
    let next = Ahead::new(PANELS * ROWS, w.row_bytes, AHEAD * W::BYTES).at(first * W::BYTES);
    // SAFETY: the caller's promise; so many weights are left of each row, and lines of a row are
    // written.
    unsafe {
        let tables = P::tables();
        for ((row, to), factor) in rows.zip(loose.as_chunks_mut::<ROW>().0).zip(&mut factors) {
            let from = w.row::<W>(row)[first * W::BYTES..].as_ptr();
            let mut worst = _mm512_setzero_si512();
            for half in 0..2 {
                let from = from.wrapping_add(64 * half * W::BYTES);
                for line in 0..W::BYTES {
                    let asked = from.wrapping_add(next + 64 * line);
                    _mm_prefetch::<_MM_HINT_T1>(asked.cast());
                }
                let left = count.saturating_sub(64 * half);
                let weights = P::weights(&tables, from, left, &mut worst);
                for i in 0..2 {
                    _mm512_store_si512(to.as_mut_ptr().add(2 * half + i).cast(), weights[i]);
                }
            }
            let wrong = P::wrong(worst);
            if wrong.small {
                return false;
            }
            *factor = match wrong.no_number {
                true => f32::NAN,
                false => w.scale(row, block) / P::UNIT,
            };
        }
        turn(loose, factors, panel);
    }
    true
}

/// Makes a panel of the lines of sixteen rows, and of their factors.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
pub(super) unsafe fn turn(loose: &[Line], factors: [f32; ROWS], panel: &mut [Line]) {
    assert!(loose.len() == ROWS * ROW && panel.len() == LINES);
    panel[FACTORS] = Line(factors.map(f32::to_bits));
    for i in 0..ROW {
        // SAFETY: the caller's promise; sixteen lines are read, as many apart as a row has, and as
        // many written.
        unsafe { transpose(loose.as_ptr().add(i), ROW, panel.as_mut_ptr().add(ROWS * i)) };
    }
}

/// Lines of a panel in which `columns` columns lie: all, or those of the first half.
pub(super) fn pairs(columns: usize) -> usize {
    if columns <= BLOCK / 2 {
        PAIRS / 2
    } else {
        PAIRS
    }
}

/// Where sums of a block go.
#[derive(Clone, Copy)]
pub(in crate::core) struct To {
    /// From one row of activations to the next.
    pub stride: usize,
    /// Weight rows that there are.
    pub used: usize,
    /// Nothing is there yet.
    pub fresh: bool,
    /// Lines of a panel that are multiplied.
    pub pairs: usize,
}

/// All rows of activations with the panels in which there are weight rows.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
pub(super) unsafe fn all<P: Pairs>(
    panels: &[Line],
    records: &[Line],
    count: usize,
    out: &mut [f32],
    to: To,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match to.used > ROWS {
            true => tiles::<P, PANELS>(panels, records, count, out, to),
            false => tiles::<P, 1>(panels, records, count, out, to),
        }
    }
}

/// All rows of activations with `C` panels.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
unsafe fn tiles<P: Pairs, const C: usize>(
    panels: &[Line],
    records: &[Line],
    count: usize,
    out: &mut [f32],
    to: To,
) {
    assert!(panels.len() >= C * LINES && records.len() >= count * RECORD);
    assert!(to.pairs <= PAIRS && to.used <= C * ROWS);
    assert!(out.len() >= count.saturating_sub(1) * to.stride + to.used);
    let mut r = 0;
    while r < count {
        let (panels, records) = (panels.as_ptr(), records[r * RECORD..].as_ptr());
        let out = out[r * to.stride..].as_mut_ptr();
        // SAFETY: the caller's promise; rows r.. have records and outputs in each arm.
        unsafe {
            r += match count - r {
                1 => P::tile::<C, 1>(panels, records, out, to),
                2 | 3 => P::tile::<C, 2>(panels, records, out, to),
                4..8 => P::tile::<C, 4>(panels, records, out, to),
                8..12 => P::tile::<C, 8>(panels, records, out, to),
                _ => P::tile::<C, 12>(panels, records, out, to),
            };
        }
    }
}

/// `R` rows of activations with `C` panels; returns `R`.
///
/// # Safety
/// See [`Pairs`]; there are lines of `C` panels, and records and outputs of `R` rows.
#[inline(always)]
pub(super) unsafe fn tile<P: Pairs, const C: usize, const R: usize>(
    panels: *const Line,
    records: *const Line,
    out: *mut f32,
    to: To,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); C]; R];
        for pair in 0..to.pairs {
            let mut weights = [_mm512_setzero_si512(); C];
            for c in 0..C {
                weights[c] = _mm512_load_si512(panels.add(c * LINES + pair).cast());
            }
            for r in 0..R {
                let words = records.add(r * RECORD).cast::<i32>();
                let two = _mm512_set1_epi32(words.add(pair).read());
                for c in 0..C {
                    sums[r][c] = P::dot(sums[r][c], weights[c], two);
                }
            }
        }
        for c in 0..C {
            let mask = !0u16 >> (ROWS - ROWS.min(to.used - c * ROWS));
            let factors = _mm512_load_ps(panels.add(c * LINES + FACTORS).cast());
            for r in 0..R {
                let scale = _mm512_load_ps(records.add(r * RECORD + ROW).cast());
                let out = out.add(r * to.stride + c * ROWS);
                let before = match to.fresh {
                    true => _mm512_setzero_ps(),
                    false => _mm512_maskz_loadu_ps(mask, out),
                };
                let sum = _mm512_mul_ps(P::total(sums[r][c]), factors);
                _mm512_mask_storeu_ps(out, mask, _mm512_fmadd_ps(sum, scale, before));
            }
        }
        R
    }
}

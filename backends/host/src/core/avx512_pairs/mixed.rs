//! Products of two matrices of `f32` as pairs. Those that add up rows of weights have activations
//! that are factors of whole rows, of which two neighbours share a line; weights become integers as
//! activations do, with a scale for each column of up to 128 rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::integers::{Integers, LEAST, MOST_WEIGHT};
use super::many::{self, FACTORS, LINES, PANELS, ROWS, To};
use super::{Pairs, RECORD, ROW, records};
use crate::args::Fault;
use crate::core::digits::Line;
use crate::core::{Grown, Panel};
use crate::weight::{BLOCK, F32, Matrix, Rows};

/// `Core::rough_mix`.
///
/// # Safety
/// See [`Pairs`], of which [`Integers`] are used.
#[inline(always)]
pub(in crate::core) unsafe fn mix(
    (p, some): (Rows<'_>, Range<usize>),
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Panel,
) -> Result<(), Fault> {
    assert!(p.k == w.rows && some.end <= p.count);
    let Panel { digits, lines, .. } = panel;
    // SAFETY: the caller's promise.
    unsafe {
        let records = Records {
            lines: records::<Integers>(p, digits)?,
            count: p.count,
            some,
        };
        let sums = Sums {
            columns: w.k,
            stride: w.k,
            depth: w.rows,
            fresh: false,
        };
        all::<false>(records, w, out, sums, lines)
    }
}

/// `Core::rough_dots`.
///
/// # Safety
/// See [`mix`].
#[inline(always)]
pub(in crate::core) unsafe fn dots(
    x: Rows<'_>,
    w: &Matrix<'_>,
    (out, stride): (&mut [f32], usize),
    panel: &mut Panel,
) -> Result<(), Fault> {
    assert!(x.k == w.k && stride >= w.rows);
    let Panel { digits, lines, .. } = panel;
    // SAFETY: the caller's promise.
    unsafe {
        let records = Records {
            lines: records::<Integers>(x, digits)?,
            count: x.count,
            some: 0..x.count,
        };
        let sums = Sums {
            columns: w.rows,
            stride,
            depth: w.k,
            fresh: true,
        };
        all::<true>(records, w, out, sums, lines)
    }
}

/// Records of `count` rows, those of a block one after the other, of which `some` are used.
struct Records<'a> {
    lines: &'a [Line],
    count: usize,
    some: Range<usize>,
}

/// Sums to be made.
#[derive(Clone, Copy)]
struct Sums {
    columns: usize,
    /// From one row to the next.
    stride: usize,
    /// Products of a sum.
    depth: usize,
    /// Nothing is there yet.
    fresh: bool,
}

/// Products with the rows of `w` (`BY_ROWS`), or with its columns.
///
/// # Safety
/// See [`mix`].
#[inline(always)]
unsafe fn all<const BY_ROWS: bool>(
    x: Records<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    sums: Sums,
    room: &mut Grown<Line>,
) -> Result<(), Fault> {
    let room = room.take(PANELS * LINES + ROWS * ROW)?;
    let (panels, loose) = room.split_at_mut(PANELS * LINES);
    for first in (0..sums.columns).step_by(PANELS * ROWS) {
        for block in 0..sums.depth.div_ceil(BLOCK) {
            let at = block * BLOCK;
            let to = To {
                stride: sums.stride,
                used: sums.columns.min(first + PANELS * ROWS) - first,
                fresh: sums.fresh && block == 0,
                pairs: many::pairs(sums.depth - at),
            };
            let records = &x.lines[(block * x.count + x.some.start) * RECORD..];
            let (count, out) = (x.some.len(), &mut out[first..]);
            // SAFETY: the caller's promise.
            unsafe {
                let some = panels.chunks_exact_mut(LINES);
                for (i, panel) in some.take(to.used.div_ceil(ROWS)).enumerate() {
                    match BY_ROWS {
                        true => pack_rows(w, first + i * ROWS, at, loose, panel),
                        false => pack(w, at, first + i * ROWS, panel, to.pairs),
                    }
                }
                many::all::<Integers>(panels, records, count, out, to);
            }
        }
    }
    Ok(())
}

/// Up to 128 columns from `column` on of up to sixteen rows from row `first` on, as a panel; what is
/// missing counts nothing.
///
/// # Safety
/// See [`mix`].
#[inline(always)]
unsafe fn pack_rows(
    w: &Matrix<'_>,
    first: usize,
    column: usize,
    loose: &mut [Line],
    panel: &mut [Line],
) {
    assert!(loose.len() == ROWS * ROW && panel.len() == LINES);
    assert!(w.bytes.as_ptr().cast::<f32>().is_aligned() && w.row_bytes.is_multiple_of(4));
    let used = w.rows.saturating_sub(first).min(ROWS);
    loose[used * ROW..].fill(Line::default());
    let mut factors = [0.0f32; ROWS];
    let count = BLOCK.min(w.k - column);
    // SAFETY: the caller's promise; so many columns are left of each row.
    unsafe {
        for (i, to) in loose.as_chunks_mut::<ROW>().0[..used]
            .iter_mut()
            .enumerate()
        {
            let from = w.row::<F32>(first + i).as_ptr().cast::<f32>().add(column);
            factors[i] = Integers::activations(std::slice::from_raw_parts(from, count), to);
        }
        many::turn(loose, factors, panel);
    }
}

/// Up to 128 rows from row `first` on of up to sixteen columns from `column` on, as a panel; what
/// is missing counts nothing.
///
/// # Safety
/// See [`mix`].
#[inline(always)]
unsafe fn pack(w: &Matrix<'_>, first: usize, column: usize, panel: &mut [Line], pairs: usize) {
    assert!(panel.len() == LINES);
    let used = w.k.saturating_sub(column).min(ROWS);
    let mask = (!0u32 << used) as u16 ^ !0;
    let rows = BLOCK.min(w.rows - first);
    // SAFETY: the caller's promise; masked columns are not read.
    unsafe {
        let mut largest = _mm512_setzero_si512();
        for r in 0..rows {
            largest = _mm512_max_epu32(
                largest,
                _mm512_castps_si512(_mm512_abs_ps(load(w, first + r, column, mask))),
            );
        }
        let infinite = _mm512_set1_epi32(f32::INFINITY.to_bits() as i32);
        let finite = _mm512_cmplt_epu32_mask(largest, infinite);
        let largest = _mm512_max_ps(_mm512_castsi512_ps(largest), _mm512_set1_ps(LEAST));
        let most = _mm512_set1_ps(MOST_WEIGHT as f32);
        let factor = _mm512_div_ps(most, largest);
        let one = _mm512_mask_div_ps(_mm512_set1_ps(f32::NAN), finite, largest, most);
        _mm512_store_ps(panel.as_mut_ptr().add(FACTORS).cast(), one);
        for (line, panel) in panel[..pairs].iter_mut().enumerate() {
            let r = Integers::column(line);
            let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            if r < rows {
                let row = load(w, first + r, column, mask);
                low = _mm512_cvtps_epi32(_mm512_mul_ps(row, factor));
            }
            if r + 1 < rows {
                let row = load(w, first + r + 1, column, mask);
                high = _mm512_cvtps_epi32(_mm512_mul_ps(row, factor));
            }
            let high = _mm512_slli_epi32::<16>(high);
            let both = _mm512_mask_blend_epi16(0xAAAA_AAAA, low, high);
            _mm512_store_si512(std::ptr::from_mut(panel).cast(), both);
        }
    }
}

/// Sixteen columns of a row, of which those in `mask` are read; the others are 0.
///
/// # Safety
/// See [`mix`]; the row has the columns in `mask`.
#[inline(always)]
unsafe fn load(w: &Matrix<'_>, row: usize, column: usize, mask: u16) -> __m512 {
    let from = w.row::<F32>(row).as_ptr().cast::<f32>();
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_ps(mask, from.wrapping_add(column)) }
}

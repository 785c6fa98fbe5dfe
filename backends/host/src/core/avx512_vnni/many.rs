//! Many rows of activations: a panel of sixteen weight rows, four columns after four, so that
//! a lane is a weight row and an instruction multiplies them by four activations of a row.
//!
//! 32 (or 16) columns are added in integers, then multiplied by the sixteen factors.

use std::arch::x86_64::*;

use super::format::{Format, GROUPS, Minima};
use super::split::{self, Record};
use super::stored::Stored;
use crate::args::Fault;
use crate::core::Grown;
use crate::core::avx512::transpose;
use crate::core::digits::Line;

/// Weight rows of a panel.
const ROWS: usize = 16;
/// Lines of a panel: codes of 64 times four columns, factors, minima.
const FACTORS: usize = 64;
const MINIMA: usize = FACTORS + GROUPS;
const LINES: usize = MINIMA + GROUPS;
/// Rows of activations of a tile; of three digits half as many, which have two sums each.
const TILE: usize = 8;

/// Sums of products for all rows; records of the `count` rows of a span lie one after the
/// other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dots<F: Format, const D: usize>(
    records: &[Line],
    count: usize,
    w: &Stored<'_>,
    out: &mut [f32],
    room: &mut Grown<Line>,
) -> Result<(), Fault> {
    let rows = w.rows();
    assert!(out.len() >= count * rows && records.len() >= w.spans * count * Record::lines(D));
    let lines = room.take(LINES + ROWS * 6)?;
    let (panel, loose) = lines.split_at_mut(LINES);
    for first in (0..rows).step_by(ROWS) {
        let used = ROWS.min(rows - first);
        let mask = (!0u16) >> (ROWS - used);
        for index in 0..w.spans {
            pack::<F>(w, first..first + used, index, loose, panel);
            let records = &records[index * count * Record::lines(D)..];
            let mut r = 0;
            while r < count {
                let records = records[r * Record::lines(D)..].as_ptr();
                let out = out[r * rows + first..].as_mut_ptr();
                // SAFETY: rows r.. have records and outputs in each arm.
                unsafe {
                    let to = To {
                        out,
                        stride: rows,
                        mask,
                        fresh: index == 0,
                        groups: w.groups(index),
                    };
                    r += match count - r {
                        1 => tile::<F, D, 1>(panel, records, to),
                        2 | 3 => tile::<F, D, 2>(panel, records, to),
                        4..TILE => tile::<F, D, 4>(panel, records, to),
                        _ if D == 3 => tile::<F, D, 4>(panel, records, to),
                        _ => tile::<F, D, TILE>(panel, records, to),
                    };
                }
            }
        }
    }
    Ok(())
}

/// Span `index` of weight rows `rows` as a panel; rows that are missing count nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn pack<F: Format>(
    w: &Stored<'_>,
    rows: std::ops::Range<usize>,
    index: usize,
    loose: &mut [Line],
    panel: &mut [Line],
) {
    assert!(loose.len() == ROWS * 6 && panel.len() == LINES);
    loose[rows.len() * 6..].fill(Line::default());
    for (row, lines) in rows.zip(loose.as_chunks_mut::<6>().0) {
        let to = lines.as_mut_ptr();
        // SAFETY: six lines are written.
        unsafe {
            // The next span of all rows comes when these are multiplied.
            let span = w.span::<F>(row, index, F::BYTES);
            for (i, codes) in span.codes.into_iter().enumerate() {
                _mm512_store_si512(to.add(i).cast(), codes);
            }
            _mm512_store_ps(to.add(4).cast(), span.factors);
            _mm512_store_ps(to.add(5).cast(), span.minima);
        }
    }
    let lines = if F::MINIMA == Minima::Sixteens { 6 } else { 5 };
    for (i, panel) in panel.chunks_exact_mut(ROWS).take(lines).enumerate() {
        // SAFETY: sixteen lines are read, six apart, and as many written.
        unsafe { transpose(loose.as_ptr().add(i), 6, panel.as_mut_ptr()) };
    }
}

/// Where sums of a span go.
struct To {
    /// The first.
    out: *mut f32,
    /// From one row of activations to the next.
    stride: usize,
    /// Which of sixteen.
    mask: u16,
    /// Nothing is there yet.
    fresh: bool,
    /// Sixteens of columns of the span.
    groups: usize,
}

/// `R` rows of activations with a panel; returns `R`.
///
/// # Safety
/// There are records and outputs of `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<F: Format, const D: usize, const R: usize>(
    panel: &[Line],
    records: *const Line,
    to: To,
) -> usize {
    assert!(panel.len() == LINES);
    // SAFETY: the caller's promise, and lines of a panel below `LINES`.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); R];
        for pair in 0..GROUPS / 2 {
            if 2 * pair >= to.groups {
                break;
            }
            if F::WIDE {
                group::<F, D, R, 8>(panel.as_ptr(), records, 2 * pair, &mut sums);
            } else {
                group::<F, D, R, 4>(panel.as_ptr(), records, 2 * pair, &mut sums);
                group::<F, D, R, 4>(panel.as_ptr(), records, 2 * pair + 1, &mut sums);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            let record = records.add(r * Record::lines(D));
            let scale = _mm512_load_ps(record.add(Record::scale(D)).cast());
            let out = to.out.add(r * to.stride);
            let before = match to.fresh {
                true => _mm512_setzero_ps(),
                false => _mm512_maskz_loadu_ps(to.mask, out),
            };
            _mm512_mask_storeu_ps(out, to.mask, _mm512_fmadd_ps(sum, scale, before));
        }
    }
    R
}

/// Adds the products of columns from sixteen number `group` on, `Q` times four.
///
/// # Safety
/// See [`tile`].
#[inline(always)]
unsafe fn group<F: Format, const D: usize, const R: usize, const Q: usize>(
    panel: *const Line,
    records: *const Line,
    group: usize,
    sums: &mut [__m512; R],
) {
    let at: [usize; Q] = std::array::from_fn(|q| 4 * F::PLACES[group + q / 4] + q % 4);
    // SAFETY: the caller's promise.
    unsafe {
        let mut codes = [_mm512_setzero_si512(); Q];
        for q in 0..Q {
            codes[q] = _mm512_load_si512(panel.add(at[q]).cast());
        }
        let word = |r: usize, line: usize, word: usize| {
            let line = records.add(r * Record::lines(D) + line);
            line.cast::<i32>().add(word).read()
        };
        // Of three digits the highest has a sum of its own: together 32 products would take
        // 34 bits.
        let mut highest = [_mm512_setzero_si512(); R];
        let mut products = [_mm512_setzero_si512(); R];
        let lane = F::LANES[group];
        if split::begins::<F, D>() {
            for r in 0..R {
                products[r] = _mm512_set1_epi32(word(r, Record::sums(D), lane));
            }
        }
        for digit in 0..D {
            if D == 3 && digit == 1 {
                highest = products;
                products = [_mm512_setzero_si512(); R];
            } else if digit > 0 {
                for sum in &mut products {
                    *sum = _mm512_slli_epi32::<8>(*sum);
                }
            }
            for q in 0..Q {
                for r in 0..R {
                    let four = _mm512_set1_epi32(word(r, 4 * digit, at[q]));
                    products[r] = _mm512_dpbusd_epi32(products[r], codes[q], four);
                }
            }
        }
        let factors = _mm512_load_ps(panel.add(FACTORS + lane).cast());
        let (line, lane) = match F::MINIMA {
            Minima::Offset => (FACTORS + lane, lane),
            Minima::Sixteens => (MINIMA + lane, lane),
            Minima::Odd | Minima::OddAdded => (FACTORS + lane + 1, lane + 1),
        };
        let minima = _mm512_load_ps(panel.add(line).cast());
        for r in 0..R {
            let mut product = _mm512_cvtepi32_ps(products[r]);
            if D == 3 {
                let highest = _mm512_cvtepi32_ps(highest[r]);
                product = _mm512_fmadd_ps(highest, _mm512_set1_ps(65536.0), product);
            }
            sums[r] = _mm512_fmadd_ps(product, factors, sums[r]);
            if !split::begins::<F, D>() {
                let sum = f32::from_bits(word(r, Record::sums(D), lane) as u32);
                sums[r] = _mm512_fmadd_ps(minima, _mm512_set1_ps(sum), sums[r]);
            }
        }
    }
}

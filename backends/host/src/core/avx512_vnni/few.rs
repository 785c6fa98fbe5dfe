//! Few rows of activations: weights stay in the registers they are taken apart in.
//!
//! A lane is four columns of a row. The digits' products are added in integers, highest digit
//! first, so that a factor is applied once to all of them.

use std::arch::x86_64::*;

use super::format::{Format, GROUPS, Span};
use super::split::{self, Record};
use super::stored::Stored;
use crate::core::ahead::Ahead;
use crate::core::avx512::four_totals;
use crate::core::digits::Line;

/// How far ahead of the loads weights are asked for, in each row.
const PREFETCH_BYTES: usize = 1024;
/// Spans up to which weight rows are read one by one, as the memory likes it: with 1536 columns
/// 18 GB/s so and 10 with two or four at a time. Records of longer rows of activations do not
/// stay in the first cache, and are read less often for four rows at a time.
const SHORT: usize = 8;
/// Spans up to which the ends of rows cost more than that: four rows then share theirs.
const SHORTEST: usize = 2;

/// Products of all rows; records of the `count` rows of a span lie one after the other.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dots<F: Format, const D: usize>(
    records: &[Line],
    count: usize,
    w: &Stored<'_>,
    out: &mut [f32],
) {
    let (rows, step) = (w.rows(), count * Record::lines(D));
    assert!(out.len() >= count * rows && records.len() >= w.spans * step);
    let mut r = 0;
    while r < count {
        let records = records[r * Record::lines(D)..].as_ptr();
        let out = &mut out[r * rows..];
        // SAFETY: rows r.. have records in each arm.
        unsafe {
            r += match count - r {
                1 if w.spans <= SHORTEST => strip::<F, D, 1, 4>(records, step, w, out),
                1 if w.spans <= SHORT => strip::<F, D, 1, 1>(records, step, w, out),
                1 => strip::<F, D, 1, 4>(records, step, w, out),
                2 | 3 => strip::<F, D, 2, 2>(records, step, w, out),
                _ => strip::<F, D, 4, 1>(records, step, w, out),
            };
        }
    }
}

/// `R` rows of activations against all weight rows, `C` at a time; returns `R`.
///
/// # Safety
/// See [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn strip<F: Format, const D: usize, const R: usize, const C: usize>(
    records: *const Line,
    step: usize,
    w: &Stored<'_>,
    out: &mut [f32],
) -> usize {
    let rows = w.rows();
    let whole = rows / C * C;
    let mut put = |r: usize, first: usize, sums: &[f32]| {
        out[r * rows + first..][..sums.len()].copy_from_slice(sums);
    };
    for first in (0..whole).step_by(C) {
        // SAFETY: the caller's promise.
        let sums = unsafe { tile::<F, D, R, C>(records, step, w, first) };
        (0..R).for_each(|r| put(r, first, &sums[r]));
    }
    for first in whole..rows {
        // SAFETY: as above.
        let sums = unsafe { tile::<F, D, R, 1>(records, step, w, first) };
        (0..R).for_each(|r| put(r, first, &sums[r]));
    }
    R
}

/// Dot products of `R` rows of activations, records of which lie `step` lines apart for each
/// span, and `C` weight rows from row `first` on.
///
/// # Safety
/// There are records of all spans of these rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn tile<F: Format, const D: usize, const R: usize, const C: usize>(
    records: *const Line,
    step: usize,
    w: &Stored<'_>,
    first: usize,
) -> [[f32; C]; R] {
    // SAFETY: the caller has a record for each span and row.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        let ahead = Ahead::new(C, w.row_bytes(), PREFETCH_BYTES);
        for index in 0..w.spans {
            let mut spans = [Span::NOTHING; C];
            for c in 0..C {
                spans[c] = w.span::<F>(first + c, index, ahead.at(index * F::BYTES));
            }
            let records = records.add(index * step);
            match w.groups(index) > GROUPS / 2 {
                true => add::<F, D, R, C, 4>(&spans, records, &mut sums),
                // In every order the first 128 columns are the first 128 codes.
                false => add::<F, D, R, C, 2>(&spans, records, &mut sums),
            }
        }
        let mut totals = [[0.0; C]; R];
        for r in 0..R {
            match sums[r].as_slice() {
                [a, b, c, d] => {
                    let four = four_totals([*a, *b, *c, *d]);
                    _mm_storeu_ps(totals[r].as_mut_ptr(), four);
                }
                _ => {
                    for c in 0..C {
                        totals[r][c] = _mm512_reduce_add_ps(sums[r][c]);
                    }
                }
            }
        }
        totals
    }
}

/// Adds the products of the first `CHUNKS` times 64 columns.
///
/// # Safety
/// See [`tile`].
#[inline(always)]
unsafe fn add<F: Format, const D: usize, const R: usize, const C: usize, const CHUNKS: usize>(
    spans: &[Span; C],
    records: *const Line,
    sums: &mut [[__m512; C]; R],
) {
    // SAFETY: the caller's promise; lines are aligned.
    unsafe {
        let line = |r: usize, line: usize| records.add(r * Record::lines(D) + line);
        let mut parts = [[_mm512_setzero_ps(); C]; R];
        for chunk in 0..CHUNKS {
            let spread = _mm512_loadu_si512(const { &F::SPREAD }[chunk].as_ptr().cast());
            let mut factors = [_mm512_setzero_ps(); C];
            for c in 0..C {
                factors[c] = _mm512_permutexvar_ps(spread, spans[c].factors);
            }
            for r in 0..R {
                for c in 0..C {
                    let mut sum = _mm512_setzero_si512();
                    for digit in 0..D {
                        if digit > 0 {
                            sum = _mm512_slli_epi32::<8>(sum);
                        }
                        let digits = _mm512_load_si512(line(r, 4 * digit + chunk).cast());
                        sum = _mm512_dpbusd_epi32(sum, spans[c].codes[chunk], digits);
                    }
                    let sum = _mm512_cvtepi32_ps(sum);
                    parts[r][c] = _mm512_fmadd_ps(sum, factors[c], parts[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let sums_of = line(r, Record::sums(D));
                let least = match split::begins::<F, D>() {
                    true => _mm512_cvtepi32_ps(_mm512_load_si512(sums_of.cast())),
                    false => _mm512_load_ps(sums_of.cast()),
                };
                let part = _mm512_fmadd_ps(spans[c].minima, least, parts[r][c]);
                let scale = _mm512_load_ps(line(r, Record::scale(D)).cast());
                sums[r][c] = _mm512_fmadd_ps(part, scale, sums[r][c]);
            }
        }
    }
}

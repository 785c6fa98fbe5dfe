//! `Core::mix` of E4M3 weights by look-ups, for few rows of factors: the absorbed projections of
//! decoding.

use std::arch::x86_64::*;

use super::{Codes, GROUP, load_codes, quarters, weights};
use crate::weight::{BLOCK, Elements, Matrix, Rows};

/// How many weight rows ahead of the loads weights are asked for.
const AHEAD: usize = 16;

/// All rows of `p`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
pub(super) fn few<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
    let codes = load_codes();
    let mut r = 0;
    while r < p.count {
        let out = &mut out[r * w.k..];
        r += match p.count - r {
            1 => rows::<W, 1, 4>(p.rows(r, 1), w, &codes, out),
            2 | 3 => rows::<W, 2, 2>(p.rows(r, 2), w, &codes, out),
            _ => rows::<W, 4, 1>(p.rows(r, 4), w, &codes, out),
        };
    }
}

/// `R` rows of `p`, `G` times 64 columns at a time; returns `R`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn rows<W: Elements, const R: usize, const G: usize>(
    p: Rows<'_>,
    w: &Matrix<'_>,
    codes: &Codes,
    out: &mut [f32],
) -> usize {
    let p = std::array::from_fn(|r| p.row(r));
    let whole = w.k / (G * GROUP) * (G * GROUP);
    for first in (0..whole).step_by(G * GROUP) {
        columns::<W, R, G>(p, w, first, codes, out);
    }
    for first in (whole..w.k).step_by(GROUP) {
        columns::<W, R, 1>(p, w, first, codes, out);
    }
    R
}

/// `R` rows of `p` and up to `G` times 64 columns from `first` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
#[allow(
    clippy::needless_range_loop,
    reason = "a number of a row is an index of several arrays"
)]
fn columns<W: Elements, const R: usize, const G: usize>(
    p: [&[f32]; R],
    w: &Matrix<'_>,
    first: usize,
    codes: &Codes,
    out: &mut [f32],
) {
    let count = (w.k - first).min(G * GROUP);
    let mut sums = [[[_mm512_setzero_ps(); 4]; G]; R];
    for i in 0..w.rows {
        let stored = &w.row::<W>(i)[first..][..count];
        for g in 0..G {
            let left = count - g * GROUP;
            let from = stored[g * GROUP..].as_ptr();
            let scale = w.scale(i, (first + g * GROUP) / BLOCK);
            // SAFETY: codes beyond the last are not read; a prefetch may have any address.
            let code = unsafe {
                let asked = from.wrapping_add(AHEAD * w.row_bytes);
                _mm_prefetch::<_MM_HINT_T0>(asked.cast());
                match left < GROUP {
                    true => _mm512_maskz_loadu_epi8((1 << left) - 1, from.cast()),
                    false => _mm512_loadu_si512(from.cast()),
                }
            };
            let weights = weights(code, codes);
            for r in 0..R {
                let factor = _mm512_set1_ps(p[r][i] * scale);
                for j in 0..4 {
                    sums[r][g][j] = _mm512_fmadd_ps(factor, weights[j], sums[r][g][j]);
                }
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let out = &mut out[r * w.k + first..][..count];
        for (sums, out) in sums.into_iter().zip(out.chunks_mut(GROUP)) {
            for (sums, out) in in_order(sums).into_iter().zip(out.chunks_mut(16)) {
                let mask = !0u16 >> (16 - out.len());
                // SAFETY: only columns that are there are read and written.
                unsafe {
                    let before = _mm512_maskz_loadu_ps(mask, out.as_ptr());
                    _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, _mm512_add_ps(before, sums));
                }
            }
        }
    }
}

/// Sums in the order in which [`weights`] gives columns, in the order of columns.
#[target_feature(enable = "avx512f,avx512dq")]
fn in_order([even, odd, last_even, last_odd]: [__m512; 4]) -> [__m512; 4] {
    // Four neighbours in each 128 bits, of sixteen columns the first, second, third, fourth.
    quarters([
        _mm512_unpacklo_ps(even, odd),
        _mm512_unpackhi_ps(even, odd),
        _mm512_unpacklo_ps(last_even, last_odd),
        _mm512_unpackhi_ps(last_even, last_odd),
    ])
}

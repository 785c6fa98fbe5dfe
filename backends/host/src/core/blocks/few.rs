//! Few rows of activations: weights stay in the registers they are taken apart in.
//!
//! The products of the 32 or sixteen columns that share a factor are added in integers.

use super::codes::Codes;
use super::format::{Added, Format, MOST_BYTES, SPAN, Scales, each_part};
use super::record::Record;
use crate::core::ahead::Ahead;
use crate::weight::Matrix;

/// How far ahead of the loads weights are asked for, in each row.
const PREFETCH_BYTES: usize = 1024;

/// Products of all rows; records of the `count` rows of a span lie one after the other.
///
/// # Safety
/// See [`Codes`].
#[inline(always)]
pub(super) unsafe fn dots<C: Codes, F: Format>(
    records: &[Record],
    count: usize,
    w: &Matrix<'_>,
    out: &mut [f32],
) {
    assert!(out.len() >= count * w.rows && records.len() >= w.k.div_ceil(SPAN) * count);
    let mut r = 0;
    while r < count {
        let records = records[r..].as_ptr();
        let out = &mut out[r * w.rows..];
        // SAFETY: the caller's promise; rows r.. have records in each arm.
        unsafe {
            r += match count - r {
                1 => strip::<C, F, 1, 4>(records, count, w, out),
                2 | 3 => strip::<C, F, 2, 2>(records, count, w, out),
                _ => strip::<C, F, 4, 1>(records, count, w, out),
            };
        }
    }
}

/// `R` rows of activations against all weight rows, `N` at a time; returns `R`.
///
/// # Safety
/// See [`tile`].
#[inline(always)]
unsafe fn strip<C: Codes, F: Format, const R: usize, const N: usize>(
    records: *const Record,
    step: usize,
    w: &Matrix<'_>,
    out: &mut [f32],
) -> usize {
    let whole = w.rows / N * N;
    for first in (0..whole).step_by(N) {
        // SAFETY: the caller's promise.
        let sums = unsafe { tile::<C, F, R, N>(records, step, w, first) };
        for r in 0..R {
            out[r * w.rows + first..][..N].copy_from_slice(&sums[r]);
        }
    }
    for first in whole..w.rows {
        // SAFETY: as above.
        let sums = unsafe { tile::<C, F, R, 1>(records, step, w, first) };
        for r in 0..R {
            out[r * w.rows + first] = sums[r][0];
        }
    }
    R
}

/// Dot products of `R` rows of activations, records of which lie `step` records apart for each
/// span, and `N` weight rows from row `first` on.
///
/// # Safety
/// See [`Codes`]; there are records of all spans of these rows.
#[inline(always)]
unsafe fn tile<C: Codes, F: Format, const R: usize, const N: usize>(
    records: *const Record,
    step: usize,
    w: &Matrix<'_>,
    first: usize,
) -> [[f32; N]; R] {
    let rows: [&[u8]; N] = std::array::from_fn(|n| w.stored(first + n));
    let ahead = Ahead::new(N, w.row_bytes, PREFETCH_BYTES);
    // SAFETY: the caller has a record for each span and row; a prefetch may have any address.
    unsafe {
        let mut sums = [[C::splat(0.0); N]; R];
        for index in 0..w.k.div_ceil(SPAN) {
            let records = records.add(index * step);
            let begin = index * F::BYTES;
            let next = ahead.at(begin);
            for n in 0..N {
                let stored = &rows[n][begin..];
                for line in (0..F::BYTES).step_by(64) {
                    C::prefetch(stored.as_ptr().wrapping_add(next + line));
                }
                let short = F::TYPE.block_values() < SPAN as u64 && stored.len() < F::BYTES;
                let parts = match short {
                    true => last::<C, F, R>(stored, records),
                    false => span::<C, F, R>(stored.as_ptr(), records),
                };
                for r in 0..R {
                    let scale = C::splat((*records.add(r)).scale);
                    sums[r][n] = C::fma(sums[r][n], parts[r], scale);
                }
            }
        }
        let mut totals = [[0.0; N]; R];
        for r in 0..R {
            for n in 0..N {
                totals[r][n] = C::sum(sums[r][n]);
            }
        }
        totals
    }
}

/// [`span`] of the blocks at the end of a row, and blocks of zeros.
///
/// # Safety
/// See [`span`].
#[inline(always)]
unsafe fn last<C: Codes, F: Format, const R: usize>(
    stored: &[u8],
    records: *const Record,
) -> [C::Eight; R] {
    let mut bytes = [0; MOST_BYTES];
    bytes[..stored.len()].copy_from_slice(stored);
    // SAFETY: the caller's promise.
    unsafe { span::<C, F, R>(bytes.as_ptr(), records) }
}

/// Products of the span at `at` with `R` records.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn span<C: Codes, F: Format, const R: usize>(
    at: *const u8,
    records: *const Record,
) -> [C::Eight; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = Scales::of::<C, F>(at);
        let mut parts = [C::splat(0.0); R];
        each_part!(part => add::<C, F, R>(at, &scales, records, part, &mut parts));
        if F::ADDED != Added::Nothing {
            for r in 0..R {
                let (sums, count) = match F::WIDE {
                    true => ((*records.add(r)).thirty_twos.as_ptr(), 8),
                    false => ((*records.add(r)).sixteens.as_ptr(), 16),
                };
                for first in (0..count).step_by(8) {
                    let added = C::load_eight(scales.added[first..].as_ptr());
                    parts[r] = C::fma(parts[r], added, C::load_eight(sums.add(first)));
                }
            }
        }
        parts
    }
}

/// Adds the products of part `part` of the span at `at`.
///
/// # Safety
/// See [`span`].
#[inline(always)]
unsafe fn add<C: Codes, F: Format, const R: usize>(
    at: *const u8,
    scales: &Scales,
    records: *const Record,
    part: usize,
    parts: &mut [C::Eight; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let codes = F::codes::<C>(at, part).wide(F::SIGNED);
        let factor = match F::WIDE {
            true => C::splat(scales.factors[part]),
            false => C::two(scales.factors[2 * part..].as_ptr()),
        };
        for r in 0..R {
            let numbers = (&raw const (*records.add(r)).numbers).cast::<i16>();
            let products = C::products(codes, numbers.add(32 * part));
            parts[r] = C::fma(parts[r], products, factor);
        }
    }
}

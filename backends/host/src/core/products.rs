//! Vector products, once for all instruction sets.
//!
//! Products of few rows read every weight once and straight from storage (memory bound);
//! products of many rows decode a panel of weights into floats that stay in the cache, and
//! run tiles of registers over it. FP8 scales are constant over 128 columns, so they are
//! multiplied into the activations (few rows) or the panel (many rows), never applied in the
//! inner loop.
//!
//! The ladder of many rows: 512 rows by 7168 by 8192 BF16 weights on two cores of a Xeon (Sapphire
//! Rapids), which do 384 GFLOP/s where nothing is loaded (`examples/kernels.rs linear`):
//!
//! | | GFLOP/s |
//! |---|---|
//! | panels of 32 rows by 1024 columns, tiles of 4 by 4 rows, a lane after the other summed | 166 |
//! | four registers summed at once, tiles of 6 by 4 rows, panels of one size | 208 |
//! | panels that begin with a cache line | 237 |
//! | panels of 512 columns; of 256 | 234; 195 |
//! | the panel's next rows asked for into the first-level cache (before panels began with a line) | 166 |
//!
//! Every function here is `inline(always)`: it is compiled inside the functions of
//! `vector_core` that carry the instruction set.

use super::Grown;
use super::ahead::Ahead;
use super::lanes::Lanes;
use crate::args::Fault;
use crate::weight::{BLOCK, Elements, F32, Matrix, Rows};

/// Columns of a panel: 32 rows of it are 128 KiB, which a second-level cache holds.
const PANEL_COLUMNS: usize = 8 * BLOCK;
/// Keeps rows of a panel off each other's cache sets, on which strides of 4 KiB would put
/// all of them.
const PANEL_PADDING: usize = 16;
/// Length of rows up to which they are read one by one, as the memory likes it.
const SHORT: usize = 2048;
/// How far ahead of the loads weights are asked for.
const PREFETCH_BYTES: usize = 4096;

/// `Core::dots`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn dots<V: Lanes, W: Elements>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Grown<f32>,
) -> Result<(), Fault> {
    assert!(out.len() >= x.count * w.rows && x.k == w.k);
    // SAFETY: the caller's promise.
    unsafe {
        if x.count <= few_rows::<V, W>() || is_f32::<W>() {
            few::<V, W>(x, w, out, panel)
        } else {
            many::<V, W>(x, w, out, panel)
        }
    }
}

#[inline(always)]
fn scaled<W: Elements>() -> bool {
    W::DTYPE.has_block_scales()
}

#[inline(always)]
fn is_f32<W: Elements>() -> bool {
    matches!(W::DTYPE, hadal_device::DType::F32)
}

/// Rows of activations up to which weights are decoded in registers, four rows at a time.
/// Eight rows of 7168 by 8192 FP8 weights take 14 ms so and 20 ms with a panel on AVX-512;
/// with the small tiles of AVX2 decoding FP8 twice costs more than the panel.
#[inline(always)]
fn few_rows<V: Lanes, W: Elements>() -> usize {
    if scaled::<W>() && V::TILE < 4 { 4 } else { 8 }
}

/// Weights decoded in registers.
#[inline(always)]
unsafe fn few<V: Lanes, W: Elements>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Grown<f32>,
) -> Result<(), Fault> {
    let mut first = 0;
    while first < w.rows {
        let count = w.same_scale(first);
        let stored = w.rows(first, count)?;
        // SAFETY: the caller's promise; shapes were compared in `dots`.
        unsafe {
            if scaled::<W>() {
                let scaled = panel.take(x.count * x.k)?;
                for (r, scaled) in scaled.chunks_exact_mut(x.k.max(1)).enumerate() {
                    scale_row::<V, W>(x.row(r), &stored, scaled);
                }
                let x = Rows::packed(scaled, x.count, x.k);
                tiles::<V, W, false>(x, &stored, &mut out[first..], w.rows);
            } else {
                tiles::<V, W, false>(x, &stored, &mut out[first..], w.rows);
            }
        }
        first += count;
    }
    Ok(())
}

/// `x` times the scales of row 0 of `w`, block by block.
#[inline(always)]
unsafe fn scale_row<V: Lanes, W: Elements>(x: &[f32], w: &Matrix<'_>, to: &mut [f32]) {
    for (block, (x, to)) in x.chunks(BLOCK).zip(to.chunks_mut(BLOCK)).enumerate() {
        let scale = w.scale(0, block) * W::unit::<V>();
        for (x, to) in x.iter().zip(to) {
            *to = x * scale;
        }
    }
}

/// Weights decoded to a panel of floats first.
#[inline(always)]
unsafe fn many<V: Lanes, W: Elements>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Grown<f32>,
) -> Result<(), Fault> {
    out[..x.count * w.rows].fill(0.0);
    // Panels of one size, in whole scale blocks.
    let panels = w.k.div_ceil(PANEL_COLUMNS).max(1);
    let columns = w.k.div_ceil(panels).next_multiple_of(BLOCK);
    for first in (0..w.k).step_by(columns.max(1)) {
        let k = columns.min(w.k - first);
        let stride = k + PANEL_PADDING;
        let floats = panel.take(w.rows * stride)?;
        for (row, floats) in floats.chunks_exact_mut(stride).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { decode::<V, W>(w, row, first, &mut floats[..k]) };
        }
        let floats = Matrix::floats(floats, w.rows, k, stride);
        // SAFETY: as above.
        unsafe { tiles::<V, F32, true>(x.columns(first, k), &floats, out, w.rows) };
    }
    Ok(())
}

/// Elements of row `row` from column `first` (a multiple of 128) on, scaled.
#[inline(always)]
unsafe fn decode<V: Lanes, W: Elements>(w: &Matrix<'_>, row: usize, first: usize, to: &mut [f32]) {
    let stored = &w.row::<W>(row)[first * W::BYTES..];
    for (index, to) in to.chunks_mut(BLOCK).enumerate() {
        let codes = &stored[index * BLOCK * W::BYTES..][..to.len() * W::BYTES];
        let scale = w.scale(row, first / BLOCK + index);
        let whole = to.len() / V::N * V::N;
        // SAFETY: `codes` and `to` have at least `whole` elements; the caller's promise.
        unsafe {
            let factor = V::splat(scale * W::unit::<V>());
            for c in (0..whole).step_by(V::N) {
                let values = W::load::<V>(codes.as_ptr().add(c * W::BYTES));
                let values = if scaled::<W>() {
                    values.mul(factor)
                } else {
                    values
                };
                values.store(to.as_mut_ptr().add(c));
            }
        }
        for c in whole..to.len() {
            to[c] = W::decode(&codes[c * W::BYTES..]) * scale;
        }
    }
}

/// `out[r * stride + i] = dot(x[r], w[i])`, or added to it under `ADD`. For scaled formats
/// `x` holds the scale and the unit already.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn tiles<V: Lanes, W: Elements, const ADD: bool>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    stride: usize,
) {
    let mut r = 0;
    while r < x.count {
        let out = &mut out[r * stride..];
        // SAFETY: the caller's promise; rows r.. exist in each arm.
        unsafe {
            let left = x.count - r;
            r += match left {
                1 if !is_f32::<W>() && x.k <= SHORT => {
                    strip::<V, W, 1, 1, 8, ADD>(x.rows(r, 1), w, out, stride)
                }
                1 => strip::<V, W, 1, 4, 2, ADD>(x.rows(r, 1), w, out, stride),
                2 => strip::<V, W, 2, 4, 1, ADD>(x.rows(r, 2), w, out, stride),
                3 => strip::<V, W, 3, 2, 1, ADD>(x.rows(r, 3), w, out, stride),
                // So that no one or two rows are left for the end.
                6.. if V::SIX && !matches!(left % 6, 1 | 2 | 5) => {
                    strip::<V, W, 6, 4, 1, ADD>(x.rows(r, 6), w, out, stride)
                }
                _ if V::TILE >= 4 => strip::<V, W, 4, 4, 1, ADD>(x.rows(r, 4), w, out, stride),
                _ => strip::<V, W, 4, 2, 1, ADD>(x.rows(r, 4), w, out, stride),
            };
        }
    }
}

/// `R` rows of `x` against all rows of `w`, `C` at a time; returns `R`.
#[inline(always)]
unsafe fn strip<
    V: Lanes,
    W: Elements,
    const R: usize,
    const C: usize,
    const U: usize,
    const ADD: bool,
>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    stride: usize,
) -> usize {
    let xs: [*const f32; R] = std::array::from_fn(|r| x.row(r).as_ptr());
    let whole = w.rows / C * C;
    let ahead = Ahead::new(C, w.row_bytes, PREFETCH_BYTES);
    // SAFETY: every pointer below is to a row of `k` elements.
    unsafe {
        for i in (0..whole).step_by(C) {
            let ws: [*const u8; C] = std::array::from_fn(|j| w.row::<W>(i + j).as_ptr());
            // What is added to comes from a panel.
            let sums = match ADD {
                true => tile::<V, W, R, C, U, false>(xs, ws, x.k, ahead),
                false => tile::<V, W, R, C, U, true>(xs, ws, x.k, ahead),
            };
            put::<R, C, ADD>(&sums, &mut out[i..], stride);
        }
        for i in whole..w.rows {
            let sums = tile::<V, W, R, 1, 1, false>(xs, [w.row::<W>(i).as_ptr()], x.k, ahead);
            put::<R, 1, ADD>(&sums, &mut out[i..], stride);
        }
    }
    R
}

#[inline(always)]
fn put<const R: usize, const C: usize, const ADD: bool>(
    sums: &[[f32; C]; R],
    out: &mut [f32],
    stride: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        for (out, sum) in out[r * stride..][..C].iter_mut().zip(sums) {
            *out = if ADD { *out + sum } else { *sum };
        }
    }
}

/// Dot products of `R` rows of activations and `C` weight rows, all `k` long, in
/// `R * C * U` accumulators. `ASK` for weights ahead, unless they are in a cache.
#[inline(always)]
unsafe fn tile<
    V: Lanes,
    W: Elements,
    const R: usize,
    const C: usize,
    const U: usize,
    const ASK: bool,
>(
    x: [*const f32; R],
    w: [*const u8; C],
    k: usize,
    ahead: Ahead,
) -> [[f32; C]; R] {
    // SAFETY: `c + V::N <= k` at each load of a register, `c < k` at each single one.
    unsafe {
        let zero = V::splat(0.0);
        let mut sums = [[[zero; C]; R]; U];
        let mut c = 0;
        while c + U * V::N <= k {
            for sums in &mut sums {
                let xs: [V; R] = load_all(&x, c);
                let next = c * W::BYTES + ahead.at(c * W::BYTES);
                for j in 0..C {
                    if ASK {
                        V::prefetch(w[j].wrapping_add(next));
                    }
                    let weights = W::load::<V>(w[j].add(c * W::BYTES));
                    for r in 0..R {
                        sums[r][j] = sums[r][j].fma(xs[r], weights);
                    }
                }
                c += V::N;
            }
        }
        while c + V::N <= k {
            let xs: [V; R] = load_all(&x, c);
            for j in 0..C {
                let weights = W::load::<V>(w[j].add(c * W::BYTES));
                for r in 0..R {
                    sums[0][r][j] = sums[0][r][j].fma(xs[r], weights);
                }
            }
            c += V::N;
        }
        let mut totals = [[0.0; C]; R];
        for r in 0..R {
            let mut all = sums[0][r];
            for more in &sums[1..] {
                for j in 0..C {
                    all[j] = all[j].add(more[r][j]);
                }
            }
            totals[r] = V::sums(all);
            for j in 0..C {
                for c in c..k {
                    let code = std::slice::from_raw_parts(w[j].add(c * W::BYTES), W::BYTES);
                    let weight = W::decode(code) / W::unit::<V>();
                    totals[r][j] += *x[r].add(c) * weight;
                }
            }
        }
        totals
    }
}

#[inline(always)]
unsafe fn load_all<V: Lanes, const R: usize>(x: &[*const f32; R], column: usize) -> [V; R] {
    // SAFETY: the caller has `V::N` elements from `column` on in each row.
    unsafe {
        let mut xs = [V::splat(0.0); R];
        for r in 0..R {
            xs[r] = V::load(x[r].add(column));
        }
        xs
    }
}

/// `Core::mix`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn mix<V: Lanes, W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
    assert!(out.len() >= p.count * w.k && p.k == w.rows);
    let mut r = 0;
    while r < p.count {
        let out = &mut out[r * w.k..];
        // SAFETY: the caller's promise; rows r.. exist in each arm.
        unsafe {
            let left = p.count - r;
            r += match left {
                1 => mix_rows::<V, W, 1>(p.rows(r, 1), w, out),
                2 | 3 => mix_rows::<V, W, 2>(p.rows(r, 2), w, out),
                6.. if V::SIX && left % 6 != 1 => mix_rows::<V, W, 6>(p.rows(r, 6), w, out),
                _ if V::TILE >= 4 => mix_rows::<V, W, 4>(p.rows(r, 4), w, out),
                _ => mix_rows::<V, W, 2>(p.rows(r, 2), w, out),
            };
        }
    }
}

/// `R` rows of `p`, four registers of columns at a time (which divide a scale block).
#[inline(always)]
unsafe fn mix_rows<V: Lanes, W: Elements, const R: usize>(
    p: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
) -> usize {
    let mut c = 0;
    // SAFETY: the columns of each call exist.
    unsafe {
        while c + 4 * V::N <= w.k {
            mix_columns::<V, W, R, 4>(p, w, c, out);
            c += 4 * V::N;
        }
        while c + V::N <= w.k {
            mix_columns::<V, W, R, 1>(p, w, c, out);
            c += V::N;
        }
    }
    for r in 0..R {
        let p = p.row(r);
        for c in c..w.k {
            for (i, p) in p.iter().enumerate() {
                let code = &w.row::<W>(i)[c * W::BYTES..];
                out[r * w.k + c] += p * w.scale(i, c / BLOCK) * W::decode(code);
            }
        }
    }
    R
}

#[inline(always)]
unsafe fn mix_columns<V: Lanes, W: Elements, const R: usize, const C: usize>(
    p: Rows<'_>,
    w: &Matrix<'_>,
    column: usize,
    out: &mut [f32],
) {
    // SAFETY: columns up to `column + C * V::N` exist in each row of `w` and `out`.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        // Rows of `w.rows` factors.
        let weights: [*const f32; R] = std::array::from_fn(|r| p.row(r).as_ptr());
        for i in 0..w.rows {
            let row = w.row::<W>(i).as_ptr().add(column * W::BYTES);
            let scale = if scaled::<W>() {
                w.scale(i, column / BLOCK) * W::unit::<V>()
            } else {
                1.0
            };
            let mut values = [V::splat(0.0); C];
            for (j, values) in values.iter_mut().enumerate() {
                *values = W::load::<V>(row.add(j * V::N * W::BYTES));
            }
            for r in 0..R {
                let factor = V::splat(*weights[r].add(i) * scale);
                for j in 0..C {
                    sums[r][j] = sums[r][j].fma(factor, values[j]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = out[r * w.k + column..][..C * V::N].as_mut_ptr();
            for (j, sum) in sums.iter().enumerate() {
                let out = out.add(j * V::N);
                V::load(out).add(*sum).store(out);
            }
        }
    }
}

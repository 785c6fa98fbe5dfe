//! AVX-512 with BF16 dot products (BF16 and VBMI besides F, BW, DQ, VL): one row of
//! activations against E4M3 weights, which is decoding.
//!
//! E4M3 codes become BF16 with two table look-ups for 64 of them, a quarter of the
//! instructions that `f32` takes, and an instruction multiplies 32 pairs. An activation is
//! the sum of three BF16 numbers of 8 bits each, which are the 24 bits of an `f32`: nothing
//! is rounded that the AVX-512 core would not round. Everything else is that core's: with
//! more rows, or BF16 weights, three products for one cost more than the conversion
//! (measured on Zen 4: 22 and 28 GB/s of BF16 weights, one row).

use std::arch::x86_64::*;

use hadal_device::DType;

use super::ahead::Ahead;
use super::{Avx512, Core, Grown, Panel};
use crate::args::Fault;
use crate::weight::{BLOCK, E4M3, Elements, Matrix, Rows};

/// The AVX-512 core with BF16 products.
pub(crate) struct Avx512Bf16;

/// Columns taken at once: a register of E4M3 codes.
const GROUP: usize = 64;
/// BF16 numbers that add up to an activation.
const PARTS: usize = 3;
/// Room of a group of split activations, in `f32`.
const SPLIT: usize = GROUP * PARTS / 2;
/// Elements rows taken at once, and accumulators of each.
const TILE: usize = 4;
const SUMS: usize = 2;
/// Length of rows up to which they are read one by one, as the memory likes it.
const SHORT: usize = 2048;
/// How far ahead of the loads weights are asked for.
const PREFETCH_BYTES: usize = 1024;

impl Core for Avx512Bf16 {
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Grown<f32>,
    ) -> Result<(), Fault> {
        if x.count != 1 || W::DTYPE != DType::F8E4M3 {
            return Avx512::dots::<W>(x, w, out, panel);
        }
        // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a processor
        // whose features were detected.
        unsafe { one_row::<W>(x.row(0), w, out, panel) }
    }

    fn block_dots(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        Avx512::block_dots(x, w, out, panel)
    }

    fn mix<W: Elements>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
        Avx512::mix::<W>(p, w, out);
    }

    fn swiglu(gate: &mut [f32], up: &[f32]) {
        Avx512::swiglu(gate, up);
    }

    fn exp(values: &mut [f32], shift: f32) -> f32 {
        Avx512::exp(values, shift)
    }

    fn squares(values: &[f32]) -> f64 {
        Avx512::squares(values)
    }
}

/// The 128 magnitudes of E4M3 as halves of BF16 numbers, which hold all of them exactly.
struct Codes {
    low: [__m512i; 2],
    high: [__m512i; 2],
}

/// Low and high bytes of the BF16 magnitudes.
static BYTES: [[u8; 128]; 2] = magnitude_bytes();

const fn magnitude_bytes() -> [[u8; 128]; 2] {
    let mut bytes = [[0; 128]; 2];
    let mut code = 0;
    while code < 128 {
        let bits = E4M3[code].to_bits() >> 16;
        bytes[0][code] = bits as u8;
        bytes[1][code] = (bits >> 8) as u8;
        code += 1;
    }
    bytes
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
fn one_row<W: Elements>(
    x: &[f32],
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Grown<f32>,
) -> Result<(), Fault> {
    assert!(out.len() >= w.rows && x.len() == w.k);
    let codes = load_codes();
    let mut first = 0;
    while first < w.rows {
        let count = w.same_scale(first);
        let stored = w.rows(first, count)?;
        let parts = panel.take(x.len().div_ceil(GROUP) * SPLIT)?;
        split(x, &stored, parts);
        let out = &mut out[first..first + count];
        let ahead = Ahead::new(TILE, stored.row_bytes, PREFETCH_BYTES);
        if w.k <= SHORT {
            let ahead = Ahead::new(1, stored.row_bytes, PREFETCH_BYTES);
            for (row, out) in out.iter_mut().enumerate() {
                [*out] = tile::<1, { 2 * PARTS }>(parts, [stored.row::<W>(row)], &codes, ahead);
            }
            first += count;
            continue;
        }
        let (tiles, rest) = out.as_chunks_mut::<TILE>();
        for (tile_index, out) in tiles.iter_mut().enumerate() {
            let row = tile_index * TILE;
            *out = tile::<TILE, SUMS>(
                parts,
                std::array::from_fn(|j| stored.row::<W>(row + j)),
                &codes,
                ahead,
            );
        }
        for (out, row) in rest.iter_mut().zip(count - count % TILE..) {
            [*out] = tile::<1, SUMS>(parts, [stored.row::<W>(row)], &codes, ahead);
        }
        first += count;
    }
    Ok(())
}

#[target_feature(enable = "avx512f")]
fn load_codes() -> Codes {
    let load = |bytes: &[u8; 128]| {
        // SAFETY: 64 bytes from each of the two places.
        unsafe {
            let from = bytes.as_ptr();
            [
                _mm512_loadu_si512(from.cast()),
                _mm512_loadu_si512(from.add(64).cast()),
            ]
        }
    };
    Codes {
        low: load(&BYTES[0]),
        high: load(&BYTES[1]),
    }
}

/// Writes `x`, times the scales of row 0 of `w`, as BF16 numbers in the room of `to`: for
/// each 64 columns the roundings of all, then twice those of what is left, each in the order
/// in which [`weights`] gives the columns. Columns beyond the last are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn split(x: &[f32], w: &Matrix<'_>, to: &mut [f32]) {
    for (group, (x, to)) in x.chunks(GROUP).zip(to.chunks_exact_mut(SPLIT)).enumerate() {
        let mut columns = [0.0; GROUP];
        columns[..x.len()].copy_from_slice(x);
        let scale = _mm512_set1_ps(w.scale(0, group * GROUP / BLOCK));
        let to: *mut __m512i = to.as_mut_ptr().cast();
        // SAFETY: 64 floats are read, and `PARTS` times 64 BF16 numbers written in `SPLIT`
        // floats.
        unsafe {
            let mut rest = [_mm512_setzero_ps(); 4];
            for (i, rest) in rest.iter_mut().enumerate() {
                *rest = _mm512_mul_ps(_mm512_loadu_ps(columns.as_ptr().add(i * 16)), scale);
            }
            for part in 0..PARTS {
                let rounded = rest.map(|rest| _mm512_cvtneps_pbh(rest));
                for (rest, rounded) in rest.iter_mut().zip(rounded) {
                    *rest = _mm512_sub_ps(*rest, _mm512_cvtpbh_ps(rounded));
                }
                let [a, b, c, d] = rounded;
                let [a, b] = ordered([joined(a, b), joined(c, d)]);
                _mm512_storeu_si512(to.add(2 * part).cast(), a);
                _mm512_storeu_si512(to.add(2 * part + 1).cast(), b);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn joined(low: __m256bh, high: __m256bh) -> __m512i {
    // SAFETY: registers of 256 bits either way.
    let [low, high] = unsafe { std::mem::transmute::<[__m256bh; 2], [__m256i; 2]>([low, high]) };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// 64 numbers in the order of [`weights`].
#[target_feature(enable = "avx512f")]
fn ordered([a, b]: [__m512i; 2]) -> [__m512i; 2] {
    let even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    [
        _mm512_permutex2var_epi64(a, even, b),
        _mm512_permutex2var_epi64(a, odd, b),
    ]
}

/// The first `count` (at most 64) codes at `from` as BF16, zeros after them, as unpacking
/// leaves them: of each 16, the first 8 in one register and the last 8 in the other.
///
/// # Safety
/// `from` has `count` codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn weights(from: *const u8, count: usize, codes: &Codes) -> [__m512i; 2] {
    // SAFETY: masked lanes are not read.
    let code = unsafe { _mm512_maskz_loadu_epi8(u64::MAX >> (GROUP - count), from.cast()) };
    let low = _mm512_permutex2var_epi8(codes.low[0], code, codes.low[1]);
    let high = _mm512_permutex2var_epi8(codes.high[0], code, codes.high[1]);
    // `high | (code & 0x80)`: the sign.
    let high = _mm512_ternarylogic_epi64::<0xF8>(high, code, _mm512_set1_epi8(-128));
    [
        _mm512_unpacklo_epi8(low, high),
        _mm512_unpackhi_epi8(low, high),
    ]
}

/// Products of a row of activations (as [`split`] wrote it) and `C` weight rows, in `S`
/// accumulators each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
fn tile<const C: usize, const S: usize>(
    parts: &[f32],
    w: [&[u8]; C],
    codes: &Codes,
    ahead: Ahead,
) -> [f32; C] {
    let k = w[0].len();
    assert!(parts.len() == k.div_ceil(GROUP) * SPLIT && w.iter().all(|w| w.len() == k));
    let mut sums = [[_mm512_setzero_ps(); S]; C];
    for (first, parts) in (0..k).step_by(GROUP).zip(parts.chunks_exact(SPLIT)) {
        let count = GROUP.min(k - first);
        let x: *const __m512bh = parts.as_ptr().cast();
        let next = ahead.at(first);
        for (w, sums) in w.iter().zip(&mut sums) {
            // SAFETY: `count` codes from `first` on, and twice `PARTS` registers in `parts`;
            // a prefetch may have any address.
            unsafe {
                let from = w.as_ptr().add(first);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(next).cast());
                for (half, weights) in weights(from, count, codes).into_iter().enumerate() {
                    let weights = std::mem::transmute::<__m512i, __m512bh>(weights);
                    for part in 0..PARTS {
                        let sum = &mut sums[(2 * part + half) % S];
                        let x = x.add(2 * part + half).read_unaligned();
                        *sum = _mm512_dpbf16_ps(*sum, weights, x);
                    }
                }
            }
        }
    }
    sums.map(|sums| {
        let sum = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
        sum.map_or(0.0, |sum| _mm512_reduce_add_ps(sum))
    })
}

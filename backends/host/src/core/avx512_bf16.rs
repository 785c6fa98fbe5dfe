//! AVX-512 with BF16 dot products (BF16 and VBMI besides F, BW, DQ, VL): few rows of
//! activations against weights of 8 or 16 bits.
//!
//! An instruction multiplies 32 pairs of BF16 numbers, so a weight needs no conversion to
//! `f32`: BF16 ones are read as they lie, E4M3 codes become BF16 with two table look-ups for
//! 64 of them. An activation is the sum of three BF16 numbers of 8 bits each, which are the 24
//! bits of an `f32`: nothing is rounded that the AVX-512 core would not round, only numbers
//! below 2^-126 count as zero and infinity becomes NaN. Many rows of activations, and everything that is not such a
//! product, are that core's.

use std::arch::x86_64::*;

use hadal_device::DType;

use super::{Avx512, Core, Grown};
use crate::args::Fault;
use crate::weight::{BLOCK, E4M3, Matrix, Rows, Weight};

/// The AVX-512 core with BF16 products.
pub(crate) struct Avx512Bf16;

/// Rows of activations up to which weights are converted for each four of them; beyond, a
/// panel of `f32` weights that all rows share is cheaper.
const FEW_ROWS: usize = 8;
/// Columns taken at once: a register of E4M3 codes.
const GROUP: usize = 64;
/// BF16 numbers that add up to an activation.
const PARTS: usize = 3;
/// Room of a group of split activations, in `f32`.
const SPLIT: usize = GROUP * PARTS / 2;
/// How far ahead of the loads weights are asked for.
const PREFETCH_BYTES: usize = 1024;

impl Core for Avx512Bf16 {
    fn dots<W: Weight>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Grown<f32>,
    ) -> Result<(), Fault> {
        if x.count > FEW_ROWS || !matches!(W::DTYPE, DType::Bf16 | DType::F8E4M3) {
            return Avx512::dots::<W>(x, w, out, panel);
        }
        // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a processor
        // whose features were detected.
        unsafe { few::<W>(x, w, out, panel) }
    }

    fn mix<W: Weight>(p: Rows<'_>, w: &Matrix<'_>, out: &mut [f32]) {
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

/// The 128 magnitudes of E4M3 as parts of BF16 numbers, which hold all of them exactly.
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
fn few<W: Weight>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Grown<f32>,
) -> Result<(), Fault> {
    assert!(out.len() >= x.count * w.rows && x.k == w.k);
    let codes = load_codes();
    let width = x.k.div_ceil(GROUP) * SPLIT;
    let mut first = 0;
    while first < w.rows {
        let count = w.same_scale(first);
        let stored = w.rows(first, count)?;
        let parts = panel.take(x.count * width)?;
        for (r, parts) in parts.chunks_exact_mut(width.max(1)).enumerate() {
            split::<W>(x.row(r), &stored, parts);
        }
        let mut r = 0;
        while r < x.count {
            let parts = &parts[r * width..];
            let out = &mut out[r * w.rows + first..];
            r += match x.count - r {
                1 => strip::<W, 1, 4, 2>(parts, &stored, &codes, out, w.rows),
                2 | 3 => strip::<W, 2, 4, 1>(parts, &stored, &codes, out, w.rows),
                _ => strip::<W, 4, 4, 1>(parts, &stored, &codes, out, w.rows),
            };
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
fn split<W: Weight>(x: &[f32], w: &Matrix<'_>, to: &mut [f32]) {
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
                let [a, b] = ordered::<W>([joined(a, b), joined(c, d)]);
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
fn ordered<W: Weight>([a, b]: [__m512i; 2]) -> [__m512i; 2] {
    if !W::SCALED {
        return [a, b];
    }
    let even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    [
        _mm512_permutex2var_epi64(a, even, b),
        _mm512_permutex2var_epi64(a, odd, b),
    ]
}

/// The first `count` (at most 64) weights at `from` as BF16, zeros after them. E4M3 codes
/// come as unpacking leaves them: of each 16, the first 8 in one register and the last 8 in
/// the other.
///
/// # Safety
/// `from` has `count` weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn weights<W: Weight>(from: *const u8, count: usize, codes: &Codes) -> [__m512i; 2] {
    let all = u64::MAX >> (GROUP - count);
    // SAFETY: masked lanes are not read.
    unsafe {
        if !W::SCALED {
            let from: *const i16 = from.cast();
            return [
                _mm512_maskz_loadu_epi16(all as u32, from),
                _mm512_maskz_loadu_epi16((all >> 32) as u32, from.wrapping_add(32)),
            ];
        }
        let code = _mm512_maskz_loadu_epi8(all, from.cast());
        let low = _mm512_permutex2var_epi8(codes.low[0], code, codes.low[1]);
        let high = _mm512_permutex2var_epi8(codes.high[0], code, codes.high[1]);
        // `high | (code & 0x80)`: the sign.
        let high = _mm512_ternarylogic_epi64::<0xF8>(high, code, _mm512_set1_epi8(-128));
        [
            _mm512_unpacklo_epi8(low, high),
            _mm512_unpackhi_epi8(low, high),
        ]
    }
}

/// `R` rows of activations (as [`split`] wrote them) against all rows of `w`, `C` at a time;
/// returns `R`. `out[r * stride + i]` gets the product with row `i`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
fn strip<W: Weight, const R: usize, const C: usize, const S: usize>(
    parts: &[f32],
    w: &Matrix<'_>,
    codes: &Codes,
    out: &mut [f32],
    stride: usize,
) -> usize {
    let parts = &parts[..R * w.k.div_ceil(GROUP) * SPLIT];
    let whole = w.rows / C * C;
    for i in (0..whole).step_by(C) {
        let sums = tile::<W, R, C, S>(parts, std::array::from_fn(|j| w.row::<W>(i + j)), codes);
        for (r, sums) in sums.iter().enumerate() {
            out[r * stride + i..][..C].copy_from_slice(sums);
        }
    }
    for i in whole..w.rows {
        let sums = tile::<W, R, 1, S>(parts, [w.row::<W>(i)], codes);
        for (r, [sum]) in sums.into_iter().enumerate() {
            out[r * stride + i] = sum;
        }
    }
    R
}

/// Products of `R` rows of activations and `C` weight rows, in `R * C * S` accumulators.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
fn tile<W: Weight, const R: usize, const C: usize, const S: usize>(
    parts: &[f32],
    w: [&[u8]; C],
    codes: &Codes,
) -> [[f32; C]; R] {
    let k = w[0].len() / W::BYTES;
    let width = parts.len() / R;
    let mut sums = [[[_mm512_setzero_ps(); S]; C]; R];
    for first in (0..k).step_by(GROUP) {
        let count = GROUP.min(k - first);
        for j in 0..C {
            let at = first * W::BYTES;
            // SAFETY: each row has `count` weights from `first` on, each row of `parts` the
            // registers of this group; a prefetch may have any address.
            unsafe {
                let from = w[j].as_ptr().add(at);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(PREFETCH_BYTES).cast());
                if !W::SCALED {
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(PREFETCH_BYTES + 64).cast());
                }
                let weights = weights::<W>(from, count, codes);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x: *const __m512bh =
                        parts.as_ptr().add(r * width + first / GROUP * SPLIT).cast();
                    for (half, weights) in weights.into_iter().enumerate() {
                        let weights: __m512bh = std::mem::transmute(weights);
                        let sum = &mut sums[j][half % S];
                        for part in 0..PARTS {
                            let x = x.add(2 * part + half).read_unaligned();
                            *sum = _mm512_dpbf16_ps(*sum, weights, x);
                        }
                    }
                }
            }
        }
    }
    sums.map(|row| {
        row.map(|sums| {
            let sum = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
            _mm512_reduce_add_ps(sum.unwrap_or(_mm512_setzero_ps()))
        })
    })
}

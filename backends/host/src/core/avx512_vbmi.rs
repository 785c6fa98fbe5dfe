//! AVX-512 with byte look-ups (VBMI besides F, BW, DQ, VL): few rows of activations against E4M3
//! weights, which is decoding. Activations that may be rounded (`flags::ROUGH`) are integers, see
//! `avx512_pairs`; everything else is the AVX-512 core's.
//!
//! E4M3 codes become `f32` with two table look-ups for 64 of them: BF16 holds every E4M3 number,
//! and an `f32` is a BF16 number with zeros after it. Nothing is rounded.
//!
//! The ladder, on one core of Zen 4 that reads 33 GB/s (`examples/kernels.rs`; GB/s of weights):
//!
//! | | 1536 columns | 7168 columns |
//! |---|---|---|
//! | BF16 products, an activation as three BF16 numbers | 11.6 | 18.0 |
//! | `f32` products | 12.9 | 18.0 |
//! | asked for 4 KiB ahead into the second-level cache | 20.6 | 20.2 |
//! | the same, weights in the second-level cache | 18.7 | 20.0 |
//!
//! The first-level cache waits for some 24 lines at once, 1.5 KB; at 130 ns each that is 12 GB/s.

mod mix;

use std::arch::x86_64::*;

use hadal_device::DType;

use super::ahead::Ahead;
use super::avx512::{as_avx512, four_totals};
use super::avx512_pairs::{self, Integers};
use super::{Avx512, Core, Grown, Panel};
use crate::args::Fault;
use crate::weight::{BLOCK, E4M3, Elements, Matrix, Rows};

/// The AVX-512 core with look-ups of E4M3 codes.
pub(crate) struct Avx512Vbmi;

/// Columns taken at once: a register of E4M3 codes.
const GROUP: usize = 64;
/// Weight rows taken at once.
const TILE: usize = 4;
/// Accumulators of a product of one row of activations; of one weight row by itself.
const SUMS: usize = 2;
const ALONE: usize = 4;
/// Rows of activations for which each weight is decoded in registers, four rows at a time.
const FEW: usize = 8;
/// The same where activations may be rounded, and rows for which rounding them is no faster.
const FEW_ROUGH: usize = 4;
const FEW_EXACT: usize = 2;
/// How far ahead of the loads weights are asked for, into the second-level cache.
const PREFETCH_BYTES: usize = 4096;

impl Core for Avx512Vbmi {
    fn dots<W: Elements>(
        x: Rows<'_>,
        w: &Matrix<'_>,
        out: &mut [f32],
        panel: &mut Panel,
    ) -> Result<(), Fault> {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
        fn rough<W: Elements>(
            x: Rows<'_>,
            w: &Matrix<'_>,
            out: &mut [f32],
            panel: &mut Panel,
        ) -> Result<bool, Fault> {
            // SAFETY: compiled for the instruction set, see below.
            unsafe {
                match x.count <= FEW_ROUGH {
                    true => avx512_pairs::few::<Integers, W>(x, w, out, panel),
                    false => avx512_pairs::many::<Integers, W>(x, w, out, panel),
                }
            }
        }
        // SAFETY: `HostDevice::pipeline` gives out kernels of this core only on a processor
        // whose features were detected, VNNI among them (`Isa::Avx512Vbmi`); here and below.
        let rounded = W::DTYPE == DType::F8E4M3
            && w.rough
            && x.count > FEW_EXACT
            && unsafe { rough::<W>(x, w, out, panel) }?;
        if rounded {
            return Ok(());
        }
        if W::DTYPE != DType::F8E4M3 || x.count > FEW {
            return Avx512::dots::<W>(x, w, out, panel);
        }
        assert!(out.len() >= x.count * w.rows && x.k == w.k);
        // SAFETY: see above.
        unsafe { few::<W>(x, w, out, &mut panel.floats) }
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
        if W::DTYPE != DType::F8E4M3 || p.count > FEW {
            return Avx512::mix::<W>(p, w, out);
        }
        assert!(out.len() >= p.count * w.k && p.k == w.rows);
        // SAFETY: as in `dots`.
        unsafe { mix::few::<W>(p, w, out) }
    }

    as_avx512!();
}

/// The 128 magnitudes of E4M3 as halves of BF16 numbers, which hold all of them exactly.
struct Codes {
    low: [__m512i; 2],
    high: [__m512i; 2],
}

/// Low and high bytes of the BF16 magnitudes.
pub(super) static BYTES: [[u8; 128]; 2] = magnitude_bytes();

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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn few<W: Elements>(
    x: Rows<'_>,
    w: &Matrix<'_>,
    out: &mut [f32],
    panel: &mut Grown<f32>,
) -> Result<(), Fault> {
    let codes = load_codes();
    let stride = x.k.next_multiple_of(GROUP);
    let mut first = 0;
    while first < w.rows {
        let count = w.same_scale(first);
        let stored = w.rows(first, count)?;
        let columns = panel.take(x.count * stride)?;
        for (r, columns) in columns.chunks_exact_mut(stride.max(1)).enumerate() {
            ordered(x.row(r), &stored, columns);
        }
        let mut r = 0;
        while r < x.count {
            let columns = &columns[r * stride..];
            let out = &mut out[r * w.rows + first..];
            r += match x.count - r {
                1 => strip::<W, 1, SUMS>(columns, &stored, &codes, out, w.rows),
                2 => strip::<W, 2, 1>(columns, &stored, &codes, out, w.rows),
                3 => strip::<W, 3, 1>(columns, &stored, &codes, out, w.rows),
                _ => strip::<W, 4, 1>(columns, &stored, &codes, out, w.rows),
            };
        }
        first += count;
    }
    Ok(())
}

/// `R` rows of activations (as [`ordered`] wrote them) against all rows of `w`; returns `R`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn strip<W: Elements, const R: usize, const S: usize>(
    columns: &[f32],
    w: &Matrix<'_>,
    codes: &Codes,
    out: &mut [f32],
    stride: usize,
) -> usize {
    let k = w.k.next_multiple_of(GROUP);
    let xs = std::array::from_fn(|r| &columns[r * k..][..k]);
    let ahead = Ahead::new(TILE, w.row_bytes, PREFETCH_BYTES);
    let whole = w.rows / TILE * TILE;
    for row in (0..whole).step_by(TILE) {
        let rows = std::array::from_fn(|j| w.row::<W>(row + j));
        let sums = tile::<R, TILE, S>(xs, rows, codes, ahead);
        for (r, sums) in sums.into_iter().enumerate() {
            let to = &mut out[r * stride + row..][..TILE];
            // SAFETY: four floats are written.
            unsafe { _mm_storeu_ps(to.as_mut_ptr(), four_totals(sums)) };
        }
    }
    for row in whole..w.rows {
        for (r, x) in xs.iter().enumerate() {
            let [[sum]] = tile::<1, 1, ALONE>([x], [w.row::<W>(row)], codes, ahead);
            out[r * stride + row] = _mm512_reduce_add_ps(sum);
        }
    }
    R
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

/// Writes `x`, times the scales of row 0 of `w`, in the order in which [`weights`] gives the
/// columns: of each 64, a register for the first even columns of each 16, the first odd, the last
/// even and the last odd ones. Columns beyond the last are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn ordered(x: &[f32], w: &Matrix<'_>, to: &mut [f32]) {
    let parted = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    for (group, (x, to)) in x.chunks(GROUP).zip(to.chunks_exact_mut(GROUP)).enumerate() {
        let mut columns = [0.0; GROUP];
        columns[..x.len()].copy_from_slice(x);
        let scale = _mm512_set1_ps(w.scale(0, group * GROUP / BLOCK));
        // SAFETY: 64 floats are read, and as many written.
        unsafe {
            let [a, b, c, d] = [0, 16, 32, 48].map(|at| {
                let scaled = _mm512_mul_ps(_mm512_loadu_ps(columns.as_ptr().add(at)), scale);
                _mm512_permutexvar_ps(parted, scaled)
            });
            for (i, sixteen) in quarters([a, b, c, d]).into_iter().enumerate() {
                _mm512_storeu_ps(to.as_mut_ptr().add(16 * i), sixteen);
            }
        }
    }
}

/// Of four registers the first quarters in one, and so on.
#[target_feature(enable = "avx512f")]
#[inline]
fn quarters([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    let ab = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
    let cd = _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d);
    let ab_high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
    let cd_high = _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d);
    [
        _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
        _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_high, cd_high),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_high, cd_high),
    ]
}

/// 64 codes as numbers. Unpacking bytes leaves of each 16 the first 8 in one register and the last
/// 8 in the other, as BF16; an even column is then the low half of what is a number in its high
/// half.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn weights(code: __m512i, codes: &Codes) -> [__m512; 4] {
    let low = _mm512_permutex2var_epi8(codes.low[0], code, codes.low[1]);
    let high = _mm512_permutex2var_epi8(codes.high[0], code, codes.high[1]);
    // `high | (code & 0x80)`: the sign.
    let high = _mm512_ternarylogic_epi64::<0xF8>(high, code, _mm512_set1_epi8(-128));
    let first = _mm512_unpacklo_epi8(low, high);
    let last = _mm512_unpackhi_epi8(low, high);
    let odd = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    [
        _mm512_slli_epi32::<16>(first),
        _mm512_and_si512(first, odd),
        _mm512_slli_epi32::<16>(last),
        _mm512_and_si512(last, odd),
    ]
    .map(|bits| _mm512_castsi512_ps(bits))
}

/// Products of `R` rows of activations (as [`ordered`] wrote them) and `C` weight rows, in `S`
/// accumulators each: what the lanes of a register add up to.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn tile<const R: usize, const C: usize, const S: usize>(
    x: [&[f32]; R],
    w: [&[u8]; C],
    codes: &Codes,
    ahead: Ahead,
) -> [[__m512; C]; R] {
    let k = w[0].len();
    assert!(
        x.iter().all(|x| x.len() == k.next_multiple_of(GROUP)) && w.iter().all(|w| w.len() == k)
    );
    let mut sums = [[[_mm512_setzero_ps(); S]; C]; R];
    for first in (0..k).step_by(GROUP) {
        let next = ahead.at(first);
        for (c, w) in w.iter().enumerate() {
            // SAFETY: 64 codes from `first` on, of which masked ones are not read, and 64
            // activations; a prefetch may have any address.
            unsafe {
                let from = w.as_ptr().add(first);
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(next).cast());
                let code = match k - first < GROUP {
                    true => _mm512_maskz_loadu_epi8(u64::MAX >> (GROUP + first - k), from.cast()),
                    false => _mm512_loadu_si512(from.cast()),
                };
                for (i, weights) in weights(code, codes).into_iter().enumerate() {
                    for r in 0..R {
                        let x = _mm512_loadu_ps(x[r].as_ptr().add(first + 16 * i));
                        sums[r][c][i % S] = _mm512_fmadd_ps(weights, x, sums[r][c][i % S]);
                    }
                }
            }
        }
    }
    sums.map(|row| {
        row.map(|sums| {
            let sum = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
            sum.unwrap_or(_mm512_setzero_ps())
        })
    })
}

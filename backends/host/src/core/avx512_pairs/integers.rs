//! E4M3 weights and activations as integers of 16 bits.
//!
//! 31 bits hold the sum of 128 products because weights count in sixteenths (so of a scale's 448
//! the smallest weights lose what is below 1/32) and activations have twelve bits. Weights whose
//! scale does not make the largest near 448 would lose all: those are left to exact products.

use std::arch::x86_64::*;

use hadal_device::DType;

use super::many::{self, To};
use super::{Pairs, ROW, Wrong, sixteen};
use crate::core::digits::Line;
use crate::weight::{BLOCK, E4M3};

/// See [`Pairs`].
pub(crate) struct Integers;

/// A weight of one.
const UNIT: f32 = 16.0;
/// The largest weight and the largest activation: a sum of 128 products stays within 31 bits.
pub(super) const MOST_WEIGHT: i32 = 448 * UNIT as i32;
const MOST: f32 = (i32::MAX / (BLOCK as i32 * MOST_WEIGHT)) as f32;
/// The code of 4: where it is larger than all codes, a sixteenth is more than 8 bits leave.
const LEAST_LARGEST: u8 = 0x48;
/// Values below count as nothing where no larger one shares their scale: their reciprocals
/// would be infinite.
pub(super) const LEAST: f32 = 1e-30;

/// Low and high bytes of the integers of the 128 magnitudes.
static BYTES: [[u8; 128]; 2] = magnitude_bytes();

const fn magnitude_bytes() -> [[u8; 128]; 2] {
    let mut bytes = [[0; 128]; 2];
    let mut code = 0;
    // The last code is no number.
    while code < 127 {
        let [low, high] = ((E4M3[code] * UNIT + 0.5) as u16).to_le_bytes();
        bytes[0][code] = low;
        bytes[1][code] = high;
        code += 1;
    }
    bytes
}

impl Integers {
    /// The first of the two columns of 128 that number `pair` of a register row is.
    pub fn column(pair: usize) -> usize {
        let (line, number) = (pair / 16, pair % 16);
        64 * (line / 2) + 16 * (number / 4) + 8 * (line % 2) + 2 * (number % 4)
    }
}

// SAFETY: AVX-512 F, BW, DQ, VL and VNNI are used, here and below, and VBMI by `tables` and
// `weights` alone, which `mixed` leaves alone.
unsafe impl Pairs for Integers {
    const TYPE: DType = DType::F8E4M3;
    const UNIT: f32 = UNIT;
    /// [`BYTES`].
    type Tables = [[__m512i; 2]; 2];

    #[inline(always)]
    unsafe fn tables() -> Self::Tables {
        // SAFETY: the trait's contract; 64 bytes from each of the places.
        unsafe {
            let mut tables = [[_mm512_setzero_si512(); 2]; 2];
            for (table, bytes) in tables.iter_mut().zip(&BYTES) {
                table[0] = _mm512_loadu_si512(bytes.as_ptr().cast());
                table[1] = _mm512_loadu_si512(bytes.as_ptr().add(64).cast());
            }
            tables
        }
    }

    /// A scale of NaN where one is an infinity or a NaN.
    #[inline(always)]
    unsafe fn activations(from: &[f32], to: &mut [Line; ROW]) -> f32 {
        // SAFETY: the trait's contract; 128 integers of 16 bits, four lines, are written.
        unsafe {
            let mut x = [_mm512_setzero_ps(); BLOCK / 16];
            // Magnitudes in order, NaN last.
            let mut largest = _mm512_setzero_si512();
            for (i, x) in x.iter_mut().enumerate() {
                *x = sixteen(from, 16 * i);
                largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps(*x)));
            }
            let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
            let finite = largest.is_finite();
            let largest = largest.max(LEAST);
            let factor = _mm512_set1_ps(MOST / largest);
            for (i, x) in x.into_iter().enumerate() {
                let whole = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(x, factor)));
                // Of each 16 the first 8 to one line and the last 8 to the next.
                let to = to.as_mut_ptr().cast::<__m128i>().add(8 * (i / 4) + i % 4);
                _mm_store_si128(to, _mm256_castsi256_si128(whole));
                _mm_store_si128(to.add(4), _mm256_extracti128_si256::<1>(whole));
            }
            if finite { largest / MOST } else { f32::NAN }
        }
    }

    /// Of each 16 columns the first 8 in one register and the last 8 in the other, as unpacking
    /// bytes leaves them.
    #[inline(always)]
    unsafe fn weights(
        [lows, highs]: &Self::Tables,
        from: *const u8,
        count: usize,
        worst: &mut __m512i,
    ) -> [__m512i; 2] {
        // SAFETY: the trait's contract; masked bytes are not read.
        unsafe {
            let code = match count < 64 {
                true => _mm512_maskz_loadu_epi8((1 << count) - 1, from.cast()),
                false => _mm512_loadu_si512(from.cast()),
            };
            // Doubled magnitudes, of which that of no number is the largest.
            *worst = _mm512_max_epu8(*worst, _mm512_add_epi8(code, code));
            let low = _mm512_permutex2var_epi8(lows[0], code, lows[1]);
            let high = _mm512_permutex2var_epi8(highs[0], code, highs[1]);
            [
                signed(
                    _mm512_unpacklo_epi8(low, high),
                    _mm512_unpacklo_epi8(code, code),
                ),
                signed(
                    _mm512_unpackhi_epi8(low, high),
                    _mm512_unpackhi_epi8(code, code),
                ),
            ]
        }
    }

    #[inline(always)]
    unsafe fn wrong(worst: __m512i) -> Wrong {
        const NO_NUMBER: u8 = 2 * 0x7F;
        // SAFETY: the trait's contract.
        unsafe {
            let zeros = _mm512_test_epi8_mask(worst, worst) == 0;
            let least = _mm512_set1_epi8((2 * LEAST_LARGEST) as i8);
            Wrong {
                no_number: _mm512_cmpeq_epi8_mask(worst, _mm512_set1_epi8(NO_NUMBER as i8)) != 0,
                small: !zeros && _mm512_cmpge_epu8_mask(worst, least) == 0,
            }
        }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m512i, weights: __m512i, activations: __m512i) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe { _mm512_dpwssd_epi32(sum, weights, activations) }
    }

    #[inline(always)]
    unsafe fn total(sum: __m512i) -> __m512 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }

    #[inline(always)]
    unsafe fn tile<const C: usize, const R: usize>(
        panels: *const Line,
        records: *const Line,
        out: *mut f32,
        to: To,
    ) -> usize {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        #[inline(never)]
        unsafe fn alone<const C: usize, const R: usize>(
            panels: *const Line,
            records: *const Line,
            out: *mut f32,
            to: To,
        ) -> usize {
            // SAFETY: the caller's promise.
            unsafe { many::tile::<Integers, C, R>(panels, records, out, to) }
        }
        // SAFETY: the caller's promise.
        unsafe { alone::<C, R>(panels, records, out, to) }
    }
}

/// `magnitude` with the signs that are the highest bits of `signs`.
///
/// # Safety
/// See [`Pairs`].
#[inline(always)]
unsafe fn signed(magnitude: __m512i, signs: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let negative = _mm512_srai_epi16::<15>(signs);
        _mm512_sub_epi16(_mm512_xor_si512(magnitude, negative), negative)
    }
}

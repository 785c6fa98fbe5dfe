//! Registers of AVX-512 (F, BW, DQ, VL).
//!
//! VNNI is not used here: it multiplies integers, see `avx512_vnni`.

use std::arch::x86_64::*;

use super::digits::Line;
use super::lanes::{Lanes, exp};

/// The AVX-512 core.
pub(crate) struct Avx512;

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(super) struct Zmm(__m512);

// SAFETY: the methods use AVX-512 F, BW, DQ and VL, which the trait's caller vouches for, and
// read or write 16 elements at any alignment.
#[rustfmt::skip]
unsafe impl Lanes for Zmm {
    const N: usize = 16;
    const TILE: usize = 4;
    const SIX: bool = true;
    const E4M3_UNIT: f32 = 256.0;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Zmm {
        // SAFETY: the contract of `Lanes`, here and below.
        Zmm(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Zmm {
        // SAFETY: see above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    /// E4M3 bits moved into a half float have its value times 2^-8 (biases 7 and 15), also
    /// the subnormals; the NaN codes get the missing exponent bit.
    #[inline(always)]
    unsafe fn load_e4m3(from: *const u8) -> Zmm {
        // SAFETY: see above.
        unsafe {
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast()));
            let spread = _mm256_srai_epi16::<1>(_mm256_slli_epi16::<8>(codes));
            let magnitude = _mm256_set1_epi16(0x3F80);
            let nan = _mm256_cmpeq_epi16_mask(_mm256_and_si256(spread, magnitude), magnitude);
            let half = _mm256_and_si256(spread, _mm256_set1_epi16(0xBFFFu16 as i16));
            let half = _mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7FFF));
            Zmm(_mm512_cvtph_ps(half))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Zmm) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Zmm) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Zmm) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Zmm) -> Zmm {
        // SAFETY: see above. The second operand is the result where one is NaN.
        Zmm(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn exp(self) -> Zmm {
        // SAFETY: see above.
        Zmm(unsafe { powers(self.0) })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn sums<const C: usize>(registers: [Zmm; C]) -> [f32; C] {
        let mut totals = [0.0; C];
        let (fours, rest) = registers.as_chunks::<4>();
        let (to, last) = totals.as_chunks_mut::<4>();
        for (four, to) in fours.iter().zip(to) {
            // SAFETY: see above; four floats are written.
            unsafe { _mm_storeu_ps(to.as_mut_ptr(), four_totals(four.map(|it| it.0))) };
        }
        for (register, to) in rest.iter().zip(last) {
            // SAFETY: see above.
            *to = unsafe { register.sum() };
        }
        totals
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a hint; any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}

super::vector_core::vector_core!(
    Avx512,
    Zmm,
    crate::core::blocks::Bytes,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);

/// What cores with more instructions leave to this one: everything but `dots`, `block_dots` and
/// `mix`.
macro_rules! as_avx512 {
    () => {
        fn swiglu(gate: &mut [f32], up: &[f32]) {
            crate::core::Avx512::swiglu(gate, up);
        }

        fn scale(values: &mut [f32], factor: f32) -> f32 {
            crate::core::Avx512::scale(values, factor)
        }

        fn exp(values: &mut [f32], shift: f32) -> f32 {
            crate::core::Avx512::exp(values, shift)
        }

        fn squares(values: &[f32]) -> f64 {
            crate::core::Avx512::squares(values)
        }
    };
}
pub(super) use as_avx512;

/// [`Lanes::exp`].
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn powers(x: __m512) -> __m512 {
    // The second operand of max and min is the result where one is NaN.
    let x = _mm512_max_ps(_mm512_set1_ps(exp::LOW), x);
    let x = _mm512_min_ps(_mm512_set1_ps(exp::HIGH), x);
    let n = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm512_roundscale_ps::<0>(n);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(exp::LN2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(exp::LN2_LOW), r);
    let mut p = _mm512_set1_ps(exp::POLYNOMIAL[0]);
    for c in &exp::POLYNOMIAL[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
    }
    let one = _mm512_set1_ps(1.0);
    let p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, one));
    _mm512_scalef_ps(p, n)
}

/// The sums of the lanes of four registers, in half of the steps that four by themselves take.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub(super) fn four_totals([a, b, c, d]: [__m512; 4]) -> __m128 {
    let pairs = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
    let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
    // Of each register a lane in every 128 bits.
    let all = _mm512_add_ps(low, high);
    let half = _mm256_add_ps(
        _mm512_castps512_ps256(all),
        _mm512_extractf32x8_ps::<1>(all),
    );
    _mm_add_ps(
        _mm256_castps256_ps128(half),
        _mm256_extractf128_ps::<1>(half),
    )
}

/// Number `c` of line `r`, lines `step` apart, becomes number `r` of line `c`.
///
/// # Safety
/// Sixteen lines can be read and written.
#[target_feature(enable = "avx512f")]
#[allow(
    clippy::needless_range_loop,
    reason = "a number of a column is an index of several arrays of registers"
)]
pub(super) unsafe fn transpose(from: *const Line, step: usize, to: *mut Line) {
    // SAFETY: the caller's promise.
    unsafe {
        let row = |r: usize| _mm512_load_si512(from.add(r * step).cast());
        // Of four rows, number `4 * quarter + c` of each in each quarter.
        let fours: [[__m512i; 4]; 4] = std::array::from_fn(|i| {
            let (a, b) = (row(4 * i), row(4 * i + 1));
            let (c, d) = (row(4 * i + 2), row(4 * i + 3));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        });
        for c in 0..4 {
            let [a, b, d, e] = [fours[0][c], fours[1][c], fours[2][c], fours[3][c]];
            let even = [
                _mm512_shuffle_i32x4::<0x88>(a, b),
                _mm512_shuffle_i32x4::<0x88>(d, e),
            ];
            let odd = [
                _mm512_shuffle_i32x4::<0xDD>(a, b),
                _mm512_shuffle_i32x4::<0xDD>(d, e),
            ];
            let put = |line: usize, value| _mm512_store_si512(to.add(line + c).cast(), value);
            put(0, _mm512_shuffle_i32x4::<0x88>(even[0], even[1]));
            put(4, _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]));
            put(8, _mm512_shuffle_i32x4::<0xDD>(even[0], even[1]));
            put(12, _mm512_shuffle_i32x4::<0xDD>(odd[0], odd[1]));
        }
    }
}

//! Registers of AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use super::lanes::{Lanes, exp};

/// The AVX2 core.
pub(crate) struct Avx2;

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Ymm(pub(super) __m256);

// SAFETY: the methods use AVX2, FMA and F16C, which the trait's caller vouches for, and read
// or write 8 elements at any alignment.
#[rustfmt::skip]
unsafe impl Lanes for Ymm {
    const N: usize = 8;
    const TILE: usize = 2;
    const E4M3_UNIT: f32 = 256.0;

    // SAFETY (all blocks): the contract of `Lanes`.
    #[inline(always)]
    unsafe fn splat(value: f32) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Ymm {
        // SAFETY: see above.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Ymm(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }
    /// E4M3 bits moved into a half float have its value times 2^-8 (biases 7 and 15), also
    /// the subnormals; the NaN codes get the missing exponent bit.
    #[inline(always)]
    unsafe fn load_e4m3(from: *const u8) -> Ymm {
        // SAFETY: see above.
        unsafe {
            let codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(from.cast()));
            let spread = _mm_srai_epi16::<1>(_mm_slli_epi16::<8>(codes));
            let magnitude = _mm_set1_epi16(0x3F80);
            let nan = _mm_cmpeq_epi16(_mm_and_si128(spread, magnitude), magnitude);
            let half = _mm_and_si128(spread, _mm_set1_epi16(0xBFFFu16 as i16));
            let half = _mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x4000)));
            Ymm(_mm256_cvtph_ps(half))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Ymm) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Ymm) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Ymm) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Ymm) -> Ymm {
        // SAFETY: see above. The second operand is the result where one is NaN.
        Ymm(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Ymm, b: Ymm) -> Ymm {
        // SAFETY: see above.
        Ymm(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn exp(self) -> Ymm {
        // SAFETY: see above.
        unsafe {
            // The second operand of max and min is the result where one is NaN.
            let x = _mm256_max_ps(_mm256_set1_ps(exp::LOW), self.0);
            let x = _mm256_min_ps(_mm256_set1_ps(exp::HIGH), x);
            let n = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E));
            let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
            let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(exp::LN2_HIGH), x);
            let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(exp::LN2_LOW), r);
            let mut p = _mm256_set1_ps(exp::POLYNOMIAL[0]);
            for c in &exp::POLYNOMIAL[1..] {
                p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*c));
            }
            let p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0)));
            let power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            Ymm(_mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(power))))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a hint; any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

super::vector_core::vector_core!(Avx2, Ymm, crate::core::blocks::Bytes, "avx2,fma,f16c");

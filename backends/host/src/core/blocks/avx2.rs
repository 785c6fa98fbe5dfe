//! 32 codes in a register of AVX2.

use std::arch::x86_64::*;

use super::codes::{Codes, compiled};
use super::format::two;
use crate::core::avx2::Ymm;
use crate::core::lanes::Lanes;

/// 32 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(__m256i);

// SAFETY: the methods use AVX2, FMA and F16C, which the trait's caller vouches for, and read
// or write at any alignment.
unsafe impl Codes for Bytes {
    type Eight = __m256;
    type Wide = [__m256i; 2];

    // SAFETY (all blocks): the contract of `Codes`.
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { _mm256_loadu_si256(at.cast()) })
    }
    #[inline(always)]
    unsafe fn words([a, b, c, d]: [u64; 4]) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { _mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64) })
    }
    #[inline(always)]
    unsafe fn all(byte: u8) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { _mm256_set1_epi8(byte as i8) })
    }
    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast()));
            let moved = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
            Bytes(_mm256_and_si256(moved, _mm256_set1_epi8(15)))
        }
    }
    #[inline(always)]
    unsafe fn masks(bits: u32) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let places = _mm256_setr_epi64x(
                0,
                0x0101_0101_0101_0101,
                0x0202_0202_0202_0202,
                0x0303_0303_0303_0303,
            );
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), places);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            Bytes(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit))
        }
    }
    #[inline(always)]
    unsafe fn and(self, other: Bytes) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { _mm256_and_si256(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn or(self, other: Bytes) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { _mm256_or_si256(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Bytes) -> Bytes {
        // SAFETY: see above.
        Bytes(unsafe { _mm256_add_epi8(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn moved(self, by: i32) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let count = _mm_cvtsi32_si128(by.abs());
            Bytes(match by < 0 {
                true => _mm256_sll_epi16(self.0, count),
                false => _mm256_srl_epi16(self.0, count),
            })
        }
    }
    #[inline(always)]
    unsafe fn at_least(self, least: u8) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let larger = _mm256_max_epu8(self.0, _mm256_set1_epi8(least as i8));
            Bytes(_mm256_cmpeq_epi8(larger, self.0))
        }
    }
    #[inline(always)]
    unsafe fn negated(self, masks: Bytes) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let ones = _mm256_xor_si256(self.0, masks.0);
            Bytes(_mm256_sub_epi8(ones, masks.0))
        }
    }
    #[inline(always)]
    unsafe fn of(self, table: &[i8; 16]) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            Bytes(_mm256_shuffle_epi8(table, self.0))
        }
    }

    #[inline(always)]
    unsafe fn wide(self, signed: bool) -> [__m256i; 2] {
        // SAFETY: see above.
        unsafe {
            match signed {
                true => [
                    _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(self.0)),
                    _mm256_srai_epi16::<8>(self.0),
                ],
                false => [
                    _mm256_and_si256(self.0, _mm256_set1_epi16(255)),
                    _mm256_srli_epi16::<8>(self.0),
                ],
            }
        }
    }
    #[inline(always)]
    unsafe fn products([even, odd]: [__m256i; 2], x: *const i16) -> __m256 {
        // SAFETY: see above; 32 numbers are read.
        unsafe {
            let even = _mm256_madd_epi16(even, _mm256_loadu_si256(x.cast()));
            let odd = _mm256_madd_epi16(odd, _mm256_loadu_si256(x.add(16).cast()));
            _mm256_cvtepi32_ps(_mm256_add_epi32(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn floats(self, signed: bool) -> [__m256; 4] {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_castsi256_si128(self.0);
            let high = _mm256_extracti128_si256::<1>(self.0);
            let eights = [
                low,
                _mm_srli_si128::<8>(low),
                high,
                _mm_srli_si128::<8>(high),
            ];
            let mut floats = [_mm256_setzero_ps(); 4];
            for (to, eight) in floats.iter_mut().zip(eights) {
                *to = _mm256_cvtepi32_ps(match signed {
                    true => _mm256_cvtepi8_epi32(eight),
                    false => _mm256_cvtepu8_epi32(eight),
                });
            }
            floats
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn two(at: *const f32) -> __m256 {
        // SAFETY: see above; two numbers are read.
        unsafe {
            let pairs = _mm256_castpd_ps(_mm256_set1_pd(at.cast::<f64>().read_unaligned()));
            _mm256_permutevar_ps(pairs, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))
        }
    }
    #[inline(always)]
    unsafe fn load_eight(at: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store_eight(eight: __m256, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, eight) }
    }
    #[inline(always)]
    unsafe fn fma(sum: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn sum(eight: __m256) -> f32 {
        // SAFETY: see above.
        unsafe { Ymm(eight).sum() }
    }
    #[inline(always)]
    unsafe fn of_bytes(bytes: u64) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes as i64))) }
    }
    #[inline(always)]
    unsafe fn halves(at: *const u8, step: usize) -> __m256 {
        // SAFETY: see above; the last two bytes can be read.
        unsafe {
            let half = |i: usize| two(at.add(i * step)) as i16;
            _mm256_cvtph_ps(_mm_setr_epi16(
                half(0),
                half(1),
                half(2),
                half(3),
                half(4),
                half(5),
                half(6),
                half(7),
            ))
        }
    }
    #[inline(always)]
    unsafe fn half(at: *const u8) -> f32 {
        // SAFETY: see above; two bytes are read.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(two(at) as i32))) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a hint; any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    compiled!(Bytes, "avx2,fma,f16c");
}

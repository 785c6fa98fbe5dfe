//! Formats whose codes are places in a table of patterns: eight or four values that are looked
//! up together.

use std::arch::x86_64::*;

use hadal_blocks::grids;
use hadal_device::DType;

use super::format::*;
use crate::core::blocks;

/// `iq2_xxs`.
pub(in crate::core) struct Iq2Xxs;
/// `iq2_xs`.
pub(in crate::core) struct Iq2Xs;
/// `iq2_s`.
pub(in crate::core) struct Iq2S;
/// `iq3_xxs`.
pub(in crate::core) struct Iq3Xxs;
/// `iq3_s`.
pub(in crate::core) struct Iq3S;
/// `iq1_s`.
pub(in crate::core) struct Iq1S;
/// `iq1_m`.
pub(in crate::core) struct Iq1M;
/// `tq1_0`.
pub(in crate::core) struct Tq1_0;

/// What the codes of two bits of `iq2` stand for.
const EIGHTS: [u8; 16] = [8, 25, 43, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// The same of `iq3_xxs`; its last step is ten wide.
const XXS: [u8; 16] = [4, 12, 20, 28, 36, 44, 52, 62, 0, 0, 0, 0, 0, 0, 0, 0];
/// The same of `iq3_s`.
const ODD: [u8; 16] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31];

#[inline(always)]
fn sign(seven: u32) -> u64 {
    u64::from(blocks::sign(seven))
}

#[inline(always)]
unsafe fn word(at: *const u8) -> u32 {
    // SAFETY: the caller has two bytes there.
    u32::from(unsafe { at.cast::<u16>().read_unaligned() })
}

#[inline(always)]
unsafe fn long(at: *const u8) -> u32 {
    // SAFETY: the caller has four bytes there.
    unsafe { at.cast::<u32>().read_unaligned() }
}

/// 64 codes of two bits.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn eights(patterns: [u16; 8]) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let wide = _mm512_cvtepu16_epi64(_mm_loadu_si128(patterns.as_ptr().cast()));
        let place = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 8, 8, 8, 8, 9, 9, 9, 9);
        let bytes = _mm512_shuffle_epi8(wide, _mm512_broadcast_i32x4(place));
        let first = _mm512_test_epi8_mask(bytes, _mm512_set1_epi32(0x4010_0401));
        let second = _mm512_test_epi8_mask(bytes, _mm512_set1_epi32(0x8020_0802u32 as i32));
        let codes = _mm512_maskz_mov_epi8(first, _mm512_set1_epi8(1));
        _mm512_mask_add_epi8(codes, second, codes, _mm512_set1_epi8(2))
    }
}

/// 64 codes of four bits.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn fours(patterns: [u16; 16]) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(patterns.as_ptr().cast()));
        let place = _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13);
        let [low, high] = nibbles(_mm512_shuffle_epi8(wide, _mm512_broadcast_i32x4(place)));
        _mm512_mask_mov_epi8(low, 0xAAAA_AAAA_AAAA_AAAA, high)
    }
}

/// What codes stand for, and 64, or less where `negative`.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn values(codes: __m512i, table: &[u8; 16], negative: u64) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        let (value, zero) = (_mm512_shuffle_epi8(table, codes), _mm512_set1_epi8(64));
        let sum = _mm512_add_epi8(zero, value);
        _mm512_mask_sub_epi8(sum, negative, zero, value)
    }
}

/// `factor * (add + small)`, of sixteen small integers.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn scaled(factor: __m512, add: f32, small: __m128i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let small = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(small));
        _mm512_mul_ps(factor, _mm512_add_ps(small, _mm512_set1_ps(add)))
    }
}

/// The same of the sixteen nibbles of 8 bytes at `at`.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn scaled_nibbles(factor: __m512, add: f32, at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = _mm_loadl_epi64(at.cast());
        let pairs = _mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes));
        scaled(factor, add, _mm_and_si128(pairs, _mm_set1_epi8(15)))
    }
}

/// A half float at `at`, times `by`.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn half_times(at: *const u8, by: f32) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_mul_ps(one_half(at), _mm512_set1_ps(by)) }
}

/// Eight bytes in the first half of a register.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn eight_bytes(bytes: [u8; 8]) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_cvtsi64_si128(i64::from_le_bytes(bytes)) }
}

/// The members of [`Format`] that most formats of patterns have in common.
macro_rules! patterns {
    ($format:ident, $wide:literal, $offset:literal) => {
        const TYPE: DType = DType::$format;
        const ORDER: [usize; GROUPS] = NATURAL;
        const LANES: [usize; GROUPS] = if $wide { BY_32 } else { NATURAL };
        const WIDE: bool = $wide;
        const OFFSET: i32 = $offset;
        const MINIMA: Minima = Minima::Offset;
    };
}

// SAFETY: AVX-512 F and BW are used, here and below.
unsafe impl Format for Iq2Xxs {
    patterns!(Iq2Xxs, true, 64);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 66 bytes.
        unsafe {
            let (mut span, mut scales) = (Span::NOTHING, [0; 8]);
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let (mut patterns, mut negative) = ([0; 8], 0);
                for i in 0..8 {
                    let at = at.add(2 + 16 * chunk + 8 * (i / 4));
                    patterns[i] = grids::IQ2XXS[usize::from(*at.add(i % 4))];
                    let rest = long(at.add(4));
                    negative |= sign(rest >> (7 * (i % 4))) << (8 * i);
                    scales[2 * chunk + i / 4] = (rest >> 28) as u8;
                }
                *codes = values(eights(patterns), &EIGHTS, negative);
            }
            Span::plain(
                span.codes,
                scaled(half_times(at, 0.25), 0.5, eight_bytes(scales)),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Iq2Xs {
    patterns!(Iq2Xs, false, 64);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 74 bytes.
        unsafe {
            let mut span = Span::NOTHING;
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let (mut patterns, mut negative) = ([0; 8], 0);
                for i in 0..8 {
                    let code = word(at.add(2 + 16 * chunk + 2 * i));
                    patterns[i] = grids::IQ2XS[(code & 511) as usize];
                    negative |= sign(code >> 9) << (8 * i);
                }
                *codes = values(eights(patterns), &EIGHTS, negative);
            }
            Span::plain(
                span.codes,
                scaled_nibbles(half_times(at, 0.25), 0.5, at.add(66)),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Iq2S {
    patterns!(Iq2S, false, 64);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 82 bytes.
        unsafe {
            let mut span = Span::NOTHING;
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let mut patterns = [0; 8];
                let high = word(at.add(66 + 2 * chunk));
                for (i, pattern) in patterns.iter_mut().enumerate() {
                    let low = u32::from(*at.add(2 + 8 * chunk + i));
                    *pattern = grids::IQ2S[(low | (high >> (2 * i) & 3) << 8) as usize];
                }
                let negative = at.add(34 + 8 * chunk).cast::<u64>().read_unaligned();
                *codes = values(eights(patterns), &EIGHTS, negative);
            }
            Span::plain(
                span.codes,
                scaled_nibbles(half_times(at, 0.25), 0.5, at.add(74)),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Iq3Xxs {
    patterns!(Iq3Xxs, true, 64);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 98 bytes.
        unsafe {
            let (mut span, mut scales) = (Span::NOTHING, [0; 8]);
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let (mut patterns, mut negative) = ([0; 16], 0);
                for (i, pattern) in patterns.iter_mut().enumerate() {
                    *pattern = grids::IQ3XXS[usize::from(*at.add(2 + 16 * chunk + i))];
                }
                for i in 0..8 {
                    let rest = long(at.add(66 + 8 * chunk + 4 * (i / 4)));
                    negative |= sign(rest >> (7 * (i % 4))) << (8 * i);
                    scales[2 * chunk + i / 4] = (rest >> 28) as u8;
                }
                *codes = values(fours(patterns), &XXS, negative);
            }
            Span::plain(
                span.codes,
                scaled(half_times(at, 0.5), 0.5, eight_bytes(scales)),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Iq3S {
    patterns!(Iq3S, true, 64);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 110 bytes.
        unsafe {
            let mut span = Span::NOTHING;
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let mut patterns = [0; 16];
                let high = word(at.add(66 + 2 * chunk));
                for (i, pattern) in patterns.iter_mut().enumerate() {
                    let low = u32::from(*at.add(2 + 16 * chunk + i));
                    *pattern = grids::IQ3S[(low | (high >> i & 1) << 8) as usize];
                }
                let negative = at.add(74 + 8 * chunk).cast::<u64>().read_unaligned();
                *codes = values(fours(patterns), &ODD, negative);
            }
            let four = long(at.add(106));
            let mut scales = [0; 8];
            for (i, scale) in scales.iter_mut().enumerate() {
                *scale = (four >> (4 * i) & 15) as u8;
            }
            Span::plain(
                span.codes,
                scaled(half_times(at, 2.0), 0.5, eight_bytes(scales)),
            )
        }
    }
}

/// `8 * code`, and 2 where `up`: eighths of patterns moved up or down by one, and 9.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn moved(patterns: [u16; 8], up: u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let codes = _mm512_slli_epi16::<3>(eights(patterns));
        let two = _mm512_maskz_mov_epi64(up, _mm512_set1_epi8(2));
        _mm512_or_si512(codes, two)
    }
}

// SAFETY: see above.
unsafe impl Format for Iq1S {
    patterns!(Iq1S, true, 9);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 50 bytes.
        unsafe {
            let (mut span, mut scales) = (Span::NOTHING, [0; 8]);
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let (mut patterns, mut up) = ([0; 8], 0);
                for i in 0..8 {
                    let high = word(at.add(34 + 4 * chunk + 2 * (i / 4)));
                    let low = u32::from(*at.add(2 + 8 * chunk + i));
                    patterns[i] = grids::IQ1S[(low | (high >> (3 * (i % 4)) & 7) << 8) as usize];
                    up |= u8::from(high & 0x8000 == 0) << i;
                    scales[2 * chunk + i / 4] = (high >> 12 & 7) as u8;
                }
                *codes = moved(patterns, up);
            }
            Span::plain(
                span.codes,
                scaled(half_times(at, 0.25), 0.5, eight_bytes(scales)),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Iq1M {
    patterns!(Iq1M, false, 9);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 56 bytes.
        unsafe {
            let (mut span, mut scales, mut scale) = (Span::NOTHING, [0u8; 16], 0);
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                let (mut patterns, mut up) = ([0; 8], 0);
                let fours = long(at.add(32 + 4 * chunk));
                for (i, pattern) in patterns.iter_mut().enumerate() {
                    let low = u32::from(*at.add(8 * chunk + i));
                    let four = fours >> (4 * i);
                    *pattern = grids::IQ1S[(low | (four & 7) << 8) as usize];
                    up |= u8::from(four & 8 == 0) << i;
                }
                *codes = moved(patterns, up);
                let word = word(at.add(48 + 2 * chunk));
                // The scale of all lies in the top four bits of four words.
                scale |= (word >> 12) << (4 * chunk);
                for i in 0..4 {
                    scales[4 * chunk + i] = (word >> (3 * i) & 7) as u8;
                }
            }
            let factor = half_times((scale as u16).to_le_bytes().as_ptr(), 0.25);
            let scales = _mm_loadu_si128(scales.as_ptr().cast());
            Span::plain(span.codes, scaled(factor, 0.5, scales))
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Tq1_0 {
    patterns!(Tq1_0, true, 1);

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 54 bytes; 256 bytes are stored and loaded.
        unsafe {
            let mut digits = [0u8; 256];
            let sixteen = |i: usize| at.add(16 * i).cast();
            for group in 0..16 {
                // Sixteen bytes, and the powers of three that put their digits on top.
                let power = |i: usize| [1, 3, 9, 27, 81][i];
                let (bytes, powers) = match group {
                    0..10 => {
                        let bytes = _mm_loadu_si128(sixteen(group % 2));
                        (bytes, _mm256_set1_epi16(power(group / 2)))
                    }
                    10..15 => {
                        let bytes = _mm_loadu_si128(sixteen(2));
                        (bytes, _mm256_set1_epi16(power(group - 10)))
                    }
                    _ => {
                        let powers =
                            _mm256_setr_epi16(1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27);
                        (_mm_set1_epi32(long(at.add(48)) as i32), powers)
                    }
                };
                let moved = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(bytes), powers);
                let top = _mm256_and_si256(moved, _mm256_set1_epi16(255));
                let digit = _mm256_mullo_epi16(top, _mm256_set1_epi16(3));
                let digit = _mm256_cvtepi16_epi8(_mm256_srli_epi16::<8>(digit));
                _mm_storeu_si128(digits.as_mut_ptr().add(16 * group).cast(), digit);
            }
            let mut span = Span::NOTHING;
            for (chunk, codes) in span.codes.iter_mut().enumerate() {
                *codes = _mm512_loadu_si512(digits.as_ptr().add(64 * chunk).cast());
            }
            Span::plain(span.codes, one_half(at.add(52)))
        }
    }
}

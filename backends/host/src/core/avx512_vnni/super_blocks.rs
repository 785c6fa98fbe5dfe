//! Formats with blocks of 256 whose codes are bits side by side.

use std::arch::x86_64::*;

use hadal_device::DType;

use super::format::*;
use super::thirty_twos::at_levels;

/// `q2_k`.
pub(in crate::core) struct Q2K;
/// `q3_k`.
pub(in crate::core) struct Q3K;
/// `q4_k`, and `q5_k` with 32 bytes of fifth bits.
pub(in crate::core) struct Q45K<const FIFTHS: usize>;
/// `q6_k`.
pub(in crate::core) struct Q6K;
/// `iq4_xs`.
pub(in crate::core) struct Iq4Xs;
/// `tq2_0`.
pub(in crate::core) struct Tq2_0;

/// Pairs of bits of 64 bytes: of each half of a block, 32 columns at a time.
const PAIRS: [usize; GROUPS] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];

/// The codes of 64 bytes with four pairs of bits each.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn pairs(at: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (bytes, pair) = (_mm512_loadu_si512(at.cast()), _mm512_set1_epi8(3));
        [
            _mm512_and_si512(bytes, pair),
            _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), pair),
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), pair),
            _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), pair),
        ]
    }
}

/// Sixteen bytes without sign as floats.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn floats(bytes: __m128i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)) }
}

/// Sixteen bytes with sign as floats.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn signed_floats(bytes: __m128i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) }
}

// SAFETY: AVX-512 F and BW are used, here and below.
unsafe impl Format for Q2K {
    const TYPE: DType = DType::Q2K;
    const ORDER: [usize; GROUPS] = PAIRS;
    const LANES: [usize; GROUPS] = NATURAL;
    const WIDE: bool = false;
    const OFFSET: i32 = 0;
    const MINIMA: Minima = Minima::Sixteens;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 84 bytes.
        unsafe {
            let four = _mm_set1_epi8(15);
            let scales = _mm_loadu_si128(at.cast());
            let minima = _mm_and_si128(_mm_srli_epi16::<4>(scales), four);
            Span {
                codes: pairs(at.add(16)),
                factors: _mm512_mul_ps(one_half(at.add(80)), floats(_mm_and_si128(scales, four))),
                minima: _mm512_mul_ps(one_half(at.add(82)), floats(minima)),
            }
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Q3K {
    const TYPE: DType = DType::Q3K;
    const ORDER: [usize; GROUPS] = PAIRS;
    const LANES: [usize; GROUPS] = NATURAL;
    const WIDE: bool = false;
    const OFFSET: i32 = 4;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 110 bytes.
        unsafe {
            let (low, high) = (
                at.add(96).cast::<u64>().read_unaligned(),
                u64::from(at.add(104).cast::<u32>().read_unaligned()),
            );
            let four = 0x0f0f_0f0f_0f0f_0f0f;
            let two = |shift: u32| {
                let (a, b) = (
                    high >> shift & 0x0303_0303,
                    high >> (shift + 2) & 0x0303_0303,
                );
                (a | b << 32) << 4
            };
            let scales = _mm_set_epi64x(
                (low >> 4 & four | two(4)) as i64,
                (low & four | two(0)) as i64,
            );
            let scales = signed_floats(_mm_sub_epi8(scales, _mm_set1_epi8(32)));
            let thirds = twice(at);
            let mut codes = pairs(at.add(32));
            for (chunk, codes) in codes.iter_mut().enumerate() {
                let third = _mm512_test_epi8_mask(thirds, halves(1 << chunk, 16 << chunk));
                *codes = _mm512_mask_add_epi8(*codes, third, *codes, _mm512_set1_epi8(4));
            }
            Span::plain(codes, _mm512_mul_ps(one_half(at.add(108)), scales))
        }
    }
}

// SAFETY: see above.
unsafe impl<const FIFTHS: usize> Format for Q45K<FIFTHS> {
    const TYPE: DType = if FIFTHS == 0 { DType::Q4K } else { DType::Q5K };
    /// Low nibbles of 64 bytes are two 32 of columns with one between them.
    const ORDER: [usize; GROUPS] = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
    const LANES: [usize; GROUPS] = EVEN;
    const WIDE: bool = true;
    const OFFSET: i32 = 0;
    const MINIMA: Minima = Minima::Odd;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 144 bytes, or 176 with the fifth bits.
        unsafe {
            let word = |i: usize| at.add(4 + 4 * i).cast::<u32>().read_unaligned();
            let (a, b, c) = (word(0), word(1), word(2));
            let (four, two) = (0x0f0f_0f0f, 0x0303_0303);
            let scales =
                u64::from(a & 0x3f3f_3f3f) | u64::from(c & four | (a >> 6 & two) << 4) << 32;
            let minima =
                u64::from(b & 0x3f3f_3f3f) | u64::from(c >> 4 & four | (b >> 6 & two) << 4) << 32;
            let both = _mm_unpacklo_epi8(
                _mm_cvtsi64_si128(scales as i64),
                _mm_cvtsi64_si128(minima as i64),
            );
            let factors = _mm512_mul_ps(two_halves(at), floats(both));

            let low = at.add(16 + FIFTHS);
            let [a, b] = nibbles(_mm512_loadu_si512(low.cast()));
            let [c, d] = nibbles(_mm512_loadu_si512(low.add(64).cast()));
            let mut codes = [a, b, c, d];
            if FIFTHS != 0 {
                let fifths = twice(at.add(16));
                for (codes, bit) in codes.iter_mut().zip([0, 1, 4, 5]) {
                    let fifth = _mm512_test_epi8_mask(fifths, halves(1 << bit, 4 << bit));
                    *codes = _mm512_mask_add_epi8(*codes, fifth, *codes, _mm512_set1_epi8(16));
                }
            }
            Span::plain(codes, factors)
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Q6K {
    const TYPE: DType = DType::Q6K;
    const ORDER: [usize; GROUPS] = NATURAL;
    const LANES: [usize; GROUPS] = NATURAL;
    const WIDE: bool = false;
    const OFFSET: i32 = 32;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 210 bytes.
        unsafe {
            // Each half of a register has its own shift.
            let two = _mm512_set1_epi16(2);
            let left = _mm512_mask_mov_epi16(_mm512_set1_epi16(4), !0 << 16, two);
            let right = _mm512_maskz_mov_epi16(!0 << 16, two);
            let high = _mm512_set1_epi8(0x30);
            let mut codes = [high; 4];
            for (n, codes) in codes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let [a, b] = nibbles(_mm512_loadu_si512(at.add(64 * n).cast()));
                let bits = twice(at.add(128 + 32 * n));
                // `nibble | bits & high`
                let bits_a = _mm512_sllv_epi16(bits, left);
                let bits_b = _mm512_srlv_epi16(bits, right);
                codes[0] = _mm512_ternarylogic_epi64::<0xF8>(a, bits_a, high);
                codes[1] = _mm512_ternarylogic_epi64::<0xF8>(b, bits_b, high);
            }
            let scales = signed_floats(_mm_loadu_si128(at.add(192).cast()));
            Span::plain(codes, _mm512_mul_ps(one_half(at.add(208)), scales))
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Iq4Xs {
    const TYPE: DType = DType::Iq4Xs;
    const ORDER: [usize; GROUPS] = NIBBLES;
    const LANES: [usize; GROUPS] = BY_32;
    const WIDE: bool = true;
    const OFFSET: i32 = 128;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 136 bytes.
        unsafe {
            let high = i32::from(at.add(2).cast::<u16>().read_unaligned());
            let low = at.add(4).cast::<i32>().read_unaligned();
            let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0);
            let low = _mm512_srlv_epi32(_mm512_set1_epi32(low), _mm512_slli_epi32::<2>(lane));
            let high = _mm512_srlv_epi32(_mm512_set1_epi32(high), _mm512_slli_epi32::<1>(lane));
            let six = _mm512_or_si512(
                _mm512_and_si512(low, _mm512_set1_epi32(15)),
                _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(3))),
            );
            let scales = _mm512_cvtepi32_ps(_mm512_sub_epi32(six, _mm512_set1_epi32(32)));

            let [a, b] = nibbles(_mm512_loadu_si512(at.add(8).cast()));
            let [c, d] = nibbles(_mm512_loadu_si512(at.add(72).cast()));
            Span::plain(at_levels([a, b, c, d]), _mm512_mul_ps(one_half(at), scales))
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Tq2_0 {
    const TYPE: DType = DType::Tq2_0;
    const ORDER: [usize; GROUPS] = PAIRS;
    const LANES: [usize; GROUPS] = BY_32;
    const WIDE: bool = true;
    const OFFSET: i32 = 1;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: 66 bytes.
        unsafe { Span::plain(pairs(at), one_half(at.add(64))) }
    }
}

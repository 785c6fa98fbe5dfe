//! Formats with blocks of 32: eight blocks are a span.

use std::arch::x86_64::*;

use hadal_blocks::LEVELS;
use hadal_device::DType;

use super::format::*;

/// `q8_0`.
pub(in crate::core) struct Q8_0;
/// `q4_0`.
pub(in crate::core) struct Q4_0;
/// `q4_1`.
pub(in crate::core) struct Q4_1;
/// `q5_0`.
pub(in crate::core) struct Q5_0;
/// `q5_1`.
pub(in crate::core) struct Q5_1;
/// `iq4_nl`.
pub(in crate::core) struct Iq4Nl;

// SAFETY: AVX-512 F and BW are used, here and below.
unsafe impl Format for Q8_0 {
    const TYPE: DType = DType::Q8_0;
    const ORDER: [usize; GROUPS] = NATURAL;
    const LANES: [usize; GROUPS] = BY_32;
    const WIDE: bool = true;
    const OFFSET: i32 = 128;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: eight blocks of 34 bytes.
        unsafe {
            let sign = _mm512_set1_epi8(-128);
            let mut codes = [sign; 4];
            for (chunk, codes) in codes.iter_mut().enumerate() {
                let at = at.add(68 * chunk);
                let low = _mm256_loadu_si256(at.add(2).cast());
                let high = _mm256_loadu_si256(at.add(36).cast());
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                *codes = _mm512_xor_si512(both, sign);
            }
            Span::plain(codes, eight_halves(at, 34))
        }
    }
}

/// Nibbles of eight blocks of `step` bytes.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn eight_nibbles(at: *const u8, step: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b] = nibbles(four_sixteens(at, step));
        let [c, d] = nibbles(four_sixteens(at.add(4 * step), step));
        [a, b, c, d]
    }
}

// SAFETY: see above.
unsafe impl Format for Q4_0 {
    const TYPE: DType = DType::Q4_0;
    const ORDER: [usize; GROUPS] = NIBBLES;
    const LANES: [usize; GROUPS] = BY_32;
    const WIDE: bool = true;
    const OFFSET: i32 = 8;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: eight blocks of 18 bytes.
        unsafe { Span::plain(eight_nibbles(at.add(2), 18), eight_halves(at, 18)) }
    }
}

/// What nibbles stand for in [`LEVELS`], and 128.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
pub(super) unsafe fn at_levels(mut codes: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's promise, and sixteen bytes are read.
    unsafe {
        let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(LEVELS.as_ptr().cast()));
        let levels = _mm512_xor_si512(levels, _mm512_set1_epi8(-128));
        for code in &mut codes {
            *code = _mm512_shuffle_epi8(levels, *code);
        }
        codes
    }
}

// SAFETY: see above.
unsafe impl Format for Iq4Nl {
    const TYPE: DType = DType::Iq4Nl;
    const ORDER: [usize; GROUPS] = NIBBLES;
    const LANES: [usize; GROUPS] = BY_32;
    const WIDE: bool = true;
    const OFFSET: i32 = 128;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: eight blocks of 18 bytes.
        unsafe {
            Span::plain(
                at_levels(eight_nibbles(at.add(2), 18)),
                eight_halves(at, 18),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Q4_1 {
    const TYPE: DType = DType::Q4_1;
    const ORDER: [usize; GROUPS] = NIBBLES;
    const LANES: [usize; GROUPS] = EVEN;
    const WIDE: bool = true;
    const OFFSET: i32 = 0;
    const MINIMA: Minima = Minima::OddAdded;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: eight blocks of 20 bytes.
        unsafe {
            let factors = eight_pairs(at, 20);
            Span::plain(eight_nibbles(at.add(4), 20), factors)
        }
    }
}

/// Adds fifth bits to the nibbles of eight blocks of `step` bytes, whose bits are at `at`.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn fifths(mut codes: [__m512i; 4], at: *const u8, step: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = |chunk: usize| {
            // Bits of low nibbles lie in the first half.
            let at = at.add(chunk / 2 * 4 * step + chunk % 2 * 2);
            (0..4).fold(0, |bits, i| {
                bits | u64::from(at.add(i * step).cast::<u16>().read_unaligned()) << (16 * i)
            })
        };
        let sixteen = _mm512_set1_epi8(16);
        for (chunk, codes) in codes.iter_mut().enumerate() {
            *codes = _mm512_mask_add_epi8(*codes, bits(chunk), *codes, sixteen);
        }
        codes
    }
}

// SAFETY: see above.
unsafe impl Format for Q5_0 {
    const TYPE: DType = DType::Q5_0;
    const ORDER: [usize; GROUPS] = NIBBLES;
    const LANES: [usize; GROUPS] = BY_32;
    const WIDE: bool = true;
    const OFFSET: i32 = 16;
    const MINIMA: Minima = Minima::Offset;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: eight blocks of 22 bytes.
        unsafe {
            Span::plain(
                fifths(eight_nibbles(at.add(6), 22), at.add(2), 22),
                eight_halves(at, 22),
            )
        }
    }
}

// SAFETY: see above.
unsafe impl Format for Q5_1 {
    const TYPE: DType = DType::Q5_1;
    const ORDER: [usize; GROUPS] = NIBBLES;
    const LANES: [usize; GROUPS] = EVEN;
    const WIDE: bool = true;
    const OFFSET: i32 = 0;
    const MINIMA: Minima = Minima::OddAdded;

    #[inline(always)]
    unsafe fn span(at: *const u8) -> Span {
        // SAFETY: the trait's contract: eight blocks of 24 bytes.
        unsafe {
            let factors = eight_pairs(at, 24);
            Span::plain(fifths(eight_nibbles(at.add(8), 24), at.add(4), 24), factors)
        }
    }
}

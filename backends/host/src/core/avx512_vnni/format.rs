//! What products need of a block format, and what all of them share.

use std::arch::x86_64::*;

use hadal_device::DType;

/// Columns taken at once: the block of most formats, eight blocks of the others.
pub(in crate::core) const SPAN: usize = 256;
/// Sixteens of columns in a span.
pub(in crate::core) const GROUPS: usize = SPAN / 16;
/// Room of a span in any format: of Q8_0, 8 blocks of 34 bytes.
pub(super) const MOST_BYTES: usize = 292;

/// 256 weights taken apart: a weight is `factor * (code - OFFSET)`, less its minimum.
#[derive(Clone, Copy)]
pub(in crate::core) struct Span {
    /// Codes of 8 bits without sign, sixteen by sixteen in the order [`Format::ORDER`].
    pub codes: [__m512i; 4],
    /// Factors; which lane is whose, [`Format::LANES`] says.
    pub factors: __m512,
    /// Minima, as [`Format::MINIMA`] says: in most formats, a register with the factors.
    pub minima: __m512,
}

impl Span {
    /// Weights of zero.
    // SAFETY: every bit pattern is a register.
    pub const NOTHING: Span = unsafe { std::mem::zeroed() };

    /// Minima that are factors times [`Format::OFFSET`], or lie between the factors.
    #[inline(always)]
    pub fn plain(codes: [__m512i; 4], factors: __m512) -> Span {
        Span {
            codes,
            factors,
            minima: factors,
        }
    }

    /// Only the blocks whose factors lie in `lanes`.
    ///
    /// # Safety
    /// See [`Format`].
    #[inline(always)]
    pub unsafe fn of_lanes(self, lanes: u16) -> Span {
        // SAFETY: the caller's promise.
        unsafe {
            Span {
                codes: self.codes,
                factors: _mm512_maskz_mov_ps(lanes, self.factors),
                minima: _mm512_maskz_mov_ps(lanes, self.minima),
            }
        }
    }
}

/// What is taken off products of codes, for each code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Minima {
    /// The factor, [`Format::OFFSET`] times.
    Offset,
    /// A minimum for each sixteen columns, in their order, beside the factors.
    Sixteens,
    /// A minimum for each 32 columns, in the odd lanes of the factors.
    Odd,
    /// The same, to be added.
    OddAdded,
}

/// A block format.
///
/// # Safety
/// `span` may be called on a processor with AVX-512 F, BW, DQ, VL only, from a function
/// compiled for it.
pub(in crate::core) unsafe trait Format: 'static {
    /// Which format.
    const TYPE: DType;
    /// Which sixteen columns lie at each sixteen codes.
    const ORDER: [usize; GROUPS];
    /// The lane of the factor of each sixteen columns.
    const LANES: [usize; GROUPS];
    /// 32 columns share a factor.
    const WIDE: bool;
    /// What was added to codes to have no sign.
    const OFFSET: i32;
    /// How minima lie.
    const MINIMA: Minima;

    /// Takes apart the span at `at`, all bytes of which can be read.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn span(at: *const u8) -> Span;

    /// Bytes of a span.
    const BYTES: usize = Self::TYPE.row_bytes(SPAN as u64) as usize;
    /// Where each sixteen columns lie among the codes.
    const PLACES: [usize; GROUPS] = inverse(Self::ORDER);
    /// Lanes of the factors, and of minima between them, of so many sixteens of columns. Only
    /// formats of blocks of 32 have spans with fewer than all.
    const KEPT: [u16; GROUPS + 1] = kept(Self::LANES);
    /// The lane of the factor of each four codes.
    const SPREAD: [[i32; 16]; 4] = spread(Self::ORDER, Self::LANES);
}

const fn kept(lanes: [usize; GROUPS]) -> [u16; GROUPS + 1] {
    // Where factors lie in even lanes minima lie in the odd ones.
    let between = lanes[GROUPS - 1] == 14;
    let mut kept = [0; GROUPS + 1];
    let mut group = 0;
    while group < GROUPS {
        let one = if between { 3 } else { 1 };
        kept[group + 1] = kept[group] | one << lanes[group];
        group += 1;
    }
    kept
}

const fn spread(order: [usize; GROUPS], lanes: [usize; GROUPS]) -> [[i32; 16]; 4] {
    let mut spread = [[0; 16]; 4];
    let mut four = 0;
    while four < 64 {
        spread[four / 16][four % 16] = lanes[order[four / 4]] as i32;
        four += 1;
    }
    spread
}

const fn inverse(order: [usize; GROUPS]) -> [usize; GROUPS] {
    let mut places = [0; GROUPS];
    let mut place = 0;
    while place < GROUPS {
        places[order[place]] = place;
        place += 1;
    }
    places
}

/// Columns as they come.
pub(super) const NATURAL: [usize; GROUPS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Low nibbles of four times sixteen bytes, then the high ones.
pub(super) const NIBBLES: [usize; GROUPS] = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15];
/// A factor for each 32 columns.
pub(super) const BY_32: [usize; GROUPS] = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7];
/// The same in even lanes.
pub(super) const EVEN: [usize; GROUPS] = [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14];

/// Half floats at `at` in all lanes, the one there in the even and the next in the odd ones.
///
/// # Safety
/// See [`Format`]; 4 bytes can be read.
#[inline(always)]
pub(super) unsafe fn two_halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi32(at.cast::<i32>().read_unaligned())) }
}

/// The half float at `at` in all lanes.
///
/// # Safety
/// See [`Format`]; 2 bytes can be read.
#[inline(always)]
pub(super) unsafe fn one_half(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(at.cast::<i16>().read_unaligned())) }
}

/// Half floats `step` bytes apart, in the first eight lanes.
///
/// # Safety
/// See [`Format`]; the last two bytes can be read.
#[inline(always)]
pub(super) unsafe fn eight_halves(at: *const u8, step: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let half = |i: usize| at.add(i * step).cast::<i16>().read_unaligned();
        let halves = _mm_setr_epi16(
            half(0),
            half(1),
            half(2),
            half(3),
            half(4),
            half(5),
            half(6),
            half(7),
        );
        _mm512_cvtph_ps(_mm256_zextsi128_si256(halves))
    }
}

/// Two half floats each `step` bytes, in the even and the odd lanes.
///
/// # Safety
/// See [`Format`]; the last four bytes can be read.
#[inline(always)]
pub(super) unsafe fn eight_pairs(at: *const u8, step: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let pair = |i: usize| at.add(i * step).cast::<i32>().read_unaligned();
        let pairs = _mm256_setr_epi32(
            pair(0),
            pair(1),
            pair(2),
            pair(3),
            pair(4),
            pair(5),
            pair(6),
            pair(7),
        );
        _mm512_cvtph_ps(pairs)
    }
}

/// Sixteen bytes each `step` bytes, four times.
///
/// # Safety
/// See [`Format`]; all of them can be read.
#[inline(always)]
pub(super) unsafe fn four_sixteens(at: *const u8, step: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let part = |i: usize| at.add(i * step).cast();
        let all = _mm512_castsi128_si512(_mm_loadu_si128(part(0)));
        let all = _mm512_inserti32x4::<1>(all, _mm_loadu_si128(part(1)));
        let all = _mm512_inserti32x4::<2>(all, _mm_loadu_si128(part(2)));
        _mm512_inserti32x4::<3>(all, _mm_loadu_si128(part(3)))
    }
}

/// Low and high nibbles.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: __m512i) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm512_set1_epi8(15);
        [
            _mm512_and_si512(bytes, low),
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low),
        ]
    }
}

/// 32 bytes at `at` in both halves.
///
/// # Safety
/// See [`Format`]; 32 bytes can be read.
#[inline(always)]
pub(super) unsafe fn twice(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(at.cast())) }
}

/// A register with `low` in the bytes of its first half and `high` in the others.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
pub(super) unsafe fn halves(low: u8, high: u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm512_set1_epi8(low as i8);
        _mm512_mask_mov_epi8(low, !0 << 32, _mm512_set1_epi8(high as i8))
    }
}

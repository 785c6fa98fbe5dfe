//! Weights as tiles of BF16, a row of them after the other.

use std::arch::x86_64::*;

use super::tiles::{COLUMNS, STRIP};
use crate::core::avx512_vbmi::BYTES;
use crate::core::avx512_vnni::{Format, GROUPS, Minima, SPAN, Span, Stored};
use crate::core::digits::Line;
use crate::weight::{BLOCK, Bf16, E4m3, Matrix};

/// Steps of 32 columns of a weight row of a strip.
pub(super) struct Part {
    /// The row.
    pub row: usize,
    /// The first step of the row, and how many.
    pub first: usize,
    pub steps: usize,
}

/// Where BF16 weights come from. With `ROUGH`, activations and weights may be rounded to BF16.
///
/// # Safety
/// `row` may be called on a processor with AVX-512 F, BW, DQ, VL, VBMI and BF16 only, from a
/// function compiled for it.
pub(super) unsafe trait Source {
    /// Pieces of a weight, and of an activation.
    const WEIGHTS: usize;
    const ACTIVATIONS: usize;
    /// Which piece of a weight meets which of an activation.
    const MEETINGS: &'static [(usize, usize)];
    /// Sums of 128 columns have a factor of their own.
    const SCALED: bool = false;

    /// Writes a row: a line for each step, [`STRIP`] lines apart, and pieces `part.steps` steps
    /// apart. Columns beyond the row are zeros.
    ///
    /// # Safety
    /// See the trait; all these lines can be written.
    unsafe fn row(w: &Matrix<'_>, part: &Part, to: *mut Line);
}

/// All of a float and a number of 8 bits.
const ALL: &[(usize, usize)] = &[(0, 0), (0, 1), (0, 2)];
/// Of two times two pieces all but the smallest product.
const MOST: &[(usize, usize)] = &[(0, 0), (0, 1), (1, 0)];
/// Of two rounded numbers.
const ONE: &[(usize, usize)] = &[(0, 0)];

/// BF16 weights as they are.
pub(super) struct Halves<const ROUGH: bool>;

/// How far ahead of its loads a row asks for weights: for the same columns of the next strip.
#[inline(always)]
fn ask(at: *const u8, w: &Matrix<'_>) {
    let next = at.wrapping_add(STRIP * w.row_bytes);
    // SAFETY: a hint; any address will do.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(next.cast()) };
}

// SAFETY: AVX-512 F and BW are used.
unsafe impl<const ROUGH: bool> Source for Halves<ROUGH> {
    const WEIGHTS: usize = 1;
    const ACTIVATIONS: usize = if ROUGH { 1 } else { 3 };
    const MEETINGS: &'static [(usize, usize)] = if ROUGH { ONE } else { ALL };

    #[inline(always)]
    unsafe fn row(w: &Matrix<'_>, part: &Part, to: *mut Line) {
        let first = part.first * COLUMNS;
        let from = w.row::<Bf16>(part.row)[2 * first..].as_ptr();
        // SAFETY: the trait's contract; masked halves are not read.
        unsafe {
            for step in 0..part.steps {
                let at = from.add(2 * COLUMNS * step);
                ask(at, w);
                let left = w.k - first - COLUMNS * step;
                let line = match left < COLUMNS {
                    true => _mm512_maskz_loadu_epi16((1 << left) - 1, at.cast()),
                    false => _mm512_loadu_si512(at.cast()),
                };
                _mm512_store_si512(to.add(STRIP * step).cast(), line);
            }
        }
    }
}

/// E4M3 weights: exact without their scales, or with them and rounded.
pub(super) struct Codes<const ROUGH: bool>;

/// Each of 32 bytes twice.
static TWICE: [u8; 64] = {
    let mut twice = [0; 64];
    let mut i = 0;
    while i < 64 {
        twice[i] = i as u8 / 2;
        i += 1;
    }
    twice
};

// SAFETY: AVX-512 F, BW, VL and VBMI are used.
unsafe impl<const ROUGH: bool> Source for Codes<ROUGH> {
    const WEIGHTS: usize = 1;
    const ACTIVATIONS: usize = if ROUGH { 1 } else { 3 };
    const MEETINGS: &'static [(usize, usize)] = if ROUGH { ONE } else { ALL };
    const SCALED: bool = !ROUGH;

    #[inline(always)]
    unsafe fn row(w: &Matrix<'_>, part: &Part, to: *mut Line) {
        let first = part.first * COLUMNS;
        let from = w.row::<E4m3>(part.row)[first..].as_ptr();
        // SAFETY: the trait's contract; masked codes are not read.
        unsafe {
            let load = |bytes: &[u8]| _mm512_loadu_si512(bytes.as_ptr().cast());
            let (low, high) = (BYTES[0].as_slice(), BYTES[1].as_slice());
            let low = [load(low), load(&low[64..])];
            let high = [load(high), load(&high[64..])];
            let twice = load(&TWICE);
            let sign = _mm512_set1_epi16(0x8000u16 as i16);
            for step in 0..part.steps {
                let at = from.add(COLUMNS * step);
                if step.is_multiple_of(2) {
                    ask(at, w);
                }
                let column = first + COLUMNS * step;
                let left = w.k - column;
                let codes = match left < COLUMNS {
                    true => _mm256_maskz_loadu_epi8((1 << left) - 1, at.cast()),
                    false => _mm256_loadu_si256(at.cast()),
                };
                let codes = _mm512_permutexvar_epi8(twice, _mm512_zextsi256_si512(codes));
                let lows = _mm512_permutex2var_epi8(low[0], codes, low[1]);
                let highs = _mm512_permutex2var_epi8(high[0], codes, high[1]);
                let halves = _mm512_mask_blend_epi8(0xAAAA_AAAA_AAAA_AAAA, lows, highs);
                // `halves | codes & sign`
                let halves = _mm512_ternarylogic_epi64::<0xF8>(halves, codes, sign);
                let line = match ROUGH {
                    true => times(halves, w.scale(part.row, column / BLOCK)),
                    false => halves,
                };
                _mm512_store_si512(to.add(STRIP * step).cast(), line);
            }
        }
    }
}

/// 32 BF16 numbers times `scale`, rounded to BF16.
///
/// # Safety
/// See [`Source`].
#[inline(always)]
unsafe fn times(halves: __m512i, scale: f32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = _mm512_set1_ps(scale);
        let upper = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
        let up = _mm512_set1_epi32(0x8000);
        let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves));
        let odd = _mm512_castsi512_ps(_mm512_and_si512(halves, upper));
        let [even, odd] = [even, odd]
            .map(|floats| _mm512_add_epi32(_mm512_castps_si512(_mm512_mul_ps(floats, scale)), up));
        _mm512_mask_blend_epi16(0xAAAA_AAAA, _mm512_srli_epi32::<16>(even), odd)
    }
}

/// Weights in a block format: two pieces, or rounded.
pub(super) struct Spans<F, const ROUGH: bool>(std::marker::PhantomData<F>);

// SAFETY: AVX-512 F, BW, DQ, VL and BF16 are used.
unsafe impl<F: Format, const ROUGH: bool> Source for Spans<F, ROUGH> {
    const WEIGHTS: usize = if ROUGH { 1 } else { 2 };
    const ACTIVATIONS: usize = if ROUGH { 1 } else { 2 };
    const MEETINGS: &'static [(usize, usize)] = if ROUGH { ONE } else { MOST };

    #[inline(always)]
    unsafe fn row(w: &Matrix<'_>, part: &Part, to: *mut Line) {
        const STEPS: usize = SPAN / COLUMNS;
        let stored = Stored::new(w);
        let mut room = Room::default();
        for step in (0..part.steps).step_by(STEPS) {
            // SAFETY: the trait's contract.
            unsafe {
                let index = (part.first + step) / STEPS;
                let span = stored.span::<F>(part.row, index, STRIP * w.row_bytes);
                room.take::<F>(span);
                for some in step..part.steps.min(step + STEPS) {
                    let to = to.add(STRIP * some);
                    let [low, high] = room.columns::<F>(some - step);
                    if ROUGH {
                        put(_mm512_cvtne2ps_pbh(high, low), to);
                    } else {
                        let (first, second) = two(low, high);
                        _mm512_store_si512(to.cast(), first);
                        put(second, to.add(STRIP * part.steps));
                    }
                }
            }
        }
    }
}

/// # Safety
/// See [`Source`]; a line can be written.
#[inline(always)]
unsafe fn put(halves: __m512bh, to: *mut Line) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<__m512bh>().write(halves) };
}

/// Two pieces of 32 floats, the first of which are their upper halves.
///
/// # Safety
/// See [`Source`].
#[inline(always)]
unsafe fn two(low: __m512, high: __m512) -> (__m512i, __m512bh) {
    // SAFETY: the caller's promise.
    unsafe {
        let odd = _mm512_loadu_si512(ODD.as_ptr().cast());
        let bits = [low, high].map(|floats| _mm512_castps_si512(floats));
        let first = _mm512_permutex2var_epi16(bits[0], odd, bits[1]);
        let upper = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
        let upper = bits.map(|bits| _mm512_castsi512_ps(_mm512_and_si512(bits, upper)));
        let rest = [_mm512_sub_ps(low, upper[0]), _mm512_sub_ps(high, upper[1])];
        (first, _mm512_cvtne2ps_pbh(rest[1], rest[0]))
    }
}

/// The upper halves of two registers of floats.
static ODD: [u16; 32] = {
    let mut odd = [0; 32];
    let mut i = 0;
    while i < 32 {
        odd[i] = 2 * i as u16 + 1;
        i += 1;
    }
    odd
};

/// A span whose codes, factors and what is added to products can be read one by one.
#[derive(Default)]
#[repr(align(64))]
struct Room {
    codes: [[u8; 16]; GROUPS],
    factors: [f32; 16],
    added: [f32; 16],
}

impl Room {
    /// # Safety
    /// See [`Source`].
    #[inline(always)]
    unsafe fn take<F: Format>(&mut self, span: Span) {
        // SAFETY: the caller's promise; these are registers' lengths.
        unsafe {
            for (i, codes) in span.codes.into_iter().enumerate() {
                _mm512_storeu_si512(self.codes[4 * i..].as_mut_ptr().cast(), codes);
            }
            let added = match F::MINIMA {
                Minima::Offset => _mm512_mul_ps(span.factors, _mm512_set1_ps(-(F::OFFSET as f32))),
                Minima::Sixteens => _mm512_sub_ps(_mm512_setzero_ps(), span.minima),
                Minima::Odd => _mm512_sub_ps(_mm512_setzero_ps(), span.factors),
                Minima::OddAdded => span.factors,
            };
            _mm512_storeu_ps(self.factors.as_mut_ptr(), span.factors);
            _mm512_storeu_ps(self.added.as_mut_ptr(), added);
        }
    }

    /// The weights of 32 columns.
    ///
    /// # Safety
    /// See [`Source`].
    #[inline(always)]
    unsafe fn columns<F: Format>(&self, step: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut floats = [_mm512_setzero_ps(); 2];
            for (i, floats) in floats.iter_mut().enumerate() {
                let group = 2 * step + i;
                let codes = &self.codes[F::PLACES[group]];
                let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                let lane = F::LANES[group];
                let between = matches!(F::MINIMA, Minima::Odd | Minima::OddAdded);
                let added = _mm512_set1_ps(self.added[lane + usize::from(between)]);
                let factor = _mm512_set1_ps(self.factors[lane]);
                *floats = _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), factor, added);
            }
            floats
        }
    }
}

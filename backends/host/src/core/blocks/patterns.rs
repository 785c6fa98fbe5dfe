//! Formats whose codes choose patterns.

use hadal_blocks::grids;
use hadal_device::DType;

use super::codes::Codes;
use super::format::*;
use super::super_blocks::spread_nibbles;

/// `iq2_xxs`.
pub(super) struct Iq2Xxs;
/// `iq2_xs`.
pub(super) struct Iq2Xs;
/// `iq2_s`.
pub(super) struct Iq2S;
/// `iq3_xxs`.
pub(super) struct Iq3Xxs;
/// `iq3_s`.
pub(super) struct Iq3S;
/// `iq1_s`.
pub(super) struct Iq1S;
/// `iq1_m`.
pub(super) struct Iq1M;

/// What patterns of eight codes of two bits stand for, a byte each.
const fn eights<const N: usize>(patterns: &[u16; N], values: [i8; 4]) -> [u64; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < 8 * N {
        let code = patterns[i / 8] >> (2 * (i % 8)) & 3;
        words[i / 8] |= (values[code as usize] as u8 as u64) << (8 * (i % 8));
        i += 1;
    }
    words
}

/// What patterns of four codes of four bits stand for, a byte each: `4 + 8 * code`, of which the
/// last is two more, or `1 + 2 * code`.
const fn fours<const N: usize>(patterns: &[u16; N], xxs: bool) -> [u32; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < 4 * N {
        let code = (patterns[i / 4] >> (4 * (i % 4)) & 15) as u32;
        let value = match xxs {
            true => 4 + 8 * code + 2 * (code == 7) as u32,
            false => 1 + 2 * code,
        };
        words[i / 4] |= value << (8 * (i % 4));
        i += 1;
    }
    words
}

static IQ2XXS: [u64; 256] = eights(&grids::IQ2XXS, [8, 25, 43, 0]);
static IQ2XS: [u64; 512] = eights(&grids::IQ2XS, [8, 25, 43, 0]);
static IQ2S: [u64; 1024] = eights(&grids::IQ2S, [8, 25, 43, 0]);
static IQ3XXS: [u32; 256] = fours(&grids::IQ3XXS, true);
static IQ3S: [u32; 512] = fours(&grids::IQ3S, false);
/// In eighths, which are moved up or down by one.
static IQ1S: [u64; 2048] = eights(&grids::IQ1S, [-8, 0, 8, 0]);

/// Signs of seven bits: the eighth makes their number even.
static SIGNS: [u8; 128] = signs();

const fn signs() -> [u8; 128] {
    let mut signs = [0; 128];
    let mut seven = 0u8;
    while seven < 128 {
        signs[seven as usize] = seven | (seven.count_ones() as u8 & 1) << 7;
        seven += 1;
    }
    signs
}

/// Eight signs of the lowest seven bits.
#[inline(always)]
pub(in crate::core) fn sign(seven: u32) -> u32 {
    u32::from(SIGNS[(seven & 127) as usize])
}

/// 32 signs of four times seven bits.
#[inline(always)]
fn four_signs(sevens: u32) -> u32 {
    let at = |j: u32| sign(sevens >> (7 * j)) << (8 * j);
    at(0) | at(1) | at(2) | at(3)
}

/// Two patterns of four.
#[inline(always)]
fn both(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The members of [`Format`] that formats of patterns have in common.
macro_rules! patterns {
    ($format:ident, $wide:literal) => {
        const TYPE: DType = DType::$format;
        const SIGNED: bool = true;
        const WIDE: bool = $wide;
        const ADDED: Added = Added::Nothing;
    };
}

/// Scales in the top four bits of eight times four bytes, `step` apart.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn top_fours(at: *const u8, step: usize) -> u64 {
    // SAFETY: the caller's promise.
    let top: [u8; 8] = std::array::from_fn(|b| unsafe { *at.add(3 + step * b) >> 4 });
    u64::from_le_bytes(top)
}

/// `scale * (0.5 + nibble) / 4` of the sixteen nibbles at `nibbles`.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn quarters<C: Codes>(scale: *const u8, nibbles: *const u8, to: &mut Scales) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = C::half(scale);
        for half in 0..2 {
            let bytes = spread_nibbles(four(nibbles.add(4 * half)));
            let to = &mut to.factors[8 * half..];
            scaled::<C>(bytes, 0.25 * scale, 0.125 * scale, to);
        }
    }
}

// SAFETY: 66 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq2Xxs {
    patterns!(Iq2Xxs, true);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let at = at.add(2 + 8 * part);
            let indices: [u8; 4] = bytes(at);
            let codes = C::words(indices.map(|index| IQ2XXS[usize::from(index)]));
            codes.negated(C::masks(four_signs(four(at.add(4)))))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let (fours, scale) = (top_fours(at.add(6), 8), C::half(at));
            scaled::<C>(fours, 0.25 * scale, 0.125 * scale, &mut to.factors);
        }
    }
}

// SAFETY: 74 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq2Xs {
    patterns!(Iq2Xs, false);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let code = |j: usize| two(at.add(2 + 8 * part + 2 * j));
            let four = [code(0), code(1), code(2), code(3)];
            let codes = C::words(four.map(|code| IQ2XS[(code & 511) as usize]));
            let signs = four.map(|code| sign(code >> 9) as u8);
            codes.negated(C::masks(u32::from_le_bytes(signs)))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe { quarters::<C>(at, at.add(66), to) }
    }
}

// SAFETY: 82 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq2S {
    patterns!(Iq2S, false);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let high = u32::from(*at.add(66 + part));
            let word = |j: usize| {
                let low = u32::from(*at.add(2 + 4 * part + j));
                IQ2S[(low | (high >> (2 * j) & 3) << 8) as usize]
            };
            let codes = C::words([word(0), word(1), word(2), word(3)]);
            codes.negated(C::masks(four(at.add(34 + 4 * part))))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe { quarters::<C>(at, at.add(74), to) }
    }
}

// SAFETY: 98 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq3Xxs {
    patterns!(Iq3Xxs, true);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let word = |i: usize| IQ3XXS[usize::from(*at.add(2 + 8 * part + i))];
            let codes = C::words([
                both(word(0), word(1)),
                both(word(2), word(3)),
                both(word(4), word(5)),
                both(word(6), word(7)),
            ]);
            codes.negated(C::masks(four_signs(four(at.add(66 + 4 * part)))))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let (fours, scale) = (top_fours(at.add(66), 4), C::half(at));
            scaled::<C>(fours, 0.5 * scale, 0.25 * scale, &mut to.factors);
        }
    }
}

// SAFETY: 110 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq3S {
    patterns!(Iq3S, true);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let high = u32::from(*at.add(66 + part));
            let word = |i: usize| {
                let low = u32::from(*at.add(2 + 8 * part + i));
                IQ3S[(low | (high >> i & 1) << 8) as usize]
            };
            let codes = C::words([
                both(word(0), word(1)),
                both(word(2), word(3)),
                both(word(4), word(5)),
                both(word(6), word(7)),
            ]);
            codes.negated(C::masks(four(at.add(74 + 4 * part))))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let (fours, scale) = (spread_nibbles(four(at.add(106))), C::half(at));
            scaled::<C>(fours, 2.0 * scale, scale, &mut to.factors);
        }
    }
}

// SAFETY: 50 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq1S {
    patterns!(Iq1S, true);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let high = two(at.add(34 + 2 * part));
            let word = |j: usize| {
                let low = u32::from(*at.add(2 + 4 * part + j));
                IQ1S[(low | (high >> (3 * j) & 7) << 8) as usize]
            };
            // One up, or down.
            let one = if high & 0x8000 == 0 { 1 } else { 255 };
            C::words([word(0), word(1), word(2), word(3)]).add(C::all(one))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let three = |b: usize| (two(at.add(34 + 2 * b)) >> 12 & 7) as u8;
            let (threes, scale) = (std::array::from_fn(three), C::half(at));
            let threes = u64::from_le_bytes(threes);
            scaled::<C>(threes, 0.25 * scale, 0.125 * scale, &mut to.factors);
        }
    }
}

// SAFETY: 56 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq1M {
    patterns!(Iq1M, false);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let high = two(at.add(32 + 2 * part));
            let word = |j: usize| {
                let (low, high) = (u32::from(*at.add(4 * part + j)), high >> (4 * j));
                IQ1S[(low | (high & 7) << 8) as usize]
            };
            let one = |j: usize| match high >> (4 * j) & 8 {
                0 => 0x0101_0101_0101_0101,
                _ => u64::MAX,
            };
            let codes = C::words([word(0), word(1), word(2), word(3)]);
            codes.add(C::words([one(0), one(1), one(2), one(3)]))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let words: [u32; 4] = std::array::from_fn(|i| two(at.add(48 + 2 * i)));
            // The scale of all lies in the top four bits of the words.
            let bits = words
                .iter()
                .rev()
                .fold(0, |bits, word| bits << 4 | word >> 12);
            let scale = C::half((bits as u16).to_le_bytes().as_ptr());
            for half in 0..2 {
                let three = |i: usize| (words[2 * half + i / 4] >> (3 * (i % 4)) & 7) as u8;
                let threes = u64::from_le_bytes(std::array::from_fn(three));
                let to = &mut to.factors[8 * half..];
                scaled::<C>(threes, 0.25 * scale, 0.125 * scale, to);
            }
        }
    }
}

//! Formats with blocks of 256 whose codes are bits side by side.

use hadal_blocks::LEVELS;
use hadal_device::DType;

use super::codes::Codes;
use super::format::*;

/// `q2_k`.
pub(super) struct Q2K;
/// `q3_k`.
pub(super) struct Q3K;
/// `q4_k`, and `q5_k` with 32 bytes of fifth bits.
pub(super) struct Q45K<const FIFTHS: usize>;
/// `q6_k`.
pub(super) struct Q6K;
/// `iq4_xs`.
pub(super) struct Iq4Xs;
/// `tq1_0`.
pub(super) struct Tq1_0;
/// `tq2_0`.
pub(super) struct Tq2_0;

/// The low four bits of each byte.
const NIBBLES: u64 = 0x0F0F_0F0F_0F0F_0F0F;
/// The low two bits of each byte.
const PAIRS: u64 = 0x0303_0303_0303_0303;

/// Part `part` of 64 bytes with four pairs of bits each.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn pairs<C: Codes>(at: *const u8, part: usize) -> C {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = C::load(at.add(32 * (part / 4)));
        bytes.moved(2 * (part % 4) as i32).and(C::all(3))
    }
}

// SAFETY: 84 bytes are read, with methods of `Codes`.
unsafe impl Format for Q2K {
    const TYPE: DType = DType::Q2K;
    const SIGNED: bool = false;
    const WIDE: bool = false;
    const ADDED: Added = Added::Number;

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe { pairs(at.add(16), part) }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let (scale, minimum) = (C::half(at.add(80)), C::half(at.add(82)));
            for half in 0..2 {
                let both = eight(at.add(8 * half));
                scaled::<C>(both & NIBBLES, scale, 0.0, &mut to.factors[8 * half..]);
                scaled::<C>(
                    both >> 4 & NIBBLES,
                    -minimum,
                    0.0,
                    &mut to.added[8 * half..],
                );
            }
        }
    }
}

// SAFETY: 110 bytes are read, with methods of `Codes`.
unsafe impl Format for Q3K {
    const TYPE: DType = DType::Q3K;
    const SIGNED: bool = false;
    const WIDE: bool = false;
    const ADDED: Added = Added::Factor(-4.0);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let third = C::load(at).moved(part as i32 - 2).and(C::all(4));
            pairs::<C>(at.add(32), part).or(third)
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let scale = C::half(at.add(108));
            let (low, high) = (eight(at.add(96)), u64::from(four(at.add(104))));
            for half in 0..2 {
                // Pairs of bits of four bytes, then the next ones.
                let high = high >> (4 * half);
                let two = (high & 0x0303_0303 | (high >> 2 & 0x0303_0303) << 32) << 4;
                let six = low >> (4 * half) & NIBBLES | two;
                scaled::<C>(six, scale, -32.0 * scale, &mut to.factors[8 * half..]);
            }
        }
    }
}

// SAFETY: 144 bytes are read, or 176 with fifth bits, with methods of `Codes`.
unsafe impl<const FIFTHS: usize> Format for Q45K<FIFTHS> {
    const TYPE: DType = if FIFTHS == 0 { DType::Q4K } else { DType::Q5K };
    const SIGNED: bool = false;
    const WIDE: bool = true;
    const ADDED: Added = Added::Number;

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let bytes = C::load(at.add(16 + FIFTHS + 32 * (part / 2)));
            let codes = bytes.moved(4 * (part % 2) as i32).and(C::all(15));
            match FIFTHS {
                0 => codes,
                _ => codes.or(C::load(at.add(16)).moved(part as i32 - 4).and(C::all(16))),
            }
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let (a, b, c) = (four(at.add(4)), four(at.add(8)), four(at.add(12)));
            let (six, low, two) = (0x3F3F_3F3F, NIBBLES as u32, PAIRS as u32);
            let both = |a: u32, b: u32| u64::from(a) | u64::from(b) << 32;
            let scales = both(a & six, c & low | (a >> 6 & two) << 4);
            let minima = both(b & six, c >> 4 & low | (b >> 6 & two) << 4);
            scaled::<C>(scales, C::half(at), 0.0, &mut to.factors);
            scaled::<C>(minima, -C::half(at.add(2)), 0.0, &mut to.added);
        }
    }
}

// SAFETY: 210 bytes are read, with methods of `Codes`.
unsafe impl Format for Q6K {
    const TYPE: DType = DType::Q6K;
    const SIGNED: bool = false;
    const WIDE: bool = false;
    const ADDED: Added = Added::Factor(-32.0);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe {
            let (half, part) = (part / 4, part % 4);
            let four = C::load(at.add(64 * half + 32 * (part % 2)));
            let two = C::load(at.add(128 + 32 * half));
            let four = four.moved(4 * (part / 2) as i32).and(C::all(15));
            four.or(two.moved(2 * part as i32 - 4).and(C::all(48)))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let scale = C::half(at.add(208));
            for half in 0..2 {
                // Signed bytes, and 128.
                let bytes = eight(at.add(192 + 8 * half)) ^ 0x8080_8080_8080_8080;
                scaled::<C>(bytes, scale, -128.0 * scale, &mut to.factors[8 * half..]);
            }
        }
    }
}

// SAFETY: 136 bytes are read, with methods of `Codes`.
unsafe impl Format for Iq4Xs {
    const TYPE: DType = DType::Iq4Xs;
    const SIGNED: bool = true;
    const WIDE: bool = true;
    const ADDED: Added = Added::Nothing;

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe { C::nibbles(at.add(8 + 16 * part)).of(&LEVELS) }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        unsafe {
            let (high, low) = (two(at.add(2)), four(at.add(4)));
            let scale = C::half(at);
            let six = spread_nibbles(low) | spread_pairs(high) << 4;
            scaled::<C>(six, scale, -32.0 * scale, &mut to.factors);
        }
    }
}

/// The nibbles of four bytes as bytes, the lowest first.
#[inline(always)]
pub(super) fn spread_nibbles(nibbles: u32) -> u64 {
    let all = u64::from(nibbles);
    let all = (all | all << 16) & 0x0000_FFFF_0000_FFFF;
    let all = (all | all << 8) & 0x00FF_00FF_00FF_00FF;
    (all | all << 4) & NIBBLES
}

/// Pairs of bits of two bytes as bytes, the lowest first.
#[inline(always)]
fn spread_pairs(pairs: u32) -> u64 {
    let all = u64::from(pairs);
    let all = (all | all << 24) & 0x0000_00FF_0000_00FF;
    let all = (all | all << 12) & 0x000F_000F_000F_000F;
    (all | all << 6) & PAIRS
}

// SAFETY: 66 bytes are read, with methods of `Codes`.
unsafe impl Format for Tq2_0 {
    const TYPE: DType = DType::Tq2_0;
    const SIGNED: bool = false;
    const WIDE: bool = true;
    const ADDED: Added = Added::Factor(-1.0);

    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        // SAFETY: the trait's contract.
        unsafe { pairs(at, part) }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        to.factors[..8].fill(unsafe { C::half(at.add(64)) });
    }
}

// SAFETY: 54 bytes are read, with methods of `Codes`.
unsafe impl Format for Tq1_0 {
    const TYPE: DType = DType::Tq1_0;
    const SIGNED: bool = false;
    const WIDE: bool = true;
    const ADDED: Added = Added::Factor(-1.0);

    /// A byte counts in units of 3^-5 of 256; times a power of three, its next digit is on top.
    #[inline(always)]
    unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        // SAFETY: the trait's contract.
        unsafe {
            let mut moved = C::load(at);
            if part < 5 {
                for _ in 0..part {
                    moved = moved.add(moved).add(moved);
                }
            } else {
                let bytes: [u8; 32] = std::array::from_fn(|i| {
                    let (from, power) = match (part, i / 16) {
                        (7, 1) => (48 + i % 4, i % 16 / 4),
                        (_, half) => (32 + i % 16, 2 * part - 10 + half),
                    };
                    (*at.add(from)).wrapping_mul(POWERS[power])
                });
                moved = C::load(bytes.as_ptr());
            }
            // The digit is three times the byte, divided by 256; a mask is one less than zero.
            let less = moved.at_least(86).add(moved.at_least(171));
            less.negated(C::all(255))
        }
    }
    #[inline(always)]
    unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
        // SAFETY: the trait's contract.
        to.factors[..8].fill(unsafe { C::half(at.add(52)) });
    }
}

//! Formats with blocks of 32: eight blocks are a span.

use hadal_blocks::LEVELS;
use hadal_device::DType;

use super::codes::Codes;
use super::format::*;

/// `q8_0`.
pub(super) struct Q8_0;
/// `q4_0`.
pub(super) struct Q4_0;
/// `q4_1`.
pub(super) struct Q4_1;
/// `q5_0`.
pub(super) struct Q5_0;
/// `q5_1`.
pub(super) struct Q5_1;
/// `iq4_nl`.
pub(super) struct Iq4Nl;

/// Factors at the beginning of eight blocks of `step` bytes, and what is added beside them.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn eight_blocks<C: Codes>(at: *const u8, step: usize, added: Added, to: &mut Scales) {
    // SAFETY: the caller's promise.
    unsafe {
        C::store_eight(C::halves(at, step), to.factors.as_mut_ptr());
        if added == Added::Number {
            C::store_eight(C::halves(at.add(2), step), to.added.as_mut_ptr());
        }
    }
}

/// Nibbles at `at + 4` with fifth bits from the four bytes before.
///
/// # Safety
/// See [`Format`].
#[inline(always)]
unsafe fn fives<C: Codes>(at: *const u8) -> C {
    // SAFETY: the caller's promise.
    unsafe { C::nibbles(at.add(4)).or(C::masks(four(at)).and(C::all(16))) }
}

/// A format of blocks of `$bytes` bytes: whether codes have a sign, what is added, and the codes
/// of the block at `$at`.
macro_rules! blocks_of_32 {
    ($format:ident, $bytes:literal, $signed:literal, $added:expr, |$at:ident| $codes:expr) => {
        // SAFETY: eight blocks are read, with methods of `Codes`.
        unsafe impl Format for $format {
            const TYPE: DType = DType::$format;
            const SIGNED: bool = $signed;
            const WIDE: bool = true;
            const ADDED: Added = $added;

            #[inline(always)]
            unsafe fn codes<C: Codes>(at: *const u8, part: usize) -> C {
                // SAFETY: the trait's contract.
                unsafe {
                    let $at = at.add($bytes * part);
                    $codes
                }
            }
            #[inline(always)]
            unsafe fn scales<C: Codes>(at: *const u8, to: &mut Scales) {
                // SAFETY: the trait's contract.
                unsafe { eight_blocks::<C>(at, $bytes, $added, to) }
            }
        }
    };
}

blocks_of_32!(Q8_0, 34, true, Added::Nothing, |at| C::load(at.add(2)));
blocks_of_32!(Q4_0, 18, false, Added::Factor(-8.0), |at| {
    C::nibbles(at.add(2))
});
blocks_of_32!(Q4_1, 20, false, Added::Number, |at| C::nibbles(at.add(4)));
blocks_of_32!(Q5_0, 22, false, Added::Factor(-16.0), |at| {
    fives(at.add(2))
});
blocks_of_32!(Q5_1, 24, false, Added::Number, |at| fives(at.add(4)));
blocks_of_32!(Iq4Nl, 18, true, Added::Nothing, |at| {
    C::nibbles(at.add(2)).of(&LEVELS)
});

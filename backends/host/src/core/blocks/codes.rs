//! A register of codes: what products with block formats need of an instruction set.

use super::format::Format;
use super::record::Record;
use crate::weight::{Matrix, Rows};

/// 32 codes of 8 bits.
///
/// # Safety
/// Every method may be called only on a processor with the instruction set of the
/// implementation, all but the compiled ones from a function compiled for it (through
/// `inline(always)` all the way). Pointers are valid for what is read, at any alignment.
pub(crate) unsafe trait Codes: Copy + 'static {
    /// Eight floats.
    type Eight: Copy;
    /// The codes as 16 bits: the even ones, then the odd ones.
    type Wide: Copy;

    /// 32 bytes.
    unsafe fn load(at: *const u8) -> Self;
    /// Four times eight bytes.
    unsafe fn words(words: [u64; 4]) -> Self;
    /// One byte 32 times.
    unsafe fn all(byte: u8) -> Self;
    /// The low nibbles of sixteen bytes, then the high ones.
    unsafe fn nibbles(at: *const u8) -> Self;
    /// All bits of byte `i` where bit `i` is set, none elsewhere.
    unsafe fn masks(bits: u32) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    /// Sums of eight bits.
    unsafe fn add(self, other: Self) -> Self;
    /// Bits moved down by `by`, or up if that is less than zero. What comes in is anything: bits
    /// of the byte beside it, or nothing.
    unsafe fn moved(self, by: i32) -> Self;
    /// All bits where a byte, without sign, is `least` or more, none elsewhere.
    unsafe fn at_least(self, least: u8) -> Self;
    /// The codes less than zero where `masks` says so.
    unsafe fn negated(self, masks: Self) -> Self;
    /// What codes below sixteen stand for.
    unsafe fn of(self, table: &[i8; 16]) -> Self;

    /// The codes, which have a sign or not.
    unsafe fn wide(self, signed: bool) -> Self::Wide;
    /// Products with 32 numbers at `x`, which lie as [`Codes::Wide`] does: sums of four in each
    /// lane, those of the first sixteen codes in the first four lanes.
    unsafe fn products(wide: Self::Wide, x: *const i16) -> Self::Eight;
    /// The codes as they come.
    unsafe fn floats(self, signed: bool) -> [Self::Eight; 4];

    /// One number eight times.
    unsafe fn splat(value: f32) -> Self::Eight;
    /// The number at `at` four times, then the next one.
    unsafe fn two(at: *const f32) -> Self::Eight;
    unsafe fn load_eight(at: *const f32) -> Self::Eight;
    unsafe fn store_eight(eight: Self::Eight, to: *mut f32);
    /// `sum + a * b`, rounded once.
    unsafe fn fma(sum: Self::Eight, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// The sum of all lanes.
    unsafe fn sum(eight: Self::Eight) -> f32;
    /// Eight bytes without sign as floats, the lowest first.
    unsafe fn of_bytes(bytes: u64) -> Self::Eight;
    /// Half floats `step` bytes apart.
    unsafe fn halves(at: *const u8, step: usize) -> Self::Eight;
    /// One half float.
    unsafe fn half(at: *const u8) -> f32;
    /// Asks for the cache line at `at`, which need not be valid.
    unsafe fn prefetch(at: *const u8);

    /// `record::split`, compiled for the instruction set.
    unsafe fn split(x: Rows<'_>, to: &mut [Record]);
    /// `few::dots`, compiled for it.
    unsafe fn few<F: Format>(records: &[Record], count: usize, w: &Matrix<'_>, out: &mut [f32]);
    /// `many::decode`, compiled for it.
    unsafe fn decode<F: Format>(stored: &[u8], ahead: usize, to: &mut [f32]);
}

/// The members of [`Codes`] that are compiled for an instruction set.
macro_rules! compiled {
    ($codes:ty, $features:literal) => {
        unsafe fn split(
            x: crate::weight::Rows<'_>,
            to: &mut [crate::core::blocks::record::Record],
        ) {
            #[target_feature(enable = $features)]
            fn inner(x: crate::weight::Rows<'_>, to: &mut [crate::core::blocks::record::Record]) {
                crate::core::blocks::record::split(x, to);
            }
            // SAFETY: the caller's promise.
            unsafe { inner(x, to) }
        }

        unsafe fn few<F: crate::core::blocks::format::Format>(
            records: &[crate::core::blocks::record::Record],
            count: usize,
            w: &crate::weight::Matrix<'_>,
            out: &mut [f32],
        ) {
            #[target_feature(enable = $features)]
            fn inner<F: crate::core::blocks::format::Format>(
                records: &[crate::core::blocks::record::Record],
                count: usize,
                w: &crate::weight::Matrix<'_>,
                out: &mut [f32],
            ) {
                // SAFETY: compiled for the instruction set.
                unsafe { crate::core::blocks::few::dots::<$codes, F>(records, count, w, out) }
            }
            // SAFETY: the caller's promise.
            unsafe { inner::<F>(records, count, w, out) }
        }

        unsafe fn decode<F: crate::core::blocks::format::Format>(
            stored: &[u8],
            ahead: usize,
            to: &mut [f32],
        ) {
            #[target_feature(enable = $features)]
            fn inner<F: crate::core::blocks::format::Format>(
                stored: &[u8],
                ahead: usize,
                to: &mut [f32],
            ) {
                // SAFETY: compiled for the instruction set.
                unsafe { crate::core::blocks::many::decode::<$codes, F>(stored, ahead, to) }
            }
            // SAFETY: the caller's promise.
            unsafe { inner::<F>(stored, ahead, to) }
        }
    };
}
pub(super) use compiled;
